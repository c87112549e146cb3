-- name: claim_due_videos
-- Lease up to $1 unclaimed due videos to $2 under token $3 for $4 seconds ($5 now): hot, then warm, then cold, then gone
-- videos that are due for another look; in each group, the longest due first. One sub-select per zone, because before
-- PostgreSQL 18 an index scan with a limit can't skip from one zone to the next. With $6, commit without waiting for the
-- disk: if a crash loses the claim, its videos are unclaimed again, and the token keeps the old claim from storing. Locked
-- rows are found again by ctid, which saves a look-up of each key; a row that moved between the statement's snapshot and
-- its lock waits for the next claim.
WITH async_commit AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) WHERE $6),
hot AS MATERIALIZED (
    SELECT ctid AS place
    FROM video_clock
    WHERE status = 'live' AND zone = 0 AND next_due_at <= (SELECT $5::timestamptz)
        AND (lease_until IS NULL OR lease_until < clock_timestamp())
        AND (SELECT count(*) FROM async_commit) >= 0
    ORDER BY next_due_at
    LIMIT (SELECT $1::bigint)
    FOR NO KEY UPDATE SKIP LOCKED
),
warm AS MATERIALIZED (
    SELECT ctid AS place
    FROM video_clock
    WHERE status = 'live' AND zone = 1 AND next_due_at <= (SELECT $5::timestamptz)
        AND (lease_until IS NULL OR lease_until < clock_timestamp())
    ORDER BY next_due_at
    LIMIT (SELECT $1::bigint - count(*) FROM hot)
    FOR NO KEY UPDATE SKIP LOCKED
),
cold AS MATERIALIZED (
    SELECT ctid AS place
    FROM video_clock
    WHERE status = 'live' AND zone = 2 AND next_due_at <= (SELECT $5::timestamptz)
        AND (lease_until IS NULL OR lease_until < clock_timestamp())
    ORDER BY next_due_at
    LIMIT (SELECT $1::bigint - (SELECT count(*) FROM hot) - count(*) FROM warm)
    FOR NO KEY UPDATE SKIP LOCKED
),
gone AS MATERIALIZED (
    SELECT ctid AS place
    FROM video_clock
    WHERE status = 'gone' AND next_due_at IS NOT NULL AND next_due_at <= (SELECT $5::timestamptz)
        AND (lease_until IS NULL OR lease_until < clock_timestamp())
    ORDER BY next_due_at
    LIMIT (SELECT $1::bigint - (SELECT count(*) FROM hot) - (SELECT count(*) FROM warm) - count(*) FROM cold)
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE video_clock
SET lease_owner = $2,
    lease_token = $3,
    lease_until = clock_timestamp() + make_interval(secs => $4),
    attempts = attempts + 1
WHERE ctid = ANY (ARRAY(
    SELECT place FROM hot UNION ALL SELECT place FROM warm UNION ALL SELECT place FROM cold UNION ALL SELECT place FROM gone
))
RETURNING video_id, channel_id, category_id, zone, pinned_zone, born_at, next_due_at, interval_h, attempts, misses, samples,
    metadata_at, last_at, last_views, velocity, acceleration, weight, viral_score, age_class, watch_level, watch_variance,
    watch_seen_h, watch_evidence_h, watch_open_h, watch_open_views, watch_risen_h, watch_peak,
    broadcast::text, gone_at, doubted_views::bigint, last_source::text;

-- name: claim_videos
-- The same for those of the videos $1 that are due and unclaimed.
WITH async_commit AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) WHERE $6)
UPDATE video_clock
SET lease_owner = $2,
    lease_token = $3,
    lease_until = clock_timestamp() + make_interval(secs => $4),
    attempts = attempts + 1
WHERE ctid = ANY (ARRAY(
    SELECT ctid
    FROM video_clock
    WHERE video_id = ANY ($1::text[])
        -- IS TRUE hides the condition from the planner, which would otherwise read all due videos from their index.
        AND (status = 'live' AND next_due_at <= $5::timestamptz) IS TRUE
        AND (lease_until IS NULL OR lease_until < clock_timestamp())
        AND (SELECT count(*) FROM async_commit) >= 0
    FOR NO KEY UPDATE SKIP LOCKED
))
RETURNING video_id, channel_id, category_id, zone, pinned_zone, born_at, next_due_at, interval_h, attempts, misses, samples,
    metadata_at, last_at, last_views, velocity, acceleration, weight, viral_score, age_class, watch_level, watch_variance,
    watch_seen_h, watch_evidence_h, watch_open_h, watch_open_views, watch_risen_h, watch_peak,
    broadcast::text, gone_at, doubted_views::bigint, last_source::text;

