-- name: samples
-- The samples of [$1, $2), in the order of their instants.
SELECT video_id, sampled_at, views, likes, comments, velocity, methodology
FROM video_stats_log
WHERE sampled_at >= $1 AND sampled_at < $2
ORDER BY sampled_at, video_id;

-- name: first_sample
-- No sample is older than this; NULL if there is none. Asks the partitions where there are any, as no index leads to the
-- first instant.
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
-- The $2-th video id after $1, or the last one; NULL if none follows.
SELECT max(id)
FROM (SELECT id FROM videos WHERE id > $1 ORDER BY id LIMIT $2) AS following;

-- name: videos
-- The videos after id $1 up to $2 that were discovered in [$3, $4), each bound where it is given, with their clocks.
SELECT v.id, v.channel_id, h.title AS channel_title, v.title, v.description, array_to_json(v.tags), v.published_at,
    v.discovered_at, v.refreshed_at, v.category_id, v.duration_s, v.live_broadcast_content, v.default_language,
    coalesce(c.status, v.status), (ARRAY['hot', 'warm', 'cold'])[c.zone + 1], c.samples, c.last_at, c.last_views, c.last_likes, c.last_comments,
    c.velocity, c.acceleration, c.relative_velocity, c.viral_score
FROM videos AS v
JOIN channels AS h ON h.id = v.channel_id
LEFT JOIN video_clock AS c ON c.video_id = v.id
WHERE v.id > $1 AND v.id <= $2
    AND ($3::timestamptz IS NULL OR v.discovered_at >= $3)
    AND ($4::timestamptz IS NULL OR v.discovered_at < $4)
ORDER BY v.id;

-- name: channels_end
-- The $2-th channel id after $1, or the last one; NULL if none follows.
SELECT max(id)
FROM (SELECT id FROM channels WHERE id > $1 ORDER BY id LIMIT $2) AS following;

-- name: channels
-- The channels after id $1 up to $2 that were discovered in [$3, $4), each bound where it is given, with their clocks.
SELECT h.id, h.title, h.discovered_at, h.refreshed_at, coalesce(c.status, 'live'), c.last_at, c.subscribers, c.videos,
    c.views
FROM channels AS h
LEFT JOIN channel_clock AS c ON c.channel_id = h.id
WHERE h.id > $1 AND h.id <= $2
    AND ($3::timestamptz IS NULL OR h.discovered_at >= $3)
    AND ($4::timestamptz IS NULL OR h.discovered_at < $4)
ORDER BY h.id;
