-- Feeding the knowledge graph: an outbox that names whose facts changed, and what is erased leaves the graph at once.

-- Not unique: writers never wait for each other here. What is named already is not named again.
CREATE TABLE graph_outbox (
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('pattern', 'topic', 'video')),
    key  text COLLATE "C" NOT NULL,
    at   timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500);

COMMENT ON TABLE graph_outbox IS 'Videos, topics (by key) and patterns whose facts the graph has yet to take over';
COMMENT ON COLUMN graph_outbox.at IS 'By the clock of the database';

CREATE INDEX graph_outbox_by_key ON graph_outbox (kind, key);

CREATE TABLE graph_state (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    is_whole   boolean NOT NULL,
    kind       text COLLATE "C" NOT NULL DEFAULT '',
    key        text COLLATE "C" NOT NULL DEFAULT '',
    fed_at     timestamptz,
    derived_at timestamptz,
    changes    bigint NOT NULL DEFAULT 0 CHECK (changes >= 0)
) WITH (fillfactor = 10);

COMMENT ON COLUMN graph_state.is_whole IS 'Whether the graph and the outbox together hold all facts; if not, it must be rebuilt';
COMMENT ON COLUMN graph_state.kind IS 'How far the rebuild has come: it goes on after this kind and key';
COMMENT ON COLUMN graph_state.changes IS 'Facts that were added or removed since links were last derived from them';

INSERT INTO graph_state (is_whole)
SELECT NOT (
    EXISTS (SELECT FROM videos) OR EXISTS (SELECT FROM search_queue)
    OR EXISTS (SELECT FROM patterns WHERE forgotten_at IS NULL)
);

-- Names what changed. An entry that is there already serves, if its lock shows that no feeder is taking it; the lock also keeps
-- feeders from taking it before this transaction has ended, and so from missing what it changed.
-- The outbox is empty most of the time, and then its statistics say so: a plan made of them would read all of a long one.
CREATE FUNCTION tell_graph(of_kind text, of_keys text[]) RETURNS void LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    WITH known AS MATERIALIZED (
        SELECT key FROM graph_outbox WHERE kind = of_kind AND key = ANY (of_keys) FOR KEY SHARE SKIP LOCKED
    )
    INSERT INTO graph_outbox (kind, key)
    SELECT DISTINCT of_kind, wanted.key
    FROM unnest(of_keys) AS wanted (key)
    WHERE NOT EXISTS (SELECT FROM known WHERE known.key = wanted.key);
END $$;

-- Those of the atoms that the facts say are there only because links of facts have them as their second end, and of which no such
-- link is left.
CREATE FUNCTION unsupported_atoms(of_handles uuid[]) RETURNS SETOF uuid LANGUAGE sql STABLE AS $$
    SELECT a.handle
    FROM (SELECT DISTINCT given.handle FROM unnest(of_handles) AS given (handle)) AS wanted
    JOIN atoms AS a ON a.space = 0 AND a.handle = wanted.handle AND a.sources & 1 = 1
    WHERE a.type IN ('agent', 'category', 'channel', 'tag')
        AND NOT EXISTS (
            SELECT
            FROM incoming AS i
            JOIN atoms AS l ON l.space = 0 AND l.handle = i.link AND l.sources & 1 = 1
            WHERE i.space = 0 AND i.target = a.handle AND i.position = 2 AND i.type = ANY (
                CASE a.type
                    WHEN 'tag' THEN '{tagged}'
                    WHEN 'channel' THEN '{uploaded_by}'
                    WHEN 'category' THEN '{inherits}'
                    ELSE '{evidence_for,found_by}'
                END::text[]
            )
        )
$$;

-- Takes from these atoms, and from all links to them, that those sources say they are there; facts and what is derived of them
-- always. Ends of those links that nothing supports any more go the same way. Returns the handles that are gone now.
CREATE FUNCTION withdraw_atoms(of_handles uuid[], of_sources integer, at timestamptz) RETURNS SETOF uuid LANGUAGE plpgsql AS $$
DECLARE
    going uuid[] := of_handles;
    links uuid[];
    ends uuid[];
    taken integer := of_sources | 3;