-- name: oldest_feed_counts
-- The oldest count from feeds of each of up to $1 videos, oldest first.
SELECT DISTINCT ON (video_id) video_id, at, views
FROM (SELECT * FROM pending_counts ORDER BY at LIMIT (SELECT $1::bigint)) AS first
ORDER BY video_id, at;

-- name: delete_feed_counts
-- Delete the counts from feeds of the videos $1 up to the instants $2.
DELETE FROM pending_counts AS p
USING unnest($1::text[], $2::timestamptz[]) AS used (id, at)
WHERE p.video_id = used.id AND p.at <= used.at;

-- name: forget_feed_counts
-- Delete the counts that feeds showed before $1: whatever they told is known by now.
DELETE FROM pending_counts WHERE at < $1;

-- name: growing_views_per_hour
-- The views an hour over the first 24 from which a video counts as growing; NULL before enough videos are known.
SELECT growing_views_per_hour FROM discovery_state;

-- name: count_due
-- The number of videos of each zone that are due at $2 and unclaimed, counting at most $1 of each.
SELECT z.zone, (
    SELECT count(*)
    FROM (
        SELECT
        FROM video_clock AS c
        WHERE c.status = 'live' AND c.zone = z.zone AND next_due_at <= (SELECT $2::timestamptz)
            AND (lease_until IS NULL OR lease_until < clock_timestamp())
        ORDER BY next_due_at
        LIMIT (SELECT $1::bigint)
    ) AS counted
) AS due
FROM (VALUES (0), (1), (2)) AS z (zone)
ORDER BY z.zone;

-- name: due_targets
-- The $1 videos of each zone that have been due longest at $2 and are unclaimed, without claiming them.
SELECT due.*
FROM (VALUES (0), (1), (2)) AS z (zone)
CROSS JOIN LATERAL (
    SELECT video_id, zone, born_at, next_due_at, interval_h, velocity, acceleration
    FROM video_clock AS c
    WHERE c.status = 'live' AND c.zone = z.zone AND next_due_at <= (SELECT $2::timestamptz)
        AND (lease_until IS NULL OR lease_until < clock_timestamp())
    ORDER BY next_due_at
    LIMIT (SELECT $1::bigint)
) AS due
ORDER BY due.zone, due.next_due_at;

