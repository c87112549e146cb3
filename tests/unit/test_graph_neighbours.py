"""The nearest by cells."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.graph import neighbours
from maia.graph.arrays import NO_ATOM
from maia.graph.neighbours import ONE_CELL, all_nearest_in_cells, cells_for, cells_of, learn_centres, probed
from maia.graph.similarity import all_nearest, nearest, unit


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
    monkeypatch.setattr(neighbours, "MOST_IN_CELL", 30)
    found = all_nearest_in_cells(vectors, np.zeros(90, np.int32), np.zeros((1, 8), np.float32), 3)
    looked_at = np.arange(0, 90, 3)
    own = np.where(np.arange(90) % 3 == 0, np.arange(90) // 3, NO_ATOM)
    expected = nearest(vectors[looked_at], vectors, 3, but=own)
    assert (found.rows == np.where(expected.rows == NO_ATOM, NO_ATOM, looked_at[expected.rows])).all()
    assert found.cosines == pytest.approx(expected.cosines)
