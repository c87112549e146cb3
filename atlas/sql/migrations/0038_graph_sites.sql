-- The knowledge graph of several sites: what each says of an atom, and read-only copies of parts of other sites' graphs.

ALTER TABLE site ADD COLUMN tells text NOT NULL DEFAULT 'people' CHECK (tells IN ('off', 'people', 'topics', 'all'));

COMMENT ON COLUMN site.tells IS 'Which atoms other sites are told of';

-- What this site says of an atom, its claim, is the atom's row: that it is there (sources & 7), pos, neg, weight, seen_at and version.
ALTER TABLE atoms DROP CONSTRAINT atoms_version_check;
ALTER TABLE atoms ADD CONSTRAINT atoms_version_check CHECK (version >= 0);
ALTER TABLE atoms ADD COLUMN told xid8;
ALTER TABLE atoms ADD COLUMN erased_at timestamptz;

COMMENT ON COLUMN atoms.version IS 'Of what this site says: rises with each change; 0: it never said anything';
COMMENT ON COLUMN atoms.told IS 'If other sites are told what this one says: the transaction that last changed that';

COMMENT ON COLUMN atoms.erased_at IS 'If it is gone_at, the atom was erased: what other sites say of it is not taken';

CREATE INDEX atoms_told ON atoms (told, (outgoing IS NOT NULL), handle) WHERE told IS NOT NULL;
CREATE INDEX atoms_told_by_handle ON atoms (handle) WHERE told IS NOT NULL;

-- What other sites say of atoms. Each row is a register that its site alone writes: of two, the one of the later name stays, or else
-- the one of the higher version. This site's own former names count as another site for as long as it says nothing itself.
CREATE TABLE atom_claims (
    present    boolean NOT NULL,
    is_link    boolean NOT NULL,
    weight     real,
    handle     uuid NOT NULL,
    node       text COLLATE "C" NOT NULL CHECK (length(node) BETWEEN 1 AND 100),
    site       text COLLATE "C" GENERATED ALWAYS AS (site_of(node)) STORED,
    pos        bigint NOT NULL CHECK (pos >= 0),
    neg        bigint NOT NULL CHECK (neg >= 0),
    seen_at    timestamptz NOT NULL,
    version    bigint NOT NULL CHECK (version >= 1),
    changed    xid8 NOT NULL DEFAULT pg_current_xact_id(),
    brought_by text COLLATE "C",
    PRIMARY KEY (handle, site),
    CHECK (present OR (NOT is_link AND weight IS NULL AND pos = 0 AND neg = 0))
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05);

COMMENT ON COLUMN atom_claims.present IS 'Whether the site says that the atom is there; once it does not, only the handle is known';
COMMENT ON COLUMN atom_claims.brought_by IS 'The site that told of it, which needn''t be told again';

CREATE INDEX atom_claims_by_change ON atom_claims (changed, is_link, handle, site);

-- Links that other sites say are there, of which this one doesn't know all ends yet.
CREATE TABLE waiting_links (
    handle   uuid PRIMARY KEY,
    type     text COLLATE "C" NOT NULL,
    outgoing uuid[] NOT NULL CHECK (cardinality(outgoing) BETWEEN 1 AND 100)
);

CREATE INDEX waiting_links_by_end ON waiting_links USING gin (outgoing);

-- The links that wait, and have any of these atoms in their outgoing set.
CREATE FUNCTION links_waiting_for(of_handles uuid[]) RETURNS SETOF uuid LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF cardinality(of_handles) <= 20 THEN
        RETURN QUERY SELECT w.handle FROM waiting_links AS w WHERE w.outgoing && of_handles;
    ELSE
        -- Comparing each with each would take seconds.
        RETURN QUERY SELECT DISTINCT w.handle
        FROM unnest(of_handles) AS wanted (target)
        JOIN (SELECT handle, unnest(outgoing) AS target FROM waiting_links) AS w USING (target);
    END IF;
END $$;

ALTER TABLE federation_peers ADD COLUMN new_atoms bigint NOT NULL DEFAULT 0 CHECK (new_atoms >= 0);

COMMENT ON COLUMN federation_peers.new_atoms IS 'How many atoms it brought on the day new_on that nobody knew here';

-- Which of the names of one site is later: a copy of a database counts under the name with a higher number.
CREATE FUNCTION name_number(node text) RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN strpos(node, '.') = 0 THEN 0 ELSE coalesce(substring(node FROM '\.([0-9]+)$')::numeric, 0) END
$$;

-- As before, and later than any name that others know of this site: what it says gives way to what its latest name says.
CREATE OR REPLACE FUNCTION own_node() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    here CONSTANT text := database_identity();
    named text;
