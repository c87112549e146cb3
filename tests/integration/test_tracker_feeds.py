"""The tracker makes samples of the counts that feeds showed, and lets unlikely videos leave the hot zone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from atlas.adapters.uploads import SeenCount, UploadsDAO
from atlas.adapters.watches import Watch, WatchesDAO, WatchKind
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.errors import TransactionConflict
from atlas.testing import NOON, SettingsFactory
from maia.cycle.outcome import Outcome
from maia.emulator import Emulator
from maia.emulator.catalogue import Catalogue, CatalogueChannel, CatalogueVideo, new_catalogue
from maia.emulator.curves import Sample
from maia.tracker.cycle import Tracker
from tests.ids import cid, vid

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("without_waits")]

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
KEYS = '[{"key": "demo-one", "project": "demo"}]'
FAST, SLOW, STILL = vid("fast"), vid("slow"), vid("still")
PER_HOUR = {FAST: 1200, SLOW: 3, STILL: 0}
Tracking = Callable[..., AbstractAsyncContextManager[Tracker]]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three videos published at 11:00 that gain views evenly."""
    path: Path = tmp_path_factory.mktemp("catalogue") / "feeds.sqlite"
    born = NOON - HOUR
    with new_catalogue(path, {"made_by": "test"}) as writer:
        writer.add_channels([CatalogueChannel(cid("one"), "One")])
        for id_, rate in PER_HOUR.items():
            samples = [Sample(int((born + n * HOUR).timestamp()), 100 + n * rate, n) for n in range(100)]
            writer.add(CatalogueVideo(id_, cid("one"), id_, int(born.timestamp())), "One", samples)
    with Catalogue.open(path) as opened:
        yield opened


@pytest.fixture
def tracking(settings_factory: SettingsFactory, catalogue: Catalogue, clock: FixedClock) -> Tracking:
    @asynccontextmanager
    async def open_tracker(**tracker: Any) -> AsyncIterator[Tracker]:
        """A tracker that knows the three videos since now."""
        async with Emulator.serve(catalogue, clock=clock) as emulator:
            settings = settings_factory(
                youtube_api_key_pool_json=KEYS,
                youtube={"base_url": emulator.url},
                quota={"pacing": False},
                tracker=tracker,
            )
            async with Atlas.open(settings, clock=clock) as atlas, Tracker.open(atlas) as opened:
                await opened.dao.ingest_video_metadata(await opened.youtube.videos(PER_HOUR))
                opened.youtube.requests.clear()
                yield opened

    return open_tracker


def count(id_: str, at: datetime, views: int | None = None) -> SeenCount:
    """What a feed shows at an instant."""
    grown = 100 + round((at - NOON + HOUR) / HOUR * PER_HOUR[id_])
    return SeenCount(id_, at, grown if views is None else views)


async def show(tracker: Tracker, *counts: SeenCount) -> None:
    dao = UploadsDAO(tracker.atlas.db, clock=tracker.atlas.clock, settings=tracker.atlas.settings)
    await dao.add_counts(counts)


async def samples_of(sql: Any, id_: str) -> list[tuple[Any, ...]]:
    query = (
        "SELECT sampled_at, views, likes, source::text FROM video_stats_log WHERE video_id = $1 ORDER BY 1"
    )
    return [tuple(row) for row in await sql.fetch(query, id_)]


async def clock_of(sql: Any, id_: str) -> Any:
    return await sql.fetchrow("SELECT * FROM video_clock WHERE video_id = $1", id_)


async def pending(sql: Any) -> int:
    return int(await sql.fetchval("SELECT count(*) FROM pending_counts"))


