-- name: samples
-- The samples in [$1, $2), by instant. Optional filters on their videos: length $3 ('short': up to $5 seconds; 'long'),
-- broadcast $4.
SELECT video_id, sampled_at, views, likes, comments, velocity, methodology, coalesce(source::text, 'api')
FROM video_stats_log AS s
WHERE sampled_at >= $1 AND sampled_at < $2
    AND (
        coalesce($3::text, $4::text) IS NULL
        OR EXISTS (
            SELECT
            FROM videos AS v
            WHERE v.id = s.video_id
                AND ($3 IS NULL OR CASE WHEN duration_s > $5 THEN 'long' WHEN duration_s > 0 THEN 'short' END = $3)
                AND ($4 IS NULL OR coalesce(live_broadcast_content, 'none') = $4)
        )
    )
ORDER BY sampled_at, video_id;

-- name: channel_samples
-- The samples of channels in [$1, $2), by instant.
SELECT channel_id, sampled_at, subscribers, videos, views
FROM channel_stats_log
WHERE sampled_at >= $1 AND sampled_at < $2
ORDER BY sampled_at, channel_id;

-- name: first_channel_sample
-- The instant of the first sample of any channel; NULL if there is none.
SELECT min(sampled_at) FROM channel_stats_log;

-- name: first_sample
-- An instant that no sample is older than; NULL if there are no samples. Uses the partitions' names if the log has
-- partitions, because no index leads to the first instant.
SELECT CASE
    WHEN (SELECT relkind FROM pg_class WHERE oid = 'video_stats_log'::regclass) = 'p' THEN (
        SELECT min(to_date(right(relname, 8), 'YYYYMMDD'))::timestamp AT TIME ZONE 'UTC'
        FROM pg_inherits
        JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'video_stats_log'::regclass
    )
    ELSE (SELECT min(sampled_at) FROM video_stats_log)
END;

-- name: videos_end
-- The id of the $2-th video after id $1, or of the last video; NULL if there is none after $1.
SELECT max(id)
FROM (SELECT id FROM videos WHERE id > $1 ORDER BY id LIMIT $2) AS following;

-- name: videos
-- The videos after id $1 up to id $2, with values from their clocks and their last forecasts. Optional filters: discovered
-- in [$3, $4), length $5 ('short': up to $7 seconds; 'long'), broadcast $6.
SELECT v.id, v.channel_id, h.title AS channel_title, v.title, v.description, array_to_json(v.tags), v.published_at,
    v.discovered_at, v.refreshed_at, v.category_id, v.duration_s, v.live_broadcast_content, v.default_language,
    coalesce(c.status, v.status), (ARRAY['hot', 'warm', 'cold'])[c.zone + 1], c.samples, c.last_at, c.last_views, c.last_likes, c.last_comments,
    c.velocity, c.acceleration, c.relative_velocity, c.viral_score, f.made_at, f.views, f.day, f.day_low, f.day_high,
    f.day_top, f.week, f.week_low, f.week_high, f.week_top
FROM videos AS v
JOIN channels AS h ON h.id = v.channel_id
LEFT JOIN video_clock AS c ON c.video_id = v.id
LEFT JOIN video_forecasts AS f ON f.video_id = v.id
WHERE v.id > $1 AND v.id <= $2
    AND ($3::timestamptz IS NULL OR v.discovered_at >= $3)
    AND ($4::timestamptz IS NULL OR v.discovered_at < $4)
    AND ($5::text IS NULL OR CASE WHEN v.duration_s > $7 THEN 'long' WHEN v.duration_s > 0 THEN 'short' END = $5)
    AND ($6::text IS NULL OR coalesce(v.live_broadcast_content, 'none') = $6)
ORDER BY v.id;

-- name: channels_end
-- The id of the $2-th channel after id $1, or of the last channel; NULL if there is none after $1.
SELECT max(id)
FROM (SELECT id FROM channels WHERE id > $1 ORDER BY id LIMIT $2) AS following;

-- name: channels
-- The channels after id $1 up to id $2, with values from their clocks. Optional filter: discovered in [$3, $4).
SELECT h.id, h.title, h.discovered_at, h.refreshed_at, coalesce(c.status, 'live'), c.last_at, c.subscribers, c.videos,
    c.views
FROM channels AS h
LEFT JOIN channel_clock AS c ON c.channel_id = h.id
WHERE h.id > $1 AND h.id <= $2
    AND ($3::timestamptz IS NULL OR h.discovered_at >= $3)
    AND ($4::timestamptz IS NULL OR h.discovered_at < $4)
ORDER BY h.id;
