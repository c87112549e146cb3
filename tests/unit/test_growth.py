from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.growth import (
    DEFAULTS,
    CurveEvidence,
    GrowthSettings,
    curve_evidence,
    labels,
    looks_growing,
    merged,
    projection,
    threshold,
    views_at_horizon,
)


def test_the_threshold_is_what_the_top_share_exceeds():
    assert threshold(range(1, 1001)) == pytest.approx(900, rel=0.01)
    assert threshold(range(1, 1001), GrowthSettings(share=0.05)) == pytest.approx(950, rel=0.01)
    assert threshold([1e6] * 10) == DEFAULTS.first_threshold
    assert threshold([None] * 500) == DEFAULTS.first_threshold


@given(st.floats(0.1, 200), st.integers(0, 10**8), st.floats(1, 1e5))
def test_more_views_and_a_younger_age_look_more_like_growing(age: float, views: int, limit: float):
    least, more = looks_growing([age, age], [views, views * 2 + 10], limit)
    younger = looks_growing([age / 2], [views * 2 + 10], limit)[0]
    assert 0 <= least <= more <= 1
    assert looks_growing([age], [views], 2 * limit)[0] <= least + 1e-9
    if more > 0.5:
        assert younger > 0.5


def test_at_24_hours_the_count_decides():
    chance = looks_growing([24.0, 24.0], [100 * 24 * 1.3, 100 * 24 / 1.3], 100.0)
    assert chance[0] > 0.95
    assert chance[1] < 0.05


def test_hidden_views_tell_nothing():
    assert np.isnan(looks_growing([3.0], [None], 100.0)[0])


def test_evidence_corrects_the_curve_and_narrows_it():
    random = np.random.default_rng(2)
    # Steady growth: twelve times as many at 24 h as at 2 h, which is more than the typical curve says.
    views = random.lognormal(8, 1, 3000)
    evidence = curve_evidence(np.full(3000, 2.5), views, views * 24 / 2.5 * random.lognormal(0, 0.1, 3000))
    before, after = projection([2.5]), projection([2.5], evidence)
    assert before[0][0] < np.log(24 / 2.5)
    assert after[0][0] == pytest.approx(np.log(24 / 2.5), abs=0.02)
    assert after[1][0] < before[1][0] / 3
    # Other ages keep what is assumed.
    assert projection([12.0], evidence)[0][0] == projection([12.0])[0][0]


@given(
    st.lists(
        st.lists(st.tuples(st.floats(0.1, 100), st.integers(0, 10**6), st.integers(0, 10**7))), max_size=5
    )
)
def test_evidence_of_the_curve_merges_in_any_order(parts: list[list[tuple[float, int, int]]]):
    each = [curve_evidence(*zip(*part, strict=True)) if part else CurveEvidence.none() for part in parts]
    assert merged(each).total == pytest.approx(merged(reversed(each)).total)
    everything = [row for part in parts for row in part]
    if everything:
        assert merged(each).squares == pytest.approx(curve_evidence(*zip(*everything, strict=True)).squares)


def test_views_at_24_hours_are_interpolated():
    at = views_at_horizon(
        [20.0, None, 17.0, None],
        [100.0, None, 100.0, None],
        [28.0, 48.0, None, 90.0],
        [200.0, 200.0, None, 5.0],
    )
    assert 150 < at[0] < 154
    assert 100 < at[1] < 200
    assert np.isnan(at[2])
    assert np.isnan(at[3])


@pytest.mark.parametrize("ages", [(2.0, 90.0), (0.5, 48.0), (12.0, 36.0), (23.0, 25.0), (2.0, 24.0)])
def test_rare_counts_of_a_typical_video_tell_the_same_as_frequent_ones(ages: tuple[float, float]):
    at_age = 2400 * np.exp(-projection(ages)[0])
    assert views_at_horizon([ages[0]], [at_age[0]], [ages[1]], [at_age[1]])[0] == pytest.approx(2400)


def test_a_late_count_before_24_hours_is_enough_however_many_views_it_tells():
    at = views_at_horizon([18.0, 18.0, 24.0, 17.9], [0.0, 1000.0, 1000.0, 1e9], [None] * 4, [None] * 4)
    assert at[0] == 0
    assert at[1] == pytest.approx(1188, abs=1)
    assert at[2] == pytest.approx(1000)
    assert np.isnan(at[3])


@given(st.floats(0, 24), st.integers(0, 10**6), st.floats(24, 200), st.integers(0, 10**6))
def test_views_at_24_hours_lie_between_the_counts(age0: float, views0: int, age1: float, more: int):
    at = views_at_horizon([age0], [views0], [age1], [views0 + more])[0]
    if not np.isnan(at):
        assert (views0 if age0 > 0 else 0) - 1e-6 <= at <= views0 + more + 1e-6


def test_a_label_needs_the_views_at_24_hours():
    assert labels([np.nan, 2399.0, 2400.0], 100.0) == [None, False, True]


@pytest.mark.parametrize(
    "wrong", [{"share": 0.0}, {"decay": 1.0}, {"scale_h": 0.0}, {"latest_h": 24.0}, {"earliest_h": 25.0}]
)
def test_impossible_settings_are_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError, match=r"must|between"):
        GrowthSettings(**wrong)
