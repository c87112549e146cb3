"""Exports: samples, videos or channels as one Parquet or CSV object, through the vault's storage layer.

However much there is, memory stays constant and no snapshot lives longer than a page: each page is a
statement of its own, as one long one would make claims many times dearer while it lasts. An export is
therefore no image of an instant: rows that are stored while it runs may be in it or not. Ended samples, those
of a span that is over, are complete. The object appears when the export is done; one that ends before leaves
nothing, and is begun anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

import orjson

from atlas.clock import Clock
from atlas.config import Settings
from atlas.db import Database
from atlas.errors import ConfigError
from atlas.hub import HubStore
from atlas.stores import FileStore, S3Store, Store, store_of
from atlas.vault import check_name

if TYPE_CHECKING:
    import pyarrow as pa

_PART_BYTES: Final = 8 << 20
"""What is encoded at once, and a Parquet row group: some 100,000 samples."""
_MOST_BYTES: Final = 8 * _PART_BYTES
_ROWS_A_PAGE: Final = 100_000
_ROWS_WITH_TEXTS: Final = 5_000
_FIRST_WIDTH: Final = timedelta(minutes=15)
_WIDEST, _NARROWEST = timedelta(days=1), timedelta(seconds=1)

OnProgress = Callable[[float | None, int], None]


class Table(StrEnum):
    """What can be exported."""

    SAMPLES = "samples"
    VIDEOS = "videos"
    CHANNELS = "channels"


class Format(StrEnum):
    """How an export is written."""

    PARQUET = "parquet"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class Selection:
    """What is exported: samples of [since, until), or what was discovered in it; None is unbounded."""

    table: Table = Table.SAMPLES
    since: datetime | None = None
    until: datetime | None = None


_INSTANT: Final = "timestamp"
_NUMBERED, _REPEATED = (_INSTANT, "int64", "int32"), ("string", "list", "int16")
# The names and types of the columns that the statements return, in their order.
COLUMNS: Final[Mapping[Table, Mapping[str, str]]] = {
    Table.SAMPLES: {
        "video_id": "string", "sampled_at": _INSTANT, "views": "int64", "likes": "int64", "comments": "int64",
        "velocity_by_pleiades": "float64", "methodology": "int16",
    },
    Table.VIDEOS: {
        "id": "string", "channel_id": "string", "channel_title": "string", "title": "string",
        "description": "string", "tags": "list", "published_at": _INSTANT, "discovered_at": _INSTANT,
        "refreshed_at": _INSTANT, "category_id": "int32", "duration_s": "int32",
        "live_broadcast_content": "string", "default_language": "string", "status": "string",
        "zone": "string", "samples": "int32", "counted_at": _INSTANT, "views": "int64", "likes": "int64",
        "comments": "int64", "velocity_by_pleiades": "float64", "acceleration_by_pleiades": "float64",
        "relative_velocity_by_pleiades": "float64", "viral_score_by_pleiades": "float64",
    },
    Table.CHANNELS: {
        "id": "string", "title": "string", "discovered_at": _INSTANT, "refreshed_at": _INSTANT,
        "status": "string", "counted_at": _INSTANT, "subscribers": "int64", "videos": "int64",
        "views": "int64",
    },
}  # fmt: skip
ATTRIBUTION: Final = "columns named …_by_pleiades are computed by Pleiades, not by YouTube"


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    rows: int
    bytes: int


async def export(
    db: Database,
    clock: Clock,
    store: Store,
    name: str,
    selection: Selection,
    format_: Format,
    on_progress: OnProgress | None = None,
) -> Exported:
    """Write a selection as one object; VaultError if the store refuses it, and then there is none.

    `on_progress` hears which share is done, None where that can't be told, and how many rows.
    """
    encoder_of = _encoder_of(format_)
    rows = 0
    async with store.writing(name) as file:
        counted = _Counted(file)
        try:
            encoder = await asyncio.to_thread(encoder_of, counted, selection)
            async with _Writer(encoder).running() as writer:
                async for share, more in _pages(db, clock, selection, writer.take):
                    await writer.catch_up()
                    rows += more
                    if on_progress is not None:
                        on_progress(share, rows)
        except BaseException:
            counted.give_up()
            raise
    return Exported(rows, counted.bytes)


# Where to


def locate(to: str, settings: Settings, db: Database) -> tuple[Store, str]:
    """The store and the object's name there that a path or URL means; ConfigError if it means none.

    A path or file://…, s3://bucket/…, hf://datasets/owner/name/…, or vault:… for the vault of the settings.
    """
    scheme, separator, rest = to.partition(":")
    rest = rest.removeprefix("//")
    folder, _, name = rest.rpartition("/")
    store: Store
    match scheme if separator else "":
        case "vault":
            check_name(rest)
            return store_of(settings, db), rest
        case "s3":
            store = S3Store(f"s3://{folder}", settings.vault.endpoint_url)
        case "hf":
            store, name = _dataset_of(rest, settings, db)
        case "file" | "":
            path = Path(rest if separator else to).expanduser().absolute()
            if path.is_dir():
                raise ConfigError(f"{to} is a folder: name a file in it")
            return FileStore(path.parent, str(path.parent)), path.name
        case _:
            raise ConfigError(f"{to!r} is neither a path nor like s3://…, hf://datasets/… or vault:…")
    if not name:
        raise ConfigError(f"{to!r} names no object: let a name follow")
    return store, name


def _dataset_of(rest: str, settings: Settings, db: Database) -> tuple[Store, str]:
    kind, _, path = rest.partition("/")
    owner, _, within = path.partition("/")
    dataset, _, name = within.partition("/")
    if kind != "datasets" or not (owner and dataset):
        raise ConfigError(f"'hf://{rest}' is not like hf://datasets/owner/name/file")
    if settings.hf_token is None:
        raise ConfigError("HF_TOKEN required to write to a Hugging Face dataset")
    token, vault = settings.hf_token.get_secret_value(), settings.vault
    return HubStore(f"{owner}/{dataset}", token, db, vault.endpoint_url, vault.commits_per_hour), name


# Reading, page by page

_Sink = Callable[[bytes], Any]


def _pages(
    db: Database, clock: Clock, selection: Selection, sink: _Sink
) -> AsyncIterator[tuple[float | None, int]]:
    """Read page after page into the sink; which share of all is done, and the page's rows."""
    if selection.table is Table.SAMPLES:
        return _samples(db, clock, selection, sink)
    return _by_id(db, selection, sink)


