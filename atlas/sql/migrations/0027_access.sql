-- Keys of the HTTP service, and how much of its rate each has used.

CREATE TABLE access_keys (
    id                  text COLLATE "C" PRIMARY KEY CHECK (id ~ '^[0-9a-f]{12}$'),
    name                text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    digest              bytea NOT NULL CHECK (length(digest) = 32),
    scope               text NOT NULL CHECK (scope IN ('read', 'write', 'admin')),
    requests_per_minute integer CHECK (requests_per_minute > 0),
    created_at          timestamptz NOT NULL,
    last_used_on        date,
    revoked_at          timestamptz
);

COMMENT ON COLUMN access_keys.digest IS 'SHA-256 of the secret part, which has 256 random bits and is stored nowhere';
COMMENT ON COLUMN access_keys.requests_per_minute IS 'NULL: as the settings say';

CREATE UNIQUE INDEX access_keys_by_name ON access_keys (name) WHERE revoked_at IS NULL;

-- Who calls, and how often in this minute and the one before: a sliding window. Losing it in a crash lets nobody in.
CREATE UNLOGGED TABLE request_rates (
    caller      text COLLATE "C" PRIMARY KEY CHECK (length(caller) BETWEEN 1 AND 100),
    minute      bigint NOT NULL,
    used        integer NOT NULL CHECK (used >= 0),
    used_before integer NOT NULL CHECK (used_before >= 0),
    granted     integer NOT NULL CHECK (granted >= 0)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

COMMENT ON COLUMN request_rates.minute IS 'Minutes since 1970, by the database''s clock';
COMMENT ON COLUMN request_rates.granted IS 'How many requests were granted last';

-- Processes that know keys hear at once when one is added or revoked.
CREATE FUNCTION tell_of_access_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('access_keys', '');
    RETURN NULL;
END $$;

CREATE TRIGGER tell_of_access_keys AFTER INSERT OR DELETE OR UPDATE OF revoked_at ON access_keys
FOR EACH STATEMENT EXECUTE FUNCTION tell_of_access_keys();
