"""Cosines, and the nearest, exactly and by cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.graph.nearest import (
    ONE_CELL,
    Nearest,
    all_nearest_in_cells,
    cells_for,
    cells_of,
    learn_centres,
    nearest,
    probed,
    similarity,
    unit,
)  # fmt: skip


def all_nearest(vectors: np.ndarray, k: int, **how: Any) -> Nearest:
    """The k nearest of every row among the others."""
    return nearest(vectors, vectors, k, but=np.arange(len(vectors)), **how)


def test_cosines_by_hand() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        similarity(np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="k must be"):
        all_nearest(np.zeros((1, 3), np.float32), 0)
    vectors = np.array([[3, 4], [4, 3], [-3, -4], [0, 0], [6, 8]], np.float32)
    assert similarity(vectors[:1], vectors) == pytest.approx(np.array([[1, 0.96, -1, 0, 1]]))
    found = all_nearest(vectors, 3)
    assert found.rows.tolist() == [[4, 1, -1], [0, 4, -1], [-1, -1, -1], [-1, -1, -1], [0, 1, -1]]
    assert found.cosines[0] == pytest.approx([1, 0.96, 0])
    assert nearest(vectors, vectors[:1], 3, least=-1.0).rows.tolist() == [[0, 4, 1]]
    assert nearest(vectors[:0], vectors, 2).rows.tolist() == [[-1, -1]] * 5


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 40),
    st.integers(1, 12),
    st.integers(16, 600),
    st.integers(0, 1000),
    st.sampled_from([np.float32, np.float16]),
)
def test_blocks_give_what_sorting_all_gives(
    size: int, k: int, block_bytes: int, seed: int, kind: type
) -> None:
    # Few directions, so that there are many ties.
    vectors = np.random.default_rng(seed).integers(-1, 2, (size, 3)).astype(kind)
    found = all_nearest(vectors, k, least=1e-5, block_bytes=block_bytes)
    cosines = np.round(similarity(vectors, vectors), 5)
    for row in range(size):
        others = sorted((-cosines[row, other], other) for other in range(size) if other != row)
        expected = [other for cosine, other in others if cosine < -1e-5][:k]
        assert np.round(found.cosines[row, : len(expected)], 5).tolist() == [
            cosines[row, n] for n in expected
        ]
        assert set(found.rows[row, len(expected) :].tolist()) <= {-1}
        assert len(set(found.rows[row].tolist()) - {-1}) == len(expected)


def clustered(size: int, seed: int = 0) -> np.ndarray:
    """Unit vectors around forty directions."""
    draw = np.random.default_rng(seed)
    around = draw.standard_normal((40, 16))[draw.integers(40, size=size)]
    return unit((around + 0.4 * draw.standard_normal((size, 16))).astype(np.float32)).astype(np.float16)


def test_nearly_all_of_the_nearest_are_found_in_a_few_cells() -> None:
    vectors = clustered(3_000)
    centres = learn_centres(vectors, cells_for(len(vectors)))
    assert len(centres) == cells_for(len(vectors)) == 54
    assert cells_for(ONE_CELL) == 1
    assert np.linalg.norm(centres, axis=1) == pytest.approx(np.ones(54), abs=1e-3)
    assert np.array_equal(learn_centres(vectors, 54), centres)
    exact, cells = all_nearest(vectors, 10), cells_of(vectors, centres)
    found = all_nearest_in_cells(vectors, cells, centres, 10, most_probed=8)
    shared = [len(np.intersect1d(one, other)) for one, other in zip(found.rows, exact.rows, strict=True)]
    assert np.mean(shared) > 9.5
    assert (found.rows != np.arange(3_000)[:, None]).all()
    # What is nearest to a vector is in the cells nearest to it.
    assert (probed(vectors, centres, 1)[:, 0] == cells).all()
    asked = np.arange(3_000) % 7 == 0
    some = all_nearest_in_cells(vectors, cells, centres, 10, most_probed=8, asked=asked)
    assert np.array_equal(some.rows[asked], found.rows[asked])
    assert (some.rows[~asked] == -1).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 60), st.integers(1, 8), st.integers(0, 100))
def test_all_cells_give_what_comparing_all_gives(size: int, cells: int, seed: int) -> None:
    vectors = clustered(size, seed)
    centres = learn_centres(vectors, cells)
    assert len(centres) == min(cells, size)
    if size:
        found = all_nearest_in_cells(vectors, cells_of(vectors, centres), centres, 3, most_probed=cells)
        exact = all_nearest(vectors, 3)
        assert found.cosines == pytest.approx(exact.cosines, abs=1e-5)


def test_of_large_cells_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit(np.random.default_rng(3).standard_normal((90, 8)).astype(np.float32))
    monkeypatch.setattr("maia.graph.nearest.MOST_IN_CELL", 30)
    found = all_nearest_in_cells(vectors, np.zeros(90, np.int32), np.zeros((1, 8), np.float32), 3)
    looked_at = np.arange(0, 90, 3)
    own = np.where(np.arange(90) % 3 == 0, np.arange(90) // 3, -1)
    expected = nearest(vectors[looked_at], vectors, 3, but=own)
    assert (found.rows == np.where(expected.rows == -1, -1, looked_at[expected.rows])).all()
    assert found.cosines == pytest.approx(expected.cosines)
