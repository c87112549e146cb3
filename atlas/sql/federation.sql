-- What sites exchange, and whom they exchange it with.

-- name: own_node
-- The name under which this database counts; a copy of a database takes a new one here.
SELECT own_node();

-- name: rename
-- Let own_node() take a new name at its next call.
UPDATE site SET counts_in = NULL;

-- name: prefer
-- Let the strategy $1 say whose evidence counts where sites differ. If that is another one than before, all patterns count as
-- changed now, for those that keep sums.
WITH preferred AS (
    UPDATE site SET conflicts = $1 WHERE conflicts <> $1 RETURNING pg_notify('patterns', '')
), changed AS (
    UPDATE patterns SET changed = pg_current_xact_id() WHERE EXISTS (SELECT FROM preferred)
)
SELECT count(*) FROM preferred;

-- name: since
-- What changed after transaction $1, pattern $2, node $3 and day $4, and before transaction $5: texts (with an empty node) and rows
-- of evidence, without those of or from node $6 and of days before $7; at most $8, in the order of the transactions that changed them. What
-- this site's learner forgot is left out.
WITH places AS MATERIALIZED (
    (
        SELECT p.changed, p.id AS pattern_id, ''::text COLLATE "C" AS node, '0001-01-01'::date AS day
        FROM patterns AS p
        WHERE (p.changed, p.id) > ($1::bigint::text::xid8, $2::text) AND p.changed < $5::bigint::text::xid8
            AND (p.brought_by IS DISTINCT FROM $6::text OR p.brought_version IS DISTINCT FROM p.version)
            AND (
                p.forgotten_by = 'operator' OR p.remembered_at IS NOT NULL
                OR p.forgotten_at IS NULL AND EXISTS (SELECT FROM pattern_evidence AS e WHERE e.pattern_id = p.id)
            )
        ORDER BY p.changed, p.id LIMIT $8
    ) UNION ALL (
        SELECT changed, pattern_id, node, day FROM pattern_evidence
        -- The first condition is for the index.
        WHERE (changed, pattern_id) >= ($1::bigint::text::xid8, $2::text)
            AND (changed, pattern_id, node, day) > ($1::bigint::text::xid8, $2::text, $3::text, $4::date)
            AND changed < $5::bigint::text::xid8 AND day >= $7::date
            AND node <> $6::text AND brought_by IS DISTINCT FROM $6::text
        ORDER BY changed, pattern_id, node, day LIMIT $8
    )
    ORDER BY changed, pattern_id, node, day LIMIT $8
)
SELECT w.changed::text::bigint AS xid, w.pattern_id, w.node, w.day, p.type, p.signature::text AS signature, p.statement,
    p.conditions::text AS conditions, p.action, p.data::text AS data, p.created_at, p.updated_at, p.version AS text_version,
    CASE WHEN p.forgotten_by = 'operator' THEN p.forgotten_at END AS forgotten_at, p.remembered_at,
    e.pos, e.neg, e.sum_reward, e.last_seen, e.version
FROM places AS w
LEFT JOIN patterns AS p ON w.node = '' AND p.id = w.pattern_id
LEFT JOIN pattern_evidence AS e ON w.node <> '' AND e.pattern_id = w.pattern_id AND e.node = w.node AND e.day = w.day
ORDER BY w.changed, w.pattern_id, w.node, w.day;

-- name: texts
-- The texts of those of the patterns $1 that are not just forgotten by this site's learner.
SELECT id, type, signature::text AS signature, statement, conditions::text AS conditions, action, data::text AS data, created_at,
    updated_at, version, CASE WHEN forgotten_by = 'operator' THEN forgotten_at END AS forgotten_at, remembered_at
FROM patterns
WHERE id = ANY ($1::text[]) AND (forgotten_by IS DISTINCT FROM 'learner' OR remembered_at IS NOT NULL)
ORDER BY id;

-- name: rows
-- The evidence of the patterns $1, without that of node $2 and of days before $3.
SELECT pattern_id, node, day, pos, neg, sum_reward, last_seen, version FROM pattern_evidence
WHERE pattern_id = ANY ($1::text[]) AND node <> $2 AND day >= $3 ORDER BY pattern_id, node, day;

