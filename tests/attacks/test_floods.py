"""Floods by one greedy client, while another one asks as usual and must be answered.

Run by make test-attacks: they open thousands of connections, and send hundreds of megabytes.
"""

from __future__ import annotations

import asyncio
import random
import re
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import psutil
import pytest
import pytest_asyncio

from atlas.composition import Atlas
from atlas.scopes import Scope
from maia.api import serving
from tests.attacking import address_of, request, sent
from tests.served import Served, served

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

MEBIBYTE = 2**20
UPGRADE = (
    "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
SUBSCRIPTION = b"\x81\x91" + bytes(4) + b'{"subscribe": {}}'
"""A frame with a subscription, whose mask is 0."""


def with_api(atlas: Atlas, **changes: Any) -> Atlas:
    api = atlas.settings.api.model_copy(update=changes)
    return replace(atlas, settings=atlas.settings.model_copy(update={"api": api}))


@pytest_asyncio.fixture
async def service(atlas: Atlas) -> AsyncIterator[Served]:
    async with served(with_api(atlas, requests_per_minute=10_000_000)) as service:
        yield service


async def key_of(service: Served, name: str, scope: Scope = Scope.READ) -> dict[str, str]:
    """A key that the service knows already."""
    key = await service.add_key(name, scope)
    for _ in range(500):
        if (await service.get("/metrics?part=service", headers=key)).status == 200:
            return key
        await asyncio.sleep(0.02)
    raise AssertionError("the key was never known")


@asynccontextmanager
async def somebody_else(service: Served, key: dict[str, str]) -> AsyncIterator[None]:
    """Asks all the time, and is always answered."""
    ended, asked = asyncio.Event(), 0

    async def ask() -> None:
        nonlocal asked
        while not ended.is_set():
            async with asyncio.timeout(30):
                answer = await service.get("/api/v1/breakouts", headers=key)
            assert answer.status == 200, answer.body
            asked += 1
            await asyncio.sleep(0.01)

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        ended.set()
        await asking
    assert asked


async def test_slow_heads_do_not_keep_others_out(service: Served) -> None:
    key = await key_of(service, "modest")
    async with somebody_else(service, key):
        opened = [await asyncio.open_connection(*address_of(service)) for _ in range(1_500)]
        for _, writer in opened:
            writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        ends = await asyncio.gather(*(reader.read() for reader, _ in opened), return_exceptions=True)
    assert ends == [b""] * len(opened)
    for _, writer in opened:
        writer.transport.abort()


async def test_more_connections_than_there_are_places_leave_room_when_they_go(atlas: Atlas) -> None:
    async with served(with_api(atlas, most_connections=500)) as service:
        opened = [await asyncio.open_connection(*address_of(service)) for _ in range(1_000)]
        answers = await asyncio.gather(*(sent(service, request("/healthz")) for _ in range(50)))
        assert {answer.status for answer in answers} == {503}
        for _, writer in opened:
            writer.transport.abort()
        while (await service.get("/healthz")).status != 200:
            await asyncio.sleep(0.1)


async def test_one_caller_leaves_streams_to_others(service: Served) -> None:
    greedy, modest = await key_of(service, "greedy"), await key_of(service, "modest")
    named = f"X-API-Key: {greedy['X-API-Key']}\r\n"
    events = f"GET /api/v1/events HTTP/1.1\r\nHost: a\r\n{named}\r\n".encode()
    async with AsyncExitStack() as stack:
        for number in range(1_200):
            reader, writer = await asyncio.open_connection(*address_of(service))
            stack.callback(abort, writer)
            writer.write(f"{UPGRADE}{named}\r\n".encode() if number % 2 else events)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(SUBSCRIPTION if number % 2 else b"")
        async with asyncio.timeout(60):
            while (taken := await streams(service, modest)) > 1_000:
                await asyncio.sleep(0.1)
        assert taken == 1_000
        async with service.session.get(f"{service.url}/api/v1/events", headers=modest) as answer:
            assert answer.status == 200


def abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def streams(service: Served, key: dict[str, str]) -> float:
    """How many live streams are open, as the metrics tell."""
    told = (await service.get("/metrics?part=service", headers=key)).body.decode()
    return sum(float(each) for each in re.findall(r"^pleiades_http_streams\{.*\} (.*)$", told, re.MULTILINE))


async def test_pings_whose_answers_nobody_reads_do_not_fill_the_memory(service: Served) -> None:
    before = psutil.Process().memory_info().rss
    ping = b"\x89\xfd" + struct.pack("!I", 0) + b"x" * 125
    reader, writer = await asyncio.open_connection(*address_of(service))
    writer.write(f"{UPGRADE}\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    flood, sent_bytes = ping * 500, 0
    while not writer.transport.is_closing() and sent_bytes < 400 * MEBIBYTE:
        try:
            writer.write(flood)
            await asyncio.wait_for(writer.drain(), timeout=20)
        except (ConnectionError, TimeoutError):
            break
        sent_bytes += len(flood)
    writer.transport.abort()
    assert sent_bytes < 400 * MEBIBYTE
    assert psutil.Process().memory_info().rss - before < 100 * MEBIBYTE


async def test_heads_without_end_do_not_fill_the_memory(service: Served) -> None:
    before = psutil.Process().memory_info().rss
    part = b"x" * MEBIBYTE

    async def flood(first: bytes) -> None:
        _, writer = await asyncio.open_connection(*address_of(service))
        try:
            writer.write(first)
            for _ in range(64):
                writer.write(part)
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.transport.abort()
        raise AssertionError("a head of 64 MiB was taken")

    head = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"
    await asyncio.gather(*(flood(first) for first in (head + b"X: ", head, b"GET /", b"") for _ in range(5)))
    assert psutil.Process().memory_info().rss - before < 100 * MEBIBYTE


async def test_whoever_takes_no_answer_is_cut(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_STALLED_MS", 2_000)
    monkeypatch.setattr(serving, "KEEP_ALIVE_S", 2)
    async with served(with_api(atlas, requests_per_minute=10_000_000)) as service:
        opened = []
        for _ in range(20):
            reader, writer = await asyncio.open_connection(*address_of(service), limit=1)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 200)
            opened.append(writer)
        async with asyncio.timeout(60):
            while connections_of_us() > 1:
                await asyncio.sleep(0.5)
                assert (await service.get("/healthz")).status == 200
        for writer in opened:
            writer.transport.abort()


def connections_of_us() -> int:
    """Established connections that this process has accepted and not closed."""
    found = psutil.Process().net_connections("tcp4")
    listening = {each.laddr.port for each in found if each.status == "LISTEN"}
    return sum(each.status == "ESTABLISHED" and each.laddr.port in listening for each in found)


async def test_wrong_keys_keep_nobody_out(service: Served) -> None:
    key = await key_of(service, "modest")
    wrong = {"X-API-Key": f"pk_{key['X-API-Key'].split('_')[1]}_{'A' * 43}"}
    async with somebody_else(service, key):
        for _ in range(50):
            answers = await asyncio.gather(*(service.get("/metrics", headers=wrong) for _ in range(100)))
            assert {answer.status for answer in answers} == {401}


async def test_noise_and_near_requests_end_in_an_answer_or_a_closed_connection(
    atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "KEEP_ALIVE_S", 1)
    async with served(with_api(atlas, head_timeout_s=1, body_timeout_s=1)) as service:
        await make_noise(service)


async def make_noise(service: Served) -> None:
    key = await key_of(service, "noisy", Scope.ADMIN)
    chance = random.Random(7)
    whole = request(
        "/match", f"X-API-Key: {key['X-API-Key']}", "Content-Type: application/json", "Content-Length: 15",
        method="POST", body='{"context": {}}',
    )  # fmt: skip
    statuses: set[int | None] = set()

    async def attack() -> None:
        raw = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            at = chance.randrange(len(raw))
            kind = chance.randrange(4)
            if kind == 0:
                raw[at] = chance.randrange(256)
            elif kind == 1:
                del raw[at : at + chance.randint(1, 9)]
            elif kind == 2:
                raw[at:at] = chance.randbytes(chance.randint(1, 9))
            else:
                raw[at:at] = chance.choice(
                    [b"\r\n", b"\n", b"\0", b": ", b"chunked", b"\r\n\r\n", b"GET / HTTP/1.1\r\n"]
                )
        # What is cut short would wait for its rest.
        answer = await sent(service, bytes(raw) + b"\r\n\r\n", wait_s=60)
        assert answer.reveals is None, (bytes(raw), answer.received)
        statuses.add(answer.status)

    for _ in range(50):
        await asyncio.gather(*(attack() for _ in range(100)))
    assert not {status for status in statuses if status is not None and status >= 500}
    assert {200, 400} <= statuses
    assert (await service.get("/metrics", headers=key)).status == 200


async def test_the_largest_bodies_at_once_are_answered(service: Served) -> None:
    key = await key_of(service, "modest", Scope.WRITE)
    deep = b'{"context":' + b"[" * 500_000
    wide = b'{"context":{' + b",".join(b'"%d":1' % number for number in range(90_000)) + b"}}"
    async with somebody_else(service, key):
        for body in (deep, wide, b" " * (MEBIBYTE - 1)):
            for path in ("/match", "/observe", "/patterns", "/api/v1/topics"):
                calls = (
                    service.ask("POST", path, data=body, headers=key | {"Content-Type": "application/json"})
                    for _ in range(20)
                )
                answers = await asyncio.gather(*calls)
                assert {answer.status for answer in answers} <= {400, 422}
