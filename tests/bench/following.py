"""Clients that follow the patterns by WebSocket, in a process of their own.

`python -m tests.bench.following` takes a job on the first line of stdin, prints "ready" once all have
subscribed, and listens until stdin ends; then it prints when each client heard of each pattern, by the
monotonic clock that processes share.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import struct
import sys
import time
from collections import defaultdict
from typing import Any, Final, cast

import uvloop

_SUBSCRIBE: Final = b'{"subscribe": {}}'
_AT_ONCE: Final = 50
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


def frame(opcode: int, content: bytes) -> bytes:
    """A short frame of a client, with a mask that changes nothing."""
    assert len(content) < 126
    return bytes((0x80 | opcode, 0x80 | len(content))) + bytes(4) + content


class Follower(asyncio.Protocol):
    """One client; it reads frames as RFC 6455 describes them."""

    def __init__(self, request: bytes, heard: dict[str, list[float]]) -> None:
        self._request, self._heard = request, heard
        self._received = bytearray()
        self._is_upgraded = False
        self.subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed_with: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of it.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        if self.closed_with is None:
            self.closed_with = 0
        if not self.subscribed.done():
            self.subscribed.set_exception(ConnectionError(f"closed with {self.closed_with} {error or ''}"))

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        self._received += data
        if not self._is_upgraded and not self._upgrade():
            return
        while (found := self._frame()) is not None:
            self._take(*found, now_s)

    def _upgrade(self) -> bool:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        if self._received[9:12] != b"101":
            raise RuntimeError(f"no WebSocket: {bytes(self._received[:500])!r}")
        del self._received[: end + 4]
        self._is_upgraded = True
        self._transport.write(frame(_TEXT, _SUBSCRIBE))
        return True

    def _frame(self) -> tuple[int, bytes] | None:
        received = self._received
        if len(received) < 2:
            return None
        length, begin = received[1] & 0x7F, 2
        if length >= 126:
            form = ">H" if length == 126 else ">Q"
            begin += struct.calcsize(form)
            if len(received) < begin:
                return None
            [length] = struct.unpack_from(form, received, 2)
        if len(received) < begin + length:
            return None
        opcode, content = received[0] & 0x0F, bytes(received[begin : begin + length])
        del received[: begin + length]
        return opcode, content

    def _take(self, opcode: int, content: bytes, now_s: float) -> None:
        if opcode == _PING:
            self._transport.write(frame(_PONG, content))
        elif opcode == _CLOSE:
            self.closed_with = int.from_bytes(content[:2], "big")
            self._transport.close()
        elif b'"kind":"subscribed"' in content:
            self.subscribed.set_result(None)
        elif (at := content.find(b'"id":"')) >= 0:
            self._heard[content[at + 6 : at + 38].decode()].append(now_s)


async def follow(job: dict[str, Any]) -> None:
    """Connect all clients, say so, and listen until stdin ends."""
    host, port = job["host"], job["port"]
    request = (
        f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nX-API-Key: {job['key']}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ).encode()
    heard: dict[str, list[float]] = defaultdict(list)
    loop, followers = asyncio.get_running_loop(), list[Follower]()
    for first in range(0, job["clients"], _AT_ONCE):
        some = [Follower(request, heard) for _ in range(first, min(first + _AT_ONCE, job["clients"]))]
        for each in some:
            await loop.create_connection(lambda each=each: each, host, port)  # type: ignore[misc]
        await asyncio.gather(*(each.subscribed for each in some))
        followers += some
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    closed = [each.closed_with for each in followers if each.closed_with is not None]
    json.dump({"heard": heard, "closed": closed}, sys.stdout)
    sys.stdout.flush()
    # Closing a thousand connections one by one would take longer than they were open.
    os._exit(0)


def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvloop.run(follow(json.loads(sys.stdin.readline())))


if __name__ == "__main__":
    main()
