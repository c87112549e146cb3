"""A catalogue: the channels, videos and samples that the emulator serves, in one SQLite file.

Videos are numbered in order of publication. `curves` interpolates their counters between samples.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import orjson

from atlas import paths
from maia.emulator.columns import Columns, Origin, descending
from maia.emulator.curves import UNRECORDED, Counter, Counters, Curves, Sample, SampleRows
from maia.emulator.search_index import Hits, Postings, Query, SearchIndex, field_terms
from maia.errors import MaiaError
from maia.youtube.methods import Duration, EventType, Order
from maia.youtube.resources import LiveState

if TYPE_CHECKING:
    import numpy.typing as npt

MOST_RESULTS = 500

_APPLICATION_ID = 0x504C4549
_FORMAT = 4
_VIDEOS_IN_PART = 100_000


def load_statements(path: Path) -> dict[str, str]:
    """Read the SQL statements of a file, keyed by their `-- name:` lines."""
    _, *pieces = re.split(r"^-- name: (\w+)$", path.read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(pieces[::2], pieces[1::2], strict=True))


_SQL = load_statements(Path(__file__).with_suffix(".sql"))


class CatalogueError(MaiaError):
    """The catalogue cannot be read or written."""


@dataclass(frozen=True, slots=True)
class CatalogueChannel:
    """A channel. `subscribers` is None if hidden. Instants are seconds since 1970, UTC."""

    id: str
    title: str
    description: str = ""
    published_at: int = 0
    country: str | None = None
    handle: str | None = None
    subscribers: int | None = None


@dataclass(frozen=True, slots=True)
class CatalogueVideo:
    """A video without its counters. Instants are seconds since 1970, UTC.

    A premiere or live stream has a `scheduled_start_at` or `actual_start_at`. It is visible from
    `published_at`, is live between `actual_start_at` (None: never) and `actual_end_at` (None: it never ends),
    and its counters grow from `actual_start_at` on.
    """

    id: str
    channel_id: str
    title: str
    published_at: int
    description: str = ""
    published_estimated: bool = False
    category_id: int | None = None
    tags: tuple[str, ...] = ()
    duration_s: int | None = None
    language: str | None = None
    removed_at: int | None = None
    scheduled_start_at: int | None = None
    actual_start_at: int | None = None
    actual_end_at: int | None = None
    blocked_in: tuple[str, ...] = ()
    """The regions in which it cannot be watched."""

    @property
    def is_broadcast(self) -> bool:
        return self.scheduled_start_at is not None or self.actual_start_at is not None

    def published_in(self, state: LiveState) -> int:
        """The publication time that the API reports: once a broadcast is live, its start."""
        aired_at = None if state == "upcoming" else self.actual_start_at
        return self.published_at if aired_at is None else aired_at


class CatalogueWriter:
    """Fills a new catalogue. Channels may come at any time, videos in order of publication."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._postings, self._part = Postings(), 0
        self._videos: list[tuple[Any, ...]] = []
        self._samples: list[tuple[int, int, int, int, int]] = []
        self._last_sample = (-1, 0)
        self._last = (-(1 << 62), "")
        self.videos = 0

    def add_channels(self, channels: Iterable[CatalogueChannel]) -> None:
        rows = (
            (c.id, c.title, c.description, c.published_at, c.country, c.handle, c.subscribers)
            for c in channels
        )
        self._db.executemany(_SQL["insert_channel"], rows)

    def add(self, video: CatalogueVideo, channel_title: str, samples: Iterable[Sample]) -> None:
        """Append a video and its samples, oldest first; ValueError if the order is not kept."""
        position = (video.published_at, video.id)
        if position <= self._last:
            raise ValueError(f"video {video.id} is not after {self._last[1]} in order of publication")
        self._last = position
        n, self.videos = self.videos, self.videos + 1
        self._videos.append(
            (n, video.id, video.channel_id, video.title, video.description, video.published_at,
             video.published_estimated, video.category_id, orjson.dumps(video.tags).decode(),
             video.duration_s, video.language, video.removed_at,
             video.scheduled_start_at, video.actual_start_at, video.actual_end_at,
             " ".join(video.blocked_in) or None)
        )  # fmt: skip
        for sample in samples:
            views, likes, comments = (UNRECORDED if count is None else count for count in sample[1:])
            self._samples.append((n, sample.at, views, likes, comments))
        self._postings.add(n, field_terms(video.title, video.tags, channel_title, video.description))
        if len(self._videos) >= 2000:
            self._flush()
        if self.videos % _VIDEOS_IN_PART == 0:
            self._write_postings()

    def add_samples(self, rows: SampleRows) -> None:
        """Append samples of videos that were added without; ValueError if they are not ascending."""
        self._flush()
        self._write_samples(rows)

    def _flush(self) -> None:
        self._db.executemany(_SQL["insert_video"], self._videos)
        self._videos.clear()
        self._write_samples(SampleRows.of(self._samples))
        self._samples.clear()

    def _write_samples(self, rows: SampleRows) -> None:
        self._last_sample = rows.check_order(self._last_sample)
        if len(rows.n):
            columns = (column.astype(np.int64).tobytes() for column in rows)
            self._db.execute(_SQL["insert_sample_part"], tuple(columns))

    def _write_postings(self) -> None:
        rows = ((term, self._part, postings) for term, postings in self._postings.drain())
        self._db.executemany(_SQL["insert_posting"], rows)
        self._part += 1

    def finish(self, origin: Mapping[str, Any]) -> None:
        """Write what is still in memory, and a record of where the catalogue comes from."""
        self._flush()
        self._write_postings()
        facts = {"origin": orjson.dumps(origin).decode(), "byte_order": sys.byteorder}
        self._db.executemany(_SQL["insert_meta"], facts.items())


