"""Forecasts of a video's views 24 hours and 7 days ahead, learnt online from what has come so far.

A forecast starts from the typical curve of `maia.learning.growth`: what a video of this age gains if its
velocity fades as is typical or, without a velocity, if its views so far are typical. What is learnt is how
far log(1 + views gained) is from that. The first answer is a constant for each age class. The second is a
linear function of a few features (`_features`) and their squares and products, with one regression for each
age class, shrunk towards one for all ages, and that towards zero, so a class with few videos borrows from the
others. The two are mixed in the proportion that would have been best for the class so far. Large errors
weigh less (Huber's weights, by iteratively reweighted least squares; Holland and Welsch, 1977). Videos with
one sample, with two, and with more are kept apart throughout. Only sums are kept, and old sums fade.

Another regression learns how large errors are. Errors divided by that are counted in a histogram for each age
class, whose quantiles give the median and the interval (conformal prediction with normalised errors;
Papadopoulos, Gammerman and Vovk, 2008). How much of the histogram the interval leaves out follows whether
the intervals held, so that in the long run 80 % of them do in each age class, whatever the distribution
(adaptive conformal inference; Gibbs and Candès, 2021). They are judged by the forecasts as issued, too:
errors of one day are alike, for example at a weekend, and what has learnt from half of them looks too good.

Views gained are never forecast to be negative, so forecasts are never below the present views. All columns
have one element per video.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final, Self

import numpy as np

from maia.learning.growth import DEFAULTS as TYPICAL
from maia.learning.growth import projection
from maia.learning.states import StateError, pack, unpack
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

DAY_H: Final = 24.0
WEEK_H: Final = 168.0
HORIZONS_H: Final = (DAY_H, WEEK_H)
COVERAGE: Final = 0.8
"""The share of the intervals that should hold."""
TOP_SHARE: Final = 0.05
CLASSES: Final = len(AGE_CLASS_EDGES_H) + 1
_GROUPS: Final = (3, CLASSES)
"""Whether no velocity, only the velocity, or the acceleration too is known; and the age class."""
_HOUR_S: Final = 3600.0
_SQUARED: Final = 5
"""How many of the features also enter with their squares and products."""
_LINEAR: Final = 6
_FEATURES: Final = 1 + _SQUARED + _LINEAR + _SQUARED * (_SQUARED + 1) // 2
_SPREAD_FEATURES: Final = 10
_ERROR_EDGES: Final = np.sinh(np.linspace(-4.5, 4.5, 181)) / 4
"""The edges of the bins of normalised errors: fine near 0, wide in the tails."""
_GAIN_EDGES: Final = np.linspace(0.0, 24.0, 481)
"""The edges of the bins of log(1 + views gained)."""
_PRIOR_SHARES: Final = 1 / (1 + np.exp(-1.702 * _ERROR_EDGES))
"""Nearly the normal distribution, at the edges."""
_LARGEST_LOG_GAIN: Final = 28.0
_LARGEST_CORRECTION: Final = 6.0
_SMALLEST_ERROR: Final = 0.02
_LEAST_COHORT: Final = 20.0
_DOUBT: Final = 0.002
_FEW_VIEWS: Final = 4.0
_BLOCK: Final = 256
"""Outcomes are learnt in blocks of this size, so that in a large batch the later profit from the earlier."""


@dataclass(frozen=True, slots=True)
class ForecastSettings:
    """How fast to learn and to forget. Outcomes are counted for each age class."""

    half_life: float = 20_000.0
    """After how many more outcomes one counts half in the regressions."""
    errors_half_life: float = 3_000.0
    """The same for the distributions of errors and of views gained, and for the mixing proportion."""
    shrinkage: float = 3.0
    """How strongly a class's regression is held at that of all ages, and its constant at 0, in outcomes."""
    common_shrinkage: float = 3.0
    """How strongly the regression of all ages is held at zero."""
    prior_spread: float = 1.2
    """The size of errors before anything is learnt, on the log scale."""
    prior_errors: float = 20.0
    """How many outcomes the errors of all ages are worth beside those of a class, and the normal distribution
    beside those of all ages."""
    interval_step: float = 0.005
    """By how much one interval that did not hold changes the share left out."""
    interval_outcomes: float = 200.0
    """A batch with more outcomes than this changes it by no more than this many would."""
    interval_warm_up: float = 100.0
    """After so many outcomes it changes half as fast as in the end: first errors are not like later ones."""
    interval_caution: float = 30.0
    """After so many outcomes an interval leaves out half of the share: the first outcomes are of one day and
    alike, so they tell less than their number."""

    def __post_init__(self) -> None:
        if min(getattr(self, field.name) for field in fields(self)) <= 0:
            raise ValueError("forecast settings must be positive")


