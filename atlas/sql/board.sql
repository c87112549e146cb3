-- name: channels_named
-- The channels whose id is $1, or whose title is $1 in any case.
SELECT id
FROM channels
WHERE id = $1 OR lower(title) = lower($1)
ORDER BY id;

-- name: plan_for_values
-- Until the end of the transaction, plan each statement for the values it is given: how many rows fit a filter decides whether
-- to walk down a ranking or to rank what fits. Indexes cost as little to read as tables, as both are cached or on fast disks.
SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('random_page_cost', '1.1', true),
    set_config('work_mem', '32MB', true), set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true);

-- name: top
-- The $2 live videos with the highest $1, from their clocks, sampled since $3 if given, of those that fit $4 to $14 (see
-- videos_that_fit), and of at least $17 if given. Continues after value $15 and video $16.
SELECT c.video_id, lead.value AS leads_by
FROM videos_that_fit($4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) AS c
CROSS JOIN LATERAL (
    SELECT CASE $1::text
        WHEN 'velocity' THEN c.velocity
        WHEN 'acceleration' THEN c.acceleration
        WHEN 'relative' THEN c.relative_velocity
        WHEN 'score' THEN c.viral_score
    END
) AS lead (value)
WHERE lead.value IS NOT NULL
    AND ($3::timestamptz IS NULL OR c.last_sampled_at >= $3)
    AND ($17::double precision IS NULL OR lead.value >= $17)
    AND ($15::double precision IS NULL OR (lead.value <= $15 AND (lead.value < $15 OR c.video_id > $16::text)))
ORDER BY lead.value DESC NULLS LAST, c.video_id
LIMIT $2;

-- name: tag_share
-- The share of videos that have the tag $1, if it is among the commonest.
SELECT frequency FROM common_tags() WHERE tag = lower($1);

-- name: count_up_to
-- How many videos are of the channels $2 and have the tag $3, NULL being any; counts up to $1.
SELECT count(*)
FROM (
    SELECT
    FROM videos
    WHERE ($2::text[] IS NULL OR channel_id = ANY ($2)) AND ($3::text IS NULL OR lowered(tags) @> ARRAY[lower($3)])
    LIMIT $1
) AS found;

