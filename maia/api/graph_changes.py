"""WS /api/v1/graph/changes: tells clients of changes of the graph as they happen, and lets them catch up.

A client sends one message, `{"subscribe": {"types", "prefix", "min_strength", "min_count", "after"}}`, in
which all is optional. It is answered `{"kind": "subscribed", "cursor"}`, and from then on gets
`{"kind": "atom" | "gone", "cursor", "atom"}` in the order of the feed, and `{"kind": "ping", "cursor"}` when
nothing else happens. With the last cursor it got as `after`, it goes on where it was. An atom that changed
several times meanwhile is told once, as it is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.websockets import WebSocket

from atlas.adapters.graph import LONGEST_NAME
from atlas.adapters.graph_changes import GraphChangesDAO, order
from atlas.scopes import Scope
from maia.api import live
from maia.api.context import declares
from maia.api.graph_hub import GraphInterest, ToldAtom, told_of
from maia.api.live import Client, Page

if TYPE_CHECKING:
    from maia.api.context import Service

router = APIRouter()

_PAGE: Final = 500

TypeName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,49}$")]


class GraphSubscription(BaseModel):
    """What a client wants to know of."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    types: Annotated[list[TypeName], Field(max_length=50)] | None = None
    prefix: str = Field(default="", max_length=LONGEST_NAME)
    min_strength: float = Field(default=0.0, ge=0, le=1)
    min_count: float = Field(default=0.0, ge=0)
    after: str | None = Field(default=None, max_length=100)


class GraphOpening(BaseModel):
    """The first message of a client."""

    model_config = ConfigDict(strict=True, extra="forbid")

    subscribe: GraphSubscription


@router.websocket("/api/v1/graph/changes")
@declares(Scope.READ)
async def follow_graph(socket: WebSocket) -> None:
    """Serve one client until it leaves, is too slow, or the service stops."""

    async def client(service: Service, opening: GraphOpening) -> _GraphClient:
        return _GraphClient(service, socket, opening.subscribe)

    await live.serve(socket, "the graph", GraphOpening, client)


class _GraphClient(Client[ToldAtom]):
    def __init__(self, service: Service, socket: WebSocket, wanted: GraphSubscription) -> None:
        types = None if wanted.types is None else frozenset(wanted.types)
        self._interest = GraphInterest(types, wanted.prefix, wanted.min_strength, wanted.min_count)
        super().__init__(service, socket, service.graph_hub, self._interest.covers, wanted.after)
        atlas = service.atlas
        self._dao = GraphChangesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)

    async def _now(self) -> str:
        return await self._dao.cursor()

    async def _page(self, cursor: str) -> Page[ToldAtom]:
        async with self._service.catching_up:
            part = await self._dao.since(cursor, _PAGE)
        told = await asyncio.to_thread(told_of, part.items) if part.items else ()
        return Page(told, part.cursor, part.more)

    def _order(self, cursor: str) -> tuple[int, UUID]:
        return order(cursor)

    def _text(self, told: ToldAtom) -> str:
        return self._interest.text_of(told)
