-- The vectors of atoms of this site's own graph, and the basis that they are on. Vectors that are read are those of the present basis.

-- name: present
-- The present basis.
SELECT id, videos, unseen, recipe, learnt_at FROM embedding_bases WHERE is_present;

-- name: drop_others
-- Delete all bases but the present one, with all that is on them.
DELETE FROM embedding_bases WHERE NOT is_present;

-- name: begin
-- A basis that was learnt at $1 from $2 videos by the recipe $3, in which unknown features weigh $4.
INSERT INTO embedding_bases (learnt_at, videos, recipe, unseen) VALUES ($1, $2, $3::jsonb, $4) RETURNING id;

-- name: leave
-- Let no basis be the present one.
UPDATE embedding_bases SET is_present = false WHERE is_present;

-- name: enter
-- Let the basis $1 be the present one.
UPDATE embedding_bases SET is_present = true WHERE id = $1;

-- name: add_features
-- Store features of the basis $1: handles $2, whether they are words $3, weights $4 and directions $5.
INSERT INTO embedding_features (basis, handle, is_word, rarity, direction)
SELECT $1, * FROM unnest($2::uuid[], $3::boolean[], $4::real[], $5::bytea[]);

-- name: features
-- At most $3 features of the basis $1, after the handle $2.
SELECT handle, is_word, rarity, direction FROM embedding_features WHERE basis = $1 AND handle > $2 ORDER BY handle LIMIT $3;

-- name: features_of
-- Those of the features $2 that the basis $1 has.
SELECT handle, is_word, rarity, direction FROM embedding_features WHERE basis = $1 AND handle = ANY ($2::uuid[]) ORDER BY handle;

-- name: add_cells
-- Store cells of the basis $1 for atoms of the type $2, numbered from 0, with the centres $3.
INSERT INTO embedding_cells (basis, type, cell, centre)
SELECT $1, $2, nth - 1, centre FROM unnest($3::bytea[]) WITH ORDINALITY AS c (centre, nth);

-- name: cells
-- The centres of all cells of the basis $1.
SELECT type, centre FROM embedding_cells WHERE basis = $1 ORDER BY type, cell;

-- name: cells_of
-- The centres of the cells of the basis $1 for atoms of the type $2.
SELECT centre FROM embedding_cells WHERE basis = $1 AND type = $2 ORDER BY cell;

-- name: put
-- Store vectors on the basis $1 for those of the atoms $2 that are there: of types $3, in cells $4. Returns how many.
WITH stored AS (
    INSERT INTO atom_embeddings AS e (basis, handle, type, cell, vector)
    SELECT $1::integer, new.handle, new.type, new.cell, new.vector
    FROM unnest($2::uuid[], $3::text[], $4::integer[], $5::bytea[]) AS new (handle, type, cell, vector)
    JOIN atoms AS a ON a.space = 0 AND a.handle = new.handle AND a.sources > 0
    ORDER BY new.handle
    ON CONFLICT (handle, basis) DO UPDATE SET cell = excluded.cell, vector = excluded.vector
    RETURNING 1
)
SELECT count(*) FROM stored;

-- name: page
-- At most $3 vectors of the basis $1, after the handle $2.
SELECT handle, vector FROM atom_embeddings WHERE basis = $1 AND handle > $2 ORDER BY handle LIMIT $3;

-- name: drop
-- Delete the vectors of the atoms $2 on the basis $1.
DELETE FROM atom_embeddings WHERE basis = $1 AND handle = ANY ($2::uuid[]);

-- name: drop_all
-- Delete all bases, with all vectors.
DELETE FROM embedding_bases;

-- name: of_atoms
-- The vectors of the atoms $2 on the basis $1.
SELECT handle, vector FROM atom_embeddings WHERE basis = $1 AND handle = ANY ($2::uuid[]) ORDER BY handle;

-- name: in_cells
-- The vectors of atoms of the type $2 in the cells $3 of the basis $1, at most $4 of each, by handle: as one text of bytes, and the
-- handles as another.
SELECT string_agg(uuid_send(e.handle), ''::bytea ORDER BY e.handle) AS handles, string_agg(e.vector, ''::bytea ORDER BY e.handle) AS vectors
FROM unnest($3::integer[]) AS wanted (cell)
CROSS JOIN LATERAL (
    SELECT handle, vector FROM atom_embeddings WHERE basis = $1 AND type = $2 AND cell = wanted.cell LIMIT $4
) AS e;
