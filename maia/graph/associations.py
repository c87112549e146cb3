"""Which things are met together more often than by chance, from links of facts as sparse matrices.

Matrices have a row for each video and a column for each thing that it is linked with. They are multiplied in
blocks of columns, so that memory is bounded. Nothing is random: equal graphs have equal associations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from maia.graph.arrays import Float64s, GraphArrays, Int64s

_BLOCK: Final = 4_000_000
"""Products of one block at most, unless one column alone has more; each takes some 16 bytes."""
_EXACT: Final = 1_000
_STEPS: Final = 16


@dataclass(frozen=True, slots=True)
class Incidence:
    """Which atoms of one type are linked with which of another: shape (firsts, seconds), ones and zeros.

    `firsts` and `seconds` are the places of the rows' and columns' atoms, in ascending order.
    """

    matrix: sparse.csr_array
    firsts: Int64s
    seconds: Int64s

    def columns(self, seconds: Int64s) -> Incidence:
        """Only the columns of these atoms, which are among its own."""
        wanted = np.searchsorted(self.seconds, seconds)
        return Incidence(sparse.csr_array(self.matrix[:, wanted]), self.firsts, seconds)


@dataclass(frozen=True, slots=True)
class Associations:
    """Pairs of atoms by their places, `pos` observations for each and `neg` against it, and its weight."""

    firsts: Int64s
    seconds: Int64s
    pos: Int64s
    neg: Int64s
    weight: Float64s

    def __len__(self) -> int:
        return len(self.firsts)

    def only(self, which: NDArray[Any]) -> Associations:
        """Some of the pairs, by a mask or by their indices."""
        columns = self.firsts, self.seconds, self.pos, self.neg, self.weight
        return Associations(*(column[which] for column in columns))


def incidence(arrays: GraphArrays, link: str, first: str, second: str) -> Incidence:
    """The links of a type from atoms of one type to atoms of another."""
    links = arrays.of_type(link)
    links = links[np.diff(arrays.outgoing_starts)[links] == 2]
    ends = arrays.outgoing_starts[links]
    heads, tails = arrays.outgoing[ends].astype(np.int64), arrays.outgoing[ends + 1].astype(np.int64)
    of_first, of_second = arrays.of_type(first), arrays.of_type(second)
    fits = np.isin(heads, of_first) & np.isin(tails, of_second)
    heads, tails = heads[fits], tails[fits]
    seconds, columns = np.unique(tails, return_inverse=True)
    matrix = sparse.csr_array(
        (np.ones(len(heads), np.int64), (np.searchsorted(of_first, heads), columns)),
        shape=(len(of_first), len(seconds)),
    )
    return Incidence(matrix, of_first, seconds)


def associations(left: Incidence, right: Incidence, *, least: int, most: int) -> Associations:
    """For each column of `left` the columns of `right` that it is met with more often than by chance.

    Both have the same rows. A pair is met on at least `least` of them, and is among the `most` of its left
    column with the largest count times pointwise mutual information (local mutual information: Evert, 2005),
    which neither favours what is rare nor what is everywhere. The weight is the mutual information in nats,
    where there are `about` so many rows; `neg` counts the rows with the left column but not the right one. No
    atom is paired with itself.
    """
    rows = about(left.matrix.shape[0])
    left, right = _frequent(left, least), _frequent(right, least)
    in_left, in_right = _sums(left.matrix), _sums(right.matrix)
    found = []
    for columns, others, counts in _together(left.matrix, right.matrix):
        met = counts >= least
        a, b, both = columns[met], others[met], counts[met]
        pmi = np.log(both * rows / (in_left[a] * in_right[b].astype(np.float64)))
        pairs = Associations(left.seconds[a], right.seconds[b], both, in_left[a] - both, pmi)
        found.append(_best(pairs.only((pmi > 0) & (pairs.firsts != pairs.seconds)), most))
    return _joined(found)


def about(rows: int) -> float:
    """So many rows, but of more than a thousand the nearest of 16 steps for each doubling.

    So weights don't all change whenever a row is added, and are off by 0.022 nats at most.
    """
    return float(rows) if rows <= _EXACT else float(2 ** (round(np.log2(rows) * _STEPS) / _STEPS))


def co_occurrences(met: Incidence, *, least: int, most: int) -> Associations:
    """Pairs of columns that are met together, each once, the one of the lower place first.

    A pair is among the `most` of at least one of both. `neg` counts the rows with exactly one of them.
    """
    found = associations(met, met, least=least, most=most)
    in_second = _sums(met.matrix)[np.searchsorted(met.seconds, found.seconds)]
    lower, upper = np.minimum(found.firsts, found.seconds), np.maximum(found.firsts, found.seconds)
    _, once = np.unique(np.stack([lower, upper]), axis=1, return_index=True)
    neg = found.neg + in_second - found.pos
    return Associations(lower, upper, found.pos, neg, found.weight).only(once)


def shares(left: Incidence, right: Incidence, *, least: int, most: int, share: float) -> Associations:
    """For each column of `left` the `most` columns of `right` that at least a share of its rows have.

    Rows without any column of `right` don't count. `neg` counts the others of its rows, and the weight is the
    share.
    """
    rows = np.flatnonzero(np.diff(right.matrix.indptr))
    known = sparse.csr_array(left.matrix[rows])
    sums = _sums(known)
    found = []
    for a, b, both in _together(known, sparse.csr_array(right.matrix[rows])):
        part = both / sums[a]
        pairs = Associations(left.seconds[a], right.seconds[b], both, sums[a] - both, part)
        found.append(_best(pairs.only((both >= least) & (part >= share)), most))
    return _joined(found)


def _frequent(met: Incidence, least: int) -> Incidence:
    """Only the columns that are in so many rows."""
    kept = np.flatnonzero(_sums(met.matrix) >= least)
    return Incidence(sparse.csr_array(met.matrix[:, kept]), met.firsts, met.seconds[kept])


def _sums(matrix: sparse.csr_array) -> Int64s:
    """In how many rows each column is."""
    return np.bincount(matrix.indices, minlength=matrix.shape[1]).astype(np.int64)


def _together(left: sparse.csr_array, right: sparse.csr_array) -> Iterator[tuple[Int64s, Int64s, Int64s]]:
    """Columns of both, and in how many rows they are together, for one block of columns after another."""
    columns = sparse.csr_array(left.T)
    products = np.cumsum(columns @ np.diff(right.indptr).astype(np.int64))
    start = 0
    while start < len(products):
        done = products[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(products, done + _BLOCK, side="right")))
        block = sparse.coo_array(columns[start:end] @ right)
        yield block.row.astype(np.int64) + start, block.col.astype(np.int64), block.data.astype(np.int64)
        start = end


def _best(pairs: Associations, most: int) -> Associations:
    """The `most` pairs of each first atom with the largest count times weight; of equals, by the second."""
    order = np.lexsort((pairs.seconds, -pairs.pos * pairs.weight, pairs.firsts))
    firsts = pairs.firsts[order]
    begins = np.flatnonzero(np.diff(firsts, prepend=-1))
    rank = np.arange(len(firsts)) - np.repeat(begins, np.diff(begins, append=len(firsts)))
    return pairs.only(order[rank < most])


def _joined(parts: Sequence[Associations]) -> Associations:
    none = np.zeros(0, np.int64)
    columns = [
        np.concatenate([none.astype(kind), *(getattr(part, name) for part in parts)])
        for name, kind in (("firsts", np.int64), ("seconds", np.int64), ("pos", np.int64), ("neg", np.int64),
                           ("weight", np.float64))
    ]  # fmt: skip
    return Associations(*columns)
