"""A catalogue: channels, videos and samples of their counters over time, in one SQLite file.

Videos are numbered in the order of their publication; `curves` tells how counters run between samples.
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
from pathlib import Path
from typing import Any, Literal, Self, get_args

import orjson

from maia.errors import MaiaError
from maia.youtube.curves import Counts, Curves, Sample
from maia.youtube.search_index import Postings, SearchIndex, field_terms

Order = Literal["date", "rating", "relevance", "title", "videoCount", "viewCount"]
Duration = Literal["any", "short", "medium", "long"]
ORDERS: tuple[Order, ...] = get_args(Order)
MOST_RESULTS = 500

_APPLICATION_ID = 0x504C4549
_FORMAT = 1
_VIDEOS_IN_PART = 100_000


def load_statements(path: Path) -> dict[str, str]:
    """The statements of a file by their `-- name:` lines."""
    _, *pieces = re.split(r"^-- name: (\w+)$", path.read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(pieces[::2], pieces[1::2], strict=True))


_SQL = load_statements(Path(__file__).with_suffix(".sql"))


class CatalogueError(MaiaError):
    """The catalogue cannot be read or written."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel; `subscribers` None: hidden. Instants are seconds since 1970, UTC."""

    id: str
    title: str
    description: str = ""
    published_at: int = 0
    country: str | None = None
    handle: str | None = None
    subscribers: int | None = None


@dataclass(frozen=True, slots=True)
class CatalogueVideo:
    """What does not change about a video; instants are seconds since 1970, UTC."""

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


class CatalogueWriter:
    """Fills a new catalogue: channels at any time, videos in the order of publication with their samples."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._postings, self._part = Postings(), 0
        self._videos: list[tuple[Any, ...]] = []
        self._samples: list[tuple[Any, ...]] = []
        self._last = (-(1 << 62), "")
        self.videos = 0

    def add_channels(self, channels: Iterable[Channel]) -> None:
        rows = (
            (c.id, c.title, c.description, c.published_at, c.country, c.handle, c.subscribers)
            for c in channels
        )
        self._db.executemany(_SQL["insert_channel"], rows)

    def add(self, video: CatalogueVideo, channel_title: str, samples: Iterable[Sample]) -> None:
        """Append a video with its samples in order of time; ValueError if it is older than the last."""
        position = (video.published_at, video.id)
        if position <= self._last:
            raise ValueError(f"video {video.id} is not after {self._last[1]} in order of publication")
        self._last = position
        n, self.videos = self.videos, self.videos + 1
        self._videos.append(
            (n, video.id, video.channel_id, video.title, video.description, video.published_at,
             video.published_estimated, video.category_id, orjson.dumps(video.tags).decode(),
             video.duration_s, video.language, video.removed_at)
        )  # fmt: skip
        self._samples.extend((n, *sample) for sample in samples)
        self._postings.add(n, field_terms(video.title, video.tags, channel_title, video.description))
        if len(self._videos) >= 2000:
            self._flush()
        if self.videos % _VIDEOS_IN_PART == 0:
            self._write_postings()

    def _flush(self) -> None:
        self._db.executemany(_SQL["insert_video"], self._videos)
        self._db.executemany(_SQL["insert_sample"], self._samples)
        self._videos.clear()
        self._samples.clear()

    def _write_postings(self) -> None:
        rows = ((term, self._part, postings) for term, postings in self._postings.drain())
        self._db.executemany(_SQL["insert_posting"], rows)
        self._part += 1

    def finish(self, origin: Mapping[str, Any]) -> None:
        """Write what is still held, and where the catalogue comes from."""
        self._flush()
        self._write_postings()
        facts = {"origin": orjson.dumps(origin).decode(), "byte_order": sys.byteorder}
        self._db.executemany(_SQL["insert_meta"], facts.items())


def _is_catalogue(path: Path) -> bool:
    """Whether the file's header bears our mark, as SQLite keeps it at byte 68."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        header = file.read(100)
    return header.startswith(b"SQLite format 3\0") and int.from_bytes(header[68:72]) == _APPLICATION_ID


