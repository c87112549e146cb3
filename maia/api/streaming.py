"""Live events for any number of clients: one follower of the log a process, and a bounded queue for each.

No event is lost: a client subscribes first, then reads what it missed, and skips what it got twice. One that
reads too slowly is cut, and continues with the id of the last event that it got.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import orjson
from starlette.responses import Response

from atlas.adapters.board import BoardDAO
from atlas.errors import AtlasError
from maia.agents import AGENTS
from maia.api.problems import Problem
from maia.api.streams import Seats
from maia.views.breakouts import KIND as BREAKOUT
from maia.views.breakouts import rows_of
from maia.views.words import DERIVED, plain

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from atlas.composition import Atlas
    from atlas.events import Event

logger = logging.getLogger(__name__)

Family = Literal["breakout", "cycle", "incident", "action", "act", "plan"]
FAMILIES: Final[tuple[Family, ...]] = get_args(Family)
KINDS: Final[Mapping[str, Family]] = {
    BREAKOUT: "breakout",
    **{f"{agent.name}.cycle": "cycle" for agent in AGENTS},
    **{f"incident.{what}": "incident" for what in ("opened", "recovered", "acknowledged", "outage")},
    "maintainer.action": "action",
    "operator.act": "act",
    "hunter.plan": "plan",
}
"""Which events are told live, and in what family; the log has more."""

HEARTBEAT_S: Final = 15.0
SEND_TIMEOUT_S: Final = 30.0
_MOST_QUEUED: Final = 1_000
_PAGE: Final = 500
_RETRY_S: Final = 1.0
_READY_S: Final = 10.0
_RECONNECT_MS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Message:
    """An event as it is sent, made once for all clients."""

    id: int
    family: Family
    content: bytes


@dataclass(slots=True, eq=False)
class Subscription:
    """What waits to be sent to one client."""

    families: Collection[str]
    queue: asyncio.Queue[Message | None] = field(default_factory=lambda: asyncio.Queue(_MOST_QUEUED))
    cut: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, message: Message | None) -> None:
        try:
            self.queue.put_nowait(message)
        except asyncio.QueueFull:
            self.cut.set()


class Hub:
    """Follows the event log once for this process, and gives each event to all who want it."""

    def __init__(self, atlas: Atlas) -> None:
        self._atlas = atlas
        self._board = BoardDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._subscriptions: set[Subscription] = set()
        self._ready, self._ended = asyncio.Event(), False
        self.position = 0
        """The cursor after the last event that was given out."""

    async def run(self) -> None:
        """Follow the log until cancelled."""
        while True:
            try:
                await self._follow()
            except AtlasError as error:
                logger.warning("live events are interrupted, trying again: %s", error)
                await asyncio.sleep(_RETRY_S)

    async def _follow(self) -> None:
        if not self._ready.is_set():
            self.position = await self._atlas.events.cursor()
            self._ready.set()
        async with aclosing(self._atlas.events.follow(self.position, kinds=KINDS)) as events:
            async for event in events:
                message = await self.message_of(event)
                self.position = event.id
                for each in tuple(self._subscriptions):
                    if message.family in each.families:
                        each.put(message)

    async def ready(self) -> None:
        """Wait until the log is followed; Problem 503 if the database doesn't answer in time."""
        try:
            async with asyncio.timeout(_READY_S):
                await self._ready.wait()
        except TimeoutError:
            raise Problem(
                503,
                "live events are not followed yet: try again in a few seconds",
                headers={"Retry-After": "5"},
            ) from None

    @contextmanager
    def subscribed(self, families: Collection[str]) -> Iterator[Subscription]:
        """A subscription that gets every event after `position`, once the hub is ready."""
        subscription = Subscription(frozenset(families))
        self._subscriptions.add(subscription)
        if self._ended:
            subscription.put(None)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    async def end_with(self, stopping: asyncio.Event) -> None:
        """Once the process stops, tell every client so."""
        await stopping.wait()
        self._ended = True
        for each in tuple(self._subscriptions):
            each.put(None)

    async def missed(self, after: int, families: Collection[str]) -> AsyncGenerator[Message, None]:
        """What happened after a cursor, up to now."""
        kinds = [kind for kind, family in KINDS.items() if family in families]
        while True:
            events = await self._atlas.events.since(after, kinds=kinds, limit=_PAGE)
            for event in events:
                yield await self.message_of(event)
            if len(events) < _PAGE:
                return
            after = events[-1].id

    async def now(self) -> int:
        """The cursor after the last event that can be read now."""
        return await self._atlas.events.cursor()

    async def message_of(self, event: Event) -> Message:
        """The event as it is sent; a breakout with its video's title and channel, if they can be read."""
        family = KINDS[event.kind]
        told: dict[str, Any] = {
            "cursor": event.id,
            "at": event.at,
            "kind": event.kind,
            "agent": event.agent,
            "node": event.node,
            "payload": event.payload,
        }
        if family == "breakout":
            told |= {"attribution": DERIVED, "breakout": await self._breakout(event)}
        return Message(event.id, family, _sent(family, told, event.id))

    async def _breakout(self, event: Event) -> Mapping[str, Any] | None:
        try:
            [row] = await rows_of(self._board, [event])
        except AtlasError as error:
            logger.warning("a breakout is told without its title: %s", error)
            return None
        found: Mapping[str, Any] = plain(row)
        return found


