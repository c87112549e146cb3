"""Retention: dropping the partitions of expired samples, against deleting and vacuuming the same rows.

Ten days of samples are expired, two are not. The same database is copied: one copy drops partitions, as the
tracker and the clean-up do; the other deletes the rows in one statement, then in batches as the clean-up does
with tables that have no partitions. `--samples 10000000` takes four minutes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from atlas.adapters.retention import RetentionDAO, Rule
from atlas.adapters.tracking import TrackingDAO
from atlas.clock import FixedClock
from atlas.testing import NOON
from tests.bench.figures import Figure
from tests.bench.servers import Bed, bed, migrated

EXPIRED_DAYS, KEPT_DAYS = 10, 2
PEER = "s, DELETE and VACUUM"
FILL = """
INSERT INTO video_stats_log (video_id, methodology, sampled_at, views, likes, comments, velocity)
SELECT lpad(to_hex(n / 24), 11, '0'), 2, $1::timestamptz + n % 24 * interval '1 hour', 1000 + n, 10, 1, 1.5
FROM generate_series(0, $2::bigint - 1) AS n
"""
UNPARTITIONED = "CREATE TABLE samples AS SELECT * FROM video_stats_log"
BY_TIME = Rule(
    name="samples", table="samples", what="samples", column="sampled_at",
    days=lambda settings: settings.tracker.retention_days,
)  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=5_000_000, help="how many samples are expired")


def options_of(parsed: argparse.Namespace) -> int:
    samples: int = parsed.samples
    return samples


async def fill(place: Bed, samples: int) -> str:
    """The URL of a database with so many expired samples, and a fifth as many that are not."""
    url = await place.new_database()
    async with migrated(url) as (_, settings), place.connection(url) as sql:
        await sql.execute("SET statement_timeout = 0")
        newest = settings.tracker.retention_days - KEPT_DAYS
        for ago in range(newest + 1, newest + 1 + KEPT_DAYS + EXPIRED_DAYS):
            day = NOON.replace(hour=0) - timedelta(days=ago)
            await sql.execute("SELECT ensure_sample_days(ARRAY[$1]::date[])", day.date())
            await sql.execute(FILL, day, samples // EXPIRED_DAYS)
        await sql.execute("VACUUM ANALYZE video_stats_log")
        await sql.execute("CHECKPOINT")
    return url


async def wal_bytes(sql: Any) -> int:
    written: int = await sql.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
    return written


async def figures(samples: int) -> AsyncIterator[Figure]:
    async with bed() as place:
        filled = await fill(place, samples)
        deleting = await place.new_database(like=filled)
        dropped_s, dropped_wal, left = await drop(place, filled)
        assert left == samples // EXPIRED_DAYS * KEPT_DAYS, "the samples within retention stay"
        await place.drop_database(filled)
        deleted_s, deleted_wal = await delete(place, deleting, samples)
        batches_s = await delete_in_batches(place, deleting, samples)
    yield Figure(
        f"{samples:,} expired samples: dropping their partitions", dropped_s, "s", deleted_s, PEER,
        goal=0.2, at_most=True,
    )  # fmt: skip
    yield Figure("  write-ahead log of it", dropped_wal / 2**20, "MiB", deleted_wal / 2**20, "MiB")
    yield Figure(
        "  the clean-up's batches, of a table without partitions", batches_s, "s", deleted_s, PEER,
        note="each batch is a transaction of its own, so that it can be interrupted",
    )  # fmt: skip


async def drop(place: Bed, url: str) -> tuple[float, int, int]:
    async with migrated(url) as (database, settings), place.connection(url) as sql:
        dao = TrackingDAO(database, clock=FixedClock(NOON), settings=settings)
        before = NOON.date() - timedelta(days=settings.tracker.retention_days)
        wal, began_s = await wal_bytes(sql), time.perf_counter()
        dropped = await dao.drop_samples_before(before)
        took_s = time.perf_counter() - began_s
        assert len(dropped) == EXPIRED_DAYS
        return took_s, await wal_bytes(sql) - wal, await sql.fetchval("SELECT count(*) FROM video_stats_log")


async def delete(place: Bed, url: str, samples: int) -> tuple[float, int]:
    async with migrated(url) as (_, settings), place.connection(url) as sql:
        await sql.execute("SET statement_timeout = 0")
        # For the batches, before the rows are gone.
        await sql.execute(UNPARTITIONED)
        await sql.execute("ANALYZE samples")
        await sql.execute("CHECKPOINT")
        before = NOON.replace(hour=0) - timedelta(days=settings.tracker.retention_days)
        wal, began_s = await wal_bytes(sql), time.perf_counter()
        done = await sql.execute("DELETE FROM video_stats_log WHERE sampled_at < $1", before)
        # Until then the space of what was deleted can't be used again.
        await sql.execute("VACUUM video_stats_log")
        took_s = time.perf_counter() - began_s
        assert done == f"DELETE {samples}"
        return took_s, await wal_bytes(sql) - wal


async def delete_in_batches(place: Bed, url: str, samples: int) -> float:
    async with migrated(url) as (database, settings):
        dao = RetentionDAO(database, clock=FixedClock(NOON.replace(hour=0)), settings=settings)
        began_s, deleted = time.perf_counter(), 0
        found = await dao.find(BY_TIME)
        assert found is not None
        async for rows in dao.remove(found):
            deleted += rows
        assert deleted == samples
        return time.perf_counter() - began_s