-- name: update_video_stats
-- Store the samples of claimed videos (one array per column), their clocks, and their contribution to their channels' norms.
-- Videos whose lease token is no longer valid are left out. With a video's first sample, the count seen at ingestion, which
-- its clock holds, is logged too, unless it is older than $1 or its day has no partition. $2 is the methodology epoch, $3
-- now. Returns one row: the number of samples stored, and the ids that were left out.
WITH batch AS MATERIALIZED (
    SELECT *
    FROM unnest(
        $4::text[], $5::uuid[], $6::timestamptz[], $7::timestamptz[], $8::smallint[], $9::real[], $10::bigint[],
        $11::bigint[], $12::bigint[], $13::double precision[], $14::smallint[], $15::smallint[], $16::boolean[],
        $17::timestamptz[], $18::bigint[], $19::double precision[], $20::double precision[], $21::double precision[],
        $22::double precision[], $23::double precision[], $24::smallint[], $25::timestamptz[],
        $26::bigint[], $27::boolean[], $28::double precision[], $29::double precision[], $30::double precision[],
        $31::double precision[], $32::double precision[], $33::double precision[], $34::double precision[],
        $35::double precision[], $36::smallint[], $37::double precision[], $38::sample_source[]
    ) AS b (
        id, lease_token, sampled_at, next_due_at, zone, interval_h, views, likes, comments, step_velocity,
        methodology, misses, gone, last_at, last_views, velocity, acceleration, weight, relative_velocity,
        viral_score, age_class, metadata_at, doubted_views, returned, watch_level, watch_variance, watch_seen_h,
        watch_evidence_h, watch_open_h, watch_open_views, watch_risen_h, watch_peak, counted_class, counted_log,
        source
    )
),
-- Locks videos that become gone or live again before their clocks, as ingestion does.
moving AS MATERIALIZED (
    SELECT v.id, b.gone
    FROM batch AS b
    JOIN videos AS v ON v.id = b.id
    JOIN video_clock AS c ON c.video_id = b.id AND c.lease_token = b.lease_token
    WHERE b.gone OR b.returned
    ORDER BY v.id
    FOR NO KEY UPDATE OF v, c
),
moved_videos AS (
    UPDATE videos SET status = CASE WHEN moving.gone THEN 'gone' ELSE 'live' END FROM moving WHERE videos.id = moving.id
),
sampled AS (
    UPDATE video_clock AS c
    SET status = 'live',
        gone_at = NULL,
        zone = b.zone,
        misses = b.misses,
        age_class = b.age_class,
        samples = c.samples + 1,
        interval_h = b.interval_h,
        next_due_at = b.next_due_at,
        metadata_at = coalesce(b.metadata_at, c.metadata_at),
        lease_until = NULL,
        lease_token = NULL,
        lease_owner = NULL,
        attempts = 0,
        last_error = NULL,
        last_sampled_at = b.sampled_at,
        last_at = b.last_at,
        last_views = b.last_views,
        last_source = CASE WHEN b.last_at = b.sampled_at THEN b.source ELSE c.last_source END,
        last_likes = coalesce(b.likes, c.last_likes),
        last_comments = coalesce(b.comments, c.last_comments),
        velocity = b.velocity,
        acceleration = b.acceleration,
        weight = b.weight,
        relative_velocity = b.relative_velocity,
        viral_score = b.viral_score,
        doubted_views = b.doubted_views,
        watch_level = b.watch_level,
        watch_variance = b.watch_variance,
        watch_seen_h = b.watch_seen_h,
        watch_evidence_h = b.watch_evidence_h,
        watch_open_h = b.watch_open_h,
        watch_open_views = b.watch_open_views,
        watch_risen_h = b.watch_risen_h,
        watch_peak = b.watch_peak
    FROM batch AS b
    WHERE c.video_id = b.id AND c.lease_token = b.lease_token AND b.sampled_at IS NOT NULL
        AND (SELECT count(*) FROM moving) IS NOT NULL
    RETURNING c.video_id, c.channel_id, c.samples, b.sampled_at, b.views, b.likes, b.comments, b.step_velocity,
        b.methodology, b.counted_class, b.counted_log, b.source,
        CASE WHEN b.views IS NOT NULL AND b.doubted_views IS NOT NULL THEN true END AS doubted
),
missed AS (
    UPDATE video_clock AS c
    SET status = CASE WHEN b.gone THEN 'gone' ELSE c.status END,
        gone_at = CASE WHEN b.gone THEN coalesce(c.gone_at, $3::timestamptz) ELSE c.gone_at END,
        misses = b.misses,
        next_due_at = b.next_due_at,
        lease_until = NULL,
        lease_token = NULL,
        lease_owner = NULL,
        attempts = 0,
        last_error = NULL
    FROM batch AS b
    WHERE c.video_id = b.id AND c.lease_token = b.lease_token AND b.sampled_at IS NULL
        AND (SELECT count(*) FROM moving) IS NOT NULL
    RETURNING c.video_id
),
-- The count at ingestion: the clock's values from before this statement.
first AS (
    SELECT c.video_id, c.last_at, c.last_views, c.last_likes, c.last_comments,
        CASE WHEN c.last_at < $2::timestamptz THEN 1 ELSE 2 END AS methodology
    FROM sampled AS s
    JOIN video_clock AS c ON c.video_id = s.video_id
    WHERE s.samples = 1 AND c.last_at >= $1::timestamptz AND c.last_at < s.sampled_at AND keeps_samples_of(c.last_at)
),
logged AS (
    INSERT INTO video_stats_log (video_id, sampled_at, views, likes, comments, velocity, methodology, doubted, source)
    SELECT video_id, sampled_at, views, likes, comments, step_velocity, methodology, doubted, source FROM sampled
    UNION ALL
    SELECT video_id, last_at, last_views, last_likes, last_comments, NULL, methodology, NULL, NULL FROM first
    ON CONFLICT (video_id, sampled_at) DO NOTHING
),
-- A clock may name a channel that its video has left, and that is erased since.
normed_channel AS (
    SELECT id
    FROM channels
    WHERE id = ANY (ARRAY(SELECT channel_id FROM sampled WHERE counted_class IS NOT NULL))
    ORDER BY id
    FOR KEY SHARE
),
normed AS (
    INSERT INTO channel_norms AS n (channel_id, age_class, videos, mean, squares)
    SELECT channel_id, counted_class, count(*), avg(counted_log), var_pop(counted_log) * count(*)
    FROM sampled
    JOIN normed_channel ON normed_channel.id = channel_id
    WHERE counted_class IS NOT NULL
    GROUP BY channel_id, counted_class
    ORDER BY channel_id, counted_class
    -- Merges two sets of count, mean and squared deviations: Chan, Golub and LeVeque, 1979.
    ON CONFLICT (channel_id, age_class) DO UPDATE
    SET videos = n.videos + excluded.videos,
        mean = n.mean + (excluded.mean - n.mean) * excluded.videos / (n.videos + excluded.videos),
        squares = n.squares + excluded.squares
            + (excluded.mean - n.mean) ^ 2 * n.videos * excluded.videos / (n.videos + excluded.videos)
)
SELECT (SELECT count(*) FROM sampled) AS samples,
    ARRAY(
        SELECT id FROM batch
        EXCEPT ALL
        (SELECT video_id FROM sampled UNION ALL SELECT video_id FROM missed)
    ) AS lost;

