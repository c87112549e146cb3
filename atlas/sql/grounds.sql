-- name: disks
-- The free disk space of each node since $1: the mean of each hour, with the disk's size as the last sample tells it.
WITH hourly AS (
    SELECT node, floor(extract(epoch FROM at) / 3600)::float8 AS hour, avg(disk_free_bytes)::float8 AS free_bytes,
        avg(disk_free_bytes / nullif(1 - disk_percent / 100, 0))::float8 AS total_bytes
    FROM system_metrics
    WHERE at >= $1 AND disk_free_bytes IS NOT NULL
    GROUP BY node, hour
)
SELECT node, array_agg(hour ORDER BY hour) AS at_h, array_agg(free_bytes ORDER BY hour) AS free_bytes,
    (array_agg(total_bytes ORDER BY hour DESC) FILTER (WHERE total_bytes IS NOT NULL))[1] AS total_bytes
FROM hourly
GROUP BY node
ORDER BY node
LIMIT $2;

-- name: last_backup
-- When a backup was last made that is not known to be bad, whoever asked for it. An event later than $1 was written by a
-- clock that was ahead, and doesn't tell how old the backup is.
SELECT at FROM events WHERE kind = 'maintainer.backup' AND payload ->> 'problem' IS NULL AND at <= $1
ORDER BY id DESC LIMIT 1;

-- name: durations
-- The median duration and the number of the cycles of the kinds $1 in [$2, $3).
SELECT split_part(kind, '.', 1) AS agent, count(*) AS cycles,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY (payload ->> 'seconds')::double precision) AS seconds
FROM events
WHERE kind = ANY ($1::text[]) AND at >= $2 AND at < $3 AND jsonb_typeof(payload -> 'seconds') = 'number'
    AND payload ->> 'outcome' = 'done'
GROUP BY 1
ORDER BY 1;

-- name: starving
-- How many of the tracker's cycles since $1 looked for due videos, and in how many of them some waited far too long.
SELECT count(*) AS cycles,
    count(*) FILTER (
        WHERE CASE jsonb_typeof(payload -> 'starving') WHEN 'number' THEN (payload ->> 'starving')::float8 > 0 END
    ) AS starving
FROM events
WHERE kind = 'tracker.cycle' AND at >= $1 AND payload -> 'due' <> '{}';
