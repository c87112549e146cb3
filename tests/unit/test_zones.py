from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.learning.zones import (
    DEFAULTS,
    Allocation,
    ForecastIntervals,
    Zone,
    ZoneSettings,
    allocate,
    forecast_factor,
    information,
    interval_h,
    stretches,
    within_zone,
    zone_of,
)

INTERVALS = np.array(DEFAULTS.intervals_h)


def test_zones_end_where_the_settings_say():
    ages = [-3.0, 0.0, 23.99, 24.0, 167.9, 168.0, 168.1, 1e5]
    hot, warm, cold = Zone.HOT, Zone.WARM, Zone.COLD
    assert zone_of(ages).tolist() == [hot, hot, hot, warm, warm, warm, cold, cold]
    assert zone_of([30.0, 30.0], pinned=[None, Zone.HOT]).tolist() == [warm, hot]


def test_an_unknown_age_is_refused():
    with pytest.raises(ValueError, match="row 1: the age is unknown"):
        zone_of([1.0, None])


@pytest.mark.parametrize(
    "wrong",
    [
        {"hot_until_h": 200.0}, {"hot_until_h": 0.0}, {"warm_interval_h": 0.0}, {"fastest": 1.5},
        {"slowest": 0.5}, {"patience": 0.5}, {"noise": 0.0},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError, match="must be"):
        ZoneSettings(**wrong)


def test_an_accelerating_video_waits_less_and_a_dead_one_longer():
    zones = np.array([Zone.WARM] * 5)
    waits = interval_h(zones, [1000.0, 999.0, 0.5, 0.0, None], [0.0, 1000.0, 0.0, 0.0, None])
    assert waits.tolist() == [6.0, 3.0, 18.0, 18.0, 6.0]
    assert interval_h(zones[:1], [99.0], [5.0])[0] == pytest.approx(6 / 1.3)


@given(st.lists(st.tuples(st.floats(-10, 2000), st.floats(-1e6, 1e9), st.floats(-1e6, 1e6)), min_size=1))
def test_intervals_keep_their_bounds(videos: list[tuple[float, float, float]]):
    age, velocity, acceleration = (np.array(values) for values in zip(*videos, strict=True))
    zones = zone_of(age)
    waits = interval_h(zones, velocity, acceleration)
    assert (waits >= INTERVALS[zones] * DEFAULTS.fastest).all()
    assert (waits <= INTERVALS[zones] * DEFAULTS.slowest).all()


def test_information_prefers_the_young_the_quickening_the_watched_and_the_unknown():
    def told(age: float, waited: float, velocity: float | None, acceleration: float | None) -> float:
        return float(information([age], [waited], [velocity], [acceleration])[0])

    assert told(30, 6, 100, 0) > told(300, 6, 100, 0)
    assert told(300, 6, 100, 20) > told(300, 6, 100, 0)
    assert told(300, 6, 100, 0) > told(300, 6, 0, 0)
    assert told(300, 6, None, None) > told(300, 6, 10, 0)
    assert told(300, 24, 100, 0) > told(300, 6, 100, 0)


@given(st.floats(-10, 1e5), st.floats(-10, 1e6), st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_information_is_finite_and_never_negative(age: float, waited: float, velocity: float, slope: float):
    told = information([age], [waited], [velocity], [slope])
    assert np.isfinite(told).all()
    assert (told >= 0).all()


def test_hot_goes_first_then_the_urgent_then_the_most_telling():
    zones = np.array([Zone.COLD, Zone.WARM, Zone.COLD, Zone.HOT, Zone.WARM, Zone.HOT])
    overdue = [47.9, 1.0, 1.0, 0.0, -0.1, 0.5]
    age = [500.0, 30.0, 900.0, 3.0, 30.0, 5.0]
    allocation = allocate(
        zones,
        age,
        overdue,
        INTERVALS[zones],
        [50.0] * 6,
        [0.0] * 6,
        budget=4,
        next_round_h=0.5,
        budget_per_h=100,
    )
    assert allocation.chosen.tolist() == [5, 3, 0, 1]
    assert allocation.due == {Zone.HOT: 2, Zone.WARM: 1, Zone.COLD: 2}
    assert allocation.deferred == {Zone.HOT: 0, Zone.WARM: 0, Zone.COLD: 1}
    assert allocation.degraded
    assert not allocation.impossible


def test_what_the_budget_makes_impossible_is_reported():
    zones = np.array([Zone.HOT, Zone.HOT, Zone.COLD])
    two = allocate(
        zones, [1, 2, 300], [0, 0, 47.9], INTERVALS[zones], [9] * 3, [0] * 3, budget=2, next_round_h=1
    )
    assert two.starving == 1
    assert two.impossible
    one = allocate(
        zones, [1, 2, 300], [0, 0, -1], INTERVALS[zones], [9] * 3, [0] * 3, budget=1, next_round_h=1
    )
    assert one.deferred[Zone.HOT] == 1
    assert one.impossible
    none = allocate(
        zones, [1, 2, 300], [-1] * 3, INTERVALS[zones], [9] * 3, [0] * 3, budget=0, next_round_h=1
    )
    assert not none.chosen.size
    assert not none.degraded
    with pytest.raises(ValueError, match="next round"):
        allocate(zones, [1] * 3, [0] * 3, INTERVALS[zones], [9] * 3, [0] * 3, budget=1, next_round_h=0)


@given(st.data())
def test_an_allocation_keeps_its_rules_whatever_is_due(data: st.DataObject):
    count = data.draw(st.integers(1, 60))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    age = random.uniform(0, 1000, count)
    zones = zone_of(age)
    waits = INTERVALS[zones] * random.uniform(0.5, 3, count)
    overdue = random.uniform(-1, 3, count) * waits
    budget = data.draw(st.integers(0, count + 5))
    found = allocate(
        zones, age, overdue, waits, random.uniform(-10, 1000, count), random.normal(size=count),
        budget=budget, next_round_h=0.25, budget_per_h=data.draw(st.floats(0, 100)),
    )  # fmt: skip
    due = np.flatnonzero(overdue >= 0)
    assert len(found.chosen) == len(set(found.chosen.tolist())) == min(budget, len(due))
    assert set(found.chosen.tolist()) <= set(due.tolist())
    if found.deferred[Zone.HOT]:
        assert (zones[found.chosen] == Zone.HOT).all()
    left = np.setdiff1d(due, found.chosen)
    assert found.starving == sum(overdue[left] + waits[left] + 0.25 > DEFAULTS.patience * waits[left])
    assert sum(found.deferred.values()) == len(left)


@dataclass
class Fleet:
    """Videos under the clock, as the tracker would keep them: all that survives a round is in the columns."""

    published_h: np.ndarray
    velocity: np.ndarray
    due_h: np.ndarray
    wait_h: np.ndarray
    sampled_h: np.ndarray
    samples: np.ndarray = field(init=False)
    hot_late_h: float = 0.0
    impossible: int = 0

    @classmethod
    def born(cls, random: np.random.Generator, count: int, oldest_h: float) -> Fleet:
        published = -random.uniform(0, oldest_h, count)
        waits = INTERVALS[zone_of(-published)]
        sampled = -random.uniform(0, 1, count) * waits
        return cls(published, random.lognormal(4, 2, count), sampled + waits, waits, sampled)

    def __post_init__(self) -> None:
        self.samples = np.zeros(len(self.due_h))

    def demand(self, zone: Zone, now: float) -> float:
        return float((1 / self.wait_h[zone_of(now - self.published_h) == zone]).sum())

    def round(self, now: float, budget: int, per_h: float, next_round_h: float) -> Allocation:
        age, slope = now - self.published_h, np.zeros(len(self.due_h))
        zones = zone_of(age)
        found = allocate(
            zones, age, now - self.due_h, self.wait_h, self.velocity, slope,
            budget=budget, next_round_h=next_round_h, budget_per_h=per_h,
        )  # fmt: skip
        rows = found.chosen
        assert (self.due_h[rows] <= now).all()
        self.samples[rows] += 1
        self.hot_late_h = float(np.max((now - self.due_h[rows])[zones[rows] == Zone.HOT], initial=0.0))
        self.sampled_h[rows] = now
        self.wait_h[rows] = interval_h(zones[rows], self.velocity[rows], slope[rows])
        self.due_h[rows] = now + self.wait_h[rows]
        self.impossible += found.impossible
        return found


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.one_of(st.just(0.0), st.floats(0.1, 60)), st.floats(0.1, 1.0))
def test_nobody_starves_unreported_and_nobody_at_all_while_the_budget_pays_a_third(
    seed: int, pause_h: float, step_h: float
):
    fleet = Fleet.born(np.random.default_rng(seed), 300, 600.0)
    now, overlong = 0.0, np.zeros(300)
    rounds = int(100 / step_h)
    for number in range(rounds):
        hot = fleet.demand(Zone.HOT, now)
        others = fleet.demand(Zone.WARM, now) + fleet.demand(Zone.COLD, now)
        budget = int(np.ceil(hot * 2 * step_h + others / DEFAULTS.patience * 2.2 * step_h)) + 6
        reported = fleet.round(now, budget, others / DEFAULTS.patience, step_h).impossible
        pause = pause_h if number == rounds // 2 else 0.0
        now += step_h + pause
        excess = now - fleet.sampled_h - DEFAULTS.patience * fleet.wait_h
        # What grows too long during an outage is the outage's doing.
        overlong = np.where(excess <= 1e-9, 0.0, overlong + (step_h + pause))
        assert reported or pause or not ((excess > 1e-9) & (overlong <= step_h + 1e-9)).any()
    assert pause_h or fleet.impossible == 0
    assert pause_h or not overlong.any()


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.floats(0.0, 200.0))
def test_with_a_tenth_of_the_budget_hot_keeps_its_hour_and_the_rest_is_reported(seed: int, down_h: float):
    random = np.random.default_rng(seed)
    fleet = Fleet.born(random, 400, 400.0)
    young = random.choice(400, 8, replace=False)
    fleet.published_h = -random.uniform(30, 400, 400)
    fleet.published_h[young] = -random.uniform(0, 2, 8)
    fleet.wait_h[:] = INTERVALS[zone_of(-fleet.published_h)]
    fleet.due_h[:] = 0.0
    fleet.sampled_h[:] = -fleet.wait_h
    tenth = max(8, int(sum(fleet.demand(zone, 0.0) for zone in Zone) / 10))
    now = 0.0
    for hour in range(60):
        allocation = fleet.round(now, tenth, tenth - 8, 1.0)
        assert allocation.deferred[Zone.HOT] == 0
        assert fleet.hot_late_h < 1.0 + (down_h if hour == 31 else 0.0)
        # A restart, or a long outage in the middle, leaves no backlog: what is due is due once.
        now += 1.0 + (down_h if hour == 30 else 0.0)
    assert fleet.impossible > 0
    assert fleet.samples.sum() == 60 * tenth
    assert fleet.samples[young].min() >= 7


