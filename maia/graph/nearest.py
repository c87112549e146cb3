"""Which vectors are alike: the cosine, and the k nearest of many in bounded memory, exactly or by cells.

Cells (an inverted file) save comparing each with each. Vectors are gathered around centres by spherical
k-means (Dhillon and Modha, 2001), and only those of the cells nearest to a query are compared with it,
exactly. With about √n cells, of which a fixed number is looked at, comparing all with all takes time in
proportion to n · √n. Few vectors are one cell, and then nothing is missed. How much is missed otherwise: see
tests/bench/bench_graph_neighbours.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from maia.graph.arrays import NO_ATOM, Float32s, Int32s, Int64s

Vectors = NDArray[np.float32] | NDArray[np.float16]
"""Shape (n, dimensions). Stored in 16 bits, they are widened block by block."""

BLOCK_BYTES: Final = 32 << 20
"""So large is a block of similarities; a few of them are in memory at a time."""

PROBED: Final = 16
"""For all vectors of a cell, so many of the cells nearest to its centre are looked at."""
PROBED_BY_ONE: Final = 4
"""For one query, so many of the cells nearest to it are looked at."""
MOST_IN_CELL: Final = 5_000
"""So many vectors of a cell are looked at. Larger ones are of vectors that are nearly the same."""
ONE_CELL: Final = 2_000
"""So many vectors at most are one cell."""
_ROUNDS: Final = 8
_LEARNT_FROM: Final = 64
"""Centres are learnt from so many vectors a cell: more don't move them noticeably."""
_ROWS: Final = 16_384


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest of each query, best first, of shape (queries, k); NO_ATOM and 0 where there are no more."""

    rows: Int32s
    cosines: Float32s


def similarity(left: Vectors, right: Vectors) -> Float32s:
    """The cosine of each row on the left to each on the right, of shape (left, right).

    It is 0 for vectors of length 0. ValueError unless both have the same dimensions.
    """
    _check(left, right)
    cosines: Float32s = np.clip(unit(left) @ unit(right).T, -1, 1)
    return cosines


def nearest(
    vectors: Vectors,
    queries: Vectors,
    k: int,
    *,
    but: Int64s | None = None,
    least: float = 0.0,
    block_bytes: int = BLOCK_BYTES,
) -> Nearest:
    """Of each query, the k rows of `vectors` whose cosine is above `least`, the largest first; ties by row.

    `but` names for each query one row that is not asked for, or NO_ATOM. Memory is a few blocks beside the
    arguments and the answer.
    """
    _check(vectors, queries)
    if k < 1:
        raise ValueError("k must be at least 1")
    width = max(1, min(len(vectors), int((block_bytes / 4) ** 0.5)))
    height = max(1, block_bytes // 4 // width)
    found = Nearest(np.full((len(queries), k), NO_ATOM, np.int32), np.zeros((len(queries), k), np.float32))
    for begin in range(0, len(queries), height):
        some = slice(begin, begin + height)
        best = _Best(len(queries[some]), k, least)
        asked = unit(queries[some])
        for first in range(0, len(vectors), width):
            cosines = asked @ unit(vectors[first : first + width]).T
            if but is not None:
                _leave_out(cosines, but[some] - first)
            best.offer(cosines, first)
        found.rows[some], found.cosines[some] = best.rows, np.where(best.rows < 0, 0, best.cosines)
    return found


def unit(vectors: Vectors) -> Float32s:
    """The vectors in 32 bits and of length 1; those of length 0 stay so."""
    wide = np.asarray(vectors, np.float32)
    length = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
    return np.asarray(np.divide(wide, length, out=np.zeros_like(wide), where=length > 0))


def cells_for(vectors: int) -> int:
    """How many cells suit so many vectors."""
    return 1 if vectors <= ONE_CELL else int(vectors**0.5)


def learn_centres(vectors: Vectors, cells: int, *, seed: int = 0) -> Float32s:
    """Centres of length 1, of shape (cells, dimensions); fewer if there are fewer vectors than cells.

    Equal arguments give equal centres. The centre of a cell that became empty stays where it was.
    """
    draw = np.random.default_rng(seed)
    rows = np.sort(draw.permutation(len(vectors))[: cells * _LEARNT_FROM])
    sample = unit(vectors[rows])
    centres = sample[np.sort(draw.permutation(len(sample))[:cells])]
    for _ in range(_ROUNDS if len(centres) > 1 else 0):
        nearest_centre = cells_of(sample, centres)
        order = np.argsort(nearest_centre, kind="stable")
        filled, begins = np.unique(nearest_centre[order], return_index=True)
        centres[filled] = unit(np.add.reduceat(sample[order], begins, axis=0))
    return centres


def cells_of(vectors: Vectors, centres: Float32s) -> Int32s:
    """The cell of each vector: that of the centre nearest to it, shape (vectors,)."""
    found = [
        np.argmax(unit(vectors[begin : begin + _ROWS]) @ centres.T, axis=1)
        for begin in range(0, len(vectors), _ROWS)
    ]
    return np.concatenate([np.zeros(0, np.int32), *found]).astype(np.int32)


def probed(queries: Vectors, centres: Float32s, most: int = PROBED_BY_ONE) -> Int32s:
    """The cells to look at for each query, the nearest first, of shape (queries, at most `most`)."""
    return np.argsort(-(unit(queries) @ centres.T), axis=1, kind="stable")[:, :most].astype(np.int32)


def all_nearest_in_cells(
    vectors: Vectors,
    cells: Int32s,
    centres: Float32s,
    k: int,
    *,
    least: float = 0.0,
    most_probed: int = PROBED,
    asked: NDArray[np.bool_] | None = None,
) -> Nearest:
    """Of each vector, the k others whose cosine is above `least`, of those in the cells around its own cell.

    `cells` has the cell of each vector. `asked` is a mask of the vectors that are asked for, by default all.
    Memory is a few blocks and the vectors of one neighbourhood beside the arguments and the answer: of larger
    cells, `MOST_IN_CELL` vectors at even distances are looked at.
    """
    order = np.argsort(cells, kind="stable")
    starts = np.searchsorted(cells[order], np.arange(len(centres) + 1))
    found = Nearest(np.full((len(vectors), k), NO_ATOM, np.int32), np.zeros((len(vectors), k), np.float32))
    around = probed(centres, centres, most_probed)
    for cell in np.flatnonzero(np.diff(starts)).tolist():
        members = order[starts[cell] : starts[cell + 1]]
        members = members if asked is None else members[asked[members]]
        if not len(members):
            continue
        near = np.sort(
            np.concatenate([_spread(order[starts[each] : starts[each + 1]]) for each in around[cell]])
        )
        best = nearest(vectors[near], vectors[members], k, but=_where(near, members), least=least)
        found.rows[members] = _named(best.rows, near)
        found.cosines[members] = best.cosines
    return found


class _Best:
    """The best k so far of each query; columns are offered in ascending order, so earlier ones win ties."""

    def __init__(self, queries: int, k: int, least: float) -> None:
        self.k = k
        self.rows = np.full((queries, k), NO_ATOM, np.int32)
        self.cosines = np.full((queries, k), least, np.float32)

    def offer(self, cosines: Float32s, first: int) -> None:
        """Take what is better than the worst of the best."""
        queries, columns = self._candidates(cosines)
        if not len(queries):
            return
        touched, nth = np.unique(queries, return_inverse=True)
        query = np.concatenate([np.repeat(np.arange(len(touched)), self.k), nth])
        row = np.concatenate([self.rows[touched].reshape(-1), (columns + first).astype(np.int32)])
        cosine = np.concatenate([self.cosines[touched].reshape(-1), cosines[queries, columns]])
        # What isn't there yet comes after everything else.
        order = np.lexsort((row, row < 0, -cosine, query))
        place = np.searchsorted(query[order], np.arange(len(touched)))[:, None] + np.arange(self.k)
        self.rows[touched] = row[order][place]
        self.cosines[touched] = cosine[order][place]

    def _candidates(self, cosines: Float32s) -> tuple[NDArray[Any], NDArray[Any]]:
        better = cosines > self.cosines[:, -1:]
        if cosines.shape[1] > self.k:
            crowded = np.flatnonzero(np.count_nonzero(better, axis=1) > 4 * self.k)
            if len(crowded):
                # All that reach the k-th largest, ties included, so that nothing is decided here.
                some = cosines[crowded]
                bar = -np.partition(-some, self.k - 1, axis=1)[:, self.k - 1 : self.k]
                better[crowded] &= some >= bar
        queries, columns = np.nonzero(better)
        return queries, columns


def _leave_out(cosines: Float32s, columns: Int64s) -> None:
    inside = np.flatnonzero((columns >= 0) & (columns < cosines.shape[1]))
    cosines[inside, columns[inside]] = -np.inf


def _check(one: Vectors, other: Vectors) -> None:
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise ValueError(f"vectors of shapes {one.shape} and {other.shape} cannot be compared")


def _spread(members: Int64s) -> Int64s:
    """As many members of a cell as are looked at."""
    if len(members) <= MOST_IN_CELL:
        return members
    return members[np.arange(MOST_IN_CELL) * len(members) // MOST_IN_CELL]


def _where(near: Int64s, members: Int64s) -> Int64s:
    """The places of members among ascending rows, NO_ATOM for those that aren't among them."""
    found = np.minimum(np.searchsorted(near, members), len(near) - 1)
    return np.where(near[found] == members, found, NO_ATOM)


def _named(rows: Int32s, names: Int64s) -> Int32s:
    """Rows among some vectors as rows among all."""
    return np.where(rows == NO_ATOM, NO_ATOM, names[rows]).astype(np.int32)
