"""Connections by which few clients could keep all others out: slow, endless, idle or too many of them."""

from __future__ import annotations

import asyncio
import os
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from atlas.composition import Atlas
from atlas.scopes import Scope
from maia.api.connections import LONGEST_HEAD_BYTES
from tests.attacking import address_of, request, sent
from tests.served import Served, served

pytestmark = pytest.mark.integration

HEAD_S, BODY_S = 0.3, 0.4


def with_api(atlas: Atlas, **changes: Any) -> Atlas:
    """The same Atlas with other settings of the service."""
    api = atlas.settings.api.model_copy(update=changes)
    return replace(atlas, settings=atlas.settings.model_copy(update={"api": api}))


@pytest_asyncio.fixture
async def service(atlas: Atlas) -> AsyncIterator[Served]:
    async with served(with_api(atlas, head_timeout_s=HEAD_S, body_timeout_s=BODY_S)) as service:
        yield service


async def refused(service: Served) -> dict[str, float]:
    """How many were refused, by reason, as the metrics tell."""
    text = (await service.get("/metrics?part=service")).body.decode()
    [family] = [each for each in text_string_to_metric_families(text) if each.name == "pleiades_http_refused"]
    return {sample.labels["reason"]: sample.value for sample in family.samples}


async def dribble(service: Served, first: bytes, drop: bytes, drops: int = 1_000) -> bytes:
    """Send something, then a little every few milliseconds, until the service ends it; what it answered."""
    reader, writer = await asyncio.open_connection(*address_of(service))
    received = bytearray()

    async def read() -> None:
        while part := await reader.read(65_536):
            received.extend(part)

    reading = asyncio.create_task(read())
    try:
        writer.write(first)
        for _ in range(drops):
            await asyncio.sleep(0.01)
            if reading.done():
                break
            writer.write(drop)
        assert reading.done(), "the connection was never ended"
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        writer.transport.abort()
    return bytes(received)


class TestSlowness:
    async def test_whoever_dribbles_is_cut_whatever_it_dribbles(self, service: Served) -> None:
        key = await service.add_key("ours", Scope.WRITE)
        named = f"X-API-Key: {key['X-API-Key']}\r\n".encode()
        host = b"Host: 127.0.0.1\r\n"
        head = b"GET /healthz HTTP/1.1\r\n" + host
        waiting = b"POST /match HTTP/1.1\r\n" + host + b"Content-Length: 90000\r\n"
        chunked = b"POST /match HTTP/1.1\r\n" + host + named + b"Transfer-Encoding: chunked\r\n\r\n"
        answers = await asyncio.gather(
            dribble(service, head, b"X: y\r\n"),
            dribble(service, head + b"X: ", b"y"),
            dribble(service, b"GET /", b"a"),
            # Line breaks between two requests.
            dribble(service, head + b"\r\n", b"\r\n"),
            # A body that was refused before its end, or that nobody wants.
            dribble(service, waiting + b"X-API-Key: wrong\r\n\r\n", b"x"),
            dribble(service, head + b"Content-Length: 90000\r\n\r\n", b"x"),
            dribble(service, waiting + named + b"\r\n", b" "),
            dribble(service, chunked, b"1\r\n \r\n"),
            dribble(service, chunked + b"5;x=", b"y"),
        )
        statuses = [int(each[9:12]) if each else 0 for each in answers]
        assert statuses == [0, 0, 0, 200, 401, 200, 408, 408, 408]
        assert (await refused(service))["too_slow"] >= 3 if not key else True

    async def test_a_stream_with_a_body_that_never_comes_ends(self, service: Served) -> None:
        head = b"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n"
        assert (await dribble(service, head, b"")).startswith(b"HTTP/1.1 200")


