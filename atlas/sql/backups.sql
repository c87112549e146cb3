-- Dumps of the database, their checksums, and what restoring them takes.

-- name: prepare
-- Let this transaction run as long as it must, let it end soon after its client is gone, and write values the same way
-- on every server.
SELECT set_config('application_name', $1, true), set_config('statement_timeout', '0', true),
    set_config('lock_timeout', $2, true),
    set_config('idle_in_transaction_session_timeout', '300s', true),
    set_config('client_connection_check_interval', '10s', true),
    set_config('max_parallel_workers_per_gather', '0', true), set_config('TimeZone', 'UTC', true),
    set_config('DateStyle', 'ISO, YMD', true), set_config('IntervalStyle', 'iso_8601', true),
    set_config('extra_float_digits', '1', true), set_config('bytea_output', 'hex', true);

-- name: export_snapshot
-- Let other sessions see what this transaction sees.
SELECT pg_export_snapshot();

-- name: facts
-- What a backup tells of its database.
SELECT current_setting('server_version') AS server_version,
    current_setting('server_version_num')::int / 10000 AS major,
    coalesce(current_schema()::text, 'public') AS schema,
    pg_database_size(current_database()) AS database_bytes,
    EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') AS has_timescaledb;

-- name: last_migration
-- The number of the last migration.
SELECT coalesce(max(number), 0) FROM migration;

-- name: relations
-- Names of tables, views and sequences in our schema: none if a backup can be restored here.
SELECT relname::text AS name FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
ORDER BY relkind, relname;

-- name: create_schema
-- The statement that creates the schema $1; no row if there is one, because creating takes a right that using does not.
SELECT format('CREATE SCHEMA %I', $1::text) WHERE to_regnamespace(quote_ident($1)) IS NULL;

-- name: create_trigrams
-- The statement that adds the extension of the indexes for searches, which a dump of one schema leaves out, to the schema $1; no
-- row if it is there already, or if this server doesn't have it.
SELECT format('CREATE EXTENSION pg_trgm SCHEMA %I', $1::text)
WHERE EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_trgm' AND installed_version IS NULL);

-- name: drop_trigrams
-- The statement that drops that extension again.
SELECT 'DROP EXTENSION IF EXISTS pg_trgm';

-- name: drop_schema
-- The statement that drops the schema $1, which fails if there is anything in it.
SELECT format('DROP SCHEMA %I', $1::text);

-- name: use_schema
-- The statement by which new sessions find the schema $1 in this database.
SELECT format('ALTER DATABASE %I SET search_path TO %I', current_database(), $1::text);

-- name: enter_schema
-- Let the rest of this transaction find the schema $1.
SELECT set_config('search_path', quote_ident($1), true);

-- name: tables
-- Our tables, and for each the statements that count and sum up, and that copy its rows. A partitioned table is one. The
-- sum of the rows' hashes does not depend on their order. Types whose hash would differ on another server, such as enums,
-- are hashed as text.
SELECT c.relname::text AS name, k.names AS columns,
    format(
        'SELECT count(*) AS rows, coalesce(sum(hash_record_extended(ROW(%s), 0)), 0)::text AS checksum FROM %I.%I',
        k.hashed, $1::text, c.relname
    ) AS checksum,
    format('SELECT %s FROM %I.%I', k.listed, $1::text, c.relname) AS copy
FROM pg_class AS c
CROSS JOIN LATERAL (
    SELECT array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attgenerated = '') AS names,
        string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FILTER (WHERE a.attgenerated = '') AS listed,
        string_agg(
            quote_ident(a.attname) || CASE WHEN coalesce(e.typname, b.typname, t.typname) = ANY (
                '{bool,bpchar,bytea,date,float4,float8,int2,int4,int8,jsonb,numeric,text,timestamp,timestamptz,uuid,varchar,xid8}'
            ) THEN '' ELSE '::text' END, ', ' ORDER BY a.attname COLLATE "C"
        ) AS hashed
    FROM pg_attribute AS a
    JOIN pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN pg_type AS b ON b.oid = t.typbasetype
    LEFT JOIN pg_type AS e ON e.oid = t.typelem AND t.typcategory = 'A'
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
) AS k
WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND k.names IS NOT NULL
ORDER BY pg_total_relation_size(c.oid), c.relname;

-- name: references
-- Which of our tables refers to which other one, by a foreign key.
SELECT DISTINCT c.relname::text AS name, f.relname::text AS of
FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid JOIN pg_class AS f ON f.oid = k.confrelid
WHERE k.contype = 'f' AND k.connamespace = to_regnamespace(quote_ident($1)) AND c.oid <> f.oid
    AND NOT c.relispartition AND NOT f.relispartition;

-- name: sequences
-- The last value that each of our sequences gave out.
SELECT sequencename::text AS name, last_value AS value FROM pg_sequences
WHERE schemaname = $1::text AND last_value IS NOT NULL ORDER BY sequencename;

-- name: set_sequence
-- Let a sequence go on after a value.
SELECT setval(format('%I.%I', $1::text, $2::text)::regclass, $3::bigint);

-- name: sample_days
-- The days of which there are samples.
SELECT array_agg(DISTINCT (sampled_at AT TIME ZONE 'UTC')::date) FROM video_stats_log;

-- name: make_sample_days
-- Make the partitions of these days.
SELECT ensure_sample_days($1::date[]);

-- name: empty_tables
-- The statement that empties all our tables, because migrations put rows into some.
SELECT format('TRUNCATE %s', string_agg(format('%I.%I', $1::text, relname), ', '))
FROM pg_class
WHERE relnamespace = to_regnamespace(quote_ident($1)) AND relkind IN ('r', 'p') AND NOT relispartition;

-- name: switch_triggers
-- The statement that does $2, ENABLE or DISABLE, to the triggers of all our tables: what is restored has had their effects already.
SELECT format('DO %L', format(
    'BEGIN %s END', string_agg(format('ALTER TABLE %I.%I %s TRIGGER USER;', $1::text, relname, $2::text), ' ')
))
FROM pg_class
WHERE relnamespace = to_regnamespace(quote_ident($1)) AND relkind IN ('r', 'p') AND NOT relispartition;

-- name: analyze
-- Give the planner statistics of what was restored.
ANALYZE;

-- name: held_up
-- How many sessions wait for a lock that sessions with the application name $1 hold in this database.
SELECT count(DISTINCT waiting.pid)
FROM pg_stat_activity AS waiting
CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) AS blocking (pid)
JOIN pg_stat_activity AS holder ON holder.pid = blocking.pid
WHERE waiting.wait_event_type = 'Lock' AND waiting.datname = current_database()
    AND holder.application_name = $1;
