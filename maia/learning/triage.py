"""Which found videos deserve hourly samples: the chance that each grows, and who stays hot under a budget.

A video's first counts, projected to 24 h by the typical curve (`maia.learning.growth`), and what its
channel's videos usually get, are both normal in the logarithm of views at 24 h; their precision-weighted mean
gives the probability that it exceeds the threshold. A second count adds what the views since the first
foretell. The videos most likely to grow stay hot, as many as the budget pays for; the others leave the hot
zone early, and come back when a later sample shows that they have turned. Columns have one element per video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from maia.learning.growth import DEFAULTS as GROWTH
from maia.learning.growth import CurveEvidence, GrowthSettings, above, estimated_log_views, projection
from maia.learning.velocity import Booleans, ColumnLike, Floats, column


@dataclass(frozen=True, slots=True)
class TriageSettings:
    """When a video leaves the hot zone early, and when it comes back."""

    leave: float = 0.05
    """A video less likely than this to grow leaves even if the budget would pay for it."""
    back: float = 0.35
    """A video at least this likely to grow comes back, if the budget pays for it."""
    least_age_h: float = 0.5
    """No video leaves before this age: its counts tell too little."""
    channel_spread: float = 1.0
    """Standard deviation of the log views of one channel's videos, where its own is not known."""
    channel_error: float = 0.7
    """Standard deviation that a channel's norm has as an estimate, over the root of its number of videos."""
    hot_share: float = 0.6
    """The part of the day's samples that hot videos may use."""

    def __post_init__(self) -> None:
        if not 0 <= self.leave < self.back <= 1:
            raise ValueError("leave must be below back, and both within 0 and 1")
        if min(self.channel_spread, self.channel_error) <= 0 or self.least_age_h < 0:
            raise ValueError("the channel's spread and error must be positive, least_age_h at least 0")
        if not 0 < self.hot_share <= 1:
            raise ValueError(f"hot_share must be above 0 and at most 1, not {self.hot_share}")


DEFAULTS: Final = TriageSettings()


@dataclass(frozen=True, slots=True)
class ChannelNorms:
    """What a channel's videos usually get: mean and deviation of log(1 + views at 24 h), and of how many
    videos.
    """

    mean: Floats
    spread: Floats
    videos: Floats

    @classmethod
    def of(cls, mean: ColumnLike, spread: ColumnLike, videos: ColumnLike) -> ChannelNorms:
        return cls(column(mean), column(spread), np.nan_to_num(column(videos)))


def grows(
    age_h: ColumnLike,
    views: ColumnLike,
    views_per_hour: float,
    *,
    first_age_h: ColumnLike | None = None,
    first_views: ColumnLike | None = None,
    norms: ChannelNorms | None = None,
    curve: CurveEvidence | None = None,
    growth: GrowthSettings = GROWTH,
    settings: TriageSettings = DEFAULTS,
) -> Floats:
    """The probability that each video grows, by its latest count and, if given, its first and its channel's
    norm.

    `views_per_hour` is the threshold of growing. A video of which nothing is known has the share of growing
    ones.
    """
    mean, spread = estimated_log_views(age_h, views, curve, growth)
    if first_age_h is not None and first_views is not None:
        mean, spread = _with_trend(mean, spread, age_h, views, first_age_h, first_views, growth)
    if norms is not None:
        mean, spread = _with_norms(mean, spread, norms, settings)
    chance = above(mean, spread, views_per_hour)
    known: Floats = np.where(np.isnan(chance), growth.share, chance)
    return known


def _with_trend(
    mean: Floats,
    spread: Floats,
    age_h: ColumnLike,
    views: ColumnLike,
    first_age_h: ColumnLike,
    first_views: ColumnLike,
    growth: GrowthSettings,
) -> tuple[Floats, Floats]:
    """Add what the views gained between two counts foretell: the rest of the day at the curve's decaying
    rate.
    """
    age, count = column(age_h), column(views)
    before, earlier = column(first_age_h), column(first_views)
    with np.errstate(invalid="ignore", divide="ignore"):
        usable = (age - before >= 0.25) & (count >= earlier)
        # By the curve, the part of the views at 24 h that comes between the two ages, and the part after.
        part = np.exp(-projection(age, None, growth)[0]) - np.exp(-projection(before, None, growth)[0])
        rest = np.maximum(1 - np.exp(-projection(age, None, growth)[0]), 0.0)
        gained = np.maximum(count - earlier, 0.0) + 0.5
        total = np.log1p(count + gained * rest / np.maximum(part, 1e-6))
        error = np.sqrt(1 / gained + spread**2)
    return _combine(mean, spread, np.where(usable, total, np.nan), error)


def _with_norms(
    mean: Floats, spread: Floats, norms: ChannelNorms, settings: TriageSettings
) -> tuple[Floats, Floats]:
    own = np.where(np.isnan(norms.spread) | (norms.videos < 3), settings.channel_spread, norms.spread)
    error = np.sqrt(own**2 + settings.channel_error**2 / np.maximum(norms.videos, 1e-9))
    usual = np.where(norms.videos > 0, norms.mean, np.nan)
    return _combine(mean, spread, usual, error)


def _combine(mean: Floats, spread: Floats, other: Floats, error: Floats) -> tuple[Floats, Floats]:
    """The precision-weighted mean of two estimates, either of which may be NaN."""
    first, second = 1 / spread**2, 1 / np.maximum(error, 0.05) ** 2
    both = (mean * first + other * second) / (first + second)
    only = np.where(np.isnan(mean), other, mean)
    missing = np.isnan(mean) | np.isnan(other)
    narrow = np.where(np.isnan(mean), error, spread)
    return np.where(missing, only, both), np.where(missing, narrow, np.sqrt(1 / (first + second)))


def hot_budget(
    samples_a_day: float, *, hot_interval_h: float = 1.0, settings: TriageSettings = DEFAULTS
) -> int:
    """How many videos can be hot at once, given the samples that the quota pays for in a day."""
    if samples_a_day < 0 or hot_interval_h <= 0:
        raise ValueError("samples_a_day must not be negative, and hot_interval_h positive")
    return int(samples_a_day * settings.hot_share * hot_interval_h / 24)


def stays_hot(
    chance: ColumnLike,
    age_h: ColumnLike,
    budget: int,
    *,
    is_hot: Booleans | Sequence[bool] | None = None,
    pinned: Booleans | Sequence[bool] | None = None,
    settings: TriageSettings = DEFAULTS,
) -> Booleans:
    """Which videos are hot from now on: at most `budget` and the pinned ones, those most likely to grow
    first.

    A video that has left (`is_hot` false) needs `back` to return, one that is hot only `leave` to stay, so
    that videos near the limit don't go back and forth. Ties go to the younger video.
    """
    probability, age = np.nan_to_num(column(chance)), column(age_h)
    hot = np.ones(len(age), dtype=bool) if is_hot is None else np.asarray(is_hot, dtype=bool)
    always = np.zeros(len(age), dtype=bool) if pinned is None else np.asarray(pinned, dtype=bool)
    too_young = age < settings.least_age_h
    wants = ~always & np.where(hot, (probability >= settings.leave) | too_young, probability >= settings.back)
    candidates = np.flatnonzero(wants)
    # Too young to tell ranks as a video about to leave: behind those that look like growing.
    rank = np.where(too_young, np.maximum(probability, settings.leave), probability)[candidates]
    best = candidates[np.lexsort((age[candidates], -rank))][: max(0, budget - int(always.sum()))]
    stays: Booleans = always.copy()
    stays[best] = True
    return stays
