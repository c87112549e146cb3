"""The hunter's flow against a real Prefect server, a real database and the emulator."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import ParameterTypeError

from atlas.composition import Atlas
from atlas.config import LogSettings, Settings
from atlas.testing import SettingsFactory
from flows.agents import flow_of, run_here
from maia.agents import agent_named
from maia.emulator import Emulator
from maia.hunter.cycle import AskProgress, Hunter
from tests import flow_runs
from tests.flow_runs import last_run, logs_of, task_runs

pytestmark = [*flow_runs.MARKS, pytest.mark.usefixtures("without_waits")]

CYCLES = "SELECT payload FROM events WHERE kind = 'hunter.cycle' ORDER BY id"

AGENT = agent_named("hunter")


@pytest.fixture
def settings(settings_factory: SettingsFactory, emulated: dict[str, Any]) -> Settings:
    return settings_factory(**emulated)


async def seed(settings: Settings, *queries: str) -> None:
    async with Atlas.open(settings) as atlas, Hunter.open(atlas) as hunter:
        await hunter.dao.seed(queries)


async def test_a_run_shows_what_agents_log_though_stderr_shows_less(prefect: str, settings: Settings) -> None:
    quiet = settings.model_copy(update={"log": LogSettings(level="WARNING")})
    statistics = await run_here(AGENT, quiet)

    assert statistics["outcome"] == "idle"
    async with get_client() as client:
        flow_run = await last_run(client)
        await logs_of(
            client, flow_run, lambda log: log.name.startswith("maia.") and log.level == logging.INFO
        )
    assert flow_run.name == "hunter · idle"


async def test_a_run_shows_each_step_as_a_task_and_does_what_a_direct_one_does(
    prefect: str, settings: Settings, sql: Any
) -> None:
    await seed(settings, "cats", "city gardens")
    seen: list[AskProgress] = []
    statistics = await run_here(AGENT, settings, batch_size=5, cycles=1, on_progress=seen.append)

    assert (statistics["topics"], statistics["pages"], statistics["outcome"]) == (2, 2, "done")
    assert statistics["new"] == await sql.fetchval("SELECT count(*) FROM videos") > 0
    assert {progress.about for progress in seen} == {"cats", "city gardens"}
    assert json.loads(await sql.fetchval(CYCLES)) == statistics
    async with get_client() as client:
        flow_run = await last_run(client)
        tasks = {task.name: task for task in await task_runs(client, flow_run, 7)}
        logs = await logs_of(client, flow_run, lambda log: "hunted by 2 questions" in log.message)
        left = [one for one in await client.read_artifacts() if one.flow_run_id == flow_run.id]
    assert flow_run.name == f"hunter · {statistics['new']:,} new videos"
    assert flow_run.state is not None
    assert (flow_run.state.name, flow_run.state.message) == ("Completed", Hunter.summary(statistics))
    assert flow_run.parameters == {"batch_size": 5, "cycles": 1}
    assert set(tasks) == {
        "fetch_batch 5", "search cats", "enrich cats", "ingest cats",
        "search city gardens", "enrich city gardens", "ingest city gardens",
    }  # fmt: skip
    assert {task.state_name for task in tasks.values()} == {"Completed"}
    assert "maia.hunter" in {log.name for log in logs}
    assert {one.key for one in left} == {
        "hunter-statistics",
        "hunter-videos",
        "hunter-plan",
        "quota-hunting",
    }
    linked = re.findall(r"\]\(/artifacts/key/([\w-]+)\)", flow_of(AGENT).description or "")
    assert set(linked) == {one.key for one in left}


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
    await seed(settings, "cats", "city gardens")
    emulator.set_faults(["429-day:1:search.list"])
    with pytest.raises(SystemExit) as ended:
        await run_here(AGENT, settings)
    assert ended.value.code == 75
    rows = await sql.fetch("SELECT attempts, lease_token FROM search_queue")
    assert {tuple(row) for row in rows} == {(0, None)}
    assert json.loads(await sql.fetchval(CYCLES))["outcome"] == "rate_limited"
    async with get_client() as client:
        flow_run = await last_run(client)
    assert flow_run.state_name == "Crashed"

    calls = len(emulator.calls)
    assert (await run_here(AGENT, settings))["outcome"] == "closed"
    assert len(emulator.calls) == calls


async def test_a_skipped_topic_fails_its_task_but_not_the_run(
    prefect: str, settings: Settings, emulator: Emulator
) -> None:
    await seed(settings, "cats")
    emulator.set_faults(["invalid-parameter:1:videos.list"])
    statistics = await run_here(AGENT, settings)
    assert statistics["skipped"] == {"bad_request": 1}
    async with get_client() as client:
        flow_run = await last_run(client)
        tasks = {task.name: task for task in await task_runs(client, flow_run, 3)}
        logs = await logs_of(client, flow_run, lambda log: "skipped topic 'cats'" in log.message)
    assert flow_run.state_name == "Completed"
    assert Counter(task.state_name for task in tasks.values()) == {"Completed": 2, "Failed": 1}
    assert tasks["enrich cats"].state_name == "Failed"
    assert any("skipped topic 'cats' (bad_request)" in log.message for log in logs)


AS_A_COMMAND = """
import asyncio
from atlas.config import settings
from flows.agents import run_here
from maia.agents import agent_named
print(asyncio.run(run_here(agent_named("hunter"), settings, cycles=2))["outcome"])
"""
AS_A_WORKER_DOES = """
import asyncio
from flows.agents import hunter
print(asyncio.run(hunter(cycles=2))["outcome"])
"""
# What is imported may catch whatever is raised in it.
STOPPED_AS_IT_LOADS = """
import asyncio, os, signal
from contextlib import suppress
from flows.agents import hunter
from maia.agents import AgentRecord

