"""Cycles that claim items, process them concurrently, and release them however the cycle ends.

A claim is a lease that expires. Releasing it early saves the item that wait, and the attempt that the expiry
would count.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from atlas.errors import DatabaseError
from atlas.wording import counted
from maia.cycle import cycle
from maia.cycle.cycle import Cycle, OnProgress, Stats, within_grace
from maia.cycle.outcome import Outcome
from maia.cycle.reasons import SkipReason, reason_of

logger = logging.getLogger(__name__)

Held = TypeVar("Held")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FailedRequest(Generic[Held]):
    """A request that failed, with the items it was for."""

    items: Sequence[Held]
    error: Exception

    @property
    def reason(self) -> SkipReason:
        return reason_of(self.error)

    @property
    def cause(self) -> tuple[object, ...]:
        """A value that is equal for failures with the same cause."""
        verdict = getattr(self.error, "verdict", None)
        details = (getattr(verdict, name, None) for name in ("status", "reason", "parameter"))
        return (type(self.error), *details)


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines concurrently; the first failure, or a 429 if there is one, cancels the rest."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in coroutines]
    except BaseExceptionGroup as failures:
        limited = (e for e in failures.exceptions if reason_of(e) is SkipReason.RATE_LIMITED)
        raise next(limited, failures.exceptions[0]) from None
    return [task.result() for task in tasks]


class ClaimingCycle(Cycle[Stats], Generic[Held, Stats]):
    """A cycle that holds claims on items."""

    def __init__(self, agent: Any, number: int = 1, on_progress: OnProgress | None = None) -> None:
        super().__init__(agent, number, on_progress)
        self.held: dict[Hashable, Held] = {}
        self.stopped: SkipReason | None = None
        """Why no further item is started."""
        self.failures: list[FailedRequest[Held]] = []
        """Failed requests. Only at the end of the cycle is it clear whether their items are at fault."""
        self.common_cause: Exception | None = None
        """The error of every request in the cycle, if all failed for the same reason."""
        self._workers: list[asyncio.Task[None]] = []
        self._begin_until_s = float("inf")

    # For agents to implement

    @abstractmethod
    async def _release(self, items: Sequence[Held]) -> None:
        """Release claims as if they had never been made."""

    @abstractmethod
    async def _put_back(self, items: Sequence[Held], error: str, *, count_attempt: bool) -> None:
        """Release claims to be retried later; `count_attempt` counts this attempt against the items."""

    def _any_succeeded(self) -> bool:
        """Whether any item of this cycle succeeded."""
        return False

    def _is_its_own_fault(self, failure: FailedRequest[Held]) -> bool:
        """Whether the error itself blames the items."""
        return False

    def _given_back(self, items: Sequence[Held], reason: SkipReason) -> None:
        """Report that the items were skipped for `reason`."""

    async def _claim(self, step: Coroutine[Any, Any, T], accept: Callable[[T], None]) -> None:
        """Run a step that claims, and accept its claims even if cancelled: nobody else could release them."""
        claiming = asyncio.create_task(step)
        try:
            batch = await asyncio.shield(claiming)
        except asyncio.CancelledError:
            await asyncio.wait({claiming}, timeout=cycle.GRACE_S / 2)
            if not claiming.done():
                claiming.cancel()
            elif not claiming.cancelled() and claiming.exception() is None:
                accept(claiming.result())
            raise
        accept(batch)

    def _hold(self, items: dict[Hashable, Held], lease_s: float) -> None:
        """Hold claimed items; those not started before half the lease has passed are released."""
        self.held, self.claimed = items, len(items)
        self._begin_until_s = time.monotonic() + lease_s / 2

    def _may_begin(self) -> bool:
        """Whether another item may be started."""
        if self.stopped is None and time.monotonic() > self._begin_until_s:
            self.stopped = SkipReason.LATE
        return self.stopped is None

    async def _work_together(self, workers: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Run the workers concurrently and raise the first failure, or a 429 if there is one."""
        self._workers = [asyncio.create_task(worker) for worker in workers]
        if not self._workers:
            return
        done, _ = await asyncio.wait(self._workers, return_when=asyncio.FIRST_EXCEPTION)
        failures = [error for worker in done if (error := worker.exception()) is not None]
        if failures:
            limited = (error for error in failures if reason_of(error) is SkipReason.RATE_LIMITED)
            raise next(limited, failures[0])

    def _record_failure(self, failure: FailedRequest[Held], keys: Iterable[Hashable]) -> None:
        """Set the items of a failed request aside until the end of the cycle."""
        for key in keys:
            del self.held[key]
        self.failures.append(failure)
        self.skipped[failure.reason] += len(failure.items)

    async def _judge(self) -> None:
        """Count failures against the items at fault, and release the other items without a count."""
        causes = Counter(failure.cause for failure in self.failures)
        failures, self.failures = self.failures, []
        for failure in failures:
            if causes[failure.cause] == self.claimed > 1:
                self.common_cause = failure.error
            charged = self._is_charged(failure, alone=causes[failure.cause] == 1)
            try:
                await self._put_back(failure.items, str(failure.error), count_attempt=charged)
            except DatabaseError as error:
                self._not_given_back(len(failure.items), error)

    def _is_charged(self, failure: FailedRequest[Held], *, alone: bool) -> bool:
        """Whether the failure counts against its items.

        If several requests failed for the same reason, no item is at fault. A missing response says nothing
        about an item either, unless others succeeded in the same cycle.
        """
        if self._is_its_own_fault(failure):
            return True
        match failure.reason:
            case SkipReason.NETWORK:
                return alone and self._any_succeeded()
            case SkipReason.EMPTY:
                return alone or self._any_succeeded()
        return alone

    async def _conclude(self) -> None:
        await self._judge()
        await self._give_back(SkipReason.DATABASE)

    async def _give_back(self, reason: SkipReason) -> None:
        """Release everything still held, as if it had never been claimed."""
        if not self.held:
            return
        items, reason = list(self.held.values()), self.stopped or reason
        self.skipped[reason] += len(items)
        self.held.clear()
        try:
            await self._release(items)
        except DatabaseError as error:
            self._not_given_back(len(items), error)
        self._given_back(items, reason)

    def _not_given_back(self, count: int, error: DatabaseError) -> None:
        logger.warning(
            "%s: %s",
            counted(
                count,
                "claim could not be released, and ends when its lease expires",
                "claims could not be released, and end when their lease expires",
            ),
            error,
            extra={"action": "release_failed"},
        )

    async def _abandon(self, reason: SkipReason) -> None:
        for worker in self._workers:
            worker.cancel()
        if self._workers:
            await asyncio.wait(self._workers, timeout=cycle.GRACE_S / 4)
        for worker in self._workers:
            if worker.done() and not worker.cancelled():
                worker.exception()
        self.stopped = None
        await within_grace(self._give_all_back(reason), "releasing the claims", cycle.GRACE_S * 3 / 4)

    async def _give_all_back(self, reason: SkipReason) -> None:
        await self._judge()
        await self._give_back(reason)

    def _unreached(self) -> str:
        """Say which of YouTube and the database could not be reached."""
        names = {SkipReason.NETWORK: "YouTube", SkipReason.DATABASE: "the database"}
        silent = [name for reason, name in names.items() if self.skipped[reason]]
        return f"{' and '.join(silent)} could not be reached"

    def _finished(self) -> Stats:
        unreached = self.skipped[SkipReason.NETWORK] + self.skipped[SkipReason.DATABASE]
        if self.claimed and unreached == self.claimed:
            return self._statistics(Outcome.UNAVAILABLE, self._unreached())
        if self.common_cause and not self._any_succeeded():
            detail = f"every request failed for the same reason, so no item is charged: {self.common_cause}"
            return self._statistics(Outcome.UNAVAILABLE, detail)
        return super()._finished()
