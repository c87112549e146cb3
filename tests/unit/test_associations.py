"""Associations of columns of sparse matrices, beside counting by hand."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from maia.graph import associations as module
from maia.graph.associations import Incidence, associations, co_occurrences, incidence, shares
from maia.graph.building import LooseAtoms, arrays_of
from maia.graph.merging import facts_of

ROWS = st.lists(st.sets(st.integers(0, 6), max_size=5), min_size=1, max_size=12)


def met(rows: list[set[int]], width: int = 7) -> Incidence:
    dense = np.array([[int(column in row) for column in range(width)] for row in rows], np.int64)
    return Incidence(sparse.csr_array(dense), np.arange(len(rows)), np.arange(width) * 10)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 3))
def test_co_occurrences_are_those_counted_by_hand(rows: list[set[int]], most: int) -> None:
    single = Counter(column for row in rows for column in row)
    together = Counter(pair for row in rows for pair in combinations(sorted(row), 2))
    pmi = {(a, b): math.log(n * len(rows) / (single[a] * single[b])) for (a, b), n in together.items()}
    positive = {pair: value for pair, value in pmi.items() if together[pair] >= 2 and value > 0}

    def best(column: int) -> set[tuple[int, int]]:
        mine = [pair for pair in positive if column in pair]
        mine.sort(key=lambda pair: (-np.float64(together[pair]) * positive[pair], sum(pair) - column))
        return set(mine[:most])

    wanted = {pair for column in range(7) for pair in best(column)}
    with mock.patch.object(module, "_BLOCK", 3):
        found = co_occurrences(met(rows), least=2, most=most)
    pairs = [(int(a) // 10, int(b) // 10) for a, b in zip(found.firsts, found.seconds, strict=True)]
    assert set(pairs) == wanted
    assert len(pairs) == len(wanted)
    for pair, pos, neg, weight in zip(pairs, found.pos, found.neg, found.weight, strict=True):
        assert pos == together[pair]
        assert neg == single[pair[0]] + single[pair[1]] - 2 * pos
        assert math.isclose(weight, pmi[pair])


def test_associations_of_two_kinds_count_the_rows_of_the_first() -> None:
    left = met([{0}, {0}, {0}, {1}, {1}], 2)
    right = met([{2}, {2}, {3}, {3}, set()])
    found = associations(left, right, least=2, most=5)
    assert [
        (*map(int, (found.firsts[n], found.seconds[n], found.pos[n], found.neg[n])),)
        for n in range(len(found))
    ] == [(0, 20, 2, 1)]


def test_shares_leave_out_rows_of_which_nothing_is_known() -> None:
    left = met([{0}, {0}, {0}, {0}, {1}], 2)
    right = met([{2}, {2}, {3}, set(), {3}])
    found = shares(left, right, least=1, most=1, share=0.5)
    assert (found.firsts.tolist(), found.seconds.tolist()) == ([0, 10], [20, 30])
    assert (found.pos.tolist(), found.neg.tolist()) == ([2, 1], [1, 0])
    assert len(shares(left, right, least=3, most=1, share=0.5)) == 0


def test_facts_are_a_graph_of_their_own() -> None:
    ends = np.array([[[0, 3], [0, 1]], [[0, 3], [0, 2]]], np.uint64)
    numbers = np.arange(5)
    arrays = arrays_of(
        LooseAtoms(
            handles=np.array([[0, 3], [0, 1], [0, 2], [0, 9], [0, 8]], np.uint64),
            types=("tag", "tagged", "video"),
            type_of=np.array([2, 0, 0, 1, 1], np.int16), linked=np.array([3, 4]), ends=ends, wide=(),
            named=[(0, "v"), (1, "gone"), (2, "ä")], positive=numbers * 1.0, count=numbers * 1.0, pos=numbers,
            neg=numbers, sources=np.array([1, 4, 3, 4, 1], np.uint8), weight=np.zeros(5, np.float32),
            seen_us=numbers,
        )
    )  # fmt: skip
    facts = facts_of(arrays)
    assert [facts.names[place] for place in range(3)] == ["ä", "v", ""]
    assert facts.pos.tolist() == [2, 0, 4]
    [link] = facts.of_type("tagged").tolist()
    assert facts.outgoing[facts.outgoing_starts[link] :].tolist() == [1, 0]
    found = incidence(facts, "tagged", "video", "tag")
    assert (found.matrix.toarray().tolist(), found.firsts.tolist(), found.seconds.tolist()) == (
        [[1]],
        [1],
        [0],
    )


def test_weights_change_in_steps_as_rows_are_added() -> None:
    assert [module.about(rows) for rows in (0, 7, 1000)] == [0, 7, 1000]
    many = [*range(1001, 300_000, 20)]
    assert max(abs(math.log(module.about(rows) / rows)) for rows in many) < 0.0218
    assert len({module.about(rows) for rows in many}) == pytest.approx(16 * math.log2(300), abs=2)
