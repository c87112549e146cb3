-- name: store_samples
-- Store samples of hosts, given as a JSON array of objects; names that are missing become NULL.
INSERT INTO system_metrics (
    at, node, memory_limit_bytes, memory_used_bytes, swap_used_bytes, disk_free_bytes, own_rss_bytes, cpus, cpu_percent,
    load_1, load_5, load_15, memory_percent, swap_percent, disk_percent, received_bytes_per_s, sent_bytes_per_s,
    received_packets_per_s, sent_packets_per_s, disk_read_bytes_per_s, disk_written_bytes_per_s, temperature_c,
    battery_percent, on_battery, processes
)
SELECT at, node, memory_limit_bytes, memory_used_bytes, swap_used_bytes, disk_free_bytes, own_rss_bytes, cpus, cpu_percent,
    load_1, load_5, load_15, memory_percent, swap_percent, disk_percent, received_bytes_per_s, sent_bytes_per_s,
    received_packets_per_s, sent_packets_per_s, disk_read_bytes_per_s, disk_written_bytes_per_s, temperature_c,
    battery_percent, on_battery, processes
FROM jsonb_populate_recordset(NULL::system_metrics, $1::text::jsonb)
ORDER BY at, node;

-- name: latest
-- The last sample since $1 of each node, or of the node $2 alone; at most $3 nodes, those sampled last first.
SELECT * FROM (
    SELECT DISTINCT ON (node) * FROM system_metrics
    WHERE at >= $1 AND ($2::text IS NULL OR node = $2)
    ORDER BY node, at DESC, id DESC
) AS newest
ORDER BY at DESC, node
LIMIT $3;

-- name: series
-- The mean figures of the nodes $1 from $2 to $3 in $4 equal spans of time; spans without a sample are left out.
SELECT node,
    least(floor($4 * extract(epoch FROM at - $2) / extract(epoch FROM $3::timestamptz - $2)), $4::int - 1)::int AS place,
    count(*) AS samples, min(at) AS at,
    avg(cpu_percent) AS cpu_percent, avg(load_1) AS load_1, avg(memory_percent) AS memory_percent,
    avg(swap_percent) AS swap_percent, avg(disk_percent) AS disk_percent,
    avg(received_bytes_per_s) AS received_bytes_per_s, avg(sent_bytes_per_s) AS sent_bytes_per_s,
    avg(disk_read_bytes_per_s) AS disk_read_bytes_per_s, avg(disk_written_bytes_per_s) AS disk_written_bytes_per_s,
    avg(temperature_c) AS temperature_c, avg(own_rss_bytes)::double precision AS own_rss_bytes
FROM system_metrics
WHERE node = ANY($1::text[]) AND at BETWEEN $2 AND $3
GROUP BY node, place
ORDER BY node, place;

-- name: since
-- At most $3 samples after the cursor ($1, $2), in the order of their transactions, up to the oldest one that is still
-- open: it may yet bring rows before any later one.
SELECT * FROM system_metrics
WHERE (xid, id) > ($1::xid8, $2::bigint) AND xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY xid, id
LIMIT $3;

-- name: horizon
-- The cursor that is before every sample from now on.
SELECT pg_snapshot_xmin(pg_current_snapshot());

-- name: is_restored
-- Whether the last sample, and whether the transaction $1 of a cursor, come from another server: here their transactions
-- have not begun yet. That is so after a backup was restored.
WITH begun AS (
    SELECT greatest(pg_snapshot_xmax(pg_current_snapshot()), pg_current_xact_id_if_assigned()) AS xid
)
SELECT coalesce((SELECT xid FROM system_metrics ORDER BY xid DESC, id DESC LIMIT 1) > begun.xid, false) AS samples,
    $1::xid8 > begun.xid AS cursor
FROM begun;

-- name: adopt_restored
-- Let the samples of another server count as older than all of this one's.
UPDATE system_metrics SET xid = '1'
WHERE xid > greatest(pg_snapshot_xmax(pg_current_snapshot()), pg_current_xact_id_if_assigned());

-- name: forget_samples
-- Delete at most $2 samples from before $1 and, if $3 is given, older than $3 days by the database's clock too.
DELETE FROM system_metrics
WHERE (xid, id) IN (
    SELECT xid, id FROM system_metrics
    WHERE at < least($1::timestamptz, clock_timestamp() - make_interval(days => $3::int))
    ORDER BY at LIMIT $2
);

-- name: forget_usage
-- Delete at most $2 counts from before the day $1 and, if $3 is given, older than $3 days by the database's clock too.
DELETE FROM application_usage
WHERE (day, kind, name) IN (
    SELECT day, kind, name FROM application_usage
    WHERE day < least($1::date, (clock_timestamp() AT TIME ZONE 'UTC')::date - $3::int)
    ORDER BY day LIMIT $2
);

-- name: count_usage
-- Add to the counts of the days $1, kinds $2 and names $3. In the order of the key, so that two processes cannot wait for
-- each other.
INSERT INTO application_usage AS u (day, kind, name, count, errors, seconds, last_at)
SELECT new.day, new.kind, new.name, sum(new.count), sum(new.errors), sum(new.seconds), max(new.last_at)
FROM unnest($1::date[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::double precision[], $7::timestamptz[])
    AS new (day, kind, name, count, errors, seconds, last_at)
GROUP BY new.day, new.kind, new.name
ORDER BY new.day, new.kind, new.name
ON CONFLICT (day, kind, name) DO UPDATE SET count = u.count + EXCLUDED.count, errors = u.errors + EXCLUDED.errors,
    seconds = u.seconds + EXCLUDED.seconds, last_at = greatest(u.last_at, EXCLUDED.last_at);

-- name: usage
-- The counts of each kind and name since the day $1, most used first.
SELECT kind, name, sum(count)::bigint AS count, sum(errors)::bigint AS errors, sum(seconds) AS seconds,
    max(last_at) AS last_at
FROM application_usage
WHERE day >= $1
GROUP BY kind, name
ORDER BY kind DESC, sum(count) DESC, name;
