-- name: claim_due_videos
-- Lease the $1 first due videos that nobody holds to $2 under token $3 for $4 seconds ($5 now): hot first, then warm,
-- then cold, the longest due first. A sub-select a zone, as before PostgreSQL 18 no index scan skips from one to the next
-- once it is told where to stop. With $6 it doesn't wait for the disk: a claim that a crash of the server forgets is one
-- that nobody holds, and the fence keeps its worker out. The rows are found again where they were locked, which spares a
-- thousand look-ups of their keys; one that moved between the statement's snapshot and its lock waits for the next claim.
WITH hasty AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) WHERE $6),
hot AS MATERIALIZED (
    SELECT ctid AS place
    FROM video_clock
    WHERE status = 'live' AND zone = 0 AND next_due_at <= (SELECT $5::timestamptz)
        AND (lease_until IS NULL OR lease_until < clock_timestamp())
        AND (SELECT count(*) FROM hasty) >= 0
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
)
UPDATE video_clock
SET lease_owner = $2,
    lease_token = $3,
    lease_until = clock_timestamp() + make_interval(secs => $4),
    attempts = attempts + 1
WHERE ctid = ANY (ARRAY(
    SELECT place FROM hot UNION ALL SELECT place FROM warm UNION ALL SELECT place FROM cold
))
RETURNING video_id, channel_id, category_id, zone, pinned_zone, born_at, next_due_at, interval_h, attempts, misses, samples,
    metadata_at, last_at, last_views, velocity, acceleration, weight, viral_score, age_class, watch_level, watch_variance,
    watch_seen_h, watch_evidence_h, watch_open_h, watch_open_views, watch_risen_h, watch_peak;

-- name: claim_videos
-- The same of the videos $1, those of them that are due and that nobody holds.
WITH hasty AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) WHERE $6)
UPDATE video_clock
SET lease_owner = $2,
    lease_token = $3,
    lease_until = clock_timestamp() + make_interval(secs => $4),
    attempts = attempts + 1
WHERE ctid = ANY (ARRAY(
    SELECT ctid
    FROM video_clock
    WHERE video_id = ANY ($1::text[])
        -- Not for the planner to see: it would read all that is due from the index of that.
        AND (status = 'live' AND next_due_at <= $5::timestamptz) IS TRUE
        AND (lease_until IS NULL OR lease_until < clock_timestamp())
        AND (SELECT count(*) FROM hasty) >= 0
    FOR NO KEY UPDATE SKIP LOCKED
))
RETURNING video_id, channel_id, category_id, zone, pinned_zone, born_at, next_due_at, interval_h, attempts, misses, samples,
    metadata_at, last_at, last_views, velocity, acceleration, weight, viral_score, age_class, watch_level, watch_variance,
    watch_seen_h, watch_evidence_h, watch_open_h, watch_open_views, watch_risen_h, watch_peak;

