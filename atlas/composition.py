"""The composition root: `Atlas.open` opens all shared resources in order and closes them in reverse."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from atlas import network
from atlas.clock import Clock, SystemClock, VirtualClock
from atlas.config import Settings
from atlas.db import Database
from atlas.errors import (
    AtlasError,
    CannotStore,
    ClockSkew,
    DatabaseError,
    NoCurrentAtlas,
    ReaderLeft,
    RingClosed,
)
from atlas.events import EventLog
from atlas.notifier import Notifier
from atlas.usage import UsageBuffer
from atlas.vault import Vault

MIN_FREE_BYTES = 32 * 2**20
"""Free disk space that the embedded server needs: two WAL segments."""

_current: ContextVar[Atlas] = ContextVar("atlas")


@dataclass(frozen=True, slots=True)
class Atlas:
    """The resources that an agent uses: settings, clock, database, events, notifier and vault.

    `usage` counts what is used of them, and is written when the Atlas closes.
    """

    settings: Settings
    clock: Clock
    db: Database
    events: EventLog
    notifier: Notifier
    vault: Vault
    usage: UsageBuffer = field(default_factory=UsageBuffer)

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, *, clock: Clock | None = None) -> AsyncIterator[Atlas]:
        """Open every resource and make this Atlas the current one for the calling task and its children."""
        clock = clock or clock_of(settings)
        network.prepare(settings.network)
        async with AsyncExitStack() as stack:
            db = await stack.enter_async_context(Database.open(settings))
            events = EventLog(db, clock, node_id=settings.node_id)
            notifier = Notifier(db, settings.notifier)
            vault = await stack.enter_async_context(Vault.open(settings, db, clock))
            atlas = cls(settings, clock, db, events, notifier, vault)
            token = _current.set(atlas)
            try:
                yield atlas
            except BaseException as error:
                await _count_usage(atlas, error)
                raise
            else:
                await _count_usage(atlas, None)
            finally:
                _current.reset(token)

    async def ping(self) -> dict[str, str]:
        """Contact each resource; returns "ok" or the error's message by resource."""
        answers: dict[str, str] = {}
        for name, resource in (("database", self.db), ("vault", self.vault)):
            try:
                await resource.ping()
                answers[name] = "ok"
            except AtlasError as error:
                answers[name] = str(error)
        return answers

    async def write_usage(self) -> None:
        """Write the counts of what was used so far. They are only logged if that fails or takes long."""
        if self.usage and self.settings.monitoring.enabled:
            from atlas.adapters.telemetry import TelemetryDAO

            dao = TelemetryDAO(self.db, clock=self.clock, settings=self.settings)
            await self.usage.write(dao, self.clock.now())

    async def clock_skew(self) -> timedelta:
        """How far, at least, this machine's clock is ahead of the database's; negative if behind.

        The duration of the query is uncertainty and never counts as a difference.
        """
        machine = SystemClock()
        before = machine.now()
        database: datetime = await self.db.fetchval("health.now")
        after = machine.now()
        return (
            before - database if database < before else after - database if database > after else timedelta()
        )


async def check_clock(atlas: Atlas, limit: timedelta) -> None:
    """Raise ClockSkew if the clock differs from the database's by more than `limit`; takes one query.

    A wrong clock would expire samples too early and reschedule every video. Virtual and fixed clocks differ
    on purpose and are not checked.
    """
    if not isinstance(atlas.clock, SystemClock):
        return
    skew = await atlas.clock_skew()
    if abs(skew) > limit:
        now = atlas.clock.now()
        raise ClockSkew(
            f"this machine's clock says {now:%Y-%m-%d %H:%M:%S} UTC, the database's "
            f"{now - skew:%Y-%m-%d %H:%M:%S}: set the wrong one (timedatectl set-ntp true keeps it right); "
            "until then nothing is sampled, rescheduled or deleted"
        )


def check_free_disk(atlas: Atlas, min_free_bytes: int = MIN_FREE_BYTES) -> None:
    """Raise CannotStore if the embedded server's disk is nearly full.

    Call it before spending units: on a full disk the server still runs, but inserts fail and it may stop.
    """
    if atlas.settings.database_url is not None:
        return
    free = shutil.disk_usage(atlas.settings.data_folder).free
    if free < min_free_bytes:
        raise CannotStore(
            f"{atlas.settings.data_folder} has only {free / 2**20:.0f} MiB of free disk left: free some "
            "space (maia system cleanup --only emergency --apply), or set PLEIADES_DATA_DIR to a folder on "
            "another disk"
        )


async def _count_usage(atlas: Atlas, error: BaseException | None) -> None:
    """Write what was used of an Atlas that closes; `error` is what ended its block."""
    atlas.usage.add_command(failed=_is_failure(error))
    if not isinstance(error, DatabaseError):
        await atlas.write_usage()


def _is_failure(error: BaseException | None) -> bool:
    """Whether a command failed that ended so; being stopped, or having nothing to spend, is no failure."""
    if isinstance(error, SystemExit):
        # Above 128 a signal ended it.
        return error.code not in (None, 0) and not (isinstance(error.code, int) and error.code > 128)
    return isinstance(error, Exception) and not isinstance(error, (RingClosed, ReaderLeft))


def current() -> Atlas:
    """The innermost Atlas open around the calling task; NoCurrentAtlas if there is none."""
    try:
        return _current.get()
    except LookupError:
        raise NoCurrentAtlas from None


def clock_of(settings: Settings) -> Clock:
    """The configured clock: this machine's, or a virtual one."""
    virtual = settings.clock
    if virtual.start is None or virtual.anchor is None:
        return SystemClock()
    return VirtualClock(virtual.start, virtual.anchor, virtual.speed)