def _is_catalogue(path: Path) -> bool:
    """Check the file's header for our application id, which SQLite keeps at byte 68."""
    if not paths.is_file(path):
        return False
    with path.open("rb") as file:
        header = file.read(100)
    return header.startswith(b"SQLite format 3\0") and int.from_bytes(header[68:72]) == _APPLICATION_ID


@contextmanager
def new_catalogue(path: Path, origin: Mapping[str, Any]) -> Iterator[CatalogueWriter]:
    """Write a catalogue to a temporary file, and move it to `path` if the block succeeds."""
    if paths.exists(path) and not _is_catalogue(path):
        raise CatalogueError(f"{path} exists and is not a catalogue: name another file, or remove it")
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(partial, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise CatalogueError(f"cannot write the catalogue {path}: {error}") from error
    try:
        with closing(connection) as db:
            # No journal: a failed write deletes the whole temporary file anyway.
            db.execute("PRAGMA journal_mode = OFF")
            db.execute("PRAGMA synchronous = OFF")
            db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {_FORMAT}")
            db.executescript(_SQL["schema"])
            db.execute("BEGIN")
            writer = CatalogueWriter(db)
            yield writer
            writer.finish(origin)
            db.execute("COMMIT")
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except (OSError, sqlite3.Error) as error:
        raise CatalogueError(f"cannot write the catalogue {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


class Catalogue:
    """A catalogue opened for reading: videos and their counters at an instant, and search."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db, self.path = db, path
        self.meta: dict[str, str] = dict(db.execute(_SQL["meta"]))
        self.ids: list[str] = []
        self.published = array("q")
        self._removed = array("q")
        self.channel_of: list[str] = []
        self.categories = array("h")
        self._duration = array("q")
        self._channel_numbers: dict[str, int] = {}
        self._origin, self._origin_numbers = array("q"), dict[Origin, int]()
        self.uploads: dict[str, list[int]] = {}
        self._load_videos()
        self.numbers = {video_id: n for n, video_id in enumerate(self.ids)}
        self._on_air: dict[int, tuple[float, float]] = {}
        self._curves = Curves(self._load_broadcasts(), self._load_samples())
        self.columns = self._columns()
        self.channel_ids, self.origins = list(self._channel_numbers), list(self._origin_numbers)
        self.subscribers: dict[str, int | None] = dict(db.execute(_SQL["channel_subscribers"]))
        self.counts = self._curves.at
        """The counters of video number `n` at an instant, in seconds since 1970."""
        self.index = SearchIndex(self._postings, len(self.ids))
        self._channels: dict[str, CatalogueChannel] = {}

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open the file at `path`; CatalogueError if it is not a catalogue in the current format."""
        path = Path(path)
        if not paths.is_file(path):
            raise CatalogueError(
                f"there is no catalogue {path}: make one by `maia catalogue synthesize -o {path}`, "
                f"or from recorded data by `maia catalogue import -o {path} CSV…`"
            )
        with ExitStack() as stack:
            try:
                db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
                stack.callback(db.close)
                marks = [
                    db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
                ]
                if marks != [_APPLICATION_ID, _FORMAT]:
                    raise CatalogueError(
                        f"{path} is not a catalogue of this version: import or synthesize it again"
                    )
                catalogue = cls(db, path)
            except sqlite3.Error as error:
                raise CatalogueError(f"cannot read the catalogue {path}: {error}") from error
            stack.pop_all()
        return catalogue

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.ids)

    def _load_videos(self) -> None:
        rows = self._db.execute(_SQL["video_columns"])
        countries: dict[str, str | None] = dict(self._db.execute(_SQL["channel_countries"]))
        for n, video_id, channel_id, published_at, removed_at, category_id, duration_s, language in rows:
            origin = (countries.get(channel_id), language)
            self._origin.append(self._origin_numbers.setdefault(origin, len(self._origin_numbers)))
            self.ids.append(video_id)
            self.published.append(published_at)
            self._removed.append(removed_at)
            self.channel_of.append(channel_id)
            self.categories.append(category_id)
            self._duration.append(duration_s)
            self._channel_numbers.setdefault(channel_id, len(self._channel_numbers))
            self.uploads.setdefault(channel_id, []).append(n)

    def _columns(self) -> Columns:
        owners = map(self._channel_numbers.__getitem__, self.channel_of)
        live_from, live_to = np.full((2, len(self.ids)), -inf)
        for n, (start, end) in self._on_air.items():
            live_from[n], live_to[n] = start, end
        return Columns(
            np.asarray(self.published, np.int64),
            np.asarray(self._removed, np.int64),
            np.fromiter(owners, np.int64, len(self.ids)),
            np.asarray(self.categories, np.int16),
            np.asarray(self._duration, np.int64),
            np.asarray(self._origin, np.int64),
            live_from,
            live_to,
        )

    def _load_broadcasts(self) -> array[int]:
        """Load when broadcasts are live, and return when each video's counters start to grow."""
        grows_from = array("q", self.published)
        for n, _, start, end in self._db.execute(_SQL["broadcasts"]):
            self._on_air[n] = (inf if start is None else start, inf if end is None else end)
            if start is not None:
                grows_from[n] = start
        return grows_from

    def _load_samples(self) -> SampleRows:
        parts = self._db.execute(_SQL["sample_parts"]).fetchall()
        columns = [np.frombuffer(b"".join(column), np.int64) for column in zip(*parts, strict=True)] or [
            np.empty(0, np.int64)
        ] * 5
        if self.meta["byte_order"] != sys.byteorder:
            columns = [column.byteswap() for column in columns]
        return SampleRows(*columns)

    def _postings(self, term: str) -> array[int]:
        postings = array("I")
        for (part,) in self._db.execute(_SQL["postings"], (term,)):
            postings.frombytes(part)
        if self.meta["byte_order"] != sys.byteorder:
            postings.byteswap()
        return postings

    @cached_property
    def span(self) -> tuple[datetime, datetime]:
        """First and last publication or sample, in UTC; CatalogueError if the catalogue is empty."""
        if not self.ids:
            raise CatalogueError(f"{self.path} holds no video: import or synthesize another")
        first, last = self._curves.span or (self.published[0], self.published[-1])
        bounds = min(first, self.published[0]), max(last, self.published[-1])
        return datetime.fromtimestamp(bounds[0], UTC), datetime.fromtimestamp(bounds[1], UTC)

    @cached_property
    def busy_span(self) -> tuple[datetime, datetime]:
        """The span without the older videos of a synthesized world, which are there from its start."""
        first, last = self.span
        start = orjson.loads(self.meta["origin"]).get("start")
        return max(first, datetime.fromisoformat(start)) if start else first, last

    def number(self, video_id: str) -> int | None:
        """The video's number, or None if the catalogue has no such video."""
        return self.numbers.get(video_id)

    def video(self, n: int) -> CatalogueVideo:
        """Video number `n`, without its counters."""
        row = self._db.execute(_SQL["video"], (n,)).fetchone()
        video_id, channel_id, title, published_at, description = row[:5]
        return CatalogueVideo(
            video_id,
            channel_id,
            title,
            published_at,
            description,
            published_estimated=bool(row[5]),
            category_id=row[6],
            tags=tuple(orjson.loads(row[7])),
            duration_s=row[8],
            language=row[9],
            removed_at=row[10],
            scheduled_start_at=row[11],
            actual_start_at=row[12],
            actual_end_at=row[13],
            blocked_in=tuple((row[14] or "").split()),
        )

    def channel(self, channel_id: str) -> CatalogueChannel | None:
        """The channel with that id, or None."""
        if channel_id not in self._channels:
            row = self._db.execute(_SQL["channel"], (channel_id,)).fetchone()
            if row is None:
                return None
            self._channels[channel_id] = CatalogueChannel(*row)
        return self._channels[channel_id]

    def channel_by_handle(self, handle: str) -> CatalogueChannel | None:
        """The channel with that handle, or None; the @ is optional and case does not matter."""
        wanted = "@" + handle.removeprefix("@")
        row = self._db.execute(_SQL["channel_id_by_handle"], (wanted,)).fetchone()
        return self.channel(row[0]) if row else None

    def visible(self, n: int, at: float) -> bool:
        """Whether the video is published and not yet removed at `at` (seconds since 1970)."""
        removed = self._removed[n]
        return self.published[n] <= at and (not removed or at < removed)

    def live_state(self, n: int, at: float) -> LiveState:
        """Whether video number `n` is upcoming, live, or neither."""
        on_air = self._on_air.get(n)
        if on_air is None or at >= on_air[1]:
            return "none"
        return "live" if at >= on_air[0] else "upcoming"

    def counts_of(self, video_id: str, at: datetime) -> Counters | None:
        """The counters of a video at an instant; None if it is not visible then."""
        n, instant = self.numbers.get(video_id), at.timestamp()
        return self.counts(n, instant) if n is not None and self.visible(n, instant) else None

    def counter_at(
        self, counter: Counter, numbers: npt.NDArray[np.int64], at: float | npt.NDArray[np.float64]
    ) -> npt.NDArray[np.int64]:
        """A counter of many videos at an instant, or each at its own; HIDDEN if hidden or never recorded."""
        return self._curves.column_at(counter, numbers, at)

    def views_at(
        self, numbers: npt.NDArray[np.int64], at: float | npt.NDArray[np.float64]
    ) -> npt.NDArray[np.int64]:
        """The views of many videos at an instant, or each at its own; 0 if hidden or never recorded."""
        return np.maximum(self.counter_at("views", numbers, at), 0)

    def uploads_of(self, channel_id: str, at: float) -> list[int]:
        """The numbers of a channel's visible videos, newest first."""
        uploads = self.uploads.get(channel_id, ())
        published = bisect_left(uploads, bisect_right(self.published, at))
        return [n for n in reversed(uploads[:published]) if self.visible(n, at)]

    def visible_ids(self, at: datetime) -> list[str]:
        """The ids of all videos visible at an instant, oldest first."""
        found = self.published_between(None, at.timestamp(), at.timestamp())
        return [self.ids[n] for n in found.tolist()]

    def _bounds(self, after: float | None, before: float | None, at: float) -> tuple[int, int]:
        """The numbers of the videos published between two instants, both included, and by `at`."""
        low = 0 if after is None else bisect_left(self.published, after)
        return low, max(low, bisect_right(self.published, at if before is None else min(at, before)))

    def published_between(
        self, after: float | None, before: float | None, at: float
    ) -> npt.NDArray[np.int64]:
        """The numbers of the videos visible at `at` and published between two instants, oldest first."""
        low, high = self._bounds(after, before, at)
        removed = self.columns.removed[low:high]
        return np.flatnonzero((removed == 0) | (removed > at)) + low

    def search(
        self,
        query: str | None,
        at: float,
        *,
        order: Order = "relevance",
        published_after: float | None = None,
        published_before: float | None = None,
        channel_id: str | None = None,
        category_id: int | None = None,
        duration: Duration | None = None,
        event_type: EventType | None = None,
    ) -> list[int]:
        """The numbers of all visible videos that match, in order; both publication bounds are inclusive.

        Without a query every video matches, and relevance means newest first. A medium video is 4 to 20
        minutes long. Upcoming and live videos have no duration yet.
        """
        found = self.matching(query, at, published_after, published_before)
        found = self.having(
            found,
            at,
            channel_id=channel_id,
            category_id=category_id,
            duration=duration,
            event_type=event_type,
        )
        ordered = self.ordered(found, order, at, by_relevance=query is not None)
        numbers: list[int] = ordered.tolist()
        return numbers

    @cached_property
    def blocked(self) -> Mapping[str, npt.NDArray[np.int64]]:
        """The videos that cannot be watched in a region, by region."""
        by_region: dict[str, list[int]] = {}
        for n, regions in self._db.execute(_SQL["blocked"]):
            for region in regions.split():
                by_region.setdefault(region, []).append(n)
        return {region: np.array(numbers, np.int64) for region, numbers in by_region.items()}

    def watchable_in(self, region: str, hits: Hits) -> Hits:
        """Only the hits that can be watched in a region."""
        blocked = self.blocked.get(region)
        return hits if blocked is None else hits.where(~np.isin(hits.numbers, blocked))

    def matching(
        self, query: Query | str | None, at: float, after: float | None = None, before: float | None = None
    ) -> Hits:
        """The videos visible at `at` that match a query (None: all), published between two instants."""
        if query is None:
            numbers = self.published_between(after, before, at)
            return Hits(numbers, np.zeros(len(numbers)))
        hits = self.index.match(query, *self._bounds(after, before, at))
        removed = self.columns.removed[hits.numbers]
        return hits.where((removed == 0) | (removed > at))

    def having(
        self,
        hits: Hits,
        at: float,
        *,
        channel_id: str | None = None,
        category_id: int | None = None,
        duration: Duration | None = None,
        event_type: EventType | None = None,
    ) -> Hits:
        """Only the hits of a channel, category, duration or kind of broadcast."""
        columns = self.columns
        if channel_id is not None:
            hits = hits.where(columns.channel[hits.numbers] == self._channel_numbers.get(channel_id, -1))
        if category_id is not None:
            hits = hits.where(columns.category[hits.numbers] == category_id)
        if duration is not None:
            hits = hits.where(columns.lasts(duration, hits.numbers, at))
        if event_type is not None:
            hits = hits.where(columns.in_state(event_type, hits.numbers, at))
        return hits

    def ordered(
        self, hits: Hits, order: Order, at: float, *, by_relevance: bool = True, most: int | None = None
    ) -> npt.NDArray[np.int64]:
        """The hits, or the first `most` of them, in an order of search.list; equals are newest first."""
        newest_first = hits.numbers[::-1]
        if order == "title":
            titles = [self._titles[n] for n in newest_first.tolist()]
            return newest_first[np.array(sorted(range(len(titles)), key=titles.__getitem__), np.int64)][:most]
        keys: npt.NDArray[Any]
        if order == "viewCount":
            keys = self.views_at(newest_first, at)
        elif order == "rating":
            keys = self._likes_per_view(newest_first, at)
        elif order in ("relevance", "videoCount") and by_relevance:
            keys = hits.scores[::-1]
        else:
            return newest_first[:most]
        return newest_first[descending(keys, most)]

    def _likes_per_view(self, numbers: npt.NDArray[np.int64], at: float) -> npt.NDArray[np.float64]:
        views = self.views_at(numbers, at)
        likes = np.maximum(self.counter_at("likes", numbers, at), 0)
        return np.where(views > 0, likes / np.maximum(views, 1), 0.0)

    @cached_property
    def _titles(self) -> list[str]:
        return [title.casefold() for (title,) in self._db.execute(_SQL["titles"])]

    def search_ids(
        self,
        query: str | None,
        at: datetime,
        published_after: datetime | None = None,
        *,
        order: Order = "relevance",
        limit: int | None = MOST_RESULTS,
    ) -> list[str]:
        """The ids that search.list would return at an instant, over all its pages."""
        after = published_after.timestamp() if published_after else None
        hits = self.matching(query, at.timestamp(), after)
        found = self.ordered(hits, order, at.timestamp(), by_relevance=query is not None, most=limit)
        return [self.ids[n] for n in found.tolist()]

    def summary(self) -> dict[str, Any]:
        """Totals for the whole catalogue, as `maia catalogue show` prints them."""
        figures: dict[str, Any] = {
            "path": str(self.path),
            "bytes": self.path.stat().st_size,
            "origin": orjson.loads(self.meta["origin"]),
        }
        for part in ("videos", "channels", "search"):
            if part == "search":
                figures |= self._summary_of_samples()
            cursor = self._db.execute(_SQL[f"summary_of_{part}"])
            names = [column[0] for column in cursor.description]
            for name, value in zip(names, cursor.fetchone(), strict=True):
                figures[name] = _iso(value) if name.endswith("_at") else int(value)
        return figures

    def _summary_of_samples(self) -> dict[str, Any]:
        first, last = self._curves.span or (None, None)
        return {
            "samples": len(self._curves), "first_sample_at": _iso(first), "last_sample_at": _iso(last)
        }  # fmt: skip


def _iso(seconds: int | None) -> str | None:
    return None if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
