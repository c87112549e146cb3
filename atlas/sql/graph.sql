-- The knowledge graph: atoms, their incoming sets, attention and values.

-- name: lock
-- Take the graph's lock, alone if $1; see lock_graph().
SELECT lock_graph($1);

-- name: types
-- All types of atoms.
SELECT name, is_link, is_symmetric, what FROM atom_types ORDER BY name;

-- name: add_type
-- Add the type $1, of links if $2, symmetric ones if $3, described by $4. Returns whether it is new, or else the same.
WITH added AS (
    INSERT INTO atom_types (name, is_link, is_symmetric, what) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO NOTHING RETURNING 1
)
SELECT EXISTS (SELECT FROM added) OR EXISTS (
    SELECT FROM atom_types WHERE name = $1 AND is_link = $2 AND is_symmetric = $3
);

-- name: nesting
-- How deep links are nested in the atoms $2 of space $1; NULL for those that are not there.
SELECT wanted.handle, CASE WHEN a.outgoing IS NOT NULL THEN nesting($1::smallint, a.handle) WHEN a.handle IS NOT NULL THEN 0 END AS depth
FROM unnest($2::uuid[]) AS wanted (handle)
LEFT JOIN atoms AS a ON a.space = $1::smallint AND a.handle = wanted.handle AND a.sources > 0;

-- name: add
-- Let the sources $2 say that atoms are there in space $1; see add_atoms(). Returns how many are new, and how many others changed.
SELECT added, changed FROM add_atoms(
    $1::smallint, $2::integer, $3::timestamptz, $4::uuid[], $5::text[], $6::text[], $7::integer[], $8::integer[], $9::uuid[],
    $10::real[], $11::bigint[], $12::bigint[], $13::boolean
);

-- name: remove
-- Take back from the sources $3 that the atoms $2 are there in space $1, as of $4; returns the handles that are gone.
SELECT remove_atoms($1::smallint, $2::uuid[], $3::integer, $4::timestamptz);

-- name: erase
-- Delete the atoms $2 of space $1 and all links to them without leaving a tombstone that could be told to others.
WITH gone AS (
    SELECT remove_atoms($1::smallint, $2::uuid[], 15, $3::timestamptz)
)
SELECT count(*) FROM gone;

-- name: get
-- Those of the atoms $2 that are there in space $1, with their attention.
SELECT a.handle, a.type, a.name, a.outgoing, a.pos, a.neg, a.positive, a.count, a.weight, a.sources, a.seen_at,
    coalesce(t.sti, 0) AS sti, coalesce(t.lti, 0) AS lti, coalesce(t.vlti, 0) AS vlti, t.attended_at
FROM atoms AS a
LEFT JOIN atom_attention AS t ON t.space = a.space AND t.handle = a.handle
WHERE a.space = $1::smallint AND a.handle = ANY ($2::uuid[]) AND a.sources > 0
ORDER BY a.handle;

-- name: incoming
-- At most $5 links of space $1 that have the atom $2 in their outgoing set, of the types $3 (NULL: all), with handles after $4, by handle.
SELECT a.handle, a.type, a.name, a.outgoing, a.pos, a.neg, a.positive, a.count, a.weight, a.sources, a.seen_at,
    coalesce(t.sti, 0) AS sti, coalesce(t.lti, 0) AS lti, coalesce(t.vlti, 0) AS vlti, t.attended_at
FROM (
    SELECT DISTINCT link FROM incoming
    WHERE space = $1::smallint AND target = $2::uuid AND ($3::text[] IS NULL OR type = ANY ($3::text[])) AND link > $4::uuid
    ORDER BY link LIMIT $5
) AS i
JOIN atoms AS a ON a.space = $1::smallint AND a.handle = i.link AND a.sources > 0
LEFT JOIN atom_attention AS t ON t.space = a.space AND t.handle = a.handle
ORDER BY a.handle;

-- name: neighbours
-- At most $4 atoms that the atoms $2 of space $1 are linked with by links of two of the types $3 (NULL: all): the most links first.
SELECT i.other AS handle, count(*) AS links, array_agg(DISTINCT i.type) AS types
FROM incoming AS i
WHERE i.space = $1::smallint AND i.target = ANY ($2::uuid[]) AND i.other IS NOT NULL
    AND ($3::text[] IS NULL OR i.type = ANY ($3::text[])) AND i.other <> ALL ($2::uuid[])
