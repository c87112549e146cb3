"""What the shape of a graph tells: neighbourhoods, triangles and PageRank."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import numpy as np
from scipy import sparse

from maia.graph.adjacency import Adjacency
from maia.graph.arrays import NO_ATOM, Float64s, Int32s, Int64s
from maia.graph.merging import flat_places

_PRODUCT_ENTRIES = 1 << 25
"""Triangles are counted in blocks of rows whose products need about so many multiplications at most."""


def hops(graph: Adjacency, sources: Collection[int], most: int = 2) -> Int32s:
    """How many links each row is away from the nearest source, NO_ATOM where it is more than `most`."""
    distance = np.full(len(graph), NO_ATOM, np.int32)
    frontier = _checked(graph, sources)
    distance[frontier] = 0
    for step in range(1, most + 1):
        reached = graph.matrix.indices[flat_places(graph.matrix.indptr, frontier)]
        frontier = np.unique(reached[distance[reached] == NO_ATOM]).astype(np.int64)
        if not len(frontier):
            break
        distance[frontier] = step
    return distance


def by_size(labels: Int32s | Int64s) -> Int32s:
    """The same groups, numbered by size, largest first; groups of one size by their first member."""
    _, first, group, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(first), np.int32)
    rank[np.lexsort((first, -counts))] = np.arange(len(first))
    numbers: Int32s = rank[group]
    return numbers


def triangles(graph: Adjacency) -> Int64s:
    """How many triangles each row is in; direction, weights and links to oneself make no difference.

    Each link is directed from the vertex of lower degree to that of higher degree, so that hubs have few
    outgoing links; a triangle u → v → w, u → w is then found once (Schank and Wagner, 2005).
    """
    out = _oriented(graph)
    counts = np.zeros(len(graph), np.int64)
    back = out.T.tocsr()
    for rows in _blocks(out, back):
        block = out[rows]
        closing = (block @ out).multiply(block)
        counts[rows] += _summed(closing, 1)
        counts += _summed(closing, 0)
        # The middle vertex: both ends of its link to the last are linked from the first.
        counts[rows] += _summed((back[rows] @ out).multiply(block), 1)
    return counts


def pagerank(
    graph: Adjacency,
    *,
    damping: float = 0.85,
    tolerance: float = 1e-9,
    most_steps: int = 200,
    restart: Float64s | None = None,
) -> Float64s:
    """The PageRank of each row; they add up to 1. Power iteration until the change (L1) is below tolerance.

    Links are followed in proportion to their weights. `restart` is the distribution of where a walk begins
    again, by default the same everywhere; rows without links lead there too. ValueError if it is no such
    distribution, or if the iteration doesn't converge.
    """
    size = len(graph)
    if not size:
        return np.zeros(0)
    if not 0 <= damping < 1:
        raise ValueError("damping must be in [0, 1)")
    begin = np.full(size, 1 / size) if restart is None else _distribution(restart, size)
    strengths = graph.strengths()
    dangling = strengths == 0
    share = np.divide(1.0, strengths, out=np.zeros(size), where=~dangling)
    towards = graph.matrix.T.tocsr().astype(np.float64)
    rank = begin
    for _ in range(most_steps):
        lost = float(rank[dangling].sum())
        after = damping * (towards @ (rank * share)) + (damping * lost + 1 - damping) * begin
        after /= after.sum()
        change = float(np.abs(after - rank).sum())
        rank = after
        if change < tolerance:
            return np.asarray(rank)
    raise ValueError(f"PageRank did not converge in {most_steps} steps: allow more, or lower the damping")


def _checked(graph: Adjacency, rows: Collection[int]) -> Int64s:
    checked = np.unique(np.asarray(list(rows), np.int64))
    if len(checked) and not 0 <= checked[0] <= checked[-1] < len(graph):
        raise ValueError(f"rows must be between 0 and {len(graph) - 1}")
    return checked


def _oriented(graph: Adjacency) -> sparse.csr_array:
    pattern = graph.matrix.astype(np.int64)
    pattern.data[:] = 1
    both = (pattern + pattern.T).tocoo() if graph.directed else pattern.tocoo()
    one, other = both.coords
    degree = np.bincount(one, weights=one != other, minlength=len(graph))
    upwards = (degree[one] < degree[other]) | ((degree[one] == degree[other]) & (one < other))
    ends = one[upwards], other[upwards]
    return sparse.csr_array((np.ones(len(ends[0]), np.int64), ends), shape=both.shape)


def _blocks(out: sparse.csr_array, back: sparse.csr_array) -> list[slice]:
    """Ranges of rows whose products are of bounded size."""
    lengths = np.diff(out.indptr)
    work = np.cumsum((out + back) @ lengths.astype(np.int64)) if len(lengths) else np.zeros(0)
    total = float(work[-1]) if len(work) else 0.0
    cuts = np.searchsorted(work, np.arange(_PRODUCT_ENTRIES, total, _PRODUCT_ENTRIES)) + 1
    bounds = np.unique(np.concatenate([[0], cuts, [len(lengths)]])).tolist()
    return [slice(begin, end) for begin, end in pairwise(bounds)]


def _summed(matrix: sparse.csr_array, axis: int) -> Int64s:
    return np.asarray(matrix.sum(axis=axis)).reshape(-1).astype(np.int64)


def _distribution(restart: Float64s, size: int) -> Float64s:
    shares = np.asarray(restart, np.float64)
    total = float(shares.sum()) if shares.shape == (size,) else 0.0
    if not np.isfinite(shares).all() or (shares < 0).any() or total <= 0:
        raise ValueError(f"restart must be {size} numbers from 0, not all of which are 0")
    return np.asarray(shares / total)
