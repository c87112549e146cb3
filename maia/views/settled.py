"""The settled view: what was expected of videos, and what came."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from maia.views.words import DERIVED, video_url

if TYPE_CHECKING:
    from atlas.adapters.forecasts import LatestCheck
    from atlas.composition import Atlas


@dataclass(frozen=True, slots=True)
class SettledForecast:
    """A forecast of views `hours` after `made_at`, and the views that came.

    `held` says whether they were within the 80 % interval; None without an interval.
    """

    video_id: str
    title: str | None
    channel_id: str
    channel_title: str | None
    hours: int
    made_at: datetime
    views: int
    low: float | None
    expected: float
    high: float | None
    actual: float
    held: bool | None
    url: str


@dataclass(frozen=True, slots=True)
class SettledForecasts:
    """The forecasts that were settled last, newest first; of those with an interval, `held` held it."""

    attribution: str
    forecasts: tuple[SettledForecast, ...]

    @property
    def held(self) -> int:
        return sum(each.held is True for each in self.forecasts)

    @property
    def judged(self) -> int:
        return sum(each.held is not None for each in self.forecasts)


async def settled(atlas: Atlas, limit: int = 10, horizon_h: int = 24) -> SettledForecasts:
    """The last forecasts over a horizon of which it is known what came."""
    from atlas.adapters.forecasts import ForecastsDAO

    dao = ForecastsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    return SettledForecasts(DERIVED, tuple(map(_row, await dao.latest_settled(horizon_h, limit))))


def _row(check: LatestCheck) -> SettledForecast:
    held = None
    if check.low is not None and check.high is not None:
        held = check.low <= check.actual <= check.high
    return SettledForecast(
        video_id=check.video_id,
        title=check.title,
        channel_id=check.channel_id,
        channel_title=check.channel_title,
        hours=check.horizon_h,
        made_at=check.made_at,
        views=check.views,
        low=check.low,
        expected=check.expected,
        high=check.high,
        actual=check.actual,
        held=held,
        url=video_url(check.video_id),
    )
