"""Step runners: a cycle runs each step through one, so that flows can show steps and tests can interfere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class StepRunner(Protocol):
    """Runs one step of a cycle. `name` says what it does, `about` what to."""

    async def __call__(self, name: str, about: object, call: Callable[[], Awaitable[T]]) -> T: ...


async def plain(name: str, about: object, call: Callable[[], Awaitable[T]]) -> T:  # noqa: ARG001
    """Just run the step."""
    return await call()
