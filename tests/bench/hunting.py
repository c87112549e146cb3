"""What a process of the bench does with the emulator and the server: hunt, or fetch and copy the same bare.

`python -m tests.bench.hunting hunt|floor` reads its job from stdin and writes what it measured to stdout.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import orjson

from atlas.composition import Atlas
from atlas.config import load
from maia.cycle.agent import run
from maia.hunter.cycle import Hunter
from maia.youtube.methods import SEARCH_IDS, VIDEOS
from tests.bench.stage import Cpu

FLOOR_TABLES = """
CREATE TABLE video (
    id text, channel_id text, published_at timestamptz, discovered_at timestamptz, discovered_by bigint,
    category_id integer, duration text, view_count bigint, like_count bigint, comment_count bigint,
    title text, live_broadcast_content text, default_language text, etag text, tags text[], description text
);
CREATE TABLE channel (id text, title text, discovered_at timestamptz);
CREATE TABLE video_clock (
    video_id text, channel_id text, category_id integer, born_at timestamptz, next_due_at timestamptz,
    metadata_at timestamptz, last_at timestamptz, last_views bigint, last_likes bigint, last_comments bigint
);
CREATE TABLE channel_clock (channel_id text, next_due_at timestamptz);
CREATE TABLE topic (query text, mentions integer, created_at timestamptz);
"""
_COLUMNS = {
    "video": (
        "id", "channel_id", "published_at", "discovered_at", "discovered_by", "category_id", "duration",
        "view_count", "like_count", "comment_count", "title", "live_broadcast_content", "default_language",
        "etag", "tags", "description",
    ),
    "channel": ("id", "title", "discovered_at"),
    "video_clock": (
        "video_id", "channel_id", "category_id", "born_at", "next_due_at", "metadata_at", "last_at",
        "last_views", "last_likes", "last_comments",
    ),
    "channel_clock": ("channel_id", "next_due_at"),
    "topic": ("query", "mentions", "created_at"),
}  # fmt: skip
TAGS_PER_VIDEO = 10


class Meter:
    """Wall time, CPU of this process and of those the job names, and peak memory by pages done."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.peak_mib: dict[int, float] = {}
        self.others = {name: (pid, Cpu.of(pid)) for name, pid in job["others"].items()}
        self.began_s, self._before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)

    def note_memory(self, pages: int) -> None:
        self.peak_mib[pages] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def reading(self) -> dict[str, Any]:
        after, seconds = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - self.began_s
        spent = {name: Cpu.of(pid) - before for name, (pid, before) in self.others.items()}
        return {
            "seconds": seconds,
            "others": {name: (cpu.user_s, cpu.system_s) for name, cpu in spent.items()},
            "user_s": after.ru_utime - self._before.ru_utime,
            "system_s": after.ru_stime - self._before.ru_stime,
            "peak_mib": self.peak_mib,
        }


class Recorder:
    """Runs the hunter's own steps, and notes every search as the API is asked for it."""

    def __init__(self) -> None:
        self.searches: list[dict[str, str]] = []

    async def __call__(self, name: str, about: object, call: Callable[[], Awaitable[Any]]) -> Any:
        brought = await call()
        if name == "search":
            token = None if brought.begins else brought.topic.page_token
            self.searches.append(SEARCH_IDS.params(type="video", pageToken=token, **brought.params))
        return brought


async def hunt(job: Mapping[str, Any]) -> dict[str, Any]:
    """Run cycles; the searches they made are part of the result."""
    recorder, pages = Recorder(), 0

    def count(progress: Any) -> None:
        nonlocal pages
        pages += progress.page is not None
        if progress.page is not None and pages % 50 == 0:
            meter.note_memory(pages)

    async with Atlas.open(load()) as atlas:
        meter = Meter(job)
        statistics = await run(
            Hunter,
            atlas,
            cycles=job["cycles"],
            batch_size=job.get("batch_size"),
            on_progress=count,
            step=recorder,
        )
        reading = meter.reading()
    return reading | {"pages": pages, "videos": statistics["found"], "searches": recorder.searches}


