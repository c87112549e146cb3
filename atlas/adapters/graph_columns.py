"""Reading the whole graph as columns of numbers, by binary COPY into NumPy."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Self
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from atlas.adapters.dao import DAO
from atlas.db import Executor
from atlas.errors import UnknownCursor

_HEADER: Final = 19
"""Bytes of a binary COPY before its first row: signature, flags, and the length of the header's extension."""
_TRAILER: Final = 2
_AT_ONCE: Final = 8 << 20
_CURSOR: Final = re.compile(r"(?P<identity>[^ ]{1,200}) (?P<xid>\d{1,19})", re.ASCII)


UUID_FORM: Final = np.dtype((">u8", 2))


def row_form(**columns: Any) -> np.dtype[Any]:
    """A row of a binary COPY with columns of fixed lengths, each of which is preceded by its length."""
    fields: list[tuple[Any, ...]] = [("columns", ">i2")]
    for name, form in columns.items():
        fields += [(f"{name}_length", ">i4"), (name, form)]
    return np.dtype(fields)


ATOM_FORM: Final = row_form(
    handle=UUID_FORM, type=">i2", arity=">i2", first=UUID_FORM, second=UUID_FORM, positive=">f8", count=">f8",
    pos=">i8", neg=">i8", sources=">i2", weight=">f4", seen_us=">i8",
)  # fmt: skip
ATTENTION_FORM: Final = row_form(handle=UUID_FORM, sti=">f4", lti=">f4", vlti=">i2", at_us=">i8")
VALUE_FORM: Final = row_form(handle=UUID_FORM, key=">i4", kind=">i4", elements=">i4")
_FLOAT_FORM: Final = row_form(element=">f8")
_HANDLE_FORM: Final = row_form(element=UUID_FORM)
FLOATS, TEXTS, HANDLES = 0, 1, 2
"""Kinds of values."""


@dataclass(frozen=True, slots=True)
class ValueColumns:
    """Values by handle and key. `rows` has for each the `handle`, the place of its `key` in `keys`, counted
    from 1, its `kind`, and how many `elements` it has. These follow one another: the numbers of all values of
    numbers, the texts of each value of texts, and the handles, with two columns, of all values of handles.
    """

    keys: Sequence[str]
    rows: NDArray[Any]
    floats: NDArray[Any]
    texts: Sequence[Sequence[str]]
    handles: NDArray[Any]


@dataclass(frozen=True, slots=True)
class GraphColumns:
    """Atoms in no order. `rows` has a field for each property: `handle` (high and low 64 bits), `type`, a
    place in `types` counted from 1, `arity`, of links of two the handles `first` and `second`, `positive`,
    `count`, `pos`, `neg`, `sources`, `weight` (NaN: none) and `seen_us`. `wide` has the outgoing sets of the
    other links.
    """

    types: tuple[str, ...]
    rows: NDArray[Any]
    names: Sequence[tuple[UUID, str]]
    wide: Sequence[tuple[UUID, Sequence[UUID]]]
    attention: NDArray[Any]
    """Rows with `handle`, `sti`, `lti`, `vlti`, and `at_us`, the microseconds since 1970 when it was set."""
    gone: Sequence[UUID]
    """The atoms that went since the cursor, if the columns begin at one."""
    cursor: str
    """To read from here what changes later."""
    size: int | None = None
    """How many atoms the space has, if these are changes: so it shows whether any were deleted unseen."""
    values: ValueColumns | None = None
    """All values, if they were asked for."""


@dataclass(frozen=True, slots=True)
class _Place:
    identity: str
    xid: int

    def __str__(self) -> str:
        return f"{self.identity} {self.xid}"

    @classmethod
    def parse(cls, cursor: str) -> Self:
        found = _CURSOR.fullmatch(cursor)
        if found is None:
            raise UnknownCursor
        return cls(found["identity"], int(found["xid"]))


