"""Forecasts over a real database: they appear, are compared with what came, and become better."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from atlas.adapters.forecasts import ForecastsDAO, SettledCheck
from atlas.adapters.patterns import PatternsDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.db import sql_of
from atlas.errors import LeaseLost
from atlas.testing import NOON
from maia.learner import forecasting
from maia.learner.forecasting import CHECKS_KEPT, MODEL, Forecasted, Forecasting
from maia.learning.calibration import log_error
from maia.learning.velocity import Floats, Tracks, advance
from tests.growth import HOUR, store_samples, store_video

pytestmark = pytest.mark.integration

DAY = 24 * HOUR


@dataclass(slots=True)
class Population:
    """Videos that gain as many views an hour all their lives, which is not how videos usually grow."""

    sql: Any
    clock: FixedClock
    rates: Floats
    ids: list[str] = field(default_factory=list)
    tracks: Tracks = field(init=False)
    births: list[datetime] = field(default_factory=list)

    @classmethod
    async def of(cls, sql: Any, clock: FixedClock, videos: int) -> Population:
        chance = np.random.default_rng(7)
        population = cls(sql, clock, np.exp(chance.normal(5, 1, videos)))
        population.tracks = Tracks.new(videos)
        for number, age_h in enumerate(chance.uniform(1, 100, videos)):
            id_, birth = f"video-{number:03}", clock.now() - float(age_h) * HOUR
            await store_video(
                sql, id_, channel=f"UC-{number % 5}", published_at=birth, discovered_at=birth, duration_s=300
            )
            population.ids.append(id_)
            population.births.append(birth)
        return population

    async def sample(self, only: slice = slice(None)) -> None:
        """Count the videos' views now, as the tracker does."""
        now = self.clock.now()
        ages_h = np.array([(now - birth) / HOUR for birth in self.births])
        views = np.round(self.rates * ages_h)
        views[[n not in range(len(views))[only] for n in range(len(views))]] = np.nan
        self.tracks = advance(self.tracks, np.full(len(views), now.timestamp()), views).tracks
        await self.sql.execute("SELECT ensure_sample_days($1)", [now.date()])
        rows = [
            (id_, now, int(count), known(velocity), known(acceleration), known(weight))
            for id_, count, velocity, acceleration, weight in zip(
                self.ids,
                views,
                self.tracks.velocity,
                self.tracks.acceleration,
                self.tracks.weight,
                strict=True,
            )
            if count == count
        ]
        await self.sql.executemany(
            "INSERT INTO video_stats_log (video_id, sampled_at, views, methodology) VALUES ($1, $2, $3, 2)",
            [row[:3] for row in rows],
        )
        await self.sql.executemany(
            "UPDATE video_clock SET last_sampled_at = $2, last_at = $2, last_views = $3, velocity = $4, "
            "acceleration = $5, weight = $6, samples = samples + 1 WHERE video_id = $1",
            rows,
        )


def known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


async def a_day_later(population: Population) -> None:
    """The views when the first checks are due, and then some minutes."""
    population.clock.advance(DAY)
    await population.sample()
    population.clock.advance(HOUR / 4)


@pytest.fixture
def dao(atlas: Atlas) -> ForecastsDAO:
    return ForecastsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


async def forecast(atlas: Atlas) -> Forecasted:
    return await Forecasting(atlas).run()


async def settled(dao: ForecastsDAO, since: datetime = NOON - DAY) -> list[SettledCheck]:
    return await dao.settled(since, 1_000_000)


async def outcomes_learnt(atlas: Atlas) -> int:
    patterns = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    models = await patterns.models([MODEL])
    return models[MODEL].observations if models else 0


async def stored(sql: Any) -> dict[str, list[str]]:
    return {
        table: sorted(map(repr, await sql.fetch(f"SELECT * FROM {table}")))
        for table in ("video_forecasts", "forecast_checks")
    }


