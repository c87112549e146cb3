"""The tracker's flow against a real Prefect server, a real database and the emulator."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from prefect import tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import TaskRun
from prefect.exceptions import ParameterTypeError

from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.testing import NOON, SettingsFactory
from flows.agents import flow_of, run_here
from maia.agents import agent_named
from maia.cycle import adapting
from maia.emulator import Emulator
from maia.emulator.catalogue import Catalogue
from maia.maintenance.monitor import HostPressure
from maia.tracker import cycle as module
from maia.tracker.cycle import GroupProgress, Tracker
from tests import flow_runs
from tests.flow_runs import last_run, task_runs

pytestmark = [*flow_runs.MARKS, pytest.mark.usefixtures("without_waits")]

CYCLES = "SELECT payload FROM events WHERE kind = 'tracker.cycle' ORDER BY id"

AGENT = agent_named("tracker")
FOUND = NOON - timedelta(days=1)


@pytest_asyncio.fixture
async def settings(
    settings_factory: SettingsFactory,
    emulator: Emulator,
    emulated: dict[str, Any],
    catalogue: Catalogue,
) -> Settings:
    """Settings at NOON, with 120 videos that were found a day before and so are due."""
    made = settings_factory(**emulated, clock={"start": NOON, "anchor": datetime.now(UTC)})
    emulator.set_clock(FOUND, 0)
    async with Atlas.open(made, clock=FixedClock(FOUND)) as atlas, Tracker.open(atlas) as tracker:
        ids = [id_ for id_ in catalogue.visible_ids(NOON) if catalogue.counts_of(id_, FOUND)][-120:]
        await tracker.dao.ingest_video_metadata(await tracker.youtube.videos(ids))
    emulator.set_clock(NOON, 0)
    return made


async def held(sql: Any) -> int:
    count: int = await sql.fetchval(
        "SELECT (SELECT count(*) FROM video_clock WHERE lease_token IS NOT NULL OR attempts > 0)"
        " + (SELECT count(*) FROM channel_clock WHERE lease_token IS NOT NULL OR attempts > 0)"
    )
    return count


async def test_a_run_shows_its_steps_as_tasks_and_does_what_a_direct_one_does(
    prefect: str, settings: Settings, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CALLS_PER_GROUP", 2)
    seen: list[GroupProgress] = []
    statistics = await run_here(AGENT, settings, batch_size=500, cycles=2, on_progress=seen.append)

    assert (statistics["samples"] + statistics["missing"], statistics["outcome"]) == (120, "idle")
    assert (seen[-1].done, seen[-1].samples) == (seen[-1].claimed, statistics["samples"])
    stored = "SELECT count(*) FROM video_stats_log WHERE sampled_at >= $1"
    assert await sql.fetchval(stored, NOON) == statistics["samples"] > 0
    cycles = [json.loads(row[0]) for row in await sql.fetch(CYCLES)]
    assert sum(cycle["samples"] for cycle in cycles) == statistics["samples"]
    async with get_client() as client:
        flow_run = await last_run(client)
        tasks = await task_runs(client, flow_run, 5)
    assert flow_run.state_name == "Completed"
    assert flow_run.parameters == {"batch_size": 500, "cycles": 2}
    assert sorted(task.name.split(" from ")[0] for task in tasks)[:4] == [
        "fetch_targets 500", "fetch_targets 500", tasks_of_channels(tasks), "update_stats 100 videos",
    ]  # fmt: skip
    assert {task.state_name for task in tasks} == {"Completed"}


def tasks_of_channels(tasks: list[TaskRun]) -> str:
    (name,) = (task.name for task in tasks if task.name.startswith("update_channels"))
    return name.split(" from ")[0]


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"cycles": 0}, {"batch_size": "many"}])
async def test_wrong_parameters_are_refused_before_anything_runs(
    prefect: str, emulator: Emulator, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ParameterTypeError):
        await flow_of(AGENT)(**wrong)
    assert emulator.calls == []


async def test_a_429_crashes_the_run_with_status_75_and_holds_no_claim(
    prefect: str, settings: Settings, emulator: Emulator, sql: Any
) -> None:
    emulator.set_faults(["429-day:1:videos.batchGetStats"])
    with pytest.raises(SystemExit) as ended:
        await run_here(AGENT, settings)
    assert ended.value.code == 75
    assert await held(sql) == 0
    assert json.loads(await sql.fetchval(CYCLES))["outcome"] == "rate_limited"
    async with get_client() as client:
        flow_run = await last_run(client)
    assert flow_run.state_name == "Crashed"

    calls = len(emulator.calls)
    closed = await run_here(AGENT, settings)
    assert (closed["outcome"], closed["units"]) == ("closed", {})
    assert len(emulator.calls) == calls


async def test_only_a_turn_of_the_schedule_is_sat_out_on_a_hot_host(
    prefect: str, settings: Settings, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot = HostPressure(hot=True, reasons=("temperature at 90 °C, 85 °C or more",))
    monkeypatch.setattr(adapting, "pressure", lambda sample: hot)
    learner = settings.learner.model_copy(update={"adapt_to_host": True})
    adapting_settings = settings.model_copy(update={"learner": learner})
    before = len(emulator.calls)
    with tags("auto-scheduled"):
        sat_out = await run_here(AGENT, adapting_settings)
    assert (sat_out["outcome"], sat_out["adapted"]) == ("idle", {"turns_sat_out": 1})
    assert len(emulator.calls) == before

    asked = await run_here(AGENT, adapting_settings, batch_size=10)
    assert (asked["outcome"], asked["adapted"]) == ("done", {})
    assert len(emulator.calls) > before
