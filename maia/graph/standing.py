"""Where atoms stand in the whole graph: in which community, and how central they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Final

import numpy as np

from maia.graph.adjacency import adjacency
from maia.graph.arrays import NO_ATOM, Float64s, GraphArrays, Int64s
from maia.graph.communities import cluster, telling
from maia.graph.structure import pagerank

LINKS: Final = ("tagged", "uploaded_by", "found_by")
"""What holds a community together."""
TYPES: Final = ("channel", "tag", "topic", "video")
"""What is in communities. Agents and categories connect nearly everything."""
ALONE: Final = -1
"""The community of an atom that is linked with nothing."""
_DIGITS: Final = 2


@dataclass(frozen=True, slots=True)
class Standing:
    """Atoms by their places in a graph, which ascend, with their communities and PageRanks.

    A PageRank is a multiple of the mean, to two digits, so that few change when the graph grows a little.
    `tags` has the places of the tags that tell most of each community, the best first.
    """

    places: Int64s
    communities: Int64s
    ranks: Float64s
    tags: Mapping[int, Int64s]
    modularity: float


def standing(facts: GraphArrays, former: Int64s, *, seed: int = 0) -> Standing:
    """The standing of all atoms of `TYPES`, over `LINKS`. Equal arguments give equal results.

    `former` has the community that each atom of the graph was in before, or `ALONE`: a community keeps the
    number of the one with which it shares most.
    """
    present = [each for each in TYPES if each in facts.types]
    graph = adjacency(facts, links=[each for each in LINKS if each in facts.types], nodes=present)
    found = cluster(graph, seed=seed)
    sizes = np.bincount(found.labels, minlength=1)
    # What is linked with nothing is a community of its own.
    labels = np.where(sizes[found.labels] > 1, found.labels, ALONE).astype(np.int64)
    number_of = _numbers(labels, former[graph.places])
    rows = graph.rows(facts.of_type("tag"))
    best = telling(graph, found, rows[rows != NO_ATOM])
    ranks = pagerank(graph) * len(graph)
    return Standing(
        places=graph.places,
        communities=np.array([number_of.get(each, ALONE) for each in labels.tolist()], np.int64),
        ranks=_rounded(ranks),
        tags={number: graph.places[best[label]] for label, number in number_of.items()},
        modularity=found.modularity,
    )


def _numbers(labels: Int64s, former: Int64s) -> dict[int, int]:
    """The number of each label: that of the former community with most in common, or one that is not used."""
    both = (labels != ALONE) & (former != ALONE)
    pairs, shared = np.unique(np.stack([labels[both], former[both]]), axis=1, return_counts=True)
    numbers: dict[int, int] = {}
    used: set[int] = set()
    for nth in np.lexsort((pairs[1], pairs[0], -shared)).tolist():
        label, number = pairs[:, nth].tolist()
        if label not in numbers and number not in used:
            numbers[label] = number
            used.add(number)
    unused = (number for number in count() if number not in used)
    for label in np.unique(labels[labels != ALONE]).tolist():
        if label not in numbers:
            numbers[label] = next(unused)
    return numbers


def _rounded(values: Float64s) -> Float64s:
    """To so many significant digits."""
    exponents = np.floor(np.log10(np.maximum(values, 1e-12))) - (_DIGITS - 1)
    scale = 10.0**exponents
    return np.round(np.round(values / scale) * scale, 12)
