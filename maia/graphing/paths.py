"""The shortest path between two atoms, over links of two in either direction.

Searching from both ends at once meets in the middle: in a graph where each atom has tens of neighbours, that
looks at some thousands of atoms where a search from one end would look at all. Always the side with fewer
atoms at its rim goes on.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from atlas.adapters.graph_views import GraphViewsDAO, Step

MOST_LINKS: Final = 8
"""Paths have at most so many links, unless more are allowed."""
MOST_VISITED: Final = 300_000
"""After so many atoms, a search gives up."""
_HUBS: Final = ("agent", "category")
_MOST_HUBS: Final = 1_000
_FAN_OUT: Final = 50_000
_AT_ONCE: Final = 20_000


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


@dataclass(slots=True)
class _Side:
    """What was reached from one end, by which step (None: the end itself), and the rim of it."""

    reached: dict[UUID, Step | None]
    rim: list[UUID]
    links: int = 0

    def way(self, handle: UUID) -> tuple[list[UUID], list[UUID]]:
        """The atoms and links from an atom back to the end."""
        atoms, links = [handle], []
        while (step := self.reached[atoms[-1]]) is not None:
            links.append(step.link)
            atoms.append(step.via)
        return atoms, links


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
    """One of the shortest paths over links of some types, the same one each time.

    It leads over none of the atoms to avoid, though it may begin and end there.
    """
    if start == goal:
        return Path((start,), (), 1)
    here, there = _Side({start: None}, [start]), _Side({goal: None}, [goal])
    shunned = set(avoid) - {start, goal}
    while here.rim and there.rim and here.links + there.links < most_links:
        visited = len(here.reached) + len(there.reached)
        if visited > most_visited:
            return Path((), (), visited, is_certain=False)
        side, other = (here, there) if len(here.rim) <= len(there.rim) else (there, here)
        met = await _advance(dao, side, other, types, shunned)
        if met is not None:
            atoms, links = here.way(met)
            further, last = there.way(met)
            visited = len(here.reached) + len(there.reached)
            return Path((*reversed(atoms), *further[1:]), (*reversed(links), *last), visited)
    return Path((), (), len(here.reached) + len(there.reached))


async def hubs(dao: GraphViewsDAO) -> list[UUID]:
    """Atoms over which nearly everything is connected, so that it says nothing: agents and categories."""
    return await dao.by_name(_HUBS, "", limit=_MOST_HUBS)


async def _advance(
    dao: GraphViewsDAO, side: _Side, other: _Side, types: Sequence[str] | None, shunned: set[UUID]
) -> UUID | None:
    """Go one link further from the rim; returns the first atom by handle that the other side has, too."""
    rim = []
    for start in range(0, len(side.rim), _AT_ONCE):
        for step in await dao.expand(side.rim[start : start + _AT_ONCE], types, fan_out=_FAN_OUT):
            if step.handle not in side.reached and step.handle not in shunned:
                side.reached[step.handle] = step
                rim.append(step.handle)
    side.rim, side.links = rim, side.links + 1
    return min((each for each in rim if each in other.reached), default=None)
