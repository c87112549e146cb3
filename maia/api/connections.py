"""Connections of clients that are slow, greedy or broken, which uvicorn would keep open, or answer unseen.

uvicorn only limits how long a connection may be idle between two requests, and only as long as nothing at all
arrives on it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from maia.api.problems import Problem

if TYPE_CHECKING:
    from asyncio import TimerHandle, Transport

    from starlette.types import ASGIApp

    from maia.api.measuring import Traffic

LONGEST_HEAD_BYTES: Final = 65_536
"""What a client may send without beginning or continuing a body: a head, or what follows a body's end."""
MOST_UNREAD_BYTES: Final = 4 * 2**20
"""A WebSocket whose client leaves more than this unread is cut: a flood of pings makes as many pongs."""

_GOING_AWAY: Final = 1001

_MALFORMED: Final = Problem(400, "this is no HTTP request: send a request as RFC 9112 describes it")
_HEAD_TOO_LARGE: Final = Problem(
    431, f"the head of the request has more than {LONGEST_HEAD_BYTES:,} bytes: send fewer or shorter headers"
)
_FULL: Final = Problem(
    503, "this process has as many connections as it takes (PLEIADES_API__MOST_CONNECTIONS): try again",
    headers={"Retry-After": "5"},
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may do to a process; `full` answers those that are one too many, and `traffic` counts."""

    head_timeout_s: float
    most_connections: int
    traffic: Traffic
    full: ASGIApp


class HttpConnection(HttpToolsProtocol):
    """A connection on which requests must begin and end in time, and heads are bounded."""

    limits: ClassVar[Limits]

    _timer: TimerHandle | None = None
    _loose_bytes = 0
    """What arrived since there was last a whole head, or some of a body."""
    _has_head = False
    """Whether the head of the request that arrives now is complete."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Whatever else in this process did to uvicorn's loggers.
        self.access_log = False
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self._loose_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
                return
        except httptools.HttpParserError:
            self._refuse("malformed", _MALFORMED)
            return
        if self._loose_bytes > LONGEST_HEAD_BYTES:
            self._refuse("too_large", _HEAD_TOO_LARGE)
        elif self._is_unused() and self.timeout_keep_alive_task is None:
            # The rest of a body that was answered before its end, or line breaks between two requests.
            self._start_timer()

    def on_message_begin(self) -> None:
        self._has_head = False
        self._start_timer()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # After a body there may be more headers, which must not look as if they had been checked.
        if not self._has_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._has_head, self._loose_bytes = True, 0
        # What is raised here is to the parser a malformed request.
        hosts, version = sum(name == b"host" for name, _ in self.headers), self.parser.get_http_version()
        if version not in ("1.0", "1.1") or hosts > 1 or (hosts == 0 and version == "1.1"):
            raise ValueError("another version, or not exactly one Host")
        self.app = self.config.loaded_app
        if self._is_full() and not self._should_upgrade():
            self.app = self.limits.full
            self.limits.traffic.refuse("too_many_connections")
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self.cycle.transport = _Gathering(self.transport, self.loop)

    def on_body(self, body: bytes) -> None:
        self._loose_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._loose_bytes = 0
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        if self._is_full():
            self._refuse("too_many_connections", _FULL)
        else:
            super().handle_websocket_upgrade()

    def _is_full(self) -> bool:
        return len(self.connections) > self.limits.most_connections

    def _is_unused(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _refuse(self, reason: str, problem: Problem) -> None:
        self._stop_timer()
        self.limits.traffic.refuse(reason, problem.status)
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(_written(problem))
        self.transport.close()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.limits.head_timeout_s, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._loose_bytes:
            # Browsers also open connections which they then don't need.
            self.limits.traffic.refuse("too_slow")
        if not self.transport.is_closing():
            self.transport.close()


class _Gathering(asyncio.Transport):
    """Sends what is written at once by one call, so that no kill comes between head and body of an answer.

    uvicorn writes them apart, and a balancer that has got a head can't ask another process any more.
    """

    __slots__ = ("_held", "_loop", "_transport")

    def __init__(self, transport: Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport, self._loop, self._held = transport, loop, b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        else:
            self._held = bytes(data)
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._flush()
        self._transport.close()


def _written(problem: Problem) -> bytes:
    """A whole answer, after which the connection ends."""
    answer = problem.response()
    head = [f"HTTP/1.1 {problem.status} {problem.title}".encode()]
    head += [name + b": " + value for name, value in answer.raw_headers]
    return b"\r\n".join([*head, b"connection: close", b"", bytes(answer.body)])


async def answer_full(scope: Any, receive: Any, send: Any) -> None:
    """Answer a request on a connection that is one too many."""
    answer = _FULL.response()
    answer.headers["Connection"] = "close"
    await answer(scope, receive, send)


class WebSocketConnection(WebSocketsSansIOProtocol):
    """Says that the service goes away when it stops, and ends connections whose client doesn't read.

    uvicorn would say that it restarts, and wait for such a client for ever.
    """

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MOST_UNREAD_BYTES:
            self.transport.abort()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            # To uvicorn a refusal would be an error of the application, which it would log.
            self.handshake_complete = True

    def shutdown(self) -> None:
        if not self.handshake_complete or self.close_sent or self.transport.is_closing():
            super().shutdown()
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": _GOING_AWAY})
        self.conn.send_close(_GOING_AWAY, "the service stops: connect again")
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        self.loop.call_later(self.close_timeout, self.transport.abort)
