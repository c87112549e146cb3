"""Feeds: what a look costs, and claiming looks among 10,000 and a million channels.

The plans are filled as if all channels had been looked at for weeks, in random order, and all are due. A
claim of four asks is followed by storing their answers, after which each channel is due again at its
interval. Sizes take turns, as neighbours disturb them all. Whole looks go through the source `feeds`, with
real requests to a server in another process, where each feed has 15 uploads.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.uploads import ClaimedLook, IntervalRule, LookResult, UploadsDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.testing import NOON
from maia.discovery.feeds import CHANNELS_PER_ASK, Feeds, scaled_pace
from maia.discovery.source import FEEDS, Stored
from maia.youtube.client import YouTube
from tests.api_server import Ledger
from tests.bench.figures import Figure
from tests.bench.servers import Bed, bed, migrated, settings_of
from tests.bench.stage import Cpu
from tests.feed_server import Upload, serving_feeds
from tests.ids import cid, vid

FEW, MANY = 10_000, 1_000_000
BATCH = 4 * CHANNELS_PER_ASK
WARM_UP, ROUNDS = 5, 60
LOOKS, SIDE_BY_SIDE = 1_500, 4
LOOKS_A_DAY = 20_000
HOLD = timedelta(minutes=5)
RULE = IntervalRule(
    scale=0.5, stretch=1.0, worth=1 / 1440, rate=1 / 72, shortest_h=0.25, longest_h=168,
    watched_longest_h=0.5, most_missed=10,
)  # fmt: skip

FILL = """
INSERT INTO channel_uploads (
    channel_id, next_look_at, looked_at, due_before, answered_at, newest_at, judged_until,
    interval_h, rate, worth, uploads, watched_h, growing, judged, watched, etag
)
SELECT 'UC' || lpad(i::text, 22, '0'),
    $2::timestamptz + interval '1 hour' * ((hashint8(i)::bigint & 65535) / 32768.0 - 2),
    $2, $2, $2, $2, $2, 24, 0.001 + (i % 97) * 0.01, 0.0001 + (i % 89) * 0.0001,
    5, 400, 0.5, 12, i % 10000 = 0, '"0123456789abcdef"'
