-- Figures of the knowledge graph for those who watch over it.

-- name: counts
-- How many atoms of each type are there in space $1, also of types that have none.
SELECT t.name AS type, t.is_link, coalesce(a.atoms, 0) AS atoms
FROM atom_types AS t
LEFT JOIN (
    SELECT type, count(*) AS atoms FROM atoms WHERE space = $1::smallint AND sources > 0 GROUP BY type
) AS a ON a.type = t.name
ORDER BY t.name;

-- name: last_change
-- When the atom of space $1 that changed last was seen or went; NULL if the space is empty.
SELECT greatest(seen_at, gone_at) FROM atoms WHERE space = $1::smallint ORDER BY changed DESC, handle DESC LIMIT 1;
