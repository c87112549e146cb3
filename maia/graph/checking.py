"""Whether arrays that come from outside are a graph at all."""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from maia.graph.arrays import GraphArrays, Int64s, Texts
from maia.graph.merging import NUMBERS

_HANDLE_BYTES: Final = 16
_ALL_SOURCES: Final = 15
_EARLIEST_US: Final = -62_135_596_800_000_000
"""The begin of the year 1, which is as early as an instant of Python can be."""
_LATEST_US: Final = 253_402_300_799_999_999
"""The end of the year 9999."""


def check(graph: GraphArrays) -> None:
    """Raise ValueError unless all columns fit each other, and each link's ends are there without a circle."""
    size = len(graph)
    for name in ("type_of", *NUMBERS):
        if getattr(graph, name).shape != (size,):
            raise ValueError(f"the column {name} has another length than the handles")
    if not _ascends(graph.handles[:, 0], graph.handles[:, 1]):
        raise ValueError("the handles are not in ascending order, each once")
    if {*map(type, graph.types)} - {str}:
        raise ValueError("the name of a type is no text")
    if any(first >= second for first, second in pairwise(graph.types)):
        raise ValueError("the types are not in alphabetical order, each once")
    if not _within(graph.type_of, len(graph.types)):
        raise ValueError("an atom is of a type that is not there")
    _check_starts("names", graph.names.starts, size, len(graph.names.data))
    _check_starts("outgoing sets", graph.outgoing_starts, size, len(graph.outgoing))
    if not _within(graph.outgoing, size):
        raise ValueError("an outgoing set names an atom that is not there")
    _check_texts(graph.names)
    arity = np.diff(graph.outgoing_starts)
    if (np.diff(graph.names.starts)[arity > 0] > 0).any():
        raise ValueError("a link has a name")
    _check_circles(graph, arity)


def check_handles(graph: GraphArrays) -> None:
    """Raise ValueError unless each handle is the hash of what its atom is, as the database reckons it.

    Checksums only tell what was written; this tells whether anybody has changed the name of an atom, say.
    It takes a microsecond or two for each atom.
    """
    packed = np.ascontiguousarray(graph.handles.astype(">u8")).view(np.uint8).reshape(-1, _HANDLE_BYTES)
    ends = packed[graph.outgoing].tobytes()
    names, starts = graph.names.data.tobytes(), graph.names.starts.tolist()
    begins = (graph.outgoing_starts * _HANDLE_BYTES).tolist()
    node, link = ([letter + each.encode() + b"\0" for each in graph.types] for letter in (b"n", b"l"))
    for place, (code, handle) in enumerate(
        zip(graph.type_of.tolist(), packed.view("V16").reshape(-1).tolist(), strict=True)
    ):
        if begins[place] == begins[place + 1]:
            content = node[code] + names[starts[place] : starts[place + 1]]
        else:
            content = link[code] + ends[begins[place] : begins[place + 1]]
        if sha256(content).digest()[:_HANDLE_BYTES] != handle:
            raise ValueError(f"{graph.handle(place)} is not the handle of what that atom is")


def check_numbers(graph: GraphArrays) -> None:
    """Raise ValueError unless the atoms have evidence, weights, sources and instants that there can be."""
    # NaN is neither.
    if not ((graph.positive >= 0) & (graph.count >= graph.positive) & np.isfinite(graph.count)).all():
        raise ValueError("an atom has less than no evidence, or more than there can be")
    if (graph.pos < 0).any() or (graph.neg < 0).any():
        raise ValueError("an atom has less than no evidence")
    if np.isinf(graph.weight).any():
        raise ValueError("a weight is infinite")
    if (graph.sources < 1).any() or (graph.sources > _ALL_SOURCES).any():
        raise ValueError("nobody, or an unknown source, says that an atom is there")
    for name in ("seen_us", "attended_us"):
        instants = getattr(graph, name)
        if (instants < _EARLIEST_US).any() or (instants > _LATEST_US).any():
            raise ValueError("an atom was seen, or got attention, at no time of the calendar")


def _ascends(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> bool:
    rises = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] > low[:-1]))
    return bool(rises.all())


def _within(numbers: NDArray[np.integer], size: int) -> bool:
    return not len(numbers) or (int(numbers.min()) >= 0 and int(numbers.max()) < size)


def _check_starts(what: str, starts: Int64s, size: int, length: int) -> None:
    if len(starts) != size + 1 or starts[0] != 0 or starts[-1] != length or (np.diff(starts) < 0).any():
        raise ValueError(f"the lengths of the {what} don't fit")


def _check_texts(texts: Texts) -> None:
    """All together are UTF-8, and none begins within a character."""
    texts.data.tobytes().decode()
    begins = texts.starts[:-1]
    first = texts.data[begins[begins < len(texts.data)]]
    if (first & 0xC0 == 0x80).any():
        raise ValueError("a name begins within a character")


def _check_circles(graph: GraphArrays, arity: Int64s) -> None:
    """Take away nodes, then links of nodes, then links of those and so on, until nothing is left."""
    links = np.flatnonzero(arity)
    is_left = arity > 0
    while len(links):
        waits = np.logical_or.reduceat(is_left[graph.outgoing], graph.outgoing_starts[links])
        still = links[waits & is_left[links]]
        if len(still) == np.count_nonzero(is_left):
            raise ValueError("a link is in its own outgoing set, directly or not")
        is_left[:] = False
        is_left[still] = True
        if not len(still):
            return
