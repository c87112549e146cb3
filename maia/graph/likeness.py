"""Which atoms are alike, as links to store: the nearest of each by the cosine of their vectors."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from maia.graph.arrays import NO_ATOM, Float64s, GraphArrays, Int64s
from maia.graph.associations import Associations
from maia.graph.embedding import build_embeddings
from maia.graph.facts import part_of
from maia.graph.similarity import Vectors, nearest

LIKE: Final = ("channel", "tag", "video")
"""The types whose atoms are compared, each with its own."""
LEAST_COSINE: Final = 0.5
MOST_COMPARED: Final = 20_000
"""Of more atoms of a type, only those with the most links are compared: time grows with the square."""
MOST_EMBEDDED: Final = 100_000
"""Of more videos, those with the most links are embedded, with what they are linked to: a kilobyte each."""
_STEPS: Final = 100
"""Cosines are rounded to so many steps, as their last digits depend on the machine."""


def likenesses(facts: GraphArrays, *, most: int, seed: int = 0) -> Associations:
    """Pairs of atoms of one type, each once, of which one is among the `most` nearest of the other.

    The weight is the cosine, rounded; there are no observations. Equal arguments give equal pairs.
    """
    uses = np.bincount(facts.outgoing, minlength=len(facts))
    kept = _embedded(facts, uses)
    nodes = np.flatnonzero(kept & (np.diff(facts.outgoing_starts) == 0))
    vectors = build_embeddings(part_of(facts, kept), seed=seed).vectors
    found = []
    for type_ in LIKE:
        some = _most_used(np.intersect1d(facts.of_type(type_), nodes), uses, MOST_COMPARED)
        found.append(_nearest(some, vectors[np.searchsorted(nodes, some)], most))
    pairs = np.concatenate([part[0] for part in found])
    weight = np.concatenate([part[1] for part in found])
    _, once = np.unique(pairs, axis=0, return_index=True)
    none = np.zeros(len(once), np.int64)
    return Associations(pairs[once, 0], pairs[once, 1], none, none, weight[once])


def _embedded(facts: GraphArrays, uses: Int64s) -> NDArray[np.bool_]:
    """A mask of the videos with the most links, of these links, and of all that they lead to."""
    kept = np.zeros(len(facts), bool)
    kept[_most_used(facts.of_type("video"), uses, MOST_EMBEDDED)] = True
    links = np.flatnonzero(np.diff(facts.outgoing_starts) == 2)
    heads = facts.outgoing[facts.outgoing_starts[links]]
    links = links[kept[heads]]
    kept[links] = kept[facts.outgoing[facts.outgoing_starts[links] + 1]] = True
    return kept


def _most_used(places: Int64s, uses: Int64s, most: int) -> Int64s:
    order = np.lexsort((places, -uses[places]))
    return np.sort(places[order[:most]])


def _nearest(places: Int64s, vectors: Vectors, most: int) -> tuple[Int64s, Float64s]:
    """Pairs of places, the lower first, and their cosines."""
    if not len(places):
        return np.zeros((0, 2), np.int64), np.zeros(0)
    near = nearest(vectors, vectors, most, but=np.arange(len(places)), least=LEAST_COSINE)
    rows, ranks = np.nonzero(near.rows != NO_ATOM)
    others = near.rows[rows, ranks]
    cosines = np.round(near.cosines[rows, ranks].astype(np.float64) * _STEPS) / _STEPS
    return np.sort(np.stack([places[rows], places[others]], axis=1), axis=1), cosines
