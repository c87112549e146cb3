"""Forecasts the views of videos that were counted lately, checks a sample of forecasts, and learns from it.

What a forecast was made from is kept until its hour has come; then the views that came are learnt, in the
transaction that settles the check. So each outcome is learnt once, and every figure about the forecasts'
quality is of forecasts made before the outcome was known.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Final

import numpy as np

from atlas.adapters.forecasts import (
    DueCheck,
    ForecastsDAO,
    NewCheck,
    Settlement,
    StoredForecast,
    ToForecast,
)
from atlas.adapters.patterns import Model, PatternsDAO
from atlas.composition import Atlas
from maia.learner.knowledge import restored_model
from maia.learning.forecasts import (
    HORIZONS_H,
    Forecaster,
    Forecasts,
)
from maia.learning.typical_curve import damped_views, views_later
from maia.learning.velocity import Booleans, Floats, age_class, column
from maia.learning.video_snapshots import Snapshots, hours_of_week
from maia.views.words import SHORT_AT_MOST_S

MODEL: Final = "forecaster"
FORECAST: Final = "forecasts"
"""The cursor of the samples up to which videos are forecast: an instant and an id."""
SETTLED: Final = "forecast_checks"
"""The cursor of what was learnt: how many checks were settled."""
CHECKS_KEPT: Final = timedelta(days=30)
"""How long checks are kept once they are settled, for `maia learner score`."""

_PAGE: Final = 5_000
_CHECKS_A_CLASS: Final = 25
"""Of each page of forecasts, how many of an age class are checked."""
_SPAN: Final = timedelta(hours=1)
"""How much of the log of samples is read at once; a longer span would be sorted anew for each page."""
_LATE: Final = timedelta(minutes=10)
"""How much later than it was taken a sample may be stored."""
_OLDEST: Final = timedelta(days=7)
"""A video whose last count is older than this is not forecast."""
_LAST_ID: Final = "~"
_LEAST_NORM: Final = 3
_HOUR: Final = timedelta(hours=1)


@dataclass(slots=True)
class Forecasted:
    """How many videos were forecast, and how many earlier forecasts were compared with what came."""

    videos: int = 0
    checked: int = 0
    unknown: int = 0


class Forecasting:
    """The forecasts of one cycle."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        self.dao = ForecastsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self.patterns = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self.counts = Forecasted()

    async def run(self, *, anew: bool = False) -> Forecasted:
        """Learn from the checks that are due, then forecast every video counted since the last run.

        With `anew`, the others of the last week are forecast again, with what is known by now.
        """
        forecaster = await self._settle_all()
        await self._forecast_all(forecaster, anew=anew)
        await self.dao.expire(self.atlas.clock.now() - CHECKS_KEPT)
        return self.counts

    # Checks

    async def _settle_all(self) -> Forecaster:
        """Settle the checks of which it is known what came, page by page; returns what knows it all."""
        # Read before the model: if another learner settles some in between, moving the cursor fails.
        position = await self.patterns.cursor(SETTLED, "0")
        stored = (await self.patterns.models([MODEL])).get(MODEL)
        forecaster = restored_model(Forecaster, stored)
        learnt = stored.observations if stored else 0
        while due := await self.dao.due_checks(self.atlas.clock.now() - _LATE, _PAGE):
            settlements = self._learn(forecaster, due)
            learnt += sum(each.actual is not None for each in settlements)
            end = str(int(position) + len(settlements))
            async with self.dao.transaction() as dao:
                patterns = self.patterns.joining(dao)
                await patterns.move_cursor(SETTLED, position, end)
                await dao.settle(settlements)
                await patterns.save_models([Model(MODEL, Forecaster.version, forecaster.state(), learnt)])
            position = end
        return forecaster

    def _learn(self, forecaster: Forecaster, due: Sequence[DueCheck]) -> list[Settlement]:
        """Learn what came of checks, the earliest first; what isn't known by now never will be."""
        settlements: list[Settlement] = []
        for horizon_h in sorted({check.horizon_h for check in due}):
            checks = [check for check in due if check.horizon_h == horizon_h]
            actual = _outcomes(checks, horizon_h)
            if horizon_h in HORIZONS_H:
                snapshots = Snapshots(*np.array([check.snapshot for check in checks], dtype=np.float64).T)
                forecaster.learn(snapshots, actual, horizon_h, [check.expected for check in checks])
            settlements += (
                Settlement(check.video_id, check.made_at, horizon_h, views)
                for check, views in zip(checks, _known(actual), strict=True)
            )
        known = sum(each.actual is not None for each in settlements)
        self.counts.checked += known
        self.counts.unknown += len(settlements) - known
        return settlements

    # Forecasts

    async def _forecast_all(self, forecaster: Forecaster, *, anew: bool) -> None:
        now = self.atlas.clock.now()
        position = await self.patterns.cursor(FORECAST, _position(now - _OLDEST, ""))
        begun, oldest = _instant_and_id(position), (now - _OLDEST, "")
        if begun > (now, _LAST_ID):
            # The clock was ahead. What was forecast then is forecast again.
            begun = oldest
        if anew:
            async for page, _ in self._pages(oldest, begun):
                await self._store_again(forecaster, page)
        async for page, reached in self._pages(max(begun, oldest), (now, _LAST_ID)):
            if page or reached[0] == now:
                # Samples that are stored late have a second chance: what is forecast again is the same.
                begun = max(begun, min(reached, (now - _LATE, _LAST_ID)))
                await self._store(forecaster, page, position, _position(*begun))
                position = _position(*begun)

    async def _pages(
        self, reached: tuple[datetime, str], end: tuple[datetime, str]
    ) -> AsyncIterator[tuple[Sequence[ToForecast], tuple[datetime, str]]]:
        """The videos counted last after one instant and up to another, and how far each page goes."""
        while reached < end:
            until = min(reached[0] + _SPAN, end[0])
            page, last = await self.dao.to_forecast(reached, until, _PAGE)
            reached = last or (until, _LAST_ID)
            yield page, reached

    async def _store_again(self, forecaster: Forecaster, page: Sequence[ToForecast]) -> None:
        """Store forecasts anew. They aren't checked: some of what came of them may be learnt already."""
        _, columns = _forecasts_of(forecaster, page)
        async with self.dao.transaction() as dao:
            await dao.store(_to_store(page, columns))
        self.counts.videos += len(page)

    async def _store(
        self, forecaster: Forecaster, page: Sequence[ToForecast], position: str, end: str
    ) -> None:
        snapshots, columns = _forecasts_of(forecaster, page)
        async with self.dao.transaction() as dao:
            await self.patterns.joining(dao).move_cursor(FORECAST, position, end)
            await dao.store(_to_store(page, columns))
            await dao.add_checks(_checks(page, snapshots, columns))
        self.counts.videos += len(page)


