"""Follows the change feed of the graph, once a process, and fans it out to those who listen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from atlas.adapters.claims import CHANNEL
from atlas.adapters.graph_changes import AtomChange, GraphChangesDAO
from maia.api.following import POLL_S, WAITING_POLL_S, follow
from maia.api.listening import FeedHub, message

if TYPE_CHECKING:
    from atlas.composition import Atlas

MOST_WAITING: Final = 5_000
"""A client for which more messages wait is too slow."""
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class ToldAtom:
    """A change as it is told, with the message in JSON."""

    change: AtomChange
    text: str

    @property
    def place(self) -> tuple[int, UUID]:
        return self.change.place

    @property
    def cursor(self) -> str:
        return self.change.cursor


@dataclass(frozen=True, slots=True)
class GraphInterest:
    """What a client wants to know of: atoms of these types, nodes whose names begin so, and links that are
    believed so firmly. Of a link that isn't, it is told that it is gone: it may have been told of it before.
    """

    types: frozenset[str] | None = None
    prefix: str = ""
    min_strength: float = 0.0
    min_count: float = 0.0

    def covers(self, told: ToldAtom) -> bool:
        """Whether to tell of a change."""
        change = told.change
        if self.types is not None and change.type not in self.types:
            return False
        return change.name is None or change.name.startswith(self.prefix)

    def text_of(self, told: ToldAtom) -> str:
        """What the client is told."""
        change = told.change
        is_firm = change.count >= self.min_count and change.positive >= self.min_strength * change.count
        return told.text if change.outgoing is None or is_firm else _gone_text(change)


class GraphHub(FeedHub[ToldAtom]):
    """Keeps the listeners of this process up to date."""

    def __init__(self, atlas: Atlas) -> None:
        super().__init__()
        self._atlas = atlas
        self._dao = GraphChangesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._waiting: set[asyncio.Event] = set()
        self._ended = False

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[Callable[[float], Awaitable[None]]]:
        """Notice changes from now on; yields what waits for one, or so many seconds."""
        changed = asyncio.Event()
        if self._ended:
            changed.set()
        self._waiting.add(changed)

        async def wait(seconds: float) -> None:
            try:
                async with asyncio.timeout(seconds):
                    await changed.wait()
            except TimeoutError:
                return

        try:
            yield wait
        finally:
            self._waiting.discard(changed)

    async def end_with(self, stopping: asyncio.Event) -> None:
        """Once the process stops, let nobody wait any more."""
        await stopping.wait()
        self._ended = True
        self._wake()

    async def follow(self) -> None:
        """Follow the feed until cancelled."""
        await follow(self._atlas.db, CHANNEL, "the graph", self._read, self._forget, self._wake)

    def _forget(self) -> None:
        self.cursor = None
        self._void()

    def _wake(self) -> None:
        for event in self._waiting:
            event.set()

    async def _read(self) -> float:
        """Read all there is; returns how long to wait for a notice before reading again."""
        if self.cursor is None:
            self.cursor = await self._dao.cursor()
            self.ready.set()
        elif not self._listeners:
            # Nobody is to be told of what there was until now, unless someone came meanwhile.
            cursor = await self._dao.cursor()
            if not self._listeners:
                self.cursor = cursor
                return POLL_S
        while True:
            part = await self._dao.since(self.cursor, _PAGE)
            if part.items:
                self._tell(await asyncio.to_thread(told_of, part.items), MOST_WAITING)
            self.cursor = part.cursor
            if not part.more:
                return WAITING_POLL_S if part.waiting else POLL_S


def told_of(changes: Sequence[AtomChange]) -> list[ToldAtom]:
    """Changes ready to be sent."""
    return [ToldAtom(each, _text(each)) for each in changes]


def _text(change: AtomChange) -> str:
    if change.gone_at is not None:
        return _gone_text(change)
    told = {
        "handle": str(change.handle), "type": change.type, "name": change.name,
        "outgoing": None if change.outgoing is None else [*map(str, change.outgoing)],
        "positive": change.positive, "count": change.count, "pos": change.pos, "neg": change.neg,
        "weight": change.weight, "sources": [each.name.lower() for each in change.sources if each.name],
        "seen_at": change.seen_at,
    }  # fmt: skip
    return message("atom", change.cursor, atom=told)


def _gone_text(change: AtomChange) -> str:
    return message("gone", change.cursor, atom={"handle": str(change.handle), "type": change.type})
