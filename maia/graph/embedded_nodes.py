"""Nodes with their vectors, the cells of these, and links to store between those that are most alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from maia.graph.arrays import NO_ATOM, Float32s, Float64s, GraphArrays, Int32s, Int64s
from maia.graph.associations import Associations
from maia.graph.embedding import Basis, learn_basis, project_halves
from maia.graph.merging import part_of
from maia.graph.nearest import all_nearest_in_cells, cells_for, cells_of, learn_centres

EMBEDDED: Final = ("channel", "tag", "topic", "video")
"""The types whose atoms have vectors that are kept."""
LIKE: Final = ("channel", "tag", "video")
"""The types whose atoms are linked with those that are alike, each with its own."""
LEAST_COSINE: Final = 0.5
LEAST_USES: Final = 2
"""Tags of fewer videos begin no links: three of four tags are on one video alone."""
MOST_LEARNT: Final = 100_000
"""Of more videos, the basis is learnt from those with the most links, and what they are linked to."""
_STEPS: Final = 100
"""Cosines are rounded to so many steps, as their last digits depend on the machine."""


@dataclass(frozen=True, slots=True)
class EmbeddedNodes:
    """The nodes that have vectors, by their places in a graph, which ascend.

    `vectors`, of shape (nodes, dimensions), have length 1 and are on `basis`. `cells` numbers `centres` of
    each node's type.
    """

    places: Int64s
    vectors: NDArray[np.float16]
    cells: Int32s
    basis: Basis
    centres: Mapping[str, Float32s]

    def of_type(self, facts: GraphArrays, type_: str) -> Int64s:
        """Which of them are of a type."""
        return np.flatnonzero(np.isin(self.places, facts.of_type(type_), assume_unique=True))


def learn_embedding(facts: GraphArrays, *, seed: int = 0) -> EmbeddedNodes:
    """Learn a basis, embed all nodes on it, and learn the cells. Equal arguments give equal results.

    The basis is learnt from `MOST_LEARNT` videos at most. Directions are rounded to 16 bits, as they are
    stored, so that vectors are the same later on.
    """
    learnt = learn_basis(part_of(facts, _learnt_from(facts)), seed=seed)
    basis = replace(learnt, directions=learnt.directions.astype(np.float16).astype(np.float32))
    nodes = embed_nodes(facts, basis, {})
    centres = {}
    for type_ in EMBEDDED:
        some = nodes.vectors[nodes.of_type(facts, type_)]
        if len(some):
            centres[type_] = learn_centres(some, cells_for(len(some)), seed=seed)
    return _in_cells(facts, replace(nodes, centres=centres))


def embed_nodes(facts: GraphArrays, basis: Basis, centres: Mapping[str, Float32s]) -> EmbeddedNodes:
    """Embed all nodes on a basis; those of a type without centres are all in cell 0."""
    places = facts.of_type(*EMBEDDED)
    vectors = project_halves(facts, basis, places)
    told = vectors.any(axis=1)
    none = np.zeros(np.count_nonzero(told), np.int32)
    return _in_cells(facts, EmbeddedNodes(places[told], vectors[told], none, basis, centres))


def _in_cells(facts: GraphArrays, nodes: EmbeddedNodes) -> EmbeddedNodes:
    cells = np.zeros(len(nodes.places), np.int32)
    for type_, centres in nodes.centres.items():
        some = nodes.of_type(facts, type_)
        cells[some] = cells_of(nodes.vectors[some], centres)
    return replace(nodes, cells=cells)


def likenesses(facts: GraphArrays, nodes: EmbeddedNodes, *, most: int, linked: int) -> Associations:
    """Pairs of atoms of one type, each once, of which one is among the `most` nearest of the other.

    Of each type, it is the `linked` atoms with the most links whose nearest are found. The
    weight is the cosine, rounded; there are no observations. Equal arguments give equal pairs.
    """
    uses = np.bincount(facts.outgoing, minlength=len(facts))
    found = []
    for type_ in LIKE:
        some = nodes.of_type(facts, type_)
        if type_ == "tag":
            some = some[uses[nodes.places[some]] >= LEAST_USES]
        asked = np.zeros(len(some), bool)
        asked[np.lexsort((some, -uses[nodes.places[some]]))[:linked]] = True
        found.append(_nearest(nodes, some, type_, most, asked))
    pairs = np.concatenate([part[0] for part in found])
    weight = np.concatenate([part[1] for part in found])
    _, once = np.unique(pairs, axis=0, return_index=True)
    none = np.zeros(len(once), np.int64)
    return Associations(pairs[once, 0], pairs[once, 1], none, none, weight[once])


def _learnt_from(facts: GraphArrays) -> NDArray[np.bool_]:
    """A mask of the videos with the most links, of these links, and of all that they lead to."""
    uses = np.bincount(facts.outgoing, minlength=len(facts))
    videos = facts.of_type("video")
    kept = np.zeros(len(facts), bool)
    kept[videos[np.lexsort((videos, -uses[videos]))[:MOST_LEARNT]]] = True
    links = np.flatnonzero(np.diff(facts.outgoing_starts) == 2)
    heads = facts.outgoing[facts.outgoing_starts[links]]
    links = links[kept[heads]]
    kept[links] = kept[facts.outgoing[facts.outgoing_starts[links] + 1]] = True
    return kept


def _nearest(
    nodes: EmbeddedNodes, some: Int64s, type_: str, most: int, asked: NDArray[np.bool_]
) -> tuple[Int64s, Float64s]:
    """Pairs of places, the lower first, and their cosines."""
    if not len(some):
        return np.zeros((0, 2), np.int64), np.zeros(0)
    places, vectors = nodes.places[some], nodes.vectors[some]
    centres = nodes.centres.get(type_, np.zeros((1, vectors.shape[1]), np.float32))
    cells = nodes.cells[some]
    near = all_nearest_in_cells(vectors, cells, centres, most, least=LEAST_COSINE, asked=asked)
    rows, ranks = np.nonzero(near.rows != NO_ATOM)
    others = near.rows[rows, ranks]
    cosines = np.round(near.cosines[rows, ranks].astype(np.float64) * _STEPS) / _STEPS
    return np.sort(np.stack([places[rows], places[others]], axis=1), axis=1), cosines
