"""Federation: catching up on 100,000 patterns, against COPY of the same rows; deltas; delay in Redis.

A durable server with a database for each site; the site that is called is served by a process of its own, and
so is each that calls. The patterns are those of the bench of patterns, each with evidence of one day. The
floor is COPY of the same rows out of one database and into another, with the same indexes and triggers. The
delay is from the commit at one site until PostgreSQL tells of it at another one. Seeds are fixed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import SecretStr

from atlas import config
from atlas.adapters.changes import CHANNEL
from atlas.adapters.patterns import NewEvidence, PatternContent, PatternsDAO
from atlas.clock import SystemClock
from atlas.composition import Atlas
from maia.federation.publishing import streaming
from maia.federation.running import Federation
from maia.views.patterns import columns_of
from tests.bench.bench_patterns import NOW, made_patterns
from tests.bench.figures import Figure
from tests.bench.servers import Bed, bed, cpu_s, migrated, settings_of
from tests.redis_server import redis_server

TOKEN = "a token for the bench"
ROWS_AT_ONCE = 1_000
SEED = 20261130
GOAL_DELAY_P99_MS = 1_000
_TABLES = {
    "patterns": "id, type, signature, statement, conditions, action, data, created_at, updated_at, version, "
    "pinned, forgotten_at, forgotten_by, remembered_at, sti, lti, attended_at",
    "pattern_evidence": "pattern_id, node, day, pos, neg, sum_reward, last_seen, version",
}


@dataclass(frozen=True, slots=True)
class Options:
    patterns: int
    deltas: int
    messages: int


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--federated", type=int, default=100_000, help="how many patterns are caught up on")
    parser.add_argument("--deltas", type=int, default=20_000, help="how many rows change, in all")
    parser.add_argument("--delays", type=int, default=300, help="how often the delay in Redis is measured")


def options_of(parsed: argparse.Namespace) -> Options:
    return Options(parsed.federated, parsed.deltas, parsed.delays)


async def figures(options: Options) -> AsyncIterator[Figure]:
    async with bed() as place:
        source, target, copied = [await place.new_database() for _ in range(3)]
        await learn(source, options.patterns)
        for url in (target, copied):
            async with migrated(url):
                pass
        copy_s = await _copied(place, source, copied)
        async with _served(source) as (address, pid):
            async for figure in _catching_up(target, address, pid, options.patterns, copy_s):
                yield figure
            async for figure in _deltas(source, target, address, options.deltas):
                yield figure
        async for figure in _through_redis(source, target, options):
            yield figure


async def learn(url: str, count: int) -> None:
    """Store so many patterns, with evidence of one day each."""
    shift = datetime.now(UTC) - NOW
    oldest = datetime.now(UTC) - timedelta(days=60)
    async with migrated(url) as (database, settings):
        dao = PatternsDAO(database, clock=SystemClock(), settings=settings)
        known = made_patterns(count)
        for first in range(0, count, ROWS_AT_ONCE):
            some = known[first : first + ROWS_AT_ONCE]
            evidence = []
            for each in some:
                seen = max((each.last_seen or NOW) + shift, oldest)
                counts = each.counts
                evidence.append(
                    NewEvidence(each.id, seen.date(), counts.pos, counts.neg, counts.reward, seen)
                )
            async with dao.transaction() as ours:
                await ours.store([PatternContent(**columns_of(each.pattern)) for each in some])
                await ours.count(evidence)


async def _copied(place: Bed, source: str, target: str) -> float:
    """How long COPY takes to bring the same rows from one database into another."""
    began_s = time.perf_counter()
    async with place.connection(source) as ours, place.connection(target) as theirs, theirs.transaction():
        for table, columns in _TABLES.items():
            rows = BytesIO()
            await ours.copy_from_query(f"SELECT {columns} FROM {table}", output=rows, format="binary")
            rows.seek(0)
            await theirs.copy_to_table(table, source=rows, columns=columns.split(", "), format="binary")
    return time.perf_counter() - began_s


def _environment(url: str, **further: str) -> dict[str, str]:
    return os.environ | {
        "DATABASE_URL": url, "NODE_ID": "bench", "PLEIADES_LEARNER__MAX_PATTERNS": "1000000",
        "PLEIADES_FEDERATION__MOST_NEW_PATTERNS": "10000000", "PLEIADES_FEDERATION__TOKEN": TOKEN,
        "PLEIADES_API__REQUESTS_PER_MINUTE": "10000000", **further,
    }  # fmt: skip


@asynccontextmanager
async def _served(url: str) -> AsyncIterator[tuple[str, int]]:
    """A process that serves a site; its address and process id."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "maia", "api", "--port", "0", "--json",
        env=_environment(url), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield json.loads(await process.stdout.readline())["url"], process.pid
    finally:
        process.terminate()
        await process.wait()


