"""Builds a catalogue from recorded data. The order of rows does not matter.

Every sample is kept; of two at the same instant, the one with more views. Each fact about a video comes from
the newest row that has it. Rows without a capture time count as older than all others; among these, a later
file counts as newer. A channel without an id gets the id of the only known channel with its title, or else
one made from the title. If no row gives a publication time, it is estimated as a day before the first sample
and marked as estimated.
"""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson

from maia.emulator.catalogue import (
    CatalogueChannel,
    CatalogueError,
    CatalogueVideo,
    CatalogueWriter,
    load_statements,
    new_catalogue,
)
from maia.emulator.curves import Sample
from maia.emulator.recordings import ALIASES, BadRow, ReadOptions, RecordedRow, normal_name, open_recording

_DAY_S = 86400
_BATCH = 2000
_UNDATED = -(1 << 40)
_PRESENT = -1
_UNKNOWN_CHANNEL = "Unknown channel"
FACTS = (
    "title", "description", "published_at", "channel_id", "channel_title", "subscribers", "category_id",
    "tags", "duration_s", "language", "removed",
)  # fmt: skip
_SQL = load_statements(Path(__file__).with_suffix(".sql"))


@dataclass(slots=True)
class FileReport:
    """Counts for one imported file."""

    path: str
    rows: int = 0
    samples: int = 0
    bad_rows: int = 0
    columns: tuple[str, ...] = ()
    unused_columns: tuple[str, ...] = ()


@dataclass(slots=True)
class ImportReport:
    """Counts for an import. `undated` videos, with neither publication nor sample, were left out."""

    catalogue: str
    files: list[FileReport] = field(default_factory=list)
    videos: int = 0
    channels: int = 0
    samples: int = 0
    estimated_publications: int = 0
    untitled: int = 0
    undated: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"bad_rows": sum(file.bad_rows for file in self.files)}


