"""Counts which commands ran and which methods of the API were called, and writes the counts at once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from atlas.errors import AtlasError

if TYPE_CHECKING:
    from datetime import datetime

    from atlas.adapters.telemetry import TelemetryDAO, UsageKind

logger = logging.getLogger(__name__)

WRITE_TIMEOUT_S = 2.0
"""Longest time that a command waits for its counts to be written."""


@dataclass(slots=True)
class Command:
    """The command that this process runs; `counted` once it is among the counts."""

    name: str
    began_s: float
    counted: bool = False


@dataclass(slots=True)
class _Count:
    count: int = 0
    errors: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class UsageBuffer:
    """Counts that are not written yet."""

    _counts: dict[tuple[UsageKind, str], _Count] = field(default_factory=dict)

    def add(self, kind: UsageKind, name: str, seconds: float, *, failed: bool) -> None:
        """Count one use that took so long."""
        one = self._counts.setdefault((kind, name), _Count())
        one.count += 1
        one.errors += failed
        one.seconds += max(seconds, 0.0)

    def add_command(self, *, failed: bool) -> None:
        """Count the command that this process runs, if it runs one and it was not counted before."""
        command = _command.get()
        if command is not None and not command.counted:
            command.counted = True
            self.add("command", command.name, time.monotonic() - command.began_s, failed=failed)

    def __bool__(self) -> bool:
        return bool(self._counts)

    async def write(self, dao: TelemetryDAO, now: datetime) -> None:
        """Write the counts in one statement; if that fails or takes long, they are lost, which is logged."""
        from atlas.adapters.telemetry import Usage

        counts, self._counts = self._counts, {}
        used = [
            Usage(kind=kind, name=name, count=n.count, errors=n.errors, seconds=n.seconds, last_at=now)
            for (kind, name), n in counts.items()
        ]
        if (error := await attempt(dao.count_usage(used), WRITE_TIMEOUT_S)) is not None:
            logger.debug("what was used is not counted: %s", error, extra={"action": "usage_lost"})


async def attempt(work: Coroutine[Any, Any, object], limit_s: float) -> Exception | None:
    """Do what may fail, such as writing figures; returns the error if it does, or if it takes too long.

    It does not wait for what is given up: a database that hangs may not even answer the cancellation.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=limit_s)
    finally:
        if not task.done():
            task.cancel()
    if not task.done():
        return TimeoutError(f"it took longer than {limit_s:g} s")
    error = task.exception()
    if error is None or isinstance(error, AtlasError):
        return error
    raise error


_command: ContextVar[Command | None] = ContextVar("command", default=None)


@contextmanager
def command(name: str) -> Iterator[None]:
    """Let this be the command that runs in the block: the first Atlas that it closes counts it."""
    token = _command.set(Command(name, time.monotonic()))
    try:
        yield
    finally:
        _command.reset(token)
