"""Export samples, videos or channels as one Parquet or CSV object, to a local file or an object store.

Memory stays constant however much is exported. Each page is read by its own statement, because a single long
one would keep old row versions alive and make agents' claims many times slower. An export is therefore not a
snapshot: rows stored while it runs may or may not be included, but samples of a past time span are complete.
The object appears only when the export is done; an interrupted export leaves nothing and starts over.
"""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, Protocol

import orjson

from atlas import csvform, foreign
from atlas.clock import Clock
from atlas.config import Settings
from atlas.csvform import CsvForm
from atlas.db import Database
from atlas.errors import ConfigError
from atlas.extras import how_to_install
from atlas.hub import HubStore
from atlas.local import LocalFile, StandardOutput
from atlas.stores import Destination, S3Store, store_of
from atlas.vault import check_name

if TYPE_CHECKING:
    import pyarrow as pa

_PART_BYTES: Final = 8 << 20
"""The size of a part, which is encoded at once and becomes a Parquet row group: some 100,000 samples."""
_MAX_BUFFERED_BYTES: Final = 8 * _PART_BYTES
_ROWS_A_PAGE: Final = 100_000
_VIDEO_ROWS_A_PAGE: Final = 5_000
_FIRST_WIDTH: Final = timedelta(minutes=15)
_WIDEST, _NARROWEST = timedelta(days=1), timedelta(seconds=1)

_NOT_PLAIN: Final = re.compile(rb'["\x00-\x09\x0b-\x1f\x7f-\xff]')
_COPIED_INSTANT: Final = re.compile(rb"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d(?:\.\d+)?)\+00(?=[,\n])")
_FORMULA_ID: Final = re.compile(rb"^(?=[=+@'-])", re.MULTILINE)

OnProgress = Callable[[float | None, int], None]


class Table(StrEnum):
    """What can be exported."""

    SAMPLES = "samples"
    VIDEOS = "videos"
    CHANNELS = "channels"
    CHANNEL_SAMPLES = "channel-samples"


class Format(StrEnum):
    """How an export is written."""

    PARQUET = "parquet"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class Selection:
    """What to export: samples taken in [since, until), or videos or channels discovered in it.

    None is unbounded. Videos and their samples can be filtered by length and broadcast like leaderboards.
    """

    table: Table = Table.SAMPLES
    since: datetime | None = None
    until: datetime | None = None
    length: Literal["short", "long"] | None = None
    broadcast: Literal["none", "live", "upcoming"] | None = None
    short_at_most_s: int = 180

    @property
    def video_conditions(self) -> tuple[str | None, str | None, int]:
        """The filters on videos, as arguments of the statements."""
        return self.length, self.broadcast, self.short_at_most_s


