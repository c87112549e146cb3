"""POST /observe: operations a second, their latency and CPU, in one process that knows 100,000 patterns.

A durable server; the service in a process of its own on one core, while the clients and the server share the
others. What is sent is what twenty agents do in sessions, with contexts and failures. First detectors learn
as much as they remember; then some clients send one observation after the other, each waiting for the answer;
then so many come each second as the published figure says, and then lists of a hundred. Seeds are fixed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import aiohttp
import numpy as np
import orjson
import psutil

from atlas.adapters.patterns import NewEvidence, PatternContent, PatternsDAO
from atlas.clock import SystemClock
from tests.balancing import processes
from tests.bench.figures import Figure
from tests.bench.servers import Bed, bed, cpu_s, migrated

PUBLISHED_PER_S = 100
PUBLISHED_P99_MS = 50
GOAL_TIMES, GOAL_P99_MS = 10, 20
ROWS_AT_ONCE = 1_000
LIST = 100
SEED = 20261129

Send = Callable[[bytes], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Options:
    patterns: int
    before: int
    seconds: float
    clients: int


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--known", type=int, default=100_000, help="how many patterns are known")
    parser.add_argument("--before", type=int, default=100_000, help="how many observations are learnt before")
    parser.add_argument("--seconds", type=float, default=15, help="how long each figure is measured")
    parser.add_argument("--clients", type=int, default=16, help="how many clients send at once")


def options_of(parsed: argparse.Namespace) -> Options:
    return Options(parsed.known, parsed.before, parsed.seconds, parsed.clients)


async def figures(options: Options) -> AsyncIterator[Figure]:
    async with bed() as place:
        url = await place.new_database()
        await know(url, options.patterns)
        async with serving(place, url) as (address, pid):
            async for figure in _measured(address, pid, options):
                yield figure


async def know(url: str, count: int) -> None:
    """Store so many patterns, with evidence of today."""
    now = datetime.now(UTC)
    async with migrated(url) as (database, settings):
        dao = PatternsDAO(database, clock=SystemClock(), settings=settings)
        for first in range(0, count, ROWS_AT_ONCE):
            ids = [f"{n:032x}" for n in range(first, min(first + ROWS_AT_ONCE, count))]
            await dao.store(
                [PatternContent(id_, "failure_mode", {"n": id_}, f"pattern {id_}") for id_ in ids]
            )
            await dao.count([NewEvidence(id_, now.date(), 3, 1, 0.5, now) for id_ in ids])


@asynccontextmanager
async def serving(place: Bed, url: str) -> AsyncIterator[tuple[str, int]]:
    """A process of the service on one core; its address and process id."""
    *others, core = sorted(os.sched_getaffinity(0))
    for each in (psutil.Process(place.server.pid), psutil.Process()):
        each.cpu_affinity(others or [core])
    environment = os.environ | {
        "DATABASE_URL": url, "NODE_ID": "bench", "PLEIADES_LEARNER__MAX_PATTERNS": "1000000",
        "PLEIADES_API__REQUESTS_PER_MINUTE": "10000000",
    }  # fmt: skip
    async with processes(environment, 1) as started:
        [(port, pid)] = started.items()
        psutil.Process(pid).cpu_affinity([core])
        yield f"http://127.0.0.1:{port}", pid


async def _measured(address: str, pid: int, options: Options) -> AsyncIterator[Figure]:
    made = doings()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

        async def send(body: bytes) -> int:
            async with client.post(f"{address}/observe", data=body) as answer:
                told = await answer.read()
                assert answer.status == 200, told
                return told.count(b'"pending":false')

        for _ in range(0, options.before, ROWS_AT_ONCE):
            await send(orjson.dumps([*islice(made, ROWS_AT_ONCE)]))
        bodies = (orjson.dumps(each) for each in made)
        lists = (orjson.dumps([*islice(made, LIST)]) for _ in iter(int, 1))
        runs: list[tuple[str, Iterator[bytes], float | None, int]] = [
            (f"{options.clients} clients", bodies, None, 1),
            (f"{PUBLISHED_PER_S} a second", bodies, PUBLISHED_PER_S, 1),
            (f"lists of {LIST}", lists, None, LIST),
        ]
        for what, given, rate, size in runs:
            run = await _run(send, given, options, rate, pid)
            for figure in run.figures(what, options.patterns, size, is_paced=rate is not None):
                yield figure


@dataclass(frozen=True, slots=True)
class Run:
    """What a while of sending took."""

    waits_ms: list[float]
    learnt: int
    seconds: float
    cpu_s: float

    def figures(self, what: str, known: int, size: int, *, is_paced: bool) -> Iterator[Figure]:
        count = len(self.waits_ms)
        p50, p99 = np.percentile(self.waits_ms, [50, 99])
        note = f"{count:,} requests, {known:,} patterns known, {self.learnt / count:.1%} learnt when answered"
        name = f"observe, {what}"
        if not is_paced:
            goal = GOAL_TIMES if size == 1 else None
            yield Figure(name, count * size / self.seconds, "observations/s", PUBLISHED_PER_S, "published",
                         goal, note=note)  # fmt: skip
        yield Figure(f"{name}: p50", float(p50), "ms")
        goal_ms = GOAL_P99_MS / PUBLISHED_P99_MS if size == 1 else None
        yield Figure(f"{name}: p99", float(p99), "ms", PUBLISHED_P99_MS, "published", goal_ms, at_most=True)
        yield Figure(f"{name}: CPU", self.cpu_s / count / size * 1e6, "µs an observation")


async def _run(send: Send, bodies: Iterator[bytes], options: Options, rate: float | None, pid: int) -> Run:
    waits_ms: list[float] = []
    learnt = 0
    began_s, spent_s = time.perf_counter(), cpu_s(pid)

    async def one(body: bytes, due_s: float) -> None:
        nonlocal learnt
        was_learnt = await send(body)
        learnt += was_learnt
        waits_ms.append((time.perf_counter() - due_s) * 1e3)

    async def one_after_the_other() -> None:
        while time.perf_counter() < began_s + options.seconds:
            await one(next(bodies), time.perf_counter())

    if rate is None:
        await asyncio.gather(*(one_after_the_other() for _ in range(options.clients)))
    else:
        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * options.seconds)):
                # Whoever is late has waited since they were due.
                due_s = began_s + number / rate
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                group.create_task(one(next(bodies), due_s))
    return Run(waits_ms, learnt, time.perf_counter() - began_s, cpu_s(pid) - spent_s)


def doings() -> Iterator[dict[str, Any]]:
    """What agents do, one after the other, in sessions of some steps; each has habits of its own."""
    drawn = random.Random(SEED)
    sessions = [_session(drawn, n % 20, n) for n in range(40)]
    number = len(sessions)
    while True:
        slot = drawn.randrange(len(sessions))
        doing = next(sessions[slot], None)
        if doing is None:
            sessions[slot] = _session(drawn, number % 20, number)
            number += 1
        else:
            yield doing


def _session(drawn: random.Random, agent: int, number: int) -> Iterator[dict[str, Any]]:
    action = 0
    for _ in range(drawn.randint(5, 25)):
        region, tool = drawn.randrange(12), drawn.randrange(4)
        usual = drawn.random() < 0.7
        action = (action * 3 + agent + 1) % 30 if usual else drawn.randrange(30)
        fails = drawn.random() < (0.3 if region == agent % 12 else 0.04)
        yield {
            "agent": f"agent {agent}",
            "session": f"session {number}",
            "action": f"step {action}",
            "outcome": f"refused {drawn.randrange(3)}" if fails else "success",
            "context": {
                "region": f"region {region}", "source": f"tool {tool}", "goal": f"goal {action % 5}",
                "topic": f"topic {drawn.randrange(50)}", "load": drawn.randrange(100), "first": action == 0,
            },
            "reward": 0.0 if fails else float(drawn.randrange(5)),
            "cost": 1.0 + tool,
            "duration_s": round(drawn.expovariate(1 + tool), 3),
        }  # fmt: skip