async def _samples(
    db: Database, clock: Clock, selection: Selection, sink: _Sink
) -> AsyncIterator[tuple[float | None, int]]:
    """Read by time, the order in which they lie in the log: half as dear as by video, and no index but BRIN.

    The span that is read at once adapts to how densely it is filled.
    """
    first = await db.fetchval("exports.first_sample")
    until = selection.until or clock.now()
    if first is None or first >= until:
        return
    begin = at = max(first, selection.since or first)
    width = _FIRST_WIDTH
    while at < until:
        end = min(at + width, until)
        rows = await db.copy_out("exports.samples", at, end, sink=sink)
        at = end
        yield (at - begin) / (until - begin), rows
        if rows > _ROWS_A_PAGE:
            width = max(width / 2, _NARROWEST)
        elif rows < _ROWS_A_PAGE // 4:
            width = min(width * 2, _WIDEST)


async def _by_id(db: Database, selection: Selection, sink: _Sink) -> AsyncIterator[tuple[float | None, int]]:
    table = selection.table
    most = _ROWS_WITH_TEXTS if table is Table.VIDEOS else _ROWS_A_PAGE
    last = ""
    while (end := await db.fetchval(f"exports.{table}_end", last, most)) is not None:
        rows = await db.copy_out(f"exports.{table}", last, end, selection.since, selection.until, sink=sink)
        last = end
        yield None, rows


# Writing, in a thread


class _Encoder(Protocol):
    """Writes parts of whole CSV records."""

    def write(self, part: bytes) -> None: ...

    def close(self) -> None: ...


class _Counted:
    """A file that counts; all that Parquet's writer asks of one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.bytes, self.closed = file, 0, False
        self._given_up = False

    def give_up(self) -> None:
        """Let what is still written come to nothing: a Parquet writer that is forgotten ends its file."""
        self._given_up = True

    def write(self, body: Any) -> int:
        size = len(memoryview(body).cast("B"))
        if not self._given_up:
            self._file.write(body)
            self.bytes += size
        return size

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        if not self._given_up:
            self._file.flush()

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        """The store closes its file."""


class _Writer:
    """Gathers what COPY sends, and has each part encoded in a thread while the next one comes in."""

    def __init__(self, encoder: _Encoder) -> None:
        self._encoder = encoder
        self._gathered = bytearray()
        self._under_way: asyncio.Future[None] | None = None
        # One and the same thread for all parts: each that Arrow meets keeps memory of its own.
        self._thread = ThreadPoolExecutor(1, "export")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[_Writer]:
        """Write the rest at the end; whatever happens, no thread is left at work on the file."""
        try:
            yield self
            await self._written()
            self._start(len(self._gathered))
            await self._written()
            self._run(self._encoder.close)
            await self._written()
        finally:
            if self._under_way is not None:
                await asyncio.wait([self._under_way])
            self._thread.shutdown()

    async def take(self, received: bytes) -> None:
        """Take some of COPY's CSV. A snapshot is held meanwhile, so it waits only lest memory overflow."""
        self._gathered += received
        if len(self._gathered) >= _MOST_BYTES:
            await self._written()
        if len(self._gathered) >= _PART_BYTES and (self._under_way is None or self._under_way.done()):
            await self._written()
            self._start(_end_of_records(self._gathered))

    async def catch_up(self) -> None:
        """Wait until less than a part is left to be written."""
        while len(self._gathered) >= _PART_BYTES:
            await self._written()
            self._start(_end_of_records(self._gathered))

    def _start(self, size: int) -> None:
        part = bytes(memoryview(self._gathered)[: min(size, len(self._gathered))])
        del self._gathered[: len(part)]
        if part:
            self._run(self._encoder.write, part)

    def _run(self, function: Callable[..., None], *arguments: Any) -> None:
        loop = asyncio.get_running_loop()
        self._under_way = loop.run_in_executor(self._thread, function, *arguments)

    async def _written(self) -> None:
        if self._under_way is not None:
            # Cancelling must not abandon the thread, see running().
            await asyncio.shield(self._under_way)
            self._under_way = None