BEGIN
    PERFORM lock_graph(true);
    WHILE cardinality(going) > 0 LOOP
        SELECT array_agg(DISTINCT i.link), array_agg(DISTINCT i.other) FILTER (WHERE i.position = 1)
        INTO links, ends
        FROM incoming AS i
        JOIN atoms AS l ON l.space = 0 AND l.handle = i.link AND l.sources & 3 <> 0
        WHERE i.space = 0 AND i.target = ANY (going);
        RETURN QUERY SELECT remove_atoms(0::smallint, links, 3, at);
        RETURN QUERY SELECT remove_atoms(0::smallint, going, taken, at);
        DELETE FROM atom_values WHERE space = 0 AND handle = ANY (going) AND key = 'shown';
        -- What goes for want of support may still have been named by people.
        taken := 3;
        going := ARRAY(SELECT unsupported_atoms(ends));
    END LOOP;
END $$;

-- The same for those of the atoms that nothing supports.
CREATE FUNCTION withdraw_unsupported(of_handles uuid[], at timestamptz) RETURNS SETOF uuid LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT withdraw_atoms(ARRAY(SELECT unsupported_atoms(of_handles)), 3, at);
END $$;

-- Videos

CREATE FUNCTION tell_graph_of_new_videos() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Nobody can have named them before.
    INSERT INTO graph_outbox (kind, key) SELECT 'video', id FROM fresh;
    RETURN NULL;
END $$;

CREATE TRIGGER graph_hears_of_new_videos AFTER INSERT ON videos
REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION tell_graph_of_new_videos();

CREATE FUNCTION tell_graph_of_video() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    links uuid[];
    ends uuid[];
BEGIN
    PERFORM tell_graph('video', ARRAY[NEW.id]);
    -- A category only goes when metadata are cleared because of their age: then the graph must not keep them either.
    IF NEW.category_id IS NULL AND OLD.category_id IS NOT NULL THEN
        PERFORM lock_graph(true);
        SELECT array_agg(i.link), array_agg(i.other) INTO links, ends
        FROM incoming AS i
        JOIN atoms AS l ON l.space = 0 AND l.handle = i.link AND l.sources & 1 = 1
        WHERE i.space = 0 AND i.target = node_handle('video', NEW.id) AND i.type IN ('inherits', 'tagged') AND i.position = 1;
        PERFORM remove_atoms(0::smallint, links, 1, clock_timestamp());
        PERFORM withdraw_unsupported(ends, clock_timestamp());
    END IF;
    RETURN NULL;
END $$;

-- The columns are named so that most updates don't even look at the condition.
CREATE TRIGGER graph_hears_of_videos AFTER UPDATE OF channel_id, category_id, tags ON videos FOR EACH ROW
WHEN (
    NEW.channel_id <> OLD.channel_id OR NEW.category_id IS DISTINCT FROM OLD.category_id OR NEW.tags IS DISTINCT FROM OLD.tags
)
EXECUTE FUNCTION tell_graph_of_video();

CREATE FUNCTION tell_graph_of_sources() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Rows that go along with their video need not be told of.
    PERFORM tell_graph('video', ARRAY(SELECT id FROM videos WHERE id IN (SELECT video_id FROM changed)));
    RETURN NULL;
END $$;

CREATE TRIGGER graph_hears_of_new_sources AFTER INSERT ON video_sources
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION tell_graph_of_sources();

CREATE TRIGGER graph_hears_of_lost_sources AFTER DELETE ON video_sources
REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION tell_graph_of_sources();

-- Erased videos and channels leave the graph in the same transaction, whoever named them, and so do tags that nobody carries now.
CREATE FUNCTION erase_videos_from_graph() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ids CONSTANT text[] := ARRAY(SELECT id FROM gone);
BEGIN
    IF cardinality(ids) > 0 THEN
        PERFORM withdraw_atoms(ARRAY(SELECT node_handle('video', id) FROM unnest(ids) AS id), 15, clock_timestamp());
        DELETE FROM graph_outbox WHERE kind = 'video' AND key = ANY (ids);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER graph_loses_videos AFTER DELETE ON videos
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION erase_videos_from_graph();