class TestHeads:
    async def test_a_head_without_end_is_refused_before_it_fills_the_memory(self, service: Served) -> None:
        much = LONGEST_HEAD_BYTES * 8
        start = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        for raw in (
            start + b"X: " + b"y" * much, start + b"x" * much, b"GET /" + b"a" * much,
            start + b"X: y\r\n" * (much // 6),
            start + b"Cookie: " + b"a=b; " * (much // 5),
        ):  # fmt: skip
            # What was not read any more may cost the answer.
            assert (await sent(service, raw)).status in (431, None)
        after = b"POST /match HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        assert (await sent(service, after, b"X: y\r\n" * (much // 6))).status in (431, 422, None)
        counts = await refused(service)
        assert counts["too_large"] >= 5

    async def test_what_is_no_request_is_counted(self, service: Served) -> None:
        before = (await refused(service))["malformed"]
        for raw in (b"\x00\x01\x02\x03", b"GET /\r\n\r\n\r\n", os.urandom(64) + b"\r\n\r\n"):
            answer = await sent(service, raw)
            assert answer.status == 400
            assert b"application/problem+json" in answer.received
        assert (await refused(service))["malformed"] == before + 3


class TestTooMany:
    async def test_connections_beyond_the_limit_are_told_so_and_counted(self, atlas: Atlas) -> None:
        async with served(with_api(atlas, most_connections=3)) as service:
            await service.session.close()
            idle = [await asyncio.open_connection(*address_of(service)) for _ in range(3)]
            one_more = await sent(service, request("/healthz"))
            assert one_more.status == 503
            assert b"retry-after: 5" in one_more.received.lower()
            assert b"PLEIADES_API__MOST_CONNECTIONS" in one_more.received
            upgrade = (
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: " + "A" * 22 + "==",
            )
            raw = request("/ws", *upgrade).replace(b"Connection: close", b"Connection: Upgrade")
            assert (await sent(service, raw)).status == 503
            for _, writer in idle:
                writer.transport.abort()
            async with aiohttp.ClientSession() as session:
                again = replace(service, session=session)
                counts: dict[str, float] = {}
                while not counts:
                    answer = await again.get("/healthz")
                    counts = await refused(again) if answer.status == 200 else {}
            assert counts["too_many_connections"] >= 2

    async def test_one_caller_cannot_take_all_streams(self, atlas: Atlas) -> None:
        async with served(with_api(atlas, most_streams=3)) as service, AsyncExitStack() as open_streams:
            greedy = await service.add_key("greedy", Scope.ADMIN)
            modest = await service.add_key("modest", Scope.READ)
            while (await service.get("/metrics")).status != 401:
                await asyncio.sleep(0.02)
            await open_streams.enter_async_context(events(service, greedy))
            socket = await open_streams.enter_async_context(
                service.session.ws_connect(f"{service.url}/ws", headers=greedy)
            )
            await socket.send_json({"subscribe": {}})
            assert (await socket.receive_json())["kind"] == "subscribed"
            answer = await service.get("/api/v1/events", headers=greedy)
            assert (answer.status, answer.headers["Retry-After"]) == (429, "10")
            async with service.session.ws_connect(f"{service.url}/ws", headers=greedy) as another:
                await another.send_json({"subscribe": {}})
                assert (await another.receive()).data == 1013
            await open_streams.enter_async_context(events(service, modest))
            assert (await service.get("/api/v1/events", headers=modest)).status == 503
            await socket.close()
            while (await service.get("/metrics?part=service", headers=modest)).body.decode().count(
                '{kind="websocket"} 0.0'
            ) == 0:
                await asyncio.sleep(0.02)
            await open_streams.enter_async_context(events(service, greedy))


class TestSockets:
    async def test_a_message_that_swells_is_not_unpacked(self, service: Served) -> None:
        reader, writer = await asyncio.open_connection(*address_of(service))
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"permessage-deflate" in head
        packer = zlib.compressobj(wbits=-12)
        bomb = packer.compress(b" " * 2**26) + packer.flush(zlib.Z_SYNC_FLUSH)[:-4]
        # A text, compressed, whose mask is 0.
        writer.write(b"\xc1\xff" + struct.pack("!QI", len(bomb), 0) + bomb)
        answer = await asyncio.wait_for(reader.read(), timeout=20)
        assert answer[:1] == b"\x88"
        assert struct.unpack("!H", answer[2:4]) == (1009,)
        writer.transport.abort()

    async def test_frames_that_are_none_end_the_connection(self, service: Served) -> None:
        for frame in (
            b"\x83\x80\0\0\0\0", b"\xf1\x80\0\0\0\0", b"\x81\x01x", b"\x89\xfe\x01\x00\0\0\0\0" + b"x" * 256,
            b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", b"\x80\x80\0\0\0\0",
            b"\x81\x82\0\0\0\0\xc3\x28",
            b"\x01\x80\0\0\0\0\x01\x80\0\0\0\0",
        ):  # fmt: skip
            async with service.session.ws_connect(f"{service.url}/ws") as socket:
                transport = socket._writer.transport
                assert transport is not None
                transport.write(frame)
                assert (await asyncio.wait_for(socket.receive(), timeout=20)).type in (
                    aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING,
                )  # fmt: skip
        assert (await service.get("/healthz")).status == 200


@asynccontextmanager
async def events(service: Served, header: dict[str, str]) -> AsyncIterator[None]:
    async with service.session.get(f"{service.url}/api/v1/events", headers=header) as answer:
        assert answer.status == 200
        await answer.content.readline()
        yield
