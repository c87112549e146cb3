"""The learner: observations a second through its whole cycle on one core, its memory, and merged evidence.

The log of a durable server is filled with what a hunter and a tracker write at work: steps with contexts,
costs and rewards, some of which fail with a text, a cycle's end, and what was offered; now and then a person
seeds a topic. A process of its own, on one core while the server has the others, learns it all in one cycle,
through PostgreSQL and back. The CPU that the process spends counts, and where. Beside it another such process
only reads the same events in the same pages and decodes them. Seeds are fixed.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any

import orjson
import psutil

from atlas.adapters.patterns import PatternContent, PatternsDAO, StoredEvidence
from atlas.clock import SystemClock
from tests.bench.figures import Figure
from tests.bench.servers import Bed, bed, migrated
from tests.bench.stage import child

GOAL_PER_S = 20_000
GOAL_MEMORY = 1.2
MERGED_ROWS, MERGED_AT_ONCE = 100_000, 1_000
MERGE_FLOOR_PER_S = 34_000
SPAN = timedelta(days=60)
SEED = 20261129

_ARMS = {
    "search:new": "search", "search:slices": "search", "feeds": "feeds", "uploads": "uploads",
    "charts": "charts", "channels": "channels",
}  # fmt: skip
_ERRORS = (
    ("transient", "HTTP 503 from /search after {n} ms: backendError"),
    ("transient", "no answer from 192.0.2.{n} within 30 s"),
    ("bad_request", "HTTP 400: invalid value at 'page_token' ({n})"),
    ("database", "the connection to the database was lost in statement {n}"),
)
_COLUMNS = ("at", "kind", "agent", "node", "session", "payload")


@dataclass(frozen=True, slots=True)
class Options:
    events: int
    batch_size: int | None


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=int, default=200_000, help="how many events wait for the learner")
    parser.add_argument("--page", type=int, help="how many it learns at once (by default as the settings)")


def options_of(parsed: argparse.Namespace) -> Options:
    return Options(parsed.events, parsed.page)


async def figures(options: Options) -> AsyncIterator[Figure]:
    async with bed() as place:
        core = _reserve_core(place)
        url = await place.new_database()
        async with migrated(url) as (_, settings):
            page = options.batch_size or settings.learner.batch_size
        await fill(place, url, options.events)
        job = {"core": core, "url": url, "batch_size": page, "milestones": _milestones(options.events)}
        environment = {"DATABASE_URL": url, "NODE_ID": "bench"}
        floor = await child("tests.bench.learning", "floor", environment=environment, job=job)
        told = await child("tests.bench.learning", "learn", environment=environment, job=job)
        for figure in _rates(told, floor, page):
            yield figure
        for figure in _memory(told):
            yield figure
        async for figure in _merging(await place.new_database()):
            yield figure


def _reserve_core(place: Bed) -> int:
    """The core for the learner; the server has the others, if there are any."""
    *others, core = sorted(os.sched_getaffinity(0))
    server = psutil.Process(place.server.pid)
    for each in (server, *server.children(recursive=True)):
        each.cpu_affinity(others or [core])
    return core


def _milestones(events: int) -> list[int]:
    """When the memory is read: at 100,000 events, 300,000, a million and so on, and at the end."""
    steps = (n * 10**exponent for exponent in range(5, 8) for n in (1, 3))
    return [n for n in steps if n < events] + [events]


# Figures


def _rates(told: dict[str, Any], floor: dict[str, Any], page: int) -> Iterator[Figure]:
    statistics, cpu_s = told["statistics"], told["cpu_s"]
    observations = statistics["observations"]
    yield Figure(
        "learner: through the whole cycle", observations / cpu_s, "observations/CPU s", goal=GOAL_PER_S,
        note=f"{observations:,} of {floor['events']:,} events, in pages of {page:,}",
    )  # fmt: skip
    yield Figure("learner: through the whole cycle", observations / told["seconds"], "observations/s")
    ours, least = cpu_s / floor["events"] * 1e6, floor["cpu_s"] / floor["events"] * 1e6
    yield Figure("learner: an event", ours, "µs of CPU", least, "reading", at_most=True)
    for stage, spent_s in sorted(told["stages"].items(), key=lambda item: -item[1]):
        yield Figure(f"  {stage}", spent_s / observations * 1e6, "µs an observation")
    sizes = sorted(told["state_bytes"].items(), key=lambda item: -item[1])
    most = ", ".join(f"{name} {size / 1e3:,.0f}" for name, size in sizes[:4])
    yield Figure("learner: all states", sum(told["state_bytes"].values()) / 1e3, "kB", note=most)
    yield Figure("learner: patterns known", statistics["patterns"], "patterns")


def _memory(told: dict[str, Any]) -> Iterator[Figure]:
    (first, small), *others = told["memory_mb"].items()
    yield Figure(f"memory after {int(first):,} events", small, "MB")
    for read, memory_mb in others:
        yield Figure(
            f"memory after {int(read):,} events", memory_mb, "MB", small, f"after {int(first):,}",
            goal=GOAL_MEMORY, at_most=True,
        )  # fmt: skip
    yield Figure("memory, highest after any page", told["peak_mb"], "MB")


async def _merging(url: str) -> AsyncIterator[Figure]:
    """Evidence of another site, all new, and then the same again."""
    days, at = 30, datetime.now(UTC)
    patterns = [
        PatternContent(f"{n:032x}", "failure_mode", {"n": n}, f"the {n}th")
        for n in range(MERGED_ROWS // days)
    ]
    rows = [
        StoredEvidence(each.id, "elsewhere", date(2026, 11, 1 + day), 3, 1, 2.5, at, 4)
        for each in patterns
        for day in range(days)
    ]
    async with migrated(url) as (database, settings):
        dao = PatternsDAO(database, clock=SystemClock(), settings=settings)
        await dao.store(patterns)
        for what in ("new", "known"):
            began_s = time.perf_counter()
            for i in range(0, len(rows), MERGED_AT_ONCE):
                await dao.merge_evidence(rows[i : i + MERGED_AT_ONCE])
            per_s = len(rows) / (time.perf_counter() - began_s)
            yield Figure(
                f"merge evidence, {MERGED_AT_ONCE:,} {what} rows at once", per_s, "rows/s", MERGE_FLOOR_PER_S,
                "bare statement when it was designed", note="each a transaction of its own",
            )  # fmt: skip


# Events


async def fill(place: Bed, url: str, count: int) -> None:
    """Write so many events to the log, the last of them a moment ago."""
    began = datetime.now(UTC) - SPAN
    async with place.connection(url) as sql:
        await sql.set_type_codec(
            "jsonb", schema="pg_catalog", format="binary", encoder=_as_jsonb, decoder=orjson.loads
        )
        written = made_events(began, SPAN / count, count)
        while chunk := list(islice(written, 50_000)):
            await sql.copy_records_to_table("events", records=chunk, columns=_COLUMNS)
        await sql.execute("VACUUM ANALYZE events")


def _as_jsonb(value: Any) -> bytes:
    return b"\x01" + orjson.dumps(value)


Row = tuple[datetime, str, str | None, str, str | None, dict[str, Any]]


def made_events(began: datetime, interval: timedelta, count: int) -> Iterator[Row]:
    """The events of hunters and trackers at work, one after the other."""
    drawn = random.Random(SEED)
    written = cycle = 0
    while written < count:
        at = began + interval * written
        agent = "hunter" if cycle % 3 == 0 else "tracker"
        rows = _cycle(drawn, agent, f"{agent}-run-{cycle // 6}", at, interval)
        if cycle % 50 == 49:
            context = {"category_id": drawn.choice((10, 20, 24)), "form": "id"}
            act = {"action": drawn.choice(("watch", "seed")), "context": context}
            rows.append((at, "operator.act", None, "bench", None, act))
        yield from rows[: count - written]
        written, cycle = written + len(rows), cycle + 1


def _cycle(drawn: random.Random, agent: str, session: str, began: datetime, interval: timedelta) -> list[Row]:
    """A cycle's steps, what it offered, and its end: all are written when it ends."""
    step = _search if agent == "hunter" else _samples
    steps = [step(drawn, began + interval * n) for n in range(drawn.randint(15, 40))]
    payloads: list[tuple[str, dict[str, Any]]] = [("step", each) for each in steps]
    if agent == "hunter" and drawn.random() < 0.1:
        payloads.append(("offer", _offer(drawn)))
    payloads.append(("cycle", _end(steps)))
    ended = began + interval * len(payloads)
    return [(ended, f"{agent}.{what}", agent, "bench", session, payload) for what, payload in payloads]


