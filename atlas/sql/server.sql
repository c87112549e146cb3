-- name: facts
-- The server's version, start, address and settings, the sizes of this database and of all, and its connections.
SELECT
    current_setting('server_version') AS version,
    pg_postmaster_start_time() AS started_at,
    clock_timestamp() AS now,
    current_database() AS database,
    host(inet_server_addr()) AS address,
    inet_server_port() AS port,
    pg_is_in_recovery() AS is_replica,
    pg_database_size(current_database()) AS database_bytes,
    (
        SELECT sum(pg_database_size(oid))::bigint
        FROM pg_database
        WHERE has_database_privilege(oid, 'CONNECT')
    ) AS all_bytes,
    current_setting('max_connections')::int AS most_connections,
    (
        SELECT count(*)
        FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
    ) AS connections,
    (
        SELECT count(*)
        FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND state = 'active'
    ) AS active;
