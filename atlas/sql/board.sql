-- name: channels_named
-- The channels whose id is $1, or whose title is $1 in any case.
SELECT id
FROM channels
WHERE id = $1 OR lower(title) = lower($1)
ORDER BY id;

-- name: top
-- The $2 live videos with the highest $1, from their clocks. Optional filters: channels $3, category $4, zone $5, tag $6,
-- sampled since $7, length $8 ('short': up to $10 seconds; 'long'), broadcast $9, born in [$11, $12], velocity of at least
-- $13, found by a search of the region $14. Continues after value $15 and video $16. Scans the narrow clock table: an index on
-- columns that every sample changes would cost more in updates than it saves on the rare leaderboard.
WITH led AS (
    -- Reads only the ranking columns of the many rows; the rest is read for the leaders alone.
    SELECT c.video_id, lead.value AS leads_by
    FROM video_clock AS c
    -- OFFSET 0 prevents a look-up per video: the planner can't know how rare a tag is.
    LEFT JOIN (
        SELECT id
        FROM videos
        WHERE ($3::text[] IS NOT NULL OR coalesce($6::text, $8::text, $9::text, $14::text) IS NOT NULL)
            AND ($3 IS NULL OR channel_id = ANY ($3))
            AND ($6 IS NULL OR lowered(tags) @> ARRAY[lower($6)])
            AND ($8 IS NULL OR CASE WHEN duration_s > $10 THEN 'long' WHEN duration_s > 0 THEN 'short' END = $8)
            AND ($9 IS NULL OR coalesce(live_broadcast_content, 'none') = $9)
            AND ($14 IS NULL OR discovered_by = ANY (
                ARRAY(SELECT q.id FROM search_queue AS q WHERE q.parameters ->> 'region' = $14)
            ))
        OFFSET 0
    ) AS wanted ON wanted.id = c.video_id
    CROSS JOIN LATERAL (
        SELECT CASE $1::text
            WHEN 'velocity' THEN c.velocity
            WHEN 'acceleration' THEN c.acceleration
            WHEN 'relative' THEN c.relative_velocity
            WHEN 'score' THEN c.viral_score
        END
    ) AS lead (value)
    WHERE c.status = 'live'
        AND ($4::integer IS NULL OR c.category_id = $4)
        AND ($5::smallint IS NULL OR c.zone = $5)
        AND (($3 IS NULL AND coalesce($6::text, $8::text, $9::text, $14::text) IS NULL) OR wanted.id IS NOT NULL)
        AND ($11::timestamptz IS NULL OR c.born_at >= $11) AND ($12::timestamptz IS NULL OR c.born_at <= $12)
        AND ($13::double precision IS NULL OR c.velocity >= $13)
        AND ($7::timestamptz IS NULL OR c.last_sampled_at >= $7)
        AND lead.value IS NOT NULL
        AND ($15::double precision IS NULL OR lead.value < $15 OR (lead.value = $15 AND c.video_id > $16::text))
    ORDER BY lead.value DESC, c.video_id
    LIMIT $2
)
SELECT c.video_id AS id, v.title, c.channel_id, h.title AS channel_title, c.category_id, v.published_at, v.duration_s,
    v.live_broadcast_content, c.zone, c.last_at, c.last_views AS views, c.velocity, c.acceleration, c.relative_velocity, c.viral_score, led.leads_by
FROM led
JOIN video_clock AS c ON c.video_id = led.video_id
JOIN videos AS v ON v.id = led.video_id
JOIN channels AS h ON h.id = c.channel_id
ORDER BY led.leads_by DESC, led.video_id;