-- name: release_videos
-- Release claims ($1 ids, $2 tokens) without samples, leaving due times unchanged. $3 is the error, if any. The videos can be
-- claimed again after $4 seconds, doubled for each further attempt, up to a day. Without $5 the attempt does not count.
UPDATE video_clock AS c
SET lease_owner = NULL,
    lease_token = NULL,
    lease_until = CASE
        WHEN $4::double precision > 0
            THEN clock_timestamp() + make_interval(secs => least($4 * power(2, least(c.attempts, 30) - 1), 86400))
    END,
    attempts = c.attempts - CASE WHEN $5 THEN 0 ELSE 1 END,
    last_error = coalesce($3, c.last_error)
FROM unnest($1::text[], $2::uuid[]) AS claim (id, lease_token)
WHERE c.video_id = claim.id AND c.lease_token = claim.lease_token;

-- name: clock_counts
-- Counts of each zone's live videos at $1; videos waiting longer than $2 intervals are starving. Reads the whole index of due
-- times, and no row.
SELECT zone,
    count(*) AS live,
    count(*) FILTER (WHERE next_due_at <= $1) AS due,
    count(*) FILTER (
        WHERE next_due_at <= $1 AND next_due_at < $1 - (($2::double precision - 1) * interval_h) * interval '1 hour'
    ) AS starving,
    min(next_due_at) FILTER (WHERE next_due_at <= $1) AS oldest_due_at,
    sum(1 / interval_h::double precision) AS demand_per_h
FROM video_clock
WHERE status = 'live'
GROUP BY zone
ORDER BY zone;

-- name: count_claimed
-- How many are claimed of the $1 videos of each zone that have been due longest at $2, which are claimed first.
SELECT z.zone, (
    SELECT count(*)
    FROM (
        SELECT lease_token, lease_until
        FROM video_clock AS c
        WHERE c.status = 'live' AND c.zone = z.zone AND next_due_at <= (SELECT $2::timestamptz)
        ORDER BY next_due_at
        LIMIT (SELECT $1::bigint)
    ) AS due
    WHERE lease_token IS NOT NULL AND lease_until >= clock_timestamp()
) AS claimed
FROM (VALUES (0), (1), (2)) AS z (zone);

-- name: video_titles
-- The titles of the videos $1.
SELECT id, title
FROM videos
WHERE id = ANY ($1::text[]);

-- name: channel_norms
-- The norms of the pairs of channels $1 and age classes $2.
SELECT n.channel_id, n.age_class, n.videos, n.mean, n.squares
FROM unnest($1::text[], $2::smallint[]) AS wanted (channel_id, age_class)
JOIN channel_norms AS n ON n.channel_id = wanted.channel_id AND n.age_class = wanted.age_class;

