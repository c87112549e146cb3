"""What lies around an atom of the knowledge graph: read at a bounded cost, however many links it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from atlas.adapters.dao import DAO
from atlas.adapters.graph import OWN

_LOOKED_AT: Final = 300
"""So many links of each type are looked at of each atom."""
_MOST_LINKS: Final = 400


@dataclass(frozen=True, slots=True)
class NearLink:
    """A link of the atom in question with another one; `comes_first` if the atom is the first of the two."""

    link: UUID
    type: str
    weight: float | None
    count: float
    other: UUID
    comes_first: bool


@dataclass(frozen=True, slots=True)
class InnerLink:
    """A link between two atoms of a neighbourhood."""

    link: UUID
    type: str
    weight: float | None
    count: float
    first: UUID
    second: UUID


class NeighbourhoodDAO(DAO):
    """Reads the surroundings of atoms of one space."""

    space: int = OWN

    def of(self, space: int) -> NeighbourhoodDAO:
        """The same for another space."""
        other = self._on(self._executor)
        other.space = space
        return other

    async def nearest(self, handle: UUID, most_of_each: int) -> list[NearLink]:
        """The heaviest links of each type that an atom has with another one."""
        rows = await self._executor.fetch(
            "neighbourhood.nearest", self.space, handle, _LOOKED_AT, most_of_each
        )
        return [NearLink(*row) for row in rows]

    async def beyond(self, handles: Sequence[UUID], without: Sequence[UUID], limit: int) -> list[UUID]:
        """Atoms that at least two of some atoms are linked with: those that most are linked with first."""
        rows = await self._executor.fetch(
            "neighbourhood.beyond", self.space, list(handles), list(without), _LOOKED_AT, limit
        )
        return [row["handle"] for row in rows]

    async def among(self, handles: Sequence[UUID]) -> list[InnerLink]:
        """The links of two between some atoms, the heaviest first."""
        rows = await self._executor.fetch(
            "neighbourhood.among", self.space, list(handles), _LOOKED_AT, _MOST_LINKS
        )
        return [InnerLink(*row) for row in rows]
