"""Writing a whole graph from columns of numbers, by binary COPY: the rows are put together by NumPy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from atlas.adapters.dao import DAO
from atlas.adapters.graph import OURS, OWN
from atlas.adapters.graph_columns import (
    FLOATS,
    HANDLES,
    TEXTS,
    UUID_FORM,
    GraphColumns,
    ValueColumns,
    row_form,
)
from atlas.db import Executor

_COPY_START: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END: Final = b"\xff\xff"
_2000_US: Final = 946_684_800_000_000
"""Microseconds from 1970 to 2000, where PostgreSQL begins to count."""
_UUID_TYPE, _FLOAT_TYPE, _TEXT_TYPE = 2950, 701, 25
_PART: Final = 1 << 20
_AT_ONCE: Final = 100_000
"""So many rows are stored by one statement."""


def _array_head(elements: int, type_: int = _UUID_TYPE) -> bytes:
    """What comes before the elements of an array: dimensions, no NULLs, type, length, first index."""
    shape = (1, 0, type_, elements, 1) if elements else (0, 0, type_)
    return b"".join(each.to_bytes(4, "big") for each in shape)


_PAIR: Final = np.dtype(
    [("head", "S20"), ("first_length", ">i4"), ("first", UUID_FORM), ("second_length", ">i4"),
     ("second", UUID_FORM)]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows of a table. If there are tails, each is the last column of its row."""

    table: str
    columns: Sequence[str]
    rows: NDArray[Any]
    tails: Sequence[bytes] | None = None

    def parts(self) -> Iterator[_Batch]:
        """The batch in parts that are each stored well within the time that a statement may take."""
        for first in range(0, len(self.rows), _AT_ONCE):
            end = first + _AT_ONCE
            tails = None if self.tails is None else self.tails[first:end]
            yield _Batch(self.table, self.columns, self.rows[first:end], tails)


class GraphLoadingDAO(DAO):
    """Fills spaces of the graph."""

    async def load(self, space: int, columns: GraphColumns) -> None:
        """Put these atoms, with attention and values, in place of all that a space has, in one transaction.

        What other sites observed is left out: they say it again. If it is this site's own, the next feeder
        compares it with all facts, and everything that was derived of the former atoms, but is no atom, is
        gone until it is derived of these: vectors, and communities.
        """
        now_us = int(self._clock.now().timestamp() * 1_000_000)
        async with self._executor.transaction() as executor:
            await executor.execute("graph.lock", True)
            await executor.execute("graph.empty_attention", space)
            await executor.execute("graph.empty_values", space)
            await executor.execute("graph.empty_incoming", space)
            await executor.execute("graph.empty_atoms", space)
            if space == OWN:
                await executor.execute("claims.forget")
            await _copy(executor, space, columns, now_us)
            if space == OWN:
                await executor.execute("graph_embeddings.drop_all")
                await executor.execute("graph_communities.empty_communities")
                await executor.execute("graph_feeding.begin_anew")

    async def add(self, space: int, columns: GraphColumns) -> None:
        """Add atoms that a space neither has nor had.

        The caller is in a transaction that holds the graph's lock alone. Rows in the order of handles are
        stored fastest.
        """
        await _copy(self._executor, space, columns, int(self._clock.now().timestamp() * 1_000_000))


async def _copy(executor: Executor, space: int, columns: GraphColumns, now_us: int) -> None:
    batches = _batches(space, columns, now_us)
    while (batch := await asyncio.to_thread(next, batches, None)) is not None:
        for part in batch.parts():
            await executor.copy_in(part.table, part.columns, _stream(part))


def _batches(space: int, columns: GraphColumns, now_us: int) -> Iterator[_Batch]:
    rows = columns.rows[columns.rows["sources"] & OURS > 0]
    if columns.wide:
        yield from _wide_batches(space, columns, rows, now_us)
    yield from _node_batches(space, columns, rows, now_us)
    yield from _pair_batches(space, columns, rows, now_us)
    if len(columns.attention):
        yield _attention(space, columns.attention[_among(rows, columns.attention)])
    if columns.values is not None:
        yield from _value_batches(space, columns.values, _among(rows, columns.values.rows))


