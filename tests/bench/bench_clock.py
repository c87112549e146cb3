"""The clock: claiming what is due among 10,000, a million and five million videos, and storing samples.

The clocks are filled as if all videos had been found and sampled in random order, with rows as many to a
page as live ones reach, and all are due: so the thousand that a claim takes stand in a thousand pages.
Sizes take turns, as neighbours disturb them all. A claim is followed by storing its samples, after which
each video is due again, behind all others. Neither reads a row of the videos, so there are none.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.tracking import Target, VideoUpdate
from atlas.clock import FixedClock
from atlas.testing import NOON
from tests.bench.figures import Figure
from tests.bench.servers import Bed, bed, migrated
from tests.bench.stage import Cpu

FEW, MANY, MOST = 10_000, 1_000_000, 5_000_000
BATCH, PAGE = 1_000, 50
WARM_UP, ROUNDS = 5, 40
LONG_RUN = 200
STORED = 20_000

FILL = """
INSERT INTO video_clock (
    video_id, channel_id, category_id, zone, interval_h, age_class, samples, born_at, next_due_at,
    metadata_at, last_sampled_at, last_at, last_views, last_likes, last_comments, velocity, acceleration,
    weight, relative_velocity, viral_score, watch_level, watch_variance, watch_seen_h, watch_evidence_h,
    watch_open_h, watch_open_views
)
SELECT substr(md5(i::text), 1, 5) || lpad(to_hex(i), 6, '0'),
    'UC' || lpad((hashint8(i) & 131071)::text, 22, '0'),
    22, zone, interval_h, 5, 10, $2::timestamptz - interval '10 days',
    $2::timestamptz - interval '1 hour' * interval_h * (hashint8extended(i, 7) & 1048575) / 1048576.0,
    $2, $2, $2, 12345 + i, 100, 10, 12.5 + i, 0.25, 0.9, 1.5, 0.6, 3.25, 0.3, 100.5, 0, 0.5, 12
FROM generate_series(1, $1::bigint) AS i,
    LATERAL (SELECT CASE WHEN i % 25 = 0 THEN 0 WHEN i % 25 < 5 THEN 1 ELSE 2 END) AS z (zone),
    LATERAL (SELECT (ARRAY[1, 6, 24])[zone + 1]) AS w (interval_h)
