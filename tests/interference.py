"""Lets something happen between the steps of an agent's cycle, or fail while it stores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from atlas.adapters.patterns import Model, PatternsDAO
from atlas.errors import DatabaseUnavailable
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


@contextmanager
def database_lost_at_third_page() -> Iterator[None]:
    """The database goes away when the learner has stored what it learnt of two pages; what is done fails."""
    store, calls = PatternsDAO.save_models, 0

    async def fail_once(self: PatternsDAO, models: Sequence[Model]) -> None:
        nonlocal calls
        await store(self, models)
        calls += 1
        if calls == 3:
            raise DatabaseUnavailable("the database went away")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(DatabaseUnavailable):
        patch.setattr(PatternsDAO, "save_models", fail_once)
        yield
