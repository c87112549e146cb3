"""What the flows of every agent have in common: steps shown as tasks, the Atlas and the log of a run.

Prefect schedules, shows and keeps the history; it neither retries nor caches nor stores results here.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.logging.handlers import APILogHandler
from pydantic import Field

from atlas.composition import Atlas, current
from atlas.config import Settings, settings
from atlas.errors import NoCurrentAtlas
from maia import sessions
from maia.signals import cancelled_by_sigterm

T = TypeVar("T")
Count = Annotated[int, Field(ge=1)]
OnProgress = Callable[[Any], None]

_LOGGED = ("atlas", "maia")


class _Step(Generic[T]):
    """A step to run, named for what it is about, and what it brought.

    Prefect walks through every parameter and result that it can look into, which for a page of videos takes
    ten times as long as all else it does for a task; into this it does not look.
    """

    __slots__ = ("about", "call", "result")

    def __init__(self, about: object, call: Callable[[], Awaitable[T]]) -> None:
        self.about, self.call = about, call
        self.result: T

    def __str__(self) -> str:
        return str(self.about)

    async def run(self) -> None:
        self.result = await self.call()


class StepTask:
    """A step of a cycle as a Prefect task, each run of it named for what it is about."""

    def __init__(self, name: str, description: str) -> None:
        async def run(step: _Step[Any]) -> None:
            await step.run()

        self._task = task(
            name=name,
            description=description,
            task_run_name=f"{name} {{step}}",
            cache_policy=NO_CACHE,
            persist_result=False,
        )(run)

    async def __call__(self, about: object, call: Callable[[], Awaitable[T]]) -> T:
        step = _Step(about, call)
        await self._task(step)
        return step.result


@dataclass(frozen=True, slots=True)
class _Invocation:
    """What a caller in this process passes besides the flow's parameters."""

    on_progress: OnProgress | None


_invocation: ContextVar[_Invocation | None] = ContextVar("invocation", default=None)


@asynccontextmanager
async def invoking(settings: Settings, on_progress: OnProgress | None) -> AsyncIterator[None]:
    """Within it flows run with `settings`, tell `on_progress`, and end by SIGTERM as the process does."""
    async with Atlas.open(settings):
        token = _invocation.set(_Invocation(on_progress))
        try:
            yield
        finally:
            _invocation.reset(token)


@asynccontextmanager
async def invoked() -> AsyncIterator[tuple[Atlas, OnProgress | None]]:
    """What a flow works with: an Atlas whose log the run shows, and whom to tell of progress."""
    invocation = _invocation.get()
    with cancelled_by_sigterm(exits=invocation is not None):
        async with _atlas() as atlas:
            with _session(), _logs_shown(atlas.settings.log.level):
                yield atlas, invocation.on_progress if invocation else None


@contextmanager
def _session() -> Iterator[None]:
    """Let events and logs name the flow run that they belong to."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        yield
        return
    with sessions.about(context.flow.name if context.flow else "flow", str(context.flow_run.id)):
        yield


@asynccontextmanager
async def _atlas() -> AsyncIterator[Atlas]:
    """The caller's Atlas, or where a worker runs the flow one of the environment's settings."""
    try:
        atlas = current()
    except NoCurrentAtlas:
        async with Atlas.open(settings) as opened:
            yield opened
    else:
        yield atlas


@contextmanager
def _logs_shown(level: str) -> Iterator[None]:
    """Show what Atlas and maia log with the run, and task, that it belongs to."""
    handler = APILogHandler()
    # Threads that Prefect did not start have no run to log to.
    handler.addFilter(lambda _: FlowRunContext.get() is not None)
    loggers = [logging.getLogger(name) for name in _LOGGED]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        if logger.level == logging.NOTSET:
            logger.setLevel(level)
    try:
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(before)
