"""What the learner's knowledge changes in other agents, over a real database; and how to switch it off."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from atlas.adapters.discovery import ArmYield, DiscoveryDAO, PlannedArm
from atlas.adapters.patterns import Model, PatternsDAO
from atlas.clock import FixedClock, pacific_day
from atlas.composition import Atlas
from atlas.testing import SettingsFactory
from maia.cycle import adapting
from maia.cycle.agent import run
from maia.discovery.plan import Planner
from maia.emulator import Emulator
from maia.emulator.catalogue import Catalogue
from maia.hunter.cycle import Hunter
from maia.learner.advising import make_suggestions
from maia.learner.cycle import Learner
from maia.learning.forecasts import Forecaster
from maia.learning.priors import AGENT, GOAL
from maia.learning.velocity import Floats, Tracks
from maia.maintenance.monitor import HostPressure
from maia.tracker.cycle import Tracker
from maia.tracker.foresight import Foresight, stored_foresight
from maia.views.status import status
from maia.views.video import video

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("without_waits")]

ARMS = {"search:slices": "search", "search:any": "search", "search:date": "search", "uploads": "general"}
GROWING = {"search:slices": 2, "search:any": 40, "search:date": 10, "uploads": 5}
DAY = timedelta(days=1)
HOT = HostPressure(hot=True, reasons=("temperature at 90 °C (limit 85 °C)",))
BUSY = HostPressure(busy=True, reasons=("load per processor at 4 (limit 1.5)",))
Opening = Callable[..., AbstractAsyncContextManager[Atlas]]


@pytest.fixture
def opening(settings_factory: SettingsFactory, emulated: dict[str, Any], clock: FixedClock) -> Opening:
    @asynccontextmanager
    async def open_atlas(*, learner: dict[str, Any] | None = None, **groups: Any) -> AsyncIterator[Atlas]:
        """An Atlas of agents that ask the emulator, with these settings of the learner."""
        settings = settings_factory(**(emulated | groups), learner={"adapt_to_host": False} | (learner or {}))
        async with Atlas.open(settings, clock=clock) as atlas:
            yield atlas

    return open_atlas


def under(monkeypatch: pytest.MonkeyPatch, found: HostPressure) -> None:
    """Let every host be under this pressure."""
    monkeypatch.setattr(adapting, "pressure", lambda sample: found)


async def live_through(atlas: Atlas, clock: FixedClock, days: int, growing: dict[str, int]) -> None:
    """Days on which each arm spends 16 units and finds so many videos that grow, all judged."""
    for _ in range(days):
        dao = DiscoveryDAO(atlas.db, clock=clock, settings=atlas.settings)
        day = pacific_day(clock.now())
        for arm, count in growing.items():
            await dao.add_yield(day, ArmYield(arm, asks=16, units=16, found=200, new=100, early=50))
            await atlas.db.execute("discovery.add_verdicts", [day], [arm], [50], [count])
        clock.advance(DAY)
    clock.advance(3 * DAY)


def patterns(atlas: Atlas) -> PatternsDAO:
    return PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


async def plan(atlas: Atlas) -> dict[str, PlannedArm]:
    """Today's plan, of a planner that has the arms."""
    made = await Planner(atlas, ARMS).today({"search": 100, "general": 1000})  # type: ignore[arg-type]
    return {arm.arm: arm for arm in made}


class TestPriorsOfDiscovery:
    async def test_long_past_days_still_inform_the_plan_with_their_pattern(
        self, opening: Opening, clock: FixedClock
    ) -> None:
        async with opening() as atlas:
            before = await plan(atlas)
            await live_through(atlas, clock, 40, GROWING)
            await run(Learner, atlas)
            # No day is left in the plan's own look-back, and nothing but the patterns tells.
            clock.advance(30 * DAY)
            after = await plan(atlas)
            known = {each.signature["tool"]: each for each in await patterns(atlas).known(["tool_usage"])}
        assert after["search:any"].share > before["search:any"].share
        assert after["search:any"].share > after["search:slices"].share
        told = after["search:any"].reason
        assert told.startswith("nothing judged yet: by its prior")
        assert f"by pattern {known['search:any'].id[:8]} (40 days)" in told
        # The only arm of its bucket has nothing to be compared with.
        assert "pattern" not in after["uploads"].reason

    @pytest.mark.parametrize("page", [100, 20_000])
    async def test_each_day_is_learnt_once_and_not_before_it_is_judged(
        self, opening: Opening, clock: FixedClock, page: int
    ) -> None:
        async with opening() as atlas:
            await live_through(atlas, clock, 30, GROWING)
            await run(Learner, atlas, batch_size=page)
            await live_through(atlas, clock, 2, GROWING)
            clock.advance(-2 * DAY)
            await run(Learner, atlas, batch_size=page)
            await run(Learner, atlas, batch_size=page)
            known = await patterns(atlas).known(["tool_usage"])
        of_arms = [
            each for each in known if (each.signature["agent"], each.signature["task"]) == (AGENT, GOAL)
        ]
        assert {each.signature["tool"]: each.support for each in of_arms} == dict.fromkeys(GROWING, 31)

    @pytest.mark.parametrize("learner", [{"discovery_priors": False}, {"confidence_threshold": 0.99}])
    async def test_it_can_be_switched_off_and_weak_patterns_change_nothing(
        self, opening: Opening, clock: FixedClock, learner: dict[str, Any]
    ) -> None:
        async with opening(learner=learner) as atlas:
            await live_through(atlas, clock, 40, GROWING)
            await run(Learner, atlas)
            clock.advance(30 * DAY)
            found = await plan(atlas)
        assert all(arm.reason.startswith("nothing judged yet: by its prior") for arm in found.values())
        assert not any("pattern" in arm.reason for arm in found.values())


