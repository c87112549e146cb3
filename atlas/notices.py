"""The notices that PostgreSQL sends (LISTEN, NOTIFY): one connection for all that listen in a process."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, Any, Final

from atlas.connections import DRIVER_ERRORS

if TYPE_CHECKING:
    from atlas.connections import Connection
    from atlas.errors import DatabaseError

HEARTBEAT_S: Final = 30
MOST_QUEUED: Final = 10_000

Connect = Callable[[], "AbstractAsyncContextManager[Connection]"]
Wrap = Callable[[str, Exception, bool], "DatabaseError"]
"""Makes our error of what was done, the driver's error, and whether the connection is gone."""


class Switchboard:
    """Gives every listener the notices of its channel; holds a connection as long as there is any."""

    def __init__(self, connect: Connect, wrap: Wrap) -> None:
        self._connect, self._wrap = connect, wrap
        self._line: _Line | None = None

    async def listen(self, channel: str) -> AsyncGenerator[str, None]:
        """Yield the payloads; an empty one first, and whenever some may have been missed."""
        line = self._line
        if line is None or line.has_failed:
            line = self._line = _Line(self._connect, self._wrap)
        listener = line.join(channel)
        try:
            while True:
                yield await listener.next()
        finally:
            if line.leave(listener):
                if self._line is line:
                    self._line = None
                await line.close()


class _Listener:
    """The notices of one listener; if too many wait, one empty payload replaces them all."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.hears = False
        """Whether it was told, by an empty payload, that it is listening."""
        self._waiting: asyncio.Queue[str | Exception] = asyncio.Queue()

    def put(self, payload: str | Exception) -> None:
        if self._waiting.qsize() >= MOST_QUEUED:
            while not self._waiting.empty():
                self._waiting.get_nowait()
            payload = payload if isinstance(payload, Exception) else ""
        self._waiting.put_nowait(payload)

    async def next(self) -> str:
        payload = await self._waiting.get()
        if isinstance(payload, Exception):
            raise payload
        return payload


class _Line:
    """A connection that is made anew when it breaks; if it can't be, all listeners get the error."""

    def __init__(self, connect: Connect, wrap: Wrap) -> None:
        self._connect, self._wrap = connect, wrap
        self._listeners: defaultdict[str, list[_Listener]] = defaultdict(list)
        self._woken = asyncio.Event()
        self.has_failed = False
        self._keeping = asyncio.create_task(self._keep(), name="listen")

    def join(self, channel: str) -> _Listener:
        listener = _Listener(channel)
        self._listeners[channel].append(listener)
        self._woken.set()
        return listener

    def leave(self, listener: _Listener) -> bool:
        """Whether nobody is left."""
        remaining = self._listeners[listener.channel]
        remaining.remove(listener)
        if not remaining:
            del self._listeners[listener.channel]
        self._woken.set()
        return not self._listeners

    async def close(self) -> None:
        self._keeping.cancel()
        await asyncio.wait([self._keeping])

    async def _keep(self) -> None:
        try:
            while True:
                async with self._connect() as connection:
                    await self._use(connection)
                for each in self._all():
                    each.hears = False
        except Exception as error:  # noqa: BLE001 - all that listen are told
            self.has_failed = True
            for each in self._all():
                each.put(error)

    async def _use(self, connection: Connection) -> None:
        """Pass on what is heard until the connection is gone, which a heartbeat detects if nothing is."""
        connection.add_termination_listener(lambda _: self._woken.set())
        heard: set[str] = set()
        while not connection.is_closed():
            self._woken.clear()
            await self._tune(connection, heard)
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._woken.wait()
            except TimeoutError:
                try:
                    await connection.execute("SELECT 1")
                except DRIVER_ERRORS:
                    return

    async def _tune(self, connection: Connection, heard: set[str]) -> None:
        """Listen on the channels that are wanted now, and on no others."""
        for channel in sorted(heard - self._listeners.keys()):
            with suppress(*DRIVER_ERRORS):
                await connection.remove_listener(channel, self._hear)
            heard.discard(channel)
        for channel in sorted(self._listeners.keys() - heard):
            try:
                await connection.add_listener(channel, self._hear)
            except DRIVER_ERRORS as error:
                raise self._wrap(f"LISTEN {channel}", error, connection.is_closed()) from error
            heard.add(channel)
        for each in self._all():
            if each.channel in heard and not each.hears:
                each.hears = True
                each.put("")

    def _hear(self, _connection: Any, _pid: int, channel: str, payload: object) -> None:
        for each in self._listeners.get(channel, ()):
            # Whoever isn't told yet that it listens, will be, and then reads everything.
            if each.hears:
                each.put(str(payload))

    def _all(self) -> Iterable[_Listener]:
        return [each for listeners in self._listeners.values() for each in listeners]
