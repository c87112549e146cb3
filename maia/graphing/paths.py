"""The shortest path between two atoms, over links of two in either direction.

Searching from both ends at once meets in the middle: in a graph where each atom has tens of neighbours, that
looks at some thousands of atoms where a search from one end would look at all. Always the side goes on whose
next links cost less to read, so that atoms with tens of thousands of links are reached from their neighbours
rather than left. Where both sides have become wide, the database looks for what their next links have in
common, and tells only that: two links less have to be followed, and these are by far the most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple
from uuid import UUID

from atlas.adapters.graph import link_handle
from atlas.adapters.graph_views import GraphViewsDAO

MOST_LINKS: Final = 8
"""Paths have at most so many links, unless more are allowed."""
MOST_VISITED: Final = 300_000
"""After so many atoms, a search gives up."""
_HUBS: Final = ("agent", "category")
_MOST_HUBS: Final = 1_000
_AT_ONCE: Final = 5_000

# Costs are in links that are read in a row: an atom's links lie side by side, but those of another elsewhere.
_SEEK: Final = 40
_USUAL_LINKS: Final = 10
_MOST_COUNTED: Final = 100_000
"""Whether it is more makes no difference to what is done next."""
_WIDE: Final = 2_000
"""From this cost on, a side is not followed before it is known that it doesn't meet the other at once."""
_LOPSIDED: Final = 8
"""Unless the other side costs more than so many times as much."""


@dataclass(frozen=True, slots=True)
class Path:
    """The atoms from one end to the other, and the link between each and the next; one less.

    Both are empty if there is no path. Then `is_certain` says if there is none; or else the search gave up
    after `visited` atoms.
    """

    atoms: tuple[UUID, ...]
    links: tuple[UUID, ...]
    visited: int
    is_certain: bool = True


async def shortest_path(
    dao: GraphViewsDAO,
    start: UUID,
    goal: UUID,
    types: Sequence[str] | None = None,
    *,
    avoid: Collection[UUID] = (),
    most_links: int = MOST_LINKS,
    most_visited: int = MOST_VISITED,
) -> Path:
    """One of the shortest paths over links of some types, the same one each time, in the graph as it is now.

    It leads over none of the atoms to avoid, though it may begin and end there.
    """
    if start == goal:
        return Path((start,), (), 1)
    here, there = _Side([{start}], {start}), _Side([{goal}], {goal})
    async with dao.one_moment() as seen:
        search = _Search(seen, types, frozenset(avoid) - {start, goal}, most_links, most_visited)
        try:
            atoms = await search.between(here, there)
        except _GaveUp:
            return Path((), (), len(here.reached) + len(there.reached), is_certain=False)
        links = await search.links_along(atoms)
    return Path(tuple(atoms), tuple(links), len(here.reached) + len(there.reached))


async def hubs(dao: GraphViewsDAO) -> list[UUID]:
    """Atoms over which nearly everything is connected, so that it says nothing: agents and categories."""
    return await dao.by_name(dict.fromkeys(_HUBS, ""), limit=_MOST_HUBS)


class _GaveUp(Exception):
    """Too many atoms were reached."""


@dataclass(slots=True)
class _Side:
    """What was reached from an end, by how many links, and what it costs to read the links of the last."""

    levels: list[set[UUID]]
    reached: set[UUID]
    cost: int = 0

    @property
    def depth(self) -> int:
        return len(self.levels) - 1

    @property
    def rim(self) -> set[UUID]:
        return self.levels[-1]


class _Meeting(NamedTuple):
    """An atom on a shortest path, and how many links it is away from the end of either side."""

    atom: UUID
    to_near: int
    to_far: int


