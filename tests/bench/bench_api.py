"""The service behind nginx: operations a second, latency and CPU of 1, 3 and 5 processes over a big database.

A durable server with 100,000 patterns and a million videos; `maia api` processes behind a real nginx, as
deployments/nginx sets it up; callers in a process of their own. Each operation is asked for as often as some
callers can, each waiting for its answer, and then as often a second as the published figures say. The floor
is a bare route of Starlette behind the same nginx. At the end a thousand WebSockets follow the patterns.

All of it shares the machine's cores, so with few of them more processes can't do more: the CPU of an
operation, apart for each party, says what bounds it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import psutil
from rich.console import Console

from atlas.adapters.access import AccessDAO
from atlas.adapters.patterns import NewEvidence, PatternsDAO
from atlas.clock import SystemClock
from atlas.scopes import Scope
from tests.balancing import ADVICE, Balancer, balancer, has_nginx, processes
from tests.bench import crowd
from tests.bench.calling import Called, Job
from tests.bench.figures import Figure, Ticks
from tests.bench.library import store_patterns
from tests.bench.servers import Bed, bed, migrated
from tests.bench.stage import Cpu, child, plain_environment, temporary_folder

PUBLISHED: Final[Mapping[int, tuple[int, int]]] = {1: (100, 50), 3: (280, 55), 5: (450, 60)}
"""Operations a second and the p99 in milliseconds, by the number of processes."""
GOAL_TIMES, GOAL_P99_MS = 10, 20
OPERATIONS: Final = ("observe", "match", "recommend", "leaderboard")
RARE: Final = "a new leaderboard"
RARE_CALLERS: Final = 2
PACED_CALLERS: Final = 64
CHANGES_A_SECOND: Final = 2
_MOST_PER_MINUTE: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class Options:
    nodes: Sequence[int]
    duration_s: float
    patterns: int
    videos: int
    callers: int
    sockets: int


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, nargs="+", default=[*PUBLISHED], help="how many processes serve")
    parser.add_argument(
        "--duration", type=float, default=10, help="seconds for which each figure is measured"
    )
    parser.add_argument("--patterns", type=int, default=100_000, help="how many patterns are known")
    parser.add_argument("--videos", type=int, default=1_000_000, help="how many videos are stored")
    parser.add_argument("--callers", type=int, default=16, help="how many callers ask at once")
    parser.add_argument("--sockets", type=int, default=1_000, help="how many WebSockets follow; 0: none")


def options_of(parsed: argparse.Namespace) -> Options:
    if not has_nginx():
        raise SystemExit(f"api: {ADVICE}")
    return Options(
        parsed.nodes, parsed.duration, parsed.patterns, parsed.videos, parsed.callers, parsed.sockets
    )


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds of each party."""

    service_s: float
    database_s: float
    nginx_s: float

    def __sub__(self, other: Spent) -> Spent:
        return Spent(
            self.service_s - other.service_s,
            self.database_s - other.database_s,
            self.nginx_s - other.nginx_s,
        )


@dataclass(frozen=True, slots=True)
class Cluster:
    """Processes that answer, the nginx before them, and the database behind them."""

    pids: Sequence[int]
    nginx: Balancer
    database_pid: int
    key: str

    @property
    def called(self) -> str:
        return "1 process" if len(self.pids) == 1 else f"{len(self.pids)} processes"

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.nginx.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def spent(self) -> Spent:
        service_s = sum(Cpu.of(pid).total_s for pid in self.pids)
        return Spent(service_s, Cpu.of(self.database_pid).total_s, Cpu.of(self.nginx.pid).total_s)

    def memory_bytes(self) -> int:
        return sum(int(psutil.Process(pid).memory_info().rss) for pid in self.pids)


