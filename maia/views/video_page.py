"""The video page: a video with as many samples as a plot needs, and what is similar to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from maia.views.forecasts import VideoForecast
from maia.views.thinning import thinned
from maia.views.words import DERIVED, Length, State, ZoneName, video_url, zone_name

if TYPE_CHECKING:
    from atlas.adapters.board import SampleLine, SimilarVideo
    from atlas.composition import Atlas
    from maia.views.video import VideoView

POINTS: Final = 500
"""Most samples of a page."""
SIMILAR: Final = 12
"""Most similar videos of a page."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample; a count of None is hidden. `velocity`, in views per hour, is of the step before it."""

    sampled_at: datetime
    views: int | None
    likes: int | None
    comments: int | None
    velocity: float | None
    source: str


@dataclass(frozen=True, slots=True)
class Breakout:
    """A breakout: the video grew `times_expected` as fast as its age and history suggested."""

    at: datetime
    views: int | None
    views_per_hour: float | None
    times_expected: float | None
    age_h: float | None


@dataclass(frozen=True, slots=True)
class Source:
    """A way of discovery that met the video; `is_first` if it found it."""

    arm: str
    met_at: datetime
    is_first: bool
    age_h: float | None


@dataclass(frozen=True, slots=True)
class Similar:
    """A video with tags in common: `share` of all tags that either of the two has."""

    id: str
    title: str | None
    channel_id: str
    channel_title: str | None
    published_at: datetime | None
    views: int | None
    velocity: float | None
    share: float
    shared_tags: tuple[str, ...]
    url: str


@dataclass(frozen=True, slots=True)
class VideoPage:
    """A video; velocities are in views per hour, and counts that are hidden or unknown are None.

    `found_by` is the way of discovery that found it, `discovered_by` what was searched for, if only one topic
    was. `samples`, oldest first, are thinned to what a plot needs, with all extremes; `samples_in_window` is
    how many there are.
    """

    now: datetime
    attribution: str
    url: str
    id: str
    title: str | None
    description: str | None
    channel_id: str
    channel_title: str | None
    published_at: datetime | None
    discovered_at: datetime
    found_by: str | None
    discovered_by: str | None
    category_id: int | None
    default_language: str | None
    duration_s: int | None
    length: Length | None
    state: State
    zone: ZoneName | None
    pinned_zone: ZoneName | None
    watched: bool
    tags: tuple[str, ...]
    counted_at: datetime | None
    views: int | None
    likes: int | None
    comments: int | None
    velocity: float | None
    acceleration: float | None
    relative_velocity: float | None
    viral_score: float | None
    next_due_at: datetime | None
    lag_s: float | None
    interval_h: float | None
    samples_in_window: int
    samples: tuple[Sample, ...]
    forecast: VideoForecast | None
    breakouts: tuple[Breakout, ...]
    sources: tuple[Source, ...]
    similar: tuple[Similar, ...]


async def video_page(atlas: Atlas, video_id: str, window: timedelta | None = None) -> VideoPage | None:
    """A video with its samples in the window, or all of them; None if it isn't stored."""
    import asyncio

    from maia.views.video import video

    view = await video(atlas, video_id, window)
    if view is None:
        return None
    similar = await similar_to(atlas, view.details.id, view.details.tags)
    # A year of hourly samples takes longer than a loop with many clients may stand still.
    samples = await asyncio.to_thread(_samples, view.samples)
    return _page(view, samples, similar)


async def similar_to(atlas: Atlas, video_id: str, tags: Sequence[str]) -> tuple[Similar, ...]:
    """The videos that share most of a video's tags."""
    from atlas.adapters.board import BoardDAO

    if not tags:
        return ()
    dao = BoardDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    return tuple(map(_similar, await dao.similar(video_id, tags, SIMILAR)))


def _samples(lines: Sequence[SampleLine]) -> tuple[Sample, ...]:
    kept = thinned(lines, POINTS, at=lambda line: line.sampled_at, value=lambda line: line.velocity)
    return tuple(
        Sample(line.sampled_at, line.views, line.likes, line.comments, line.velocity, line.source)
        for line in kept
    )


def _page(view: VideoView, samples: tuple[Sample, ...], similar: tuple[Similar, ...]) -> VideoPage:
    known = view.details
    return VideoPage(
        now=view.now,
        attribution=DERIVED,
        url=video_url(known.id),
        id=known.id,
        title=known.title,
        description=known.description,
        channel_id=known.channel_id,
        channel_title=known.channel_title,
        published_at=known.published_at,
        discovered_at=known.discovered_at,
        found_by=view.found_by,
        discovered_by=known.discovered_by,
        category_id=known.category_id,
        default_language=known.default_language,
        duration_s=known.duration_s,
        length=view.length,
        state=view.state,
        zone=zone_name(known.zone),
        pinned_zone=zone_name(known.pinned_zone),
        watched=known.watched,
        tags=tuple(known.tags),
        counted_at=known.last_at,
        views=known.view_count if known.last_views is None else known.last_views,
        likes=known.like_count if known.last_views is None else known.last_likes,
        comments=known.comment_count if known.last_views is None else known.last_comments,
        velocity=known.velocity,
        acceleration=known.acceleration,
        relative_velocity=known.relative_velocity,
        viral_score=known.viral_score,
        next_due_at=known.next_due_at,
        lag_s=view.lag_s,
        interval_h=known.interval_h,
        samples_in_window=len(view.samples),
        samples=samples,
        forecast=view.forecast,
        breakouts=tuple(_breakout(each.at, each.payload) for each in view.breakouts),
        sources=tuple(Source(each.arm, each.met_at, each.is_first, each.age_h) for each in view.sources),
        similar=similar,
    )


def _breakout(at: datetime, payload: dict[str, object]) -> Breakout:
    figures: dict[str, float | None] = {}
    for name in ("views", "views_per_hour", "times_expected", "age_h"):
        value = payload.get(name)
        figures[name] = value if isinstance(value, (int, float)) else None
    views = figures.pop("views")
    return Breakout(at, None if views is None else int(views), **figures)


def _similar(each: SimilarVideo) -> Similar:
    return Similar(
        id=each.id,
        title=each.title,
        channel_id=each.channel_id,
        channel_title=each.channel_title,
        published_at=each.published_at,
        views=each.views,
        velocity=each.velocity,
        share=each.share,
        shared_tags=tuple(each.shared_tags),
        url=video_url(each.id),
    )