_INSTANT: Final = "timestamp"
_NUMBERED, _REPEATED = (_INSTANT, "int64", "int32"), ("string", "list", "int16")
# The names and types of the columns that the statements return, in order.
COLUMNS: Final[Mapping[Table, Mapping[str, str]]] = {
    Table.SAMPLES: {
        "video_id": "string", "sampled_at": _INSTANT, "views": "int64", "likes": "int64", "comments": "int64",
        "velocity_by_pleiades": "float64", "methodology": "int16", "source": "string",
    },
    Table.VIDEOS: {
        "id": "string", "channel_id": "string", "channel_title": "string", "title": "string",
        "description": "string", "tags": "list", "published_at": _INSTANT, "discovered_at": _INSTANT,
        "refreshed_at": _INSTANT, "category_id": "int32", "duration_s": "int32",
        "live_broadcast_content": "string", "default_language": "string", "status": "string",
        "zone": "string", "samples": "int32", "counted_at": _INSTANT, "views": "int64", "likes": "int64",
        "comments": "int64", "velocity_by_pleiades": "float64", "acceleration_by_pleiades": "float64",
        "relative_velocity_by_pleiades": "float64", "viral_score_by_pleiades": "float64",
        "forecast_at": _INSTANT, "forecast_from_views": "int64",
        "views_in_24h_by_pleiades": "float64", "views_in_24h_low_by_pleiades": "float64",
        "views_in_24h_high_by_pleiades": "float64", "top_chance_24h_by_pleiades": "float64",
        "views_in_7d_by_pleiades": "float64", "views_in_7d_low_by_pleiades": "float64",
        "views_in_7d_high_by_pleiades": "float64", "top_chance_7d_by_pleiades": "float64",
    },
    Table.CHANNELS: {
        "id": "string", "title": "string", "discovered_at": _INSTANT, "refreshed_at": _INSTANT,
        "status": "string", "counted_at": _INSTANT, "subscribers": "int64", "videos": "int64",
        "views": "int64",
    },
    Table.CHANNEL_SAMPLES: {
        "channel_id": "string", "sampled_at": _INSTANT, "subscribers": "int64", "videos": "int64",
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
    target: Destination,
    name: str,
    selection: Selection,
    format_: Format,
    on_progress: OnProgress | None = None,
    *,
    csv_form: CsvForm = CsvForm.GUARDED,
) -> Exported:
    """Write a selection as one object; if the target refuses it, VaultError is raised and no object exists.

    `on_progress` is called with the fraction done (None if unknown) and the number of rows so far.
    """
    encoder_of = _encoder_of(format_, csv_form)
    rows = 0
    async with target.writing(name) as file:
        counting = CountingFile(file)
        try:
            encoder = await asyncio.to_thread(encoder_of, counting, selection)
            async with _Writer(encoder).running() as writer:
                async for share, more in _pages(db, clock, selection, writer.receive):
                    await writer.catch_up()
                    rows += more
                    if on_progress is not None:
                        on_progress(share, rows)
        except BaseException:
            counting.discard_writes()
            raise
    return Exported(rows, counting.bytes)


# Where to


def locate(to: str, settings: Settings, db: Database) -> tuple[Destination, str]:
    """The destination that a path or URL names, and the object's name there; ConfigError if it is neither.

    It is a path or file://…, s3://bucket/…, hf://datasets/owner/name/…, vault:… for the configured vault, or
    - for standard output.
    """
    if to == "-":
        return StandardOutput(), to
    scheme, separator, rest = to.partition(":")
    rest = rest.removeprefix("//")
    folder, _, name = rest.rpartition("/")
    store: Destination
    match scheme if separator else "":
        case "vault":
            check_name(rest)
            return store_of(settings, db), rest
        case "s3":
            store = S3Store(f"s3://{folder}", settings.vault.endpoint_url)
        case "hf":
            store, name = _dataset_of(rest, settings, db)
        case "file" | "":
            return LocalFile(rest if separator else to), to
        case _:
            raise ConfigError(f"{to!r} is neither a path nor like s3://…, hf://datasets/… or vault:…")
    if not name:
        raise ConfigError(f"{to!r} names no object: add a name to it")
    return store, name


def _dataset_of(rest: str, settings: Settings, db: Database) -> tuple[Destination, str]:
    kind, _, path = rest.partition("/")
    owner, _, within = path.partition("/")
    dataset, _, name = within.partition("/")
    if kind != "datasets" or not (owner and dataset):
        raise ConfigError(f"'hf://{rest}' is not like hf://datasets/owner/name/file")
    if settings.hf_token is None:
        raise ConfigError("HF_TOKEN is required to write to a Hugging Face dataset")
    token, vault = settings.hf_token.get_secret_value(), settings.vault
    return HubStore(f"{owner}/{dataset}", token, db, vault.endpoint_url, vault.commits_per_hour), name


# Reading, page by page

_Sink = Callable[[bytes], Any]


def _pages(
    db: Database, clock: Clock, selection: Selection, sink: _Sink
) -> AsyncIterator[tuple[float | None, int]]:
    """Read page after page into the sink; yields the fraction done and the page's number of rows."""
    if selection.table in (Table.SAMPLES, Table.CHANNEL_SAMPLES):
        return _pages_by_time(db, clock, selection, sink)
    return _pages_by_id(db, selection, sink)


async def _pages_by_time(
    db: Database, clock: Clock, selection: Selection, sink: _Sink
) -> AsyncIterator[tuple[float | None, int]]:
    """Read samples by time, which is the order in the log.

    That takes half as long as reading by video and needs no index but BRIN. The span of a page adapts to the
    density of the samples.
    """
    conditions: tuple[object, ...]
    statement, first_of, conditions = "exports.samples", "exports.first_sample", selection.video_conditions
    if selection.table is Table.CHANNEL_SAMPLES:
        statement, first_of, conditions = "exports.channel_samples", "exports.first_channel_sample", ()
    first = await db.fetchval(first_of)
    until = selection.until or clock.now()
    if first is None or first >= until:
        return
    begin = at = max(first, selection.since or first)
    width = _FIRST_WIDTH
    while at < until:
        end = min(at + width, until)
        rows = await db.copy_out(statement, at, end, *conditions, sink=sink)
        at = end
        yield (at - begin) / (until - begin), rows
        if rows > _ROWS_A_PAGE:
            width = max(width / 2, _NARROWEST)
        elif rows < _ROWS_A_PAGE // 4:
            width = min(width * 2, _WIDEST)


async def _pages_by_id(
    db: Database, selection: Selection, sink: _Sink
) -> AsyncIterator[tuple[float | None, int]]:
    table = selection.table
    most = _VIDEO_ROWS_A_PAGE if table is Table.VIDEOS else _ROWS_A_PAGE
    last = ""
    while (end := await db.fetchval(f"exports.{table}_end", last, most)) is not None:
        bounds = (last, end, selection.since, selection.until)
        conditions = selection.video_conditions if table is Table.VIDEOS else ()
        rows = await db.copy_out(f"exports.{table}", *bounds, *conditions, sink=sink)
        last = end
        yield None, rows


# Writing, in a thread


class _Encoder(Protocol):
    """Converts CSV from COPY, in parts of whole records, to the export's format."""

    def write(self, part: bytes) -> None: ...

    def close(self) -> None: ...


class CountingFile:
    """A file that counts its bytes, with the methods that Parquet's writer needs."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.bytes, self.closed = file, 0, False
        self._discards = False

    def discard_writes(self) -> None:
        """Ignore further writes: after an error, garbage collection of Parquet's writer ends the file."""
        self._discards = True

    def write(self, body: Any) -> int:
        size = len(memoryview(body).cast("B"))
        if not self._discards:
            self._file.write(body)
            self.bytes += size
        return size

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        if not self._discards:
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
    """Buffers what COPY sends, and encodes each part in a thread while the next one arrives."""

    def __init__(self, encoder: _Encoder) -> None:
        self._encoder = encoder
        self._buffer = bytearray()
        self._encoding: asyncio.Future[None] | None = None
        # A single thread for all parts, because Arrow keeps memory for each thread that uses it.
        self._thread = ThreadPoolExecutor(1, "export")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[_Writer]:
        """Write the rest at the end; even after an error, leave no thread working on the file."""
        try:
            yield self
            await self._wait_for_encoding()
            self._start(len(self._buffer))
            await self._wait_for_encoding()
            self._run(self._encoder.close)
            await self._wait_for_encoding()
        finally:
            if self._encoding is not None:
                await asyncio.wait([self._encoding])
            self._thread.shutdown()

    async def receive(self, received: bytes) -> None:
        """Buffer some of COPY's CSV; as COPY holds a snapshot open, block only when the buffer is full."""
        self._buffer += received
        if len(self._buffer) >= _MAX_BUFFERED_BYTES:
            await self._wait_for_encoding()
        if len(self._buffer) >= _PART_BYTES and (self._encoding is None or self._encoding.done()):
            await self._wait_for_encoding()
            self._start(_end_of_records(self._buffer))

    async def catch_up(self) -> None:
        """Wait until less than one part remains in the buffer."""
        while len(self._buffer) >= _PART_BYTES:
            await self._wait_for_encoding()
            self._start(_end_of_records(self._buffer))

    def _start(self, size: int) -> None:
        part = bytes(memoryview(self._buffer)[: min(size, len(self._buffer))])
        del self._buffer[: len(part)]
        if part:
            self._run(self._encoder.write, part)

    def _run(self, function: Callable[..., None], *arguments: Any) -> None:
        loop = asyncio.get_running_loop()
        self._encoding = loop.run_in_executor(self._thread, function, *arguments)

    async def _wait_for_encoding(self) -> None:
        if self._encoding is not None:
            # If we are cancelled, the thread must finish: running() waits for it.
            await asyncio.shield(self._encoding)
            self._encoding = None


def _end_of_records(buffered: bytearray) -> int:
    """The length of the whole records: up to the last line end outside quotes; 0 if there is none."""
    end = buffered.rfind(b"\n") + 1
    while end and buffered.count(b'"', 0, end) % 2:
        end = buffered.rfind(b"\n", 0, end - 1) + 1
    return end


def _encoder_of(format_: Format, csv_form: CsvForm) -> Callable[[CountingFile, Selection], _Encoder]:
    if format_ is Format.CSV:
        return partial(_CsvEncoder, form=csv_form)
    if find_spec("pyarrow") is None:
        raise ConfigError(f"Parquet needs pyarrow; install it: {how_to_install('parquet')}, or choose CSV")
    return _ParquetEncoder


class _CsvEncoder:
    """Converts the database's dialect of CSV to the product's."""

    def __init__(self, file: CountingFile, selection: Selection, form: CsvForm) -> None:
        self._file, self._form = file, form
        columns = COLUMNS[selection.table]
        self._instants = [place for place, kind in enumerate(columns.values()) if kind == _INSTANT]
        self._texts = [place for place, kind in enumerate(columns.values()) if kind in ("string", "list")]
        # Only ids, no free text.
        self._is_plain = selection.table is Table.SAMPLES
        file.write(csvform.document(tuple(columns), (), form))

    def write(self, part: bytes) -> None:
        # For the largest table by far, this is three times as fast as converting field by field.
        if self._is_plain and not _NOT_PLAIN.search(part):
            part = _COPIED_INSTANT.sub(rb"\1T\2Z", part)
            self._file.write(part if self._form is CsvForm.RAW else _FORMULA_ID.sub(b"'", part))
        else:
            self._file.write(self._rewrite(part))

    def _rewrite(self, part: bytes) -> bytes:
        text = io.StringIO(newline="")
        with _unlimited_fields():
            records = csv.reader(io.StringIO(part.decode(), newline=""))
            csv.writer(text, lineterminator="\n").writerows(map(self._record, records))
        return text.getvalue().encode()

    def _record(self, cells: list[str]) -> list[str]:
        for place in self._instants:
            cells[place] = cells[place].replace(" ", "T").replace("+00", "Z")
        if self._form is not CsvForm.RAW:
            for place in self._texts:
                cells[place] = foreign.cell(cells[place])
        return cells

    def close(self) -> None:
        self._file.flush()


@contextmanager
def _unlimited_fields() -> Iterator[None]:
    """Lift the csv module's limit on the size of a field, which the database's texts may exceed."""
    before = csv.field_size_limit(_MAX_BUFFERED_BYTES)
    try:
        yield
    finally:
        csv.field_size_limit(before)


class _ParquetEncoder:
    """Parses the CSV with Arrow, each part as a row group; far cheaper than a Python object per value."""

    def __init__(self, file: CountingFile, selection: Selection) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self._columns = COLUMNS[selection.table]
        details = {
            "attribution": ATTRIBUTION,
            "table": selection.table,
            "since": selection.since,
            "until": selection.until,
        }
        metadata = {f"pleiades.{key}": str(value) for key, value in details.items() if value is not None}
        self._schema = pa.schema(
            [(name, _arrow_type(kind)) for name, kind in self._columns.items()], metadata
        )
        kinds = self._columns.items()
        # Instants and counts are close to the preceding ones, and floats rarely repeat: compared with the
        # default encodings this halves both size and time.
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
            # One block, because each becomes a chunk of every column; one thread, to leave the server a core.
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
