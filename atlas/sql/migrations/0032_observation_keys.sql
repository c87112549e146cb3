-- Observations that are sent again, as their answer was lost, are told by a key from the first time.

ALTER TABLE observations ADD COLUMN key bytea CHECK (octet_length(key) = 16);

COMMENT ON COLUMN observations.key IS
    'A hash of who sent it and under which idempotency key, if any; it is known for as long as the row is kept';

CREATE UNIQUE INDEX observations_by_key ON observations (key) WHERE key IS NOT NULL;
