-- Lists over a million videos that read what they show, and little more.

-- A sample changes next_due_at, which is indexed, so its update was not HOT before; a claim still is. All that a leaderboard
-- filters and ranks by is in the index, so that even one that nothing fits reads no row of the wide table.
CREATE INDEX video_clock_by_velocity ON video_clock (velocity DESC NULLS LAST, video_id)
INCLUDE (category_id, zone, broadcast, born_at, last_sampled_at, acceleration, relative_velocity, viral_score)
WHERE status = 'live';

-- Counting the clock's videos by zone needs no row, either.
CREATE INDEX video_clock_due_with_interval ON video_clock (zone, next_due_at) INCLUDE (interval_h) WHERE status = 'live';
DROP INDEX video_clock_due;
ALTER INDEX video_clock_due_with_interval RENAME TO video_clock_due;

CREATE INDEX video_clock_on_air ON video_clock (broadcast) WHERE status = 'live' AND broadcast <> 'none';

CREATE INDEX video_forecasts_by_gain ON video_forecasts ((day - views) DESC, video_id);

-- Of the other rankings only the tops, where few rows stand, so that they cost a sample nothing as a rule. atlas/adapters/board.py
-- has the same bounds.
CREATE INDEX video_clock_top_scores ON video_clock (viral_score DESC NULLS LAST, video_id)
INCLUDE (category_id, zone, broadcast, born_at, last_sampled_at, velocity)
WHERE status = 'live' AND viral_score >= 0.9;

CREATE INDEX video_clock_top_accelerations ON video_clock (acceleration DESC NULLS LAST, video_id)
INCLUDE (category_id, zone, broadcast, born_at, last_sampled_at, velocity)
WHERE status = 'live' AND acceleration >= 1;

CREATE INDEX video_clock_top_relative_velocities ON video_clock (relative_velocity DESC NULLS LAST, video_id)
INCLUDE (category_id, zone, broadcast, born_at, last_sampled_at, velocity)
WHERE status = 'live' AND relative_velocity >= 5;

-- The newest uploads of a channel with very many are read without the others. Refreshes change none of it, and stay HOT.
CREATE INDEX videos_by_channel_and_time ON videos (channel_id, published_at DESC NULLS LAST, id);
DROP INDEX videos_by_channel;
ALTER INDEX videos_by_channel_and_time RENAME TO videos_by_channel;

CREATE INDEX channels_by_lower_title ON channels (lower(title));

-- The statistics tell the planner how many topics, and so videos, a region has.
CREATE STATISTICS search_queue_regions ON (parameters ->> 'region') FROM search_queue;
CREATE INDEX search_queue_by_region ON search_queue ((parameters ->> 'region')) WHERE parameters ->> 'region' IS NOT NULL;

-- With the index of the active topics it gives those of any status in their order. Written so that only who says the same
-- uses it: claims must go on finding cooling topics by the instant.
CREATE INDEX search_queue_others_by_priority ON search_queue (status, priority DESC, id) WHERE (status = 'active') IS FALSE;

-- Looking for a tag in a row is dearer than finding the row.
ALTER FUNCTION lowered(text[]) COST 4000;

-- A video's mean growth over a window is at most its fastest step there, so the fastest steps lead to the fastest videos. Most
-- steps are slow, and cost nothing here.
-- Days that no window reaches any more are left without. In TimescaleDB chunks are indexed at once, unless compressed.
DO $$
DECLARE
    day text;
    index CONSTANT text := '(velocity DESC, video_id, sampled_at) WHERE velocity >= 10';
BEGIN
    IF NOT samples_are_partitioned() THEN
        EXECUTE 'CREATE INDEX video_stats_log_by_velocity ON video_stats_log ' || index;
        RETURN;
    END IF;
    EXECUTE 'CREATE INDEX video_stats_log_by_velocity ON ONLY video_stats_log ' || index;
    FOR day IN
        SELECT relname
        FROM pg_inherits
        JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'video_stats_log'::regclass AND relname >= samples_of((now() AT TIME ZONE 'UTC')::date - 32)
    LOOP
        EXECUTE format('CREATE INDEX %I ON %I %s', day || '_by_velocity', day, index);
        EXECUTE format('ALTER INDEX video_stats_log_by_velocity ATTACH PARTITION %I', day || '_by_velocity');
    END LOOP;
END
$$;

-- The clocks of the live videos that fit: of channels, of a category, zone, tag in any case, length ('short': up to so many
-- seconds; 'long') and broadcast, born in a span, at least so fast, found by a search of a region. NULL fits all. The planner
-- sees through it, and leaves out the tables that no condition needs.
CREATE FUNCTION videos_that_fit(
    of_channels text[], of_category integer, of_zone smallint, of_tag text, of_length text, short_at_most_s integer,
    of_broadcast text, born_since timestamptz, born_until timestamptz, least_velocity double precision, of_region text
) RETURNS SETOF video_clock LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000 AS $$
    SELECT c.*
    FROM video_clock AS c
    LEFT JOIN videos AS v ON v.id = c.video_id
    LEFT JOIN search_queue AS q ON q.id = v.discovered_by
    WHERE c.status = 'live'
        AND (of_channels IS NULL OR v.channel_id = ANY (of_channels))
        AND (of_category IS NULL OR c.category_id = of_category)
        AND (of_zone IS NULL OR c.zone = of_zone)
        -- Without the test of v.id the planner can't know that these need a row of videos, and so can't begin with one.
        AND (of_tag IS NULL OR (v.id IS NOT NULL AND lowered(v.tags) @> ARRAY[lower(of_tag)]))
        AND (of_length IS NULL OR v.id IS NOT NULL)
        AND (of_length IS NULL OR CASE WHEN v.duration_s > short_at_most_s THEN 'long' WHEN v.duration_s > 0 THEN 'short' END = of_length)
        AND (of_broadcast IS NULL OR c.broadcast = of_broadcast)
        AND (born_since IS NULL OR c.born_at >= born_since) AND (born_until IS NULL OR c.born_at <= born_until)
        AND (least_velocity IS NULL OR c.velocity >= least_velocity)
        AND (of_region IS NULL OR q.parameters ->> 'region' = of_region)
$$;

-- The commonest tags with the share of videos that have them, as of the last ANALYZE.
CREATE FUNCTION common_tags() RETURNS TABLE (tag text, frequency real) LANGUAGE sql STABLE PARALLEL SAFE ROWS 100 AS $$
    -- The frequencies are followed by their extremes.
    SELECT known.tag, known.frequency
    FROM pg_stats AS s, unnest(s.most_common_elems::text::text[], s.most_common_elem_freqs) AS known (tag, frequency)
    WHERE s.schemaname = current_schema AND s.tablename = 'videos_by_tag' AND known.tag IS NOT NULL
$$;

-- A count with its instant in microseconds: the first of several is the least of them.
CREATE FUNCTION count_at(at timestamptz, views bigint) RETURNS bigint[] LANGUAGE sql STABLE PARALLEL SAFE
RETURN ARRAY[(date_part('epoch', at) * 1e6)::bigint, views];

-- Views gained per hour between two counts; NULL where they are one.
CREATE FUNCTION growth_per_hour(first bigint[], last bigint[]) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (last[2] - first[2]) / nullif((last[1] - first[1]) / 3.6e9::double precision, 0);

-- Indexed expressions have statistics of their own, which nothing else would make at once.
ANALYZE search_queue, video_forecasts, channels;
