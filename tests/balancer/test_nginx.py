"""The balancer of deployments/nginx, run by a real nginx before processes of the service and live streams."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from atlas.adapters.access import AccessDAO
from atlas.composition import Atlas
from atlas.scopes import Scope

pytestmark = pytest.mark.timeout(300)

CONFIGURED = Path(__file__).resolve().parent.parent.parent / "deployments/nginx/nginx.conf"
REQUESTS, AT_ONCE = 1_000, 20

Balance = Callable[[Sequence[int]], Awaitable[str]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def balance(tmp_path: Path) -> AsyncIterator[Balance]:
    """Starts nginx before processes at these ports of this machine; returns its URL."""
    if shutil.which("nginx") is None:
        pytest.fail("this needs nginx; on Debian: apt-get install nginx-light")
    async with AsyncExitStack() as stack:

        async def start(ports: Sequence[int]) -> str:
            folder, port = tmp_path / "nginx", free_port()
            folder.mkdir()
            text = CONFIGURED.read_text("utf-8")
            assert text.count("listen 8080;") == 1
            (folder / "nginx.conf").write_text(text.replace("listen 8080;", f"listen 127.0.0.1:{port};"))
            nodes = [f"server 127.0.0.1:{each} max_fails=1 fail_timeout=5s;\n" for each in ports]
            (folder / "nodes.conf").write_text("".join(nodes))
            command = ("nginx", "-p", f"{folder}/", "-c", str(folder / "nginx.conf"), "-e", "stderr")
            process = subprocess.Popen([*command, "-g", "daemon off;"])
            stack.callback(process.wait)
            stack.callback(process.terminate)
            await until_it_listens(port)
            return f"http://127.0.0.1:{port}"

        yield start


async def until_it_listens(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


@asynccontextmanager
async def processes(environment: dict[str, str], count: int) -> AsyncIterator[dict[int, int]]:
    """Processes of the service over one database; yields the id of each by its port."""
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "maia", "api", "--port", "0", "--json",
            env=environment, stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(count)
    ]  # fmt: skip
    try:
        found = {}
        for process in started:
            assert process.stdout is not None
            serving = json.loads(await process.stdout.readline())
            found[int(serving["url"].rpartition(":")[2])] = serving["pid"]
        yield found
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def test_every_request_is_answered_while_a_process_is_killed(
    atlas: Atlas, environment: dict[str, str], balance: Balance
) -> None:
    dao = AccessDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    key = (await dao.add("crowd", Scope.READ, 1_000_000)).get_secret_value()
    async with processes(environment, 3) as pids, aiohttp.ClientSession() as session:
        url = await balance(list(pids))
        statuses: Counter[int] = Counter()
        left, cut_off = iter(range(REQUESTS)), 0

        async def answered() -> int:
            async with session.get(f"{url}/openapi.json", headers={"X-API-Key": key}) as answer:
                await answer.read()
                return answer.status

        async def ask() -> None:
            nonlocal cut_off
            for number in left:
                if number == REQUESTS // 3:
                    os.kill(next(iter(pids.values())), signal.SIGKILL)
                try:
                    statuses[await answered()] += 1
                except aiohttp.ClientPayloadError:
                    # nginx can't begin an answer anew that it has begun to pass on; its caller can.
                    cut_off += 1
                    statuses[await answered()] += 1

        await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
        assert statuses == {200: REQUESTS}
        assert cut_off < AT_ONCE, "at most those that the killed process was sending"

        # Nobody gets in without a key by coming through it, and the metrics are each process's own.
        async with session.get(f"{url}/openapi.json") as answer:
            assert answer.status == 401
        async with session.get(f"{url}/metrics", headers={"X-API-Key": key}) as answer:
            assert (answer.status, (await answer.json(content_type=None))["status"]) == (404, 404)
        async with session.get(f"{url}/healthz") as answer:
            assert answer.status == 200
        told = {}
        for port in list(pids)[1:]:
            place = f"http://127.0.0.1:{port}/metrics?part=service"
            async with session.get(place, headers={"Authorization": f"Bearer {key}"}) as answer:
                told[port] = [line for line in (await answer.text()).splitlines() if "/openapi.json" in line]
        assert all(told.values()), "each of the others answered some"


async def test_without_any_process_it_says_so(balance: Balance) -> None:
    url = await balance([free_port()])
    async with aiohttp.ClientSession() as session, session.get(f"{url}/patterns") as answer:
        assert (answer.status, answer.content_type) == (503, "application/problem+json")
        assert answer.headers["Retry-After"] == "5"
        assert "no process of the service answers" in (await answer.json(content_type=None))["detail"]


async def test_live_streams_pass_unheld(balance: Balance) -> None:
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
        url = await balance([port])
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}/api/v1/events") as answer:
                assert await answer.content.readline() == b"data: 127.0.0.1\n"
            async with session.ws_connect(f"{url}/ws") as channel:
                await channel.send_str("hello")
                assert await channel.receive_str() == f"{url.removeprefix('http://')} hello"
    finally:
        over.set()
        await runner.cleanup()
