-- What people see of the knowledge graph: what atoms are called, what is near them, and how much there is.

-- name: by_prefix
-- At most $4 atoms of space $1 whose handles are from $2 to $3, by handle.
SELECT handle FROM atoms
WHERE space = $1::smallint AND handle BETWEEN $2::uuid AND $3::uuid AND sources > 0
ORDER BY handle
LIMIT $4;

-- name: called
-- What those of the atoms $2 that are there in space $1 are, and what people call them: the title of a video or channel, the
-- query of a topic, the statement of a pattern, or else the value `shown`.
SELECT a.handle, a.type, a.name, a.outgoing,
    coalesce(
        CASE a.type
            WHEN 'video' THEN (SELECT title FROM videos WHERE id = a.name)
            WHEN 'channel' THEN (SELECT title FROM channels WHERE id = a.name)
            WHEN 'topic' THEN (SELECT query::text FROM search_queue WHERE key = a.name ORDER BY id LIMIT 1)
            WHEN 'pattern' THEN (SELECT statement FROM patterns WHERE id = a.name)
        END,
        (SELECT texts[1] FROM atom_values AS v WHERE v.space = a.space AND v.handle = a.handle AND v.key = 'shown')
    ) AS shown
FROM atoms AS a
WHERE a.space = $1::smallint AND a.handle = ANY ($2::uuid[]) AND a.sources > 0;

-- name: by_name
-- At most $5 nodes of space $1, of the types $2, whose names begin with the text of $3 for their type, behind the node of type $4 and
-- name $6, by type and name.
SELECT n.handle
FROM unnest($2::text[], $3::text[]) AS wanted (type, prefix)
CROSS JOIN LATERAL (
    SELECT a.handle, a.name FROM atoms AS a
    WHERE a.space = $1::smallint AND a.type = wanted.type AND a.sources > 0 AND a.name IS NOT NULL
        AND a.name >= wanted.prefix AND a.name < wanted.prefix || U&'\+10FFFF'
        AND a.name > CASE WHEN wanted.type = $4::text THEN $6::text ELSE '' END
    ORDER BY a.name LIMIT $5
) AS n
WHERE wanted.type COLLATE "C" >= $4::text
ORDER BY wanted.type COLLATE "C", n.name
LIMIT $5;

-- name: neighbours
-- At most $4 atoms that the atom $2 of space $1 is linked with by links of two of the types $3 (NULL: all): those with the
-- greatest weight first, times the observations for the link unless $6, then those with the most links. Only $5 of its links are
-- looked at; `met` says how many. Of the links with each, there is the one with most evidence.
WITH met AS MATERIALIZED (
    SELECT i.other, i.link, i.type FROM incoming AS i
    WHERE i.space = $1::smallint AND i.target = $2::uuid AND i.other IS NOT NULL AND i.other <> $2::uuid
        AND ($3::text[] IS NULL OR i.type = ANY ($3::text[]))
    LIMIT $5
)
SELECT m.other AS handle, 1 AS hops, count(*) AS paths, array_agg(DISTINCT m.type) AS types, max(a.weight) AS weight,
    (array_agg(a.handle ORDER BY a.count DESC, a.handle))[1] AS link, NULL::uuid AS via, NULL::float8 AS closeness,
    (SELECT count(*) FROM met) AS met
FROM met AS m
JOIN atoms AS a ON a.space = $1::smallint AND a.handle = m.link
GROUP BY m.other
ORDER BY max(a.weight * CASE WHEN $6::boolean THEN 1 ELSE greatest(a.positive, 1) END) DESC NULLS LAST, paths DESC, m.other
LIMIT $4;

-- name: second_neighbours
-- At most $4 atoms two links of two away from the atom $2 of space $1 and not one, over the types $3 (NULL: all), the closest
-- first. Closeness is that of Adamic and Adar: the sum over the atoms between of 1 / ln(1 + their links), as what is linked
-- with everything says little. Only $5 links of each atom are looked at; `met` says how many of all. Of the atoms between,
-- there is the one with the fewest links. Of the type $6 (NULL: all).
WITH first AS MATERIALIZED (
    SELECT DISTINCT m.other FROM (
        SELECT i.other FROM incoming AS i
        WHERE i.space = $1::smallint AND i.target = $2::uuid AND i.other IS NOT NULL AND i.other <> $2::uuid
            AND ($3::text[] IS NULL OR i.type = ANY ($3::text[]))
        LIMIT $5
    ) AS m
), second AS MATERIALIZED (
    SELECT f.other AS via, m.other, m.degree
    FROM first AS f
    CROSS JOIN LATERAL (
        SELECT l.other, count(*) OVER () AS degree
        FROM (
            SELECT i.other FROM incoming AS i
            WHERE i.space = $1::smallint AND i.target = f.other AND i.other IS NOT NULL
                AND ($3::text[] IS NULL OR i.type = ANY ($3::text[]))
            LIMIT $5
        ) AS l
    ) AS m
), near AS (
    SELECT other, count(*) AS paths, sum(1 / ln(1 + degree)) AS closeness,
        (array_agg(via ORDER BY degree, via))[1] AS via
    FROM second
    WHERE other <> $2::uuid AND other <> ALL (ARRAY(SELECT first.other FROM first))
    GROUP BY other
)
SELECT n.other AS handle, 2 AS hops, n.paths, ARRAY[]::text[] AS types,
    NULL::real AS weight, NULL::uuid AS link, n.via, n.closeness, (SELECT count(*) FROM second) AS met
