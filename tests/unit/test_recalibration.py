"""Probabilities are corrected by what came of predictions like them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.log_odds import log_odds, probability
from maia.learning.recalibration import Recalibration

PREDICTIONS = st.lists(st.tuples(st.floats(-9, 9), st.booleans()), max_size=60)


def test_before_anything_is_learnt_probabilities_stay_nearly_as_they_are() -> None:
    for predicted in (0.1, 0.5, 0.93):
        assert Recalibration(0.02).corrected(log_odds(predicted)) == pytest.approx(predicted, abs=0.01)


def test_what_is_always_wrong_is_corrected_half_way_and_only_there() -> None:
    recalibration = Recalibration(0.02)
    for _ in range(2000):
        recalibration.learn(log_odds(0.9), 0.0)
    assert recalibration.corrected(log_odds(0.9)) == pytest.approx(0.45, abs=0.01)
    assert recalibration.corrected(log_odds(0.3)) == pytest.approx(0.3, abs=0.01)


@given(PREDICTIONS, PREDICTIONS)
def test_many_are_learnt_as_one_after_the_other(
    before: list[tuple[float, bool]], many: list[tuple[float, bool]]
) -> None:
    one, other = Recalibration(0.02), Recalibration(0.02)
    for predicted, came in before:
        one.learn(predicted, came)
        other.learn(predicted, came)
    for predicted, came in many:
        one.learn(predicted, came)
    predictions, outcomes = np.array(many, float).reshape(-1, 2).T
    other.learn_many(predictions, outcomes)
    np.testing.assert_allclose(other.bins, one.bins, atol=1e-9)


@given(st.floats(-9, 9))
def test_log_odds_and_probabilities_are_each_others_reverse(value: float) -> None:
    assert log_odds(probability(value)) == pytest.approx(value, abs=1e-6)
