"""Serves every flow on its schedule: asks a Prefect server for runs that are due, and runs them here."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.schedules import Interval
from prefect.types.entrypoint import EntrypointType

from atlas.config import Settings
from flows import provisioning, server
from flows.registry import ALERT, ANCHOR, DEPLOYMENT, ServedFlow, chosen

logger = logging.getLogger(__name__)

RUNS_GRACE_S = 4.0
"""How long runs under way may take to give back what they hold; then they are killed."""

_POLL_S = 0.05


def deployment_of(served: ServedFlow) -> RunnerDeployment:
    """The deployment of one flow, its code being whatever is installed where it runs."""
    return RunnerDeployment.from_flow(
        served.load(),
        name=DEPLOYMENT,
        schedule=Interval(served.interval_s, anchor_date=ANCHOR) if served.interval_s else None,
        parameters=dict(served.parameters),
        tags=list(served.tags),
        enforce_parameter_schema=True,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


async def serve(settings: Settings, ready: Callable[[Sequence[ServedFlow]], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, then end the runs under way; PrefectServerError without a server.

    `ready` is called once the server knows the flows and their automations, and signals are heeded.
    """
    url = server.required_url()
    agents = chosen(settings.prefect.agents, settings.prefect.intervals_s)
    await server.wait_until_answering(url, settings.up.start_timeout_s)
    runner = Runner(
        name="maia serve",
        query_seconds=settings.prefect.poll_s,
        limit=settings.prefect.runs_at_once,
        pause_on_shutdown=False,
    )
    for flow in (*agents, ALERT):
        await runner.aadd_deployment(deployment_of(flow))
    await provisioning.automate(settings.prefect.zombie_after_s)
    serving = asyncio.create_task(runner.start())
    stopping = asyncio.create_task(_told_to_stop(runner, serving, lambda: ready(agents)))
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    await end_runs(psutil.Process(), RUNS_GRACE_S)
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving


async def _told_to_stop(runner: Runner, serving: asyncio.Task[None], heeding: Callable[[], None]) -> None:
    # The runner takes SIGTERM for itself when it starts, and would leave runs behind.
    while not runner.started and not serving.done():  # noqa: ASYNC110 - it tells no event
        await asyncio.sleep(_POLL_S)
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    heeding()
    await told.wait()


async def end_runs(runner: psutil.Process, grace_s: float) -> None:
    """Let every run of a runner give back what it holds; kill those that have not when the grace is over."""
    deadline_s = time.monotonic() + grace_s
    asked: set[psutil.Process] = set()
    while running := _under_way(runner):
        late = time.monotonic() > deadline_s
        for run in running:
            with suppress(psutil.NoSuchProcess):
                if late:
                    run.kill()
                elif run not in asked:
                    run.terminate()
        asked.update(running)
        if late:
            logger.warning("killed %d runs that did not end within %g s", len(running), grace_s)
            return
        await asyncio.sleep(_POLL_S)


def _under_way(runner: psutil.Process) -> list[psutil.Process]:
    found = []
    for process in runner.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
