-- What the service was told by POST /observe, in the order in which it is learnt.

CREATE TABLE observations (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    taken_at   timestamptz NOT NULL,
    writer     text COLLATE "C" NOT NULL CHECK (length(writer) BETWEEN 1 AND 100),
    agent      text NOT NULL CHECK (length(agent) BETWEEN 1 AND 80),
    session    text NOT NULL CHECK (length(session) BETWEEN 1 AND 200),
    action     text NOT NULL CHECK (length(action) BETWEEN 1 AND 80),
    at         timestamptz NOT NULL,
    outcome    text NOT NULL CHECK (length(outcome) BETWEEN 1 AND 80),
    context    jsonb NOT NULL CHECK (jsonb_typeof(context) = 'object'),
    reward     finite NOT NULL,
    cost       finite NOT NULL CHECK (cost >= 0),
    duration_s finite CHECK (duration_s >= 0)
);

COMMENT ON TABLE observations IS
    'Append-only. Those up to the cursor of the source observations are learnt; the others are once a process leads';
COMMENT ON COLUMN observations.writer IS 'The process that was told, which wants to know what changed';
COMMENT ON COLUMN observations.session IS 'Hashed; personal data elsewhere is replaced by pseudonyms';
