"""Messages through Redis: whatever is lost, repeated or reordered, all sites come to know the same."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from atlas import bus
from atlas.bus import Bus, order
from atlas.errors import BusUnavailable, ConfigError, UnknownCursor
from maia.commands import doctor
from maia.errors import MaiaError
from maia.federation import streams
from maia.federation.sealing import Letter, Sealer
from maia.federation.streams import Ask, Changes, NoAnswer, Place, Streams
from tests.redis_server import PASSWORD, RedisServer, redis_server

pytestmark = pytest.mark.integration

TOKEN = "a token that nobody else has"
STREAM = "pleiades:test:changes"


class Notebook:
    """A site that knows a set of words, in memory; what it was told first comes first in its feed."""

    def __init__(self, name: str) -> None:
        self.name, self.kept, self.identity = name, dict[str, Place](), 1
        self.words: dict[str, None] = {}
        self.merges = self.exchanges = 0
        self.streams: Streams | None = None

    def learn(self, *words: str) -> None:
        self.words |= dict.fromkeys(words)
        if self.streams is not None:
            self.streams.wake()

    async def node(self) -> str:
        return self.name

    async def changes(self, cursor: str | None) -> Changes:
        identity, _, place = (cursor or f"{self.identity}-{len(self.words)}").partition("-")
        if identity != str(self.identity):
            raise UnknownCursor
        new = [*self.words][int(place) :][:100]
        end = int(place) + len(new)
        message = json.dumps(new).encode() if new else None
        return Changes(message, f"{self.identity}-{end}", more=end < len(self.words))

    async def merge(self, message: bytes) -> bool:
        words = json.loads(message)
        if "forbidden" in words:
            raise MaiaError("nobody says that")
        self.words |= dict.fromkeys(words)
        self.merges += 1
        return "half a message" not in words

    async def answer(self, about: str, message: bytes) -> bytes:
        assert about == "everything"
        if self.name == "silent":
            raise MaiaError("nothing is told to you")
        await self.merge(message)
        return json.dumps([*self.words]).encode()

    async def catch_up(self, sender: str, ask: Ask) -> None:
        self.exchanges += 1
        await self.merge(await ask("everything", json.dumps([*self.words]).encode()))

    async def places(self) -> Mapping[str, Place]:
        return self.kept

    async def keep(self, places: Mapping[str, Place]) -> None:
        self.kept |= places


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_PAUSES", streams.Backoff(first_s=0.02, longest_s=0.1))
    monkeypatch.setattr(streams, "_QUESTION_PAUSES", streams.Backoff(first_s=0.05, longest_s=0.2))
    monkeypatch.setattr(streams, "_ANSWER_S", 0.5)
    monkeypatch.setattr(streams, "GATHER_S", 0.005)


@asynccontextmanager
async def running(server: RedisServer, *sites: Notebook, token: str = TOKEN) -> AsyncIterator[None]:
    """Let sites publish and follow until the block ends."""
    async with Bus.open(SecretStr(server.url), "test") as ours:
        for site in sites:
            site.streams = Streams(ours, Sealer(token, "test"), site, heartbeat_s=0.1)
        tasks = [asyncio.create_task(site.streams.run()) for site in sites if site.streams is not None]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended, _ = await asyncio.wait(tasks)
            assert all(task.cancelled() for task in ended)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not holds():
            await asyncio.sleep(0.01)


async def agreement(*sites: Notebook) -> None:
    everything = {word for site in sites for word in site.words}
    await until(lambda: all(set(site.words) == everything for site in sites))


async def test_what_one_learns_all_know_at_once_and_only_once(server: RedisServer) -> None:
    a, b, c = sites = [Notebook(name) for name in "abc"]
    a.learn("from before")
    async with running(server, *sites):
        await agreement(*sites)
        await until(lambda: all(len(site.kept) == 2 for site in sites))
        assert all(site.exchanges for site in (b, c)), "they lacked what was there before"
        exchanges = [site.exchanges for site in sites]
        for number in range(300):
            sites[number % 3].learn(f"word {number}")
        await agreement(*sites)
        async with Bus.open(SecretStr(server.url), "test") as ours:
            last = order(await ours.last())
        await until(lambda: all(order(b.kept[sender].position) > last for sender in "ac"))
        assert [site.exchanges for site in sites] == exchanges, "nobody had to ask"
    b.words.clear()
    a.learn("while b was away")
    b_merges = b.merges
    async with running(server, *sites):
        await until(lambda: "while b was away" in b.words)
        assert b.merges - b_merges <= 3, "it reads on where it was"


async def test_whatever_is_lost_repeated_or_reordered_is_made_good(server: RedisServer) -> None:
    drawn, sites = random.Random(7), [Notebook(name) for name in "abcde"]
    async with running(server, *sites), Redis.from_url(server.url, protocol=2) as redis:
        for number in range(60):
            drawn.choice(sites).learn(f"word {number}")
            await asyncio.sleep(0.005)
            entries = await redis.xrange(STREAM)
            if not entries:
                continue
            position, fields = drawn.choice(entries)
            match drawn.randrange(6):
                case 0:
                    await redis.xdel(
                        STREAM, *drawn.sample([at for at, _ in entries], (len(entries) + 1) // 2)
                    )
                case 1:
                    await redis.xadd(STREAM, fields)
                case 2:
                    await redis.xdel(STREAM, position)
                    await redis.xadd(STREAM, fields)
                case 3:
                    await redis.delete(STREAM)
                case 4:
                    await redis.xadd(STREAM, {b"m": drawn.randbytes(drawn.randrange(100))})
                case 5:
                    await redis.xadd(STREAM, {b"other": b"text"})
        await agreement(*sites)
        assert sum(len(site.words) for site in sites) == 60 * 5
        assert sites[0].streams is not None
        assert sites[0].streams.counts.refused["seal"], "rubbish is counted"


def _faults(site: Notebook) -> set[str]:
    """What a site can't do, but for asking others: nobody is asked where nothing is missing."""
    assert site.streams is not None
    return site.streams.counts.faults.keys() - {"asking other sites"}


