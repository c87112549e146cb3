"""The event log under concurrent writers, open transactions and a server that goes away."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from pydantic import SecretStr

from atlas import events
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.db import Database
from atlas.errors import DatabaseUnavailable, DataRefused
from atlas.events import Event, EventLog
from atlas.testing import SettingsFactory, ThrowAwayServer

pytestmark = pytest.mark.integration


@pytest.fixture
def log(database: Database, clock: FixedClock) -> EventLog:
    return EventLog(database, clock, node_id="here")


class Undone(Exception):
    """Rolls a transaction back."""


async def take(followed: AsyncIterator[Event], count: int) -> list[int]:
    return [(await anext(followed)).payload["n"] for _ in range(count)]


async def append_at_last(log: EventLog, number: int) -> None:
    """Append through a restart: connections that the pool still holds are found to be broken one by one."""
    while True:
        try:
            await log.append("a", {"n": number})
            return
        except DatabaseUnavailable:
            await asyncio.sleep(0.05)


class TestReading:
    async def test_an_event_is_read_as_it_was_appended(self, log: EventLog) -> None:
        first = await log.append("hunter.cycle", {"pages": 3, "of": ["é"]}, agent="hunter", session="s1")

        assert await log.since(0) == [
            Event(
                id=first,
                at=datetime(2026, 11, 2, 12, tzinfo=UTC),
                kind="hunter.cycle",
                agent="hunter",
                node="here",
                session="s1",
                payload={"pages": 3, "of": ["é"]},
            )
        ]

    async def test_many_are_appended_in_their_order(self, log: EventLog) -> None:
        ids = await log.append_many((f"kind_{n % 3}", {"n": n}) for n in range(1000))

        assert ids == sorted(ids)
        assert [event.payload["n"] for event in await log.since(0)] == list(range(1000))
        assert await log.append_many([]) == []

    async def test_the_cursor_is_the_last_id_read(self, log: EventLog) -> None:
        await log.append_many(("a", {"n": n}) for n in range(10))
        read: list[Event] = []
        while page := await log.since(read[-1].id if read else 0, limit=3):
            read += page

        assert [event.payload["n"] for event in read] == list(range(10))
        assert await log.since(read[-1].id) == []

    async def test_kinds_are_chosen(self, log: EventLog) -> None:
        await log.append_many((kind, {}) for kind in ["a.x", "b", "a.x", "a.y"])

        assert [event.kind for event in await log.since(0, kinds=["a.x", "a.y"])] == ["a.x", "a.x", "a.y"]
        assert await log.since(0, kinds=["c"]) == []

    async def test_the_latest_of_a_kind_come_first(self, log: EventLog) -> None:
        await log.append_many((kind, {"n": n}) for n, kind in enumerate(["a", "b", "a", "c", "a"]))

        assert [event.payload["n"] for event in await log.latest(3, kinds=["a", "c"])] == [4, 3, 2]

    async def test_nothing_is_appended_if_one_is_refused(self, log: EventLog) -> None:
        with pytest.raises(DataRefused, match="secret"):
            await log.append_many([("a", {}), ("a", {"key": SecretStr("hush")})])
        with pytest.raises(DataRefused, match="no kind of event"):
            await log.append_many([("a", {}), ("A", {})])

        assert await log.since(0) == []

    async def test_events_share_the_fate_of_their_transaction(
        self, log: EventLog, database: Database
    ) -> None:
        with pytest.raises(Undone):
            async with database.transaction() as transaction:
                await log.append("a", {}, executor=transaction)
                raise Undone
        async with database.transaction() as transaction:
            await log.append("b", {}, executor=transaction)

        assert [event.kind for event in await log.since(0)] == ["b"]

    async def test_what_is_written_stays_as_it_is(self, log: EventLog, sql: Any) -> None:
        await log.append("a", {})

        with pytest.raises(Exception, match="events are append-only"):
            await sql.execute("UPDATE events SET kind = 'b'")

    async def test_the_current_log_is_used(self, atlas: Atlas) -> None:
        cursor = await events.append("a", {"n": 1})
        await events.append("b", {"n": 2})

        assert [event.kind for event in await events.since(cursor, kinds=["a", "b"], limit=1)] == ["b"]
        async with aclosing(events.follow(0)) as followed:
            assert await take(followed, 2) == [1, 2]


class TestGaps:
    async def test_an_open_transaction_holds_readers_before_its_events(
        self, log: EventLog, database: Database
    ) -> None:
        before = await log.append("a", {"n": 0})
        async with database.transaction() as open_transaction:
            await log.append("a", {"n": 1}, executor=open_transaction)
            later = await log.append("a", {"n": 2})

            assert [event.id for event in await log.since(0)] == [before]
            assert await log.since(later) == []
            assert await log.cursor() == before

        assert [event.payload["n"] for event in await log.since(before)] == [1, 2]

    async def test_an_open_transaction_without_events_holds_nobody(
        self, log: EventLog, database: Database, sql: Any
    ) -> None:
        async with sql.transaction():
            await sql.execute("INSERT INTO vault_commits VALUES ('x', '{}')")
            await log.append("a", {"n": 1})

            assert len(await log.since(0)) == 1

    async def test_nor_do_events_of_another_database(
        self,
        log: EventLog,
        postgres: ThrowAwayServer,
        template: str,
        clock: FixedClock,
        settings_factory: SettingsFactory,
    ) -> None:
        name = postgres.create_database(template)
        settings = settings_factory(database_url=SecretStr(postgres.dsn_of(name)))
        async with Database.open(settings) as other, other.transaction() as open_transaction:
            await EventLog(other, clock, node_id="there").append("a", {}, executor=open_transaction)
            await log.append_many([("a", {}), ("a", {})])

            assert len(await log.since(0)) == 2
        postgres.drop_database(name)

    async def test_a_transaction_that_began_earlier_may_append_later(
        self, log: EventLog, database: Database
    ) -> None:
        """Its transaction id is the lower one, its event the later one, and it commits first."""
        async with AsyncExitStack() as open_one:
            second = await open_one.enter_async_context(database.transaction())
            async with database.transaction() as first:
                await first.execute("notifier.claim", "key", "title", UUID(int=0), 1.0)
                await log.append("a", {"n": 1}, executor=second)
                await log.append("a", {"n": 2}, executor=first)
            assert await log.since(0) == []

        assert [event.payload["n"] for event in await log.since(0)] == [1, 2]

    async def test_an_event_taken_back_holds_nobody(self, log: EventLog, database: Database) -> None:
        async with database.transaction() as transaction:
            with pytest.raises(Undone):
                async with transaction.transaction() as savepoint:
                    await log.append("a", {"n": 1}, executor=savepoint)
                    raise Undone
            await log.append("a", {"n": 2})

            assert [event.payload["n"] for event in await log.since(0)] == [2]

    async def test_readers_miss_nothing_while_writers_commit_in_any_order(
        self, settings_factory: SettingsFactory, clock: FixedClock, sql: Any
    ) -> None:
        chance = random.Random(3)
        writers = 6
        async with Database.open(settings_factory(database={"pool_size": 12})) as database:
            log = EventLog(database, clock, node_id="here")

            async def write() -> None:
                for _ in range(40):
                    try:
                        async with database.transaction() as transaction:
                            await log.append_many([("a", {})] * chance.randint(1, 3), executor=transaction)
                            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.01]))
                            if chance.random() < 0.2:
                                raise Undone
                            await log.append("b", {}, executor=transaction)
                    except Undone:
                        pass

            async def read(limit: int, finished: asyncio.Event) -> list[int]:
                seen: list[int] = []
                while True:
                    last_turn = finished.is_set()
                    page = await log.since(seen[-1] if seen else 0, limit=limit)
                    seen += [event.id for event in page]
                    if last_turn and not page:
                        return seen

            finished = asyncio.Event()
            readers = [asyncio.create_task(read(limit, finished)) for limit in (1, 7, 1000)]
            await asyncio.gather(*(write() for _ in range(writers)))
            finished.set()
            committed = [row["id"] for row in await sql.fetch("SELECT id FROM events ORDER BY id")]

            assert len(committed) > 240
            assert await asyncio.gather(*readers) == [committed] * 3


class TestFollowing:
    async def test_yields_what_is_there_and_what_comes(self, log: EventLog) -> None:
        await log.append_many(("a", {"n": n}) for n in range(3))
        async with aclosing(log.follow(0)) as followed:
            assert await take(followed, 3) == [0, 1, 2]
            await log.append("a", {"n": 3})
            assert await take(followed, 1) == [3]

    async def test_begins_now_without_a_cursor(self, log: EventLog) -> None:
        async def follow() -> list[int]:
            async with aclosing(log.follow()) as followed:
                return await take(followed, 2)

        await log.append("a", {"n": 0})
        following = asyncio.create_task(follow())
        numbers = iter(range(1, 10**6))
        while not following.done():
            await log.append("a", {"n": next(numbers)})

        first, second = await following
        assert first >= 1
        assert second == first + 1

    async def test_begins_with_the_first_event_of_an_empty_log(self, log: EventLog) -> None:
        assert await log.cursor() == 0
        await log.append("a", {"n": 1})
        async with aclosing(log.follow(0)) as followed:
            assert await take(followed, 1) == [1]

    async def test_chooses_kinds(self, log: EventLog) -> None:
        async with aclosing(log.follow(0, kinds=["b"])) as followed:
            await log.append_many([("a", {"n": 1}), ("b", {"n": 2}), ("a", {"n": 3}), ("b", {"n": 4})])
            assert await take(followed, 2) == [2, 4]
        with pytest.raises(DataRefused):
            await anext(log.follow(0, kinds=["B"]))

    async def test_reads_on_when_what_held_it_is_rolled_back(self, log: EventLog, database: Database) -> None:
        """Nobody announces a rollback."""
        async with aclosing(log.follow(0)) as followed:
            with pytest.raises(Undone):
                async with database.transaction() as open_transaction:
                    await log.append("a", {"n": 1}, executor=open_transaction)
                    await log.append("a", {"n": 2})
                    following = asyncio.create_task(take(followed, 1))
                    done, _ = await asyncio.wait([following], timeout=0.2)
                    assert not done
                    raise Undone
            assert await following == [2]

    async def test_announces_ids_and_not_payloads(self, log: EventLog, sql: Any) -> None:
        heard: asyncio.Queue[str] = asyncio.Queue()
        await sql.add_listener("events", lambda *notice: heard.put_nowait(notice[3]))

        ids = await log.append_many([("a", {"text": "x" * 100_000})] * 3)

        assert await heard.get() == str(ids[-1])
        assert heard.empty()

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
    async def test_survives_a_restart_of_the_server_and_misses_nothing(
        self,
        own_postgres: ThrowAwayServer,
        settings_factory: SettingsFactory,
        clock: FixedClock,
        how: signal.Signals,
    ) -> None:
        url = own_postgres.dsn_of(own_postgres.create_database())
        # A throw-away server may forget its last commits when it crashes; this database is not to.
        admin = await asyncpg.connect(url)
        await admin.execute("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = on', "
                            "current_database()); END $$")  # fmt: skip
        await admin.close()
        async with Database.open(settings_factory(database_url=SecretStr(url))) as database:
            log = EventLog(database, clock, node_id="here")
            async with aclosing(log.follow(0)) as followed:
                await log.append("a", {"n": 1})
                assert await take(followed, 1) == [1]
                following = asyncio.create_task(take(followed, 3))
                own_postgres.restart(how)
                await append_at_last(log, 2)
                await log.append_many([("a", {"n": 3}), ("a", {"n": 4})])

                assert await following == [2, 3, 4]

    async def test_survives_an_outage_longer_than_a_connection_is_waited_for(
        self,
        own_postgres: ThrowAwayServer,
        settings_factory: SettingsFactory,
        clock: FixedClock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        url = own_postgres.dsn_of(own_postgres.create_database())
        settings = settings_factory(database_url=SecretStr(url), database={"connect_timeout_s": 1})
        async with Database.open(settings) as database:
            log = EventLog(database, clock, node_id="here")
            async with aclosing(log.follow(0)) as followed:
                await append_at_last(log, 1)
                assert await take(followed, 1) == [1]
                following = asyncio.create_task(take(followed, 1))
                own_postgres.stop()
                while caplog.text.count("Following events is interrupted, reconnecting") < 2:
                    await asyncio.sleep(0.05)
                own_postgres.start()
                await append_at_last(log, 2)

                assert await following == [2]

    async def test_a_database_that_is_gone_for_good_is_told(
        self, postgres: ThrowAwayServer, template: str, settings_factory: SettingsFactory, clock: FixedClock
    ) -> None:
        name = postgres.create_database(template)
        settings = settings_factory(database_url=SecretStr(postgres.dsn_of(name)))
        async with Database.open(settings) as database:
            log = EventLog(database, clock, node_id="here")
            async with aclosing(log.follow(0)) as followed:
                following = asyncio.create_task(take(followed, 1))
                await asyncio.sleep(0.1)
                postgres.drop_database(name)

                with pytest.raises(DatabaseUnavailable, match="check DATABASE_URL"):
                    await following