@contextmanager
def new_catalogue(path: Path, origin: Mapping[str, Any]) -> Iterator[CatalogueWriter]:
    """Write a catalogue beside `path` and put it there when the block ends well; else leave nothing."""
    if path.exists() and not _is_catalogue(path):
        raise CatalogueError(f"{path} is there and is no catalogue: name another file, or remove it")
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(partial, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise CatalogueError(f"cannot write the catalogue {path}: {error}") from error
    try:
        with closing(connection) as db:
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
    """A catalogue opened for reading: what is visible, counts how much and is found by what at an instant."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db, self.path = db, path
        self.meta: dict[str, str] = dict(db.execute(_SQL["meta"]))
        self.ids: list[str] = []
        self.published = array("q")
        self._removed = array("q")
        self.channel_of: list[str] = []
        self.categories = array("h")
        self._duration = array("q")
        self.uploads: dict[str, list[int]] = {}
        self._load_videos()
        self.numbers = {video_id: n for n, video_id in enumerate(self.ids)}
        self._curves = Curves(self.published, db.execute(_SQL["samples"]))
        self.counts = self._curves.at
        """The counters of video number `n` at an instant, in seconds since 1970."""
        self.index = SearchIndex(self._postings, len(self.ids))
        self._channels: dict[str, Channel] = {}

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open the file at `path`; CatalogueError if it is none, or of another format."""
        path = Path(path)
        if not path.is_file():
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
        for n, video_id, channel_id, published_at, removed_at, category_id, duration_s in rows:
            self.ids.append(video_id)
            self.published.append(published_at)
            self._removed.append(removed_at)
            self.channel_of.append(channel_id)
            self.categories.append(category_id)
            self._duration.append(duration_s)
            self.uploads.setdefault(channel_id, []).append(n)

    def _postings(self, term: str) -> array[int]:
        postings = array("I")
        for (part,) in self._db.execute(_SQL["postings"], (term,)):
            postings.frombytes(part)
        if self.meta["byte_order"] != sys.byteorder:
            postings.byteswap()
        return postings

    @cached_property
    def span(self) -> tuple[datetime, datetime]:
        """From the first publication or sample to the last, in UTC; CatalogueError in an empty one."""
        if not self.ids:
            raise CatalogueError(f"{self.path} holds no video: import or synthesize another")
        first, last = self._curves.span or (self.published[0], self.published[-1])
        bounds = min(first, self.published[0]), max(last, self.published[-1])
        return datetime.fromtimestamp(bounds[0], UTC), datetime.fromtimestamp(bounds[1], UTC)

    def number(self, video_id: str) -> int | None:
        """The video's number, or None if the catalogue has no such video."""
        return self.numbers.get(video_id)

    def video(self, n: int) -> CatalogueVideo:
        """Everything about video number `n` but its counters."""
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
        )

    def channel(self, channel_id: str) -> Channel | None:
        """The channel of that id, if it is known."""
        if channel_id not in self._channels:
            row = self._db.execute(_SQL["channel"], (channel_id,)).fetchone()
            if row is None:
                return None
            self._channels[channel_id] = Channel(*row)
        return self._channels[channel_id]

    def channel_by_handle(self, handle: str) -> Channel | None:
        """The channel with that handle, with or without its @, in any case."""
        wanted = "@" + handle.removeprefix("@")
        row = self._db.execute(_SQL["channel_id_by_handle"], (wanted,)).fetchone()
        return self.channel(row[0]) if row else None

    def visible(self, n: int, at: float) -> bool:
        """Whether the video is published and not yet removed at `at` (seconds since 1970)."""
        removed = self._removed[n]
        return self.published[n] <= at and (not removed or at < removed)

    def counts_of(self, video_id: str, at: datetime) -> Counts | None:
        """The counters of a video at an instant, or None where it is not visible."""
        n, instant = self.numbers.get(video_id), at.timestamp()
        return self.counts(n, instant) if n is not None and self.visible(n, instant) else None

    def uploads_of(self, channel_id: str, at: float) -> list[int]:
        """The numbers of a channel's visible videos, newest first."""
        return [n for n in reversed(self.uploads.get(channel_id, ())) if self.visible(n, at)]

    def visible_ids(self, at: datetime) -> list[str]:
        """The ids of all videos visible at an instant, oldest first."""
        instant = at.timestamp()
        return [self.ids[n] for n in range(bisect_right(self.published, instant)) if self.visible(n, instant)]

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
        duration: Duration = "any",
    ) -> list[int]:
        """The numbers of all visible videos that match, in order; both bounds of publication are inclusive.

        Without a query everything matches, and relevance is the newest first. Medium means 4 to 20 minutes.
        """
        low = 0 if published_after is None else bisect_left(self.published, published_after)
        high = bisect_right(self.published, at if published_before is None else min(at, published_before))
        scores: Mapping[int, float] | None = None if query is None else self.index.match(query)
        candidates: Iterable[int] = range(low, high) if scores is None else scores
        found = [n for n in candidates if low <= n < high and self.visible(n, at)]
        if channel_id is not None:
            found = [n for n in found if self.channel_of[n] == channel_id]
        if category_id is not None:
            found = [n for n in found if self.categories[n] == category_id]
        if duration != "any":
            shortest, longest = {"short": (0, 240), "medium": (240, 1201), "long": (1201, 1 << 40)}[duration]
            found = [n for n in found if shortest <= self._duration[n] < longest]
        return self._ordered(found, order, scores or {}, at)

    def _ordered(self, found: list[int], order: Order, scores: Mapping[int, float], at: float) -> list[int]:
        found.sort(reverse=True)
        if order in ("relevance", "videoCount") and scores:
            found.sort(key=scores.__getitem__, reverse=True)
        elif order == "viewCount":
            found.sort(key=lambda n: self.counts(n, at).views or 0, reverse=True)
        elif order == "rating":
            found.sort(key=lambda n: self._likes_per_view(n, at), reverse=True)
        elif order == "title":
            found.sort(key=self._titles.__getitem__)
        return found

    def _likes_per_view(self, n: int, at: float) -> float:
        counts = self.counts(n, at)
        return (counts.likes or 0) / counts.views if counts.views else 0.0

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
        """The ids that paging through search.list to its end gives at an instant."""
        after = published_after.timestamp() if published_after else None
        found = self.search(query, at.timestamp(), order=order, published_after=after)
        return [self.ids[n] for n in found[:limit]]

    def summary(self) -> dict[str, Any]:
        """Figures about the whole catalogue, as `maia catalogue show` prints them."""
        figures: dict[str, Any] = {
            "path": str(self.path),
            "bytes": self.path.stat().st_size,
            "origin": orjson.loads(self.meta["origin"]),
        }
        for part in ("videos", "channels", "samples", "search"):
            cursor = self._db.execute(_SQL[f"summary_of_{part}"])
            names = [column[0] for column in cursor.description]
            for name, value in zip(names, cursor.fetchone(), strict=True):
                figures[name] = _iso(value) if name.endswith("_at") else int(value)
        return figures


def _iso(seconds: int | None) -> str | None:
    return None if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
