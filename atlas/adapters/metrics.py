"""Counters for the metrics exporter, summed up from events and kept in the database."""

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
    """The value of one counter with its labels, over all events so far."""

    metric: str
    labels: Mapping[str, str | float]
    total: float


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One project's bucket on one Pacific day, in units by ring; `lends` if archeology's share is lent."""

    project: str
    bucket: Bucket
    closed_until: datetime | None
    lends: bool
    used: Mapping[RingName, int]
    reserved: Mapping[RingName, int]


class MetricsDAO:
    """Adds events to the totals, each exactly once even with several processes, and reads them."""

    def __init__(self, db: Database, events: EventLog) -> None:
        self._db, self._events = db, events

    async def fold(self, bounds_s: Sequence[float]) -> int:
        """Add new events to the totals; returns the cursor up to which all events are counted.

        Events up to that cursor may be deleted. `bounds_s` are the upper bounds of the histogram of cycle
        durations; changing them requires a migration that resets its totals.
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
        """Add the claims that expired since the last call to the totals.

        It scans whole tables, because no index contains claims. A claim that another process takes over
        between two calls is missed.
        """
        await self._db.execute("metrics.count_lapses")

    async def totals(self) -> list[Total]:
        """All totals, as of the last `fold`."""
        rows = await self._db.fetch("metrics.totals")
        return [Total(row["metric"], row["labels"], row["total"]) for row in rows]

    async def ledger(self, day: date) -> list[LedgerEntry]:
        """The units spent on a Pacific day, by project and bucket; buckets without any are omitted."""
        rows = await self._db.fetch("metrics.ledger", day)
        return [
            LedgerEntry(
                row["project"],
                row["bucket"],
                row["closed_until"],
                row["lends"],
                {ring: row[f"{ring}_used"] for ring in RINGS},
                {ring: row[f"{ring}_reserved"] for ring in RINGS},
            )
            for row in rows
        ]
