"""Forecasts the views of videos that were counted lately, checks a sample of forecasts, and learns from it.

What a forecast was made from is kept until its hour has come; then the views that came are learnt, in the
transaction that settles the check. So each outcome is learnt once, and every figure about the forecasts'
quality is of forecasts made before the outcome was known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
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
    DAY_H,
    HORIZONS_H,
    WEEK_H,
    Forecaster,
    Forecasts,
    Snapshots,
    damped_views,
    views_later,
)
from maia.learning.velocity import Floats, column

MODEL: Final = "forecaster"
CURSOR: Final = "forecasts"
CHECKS_KEPT: Final = timedelta(days=30)

_PAGE: Final = 5_000
_DUE_PAGE: Final = 5_000
_CHECKS_A_CLASS: Final = 25
"""Of each page of forecasts, how many of an age class are checked."""
_PATIENCE: Final = timedelta(hours=48)
"""How long to wait for a count after the instant of a check, before it is given up."""
_LATE: Final = timedelta(minutes=10)
_START: Final = datetime(2000, 1, 1, tzinfo=UTC)
_SHORT_S: Final = 60
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

    async def run(self) -> Forecasted:
        """Learn from the checks that are due, then forecast every video counted since the last run."""
        stored = (await self.patterns.models([MODEL])).get(MODEL)
        forecaster = restored_model(Forecaster, stored)
        seen = stored.observations if stored else 0
        while due := await self.dao.due_checks(self.atlas.clock.now() - _LATE, _DUE_PAGE):
            settled, learnt = self._settle(forecaster, due)
            if not settled:
                break
            seen += learnt
            async with self.dao.transaction() as dao:
                await dao.settle(settled)
                model = Model(MODEL, Forecaster.version, forecaster.state(), seen)
                await self.patterns.joining(dao).save_models([model])
            if len(settled) < len(due):
                break
        await self._forecast_all(forecaster)
        return self.counts

    # Checks

    def _settle(self, forecaster: Forecaster, due: Sequence[DueCheck]) -> tuple[list[Settlement], int]:
        """Learn from the checks whose outcome is known; returns them with those that are given up."""
        given_up_before = self.atlas.clock.now() - _PATIENCE
        settled: list[Settlement] = []
        learnt = 0
        for horizon_h in HORIZONS_H:
            checks = [check for check in due if check.horizon_h == int(horizon_h)]
            if not checks:
                continue
            actual = _outcomes(checks, horizon_h)
            known = np.isfinite(actual)
            if known.any():
                rows = np.array([check.snapshot for check in checks], dtype=np.float64)[known]
                forecaster.learn(Snapshots(*rows.T), actual[known], horizon_h)
                learnt += int(known.sum())
            for check, views, is_known in zip(checks, actual.tolist(), known.tolist(), strict=True):
                if is_known or check.due_at < given_up_before:
                    outcome = views if is_known else None
                    settled.append(Settlement(check.video_id, check.made_at, check.horizon_h, outcome))
                    self.counts.unknown += not is_known
        self.counts.checked += learnt
        return settled, learnt

    # Forecasts

    async def _forecast_all(self, forecaster: Forecaster) -> None:
        position = await self.patterns.cursor(CURSOR, _START.isoformat())
        since, until = datetime.fromisoformat(position), self.atlas.clock.now()
        after = ""
        while page := await self.dao.to_forecast(after, since, until, _PAGE):
            forecasts, checks = _forecast(forecaster, page)
            async with self.dao.transaction() as dao:
                await dao.store(forecasts)
                await dao.add_checks(checks)
            self.counts.videos += len(forecasts)
            after = page[-1].video_id
            if len(page) < _PAGE:
                break
        # Samples that are stored late have a second chance: what is forecast again is the same.
        moved = max(since, until - _LATE).isoformat()
        if moved != position:
            await self.patterns.move_cursor(CURSOR, position, moved)


def _forecast(
    forecaster: Forecaster, page: Sequence[ToForecast]
) -> tuple[list[StoredForecast], list[NewCheck]]:
    snapshots = snapshots_of(page)
    day, week = (forecaster.forecast(snapshots, horizon_h) for horizon_h in HORIZONS_H)
    columns = (
        day.low,
        day.median,
        day.high,
        day.top_chance,
        week.low,
        week.median,
        week.high,
        week.top_chance,
    )
    rows = np.nan_to_num(np.column_stack(columns)).tolist()
    stored = [
        StoredForecast(video.video_id, video.last_at, video.last_views, *row)
        for video, row in zip(page, rows, strict=True)
    ]
    return stored, _checks(page, snapshots, {DAY_H: day, WEEK_H: week})


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
        # 1970 began on a Thursday.
        [(video.last_at.timestamp() / 3600 + 72) % 168 for video in page],
        [None if not video.duration_s else float(video.duration_s <= _SHORT_S) for video in page],
        usual,
    )


def _checks(
    page: Sequence[ToForecast], snapshots: Snapshots, forecasts: dict[float, Forecasts]
) -> list[NewCheck]:
    """The forecasts to check: some videos of each age class, by a hash, so that a rerun chooses alike."""
    by_class: dict[int, list[tuple[bytes, int]]] = {}
    for row, video in enumerate(page):
        digest = blake2b(f"{video.video_id} {video.last_at.timestamp()}".encode(), digest_size=8).digest()
        by_class.setdefault(video.age_class or 0, []).append((digest, row))
    chosen = [row for rows in by_class.values() for _, row in sorted(rows)[:_CHECKS_A_CLASS]]
    table = np.column_stack(astuple(snapshots))
    checks = []
    for horizon_h, made in forecasts.items():
        damped = damped_views(snapshots, horizon_h)
        for row in chosen:
            video = page[row]
            checks.append(
                NewCheck(
                    video.video_id,
                    video.last_at,
                    int(horizon_h),
                    video.last_at + timedelta(hours=horizon_h),
                    video.age_class or 0,
                    table[row].tolist(),
                    video.last_views,
                    float(made.low[row]),
                    float(made.median[row]),
                    float(made.high[row]),
                    float(np.nan_to_num(made.top_chance[row])),
                    float(damped[row]) if np.isfinite(damped[row]) else None,
                )
            )
    return checks


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
