from __future__ import annotations

from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.learning.calibration import average_precision, score, top_of_groups
from maia.learning.forecast_groups import CLASSES
from maia.learning.forecast_settings import ForecastSettings
from maia.learning.forecasts import DAY_H, HORIZONS_H, WEEK_H, Forecaster, Forecasts
from maia.learning.states import StateError, pack
from maia.learning.typical_curve import damped_views
from maia.learning.velocity import AGE_CLASS_EDGES_H, Floats, age_class
from maia.learning.video_snapshots import Snapshots, snapshot_of_samples

BEGIN_S = 1_790_000_000.0
SPREADS = np.linspace(0.15, 0.9, CLASSES)
"""The synthetic videos' errors: old ones are harder here, unlike in the real world."""


def synthetic(videos: int, seed: int, horizon_h: float = DAY_H) -> tuple[Snapshots, Floats]:
    """Videos of all ages, and their views later: half of what damped velocity says, times a random factor."""
    random = np.random.default_rng(seed)
    edges = np.array([0.3, *AGE_CLASS_EDGES_H, 4000.0])
    number = random.integers(0, CLASSES, videos)
    age = edges[number] + random.random(videos) * (edges[number + 1] - edges[number])
    views = np.round(np.exp(random.normal(10, 1.5, videos)))
    velocity = views / age * np.exp(random.normal(-0.5, 0.5, videos))
    snapshots = Snapshots.of(age, views, velocity, np.zeros(videos), np.full(videos, 0.5))
    factor = 0.5 * np.exp(SPREADS[number] * random.normal(0, 1, videos))
    return snapshots, views + np.round((damped_views(snapshots, horizon_h) - views) * factor)


def taught(batches: int, seed: int = 0, size: int = 500, horizon_h: float = DAY_H) -> Forecaster:
    forecaster = Forecaster()
    for batch in range(batches):
        forecaster.learn(*synthetic(size, 1000 * seed + batch, horizon_h), horizon_h)
    return forecaster


def same(one: Forecasts, other: Forecasts) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name), equal_nan=True)
        for field in fields(Forecasts)
    )


@pytest.mark.parametrize("horizon_h", HORIZONS_H)
def test_it_learns_by_what_factor_the_typical_curve_is_wrong(horizon_h: float):
    snapshots, _ = synthetic(4000, 99, horizon_h)
    before, after = Forecaster(), taught(20, horizon_h=horizon_h)

    def ratio(forecaster: Forecaster) -> Floats:
        gained = forecaster.forecast(snapshots, horizon_h).median - snapshots.views
        return np.log(gained / (damped_views(snapshots, horizon_h) - snapshots.views))

    assert np.median(np.abs(ratio(before))) < 0.05
    assert np.median(ratio(after)) == pytest.approx(np.log(0.5), abs=0.05)
    for number in range(CLASSES):
        member = age_class(snapshots.age_h) == number
        assert np.median(ratio(after)[member]) == pytest.approx(np.log(0.5), abs=0.15)


def test_intervals_hold_as_often_as_they_should_in_every_age_class():
    forecaster, held = taught(10), []
    for batch in range(60):
        snapshots, later = synthetic(500, 5000 + batch)
        made = forecaster.forecast(snapshots)
        held.append(np.stack([age_class(snapshots.age_h), (made.low <= later) & (later <= made.high)]))
        forecaster.learn(snapshots, later, issued_median=made.median)
    number, hits = np.concatenate(held, axis=1)
    for each in range(CLASSES):
        of = hits[number == each]
        # Four standard deviations of the share, if intervals held with a chance of .8.
        assert of.mean() == pytest.approx(0.8, abs=4 * np.sqrt(0.16 / len(of)))


def test_intervals_are_as_wide_as_the_errors_of_the_age_class():
    snapshots, _ = synthetic(6000, 77)
    made = taught(30).forecast(snapshots)
    gained = [np.log1p(ends - snapshots.views) for ends in (made.low, made.high)]
    for number in range(CLASSES):
        width = np.median((gained[1] - gained[0])[age_class(snapshots.age_h) == number])
        assert width == pytest.approx(2 * 1.2816 * SPREADS[number], rel=0.3)


