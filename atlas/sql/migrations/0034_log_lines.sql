-- The last lines of every process's log, for people who look at the dashboard.

CREATE TABLE log_lines (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL,
    node   text NOT NULL CHECK (length(node) BETWEEN 1 AND 100),
    level  smallint NOT NULL CHECK (level BETWEEN 0 AND 100),
    logger text NOT NULL CHECK (length(logger) <= 200),
    agent  text CHECK (length(agent) <= 100),
    run    text CHECK (length(run) <= 200),
    text   text NOT NULL CHECK (length(text) <= 2000)
);

COMMENT ON TABLE log_lines IS 'Without secrets, and only so many as LogLinesDAO keeps; a process that is killed may not have stored its last ones';
COMMENT ON COLUMN log_lines.level IS 'As Python counts: 20 INFO, 30 WARNING, 40 ERROR';
COMMENT ON COLUMN log_lines.run IS 'The session of the agent''s run, as in events';
