"""How answers are written to their sockets."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from maia.api.connections import HttpConnection, Limits
from maia.api.measuring import Traffic
from maia.api.serving import allow_connections

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport that keeps each piece that is written to it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 9)})
        self.pieces: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed
        self.pieces.append(bytes(data))

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def written(app: ASGIApp, request: bytes = REQUEST, wire: Wire | None = None) -> Wire:
    """What the protocol wrote for a request, by the time that the application has done its part."""
    wire = wire or Wire()
    config = uvicorn.Config(app, log_config=None)
    config.load()
    limits = Limits(head_timeout_s=60, most_connections=1, traffic=Traffic(), full=app)
    protocol = type("_Limited", (HttpConnection,), {"limits": limits})(config, ServerState(), {})
    protocol.connection_made(wire)
    protocol.data_received(request)
    await asyncio.wait(protocol.tasks)
    await asyncio.sleep(0)
    protocol._unset_keepalive_if_required()
    return wire


async def test_head_and_body_of_an_answer_are_one_piece() -> None:
    wire = await written(PlainTextResponse("hello"))
    [answer] = wire.pieces
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nhello")


async def test_an_answer_without_body_is_sent_too() -> None:
    wire = await written(PlainTextResponse(status_code=204))
    assert b"".join(wire.pieces).startswith(b"HTTP/1.1 204 No Content\r\n")


async def test_a_stream_is_sent_as_it_comes() -> None:
    wire, sent_before = Wire(), list[int]()

    async def parts() -> AsyncIterator[bytes]:
        for part in (b"one", b"two"):
            await asyncio.sleep(0.001)
            sent_before.append(len(wire.pieces))
            yield part

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await StreamingResponse(parts())(scope, receive, send)

    await written(app, wire=wire)
    assert sent_before == [1, 2], "the head, and the first part, were on their way"
    assert b"".join(wire.pieces).endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_the_last_answer_is_sent_before_its_connection_is_closed() -> None:
    wire = await written(
        PlainTextResponse("bye"), REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    )
    assert wire.is_closed
    assert wire.pieces[0].endswith(b"bye")


def test_it_may_open_as_many_files_as_it_may_have_connections(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits = (1_024, 4_096)

    def set_limits(_: int, wanted: tuple[int, int]) -> None:
        nonlocal limits
        limits = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", set_limits)
    allow_connections(100)
    assert limits == (1_024, 4_096), "it is enough already"
    allow_connections(2_000)
    assert limits == (2_200, 4_096)
    assert not caplog.messages
    allow_connections(10_000)
    assert limits == (4_096, 4_096)
    assert "only 4096 files can be open" in caplog.messages[0]
    limits = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    allow_connections(10_000)
    assert limits == (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