DEFAULTS: Final = ForecastSettings()


@dataclass(frozen=True, slots=True)
class Snapshots:
    """What is known of each video at its last sample; NaN where unknown.

    `velocity`, `acceleration` and `weight` are those of `velocity.Tracks`. `hour_of_week` counts from Monday
    0:00 UTC. `short` is 1 for a Short. `usual_velocity` is what the channel's videos have at this age.
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

        A negative age, of a video not live yet, is taken for 0. Raises ValueError for columns of unequal
        length, infinite values, or negative views.
        """
        given = age_h, views, velocity, acceleration, weight, hour_of_week, short, usual_velocity
        age = np.maximum(column(age_h), 0.0)
        columns = [age, *(np.full(len(age), np.nan) if one is None else column(one) for one in given[1:])]
        for field, values in zip(fields(cls), columns, strict=True):
            if values.shape != age.shape or np.isinf(values).any():
                raise ValueError(f"{field.name} needs {len(age)} finite or unknown values")
        if (columns[1] < 0).any():
            raise ValueError("views are never negative; a hidden count is None")
        return cls(*columns)

    def __len__(self) -> int:
        return len(self.age_h)

    def __getitem__(self, rows: Integers | Booleans | slice) -> Snapshots:
        return Snapshots(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def usable(self) -> Booleans:
        """Whether the views and the age are known."""
        known: Booleans = np.isfinite(self.views) & np.isfinite(self.age_h)
        return known


def snapshots_of_tracks(
    tracks: Tracks,
    grows_from_s: ColumnLike,
    short: ColumnLike | None = None,
    usual_velocity: ColumnLike | None = None,
) -> Snapshots:
    """From what is kept of each video, and when it was published or went live, in seconds since 1970."""
    age_h = (tracks.at_s - column(grows_from_s)) / _HOUR_S
    growth = tracks.velocity, tracks.acceleration, tracks.weight
    return Snapshots.of(age_h, tracks.views, *growth, hours_of_week(tracks.at_s), short, usual_velocity)


def hours_of_week(at_s: ColumnLike) -> Floats:
    """Hours since Monday 0:00 UTC at instants in seconds since 1970."""
    # 1970 began on a Thursday.
    hours: Floats = (column(at_s) / _HOUR_S + 72) % 168
    return hours


def snapshot_of_samples(at_s: ColumnLike, views: ColumnLike, grows_from_s: float) -> Snapshots:
    """One video's, from its samples in order; hidden and implausible counts do not matter."""
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
    *,
    widest_h: float,
) -> Floats:
    """Views at an age, from the last count up to it and the first from it on.

    Between the two, views grow in proportion to the typical curve. A count within a fiftieth of `widest_h` of
    the age does without the other. Otherwise it is NaN if either is unknown, or they are further apart.
    """
    age, age0, age1 = column(age_h), column(before_age_h), column(after_age_h)
    views0, views1 = column(before_views), column(after_views)
    passed = _typical_gain(age0, np.maximum(age - age0, 0.0))
    whole = np.maximum(_typical_gain(age0, np.maximum(age1 - age0, 0.0)), 1e-9)
    between = views0 + (views1 - views0) * np.clip(passed / whole, 0.0, 1.0)
    is_between = (age0 <= age) & (age <= age1) & (age1 - age0 <= widest_h) & np.isfinite(between)
    near_h = widest_h / 50
    after = np.where(np.abs(age1 - age) <= near_h, views1, np.nan)
    alone = np.where((np.abs(age - age0) <= near_h) & np.isfinite(views0), views0, after)
    known: Floats = np.where(is_between, between, alone)
    return known


def damped_views(snapshots: Snapshots, horizon_h: float = DAY_H) -> Floats:
    """Views at the horizon if the velocity fades as is typical, for comparison; NaN without a velocity."""
    ahead: Floats = np.maximum(snapshots.velocity, 0.0) * _typical_gain(snapshots.age_h, horizon_h)
    return snapshots.views + ahead


