"""Communities of the graph: found over links of some types, and kept as values of atoms.

Those of this site's own graph are found whenever links are derived, and kept together with how central each
atom is. Whoever asks gets these, as of when they were found. Others are found when somebody asks for them,
which reads the whole graph.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from atlas.adapters.graph import OWN
from atlas.adapters.graph_communities import GraphCommunitiesDAO, Key
from atlas.composition import Atlas
from atlas.conflicts import retry_conflicts
from maia.graph.adjacency import Adjacency, adjacency
from maia.graph.arrays import (
    NO_ATOM,
    Float64s,
    GraphArrays,
    Int16s,
    Int32s,
    Int64s,
    UInt64s,
    pairs_of,
    places_of,
    uuid_of,
)
from maia.graph.clustering import NO_COMMUNITY, cluster, numbered_as, telling
from maia.graph.structure import by_size, pagerank
from maia.graphing.present import present_arrays

LINKS: Final = frozenset({"tagged", "uploaded_by", "found_by"})
"""What holds a community together."""
_LEFT_OUT: Final = ("agent", "category", "pattern")
"""Types of nodes that connect nearly everything."""
_TYPES: Final = ("channel", "tag", "topic", "video")
"""The others that facts tell of."""
_TAG: Final = "tag"
_DIGITS: Final = 2
_AT_ONCE: Final = 5_000


@dataclass(frozen=True, slots=True)
class Clustering:
    """How communities are found. A higher resolution gives more and smaller ones."""

    links: frozenset[str] = LINKS
    resolution: float = 1.0
    seed: int = 0


AS_KEPT: Final = Clustering()


@dataclass(frozen=True, slots=True)
class Community:
    """How many atoms of each type it has, the tags that tell most of it, and its most central members."""

    size: int
    by_type: dict[str, int]
    tags: tuple[UUID, ...]
    members: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Communities:
    """The communities of n atoms, which are in ascending order of their handles, as they were at an instant.

    `labels` numbers communities, the largest first. There are `total` of them: an atom with a higher label is
    linked with nothing. `ranks` are PageRanks as multiples of the mean, to two digits, so that few change
    when the graph grows a little. `type_of` numbers `types`. `tags` has the tags that tell most of each
    community, the best first.
    """

    found_at: datetime
    modularity: float
    total: int
    handles: UInt64s
    labels: Int32s
    ranks: Float64s
    types: tuple[str, ...]
    type_of: Int16s
    tags: Sequence[tuple[UUID, ...]]

    def number_of(self, handle: UUID) -> int | None:
        """The community of an atom; None if it is in none with others."""
        [place] = places_of(self.handles, pairs_of([handle])).tolist()
        number = self.total if place == NO_ATOM else int(self.labels[place])
        return number if number < self.total else None

    def chosen(self, of: UUID | None, limit: int, members: int) -> list[Community]:
        """The largest ones, or that of an atom, if it is in one, with so many members each, tags aside."""
        numbers: Sequence[int] = range(min(limit, self.total))
        if of is not None:
            number = self.number_of(of)
            numbers = [] if number is None else [number]
        return [self._community(number, members) for number in numbers]

    def _community(self, number: int, members: int) -> Community:
        rows = np.flatnonzero(self.labels == number)
        counts = np.bincount(self.type_of[rows], minlength=len(self.types)).tolist()
        tag = self.types.index(_TAG) if _TAG in self.types else -1
        others = rows[self.type_of[rows] != tag]
        most = others[np.argsort(-self.ranks[others], kind="stable")][:members]
        return Community(
            size=len(rows),
            by_type={name: count for name, count in zip(self.types, counts, strict=True) if count},
            tags=self.tags[number],
            members=tuple(uuid_of(self.handles[each]) for each in most.tolist()),
        )


async def find_communities(atlas: Atlas, how: Clustering = AS_KEPT, *, space: int = OWN) -> Communities:
    """The communities of a space: those that are kept, or else as they are now."""
    kept = await _kept(atlas) if (how, space) == (AS_KEPT, OWN) else None
    if kept is not None:
        return kept
    now = atlas.clock.now()
    return await asyncio.to_thread(communities_of, await present_arrays(atlas, space), now, how)


async def keep_communities(atlas: Atlas, facts: GraphArrays) -> int:
    """Find the communities of the facts, and write what differs from those kept; returns how many values."""
    dao = _dao(atlas)
    former = await dao.numbers("community")
    found = await asyncio.to_thread(communities_of, facts, atlas.clock.now())
    numbers = await asyncio.to_thread(_numbers, found, former)
    grouped = numbers != NO_COMMUNITY
    written = await _write(dao, "community", found.handles[grouped], numbers[grouped] * 1.0, former)
    written += await _write(dao, "pagerank", found.handles, found.ranks, await dao.numbers("pagerank"))
    _, first = np.unique(found.labels, return_index=True)
    tags = dict(zip(numbers[first[: found.total]].tolist(), found.tags, strict=True))
    await dao.group(tags, found.modularity)
    return written


def communities_of(arrays: GraphArrays, found_at: datetime, how: Clustering = AS_KEPT) -> Communities:
    """The communities of a graph. Equal arguments give equal ones."""
    is_node = np.diff(arrays.outgoing_starts) == 0
    nodes = {arrays.types[code] for code in np.unique(arrays.type_of[is_node])}
    graph = adjacency(arrays, links=how.links, nodes=nodes.difference(_LEFT_OUT))
    found = cluster(graph, resolution=how.resolution, seed=how.seed)
    tags = graph.rows(arrays.of_type(_TAG))
    best = telling(graph, found, tags[tags != NO_ATOM])
    # What is linked with nothing is a community of its own, which nobody asks for.
    total = int((np.bincount(found.labels, minlength=1) > 1).sum())
    return Communities(
        found_at=found_at,
        modularity=found.modularity,
        total=total,
        handles=arrays.handles[graph.places],
        labels=found.labels,
        ranks=_ranks(graph),
        types=arrays.types,
        type_of=arrays.type_of[graph.places],
        tags=[tuple(map(arrays.handle, graph.places[rows].tolist())) for rows in best[:total]],
    )


def _ranks(graph: Adjacency) -> Float64s:
    """The PageRanks as multiples of the mean, to so many significant digits."""
    ranks = pagerank(graph) * len(graph)
    exponents = np.floor(np.log10(np.maximum(ranks, 1e-12))) - (_DIGITS - 1)
    scale = 10.0**exponents
    return np.round(np.round(ranks / scale) * scale, 12)


async def _kept(atlas: Atlas) -> Communities | None:
    """The communities of this site's own graph as they were derived last; None if they never were."""
    dao = _dao(atlas)
    grouped = await dao.grouped()
    if grouped is None:
        return None
    tags, rows = await dao.communities(), await dao.members(_TYPES)
    return await asyncio.to_thread(_from_rows, *grouped, tags, rows)


