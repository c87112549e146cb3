"""The views of forecasts: what is expected of a video, and how good earlier forecasts were."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isfinite
from typing import TYPE_CHECKING, Final

from maia.views.words import ATTRIBUTION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.adapters.forecasts import SettledCheck, StoredForecast
    from atlas.composition import Atlas
    from maia.views.curves import Band

DERIVED_FORECASTS: Final = f"forecasts and their scores: {ATTRIBUTION}"
GOAL: Final = (0.78, 0.82)
"""The share of the 80 % intervals that should hold."""
_MOST_CHECKS: Final = 100_000
"""Only the latest are scored; more would take long and tell nothing new."""
_LEAST_CHANCES: Final = 100
"""Of fewer forecasts, too few were in the top 5 % to say how well they were ranked."""
_HORIZONS: Final = {24: "24 h", 168: "7 d"}
_LONG_CURVE: Final = timedelta(days=3)


@dataclass(frozen=True, slots=True)
class ExpectedViews:
    """The views expected at an instant, `hours` after the count that the forecast was made from.

    80 % of such intervals from `low` to `high` hold. `top_chance` is the probability to gain as much by then
    as the fastest 5 % of the videos of that age. They are None while too little is learnt.
    """

    hours: int
    at: datetime
    views: float
    low: float | None
    high: float | None
    top_chance: float | None


@dataclass(frozen=True, slots=True)
class VideoForecast:
    """What is expected of a video, from its count at `made_at`."""

    made_at: datetime
    views: int
    day: ExpectedViews
    week: ExpectedViews

    @classmethod
    def of(cls, stored: StoredForecast) -> VideoForecast:
        day = stored.day, stored.day_low, stored.day_high, stored.day_top
        week = stored.week, stored.week_low, stored.week_high, stored.week_top
        at = stored.made_at
        return cls(
            at,
            stored.views,
            ExpectedViews(24, at + timedelta(hours=24), *day),
            ExpectedViews(168, at + timedelta(hours=168), *week),
        )

    @property
    def gain(self) -> float:
        """The views expected to be gained in 24 hours."""
        return self.day.views - self.views

    def band(self, curve_begins: datetime) -> Band:
        """The forecast as the continuation of a curve; for a week only if the curve is long itself."""
        from maia.views.curves import Band

        ends = [self.day, self.week] if self.made_at - curve_begins >= _LONG_CURVE else [self.day]
        return Band.of(
            [self.made_at, *(end.at for end in ends)],
            [self.views, *(end.low for end in ends)],
            [self.views, *(end.views for end in ends)],
            [self.views, *(end.high for end in ends)],
        )


async def forecasts_of(atlas: Atlas, ids: Sequence[str]) -> dict[str, VideoForecast]:
    """The last forecasts of some videos, by id."""
    from atlas.adapters.forecasts import ForecastsDAO

    stored = await ForecastsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).of_videos(ids)
    return {id_: VideoForecast.of(each) for id_, each in stored.items()}


# How good they were


@dataclass(frozen=True, slots=True)
class ForecastScore:
    """How good the forecasts of an age class were, as of when they were made.

    `error` is the median absolute difference of log(1 + views), so 0.1 is about a tenth. `ratio` is this
    over the error of damped velocity, for the videos that had one: below 1 is better than that. `coverage` is
    the share of the 80 % intervals that held, with its own 95 % interval. `width` is the median of
    log(high / low). `average_precision` is that of the chance to be in the top 5 %. None is unknown.
    """

    horizon_h: int
    age_class: int
    age: str
    forecasts: int
    error: float
    damped_error: float | None
    ratio: float | None
    intervals: int
    coverage: float | None
    coverage_low: float | None
    coverage_high: float | None
    width: float | None
    average_precision: float | None

    @property
    def is_off(self) -> bool:
        """Whether the coverage is outside the goal by more than chance explains."""
        low, high = self.coverage_low, self.coverage_high
        return low is not None and high is not None and (high < GOAL[0] or low > GOAL[1])


@dataclass(frozen=True, slots=True)
class ForecastScores:
    """Scores by horizon and age class, of the forecasts settled since an instant.

    `waiting` forecasts are still to be compared with what comes, the first at `first_due_at`. If
    `is_cut`, only the latest were scored.
    """

    now: datetime
    since: datetime
    attribution: str
    checked: int
    is_cut: bool
    waiting: int
    first_due_at: datetime | None
    scores: tuple[ForecastScore, ...]


async def forecast_scores(
    atlas: Atlas, since: timedelta | datetime, until: datetime | None = None
) -> ForecastScores:
    """How good the forecasts were that were compared with what came since an instant, or in a span."""
    from atlas.adapters.forecasts import ForecastsDAO

    now = atlas.clock.now()
    begin = since if isinstance(since, datetime) else now - since
    dao = ForecastsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    checks = await dao.settled(begin, _MOST_CHECKS, until)
    waiting, first_due_at = await dao.waiting()
    groups: dict[tuple[int, int], list[SettledCheck]] = {}
    for check in checks:
        groups.setdefault((check.horizon_h, check.age_class), []).append(check)
    scores = tuple(_score(*group, groups[group]) for group in sorted(groups))
    is_cut = len(checks) == _MOST_CHECKS
    return ForecastScores(now, begin, DERIVED_FORECASTS, len(checks), is_cut, waiting, first_due_at, scores)


def _score(horizon_h: int, age_class: int, checks: Sequence[SettledCheck]) -> ForecastScore:
    import numpy as np

    from maia.learning.calibration import log_error, score
    from maia.learning.velocity import column

    expected, damped, actual = (
        column([getattr(check, name) for check in checks]) for name in ("expected", "damped", "actual")
    )
    errors, damped_errors = np.abs(log_error(expected, actual)), np.abs(log_error(damped, actual))
    compared = np.isfinite(damped_errors)
    theirs = float(np.median(damped_errors[compared])) if compared.any() else None
    ratio = float(np.median(errors[compared])) / theirs if theirs else None
    intervals = score(expected, [each.low for each in checks], [each.high for each in checks], actual)
    return ForecastScore(
        horizon_h=horizon_h,
        age_class=age_class,
        age=ages(age_class),
        forecasts=len(checks),
        error=float(np.median(errors)),
        damped_error=theirs,
        ratio=ratio,
        intervals=intervals.videos,
        coverage=_finite(intervals.coverage),
        coverage_low=_finite(intervals.coverage_low),
        coverage_high=_finite(intervals.coverage_high),
        width=_finite(intervals.width),
        average_precision=_average_precision(checks),
    )


def _average_precision(checks: Sequence[SettledCheck]) -> float | None:
    """How well the chances ranked the videos that came to be in the top 5 % of these."""
    import numpy as np

    from maia.learning.calibration import average_precision, top_of_groups

    told = [check for check in checks if check.top is not None]
    if len(told) < _LEAST_CHANCES:
        return None
    gains = [check.actual - check.views for check in told]
    fastest = top_of_groups(np.zeros(len(told), dtype=np.int64), gains)
    return _finite(average_precision(fastest, [check.top for check in told]))


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def ages(age_class: int) -> str:
    """An age class in words, such as 6–12 h."""
    from maia.learning.velocity import AGE_CLASS_EDGES_H

    edges = (0.0, *AGE_CLASS_EDGES_H)
    low = edges[age_class]
    if age_class == len(AGE_CLASS_EDGES_H):
        return f"over {low / 24:g} d"
    high = edges[age_class + 1]
    return f"{low:g}–{high:g} h" if high <= 48 else f"{low / 24:g}–{high / 24:g} d"


def horizon(horizon_h: int) -> str:
    """A horizon in words: 24 h or 7 d."""
    return _HORIZONS.get(horizon_h, f"{horizon_h} h")
