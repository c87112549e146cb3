-- The knowledge graph: atoms (nodes and links), where each is used, how much attention it gets, and values attached to it.

CREATE TABLE atom_types (
    name         text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,49}$'),
    is_link      boolean NOT NULL,
    is_symmetric boolean NOT NULL DEFAULT false CHECK (is_link OR NOT is_symmetric),
    what         text NOT NULL CHECK (length(what) BETWEEN 1 AND 200)
);

COMMENT ON COLUMN atom_types.is_symmetric IS 'Whether the order of the outgoing set means nothing; it is sorted then';

INSERT INTO atom_types (name, is_link, is_symmetric, what) VALUES
    ('video', false, false, 'a video, by its id'),
    ('channel', false, false, 'a channel, by its id'),
    ('tag', false, false, 'a tag, by the key that all its spellings share'),
    ('topic', false, false, 'a topic of the search queue, by the key of its query'),
    ('category', false, false, 'a category of videos, by its number'),
    ('pattern', false, false, 'something that was learnt, by its id'),
    ('agent', false, false, 'an agent, or one of its ways to find videos'),
    ('concept', false, false, 'anything that people name'),
    ('tagged', true, false, 'a video carries a tag'),
    ('uploaded_by', true, false, 'a video belongs to a channel'),
    ('found_by', true, false, 'a video was found by a topic, or by an agent''s way to find videos'),
    ('inherits', true, false, 'a video or topic is of a category, or a topic is a tag'),
    ('co_occurs', true, true, 'two tags are on the same videos more often than by chance'),
    ('follows', true, false, 'videos that the first topic found carry the second'),
    ('similar', true, true, 'two atoms have much the same connections'),
    ('evidence_for', true, false, 'a pattern was learnt about an atom'),
    ('related_to', true, false, 'anything that people connect');

-- A graph of its own: ours, or a read-only copy of a part of another site's.
CREATE TABLE graph_spaces (
    id   smallint PRIMARY KEY CHECK (id >= 0),
    name text COLLATE "C" NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,49}$')
);

INSERT INTO graph_spaces (id, name) VALUES (0, 'own');

-- An atom's handle is a hash of what it is, so that it is equal in every database, and links need no look-up.
CREATE FUNCTION node_handle(type text, name text) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN encode(substr(sha256(convert_to('n' || type, 'UTF8') || '\x00'::bytea || convert_to(name, 'UTF8')), 1, 16), 'hex')::uuid;

CREATE FUNCTION link_handle(type text, outgoing uuid[]) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN encode(
    substr(
        sha256(
            convert_to('l' || type, 'UTF8') || '\x00'::bytea || coalesce(
                CASE cardinality(outgoing)
                    WHEN 2 THEN uuid_send(outgoing[1]) || uuid_send(outgoing[2])
                    ELSE (SELECT string_agg(uuid_send(each), ''::bytea ORDER BY nth) FROM unnest(outgoing) WITH ORDINALITY AS o (each, nth))
                END, ''::bytea
            )
        ), 1, 16
    ), 'hex'
)::uuid;

CREATE TABLE atoms (
    space    smallint NOT NULL DEFAULT 0,
    sources  smallint NOT NULL CHECK (sources BETWEEN 0 AND 15),
    weight   real,
    handle   uuid NOT NULL,
    type     text COLLATE "C" NOT NULL,
    name     text COLLATE "C" CHECK (length(name) BETWEEN 1 AND 300),
    outgoing uuid[] CHECK (cardinality(outgoing) BETWEEN 1 AND 100),
    pos      bigint NOT NULL DEFAULT 0 CHECK (pos >= 0),
    neg      bigint NOT NULL DEFAULT 0 CHECK (neg >= 0),
    positive double precision NOT NULL DEFAULT 0 CHECK (positive >= 0),
    count    double precision NOT NULL DEFAULT 0 CHECK (count >= positive),
    seen_at  timestamptz NOT NULL,
    version  bigint NOT NULL CHECK (version >= 1),
    gone_at  timestamptz,
    changed  xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (space, handle),
    CONSTRAINT node_or_link CHECK (num_nonnulls(name, outgoing) = CASE WHEN sources = 0 THEN 0 ELSE 1 END),
    CONSTRAINT gone_or_there CHECK ((gone_at IS NULL) = (sources > 0))
) WITH (
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
);