@dataclass(frozen=True, slots=True)
class Forecasts:
    """Views at the horizon: the median and the ends of the 80 % interval; NaN if the present views are
    unknown.

    `top_chance` is the probability that the video gains as many views by then as the top 5 % of the videos of
    its age class; NaN while too few outcomes of the class are known.
    """

    median: Floats
    low: Floats
    high: Floats
    top_chance: Floats

    @classmethod
    def unknown(cls, videos: int) -> Self:
        return cls(*(np.full(videos, np.nan) for _ in fields(cls)))

    def __getitem__(self, rows: Integers | Booleans | slice) -> Forecasts:
        return Forecasts(*(getattr(self, field.name)[rows] for field in fields(self)))


def _typical_gain(age_h: Floats, hours: Floats | float) -> Floats:
    """Views gained in the next `hours` by the typical curve, over the velocity at `age_h`."""
    power, scale = 1 - TYPICAL.decay, TYPICAL.scale_h + np.maximum(age_h, 0.0)
    gain: Floats = scale * (np.power(1 + hours / scale, power) - 1) / power
    return gain


def _starting_points(snapshots: Snapshots, horizon_h: float) -> tuple[Floats, Floats]:
    """Log(1 + views gained) by the typical curve: from the views so far; and from the velocity, if known."""
    age = np.maximum(snapshots.age_h, 1 / 6)
    ratio = np.expm1(projection(age)[0] - projection(age + horizon_h)[0])
    by_views = np.log1p(ratio * snapshots.views)
    by_velocity = np.log1p(np.maximum(snapshots.velocity, 0.0) * _typical_gain(age, horizon_h))
    return by_views, np.where(np.isnan(by_velocity), by_views, by_velocity)


def _features(snapshots: Snapshots, by_views: Floats, start: Floats) -> tuple[Floats, Floats]:
    """The features of the regression of views gained, and of that of the size of errors; all about 1."""
    views, age = np.log1p(snapshots.views), np.log1p(snapshots.age_h)
    shape = np.clip(start - by_views, -5.0, 5.0)
    growth = np.nan_to_num(np.arcsinh(12 * snapshots.acceleration / (np.abs(snapshots.velocity) + 1.0)))
    few, ones = np.exp(-start), np.ones(len(snapshots))
    day = 2 * np.pi * snapshots.hour_of_week / 24
    # The weekday would take months to learn, and a few days of it mislead.
    tides = [np.nan_to_num(wave(day)) for wave in (np.sin, np.cos)]
    usual = np.log1p(snapshots.usual_velocity) - np.log1p(np.expm1(start) / DAY_H)
    unusual = np.nan_to_num(np.clip(usual, -4.0, 4.0)) / 2
    squared = [(start - 8) / 3, (age - 4) / 2, (views - 11) / 3, shape, growth]
    linear = [few, np.nan_to_num(snapshots.weight), *tides, np.nan_to_num(snapshots.short), unusual]
    products = [squared[i] * squared[j] for i in range(_SQUARED) for j in range(i, _SQUARED)]
    spread = [ones, *squared, np.abs(shape), np.abs(growth), few, np.sqrt(few)]
    return np.stack([ones, *squared, *linear, *products], axis=1), np.stack(spread, axis=1)


@dataclass(slots=True)
class _Sums:
    """What was learnt for one horizon; the first indices are those of `_GROUPS`, but for `gains`."""

    products: Floats
    targets: Floats
    spread_products: Floats
    spread_targets: Floats
    offset_weights: Floats
    offset_targets: Floats
    mixed_products: Floats
    mixed_targets: Floats
    errors: Floats
    """Histograms of normalised errors."""
    left_out: Floats
    """The share of the histogram outside the interval."""
    gains: Floats
    """Histograms of log(1 + views gained), by age class."""
    outcomes: Floats

    @classmethod
    def shapes(cls) -> dict[str, tuple[int, ...]]:
        shapes = {field.name: _GROUPS for field in fields(cls)}
        return shapes | {
            "products": (*_GROUPS, _FEATURES, _FEATURES),
            "targets": (*_GROUPS, _FEATURES),
            "spread_products": (*_GROUPS, _SPREAD_FEATURES, _SPREAD_FEATURES),
            "spread_targets": (*_GROUPS, _SPREAD_FEATURES),
            "errors": (*_GROUPS, len(_ERROR_EDGES) + 1),
            "gains": (CLASSES, len(_GAIN_EDGES) + 1),
        }

    @classmethod
    def new(cls) -> Self:
        sums = cls(**{name: np.zeros(shape) for name, shape in cls.shapes().items()})
        sums.left_out += 1 - COVERAGE
        return sums

    def fade(self, names: tuple[str, ...], kept: Floats) -> None:
        """Multiply sums by what is kept of each group."""
        for name in names:
            sums = getattr(self, name)
            sums *= kept.reshape(kept.shape + (1,) * (sums.ndim - kept.ndim))


