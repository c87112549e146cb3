"""Tools about videos and channels: what rises, how a video grew, a channel's outliers, breakouts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, Field

from atlas.wording import counted
from maia.api.mcp.answers import (
    HOUR,
    Answer,
    Arguments,
    ChannelArgument,
    ChannelId,
    ChannelTitle,
    TimesUsual,
    Title,
    Tool,
    ToolProblem,
    VideoArgument,
    VideoId,
    Views,
    ViewsPerHour,
    ViralScore,
    category_name,
    category_number,
    cut,
    figure,
    hours_between,
    shown,
    text_of,
    thinned,
)
from maia.views.leaderboard import By
from maia.views.words import SHORT_AT_MOST_S, Broadcast, Length

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from maia.views.breakouts import BreakoutRow
    from maia.views.channel import UploadRow
    from maia.views.forecasts import ExpectedViews
    from maia.views.leaderboard import RankedVideo

_MOST_TAGS: Final = 15


# Rising videos


_UNITS: Final[Mapping[By, str]] = {
    "velocity": "{} views/h",
    "score": "a viral score of {} of 1",
    "acceleration": "{} views/h gained each hour",
    "relative": "{} times the usual views/h",
    "forecast": "{} more views expected in 24 h",
}
"""What ranks videos, with its unit."""


class RisingArguments(Arguments):
    by: By = Field(
        default="velocity",
        description="What ranks them. velocity: views per hour now, or over window_h. score: how unusual the "
        "growth is (0 to 1). acceleration: change of views per hour, per hour. relative: velocity against "
        "what is usual for the channel at that age. forecast: views expected to be gained in the next 24 h.",
    )
    window_h: float | None = Field(
        default=None,
        gt=0,
        le=8_784,
        description="Hours before now. With by=velocity the mean over them ranks, otherwise only videos "
        "sampled within them are listed. Null: the current figures.",
        examples=[24, 168],
    )
    limit: int = Field(default=10, ge=1, le=50, description="How many videos, best first.")
    category: str | None = Field(
        default=None,
        max_length=40,
        description="Only this category of YouTube, by name or number.",
        examples=["Music", "Gaming", "25"],
    )
    channel: ChannelArgument | None = Field(default=None, description="Only this channel, by id or name.")
    tag: str | None = Field(
        default=None, max_length=200, description="Only videos with this tag, in any case.", examples=["lofi"]
    )
    max_age_h: float | None = Field(
        default=None, gt=0, le=87_840, description="Only videos published in the last hours.", examples=[48]
    )
    min_views_per_hour: float | None = Field(
        default=None, ge=0, le=1e12, description="Only videos with at least this views_per_hour now."
    )
    length: Length | None = Field(
        default=None, description=f"Only short videos (up to {SHORT_AT_MOST_S} s), or only longer ones."
    )
    broadcast: Broadcast | None = Field(
        default=None, description="Only live broadcasts, only upcoming ones, or neither of them (none)."
    )


class Expected(BaseModel):
    """Views expected at an instant; 80 % of such intervals from low to high hold."""

    at: datetime
    views: float | None
    low: float | None
    high: float | None


class RisingVideo(BaseModel):
    rank: int
    video_id: VideoId
    title: Title
    channel_id: ChannelId
    channel_title: ChannelTitle
    category: str | None
    published_at: datetime | None
    age_h: float | None = Field(description="Hours since it was published.")
    duration_s: int | None
    state: str = Field(description="tracked, upcoming, live (a broadcast in progress), gone or stored.")
    sampled_at: datetime | None = Field(description="When its views were counted last.")
    views: Views
    leads_by: float | None = Field(description="The figure that ranks it, in the unit of `by`.")
    views_per_hour: ViewsPerHour
    acceleration: float | None = Field(description="Change of views_per_hour, per hour. Not YouTube's.")
    times_usual: TimesUsual
    viral_score: ViralScore
    expected_in_24h: Expected | None = Field(description="Pleiades's forecast. Not YouTube's.")
    url: str


class RisingAnswer(Answer):
    rows = "videos"
    less = "ask with a smaller limit, or with a category, channel, tag, max_age_h or length"

    now: datetime
    by: By
    window_h: float | None
    videos: list[RisingVideo]

    def summary(self) -> str:
        rising = counted(len(self.videos), "rising video")
        if not self.videos:
            return f"{rising}."
        first = self.videos[0]
        leads_by = _UNITS[self.by].format(shown(first.leads_by))
        return f"{rising} by {self.by}; the first is {first.video_id} with {leads_by}."


async def rising_videos(atlas: Atlas, asked: RisingArguments) -> RisingAnswer:
    from atlas.adapters.board import Filters
    from maia.views.leaderboard import leaderboard

    filters = Filters(
        channel=asked.channel,
        category_id=None if asked.category is None else category_number(asked.category),
        tag=asked.tag,
        length=asked.length,
        broadcast=asked.broadcast,
        short_at_most_s=SHORT_AT_MOST_S,
        oldest=None if asked.max_age_h is None else asked.max_age_h * HOUR,
        least_velocity=asked.min_views_per_hour,
    )
    window = None if asked.window_h is None else asked.window_h * HOUR
    board = await leaderboard(atlas, asked.by, asked.limit, filters, window)
    return RisingAnswer(
        now=board.now,
        by=board.by,
        window_h=asked.window_h,
        videos=[_rising(each, board.now) for each in board.videos],
        note=None
        if board.videos
        else "No tracked video matches. Drop a filter or widen window_h; a video has figures only once it "
        "was sampled twice, and a forecast once the learner has run. quota_status says whether it samples "
        "at all.",
    )


def _rising(each: RankedVideo, now: datetime) -> RisingVideo:
    return RisingVideo(
        rank=each.rank,
        video_id=each.id,
        title=text_of(each.title),
        channel_id=each.channel_id,
        channel_title=text_of(each.channel_title),
        category=category_name(each.category_id),
        published_at=each.published_at,
        age_h=hours_between(each.published_at, now),
        duration_s=each.duration_s,
        state=each.state,
        sampled_at=each.last_at,
        views=each.views,
        leads_by=figure(each.leads_by),
        views_per_hour=figure(each.velocity),
        acceleration=figure(each.acceleration),
        times_usual=figure(each.relative_velocity),
        viral_score=figure(each.viral_score),
        expected_in_24h=None if each.forecast is None else _expected(each.forecast.day),
        url=each.url,
    )


# A video's history


class HistoryArguments(Arguments):
    video_id: VideoArgument
    window_h: float = Field(
        default=168, gt=0, le=87_840, description="Hours before now whose samples are wanted.", examples=[24]
    )
    most_samples: int = Field(
        default=48, ge=2, le=300, description="Most samples; more are thinned evenly, the ends are kept."
    )


class Sample(BaseModel):
    at: datetime
    views: Views
    likes: int | None
    comments: int | None
    views_per_hour: float | None = Field(description="Since the sample before. Not YouTube's.")


class VideoBreakout(BaseModel):
    """A moment at which it grew far more than its age and history suggest."""

    at: datetime
    times_expected: float | None
    views_per_hour: ViewsPerHour


class HistoryAnswer(Answer):
    rows = "samples"
    less = "ask with a smaller most_samples or window_h"

    now: datetime
    video_id: VideoId
    url: str
    title: Title
    channel_id: ChannelId
    channel_title: ChannelTitle
    category: str | None
    tags: list[str] = Field(description="The first of its tags; data only.")
    published_at: datetime | None
    age_h: float | None = Field(description="Hours since it was published.")
    duration_s: int | None
    state: str = Field(description="tracked, upcoming, live, gone (deleted or private) or stored.")
    found_by: str | None = Field(description="What found it, such as search:fresh, charts or feeds.")
    searched_for: str | None = Field(description="The topic whose search found it, if only one; data only.")
    sampled_at: datetime | None
    next_sample_at: datetime | None
    views: Views
    views_per_hour: ViewsPerHour
    acceleration: float | None = Field(description="Change of views_per_hour, per hour. Not YouTube's.")
    times_usual: TimesUsual
    viral_score: ViralScore
    expected: list[Expected] = Field(description="Forecast for 24 h and 7 d after the last count, if any.")
    breakouts: list[VideoBreakout] = Field(description="Newest first, at most 20.")
    samples_in_window: int = Field(description="How many there are; `samples` may hold fewer.")
    samples: list[Sample] = Field(description="Oldest first, thinned to most_samples.")

    def summary(self) -> str:
        views = "unknown views" if self.views is None else counted(self.views, "view")
        return (
            f"Video {self.video_id} is {self.state} with {views} and "
            f"{shown(self.views_per_hour)} views/h; {counted(self.samples_in_window, 'sample')} in the "
            f"window, {counted(len(self.breakouts), 'breakout')}."
        )


async def video_history(atlas: Atlas, asked: HistoryArguments) -> HistoryAnswer:
    from maia.views.video import video
    from maia.views.words import video_url

    view = await video(atlas, asked.video_id, asked.window_h * HOUR)
    if view is None:
        raise ToolProblem(
            f"no video {asked.video_id} is stored: take a video_id from rising_videos or breakouts_since, or "
            "let the tracker fetch it with watch, if that tool is offered"
        )
    known, forecast = view.details, view.forecast
    return HistoryAnswer(
        now=view.now,
        video_id=known.id,
        url=video_url(known.id),
        title=text_of(known.title),
        channel_id=known.channel_id,
        channel_title=text_of(known.channel_title),
        category=category_name(known.category_id),
        tags=[cut(tag, 60) for tag in known.tags[:_MOST_TAGS]],
        published_at=known.published_at,
        age_h=hours_between(known.published_at, view.now),
        duration_s=known.duration_s,
        state=view.state,
        found_by=text_of(view.found_by),
        searched_for=text_of(known.discovered_by),
        sampled_at=known.last_at,
        next_sample_at=known.next_due_at if view.state != "gone" else None,
        views=known.last_views if known.last_views is not None else known.view_count,
        views_per_hour=figure(known.velocity),
        acceleration=figure(known.acceleration),
        times_usual=figure(known.relative_velocity),
        viral_score=figure(known.viral_score),
        expected=[] if forecast is None else [_expected(forecast.day), _expected(forecast.week)],
        breakouts=[_video_breakout(each.at, each.payload) for each in view.breakouts],
        samples_in_window=len(view.samples),
        samples=[
            Sample(
                at=each.sampled_at,
                views=each.views,
                likes=each.likes,
                comments=each.comments,
                views_per_hour=figure(each.velocity),
            )
            for each in thinned(view.samples, asked.most_samples)
        ],
        note=None
        if view.samples
        else "No sample in the window: widen window_h, or wait until next_sample_at.",
    )


def _video_breakout(at: datetime, payload: Mapping[str, Any]) -> VideoBreakout:
    return VideoBreakout(
        at=at,
        times_expected=figure(payload.get("times_expected")),
        views_per_hour=figure(payload.get("views_per_hour")),
    )


# Outliers of a channel


class OutliersArguments(Arguments):
    channel: ChannelArgument
    min_multiple: float = Field(
        default=2,
        ge=0,
        le=1_000_000,
        description="Only uploads with at least this many times the channel's median views; 0 lists all.",
    )
    length: Length | None = Field(
        default=None, description=f"Only short uploads (up to {SHORT_AT_MOST_S} s), or only longer ones."
    )
    newest: int = Field(
        default=200, ge=1, le=1_000, description="How many of the newest stored uploads are looked at."
    )
    limit: int = Field(default=10, ge=1, le=50, description="How many uploads, the highest multiple first.")


class Outlier(BaseModel):
    video_id: VideoId
    title: Title
    multiple: float | None = Field(
        description="Its views over the median of the channel's newest 1,000 uploads that are at least a "
        "week old, of its length. Not YouTube's."
    )
    views: Views
    views_per_hour: ViewsPerHour
    times_usual: TimesUsual
    viral_score: ViralScore
    length: Length | None
    published_at: datetime | None
    age_h: float | None = Field(description="Hours since it was published.")
    state: str
    url: str


class MedianViews(BaseModel):
    """The median views of the channel's uploads of one length that are at least a week old."""

    length: Length
    videos: int
    views: float


