"""The communities of a whole graph, found once and looked into many times, by atom or by size."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np

from atlas.adapters.graph import OWN
from atlas.adapters.graph_standing import GraphStandingDAO
from atlas.composition import Atlas
from maia.graph.adjacency import adjacency
from maia.graph.arrays import NO_ATOM, Float64s, GraphArrays, Int16s, Int32s, Int64s, UInt64s, places_of
from maia.graph.communities import cluster, telling
from maia.graph.standing import LINKS, TYPES
from maia.graph.structure import by_size
from maia.graphing.grouping import Community, Grouping, members_shown
from maia.graphing.reading import read_arrays

_TAG = "tag"
_LOW = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Groups:
    """The communities of n atoms, which are in ascending order of their handles, as they were at an instant.

    `labels` numbers communities, the largest first; `type_of` numbers `types`; `degrees` are how many others
    each atom is linked with, or PageRanks. `tags` has the handles that tell most of each community.
    """

    found_at: datetime
    modularity: float
    total: int
    handles: UInt64s
    labels: Int32s
    degrees: Int64s | Float64s
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

    def grouping(self, of: UUID | None, limit: int) -> Grouping:
        """The largest communities, or that of an atom, if it is in one."""
        wanted = [*range(min(limit, self.total))]
        if of is not None:
            number = self.number_of(of)
            wanted = [] if number is None else [number]
        found = (self.community(number, members_shown(limit, of)) for number in wanted)
        return Grouping(tuple(found), self.total, self.modularity)

    def _handle(self, row: int) -> UUID:
        high, low = self.handles[row].tolist()
        return UUID(int=high << 64 | low)


async def kept_groups(atlas: Atlas) -> Groups | None:
    """The communities of this site's own graph as they were derived last; None if they never were."""
    dao = GraphStandingDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    grouped = await dao.grouped()
    if grouped is None:
        return None
    tags, rows = await dao.communities(), await dao.members(TYPES)
    return await asyncio.to_thread(_kept, *grouped, tags, rows)


def _kept(found_at: datetime, modularity: float, tags: Mapping[int, Sequence[UUID]], rows: Any) -> Groups:
    labels = by_size(rows["community"].astype(np.int32))
    total = int(labels.max()) + 1 if len(labels) else 0
    _, first = np.unique(labels, return_index=True)
    return Groups(
        found_at=found_at,
        modularity=modularity,
        total=total,
        handles=rows["handle"].astype(np.uint64),
        labels=labels,
        degrees=rows["pagerank"].astype(np.float64),
        types=("", *TYPES),
        type_of=rows["type"].astype(np.int16),
        tags=[tuple(tags.get(int(each), ())) for each in rows["community"][first]],
    )


async def find_groups(atlas: Atlas, space: int = OWN) -> Groups:
    """The communities of a space over the links that `grouping` names, as they were derived last.

    Of other spaces, and if they never were, they are found now, which reads the whole graph.
    """
    kept = await kept_groups(atlas) if space == OWN else None
    if kept is not None:
        return kept
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
