-- Search by tag, and by title and channel with trigrams, if the server has these.

CREATE FUNCTION lowered(tags text[]) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE COST 1000
RETURN ARRAY(SELECT lower(tag) FROM unnest(tags) AS tag);

-- Tags rarely change with a refresh, so that refreshes stay HOT.
CREATE INDEX videos_by_tag ON videos USING gin (lowered(tags));

-- A server of somebody else may lack the extension, or not let us add it: then search scans, and says so.
DO $$
BEGIN
    CREATE EXTENSION IF NOT EXISTS pg_trgm;
    CREATE INDEX videos_by_title ON videos USING gin (title gin_trgm_ops);
    CREATE INDEX channels_by_title ON channels USING gin (title gin_trgm_ops);
EXCEPTION
    WHEN insufficient_privilege OR undefined_file OR undefined_object OR feature_not_supported
        OR invalid_parameter_value OR object_not_in_prerequisite_state THEN
        RAISE NOTICE 'search has no trigram indexes: %', SQLERRM;
END
$$;
