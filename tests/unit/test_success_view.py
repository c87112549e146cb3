"""Expectations of calls are compared with what came."""

from __future__ import annotations

import math
import random

import pytest

from maia.learning.templates import FailureClass
from maia.views.success import Call, calibrated

QUOTA, NETWORK = FailureClass.QUOTA, FailureClass.NETWORK


def test_without_calls_there_are_no_figures() -> None:
    nothing = calibrated([])
    assert (nothing.calls, nothing.succeeded, nothing.log_loss, nothing.deciles) == (0, None, None, ())


def test_the_figures_are_of_the_calls_of_which_something_was_expected() -> None:
    calls = [
        Call(None, 0.9, "quota"), Call(QUOTA, 0.2, "quota"), Call(NETWORK, 0.5, "quota"), Call(NETWORK),
    ]  # fmt: skip
    found = calibrated(calls)
    assert (found.calls, found.expecting, found.likeliest_failure) == (4, 3, "network")
    assert found.succeeded == pytest.approx(1 / 4)
    assert found.expected == pytest.approx(1.6 / 3)
    assert found.log_loss == pytest.approx(-(math.log(0.9) + math.log(0.8) + math.log(0.5)) / 3)
    assert found.base_log_loss == pytest.approx(-(math.log(1 / 3) + 2 * math.log(2 / 3)) / 3)
    assert found.classes_right == pytest.approx(1 / 2)
    assert [each.expected for each in found.deciles] == [0.2, 0.5, 0.9]


def test_certainty_that_came_out_wrong_costs_much_but_is_a_number() -> None:
    assert calibrated([Call(QUOTA, 1.0)]).log_loss == pytest.approx(-math.log(1e-4))


def test_honest_expectations_are_reliable_in_every_decile() -> None:
    random_ = random.Random(1)
    chances = [random_.random() for _ in range(20_000)]
    calls = [Call(None if random_.random() < chance else QUOTA, chance) for chance in chances]
    found = calibrated(calls)
    assert sum(each.calls for each in found.deciles) == 20_000
    for each in found.deciles:
        assert each.calls == 2000
        assert each.succeeded == pytest.approx(each.expected, abs=0.04)
    assert found.log_loss is not None
    assert found.base_log_loss is not None
    assert found.log_loss < found.base_log_loss
