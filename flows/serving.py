"""Runs every flow on its schedule: polls a Prefect server for due runs, and runs them on this machine."""

from __future__ import annotations

import asyncio
import io
import logging
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout, suppress
from math import inf

import httpx
import psutil
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.schedules import Interval
from prefect.types.entrypoint import EntrypointType

from atlas.config import Settings
from atlas.wording import counted
from flows import provisioning, server
from flows.registry import ALERT, ANCHOR, DEPLOYMENT, ServedFlow, chosen
from flows.schedules import pauses_kept

logger = logging.getLogger(__name__)

LONGEST_POLL_S = 5.0

RUNS_GRACE_S = 4.0
"""How long runs in progress may take to release their claims before they are killed."""

_TELL_AGAIN_S = 1.0
_POLL_S = 0.1


def deployment_of(served: ServedFlow) -> RunnerDeployment:
    """The deployment of a flow; it runs the code that is installed on the machine where it runs."""
    return RunnerDeployment.from_flow(
        served.load(),
        name=DEPLOYMENT,
        schedule=Interval(served.interval_s, anchor_date=ANCHOR) if served.interval_s else None,
        parameters=dict(served.parameters),
        tags=list(served.tags),
        enforce_parameter_schema=True,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def _poll_s(agents: Sequence[ServedFlow]) -> float:
    """Seconds between polls for due runs: at least five polls within the shortest interval."""
    shortest_s = min(agent.interval_s or LONGEST_POLL_S for agent in agents)
    return max(1.0, min(LONGEST_POLL_S, shortest_s / 5))


async def serve(settings: Settings, ready: Callable[[Sequence[ServedFlow]], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, then end the runs in progress.

    `ready` is called once the server has the flows and automations, and signals are handled. Raises
    ConfigError without PREFECT_API_URL, and PrefectServerAway if no server responds there.
    """
    # Prefect calls this coroutine as a function when it loses its server.
    warnings.filterwarnings(
        "ignore", "coroutine 'Runner._handle_cancellation_observer_failure'", RuntimeWarning
    )
    url = server.required_url()
    agents = chosen(settings.prefect.agents, settings.agents.intervals_s)
    await server.wait_until_answering(url, settings.up.start_timeout_s)
    runner = Runner(
        name="maia serve",
        query_seconds=_poll_s(agents),
        # One run of each agent, and two alerts.
        limit=len(agents) + 2,
        pause_on_shutdown=False,
    )
    async with pauses_kept():
        for flow in (*agents, ALERT):
            await runner.aadd_deployment(deployment_of(flow))
    await provisioning.automate(settings.prefect.zombie_after_s)
    with ExitStack() as printing:

        def signals_handled() -> None:
            ready(agents)
            # Prefect prints connection errors with tracebacks, although it logs them too.
            printing.enter_context(redirect_stdout(_DebugLog()))

        serving = asyncio.create_task(runner.start())
        stopping = asyncio.create_task(_wait_for_signal(runner, serving, signals_handled))
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await end_runs(psutil.Process(), RUNS_GRACE_S)
        serving.cancel()
        await _wait_for_end(serving, url)


async def _wait_for_end(serving: asyncio.Task[None], url: str) -> None:
    """Wait for the runner's end; PrefectServerAway if it gave up because the server did not respond."""
    try:
        await serving
    except asyncio.CancelledError:
        pass
    except (Exception, BaseExceptionGroup) as error:
        if not _gave_up(error):
            raise
        logger.debug("the runner gave up", exc_info=error)
        raise server.PrefectServerAway(
            f"PREFECT_API_URL: {url} stopped answering", "start that server again, then maia serve"
        ) from None


def _gave_up(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_gave_up, error.exceptions))
    return isinstance(error, httpx.TransportError) or "exceeded error threshold" in str(error)


class _DebugLog(io.TextIOBase):
    """A stream that writes to the debug log."""

    def write(self, text: str) -> int:
        if text.strip():
            logger.debug("printed: %s", text.rstrip())
        return len(text)


async def _wait_for_signal(
    runner: Runner, serving: asyncio.Task[None], signals_handled: Callable[[], None]
) -> None:
    """Wait for SIGTERM or Ctrl-C, instead of the runner, whose signal handlers would leave runs behind."""
    while not runner.started and not serving.done():  # noqa: ASYNC110 - the runner sets no event
        await asyncio.sleep(_POLL_S)
    received = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, received.set)
    signals_handled()
    await received.wait()
    # With which status runs end is no error any more: they are told to.
    logging.getLogger("prefect.runner.flow_run_executor").setLevel(logging.CRITICAL)
    # Its stop() would also cancel the runs. Those that started now would only take the CPU from them.
    runner._scheduled_run_poller.stopping = True


async def end_runs(runner: psutil.Process, grace_s: float) -> None:
    """Send SIGTERM to all runs of a runner, to let them release their claims; kill slow ones.

    Each is told every second until it ends: a run that is only starting may lose a signal, since Prefect then
    answers by raising an error in whatever code is running. It would go on, and claim items.
    """
    deadline_s = time.monotonic() + grace_s
    told_s: dict[psutil.Process, float] = {}
    while running := _running(runner):
        now_s = time.monotonic()
        late = now_s > deadline_s
        for run in running:
            with suppress(psutil.NoSuchProcess):
                if late:
                    run.kill()
                elif now_s - told_s.get(run, -inf) >= _TELL_AGAIN_S:
                    run.terminate()
                    told_s[run] = now_s
        if late:
            logger.warning("killed %s that did not end within %g s", counted(len(running), "run"), grace_s)
            return
        await asyncio.sleep(_POLL_S)


def _running(runner: psutil.Process) -> list[psutil.Process]:
    found = []
    for process in runner.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
