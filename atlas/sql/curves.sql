-- name: grown
-- The counts of at most $5 videos born after ($1, $2) up to $3, by age in hours, within $4 of their birth.
SELECT c.video_id, c.born_at, c.category_id, s.ages_h, s.views
FROM (
    SELECT video_id, born_at, category_id
    FROM video_clock
    WHERE (born_at, video_id) > ($1::timestamptz, $2::text) AND born_at <= $3
    ORDER BY born_at, video_id
    LIMIT $5
) AS c
LEFT JOIN LATERAL (
    SELECT array_agg((extract(epoch FROM sampled_at - c.born_at) / 3600)::float8 ORDER BY sampled_at) AS ages_h,
        array_agg(views::float8 ORDER BY sampled_at) AS views
    FROM video_stats_log
    WHERE video_id = c.video_id AND sampled_at BETWEEN c.born_at AND c.born_at + $4::interval AND views IS NOT NULL
) AS s ON true
ORDER BY c.born_at, c.video_id;
