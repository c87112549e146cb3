"""The graph as a sparse matrix: who is linked to whom, how strongly, and by which link.

Rows are numbered without gaps, so that vectors over them are short; `places` says which atom a row is. A link
of two ends is one entry (two if the direction doesn't matter). A link of more or fewer ends gets a row of its
own that is joined to each of them, which is known as star expansion; so does a link that other links name.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from maia.graph.arrays import NO_ATOM, Float32s, Float64s, GraphArrays, Int32s, Int64s
from maia.graph.merging import flat_places
from maia.learning.truth import PERSONALITY

_ENDS = 2
"""The arity of a link that is an entry of the matrix itself."""


class Weighting(StrEnum):
    """What an entry says: strength × confidence of the link's truth value, its `weight`, or 1."""

    TRUTH = "truth"
    WEIGHT = "weight"
    ONE = "one"


@dataclass(frozen=True, slots=True)
class Adjacency:
    """A square CSR matrix (float32, all entries above 0) over n vertices, in ascending order of their places.

    Entry (i, j) is the sum of the weights of all links from i to j.
    """

    matrix: sparse.csr_array
    places: Int64s
    directed: bool

    def __len__(self) -> int:
        return len(self.places)

    def rows(self, places: Collection[int] | Int64s) -> Int64s:
        """The rows of atoms by their places, NO_ATOM for those that are no vertices."""
        wanted = np.asarray(places, np.int64).reshape(-1)
        if not len(self.places):
            return np.full(len(wanted), NO_ATOM, np.int64)
        found = np.minimum(np.searchsorted(self.places, wanted), len(self.places) - 1)
        rows: Int64s = np.where(self.places[found] == wanted, found, NO_ATOM)
        return rows

    def neighbours(self, row: int) -> Int32s:
        """The rows that a row has entries for, ascending."""
        starts = self.matrix.indptr
        ends: Int32s = self.matrix.indices[starts[row] : starts[row + 1]]
        return ends

    def strengths(self) -> Float64s:
        """The sum of each row's entries (the weighted degree)."""
        return np.asarray(self.matrix.sum(axis=1, dtype=np.float64)).reshape(-1)


@dataclass(frozen=True, slots=True)
class _Entries:
    """Entries before they are sorted, places of atoms, and the place of the link of each."""

    sources: Int64s
    targets: Int64s
    links: Int64s


def adjacency(
    graph: GraphArrays,
    *,
    links: Collection[str] | None = None,
    nodes: Collection[str] | None = None,
    weighting: Weighting = Weighting.ONE,
    directed: bool = False,
) -> Adjacency:
    """The matrix over all nodes of some types and the links of some types between them; None is all types.

    Links whose weight is missing or not above 0 are left out. Of a larger link, only those ends are joined
    that are of the types asked for. ValueError if a type names links where nodes are meant, or the opposite.
    """
    arity = np.diff(graph.outgoing_starts)
    chosen, allowed = _chosen(graph, arity, links, nodes)
    weights = link_weights(graph, weighting)
    chosen = chosen[weights[chosen] > 0]
    entries = _entries(graph, chosen, arity)
    nested = np.zeros(len(graph), bool)
    nested[entries.sources[arity[entries.sources] > 0]] = True
    nested[entries.targets[arity[entries.targets] > 0]] = True
    present = allowed | nested
    kept = present[entries.sources] & present[entries.targets]
    row_of = np.cumsum(present) - 1
    places = np.flatnonzero(present)
    sources, targets = row_of[entries.sources[kept]], row_of[entries.targets[kept]]
    matrix = _assembled(sources, targets, weights[entries.links[kept]], len(places), directed)
    return Adjacency(matrix, places, directed)


def link_weights(graph: GraphArrays, weighting: Weighting) -> Float32s:
    """What each atom weighs as a link; NaN where there is no weight."""
    match weighting:
        case Weighting.TRUTH:
            # strength × confidence = (positive / count) × (count / (count + K)).
            return np.asarray(graph.positive / (graph.count + PERSONALITY), np.float32)
        case Weighting.WEIGHT:
            return graph.weight
        case Weighting.ONE:
            return np.ones(len(graph), np.float32)
        case _:
            assert_never(weighting)


def _chosen(
    graph: GraphArrays, arity: Int64s, links: Collection[str] | None, nodes: Collection[str] | None
) -> tuple[Int64s, NDArray[np.bool_]]:
    """The places of the links to take, and for each atom whether it is a node that may be an end."""
    is_link = arity > 0
    chosen = np.flatnonzero(is_link) if links is None else graph.of_type(*links)
    if not is_link[chosen].all():
        raise ValueError(f"these types of links have nodes: {', '.join(sorted(links or ()))}")
    allowed = ~is_link
    if nodes is not None:
        wanted = graph.of_type(*nodes)
        if is_link[wanted].any():
            raise ValueError(f"these types of nodes have links: {', '.join(sorted(nodes))}")
        allowed = np.zeros(len(graph), bool)
        allowed[wanted] = True
    return chosen, allowed


def _entries(graph: GraphArrays, chosen: Int64s, arity: Int64s) -> _Entries:
    """Both ends of the links of two, and for each other link itself and each of its ends."""
    pairs = chosen[arity[chosen] == _ENDS]
    first = graph.outgoing_starts[pairs]
    stars = chosen[arity[chosen] != _ENDS]
    hub = np.repeat(stars, arity[stars])
    ends = graph.outgoing[flat_places(graph.outgoing_starts, stars)]
    return _Entries(
        np.concatenate([graph.outgoing[first].astype(np.int64), hub]),
        np.concatenate([graph.outgoing[first + 1], ends]).astype(np.int64),
        np.concatenate([pairs, hub]),
    )


def _assembled(
    sources: Int64s, targets: Int64s, weights: Float32s, size: int, directed: bool
) -> sparse.csr_array:
    """The matrix of these entries, in which equal ones are added up."""
    if not directed:
        back = sources != targets
        sources, targets, weights = (
            np.concatenate([sources, targets[back]]),
            np.concatenate([targets, sources[back]]),
            np.concatenate([weights, weights[back]]),
        )
    cells = sources.astype(np.int32), targets.astype(np.int32)
    matrix: sparse.csr_array = sparse.coo_array((weights, cells), shape=(size, size)).tocsr()
    return matrix