-- name: digests
-- For each bucket of ids that begin with one of $1, all of one length, and $2 more digits: how many rows it has, without evidence of
-- days before $3, and the sum of 64 bits of a hash of each. It is the same wherever the rows are: days and instants are counted from
-- 1970, and a sum of rewards is the bits that it has.
WITH hashed AS (
    SELECT pattern_id AS id, sha256(convert_to(concat_ws(E'\x1f', 'e', pattern_id, node, day - '1970-01-01'::date, pos, neg,
        encode(float8send(sum_reward + 0.0), 'hex'), (extract(epoch FROM last_seen) * 1000000)::bigint, version), 'UTF8')) AS hash
    FROM unnest($1::text[]) AS wanted (prefix)
    JOIN pattern_evidence ON pattern_id >= prefix COLLATE "C" AND pattern_id < prefix || 'g' COLLATE "C"
    WHERE day >= $3
    UNION ALL
    SELECT id, sha256(convert_to(concat_ws(E'\x1f', 'p', id, version, (extract(epoch FROM updated_at) * 1000000)::bigint,
        coalesce((extract(epoch FROM CASE WHEN forgotten_by = 'operator' THEN forgotten_at END) * 1000000)::bigint, -1),
        coalesce((extract(epoch FROM remembered_at) * 1000000)::bigint, -1), statement, conditions, coalesce(action, ''), data),
        'UTF8'))
    FROM unnest($1::text[]) AS wanted (prefix)
    JOIN patterns AS p ON id >= prefix COLLATE "C" AND id < prefix || 'g' COLLATE "C"
    WHERE forgotten_by = 'operator' OR remembered_at IS NOT NULL
        OR forgotten_at IS NULL AND EXISTS (SELECT FROM pattern_evidence AS e WHERE e.pattern_id = p.id AND e.day >= $3)
)
SELECT left(id, length(($1::text[])[1]) + $2::integer) AS bucket, count(*) AS rows,
    mod(sum(('x' || encode(substr(hash, 1, 8), 'hex'))::bit(64)::bigint::numeric + 9223372036854775808), 18446744073709551616)::text
        AS total
FROM hashed GROUP BY bucket ORDER BY bucket;

-- name: ids
-- At most $3 ids after $2 that begin with one of $1, of patterns that are exchanged, given that evidence of days before $4 is not.
SELECT id
FROM unnest($1::text[]) AS wanted (prefix)
JOIN patterns AS p ON id >= prefix COLLATE "C" AND id < prefix || 'g' COLLATE "C"
WHERE id > $2
    AND (forgotten_by = 'operator' OR remembered_at IS NOT NULL
        OR forgotten_at IS NULL AND EXISTS (SELECT FROM pattern_evidence AS e WHERE e.pattern_id = p.id AND e.day >= $4))
ORDER BY id LIMIT $3;

-- name: known
-- Those of the patterns $1 that are stored, and when the learner forgot them, if it did.
SELECT id, CASE WHEN forgotten_by = 'learner' THEN forgotten_at END AS forgotten_at, forgotten_by IS NOT NULL AS is_forgotten
FROM patterns WHERE id = ANY ($1::text[]) ORDER BY id;

-- name: merge
-- Merge texts of other sites: ids $1, types $2, signatures $3, statements $4, conditions $5, actions $6, data $7, created at $8,
-- updated at $9, versions $10, forgotten by an operator at $11, remembered at $12, and when evidence that comes along was last seen
-- $13; all from node $14. In whatever order they come, the same stays: of texts the latest; of an operator's acts the later one. What the learner
-- forgot here comes back only with evidence that is newer than that. Pins and importance are each site's own. Returns what changed.
INSERT INTO patterns AS p (id, type, signature, statement, conditions, action, data, created_at, updated_at, version,
    forgotten_at, forgotten_by, remembered_at, attended_at, brought_by, brought_version)
-- A new pattern has no importance yet, so it doesn't matter since when.
SELECT id, type, signature::jsonb, statement, conditions::jsonb, action, data::jsonb, created_at, updated_at, version,
    forgotten_at, CASE WHEN forgotten_at IS NOT NULL THEN 'operator' END, remembered_at, coalesce(seen_at, '1970-01-01Z'),
    $14::text, version
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::timestamptz[],
    $9::timestamptz[], $10::bigint[], $11::timestamptz[], $12::timestamptz[], $13::timestamptz[])
    AS new (id, type, signature, statement, conditions, action, data, created_at, updated_at, version, forgotten_at, remembered_at,
        seen_at)
