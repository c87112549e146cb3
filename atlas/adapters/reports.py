"""Weekly reports: the figures of a week, read in few bounded statements, and the reports themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from atlas.adapters.dao import DAO, json_text
from atlas.db import Row
from atlas.queries import clean_text

_FIRST_CANDIDATES: Final = 50
"""How many times as many candidates as risers to try first."""
_MOST_CANDIDATES: Final = 20_000
_LONGEST_SUMMARY: Final = 4_000
_LONGEST_REFUSAL: Final = 1_000


@dataclass(frozen=True, slots=True)
class YieldOfDay:
    """What an arm of discovery brought on a Pacific day."""

    pacific_day: date
    arm: str
    asks: int
    units: int
    enrichments: float
    found: int
    new: int
    early: int
    judged: int
    growing: int


@dataclass(frozen=True, slots=True)
class UnitsOfDay:
    """The units that a ring used of a bucket on a Pacific day; `reason` says why the bucket was closed."""

    pacific_day: date
    bucket: str
    ring: str
    used: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class Gain:
    """What a video gained between two counts that are `hours` apart; `peak` is its highest velocity."""

    id: str
    title: str | None
    channel_id: str
    channel_title: str | None
    published_at: datetime | None
    gained: int
    views: int
    hours: float
    peak: float | None


@dataclass(frozen=True, slots=True)
class CyclesEnded:
    """An agent's cycles with one outcome: how many, their median duration, and what they counted."""

    agent: str
    outcome: str
    cycles: int
    seconds: float
    samples: int
    breakouts: int


@dataclass(frozen=True, slots=True)
class DueOfDay:
    """How many videos of a zone were due on a day when the tracker looked, `looks` times."""

    day: date
    zone: str
    mean: float
    most: int
    looks: int


@dataclass(frozen=True, slots=True)
class HostOfWeek:
    """A host's mean and highest figures, and the disk space that was free last."""

    node: str
    samples: int
    cpu_percent: float | None
    cpu_most: float | None
    memory_percent: float | None
    memory_most: float | None
    disk_most: float | None
    disk_free_bytes: int | None


@dataclass(frozen=True, slots=True)
class ForgottenPattern:
    """A pattern that was forgotten."""

    statement: str
    forgotten_by: str
    forgotten_at: datetime


@dataclass(frozen=True, slots=True)
class ScoreOfDay:
    """The scores that the judgements of a day gave a component."""

    day: date
    component: str
    mean: float
    lowest: float
    judgements: int


@dataclass(frozen=True, slots=True)
class DutyRuns:
    """How often a duty of the maintainer ran and failed, and what its last run said."""

    duty: str
    runs: int
    failed: int
    last_at: datetime
    summary: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenReport:
    """A report that was written; `objects` are its objects in the vault, and `refusal` why it is not there.

    With both, the objects wait in the database until the vault takes them.
    """

    week: str
    begins_at: datetime
    ends_at: datetime
    made_at: datetime
    summary: str
    objects: tuple[str, ...]
    refusal: str | None
    announced_at: datetime | None
    data: str | None = None
    """The report as JSON; None in lists."""