-- name: top_grown
-- The $1 live videos that gained most views per hour between their first and last known count in [$6, $7], both counted by
-- methodology $8. Optional filters: channels $2, category $3, zone $4, tag $5, length $9 ('short': up to $11 seconds;
-- 'long'), broadcast $10, born in [$12, $13], gaining at least $14 views per hour, found by a search of the
-- region $15. Continues after value $16 and video $17.
WITH seen AS (
    -- Arrays compare element by element, so the least one holds the first instant (in microseconds) and its count.
    SELECT video_id,
        min(ARRAY[(date_part('epoch', sampled_at) * 1e6)::bigint, views]) AS first,
        max(ARRAY[(date_part('epoch', sampled_at) * 1e6)::bigint, views]) AS last
    FROM video_stats_log
    WHERE sampled_at >= $6 AND sampled_at <= $7 AND methodology = $8 AND views IS NOT NULL
        AND doubted IS NOT TRUE
    GROUP BY video_id
),
led AS (
    SELECT c.video_id, lead.value AS leads_by
    FROM seen
    JOIN video_clock AS c ON c.video_id = seen.video_id
    LEFT JOIN (
        SELECT id
        FROM videos
        WHERE ($2::text[] IS NOT NULL OR coalesce($5::text, $9::text, $10::text, $15::text) IS NOT NULL)
            AND ($2 IS NULL OR channel_id = ANY ($2))
            AND ($5 IS NULL OR lowered(tags) @> ARRAY[lower($5)])
            AND ($9 IS NULL OR CASE WHEN duration_s > $11 THEN 'long' WHEN duration_s > 0 THEN 'short' END = $9)
            AND ($10 IS NULL OR coalesce(live_broadcast_content, 'none') = $10)
            AND ($15 IS NULL OR discovered_by = ANY (
                ARRAY(SELECT q.id FROM search_queue AS q WHERE q.parameters ->> 'region' = $15)
            ))
        OFFSET 0
    ) AS wanted ON wanted.id = c.video_id
    CROSS JOIN LATERAL (
        SELECT (last[2] - first[2]) / nullif((last[1] - first[1]) / 3.6e9::double precision, 0)
    ) AS lead (value)
    WHERE c.status = 'live'
        AND ($3::integer IS NULL OR c.category_id = $3)
        AND ($4::smallint IS NULL OR c.zone = $4)
        AND (($2 IS NULL AND coalesce($5::text, $9::text, $10::text, $15::text) IS NULL) OR wanted.id IS NOT NULL)
        AND ($12::timestamptz IS NULL OR c.born_at >= $12) AND ($13::timestamptz IS NULL OR c.born_at <= $13)
        AND ($14::double precision IS NULL OR lead.value >= $14)
        AND lead.value IS NOT NULL
        AND ($16::double precision IS NULL OR lead.value < $16 OR (lead.value = $16 AND c.video_id > $17::text))
    ORDER BY lead.value DESC, c.video_id
    LIMIT $1
)
SELECT c.video_id AS id, v.title, c.channel_id, h.title AS channel_title, c.category_id, v.published_at, v.duration_s,
    v.live_broadcast_content, c.zone, c.last_at, c.last_views AS views, c.velocity, c.acceleration, c.relative_velocity, c.viral_score, led.leads_by
FROM led
JOIN video_clock AS c ON c.video_id = led.video_id
JOIN videos AS v ON v.id = led.video_id
JOIN channels AS h ON h.id = c.channel_id
ORDER BY led.leads_by DESC, led.video_id;