-- name: cohorts
-- All cohorts of the days $1.
SELECT day, age_class, category_id, measure, digest
FROM velocity_cohorts
WHERE day = ANY ($1::date[])
ORDER BY day, age_class, category_id, measure;

-- name: prepare_cohorts
-- Insert empty cohorts (one array per column) where they are missing, in the order in which they are locked.
INSERT INTO velocity_cohorts (day, age_class, category_id, measure, digest)
SELECT day, age_class, category_id, measure, ''
FROM unnest($1::date[], $2::smallint[], $3::integer[], $4::text[]) AS c (day, age_class, category_id, measure)
ORDER BY day, age_class, category_id, measure
ON CONFLICT DO NOTHING;

-- name: lock_cohorts
-- Lock and return the cohorts (one array per column).
SELECT c.day, c.age_class, c.category_id, c.measure, c.digest
FROM unnest($1::date[], $2::smallint[], $3::integer[], $4::text[]) AS w (day, age_class, category_id, measure)
JOIN velocity_cohorts AS c USING (day, age_class, category_id, measure)
ORDER BY c.day, c.age_class, c.category_id, c.measure
FOR NO KEY UPDATE OF c;

-- name: store_cohorts
-- Store the digests $5 of cohorts that this transaction has locked.
UPDATE velocity_cohorts AS c
SET digest = w.digest
FROM unnest($1::date[], $2::smallint[], $3::integer[], $4::text[], $5::bytea[])
    AS w (day, age_class, category_id, measure, digest)
WHERE c.day = w.day AND c.age_class = w.age_class AND c.category_id = w.category_id AND c.measure = w.measure;

-- name: next_due
-- When the first unclaimed live video or channel is due; NULL if there is none.
SELECT least(
    (
        SELECT min(first.next_due_at)
        FROM (VALUES (0), (1), (2)) AS z (zone)
        CROSS JOIN LATERAL (
            SELECT next_due_at
            FROM video_clock AS c
            WHERE c.status = 'live' AND c.zone = z.zone AND (lease_until IS NULL OR lease_until < clock_timestamp())
            ORDER BY next_due_at
            LIMIT 1
        ) AS first
    ),
    (
        SELECT next_due_at
        FROM channel_clock
        WHERE status = 'live' AND (lease_until IS NULL OR lease_until < clock_timestamp())
        ORDER BY next_due_at
        LIMIT 1
    )
);

-- name: claim_due_channels
-- Lease up to $1 unclaimed channels, the longest due first, to $2 under token $3 for $4 seconds ($5 now); $6 as for videos.
WITH async_commit AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) WHERE $6)
UPDATE channel_clock
SET lease_owner = $2,
    lease_token = $3,
    lease_until = clock_timestamp() + make_interval(secs => $4),
    attempts = attempts + 1
WHERE channel_id = ANY (ARRAY(
    SELECT channel_id
    FROM channel_clock
    WHERE status = 'live' AND next_due_at <= (SELECT $5::timestamptz)
        AND (lease_until IS NULL OR lease_until < clock_timestamp())
        AND (SELECT count(*) FROM async_commit) >= 0
    ORDER BY next_due_at
    LIMIT (SELECT $1::bigint)
    FOR NO KEY UPDATE SKIP LOCKED
))
RETURNING channel_id, next_due_at, lease_token, attempts, misses, last_at, subscribers, videos, views;

