"""Alarms of hosts and agents: from samples through the learner to what people look at."""

from __future__ import annotations

from datetime import timedelta

import pytest

from atlas.adapters.patterns import Alarm, AlarmKind, PatternsDAO
from atlas.adapters.telemetry import HostSample, TelemetryDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.testing import NOON
from maia.commands.anomalies import _print, _print_plot
from maia.cycle.agent import run
from maia.learner.cycle import Learner
from maia.views.anomalies import anomalies, series

pytestmark = pytest.mark.integration

MINUTE = timedelta(minutes=1)
AGENTS = ("hunter", "tracker", "learner")


async def sample_a_day(atlas: Atlas, clock: FixedClock) -> None:
    """A host that works calmly, but for an hour of overload."""
    samples = []
    for n in range(24 * 60):
        clock.advance(MINUTE)
        busy = 95.0 if 1200 <= n < 1260 else 20.0
        samples.append(HostSample(at=clock.now(), node="north", cpu_percent=busy + n % 7, load_1=1.0 + n % 3))
    await TelemetryDAO(atlas.db, clock=clock, settings=atlas.settings).store(samples)


async def test_an_hour_of_overload_is_told_and_drawn(
    atlas: Atlas, clock: FixedClock, capsys: pytest.CaptureFixture[str]
) -> None:
    await sample_a_day(atlas, clock)
    statistics = await run(Learner, atlas)

    found = await anomalies(atlas, clock.now() - timedelta(hours=24))
    [high] = [alarm for alarm in found.alarms if alarm.kind == "threshold"]

    assert statistics["alarms"] == len(found.alarms)
    assert statistics["measurements"] >= 2 * 24 * 60
    assert high.series == "north cpu_percent"
    assert timedelta(0) < high.at - (clock.now() - timedelta(minutes=240)) < 5 * MINUTE
    drawn = await series(atlas, "north cpu_percent", found, AGENTS)
    assert len(drawn.values) > 100
    assert max(drawn.values) > 90
    assert high in drawn.alarms
    _print(found, 10)
    _print_plot(drawn)
    told = capsys.readouterr().out
    assert "north cpu_percent" in told
    assert "▲ marks" in told


async def test_an_agents_figures_are_a_series(atlas: Atlas, clock: FixedClock) -> None:
    for n in range(50):
        clock.advance(timedelta(minutes=10))
        await atlas.events.append(
            "hunter.cycle", {"outcome": "done", "new": n, "seconds": 1.5}, agent="hunter"
        )
    await run(Learner, atlas)

    found = await anomalies(atlas, clock.now() - timedelta(hours=100))
    drawn = await series(atlas, "hunter new", found, AGENTS)

    assert drawn.values == tuple(map(float, range(50)))


async def test_alarms_are_of_one_series_or_none(atlas: Atlas, clock: FixedClock) -> None:
    await sample_a_day(atlas, clock)
    await run(Learner, atlas)
    start = clock.now() - timedelta(hours=24)
    assert {each.series for each in (await anomalies(atlas, start, series="north load_1")).alarms} <= {
        "north load_1"
    }
    assert (await anomalies(atlas, clock.now())).alarms == ()


def alarm(minutes: int, series_name: str = "north cpu_percent", kind: AlarmKind = "anomaly") -> Alarm:
    return Alarm(series_name, NOON - minutes * MINUTE, kind, 99.0, 0.9, "odd")


async def raise_alarms(atlas: Atlas, alarms: list[Alarm]) -> None:
    await PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).add_alarms(alarms)


async def test_a_rare_kind_is_found_behind_many_alarms_of_another(atlas: Atlas) -> None:
    shifted = alarm(3000, kind="change_point")
    await raise_alarms(atlas, [*(alarm(n) for n in range(1500)), shifted])
    since = NOON - timedelta(days=7)
    assert (await anomalies(atlas, since, kind="change_point")).alarms == (shifted,)
    assert len((await anomalies(atlas, since)).alarms) == 1501


async def test_no_alarm_disappears_from_a_thinned_plot(atlas: Atlas, clock: FixedClock) -> None:
    for n in range(1000):
        await atlas.events.append("hunter.cycle", {"new": 5000 if n == 777 else n % 3}, agent="hunter")
        if n == 777:
            spike = Alarm("hunter new", clock.now(), "anomaly", 5000.0, 0.9, "odd")
        clock.advance(MINUTE)
    await raise_alarms(atlas, [spike])
    found = await anomalies(atlas, clock.now() - timedelta(days=2))

    drawn = await series(atlas, "hunter new", found, AGENTS)

    assert len(drawn.values) <= 401
    assert (spike.at, 5000.0) in zip(drawn.at, drawn.values, strict=True)
    assert list(drawn.at) == sorted(set(drawn.at))