def _position(at: datetime, id_: str) -> str:
    return f"{at.astimezone(UTC).isoformat()} {id_}"


def _instant_and_id(position: str) -> tuple[datetime, str]:
    instant, _, id_ = position.partition(" ")
    return datetime.fromisoformat(instant), id_


def _known(values: Floats) -> list[float | None]:
    """The values, with None for NaN."""
    return [None if value != value else value for value in values.tolist()]


@dataclass(frozen=True, slots=True)
class _Columns:
    """Forecasts as they are stored; an interval or chance of None can't be told yet."""

    low: list[float | None]
    median: list[float]
    high: list[float | None]
    top_chance: list[float | None]

    @classmethod
    def of(cls, made: Forecasts, knows_spread: Booleans) -> _Columns:
        low, high = (np.where(knows_spread, end, np.nan) for end in (made.low, made.high))
        return cls(_known(low), made.median.tolist(), _known(high), _known(made.top_chance))

    def rows(self) -> Iterator[tuple[float | None, float, float | None, float | None]]:
        return zip(self.low, self.median, self.high, self.top_chance, strict=True)


def _forecasts_of(
    forecaster: Forecaster, page: Sequence[ToForecast]
) -> tuple[Snapshots, dict[float, _Columns]]:
    """What is known of the videos, and their forecasts by how far ahead they look."""
    snapshots = snapshots_of(page)
    each_alone = {
        horizon_h: _Columns.of(
            forecaster.forecast(snapshots, horizon_h), forecaster.knows_spread(snapshots, horizon_h)
        )
        for horizon_h in HORIZONS_H
    }
    return snapshots, _growing(each_alone)


