"""The clock, the log of samples and the norms against a real PostgreSQL."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.tracking import (
    NO_BREAKOUT_STATE,
    BatchStored,
    ChannelNorm,
    ChannelUpdate,
    StoredCohort,
    Target,
    VideoUpdate,
    ZoneCounts,
)
from atlas.clock import FixedClock, SystemClock
from atlas.db import Database
from atlas.errors import DataRefused
from atlas.testing import NOON, SettingsFactory

pytestmark = pytest.mark.integration

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
EPOCH = datetime.fromisoformat("2026-08-27T00:00Z")
MakeDAO = Callable[..., MaiaDAO]


def found(video_id: str, age: timedelta | None = HOUR, **values: Any) -> Any:
    """A video as the API tells it."""
    whole = {
        "id": video_id, "channel_id": "UC-one", "channel_title": "One", "title": f"About {video_id}",
        "description": "", "published_at": None if age is None else NOON - age, "category_id": 22,
        "tags": (), "duration_s": 90, "live_broadcast_content": "none", "default_language": None,
        "view_count": 100, "like_count": 10, "comment_count": 1, "etag": "e",
        "scheduled_start_at": None, "actual_start_at": None, "actual_end_at": None,
    }  # fmt: skip
    return SimpleNamespace(**whole | values)


def sampled(target: Target, at: datetime, views: int | None = 200, **values: Any) -> VideoUpdate:
    """A sample with the simplest state there can be, due again after the interval."""
    known = {"last_at": at, "last_views": views} if views is not None else {}
    known = {"last_at": target.last_at, "last_views": target.last_views} | known
    whole: dict[str, Any] = {
        "views": views, "likes": 20, "comments": 2, "zone": target.zone, "interval_h": target.interval_h,
        "next_due_at": at + timedelta(hours=target.interval_h), "age_class": target.age_class,
        "breakout_state": target.breakout_state,
    }  # fmt: skip
    return VideoUpdate(target.id, target.lease_token, at, **known | whole | values)


def missing(target: Target, at: datetime, **values: Any) -> VideoUpdate:
    whole: dict[str, Any] = {
        "zone": target.zone,
        "interval_h": target.interval_h,
        "next_due_at": at + timedelta(hours=target.interval_h),
        "misses": target.misses + 1,
    }
    return VideoUpdate(target.id, target.lease_token, None, **whole | values)


@pytest.fixture
def make_dao(database: Database, clock: FixedClock, settings_factory: SettingsFactory) -> MakeDAO:
    """Makes a DAO; each is to the clock what a process of its own is."""

    def make(**tracker: Any) -> MaiaDAO:
        return MaiaDAO(database, clock=clock, settings=settings_factory(tracker=tracker))

    return make


@pytest.fixture
def dao(make_dao: MakeDAO) -> MaiaDAO:
    return make_dao()


async def clock_row(sql: Any, video_id: str) -> Any:
    return await sql.fetchrow("SELECT * FROM video_clock WHERE video_id = $1", video_id)


async def samples_of(sql: Any, video_id: str) -> list[tuple[Any, ...]]:
    rows = await sql.fetch(
        "SELECT sampled_at, views, likes, comments, velocity, methodology FROM video_stats_log "
        "WHERE video_id = $1 ORDER BY sampled_at",
        video_id,
    )
    return [tuple(row) for row in rows]


async def expire_leases(sql: Any) -> None:
    await sql.execute("UPDATE video_clock SET lease_until = clock_timestamp() - interval '1 second'")
    await sql.execute("UPDATE channel_clock SET lease_until = clock_timestamp() - interval '1 second'")


async def claim_one(dao: MaiaDAO) -> Target:
    (target,) = await dao.fetch_tracker_targets(1)
    return target


def ids(targets: list[Any]) -> list[str]:
    return [target.id for target in targets]


# Enrolment


@pytest.mark.parametrize(
    ("age", "zone", "interval_h"),
    [
        (-HOUR, 0, 1),
        (timedelta(0), 0, 1),
        (DAY - timedelta(seconds=1), 0, 1),
        (DAY, 1, 6),
        (7 * DAY, 1, 6),
        (7 * DAY + timedelta(seconds=1), 2, 24),
        (None, 0, 1),
    ],
)
async def test_a_new_video_joins_the_clock_with_the_count_it_came_with(
    dao: MaiaDAO, sql: Any, age: timedelta | None, zone: int, interval_h: int
) -> None:
    await dao.ingest_video_metadata(found("v", age))
    row = dict(await clock_row(sql, "v"))
    assert row["born_at"] == NOON - (age or timedelta(0))
    assert (row["zone"], row["interval_h"]) == (zone, interval_h)
    assert row["next_due_at"] == NOON + timedelta(hours=interval_h)
    assert (row["last_at"], row["last_views"], row["last_likes"], row["last_comments"]) == (NOON, 100, 10, 1)
    assert (row["status"], row["samples"], row["misses"], row["metadata_at"]) == ("live", 0, 0, NOON)
    assert (row["channel_id"], row["category_id"], row["pinned_zone"]) == ("UC-one", 22, None)
    assert {row[name] for name in row if name.startswith("watch")} == {None}
    assert await sql.fetchval("SELECT count(*) FROM video_stats_log") == 0


async def test_zones_are_those_of_the_settings(make_dao: MakeDAO, sql: Any) -> None:
    dao = make_dao(hot_until_h=2, warm_until_h=4, hot_interval_h=0.5, warm_interval_h=2, cold_interval_h=8)
    await dao.ingest_video_metadata([found("hot", HOUR), found("warm", 3 * HOUR), found("cold", 5 * HOUR)])
    rows = await sql.fetch("SELECT video_id, zone, next_due_at - $1 FROM video_clock ORDER BY zone", NOON)
    assert [tuple(row) for row in rows] == [
        ("hot", 0, HOUR / 2),
        ("warm", 1, 2 * HOUR),
        ("cold", 2, 8 * HOUR),
    ]


async def test_a_video_without_a_count_is_due_at_once(dao: MaiaDAO, sql: Any) -> None:
    await dao.ingest_video_metadata(found("v", view_count=None, like_count=None, comment_count=None))
    row = await clock_row(sql, "v")
    assert (row["next_due_at"], row["last_at"], row["last_views"]) == (NOON, None, None)


async def test_watches_pin_what_is_found_later(dao: MaiaDAO, sql: Any) -> None:
    await sql.executemany(
        "INSERT INTO watches VALUES ($1, $2, $3, $4)",
        [
            ("video", "both", 2, NOON),
            ("channel", "UC-one", 0, NOON),
            ("channel", "UC-two", None, NOON),
            ("video", "UC-three", 0, NOON),
        ],
    )
    await dao.ingest_video_metadata(
        [
            found("both", 90 * DAY),
            found("by channel", 90 * DAY),
            found("unpinned", 90 * DAY, channel_id="UC-two"),
            found("another", 90 * DAY, channel_id="UC-three"),
        ]
    )
    rows = await sql.fetch("SELECT video_id, pinned_zone, zone, interval_h FROM video_clock ORDER BY 1")
    assert [tuple(row) for row in rows] == [
        ("another", None, 2, 24),
        ("both", 2, 2, 24),
        ("by channel", 0, 0, 1),
        ("unpinned", None, 2, 24),
    ]


async def test_a_video_found_again_keeps_its_clock(dao: MaiaDAO, sql: Any, clock: FixedClock) -> None:
    await dao.ingest_video_metadata(found("v"))
    before = await clock_row(sql, "v")
    clock.advance(HOUR)
    await dao.ingest_video_metadata(found("v", view_count=900))
    assert await clock_row(sql, "v") == before


async def test_what_the_clock_copies_follows_the_video(dao: MaiaDAO, sql: Any, clock: FixedClock) -> None:
    await dao.ingest_video_metadata(found("v"))
    clock.advance(HOUR)
    await dao.ingest_video_metadata(found("v", category_id=10, channel_id="UC-two"))
    row = await clock_row(sql, "v")
    assert (row["category_id"], row["channel_id"]) == (10, "UC-two")
    assert (row["metadata_at"], row["next_due_at"]) == (NOON + HOUR, NOON + HOUR)
    clock.advance(25 * HOUR)
    await dao.ingest_video_metadata(found("v", category_id=None, channel_id="UC-two"))
    assert (await clock_row(sql, "v"))["metadata_at"] == NOON + HOUR
    await dao.ingest_video_metadata(found("v", category_id=10, channel_id="UC-two"))
    row = await clock_row(sql, "v")
    assert (row["metadata_at"], row["category_id"]) == (NOON + 26 * HOUR, 10)


async def test_a_page_waits_for_nobody_who_stores_samples(dao: MaiaDAO, sql: Any, clock: FixedClock) -> None:
    """Else the two, each with many videos in an order of its own, could wait for each other."""
    await dao.ingest_video_metadata([found("a"), found("b")])
    clock.advance(2 * DAY)
    async with sql.transaction():
        await sql.execute("UPDATE video_clock SET last_views = 7 WHERE video_id = 'a'")
        await dao.ingest_video_metadata([found("a"), found("b")])
    assert (await clock_row(sql, "a"))["metadata_at"] == NOON
    assert (await clock_row(sql, "b"))["metadata_at"] == clock.now()
    clock.advance(HOUR)
    await dao.ingest_video_metadata([found("a"), found("b")])
    assert (await clock_row(sql, "a"))["metadata_at"] == clock.now()
    assert (await clock_row(sql, "b"))["metadata_at"] == clock.now() - HOUR


async def test_an_ingestion_that_fails_enrols_nobody(dao: MaiaDAO, sql: Any) -> None:
    with pytest.raises(DataRefused):
        await dao.ingest_video_metadata([found("v"), found("w", view_count=-1)])
    assert await sql.fetchval("SELECT count(*) FROM video_clock") == 0
    assert await sql.fetchval("SELECT count(*) FROM channel_clock") == 0


async def test_a_deleted_video_takes_its_clock_and_samples_along(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata([found("v"), found("w")])
    clock.advance(HOUR)
    targets = await dao.fetch_tracker_targets(10)
    await dao.update_video_stats_batch([sampled(target, clock.now()) for target in targets])
    await sql.execute("DELETE FROM videos WHERE id = 'v'")
    assert await sql.fetchval("SELECT array_agg(video_id) FROM video_clock") == ["w"]
    assert await sql.fetchval("SELECT array_agg(DISTINCT video_id) FROM video_stats_log") == ["w"]


# Claims


async def test_the_next_due_is_the_first_that_nobody_holds(dao: MaiaDAO, sql: Any) -> None:
    assert await dao.next_due_at() is None
    await dao.ingest_video_metadata([found("hot"), found("cold", 30 * DAY), found("gone")])
    await sql.execute("UPDATE channel_clock SET next_due_at = $1", NOON + 9 * HOUR)
    for id_, after in (("hot", 2 * HOUR), ("cold", 5 * HOUR), ("gone", HOUR)):
        await sql.execute("UPDATE video_clock SET next_due_at = $2 WHERE video_id = $1", id_, NOON + after)
    await sql.execute("UPDATE video_clock SET status = 'gone', gone_at = $1 WHERE video_id = 'gone'", NOON)
    assert await dao.next_due_at() == NOON + 2 * HOUR
    await sql.execute("UPDATE video_clock SET lease_until = now() + interval '1 hour' WHERE video_id = 'hot'")
    assert await dao.next_due_at() == NOON + 5 * HOUR
    await sql.execute("UPDATE channel_clock SET next_due_at = $1", NOON + 4 * HOUR)
    assert await dao.next_due_at() == NOON + 4 * HOUR


async def test_hot_comes_first_then_warm_then_cold_the_longest_due_first(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    for minutes, name in enumerate(("c", "b", "a")):
        await dao.ingest_video_metadata(
            [found(f"cold {name}", 90 * DAY), found(f"hot {name}"), found(f"warm {name}", 2 * DAY)],
            fetched_at=NOON + timedelta(minutes=minutes),
        )
    clock.advance(HOUR - timedelta(seconds=1))
    assert await dao.fetch_tracker_targets(10) == []
    clock.advance(timedelta(minutes=1, seconds=1))
    assert ids(await dao.fetch_tracker_targets(10)) == ["hot c", "hot b"]
    clock.advance(23 * HOUR)
    assert ids(await dao.fetch_tracker_targets(3)) == ["hot a", "warm c", "warm b"]
    assert ids(await dao.fetch_tracker_targets(2)) == ["warm a", "cold c"]
    assert ids(await dao.fetch_tracker_targets(10)) == ["cold b"]
    clock.advance(timedelta(minutes=1))
    assert ids(await dao.fetch_tracker_targets(10)) == ["cold a"]
    assert await dao.fetch_tracker_targets(10) == []


async def test_a_claim_returns_the_clock_and_writes_the_lease(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata(found("v"))
    clock.advance(2 * HOUR)
    target = await claim_one(dao)
    row = await clock_row(sql, "v")
    assert target == Target(
        "v", "UC-one", 22, 0, None, NOON - HOUR, NOON + HOUR, 1.0, row["lease_token"], 1, 0, 0, NOON, NOON,
        100, None, None, None, None, None, NO_BREAKOUT_STATE,
    )  # fmt: skip
    assert row["lease_owner"].startswith("test:")
    left_s = await sql.fetchval("SELECT date_part('epoch', lease_until - clock_timestamp()) FROM video_clock")
    assert 500 < left_s <= 600


async def test_nobody_claims_nothing(dao: MaiaDAO) -> None:
    with pytest.raises(DataRefused, match="batch_size is 0: claim at least 1 video"):
        await dao.fetch_tracker_targets(0)
    with pytest.raises(DataRefused, match="batch_size is -1: claim at least 1 channel"):
        await dao.fetch_channel_targets(-1)


async def test_claimers_at_once_share_what_is_due(make_dao: MakeDAO, clock: FixedClock) -> None:
    dao = make_dao()
    await dao.ingest_video_metadata([found(f"v{number}") for number in range(100)])
    clock.advance(HOUR)
    claims = await asyncio.gather(*(make_dao().fetch_tracker_targets(15) for _ in range(8)))
    claimed = [target.id for claim in claims for target in claim]
    assert len(claimed) == len(set(claimed))
    assert len(claimed) + len(await dao.fetch_tracker_targets(100)) == 100


async def test_an_expired_lease_is_claimed_by_the_same_statement(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata(found("v"))
    clock.advance(HOUR)
    first = await claim_one(dao)
    assert await dao.fetch_tracker_targets(1) == []
    # A lease ends by the database's clock, whatever ours says.
    clock.advance(DAY)
    assert await dao.fetch_tracker_targets(1) == []
    await expire_leases(sql)
    second = await claim_one(dao)
    assert (second.id, second.attempts) == ("v", 2)
    assert second.lease_token != first.lease_token


async def test_chosen_videos_are_claimed_if_still_due_and_free(
    dao: MaiaDAO, make_dao: MakeDAO, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata([found("a"), found("b"), found("c"), found("later", 3 * DAY)])
    clock.advance(HOUR)
    candidates = await dao.due_targets(10)
    assert [(video.id, video.zone, video.interval_h) for video in candidates] == [
        (name, 0, 1.0) for name in ids(candidates)
    ]
    assert sorted(ids(candidates)) == ["a", "b", "c"]
    held = await make_dao().claim_videos(["b"])
    assert ids(held) == ["b"]
    assert sorted(ids(await dao.due_targets(10))) == ["a", "c"]
    assert ids(await dao.claim_videos(["c", "b", "later", "unknown"])) == ["c"]
    assert await dao.claim_videos([]) == []


async def test_candidates_are_the_longest_due_of_each_zone(dao: MaiaDAO, clock: FixedClock) -> None:
    for minutes, name in enumerate("cba"):
        await dao.ingest_video_metadata(
            [found(f"cold {name}", 90 * DAY), found(f"hot {name}"), found(f"warm {name}", 2 * DAY)],
            fetched_at=NOON + timedelta(minutes=minutes),
        )
    clock.advance(2 * DAY)
    assert ids(await dao.due_targets(2)) == ["hot c", "hot b", "warm c", "warm b", "cold c", "cold b"]


async def test_released_videos_are_due_as_before(dao: MaiaDAO, sql: Any, clock: FixedClock) -> None:
    await dao.ingest_video_metadata([found("a"), found("b")])
    clock.advance(HOUR)
    targets = await dao.fetch_tracker_targets(2)
    assert await dao.release_videos(targets, error="no\0 network", count_attempt=False) == 2
    assert await dao.release_videos(targets) == 0
    row = await clock_row(sql, "a")
    assert (row["next_due_at"], row["samples"], row["attempts"]) == (NOON + HOUR, 0, 0)
    assert (row["lease_token"], row["lease_owner"], row["lease_until"]) == (None, None, None)
    assert row["last_error"] == "no network"
    assert sorted(ids(await dao.fetch_tracker_targets(2))) == ["a", "b"]


async def test_a_released_video_waits_longer_after_each_attempt(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata(found("v"))
    clock.advance(HOUR)
    for attempt, wait_s in ((1, 60), (2, 120), (3, 240), (4, 480)):
        target = await claim_one(dao)
        assert target.attempts == attempt
        await dao.release_videos([target], error="timed out", retry_after_s=60)
        assert await dao.fetch_tracker_targets(1) == []
        seconds = "SELECT date_part('epoch', lease_until - clock_timestamp()) FROM video_clock"
        assert wait_s - 30 < await sql.fetchval(seconds) <= wait_s
        await expire_leases(sql)
    await sql.execute("UPDATE video_clock SET attempts = 5000")
    target = await claim_one(dao)
    await dao.release_videos([target], retry_after_s=60)
    assert 86_000 < await sql.fetchval(seconds) <= 86_400


# Samples


async def test_a_sample_its_clock_and_the_first_count_are_stored_together(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata(found("v"))
    clock.advance(HOUR)
    watch = (1.5, 0.25, 3.0, 0.0, 0.5, 100.0, None, None)
    update = sampled(
        await claim_one(dao), clock.now(), 350, likes=None, comments=7, velocity_of_step=250.0, zone=1,
        interval_h=6.5, next_due_at=NOON + 7 * HOUR, velocity=1 / 3, acceleration=-0.1, weight=0.2,
        relative_velocity=2.5, viral_score=0.75, age_class=2, breakout_state=watch,
    )  # fmt: skip
    assert await dao.update_video_stats_batch([update]) == BatchStored(1, ())
    assert await samples_of(sql, "v") == [
        (NOON, 100, 10, 1, None, 2),
        (NOON + HOUR, 350, None, 7, 250.0, 2),
    ]
    row = dict(await clock_row(sql, "v"))
    assert {name: row[name] for name in ("zone", "interval_h", "next_due_at", "age_class", "samples")} == {
        "zone": 1, "interval_h": 6.5, "next_due_at": NOON + 7 * HOUR, "age_class": 2, "samples": 1,
    }  # fmt: skip
    assert (row["last_sampled_at"], row["last_at"], row["last_views"]) == (NOON + HOUR, NOON + HOUR, 350)
    # The last known ones: a count that is hidden now does not undo them.
    assert (row["last_likes"], row["last_comments"]) == (10, 7)
    assert (row["velocity"], row["acceleration"], row["weight"]) == (1 / 3, -0.1, 0.2)
    assert (row["relative_velocity"], row["viral_score"]) == (2.5, 0.75)
    assert tuple(row[name] for name in row if name.startswith("watch_")) == watch
    assert (row["lease_token"], row["lease_owner"], row["lease_until"]) == (None, None, None)
    assert (row["attempts"], row["last_error"], row["misses"]) == (0, None, 0)
    assert row["metadata_at"] == NOON


async def test_the_next_claim_returns_what_the_last_sample_left(dao: MaiaDAO, clock: FixedClock) -> None:
    await dao.ingest_video_metadata(found("v"))
    clock.advance(HOUR)
    watch = (1.5, 0.25, 3.0, 0.0, 0.5, 100.0, 2.0, 4.5)
    first = await claim_one(dao)
    await dao.update_video_stats_batch(
        [sampled(first, clock.now(), 350, velocity=250.0, acceleration=1.0, weight=0.1, viral_score=0.5,
                 age_class=1, breakout_state=watch)]
    )  # fmt: skip
    clock.advance(HOUR)
    target = await claim_one(dao)
    expected = first._replace(
        next_due_at=NOON + 2 * HOUR, lease_token=target.lease_token, samples=1, last_at=NOON + HOUR,
        last_views=350, velocity=250.0, acceleration=1.0, weight=0.1, viral_score=0.5, age_class=1,
        breakout_state=watch,
    )  # fmt: skip
    assert target == expected


async def test_the_first_count_is_logged_once_and_later_samples_follow(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata(found("v"))
    for views in (200, 150, 150):
        clock.advance(HOUR)
        await dao.update_video_stats_batch([sampled(await claim_one(dao), clock.now(), views)])
    # Counts may fall: they are what they are.
    assert [sample[:2] for sample in await samples_of(sql, "v")] == [
        (NOON, 100),
        (NOON + HOUR, 200),
        (NOON + 2 * HOUR, 150),
        (NOON + 3 * HOUR, 150),
    ]
    assert (await clock_row(sql, "v"))["samples"] == 3


async def test_hidden_counts_are_null_and_leave_the_last_known_one(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata(found("v", like_count=None))
    clock.advance(HOUR)
    update = sampled(await claim_one(dao), clock.now(), None, likes=None, comments=None)
    await dao.update_video_stats_batch([update])
    assert await samples_of(sql, "v") == [
        (NOON, 100, None, 1, None, 2),
        (NOON + HOUR, None, None, None, None, 2),
    ]
    row = await clock_row(sql, "v")
    assert (row["last_at"], row["last_views"], row["last_sampled_at"]) == (NOON, 100, NOON + HOUR)


async def test_a_video_that_came_without_a_count_has_no_sample_of_it(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata(found("v", view_count=None, like_count=None, comment_count=None))
    await dao.update_video_stats_batch([sampled(await claim_one(dao), clock.now(), 5)])
    assert [sample[:2] for sample in await samples_of(sql, "v")] == [(NOON, 5)]


async def test_the_first_count_is_left_out_where_retention_has_passed_it(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata(found("v"))
    await dao.ensure_partitions([NOON.date()])
    clock.advance(31 * DAY)
    await dao.update_video_stats_batch([sampled(await claim_one(dao), clock.now())])
    assert [sample[0] for sample in await samples_of(sql, "v")] == [NOON + 31 * DAY]


async def test_the_first_count_is_of_the_methodology_of_its_time(
    make_dao: MakeDAO, sql: Any, clock: FixedClock
) -> None:
    clock.instant = EPOCH - HOUR
    dao = make_dao()
    await dao.ingest_video_metadata(found("v"))
    clock.advance(HOUR)
    await dao.update_video_stats_batch([sampled(await claim_one(dao), clock.now())])
    assert [(at, methodology) for at, *_, methodology in await samples_of(sql, "v")] == [
        (EPOCH - HOUR, 1),
        (EPOCH, 2),
    ]


async def test_only_the_rows_whose_lease_was_lost_are_left_out(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata([found("a"), found("b"), found("c"), found("d")])
    clock.advance(HOUR)
    held = {target.id: target for target in await dao.fetch_tracker_targets(4)}
    await sql.execute(
        "UPDATE video_clock SET lease_until = clock_timestamp() - interval '1 s' WHERE video_id IN ('b', 'd')"
    )
    again = {target.id: target for target in await dao.fetch_tracker_targets(4)}
    assert again.keys() == {"b", "d"}
    updates = [
        sampled(held["a"], clock.now(), counted=(0, 1.0)),
        sampled(held["b"], clock.now(), counted=(0, 5.0)),
        missing(held["c"], clock.now(), gone=True),
        missing(held["d"], clock.now(), gone=True),
    ]
    stored = await dao.update_video_stats_batch(updates)
    assert (stored.samples, sorted(stored.lost)) == (1, ["b", "d"])
    assert await sql.fetchval("SELECT array_agg(DISTINCT video_id) FROM video_stats_log") == ["a"]
    assert (await dao.channel_norms([("UC-one", 0)]))["UC-one", 0] == ChannelNorm(1, 1.0, 0.0)
    rows = await sql.fetch("SELECT id, v.status, c.status FROM videos v JOIN video_clock c ON id = video_id")
    assert sorted(tuple(row) for row in rows) == [
        ("a", "live", "live"), ("b", "live", "live"), ("c", "gone", "gone"), ("d", "live", "live"),
    ]  # fmt: skip
    # Who holds them now is not disturbed.
    for name in ("b", "d"):
        assert (await clock_row(sql, name))["lease_token"] == again[name].lease_token
    assert (await dao.update_video_stats_batch([sampled(again["b"], clock.now())])).lost == ()


async def test_a_batch_stored_twice_is_stored_once(dao: MaiaDAO, sql: Any, clock: FixedClock) -> None:
    await dao.ingest_video_metadata(found("v"))
    clock.advance(HOUR)
    update = sampled(await claim_one(dao), clock.now())
    assert (await dao.update_video_stats_batch([update])).samples == 1
    assert await dao.update_video_stats_batch([update]) == BatchStored(0, ("v",))
    assert len(await samples_of(sql, "v")) == 2
    assert await dao.update_video_stats_batch([]) == BatchStored(0, ())


async def test_a_sample_that_exists_stays_as_it_is(dao: MaiaDAO, sql: Any, clock: FixedClock) -> None:
    """Two answers of one instant: the first that was stored stands, and the clock goes on."""
    await dao.ingest_video_metadata(found("v"))
    clock.advance(HOUR)
    update = sampled(await claim_one(dao), clock.now(), 200, next_due_at=clock.now())
    await dao.update_video_stats_batch([update])
    again = sampled(await claim_one(dao), clock.now(), 999)
    assert await dao.update_video_stats_batch([again]) == BatchStored(1, ())
    assert [sample[:2] for sample in await samples_of(sql, "v")] == [(NOON, 100), (NOON + HOUR, 200)]


async def test_a_batch_names_each_video_once(dao: MaiaDAO, sql: Any, clock: FixedClock) -> None:
    await dao.ingest_video_metadata(found("v"))
    clock.advance(HOUR)
    target = await claim_one(dao)
    updates = [sampled(target, clock.now(), views) for views in (200, 300)]
    with pytest.raises(DataRefused, match="two updates of one video"):
        await dao.update_video_stats_batch(updates)
    assert await samples_of(sql, "v") == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"velocity": math.nan},
        {"velocity_of_step": math.inf},
        {"viral_score": -math.inf},
        {"breakout_state": (math.nan, *NO_BREAKOUT_STATE[1:])},
        {"views": -1},
        {"zone": 3},
        {"counted": (1, math.nan)},
    ],
    ids=str,
)
async def test_nothing_of_a_batch_with_a_value_that_means_nothing_is_stored(
    dao: MaiaDAO, sql: Any, clock: FixedClock, wrong: dict[str, Any]
) -> None:
    await dao.ingest_video_metadata([found("a"), found("b")])
    clock.advance(HOUR)
    one, other = await dao.fetch_tracker_targets(2)
    before = await clock_row(sql, one.id)
    with pytest.raises(DataRefused):
        await dao.update_video_stats_batch([sampled(one, clock.now()), sampled(other, clock.now(), **wrong)])
    assert await clock_row(sql, one.id) == before
    assert await sql.fetchval("SELECT count(*) FROM video_stats_log") == 0
    assert await sql.fetchval("SELECT count(*) FROM channel_norms") == 0


async def test_samples_and_what_else_a_transaction_stores_stand_or_fall_together(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata(found("v"))
    clock.advance(25 * DAY)
    target = await claim_one(dao)
    update = sampled(target, clock.now(), metadata_at=clock.now())
    with pytest.raises(ZeroDivisionError):
        async with dao.transaction() as together:
            await together.ingest_video_metadata(found("v", title="Another"))
            await together.update_video_stats_batch([update])
            raise ZeroDivisionError
    assert await sql.fetchval("SELECT title FROM videos") == "About v"
    assert (await clock_row(sql, "v"))["metadata_at"] == NOON
    async with dao.transaction() as together:
        await together.ingest_video_metadata(found("v", title="Another"))
        await together.update_video_stats_batch([update])
    assert await sql.fetchval("SELECT title FROM videos") == "Another"
    row = await clock_row(sql, "v")
    assert (row["metadata_at"], row["samples"], row["lease_token"]) == (NOON + 25 * DAY, 1, None)


async def test_what_a_killed_process_held_is_sampled_by_the_next_one(
    make_dao: MakeDAO, sql: Any, clock: FixedClock
) -> None:
    await make_dao().ingest_video_metadata(found("v"))
    clock.advance(HOUR)
    dead, alive = make_dao(), make_dao()
    held = await claim_one(dead)
    await expire_leases(sql)
    await alive.update_video_stats_batch([sampled(await claim_one(alive), clock.now())])
    # It was only believed dead, and answers late.
    assert (await dead.update_video_stats_batch([sampled(held, clock.now())])).lost == ("v",)
    assert await dead.release_videos([held]) == 0
    assert len(await samples_of(sql, "v")) == 2


# Gone and back


async def test_a_missing_video_gets_no_sample_and_a_gone_one_leaves_the_clock(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata(found("v"))
    clock.advance(HOUR)
    first = await claim_one(dao)
    before = dict(await clock_row(sql, "v"))
    assert await dao.update_video_stats_batch([missing(first, clock.now())]) == BatchStored(0, ())
    row = dict(await clock_row(sql, "v"))
    assert (row["status"], row["misses"], row["next_due_at"]) == ("live", 1, NOON + 2 * HOUR)
    kept = before.keys() - {"misses", "next_due_at", "lease_owner", "lease_token", "lease_until", "attempts"}
    assert {name: row[name] for name in kept} == {name: before[name] for name in kept}
    clock.advance(HOUR)
    target = await claim_one(dao)
    assert target.misses == 1
    await dao.update_video_stats_batch([missing(target, clock.now(), gone=True, next_due_at=None)])
    row = await clock_row(sql, "v")
    assert (row["status"], row["misses"], row["gone_at"]) == ("gone", 2, NOON + 2 * HOUR)
    assert await sql.fetchval("SELECT status FROM videos") == "gone"
    assert await samples_of(sql, "v") == []
    clock.advance(90 * DAY)
    assert await dao.fetch_tracker_targets(10) == []
    assert await dao.claim_videos(["v"]) == []
    assert await dao.due_targets(10) == []
    assert await dao.clock_counts() == []


async def test_a_gone_video_has_later_looks_and_may_return(dao: MaiaDAO, sql: Any, clock: FixedClock) -> None:
    await dao.ingest_video_metadata([found("v"), found("w")])
    clock.advance(HOUR)
    look = clock.now() + DAY
    targets = await dao.fetch_tracker_targets(2)
    await dao.update_video_stats_batch(
        [missing(target, clock.now(), misses=2, gone=True, next_due_at=look) for target in targets]
    )
    gone_at = clock.now()
    assert await dao.count_due(10) == {0: 0, 1: 0, 2: 0}
    clock.advance(DAY)
    await dao.ingest_video_metadata(found("fresh", view_count=None))
    fresh, *looks = await dao.fetch_tracker_targets(9)
    assert (fresh.id, {target.id for target in looks}) == ("fresh", {"v", "w"})
    assert {target.gone_at for target in looks} == {gone_at}
    back, lost = looks
    stored = await dao.update_video_stats_batch(
        [
            sampled(back, clock.now(), 500, returned=True),
            missing(lost, clock.now(), gone=True, next_due_at=None),
        ]
    )
    assert stored == BatchStored(1, ())
    rows = await sql.fetch(
        "SELECT video_id, c.status, v.status, gone_at, next_due_at IS NULL FROM video_clock AS c "
        "JOIN videos AS v ON v.id = video_id WHERE video_id <> 'fresh'"
    )
    assert {tuple(row) for row in rows} == {
        (back.id, "live", "live", None, False), (lost.id, "gone", "gone", gone_at, True),
    }  # fmt: skip


async def test_a_live_video_is_always_due_some_day(dao: MaiaDAO, sql: Any) -> None:
    await dao.ingest_video_metadata(found("v"))
    with pytest.raises(asyncpg.CheckViolationError, match="live_is_due_some_day"):
        await sql.execute("UPDATE video_clock SET next_due_at = NULL")


async def test_a_doubted_count_is_logged_as_such_and_kept_until_the_next(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata(found("v", view_count=80_000))
    clock.advance(HOUR)
    target = await claim_one(dao)
    await dao.update_video_stats_batch(
        [sampled(target, clock.now(), 0, last_at=NOON, last_views=80_000, doubted_views=0)]
    )
    clock.advance(HOUR)
    target = await claim_one(dao)
    assert (target.last_views, target.doubted_views) == (80_000, 0)
    await dao.update_video_stats_batch([sampled(target, clock.now(), 81_000)])
    rows = await sql.fetch("SELECT views, doubted FROM video_stats_log ORDER BY sampled_at")
    assert [tuple(row) for row in rows] == [(80_000, None), (0, True), (81_000, None)]
    assert (await clock_row(sql, "v"))["doubted_views"] is None


class TestBroadcasts:
    """A premiere that was announced nine days ago."""

    def premiere(self, state: str = "upcoming", **values: Any) -> Any:
        return found(
            "v", 9 * DAY, **{"live_broadcast_content": state, "view_count": 0, "duration_s": 0} | values
        )

    @pytest.mark.parametrize(("ahead_h", "due_h"), [(3, 3), (0.25, 1), (300, 24), (-2, 1), (None, 1)])
    async def test_what_is_upcoming_is_hot_and_due_when_it_starts(
        self, dao: MaiaDAO, sql: Any, ahead_h: float | None, due_h: float
    ) -> None:
        scheduled = None if ahead_h is None else NOON + ahead_h * HOUR
        await dao.ingest_video_metadata(self.premiere(scheduled_start_at=scheduled))
        row = await clock_row(sql, "v")
        assert (row["broadcast"], row["zone"]) == ("upcoming", 0)
        assert row["born_at"] == max(scheduled or NOON, NOON)
        assert row["next_due_at"] == NOON + due_h * HOUR
        kept = await sql.fetchval("SELECT scheduled_start_at FROM videos")
        assert kept == scheduled

    async def test_its_age_counts_from_airing_once_that_is_known(
        self, dao: MaiaDAO, sql: Any, clock: FixedClock
    ) -> None:
        await dao.ingest_video_metadata(self.premiere(scheduled_start_at=NOON + 3 * HOUR))
        clock.advance(4 * HOUR)
        aired = {"actual_start_at": NOON + 3.1 * HOUR, "scheduled_start_at": NOON + 3 * HOUR}
        await dao.ingest_video_metadata(self.premiere("live", **aired))
        row = await clock_row(sql, "v")
        assert (row["broadcast"], row["born_at"], row["zone"]) == ("live", NOON + 3.1 * HOUR, 0)
        assert row["next_due_at"] == NOON + 3 * HOUR
        clock.advance(HOUR)
        aired |= {"actual_end_at": NOON + 4.5 * HOUR, "duration_s": 5040, "view_count": 9000}
        await dao.ingest_video_metadata(self.premiere("none", **aired))
        row = await clock_row(sql, "v")
        assert (row["broadcast"], row["born_at"], row["zone"]) == ("none", NOON + 3.1 * HOUR, 0)
        video = await sql.fetchrow("SELECT duration_s, actual_start_at, actual_end_at FROM videos")
        assert tuple(video) == (5040, NOON + 3.1 * HOUR, NOON + 4.5 * HOUR)

    async def test_one_without_a_schedule_is_born_when_it_is_published(
        self, dao: MaiaDAO, sql: Any, clock: FixedClock
    ) -> None:
        await dao.ingest_video_metadata(self.premiere())
        clock.advance(3 * HOUR)
        await dao.ingest_video_metadata(self.premiere("none", published_at=NOON + 2 * HOUR))
        row = await clock_row(sql, "v")
        assert (row["broadcast"], row["born_at"], row["zone"]) == ("none", NOON + 2 * HOUR, 0)


async def test_a_sample_ends_a_row_of_misses(dao: MaiaDAO, sql: Any, clock: FixedClock) -> None:
    await dao.ingest_video_metadata(found("v"))
    clock.advance(HOUR)
    await dao.update_video_stats_batch([missing(await claim_one(dao), clock.now())])
    clock.advance(HOUR)
    await dao.update_video_stats_batch([sampled(await claim_one(dao), clock.now())])
    assert (await clock_row(sql, "v"))["misses"] == 0


async def test_a_gone_video_that_is_found_again_is_due_at_once(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata(found("v"))
    clock.advance(HOUR)
    await dao.update_video_stats_batch([sampled(await claim_one(dao), clock.now())])
    clock.advance(HOUR)
    await dao.update_video_stats_batch([missing(await claim_one(dao), clock.now(), misses=2, gone=True)])
    clock.advance(10 * DAY)
    assert (await dao.ingest_video_metadata(found("v", view_count=500))).updated == 1
    row = await clock_row(sql, "v")
    assert (row["status"], row["misses"], row["gone_at"]) == ("live", 0, None)
    assert (row["zone"], row["next_due_at"]) == (2, clock.now())
    assert await sql.fetchval("SELECT status FROM videos") == "live"
    target = await claim_one(dao)
    assert (target.samples, target.last_views) == (1, 200)
    await dao.update_video_stats_batch([sampled(target, clock.now(), 510)])
    assert [views for _, views, *_ in await samples_of(sql, "v")] == [100, 200, 510]


# Counts


async def test_zones_are_counted(dao: MaiaDAO, sql: Any, clock: FixedClock) -> None:
    assert await dao.clock_counts() == []
    await dao.ingest_video_metadata(
        [found(f"hot {number}") for number in range(4)] + [found("warm", 2 * DAY), found("cold", 90 * DAY)]
    )
    await sql.execute("UPDATE video_clock SET interval_h = 0.5 WHERE video_id = 'hot 0'")
    clock.advance(2 * HOUR)
    assert len(await dao.fetch_tracker_targets(2)) == 2
    assert await dao.clock_counts() == [
        ZoneCounts(0, 4, 4, 0, NOON + HOUR, 5.0),
        ZoneCounts(1, 1, 0, 0, None, 1 / 6),
        ZoneCounts(2, 1, 0, 0, None, 1 / 24),
    ]
    assert await dao.count_claimed(1000) == {0: 2, 1: 0, 2: 0}
    assert await dao.count_claimed(1) == {0: 1, 1: 0, 2: 0}
    clock.advance(timedelta(minutes=1))
    assert [zone.starving for zone in await dao.clock_counts()] == [1, 0, 0]
    clock.advance(HOUR)
    assert [zone.starving for zone in await dao.clock_counts()] == [4, 0, 0]
    await expire_leases(sql)
    assert await dao.count_claimed(1000) == {0: 0, 1: 0, 2: 0}


async def test_titles_are_told(dao: MaiaDAO) -> None:
    await dao.ingest_video_metadata([found("a"), found("b", title=None)])
    assert await dao.video_titles(["a", "b", "unknown"]) == {"a": "About a", "b": None}


# Norms and cohorts


async def test_a_norm_of_a_channel_that_was_erased_is_left_out(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    """A clock that was locked when its video moved to another channel still names the old one."""
    await dao.ingest_video_metadata([found("moved"), found("other")])
    clock.advance(HOUR)
    targets = await dao.fetch_tracker_targets(2)
    await sql.execute("UPDATE video_clock SET channel_id = 'UC-erased' WHERE video_id = 'moved'")
    stored = await dao.update_video_stats_batch(
        [sampled(target, clock.now(), counted=(0, 1.0)) for target in targets]
    )
    assert stored.samples == 2
    norms = await dao.channel_norms([("UC-one", 0), ("UC-erased", 0)])
    assert norms == {("UC-one", 0): ChannelNorm(1, 1.0, 0.0)}


async def test_norms_are_the_moments_of_all_that_was_counted(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata(
        [found(f"v{number}", channel_id=f"UC{number % 2}") for number in range(12)] + [found("not counted")]
    )
    counted: dict[tuple[str, int], list[float]] = {}
    for step in range(3):
        clock.advance(HOUR)
        updates = []
        for target in await dao.fetch_tracker_targets(20):
            key, log_velocity = (target.channel_id, step // 2), math.log(1 + len(counted) + step * 7.3)
            chosen = target.id != "not counted" and (int(target.id[1:]) + step) % 3 > 0
            updates.append(sampled(target, clock.now(), counted=(key[1], log_velocity) if chosen else None))
            if chosen:
                counted.setdefault(key, []).append(log_velocity)
        await dao.update_video_stats_batch(updates)
    norms = await dao.channel_norms([*counted, ("UC0", 9), ("UC-one", 0), ("UC0", 0)])
    assert norms.keys() == counted.keys()
    for key, values in counted.items():
        mean = math.fsum(values) / len(values)
        assert norms[key].videos == len(values)
        assert norms[key].mean == pytest.approx(mean, rel=1e-12)
        squares = math.fsum((value - mean) ** 2 for value in values)
        assert norms[key].squares == pytest.approx(squares, rel=1e-9, abs=1e-12)
    assert await dao.channel_norms([]) == {}


async def test_batches_of_the_same_channels_at_once_count_them_all(
    make_dao: MakeDAO, clock: FixedClock
) -> None:
    dao = make_dao()
    await dao.ingest_video_metadata(
        [found(f"v{number}", channel_id=f"UC{number % 10}") for number in range(400)]
    )
    clock.advance(HOUR)

    async def work() -> None:
        own = make_dao()
        while targets := await own.fetch_tracker_targets(25):
            await own.update_video_stats_batch(
                [sampled(target, clock.now(), counted=(0, 2.0)) for target in targets]
            )

    await asyncio.gather(*(work() for _ in range(4)))
    norms = await dao.channel_norms([(f"UC{number}", 0) for number in range(10)])
    assert list(norms.values()) == [ChannelNorm(40, 2.0, 0.0)] * 10


async def test_cohorts_of_a_cycle_are_merged_into_the_stored_ones(dao: MaiaDAO, sql: Any) -> None:
    day = NOON.date()
    keys: list[Any] = [
        (day, 0, 22, "velocity"),
        (day, 0, 22, "growth"),
        (day + timedelta(days=1), 3, 0, "velocity"),
    ]
    joined: list[tuple[bytes, bytes]] = []

    def merge(stored: bytes, new: bytes) -> bytes:
        joined.append((stored, new))
        return stored + new

    await dao.merge_cohorts(
        [StoredCohort(*keys[0], b"a"), StoredCohort(*keys[1], b"b"), StoredCohort(*keys[0], b"c")], merge
    )
    assert joined == [(b"a", b"c")]
    await dao.merge_cohorts([StoredCohort(*keys[2], b"d"), StoredCohort(*keys[0], b"e")], merge)
    assert joined[1:] == [(b"ac", b"e")]
    await dao.merge_cohorts([], merge)
    assert await dao.cohorts([day]) == [StoredCohort(*keys[1], b"b"), StoredCohort(*keys[0], b"ace")]
    assert await dao.cohorts([day + timedelta(days=1), day - timedelta(days=1)]) == [
        StoredCohort(*keys[2], b"d")
    ]
    with pytest.raises(DataRefused):
        await dao.merge_cohorts([StoredCohort(day, 0, 22, "weight", b"")], merge)  # type: ignore[arg-type]


async def test_cohorts_merged_at_once_lose_nothing(make_dao: MakeDAO) -> None:
    day = NOON.date()

    async def add(number: int) -> None:
        keys: list[Any] = [(day, age, 22, "velocity") for age in range(5)]
        deltas = [StoredCohort(*key, bytes([number])) for key in (reversed(keys) if number % 2 else keys)]
        await make_dao().merge_cohorts(deltas, lambda stored, new: bytes(sorted(stored + new)))

    await asyncio.gather(*(add(number) for number in range(16)))
    cohorts = await make_dao().cohorts([day])
    assert [cohort.digest for cohort in cohorts] == [bytes(range(16))] * 5


# Channels


async def test_channels_are_sampled_from_the_day_they_are_found(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata([found("v"), found("w", channel_id="UC-two", channel_title=None)])
    targets = await dao.fetch_channel_targets(10)
    assert sorted(ids(targets)) == ["UC-one", "UC-two"]
    assert {(target.next_due_at, target.attempts, target.misses) for target in targets} == {(NOON, 1, 0)}
    assert await dao.fetch_channel_targets(10) == []
    one, two = sorted(targets, key=lambda target: target.id)
    updates = [
        ChannelUpdate("UC-one", one.lease_token, NOON, NOON + DAY, 1000, 20, 30_000, "One!"),
        ChannelUpdate("UC-two", two.lease_token, NOON, NOON + DAY, None, 1, 5, None),
    ]
    assert await dao.update_channel_stats_batch(updates) == BatchStored(2, ())
    rows = await sql.fetch("SELECT * FROM channel_stats_log ORDER BY channel_id")
    assert [tuple(row) for row in rows] == [
        ("UC-one", NOON, 1000, 20, 30_000),
        ("UC-two", NOON, None, 1, 5),
    ]
    clock.advance(DAY)
    (target, _) = sorted(await dao.fetch_channel_targets(10), key=lambda target: target.id)
    assert (target.last_at, target.subscribers, target.videos, target.views) == (NOON, 1000, 20, 30_000)


async def test_a_channels_title_is_refreshed_when_it_changes_or_is_a_week_old(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata(found("v"))
    seen = []
    for day, title in enumerate(["One", "One\0", "Other", *["Other"] * 8], start=1):
        clock.instant = NOON + day * DAY
        (target,) = await dao.fetch_channel_targets(1)
        update = ChannelUpdate(target.id, target.lease_token, clock.now(), clock.now() + DAY, 1, 1, 1, title)
        await dao.update_channel_stats_batch([update])
        row = await sql.fetchrow("SELECT title, refreshed_at - $1::timestamptz FROM channels", NOON)
        seen.append((row[0], row[1].days))
    assert seen == [("One", 0)] * 2 + [("Other", 3)] * 8 + [("Other", 11)]


async def test_a_missing_channel_goes_and_lost_leases_are_left_out(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata([found("v"), found("w", channel_id="UC-two")])
    one, two = sorted(await dao.fetch_channel_targets(10), key=lambda target: target.id)
    updates = [
        ChannelUpdate(one.id, one.lease_token, None, NOON + DAY, misses=2, gone=True),
        ChannelUpdate(two.id, uuid4(), NOON, NOON + DAY, 1, 1, 1),
    ]
    assert await dao.update_channel_stats_batch(updates) == BatchStored(0, ("UC-two",))
    assert await dao.update_channel_stats_batch([]) == BatchStored(0, ())
    clock.advance(10 * DAY)
    assert await dao.fetch_channel_targets(10) == []
    assert await dao.release_channels([two], error="timed out", retry_after_s=60) == 1
    assert await dao.fetch_channel_targets(10) == []
    await expire_leases(sql)
    assert ids(await dao.fetch_channel_targets(10)) == ["UC-two"]
    assert await sql.fetchval("SELECT count(*) FROM channel_stats_log") == 0


async def test_a_gone_channel_whose_video_is_found_is_sampled_again(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata(found("v"))
    (target,) = await dao.fetch_channel_targets(1)
    update = ChannelUpdate(target.id, target.lease_token, None, NOON + DAY, misses=2, gone=True)
    await dao.update_channel_stats_batch([update])
    clock.advance(2 * DAY)
    await dao.ingest_video_metadata(found("another"))
    (target,) = await dao.fetch_channel_targets(1)
    assert (target.id, target.misses, target.next_due_at) == ("UC-one", 0, clock.now())


# Retention


def days_of(first: date, last: date) -> list[date]:
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


async def partitions(sql: Any) -> list[str]:
    rows = await sql.fetch(
        "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid "
        "WHERE inhparent = 'video_stats_log'::regclass ORDER BY 1"
    )
    return [row["relname"].removeprefix("video_stats_log_") for row in rows]


async def test_partitions_are_made_once_and_dropped_by_retention(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    assert await dao.ensure_partitions([]) == []
    made = await dao.ensure_partitions([date(2026, 11, 2), date(2026, 10, 31), date(2026, 11, 1)])
    assert made == [f"video_stats_log_{day}" for day in ("20261031", "20261101", "20261102")]
    assert await dao.ensure_partitions([date(2026, 11, 1), date(2026, 11, 3)]) == ["video_stats_log_20261103"]
    assert await partitions(sql) == ["20261031", "20261101", "20261102", "20261103"]
    assert await dao.drop_samples_before(date(2026, 11, 2)) == [
        "video_stats_log_20261031",
        "video_stats_log_20261101",
    ]
    assert await dao.drop_samples_before(date(2026, 11, 2)) == []
    assert await partitions(sql) == ["20261102", "20261103"]


@pytest.fixture
def wrong_clock() -> Callable[[timedelta], Any]:
    """Makes a machine's clock that is off by so much."""

    def make(off: timedelta) -> SystemClock:
        class Wrong(SystemClock):
            def now(self) -> datetime:
                return super().now() + off

        return Wrong()

    return make