-- name: update_channel_stats
-- Store the samples of claimed channels (one array per column), their clocks, and titles that changed or were last refreshed
-- a week ago. Channels whose lease token is no longer valid are left out. Returns one row: the number of samples stored, and
-- the ids that were left out.
WITH batch AS MATERIALIZED (
    SELECT *
    FROM unnest(
        $1::text[], $2::uuid[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[],
        $8::timestamptz[], $9::smallint[], $10::boolean[]
    ) AS b (id, lease_token, sampled_at, subscribers, videos, views, title, next_due_at, misses, gone)
),
-- Locks channels in the order of their ids, as ingestion does.
renamed AS MATERIALIZED (
    SELECT c.id, b.title, b.sampled_at
    FROM batch AS b
    JOIN channels AS c ON c.id = b.id
    WHERE b.title IS NOT NULL AND b.sampled_at > c.refreshed_at
        AND (c.title IS DISTINCT FROM b.title OR c.refreshed_at < b.sampled_at - interval '7 days')
    ORDER BY c.id
    FOR NO KEY UPDATE OF c
),
titled AS (
    UPDATE channels AS c
    SET title = renamed.title,
        refreshed_at = renamed.sampled_at
    FROM renamed
    WHERE c.id = renamed.id
    RETURNING c.id
),
stored AS (
    UPDATE channel_clock AS c
    SET status = CASE WHEN b.gone THEN 'gone' ELSE c.status END,
        misses = b.misses,
        next_due_at = b.next_due_at,
        lease_until = NULL,
        lease_token = NULL,
        lease_owner = NULL,
        attempts = 0,
        last_error = NULL,
        last_at = coalesce(b.sampled_at, c.last_at),
        subscribers = CASE WHEN b.sampled_at IS NULL THEN c.subscribers ELSE b.subscribers END,
        videos = CASE WHEN b.sampled_at IS NULL THEN c.videos ELSE b.videos END,
        views = CASE WHEN b.sampled_at IS NULL THEN c.views ELSE b.views END
    FROM batch AS b
    -- Reads the titles' result, so that channels are written and locked before their clocks.
    WHERE c.channel_id = b.id AND c.lease_token = b.lease_token AND (SELECT count(*) FROM titled) IS NOT NULL
    RETURNING c.channel_id, b.sampled_at, b.subscribers, b.videos, b.views
),
logged AS (
    INSERT INTO channel_stats_log (channel_id, sampled_at, subscribers, videos, views)
    SELECT channel_id, sampled_at, subscribers, videos, views
    FROM stored
    WHERE sampled_at IS NOT NULL
    ON CONFLICT (channel_id, sampled_at) DO NOTHING
)
SELECT (SELECT count(*) FROM stored WHERE sampled_at IS NOT NULL) AS samples,
    ARRAY(SELECT id FROM batch EXCEPT ALL SELECT channel_id FROM stored) AS lost;

-- name: release_channels
-- Release claims of channels; the parameters are those of release_videos.
UPDATE channel_clock AS c
SET lease_owner = NULL,
    lease_token = NULL,
    lease_until = CASE
        WHEN $4::double precision > 0
            THEN clock_timestamp() + make_interval(secs => least($4 * power(2, least(c.attempts, 30) - 1), 86400))
    END,
    attempts = c.attempts - CASE WHEN $5 THEN 0 ELSE 1 END,
    last_error = coalesce($3, c.last_error)
FROM unnest($1::text[], $2::uuid[]) AS claim (id, lease_token)
WHERE c.channel_id = claim.id AND c.lease_token = claim.lease_token;

-- name: ensure_sample_days
-- Create the partitions of the UTC days $1; returns the names of those that were missing.
SELECT ensure_sample_days($1::date[]);

-- name: expiring_days
-- The days of samples that retention may drop: before the UTC day $1, and older than $2 days by the database's clock.
-- Returns one row: the first day to keep, and the days before it that have samples.
SELECT bound.before, expired_sample_days(bound.before) AS days
FROM (SELECT least($1::date, (clock_timestamp() AT TIME ZONE 'UTC')::date - $2::integer) AS before) AS bound;

-- name: sample_days_dropped_today
-- The number of days of samples dropped today, by the database's clock; locks the count for this transaction.
INSERT INTO sample_drops AS d (day, days)
VALUES ((clock_timestamp() AT TIME ZONE 'UTC')::date, 0)
ON CONFLICT (day) DO UPDATE SET days = d.days
RETURNING days;

-- name: count_dropped_sample_days
-- Count $1 more days of samples as dropped today.
UPDATE sample_drops
SET days = days + $1
WHERE day = (SELECT max(day) FROM sample_drops);

-- name: drop_sample_days
-- Drop the samples of videos from before the UTC day $1; returns the names of the partitions or chunks that held them.
SELECT drop_sample_days($1::date);

-- name: forget_before
-- Delete the samples of channels from before the UTC day $1, and cohorts from before $2.
WITH samples AS (DELETE FROM channel_stats_log WHERE sampled_at < $1::date::timestamp AT TIME ZONE 'UTC')
DELETE FROM velocity_cohorts WHERE day < $2;
