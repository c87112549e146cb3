"""Forecasts of a video's views 24 hours and 7 days ahead, learnt online from what has come so far.

A forecast starts from the typical curve of `maia.learning.growth`: what a video of this age would gain if its
velocity faded as is typical, or, without a velocity, if its views so far were typical. What is learnt is how
far log(1 + views gained) is from that, as a linear function of a few features (`_features`) and their
squares and products. There is one regression for each age class and for videos with and without a velocity.
Each is shrunk towards one for all ages, and that one towards the typical curve, so an age class with few
videos borrows from the others. The regression weighs errors by their inverse size (iteratively reweighted
least squares, Holland and Welsch, 1977), which makes it one of medians. It keeps only sums, and old sums
fade.

A second regression learns how large errors are. Errors divided by that are counted in histograms for each
age class, whose quantiles make the median and the interval (conformal prediction with normalised errors;
Papadopoulos, Gammerman and Vovk, 2008). How far out the interval's ends are is adapted for each age class,
so that the share of intervals that held is 80 % in the long run, whatever the errors' distribution
(adaptive conformal inference; Gibbs and Candès, 2021).

Because the views gained are never forecast to be negative, forecasts are never below the present views.
All columns have one element per video.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Self

import msgpack
import numpy as np
import zstandard

from maia.learning.growth import DEFAULTS as TYPICAL
from maia.learning.growth import GrowthSettings, projection
from maia.learning.velocity import (
    AGE_CLASS_EDGES_H,
    Booleans,
    ColumnLike,
    Floats,
    Integers,
    Tracks,
    advance,
    age_class,
    column,

)

HORIZONS_H: Final = (24.0, 168.0)
COVERAGE: Final = 0.8
"""The share of the intervals that should hold."""
TOP_SHARE: Final = 0.05
CLASSES: Final = len(AGE_CLASS_EDGES_H) + 1
_VERSION: Final = 1
_HOUR_S: Final = 3600.0
_SQUARED: Final = 5
"""How many of the features also enter with their squares and products."""
_LINEAR: Final = 13
_FEATURES: Final = 1 + _LINEAR + _SQUARED * (_SQUARED + 1) // 2
_SPREAD_FEATURES: Final = 10
_ERROR_EDGES: Final = np.sinh(np.linspace(-4.5, 4.5, 181)) / 4
"""Where the bins of normalised errors end; fine near 0, wide in the tails."""
_GAIN_EDGES: Final = np.linspace(0.0, 24.0, 481)
"""Where the bins of log(1 + views gained) end."""
_LEAST_COHORT: Final = 20


@dataclass(frozen=True, slots=True)
class ForecastSettings:
    """How fast to learn and to forget."""

    half_life_videos: float = 20_000.0
    """After how many more outcomes of the same age class an outcome counts half in the regressions."""
    errors_half_life_videos: float = 3_000.0
    """The same for the distributions of errors and of views gained."""
    spread_half_life: float = 20_000.0
    shrinkage: float = 3.0
    """How strongly an age class's regression is held at that of all ages, in videos per feature."""
    prior_shrinkage: float = 3.0
    """How strongly that one is held at the typical curve."""
    prior_spread: float = 1.2
    """The size of errors before anything is learnt, on the log scale."""
    prior_errors: float = 20.0
    """How many outcomes the prior distribution of errors is worth."""
    interval_step: float = 0.005
    """How fast the interval's ends follow whether the last ones held."""

    def __post_init__(self) -> None:
        if min(getattr(self, field.name) for field in fields(self)) <= 0:
            raise ValueError("forecast settings must be positive")


DEFAULTS: Final = ForecastSettings()


