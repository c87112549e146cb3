"""What all WebSockets that tell of changes share: who may open one, in which order it tells, why it ends."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from atlas.errors import AtlasError, DataRefused, UnknownCursor
from atlas.scopes import Scope
from maia.api.context import caller_of, service_of
from maia.api.listening import FeedHub, Listener, message
from maia.api.problems import Problem

if TYPE_CHECKING:
    from maia.api.context import Service

logger = logging.getLogger(__name__)

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

PING_S: Final = 20.0
_SUBSCRIBE_S: Final = 10.0
_SEND_S: Final = 30.0
_CLOSE_S: Final = 2.0
_LONGEST_REASON: Final = 120

Opening = TypeVar("Opening", bound=BaseModel)


class Closing(Exception):
    """Ends a connection."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Told(Protocol):
    """A change as it is told: `place` is its order in the feed, and `cursor` what to go on with after it."""

    @property
    def place(self) -> tuple[int, Any]: ...

    @property
    def cursor(self) -> str: ...


News = TypeVar("News", bound=Told)


@dataclass(frozen=True, slots=True)
class Page(Generic[News]):
    """Part of a feed: `cursor` is where to read on, at once if there may be `more`."""

    news: Sequence[News]
    cursor: str
    more: bool


class Client(ABC, Generic[News]):
    """One connection: it catches up, and then is told of what happens; each change once, in order."""

    def __init__(
        self,
        service: Service,
        socket: WebSocket,
        hub: FeedHub[News],
        covers: Callable[[News], bool],
        after: str | None,
    ) -> None:
        """`after` is the cursor of a client that was away."""
        self._service, self._socket, self._hub, self._after = service, socket, hub, after
        self._listener = Listener(covers)
        self._place: tuple[int, Any] = (0, None)
        """The order of the last change that it was told of."""

    @abstractmethod
    async def _now(self) -> str:
        """The cursor after everything that can be read now."""

    @abstractmethod
    async def _page(self, cursor: str) -> Page[News]:
        """What follows a cursor."""

    @abstractmethod
    def _order(self, cursor: str) -> tuple[int, Any]:
        """By this, cursors are in the order of the feed."""

    @abstractmethod
    def _text(self, told: News) -> str:
        """The message about a change."""

    async def tell(self) -> None:
        """Catch up if the client was away, then tell of what happens."""
        hub, after = self._hub, self._after
        await hub.ready.wait()
        try:
            if after is not None:
                # From far behind, without letting news wait meanwhile; then once more with that.
                after = await self._catch_up(after)
            hub.add(self._listener)
            # What changes from now on is told by the hub, or was before this.
            cursor = await self._catch_up(after or await self._now())
            await send(self._socket, message("subscribed", cursor))
            await self._tell_live(cursor)
        except (UnknownCursor, DataRefused) as error:
            raise Closing(VOID_CURSOR, str(error)) from error
        finally:
            hub.remove(self._listener)

    async def until_cut(self) -> None:
        """Wait until too many messages wait, and then raise Closing."""
        await self._listener.cut.wait()
        raise Closing(TOO_SLOW, "too many messages waited: connect again with the last cursor")

    async def _catch_up(self, cursor: str) -> str:
        """Tell of everything after a cursor that can be read now; returns the cursor after that."""
        while True:
            page = await self._page(cursor)
            for each in page.news:
                if self._listener.covers(each):
                    await send(self._socket, self._text(each))
            cursor, self._place = page.cursor, self._order(page.cursor)
            if not page.more:
                return cursor

    async def _tell_live(self, reached: str) -> None:
        while True:
            # Whatever comes later than this is in the list, so the client has had all before it.
            if self._hub.cursor is not None and self._order(self._hub.cursor) > self._order(reached):
                reached = self._hub.cursor
            try:
                async with asyncio.timeout(PING_S):
                    news = await self._listener.next()
            except TimeoutError:
                await send(self._socket, message("ping", reached))
                continue
            if self._listener.is_void:
                raise Closing(VOID_CURSOR, "the database was restored: subscribe without a cursor")
            for each in news:
                if each.place > self._place:
                    await send(self._socket, self._text(each))
                    self._place, reached = each.place, each.cursor


async def serve(
    socket: WebSocket,
    what: str,
    opening: type[Opening],
    client_of: Callable[[Service, Opening], Awaitable[Client[Any]]],
) -> None:
    """Serve one client until it leaves, is too slow, or the service stops. `what` it follows, for the log."""
    service = service_of(socket)
    await socket.accept()
    try:
        caller = caller_of(socket)
        if not caller.scope.permits(Scope.READ):
            raise Closing(FORBIDDEN, "your key may not read")
        with service.streams.taken_by_one(caller.id):
            client = await client_of(service, await _opening(socket, opening))
            await _serve(service, socket, client, caller.id)
    except Problem as problem:
        await _close(socket, Closing(TRY_AGAIN, problem.detail))
    except AtlasError as error:
        logger.warning("a client can't follow %s for now: %s", what, error)
        await _close(socket, Closing(TRY_AGAIN, "the database does not answer: connect again later"))
    except Closing as closing:
        await _close(socket, closing)
    except WebSocketDisconnect:
        return


async def _serve(service: Service, socket: WebSocket, client: Client[Any], caller_id: str | None) -> None:
    # One of them ends it: whatever it waits for, as when the client does not read.
    tasks = [
        asyncio.ensure_future(work)
        for work in (
            client.tell(),
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


async def _opening(socket: WebSocket, opening: type[Opening]) -> Opening:
    try:
        async with asyncio.timeout(_SUBSCRIBE_S):
            text = await socket.receive_text()
        return opening.model_validate_json(text)
    except TimeoutError:
        raise Closing(INVALID, 'send {"subscribe": {}} first') from None
    except (ValidationError, KeyError) as error:
        wrong = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "no text"}
        where = f"{'.'.join(map(str, wrong['loc']))}: " if wrong["loc"] else ""
        raise Closing(INVALID, f"this is no subscription: {where}{wrong['msg']}") from None


async def send(socket: WebSocket, text: str) -> None:
    """Send a message; Closing if the client doesn't read."""
    try:
        async with asyncio.timeout(_SEND_S):
            await socket.send_text(text)
    except TimeoutError:
        raise Closing(TOO_SLOW, "you do not read: connect again with the last cursor") from None


async def _until_gone(socket: WebSocket) -> None:
    """Wait until the client leaves; it has nothing more to say."""
    received = await socket.receive()
    if received["type"] == "websocket.receive":
        raise Closing(INVALID, "there is one subscription a connection: open another")


async def _until_revoked(service: Service, caller_id: str | None) -> None:
    await service.access.until_revoked(caller_id)
    raise Closing(REVOKED, "your key is not valid any more")


async def _close(socket: WebSocket, closing: Closing) -> None:
    try:
        async with asyncio.timeout(_CLOSE_S):
            await socket.close(closing.code, closing.reason[:_LONGEST_REASON])
    except (WebSocketDisconnect, RuntimeError, TimeoutError):
        # It is closed already, or reads nothing.
        return
