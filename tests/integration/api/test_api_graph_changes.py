"""WebSockets that tell of changes of the graph: what they tell, and that nobody misses anything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from atlas.adapters.graph import Evidence, GraphDAO, Link, Node, node_handle
from atlas.adapters.graph_changes import GraphChangesDAO, order
from atlas.composition import Atlas
from maia.api import graph_hub, live
from tests.served import Served, served

pytestmark = pytest.mark.integration

MUSIC, LIVE, CRAZE = Node("tag", "music"), Node("tag", "live"), Node("concept", "craze")


@pytest.fixture
async def service(atlas: Atlas) -> AsyncIterator[Served]:
    async with served(atlas) as running:
        yield running


@pytest.fixture
def graph(atlas: Atlas) -> GraphDAO:
    return GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


class Client:
    """A WebSocket that was told everything up to `cursor`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.cursor = socket, ""

    async def next(self) -> tuple[str, str, str | None]:
        """Kind, type and name of the next message that isn't a ping."""
        async with asyncio.timeout(20):
            while True:
                received = await self.socket.receive()
                assert received.type is aiohttp.WSMsgType.TEXT, (received.type, received.data, received.extra)
                told = json.loads(received.data)
                assert self.cursor == "" or order(told["cursor"]) >= order(self.cursor)
                self.cursor = told["cursor"]
                if told["kind"] != "ping":
                    atom = told.get("atom", {})
                    return told["kind"], atom.get("type", "-"), atom.get("name")

    async def closed(self) -> int | None:
        async with asyncio.timeout(20):
            while (await self.socket.receive()).type is aiohttp.WSMsgType.TEXT:
                continue
        return self.socket.close_code


@asynccontextmanager
async def connected(service: Served) -> AsyncIterator[Client]:
    async with service.session.ws_connect(f"{service.url}/api/v1/graph/changes") as socket:
        yield Client(socket)


@asynccontextmanager
async def subscribed(service: Served, **wanted: Any) -> AsyncIterator[Client]:
    async with connected(service) as client:
        await client.socket.send_json({"subscribe": wanted})
        if "after" not in wanted:
            assert (await client.next())[0] == "subscribed"
        yield client


async def test_everybody_hears_what_they_asked_for(service: Served, graph: GraphDAO) -> None:
    async with (
        subscribed(service) as everything,
        subscribed(service, types=["co_occurs"], min_count=3) as firm,
        subscribed(service, types=["tag"], prefix="l") as named,
    ):
        await graph.add([Link("co_occurs", (MUSIC, LIVE), Evidence(3, 1))])
        first = [await everything.next() for _ in range(3)]
        assert sorted(first, key=str) == [
            ("atom", "co_occurs", None), ("atom", "tag", "live"), ("atom", "tag", "music"),
        ]  # fmt: skip
        assert await firm.next() == ("atom", "co_occurs", None)
        assert await named.next() == ("atom", "tag", "live")
        cursor = everything.cursor
        await graph.add([Link("co_occurs", (MUSIC, LIVE), Evidence(1))])
        assert await everything.next() == ("atom", "co_occurs", None)
        assert await firm.next() == ("gone", "co_occurs", None)
        await graph.remove([node_handle("tag", "live")])
        assert {await everything.next(), await everything.next()} == {
            ("gone", "co_occurs", None), ("gone", "tag", None),
        }  # fmt: skip
        assert await named.next() == ("gone", "tag", None)
        last = everything.cursor
    # Who was away is told of each atom once, as it is now.
    async with subscribed(service, after=cursor) as client:
        assert {(await client.next())[:2] for _ in range(2)} == {("gone", "co_occurs"), ("gone", "tag")}
        assert (await client.next())[0] == "subscribed"
        await graph.add([CRAZE])
        assert await client.next() == ("atom", "concept", "craze")
        assert order(client.cursor) > order(last)


async def test_nothing_is_lost_however_often_it_breaks(service: Served, graph: GraphDAO) -> None:
    async with subscribed(service) as client:
        cursor = client.cursor
    names = [f"n{n:03}" for n in range(60)]

    async def write(mine: list[str]) -> None:
        for name in mine:
            await graph.add([Node("concept", name)])

    writing = asyncio.gather(*(write(names[n::3]) for n in range(3)))
    told: list[str | None] = []
    while len(told) < len(names):
        async with subscribed(service, after=cursor) as client:
            for _ in range(11):
                kind, _, name = await client.next()
                cursor = client.cursor
                told += [name] if kind == "atom" else []
                if len(told) == len(names):
                    break
    await writing
    assert sorted(told, key=str) == names


async def test_who_is_cut_and_why(
    service: Served, graph: GraphDAO, atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text, code in (
        ("", live.INVALID),
        ('{"subscribe": {"types": ["No Type"]}}', live.INVALID),
        ('{"subscribe": {"min_strength": 2}}', live.INVALID),
        ('{"subscribe": {"after": "nothing"}}', live.VOID_CURSOR),
        ('{"subscribe": {"after": "0000000000000000-1-%s"}}' % ("0" * 32), live.VOID_CURSOR),
    ):
        async with connected(service) as client:
            await client.socket.send_str(text)
            assert await client.closed() == code, text
    with monkeypatch.context() as patch:
        patch.setattr(graph_hub, "MOST_WAITING", 3)
        async with subscribed(service) as client:
            cursor = client.cursor
            await graph.add([Node("concept", f"c{n}") for n in range(9)])
            assert await client.closed() == live.TOO_SLOW
    async with subscribed(service, after=cursor) as client:
        assert [(await client.next())[0] for _ in range(9)] == ["atom"] * 9
    monkeypatch.setattr(live, "PING_S", 0.01)
    async with connected(service) as client:
        await client.socket.send_json({"subscribe": {"types": ["tag"]}})
        begin = (await client.next(), client.cursor)[1]
        await graph.add([CRAZE])
        changes = GraphChangesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        async with asyncio.timeout(20):
            # A ping moves on past what is not told.
            while order(client.cursor) <= order(begin):
                client.cursor = json.loads((await client.socket.receive()).data)["cursor"]
        assert (await changes.since(client.cursor, 10)).items == []
