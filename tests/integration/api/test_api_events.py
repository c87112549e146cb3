"""Live events: each once and in order, to clients that leave, lag, come back, or are one too many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio

from atlas.composition import Atlas
from maia.api import serving
from maia.api.streaming import EventStream, Hub, Seats
from tests.growth import store_video
from tests.served import Served, served

pytestmark = pytest.mark.integration


class Stream:
    """The events that a client reads from an answer."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def next(self) -> dict[str, str] | None:
        """The fields of the next event; None at the end."""
        while True:
            fields: dict[str, str] = {}
            while line := (await self.answer.content.readline()).decode():
                if line == "\n":
                    break
                name, _, value = line.rstrip("\n").partition(": ")
                fields[name] = value
            if "event" in fields:
                return fields
            if self.answer.content.at_eof():
                return None

    async def payloads(self, count: int) -> list[int]:
        return [orjson.loads((await self.next() or {})["data"])["payload"]["n"] for _ in range(count)]


@asynccontextmanager
async def following(service: Served, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    url = f"{service.url}/api/v1/events{query}"
    async with service.session.get(
        url, headers={k.replace("_", "-"): v for k, v in headers.items()}
    ) as answer:
        assert answer.status == 200, await answer.text()
        # The first lines are sent once the client is subscribed.
        assert (await answer.content.readline()).startswith(b"retry: ")
        yield Stream(answer)


async def happen(atlas: Atlas, *numbers: int, kind: str = "hunter.cycle") -> list[int]:
    return await atlas.events.append_many([(kind, {"n": number}) for number in numbers])


async def test_what_happens_is_told_at_once_by_kind(service: Served, sql: Any) -> None:
    await store_video(sql, "v1", title="Title")
    async with following(service) as everything, following(service, "?kinds=breakout") as breakouts:
        assert everything.answer.headers["X-Accel-Buffering"] == "no"
        assert everything.answer.content_type == "text/event-stream"
        await service.atlas.events.append("hunter.step", {"n": 0})
        [first, second] = await service.atlas.events.append_many(
            [("tracker.cycle", {"n": 1}), ("tracker.breakout", {"video_id": "v1", "views": 3})]
        )
        told = [await everything.next() or {} for _ in range(2)]
        assert [(each["id"], each["event"]) for each in told] == [
            (str(first), "cycle"),
            (str(second), "breakout"),
        ]
        only = await breakouts.next() or {}
        data = orjson.loads(only["data"])
        assert (data["breakout"]["title"], data["cursor"]) == ("Title", second)
        assert "not by YouTube" in data["attribution"]


@pytest.mark.parametrize("by", ["header", "query"])
async def test_a_client_that_was_away_gets_what_it_missed_and_nothing_twice(service: Served, by: str) -> None:
    seen = await happen(service.atlas, *range(5))
    query, headers = (f"?after={seen[1]}", {}) if by == "query" else ("", {"Last_Event_ID": str(seen[1])})
    async with following(service, query, **headers) as stream:
        adding = asyncio.create_task(happen(service.atlas, *range(5, 700)))
        assert await stream.payloads(698) == [*range(2, 700)]
        await adding


async def test_a_cursor_from_after_a_restore_begins_anew(service: Served) -> None:
    async with following(service, "?after=999999999") as stream:
        assert (await stream.next() or {})["event"] == "reset"
        await happen(service.atlas, 1)
        assert await stream.payloads(1) == [1]


async def test_clients_are_told_when_the_process_stops(atlas: Atlas) -> None:
    listener, ready = serving.listen("127.0.0.1", 0), asyncio.Event()
    task = asyncio.create_task(serving.serve(atlas, listener, ready.set))
    await ready.wait()
    async with aiohttp.ClientSession() as session:
        service = Served(serving.url_of(listener, atlas.settings.api), session, atlas)
        async with following(service) as stream:
            task.cancel()
            assert (await stream.next() or {})["event"] == "stopping"
            assert await stream.next() is None
    await asyncio.wait([task])
    assert task.cancelled()


async def test_one_client_too_many_is_refused_until_another_leaves(atlas: Atlas) -> None:
    api = atlas.settings.api.model_copy(update={"most_streams": 1})
    few = replace(atlas, settings=atlas.settings.model_copy(update={"api": api}))
    async with served(few) as service:
        async with following(service):
            refused = await service.get("/api/v1/events")
            assert (refused.status, refused.headers["Retry-After"]) == (503, "10")
        for _ in range(100):
            async with service.session.get(f"{service.url}/api/v1/events") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.05)
    pytest.fail("the seat was never free again")


async def test_what_is_no_cursor_or_kind_is_refused(service: Served) -> None:
    for query in ("?after=-1", "?after=x", "?after=" + "9" * 19, "?kinds=everything", "?kinds="):
        assert (query, (await service.get(f"/api/v1/events{query}")).status) == (query, 422)


class TestSlowClients:
    """By a client whose connection takes nothing, or whose queue is full."""

    @pytest_asyncio.fixture
    async def hub(self, atlas: Atlas) -> AsyncIterator[Hub]:
        hub = Hub(atlas)
        running = asyncio.create_task(hub.run())
        await hub.ready()
        yield hub
        running.cancel()
        await asyncio.wait([running])

    async def serve(
        self, stream: EventStream, takes: asyncio.Event, sent: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """What a client is sent that takes the head and the first lines, and the rest once it may."""

        async def send(message: Any) -> None:
            if len(sent) >= 2:
                await takes.wait()
            sent.append(message)

        async def receive() -> Any:
            await asyncio.Event().wait()

        await asyncio.wait_for(stream({"type": "http"}, receive, send), timeout=20)
        return sent

    async def test_one_that_takes_nothing_is_cut(self, hub: Hub) -> None:
        seats = Seats(1)
        stream = EventStream(hub, seats, ["cycle"], 0, heartbeat_s=0.01, send_timeout_s=0.05)
        sent = await self.serve(stream, asyncio.Event(), [])
        assert (len(sent), seats.taken) == (2, 0)

    async def test_one_that_lags_too_far_behind_is_cut(self, hub: Hub, atlas: Atlas) -> None:
        seats = Seats(1)
        serving_it = asyncio.create_task(
            self.serve(EventStream(hub, seats, ["cycle"], None, send_timeout_s=60), asyncio.Event(), [])
        )
        while seats.taken == 0:
            await asyncio.sleep(0.01)
        await happen(atlas, *range(1_500))
        assert (len(await serving_it), seats.taken) == (2, 0)

    async def test_a_quiet_stream_tells_where_it_is(self, hub: Hub, atlas: Atlas) -> None:
        [last] = await happen(atlas, 1)
        takes = asyncio.Event()
        takes.set()
        stream = EventStream(hub, Seats(1), ["breakout"], None, heartbeat_s=0.01)
        sent: list[dict[str, Any]] = []
        serving_it = asyncio.create_task(self.serve(stream, takes, sent))
        while not any(message.get("body") == b": still here\nid: %d\n\n" % last for message in sent):
            assert not serving_it.done()
            await asyncio.sleep(0.01)
        stopping = asyncio.Event()
        stopping.set()
        await hub.end_with(stopping)
        await serving_it
        assert sent[-2]["body"].startswith(b"event: stopping")
