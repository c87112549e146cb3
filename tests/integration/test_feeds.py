"""The source `feeds`: which feeds are asked for, what their answers tell, and how refusals are honoured."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from atlas.adapters.uploads import ClaimedLook, UploadsDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.testing import NOON, SettingsFactory
from maia.discovery.feeds import (
    CHANNELS_PER_ASK,
    ENTRIES,
    FAILURES_TO_LEAVE,
    RETRY_FEED,
    Feeds,
    FeedsAsk,
    FeedsFinding,
)
from maia.discovery.source import FEEDS, Stored
from maia.youtube.client import YouTube
from maia.youtube.errors import RateLimited, Transient
from tests.api_server import Ledger
from tests.feed_server import OPENS, FeedServer, Upload, serving_feeds
from tests.ids import cid, vid
from tests.integration.test_tracking import found
from tests.integration.test_uploads import answered, plan

pytestmark = pytest.mark.integration

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


@dataclass
class House:
    """A source of feeds with its server and clock."""

    source: Feeds
    server: FeedServer
    clock: FixedClock
    dao: UploadsDAO
    atlas: Atlas

    async def look(self, asks: int = 1) -> list[FeedsFinding]:
        """Claim, put and complete; returns the findings."""
        findings = []
        for ask in await self.source.claim({FEEDS: asks}):
            finding = await self.source.put(ask)
            await self.complete(finding)
            findings.append(finding)
        return findings

    async def complete(self, finding: FeedsFinding) -> None:
        from atlas.adapters.maia import MaiaDAO

        maia = MaiaDAO(self.atlas.db, clock=self.clock, settings=self.atlas.settings)
        async with maia.transaction() as dao:
            await self.source.complete(dao, finding, Stored())


@pytest.fixture
def atlas_settings(settings_factory: SettingsFactory) -> Settings:
    return settings_factory(feeds={"requests_per_s": 100})


@pytest_asyncio.fixture
async def house(atlas: Atlas, clock: FixedClock) -> AsyncIterator[House]:
    async with serving_feeds(clock.now) as server:
        youtube_settings = atlas.settings.youtube.model_copy(update={"feed_url": server.url})
        async with YouTube.open(youtube_settings, Ledger(), clock=clock) as youtube:
            dao = UploadsDAO(atlas.db, clock=clock, settings=atlas.settings)
            yield House(Feeds(atlas, youtube), server, clock, dao, atlas)


def uploads(name: str, *ages_h: float, views: int | None = 100) -> list[Upload]:
    return [Upload(vid(f"{name}{n}"), NOON - age * HOUR, views) for n, age in enumerate(ages_h)]


async def fix_scale(sql: Any) -> None:
    """Keep intervals at a few hours, as if there were many channels."""
    await sql.execute("UPDATE feed_pace SET scale = 0.2, scaled_at = 'infinity'")


async def row_of(sql: Any, channel_id: str) -> Any:
    return await sql.fetchrow("SELECT * FROM channel_uploads WHERE channel_id = $1", channel_id)


def ids_of(findings: Sequence[FeedsFinding]) -> list[str]:
    return [id_ for finding in findings for id_ in finding.ids]


async def test_a_first_look_finds_recent_uploads_and_tells_how_often_to_look(house: House, sql: Any) -> None:
    busy, quiet = await plan(sql, 2)
    house.server.channels = {
        busy: uploads("b", *range(1, 16), views=100_000),
        quiet: uploads("q", 20, 900, 2000, views=3),
    }
    findings = await house.look()
    assert ids_of(findings) == [vid(f"b{n}") for n in range(15)] + [vid("q0")]
    rows = {name: await row_of(sql, name) for name in (busy, quiet)}
    assert rows[busy]["rate"] > 20 * rows[quiet]["rate"]
    assert rows[busy]["interval_h"] < rows[quiet]["interval_h"] / 2
    assert rows[busy]["next_look_at"] == NOON + timedelta(hours=rows[busy]["interval_h"])
    assert rows[busy]["newest_at"] == NOON - HOUR
    assert rows[busy]["gap_since"] is None, "a first look opens no gap into the past"
    assert findings[0].units == 0


async def test_later_looks_find_what_is_new_and_judge_what_is_a_day_old(house: House, sql: Any) -> None:
    (channel,) = await plan(sql, 1)
    house.server.channels = {channel: uploads("a", 5, 200, views=5_000)}
    await house.look()
    first = await row_of(sql, channel)
    house.clock.advance(30 * HOUR)
    house.server.channels[channel] += [Upload(vid("new"), NOON + 20 * HOUR, 9)]
    await sql.execute("UPDATE channel_uploads SET next_look_at = $1", house.clock.now())
    assert ids_of(await house.look()) == [vid("new")]
    row = await row_of(sql, channel)
    kept = 2 ** (-30 / 720)
    assert row["uploads"] == pytest.approx(first["uploads"] * kept + 1, rel=1e-5)
    assert row["watched_h"] == pytest.approx(first["watched_h"] * kept + 30, rel=1e-5)
    assert row["judged"] == pytest.approx(first["judged"] * kept, rel=1e-5), "the first look judged them"
    house.clock.advance(30 * HOUR)
    house.server.channels[channel][-1:] = [Upload(vid("new"), NOON + 20 * HOUR, 900)]
    await sql.execute("UPDATE channel_uploads SET next_look_at = $1", house.clock.now())
    await house.look()
    last = await row_of(sql, channel)
    assert last["judged"] == pytest.approx(row["judged"] * kept + 1, rel=1e-5)
    assert last["judged_until"] == NOON + 20 * HOUR


async def test_an_unchanged_feed_is_evidence_too(house: House, sql: Any) -> None:
    (channel,) = await plan(sql, 1)
    await fix_scale(sql)
    house.server.channels = {channel: uploads("a", 5, 50, 90)}
    await house.look()
    before = await row_of(sql, channel)
    house.clock.advance(100 * HOUR)
    assert ids_of(await house.look()) == []
    assert house.server.statuses() == {200: 1, 304: 1}
    row = await row_of(sql, channel)
    assert row["watched_h"] > before["watched_h"] + 70
    assert row["rate"] < before["rate"]
    assert row["interval_h"] > before["interval_h"]
    assert row["answered_at"] == house.clock.now()


async def test_an_old_copy_of_a_feed_makes_nothing_new_again(house: House, sql: Any) -> None:
    (channel,) = await plan(sql, 1)
    house.server.channels = {channel: uploads("a", 5, 50, 90)}
    await house.look()
    now = house.server.channels[channel]
    for shown in (now[1:], now):
        house.server.channels[channel] = shown
        house.clock.advance(100 * HOUR)
        assert ids_of(await house.look()) == []
    assert (await row_of(sql, channel))["newest_at"] == NOON - 5 * HOUR


async def test_a_feed_too_short_for_what_is_new_opens_a_gap(house: House, sql: Any) -> None:
    (channel,) = await plan(sql, 1)
    house.server.channels = {channel: uploads("a", 5)}
    await house.look()
    flood = [Upload(vid(f"f{n}"), NOON + n * MINUTE, 1) for n in range(20)]
    house.server.channels[channel] += flood
    house.clock.advance(200 * HOUR)
    assert len(ids_of(await house.look())) == ENTRIES
    assert (await row_of(sql, channel))["gap_since"] == NOON - 5 * HOUR
    (gap,) = await house.dao.claim_gaps(5, 60)
    assert (gap.channel_id, gap.since) == (channel, NOON - 5 * HOUR)


async def test_a_feed_that_keeps_failing_is_left_to_the_source_uploads(house: House, sql: Any) -> None:
    (channel,) = await plan(sql, 1)
    for failures in (1, 2):
        assert len(await house.look()) == 1
        row = await row_of(sql, channel)
        assert (row["failures"], row["by_feed"], row["answered_at"]) == (failures, True, None)
        house.clock.advance(200 * HOUR)
    await house.look()
    row = await row_of(sql, channel)
    assert (row["failures"], row["by_feed"]) == (0, False)
    assert row["next_look_at"] == house.clock.now(), "its uploads are looked at without the feed at once"
    house.clock.advance(RETRY_FEED - MINUTE)
    assert await house.look() == []
    assert house.server.statuses() == {404: 3}


async def test_a_feed_that_was_given_up_is_tried_again_after_a_week(house: House, sql: Any) -> None:
    """Also where nobody counts its channel's videos."""
    (channel,) = await plan(sql, 1, failures=FAILURES_TO_LEAVE - 1)
    await house.look()
    house.clock.advance(RETRY_FEED)
    await house.look()
    assert house.server.statuses() == {404: 2}
    row = await row_of(sql, channel)
    assert (row["by_feed"], row["retry_feed_at"]) == (False, house.clock.now() + RETRY_FEED), "at once again"
    house.clock.advance(RETRY_FEED)
    house.server.channels = {channel: uploads("a", 1)}
    await house.look()
    assert house.server.statuses() == {404: 2, 200: 1}
    row = await row_of(sql, channel)
    assert (row["by_feed"], row["failures"], row["retry_feed_at"]) == (True, 0, None)


