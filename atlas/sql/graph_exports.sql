-- The knowledge graph page by page, for exports.

-- name: nodes
-- At most $5 nodes of space $1 after handle $2, by handle: of the types $3 (NULL: all), and in the outgoing set of a link of one of
-- the types $4 (NULL: of any or none).
SELECT a.handle, a.type, a.name, a.outgoing, a.pos, a.neg, a.positive, a.count, a.weight, a.sources, a.seen_at,
    coalesce(t.sti, 0) AS sti, coalesce(t.lti, 0) AS lti, coalesce(t.vlti, 0) AS vlti, t.attended_at
FROM atoms AS a
LEFT JOIN atom_attention AS t ON t.space = a.space AND t.handle = a.handle
WHERE a.space = $1::smallint AND a.handle > $2::uuid AND a.sources > 0 AND a.name IS NOT NULL
    AND ($3::text[] IS NULL OR a.type = ANY ($3::text[]))
    AND ($4::text[] IS NULL OR EXISTS (
        SELECT FROM incoming AS i WHERE i.space = a.space AND i.target = a.handle AND i.type = ANY ($4::text[])
    ))
ORDER BY a.handle
LIMIT $5;

-- name: links
-- At most $5 links of space $1 after handle $2, by handle: of the types $3 (NULL: all), all of whose ends are of the types $4
-- (NULL: of any).
SELECT a.handle, a.type, a.name, a.outgoing, a.pos, a.neg, a.positive, a.count, a.weight, a.sources, a.seen_at,
    coalesce(t.sti, 0) AS sti, coalesce(t.lti, 0) AS lti, coalesce(t.vlti, 0) AS vlti, t.attended_at
FROM atoms AS a
LEFT JOIN atom_attention AS t ON t.space = a.space AND t.handle = a.handle
WHERE a.space = $1::smallint AND a.handle > $2::uuid AND a.sources > 0 AND a.outgoing IS NOT NULL
    AND ($3::text[] IS NULL OR a.type = ANY ($3::text[]))
    AND ($4::text[] IS NULL OR NOT EXISTS (
        SELECT FROM unnest(a.outgoing) AS ends (handle)
        JOIN atoms AS x ON x.space = a.space AND x.handle = ends.handle
        WHERE x.type <> ALL ($4::text[])
    ))
ORDER BY a.handle
LIMIT $5;

-- name: links_from
-- The links of space $1 that have one of the atoms $2 as the first in their outgoing sets, with the other end of those of two.
SELECT link, target, other FROM incoming
WHERE space = $1::smallint AND target = ANY ($2::uuid[]) AND position = 1;

-- name: used
-- Those of the atoms $2 of space $1 that are in the outgoing set of a link.
SELECT wanted.handle FROM unnest($2::uuid[]) AS wanted (handle)
WHERE EXISTS (SELECT FROM incoming AS i WHERE i.space = $1::smallint AND i.target = wanted.handle);

-- name: what
-- What those of the atoms $2 that are there in space $1 are.
SELECT handle, type, name, outgoing, NULL::text AS shown FROM atoms
WHERE space = $1::smallint AND handle = ANY ($2::uuid[]) AND sources > 0;
