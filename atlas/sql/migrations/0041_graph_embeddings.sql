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

-- What leaves the graph leaves nothing here, nor does the basis keep what only it was called.
CREATE FUNCTION forget_embedding() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM atom_embeddings WHERE handle = OLD.handle;
    IF OLD.type = 'tag' THEN
        DELETE FROM embedding_features USING embedding_bases AS b WHERE basis = b.id AND handle = OLD.handle;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER embedding_goes_with_its_atom AFTER UPDATE OF sources ON atoms FOR EACH ROW
WHEN (OLD.space = 0 AND OLD.name IS NOT NULL AND NEW.name IS NULL)
EXECUTE FUNCTION forget_embedding();

-- The communities; which atom is in which one is a value of the atom.
CREATE TABLE graph_communities (
    number integer PRIMARY KEY CHECK (number >= 0),
    tags   uuid[] NOT NULL
);

COMMENT ON COLUMN graph_communities.tags IS 'Those that tell most of it, the best first';

ALTER TABLE graph_state ADD COLUMN grouped_at timestamptz, ADD COLUMN modularity double precision;

COMMENT ON COLUMN graph_state.grouped_at IS 'When the communities were found';
