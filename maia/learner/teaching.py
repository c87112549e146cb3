"""Teaches the learner from a file: a log of events as JSON lines, CSV or XES, plain or gzipped.

The file is read twice: first to see that it is whole and to hash what it holds, then to learn from it in
pages, as the learner's cycles do. The cursor goes by that hash, so that an interrupted import resumes, and
neither a repeated one nor a renamed or compressed copy teaches anything twice. Of a file to which lines were
appended since, only these are learnt.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import partial
from hashlib import blake2b
from itertools import count, islice
from pathlib import Path
from typing import BinaryIO, Final, Literal, TypeAlias, cast, get_args

from atlas.adapters.patterns import PatternsDAO
from atlas.composition import Atlas
from maia.errors import MaiaError
from maia.learner.collection import without_collection
from maia.learner.cycle import LOCK, pseudonyms_of
from maia.learner.housekeeping import keep_within_limits
from maia.learner.importing import LogImport
from maia.learner.knowledge import Knowledge, Learnt, detector_classes
from maia.learner.sequences import NEXT_ACTIONS, Sequences
from maia.learner.storing import store_learnt
from maia.learning.event_logs import Malformed, Parsed, parse_csv, parse_jsonl, parse_xes
from maia.learning.evidence import Counts
from maia.learning.observations import Observation
from maia.learning.patterns import Finding

LogFormat: TypeAlias = Literal["jsonl", "csv", "xes"]
OnBytes = Callable[[float, float], None]
"""Called with how many bytes of the file have been read, and how many there are."""

_SUFFIXES: Final[Mapping[str, LogFormat]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".xes": "xes",
}
_CHUNK_BYTES: Final = 1 << 18
_LONGEST_LINE_BYTES: Final = 1 << 24
_MOST_SHOWN: Final = 5
_ROWS_BETWEEN_REPORTS: Final = 1_000
_PAGES_BETWEEN_JUDGEMENTS: Final = 50
_NOTHING_YET: Final = "0"
_ALL: Final = "all"
_IMPORT: Final = "import "
"""With this the cursors of imports begin; the hash and the length of what the file holds follow."""


class LogUnreadable(MaiaError):
    """The log can't be read at all: it is missing, damaged, or of a format that isn't known."""


class LearnerBusy(MaiaError):
    """Another learner is at work; only one may be."""


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row of which no observation could be made, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Log:
    """A file to learn from, and how to read it.

    `columns` says for a field of an event what it is called, and `agent` whose actions these are; without it
    that is what the log calls itself.
    """

    path: Path
    format: LogFormat
    columns: Mapping[str, str] = field(default_factory=dict)
    agent: str | None = None

    @classmethod
    def of(
        cls, path: Path, format_: LogFormat | None, columns: Mapping[str, str], agent: str | None = None
    ) -> Log:
        """The log, its format by the file's name unless it is said; LogUnreadable if that says nothing."""
        if format_ is None:
            suffix = Path(path.name.lower().removesuffix(".gz")).suffix
            if suffix not in _SUFFIXES and not path.exists():
                raise LogUnreadable(f"{path} is not there")
            if suffix not in _SUFFIXES:
                formats = ", ".join(get_args(LogFormat))
                raise LogUnreadable(
                    f"the name {path.name!r} doesn't tell the format: give --format {formats}"
                )
            format_ = _SUFFIXES[suffix]
        return cls(path, format_, columns, agent)


@dataclass(frozen=True, slots=True)
class LogRead:
    """How a log was read."""

    format: LogFormat
    rows: int
    """Rows that were read now, without those that an earlier run had learnt."""
    observations: int
    refused: int
    refused_rows: Sequence[RefusedRow]
    """The first of them."""
    unclear_outcomes: int
    """Rows that say something under a usual name for outcomes that is neither success nor failure."""


@dataclass(frozen=True, slots=True)
class Preview(LogRead):
    """What would be read of a log, and the first observations as they would be learnt."""

    first: datetime | None
    last: datetime | None
    examples: Sequence[Observation]


@dataclass(frozen=True, slots=True)
class Taught(LogRead):
    """What a log has taught."""

    skipped: int
    """Rows that an earlier run had learnt."""
    already_learnt: bool
    """Whether an earlier run had learnt all of it."""
    new_patterns: int
    changed_patterns: int
    forgotten_patterns: int
    patterns: int
    """How many are known now."""


async def preview(atlas: Atlas, log: Log, examples: int, on_bytes: OnBytes | None = None) -> Preview:
    """Read a log without learning from it."""
    reader = _Reader(log, await _importer(atlas, log), on_bytes)
    _contents(log, (), None)
    shown: list[Observation] = []
    first = last = None
    for page in reader.pages(1_000, 0):
        for each in page:
            if len(shown) < examples:
                shown.append(each)
            first, last = min(first or each.at, each.at), max(last or each.at, each.at)
    return Preview(
        log.format,
        reader.rows,
        reader.observations,
        reader.refused,
        reader.refused_rows,
        reader.unclear_outcomes,
        first,
        last,
        shown,
    )


