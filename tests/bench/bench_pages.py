"""Every page and every list of the service over a million made-up videos: how long each takes, and its CPU.

A durable server and one process of the service. Each address is asked once while no file of the server is in
the page cache ("cold"), then again and again with so long a pause that the service has forgotten its answer
("warm"), and each time at once once more ("kept"). Filters are the usual ones and the worst: a tag that
nearly all videos have, one that ten have, filters that nothing fits, windows of a month.

`--filled URL` takes a database that is filled already, of a server on this machine whose files we may read.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np
import psutil
from rich.console import Console

from maia.api.caching import STALE_S
from tests.balancing import processes
from tests.bench import crowd
from tests.bench.figures import Figure
from tests.bench.servers import bed
from tests.bench.stage import Cpu, plain_environment

GOAL_MS: Final = 500
_CONSOLE: Final = Console(stderr=True, emoji=False, highlight=False)
_FACTS: Final = """
WITH live AS (SELECT video_id, zone, velocity FROM video_clock WHERE status = 'live' AND velocity > 0),
counted AS (SELECT channel_id AS id, count(*) AS videos FROM videos GROUP BY 1)
SELECT
    (SELECT video_id FROM live WHERE zone = 0 ORDER BY velocity DESC LIMIT 1) AS hot,
    (SELECT video_id FROM live WHERE zone = 2 ORDER BY video_id LIMIT 1) AS cold,
    (SELECT id FROM counted ORDER BY videos DESC, id LIMIT 1) AS largest,
    (SELECT id FROM counted WHERE videos BETWEEN 3 AND 5 ORDER BY id LIMIT 1) AS small,
    ARRAY(SELECT video_id FROM live WHERE zone = 1 ORDER BY velocity DESC LIMIT 6) AS six,
    current_setting('data_directory') AS folder
