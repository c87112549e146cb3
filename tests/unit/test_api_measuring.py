"""What a request adds to the figures of its process, whatever becomes of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Message, Receive, Scope, Send

from maia.api.measuring import ABORTED, NO_ROUTE, Histogram, Measuring, Traffic
from maia.stack.families import Distribution


def request(path: str, method: str = "GET", kind: str = "http") -> dict[str, Any]:
    scope: dict[str, Any] = {"type": kind, "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": [], "root_path": "", "client": ("127.0.0.1", 1), "server": ("localhost", 80)}
    scope |= {"scheme": "http", "http_version": "1.1", "state": {}, "extensions": {}}
    return scope | ({"method": method} if kind == "http" else {"subprotocols": []})


async def called(app: Any, scope: dict[str, Any], *messages: Message) -> list[Message]:
    """What an application sends, given what it receives; after that the client has left."""
    sent: list[Message] = []
    waiting = iter(messages)

    async def receive() -> Message:
        return next(waiting, {"type": f"{scope['type']}.disconnect", "code": 1005})

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def application() -> tuple[FastAPI, list[BaseRoute]]:
    """An application as ours is built, and its routes."""

    async def plain(_: Any) -> PlainTextResponse:
        return PlainTextResponse("here")

    async def style(_: Any) -> PlainTextResponse:
        return PlainTextResponse("here")

    app, router = FastAPI(), APIRouter()

    @router.get("/patterns/{name}")
    async def pattern(name: str) -> dict[str, str]:
        return {"name": name}

    @router.websocket("/ws")
    async def live(channel: WebSocket) -> None:
        await channel.accept()
        await channel.receive_text()

    router.add_route("/plain/{name:path}", plain)
    router.mount("/static", Router([Route("/{file}", style)]))
    app.include_router(router)
    return app, [*app.routes, *router.routes]


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/patterns/7f", "/patterns/{name}"),
        ("/plain/a/b", "/plain/{name}"),
        ("/static/x.css", "/static/{file}"),
        ("/openapi.json", "/openapi.json"),
        ("/nothing", NO_ROUTE),
    ],
)
async def test_a_request_is_told_by_the_template_of_its_route(path: str, template: str) -> None:
    app, routes = application()
    traffic = Traffic()
    await called(Measuring(app, traffic, routes), request(path), {"type": "http.request"})
    [(route, method, _)] = traffic.requests
    assert (route, method) == (template, "GET")
    assert traffic.in_progress == 0


async def test_bodies_are_measured_both_ways() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(await Request(scope, receive).body())(scope, receive, send)

    traffic = Traffic()
    parts = [
        {"type": "http.request", "body": body, "more_body": body == b"four"} for body in (b"four", b"five5")
    ]
    await called(Measuring(echo, traffic, ()), request("/", "POST"), *parts)
    samples = traffic.samples()
    figures = ("request_bytes", "response_bytes", "request_seconds")
    found = [samples[f"pleiades_http_{figure}"] for figure in figures]
    assert [[labels for labels, _ in values] for values in found] == [[(NO_ROUTE, "POST")]] * 3
    sizes = [value for values in found for _, value in values if isinstance(value, Distribution)]
    assert [(size.count, size.total) for size in sizes[:2]] == [(1, 9), (1, 9)]
    assert sizes[2].count == 1


async def test_a_websocket_is_a_stream_while_it_is_open() -> None:
    traffic = Traffic()
    seen: list[tuple[int, int]] = []
    app, routes = application()

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        async def noting() -> Message:
            seen.append((traffic.in_progress, traffic.streams["websocket"]))
            return await receive()

        await app(scope, noting, send)

    messages = ({"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"})
    await called(Measuring(watched, traffic, routes), request("/ws", kind="websocket"), *messages)
    assert seen == [(1, 0), (0, 1)]
    assert traffic.requests == {("/ws", "GET", "101"): 1}
    assert (traffic.in_progress, traffic.streams["websocket"]) == (0, 0)
    # How long somebody listened says nothing of how fast we answer.
    assert traffic.samples()["pleiades_http_request_seconds"] == []


async def test_a_websocket_that_is_refused_is_a_403() -> None:
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close", "code": 1008})

    traffic = Traffic()
    await called(Measuring(refusing, traffic, ()), request("/ws", kind="websocket"))
    assert traffic.requests == {(NO_ROUTE, "GET", "403"): 1}
    assert traffic.in_progress == 0


async def test_events_are_a_stream_that_ends_even_if_it_fails() -> None:
    traffic = Traffic()

    async def events(scope: Scope, receive: Receive, send: Send) -> None:
        async def content() -> Any:
            yield b"data: 1\n\n"
            assert traffic.streams["sse"] == 1
            raise ConnectionResetError

        await StreamingResponse(content(), media_type="text/event-stream")(scope, receive, send)

    async def receive() -> Message:
        return await asyncio.Future()

    async def send(_: Message) -> None:
        await asyncio.sleep(0)

    with pytest.raises(ConnectionResetError):
        await Measuring(events, traffic, ())(request("/events"), receive, send)
    assert (traffic.in_progress, traffic.streams["sse"]) == (0, 0)
    assert traffic.requests == {(NO_ROUTE, "GET", "200"): 1}


async def test_a_caller_that_leaves_before_the_answer_is_told_apart() -> None:
    async def giving_up(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    traffic = Traffic()
    await called(Measuring(giving_up, traffic, ()), request("/slow"))
    assert traffic.requests == {(NO_ROUTE, "GET", ABORTED): 1}


async def test_refusals_are_summed_by_reason() -> None:
    traffic = Traffic()
    for status, count in ((401, 2), (403, 1), (413, 3), (429, 5), (200, 9)):
        for _ in range(count):
            traffic.count("/federation/status", "GET", status)
    traffic.refuse("malformed", 400)
    traffic.refuse("too_slow")
    samples = traffic.samples()
    refused = {labels[0]: value for labels, value in samples["pleiades_http_refused_total"]}
    assert refused == {
        "unauthenticated": 2, "forbidden": 1, "too_large": 3, "too_slow": 1, "malformed": 1,
        "too_many_connections": 0,
    }  # fmt: skip
    assert traffic.requests[NO_ROUTE, "other", "400"] == 1
    assert samples["pleiades_http_rate_limited_total"] == [((), 5.0)]


def test_a_histogram_counts_what_is_at_most_each_bound() -> None:
    histogram = Histogram((1.0, 10.0))
    for value in (0.5, 1.0, 1.1, 10.0, 99.0):
        histogram.add(value)
    assert histogram.distribution() == Distribution({1.0: 2.0, 10.0: 4.0}, 5.0, pytest.approx(111.6))
