"""The event log: append events, and read or follow them with a cursor that never skips one."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from pydantic import SecretBytes, SecretStr

from atlas.clock import Clock
from atlas.db import Database, Executor
from atlas.errors import DatabaseUnavailable, DataRefused

logger = logging.getLogger(__name__)

_CHANNEL = "events"
_KIND = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
_PAGE = 1000
_UNSETTLED_POLL_S = 0.5
_IDLE_POLL_S = 30
_RECONNECT_S = 1


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the log; its `id` is the cursor that continues after it."""

    id: int
    at: datetime
    kind: str
    agent: str | None
    node: str
    session: str | None
    payload: Mapping[str, Any]


class EventLog:
    """Appends events, and reads them in the order of their ids without gaps.

    An id is assigned before its transaction commits, so a higher id may become visible before a lower one. To
    keep readers from skipping the lower one, every appender holds a shared advisory lock whose key is a lower
    bound of its ids, and readers stop at the lowest bound still locked. An open transaction therefore delays
    readers, but not other appenders.
    """

    def __init__(self, db: Database, clock: Clock, *, node_id: str) -> None:
        self._db, self._clock, self._node_id = db, clock, node_id

    async def append(
        self,
        kind: str,
        payload: Mapping[str, Any],
        *,
        agent: str | None = None,
        session: str | None = None,
        executor: Executor | None = None,
    ) -> int:
        """Append one event, in the executor's transaction if one is given; returns its id."""
        [event_id] = await self.append_many(
            [(kind, payload)], agent=agent, session=session, executor=executor
        )
        return event_id

    async def append_many(
        self,
        events: Iterable[tuple[str, Mapping[str, Any]]],
        *,
        agent: str | None = None,
        session: str | None = None,
        executor: Executor | None = None,
    ) -> list[int]:
        """Append (kind, payload) pairs with the current time in one statement; returns their ids in order."""
        pairs = [(_checked(kind), _to_json(kind, payload)) for kind, payload in events]
        if not pairs:
            return []
        kinds, payloads = zip(*pairs, strict=True)
        ids: list[int] = await (executor or self._db).fetchval(
            "events.append", self._clock.now(), agent, self._node_id, session, kinds, payloads
        )
        return ids

    async def since(
        self, cursor: int, *, kinds: Iterable[str] | None = None, limit: int = _PAGE
    ) -> list[Event]:
        """At most `limit` events after a cursor (0 for all), oldest first; only of some kinds if given."""
        watermark, _ = await self._watermark()
        return await self._read(cursor, watermark, kinds, limit)

    async def latest(self, limit: int, *, kinds: Iterable[str], before: int | None = None) -> list[Event]:
        """The last `limit` events of some kinds, newest first; only those before a cursor if given."""
        watermark, _ = await self._watermark()
        if before is not None:
            watermark = min(watermark, before - 1)
        rows = await self._db.fetch("events.latest_of_kinds", watermark, [_checked(k) for k in kinds], limit)
        return [Event(*row) for row in rows]

    async def cursor(self) -> int:
        """The cursor after the last event that can be read now."""
        watermark, _ = await self._watermark()
        return watermark

    async def follow(
        self, cursor: int | None = None, *, kinds: Iterable[str] | None = None
    ) -> AsyncGenerator[Event, None]:
        """Yield events after a cursor as they are committed, reconnecting when the server restarts.

        Without a cursor, begin with events appended after the iteration starts. Close the iterator
        (contextlib.aclosing) when done.
        """
        wanted = None if kinds is None else [_checked(kind) for kind in kinds]
        if cursor is None:
            cursor = await self.cursor()
        woken = asyncio.Event()
        listener = asyncio.create_task(self._listen(woken))
        try:
            while True:
                woken.clear()
                unsettled = True
                try:
                    watermark, last_id = await self._watermark()
                    while events := await self._read(cursor, watermark, wanted, _PAGE):
                        for event in events:
                            yield event
                            cursor = event.id
                    cursor, unsettled = max(cursor, watermark), watermark < last_id
                except DatabaseUnavailable as error:
                    await _wait_to_reconnect(error)
                await _wait_for_either(listener, woken, _UNSETTLED_POLL_S if unsettled else _IDLE_POLL_S)
        finally:
            listener.cancel()
            await asyncio.wait([listener])

    async def _listen(self, woken: asyncio.Event) -> None:
        while True:
            try:
                async with aclosing(self._db.listen(_CHANNEL)) as notices:
                    async for _ in notices:
                        woken.set()
            except DatabaseUnavailable as error:
                await _wait_to_reconnect(error)

    async def _watermark(self) -> tuple[int, int]:
        row = await self._db.fetchrow("events.watermark")
        assert row is not None
        return row["watermark"], row["last_id"]

    async def _read(
        self, cursor: int, watermark: int, kinds: Iterable[str] | None, limit: int
    ) -> list[Event]:
        if kinds is None:
            rows = await self._db.fetch("events.since", cursor, watermark, limit)
        else:
            rows = await self._db.fetch("events.since_of_kinds", cursor, watermark, limit, list(kinds))
        # By position, as all statements name the columns in the order of the fields: half as dear as by name.
        return [Event(*row) for row in rows]


async def _wait_to_reconnect(error: DatabaseUnavailable) -> None:
    if not error.transient:
        raise error
    logger.warning("Following events is interrupted, reconnecting: %s", error)
    await asyncio.sleep(_RECONNECT_S)


async def _wait_for_either(listener: asyncio.Task[None], woken: asyncio.Event, timeout_s: float) -> None:
    """Wait for a notice, the listener's end or the timeout; re-raise the error that ended the listener."""
    waiter = asyncio.create_task(woken.wait())
    try:
        await asyncio.wait([waiter, listener], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
    if listener.done():
        listener.result()


def _checked(kind: str) -> str:
    if len(kind) > 100 or not _KIND.fullmatch(kind):
        raise DataRefused(f"{kind!r} is no kind of event: use dotted lower-case words, such as hunter.cycle")
    return kind


def _to_json(kind: str, payload: Mapping[str, Any]) -> str:
    try:
        return orjson.dumps(dict(payload), default=_refuse).decode()
    except TypeError as error:
        raise DataRefused(f"event {kind!r} cannot be written: {error.__cause__ or error}") from error


def _refuse(value: Any) -> Any:
    if isinstance(value, (SecretStr, SecretBytes)):
        raise TypeError("its payload contains a secret: use its fingerprint instead")
    raise TypeError(f"its payload contains a {type(value).__name__}, which JSON can't express")


def _current() -> EventLog:
    from atlas.composition import current

    return current().events


async def append(
    kind: str,
    payload: Mapping[str, Any],
    *,
    agent: str | None = None,
    session: str | None = None,
    executor: Executor | None = None,
) -> int:
    """`EventLog.append` of the current Atlas."""
    return await _current().append(kind, payload, agent=agent, session=session, executor=executor)


async def since(cursor: int, *, kinds: Iterable[str] | None = None, limit: int = _PAGE) -> list[Event]:
    """`EventLog.since` of the current Atlas."""
    return await _current().since(cursor, kinds=kinds, limit=limit)


def follow(cursor: int | None = None, *, kinds: Iterable[str] | None = None) -> AsyncGenerator[Event, None]:
    """`EventLog.follow` of the current Atlas."""
    return _current().follow(cursor, kinds=kinds)
