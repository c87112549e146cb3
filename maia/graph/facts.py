"""The part of a graph that is there by facts, from which everything else is derived."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from maia.graph.arrays import GraphArrays, Int64s, Texts
from maia.graph.merging import NUMBERS

FACTS: Final = 1
"""The bit of `sources` that says that an atom is there by facts."""


def facts_of(arrays: GraphArrays) -> GraphArrays:
    """The same graph with only the atoms that are there by facts, all ends of which are."""
    return part_of(arrays, arrays.sources & FACTS > 0)


def part_of(arrays: GraphArrays, kept: NDArray[np.bool_]) -> GraphArrays:
    """The graph of the atoms that a mask names, with which all ends of its links must be."""
    place = np.cumsum(kept) - 1
    lengths = np.diff(arrays.outgoing_starts)
    outgoing = arrays.outgoing[np.repeat(kept, lengths)]
    sizes = np.diff(arrays.names.starts)
    names = Texts(_starts(sizes[kept]), arrays.names.data[np.repeat(kept, sizes)])
    return replace(
        arrays,
        **{name: getattr(arrays, name)[kept] for name in ("handles", "type_of", *NUMBERS)},
        names=names,
        outgoing_starts=_starts(lengths[kept]),
        outgoing=place[outgoing].astype(np.int32),
    )


def _starts(lengths: Int64s) -> Int64s:
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts
