"""Heavy hitters in bounded memory: bounds, merging and state."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.space_saving import SpaceSaving

ITEMS = st.lists(st.sampled_from("abcdefghij"), max_size=200)


def counted(items: list[str], capacity: int) -> SpaceSaving:
    summary = SpaceSaving(capacity)
    summary.extend(items)
    return summary


def assert_bounds(summary: SpaceSaving, items: list[str]) -> None:
    truth = Counter(items)
    assert len(summary) <= summary.capacity
    assert summary.seen == len(items)
    for item in "abcdefghij":
        estimate = summary.estimate(item)
        assert estimate.at_least <= truth[item] <= estimate.count
    kept = {each.item for each in summary.top()}
    assert all(item in kept for item, count in truth.items() if count > len(items) / summary.capacity)


@given(ITEMS, st.integers(1, 12))
def test_counts_lie_within_their_bounds(items: list[str], capacity: int) -> None:
    assert_bounds(counted(items, capacity), items)


@given(ITEMS, ITEMS, st.integers(1, 12))
def test_merged_counts_lie_within_their_bounds(one: list[str], two: list[str], capacity: int) -> None:
    first, second = counted(one, capacity), counted(two, capacity)
    merged = first.merged(second)
    assert merged.top() == second.merged(first).top()
    truth = Counter(one + two)
    assert merged.seen == len(one) + len(two)
    assert len(merged) <= capacity
    assert all(each.at_least <= truth[each.item] <= each.count for each in merged.top())
    assert len(first) == min(capacity, len(set(one))), "merging changes neither side"


@given(ITEMS, ITEMS, st.integers(1, 12))
def test_a_restored_summary_has_the_same_future(before: list[str], after: list[str], capacity: int) -> None:
    summary = counted(before, capacity)
    restored = SpaceSaving.from_state(summary.state())
    summary.extend(after)
    restored.extend(after)
    assert restored.top() == summary.top()
    assert restored.state() == summary.state()


def test_exact_while_there_is_room() -> None:
    summary = counted(list("abacab"), 3)
    assert [(each.item, each.count, each.error) for each in summary.top()] == [
        ("a", 3, 0),
        ("b", 2, 0),
        ("c", 1, 0),
    ]
    assert summary.top(1)[0].item == "a"


def test_a_newcomer_inherits_the_lowest_count() -> None:
    summary = counted(list("aab"), 2)
    summary.add("c", 2)
    assert summary.estimate("c").count == 3
    assert summary.estimate("c").error == 1
    assert summary.estimate("b").count == summary.unseen_bound == 2


def test_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="capacity"):
        SpaceSaving(0)
    with pytest.raises(ValueError, match="times"):
        SpaceSaving(1).add("a", 0)
    for state in (b"", b"\x01", b"\x94\x02\x01\x00\x90"):
        with pytest.raises(ValueError, match="state of"):
            SpaceSaving.from_state(state)
