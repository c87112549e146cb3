"""The base class of the DAOs, with executor, clock, settings and transactions; and JSON for PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from copy import copy
from typing import Any, Self

import orjson

from atlas.clock import Clock
from atlas.composition import current
from atlas.config import Settings
from atlas.db import Executor, Transaction
from atlas.errors import DataRefused
from atlas.queries import clean_text


class DAO:
    """Executor, clock and settings default to those of the current Atlas."""

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
        """Yield a DAO whose statements run in one transaction; a nested one is a savepoint."""
        async with self._executor.transaction() as executor:
            yield self._on(executor)

    @asynccontextmanager
    async def one_moment(self) -> AsyncIterator[Self]:
        """Yield a DAO whose statements all see the same moment, in a transaction of its own."""
        async with self.transaction() as dao:
            await dao._executor.execute("graph.one_moment")
            yield dao

    def joining(self, other: DAO) -> Self:
        """This DAO, but running in another DAO's transaction."""
        return self._on(other._executor)

    def _on(self, executor: Executor) -> Self:
        bound = copy(self)
        bound._executor = executor
        return bound

    @asynccontextmanager
    async def _atomic(self) -> AsyncIterator[Executor]:
        """The caller's transaction if there is one, or else a new one."""
        if self._autocommits:
            async with self._executor.transaction() as executor:
                yield executor
        else:
            yield self._executor

    @property
    def _autocommits(self) -> bool:
        """Whether each statement runs in a transaction of its own."""
        return not isinstance(self._executor, Transaction)

    @property
    def _owner(self) -> str:
        """The name of this process in the leases that it takes."""
        return f"{self._settings.node_id}:{os.getpid()}"


def json_text(value: Any) -> str:
    """The value as JSON, with text that PostgreSQL can't store cleaned; DataRefused if it isn't JSON."""
    try:
        payload = orjson.dumps(value)
        if rb"\u0000" not in payload:
            return payload.decode()
        return orjson.dumps(_clean(value)).decode()
    except TypeError as error:
        if "surrogate" not in str(error):
            raise DataRefused(f"a value can't be stored: {error}") from error
        return orjson.dumps(_clean(value)).decode()


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return value
