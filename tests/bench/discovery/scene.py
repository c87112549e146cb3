"""A virtual world for the discovery bench: a synthesised catalogue, and which of its videos grow.

Catalogues are cached in a temporary folder, as making one takes longer than a run. A scene holds what every
strategy needs as columns: who uploads what and when, which topics a video's tags become, and the truth.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import orjson

from atlas.config import HunterSettings
from atlas.queries import topic_key
from maia.emulator.catalogue import Catalogue, CatalogueError
from maia.emulator.synthesis import DEFAULT_START, synthesize
from maia.hunter.tags import TagRules
from maia.learning.velocity import Booleans, Floats, Integers

HOUR, DAY = 3600.0, 86_400.0
DAYS_BEFORE = 3
"""Days of the catalogue before the first virtual day, so that feeds and searches have a past."""
DAYS_AFTER = 1
"""Days after the last, so that it is known which of its videos grow."""
GROWING_SHARE = 0.05
"""The truth: growing is the top 5 % by views an hour over the first 24 h, of all videos published."""
_FORMAT = 2


@dataclass(frozen=True)
class Size:
    """How large a world is."""

    days: int = 14
    videos_a_day: int = 25_000
    channels: int = 50_000


@dataclass(frozen=True)
class Scene:
    """A catalogue as columns, one element per video unless stated otherwise; instants since 1970."""

    catalogue: Catalogue
    size: Size
    seed: int
    start_s: float
    published: Floats
    channel: Integers
    views_per_hour: Floats
    """Over the first 24 hours."""
    topics: Integers
    """The topics of all videos in a row: those of video n are topics[topic_ends[n]:topic_ends[n + 1]]."""
    topic_ends: Integers
    queries: list[str]
    """Each topic as it is searched."""

    @property
    def end_s(self) -> float:
        return self.start_s + self.size.days * DAY

    @cached_property
    def counts(self) -> Booleans:
        """The videos published in the virtual days: only they count."""
        within: Booleans = (self.published >= self.start_s) & (self.published < self.end_s)
        return within

    @cached_property
    def grows(self) -> Booleans:
        """The truth: which of the videos that count are growing."""
        limit = np.quantile(self.views_per_hour[self.counts], 1 - GROWING_SHARE)
        grows: Booleans = self.counts & (self.views_per_hour > limit)
        return grows

    @cached_property
    def by_channel(self) -> tuple[Integers, Integers]:
        """All videos ordered by channel and publication, and where each channel's begin."""
        order = np.lexsort((self.published, self.channel)).astype(np.int64)
        ends = np.searchsorted(self.channel[order], np.arange(int(self.channel.max()) + 2))
        return order, ends.astype(np.int64)

    def topics_of(self, numbers: Integers) -> tuple[Integers, Integers]:
        """The topics of some videos, and beside each the position of its video among `numbers`."""
        lengths = self.topic_ends[numbers + 1] - self.topic_ends[numbers]
        rows = np.repeat(np.arange(len(numbers)), lengths)
        offsets = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return self.topics[self.topic_ends[numbers][rows] + offsets], rows


Synthesis = Callable[[Path, Size, int], None]


def scene(seed: int, size: Size = Size(), folder: Path | None = None) -> Scene:
    """The world of a seed, made if it is not cached."""
    folder = folder or Path(gettempdir()) / "pleiades-discovery-worlds"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{_FORMAT}-{size.days}-{size.videos_a_day}-{size.channels}-{seed}"
    path, columns_path = folder / f"{name}.catalogue", folder / f"{name}.columns"
    if not path.exists():
        _synthesize(path, size, seed)
        columns_path.unlink(missing_ok=True)
    try:
        catalogue = Catalogue.open(path)
    except CatalogueError:
        # Of a former version.
        _synthesize(path, size, seed)
        columns_path.unlink(missing_ok=True)
        catalogue = Catalogue.open(path)
    if not columns_path.exists():
        partial = columns_path.with_suffix(".partial")
        partial.write_bytes(pickle.dumps(_columns(catalogue)))
        partial.replace(columns_path)
    # Written by this bench itself.
    columns: Mapping[str, object] = pickle.loads(columns_path.read_bytes())
    start_s = DEFAULT_START.timestamp() + DAYS_BEFORE * DAY
    return Scene(catalogue, size, seed, start_s, **columns)  # type: ignore[arg-type]


def _synthesize(path: Path, size: Size, seed: int) -> None:
    days = DAYS_BEFORE + size.days + DAYS_AFTER
    synthesize(
        path, videos=size.videos_a_day * days, channels=size.channels, days=days, seed=seed, world="mixed"
    )


def _columns(catalogue: Catalogue) -> dict[str, object]:
    numbers = np.arange(len(catalogue.ids))
    published = np.asarray(catalogue.published, np.float64)
    views = catalogue.views_at(numbers, published + DAY)
    topics, ends, queries = _topics(catalogue)
    return {
        "published": published,
        "channel": catalogue.columns.channel.astype(np.int64),
        "views_per_hour": views / 24,
        "topics": topics,
        "topic_ends": ends,
        "queries": queries,
    }


def _topics(catalogue: Catalogue) -> tuple[Integers, Integers, list[str]]:
    """Every video's topics by the hunter's own rules, numbered in order of appearance."""
    rules = TagRules.of(HunterSettings())
    numbers: dict[str, int] = {}
    queries: list[str] = []
    topics: list[int] = []
    ends = [0]
    with closing(sqlite3.connect(f"{catalogue.path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT tags FROM video ORDER BY n").fetchall()
    for (tags,) in rows:
        for topic in rules.topics(orjson.loads(tags))[: rules.per_video]:
            key = topic_key(topic)
            if key not in numbers:
                numbers[key] = len(queries)
                queries.append(topic)
            topics.append(numbers[key])
        ends.append(len(topics))
    return np.array(topics, np.int64), np.array(ends, np.int64), queries
