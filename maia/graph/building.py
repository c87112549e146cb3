"""Building the arrays of a graph from atoms in no order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maia.graph.arrays import (
    NO_ATOM,
    Float32s,
    Float64s,
    GraphArrays,
    Int16s,
    Int64s,
    Texts,
    UInt8s,
    UInt64s,
    places_of,
)


@dataclass(frozen=True, slots=True)
class LooseAtoms:
    """Atoms in no order, n of them, that name each other by handles, all of which are among them.

    `type_of` numbers `types`. `ends` are the outgoing sets of the links of two, whose places are `linked`:
    shape (links, 2, 2), the last axis being the high and the low 64 bits. `wide` has the outgoing sets of
    other links by their places, and `named` the names of nodes. Numbers may be of any width and byte order.
    """

    handles: UInt64s
    types: tuple[str, ...]
    type_of: Int16s
    linked: Int64s
    ends: UInt64s
    wide: Sequence[tuple[int, UInt64s]]
    named: Sequence[tuple[int, str]]
    positive: Float64s
    count: Float64s
    pos: Int64s
    neg: Int64s
    sources: UInt8s
    weight: Float32s
    seen_us: Int64s


@dataclass(frozen=True, slots=True)
class AttentionColumns:
    """What attention atoms have, by their handles, and when it was set."""

    handles: UInt64s
    sti: Float32s
    lti: Float32s
    vlti: UInt8s
    attended_us: Int64s


def arrays_of(atoms: LooseAtoms) -> GraphArrays:
    """The arrays of these atoms, without attention; ValueError if an end of a link is missing."""
    order = np.lexsort((atoms.handles[:, 1], atoms.handles[:, 0]))
    handles = np.ascontiguousarray(atoms.handles[order])
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    used = np.unique(atoms.type_of)
    names = tuple(atoms.types[code] for code in used.tolist())
    alphabetical = np.argsort(np.array(names, dtype=object), kind="stable") if names else np.zeros(0, int)
    code_of = np.zeros(max(len(atoms.types), 1), np.int16)
    code_of[used[alphabetical]] = np.arange(len(names))
    starts, outgoing = _outgoing(atoms, handles, place)
    return GraphArrays(
        handles=handles,
        types=tuple(sorted(names)),
        type_of=code_of[atoms.type_of[order]],
        names=_names(atoms, place),
        outgoing_starts=starts,
        outgoing=outgoing,
        positive=atoms.positive[order].astype(np.float64, copy=False),
        count=atoms.count[order].astype(np.float64, copy=False),
        pos=atoms.pos[order].astype(np.int64, copy=False),
        neg=atoms.neg[order].astype(np.int64, copy=False),
        sources=atoms.sources[order].astype(np.uint8, copy=False),
        weight=atoms.weight[order].astype(np.float32, copy=False),
        seen_us=atoms.seen_us[order].astype(np.int64, copy=False),
        sti=np.zeros(len(order), np.float32),
        lti=np.zeros(len(order), np.float32),
        vlti=np.zeros(len(order), np.uint8),
        attended_us=np.zeros(len(order), np.int64),
    )


def attended(arrays: GraphArrays, attention: AttentionColumns) -> GraphArrays:
    """The same graph with this attention and no other; that of atoms that aren't there is left out."""
    places = places_of(arrays.handles, attention.handles)
    known = places != NO_ATOM
    columns: dict[str, Any] = {}
    for name in ("sti", "lti", "vlti", "attended_us"):
        column = np.zeros(len(arrays), getattr(arrays, name).dtype)
        column[places[known]] = getattr(attention, name)[known]
        columns[name] = column
    return replace(arrays, **columns)


def _names(atoms: LooseAtoms, place: Int64s) -> Texts:
    texts = [""] * len(place)
    for nth, name in atoms.named:
        texts[place[nth]] = name
    return Texts.of(texts)


def _outgoing(atoms: LooseAtoms, handles: UInt64s, place: Int64s) -> tuple[Int64s, NDArray[np.int32]]:
    arity = np.zeros(len(place), np.int64)
    arity[place[atoms.linked]] = 2
    for nth, ends in atoms.wide:
        arity[place[nth]] = len(ends)
    starts = np.zeros(len(place) + 1, np.int64)
    np.cumsum(arity, out=starts[1:])
    outgoing = np.full(int(starts[-1]), NO_ATOM, np.int32)
    first = starts[place[atoms.linked]]
    for nth in range(2):
        outgoing[first + nth] = places_of(handles, atoms.ends[:, nth])
    for nth, ends in atoms.wide:
        begin = starts[place[nth]]
        outgoing[begin : begin + len(ends)] = places_of(handles, ends)
    if (outgoing == NO_ATOM).any():
        raise ValueError("an outgoing set names an atom that is not there")
    return starts, outgoing
