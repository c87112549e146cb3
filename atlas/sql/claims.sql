-- What sites say of atoms, as it is exchanged between them.

-- name: since
-- The claims that changed after transaction $1, whether of links $2, handle $3 and site $4, and before transaction $5, without those of
-- or from node $6; at most $7, in the order of the transactions that changed them, nodes before links. With what the atoms are.
WITH places AS MATERIALIZED (
    (
        SELECT a.told AS changed, (a.outgoing IS NOT NULL) AS is_link, a.handle, site_of(site.node) COLLATE "C" AS site
        FROM site, atoms AS a
        -- The first condition is for the index.
        WHERE a.told IS NOT NULL
            AND (a.told, (a.outgoing IS NOT NULL), a.handle) >= ($1::bigint::text::xid8, $2::boolean, $3::uuid)
            AND (a.told, (a.outgoing IS NOT NULL), a.handle, site_of(site.node) COLLATE "C")
                > ($1::bigint::text::xid8, $2::boolean, $3::uuid, $4::text)
            AND a.told < $5::bigint::text::xid8
        ORDER BY a.told, (a.outgoing IS NOT NULL), a.handle LIMIT $7
    ) UNION ALL (
        SELECT changed, is_link, handle, site FROM atom_claims
        WHERE (changed, is_link, handle, site) > ($1::bigint::text::xid8, $2::boolean, $3::uuid, $4::text)
            AND changed < $5::bigint::text::xid8 AND node <> $6::text AND brought_by IS DISTINCT FROM $6::text
        ORDER BY changed, is_link, handle, site LIMIT $7
    )
    ORDER BY changed, is_link, handle, site LIMIT $7
)
SELECT w.changed::text::bigint AS xid, w.is_link, w.handle, w.site, c.node, c.present, c.pos, c.neg, c.weight, c.seen_at, c.version,
    coalesce(a.type, l.type) AS type, a.name, coalesce(a.outgoing, l.outgoing) AS outgoing
FROM places AS w
-- One by one, as the planner would rather read all claims for each.
LEFT JOIN LATERAL (SELECT * FROM told_claims() AS t WHERE t.handle = w.handle AND t.site = w.site OFFSET 0) AS c ON true
LEFT JOIN atoms AS a ON a.space = 0 AND a.handle = w.handle AND a.sources > 0
LEFT JOIN waiting_links AS l ON l.handle = w.handle
ORDER BY w.changed, w.is_link, w.handle, w.site;

-- name: whole
-- All claims about the atoms $1, with what these are.
SELECT c.handle, c.node, c.present, c.pos, c.neg, c.weight, c.seen_at, c.version, coalesce(a.type, l.type) AS type, a.name,
    coalesce(a.outgoing, l.outgoing) AS outgoing
FROM told_claims() AS c
LEFT JOIN atoms AS a ON a.space = 0 AND a.handle = c.handle AND a.sources > 0
LEFT JOIN waiting_links AS l ON l.handle = c.handle
WHERE c.handle = ANY ($1::uuid[])
ORDER BY c.handle, c.node;

-- name: digests
-- For each bucket of handles from one of $1 to the same of $2 and $3 digits in common: how many claims it has, without those taken
-- back before $4, and the sum of 64 bits of a hash of each, which is the same wherever the claims are.
WITH hashed AS (
    SELECT encode(uuid_send(c.handle), 'hex') AS id, sha256(convert_to(concat_ws(E'\x1f', encode(uuid_send(c.handle), 'hex'), c.node,
        c.version, c.present, c.pos, c.neg, (extract(epoch FROM c.seen_at) * 1000000)::bigint,
        encode(float4send(c.weight + 0::real), 'hex')), 'UTF8')) AS hash
    FROM unnest($1::uuid[], $2::uuid[]) AS wanted (first, last)
    JOIN told_claims() AS c ON c.handle >= wanted.first AND c.handle <= wanted.last
    WHERE c.present OR c.seen_at >= $4
)
SELECT left(id, $3::integer) AS bucket, count(*) AS rows,
    mod(sum(('x' || encode(substr(hash, 1, 8), 'hex'))::bit(64)::bigint::numeric + 9223372036854775808), 18446744073709551616)::text
        AS total
