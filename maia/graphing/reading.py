"""The graph of the database as arrays, whole or brought up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from atlas.adapters.graph import OWN
from atlas.adapters.graph_columns import ATOM_FORM, ATTENTION_FORM, GraphColumns, GraphColumnsDAO
from atlas.composition import Atlas
from maia.graph.arrays import GraphArrays, UInt64s, pairs_of, places_of
from maia.graph.building import AttentionColumns, LooseAtoms, arrays_of, attended


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
    named = [handle for handle, _ in columns.names]
    wide = [handle for handle, _ in columns.wide]
    return LooseAtoms(
        handles=handles,
        types=columns.types,
        type_of=(rows["type"] - 1).astype(np.int16),
        linked=linked,
        ends=np.stack([rows[name][linked] for name in ("first", "second")], axis=1).astype(np.uint64),
        wide=[
            (place, pairs_of(ends))
            for place, (_, ends) in zip(_places(handles, order, wide), columns.wide, strict=True)
        ],
        named=[
            (place, name)
            for place, (_, name) in zip(_places(handles, order, named), columns.names, strict=True)
        ],
        positive=rows["positive"].astype(np.float64),
        count=rows["count"].astype(np.float64),
        pos=rows["pos"].astype(np.int64),
        neg=rows["neg"].astype(np.int64),
        sources=rows["sources"].astype(np.uint8),
        weight=rows["weight"].astype(np.float32),
        seen_us=rows["seen_us"].astype(np.int64),
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
    )


def columns_of(arrays: GraphArrays, at: datetime) -> GraphColumns:
    """The columns that these arrays can be stored by; their attention is as of an instant."""
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
        attention=_attention_rows(arrays, at),
        gone=(),
        cursor="",
    )


def _ends(arrays: GraphArrays, place: int) -> list[UUID]:
    begin, end = arrays.outgoing_starts[place : place + 2].tolist()
    return [arrays.handle(each) for each in arrays.outgoing[begin:end].tolist()]


def _attention_rows(arrays: GraphArrays, at: datetime) -> NDArray[Any]:
    attended = np.flatnonzero((arrays.sti != 0) | (arrays.lti != 0) | (arrays.vlti != 0))
    rows = np.zeros(len(attended), ATTENTION_FORM)
    for name in ("sti", "lti", "vlti"):
        rows[name] = getattr(arrays, name)[attended]
    rows["handle"] = arrays.handles[attended]
    rows["at_s"] = at.timestamp()
    return rows
