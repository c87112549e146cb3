"""Forecasts of a video's views 24 hours and 7 days ahead, learnt online from what has come so far.

A forecast starts from the typical curve of `maia.learning.growth`: what a video of this age gains if its
velocity fades as is typical or, without a velocity, if its views so far are typical. How far log(1 + views
gained) is from that is learnt by `maia.learning.gain_regression`, and how far forecasts are off by
`maia.learning.forecast_intervals`. Videos with one sample, with two, and with more are kept apart throughout.

Views gained are never forecast to be negative, so forecasts are never below the present views. All columns
have one element per video.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final, NamedTuple, Self

import numpy as np

from maia.learning.forecast_groups import GROUPS, group_of
from maia.learning.forecast_intervals import Intervals, IntervalSums
from maia.learning.forecast_settings import DEFAULTS, ForecastSettings
from maia.learning.gain_regression import GainRegression, RegressionSums
from maia.learning.states import StateError, pack, unpack
from maia.learning.typical_curve import log_gains
from maia.learning.velocity import Booleans, ColumnLike, Floats, Integers, column
from maia.learning.video_snapshots import Snapshots

DAY_H: Final = 24.0
WEEK_H: Final = 168.0
HORIZONS_H: Final = (DAY_H, WEEK_H)
_LARGEST_LOG_GAIN: Final = 28.0
_BLOCK: Final = 256
"""Outcomes are learnt in blocks of this size, so that in a large batch the later profit from the earlier."""


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


class _Model(NamedTuple):
    """What was learnt for one horizon."""

    regression: GainRegression
    intervals: Intervals

    def arrays(self) -> dict[str, Floats]:
        """Everything that was learnt, by name."""
        parts = (self.regression.sums, self.intervals.sums)
        return {name: getattr(part, name) for part in parts for name in part.shapes()}


class Forecaster:
    """Forecasts views at each of `HORIZONS_H`, and learns from outcomes; its state has a fixed size."""

    name: ClassVar[str] = "forecaster"
    version: ClassVar[int] = 1
    """The version of its state."""

    def __init__(self, settings: ForecastSettings = DEFAULTS) -> None:
        self.settings = settings
        self._models = {
            horizon_h: _Model(GainRegression(horizon_h, settings), Intervals(settings))
            for horizon_h in HORIZONS_H
        }

    def outcomes(self, horizon_h: float = DAY_H) -> Floats:
        """How many outcomes were learnt, by age class."""
        total: Floats = self._models[horizon_h].intervals.sums.outcomes.sum(axis=0)
        return total

    def forecast(self, snapshots: Snapshots, horizon_h: float = DAY_H) -> Forecasts:
        """Forecast each video's views `horizon_h` after its last sample.

        Raises KeyError for a horizon that is not one of `HORIZONS_H`.
        """
        model, usable = self._models[horizon_h], snapshots.usable
        whole = Forecasts.unknown(len(snapshots))
        snapshots = snapshots[usable]
        expected = model.regression.expect(snapshots)
        bounds = model.intervals.bounds(expected)
        for column_, error in zip((whole.median, whole.low, whole.high), bounds, strict=True):
            log_gain = np.clip(expected.centre + error, 0.0, _LARGEST_LOG_GAIN)
            column_[usable] = snapshots.views + np.expm1(log_gain)
        whole.top_chance[usable] = model.intervals.top_chance(expected)
        return whole

    def knows_spread(self, snapshots: Snapshots, horizon_h: float = DAY_H) -> Booleans:
        """Whether enough outcomes of videos like each one are known for its interval to mean something."""
        return self._models[horizon_h].intervals.enough_known(group_of(snapshots))

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
        unlearnt = np.expm1(log_gains(snapshots, horizon_h)[1]) + snapshots.views
        issued = np.where(np.isclose(issued, unlearnt, rtol=1e-9), now, issued)
        gained = np.log1p(np.maximum(later - snapshots.views, 0.0))
        model = self._models[horizon_h]
        expected = model.regression.expect(snapshots)
        model.intervals.adapt(expected, gained, np.log1p(issued - snapshots.views), later < snapshots.views)
        for first in range(0, len(later), _BLOCK):
            block = slice(first, first + _BLOCK)
            expected = model.regression.expect(snapshots[block])
            model.regression.learn(expected, gained[block])
            model.intervals.learn(expected, gained[block])

    def state(self) -> bytes:
        """Serialize what was learnt, without the settings, for `from_state`."""
        content = {
            str(horizon_h): {name: _packed(values) for name, values in model.arrays().items()}
            for horizon_h, model in self._models.items()
        }
        return pack(self.name, self.version, content)

    @classmethod
    def from_state(cls, state: bytes, settings: ForecastSettings = DEFAULTS) -> Self:
        """A forecaster that goes on as the one that wrote the state; StateError if it can't."""
        forecaster, content = cls(settings), unpack(cls.name, cls.version, state)
        try:
            for horizon_h in HORIZONS_H:
                forecaster._models[horizon_h] = _restored(content[str(horizon_h)], horizon_h, settings)
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"the state of {cls.name} is incomplete: {error!r}") from error
        return forecaster


def _restored(stored: dict[str, Any], horizon_h: float, settings: ForecastSettings) -> _Model:
    shapes = RegressionSums.shapes(), IntervalSums.shapes()
    regression, intervals = (
        {name: _unpacked(stored[name], shape) for name, shape in part.items()} for part in shapes
    )
    return _Model(
        GainRegression(horizon_h, settings, RegressionSums(**regression)),
        Intervals(settings, IntervalSums(**intervals)),
    )


def _packed(values: Floats) -> bytes:
    """The array's bytes, byte by byte of each number, which compresses better; of a symmetric matrix one
    half.
    """
    if values.ndim == len(GROUPS) + 2:
        values = values[..., *np.triu_indices(values.shape[-1])]
    return np.ascontiguousarray(values.reshape(-1).view(np.uint8).reshape(-1, 8).T).tobytes()


def _unpacked(stored: bytes, shape: tuple[int, ...]) -> Floats:
    symmetric = len(shape) == len(GROUPS) + 2
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