"""


@dataclass(frozen=True, slots=True)
class Options:
    videos: int
    rounds: int
    filled: str | None
    only: str
    each: bool


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--videos", type=int, default=100_000, help="how many videos there are")
    parser.add_argument("--rounds", type=int, default=5, help="how often each address is asked when warm")
    parser.add_argument("--filled", help="the URL of a database that is filled already")
    parser.add_argument("--only", default="", help="only routes with this in their name")
    parser.add_argument("--each", action="store_true", help="print the times of each address")


def options_of(parsed: argparse.Namespace) -> Options:
    return Options(parsed.videos, parsed.rounds, parsed.filled, parsed.only, parsed.each)


@dataclass(frozen=True, slots=True)
class Asked:
    """What an address took in ms, and the CPU of an answer that was not kept."""

    address: str
    cold_ms: list[float] = field(default_factory=list)
    warm_ms: list[float] = field(default_factory=list)
    kept_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def told(self) -> str:
        parts = (("cold", self.cold_ms), ("warm", self.warm_ms), ("kept", self.kept_ms), ("CPU", self.cpu_ms))
        times = ", ".join(f"{name} {statistics.median(each):.0f}" for name, each in parts if each)
        return f"    {times} ms, {max(self.sizes) / 1024:.0f} KiB: {self.address}"


async def figures(options: Options) -> AsyncIterator[Figure]:
    if options.filled is not None:
        async for figure in _measured(options, options.filled):
            yield figure
        return
    async with bed() as place:
        url = await place.new_database()
        async with place.connection(url) as sql:
            async for what, seconds in crowd.fill(sql, options.videos):
                _CONSOLE.print(f"  {what}: {seconds:.1f} s")
        yield Figure(f"{what}, {options.videos:,} videos", seconds, "s")
        async for figure in _measured(options, url):
            yield figure


async def _measured(options: Options, url: str) -> AsyncIterator[Figure]:
    facts = await _facts(url)
    routes = {name: made for name, made in addresses(facts).items() if options.only in name}
    asked = {address: Asked(address) for made in routes.values() for address in made}
    async with serving(url) as (address, pid), aiohttp.ClientSession(address) as client:
        measure = Measure(client, facts["server"], pid)
        await _ask_cold(measure, Path(facts["folder"]), asked.values())
        for _ in range(options.rounds):
            began_s = time.perf_counter()
            for each in asked.values():
                took_ms, cpu_ms, size = await measure.ask(each.address)
                each.warm_ms.append(took_ms)
                each.cpu_ms.append(cpu_ms)
                each.sizes.append(size)
                each.kept_ms.append((await measure.ask(each.address))[0])
            await asyncio.sleep(max(0.0, STALE_S + 0.5 - (time.perf_counter() - began_s)))
        memory = psutil.Process(pid).memory_info().rss / 2**20
    for name, made in routes.items():
        of_name = [asked[address] for address in made]
        if options.each:
            for each in of_name:
                _CONSOLE.print(each.told(), soft_wrap=True)
        for figure in of_route(name, of_name):
            yield figure
    yield Figure("memory of the service's process afterwards", memory, "MiB")


def of_route(name: str, asked: Sequence[Asked]) -> Iterator[Figure]:
    warm = [took for each in asked for took in each.warm_ms]
    kept = [took for each in asked for took in each.kept_ms]
    cold = [took for each in asked for took in each.cold_ms]
    cpu = statistics.fmean(took for each in asked for took in each.cpu_ms)
    slowest = max(asked, key=lambda each: statistics.median(each.warm_ms))
    note = f"CPU {cpu:.0f} ms; kept p50 {statistics.median(kept):.1f} ms"
    if cold:
        note += f"; cold p50 {statistics.median(cold):.0f}, p95 {np.percentile(cold, 95):.0f} ms"
    yield Figure(f"{name}: p50", statistics.median(warm), "ms", note=note)
    yield Figure(
        f"{name}: p95", float(np.percentile(warm, 95)), "ms", goal=GOAL_MS, at_most=True,
        note=f"{len(asked)} addresses, slowest {slowest.address}",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measure:
    """Asks the service, and accounts for its process and the server's."""

    client: aiohttp.ClientSession
    server: int
    service: int

    async def ask(self, address: str) -> tuple[float, float, int]:
        """Milliseconds until the whole answer was here, milliseconds of CPU, and bytes."""
        before = self._cpu()
        is_page = not address.startswith(("/api", "/patterns", "/statistics", "/metrics"))
        headers = {"Accept": "text/html"} if is_page else {}
        began_s = time.perf_counter()
        async with self.client.get(address, headers=headers) as answer:
            body = await answer.read()
            took_s = time.perf_counter() - began_s
            assert answer.status == 200, (address, answer.status, body[:300])
        return took_s * 1e3, (self._cpu() - before).total_s * 1e3, len(body)

    def _cpu(self) -> Cpu:
        return Cpu.of(self.server) + Cpu.of(self.service)


async def _ask_cold(measure: Measure, folder: Path, asked: Iterable[Asked]) -> None:
    await asyncio.to_thread(os.sync)
    for each in asked:
        await asyncio.to_thread(_forget_files, folder)
        each.cold_ms.append((await measure.ask(each.address))[0])


def _forget_files(folder: Path) -> None:
    """Let the page cache forget a server's tables and indexes."""
    for path in (folder / "base").rglob("*"):
        # A table may go at any time.
        with suppress(FileNotFoundError, IsADirectoryError), path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


async def _facts(url: str) -> dict[str, Any]:
    """Videos and channels to ask for, and the server's process."""
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        facts = dict(await connection.fetchrow(_FACTS) or {})
        await connection.execute("CHECKPOINT")
        return facts | {"server": psutil.Process(await connection.fetchval("SELECT pg_backend_pid()")).ppid()}
    finally:
        await connection.close()


