"""Listeners of a feed: each hears what it asked for, until it has fallen too far behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

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


def tell(listeners: Iterable[Listener[News]], news: Sequence[News], most_waiting: int) -> None:
    """Give each listener what it wants to hear, and cut those for which more waits."""
    for listener in listeners:
        wanted = [each for each in news if listener.covers(each)]
        if not wanted or listener.cut.is_set():
            continue
        listener.waiting += wanted
        if len(listener.waiting) > most_waiting:
            listener.cut.set()
            listener.waiting.clear()
        listener.has_news.set()
