"""Ingestion: videos stored and refreshed with their channels, against COPY of the same rows, bare.

The table that COPY fills has no key, no index and no reference, and gets the same batches in a transaction
each. Rounds alternate, and the best of each counts, as neighbours disturb them all.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from atlas.adapters.maia import MaiaDAO
from atlas.clock import FixedClock
from atlas.testing import NOON
from tests.bench.figures import Figure
from tests.bench.servers import Bed, bed, migrated

ROUNDS = 3
VIDEOS = 20_000
PAGE, BULK = 50, 1_000
GOAL = 0.3

COLUMNS = (
    "id", "channel_id", "status", "published_at", "discovered_at", "refreshed_at", "category_id",
    "duration_s", "view_count", "like_count", "comment_count", "title", "live_broadcast_content",
    "default_language", "etag", "tags", "description",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Clip:
    """A video as the API tells it."""

    id: str
    channel_id: str
    channel_title: str
    title: str
    description: str
    published_at: datetime
    category_id: int
    tags: tuple[str, ...]
    duration_s: int
    live_broadcast_content: str
    default_language: str | None
    view_count: int
    like_count: int | None
    comment_count: int
    etag: str
    scheduled_start_at: None = None
    actual_start_at: None = None
    actual_end_at: None = None

    def row(self) -> tuple[Any, ...]:
        """What COPY writes of it."""
        return (
            self.id, self.channel_id, "live", self.published_at, NOON, NOON, self.category_id,
            self.duration_s, self.view_count, self.like_count, self.comment_count, self.title,
            self.live_broadcast_content, self.default_language, self.etag, self.tags, self.description,
        )  # fmt: skip


def clips(count: int, seed: int = 1) -> list[Clip]:
    """Videos with texts as long as on a US chart of 2017: title 49, description 917 characters, 18 tags."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randint(2, 11))) for _ in range(5_000)]

    def text(most: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(1, most)))

    return [
        Clip(
            id=f"{rng.getrandbits(64):011x}"[:11],
            channel_id=f"UC{rng.randrange(count // 5):022d}",
            channel_title=text(4),
            title=text(13),
            description=text(245),
            published_at=NOON - timedelta(seconds=rng.randrange(10**8)),
            category_id=rng.randint(1, 44),
            tags=tuple(text(3) for _ in range(rng.randint(0, 36))),
            duration_s=rng.randint(5, 7200),
            live_broadcast_content="none",
            default_language=rng.choice([None, "en", "ko", "ja"]),
            view_count=rng.randrange(10**7),
            like_count=rng.choice([None, rng.randrange(10**5)]),
            comment_count=rng.randrange(10**4),
            etag=f"{rng.getrandbits(160):040x}",
        )
        for _ in range(count)
    ]


def refreshed(videos: Sequence[Clip]) -> list[Clip]:
    """The same videos a day later: counts have risen, one title in ten has changed."""
    return [
        replace(
            video,
            view_count=video.view_count + 1000,
            comment_count=video.comment_count + 1,
            title=video.title if number % 10 else video.title.upper(),
        )
        for number, video in enumerate(videos)
    ]


class Lane:
    """The same videos by both ways, in batches of one size."""

    def __init__(self, sql: Any, dao: MaiaDAO, videos: Sequence[Clip], batch: int) -> None:
        self.sql, self.dao, self.batch = sql, dao, batch
        self.videos, self.later = videos, refreshed(videos)
        self.rates: dict[str, list[float]] = {"copied": [], "stored": [], "refreshed": []}

    async def round(self) -> None:
        await self.sql.execute("DROP TABLE IF EXISTS bare; CREATE TABLE bare (LIKE videos)")
        await self.sql.execute("TRUNCATE videos, channels CASCADE")
        await self.sql.execute("CHECKPOINT")
        rows = [video.row() for video in self.videos]
        await self._timed("copied", rows, self._copy)
        await self._timed("stored", self.videos, self._ingest)
        await self.sql.execute("VACUUM ANALYZE videos")
        await self.sql.execute("CHECKPOINT")
        await self._timed("refreshed", self.later, self._ingest)
        stored = await self.sql.fetchval("SELECT count(*) FROM videos")
        if stored != len(self.videos):
            raise RuntimeError(f"{stored} of {len(self.videos)} videos were stored")

    async def _timed(self, what: str, items: Sequence[Any], store: Any) -> None:
        gc.collect()
        began = time.perf_counter()
        for start in range(0, len(items), self.batch):
            await store(items[start : start + self.batch])
        self.rates[what].append(len(items) / (time.perf_counter() - began))

    async def _copy(self, rows: Sequence[Any]) -> None:
        await self.sql.copy_records_to_table("bare", records=rows, columns=COLUMNS)

    async def _ingest(self, videos: Sequence[Clip]) -> None:
        await self.dao.ingest_video_metadata(videos)


async def measured(server: Bed) -> AsyncIterator[Figure]:
    url = await server.new_database()
    videos = clips(VIDEOS)
    async with migrated(url) as (database, settings), server.connection(url) as sql:
        dao = MaiaDAO(database, clock=FixedClock(NOON), settings=settings)
        lanes = [Lane(sql, dao, videos, batch) for batch in (PAGE, BULK)]
        for _ in range(ROUNDS):
            for lane in lanes:
                await lane.round()
        for lane in lanes:
            best = {what: max(rates) for what, rates in lane.rates.items()}
            for what in ("stored", "refreshed"):
                name = f"videos {what} by {lane.batch:,}"
                yield Figure(name, best[what], "rows/s", best["copied"], "COPY, bare", GOAL)


async def figures() -> AsyncIterator[Figure]:
    async with bed() as server:
        async for figure in measured(server):
            yield figure
