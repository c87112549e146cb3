-- name: server
-- The server's version and clock, the database's size, and the age of the oldest transaction that keeps vacuum from
-- removing dead rows.
SELECT
    current_setting('server_version') AS version,
    clock_timestamp() AS now,
    pg_database_size(current_database()) AS bytes,
    coalesce((
        SELECT extract(epoch FROM max(clock_timestamp() - xact_start))
        FROM pg_stat_activity
        WHERE datname = current_database() AND backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
    ), 0)::float8 AS oldest_transaction_s;

-- name: now
-- The database's clock.
SELECT clock_timestamp();

-- name: figures
-- PostgreSQL's own figures, in one row: size, connections, the oldest transaction of this database, what keeps old rows
-- alive, the age of the oldest transaction id, whether writes are refused, the day after the UTC day $1 if it has no
-- partition although there are samples of $1 from before $2, and what waits for the vault. Of other users' sessions only
-- their number may be known.
SELECT
    pg_database_size(current_database()) AS bytes,
    (SELECT sum(numbackends)::int FROM pg_stat_database) AS connections,
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true)::int, 0) AS most_connections,
    (SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()) AS frozen_age,
    current_setting('autovacuum_freeze_max_age')::int AS freeze_age,
    pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean AS is_read_only,
    oldest.pid AS transaction_pid, oldest.program AS transaction_program, oldest.state AS transaction_state,
    oldest.age_s AS transaction_age_s,
    holder.kind AS holder_kind, holder.name AS holder_name, holder.age AS holder_age,
    CASE
        WHEN NOT keeps_samples_of(($1::date + 1)::timestamp AT TIME ZONE 'UTC') AND EXISTS (
            SELECT FROM video_stats_log
            WHERE sampled_at >= $1::date::timestamp AT TIME ZONE 'UTC' AND sampled_at < $2::timestamptz
        ) THEN $1::date + 1
    END AS missing_day,
    waiting.objects AS waiting_objects, waiting.oldest_at AS waiting_since
FROM (SELECT count(*)::int AS objects, min(refused_at) AS oldest_at FROM vault_refused) AS waiting
LEFT JOIN LATERAL (
    SELECT pid, application_name AS program, state, extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age_s
    FROM pg_stat_activity AS session
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
        AND xact_start IS NOT NULL
        -- Our own lock behind a pooler, which is a transaction left open, is in nobody's way.
        AND NOT (backend_xmin IS NULL AND backend_xid IS NULL AND EXISTS (
            SELECT FROM pg_locks WHERE pg_locks.pid = session.pid AND locktype = 'advisory'
        ))
    ORDER BY xact_start
    LIMIT 1
) AS oldest ON true
LEFT JOIN LATERAL (
    SELECT held.kind, held.name, held.age
    FROM (
        SELECT 'replication slot' AS kind, slot_name::text AS name, greatest(age(xmin), age(catalog_xmin)) AS age
        FROM pg_replication_slots
        UNION ALL
        SELECT 'prepared transaction', gid, age(transaction) FROM pg_prepared_xacts WHERE database = current_database()
        UNION ALL
        SELECT 'standby', application_name, age(backend_xmin) FROM pg_stat_activity WHERE backend_type = 'walsender'
    ) AS held
    WHERE held.age IS NOT NULL
    ORDER BY held.age DESC
    LIMIT 1
) AS holder ON true;

-- name: backlog
-- For each zone: since when its most overdue video is due at $1, and how many claims of its videos expired in the last hour
-- and were taken over by nobody. As no index holds claims, only the first $2 due videos are looked at: they are claimed first.
SELECT zone.number AS zone, longest.next_due_at AS oldest_due_at, claims.expired
FROM generate_series(0, 2) AS zone (number)
LEFT JOIN LATERAL (
    SELECT next_due_at FROM video_clock
    WHERE status = 'live' AND zone = zone.number AND next_due_at <= $1::timestamptz
    ORDER BY next_due_at
    LIMIT 1
) AS longest ON true
CROSS JOIN LATERAL (
    SELECT count(*)::int AS expired
    FROM (
        SELECT lease_token, lease_until FROM video_clock
        WHERE status = 'live' AND zone = zone.number AND next_due_at <= $1::timestamptz
        ORDER BY next_due_at
        LIMIT $2::bigint
    ) AS first
    WHERE lease_token IS NOT NULL AND lease_until < clock_timestamp()
        AND lease_until >= clock_timestamp() - interval '1 hour'
) AS claims
ORDER BY zone.number;

