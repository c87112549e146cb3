"""Read-only queries for display: leaderboards, and details of a video or a channel."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from atlas.adapters.dao import DAO
from atlas.db import Row
from atlas.queries import clean_text

_MOST_BREAKOUTS = 20
_MOST_COMPARED_TAGS = 15
_MOST_OF_A_TAG = 300
_FRESH = timedelta(days=2)
"""A forecast made longer ago ranks no video."""

_LEAST_LOOKED_AT, _MOST_LOOKED_AT = 200, 4_000
"""How many of the fastest videos tell how fast one grew that leads."""
_FIRST = 4_000
"""How far down a ranking without an index a filter by tag, length or region is checked one by one."""
_OFTEN = 0.02
"""A tag that so large a share of the videos has is met often enough on that way."""
_ALL = 2**31
_MANY_TO_RANK = 1_000
"""Ranking fewer videos by their velocity is quicker than looking for those that once were fast."""
_MOST_IN_MEDIANS = 1_000
"""Most of a channel's videos whose median is computed: the newest say what is usual."""
_FEW_SAMPLES = timedelta(hours=2)
"""A window up to this long has so few samples that looking at each is quickest."""
_LEAST_STEP = 10.0
"""Steps of so many views per hour are in an index."""
_ROUNDING = 1e-6
"""A step's velocity and a window's growth are rounded differently, by less than this share."""

Broadcast = Literal["none", "live", "upcoming"]


class Lead(StrEnum):
    """The value that ranks a leaderboard: smoothed velocity, its change, its ratio to the norm, the score, or
    the views that the forecast expects to be gained in a day.
    """

    VELOCITY = "velocity"
    SCORE = "score"
    ACCELERATION = "acceleration"
    RELATIVE = "relative"
    FORECAST = "forecast"


_TOPS = {Lead.SCORE: 0.9, Lead.ACCELERATION: 1.0, Lead.RELATIVE: 5.0}
"""Values from which on a ranking is in an index."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which videos a leaderboard includes; None does not filter. A channel is given by its id or title.

    Videos of up to `short_at_most_s` are short, others long; one without a duration is neither.
    """

    channel: str | None = None
    category_id: int | None = None
    zone: int | None = None
    tag: str | None = None
    length: Literal["short", "long"] | None = None
    broadcast: Broadcast | None = None
    short_at_most_s: int = 180
    youngest: timedelta | None = None
    oldest: timedelta | None = None
    """Ages of the videos, from their publication, or where that is unknown from their discovery."""
    least_velocity: float | None = None
    region: str | None = None
    """Found by a search that was narrowed to this region: YouTube doesn't say where a video is from."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place on a leaderboard as it was at an instant: after the video that leads by so much."""

    leads_by: float
    id: str
    at: datetime


class _Led(NamedTuple):
    id: str
    leads_by: float


@dataclass(frozen=True, slots=True)
class _Fitting:
    """Filters as arguments of the function videos_that_fit: those before the least velocity, and the last."""

    before: tuple[Any, ...]
    region: str | None
    channels: Sequence[str] | None
    tag: str | None
    is_of_many: bool

    @classmethod
    def of(cls, filters: Filters, channels: Sequence[str] | None, now: datetime) -> _Fitting:
        tag = None if filters.tag is None else clean_text(filters.tag)
        before = (
            channels,
            filters.category_id,
            filters.zone,
            tag,
            filters.length,
            filters.short_at_most_s,
            filters.broadcast,
            None if filters.oldest is None else now - filters.oldest,
            None if filters.youngest is None else now - filters.youngest,
        )
        is_of_many = channels is None and (filters.length is not None or filters.region is not None)
        return cls(before, filters.region, channels, tag, is_of_many)


def _place(after: Place | None) -> tuple[float | None, str | None]:
    return (None, None) if after is None else (after.leads_by, clean_text(after.id))


def _is_after(led: _Led, after: Place | None) -> bool:
    return after is None or (-led.leads_by, led.id) > (-after.leads_by, clean_text(after.id))


def _columns(places: Sequence[_Led]) -> tuple[list[str], list[float]]:
    return [led.id for led in places], [led.leads_by for led in places]