GROUP BY i.other
ORDER BY links DESC, i.other
LIMIT $4;

-- name: count_by_type
-- How many atoms of each type are there in space $1.
SELECT type, count(*) AS atoms FROM atoms WHERE space = $1::smallint AND sources > 0 GROUP BY type ORDER BY type;

-- name: values
-- The values of the atoms $2 of space $1.
SELECT handle, key, floats, texts, handles FROM atom_values
WHERE space = $1::smallint AND handle = ANY ($2::uuid[]) ORDER BY handle, key;

-- name: set_values
-- Attach values to atoms of space $1, where these are there: to handle $2 under key $3 what the JSON object $4 has as floats, texts or handles.
SELECT set_atom_values($1::smallint, $2::uuid[], $3::text[], $4::text[]);

-- name: drop_values
-- Remove the values under the keys $3 from the atoms $2 of space $1.
DELETE FROM atom_values AS v
USING unnest($2::uuid[], $3::text[]) AS old (handle, key)
WHERE v.space = $1::smallint AND v.handle = old.handle AND v.key = old.key;

-- name: attention
-- The attention that the atoms $2 of space $1 have, without those that have none.
SELECT handle, sti, lti, vlti, attended_at FROM atom_attention WHERE space = $1::smallint AND handle = ANY ($2::uuid[]) ORDER BY handle;

-- name: most_attended
-- At most $3 atoms of space $1 with the highest short-term importance, of type $2 (NULL: all).
SELECT a.handle, a.type, a.name, a.outgoing, a.pos, a.neg, a.positive, a.count, a.weight, a.sources, a.seen_at,
    t.sti, t.lti, t.vlti, t.attended_at
FROM atom_attention AS t
JOIN atoms AS a ON a.space = t.space AND a.handle = t.handle AND a.sources > 0
WHERE t.space = $1::smallint AND ($2::text IS NULL OR a.type = $2::text)
ORDER BY t.sti DESC, t.handle
LIMIT $3;

-- name: attend
-- Set what attention atoms of space $1 have at $2: the atoms $3, where these are there, their sti $4, lti $5 and vlti $6.
SELECT attend_atoms($1::smallint, $2::timestamptz, $3::uuid[], $4::real[], $5::real[], $6::smallint[]);

-- name: spaces
-- The spaces, ours first.
SELECT id, name FROM graph_spaces ORDER BY id;

-- name: node_handle
-- The handle of the node of type $1 and name $2.
SELECT node_handle($1, $2);

-- name: link_handle
-- The handle of the link of type $1 with the outgoing set $2.
SELECT link_handle($1, $2::uuid[]);

-- name: one_moment
-- Let all statements of this transaction, of which this is the first, see the same moment.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;

-- name: horizon
-- Which database this is, and the first transaction that may not have ended.
SELECT database_identity() AS identity, pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon;

-- name: columns
-- What has a fixed length of all atoms that are there in space $1, whose types are called by their places in $2: of links of two
-- the ends, and of all how many ends there are.
SELECT a.handle, array_position($2::text[], a.type)::smallint, coalesce(cardinality(a.outgoing), 0)::smallint,
    CASE WHEN cardinality(a.outgoing) = 2 THEN a.outgoing[1] ELSE a.handle END,
    CASE WHEN cardinality(a.outgoing) = 2 THEN a.outgoing[2] ELSE a.handle END,
    a.positive, a.count, a.pos, a.neg, a.sources, coalesce(a.weight, 'NaN'::real), (extract(epoch FROM a.seen_at) * 1000000)::bigint
FROM atoms AS a
WHERE a.space = $1::smallint AND a.sources > 0;

-- name: changed_columns
-- The same of the atoms of space $1 that changed in transaction $3 or later, with all atoms in their outgoing sets. Types are called
-- by their places in $2.
WITH RECURSIVE wanted (handle) AS (
    SELECT handle FROM atoms WHERE space = $1::smallint AND changed >= $3::bigint::text::xid8 AND sources > 0
    UNION
    SELECT ends.handle
    FROM wanted JOIN atoms AS a ON a.space = $1::smallint AND a.handle = wanted.handle
    CROSS JOIN LATERAL unnest(a.outgoing) AS ends (handle)
)
SELECT a.handle, array_position($2::text[], a.type)::smallint, coalesce(cardinality(a.outgoing), 0)::smallint,
    CASE WHEN cardinality(a.outgoing) = 2 THEN a.outgoing[1] ELSE a.handle END,
    CASE WHEN cardinality(a.outgoing) = 2 THEN a.outgoing[2] ELSE a.handle END,
    a.positive, a.count, a.pos, a.neg, a.sources, coalesce(a.weight, 'NaN'::real), (extract(epoch FROM a.seen_at) * 1000000)::bigint