CREATE FUNCTION erase_channels_from_graph() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    handles CONSTANT uuid[] := ARRAY(SELECT node_handle('channel', id) FROM gone);
BEGIN
    IF cardinality(handles) > 0 THEN
        PERFORM withdraw_atoms(handles, 15, clock_timestamp());
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER graph_loses_channels AFTER DELETE ON channels
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION erase_channels_from_graph();

-- Topics and patterns

CREATE FUNCTION tell_graph_of_topics() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tell_graph('topic', ARRAY(SELECT key::text FROM changed));
    RETURN NULL;
END $$;

CREATE TRIGGER graph_hears_of_new_topics AFTER INSERT ON search_queue
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION tell_graph_of_topics();

-- Hunters delete topics while others wait for them, so that this doesn't wait for the graph: if it is busy, a feeder does it.
CREATE FUNCTION forget_for_graph(of_type text, names text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF cardinality(names) = 0 THEN
        RETURN;
    END IF;
    IF pg_try_advisory_xact_lock(hashtext('pleiades.graph')) THEN
        PERFORM withdraw_atoms(ARRAY(SELECT node_handle(of_type, name) FROM unnest(names) AS name), 3, clock_timestamp());
        DELETE FROM graph_outbox WHERE kind = of_type AND key = ANY (names);
    ELSE
        PERFORM tell_graph(of_type, names);
    END IF;
END $$;

CREATE FUNCTION forget_topics_for_graph() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Videos that a topic was credited with have to be looked at again, if it was one of several with the same words.
    PERFORM tell_graph('video', ARRAY(
        SELECT v.name
        FROM (SELECT DISTINCT key FROM gone) AS topic
        JOIN incoming AS i ON i.space = 0 AND i.target = node_handle('topic', topic.key) AND i.type = 'found_by' AND i.position = 2
        JOIN atoms AS v ON v.space = 0 AND v.handle = i.other
        WHERE EXISTS (SELECT FROM search_queue AS q WHERE q.key = topic.key)
    ));
    PERFORM forget_for_graph('topic', ARRAY(
        SELECT key::text FROM gone WHERE NOT EXISTS (SELECT FROM search_queue AS q WHERE q.key = gone.key)
    ));
    RETURN NULL;
END $$;

CREATE TRIGGER graph_loses_topics AFTER DELETE ON search_queue
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION forget_topics_for_graph();

CREATE FUNCTION tell_graph_of_new_patterns() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tell_graph('pattern', ARRAY(SELECT id FROM changed WHERE forgotten_at IS NULL));
    RETURN NULL;
END $$;

CREATE TRIGGER graph_hears_of_new_patterns AFTER INSERT ON patterns
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION tell_graph_of_new_patterns();

CREATE FUNCTION tell_graph_of_pattern() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.forgotten_at IS NULL THEN
        PERFORM tell_graph('pattern', ARRAY[NEW.id]);
    ELSE
        PERFORM forget_for_graph('pattern', ARRAY[NEW.id]);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER graph_hears_of_patterns AFTER UPDATE OF signature, conditions, action, forgotten_at ON patterns FOR EACH ROW
WHEN (
    (NEW.forgotten_at IS NULL) <> (OLD.forgotten_at IS NULL)
    OR NEW.forgotten_at IS NULL AND (
        NEW.signature <> OLD.signature OR NEW.conditions <> OLD.conditions OR NEW.action IS DISTINCT FROM OLD.action
    )
)
EXECUTE FUNCTION tell_graph_of_pattern();

CREATE FUNCTION forget_patterns_for_graph() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM forget_for_graph('pattern', ARRAY(SELECT id FROM gone));
    RETURN NULL;
END $$;

CREATE TRIGGER graph_loses_patterns AFTER DELETE ON patterns
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION forget_patterns_for_graph();
