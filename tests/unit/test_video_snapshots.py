"""What is known of a video at its last sample."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from maia.learning.velocity import Tracks, advance
from maia.learning.video_snapshots import Snapshots, snapshot_of_samples, snapshots_of_tracks

BEGIN_S = 1_790_000_000.0


@pytest.mark.parametrize("columns", [([1.0, 2.0], [1]), ([1.0], [np.inf]), ([1.0], [-1])])
def test_columns_that_make_no_sense_are_refused(columns: tuple[list[float], list[float]]):
    with pytest.raises(ValueError, match=r"needs|negative"):
        Snapshots.of(*columns)


def test_samples_become_a_snapshot_as_the_tracker_sees_them():
    at = BEGIN_S + 3600 * np.array([1.0, 3.0, 6.0, 9.0])
    got = snapshot_of_samples(at, [100, 300, None, 90], BEGIN_S)
    assert got.age_h.tolist() == [9.0]
    assert got.views.tolist() == [90.0]
    tracks = Tracks.new(1)
    for instant, count in zip(at, [100, 300, np.nan, 90], strict=True):
        tracks = advance(tracks, [instant], [count]).tracks
    expected = snapshots_of_tracks(tracks, [BEGIN_S])
    for field in fields(Snapshots):
        np.testing.assert_array_equal(getattr(got, field.name), getattr(expected, field.name))
    # Monday 2026-09-21 at 16:13:20 UTC is 40 h and some after Sunday's end; the last sample is 9 h later.
    assert got.hour_of_week[0] == pytest.approx((BEGIN_S / 3600 + 9 + 72) % 168)
