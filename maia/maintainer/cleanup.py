"""Clean-up: deletes what is older than its retention from database, vault and Prefect, and tidies tables.

Every action counts first and changes nothing, then deletes in batches, each of which is committed: killed
anywhere, the next clean-up goes on. All actions of a run share its time; what is left then, the next one
deletes. Raw answers about a video are deleted before its row, which alone tells which they are.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import ClassVar, Final

from atlas.adapters.patterns import PatternsDAO
from atlas.adapters.retention import ERASED, RULES, Expired, RetentionDAO, Rule, VideoToErase
from atlas.adapters.tracking import MOST_DAYS_DROPPED_A_DAY, TrackingDAO
from atlas.clock import SystemClock
from atlas.composition import Atlas
from atlas.errors import AtlasError, StatementTimeout
from atlas.vault import is_name, metadata_name
from atlas.wording import counted
from maia.errors import MaiaError
from maia.maintainer.actions import Action, ActionFailed, ActionState, Plan
from maia.maintainer.duties import DutyContext, DutyReport
from maia.maintainer.reports import remove_names, reports_without_names
from maia.maintainer.runs import DeleteRuns
from maia.maintainer.tables import table_actions

METADATA: Final = "metadata/"
_REPORT: Final = re.compile(r"reports/\d{4}-W\d\d\.(html|md|json)")
_OBJECTS_AT_ONCE: Final = 1_000
_TIME_IS_UP: Final = "; the time is up, and the next clean-up continues"

OnBatch = Callable[[str, int, int], None]


class Budget:
    """The time that the actions of one clean-up share."""

    def __init__(self, run_s: float) -> None:
        self._ends_s = time.monotonic() + run_s

    @property
    def is_spent(self) -> bool:
        return time.monotonic() >= self._ends_s


@dataclass(frozen=True, slots=True)
class CleanUp:
    """What the actions of one clean-up share."""

    atlas: Atlas
    budget: Budget
    on_batch: OnBatch

    @property
    def dao(self) -> RetentionDAO:
        return RetentionDAO(self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings)


class CleanUpAction(Action):
    """Something of a clean-up. It may be repeated as often as people like: there is nothing to do then."""

    kind: ClassVar[str] = "cleanup"
    cool_down_s: ClassVar[float | None] = 0.0

    def __init__(self, run: CleanUp, target: str) -> None:
        self.run, self.target = run, target


class Expire(CleanUpAction):
    """Deletes, or clears, the rows of a table that are older than a rule allows."""

    about = "Delete rows that are older than their retention."

    def __init__(self, run: CleanUp, rule: Rule) -> None:
        super().__init__(run, rule.name)
        self.rule = rule
        self._expired: Expired | None = None

    async def plan(self) -> Plan | None:
        self._expired = expired = await self.run.dao.find(self.rule)
        return None if expired is None else _plan_of(expired)

    async def apply(self, plan: Plan) -> str:
        expired = self._expired or await self.run.dao.find(self.rule)
        if expired is None:
            return "there is nothing left to delete"
        removed = 0
        async with aclosing(self._batches(expired)) as batches:
            async for rows in batches:
                removed += rows
                self.run.on_batch(self.target, removed, expired.rows)
                if self.run.budget.is_spent:
                    break
        done = f"{_PAST[self.rule.verb]} {removed:,} of {expired.rows:,}"
        return done + (_TIME_IS_UP if removed < expired.rows and self.run.budget.is_spent else "")

    def _batches(self, expired: Expired) -> AsyncGenerator[int, None]:
        return self.run.dao.remove(expired)


class EraseVideos(Expire):
    """Erases videos: their raw answers first, then all rows about them."""

    about = "Erase videos that are gone, or that nobody refreshes, from every table and from the vault."

    def __init__(self, run: CleanUp) -> None:
        super().__init__(run, ERASED)

    async def _batches(self, expired: Expired) -> AsyncGenerator[int, None]:
        dao = self.run.dao
        days = await self.run.atlas.vault.days()
        await dao.begin_day(self.target, expired.oldest)
        async with aclosing(dao.videos_to_erase(expired)) as groups:
            async for videos in groups:
                await self._delete_answers(videos, days)
                yield await dao.erase(videos, expired.limits)

    async def _delete_answers(self, videos: Sequence[VideoToErase], days: Sequence[date]) -> None:
        """Delete the videos' answers of every day since they were found; names without one are ignored.

        What was stored since yesterday about a video that is not known to be refreshed then, is of somebody
        who refreshes it just now: that video stays, and its answer must not go.
        """
        settled = self.run.atlas.clock.now().astimezone(UTC).date() - timedelta(days=2)
        names = [
            metadata_name(video.id, _start_of(day))
            for video in videos
            for day in days
            if _day_of(video.discovered_at) <= day <= max(settled, _day_of(video.refreshed_at))
        ]
        await _delete_objects(self.run.atlas, names)


class DropSamples(CleanUpAction):
    """Drops the partitions of samples that are older than their retention, as the tracker does too."""

    about = "Drop partitions of samples that are older than their retention."

    def __init__(self, run: CleanUp) -> None:
        super().__init__(run, "samples")

    async def plan(self) -> Plan | None:
        partitions, later = await self.run.dao.expiring_partitions()
        if not partitions:
            return None
        days = self.run.atlas.settings.tracker.retention_days
        text = f"Drop {counted(len(partitions), 'day')} of samples older than {counted(days, 'day')}"
        return Plan(
            text=text + _later(later),
            commands=tuple(f"DROP TABLE {partition.name}" for partition in partitions),
            details={
                "table": "video_stats_log",
                "what": "samples",
                "rows": _total([each.rows for each in partitions]),
                "bytes": _total([each.bytes for each in partitions]),
                "older_than": f"{partitions[-1].day + timedelta(days=1)}",
                "how": f"drop {counted(len(partitions), 'partition')}",
                "left_for_later": later,
            },
        )

    async def apply(self, plan: Plan) -> str:
        atlas = self.run.atlas
        tracking = TrackingDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        before = atlas.clock.now().astimezone(UTC).date() - timedelta(
            days=atlas.settings.tracker.retention_days
        )
        try:
            dropped = await tracking.drop_samples_before(before)
        except StatementTimeout as error:
            raise ActionFailed(
                f"the log of samples is read all the time, so that nothing could be dropped: {error}"
            ) from error
        return f"dropped {', '.join(dropped)}" if dropped else "there is nothing left to drop"


class DropAnswers(CleanUpAction):
    """Deletes raw answers of days that are older than their retention from the vault."""

    about = "Delete raw answers that are older than their retention from the vault."

    def __init__(self, run: CleanUp) -> None:
        super().__init__(run, "raw answers")
        self._found: Sequence[date] = ()

    async def plan(self) -> Plan | None:
        days, later = await self._days()
        self._found = [*days]
        if not days:
            return None
        objects, before = sum(days.values()), max(days) + timedelta(days=1)
        return Plan(
            text=f"Delete {counted(objects, 'raw answer')} from before {before}" + _later(later),
            details={
                "table": f"vault: {METADATA}", "what": "raw answers", "rows": objects,
                "older_than": str(before), "how": f"delete {counted(len(days), 'folder')}",
                "left_for_later": later,
            },
        )  # fmt: skip

    async def apply(self, plan: Plan) -> str:
        days = self._found or [*(await self._days())[0]]
        if days:
            await self.run.dao.begin_day(self.target, _start_of(min(days)))
        deleted = 0
        for day in days:
            async with aclosing(self.run.atlas.vault.delete_answers(day)) as steps:
                with _deleting():
                    async for count in steps:
                        deleted += count
                        self.run.on_batch(self.target, deleted, int(plan.details["rows"]))
                        if self.run.budget.is_spent:
                            return f"deleted {counted(deleted, 'raw answer')}" + _TIME_IS_UP
        return f"deleted {counted(deleted, 'raw answer')} of {counted(len(days), 'day')}"

    async def _days(self) -> tuple[dict[date, int], int]:
        """The days to delete now with their answers, and how many more are left for the next days.

        A folder without an answer, as a killed clean-up may leave it, must not count as the oldest day.
        """
        dao, vault, settings = self.run.dao, self.run.atlas.vault, self.run.atlas.settings
        now = await dao.now()
        first_kept = (now - timedelta(days=settings.maintainer.retention.metadata_days)).date()
        days: dict[date, int] = {}
        bound, later = now, 0
        for day in [each for each in await vault.days() if each < first_kept]:
            if _start_of(day) >= bound:
                later += 1
            elif count := len(await vault.answers(day)):
                if not days:
                    bound = await dao.bound(self.target, _start_of(day), MOST_DAYS_DROPPED_A_DAY, now)
                if _start_of(day) < bound:
                    days[day] = count
                else:
                    later += 1
        return days, later


class DropObjects(CleanUpAction):
    """Deletes objects of a folder of the vault by the time at which they were written."""

    about = "Delete objects that are older than their retention from the vault."

    def __init__(
        self, run: CleanUp, folder: str, days: float, is_ours: Callable[[str], object] = is_name
    ) -> None:
        super().__init__(run, folder.rstrip("/"))
        self.folder, self.days, self._is_ours = folder, days, is_ours
        self._names: list[str] = []
        self._oldest = run.atlas.clock.now()

    async def plan(self) -> Plan | None:
        found = await self.run.atlas.vault.modified(self.folder.rstrip("/"))
        written = {name: at for name, at in found.items() if is_name(name) and self._is_ours(name)}
        before, self._oldest = await self._before(written.values())
        self._names = sorted(name for name, at in written.items() if at < before)
        if not self._names:
            return None
        return Plan(
            text=f"Delete {counted(len(self._names), 'object')} from {self.folder} in the vault, written "
            f"before {before:%Y-%m-%d %H:%M} UTC",
            commands=tuple(self._names[:20]),
            details={
                "table": f"vault: {self.folder}", "what": self.target, "rows": len(self._names),
                "older_than": before.isoformat(), "how": "delete objects",
            },
        )  # fmt: skip

    async def _before(self, written: Iterable[datetime]) -> tuple[datetime, datetime]:
        """Before which time objects are deleted today, and the time of the oldest one.

        The store tells real times, whatever clock the agents live by.
        """
        atlas = self.run.atlas
        real = RetentionDAO(atlas.db, clock=SystemClock(), settings=atlas.settings)
        now = await real.now()
        oldest = min(written, default=now)
        bound = await real.bound(self.target, oldest, MOST_DAYS_DROPPED_A_DAY, now)
        return min(now - timedelta(days=self.days), bound), oldest

    async def apply(self, plan: Plan) -> str:
        await self.run.dao.begin_day(self.target, self._oldest)
        for start in range(0, len(self._names), _OBJECTS_AT_ONCE):
            if start and self.run.budget.is_spent:
                return f"deleted {start:,} of {counted(len(self._names), 'object')}" + _TIME_IS_UP
            await _delete_objects(self.run.atlas, self._names[start : start + _OBJECTS_AT_ONCE])
            self.run.on_batch(self.target, start, len(self._names))
        return f"deleted {counted(len(self._names), 'object')}"


class ForgetPatterns(CleanUpAction):
    """Forgets patterns of which no evidence is left."""

    about = "Forget patterns without any evidence left."

    def __init__(self, run: CleanUp) -> None:
        super().__init__(run, "patterns")

    @property
    def _dao(self) -> PatternsDAO:
        atlas = self.run.atlas
        return PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)

    async def plan(self) -> Plan | None:
        ids = await self._dao.without_evidence()
        if not ids:
            return None
        return Plan(
            text=f"Forget {counted(len(ids), 'pattern')} without any evidence left",
            details={"table": "patterns", "what": "patterns without evidence", "rows": len(ids),
                     "how": "leave a tombstone"},
        )  # fmt: skip

    async def apply(self, plan: Plan) -> str:
        ids = await self._dao.without_evidence()
        return f"forgot {await self._dao.forget(ids, 'learner'):,}"


class RemoveNames(CleanUpAction):
    """Removes the names of videos from reports, as other metadata go. After the videos that are erased."""

    about = "Remove what YouTube told of videos from reports that may no longer keep it."

    def __init__(self, run: CleanUp) -> None:
        super().__init__(run, "names in reports")

    async def plan(self) -> Plan | None:
        count = len(await reports_without_names(self.run.atlas))
        if not count:
            return None
        days = self.run.atlas.settings.maintainer.retention.metadata_days
        return Plan(
            text=f"Remove the names of videos that are erased, or older than {counted(days, 'day')}, from "
            f"{counted(count, 'report')}",
            details={"table": "reports", "what": "names in reports", "rows": count, "how": "clear"},
        )

    async def apply(self, plan: Plan) -> str:
        return f"removed names from {counted(await remove_names(self.run.atlas), 'report')}"


def cleanup_actions(run: CleanUp) -> list[Action]:
    """Every action of a clean-up, in the order in which they are taken."""
    retention = run.atlas.settings.maintainer.retention
    rules = [EraseVideos(run) if rule is ERASED else Expire(run, rule) for rule in RULES]
    return [
        DropAnswers(run),
        *rules,
        DropSamples(run),
        ForgetPatterns(run),
        RemoveNames(run),
        DropObjects(run, "exports/", retention.metadata_days),
        DropObjects(run, "reports/", retention.reports_days, _REPORT.fullmatch),
        DeleteRuns(run.atlas, os.environ, retention.runs_days, lambda: run.budget.is_spent),
    ]


async def clean_up(context: DutyContext, only: Sequence[str] = ()) -> DutyReport:
    """Delete what is older than its retention and tidy tables; `only` names kinds of actions, or targets."""
    atlas = context.atlas
    run = CleanUp(atlas, Budget(atlas.settings.maintainer.retention.run_s), context.progress)
    actions = [*cleanup_actions(run), *await table_actions(atlas)]
    chosen = [each for each in actions if not only or each.kind in only or each.target in only]
    failures: list[str] = []
    for nth, action in enumerate(chosen):
        context.progress(action.target, nth, len(chosen))
        try:
            await context.take(action)
        except (AtlasError, MaiaError) as error:
            # One store or table that fails must not keep the others from being cleaned.
            failures.append(f"{action.target}: {error}")
    return _report(context, failures)


def names() -> list[str]:
    """What a clean-up can be limited to: kinds of actions, and targets that do not depend on the tables."""
    kinds = ("cleanup", "partitions", "vacuum", "reindex")
    targets = ("samples", "raw answers", "patterns", "exports", "reports", DeleteRuns.target)
    return [*kinds, *targets, *(rule.name for rule in RULES)]


def _report(context: DutyContext, failures: Sequence[str]) -> DutyReport:
    applied = [taken for taken in context.taken if taken.state is ActionState.APPLIED]
    planned = [taken for taken in context.taken if taken.state is ActionState.PLANNED]
    parts = [f"{len(applied)} done" if applied else "", f"{len(planned)} planned" if planned else ""]
    summary = ", ".join(filter(None, parts)) or "nothing was to be cleaned up"
    if failures:
        summary += f"; {len(failures)} could not be looked at: {failures[0]}"
    results = {taken.target: taken.result or taken.plan.text for taken in context.taken}
    return DutyReport(
        summary=f"{summary}.",
        details={"results": results, "failures": [*failures]},
        failed=bool(failures),
    )


async def _delete_objects(atlas: Atlas, names: Sequence[str]) -> None:
    """Delete objects of the vault; ActionFailed if it refuses."""
    for start in range(0, len(names), _OBJECTS_AT_ONCE):
        with _deleting():
            await atlas.vault.delete_many(names[start : start + _OBJECTS_AT_ONCE])


@contextmanager
def _deleting() -> Iterator[None]:
    """ActionFailed if the vault refuses to delete."""
    try:
        yield
    except AtlasError as error:
        raise ActionFailed(f"the vault does not delete: {error}") from error


_PAST: Final = {"delete": "deleted", "clear": "cleared", "erase": "erased"}


def _plan_of(expired: Expired) -> Plan:
    rule, before = expired.rule, min(expired.limits.cutoff, expired.limits.bound)
    later = "; the rest follows on the next days, in case a clock is wrong" if expired.is_bounded else ""
    return Plan(
        text=f"{rule.verb.capitalize()} {counted(expired.rows, 'row')} of {rule.table} from before "
        f"{before:%Y-%m-%d %H:%M} UTC: {rule.what}{later}",
        commands=(f"maia system cleanup --apply --only {shlex.quote(rule.name)}",),
        details={
            "table": rule.table, "what": rule.what, "rows": expired.rows, "older_than": before.isoformat(),
            "oldest": expired.oldest.isoformat(), "how": f"{rule.verb} in batches",
            "left_for_later": expired.is_bounded,
        },
    )  # fmt: skip


def _total(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None


def _later(days: int) -> str:
    follow = counted(days, "more day follows", "more days follow")
    return f"; {follow} on the next days, in case a clock is wrong" if days else ""


def _day_of(at: datetime) -> date:
    return at.astimezone(UTC).date()


def _start_of(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
