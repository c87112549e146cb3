"""Running means of many sequences at once are those of one entry after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.running import Sequences, mean_after

ENTRIES = st.lists(st.tuples(st.integers(0, 6), st.floats(0, 0.999), st.floats(0, 1)), max_size=80)


@given(ENTRIES)
def test_means_are_those_of_one_entry_after_the_other(entries: list[tuple[int, float, float]]) -> None:
    expected = [0.1 * number for number in range(7)]
    for of, rate, outcome in entries:
        expected[of] += rate * (outcome - expected[of])
    columns = np.array(entries).reshape(-1, 3)
    sequences = Sequences.by(columns[:, 0].astype(np.intp), 7)
    rate, outcome = columns[sequences.order, 1], columns[sequences.order, 2]
    found = mean_after(sequences, 0.1 * np.arange(7), rate, outcome)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("number", [3, 70_000])
def test_entries_keep_their_order_within_a_sequence(number: int) -> None:
    sequences = Sequences.by(np.array([2, 0, 2, 2, 0], dtype=np.intp), number)
    assert sequences.order.tolist() == [1, 4, 0, 2, 3]
    assert sequences.of.tolist() == [0, 0, 2, 2, 2]
    assert sequences.place.tolist() == [0, 1, 0, 1, 2]
    assert sequences.lengths[:3].tolist() == [2, 0, 3]
