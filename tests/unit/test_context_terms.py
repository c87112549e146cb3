"""The terms of many contexts are those of each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from maia.learning.context_terms import Group, batch_of, keys_of

CONTEXTS = st.lists(
    st.dictionaries(
        st.sampled_from(["flag", "hour", "load", "region"]),
        st.none() | st.booleans() | st.integers(-1, 40) | st.sampled_from(["US", "", 0.25, 1.0, 9e9]),
        max_size=4,
    ),
    min_size=1,
    max_size=12,
)


def groups_of(names: Sequence[str]) -> list[Group]:
    """Each field, and all pairs."""
    ordered = sorted(names)
    return [*((name,) for name in ordered), *combinations(ordered, 2)]


@given(CONTEXTS)
def test_the_terms_of_many_contexts_are_those_of_each(contexts: list[dict[str, Any]]) -> None:
    batch = batch_of(contexts, groups_of)
    by_row: dict[int, list[str]] = {row: [] for row in range(len(contexts))}
    for value, row in zip(batch.value.tolist(), batch.row.tolist(), strict=True):
        by_row[row].append(batch.keys[value])
    for row, context in enumerate(contexts):
        groups = groups_of(list(context))
        terms = batch.terms_of(row)
        assert by_row[row] == keys_of(context, groups)
        assert [batch.keys[value] for value in batch.value[terms].tolist()] == by_row[row]
        assert [batch.groups[group] for group in batch.group[terms].tolist()] == groups


def test_values_are_told_apart_by_type_and_numbers_by_their_size() -> None:
    context = {"a": True, "b": 1, "c": 0.96, "d": 1000, "e": 1023.7, "f": None, "g": -3e9, "h": "x" * 99}
    assert keys_of(context, [(name,) for name in context]) == [
        "a=True", "b=1", "c=1", "d=2^10", "e=2^10", "f=None", "g=-2^31", f"h={'x' * 80}",
    ]  # fmt: skip
    assert keys_of(context, [("a", "b")]) == ["a=True&b=1"]


def test_equal_values_have_one_key() -> None:
    batch = batch_of([{"a": 1}, {"a": True}, {"a": 1}], groups_of)
    assert batch.value.tolist() == [0, 1, 0]
    assert batch.keys == ["a=1", "a=True"]
