"""Views between two counts, and views to come, by the typical curve."""

from __future__ import annotations

import numpy as np
import pytest

from maia.learning.typical_curve import damped_views, views_later
from maia.learning.video_snapshots import Snapshots


def test_views_between_two_counts_grow_by_the_typical_curve():
    def at(age: float, first: tuple[float, float], second: tuple[float, float], widest_h: float = 30.0):
        return views_later([age], *([value] for value in (*first, *second)), widest_h=widest_h)[0]

    nan = float("nan")
    assert at(10, (10, 500), (20, 900)) == 500
    assert at(20, (10, 500), (20, 900)) == 900
    assert 700 < at(15, (10, 500), (20, 900)) < 900
    assert at(1005, (1000, 500), (1010, 900)) == pytest.approx(700, abs=1)
    assert np.isnan(at(15, (10, 500), (60, 900)))
    assert np.isnan(at(15, (10, 500), (nan, nan)))
    assert np.isnan(at(15, (nan, nan), (20, 900)))
    assert at(10.5, (10, 500), (nan, nan)) == 500
    assert at(19.5, (nan, nan), (20, 900)) == 900
    assert at(10.5, (10, 500), (60, 900)) == 500
    assert at(15, (10, 500), (20, 480)) < 500


def test_damped_velocity_needs_a_velocity():
    views = damped_views(Snapshots.of([10.0, 10.0, 10.0], [100, 100, 100], [None, 5.0, -5.0]))
    assert np.isnan(views[0])
    assert 100 < views[1] < 100 + 24 * 5
    assert views[2] == 100
