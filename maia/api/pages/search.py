"""The page Search: stored videos by words of their title or by a tag, and channels by their name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from maia.api.context import READ, service_of
from maia.api.pages.parameters import PageRoute, Text
from maia.api.pages.rendering import Table, page
from maia.api.pages.video import named
from maia.views.search import Found, nearest, search
from maia.views.video import is_stored

if TYPE_CHECKING:
    from atlas.composition import Atlas

router = APIRouter(route_class=PageRoute, dependencies=[READ])

_CHANNELS, _VIDEOS = 15, 50
_NEAREST_CHANNELS = 5


@router.get("/search")
async def results(request: Request, q: Text = None) -> Response:
    """What was found; the id or address of a stored video leads to its page."""
    service, text = service_of(request), (q or "").strip()
    if not text:
        return page(request, "search.html.j2", q=text)
    if "as" not in request.query_params and await is_stored(service.atlas, named(text)):
        return RedirectResponse(f"/videos/{named(text)}", 303)
    channels, videos = await service.answers.get(("page search", text), lambda: _look(service.atlas, text))
    return page(
        request,
        "search.html.j2",
        q=text,
        note=channels.note,
        near=videos.nearest,
        meant=videos.did_you_mean or channels.did_you_mean,
        channels=channels,
        videos=videos,
        tables={
            "videos": Table(videos.matches, derived=True),
            "channels": Table(channels.matches),
        },
    )


async def _look(atlas: Atlas, text: str) -> tuple[Found, Found]:
    """The channels and the videos that were found, or if none was, those that are nearest."""
    channels = await search(atlas, text, _CHANNELS, only="channel")
    # The search lists channels before videos.
    videos = await search(atlas, text, _VIDEOS, offset=channels.total)
    if channels.total or videos.total:
        return channels, videos
    nearest_channels = await nearest(atlas, text, _NEAREST_CHANNELS, only="channel")
    return nearest_channels, await nearest(atlas, text, _VIDEOS, only="title")