class OutliersAnswer(Answer):
    rows = "outliers"
    less = "ask with a smaller limit or a higher min_multiple"

    now: datetime
    channel_id: ChannelId
    channel_title: ChannelTitle
    url: str
    subscribers: int | None = Field(description="As YouTube rounds them; null is hidden.")
    views: Views
    videos_stored: int = Field(description="How many of its uploads Pleiades knows, perhaps not all.")
    uploads_looked_at: int
    medians: list[MedianViews] = Field(description="Needs three such uploads; not YouTube's.")
    outliers: list[Outlier]

    def summary(self) -> str:
        return (
            f"{counted(len(self.outliers), 'outlier')} among {counted(self.uploads_looked_at, 'upload')} of "
            f"channel {self.channel_id}."
        )


async def channel_outliers(atlas: Atlas, asked: OutliersArguments) -> OutliersAnswer:
    from maia.views.channel import channel, channels_named

    ids = await channels_named(atlas, asked.channel)
    if len(ids) > 1:
        raise ToolProblem(
            f"{len(ids)} channels have this name: call again with one id: {', '.join(ids[:20])}"
        )
    view = await channel(atlas, ids[0], timedelta(0), asked.newest) if ids else None
    if view is None:
        raise ToolProblem(
            "no stored channel has this id or name: give the id (UC…), such as channel_id of rising_videos"
        )
    lengths = [each for each in view.uploads if asked.length in (None, each.length)]
    found = [each for each in lengths if each.multiple is not None and each.multiple >= asked.min_multiple]
    found.sort(key=lambda each: (-(each.multiple or 0.0), each.id))
    return OutliersAnswer(
        now=view.now,
        channel_id=view.id,
        channel_title=text_of(view.title),
        url=view.url,
        subscribers=view.subscribers,
        views=view.views,
        videos_stored=view.videos_stored,
        uploads_looked_at=len(lengths),
        medians=[
            MedianViews(length=each.length, videos=each.videos, views=each.views) for each in view.medians
        ],
        outliers=[_outlier(each, view.now) for each in found[: asked.limit]],
        note=None if found else _no_outliers(bool(view.medians)),
    )


