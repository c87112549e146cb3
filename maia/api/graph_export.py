"""The knowledge graph as a file over HTTP, written as it is read: little of it is ever in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from atlas.errors import AtlasError
from maia.api.context import READ, service_of
from maia.api.graph import LONGEST_ATOM, NO_ATOM, SpaceName
from maia.api.problems import Problem
from maia.graphing.exporting import Format, Selection, streamed
from maia.views import graph as views

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/api/v1/graph", tags=["graph"], dependencies=[READ])

SEND_TIMEOUT_S: Final = 30.0
_JSON_LINES: Final = "application/x-ndjson"
_XML: Final = "application/xml"
_LINE: Final = '{"type": "tag", "name": "music", "pos": 0, "neg": 0, "sources": ["facts"]}\n'
_FORMS: Final = {"jsonl": (Format.JSON, _JSON_LINES), "graphml": (Format.GRAPHML, _XML)}
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The atoms, nodes first. The connection ends early if they can't be read to the end.",
        "content": {
            _JSON_LINES: {"schema": {"type": "string"}, "example": _LINE},
            _XML: {"schema": {"type": "string"}},
        },
    }
}


@router.get(
    "/export",
    summary="Export the graph, whole or in part",
    description="As lines of JSON, one for each atom, which `maia graph import` reads, or as GraphML for "
    "other programs. It is no snapshot: what changes meanwhile may be in it or not.",
    response_class=Response,
    responses=_ANSWERS | NO_ATOM,
)
async def export(
    request: Request,
    form: Annotated[
        Literal["jsonl", "graphml"], Query(alias="format", description="How it is written.")
    ] = "jsonl",
    types: Annotated[
        list[Annotated[str, Query(pattern=r"^[a-z][a-z0-9_]{0,49}$")]] | None,
        Query(
            alias="type", max_length=20, description="Only these types of nodes, and of links. [default: all]"
        ),
    ] = None,
    around: Annotated[
        str | None,
        Query(
            min_length=1, max_length=LONGEST_ATOM, description="Only what is near this atom, and the atom."
        ),
    ] = None,
    hops: Annotated[int, Query(ge=1, le=5, description="With `around`: so many links away at most.")] = 1,
    space: SpaceName = "own",
) -> Response:
    service = service_of(request)
    number = await views.space_named(service.atlas, space)
    format_, media_type = _FORMS[form]
    selection = Selection(tuple(types or ()), around, hops, number)
    if service.graph_exports.locked():
        raise Problem(
            503,
            "as many exports of the graph are under way here as this process takes: try again when one has "
            "ended",
            headers={"Retry-After": "10"},
        )
    parts = await streamed(service.atlas, selection, format_)
    # Whatever is wrong with the request is found before anything is answered.
    first = await anext(parts)
    return Streamed(first, parts, service.graph_exports, media_type, f"graph.{form}")


class Streamed(Response):
    """A file that is sent as it is made. Whoever leaves, or takes nothing for too long, ends the making."""

    def __init__(
        self,
        first: bytes,
        parts: AsyncGenerator[bytes, None],
        turns: asyncio.Semaphore,
        media_type: str,
        filename: str,
        send_timeout_s: float = SEND_TIMEOUT_S,
    ) -> None:
        disposition = f'attachment; filename="{filename}"'
        super().__init__(media_type=media_type, headers={"Content-Disposition": disposition})
        del self.headers["content-length"]
        self._first, self._parts, self._turns, self._send_timeout_s = first, parts, turns, send_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._parts), self._turns:
            await self._serve(receive, send)

    async def _serve(self, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.wait([sending, leaving])
        if not sending.cancelled():
            sending.result()

    async def _send_all(self, send: Send) -> None:
        """The whole answer; without its end if it can't be made to the end, so that the client sees that."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        part: bytes | None = self._first
        try:
            while part is not None:
                async with asyncio.timeout(self._send_timeout_s):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                part = await anext(self._parts, None)
        except AtlasError as error:
            logger.warning("an export of the graph ends unfinished: %s", error)
            return
        except TimeoutError:
            logger.info("an export of the graph ends unfinished: its client takes nothing")
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
