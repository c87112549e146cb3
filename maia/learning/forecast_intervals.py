"""How far forecasts are off: intervals that hold as often as they should, and the chance to be among the top.

Errors, divided by the size that was expected of them, are counted in a histogram for each group, whose
quantiles give the median and the interval (conformal prediction with normalised errors; Papadopoulos,
Gammerman and Vovk, 2008). How much of the histogram the interval leaves out follows whether the intervals
held, so that in the long run 80 % of them do in each age class, whatever the distribution (adaptive conformal
inference; Gibbs and Candès, 2021). They are judged by the forecasts as issued, too: errors of one day are
alike, for example at a weekend, and what has learnt from half of them looks too good.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np

from maia.learning.forecast_groups import CLASSES, GROUPS, fade, flat, summed
from maia.learning.forecast_settings import ForecastSettings
from maia.learning.gain_regression import Expected
from maia.learning.velocity import Booleans, Floats, Integers

COVERAGE: Final = 0.8
"""The share of the intervals that should hold."""
TOP_SHARE: Final = 0.05
_ERROR_EDGES: Final = np.sinh(np.linspace(-4.5, 4.5, 181)) / 4
"""The edges of the bins of normalised errors: fine near 0, wide in the tails."""
_GAIN_EDGES: Final = np.linspace(0.0, 24.0, 481)
"""The edges of the bins of log(1 + views gained)."""
_PRIOR_SHARES: Final = 1 / (1 + np.exp(-1.702 * _ERROR_EDGES))
"""Nearly the normal distribution, at the edges."""
_LEAST_COHORT: Final = 20.0
_DOUBT: Final = 0.002


@dataclass(slots=True)
class IntervalSums:
    """What was learnt, by group; `gains` by age class only."""

    errors: Floats
    """Histograms of normalised errors."""
    left_out: Floats
    """The share of the histogram outside the interval."""
    gains: Floats
    """Histograms of log(1 + views gained)."""
    outcomes: Floats

    @classmethod
    def shapes(cls) -> dict[str, tuple[int, ...]]:
        """The shape of each array, by its name."""
        return {field.name: GROUPS for field in fields(cls)} | {
            "errors": (*GROUPS, len(_ERROR_EDGES) + 1),
            "gains": (CLASSES, len(_GAIN_EDGES) + 1),
        }

    @classmethod
    def new(cls) -> Self:
        sums = cls(**{name: np.zeros(shape) for name, shape in cls.shapes().items()})
        sums.left_out += 1 - COVERAGE
        return sums


class Intervals:
    """The distribution of errors until one horizon, learnt online; of a fixed size."""

    def __init__(self, settings: ForecastSettings, sums: IntervalSums | None = None) -> None:
        self.settings = settings
        self.sums = sums or IntervalSums.new()

    def bounds(self, expected: Expected) -> tuple[Floats, Floats, Floats]:
        """The median of each video's error and the ends of its interval, on the scale of log(1 + gain)."""
        shares = self._error_shares()
        median, low, high = (
            expected.size * flat(_quantiles(shares, level))[expected.group] for level in self._levels()
        )
        return median, low, high

    def top_chance(self, expected: Expected) -> Floats:
        """The probability to gain as much as the top 5 % of the age class; NaN while too few are known."""
        least = _top_gains(self.sums.gains)[expected.group % CLASSES]
        over = expected.centre - least
        chance = 1 - _share_below(flat(self._error_shares()), expected.group, -over / expected.size)
        # Everything may be wrong, and those that are sure to be in or out must still have an order.
        doubtful = 1 / (1 + np.exp(-over / self.settings.prior_spread))
        return np.clip(chance + _DOUBT * (doubtful - chance), 0.0, 1.0)

    def enough_known(self, group: Integers) -> Booleans:
        """Whether enough outcomes of a group are known for its intervals to mean something."""
        enough: Booleans = flat(self.sums.outcomes)[group] >= _LEAST_COHORT
        return enough

    def adapt(self, expected: Expected, gained: Floats, issued: Floats, fell: Booleans) -> None:
        """Change the share left out by whether intervals would have held around the issued medians, which is
        what counts but is of an older model, and around today's, which know too much; each counts half.

        `gained` and `issued` are logs of 1 + views; `fell` says whose views went down.
        """
        sums = self.sums
        median, low, high = self.bounds(expected)
        counts = summed(expected.group)
        excess = counts * (1 - COVERAGE)
        for centre in (issued - median, expected.centre):
            missed = (gained < centre + low) | (gained > np.maximum(centre + high, 0.0)) | fell
            excess -= 0.5 * summed(expected.group, missed.astype(np.float64))
        excess /= np.maximum(counts / self.settings.interval_outcomes, 1.0)
        step = self.settings.interval_step * sums.outcomes / (sums.outcomes + self.settings.interval_warm_up)
        sums.left_out = np.clip(sums.left_out + step * excess, 0.01, 0.8)

    def learn(self, expected: Expected, gained: Floats) -> None:
        """Count the errors, and log(1 + views gained), of the same videos as were expected."""
        sums, half_life = self.sums, self.settings.errors_half_life
        counts, error = summed(expected.group), (gained - expected.centre) / expected.size
        fade((sums.errors,), counts, half_life)
        np.add.at(flat(sums.errors), (expected.group, np.searchsorted(_ERROR_EDGES, error)), 1.0)
        fade((sums.gains,), counts.sum(axis=0), half_life)
        np.add.at(sums.gains, (expected.group % CLASSES, np.searchsorted(_GAIN_EDGES, gained)), 1.0)
        sums.outcomes += counts

    def _levels(self) -> tuple[Floats, Floats, Floats]:
        """The levels of the quantiles that are the median and the ends of the interval, for each group."""
        sums = self.sums
        left_out = sums.left_out * sums.outcomes / (sums.outcomes + self.settings.interval_caution)
        return np.full(GROUPS, 0.5), left_out / 2, 1 - left_out / 2

    def _error_shares(self) -> Floats:
        """The cumulative distribution of normalised errors at the edges, for each group."""
        sums = self.sums
        prior = self.settings.prior_errors
        common = sums.errors.sum(axis=1, keepdims=True) + prior * np.diff(_PRIOR_SHARES, prepend=0, append=1)
        counts = sums.errors + prior * common / common.sum(axis=-1, keepdims=True)
        shares: Floats = np.cumsum(counts, axis=-1)[..., :-1] / counts.sum(axis=-1, keepdims=True)
        return shares


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
