-- name: channels_named
-- The channels whose id is $1, or whose title is, in any case.
SELECT id
FROM channels
WHERE id = $1 OR lower(title) = lower($1)
ORDER BY id;

-- name: top
-- The $2 live videos that lead by $1, as the clock has them: of the channels $3, category $4, zone $5 and tag $6, sampled
-- since $7, each where it is given. A scan of the narrow clock: an index on what every sample changes would cost each of
-- them more than the few looks at a board are worth.
WITH led AS (
    -- Of so many rows, only what ranks them: the rest is read for the leaders.
    SELECT c.video_id, lead.value AS leads_by
    FROM video_clock AS c
    -- OFFSET keeps this from being looked up video by video, as the planner can't tell how rare a tag is.
    LEFT JOIN (
        SELECT id
        FROM videos
        WHERE $6::text IS NOT NULL AND EXISTS (SELECT FROM unnest(tags) AS tag WHERE lower(tag) = lower($6))
        OFFSET 0
    ) AS tagged ON tagged.id = c.video_id
    CROSS JOIN LATERAL (
        SELECT CASE $1::text
            WHEN 'velocity' THEN c.velocity
            WHEN 'acceleration' THEN c.acceleration
            WHEN 'relative' THEN c.relative_velocity
            WHEN 'score' THEN c.viral_score
        END
    ) AS lead (value)
    WHERE c.status = 'live'
        AND ($3::text[] IS NULL OR c.channel_id = ANY ($3))
        AND ($4::integer IS NULL OR c.category_id = $4)
        AND ($5::smallint IS NULL OR c.zone = $5)
        AND ($6::text IS NULL OR tagged.id IS NOT NULL)
        AND ($7::timestamptz IS NULL OR c.last_sampled_at >= $7)
        AND lead.value IS NOT NULL
    ORDER BY lead.value DESC, c.video_id
    LIMIT $2
)
SELECT c.video_id AS id, v.title, c.channel_id, h.title AS channel_title, c.category_id, v.published_at, c.zone, c.last_at,
    c.last_views AS views, c.velocity, c.acceleration, c.relative_velocity, c.viral_score, led.leads_by
FROM led
JOIN video_clock AS c ON c.video_id = led.video_id
JOIN videos AS v ON v.id = led.video_id
JOIN channels AS h ON h.id = c.channel_id
ORDER BY led.leads_by DESC, led.video_id;

-- name: top_grown
-- The $1 live videos that gained most views an hour between their first and last known count in [$6, $7], both counted by
-- methodology $8: of the channels $2, category $3, zone $4 and tag $5, each where it is given.
WITH seen AS (
    -- Arrays compare element by element: the least is the first count with its instant, in microseconds.
    SELECT video_id,
        min(ARRAY[(date_part('epoch', sampled_at) * 1e6)::bigint, views]) AS first,
        max(ARRAY[(date_part('epoch', sampled_at) * 1e6)::bigint, views]) AS last
    FROM video_stats_log
    WHERE sampled_at >= $6 AND sampled_at <= $7 AND methodology = $8 AND views IS NOT NULL
    GROUP BY video_id
),
led AS (
    SELECT c.video_id, lead.value AS leads_by
    FROM seen
    JOIN video_clock AS c ON c.video_id = seen.video_id
    LEFT JOIN (
        SELECT id
        FROM videos
        WHERE $5::text IS NOT NULL AND EXISTS (SELECT FROM unnest(tags) AS tag WHERE lower(tag) = lower($5))
        OFFSET 0
    ) AS tagged ON tagged.id = c.video_id
    CROSS JOIN LATERAL (
        SELECT (last[2] - first[2]) / nullif((last[1] - first[1]) / 3.6e9::double precision, 0)
    ) AS lead (value)
    WHERE c.status = 'live'
        AND ($2::text[] IS NULL OR c.channel_id = ANY ($2))
        AND ($3::integer IS NULL OR c.category_id = $3)
        AND ($4::smallint IS NULL OR c.zone = $4)
        AND ($5::text IS NULL OR tagged.id IS NOT NULL)
        AND lead.value IS NOT NULL
    ORDER BY lead.value DESC, c.video_id
    LIMIT $1
)
SELECT c.video_id AS id, v.title, c.channel_id, h.title AS channel_title, c.category_id, v.published_at, c.zone, c.last_at,
    c.last_views AS views, c.velocity, c.acceleration, c.relative_velocity, c.viral_score, led.leads_by
FROM led
JOIN video_clock AS c ON c.video_id = led.video_id
JOIN videos AS v ON v.id = led.video_id
JOIN channels AS h ON h.id = c.channel_id
ORDER BY led.leads_by DESC, led.video_id;

-- name: samples
-- The samples of the videos $1 in [$2, $3], each video's in their order.
SELECT video_id, sampled_at, views, likes, comments, velocity, methodology
FROM video_stats_log
WHERE video_id = ANY ($1::text[]) AND sampled_at >= $2 AND sampled_at <= $3
ORDER BY video_id, sampled_at;

-- name: video
-- Everything known of the video $1 besides its samples; `watched` says whether the video or its channel is.
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
-- The last $2 breakouts of the video $1 that the event log tells of, newest first.
SELECT at, payload
FROM events
WHERE kind = 'tracker.breakout' AND payload ->> 'video_id' = $1
ORDER BY id DESC
LIMIT $2;
