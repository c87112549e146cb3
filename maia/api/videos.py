"""Videos and channels: the leaderboard, a video with its curve, a channel with its norms."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from atlas.adapters.board import Filters, Place
from atlas.places import region_code
from maia.api import examples
from maia.api.answers import AsFormat, Body, Format, Table, as_json, documented, listed
from maia.api.context import READ, service_of
from maia.api.paging import LONGEST_CURSOR, cursor_after, values_of
from maia.api.problems import Problem, described
from maia.views.channel import ChannelView, channel
from maia.views.leaderboard import By, Leaderboard, leaderboard
from maia.views.thinning import thinned
from maia.views.video_page import POINTS, VideoPage, video_page
from maia.views.words import SHORT_AT_MOST_S, Broadcast, Length, ZoneName, zone_number
from maia.youtube.categories import category_of

if TYPE_CHECKING:
    from maia.api.context import Service

router = APIRouter(prefix="/api/v1", tags=["videos"], dependencies=[READ])

_LONGEST_WINDOW: Final = timedelta(days=31)
_MOST_RANKED: Final = 10_000_000
_UNIT_H: Final = {"h": 1, "d": 24}
_SPAN: Final = r"^[1-9][0-9]{0,3}[hd]$"

Id = Annotated[str, Path(alias="id", min_length=1, max_length=64, description="YouTube's id.")]


def span_of(text: str) -> timedelta:
    """A span such as 24h or 7d."""
    return timedelta(hours=int(text[:-1]) * _UNIT_H[text[-1]])


def _checked_window(text: str) -> str:
    if span_of(text) > _LONGEST_WINDOW:
        raise ValueError(f"a window is at most {_LONGEST_WINDOW.days} days long: use 31d or less")
    return text


def _checked_category(text: str) -> str:
    category_of(text)
    return text


Window = Annotated[str, Field(pattern=_SPAN), AfterValidator(_checked_window)]
Span = Annotated[str, Field(pattern=_SPAN)]


class BoardQuery(BaseModel):
    """What a leaderboard includes, and how it is ranked."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    by: By = Field(
        default="velocity",
        description="What ranks: views per hour, their change, their ratio to what is usual, the viral "
        "score, or the views that the forecast expects to be gained in a day.",
    )
    window: Window | None = Field(
        default=None,
        description="Rank by the growth in this span (such as 24h or 7d, at most 31d) instead of the "
        "smoothed velocity; by other figures, only videos sampled in it.",
    )
    category: Annotated[str, Field(max_length=60), AfterValidator(_checked_category)] | None = Field(
        default=None, description="A category of YouTube, by number or name.", examples=["Music", "10"]
    )
    channel: str | None = Field(default=None, max_length=200, description="A channel, by id or title.")
    tag: str | None = Field(default=None, max_length=500, description="A tag, in any case.")
    region: Annotated[str, Field(max_length=60), AfterValidator(region_code)] | None = Field(
        default=None,
        description="Found by a search that was narrowed to this region, such as DE: YouTube doesn't say "
        "where a video is from.",
    )
    length: Length | None = Field(
        default=None, description=f"`short` is at most {SHORT_AT_MOST_S} seconds, `long` is longer."
    )
    broadcast: Broadcast | None = Field(default=None, description="Only broadcasts of this state.")
    zone: ZoneName | None = Field(default=None, description="Only videos that are sampled this often.")
    age_min: Span | None = Field(default=None, description="Only videos at least this old, such as 6h.")
    age_max: Span | None = Field(default=None, description="Only videos at most this old, such as 2d.")
    velocity_min: float | None = Field(
        default=None, ge=-1e15, le=1e15, allow_inf_nan=False, description="Only videos with so many views/h."
    )
    limit: int = Field(default=50, ge=1, le=200, description="Most videos of a page.")
    cursor: str | None = Field(
        default=None,
        max_length=LONGEST_CURSOR,
        description="Where the page begins: `next` of the page before, with the same filters.",
    )
    format: Format = Field(default=Format.JSON, description="`csv` has one line for each video.")

    @model_validator(mode="after")
    def _ages_fit(self) -> BoardQuery:
        if self.age_min and self.age_max and span_of(self.age_min) > span_of(self.age_max):
            raise ValueError("age_min is more than age_max, so no video fits: swap them")
        return self

    def filters(self) -> Filters:
        return Filters(
            channel=self.channel,
            category_id=None if self.category is None else category_of(self.category).id,
            zone=zone_number(self.zone),
            tag=self.tag,
            length=self.length,
            broadcast=self.broadcast,
            short_at_most_s=SHORT_AT_MOST_S,
            youngest=None if self.age_min is None else span_of(self.age_min),
            oldest=None if self.age_max is None else span_of(self.age_max),
            least_velocity=self.velocity_min,
            region=self.region,
        )

    def listed(self) -> dict[str, Any]:
        """What makes it this list, whichever page of it."""
        return {"list": "videos"} | self.model_dump(
            mode="json", exclude={"cursor", "limit", "format"}, exclude_none=True
        )


