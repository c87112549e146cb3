from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.growth import DEFAULTS as GROWTH
from maia.learning.triage import DEFAULTS, ChannelNorms, TriageSettings, grows, hot_budget, stays_hot

videos = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 48), st.booleans(), st.booleans()), max_size=60)


@given(videos, st.integers(0, 30))
def test_the_budget_holds_and_the_likeliest_stay(drawn: list[tuple[float, float, bool, bool]], budget: int):
    chance, age, hot, pinned = (
        (np.array(column) for column in zip(*drawn, strict=True)) if drawn else [np.zeros(0)] * 4
    )
    stays = stays_hot(chance, age, budget, is_hot=hot.astype(bool), pinned=pinned.astype(bool))
    pins = pinned.astype(bool)
    assert stays[pins].all()
    assert stays.sum() <= max(budget, pins.sum())
    old = (age >= DEFAULTS.least_age_h) & ~pins
    left = old & ~stays & hot.astype(bool) & (chance >= DEFAULTS.leave)
    kept = old & stays
    if left.any() and kept.any():
        assert chance[kept].min() >= chance[left].max()


def test_a_video_near_the_limit_does_not_go_back_and_forth():
    assert stays_hot([0.2, 0.2], [5.0, 5.0], 10, is_hot=[True, False]).tolist() == [True, False]
    assert stays_hot([0.5, 0.01], [5.0, 5.0], 10, is_hot=[False, True]).tolist() == [True, False]


def test_a_video_too_young_to_tell_stays_if_there_is_room():
    assert stays_hot([0.01, 0.01], [0.1, 5.0], 10).tolist() == [True, False]
    assert stays_hot([0.01, 0.9], [0.1, 5.0], 1).tolist() == [False, True]


def test_the_channels_norm_tells_about_a_first_count():
    norms = ChannelNorms.of([np.log(50_000), np.log(50), np.nan], [0.8, 0.8, np.nan], [20, 20, 0])
    big, small, unknown = grows([0.3] * 3, [20] * 3, 200.0, norms=norms)
    assert big > unknown > small


def test_a_video_of_which_nothing_is_known_has_the_share_of_growing_ones():
    assert grows([1.0], [None], 100.0)[0] == GROWTH.share
    norms = ChannelNorms.of([np.log(100_000)], [0.5], [10])
    assert grows([1.0], [None], 100.0, norms=norms)[0] > 0.9


def test_two_counts_tell_one_that_takes_off_from_one_that_has_faded():
    off, faded = grows([6.0, 6.0], [600, 600], 60.0, first_age_h=[4.0, 4.0], first_views=[100, 595])
    assert off > 0.5 > faded


def test_a_second_count_that_adds_nothing_is_ignored():
    once = grows([6.0], [600], 60.0)[0]
    assert grows([6.0], [600], 60.0, first_age_h=[6.0], first_views=[600])[0] == once
    assert grows([6.0], [600], 60.0, first_age_h=[None], first_views=[None])[0] == once
    assert grows([6.0], [600], 60.0, first_age_h=[3.0], first_views=[700])[0] == once


@given(st.floats(0, 48), st.integers(0, 10**7), st.floats(1, 1e4), st.floats(0, 15), st.floats(0, 3))
def test_chances_are_probabilities(age: float, views: int, limit: float, mean: float, spread: float):
    chance = grows(
        [age],
        [views],
        limit,
        norms=ChannelNorms.of([mean], [spread], [5]),
        first_age_h=[age / 2],
        first_views=[views // 2],
    )
    assert 0 <= chance[0] <= 1


def test_the_budget_follows_from_the_quota():
    assert hot_budget(500_000) == pytest.approx(500_000 * DEFAULTS.hot_share / 24, abs=1)
    assert hot_budget(500_000, hot_interval_h=2.0) == pytest.approx(2 * hot_budget(500_000), abs=2)
    with pytest.raises(ValueError, match="negative"):
        hot_budget(-1)
    with pytest.raises(ValueError, match="below back"):
        TriageSettings(leave=0.5, back=0.4)
