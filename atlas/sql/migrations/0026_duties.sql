-- When the maintainer's duties ran, and the schedules that were changed at run time.

CREATE TABLE duty_schedules (
    duty       text COLLATE "C" PRIMARY KEY CHECK (duty ~ '^[a-z][a-z_]{0,49}$'),
    cron       text NOT NULL CHECK (length(cron) BETWEEN 9 AND 200),
    time_zone  text NOT NULL CHECK (length(time_zone) BETWEEN 1 AND 100),
    enabled    boolean NOT NULL,
    changed_at timestamptz NOT NULL
);

COMMENT ON TABLE duty_schedules IS 'What was changed by hand; every other schedule is in a file';

CREATE TABLE duty_runs (
    duty        text COLLATE "C" NOT NULL CHECK (duty ~ '^[a-z][a-z_]{0,49}$'),
    node        text COLLATE "C" NOT NULL CHECK (length(node) <= 100),
    turn        timestamptz NOT NULL,
    attempts    smallint NOT NULL CHECK (attempts >= 1),
    state       text NOT NULL CHECK (state IN ('running', 'done', 'failed')),
    started_at  timestamptz NOT NULL,
    finished_at timestamptz,
    done_at     timestamptz,
    summary     text,
    details     jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(details) = 'object'),
    PRIMARY KEY (duty, node),
    CHECK ((state = 'running') = (finished_at IS NULL))
);

COMMENT ON COLUMN duty_runs.node IS 'Empty for a duty that runs once for all hosts';
COMMENT ON COLUMN duty_runs.turn IS 'The turn of the schedule that the last run was for';
COMMENT ON COLUMN duty_runs.attempts IS 'How many runs began for this turn: one that was killed is repeated, but not for ever';
COMMENT ON COLUMN duty_runs.done_at IS 'When the duty was last done';
