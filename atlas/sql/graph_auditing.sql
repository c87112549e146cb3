-- Comparing the knowledge graph with the facts. All of it runs in one transaction that sees one moment, in space 0.

-- name: nodes
-- All nodes that are there: their handles, their types' places in $1, 0 for others, and whether the facts say that they are there.
SELECT handle, coalesce(array_position($1::text[], type), 0)::smallint, sources & 1 = 1
FROM atoms WHERE space = 0 AND name IS NOT NULL AND sources > 0;

-- name: links
-- The links of the types $1 that the facts say are there, with handles from $2 to $3: where they begin, and whether they were observed
-- once, or by people.
SELECT handle, outgoing[1], sources & 4 <> 0 OR (pos, neg) = (1, 0)
FROM atoms
WHERE space = 0 AND type = ANY ($1::text[]) AND handle BETWEEN $2::uuid AND $3::uuid AND sources & 1 = 1;

-- name: names
-- The types and names of those of the atoms $1 that are nodes.
SELECT type, name FROM atoms WHERE space = 0 AND handle = ANY ($1::uuid[]) AND name IS NOT NULL ORDER BY type, name;

-- name: videos
-- At most $2 ids of videos that are stored, after $1.
SELECT id FROM videos WHERE id > $1 ORDER BY id LIMIT $2;

-- name: topics
-- The keys of all topics.
SELECT DISTINCT key::text FROM search_queue ORDER BY 1;