def _no_outliers(has_medians: bool) -> str:
    if has_medians:
        return "No upload has that many times the median: lower min_multiple, or raise newest."
    return (
        "There is no median yet: it needs three stored uploads of the same length that are at least a week "
        "old. rising_videos with this channel ranks its uploads without one."
    )


def _outlier(each: UploadRow, now: datetime) -> Outlier:
    return Outlier(
        video_id=each.id,
        title=text_of(each.title),
        multiple=figure(each.multiple),
        views=each.views,
        views_per_hour=figure(each.velocity),
        times_usual=figure(each.relative_velocity),
        viral_score=figure(each.viral_score),
        length=each.length,
        published_at=each.published_at,
        age_h=hours_between(each.published_at, now),
        state=each.state,
        url=each.url,
    )


def _expected(expected: ExpectedViews) -> Expected:
    return Expected(
        at=expected.at,
        views=figure(expected.views),
        low=figure(expected.low),
        high=figure(expected.high),
    )


# Breakouts


class BreakoutsArguments(Arguments):
    hours: float = Field(
        default=24, gt=0, le=2_160, description="How many hours before now to look back.", examples=[24, 168]
    )
    after_cursor: int | None = Field(
        default=None,
        ge=0,
        le=2**62,
        description="Only breakouts reported after this `cursor` of an earlier answer: what is new.",
    )
    limit: int = Field(default=20, ge=1, le=100, description="How many breakouts, the newest first.")


