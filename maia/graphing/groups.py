"""The communities of a whole graph, found once and looked into many times, by atom or by size."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import numpy as np

from atlas.adapters.graph import OWN
from atlas.composition import Atlas
from maia.graph.adjacency import adjacency
from maia.graph.arrays import NO_ATOM, GraphArrays, Int16s, Int32s, Int64s, UInt64s, places_of
from maia.graph.communities import cluster, telling
from maia.graphing.grouping import LINKS, Community
from maia.graphing.reading import read_arrays

_TAG = "tag"
_LOW = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Groups:
    """The communities of n atoms, which are in ascending order of their handles, as they were at an instant.

    `labels` numbers communities, the largest first; `type_of` numbers `types`; `degrees` are how many others
    each atom is linked with. `tags` has the handles that tell most of each community.
    """

    found_at: datetime
    modularity: float
    total: int
    handles: UInt64s
    labels: Int32s
    degrees: Int64s
    types: tuple[str, ...]
    type_of: Int16s
    tags: Sequence[tuple[UUID, ...]]

    def number_of(self, handle: UUID) -> int | None:
        """The community of an atom; None if it is in none with others."""
        wanted = np.array([(handle.int >> 64, handle.int & _LOW)], np.uint64)
        [place] = places_of(self.handles, wanted).tolist()
        number = self.total if place == NO_ATOM else int(self.labels[place])
        return number if number < self.total else None

    def community(self, number: int, members: int) -> Community:
        """A community with so many of its most linked members, tags aside."""
        rows = np.flatnonzero(self.labels == number)
        counts = np.bincount(self.type_of[rows], minlength=len(self.types)).tolist()
        tag = self.types.index(_TAG) if _TAG in self.types else -1
        others = rows[self.type_of[rows] != tag]
        most = others[np.argsort(-self.degrees[others], kind="stable")][:members]
        return Community(
            size=len(rows),
            by_type={name: count for name, count in zip(self.types, counts, strict=True) if count},
            tags=self.tags[number],
            members=tuple(self._handle(each) for each in most.tolist()),
        )

    def _handle(self, row: int) -> UUID:
        high, low = self.handles[row].tolist()
        return UUID(int=high << 64 | low)


async def find_groups(atlas: Atlas, space: int = OWN) -> Groups:
    """The communities of a space over the links that `grouping` names; this reads the whole graph."""
    found_at = atlas.clock.now()
    arrays = await read_arrays(atlas, space)
    return await asyncio.to_thread(_groups, arrays, found_at)


def _groups(arrays: GraphArrays, found_at: datetime) -> Groups:
    graph = adjacency(arrays, links=LINKS)
    found = cluster(graph)
    tags = graph.rows(arrays.of_type(_TAG))
    best = telling(graph, found, tags[tags != NO_ATOM])
    # What is linked with nothing is a community of its own, which nobody asks for.
    total = int((np.bincount(found.labels, minlength=1) > 1).sum())
    return Groups(
        found_at=found_at,
        modularity=found.modularity,
        total=total,
        handles=arrays.handles[graph.places],
        labels=found.labels,
        degrees=graph.degrees(),
        types=arrays.types,
        type_of=arrays.type_of[graph.places],
        tags=[
            tuple(arrays.handle(int(graph.places[each])) for each in rows.tolist()) for rows in best[:total]
        ],
    )
