"""The page Search: stored videos by words of their title or by a tag, and channels by their name."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from maia.api.context import READ, service_of
from maia.api.pages.parameters import Text
from maia.api.pages.rendering import Table, page
from maia.api.pages.video import named
from maia.views.search import search
from maia.views.video import is_stored

router = APIRouter(dependencies=[READ])

_CHANNELS, _VIDEOS = 15, 50


@router.get("/search")
async def results(request: Request, q: Text = None) -> Response:
    """What was found; the id or address of a stored video leads to its page."""
    atlas, text = service_of(request).atlas, (q or "").strip()
    if not text:
        return page(request, "search.html.j2", q=text)
    if "as" not in request.query_params and await is_stored(atlas, named(text)):
        return RedirectResponse(f"/videos/{named(text)}", 303)
    channels = await search(atlas, text, _CHANNELS, only="channel")
    # The search lists channels before videos.
    videos = await search(atlas, text, _VIDEOS, offset=channels.total)
    return page(
        request,
        "search.html.j2",
        q=text,
        note=channels.note,
        channels=channels,
        videos=videos,
        tables={
            "videos": Table(videos.matches, derived=True),
            "channels": Table(channels.matches),
        },
    )
