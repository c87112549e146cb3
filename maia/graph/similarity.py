"""Which vectors are alike: the cosine, and exactly the k nearest of many in bounded memory."""

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


def all_nearest(vectors: Vectors, k: int, *, least: float = 0.0, block_bytes: int = BLOCK_BYTES) -> Nearest:
    """The k nearest of every row among the others."""
    return nearest(vectors, vectors, k, but=np.arange(len(vectors)), least=least, block_bytes=block_bytes)


def unit(vectors: Vectors) -> Float32s:
    """The vectors in 32 bits and of length 1; those of length 0 stay so."""
    wide = np.asarray(vectors, np.float32)
    length = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
    return np.asarray(np.divide(wide, length, out=np.zeros_like(wide), where=length > 0))


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