class Floor:
    """The least that gets the same rows: no ledger, no queue, no types, no duplicates noticed."""

    def __init__(
        self, session: aiohttp.ClientSession, pool: asyncpg.Pool[Any], job: Mapping[str, Any]
    ) -> None:
        self.session, self.pool, self.api = session, pool, job["base_url"] + "/youtube/v3/"
        self.searches: Iterator[dict[str, str]] = iter(job["searches"])
        self.folder = Path(job["folder"]) if job["folder"] else None
        self.seen: set[str] = set()
        self.pages = self.videos = 0

    async def work(self) -> None:
        for search in self.searches:
            found = await self.get(SEARCH_IDS.path, SEARCH_IDS.part, SEARCH_IDS.fields, search)
            ids = dict.fromkeys(item["id"]["videoId"] for item in found.get("items", ()))
            if not ids:
                continue
            answer = await self.get(VIDEOS.path, VIDEOS.part, VIDEOS.fields, {"id": ",".join(ids)})
            if self.folder:
                await asyncio.to_thread(self.write, answer["items"])
            await self.copy(search["q"], answer["items"])
            self.pages += 1
            self.videos += len(ids)

    async def get(self, path: str, part: str, fields: str, parameters: Mapping[str, str]) -> Any:
        asked = {"part": part, "fields": fields, **parameters}
        async with self.session.get(self.api + path, params=asked) as response:
            return orjson.loads(await response.read())

    def write(self, items: list[Any]) -> None:
        assert self.folder is not None
        for item in items:
            (self.folder / f"{item['id']}.json").write_bytes(orjson.dumps(item))

    async def copy(self, query: str, items: list[Any]) -> None:
        """Write every row that the hunter writes, whether inserted or refreshed: one transaction per page."""
        now = datetime.now().astimezone()
        videos = {item["id"]: _video(item, now) for item in items}
        fresh = [item for item in items if self.new(item["id"])]
        tags = [item["snippet"].get("tags", ())[:TAGS_PER_VIDEO] for item in fresh]
        mentions = Counter(tag for of_video in tags for tag in of_video)
        titles = {item["snippet"]["channelId"]: item["snippet"]["channelTitle"] for item in items}
        channels = [(id_, title, now) for id_, title in titles.items() if self.new(id_)]
        rows = {
            "video": [*videos.values()],
            "channel": channels,
            "video_clock": [_timed(videos[item["id"]], now) for item in fresh],
            "channel_clock": [(id_, now) for id_, _, _ in channels],
            "topic": [(query, 0, now), *((tag, count, now) for tag, count in mentions.items())],
        }
        async with self.pool.acquire() as connection, connection.transaction():
            for table, records in rows.items():
                if records:
                    await connection.copy_records_to_table(table, columns=_COLUMNS[table], records=records)

    def new(self, name: str) -> bool:
        known = name in self.seen
        self.seen.add(name)
        return not known


def _video(item: Any, now: datetime) -> tuple[Any, ...]:
    snippet, counts = item["snippet"], item["statistics"]
    return (
        item["id"], snippet["channelId"], datetime.fromisoformat(snippet["publishedAt"]), now, 1,
        int(snippet["categoryId"]), item["contentDetails"]["duration"], int(counts.get("viewCount", 0)),
        int(counts.get("likeCount", 0)), int(counts.get("commentCount", 0)), snippet["title"],
        snippet["liveBroadcastContent"], snippet.get("defaultLanguage"), item["etag"],
        snippet.get("tags", []), snippet["description"],
    )  # fmt: skip


def _timed(video: tuple[Any, ...], now: datetime) -> tuple[Any, ...]:
    id_, channel_id, published_at, _, _, category_id, _, *counts = video[:10]
    return (id_, channel_id, category_id, published_at, now, now, now, *counts)


async def floor(job: Mapping[str, Any]) -> dict[str, Any]:
    """Fetch the answers to the searches of the job, and copy their rows."""
    concurrency = load().youtube.concurrency
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=concurrency),
            headers={"User-Agent": "floor (gzip)", "Accept-Encoding": "gzip", "x-goog-api-key": job["key"]},
            raise_for_status=True,
        ) as session,
        asyncpg.create_pool(job["database_url"], min_size=0, max_size=concurrency) as pool,
    ):
        await pool.execute(FLOOR_TABLES)
        run = Floor(session, pool, job)
        meter = Meter(job)
        await asyncio.gather(*(run.work() for _ in range(concurrency)))
        reading = meter.reading()
    return reading | {"pages": run.pages, "videos": run.videos}


if __name__ == "__main__":
    measured = asyncio.run({"hunt": hunt, "floor": floor}[sys.argv[1]](orjson.loads(sys.stdin.buffer.read())))
    sys.stdout.buffer.write(orjson.dumps(measured, option=orjson.OPT_NON_STR_KEYS))
