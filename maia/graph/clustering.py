"""Clustering: groups of vertices with more links inside than chance would give them.

Modularity (Newman and Girvan, 2004) is raised as by Louvain (Blondel and others, 2008): vertices move to the
community of a neighbour that gains most, then each community becomes one vertex and it begins again; on the
way back vertices may move once more. Here many vertices move at once, a random half in each round, and a
round that loses is not taken. As in Leiden (Traag and others, 2019), no community is left that falls apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, count, pairwise
from typing import Final

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from maia.graph.adjacency import Adjacency
from maia.graph.arrays import Float64s, Int32s, Int64s
from maia.graph.merging import flat_places
from maia.graph.structure import by_size

NO_COMMUNITY: Final = -1
"""The number for what is in no community."""
_LEAST_GAIN: Final = 1e-5
"""Rounds that raise modularity by less do not count as progress."""
_IDLE_ROUNDS: Final = 3
_MOST_ROUNDS: Final = 60
_MOST_LEVELS: Final = 30


@dataclass(frozen=True, slots=True)
class Partition:
    """The community of each row, numbered by size, largest first, and the modularity of the whole."""

    labels: Int32s
    modularity: float

    def __len__(self) -> int:
        return int(self.labels.max()) + 1 if len(self.labels) else 0


def cluster(graph: Adjacency, *, resolution: float = 1.0, seed: int = 0) -> Partition:
    """The communities of a graph; with a higher resolution they are smaller. Direction makes no difference.

    Vertices without links are communities of their own. Equal arguments give equal communities.
    """
    if not resolution > 0:
        raise ValueError("the resolution must be above 0")
    weights = _undirected(graph)
    rng = np.random.default_rng(seed)
    labels = _levels(weights, resolution, rng, 0)
    labels = by_size(_connected(weights, labels))
    return Partition(labels, modularity(graph, labels, resolution=resolution))


def modularity(graph: Adjacency, labels: Int32s, *, resolution: float = 1.0) -> float:
    """How much of the weight is inside of communities, less what chance would put there; 0 without links."""
    if labels.shape != (len(graph),):
        raise ValueError(f"there must be {len(graph)} labels")
    return _modularity(_undirected(graph), labels, resolution)


def adjusted_rand(one: Int32s, other: Int32s) -> float:
    """How well two groupings of the same things agree: 1 if they are equal, 0 as by chance.

    Hubert and Arabie, 1985.
    """
    table = _contingency(one, other)
    pairs = _pairs(np.array([len(one)], float))[0]
    joint = _pairs(table.data).sum()
    ours, theirs = (_pairs(np.asarray(table.sum(axis=axis)).reshape(-1)).sum() for axis in (1, 0))
    expected = ours * theirs / pairs if pairs else 0.0
    most = (ours + theirs) / 2
    return float((joint - expected) / (most - expected)) if most != expected else 1.0


def mutual_information(one: Int32s, other: Int32s) -> float:
    """The mutual information of two groupings, as a share of the mean of their entropies: from 0 to 1."""
    table = _contingency(one, other).tocoo()
    if not len(one):
        return 1.0
    share = table.data / len(one)
    ours, theirs = (np.asarray(table.sum(axis=axis)).reshape(-1) / len(one) for axis in (1, 0))
    row, column = table.coords
    shared = float((share * np.log(share / (ours[row] * theirs[column]))).sum())
    entropy = sum(-float((part[part > 0] * np.log(part[part > 0])).sum()) for part in (ours, theirs)) / 2
    return min(1.0, max(0.0, shared / entropy)) if entropy > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Stability:
    """How alike the communities of several seeds are: means over all pairs, and the modularities."""

    adjusted_rand: float
    mutual_information: float
    modularities: tuple[float, ...]


def stability(graph: Adjacency, seeds: Sequence[int], *, resolution: float = 1.0) -> Stability:
    """Cluster with each of at least two seeds, and compare."""
    if len(seeds) < 2:
        raise ValueError("stability needs two seeds or more")
    runs = [cluster(graph, resolution=resolution, seed=seed) for seed in seeds]
    pairs = [(one.labels, other.labels) for one, other in combinations(runs, 2)]
    return Stability(
        float(np.mean([adjusted_rand(*pair) for pair in pairs])),
        float(np.mean([mutual_information(*pair) for pair in pairs])),
        tuple(run.modularity for run in runs),
    )


def telling(graph: Adjacency, partition: Partition, candidates: Int64s, most: int = 5) -> list[Int64s]:
    """For each community, the candidates (rows, as of tags) that tell most of it, the best first.

    A candidate's score is the weight w that links it to members times the logarithm of how much more that is
    than chance would give it, which is its part in the mutual information. Candidates that are less linked to
    a community than by chance don't tell of it.
    """
    linked = _undirected(graph)[candidates] @ _membership(partition.labels, len(partition))
    found = linked.tocoo()
    row, community = found.coords
    own = np.asarray(linked.sum(axis=1)).reshape(-1)
    theirs = np.asarray(linked.sum(axis=0)).reshape(-1)
    lift = found.data * own.sum() / (own[row] * theirs[community])
    score = found.data * np.log(lift)
    kept = np.flatnonzero(lift > 1)
    order = kept[np.lexsort((row[kept], -score[kept], community[kept]))]
    starts = np.searchsorted(community[order], np.arange(len(partition) + 1))
    return [candidates[row[order[a : min(b, a + most)]]] for a, b in pairwise(starts.tolist())]


def numbered_as(labels: Int64s, former: Int64s) -> Int64s:
    """The same communities, numbered as former ones of the same things; NO_COMMUNITY stays so.

    A community gets the number of the one with which it shares most, or a number that none has.
    """
    both = (labels != NO_COMMUNITY) & (former != NO_COMMUNITY)
    pairs, shared = np.unique(np.stack([labels[both], former[both]]), axis=1, return_counts=True)
    numbers: dict[int, int] = {}
    used: set[int] = set()
    for nth in np.lexsort((pairs[1], pairs[0], -shared)).tolist():
        label, number = pairs[:, nth].tolist()
        if label not in numbers and number not in used:
            numbers[label] = number
            used.add(number)
    unused = (number for number in count() if number not in used)
    present, nth_label = np.unique(labels, return_inverse=True)
    given = [
        numbers[label] if label in numbers else next(unused) if label != NO_COMMUNITY else NO_COMMUNITY
        for label in present.tolist()
    ]
    return np.array(given, np.int64)[nth_label]


def _undirected(graph: Adjacency) -> sparse.csr_array:
    """The weights in float64, symmetric; a link to oneself counts twice, as in both directions."""
    weights = graph.matrix.astype(np.float64)
    if graph.directed:
        return (weights + weights.T).tocsr()
    return (weights + sparse.diags_array(weights.diagonal())).tocsr()


def _levels(weights: sparse.csr_array, resolution: float, rng: np.random.Generator, depth: int) -> Int32s:
    """The communities of one level and all coarser ones."""
    size = weights.shape[0]
    labels = _moved(weights, np.arange(size, dtype=np.int32), resolution, rng)
    labels = by_size(_connected(weights, labels))
    count = int(labels.max()) + 1 if size else 0
    if count in (0, size) or depth >= _MOST_LEVELS:
        return labels
    members = _membership(labels, count)
    coarser = _levels((members.T @ weights @ members).tocsr(), resolution, rng, depth + 1)
    return by_size(_moved(weights, coarser[labels], resolution, rng))


def _moved(weights: sparse.csr_array, labels: Int32s, resolution: float, rng: np.random.Generator) -> Int32s:
    """Move vertices as long as modularity rises; after the first round, those near to others that moved."""
    strength = np.asarray(weights.sum(axis=1)).reshape(-1)
    total = float(strength.sum())
    if not total:
        return labels
    loops, rate = weights.diagonal(), resolution / total
    quality, idle = _modularity(weights, labels, resolution), 0
    waiting = np.ones(len(labels), bool)
    for _ in range(_MOST_ROUNDS):
        some = np.flatnonzero(waiting & (rng.random(len(labels)) < 0.5))
        proposed = _proposed(weights, labels, some, strength, loops, rate)
        reached = _modularity(weights, proposed, resolution)
        gained = reached - quality
        if gained > 0:
            moved = some[proposed[some] != labels[some]]
            waiting[some] = False
            waiting[weights.indices[flat_places(weights.indptr, moved)]] = True
            labels, quality = proposed, reached
        idle = 0 if gained > _LEAST_GAIN else idle + 1
        if idle == _IDLE_ROUNDS:
            break
    return labels


def _proposed(
    weights: sparse.csr_array, labels: Int32s, some: Int64s, strength: Float64s, loops: Float64s, rate: float
) -> Int32s:
    """The labels after some vertices moved to where each of them alone would gain most."""
    count = int(labels.max()) + 1
    volume = np.bincount(labels, weights=strength, minlength=count)
    inside = weights[some] @ _membership(labels, count)
    starts = inside.indptr[:-1][np.diff(inside.indptr) > 0]
    place = np.repeat(some, np.diff(inside.indptr))
    stays = labels[place] == inside.indices
    # Without itself: neither its link to itself nor its own strength is a reason to stay.
    near = inside.data - stays * loops[place]
    gain = near - rate * strength[place] * (volume[inside.indices] - stays * strength[place])
    proposed = labels.copy()
    if len(starts):
        most = np.repeat(np.maximum.reduceat(gain, starts), np.diff(np.append(starts, len(gain))))
        # Of equally good communities its own is preferred, then the first.
        rank = np.where(gain < most, count, np.where(stays, -1, inside.indices))
        best = np.minimum.reduceat(rank, starts)
        better = (best >= 0) & (np.maximum.reduceat(gain, starts) > 0)
        proposed[place[starts][better]] = best[better]
    return proposed


def _connected(weights: sparse.csr_array, labels: Int32s) -> Int32s:
    """The communities divided into what is connected inside of them."""
    if not len(labels):
        return labels
    entries = weights.tocoo()
    one, other = entries.coords
    inside = labels[one] == labels[other]
    within = sparse.csr_array((entries.data[inside], (one[inside], other[inside])), shape=weights.shape)
    parts: Int32s = csgraph.connected_components(within, directed=False)[1]
    return parts


def _modularity(weights: sparse.csr_array, labels: Int32s, resolution: float) -> float:
    total = float(weights.data.sum())
    if not total:
        return 0.0
    own = np.repeat(labels, np.diff(weights.indptr))
    inside = float(weights.data[own == labels[weights.indices]].sum())
    volume = np.bincount(own, weights=weights.data)
    return inside / total - resolution * float(((volume / total) ** 2).sum())


def _membership(labels: Int32s, count: int) -> sparse.csr_array:
    """One entry a row: 1 in the column of its community."""
    starts = np.arange(len(labels) + 1, dtype=np.int32)
    return sparse.csr_array((np.ones(len(labels)), labels, starts), shape=(len(labels), count))


def _contingency(one: Int32s, other: Int32s) -> sparse.csr_array:
    if one.shape != other.shape:
        raise ValueError("both groupings must be of the same things")
    size = int(one.max()) + 1 if len(one) else 0, int(other.max()) + 1 if len(other) else 0
    return sparse.coo_array((np.ones(len(one)), (one, other)), shape=size).tocsr()


def _pairs(counts: Float64s) -> Float64s:
    return counts * (counts - 1) / 2
