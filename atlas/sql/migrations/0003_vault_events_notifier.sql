-- What waits for the vault, the commits it was granted, the event log, and the alerts that were sent.

CREATE TABLE vault_refused (
    name        text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 512),
    -- zlib; null where the object is to be deleted.
    body        bytea,
    attempts    integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    last_error  text NOT NULL,
    refused_at  timestamptz NOT NULL,
    -- When it may be tried; while leased, when the lease ends. By the server's clock.
    retry_at    timestamptz NOT NULL,
    lease_owner text,
    lease_token uuid,
    CHECK ((lease_owner IS NULL) = (lease_token IS NULL))
);
ALTER TABLE vault_refused ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX vault_refused_due ON vault_refused (retry_at);

-- One row a repository, holding the instants of the last hour's commits, at most as many as are allowed.
CREATE TABLE vault_commits (
    repository text PRIMARY KEY,
    granted    timestamptz[] NOT NULL
);

CREATE TABLE events (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL,
    kind    text NOT NULL CHECK (length(kind) <= 100 AND kind ~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$'),
    agent   text,
    node    text NOT NULL,
    session text,
    payload jsonb NOT NULL CHECK (jsonb_typeof(payload) = 'object')
);
CREATE INDEX events_by_kind ON events (kind, id);

CREATE FUNCTION refuse_to_rewrite_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events are append-only' USING ERRCODE = 'integrity_constraint_violation';
END
$$;
CREATE TRIGGER events_are_append_only BEFORE UPDATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite_events();

CREATE TABLE alerts (
    key         text PRIMARY KEY,
    title       text NOT NULL,
    -- Until when the key stays silent, by the server's clock.
    quiet_until timestamptz NOT NULL,
    claim       uuid NOT NULL,
    -- How often it was held back since it last went out, and before that.
    suppressed  integer NOT NULL DEFAULT 0,
    held_back   integer NOT NULL DEFAULT 0
);
