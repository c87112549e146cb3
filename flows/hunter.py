"""The hunter as a Prefect flow: maia's own cycle, each of its four steps shown as a task.

Prefect schedules, shows and keeps the history; it neither retries nor caches nor stores results here.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.logging.handlers import APILogHandler
from pydantic import Field

from atlas.adapters.maia import Topic
from atlas.composition import Atlas, current
from atlas.config import Settings, settings
from atlas.errors import NoCurrentAtlas
from maia.hunter import Batch, EnrichedPage, FoundPage, OnProgress, Steps, StoredPage
from maia.hunter import run as hunt
from maia.signals import cancelled_by_sigterm

T = TypeVar("T")
Count = Annotated[int, Field(ge=1)]

_LOGGED = ("atlas", "maia")


@dataclass(frozen=True, slots=True)
class _Invocation:
    """What a caller in this process passes besides the flow's parameters."""

    on_progress: OnProgress | None


_invocation: ContextVar[_Invocation | None] = ContextVar("invocation", default=None)


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


@task(name="fetch_batch", task_run_name="fetch_batch {step}", cache_policy=NO_CACHE, persist_result=False)
async def fetch_batch(step: _Step[Batch]) -> None:
    """Claim the topics to search for."""
    await step.run()


@task(name="search", task_run_name="search {step}", cache_policy=NO_CACHE, persist_result=False)
async def search(step: _Step[FoundPage]) -> None:
    """Ask for a topic's next page of results."""
    await step.run()


@task(name="enrich", task_run_name="enrich {step}", cache_policy=NO_CACHE, persist_result=False)
async def enrich(step: _Step[EnrichedPage]) -> None:
    """Ask for the tags, counts and durations of a page's videos."""
    await step.run()


@task(name="ingest", task_run_name="ingest {step}", cache_policy=NO_CACHE, persist_result=False)
async def ingest(step: _Step[StoredPage]) -> None:
    """Store a page's videos, its tags and the topic's new state."""
    await step.run()


class _Tasks:
    """The steps of a hunter, each run as a task."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    async def fetch_batch(self, batch_size: int) -> Batch:
        step = _Step(batch_size, lambda: self._steps.fetch_batch(batch_size))
        await fetch_batch(step)
        return step.result

    async def search(self, topic: Topic) -> FoundPage:
        step = _Step(topic.query, lambda: self._steps.search(topic))
        await search(step)
        return step.result

    async def enrich(self, page: FoundPage) -> EnrichedPage:
        step = _Step(page.topic.query, lambda: self._steps.enrich(page))
        await enrich(step)
        return step.result

    async def ingest(self, page: EnrichedPage) -> StoredPage:
        step = _Step(page.found.topic.query, lambda: self._steps.ingest(page))
        await ingest(step)
        return step.result


@flow(name="hunter", persist_result=False, retries=0)
async def hunter(batch_size: Count | None = None, cycles: Count = 1) -> dict[str, Any]:
    """Search for topics of the queue, store what they bring and queue its tags; returns the statistics.

    A 429 ends the run as Crashed, by SystemExit(75).
    """
    invocation = _invocation.get()
    with cancelled_by_sigterm(exits=invocation is not None):
        async with _atlas() as atlas:
            with _logs_shown(atlas.settings.log.level):
                return await hunt(
                    atlas,
                    batch_size=batch_size,
                    cycles=cycles,
                    on_progress=invocation.on_progress if invocation else None,
                    wrap=_Tasks,
                )


async def run(
    settings: Settings,
    batch_size: int | None = None,
    cycles: int = 1,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Run the flow in this process with `settings`; for `asyncio.run` in the main thread.

    Returns and raises what `maia.hunter.run_direct` does, and Prefect's own errors if its server fails.
    """
    async with Atlas.open(settings):
        token = _invocation.set(_Invocation(on_progress))
        try:
            return await hunter(batch_size=batch_size, cycles=cycles)
        finally:
            _invocation.reset(token)


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