def _end_of_records(gathered: bytearray) -> int:
    """How much of it is whole records: up to a line's end that stands in no quotes; 0 if there is none."""
    end = gathered.rfind(b"\n") + 1
    while end and gathered.count(b'"', 0, end) % 2:
        end = gathered.rfind(b"\n", 0, end - 1) + 1
    return end


def _encoder_of(format_: Format) -> Callable[[_Counted, Selection], _Encoder]:
    if format_ is Format.CSV:
        return _CsvEncoder
    if find_spec("pyarrow") is None:
        raise ConfigError("Parquet needs another package: pip install 'pleiades[parquet]', or choose CSV")
    return _ParquetEncoder


class _CsvEncoder:
    """What COPY sends is CSV already: it only lacks the names."""

    def __init__(self, file: _Counted, selection: Selection) -> None:
        self._file = file
        file.write((",".join(COLUMNS[selection.table]) + "\n").encode())

    def write(self, part: bytes) -> None:
        self._file.write(part)

    def close(self) -> None:
        self._file.flush()


class _ParquetEncoder:
    """Reads the CSV with Arrow, each part a row group; far cheaper than a Python object for each value."""

    def __init__(self, file: _Counted, selection: Selection) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self._columns = COLUMNS[selection.table]
        told = {
            "attribution": ATTRIBUTION,
            "table": selection.table,
            "since": selection.since,
            "until": selection.until,
        }
        metadata = {f"pleiades.{key}": str(value) for key, value in told.items() if value is not None}
        self._schema = pa.schema(
            [(name, _arrow_type(kind)) for name, kind in self._columns.items()], metadata
        )
        kinds = self._columns.items()
        # Instants and counts lie close to those before them, and no float comes twice: so it takes half the
        # room and half the time.
        encodings = {name: "DELTA_BINARY_PACKED" for name, kind in kinds if kind in _NUMBERED}
        repeated = [
            f"{name}.list.element" if kind == "list" else name for name, kind in kinds if kind in _REPEATED
        ]
        self._writer: Any = parquet.ParquetWriter(
            pa.PythonFile(file, "w"), self._schema, compression="zstd", use_dictionary=repeated,
            column_encoding=encodings,
        )  # fmt: skip

    def write(self, part: bytes) -> None:
        table = self._read(part)
        self._writer.write_table(table, row_group_size=max(len(table), 1))

    def _read(self, part: bytes) -> pa.Table:
        import pyarrow as pa
        from pyarrow import csv

        kinds = {
            name: _arrow_type("string" if kind == "list" else kind) for name, kind in self._columns.items()
        }
        table = csv.read_csv(
            pa.BufferReader(part),
            # One block, as each becomes a chunk of every column; and one core, as the server needs another.
            csv.ReadOptions(column_names=list(kinds), block_size=len(part) + 1, use_threads=False),
            csv.ParseOptions(newlines_in_values=True),
            csv.ConvertOptions(
                column_types=kinds, strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )
        for place, (name, kind) in enumerate(self._columns.items()):
            if kind == "list":
                lists = [orjson.loads(text) for text in table.column(place).to_pylist()]
                table = table.set_column(place, name, pa.array(lists, _arrow_type(kind)))
        return table

    def close(self) -> None:
        self._writer.close()


def _arrow_type(kind: str) -> pa.DataType:
    import pyarrow as pa

    if kind == _INSTANT:
        return pa.timestamp("us", "UTC")
    return pa.list_(pa.string()) if kind == "list" else pa.type_for_alias(kind)
