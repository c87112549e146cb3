"""`maia serve` and `maia provision` against a real Prefect server."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from prefect.automations import AutomationCore
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import IntervalSchedule

from flows import provisioning
from flows.registry import AGENTS, ANCHOR
from flows.serving import end_runs

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <(socket|ssl|_Selector|asyncio):pytest.PytestUnraisableExceptionWarning"
    ),
]

STUBBORN = r"""
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b"stubborn %d\n" % os.getpid())
time.sleep(600)
"""
POLITE = r"""
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("gave back", flush=True)))
os.write(1, b"polite %d\n" % os.getpid())
time.sleep(600)
"""


@pytest.fixture
def served_environment(environment: dict[str, str], prefect: str, tmp_path: Path) -> dict[str, str]:
    return environment | {"PREFECT_API_URL": prefect, "PREFECT_HOME": str(tmp_path / "prefect")}


@pytest_asyncio.fixture
async def serving(served_environment: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "maia", "serve", "--json",
        env=served_environment | {"PLEIADES_PREFECT__INTERVALS_S": '{"hunter": 3600}'},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    yield process
    if process.returncode is None:
        process.kill()
    await process.communicate()


def maia(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "maia", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


async def test_every_agent_is_served_as_often_as_the_settings_say(
    serving: asyncio.subprocess.Process,
) -> None:
    assert serving.stdout is not None
    told = json.loads(await serving.stdout.readline())
    usual = {flow.name: flow.interval_s for flow in AGENTS}
    assert told == {"event": "serving", "intervals_s": usual | {"hunter": 3600}}

    async with get_client() as client:
        deployments = {each.name: each for each in [await client.read_deployment_by_name("hunter/default")]}
        hunter = deployments["default"]
        assert hunter.entrypoint == "flows.hunter.hunter"
        assert hunter.enforce_parameter_schema
        assert hunter.work_pool_name is None
        [schedule] = [each.schedule for each in hunter.schedules]
        assert isinstance(schedule, IntervalSchedule)
        assert schedule.interval == timedelta(hours=1)
        # Not from its own start, or what is restarted every hour would never run.
        assert schedule.anchor_date == ANCHOR
        assert hunter.parameter_openapi_schema["properties"]["batch_size"]["anyOf"][0]["minimum"] == 1
        alert = await client.read_deployment_by_name("alert/default")
        assert alert.schedules == []
        names = {automation.name for automation in await client.read_automations()}
    assert {provisioning.ZOMBIES, provisioning.FAILURES} <= names

    serving.send_signal(signal.SIGTERM)
    assert await serving.wait() == 0


def test_without_a_server_it_says_what_to_do(environment: dict[str, str]) -> None:
    environment.pop("PREFECT_API_URL", None)
    finished = maia(environment, "serve")
    assert finished.returncode == 1
    assert finished.stderr.startswith("maia: PREFECT_API_URL is not set: set it to your Prefect server")


def test_a_server_that_does_not_answer_is_waited_for_and_named(environment: dict[str, str]) -> None:
    away = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PLEIADES_UP__START_TIMEOUT_S": "0.3"}
    finished = maia(environment | away, "provision")
    assert finished.returncode == 1
    assert "http://127.0.0.1:9/api did not answer in 0.3 s" in finished.stderr


async def test_provisioning_again_changes_only_what_differs(prefect: str) -> None:
    await provisioning.provide_pools(["process", "kubernetes"])
    again = await provisioning.provide_pools(["process", "kubernetes"])
    assert [each.change for each in again] == ["unchanged", "unchanged"]

    def of_zombies(provided: list[provisioning.Provision]) -> str:
        return next(each.change for each in provided if each.name == provisioning.ZOMBIES)

    await provisioning.automate(540)
    assert of_zombies(await provisioning.automate(540)) == "unchanged"
    assert of_zombies(await provisioning.automate(90)) == "changed"
    async with get_client() as client:
        [automation] = await client.read_automations_by_name(provisioning.ZOMBIES)
        assert automation.trigger.model_dump()["within"] == timedelta(seconds=90)
        # Two that provision for the first time at once may both make it: the next one mends that.
        twin = AutomationCore.model_validate(automation.model_dump(exclude={"id"}))
        await client.create_automation(twin)
        assert len(await client.read_automations_by_name(provisioning.ZOMBIES)) == 2
        assert of_zombies(await provisioning.automate(90)) == "unchanged"
        assert len(await client.read_automations_by_name(provisioning.ZOMBIES)) == 1
        pools = await client.read_work_pools()
    assert {pool.name: pool.type for pool in pools}["kubernetes"] == "kubernetes"


def test_what_cannot_be_provisioned_is_named(served_environment: dict[str, str], tmp_path: Path) -> None:
    finished = maia(served_environment, "provision", "--pool", "cloud")
    assert finished.returncode == 2
    assert "cloud: there are process, docker, kubernetes" in " ".join(finished.stderr.split())

    wrong = tmp_path / "prefect.yaml"
    wrong.write_text("pull: []\ndeployments:\n- name: default\n  entrypoint: flows.nobody.nobody\n")
    finished = maia(served_environment, "provision", "--pool", "process", "--deployments", str(wrong))
    assert finished.returncode == 1
    assert "could not be deployed" in finished.stderr
    assert "flows.nobody" in " ".join(finished.stderr.split())


async def test_runs_end_when_they_are_told_and_are_killed_if_they_do_not() -> None:
    children = "".join(f"subprocess.Popen([sys.executable, '-c', {text!r}])\n" for text in (STUBBORN, POLITE))
    runner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import subprocess, sys, time\n" + children + "time.sleep(600)",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert runner.stdout is not None
    pids = {name.decode(): int(pid) for name, pid in [(await runner.stdout.readline()).split() for _ in "12"]}
    try:
        await end_runs(psutil.Process(runner.pid), 1)
        assert (await runner.stdout.readline()).split() == [b"gave", b"back"]
        assert [name for name, pid in pids.items() if not ended(pid)] == []
        assert runner.returncode is None
    finally:
        runner.kill()
        await runner.communicate()


def ended(pid: int) -> bool:
    try:
        # SIGKILL takes a moment.
        psutil.Process(pid).wait(5)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True
