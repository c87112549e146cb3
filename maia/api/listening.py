"""Listeners of a feed: each hears what it asked for, until it has fallen too far behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import orjson

News = TypeVar("News")


class Listener(Generic[News]):
    """A client that hears of changes as they come, until it has fallen too far behind and is `cut`."""

    def __init__(self, covers: Callable[[News], bool]) -> None:
        self.covers = covers
        self.waiting: list[News] = []
        self.has_news = asyncio.Event()
        self.cut = asyncio.Event()
        self.is_void = False
        """Whether the feed began anew, so that cursors are worth nothing any more."""

    async def next(self) -> list[News]:
        """What came since it last asked; waits if there is nothing."""
        await self.has_news.wait()
        self.has_news.clear()
        taken, self.waiting = self.waiting, []
        return taken

    def void(self) -> None:
        """All that it knows is void."""
        self.is_void = True
        self.has_news.set()


class FeedHub(Generic[News]):
    """The listeners of this process to a feed."""

    def __init__(self) -> None:
        self._listeners: set[Listener[News]] = set()
        self.cursor: str | None = None
        """Up to where the listeners have been told everything; None until it is known."""
        self.ready = asyncio.Event()

    def add(self, listener: Listener[News]) -> None:
        """Tell a listener of what is read from now on."""
        if not self.ready.is_set():
            listener.void()
        self._listeners.add(listener)

    def remove(self, listener: Listener[News]) -> None:
        self._listeners.discard(listener)

    def _void(self) -> None:
        """All that listeners know is void."""
        self.ready.clear()
        for listener in self._listeners:
            listener.void()

    def _tell(self, news: Sequence[News], most_waiting: int) -> None:
        """Give each listener what it wants to hear, and cut those for which more waits."""
        for listener in self._listeners:
            wanted = [each for each in news if listener.covers(each)]
            if not wanted or listener.cut.is_set():
                continue
            listener.waiting += wanted
            if len(listener.waiting) > most_waiting:
                listener.cut.set()
                listener.waiting.clear()
            listener.has_news.set()


def message(kind: str, cursor: str, **rest: Any) -> str:
    """A message to a client, in JSON."""
    return orjson.dumps({"cursor": cursor, "kind": kind, **rest}).decode()