@dataclass(frozen=True, slots=True)
class Leader:
    """A video of a leaderboard; `leads_by` is the value that it is ranked by."""

    id: str
    title: str | None
    channel_id: str
    channel_title: str | None
    category_id: int | None
    published_at: datetime | None
    duration_s: int | None
    live_broadcast_content: str | None
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
    """A sample from the log; a count of None is hidden, and a velocity of None could not be computed.

    Samples whose `source` is a feed have views only.
    """

    video_id: str
    sampled_at: datetime
    views: int | None
    likes: int | None
    comments: int | None
    velocity: float | None
    methodology: int
    source: Literal["api", "feed"] = "api"


@dataclass(frozen=True, slots=True)
class VideoDetails:
    """All that is known about a video except its samples; without a clock row, its fields are None."""

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
class VideoName:
    """A video's title and channel."""

    id: str
    title: str | None
    channel_id: str
    channel_title: str | None


@dataclass(frozen=True, slots=True)
class SimilarVideo(VideoName):
    """A video that has tags in common with another: they are `share` of all tags that either has."""

    published_at: datetime | None
    views: int | None
    velocity: float | None
    share: float
    shared_tags: Sequence[str]


class TaggedVideo(NamedTuple):
    """A video's tags, and its views per hour if they are known."""

    tags: Sequence[str]
    velocity: float | None


@dataclass(frozen=True, slots=True)
class ChannelDetails:
    """All that is known about a channel except its samples and videos; a last count of None is hidden."""

    id: str
    title: str | None
    discovered_at: datetime
    status: str
    watched: bool
    pinned_zone: int | None
    next_due_at: datetime | None
    last_at: datetime | None
    subscribers: int | None
    videos: int | None
    views: int | None
    videos_stored: int


class ChannelSampleLine(NamedTuple):
    """A channel's sample from the log; a count of None is hidden."""

    sampled_at: datetime
    subscribers: int | None
    videos: int | None
    views: int | None


class NormLine(NamedTuple):
    """Count, mean and sum of squared deviations of log(1 + views/h) over a channel's videos, by age class."""

    age_class: int
    videos: int
    mean: float
    squares: float


class Median(NamedTuple):
    """The median views of a channel's short videos, or of its other ones."""

    is_short: bool
    videos: int
    views: float


@dataclass(frozen=True, slots=True)
class Upload:
    """A channel's video, with counts from its clock or else from when it was last fetched."""

    id: str
    title: str | None
    published_at: datetime | None
    duration_s: int | None
    live_broadcast_content: str | None
    status: str
    zone: int | None
    views: int | None
    velocity: float | None
    relative_velocity: float | None
    viral_score: float | None


@dataclass(frozen=True, slots=True)
class BreakoutLine:
    """A breakout from the event log."""

    at: datetime
    payload: dict[str, Any]