@dataclass(frozen=True, slots=True)
class LeaderboardPage(Leaderboard):
    """A page of a leaderboard; velocities are in views per hour.

    `growth` of a video holds its views per hour in equal parts of the time since `growth_since`. `next`
    is the cursor of the page that follows, null if none does.
    """

    next: str | None


_BOARD: Final = Table(
    "videos",
    (
        "rank", "id", "title", "channel_id", "channel_title", "category_id", "published_at", "duration_s",
        "length", "state", "zone", "last_at", "views", "velocity", "acceleration", "relative_velocity",
        "viral_score", "leads_by", "forecast.made_at", "forecast.day.views", "forecast.day.low",
        "forecast.day.high", "url",
    ),
)  # fmt: skip


@router.get(
    "/videos",
    summary="The videos that grow fastest",
    response_model=LeaderboardPage,
    responses=documented(examples.LEADERBOARD, csv=True),
)
async def videos(request: Request, query: Annotated[BoardQuery, Query()]) -> Response:
    service, url = service_of(request), request.url
    key = ("videos", str(url.query))
    body = await service.answers.get(key, lambda: _board(service, query, request))
    return body.response()


async def _board(service: Service, query: BoardQuery, request: Request) -> Body:
    after, first_rank = _place(query)
    window = None if query.window is None else span_of(query.window)
    board = await leaderboard(
        service.atlas, query.by, query.limit, query.filters(), window, after=after, first_rank=first_rank
    )
    following = _following(query, board)
    page = {name: getattr(board, name) for name in Leaderboard.__slots__} | {"next": following}
    return listed(page, board.videos, _BOARD, query.format, request.url, following)


def _place(query: BoardQuery) -> tuple[Place | None, int]:
    if query.cursor is None:
        return None, 1
    leads_by, id_, at_us, rank = values_of(query.cursor, query.listed(), float, str, int, int)
    if not (0 <= at_us < 4_102_444_800_000_000 and 1 <= rank <= _MOST_RANKED):
        raise Problem(422, "this cursor is not one that was given here: leave it out")
    at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at_us)
    return Place(leads_by, id_, at), rank + 1


def _following(query: BoardQuery, board: Leaderboard) -> str | None:
    if len(board.videos) < query.limit:
        return None
    last = board.videos[-1]
    at_us = (board.now - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)
    return cursor_after(query.listed(), float(last.leads_by), last.id, at_us, last.rank)


@router.get(
    "/videos/{id}",
    summary="All that is known of a video",
    response_model=VideoPage,
    responses=documented(examples.VIDEO) | described(404, "No such video is stored."),
)
async def one_video(
    request: Request,
    video_id: Id,
    window: Annotated[
        str | None, Query(pattern=_SPAN, description="Only samples of this span, such as 7d.")
    ] = None,
) -> Response:
    service = service_of(request)

    async def make() -> Body:
        page = await video_page(service.atlas, video_id, None if window is None else span_of(window))
        if page is None:
            raise Problem(404, "no video with this id is stored: GET /api/v1/search finds those that are")
        return Body(as_json(page))

    return (await service.answers.get(("video", video_id, window), make)).response()


@router.get(
    "/channels/{id}",
    summary="All that is known of a channel",
    description="Its counters over time, what is usual for its videos by age, and its uploads, newest first. "
    "`multiple` is an upload's views over the median of the channel's older videos of its length: shorts are "
    "compared with shorts.",
    response_model=ChannelView,
    responses=documented(examples.CHANNEL, csv=True) | described(404, "No such channel is stored."),
)
async def one_channel(
    request: Request,
    channel_id: Id,
    window: Annotated[
        str | None, Query(pattern=_SPAN, description="Only samples of this span, such as 30d.")
    ] = None,
    uploads: Annotated[int, Query(ge=1, le=500, description="How many uploads to list.")] = 50,
    form: AsFormat = Format.JSON,
) -> Response:
    service = service_of(request)

    async def make() -> Body:
        view = await channel(service.atlas, channel_id, None if window is None else span_of(window), uploads)
        if view is None:
            raise Problem(404, "no channel with this id is stored: GET /api/v1/search finds those that are")
        page = {name: getattr(view, name) for name in ChannelView.__slots__}
        page["samples"] = thinned(
            view.samples, POINTS, at=lambda each: each.sampled_at, value=lambda each: each.views
        )
        return listed(page, view.uploads, _UPLOADS, form, request.url)

    return (await service.answers.get(("channel", channel_id, window, uploads, form), make)).response()


_UPLOADS: Final = Table(
    "uploads",
    (
        "id", "title", "published_at", "duration_s", "length", "state", "views", "multiple", "velocity",
        "relative_velocity", "viral_score", "url",
    ),
)  # fmt: skip
