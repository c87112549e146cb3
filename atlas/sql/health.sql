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
