"""Flows on a Prefect server with workers: deployed, crashed, rate limited, late."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from atlas.testing import RecordingNotifier
from maia.emulator.catalogue import Catalogue
from tests.acceptance.conftest import Stage, StageFactory
from tests.acceptance.stack.conftest import Prefect, until

pytestmark = [pytest.mark.acceptance, pytest.mark.stack, pytest.mark.timeout(400)]

DEPLOYMENTS = Path(__file__).resolve().parents[3] / "deployments" / "prefect.yaml"
LATE_RUNS = 20


async def provisioned(prefect: Prefect, stage: Stage) -> None:
    """Pools, deployments without their schedules, automations."""
    command = ("maia", "provision", "--pool", "process", "--deployments", str(DEPLOYMENTS))
    status, printed = await prefect.run(*command, environment=stage.environment)
    assert status == 0, printed
    for deployment in await prefect.post("/deployments/filter"):
        await prefect.post(f"/deployments/{deployment['id']}/pause_deployment")


def kill_at_once(pid: int) -> None:
    """As when a machine goes: no process outlives another one long enough to do anything about it."""
    process = psutil.Process(pid)
    for one in (*process.children(recursive=True), process):
        one.suspend()
    for one in (*process.children(recursive=True), process):
        one.kill()


def outcomes_of(stage: Stage, agent: str = "hunter") -> Any:
    return stage.rows("SELECT payload->>'outcome' FROM events WHERE kind = $1 ORDER BY id", f"{agent}.cycle")


async def test_a_deployed_run_works_and_one_with_wrong_parameters_is_refused(
    stage_of: StageFactory, synthetic: Catalogue, prefect_server: Prefect
) -> None:
    stage = await stage_of(synthetic)
    await stage.maia("seed", "stop motion", "cats")
    await provisioned(prefect_server, stage)
    await prefect_server.worker(stage.environment)

    run = await prefect_server.ask_for("hunter/default", batch_size=1)
    assert (await prefect_server.ended(run))["type"] == "COMPLETED"
    [(session, topics)] = await stage.rows(
        "SELECT session, payload->>'topics' FROM events WHERE kind = 'hunter.cycle'"
    )
    assert (session, topics) == (run, "1")
    artifacts = await prefect_server.post("/artifacts/filter")
    assert {artifact["key"] for artifact in artifacts} == {
        "hunter-statistics", "hunter-videos", "hunter-plan", "quota-hunting",
    }  # fmt: skip
    [videos] = [artifact["data"] for artifact in artifacts if artifact["key"] == "hunter-videos"]
    assert "](https://www.youtube.com/watch?v=" in videos

    status, printed = await prefect_server.run(
        "prefect", "deployment", "run", "hunter/default", "--param", "batch_size=0",
        environment=stage.environment,
    )  # fmt: skip
    assert status == 1
    assert "less than the minimum of 1" in " ".join(printed.split())


async def test_a_killed_worker_s_run_becomes_crashed_is_told_of_and_its_work_is_done_by_the_next(
    stage_of: StageFactory,
    synthetic: Catalogue,
    prefect_server: Prefect,
    recording_notifier: RecordingNotifier,
) -> None:
    stage = await stage_of(
        synthetic,
        settings={
            "PLEIADES_PREFECT__ZOMBIE_AFTER_S": "45",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "PLEIADES_YOUTUBE__TIMEOUT_S": "300",
            "PLEIADES_YOUTUBE__TOTAL_TIMEOUT_S": "300",
            "PLEIADES_HUNTER__LEASE_S": "10",
            "PLEIADES_NOTIFIER__URLS": f'["{recording_notifier.url}"]',
        },
    )
    await stage.maia("seed", "stop motion", "cats")
    await provisioned(prefect_server, stage)
    worker = await prefect_server.worker(stage.environment)
    stage.emulator.set_faults(["latency-60s:1"])
    run = await prefect_server.ask_for("hunter/default")

    async def asked() -> bool:
        return bool(await stage.rows("SELECT 1 FROM quota_ledger WHERE reserved > 0"))

    await until(asked)
    kill_at_once(worker.pid)
    stage.emulator.set_faults([])
    assert (await prefect_server.state_of(run))["type"] == "RUNNING"

    crashed = await prefect_server.ended(run)
    assert (crashed["type"], crashed["message"]) == ("CRASHED", "No sign of life for 45 s.")
    await prefect_server.worker(stage.environment)
    again = await prefect_server.ask_for("hunter/default")
    assert (await prefect_server.ended(again))["type"] == "COMPLETED"
    assert await outcomes_of(stage) == [("done",)]
    assert await stage.rows("SELECT query FROM search_queue WHERE origin = 'seed' AND pages_total < 1") == []

    async def told() -> bool:
        return bool(recording_notifier.alerts)

    await until(told)
    [alert] = recording_notifier.alerts
    assert alert["title"] == "hunter: a run crashed"
    assert run in alert["message"]
    assert "No sign of life for 45 s." in alert["message"]


async def test_a_429_is_told_alike_by_every_way_of_running(
    stage_of: StageFactory, synthetic: Catalogue, prefect_server: Prefect, sql: Any
) -> None:
    stage = await stage_of(synthetic)
    await stage.maia("seed", "stop motion", "cats")
    stage.emulator.set_faults(["429-day:1:search.list"])

    async def reopened() -> None:
        await sql.execute("DELETE FROM quota_ledger")

    assert (await stage.hunt()).status == 75
    assert (await stage.hunt()).json["outcome"] == "closed"
    await reopened()
    status, _ = await prefect_server.run("maia", "hunter", environment=stage.environment)
    assert status == 75

    await reopened()
    await provisioned(prefect_server, stage)
    worker = await prefect_server.worker(stage.environment)
    by_worker = await prefect_server.ask_for("hunter/default")
    assert (await prefect_server.ended(by_worker))["type"] == "CRASHED"
    os.killpg(worker.pid, signal.SIGTERM)
    await worker.wait()

    await reopened()
    await prefect_server.start("maia", "serve", environment=stage.environment)
    served = await prefect_server.ask_for("hunter/default")
    assert (await prefect_server.ended(served))["type"] == "CRASHED"

    assert await outcomes_of(stage) == [
        ("rate_limited",), ("closed",), ("rate_limited",), ("rate_limited",), ("rate_limited",),
    ]  # fmt: skip
    sessions = await stage.rows("SELECT session FROM events WHERE payload->>'outcome' = 'rate_limited'")
    assert {by_worker, served} <= {session for (session,) in sessions}
    held = await stage.rows("SELECT count(*) FROM search_queue WHERE lease_token IS NOT NULL")
    assert held == [(0,)]


async def test_of_many_late_runs_one_works_and_the_others_end_without_a_call(
    stage_of: StageFactory, synthetic: Catalogue, prefect_server: Prefect
) -> None:
    stage = await stage_of(synthetic, settings={"PLEIADES_HUNTER__TAGS_PER_VIDEO": "0"})
    await stage.maia("seed", "stop motion")
    await stage.rows("UPDATE search_queue SET page_token = NULL")
    await provisioned(prefect_server, stage)
    runs = [await prefect_server.ask_for("hunter/default") for _ in range(LATE_RUNS)]
    await prefect_server.worker(stage.environment)
    states = [await prefect_server.ended(run) for run in runs]

    assert {state["type"] for state in states} == {"COMPLETED"}
    outcomes = [outcome for (outcome,) in await outcomes_of(stage)]
    assert sorted(set(outcomes)) == ["done", "idle"]
    worked = [state for state in states if not state["message"].startswith("0 topics")]
    assert len(worked) == outcomes.count("done")
    asked = [call for call in stage.emulator.calls if call.method == "search.list"]
    assert len(asked) == outcomes.count("done")