@dataclass(frozen=True, slots=True)
class Snapshots:
    """What is known of each video at its last sample; NaN where unknown.

    `velocity`, `acceleration` and `weight` are those of `velocity.Tracks`. `hour_of_week` counts from Monday
    0:00 UTC. `usual_velocity` is what the channel's videos usually have at this age (views an hour).
    """

    age_h: Floats
    views: Floats
    velocity: Floats
    acceleration: Floats
    weight: Floats
    hour_of_week: Floats
    short: Floats
    usual_velocity: Floats

    @classmethod
    def of(
        cls,
        age_h: ColumnLike,
        views: ColumnLike,
        velocity: ColumnLike | None = None,
        acceleration: ColumnLike | None = None,
        weight: ColumnLike | None = None,
        hour_of_week: ColumnLike | None = None,
        short: ColumnLike | None = None,
        usual_velocity: ColumnLike | None = None,
    ) -> Self:
        """From columns with None for NULL; a column that is None is unknown for every video.

        Raises ValueError for columns of unequal length, infinite values, or negative views.
        """
        given = age_h, views, velocity, acceleration, weight, hour_of_week, short, usual_velocity
        age = column(age_h)
        columns = [np.full(len(age), np.nan) if values is None else column(values) for values in given]
        for field, values in zip(fields(cls), columns, strict=True):
            if values.shape != age.shape or np.isinf(values).any():
                raise ValueError(f"{field.name} needs {len(age)} finite or unknown values")
        if (columns[1] < 0).any():
            raise ValueError("views are never negative; a hidden count is None")
        return cls(*columns)

    def __len__(self) -> int:
        return len(self.age_h)

    def __getitem__(self, rows: Integers | Booleans) -> Snapshots:
        return Snapshots(*(getattr(self, field.name)[rows] for field in fields(self)))


def snapshots_of_tracks(
    tracks: Tracks,
    grows_from_s: ColumnLike,
    short: ColumnLike | None = None,
    usual_velocity: ColumnLike | None = None,
) -> Snapshots:
    """From what is kept of each video, and when it was published or went live, in seconds since 1970."""
    age = np.maximum((tracks.at_s - column(grows_from_s)) / _HOUR_S, 0.0)
    # 1970 began on a Thursday.
    hour_of_week = (tracks.at_s / _HOUR_S + 72) % 168
    return Snapshots.of(
        age, tracks.views, tracks.velocity, tracks.acceleration, tracks.weight, hour_of_week,
        short, usual_velocity,
    )  # fmt: skip


def snapshot_of_samples(at_s: ColumnLike, views: ColumnLike, grows_from_s: float) -> Snapshots:
    """A single video's, from its samples so far, in order; hidden and implausible counts don't matter."""
    tracks = Tracks.new(1)
    for instant, count in zip(column(at_s), column(views), strict=True):
        tracks = advance(tracks, [instant], [count]).tracks
    return snapshots_of_tracks(tracks, [grows_from_s])


def views_later(
    age_h: ColumnLike,
    before_age_h: ColumnLike,
    before_views: ColumnLike,
    after_age_h: ColumnLike,
    after_views: ColumnLike,
    widest_h: float,
) -> Floats:
    """Views at an age, from the last count before and the first after it; NaN if they are too far apart.

    Between them, views grow in proportion to the typical curve. A count within a fiftieth of `widest_h`
    does without the other.
    """
    age, age0, age1 = column(age_h), column(before_age_h), column(after_age_h)
    views0, views1 = column(before_views), column(after_views)
    gained = _typical_gain(age0, np.maximum(age - age0, 0.0))
    total = _typical_gain(age0, np.maximum(age1 - age0, 1e-9))
    between = views0 + (views1 - views0) * np.clip(gained / total, 0.0, 1.0)
    near_h = widest_h / 50
    alone = np.where(age - age0 <= near_h, views0, np.where(age1 - age <= near_h, views1, np.nan))
    known: Floats = np.where((age1 - age0 <= widest_h) & np.isfinite(between), between, alone)
    return known


