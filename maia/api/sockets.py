"""WS /ws: tells clients of changes of patterns as they happen, and lets them catch up by a cursor.

A client sends one message, `{"subscribe": {"types", "min_confidence", "context", "after"}}`, in which all is
optional. It is answered `{"kind": "subscribed", "cursor"}`, and from then on gets
`{"kind": "pattern" | "evidence" | "forgotten", "cursor", "pattern"}` in the order of the feed, and
`{"kind": "ping", "cursor"}` when nothing else happens. With the last cursor it got as `after`, it goes on
where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.websockets import WebSocket

from atlas.adapters.changes import ChangesDAO, order
from atlas.scopes import Scope
from maia.api import live
from maia.api.context import declares
from maia.api.live import Client, Page
from maia.api.pattern_hub import Interest, Told, told_of
from maia.learning.patterns import PatternType
from maia.views.federation import count_sites
from maia.views.patterns import prior_of

if TYPE_CHECKING:
    from maia.api.context import Service

router = APIRouter()

_PAGE: Final = 200

Scalar = Annotated[str, Field(max_length=2_000)] | int | float | bool | None


class Subscription(BaseModel):
    """What a client wants to know of."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    types: Annotated[list[PatternType], Field(max_length=20, strict=False)] | None = None
    min_confidence: float = Field(default=0.0, ge=0, le=1)
    context: Annotated[Mapping[str, Scalar], Field(max_length=100)] | None = None
    after: str | None = Field(default=None, max_length=100)


class Opening(BaseModel):
    """The first message of a client."""

    model_config = ConfigDict(strict=True, extra="forbid")

    subscribe: Subscription


@router.websocket("/ws")
@declares(Scope.READ)
async def follow_patterns(socket: WebSocket) -> None:
    """Serve one client until it leaves, is too slow, or the service stops."""

    async def client(service: Service, opening: Opening) -> _PatternClient:
        wanted = opening.subscribe
        context = wanted.context
        if context is not None:
            context = dict((await service.engine.pseudonyms()).context(context))
        types = None if wanted.types is None else frozenset(wanted.types)
        interest = Interest(types, wanted.min_confidence, context)
        return _PatternClient(service, socket, interest, wanted.after)

    await live.serve(socket, "the patterns", Opening, client)


class _PatternClient(Client[Told]):
    def __init__(self, service: Service, socket: WebSocket, interest: Interest, after: str | None) -> None:
        super().__init__(service, socket, service.pattern_hub, interest.covers, after)
        atlas = service.atlas
        self._dao = ChangesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._prior = prior_of(atlas)

    async def _now(self) -> str:
        return await self._dao.cursor()

    async def _page(self, cursor: str) -> Page[Told]:
        async with self._service.catching_up:
            part = await self._dao.patterns_since(cursor, _PAGE)
            of_sites = await count_sites(self._service.atlas)
        told = await asyncio.to_thread(told_of, part.items, self._prior, of_sites) if part.items else ()
        return Page(told, part.cursor, part.more)

    def _order(self, cursor: str) -> tuple[int, str]:
        return order(cursor)

    def _text(self, told: Told) -> str:
        return told.text
