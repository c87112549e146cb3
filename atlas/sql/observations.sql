-- Observations that the service was told, and who learns them.

-- name: append
-- Append observations taken at $1 by writer $2, in order: agents $4, sessions $5, actions $6, instants $7, outcomes $8, contexts $9,
-- rewards $10, costs $11, durations $12, keys $14, without those whose key is there already. Wakes the leader if $13. Returns
-- for each its id, or that of the one with its key, and whether it is new; no row if more than $3 would then wait to be learnt.
-- As with events, a lock whose key holds a lower bound of the ids tells readers which may still appear.
WITH tail AS MATERIALIZED (
    SELECT s.last_value - (NOT s.is_called)::int AS id,
        coalesce((SELECT position::bigint FROM learner_cursors WHERE source = 'observations'), 0) AS learnt
    FROM observations_id_seq AS s
), held AS MATERIALIZED (
    SELECT pg_advisory_xact_lock_shared((x'4F42'::bigint << 48) | tail.id)
    FROM tail
    WHERE tail.id - tail.learnt + cardinality($4::text[]) <= $3::bigint
), given AS MATERIALIZED (
    SELECT nextval('observations_id_seq') AS id, ordered.*
    FROM (
        SELECT new.*
        FROM held
        CROSS JOIN unnest($4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::text[], $9::text[], $10::float8[],
            $11::float8[], $12::float8[], $14::bytea[]) WITH ORDINALITY
            AS new (agent, session, action, at, outcome, context, reward, cost, duration_s, key, nth)
        ORDER BY new.nth
    ) AS ordered
), appended AS (
    INSERT INTO observations (id, taken_at, writer, agent, session, action, at, outcome, context, reward, cost, duration_s, key)
    OVERRIDING SYSTEM VALUE
    SELECT id, $1, $2, agent, session, action, at, outcome, context::jsonb, reward, cost, duration_s, key
    FROM given
    ORDER BY id
    ON CONFLICT (key) WHERE key IS NOT NULL DO NOTHING
    RETURNING id
)
SELECT array_agg(coalesce(appended.id, known.id) ORDER BY given.nth) AS ids,
    array_agg(appended.id IS NOT NULL ORDER BY given.nth) AS new, CASE WHEN $13::boolean THEN pg_notify('observations', '') END
FROM given
LEFT JOIN appended USING (id)
LEFT JOIN observations AS known ON appended.id IS NULL AND known.key = given.key
HAVING count(*) > 0;

-- name: watermark
-- The id up to which no observation can appear any more, and the last id taken, which is read before the locks. The observations
-- themselves are read by a later statement, whose snapshot therefore contains all of them.
SELECT least(last.id, in_flight.floor) AS watermark, last.id AS last_id
FROM (SELECT last_value - (NOT is_called)::int AS id FROM observations_id_seq) AS last
CROSS JOIN LATERAL (
    SELECT min(key.floor) AS floor
    FROM pg_locks
    CROSS JOIN LATERAL (SELECT (((classid::bigint << 32) | objid::bigint) & ((1::bigint << 48) - 1))) AS key (floor)
    WHERE locktype = 'advisory' AND objsubid = 1 AND classid::bigint >> 16 = x'4F42'::bigint
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND key.floor <= last.id
) AS in_flight;

-- name: since
-- At most $3 observations after id $1 up to the watermark $2, in order.
SELECT id, writer, agent, session, action, at, outcome, context, reward, cost, duration_s
FROM observations
WHERE id > $1 AND id <= $2
ORDER BY id
LIMIT $3;

-- name: has_leader
-- Whether a process holds the advisory lock with the key $1.
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
        AND ((classid::bigint << 32) | objid::bigint) = $1::bigint
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
);

-- name: tell
-- Tell all processes the notices $1, in order.
SELECT count(pg_notify('observations', told.notice))
FROM (SELECT notice FROM unnest($1::text[]) WITH ORDINALITY AS new (notice, nth) ORDER BY nth) AS told;

-- name: count_learnt
-- Add $1 observations to the total of those that were learnt.
INSERT INTO metric_totals AS t (metric, labels, total)
VALUES ('observations', jsonb_build_object('agent', 'service'), $1)
ON CONFLICT (metric, labels) DO UPDATE SET total = t.total + excluded.total;

-- name: learnt
-- How many observations were learnt in all.
SELECT coalesce(sum(total), 0)::bigint FROM metric_totals
WHERE metric = 'observations' AND labels = jsonb_build_object('agent', 'service');
