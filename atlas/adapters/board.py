"""What people look at: who leads, what is known of a video, its samples. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from atlas.adapters.dao import DAO, clean_text

_BREAKOUTS = 20


class Lead(StrEnum):
    """What a leaderboard goes by: smoothed velocity, its change, its ratio to the usual one, or the score."""

    VELOCITY = "velocity"
    SCORE = "score"
    ACCELERATION = "acceleration"
    RELATIVE = "relative"


@dataclass(frozen=True, slots=True)
class Filters:
    """Which videos a leaderboard is of; None is every one. A channel is told by its id or its title."""

    channel: str | None = None
    category_id: int | None = None
    zone: int | None = None
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Leader:
    """A video of a leaderboard; `leads_by` is what it goes by."""

    id: str
    title: str | None
    channel_id: str
    channel_title: str | None
    category_id: int | None
    published_at: datetime | None
    zone: int
    last_at: datetime | None
    views: int | None
    velocity: float | None
    acceleration: float | None
    relative_velocity: float | None
    viral_score: float | None
    leads_by: float


@dataclass(frozen=True, slots=True)
class SampleLine:
    """A sample as the log has it; None is a hidden count, and a step without velocity."""

    video_id: str
    sampled_at: datetime
    views: int | None
    likes: int | None
    comments: int | None
    velocity: float | None
    methodology: int


@dataclass(frozen=True, slots=True)
class VideoDetails:
    """Everything known of a video besides its samples; what its clock tells is None where it has none."""

    id: str
    channel_id: str
    channel_title: str | None
    title: str | None
    description: str | None
    published_at: datetime | None
    discovered_at: datetime
    discovered_by: str | None
    refreshed_at: datetime
    category_id: int | None
    duration_s: int | None
    live_broadcast_content: str | None
    default_language: str | None
    tags: Sequence[str]
    view_count: int | None
    like_count: int | None
    comment_count: int | None
    status: str
    zone: int | None
    pinned_zone: int | None
    watched: bool
    interval_h: float | None
    next_due_at: datetime | None
    leased: bool | None
    misses: int | None
    gone_at: datetime | None
    last_error: str | None
    samples: int | None
    last_sampled_at: datetime | None
    last_at: datetime | None
    last_views: int | None
    last_likes: int | None
    last_comments: int | None
    velocity: float | None
    acceleration: float | None
    relative_velocity: float | None
    viral_score: float | None


@dataclass(frozen=True, slots=True)
class BreakoutLine:
    """A breakout as the event log tells it."""

    at: datetime
    payload: dict[str, Any]


class BoardDAO(DAO):
    """The door to what is shown of videos and their growth."""

    async def top(
        self, by: Lead, most: int, filters: Filters | None = None, window: timedelta | None = None
    ) -> list[Leader]:
        """The leaders, first first; none if the filter's channel is unknown.

        With a window, velocity is the mean between a video's first and last known count in it, and goes
        before the smoothed one; of the other leads only videos sampled within it take part.
        """
        filters = filters or Filters()
        channels = None if filters.channel is None else await self._channels(filters.channel)
        if channels == []:
            return []
        tag = None if filters.tag is None else clean_text(filters.tag)
        kept = (channels, filters.category_id, filters.zone, tag)
        now = self._clock.now()
        if by is Lead.VELOCITY and window is not None:
            counted_by = 1 if now < self._settings.tracker.methodology_epoch else 2
            rows = await self._executor.fetch("board.top_grown", most, *kept, now - window, now, counted_by)
        else:
            since = None if window is None else now - window
            rows = await self._executor.fetch("board.top", by, most, *kept, since)
        return [Leader(**row) for row in rows]

    async def _channels(self, name: str) -> list[str]:
        rows = await self._executor.fetch("board.channels_named", clean_text(name))
        return [row["id"] for row in rows]

    async def samples(
        self, ids: Sequence[str], since: datetime, until: datetime
    ) -> dict[str, list[SampleLine]]:
        """Each video's samples in [since, until], oldest first; none for a video without any."""
        lines: dict[str, list[SampleLine]] = {id_: [] for id_ in ids}
        for row in await self._executor.fetch("board.samples", ids, since, until):
            lines[row["video_id"]].append(SampleLine(*row))
        return lines

    async def video(self, video_id: str) -> VideoDetails | None:
        """What is known of a video; None if it isn't stored."""
        row = await self._executor.fetchrow("board.video", clean_text(video_id))
        return None if row is None else VideoDetails(**row)

    async def breakouts(self, video_id: str) -> list[BreakoutLine]:
        """The video's last breakouts, newest first."""
        rows = await self._executor.fetch("board.breakouts", clean_text(video_id), _BREAKOUTS)
        return [BreakoutLine(**row) for row in rows]