def interrupt(monkeypatch: pytest.MonkeyPatch, of: type[Any], method: str, after: int) -> None:
    """Let a method fail after some calls, as if the process had been killed there."""
    calls, original = iter(range(after)), getattr(of, method)

    async def failing(*args: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            raise asyncio.CancelledError
        return await original(*args, **options)

    monkeypatch.setattr(of, method, failing)


class TestForecasts:
    async def test_appear_for_every_video_counted_since_the_last_run(
        self, atlas: Atlas, clock: FixedClock, sql: Any, dao: ForecastsDAO
    ) -> None:
        population = await Population.of(sql, clock, 20)
        await population.sample(slice(0, 15))
        clock.advance(HOUR)
        assert (await forecast(atlas)).videos == 15
        await population.sample(slice(10, 20))

        assert (await forecast(atlas)).videos == 10

        found = await dao.of_videos(population.ids)
        assert sorted(found) == population.ids
        for number, id_ in enumerate(population.ids):
            made = found[id_]
            assert made.made_at == (NOON if number < 10 else NOON + HOUR)
            assert made.views < made.day < made.week
            # Nothing has come yet, so neither an interval nor a chance can be told.
            assert (made.day_low, made.day_high, made.day_top, made.week_top) == (None,) * 4

    async def test_are_not_made_of_old_counts_or_gone_videos(
        self, atlas: Atlas, clock: FixedClock, sql: Any, dao: ForecastsDAO
    ) -> None:
        await store_video(sql, "old")
        await store_samples(sql, "old", [(NOON - 10 * DAY, 100), (NOON - 8 * DAY, 200)])
        await store_video(sql, "gone")
        await store_samples(sql, "gone", [(NOON - DAY, 100), (NOON, 200)])
        await sql.execute("UPDATE video_clock SET status = 'gone' WHERE video_id = 'gone'")
        await store_video(sql, "hidden")
        await store_samples(sql, "hidden", [(NOON, None)])

        assert (await forecast(atlas)).videos == 0
        assert await dao.of_videos(["old", "gone", "hidden"]) == {}

    async def test_that_are_made_again_are_the_same(self, atlas: Atlas, clock: FixedClock, sql: Any) -> None:
        population = await Population.of(sql, clock, 30)
        await population.sample()
        await forecast(atlas)
        before = await stored(sql)
        await forecast(atlas)
        assert await stored(sql) == before

    async def test_of_all_live_videos_are_made_anew_with_what_was_learnt_since(
        self, atlas: Atlas, clock: FixedClock, sql: Any, dao: ForecastsDAO
    ) -> None:
        population = await Population.of(sql, clock, 30)
        await population.sample()
        clock.advance(HOUR / 4)
        assert (await forecast(atlas)).videos == 30
        before = await dao.of_videos(population.ids)
        clock.advance(DAY - HOUR / 4)
        await population.sample(slice(0, 29))
        clock.advance(HOUR / 4)
        assert (await forecast(atlas)).checked
        unseen = population.ids[29]
        assert await dao.of_videos([unseen]) == {unseen: before[unseen]}
        checks = (await stored(sql))["forecast_checks"]

        again = await Forecasting(atlas).run(anew=True)

        assert again.videos >= 30
        (anew,) = (await dao.of_videos([unseen])).values()
        assert anew.made_at == before[unseen].made_at
        assert anew.day != before[unseen].day
        assert (await stored(sql))["forecast_checks"] == checks

    async def test_a_sample_that_is_stored_late_is_not_missed(
        self, atlas: Atlas, clock: FixedClock, sql: Any, dao: ForecastsDAO
    ) -> None:
        await store_video(sql, "late")
        await forecast(atlas)
        clock.advance(HOUR / 12)
        await store_samples(sql, "late", [(NOON - HOUR, 10), (NOON - HOUR / 30, 100)])
        assert (await forecast(atlas)).videos == 1

    async def test_go_on_after_the_clock_was_ahead(
        self, atlas: Atlas, clock: FixedClock, sql: Any, dao: ForecastsDAO
    ) -> None:
        await store_video(sql, "one")
        clock.advance(365 * DAY)
        await store_samples(sql, "one", [(clock.now() - DAY, 10), (clock.now(), 100)])
        assert (await forecast(atlas)).videos == 1
        clock.advance(-365 * DAY)
        await store_video(sql, "two")
        await store_samples(sql, "two", [(NOON - HOUR, 10), (NOON, 100)])
        assert (await forecast(atlas)).videos == 1
        clock.advance(HOUR)
        # Late samples have one more chance.
        assert [(await forecast(atlas)).videos for _ in range(2)] == [1, 0]
        assert sorted(await dao.of_videos(["one", "two"])) == ["one", "two"]

    async def test_a_kill_between_pages_loses_and_repeats_nothing(
        self, atlas: Atlas, clock: FixedClock, sql: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(forecasting, "_PAGE", 7)
        population = await Population.of(sql, clock, 30)
        await population.sample()
        clock.advance(HOUR)
        with monkeypatch.context() as patch:
            interrupt(patch, ForecastsDAO, "add_checks", 2)
            with pytest.raises(asyncio.CancelledError):
                await forecast(atlas)
        assert len((await stored(sql))["video_forecasts"]) == 14

        assert (await forecast(atlas)).videos == 16
        found = await stored(sql)
        assert (len(found["video_forecasts"]), len(found["forecast_checks"])) == (30, 60)

    async def test_deleting_a_video_deletes_its_forecast_and_checks(
        self, atlas: Atlas, clock: FixedClock, sql: Any
    ) -> None:
        population = await Population.of(sql, clock, 1)
        await population.sample()
        await forecast(atlas)
        assert all((await stored(sql)).values())
        await sql.execute("DELETE FROM videos")
        assert not any((await stored(sql)).values())


class TestChecks:
    async def test_are_settled_when_their_hour_has_come_and_learnt_once(
        self, atlas: Atlas, clock: FixedClock, sql: Any, dao: ForecastsDAO
    ) -> None:
        population = await Population.of(sql, clock, 10)
        await population.sample()
        await forecast(atlas)
        waiting = await dao.waiting()
        assert waiting == (20, NOON + DAY)
        clock.advance(DAY - HOUR)
        await population.sample()
        assert (await forecast(atlas)).checked == 0
        clock.advance(2 * HOUR)
        await population.sample()

        counts = await forecast(atlas)

        assert (counts.checked, counts.unknown) == (10, 0)
        assert (await forecast(atlas)).checked == 0
        assert await outcomes_learnt(atlas) == 10
        for check in await settled(dao):
            assert check.actual == pytest.approx(check.views + 24 * population.rates[0], rel=10)
            assert check.made_at == NOON

    async def test_tell_the_views_at_the_very_hour(
        self, atlas: Atlas, clock: FixedClock, sql: Any, dao: ForecastsDAO
    ) -> None:
        await store_video(sql, "a", published_at=NOON - 100 * DAY)
        await store_samples(sql, "a", [(NOON - DAY, 1000), (NOON, 2000)])
        await forecast(atlas)
        clock.advance(DAY + 2 * HOUR)
        await store_samples(sql, "a", [(NOON + DAY - 2 * HOUR, 4000), (NOON + DAY + 2 * HOUR, 5000)])
        await forecast(atlas)
        [check] = await settled(dao)
        assert check.actual == pytest.approx(4500, rel=1e-3)

    async def test_that_nobody_can_settle_hold_up_no_others(
        self, atlas: Atlas, clock: FixedClock, sql: Any, dao: ForecastsDAO, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(forecasting, "_PAGE", 5)
        population = await Population.of(sql, clock, 40)
        await population.sample()
        await forecast(atlas)
        clock.advance(HOUR)
        await population.sample(slice(0, 10))
        await forecast(atlas)
        # Thirty videos, whose checks are due before some of the others', are not counted again.
        for hours in (23, 2):
            clock.advance(hours * HOUR)
            await population.sample(slice(0, 10))

        assert (await forecast(atlas)).checked == 10 + 10
        clock.advance(DAY)
        assert (await forecast(atlas)).unknown == 30
        # For the week, and those that were made of the last counts.
        assert (await dao.waiting())[0] == 50 + 20

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE video_stats_log SET doubted = true WHERE sampled_at > $1",
            "UPDATE video_stats_log SET methodology = 1 WHERE sampled_at > $1",
            "UPDATE video_stats_log SET views = NULL WHERE sampled_at > $1",
        ],
    )
    async def test_do_not_believe_every_count(
        self, atlas: Atlas, clock: FixedClock, sql: Any, change: str
    ) -> None:
        population = await Population.of(sql, clock, 3)
        await population.sample()
        await forecast(atlas)
        await a_day_later(population)
        await sql.execute(change, NOON)
        clock.advance(DAY)
        counts = await forecast(atlas)
        assert (counts.checked, counts.unknown) == (0, 3)
        assert await outcomes_learnt(atlas) == 0

    async def test_a_kill_while_settling_learns_nothing_twice(
        self, atlas: Atlas, clock: FixedClock, sql: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(forecasting, "_PAGE", 8)
        population = await Population.of(sql, clock, 20)
        await population.sample()
        await forecast(atlas)
        await a_day_later(population)
        with monkeypatch.context() as patch:
            interrupt(patch, PatternsDAO, "save_models", 1)
            with pytest.raises(asyncio.CancelledError):
                await forecast(atlas)
        assert await outcomes_learnt(atlas) == 8

        assert (await forecast(atlas)).checked == 12
        assert await outcomes_learnt(atlas) == 20

    async def test_of_two_learners_one_settles(
        self, atlas: Atlas, clock: FixedClock, sql: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        population = await Population.of(sql, clock, 20)
        await population.sample()
        await forecast(atlas)
        await a_day_later(population)
        slow, fast = Forecasting(atlas), Forecasting(atlas)
        original = slow.dao.due_checks

        async def overtaken(until: datetime, limit: int) -> Any:
            due = await original(until, limit)
            await fast.run()
            return due

        monkeypatch.setattr(slow.dao, "due_checks", overtaken)
        with pytest.raises(LeaseLost):
            await slow.run()
        assert await outcomes_learnt(atlas) == 20

    async def test_of_a_horizon_that_is_not_forecast_any_more_are_settled(
        self, atlas: Atlas, clock: FixedClock, sql: Any, dao: ForecastsDAO
    ) -> None:
        population = await Population.of(sql, clock, 3)
        await population.sample()
        await forecast(atlas)
        await sql.execute(
            "UPDATE forecast_checks SET horizon_h = 20, due_at = $1 WHERE horizon_h = 24", NOON + DAY
        )
        await a_day_later(population)
        await forecast(atlas)
        assert {check.horizon_h for check in await settled(dao)} == {20}
        assert (await dao.waiting())[0] == 3 + 6

    async def test_are_kept_for_a_month(
        self, atlas: Atlas, clock: FixedClock, sql: Any, dao: ForecastsDAO
    ) -> None:
        population = await Population.of(sql, clock, 3)
        await population.sample()
        await forecast(atlas)
        await a_day_later(population)
        await forecast(atlas)
        assert len(await settled(dao)) == 3
        clock.advance(CHECKS_KEPT + HOUR)
        await forecast(atlas)
        assert [check.horizon_h for check in await settled(dao)] == []


class TestLearning:
    async def test_becomes_better_than_damped_velocity(
        self, atlas: Atlas, clock: FixedClock, sql: Any, dao: ForecastsDAO
    ) -> None:
        population = await Population.of(sql, clock, 120)
        for _ in range(12 * 3):
            await population.sample()
            await forecast(atlas)
            clock.advance(8 * HOUR)

        checks = await settled(dao)
        assert {check.horizon_h for check in checks} == {24, 168}
        daily = sorted((check for check in checks if check.horizon_h == 24), key=lambda each: each.made_at)
        first, last = daily[:100], daily[-300:]
        assert error_of(last) < error_of(first) / 2
        assert error_of(last) < error_of(last, lambda check: check.damped) / 2
        told = [check for check in last if check.low is not None and check.high is not None]
        assert len(told) > 200
        assert all(check.low <= check.expected <= check.high for check in told)  # type: ignore[operator]
        found = await dao.of_videos(population.ids)
        assert sum(made.day_top is not None for made in found.values()) > 40


def error_of(
    checks: Sequence[SettledCheck],
    forecast: Callable[[SettledCheck], float | None] = lambda each: each.expected,
) -> float:
    pairs = [(forecast(check), check.actual) for check in checks]
    known = [(made, actual) for made, actual in pairs if made is not None]
    return float(np.median(np.abs(log_error(*zip(*known, strict=True)))))


class TestPlans:
    """What is read, so that a large population does not make each run dear."""

    @pytest.fixture(autouse=True)
    async def many(self, sql: Any) -> None:
        await sql.execute("INSERT INTO channels VALUES ('UC-one', 'One', now(), now())")
        await sql.execute(
            "INSERT INTO videos (id, channel_id, discovered_at, refreshed_at) "
            "SELECT 'v' || n, 'UC-one', now(), now() FROM generate_series(1, 30000) AS n"
        )
        await sql.execute("SELECT ensure_sample_days(ARRAY['2026-10-30', '2026-10-31']::date[])")
        await sql.execute(
            "INSERT INTO video_stats_log (video_id, sampled_at, views, methodology) "
            "SELECT 'v' || n, day + n * interval '2 seconds', n, 2 FROM generate_series(1, 30000) AS n, "
            "generate_series('2026-10-30'::timestamptz, '2026-10-31', '1 day') AS day"
        )
        await sql.execute(
            "INSERT INTO video_clock (video_id, channel_id, zone, interval_h, born_at, next_due_at, "
            "metadata_at, last_at, last_views) SELECT video_id, 'UC-one', 0, 1, now(), now(), now(), "
            "sampled_at, views FROM video_stats_log WHERE sampled_at >= '2026-10-31'"
        )
        await sql.execute("VACUUM ANALYZE videos, video_clock, video_stats_log")

    async def test_only_the_clocks_of_the_span_are_read(self, sql: Any) -> None:
        span = ["'2026-10-31 05:00Z'", "''", "'2026-10-31 05:05Z'", "5000"]
        statement = literal("forecasts.to_forecast", span)
        told = await sql.fetchval(f"EXPLAIN (FORMAT JSON) {statement}")
        [plan] = json.loads(told)
        scans = [node for node in nodes(plan["Plan"]) if "Relation Name" in node]
        read = [node for node in scans if node["Relation Name"] in ("video_clock", "videos")]
        assert read
        assert all(node["Node Type"] in ("Index Scan", "Index Only Scan") for node in read), scans
        assert not [node for node in scans if node["Relation Name"].endswith("20261030")]


def literal(statement: str, values: Sequence[str]) -> str:
    text = sql_of(statement)
    for number in range(len(values), 0, -1):
        text = text.replace(f"${number}", values[number - 1])
    return text


def nodes(plan: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes(child))]