-- name: top_expected
-- The $1 live videos that are expected to gain most views in the 24 hours after their last count, if that was since $6.
-- Optional filters: channels $2, category $3, zone $4, tag $5, length $7 ('short': up to $9 seconds; 'long'), broadcast $8, born in
-- [$10, $11], velocity of at least $12, found by a search of the region $13. Continues after value $14 and video $15.
WITH fitting AS (
    -- OFFSET 0 makes the planner join all at once: it can't know how rare those that fit are, and would look them up one by
    -- one from the top.
    SELECT f.video_id, f.day - f.views AS leads_by
    FROM video_forecasts AS f
    JOIN video_clock AS c ON c.video_id = f.video_id
    LEFT JOIN (
        SELECT id
        FROM videos
        WHERE ($2::text[] IS NOT NULL OR coalesce($5::text, $7::text, $8::text, $13::text) IS NOT NULL)
            AND ($2 IS NULL OR channel_id = ANY ($2))
            AND ($5 IS NULL OR lowered(tags) @> ARRAY[lower($5)])
            AND ($7 IS NULL OR CASE WHEN duration_s > $9 THEN 'long' WHEN duration_s > 0 THEN 'short' END = $7)
            AND ($8 IS NULL OR coalesce(live_broadcast_content, 'none') = $8)
            AND ($13 IS NULL OR discovered_by = ANY (
                ARRAY(SELECT q.id FROM search_queue AS q WHERE q.parameters ->> 'region' = $13)
            ))
        OFFSET 0
    ) AS wanted ON wanted.id = f.video_id
    WHERE f.made_at >= $6 AND c.status = 'live'
        AND ($3::integer IS NULL OR c.category_id = $3)
        AND ($4::smallint IS NULL OR c.zone = $4)
        AND (($2 IS NULL AND coalesce($5::text, $7::text, $8::text, $13::text) IS NULL) OR wanted.id IS NOT NULL)
        AND ($10::timestamptz IS NULL OR c.born_at >= $10) AND ($11::timestamptz IS NULL OR c.born_at <= $11)
        AND ($12::double precision IS NULL OR c.velocity >= $12)
    OFFSET 0
),
led AS (
    SELECT video_id, leads_by
    FROM fitting
    WHERE ($14::double precision IS NULL OR leads_by < $14 OR (leads_by = $14 AND video_id > $15::text))
    ORDER BY leads_by DESC, video_id
    LIMIT $1
)
SELECT c.video_id AS id, v.title, c.channel_id, h.title AS channel_title, c.category_id, v.published_at, v.duration_s,
    v.live_broadcast_content, c.zone, c.last_at, c.last_views AS views, c.velocity, c.acceleration, c.relative_velocity, c.viral_score, led.leads_by
FROM led
JOIN video_clock AS c ON c.video_id = led.video_id
JOIN videos AS v ON v.id = led.video_id
JOIN channels AS h ON h.id = c.channel_id
ORDER BY led.leads_by DESC, led.video_id;

-- name: samples
-- The samples of the videos $1 in [$2, $3], by video and instant.
SELECT video_id, sampled_at, views, likes, comments, velocity, methodology, coalesce(source::text, 'api') AS source
FROM video_stats_log
WHERE video_id = ANY ($1::text[]) AND sampled_at >= $2 AND sampled_at <= $3
ORDER BY video_id, sampled_at;

-- name: video
-- All that is known about the video $1 except its samples; `watched` says whether it or its channel is watched.
SELECT v.id, v.channel_id, h.title AS channel_title, v.title, v.description, v.published_at, v.discovered_at,
    q.query AS discovered_by, v.refreshed_at, v.category_id, v.duration_s, v.live_broadcast_content, v.default_language,
    v.tags, v.view_count, v.like_count, v.comment_count, coalesce(c.status, v.status) AS status, c.zone, c.pinned_zone,
    EXISTS (
        SELECT
        FROM watches AS w
        WHERE (w.kind, w.id) IN (('video', v.id), ('channel', v.channel_id))
    ) AS watched,
    c.interval_h, c.next_due_at, c.lease_token IS NOT NULL AND c.lease_until >= clock_timestamp() AS leased, c.misses,
    c.gone_at, c.last_error, c.samples, c.last_sampled_at, c.last_at, c.last_views, c.last_likes, c.last_comments,
    c.velocity, c.acceleration, c.relative_velocity, c.viral_score
FROM videos AS v
JOIN channels AS h ON h.id = v.channel_id
LEFT JOIN search_queue AS q ON q.id = v.discovered_by
LEFT JOIN video_clock AS c ON c.video_id = v.id
WHERE v.id = $1;

-- name: breakouts
-- The last $2 breakouts of the video $1 in the event log, newest first.
SELECT at, payload
FROM events
WHERE kind = 'tracker.breakout' AND payload ->> 'video_id' = $1
ORDER BY id DESC
LIMIT $2;

-- name: names_of
-- Titles and channels of the videos $1, as far as they are stored.
SELECT v.id, v.title, v.channel_id, h.title AS channel_title
FROM videos AS v
JOIN channels AS h ON h.id = v.channel_id
WHERE v.id = ANY ($1::text[]);

