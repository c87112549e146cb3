-- name: server
-- What a check-up asks of the server: its version, its clock, the database's size, and how old the oldest
-- transaction is that keeps rows from being cleaned away.
SELECT
    current_setting('server_version') AS version,
    clock_timestamp() AS now,
    pg_database_size(current_database()) AS bytes,
    coalesce((
        SELECT extract(epoch FROM max(clock_timestamp() - xact_start))
        FROM pg_stat_activity
        WHERE datname = current_database() AND backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
    ), 0)::float8 AS oldest_transaction_s;