ORDER BY id COLLATE "C"
ON CONFLICT (id) DO UPDATE
SET (statement, conditions, action, data, updated_at, version, brought_by, brought_version) = (
        SELECT later.statement, later.conditions, later.action, later.data, later.updated_at, later.version, later.brought_by,
            later.brought_version
        FROM (VALUES
            (p.statement, p.conditions, p.action, p.data, p.updated_at, p.version, p.brought_by, p.brought_version),
            (excluded.statement, excluded.conditions, excluded.action, excluded.data, excluded.updated_at, excluded.version,
                excluded.brought_by, excluded.brought_version)
        ) AS later (statement, conditions, action, data, updated_at, version, brought_by, brought_version)
        ORDER BY later.version DESC, later.updated_at DESC, later.statement COLLATE "C" DESC,
            later.conditions::text COLLATE "C" DESC, coalesce(later.action, '') COLLATE "C" DESC, later.data::text COLLATE "C" DESC
        LIMIT 1
    ),
    (forgotten_at, forgotten_by, pinned) = (
        SELECT
            CASE WHEN acts.forget THEN acts.forgot WHEN NOT acts.revive THEN p.forgotten_at END,
            CASE WHEN acts.forget THEN 'operator' WHEN NOT acts.revive THEN 'learner' END,
            p.pinned AND NOT acts.forget
        FROM (VALUES (
            greatest(
                CASE WHEN p.forgotten_by = 'operator' THEN p.forgotten_at END,
                CASE WHEN excluded.forgotten_by = 'operator' THEN excluded.forgotten_at END
            ),
            greatest(p.remembered_at, excluded.remembered_at)
        )) AS latest (forgot, remembered)
        CROSS JOIN LATERAL (VALUES (
            latest.forgot,
            coalesce(latest.forgot >= coalesce(latest.remembered, latest.forgot), false),
            p.forgotten_at IS NULL OR (excluded.forgotten_at IS NULL AND excluded.attended_at > p.forgotten_at)
        )) AS acts (forgot, forget, revive)
    ),
    remembered_at = greatest(p.remembered_at, excluded.remembered_at)
WHERE (excluded.version, excluded.updated_at, excluded.statement COLLATE "C", excluded.conditions::text COLLATE "C",
        coalesce(excluded.action, '') COLLATE "C", excluded.data::text COLLATE "C")
    > (p.version, p.updated_at, p.statement COLLATE "C", p.conditions::text COLLATE "C",
        coalesce(p.action, '') COLLATE "C", p.data::text COLLATE "C")
    OR excluded.remembered_at > coalesce(p.remembered_at, '-infinity')
    OR (p.forgotten_by = 'learner' AND excluded.forgotten_by IS NULL AND excluded.attended_at > p.forgotten_at)
    OR (excluded.forgotten_by = 'operator' AND excluded.forgotten_at >= coalesce(p.remembered_at, '-infinity')
        AND (p.forgotten_by IS DISTINCT FROM 'operator' OR excluded.forgotten_at > p.forgotten_at))
RETURNING id;

-- name: peers
-- Other sites, those that were heard last first.
SELECT node, role, place, seen_at, heard_at, left_at, compared_at, messages_in, messages_out, records_in, records_out, changed,
    bytes_in, bytes_out, new_on, new_keys, failures, isolated_until
FROM federation_peers WHERE $1::text IS NULL OR node = $1 ORDER BY heard_at DESC NULLS LAST, node;

-- name: positions
-- The positions in feeds and streams of the peer $1 (NULL: of all).
SELECT node, feed, position FROM federation_positions WHERE $1::text IS NULL OR node = $1 ORDER BY node, feed;

-- name: refusals
-- Why messages were refused, the last refusal first.
SELECT node, reason, count, last_at, last_told FROM federation_refusals ORDER BY last_at DESC, node, reason;

-- name: count_peers
-- How many other sites are known.
SELECT count(*) FROM federation_peers;

-- name: new_keys
-- How many new things all peers brought on day $1.
SELECT coalesce(sum(new_keys), 0)::bigint AS patterns, coalesce(sum(new_atoms), 0)::bigint AS atoms FROM federation_peers
WHERE new_on = $1;

-- name: hear
-- Note a message of node $1 with role $2 that is accepted at $3: $4 records, $5 bytes, on day $6. $7 is where the node is called,
-- if it is called from here.
INSERT INTO federation_peers AS f (node, role, seen_at, heard_at, messages_in, records_in, bytes_in, new_on, place)
VALUES ($1, $2, $3, $3, 1, $4, $5, $6, $7)
ON CONFLICT (node) DO UPDATE
SET role = excluded.role, seen_at = greatest(f.seen_at, excluded.seen_at), heard_at = greatest(f.heard_at, excluded.heard_at),
    messages_in = f.messages_in + 1, records_in = f.records_in + excluded.records_in, bytes_in = f.bytes_in + excluded.bytes_in,
    new_keys = CASE WHEN f.new_on = excluded.new_on THEN f.new_keys ELSE 0 END,
    new_atoms = CASE WHEN f.new_on = excluded.new_on THEN f.new_atoms ELSE 0 END, new_on = excluded.new_on,
    failures = 0, isolated_until = NULL,
    place = CASE WHEN excluded.place LIKE 'redis/%' THEN coalesce(f.place, excluded.place) ELSE coalesce(excluded.place, f.place) END;

