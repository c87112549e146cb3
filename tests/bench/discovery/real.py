"""Whether the simulation agrees with the product: the same small world, hunted by both.

The real hunter runs in a process of its own, over sockets against the emulator and with a real PostgreSQL, in
virtual time that runs some hundred times as fast. `python -m tests.bench.discovery.real` is that process: it
reads its job from stdin and hunts until the virtual end.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from atlas.adapters.maia import MaiaDAO
from atlas.composition import Atlas
from atlas.config import load
from maia.cycle.agent import run as run_agent
from maia.emulator.realism import PRESETS
from maia.emulator.world import World
from maia.hunter.cycle import Hunter
from tests.bench.discovery.scene import DAY, HOUR, Scene, Size, scene
from tests.bench.discovery.simulation import Desk, Outcome, Quota, run
from tests.bench.discovery.strategies import Portfolio
from tests.bench.figures import Figure
from tests.bench.servers import bed
from tests.bench.stage import child, emulator, plain_environment, temporary_folder

SIZE = Size(days=3, videos_a_day=2000, channels=4000)
QUOTA = Quota(search=20, general=1000, feeds=2000)
SPEED = 300.0
PACIFIC_MIDNIGHT_H = 7.0
"""In UTC, while Los Angeles has summer time, as in the synthesised October."""
MORE_DAYS = 0.5
"""How long the real hunter goes on, to find the videos of the last day."""
_IDLE_S = 0.2


@dataclass(frozen=True)
class Found:
    """Early growing videos by arm, how many grew, their median age in hours when found, and the searches."""

    by_arm: Mapping[str, int]
    growing: int
    median_age_h: float
    searches_a_day: float

    @property
    def recall(self) -> float:
        return sum(self.by_arm.values()) / max(1, self.growing)


async def figures(days: int, preset: str = "realistic") -> AsyncIterator[Figure]:
    """The simulation's and the product's figures side by side."""
    with temporary_folder() as folder:
        made = scene(1, SIZE, folder)
        place = replace(made, start_s=made.start_s + PACIFIC_MIDNIGHT_H * HOUR)
        days = min(days, SIZE.days - 1)
        desk = Desk(place, World(place.catalogue), QUOTA, seed=place.seed)
        topics = [place.queries[topic] for topic in desk.seeds]
        world = World(place.catalogue, PRESETS[preset])
        simulated = run(Portfolio("ours"), place, world, name=preset, quota=QUOTA, days=days)
        real = await _hunted(place, topics, preset, days, folder)
        place.catalogue.close()
    yield Figure("recall, simulation and product", simulated.recall, "", real.recall, "the real hunter")
    yield Figure(
        "searches a day", simulated.search_units / days, "units", real.searches_a_day, "the real hunter"
    )
    yield Figure(
        "median age when found", simulated.median_age_h, "h", real.median_age_h, "the real hunter",
        note=f"by arm: {_listed(simulated)}; the real hunter: {_sorted(real.by_arm)}",
    )  # fmt: skip


def _listed(outcome: Outcome) -> str:
    return _sorted(outcome.by_arm)


def _sorted(by_arm: Mapping[str, int]) -> str:
    return ", ".join(f"{arm} {n}" for arm, n in sorted(by_arm.items(), key=lambda each: -each[1]) if n)


async def _hunted(place: Scene, topics: Sequence[str], preset: str, days: int, folder: Path) -> Found:
    """Let the real hunter hunt through the same days, and look up what it found."""
    end_s = place.start_s + (days + MORE_DAYS) * DAY
    async with bed() as server:
        url = await server.new_database()
        async with emulator(place.catalogue.path, *_emulated(place, preset)) as (_, environment):
            settings = {
                "DATABASE_URL": url,
                "PLEIADES_VAULT__PATH": str(folder / "vault"),
                "PLEIADES_QUOTA__SHARES__HUNTING__SEARCH": "1",
                "PLEIADES_QUOTA__SHARES__ARCHEOLOGY__SEARCH": "0",
                "PLEIADES_QUOTA__RESERVE": "0",
                "PLEIADES_FEEDS__LOOKS_PER_DAY": f"{QUOTA.feeds:.0f}",
            }
            await child(
                "tests.bench.discovery.real",
                environment=plain_environment() | environment | settings,
                job={"topics": list(topics), "end_s": end_s},
            )
        async with server.connection(url) as sql:
            rows = await sql.fetch("SELECT video_id, arm, met_at FROM video_sources WHERE is_first")
            units = await sql.fetchval("SELECT sum(units) FROM discovery_yields WHERE arm LIKE 'search:%'")
    met = [(row["video_id"], row["arm"], row["met_at"].timestamp()) for row in rows]
    return _found(place, days, met, float(units) / (days + MORE_DAYS))


def _found(place: Scene, days: int, rows: Sequence[tuple[str, str, float]], searches_a_day: float) -> Found:
    numbers = np.array([place.catalogue.numbers[video_id] for video_id, _, _ in rows], np.int64)
    ages_s = np.array([met_s for _, _, met_s in rows]) - place.published[numbers]
    counted = place.grows & (place.published < place.start_s + days * DAY)
    early = counted[numbers] & (ages_s <= DAY)
    by_arm = Counter(arm for (_, arm, _), is_early in zip(rows, early.tolist(), strict=True) if is_early)
    return Found(by_arm, int(counted.sum()), float(np.median(ages_s[early]) / HOUR), searches_a_day)


def _emulated(place: Scene, preset: str) -> list[str]:
    """The options of the emulator that shows the same world under the same limits."""
    # The agents take a project's limits from here, before those of their own settings.
    limits = f"search={QUOTA.search:.0f},stats={QUOTA.stats:.0f},general={QUOTA.general:.0f}"
    begin = datetime.fromtimestamp(place.start_s, UTC).isoformat()
    return ["--project", f"lab:{limits}", "--realism", preset, "--clock", begin, "--speed", f"{SPEED}"]


async def hunt(job: Mapping[str, Any]) -> dict[str, Any]:
    """Hunt cycle after cycle until the virtual end."""
    cycles = 0
    async with Atlas.open(load()) as atlas:
        await MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).seed(job["topics"])
        while atlas.clock.now().timestamp() < job["end_s"]:
            await run_agent(Hunter, atlas, cycles=5)
            cycles += 1
            await asyncio.sleep(_IDLE_S)
    return {"runs": cycles}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(hunt(json.load(sys.stdin)))))
