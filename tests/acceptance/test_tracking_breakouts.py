"""Each rise of a simulated video causes one event and one alert, even if trackers are killed in between."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atlas.clock import FixedClock
from atlas.testing import RecordingNotifier, SettingsFactory
from maia.emulator.catalogue import Catalogue, CatalogueChannel, CatalogueVideo, new_catalogue
from maia.emulator.curves import Sample
from maia.learning.breakouts import BreakoutStates, observe
from maia.learning.simulation import SimulatedVideo, simulate
from tests.acceptance.conftest import Stage, StageFactory
from tests.acceptance.tracking import HOUR, assert_nothing_is_strange, enrol, tracker_of

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

BORN = datetime(2026, 11, 2, 12, tzinfo=UTC)
DAYS, VIDEOS, FIRST_SEED = 10, 10, 60_004
FOUND_WITHIN_H = 48
LATER = timedelta(minutes=4)
HOURLY = {"hot_interval_h": 1, "warm_interval_h": 1, "cold_interval_h": 1, "fastest": 1, "slowest": 1}


def id_of(curve: SimulatedVideo) -> str:
    return f"{'rising' if curve.rise_h else 'quiet-'}{curve.seed:05d}"


@pytest.fixture(scope="module")
def curves() -> dict[str, SimulatedVideo]:
    """Ten days of videos; half of them rise at some time to between 12 and 40 times their velocity."""
    seeds = range(FIRST_SEED, FIRST_SEED + VIDEOS)
    rising = simulate(seeds, rising=True, days=DAYS, factor=(12, 40), ramp_h=(1, 6), sampling="hourly")
    quiet = simulate(seeds, rising=False, days=DAYS, sampling="hourly")
    return {id_of(curve): curve for curve in (*rising, *quiet)}


@pytest.fixture(scope="module")
def simulated(
    curves: dict[str, SimulatedVideo], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Catalogue]:
    path: Path = tmp_path_factory.mktemp("curves") / "simulated"
    born_s, channel = int(BORN.timestamp()), CatalogueChannel("UC" + "1" * 22, "Simulated")
    with new_catalogue(path, {"made_by": "test"}) as writer:
        writer.add_channels([channel])
        for id_, curve in sorted(curves.items()):
            at_s = born_s + (curve.age_h * 3600).round().astype(int)
            samples = [Sample(at, int(views)) for at, views in zip(at_s.tolist(), curve.views, strict=True)]
            writer.add(CatalogueVideo(id_, channel.id, f"About {id_}", born_s), channel.title, samples)
    with Catalogue.open(path) as catalogue:
        yield catalogue


def alarms(samples: Sequence[tuple[float, int]]) -> list[float]:
    """The ages in hours at which the test for breakouts, seeing a series alone, alarms."""
    states, found = BreakoutStates.new(1), []
    for (before_h, before), (age_h, views) in pairwise(samples):
        seen = observe(states, [age_h], [age_h - before_h], [float(views - before)])
        states = seen.states
        if seen.fired[0]:
            found.append(age_h)
    return found


def hourly(catalogue: Catalogue, id_: str, late_h: float = 0.0) -> list[tuple[float, int]]:
    """What a video counts every hour."""
    ages = [hour + late_h for hour in range(1, DAYS * 24)]
    told = [(age_h, catalogue.counts_of(id_, BORN + age_h * HOUR)) for age_h in ages]
    return [(age_h, counts.views or 0) for age_h, counts in told if counts is not None]


async def logged(sql: Any, id_: str) -> list[tuple[float, int]]:
    """What the log says of it."""
    rows = await sql.fetch(
        "SELECT sampled_at, views FROM video_stats_log WHERE video_id = $1 ORDER BY sampled_at", id_
    )
    return [((at - BORN) / HOUR, views) for at, views in rows]


async def test_each_rise_is_told_once_though_trackers_are_killed_around_it(
    stage_of: StageFactory,
    simulated: Catalogue,
    curves: dict[str, SimulatedVideo],
    settings_factory: SettingsFactory,
    recording_notifier: RecordingNotifier,
    sql: Any,
) -> None:
    first = round(min(at for id_ in curves for at in alarms(hourly(simulated, id_))))
    clock, notifier = FixedClock(BORN + HOUR), {"urls": [recording_notifier.url]}
    settings = {f"PLEIADES_TRACKER__{name.upper()}": str(value) for name, value in HOURLY.items()}
    stage: Stage = await stage_of(
        simulated, settings=settings | {"PLEIADES_NOTIFIER__URLS": json.dumps(notifier["urls"])}
    )
    stage.emulator.clock = clock
    groups: dict[str, Any] = {"tracker": HOURLY, "notifier": notifier, "quota": {"limits": {"stats": 10**6}}}
    opening = partial(tracker_of, settings_factory, stage.emulator.url, clock, **groups)
    async with opening() as tracker:
        await enrol(tracker, curves)
        for hour in range(2, first - 1):
            clock.instant = BORN + hour * HOUR
            assert (await tracker.cycle()).samples == len(curves)
    for hour in range(first - 1, first + 2):
        # The processes' clock runs on while they work, and an hour must have passed since the last one.
        await sample_after_a_kill(stage, sql, BORN + hour * HOUR + (hour - first + 1) * LATER)
    stage.emulator.clock = clock
    async with opening() as tracker:
        for hour in range(first + 2, DAYS * 24):
            clock.instant = BORN + hour * HOUR + 4 * LATER
            assert (await tracker.cycle()).samples == len(curves)

    told = await sql.fetch("SELECT payload FROM events WHERE kind = 'tracker.breakout' ORDER BY id")
    events = [json.loads(row["payload"]) for row in told]
    found: dict[str, list[float]] = {id_: [] for id_ in curves}
    for event in events:
        found[event["video_id"]].append((datetime.fromisoformat(event["at"]) - BORN) / HOUR)
    for id_, curve in curves.items():
        assert found[id_] == alarms(await logged(sql, id_)), id_
        onset = [curve.rise_h] if curve.rise_h else []
        assert len(found[id_]) == len(onset), id_
        assert all(0 < at - rise < FOUND_WITHIN_H for at, rise in zip(found[id_], onset, strict=True)), id_
    alerts = Counter(alert["title"] for alert in recording_notifier.alerts)
    assert alerts == Counter(f"Breakout: About {event['video_id']}" for event in events)
    assert np.min([event["times_expected"] for event in events]) > 1
    await assert_nothing_is_strange(sql)


async def sample_after_a_kill(stage: Stage, sql: Any, now: datetime) -> None:
    """A tracker is killed while it waits for its answer; when its lease is over another one samples."""
    stage.emulator.set_faults(["latency-60s:1:videos.batchGetStats"])
    stage.set_clock(now)
    victim = await stage.fork("tracker", "--direct", "--json")
    while not await sql.fetchval("SELECT count(*) FROM video_clock WHERE lease_token IS NOT NULL"):
        assert victim.returncode is None
        await asyncio.sleep(0.05)
    victim.kill()
    await victim.communicate()
    stage.emulator.set_faults([])
    await sql.execute("UPDATE video_clock SET lease_until = clock_timestamp() - interval '1 second'")
    sampled = await stage.track()
    assert (sampled.status, sampled.json["samples"]) == (0, 2 * VIDEOS), sampled.stderr