"""
INDEXES = (
    "ALTER TABLE video_clock ADD PRIMARY KEY (video_id)",
    "CREATE INDEX video_clock_due ON video_clock (zone, next_due_at) WHERE status = 'live'",
)


async def fill(sql: Any, videos: int) -> None:
    await sql.execute("SET session_replication_role = replica")
    await sql.execute("SET maintenance_work_mem = '256MB'")
    await sql.execute("SET statement_timeout = 0")
    await sql.execute("ALTER TABLE video_clock DROP CONSTRAINT video_clock_pkey")
    await sql.execute("DROP INDEX video_clock_due")
    # New rows fill a quarter of a page, and have nearly doubled when their state is complete.
    await sql.execute("ALTER TABLE video_clock SET (fillfactor = 42)")
    await sql.execute(FILL, videos, NOON)
    await sql.execute("ALTER TABLE video_clock SET (fillfactor = 25)")
    for index in INDEXES:
        await sql.execute(index)
    await sql.execute("VACUUM ANALYZE video_clock")
    await sql.execute("CHECKPOINT")


def sample(target: Target, clock: FixedClock) -> VideoUpdate:
    """What sampling would bring; due again behind everybody else."""
    now, views = clock.now(), (target.last_views or 0) + 5
    return VideoUpdate(
        target.id, target.lease_token, now, now, target.zone, target.interval_h, views, 101, 11, 5.5,
        last_at=now, last_views=views, velocity=12.25, acceleration=0.125, weight=0.95, relative_velocity=1.5,
        viral_score=0.625, age_class=target.age_class, breakout_state=target.breakout_state,
    )  # fmt: skip


@dataclass(slots=True)
class Lane:
    """A clock of some length, and how long its claims and samples took."""

    bed: Bed
    sql: Any
    dao: MaiaDAO
    clock: FixedClock
    claims_s: list[float] = field(default_factory=list)
    claims_cpu_s: list[float] = field(default_factory=list)
    claimed: int = 0
    scans: int = 0

    @classmethod
    @asynccontextmanager
    async def ready(cls, bed: Bed, videos: int) -> AsyncIterator[Self]:
        url = await bed.new_database()
        async with migrated(url) as (database, settings), bed.connection(url) as sql:
            await fill(sql, videos)
            clock = FixedClock(NOON)
            dao = MaiaDAO(database, clock=clock, settings=settings)
            await dao.ensure_partitions([NOON.date()])
            lane = cls(bed, sql, dao, clock)
            lane.scans = (await lane.seen())[1]
            yield lane

    def server_cpu_s(self) -> float:
        pid = self.bed.server.pid
        assert pid is not None, "the bench's server is gone"
        return Cpu.of(pid).total_s

    async def round(self) -> None:
        self.clock.advance(timedelta(seconds=1))
        before, began = self.server_cpu_s(), time.perf_counter()
        targets = await self.dao.fetch_tracker_targets(BATCH)
        self.claims_s.append(time.perf_counter() - began)
        self.claims_cpu_s.append(self.server_cpu_s() - before)
        self.claimed += len(targets)
        stored = await self.dao.update_video_stats_batch([sample(target, self.clock) for target in targets])
        if not len(targets) == stored.samples == BATCH:
            raise RuntimeError(f"{len(targets)} videos were claimed and {stored.samples} samples stored")

    async def seen(self) -> tuple[int, int]:
        """HOT updates of the clock so far, and sequential scans of it."""
        # A session tells what it did at the end of a statement, at most once a second.
        await asyncio.sleep(1.1)
        await self.dao.ensure_partitions([NOON.date()])
        row = await self.sql.fetchrow(
            "SELECT n_tup_hot_upd, seq_scan FROM pg_stat_user_tables WHERE relname = 'video_clock'"
        )
        return row[0], row[1]


def median_ms(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1e3


async def claims(bed: Bed) -> AsyncIterator[Figure]:
    async with AsyncExitStack() as stack:
        lanes = {
            videos: await stack.enter_async_context(Lane.ready(bed, videos)) for videos in (FEW, MANY, MOST)
        }
        for _ in range(WARM_UP + ROUNDS):
            for lane in lanes.values():
                await lane.round()
        p50 = {videos: median_ms(lane.claims_s[WARM_UP:]) for videos, lane in lanes.items()}
        cpu = {videos: statistics.fmean(lane.claims_cpu_s[WARM_UP:]) for videos, lane in lanes.items()}
        for videos, lane_ms in p50.items():
            goal = 40 if videos == MOST else None
            note = f"server CPU {cpu[videos] / BATCH * 1e6:.0f} µs a video"
            yield Figure(
                f"claim {BATCH:,} of {videos:,} videos, p50",
                lane_ms,
                "ms",
                goal=goal,
                at_most=True,
                note=note,
            )
        longer = f"claim {BATCH:,} of {MOST:,} videos, p50"
        yield Figure(longer, p50[MOST], "ms", p50[MANY], f"of {MANY:,}", 1.5, at_most=True)
        async for figure in long_run(lanes[MANY]):
            yield figure
        began = time.perf_counter()
        await lanes[MANY].dao.clock_counts()
        yield Figure(f"counts of {MANY:,} videos by zone", (time.perf_counter() - began) * 1e3, "ms")


async def long_run(lane: Lane) -> AsyncIterator[Figure]:
    """As many claims as a day and a night bring, and what is left to see of them."""
    lane.claims_s.clear()
    for _ in range(LONG_RUN):
        await lane.round()
    tenth = LONG_RUN // 10
    first, last = median_ms(lane.claims_s[:tenth]), median_ms(lane.claims_s[-tenth:])
    what = f"claim after {LONG_RUN * BATCH:,} claims, p50"
    yield Figure(what, last, "ms", first, "at first", 1.5, at_most=True)
    in_place, scans = await lane.seen()
    yield Figure("claims that were HOT", in_place / lane.claimed, "of all", goal=1)
    yield Figure("sequential scans of the clock", scans - lane.scans, "scans", goal=0, at_most=True)


async def samples(bed: Bed) -> AsyncIterator[Figure]:
    """Samples stored, against COPY of the same samples into a table without key, index or clock."""
    async with Lane.ready(bed, MANY) as lane:
        await lane.sql.execute("CREATE TABLE bare (LIKE video_stats_log)")
        rates: dict[str, list[float]] = {}
        cpus: dict[str, list[float]] = {}
        for _ in range(4):
            for batch in (BATCH, PAGE):
                targets = await lane.dao.fetch_tracker_targets(STORED)
                lane.clock.advance(timedelta(seconds=1))
                for way, store in (("copied", copy_to(lane)), ("stored", lane.dao.update_video_stats_batch)):
                    updates = [sample(target, lane.clock) for target in targets]
                    before, began = lane.server_cpu_s(), time.perf_counter()
                    for start in range(0, STORED, batch):
                        await store(updates[start : start + batch])
                    rates.setdefault(f"{way} {batch}", []).append(STORED / (time.perf_counter() - began))
                    cpus.setdefault(f"{way} {batch}", []).append(
                        (lane.server_cpu_s() - before) / STORED * 1e6
                    )
        for batch in (BATCH, PAGE):
            ours, copied = max(rates[f"stored {batch}"]), max(rates[f"copied {batch}"])
            yield Figure(f"samples stored by {batch:,}", ours, "rows/s", copied, "COPY, bare")
            ours, copied = min(cpus[f"stored {batch}"]), min(cpus[f"copied {batch}"])
            yield Figure(f"samples stored by {batch:,}", ours, "µs of server CPU", copied, "COPY, bare")
        size = await lane.sql.fetchrow(
            "SELECT sum(pg_total_relation_size(relid)), (SELECT count(*) FROM video_stats_log) "
            "FROM pg_partition_tree('video_stats_log') WHERE isleaf AND level = 1"
        )
        yield Figure("disk for a sample, with its index", float(size[0]) / size[1], "bytes")


def copy_to(lane: Lane) -> Any:
    columns = ("video_id", "sampled_at", "views", "likes", "comments", "velocity", "methodology")

    async def copy(updates: Sequence[VideoUpdate]) -> None:
        rows = [
            (update.id, update.sampled_at, update.views, update.likes, update.comments, 5.5, 2)
            for update in updates
        ]
        await lane.sql.copy_records_to_table("bare", records=rows, columns=columns)

    return copy


async def figures() -> AsyncIterator[Figure]:
    async with bed() as server:
        async for figure in samples(server):
            yield figure
        async for figure in claims(server):
            yield figure
