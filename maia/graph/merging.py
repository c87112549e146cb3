"""Parts of a graph, what changed between two states of it, and bringing one up to date.

A handle is a hash of what the atom is, so that two atoms of one handle have the same type, name and outgoing
set; only their numbers can differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from maia.graph.arrays import (
    NO_ATOM,
    GraphArrays,
    Int16s,
    Int32s,
    Int64s,
    Texts,
    UInt64s,
    keys_of,
    places_of,
    starts_of,
)

NUMBERS: Final = (
    "positive", "count", "pos", "neg", "sources", "weight", "seen_us", "sti", "lti", "vlti", "attended_us",
)  # fmt: skip
"""The columns of GraphArrays with one number for each atom that can change."""
FACTS: Final = 1
"""The bit of `sources` that says that an atom is there by facts."""


@dataclass(frozen=True, slots=True)
class _Part:
    """The atoms at some places of a graph, and where they come: `now[n]` is the new place of atom n."""

    graph: GraphArrays
    places: Int64s
    now: Int64s

    @property
    def target(self) -> Int64s:
        """The new places of its atoms."""
        return self.now[self.places]

    @property
    def outgoing(self) -> Int32s:
        """The outgoing sets of all of its graph by new places."""
        return self.now.astype(np.int32)[self.graph.outgoing]


def facts_of(graph: GraphArrays) -> GraphArrays:
    """The graph of the atoms that are there by facts, as are all ends of these."""
    return part_of(graph, graph.sources & FACTS > 0)


def part_of(graph: GraphArrays, kept: NDArray[np.bool_]) -> GraphArrays:
    """The graph of the atoms that a mask names; ValueError if an outgoing set names one that it doesn't."""
    lengths = np.diff(graph.outgoing_starts)
    outgoing = graph.outgoing[np.repeat(kept, lengths)]
    if not kept[outgoing].all():
        raise ValueError("an outgoing set names an atom that is not there")
    codes, type_of = np.unique(graph.type_of[kept], return_inverse=True)
    sizes = np.diff(graph.names.starts)
    return GraphArrays(
        types=tuple(graph.types[code] for code in codes.tolist()),
        type_of=type_of.astype(np.int16),
        names=Texts(starts_of(sizes[kept]), graph.names.data[np.repeat(kept, sizes)]),
        outgoing_starts=starts_of(lengths[kept]),
        outgoing=(np.cumsum(kept) - 1)[outgoing].astype(np.int32),
        **{name: getattr(graph, name)[kept] for name in ("handles", *NUMBERS)},
    )


