"""Layouts of small graphs: always the same, inside their frame, without overlaps, linked atoms near."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.graph.layout import Floats, Frame, forced, placed

FRAME = Frame(900, 600)


def overlapping(at: Floats, sizes: Floats) -> int:
    """How many pairs of boxes share more than their edges."""
    covers = ((sizes[:, None] + sizes[None]) / 2 - np.abs(at[:, None] - at[None]) > 1e-6).all(axis=2)
    return int(np.triu(covers, 1).sum())


def star(count: int) -> np.ndarray:
    return np.array([(0, nth) for nth in range(1, count)], np.int64).reshape(-1, 2)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_graph_is_drawn_inside_its_frame_and_always_in_the_same_way(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    place = st.integers(0, count - 1)
    links = np.array(data.draw(st.lists(st.tuples(place, place), max_size=20)), np.int64).reshape(-1, 2)
    weights = np.array(data.draw(st.lists(st.floats(0, 1), min_size=len(links), max_size=len(links))))
    sizes = np.tile([80.0, 30.0], (count, 1))
    at = placed(links, weights, sizes, FRAME)
    assert np.isfinite(at).all()
    assert ((at - sizes / 2 >= -1e-6) & (at + sizes / 2 <= np.array([900, 600]) + 1e-6)).all()
    assert overlapping(at, sizes) == 0
    assert (placed(links, weights, sizes, FRAME) == at).all()


def test_dozens_of_labels_do_not_cover_each_other() -> None:
    count = 33
    chance = np.random.default_rng(4)
    links = np.concatenate([star(count), chance.integers(0, count, (60, 2))])
    sizes = np.stack([chance.uniform(40, 130, count), np.full(count, 32.0)], axis=1)
    assert overlapping(placed(links, np.full(len(links), 0.5), sizes, FRAME), sizes) == 0


def test_groups_that_hardly_anything_connects_lie_apart() -> None:
    groups = [[*range(5)], [*range(5, 10)]]
    links = np.array([(a, b) for each in groups for a in each for b in each if a < b] + [(0, 5)])
    at = forced(10, links, np.ones(len(links)))
    apart = np.linalg.norm(at[:, None] - at[None], axis=2)
    within = max(apart[np.ix_(each, each)].mean() for each in groups)
    assert apart[np.ix_(*groups)].mean() > 1.5 * within


def test_a_heavy_link_is_shorter_than_a_light_one() -> None:
    at = forced(3, star(3), np.array([1.0, 0.0]))
    heavy, light = np.linalg.norm(at[1:], axis=1)
    assert heavy < light


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_anything_to_draw_is_drawn_too(count: int) -> None:
    at = placed(star(count), np.ones(max(count - 1, 0)), np.full((count, 2), 20.0), FRAME)
    assert at.shape == (count, 2)
    assert np.isfinite(at).all()