def _sent(event: str, data: object, id_: int | None = None) -> bytes:
    head = b"" if id_ is None else b"id: %d\n" % id_
    return b"%sevent: %s\ndata: %s\n\n" % (head, event.encode(), orjson.dumps(data, option=orjson.OPT_UTC_Z))


class EventStream(Response):
    """Server-sent events after a cursor (None: from now on), until the client leaves or the process stops."""

    media_type = "text/event-stream"

    def __init__(
        self,
        hub: Hub,
        seats: Seats,
        families: Collection[str],
        after: int | None,
        *,
        caller: str | None = None,
        until_revoked: Callable[[], Awaitable[None]] | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        send_timeout_s: float = SEND_TIMEOUT_S,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._hub, self._seats, self._families, self._after = hub, seats, families, after
        self._caller, self._until_revoked = caller, until_revoked
        self._heartbeat_s, self._send_timeout_s = heartbeat_s, send_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._hub.ready()
            with self._seats.taken_by_one(self._caller), self._hub.subscribed(self._families) as subscription:
                await send(
                    {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                )
                await self._serve(subscription, receive, send)
        except Problem as problem:
            await problem.response()(scope, receive, send)

    async def _serve(self, subscription: Subscription, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send_all(subscription, send))
        others = [asyncio.ensure_future(subscription.cut.wait()), asyncio.ensure_future(_gone(receive))]
        if self._until_revoked is not None:
            others.append(asyncio.ensure_future(self._until_revoked()))
        try:
            await asyncio.wait([sending, *others], return_when=asyncio.FIRST_COMPLETED)
            if subscription.cut.is_set():
                logger.info("a client of live events is too slow, and was cut")
        finally:
            for task in (sending, *others):
                task.cancel()
            await asyncio.wait([sending, *others])
        if not sending.cancelled():
            sending.result()

    async def _send_all(self, subscription: Subscription, send: Send) -> None:
        async with aclosing(self._messages(subscription)) as messages:
            async for content in messages:
                try:
                    async with asyncio.timeout(self._send_timeout_s):
                        await send({"type": "http.response.body", "body": content, "more_body": True})
                except TimeoutError:
                    subscription.cut.set()
                    return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _messages(self, subscription: Subscription) -> AsyncGenerator[bytes, None]:
        yield b"retry: %d\n: events of Pleiades\n\n" % _RECONNECT_MS
        try:
            last = now = await self._hub.now()
            if self._after is not None:
                last = self._after
                if last > now:
                    # The database was restored from a backup since: what it knew later is gone.
                    last = now
                    yield _sent("reset", {"cursor": now}, now)
                async for message in self._hub.missed(last, self._families):
                    yield message.content
                    last = message.id
        except AtlasError as error:
            logger.warning("a stream of live events ends: %s", error)
            yield _sent("interrupted", {"detail": "the database does not answer: connect again"})
            return
        while True:
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    message_or_end = await subscription.queue.get()
            except TimeoutError:
                # With an id, so that a client whose events are rare doesn't have to catch up from far back.
                last = max(last, self._hub.position) if subscription.queue.empty() else last
                yield b": still here\nid: %d\n\n" % last
                continue
            if message_or_end is None:
                yield _sent("stopping", {"detail": "this process stops: connect again"})
                return
            if message_or_end.id > last:
                last = message_or_end.id
                yield message_or_end.content


async def _gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
