"""What a cycle expects of its calls, and which of them wait."""

from __future__ import annotations

from datetime import timedelta

from atlas.testing import NOON
from maia.cycle.expectations import Expectations, Expected, shall_wait
from maia.learning.success import Outcome, SuccessPredictor, known_before

UNLIKELY = Expected(0.05, "quota")


def test_without_a_predictor_nothing_is_expected() -> None:
    assert Expectations("hunter").of("feeds", {}, NOON) is None


def test_the_prediction_is_that_of_the_same_action_of_the_same_agent() -> None:
    predictor = SuccessPredictor()
    for action, succeeded in [("search", False), ("feeds", True)] * 300:
        context = known_before("hunter", action, {"topics": 1}, NOON)
        predictor.learn_many([Outcome(context, succeeded, None if succeeded else "quota")])
    expectations = Expectations("hunter", predictor)
    search, feeds = (expectations.of(each, {"topics": 1}, NOON) for each in ("search", "feeds"))
    assert search is not None
    assert feeds is not None
    assert search.success < 0.1 < 0.9 < feeds.success
    assert search.as_dict() == {"success": round(search.success, 4), "failure_class": "quota"}


def test_by_default_nothing_waits() -> None:
    assert not any(shall_wait(UNLIKELY, 0, key, NOON) for key in range(100))


def test_what_is_likely_enough_or_unknown_does_not_wait() -> None:
    assert not any(shall_wait(Expected(0.3), 0.3, key, NOON) for key in range(100))
    assert not any(shall_wait(None, 0.3, key, NOON) for key in range(100))


def test_about_one_in_ten_is_a_probe_and_each_gets_its_turn() -> None:
    probes = sum(not shall_wait(UNLIKELY, 0.3, key, NOON) for key in range(2000))
    assert 150 < probes < 250
    later = [NOON + timedelta(minutes=minute) for minute in range(120)]
    for key in range(50):
        assert not all(shall_wait(UNLIKELY, 0.3, key, at) for at in later)
