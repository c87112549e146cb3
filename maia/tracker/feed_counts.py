"""Turns views that channels' feeds showed into readings, as far as they can be trusted.

A feed is a copy that may be minutes old, and now and then hours: its counts are those of an earlier instant,
which it doesn't tell. How late feeds have been lately is estimated from videos whose velocity is known, and a
count is dated back by that much. It is left out where it tells nothing, or might make up a velocity:

- it is what the last sample said, or less: the copy may be from before that sample;
- it is too soon after the last sample, given that the time between them is uncertain;
- by the video's own velocity it is much later than usual: it is an old copy, or the video has slowed down,
  and only a sample can tell which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import numpy as np

from atlas.adapters.tracking import FeedCount, Target
from maia.learning.velocity import Booleans, Floats, column
from maia.tracker.measuring import Counts, Reading

Seen = tuple[Target, FeedCount]

LEAST_GAP_H: Final = 0.25
"""Counts of feeds that are closer to the last sample than this tell no velocity."""

_LEAST_VIEWS: Final = 20.0
"""A video that is expected to gain fewer views since its last sample doesn't show how late its feed is."""

_TOLERANCE: Final = 0.35
"""How late a count may be, as a part of the time since the last sample; videos do slow down."""

_LONGEST_LAG_H: Final = 2.0
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Judged:
    """The readings to measure, and how late the feeds were, in hours; None if nothing shows it."""

    readings: tuple[Reading, ...]
    lag_h: float | None


def judge(seen: Sequence[Seen], usual_lag_h: float) -> Judged:
    """Choose the counts that can be trusted, and date them back by how late feeds usually are."""
    if not seen:
        return Judged((), None)
    gap_h = column([_gap_h(target, count) for target, count in seen])
    lag_h = lags_h(seen, gap_h)
    views = np.array([count.views for _, count in seen], dtype=np.float64)
    last = column([target.last_views for target, _ in seen])
    dated_h = gap_h - usual_lag_h
    late_h = np.nan_to_num(lag_h) - usual_lag_h
    # A video without an earlier count has nothing to be compared with; neither has one in doubt.
    unsure = np.array([target.doubted_views is not None for target, _ in seen])
    trusted: Booleans = (
        ~unsure & (views > last) & (dated_h >= LEAST_GAP_H) & (late_h <= np.maximum(_TOLERANCE * gap_h, 0.0))
    )
    lag = timedelta(hours=usual_lag_h)
    readings = tuple(
        Reading(target, count.at - lag, Counts(count.views, None, None), source="feed")
        for (target, count), ok in zip(seen, trusted.tolist(), strict=True)
        if ok
    )
    known = lag_h[~np.isnan(lag_h)]
    return Judged(readings, float(np.median(np.clip(known, 0.0, _LONGEST_LAG_H))) if len(known) else None)


def lags_h(seen: Sequence[Seen], gap_h: Floats) -> Floats:
    """By how many hours each count is behind what its video's velocity foretells; NaN if unknown.

    Only a count that follows one of the API shows it: two counts of feeds are equally late.
    """
    velocity = column([target.velocity for target, _ in seen])
    gained = np.array([count.views for _, count in seen], dtype=np.float64) - column(
        [target.last_views for target, _ in seen]
    )
    from_api = np.array([target.last_source is None for target, _ in seen], dtype=bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        lag = gap_h - gained / velocity
        tells = from_api & (velocity * gap_h >= _LEAST_VIEWS) & (gained > 0)
    late: Floats = np.where(tells, lag, np.nan)
    return late


def _gap_h(target: Target, count: FeedCount) -> float | None:
    return None if target.last_at is None else (count.at - target.last_at) / _HOUR
