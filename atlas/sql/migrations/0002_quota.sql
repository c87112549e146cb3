-- The quota ledger, and what is known of each API key.

CREATE TABLE quota_ledger (
    project             text    NOT NULL CHECK (char_length(project) BETWEEN 1 AND 100),
    bucket              text    NOT NULL CHECK (bucket IN ('search', 'stats', 'general')),
    pacific_day         date    NOT NULL,
    hunting_used        integer NOT NULL DEFAULT 0 CHECK (hunting_used >= 0),
    hunting_reserved    integer NOT NULL DEFAULT 0 CHECK (hunting_reserved >= 0),
    tracking_used       integer NOT NULL DEFAULT 0 CHECK (tracking_used >= 0),
    tracking_reserved   integer NOT NULL DEFAULT 0 CHECK (tracking_reserved >= 0),
    archeology_used     integer NOT NULL DEFAULT 0 CHECK (archeology_used >= 0),
    archeology_reserved integer NOT NULL DEFAULT 0 CHECK (archeology_reserved >= 0),
    used     integer NOT NULL GENERATED ALWAYS AS (hunting_used + tracking_used + archeology_used) STORED,
    reserved integer NOT NULL GENERATED ALWAYS AS (hunting_reserved + tracking_reserved + archeology_reserved) STORED,
    closed_until        timestamptz,
    reason              text CHECK (char_length(reason) BETWEEN 1 AND 500),
    cool_down_s         double precision NOT NULL DEFAULT 0 CHECK (cool_down_s >= 0),
    PRIMARY KEY (project, bucket, pacific_day),
    CHECK ((closed_until IS NULL) = (reason IS NULL))
) WITH (fillfactor = 50);

COMMENT ON TABLE quota_ledger IS
    'What each ring spent of a project''s bucket on a Pacific day. Reserved before a call, used once it was sent.';
COMMENT ON COLUMN quota_ledger.reserved IS
    'Units of calls under way, and of processes that died during one: the API may have counted those.';
COMMENT ON COLUMN quota_ledger.closed_until IS 'No ring calls before this instant of the agents'' clock.';
COMMENT ON COLUMN quota_ledger.cool_down_s IS 'Length of the last cool-down: one that did not help is doubled.';

CREATE TABLE api_keys (
    fingerprint text    PRIMARY KEY CHECK (char_length(fingerprint) BETWEEN 1 AND 100),
    project     text    NOT NULL CHECK (char_length(project) BETWEEN 1 AND 100),
    state       text    NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'open', 'half-open', 'disabled')),
    reason      text    CHECK (char_length(reason) BETWEEN 1 AND 500),
    failures    integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    openings    integer NOT NULL DEFAULT 0 CHECK (openings >= 0),
    retry_at    timestamptz,
    probe_until timestamptz,
    calls       integer NOT NULL DEFAULT 0 CHECK (calls >= 0),
    calls_day   date,
    CHECK (state = 'active' OR reason IS NOT NULL),
    CHECK ((state IN ('open', 'half-open')) = (retry_at IS NOT NULL)),
    CHECK ((state = 'half-open') = (probe_until IS NOT NULL))
) WITH (fillfactor = 50);

COMMENT ON TABLE api_keys IS 'Keys by fingerprint, never by value: a circuit breaker that all processes share.';
COMMENT ON COLUMN api_keys.failures IS 'Calls that failed in a row.';
COMMENT ON COLUMN api_keys.openings IS 'How often in a row the circuit opened: each time it rests twice as long.';
COMMENT ON COLUMN api_keys.retry_at IS 'When an open circuit admits a probe, by the agents'' clock.';
COMMENT ON COLUMN api_keys.probe_until IS
    'How long the prober is believed alive, by the database''s clock; after it another may probe.';
COMMENT ON COLUMN api_keys.calls IS 'Calls answered on calls_day.';