@dataclass(frozen=True, slots=True)
class _Fit:
    """The regressions that sums amount to: for each group the constant, the share of the linear function in
    the mixture, its coefficients, and those of the size of errors.
    """

    offset: Floats
    mixed: Floats
    coefficients: Floats
    spread_coefficients: Floats


def _fit(sums: _Sums, settings: ForecastSettings) -> _Fit:
    own, common = settings.shrinkage, settings.common_shrinkage
    return _Fit(
        sums.offset_targets / (sums.offset_weights + own),
        np.clip((sums.mixed_targets + own / 2) / (sums.mixed_products + own), 0.0, 1.0),
        _shrunk(sums.products, sums.targets, own, common),
        _shrunk(sums.spread_products, sums.spread_targets, own, common),
    )


def _shrunk(products: Floats, targets: Floats, own: float, common: float) -> Floats:
    """Ridge regressions of each age class, shrunk towards that of all classes, and that towards zero."""
    unit = np.eye(products.shape[-1])
    shared = np.linalg.solve(products.sum(axis=1) + common * unit, targets.sum(axis=1)[..., None])
    each = np.linalg.solve(products + own * unit, targets[..., None] + own * shared[:, None])
    return np.asarray(each[..., 0], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class _Expected:
    """Each video's group, log(1 + views gained) as expected (`centre`) and as it is by the typical curve, by
    the constant and by the linear function; and the size of errors.
    """

    group: Integers
    start: Floats
    constant: Floats
    linear: Floats
    centre: Floats
    size: Floats
    features: Floats
    spread_features: Floats


def _groups(snapshots: Snapshots) -> Integers:
    """The index of each video's group, if the two of `_GROUPS` were one."""
    known = np.isfinite(snapshots.velocity) * (1 + np.isfinite(snapshots.acceleration))
    groups: Integers = known * CLASSES + age_class(snapshots.age_h)
    return groups


def _flat(by_group: Floats) -> Floats:
    """The two indices of `_GROUPS` joined to one."""
    return by_group.reshape(-1, *by_group.shape[2:])


def _summed(group: Integers, values: Floats | None = None) -> Floats:
    """The sum of the values, or the number of videos, in each group."""
    sums = np.bincount(group, values, _GROUPS[0] * CLASSES).reshape(_GROUPS)
    return sums.astype(np.float64)


class Forecaster:
    """Forecasts views at each of `HORIZONS_H`, and learns from outcomes; its state has a fixed size."""

    name: ClassVar[str] = "forecaster"
    version: ClassVar[int] = 1
    """The version of its state."""

    def __init__(self, settings: ForecastSettings = DEFAULTS) -> None:
        self.settings = settings
        self._sums = {horizon_h: _Sums.new() for horizon_h in HORIZONS_H}
        self._fits: dict[float, _Fit] = {}

    def outcomes(self, horizon_h: float = DAY_H) -> Floats:
        """How many outcomes were learnt, by age class."""
        total: Floats = self._sums[horizon_h].outcomes.sum(axis=0)
        return total

    def forecast(self, snapshots: Snapshots, horizon_h: float = DAY_H) -> Forecasts:
        """Forecast each video's views `horizon_h` after its last sample.

        Raises KeyError for a horizon that is not one of `HORIZONS_H`.
        """
        sums, usable = self._sums[horizon_h], snapshots.usable
        whole = Forecasts.unknown(len(snapshots))
        snapshots = snapshots[usable]
        expected, shares = self._expect(snapshots, horizon_h), self._error_shares(sums)
        for column_, level in zip((whole.median, whole.low, whole.high), self._levels(sums), strict=True):
            error = _flat(_quantiles(shares, level))[expected.group]
            log_gain = np.clip(expected.centre + expected.size * error, 0.0, _LARGEST_LOG_GAIN)
            column_[usable] = snapshots.views + np.expm1(log_gain)
        least = _top_gains(sums.gains)[expected.group % CLASSES]
        over = expected.centre - least
        chance = 1 - _share_below(_flat(shares), expected.group, -over / expected.size)
        # Everything may be wrong, and those that are sure to be in or out must still have an order.
        doubtful = 1 / (1 + np.exp(-over / self.settings.prior_spread))
        whole.top_chance[usable] = np.clip(chance + _DOUBT * (doubtful - chance), 0.0, 1.0)
        return whole

    def knows_spread(self, snapshots: Snapshots, horizon_h: float = DAY_H) -> Booleans:
        """Whether enough outcomes of videos like each one are known for its interval to mean something."""
        enough: Booleans = _flat(self._sums[horizon_h].outcomes)[_groups(snapshots)] >= _LEAST_COHORT
        return enough

    def learn(
        self,
        snapshots: Snapshots,
        later_views: ColumnLike,
        horizon_h: float = DAY_H,
        issued_median: ColumnLike | None = None,
    ) -> None:
        """Learn from videos whose views `horizon_h` after the snapshot are known now; NaN are ignored.

        `issued_median` is the median forecast when the snapshot was new, NaN where none was. Without it,
        intervals are judged only by what would be forecast now, which is closer than what was.
        """
        later = column(later_views)
        usable = snapshots.usable & np.isfinite(later)
        if not usable.any():
            return
        now = self.forecast(snapshots, horizon_h).median
        issued = now if issued_median is None else column(issued_median)
        issued = np.where(np.isnan(issued), now, np.maximum(issued, snapshots.views))[usable]
        snapshots, later, now = snapshots[usable], later[usable], now[usable]
        # What was forecast before anything was learnt does not tell how good later forecasts are.
        unlearnt = np.expm1(_starting_points(snapshots, horizon_h)[1]) + snapshots.views
        issued = np.where(np.isclose(issued, unlearnt, rtol=1e-9), now, issued)
        self._adapt_intervals(snapshots, later, issued, horizon_h)
        for first in range(0, len(later), _BLOCK):
            block = slice(first, first + _BLOCK)
            gained = np.log1p(np.maximum(later[block] - snapshots.views[block], 0.0))
            self._learn_block(snapshots[block], gained, horizon_h)

    def _expect(self, snapshots: Snapshots, horizon_h: float) -> _Expected:
        if horizon_h not in self._fits:
            self._fits[horizon_h] = _fit(self._sums[horizon_h], self.settings)
        fit, group = self._fits[horizon_h], _groups(snapshots)
        by_views, start = _starting_points(snapshots, horizon_h)
        features, spread_features = _features(snapshots, by_views, start)
        constant = np.log1p(np.expm1(start) * np.exp(_flat(fit.offset)[group])) - start
        linear = np.einsum("ij,ij->i", features, _flat(fit.coefficients)[group])
        linear = np.clip(linear, -_LARGEST_CORRECTION, _LARGEST_CORRECTION)
        centre = start + constant + _flat(fit.mixed)[group] * (linear - constant)
        log_size = np.einsum("ij,ij->i", spread_features, _flat(fit.spread_coefficients)[group])
        size = self.settings.prior_spread * np.exp(np.clip(log_size, -5.0, 1.5))
        return _Expected(group, start, constant, linear, centre, size, features, spread_features)

    def _adapt_intervals(self, snapshots: Snapshots, later: Floats, issued: Floats, horizon_h: float) -> None:
        """Change the share left out by whether intervals would have held around the issued medians, which is
        what counts but is of an older model, and around today's, which know too much; each counts half.
        """
        sums, expected = self._sums[horizon_h], self._expect(snapshots, horizon_h)
        gained = np.log1p(np.maximum(later - snapshots.views, 0.0))
        shares = self._error_shares(sums)
        median, low, high = (
            expected.size * _flat(_quantiles(shares, level))[expected.group] for level in self._levels(sums)
        )
        counts = _summed(expected.group)
        excess = counts * (1 - COVERAGE)
        for centre in (np.log1p(issued - snapshots.views) - median, expected.centre):
            missed = (gained < centre + low) | (gained > np.maximum(centre + high, 0.0))
            missed |= later < snapshots.views
            excess -= 0.5 * _summed(expected.group, missed.astype(np.float64))
        excess /= np.maximum(counts / self.settings.interval_outcomes, 1.0)
        step = self.settings.interval_step * sums.outcomes / (sums.outcomes + self.settings.interval_warm_up)
        sums.left_out = np.clip(sums.left_out + step * excess, 0.01, 0.8)

    def _learn_block(self, snapshots: Snapshots, gained: Floats, horizon_h: float) -> None:
        sums, expected = self._sums[horizon_h], self._expect(snapshots, horizon_h)
        counts = _summed(expected.group)
        _add_offsets(sums, expected, gained, counts, self.settings)
        _add_regressions(sums, expected, gained, counts, self.settings)
        _add_histograms(sums, expected, gained, counts, self.settings)
        sums.outcomes += counts
        del self._fits[horizon_h]

    def _levels(self, sums: _Sums) -> tuple[Floats, Floats, Floats]:
        """The levels of the quantiles that are the median and the ends of the interval, for each group."""
        left_out = sums.left_out * sums.outcomes / (sums.outcomes + self.settings.interval_caution)
        return np.full(_GROUPS, 0.5), left_out / 2, 1 - left_out / 2

    def _error_shares(self, sums: _Sums) -> Floats:
        """The cumulative distribution of normalised errors at the edges, for each group."""
        prior = self.settings.prior_errors
        common = sums.errors.sum(axis=1, keepdims=True) + prior * np.diff(_PRIOR_SHARES, prepend=0, append=1)
        counts = sums.errors + prior * common / common.sum(axis=-1, keepdims=True)
        shares: Floats = np.cumsum(counts, axis=-1)[..., :-1] / counts.sum(axis=-1, keepdims=True)
        return shares

    def state(self) -> bytes:
        """Serialize what was learnt, without the settings, for `from_state`."""
        content = {
            str(horizon_h): {name: _packed(getattr(sums, name)) for name in _Sums.shapes()}
            for horizon_h, sums in self._sums.items()
        }
        return pack(self.name, self.version, content)

    @classmethod
    def from_state(cls, state: bytes, settings: ForecastSettings = DEFAULTS) -> Self:
        """A forecaster that goes on as the one that wrote the state; StateError if it can't."""
        forecaster, content = cls(settings), unpack(cls.name, cls.version, state)
        try:
            for horizon_h in HORIZONS_H:
                forecaster._sums[horizon_h] = _restored(content[str(horizon_h)])
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"the state of {cls.name} is incomplete: {error!r}") from error
        return forecaster


