-- Retention: deleting what is old from any table by ranges of its pages, and how much each rule may delete on a day.

-- A wrong clock, of an agent or of the database, must not cost more than a few days of anything on a day.
CREATE TABLE retention_days (
    rule   text COLLATE "C" PRIMARY KEY CHECK (length(rule) BETWEEN 1 AND 100),
    day    date NOT NULL,
    oldest timestamptz NOT NULL
) WITH (fillfactor = 50);

COMMENT ON TABLE retention_days IS 'How old the oldest thing was when a rule first deleted something on its last day, by the database''s clock';

-- The condition by which a row is expired: its time is before $1. Days are those of UTC.
CREATE FUNCTION is_expired(tbl text, col text, only_col text) RETURNS text LANGUAGE sql STABLE
RETURN (
    SELECT format(
        CASE atttypid WHEN 'date'::regtype THEN '%I < ($1 AT TIME ZONE ''UTC'')::date' ELSE '%I < $1' END, col
    ) || CASE WHEN only_col IS NULL THEN '' ELSE format(' AND %I::text = $2', only_col) END
    FROM pg_attribute
    WHERE attrelid = tbl::regclass AND attname = col AND NOT attisdropped
);

-- How many rows of some pages are expired, and the time of the oldest one.
CREATE FUNCTION expired_rows(
    tbl text, col text, before timestamptz, only_col text, only_value text, first_page bigint, end_page bigint,
    OUT rows bigint, OUT oldest timestamptz
) LANGUAGE plpgsql STABLE AS $$
BEGIN
    EXECUTE format(
        'SELECT count(*), to_timestamp(extract(epoch FROM min(%I))) FROM %I WHERE ctid >= %L AND ctid < %L AND %s',
        col, tbl, format('(%s,0)', first_page), format('(%s,0)', end_page), is_expired(tbl, col, only_col)
    ) INTO rows, oldest USING before, only_value;
END
$$;

-- Deletes the expired rows of some pages. That reads each page once, however many rows were deleted before, and takes no index.
CREATE FUNCTION delete_expired(
    tbl text, col text, before timestamptz, only_col text, only_value text, first_page bigint, end_page bigint
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    deleted bigint;
BEGIN
    EXECUTE format(
        'DELETE FROM %I WHERE ctid >= %L AND ctid < %L AND %s',
        tbl, format('(%s,0)', first_page), format('(%s,0)', end_page), is_expired(tbl, col, only_col)
    ) USING before, only_value;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END
$$;

-- By which time a video counts as old, if it has to be erased; NULL: it stays. It goes if it is gone for good, its last look
-- being over, or if its data were not refreshed since `before`: by metadata if it is gone, or else by a sample either. That it
-- is gone for good does not depend on any clock, so that it counts as old whatever the bound of the day.
CREATE FUNCTION erased_as_of(
    before timestamptz, status text, refreshed_at timestamptz, next_due_at timestamptz, last_sampled_at timestamptz
) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN status = 'gone' AND next_due_at IS NULL THEN '-infinity'
    WHEN status = 'gone' AND refreshed_at < before THEN refreshed_at
    WHEN greatest(refreshed_at, last_sampled_at) < before THEN greatest(refreshed_at, last_sampled_at)
END;
