"""Follows the change feed of patterns, once a process, for all that must know of changes at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from atlas.adapters.changes import CHANNEL, BriefPattern, ChangesDAO, PatternChange, order
from maia.api.following import POLL_S, WAITING_POLL_S, follow

if TYPE_CHECKING:
    from atlas.composition import Atlas

PAGE: Final = 500
"""So many changes are read and worked on at once: a few milliseconds."""
_BEGINNING_POLL_S: Final = 0.02


class Reader(Protocol):
    """Something that learns of changes."""

    async def begin(self) -> None:
        """Everything known so far is void: all patterns follow, and then `caught_up`."""

    async def load(self, patterns: Sequence[BriefPattern]) -> None:
        """Some of the patterns that there are at the beginning; what changes meanwhile is told by `take`."""

    async def take(self, changes: Sequence[PatternChange], cursor: str) -> None:
        """What changed up to a cursor."""

    async def caught_up(self) -> None:
        """All that was there at the beginning has been taken."""


class Feed:
    """Reads all patterns, then what changes, and gives it to the readers in their order.

    After an outage it goes on where it was; in a database that was restored it begins again.
    """

    def __init__(self, atlas: Atlas, readers: Sequence[Reader]) -> None:
        self._db, self._readers = atlas.db, readers
        self._dao = ChangesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._cursor: str | None = None
        self._frontier: tuple[int, str] | None = None
        """Up to there at least, everything must be read before the readers are complete; None once it is."""

    async def follow(self) -> None:
        """Follow until cancelled."""
        await follow(self._db, CHANNEL, "patterns", self._read, self._forget)

    def _forget(self) -> None:
        self._cursor = None

    async def _read(self) -> float:
        if self._cursor is None:
            await self._dao.settle()
            cursor = await self._dao.cursor()
            self._frontier = order(await self._dao.frontier())
            await self._load()
            self._cursor = cursor
        while True:
            part = await self._dao.patterns_since(self._cursor, PAGE)
            for reader in self._readers:
                await reader.take(part.items, part.cursor)
            self._cursor = part.cursor
            if not part.more:
                break
        if self._frontier is not None:
            if order(part.cursor) < self._frontier:
                return _BEGINNING_POLL_S
            self._frontier = None
            for reader in self._readers:
                await reader.caught_up()
        return WAITING_POLL_S if part.waiting else POLL_S

    async def _load(self) -> None:
        """Read all patterns as they are now, or a little later."""
        for reader in self._readers:
            await reader.begin()
        last = ""
        while patterns := await self._dao.page(last, PAGE):
            for reader in self._readers:
                await reader.load(patterns)
            last = patterns[-1].id
