from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.observations import Observation, checked

AT = datetime(2026, 11, 29, 23, 59, tzinfo=UTC)
GOOD: dict[str, Any] = {"agent": "hunter", "session": "s", "action": "search", "at": AT}

STORABLE = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
SAFE = 2.0**53
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63) + 1, 2**63 - 1), st.text(STORABLE, max_size=300),
    st.floats(-1e300, 1e300),
)  # fmt: skip


def test_an_observation_has_little_to_say_by_default():
    one = checked(**GOOD)
    assert one == Observation("hunter", "s", "search", AT)
    assert one.succeeded
    assert one.context == {}
    assert one.duration_s is None
    assert one.day == AT.date()


def test_the_default_context_cannot_be_changed():
    with pytest.raises(TypeError):
        Observation("a", "s", "x", AT).context["y"] = 1  # type: ignore[index]


def test_any_other_outcome_is_a_failure():
    assert not checked(**GOOD, outcome="quota").succeeded


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("agent", ""), ("agent", " "), ("agent", 1), ("session", None), ("action", b"x"), ("outcome", ""),
        ("reward", math.nan), ("reward", "1"), ("reward", True), ("cost", -1), ("cost", math.inf),
        ("duration_s", -0.1), ("duration_s", math.nan),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(field: str, value: object):
    with pytest.raises(ValueError, match=field):
        checked(**(GOOD | {field: value}))


@pytest.mark.parametrize("value", [[1], {"a": 1}, math.nan, math.inf, b"x", AT])
def test_contexts_hold_scalars_only(value: object):
    with pytest.raises(ValueError, match=r"context\.where"):
        checked(**GOOD, context={"where": value})


def test_the_time_zone_must_be_known():
    with pytest.raises(ValueError, match="time zone"):
        checked(**(GOOD | {"at": AT.replace(tzinfo=None)}))


@given(st.dictionaries(st.text(STORABLE, max_size=120), scalars, max_size=80))
def test_contexts_are_bounded_and_keep_the_types_of_their_values(context: dict[str, Any]):
    kept = checked(**GOOD, context=context).context
    assert len(kept) <= 40
    assert all(len(name) <= 80 for name in kept)
    for name, value in kept.items():
        assert not isinstance(value, str) or len(value) <= 200
        if len(name) < 80:
            assert type(value) is type(context[name])


@given(st.text(STORABLE, min_size=1).filter(str.strip), st.floats(0, SAFE), st.floats(-SAFE, SAFE))
def test_texts_are_cut_and_numbers_kept(text: str, cost: float, reward: float):
    one = checked(agent=text, session=text, action=text, at=AT, cost=cost, reward=reward, duration_s=cost)
    assert text.startswith(one.agent)
    assert len(one.agent) <= 80
    assert (one.cost, one.reward, one.duration_s) == (cost, reward, cost)


def test_texts_keep_nothing_that_a_database_refuses() -> None:
    found = checked(**GOOD | {"action": "a\0b\ud800"}, context={"k\0": "v\0\udfff", "e": "é"})
    assert (found.action, found.context) == ("ab\ufffd", {"k": "v\ufffd", "e": "é"})
    with pytest.raises(ValueError, match="action must be a text"):
        checked(**GOOD | {"action": "\0"})


def test_what_comes_back_from_a_database_as_another_number_is_changed_first() -> None:
    context = checked(**GOOD, context={"serial": 10**30, "large": 2**63 - 1, "zero": -0.0}).context
    assert context == {"serial": str(10**30), "large": 2**63 - 1, "zero": 0.0}
    assert math.copysign(1, float(context["zero"] or 0.0)) == 1


@pytest.mark.parametrize("name", ["reward", "cost", "duration_s"])
def test_numbers_whose_sum_could_be_infinite_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is too large a number to add up: 1e"):
        checked(**GOOD, **{name: 1e308})