FROM wanted JOIN atoms AS a ON a.space = $1::smallint AND a.handle = wanted.handle AND a.sources > 0;

-- name: names
-- The names of the nodes of space $1.
SELECT handle, name FROM atoms WHERE space = $1::smallint AND sources > 0 AND name IS NOT NULL;

-- name: names_of
-- The names of those of the atoms $2 of space $1 that are nodes.
SELECT handle, name FROM atoms
WHERE space = $1::smallint AND handle = ANY ($2::uuid[]) AND sources > 0 AND name IS NOT NULL;

-- name: wide_links
-- The outgoing sets of the links of space $1 that have another number of ends than two.
SELECT handle, outgoing FROM atoms WHERE space = $1::smallint AND sources > 0 AND cardinality(outgoing) <> 2;

-- name: wide_links_of
-- The outgoing sets of those of the atoms $2 of space $1 that are links of another number of ends than two.
SELECT handle, outgoing FROM atoms
WHERE space = $1::smallint AND handle = ANY ($2::uuid[]) AND sources > 0 AND cardinality(outgoing) <> 2;

-- name: attention_columns
-- The attention of all atoms of space $1 that have any, with the microseconds since 1970 when it was set.
SELECT handle, sti, lti, vlti, (extract(epoch FROM attended_at) * 1000000)::bigint FROM atom_attention WHERE space = $1::smallint;

-- name: value_keys
-- All keys that values of atoms of space $1 have.
SELECT DISTINCT key FROM atom_values WHERE space = $1::smallint ORDER BY key;

-- name: value_columns
-- What has a fixed length of all values of space $1, by handle and key: the key's place in $2, whether it has texts or handles, or else
-- floats, and how many elements.
SELECT handle, array_position($2::text[], key)::integer, CASE WHEN texts IS NOT NULL THEN 1 WHEN handles IS NOT NULL THEN 2 ELSE 0 END,
    cardinality(coalesce(floats, '{}')) + cardinality(coalesce(texts, '{}')) + cardinality(coalesce(handles, '{}'))
FROM atom_values WHERE space = $1::smallint ORDER BY handle, key;

-- name: value_floats
-- The numbers of all values of space $1, in the same order.
SELECT coalesce(element.float, 'NaN'::float8)
FROM atom_values AS v CROSS JOIN LATERAL unnest(v.floats) WITH ORDINALITY AS element (float, nth)
WHERE v.space = $1::smallint ORDER BY v.handle, v.key, element.nth;

-- name: value_texts
-- The texts of all values of space $1 that have some, in the same order.
SELECT texts FROM atom_values WHERE space = $1::smallint AND texts IS NOT NULL ORDER BY handle, key;

-- name: value_handles
-- The handles that all values of space $1 have as elements, in the same order.
SELECT element.handle
FROM atom_values AS v CROSS JOIN LATERAL unnest(v.handles) WITH ORDINALITY AS element (handle, nth)
WHERE v.space = $1::smallint ORDER BY v.handle, v.key, element.nth;

-- name: gone_since
-- The atoms of space $1 that went in transaction $2 or later.
SELECT handle FROM atoms WHERE space = $1::smallint AND changed >= $2::bigint::text::xid8 AND sources = 0;

-- name: size
-- How many atoms are there in space $1.
SELECT count(*) FROM atoms WHERE space = $1::smallint AND sources > 0;

-- name: empty_atoms
-- Delete all atoms of space $1.
DELETE FROM atoms WHERE space = $1::smallint;

-- name: empty_incoming
-- Delete where atoms of space $1 are used.
DELETE FROM incoming WHERE space = $1::smallint;

-- name: empty_attention
-- Delete the attention of the atoms of space $1.
DELETE FROM atom_attention WHERE space = $1::smallint;

-- name: empty_values
-- Delete the values of the atoms of space $1.
DELETE FROM atom_values WHERE space = $1::smallint;