def _restored(arrays: dict[str, Any]) -> _Sums:
    return _Sums(**{name: _unpacked(arrays[name], shape) for name, shape in _Sums.shapes().items()})


def _packed(values: Floats) -> bytes:
    """The array's bytes, byte by byte of each number, which compresses better; of a symmetric matrix one
    half.
    """
    if values.ndim == len(_GROUPS) + 2:
        values = values[..., *np.triu_indices(values.shape[-1])]
    return np.ascontiguousarray(values.reshape(-1).view(np.uint8).reshape(-1, 8).T).tobytes()


def _unpacked(stored: bytes, shape: tuple[int, ...]) -> Floats:
    symmetric = len(shape) == len(_GROUPS) + 2
    half = np.triu_indices(shape[-1])
    kept = (*shape[:-2], len(half[0])) if symmetric else shape
    columns = np.frombuffer(stored, np.uint8).reshape(8, -1).T
    values: Floats = np.ascontiguousarray(columns).view(np.float64).reshape(kept).copy()
    if not symmetric:
        return values
    whole = np.zeros(shape)
    whole[..., *half] = values
    whole[..., *half[::-1]] = values
    return whole


def _kept(counts: Floats, half_life: float) -> Floats:
    kept: Floats = np.exp2(-counts / half_life)
    return kept