def test_zones_stretch_cold_first_and_hot_never():
    demand = {Zone.HOT: 100.0, Zone.WARM: 60.0, Zone.COLD: 90.0}
    assert stretches(demand, 250.0).factors == dict.fromkeys(Zone, 1.0)
    some = stretches(demand, 220.0)
    assert some.factors == pytest.approx({Zone.HOT: 1.0, Zone.WARM: 1.0, Zone.COLD: 1.5})
    more = stretches(demand, 160.0)
    assert more.factors == pytest.approx({Zone.HOT: 1.0, Zone.WARM: 2.0, Zone.COLD: 3.0})
    assert not more.impossible
    assert stretches(demand, 100.0).shortfall_per_h == pytest.approx(50.0)
    assert stretches({}, 0.0).shortfall_per_h == 0


@given(st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0, 3e4))
def test_stretched_zones_cost_the_budget_and_the_shortfall(
    hot: float, warm: float, cold: float, budget: float
):
    demand = {Zone.HOT: hot, Zone.WARM: warm, Zone.COLD: cold}
    found = stretches(demand, budget)
    cost = sum(demand[zone] / found.factors[zone] for zone in Zone)
    assert cost == pytest.approx(min(sum(demand.values()), budget + found.shortfall_per_h), abs=1e-6)
    assert all(1 <= factor <= DEFAULTS.patience + 1e-9 for factor in found.factors.values())