class Likely(Foresight):
    """Halves every wait."""

    def factors(self, tracks: Tracks, *known: object) -> Floats:
        halves: Floats = tracks.weight * 0 + 0.5
        return halves


class TestIntervalsOfTheTracker:
    @asynccontextmanager
    async def tracking(self, atlas: Atlas, catalogue: Catalogue) -> AsyncIterator[Tracker]:
        async with Tracker.open(atlas) as tracker:
            ids = catalogue.visible_ids(atlas.clock.now())[-20:]
            await tracker.dao.ingest_video_metadata(await tracker.youtube.videos(ids))
            yield tracker

    async def test_a_cycle_counts_the_waits_that_the_forecast_changed(
        self,
        opening: Opening,
        clock: FixedClock,
        catalogue: Catalogue,
        monkeypatch: pytest.MonkeyPatch,
        sql: Any,
    ) -> None:
        async def likely(atlas: Atlas) -> Foresight:
            return Likely(Forecaster(), 1234)

        monkeypatch.setattr("maia.tracker.cycle.stored_foresight", likely)
        async with opening(tracker={"triage": False}) as atlas, self.tracking(atlas, catalogue) as tracker:
            clock.advance(timedelta(hours=30))
            statistics = await tracker.cycle()
            slowest = await sql.fetchval(
                "SELECT video_id FROM video_clock WHERE velocity IS NOT NULL ORDER BY interval_h DESC LIMIT 1"
            )
            shown = await video(atlas, slowest)
        assert statistics.by_forecast == statistics.samples > 0
        assert statistics.forecast_outcomes == 1234
        assert shown is not None
        assert shown.by_forecast == pytest.approx(0.5)
        assert shown.as_json()["interval_by_forecast"] == pytest.approx(0.5)

    async def test_the_stored_forecaster_is_read_if_wanted_and_whole(self, opening: Opening) -> None:
        stored = Model(Forecaster.name, Forecaster.version, Forecaster().state(), 77)
        async with opening() as atlas:
            assert await stored_foresight(atlas) is None
            await patterns(atlas).save_models([stored])
            found = await stored_foresight(atlas)
            assert found is not None
            assert found.learnt == 77
            await patterns(atlas).save_models([Model(Forecaster.name, 1, b"damaged", 77)])
            assert await stored_foresight(atlas) is None
            await patterns(atlas).save_models([stored])
        async with opening(learner={"forecast_intervals": False}) as atlas:
            assert await stored_foresight(atlas) is None


