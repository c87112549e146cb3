"""Lets something happen between the steps of an agent's cycle."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from maia.cycle.agent import Agent


class Interferer:
    """Runs an agent's cycle with something done before some of its steps, by their names."""

    def __init__(self, agent: Agent[Any], **before: Callable[[Any], Awaitable[None]]) -> None:
        self.agent, self.before = agent, before

    async def __call__(self, name: str, about: object, call: Callable[[], Awaitable[Any]]) -> Any:
        if name in self.before:
            await self.before[name](about)
        return await call()

    async def cycle(self, *arguments: Any, **options: Any) -> Any:
        usual, self.agent.step = self.agent.step, self
        try:
            return await self.agent.cycle(*arguments, **options)
        finally:
            self.agent.step = usual
