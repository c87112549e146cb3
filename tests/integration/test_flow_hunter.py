"""The hunter's flow against a real Prefect server, a real database and the emulator."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import stamina
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, Log, TaskRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ParameterTypeError

from atlas.composition import Atlas
from atlas.config import Settings
from atlas.testing import NOON, SettingsFactory
from flows.hunter import hunter as hunter_flow
from flows.hunter import run
from maia.hunter import Hunter, Progress
from maia.youtube.catalogue import Catalogue
from maia.youtube.emulator import Emulator
from maia.youtube.synthesis import synthesize

# Prefect leaves the sockets of its background services to the garbage collector.
UNCLOSED = "ignore:Exception ignored in. <(socket|ssl|_Selector|asyncio)"
pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings(f"{UNCLOSED}:pytest.PytestUnraisableExceptionWarning"),
]

KEYS = json.dumps([{"key": "demo-one", "project": "demo"}])
VIRTUAL = {"start": NOON.isoformat(), "anchor": NOON.isoformat(), "speed": 1}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    path = tmp_path_factory.mktemp("catalogue") / "synthetic.sqlite"
    synthesize(path, videos=400, channels=20, days=20, seed=1, start=NOON - timedelta(days=20))
    with Catalogue.open(path) as opened:
        yield opened


@pytest_asyncio.fixture
async def emulator(catalogue: Catalogue) -> AsyncIterator[Emulator]:
    async with Emulator.serve(catalogue) as served:
        yield served


@pytest.fixture(autouse=True)
def _without_waits() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture
def settings(settings_factory: SettingsFactory, emulator: Emulator) -> Settings:
    return settings_factory(
        youtube={"base_url": emulator.url}, quota={"pacing": False}, youtube_api_key_pool_json=KEYS
    )


async def seed(settings: Settings, *queries: str) -> None:
    async with Atlas.open(settings) as atlas, Hunter.open(atlas) as hunter:
        await hunter.dao.seed(queries)


async def last_run(client: PrefectClient) -> FlowRun:
    runs = await client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1)
    return runs[0]


async def task_runs(client: PrefectClient, flow_run: FlowRun, count: int) -> dict[str, TaskRun]:
    """The run's tasks by name, once the server has recorded how all of them ended."""
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
    while True:
        tasks = await client.read_task_runs(flow_run_filter=of_run)
        if len(tasks) >= count and all(task.state is not None and task.state.is_final() for task in tasks):
            return {task.name: task for task in tasks}
        await asyncio.sleep(0.1)


async def logs_of(client: PrefectClient, flow_run: FlowRun, wanted: Callable[[Log], bool]) -> list[Log]:
    """The run's logs, once one that is wanted has come."""
    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run.id]))
    while True:
        logs = await client.read_logs(of_run)
        if any(map(wanted, logs)):
            return logs
        await asyncio.sleep(0.1)


async def test_a_run_shows_each_step_as_a_task_and_does_what_a_direct_one_does(
    prefect: str, settings: Settings, sql: Any
) -> None:
    await seed(settings, "cats", "city gardens")
    seen: list[Progress] = []
    statistics = await run(settings, batch_size=5, cycles=1, on_progress=seen.append)

    assert (statistics["topics"], statistics["pages"], statistics["outcome"]) == (2, 2, "done")
    assert statistics["new"] == await sql.fetchval("SELECT count(*) FROM videos") > 0
    assert {progress.query for progress in seen} == {"cats", "city gardens"}
    assert json.loads(await sql.fetchval("SELECT payload FROM events")) == statistics
    async with get_client() as client:
        flow_run = await last_run(client)
        tasks = await task_runs(client, flow_run, 7)
        logs = await logs_of(client, flow_run, lambda log: "hunted 2 topics" in log.message)
    assert flow_run.state_name == "Completed"
    assert flow_run.parameters == {"batch_size": 5, "cycles": 1}
    assert set(tasks) == {
        "fetch_batch 5", "search cats", "enrich cats", "ingest cats",
        "search city gardens", "enrich city gardens", "ingest city gardens",
    }  # fmt: skip
    assert {task.state_name for task in tasks.values()} == {"Completed"}
    assert "maia.hunter" in {log.name for log in logs}


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"cycles": 0}, {"batch_size": "many"}])
async def test_wrong_parameters_are_refused_before_anything_runs(
    prefect: str, emulator: Emulator, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ParameterTypeError):
        await hunter_flow(**wrong)
    assert emulator.calls == []


async def test_a_429_crashes_the_run_with_status_75_and_holds_no_claim(
    prefect: str, settings: Settings, emulator: Emulator, sql: Any
) -> None:
    await seed(settings, "cats", "city gardens")
    emulator.set_faults(["429-day:1:search.list"])
    with pytest.raises(SystemExit) as ended:
        await run(settings)
    assert ended.value.code == 75
    rows = await sql.fetch("SELECT attempts, lease_token FROM search_queue")
    assert {tuple(row) for row in rows} == {(0, None)}
    assert json.loads(await sql.fetchval("SELECT payload FROM events"))["outcome"] == "rate_limited"
    async with get_client() as client:
        flow_run = await last_run(client)
    assert flow_run.state_name == "Crashed"

    calls = len(emulator.calls)
    assert (await run(settings))["outcome"] == "closed"
    assert len(emulator.calls) == calls


async def test_a_skipped_topic_fails_its_task_but_not_the_run(
    prefect: str, settings: Settings, emulator: Emulator
) -> None:
    await seed(settings, "cats")
    emulator.set_faults(["invalid-parameter:1:videos.list"])
    statistics = await run(settings)
    assert statistics["skipped"] == {"bad_request": 1}
    async with get_client() as client:
        flow_run = await last_run(client)
        tasks = await task_runs(client, flow_run, 3)
        logs = await logs_of(client, flow_run, lambda log: "skipped topic 'cats'" in log.message)
    assert flow_run.state_name == "Completed"
    assert Counter(task.state_name for task in tasks.values()) == {"Completed": 2, "Failed": 1}
    assert tasks["enrich cats"].state_name == "Failed"
    assert any("skipped topic 'cats' (bad_request)" in log.message for log in logs)


AS_A_COMMAND = """
import asyncio
from atlas.config import settings
from flows.hunter import run
print(asyncio.run(run(settings, cycles=2))["outcome"])
"""
AS_A_WORKER_DOES = """
import asyncio
from flows.hunter import hunter
print(asyncio.run(hunter(cycles=2))["outcome"])
"""


@pytest.fixture
def process_environment(
    environment: dict[str, str], emulator: Emulator, prefect: str, tmp_path: Path
) -> dict[str, str]:
    return environment | {
        "PLEIADES_YOUTUBE__BASE_URL": emulator.url,
        "PLEIADES_YOUTUBE__TIMEOUT_S": "100",
        "PLEIADES_YOUTUBE__TOTAL_TIMEOUT_S": "100",
        "PLEIADES_QUOTA__PACING": "false",
        "YOUTUBE_API_KEY_POOL_JSON": KEYS,
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
    assert json.loads(await sql.fetchval("SELECT payload FROM events"))["outcome"] == "interrupted"
    async with get_client() as client:
        flow_run = await last_run(client)
    assert flow_run.state_name == "Crashed"
