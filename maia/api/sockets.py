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
from atlas.errors import DataRefused, UnknownCursor
from atlas.scopes import Scope
from maia.api import live
from maia.api.context import declares
from maia.api.listening import Listener
from maia.api.live import TOO_SLOW, VOID_CURSOR, Closing
from maia.api.pattern_hub import Interest, Told, message, told_of
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

    async def client(service: Service, opening: Opening) -> _Client:
        wanted = opening.subscribe
        context = wanted.context
        if context is not None:
            context = dict((await service.engine.pseudonyms()).context(context))
        types = None if wanted.types is None else frozenset(wanted.types)
        interest = Interest(types, wanted.min_confidence, context)
        return _Client(service, socket, interest, wanted.after)

    await live.serve(socket, "the patterns", Opening, client)


class _Client:
    """One connection; `place` is the order of the last change that it was told of."""

    def __init__(self, service: Service, socket: WebSocket, interest: Interest, after: str | None) -> None:
        self._service, self._socket, self._interest = service, socket, interest
        self._after = after
        atlas = service.atlas
        self._dao = ChangesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._prior = prior_of(atlas)
        self._place: tuple[int, str] = (0, "")
        self._listener: Listener[Told] = Listener(interest.covers)

    async def tell(self) -> None:
        """Catch up if the client was away, then tell of what happens."""
        hub, after = self._service.pattern_hub, self._after
        await hub.ready.wait()
        try:
            if after is not None:
                # From far behind, without letting news wait meanwhile; then once more with that.
                after = await self._catch_up(after)
            hub.add(self._listener)
            cursor = hub.cursor if after is None else after
            assert cursor is not None
            if after is not None:
                cursor = await self._catch_up(after)
            await self._send(message("subscribed", cursor))
            self._place = max(self._place, order(cursor))
            await self._tell_live()
        except (UnknownCursor, DataRefused) as error:
            raise Closing(VOID_CURSOR, str(error)) from error
        finally:
            hub.remove(self._listener)

    async def until_cut(self) -> None:
        """Wait until too many messages wait."""
        await self._listener.cut.wait()
        raise Closing(TOO_SLOW, "too many messages waited: connect again with the last cursor")

    async def _send(self, text: str) -> None:
        await live.send(self._socket, text)

    async def _catch_up(self, cursor: str) -> str:
        """Tell of everything after a cursor that can be read now; returns the cursor after that."""
        while True:
            async with self._service.catching_up:
                part = await self._dao.patterns_since(cursor, _PAGE)
                of_sites = await count_sites(self._service.atlas)
            told = await asyncio.to_thread(told_of, part.items, self._prior, of_sites) if part.items else ()
            for each in told:
                if self._interest.covers(each):
                    await self._send(each.text)
            cursor, self._place = part.cursor, order(part.cursor)
            if not part.more:
                return cursor

    async def _tell_live(self) -> None:
        hub, listener = self._service.pattern_hub, self._listener
        while True:
            # Whatever comes later than this is in the list, so the client has had all before it.
            reached = hub.cursor
            try:
                async with asyncio.timeout(live.PING_S):
                    news = await listener.next()
            except TimeoutError:
                assert reached is not None
                await self._send(message("ping", reached))
                continue
            if listener.is_void:
                raise Closing(VOID_CURSOR, "the database was restored: subscribe without a cursor")
            for each in news:
                if each.place > self._place:
                    await self._send(each.text)
                    self._place = each.place