FROM generate_series(1, $1::bigint) AS i
ORDER BY hashint8(i)
"""


async def fill(sql: Any, channels: int) -> None:
    await sql.execute("SET session_replication_role = replica")
    await sql.execute("SET statement_timeout = 0")
    await sql.execute(FILL, channels, NOON)
    await sql.execute("UPDATE feed_pace SET scale = 0.5, scaled_at = $1", NOON)
    await sql.execute("VACUUM ANALYZE channel_uploads")
    await sql.execute("CHECKPOINT")


def answered(look: ClaimedLook) -> LookResult:
    """An answer that changes all that answers change."""
    return LookResult(
        channel_id=look.channel_id, asked_at=look.claimed_at, answered=True, interval_h=3, rate=0.1,
        worth=0.01, uploads=look.uploads + 1, watched_h=look.watched_h + 3, growing=look.growing,
        judged=look.judged + 1, newest_at=look.claimed_at, judged_until=look.claimed_at,
        etag='"fedcba9876543210"',
    )  # fmt: skip


@dataclass(slots=True)
class Lane:
    """A plan of some length, and how long its claims and answers took."""

    bed: Bed
    dao: UploadsDAO
    clock: FixedClock
    claims_s: list[float] = field(default_factory=list)
    stores_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0

    @classmethod
    @asynccontextmanager
    async def ready(cls, bed: Bed, channels: int) -> AsyncIterator[Self]:
        url = await bed.new_database()
        async with migrated(url) as (database, settings), bed.connection(url) as sql:
            await fill(sql, channels)
            clock = FixedClock(NOON)
            yield cls(bed, UploadsDAO(database, clock=clock, settings=settings), clock)

    async def round(self) -> None:
        self.clock.advance(timedelta(seconds=1))
        before, began = _server_cpu_s(self.bed), time.perf_counter()
        looks = await self.dao.claim_looks(BATCH, RULE, HOLD)
        claimed = time.perf_counter()
        stored = await self.dao.store_looks(looks[0].token, [answered(look) for look in looks])
        self.claims_s.append(claimed - began)
        self.stores_s.append(time.perf_counter() - claimed)
        self.cpu_s += _server_cpu_s(self.bed) - before
        if not len(looks) == stored == BATCH:
            raise RuntimeError(f"{len(looks)} channels were claimed and {stored} answers stored")


def _server_cpu_s(bed: Bed) -> float:
    pid = bed.server.pid
    assert pid is not None, "the bench's server is gone"
    return Cpu.of(pid).total_s


async def claims(bed: Bed) -> AsyncIterator[Figure]:
    async with AsyncExitStack() as stack:
        lanes = {n: await stack.enter_async_context(Lane.ready(bed, n)) for n in (FEW, MANY)}
        for _ in range(WARM_UP + ROUNDS):
            for lane in lanes.values():
                await lane.round()
        p50 = {n: statistics.median(lane.claims_s[WARM_UP:]) * 1e3 for n, lane in lanes.items()}
        for channels, lane in lanes.items():
            stores_ms = statistics.median(lane.stores_s[WARM_UP:]) * 1e3
            per_look = lane.cpu_s / (WARM_UP + ROUNDS) / BATCH * 1e6
            yield Figure(
                f"claim {BATCH} looks of {channels:,} channels, p50",
                p50[channels],
                "ms",
                goal=50,
                at_most=True,
                note=f"storing the answers {stores_ms:.1f} ms; both {per_look:.0f} µs of server CPU a look",
            )
        longer = f"claim {BATCH} looks of {MANY:,} channels, p50"
        yield Figure(longer, p50[MANY], "ms", p50[FEW], f"of {FEW:,}", 2, at_most=True)
        lanes[MANY].clock.advance(timedelta(hours=2))
        began = time.perf_counter()
        await scaled_pace(lanes[MANY].dao, LOOKS_A_DAY)
        yield Figure(
            f"working out the scale for {MANY:,} channels, once an hour",
            (time.perf_counter() - began) * 1e3,
            "ms",
        )


async def looks(bed: Bed) -> AsyncIterator[Figure]:
    """Whole looks: claimed, asked for over HTTP, and stored."""
    async with feeds_elsewhere() as feed_url:
        url = await bed.new_database()
        settings = settings_of(
            url,
            feeds={"requests_per_s": 100, "looks_per_day": 1_000_000},
            youtube={"feed_url": feed_url},
        )
        async with Atlas.open(settings) as atlas, bed.connection(url) as sql:
            now = datetime.now(UTC)
            await sql.execute(
                "INSERT INTO channels SELECT id, 't', $2, $2 FROM unnest($1::text[]) AS id",
                [cid(n) for n in range(LOOKS)],
                now,
            )
            await sql.execute(
                "INSERT INTO channel_uploads (channel_id, next_look_at) SELECT id, $1 FROM channels", now
            )
            async with YouTube.open(settings.youtube, Ledger(), clock=atlas.clock) as youtube:
                source = Feeds(atlas, youtube)
                before, began = (_own_cpu_s(), _server_cpu_s(bed)), time.perf_counter()
                done = await look_at_all(atlas, source)
                took_s = time.perf_counter() - began
                own_s, server_s = _own_cpu_s() - before[0], _server_cpu_s(bed) - before[1]
            if done != LOOKS:
                raise RuntimeError(f"{done} of {LOOKS} channels were looked at")
    yield Figure("a look: CPU of the hunter", own_s / LOOKS * 1e3, "ms", note=f"{LOOKS / took_s:.0f} looks/s")
    yield Figure("a look: CPU of the database", server_s / LOOKS * 1e3, "ms")
    per_day_s = (own_s + server_s) / LOOKS * LOOKS_A_DAY
    yield Figure(f"{LOOKS_A_DAY:,} looks a day: CPU of both", per_day_s, "s a day")
    yield Figure(
        "looks a day that one core has CPU for",
        86_400 / ((own_s + server_s) / LOOKS),
        "looks",
        goal=LOOKS_A_DAY,
    )


async def look_at_all(atlas: Atlas, source: Feeds) -> int:
    """Look at what is due, a few asks at a time as a hunter does; returns the number of answers."""
    maia = MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    done = 0

    async def finish(ask: Any) -> int:
        finding = await source.put(ask)
        async with maia.transaction() as dao:
            await source.complete(dao, finding, Stored())
        return len(finding.answers)

    while asks := await source.claim({FEEDS: SIDE_BY_SIDE}):
        done += sum(await asyncio.gather(*map(finish, asks)))
    return done


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@asynccontextmanager
async def feeds_elsewhere() -> AsyncIterator[str]:
    """The URL of a server of feeds in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from tests.bench.bench_feeds import serve; serve()",
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


def serve() -> None:
    """Serve feeds of 15 uploads each until killed, and print the URL."""

    async def forever() -> None:
        async with serving_feeds(lambda: datetime.now(UTC)) as feeds:
            now = datetime.now(UTC)
            feeds.channels = {
                cid(n): [
                    Upload(vid(f"{n}-{k}"), now - timedelta(hours=(k + 0.5) * (1 + n % 50)), 10**k)
                    for k in range(15)
                ]
                for n in range(LOOKS)
            }
            print(feeds.url, flush=True)
            await asyncio.Event().wait()

    asyncio.run(forever())


async def figures() -> AsyncIterator[Figure]:
    async with bed() as server:
        async for figure in looks(server):
            yield figure
        async for figure in claims(server):
            yield figure
