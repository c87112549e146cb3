-- What is alike: the vectors of atoms, on what basis they are, and the cells in which the nearest are looked for.

-- Vectors can only be compared on one basis. A new one is written beside the present one, with all vectors, and then takes its
-- place at once.
CREATE TABLE embedding_bases (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    videos     integer NOT NULL CHECK (videos >= 0),
    is_present boolean NOT NULL DEFAULT false,
    unseen     double precision NOT NULL,
    learnt_at  timestamptz NOT NULL,
    recipe     jsonb NOT NULL
);

COMMENT ON COLUMN embedding_bases.videos IS 'How many videos it was learnt from';
COMMENT ON COLUMN embedding_bases.unseen IS 'The weight of features that it does not know';
COMMENT ON COLUMN embedding_bases.is_present IS 'Whether all its vectors are there, so that they are used';

CREATE UNIQUE INDEX embedding_bases_present ON embedding_bases (is_present) WHERE is_present;

CREATE TABLE embedding_features (
    basis     integer NOT NULL REFERENCES embedding_bases ON DELETE CASCADE,
    is_word   boolean NOT NULL,
    rarity    real NOT NULL,
    handle    uuid NOT NULL,
    direction bytea NOT NULL,
    PRIMARY KEY (basis, handle)
);

COMMENT ON COLUMN embedding_features.handle IS 'A tag''s, or of a word what a node of the type word and of this name would have';
COMMENT ON COLUMN embedding_features.direction IS 'Floats of 16 bits, the lower byte first';

CREATE TABLE embedding_cells (
    basis  integer NOT NULL REFERENCES embedding_bases ON DELETE CASCADE,
    cell   integer NOT NULL CHECK (cell >= 0),
    type   text COLLATE "C" NOT NULL,
    centre bytea NOT NULL,
    PRIMARY KEY (basis, type, cell)
);

COMMENT ON COLUMN embedding_cells.centre IS 'Floats of 32 bits, the lower byte first';

-- Of this site's own graph.
CREATE TABLE atom_embeddings (
    handle uuid NOT NULL,
    basis  integer NOT NULL REFERENCES embedding_bases ON DELETE CASCADE,
    cell   integer NOT NULL CHECK (cell >= 0),
    type   text COLLATE "C" NOT NULL,
    vector bytea NOT NULL,
    PRIMARY KEY (handle, basis)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

COMMENT ON COLUMN atom_embeddings.vector IS 'Of length 1: floats of 16 bits, the lower byte first';

CREATE INDEX atom_embeddings_by_cell ON atom_embeddings (basis, type, cell);

-- Atoms of which nobody says any more that they are there are gone, and so are all links that have them in their outgoing set.
-- Such links wait if other sites still say that they are there. Returns what is gone. It leaves no vector behind,
-- nor, of a tag, its direction in a basis.
CREATE OR REPLACE FUNCTION bury_atoms(of_space smallint, of_handles uuid[], at timestamptz) RETURNS uuid[] LANGUAGE plpgsql AS $$
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
    IF of_space = 0 THEN
        DELETE FROM atom_embeddings WHERE handle = ANY (gone);
        DELETE FROM embedding_features USING embedding_bases AS b WHERE basis = b.id AND handle = ANY (gone);
    END IF;
    UPDATE atoms
    SET sources = 0, name = NULL, outgoing = NULL, weight = NULL, pos = 0, neg = 0, positive = 0, count = 0, gone_at = at,
        version = CASE WHEN sources & 7 = 0 THEN version ELSE greatest(version + 1, stamp) END, changed = pg_current_xact_id()
    WHERE space = of_space AND handle = ANY (gone);
    RETURN gone;
END $$;

ALTER FUNCTION bury_atoms SET plan_cache_mode = force_custom_plan;

-- The communities; which atom is in which one is a value of the atom.
CREATE TABLE graph_communities (
    number integer PRIMARY KEY CHECK (number >= 0),
    tags   uuid[] NOT NULL
);

COMMENT ON COLUMN graph_communities.tags IS 'Those that tell most of it, the best first';

ALTER TABLE graph_state ADD COLUMN grouped_at timestamptz, ADD COLUMN modularity double precision;

COMMENT ON COLUMN graph_state.grouped_at IS 'When the communities were found';
