"""Frequent sequences, against a search through all subsequences."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import maia.learning.frequent as mining
from maia.learning.frequent import FrequentSequence, TooManyPatternsError, frequent_sequences

SESSIONS = st.lists(st.lists(st.sampled_from("abcd"), max_size=6), max_size=8)


def contains(longer: tuple[str, ...], shorter: tuple[str, ...]) -> bool:
    items = iter(longer)
    return all(item in items for item in shorter)


def every_pattern(sessions: list[list[str]], least: int, longest: int = 1000) -> dict[tuple[str, ...], int]:
    patterns = {
        tuple(session[at] for at in chosen)
        for session in sessions
        for length in range(1, min(len(session), longest) + 1)
        for chosen in combinations(range(len(session)), length)
    }
    supports = {each: sum(contains(tuple(session), each) for session in sessions) for each in patterns}
    return {each: support for each, support in supports.items() if support >= least}


def found(sessions: list[list[str]], least: int, **options: int) -> dict[tuple[str, ...], int]:
    return {each.items: each.support for each in frequent_sequences(sessions, least, **options)}


@given(SESSIONS, st.integers(1, 4), st.integers(1, 6))
def test_finds_what_a_full_search_finds(sessions: list[list[str]], least: int, longest: int) -> None:
    assert found(sessions, least, longest=longest) == every_pattern(sessions, least, longest)


@given(SESSIONS, st.integers(1, 4))
def test_closed_patterns_have_no_longer_one_of_their_support(sessions: list[list[str]], least: int) -> None:
    every = every_pattern(sessions, least)
    closed = {
        pattern: support
        for pattern, support in every.items()
        if not any(
            len(other) > len(pattern) and every[other] == support and contains(other, pattern)
            for other in every
        )
    }
    assert found(sessions, least, closed=True) == closed


@given(SESSIONS, st.integers(1, 4))
def test_binary_search_finds_the_same_as_the_table(sessions: list[list[str]], least: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mining, "_TABLE_CELLS", 0)
        searched = frequent_sequences(sessions, least)
    assert searched == frequent_sequences(sessions, least)


def test_most_frequent_first_then_shorter() -> None:
    sessions = [["seed", "search", "sample"], ["search", "sample"], ["sample"]]
    assert frequent_sequences(sessions, 2) == [
        FrequentSequence(("sample",), 3),
        FrequentSequence(("search",), 2),
        FrequentSequence(("search", "sample"), 2),
    ]


def test_a_repeated_item_needs_to_be_repeated() -> None:
    assert found([["a", "a"], ["a"]], 1) == {("a",): 2, ("a", "a"): 1}


def test_stops_at_too_many_patterns() -> None:
    with pytest.raises(TooManyPatternsError, match="more than 100"):
        frequent_sequences([[str(item) for item in range(40)]], 1, most=100)


def test_nothing_in_nothing() -> None:
    assert frequent_sequences([], 1) == []
    assert frequent_sequences([[], []], 1) == []


@pytest.mark.parametrize(("least", "longest"), [(0, 1), (1, 0)])
def test_refuses_what_makes_no_sense(least: int, longest: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        frequent_sequences([["a"]], least, longest=longest)
