"""The channel view: a channel's counters over time, its uploads, and what is usual for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import exp, sqrt
from typing import TYPE_CHECKING, Final

from maia.views.words import (
    DERIVED,
    SHORT_AT_MOST_S,
    Length,
    State,
    ZoneName,
    channel_url,
    length_of,
    state_of,
    video_url,
    zone_name,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from atlas.adapters.board import ChannelDetails, Median, NormLine, Upload
    from atlas.composition import Atlas

UPLOADS: Final = 20
_FAR_PAST: Final = datetime(2005, 1, 1, tzinfo=UTC)
_SETTLED_AFTER: Final = timedelta(days=7)
"""Minimum age of the videos in the median: younger ones have not had time to grow."""
_FEWEST_FOR_A_MEDIAN: Final = 3


@dataclass(frozen=True, slots=True)
class ChannelSample:
    """A channel's counters at an instant; None if hidden."""

    sampled_at: datetime
    subscribers: int | None
    videos: int | None
    views: int | None


@dataclass(frozen=True, slots=True)
class Norm:
    """The views per hour of the channel's videos at an age: geometric mean, and one standard deviation."""

    from_age_h: float
    to_age_h: float | None
    videos: int
    views_per_hour: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class UploadRow:
    """A video of the channel; `multiple` is its views divided by the median for its length."""

    id: str
    title: str | None
    published_at: datetime | None
    duration_s: int | None
    length: Length | None
    state: State
    views: int | None
    multiple: float | None
    velocity: float | None
    relative_velocity: float | None
    viral_score: float | None
    url: str


@dataclass(frozen=True, slots=True)
class MedianOf:
    """The median views of a channel's older videos of one length, short or long."""

    length: Length
    videos: int
    views: float


@dataclass(frozen=True, slots=True)
class ChannelView:
    """A channel, with its samples oldest first and its uploads newest first."""

    now: datetime
    attribution: str
    url: str
    id: str
    title: str | None
    state: State
    discovered_at: datetime
    watched: bool
    pinned_zone: ZoneName | None
    next_due_at: datetime | None
    counted_at: datetime | None
    subscribers: int | None
    videos: int | None
    views: int | None
    videos_stored: int
    samples: tuple[ChannelSample, ...]
    norms: tuple[Norm, ...]
    medians: tuple[MedianOf, ...]
    uploads: tuple[UploadRow, ...]


async def channel(
    atlas: Atlas, channel_id: str, window: timedelta | None = None, uploads: int = UPLOADS
) -> ChannelView | None:
    """A channel with its samples in the window, or all of them; None if it isn't stored."""
    from atlas.adapters.board import BoardDAO

    dao, now = BoardDAO(atlas.db, clock=atlas.clock, settings=atlas.settings), atlas.clock.now()
    details = await dao.channel(channel_id)
    if details is None:
        return None
    since = _FAR_PAST if window is None else now - window
    samples = await dao.channel_samples(channel_id, since, now)
    medians = await dao.channel_medians(channel_id, now - _SETTLED_AFTER, SHORT_AT_MOST_S)
    known = [median for median in medians if median.videos >= _FEWEST_FOR_A_MEDIAN]
    views_of: Mapping[str, float] = {_length(median): median.views for median in known}
    return _view(
        details,
        now,
        samples=tuple(ChannelSample(*line) for line in samples),
        norms=_norms(await dao.channel_norms(channel_id)),
        medians=tuple(MedianOf(_length(median), median.videos, median.views) for median in known),
        uploads=tuple(_upload(each, views_of) for each in await dao.uploads(channel_id, uploads)),
    )


async def channels_named(atlas: Atlas, text: str) -> list[str]:
    """Ids of the stored channels with this id, or with this title in any case."""
    from atlas.adapters.board import BoardDAO

    return await BoardDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).channels_named(text)


def _view(
    details: ChannelDetails,
    now: datetime,
    *,
    samples: tuple[ChannelSample, ...],
    norms: tuple[Norm, ...],
    medians: tuple[MedianOf, ...],
    uploads: tuple[UploadRow, ...],
) -> ChannelView:
    return ChannelView(
        now=now,
        attribution=DERIVED,
        url=channel_url(details.id),
        id=details.id,
        title=details.title,
        state=state_of(details.status, None, tracked=details.next_due_at is not None),
        discovered_at=details.discovered_at,
        watched=details.watched,
        pinned_zone=zone_name(details.pinned_zone),
        next_due_at=details.next_due_at,
        counted_at=details.last_at,
        subscribers=details.subscribers,
        videos=details.videos,
        views=details.views,
        videos_stored=details.videos_stored,
        samples=samples,
        norms=norms,
        medians=medians,
        uploads=uploads,
    )


def _length(median: Median) -> Length:
    return "short" if median.is_short else "long"


def _upload(upload: Upload, views_of: Mapping[str, float]) -> UploadRow:
    length = length_of(upload.duration_s)
    usual = views_of.get(length) if length else None
    return UploadRow(
        id=upload.id,
        title=upload.title,
        published_at=upload.published_at,
        duration_s=upload.duration_s or None,
        length=length,
        state=state_of(upload.status, upload.live_broadcast_content, tracked=upload.zone is not None),
        views=upload.views,
        multiple=upload.views / usual if upload.views is not None and usual else None,
        velocity=upload.velocity,
        relative_velocity=upload.relative_velocity,
        viral_score=upload.viral_score,
        url=video_url(upload.id),
    )


def _norms(lines: Sequence[NormLine]) -> tuple[Norm, ...]:
    """Convert the mean and squared deviations of log(1 + views/h) back to views per hour."""
    from maia.learning.velocity import AGE_CLASS_EDGES_H

    begins, ends = (0.0, *AGE_CLASS_EDGES_H), (*AGE_CLASS_EDGES_H, None)
    norms = []
    for line in lines:
        spread = sqrt(line.squares / (line.videos - 1)) if line.videos > 1 else 0.0
        norms.append(
            Norm(
                begins[line.age_class], ends[line.age_class], line.videos, exp(line.mean) - 1,
                max(exp(line.mean - spread) - 1, 0.0), exp(line.mean + spread) - 1,
            )
        )  # fmt: skip
    return tuple(norms)
