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
from atlas.errors import DataRefused, UnknownCursor
from atlas.scopes import Scope
from maia.api import live
from maia.api.context import declares
from maia.api.graph_hub import GraphInterest, ToldAtom, told_of
from maia.api.listening import Listener
from maia.api.live import TOO_SLOW, VOID_CURSOR, Closing
from maia.api.pattern_hub import message

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


class _GraphClient:
    """One connection; `place` is the order of the last change that it was told of."""

    def __init__(self, service: Service, socket: WebSocket, wanted: GraphSubscription) -> None:
        self._service, self._socket, self._after = service, socket, wanted.after
        types = None if wanted.types is None else frozenset(wanted.types)
        self._interest = GraphInterest(types, wanted.prefix, wanted.min_strength, wanted.min_count)
        atlas = service.atlas
        self._dao = GraphChangesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._listener: Listener[ToldAtom] = Listener(self._interest.covers)
        self._place: tuple[int, UUID] = (0, UUID(int=0))

    async def tell(self) -> None:
        """Catch up if the client was away, then tell of what happens."""
        hub, after = self._service.graph_hub, self._after
        await hub.ready.wait()
        try:
            if after is not None:
                # From far behind, without letting news wait meanwhile; then once more with that.
                after = await self._catch_up(after)
            hub.add(self._listener)
            # What changes from now on is told by the hub, or was before this.
            cursor = await self._catch_up(after or await self._dao.cursor())
            await live.send(self._socket, message("subscribed", cursor))
            await self._tell_live(cursor)
        except (UnknownCursor, DataRefused) as error:
            raise Closing(VOID_CURSOR, str(error)) from error
        finally:
            hub.remove(self._listener)

    async def until_cut(self) -> None:
        """Wait until too many messages wait."""
        await self._listener.cut.wait()
        raise Closing(TOO_SLOW, "too many messages waited: connect again with the last cursor")

    async def _catch_up(self, cursor: str) -> str:
        """Tell of everything after a cursor that can be read now; returns the cursor after that."""
        while True:
            async with self._service.catching_up:
                part = await self._dao.since(cursor, _PAGE)
            told = await asyncio.to_thread(told_of, part.items) if part.items else ()
            for each in told:
                if self._interest.covers(each):
                    await self._send(each)
            cursor, self._place = part.cursor, order(part.cursor)
            if not part.more:
                return cursor

    async def _tell_live(self, reached: str) -> None:
        hub = self._service.graph_hub
        while True:
            # Whatever comes later than this is in the list, so the client has had all before it.
            if hub.cursor is not None and order(hub.cursor) > order(reached):
                reached = hub.cursor
            try:
                async with asyncio.timeout(live.PING_S):
                    news = await self._listener.next()
            except TimeoutError:
                await live.send(self._socket, message("ping", reached))
                continue
            if self._listener.is_void:
                raise Closing(VOID_CURSOR, "the database was restored: subscribe without a cursor")
            for each in news:
                if each.change.place > self._place:
                    await self._send(each)
                    self._place, reached = each.change.place, each.change.cursor

    async def _send(self, told: ToldAtom) -> None:
        await live.send(self._socket, self._interest.text_of(told))