class TestTheHost:
    async def test_a_busy_host_halves_the_usual_batch_and_says_so(
        self, opening: Opening, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        under(monkeypatch, BUSY)
        sizes: list[int] = []
        async with opening(learner={"adapt_to_host": True}) as atlas:
            monkeypatch.setattr("maia.learner.cycle.LearnerCycle._work", _noting(sizes))
            statistics = await run(Learner, atlas)
            await run(Learner, atlas, batch_size=7)
        assert sizes == [atlas.settings.learner.batch_size // 2, 7]
        assert statistics["adapted"] == {"busy": 1}
        usual = atlas.settings.learner.batch_size
        told = f"a batch of {usual // 2:,} instead of {usual:,}: load per processor at 4"
        assert told in statistics["detail"]

    async def test_a_hot_host_sits_out_every_second_turn_of_the_schedule(
        self, opening: Opening, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        under(monkeypatch, HOT)
        async with opening(learner={"adapt_to_host": True}) as atlas:
            turns = [await run(Learner, atlas, scheduled=True) for _ in range(4)]
            asked = await run(Learner, atlas)
        assert [turn["adapted"] for turn in turns] == [{"turns_sat_out": 1}, {"hot": 1}] * 2
        assert asked["adapted"] == {"hot": 1}
        assert turns[0]["outcome"] == "idle"
        assert "every second turn is sat out: temperature at 90 °C" in turns[0]["detail"]

    async def test_it_can_be_switched_off(self, opening: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
        under(monkeypatch, HOT)
        async with opening() as atlas:
            statistics = await run(Learner, atlas, scheduled=True)
        assert statistics["adapted"] == {}


def _noting(sizes: list[int]) -> Callable[..., Any]:
    async def work(cycle: Any, batch_size: int) -> None:
        sizes.append(batch_size)

    return work


class TestTheQuota:
    OFF = ("feeds", *(f"search:{name}" for name in ("any", "anyrelevant", "views", "date", "relevance")))

    async def wanted(
        self, opening: Opening, batch_size: int | None = None, **learner: Any
    ) -> tuple[int, Any]:
        """How many questions of the general bucket a hunter wants, and what its cycle says of that."""
        asked: list[int] = []
        portfolio = {"hunter": {"batch_size": 2}, "discovery": {"off": self.OFF}}
        async with opening(learner=learner, **portfolio) as atlas, Hunter.open(atlas) as hunter:
            take = hunter.planner.take

            async def noting(bucket: Any, units: int, without: Any = ()) -> dict[str, int]:
                if bucket == "general" and not asked:
                    asked.append(units)
                return await take(bucket, units, without)

            hunter.planner.take = noting  # type: ignore[method-assign]
            statistics = await hunter.cycle(batch_size)
        return asked[0], statistics

    async def test_units_that_would_be_left_over_are_asked_with(
        self, opening: Opening, clock: FixedClock
    ) -> None:
        wanted, statistics = await self.wanted(opening)
        assert 2 < wanted <= 20
        assert statistics.adapted == {"quota": 1}
        assert "questions of the general bucket, as " in statistics.detail

    async def test_a_batch_that_was_given_and_the_switch_are_kept(self, opening: Opening) -> None:
        assert (await self.wanted(opening, 3))[0] == 3
        wanted, statistics = await self.wanted(opening, adapt_to_quota=False)
        assert (wanted, statistics.adapted) == (2, {})


class TestSuggestions:
    async def test_they_come_with_their_command_and_go_when_they_no_longer_hold(
        self, opening: Opening, emulator: Emulator
    ) -> None:
        idle = ("tracker.cycle", {"outcome": "idle"})
        async with opening() as atlas:
            await atlas.events.append_many([idle] * 60, agent="tracker", session="s")
            assert await make_suggestions(atlas) == 1
            (shown,) = (await status(atlas, ["tracker"])).suggestions
            assert (shown.category, shown.command) == (
                "schedule",
                "PLEIADES_AGENTS__INTERVALS_S=tracker=1200",
            )
            assert json.loads(json.dumps(shown.evidence))["idle"] == 60
            busy = ("tracker.cycle", {"outcome": "done"})
            await atlas.events.append_many([busy] * 60, agent="tracker", session="s")
            assert await make_suggestions(atlas) == 0
            assert (await status(atlas, ["tracker"])).suggestions == ()
            await atlas.events.append_many([idle] * 500, agent="tracker", session="s")
            assert await make_suggestions(atlas) == 1
            (again,) = (await status(atlas, ["tracker"])).suggestions
            assert again.text == shown.text

    async def test_those_made_before_go_when_they_are_switched_off(self, opening: Opening) -> None:
        idle = ("tracker.cycle", {"outcome": "idle"})
        async with opening() as atlas:
            await atlas.events.append_many([idle] * 60, agent="tracker", session="s")
            await run(Learner, atlas)
            assert len((await status(atlas, ["tracker"])).suggestions) == 1
        async with opening(learner={"suggestions": False}) as atlas:
            await atlas.events.append_many([idle] * 60, agent="tracker", session="s")
            await run(Learner, atlas)
            assert (await status(atlas, ["tracker"])).suggestions == ()

    async def test_an_operators_closing_is_respected(self, opening: Opening) -> None:
        idle = ("tracker.cycle", {"outcome": "idle"})
        async with opening() as atlas:
            await atlas.events.append_many([idle] * 60, agent="tracker", session="s")
            await make_suggestions(atlas)
            (made,) = await patterns(atlas).suggestions()
            await patterns(atlas).close_suggestion(made.key)
            await atlas.events.append_many([idle] * 60, agent="tracker", session="s")
            await make_suggestions(atlas)
            assert await patterns(atlas).suggestions() == []

    @pytest.mark.parametrize(("wanted", "count"), [(True, 1), (False, 0)])
    async def test_the_learner_makes_them_unless_it_must_not(
        self, opening: Opening, wanted: bool, count: int
    ) -> None:
        idle = ("tracker.cycle", {"outcome": "idle"})
        async with opening(learner={"suggestions": wanted}) as atlas:
            await atlas.events.append_many([idle] * 60, agent="tracker", session="s")
            statistics = await run(Learner, atlas)
            assert statistics["suggestions"] == len(await patterns(atlas).suggestions()) == count
