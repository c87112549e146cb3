"""How many views videos gain until a horizon, and how large the errors are: regressions that learn online.

All is on the scale of log(1 + views gained). What is learnt is how far that is from the typical curve. The
first answer is a constant for each age class. The second is a linear function of a few features and their
squares and products, with one regression for each age class, shrunk towards one for all ages, and that
towards zero, so a class with few videos borrows from the others. The two are mixed in the proportion that
would have been best for the class so far. Large errors weigh less (Huber's weights, by iteratively reweighted
least squares; Holland and Welsch, 1977). Another regression learns how large errors are. Only sums are kept,
and old sums fade.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np

from maia.learning.forecast_groups import CLASSES, GROUPS, fade, flat, group_of, summed
from maia.learning.forecast_settings import ForecastSettings
from maia.learning.typical_curve import log_gains
from maia.learning.velocity import Floats, Integers
from maia.learning.video_snapshots import Snapshots

_SQUARED: Final = 5
"""How many of the features also enter with their squares and products."""
_LINEAR: Final = 6
_FEATURES: Final = 1 + _SQUARED + _LINEAR + _SQUARED * (_SQUARED + 1) // 2
_SPREAD_FEATURES: Final = 10
_LARGEST_CORRECTION: Final = 6.0
_SMALLEST_ERROR: Final = 0.02
_FEW_VIEWS: Final = 4.0
_DAY_H: Final = 24.0


@dataclass(slots=True)
class RegressionSums:
    """What was learnt, by group."""

    products: Floats
    targets: Floats
    spread_products: Floats
    spread_targets: Floats
    offset_weights: Floats
    offset_targets: Floats
    mixed_products: Floats
    mixed_targets: Floats

    @classmethod
    def shapes(cls) -> dict[str, tuple[int, ...]]:
        """The shape of each array, by its name."""
        return {field.name: GROUPS for field in fields(cls)} | {
            "products": (*GROUPS, _FEATURES, _FEATURES),
            "targets": (*GROUPS, _FEATURES),
            "spread_products": (*GROUPS, _SPREAD_FEATURES, _SPREAD_FEATURES),
            "spread_targets": (*GROUPS, _SPREAD_FEATURES),
        }

    @classmethod
    def new(cls) -> Self:
        return cls(**{name: np.zeros(shape) for name, shape in cls.shapes().items()})


@dataclass(frozen=True, slots=True)
class Expected:
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


class GainRegression:
    """Expects what videos gain until a horizon, and learns from what they gained; of a fixed size."""

    def __init__(
        self, horizon_h: float, settings: ForecastSettings, sums: RegressionSums | None = None
    ) -> None:
        self.horizon_h, self.settings = horizon_h, settings
        self.sums = sums or RegressionSums.new()
        self._fit: _Fit | None = None

    def expect(self, snapshots: Snapshots) -> Expected:
        """What to expect of videos whose views and ages are known."""
        if self._fit is None:
            self._fit = _fit(self.sums, self.settings)
        fit, group = self._fit, group_of(snapshots)
        by_views, start = log_gains(snapshots, self.horizon_h)
        features, spread_features = _features(snapshots, by_views, start)
        constant = np.log1p(np.expm1(start) * np.exp(flat(fit.offset)[group])) - start
        linear = np.einsum("ij,ij->i", features, flat(fit.coefficients)[group])
        linear = np.clip(linear, -_LARGEST_CORRECTION, _LARGEST_CORRECTION)
        centre = start + constant + flat(fit.mixed)[group] * (linear - constant)
        log_size = np.einsum("ij,ij->i", spread_features, flat(fit.spread_coefficients)[group])
        size = self.settings.prior_spread * np.exp(np.clip(log_size, -5.0, 1.5))
        return Expected(group, start, constant, linear, centre, size, features, spread_features)

    def learn(self, expected: Expected, gained: Floats) -> None:
        """Learn from log(1 + views gained) of the same videos as were expected."""
        counts = summed(expected.group)
        _add_offsets(self.sums, expected, gained, counts, self.settings)
        _add_regressions(self.sums, expected, gained, counts, self.settings)
        self._fit = None


def _features(snapshots: Snapshots, by_views: Floats, start: Floats) -> tuple[Floats, Floats]:
    """The features of the regression of views gained, and of that of the size of errors; all about 1."""
    views, age = np.log1p(snapshots.views), np.log1p(snapshots.age_h)
    shape = np.clip(start - by_views, -5.0, 5.0)
    growth = np.nan_to_num(np.arcsinh(12 * snapshots.acceleration / (np.abs(snapshots.velocity) + 1.0)))
    few, ones = np.exp(-start), np.ones(len(snapshots))
    day = 2 * np.pi * snapshots.hour_of_week / 24
    # The weekday would take months to learn, and a few days of it mislead.
    tides = [np.nan_to_num(wave(day)) for wave in (np.sin, np.cos)]
    usual = np.log1p(snapshots.usual_velocity) - np.log1p(np.expm1(start) / _DAY_H)
    unusual = np.nan_to_num(np.clip(usual, -4.0, 4.0)) / 2
    squared = [(start - 8) / 3, (age - 4) / 2, (views - 11) / 3, shape, growth]
    linear = [few, np.nan_to_num(snapshots.weight), *tides, np.nan_to_num(snapshots.short), unusual]
    products = [squared[i] * squared[j] for i in range(_SQUARED) for j in range(i, _SQUARED)]
    spread = [ones, *squared, np.abs(shape), np.abs(growth), few, np.sqrt(few)]
    return np.stack([ones, *squared, *linear, *products], axis=1), np.stack(spread, axis=1)


@dataclass(frozen=True, slots=True)
class _Fit:
    """The regressions that sums amount to: for each group the constant, the share of the linear function in
    the mixture, its coefficients, and those of the size of errors.
    """

    offset: Floats
    mixed: Floats
    coefficients: Floats
    spread_coefficients: Floats


def _fit(sums: RegressionSums, settings: ForecastSettings) -> _Fit:
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


def _add_offsets(
    sums: RegressionSums, expected: Expected, gained: Floats, counts: Floats, settings: ForecastSettings
) -> None:
    """Learn the constants, and whether the linear function or the constant was closer."""
    target = gained - expected.start
    off, apart = target - expected.constant, expected.linear - expected.constant
    ratio = np.log(np.expm1(gained) + 0.5) - np.log(np.expm1(expected.start) + 0.5)
    weight = _told(expected) / np.maximum(np.abs(off) / expected.size, 1.0)
    fade((sums.offset_weights, sums.offset_targets), counts, settings.half_life)
    sums.offset_weights += summed(expected.group, weight)
    sums.offset_targets += summed(expected.group, weight * ratio)
    weight = _regression_weights(expected, gained)
    fade((sums.mixed_products, sums.mixed_targets), counts, settings.errors_half_life)
    sums.mixed_products += summed(expected.group, weight * apart**2)
    sums.mixed_targets += summed(expected.group, weight * apart * off)


def _regression_weights(expected: Expected, gained: Floats) -> Floats:
    """Huber's weights, which count an error beyond its usual size once instead of squared."""
    error = np.abs(gained - expected.centre) / expected.size
    weights: Floats = _told(expected) / np.maximum(error, 1.0) / expected.size
    return weights


def _told(expected: Expected) -> Floats:
    """How much an outcome tells of a factor: few views expected tell little, as counting errors rule."""
    begun = np.expm1(expected.start)
    told: Floats = begun / (begun + _FEW_VIEWS)
    return told


def _add_regressions(
    sums: RegressionSums, expected: Expected, gained: Floats, counts: Floats, settings: ForecastSettings
) -> None:
    residual = np.abs(gained - expected.centre)
    log_size = np.log((residual + _SMALLEST_ERROR) / settings.prior_spread)
    weight, target = _regression_weights(expected, gained), gained - expected.start
    faded = sums.products, sums.targets, sums.spread_products, sums.spread_targets
    fade(faded, counts, settings.half_life)
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