-- name: top_of_first
-- The same of the first $17 by $1 that fit but for what is said of them elsewhere (channel, tag, length, region): if it gives
-- $2, these are the highest of all.
SELECT c.video_id, led.leads_by
FROM (
    SELECT c.video_id, lead.value AS leads_by
    FROM videos_that_fit(NULL, $5, $6, NULL, NULL, $9, $10, $11, $12, $13, NULL) AS c
    CROSS JOIN LATERAL (
        SELECT CASE $1::text
            WHEN 'acceleration' THEN c.acceleration
            WHEN 'relative' THEN c.relative_velocity
            WHEN 'score' THEN c.viral_score
        END
    ) AS lead (value)
    WHERE lead.value IS NOT NULL
        AND ($3::timestamptz IS NULL OR c.last_sampled_at >= $3)
        AND ($15::double precision IS NULL OR (lead.value <= $15 AND (lead.value < $15 OR c.video_id > $16::text)))
    ORDER BY lead.value DESC NULLS LAST, c.video_id
    LIMIT $17
) AS led
CROSS JOIN LATERAL (
    SELECT video_id
    FROM videos_that_fit($4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
    WHERE video_id = led.video_id
    LIMIT 1
) AS c
ORDER BY led.leads_by DESC, led.video_id
LIMIT $2;

-- name: top_expected
-- The $1 live videos that are expected to gain most views in the 24 hours after their last count, if that was since $2, of
-- those that fit $3 to $13. Continues after value $14 and video $15.
SELECT f.video_id, f.day - f.views AS leads_by
FROM videos_that_fit($3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) AS c
JOIN video_forecasts AS f ON f.video_id = c.video_id
WHERE f.made_at >= $2
    AND ($14::double precision IS NULL OR (f.day - f.views <= $14 AND (f.day - f.views < $14 OR f.video_id > $15::text)))
ORDER BY f.day - f.views DESC, f.video_id
LIMIT $1;

-- name: growth_of_fastest
-- How many views per hour the $1 fastest of the videos that fit $5 to $14 gained between their first and last known count in
-- [$2, $3], both counted by methodology $4; NULL for those without two counts there.
SELECT fastest.video_id, growth_per_hour(first.count, last.count) AS leads_by
FROM (
    SELECT video_id
    FROM videos_that_fit($5, $6, $7, $8, $9, $10, $11, $12, $13, NULL, $14)
    ORDER BY velocity DESC NULLS LAST, video_id
    LIMIT $1
) AS fastest
LEFT JOIN LATERAL (
    SELECT count_at(sampled_at, views)
    FROM video_stats_log
    WHERE video_id = fastest.video_id AND sampled_at >= $2 AND sampled_at <= $3
        AND methodology = $4 AND views IS NOT NULL AND doubted IS NOT TRUE
    ORDER BY sampled_at
    LIMIT 1
) AS first (count) ON true
LEFT JOIN LATERAL (
    SELECT count_at(sampled_at, views)
    FROM video_stats_log
    WHERE video_id = fastest.video_id AND sampled_at >= $2 AND sampled_at <= $3
        AND methodology = $4 AND views IS NOT NULL AND doubted IS NOT TRUE
    ORDER BY sampled_at DESC
    LIMIT 1
) AS last (count) ON true;

-- name: top_grown
-- The $1 videos that gained most views per hour between their first and last known count in [$2, $3], both counted by
-- methodology $4, of those that fit $5 to $14, if that is at least $15: as no mean is above what it is of, they all grew at such
-- a rate in one step. Continues after value $16 and video $17. If $18, few videos are of the channels or have the tag, which
-- are then looked for at once.
WITH steep AS MATERIALIZED (
    SELECT DISTINCT video_id
    FROM video_stats_log
    WHERE sampled_at >= $2 AND sampled_at <= $3 AND velocity >= $15
)
SELECT c.video_id, growth.per_hour AS leads_by
FROM (
    SELECT video_id
    FROM steep
    WHERE NOT $18::boolean OR video_id IN (
        SELECT id
        FROM videos
        WHERE ($5::text[] IS NULL OR channel_id = ANY ($5)) AND ($8::text IS NULL OR lowered(tags) @> ARRAY[lower($8)])
    )
) AS steep
-- One by one, as there are far fewer than the planner can know.
CROSS JOIN LATERAL (
    SELECT video_id
    FROM videos_that_fit($5, $6, $7, $8, $9, $10, $11, $12, $13, NULL, $14)
    WHERE video_id = steep.video_id
    LIMIT 1
) AS c
CROSS JOIN LATERAL (
    SELECT count_at(sampled_at, views)
    FROM video_stats_log
    WHERE video_id = c.video_id AND sampled_at >= $2 AND sampled_at <= $3
        AND methodology = $4 AND views IS NOT NULL AND doubted IS NOT TRUE
    ORDER BY sampled_at
    LIMIT 1
) AS first (count)
CROSS JOIN LATERAL (
    SELECT count_at(sampled_at, views)
    FROM video_stats_log
    WHERE video_id = c.video_id AND sampled_at >= $2 AND sampled_at <= $3
        AND methodology = $4 AND views IS NOT NULL AND doubted IS NOT TRUE
    ORDER BY sampled_at DESC
    LIMIT 1
) AS last (count)
CROSS JOIN LATERAL (SELECT growth_per_hour(first.count, last.count)) AS growth (per_hour)
WHERE growth.per_hour >= $15
    AND ($16::double precision IS NULL OR growth.per_hour < $16 OR (growth.per_hour = $16 AND c.video_id > $17::text))
ORDER BY growth.per_hour DESC, c.video_id
LIMIT $1;

-- name: top_grown_of_all
-- The same, however slow the steps were, which reads every sample of the window; of those that gained at least $15.
WITH seen AS MATERIALIZED (
    SELECT video_id, min(sampled_at) AS first_at, max(sampled_at) AS last_at
    FROM video_stats_log
    WHERE sampled_at >= $2 AND sampled_at <= $3 AND methodology = $4 AND views IS NOT NULL AND doubted IS NOT TRUE
    GROUP BY video_id
    HAVING count(*) > 1
),
fitting AS MATERIALIZED (
    SELECT seen.*
    FROM seen
    JOIN videos_that_fit($5, $6, $7, $8, $9, $10, $11, $12, $13, NULL, $14) AS c ON c.video_id = seen.video_id
)
SELECT c.video_id, growth.per_hour AS leads_by
FROM fitting AS c
CROSS JOIN LATERAL (
    SELECT count_at(sampled_at, views) FROM video_stats_log WHERE video_id = c.video_id AND sampled_at = c.first_at LIMIT 1
) AS first (count)
CROSS JOIN LATERAL (
    SELECT count_at(sampled_at, views) FROM video_stats_log WHERE video_id = c.video_id AND sampled_at = c.last_at LIMIT 1
) AS last (count)
CROSS JOIN LATERAL (SELECT growth_per_hour(first.count, last.count)) AS growth (per_hour)
WHERE growth.per_hour IS NOT NULL
    AND ($15::double precision IS NULL OR growth.per_hour >= $15)
    AND ($16::double precision IS NULL OR growth.per_hour < $16 OR (growth.per_hour = $16 AND c.video_id > $17::text))
ORDER BY growth.per_hour DESC, c.video_id
LIMIT $1;

-- name: leaders
-- What a leaderboard tells of the videos $1, which lead by $2, in their order.
SELECT c.video_id AS id, v.title, c.channel_id, h.title AS channel_title, c.category_id, v.published_at, v.duration_s,
    v.live_broadcast_content, c.zone, c.last_at, c.last_views AS views, c.velocity, c.acceleration, c.relative_velocity, c.viral_score,
    led.leads_by
FROM unnest($1::text[], $2::double precision[]) WITH ORDINALITY AS led (video_id, leads_by, place)
JOIN video_clock AS c ON c.video_id = led.video_id
JOIN videos AS v ON v.id = led.video_id
JOIN channels AS h ON h.id = c.channel_id
ORDER BY led.place;

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
    c.gone_at, c.last_error, c.last_sampled_at, c.last_at, c.last_views, c.last_likes, c.last_comments,
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
-- Of the $4 newest videos of the channel $1 that were published up to $2: how many have known views, and the median of these;
-- separately for videos of up to $3 seconds and longer ones.
SELECT v.duration_s <= $3 AS is_short, count(*) AS videos,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY coalesce(c.last_views, v.view_count)) AS views
FROM (
    SELECT id, duration_s, view_count
    FROM videos
    WHERE channel_id = $1 AND published_at <= $2 AND duration_s > 0
    ORDER BY published_at DESC NULLS LAST, id
    LIMIT $4
) AS v
LEFT JOIN video_clock AS c ON c.video_id = v.id
WHERE coalesce(c.last_views, v.view_count) IS NOT NULL
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
-- the share is of all tags that either has. What has only tags in common that very many videos have is not looked at, unless
-- the video has no other tags.
WITH wanted AS MATERIALIZED (
    SELECT tag
    FROM (
        SELECT tag, frequency, rank() OVER (ORDER BY frequency NULLS FIRST, tag) AS place
        FROM (SELECT DISTINCT tag FROM unnest(lowered($2::text[])) AS given (tag)) AS given
        LEFT JOIN common_tags() AS common USING (tag)
    ) AS ranked
    WHERE place = 1 OR coalesce(frequency, 0) < 0.02
),
shared AS (
    SELECT DISTINCT found.id
    FROM wanted
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

-- name: tags_of_youngest
-- The tags of the $1 live videos that were born last before $2, those without any left out, and their velocity.
SELECT v.tags, c.velocity
FROM (
    SELECT video_id, velocity
    FROM video_clock
    WHERE born_at <= $2 AND status = 'live'
    ORDER BY born_at DESC
    LIMIT $1
) AS c
JOIN videos AS v ON v.id = c.video_id
WHERE v.tags <> '{}';
