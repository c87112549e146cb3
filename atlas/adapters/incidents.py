"""Incidents: what was wrong from when to when, who was told of it, and who has acknowledged it.

Whoever tells people claims the right to, in the statement that stores the incident's new state. A claim ends
when it is settled or released, or by itself if its holder was killed. Then the next one tells people again,
because nobody knows whether they were told: once too often rather than not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID, uuid4

from atlas.adapters.dao import DAO, json_text
from atlas.db import Row
from atlas.queries import clean_text

Severity = Literal["warning", "error"]
Status = Literal["open", "recovered", "closed"]

LONGEST_KEY: Final = 400
LONGEST_NOTE: Final = 1000
_CLAIM_S: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Something that is or was wrong; `key` identifies it while it is open. `id` is 0 until it is stored.

    While it is open, `well_since` says since when it was not seen any more. `recovered` means that it is over
    but people may still have to be told, `closed` that nothing is left to do. `cause` is the key of the
    incident that explains it.
    """

    id: int = 0
    key: str
    component: str
    node: str
    status: Status = "open"
    severity: Severity
    text: str
    value: float | None = None
    limit_value: float | None = None
    command: str | None = None
    cause: str | None = None
    opened_at: datetime
    seen_at: datetime
    well_since: datetime | None = None
    recovered_at: datetime | None = None
    announced_at: datetime | None = None
    announced_severity: Severity | None = None
    announcements: int = 0
    acknowledged_at: datetime | None = None
    acknowledged_severity: Severity | None = None
    note: str | None = None
    attempts: int = 0
    """Claims whose end nobody knows: people may have been told."""
    is_claimed: bool = False
    """Whether somebody is telling people of it right now."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """Incidents that the caller alone may now tell people of, and the keys of all that were opened."""

    problems: tuple[Incident, ...]
    recoveries: tuple[Incident, ...]
    opened: frozenset[str]
    problem_claim: UUID
    recovery_claim: UUID


_FIELDS: Final = tuple(field.name for field in fields(Incident))


class IncidentsDAO(DAO):
    """Stores incidents, and claims of the right to tell people of them."""

    async def lock_unfinished(self) -> list[Incident]:
        """Every incident that isn't closed, oldest first, locked against changes and additions."""
        await self._executor.execute("incidents.lock")
        return [_incident_of(row) for row in await self._executor.fetch("incidents.lock_unfinished")]

    async def store(
        self, *, problems: Sequence[Incident], recoveries: Sequence[Incident], others: Sequence[Incident]
    ) -> Claimed:
        """Open those without an id, renew the others, which must be locked; claim problems and recoveries.

        An incident that somebody else has opened meanwhile is left to them: it is not among what is returned.
        """
        problem_claim, recovery_claim = uuid4(), uuid4()
        rows = [
            _as_row(each) | {"claims": claims}
            for claims, group in (("problem", problems), ("recovery", recoveries), (None, others))
            for each in group
        ]
        opened = await self._open([row for row in rows if not row["id"]], problem_claim)
        if known := [row for row in rows if row["id"]]:
            await self._executor.execute(
                "incidents.renew", json_text(known), problem_claim, recovery_claim, _CLAIM_S
            )
        mine = [each if each.id else replace(each, id=opened.get(each.key, 0)) for each in problems]
        return Claimed(
            tuple(each for each in mine if each.id), tuple(recoveries), frozenset(opened), problem_claim,
            recovery_claim,
        )  # fmt: skip

    async def open_past(self, incident: Incident) -> bool:
        """Open an incident that has ended and that people were told of elsewhere; False if it is open."""
        await self._executor.execute("incidents.lock")
        is_new: bool = await self._executor.fetchval(
            "incidents.open_past", incident.key, incident.component, incident.node, incident.severity,
            clean_text(incident.text), incident.command, incident.opened_at, incident.well_since,
            incident.note,
        )  # fmt: skip
        return is_new

    async def settle_problems(self, claim: UUID, incidents: Sequence[Incident], now: datetime) -> None:
        """Record that people were told of the claimed incidents."""
        ids, severities = [each.id for each in incidents], [each.severity for each in incidents]
        await self._executor.execute("incidents.settle_problems", claim, now, ids, severities)

    async def settle_recoveries(self, claim: UUID) -> None:
        """Record that people were told that the claimed incidents are over."""
        await self._executor.execute("incidents.settle_recoveries", claim)

    async def release(self, claim: UUID) -> None:
        """Record that nobody could be told, so that the next one tries again at once."""
        await self._executor.execute("incidents.release", claim)

    async def acknowledge(self, key_or_id: str, now: datetime, note: str | None = None) -> Incident | None:
        """Keep an open incident silent until it recovers or becomes more severe; None if none is open."""
        note = None if note is None else clean_text(note)[:LONGEST_NOTE]
        row = await self._executor.fetchrow("incidents.acknowledge", clean_text(key_or_id), now, note)
        return None if row is None else _incident_of(row)

    async def incidents(self, *, closed: bool = False, limit: int = 1000) -> list[Incident]:
        """The open incidents, and the others too if asked for, those opened last first."""
        rows = await self._executor.fetch("incidents.incidents", closed, limit)
        return [_incident_of(row) for row in rows]

    async def between(self, begin: datetime, end: datetime, *, limit: int = 10_000) -> list[Incident]:
        """The incidents that were open at some time in a span, oldest first."""
        rows = await self._executor.fetch("incidents.between", begin, end, limit)
        return [_incident_of(row) for row in rows]

    async def _open(self, rows: Sequence[Mapping[str, Any]], claim: UUID) -> dict[str, int]:
        """Open incidents; returns the ids of those that nobody else has opened, by their keys."""
        if not rows:
            return {}
        opened = await self._executor.fetch(
            "incidents.open", json_text([dict(row) for row in rows]), claim, _CLAIM_S
        )
        return {row["key"]: row["id"] for row in opened}


def _as_row(incident: Incident) -> dict[str, Any]:
    return {name: getattr(incident, name) for name in _FIELDS}


def _incident_of(row: Row) -> Incident:
    return Incident(**{name: row[name] for name in _FIELDS})