def load(self, load=AgentRecord.load):
    with suppress(BaseException):
        os.kill(os.getpid(), signal.SIGTERM)
    return load(self)

AgentRecord.load = load
asyncio.run(hunter())
"""


@pytest.fixture
def process_environment(
    environment: dict[str, str], emulated: dict[str, Any], prefect: str, tmp_path: Path
) -> dict[str, str]:
    return environment | {
        "PLEIADES_YOUTUBE__BASE_URL": emulated["youtube"]["base_url"],
        "PLEIADES_YOUTUBE__TIMEOUT_S": "100",
        "PLEIADES_YOUTUBE__TOTAL_TIMEOUT_S": "100",
        "PLEIADES_QUOTA__PACING": "false",
        "YOUTUBE_API_KEY_POOL_JSON": emulated["youtube_api_key_pool_json"],
        "PLEIADES_HUNTER__STRATEGY": "specification",
        "PREFECT_API_URL": prefect,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PYTHONPATH": str(Path.cwd()),
    }


async def start(program: str, environment: dict[str, str], folder: Path) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=environment, cwd=folder, stdout=pipe, stderr=pipe
    )


@pytest.mark.parametrize("program", [AS_A_COMMAND, AS_A_WORKER_DOES], ids=["command", "worker"])
async def test_a_process_of_its_own_hunts_with_the_settings_of_its_environment(
    settings: Settings, process_environment: dict[str, str], tmp_path: Path, sql: Any, program: str
) -> None:
    await seed(settings, "cats")
    process = await start(program, process_environment, tmp_path)
    output, errors = await process.communicate()
    assert (process.returncode, output.decode().split()[-1:]) == (0, ["done"]), errors.decode()
    assert await sql.fetchval("SELECT count(*) FROM videos") > 0


@pytest.mark.parametrize(
    ("program", "signalled", "status"),
    [(AS_A_COMMAND, signal.SIGTERM, 143), (AS_A_COMMAND, signal.SIGINT, -signal.SIGINT),
     (AS_A_WORKER_DOES, signal.SIGTERM, 1)],
    ids=["command-sigterm", "command-sigint", "worker-sigterm"],
)  # fmt: skip
async def test_a_process_that_is_told_to_stop_gives_its_claims_back(
    settings: Settings,
    process_environment: dict[str, str],
    emulator: Emulator,
    tmp_path: Path,
    sql: Any,
    program: str,
    signalled: signal.Signals,
    status: int,
) -> None:
    await seed(settings, "cats", "city gardens")
    emulator.set_faults(["latency-60s:1"])
    process = await start(program, process_environment, tmp_path)
    try:
        while not await sql.fetchval("SELECT count(*) FROM quota_ledger WHERE reserved > 0"):
            assert process.returncode is None
            await asyncio.sleep(0.05)
        process.send_signal(signalled)
        _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == status, errors.decode()
    rows = await sql.fetch("SELECT attempts, lease_token FROM search_queue")
    assert {tuple(row) for row in rows} == {(0, None)}
    assert json.loads(await sql.fetchval(CYCLES))["outcome"] == "interrupted"
    async with get_client() as client:
        flow_run = await last_run(client)
    assert flow_run.state_name == "Crashed"


async def test_a_process_that_is_told_to_stop_while_it_starts_keeps_no_claim(
    settings: Settings, process_environment: dict[str, str], emulator: Emulator, tmp_path: Path, sql: Any
) -> None:
    await seed(settings, "cats")
    process = await start(STOPPED_AS_IT_LOADS, process_environment, tmp_path)
    _, errors = await process.communicate()

    assert process.returncode == 1, errors.decode()
    assert emulator.calls == []
    row = await sql.fetchrow("SELECT attempts, lease_token FROM search_queue")
    assert tuple(row) == (0, None)
