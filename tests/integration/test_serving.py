"""`maia serve` and `maia provision` against a real Prefect server."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from prefect.automations import AutomationCore
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.runner import Runner

from flows import provisioning
from flows.registry import ANCHOR
from flows.serving import _wait_for_signal, end_runs
from maia.agents import intervals_s
from tests import flow_runs

pytestmark = flow_runs.MARKS

DEPLOYMENTS = Path(__file__).resolve().parents[2] / "deployments"
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

# As a run of Prefect's that is only starting.
ABSENT = r"""
import os, signal, sys, time
def wake(*_):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("woke", flush=True)))
signal.signal(signal.SIGTERM, wake)
os.write(1, b"absent %d\n" % os.getpid())
while True:
    time.sleep(600)
"""


@pytest.fixture
def served_environment(environment: dict[str, str], prefect: str, tmp_path: Path) -> dict[str, str]:
    return environment | {"PREFECT_API_URL": prefect, "PREFECT_HOME": str(tmp_path / "prefect")}


StartServing = Callable[[], Awaitable[asyncio.subprocess.Process]]


@pytest_asyncio.fixture
async def no_deployments(prefect: str) -> AsyncIterator[None]:
    """Leaves the server without deployments, as tests find it in any order."""
    yield
    async with get_client() as client:
        for deployment in await client.read_deployments():
            await client.delete_deployment(deployment.id)


@pytest_asyncio.fixture
async def start_serving(
    served_environment: dict[str, str], no_deployments: None
) -> AsyncIterator[StartServing]:
    """Starts a `maia serve` and waits until it serves."""
    started: list[asyncio.subprocess.Process] = []

    async def start() -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "maia", "serve", "--json",
            env=served_environment | {"PLEIADES_AGENTS__INTERVALS_S": '{"hunter": 3600}'},
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        told = json.loads(await process.stdout.readline())
        assert told == {"event": "serving", "intervals_s": intervals_s({"hunter": 3600})}
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def maia(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "maia", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


async def paused_or_not(deployment: str) -> tuple[bool, list[bool]]:
    """Whether a deployment is paused, and which of its schedules are active."""
    async with get_client() as client:
        found = await client.read_deployment_by_name(deployment)
    return found.paused, [schedule.active for schedule in found.schedules]


async def test_what_an_operator_paused_stays_paused(
    served_environment: dict[str, str], start_serving: StartServing
) -> None:
    first = await start_serving()
    async with get_client() as client:
        hunter = await client.read_deployment_by_name("hunter/default")
        await client.update_deployment_schedule(hunter.id, hunter.schedules[0].id, active=False)
        tracker = await client.read_deployment_by_name("tracker/default")
        await client.pause_deployment(tracker.id)
    first.send_signal(signal.SIGTERM)
    await first.wait()

    await start_serving()
    assert await paused_or_not("hunter/default") == (False, [False])
    assert (await paused_or_not("tracker/default"))[0]
    file = str(DEPLOYMENTS / "prefect.yaml")
    finished = await asyncio.to_thread(maia, served_environment, "provision", "--deployments", file)
    assert finished.returncode == 0, finished.stderr
    assert await paused_or_not("hunter/default") == (False, [False])
    assert (await paused_or_not("tracker/default"))[0]

    async with get_client() as client:
        hunter = await client.read_deployment_by_name("hunter/default")
        await client.update_deployment_schedule(hunter.id, hunter.schedules[0].id, active=True)
        await client.resume_deployment(tracker.id)
    await start_serving()
    assert await paused_or_not("hunter/default") == (False, [True])
    assert await paused_or_not("tracker/default") == (False, [True])


async def test_every_agent_is_served_as_often_as_the_settings_say(start_serving: StartServing) -> None:
    serving = await start_serving()
    async with get_client() as client:
        deployments = {each.name: each for each in [await client.read_deployment_by_name("hunter/default")]}
        hunter = deployments["default"]
        assert hunter.entrypoint == "flows.agents.hunter"
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
    assert finished.returncode == 78
    assert finished.stderr.startswith("maia: PREFECT_API_URL is not set: set it to your Prefect server")


def test_a_server_that_does_not_answer_is_waited_for_and_named(environment: dict[str, str]) -> None:
    away = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PLEIADES_UP__START_TIMEOUT_S": "0.3"}
    finished = maia(environment | away, "provision")
    assert finished.returncode == 69
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


async def test_a_run_that_loses_a_signal_is_told_again() -> None:
    program = (
        f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {ABSENT!r}])\ntime.sleep(600)"
    )
    runner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    assert runner.stdout is not None
    try:
        await runner.stdout.readline()
        await end_runs(psutil.Process(runner.pid), 30)
        assert await runner.stdout.readline() == b"woke\n"
    finally:
        runner.kill()
        await runner.communicate()


async def test_no_run_starts_after_the_signal(prefect: str) -> None:
    runner = Runner(name="told", query_seconds=3600, pause_on_shutdown=False)
    serving = asyncio.create_task(runner.start())
    handled = asyncio.Event()
    waiting = asyncio.create_task(_wait_for_signal(runner, serving, handled.set))
    await handled.wait()
    poller = runner._scheduled_run_poller
    while (polled := poller.last_polled) is None:
        await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)
    await waiting
    await poller._get_and_submit_flow_runs()
    assert poller.last_polled == polled
    executor = logging.getLogger("prefect.runner.flow_run_executor")
    assert not executor.isEnabledFor(logging.ERROR), "it would tell of each run that was told to end"
    executor.setLevel(logging.NOTSET)
    serving.cancel()
    await asyncio.wait([serving])


def ended(pid: int) -> bool:
    """Whether a process ends within moments; it stays as a zombie, as its parent does not wait for it."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False