@dataclass(slots=True)
class _Search:
    """The search in one transaction. It is known that no path has `ruled_out` links or fewer."""

    dao: GraphViewsDAO
    types: Sequence[str] | None
    shunned: frozenset[UUID]
    most_links: int
    most_visited: int
    ruled_out: int = 0

    async def between(self, here: _Side, there: _Side) -> list[UUID]:
        """The atoms of a shortest path from one end to the other; none if there is none."""
        for side in (here, there):
            await self._weigh(side)
        while here.rim and there.rim and self.ruled_out < self.most_links:
            near, far = (here, there) if here.cost <= there.cost else (there, here)
            met = None
            if near.cost > _WIDE and far.cost <= near.cost * _LOPSIDED:
                met = await self._look_ahead(near, far)
            if met is None and self.ruled_out < self.most_links:
                met = await self._advance(near, far)
            if met is not None:
                to_near, to_far = (
                    await self._way(near, met, met.to_near),
                    await self._way(far, met, met.to_far),
                )
                atoms = [*reversed(to_near), met.atom, *to_far]
                return atoms if near is here else atoms[::-1]
        return []

    async def _look_ahead(self, near: _Side, far: _Side) -> _Meeting | None:
        """Where the sides meet within two links more, found by the database, which tells nothing else."""
        whole = near.depth + far.depth
        if self.ruled_out == whole:
            if atom := await self.dao.touching(list(near.rim), list(far.rim), self.types):
                return _Meeting(atom, near.depth + 1, far.depth)
            self.ruled_out = whole + 1
        if self.ruled_out < self.most_links:
            avoid = list(self.shunned)
            if atom := await self.dao.between(list(near.rim), list(far.rim), self.types, avoid=avoid):
                return _Meeting(atom, near.depth + 1, far.depth + 1)
            self.ruled_out = whole + 2
        return None

    async def _advance(self, side: _Side, other: _Side) -> _Meeting | None:
        """Follow the links of a side's rim; the first atom by handle that the other side has there, too."""
        rim, fresh = list(side.rim), set[UUID]()
        for begin in range(0, len(rim), _AT_ONCE):
            near = await self.dao.expand(
                rim[begin : begin + _AT_ONCE], self.types, limit=self.most_visited + 1
            )
            for first in range(0, len(near), _AT_ONCE):
                fresh |= set(near[first : first + _AT_ONCE]) - side.reached - self.shunned
                await asyncio.sleep(0)
            if (
                len(near) > self.most_visited
                or len(side.reached) + len(fresh) + len(other.reached) > self.most_visited
            ):
                side.reached |= fresh
                raise _GaveUp
        side.levels.append(fresh)
        side.reached |= fresh
        self.ruled_out = max(self.ruled_out, side.depth + other.depth - 1)
        if met := fresh & other.rim:
            return _Meeting(min(met), side.depth, other.depth)
        self.ruled_out = max(self.ruled_out, side.depth + other.depth)
        await self._weigh(side)
        return None

    async def _weigh(self, side: _Side) -> None:
        """Estimate what it costs to read the links of a side's rim; those of many atoms are not counted."""
        seeks = _SEEK * len(side.rim)
        if seeks < _MOST_COUNTED:
            links = await self.dao.count_links(list(side.rim), self.types, limit=_MOST_COUNTED)
        else:
            links = _USUAL_LINKS * len(side.rim)
        side.cost = seeks + links

    async def _way(self, side: _Side, met: _Meeting, links: int) -> list[UUID]:
        """The atoms from where the sides met, without it, to the end of a side."""
        way = [met.atom]
        for level in reversed(side.levels[:links]):
            if len(level) == 1:
                way += level
                continue
            before = await self.dao.touching([way[-1]], list(level), self.types)
            assert before is not None, "an atom was reached from no atom"
            way.append(before)
        return way[1:]

    async def links_along(self, atoms: Sequence[UUID]) -> list[UUID]:
        """The first link by handle between each of the atoms and the next; a handle says what it connects."""
        types = self.types
        if types is None:
            types = [each.name for each in (await self.dao.types()).values() if each.is_link]
        possible = [
            [link_handle(type_, ends) for type_ in types for ends in (pair, pair[::-1])]
            for pair in pairwise(atoms)
        ]
        there = {each.handle for each in await self.dao.get([each for some in possible for each in some])}
        return [min(there.intersection(some)) for some in possible]