FROM hashed GROUP BY bucket ORDER BY bucket;

-- name: handles
-- At most $5 handles behind $3 up to $4 of atoms of which there are claims, that lie from one of $1 to the same of $2.
SELECT DISTINCT c.handle
FROM unnest($1::uuid[], $2::uuid[]) AS wanted (first, last)
JOIN told_claims() AS c ON c.handle >= wanted.first AND c.handle <= wanted.last
WHERE ($3::uuid IS NULL OR c.handle > $3) AND c.handle <= $4
ORDER BY c.handle LIMIT $5;

-- name: known
-- Those of the atoms $1 that something is known of.
SELECT handle FROM atoms WHERE space = 0 AND handle = ANY ($1::uuid[])
UNION
SELECT handle FROM atom_claims WHERE handle = ANY ($1::uuid[]);

-- name: merge
-- Merge claims that node $14 brought, as of $15; see merge_claims().
SELECT changed, missing FROM merge_claims(
    $1::uuid[], $2::text[], $3::boolean[], $4::bigint[], $5::bigint[], $6::real[], $7::timestamptz[], $8::bigint[], $9::text[],
    $10::text[], $11::integer[], $12::integer[], $13::uuid[], $14::text, $15::timestamptz
);

-- name: add_types
-- Add the types of atoms $1, of links if $2, symmetric ones if $3, described by $4, where none has that name, up to $5 types.
INSERT INTO atom_types (name, is_link, is_symmetric, what)
SELECT new.name, new.is_link, new.is_symmetric, new.what
FROM unnest($1::text[], $2::boolean[], $3::boolean[], $4::text[]) AS new (name, is_link, is_symmetric, what)
WHERE NOT EXISTS (SELECT FROM atom_types AS t WHERE t.name = new.name)
ORDER BY new.name
LIMIT greatest($5::bigint - (SELECT count(*) FROM atom_types), 0)
ON CONFLICT DO NOTHING;

-- name: tell
-- Tell other sites of the atoms that $1 says; whether that is another setting than before.
WITH told AS (UPDATE site SET tells = $1 WHERE tells <> $1 RETURNING 1)
SELECT EXISTS (SELECT FROM told);

-- name: tell_more
-- Tell other sites of those of the $2 own atoms behind $1 that they are to be told of now; returns the last of all, NULL if there are
-- none.
WITH batch AS MATERIALIZED (
    SELECT handle, sources, type, told FROM atoms WHERE space = 0 AND handle > $1::uuid ORDER BY handle LIMIT $2
), told AS MATERIALIZED (
    SELECT tell_atoms(array_agg(batch.handle)) AS former FROM batch, site
    WHERE batch.told IS NULL AND is_told(site.tells, batch.sources, batch.type)
)
SELECT (SELECT handle FROM batch ORDER BY handle DESC LIMIT 1) AS last, weigh_atoms(told.former, $3::timestamptz) FROM told;

-- name: tell_again
-- Say again what is told of the $2 atoms behind $1, under a later name, as of $3; returns the last, no row if there are none.
WITH batch AS MATERIALIZED (
    SELECT handle FROM atoms WHERE told IS NOT NULL AND handle > $1::uuid ORDER BY handle LIMIT $2
)
SELECT last.handle, weigh_atoms(tell_atoms(ARRAY(SELECT handle FROM batch)), $3::timestamptz)
FROM (SELECT handle FROM batch ORDER BY handle DESC LIMIT 1) AS last;

-- name: weigh
-- Weigh the claims about the $2 atoms behind $1, as of $3; returns the last, NULL if there are none.
WITH batch AS MATERIALIZED (
    SELECT DISTINCT handle FROM atom_claims WHERE handle > $1::uuid ORDER BY handle LIMIT $2
)
SELECT last.handle, weigh_atoms(ARRAY(SELECT handle FROM batch), $3::timestamptz)
FROM (SELECT handle FROM batch ORDER BY handle DESC LIMIT 1) AS last;

