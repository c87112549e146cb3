"""Success is predicted from contexts, with calibrated probabilities, reasons and the class of failures."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.states import StateError, pack
from maia.learning.success import Prediction, SuccessPredictor, SuccessSettings

CONTEXTS = st.dictionaries(
    st.sampled_from(["source", "region", "hour", "load", "flag"]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    max_size=5,
)
OUTCOMES = st.tuples(CONTEXTS, st.booleans(), st.sampled_from(["quota", "network", None]))


def learn_all(predictor: SuccessPredictor, outcomes: Any) -> None:
    for context, succeeded, failure_class in outcomes:
        predictor.learn(context, succeeded, None if succeeded else failure_class)


def regional(seed: int, count: int) -> list[tuple[dict[str, Any], bool, str | None]]:
    """Searches that mostly fail in one region, with one class, and seldom elsewhere, with another."""
    random_ = random.Random(seed)
    outcomes = []
    for _ in range(count):
        region = random_.choice(["US", "DE", "XK"])
        fails = random_.random() < (0.9 if region == "XK" else 0.1)
        failure = ("bad_request" if region == "XK" else "network") if fails else None
        outcomes.append(
            ({"region": region, "hour": random_.randrange(24), "source": "search"}, not fails, failure)
        )
    return outcomes


def test_before_any_outcome_nothing_is_known() -> None:
    assert SuccessPredictor().predict({"region": "US"}) == Prediction(0.5, None, 0.0, (), 0)
    assert SuccessPredictor().class_probabilities({"region": "US"}) == {}


def test_it_learns_which_value_fails_and_how() -> None:
    predictor = SuccessPredictor()
    learn_all(predictor, regional(1, 1500))
    bad = predictor.predict({"region": "XK", "hour": 5, "source": "search"})
    good = predictor.predict({"region": "US", "hour": 5, "source": "search"})
    assert bad.success < 0.2 < 0.8 < good.success
    assert (bad.failure_class, good.failure_class) == ("bad_request", "network")
    assert bad.class_probability > 0.8
    assert bad.support == 1500
    assert sum(predictor.class_probabilities({"region": "XK"}).values()) == pytest.approx(1)


def test_it_says_which_fields_weigh_most() -> None:
    predictor = SuccessPredictor()
    learn_all(predictor, regional(1, 1500))
    reasons = predictor.predict({"region": "XK", "hour": 5, "source": "search"}).reasons
    assert (reasons[0].field, reasons[0].value) == ("region", "XK")
    assert reasons[0].log_odds < -1
    assert len(reasons) == 3
    assert [abs(reason.log_odds) for reason in reasons] == sorted(
        (abs(r.log_odds) for r in reasons), reverse=True
    )
    assert predictor.predict({"region": "US", "hour": 5, "source": "search"}).reasons[0].log_odds > 0.3


def test_probabilities_are_calibrated() -> None:
    predictor, rows = SuccessPredictor(), []
    for context, succeeded, failure_class in regional(2, 3000):
        rows.append((predictor.predict(context).success, succeeded))
        predictor.learn(context, succeeded, failure_class)
    late = rows[500:]
    for low, high in ((0.0, 0.3), (0.7, 1.0)):
        inside = [(p, y) for p, y in late if low <= p < high]
        assert len(inside) > 500
        assert abs(sum(p for p, _ in inside) - sum(y for _, y in inside)) / len(inside) < 0.03


def test_it_beats_the_base_rate_where_the_context_tells_something() -> None:
    predictor, losses = SuccessPredictor(), []
    for context, succeeded, failure_class in regional(3, 2000):
        p = predictor.predict(context).success
        losses.append(-math.log(p if succeeded else 1 - p))
        predictor.learn(context, succeeded, failure_class)
    # The true probabilities have .325, the base rate of 63 % has .66.
    assert sum(losses[500:]) / 1500 < 0.38


def test_a_burst_of_failures_shows_at_once_and_passes() -> None:
    predictor = SuccessPredictor()
    context = {"source": "search"}
    for _ in range(300):
        predictor.learn(context, True)
    calm = predictor.predict(context).success
    for _ in range(12):
        predictor.learn(context, False, "service")
    burst = predictor.predict(context).success
    for _ in range(60):
        predictor.learn(context, True)
    assert calm > 0.95
    assert burst < 0.6
    assert predictor.predict(context).success > 0.9


def test_the_class_of_failures_follows_the_latest() -> None:
    predictor = SuccessPredictor()
    for failure_class in ["quota"] * 30 + ["network"] * 15:
        predictor.learn({"source": "search"}, False, failure_class)
    assert predictor.predict({"source": "search"}).failure_class == "network"


def test_predicting_changes_nothing() -> None:
    predictor = SuccessPredictor()
    learn_all(predictor, regional(4, 50))
    first = predictor.predict({"region": "DE", "unheard of": 3})
    before = predictor.state()
    assert predictor.predict({"region": "DE", "unheard of": 3}) == first
    assert predictor.state() == before


def test_the_order_of_fields_does_not_matter() -> None:
    one, other = SuccessPredictor(), SuccessPredictor()
    for context, succeeded, failure_class in regional(5, 200):
        one.learn(context, succeeded, failure_class)
        other.learn(dict(reversed(context.items())), succeeded, failure_class)
    assert one.state() == other.state()


def test_memory_is_bounded() -> None:
    predictor = SuccessPredictor(SuccessSettings(max_values=100, max_classes=3, max_fields=5, max_groups=30))
    sizes = []
    for number in range(1200):
        context = {f"field {number % 50}": number, "id": f"x{number}", "y" * 500: "z" * 500}
        predictor.learn(context, number % 3 == 0, f"class {number}")
        if number % 400 == 399:
            sizes.append(len(predictor.state()))
    assert max(sizes) < 30_000
    assert len(predictor.class_probabilities({})) == 3


@given(st.lists(OUTCOMES, max_size=30), st.lists(OUTCOMES, max_size=10), CONTEXTS)
def test_a_restored_state_goes_on_alike(before: Any, after: Any, context: Any) -> None:
    predictor = SuccessPredictor(SuccessSettings(max_values=12, max_groups=8, pair_fields=3))
    learn_all(predictor, before)
    restored = SuccessPredictor.from_state(predictor.state())
    for one in (predictor, restored):
        learn_all(one, after)
    prediction = predictor.predict(context)
    # Reasons may hold a NaN of the context.
    assert repr(restored.predict(context)) == repr(prediction)
    assert restored.state() == predictor.state()
    assert 0 < prediction.success < 1
    assert 0 <= prediction.class_probability <= 1


@pytest.mark.parametrize(
    "settings",
    [{"quick": 0}, {"slow": 1.5}, {"class_decay": 0}, {"back_off": 0}, {"learning_rate": -1},
     {"max_values": 0}, {"pair_fields": -1}, {"max_classes": 0}, {"max_groups": 0}],
)  # fmt: skip
def test_useless_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least|at most"):
        SuccessSettings(**settings)


@pytest.mark.parametrize("state", [b"", b"nonsense", pack("other", 1, {}), pack("success", 99, {})])
def test_another_state_is_refused(state: bytes) -> None:
    with pytest.raises(StateError):
        SuccessPredictor.from_state(state)
