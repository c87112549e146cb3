"""The search queue: rows claimed and completed against other queues on the same server, and its own length.

Every contestant does nothing with a row but claim and complete it, in one process with one event loop,
with one worker or with four, as suits it best. Rounds alternate, and the best counts, as neighbours
disturb them all. Topics are completed as the hunter completes them: a run is ten pages long, so nine
times in ten a topic goes on with a page token, and then it begins to cool; a row of its own says what it
costs if each begins to cool.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol, Self
from uuid import uuid4

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.queue import Topic, TopicOutcome
from atlas.clock import SystemClock
from atlas.config import Settings
from atlas.db import Database, Transaction
from atlas.testing import NOON
from tests.bench.figures import Figure
from tests.bench.servers import Bed, bed, cpu_s, migrated

ROUNDS = 5
WORKERS = 4
PAGES_A_RUN = 10
ROWS = 12_000
FEW_ROWS = 1_000
SHORT, LONG = 10_000, 1_000_000
MANY_CLAIMS = 100_000
PLAN_MODES = ("auto", "force_generic_plan", "force_custom_plan")

FILL = """
INSERT INTO search_queue (query, key, origin, priority, created_at)
SELECT name, name, 'tag', 10000 + random() * 10, $2
FROM generate_series(1, $1::bigint) AS i, format('topic %s %s', i, md5(i::text)) AS name
"""


class Contestant(Protocol):
    """A queue that can be filled and drained."""

    name: str

    async def fill(self, rows: int) -> None: ...

    async def drain(self, batch: int, workers: int) -> int:
        """Claim and complete everything; how many rows that were."""
        ...


async def fill_queue(sql: Any, topics: int) -> None:
    await sql.execute("CHECKPOINT")
    await sql.execute("TRUNCATE search_queue CASCADE")
    await sql.execute(FILL, topics, NOON)
    await sql.execute("UPDATE queue_state SET topics = $1", topics)
    await sql.execute("VACUUM ANALYZE search_queue")


def cooled(topic: Topic) -> TopicOutcome:
    return TopicOutcome(
        topic.id, None, 50, "cooling", topic.lease_token, new=20, page_digest="0123456789abcdef"
    )


def paged(topic: Topic) -> TopicOutcome:
    params = {"q": topic.query, "order": "date", "publishedAfter": None, "maxResults": 50}
    return TopicOutcome(
        topic.id, "CDIQAA", 50, "active", topic.lease_token, params, NOON, 20, page_digest="0123456789abcdef"
    )


class Ours:
    """MaiaDAO, with several workers in one loop, as the hunter has."""

    name = "MaiaDAO"

    def __init__(self, sql: Any, dao: MaiaDAO) -> None:
        self.sql, self.dao = sql, dao
        self.left = 0

    @classmethod
    @asynccontextmanager
    async def ready(cls, bed: Bed) -> AsyncIterator[Self]:
        url = await bed.new_database()
        async with migrated(url) as (database, settings), bed.connection(url) as sql:
            yield cls(sql, MaiaDAO(database, clock=SystemClock(), settings=settings))

    async def fill(self, rows: int) -> None:
        self.left = rows
        await fill_queue(self.sql, rows)

    def outcome(self, topic: Topic) -> TopicOutcome:
        return cooled(topic) if (topic.pages + topic.id) % PAGES_A_RUN == 0 else paged(topic)

    async def drain(self, batch: int, workers: int) -> int:
        return sum(await asyncio.gather(*(self._work(batch) for _ in range(workers))))

    async def _work(self, batch: int) -> int:
        done = 0
        while self.left > 0:
            self.left -= batch
            topics = await self.dao.fetch_hunter_batch(batch)
            await self.dao.update_search_states([self.outcome(topic) for topic in topics])
            done += len(topics)
        return done


class AllCooling(Ours):
    """The same where every topic is done for good."""

    name = "MaiaDAO, all begin to cool"

    def outcome(self, topic: Topic) -> TopicOutcome:
        return cooled(topic)


class PgqueuerQueries:
    """pgqueuer's own statements for claiming and completing, without its worker."""

    name = "pgqueuer's bare queries"

    def __init__(self, connections: Sequence[Any]) -> None:
        from pgqueuer import Queries

        self.sql = connections[0]
        self.queries = [Queries.from_asyncpg_connection(connection) for connection in connections]

    @classmethod
    @asynccontextmanager
    async def ready(cls, bed: Bed) -> AsyncIterator[Self]:
        url = await bed.new_database()
        async with AsyncExitStack() as stack:
            contestant = cls([await stack.enter_async_context(bed.connection(url)) for _ in range(WORKERS)])
            await contestant.queries[0].install()
            yield contestant

    async def fill(self, rows: int) -> None:
        await self.sql.execute("CHECKPOINT")
        await self.queries[0].enqueue(["fetch"] * rows, [b"x"] * rows, [0] * rows)
        await self.sql.execute("VACUUM ANALYZE pgqueuer")

    async def drain(self, batch: int, workers: int) -> int:
        return sum(await asyncio.gather(*(self._work(queries, batch) for queries in self.queries[:workers])))

    async def _work(self, queries: Any, batch: int) -> int:
        from pgqueuer.queries import EntrypointExecutionParameter

        done, manager = 0, uuid4()
        entrypoints = {"fetch": EntrypointExecutionParameter(0)}
        while jobs := await queries.dequeue(batch, entrypoints, manager, None, timedelta(seconds=30)):
            await queries.log_jobs([(job, "successful", None) for job in jobs])
            done += len(jobs)
        return done