async def test_redis_may_be_killed_and_come_back_with_nothing(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = sites = [Notebook(name) for name in "ab"]
    async with running(server, *sites):
        await until(lambda: len(a.kept) == len(b.kept) == 1)
        server.kill()
        a.learn("while it was away")
        await until(lambda: all(site.streams is not None and site.streams.counts.faults for site in sites))
        server.start()
        await agreement(a, b)
        b.learn("and after it")
        await agreement(a, b)
        await until(lambda: all(site.streams is not None and not _faults(site) for site in sites))
    told = caplog.text
    assert "publishing what changed through Redis does not work for now" in told
    assert "publishing what changed through Redis works again" in told
    assert PASSWORD not in told


async def test_a_stored_place_beyond_the_end_of_the_stream_is_no_place_to_wait_at(
    server: RedisServer,
) -> None:
    a, b = sites = [Notebook(name) for name in "ab"]
    b.kept["a"] = Place("99999999999999-0", "an old chain", 12)
    a.learn("news")
    async with running(server, *sites):
        await agreement(a, b)
        await until(lambda: order(b.kept["a"].position) < order("99999999999999-0"))


async def test_a_restored_database_begins_a_new_chain(server: RedisServer) -> None:
    a, b = sites = [Notebook(name) for name in "ab"]
    async with running(server, *sites):
        a.learn("one", "two")
        await agreement(a, b)
        a.words = {"three": None}
        a.identity = 2
        await agreement(a, b)
        assert set(b.words) == {"one", "two", "three"}


async def test_a_gap_is_remembered_until_its_site_has_answered(server: RedisServer) -> None:
    a, b = Notebook("a"), Notebook("b")
    async with running(server, a):
        a.learn("one")
        await until(lambda: a.streams is not None and a.streams.counts.published > 2)
    async with running(server, b):
        await until(lambda: b.exchanges > 1)
        assert "a" not in b.kept, "nobody answered"
    async with running(server, a, b):
        await agreement(a, b)
        await until(lambda: "a" in b.kept)


async def test_what_must_not_be_merged_is_refused_and_stops_nobody(server: RedisServer) -> None:
    a, b, c = Notebook("a"), Notebook("b"), Notebook("c")
    async with running(server, b, c), running(server, a, token=TOKEN + " but wrong"):
        await until(lambda: len(b.kept) == len(c.kept) == 1)
        a.learn("unheard")
        b.learn("forbidden")
        c.learn("allowed")
        await until(lambda: "allowed" in b.words)
        assert b.streams is not None
        assert c.streams is not None
        refused = c.streams.counts.refused
        await until(lambda: refused["content"] == 1 and refused["seal"] > 1)
        assert "unheard" not in b.words
        assert set(c.words) == {"allowed"}


async def test_an_answer_counts_only_for_its_question(server: RedisServer) -> None:
    sealer = Sealer(TOKEN, "test")
    async with Bus.open(SecretStr(server.url), "test") as ours:
        asking = Streams(ours, sealer, Notebook("a"))
        question = asyncio.create_task(asking.question("b", "everything", b"what do you know?"))
        sealed = await ours.take("b", 5)
        assert sealed is not None
        asked = sealer.open(sealed)
        for answer in (
            Letter("answer", "c", asked.reference, b"from another", receiver="a"),
            Letter("answer", "b", "of another question", b"replayed", receiver="a"),
            Letter("question", "b", asked.reference, b"no answer", receiver="a"),
            Letter("answer", "b", asked.reference, b"right", receiver="a"),
        ):
            await ours.put(asked.reference, sealer.seal(answer), 5)
        assert await question == b"right"


async def test_whoever_refuses_to_answer_says_why(server: RedisServer) -> None:
    a, silent = Notebook("a"), Notebook("silent")
    async with running(server, a, silent):
        assert a.streams is not None
        with pytest.raises(NoAnswer, match="nothing is told to you"):
            await a.streams.question("silent", "everything", b"[]")


async def test_what_lacks_something_is_asked_for(server: RedisServer) -> None:
    a, b = sites = [Notebook(name) for name in "ab"]
    async with running(server, *sites):
        await until(lambda: len(a.kept) == len(b.kept) == 1)
        exchanges = b.exchanges
        a.learn("half a message")
        await until(lambda: b.exchanges > exchanges)
        assert b.streams is not None
        assert b.streams.counts.gaps == 1, "only that it began"


async def test_the_stream_and_the_boxes_are_bounded(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "MOST_MESSAGES", 300)
    monkeypatch.setattr(bus, "MOST_LETTERS", 3)
    async with Bus.open(SecretStr(server.url), "test") as ours:
        for number in range(900):
            last = await ours.publish(b"message", "a", b"%d" % number)
            await ours.put("a", b"%d" % number, 60)
        assert 300 <= len(await ours.read(bus.BEGINNING, 10_000, 1)) < 450
        assert (await ours.memo("a"), await ours.last()) == (b"899", last)
        assert [await ours.take("a", 0.1) for _ in range(4)] == [b"897", b"898", b"899", None]
        async with Redis.from_url(server.url, protocol=2) as redis:
            keys = [key async for key in redis.scan_iter("*")]
            assert {await redis.ttl(key) > 0 for key in keys} == {True}, "nothing stays for ever"


async def test_the_password_is_never_told(server: RedisServer) -> None:
    assert (await doctor._redis(SecretStr(server.url), "test")).finding == "answers"
    server.kill()
    checked = await doctor._redis(SecretStr(server.url), "test")
    assert "can't be used now" in checked.finding
    assert PASSWORD not in checked.finding
    async with Bus.open(SecretStr(server.url), "test") as ours:
        with pytest.raises(BusUnavailable) as refused:
            await ours.ping()
        assert PASSWORD not in str(refused.value)
    for url in (f"redis://:{PASSWORD}/x@host:6379", f"http://:{PASSWORD}@host", PASSWORD):
        with pytest.raises(ConfigError, match="REDIS_URL") as wrong:
            async with Bus.open(SecretStr(url), "test"):
                pass
        assert PASSWORD not in str(wrong.value)