@dataclass(frozen=True, slots=True)
class Run:
    """What callers got, and what that cost."""

    called: Called
    spent: Spent
    stolen: float

    @classmethod
    async def of(
        cls, cluster: Cluster, operation: str, callers: int, seconds: float, rate: float | None = None
    ) -> Run:
        host, port = cluster.address
        job = Job(host, port, cluster.key, operation, callers, seconds, rate)
        spent, ticks = cluster.spent(), Ticks.now()
        told = await child("tests.bench.calling", environment=plain_environment(), job=asdict(job))
        called = Called(**told)
        if called.refused or not called.requests:
            raise RuntimeError(f"{operation}: not every request was answered: {dict(called.refused)}")
        return cls(called, cluster.spent() - spent, Ticks.now().steal_since(ticks))

    @property
    def per_s(self) -> float:
        return self.called.requests / self.called.seconds

    @property
    def service_us(self) -> float:
        """Microseconds of an operation in the service's own processes."""
        return self.spent.service_s / self.called.in_all * 1e6

    @property
    def latency(self) -> str:
        return f"p50 {self.called.p50_ms:.1f} ms, p99 {self.called.p99_ms:.1f} ms, {self.stolen:.1%} stolen"

    def costs(self) -> str:
        """Where the rest of the CPU went, and what follows from it."""
        database_us, nginx_us = (
            each / self.called.in_all * 1e6 for each in (self.spent.database_s, self.spent.nginx_s)
        )
        callers_us = self.called.cpu_s / self.called.requests * 1e6
        whole_us = self.service_us + database_us + nginx_us + callers_us
        cores = os.cpu_count() or 1
        return (
            f"PostgreSQL {database_us:,.0f}, nginx {nginx_us:,.0f}, callers {callers_us:,.0f}: "
            f"{cores} cores for all of it bound it to {cores * 1e6 / whole_us:,.0f}/s, "
            f"one core for a process to {1e6 / self.service_us:,.0f}/s"
        )


async def figures(options: Options) -> AsyncIterator[Figure]:
    progress = Console(stderr=True, emoji=False)
    progress.print(f"  {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    async with bed() as place:
        url = await place.new_database()
        async with place.connection(url) as sql:
            async for what, seconds in crowd.fill(sql, options.videos):
                progress.print(f"  {what}: {seconds:.1f} s")
        key = await _key(url)
        ids = await store_patterns(url, options.patterns, progress)
        for count in options.nodes:
            ticks = Ticks.now()
            async with _floors(place, count) as cluster:
                floor = await Run.of(cluster, "floor", options.callers, options.duration_s)
            yield Figure(
                f"floor, {cluster.called}", floor.per_s, "answers/s",
                note=f"bare Starlette behind nginx; {floor.latency}",
            )  # fmt: skip
            yield Figure(
                f"floor, {cluster.called}: CPU", floor.service_us, "µs an answer", note=floor.costs()
            )
            async with _cluster(place, url, key, count) as cluster:
                async for figure in _measured(cluster, options, floor):
                    yield figure
                if options.sockets:
                    async for figure in _followed(cluster, url, ids, options):
                        yield figure
            stolen = Ticks.now().steal_since(ticks)
            progress.print(f"  {cluster.called}: load {os.getloadavg()[0]:.1f}, {stolen:.1%} stolen")


async def _key(url: str) -> str:
    async with migrated(url) as (database, settings):
        dao = AccessDAO(database, clock=SystemClock(), settings=settings)
        return (await dao.add("bench", Scope.WRITE, _MOST_PER_MINUTE)).get_secret_value()


@asynccontextmanager
async def _cluster(place: Bed, url: str, key: str, count: int) -> AsyncIterator[Cluster]:
    with temporary_folder() as folder:
        environment = plain_environment() | {
            "DATABASE_URL": url, "NODE_ID": "bench", "PLEIADES_LEARNER__MAX_PATTERNS": "1000000",
            "PLEIADES_DATA_DIR": str(folder),
        }  # fmt: skip
        async with processes(environment, count) as pids, balancer([*pids]) as nginx:
            assert place.server.pid is not None
            await asyncio.gather(*(_knows_the_patterns(port, key) for port in pids))
            yield Cluster([*pids.values()], nginx, place.server.pid, key)


async def _knows_the_patterns(port: int, key: str) -> None:
    """Wait until a process has read all patterns, which it does after it began to answer."""
    url = f"http://127.0.0.1:{port}/match"
    async with aiohttp.ClientSession(headers={"X-API-Key": key}) as session:
        while True:
            async with session.post(url, json={"context": {}}) as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.5)


@asynccontextmanager
async def _floors(place: Bed, count: int) -> AsyncIterator[Cluster]:
    command = (sys.executable, "-m", "tests.bench.floor")
    async with processes(plain_environment(), count, command) as pids, balancer([*pids]) as nginx:
        assert place.server.pid is not None
        yield Cluster([*pids.values()], nginx, place.server.pid, "none")


