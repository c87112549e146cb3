"""WS /ws: tells clients of changes of patterns as they happen, and lets them catch up by a cursor.

A client sends one message, `{"subscribe": {"types", "min_confidence", "context", "after"}}`, in which all is
optional. It is answered `{"kind": "subscribed", "cursor"}`, and from then on gets
`{"kind": "pattern" | "evidence" | "forgotten", "cursor", "pattern"}` in the order of the feed, and
`{"kind": "ping", "cursor"}` when nothing else happens. With the last cursor it got as `after`, it goes on
where it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from atlas.adapters.changes import ChangesDAO, order
from atlas.errors import AtlasError, DataRefused, UnknownCursor
from atlas.scopes import Scope
from maia.api.context import caller_of, declares, service_of
from maia.api.pattern_hub import Interest, Listener, message, told_of
from maia.api.problems import Problem
from maia.learning.patterns import PatternType
from maia.views.federation import count_sites
from maia.views.patterns import prior_of

if TYPE_CHECKING:
    from maia.api.context import Service

logger = logging.getLogger(__name__)

router = APIRouter()

INVALID: Final = 4400
"""The first message is no subscription."""
FORBIDDEN: Final = 4403
"""The key may not read."""
VOID_CURSOR: Final = 4410
"""The cursor is of another database, or of before this one was restored: subscribe without one."""
TOO_SLOW: Final = 4408
"""More messages waited than are kept: connect again, with the last cursor."""
REVOKED: Final = 4401
"""The key was revoked."""
TRY_AGAIN: Final = 1013
"""There are too many streams, or the database does not answer: connect again later."""

_PING_S: Final = 20.0
_SUBSCRIBE_S: Final = 10.0
_SEND_S: Final = 30.0
_CLOSE_S: Final = 2.0
_PAGE: Final = 200
_LONGEST_REASON: Final = 120

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


class _Closing(Exception):
    """Ends a connection."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


@router.websocket("/ws")
@declares(Scope.READ)
async def follow_patterns(socket: WebSocket) -> None:
    """Serve one client until it leaves, is too slow, or the service stops."""
    service = service_of(socket)
    await socket.accept()
    try:
        caller = caller_of(socket)
        if not caller.scope.permits(Scope.READ):
            raise _Closing(FORBIDDEN, "your key may not read")
        with service.streams.taken_by_one(caller.id):
            await _serve(service, socket, caller.id)
    except Problem as problem:
        await _close(socket, _Closing(TRY_AGAIN, problem.detail))
    except AtlasError as error:
        logger.warning("a client can't follow the patterns for now: %s", error)
        await _close(socket, _Closing(TRY_AGAIN, "the database does not answer: connect again later"))
    except _Closing as closing:
        await _close(socket, closing)
    except WebSocketDisconnect:
        return


async def _serve(service: Service, socket: WebSocket, caller_id: str | None) -> None:
    wanted = await _subscription(socket)
    context = wanted.context
    if context is not None:
        context = dict((await service.engine.pseudonyms()).context(context))
    types = None if wanted.types is None else frozenset(wanted.types)
    client = _Client(service, socket, Interest(types, wanted.min_confidence, context))
    # One of them ends it: whatever it waits for, as when the client does not read.
    tasks = [
        asyncio.ensure_future(work)
        for work in (
            client.tell(wanted.after),
            client.until_cut(),
            _until_gone(socket),
            _until_revoked(service, caller_id),
        )
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _subscription(socket: WebSocket) -> Subscription:
    try:
        async with asyncio.timeout(_SUBSCRIBE_S):
            text = await socket.receive_text()
        return Opening.model_validate_json(text).subscribe
    except TimeoutError:
        raise _Closing(INVALID, 'send {"subscribe": {}} first') from None
    except (ValidationError, KeyError) as error:
        wrong = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "no text"}
        where = f"{'.'.join(map(str, wrong['loc']))}: " if wrong["loc"] else ""
        raise _Closing(INVALID, f"this is no subscription: {where}{wrong['msg']}") from None


async def _until_gone(socket: WebSocket) -> None:
    """Wait until the client leaves; it has nothing more to say."""
    received = await socket.receive()
    if received["type"] == "websocket.receive":
        raise _Closing(INVALID, "there is one subscription a connection: open another")


async def _until_revoked(service: Service, caller_id: str | None) -> None:
    await service.access.until_revoked(caller_id)
    raise _Closing(REVOKED, "your key is not valid any more")


class _Client:
    """One connection; `place` is the order of the last change that it was told of."""

    def __init__(self, service: Service, socket: WebSocket, interest: Interest) -> None:
        self._service, self._socket, self._interest = service, socket, interest
        atlas = service.atlas
        self._dao = ChangesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._prior = prior_of(atlas)
        self._place: tuple[int, str] = (0, "")
        self._listener = Listener(interest)

    async def tell(self, after: str | None) -> None:
        """Catch up if the client was away, then tell of what happens."""
        hub = self._service.pattern_hub
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
            raise _Closing(VOID_CURSOR, str(error)) from error
        finally:
            hub.remove(self._listener)

    async def until_cut(self) -> None:
        """Wait until too many messages wait."""
        await self._listener.cut.wait()
        raise _Closing(TOO_SLOW, "too many messages waited: connect again with the last cursor")

    async def _send(self, text: str) -> None:
        try:
            async with asyncio.timeout(_SEND_S):
                await self._socket.send_text(text)
        except TimeoutError:
            raise _Closing(TOO_SLOW, "you do not read: connect again with the last cursor") from None

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
                async with asyncio.timeout(_PING_S):
                    news = await listener.next()
            except TimeoutError:
                assert reached is not None
                await self._send(message("ping", reached))
                continue
            if listener.is_void:
                raise _Closing(VOID_CURSOR, "the database was restored: subscribe without a cursor")
            for each in news:
                if each.place > self._place:
                    await self._send(each.text)
                    self._place = each.place


async def _close(socket: WebSocket, closing: _Closing) -> None:
    try:
        async with asyncio.timeout(_CLOSE_S):
            await socket.close(closing.code, closing.reason[:_LONGEST_REASON])
    except (WebSocketDisconnect, RuntimeError, TimeoutError):
        # It is closed already, or reads nothing.
        return