async def teach(atlas: Atlas, log: Log, on_bytes: OnBytes | None = None) -> Taught:
    """Learn from a log, each page in one transaction, after what an interrupted run has learnt of it.

    LearnerBusy if another learner works, LogUnreadable if the file is damaged; then nothing is learnt.
    """
    async with atlas.db.only_one(LOCK) as is_only:
        if not is_only:
            raise LearnerBusy("another learner is at work: wait until it is done, then run this again")
        return await _Lesson(atlas, log, on_bytes).learn()


async def _importer(atlas: Atlas, log: Log) -> LogImport:
    return LogImport(await pseudonyms_of(atlas), log.agent, now=atlas.clock.now())


class _Lesson:
    """One import under the learner's lock."""

    def __init__(self, atlas: Atlas, log: Log, on_bytes: OnBytes | None) -> None:
        self._atlas, self._log, self._on_bytes = atlas, log, on_bytes
        self._dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._new = self._changed = self._forgotten = self._known = 0
        self._proven: set[str] = set()

    async def learn(self) -> Taught:
        known = await self._dao.cursors_beginning_with(_IMPORT)
        contents = _contents(self._log, known, self._on_bytes)
        source = contents.source
        position = await self._dao.cursor(source, _begun(contents, known))
        done, _, all_of_it = position.partition(" ")
        reader = _Reader(self._log, await _importer(self._atlas, self._log), self._on_bytes)
        if all_of_it:
            self._known = await self._dao.count_known()
        else:
            await self._learn(reader, source, int(done))
            await self._judge()
        return Taught(
            self._log.format,
            reader.rows,
            reader.observations,
            reader.refused,
            reader.refused_rows,
            reader.unclear_outcomes,
            int(done),
            bool(all_of_it),
            self._new,
            self._changed,
            self._forgotten,
            self._known,
        )

    async def _learn(self, reader: _Reader, source: str, skipped: int) -> None:
        classes = detector_classes(self._atlas.settings.learner.off)
        models = await self._dao.models([*Knowledge.model_names(classes), *NEXT_ACTIONS])
        knowledge, sequences = Knowledge.restore(classes, models), Sequences(models)
        learn = partial(self._learn_page, knowledge, sequences, source)
        position = str(skipped)
        pages = reader.pages(self._atlas.settings.learner.batch_size, skipped)
        for number in count(1):
            with without_collection():
                page = next(pages, None)
                if page is not None and (reader.observations or skipped):
                    position = await learn(page, position, str(skipped + reader.rows))
            if page is None:
                break
            if number % _PAGES_BETWEEN_JUDGEMENTS == 0:
                await self._judge()
        if reader.observations or skipped:
            with without_collection():
                await sequences.end_log(source)
            end = f"{position} {_ALL}"
            await store_learnt(self._dao, source, position, end, Learnt(), sequences.models())
        else:
            # With other columns named, the same file may be readable.
            await self._dao.reset_cursors([source])

    async def _learn_page(
        self,
        knowledge: Knowledge,
        sequences: Sequences,
        source: str,
        page: Sequence[Observation],
        start: str,
        end: str,
    ) -> str:
        """Learn and store a page of the log, which may be empty; returns the position after it."""
        learnt = await knowledge.learn(page, "observations") if page else Learnt()
        await sequences.learn_log(source, page)
        findings = self._kept(learnt.findings)
        states = [*knowledge.models("observations"), *sequences.models()] if page else []
        stored = await store_learnt(self._dao, source, start, end, Learnt(findings), states)
        self._proven |= stored.proven
        self._new += stored.new
        self._changed += stored.changed
        return end

    def _kept(self, findings: Iterable[Finding]) -> list[Finding]:
        """The findings, with evidence of days beyond the retention as if counted today, or it would go."""
        now = self._atlas.clock.now()
        oldest = (now - timedelta(days=self._atlas.settings.learner.max_retention_days)).date()
        return [replace(each, evidence=_moved(each.evidence, oldest, now.date())) for each in findings]

    async def _judge(self) -> None:
        now = self._atlas.clock.now()
        kept = await keep_within_limits(self._dao, self._atlas.settings.learner, now, self._proven)
        self._proven.clear()
        self._forgotten += kept.forgotten
        self._known = kept.known