COMMENT ON COLUMN atoms.sources IS 'Who says that it is there: 1 the facts, 2 what is derived of them, 4 people, 8 other sites; 0: nobody';
COMMENT ON COLUMN atoms.weight IS 'Of a link, if it has one: what it means depends on the type';
COMMENT ON COLUMN atoms.pos IS 'This site''s observations for it';
COMMENT ON COLUMN atoms.neg IS 'This site''s observations against it';
COMMENT ON COLUMN atoms.positive IS 'The observations for it, of all sites together';
COMMENT ON COLUMN atoms.count IS 'The observations for and against it, of all sites together';
COMMENT ON COLUMN atoms.version IS 'Of what this site says: rises with each change';
COMMENT ON COLUMN atoms.gone_at IS 'Its tombstone, which no longer says what it was';
COMMENT ON COLUMN atoms.changed IS 'The transaction that last changed anything but attention and values';

-- The atoms that are there, by type: nodes by name, links by nothing.
CREATE INDEX atoms_by_name ON atoms (space, type, name) WHERE sources > 0;
CREATE INDEX atoms_by_change ON atoms (space, changed, handle);
CREATE INDEX atoms_gone ON atoms (gone_at) WHERE gone_at IS NOT NULL;

-- Where each atom is used: the links that are there and have it in their outgoing set. With the other end of a link of two, so
-- that neighbours are found without reading the links.
CREATE TABLE incoming (
    space    smallint NOT NULL,
    position smallint NOT NULL,
    target   uuid NOT NULL,
    link     uuid NOT NULL,
    other    uuid,
    type     text COLLATE "C" NOT NULL,
    PRIMARY KEY (space, target, type, position, link) INCLUDE (other)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05);

