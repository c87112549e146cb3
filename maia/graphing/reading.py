"""The graph of the database as arrays, whole or brought up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from atlas.adapters.graph import OWN
from atlas.adapters.graph_columns import (
    ATOM_FORM,
    ATTENTION_FORM,
    VALUE_FORM,
    GraphColumns,
    GraphColumnsDAO,
    ValueColumns,
)
from atlas.composition import Atlas
from maia.graph.arrays import GraphArrays, UInt64s, pairs_of, places_of
from maia.graph.building import AttentionColumns, LooseAtoms, arrays_of, attended
from maia.graph.values import (
    NO_VALUES,
    Kind,
    Values,
    joined_kinds,
    packed_texts,
    starts_of,
    unpacked_texts,
    values_of,
)


async def read_arrays(atlas: Atlas, space: int = OWN) -> GraphArrays:
    """All atoms of a space as they are at one moment; attention is as it was when it was last set."""
    dao = GraphColumnsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    columns = await dao.read(space)
    return await asyncio.to_thread(arrays_from, columns)


def arrays_from(columns: GraphColumns) -> GraphArrays:
    """The arrays of these columns; those of changes have what changed and what that needs."""
    return attended(arrays_of(_loose(columns)), attention_of(columns))


def _loose(columns: GraphColumns) -> LooseAtoms:
    rows = columns.rows
    handles = rows["handle"].astype(np.uint64)
    linked = np.flatnonzero(rows["arity"] == 2)
    order = np.lexsort((handles[:, 1], handles[:, 0]))
    # One end after the other, as copies of both at once would take as much memory again.
    ends = np.empty((len(linked), 2, 2), np.uint64)
    for nth, name in enumerate(("first", "second")):
        ends[:, nth] = rows[name][linked]
    named = [handle for handle, _ in columns.names]
    wide = [handle for handle, _ in columns.wide]
    return LooseAtoms(
        handles=handles,
        types=columns.types,
        type_of=(rows["type"] - 1).astype(np.int16),
        linked=linked,
        ends=ends,
        wide=[
            (place, pairs_of(ends))
            for place, (_, ends) in zip(_places(handles, order, wide), columns.wide, strict=True)
        ],
        named=[
            (place, name)
            for place, (_, name) in zip(_places(handles, order, named), columns.names, strict=True)
        ],
        **{name: rows[name] for name in ("positive", "count", "pos", "neg", "sources", "weight", "seen_us")},
    )


def _places(handles: UInt64s, order: Any, wanted: Sequence[UUID]) -> list[int]:
    """Where atoms are in the unordered handles."""
    places: list[int] = order[places_of(handles[order], pairs_of(wanted))].tolist()
    return places


def attention_of(columns: GraphColumns) -> AttentionColumns:
    """The attention that these columns have."""
    rows = columns.attention
    return AttentionColumns(
        rows["handle"].astype(np.uint64),
        rows["sti"].astype(np.float32),
        rows["lti"].astype(np.float32),
        rows["vlti"].astype(np.uint8),
        rows["at_us"].astype(np.int64),
    )


def values_from(columns: GraphColumns, arrays: GraphArrays) -> Values:
    """The values that these columns have of the atoms of a graph; none if they weren't read."""
    found = columns.values
    if found is None:
        return NO_VALUES
    rows = found.rows
    handles = rows["handle"].astype(np.uint64)
    begins = np.flatnonzero(np.append(True, (handles[1:] != handles[:-1]).any(axis=1))[: len(handles)])
    texts = [packed_texts(each) for each in found.texts]
    kind_of, sizes = rows["kind"].astype(np.uint8), rows["elements"].astype(np.int64) * 8
    sizes[kind_of == Kind.HANDLES] *= 2
    sizes[kind_of == Kind.TEXTS] = [len(each) for each in texts]
    data_starts = starts_of(sizes)
    of_kinds = {
        Kind.FLOATS: found.floats.astype("<f8").view(np.uint8),
        Kind.TEXTS: np.frombuffer(b"".join(texts), np.uint8),
        Kind.HANDLES: found.handles.astype("<u8").reshape(-1).view(np.uint8),
    }
    values = Values(
        handles=handles[begins],
        starts=np.append(begins, len(handles)),
        keys=tuple(found.keys),
        key_of=(rows["key"] - 1).astype(np.int32),
        kind_of=kind_of,
        data_starts=data_starts,
        data=joined_kinds(kind_of, data_starts, of_kinds),
    )
    return values_of(values, arrays.handles)


def columns_of(arrays: GraphArrays, values: Values = NO_VALUES) -> GraphColumns:
    """The columns that these arrays and values can be stored by."""
    rows = np.zeros(len(arrays), ATOM_FORM)
    arity = np.diff(arrays.outgoing_starts)
    linked = np.flatnonzero(arity == 2)
    begins = arrays.outgoing_starts[linked]
    rows["handle"], rows["type"], rows["arity"] = arrays.handles, arrays.type_of + 1, arity
    for name, nth in (("first", 0), ("second", 1)):
        rows[name][linked] = arrays.handles[arrays.outgoing[begins + nth]]
    for name in ("positive", "count", "pos", "neg", "sources", "weight", "seen_us"):
        rows[name] = getattr(arrays, name)
    wide = np.flatnonzero((arity != 0) & (arity != 2)).tolist()
    return GraphColumns(
        types=arrays.types,
        rows=rows,
        names=[(arrays.handle(place), arrays.names[place]) for place in np.flatnonzero(arity == 0).tolist()],
        wide=[(arrays.handle(place), _ends(arrays, place)) for place in wide],
        attention=_attention_rows(arrays),
        gone=(),
        cursor="",
        values=_value_columns(values),
    )


def _ends(arrays: GraphArrays, place: int) -> list[UUID]:
    begin, end = arrays.outgoing_starts[place : place + 2].tolist()
    return [arrays.handle(each) for each in arrays.outgoing[begin:end].tolist()]


def _attention_rows(arrays: GraphArrays) -> NDArray[Any]:
    attended = np.flatnonzero((arrays.sti != 0) | (arrays.lti != 0) | (arrays.vlti != 0))
    rows = np.zeros(len(attended), ATTENTION_FORM)
    for name in ("sti", "lti", "vlti"):
        rows[name] = getattr(arrays, name)[attended]
    rows["handle"], rows["at_us"] = arrays.handles[attended], arrays.attended_us[attended]
    return rows


def _value_columns(values: Values) -> ValueColumns:
    rows = np.zeros(len(values), VALUE_FORM)
    rows["handle"] = np.repeat(values.handles, np.diff(values.starts), axis=0)
    rows["key"], rows["kind"] = values.key_of + 1, values.kind_of
    rows["elements"] = np.diff(values.data_starts) // np.where(values.kind_of == Kind.HANDLES, 16, 8)
    texts = [unpacked_texts(each) for each in values.each_of(Kind.TEXTS)]
    rows["elements"][values.kind_of == Kind.TEXTS] = [len(each) for each in texts]
    return ValueColumns(
        values.keys,
        rows,
        values.of_kind(Kind.FLOATS).view("<f8"),
        texts,
        values.of_kind(Kind.HANDLES).view("<u8").reshape(-1, 2),
    )