def _search(drawn: random.Random, at: datetime) -> dict[str, Any]:
    arm = drawn.choice(list(_ARMS))
    context: dict[str, Any] = {
        "source": _ARMS[arm],
        "arm": arm,
        "bucket": "search" if arm.startswith("search") else "general",
        "topics": drawn.choice((0, 1, 1, 1, 3)),
    }
    if arm.startswith("search"):
        context["page"] = drawn.choice(("first", "next"))
        context["origin"] = drawn.choice(("seed", "tag", "tag", "tag"))
    fails = 0.3 if arm == "search:slices" and at.hour < 6 else 0.03
    step = _step(drawn, arm, at, context, fails, cost=100.0 if arm.startswith("search") else 1.0)
    if "error" not in step:
        found = int(drawn.expovariate(0.05))
        new = int(found * drawn.random())
        step["context"] |= {"found": found, "new": new}
        step["reward"] = int(new * drawn.random())
    return step


def _samples(drawn: random.Random, at: datetime) -> dict[str, Any]:
    zones = {name: drawn.randint(0, 25) for name in ("hot", "warm", "cold")}
    context = {"batch": sum(zones.values()), **{name: count for name, count in zones.items() if count}}
    action = drawn.choice(("videos", "videos", "videos", "channels", "feed_counts"))
    step = _step(drawn, action, at, context, 0.02, cost=1.0)
    if "error" not in step:
        step["reward"] = context["batch"]
    return step


