-- How often in a row a topic's request was refused without being charged for it, as others were refused alike. Each time
-- its pause grows, and beside others that fare well it is charged in the end: such a topic must not spend quota for ever.
ALTER TABLE search_queue ADD COLUMN refusals tally NOT NULL DEFAULT 0;