@dataclass(frozen=True, slots=True)
class Forecasts:
    """Views at the horizon: median and the ends of the 80 % interval; NaN if the present views are unknown.

    `top_chance` is the probability that the video gains as many views by then as the top 5 % of the videos of
    its age class do; NaN while too few outcomes of that class are known.
    """

    median: Floats
    low: Floats
    high: Floats
    spread: Floats
    top_chance: Floats


def _typical_gain(age_h: Floats, hours: Floats | float, settings: GrowthSettings = TYPICAL) -> Floats:
    """Views gained in the next `hours` by the typical curve, over the velocity at `age_h`."""
    power, base = 1 - settings.decay, 1 + np.maximum(age_h, 0.0) / settings.scale_h
    ahead: Floats = settings.scale_h * base * (np.power(1 + hours / settings.scale_h / base, power) - 1) / power
    return ahead


def _starting_points(snapshots: Snapshots, horizon_h: float) -> tuple[Floats, Floats]:
    """Log(1 + views gained) by the typical curve, from the views so far, and from the velocity if known."""
    age = np.maximum(snapshots.age_h, 1 / 6)
    by_views = np.expm1(projection(age)[0] - projection(age + horizon_h)[0]) * snapshots.views
    by_velocity = np.maximum(snapshots.velocity, 0.0) * _typical_gain(age, horizon_h)
    from_views = np.log1p(by_views)
    return from_views, np.where(np.isnan(by_velocity), from_views, np.log1p(by_velocity))


def _features(snapshots: Snapshots, from_views: Floats, from_velocity: Floats) -> tuple[Floats, Floats]:
    """The features of the regression of views gained, and of that of the size of errors; all about 1."""
    views, age = np.log1p(snapshots.views), np.log1p(snapshots.age_h)
    start, shape = from_velocity, np.clip(from_velocity - from_views, -5.0, 5.0)
    rate = snapshots.acceleration / (np.abs(snapshots.velocity) + 1.0)
    growth = np.nan_to_num(np.arcsinh(12 * rate))
    few, weight = np.exp(-start), np.nan_to_num(snapshots.weight)
    week = 2 * np.pi * snapshots.hour_of_week / 168
    tide = [np.nan_to_num(wave(times * week)) for times in (1, 7) for wave in (np.sin, np.cos)]
    usual = np.log1p(snapshots.usual_velocity) - np.log1p(np.expm1(start) / 24)
    unusual = np.nan_to_num(np.clip(usual, -4.0, 4.0)) / 2
    squared = [(start - 8) / 3, (age - 4) / 2, (views - 11) / 3, shape, growth]
    linear = [few, weight, *tide, np.nan_to_num(snapshots.short), unusual]
    products = [squared[i] * squared[j] for i in range(_SQUARED) for j in range(i, _SQUARED)]
    ones = np.ones(len(snapshots))
    spread = [ones, *squared, np.abs(shape), np.abs(growth), few, np.sqrt(few)]
    return np.stack([ones, *squared, *linear, *products], axis=1), np.stack(spread, axis=1)


@dataclass(slots=True)
class _Learnt:
    """What was learnt for one horizon. The first index is whether the velocity was known, then the class."""

    products: Floats
    targets: Floats
    spread_products: Floats
    spread_targets: Floats
    errors: Floats
    missing: Floats
    """The share of the error histogram to leave out, in order to miss the right share."""
    gains: Floats
    seen: Floats

    @classmethod
    def nothing(cls) -> Self:
        groups = (2, CLASSES)
        return cls(
            np.zeros((*groups, _FEATURES, _FEATURES)),
            np.zeros((*groups, _FEATURES)),
            np.zeros((*groups, _SPREAD_FEATURES, _SPREAD_FEATURES)),
            np.zeros((*groups, _SPREAD_FEATURES)),
            np.zeros((*groups, len(_ERROR_EDGES) + 1)),
            np.full(groups, 1 - COVERAGE),
            np.zeros((CLASSES, len(_GAIN_EDGES) + 1)),
            np.zeros(groups),
        )


