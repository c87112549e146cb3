from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.calibration import (
    average_precision,
    log_error,
    pinball,
    precision_and_recall,
    score,
    score_by,
    top_of_groups,
    wilson,
)


def test_a_score_counts_what_held():
    got = score([10, 10, 10, 10, None], [5] * 5, [20] * 5, [10, 20, 21, 4, 10])
    assert got.videos == 4
    assert got.coverage == 0.5
    assert got.coverage_low < 0.5 < got.coverage_high
    assert got.width == pytest.approx(math.log(21 / 6))
    errors = [0, math.log(21 / 11), math.log(22 / 11), math.log(11 / 5)]
    assert got.error == pytest.approx(np.median(errors))


def test_the_interval_score_is_the_width_and_ten_times_each_miss():
    inside, outside = (score([10], [5], [20], [actual]).interval_score for actual in (10, 40))
    assert inside == pytest.approx(math.log(21 / 6))
    assert outside == pytest.approx(math.log(21 / 6) + 10 * math.log(41 / 21))


def test_a_score_of_nothing_is_unknown():
    got = score([None], [1], [2], [3])
    assert got.videos == 0
    assert math.isnan(got.error)


def test_scores_by_group():
    got = score_by(np.array([3, 1, 3]), [1, 1, 1], [0, 2, 0], [2, 3, 2], [1, 1, 5])
    assert list(got) == [1, 3]
    assert (got[1].coverage, got[3].coverage) == (0.0, 0.5)


def test_pinball_is_least_at_the_quantile():
    actual = np.arange(1, 1000)
    losses = [pinball(np.full(999, guess), actual, 0.9).mean() for guess in (500, 800, 900, 950)]
    assert np.argmin(losses) == 2
    assert pinball([10], [10], 0.3)[0] == 0


def test_log_errors_are_positive_if_too_much_was_forecast():
    assert log_error([21], [10])[0] == pytest.approx(math.log(2))


def test_wilson_as_published():
    # Newcombe (1998), table I: 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert math.isnan(wilson(0, 0)[0])


def test_average_precision_of_known_rankings():
    relevant = np.array([True, False, True, False])
    assert average_precision(relevant, [4, 3, 2, 1]) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(relevant, [2, 1, 2, 1]) == 1
    assert average_precision(relevant, [1, 1, 1, 1]) == 0.5
    assert average_precision(relevant, [None, 1, 2, 1]) == pytest.approx((1 + 2 / 4) / 2)
    assert math.isnan(average_precision(np.zeros(3, bool), [1, 2, 3]))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30), st.randoms())
def test_average_precision_ignores_the_order_of_rows(rows, random):
    if not any(relevant for relevant, _ in rows):
        rows[0] = (True, 1)
    shuffled = random.sample(rows, len(rows))

    def of(pairs):
        relevant, ranking = zip(*pairs, strict=True)
        return average_precision(np.array(relevant), ranking)

    assert of(rows) == pytest.approx(of(shuffled))
    assert 0 < of(rows) <= 1


def test_the_top_of_each_group():
    groups = np.array([0] * 100 + [1] * 20)
    top = top_of_groups(groups, [*range(100), *range(1000, 1019), None])
    assert top[:100].sum() == 5
    assert top[95:100].all()
    assert top[100:].tolist() == [False] * 18 + [True, False]


def test_precision_and_recall():
    relevant = np.array([True, True, True, False, False])
    assert precision_and_recall(relevant, np.array([True, False, False, True, False])) == (0.5, 1 / 3)
    assert math.isnan(precision_and_recall(relevant, np.zeros(5, bool))[0])
