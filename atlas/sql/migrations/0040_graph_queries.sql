-- What the planner must know of the knowledge graph to judge its queries: how many ends links of each type have, which it would
-- take for rare whatever the number, and which ends are those of each type.

CREATE STATISTICS atoms_shape (mcv) ON type, (cardinality(outgoing)) FROM atoms;

CREATE STATISTICS incoming_shape (mcv) ON type, position FROM incoming;

-- Which atoms have very many links must be known where queries name them. Where they only join two sets of links, that would be
-- taken for likely to be met: what a video is linked with would seem to be hundreds of atoms, since categories are.
ALTER TABLE incoming ALTER COLUMN target SET STATISTICS 1000, ALTER COLUMN other SET STATISTICS 1;