def _shrunk(products: Floats, targets: Floats, own: float, common: float) -> Floats:
    """Ridge regressions of each age class, shrunk towards that of all classes, and that towards zero."""
    penalty = np.eye(products.shape[-1])
    shared = np.linalg.solve(
        products.sum(axis=1) + common * penalty, targets.sum(axis=1)[..., None]
    )
    each: Floats = np.linalg.solve(products + own * penalty, targets[..., None] + own * shared[:, None])
    return each[..., 0]


@dataclass(frozen=True, slots=True)
class _Expected:
    """Where each video's group is, and the centre and size of the errors of log(1 + views gained)."""

    known: Integers
    ages: Integers
    centre: Floats
    size: Floats
    features: Floats
    spread_features: Floats
    start: Floats


class Forecaster:
    """Learns from outcomes, and forecasts views at each of `HORIZONS_H`; its state has a fixed size."""

    def __init__(self, settings: ForecastSettings = DEFAULTS) -> None:
        self.settings = settings
        self._learnt = {horizon_h: _Learnt.nothing() for horizon_h in HORIZONS_H}
        self._solved: dict[float, tuple[Floats, Floats]] = {}

    def seen(self, horizon_h: float = HORIZONS_H[0]) -> Floats:
        """How many outcomes were learnt from, by age class."""
        return self._learnt[horizon_h].seen.sum(axis=0)

    def forecast(self, snapshots: Snapshots, horizon_h: float = HORIZONS_H[0]) -> Forecasts:
        """Forecast each video's views `horizon_h` after its last sample."""
        usable = np.isfinite(snapshots.views) & np.isfinite(snapshots.age_h)
        if not usable.all():
            part = self.forecast(snapshots[usable], horizon_h)
            return Forecasts(*(_scatter(getattr(part, field.name), usable) for field in fields(Forecasts)))
        expected, learnt = self._expect(snapshots, horizon_h), self._learnt[horizon_h]
        shares = self._error_shares(learnt)
        low, high = (ends[expected.known, expected.ages] for ends in _interval(shares, learnt.missing))
        median, low, high = (
            snapshots.views + np.expm1(np.clip(expected.centre + expected.size * z, 0.0, 40.0))
            for z in (MED*self._med(learnt)[expected.known,expected.ages], np.minimum(low, 0.0), np.maximum(high, 0.0))
        )
        return Forecasts(median, low, high, expected.size, self._top_chance(expected, learnt, shares))

    def _med(self, learnt):
        return _quantiles(self._error_shares(learnt), np.full((2,CLASSES),.5))

    def learn(self, snapshots: Snapshots, later_views: ColumnLike, horizon_h: float = HORIZONS_H[0], issued=None) -> None:
        """Learn from videos whose views `horizon_h` after the snapshot are known now; NaN are ignored."""
        later = column(later_views)
        usable = np.isfinite(snapshots.views) & np.isfinite(snapshots.age_h) & np.isfinite(later)
        if not usable.any():
            return
        snapshots, later = snapshots[usable], later[usable]
        issued = self.forecast(snapshots, horizon_h) if issued is None else Forecasts(*(getattr(issued,f.name)[usable] for f in fields(Forecasts)))
        self._judge(snapshots, later, issued, horizon_h)
        for first in range(0, len(later), CHUNK):
            rows = np.arange(first, min(first + CHUNK, len(later)))
            self._learn(snapshots[rows], later[rows], horizon_h)

    def _learn(self, snapshots: Snapshots, later: Floats, horizon_h: float) -> None:
        expected, learnt = self._expect(snapshots, horizon_h), self._learnt[horizon_h]
        gained = np.log1p(np.maximum(later - snapshots.views, 0.0))
        group = expected.known * CLASSES + expected.ages
        counts = np.bincount(group, minlength=2 * CLASSES).reshape(2, CLASSES).astype(np.float64)
        self._regress(learnt, expected, gained, group, counts)
        self._count(learnt, expected, gained, group, counts)
        learnt.seen += counts
        self._solved.pop(horizon_h, None)

    def _expect(self, snapshots: Snapshots, horizon_h: float) -> _Expected:
        from_views, start = _starting_points(snapshots, horizon_h)
        features, spread_features = _features(snapshots, from_views, start)
        known = np.isfinite(snapshots.velocity).astype(np.int64)
        ages = age_class(snapshots.age_h)
        weights, spreads = self._solve(horizon_h)
        correction = np.einsum("ij,ij->i", features, weights[known, ages])
        log_size = np.einsum("ij,ij->i", spread_features, spreads[known, ages])
        size = self.settings.prior_spread * np.exp(np.clip(log_size, -5.0, 1.5))
        return _Expected(known, ages, start + correction, size, features, spread_features, start)

    def _solve(self, horizon_h: float) -> tuple[Floats, Floats]:
        if horizon_h not in self._solved:
            own, common = self.settings.shrinkage, self.settings.prior_shrinkage
            learnt = self._learnt[horizon_h]
            self._solved[horizon_h] = (
                _shrunk(learnt.products, learnt.targets, own, common),
                _shrunk(learnt.spread_products, learnt.spread_targets, own, common),
            )
        return self._solved[horizon_h]

    def _regress(
        self, learnt: _Learnt, expected: _Expected, gained: Floats, group: Integers, counts: Floats
    ) -> None:
        residual = np.abs(gained - expected.centre)
        weight = 1 / np.maximum(residual / expected.size, LEASTW) / expected.size ** POW
        target = gained - expected.start
        kept = np.exp2(-counts / self.settings.half_life_videos)
        for name in ("products", "targets"):
            sums = getattr(learnt, name)
            sums *= kept.reshape(2, CLASSES, *(1,) * (sums.ndim - 2))
        for number in np.unique(group):
            rows, place = group == number, divmod(int(number), CLASSES)
            chosen = expected.features[rows]
            weighted = chosen * weight[rows, None]
            learnt.products[place] += weighted.T @ chosen
            learnt.targets[place] += weighted.T @ target[rows]

    def _judge(self, snapshots: Snapshots, later: Floats, issued: Forecasts, horizon_h: float) -> None:
        learnt = self._learnt[horizon_h]
        gained = np.log1p(np.maximum(later - snapshots.views, 0.0))
        expected = self._expect(snapshots, horizon_h)
        residual = gained - np.log1p(issued.median - snapshots.views)
        error = residual / expected.size
        known, ages = np.isfinite(snapshots.velocity).astype(np.int64), age_class(snapshots.age_h)
        group = known * CLASSES + ages
        counts = np.bincount(group, minlength=2 * CLASSES).reshape(2, CLASSES)
        low, high = (ends[known, ages] for ends in _interval(self._error_shares(learnt), learnt.missing))
        # Views that fell are below any interval.
        missed = (error < np.minimum(low, 0)) | (error > np.maximum(high, 0)) | (later < snapshots.views)
        misses = np.bincount(group, missed, 2 * CLASSES).reshape(2, CLASSES)
        step = self.settings.interval_step / np.maximum(counts / MAXB, 1.0)
        learnt.missing = np.clip(learnt.missing + step * (counts * (1 - COVERAGE) - misses), 0.01, 0.8)

    def _count(self, learnt, expected, gained, group, counts):
        ages=expected.ages
        residual = gained - expected.centre
        error = residual / expected.size
        kept = np.exp2(-counts / self.settings.errors_half_life_videos)
        bins = len(_ERROR_EDGES) + 1
        place = np.searchsorted(_ERROR_EDGES, error)
        added = np.bincount(group * bins + place, minlength=2 * CLASSES * bins)
        learnt.errors = learnt.errors * kept[..., None] + added.reshape(2, CLASSES, bins)
        kept = np.exp2(-counts.sum(axis=0) / self.settings.errors_half_life_videos)
        kept_=np.exp2(-counts / self.settings.spread_half_life)
        log_size = np.log((np.abs(residual) + 0.02) / self.settings.prior_spread)
        for name in ("spread_products", "spread_targets"):
            sums = getattr(learnt, name)
            sums *= kept_.reshape(2, CLASSES, *(1,) * (sums.ndim - 2))
        for number in np.unique(group):
            rows, place = group == number, divmod(int(number), CLASSES)
            chosen = expected.spread_features[rows]
            learnt.spread_products[place] += chosen.T @ chosen
            learnt.spread_targets[place] += chosen.T @ log_size[rows]
        bins = len(_GAIN_EDGES) + 1
        added = np.bincount(ages * bins + np.searchsorted(_GAIN_EDGES, gained), minlength=CLASSES * bins)
        learnt.gains = learnt.gains * kept[:, None] + added.reshape(CLASSES, bins)

    def _error_shares(self, learnt: _Learnt) -> Floats:
        """The cumulative distribution of normalised errors at the edges, for each group."""
        prior = self.settings.prior_errors
        common = learnt.errors.sum(axis=1, keepdims=True) + prior * _PRIOR_ERRORS
        counts = learnt.errors + prior * common / common.sum(axis=2, keepdims=True)
        shares: Floats = np.cumsum(counts, axis=2)[..., :-1] / counts.sum(axis=2, keepdims=True)
        return shares

    def _top_chance(self, expected: _Expected, learnt: _Learnt, shares: Floats) -> Floats:
        below = np.cumsum(learnt.gains, axis=1)[:, :-1]
        totals = learnt.gains.sum(axis=1)
        least = np.full(CLASSES, np.nan)
        for number in np.flatnonzero(totals >= _LEAST_COHORT):
            least[number] = np.interp((1 - TOP_SHARE) * totals[number], below[number], _GAIN_EDGES)
        z = (least[expected.ages] - expected.centre) / expected.size
        return 1 - _share_below(shares, expected.known, expected.ages, z)


