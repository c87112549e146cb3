"""What a process of the tracker's bench does: track, or get the same bare, or as a plain script does it.

`python -m tests.bench.tracking track|store|write|floor|script` reads its job from stdin and writes what it
measured to stdout. `store` is the tracker whose answers are there already, `write` only how it stores them;
`script` can have its answers likewise.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import orjson
import psycopg
from googleapiclient.discovery import build

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.tracking import COHORT_DAYS
from atlas.clock import Clock, FixedClock
from atlas.composition import Atlas, clock_of
from atlas.config import Bucket, Settings, load
from atlas.keyring import KeyRing
from maia.cycle.agent import run
from maia.cycle.outcome import Progress
from maia.emulator.catalogue import Catalogue
from maia.tracker.cycle import CALLS_PER_GROUP, Tracker
from maia.tracker.measuring import Cohorts, Counts, Reading
from maia.tracker.measuring import Meter as Measuring
from maia.youtube.client import IDS_PER_CALL
from maia.youtube.ids import ChannelId, VideoId
from maia.youtube.methods import BATCH_STATS
from maia.youtube.resources import Channel, StatsBatch, Video, VideoStats
from tests.bench.hunting import Meter

PAGE = IDS_PER_CALL
DAY = timedelta(days=1)
SCRIPT_TABLES = """
CREATE TABLE script_video AS
SELECT v.id, v.channel_id, v.title, v.description, v.tags, v.published_at, v.category_id,
    last_views AS view_count, last_likes AS like_count, last_comments AS comment_count,
    last_at AS sampled_at, velocity, next_due_at