class Pgqueuer(PgqueuerQueries):
    """pgqueuer's worker."""

    name = "pgqueuer"

    async def _work(self, queries: Any, batch: int) -> int:
        from pgqueuer import PgQueuer
        from pgqueuer.types import QueueExecutionMode

        worker, done = PgQueuer(queries.driver), 0

        @worker.entrypoint("fetch")
        async def fetch(job: Any) -> None:
            nonlocal done
            done += 1

        await worker.qm.run(
            batch_size=batch, mode=QueueExecutionMode.drain, dequeue_timeout=timedelta(milliseconds=10)
        )
        return done


class Procrastinate:
    """procrastinate's worker; it claims row by row, several at once."""

    name = "procrastinate"

    def __init__(self, app: Any, task: Any) -> None:
        self.app, self.task, self.done = app, task, 0

    @classmethod
    @asynccontextmanager
    async def ready(cls, bed: Bed) -> AsyncIterator[Self]:
        import procrastinate

        url = await bed.new_database()
        app = procrastinate.App(
            connector=procrastinate.PsycopgConnector(conninfo=url, min_size=4, max_size=12)
        )
        contestant = cls(app, None)

        @app.task(name="fetch")
        async def fetch(number: int) -> None:
            contestant.done += 1

        contestant.task = fetch
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            yield contestant

    async def fill(self, rows: int) -> None:
        await self.task.configure().batch_defer_async(*({"number": number} for number in range(rows)))

    async def drain(self, batch: int, workers: int) -> int:
        self.done = 0
        await self.app.run_worker_async(
            wait=False, concurrency=batch, install_signal_handlers=False, listen_notify=False
        )
        return self.done


@dataclass(frozen=True, slots=True)
class Entry:
    """One way of working a queue, and the rates it reached."""

    contestant: Contestant
    batch: int
    rows: int
    workers: int = 1
    rates: list[float] = field(default_factory=list)

    async def run(self) -> None:
        """Fill the queue, then measure rows a second, claimed and completed."""
        await self.contestant.fill(self.rows)
        gc.collect()
        began = time.perf_counter()
        done = await self.contestant.drain(self.batch, self.workers)
        seconds = time.perf_counter() - began
        if done < self.rows:
            raise RuntimeError(f"{self.contestant.name} did {done} of {self.rows} rows")
        self.rates.append(done / seconds)


def best(entries: Sequence[Entry], contestant: Contestant, batch: int) -> float:
    return max(
        rate
        for entry in entries
        if entry.contestant is contestant and entry.batch == batch
        for rate in entry.rates
    )


