"""Success is predicted from contexts, with calibrated probabilities, reasons and the class of failures."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.states import StateError, pack, unpack
from maia.learning.success import (
    Outcome,
    Prediction,
    SuccessPredictor,
    SuccessSettings,
    known_before,
)

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


# Many outcomes at once


def rates(predictor: SuccessPredictor) -> dict[str, list[float]]:
    """Count, slow and quick rate of each value, and of the whole."""
    saved = unpack("success", 1, predictor.state())
    return {key: value[:3] for key, value in [("", saved["whole"]), *saved["values"].items()]}


def assert_same_rates(one: SuccessPredictor, other: SuccessPredictor) -> None:
    ours, theirs = rates(one), rates(other)
    assert ours.keys() == theirs.keys()
    for key, values in ours.items():
        assert values == pytest.approx(theirs[key], abs=1e-9), key


@given(st.lists(OUTCOMES, max_size=60))
def test_many_outcomes_move_known_rates_as_one_after_the_other_do(outcomes: Any) -> None:
    singles, many = (SuccessPredictor(SuccessSettings(pair_fields=0)) for _ in range(2))
    for predictor in (singles, many, singles):
        learn_all(predictor, outcomes)
    many.learn_many([Outcome(*each) for each in outcomes])
    assert_same_rates(singles, many)


@given(st.lists(OUTCOMES, max_size=30))
def test_a_batch_of_one_is_as_one_outcome(outcomes: Any) -> None:
    singles, many = SuccessPredictor(), SuccessPredictor()
    learn_all(singles, outcomes)
    for each in outcomes:
        many.learn_many([Outcome(*each)])
    assert_same_rates(singles, many)
    for context, *_ in outcomes:
        expected = singles.predict(context)
        assert many.predict(context).success == pytest.approx(expected.success, abs=1e-6)
        assert many.class_probabilities(context) == pytest.approx(singles.class_probabilities(context))


def test_learning_in_batches_is_as_good_when_nothing_of_the_batch_is_known_before() -> None:
    losses = {}
    stream = regional(3, 6000)
    for name in ("singles", "many"):
        predictor, loss = SuccessPredictor(), 0.0
        for begun in range(0, len(stream), 200):
            page = stream[begun : begun + 200]
            for context, succeeded, _ in page:
                success = predictor.predict(context).success
                loss -= math.log(success if succeeded else 1 - success)
            if name == "many":
                predictor.learn_many([Outcome(*each) for each in page])
            else:
                learn_all(predictor, page)
        losses[name] = loss / len(stream)
    assert losses["many"] < losses["singles"] * 1.005
    bad = predictor.predict({"region": "XK", "hour": 5, "source": "search"})
    assert bad.success < 0.2
    assert bad.failure_class == "bad_request"


def test_of_many_values_the_longest_unseen_are_forgotten() -> None:
    predictor = SuccessPredictor(SuccessSettings(max_values=50))
    predictor.learn_many([Outcome({"topic": f"t{n}"}, n % 3 > 0, "quota") for n in range(500)])
    assert list(rates(predictor))[1:] == [f"topic=t{n}" for n in range(450, 500)]


def test_what_is_known_before_has_no_error_but_says_who_does_what_and_when() -> None:
    at = datetime(2026, 11, 2, 13, 30, tzinfo=UTC)
    assert known_before("hunter", "feeds", {"arm": "feeds", "error": "HTTP 503", "hour": 1}, at) == {
        "arm": "feeds", "agent": "hunter", "action": "feeds", "hour": 13, "weekday": 0,
    }  # fmt: skip
