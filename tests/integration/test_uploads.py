"""The plan of looks at channels' uploads, the pace of requests for feeds, and the counts they show."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import pytest_asyncio

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.uploads import (
    WATCHED_LOOK_H,
    ClaimedLook,
    IntervalRule,
    LookResult,
    SeenCount,
    UploadsDAO,
)
from atlas.adapters.watches import Watch, WatchesDAO, WatchKind
from atlas.clock import FixedClock
from atlas.db import Database
from atlas.errors import LeaseLost
from atlas.testing import NOON, SettingsFactory
from maia.learning.polling import PollingSettings, Spacing, interval_h
from tests.ids import cid
from tests.integration.test_tracking import found

pytestmark = pytest.mark.integration

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
HOLD = 5 * MINUTE
RULE = IntervalRule(
    scale=0.06, stretch=1, worth=1 / 1440, rate=1 / 72, shortest_h=0.25, longest_h=168, watched_longest_h=0.5,
    most_missed=10,
)  # fmt: skip
USUAL_H = 0.06 * 1440**0.5
"""The interval of a channel of which nothing is known."""


@pytest.fixture
def dao(database: Database, clock: FixedClock, settings_factory: SettingsFactory) -> UploadsDAO:
    return UploadsDAO(database, clock=clock, settings=settings_factory())


async def plan(sql: Any, channels: int, due: datetime = NOON, **columns: Any) -> list[str]:
    """Store channels whose feeds have been due since `due`, one second after the other."""
    ids = [cid(n) for n in range(channels)]
    await sql.execute("INSERT INTO channels SELECT id, 't', $2, $2 FROM unnest($1::text[]) AS id", ids, due)
    await sql.execute(
        "INSERT INTO channel_uploads (channel_id, next_look_at) "
        "SELECT id, $2::timestamptz - (cardinality($1::text[]) - n) * interval '1 second' "
        "FROM unnest($1::text[]) WITH ORDINALITY AS c (id, n)",
        ids,
        due,
    )
    for name, value in columns.items():
        await sql.execute(f"UPDATE channel_uploads SET {name} = $1", value)
    return ids


def answered(look: ClaimedLook, **changes: Any) -> LookResult:
    result = LookResult(
        channel_id=look.channel_id, asked_at=look.claimed_at, answered=True, interval_h=2, rate=0.1,
        worth=0.01, uploads=1, watched_h=2, growing=0, judged=1, newest_at=look.claimed_at,
        judged_until=look.claimed_at,
    )  # fmt: skip
    return replace(result, **changes)


def ids_of(looks: list[ClaimedLook]) -> list[str]:
    return [look.channel_id for look in looks]


async def test_a_claim_is_a_lease(dao: UploadsDAO, sql: Any, clock: FixedClock) -> None:
    """What a claimant never asks, because it was killed, is due again when the lease ends."""
    ids = await plan(sql, 3)
    assert ids_of(await dao.claim_looks(2, RULE, HOLD)) == ids[:2]
    assert ids_of(await dao.claim_looks(9, RULE, HOLD)) == ids[2:]
    clock.advance(HOLD - timedelta(seconds=1))
    assert await dao.claim_looks(9, RULE, HOLD) == []
    clock.advance(timedelta(seconds=1))
    assert sorted(ids_of(await dao.claim_looks(9, RULE, HOLD))) == ids


async def test_a_request_begins_the_interval(dao: UploadsDAO, sql: Any, clock: FixedClock) -> None:
    """Whatever becomes of the claimant, nobody asks again within the interval."""
    await plan(sql, 1)
    (look,) = await dao.claim_looks(1, RULE, HOLD)
    clock.advance(MINUTE)
    assert await dao.begin_look(look, HOLD) is False
    row = await sql.fetchrow("SELECT looked_at, next_look_at, interval_h FROM channel_uploads")
    assert row["interval_h"] == pytest.approx(USUAL_H)
    assert row["looked_at"] == clock.now()
    arrives_by = clock.now() + HOLD
    assert row["next_look_at"] == pytest.approx(arrives_by + USUAL_H * HOUR, abs=timedelta(seconds=1))
    clock.advance(HOLD + USUAL_H * HOUR - timedelta(seconds=1))
    assert await dao.claim_looks(9, RULE, HOLD) == []
    clock.advance(timedelta(seconds=2))
    assert await dao.claim_looks(9, RULE, HOLD) != []


async def test_whoever_lost_its_lease_may_not_ask(dao: UploadsDAO, sql: Any, clock: FixedClock) -> None:
    await plan(sql, 1)
    (late,) = await dao.claim_looks(1, RULE, HOLD)
    clock.advance(HOLD)
    (look,) = await dao.claim_looks(1, RULE, HOLD)
    with pytest.raises(LeaseLost, match=f"somebody else looks at {look.channel_id} now"):
        await dao.begin_look(late, HOLD)
    assert (await dao.pace()).looks == 0, "that takes no turn"
    assert await dao.begin_look(look, HOLD) is False


async def test_what_was_not_asked_is_given_back(dao: UploadsDAO, sql: Any, clock: FixedClock) -> None:
    ids = await plan(sql, 2)
    looks = await dao.claim_looks(2, RULE, HOLD)
    before = await sql.fetch("SELECT channel_id, due_before FROM channel_uploads ORDER BY 1")
    clock.advance(MINUTE)
    assert await dao.give_looks_back(looks) == 2
    assert await dao.give_looks_back(looks) == 0, "only once"
    again = await dao.claim_looks(2, RULE, HOLD)
    assert ids_of(again) == ids
    assert await dao.give_looks_back(looks) == 0, "the claim belongs to somebody else now"
    after = await sql.fetch("SELECT channel_id, due_before FROM channel_uploads ORDER BY 1")
    assert before == after


async def test_an_answer_schedules_the_next_look(dao: UploadsDAO, sql: Any, clock: FixedClock) -> None:
    await plan(sql, 1)
    (look,) = await dao.claim_looks(1, RULE, HOLD)
    asked_at = NOON + 2 * MINUTE
    result = answered(look, asked_at=asked_at, interval_h=1, etag='"e"', worth=0.5, rate=2.0)
    assert await dao.store_looks(look.token, [result]) == 1
    clock.advance(HOUR + MINUTE)
    assert await dao.claim_looks(1, RULE, HOLD) == []
    clock.advance(MINUTE)
    (again,) = await dao.claim_looks(1, RULE, HOLD)
    assert (again.answered_at, again.etag, again.uploads) == (asked_at, '"e"', 1)
    row = await sql.fetchrow("SELECT * FROM channel_uploads")
    assert row["next_interval_h"] == 0.25, "its worth makes it the shortest interval"


async def test_a_lost_claim_stores_nothing(dao: UploadsDAO, sql: Any, clock: FixedClock) -> None:
    await plan(sql, 2)
    first, other = await dao.claim_looks(2, RULE, HOLD)
    clock.advance(HOLD)
    await dao.store_looks(other.token, [answered(other, interval_h=100)])
    await dao.claim_looks(1, RULE, HOLD)
    state = await sql.fetch("SELECT * FROM channel_uploads ORDER BY 1")
    assert await dao.store_looks(first.token, [answered(first), answered(other)]) == 0
    assert await sql.fetch("SELECT * FROM channel_uploads ORDER BY 1") == state


async def test_a_failed_look_keeps_what_was_known(dao: UploadsDAO, sql: Any) -> None:
    await plan(sql, 1, worth=0.2, rate=0.3, answered_at=NOON - HOUR)
    (look,) = await dao.claim_looks(1, RULE, HOLD)
    failed = answered(look, answered=False, worth=0.9, rate=0.9, failures=2, by_feed=False)
    await dao.store_looks(look.token, [failed])
    row = await sql.fetchrow("SELECT worth, rate, answered_at, failures, by_feed FROM channel_uploads")
    assert (pytest.approx(row["worth"]), pytest.approx(row["rate"])) == (0.2, 0.3)
    assert tuple(row)[2:] == (NOON - HOUR, 2, False)


async def test_channels_without_a_working_feed_are_claimed_apart(dao: UploadsDAO, sql: Any) -> None:
    ids = await plan(sql, 4)
    await sql.execute("UPDATE channel_uploads SET by_feed = false WHERE channel_id = ANY ($1)", ids[:2])
    assert ids_of(await dao.claim_looks(4, RULE, HOLD)) == ids[2:]
    assert ids_of(await dao.claim_looks(0, RULE, HOLD, counts=4)) == ids[:2]


async def test_gone_channels_are_not_looked_at(dao: UploadsDAO, sql: Any) -> None:
    await plan(sql, 1)
    (look,) = await dao.claim_looks(1, RULE, HOLD)
    await dao.store_looks(look.token, [answered(look, gone=True, interval_h=0)])
    assert await dao.claim_looks(1, RULE, HOLD) == []
    assert await dao.next_look_at() is None


async def test_watched_channels_come_first_and_every_half_hour(
    dao: UploadsDAO, sql: Any, database: Database, clock: FixedClock, settings_factory: SettingsFactory
) -> None:
    ids = await plan(sql, 3)
    watches = WatchesDAO(database, clock=clock, settings=settings_factory())
    await watches.add([Watch(WatchKind.CHANNEL, ids[2]), Watch(WatchKind.CHANNEL, cid("new"))])
    looks = await dao.claim_looks(2, RULE, HOLD)
    assert {look.channel_id for look in looks} == {ids[2], cid("new")}
    assert all(look.watched for look in looks)
    await dao.store_looks(looks[0].token, [answered(look, interval_h=0.5) for look in looks])
    clock.advance(29 * MINUTE)
    assert ids_of(await dao.claim_looks(9, RULE, HOLD)) == ids[:2]
    clock.advance(MINUTE)
    assert {look.channel_id for look in await dao.claim_looks(9, RULE, HOLD)} == {ids[2], cid("new")}
    await watches.remove([Watch(WatchKind.CHANNEL, ids[2])])
    assert [r["channel_id"] for r in await sql.fetch("SELECT * FROM channel_uploads WHERE watched")] == [
        cid("new")
    ]


async def test_a_watch_does_not_ask_twice_within_its_interval(
    dao: UploadsDAO, sql: Any, database: Database, clock: FixedClock, settings_factory: SettingsFactory
) -> None:
    (channel,) = await plan(sql, 1)
    (look,) = await dao.claim_looks(1, RULE, HOLD)
    await dao.store_looks(look.token, [answered(look, interval_h=100)])
    clock.advance(10 * MINUTE)
    watches = WatchesDAO(database, clock=clock, settings=settings_factory())
    await watches.add([Watch(WatchKind.CHANNEL, channel)])
    assert await dao.next_look_at() == NOON + 30 * MINUTE


async def test_found_channels_join_the_plan_and_are_due_at_once(
    dao: UploadsDAO, sql: Any, database: Database, clock: FixedClock, settings_factory: SettingsFactory
) -> None:
    maia = MaiaDAO(database, clock=clock, settings=settings_factory())
    await maia.ingest_video_metadata([found("a"), found("b", channel_id="UC-two")])
    channels = {row["id"] for row in await sql.fetch("SELECT id FROM channels")}
    assert {look.channel_id for look in await dao.claim_looks(9, RULE, HOLD)} == channels
    assert len(channels) == 2
    await maia.ingest_video_metadata([found("a", channel_title="Renamed")])
    assert await dao.claim_looks(9, RULE, HOLD) == [], "found again, but not due again"


@pytest.mark.parametrize("watched", [False, True])
async def test_the_database_schedules_as_the_planner_says(sql: Any, watched: bool) -> None:
    settings = PollingSettings()
    values, rates = np.geomspace(1e-6, 2, 12), np.geomspace(1e-3, 100, 12)
    for spacing in (Spacing(0.003), Spacing(0.1), Spacing(20.0), Spacing(0.1, 1.7)):
        planned = interval_h(values, rates, spacing, priority=[watched] * 12)
        planned = np.minimum(planned, WATCHED_LOOK_H) if watched else planned
        rows = await sql.fetch(
            "SELECT look_interval_h(worth, rate, $3, $4, $5, $6, $7, $8, $9) AS hours "
            "FROM unnest($1::float8[], $2::float8[]) AS c (worth, rate)",
            values, rates, watched, spacing.scale, spacing.stretch, settings.shortest_h, settings.longest_h,
            settings.priority_h, settings.most_missed,
        )  # fmt: skip
        assert [row["hours"] for row in rows] == pytest.approx(planned)
    assert settings.priority_h == WATCHED_LOOK_H


async def test_claims_side_by_side_share_no_channel(
    database: Database, sql: Any, clock: FixedClock, settings_factory: SettingsFactory
) -> None:
    ids = await plan(sql, 300)
    hunters = [UploadsDAO(database, clock=clock, settings=settings_factory()) for _ in range(6)]
    taken: list[str] = []

    async def take(dao: UploadsDAO) -> None:
        while looks := await dao.claim_looks(7, RULE, HOLD):
            taken.extend(ids_of(looks))

    await asyncio.gather(*map(take, hunters))
    # A locked row is skipped, so the last ones may need another round.
    await take(hunters[0])
    assert sorted(taken) == sorted(ids)


# Gaps


async def test_a_gap_is_leased_and_closed_once(dao: UploadsDAO, sql: Any) -> None:
    await plan(sql, 2)
    looks = await dao.claim_looks(2, RULE, HOLD)
    since = NOON - HOUR
    await dao.store_looks(looks[0].token, [answered(looks[0], gap_since=since), answered(looks[1])])
    (gap,) = await dao.claim_gaps(5, 300)
    assert (gap.channel_id, gap.since, gap.attempts) == (looks[0].channel_id, since, 1)
    assert await dao.claim_gaps(5, 300) == []
    await sql.execute("UPDATE channel_uploads SET gap_until = now() - interval '1 second'")
    (stolen,) = await dao.claim_gaps(5, 300)
    assert not await dao.close_gap(gap), "the lease was lost"
    assert await dao.close_gap(stolen)
    await sql.execute("UPDATE channel_uploads SET gap_until = now() - interval '1 second'")
    assert await dao.claim_gaps(5, 300) == []


async def test_a_gap_that_opens_again_keeps_its_beginning(dao: UploadsDAO, sql: Any) -> None:
    await plan(sql, 1, gap_since=NOON - 5 * HOUR)
    (look,) = await dao.claim_looks(1, RULE, HOLD)
    await dao.store_looks(look.token, [answered(look, gap_since=NOON)])
    (gap,) = await dao.claim_gaps(1, 300)
    assert gap.since == NOON - 5 * HOUR


async def test_a_gap_that_keeps_failing_is_given_up(dao: UploadsDAO, sql: Any) -> None:
    await plan(sql, 1, gap_since=NOON)
    for attempt in (1, 2, 3):
        (gap,) = await dao.claim_gaps(1, 300)
        assert gap.attempts == attempt
        await dao.release_gaps([gap], retry_after_s=60, count_attempt=True, max_attempts=3)
        assert await dao.claim_gaps(1, 300) == [], "it pauses"
        await sql.execute("UPDATE channel_uploads SET gap_until = NULL")
    assert await dao.claim_gaps(1, 300) == []


async def test_a_released_gap_is_claimed_at_once(dao: UploadsDAO, sql: Any) -> None:
    await plan(sql, 1, gap_since=NOON)
    for _ in range(3):
        (gap,) = await dao.claim_gaps(1, 300)
        assert gap.attempts == 1
        await dao.release_gaps([gap], retry_after_s=0, count_attempt=False, max_attempts=3)


# Pace


@pytest.fixture
def slow(database: Database, clock: FixedClock, settings_factory: SettingsFactory) -> UploadsDAO:
    settings = settings_factory(feeds={"requests_per_s": 2, "looks_per_day": 10})
    return UploadsDAO(database, clock=clock, settings=settings)


@pytest_asyncio.fixture
async def look(slow: UploadsDAO, sql: Any) -> ClaimedLook:
    await plan(sql, 1)
    (claimed,) = await slow.claim_looks(1, RULE, HOLD)
    return claimed


async def taken_in(
    dao: UploadsDAO, look: ClaimedLook, clock: FixedClock, seconds: float, step_s: float = 0.1
) -> int:
    granted = 0
    for _ in range(round(seconds / step_s)):
        while await dao.begin_look(look, HOLD) is not None:
            granted += 1
        clock.advance(timedelta(seconds=step_s))
    return granted


async def test_requests_keep_the_pace(slow: UploadsDAO, look: ClaimedLook, clock: FixedClock) -> None:
    assert await taken_in(slow, look, clock, 0.1) == 5, "two seconds' worth at once, after a pause"
    assert await taken_in(slow, look, clock, 2) == 4
    assert (await slow.pace()).looks == 9


async def test_requests_end_with_the_days_looks(
    slow: UploadsDAO, look: ClaimedLook, clock: FixedClock
) -> None:
    assert await taken_in(slow, look, clock, 20) == 10
    assert await taken_in(slow, look, clock, 20) == 0
    clock.advance(20 * HOUR)
    assert (await slow.pace()).looks == 0
    assert await taken_in(slow, look, clock, 20) == 10


async def test_hunters_side_by_side_share_the_pace(
    database: Database, look: ClaimedLook, clock: FixedClock, settings_factory: SettingsFactory
) -> None:
    settings = settings_factory(feeds={"requests_per_s": 10})
    hunters = [UploadsDAO(database, clock=clock, settings=settings) for _ in range(5)]
    grants = await asyncio.gather(*(dao.begin_look(look, HOLD) for dao in hunters for _ in range(10)))
    assert sum(grant is not None for grant in grants) == 21


async def test_after_a_refusal_nobody_asks_and_then_one_does(
    slow: UploadsDAO, look: ClaimedLook, clock: FixedClock
) -> None:
    assert await slow.begin_look(look, HOLD) is False
    assert await slow.back_off("429", None, 60) == clock.now() + MINUTE
    assert await slow.back_off("429 of a request on its way", None, 60) == clock.now() + MINUTE
    assert await taken_in(slow, look, clock, 59.9) == 0
    clock.advance(MINUTE)
    assert await slow.begin_look(look, HOLD) is True
    assert await slow.begin_look(look, HOLD) is None, "one request tests whether feeds answer again"
    assert await slow.back_off("429", None, 60) == clock.now() + 2 * MINUTE
    clock.advance(2 * MINUTE)
    assert await slow.begin_look(look, HOLD) is True
    await slow.resume(clock.now())
    assert await slow.begin_look(look, HOLD) is False
    assert (await slow.pace()).refusals == 0


async def test_a_killed_test_request_holds_nobody_up_for_long(
    slow: UploadsDAO, look: ClaimedLook, clock: FixedClock
) -> None:
    await slow.back_off("503", 30, 60)
    clock.advance(MINUTE)
    assert await slow.begin_look(look, HOLD) is True
    clock.advance(MINUTE)
    assert await slow.begin_look(look, HOLD) is True


async def test_an_answer_from_before_the_refusal_does_not_end_the_back_off(
    slow: UploadsDAO, look: ClaimedLook, clock: FixedClock
) -> None:
    await slow.back_off("429", None, 60)
    await slow.resume(clock.now())
    assert await taken_in(slow, look, clock, 30) == 0


@pytest.mark.parametrize(("refusals", "minutes"), [(1, 1), (2, 2), (3, 4), (12, 1440), (40, 1440)])
async def test_back_off_doubles_up_to_a_day(
    dao: UploadsDAO, clock: FixedClock, refusals: int, minutes: int
) -> None:
    for _ in range(refusals):
        until = await dao.back_off("503", None, 60)
        waited = until - clock.now()
        clock.instant = until
    assert waited == minutes * MINUTE


async def test_retry_after_is_honoured(dao: UploadsDAO, clock: FixedClock) -> None:
    assert await dao.back_off("429", 7200, 60) == clock.now() + 2 * HOUR
    assert await dao.back_off("429", 9000, 60) == clock.now() + 2.5 * HOUR


# Scale


async def test_the_scale_is_worked_out_by_one_and_not_often(
    dao: UploadsDAO, sql: Any, clock: FixedClock
) -> None:
    await plan(sql, 3, worth=0.5)
    sampled = await dao.plan_to_scale()
    assert sampled is not None
    channels, fraction = sampled
    assert (len(channels), fraction, channels[0].worth) == (3, 1.0, 0.5)
    assert await dao.plan_to_scale() is None
    await dao.set_scale(replace(RULE, scale=4.5, stretch=1.5))
    pace = await dao.pace()
    assert (pace.scale, pace.stretch) == (4.5, 1.5)
    clock.advance(5 * MINUTE)
    assert await dao.plan_to_scale() is None
    clock.advance(MINUTE)
    assert await dao.plan_to_scale() is not None, "a few channels may soon be many"


async def test_the_scale_of_many_channels_serves_for_an_hour(
    dao: UploadsDAO, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.adapters.uploads._SCALE_SAMPLE", 0)
    assert await dao.plan_to_scale() is not None
    clock.advance(HOUR - MINUTE)
    assert await dao.plan_to_scale() is None
    clock.advance(MINUTE)
    assert await dao.plan_to_scale() is not None


async def test_a_smaller_scale_does_not_wait_for_the_looks_planned_at_a_larger_one(
    dao: UploadsDAO, sql: Any, clock: FixedClock
) -> None:
    """What was looked at while a look was worth little is looked at again as soon as it is worth more."""
    await plan(sql, 5, worth=0.25, rate=0.1)
    asked, failed, claimed, _ = await dao.claim_looks(4, replace(RULE, scale=20.0), HOLD)
    for look in (asked, failed, claimed):
        await dao.begin_look(look, HOLD)
    wide = replace(answered(asked), interval_h=100, worth=0.25, rate=0.1)
    await dao.store_looks(asked.token, [wide, replace(wide, channel_id=failed.channel_id, answered=False)])
    held = await sql.fetch("SELECT * FROM channel_uploads WHERE claim_token IS NOT NULL OR looked_at IS NULL")
    assert await dao.set_scale(replace(RULE, scale=0.5)) == 2
    rows = await sql.fetch(
        "SELECT * FROM channel_uploads WHERE claim_token IS NULL AND looked_at IS NOT NULL"
    )
    assert [row["interval_h"] for row in rows] == [1.0, 1.0]
    assert {row["next_look_at"] for row in rows} == {NOON + HOUR}
    assert held == await sql.fetch(
        "SELECT * FROM channel_uploads WHERE claim_token IS NOT NULL OR looked_at IS NULL"
    ), "who has claimed a channel, or never looked at it, is not disturbed"
    assert await dao.set_scale(replace(RULE, scale=0.45)) == 0, "hardly sooner"
    assert await dao.set_scale(replace(RULE, scale=9.0)) == 0, "later, but from the next look on"


# Counts


async def test_counts_of_feeds_wait_for_the_tracker_if_they_tell_something(
    dao: UploadsDAO, sql: Any, database: Database, clock: FixedClock, settings_factory: SettingsFactory
) -> None:
    maia = MaiaDAO(database, clock=clock, settings=settings_factory())
    await maia.ingest_video_metadata([found(name) for name in "abcd"])
    await sql.execute("UPDATE video_clock SET last_at = $1, last_views = 100, interval_h = 1", NOON)
    await sql.execute("UPDATE video_clock SET status = 'gone' WHERE video_id = $1", "d")
    later = NOON + 40 * MINUTE
    counts = [
        SeenCount("a", later, 150), SeenCount("b", later, 100),
        SeenCount("c", NOON + 20 * MINUTE, 150), SeenCount("d", later, 150),
        SeenCount("unknown", later, 1),
    ]  # fmt: skip
    assert await dao.add_counts(counts) == 1
    assert await dao.add_counts(counts) == 0, "and only once"
    assert [tuple(row) for row in await sql.fetch("SELECT * FROM pending_counts")] == [("a", later, 150)]


async def test_a_token_of_nobody_stores_nothing(dao: UploadsDAO, sql: Any) -> None:
    await plan(sql, 1)
    (look,) = await dao.claim_looks(1, RULE, HOLD)
    assert await dao.store_looks(uuid4(), [answered(look)]) == 0
    assert await dao.store_looks(look.token, []) == 0
