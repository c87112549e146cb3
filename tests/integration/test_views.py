"""Views over a real database: what they read, and that their JSON says the same."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from atlas.adapters.board import Filters
from atlas.adapters.uploads import UploadsDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.testing import NOON
from maia.commands.status import _print_calls
from maia.discovery.feeds import rule
from maia.views.breakouts import breakouts, follow
from maia.views.channel import channel
from maia.views.forecasts import forecast_scores
from maia.views.leaderboard import BARS, leaderboard
from maia.views.ledger import ledger
from maia.views.queue import queue
from maia.views.status import FeedsState, status
from maia.views.video import video
from maia.views.words import ATTRIBUTION, plain
from tests.growth import HOUR, store_samples, store_video
from tests.ids import cid

pytestmark = pytest.mark.integration

DAY = timedelta(days=1)
CHANNEL = "UC-views"


def through_json(view: Any) -> Any:
    return json.loads(json.dumps(view if isinstance(view, dict) else plain(view), allow_nan=False))


@pytest.fixture(autouse=True)
def noon(clock: FixedClock) -> None:
    assert clock.now() == NOON


async def store_uploads(sql: Any) -> None:
    """Nine videos of a channel: five long and three short ones of last month, and one of yesterday."""
    views = [100, 200, 300, 400, 4000]
    for number, count in enumerate(views):
        await store_video(
            sql, f"long-{number}", channel=CHANNEL, duration_s=600, published_at=NOON - (30 - number) * DAY,
            clock_last_views=count, clock_velocity=float(count), clock_zone=2,
        )  # fmt: skip
    for number in range(3):
        await store_video(
            sql, f"short-{number}", channel=CHANNEL, duration_s=30, published_at=NOON - (20 - number) * DAY,
            clock_last_views=1000 * (number + 1), clock_zone=2,
        )  # fmt: skip
    await store_video(
        sql, "premiere", channel=CHANNEL, duration_s=0, live_broadcast_content="upcoming",
        published_at=NOON - DAY,
    )  # fmt: skip


class TestLeaderboard:
    async def test_has_growth_and_filters(self, atlas: Atlas, sql: Any) -> None:
        await store_uploads(sql)
        await store_samples(sql, "long-4", [(NOON - 10 * HOUR, 1000), (NOON, 4000)])
        view = await leaderboard(atlas, filters=Filters(length="long"), window=10 * HOUR)
        [row] = view.videos
        assert (row.rank, row.id, row.length, row.state, row.zone) == (1, "long-4", "long", "tracked", "cold")
        assert row.leads_by == pytest.approx(300)
        assert row.growth == tuple(pytest.approx(300) for _ in range(BARS))
        told = through_json(view)
        assert (told["window_h"], told["videos"][0]["url"]) == (10, "https://www.youtube.com/watch?v=long-4")
        assert ATTRIBUTION in told["attribution"]


class TestVideo:
    async def test_an_announced_premiere_has_no_length(self, atlas: Atlas, sql: Any) -> None:
        await store_uploads(sql)
        view = await video(atlas, "premiere")
        assert view is not None
        assert (view.state, view.length, view.details.duration_s) == ("upcoming", None, None)
        told = through_json(view.as_json())
        assert (told["state"], told["duration_s"], told["samples"]) == ("upcoming", None, [])

    @pytest.mark.parametrize(
        ("change", "state"),
        [
            ("UPDATE videos SET live_broadcast_content = 'live'", "live"),
            ("UPDATE video_clock SET status = 'gone', gone_at = now()", "gone"),
            ("UPDATE videos SET live_broadcast_content = 'none'", "tracked"),
            ("DELETE FROM video_clock", "stored"),
        ],
    )
    async def test_says_how_a_video_stands(self, atlas: Atlas, sql: Any, change: str, state: str) -> None:
        await store_video(sql, "a")
        await sql.execute(change)
        view = await video(atlas, "a")
        assert view is not None
        assert view.state == state

    async def test_counts_the_samples_that_it_has(self, atlas: Atlas, sql: Any) -> None:
        await store_video(sql, "a", clock_samples=7)
        await store_samples(sql, "a", [(NOON - 2 * HOUR, 10), (NOON - HOUR, 20), (NOON, 30)])
        for window, samples in ((None, 3), (HOUR, 2)):
            view = await video(atlas, "a", window)
            assert view is not None
            told = through_json(view.as_json())
            assert (told["samples_in_window"], len(told["samples"])) == (samples, samples)

    async def test_who_is_not_stored_is_none(self, atlas: Atlas) -> None:
        assert await video(atlas, "nobody") is None


class TestForecasts:
    @pytest.fixture(autouse=True)
    async def growing(self, sql: Any) -> None:
        await store_video(sql, "a")
        await store_samples(sql, "a", [(NOON - 2 * HOUR, 800), (NOON - HOUR, 900), (NOON, 1000)])
        await sql.execute(
            "INSERT INTO video_forecasts VALUES "
            "('a', $1, 1000, 1100, 1200, 1300, 0.25, 1500, 2000, 3000, NULL)",
            NOON,
        )

    async def test_are_in_the_views_of_videos_and_leaders(self, atlas: Atlas) -> None:
        view = await video(atlas, "a")
        assert view is not None
        told = through_json(view.as_json())["forecast"]
        assert (told["made_at"], told["views"]) == ("2026-11-02T12:00:00Z", 1000)
        assert told["day"] == {
            "hours": 24, "at": "2026-11-03T12:00:00Z", "views": 1200, "low": 1100, "high": 1300,
            "top_chance": 0.25,
        }  # fmt: skip
        assert told["week"]["top_chance"] is None
        board = await leaderboard(atlas, by="forecast")
        [row] = through_json(board)["videos"]
        assert (row["id"], row["leads_by"], row["forecast"]) == ("a", 200, told)

    async def test_continue_the_curve_that_they_were_made_from(self, atlas: Atlas) -> None:
        view = await video(atlas, "a")
        assert view is not None
        band = view.band()
        assert band is not None
        assert band.high.tolist() == [1000, 1300]
        assert (replace(view, samples=view.samples[:1])).band() is None

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE video_clock SET status = 'gone'",
            "UPDATE video_forecasts SET made_at = made_at - interval '8 days'",
            "DELETE FROM video_forecasts",
        ],
    )
    async def test_that_tell_nothing_are_not_shown(self, atlas: Atlas, sql: Any, change: str) -> None:
        await sql.execute(change)
        view = await video(atlas, "a")
        assert view is not None
        assert (view.forecast, view.band()) == (None, None)

    async def test_are_scored_by_horizon_and_age(self, atlas: Atlas, sql: Any) -> None:
        await sql.execute(
            "INSERT INTO forecast_checks (video_id, made_at, horizon_h, due_at, age_class, views, low, "
            "expected, high, top, damped, actual, settled_at) "
            "SELECT 'a', $1::timestamptz - n * interval '1 hour', h, $1, n % 2, 100, 150, 200, 250, 0.1, "
            "180, 160 + n, $1::timestamptz - n * interval '1 hour' "
            "FROM generate_series(1, 40) AS n, unnest(ARRAY[24, 168]) AS h",
            NOON,
        )
        await sql.execute(
            "INSERT INTO forecast_checks (video_id, made_at, horizon_h, due_at, age_class, views, expected) "
            "VALUES ('a', $1, 24, $1::timestamptz + interval '1 day', 1, 100, 200)",
            NOON,
        )
        scores = await forecast_scores(atlas, DAY)
        assert [(each.horizon_h, each.age_class, each.forecasts) for each in scores.scores] == [
            (24, 0, 12), (24, 1, 12), (168, 0, 12), (168, 1, 12),
        ]  # fmt: skip
        assert (scores.checked, scores.waiting, scores.first_due_at) == (48, 1, NOON + DAY)
        assert {each.coverage for each in scores.scores} == {1.0}
        assert ATTRIBUTION in through_json(scores)["attribution"]
        assert (await forecast_scores(atlas, NOON - HOUR)).checked == 2


class TestChannel:
    async def test_medians_tell_short_ones_apart(self, atlas: Atlas, sql: Any) -> None:
        await store_uploads(sql)
        view = await channel(atlas, CHANNEL)
        assert view is not None
        assert {median.length: (median.videos, median.views) for median in view.medians} == {
            "long": (5, 300),
            "short": (3, 2000),
        }
        multiples = {upload.id: upload.multiple for upload in view.uploads}
        assert multiples["long-4"] == pytest.approx(4000 / 300)
        assert multiples["short-0"] == 0.5
        assert multiples["premiere"] is None
        assert [upload.id for upload in view.uploads][:2] == ["premiere", "short-2"]
        assert view.videos_stored == 9

    async def test_few_videos_have_no_median(self, atlas: Atlas, sql: Any) -> None:
        for number in range(2):
            await store_video(
                sql, f"v{number}", channel=CHANNEL, duration_s=600, published_at=NOON - 30 * DAY,
                clock_last_views=7,
            )  # fmt: skip
        view = await channel(atlas, CHANNEL)
        assert view is not None
        assert view.medians == ()
        assert [upload.multiple for upload in view.uploads] == [None, None]

    async def test_young_videos_do_not_pull_the_median_down(self, atlas: Atlas, sql: Any) -> None:
        await store_uploads(sql)
        for number in range(10):
            await store_video(
                sql, f"new-{number}", channel=CHANNEL, duration_s=600, published_at=NOON - 6 * DAY,
                clock_last_views=1,
            )  # fmt: skip
        view = await channel(atlas, CHANNEL, uploads=2)
        assert view is not None
        assert [median.views for median in view.medians if median.length == "long"] == [300]
        assert len(view.uploads) == 2

    async def test_history_and_norms(self, atlas: Atlas, sql: Any) -> None:
        await store_uploads(sql)
        for days, subscribers in ((3, 100), (2, None), (1, 120)):
            await sql.execute(
                "INSERT INTO channel_stats_log VALUES ($1, $2, $3, 9, $4)",
                CHANNEL, NOON - days * DAY, subscribers, 1000 * (4 - days),
            )  # fmt: skip
        await sql.execute(
            "INSERT INTO channel_norms VALUES ($1, 0, 3, ln(101), 2 * ln(2) ^ 2), ($1, 11, 1, ln(3), 0)",
            CHANNEL,
        )
        view = await channel(atlas, CHANNEL, window=60 * HOUR)
        assert view is not None
        assert [sample.subscribers for sample in view.samples] == [None, 120]
        young, old = view.norms
        assert (young.from_age_h, young.to_age_h, young.videos) == (0, 1, 3)
        assert [young.views_per_hour, young.low, young.high] == pytest.approx([100, 49.5, 201])
        assert (old.from_age_h, old.to_age_h, old.views_per_hour) == (2160, None, pytest.approx(2))
        told = through_json(view)
        assert (told["samples"][0]["subscribers"], told["norms"][1]["to_age_h"]) == (None, None)

    async def test_who_is_not_stored_is_none(self, atlas: Atlas) -> None:
        assert await channel(atlas, "UC-nobody") is None


class TestBreakouts:
    async def report(self, atlas: Atlas, video_id: str, times: float | None = 4.2) -> int:
        payload = {
            "video_id": video_id, "at": atlas.clock.now().isoformat(), "age_h": 3.0, "views": 900,
            "views_per_hour": 300.0, "times_expected": times, "viral_score": 0.9,
        }  # fmt: skip
        return await atlas.events.append("tracker.breakout", payload, agent="tracker")

    async def test_the_newest_come_first_with_their_titles(
        self, atlas: Atlas, sql: Any, clock: FixedClock
    ) -> None:
        await store_video(sql, "a", title="First")
        await self.report(atlas, "a")
        clock.advance(HOUR)
        await atlas.events.append("tracker.cycle", {"outcome": "done"})
        last = await self.report(atlas, "unknown", times=None)
        view = await breakouts(atlas, NOON)
        assert [(row.video_id, row.title, row.times_expected) for row in view.breakouts] == [
            ("unknown", None, None),
            ("a", "First", 4.2),
        ]
        assert view.cursor >= last
        assert [row.video_id for row in (await breakouts(atlas, NOON + HOUR)).breakouts] == ["unknown"]
        assert len((await breakouts(atlas, NOON, limit=1)).breakouts) == 1
        assert through_json(view)["breakouts"][1]["at"] == NOON.isoformat().replace("+00:00", "Z")

    async def test_following_goes_on_where_the_list_ends(self, atlas: Atlas, sql: Any) -> None:
        await store_video(sql, "a", title="First")
        await self.report(atlas, "a")
        listed = await breakouts(atlas, NOON)
        async with aclosing(follow(atlas, listed.cursor)) as rows:
            coming = asyncio.ensure_future(anext(rows))
            await asyncio.sleep(0.2)
            assert not coming.done()
            await self.report(atlas, "a", times=7.0)
            row = await asyncio.wait_for(coming, 20)
        assert (row.video_id, row.title, row.times_expected) == ("a", "First", 7.0)


class TestStatus:
    async def test_the_last_days_calls_are_compared_with_what_was_expected(
        self, atlas: Atlas, clock: FixedClock, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async def call(outcome: str, success: float | None = None, agent: str = "hunter") -> None:
            expected = {} if success is None else {"expected": {"success": success, "failure_class": "quota"}}
            payload = {"action": "search", "outcome": outcome, **expected}
            await atlas.events.append(f"{agent}.step", payload, agent=agent)

        await call("network", 0.9)
        clock.advance(timedelta(days=2))
        for outcome, success in [("success", 0.8), ("success", 0.6), ("ring_closed", 0.4)]:
            await call(outcome, success)
        await call("vault", None, "tracker")
        await call("interrupted", 0.9)
        await atlas.events.append("tracker.step", {"action": "feed_counts", "outcome": "success"})

        view = await status(atlas, ["hunter"])

        assert (view.calls.calls, view.calls.succeeded, view.calls.expecting) == (4, 0.5, 3)
        assert view.calls.expected == pytest.approx(0.6)
        assert (view.calls.classes_right, len(view.calls.deciles)) == (1, 3)
        _print_calls(view.calls)
        printed = capsys.readouterr().out
        assert printed == (
            "Calls in the last 24 h: 50.0 % of 4 succeeded, 60.0 % were expected to; "
            "most failures are of class vault\n\n"
        )

    async def test_loops_over_the_agents_it_is_given(self, atlas: Atlas) -> None:
        for number in range(7):
            await atlas.events.append("learner.cycle", {"outcome": "done", "patterns": number})
        view = await status(atlas, ["hunter", "learner"])
        assert view.cycles["hunter"] == ()
        assert [cycle["patterns"] for cycle in view.cycles["learner"]] == [6, 5, 4, 3, 2]
        assert (view.ledger.ledger, view.ledger.keys) == ((), ())
        assert set(through_json(view)) == {
            "now", "queue", "found", "vault", "feeds", "tracking", "cycles", "ledger", "calls",
            "suggestions",
        }  # fmt: skip

    async def test_shows_a_pause_of_feeds_until_it_is_over(self, atlas: Atlas, clock: FixedClock) -> None:
        dao = UploadsDAO(atlas.db, clock=clock, settings=atlas.settings)
        assert (await status(atlas, [])).feeds == FeedsState(True, 0, 20_000, None, None, None)
        await dao.meet_channel(cid(1))
        (look,) = await dao.claim_looks(1, rule(await dao.pace()), HOUR)
        await dao.begin_look(look, HOUR)
        await dao.back_off("HTTP 429", 60, 3600)
        paused = (await status(atlas, [])).feeds
        assert (paused.looks_today, paused.paused_until, paused.reason) == (
            1,
            NOON + timedelta(minutes=1),
            "HTTP 429",
        )
        clock.advance(timedelta(minutes=1))
        assert (await status(atlas, [])).feeds.paused_until is None


async def test_the_queue_has_counts_and_topics(atlas: Atlas) -> None:
    from atlas.adapters.queue import QueueDAO

    await QueueDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).seed(["jazz", "lofi"])
    view = await queue(atlas, limit=1)
    assert (view.counts.active, [topic.query for topic in view.topics]) == (2, ["jazz"])
    assert through_json(view)["topics"][0]["query"] == "jazz"


class TestLedger:
    @pytest.fixture
    def atlas_settings(self, settings_factory: Any, request: pytest.FixtureRequest) -> Any:
        pool = '[{"key": "one", "project": "p"}, {"key": "two", "project": "p"}]'
        return settings_factory(
            youtube_api_key_pool_json=pool, database_url=request.getfixturevalue("database_url")
        )

    async def test_every_ring_and_key_by_fingerprint(self, atlas: Atlas) -> None:
        view = await ledger(atlas)
        assert {row.ring for row in view.ledger} == {"hunting", "tracking", "archeology"}
        assert [key.rings for key in view.keys] == [("hunting", "tracking", "archeology")] * 2
        assert {row.ring for row in (await ledger(atlas, "tracking")).ledger} == {"tracking"}
        told = json.dumps(plain(view))
        assert '"one"' not in told
        assert '"two"' not in told
