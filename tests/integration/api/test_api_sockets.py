"""WebSockets that tell of patterns: what they tell whom, and that nobody misses anything."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from socket import SHUT_RDWR
from typing import Any

import aiohttp
import pytest

from atlas.adapters.changes import ChangesDAO
from atlas.adapters.patterns import NewEvidence, PatternContent, PatternsDAO
from atlas.composition import Atlas
from atlas.testing import NOON
from maia.api import live, pattern_hub
from tests.served import Served, served

pytestmark = pytest.mark.integration

A, B, C = "a" * 32, "b" * 32, "c" * 32


@pytest.fixture
def dao(atlas: Atlas) -> PatternsDAO:
    return PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


def pattern(id_: str, agent: str = "hunter", type_: str = "tool_usage") -> PatternContent:
    condition = {"field": "agent", "operator": "=", "value": agent}
    return PatternContent(id_, type_, {"id": id_}, f"{agent} finds early", [condition], "feeds", {})


def counted(id_: str, pos: int = 90) -> NewEvidence:
    return NewEvidence(id_, NOON.date(), pos, 1, 2.5, NOON)


class Client:
    """A WebSocket, and what it was told."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.cursor = ""

    async def next(self) -> tuple[str, str]:
        """The id's first digit, and the kind, of the next message that isn't a ping."""
        async with asyncio.timeout(20):
            while True:
                received = await self.socket.receive()
                assert received.type is aiohttp.WSMsgType.TEXT, (received.type, received.data, received.extra)
                found = json.loads(received.data)
                self.cursor = found["cursor"]
                if found["kind"] != "ping":
                    return found.get("pattern", {"id": "-"})["id"][0], found["kind"]

    async def closed(self) -> int:
        """The code with which the connection is closed."""
        async with asyncio.timeout(20):
            while True:
                received = await self.socket.receive()
                if received.type is not aiohttp.WSMsgType.TEXT:
                    assert received.type is aiohttp.WSMsgType.CLOSE, received
                    return int(received.data)


@asynccontextmanager
async def connected(service: Served, headers: dict[str, str] | None = None) -> AsyncIterator[Client]:
    async with service.session.ws_connect(f"{service.url}/ws", headers=headers) as socket:
        yield Client(socket)


@asynccontextmanager
async def subscribed(service: Served, **wanted: Any) -> AsyncIterator[Client]:
    async with connected(service) as client:
        await client.socket.send_json({"subscribe": wanted})
        if "after" not in wanted:
            assert await client.next() == ("-", "subscribed")
        yield client


async def test_changes_are_told_as_they_happen(service: Served, dao: PatternsDAO) -> None:
    async with subscribed(service) as client:
        await dao.store([pattern(A)])
        assert await client.next() == ("a", "pattern")
        await dao.count([counted(A)])
        assert await client.next() == ("a", "evidence")
        await dao.forget([A], "operator")
        assert await client.next() == ("a", "forgotten")


async def test_each_is_told_what_it_asked_for(service: Served, dao: PatternsDAO) -> None:
    async with (
        subscribed(service, types=["failure_mode"]) as by_type,
        subscribed(service, min_confidence=0.5) as firm,
        subscribed(service, context={"agent": "tracker"}) as about,
    ):
        async with dao.transaction() as ours:
            await ours.store([pattern(A), pattern(B, type_="failure_mode"), pattern(C, "tracker")])
            await ours.count([counted(A)])
        assert await by_type.next() == ("b", "pattern")
        assert await firm.next() == ("a", "pattern")
        assert await about.next() == ("c", "pattern")
        await dao.forget([A, B, C], "operator")
        assert await by_type.next() == ("b", "forgotten")
        # It doesn't matter how firmly one believed in what is known no more.
        assert [await firm.next() for _ in "abc"] == [(id_, "forgotten") for id_ in "abc"]
        assert await about.next() == ("c", "forgotten")


async def test_who_asked_for_firm_ones_hears_that_one_is_not_any_more(
    service: Served, dao: PatternsDAO
) -> None:
    async with subscribed(service, min_confidence=0.5) as firm:
        async with dao.transaction() as ours:
            await ours.store([pattern(A), pattern(B)])
            await ours.count([counted(A), counted(B, pos=1)])
        assert await firm.next() == ("a", "pattern")
        cursor = firm.cursor
        await dao.count([replace(counted(A, pos=0), neg=900), replace(counted(B, pos=0), neg=9)])
        assert await firm.next() == ("a", "evidence")
        await dao.count([counted(A, pos=0), counted(B, pos=0)])
        async with dao.transaction() as ours:
            await ours.store([pattern(C)])
            await ours.count([counted(C)])
        # Once is enough.
        assert await firm.next() == ("c", "pattern")
    async with subscribed(service, min_confidence=0.5, after=cursor) as client:
        told = [await client.next() for _ in range(3)]
    assert told == [("a", "evidence"), ("c", "pattern"), ("-", "subscribed")]


