"""Forecasts of views, and the checks of a sample of them against what came."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import TypeAlias

from atlas.adapters.dao import DAO

SamplePosition: TypeAlias = tuple[datetime, str]
"""A sample's place in the log by time: its instant and its video."""


@dataclass(frozen=True, slots=True)
class ToForecast:
    """What is known of a video at its last count; `norm_mean` is its channel's usual log(1 + views/h)."""

    video_id: str
    last_at: datetime
    born_at: datetime
    last_views: int
    velocity: float | None
    acceleration: float | None
    weight: float | None
    duration_s: int | None
    norm_videos: int | None
    norm_mean: float | None


@dataclass(frozen=True, slots=True)
class StoredForecast:
    """Views 24 hours and 7 days after `made_at`: median, 80 % interval, and the chance of the top 5 %.

    `views` is the count that it was made from. Interval and chance are None while too little is learnt.
    """

    video_id: str
    made_at: datetime
    views: int
    day_low: float | None
    day: float
    day_high: float | None
    day_top: float | None
    week_low: float | None
    week: float
    week_high: float | None
    week_top: float | None


@dataclass(frozen=True, slots=True)
class NewCheck:
    """A forecast to be compared with what comes, and the eight numbers that it was made from."""

    video_id: str
    made_at: datetime
    horizon_h: int
    due_at: datetime
    age_class: int
    snapshot: Sequence[float]
    views: int
    low: float | None
    expected: float
    high: float | None
    top: float | None
    damped: float | None


@dataclass(frozen=True, slots=True)
class DueCheck:
    """A check that is due, with the counts next to the instant that it is about."""

    video_id: str
    made_at: datetime
    horizon_h: int
    due_at: datetime
    snapshot: Sequence[float]
    expected: float
    earlier_at: datetime | None
    earlier_views: int | None
    later_at: datetime | None
    later_views: int | None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What came of a check; `actual` is None if no sample tells."""

    video_id: str
    made_at: datetime
    horizon_h: int
    actual: float | None


@dataclass(frozen=True, slots=True)
class SettledCheck:
    """A forecast and what came."""

    horizon_h: int
    age_class: int
    made_at: datetime
    views: int
    low: float | None
    expected: float
    high: float | None
    top: float | None
    damped: float | None
    actual: float
    settled_at: datetime


@dataclass(frozen=True, slots=True)
class LatestCheck:
    """A forecast of a video's views and what came, with the video's names."""

    video_id: str
    title: str | None
    channel_id: str
    channel_title: str | None
    horizon_h: int
    made_at: datetime
    views: int
    low: float | None
    expected: float
    high: float | None
    actual: float


class ForecastsDAO(DAO):
    """Stores and checks forecasts."""

    async def to_forecast(
        self, after: SamplePosition, until: datetime, limit: int
    ) -> tuple[list[ToForecast], SamplePosition | None]:
        """What is known of the live videos whose last count is among the next samples of the log.

        Also returns where to go on, None if there are no more samples until then.
        """
        rows = await self._executor.fetch("forecasts.to_forecast", *after, until, limit)
        videos = [
            ToForecast(**{name: row[name] for name in ToForecast.__slots__})
            for row in rows
            if row["last_at"] is not None
        ]
        is_last = len(rows) < limit
        return videos, None if is_last else (rows[-1]["sampled_at"], rows[-1]["video_id"])

    async def store(self, forecasts: Sequence[StoredForecast]) -> None:
        """Store forecasts, in place of earlier ones of the same videos."""
        columns = zip(*map(astuple, forecasts), strict=True) if forecasts else ()
        if forecasts:
            await self._executor.execute("forecasts.store", *map(list, columns))

    async def add_checks(self, checks: Sequence[NewCheck]) -> None:
        """Remember forecasts to check."""
        if not checks:
            return
        await self._executor.execute(
            "forecasts.add_checks",
            [check.video_id for check in checks],
            [check.made_at for check in checks],
            [check.horizon_h for check in checks],
            [check.due_at for check in checks],
            [check.age_class for check in checks],
            [number for check in checks for number in check.snapshot],
            [check.views for check in checks],
            [check.low for check in checks],
            [check.expected for check in checks],
            [check.high for check in checks],
            [check.top for check in checks],
            [check.damped for check in checks],
        )

    async def due_checks(self, until: datetime, limit: int) -> list[DueCheck]:
        """Checks that can be settled by what was sampled up to an instant, the earliest first."""
        epoch = self._settings.tracker.methodology_epoch
        rows = await self._executor.fetch("forecasts.due_checks", until, limit, epoch)
        return [DueCheck(**row) for row in rows]

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Write what came of checks."""
        await self._executor.execute(
            "forecasts.settle",
            [each.video_id for each in settlements],
            [each.made_at for each in settlements],
            [each.horizon_h for each in settlements],
            [each.actual for each in settlements],
            self._clock.now(),
        )

    async def settled(self, since: datetime, limit: int, until: datetime | None = None) -> list[SettledCheck]:
        """Forecasts and what came, the latest first."""
        rows = await self._executor.fetch("forecasts.settled", since, limit, until)
        return [SettledCheck(**row) for row in rows]

    async def latest_settled(self, horizon_h: int, limit: int) -> list[LatestCheck]:
        """The last forecasts over a horizon of which it is known what came, the latest first."""
        rows = await self._executor.fetch("forecasts.latest_settled", horizon_h, limit)
        return [LatestCheck(**row) for row in rows]

    async def waiting(self) -> tuple[int, datetime | None]:
        """How many checks wait for what comes, and when the first is due."""
        row = await self._executor.fetchrow("forecasts.waiting")
        assert row is not None
        return row["checks"], row["first_due_at"]

    async def of_videos(self, ids: Iterable[str]) -> dict[str, StoredForecast]:
        """The last forecasts of some videos, by id."""
        rows = await self._executor.fetch("forecasts.of_videos", [*ids])
        return {row["video_id"]: StoredForecast(**row) for row in rows}

    async def expire(self, before: datetime) -> None:
        """Delete checks that were settled before an instant."""
        await self._executor.execute("forecasts.expire", before)
