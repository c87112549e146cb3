-- name: to_forecast
-- The first $4 samples after instant $1 (or at $1 and after id $2) up to $3; with what is known of their videos, if they
-- are live and that was their last count, and the velocity that their channel's videos usually have at that age (log
-- scale). Reads the log, where the samples of a span are together: the clock has no index by instant, which would cost it
-- its cheap updates.
WITH page AS MATERIALIZED (
    SELECT video_id, sampled_at
    FROM video_stats_log
    WHERE sampled_at >= $1 AND sampled_at <= $3 AND (sampled_at, video_id) > ($1::timestamptz, $2::text)
    ORDER BY sampled_at, video_id
    LIMIT $4
)
SELECT page.video_id, page.sampled_at, c.last_at, c.born_at, c.last_views, c.velocity, c.acceleration, c.weight,
    v.duration_s, n.videos AS norm_videos, n.mean AS norm_mean
FROM page
LEFT JOIN LATERAL (
    -- OFFSET 0 keeps the look-up by id: the planner can't know how few of a large clock are sought.
    SELECT * FROM video_clock AS c WHERE c.video_id = page.video_id OFFSET 0
) AS c ON c.last_at = page.sampled_at AND c.status = 'live' AND c.last_views IS NOT NULL
LEFT JOIN videos AS v ON v.id = c.video_id
LEFT JOIN channel_norms AS n ON n.channel_id = c.channel_id AND n.age_class = c.age_class
ORDER BY page.sampled_at, page.video_id;

-- name: store
-- Store the forecasts of videos $1, made at $2 with $3 views: for a day $4 to $7, for a week $8 to $11. Videos deleted
-- meanwhile are left out.
INSERT INTO video_forecasts AS f (
    video_id, made_at, views, day_low, day, day_high, day_top, week_low, week, week_high, week_top
)
SELECT new.*
FROM unnest(
    $1::text[], $2::timestamptz[], $3::bigint[], $4::float8[], $5::float8[], $6::float8[], $7::float8[], $8::float8[],
    $9::float8[], $10::float8[], $11::float8[]
) AS new (video_id, made_at, views, day_low, day, day_high, day_top, week_low, week, week_high, week_top)
JOIN videos AS v ON v.id = new.video_id
ORDER BY new.video_id COLLATE "C"
FOR KEY SHARE OF v
ON CONFLICT (video_id) DO UPDATE
SET made_at = excluded.made_at, views = excluded.views, day_low = excluded.day_low, day = excluded.day,
    day_high = excluded.day_high, day_top = excluded.day_top, week_low = excluded.week_low, week = excluded.week,
    week_high = excluded.week_high, week_top = excluded.week_top
WHERE excluded.made_at >= f.made_at;

-- name: add_checks
-- Remember forecasts of videos $1 made at $2 for $3 hours later ($4), in age classes $5, with the snapshots $6 (8 numbers
-- each, one after the other), $7 views, the intervals $8 to $10, the chances $11 and what damped velocity says $12.
INSERT INTO forecast_checks (
    video_id, made_at, horizon_h, due_at, age_class, snapshot, views, low, expected, high, top, damped
)
SELECT new.video_id, new.made_at, new.horizon_h, new.due_at, new.age_class,
    ($6::float8[])[(8 * (new.nth - 1) + 1):(8 * new.nth)], new.views, new.low, new.expected, new.high, new.top, new.damped
FROM unnest(
    $1::text[], $2::timestamptz[], $3::smallint[], $4::timestamptz[], $5::smallint[], $7::bigint[], $8::float8[],
    $9::float8[], $10::float8[], $11::float8[], $12::float8[]
) WITH ORDINALITY
    AS new (video_id, made_at, horizon_h, due_at, age_class, views, low, expected, high, top, damped, nth)
JOIN videos AS v ON v.id = new.video_id
ORDER BY new.video_id COLLATE "C"
FOR KEY SHARE OF v
ON CONFLICT DO NOTHING;