-- name: count_due
-- How many videos of each zone are due at $2 and held by nobody, counted no further than $1.
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
-- At $2, the $1 longest due videos of each zone that nobody holds; read only.
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
-- Store what sampling brought of claimed videos (one array a column): their samples, their clock and what they add to
-- their channels' norms. A row whose lease token doesn't stand any more is left out of all of it. Under a clock row that
-- had no sample yet lies the count that ingestion told: it joins the log too, unless it is older than $1 or its day has
-- no partition; $2 is the methodology epoch, $3 now. One row: samples stored, and the ids that were left out.
WITH batch AS MATERIALIZED (
    SELECT *
    FROM unnest(
        $4::text[], $5::uuid[], $6::timestamptz[], $7::timestamptz[], $8::smallint[], $9::real[], $10::bigint[],
        $11::bigint[], $12::bigint[], $13::double precision[], $14::smallint[], $15::smallint[], $16::boolean[],
        $17::timestamptz[], $18::bigint[], $19::double precision[], $20::double precision[], $21::double precision[],
        $22::double precision[], $23::double precision[], $24::smallint[], $25::timestamptz[],
        $26::double precision[], $27::double precision[], $28::double precision[], $29::double precision[],
        $30::double precision[], $31::double precision[], $32::double precision[], $33::double precision[],
        $34::smallint[], $35::double precision[]
    ) AS b (
        id, lease_token, sampled_at, next_due_at, zone, interval_h, views, likes, comments, step_velocity,
        methodology, misses, gone, last_at, last_views, velocity, acceleration, weight, relative_velocity,
        viral_score, age_class, metadata_at, watch_level, watch_variance, watch_seen_h, watch_evidence_h,
        watch_open_h, watch_open_views, watch_risen_h, watch_peak, counted_class, counted_log
    )
),
-- Locks the video before its clock, as ingestion does.
leaving AS MATERIALIZED (
    SELECT v.id
    FROM batch AS b
    JOIN videos AS v ON v.id = b.id
    JOIN video_clock AS c ON c.video_id = b.id AND c.lease_token = b.lease_token
    WHERE b.gone
    ORDER BY v.id
    FOR NO KEY UPDATE OF v, c
),
left_videos AS (
    UPDATE videos SET status = 'gone' FROM leaving WHERE videos.id = leaving.id
),
sampled AS (
    UPDATE video_clock AS c
    SET zone = b.zone,
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
        last_likes = coalesce(b.likes, c.last_likes),
        last_comments = coalesce(b.comments, c.last_comments),
        velocity = b.velocity,
        acceleration = b.acceleration,
        weight = b.weight,
        relative_velocity = b.relative_velocity,
        viral_score = b.viral_score,
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
    RETURNING c.video_id, c.channel_id, c.samples, b.sampled_at, b.views, b.likes, b.comments, b.step_velocity,
        b.methodology, b.counted_class, b.counted_log
),
missed AS (
    UPDATE video_clock AS c
    SET status = CASE WHEN b.gone THEN 'gone' ELSE c.status END,
        gone_at = CASE WHEN b.gone THEN $3::timestamptz ELSE c.gone_at END,
        misses = b.misses,
        next_due_at = b.next_due_at,
        lease_until = NULL,
        lease_token = NULL,
        lease_owner = NULL,
        attempts = 0,
        last_error = NULL
    FROM batch AS b
    WHERE c.video_id = b.id AND c.lease_token = b.lease_token AND b.sampled_at IS NULL
        AND (SELECT count(*) FROM leaving) IS NOT NULL
    RETURNING c.video_id
),
-- What stood in the clock before this statement.
first AS (
    SELECT c.video_id, c.last_at, c.last_views, c.last_likes, c.last_comments,
        CASE WHEN c.last_at < $2::timestamptz THEN 1 ELSE 2 END AS methodology
    FROM sampled AS s
    JOIN video_clock AS c ON c.video_id = s.video_id
    WHERE s.samples = 1 AND c.last_at >= $1::timestamptz AND c.last_at < s.sampled_at AND keeps_samples_of(c.last_at)
),
logged AS (
    INSERT INTO video_stats_log (video_id, sampled_at, views, likes, comments, velocity, methodology)
    SELECT video_id, sampled_at, views, likes, comments, step_velocity, methodology FROM sampled
    UNION ALL
    SELECT video_id, last_at, last_views, last_likes, last_comments, NULL, methodology FROM first
    ON CONFLICT (video_id, sampled_at) DO NOTHING
),
normed AS (
    INSERT INTO channel_norms AS n (channel_id, age_class, videos, mean, squares)
    SELECT channel_id, counted_class, count(*), avg(counted_log), var_pop(counted_log) * count(*)
    FROM sampled
    WHERE counted_class IS NOT NULL
    GROUP BY channel_id, counted_class
    ORDER BY channel_id, counted_class
    -- Chan, Golub and LeVeque, 1979.
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
-- Give claims ($1 ids, $2 their tokens) back unsampled, for the reason $3 if there is one, their clock unmoved: claimable
-- after $4 seconds, doubled for every further attempt up to a day; without $5 the claim doesn't count as one.
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
-- Each zone at $1, with a patience of $2 intervals; gone videos are left out. Reads the whole narrow table.
SELECT zone,
    count(*) AS live,
    count(*) FILTER (WHERE next_due_at <= $1) AS due,
    count(*) FILTER (WHERE lease_token IS NOT NULL AND lease_until >= clock_timestamp()) AS leased,
    count(*) FILTER (
        WHERE next_due_at <= $1 AND next_due_at < $1 - (($2::double precision - 1) * interval_h) * interval '1 hour'
    ) AS starving,
    min(next_due_at) FILTER (WHERE next_due_at <= $1) AS oldest_due_at,
    sum(1 / interval_h::double precision) AS demand_per_h
FROM video_clock
WHERE status = 'live'
GROUP BY zone
ORDER BY zone;

-- name: video_titles
-- The titles of the videos $1.
SELECT id, title
FROM videos
WHERE id = ANY ($1::text[]);

-- name: channel_norms
-- The norms of the channels $1 in the age classes $2, pair by pair.
SELECT n.channel_id, n.age_class, n.videos, n.mean, n.squares
FROM unnest($1::text[], $2::smallint[]) AS wanted (channel_id, age_class)
JOIN channel_norms AS n ON n.channel_id = wanted.channel_id AND n.age_class = wanted.age_class;

-- name: cohorts
-- Every cohort of the days $1.
SELECT day, age_class, category_id, measure, digest
FROM velocity_cohorts
WHERE day = ANY ($1::date[])
ORDER BY day, age_class, category_id, measure;

-- name: prepare_cohorts
-- Make room for cohorts (an array a column), in the order in which they are locked.
INSERT INTO velocity_cohorts (day, age_class, category_id, measure, digest)
SELECT day, age_class, category_id, measure, ''
FROM unnest($1::date[], $2::smallint[], $3::integer[], $4::text[]) AS c (day, age_class, category_id, measure)
ORDER BY day, age_class, category_id, measure
ON CONFLICT DO NOTHING;

-- name: lock_cohorts
-- The cohorts (an array a column) as they are, for this transaction alone to write.
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

-- name: claim_due_channels
-- Lease the $1 longest due channels that nobody holds to $2 under token $3 for $4 seconds ($5 now); $6 as for videos.
WITH hasty AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) WHERE $6)
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
        AND (SELECT count(*) FROM hasty) >= 0
    ORDER BY next_due_at
    LIMIT (SELECT $1::bigint)
    FOR NO KEY UPDATE SKIP LOCKED
))
RETURNING channel_id, next_due_at, lease_token, attempts, misses, last_at, subscribers, videos, views;

