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
),
ranked AS (
    SELECT found.id, found.is_by_title, c.velocity, c.last_views, count(*) OVER () AS total
    FROM found
    LEFT JOIN video_clock AS c ON c.video_id = found.id
    ORDER BY c.velocity DESC NULLS LAST, c.last_views DESC NULLS LAST, found.id
    LIMIT $5 OFFSET $6
)
SELECT v.id, v.title, v.channel_id, h.title AS channel_title, v.published_at, coalesce(o.last_views, v.view_count) AS views,
    o.velocity, o.is_by_title, o.total
FROM ranked AS o
JOIN videos AS v ON v.id = o.id
JOIN channels AS h ON h.id = v.channel_id
ORDER BY o.velocity DESC NULLS LAST, o.last_views DESC NULLS LAST, o.id;

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

-- name: allow_misspellings
-- Until the end of the transaction, words are like each other that have so large a share $1 of trigrams in common.
SELECT set_config('pg_trgm.word_similarity_threshold', $1, true);

-- name: nearest_videos
-- The videos with words like $1, and like $2 and $3 if given, in their title, the likest first, of equals the fastest: $5 of the
-- first $4 that are met.
WITH near AS MATERIALIZED (
    SELECT id, word_similarity($1::text, title) + coalesce(word_similarity($2::text, title), 0)
        + coalesce(word_similarity($3::text, title), 0) AS likeness
    FROM videos
    WHERE $1 <% title AND ($2 IS NULL OR $2 <% title) AND ($3 IS NULL OR $3 <% title)
    LIMIT $4
)
SELECT v.id, v.title, v.channel_id, h.title AS channel_title, v.published_at, coalesce(c.last_views, v.view_count) AS views,
    c.velocity, true AS is_by_title
FROM near
JOIN videos AS v ON v.id = near.id
JOIN channels AS h ON h.id = v.channel_id
LEFT JOIN video_clock AS c ON c.video_id = v.id
ORDER BY near.likeness DESC, c.velocity DESC NULLS LAST, v.id
LIMIT $5;

-- name: nearest_channels
-- The channels with words like $1, and like $2 and $3 if given, in their title, the likest first, of equals the largest: $5 of
-- the first $4 that are met.
WITH near AS MATERIALIZED (
    SELECT id, word_similarity($1::text, title) + coalesce(word_similarity($2::text, title), 0)
        + coalesce(word_similarity($3::text, title), 0) AS likeness
    FROM channels
    WHERE $1 <% title AND ($2 IS NULL OR $2 <% title) AND ($3 IS NULL OR $3 <% title)
    LIMIT $4
)
SELECT h.id, h.title, c.subscribers, c.views
FROM near
JOIN channels AS h ON h.id = near.id
LEFT JOIN channel_clock AS c ON c.channel_id = h.id
ORDER BY near.likeness DESC, c.subscribers DESC NULLS LAST, h.id
LIMIT $5;
