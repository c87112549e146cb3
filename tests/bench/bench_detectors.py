"""Detectors over observations: what each costs, and whether memory stays flat.

Observations are made up: three agents at work in sessions of twenty steps, with five fields of context, one
of them with a new value each time, and with some truths to find. Each detector reads batches of 10,000 and is
asked for its patterns after each, as the learner does. CPU time counts, without that of making observations.
Memory is what the process holds (RSS), so the run is one process of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import time
from asyncio import create_subprocess_exec, subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psutil

from maia.learning.detectors import BUILT_IN
from maia.learning.observations import Observation
from tests.bench.figures import Figure

BATCH = 10_000
SMALL = 100_000
GOAL_US = 25.0
GOAL_MEMORY = 1.2

_BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
_REGIONS = ("US", "KR", "JP", "DE", "BR", "IN")
_SOURCES = ("feeds", "search", "uploads", "charts")
_ACTIONS = {
    "hunter": ("search:slices", "search:new", "feeds", "uploads", "channels", "store"),
    "tracker": ("batch", "store", "plan", "verdict"),
    "learner": ("read", "learn", "write"),
}


@dataclass(frozen=True)
class Options:
    observations: int


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--observations", type=int, default=10_000_000, help="how many detectors read, in 10,000s"
    )


def options_of(parsed: argparse.Namespace) -> Options:
    return Options(parsed.observations)


def stream(seed: int = 1) -> Iterator[list[Observation]]:
    """Batches of observations without end."""
    random_ = random.Random(seed)
    at, step = _BEGIN, 0
    agents = list(_ACTIONS)
    steps = dict.fromkeys(agents, 0)
    while True:
        batch = []
        for _ in range(BATCH):
            agent = agents[step % 3]
            steps[agent] += 1
            at += timedelta(seconds=random_.expovariate(0.1))
            batch.append(_observation(random_, agent, steps[agent], at))
            step += 1
        yield batch


def _observation(random_: random.Random, agent: str, step: int, at: datetime) -> Observation:
    actions = _ACTIONS[agent]
    action = actions[step % len(actions)] if random_.random() < 0.7 else random_.choice(actions)
    region, source = random_.choice(_REGIONS), random_.choice(_SOURCES)
    fails = 0.3 if at.hour == 3 and region == "KR" else 0.05
    return Observation(
        agent,
        f"{agent}-{step // 20}",
        action,
        at,
        random_.choice(("quota", "timeout")) if random_.random() < fails else "success",
        {
            "hour": at.hour,
            "region": region,
            "source": source,
            "load": random_.random() * 4,
            "video": f"v{random_.getrandbits(40):x}",
        },
        float(random_.random() < 0.4),
        1.0,
        random_.expovariate(1.0) * (2 if source == "search" else 1),
    )


async def figures(options: Options) -> AsyncIterator[Figure]:
    process = await create_subprocess_exec(
        sys.executable, "-m", "tests.bench.bench_detectors", str(options.observations), stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the detectors ended with status {process.returncode}")
    told = json.loads(output)
    for name, spent_us in told["us"].items():
        yield Figure(name, spent_us, "µs an observation", note=told["notes"][name])
    yield Figure("all detectors", sum(told["us"].values()), "µs an observation", goal=GOAL_US, at_most=True)
    (_, small), *others = told["memory_mb"].items()
    for read, memory_mb in others:
        yield Figure(
            f"memory after {int(read):,} observations", memory_mb, "MB", small, f"after {SMALL:,}",
            goal=GOAL_MEMORY, at_most=True,
        )  # fmt: skip


def main() -> None:
    """Read so many observations with all detectors, and print what that took."""
    wanted = int(sys.argv[1])
    detectors = [detector() for detector in BUILT_IN]
    spent = dict.fromkeys((each.name for each in detectors), 0.0)
    found: dict[str, set[str]] = {each.name: set() for each in detectors}
    read = 0
    milestones = {SMALL, SMALL * 10, wanted}
    memory_mb: dict[int, float] = {}
    for batch in stream():
        for each in detectors:
            begin = time.process_time()
            each.observe(batch)
            findings = each.patterns()
            spent[each.name] += time.process_time() - begin
            found[each.name] |= {finding.pattern.id for finding in findings}
        read += len(batch)
        if read in milestones:
            memory_mb[read] = _memory_mb()
            print(f"{read:,} observations, {memory_mb[read]:,.0f} MB", file=sys.stderr)
        if read >= wanted:
            break
    notes = {}
    for each in detectors:
        begin = time.process_time()
        size = len(each.state())
        spent_ms = (time.process_time() - begin) * 1e3
        notes[each.name] = (
            f"{len(found[each.name])} patterns; {size / 1e3:,.0f} kB of state in {spent_ms:,.0f} ms"
        )
    told = {
        "us": {name: seconds / read * 1e6 for name, seconds in spent.items()},
        "notes": notes,
        "memory_mb": memory_mb,
    }
    json.dump(told, sys.stdout)


def _memory_mb() -> float:
    gc.collect()
    return float(psutil.Process().memory_info().rss / 1e6)


if __name__ == "__main__":
    main()
