"""The figures by which health is judged: PostgreSQL's own, lost claims, heartbeats, past judgements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from atlas.adapters.dao import DAO
from atlas.db import Row

_MOST_HOSTS: Final = 200
_CLAIMS_LOOKED_AT: Final = 5_000
_CYCLES_LOOKED_AT: Final = 100
_PREPARED_WITHIN: Final = timedelta(hours=1)
"""After samples were stored, a tracker's cycle has ended and made the next day's partition."""


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A session's transaction, by the server's clock; `program` is the session's application_name."""

    pid: int
    program: str
    state: str
    age_s: float


@dataclass(frozen=True, slots=True)
class HorizonHolder:
    """What keeps PostgreSQL from removing dead rows without being a session here; `age` in transactions."""

    kind: str
    name: str
    age: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFigures:
    """PostgreSQL's own figures. `most_connections` leaves out what is reserved for its administrators.

    `frozen_age` is the age of the oldest transaction id in use, and from `freeze_age` on vacuum is forced.
    """

    bytes: int
    connections: int
    most_connections: int
    frozen_age: int
    freeze_age: int
    transaction: OpenTransaction | None = None
    holder: HorizonHolder | None = None
    is_read_only: bool = False
    missing_day: date | None = None
    """Tomorrow (UTC), if it has no partition although who stores samples today should have made it."""


@dataclass(frozen=True, slots=True)
class VaultQueue:
    """The objects that wait for the vault, and since when the oldest one does."""

    objects: int
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True)
class ZoneBacklog:
    """A zone of the tracker's clock: its most overdue video, and claims that nobody took over."""

    zone: int
    oldest_due_at: datetime | None
    expired: int


@dataclass(frozen=True, slots=True)
class LastCycles:
    """When an agent's last good cycle ended (None: never), and when and how its very last one did.

    `nodes` are those that have tried since, or shortly before.
    """

    agent: str
    good_at: datetime | None
    at: datetime | None
    outcome: str | None
    detail: str | None
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The first and the last sample of a host within the time looked at."""

    node: str
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class HostLoad:
    """What limits are set for, at one instant; None where the host has no such figure."""

    at: datetime
    cpu_percent: float | None = None
    memory_percent: float | None = None
    disk_percent: float | None = None


@dataclass(frozen=True, slots=True)
class PastJudgement:
    """What a judgement of health stored: its details, as the duty reported them."""

    at: datetime
    details: Mapping[str, Any]


class HealthDAO(DAO):
    """Reads figures; no method changes anything."""

    async def server(self) -> tuple[ServerFigures, VaultQueue]:
        """PostgreSQL's figures, and what waits for the vault."""
        now = self._clock.now()
        today = now.astimezone(UTC).date()
        row = await self._executor.fetchrow("health.figures", today, now - _PREPARED_WITHIN)
        assert row is not None
        figures = ServerFigures(
            bytes=row["bytes"],
            connections=row["connections"],
            most_connections=row["most_connections"],
            frozen_age=row["frozen_age"],
            freeze_age=row["freeze_age"],
            transaction=_transaction_of(row),
            holder=_holder_of(row),
            is_read_only=row["is_read_only"],
            missing_day=row["missing_day"],
        )
        return figures, VaultQueue(row["waiting_objects"], row["waiting_since"])

    async def backlog(self) -> list[ZoneBacklog]:
        """What is overdue in each zone, and which claims of videos nobody took over."""
        rows = await self._executor.fetch("health.backlog", self._clock.now(), _CLAIMS_LOOKED_AT)
        return [ZoneBacklog(*row) for row in rows]

    async def expired_asks(self) -> int:
        """How many claims of topics and questions expired in the last hour and were taken over by nobody."""
        count: int = await self._executor.fetchval("health.expired_asks", _CLAIMS_LOOKED_AT)
        return count

    async def last_cycles(self, periods_s: Mapping[str, float], good: Sequence[str]) -> list[LastCycles]:
        """The last cycles of agents, given with the seconds between them; `good` are the good outcomes."""
        rows = await self._executor.fetch(
            "health.last_cycles", list(periods_s), list(good), list(periods_s.values()), _CYCLES_LOOKED_AT
        )
        return [LastCycles(**{**row, "nodes": tuple(row["nodes"])}) for row in rows]

    async def first_event_at(self) -> datetime | None:
        """When the oldest event that is kept was written: the least time that this system has existed."""
        first: datetime | None = await self._executor.fetchval("health.first_event")
        return first

    async def heartbeats(self, since: datetime) -> list[Heartbeat]:
        """The hosts heard of since an instant, the latest first."""
        rows = await self._executor.fetch("health.heartbeats", since, _MOST_HOSTS)
        return [Heartbeat(*row) for row in rows]

    async def loads(self, nodes: Sequence[str], since: datetime, limit: int) -> dict[str, list[HostLoad]]:
        """The last `limit` samples since an instant of each of these hosts, oldest first."""
        found: dict[str, list[HostLoad]] = defaultdict(list)
        for node, *load in await self._executor.fetch("health.loads", list(nodes), since, limit):
            found[node].append(HostLoad(*load))
        return found

    async def judgements(self, since: datetime, limit: int) -> list[PastJudgement]:
        """The last judgements since an instant, newest first."""
        rows = await self._executor.fetch("health.judgements", since, limit)
        return [PastJudgement(row["at"], row["details"]) for row in rows]

    async def judgement_between(self, first: datetime, last: datetime) -> PastJudgement | None:
        """The last judgement between two instants."""
        row = await self._executor.fetchrow("health.judgement_before", first, last)
        return None if row is None else PastJudgement(row["at"], row["details"])


def _transaction_of(row: Row) -> OpenTransaction | None:
    if row["transaction_pid"] is None:
        return None
    return OpenTransaction(
        pid=row["transaction_pid"],
        program=row["transaction_program"] or "",
        state=row["transaction_state"] or "",
        age_s=row["transaction_age_s"],
    )


def _holder_of(row: Row) -> HorizonHolder | None:
    if row["holder_kind"] is None:
        return None
    return HorizonHolder(row["holder_kind"], row["holder_name"], row["holder_age"])