def _from_rows(
    found_at: datetime, modularity: float, tags: Mapping[int, Sequence[UUID]], rows: NDArray[Any]
) -> Communities:
    labels = by_size(rows["community"].astype(np.int32))
    _, first = np.unique(labels, return_index=True)
    return Communities(
        found_at=found_at,
        modularity=modularity,
        total=len(first),
        handles=rows["handle"].astype(np.uint64),
        labels=labels,
        ranks=rows["pagerank"].astype(np.float64),
        types=("", *_TYPES),
        type_of=rows["type"].astype(np.int16),
        tags=[tuple(tags.get(int(each), ())) for each in rows["community"][first]],
    )


def _numbers(found: Communities, former: NDArray[Any]) -> Int64s:
    """The number of each atom's community: a community keeps that of the one with which it shares most."""
    before = np.full(len(found.handles), NO_COMMUNITY, np.int64)
    places = places_of(found.handles, former["handle"].astype(np.uint64))
    before[places[places != NO_ATOM]] = former["number"][places != NO_ATOM]
    labels = np.where(found.labels < found.total, found.labels, NO_COMMUNITY).astype(np.int64)
    return numbered_as(labels, before)


async def _write(
    dao: GraphCommunitiesDAO, key: Key, handles: UInt64s, numbers: Float64s, former: NDArray[Any]
) -> int:
    """Let these atoms have these numbers under a key, and no others; returns how many changed."""
    due, gone = await asyncio.to_thread(_differing, handles, numbers, former)
    for begin in range(0, len(due), _AT_ONCE):
        some = due[begin : begin + _AT_ONCE]
        changed = [uuid_of(each) for each in handles[some]]
        async for attempt in retry_conflicts():
            with attempt:
                await dao.set_numbers(key, changed, numbers[some].tolist())
    for begin in range(0, len(gone), _AT_ONCE):
        taken = former["handle"][gone[begin : begin + _AT_ONCE]].astype(np.uint64)
        await dao.drop_numbers(key, [uuid_of(each) for each in taken])
    return len(due) + len(gone)


def _differing(handles: UInt64s, numbers: Float64s, former: NDArray[Any]) -> tuple[Int64s, Int64s]:
    """Which of the atoms must get their numbers, and which of the former ones must lose theirs."""
    places = places_of(handles, former["handle"].astype(np.uint64))
    there = places != NO_ATOM
    known = np.full(len(handles), np.nan)
    known[places[there]] = former["number"][there]
    return np.flatnonzero(known != numbers), np.flatnonzero(~there)


def _dao(atlas: Atlas) -> GraphCommunitiesDAO:
    return GraphCommunitiesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
