"""Mirrors: read-only copies of parts of peers' graphs, and what peers may copy of this site's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Self
from uuid import UUID

from atlas.adapters.dao import DAO, json_text
from atlas.adapters.graph import AtomType, flattened
from atlas.errors import DataRefused

MOST_ATOMS: Final = 100_000
"""The largest mirror."""
MOST_HOPS: Final = 4

_LONGEST_FAILURE: Final = 500
_STAGED_AT_ONCE: Final = 5_000


@dataclass(frozen=True, slots=True)
class GraphFilter:
    """Which part of a graph is meant: nodes, and the links between them.

    Nodes are of these types (None: all), have names that begin so, and are within so many hops of an atom, if
    one is given; hops go along links of two of these types. Links are of these types, too, and at least so
    strongly believed after at least so many observations.
    """

    types: tuple[str, ...] | None = None
    prefix: str = ""
    around: UUID | None = None
    hops: int = 1
    min_strength: float = 0.0
    min_count: float = 0.0

    def to_json(self) -> str:
        return json_text({**asdict(self), "around": None if self.around is None else self.around.hex})

    @classmethod
    def from_json(cls, text: str) -> Self:
        given = json.loads(text)
        types, around = given.pop("types"), given.pop("around")
        return cls(
            types=None if types is None else tuple(types),
            around=None if around is None else UUID(around),
            **given,
        )


@dataclass(frozen=True, slots=True)
class Mirror:
    """A copy of a part of a peer's graph, in a space of its own. `failure` says why it isn't fresh, if so."""

    space: int
    name: str
    place: str
    filter: GraphFilter
    cursor: str | None
    refreshed_at: datetime | None
    failed_at: datetime | None
    failure: str | None
    atoms: int


@dataclass(frozen=True, slots=True)
class MirroredAtom:
    """An atom as another site believes it."""

    handle: UUID
    type: str
    name: str | None
    outgoing: tuple[UUID, ...] | None
    positive: float
    count: float
    weight: float | None
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Members:
    """The atoms that a filter lets through, and those of them that changed in or after a transaction."""

    handles: Sequence[UUID]
    changed: Sequence[UUID]


class MirrorsDAO(DAO):
    """Keeps this site's mirrors, and reads what peers ask for."""

    async def all(self) -> list[Mirror]:
        """All mirrors by name."""
        rows = await self._executor.fetch("mirrors.all")
        return [Mirror(**{**row, "filter": GraphFilter.from_json(row["filter"])}) for row in map(dict, rows)]

    async def get(self, name: str) -> Mirror:
        """One of them; DataRefused if there is none of that name."""
        found = await self.all()
        for each in found:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in found) or "none yet"
        raise DataRefused(f"there is no mirror {name[:50]!r}; there are: {known}")

    async def add(self, name: str, place: str, wanted: GraphFilter) -> Mirror:
        """Add an empty mirror; DataRefused if the name is taken."""
        space = await self._executor.fetchval("mirrors.add", name, place, wanted.to_json())
        if space is None:
            raise DataRefused(f"there is a space {name} already: give the mirror another name")
        return await self.get(name)

    async def remove(self, name: str) -> None:
        """Remove a mirror with all its atoms."""
        async with self._atomic() as executor:
            mirror = await self._on(executor).get(name)
            for statement in ("mirrors.clear", "mirrors.remove", "mirrors.remove_space"):
                await executor.execute(statement, mirror.space)

    async def held(self, mirror: Mirror) -> set[UUID]:
        """The atoms that a mirror has."""
        return {row["handle"] for row in await self._executor.fetch("mirrors.held", mirror.space)}

    async def stage(self, mirror: Mirror, refresh: UUID, atoms: Sequence[MirroredAtom]) -> None:
        """Keep atoms that a refresh has read, until it has read all."""
        for start in range(0, len(atoms), _STAGED_AT_ONCE):
            batch = atoms[start : start + _STAGED_AT_ONCE]
            await self._executor.execute(
                "mirrors.stage",
                mirror.space,
                [each.handle for each in batch],
                [each.type for each in batch],
                [each.name for each in batch],
                *flattened(each.outgoing or () for each in batch),
                [each.positive for each in batch],
                [each.count for each in batch],
                [each.weight for each in batch],
                [each.seen_at for each in batch],
                refresh,
            )

    async def apply(self, mirror: Mirror, refresh: UUID, members: Sequence[UUID], cursor: str) -> int | None:
        """Put what a refresh has read into place, all at once.

        Returns how many atoms the mirror has now; None if another process has refreshed it meanwhile.
        """
        async with self._atomic() as executor:
            if not await self._on(executor).note_refreshed(mirror, cursor):
                return None
            atoms: int = await executor.fetchval(
                "mirrors.apply", mirror.space, refresh, [*members], self._clock.now()
            )
        return atoms

    async def note_refreshed(self, mirror: Mirror, cursor: str) -> bool:
        """Note up to where a mirror is up to date; whether no other process did so meanwhile."""
        row = await self._executor.fetchrow(
            "mirrors.refreshed", mirror.space, cursor, self._clock.now(), mirror.cursor
        )
        return row is not None

    async def note_failure(self, mirror: Mirror, told: str) -> None:
        """Note why a mirror could not be refreshed."""
        await self._executor.execute(
            "mirrors.failed", mirror.space, self._clock.now(), told[:_LONGEST_FAILURE]
        )

    # What peers ask for

    async def has_changed(self, xid: int) -> bool:
        """Whether anything of this site's graph changed in a transaction or later."""
        return await self._executor.fetchval("mirrors.has_changed", xid) is True

    async def members(self, wanted: GraphFilter, since: int) -> Members | None:
        """The atoms of this site's graph that a filter lets through; None if they are too many."""
        handles = await self._executor.fetchval(
            "mirrors.members",
            None if wanted.types is None else [*wanted.types],
            wanted.prefix,
            wanted.around,
            wanted.hops,
            wanted.min_strength,
            wanted.min_count,
            MOST_ATOMS,
        )
        if handles is None:
            return None
        rows = await self._executor.fetch("mirrors.changed_of", handles, since)
        return Members(handles, [row["handle"] for row in rows])

    async def atoms(self, handles: Sequence[UUID]) -> tuple[list[MirroredAtom], list[AtomType]]:
        """Those of our atoms that are there and that other sites may know, and their types."""
        rows = [dict(row) for row in await self._executor.fetch("mirrors.atoms", [*handles])]
        atoms = [MirroredAtom(**{**row, "outgoing": _tuple(row["outgoing"])}) for row in rows]
        used = {each.type for each in atoms}
        types = [AtomType(*row) for row in await self._executor.fetch("graph.types")]
        return atoms, [each for each in types if each.name in used]


def _tuple(outgoing: Any) -> tuple[UUID, ...] | None:
    return None if outgoing is None else tuple(outgoing)