class Breakout(BaseModel):
    at: datetime
    video_id: VideoId
    title: Title
    channel_id: ChannelId
    channel_title: ChannelTitle
    age_h: float | None = Field(description="Hours since it was published, when it broke out.")
    views: int | None = Field(description="YouTube's view count when it broke out.")
    views_per_hour: ViewsPerHour
    times_expected: float | None = Field(
        description="Its growth over what was expected; null if nothing was expected. Not YouTube's."
    )
    viral_score: ViralScore
    url: str


class BreakoutsAnswer(Answer):
    rows = "breakouts"
    less = "ask with a smaller limit or fewer hours"

    now: datetime
    since: datetime
    cursor: int = Field(description="Give it as after_cursor next time to get only what is new.")
    breakouts: list[Breakout]

    def summary(self) -> str:
        return f"{counted(len(self.breakouts), 'breakout')} since {self.since:%Y-%m-%d %H:%M} UTC."


async def breakouts_since(atlas: Atlas, asked: BreakoutsArguments) -> BreakoutsAnswer:
    from maia.views.breakouts import breakouts

    view = await breakouts(atlas, atlas.clock.now() - asked.hours * HOUR, asked.limit)
    after = asked.after_cursor
    rows = [each for each in view.breakouts if after is None or each.cursor > after]
    return BreakoutsAnswer(
        now=view.now,
        since=view.since,
        cursor=view.cursor,
        breakouts=[_breakout(each) for each in rows],
        note=None
        if rows
        else "No tracked video broke out in that time, which is common in a few hours: raise hours, or ask "
        "rising_videos with by=score for what is most unusual now.",
    )


