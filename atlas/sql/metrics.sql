-- name: hold_cursor
-- The id up to which all events are counted, locked until the transaction ends so that each event is counted once.
SELECT event_id FROM metric_cursor FOR UPDATE;

-- name: fold
-- Add the events after $1 up to $2 to the totals; $3 are the upper bounds of the histogram of cycle durations in seconds.
WITH fresh AS MATERIALIZED (
    SELECT kind, coalesce(agent, split_part(kind, '.', 1)) AS agent, payload
    FROM events
    WHERE id > $1 AND id <= $2
), cycle AS MATERIALIZED (
    SELECT agent, payload, coalesce(payload->>'outcome', 'unknown') AS outcome,
        CASE jsonb_typeof(payload->'seconds') WHEN 'number' THEN (payload->>'seconds')::double precision ELSE 0 END
            AS seconds
    FROM fresh
    WHERE kind LIKE '%.cycle'
), tally AS (
    -- All counts of an agent, under their names in the payload; values that aren't numbers are ignored below.
    SELECT agent, 'skipped' AS metric, 'reason' AS label, key, value
    FROM cycle CROSS JOIN jsonb_each(CASE jsonb_typeof(payload->'skipped') WHEN 'object' THEN payload->'skipped' END)
    UNION ALL
    SELECT agent, 'units', 'bucket', key, value
    FROM cycle CROSS JOIN jsonb_each(CASE jsonb_typeof(payload->'units') WHEN 'object' THEN payload->'units' END)
    UNION ALL
    SELECT agent, key, NULL, NULL, value
    FROM cycle CROSS JOIN jsonb_each(payload)
    WHERE key IN ('new', 'samples', 'observations')
), counted (metric, labels, total) AS (
    SELECT 'cycles', jsonb_build_object('agent', agent, 'outcome', outcome), count(*)
    FROM cycle GROUP BY agent, outcome
    UNION ALL
    SELECT 'cycle_seconds', jsonb_build_object('agent', agent), sum(seconds)
    FROM cycle GROUP BY agent
    UNION ALL
    SELECT 'cycle_seconds_at_most', jsonb_build_object('agent', agent, 'le', bound), count(*)
    FROM cycle CROSS JOIN unnest($3::double precision[]) AS bound
    WHERE seconds <= bound GROUP BY agent, bound
    UNION ALL
    SELECT metric, jsonb_strip_nulls(jsonb_build_object('agent', agent, coalesce(label, 'none'), key)),
        sum((value #>> '{}')::double precision)
    FROM tally
    WHERE CASE jsonb_typeof(value) WHEN 'number' THEN (value #>> '{}')::double precision >= 0 ELSE false END
    GROUP BY metric, agent, label, key
    UNION ALL
    SELECT 'breakouts', '{}'::jsonb, count(*)
    FROM fresh WHERE kind = 'tracker.breakout' HAVING count(*) > 0
), moved AS (
    UPDATE metric_cursor SET event_id = $2
)
INSERT INTO metric_totals AS t (metric, labels, total)
SELECT metric, labels, total FROM counted
ON CONFLICT (metric, labels) DO UPDATE SET total = t.total + EXCLUDED.total;

-- name: totals
-- All totals.
SELECT metric, labels, total FROM metric_totals ORDER BY metric, labels;

-- name: ledger
-- The units that each ring used and reserved of each project's buckets on day $1, until when the buckets are closed, and
-- whether archeology lends its share: it does if it asked for nothing on that day and the one before.
SELECT project, bucket, max(closed_until) FILTER (WHERE pacific_day = $1) AS closed_until,
    NOT bool_or(archeology_asked) AS lends,
    coalesce(max(hunting_used) FILTER (WHERE pacific_day = $1), 0) AS hunting_used,
    coalesce(max(hunting_reserved) FILTER (WHERE pacific_day = $1), 0) AS hunting_reserved,
    coalesce(max(tracking_used) FILTER (WHERE pacific_day = $1), 0) AS tracking_used,
    coalesce(max(tracking_reserved) FILTER (WHERE pacific_day = $1), 0) AS tracking_reserved,
    coalesce(max(archeology_used) FILTER (WHERE pacific_day = $1), 0) AS archeology_used,
    coalesce(max(archeology_reserved) FILTER (WHERE pacific_day = $1), 0) AS archeology_reserved
FROM quota_ledger
WHERE pacific_day BETWEEN $1::date - 1 AND $1
GROUP BY project, bucket
ORDER BY project, bucket;

-- name: count_lapses
-- Add claims whose lease has expired, and that no process has taken over yet, to their agents' totals. Each counts once: a
-- claim has one token, however many rows it holds. Tokens seen two days ago are deleted, as no claim stays that long.
WITH lapsed AS (
    SELECT DISTINCT 'hunter' AS agent, lease_token
    FROM search_queue
    WHERE status = 'active' AND lease_token IS NOT NULL AND lease_until < clock_timestamp()
    UNION
    SELECT DISTINCT 'hunter', lease_token
    FROM discovery_asks
    WHERE is_open AND lease_token IS NOT NULL AND lease_until < clock_timestamp()
    UNION
    SELECT DISTINCT 'tracker', lease_token
    FROM video_clock
    WHERE status = 'live' AND lease_token IS NOT NULL AND lease_until < clock_timestamp()
    UNION
    SELECT DISTINCT 'tracker', lease_token
    FROM channel_clock
    WHERE status = 'live' AND lease_token IS NOT NULL AND lease_until < clock_timestamp()
), seen AS (
    INSERT INTO metric_lapses (lease_token, seen_at)
    SELECT DISTINCT lease_token, clock_timestamp() FROM lapsed
    ON CONFLICT (lease_token) DO NOTHING
    RETURNING lease_token
), forgotten AS (
    DELETE FROM metric_lapses AS old
    WHERE seen_at < clock_timestamp() - interval '2 days'
        AND NOT EXISTS (SELECT FROM lapsed WHERE lapsed.lease_token = old.lease_token)
)
INSERT INTO metric_totals AS t (metric, labels, total)
SELECT 'lapses', jsonb_build_object('agent', agent), count(*)
FROM lapsed
JOIN seen USING (lease_token)
GROUP BY agent
ON CONFLICT (metric, labels) DO UPDATE SET total = t.total + EXCLUDED.total;
