"""Totals that outlive events, exporters and processes, and the ledger as metrics show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from atlas.config import RINGS, Bucket, RingName
from atlas.db import Database
from atlas.events import EventLog

_EVENTS_AT_ONCE = 20_000


@dataclass(frozen=True, slots=True)
class Total:
    """What all events so far amount to in one metric under some labels."""

    metric: str
    labels: Mapping[str, str | float]
    total: float


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One project's bucket on one Pacific day; units by ring."""

    project: str
    bucket: Bucket
    closed_until: datetime | None
    used: Mapping[RingName, int]
    reserved: Mapping[RingName, int]


class MetricsDAO:
    """Adds events up, each once by whatever process, and reads the totals."""

    def __init__(self, db: Database, events: EventLog) -> None:
        self._db, self._events = db, events

    async def fold(self, bounds_s: Sequence[float]) -> int:
        """Add the events that are not counted yet to the totals; returns the cursor up to which all are.

        Events may be dropped up to there. `bounds_s` are those of the histogram of cycles' seconds: they may
        be changed only together with a migration that forgets its totals.
        """
        while True:
            watermark = await self._events.cursor()
            async with self._db.transaction() as transaction:
                cursor: int = await transaction.fetchval("metrics.hold_cursor")
                until = min(watermark, cursor + _EVENTS_AT_ONCE)
                if until > cursor:
                    await transaction.execute("metrics.fold", cursor, until, list(bounds_s))
            if until >= watermark:
                return max(cursor, until)

    async def count_lapses(self) -> None:
        """Add the claims that lapsed since the last look to the totals.

        It reads whole tables, as claims stand in no index. One that another process takes over before anybody
        looked is missed.
        """
        await self._db.execute("metrics.count_lapses")

    async def totals(self) -> list[Total]:
        """Every total, as of the last fold."""
        rows = await self._db.fetch("metrics.totals")
        return [Total(row["metric"], row["labels"], row["total"]) for row in rows]

    async def ledger(self, day: date) -> list[LedgerEntry]:
        """What was spent on a Pacific day, by project and bucket; nothing where nothing was."""
        rows = await self._db.fetch("metrics.ledger", day)
        return [
            LedgerEntry(
                row["project"],
                row["bucket"],
                row["closed_until"],
                {ring: row[f"{ring}_used"] for ring in RINGS},
                {ring: row[f"{ring}_reserved"] for ring in RINGS},
            )
            for row in rows
        ]