-- name: channel
-- All that is known about the channel $1 except its samples and videos.
SELECT h.id, h.title, h.discovered_at, coalesce(c.status, 'live') AS status, w.id IS NOT NULL AS watched,
    w.zone AS pinned_zone, c.next_due_at, c.last_at, c.subscribers, c.videos, c.views,
    (SELECT count(*) FROM videos AS v WHERE v.channel_id = h.id) AS videos_stored
FROM channels AS h
LEFT JOIN channel_clock AS c ON c.channel_id = h.id
LEFT JOIN watches AS w ON w.kind = 'channel' AND w.id = h.id
WHERE h.id = $1;

-- name: channel_samples
-- The samples of the channel $1 in [$2, $3], oldest first.
SELECT sampled_at, subscribers, videos, views
FROM channel_stats_log
WHERE channel_id = $1 AND sampled_at >= $2 AND sampled_at <= $3
ORDER BY sampled_at;

-- name: channel_norms
-- The norms of the channel $1 by age class, youngest first.
SELECT age_class, videos, mean, squares
FROM channel_norms
WHERE channel_id = $1
ORDER BY age_class;

-- name: channel_medians
-- The number of videos of the channel $1 with known views that were published up to $2, and the median of their views;
-- separately for videos of up to $3 seconds and longer ones.
SELECT v.duration_s <= $3 AS is_short, count(*) AS videos,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY coalesce(c.last_views, v.view_count)) AS views
FROM videos AS v
LEFT JOIN video_clock AS c ON c.video_id = v.id
WHERE v.channel_id = $1 AND v.published_at <= $2 AND v.duration_s > 0 AND coalesce(c.last_views, v.view_count) IS NOT NULL
GROUP BY is_short
ORDER BY is_short;

-- name: uploads
-- The $2 newest videos of the channel $1, with the latest counts from their clocks.
SELECT v.id, v.title, v.published_at, v.duration_s, v.live_broadcast_content, coalesce(c.status, v.status) AS status, c.zone,
    coalesce(c.last_views, v.view_count) AS views, c.velocity, c.relative_velocity, c.viral_score
FROM videos AS v
LEFT JOIN video_clock AS c ON c.video_id = v.id
WHERE v.channel_id = $1
ORDER BY v.published_at DESC NULLS LAST, v.id
LIMIT $2;

-- name: similar
-- The $4 videos that share most of the tags $2 in any case (at most $3 videos are looked at for each) with the video $1:
-- the share is of all tags that either has.
WITH shared AS (
    SELECT DISTINCT found.id
    FROM unnest(lowered($2::text[])) AS wanted (tag)
    CROSS JOIN LATERAL (
        SELECT id
        FROM videos
        WHERE lowered(tags) @> ARRAY[wanted.tag]
        LIMIT $3
    ) AS found
    WHERE found.id <> $1
),
compared AS (
    SELECT v.id, both_have.tags AS shared_tags,
        cardinality(both_have.tags)::double precision / (
            SELECT count(*) FROM (SELECT unnest(lowered(v.tags)) UNION SELECT unnest(lowered($2))) AS either
        ) AS share
    FROM shared
    JOIN videos AS v USING (id)
    CROSS JOIN LATERAL (
        SELECT ARRAY(SELECT unnest(lowered(v.tags)) INTERSECT SELECT unnest(lowered($2)) ORDER BY 1)
    ) AS both_have (tags)
    WHERE v.status = 'live'
)
SELECT o.id, v.title, v.channel_id, h.title AS channel_title, v.published_at, coalesce(c.last_views, v.view_count) AS views,
    c.velocity, o.share, o.shared_tags
FROM compared AS o
JOIN videos AS v ON v.id = o.id
JOIN channels AS h ON h.id = v.channel_id
LEFT JOIN video_clock AS c ON c.video_id = v.id
ORDER BY o.share DESC, c.velocity DESC NULLS LAST, o.id
LIMIT $4;