-- name: update_channel_stats
-- Store what sampling brought of claimed channels (one array a column), those whose lease token still stands: the sample,
-- the clock, and the title where it changed or was last seen a week ago. One row: samples stored, and the ids left out.
WITH batch AS MATERIALIZED (
    SELECT *
    FROM unnest(
        $1::text[], $2::uuid[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[],
        $8::timestamptz[], $9::smallint[], $10::boolean[]
    ) AS b (id, lease_token, sampled_at, subscribers, videos, views, title, next_due_at, misses, gone)
),
titled AS (
    UPDATE channels AS c
    SET title = b.title,
        refreshed_at = b.sampled_at
    FROM batch AS b
    WHERE c.id = b.id AND b.title IS NOT NULL AND b.sampled_at > c.refreshed_at
        AND (c.title IS DISTINCT FROM b.title OR c.refreshed_at < b.sampled_at - interval '7 days')
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
    -- Reads the titles' result so that they are written, and locked, first.
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
-- Give claims of channels back; the parameters are those of release_videos.
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
-- Make the partitions of the UTC days $1; the names of those that were missing.
SELECT ensure_sample_days($1::date[]);

-- name: drop_sample_days
-- Drop the samples of videos from before the UTC day $1; the names of what held them.
SELECT drop_sample_days($1::date);

-- name: forget_before
-- Delete the samples of channels from before the UTC day $1, and the cohorts from before $2.
WITH samples AS (DELETE FROM channel_stats_log WHERE sampled_at < $1::date::timestamp AT TIME ZONE 'UTC')
DELETE FROM velocity_cohorts WHERE day < $2;
