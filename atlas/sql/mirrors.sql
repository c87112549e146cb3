-- Copies of parts of peers' graphs, and what peers copy of this site's.

-- name: all
-- All mirrors by name.
SELECT m.space, s.name, m.place, m.filter::text AS filter, m.cursor, m.refreshed_at, m.failed_at, m.failure,
    (SELECT count(*) FROM atoms AS a WHERE a.space = m.space AND a.sources > 0) AS atoms
FROM graph_mirrors AS m JOIN graph_spaces AS s ON s.id = m.space
ORDER BY s.name;

-- name: add
-- Add a mirror $1 of the peer at $2 by the filter $3, in a space of its own; returns that, no row if there is one of that name, or no
-- room.
WITH added AS (
    INSERT INTO graph_spaces (id, name)
    SELECT free.id, $1
    FROM (
        SELECT id FROM generate_series(1, 32767) AS every (id) WHERE NOT EXISTS (SELECT FROM graph_spaces AS s WHERE s.id = every.id)
        ORDER BY id LIMIT 1
    ) AS free
    ON CONFLICT DO NOTHING RETURNING id
)
INSERT INTO graph_mirrors (space, place, filter) SELECT id, $2, $3::text::jsonb FROM added RETURNING space;

-- name: clear
-- Delete all atoms of space $1, and what belongs to them.
WITH attention AS (DELETE FROM atom_attention WHERE space = $1::smallint),
    attached AS (DELETE FROM atom_values WHERE space = $1::smallint),
    used AS (DELETE FROM incoming WHERE space = $1::smallint)
DELETE FROM atoms WHERE space = $1::smallint;

-- name: remove
-- Remove the mirror with space $1, whose atoms are deleted.
DELETE FROM graph_mirrors WHERE space = $1::smallint;

-- name: remove_space
-- Remove the space $1.
DELETE FROM graph_spaces WHERE id = $1::smallint;

-- name: held
-- The atoms that are there in space $1.
SELECT handle FROM atoms WHERE space = $1::smallint AND sources > 0;

-- name: stage
-- Keep atoms that the refresh $12 of the mirror with space $1 has read: handles $2, types $3, names $4 (NULL: a link), the places in
-- the handles $7 where their outgoing sets begin ($5) and end ($6), positive $8 of count $9 observations, weights $10, and when they
-- were seen $11.
INSERT INTO mirror_pages (space, refresh, handle, type, name, outgoing, positive, count, weight, seen_at)
SELECT $1::smallint, $12::uuid, handle, type, name, CASE WHEN name IS NULL THEN ($7::uuid[])[begins : ends] END, positive, count, weight, seen_at
FROM unnest($2::uuid[], $3::text[], $4::text[], $5::integer[], $6::integer[], $8::float8[], $9::float8[], $10::real[], $11::timestamptz[])
    AS item (handle, type, name, begins, ends, positive, count, weight, seen_at)
ON CONFLICT DO NOTHING;

-- name: apply
-- Put what the refresh $2 of the mirror with space $1 has read into place, whose members are $3 as of $4; returns how many atoms it has.
SELECT apply_mirror($1::smallint, $2::uuid, $3::uuid[], $4::timestamptz);

-- name: refreshed
-- Note that the mirror with space $1 was refreshed from $4 up to $2 at $3; returns nothing if another process did so meanwhile.
UPDATE graph_mirrors SET cursor = $2, refreshed_at = $3, failed_at = NULL, failure = NULL
WHERE space = $1::smallint AND cursor IS NOT DISTINCT FROM $4::text
RETURNING space;

-- name: failed
-- Note that the mirror with space $1 could not be refreshed at $2, and why: $3.
UPDATE graph_mirrors SET failed_at = $2, failure = $3 WHERE space = $1::smallint;

-- name: has_changed
-- Whether any atom of ours changed in transaction $1 or later.
SELECT EXISTS (SELECT FROM atoms WHERE space = 0 AND changed >= $1::bigint::text::xid8);

-- name: members
-- Which of our atoms a filter lets through; see mirror_members().
SELECT mirror_members(
    $1::text[], $2::text, $3::uuid, $4::integer, $5::float8, $6::float8, (SELECT tells = 'all' FROM site), $7::integer
);

-- name: changed_of
-- Those of our atoms $1 that changed in transaction $2 or later.
SELECT handle FROM atoms WHERE space = 0 AND handle = ANY ($1::uuid[]) AND changed >= $2::bigint::text::xid8;

-- name: atoms
-- Those of our atoms $1 that are there and other sites may know.
SELECT handle, type, name, outgoing, positive, count, weight, seen_at
FROM atoms
WHERE space = 0 AND handle = ANY ($1::uuid[]) AND sources > 0
    AND ((SELECT tells = 'all' FROM site) OR told IS NOT NULL OR sources & 8 <> 0)
ORDER BY handle;