class _Reader:
    """Reads a log as pages of observations, counts its rows, and remembers the first that are refused."""

    def __init__(self, log: Log, importer: LogImport, on_bytes: OnBytes | None) -> None:
        self._log, self._importer, self._on_bytes = log, importer, on_bytes
        self.rows = self.observations = self.refused = self.unclear_outcomes = 0
        self.refused_rows: list[RefusedRow] = []

    def pages(self, size: int, skipped: int) -> Iterator[list[Observation]]:
        """The observations after so many rows; `rows` then says how many rows have become pages."""
        with _opened(self._log.path) as (file, report):
            events = islice(_parsed(self._log, file), skipped, None)
            page: list[Observation] = []
            rows = 0
            while some := list(islice(events, min(size, _ROWS_BETWEEN_REPORTS))):
                rows += len(some)
                page += (each for row in some if (each := self._observation(row)) is not None)
                if self._on_bytes is not None:
                    self._on_bytes(*report())
                if rows >= size:
                    self._count(rows, page)
                    yield page
                    page, rows = [], 0
            if rows:
                self._count(rows, page)
                yield page

    def _count(self, rows: int, page: Sequence[Observation]) -> None:
        self.rows += rows
        self.observations += len(page)

    def _observation(self, row: Parsed) -> Observation | None:
        if isinstance(row, Malformed):
            self._refuse(row.line, row.problem)
            return None
        if "outcome" not in self._log.columns and row.has_unclear_outcome:
            self.unclear_outcomes += 1
        try:
            return self._importer.observation(row)
        except (ValueError, OverflowError) as error:
            self._refuse(row.line, str(error))
            return None

    def _refuse(self, line: int, reason: str) -> None:
        self.refused += 1
        if len(self.refused_rows) < _MOST_SHOWN:
            self.refused_rows.append(RefusedRow(line, reason))


def _moved(evidence: Mapping[date, Counts], oldest: date, to: date) -> dict[date, Counts]:
    kept: dict[date, Counts] = {}
    for day, counts in sorted(evidence.items()):
        counted_on = day if day >= oldest else to
        kept[counted_on] = kept.get(counted_on, Counts()) + counts
    return kept


def _parsed(log: Log, file: BinaryIO) -> Iterator[Parsed]:
    match log.format:
        case "jsonl":
            return parse_jsonl(file, log.columns)
        case "csv":
            return parse_csv(file, log.columns)
        case "xes":
            return parse_xes(iter(lambda: file.read(_CHUNK_BYTES), b""), log.columns)


@dataclass(frozen=True, slots=True)
class _Contents:
    """The name of a file's cursor, and that of the longest known file that it begins with."""

    source: str
    grown_from: str | None


def _begun(contents: _Contents, known: Mapping[str, str]) -> str:
    """How far a file is learnt by way of what it was before it grew."""
    # Cursors once were without a length.
    without_length = contents.source.rpartition(" ")[0]
    if without_length in known:
        return known[without_length]
    return known[contents.grown_from].partition(" ")[0] if contents.grown_from else _NOTHING_YET


class _Hash:
    """The hash of a file while it is read, compared with those of known files on the way."""

    def __init__(self, known: Iterable[str]) -> None:
        self._hash, self._length = blake2b(digest_size=16), 0
        self._known = set(known)
        lengths = {int(length) for name in self._known if (length := name.rpartition(" ")[2]).isdigit()}
        self._lengths = sorted(lengths, reverse=True)
        self.grown_from: str | None = None

    @property
    def source(self) -> str:
        return f"{_IMPORT}{self._hash.hexdigest()} {self._length}"

    def update(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while self._lengths and self._lengths[-1] <= self._length + len(view):
            cut = self._lengths.pop() - self._length
            self._add(view[:cut])
            view = view[cut:]
            if self.source in self._known:
                self.grown_from = self.source
        self._add(view)

    def _add(self, part: memoryview) -> None:
        self._hash.update(part)
        self._length += len(part)


def _contents(log: Log, known: Iterable[str], on_bytes: OnBytes | None) -> _Contents:
    """What the file holds; LogUnreadable if it is damaged, or a line is too long to be one."""
    hashed, since_newline = _Hash(known if log.format != "xes" else ()), 0
    try:
        if not log.path.is_file():
            raise LogUnreadable(
                f"{log.path} is {'no regular file: it is read twice' if log.path.exists() else 'not there'}"
            )
        with _opened(log.path) as (file, report):
            while chunk := file.read(_CHUNK_BYTES):
                hashed.update(chunk)
                _, newline, after = chunk.rpartition(b"\n")
                since_newline = len(after) + (0 if newline else since_newline)
                if since_newline > _LONGEST_LINE_BYTES and log.format != "xes":
                    most = f"{_LONGEST_LINE_BYTES >> 20} MiB"
                    raise LogUnreadable(
                        f"{log.path} has a line of more than {most}: it is no {log.format} log"
                    )
                if on_bytes is not None:
                    on_bytes(0, report()[1])
    except (OSError, EOFError, zlib.error) as error:
        raise LogUnreadable(f"{log.path} can't be read: {_reason(error)}") from error
    return _Contents(hashed.source, hashed.grown_from)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{error}; the file is cut off or damaged, and nothing was learnt"


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, Callable[[], tuple[float, float]]]]:
    """The file, decompressed if it is gzipped, and how many of its bytes have been read and there are."""
    with path.open("rb") as raw:
        size = os.fstat(raw.fileno()).st_size
        is_gzip = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not is_gzip:
            yield raw, lambda: (raw.tell(), size)
            return
        with gzip.GzipFile(fileobj=raw) as unzipped:
            buffered = io.BufferedReader(cast("io.RawIOBase", unzipped), _CHUNK_BYTES)
            yield cast("BinaryIO", buffered), lambda: (raw.tell(), size)
