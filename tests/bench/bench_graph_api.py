"""Every page and route of the knowledge graph at full size: how long each takes, and its CPU.

A durable server and one process of the service, over 250,000 nodes and 1.2 million links, 20,000 of the atoms
with attention. Asked for are popular and rare tags, a topic, channels and videos, and the category that a
fifteenth of all videos are of. Each address is asked after so long a pause that the service has forgotten its
answer ("warm"), and at once once more ("kept").

`--filled URL` takes a database that is filled already with a graph of that size, of a server on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import asyncpg
import numpy as np
import psutil
from rich.console import Console

from atlas.adapters.graph import Attention, GraphDAO
from atlas.composition import Atlas
from maia.api.caching import STALE_S
from tests.bench import graphs
from tests.bench.bench_pages import GOAL_MS, Asked, Measure, of_route, serving
from tests.bench.figures import Figure
from tests.bench.servers import bed, settings_of
from tests.bench.stage import Cpu

_CONSOLE: Final = Console(stderr=True, emoji=False, highlight=False)
_API: Final = "/api/v1/graph"
_ATTENDED: Final = 20_000
_EACH: Final = tuple(
    f"{{{name}}}" for name in ("popular", "shared", "rare", "topic", "channel", "small", "video", "category")
)
_ADDRESSES: Final[Mapping[str, tuple[str, ...]]] = {
    "GET /graph": ("/graph", "/graph?q=tag+1&type=tag"),
    "GET /graph/{atom}": tuple(f"/graph/{each}" for each in _EACH),
    "GET atoms": (f"{_API}/atoms?limit=1000", f"{_API}/atoms?type=tag&prefix=tag+1&limit=1000"),
    "GET atoms/{id}": tuple(f"{_API}/atoms/{each}" for each in _EACH),
    "GET incoming": tuple(f"{_API}/atoms/{each}/incoming?limit=1000" for each in _EACH),
    "GET neighbours": tuple(f"{_API}/atoms/{each}/neighbours" for each in _EACH),
    "GET neighbours?hops=2": tuple(f"{_API}/atoms/{each}/neighbours?hops=2" for each in _EACH),
    "GET similar": tuple(f"{_API}/atoms/{each}/similar" for each in _EACH),
    "GET path": (
        f"{_API}/path?from={{video}}&to={{rare}}", f"{_API}/path?from={{topic}}&to={{channel}}",
        f"{_API}/path?from={{rare}}&to={{small}}",
    ),
    "GET attention": (f"{_API}/attention?limit=500", f"{_API}/attention?type=topic"),
    "GET stats": (f"{_API}/stats",),
}  # fmt: skip
_QUERIES: Final = (
    "tagged(?v, {rare}), uploaded_by(?v, ?c)",
    "tagged(?v, tag:tag 0), tagged(?v, tag:tag 1), uploaded_by(?v, ?c)",
    "tagged(?v, tag:tag 50), found_by(?v, ?t), not tagged(?v, tag:tag 0)",
    "uploaded_by(?v, channel:UC0000000000000000000000), tagged(?v, ?tag)",
)


@dataclass(frozen=True, slots=True)
class Options:
    factor: float
    rounds: int
    each: bool
    filled: str | None
    only: str

    @property
    def size(self) -> graphs.Size:
        return graphs.STANDARD.scaled(self.factor)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--factor", type=float, default=1.0, help="so large a part of the usual graph")
    parser.add_argument("--rounds", type=int, default=5, help="how often each address is asked when warm")
    parser.add_argument("--each", action="store_true", help="print the times of each address")
    parser.add_argument("--filled", help="the URL of a database that is filled already")
    parser.add_argument("--only", default="", help="only routes with this in their name")


def options_of(parsed: argparse.Namespace) -> Options:
    return Options(parsed.factor, parsed.rounds, parsed.each, parsed.filled, parsed.only)


async def figures(options: Options) -> AsyncIterator[Figure]:
    if options.filled is not None:
        async for figure in _served(options, options.filled):
            yield figure
        return
    async with bed() as place:
        url = await place.new_database()
        async with Atlas.open(settings_of(url)) as atlas:
            began_s = time.perf_counter()
            arrays = await asyncio.to_thread(graphs.make, options.size)
            await graphs.load(atlas, arrays)
            await _attend(atlas, arrays)
            yield Figure(f"filling {len(arrays):,} atoms", time.perf_counter() - began_s, "s")
        async with place.connection(url) as sql:
            await sql.execute("VACUUM ANALYZE")
        async for figure in _served(options, url):
            yield figure


async def _served(options: Options, url: str) -> AsyncIterator[Figure]:
    sql = await asyncpg.connect(url)
    try:
        server = psutil.Process(await sql.fetchval("SELECT pg_backend_pid()")).ppid()
    finally:
        await sql.close()
    async with serving(url) as (address, pid), aiohttp.ClientSession(address) as client:
        async for figure in _measured(options, Measure(client, server, pid)):
            yield figure


async def _attend(atlas: Atlas, arrays: Any) -> None:
    places = np.random.default_rng(1).choice(len(arrays), min(_ATTENDED, len(arrays)), replace=False)
    attention = {arrays.handle(int(place)): Attention(float(n), 1.0) for n, place in enumerate(places)}
    dao = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    await dao.attend(attention, datetime.now(UTC))


async def _measured(options: Options, measure: Measure) -> AsyncIterator[Figure]:
    routes = {
        name: [Asked(each) for each in made]
        for name, made in _addresses(options.size).items()
        if options.only in name
    }
    for _ in range(options.rounds + 1):
        for each in (each for made in routes.values() for each in made):
            took_ms, cpu_ms, size = await measure.ask(each.address)
            each.warm_ms.append(took_ms)
            each.cpu_ms.append(cpu_ms)
            each.sizes.append(size)
            each.kept_ms.append((await measure.ask(each.address))[0])
        await asyncio.sleep(STALE_S + 0.5)
    for name, made in routes.items():
        for each in made:
            # The first time, the caches of the server are cold.
            del each.warm_ms[0], each.cpu_ms[0]
            if options.each:
                _CONSOLE.print(each.told(), soft_wrap=True)
        for figure in of_route(name, made):
            yield figure
    others = {
        "POST query": _queries(options, measure),
        "GET communities": _communities(measure),
        "GET export": _export(measure),
    }
    for name, its_figures in others.items():
        if options.only in name:
            async for figure in its_figures:
                yield figure


def _atoms(size: graphs.Size) -> dict[str, str]:
    return {
        "popular": "tag:tag 0", "shared": "tag:tag 50", "rare": f"tag:tag {size.tags * 3 // 4}",
        "topic": f"topic:topic {size.topics // 100}", "channel": f"channel:UC{0:022x}",
        "small": f"channel:UC{size.channels * 3 // 5:022x}", "video": f"video:{77:011x}",
        "category": "category:3",
    }  # fmt: skip


def _addresses(size: graphs.Size) -> dict[str, list[str]]:
    given = {name: quote(atom, safe="") for name, atom in _atoms(size).items()}
    return {
        name.replace("{atom}", "…").replace("{id}", "…"): [each.format_map(given) for each in made]
        for name, made in _ADDRESSES.items()
    }


async def _queries(options: Options, measure: Measure) -> AsyncIterator[Figure]:
    took_ms, cpu_ms = [], []
    for query in (each.format_map(_atoms(options.size)) for each in _QUERIES):
        for _ in range(options.rounds):
            before, began_s = _cpu(measure), time.perf_counter()
            async with measure.client.post(f"{_API}/query", json={"query": query}) as answer:
                assert answer.status == 200, (query, await answer.text())
                await answer.read()
            took_ms.append((time.perf_counter() - began_s) * 1e3)
            cpu_ms.append((_cpu(measure) - before).total_s * 1e3)
            if options.each:
                _CONSOLE.print(f"    {took_ms[-1]:.0f} ms, CPU {cpu_ms[-1]:.0f} ms: {query}", soft_wrap=True)
    yield Figure(
        "POST query: p95", float(np.percentile(took_ms, 95)), "ms", goal=GOAL_MS, at_most=True,
        note=f"CPU {np.mean(cpu_ms):.0f} ms",
    )  # fmt: skip


async def _communities(measure: Measure) -> AsyncIterator[Figure]:
    """Finding the communities the first time, and how long others wait meanwhile."""
    before, began_s = _cpu(measure), time.perf_counter()
    rss = most = psutil.Process(measure.service).memory_info().rss
    finding = asyncio.create_task(measure.ask(f"{_API}/communities"))
    waits_ms = []
    while not finding.done():
        asked_s = time.perf_counter()
        async with measure.client.get("/healthz") as answer:
            await answer.read()
        waits_ms.append((time.perf_counter() - asked_s) * 1e3)
        most = max(most, psutil.Process(measure.service).memory_info().rss)
        await asyncio.sleep(0.05)
    await finding
    cpu_s, took_s = (_cpu(measure) - before).total_s, time.perf_counter() - began_s
    note = f"{took_s:.0f} s; memory grows by {(most - rss) / 2**20:.0f} MiB"
    yield Figure("finding the communities: CPU", cpu_s, "s", note=note)
    yield Figure("an answer meanwhile: p95", float(np.percentile(waits_ms, 95)), "ms")
    took_ms, cpu_ms, _ = await measure.ask(f"{_API}/communities?of=video:{77:011x}")
    yield Figure("GET communities?of= later", took_ms, "ms", note=f"CPU {cpu_ms:.0f} ms")


async def _export(measure: Measure) -> AsyncIterator[Figure]:
    before, began_s, size = _cpu(measure), time.perf_counter(), 0
    rss = most = psutil.Process(measure.service).memory_info().rss
    async with measure.client.get(f"{_API}/export", timeout=None) as answer:
        async for part in answer.content.iter_chunked(1 << 20):
            size += len(part)
            most = max(most, psutil.Process(measure.service).memory_info().rss)
    cpu_s, took_s = (_cpu(measure) - before).total_s, time.perf_counter() - began_s
    note = f"{size / 2**20:.0f} MiB in {took_s:.0f} s; memory grows by {(most - rss) / 2**20:.0f} MiB"
    yield Figure("GET export: CPU", cpu_s, "s", note=note)


def _cpu(measure: Measure) -> Cpu:
    return Cpu.of(measure.server) + Cpu.of(measure.service)
