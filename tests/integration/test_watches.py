"""Watches: pinned zones of known videos, those to come, and those that nobody has met."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.watches import Watch, WatchesDAO, WatchKind
from atlas.clock import FixedClock
from atlas.db import Database
from atlas.testing import NOON, SettingsFactory
from tests.growth import HOUR, store_video
from tests.integration.test_maia_dao import Clip

pytestmark = pytest.mark.integration

HOT, WARM, COLD = 0, 1, 2


def video(id_: str) -> Watch:
    return Watch(WatchKind.VIDEO, id_)


def channel(id_: str) -> Watch:
    return Watch(WatchKind.CHANNEL, id_)


@pytest.fixture
def dao(database: Database, clock: FixedClock, settings_factory: SettingsFactory) -> WatchesDAO:
    return WatchesDAO(database, clock=clock, settings=settings_factory())


@pytest.fixture
def maia(database: Database, clock: FixedClock, settings_factory: SettingsFactory) -> MaiaDAO:
    return MaiaDAO(database, clock=clock, settings=settings_factory())


async def clock_of(sql: Any, id_: str) -> tuple[Any, ...]:
    row = await sql.fetchrow(
        "SELECT zone, pinned_zone, next_due_at, interval_h FROM video_clock WHERE video_id = $1", id_
    )
    return tuple(row)


class TestPins:
    @pytest.fixture(autouse=True)
    async def videos(self, sql: Any) -> None:
        for name in ("a", "b"):
            await store_video(
                sql, name, clock_zone=COLD, clock_interval_h=30.0, clock_next_due_at=NOON + 20 * HOUR
            )
        await store_video(sql, "c", channel="UC-two", clock_zone=WARM, clock_interval_h=6.0)

    async def test_a_more_urgent_zone_is_due_at_once(self, dao: WatchesDAO, sql: Any) -> None:
        assert (await dao.add([video("a")], HOT)).videos_pinned == 1
        assert await clock_of(sql, "a") == (HOT, HOT, NOON, 1.0)
        assert await clock_of(sql, "b") == (COLD, None, NOON + 20 * HOUR, 30.0)

    async def test_a_less_urgent_zone_waits_for_its_turn(self, dao: WatchesDAO, sql: Any) -> None:
        await dao.add([video("c")], COLD)
        assert await clock_of(sql, "c") == (COLD, COLD, NOON + HOUR, 6.0)

    async def test_what_is_overdue_stays_so(self, dao: WatchesDAO, sql: Any) -> None:
        await sql.execute("UPDATE video_clock SET next_due_at = $1", NOON - 5 * HOUR)
        await dao.add([video("a")], WARM)
        assert await clock_of(sql, "a") == (WARM, WARM, NOON - 5 * HOUR, 6.0)

    async def test_a_channels_zone_is_that_of_its_videos(self, dao: WatchesDAO, sql: Any) -> None:
        assert (await dao.add([channel("UC-one")], WARM)).videos_pinned == 2
        assert [(await clock_of(sql, name))[1] for name in "abc"] == [WARM, WARM, None]

    async def test_a_videos_watch_goes_before_its_channels(self, dao: WatchesDAO, sql: Any) -> None:
        await dao.add([video("a")], HOT)
        await dao.add([channel("UC-one")], COLD)
        assert [(await clock_of(sql, name))[1] for name in "ab"] == [HOT, COLD]
        await dao.remove([video("a")])
        assert [(await clock_of(sql, name))[1] for name in "ab"] == [COLD, COLD]
        await dao.remove([channel("UC-one")])
        assert [(await clock_of(sql, name))[1] for name in "ab"] == [None, None]

    async def test_a_watch_without_zone_leaves_the_clock_alone(self, dao: WatchesDAO, sql: Any) -> None:
        assert (await dao.add([video("a"), channel("UC-two")])).videos_pinned == 0
        assert await clock_of(sql, "a") == (COLD, None, NOON + 20 * HOUR, 30.0)

    async def test_another_zone_replaces_the_first(
        self, dao: WatchesDAO, sql: Any, clock: FixedClock
    ) -> None:
        await dao.add([video("a")], HOT)
        clock.advance(HOUR)
        await dao.add([video("a"), video("a")], WARM)
        [line] = await dao.watches()
        assert (line.zone, line.created_at) == (WARM, NOON)
        assert (await clock_of(sql, "a"))[1] == WARM

    async def test_a_second_add_without_a_zone_keeps_the_pin(self, dao: WatchesDAO, sql: Any) -> None:
        await dao.add([video("a"), channel("UC-two")], HOT)
        await dao.add([video("a"), channel("UC-two")])
        assert [line.zone for line in await dao.watches()] == [HOT, HOT]
        assert [(await clock_of(sql, name))[1] for name in "ac"] == [HOT, HOT]

    async def test_whoever_holds_it_cannot_put_it_back(self, dao: WatchesDAO, sql: Any) -> None:
        token = uuid4()
        await sql.execute(
            "UPDATE video_clock "
            "SET lease_owner = 'n', lease_token = $1, lease_until = now() + interval '1 hour'",
            token,
        )
        await dao.add([video("a"), video("c")], WARM)
        held = await sql.fetch("SELECT video_id FROM video_clock WHERE lease_token = $1 ORDER BY 1", token)
        # c was warm already: its sample is as good as ever.
        assert [row["video_id"] for row in held] == ["b", "c"]

    async def test_it_waits_for_a_tracker_without_making_one_wait(
        self, dao: WatchesDAO, sql: Any, database_url: str
    ) -> None:
        tracker = await asyncpg.connect(database_url)
        try:
            transaction = tracker.transaction()
            await transaction.start()
            await tracker.execute("UPDATE video_clock SET samples = samples + 1 WHERE video_id = 'b'")
            adding = asyncio.create_task(dao.add([channel("UC-one")], HOT))
            await asyncio.sleep(0.3)
            assert not adding.done()
            # The row that came first is not locked while the other one is waited for.
            await tracker.execute("SET LOCAL lock_timeout = '5s'")
            await tracker.execute("UPDATE video_clock SET samples = samples + 1 WHERE video_id = 'a'")
            await transaction.commit()
            assert (await adding).videos_pinned == 2
        finally:
            await tracker.close()
        assert [(await clock_of(sql, name))[1] for name in "ab"] == [HOT, HOT]


class TestWhatIsToCome:
    async def test_later_finds_of_a_channel_are_pinned(
        self, dao: WatchesDAO, maia: MaiaDAO, sql: Any
    ) -> None:
        await dao.add([channel("UC-new")], HOT)
        await maia.ingest_video_metadata(
            [Clip("x", channel_id="UC-new", published_at=NOON - timedelta(days=90)), Clip("y")]
        )
        assert [(await clock_of(sql, name))[:2] for name in "xy"] == [(HOT, HOT), (WARM, None)]
        title = await sql.fetchval("SELECT title FROM channels WHERE id = 'UC-new'")
        assert title == "Channel one"

    async def test_a_channel_never_met_joins_the_channels_clock(self, dao: WatchesDAO, maia: MaiaDAO) -> None:
        await dao.add([channel("UC-new"), channel("UC-new")])
        await dao.add([channel("UC-new")], HOT)
        [target] = await maia.fetch_channel_targets(10)
        assert (target.id, target.next_due_at) == ("UC-new", NOON)

    async def test_a_video_never_met_is_pinned_once_it_is_stored(
        self, dao: WatchesDAO, maia: MaiaDAO, sql: Any
    ) -> None:
        await dao.add([video("x")], WARM)
        [line] = await dao.watches()
        assert (line.known, line.title, line.asks) == (False, None, 0)
        assert await dao.claim_unknown_videos(50) == ["x"]
        await maia.ingest_video_metadata([Clip("x", published_at=NOON - timedelta(days=90))])
        assert (await clock_of(sql, "x"))[:2] == (WARM, WARM)
        assert await dao.claim_unknown_videos(50) == []
        [line] = await dao.watches()
        assert (line.known, line.title, line.status) == (True, "A title", "live")

    async def test_what_does_not_exist_is_asked_for_ever_more_seldom(
        self, dao: WatchesDAO, clock: FixedClock
    ) -> None:
        await dao.add([video("x")])
        pauses_h, last = [], NOON
        for _ in range(170 * 4):
            if await dao.claim_unknown_videos(50):
                pauses_h.append((clock.now() - last) / HOUR)
                last = clock.now()
            clock.advance(HOUR)
        assert pauses_h == [0, 1, 4, 16, 64, 168, 168, 168]

    async def test_two_trackers_do_not_ask_for_the_same(self, dao: WatchesDAO) -> None:
        await dao.add([video(f"v{number:03}") for number in range(120)])
        claims = await asyncio.gather(*(dao.claim_unknown_videos(50) for _ in range(4)))
        asked = [id_ for claim in claims for id_ in claim]
        assert len(asked) == len(set(asked))
        asked += await dao.claim_unknown_videos(120)
        assert sorted(asked) == [f"v{number:03}" for number in range(120)]


class TestReviving:
    async def test_what_is_gone_is_asked_for_at_once(
        self, dao: WatchesDAO, maia: MaiaDAO, sql: Any, clock: FixedClock
    ) -> None:
        gone: dict[str, Any] = {"clock_status": "gone", "clock_gone_at": NOON, "clock_misses": 4}
        await store_video(sql, "a", status="gone", clock_next_due_at=None, **gone)
        await store_video(sql, "b", status="gone", clock_next_due_at=None, **gone)
        await sql.execute(
            "INSERT INTO channel_clock (channel_id, status, misses, next_due_at) "
            "VALUES ('UC-one', 'gone', 2, $1)",
            NOON + 9 * HOUR,
        )
        clock.advance(HOUR)
        await dao.add([video("a"), channel("UC-one")])
        [target] = await maia.fetch_tracker_targets(10)
        assert (target.id, target.gone_at, target.misses, target.next_due_at) == ("a", None, 0, clock.now())
        [claimed] = await maia.fetch_channel_targets(10)
        assert (claimed.id, claimed.misses) == ("UC-one", 0)
        rows = await sql.fetch("SELECT id, status FROM videos ORDER BY id")
        assert [tuple(row) for row in rows] == [("a", "live"), ("b", "gone")]


class TestList:
    async def test_tells_how_each_stands(self, dao: WatchesDAO, sql: Any, clock: FixedClock) -> None:
        await store_video(sql, "a", clock_last_sampled_at=NOON)
        await store_video(sql, "b", channel="UC-two")
        await store_video(sql, "c", channel="UC-two")
        await dao.add([video("a")], HOT)
        clock.advance(HOUR / 60)
        await dao.add([channel("UC-two"), video("unknown")])
        clock.advance(HOUR / 60)
        await dao.add([video("c")])
        await sql.execute("UPDATE video_clock SET status = 'gone', gone_at = $1 WHERE video_id = 'c'", NOON)
        first, second, third, fourth = await dao.watches()
        assert (first.kind, first.id, first.zone, first.title) == ("video", "a", HOT, "Video a")
        assert (first.last_sampled_at, first.status, first.videos) == (NOON, "live", None)
        assert (second.kind, second.id, second.videos, second.title) == (
            "channel",
            "UC-two",
            1,
            "Channel UC-two",
        )
        assert (third.id, third.known, third.status) == ("unknown", False, None)
        assert (fourth.id, fourth.status) == ("c", "gone")

    async def test_removing_what_is_not_watched_is_told(self, dao: WatchesDAO) -> None:
        changed = await dao.remove([video("a"), channel("UC-one")])
        assert (changed.watches, changed.videos_pinned) == (0, 0)

    async def test_ids_are_told_apart(self, dao: WatchesDAO, sql: Any) -> None:
        await store_video(sql, "a")
        await dao.add([video("unknown")])
        assert await dao.kinds_of(["a", "UC-one", "unknown", "nobody"]) == {
            "a": WatchKind.VIDEO,
            "UC-one": WatchKind.CHANNEL,
            "unknown": WatchKind.VIDEO,
        }
