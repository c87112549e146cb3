-- What the maintainer changed: each attempt of an action, from its beginning on, so that limits hold across processes,
-- hosts and crashes.

CREATE TABLE actions (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL,
    node        text COLLATE "C" NOT NULL CHECK (length(node) BETWEEN 1 AND 100),
    kind        text COLLATE "C" NOT NULL CHECK (kind IN (
        'backup', 'cleanup', 'partitions', 'vacuum', 'reindex', 'restart', 'emergency', 'update', 'packages'
    )),
    target      text COLLATE "C" NOT NULL CHECK (length(target) BETWEEN 1 AND 300),
    scope       text COLLATE "C" NOT NULL CHECK (scope IN ('', node)),
    is_restart  boolean NOT NULL,
    asked       boolean NOT NULL,
    state       text COLLATE "C" NOT NULL CHECK (state IN ('running', 'applied', 'failed', 'unknown')),
    plan        text NOT NULL,
    commands    text[] NOT NULL DEFAULT '{}',
    result      text NOT NULL DEFAULT '',
    seconds     finite NOT NULL DEFAULT 0 CHECK (seconds >= 0),
    expires_at  timestamptz NOT NULL,
    finished_at timestamptz,
    well_since  timestamptz,
    settled     boolean NOT NULL DEFAULT false,
    CHECK ((state = 'running') = (finished_at IS NULL))
) WITH (fillfactor = 80);

COMMENT ON TABLE actions IS 'Each attempt of the maintainer to change something';
COMMENT ON COLUMN actions.scope IS 'The node, if the target is a thing of that host; empty if all hosts share it';
COMMENT ON COLUMN actions.asked IS 'A person asked for this very action';
COMMENT ON COLUMN actions.state IS 'unknown: whoever began it did not live to say what came of it';
COMMENT ON COLUMN actions.expires_at IS 'When it counts as abandoned, unless whoever runs it says before that it still does';
COMMENT ON COLUMN actions.well_since IS 'Since when the target has been well, without the action being needed again';
COMMENT ON COLUMN actions.settled IS 'It had lasting effect, or the target got well otherwise: attempts up to here no longer count for giving up';

-- Also what holds if all else fails: one attempt at a time on one thing.
CREATE UNIQUE INDEX actions_running ON actions (kind, target, scope) WHERE state = 'running';
CREATE INDEX actions_by_thing ON actions (kind, target, scope, at DESC);
CREATE INDEX actions_by_time ON actions (at);
CREATE INDEX actions_of_restarts ON actions (at) WHERE is_restart;
