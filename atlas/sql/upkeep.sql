-- name: bloated_tables
-- Our tables with at least $1 dead rows that are at least the fraction $2 of all rows, worst first, at most $3; with the
-- command that vacuums each.
SELECT t.relid::regclass::text AS name, n_live_tup AS live, n_dead_tup AS dead, pg_total_relation_size(t.relid) AS bytes,
    EXISTS (SELECT FROM pg_stat_progress_vacuum AS v WHERE v.relid = t.relid) AS is_vacuumed,
    format('VACUUM (ANALYZE) %I.%I', schemaname, relname) AS command
FROM pg_stat_user_tables AS t
WHERE schemaname = current_schema() AND n_dead_tup >= $1 AND n_dead_tup >= $2::double precision * (n_live_tup + n_dead_tup)
ORDER BY n_dead_tup DESC, name
LIMIT $3;

-- name: invalid_indexes
-- Our indexes that a failed build left behind, which slow writes down and serve no read; not those being built now. With the
-- command that removes what an interrupted rebuild left, or builds the index anew.
SELECT i.indexrelid::regclass::text AS name, i.indrelid::regclass::text AS "table",
    pg_relation_size(i.indexrelid) AS bytes,
    CASE WHEN c.relname ~ '_cc(new|old)\d*$'
        THEN format('DROP INDEX CONCURRENTLY IF EXISTS %I.%I', n.nspname, c.relname)
        ELSE format('REINDEX INDEX CONCURRENTLY %I.%I', n.nspname, c.relname)
    END AS command
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT (i.indisvalid AND i.indisready AND i.indislive) AND c.relkind = 'i' AND n.nspname = current_schema()
    AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index AS p WHERE p.relid = i.indrelid)
ORDER BY name;

-- name: bloated_indexes
-- Our B-tree indexes of at least $1 bytes that take more than $2 times what their entries need, by the planner's statistics: mean
-- width of the columns, 16 bytes an entry besides, pages 90 % full. Tables without statistics are left out.
SELECT name, "table", bytes, needed::bigint AS needed_bytes, format('REINDEX INDEX CONCURRENTLY %I.%I', nspname, relname) AS command
FROM (
    SELECT c.oid::regclass::text AS name, t.oid::regclass::text AS "table", n.nspname, c.relname,
        pg_relation_size(c.oid) AS bytes,
        8192 + c.reltuples * (16 + (
            SELECT sum((coalesce(s.avg_width, 8) + 7) / 8 * 8)
            FROM pg_attribute AS a
            LEFT JOIN pg_attribute AS ta
                ON ta.attrelid = i.indrelid AND ta.attnum = i.indkey[a.attnum - 1] AND i.indkey[a.attnum - 1] > 0
            LEFT JOIN pg_stats AS s ON s.schemaname = n.nspname AND s.tablename = t.relname AND s.attname = ta.attname
            WHERE a.attrelid = c.oid
        )) / 0.9 AS needed
    FROM pg_index AS i
    JOIN pg_class AS c ON c.oid = i.indexrelid
    JOIN pg_class AS t ON t.oid = i.indrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_am AS am ON am.oid = c.relam AND am.amname = 'btree'
    WHERE i.indisvalid AND c.relkind = 'i' AND c.reltuples >= 0 AND n.nspname = current_schema()
) AS b
WHERE bytes >= $1::bigint AND bytes > $2::float8 * needed
ORDER BY bytes - needed DESC, name;
