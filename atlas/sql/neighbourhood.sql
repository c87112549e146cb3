-- What to draw around an atom of the knowledge graph. However many links an atom has, only so many of each type are looked at:
-- the first ones by their handles, which are as good as chosen by chance, but the same ones each time.

-- name: nearest
-- Of the links of two that have the atom $2 of space $1 in their outgoing set, the $4 heaviest of each type and position among the
-- first $3: the link's handle, type and weight, the other end, and whether the atom comes first.
SELECT found.link, kinds.type, found.weight, found.count, found.other, kinds.position = 1 AS comes_first
FROM (SELECT name AS type, position FROM atom_types CROSS JOIN (VALUES (1::smallint), (2::smallint)) AS p (position) WHERE is_link)
    AS kinds
CROSS JOIN LATERAL (
    SELECT i.link, i.other, a.weight, a.count
    FROM (
        SELECT link, other FROM incoming
        WHERE space = $1::smallint AND target = $2::uuid AND type = kinds.type AND position = kinds.position AND other IS NOT NULL
            AND other <> $2::uuid
        ORDER BY link LIMIT $3
    ) AS i
    JOIN atoms AS a ON a.space = $1::smallint AND a.handle = i.link AND a.sources > 0
    LEFT JOIN atom_attention AS t ON t.space = $1::smallint AND t.handle = i.other
    ORDER BY a.weight DESC NULLS LAST, coalesce(t.sti, 0) DESC, a.count DESC, i.link
    LIMIT $4
) AS found
ORDER BY kinds.type, kinds.position, found.weight DESC NULLS LAST, found.count DESC, found.link;

-- name: beyond
-- At most $5 atoms that at least two of the atoms $2 of space $1 are linked with by links of two, without the atoms $3: those with
-- most links first. Of each atom, the first $4 links of each type and position are looked at.
SELECT found.other AS handle, count(DISTINCT wanted.handle) AS links
FROM unnest($2::uuid[]) AS wanted (handle)
CROSS JOIN (SELECT name AS type, position FROM atom_types CROSS JOIN (VALUES (1::smallint), (2::smallint)) AS p (position) WHERE is_link)
    AS kinds
CROSS JOIN LATERAL (
    SELECT other FROM incoming
    WHERE space = $1::smallint AND target = wanted.handle AND type = kinds.type AND position = kinds.position AND other IS NOT NULL
    ORDER BY link LIMIT $4
) AS found
WHERE found.other <> ALL ($2::uuid[]) AND found.other <> ALL ($3::uuid[])
GROUP BY found.other
HAVING count(DISTINCT wanted.handle) > 1
ORDER BY links DESC, found.other
LIMIT $5;

-- name: among
-- The links of two of space $1 both of whose ends are among the atoms $2: at most $4, the heaviest first. Of each atom, the first $3
-- links of each type and position are looked at, so that a link is missed only if both its ends have more.
SELECT a.handle AS link, a.type, a.weight, a.count, a.outgoing[1] AS first, a.outgoing[2] AS second
FROM (
    SELECT DISTINCT found.link
    FROM unnest($2::uuid[]) AS wanted (handle)
    CROSS JOIN (SELECT name AS type, position FROM atom_types CROSS JOIN (VALUES (1::smallint), (2::smallint)) AS p (position) WHERE is_link)
        AS kinds
    CROSS JOIN LATERAL (
        SELECT link, other FROM incoming
        WHERE space = $1::smallint AND target = wanted.handle AND type = kinds.type AND position = kinds.position AND other IS NOT NULL
        ORDER BY link LIMIT $3
    ) AS found
    WHERE found.other = ANY ($2::uuid[]) AND found.other <> wanted.handle
) AS within
JOIN atoms AS a ON a.space = $1::smallint AND a.handle = within.link AND a.sources > 0
ORDER BY a.weight DESC NULLS LAST, a.count DESC, a.handle
LIMIT $4;
