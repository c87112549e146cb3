"""One cycle of any agent: does the work, releases what it holds, and records the outcome as an event."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from atlas.composition import check_clock, check_free_disk
from atlas.errors import AtlasError, DatabaseError
from atlas.queries import clean_text
from atlas.wording import counted
from maia.cycle import sessions
from maia.cycle.adapting import Adaptation
from maia.cycle.expectations import Expected
from maia.cycle.outcome import CycleStatistics, Outcome, Progress
from maia.cycle.reasons import SkipReason, outcome_of, reason_of
from maia.learning.observations import SUCCESS, Scalar
from maia.maintenance.monitor import monitored_cycle

if TYPE_CHECKING:
    from maia.cycle.agent import Agent

logger = logging.getLogger(__name__)

GRACE_S = 2.0
"""Longest time for releasing all claims, and for writing the event, before the process ends without it."""

CLOCK_TOLERANCE = timedelta(minutes=2)
"""The largest permitted difference between this machine's clock and the database's."""

_REPORTED = frozenset({Outcome.MISCONFIGURED, Outcome.STORAGE_FAILED, Outcome.VAULT_FAILED})
"""Outcomes that a cycle returns instead of raising the error that ended it: their detail says what to do."""

_ALERTED = {
    Outcome.MISCONFIGURED: "is misconfigured",
    Outcome.STORAGE_FAILED: "stopped: the database cannot store",
    Outcome.VAULT_FAILED: "stopped: the vault cannot store",
}
"""The outcomes that need somebody to act, with the text of their alert."""

MOST_STEPS: Final = 1000
"""How many steps a cycle records; those that follow are only counted."""

_LONGEST_ERROR: Final = 300
"""Characters of an error's text that a step keeps."""

_UNGRANTED: Final = frozenset(
    {
        SkipReason.RING_CLOSED,
        SkipReason.DATABASE,
        SkipReason.STORAGE,
        SkipReason.MISCONFIGURED,
    }
)
"""If a call fails for one of these reasons, the ledger granted nothing for it, or took it back."""

Stats = TypeVar("Stats", bound=CycleStatistics)
OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What an agent did within a cycle and what came of it, for the learner to learn from.

    `outcome` says how it failed if it did not succeed. `reward` is what the step is done for, such as the
    samples stored, and `cost` the units that it took. The context is small and tells nothing personal; it is
    what was known before, and `results` are what else came of the step.
    """

    action: str
    outcome: str = SUCCESS
    reward: float = 0.0
    cost: float = 0.0
    seconds: float = 0.0
    context: Mapping[str, Scalar] = field(default_factory=dict)
    error: str | None = None
    results: Mapping[str, float] = field(default_factory=dict)
    expected: Expected | None = None
    """What the learner expected of it."""

    @classmethod
    def failed(
        cls,
        action: str,
        error: BaseException,
        cost: float,
        seconds: float,
        context: Mapping[str, Scalar],
        expected: Expected | None = None,
    ) -> Self:
        """The record of a step that an error ended. Being told to stop is no failure that has a text."""
        reason = reason_of(error)
        text = None if reason is SkipReason.INTERRUPTED else str(error) or type(error).__name__
        return cls(action, reason.value, 0.0, cost, seconds, context, text, expected=expected)

    def as_dict(self, at: datetime) -> dict[str, Any]:
        """The payload of the step's event; `at` is when it ended."""
        payload: dict[str, Any] = {
            "action": self.action,
            "at": at.isoformat(timespec="seconds"),
            "outcome": self.outcome,
            "reward": self.reward,
            "cost": round(self.cost, 3),
            "seconds": round(self.seconds, 3),
            "context": self.context,
        }
        if self.results:
            payload["results"] = self.results
        if self.expected is not None:
            payload["expected"] = self.expected.as_dict()
        if self.error is not None:
            payload["error"] = clean_text(self.error)[:_LONGEST_ERROR]
        return payload