async def _call(url: str, peer: str) -> dict[str, Any]:
    """Let a process of its own call a peer once; what it measured."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.bench_federation",
        env=_environment(url, PLEIADES_FEDERATION__PEERS=peer), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0
    measured: dict[str, Any] = json.loads(output)
    assert measured["failed"] is None, measured
    return measured


async def calling() -> None:
    """What the process of its own does."""
    async with Atlas.open(config.load()) as atlas:
        federation = Federation(atlas)
        before_mb = _most_mb()
        began_s, spent_s = time.perf_counter(), time.process_time()
        [done] = await federation.sync(compare=False)
        told = {
            "seconds": time.perf_counter() - began_s,
            "cpu_s": time.process_time() - spent_s,
            "more_mb": _most_mb() - before_mb,
            "records": done.received,
            "messages": done.messages,
            "bytes": done.bytes_received,
            "failed": done.failed,
        }
        json.dump(told, sys.stdout)


def _most_mb() -> float:
    """The most memory that this process has had. What getrusage says includes its parent's before exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


async def _catching_up(
    target: str, address: str, pid: int, patterns: int, copy_s: float
) -> AsyncIterator[Figure]:
    served_s = cpu_s(pid)
    done = await _call(target, address)
    served_s = cpu_s(pid) - served_s
    assert done["records"] == 2 * patterns, done
    what = f"catch up on {patterns:,} patterns"
    note = f"{done['messages']} messages; {done['records']:,} texts and rows"
    yield Figure(what, done["seconds"], "s", copy_s, "COPY", at_most=True, note=note)
    yield Figure(f"{what}: CPU of the site that calls", done["cpu_s"] * 1e6 / patterns, "µs a pattern")
    yield Figure(f"{what}: CPU of the site that is called", served_s * 1e6 / patterns, "µs a pattern")
    yield Figure(f"{what}: memory", done["more_mb"], "MB more at the site that calls")
    yield Figure(f"{what}: size", done["bytes"] / patterns, "bytes a pattern", note="with its evidence")


async def _count(url: str, count: int) -> None:
    """Let a site count evidence once for so many patterns."""
    async with migrated(url) as (database, settings):
        dao = PatternsDAO(database, clock=SystemClock(), settings=settings)
        now = datetime.now(UTC)
        ids = sorted(each.id for each in await dao.known())[:count]
        await dao.count([NewEvidence(id_, now.date(), 1, 0, 0.5, now) for id_ in ids])


async def _deltas(source: str, target: str, address: str, count: int) -> AsyncIterator[Figure]:
    for what in ("new rows", "changed rows"):
        await _count(source, count)
        done = await _call(target, address)
        assert done["records"] >= count, done
        yield Figure(f"deltas over HTTP, {what}", count / done["seconds"], "deltas/s")
        yield Figure(f"deltas over HTTP, {what}: size", done["bytes"] / count, "bytes a delta")
    done = await _call(target, address)
    yield Figure("an exchange without news", done["seconds"] * 1e3, "ms", note=f"{done['bytes']} bytes back")


async def _through_redis(source: str, target: str, options: Options) -> AsyncIterator[Figure]:
    drawn = random.Random(SEED)
    with redis_server() as server:
        async with AsyncExitStack() as stack:
            sites = []
            for url in (source, target):
                settings = settings_of(
                    url,
                    redis_url=SecretStr(server.url),
                    federation={"token": TOKEN},
                    learner={"max_patterns": 1_000_000},
                )
                atlas = await stack.enter_async_context(Atlas.open(settings))
                await stack.enter_async_context(streaming(atlas))
                sites.append(atlas)
            one, other = (
                PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings) for atlas in sites
            )
            notices = await stack.enter_async_context(aclosing(sites[1].db.listen(CHANNEL)))
            ids = sorted(each.id for each in await one.known())
            await _arrives(one, other, notices, ids[0])
            waits_ms = []
            for _ in range(options.messages):
                await asyncio.sleep(drawn.uniform(0, 0.05))
                waits_ms.append(await _arrives(one, other, notices, drawn.choice(ids)) * 1e3)
            p50, p99 = np.percentile(waits_ms, [50, 99])
            yield Figure("delay through Redis: p50", float(p50), "ms", note="50 ms of it gather more")
            yield Figure("delay through Redis: p99", float(p99), "ms", goal=GOAL_DELAY_P99_MS, at_most=True)
            now = datetime.now(UTC)
            some = ids[: options.deltas]
            before = await _support(other, some[-1])
            began_s = time.perf_counter()
            await one.count([NewEvidence(id_, now.date(), 1, 0, 0.5, now) for id_ in some])
            while await _support(other, some[-1]) == before:
                await asyncio.sleep(0.005)
            took_s = time.perf_counter() - began_s
            yield Figure(
                "deltas through Redis", len(some) / took_s, "deltas/s", note="counting them included"
            )


async def _arrives(one: PatternsDAO, other: PatternsDAO, notices: Any, id_: str) -> float:
    """Count evidence at one site; seconds until another one has it."""
    now = datetime.now(UTC)
    before = await _support(other, id_)
    await one.count([NewEvidence(id_, now.date(), 1, 0, 0.5, now)])
    counted_s = time.perf_counter()
    async with asyncio.timeout(60):
        while await _support(other, id_) == before:
            await anext(notices)
    return time.perf_counter() - counted_s


async def _support(dao: PatternsDAO, id_: str) -> int:
    [row] = await dao.known(ids=[id_])
    return row.support


if __name__ == "__main__":
    asyncio.run(calling())