def _add_offsets(
    sums: _Sums, expected: _Expected, gained: Floats, counts: Floats, settings: ForecastSettings
) -> None:
    """Learn the constants, and whether the linear function or the constant was closer."""
    target = gained - expected.start
    off, apart = target - expected.constant, expected.linear - expected.constant
    ratio = np.log(np.expm1(gained) + 0.5) - np.log(np.expm1(expected.start) + 0.5)
    weight = _told(expected) / np.maximum(np.abs(off) / expected.size, 1.0)
    sums.fade(("offset_weights", "offset_targets"), _kept(counts, settings.half_life))
    sums.offset_weights += _summed(expected.group, weight)
    sums.offset_targets += _summed(expected.group, weight * ratio)
    weight = _regression_weights(expected, gained)
    sums.fade(("mixed_products", "mixed_targets"), _kept(counts, settings.errors_half_life))
    sums.mixed_products += _summed(expected.group, weight * apart**2)
    sums.mixed_targets += _summed(expected.group, weight * apart * off)


def _regression_weights(expected: _Expected, gained: Floats) -> Floats:
    """Huber's weights, which count an error beyond its usual size once instead of squared."""
    error = np.abs(gained - expected.centre) / expected.size
    weights: Floats = _told(expected) / np.maximum(error, 1.0) / expected.size
    return weights