FROM videos AS v
JOIN video_clock ON video_id = v.id;
ALTER TABLE script_video ADD PRIMARY KEY (id);
CREATE INDEX ON script_video (next_due_at);
CREATE TABLE script_sample (
    video_id text NOT NULL, sampled_at timestamptz NOT NULL, view_count bigint, like_count bigint,
    comment_count bigint, velocity double precision, PRIMARY KEY (video_id, sampled_at)
);
ANALYZE script_video;
"""
INSERT = "INSERT INTO script_sample VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
UPDATE = """
UPDATE script_video
SET view_count = %s, like_count = %s, comment_count = %s, velocity = %s, sampled_at = %s, next_due_at = %s
WHERE id = %s
"""
FLOOR_TABLE = """
CREATE TABLE floor_sample (
    video_id text, sampled_at timestamptz, views bigint, likes bigint, comments bigint,
    velocity double precision, methodology smallint
)
"""
_COLUMNS = ("video_id", "sampled_at", "views", "likes", "comments", "velocity", "methodology")


class Recorded:
    """Answers like the YouTube client, at once, from what a catalogue says of an instant."""

    def __init__(self, catalogue: Catalogue, ids: Iterable[str], at: datetime) -> None:
        self.requests: Counter[Bucket] = Counter()
        self.malformed: Counter[str] = Counter()
        self._catalogue, self._at = catalogue, at
        counted = ((id_, catalogue.counts_of(id_, at)) for id_ in ids)
        self._stats = {id_: VideoStats(VideoId(id_), *counts) for id_, counts in counted if counts}

    async def batch_get_stats(self, ids: Iterable[str]) -> StatsBatch:
        self.requests["stats"] += 1
        wanted = list(ids)
        items = tuple(self._stats[id_] for id_ in wanted if id_ in self._stats)
        return StatsBatch(items, tuple(id_ for id_ in wanted if id_ not in self._stats))

    async def videos(self, ids: Iterable[str]) -> tuple[Video, ...]:
        self.requests["general"] += 1
        return tuple(_found(self._catalogue, id_, self._at) for id_ in ids if id_ in self._stats)

    async def channels(self, ids: Iterable[str]) -> tuple[Channel, ...]:
        return tuple(_channel(id_) for id_ in ids)

    def answer(self, ids: Sequence[str]) -> list[tuple[str, int | None, int | None, int | None]]:
        """Rows of id, views, likes and comments."""
        found = (self._stats[id_] for id_ in ids if id_ in self._stats)
        return [(each.id, each.view_count, each.like_count, each.comment_count) for each in found]


def _channel(id_: str) -> Channel:
    """A channel of which nothing is known."""
    return Channel(
        ChannelId(id_), title=None, description=None, custom_url=None, country=None, published_at=None,
        view_count=None, subscriber_count=None, subscribers_hidden=False, video_count=None, etag=None, raw={},
    )  # fmt: skip


async def live_through(settings: Settings, path: Path, begin: datetime, videos: int, days: int) -> int:
    """Find videos of a catalogue and track them once a day, so many days; how many samples that brought."""
    clock, samples = FixedClock(begin), 0
    with Catalogue.open(path) as catalogue:
        ids = catalogue.visible_ids(begin)[-videos:]
        async with Atlas.open(settings, clock=clock) as atlas:
            dao = MaiaDAO(atlas.db, clock=clock, settings=settings)
            for some in _split(ids, 1_000):
                await dao.ingest_video_metadata([_found(catalogue, id_, begin) for id_ in some])
            for _ in range(days):
                clock.advance(DAY)
                samples += (await tracked(atlas, Recorded(catalogue, ids, clock.now())))["samples"]
    return samples


def _found(catalogue: Catalogue, id_: str, at: datetime) -> Video:
    """A video as videos.list describes it."""
    number, counts = catalogue.number(id_), catalogue.counts_of(id_, at)
    assert number is not None
    assert counts is not None
    video = catalogue.video(number)
    channel = catalogue.channel(video.channel_id)
    title = channel.title if channel else None
    published_at = datetime.fromtimestamp(video.published_at, UTC)
    return Video(
        VideoId(id_), ChannelId(video.channel_id), title, video.title, video.description, published_at,
        video.category_id, video.tags, video.duration_s, "none", video.language, None,
        counts.views, counts.likes, counts.comments, None, {},
    )  # fmt: skip


async def tracked(atlas: Atlas, youtube: Recorded, batch_size: int | None = None) -> dict[str, Any]:
    """Track whatever is due by answers that are there already."""
    tracker = Tracker(atlas, youtube, KeyRing("tracking", atlas=atlas))  # type: ignore[arg-type]
    total, number = Counter[str](), 1
    while (statistics := await tracker.cycle(batch_size, number=number)).outcome != "idle":
        if statistics.outcome != "done":
            raise RuntimeError(f"a cycle ended as {statistics.outcome}: {statistics.detail}")
        total.update(cycles=1, samples=statistics.samples, videos=statistics.videos)
        number += 1
    return dict(total)


async def track(job: Mapping[str, Any]) -> dict[str, Any]:
    """Run cycles against the emulator until nothing is due."""

    def note(progress: Progress) -> None:
        meter.note_memory(progress.cycle)

    async with Atlas.open(load()) as atlas:
        meter = Meter(job)
        statistics = await run(
            Tracker, atlas, cycles=10_000, batch_size=job.get("batch_size"), on_progress=note
        )
        reading = meter.reading()
    return reading | {"samples": statistics["samples"], "calls": statistics["units"]["stats"]}


async def store(job: Mapping[str, Any]) -> dict[str, Any]:
    """The same with answers that are there already."""
    async with Atlas.open(load()) as atlas:
        with Catalogue.open(job["catalogue"]) as catalogue:
            youtube = Recorded(catalogue, catalogue.visible_ids(atlas.clock.now()), atlas.clock.now())
        meter = Meter(job)
        counted = await tracked(atlas, youtube)
        return meter.reading() | {"samples": counted["samples"], "calls": youtube.requests["stats"]}


async def write(job: Mapping[str, Any]) -> dict[str, Any]:
    """Store what was claimed, answered and measured before, by one connection."""
    async with Atlas.open(load()) as atlas:
        now, settings = atlas.clock.now(), atlas.settings
        dao = MaiaDAO(atlas.db, clock=atlas.clock, settings=settings)
        with Catalogue.open(job["catalogue"]) as catalogue:
            youtube = Recorded(catalogue, catalogue.visible_ids(now), now)
        days = [now.date() - timedelta(days=back) for back in range(COHORT_DAYS)]
        measuring, groups = Measuring(settings.tracker, Cohorts(await dao.cohorts(days))), []
        while targets := await dao.fetch_tracker_targets(CALLS_PER_GROUP * PAGE):
            counts = {id_: Counts(*rest) for id_, *rest in youtube.answer([target.id for target in targets])}
            readings = [Reading(target, now, counts.get(target.id)) for target in targets]
            norms = await dao.channel_norms(measuring.norm_keys(readings))
            groups.append(measuring.measure(readings, norms).updates)
        meter, samples = Meter(job), 0
        for group in groups:
            samples += (await dao.update_video_stats_batch(group)).samples
        return meter.reading() | {"samples": samples, "calls": -(-samples // PAGE)}


class Floor:
    """The least that gets the same samples: no ledger, no clock, no claim; as many transactions."""

    def __init__(
        self, session: aiohttp.ClientSession, pool: asyncpg.Pool[Any], job: Mapping[str, Any], clock: Clock
    ) -> None:
        self.session, self.pool, self.clock = session, pool, clock
        self.url = f"{job['base_url']}/youtube/v3/{BATCH_STATS.path}"
        calls = _split(job["ids"], PAGE)
        self.groups = deque(_split(calls, CALLS_PER_GROUP))
        self.calls, self.samples = len(calls), 0

    async def work(self) -> None:
        while self.groups:
            answers = await asyncio.gather(*map(self.ask, self.groups.popleft()))
            rows = [row for answer in answers for row in answer]
            async with self.pool.acquire() as connection:
                await connection.copy_records_to_table("floor_sample", columns=_COLUMNS, records=rows)
            self.samples += len(rows)

    async def ask(self, ids: Sequence[str]) -> list[tuple[Any, ...]]:
        asked = {"part": BATCH_STATS.part, "fields": BATCH_STATS.fields, "id": ",".join(ids)}
        async with self.session.get(self.url, params=asked) as response:
            answer = orjson.loads(await response.read())
        now = self.clock.now()
        return [(item["id"], now, *_counts(item["statistics"]), None, 2) for item in answer["items"]]


def _counts(statistics: Mapping[str, str]) -> tuple[int | None, ...]:
    texts = (statistics.get("viewCount"), statistics.get("likeCount"), statistics.get("commentCount"))
    return tuple(None if text is None else int(text) for text in texts)


async def floor(job: Mapping[str, Any]) -> dict[str, Any]:
    """Ask for the ids of the job, and copy their samples."""
    settings = load()
    concurrency = settings.youtube.concurrency
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=concurrency),
            headers={"User-Agent": "floor (gzip)", "Accept-Encoding": "gzip", "x-goog-api-key": job["key"]},
            raise_for_status=True,
        ) as session,
        asyncpg.create_pool(job["database_url"], min_size=0, max_size=concurrency) as pool,
    ):
        await pool.execute(FLOOR_TABLE)
        bare = Floor(session, pool, job, clock_of(settings))
        meter = Meter(job)
        await asyncio.gather(*(bare.work() for _ in range(-(-concurrency // CALLS_PER_GROUP) + 1)))
        return meter.reading() | {"samples": bare.samples, "calls": bare.calls}


Row = tuple[str, int | None, int | None, int | None]
Ask = Callable[[Sequence[str]], list[Row]]


@dataclass(frozen=True, slots=True)
class Script:
    """What somebody writes in an evening: a page is asked for, each of its rows stored, and committed."""

    connection: psycopg.Connection[Any]
    ask: Ask
    now: datetime
    by_executemany: bool

    def run(self, most: int) -> int:
        due = self.connection.execute(
            "SELECT id, view_count, sampled_at FROM script_video WHERE next_due_at <= %s "
            "ORDER BY next_due_at LIMIT %s",
            (self.now, most),
        ).fetchall()
        known = {id_: (views, at) for id_, views, at in due}
        samples = 0
        for ids in _split(list(known), PAGE):
            rows = self.ask(ids)
            self.store(known, rows)
            samples += len(rows)
        return samples

    def store(self, known: Mapping[str, tuple[int | None, datetime | None]], rows: Sequence[Row]) -> None:
        inserts, updates = [], []
        for id_, views, likes, comments in rows:
            last_views, last_at = known[id_]
            velocity = None
            if views is not None and last_views is not None and last_at is not None:
                velocity = (views - last_views) / ((self.now - last_at).total_seconds() / 3600)
            inserts.append((id_, self.now, views, likes, comments, velocity))
            updates.append((views, likes, comments, velocity, self.now, self.now + DAY, id_))
        with self.connection.cursor() as cursor:
            if self.by_executemany:
                cursor.executemany(INSERT, inserts)
                cursor.executemany(UPDATE, updates)
            else:
                for insert, update in zip(inserts, updates, strict=True):
                    cursor.execute(INSERT, insert)
                    cursor.execute(UPDATE, update)
        self.connection.commit()


async def script(job: Mapping[str, Any]) -> dict[str, Any]:
    """Let the script sample so many videos, asking the emulator or, with a catalogue, nobody."""
    now = clock_of(load()).now()
    with psycopg.connect(job["database_url"]) as connection, _asking(job, now) as ask:
        connection.execute(SCRIPT_TABLES)
        connection.commit()
        meter = Meter(job)
        samples = Script(connection, ask, now, job["by_executemany"]).run(job["most"])
        return meter.reading() | {"samples": samples, "calls": -(-samples // PAGE)}


@contextmanager
def _asking(job: Mapping[str, Any], now: datetime) -> Iterator[Ask]:
    if path := job.get("catalogue"):
        with Catalogue.open(path) as catalogue:
            yield Recorded(catalogue, catalogue.visible_ids(now), now).answer
        return
    options = {"api_endpoint": job["base_url"]}
    with build("youtube", "v3", developerKey=job["key"], client_options=options) as service:

        def ask(ids: Sequence[str]) -> list[Row]:
            answer = service.videos().list(part="statistics", id=",".join(ids)).execute()
            return [(item["id"], *_counts(item["statistics"])) for item in answer["items"]]

        yield ask


def _split(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


SIDES = {"track": track, "store": store, "write": write, "floor": floor, "script": script}

if __name__ == "__main__":
    measured = asyncio.run(SIDES[sys.argv[1]](orjson.loads(sys.stdin.buffer.read())))
    sys.stdout.buffer.write(orjson.dumps(measured, option=orjson.OPT_NON_STR_KEYS))
