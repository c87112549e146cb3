-- name: append
-- Append events of one instant in order, notify listeners of the last id, and return all ids. Before taking ids, lock (in
-- shared mode) a key that contains a lower bound of them, so that readers know which ids may still appear.
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
-- The id up to which no event can appear any more, and the last id taken. The last id is read before the locks: if an id up
-- to it is not locked any more, its transaction has committed or rolled back. The events themselves are read by a later
-- statement, whose snapshot therefore contains all of them.
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
-- At most $3 events after cursor $1 up to the watermark $2, oldest first.
SELECT id, at, kind, agent, node, session, payload FROM events
WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3;

-- name: since_of_kinds
-- The same, only of the kinds $4.
SELECT id, at, kind, agent, node, session, payload FROM events
WHERE id > $1 AND id <= $2 AND kind = ANY($4::text[]) ORDER BY id LIMIT $3;

-- name: latest_of_kinds
-- The last $3 events of the kinds $2 up to the watermark $1, newest first.
SELECT id, at, kind, agent, node, session, payload FROM events
WHERE id <= $1 AND kind = ANY($2::text[]) ORDER BY id DESC LIMIT $3;