def _told(expected: _Expected) -> Floats:
    """How much an outcome tells of a factor: few views expected tell little, as counting errors rule."""
    begun = np.expm1(expected.start)
    told: Floats = begun / (begun + _FEW_VIEWS)
    return told


def _add_regressions(
    sums: _Sums, expected: _Expected, gained: Floats, counts: Floats, settings: ForecastSettings
) -> None:
    residual = np.abs(gained - expected.centre)
    log_size = np.log((residual + _SMALLEST_ERROR) / settings.prior_spread)
    weight, target = _regression_weights(expected, gained), gained - expected.start
    names = "products", "targets", "spread_products", "spread_targets"
    sums.fade(names, _kept(counts, settings.half_life))
    for number in np.flatnonzero(counts):
        rows, place = expected.group == number, divmod(int(number), CLASSES)
        features, spread = expected.features[rows], expected.spread_features[rows]
        root = np.sqrt(weight[rows])
        # The product of a matrix with itself is symmetric to the last bit, so half of it can be stored.
        features *= root[:, None]
        sums.products[place] += features.T @ features
        sums.targets[place] += features.T @ (root * target[rows])
        sums.spread_products[place] += spread.T @ spread
        sums.spread_targets[place] += spread.T @ log_size[rows]


def _add_histograms(
    sums: _Sums, expected: _Expected, gained: Floats, counts: Floats, settings: ForecastSettings
) -> None:
    error = (gained - expected.centre) / expected.size
    sums.fade(("errors",), _kept(counts, settings.errors_half_life))
    np.add.at(_flat(sums.errors), (expected.group, np.searchsorted(_ERROR_EDGES, error)), 1.0)
    sums.fade(("gains",), _kept(counts.sum(axis=0), settings.errors_half_life))
    np.add.at(sums.gains, (expected.group % CLASSES, np.searchsorted(_GAIN_EDGES, gained)), 1.0)


def _quantiles(shares: Floats, levels: Floats) -> Floats:
    """The quantile of each group's normalised errors at its level."""
    found = np.empty(levels.shape)
    for place in np.ndindex(levels.shape):
        found[place] = np.interp(levels[place], shares[place], _ERROR_EDGES)
    return found


def _share_below(shares: Floats, group: Integers, error: Floats) -> Floats:
    """The share of the group's normalised errors below each; NaN for NaN."""
    inside = np.clip(error, _ERROR_EDGES[0], _ERROR_EDGES[-1])
    place = np.clip(np.searchsorted(_ERROR_EDGES, inside), 1, len(_ERROR_EDGES) - 1)
    left, right = _ERROR_EDGES[place - 1], _ERROR_EDGES[place]
    below, upto = shares[group, place - 1], shares[group, place]
    share: Floats = below + (inside - left) / (right - left) * (upto - below)
    return share


def _top_gains(gains: Floats) -> Floats:
    """From which log(1 + views gained) on a video is in the top 5 % of its age class; NaN if unknown."""
    least, below = np.full(CLASSES, np.nan), np.cumsum(gains, axis=1)
    for number in np.flatnonzero(below[:, -1] >= _LEAST_COHORT):
        wanted = (1 - TOP_SHARE) * below[number, -1]
        least[number] = np.interp(wanted, below[number, :-1], _GAIN_EDGES)
    return least
