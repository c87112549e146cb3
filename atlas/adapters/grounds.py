"""The figures that suggestions about upkeep rest on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from atlas.adapters.dao import DAO

_MOST_NODES: Final = 100


@dataclass(frozen=True, slots=True)
class DiskOfNode:
    """Free bytes of a node's disk by hour since 1970, and its size if that is known."""

    node: str
    at_h: list[float]
    free_bytes: list[float]
    total_bytes: float | None


@dataclass(frozen=True, slots=True)
class CycleDurations:
    """How many of an agent's cycles did their work, and their median duration."""

    agent: str
    cycles: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TrackerLooks:
    """How many of the tracker's cycles looked for due videos, and how many found some far too late."""

    cycles: int
    starving: int


class GroundsDAO(DAO):
    """Reads disks and cycles over the last days."""

    async def disks(self, since: datetime) -> list[DiskOfNode]:
        """The free disk space of each node, by hour."""
        return [DiskOfNode(**row) for row in await self._executor.fetch("grounds.disks", since, _MOST_NODES)]

    async def durations(
        self, agents: Iterable[str], since: datetime, until: datetime
    ) -> dict[str, CycleDurations]:
        """The durations of the agents' cycles in a span, by agent."""
        kinds = [f"{agent}.cycle" for agent in agents]
        rows = await self._executor.fetch("grounds.durations", kinds, since, until)
        return {row["agent"]: CycleDurations(**row) for row in rows}

    async def starving(self, since: datetime) -> TrackerLooks:
        """How often the tracker found videos far too late since an instant."""
        row = await self._executor.fetchrow("grounds.starving", since)
        assert row is not None
        return TrackerLooks(**row)

    async def last_backup_at(self, until: datetime) -> datetime | None:
        """When a backup was last made that is not known to be bad; None if there is none."""
        at: datetime | None = await self._executor.fetchval("grounds.last_backup", until)
        return at

    async def oldest_transaction_s(self) -> float:
        """The age of the oldest transaction that keeps dead rows from being removed."""
        row = await self._executor.fetchrow("health.server")
        assert row is not None
        age_s: float = row["oldest_transaction_s"]
        return age_s