BEGIN
    SELECT node INTO named FROM site WHERE counts_in = here;
    IF named IS NULL AND pg_is_in_recovery() THEN
        SELECT node INTO named FROM site;
    ELSIF named IS NULL THEN
        UPDATE site
        SET node = left(site_of(node), 80) || '.' || greatest(
                (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
                coalesce(substring(node FROM '\.([0-9]{1,17})$')::bigint, 0) + 1,
                (SELECT max(name_number(c.node)) FROM atom_claims AS c WHERE c.site = site_of(site.node))::bigint + 1
            ),
            counts_in = here
        WHERE counts_in IS DISTINCT FROM here;
        SELECT node INTO named FROM site;
    END IF;
    RETURN named;
END $$;

-- Truth of two sources whose evidence may overlap by a fifth of the smaller: [observations for it, all observations].
CREATE FUNCTION revised(so_far double precision[], pos double precision, neg double precision) RETURNS double precision[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN so_far IS NULL THEN ARRAY[pos, pos + neg]
        WHEN so_far[2] + pos + neg = 0 THEN so_far
        ELSE ARRAY[
            (so_far[1] + pos) / (so_far[2] + pos + neg) * (so_far[2] + pos + neg - 0.2 * least(so_far[2], pos + neg)),
            so_far[2] + pos + neg - 0.2 * least(so_far[2], pos + neg)
        ]
    END
$$;

CREATE AGGREGATE revision (double precision, double precision) (SFUNC = revised, STYPE = double precision[]);

-- Whether other sites are told of atoms of a type that these sources of this site say are there.
CREATE FUNCTION is_told(tells text, sources smallint, type text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN sources & 7 <> 0 AND tells <> 'off' AND (
    tells = 'all' OR sources & 4 <> 0
    OR tells = 'topics' AND type IN ('tag', 'topic', 'category', 'co_occurs', 'follows')
);

-- All that is exchanged: what this site says, and what others do. One that is taken back says when, and not what it was.
CREATE FUNCTION told_claims() RETURNS TABLE (
    handle uuid, node text, site text, present boolean, is_link boolean, pos bigint, neg bigint, weight real, seen_at timestamptz,
    version bigint, changed xid8, brought_by text
) LANGUAGE sql STABLE AS $$
    SELECT a.handle, site.node COLLATE "C", site_of(site.node) COLLATE "C", a.sources & 7 <> 0,
        a.sources & 7 <> 0 AND a.outgoing IS NOT NULL, CASE WHEN a.sources & 7 <> 0 THEN a.pos ELSE 0 END,
        CASE WHEN a.sources & 7 <> 0 THEN a.neg ELSE 0 END, CASE WHEN a.sources & 7 <> 0 THEN a.weight END,
        CASE WHEN a.sources & 7 <> 0 THEN a.seen_at ELSE '1970-01-01Z'::timestamptz + a.version * interval '1 microsecond' END,
        a.version, a.told, NULL::text COLLATE "C"
    FROM atoms AS a CROSS JOIN site
    WHERE a.space = 0 AND a.told IS NOT NULL
        AND NOT EXISTS (SELECT FROM atom_claims AS c WHERE c.handle = a.handle AND c.site = site_of(site.node))
    UNION ALL
    SELECT c.handle, c.node, c.site, c.present, c.is_link, c.pos, c.neg, c.weight, c.seen_at, c.version, c.changed, c.brought_by
    FROM atom_claims AS c
$$;

-- Atoms of which nobody says any more that they are there are gone, and so are all links that have them in their outgoing set.
-- Such links wait if other sites still say that they are there. Returns what is gone.
CREATE FUNCTION bury_atoms(of_space smallint, of_handles uuid[], at timestamptz) RETURNS uuid[] LANGUAGE plpgsql AS $$
DECLARE
    gone uuid[];
    stamp CONSTANT bigint := (extract(epoch FROM at) * 1000000)::bigint;
BEGIN
    WITH RECURSIVE going (handle) AS (
        SELECT a.handle FROM atoms AS a WHERE a.space = of_space AND a.handle = ANY (of_handles) AND a.sources > 0
        UNION
        SELECT i.link FROM going JOIN incoming AS i ON i.space = of_space AND i.target = going.handle
    )
    SELECT array_agg(handle ORDER BY handle) INTO gone FROM going;
    IF gone IS NULL THEN
        RETURN '{}';
    END IF;
    IF of_space = 0 THEN
        INSERT INTO waiting_links (handle, type, outgoing)
        SELECT a.handle, a.type, a.outgoing FROM atoms AS a
        WHERE a.space = 0 AND a.handle = ANY (gone) AND a.outgoing IS NOT NULL
            AND EXISTS (SELECT FROM atom_claims AS c WHERE c.handle = a.handle AND c.present)
        ON CONFLICT DO NOTHING;
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
        version = CASE WHEN sources & 7 = 0 THEN version ELSE greatest(version + 1, stamp) END, changed = pg_current_xact_id()
    WHERE space = of_space AND handle = ANY (gone);
    RETURN gone;
END $$;

-- Takes back what some sources of this site said: that the atoms are there. What it says of links that have them in their outgoing
-- set is taken back, too, if nothing else of this site says that the atoms are there. Returns the handles that are gone now;
-- others stay because other sites say that they are there, unless the sources are also of those (8): then the atoms are erased with
-- all links, and are not taken from other sites again for as long as the tombstones are kept.
CREATE OR REPLACE FUNCTION remove_atoms(of_space smallint, of_handles uuid[], of_sources integer, at timestamptz) RETURNS SETOF uuid
LANGUAGE plpgsql AS $$
DECLARE
    leaving uuid[];
    erasing uuid[];
    stamp CONSTANT bigint := (extract(epoch FROM at) * 1000000)::bigint;
BEGIN
    PERFORM lock_graph(true);
    IF of_space <> 0 THEN
        RETURN QUERY SELECT unnest(bury_atoms(of_space, of_handles, at));
        RETURN;
    END IF;
    IF of_sources & 8 <> 0 THEN
        WITH RECURSIVE over (handle) AS (
            SELECT unnest(of_handles) UNION SELECT i.link FROM over JOIN incoming AS i ON i.space = 0 AND i.target = over.handle
        )
        SELECT array_agg(handle) INTO erasing FROM over;
        DELETE FROM waiting_links WHERE handle = ANY (erasing) OR outgoing && of_handles;
        DELETE FROM atom_claims WHERE handle = ANY (erasing);
        UPDATE atoms SET sources = sources & 7, changed = pg_current_xact_id()
        WHERE space = 0 AND handle = ANY (erasing) AND sources & 8 <> 0 AND sources & 7 <> 0;
        RETURN QUERY SELECT unnest(bury_atoms(
            0::smallint, ARRAY(SELECT handle FROM atoms WHERE space = 0 AND handle = ANY (erasing) AND sources = 8), at
        ));
    END IF;
    UPDATE atoms AS a
    SET sources = a.sources & ~(of_sources & 7), version = greatest(a.version + 1, stamp), changed = pg_current_xact_id()
    FROM unnest(of_handles) AS wanted (handle)
    WHERE a.space = 0 AND a.handle = wanted.handle AND a.sources & of_sources & 7 <> 0 AND a.sources & ~of_sources & 7 <> 0;
    WITH RECURSIVE going (handle) AS (
        SELECT a.handle FROM atoms AS a
        WHERE a.space = 0 AND a.handle = ANY (of_handles) AND a.sources & 7 <> 0 AND a.sources & ~of_sources & 7 = 0
        UNION
        SELECT i.link FROM going
        JOIN incoming AS i ON i.space = 0 AND i.target = going.handle
        JOIN atoms AS a ON a.space = 0 AND a.handle = i.link AND a.sources & 7 <> 0
    )
    SELECT array_agg(handle ORDER BY handle) INTO leaving FROM going;
    -- What this site said under a former name is taken back by people alone: whether facts said so is not known any more.
    IF of_sources & 4 <> 0 THEN
        WITH former AS (
            DELETE FROM atom_claims AS c USING site
            WHERE c.handle = ANY (of_handles) AND c.site = site_of(site.node) AND name_number(c.node) < name_number(site.node)
            RETURNING c.handle
        )
        UPDATE atoms AS a SET version = greatest(a.version + 1, stamp), told = pg_current_xact_id(), changed = pg_current_xact_id()
        FROM former WHERE a.space = 0 AND a.handle = former.handle AND a.sources & 7 = 0;
    END IF;
    RETURN QUERY SELECT unnest(bury_atoms(
        0::smallint, ARRAY(SELECT handle FROM atoms WHERE space = 0 AND handle = ANY (leaving) AND sources & 8 = 0), at
    ));
    UPDATE atoms
    SET sources = 8, pos = 0, neg = 0, version = greatest(version + 1, stamp), changed = pg_current_xact_id()
    WHERE space = 0 AND handle = ANY (leaving) AND sources & 7 <> 0;
    IF erasing IS NOT NULL THEN
        UPDATE atoms SET erased_at = at WHERE space = 0 AND handle = ANY (erasing) AND gone_at = at;
    END IF;
END $$;

-- What all sites together believe of an atom.
CREATE TYPE atom_truth AS (
    handle uuid, positive double precision, count double precision, weight real, seen_at timestamptz
);

-- Brings atoms into line with what all sites say of them: whether they are there, and of how many observations how many are for
-- them, by the strategy for sites that differ. Links wait until all of their ends are there.
CREATE FUNCTION weigh_atoms(of_handles uuid[], at timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    ours CONSTANT text := (SELECT site_of(node) FROM site);
    strategy CONSTANT text := (SELECT conflicts FROM site);
    touched uuid[] := of_handles;
    more uuid[] := of_handles;
    lost uuid[];
    truths atom_truth[];
BEGIN
    UPDATE atoms AS a
    SET sources = (a.sources & 7) | CASE WHEN said.so THEN 8 ELSE 0 END, changed = pg_current_xact_id()
    FROM (
        SELECT wanted.handle, EXISTS (SELECT FROM atom_claims AS c WHERE c.handle = wanted.handle AND c.present) AS so
        FROM unnest(of_handles) AS wanted (handle)
    ) AS said
    WHERE a.space = 0 AND a.handle = said.handle AND a.sources <> 0 AND (a.sources & 8 <> 0) <> said.so
        AND (said.so OR a.sources & 7 <> 0);
    SELECT array_agg(a.handle) INTO lost FROM atoms AS a
    WHERE a.space = 0 AND a.handle = ANY (of_handles) AND a.sources = 8
        AND NOT EXISTS (SELECT FROM atom_claims AS c WHERE c.handle = a.handle AND c.present);
    IF lost IS NOT NULL THEN
        PERFORM bury_atoms(0::smallint, lost, at);
    END IF;
    DELETE FROM waiting_links AS w
    WHERE w.handle = ANY (of_handles) AND NOT EXISTS (SELECT FROM atom_claims AS c WHERE c.handle = w.handle AND c.present);
    WHILE cardinality(more) > 0 LOOP
        more := ARRAY(
            SELECT w.handle
            FROM (SELECT unnest(more) UNION SELECT links_waiting_for(more)) AS wanted (handle)
            JOIN waiting_links AS w USING (handle)
            CROSS JOIN LATERAL unnest(w.outgoing) AS ends (target)
            LEFT JOIN atoms AS a ON a.space = 0 AND a.handle = ends.target AND a.sources > 0
            GROUP BY w.handle HAVING count(*) = count(a.handle)
        );
        EXIT WHEN cardinality(more) = 0;
        WITH ready AS (
            DELETE FROM waiting_links AS w WHERE w.handle = ANY (more) RETURNING w.handle, w.type, w.outgoing
        ), raised AS (
            INSERT INTO atoms AS a (space, handle, type, outgoing, sources, seen_at, version)
            SELECT 0, ready.handle, ready.type, ready.outgoing, 8, coalesce(c.seen_at, at), 0
            FROM ready
            LEFT JOIN LATERAL (SELECT max(seen_at) FROM atom_claims WHERE handle = ready.handle AND present) AS c (seen_at) ON true
            ORDER BY ready.handle
            ON CONFLICT (space, handle) DO UPDATE
            SET type = excluded.type, outgoing = excluded.outgoing, sources = 8, gone_at = NULL, changed = pg_current_xact_id()
            WHERE a.sources = 0
            RETURNING handle, type, outgoing
        ), used AS (
            INSERT INTO incoming (space, target, type, position, link, other)
            SELECT 0, ends.target, raised.type, ends.position, raised.handle,
                CASE WHEN cardinality(outgoing) = 2 THEN outgoing[3 - ends.position] END
            FROM raised CROSS JOIN LATERAL unnest(outgoing) WITH ORDINALITY AS ends (target, position)
            ON CONFLICT DO NOTHING
        )
        SELECT coalesce(array_agg(handle), '{}') INTO more FROM raised;
        touched := touched || more;
    END LOOP;
    UPDATE atoms AS a SET positive = a.pos, count = a.pos::float8 + a.neg, changed = pg_current_xact_id()
    WHERE a.space = 0 AND a.handle = ANY (touched) AND a.sources > 0 AND a.sources & 8 = 0
        AND (a.positive, a.count) IS DISTINCT FROM (a.pos::float8, a.pos::float8 + a.neg);
    -- First the truth and then the update, as one statement would be planned for a row or two.
    WITH said AS (
        SELECT c.handle, c.site, c.pos::float8 AS pos, c.neg::float8 AS neg, c.seen_at, c.weight FROM atom_claims AS c
        WHERE c.handle = ANY (touched) AND c.present
        UNION ALL
        SELECT a.handle, ours, a.pos, a.neg, a.seen_at, a.weight FROM atoms AS a
        WHERE a.space = 0 AND a.handle = ANY (touched) AND a.sources & 15 > 8
            AND NOT EXISTS (SELECT FROM atom_claims AS c WHERE c.handle = a.handle AND c.site = ours)
    ), believed AS (
        SELECT handle, max(seen_at) AS seen_at,
            (array_agg(weight ORDER BY seen_at DESC, site COLLATE "C" DESC) FILTER (WHERE weight IS NOT NULL))[1] AS weight,
            CASE strategy
                WHEN 'merge' THEN revision(pos, neg ORDER BY pos + neg DESC, site COLLATE "C")
                WHEN 'latest' THEN ARRAY[
                    (array_agg(pos ORDER BY seen_at DESC, site COLLATE "C" DESC))[1],
                    (array_agg(pos + neg ORDER BY seen_at DESC, site COLLATE "C" DESC))[1]
                ]
                ELSE ARRAY[(array_agg(pos ORDER BY pos + neg DESC, site COLLATE "C" DESC))[1], max(pos + neg)]
            END AS value
        FROM said GROUP BY handle
    )
    SELECT ARRAY(SELECT (b.handle, b.value[1], b.value[2], b.weight, b.seen_at)::atom_truth FROM believed AS b) INTO truths;
    UPDATE atoms AS a
    SET positive = t.positive, count = t.count, changed = pg_current_xact_id(),
        weight = CASE WHEN a.sources = 8 THEN t.weight ELSE a.weight END,
        seen_at = CASE WHEN a.sources = 8 THEN t.seen_at ELSE a.seen_at END
    FROM unnest(truths) AS t
    WHERE a.space = 0 AND a.handle = t.handle AND a.sources & 8 <> 0 AND (
        (a.positive, a.count) IS DISTINCT FROM (t.positive, t.count)
        OR a.sources = 8 AND (a.weight, a.seen_at) IS DISTINCT FROM (t.weight, t.seen_at)
    );
END $$;

-- Lets other sites know what this one says of atoms, and of the atoms in their outgoing sets: whoever says that a link is there says
-- so of its ends. What it said under a former name is void then. Returns of which atoms there was such a claim.
CREATE FUNCTION tell_atoms(of_handles uuid[]) RETURNS uuid[] LANGUAGE plpgsql AS $$
DECLARE
    telling uuid[];
    former uuid[];
BEGIN
    WITH RECURSIVE wanted (handle, outgoing, bits, version) AS (
        SELECT handle, outgoing, sources & 7, version FROM atoms WHERE space = 0 AND handle = ANY (of_handles) AND version > 0
        UNION
        SELECT a.handle, a.outgoing, CASE WHEN a.sources & 7 = 0 THEN wanted.bits ELSE a.sources & 7 END,
            CASE WHEN a.sources & 7 = 0 THEN greatest(a.version + 1, wanted.version) ELSE a.version END
        FROM wanted CROSS JOIN LATERAL unnest(wanted.outgoing) AS ends (handle)
        JOIN atoms AS a ON a.space = 0 AND a.handle = ends.handle AND (a.told IS NULL OR a.sources & 7 = 0)
        WHERE wanted.bits <> 0
    ), once AS (
        SELECT handle, bit_or(bits) AS bits, max(version) AS version FROM wanted GROUP BY handle
    ), told AS (
        UPDATE atoms AS a
        SET told = pg_current_xact_id(), sources = a.sources | once.bits, version = once.version
        FROM once WHERE a.space = 0 AND a.handle = once.handle
        RETURNING a.handle
    )
    SELECT array_agg(handle) INTO telling FROM told;
    WITH dropped AS (
        DELETE FROM atom_claims AS c USING site
        WHERE c.handle = ANY (telling) AND c.site = site_of(site.node) AND name_number(c.node) <= name_number(site.node)
        RETURNING c.handle
    )
    SELECT array_agg(handle) INTO former FROM dropped;
    RETURN former;
END $$;

-- What this site says has changed: tell others, and weigh it anew with what others say. `own` are atoms of space 0 whose version is
-- another, or that are new.
CREATE FUNCTION note_own_atoms(own uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    mode CONSTANT text := (SELECT tells FROM site);
    telling uuid[];
    weighing uuid[];
BEGIN
    SELECT array_agg(a.handle) INTO telling FROM atoms AS a
    WHERE a.space = 0 AND a.handle = ANY (own) AND (
        a.told IS NOT NULL OR is_told(mode, a.sources, a.type) OR a.sources & 7 <> 0 AND EXISTS (
            SELECT FROM atom_claims AS c JOIN site ON c.site = site_of(site.node)
            WHERE c.handle = a.handle AND name_number(c.node) < name_number(site.node)
        )
    );
    IF telling IS NOT NULL THEN
        weighing := tell_atoms(telling);
    END IF;
    SELECT array_agg(handle) INTO weighing FROM (
        SELECT unnest(weighing) AS handle
        UNION
        SELECT a.handle FROM atoms AS a
        WHERE a.space = 0 AND a.handle = ANY (own)
            AND (a.sources & 8 <> 0 OR EXISTS (SELECT FROM atom_claims AS c WHERE c.handle = a.handle AND c.present))
        UNION
        SELECT links_waiting_for(own)
    ) AS either;
    IF weighing IS NOT NULL THEN
        PERFORM weigh_atoms(weighing, clock_timestamp());
    END IF;
END $$;

-- Foreign tables are written to without a search path.
CREATE FUNCTION note_new_atoms() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    mode CONSTANT text := (SELECT tells FROM site);
    has_claims CONSTANT boolean := EXISTS (SELECT FROM atom_claims);
    own uuid[];
BEGIN
    -- Most are of no interest to other sites, nor known to them.
    SELECT array_agg(handle) INTO own FROM new_atoms
    WHERE space = 0 AND version > 0 AND (has_claims OR is_told(mode, sources, type) OR told IS NOT NULL);
    IF own IS NOT NULL THEN
        PERFORM note_own_atoms(own);
    END IF;
    PERFORM pg_notify('graph', '') WHERE EXISTS (SELECT FROM new_atoms);
    RETURN NULL;
END $$;

CREATE FUNCTION note_changed_atoms() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    mode CONSTANT text := (SELECT tells FROM site);
    has_claims CONSTANT boolean := EXISTS (SELECT FROM atom_claims);
    own uuid[];
BEGIN
    -- Not by a join, for which these tables are thought to have one row each.
    SELECT array_agg(handle) INTO own
    FROM (
        SELECT handle FROM (SELECT * FROM new_atoms UNION ALL SELECT * FROM old_atoms) AS each
        WHERE space = 0 AND (has_claims OR is_told(mode, sources, type) OR told IS NOT NULL)
        GROUP BY handle HAVING count(*) = 1 OR min(version) <> max(version)
    ) AS either;
    IF own IS NOT NULL THEN
        PERFORM note_own_atoms(own);
    END IF;
    PERFORM pg_notify('graph', '') WHERE EXISTS (SELECT FROM new_atoms);
    RETURN NULL;
END $$;

CREATE TRIGGER atoms_new AFTER INSERT ON atoms REFERENCING NEW TABLE AS new_atoms
FOR EACH STATEMENT EXECUTE FUNCTION note_new_atoms();

CREATE TRIGGER atoms_changed AFTER UPDATE ON atoms REFERENCING OLD TABLE AS old_atoms NEW TABLE AS new_atoms
FOR EACH STATEMENT EXECUTE FUNCTION note_changed_atoms();

-- A claim as it travels. Of one that is taken back, it isn't told what the atom was.
CREATE TYPE coming_claim AS (
    handle uuid, node text, present boolean, is_link boolean, pos bigint, neg bigint, weight real, seen_at timestamptz, version bigint,
    type text, name text, outgoing uuid[]
);

-- Merges claims of other sites: in whatever order and however often they come, the same stays. An atom's outgoing set are the
-- handles from `begins` to `ends` in `flat`. Returns how many claims told anything new, and which atoms links still wait for.
CREATE FUNCTION merge_claims(
    handles uuid[], nodes text[], presents boolean[], poss bigint[], negs bigint[], weights real[], seens timestamptz[],
    versions bigint[], types text[], names text[], begins integer[], ends integer[], flat uuid[], peer text, at timestamptz,
    OUT changed bigint, OUT missing uuid[]
) LANGUAGE plpgsql AS $$
DECLARE
    own CONSTANT text := (SELECT node FROM site);
    coming coming_claim[];
BEGIN
    PERFORM lock_graph(true);
    coming := ARRAY(
        SELECT (c.handle, c.node, c.present, c.present AND c.name IS NULL, c.pos, c.neg, c.weight, c.seen_at, c.version, c.type,
            c.name, CASE WHEN c.present AND c.name IS NULL THEN flat[c.b : c.e] END)::coming_claim
        FROM unnest(handles, nodes, presents, poss, negs, weights, seens, versions, types, names, begins, ends)
            AS c (handle, node, present, pos, neg, weight, seen_at, version, type, name, b, e)
        LEFT JOIN atom_types AS t ON t.name = c.type
        LEFT JOIN atoms AS e ON e.space = 0 AND e.handle = c.handle AND e.erased_at = e.gone_at
        -- What is of another type here can't be understood, and what was erased isn't taken again.
        WHERE NOT c.present OR e.handle IS NULL AND t.is_link = (c.name IS NULL) AND (
            NOT t.is_symmetric OR flat[c.b : c.e] = (SELECT array_agg(each ORDER BY each) FROM unnest(flat[c.b : c.e]) AS o (each))
        )
    );
    -- What others think that we said last, and isn't so: say it again.
    INSERT INTO atoms AS a (space, handle, type, sources, seen_at, gone_at, version, told)
    SELECT DISTINCT ON (c.handle) 0, c.handle, coalesce(k.type, c.type), 0, at, at, c.version + 1, pg_current_xact_id()
    FROM unnest(coming) AS c LEFT JOIN atoms AS k ON k.space = 0 AND k.handle = c.handle
    WHERE c.node = own AND CASE
        WHEN k.handle IS NULL THEN c.present
        WHEN k.told IS NULL OR k.version < c.version THEN true
        WHEN k.version > c.version THEN false
        WHEN k.sources & 7 = 0 THEN c.present
        ELSE (c.present, c.pos, c.neg, c.seen_at) IS DISTINCT FROM (true, k.pos, k.neg, k.seen_at)
    END
    ORDER BY c.handle, c.version DESC
    ON CONFLICT (space, handle) DO UPDATE
    SET version = greatest(a.version, excluded.version), told = pg_current_xact_id(), changed = pg_current_xact_id();
    WITH stored AS (
        INSERT INTO atom_claims AS k (handle, node, present, is_link, pos, neg, weight, seen_at, version, brought_by)
        SELECT DISTINCT ON (c.handle, site_of(c.node))
            c.handle, c.node, c.present, c.is_link, c.pos, c.neg, c.weight, c.seen_at, c.version, peer
        FROM unnest(coming) AS c
        LEFT JOIN atoms AS a ON a.space = 0 AND a.handle = c.handle AND a.told IS NOT NULL
        WHERE c.node <> own
            AND NOT (site_of(c.node) = site_of(own) AND a.handle IS NOT NULL AND name_number(c.node) <= name_number(own))
        ORDER BY c.handle, site_of(c.node), name_number(c.node) DESC, c.version DESC, c.present DESC, c.pos DESC, c.neg DESC,
            c.seen_at DESC, c.weight DESC NULLS LAST, c.node DESC
        ON CONFLICT (handle, site) DO UPDATE
        SET node = excluded.node, present = excluded.present, is_link = excluded.is_link, pos = excluded.pos, neg = excluded.neg,
            weight = excluded.weight, seen_at = excluded.seen_at, version = excluded.version,
            brought_by = excluded.brought_by, changed = pg_current_xact_id()
        WHERE (name_number(excluded.node), excluded.version, excluded.present, excluded.pos, excluded.neg, excluded.seen_at,
                coalesce(excluded.weight, '-Infinity'), excluded.node)
            > (name_number(k.node), k.version, k.present, k.pos, k.neg, k.seen_at, coalesce(k.weight, '-Infinity'), k.node)
        RETURNING k.handle
    )
    SELECT count(*) INTO changed FROM stored;
    INSERT INTO atoms AS a (space, handle, type, name, sources, seen_at, version)
    SELECT DISTINCT ON (c.handle) 0, c.handle, c.type, c.name, 8, c.seen_at, 0
    FROM unnest(coming) AS c
    WHERE c.present AND NOT c.is_link AND EXISTS (SELECT FROM atom_claims AS k WHERE k.handle = c.handle AND k.present)
    ORDER BY c.handle
    ON CONFLICT (space, handle) DO UPDATE
    SET type = excluded.type, name = excluded.name, sources = 8, gone_at = NULL, changed = pg_current_xact_id()
    WHERE a.sources = 0;
    INSERT INTO waiting_links (handle, type, outgoing)
    SELECT DISTINCT ON (c.handle) c.handle, c.type, c.outgoing
    FROM unnest(coming) AS c
    WHERE c.is_link AND EXISTS (SELECT FROM atom_claims AS k WHERE k.handle = c.handle AND k.present)
        AND NOT EXISTS (SELECT FROM atoms AS a WHERE a.space = 0 AND a.handle = c.handle AND a.sources > 0)
    ORDER BY c.handle
    ON CONFLICT DO NOTHING;
    PERFORM weigh_atoms(ARRAY(SELECT DISTINCT c.handle FROM unnest(coming) AS c), at);
    SELECT array_agg(DISTINCT o.handle) INTO missing
    FROM waiting_links AS w CROSS JOIN LATERAL unnest(w.outgoing) AS o (handle)
    LEFT JOIN atoms AS a ON a.space = 0 AND a.handle = o.handle AND a.sources > 0
    WHERE w.handle IN (SELECT c.handle FROM unnest(coming) AS c WHERE c.is_link) AND a.handle IS NULL;
    PERFORM pg_notify('graph', '') WHERE changed > 0;
END $$;

-- Copies of parts of peers' graphs, each a space of its own that only the copying changes.
CREATE TABLE graph_mirrors (
    space        smallint PRIMARY KEY REFERENCES graph_spaces CHECK (space > 0),
    place        text NOT NULL CHECK (length(place) BETWEEN 1 AND 300),
    filter       jsonb NOT NULL,
    cursor       text CHECK (length(cursor) <= 300),
    refreshed_at timestamptz,
    failed_at    timestamptz,
    failure      text CHECK (length(failure) <= 500),
    CHECK ((failed_at IS NULL) = (failure IS NULL))
);

COMMENT ON COLUMN graph_mirrors.place IS 'Host and port of the peer, whose address is in the settings';
COMMENT ON COLUMN graph_mirrors.cursor IS 'Up to where the peer''s graph was read';
COMMENT ON COLUMN graph_mirrors.failed_at IS 'When it could not be refreshed, if it could not the last time';

-- What was read of a peer's graph for a mirror, until all of it is put into place at once.
CREATE UNLOGGED TABLE mirror_pages (
    space    smallint NOT NULL REFERENCES graph_mirrors ON DELETE CASCADE,
    weight   real,
    refresh  uuid NOT NULL,
    handle   uuid NOT NULL,
    type     text COLLATE "C" NOT NULL,
    name     text COLLATE "C",
    outgoing uuid[],
    positive double precision NOT NULL,
    count    double precision NOT NULL,
    seen_at  timestamptz NOT NULL,
    PRIMARY KEY (space, refresh, handle),
    CHECK (num_nonnulls(name, outgoing) = 1)
);

-- The atoms of this site's graph that a filter lets through: nodes of these types (NULL: all) whose names begin so, within so many
-- hops of an atom (NULL: all), and the links of these types between them that are believed so firmly. Only those that other sites
-- may know, unless `everything` is. NULL if they are more than `most`.
CREATE FUNCTION mirror_members(
    types text[], prefix text, around uuid, hops integer, least_strength double precision, least_count double precision,
    everything boolean, most integer
) RETURNS uuid[] LANGUAGE plpgsql STABLE AS $$
DECLARE
    near uuid[];
    members uuid[];
    more uuid[];
BEGIN
    IF around IS NOT NULL THEN
        near := ARRAY[around];
        FOR hop IN 1 .. hops LOOP
            near := ARRAY(
                SELECT unnest(near) UNION
                SELECT i.other FROM unnest(near) AS n (handle)
                JOIN incoming AS i ON i.space = 0 AND i.target = n.handle AND i.other IS NOT NULL
                WHERE types IS NULL OR i.type = ANY (types)
                LIMIT most + 1
            );
        END LOOP;
    END IF;
    more := ARRAY(
        SELECT a.handle FROM atoms AS a
        WHERE a.space = 0 AND a.sources > 0 AND a.name IS NOT NULL AND (everything OR a.told IS NOT NULL OR a.sources & 8 <> 0)
            AND (types IS NULL OR a.type = ANY (types)) AND starts_with(a.name, prefix)
            AND (near IS NULL OR a.handle IN (SELECT unnest(near)))
        LIMIT most + 1
    );
    members := more;
    WHILE cardinality(more) > 0 AND cardinality(members) <= most LOOP
        more := ARRAY(
            SELECT a.handle
            FROM (
                SELECT i.link, count(*) AS ends FROM unnest(members) AS m (handle)
                JOIN incoming AS i ON i.space = 0 AND i.target = m.handle GROUP BY i.link
            ) AS over
            JOIN atoms AS a ON a.space = 0 AND a.handle = over.link AND cardinality(a.outgoing) = over.ends
            WHERE (everything OR a.told IS NOT NULL OR a.sources & 8 <> 0) AND (types IS NULL OR a.type = ANY (types))
                AND a.count >= least_count AND a.positive >= least_strength * a.count
                AND NOT EXISTS (SELECT FROM unnest(members) AS m (handle) WHERE m.handle = a.handle)
            LIMIT most + 1
        );
        members := members || more;
    END LOOP;
    RETURN CASE WHEN cardinality(members) <= most THEN members END;
END $$;

-- Puts what a refresh has read of a peer's graph into place: what isn't a member any more goes. Returns how many atoms there are.
CREATE FUNCTION apply_mirror(of_space smallint, of_refresh uuid, members uuid[], at timestamptz) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    placed uuid[];
BEGIN
    PERFORM bury_atoms(of_space, ARRAY(
        SELECT a.handle FROM atoms AS a
        WHERE a.space = of_space AND a.sources > 0
            AND NOT EXISTS (SELECT FROM unnest(members) AS m (handle) WHERE m.handle = a.handle)
    ), at);
    -- Links follow the atoms in their outgoing sets; those whose ends have gone since are read again the next time.
    LOOP
        placed := ARRAY(
            SELECT p.handle
            FROM mirror_pages AS p
            LEFT JOIN LATERAL unnest(p.outgoing) AS ends (target) ON true
            LEFT JOIN atoms AS a ON a.space = of_space AND a.handle = ends.target AND a.sources > 0
            WHERE p.space = of_space AND p.refresh = of_refresh
            GROUP BY p.handle HAVING count(ends.target) = count(a.handle)
        );
        EXIT WHEN cardinality(placed) = 0;
        WITH ready AS (
            DELETE FROM mirror_pages AS p
            WHERE p.space = of_space AND p.refresh = of_refresh AND p.handle = ANY (placed)
            RETURNING p.*
        ), stored AS (
            INSERT INTO atoms AS a (space, handle, type, name, outgoing, positive, count, weight, sources, seen_at, version)
            SELECT space, handle, type, name, outgoing, positive, count, weight, 8, seen_at, 0 FROM ready ORDER BY handle
            ON CONFLICT (space, handle) DO UPDATE
            SET type = excluded.type, name = excluded.name, outgoing = excluded.outgoing, positive = excluded.positive,
                count = excluded.count, weight = excluded.weight, sources = 8, seen_at = excluded.seen_at, gone_at = NULL,
                changed = pg_current_xact_id()
            WHERE a.sources = 0
                OR (a.positive, a.count, a.weight, a.seen_at)
                    IS DISTINCT FROM (excluded.positive, excluded.count, excluded.weight, excluded.seen_at)
            RETURNING handle, type, outgoing
        ), used AS (
            INSERT INTO incoming (space, target, type, position, link, other)
            SELECT of_space, ends.target, stored.type, ends.position, stored.handle,
                CASE WHEN cardinality(outgoing) = 2 THEN outgoing[3 - ends.position] END
            FROM stored CROSS JOIN LATERAL unnest(outgoing) WITH ORDINALITY AS ends (target, position)
            ON CONFLICT DO NOTHING
        )
        SELECT placed INTO placed;
    END LOOP;
    DELETE FROM mirror_pages WHERE space = of_space;
    RETURN (SELECT count(*) FROM atoms WHERE space = of_space AND sources > 0);
END $$;

-- They are planned each time: plans that were made for a small graph would be kept when it is large.
ALTER FUNCTION links_waiting_for SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION bury_atoms SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION remove_atoms SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION weigh_atoms SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION tell_atoms SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION note_own_atoms SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION merge_claims SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION mirror_members SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION apply_mirror SET plan_cache_mode = force_custom_plan;
