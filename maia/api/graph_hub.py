"""Follows the change feed of the graph, once a process, and fans it out to those who listen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from atlas.adapters.claims import CHANNEL
from atlas.adapters.graph_changes import AtomChange, GraphChangesDAO
from atlas.errors import AtlasError, UnknownCursor
from atlas.tasks import running
from maia.api.listening import Listener, tell
from maia.api.pattern_hub import message

if TYPE_CHECKING:
    from atlas.composition import Atlas

logger = logging.getLogger(__name__)

MOST_WAITING: Final = 5_000
"""A client for which more messages wait is too slow."""
_PAGE: Final = 1_000
_POLL_S: Final = 30.0
_WAITING_POLL_S: Final = 0.2
_RECONNECT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class ToldAtom:
    """A change as it is told, with the message in JSON."""

    change: AtomChange
    text: str


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


class GraphHub:
    """Keeps the listeners of this process up to date."""

    def __init__(self, atlas: Atlas) -> None:
        self._atlas = atlas
        self._dao = GraphChangesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._listeners: set[Listener[ToldAtom]] = set()
        self._waiting: set[asyncio.Event] = set()
        self._woken, self._ended = asyncio.Event(), False
        self.cursor: str | None = None
        """Up to where the listeners have been told everything; None until it is known."""
        self.ready = asyncio.Event()

    def add(self, listener: Listener[ToldAtom]) -> None:
        """Tell a listener of what is read from now on."""
        if not self.ready.is_set():
            listener.void()
        self._listeners.add(listener)

    def remove(self, listener: Listener[ToldAtom]) -> None:
        self._listeners.discard(listener)

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
        for event in self._waiting:
            event.set()

    async def follow(self) -> None:
        """Follow the feed until cancelled."""
        listening = self._atlas.db.keep_listening(
            CHANNEL, lambda _: self._woken.set(), "changes of the graph are not heard for now"
        )
        async with running(listening):
            while True:
                self._woken.clear()
                pause_s = await self._read_or_say_why_not()
                try:
                    async with asyncio.timeout(pause_s):
                        await self._woken.wait()
                except TimeoutError:
                    continue
                for event in self._waiting:
                    event.set()

    async def _read_or_say_why_not(self) -> float:
        try:
            return await self._read()
        except UnknownCursor:
            logger.info("the database was restored or has failed over: who follows the graph begins anew")
            self.cursor = None
            self.ready.clear()
            for listener in self._listeners:
                listener.void()
            return 0.0
        except AtlasError as error:
            logger.warning("changes of the graph are not read for now: %s", error)
            return _RECONNECT_S

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
                return _POLL_S
        while True:
            part = await self._dao.since(self.cursor, _PAGE)
            if part.items:
                tell(self._listeners, await asyncio.to_thread(told_of, part.items), MOST_WAITING)
            self.cursor = part.cursor
            if not part.more:
                return _WAITING_POLL_S if part.waiting else _POLL_S


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
