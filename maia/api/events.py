"""Live events: breakouts, cycles, incidents and what else happens, as it happens."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.requests import Request

from maia.api.context import READ, caller_of, service_of
from maia.api.streaming import FAMILIES, EventStream, Family

router = APIRouter(prefix="/api/v1", tags=["events"], dependencies=[READ])

_CURSOR = r"^[0-9]{0,18}$"
_DESCRIPTION = """Server-sent events. Each has an `id`, which is a cursor, an event name (`breakout`, `cycle`,
`incident`, `action`, `act` or `plan`), and data in JSON: `cursor`, `at`, `kind`, `agent`, `node`, `payload`,
and for a breakout the video's title and channel. Velocities are computed by Pleiades, not by YouTube.

A client that was away sends the id of the last event it got in `Last-Event-ID`, as browsers do by themselves,
and gets all that it missed. One that reads too slowly is cut, and continues the same way. `stopping` says
that the process ends: connect again. `reset` says that the database was restored, and the cursor void."""


@router.get(
    "/events",
    summary="What happens, as it happens",
    description=_DESCRIPTION,
    status_code=200,
    response_class=EventStream,
    responses={
        200: {
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "example": 'id: 42\nevent: cycle\ndata: {"cursor":42,"kind":"hunter.cycle"}\n\n',
                }
            }
        }
    },
)
async def events(
    request: Request,
    kinds: Annotated[
        list[Family],
        Query(min_length=1, max_length=len(FAMILIES), description="Only events of these kinds."),
    ] = list(FAMILIES),  # noqa: B006 - never changed
    after: Annotated[
        str | None,
        Query(max_length=18, pattern=_CURSOR, description="Continue after this cursor; 0 is the beginning."),
    ] = None,
    last_event_id: Annotated[
        str | None,
        Header(max_length=18, pattern=_CURSOR, description="The same; browsers send it when they reconnect."),
    ] = None,
) -> EventStream:
    service = service_of(request)
    cursor = last_event_id or after
    after_cursor = int(cursor) if cursor else None
    caller = caller_of(request).id
    return EventStream(
        service.hub,
        service.streams,
        kinds,
        after_cursor,
        caller=caller,
        until_revoked=partial(service.access.until_revoked, caller),
    )
