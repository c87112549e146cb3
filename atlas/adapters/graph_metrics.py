"""Figures of the knowledge graph for those who watch over it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from atlas.adapters.dao import DAO
from atlas.adapters.graph import OWN


@dataclass(frozen=True, slots=True)
class TypeCount:
    """How many atoms of a type there are."""

    type: str
    is_link: bool
    atoms: int


class GraphMetricsDAO(DAO):
    """Counts the atoms of a space."""

    async def counts(self, space: int = OWN) -> list[TypeCount]:
        """How many atoms there are, by type; it reads the whole index of them."""
        return [TypeCount(*row) for row in await self._executor.fetch("graph_metrics.counts", space)]

    async def last_change(self, space: int = OWN) -> datetime | None:
        """When anything last changed but attention and values; None in an empty graph."""
        found: datetime | None = await self._executor.fetchval("graph_metrics.last_change", space)
        return found
