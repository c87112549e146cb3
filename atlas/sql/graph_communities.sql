-- The communities of this site's own graph, and where atoms stand in it, as numbers that are their values.

-- name: numbers
-- The atoms with a number under the key $1, by handle.
SELECT handle, floats[1] FROM atom_values WHERE space = 0 AND key = $1 AND floats[1] IS NOT NULL ORDER BY handle;

-- name: set_numbers
-- Under the key $1, give those of the atoms $2 that the facts say are there the numbers $3.
INSERT INTO atom_values (space, handle, key, floats)
SELECT 0, new.handle, $1, ARRAY[new.number]
FROM unnest($2::uuid[], $3::float8[]) AS new (handle, number)
JOIN atoms AS a ON a.space = 0 AND a.handle = new.handle AND a.sources & 1 = 1
ORDER BY new.handle
ON CONFLICT (space, handle, key) DO UPDATE SET floats = excluded.floats, texts = NULL, handles = NULL;

-- name: drop_numbers
-- Take the values under the key $1 from the atoms $2.
DELETE FROM atom_values WHERE space = 0 AND key = $1 AND handle = ANY ($2::uuid[]);

-- name: members
-- All atoms that are in a community, by handle: its number, the atom's PageRank, and its type's place among $1, counted from 1.
SELECT v.handle, v.floats[1], coalesce(r.floats[1], 0), coalesce(array_position($1::text[], a.type), 0)
FROM atom_values AS v
JOIN atoms AS a ON a.space = 0 AND a.handle = v.handle
LEFT JOIN atom_values AS r ON r.space = 0 AND r.handle = v.handle AND r.key = 'pagerank'
WHERE v.space = 0 AND v.key = 'community' AND v.floats[1] IS NOT NULL
ORDER BY v.handle;

-- name: empty_communities
-- Delete all communities.
DELETE FROM graph_communities;

-- name: add_communities
-- Store communities by their numbers $1, each of the next of the tags $3 as many as $2 says.
INSERT INTO graph_communities (number, tags)
SELECT c.number, ARRAY(SELECT unnest(($3::uuid[])[c.finish - c.tags + 1 : c.finish]))
FROM (
    SELECT number, tags, sum(tags) OVER (ORDER BY nth)::integer AS finish
    FROM unnest($1::integer[], $2::integer[]) WITH ORDINALITY AS given (number, tags, nth)
) AS c;

-- name: communities
-- The tags that tell most of each community.
SELECT number, tags FROM graph_communities ORDER BY number;

-- name: note_grouped
-- The communities were found at $1 and have the modularity $2.
UPDATE graph_state SET grouped_at = $1, modularity = $2;

-- name: grouped
-- When the communities were found, and their modularity; NULL if they never were.
SELECT grouped_at, modularity FROM graph_state;