async def test_feeds_are_tried_again_a_few_at_a_time_and_after_those_that_are_due(
    house: House, sql: Any
) -> None:
    ids = await plan(sql, 10, by_feed=False)
    await sql.execute("UPDATE channel_uploads SET by_feed = true WHERE channel_id = $1", ids[9])
    await sql.execute("UPDATE channel_uploads SET retry_feed_at = next_look_at")
    house.server.channels = {id_: uploads(f"c{n}", 1) for n, id_ in enumerate(ids)}
    await fix_scale(sql)
    house.source.settings = house.source.settings.model_copy(update={"looks_per_day": 480})
    await house.look()
    assert house.server.asked() == [ids[9], *ids[:2]]
    await house.look()
    assert len(house.server.requests) == 3
    house.clock.advance(HOUR)
    await house.look()
    assert set(house.server.asked()[3:]) == set(ids[2:4])


async def test_a_channel_whose_videos_somebody_counts_now_is_left_alone(house: House, sql: Any) -> None:
    await plan(sql, 1, by_feed=False, retry_feed_at=NOON)
    (look,) = await house.dao.claim_looks(0, _rule(house), 2 * HOUR, counts=1)
    assert await house.dao.retry_feeds(9, 2) == 0
    house.clock.advance(2 * HOUR)
    assert await house.dao.retry_feeds(9, 2) == 1
    assert await house.dao.store_looks(look.token, [answered(look, by_feed=False)]) == 0