-- name: note
-- Note that the message of node $1 that was just heard changed $2 rows, and brought $3 new patterns and $4 new atoms.
UPDATE federation_peers SET changed = changed + $2, new_keys = new_keys + $3, new_atoms = new_atoms + $4 WHERE node = $1;

-- name: sent
-- Note a message to node $1: $2 records, $3 bytes.
UPDATE federation_peers
SET messages_out = messages_out + 1, records_out = records_out + $2, bytes_out = bytes_out + $3 WHERE node = $1;

-- name: hear_of
-- Note what is told of the nodes $1: seen at $2, left at $3 (NULL: not).
INSERT INTO federation_peers AS f (node, seen_at, left_at)
SELECT node, seen_at, left_at FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) AS told (node, seen_at, left_at)
ORDER BY node COLLATE "C"
ON CONFLICT (node) DO UPDATE
SET seen_at = greatest(f.seen_at, excluded.seen_at), left_at = greatest(f.left_at, excluded.left_at)
WHERE excluded.seen_at > f.seen_at OR excluded.left_at > coalesce(f.left_at, '-infinity');

-- name: depart
-- Note that the site $1 left at $2, under whatever name it is known.
UPDATE federation_peers SET left_at = greatest(left_at, seen_at, $2) WHERE site_of(node) = $1;

-- name: lock_peer
-- Let nobody else take messages of node $1 until this transaction ends; returns how many new patterns and atoms it brought on $2.
SELECT CASE WHEN new_on = $2 THEN new_keys ELSE 0 END AS patterns, CASE WHEN new_on = $2 THEN new_atoms ELSE 0 END AS atoms
FROM federation_peers WHERE node = $1 FOR NO KEY UPDATE;

-- name: move
-- Note that in the feed or stream $2 of node $1, everything up to $3 was read.
INSERT INTO federation_positions AS p (node, feed, position) VALUES ($1, $2, $3)
ON CONFLICT (node, feed) DO UPDATE SET position = excluded.position WHERE p.position <> excluded.position;

-- name: compared
-- Note that everything was compared with node $1 at $2.
UPDATE federation_peers SET compared_at = $2 WHERE node = $1;

-- name: refuse
-- Count $5 refusals of messages of node $1 for the reason $2 at $3, of which the last said $4.
INSERT INTO federation_refusals AS r (node, reason, count, last_at, last_told) VALUES ($1, $2, $5, $3, $4)
ON CONFLICT (node, reason) DO UPDATE
SET count = r.count + excluded.count, last_at = greatest(r.last_at, excluded.last_at), last_told = excluded.last_told;

-- name: fail
-- Note that a message of node $1 was refused; returns how many in a row that are, no row if it is not known.
UPDATE federation_peers SET failures = failures + 1 WHERE node = $1 RETURNING failures;

-- name: isolate
-- Take no messages of node $1 until $2.
UPDATE federation_peers SET isolated_until = $2 WHERE node = $1;

-- name: note_failure
-- Note that an exchange failed at $3 that this site began at the place $1, where node $2 is as far as is known, and why: $4.
INSERT INTO federation_failures (place, node, failed_at, told) VALUES ($1, $2, $3, $4)
ON CONFLICT (place) DO UPDATE SET node = excluded.node, failed_at = excluded.failed_at, told = excluded.told;

-- name: clear_failure
-- Note that an exchange at the place $1 succeeded.
DELETE FROM federation_failures WHERE place = $1;

-- name: failures
-- Where the last exchange that this site began has failed, the last failure first.
SELECT place, node, failed_at, told FROM federation_failures ORDER BY failed_at DESC, place;

-- name: leave
-- Forget how far other sites were read, and what is known of them.
DELETE FROM federation_peers;

-- name: forget_refusals
-- Forget why messages were refused.
DELETE FROM federation_refusals;

-- name: forget_failures
-- Forget why exchanges failed.
DELETE FROM federation_failures;

-- name: count_sites
-- How many sites there are, this one included: those seen since $1 that have not left since.
SELECT 1 + count(DISTINCT site_of(f.node)) FROM federation_peers AS f, site
WHERE f.seen_at >= $1 AND NOT coalesce(f.left_at >= f.seen_at, false) AND site_of(f.node) <> site_of(site.node);

-- name: messages
-- How many messages were exchanged with all peers: received, sent, and refused.
SELECT coalesce(sum(messages_in), 0)::bigint AS received, coalesce(sum(messages_out), 0)::bigint AS sent,
    (SELECT coalesce(sum(count), 0)::bigint FROM federation_refusals) AS refused
FROM federation_peers;
