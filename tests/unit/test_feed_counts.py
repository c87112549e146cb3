"""Which of the counts that feeds showed become readings, and how late feeds are estimated to be."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from atlas.adapters.tracking import FeedCount, Target
from atlas.testing import NOON
from maia.tracker.feed_counts import LEAST_GAP_H, Seen, judge
from tests.unit.test_measuring import target

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def known(id_: str = "video", *, views: int = 1000, velocity: float | None = 600, **rest: object) -> Target:
    return target(id_, last_at=NOON, last_views=views, velocity=velocity, **rest)


def seen(of: Target, views: int, after: timedelta = HOUR) -> Seen:
    return of, FeedCount(NOON + after, views)


def test_a_count_that_moved_is_a_reading_of_views_alone() -> None:
    (reading,) = judge([seen(known(), 1590)], 0.0).readings
    assert reading.counts == (1590, None, None)
    assert (reading.at, reading.source, reading.target.id) == (NOON + HOUR, "feed", "video")


def test_a_reading_is_dated_back_by_how_late_feeds_are() -> None:
    (reading,) = judge([seen(known(), 1500)], 10 / 60).readings
    assert reading.at == NOON + 50 * MINUTE


@pytest.mark.parametrize("views", [1000, 999, 0])
def test_a_count_that_did_not_move_tells_nothing(views: int) -> None:
    """The feed may be a copy from before the last sample, so there is no velocity of 0 either."""
    assert judge([seen(known(), views)], 0.0).readings == ()


@pytest.mark.parametrize(("lag_h", "readings"), [(0.0, 1), (1 / 60, 0)])
def test_a_count_soon_after_the_last_sample_is_left_out(lag_h: float, readings: int) -> None:
    count = seen(known(), 1160, timedelta(hours=LEAST_GAP_H))
    assert len(judge([count], lag_h).readings) == readings


@pytest.mark.parametrize(("views", "readings"), [(1600, 1), (1400, 1), (1380, 0), (1001, 0), (9000, 1)])
def test_a_count_much_later_than_the_velocity_foretells_is_left_out(views: int, readings: int) -> None:
    """An old copy must not look like a video that stops and then jumps."""
    assert len(judge([seen(known(), views)], 0.0).readings) == readings


def test_a_count_in_doubt_is_left_to_the_api() -> None:
    assert judge([seen(known(doubted_views=10), 1600)], 0.0).readings == ()


def test_a_video_without_an_earlier_count_is_left_to_the_api() -> None:
    assert judge([seen(target(last_at=None, last_views=None), 1600)], 0.0).readings == ()


def test_a_video_without_velocity_is_taken_at_its_word() -> None:
    judged = judge([seen(known(velocity=None), 1001)], 0.0)
    assert (len(judged.readings), judged.lag_h) == (1, None)


def test_lateness_is_estimated_from_fast_videos() -> None:
    """Of a video that gains little, a count doesn't show from when it is."""
    true_lag_h, rng = 12 / 60, np.random.default_rng(1)
    counts = []
    for n in range(300):
        velocity = float(np.exp(rng.normal(4, 2)))
        gained = rng.poisson(velocity * (1.5 - true_lag_h))
        counts.append(seen(known(f"v{n}", velocity=velocity), 1000 + int(gained), 1.5 * HOUR))
    lag_h = judge(counts, 0.1).lag_h
    assert lag_h == pytest.approx(true_lag_h, abs=0.03)


def test_nothing_seen_is_nothing_judged() -> None:
    judged = judge([], 0.0)
    assert (judged.readings, judged.lag_h) == ((), None)