def _among(rows: NDArray[Any], others: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of the others are of atoms that are stored."""
    # As bytes, since NumPy compares no pairs.
    stored, wanted = (np.ascontiguousarray(each["handle"]).view("S16").reshape(-1) for each in (rows, others))
    return np.isin(wanted, stored)


def _node_batches(space: int, columns: GraphColumns, rows: NDArray[Any], now_us: int) -> Iterator[_Batch]:
    names = {handle.bytes: name.encode() for handle, name in columns.names}
    for type_, some in _by_type(columns, rows[rows["arity"] == 0]):
        own = _own_columns(space, type_, some, now_us)
        raw = some["handle"].tobytes()
        tails = [names[raw[begin : begin + 16]] for begin in range(0, len(raw), 16)]
        yield _Batch("atoms", [*own, "name"], _filled(len(some), 1, own), tails)


def _pair_batches(space: int, columns: GraphColumns, rows: NDArray[Any], now_us: int) -> Iterator[_Batch]:
    for type_, some in _by_type(columns, rows[rows["arity"] == 2]):
        pairs = np.zeros(len(some), _PAIR)
        pairs["head"] = _array_head(2)
        for name in ("first", "second"):
            pairs[f"{name}_length"], pairs[name] = UUID_FORM.itemsize, some[name]
        own = _own_columns(space, type_, some, now_us) | {"outgoing": (_PAIR, pairs)}
        yield _Batch("atoms", [*own], _filled(len(some), 0, own))
        for position, (target, other) in enumerate((("first", "second"), ("second", "first")), 1):
            # In the order of the index, whose pages are each written once then.
            by_target = some[np.argsort(some[target][:, 0].astype(np.uint64), kind="stable")]
            used = _used_columns(space, type_, position, by_target[target], by_target["handle"])
            used["other"] = (UUID_FORM, by_target[other])
            yield _Batch("incoming", [*used], _filled(len(some), 0, used))


def _wide_batches(space: int, columns: GraphColumns, rows: NDArray[Any], now_us: int) -> Iterator[_Batch]:
    outgoing = dict(columns.wide)
    wide = rows[(rows["arity"] != 0) & (rows["arity"] != 2)]
    for type_, some in _by_type(columns, wide):
        ends = [outgoing[handle] for handle in _handles(some)]
        own = _own_columns(space, type_, some, now_us)
        yield _Batch("atoms", [*own, "outgoing"], _filled(len(some), 1, own), [*map(_array, ends)])
        for position in range(1, max(map(len, ends)) + 1):
            longer = np.array([len(each) >= position for each in ends])
            targets = [each[position - 1] for each in ends if len(each) >= position]
            used = _used_columns(space, type_, position, _pairs(targets), some["handle"][longer])
            yield _Batch("incoming", [*used], _filled(len(targets), 0, used))


def _by_type(columns: GraphColumns, rows: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """The rows of each type, those with a weight apart from those without: a column has one length."""
    for code, type_ in enumerate(columns.types, 1):
        its = rows[rows["type"] == code]
        weighted = np.isfinite(its["weight"])
        for some in (its[~weighted], its[weighted]):
            if len(some):
                yield type_, some


def _own_columns(space: int, type_: str, rows: NDArray[Any], now_us: int) -> dict[str, tuple[Any, Any]]:
    own = {
        "space": (">i2", space),
        "sources": (">i2", rows["sources"] & OURS),
        "handle": (UUID_FORM, rows["handle"]),
        "type": _text(type_),
        "pos": (">i8", rows["pos"]),
        "neg": (">i8", rows["neg"]),
        "positive": (">f8", rows["pos"]),
        "count": (">f8", rows["pos"].astype(np.float64) + rows["neg"]),
        "seen_at": (">i8", rows["seen_us"] - _2000_US),
        "version": (">i8", now_us),
    }
    return own | {"weight": (">f4", rows["weight"])} if np.isfinite(rows["weight"][0]) else own


def _used_columns(
    space: int, type_: str, position: int, targets: NDArray[Any], links: NDArray[Any]
) -> dict[str, tuple[Any, Any]]:
    return {
        "space": (">i2", space),
        "target": (UUID_FORM, targets),
        "type": _text(type_),
        "position": (">i2", position),
        "link": (UUID_FORM, links),
    }


def _attention(space: int, attention: NDArray[Any]) -> _Batch:
    columns: dict[str, tuple[Any, Any]] = {
        "space": (">i2", space),
        "handle": (UUID_FORM, attention["handle"]),
        "sti": (">f4", attention["sti"]),
        "lti": (">f4", attention["lti"]),
        "vlti": (">i2", attention["vlti"]),
        "attended_at": (">i8", attention["at_us"] - _2000_US),
    }
    return _Batch("atom_attention", [*columns], _filled(len(attention), 0, columns))


def _value_batches(space: int, values: ValueColumns, wanted: NDArray[np.bool_]) -> Iterator[_Batch]:
    """The wanted values, those of a key and a kind together: a column has one length."""
    rows = values.rows
    tails = {
        FLOATS: ("floats", _vectors(rows, FLOATS, values.floats, ">f8", _FLOAT_TYPE)),
        TEXTS: ("texts", [*map(_texts, values.texts)]),
        HANDLES: ("handles", _vectors(rows, HANDLES, values.handles, UUID_FORM, _UUID_TYPE)),
    }
    for kind, (column, arrays) in tails.items():
        places = np.flatnonzero(rows["kind"] == kind)
        for key in np.unique(rows["key"][places[wanted[places]]]).tolist():
            some = np.flatnonzero(wanted[places] & (rows["key"][places] == key))
            own: dict[str, tuple[Any, Any]] = {
                "space": (">i2", space),
                "handle": (UUID_FORM, rows["handle"][places[some]]),
                "key": _text(values.keys[key - 1]),
            }
            ends = [arrays[nth] for nth in some.tolist()]
            yield _Batch("atom_values", [*own, column], _filled(len(some), 1, own), ends)


def _vectors(rows: NDArray[Any], kind: int, elements: NDArray[Any], form: Any, type_: int) -> list[bytes]:
    """The values of a kind whose elements have a fixed length, as arrays of PostgreSQL."""
    laid = np.zeros(len(elements), [("length", ">i4"), ("element", form)])
    laid["length"], laid["element"] = laid.dtype["element"].itemsize, elements
    body, size = laid.tobytes(), laid.itemsize
    counts = rows["elements"][rows["kind"] == kind].tolist()
    heads = {count: _array_head(count, type_) for count in {*counts}}
    ends = accumulate(counts)
    return [
        heads[many] + body[(end - many) * size : end * size] for many, end in zip(counts, ends, strict=True)
    ]


def _texts(texts: Sequence[str]) -> bytes:
    encoded = [each.encode() for each in texts]
    elements = b"".join(len(each).to_bytes(4, "big") + each for each in encoded)
    return _array_head(len(encoded), _TEXT_TYPE) + elements


def _filled(count: int, tails: int, columns: dict[str, tuple[Any, Any]]) -> NDArray[Any]:
    row = np.zeros(1, row_form(**{name: form for name, (form, _) in columns.items()}))
    row["columns"] = len(columns) + tails
    for name in columns:
        row[f"{name}_length"] = row.dtype[name].itemsize
    rows = np.repeat(row, count)
    for name, (_, values) in columns.items():
        rows[name] = values
    return rows


def _text(value: str) -> tuple[str, bytes]:
    encoded = value.encode()
    return f"S{len(encoded)}", encoded


def _array(handles: Sequence[UUID]) -> bytes:
    elements = b"".join((16).to_bytes(4, "big") + each.bytes for each in handles)
    return _array_head(len(handles)) + elements


def _handles(rows: NDArray[Any]) -> list[UUID]:
    return [UUID(int=high << 64 | low) for high, low in rows["handle"].tolist()]


def _pairs(handles: Sequence[UUID]) -> NDArray[Any]:
    return np.frombuffer(b"".join(each.bytes for each in handles), ">u8").reshape(-1, 2)


async def _stream(batch: _Batch) -> AsyncIterator[bytes]:
    """The batch as parts of about a megabyte."""
    body, size = memoryview(batch.rows.tobytes()), batch.rows.itemsize
    at_once = max(1, _PART // size)
    yield _COPY_START
    for first in range(0, len(batch.rows), at_once):
        last = min(first + at_once, len(batch.rows))
        if batch.tails is None:
            yield bytes(body[first * size : last * size])
            continue
        parts = list[bytes | memoryview]()
        for nth in range(first, last):
            tail = batch.tails[nth]
            parts += [body[nth * size : (nth + 1) * size], len(tail).to_bytes(4, "big"), tail]
        yield b"".join(parts)
    yield _COPY_END
