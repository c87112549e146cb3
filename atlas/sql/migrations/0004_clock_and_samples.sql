-- When each video and channel is sampled next, what the samples said, and what is usual.

CREATE DOMAIN zone AS smallint CHECK (VALUE BETWEEN 0 AND 2);
COMMENT ON DOMAIN zone IS '0 hot, 1 warm, 2 cold';
CREATE DOMAIN clock_status AS text CHECK (VALUE IN ('live', 'gone'));
CREATE DOMAIN small_tally AS smallint CHECK (VALUE >= 0);
CREATE DOMAIN viewers AS bigint CHECK (VALUE >= 0);
-- NaN sorts above infinity, so this refuses both.
CREATE DOMAIN finite AS double precision CHECK (VALUE > '-infinity' AND VALUE < 'infinity');

-- The zone of an age; before its publication a video is hot, at the very end of its week still warm.
CREATE FUNCTION zone_of(age interval, hot_until_h double precision, warm_until_h double precision)
RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN age < hot_until_h * interval '1 hour' THEN 0
    WHEN age <= warm_until_h * interval '1 hour' THEN 1
    ELSE 2
END;

-- Narrow, as every sample rewrites a row: what a claim returns is here, so that it reads no wide row of videos.
CREATE TABLE video_clock (
    video_id          text COLLATE "C" PRIMARY KEY REFERENCES videos ON DELETE CASCADE,
    -- Copies of what videos says; ingestion keeps them so.
    channel_id        text COLLATE "C" NOT NULL,
    category_id       integer,
    zone              zone NOT NULL,
    pinned_zone       zone,
    status            clock_status NOT NULL DEFAULT 'live',
    misses            small_tally NOT NULL DEFAULT 0,
    age_class         small_tally,
    samples           tally NOT NULL DEFAULT 0,
    interval_h        real NOT NULL,
    born_at           timestamptz NOT NULL,
    next_due_at       timestamptz NOT NULL,
    gone_at           timestamptz,
    metadata_at       timestamptz NOT NULL,
    -- The claim. lease_until is by the server's clock, as it judges whether a process lives; all else is domain time.
    lease_until       timestamptz,
    lease_token       uuid,
    lease_owner       text,
    attempts          tally NOT NULL DEFAULT 0,
    last_error        text,
    -- The last answer, and the last one that told a count of views.
    last_sampled_at   timestamptz,
    last_at           timestamptz,
    last_views        viewers,
    last_likes        viewers,
    last_comments     viewers,
    -- What is kept of the series between two samples.
    velocity          finite,
    acceleration      finite,
    weight            finite,
    relative_velocity finite,
    viral_score       finite,
    watch_level       finite,
    watch_variance    finite,
    watch_seen_h      finite,
    watch_evidence_h  finite,
    watch_open_h      finite,
    watch_open_views  finite,
    watch_risen_h     finite,
    watch_peak        finite
) WITH (
    -- Videos found together stand in one page and are due together, and a row that was sampled is nearly twice as long as
    -- a new one. So a page that is a quarter full of new rows is one where even claiming all of them at once is HOT.
    fillfactor = 25,
    autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_scale_factor = 0.005,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.05
);

COMMENT ON COLUMN video_clock.born_at IS 'published_at, or where that is unknown discovered_at: ages count from it';
COMMENT ON COLUMN video_clock.samples IS 'answers in video_stats_log; the count that ingestion told joins them with the first';
COMMENT ON COLUMN video_clock.last_sampled_at IS 'the last answer, whether it told a count or hid it';
COMMENT ON COLUMN video_clock.age_class IS 'the last one in which the video was counted in its channel''s norms';

-- The lease columns stand in no index and no predicate: a claim that touched one could not be HOT.
CREATE INDEX video_clock_due ON video_clock (zone, next_due_at) WHERE status = 'live';