class Cycle(ABC, Generic[Stats]):
    """A cycle in progress, with the items that it skipped."""

    idle = "there is nothing to do"
    """The detail to report if there was nothing to do."""
    needs_free_disk = True
    """Whether it would only do harm on a disk that is nearly full."""

    def __init__(self, agent: Agent[Any], number: int = 1, on_progress: OnProgress | None = None) -> None:
        self.agent, self.atlas, self.step = agent, agent.atlas, agent.step
        self.number, self.on_progress = number, on_progress
        self.skipped: Counter[SkipReason] = Counter()
        self.claimed = 0
        """How many items the cycle took on."""
        self.adaptation = Adaptation()
        """What was changed in the batch for the host's sake or by the quota left."""
        self.started_s = time.monotonic()
        self._steps: list[dict[str, Any]] = []
        self._steps_left_out = 0

    async def run(self, batch_size: int) -> Stats:
        """Run the cycle and record its outcome.

        If an error ends it early, release everything and raise the error, unless the outcome says it all.
        """
        with sessions.about(self.agent.name, self.agent.session):
            async with monitored_cycle(self.atlas):
                return await self._run(batch_size)

    async def sit_out(self) -> Stats:
        """Do nothing this time, and record why: `adaptation` tells."""
        with sessions.about(self.agent.name, self.agent.session):
            statistics = self._statistics(Outcome.IDLE)
            await self._record(statistics)
            return statistics

    async def _run(self, batch_size: int) -> Stats:
        try:
            await check_clock(self.atlas, CLOCK_TOLERANCE)
            if self.needs_free_disk:
                check_free_disk(self.atlas)
            await self._work(batch_size)
            await self._conclude()
        except BaseException as error:
            statistics = await self._fail(error)
            if statistics.outcome in _REPORTED:
                return statistics
            raise
        statistics = self._finished()
        await self._record(statistics)
        return statistics

    def note(self, step: StepRecord) -> None:
        """Record a step that has just ended; it is written as an event together with the cycle's own."""
        if len(self._steps) < MOST_STEPS:
            self._steps.append(step.as_dict(self.atlas.clock.now()))
        else:
            self._steps_left_out += 1

    # For agents to implement

    @abstractmethod
    async def _work(self, batch_size: int) -> None:
        """Do the agent's work."""

    @abstractmethod
    def _counted(self) -> Stats:
        """The agent's own counts so far."""

    @abstractmethod
    def _summary(self, statistics: Stats) -> str:
        """The cycle in one line, for the log."""

    # For layers to extend

    async def _conclude(self) -> None:
        """Finish a cycle that was not ended early."""

    async def _abandon(self, reason: SkipReason) -> None:
        """Stop work in progress and release everything, within the grace period."""

    def _noted(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The kinds and payloads of the events that are written together with the cycle's own."""
        return [(f"{self.agent.name}.step", step) for step in self._steps]

    def _payload(self, statistics: Stats) -> dict[str, Any]:
        """The payload of the cycle's event."""
        return statistics.as_dict()

    def _finished(self) -> Stats:
        if self.claimed == 0:
            return self._statistics(Outcome.IDLE, self.idle)
        return self._statistics(Outcome.DONE)

    async def _fail(self, error: BaseException) -> Stats:
        reason, outcome = reason_of(error), outcome_of(error)
        await self._abandon(SkipReason.FAILED if outcome is Outcome.FAILED else reason)
        detail = str(error) or type(error).__name__
        statistics = self._statistics(outcome, detail, getattr(error, "until", None))
        await within_grace(self._record(statistics), "writing the cycle's event")
        if outcome in _ALERTED:
            await within_grace(self._alert(outcome, detail), "sending an alert")
        return statistics

    async def _alert(self, outcome: Outcome, detail: str) -> None:
        what = f"{self.agent.name} {_ALERTED[outcome]}"
        try:
            await self.atlas.notifier.notify(what, detail, level="error", key=f"cycle {what}")
        except AtlasError as error:
            logger.warning("the alert that %s was not sent: %s", what, error, extra={"action": "alert_lost"})

    def _statistics(
        self, outcome: Outcome, detail: str | None = None, reopens_at: datetime | None = None
    ) -> Stats:
        return replace(
            self._counted(),
            cycles=1,
            skipped={reason.value: count for reason, count in self.skipped.items()},
            seconds=time.monotonic() - self.started_s,
            adapted=dict(self.adaptation.causes),
            outcome=outcome,
            reopens_at=reopens_at,
            detail=self.adaptation.detail(detail),
        )

    async def _record(self, statistics: Stats) -> None:
        """Log the outcome, and write it to the database as an event, after the events of the steps."""
        name, payload = self.agent.name, self._payload(statistics)
        logging.getLogger(f"maia.{name}").info(
            "%s (%s)",
            self._summary(statistics),
            statistics.outcome,
            extra={"action": f"{name}_cycle", "statistics": payload},
        )
        if self._steps_left_out:
            logger.info(
                "%s not recorded, as a cycle records at most %d",
                counted(self._steps_left_out, "step is", "steps are"),
                MOST_STEPS,
                extra={"action": "steps_left_out"},
            )
        events = [*self._noted(), (f"{name}.cycle", payload)]
        try:
            await self.atlas.events.append_many(events, agent=name, session=self.agent.session)
        except DatabaseError as error:
            logger.warning("the cycle's event is not written: %s", error, extra={"action": "event_lost"})


def cost_of_failure(error: BaseException, units: float) -> float:
    """What a failed call cost that would have cost so many units: all of them, if they were granted."""
    return 0.0 if reason_of(error) in _UNGRANTED else units


async def within_grace(work: Coroutine[Any, Any, None], what: str, grace_s: float | None = None) -> None:
    """Do the work, but give up after `grace_s`, so that a hanging database cannot hold up the exit."""
    limit_s = GRACE_S if grace_s is None else grace_s
    task = asyncio.create_task(work)
    await asyncio.wait({task}, timeout=limit_s)
    if task.done():
        task.result()
        return
    task.cancel()
    logger.warning(
        "%s took longer than %g s and is left undone; leases end by themselves",
        what,
        limit_s,
        extra={"action": "grace_over"},
    )
