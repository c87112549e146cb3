-- name: is_indexed
-- Whether titles have trigram indexes; without them each search reads all titles.
SELECT to_regclass('videos_by_title') IS NOT NULL AND to_regclass('channels_by_title') IS NOT NULL;

-- name: videos
-- The videos whose title is like $1 or $7 and like all of $2 (in any case), or that have the tag $3, those that grow fastest
-- first: at most $5 from offset $6, of at most $4 that match by title and as many by tag. $1, $3 and $7 may be NULL.
WITH by_title AS MATERIALIZED (
    SELECT id FROM videos WHERE (title ILIKE $1 OR title ILIKE $7::text) AND title ILIKE ALL ($2::text[]) LIMIT $4
),
by_tag AS MATERIALIZED (
    SELECT id FROM videos WHERE lowered(tags) @> ARRAY[lower($3::text)] LIMIT $4
),
found AS (
    SELECT id, bool_or(is_by_title) AS is_by_title
    FROM (SELECT id, true AS is_by_title FROM by_title UNION ALL SELECT id, false FROM by_tag) AS either
    GROUP BY id
)
SELECT v.id, v.title, v.channel_id, h.title AS channel_title, v.published_at, coalesce(c.last_views, v.view_count) AS views,
    c.velocity, found.is_by_title, count(*) OVER () AS total
FROM found
JOIN videos AS v ON v.id = found.id
JOIN channels AS h ON h.id = v.channel_id
LEFT JOIN video_clock AS c ON c.video_id = v.id
ORDER BY c.velocity DESC NULLS LAST, views DESC NULLS LAST, v.id
LIMIT $5 OFFSET $6;

-- name: channels
-- The channels with the id $3, or whose title is like $1 or $7 and like all of $2, those with most subscribers first: at most
-- $5 from offset $6, of at most $4 that match.
WITH found AS MATERIALIZED (
    (SELECT id FROM channels WHERE (title ILIKE $1 OR title ILIKE $7::text) AND title ILIKE ALL ($2::text[]) LIMIT $4)
    UNION
    SELECT id FROM channels WHERE id = $3
)
SELECT h.id, h.title, c.subscribers, c.views, count(*) OVER () AS total
FROM found
JOIN channels AS h ON h.id = found.id
LEFT JOIN channel_clock AS c ON c.channel_id = h.id
ORDER BY c.subscribers DESC NULLS LAST, h.id
LIMIT $5 OFFSET $6;
