"""What every aggregate's door has: the executor of its statements, the clock, the settings."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import copy
from typing import Self

from atlas.clock import Clock
from atlas.composition import current
from atlas.config import Settings
from atlas.db import Executor, Transaction


class DAO:
    """Without an executor, clock or settings it takes those of the current Atlas."""

    def __init__(
        self,
        executor: Executor | None = None,
        *,
        clock: Clock | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._executor: Executor = executor or current().db
        self._clock = clock or current().clock
        self._settings = settings or current().settings

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Self]:
        """Yield a DAO whose statements stand or fall together; nested, it is a savepoint."""
        async with self._executor.transaction() as executor:
            bound = copy(self)
            bound._executor = executor
            yield bound

    @asynccontextmanager
    async def _atomic(self) -> AsyncIterator[Executor]:
        """The caller's transaction, or one of our own."""
        if self._alone:
            async with self._executor.transaction() as executor:
                yield executor
        else:
            yield self._executor

    @property
    def _alone(self) -> bool:
        """Whether each statement is a transaction of its own."""
        return not isinstance(self._executor, Transaction)

    @property
    def _owner(self) -> str:
        """Who holds the leases that are taken here."""
        return f"{self._settings.node_id}:{os.getpid()}"


def clean_text(text: str) -> str:
    """`text` without what PostgreSQL can't hold: no NUL, surrogates paired up or else replaced by U+FFFD."""
    return text.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