async def test_who_was_away_catches_up_and_goes_on(service: Served, dao: PatternsDAO) -> None:
    async with subscribed(service) as client:
        await dao.store([pattern(A)])
        await client.next()
        cursor = client.cursor
    await dao.store([pattern(B)])
    await dao.count([counted(A)])
    changes = ChangesDAO(service.atlas.db, clock=service.atlas.clock, settings=service.atlas.settings)
    async with asyncio.timeout(60):
        # Transactions of other databases of the same server delay what can be read.
        while len((await changes.patterns_since(cursor, 10)).items) < 2:
            await asyncio.sleep(0.05)
    async with subscribed(service, after=cursor) as client:
        assert [await client.next() for _ in range(3)] == [
            ("b", "pattern"), ("a", "evidence"), ("-", "subscribed"),
        ]  # fmt: skip
        await dao.store([pattern(C)])
        assert await client.next() == ("c", "pattern")


async def test_nothing_is_lost_or_told_twice_however_often_it_breaks(
    service: Served, dao: PatternsDAO
) -> None:
    ids = [f"{n:032x}" for n in range(120)]
    async with subscribed(service) as client:
        cursor = client.cursor

    async def write(mine: list[str]) -> None:
        for each in mine:
            async with dao.transaction() as ours:
                await ours.store([pattern(each)])
                await ours.count([counted(each)])

    writing = asyncio.gather(*(write(ids[n::3]) for n in range(3)))
    told: list[str] = []
    while len(told) < len(ids):
        async with connected(service) as client:
            await client.socket.send_json({"subscribe": {"after": cursor}})
            for _ in range(17):
                received = await asyncio.wait_for(client.socket.receive(), 20)
                found = json.loads(received.data)
                cursor = found["cursor"]
                if found["kind"] == "pattern":
                    told.append(found["pattern"]["id"])
                if len(told) == len(ids):
                    break
            # Torn off, with messages on their way.
            socket = client.socket.get_extra_info("socket")
            socket.shutdown(SHUT_RDWR)
    await writing
    assert sorted(told) == ids


async def test_one_that_reads_too_slowly_is_cut_and_goes_on_where_it_was(
    service: Served, dao: PatternsDAO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pattern_hub, "MOST_WAITING", 3)
    ids = [f"{n:032x}" for n in range(9)]
    async with subscribed(service) as client:
        cursor = client.cursor
        await dao.store([pattern(each) for each in ids])
        assert await client.closed() == live.TOO_SLOW
    monkeypatch.setattr(pattern_hub, "MOST_WAITING", 100)
    async with subscribed(service, after=cursor) as client:
        assert [await client.next() for _ in ids] == [("0", "pattern")] * len(ids)


async def test_what_is_no_subscription_is_refused(service: Served) -> None:
    for text, code in (
        ("", live.INVALID),
        ("{}", live.INVALID),
        ('{"subscribe": {"types": ["hunch"]}}', live.INVALID),
        ('{"subscribe": {"min_confidence": "1"}}', live.INVALID),
        ('{"subscribe": {"surprise": 1}}', live.INVALID),
        ("[" * 50_000, live.INVALID),
        ('{"subscribe": {"after": "nothing"}}', live.VOID_CURSOR),
        ('{"subscribe": {"after": "0000000000000000-1-1-"}}', live.VOID_CURSOR),
    ):
        async with connected(service) as client:
            await client.socket.send_str(text)
            assert await client.closed() == code


async def test_why_it_is_no_subscription_is_told_with_its_place_if_it_has_one(service: Served) -> None:
    for text, place in (("hello", ""), ('{"subscribe": {"surprise": 1}}', "subscribe.surprise: ")):
        async with connected(service) as client:
            await client.socket.send_str(text)
            reason = (await client.socket.receive()).extra or ""
            assert re.match(rf"this is no subscription: {place}[A-Z]", reason), reason


async def test_bytes_and_second_subscriptions_are_refused(service: Served) -> None:
    async with connected(service) as client:
        await client.socket.send_bytes(b"{}")
        assert await client.closed() == live.INVALID
    async with subscribed(service) as client:
        await client.socket.send_json({"subscribe": {}})
        assert await client.closed() == live.INVALID


async def test_no_more_streams_than_the_settings_allow(atlas: Atlas) -> None:
    api = atlas.settings.api.model_copy(update={"most_streams": 1})
    one = replace(atlas, settings=atlas.settings.model_copy(update={"api": api}))
    async with (
        served(one) as service,
        subscribed(service),
        connected(service) as second,
    ):
        assert await second.closed() == live.TRY_AGAIN


async def test_clients_are_told_when_the_process_stops(atlas: Atlas) -> None:
    async with served(atlas) as service:
        session = aiohttp.ClientSession()
        client = Client(await session.ws_connect(f"{service.url}/ws"))
        await client.socket.send_json({"subscribe": {}})
        await client.next()
    assert await client.closed() == 1001
    await session.close()


async def test_nobody_follows_without_a_key_once_there_is_one(service: Served) -> None:
    from atlas.scopes import Scope

    header = await service.add_key("ours", Scope.READ)
    async with asyncio.timeout(20):
        while (await service.get("/openapi.json")).status != 401:
            await asyncio.sleep(0.02)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await service.session.ws_connect(f"{service.url}/ws")
    assert refused.value.status == 401
    async with connected(service, header) as client:
        await client.socket.send_json({"subscribe": {}})
        assert await client.next() == ("-", "subscribed")


async def test_pings_carry_a_cursor(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PING_S", 0.01)
    async with subscribed(service, types=["anomaly"]) as client:
        found = json.loads((await asyncio.wait_for(client.socket.receive(), 20)).data)
        assert (found["kind"], bool(found["cursor"])) == ("ping", True)