def import_recordings(
    path: Path,
    files: Sequence[Path],
    reading: ReadOptions,
    *,
    on_bad_row: Callable[[Path, BadRow], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Write a catalogue of all `files` to `path`; `progress` is called with the number of bytes read."""
    _check_mapping(reading.columns)
    report = ImportReport(str(path))
    with closing(sqlite3.connect("", isolation_level=None)) as staging:
        staging.execute("PRAGMA journal_mode = OFF")
        staging.execute("PRAGMA synchronous = OFF")
        staging.executescript(_SQL["staging"])
        staging.execute("BEGIN")
        mapped: set[str] = set()
        done = 0
        for number, file in enumerate(files):
            base = done
            on_read = (lambda read, base=base: progress(base + read)) if progress else None
            report.files.append(_stage(staging, file, number, reading, mapped, on_bad_row, on_read))
            done += file.stat().st_size
            if progress:
                progress(done)
        _check_mapped(reading.columns, mapped, files)
        if not any(file.rows for file in report.files):
            raise CatalogueError(
                f"no row of {', '.join(map(str, files))} could be read: see the reasons above"
            )
        origin = {"made_by": "import", "files": [file.name for file in files]}
        with new_catalogue(path, origin) as writer:
            _write(staging, writer, report)
    return report


def _check_mapping(columns: Mapping[str, str]) -> None:
    for ours in columns:
        if ours not in ALIASES:
            raise CatalogueError(f"--columns {ours}=…: {ours} is not one of {', '.join(ALIASES)}")


def _check_mapped(columns: Mapping[str, str], mapped: set[str], files: Sequence[Path]) -> None:
    for ours, theirs in columns.items():
        if ours not in mapped:
            raise CatalogueError(
                f"--columns {ours}={theirs}: there is no column {theirs!r} in {', '.join(map(str, files))}"
            )


def _stage(
    staging: sqlite3.Connection,
    path: Path,
    number: int,
    reading: ReadOptions,
    mapped: set[str],
    on_bad_row: Callable[[Path, BadRow], None] | None,
    progress: Callable[[int], None] | None,
) -> FileReport:
    report = FileReport(str(path))
    stage = _Stage(staging, _UNDATED + number)
    with open_recording(path, reading) as (recording, file):
        names = {normal_name(name) for name in recording.names}
        mapped.update(ours for ours, theirs in reading.columns.items() if normal_name(theirs) in names)
        report.columns, report.unused_columns = tuple(recording.columns), recording.unused
        for row in recording:
            if isinstance(row, BadRow):
                report.bad_rows += 1
                if on_bad_row:
                    on_bad_row(path, row)
                continue
            report.rows += 1
            report.samples += row.sample is not None
            stage.put(row)
            if progress and report.rows % _BATCH == 0:
                progress(file.tell())
    stage.flush()
    return report


class _Stage:
    """Collects rows in the staging tables."""

    def __init__(self, staging: sqlite3.Connection, undated: int) -> None:
        self._db, self._undated = staging, undated
        self._facts: list[tuple[Any, ...]] = []
        self._samples: list[tuple[Any, ...]] = []

    def put(self, row: RecordedRow) -> None:
        if row.sample is not None:
            self._samples.append((row.video_id, *row.sample))
        seen = self._undated if row.captured_at is None else row.captured_at
        tags = None if row.tags is None else orjson.dumps(row.tags).decode()
        removed = None if row.removed is None else (row.captured_at or 0) * row.removed
        values = (
            row.title, row.description, row.published_at, row.channel_id, row.channel_title, row.subscribers,
            row.category_id, tags, row.duration_s, row.language, removed,
        )  # fmt: skip
        facts = [(row.video_id, fact, seen, value) for fact, value in enumerate(values) if value is not None]
        self._facts.extend(facts or [(row.video_id, _PRESENT, seen, None)])
        if len(self._facts) + len(self._samples) > 5 * _BATCH:
            self.flush()

    def flush(self) -> None:
        self._db.executemany(_SQL["put_fact"], self._facts)
        self._db.executemany(_SQL["put_sample"], self._samples)
        self._facts.clear()
        self._samples.clear()


@dataclass(frozen=True, slots=True)
class _Described:
    """Everything known about a video before its channel is resolved."""

    id: str
    published_at: int | None
    channel_seen: int
    facts: dict[str, Any]

    @property
    def channel_key(self) -> tuple[str | None, str | None]:
        return self.facts["channel_id"], self.facts["channel_title"]


def _described(staging: sqlite3.Connection) -> Iterator[_Described]:
    """All videos in order of publication, known or estimated; those without come first."""
    rows = staging.execute(_SQL["described_videos"], {"day_s": _DAY_S})
    for video_id, published_at, seen, *values in rows:
        facts = dict(zip(FACTS, values, strict=True))
        yield _Described(video_id, published_at, _UNDATED if seen is None else seen, facts)


def _write(staging: sqlite3.Connection, writer: CatalogueWriter, report: ImportReport) -> None:
    owners = _owners(staging)
    channels = _channels(staging, owners)
    writer.add_channels(channels.values())
    report.channels = len(channels)
    for described in _described(staging):
        if described.published_at is None:
            report.undated += 1
            continue
        channel = channels[owners[described.channel_key]]
        samples = [Sample(*counts) for counts in staging.execute(_SQL["samples_of"], (described.id,))]
        writer.add(_video(described, channel.id), channel.title, samples)
        report.videos += 1
        report.samples += len(samples)
        report.estimated_publications += described.facts["published_at"] is None
        report.untitled += described.facts["title"] is None


def _video(described: _Described, channel_id: str) -> CatalogueVideo:
    facts = described.facts
    return CatalogueVideo(
        described.id,
        channel_id,
        facts["title"] or described.id,
        described.published_at or 0,
        facts["description"] or "",
        facts["published_at"] is None,
        facts["category_id"],
        tuple(orjson.loads(facts["tags"])) if facts["tags"] else (),
        facts["duration_s"],
        facts["language"],
        facts["removed"] or None,
    )


def _owners(staging: sqlite3.Connection) -> dict[tuple[str | None, str | None], str]:
    """Resolve every recorded pair of channel id and title to a channel id."""
    keys = {described.channel_key for described in _described(staging) if described.published_at is not None}
    ids_by_title: dict[str, set[str]] = {}
    for channel_id, title in keys:
        if channel_id and title:
            ids_by_title.setdefault(title, set()).add(channel_id)
    owners: dict[tuple[str | None, str | None], str] = {}
    for channel_id, title in keys:
        known = ids_by_title.get(title or "", set())
        owners[channel_id, title] = channel_id or (
            next(iter(known)) if len(known) == 1 else synthesized_channel_id(title or _UNKNOWN_CHANNEL)
        )
    return owners


def _channels(
    staging: sqlite3.Connection, owners: Mapping[tuple[str | None, str | None], str]
) -> dict[str, CatalogueChannel]:
    """The channels by id, each with its newest title and its oldest video's publication."""
    newest: dict[str, tuple[int, str]] = {}
    subscribers: dict[str, int] = {}
    opened: dict[str, int] = {}
    for described in _described(staging):
        if described.published_at is None:
            continue
        channel_id = owners[described.channel_key]
        opened.setdefault(channel_id, described.published_at)
        if title := described.facts["channel_title"]:
            newest[channel_id] = max(newest.get(channel_id, (_UNDATED, "")), (described.channel_seen, title))
        if (count := described.facts["subscribers"]) is not None:
            subscribers[channel_id] = max(count, subscribers.get(channel_id, 0))
    return {
        channel_id: CatalogueChannel(
            channel_id,
            newest.get(channel_id, (0, _UNKNOWN_CHANNEL))[1],
            published_at=first_published_at,
            subscribers=subscribers.get(channel_id),
        )
        for channel_id, first_published_at in opened.items()
    }


def synthesized_channel_id(title: str) -> str:
    """A stable id in the API's form for a channel whose id is unknown."""
    digest = blake2b(title.encode(), digest_size=16, person=b"maia channel").digest()
    return "UC" + base64.urlsafe_b64encode(digest)[:22].decode()