async def test_a_feed_that_answers_again_forgets_its_failures(house: House, sql: Any) -> None:
    (channel,) = await plan(sql, 1)
    await house.look()
    house.server.channels = {channel: uploads("a", 1)}
    house.clock.advance(200 * HOUR)
    await house.look()
    assert (await row_of(sql, channel))["failures"] == 0


@pytest.mark.parametrize("first", [0, 3])
async def test_a_429_is_recorded_before_it_is_raised(house: House, sql: Any, first: int) -> None:
    """The channels that were not asked about are given back, and nobody asks until the back-off ends."""
    ids = await plan(sql, 10)
    house.server.channels = {id_: uploads(f"c{n}", 1) for n, id_ in enumerate(ids)}
    (ask,) = await house.source.claim({FEEDS: 1})
    await _refuse_after(house, ask, first)
    await house.source.release([ask])
    assert (await house.dao.pace()).closed_until == NOON + 30 * MINUTE
    asked = len(house.server.requests)
    assert asked == first + 1
    assert list(await house.source.claim({FEEDS: 1})) == []
    house.clock.advance(29 * MINUTE)
    assert list(await house.source.claim({FEEDS: 1})) == []
    assert len(house.server.requests) == asked
    house.clock.advance(MINUTE)
    (test,) = await house.source.claim({FEEDS: 5})
    assert len(test.looks) == 1, "one request tests whether feeds answer again"
    assert test.looks[0].channel_id in ids[first + 1 :]


async def _refuse_after(house: House, ask: FeedsAsk, answers: int) -> None:
    """Put the ask; YouTube refuses after so many answers."""
    take = house.source.dao.begin_look
    taken = 0

    async def counting(look: ClaimedLook, hold: timedelta) -> bool | None:
        nonlocal taken
        if taken == answers:
            house.server.refusal = (429, {"Retry-After": "1800"})
        taken += 1
        return await take(look, hold)

    house.source.dao.begin_look = counting  # type: ignore[method-assign]
    with pytest.raises(RateLimited):
        await house.source.put(ask)
    house.source.dao.begin_look = take  # type: ignore[method-assign]


