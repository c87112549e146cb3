"""The maintainer's cycle: runs the duties that are due, each under a lock that only one maintainer can hold.

Heavy duties, such as backups, share one lock, and light ones, such as health, another, so that a backup that
takes an hour doesn't hide an outage. A duty that fails doesn't keep the others from running.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, Final, Literal

from atlas.adapters.duties import DutiesDAO
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.db import Database
from atlas.errors import AtlasError, CannotStore, ConfigError, DatabaseUnavailable
from atlas.wording import counted
from maia.cycle.agent import Agent
from maia.cycle.cycle import Cycle, OnProgress, StepRecord
from maia.cycle.outcome import CycleStatistics, Outcome, Progress
from maia.cycle.steps import StepRunner, plain
from maia.errors import MaiaError
from maia.learning.observations import SUCCESS
from maia.maintainer import outage
from maia.maintainer.actions import ActionState, Taken
from maia.maintainer.duties import DUTIES, DutyContext, DutyRecord, DutyReport, check_duties
from maia.maintainer.ping import ping
from maia.maintainer.rota import Turn, node_of, rota
from maia.maintainer.taking import Taker

logger = logging.getLogger(__name__)

APPLY: Final = "apply"
"""The option that allows every kind of action for this run."""
ONLY: Final = "only"
"""The option that names the duties to run now."""
_LOCK_PATIENCE_S: Final = 20.0
_LOCK_POLL_S: Final = 0.5
_PROBE_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintainerStatistics(CycleStatistics):
    """Counts for one or more cycles: the duties that ran, and what became of actions."""

    duties: Mapping[str, int] = field(default_factory=dict)
    """How often each duty ran."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """How often each duty failed."""
    actions: Mapping[str, int] = field(default_factory=dict)
    """Actions by what became of them: planned, applied, failed, held_back."""
    reports: Mapping[str, Any] = field(default_factory=dict)
    """What each duty found and did the last time: summary, details and actions."""

    def then(self, later: MaintainerStatistics) -> MaintainerStatistics:
        """Counts are added up; of each duty the last report stays."""
        both = CycleStatistics.then(replace(self, reports={}), replace(later, reports={}))
        return replace(both, reports={**self.reports, **later.reports})


class Maintainer(Agent[MaintainerStatistics]):
    """The maintainer, with what this run may do."""

    name = "maintainer"
    statistics = MaintainerStatistics
    # A host in trouble needs its maintainer most.
    adapts_to_host = False

    def __init__(self, atlas: Atlas, step: StepRunner = plain) -> None:
        super().__init__(atlas, step)
        self.dao = DutiesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self.only: tuple[str, ...] = ()

    @classmethod
    @asynccontextmanager
    async def open(cls, atlas: Atlas, step: StepRunner = plain) -> AsyncIterator[Maintainer]:
        yield cls(atlas, step)

    def configure(self, options: Collection[str]) -> None:
        super().configure(options)
        wanted = [each.partition("=")[2] for each in options if each.startswith(f"{ONLY}=")]
        self.only = tuple(name.strip() for text in wanted for name in text.split(",") if name.strip())
        check_duties(self.only)

    @property
    def batch_size(self) -> int:
        return len(DUTIES)

    @property
    def applies(self) -> bool:
        """Whether this run may take actions of every kind."""
        return APPLY in self.options

    def new_cycle(self, number: int, on_progress: OnProgress | None) -> MaintainerCycle:
        return MaintainerCycle(self, number, on_progress)

    @classmethod
    async def report_outage(cls, settings: Settings, error: AtlasError) -> None:
        from maia.maintainer import emergency

        if isinstance(error, DatabaseUnavailable) and await _answers(settings):
            logger.warning(
                "a connection broke, but the database answers: %s", error, extra={"action": "no_outage"}
            )
            await ping(settings, failed=True)
            return
        # Space first: it may be what the database lacks, and people are told how it stands then.
        await emergency.free_without_database(settings)
        await outage.report_outage(settings, error)

    @staticmethod
    def headline(statistics: Mapping[str, Any]) -> str:
        ran = sum(statistics["duties"].values())
        failed = sum(statistics["failed"].values())
        return counted(ran, "duty", "duties") + (f", {failed} failed" if failed else "")

    @staticmethod
    def summary(statistics: Mapping[str, Any]) -> str:
        lines = [_line(name, report) for name, report in statistics["reports"].items()]
        actions = [each for report in statistics["reports"].values() for each in report["actions"]]
        # Two duties may plan the same, such as the next days' partitions.
        lines += dict.fromkeys(f"  {each['state'].replace('_', ' ')}: {_told(each)}" for each in actions)
        if statistics["actions"].get(ActionState.PLANNED):
            lines.append(
                "Planned actions were only shown: --apply takes them now, and PLEIADES_MAINTAINER__APPLY "
                "allows them for good."
            )
        if statistics["detail"]:
            lines.append(statistics["detail"])
        return "\n".join(lines)


async def _answers(settings: Settings) -> bool:
    """Whether the database answers right now: a connection that broke is no outage yet."""
    try:
        async with asyncio.timeout(_PROBE_S), Database.open(settings) as database:
            await database.ping()
    except (AtlasError, TimeoutError):
        return False
    return True


class MaintainerCycle(Cycle[MaintainerStatistics]):
    """A cycle of the maintainer: the duties that are due, and what came of them."""

    agent: Maintainer
    # On a full disk it has most to do.
    needs_free_disk = False

    def __init__(
        self, maintainer: Maintainer, number: int = 1, on_progress: OnProgress | None = None
    ) -> None:
        super().__init__(maintainer, number, on_progress)
        self.maintainer, self.dao = maintainer, maintainer.dao
        self.taker = Taker(self.atlas, ("all",) if maintainer.applies else ())
        self.ran: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.taken: list[Taken] = []
        self.reports: dict[str, dict[str, Any]] = {}
        self._events: list[tuple[str, Mapping[str, Any]]] = []

    async def _work(self, batch_size: int) -> None:
        await self._report_recovery()
        turns = await rota(self.atlas)
        due = self._due(turns)
        for done, turn in enumerate(due[:batch_size]):
            self._report_progress(turn.duty.name, done, len(due))
            await self.step("maintain", turn.duty.name, partial(self._run_locked, turn))
        self._report_progress("done", len(due), len(due))
        self.idle = self._why_idle(turns, bool(due))

    async def _report_recovery(self) -> None:
        """Tell people that the database is back, if it was away; where that can't be stored, it isn't."""
        try:
            await outage.report_recovery(self.atlas)
        except CannotStore as error:
            logger.warning("the database still can't store: %s", error, extra={"action": "outage_lasts"})

    async def _conclude(self) -> None:
        await super()._conclude()
        await ping(self.atlas.settings, failed=bool(self.failed))

    async def _fail(self, error: BaseException) -> MaintainerStatistics:
        statistics = await super()._fail(error)
        if statistics.outcome is not Outcome.INTERRUPTED:
            await ping(self.atlas.settings, failed=True)
        return statistics

    def _due(self, turns: Collection[Turn]) -> list[Turn]:
        only, now = self.maintainer.only, self.atlas.clock.now()
        if only:
            known = {turn.duty.name: turn for turn in turns}
            if missing := [name for name in only if name not in known]:
                raise ConfigError(
                    f"the duty {missing[0]} is switched off by PLEIADES_MAINTAINER__OFF: take it out there"
                )
            return [known[name] for name in dict.fromkeys(only)]
        return [turn for turn in turns if turn.due(now) is not None]

    def _why_idle(self, turns: Collection[Turn], had_due: bool) -> str:
        if had_due:
            return "another maintainer is at work"
        now = self.atlas.clock.now()
        following = [(at, turn.duty.name) for turn in turns if (at := turn.next_at(now)) is not None]
        if not following:
            return "every duty is off: maia schedule list"
        at, name = min(following)
        return f"nothing is due before {at:%Y-%m-%d %H:%M} UTC ({name}); --only NAME runs a duty now"

    # Running a duty

    async def _run_locked(self, turn: Turn) -> None:
        """Run a duty under its lock, unless another maintainer holds that for long."""
        patience_s = 0.0 if turn.duty.heavy else _LOCK_PATIENCE_S
        began_s = time.monotonic()
        while True:
            async with self.atlas.db.only_one(turn.duty.lock) as is_only:
                if is_only:
                    await self._run_turn(turn)
                    return
            if time.monotonic() - began_s >= patience_s:
                logger.info("another maintainer is at work, so that %s waits", turn.duty.name)
                return
            await asyncio.sleep(_LOCK_POLL_S)

    async def _run_turn(self, turn: Turn) -> None:
        duty, node, now = turn.duty, node_of(turn.duty, self.atlas), self.atlas.clock.now()
        asked = bool(self.maintainer.only)
        slot = turn.schedule.last_until(now)
        try:
            began = await self.dao.begin(duty.name, node, slot, asked=asked)
        except CannotStore:
            # What is watched and repaired on a full disk can't be noted first.
            if duty.heavy:
                raise
            await self._run_duty(duty, asked=asked)
            return
        if began is None:
            return
        report = await self._run_duty(duty, asked=asked)
        await self._note_end(duty, node, began, report)

    async def _run_duty(self, duty: DutyRecord, *, asked: bool) -> DutyReport:
        """Run a duty; its failure becomes a report, unless the process must end."""
        began_s = time.monotonic()
        context = DutyContext(self.atlas, self.taker, asked, self._report_progress)
        error: Exception | None = None
        try:
            report = await duty.load()(context)
        except (DatabaseUnavailable, ConfigError):
            raise
        except Exception as raised:
            error = raised
            expected = isinstance(raised, (AtlasError, MaiaError, OSError))
            logger.error("the duty %s failed: %s", duty.name, raised, exc_info=None if expected else raised)
            report = DutyReport(summary=f"failed: {str(raised) or type(raised).__name__}", failed=True)
        seconds = time.monotonic() - began_s
        self._count(duty, report, context, seconds)
        self._note_step(duty, report, context, seconds, error)
        return report

    def _count(self, duty: DutyRecord, report: DutyReport, context: DutyContext, seconds: float) -> None:
        self.claimed += 1
        self.ran[duty.name] += 1
        if report.failed:
            self.failed[duty.name] += 1
        self.taken += context.taken
        self.reports[duty.name] = {
            "summary": report.summary,
            "failed": report.failed,
            "seconds": round(seconds, 3),
            "details": dict(report.details),
            "actions": [taken.as_dict() for taken in context.taken],
        }
        self._events.append(("maintainer.duty", {"duty": duty.name, **self.reports[duty.name]}))

    def _note_step(
        self,
        duty: DutyRecord,
        report: DutyReport,
        context: DutyContext,
        seconds: float,
        error: Exception | None,
    ) -> None:
        """Record the duty for the learner."""
        action = f"maintain {duty.name}"
        if error is not None:
            self.note(StepRecord.failed(action, error, 0, seconds, {}))
            return
        applied = sum(taken.state is ActionState.APPLIED for taken in context.taken)
        self.note(
            StepRecord(
                action,
                "failed" if report.failed else SUCCESS,
                reward=float(applied),
                seconds=seconds,
                error=report.summary if report.failed else None,
            )
        )

    async def _note_end(self, duty: DutyRecord, node: str, began: datetime, report: DutyReport) -> None:
        state: Literal["done", "failed"] = "failed" if report.failed else "done"
        try:
            await self.dao.finish(duty.name, node, began, state, report.summary, dict(report.details))
        except CannotStore as error:
            logger.warning(
                "the end of %s (%s) is not noted: %s",
                duty.name,
                state,
                error,
                extra={"action": "duty_not_noted"},
            )

    # What the cycle tells

    def _finished(self) -> MaintainerStatistics:
        if self.failed:
            return self._statistics(
                Outcome.FAILED, f"failed: {', '.join(self.failed)}; maia schedule list shows why"
            )
        return super()._finished()

    def _noted(self) -> list[tuple[str, Mapping[str, Any]]]:
        return [*super()._noted(), *self._events]

    def _payload(self, statistics: MaintainerStatistics) -> dict[str, Any]:
        # Each duty has an event of its own.
        return replace(statistics, reports={}).as_dict()

    def _report_progress(self, what: str, done: int, of: int) -> None:
        if self.on_progress is not None:
            text = f"cycle {self.number}: {what}"
            self.on_progress(Progress(cycle=self.number, text=text, done=done, claimed=of))

    def _counted(self) -> MaintainerStatistics:
        return MaintainerStatistics(
            duties=dict(self.ran),
            failed=dict(self.failed),
            actions=dict(Counter(taken.state.value for taken in self.taken)),
            reports=self.reports,
        )

    def _summary(self, statistics: MaintainerStatistics) -> str:
        return f"ran {', '.join(statistics.duties) or 'no duty'}"


def _told(action: Mapping[str, Any]) -> str:
    """An action in a line: what it does or would do, and what came of it."""
    plan, result = action["plan"].removesuffix("."), action["result"]
    is_told = action["state"] != ActionState.PLANNED and result and result != action["plan"]
    return f"{plan}: {result}" if is_told else plan


def _line(name: str, report: Mapping[str, Any]) -> str:
    return f"{name}: {report['summary']} ({report['seconds']:.1f} s)"