def _share_below(shares: Floats, known: Integers, ages: Integers, z: Floats) -> Floats:
    inside = np.clip(z, _ERROR_EDGES[0], _ERROR_EDGES[-1] - 1e-9)
    place = np.clip(np.searchsorted(_ERROR_EDGES, inside, side="right") - 1, 0, len(_ERROR_EDGES) - 2)
    left, right = shares[known, ages, place], shares[known, ages, place + 1]
    part = (inside - _ERROR_EDGES[place]) / (_ERROR_EDGES[place + 1] - _ERROR_EDGES[place])
    below: Floats = np.where(np.isnan(z), np.nan, left + part * (right - left))
    return below


def _interval(shares: Floats, missing: Floats) -> tuple[Floats, Floats]:
    """The ends of the interval of each group's normalised errors."""
    return _quantiles(shares, missing / 2), _quantiles(shares, 1 - missing / 2)


def _quantiles(shares: Floats, levels: Floats) -> Floats:
    found = np.empty(levels.shape)
    for place in np.ndindex(levels.shape):
        found[place] = np.interp(levels[place], shares[place], _ERROR_EDGES)
    return found


def _scatter(values: Floats, usable: Booleans) -> Floats:
    whole = np.full(len(usable), np.nan)
    whole[usable] = values
    return whole


def _prior_errors() -> Floats:
    below = 1 / (1 + np.exp(-1.702 * _ERROR_EDGES))
    return np.diff(below, prepend=0.0, append=1.0)


_PRIOR_ERRORS: Final = _prior_errors()
import os
LEASTW=float(os.environ.get('LEASTW','1')); POW=float(os.environ.get('POW','1')); MAXB=float(os.environ.get("MAXB","100"))

CHUNK=256

MED=1.
