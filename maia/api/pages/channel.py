"""The page of a channel: its counts over time, its uploads, and what is usual for them."""

from __future__ import annotations

from typing import Annotated

import orjson
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from maia.api.context import READ, service_of
from maia.api.pages.parameters import Span, span_of
from maia.api.pages.rendering import Table, page
from maia.api.problems import Problem
from maia.views.channel import ChannelView, channel

router = APIRouter(dependencies=[READ])


@router.get("/channels/{channel_id}")
async def one(
    request: Request, channel_id: str, window: Span = None, limit: Annotated[int, Query(ge=1, le=500)] = 30
) -> Response:
    """A channel with its newest uploads."""
    view = await channel(service_of(request).atlas, channel_id[:100], span_of(window), limit)
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


def _plot(view: ChannelView) -> str:
    """Its counters, by instant in seconds since 1970."""
    return orjson.dumps(
        {
            "at_s": [sample.sampled_at.timestamp() for sample in view.samples],
            "subscribers": [sample.subscribers for sample in view.samples],
            "views": [sample.views for sample in view.samples],
        }
    ).decode()
