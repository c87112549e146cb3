"""The video view: everything known about a video, its samples and its breakouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from maia.views.words import DERIVED, Length, State, length_of, plain, state_of, video_url, zone_name

if TYPE_CHECKING:
    from atlas.adapters.board import BreakoutLine, SampleLine, VideoDetails
    from atlas.adapters.discovery import VideoSource
    from atlas.composition import Atlas
    from atlas.config import Settings
    from maia.views.curves import Band, Curve
    from maia.views.forecasts import VideoForecast

_SAME: Final = 1e-3
_FAR_PAST: Final = datetime(2005, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class VideoView:
    """A video with its samples, oldest first, its breakouts, newest first, and what met it, the finder first.

    The zero duration that YouTube gives for upcoming and live broadcasts is None here.
    """

    now: datetime
    details: VideoDetails
    samples: tuple[SampleLine, ...]
    breakouts: tuple[BreakoutLine, ...]
    sources: tuple[VideoSource, ...] = ()
    by_forecast: float | None = None
    """By what factor the forecast changed the wait for the next sample; None if it didn't."""
    forecast: VideoForecast | None = None
    """None also if its last instant has passed, or the video is gone."""

    @property
    def state(self) -> State:
        return state_of(
            self.details.status, self.details.live_broadcast_content, tracked=self.details.zone is not None
        )

    @property
    def length(self) -> Length | None:
        return length_of(self.details.duration_s)

    @property
    def found_by(self) -> str | None:
        """The way of discovery that found it; None if that was before they were noted, or by hand."""
        noted = next((each.arm for each in self.sources if each.is_first), None)
        return noted or ("search" if self.details.discovered_by else None)

    @property
    def lag_s(self) -> float | None:
        """How overdue the next sample is; negative if it isn't due yet, None if the video is not sampled."""
        due = self.details.next_due_at
        return None if due is None or self.details.status != "live" else (self.now - due).total_seconds()

    def curve(self) -> Curve:
        from maia.views.curves import Curve

        columns = zip(*((s.sampled_at, s.views, s.velocity) for s in self.samples), strict=True)
        return Curve.of(*columns)

    def band(self) -> Band | None:
        """The forecast as a continuation of the curve, if the curve reaches it."""
        if self.forecast is None or not self.samples or self.samples[-1].sampled_at < self.forecast.made_at:
            return None
        return self.forecast.band(self.samples[0].sampled_at)

    def as_json(self) -> Mapping[str, Any]:
        """The view as one flat object, with samples and breakouts as lists."""
        details = {field.name: getattr(self.details, field.name) for field in fields(self.details)}
        samples = [plain(sample) for sample in self.samples]
        for sample in samples:
            del sample["video_id"]
        found: Mapping[str, Any] = plain(
            {
                "now": self.now,
                "attribution": DERIVED,
                "url": video_url(self.details.id),
                **details,
                "state": self.state,
                "length": self.length,
                "zone": zone_name(self.details.zone),
                "pinned_zone": zone_name(self.details.pinned_zone),
                "samples_in_window": len(self.samples),
                "found_by": self.found_by,
                "lag_s": self.lag_s,
                "interval_by_forecast": self.by_forecast,
                "sources": self.sources,
                "forecast": self.forecast,
                "breakouts": [breakout.payload for breakout in self.breakouts],
                "samples": samples,
            }
        )
        return found


async def video(atlas: Atlas, video_id: str, window: timedelta | None = None) -> VideoView | None:
    """A video with its samples in the window, or all of them; None if it isn't stored."""
    from atlas.adapters.board import BoardDAO
    from atlas.adapters.discovery import DiscoveryDAO
    from maia.views.forecasts import forecasts_of

    dao, now = BoardDAO(atlas.db, clock=atlas.clock, settings=atlas.settings), atlas.clock.now()
    details = await dao.video(video_id)
    if details is None:
        return None
    since = _FAR_PAST if window is None else now - window
    samples = (await dao.samples([video_id], since, now))[video_id]
    breakouts = await dao.breakouts(video_id)
    sources = await DiscoveryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).sources_of(video_id)
    forecast = (await forecasts_of(atlas, [video_id])).get(video_id)
    if forecast is not None and (details.status != "live" or forecast.week.at <= now):
        forecast = None
    known = replace(details, duration_s=details.duration_s or None)
    changed_by = _by_forecast(atlas.settings, details)
    return VideoView(now, known, tuple(samples), tuple(breakouts), tuple(sources), changed_by, forecast)


def _by_forecast(settings: Settings, details: VideoDetails) -> float | None:
    """The wait as it was chosen, over what it is without a forecast.

    Only the forecast makes a wait shorter than that, and longer in a zone that is not slowed down to save
    quota: then the wait would be the zone's own interval.
    """
    import numpy as np

    from maia.learning.zones import interval_h
    from maia.views.clock import zone_settings

    zone, chosen = details.zone, details.interval_h
    if zone is None or chosen is None or details.pinned_zone is not None or details.status != "live":
        return None
    if details.live_broadcast_content in ("live", "upcoming") or not settings.learner.forecast_intervals:
        return None
    zones = zone_settings(settings.tracker)
    usual = float(interval_h(np.array([zone]), [details.velocity], [details.acceleration], zones)[0])
    is_saving = chosen > usual and abs(chosen - zones.intervals_h[zone]) < _SAME * chosen
    return None if is_saving or abs(chosen - usual) < _SAME * usual else chosen / usual


async def is_stored(atlas: Atlas, video_id: str) -> bool:
    """Whether a video is known here."""
    from atlas.adapters.board import BoardDAO

    dao = BoardDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    return bool(await dao.names_of([video_id]))