CREATE TABLE channel_clock (
    channel_id  text COLLATE "C" PRIMARY KEY REFERENCES channels ON DELETE CASCADE,
    status      clock_status NOT NULL DEFAULT 'live',
    misses      small_tally NOT NULL DEFAULT 0,
    next_due_at timestamptz NOT NULL,
    lease_until timestamptz,
    lease_token uuid,
    lease_owner text,
    attempts    tally NOT NULL DEFAULT 0,
    last_error  text,
    last_at     timestamptz,
    subscribers viewers,
    videos      viewers,
    views       viewers
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX channel_clock_due ON channel_clock (next_due_at) WHERE status = 'live';

CREATE TABLE channel_stats_log (
    channel_id  text COLLATE "C" NOT NULL REFERENCES channels ON DELETE CASCADE,
    sampled_at  timestamptz NOT NULL,
    subscribers viewers,
    videos      viewers,
    views       viewers,
    PRIMARY KEY (channel_id, sampled_at)
);

CREATE INDEX channel_stats_log_by_time ON channel_stats_log USING brin (sampled_at);

CREATE TABLE channel_norms (
    channel_id text COLLATE "C" NOT NULL REFERENCES channels ON DELETE CASCADE,
    age_class  small_tally NOT NULL,
    videos     tally NOT NULL,
    mean       finite NOT NULL,
    squares    finite NOT NULL,
    PRIMARY KEY (channel_id, age_class)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

COMMENT ON TABLE channel_norms IS
    'Count, mean and squared deviations of log(1 + views/h) over a channel''s videos of one age class';

CREATE DOMAIN cohort_measure AS text CHECK (VALUE IN ('velocity', 'growth'));

CREATE TABLE velocity_cohorts (
    day         date NOT NULL,
    age_class   small_tally NOT NULL,
    category_id integer NOT NULL,
    measure     cohort_measure NOT NULL,
    digest      bytea NOT NULL,
    PRIMARY KEY (day, age_class, category_id, measure)
) WITH (fillfactor = 70);

COMMENT ON COLUMN velocity_cohorts.category_id IS '0 is unknown';
COMMENT ON COLUMN velocity_cohorts.digest IS 'a t-digest; empty while the first one to write it merges';

CREATE DOMAIN watch_kind AS text CHECK (VALUE IN ('video', 'channel'));

-- The id may be of a video or channel that nobody has met yet, so it is no foreign key.
CREATE TABLE watches (
    kind       watch_kind NOT NULL,
    id         text COLLATE "C" NOT NULL CHECK (length(id) BETWEEN 1 AND 64),
    zone       zone,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (kind, id)
);

-- The log of samples, by UTC day: a hypertable where TimescaleDB is installed in the database, else native partitions.
-- Its video_id is no foreign key: checking one reads and locks a row of the wide table of videos for each sample, half as
-- much CPU again and nearly three times the WAL. A sample is only ever written for a row of video_clock that the same
-- statement updates, whose id is a foreign key; and a deleted video takes its samples along by a trigger.
DO $$
DECLARE
    columns CONSTANT text := '
        video_id    text COLLATE "C" NOT NULL,
        methodology smallint NOT NULL,
        sampled_at  timestamptz NOT NULL,
        views       viewers,
        likes       viewers,
        comments    viewers,
        velocity    finite,
        PRIMARY KEY (video_id, sampled_at)';
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        EXECUTE format('CREATE TABLE video_stats_log (%s) PARTITION BY RANGE (sampled_at)', columns);
        CREATE INDEX video_stats_log_by_time ON video_stats_log USING brin (sampled_at) WITH (pages_per_range = 32);
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE video_stats_log (%s)', columns);
    PERFORM create_hypertable(
        'video_stats_log', 'sampled_at', chunk_time_interval => interval '1 day', create_default_indexes => false
    );
    BEGIN
        ALTER TABLE video_stats_log SET (
            timescaledb.compress, timescaledb.compress_segmentby = 'video_id', timescaledb.compress_orderby = 'sampled_at'
        );
        PERFORM add_compression_policy('video_stats_log', interval '3 days');
    EXCEPTION WHEN feature_not_supported OR insufficient_privilege THEN
        RAISE WARNING 'samples stay uncompressed: %', SQLERRM;
    END;
END
$$;

COMMENT ON COLUMN video_stats_log.views IS 'NULL is hidden; likes and comments likewise';
COMMENT ON COLUMN video_stats_log.velocity IS 'views per hour since the last known count, computed by Pleiades';
COMMENT ON COLUMN video_stats_log.methodology IS 'how YouTube counts views: 1 before its methodology epoch, 2 since';

-- The partition of a UTC day.
CREATE FUNCTION samples_of(day date) RETURNS text LANGUAGE sql IMMUTABLE
RETURN 'video_stats_log_' || to_char(day::timestamp, 'YYYYMMDD');

CREATE FUNCTION samples_are_partitioned() RETURNS boolean LANGUAGE sql STABLE
RETURN (SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass('video_stats_log'));

-- Whether a sample of this instant can be stored.
CREATE FUNCTION keeps_samples_of(at timestamptz) RETURNS boolean LANGUAGE sql STABLE
RETURN NOT samples_are_partitioned() OR to_regclass(samples_of((at AT TIME ZONE 'UTC')::date)) IS NOT NULL;

-- Makes the partitions of UTC days, without stopping who reads or writes the others; returns those that were missing.
CREATE FUNCTION ensure_sample_days(days date[]) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    day date;
    made text[] := '{}';
BEGIN
    IF NOT samples_are_partitioned() THEN
        RETURN made;
    END IF;
    FOR day IN SELECT DISTINCT d FROM unnest(days) AS d WHERE to_regclass(samples_of(d)) IS NULL ORDER BY d LOOP
        -- One at a time; waiting for a lock of the log also shows what others have made meanwhile.
        LOCK TABLE video_stats_log IN SHARE UPDATE EXCLUSIVE MODE;
        CONTINUE WHEN to_regclass(samples_of(day)) IS NOT NULL;
        -- CREATE TABLE … PARTITION OF would wait for every reader of the log, and make all others wait behind it.
        EXECUTE format('CREATE TABLE %I (LIKE video_stats_log)', samples_of(day));
        EXECUTE format(
            'ALTER TABLE video_stats_log ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            samples_of(day), day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC'
        );
        made := made || samples_of(day);
    END LOOP;
    RETURN made;
END
$$;

-- Drops the days before this one; returns what was dropped.
CREATE FUNCTION drop_sample_days(before date) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    name text;
    dropped text[] := '{}';
BEGIN
    IF NOT samples_are_partitioned() THEN
        EXECUTE 'SELECT array_agg(chunk) FROM drop_chunks(''video_stats_log'', older_than => $1) AS chunk'
        INTO dropped USING before::timestamp AT TIME ZONE 'UTC';
        RETURN coalesce(dropped, '{}');
    END IF;
    FOR name IN
        SELECT relname
        FROM pg_inherits
        JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'video_stats_log'::regclass AND relname < samples_of(before)
        ORDER BY relname
    LOOP
        EXECUTE format('DROP TABLE %I', name);
        dropped := dropped || name;
    END LOOP;
    RETURN dropped;
END
$$;

CREATE FUNCTION forget_samples() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM video_stats_log WHERE video_id IN (SELECT id FROM forgotten);
    RETURN NULL;
END
$$;

CREATE TRIGGER videos_take_their_samples_along AFTER DELETE ON videos
    REFERENCING OLD TABLE AS forgotten FOR EACH STATEMENT EXECUTE FUNCTION forget_samples();

-- What was stored before there was a clock joins it as it stood when it was last fetched, with the zones' usual bounds.
INSERT INTO video_clock (
    video_id, channel_id, category_id, zone, status, interval_h, born_at, next_due_at, gone_at, metadata_at,
    last_at, last_views, last_likes, last_comments
)
SELECT v.id, v.channel_id, v.category_id, z.zone, v.status, z.interval_h, born_at,
    refreshed_at + z.interval_h * interval '1 hour',
    CASE v.status WHEN 'gone' THEN refreshed_at END,
    refreshed_at,
    CASE WHEN view_count IS NOT NULL THEN refreshed_at END,
    view_count, like_count, comment_count
FROM videos AS v
CROSS JOIN LATERAL (SELECT coalesce(v.published_at, v.discovered_at) AS born_at) AS birth
JOIN (VALUES (0, 1), (1, 6), (2, 24)) AS z (zone, interval_h) ON z.zone = zone_of(refreshed_at - born_at, 24, 168)
ORDER BY v.id;

INSERT INTO channel_clock (channel_id, next_due_at)
SELECT id, discovered_at
FROM channels
ORDER BY id;
