from __future__ import annotations

import math
from datetime import UTC, datetime

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.profiles import HOURS_PER_WEEK, WeekProfile, hour_of_week

WEEK_S = 7 * 86_400


@given(st.datetimes(datetime(1960, 1, 1), datetime(2060, 1, 1)))  # noqa: DTZ001
def test_weeks_begin_on_monday_at_midnight(at: datetime) -> None:
    at = at.replace(tzinfo=UTC)
    assert hour_of_week(at.timestamp()) == at.weekday() * 24 + at.hour


def test_an_offset_moves_the_hours() -> None:
    assert hour_of_week(0.0, 3_600) == hour_of_week(0.0) + 1


def profile_of(values: np.ndarray) -> WeekProfile:
    """A profile that saw the values in the same hour."""
    profile = WeekProfile()
    for n, value in enumerate(values.tolist()):
        profile.observe(n % 60 * 60.0 + n // 60 * WEEK_S, value)
    return profile


LATER_S = 1_000.0 * WEEK_S


@pytest.mark.parametrize("seed", range(3))
def test_the_usual_range_approaches_the_quantiles(seed: int) -> None:
    values = np.random.default_rng(seed).normal(10, 2, 600)
    usual = profile_of(values).usual(LATER_S)
    assert usual is not None
    assert (usual.low, usual.median, usual.high) == pytest.approx(
        np.quantile(values, [0.1, 0.5, 0.9]), abs=0.6
    )
    assert usual.values == 600


def test_outliers_hardly_move_it() -> None:
    values = np.random.default_rng(0).normal(10, 2, 600)
    clean = profile_of(values).usual(LATER_S)
    values[300:600:20] = 1e9
    dirty = profile_of(values).usual(LATER_S)
    assert clean is not None
    assert dirty is not None
    assert dirty.median == pytest.approx(clean.median, abs=1)


def test_a_lasting_change_is_followed() -> None:
    generator = np.random.default_rng(0)
    usual = profile_of(np.concatenate([generator.normal(10, 2, 600), generator.normal(30, 2, 1_200)])).usual(
        LATER_S
    )
    assert usual is not None
    assert usual.median == pytest.approx(30, abs=2)


def test_hours_are_told_apart_and_the_unseen_is_unknown() -> None:
    profile = WeekProfile()
    profile.observe(0.0, 1.0)
    profile.observe(3_600.0, 2.0)
    first, second = profile.usual(WEEK_S), profile.usual(WEEK_S + 3_600.0)
    assert first is not None
    assert second is not None
    assert (first.median, second.median) == (1.0, 2.0)
    assert profile.usual(7_200.0) is None


def test_values_of_an_hour_do_not_foretell_each_other() -> None:
    profile = WeekProfile()
    for minute in range(60):
        assert profile.usual(60.0 * minute) is None
        profile.observe(60.0 * minute, 5.0)
    profile.observe(float(WEEK_S), 100.0)
    usual, of_hour = profile.usual(WEEK_S + 60.0), profile.of_hour(hour_of_week(0.0))
    assert usual is not None
    assert of_hour is not None
    assert (usual.median, usual.values, of_hour.values) == (5.0, 60, 61)


def test_a_profile_of_the_first_version_is_still_read() -> None:
    profile = profile_of(np.full(60, 7.0))
    state = {name: value for name, value in profile.state().items() if name not in ("weeks", "before")}
    old = WeekProfile.from_state(state | {"version": 1})
    old.observe(float(WEEK_S), 9.0)
    usual = old.usual(WEEK_S + 60.0)
    assert usual is not None
    assert (usual.median, usual.values) == (7.0, 60)


@pytest.mark.parametrize(("at_s", "value"), [(0.0, math.nan), (0.0, math.inf), (math.nan, 1.0), (0.0, 1e200)])
def test_what_is_no_usable_number_is_ignored(at_s: float, value: float) -> None:
    profile = WeekProfile()
    profile.observe(at_s, value)
    assert profile.state() == WeekProfile().state()


@given(st.lists(st.tuples(st.floats(-1e9, 4e9), st.floats(-1e6, 1e6)), max_size=100), st.integers(0, 100))
def test_a_restored_profile_has_the_same_future(points: list[tuple[float, float]], at: int) -> None:
    profile = WeekProfile(utc_offset_s=7_200, floor=0.1)
    for at_s, value in points[:at]:
        profile.observe(at_s, value)
    restored = WeekProfile.from_state(msgpack.unpackb(msgpack.packb(profile.state())))
    for at_s, value in points[at:]:
        profile.observe(at_s, value)
        restored.observe(at_s, value)
        assert restored.usual(at_s) == profile.usual(at_s)
        hour = hour_of_week(at_s, profile.utc_offset_s)
        usual = profile.of_hour(hour)
        assert restored.of_hour(hour) == usual
        assert usual is not None
        assert usual.low <= usual.median <= usual.high
    assert len(profile.state()["counts"]) == HOURS_PER_WEEK


@pytest.mark.parametrize("floor", [0.0, 1.5, math.nan])
def test_the_floor_is_a_share(floor: float) -> None:
    with pytest.raises(ValueError, match="floor"):
        WeekProfile(floor=floor)


def test_a_state_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 7"):
        WeekProfile.from_state(WeekProfile().state() | {"version": 7})