def test_intervals_follow_a_world_that_changes():
    forecaster = taught(20)
    held = []
    for batch in range(60):
        snapshots, later = synthetic(500, 8000 + batch)
        later = snapshots.views + 3 * (later - snapshots.views)
        made = forecaster.forecast(snapshots)
        held.append(float(((made.low <= later) & (later <= made.high)).mean()))
        forecaster.learn(snapshots, later, issued_median=made.median)
    assert held[0] < 0.5
    assert np.mean(held[30:]) == pytest.approx(0.8, abs=0.03)


def test_before_anything_is_learnt_intervals_are_wide_and_chances_unknown():
    snapshots, later = synthetic(3000, 1)
    made = Forecaster().forecast(snapshots)
    assert score(made.median, made.low, made.high, later).coverage > 0.8
    assert np.isnan(made.top_chance).all()
    week = Forecaster().forecast(snapshots, WEEK_H)
    assert (week.median >= made.median).all()


def test_the_chance_to_be_in_the_top_is_a_probability_and_finds_them():
    snapshots, later = synthetic(12_000, 3)
    chance = taught(40).forecast(snapshots).top_chance
    top = top_of_groups(age_class(snapshots.age_h), later - snapshots.views)
    assert chance.mean() == pytest.approx(0.05, abs=0.01)
    assert top[chance > 0.5].mean() > 0.5
    assert top[chance < 0.05].mean() < 0.02
    assert average_precision(top, chance) > 0.7


def test_a_video_with_one_sample_has_a_forecast_of_its_own():
    forecaster = Forecaster()
    for batch in range(10):
        snapshots, later = synthetic(500, batch)
        forecaster.learn(Snapshots.of(snapshots.age_h, snapshots.views), later)
    snapshots, later = synthetic(3000, 50)
    one = forecaster.forecast(Snapshots.of(snapshots.age_h, snapshots.views))
    assert score(one.median, one.low, one.high, later).coverage == pytest.approx(0.8, abs=0.05)
    # With a velocity nothing was learnt.
    assert np.isfinite(forecaster.forecast(snapshots).median).all()
    unlearnt = Forecaster().forecast(snapshots).median
    np.testing.assert_allclose(forecaster.forecast(snapshots).median, unlearnt)


def test_a_state_in_mid_stream_has_the_same_future():
    one = taught(3)
    one.learn(*synthetic(200, 7, WEEK_H), WEEK_H)
    other = Forecaster.from_state(one.state())
    assert other.state() == one.state()
    for batch in range(3):
        snapshots, later = synthetic(300, 400 + batch)
        assert same(one.forecast(snapshots), other.forecast(snapshots))
        one.learn(snapshots, later)
        other.learn(snapshots, later)
    snapshots, _ = synthetic(300, 500)
    for horizon_h in HORIZONS_H:
        assert same(one.forecast(snapshots, horizon_h), other.forecast(snapshots, horizon_h))
    assert other.state() == one.state()


def test_the_state_does_not_grow():
    sizes = [len(taught(batches).state()) for batches in (10, 40)]
    assert sizes[1] < 1.2 * sizes[0] < 500_000
    assert len(Forecaster().state()) < 5_000


@pytest.mark.parametrize(
    "state",
    [b"", b"nonsense", pack("another", 1, {}), pack("forecaster", 1, {}), pack("forecaster", 99, {})],
    ids=["empty", "nonsense", "another", "incomplete", "newer"],
)
def test_what_is_no_state_is_refused(state: bytes):
    with pytest.raises(StateError):
        Forecaster.from_state(state)


def test_a_state_of_another_shape_is_refused():
    content = {str(horizon_h): {"products": b"12345678"} for horizon_h in HORIZONS_H}
    with pytest.raises(StateError, match="incomplete"):
        Forecaster.from_state(pack(Forecaster.name, Forecaster.version, content))