def _growing(columns: Mapping[float, _Columns]) -> dict[float, _Columns]:
    """The forecasts with those for a later hour raised to those for an earlier one: views only grow.

    Each horizon is learnt by itself, so that of a video that hardly moves a later one may come out lower.
    """
    grown: dict[float, _Columns] = {}
    last: _Columns | None = None
    for horizon_h, made in sorted(columns.items()):
        grown[horizon_h] = last = made if last is None else _no_lower(made, last)
    return grown


def _no_lower(made: _Columns, earlier: _Columns) -> _Columns:
    return replace(
        made,
        low=[*map(_higher, made.low, earlier.low)],
        median=[*map(max, made.median, earlier.median)],
        high=[*map(_higher, made.high, earlier.high)],
    )


def _higher(later: float | None, earlier: float | None) -> float | None:
    return later if later is None or earlier is None else max(later, earlier)


def _to_store(page: Sequence[ToForecast], columns: Mapping[float, _Columns]) -> list[StoredForecast]:
    by_horizon = (columns[horizon_h].rows() for horizon_h in HORIZONS_H)
    return [
        StoredForecast(video.video_id, video.last_at, video.last_views, *day, *week)
        for video, day, week in zip(page, *by_horizon, strict=True)
    ]


def snapshots_of(page: Sequence[ToForecast]) -> Snapshots:
    """What is known of the videos at their last count."""
    usual = [
        None
        if video.norm_mean is None or (video.norm_videos or 0) < _LEAST_NORM
        else np.expm1(video.norm_mean)
        for video in page
    ]
    return Snapshots.of(
        [max((video.last_at - video.born_at) / _HOUR, 0.0) for video in page],
        [video.last_views for video in page],
        [video.velocity for video in page],
        [video.acceleration for video in page],
        [video.weight for video in page],
        hours_of_week([video.last_at.timestamp() for video in page]),
        [None if not video.duration_s else float(video.duration_s <= SHORT_AT_MOST_S) for video in page],
        usual,
    )


def _checks(
    page: Sequence[ToForecast], snapshots: Snapshots, columns: Mapping[float, _Columns]
) -> list[NewCheck]:
    classes = age_class(snapshots.age_h).tolist()
    table = np.column_stack(astuple(snapshots)).tolist()
    checks = []
    for horizon_h, made in columns.items():
        damped = _known(damped_views(snapshots, horizon_h))
        for row in _to_check(page, classes):
            video = page[row]
            checks.append(
                NewCheck(
                    video.video_id,
                    video.last_at,
                    int(horizon_h),
                    video.last_at + timedelta(hours=horizon_h),
                    classes[row],
                    table[row],
                    video.last_views,
                    made.low[row],
                    made.median[row],
                    made.high[row],
                    made.top_chance[row],
                    damped[row],
                )
            )
    return checks


def _to_check(page: Sequence[ToForecast], classes: Sequence[int]) -> list[int]:
    """Some rows of each age class, by a hash, so that a repetition chooses alike."""
    by_class: dict[int, list[tuple[bytes, int]]] = {}
    for row, (video, number) in enumerate(zip(page, classes, strict=True)):
        digest = blake2b(f"{video.video_id} {video.last_at.timestamp()}".encode(), digest_size=8).digest()
        by_class.setdefault(number, []).append((digest, row))
    return [row for rows in by_class.values() for _, row in sorted(rows)[:_CHECKS_A_CLASS]]


def _outcomes(checks: Sequence[DueCheck], horizon_h: float) -> Floats:
    """The views that each check's video had when it was due; NaN if the counts around it don't tell."""
    born_h = np.array([check.due_at.timestamp() / 3600 for check in checks]) - np.array(
        [check.snapshot[0] + horizon_h for check in checks]
    )

    def ages(instants: Sequence[datetime | None]) -> Floats:
        hours: Floats = column([None if at is None else at.timestamp() / 3600 for at in instants]) - born_h
        return hours

    return views_later(
        ages([check.due_at for check in checks]),
        ages([check.earlier_at for check in checks]),
        column([check.earlier_views for check in checks]),
        ages([check.later_at for check in checks]),
        column([check.later_views for check in checks]),
        widest_h=horizon_h,
    )
