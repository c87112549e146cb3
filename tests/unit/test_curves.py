from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.emulator.curves import HIDDEN, UNRECORDED, Counter, Counters, Curves, Sample, SampleRows


def curves_of(*videos: list[Sample], published: list[int] | None = None) -> Curves:
    rows = []
    for n, samples in enumerate(videos):
        for sample in samples:
            views, likes, comments = (UNRECORDED if count is None else count for count in sample[1:])
            rows.append((n, sample.at, views, likes, comments))
    return Curves(published or [0] * len(videos), SampleRows.of(rows))


def test_counters_are_exact_at_samples_linear_between_and_constant_after_the_last():
    curves = curves_of([Sample(100, 10, 1, 0), Sample(200, 110, 2, 50)])
    assert curves.at(0, 100) == (10, 1, 0)
    assert curves.at(0, 150) == (60, 1, 25)
    assert curves.at(0, 200) == (110, 2, 50)
    assert curves.at(0, 10**10) == (110, 2, 50)


def test_before_the_first_sample_counters_grow_from_nothing_at_the_publication():
    curves = curves_of([Sample(200, 1000, 100, 10)], published=[100])
    assert curves.at(0, 100) == (0, 0, 0)
    assert curves.at(0, 150) == (500, 50, 5)
    assert curves.at(0, 50) == (0, 0, 0)


def test_falling_counts_are_reproduced():
    curves = curves_of([Sample(0, 1000, 50, 5), Sample(100, 900, 40, 5)])
    assert curves.at(0, 50) == (950, 45, 5)
    assert curves.at(0, 100) == (900, 40, 5)


def test_a_counter_is_hidden_from_the_sample_that_says_so_until_the_next():
    curves = curves_of([Sample(0, 10, 5, HIDDEN), Sample(100, 20, HIDDEN, 3), Sample(200, 30, 9, 4)])
    assert curves.at(0, 50) == (15, 5, None)
    assert curves.at(0, 150) == (25, None, 3)
    assert curves.at(0, 200) == (30, 9, 4)


def test_what_a_sample_did_not_record_is_interpolated_past_it():
    samples = [Sample(0, 10, 0), Sample(100, 20, None, None), Sample(200, 30, 100, 7), Sample(300, 40)]
    curves = curves_of(samples)
    assert curves.at(0, 100) == (20, 50, 3)
    assert curves.at(0, 300) == (40, 100, 7)


def test_a_counter_that_was_never_recorded_is_absent():
    curves = curves_of([Sample(0, 10), Sample(100, 20)], [])
    assert curves.at(0, 50) == (15, None, None)
    assert curves.at(1, 50) == (None, None, None)


def test_videos_do_not_mix():
    curves = curves_of([Sample(0, 1)], [], [Sample(0, 5), Sample(10, 7)])
    assert [curves.at(n, 5).views for n in range(3)] == [1, None, 6]
    assert curves.span == (0, 10)
    assert curves_of([]).span is None


counts = st.integers(0, 10**12)
histories = st.lists(
    st.tuples(st.integers(1, 10**9), counts, counts, counts),
    min_size=1,
    max_size=12,
    unique_by=lambda row: row[0],
).map(lambda rows: [Sample(*row) for row in sorted(rows)])


@given(histories, st.integers(-(10**9), 2 * 10**9))
def test_a_counter_never_leaves_the_range_of_the_samples_around_it(history: list[Sample], instant: int):
    seen = curves_of(history).at(0, instant)
    around = [Sample(0, 0, 0, 0), *history]
    if instant >= history[-1].at:
        assert seen == Counters(*history[-1][1:])
        return
    before, after = next(pair for pair in pairwise(around) if instant < pair[1].at)
    for column in range(3):
        low, high = sorted((before[column + 1] or 0, after[column + 1] or 0))
        assert low <= (seen[column] or 0) <= high


@given(histories)
def test_every_sample_is_reproduced_as_it_was_read(history: list[Sample]):
    curves = curves_of(history)
    for sample in history:
        assert curves.at(0, sample.at) == pytest.approx(tuple(sample[1:]), abs=0)


any_count = counts | st.sampled_from([HIDDEN, UNRECORDED])
any_histories = st.lists(
    st.tuples(st.integers(1, 10**6), any_count, any_count, any_count),
    max_size=8,
    unique_by=lambda row: row[0],
).map(lambda rows: [Sample(*(None if n == UNRECORDED else n for n in row)) for row in sorted(rows)])


@given(
    st.lists(st.tuples(st.integers(-(10**5), 10**5), any_histories), min_size=1, max_size=6),
    st.lists(st.integers(-(10**6), 2 * 10**6) | st.floats(0, 10**6), min_size=1, max_size=6),
)
def test_counters_of_many_videos_are_those_of_each(
    videos: list[tuple[int, list[Sample]]], instants: list[float]
) -> None:
    curves = curves_of(*(history for _, history in videos), published=[start for start, _ in videos])
    numbers = np.arange(len(videos))[::-1]
    names: tuple[Counter, ...] = ("views", "likes", "comments")
    for counter in names:
        for instant in instants:
            expected = [getattr(curves.at(int(n), instant), counter) for n in numbers]
            seen = curves.column_at(counter, numbers, instant).tolist()
            assert [None if count == HIDDEN else count for count in seen] == expected
        own = np.resize(np.array(instants, np.float64), len(numbers))
        expected = [getattr(curves.at(int(n), at), counter) for n, at in zip(numbers, own, strict=True)]
        seen = curves.column_at(counter, numbers, own).tolist()
        assert [None if count == HIDDEN else count for count in seen] == expected
