-- name: hold_cursor
-- The event up to which all are counted, held until the transaction ends, so that each is counted once.
SELECT event_id FROM metric_cursor FOR UPDATE;

-- name: fold
-- Add what events after $1 up to $2 tell to the totals; $3 are the upper bounds of the histogram of seconds.
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
    -- Whatever an agent counts, under the name it has in the payload; what is no number counts nothing.
    SELECT agent, 'skipped' AS metric, 'reason' AS label, key, value
    FROM cycle CROSS JOIN jsonb_each(CASE jsonb_typeof(payload->'skipped') WHEN 'object' THEN payload->'skipped' END)
    UNION ALL
    SELECT agent, 'units', 'bucket', key, value
    FROM cycle CROSS JOIN jsonb_each(CASE jsonb_typeof(payload->'units') WHEN 'object' THEN payload->'units' END)
    UNION ALL
    SELECT agent, key, NULL, NULL, value
    FROM cycle CROSS JOIN jsonb_each(payload)
    WHERE key IN ('new', 'samples')
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
-- Every total there is.
SELECT metric, labels, total FROM metric_totals ORDER BY metric, labels;

-- name: ledger
-- What each ring used and reserved of each project's buckets on day $1, and until when they are closed.
SELECT project, bucket, closed_until,
    hunting_used, hunting_reserved, tracking_used, tracking_reserved, archeology_used, archeology_reserved
FROM quota_ledger
WHERE pacific_day = $1
ORDER BY project, bucket;

-- name: count_lapses
-- Add the claims whose lease ran out, and that nobody has taken over yet, to the totals of their agents, each once: a
-- claim has one token, however many rows it holds. What was seen two days ago is forgotten: nothing waits that long.
WITH lapsed AS (
    SELECT DISTINCT 'hunter' AS agent, lease_token
    FROM search_queue
    WHERE status = 'active' AND lease_token IS NOT NULL AND lease_until < clock_timestamp()
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
