"""What a process of the learner's bench does: learn a backlog, or only read and decode the same events.

`python -m tests.bench.learning learn|floor` reads its job from stdin and writes what it measured to stdout.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import asyncpg
import orjson
import psutil

from atlas.adapters.patterns import PatternsDAO
from atlas.composition import Atlas
from atlas.config import load
from atlas.events import EventLog
from maia.cycle.agent import run
from maia.cycle.outcome import Progress
from maia.learner import observing
from maia.learner.cycle import Learner, LearnerCycle
from maia.learner.knowledge import DetectorClass, detector_classes
from maia.learner.outcomes import Outcomes
from maia.learning.templates import FailureTemplates

SINCE = """
SELECT id, at, kind, agent, node, session, payload FROM events
WHERE id > $1 AND kind = ANY($2::text[]) ORDER BY id LIMIT $3
"""


def cpu_now_s() -> float:
    """CPU seconds that this process has spent so far, in user and in system mode."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory_mb() -> float:
    return float(psutil.Process().memory_info().rss / 1e6)


class Stages:
    """CPU seconds by stage; what a stage spends in another one counts for that one alone."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = defaultdict(float)
        self._inner_s = [0.0]

    def time(self, owner: Any, method: str, stage: str) -> None:
        """Count what a method spends, whether it is a coroutine or not."""
        call = getattr(owner, method)
        if asyncio.iscoroutinefunction(call):

            @functools.wraps(call)
            async def timed(*arguments: Any, **named: Any) -> Any:
                began_s = self._begin()
                try:
                    return await call(*arguments, **named)
                finally:
                    self._end(stage, began_s)
        else:

            @functools.wraps(call)
            def timed(*arguments: Any, **named: Any) -> Any:
                began_s = self._begin()
                try:
                    return call(*arguments, **named)
                finally:
                    self._end(stage, began_s)

        setattr(owner, method, timed)

    def _begin(self) -> float:
        self._inner_s.append(0.0)
        return time.process_time()

    def _end(self, stage: str, began_s: float) -> None:
        spent_s = time.process_time() - began_s
        self.spent_s[stage] += spent_s - self._inner_s.pop()
        self._inner_s[-1] += spent_s


class Watch:
    """Notes the memory at milestones, and the size of what is stored."""

    def __init__(self, milestones: list[int]) -> None:
        self.memory_mb: dict[int, float] = {}
        self.peak_mb = 0.0
        self._left = sorted(milestones)

    def __call__(self, progress: Progress) -> None:
        now_mb = memory_mb()
        self.peak_mb = max(self.peak_mb, now_mb)
        while self._left and progress.done >= self._left[0]:
            self.memory_mb[self._left.pop(0)] = now_mb
            print(f"{progress.done:,} of {progress.claimed:,}: {now_mb:,.0f} MB", file=sys.stderr, flush=True)


async def learn(job: Mapping[str, Any]) -> dict[str, Any]:
    """Learn the whole backlog in one cycle."""
    stages, watch = Stages(), Watch(job["milestones"])
    time_stages(stages, detector_classes())
    async with Atlas.open(load()) as atlas:
        began_s, cpu_s = time.perf_counter(), cpu_now_s()
        statistics = await run(Learner, atlas, batch_size=job["batch_size"], on_progress=watch)
        spent_s, seconds = cpu_now_s() - cpu_s, time.perf_counter() - began_s
        dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        names = [f"detector.{each.name}" for each in detector_classes()]
        models = await dao.models([*names, "failure_templates"])
    return {
        "statistics": statistics,
        "seconds": seconds,
        "cpu_s": spent_s,
        "stages": dict(stages.spent_s),
        "memory_mb": watch.memory_mb,
        "peak_mb": watch.peak_mb,
        "state_bytes": {name: len(model.state) for name, model in models.items()},
    }


def time_stages(stages: Stages, detectors: list[DetectorClass]) -> None:
    """Count separately what each part of a cycle spends."""
    stages.time(EventLog, "since", "read and decode events")
    stages.time(observing.Observer, "observations", "make observations")
    stages.time(FailureTemplates, "template", "templates of failures")
    stages.time(Outcomes, "learn", "success and failure classes")
    stages.time(Outcomes, "models", "pack states")
    for each in detectors:
        for method in ("observe", "patterns"):
            stages.time(each, method, f"detector {each.name}")
        stages.time(each, "state", "pack states")
    for method in ("store", "count", "save_models", "add_alarms"):
        stages.time(PatternsDAO, method, f"store: {method}")
    for method, stage in (("_judge", "judge"), ("_forecast", "forecast"), ("_work", "all else")):
        stages.time(LearnerCycle, method, stage)


async def floor(job: Mapping[str, Any]) -> dict[str, Any]:
    """Read the same events in pages of the same size and decode their payloads, and nothing else."""
    connection = await asyncpg.connect(job["url"])
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", format="binary", encoder=orjson.dumps, decoder=_decoded
    )
    # As the learner does.
    gc.disable()
    began_s, cpu_s = time.perf_counter(), cpu_now_s()
    cursor = read = 0
    while rows := await connection.fetch(SINCE, cursor, list(observing.KINDS), job["batch_size"]):
        cursor, read = rows[-1]["id"], read + len(rows)
    spent_s, seconds = cpu_now_s() - cpu_s, time.perf_counter() - began_s
    await connection.close()
    return {"events": read, "cpu_s": spent_s, "seconds": seconds}


def _decoded(data: bytes) -> Any:
    return orjson.loads(memoryview(data)[1:])


SIDES: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {"learn": learn, "floor": floor}


def main() -> None:
    job = json.load(sys.stdin)
    psutil.Process().cpu_affinity([job["core"]])
    json.dump(asyncio.run(SIDES[sys.argv[1]](job)), sys.stdout)


if __name__ == "__main__":
    main()
