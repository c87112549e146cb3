"""The balancer of deployments/nginx, run by a real nginx before processes of the service and live streams."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from contextlib import AsyncExitStack

import aiohttp
import pytest
from aiohttp import web

from atlas.adapters.access import AccessDAO
from atlas.composition import Atlas
from atlas.scopes import Scope
from tests.balancing import ADVICE, balancer, free_port, has_nginx, processes

pytestmark = pytest.mark.timeout(300)

REQUESTS, AT_ONCE = 1_000, 20


KILLED_WITHIN_AN_ANSWER = """
import asyncio, json, os, signal, sys
import uvicorn
from maia.api import serving
from maia.api.connections import HttpConnection, Limits
from maia.api.measuring import Traffic

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    await send({"type": "http.response.body", "body": b"ok"})

async def main():
    listener = serving.listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    print(json.dumps({"url": url, "pid": os.getpid()}), flush=True)
    limits = Limits(head_timeout_s=60, most_connections=10, traffic=Traffic(), full=app)
    protocol = type("_Limited", (HttpConnection,), {"limits": limits})
    await uvicorn.Server(uvicorn.Config(app, http=protocol, lifespan="off")).serve(sockets=[listener])

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def _nginx_is_there() -> None:
    if not has_nginx():
        pytest.fail(ADVICE)


async def key_of(atlas: Atlas) -> str:
    dao = AccessDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    return (await dao.add("crowd", Scope.READ, 1_000_000)).get_secret_value()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/statistics"), ("GET", "/api/v1/videos"), ("GET", "/openapi.json"), ("POST", "/match")],
)
async def test_every_request_is_answered_while_a_process_ends(
    atlas: Atlas, environment: dict[str, str], method: str, path: str, end: signal.Signals
) -> None:
    key = await key_of(atlas)
    async with AsyncExitStack() as stack:
        pids = await stack.enter_async_context(processes(environment, 3))
        url = (await stack.enter_async_context(balancer([*pids]))).url
        session = await stack.enter_async_context(aiohttp.ClientSession(headers={"X-API-Key": key}))
        left, told = iter(range(REQUESTS)), Counter[str]()

        async def ask() -> None:
            for number in left:
                if number == REQUESTS // 3:
                    os.kill(next(iter(pids.values())), end)
                try:
                    body = {"context": {"agent": "hunter"}} if method == "POST" else None
                    async with session.request(method, f"{url}{path}", json=body) as answer:
                        await answer.read()
                        told[str(answer.status)] += 1
                except aiohttp.ClientError as error:
                    told[type(error).__name__] += 1

        await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
        assert told == {"200": REQUESTS}


async def test_a_process_that_is_killed_between_head_and_body_is_not_noticed(
    environment: dict[str, str],
) -> None:
    async with AsyncExitStack() as stack:
        ports = []
        for which in ("killed", "lives"):
            command = (sys.executable, "-c", KILLED_WITHIN_AN_ANSWER, which)
            ports += await stack.enter_async_context(processes(environment, 1, command))
        url = (await stack.enter_async_context(balancer(ports, workers="1"))).url
        session = await stack.enter_async_context(aiohttp.ClientSession())
        for _ in ports:
            async with session.get(url) as answer:
                assert (answer.status, await answer.read()) == (200, b"ok")


async def test_it_lets_nobody_in_without_a_key_and_keeps_metrics_of_each_process_apart(
    atlas: Atlas, environment: dict[str, str]
) -> None:
    key = await key_of(atlas)
    async with AsyncExitStack() as stack:
        pids = await stack.enter_async_context(processes(environment, 2))
        url = (await stack.enter_async_context(balancer([*pids]))).url
        session = await stack.enter_async_context(aiohttp.ClientSession())
        for _ in range(4):
            async with session.get(f"{url}/openapi.json", headers={"X-API-Key": key}) as answer:
                assert answer.status == 200
        async with session.get(f"{url}/openapi.json") as answer:
            assert answer.status == 401
        async with session.get(f"{url}/metrics", headers={"X-API-Key": key}) as answer:
            assert (answer.status, (await answer.json(content_type=None))["status"]) == (404, 404)
        async with session.get(f"{url}/healthz") as answer:
            assert answer.status == 200
        told = {}
        for port in pids:
            place = f"http://127.0.0.1:{port}/metrics?part=service"
            async with session.get(place, headers={"Authorization": f"Bearer {key}"}) as answer:
                told[port] = [line for line in (await answer.text()).splitlines() if "/openapi.json" in line]
        assert all(told.values()), "each of them answered some"


async def test_without_any_process_it_says_so() -> None:
    async with (
        balancer([free_port()]) as nginx,
        aiohttp.ClientSession() as session,
        session.get(f"{nginx.url}/patterns") as answer,
    ):
        assert (answer.status, answer.content_type) == (503, "application/problem+json")
        assert answer.headers["Retry-After"] == "5"
        assert "no process of the service answers" in (await answer.json(content_type=None))["detail"]


async def test_live_streams_pass_unheld() -> None:
    """Events arrive while their stream is open, WebSockets are upgraded, and both learn who called."""
    over = asyncio.Event()

    async def events(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(f"data: {request.headers['X-Forwarded-For']}\n\n".encode())
        await over.wait()
        return stream

    async def echo(request: web.Request) -> web.WebSocketResponse:
        channel = web.WebSocketResponse()
        await channel.prepare(request)
        async for message in channel:
            await channel.send_str(f"{request.headers['Host']} {message.data}")
        return channel

    served = web.Application()
    served.add_routes([web.get("/api/v1/events", events), web.get("/ws", echo)])
    runner = web.AppRunner(served)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with balancer([port]) as nginx, aiohttp.ClientSession() as session:
            url = nginx.url
            async with session.get(f"{url}/api/v1/events") as answer:
                assert await answer.content.readline() == b"data: 127.0.0.1\n"
            async with session.ws_connect(f"{url}/ws") as channel:
                await channel.send_str("hello")
                assert await channel.receive_str() == f"{url.removeprefix('http://')} hello"
    finally:
        over.set()
        await runner.cleanup()