def without_loose(graph: GraphArrays, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask of those of some atoms of which all ends, direct or not, are among them."""
    kept = wanted.copy()
    links = np.flatnonzero(np.diff(graph.outgoing_starts))
    while len(links := links[kept[links]]):
        ends = graph.outgoing[flat_places(graph.outgoing_starts, links)]
        begins = starts_of(np.diff(graph.outgoing_starts)[links])[:-1]
        loose = links[~np.logical_and.reduceat(kept[ends], begins)]
        if not len(loose):
            break
        kept[loose] = False
    return kept


def with_ends(graph: GraphArrays, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask of some atoms and of all that their outgoing sets name, directly or not."""
    found = wanted.copy()
    places = np.flatnonzero(wanted)
    while len(places):
        ends = np.unique(graph.outgoing[flat_places(graph.outgoing_starts, places)]).astype(np.int64)
        places = ends[~found[ends]]
        found[places] = True
    return found


def difference(base: GraphArrays, now: GraphArrays) -> tuple[GraphArrays, UInt64s]:
    """What turns the base into the present: the atoms that are new or changed, with all atoms that their
    outgoing sets name, and the handles of those that are gone.
    """
    places = places_of(base.handles, now.handles)
    changed = places == NO_ATOM
    known = np.flatnonzero(~changed)
    for name in NUMBERS:
        new, old = getattr(now, name)[known], getattr(base, name)[places[known]]
        changed[known] |= _bits(new) != _bits(old)
    gone = places_of(now.handles, base.handles) == NO_ATOM
    return part_of(now, with_ends(now, changed)), base.handles[gone]


def update(base: GraphArrays, changed: GraphArrays, removed: UInt64s) -> GraphArrays:
    """The graph in which some atoms are new, or have other numbers, and some are gone.

    It equals the graph that is built of all its atoms anew. Removed atoms that aren't there are passed over.
    ValueError if one is changed and removed at once, or an outgoing set still names one.
    """
    if (places_of(changed.handles, removed) != NO_ATOM).any():
        raise ValueError("an atom is changed and removed at once")
    known, gone = places_of(base.handles, changed.handles), places_of(base.handles, removed)
    stays = np.ones(len(base), bool)
    stays[known[known != NO_ATOM]] = False
    stays[gone[gone != NO_ATOM]] = False
    kept = np.flatnonzero(stays)
    of_kept, of_changed = places_merged(base.handles[kept], changed.handles)
    now = np.full(len(base), NO_ATOM, np.int64)
    now[kept] = of_kept
    now[known[known != NO_ATOM]] = of_changed[known != NO_ATOM]
    return _joined([_Part(base, kept, now), _Part(changed, np.arange(len(changed)), of_changed)])


def in_order(graph: GraphArrays) -> GraphArrays:
    """The same atoms in the order of their handles, for a graph whose atoms are in any other."""
    order = np.lexsort((graph.handles[:, 1], graph.handles[:, 0]))
    now = np.empty(len(order), np.int64)
    now[order] = np.arange(len(order))
    return _joined([_Part(graph, np.arange(len(order)), now)])


def places_merged(old: UInt64s, new: UInt64s) -> tuple[Int64s, Int64s]:
    """Where old and new handles, both ascending and without any in common, come when they are merged."""
    places = np.searchsorted(keys_of(old), keys_of(new)) + np.arange(len(new))
    is_old = np.ones(len(old) + len(new), bool)
    is_old[places] = False
    return np.flatnonzero(is_old), places


def flat_places(starts: NDArray[Any], rows: Int64s) -> Int64s:
    """Where the data of some rows are, one row after the other; the n-th begins at `starts[n]`."""
    begins = starts[rows]
    lengths = starts[rows + 1] - begins
    ends = np.cumsum(lengths)
    flat: Int64s = np.arange(int(ends[-1]) if len(ends) else 0)
    flat += np.repeat(begins - (ends - lengths), lengths)
    return flat


def _joined(parts: Sequence[_Part]) -> GraphArrays:
    """One graph of all parts, whose new places are together 0, 1, 2 and so on."""
    size = sum(len(each.places) for each in parts)
    types, type_of = _types(parts, size)
    starts, outgoing = _ragged(parts, [(each.graph.outgoing_starts, each.outgoing) for each in parts])
    if (outgoing == NO_ATOM).any():
        raise ValueError("an outgoing set names an atom that is not there")
    names = [(each.graph.names.starts, each.graph.names.data) for each in parts]
    return GraphArrays(
        types=types,
        type_of=type_of,
        names=Texts(*_ragged(parts, names)),
        outgoing_starts=starts,
        outgoing=outgoing,
        **{name: _column(parts, name, size) for name in ("handles", *NUMBERS)},
    )


def _column(parts: Sequence[_Part], name: str, size: int) -> Any:
    first = getattr(parts[0].graph, name)
    column = np.empty((size, *first.shape[1:]), first.dtype)
    for part in parts:
        column[part.target] = getattr(part.graph, name)[part.places]
    return column


def _types(parts: Sequence[_Part], size: int) -> tuple[tuple[str, ...], Int16s]:
    """The names of the types that are used, in alphabetical order, and the type of each atom."""
    used = {
        part.graph.types[code]
        for part in parts
        for code in np.unique(part.graph.type_of[part.places]).tolist()
    }
    names = tuple(sorted(used))
    code_of = {name: code for code, name in enumerate(names)}
    type_of = np.empty(size, np.int16)
    for part in parts:
        codes = np.array([code_of.get(name, NO_ATOM) for name in part.graph.types], np.int16)
        type_of[part.target] = codes[part.graph.type_of[part.places]]
    return names, type_of


def _ragged(
    parts: Sequence[_Part], rows: Sequence[tuple[Int64s, NDArray[Any]]]
) -> tuple[Int64s, NDArray[Any]]:
    """One column of rows of different lengths, which each part has as their starts and their data."""
    lengths = np.zeros(sum(len(each.places) for each in parts), np.int64)
    for part, (starts, _) in zip(parts, rows, strict=True):
        lengths[part.target] = starts[part.places + 1] - starts[part.places]
    begins = starts_of(lengths)
    joined = np.empty(int(begins[-1]), rows[0][1].dtype)
    for part, (starts, data) in zip(parts, rows, strict=True):
        joined[flat_places(begins, part.target)] = data[flat_places(starts, part.places)]
    return begins, joined


def _bits(column: NDArray[Any]) -> NDArray[Any]:
    """The same column as whole numbers, of which all can be compared, NaN too."""
    return column.view(f"u{column.itemsize}")
