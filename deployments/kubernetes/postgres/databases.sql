-- Runs once, when the server's data folder is new: Prefect keeps its runs beside Pleiades, in a database of its own.
CREATE DATABASE prefect;
\connect prefect
CREATE EXTENSION IF NOT EXISTS pg_trgm;
