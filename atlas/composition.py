"""The composition root: one object that opens every resource in order and closes them in reverse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from atlas.clock import Clock, SystemClock, VirtualClock
from atlas.config import Settings
from atlas.db import Database
from atlas.errors import AtlasError, NoCurrentAtlas
from atlas.events import EventLog
from atlas.notifier import Notifier
from atlas.vault import Vault

_current: ContextVar[Atlas] = ContextVar("atlas")


@dataclass(frozen=True, slots=True)
class Atlas:
    """What an agent may use: settings, clock, database, events, notifier and vault."""

    settings: Settings
    clock: Clock
    db: Database
    events: EventLog
    notifier: Notifier
    vault: Vault

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, *, clock: Clock | None = None) -> AsyncIterator[Atlas]:
        """Open every resource and make this Atlas the current one of the calling task and its children."""
        clock = clock or clock_of(settings)
        async with AsyncExitStack() as stack:
            db = await stack.enter_async_context(Database.open(settings))
            events = EventLog(db, clock, node_id=settings.node_id)
            notifier = Notifier(db, settings.notifier)
            vault = await stack.enter_async_context(Vault.open(settings, db, clock))
            atlas = cls(settings, clock, db, events, notifier, vault)
            token = _current.set(atlas)
            try:
                yield atlas
            finally:
                _current.reset(token)

    async def ping(self) -> dict[str, str]:
        """Touch each resource: "ok" or what failed, by resource."""
        answers: dict[str, str] = {}
        for name, resource in (("database", self.db), ("vault", self.vault)):
            try:
                await resource.ping()
                answers[name] = "ok"
            except AtlasError as error:
                answers[name] = str(error)
        return answers


def current() -> Atlas:
    """The Atlas opened last around the calling task; NoCurrentAtlas if there is none."""
    try:
        return _current.get()
    except LookupError:
        raise NoCurrentAtlas from None


def clock_of(settings: Settings) -> Clock:
    """The clock that the settings ask for: the machine's, or a virtual one."""
    virtual = settings.clock
    if virtual.start is None or virtual.anchor is None:
        return SystemClock()
    return VirtualClock(virtual.start, virtual.anchor, virtual.speed)