async def _measured(cluster: Cluster, options: Options, floor: Run) -> AsyncIterator[Figure]:
    per_s, p99_ms = PUBLISHED.get(len(cluster.pids), (None, None))
    for operation in OPERATIONS:
        name = f"{operation}, {cluster.called}"
        run = await Run.of(cluster, operation, options.callers, options.duration_s)
        # More processes share the same cores here, so only one of them can be judged.
        goal = GOAL_TIMES if len(cluster.pids) == 1 else None
        yield Figure(name, run.per_s, "operations/s", per_s, "published", goal,
                     note=f"{options.callers} callers: {run.latency}")  # fmt: skip
        yield Figure(f"{name}: CPU", run.service_us, "µs an operation", floor.service_us, "bare Starlette",
                     at_most=True, note=run.costs())  # fmt: skip
        if per_s is not None and p99_ms is not None:
            paced = await Run.of(cluster, operation, PACED_CALLERS, options.duration_s, per_s)
            for figure in _paced(name, paced, per_s, p99_ms):
                yield figure
    run = await Run.of(cluster, RARE, RARE_CALLERS, options.duration_s)
    name = f"{RARE}, {cluster.called}"
    yield Figure(name, run.per_s, "operations/s", note=f"{RARE_CALLERS} callers: {run.latency}")
    yield Figure(f"{name}: CPU", run.service_us, "µs an operation", note=run.costs())


def _paced(name: str, run: Run, per_s: int, p99_ms: int) -> Iterator[Figure]:
    name = f"{name}, {per_s} a second"
    yield Figure(f"{name}: p50", run.called.p50_ms, "ms")
    yield Figure(
        f"{name}: p99", run.called.p99_ms, "ms", p99_ms, "published", GOAL_P99_MS / p99_ms, at_most=True,
        note=f"the slowest {run.called.most_ms:,.0f} ms, {run.stolen:.1%} stolen",
    )  # fmt: skip


async def _followed(
    cluster: Cluster, url: str, ids: Sequence[str], options: Options
) -> AsyncIterator[Figure]:
    """A thousand WebSockets, and a change of a pattern now and then."""
    before_bytes = cluster.memory_bytes()
    host, port = cluster.address
    job = {"host": host, "port": port, "key": cluster.key, "clients": options.sockets}
    follower = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.following",
        env=plain_environment(), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert follower.stdin is not None
    assert follower.stdout is not None
    follower.stdin.write(json.dumps(job).encode() + b"\n")
    if await follower.stdout.readline() != b"ready\n":
        raise RuntimeError(f"the WebSockets ended with status {await follower.wait()}")
    grown_bytes = cluster.memory_bytes() - before_bytes
    spent, ticks = cluster.spent(), Ticks.now()
    told_at_s = await _change(url, ids[: round(options.duration_s * CHANGES_A_SECOND)])
    spent = cluster.spent() - spent
    stolen = Ticks.now().steal_since(ticks)
    output, _ = await follower.communicate(b"")
    found: dict[str, Any] = json.loads(output)
    waits_ms = [(at_s - told_at_s[id_]) * 1e3 for id_, heard in found["heard"].items() for at_s in heard]
    if found["closed"] or len(waits_ms) != len(told_at_s) * options.sockets:
        raise RuntimeError(f"{len(waits_ms):,} messages came, closed were {found['closed'][:10]}")
    p50, p99, most = np.percentile(waits_ms, [50, 99, 100]).tolist()
    name = f"{options.sockets:,} WebSockets, {cluster.called}"
    yield Figure(f"{name}: delay p50", p50, "ms", note="since before the change was stored")
    yield Figure(
        f"{name}: delay p99", p99, "ms",
        note=f"{len(waits_ms):,} messages, the last after {most:,.0f} ms, "
        f"{CHANGES_A_SECOND} changes a second, {stolen:.1%} stolen",
    )  # fmt: skip
    yield Figure(f"{name}: memory", grown_bytes / options.sockets / 1024, "KiB a client")
    nginx_us = spent.nginx_s / len(waits_ms) * 1e6
    service_us = spent.service_s / len(waits_ms) * 1e6
    yield Figure(f"{name}: CPU", service_us, "µs a message", note=f"nginx {nginx_us:,.0f}")


async def _change(url: str, ids: Sequence[str]) -> dict[str, float]:
    """Store one more piece of evidence for each pattern in turn; when that began, by its id."""
    began_at_s: dict[str, float] = {}
    async with migrated(url) as (database, settings):
        dao = PatternsDAO(database, clock=SystemClock(), settings=settings)
        for id_ in ids:
            now = datetime.now(UTC)
            began_at_s[id_] = time.perf_counter()
            await dao.count([NewEvidence(id_, now.date(), 1, 0, 0.0, now)])
            await asyncio.sleep(1 / CHANGES_A_SECOND)
    # Whatever is still on its way arrives meanwhile.
    await asyncio.sleep(2)
    return began_at_s