_BOARDS: Final = (
    "", "by=score", "by=acceleration", "by=relative", "by=forecast", "category=10", "limit=200",
    "age_max=1d", "age_min=30d", "zone=cold", "length=short", "broadcast=live", "broadcast=upcoming&by=score",
    "velocity_min=100000", "tag=lofi", "tag=video", "tag=of+a+fifth", "tag=of+a+hundredth", "tag=rare+find",
    "tag=nothing+has+it", "region=DE", "region=IS", "channel={largest}", "channel={small}",
    "tag=video&by=score", "tag=video&by=forecast", "tag=of+a+hundredth&by=relative",
    "region=DE&by=acceleration", "category=29&region=IS&age_max=6h",
    "category=29&length=short&by=forecast&age_max=2d", "tag=video&category=29&age_max=6h",
    "tag=of+a+hundredth&zone=hot&length=long",
)  # fmt: skip
_GROWN: Final = (
    "window=1h", "window=6h", "window=24h", "window=7d", "window=31d", "window=31d&limit=200",
    "window=24h&category=10", "window=7d&tag=video", "window=31d&tag=of+a+hundredth",
    "window=7d&tag=rare+find", "window=24h&region=DE", "window=7d&length=short&category=29",
    "window=24h&zone=cold&age_min=365d", "window=31d&channel={largest}", "window=7d&by=score",
    "window=24h&by=forecast&category=10",
)  # fmt: skip
_SEARCHES: Final = (
    "lofi", "the", "minecraft", "official+video", "lo", "of+a+fifth", "video", "kalo", "minecarft",
    "ofical+vidoe", "zzzzqqq", "a", "relaxing+piano+study", "guitar+tutoral",
)  # fmt: skip
_API: Final = "/api/v1"
_ADDRESSES: Final[Mapping[str, Sequence[str]]] = {
    "GET /api/v1/videos": [f"{_API}/videos?{each}" for each in _BOARDS],
    "GET /api/v1/videos?window=": [f"{_API}/videos?{each}" for each in _GROWN],
    "GET / (Rising)": ["/", *(f"/?{each}" for each in (*_BOARDS[1:6], "tag=video", *_GROWN[:5]))],
    "GET /api/v1/videos/{id}": [_API + "/videos/{hot}", _API + "/videos/{cold}"],
    "GET /videos/{id}": ["/videos/{hot}", "/videos/{cold}"],
    "GET /compare": ["/compare?{six}"],
    "GET /api/v1/channels/{id}": [_API + "/channels/{small}", _API + "/channels/{largest}?uploads=500"],
    "GET /channels/{id}": ["/channels/{small}", "/channels/{largest}?limit=500"],
    "GET /api/v1/topics": [
        f"{_API}/topics?{each}"
        for each in ("", "limit=500", "status=active", "status=cooling", "status=parked")
    ],
    "GET /topics": ["/topics", "/topics?limit=1000", "/topics?status=cooling", "/topics?status=parked"],
    "GET /api/v1/breakouts": [f"{_API}/breakouts", f"{_API}/breakouts?limit=500"],
    "GET /api/v1/quota, incidents, health": [f"{_API}/quota", f"{_API}/incidents", f"{_API}/health"],
    "GET /quota, /health, /learnt": ["/quota", "/health", "/learnt"],
    "GET /api/v1/search": [f"{_API}/search?q={each}" for each in _SEARCHES],
    "GET /search": [f"/search?q={each}" for each in _SEARCHES],
    "GET /patterns, statistics": ["/patterns?limit=50", f"{_API}/patterns?limit=50", "/statistics"],
}  # fmt: skip
"""The addresses of each route, the usual ones first; in braces what is in the database."""


def addresses(facts: Mapping[str, Any]) -> dict[str, list[str]]:
    """The addresses of each route in a database of these facts."""
    given = {**facts, "six": "&".join(f"id={each}" for each in facts["six"])}
    return {
        name.replace("{id}", "…"): [address.format_map(given) for address in made]
        for name, made in _ADDRESSES.items()
    }


@asynccontextmanager
async def serving(url: str) -> AsyncIterator[tuple[str, int]]:
    """A process of the service; its address and process id."""
    environment = plain_environment() | {
        "DATABASE_URL": url, "NODE_ID": "bench", "PLEIADES_API__REQUESTS_PER_MINUTE": "10000000",
    }  # fmt: skip
    async with processes(environment, 1) as started:
        [(port, pid)] = started.items()
        yield f"http://127.0.0.1:{port}", pid