class GraphColumnsDAO(DAO):
    """Reads whole graphs, each at one moment. Cursors hold only in their own database."""

    async def read(self, space: int, *, with_values: bool = False) -> GraphColumns:
        """All atoms of a space, and their values if wanted."""
        async with self._one_place() as (dao, place):
            types = await dao._types()
            return GraphColumns(
                types,
                await dao._copied(ATOM_FORM, "graph.columns", space, list(types)),
                [(row[0], row[1]) for row in await dao._executor.fetch("graph.names", space)],
                [(row[0], row[1]) for row in await dao._executor.fetch("graph.wide_links", space)],
                await dao._copied(ATTENTION_FORM, "graph.attention_columns", space),
                (),
                str(place),
                values=await dao._values(space) if with_values else None,
            )

    async def changes(self, space: int, cursor: str, *, with_values: bool = False) -> GraphColumns:
        """The atoms that changed since a cursor, with all atoms in their outgoing sets, and all attention.

        All values, too, if wanted, as nothing says which of them changed. UnknownCursor if the cursor is of
        another database.
        """
        begin = _Place.parse(cursor)
        async with self._one_place() as (dao, place):
            if begin.identity != place.identity or begin.xid > place.xid:
                raise UnknownCursor
            types = await dao._types()
            rows = await dao._copied(ATOM_FORM, "graph.changed_columns", space, list(types), begin.xid)
            handles = [UUID(int=high << 64 | low) for high, low in rows["handle"].tolist()]
            fetch = dao._executor.fetch
            return GraphColumns(
                types,
                rows,
                [(row[0], row[1]) for row in await fetch("graph.names_of", space, handles)],
                [(row[0], row[1]) for row in await fetch("graph.wide_links_of", space, handles)],
                await dao._copied(ATTENTION_FORM, "graph.attention_columns", space),
                [row[0] for row in await fetch("graph.gone_since", space, begin.xid)],
                str(place),
                await dao._executor.fetchval("graph.size", space),
                await dao._values(space) if with_values else None,
            )

    async def _values(self, space: int) -> ValueColumns:
        fetch = self._executor.fetch
        keys = [row["key"] for row in await fetch("graph.value_keys", space)]
        return ValueColumns(
            keys,
            await self._copied(VALUE_FORM, "graph.value_columns", space, keys),
            (await self._copied(_FLOAT_FORM, "graph.value_floats", space))["element"],
            [[each or "" for each in row["texts"]] for row in await fetch("graph.value_texts", space)],
            (await self._copied(_HANDLE_FORM, "graph.value_handles", space))["element"],
        )

    @asynccontextmanager
    async def _one_place(self) -> AsyncIterator[tuple[Self, _Place]]:
        async with self.one_moment() as dao:
            row = await dao._executor.fetchrow("graph.horizon")
            assert row is not None
            yield dao, _Place(row["identity"], row["horizon"])

    async def _types(self) -> tuple[str, ...]:
        return tuple(row["name"] for row in await self._executor.fetch("graph.types"))

    async def _copied(self, form: np.dtype[Any], statement: str, *args: Any) -> NDArray[Any]:
        return await copied(self._executor, form, statement, *args)


async def copied(executor: Executor, form: np.dtype[Any], statement: str, *args: Any) -> NDArray[Any]:
    """The rows of a SELECT whose columns all have a fixed length and are never NULL."""
    buffer = bytearray()

    async def hear(data: bytes) -> None:
        buffer.extend(data)

    rows = await executor.copy_out(statement, *args, sink=hear, form="binary")
    if len(buffer) != _HEADER + rows * form.itemsize + _TRAILER:
        raise ValueError(f"{statement} has columns that differ in length from what is read")
    return np.frombuffer(buffer, form, rows, _HEADER)


async def streamed(
    executor: Executor,
    form: np.dtype[Any],
    statement: str,
    *args: Any,
    take: Callable[[NDArray[Any]], Awaitable[None]],
) -> None:
    """Hand over such rows some at a time, so that they need not fit into memory."""
    buffer, begin = bytearray(), _HEADER

    async def hear(data: bytes) -> None:
        nonlocal begin
        buffer.extend(data)
        if len(buffer) > _AT_ONCE:
            begin = await drain()

    async def drain() -> int:
        rows = max(len(buffer) - begin, 0) // form.itemsize
        if rows:
            end = begin + rows * form.itemsize
            await take(np.frombuffer(bytes(buffer[begin:end]), form))
            del buffer[:end]
        return begin if not rows else 0

    await executor.copy_out(statement, *args, sink=hear, form="binary")
    begin = await drain()
    if len(buffer) != begin + _TRAILER:
        raise ValueError(f"{statement} has columns that differ in length from what is read")