FROM near AS n
WHERE $6::text IS NULL OR EXISTS (
    SELECT FROM atoms AS a WHERE a.space = $1::smallint AND a.handle = n.other AND a.type = $6::text
)
ORDER BY n.closeness DESC, n.other
LIMIT $4;

-- name: counts
-- How many atoms of each type and source are there in space $1, with their evidence, and when one was last seen.
SELECT a.type, t.is_link, a.sources, count(*) AS atoms, sum(a.positive) AS positive, sum(a.count) AS count, max(a.seen_at) AS seen_at
FROM atoms AS a
JOIN atom_types AS t ON t.name = a.type
WHERE a.space = $1::smallint AND a.sources > 0
GROUP BY a.type, t.is_link, a.sources
ORDER BY a.type, a.sources;

-- name: attended
-- How many atoms of space $1 have attention and how many are never forgotten, the sums of their sti and lti, and when one was last attended to.
SELECT count(*) AS atoms, count(*) FILTER (WHERE vlti > 0) AS kept, coalesce(sum(sti), 0)::float8 AS sti,
    coalesce(sum(lti), 0)::float8 AS lti, max(attended_at) AS attended_at
FROM atom_attention
WHERE space = $1::smallint;

-- name: tombstones
-- How many atoms of space $1 are gone and remembered as such.
SELECT count(*) FROM atoms WHERE space = $1::smallint AND gone_at IS NOT NULL;

-- name: sizes
-- How many bytes the tables of the graph take on disk with their indexes, all spaces together.
SELECT c.relname AS name, pg_total_relation_size(c.oid) AS bytes
FROM pg_class AS c
WHERE c.oid IN (
    'atoms'::regclass, 'incoming'::regclass, 'atom_attention'::regclass, 'atom_values'::regclass,
    'atom_embeddings'::regclass, 'embedding_features'::regclass
)
ORDER BY c.relname;

-- name: incoming_counts
-- How many links of each type have the atoms $2 of space $1 in their outgoing sets.
SELECT target AS handle, type, count(DISTINCT link) AS links
FROM incoming
WHERE space = $1::smallint AND target = ANY ($2::uuid[])
GROUP BY target, type
ORDER BY target, type;

-- name: count_links
-- How many links of two the atoms $2 of space $1 have, of the types $3 (NULL: all), counted up to $4.
SELECT count(*) FROM (
    SELECT FROM incoming AS i
    WHERE i.space = $1::smallint AND i.target = ANY ($2::uuid[]) AND i.other IS NOT NULL
        AND ($3::text[] IS NULL OR i.type = ANY ($3::text[]))
    LIMIT $4
) AS met;

-- name: expand
-- At most $4 atoms at the other ends of the links of two, of the types $3 (NULL: all), of the atoms $2 of space $1.
SELECT DISTINCT i.other AS handle FROM incoming AS i
WHERE i.space = $1::smallint AND i.target = ANY ($2::uuid[]) AND i.other IS NOT NULL
    AND ($3::text[] IS NULL OR i.type = ANY ($3::text[]))
LIMIT $4;

-- name: touching
-- The first of the atoms $4 that is at the other end of a link of two, of the types $3 (NULL: all), of the atoms $2 of space $1.
-- Sets are intersected because that is hashed for arrays of any length; conditions on a parameter would look through it again and
-- again.
SELECT i.other AS handle FROM incoming AS i
WHERE i.space = $1::smallint AND i.target = ANY ($2::uuid[]) AND i.other IS NOT NULL
    AND ($3::text[] IS NULL OR i.type = ANY ($3::text[]))
INTERSECT
SELECT each FROM unnest($4::uuid[]) AS each
ORDER BY handle
LIMIT 1;

-- name: between
-- The first atom, but for the atoms $5, that links of two of the types $3 (NULL: all) connect with one of the atoms $2 and with one
-- of the atoms $4 of space $1.
SELECT i.other AS handle FROM incoming AS i
WHERE i.space = $1::smallint AND i.target = ANY ($2::uuid[]) AND i.other IS NOT NULL
    AND ($3::text[] IS NULL OR i.type = ANY ($3::text[]))
INTERSECT
SELECT i.other FROM incoming AS i
WHERE i.space = $1::smallint AND i.target = ANY ($4::uuid[]) AND i.other IS NOT NULL
    AND ($3::text[] IS NULL OR i.type = ANY ($3::text[]))
EXCEPT
SELECT each FROM unnest($5::uuid[]) AS each
ORDER BY handle
LIMIT 1;