def _breakout(each: BreakoutRow) -> Breakout:
    return Breakout(
        at=each.at,
        video_id=each.video_id,
        title=text_of(each.title),
        channel_id=each.channel_id,
        channel_title=text_of(each.channel_title),
        age_h=figure(each.age_h),
        views=each.views,
        views_per_hour=figure(each.views_per_hour),
        times_expected=figure(each.times_expected),
        viral_score=figure(each.viral_score),
        url=each.url,
    )


TOOLS: Final = (
    Tool(
        "rising_videos",
        "Rising videos",
        "The videos that grow fastest, best first, among those that Pleiades samples (not all of YouTube). "
        "Use it for what is taking off now, over some hours, or in a category, channel or tag. An empty list "
        "means that no tracked video matches. Next: video_history with a video_id for its curve and "
        "forecast, channel_outliers with a channel_id to see what is usual there.",
        RisingArguments,
        RisingAnswer,
        rising_videos,
    ),
    Tool(
        "video_history",
        "History of a video",
        "Everything measured about one video: its views over time, how fast it grows now, what is usual for "
        "its channel, its breakouts, and a forecast for 24 hours and 7 days. Use it after another tool gave "
        "you a video_id. No samples means that none was taken in the window.",
        HistoryArguments,
        HistoryAnswer,
        video_history,
    ),
    Tool(
        "channel_outliers",
        "Outliers of a channel",
        "Which uploads of a channel did far better than its median, short ones compared apart from longer "
        "ones. Use it to learn what works for a channel. An empty list means that no upload stands out so "
        "far. Next: video_history with a video_id.",
        OutliersArguments,
        OutliersAnswer,
        channel_outliers,
    ),
    Tool(
        "breakouts_since",
        "Breakouts",
        "Videos that suddenly grew far more than their age and history suggested, newest first. Use it for "
        "what happened in the last hours or days; keep `cursor` to ask later only for what is new. An empty "
        "list means that nothing broke out. Next: video_history with a video_id.",
        BreakoutsArguments,
        BreakoutsAnswer,
        breakouts_since,
    ),
)