-- name: due_checks
-- At most $2 checks of which can be known by $1 what came or that it never will be, the earliest first: their videos were
-- counted since they were due, or their horizon has passed once more. With the last believed count up to the instant that
-- each is about, and the first one after it, both counted as YouTube did when it was made: it does otherwise since $3.
SELECT k.video_id, k.made_at, k.horizon_h, k.due_at, k.snapshot, k.expected,
    earlier.sampled_at AS earlier_at, earlier.views AS earlier_views, later.sampled_at AS later_at, later.views AS later_views
FROM (
    SELECT k.*, CASE WHEN k.made_at < $3::timestamptz THEN 1 ELSE 2 END AS methodology
    FROM forecast_checks AS k
    LEFT JOIN video_clock AS c ON c.video_id = k.video_id
    WHERE k.settled_at IS NULL AND k.due_at <= $1
        AND (c.last_at >= k.due_at OR k.due_at + k.horizon_h * interval '1 hour' <= $1)
    ORDER BY k.due_at, k.video_id, k.made_at
    LIMIT $2
) AS k
LEFT JOIN LATERAL (
    SELECT s.sampled_at, s.views
    FROM video_stats_log AS s
    WHERE s.video_id = k.video_id AND s.sampled_at <= k.due_at AND s.sampled_at >= k.made_at AND s.views IS NOT NULL
        AND s.doubted IS NOT TRUE AND s.methodology = k.methodology
    ORDER BY s.sampled_at DESC
    LIMIT 1
) AS earlier ON true
LEFT JOIN LATERAL (
    SELECT s.sampled_at, s.views
    FROM video_stats_log AS s
    WHERE s.video_id = k.video_id AND s.sampled_at > k.due_at
        AND s.sampled_at <= k.due_at + k.horizon_h * interval '1 hour' AND s.views IS NOT NULL
        AND s.doubted IS NOT TRUE AND s.methodology = k.methodology
    ORDER BY s.sampled_at
    LIMIT 1
) AS later ON true
ORDER BY k.due_at, k.video_id, k.made_at;

-- name: settle
-- Write what came of the checks of videos $1 made at $2 for $3 hours: $4 (NULL: no sample tells), as of $5.
UPDATE forecast_checks AS k
SET actual = known.actual, settled_at = $5, snapshot = NULL
FROM unnest($1::text[], $2::timestamptz[], $3::smallint[], $4::float8[]) AS known (video_id, made_at, horizon_h, actual)
WHERE k.video_id = known.video_id AND k.made_at = known.made_at AND k.horizon_h = known.horizon_h;

-- name: settled
-- The checks settled in [$1, $3) of which it is known what came, at most $2, the latest first.
SELECT horizon_h, age_class, made_at, views, low, expected, high, top, damped, actual, settled_at
FROM forecast_checks
WHERE settled_at >= $1 AND ($3::timestamptz IS NULL OR settled_at < $3) AND actual IS NOT NULL
ORDER BY settled_at DESC
LIMIT $2;

-- name: latest_settled
-- The last $2 checks over $1 hours of which it is known what came, with the names of their videos, the latest first.
SELECT k.video_id, v.title, v.channel_id, h.title AS channel_title, k.horizon_h, k.made_at, k.views, k.low, k.expected,
    k.high, k.actual
FROM forecast_checks AS k
JOIN videos AS v ON v.id = k.video_id
JOIN channels AS h ON h.id = v.channel_id
WHERE k.settled_at IS NOT NULL AND k.actual IS NOT NULL AND k.horizon_h = $1
ORDER BY k.settled_at DESC, k.actual - k.views DESC
LIMIT $2;

-- name: waiting
-- How many checks wait, and when the first is due.
SELECT count(*) AS checks, min(due_at) AS first_due_at FROM forecast_checks WHERE settled_at IS NULL;

-- name: of_videos
-- The last forecasts of the videos $1.
SELECT video_id, made_at, views, day_low, day, day_high, day_top, week_low, week, week_high, week_top
FROM video_forecasts WHERE video_id = ANY ($1::text[]);

-- name: expire
-- Delete checks settled before $1.
DELETE FROM forecast_checks WHERE settled_at < $1;
