"""Rates of success, slow and quick, and the classes of failures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.success_rates import Rates, columns_of, learn_many


def of(rates: Rates) -> tuple[float, ...]:
    return rates.count, rates.slow, rates.quick


def test_the_slow_rate_is_the_mean_at_first_and_the_quick_one_follows_the_latest() -> None:
    rates = Rates(0.5)
    for outcome in (1.0, 1.0, 0.0):
        rates.learn(outcome, 0.005, 0.15)
    # The rate that it began with counts as one outcome.
    assert rates.slow == pytest.approx(2.5 / 4)
    assert rates.quick == pytest.approx((1 - 0.5 * 0.85**2) * 0.85)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60))
def test_many_outcomes_are_learnt_as_one_after_the_other(outcomes: list[tuple[int, bool]]) -> None:
    one, many = ([Rates(0.2 * n) for n in range(4)] for _ in range(2))
    for _ in range(2):
        for place, succeeded in outcomes:
            one[place].learn(float(succeeded), 0.05, 0.15)
        places, successes = np.array(outcomes, float).reshape(-1, 2).T
        learn_many(many, columns_of(many), places.astype(np.intp), successes, (0.05, 0.15))
    for ours, theirs in zip(many, one, strict=True):
        assert of(ours) == pytest.approx(of(theirs))


def test_old_classes_of_failures_fade_away() -> None:
    rates = Rates(0.5)
    rates.learn_class(1, 0.5)
    rates.learn_class(2, 0.5)
    assert rates.classes == {1: 0.5, 2: 1.0}
    for _ in range(10):
        rates.learn_class(2, 0.5)
    assert list(rates.classes) == [2]
    assert Rates.loaded(rates.saved()).saved() == rates.saved()
