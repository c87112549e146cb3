"""Feeding the graph and deriving from it: what that costs those who store videos, and how long it takes.

Times are of the CPU, of this process and of the server for it, as neighbours disturb the clock on the wall.
Memory is the most that this process has had so far. Storing is measured with the triggers on and off in
turns, and the best of each counts.
"""

from __future__ import annotations

import argparse
import random
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from atlas.adapters.maia import MaiaDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.testing import NOON
from maia.graphing.deriving import derive
from maia.graphing.feeding import feed, rebuild
from tests.bench.bench_ingest import Clip, clips, refreshed
from tests.bench.figures import Figure
from tests.bench.servers import Bed, bed, settings_of

VIDEOS, PAGE, ROUNDS = 20_000, 50, 5
STORED = 4_000
ERASED = 500
ADDED = 5_000
LATER = 1_000
"""Videos that come after links were derived."""
TRIGGERED = ("videos", "video_sources", "search_queue")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--graph-videos", type=int, default=VIDEOS, help="videos to feed the graph with")


def options_of(parsed: argparse.Namespace) -> int:
    count: int = parsed.graph_videos
    return count


class Meter:
    """Measures CPU time of this process and of the backends of one database."""

    def __init__(self, sql: Any) -> None:
        self.sql = sql

    async def cpu_s(self, work: Callable[[], Awaitable[Any]]) -> float:
        before = await self._backends()
        own = psutil.Process()
        began = own.cpu_times()
        await work()
        after, ended = await self._backends(), own.cpu_times()
        backends = sum(spent - before.get(pid, 0.0) for pid, spent in after.items())
        return backends + ended.user - began.user + ended.system - began.system

    async def _backends(self) -> dict[int, float]:
        rows = await self.sql.fetch("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
        spent = {}
        for (pid,) in rows:
            times = psutil.Process(pid).cpu_times()
            spent[pid] = times.user + times.system
        return spent


class Stages:
    """Tells the CPU of this process and of the server for each stage of a work, named by its progress."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.spent: dict[str, float] = {}
        self._what, self._before = "", self.cpu_s()

    def cpu_s(self) -> float:
        """So far, of this process and of all backends that there are now."""
        server = psutil.Process(self.meter.sql.get_server_pid()).parent()
        assert server is not None
        return sum(sum(each.cpu_times()[:2]) for each in (psutil.Process(), *server.children()))

    def hear(self, what: str, done: int = 0, total: int = 0) -> None:
        """Another stage begins, or the same goes on."""
        if what == self._what:
            return
        now = self.cpu_s()
        if self._what:
            self.spent[self._what] = self.spent.get(self._what, 0.0) + now - self._before
        self._what, self._before = what, now


def tagged(videos: Sequence[Clip], seed: int = 2) -> list[Clip]:
    """The same videos with 20 tags each out of a vocabulary in which few are frequent."""
    rng = random.Random(seed)
    vocabulary = len(videos) * 2

    def tag() -> str:
        return f"Tag {int(vocabulary ** rng.random())}"

    return [replace(video, tags=tuple(tag() for _ in range(20))) for video in videos]


async def _store(dao: MaiaDAO, videos: Sequence[Any], page: int) -> None:
    for start in range(0, len(videos), page):
        await dao.ingest_video_metadata(videos[start : start + page])


async def _storing(meter: Meter, dao: MaiaDAO, videos: Sequence[Clip]) -> AsyncIterator[Figure]:
    spent: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for state in ("ENABLE", "DISABLE"):
            for table in TRIGGERED:
                await meter.sql.execute(f"ALTER TABLE {table} {state} TRIGGER USER")
            await meter.sql.execute("TRUNCATE videos, channels, graph_outbox CASCADE")
            for what, items in (("stored", videos), ("refreshed", refreshed(videos))):
                cost = await meter.cpu_s(lambda items=items: _store(dao, items, PAGE))  # type: ignore[misc]
                spent.setdefault((what, state), []).append(cost)
                await meter.sql.execute("VACUUM videos, channels")
    for table in TRIGGERED:
        await meter.sql.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
    for what in ("stored", "refreshed"):
        on, off = (min(spent[what, state]) * 1e6 / len(videos) for state in ("ENABLE", "DISABLE"))
        yield Figure(f"CPU of a video {what}, with the triggers", on, "µs", off, "without them")


async def measured(server: Bed, count: int) -> AsyncIterator[Figure]:
    url = await server.new_database()
    async with opened(url) as atlas, server.connection(url) as sql:
        meter = Meter(sql)
        dao = MaiaDAO(atlas.db, clock=FixedClock(NOON), settings=atlas.settings)
        async for figure in _storing(meter, dao, clips(STORED)):
            yield figure
        await sql.execute("TRUNCATE videos, channels, graph_outbox CASCADE")
        videos = tagged(clips(count + ADDED + LATER))
        await _store(dao, videos[:count], 1_000)
        spent = await meter.cpu_s(lambda: feed(atlas))
        atoms = await sql.fetchval("SELECT count(*) FROM atoms")
        yield Figure("atoms in the graph", atoms, "")
        yield Figure("CPU of a video fed for the first time", spent * 1e6 / count, "µs")
        yield _peak("after that")
        await sql.execute("VACUUM ANALYZE atoms, incoming")
        spent = await meter.cpu_s(lambda: rebuild(atlas))
        yield Figure("CPU of a video rebuilt, nothing changed", spent * 1e6 / count, "µs")
        yield _peak("after that")
        await _store(dao, videos[count : count + ADDED], 1_000)
        spent = await meter.cpu_s(lambda: feed(atlas))
        yield Figure("CPU of a video fed into that graph", spent * 1e6 / ADDED, "µs")
        async for figure in _deriving(atlas, meter, "for the first time"):
            yield figure
        await sql.execute("VACUUM ANALYZE atoms, incoming, atom_values, atom_embeddings")
        await _store(dao, videos[count + ADDED :], 1_000)
        await feed(atlas)
        async for figure in _deriving(atlas, meter, f"after {LATER:,} videos more"):
            yield figure
        yield _peak("after that")
        for type_, atoms in await sql.fetch(
            "SELECT type, count(*) FROM atoms GROUP BY type ORDER BY 2 DESC LIMIT 3"
        ):
            yield Figure(f"atoms {type_}", atoms, "")
        size = await sql.fetchval("SELECT pg_database_size(current_database())")
        yield Figure("database", size / 2**20, "MiB")
        ids = await sql.fetch("SELECT id FROM videos LIMIT $1", ERASED)
        erase = "DELETE FROM videos WHERE id = ANY ($1::text[])"
        spent = await meter.cpu_s(lambda: sql.execute(erase, [row[0] for row in ids]))
        yield Figure("CPU of a video erased", spent * 1e6 / ERASED, "µs")


async def _deriving(atlas: Atlas, meter: Meter, when: str) -> AsyncIterator[Figure]:
    stages = Stages(meter)
    made = await derive(atlas, stages.hear)
    stages.hear("")
    for stage, spent in stages.spent.items():
        yield Figure(f"deriving {when}: CPU of {stage}", spent, "s")
    yield Figure(f"deriving {when}: CPU in all", sum(stages.spent.values()), "s")
    yield Figure(f"deriving {when}: links written and removed", made.written + made.removed, "")


def _peak(when: str) -> Figure:
    return Figure(f"peak memory, {when}", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MiB")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Atlas]:
    """An Atlas of a database, with a data folder of its own."""
    with TemporaryDirectory(prefix="pleiades-bench-") as folder:
        settings = settings_of(url, database={"pool_size": 2}, data_dir=Path(folder))
        async with Atlas.open(settings) as atlas:
            yield atlas


async def figures(count: int = VIDEOS) -> AsyncIterator[Figure]:
    async with bed() as server:
        async for figure in measured(server, count):
            yield figure
