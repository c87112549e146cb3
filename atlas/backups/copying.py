"""Dumps by COPY, for databases that pg_dump can't dump here: rows only, for a schema that migrations make.

The dump is a sequence of frames, each with its length before it. The first is a header with the order of the
tables, columns and sequences. Then come the rows of each table, in frames of which the last is empty.
"""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from datetime import date
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, Final

import orjson

from atlas import migrations
from atlas.backups.snapshot import Session
from atlas.backups.stream import in_thread, write_all
from atlas.errors import BackupDamaged, BackupError

if TYPE_CHECKING:
    from atlas.connections import Connection

_FRAME_BYTES: Final = 2**20
_LARGEST_FRAME: Final = 2**26
SAMPLES: Final = "video_stats_log"


class Writer:
    """Writes frames into a pipe from a thread, so that a full pipe does not stop the event loop."""

    def __init__(self, pipe: int, threads: Executor) -> None:
        self._pipe, self._threads = pipe, threads
        self._held: list[bytes] = []
        self._bytes = 0

    async def add(self, data: bytes) -> None:
        """Add to the frame, which is written once it is large enough."""
        self._held.append(data)
        self._bytes += len(data)
        if self._bytes >= _FRAME_BYTES:
            await self.cut()

    async def end(self) -> None:
        """Write what is left, and the empty frame that ends a table."""
        if self._bytes:
            await self.cut()
        await self.cut()

    async def cut(self) -> None:
        """Write what was added as a frame, even if it is empty."""
        frame = b"".join([struct.pack("<I", self._bytes), *self._held])
        self._held, self._bytes = [], 0
        await in_thread(self._threads, write_all, self._pipe, frame)


async def dump(session: Session, schema: str, pipe: int, threads: Executor) -> None:
    """Write all rows into a pipe."""
    writer = Writer(pipe, threads)
    by_name = {source["name"]: source for source in await session.sources(schema)}
    order = await _in_order(session, schema, [*by_name])
    await writer.add(orjson.dumps(await _header(session, schema, order, by_name)))
    await writer.cut()
    for name in order:
        await _copy_out(session, name, by_name[name]["copy"], writer)


async def _copy_out(session: Session, name: str, query: str, writer: Writer) -> None:
    async def copy(connection: Connection) -> str:
        return await connection.copy_from_query(query, output=writer.add, format="text")

    await session.call(f"COPY of {name}", copy)
    await writer.end()


async def _header(
    session: Session, schema: str, order: Sequence[str], by_name: Mapping[str, Any]
) -> dict[str, Any]:
    days = await session.statements.fetchval("backups.sample_days") if SAMPLES in by_name else None
    sequences = await session.statements.fetch("backups.sequences", schema)
    return {
        "tables": [{"name": name, "columns": by_name[name]["columns"]} for name in order],
        "sequences": {row["name"]: row["value"] for row in sequences},
        "days": days or [],
    }


async def _in_order(session: Session, schema: str, names: Sequence[str]) -> list[str]:
    """Tables, each after those that its foreign keys refer to."""
    sorter: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(names, ()))
    for row in await session.statements.fetch("backups.references", schema):
        sorter.add(row["name"], row["of"])
    try:
        return [name for name in sorter.static_order() if name in names]
    except CycleError as error:
        raise BackupError(
            f"the tables {', '.join(error.args[1])} refer to each other, so they can't be copied one by one: "
            "install pg_dump of the server's version"
        ) from None


class Reader:
    """Reads frames from a pipe in a thread."""

    def __init__(self, pipe: int, threads: Executor) -> None:
        self._pipe, self._threads = pipe, threads

    async def frame(self) -> bytes:
        """The next frame; BackupDamaged if the pipe ends within it."""
        return await in_thread(self._threads, self._frame)

    def _frame(self) -> bytes:
        (size,) = struct.unpack("<I", self._exactly(4))
        if size > _LARGEST_FRAME:
            raise BackupDamaged("the dump was changed: it has a frame of an impossible size")
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        pieces: list[bytes] = []
        while size:
            piece = os.read(self._pipe, min(size, _FRAME_BYTES))
            if not piece:
                raise BackupDamaged("the dump ends too early")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    async def rows(self) -> AsyncIterator[bytes]:
        """The rows of a table."""
        while frame := await self.frame():
            yield frame


async def load(session: Session, schema: str, migration: int, pipe: int, threads: Executor) -> None:
    """Make the schema as of a migration, and fill it from a pipe, all in the session's transaction."""
    reader = Reader(pipe, threads)
    header = orjson.loads(await reader.frame())
    await session.call("migration", lambda connection: migrations.apply_pending(connection, up_to=migration))
    await session.run(await session.made("backups.empty_tables", schema))
    await session.run(await session.made("backups.switch_triggers", schema, "DISABLE"))
    if header["days"]:
        days = [date.fromisoformat(day) for day in header["days"]]
        await session.statements.execute("backups.make_sample_days", days)
    for table in header["tables"]:
        await _copy_in(session, schema, table["name"], table["columns"], reader)
    await session.run(await session.made("backups.switch_triggers", schema, "ENABLE"))
    for name, value in header["sequences"].items():
        await session.statements.execute("backups.set_sequence", schema, name, value)


async def _copy_in(session: Session, schema: str, name: str, columns: Sequence[str], reader: Reader) -> None:
    async def copy(connection: Connection) -> str:
        return await connection.copy_to_table(
            name, schema_name=schema, columns=columns, source=reader.rows(), format="text"
        )

    await session.call(f"COPY into {name}", copy)
