"""Every agent as a Prefect flow that runs the agent's cycles, with each step as a task.

`flows.agents.hunter` is the hunter's flow, and so on for each record of the registry.
"""

from __future__ import annotations

from collections.abc import Collection, Coroutine
from contextlib import AsyncExitStack
from typing import Annotated, Any

from prefect import Flow, flow
from pydantic import Field

from atlas import config
from atlas.config import Settings
from flows import artifacts, runs
from flows.context import OnProgress, caller_context, flow_context
from flows.liveness import signs_of_life
from flows.steps import as_task
from maia.agents import AGENTS, AgentRecord
from maia.cycle.agent import outages_reported, run
from maia.log_keeping import kept_log

Count = Annotated[int, Field(ge=1)]
Options = Annotated[
    list[str], Field(description="What to do differently; the agent's command explains each.")
]


def flow_of(agent: AgentRecord) -> Flow[..., Coroutine[Any, Any, Any]]:
    """Build an agent's flow. If YouTube answers 429, the run ends as Crashed, with SystemExit(75)."""

    async def run_agent(batch_size: Count | None = None, cycles: Count = 1) -> Any:
        return await _run(agent, batch_size, cycles)

    async def run_with_options(
        batch_size: Count | None = None, cycles: Count = 1, options: Options | None = None
    ) -> Any:
        agent.check_options(options or ())
        return await _run(agent, batch_size, cycles, options or ())

    work = run_with_options if agent.options or agent.choices else run_agent
    work.__name__ = work.__qualname__ = agent.name
    work.__doc__ = agent.about
    return flow(
        name=agent.name,
        description=artifacts.description_of(agent),
        flow_run_name=agent.name,
        persist_result=False,
        retries=0,
    )(work)


async def _run(agent: AgentRecord, batch_size: int | None, cycles: int, options: Collection[str] = ()) -> Any:
    async with (
        outages_reported(agent.load, config.settings),
        flow_context() as (atlas, on_progress),
        signs_of_life(atlas.settings),
        kept_log(atlas),
    ):
        # Loading takes long, so it waits until SIGTERM cancels the run: Prefect raises an error anywhere.
        statistics = await run(
            agent.load(),
            atlas,
            batch_size=batch_size,
            cycles=cycles,
            options=options,
            on_progress=on_progress,
            step=as_task,
            scheduled=runs.is_scheduled(),
        )
        await artifacts.create(atlas, agent, statistics)
        return await runs.complete(agent, statistics)


async def run_here(
    agent: AgentRecord,
    settings: Settings,
    batch_size: int | None = None,
    cycles: int = 1,
    on_progress: OnProgress | None = None,
    options: Collection[str] = (),
) -> dict[str, Any]:
    """Run an agent's flow in this process with `settings`; for `asyncio.run` in the main thread.

    Returns and raises what `maia.cycle.agent.run_directly` does, and Prefect's own errors if the server
    fails.
    """
    async with AsyncExitStack() as stack:
        async with outages_reported(agent.load, settings):
            await stack.enter_async_context(caller_context(settings, on_progress))
        parameters: dict[str, Any] = {"batch_size": batch_size, "cycles": cycles}
        if options:
            parameters["options"] = sorted(options)
        statistics: dict[str, Any] = await flow_of(agent)(**parameters)
        return statistics


globals().update({agent.name: flow_of(agent) for agent in AGENTS})