def _step(
    drawn: random.Random, action: str, at: datetime, context: dict[str, Any], fails: float, cost: float
) -> dict[str, Any]:
    step: dict[str, Any] = {
        "action": action,
        "at": at.isoformat(timespec="seconds"),
        "outcome": "success",
        "reward": 0,
        "cost": cost,
        "seconds": round(drawn.expovariate(2.0), 3),
        "context": context,
    }
    if drawn.random() < fails:
        outcome, text = drawn.choice(_ERRORS)
        step |= {"outcome": outcome, "error": text.format(n=drawn.randrange(1, 250))}
    return step


def _offer(drawn: random.Random) -> dict[str, Any]:
    channels = {f"UC{drawn.getrandbits(120):022x}"[:24]: drawn.randint(1, 5) for _ in range(20)}
    categories = {str(id_): drawn.randint(1, 30) for id_ in (1, 10, 17, 20, 22, 24, 25)}
    return {"total": sum(categories.values()), "by_category": categories, "by_channel": channels}


def _end(steps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    failed = sum("error" in each for each in steps)
    return {
        "cycles": 1,
        "outcome": "done",
        "detail": None,
        "reopens_at": None,
        "seconds": round(sum(each["seconds"] for each in steps) / 4, 3),
        "skipped": {"transient": failed} if failed else {},
        "units": {"general": sum(each["cost"] for each in steps)},
        "new": sum(each["context"].get("new", 0) for each in steps),
        "samples": sum(each["reward"] for each in steps),
        "malformed": {},
        "pages": len(steps) - failed,
    }
