"""Answers that are kept for a moment: whoever asks the same meanwhile shares one computation."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from maia.api.problems import OF_CALLERS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

FRESH_S: Final = 2.0
STALE_S: Final = 10.0
_MOST_KEPT: Final = 256

T = TypeVar("T")


@dataclass(slots=True)
class _Entry:
    value: Any = None
    made_at_s: float = float("-inf")
    making: asyncio.Task[Any] | None = None


class Kept:
    """Keeps the answers asked for last, each by a key that says all it depends on.

    A fresh one is given as it is. A stale one is given once more while it is made anew. All that wait for the
    same one wait for one computation, which goes on if they leave. What fails is not kept.
    """

    def __init__(self, most: int = _MOST_KEPT, now_s: Callable[[], float] = time.monotonic) -> None:
        self._most, self._now_s = most, now_s
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    async def get(
        self,
        key: Hashable,
        make: Callable[[], Awaitable[T]],
        *,
        fresh_s: float = FRESH_S,
        stale_s: float = STALE_S,
    ) -> T:
        """The answer for a key, made if none is kept that is at most `stale_s` old."""
        entry = self._entries.setdefault(key, _Entry())
        self._entries.move_to_end(key)
        while len(self._entries) > self._most:
            self._entries.popitem(last=False)
        age_s = self._now_s() - entry.made_at_s
        if age_s > fresh_s and entry.making is None:
            entry.making = asyncio.ensure_future(self._make(key, entry, make))
            entry.making.add_done_callback(_note_failure)
        if age_s <= stale_s or entry.making is None:
            return cast(T, entry.value)
        return cast(T, await asyncio.shield(entry.making))

    async def _make(self, key: Hashable, entry: _Entry, make: Callable[[], Awaitable[T]]) -> T:
        try:
            entry.value = value = await make()
            entry.made_at_s = self._now_s()
        finally:
            entry.making = None
            if entry.made_at_s == float("-inf"):
                self._entries.pop(key, None)
        return value

    def forget(self) -> None:
        """Forget all answers, because something was changed."""
        self._entries.clear()

    async def close(self) -> None:
        """End what is still being made."""
        making = [entry.making for entry in self._entries.values() if entry.making is not None]
        for task in making:
            task.cancel()
        if making:
            await asyncio.wait(making)


class Forgetting:
    """Forgets what is kept before a request that may have changed something is answered.

    Whoever acts then sees what they did. Other processes' answers are a moment older.
    """

    def __init__(self, app: ASGIApp, kept: Callable[[], Kept]) -> None:
        self._app, self._kept = app, kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def forgetting(message: Message) -> None:
            if message["type"] == "http.response.start" and scope.get("state", {}).get("may_change"):
                self._kept().forget()
            await send(message)

        reads = scope["type"] != "http" or scope["method"] in ("GET", "HEAD")
        await self._app(scope, receive, send if reads else forgetting)


def _note_failure(task: asyncio.Task[Any]) -> None:
    # Whoever waits for it is told, but while a stale one is given nobody waits.
    if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, OF_CALLERS):
        logger.warning("an answer could not be made: %s", error)