class TestForecastFactor:
    def test_likely_top_videos_wait_less_and_unlikely_ones_longer(self):
        factors = forecast_factor([0.9, 0.08, 0.02, 0.01, 0.0], [1000] * 5)
        assert factors == pytest.approx([0.5, 0.5, 1.0, 2**0.5, 1.5])

    def test_what_is_unknown_or_hardly_learnt_changes_nothing(self):
        assert forecast_factor([None, 0.9, 0.9], [1000, 199, None]).tolist() == [1.0, 1.0, 1.0]

    @given(st.floats(0, 1), st.floats(0, 1))
    def test_a_higher_chance_never_waits_longer(self, one: float, other: float):
        low, high = sorted((one, other))
        assert forecast_factor([high], [1000]) <= forecast_factor([low], [1000])

    def test_waits_stay_within_the_bounds_of_their_zones(self):
        zones = np.array([Zone.HOT, Zone.WARM, Zone.COLD])
        assert within_zone(np.array([0.1, 5.0, 100.0]), zones).tolist() == [0.5, 5.0, 72.0]

    @pytest.mark.parametrize(
        "wrong", [{"usual_chance": 0}, {"usual_chance": 1}, {"sooner": 0.5}, {"later": 0.9}]
    )
    def test_impossible_settings_are_refused(self, wrong: dict[str, float]):
        with pytest.raises(ValueError, match="usual_chance"):
            ForecastIntervals(**wrong)
