-- Lets a coordinator store atoms of the knowledge graph in this database, one of several shards; see docs/graph.md.
-- Run it after `maia migrate`:  psql --file graph-shard.sql "$SHARD_URL"

BEGIN;

-- One row is one request: atoms for store_atoms(), whose answer is in the last two columns.
CREATE VIEW graph_requests AS
SELECT NULL::smallint AS space, NULL::integer AS sources, NULL::timestamptz AS at, NULL::uuid[] AS handles, NULL::text[] AS types,
    NULL::text[] AS names, NULL::integer[] AS begins, NULL::integer[] AS finishes, NULL::uuid[] AS ends, NULL::real[] AS weights,
    NULL::bigint[] AS positives, NULL::bigint[] AS negatives, NULL::boolean AS counting, NULL::uuid[] AS stored,
    NULL::boolean[] AS is_new
WHERE false;

-- A foreign session has no search path.
CREATE FUNCTION answer_graph_request() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
    SELECT array_agg(s.handle), array_agg(s.is_new) INTO NEW.stored, NEW.is_new
    FROM store_atoms(NEW.space, NEW.sources, NEW.at, NEW.handles, NEW.types, NEW.names, NEW.begins, NEW.finishes, NEW.ends,
        NEW.weights, NEW.positives, NEW.negatives, NEW.counting) AS s;
    RETURN NEW;
END $$;

CREATE TRIGGER answer INSTEAD OF INSERT ON graph_requests FOR EACH ROW EXECUTE FUNCTION answer_graph_request();

COMMIT;