@pytest.mark.parametrize("days", [40, 4000, -40])
async def test_a_wrong_clock_drops_no_samples(
    database: Database, settings_factory: SettingsFactory, sql: Any, wrong_clock: Any, days: int
) -> None:
    clock = wrong_clock(days * DAY)
    dao = MaiaDAO(database, clock=clock, settings=settings_factory(tracker={"retention_days": 30}))
    today = datetime.now(UTC).date()
    await dao.ensure_partitions(days_of(today - 29 * DAY, today))
    await dao.merge_cohorts([StoredCohort(today, 0, 0, "velocity", b"d")], lambda stored, new: stored + new)

    assert await dao.drop_samples_before(clock.now().date() - 30 * DAY) == []

    assert len(await partitions(sql)) == 30
    assert [cohort.day for cohort in await dao.cohorts([today])] == [today]


async def test_no_more_than_a_weeks_samples_expire_in_a_day_whatever_the_clocks_say(
    database: Database, settings_factory: SettingsFactory, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    dao = MaiaDAO(database, clock=SystemClock(), settings=settings_factory(tracker={"retention_days": 30}))
    today = datetime.now(UTC).date()
    await dao.ensure_partitions(days_of(today - 50 * DAY, today))

    dropped = await dao.drop_samples_before(today - 30 * DAY)
    assert dropped == [f"video_stats_log_{today - age * DAY:%Y%m%d}" for age in range(50, 43, -1)]
    assert "20 days of samples are older than 30 days, but at most 7 a day are dropped" in caplog.text
    assert await dao.drop_samples_before(today - 30 * DAY) == []

    await sql.execute("UPDATE sample_drops SET day = day - 1")
    assert len(await dao.drop_samples_before(today - 30 * DAY)) == 7
    await sql.execute("UPDATE sample_drops SET day = day - 1")
    assert len(await dao.drop_samples_before(today - 30 * DAY)) == 6
    assert (await partitions(sql))[0] == f"{today - 30 * DAY:%Y%m%d}"


async def test_a_day_is_utcs_whatever_clocks_are_set_to(dao: MaiaDAO, sql: Any, database_url: str) -> None:
    """In the night from 31 October 2026, Los Angeles turns its clocks back; from 27 March, London forward."""
    await sql.execute("SET timezone = 'America/Los_Angeles'")
    for day in (date(2026, 11, 1), date(2027, 3, 28)):
        await sql.fetchval(
            "SELECT ensure_sample_days($1)", days_of(day - timedelta(days=1), day + timedelta(days=1))
        )
    await sql.execute("SET timezone = 'UTC'")
    bounds = await sql.fetch(
        "SELECT pg_get_expr(relpartbound, oid) AS bound FROM pg_class "
        "WHERE relispartition AND relkind = 'r' ORDER BY relname"
    )
    assert [row["bound"] for row in bounds] == [
        f"FOR VALUES FROM ('{day} 00:00:00+00') TO ('{day + timedelta(days=1)} 00:00:00+00')"
        for day in (
            *days_of(date(2026, 10, 31), date(2026, 11, 2)),
            *days_of(date(2027, 3, 27), date(2027, 3, 29)),
        )
    ]


@pytest.mark.parametrize("day", [date(2026, 11, 1), date(2026, 12, 31), date(2027, 3, 28), date(2028, 2, 29)])
async def test_samples_around_midnight_are_kept_by_the_days_they_belong_to(
    dao: MaiaDAO, sql: Any, clock: FixedClock, day: date
) -> None:
    midnight = datetime.fromisoformat(f"{day}T00:00Z") + DAY
    moments = [
        midnight - DAY, midnight - timedelta(microseconds=1),
        midnight, midnight + DAY - timedelta(microseconds=1),
    ]  # fmt: skip
    clock.instant = moments[0] - HOUR
    await dao.ingest_video_metadata(found("v", age=None))
    for at in moments:
        clock.instant = at
        update = sampled(await claim_one(dao), at, next_due_at=at)
        assert (await dao.update_video_stats_batch([update])).samples == 1
    assert len(await samples_of(sql, "v")) == 5
    counts = await sql.fetch(
        "SELECT tableoid::regclass::text, count(*) FROM video_stats_log GROUP BY 1 ORDER BY 1"
    )
    names = [
        f"video_stats_log_{other:%Y%m%d}"
        for other in days_of(day - timedelta(days=1), day + timedelta(days=1))
    ]
    assert [tuple(row) for row in counts] == [(names[0], 1), (names[1], 2), (names[2], 2)]
    assert await dao.drop_samples_before(day) == names[:1]
    assert [sample[0] for sample in await samples_of(sql, "v")] == moments


async def test_the_first_counts_day_is_made_for_its_sample(dao: MaiaDAO, sql: Any, clock: FixedClock) -> None:
    """The hunter stores a count and makes no partition; the tracker may begin days later."""
    await dao.ingest_video_metadata(found("v"))
    clock.advance(5 * DAY)
    await dao.update_video_stats_batch([sampled(await claim_one(dao), clock.now())])
    assert [sample[0] for sample in await samples_of(sql, "v")] == [NOON, NOON + 5 * DAY]
    assert await partitions(sql) == ["20261102", "20261107"]


async def test_a_partition_that_has_gone_is_made_again(dao: MaiaDAO, sql: Any, clock: FixedClock) -> None:
    """Dropped by hand, or missing from the backup that was restored under a running tracker."""
    await dao.ingest_video_metadata(found("v"))
    for _ in range(2):
        clock.advance(HOUR)
        target = await claim_one(dao)
        await sql.execute("DROP TABLE IF EXISTS video_stats_log_20261102")
        assert await dao.update_video_stats_batch([sampled(target, clock.now())]) == BatchStored(1, ())
    assert [sample[0] for sample in await samples_of(sql, "v")] == [NOON + 2 * HOUR]


async def test_partitions_are_made_by_several_at_once_and_beside_a_reader(
    make_dao: MakeDAO, sql: Any
) -> None:
    days = days_of(date(2026, 11, 1), date(2026, 11, 12))
    async with sql.transaction():
        await sql.fetch("SELECT count(*) FROM video_stats_log")
        made = await asyncio.gather(*(make_dao().ensure_partitions(days[start:]) for start in range(6)))
    names = sorted(name for each in made for name in each)
    assert names == [f"video_stats_log_{day:%Y%m%d}" for day in days]


async def test_retention_forgets_channels_samples_and_old_cohorts(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.ingest_video_metadata(found("v"))
    for day in range(12):
        clock.instant = NOON + day * DAY
        (target,) = await dao.fetch_channel_targets(1)
        update = ChannelUpdate(target.id, target.lease_token, clock.now(), clock.now() + DAY, 1, 1, 1)
        await dao.update_channel_stats_batch([update])
        await dao.merge_cohorts(
            [StoredCohort(clock.now().date(), 0, 0, "velocity", b"d")], lambda stored, new: stored + new
        )
    await dao.drop_samples_before((NOON + 4 * DAY).date())
    kept = await sql.fetch("SELECT sampled_at FROM channel_stats_log ORDER BY 1")
    assert [row["sampled_at"] for row in kept] == [NOON + day * DAY for day in range(4, 12)]
    cohorts = await dao.cohorts(days_of(NOON.date(), clock.now().date()))
    assert [cohort.day for cohort in cohorts] == days_of((NOON + 4 * DAY).date(), clock.now().date())
    assert all(after.day - before.day == DAY for before, after in pairwise(cohorts))
