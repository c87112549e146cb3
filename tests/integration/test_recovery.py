"""What several processes share in PostgreSQL follows the same arithmetic as in one process."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from atlas.clock import FixedClock, pacific_day
from atlas.db import Database
from atlas.recovery import Backoff, TokenBucket
from atlas.testing import NOON

pytestmark = pytest.mark.integration

WAITS_MS = (
    0,
    0,
    0,
    0,
    0,
    0,
    100,
    250,
    1,
    249,
    250,
    2000,
    0,
    0,
    0,
    0,
    0,
    0,
    125,
    125,
    125,
    90_000,
    0,
    0,
    0,
    0,
    0,
    0,
)


async def test_the_pace_of_feeds_is_a_token_bucket(database: Database, sql: Any, clock: FixedClock) -> None:
    token = uuid4()
    await sql.execute(
        "INSERT INTO channels (id, discovered_at, refreshed_at) VALUES ('UC-one', $1, $1)", NOON
    )
    await sql.execute(
        "INSERT INTO channel_uploads (channel_id, next_look_at, claim_token) VALUES ('UC-one', $2, $1) "
        "ON CONFLICT (channel_id) DO UPDATE SET claim_token = $1",
        token,
        NOON,
    )
    # One at a time each 250 ms, and a second's worth beside it: that is a burst of five.
    interval_s, burst_s = 0.25, 1.0
    bucket = TokenBucket(
        rate_per_s=1 / interval_s,
        burst=5,
        now_ns=lambda: (clock.now() - NOON) // timedelta(microseconds=1) * 1000,
    )
    admitted = []
    for wait_ms in WAITS_MS:
        clock.advance(timedelta(milliseconds=wait_ms))
        row = await database.fetchrow(
            "uploads.begin_look", clock.now(), interval_s, burst_s, 1_000_000, pacific_day(clock.now()), 60.0,
            "UC-one", token, 0.0,
        )  # fmt: skip
        assert row is not None
        assert row["is_held"]
        admitted.append(row["is_probe"] is not None)
        assert admitted[-1] is bucket.try_take()
    assert 0 < sum(admitted) < len(WAITS_MS)


async def test_the_back_off_of_feeds_doubles_alike(database: Database, clock: FixedClock) -> None:
    backoff = Backoff(first_s=60, longest_s=3600)
    for refusals in range(10):
        until = await database.fetchval("uploads.back_off", clock.now(), "refused", None, 60.0, 3600.0)
        assert until == clock.now() + timedelta(seconds=backoff.pause_s(refusals))
        clock.instant = until
