"""Runs the steps of a cycle as Prefect tasks, without retries, caching or stored results."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, Generic, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

T = TypeVar("T")


class _OpaqueStep(Generic[T]):
    """Hides a step and its result from Prefect; its text says what the step is about.

    Prefect traverses the parameters and results of tasks. For a page of videos that would take ten times as
    long as everything else it does for a task. It can't look into this class.
    """

    __slots__ = ("about", "call", "result")

    def __init__(self, about: object, call: Callable[[], Awaitable[T]]) -> None:
        self.about, self.call = about, call
        self.result: T

    def __str__(self) -> str:
        return str(self.about)

    async def run(self) -> None:
        self.result = await self.call()


async def as_task(name: str, about: object, call: Callable[[], Awaitable[T]]) -> T:
    """Run a step as a task, whose run is named after the step and what it is about."""
    step = _OpaqueStep(about, call)
    await _task_named(name)(step)
    return step.result


@cache
def _task_named(name: str) -> Task[[_OpaqueStep[Any]], Any]:
    async def run(step: _OpaqueStep[Any]) -> None:
        await step.run()

    return task(name=name, task_run_name=f"{name} {{step}}", cache_policy=NO_CACHE, persist_result=False)(run)