def test_the_same_outcomes_teach_the_same():
    assert taught(4, seed=5).state() == taught(4, seed=5).state()
    assert taught(4, seed=5).state() != taught(4, seed=6).state()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(-100, 1e5),
            st.none() | st.integers(0, 10**12),
            st.none() | st.floats(-1e9, 1e9),
            st.none() | st.floats(-1e9, 1e9),
            st.none() | st.floats(0, 1e9),
            st.none() | st.integers(0, 10**12),
        ),
        max_size=8,
    )
)
def test_forecasts_are_in_order_and_never_below_the_present_views(rows: list[tuple[float | None, ...]]):
    age, views, velocity, acceleration, usual, later = zip(*rows, strict=True) if rows else ((),) * 6
    snapshots = Snapshots.of(age, views, velocity, acceleration, usual_velocity=usual)
    forecaster = taught(1)
    for _ in range(2):
        made = forecaster.forecast(snapshots)
        known = snapshots.usable
        assert (np.isfinite(made.median) == known).all()
        low, median, high = made.low[known], made.median[known], made.high[known]
        assert (snapshots.views[known] <= low).all()
        assert ((low <= median) & (median <= high)).all()
        chance = made.top_chance[np.isfinite(made.top_chance)]
        assert ((chance >= 0) & (chance <= 1)).all()
        forecaster.learn(snapshots, [np.nan if count is None else count for count in later])


def test_nothing_known_is_learnt_from_nothing():
    forecaster, empty = Forecaster(), Snapshots.of([], [])
    assert len(forecaster.forecast(empty).median) == 0
    state = forecaster.state()
    forecaster.learn(empty, [])
    forecaster.learn(Snapshots.of([5.0, 6.0], [None, 10]), [20, None])
    assert forecaster.state() == state
    assert forecaster.outcomes().sum() == 0


def test_outcomes_are_counted_by_age_class():
    forecaster = Forecaster()
    forecaster.learn(Snapshots.of([0.5, 30.0, 31.0], [10, 20, 30]), [20, 30, 40])
    assert forecaster.outcomes().tolist() == [1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]
    assert forecaster.outcomes(WEEK_H).sum() == 0


def test_a_large_batch_is_forecast_as_its_parts():
    forecaster, (snapshots, _) = taught(5), synthetic(10_000, 8)
    whole = forecaster.forecast(snapshots)
    for first, last in pairwise([0, 1, 700, 10_000]):
        part = forecaster.forecast(snapshots[first:last])
        np.testing.assert_allclose(part.median, whole.median[first:last], rtol=1e-12)
        np.testing.assert_allclose(part.top_chance, whole.top_chance[first:last], rtol=1e-9)


def test_a_horizon_that_was_not_learnt_is_refused():
    with pytest.raises(KeyError):
        Forecaster().forecast(Snapshots.of([1.0], [1]), 48.0)


def test_no_sample_gives_no_forecast():
    made = Forecaster().forecast(snapshot_of_samples([], [], BEGIN_S))
    assert np.isnan(made.median).all()
    assert len(made.median) == 1


def test_falling_views_are_forecast_not_to_fall_further():
    got = snapshot_of_samples(BEGIN_S + 3600 * np.arange(1.0, 4.0), [1000, 990, 985], BEGIN_S)
    made = taught(3).forecast(got)
    assert made.median[0] >= made.low[0] >= 985


def test_what_was_issued_unlearnt_does_not_widen_intervals():
    unlearnt, judged, ignored = Forecaster(), taught(10), taught(10)
    snapshots, later = synthetic(2000, 60)
    issued = unlearnt.forecast(snapshots).median
    ignored.learn(snapshots, later, issued_median=issued)
    judged.learn(snapshots, later)
    assert same(ignored.forecast(snapshots), judged.forecast(snapshots))
    other = taught(10)
    other.learn(snapshots, later, issued_median=snapshots.views + 20 * (issued - snapshots.views))
    made, normal = other.forecast(snapshots), judged.forecast(snapshots)
    assert (made.high >= normal.high).all()
    assert (made.high > normal.high).any()


def test_settings_must_be_positive():
    with pytest.raises(ValueError, match="positive"):
        ForecastSettings(prior_errors=0.0)
