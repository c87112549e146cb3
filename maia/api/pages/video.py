"""The pages of a video, and of up to six side by side, aligned by their age."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final, Literal
from urllib.parse import quote, urlencode

import orjson
from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from atlas.adapters.watches import Watch, WatchKind
from maia import acts
from maia.api.caching import FRESH_S
from maia.api.context import READ, WRITE, service_of
from maia.api.pages.parameters import PageRoute, Span, Text, span_of
from maia.api.pages.rendering import Table, page
from maia.api.problems import Problem
from maia.views.plotted import aligned, plotted
from maia.views.video import VideoView, is_stored, video
from maia.views.video_page import Similar, similar_to
from maia.views.words import plain
from maia.youtube.categories import CATEGORIES

if TYPE_CHECKING:
    from atlas.composition import Atlas

router = APIRouter(route_class=PageRoute, dependencies=[READ])

MOST_COMPARED: Final = 6
_SAMPLES_SHOWN: Final = 50
_IN_ADDRESS: Final = re.compile(r"(?:v=|youtu\.be/|/shorts/|/live/|/embed/|/videos/)([\w-]{11})(?![\w-])")


@router.get("/videos/{video_id}")
async def one(request: Request, video_id: str, window: Span = None) -> Response:
    """All that is known of a video, with its curve."""
    service, id_ = service_of(request), video_id[:100]
    view, similar = await service.answers.get(
        ("page video", id_, window), lambda: _look(service.atlas, id_, window), stale_s=FRESH_S
    )
    if view is None:
        raise Problem(
            404,
            f"the video {video_id[:100]} is not known here: let the tracker fetch it with "
            f"maia watch add {video_id[:100]}, or search for its title",
        )
    samples = tuple(reversed(view.samples))
    return page(
        request,
        "video.html.j2",
        view=view,
        details=view.details,
        window=window,
        plot=orjson.dumps(plain(plotted(view))).decode(),
        samples=samples[:_SAMPLES_SHOWN],
        similar=similar,
        together="/compare?"
        + urlencode([("id", each) for each in (video_id, *(other.id for other in similar))][:MOST_COMPARED]),
        category=CATEGORIES.get(view.details.category_id or -1),
        tables={
            "samples": Table(samples, derived=True),
            "sources": Table(view.sources, derived=True),
            "similar": Table(similar, derived=True),
        },
    )


@router.post("/videos/{video_id}/{act}", dependencies=[WRITE])
async def change(
    request: Request, video_id: Annotated[str, Path(max_length=64)], act: Literal["watch", "unwatch"]
) -> Response:
    """Sample a stored video whatever comes, or leave it to the zones again."""
    atlas = service_of(request).atlas
    if not await is_stored(atlas, video_id):
        raise Problem(404, f"the video {video_id} is not known here: search for its title")
    watches = [Watch(WatchKind.VIDEO, video_id)]
    await (acts.watch(atlas, watches) if act == "watch" else acts.unwatch(atlas, watches))
    return RedirectResponse(f"/videos/{quote(video_id, safe='')}", 303)


async def _look(
    atlas: Atlas, video_id: str, window: str | None
) -> tuple[VideoView | None, tuple[Similar, ...]]:
    view = await video(atlas, video_id, span_of(window))
    if view is None:
        return None, ()
    return view, await similar_to(atlas, view.details.id, view.details.tags)


@router.get("/compare")
async def compare(
    request: Request,
    id: Annotated[list[str], Query(max_length=20)] = [],  # noqa: A002, B006 - the name in the URL
    add: Text = None,
    scale: Annotated[Literal["linear", "log"], Query()] = "linear",
) -> Response:
    """Up to six videos by their age; further ones are left out."""
    wanted = list(dict.fromkeys(named(each) for each in [*id, *([add] if add else [])] if each.strip()))
    atlas = service_of(request).atlas
    found = [(each, await video(atlas, each)) for each in wanted[:MOST_COMPARED]]
    views = [view for _, view in found if view is not None]
    curves = [aligned(view) for view in views]
    return page(
        request,
        "compare.html.j2",
        views=views,
        ids=[view.details.id for view in views],
        unknown=[each for each, view in found if view is None],
        left_out=len(wanted) - len(found),
        most=MOST_COMPARED,
        scale=scale,
        address="/compare?" + urlencode([("id", view.details.id) for view in views]),
        plot=orjson.dumps(plain(curves)).decode(),
        tables={"videos": Table([_compared(view) for view in views], derived=True)},
    )


def named(text: str) -> str:
    """The id of a video that somebody pasted, which may be its address."""
    match = _IN_ADDRESS.search(text)
    return match[1] if match else text.strip()[:100]


def _compared(view: VideoView) -> dict[str, object]:
    details = view.details
    return {
        "id": details.id, "title": details.title, "channel_title": details.channel_title,
        "published_at": details.published_at, "views": details.last_views, "velocity": details.velocity,
        "relative_velocity": details.relative_velocity, "viral_score": details.viral_score,
    }  # fmt: skip
