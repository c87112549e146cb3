-- How often in its current run a topic's search was begun anew because YouTube refused the token of the next page. A run
-- whose later pages are always refused has to end, or its first ones would be asked for again for ever.
ALTER TABLE search_queue ADD COLUMN restarts tally NOT NULL DEFAULT 0;
