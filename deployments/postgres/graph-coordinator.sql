-- Spreads the knowledge graph of this database over several others, its shards; see docs/graph.md.
-- Before: run graph-shard.sql on each shard, and here CREATE EXTENSION postgres_fdw, and for each shard CREATE SERVER with the
-- options batch_size '1000' and fetch_size '10000', and CREATE USER MAPPING. Then:
--   psql --file graph-coordinator.sql "$DATABASE_URL"
--   psql --command "SELECT split_graph(ARRAY['shard_0', 'shard_1'])" "$DATABASE_URL"

BEGIN;

CREATE TABLE graph_shards (
    remainder integer PRIMARY KEY CHECK (remainder >= 0),
    server    text NOT NULL UNIQUE
);

-- The atoms go to the shards by the hashes of their handles, and where an atom is used goes where the atom is: so the incoming set
-- of an atom, and its neighbours, are read from one shard.
CREATE FUNCTION split_graph(servers text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    tbl text;
    key text;
    shard record;
BEGIN
    INSERT INTO graph_shards SELECT nth - 1, server FROM unnest(servers) WITH ORDINALITY AS s (server, nth);
    FOR tbl, key IN VALUES ('atoms', 'handle'), ('incoming', 'target'), ('atom_attention', 'handle'), ('atom_values', 'handle') LOOP
        EXECUTE format('ALTER TABLE %I RENAME TO %I', tbl, tbl || '_before');
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS) PARTITION BY HASH (%I)', tbl, tbl || '_before', key);
        FOR shard IN SELECT * FROM graph_shards LOOP
            EXECUTE format(
                'CREATE FOREIGN TABLE %I PARTITION OF %I FOR VALUES WITH (MODULUS %s, REMAINDER %s) SERVER %I OPTIONS (table_name %L)',
                format('%s_%s', tbl, shard.remainder), tbl, cardinality(servers), shard.remainder, shard.server, tbl
            );
        END LOOP;
        EXECUTE format('INSERT INTO %I SELECT * FROM %I', tbl, tbl || '_before');
        EXECUTE format('DROP TABLE %I', tbl || '_before');
    END LOOP;
    FOR shard IN SELECT * FROM graph_shards LOOP
        EXECUTE format(
            'CREATE FOREIGN TABLE %I (space smallint, sources integer, at timestamptz, handles uuid[], types text[], names text[],'
            ' begins integer[], finishes integer[], ends uuid[], weights real[], positives bigint[], negatives bigint[],'
            ' counting boolean, stored uuid[], is_new boolean[]) SERVER %I OPTIONS (table_name ''graph_requests'')',
            format('graph_requests_%s', shard.remainder), shard.server
        );
    END LOOP;
END $$;

-- Foreign tables have no ON CONFLICT DO UPDATE: each shard stores its own atoms.
CREATE OR REPLACE FUNCTION store_atoms(
    of_space smallint, of_sources integer, at timestamptz, handles uuid[], types text[], names text[], begins integer[],
    finishes integer[], ends uuid[], weights real[], positives bigint[], negatives bigint[], counting boolean
) RETURNS TABLE (handle uuid, is_new boolean) LANGUAGE plpgsql AS $$
DECLARE
    shard record;
    shards CONSTANT bigint := (SELECT count(*) FROM graph_shards);
BEGIN
    FOR shard IN SELECT * FROM graph_shards ORDER BY remainder LOOP
        RETURN QUERY EXECUTE format(
            'WITH answer AS ('
            ' INSERT INTO %I (space, sources, at, handles, types, names, begins, finishes, ends, weights, positives, negatives,'
            '  counting)'
            ' SELECT $1, $2, $3, array_agg(i.handle), array_agg(i.type), array_agg(i.name), array_agg(i.begin),'
            '  array_agg(i.finish), $4, array_agg(i.weight), array_agg(i.pos), array_agg(i.neg), $5'
            ' FROM unnest($6, $7, $8, $9, $10, $11, $12, $13)'
            '  AS i (handle, type, name, begin, finish, weight, pos, neg)'
            ' WHERE satisfies_hash_partition(''atoms''::regclass, $14::integer, $15, i.handle)'
            ' HAVING count(*) > 0'
            ' RETURNING stored, is_new'
            ') SELECT s.handle, s.is_new FROM answer, unnest(answer.stored, answer.is_new) AS s (handle, is_new)',
            format('graph_requests_%s', shard.remainder)
        )
        USING of_space, of_sources, at, ends, counting, handles, types, names, begins, finishes, weights, positives, negatives,
            shards, shard.remainder;
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION set_atom_values(of_space smallint, of_handles uuid[], keys text[], jsons text[]) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    stored bigint;
BEGIN
    PERFORM lock_graph(true);
    DELETE FROM atom_values AS v USING unnest(of_handles, keys) AS new (handle, key)
    WHERE v.space = of_space AND v.handle = new.handle AND v.key = new.key;
    INSERT INTO atom_values (space, handle, key, floats, texts, handles)
    SELECT of_space, new.handle, new.key, shape.floats, shape.texts, shape.handles
    FROM unnest(of_handles, keys, jsons) AS new (handle, key, json)
    JOIN atoms AS a ON a.space = of_space AND a.handle = new.handle AND a.sources > 0
    CROSS JOIN LATERAL jsonb_to_record(new.json::jsonb) AS shape (floats double precision[], texts text[], handles uuid[]);
    GET DIAGNOSTICS stored = ROW_COUNT;
    RETURN stored;
END $$;

CREATE OR REPLACE FUNCTION attend_atoms(
    of_space smallint, at timestamptz, handles uuid[], stis real[], ltis real[], vltis smallint[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lock_graph(true);
    DELETE FROM atom_attention WHERE space = of_space AND handle = ANY (handles);
    INSERT INTO atom_attention (space, handle, sti, lti, vlti, attended_at)
    SELECT of_space, new.handle, new.sti, new.lti, new.vlti, at
    FROM unnest(handles, stis, ltis, vltis) AS new (handle, sti, lti, vlti)
    JOIN atoms AS a ON a.space = of_space AND a.handle = new.handle AND a.sources > 0;
END $$;

COMMIT;
