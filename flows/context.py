"""The context in which a flow runs: its Atlas, its log in Prefect's UI, and its progress callback."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from prefect.context import FlowRunContext
from prefect.logging.handlers import APILogHandler

from atlas.composition import Atlas, current
from atlas.config import Settings, settings
from atlas.errors import NoCurrentAtlas
from maia.cycle import sessions
from maia.cycle.signals import cancelled_by_sigterm

OnProgress = Callable[[Any], None]

_LOGGED = ("atlas", "maia")


@dataclass(frozen=True, slots=True)
class _Caller:
    """What a caller in this process passes to the flow besides its parameters."""

    on_progress: OnProgress | None


_caller: ContextVar[_Caller | None] = ContextVar("caller", default=None)


@asynccontextmanager
async def caller_context(settings: Settings, on_progress: OnProgress | None) -> AsyncIterator[None]:
    """Make flows in the block use `settings` and report to `on_progress`; SIGTERM then ends the process."""
    async with Atlas.open(settings):
        token = _caller.set(_Caller(on_progress))
        try:
            yield
        finally:
            _caller.reset(token)


@asynccontextmanager
async def flow_context() -> AsyncIterator[tuple[Atlas, OnProgress | None]]:
    """Yield an Atlas and the progress callback, and show our log lines in the flow run."""
    caller = _caller.get()
    with cancelled_by_sigterm(exits=caller is not None):
        async with _atlas() as atlas:
            with _session(), _logs_shown(atlas.settings.log.level):
                yield atlas, caller.on_progress if caller else None


@contextmanager
def _session() -> Iterator[None]:
    """Put the flow run's id on events and log records."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        yield
        return
    with sessions.about(context.flow.name if context.flow else "flow", str(context.flow_run.id)):
        yield


@asynccontextmanager
async def _atlas() -> AsyncIterator[Atlas]:
    """An Atlas with the caller's settings, or with those of the environment if a worker runs the flow."""
    try:
        atlas = current()
    except NoCurrentAtlas:
        async with Atlas.open(settings) as opened:
            yield opened
    else:
        yield atlas


@contextmanager
def _logs_shown(level: str) -> Iterator[None]:
    """Send log records of atlas and maia to their run in Prefect, even those that are not printed."""
    handler = APILogHandler()
    # A thread that Prefect did not start belongs to no run.
    handler.addFilter(lambda _: FlowRunContext.get() is not None)
    loggers = [logging.getLogger(name) for name in _LOGGED]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        if logger.level == logging.NOTSET:
            logger.setLevel("DEBUG" if level == "DEBUG" else "INFO")
    try:
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(before)
