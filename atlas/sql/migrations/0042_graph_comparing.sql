-- A rebuild of the graph compares everything at once, and finds by itself what a killed one has left to do.

ALTER TABLE graph_state DROP COLUMN kind, DROP COLUMN key;
