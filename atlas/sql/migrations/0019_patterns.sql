-- What the learner knows: patterns with their evidence, the detectors' states, how far each source has been read,
-- the alarms of series, and suggestions to people.

-- One row: the name under which this database counts evidence. Copies of a database that go on separately need new names.
CREATE TABLE site (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    node        text COLLATE "C" NOT NULL CHECK (length(node) BETWEEN 1 AND 100),
    privacy_key bytea NOT NULL CHECK (length(privacy_key) >= 16),
    created_at  timestamptz NOT NULL
);

COMMENT ON COLUMN site.privacy_key IS 'Pseudonyms are made with it, unless the settings name another key';

INSERT INTO site (node, privacy_key, created_at)
SELECT left(replace(gen_random_uuid()::text, '-', ''), 16), uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), now();

CREATE DOMAIN pattern_type AS text CHECK (VALUE IN (
    'task_sequence', 'error_recovery', 'tool_usage', 'optimization', 'success_path', 'failure_mode', 'user_preference',
    'context_switch', 'seasonal_profile', 'threshold', 'anomaly', 'change_point', 'velocity_archetype'
));

CREATE TABLE patterns (
    id           text COLLATE "C" PRIMARY KEY CHECK (id ~ '^[0-9a-f]{32}$'),
    type         pattern_type NOT NULL,
    signature    jsonb NOT NULL CHECK (jsonb_typeof(signature) = 'object'),
    statement    text NOT NULL CHECK (length(statement) BETWEEN 1 AND 2000),
    conditions   jsonb NOT NULL CHECK (jsonb_typeof(conditions) = 'array'),
    action       text CHECK (length(action) BETWEEN 1 AND 200),
    data         jsonb NOT NULL CHECK (jsonb_typeof(data) = 'object'),
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    version      bigint NOT NULL DEFAULT 1 CHECK (version >= 1),
    pinned       boolean NOT NULL DEFAULT false,
    forgotten_at timestamptz,
    forgotten_by text CHECK (forgotten_by IN ('operator', 'learner')),
    sti          finite NOT NULL DEFAULT 0 CHECK (sti >= 0),
    lti          finite NOT NULL DEFAULT 0 CHECK (lti >= 0),
    attended_at  timestamptz NOT NULL,
    CHECK ((forgotten_at IS NULL) = (forgotten_by IS NULL))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

COMMENT ON COLUMN patterns.id IS 'A hash of type and signature, equal wherever the same is found';
COMMENT ON COLUMN patterns.version IS 'Rises with each change of its text or its deletion';
COMMENT ON COLUMN patterns.forgotten_at IS 'Its tombstone. New evidence revives what the learner forgot, but not what an operator did';
COMMENT ON COLUMN patterns.sti IS 'Short-term importance at attended_at';

CREATE INDEX patterns_by_type ON patterns (type) WHERE forgotten_at IS NULL;

-- A state-based CRDT: only its own site raises a row's counters; copies merge by the maximum.
CREATE TABLE pattern_evidence (
    pattern_id text COLLATE "C" NOT NULL REFERENCES patterns ON DELETE CASCADE,
    node       text COLLATE "C" NOT NULL CHECK (length(node) BETWEEN 1 AND 100),
    day        date NOT NULL,
    pos        bigint NOT NULL CHECK (pos >= 0),
    neg        bigint NOT NULL CHECK (neg >= 0),
    sum_reward finite NOT NULL,
    last_seen  timestamptz NOT NULL,
    version    bigint NOT NULL CHECK (version >= 1),
    PRIMARY KEY (pattern_id, node, day)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX pattern_evidence_by_day ON pattern_evidence USING brin (day);

CREATE TABLE models (
    name         text COLLATE "C" PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 100),
    version      integer NOT NULL CHECK (version >= 1),
    state        bytea NOT NULL,
    observations bigint NOT NULL CHECK (observations >= 0),
    updated_at   timestamptz NOT NULL
);
-- States are compressed already.
ALTER TABLE models ALTER COLUMN state SET STORAGE EXTERNAL;

CREATE TABLE learner_cursors (
    source     text COLLATE "C" PRIMARY KEY CHECK (length(source) BETWEEN 1 AND 100),
    position   text NOT NULL CHECK (length(position) <= 200),
    updated_at timestamptz NOT NULL
);

COMMENT ON TABLE learner_cursors IS
    'How far each source is learnt. It moves in the transaction that stores what was learnt, and only from where it was read';

CREATE TABLE series_alarms (
    series text COLLATE "C" NOT NULL CHECK (length(series) BETWEEN 1 AND 200),
    at     timestamptz NOT NULL,
    kind   text NOT NULL CHECK (kind IN ('anomaly', 'threshold', 'change_point')),
    value  finite NOT NULL,
    score  finite NOT NULL,
    detail text NOT NULL,
    PRIMARY KEY (series, at, kind)
);

CREATE INDEX series_alarms_by_time ON series_alarms (at);

CREATE TABLE suggestions (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key        text COLLATE "C" NOT NULL UNIQUE CHECK (length(key) BETWEEN 1 AND 200),
    category   text NOT NULL CHECK (category IN (
        'schedule', 'quota', 'performance', 'reliability', 'storage', 'security', 'discovery', 'tracking', 'updates', 'configuration'
    )),
    text       text NOT NULL CHECK (length(text) BETWEEN 1 AND 2000),
    command    text CHECK (length(command) <= 500),
    evidence   jsonb NOT NULL CHECK (jsonb_typeof(evidence) = 'object'),
    made_at    timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    closed_at  timestamptz
);

COMMENT ON COLUMN suggestions.key IS 'What it is about: the same suggestion is updated, not made again';
