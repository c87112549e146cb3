"""The leaderboard view: the videos that grow fastest, and how each grew over the same span."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

from maia.views.forecasts import VideoForecast
from maia.views.words import (
    DERIVED,
    Length,
    State,
    ZoneName,
    length_of,
    state_of,
    video_url,
    zone_name,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.adapters.board import Filters, Leader, Place
    from atlas.composition import Atlas
    from maia.views.curves import Curve

By = Literal["velocity", "score", "acceleration", "relative", "forecast"]

BARS: Final = 24
"""Growth is given for this many equal parts of the span."""
_USUAL_SPAN: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class RankedVideo:
    """A video on the leaderboard.

    `leads_by` is the figure that ranks it; `growth` holds its views per hour in equal parts of the span, None
    where nothing was measured.
    """

    rank: int
    id: str
    title: str | None
    channel_id: str
    channel_title: str | None
    category_id: int | None
    published_at: datetime | None
    duration_s: int | None
    length: Length | None
    state: State
    zone: ZoneName | None
    last_at: datetime | None
    views: int | None
    velocity: float | None
    acceleration: float | None
    relative_velocity: float | None
    viral_score: float | None
    leads_by: float
    growth: tuple[float | None, ...]
    url: str
    forecast: VideoForecast | None


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The leaders in order; `window_h` is None if they are ranked by current figures."""

    by: By
    window_h: float | None
    now: datetime
    growth_since: datetime
    attribution: str
    videos: tuple[RankedVideo, ...]


async def leaderboard(
    atlas: Atlas,
    by: By = "velocity",
    limit: int = 10,
    filters: Filters | None = None,
    window: timedelta | None = None,
    after: Place | None = None,
    first_rank: int = 1,
) -> Leaderboard:
    """The leaders, with their growth over the window, or else since their first sample of the last week.

    They begin after a place with the rank given; a window ends where it did when that place was ranked.
    """
    from atlas.adapters.board import BoardDAO, Lead
    from maia.views.curves import Curve
    from maia.views.forecasts import forecasts_of

    dao = BoardDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    now = atlas.clock.now() if after is None else after.at
    leaders = await dao.top(Lead(by), limit, filters, window, after)
    ids = [leader.id for leader in leaders]
    forecasts = await forecasts_of(atlas, ids)
    samples = await dao.samples(ids, now - (window or _USUAL_SPAN), now)
    curves = [
        Curve.of([s.sampled_at for s in lines], [s.views for s in lines], [s.velocity for s in lines])
        for lines in samples.values()
    ]
    since = now - window if window is not None else _first(curves, now)
    return Leaderboard(
        by=by,
        window_h=None if window is None else window / timedelta(hours=1),
        now=now,
        growth_since=since,
        attribution=DERIVED,
        videos=tuple(
            _row(rank, leader, _growth(curve, since, now), forecasts.get(leader.id))
            for rank, (leader, curve) in enumerate(zip(leaders, curves, strict=True), first_rank)
        ),
    )


def _first(curves: Sequence[Curve], now: datetime) -> datetime:
    """The instant of the first sample in the last week."""
    begins = [curve.at_s[0] for curve in curves if len(curve.at_s)]
    return datetime.fromtimestamp(min(begins), UTC) if begins else now - _USUAL_SPAN


def _growth(curve: Curve, since: datetime, until: datetime) -> tuple[float | None, ...]:
    from maia.views.curves import rates

    found = rates(curve, since.timestamp(), until.timestamp(), BARS).tolist()
    return tuple(None if rate != rate else rate for rate in found)


def _row(
    rank: int, leader: Leader, growth: tuple[float | None, ...], forecast: VideoForecast | None
) -> RankedVideo:
    return RankedVideo(
        rank=rank,
        id=leader.id,
        title=leader.title,
        channel_id=leader.channel_id,
        channel_title=leader.channel_title,
        category_id=leader.category_id,
        published_at=leader.published_at,
        duration_s=leader.duration_s or None,
        length=length_of(leader.duration_s),
        state=state_of("live", leader.live_broadcast_content, tracked=True),
        zone=zone_name(leader.zone),
        last_at=leader.last_at,
        views=leader.views,
        velocity=leader.velocity,
        acceleration=leader.acceleration,
        relative_velocity=leader.relative_velocity,
        viral_score=leader.viral_score,
        leads_by=leader.leads_by,
        growth=growth,
        url=video_url(leader.id),
        forecast=forecast,
    )