CREATE TABLE atom_attention (
    space       smallint NOT NULL DEFAULT 0,
    vlti        smallint NOT NULL DEFAULT 0 CHECK (vlti >= 0),
    sti         finite_real NOT NULL DEFAULT 0,
    lti         finite_real NOT NULL DEFAULT 0,
    handle      uuid NOT NULL,
    attended_at timestamptz NOT NULL,
    PRIMARY KEY (space, handle)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

COMMENT ON COLUMN atom_attention.sti IS 'Short-term importance at attended_at';
COMMENT ON COLUMN atom_attention.lti IS 'Long-term importance at attended_at';
COMMENT ON COLUMN atom_attention.vlti IS 'Above 0, the atom is never forgotten';

CREATE INDEX atom_attention_by_sti ON atom_attention (space, sti DESC);

CREATE TABLE atom_values (
    space   smallint NOT NULL DEFAULT 0,
    handle  uuid NOT NULL,
    key     text COLLATE "C" NOT NULL CHECK (length(key) BETWEEN 1 AND 100),
    floats  double precision[],
    texts   text[],
    handles uuid[],
    PRIMARY KEY (space, handle, key),
    CHECK (num_nonnulls(floats, texts, handles) = 1)
);

COMMENT ON TABLE atom_values IS 'Values of atoms by key: a vector of numbers, of texts, or of handles';

-- Adding links and removing atoms exclude each other, so that no link is left without its ends. Whoever adds holds the lock
-- shared; a transaction that may also remove takes it alone, first of all.
CREATE FUNCTION lock_graph(alone boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF alone THEN
        PERFORM pg_advisory_xact_lock(hashtext('pleiades.graph'));
    ELSE
        PERFORM pg_advisory_xact_lock_shared(hashtext('pleiades.graph'));
    END IF;
END $$;

-- Writes where atoms are used: links by handle and type, with outgoing sets that are parts of `ends`.
CREATE FUNCTION use_atoms(of_space smallint, handles uuid[], types text[], begins integer[], finishes integer[], ends uuid[])
RETURNS void LANGUAGE sql AS $$
    INSERT INTO incoming (space, target, type, position, link, other)
    SELECT of_space, ends[place], item.type, place - item.begin + 1, item.handle,
        CASE WHEN item.finish - item.begin = 1 THEN ends[item.begin + item.finish - place] END
    FROM unnest(handles, types, begins, finishes) AS item (handle, type, begin, finish)
    CROSS JOIN LATERAL generate_series(item.begin, item.finish) AS place
    ORDER BY ends[place], item.type, place - item.begin, item.handle
    ON CONFLICT DO NOTHING
$$;

-- Lets some sources say that atoms are there, as of an instant: by handle, type and name, which is NULL for links, whose outgoing
-- sets are parts of `ends`, from place `begins` to place `finishes`. A weight that is NULL stays as it is. Evidence is added to what
-- this site has if `counting`, or else takes its place. What is so already is left alone. Returns which atoms are stored, and
-- whether each is new.
CREATE FUNCTION store_atoms(
    of_space smallint, of_sources integer, at timestamptz, handles uuid[], types text[], names text[], begins integer[],
    finishes integer[], ends uuid[], weights real[], positives bigint[], negatives bigint[], counting boolean
) RETURNS TABLE (handle uuid, is_new boolean) LANGUAGE sql AS $$
    INSERT INTO atoms AS a (space, handle, type, name, outgoing, weight, pos, neg, positive, count, sources, seen_at, version)
    SELECT of_space, item.handle, item.type, item.name, CASE WHEN item.name IS NULL THEN ends[item.begin : item.finish] END,
        item.weight, item.pos, item.neg, item.pos, item.pos::float8 + item.neg, of_sources, at,
        (extract(epoch FROM at) * 1000000)::bigint
    FROM unnest(handles, types, names, begins, finishes, weights, positives, negatives)
        AS item (handle, type, name, begin, finish, weight, pos, neg)
    ORDER BY item.handle
    ON CONFLICT (space, handle) DO UPDATE
    SET type = excluded.type, name = excluded.name, outgoing = excluded.outgoing, gone_at = NULL,
        sources = a.sources | excluded.sources,
        weight = coalesce(excluded.weight, a.weight),
        pos = CASE WHEN counting THEN a.pos ELSE 0 END + excluded.pos,
        neg = CASE WHEN counting THEN a.neg ELSE 0 END + excluded.neg,
        positive = CASE
            WHEN a.sources & 8 <> 0 THEN a.positive
            ELSE CASE WHEN counting THEN a.pos ELSE 0 END + excluded.pos
        END,
        count = CASE
            WHEN a.sources & 8 <> 0 THEN a.count
            ELSE CASE WHEN counting THEN a.pos + a.neg ELSE 0 END + excluded.pos::float8 + excluded.neg
        END,
        seen_at = greatest(a.seen_at, excluded.seen_at),
        version = greatest(a.version + 1, excluded.version), changed = pg_current_xact_id()
    WHERE a.sources | excluded.sources <> a.sources
        OR (excluded.weight IS NOT NULL AND a.weight IS DISTINCT FROM excluded.weight)
        OR CASE
            WHEN counting THEN excluded.pos + excluded.neg > 0
            ELSE (a.pos, a.neg) <> (excluded.pos, excluded.neg)
        END
    RETURNING a.handle, (xmax = 0)
$$;

-- Adds atoms, and writes where they are used.
CREATE FUNCTION add_atoms(
    of_space smallint, of_sources integer, at timestamptz, handles uuid[], types text[], names text[], begins integer[],
    finishes integer[], ends uuid[], weights real[], positives bigint[], negatives bigint[], counting boolean,
    OUT added bigint, OUT changed bigint
) LANGUAGE plpgsql AS $$
DECLARE
    links uuid[];
BEGIN
    SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new), array_agg(handle)
    INTO added, changed, links
    FROM store_atoms(of_space, of_sources, at, handles, types, names, begins, finishes, ends, weights, positives, negatives,
        counting);
    IF cardinality(ends) > 0 AND links IS NOT NULL THEN
        PERFORM use_atoms(of_space, array_agg(item.handle), array_agg(item.type), array_agg(item.begin),
            array_agg(item.finish), ends)
        FROM unnest(handles, types, begins, finishes) AS item (handle, type, begin, finish)
        JOIN unnest(links) AS stored (handle) ON stored.handle = item.handle
        WHERE item.finish >= item.begin;
    END IF;
END $$;

-- Takes back what some sources said: that the atoms are there. Atoms of which nobody says so any more are gone, and so are all
-- links that have them in their outgoing set. Returns the handles that are gone now.
CREATE FUNCTION remove_atoms(of_space smallint, of_handles uuid[], of_sources integer, at timestamptz) RETURNS SETOF uuid
LANGUAGE plpgsql AS $$
DECLARE
    gone uuid[];
    stamp CONSTANT bigint := (extract(epoch FROM at) * 1000000)::bigint;
BEGIN
    PERFORM lock_graph(true);
    UPDATE atoms AS a
    SET sources = a.sources & ~of_sources,
        pos = CASE WHEN a.sources & ~of_sources & 7 = 0 THEN 0 ELSE a.pos END,
        neg = CASE WHEN a.sources & ~of_sources & 7 = 0 THEN 0 ELSE a.neg END,
        version = greatest(a.version + 1, stamp), changed = pg_current_xact_id()
    FROM unnest(of_handles) AS wanted (handle)
    WHERE a.space = of_space AND a.handle = wanted.handle AND a.sources & ~of_sources <> a.sources
        AND a.sources & ~of_sources <> 0;
    WITH RECURSIVE going (handle) AS (
        SELECT a.handle FROM atoms AS a
        WHERE a.space = of_space AND a.handle = ANY (of_handles) AND a.sources > 0 AND a.sources & ~of_sources = 0
        UNION
        SELECT i.link FROM going JOIN incoming AS i ON i.space = of_space AND i.target = going.handle
    )
    SELECT array_agg(handle ORDER BY handle) INTO gone FROM going;
    IF gone IS NULL THEN
        RETURN;
    END IF;
    DELETE FROM incoming AS i
    USING atoms AS a CROSS JOIN LATERAL unnest(a.outgoing) WITH ORDINALITY AS ends (target, position)
    WHERE a.space = of_space AND a.handle = ANY (gone) AND a.outgoing IS NOT NULL
        AND i.space = of_space AND i.target = ends.target AND i.type = a.type AND i.position = ends.position
        AND i.link = a.handle;
    DELETE FROM atom_attention WHERE space = of_space AND handle = ANY (gone);
    DELETE FROM atom_values WHERE space = of_space AND handle = ANY (gone);
    UPDATE atoms
    SET sources = 0, name = NULL, outgoing = NULL, weight = NULL, pos = 0, neg = 0, positive = 0, count = 0, gone_at = at,
        version = greatest(version + 1, stamp), changed = pg_current_xact_id()
    WHERE space = of_space AND handle = ANY (gone);
    RETURN QUERY SELECT unnest(gone);
END $$;

-- Attaches values to atoms where these are there: under a key what a JSON object has as floats, texts or handles. Returns how many
-- are another value than before.
CREATE FUNCTION set_atom_values(of_space smallint, of_handles uuid[], keys text[], jsons text[]) RETURNS bigint LANGUAGE sql AS $$
    WITH stored AS (
        INSERT INTO atom_values AS v (space, handle, key, floats, texts, handles)
        SELECT of_space, new.handle, new.key, shape.floats, shape.texts, shape.handles
        FROM unnest(of_handles, keys, jsons) AS new (handle, key, json)
        JOIN atoms AS a ON a.space = of_space AND a.handle = new.handle AND a.sources > 0
        CROSS JOIN LATERAL jsonb_to_record(new.json::jsonb)
            AS shape (floats double precision[], texts text[], handles uuid[])
        ORDER BY new.handle, new.key COLLATE "C"
        ON CONFLICT (space, handle, key) DO UPDATE
        SET floats = excluded.floats, texts = excluded.texts, handles = excluded.handles
        WHERE (v.floats, v.texts, v.handles) IS DISTINCT FROM (excluded.floats, excluded.texts, excluded.handles)
        RETURNING 1
    )
    SELECT count(*) FROM stored
$$;

-- Sets what attention atoms have at an instant, where these are there.
CREATE FUNCTION attend_atoms(
    of_space smallint, at timestamptz, handles uuid[], stis real[], ltis real[], vltis smallint[]
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO atom_attention AS t (space, handle, sti, lti, vlti, attended_at)
    SELECT of_space, new.handle, new.sti, new.lti, new.vlti, at
    FROM unnest(handles, stis, ltis, vltis) AS new (handle, sti, lti, vlti)
    JOIN atoms AS a ON a.space = of_space AND a.handle = new.handle AND a.sources > 0
    ORDER BY new.handle
    ON CONFLICT (space, handle) DO UPDATE
    SET sti = excluded.sti, lti = excluded.lti, vlti = excluded.vlti, attended_at = excluded.attended_at
$$;