-- name: expired_asks
-- How many claims of the first $1 topics and of open questions expired in the last hour and were taken over by nobody.
SELECT count(*)::int
FROM (
    (SELECT lease_token, lease_until FROM search_queue WHERE status = 'active' ORDER BY priority DESC, id LIMIT $1::bigint)
    UNION ALL
    (SELECT lease_token, lease_until FROM discovery_asks WHERE is_open LIMIT $1::bigint)
) AS first
WHERE lease_token IS NOT NULL AND lease_until < clock_timestamp()
    AND lease_until >= clock_timestamp() - interval '1 hour';

-- name: last_cycles
-- For each of the agents $1, with a cycle every $3 seconds: when its last cycle ended with one of the outcomes $2, when and how
-- its very last one did, and the nodes of those among the last $4 that are not two rounds older than the last good one.
-- A range of one kind, in the order of the index by kind: for a kind without events, the order of ids alone would make
-- PostgreSQL read all events of all kinds.
SELECT wanted.agent, good.at AS good_at, newest.at, newest.outcome, newest.detail, tried.nodes
FROM (
    SELECT agent, agent || '.cycle' AS kind, period_s FROM unnest($1::text[], $3::float8[]) AS given (agent, period_s)
) AS wanted
LEFT JOIN LATERAL (
    SELECT at FROM events
    WHERE kind >= wanted.kind AND kind <= wanted.kind AND payload->>'outcome' = ANY($2::text[])
    ORDER BY events.kind DESC, id DESC
    LIMIT 1
) AS good ON true
LEFT JOIN LATERAL (
    SELECT at, payload->>'outcome' AS outcome, payload->>'detail' AS detail FROM events
    WHERE kind >= wanted.kind AND kind <= wanted.kind
    ORDER BY events.kind DESC, id DESC
    LIMIT 1
) AS newest ON true
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(DISTINCT node ORDER BY node), '{}') AS nodes
    FROM (
        SELECT node, at FROM events
        WHERE kind >= wanted.kind AND kind <= wanted.kind
        ORDER BY events.kind DESC, id DESC
        LIMIT $4::bigint
    ) AS last
    WHERE at >= coalesce(good.at, newest.at) - 2 * wanted.period_s * interval '1 second'
) AS tried;

-- name: first_event
-- When the oldest event that is kept was written.
SELECT at FROM events ORDER BY id LIMIT 1;

-- name: heartbeats
-- The first and the last sample since $1 of each node; at most $2 nodes, those heard of last first.
SELECT node, min(at) AS first_at, max(at) AS last_at
FROM system_metrics
WHERE at >= $1
GROUP BY node
ORDER BY max(at) DESC, node
LIMIT $2;

-- name: loads
-- The last $3 samples since $2 of each of the nodes $1, oldest first: only what limits are set for.
SELECT wanted.node, recent.at, recent.cpu_percent, recent.memory_percent, recent.disk_percent
FROM unnest($1::text[]) AS wanted (node)
CROSS JOIN LATERAL (
    SELECT at, cpu_percent, memory_percent, disk_percent FROM system_metrics
    WHERE node = wanted.node AND at >= $2
    ORDER BY at DESC
    LIMIT $3::bigint
) AS recent
ORDER BY wanted.node, recent.at;

-- name: judgements
-- What the last $2 judgements of health since $1 found, newest first. A range, for the reason that `last_cycles` gives.
SELECT at, payload->'details' AS details
FROM events
WHERE kind BETWEEN 'maintainer.duty' AND 'maintainer.duty' AND payload->>'duty' = 'health' AND at >= $1
ORDER BY kind DESC, id DESC
LIMIT $2;

-- name: judgement_before
-- What the last judgement of health until $2, but not before $1, found.
SELECT at, payload->'details' AS details
FROM events
WHERE kind BETWEEN 'maintainer.duty' AND 'maintainer.duty' AND payload->>'duty' = 'health' AND at BETWEEN $1 AND $2
ORDER BY kind DESC, id DESC
LIMIT 1;
