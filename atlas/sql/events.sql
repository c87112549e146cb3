-- name: append
-- Add events of one instant in their order, announce the last id, and return all ids. An id is taken only under a
-- shared lock whose key tells a floor beneath it, so that a reader can tell which ids may still appear.
WITH floor AS MATERIALIZED (
    SELECT last_value - (NOT is_called)::int AS id FROM events_id_seq
), held AS MATERIALIZED (
    SELECT pg_advisory_xact_lock_shared((x'4556'::bigint << 48) | floor.id) FROM floor
), appended AS (
    INSERT INTO events (at, kind, agent, node, session, payload)
    SELECT $1, new.kind, $2, $3, $4, new.payload::jsonb
    FROM held CROSS JOIN unnest($5::text[], $6::text[]) WITH ORDINALITY AS new (kind, payload, nth)
    ORDER BY new.nth
    RETURNING id
)
SELECT array_agg(id ORDER BY id) AS ids, pg_notify('events', max(id)::text) FROM appended HAVING count(*) > 0;

-- name: watermark
-- The id up to which no event can appear any more, and the last id taken. The last id is read before the locks: an
-- id up to it whose lock is gone is committed, or never will be. The events themselves are read by a later
-- statement, whose snapshot then holds them all.
SELECT least(last.id, in_flight.floor) AS watermark, last.id AS last_id
FROM (SELECT last_value - (NOT is_called)::int AS id FROM events_id_seq) AS last
CROSS JOIN LATERAL (
    SELECT min(key.floor) AS floor
    FROM pg_locks
    CROSS JOIN LATERAL (SELECT (((classid::bigint << 32) | objid::bigint) & ((1::bigint << 48) - 1))) AS key (floor)
    WHERE locktype = 'advisory' AND objsubid = 1 AND classid::bigint >> 16 = x'4556'::bigint
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND key.floor <= last.id
) AS in_flight;

-- name: since
-- Events after a cursor up to the watermark, oldest first.
SELECT id, at, kind, agent, node, session, payload FROM events
WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3;

-- name: since_of_kinds
-- The same, of some kinds only.
SELECT id, at, kind, agent, node, session, payload FROM events
WHERE id > $1 AND id <= $2 AND kind = ANY($4::text[]) ORDER BY id LIMIT $3;

-- name: latest_of_kinds
-- The last events of some kinds up to the watermark, newest first.
SELECT id, at, kind, agent, node, session, payload FROM events
WHERE id <= $1 AND kind = ANY($2::text[]) ORDER BY id DESC LIMIT $3;
