"""What the cycles of every agent have in common: how one ends, gives back what it holds, and is told of.

An agent's cycle claims some items, works through them with several workers at once, and counts what it
skipped by reason. However it ends, its claims have been given back if the database answered within the grace,
and its verdict stands in the log and in the events, where it outlives the process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

from atlas.composition import Atlas
from atlas.config import Bucket, Settings
from atlas.errors import AtlasError, ConfigError, DatabaseError, EmptyKeyRing, InvalidObjectName
from atlas.vault import Vault
from maia import sessions
from maia.signals import cancelled_by_sigterm
from maia.youtube.client import YouTube
from maia.youtube.errors import KeyRejected, RateLimited
from maia.youtube.resources import Video

logger = logging.getLogger(__name__)

RATE_LIMITED_STATUS = 75
"""EX_TEMPFAIL: what the process exits with after a 429."""

SETTLED_WITHIN_S = 0.25
"""Until then an answered call's unit stays reserved, so that one statement settles many."""

RELEASE_GRACE_S = 2.0
"""Longest that giving all claims back may take before the process ends without."""

Outcome = Literal[
    "done", "idle", "closed", "unavailable", "rate_limited", "keys_rejected", "interrupted", "failed"
]


@dataclass(frozen=True, slots=True)
class Closing:
    """Why the ring makes no call, and until when (None: until somebody acts)."""

    reopens_at: datetime | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleStatistics:
    """What one or more cycles did; an agent's own counts stand beside these."""

    cycles: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    units: Mapping[Bucket, int] = field(default_factory=dict)
    seconds: float = 0.0
    outcome: Outcome = "done"
    reopens_at: datetime | None = None
    detail: str | None = None

    def then(self, later: Self) -> Self:
        """Both together: counts added, the outcome that of the later one."""
        sums: dict[str, Any] = {}
        for name in (each.name for each in fields(self)):
            ours, theirs = getattr(self, name), getattr(later, name)
            if isinstance(ours, Mapping):
                sums[name] = dict(Counter(ours) + Counter(theirs))
            elif isinstance(ours, (int, float)):
                sums[name] = ours + theirs
        return replace(later, **sums)

    def as_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold."""
        values = asdict(self)
        values["seconds"] = round(self.seconds, 3)
        values["reopens_at"] = self.reopens_at and self.reopens_at.isoformat()
        return values


Held = TypeVar("Held")
Stats = TypeVar("Stats", bound=CycleStatistics)
T = TypeVar("T")


class Cycle(ABC, Generic[Held, Stats]):
    """One cycle under way: what it holds, what it skipped, and why it takes no more."""

    agent: ClassVar[str]
    idle: str
    """What to say where nothing could be claimed."""

    def __init__(self, atlas: Atlas, youtube: YouTube, session: str) -> None:
        self.atlas, self.youtube, self.session = atlas, youtube, session
        self.held: dict[Hashable, Held] = {}
        self.workers: list[asyncio.Task[None]] = []
        self.skipped: Counter[str] = Counter()
        self.claimed = 0
        self.stopped: str | None = None
        self.closing: Closing | None = None
        self.started_s = time.monotonic()
        self.requests_before = Counter(youtube.requests)

    async def run(self, batch_size: int) -> Stats:
        """Do it all; raises what ended it, SystemExit(75) for a 429, when it has been told and given back."""
        with sessions.about(self.agent, self.session):
            return await self._run(batch_size)

    async def _run(self, batch_size: int) -> Stats:
        try:
            await self._do(batch_size)
            await self._give_back("database")
        except BaseException as error:
            outcome = _outcome_of(error)
            await self._abandon(outcome)
            statistics = self._statistics(outcome, _detail(error), getattr(error, "until", None))
            await within_grace(self._tell(statistics), "writing the cycle's event")
            if isinstance(error, RateLimited):
                raise SystemExit(RATE_LIMITED_STATUS) from error
            raise
        await self._retry_vault()
        statistics = self._finished()
        await self._tell(statistics)
        return statistics

    # What an agent supplies

    @abstractmethod
    async def _do(self, batch_size: int) -> None:
        """Claim and work; what is still held afterwards is given back."""

    @abstractmethod
    async def _release(self, items: Sequence[Held]) -> None:
        """Give claims back as if they had never been made."""

    @abstractmethod
    def _given_back(self, items: Sequence[Held], reason: str) -> None:
        """Report that they were skipped for `reason`."""

    @abstractmethod
    def _counted(self) -> Stats:
        """The agent's own counts so far."""

    @abstractmethod
    def _summary(self, statistics: Stats) -> str:
        """The cycle in a line, for the log."""

    # What all of them do

    def _close(self, closing: Closing) -> None:
        if self.closing is None:
            logger.info("%s", closing.text, extra={"action": "ring_closed"})
        self.stopped, self.closing = "ring_closed", closing

    async def _fetch(self, step: Coroutine[Any, Any, T], accept: Callable[[T], None]) -> None:
        """Accept what a step claims, even if cancelled meanwhile: nobody else could give it back."""
        fetching = asyncio.create_task(step)
        try:
            batch = await asyncio.shield(fetching)
        except asyncio.CancelledError:
            await asyncio.wait({fetching}, timeout=RELEASE_GRACE_S / 2)
            if not fetching.done():
                fetching.cancel()
            elif not fetching.cancelled() and fetching.exception() is None:
                accept(fetching.result())
            raise
        accept(batch)

    async def _work_together(self, workers: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Run workers side by side; the first failure, before others a 429, is raised."""
        self.workers = [asyncio.create_task(worker) for worker in workers]
        if not self.workers:
            return
        done, _ = await asyncio.wait(self.workers, return_when=asyncio.FIRST_EXCEPTION)
        failures = [error for worker in done if (error := worker.exception()) is not None]
        if failures:
            raise next((error for error in failures if isinstance(error, RateLimited)), failures[0])

    async def _give_back(self, reason: str) -> None:
        """Release what is still held, as if it had never been claimed."""
        if not self.held:
            return
        items, reason = list(self.held.values()), self.stopped or reason
        self.skipped[reason] += len(items)
        self.held.clear()
        try:
            await self._release(items)
        except DatabaseError as error:
            logger.warning(
                "%d claims were not given back, and end with their lease: %s",
                len(items),
                error,
                extra={"action": "release_failed"},
            )
        self._given_back(items, reason)

    async def _abandon(self, reason: str) -> None:
        """Cancel what is under way and give every claim back, within the grace."""
        for worker in self.workers:
            worker.cancel()
        if self.workers:
            await asyncio.wait(self.workers, timeout=RELEASE_GRACE_S / 4)
        for worker in self.workers:
            if worker.done() and not worker.cancelled():
                worker.exception()
        self.stopped = None
        await within_grace(self._give_back(reason), "giving the claims back", RELEASE_GRACE_S * 3 / 4)

    async def _retry_vault(self) -> None:
        try:
            await self.atlas.vault.retry_refused()
        except AtlasError as error:
            logger.warning("the vault's waiting objects go on waiting: %s", error)

    def _finished(self) -> Stats:
        if self.closing is not None:
            reopens_at = self.closing.reopens_at
            return self._statistics(
                "closed" if reopens_at else "keys_rejected", self.closing.text, reopens_at
            )
        if self.claimed == 0:
            return self._statistics("idle", self.idle, None)
        if self.skipped["network"] + self.skipped["database"] == self.claimed:
            return self._statistics("unavailable", "YouTube or the database could not be reached", None)
        return self._statistics("done", None, None)

    def _statistics(self, outcome: Outcome, detail: str | None, reopens_at: datetime | None) -> Stats:
        return replace(
            self._counted(),
            cycles=1,
            skipped=dict(self.skipped),
            units=dict(self.youtube.requests - self.requests_before),
            seconds=time.monotonic() - self.started_s,
            outcome=outcome,
            reopens_at=reopens_at,
            detail=detail,
        )

    async def _tell(self, statistics: Stats) -> None:
        """Write the cycle's verdict where it outlives the process."""
        told = statistics.as_dict()
        logging.getLogger(f"maia.{self.agent}").info(
            "%s (%s)",
            self._summary(statistics),
            statistics.outcome,
            extra={"action": f"{self.agent}_cycle"} | {"statistics": told},
        )
        try:
            await self.atlas.events.append(
                f"{self.agent}.cycle", told, agent=self.agent, session=self.session
            )
        except DatabaseError as error:
            logger.warning("the cycle's event is not written: %s", error, extra={"action": "event_lost"})


def _outcome_of(error: BaseException) -> Outcome:
    match error:
        case RateLimited():
            return "rate_limited"
        case KeyRejected() | EmptyKeyRing():
            return "keys_rejected"
        case asyncio.CancelledError() | KeyboardInterrupt():
            return "interrupted"
    return "failed"


def _detail(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def within_grace(work: Coroutine[Any, Any, None], what: str, grace_s: float = RELEASE_GRACE_S) -> None:
    """Do it, but go on without it when the grace is over: a database that hangs must not hold us."""
    task = asyncio.create_task(work)
    await asyncio.wait({task}, timeout=grace_s)
    if task.done():
        task.result()
        return
    task.cancel()
    logger.warning(
        "%s took longer than %g s and is left undone; leases end by themselves",
        what,
        grace_s,
        extra={"action": "grace_over"},
    )


async def keep_answers(vault: Vault, videos: Sequence[Video]) -> None:
    """Hand raw answers to the vault; VaultError if it is required, and refused them."""
    async with vault.batch() as batch:
        for video in videos:
            try:
                batch.store_metadata(video.id, video.raw)
            except InvalidObjectName as error:
                # No later try could keep it, so it must not hold up the others.
                logger.warning("an answer is not kept: %s", error, extra={"action": "answer_not_kept"})


def refuse_nothing(batch_size: int | None, cycles: int) -> None:
    """ConfigError where a run would claim nothing or not run at all."""
    if cycles < 1 or (batch_size is not None and batch_size < 1):
        raise ConfigError(f"batch_size ({batch_size}) and cycles ({cycles}) must be at least 1")


async def repeated(cycles: int, cycle: Callable[[int], Awaitable[Stats]], total: Stats) -> Stats:
    """Up to `cycles` of them, numbered from 1, fewer if the ring closes or nothing is left."""
    for number in range(1, cycles + 1):
        total = total.then(await cycle(number))
        if total.outcome != "done":
            break
    return total


async def directly(settings: Settings, work: Callable[[Atlas], Awaitable[T]]) -> T:
    """Open an Atlas and work without Prefect; for `asyncio.run` in the main thread.

    Raises SystemExit(75) after a 429 and SystemExit(143) after SIGTERM, in both cases with the claims given
    back; Ctrl-C ends in KeyboardInterrupt likewise; else AtlasError or MaiaError with what to do.
    """
    with cancelled_by_sigterm():
        async with Atlas.open(settings) as atlas:
            return await work(atlas)