async def against_others(bed: Bed) -> AsyncIterator[Figure]:
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(Ours.ready(bed))
        cooling = await stack.enter_async_context(AllCooling.ready(bed))
        worker = await stack.enter_async_context(Pgqueuer.ready(bed))
        queries = await stack.enter_async_context(PgqueuerQueries.ready(bed))
        slow = await stack.enter_async_context(Procrastinate.ready(bed))
        entries = [
            Entry(contestant, batch, rows, workers)
            for workers in (1, WORKERS)
            for contestant, batch, rows in (
                (ours, 100, ROWS),
                (worker, 250, ROWS),
                (cooling, 100, ROWS),
                (queries, 250, ROWS),
                (ours, 10, ROWS // 2),
                (worker, 10, ROWS // 4),
            )
        ]
        entries.append(Entry(slow, 10, FEW_ROWS))
        for _ in range(ROUNDS):
            for entry in entries:
                await entry.run()
    by_100, by_10 = best(entries, ours, 100), best(entries, ours, 10)
    procrastinate, by_250 = best(entries, slow, 10), best(entries, worker, 250)
    faster = max((by_250, "pgqueuer by 250"), (procrastinate, "procrastinate"))
    what = "topics claimed and completed by"
    yield Figure(f"{what} 100", by_100, "rows/s", *faster, 3)
    yield Figure(f"{what} 10", by_10, "rows/s", *faster, 1)
    yield Figure(f"{what} 10", by_10, "rows/s", best(entries, worker, 10), "pgqueuer by 10")
    yield Figure(f"{what} 100", by_100, "rows/s", procrastinate, "procrastinate, 10 at once")
    yield Figure(f"{what} 100, all begin to cool", best(entries, cooling, 100), "rows/s", *faster)
    bare = best(entries, queries, 250)
    yield Figure(f"{what} 100", by_100, "rows/s", bare, "pgqueuer's bare queries by 250")


class Measured:
    """A queue of some length, worked on one connection so that its server process can be watched."""

    def __init__(self, sql: Any, connection: Any, settings: Settings, pid: int) -> None:
        self.sql, self.connection, self.pid = sql, connection, pid
        self.dao = MaiaDAO(Transaction(connection), clock=SystemClock(), settings=settings)

    @classmethod
    @asynccontextmanager
    async def ready(cls, bed: Bed, topics: int) -> AsyncIterator[Self]:
        url = await bed.new_database()
        async with migrated(url) as (database, settings), bed.connection(url) as sql:
            await fill_queue(sql, topics)
            async with lent(database) as (connection, pid):
                yield cls(sql, connection, settings, pid)

    async def claim(self, topics: int, finish: Callable[[Topic], TopicOutcome]) -> None:
        for _ in range(topics // 10):
            claimed = await self.dao.fetch_hunter_batch(10)
            await self.dao.update_search_states([finish(topic) for topic in claimed])

    async def cpu_us(self, topics: int = 10_000) -> float:
        """CPU that the server spends on claiming and completing one topic by tens, in microseconds."""
        before = cpu_s(self.pid)
        await self.claim(topics, paged)
        return (cpu_s(self.pid) - before) / topics * 1e6

    async def sequential_scans(self) -> int:
        await self.sql.execute("SELECT pg_stat_clear_snapshot()")
        await asyncio.sleep(1.1)
        return int(
            await self.sql.fetchval("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'search_queue'")
        )


@asynccontextmanager
async def lent(database: Database) -> AsyncIterator[tuple[Any, int]]:
    """A connection of the pool, as statements get it, with the process that serves it."""
    taken: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def keep(connection: Any) -> None:
        taken.set_result(connection)
        await done.wait()

    keeper = asyncio.create_task(_on_connection(database, keep))
    try:
        connection = await taken
        yield connection, connection.get_server_pid()
    finally:
        done.set()
        await keeper


async def _on_connection(database: Database, work: Callable[[Any], Awaitable[None]]) -> None:
    await database._on_connection("bench", work)


async def against_length(bed: Bed) -> AsyncIterator[Figure]:
    async with Measured.ready(bed, SHORT) as short, Measured.ready(bed, LONG) as long:
        scans = await long.sequential_scans()
        pairs = [(await short.cpu_us(), await long.cpu_us()) for _ in range(ROUNDS)]
        at_short, at_long = (min(pair[side] for pair in pairs) for side in (0, 1))
        unit = "µs of server CPU a topic"
        yield Figure(f"claim in {LONG:,} topics", at_long, unit, at_short, f"in {SHORT:,}", 1.5, at_most=True)
        await long.claim(MANY_CLAIMS, cooled)
        after = min([await long.cpu_us() for _ in range(ROUNDS)])
        yield Figure(
            f"claim after {MANY_CLAIMS:,} claims", after, unit, at_short, f"in {SHORT:,}", 1.5, at_most=True
        )
        for mode in PLAN_MODES:
            await long.connection.execute(f"SET plan_cache_mode = {mode}")
            await long.claim(1_000, paged)
        seen = await long.sequential_scans() - scans
        yield Figure("sequential scans of the queue, any plan mode", seen, "scans", goal=0, at_most=True)


async def figures() -> AsyncIterator[Figure]:
    async with bed() as server:
        async for figure in against_others(server):
            yield figure
        async for figure in against_length(server):
            yield figure