-- name: is_waiting
-- Whether a claim changed that can be read as soon as transactions end which began earlier.
SELECT coalesce(greatest(
    (SELECT told FROM atoms WHERE told IS NOT NULL ORDER BY told DESC LIMIT 1),
    (SELECT changed FROM atom_claims ORDER BY changed DESC LIMIT 1)
) >= pg_snapshot_xmin(pg_current_snapshot()), false);

-- name: mark_atoms
-- Let the $3 atoms behind space $1 and handle $2 count as changed now; returns the last.
WITH batch AS MATERIALIZED (
    SELECT space, handle FROM atoms WHERE (space, handle) > ($1::smallint, $2::uuid) ORDER BY space, handle LIMIT $3
), marked AS (
    UPDATE atoms AS a
    SET changed = pg_current_xact_id(), told = CASE WHEN a.told IS NOT NULL THEN pg_current_xact_id() END
    FROM batch WHERE a.space = batch.space AND a.handle = batch.handle
)
SELECT space, handle FROM batch ORDER BY space DESC, handle DESC LIMIT 1;

-- name: mark_claims
-- Let the $3 claims behind handle $1 and site $2 count as changed now; returns the last.
WITH batch AS MATERIALIZED (
    SELECT handle, site FROM atom_claims WHERE (handle, site) > ($1::uuid, $2::text) ORDER BY handle, site LIMIT $3
), marked AS (
    UPDATE atom_claims AS c SET changed = pg_current_xact_id() FROM batch WHERE c.handle = batch.handle AND c.site = batch.site
)
SELECT handle, site FROM batch ORDER BY handle DESC, site DESC LIMIT 1;

-- name: forget
-- Forget what other sites say, and how far it was read: they say all of it again.
WITH claims AS (DELETE FROM atom_claims), links AS (DELETE FROM waiting_links)
DELETE FROM federation_positions WHERE feed = 'atoms';

-- name: sites
-- The other sites that say that atoms are there: how many, how many of these would be gone if the site didn't say so, and when any
-- name of it was last seen, and it left (NULL: never).
WITH said AS (
    SELECT c.site, count(*) AS claims, count(*) FILTER (
        WHERE a.sources = 8 AND NOT EXISTS (SELECT FROM atom_claims AS o WHERE o.handle = c.handle AND o.site <> c.site AND o.present)
    ) AS alone
    FROM atom_claims AS c LEFT JOIN atoms AS a ON a.space = 0 AND a.handle = c.handle
    WHERE c.present GROUP BY c.site
)
SELECT said.site, said.claims, said.alone, max(f.seen_at) AS seen_at, max(f.left_at) AS left_at
FROM said CROSS JOIN site
LEFT JOIN federation_peers AS f ON site_of(f.node) COLLATE "C" = said.site
WHERE said.site <> site_of(site.node)
GROUP BY said.site, said.claims, said.alone ORDER BY said.site;

-- name: take_back
-- Take back, as of $4, that the site $1 says of $3 atoms behind $2 that they are there; returns which atoms these are.
UPDATE atom_claims AS c
SET present = false, is_link = false, weight = NULL, pos = 0, neg = 0, seen_at = $4, brought_by = NULL,
    version = greatest(c.version + 1, (extract(epoch FROM $4::timestamptz) * 1000000)::bigint), changed = pg_current_xact_id()
FROM (
    SELECT handle FROM atom_claims WHERE site = $1 AND handle > $2::uuid AND present ORDER BY handle LIMIT $3
) AS batch
WHERE c.site = $1 AND c.handle = batch.handle
RETURNING c.handle;

-- name: weigh_these
-- Weigh the claims about the atoms $1, as of $2.
SELECT weigh_atoms($1::uuid[], $2);