@pytest.mark.parametrize(("status", "pause"), [(403, 60 * MINUTE), (503, MINUTE)])
async def test_other_refusals_pause_all_hunters_too(
    house: House, sql: Any, status: int, pause: timedelta
) -> None:
    ids = await plan(sql, 5)
    await fix_scale(sql)
    house.server.refusal = (status, {})
    (finding,) = await house.look()
    assert [answer.feed for answer in finding.answers] == [None]
    assert (await house.dao.pace()).closed_until == NOON + pause
    assert list(await house.source.claim({FEEDS: 1})) == []
    due = await sql.fetch("SELECT channel_id FROM channel_uploads WHERE next_look_at <= $1", NOON)
    assert {row["channel_id"] for row in due} == set(ids[1:]), "the others were given back"
    house.clock.advance(pause)
    house.server.refusal = None
    house.server.channels = {id_: uploads(f"c{n}", 1) for n, id_ in enumerate(ids)}
    assert [len(finding.answers) for finding in await house.look()] == [1]
    assert (await house.dao.pace()).refusals == 0
    assert sum(len(finding.answers) for finding in await house.look()) == 3


@pytest.mark.parametrize(
    "body", [b"<!DOCTYPE html><html></html>", b"<html></html>", b"", f"{OPENS}<entry>".encode()]
)
async def test_what_is_no_feed_pauses_all_hunters_and_is_no_failure_of_the_channel(
    house: House, sql: Any, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    ids = await plan(sql, 5, failures=FAILURES_TO_LEAVE - 1)
    await fix_scale(sql)
    house.server.body = body
    (finding,) = await house.look()
    assert len(finding.answers) == len(house.server.requests) == 1
    assert (await house.dao.pace()).closed_until == NOON + MINUTE
    assert [record.levelname for record in caplog.records if "no hunter sends any" in record.message] == [
        "WARNING"
    ]
    for minutes in (1, 2, 4):
        assert await house.look() == [], "nobody asks until the pause is over"
        house.clock.advance(minutes * MINUTE)
        await house.look()
    rows = await sql.fetch("SELECT failures, by_feed FROM channel_uploads")
    assert {tuple(row) for row in rows} == {(FAILURES_TO_LEAVE - 1, True)}
    assert len(set(house.server.asked())) == 4, "each of them waits for its interval"
    house.clock.advance(8 * MINUTE)
    house.server.body = None
    house.server.channels = {id_: uploads(f"c{n}", 1) for n, id_ in enumerate(ids)}
    assert len(await house.look()) == 1
    assert (await house.dao.pace()).refusals == 0


async def test_if_most_feeds_are_missing_no_channel_has_failed(
    house: House, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ids = await plan(sql, 6, failures=FAILURES_TO_LEAVE - 1)
    await fix_scale(sql)
    house.server.channels = {id_: uploads(f"c{n}", 1) for n, id_ in enumerate(ids[3:])}
    await house.look()
    assert house.server.statuses() == {404: 3, 200: 3}
    for id_ in ids[:3]:
        row = await row_of(sql, id_)
        assert (row["failures"], row["by_feed"]) == (FAILURES_TO_LEAVE - 1, True)
        assert row["answered_at"] is None
        assert row["next_look_at"] == NOON + timedelta(hours=row["interval_h"]) > NOON
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.message[:28] for record in warnings] == ["3 of 6 feeds are missing, wh"]
    assert (await house.dao.pace()).closed_until is None


async def test_feeds_missing_one_ask_after_the_other_are_seen_together(house: House, sql: Any) -> None:
    ids = await plan(sql, 12)
    house.server.channels = {id_: uploads(f"c{n}", 1) for n, id_ in enumerate(ids[:6])}
    for id_ in ids:
        await sql.execute("UPDATE channel_uploads SET next_look_at = 'infinity' WHERE channel_id <> $1", id_)
        await sql.execute("UPDATE channel_uploads SET next_look_at = $2 WHERE channel_id = $1", id_, NOON)
        assert len(await house.look()) == 1
    rows = [await row_of(sql, id_) for id_ in ids]
    assert [row["failures"] for row in rows] == [0] * 6 + [1, 1] + [0] * 4


@pytest.mark.parametrize(("channels", "missing"), [(2, 2), (7, 3), (6, 1)])
async def test_missing_feeds_among_others_that_answer_are_the_channels(
    house: House, sql: Any, channels: int, missing: int, caplog: pytest.LogCaptureFixture
) -> None:
    ids = await plan(sql, channels)
    house.server.channels = {id_: uploads(f"c{n}", 1) for n, id_ in enumerate(ids[missing:])}
    await house.look()
    rows = [await row_of(sql, id_) for id_ in ids]
    assert [row["failures"] for row in rows] == [1] * missing + [0] * (channels - missing)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


async def test_a_dead_network_gives_back_all_that_was_not_asked(house: House, sql: Any) -> None:
    ids = await plan(sql, 5)
    house.source.youtube._settings = house.source.youtube._settings.model_copy(update={"attempts": 1})
    house.source.youtube._transport.__dict__["feeds"] = house.source.youtube._transport.feeds.with_port(1)
    (ask,) = await house.source.claim({FEEDS: 1})
    with pytest.raises(Transient):
        await house.source.put(ask)
    await house.source.release([ask], count_attempt=False)
    due = await sql.fetch("SELECT channel_id FROM channel_uploads WHERE next_look_at <= $1", NOON)
    assert {row["channel_id"] for row in due} == set(ids[1:])
    assert (await house.dao.pace()).closed_until is None, "it was no refusal"


async def test_channels_are_asked_in_groups_as_far_as_the_days_looks_go(
    atlas: Atlas, house: House, sql: Any
) -> None:
    await plan(sql, 60)
    asks = await house.source.claim({FEEDS: 2})
    assert [len(ask.looks) for ask in asks] == [CHANNELS_PER_ASK, CHANNELS_PER_ASK]
    await house.source.release(asks)
    await sql.execute("UPDATE feed_pace SET day = $1, looks = $2", NOON.date(), 20_000 - 30)
    asks = await house.source.claim({FEEDS: 9})
    assert sum(len(ask.looks) for ask in asks) == 30


async def test_a_claimant_that_is_late_asks_no_more(house: House, sql: Any) -> None:
    """After its hold somebody else may ask, so the rest is given back."""
    ids = await plan(sql, 3)
    house.server.channels = {id_: uploads(f"c{n}", 1) for n, id_ in enumerate(ids)}
    (ask,) = await house.source.claim({FEEDS: 1})
    house.clock.advance(timedelta(seconds=house.atlas.settings.hunter.lease_s))
    finding = await house.source.put(ask)
    await house.complete(finding)
    assert house.server.requests == []
    assert len(await house.dao.claim_looks(9, _rule(house), HOUR)) == 3


def _rule(house: House) -> Any:
    from tests.integration.test_uploads import RULE

    return RULE


async def test_feeds_show_counts_of_stored_videos(house: House, sql: Any) -> None:
    from atlas.adapters.maia import MaiaDAO

    (channel,) = await plan(sql, 1)
    maia = MaiaDAO(house.atlas.db, clock=house.clock, settings=house.atlas.settings)
    known = [vid("a0"), vid("a1")]
    await maia.ingest_video_metadata([found(id_, channel_id=channel, view_count=10) for id_ in known])
    house.clock.advance(2 * HOUR)
    house.server.headers = {"Age": "300"}
    house.server.channels = {channel: [*uploads("a", 1, views=70), *uploads("b", 1, views=5)]}
    await house.look()
    counts = [tuple(row) for row in await sql.fetch("SELECT * FROM pending_counts")]
    assert counts == [(vid("a0"), house.clock.now() - 5 * MINUTE, 70)]


async def test_an_entry_without_date_or_views_disturbs_nothing(house: House, sql: Any) -> None:
    (channel,) = await plan(sql, 1)
    house.server.channels = {channel: uploads("a", 1, 30, views=None)}
    assert ids_of(await house.look()) == [vid("a0"), vid("a1")]
    row = await row_of(sql, channel)
    assert row["judged"] == 0
    house.clock.advance(300 * HOUR)
    assert ids_of(await house.look()) == []


async def test_intervals_fit_the_looks_a_day(house: House, sql: Any) -> None:
    await plan(sql, 200, worth=0.05, rate=1.0, answered_at=NOON)
    await sql.execute("UPDATE channel_uploads SET worth = 0.0005, rate = 0.01 WHERE channel_id < $1", cid(50))
    source = Feeds(house.atlas, house.source.youtube)
    source.settings = source.settings.model_copy(update={"looks_per_day": 1200})
    asks = await source.claim({FEEDS: 8})
    hours = [row["next_interval_h"] for row in await sql.fetch("SELECT next_interval_h FROM channel_uploads")]
    assert sum(len(ask.looks) for ask in asks) == 200
    assert sum(24 / each for each in hours) == pytest.approx(1200, rel=0.02)
    assert len({round(each, 3) for each in hours}) == 2


def test_the_groups_of_a_day_are_enriched_within_the_hunters_units() -> None:
    looks, general = 20_000, 4_000
    assert looks / CHANNELS_PER_ASK < general / 2
