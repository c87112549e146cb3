-- What retention would drop, and how much of it was dropped on which day of the database's clock: a wrong clock of an
-- agent, or of the database, must not cost more than a few days of samples.

CREATE TABLE sample_drops (
    day date PRIMARY KEY,
    days integer NOT NULL CHECK (days >= 0)
);

-- The days before this one that the log has samples of, the oldest first.
CREATE FUNCTION expired_sample_days(before date) RETURNS date[] LANGUAGE plpgsql STABLE AS $$
DECLARE
    expired date[];
BEGIN
    IF NOT samples_are_partitioned() THEN
        EXECUTE 'SELECT array_agg((range_start AT TIME ZONE ''UTC'')::date ORDER BY range_start) '
            'FROM timescaledb_information.chunks '
            'WHERE hypertable_name = ''video_stats_log'' AND range_end <= $1'
        INTO expired USING before::timestamp AT TIME ZONE 'UTC';
    ELSE
        SELECT array_agg(to_date(right(relname, 8), 'YYYYMMDD') ORDER BY relname)
        INTO expired
        FROM pg_inherits
        JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'video_stats_log'::regclass AND relname < samples_of(before);
    END IF;
    RETURN coalesce(expired, '{}');
END
$$;