class ReportsDAO(DAO):
    """Reads what a report says, and stores reports. Spans include their beginning, not their end."""

    # The figures of a span

    async def yields(self, first: date, last: date) -> list[YieldOfDay]:
        """What each arm brought on the Pacific days from the first to the last."""
        rows = await self._executor.fetch("reports.yields", first, last)
        return [YieldOfDay(**row) for row in rows]

    async def quota(self, first: date, last: date) -> list[UnitsOfDay]:
        """The units used on the Pacific days from the first to the last, over all projects."""
        return [UnitsOfDay(**row) for row in await self._executor.fetch("reports.quota", first, last)]

    async def risers(self, since: datetime, until: datetime, most: int) -> list[Gain]:
        """The live videos that gained most views in the span, the most first.

        A video can't gain more than its highest velocity times the span. So the gains of the fastest videos
        tell from which velocity on a video can be among the first, and only those are looked at.
        """
        bound = await self._executor.fetchval("reports.high_velocity", since, until, most * _FIRST_CANDIDATES)
        found = await self._gains(since, until, bound or 0.0, most)
        if bound is None:
            return found
        hours = (until - since) / timedelta(hours=1)
        needed = found[-1].gained / hours if len(found) == most else 0.0
        return found if needed >= bound else await self._gains(since, until, needed, most)

    async def _gains(self, since: datetime, until: datetime, velocity: float, most: int) -> list[Gain]:
        rows = await self._executor.fetch("reports.fastest", since, until, velocity, _MOST_CANDIDATES)
        ids = [row["video_id"] for row in rows]
        return [Gain(**row) for row in await self._executor.fetch("reports.gains", ids, since, until, most)]

    async def cycles(self, agents: Iterable[str], since: datetime, until: datetime) -> list[CyclesEnded]:
        """How the agents' cycles ended in the span."""
        kinds = [f"{agent}.cycle" for agent in agents]
        rows = await self._executor.fetch("reports.cycles", kinds, since, until)
        return [CyclesEnded(**row) for row in rows]

    async def due(self, since: datetime, until: datetime, time_zone: str) -> list[DueOfDay]:
        """How many videos were due in the span when the tracker looked, by day of a time zone."""
        rows = await self._executor.fetch("reports.due", since, until, time_zone)
        return [DueOfDay(**row) for row in rows]

    async def hosts(self, since: datetime, until: datetime, most: int = 20) -> list[HostOfWeek]:
        """What each host was doing in the span, the busiest first."""
        rows = await self._executor.fetch("reports.hosts", since, until, most)
        return [HostOfWeek(**row) for row in rows]

    async def forgotten(
        self, since: datetime, until: datetime, most: int
    ) -> tuple[int, list[ForgottenPattern]]:
        """How many patterns were forgotten in the span, and the last of them."""
        rows = await self._executor.fetch("reports.forgotten", since, until, most)
        last = [ForgottenPattern(row["statement"], row["forgotten_by"], row["forgotten_at"]) for row in rows]
        return rows[0]["total"] if rows else 0, last

    async def health(self, since: datetime, until: datetime, time_zone: str) -> list[ScoreOfDay]:
        """The scores of each component in the span, by day of a time zone."""
        rows = await self._executor.fetch("reports.health", since, until, time_zone)
        return [ScoreOfDay(**row) for row in rows]

    async def duties(self, since: datetime, until: datetime) -> list[DutyRuns]:
        """How the maintainer's duties went in the span."""
        rows = await self._executor.fetch("reports.duties", since, until)
        return [DutyRuns(**row) for row in rows]

    # Written reports

    async def write(
        self,
        week: str,
        span: tuple[datetime, datetime],
        made_at: datetime,
        summary: str,
        data: Mapping[str, Any],
        *,
        has_names: bool,
    ) -> None:
        """Store a report, in place of an earlier one of the same week."""
        text = clean_text(summary)[:_LONGEST_SUMMARY]
        await self._executor.execute(
            "reports.write", week, *span, made_at, text, json_text(dict(data)), has_names
        )

    async def with_names(self) -> list[WrittenReport]:
        """The reports that name videos, oldest first."""
        return [_written(row) for row in await self._executor.fetch("reports.with_names")]

    async def not_kept(self, ids: Iterable[str]) -> set[str]:
        """Those of the videos that are no longer stored, or gone from YouTube."""
        return {row["id"] for row in await self._executor.fetch("reports.not_kept", [*ids])}

    async def note_objects(self, week: str, names: Sequence[str], refusal: str | None = None) -> None:
        """Note the objects that show a report, or why the vault refused them."""
        why = None if refusal is None else clean_text(refusal)[:_LONGEST_REFUSAL]
        await self._executor.execute("reports.note_objects", week, [*names], why)

    async def claim_announcement(self, week: str, at: datetime) -> bool:
        """Whether the caller is the one to announce the report: only one ever is."""
        return bool(await self._executor.execute("reports.claim_announcement", week, at))

    async def return_announcement(self, week: str, at: datetime) -> None:
        """Let another try announce the report, as this one reached nobody."""
        await self._executor.execute("reports.return_announcement", week, at)

    async def report(self, week: str | None = None) -> WrittenReport | None:
        """The report of a week, or the last one; None if there is none."""
        row = await self._executor.fetchrow("reports.report", week)
        return None if row is None else _written(row)

    async def list(self, most: int) -> list[WrittenReport]:
        """The last reports, newest first, without their data."""
        return [_written(row) for row in await self._executor.fetch("reports.list", most)]


def _written(row: Row) -> WrittenReport:
    values = dict(row)
    return WrittenReport(**values | {"objects": tuple(values["objects"])})