class BoardDAO(DAO):
    """Reads leaderboards, and what is shown about videos and channels."""

    async def top(
        self,
        by: Lead,
        most: int,
        filters: Filters | None = None,
        window: timedelta | None = None,
        after: Place | None = None,
    ) -> list[Leader]:
        """The leading videos, best first, after a place; empty if the filter's channel is unknown.

        With a window, velocity is the mean between a video's first and last known count in it instead of the
        smoothed one; leaderboards by other values include only videos sampled within it. Forecasts rank only
        those of the last two days.
        """
        filters = filters or Filters()
        async with self._atomic() as executor:
            dao = self._on(executor)
            channels = None if filters.channel is None else await dao.channels_named(filters.channel)
            if channels == []:
                return []
            await executor.fetchrow("board.plan_for_values")
            now = self._clock.now() if after is None else after.at
            fitting = _Fitting.of(filters, channels, now)
            if by is Lead.VELOCITY and window is not None:
                places = await dao._grown(most, window, now, fitting, filters.least_velocity, after)
            else:
                places = await dao._leading(by, most, window, now, fitting, filters.least_velocity, after)
            rows = await executor.fetch("board.leaders", *_columns(places))
        return [Leader(**row) for row in rows]

    async def _leading(
        self,
        by: Lead,
        most: int,
        window: timedelta | None,
        now: datetime,
        fitting: _Fitting,
        least_velocity: float | None,
        after: Place | None,
    ) -> list[_Led]:
        values = (*fitting.before, least_velocity, fitting.region, *_place(after))
        if by is Lead.FORECAST:
            made_since = now - min(window or _FRESH, _FRESH)
            rows = await self._executor.fetch("board.top_expected", most, made_since, *values)
        else:
            asked = (by, most, None if window is None else now - window, *values)
            rows = await self._executor.fetch("board.top", *asked, _TOPS.get(by))
            if len(rows) < most and by in _TOPS:
                rows = await self._below_the_top(asked, most, fitting)
        return [_Led(*row) for row in rows]

    async def _below_the_top(self, asked: Sequence[Any], most: int, fitting: _Fitting) -> list[Row]:
        """The leaders by a value that only its highest have in an index."""
        if await self._is_met_soon(fitting):
            rows = await self._executor.fetch("board.top_of_first", *asked, _FIRST)
            if len(rows) == most:
                return rows
        return await self._executor.fetch("board.top", *asked, None)

    async def _is_met_soon(self, fitting: _Fitting) -> bool:
        """Whether filters that the clock doesn't have fit so many videos that a ranking soon meets some."""
        if fitting.tag is None:
            return fitting.is_of_many
        share = await self._executor.fetchval("board.tag_share", fitting.tag)
        return share is not None and share >= _OFTEN

    async def _is_rare(self, fitting: _Fitting) -> bool:
        """Whether few videos are of the channels or have the tag, but too many to rank each."""
        if fitting.tag is not None and await self._is_met_soon(fitting):
            return False
        if fitting.tag is None and fitting.channels is None:
            return False
        found = await self._executor.fetchval(
            "board.count_up_to", _MANY_TO_RANK, fitting.channels, fitting.tag
        )
        return bool(found == _MANY_TO_RANK)

    async def _grown(
        self,
        most: int,
        window: timedelta,
        now: datetime,
        fitting: _Fitting,
        least: float | None,
        after: Place | None,
    ) -> list[_Led]:
        """The videos that grew fastest in the window.

        Those that are fastest now tell how fast one must have grown to be among them; only videos that once
        were so fast in it are then compared (the threshold algorithm: Fagin, Lotem and Naor, 2003). If few
        fit, all of them that ever were fast are compared at once, or else all.
        """
        counted_by = 1 if now < self._settings.tracker.methodology_epoch else 2
        within = (now - window, now, counted_by, *fitting.before, fitting.region)
        place = _place(after)
        looked_at = 0 if window <= _FEW_SAMPLES else max(_LEAST_LOOKED_AT, 4 * most)
        if looked_at and await self._is_rare(fitting):
            return await self._grown_of_rare(most, within, least, after)
        while 0 < looked_at <= _MOST_LOOKED_AT:
            leading, are_all = await self._grown_of_fastest(looked_at, most, within, least, after)
            if are_all:
                return leading
            least_step = leading[-1].leads_by * (1 - _ROUNDING) if len(leading) == most else 0.0
            if least_step >= _LEAST_STEP:
                rows = await self._executor.fetch("board.top_grown", most, *within, least_step, *place, False)
                return [_Led(*row) for row in rows]
            if len(leading) == most:
                break
            looked_at = 2 * looked_at * most // len(leading) if leading else 0
        rows = await self._executor.fetch("board.top_grown_of_all", most, *within, least, *place)
        return [_Led(*row) for row in rows]

    async def _grown_of_rare(
        self, most: int, within: Sequence[Any], least: float | None, after: Place | None
    ) -> list[_Led]:
        """Those that grew fastest where few videos fit: of all that ever were fast, or else of all."""
        wanted = max(_LEAST_STEP, least or 0.0)
        least_step = max(_LEAST_STEP, wanted * (1 - _ROUNDING))
        rows = await self._executor.fetch("board.top_grown", most, *within, least_step, *_place(after), True)
        # What grew hardly more than the least step in the index may have none there, by rounding.
        sure = wanted if least_step > _LEAST_STEP else _LEAST_STEP * (1 + 2 * _ROUNDING)
        leading = [led for led in itertools.starmap(_Led, rows) if led.leads_by >= sure]
        if len(leading) == most or sure == least:
            return leading
        return (await self._grown_of_fastest(_ALL, most, within, least, after))[0]

    async def _grown_of_fastest(
        self, looked_at: int, most: int, within: Sequence[Any], least: float | None, after: Place | None
    ) -> tuple[list[_Led], bool]:
        """Those of the videos that are fastest now that grew fastest, and whether these are all that fit."""
        rows = await self._executor.fetch("board.growth_of_fastest", looked_at, *within)
        grown = [_Led(*row) for row in rows if row["leads_by"] is not None]
        leading = sorted(
            (led for led in grown if _is_after(led, after) and (least is None or led.leads_by >= least)),
            key=lambda led: (-led.leads_by, led.id),
        )
        return leading[:most], len(rows) < looked_at

    async def channels_named(self, name: str) -> list[str]:
        """Ids of the channels with this id or this title, ignoring the title's case."""
        rows = await self._executor.fetch("board.channels_named", clean_text(name))
        return [row["id"] for row in rows]

    async def samples(
        self, ids: Sequence[str], since: datetime, until: datetime
    ) -> dict[str, list[SampleLine]]:
        """Each video's samples in [since, until], oldest first; an empty list for a video without any."""
        lines: dict[str, list[SampleLine]] = {id_: [] for id_ in ids}
        for row in await self._executor.fetch("board.samples", ids, since, until):
            lines[row["video_id"]].append(SampleLine(*row))
        return lines

    async def video(self, video_id: str) -> VideoDetails | None:
        """A video's details; None if it isn't stored."""
        row = await self._executor.fetchrow("board.video", clean_text(video_id))
        return None if row is None else VideoDetails(**row)

    async def similar(self, video_id: str, tags: Sequence[str], most: int) -> list[SimilarVideo]:
        """The live videos that share most tags with a video of these tags, best first."""
        wanted = [clean_text(tag) for tag in tags[:_MOST_COMPARED_TAGS]]
        rows = await self._executor.fetch("board.similar", clean_text(video_id), wanted, _MOST_OF_A_TAG, most)
        return [SimilarVideo(**row) for row in rows]

    async def breakouts(self, video_id: str) -> list[BreakoutLine]:
        """The video's last breakouts, newest first."""
        rows = await self._executor.fetch("board.breakouts", clean_text(video_id), _MOST_BREAKOUTS)
        return [BreakoutLine(**row) for row in rows]

    async def names_of(self, ids: Iterable[str]) -> dict[str, VideoName]:
        """Titles and channels of the videos, except those that aren't stored."""
        rows = await self._executor.fetch("board.names_of", [clean_text(id_) for id_ in ids])
        return {row["id"]: VideoName(**row) for row in rows}

    async def tags_of_youngest(self, most: int) -> list[TaggedVideo]:
        """The tags of the youngest videos that are out; those of them without any are left out."""
        rows = await self._executor.fetch("board.tags_of_youngest", most, self._clock.now())
        return [TaggedVideo(*row) for row in rows]

    async def channel(self, channel_id: str) -> ChannelDetails | None:
        """A channel's details; None if it isn't stored."""
        row = await self._executor.fetchrow("board.channel", clean_text(channel_id))
        return None if row is None else ChannelDetails(**row)

    async def channel_samples(
        self, channel_id: str, since: datetime, until: datetime
    ) -> list[ChannelSampleLine]:
        """A channel's samples in [since, until], oldest first."""
        rows = await self._executor.fetch("board.channel_samples", clean_text(channel_id), since, until)
        return [ChannelSampleLine(*row) for row in rows]

    async def channel_norms(self, channel_id: str) -> list[NormLine]:
        """A channel's norms by age class, youngest first."""
        rows = await self._executor.fetch("board.channel_norms", clean_text(channel_id))
        return [NormLine(*row) for row in rows]

    async def channel_medians(
        self, channel_id: str, published_before: datetime, short_at_most_s: int
    ) -> list[Median]:
        """The median views of a channel's short videos, and of its other ones, of its newest."""
        rows = await self._executor.fetch(
            "board.channel_medians",
            clean_text(channel_id),
            published_before,
            short_at_most_s,
            _MOST_IN_MEDIANS,
        )
        return [Median(*row) for row in rows]

    async def uploads(self, channel_id: str, most: int) -> list[Upload]:
        """A channel's newest videos, newest first."""
        rows = await self._executor.fetch("board.uploads", clean_text(channel_id), most)
        return [Upload(**row) for row in rows]
