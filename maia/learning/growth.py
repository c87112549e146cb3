"""Which videos grow: the threshold, the label once the first 24 hours are over, and an estimate before that.

A video is growing if it is in the top `share` of the videos met, by views an hour over the first 24 h. A
count at an earlier or later age is projected to 24 h by the typical curve: the rate of views falls as (1 +
age/scale)^−decay. `CurveEvidence` corrects that curve, and its error, by videos with known outcomes; it is a
table of sums, so evidence merges by addition. All columns have one element per video.

When a video gets its label depends on the ages of its counts, never on the counts themselves: else the fast
ones would be labelled first, and would be too many of those that make the threshold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from maia.learning.velocity import ColumnLike, Floats, Integers, column

HORIZON_H: Final = 24.0
_EDGES_H: Final = (0.25, 0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 9.0, 12.0, 18.0, 24.0, 36.0, 48.0)
_LOGISTIC_PER_NORMAL: Final = 1.702
"""The logistic function of 1.702 z is within .01 of the normal distribution at z."""


@dataclass(frozen=True, slots=True)
class GrowthSettings:
    """What counts as growing, and the typical curve before any video is known."""

    share: float = 0.1
    least_videos: int = 200
    """Fewer videos than this don't make a threshold; until then it is `first_threshold`."""
    first_threshold: float = 100.0
    """Views an hour."""
    scale_h: float = 6.0
    decay: float = 0.8
    spread: float = 0.45
    """Standard deviation of the log projection for each factor e between an age and 24 h."""
    least_spread: float = 0.05
    prior_weight: float = 20.0
    """How many videos the typical curve is worth beside `CurveEvidence`."""
    earliest_h: float = 18.0
    """A last count at an earlier age than this doesn't tell what the views were at 24 h."""
    latest_h: float = 72.0
    """Nor does a first count at a later age than this."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or not 0 < self.decay < 2 or self.decay == 1:
            raise ValueError("share must be between 0 and 1, and decay between 0 and 2 but not 1")
        if min(self.scale_h, self.spread, self.least_spread, self.prior_weight, self.first_threshold) <= 0:
            raise ValueError("scale_h, the spreads, prior_weight and first_threshold must be positive")
        if self.least_videos < 1 or not 0 < self.earliest_h <= HORIZON_H < self.latest_h:
            raise ValueError("least_videos must be at least 1, and 24 between earliest_h and latest_h")


DEFAULTS: Final = GrowthSettings()


def threshold(views_per_hour: ColumnLike, settings: GrowthSettings = DEFAULTS) -> float:
    """The views an hour over the first 24 h from which a video is growing, given those of the videos met."""
    known = column(views_per_hour)
    known = known[~np.isnan(known)]
    if len(known) < settings.least_videos:
        return settings.first_threshold
    return max(float(np.quantile(known, 1 - settings.share)), 1 / HORIZON_H)


@dataclass(frozen=True, slots=True)
class CurveEvidence:
    """By class of age: the number of videos, and the sum and sum of squares of log(views at 24 h / views)."""

    videos: Floats
    total: Floats
    squares: Floats

    @classmethod
    def none(cls) -> CurveEvidence:
        return cls(*(np.zeros(len(_EDGES_H) + 1) for _ in range(3)))

    def __add__(self, other: CurveEvidence) -> CurveEvidence:
        return CurveEvidence(
            self.videos + other.videos, self.total + other.total, self.squares + other.squares
        )


def curve_evidence(
    age_h: ColumnLike, views: ColumnLike, views_at_24h: ColumnLike, settings: GrowthSettings = DEFAULTS
) -> CurveEvidence:
    """What videos with known views at 24 h tell about the typical curve, beyond what is assumed of it."""
    age, count, final = column(age_h), column(views), column(views_at_24h)
    with np.errstate(invalid="ignore"):
        known = (age > 0) & (count >= 0) & (final >= 0)
    residual = np.log1p(final[known]) - np.log1p(count[known]) - _assumed(age[known], settings)
    classes = _class_of(age[known])
    sums = (np.bincount(classes, weights, len(_EDGES_H) + 1) for weights in (None, residual, residual**2))
    return CurveEvidence(*(np.asarray(values, dtype=np.float64) for values in sums))


def _class_of(age_h: Floats) -> Integers:
    classes: Integers = np.searchsorted(_EDGES_H, age_h, side="right").astype(np.int64)
    return classes


def _assumed(age_h: Floats, settings: GrowthSettings) -> Floats:
    """Log of views at 24 h over views at each age, by the typical curve."""
    ratio: Floats = np.log(_gained(HORIZON_H, settings) / _gained(age_h, settings))
    return ratio


def _gained(age_h: ColumnLike, settings: GrowthSettings) -> Floats:
    """Views up to each age by the typical curve, in any unit."""
    power = 1 - settings.decay
    total: Floats = ((1 + np.maximum(column(age_h), 1 / 60) / settings.scale_h) ** power - 1) / power
    return total


def projection(
    age_h: ColumnLike,
    evidence: CurveEvidence | None = None,
    settings: GrowthSettings = DEFAULTS,
) -> tuple[Floats, Floats]:
    """Mean and standard deviation of log(views at 24 h / views at each age)."""
    age = column(age_h)
    assumed = _assumed(age, settings)
    apart = np.abs(np.log(HORIZON_H / np.maximum(age, 1 / 60)))
    spread = np.maximum(settings.spread * np.sqrt(apart), settings.least_spread)
    if evidence is None:
        return assumed, spread
    classes, weight = _class_of(age), settings.prior_weight
    videos = evidence.videos[classes] + weight
    mean = evidence.total[classes] / videos
    variance = (evidence.squares[classes] + weight * spread**2) / videos - mean**2
    return assumed + mean, np.maximum(np.sqrt(np.maximum(variance, 0.0)), settings.least_spread)


def estimated_log_views(
    age_h: ColumnLike,
    views: ColumnLike,
    evidence: CurveEvidence | None = None,
    settings: GrowthSettings = DEFAULTS,
) -> tuple[Floats, Floats]:
    """Mean and standard deviation of log(1 + views at 24 h), from one count at each age; NaN if hidden."""
    mean, spread = projection(age_h, evidence, settings)
    count = column(views)
    # A count of n views has a relative error of 1/√n; half a view keeps zero finite.
    noise = 1 / np.sqrt(np.maximum(count, 0.0) + 0.5)
    return np.log(np.maximum(count, 0.0) + 0.5) + mean, np.sqrt(spread**2 + noise**2)


def above(mean: Floats, spread: Floats, views_per_hour: float) -> Floats:
    """The probability that log views at 24 h exceed those of `views_per_hour`; NaN if unknown."""
    z = (mean - np.log1p(views_per_hour * HORIZON_H)) / spread
    probability: Floats = 1 / (1 + np.exp(-np.clip(_LOGISTIC_PER_NORMAL * z, -700, 700)))
    return probability


def looks_growing(
    age_h: ColumnLike,
    views: ColumnLike,
    views_per_hour: float,
    evidence: CurveEvidence | None = None,
    settings: GrowthSettings = DEFAULTS,
) -> Floats:
    """The probability that each video grows, from one count; `views_per_hour` is the threshold."""
    return above(*estimated_log_views(age_h, views, evidence, settings), views_per_hour)


def views_at_horizon(
    before_age_h: ColumnLike,
    before_views: ColumnLike,
    after_age_h: ColumnLike,
    after_views: ColumnLike,
    settings: GrowthSettings = DEFAULTS,
) -> Floats:
    """Views at 24 h, once that age is over: between the last count up to it and the first from it on.

    There the typical curve tells what part of the views between the counts came before 24 h.
    With only one of these counts, that one is projected to 24 h, if its age is at least `earliest_h` and at
    most `latest_h`. Otherwise the views at 24 h are not known yet: NaN.
    """
    age0, views0 = np.nan_to_num(column(before_age_h)), np.nan_to_num(column(before_views))
    age1, views1 = column(after_age_h), column(after_views)
    has_before = ~np.isnan(column(before_age_h)) & ~np.isnan(column(before_views)) & (age0 > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        gained0, gained1 = _gained(age0, settings), _gained(age1, settings)
        part = (_gained(HORIZON_H, settings) - gained0) / np.maximum(gained1 - gained0, 1e-9)
        part = np.clip(part, 0.0, 1.0)
        between = views0 + part * np.maximum(views1 - views0, 0.0)
        ahead = views0 * np.exp(_assumed(age0, settings))
        back = views1 * np.exp(_assumed(np.nan_to_num(age1, nan=HORIZON_H), settings))
        has_after = (age1 >= HORIZON_H) & ~np.isnan(views1)
    by_before = np.where(has_before & (age0 >= settings.earliest_h), ahead, np.nan)
    by_after = np.where(has_after & (age1 <= settings.latest_h), back, np.nan)
    at: Floats = np.where(has_after, np.where(has_before, between, by_after), by_before)
    return at


def labels(views_at_24h: ColumnLike, views_per_hour: float) -> list[bool | None]:
    """Whether each video grows, `views_per_hour` being the threshold; None while its views are unknown.

    A count before 24 h that exceeds the threshold already does not do: none could label a slow video.
    """
    final, needed = column(views_at_24h), views_per_hour * HORIZON_H
    return [None if np.isnan(views) else bool(views >= needed) for views in final]


def merged(parts: Iterable[CurveEvidence]) -> CurveEvidence:
    """Add up evidence, which gives the same in any order (up to rounding)."""
    total = CurveEvidence.none()
    for part in parts:
        total = total + part
    return total