async def test_a_feeds_count_is_a_sample_that_saves_one_of_the_api(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    async with tracking(triage=False) as tracker:
        clock.advance(50 * MINUTE)
        await show(tracker, count(FAST, clock.now()))
        statistics = await tracker.cycle()
        assert (statistics.samples, statistics.feed_samples, statistics.videos) == (1, 1, 0)
        assert statistics.units.get("stats", 0) == 0
        row = await clock_of(sql, FAST)
        assert row["next_due_at"] > NOON + 70 * MINUTE, "it was due at 13:00"
        assert row["velocity"] == pytest.approx(1200)
        assert (row["lease_token"], row["attempts"]) == (None, 0)
        clock.advance(15 * MINUTE)
        later = await tracker.cycle()
        assert (later.samples, later.feed_samples, later.units["stats"]) == (2, 0, 1)
    assert await samples_of(sql, FAST) == [
        (NOON, 1300, 1, None), (NOON + 50 * MINUTE, 2300, None, "feed"),
    ]  # fmt: skip
    free, *_ = await sql.fetch("SELECT payload FROM events WHERE kind = 'tracker.step' ORDER BY id")
    step = json.loads(free["payload"])
    assert (step["action"], step["outcome"], step["reward"], step["cost"]) == ("feed_counts", "success", 1, 0)
    assert (step["context"], step["results"]) == ({"batch": 1}, {"breakouts": 0})


async def test_the_likes_of_the_last_answer_stay_known(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    async with tracking() as tracker:
        clock.advance(50 * MINUTE)
        await show(tracker, count(FAST, clock.now()))
        await tracker.cycle()
    assert (await clock_of(sql, FAST))["last_likes"] == 1


async def test_a_count_that_did_not_move_is_no_sample(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    """A cached feed must not make a velocity of 0; the video stays due when it was."""
    async with tracking() as tracker:
        before = await clock_of(sql, FAST)
        clock.advance(40 * MINUTE)
        await sql.execute("INSERT INTO pending_counts VALUES ($1, $2, 1300)", FAST, clock.now())
        statistics = await tracker.cycle()
        assert statistics.feed_samples == 0
        assert dict(await clock_of(sql, FAST)) == dict(before)
        assert await pending(sql) == 0
        clock.advance(40 * MINUTE)
        await tracker.cycle()
    assert (await clock_of(sql, FAST))["velocity"] == pytest.approx(1200)


async def test_counts_from_before_a_later_sample_are_dropped(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    async with tracking(triage=False) as tracker:
        seen = [count(FAST, NOON + n * HOUR) for n in (1, 2, 3)]
        await sql.executemany("INSERT INTO pending_counts VALUES ($1, $2, $3)", seen)
        clock.advance(3 * HOUR)
        for _ in seen:
            await tracker.cycle()
    assert [row[0] for row in await samples_of(sql, FAST) if row[3]] == [each.at for each in seen[:1]]
    assert await pending(sql) == 0


async def test_a_video_that_another_tracker_holds_waits(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    async with tracking() as tracker:
        clock.advance(50 * MINUTE)
        await show(tracker, count(FAST, clock.now()))
        await sql.execute(
            "UPDATE video_clock SET lease_until = now() + interval '1 minute', lease_owner = 'other', "
            "lease_token = gen_random_uuid()"
        )
        assert (await tracker.cycle()).feed_samples == 0
        assert await pending(sql) == 1
        await sql.execute("UPDATE video_clock SET lease_until = NULL, lease_token = NULL, lease_owner = NULL")
        assert (await tracker.cycle()).feed_samples == 1


async def test_counts_are_used_while_the_ring_is_closed(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    async with tracking() as tracker:
        await tracker.keys.close_day(await tracker.keys.acquire("stats"), "spent")
        clock.advance(50 * MINUTE)
        await show(tracker, count(FAST, clock.now()))
        statistics = await tracker.cycle()
    assert (statistics.outcome, statistics.feed_samples) == (Outcome.CLOSED, 1)


async def test_a_conflict_repeats_the_whole_transaction(
    tracking: Tracking, clock: FixedClock, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tracking() as tracker:
        clock.advance(50 * MINUTE)
        await show(tracker, count(FAST, clock.now()))
        store, failed = UploadsDAO.set_staleness, []

        async def conflicting(dao: UploadsDAO, *arguments: float) -> None:
            await store(dao, *arguments)
            if not failed:
                failed.append(True)
                raise TransactionConflict("deadlock detected")

        await sql.execute("UPDATE video_clock SET velocity = 1200, weight = 0.5")
        monkeypatch.setattr(UploadsDAO, "set_staleness", conflicting)
        assert (await tracker.cycle()).feed_samples == 1
    assert failed
    assert len(await samples_of(sql, FAST)) == 2


async def test_how_late_feeds_are_is_learnt(tracking: Tracking, clock: FixedClock, sql: Any) -> None:
    async with tracking(triage=False) as tracker:
        for _ in range(30):
            clock.advance(65 * MINUTE)
            await tracker.cycle()
            clock.advance(45 * MINUTE)
            at = clock.now()
            await show(tracker, SeenCount(FAST, at, count(FAST, at - 10 * MINUTE).views))
            await tracker.cycle()
        stale_s = await sql.fetchval("SELECT stale_s FROM feed_pace")
        velocity = (await clock_of(sql, FAST))["velocity"]
    assert stale_s == pytest.approx(600, rel=0.2)
    assert velocity == pytest.approx(1200, rel=0.1)


async def test_old_counts_are_forgotten(tracking: Tracking, clock: FixedClock, sql: Any) -> None:
    async with tracking() as tracker:
        await sql.execute("UPDATE video_clock SET status = 'gone' WHERE video_id = $1", STILL)
        await sql.execute("INSERT INTO pending_counts VALUES ($1, $2, 7)", STILL, NOON)
        clock.advance(49 * HOUR)
        await tracker.cycle()
    assert await pending(sql) == 0


# Triage


async def test_unlikely_videos_leave_the_hot_zone_and_others_stay(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    await sql.execute("UPDATE discovery_state SET growing_views_per_hour = 500")
    async with tracking() as tracker:
        watches = WatchesDAO(tracker.atlas.db, clock=clock, settings=tracker.atlas.settings)
        await watches.add([Watch(WatchKind.VIDEO, STILL)], zone=0)
        clock.advance(HOUR)
        await tracker.cycle()
        zones = {id_: (await clock_of(sql, id_))["zone"] for id_ in PER_HOUR}
        assert zones == {FAST: 0, SLOW: 1, STILL: 0}, "a pinned video stays hot"
        assert (await clock_of(sql, SLOW))["interval_h"] >= 6
        clock.advance(30 * MINUTE)
        await show(tracker, count(SLOW, clock.now() + 4 * HOUR, 20_000))
        clock.advance(4 * HOUR)
        await tracker.cycle()
        assert (await clock_of(sql, SLOW))["zone"] == 0, "it has turned, as its feed showed"


async def test_triage_can_be_switched_off(tracking: Tracking, clock: FixedClock, sql: Any) -> None:
    await sql.execute("UPDATE discovery_state SET growing_views_per_hour = 500")
    async with tracking(triage=False) as tracker:
        clock.advance(HOUR)
        await tracker.cycle()
    assert (await clock_of(sql, SLOW))["zone"] == 0


async def test_before_growth_is_known_nothing_leaves(tracking: Tracking, clock: FixedClock, sql: Any) -> None:
    async with tracking() as tracker:
        clock.advance(HOUR)
        await tracker.cycle()
    assert (await clock_of(sql, SLOW))["zone"] == 0
