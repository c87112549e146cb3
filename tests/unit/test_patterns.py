from __future__ import annotations

import random
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.evidence import Counts
from maia.learning.patterns import (
    Condition,
    Finding,
    Operator,
    Pattern,
    PatternType,
    combined,
    equals,
    pattern_id,
)

AT = datetime(2026, 11, 29, tzinfo=UTC)
MONDAY, TUESDAY = date(2026, 11, 30), date(2026, 12, 1)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(), st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
signatures = st.dictionaries(st.text(), values, max_size=6)


def _pattern(words: str = "a", **signature: object) -> Pattern:
    return Pattern(PatternType.TOOL_USAGE, signature, words)


@pytest.mark.parametrize(
    ("operator", "value", "found", "holds"),
    [
        ("=", 3, 3, True), ("=", 3, 3.0, True), ("=", 3, 4, False), ("=", "3", 3, False),
        ("=", 1, True, False),
        ("=", True, True, True), ("=", True, 1, False), ("=", None, None, True), ("=", None, False, False),
        ("!=", "a", "b", True), ("!=", "a", "a", False), ("!=", 1, True, True), ("!=", 0, None, True),
        (">", 2, 3, True), (">", 2, 2, False), (">=", 2, 2, True), (">=", 2, 1.9, False), ("<", 2, 1, True),
        ("<", 2, 2, False), ("<=", 2, 2, True), ("<=", 2, 2.1, False), (">", 0, True, False),
        (">", 2, "3", False), ("<", 2, None, False), (">", 2, float("nan"), False),
    ],
)  # fmt: skip
def test_conditions_compare_values_of_their_kind(operator: str, value: Any, found: Any, holds: bool):
    assert Condition("x", Operator(operator), value).holds({"x": found, "y": 1}) is holds


@pytest.mark.parametrize("operator", Operator)
def test_a_missing_field_meets_nothing(operator: Operator):
    assert not Condition("x", operator, 1).holds({"y": 1})
    assert not Condition("x", operator, 1).holds({})


@pytest.mark.parametrize("operator", [">", ">=", "<", "<="])
@pytest.mark.parametrize("value", ["3", True, None])
def test_only_numbers_have_an_order(operator: str, value: Any):
    with pytest.raises(ValueError, match="needs a number"):
        Condition("x", Operator(operator), value)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (Condition("hour", Operator.EQUALS, 3), "hour = 3"),
        (Condition("load", Operator.ABOVE, 0.25), "load > 0.25"),
        (Condition("hot", Operator.EQUALS, True), "hot = true"),
        (Condition("topic", Operator.DIFFERS, None), "topic != null"),
        (Condition("topic", Operator.EQUALS, "chess"), "topic = chess"),
    ],
)
def test_conditions_are_read_as_they_are_written(condition: Condition, words: str):
    assert str(condition) == words


def test_equal_conditions_of_a_context_are_in_the_order_of_names():
    assert list(map(str, equals({"b": 1, "a": "x"}))) == ["a = x", "b = 1"]
    assert all(each.holds({"b": 1, "a": "x"}) for each in equals({"b": 1, "a": "x"}))


@given(signatures, st.randoms(use_true_random=False))
def test_the_order_of_a_signature_makes_no_difference_to_the_id(
    signature: dict[str, Any], drawn: random.Random
):
    items = list(signature.items())
    drawn.shuffle(items)
    found = pattern_id(PatternType.ANOMALY, dict(items))
    assert found == pattern_id(PatternType.ANOMALY, signature)
    assert len(found) == 32
    assert int(found, 16) >= 0


@given(signatures)
def test_another_type_has_another_id(signature: dict[str, Any]):
    assert len({pattern_id(each, signature) for each in PatternType}) == len(PatternType)


def test_the_id_says_what_the_pattern_says_and_no_more():
    assert _pattern("one way to say it", tool="a").id == _pattern("another", tool="a").id
    ids = {_pattern(tool=each).id for each in ("a", "b", 1, True, None, "1", ["a"], 1.5)}
    assert len(ids) == 8


def test_ids_never_change():
    # They are kept in databases and exchanged between sites.
    signature = {"agent": "hunter", "after": ["a"], "then": "ü"}
    assert pattern_id(PatternType.TASK_SEQUENCE, signature) == "6475496feed61f2a79f461ff9906dcd3"


def test_a_signature_without_a_canonical_text_is_refused():
    with pytest.raises(ValueError, match="Out of range float"):
        pattern_id(PatternType.ANOMALY, {"x": float("nan")})


def test_findings_of_one_pattern_are_combined_by_day():
    first = Finding(_pattern("first", tool="a"), {MONDAY: Counts(1, 2, 0.5, AT)})
    other = Finding(_pattern("other", tool="b"), {MONDAY: Counts(7)})
    last = Finding(_pattern("last", tool="a"), {MONDAY: Counts(1), TUESDAY: Counts(0, 3)})
    one, two = combined([first, other, last])
    assert one.pattern.statement == "last"
    assert one.evidence == {MONDAY: Counts(2, 2, 0.5, AT), TUESDAY: Counts(0, 3)}
    assert two == other
    assert first.evidence == {MONDAY: Counts(1, 2, 0.5, AT)}
