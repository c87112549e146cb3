-- Creates the database in which Prefect keeps its runs. It runs once, when the server's data folder is new.
CREATE DATABASE prefect;
\connect prefect
CREATE EXTENSION IF NOT EXISTS pg_trgm;
