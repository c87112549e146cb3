"""The page of a channel: its counts over time, its uploads, and what is usual for them."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import quote

import orjson
from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from atlas.adapters.watches import Watch, WatchKind
from maia import acts
from maia.api.caching import FRESH_S
from maia.api.context import READ, WRITE, service_of
from maia.api.pages.parameters import PageRoute, Span, span_of
from maia.api.pages.rendering import Table, page
from maia.api.problems import Problem
from maia.views.channel import ChannelView, channel

router = APIRouter(route_class=PageRoute, dependencies=[READ])


@router.get("/channels/{channel_id}")
async def one(
    request: Request, channel_id: str, window: Span = None, limit: Annotated[int, Query(ge=1, le=500)] = 30
) -> Response:
    """A channel with its newest uploads."""
    service, id_ = service_of(request), channel_id[:100]
    view = await service.answers.get(
        ("page channel", id_, window, limit),
        lambda: channel(service.atlas, id_, span_of(window), limit),
        stale_s=FRESH_S,
    )
    if view is None:
        raise Problem(
            404,
            f"the channel {channel_id[:100]} is not known here: let the tracker fetch it with "
            f"maia watch add {channel_id[:100]}, or search for its name",
        )
    return page(
        request,
        "channel.html.j2",
        view=view,
        plot=_plot(view),
        limit=limit,
        tables={
            "uploads": Table(view.uploads, derived=True),
            "norms": Table(view.norms, derived=True),
            "samples": Table(view.samples),
        },
    )


@router.post("/channels/{channel_id}/{act}", dependencies=[WRITE])
async def change(
    request: Request, channel_id: Annotated[str, Path(max_length=64)], act: Literal["watch", "unwatch"]
) -> Response:
    """Watch a stored channel, or watch it no longer."""
    atlas = service_of(request).atlas
    if await channel(atlas, channel_id, None, 1) is None:
        raise Problem(404, f"the channel {channel_id} is not known here: search for its name")
    watches = [Watch(WatchKind.CHANNEL, channel_id)]
    await (acts.watch(atlas, watches) if act == "watch" else acts.unwatch(atlas, watches))
    return RedirectResponse(f"/channels/{quote(channel_id, safe='')}", 303)


def _plot(view: ChannelView) -> str:
    """Its counters, by instant in seconds since 1970."""
    return orjson.dumps(
        {
            "at_s": [sample.sampled_at.timestamp() for sample in view.samples],
            "subscribers": [sample.subscribers for sample in view.samples],
            "views": [sample.views for sample in view.samples],
        }
    ).decode()
