"""Finding whose facts the graph doesn't have as they are stored: everything is compared, at one moment.

The links of a video, topic or pattern are compared by their number and the sum of their handles, which are
hashes: so only nodes are held in memory, and links stream by. That takes about 150 bytes a node and 500 a
video. Who differs is only named here: whoever takes over their facts reads these anew, so that it doesn't
matter what changes meanwhile, and naming too many would do no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from atlas.adapters.graph_auditing import GraphAuditDAO
from atlas.adapters.graph_feeding import GraphFeedDAO, VideoFacts
from maia.graph.arrays import NO_ATOM, Int64s, UInt64s
from maia.graphing.facts import Links, named_by
from maia.graphing.hashing import LINKS, SUBJECTS, Hashed, HashedVideos, Hashes, Named, pairs
from maia.graphing.spelled import Spelled

_LED_TO: Final = ("agent", "category", "channel", "tag")
_TYPES: Final = (*SUBJECTS, *_LED_TO)
_AT_ONCE: Final = 2_000
_NODES_A_PART: Final = 500_000
"""Of so many nodes, the links are read within the time that a statement may take."""
_WRONG: Final = 1 << 32
"""More links than begin anywhere."""


@dataclass(slots=True)
class Differing:
    """Whose facts differ, by name, and nodes that the facts say are there but that nothing leads to."""

    videos: list[str] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)
    unsupported: list[UUID] = field(default_factory=list)
    spelled: Spelled = field(default_factory=Spelled)
    """How all videos spell their tags."""

    def add(self, type_: str, name: str) -> None:
        """Name something that differs."""
        {"video": self.videos, "topic": self.topics, "pattern": self.patterns}[type_].append(name)


async def audit(feed: GraphFeedDAO, audit: GraphAuditDAO, on_read: Callable[[int], None]) -> Differing:
    """Compare all facts with the graph. `on_read` is told after some how many things were compared so far."""
    async with audit.one_moment() as dao:
        facts, hashes = feed.joining(dao), Hashes()
        graph = _Graph(await dao.nodes(_TYPES))
        await dao.links(LINKS, graph.take, 1 + len(graph.keys) // _NODES_A_PART)
        differing, read, ids = Differing(), 0, [""]
        while ids := await dao.videos(ids[-1], _AT_ONCE):
            videos = await facts.videos(ids)
            await asyncio.to_thread(_compare_videos, graph, hashes, videos, differing)
            on_read(read := read + len(ids))
        topics = await dao.topics()
        await asyncio.to_thread(_compare_topics, graph, hashes, topics, differing)
        patterns = {each.id: named_by(each) for each in await facts.patterns()}
        await asyncio.to_thread(_compare_patterns, graph, hashes, patterns, differing)
        for named in await dao.names(graph.unseen(SUBJECTS)):
            differing.add(*named)
        differing.unsupported = graph.unseen(_LED_TO, standing=True)
        on_read(read + len(topics) + len(patterns))
        return differing


class _Graph:
    """The nodes of the graph in the order of their handles, what begins at them, and which were seen.

    Places are found by the high halves of the handles. Should two ever share one, the second isn't found, and
    what leads to it is taken over again.
    """

    def __init__(self, nodes: NDArray[Any]) -> None:
        handles = nodes["handle"].astype(np.uint64)
        order = np.argsort(handles[:, 0], kind="stable")
        self.keys, self.lows = (np.ascontiguousarray(handles[order, column]) for column in (0, 1))
        self.type_of, self.stands = nodes["type"][order].astype(np.int16), nodes["stands"][order]
        self.seen = np.zeros(len(order), bool)
        self.sums = np.zeros((3, len(order)), np.uint64)
        """How many links begin at each, and the sums of both halves of their handles, modulo 2^64."""

    def places(self, handles: UInt64s) -> Int64s:
        """Where nodes are, NO_ATOM for those that aren't there."""
        if not len(self.keys):
            return np.full(len(handles), NO_ATOM, np.int64)
        found = np.minimum(np.searchsorted(self.keys, handles[:, 0]), len(self.keys) - 1)
        same = (self.keys[found] == handles[:, 0]) & (self.lows[found] == handles[:, 1])
        return np.where(same, found, NO_ATOM)

    def take(self, links: NDArray[Any]) -> None:
        """Add links to the sums of where they begin; those that don't stand make a sum wrong."""
        places = self.places(links["first"].astype(np.uint64))
        here = places != NO_ATOM
        counted = _counted(links["handle"][here].astype(np.uint64))
        counted[0, ~links["stands"][here]] = _WRONG
        _add(self.sums, places[here], counted)

    def unseen(self, types: Sequence[str], *, standing: bool = False) -> list[UUID]:
        """The nodes of some types that were not seen; only those that the facts name if `standing`."""
        codes = [_TYPES.index(each) + 1 for each in types]
        wanted = np.isin(self.type_of, codes) & ~self.seen & (self.stands | (not standing))
        places = np.flatnonzero(wanted)
        halves = zip(self.keys[places].tolist(), self.lows[places].tolist(), strict=True)
        return [UUID(int=high << 64 | low) for high, low in halves]

    def differ(self, hashed: Hashed) -> NDArray[np.bool_]:
        """See these subjects and what they lead to; returns which of them the graph has otherwise."""
        wanted = np.zeros((3, len(hashed.heads)), np.uint64)
        _add(wanted, hashed.firsts, _counted(hashed.links))
        places, there = self._see(hashed.heads)
        _, ends_there = self._see(hashed.ends)
        same = there.copy()
        same[hashed.firsts[~ends_there]] = False
        same[there] &= (wanted[:, there] == self.sums[:, places[there]]).all(axis=0)
        differing: NDArray[np.bool_] = ~same
        return differing

    def kept(self, handles: UInt64s) -> NDArray[np.bool_]:
        """Which of the nodes the graph has, and something leads to that was seen before."""
        places = self.places(handles)
        kept: NDArray[np.bool_] = places != NO_ATOM
        kept[kept] = self.seen[places[kept]]
        return kept

    def _see(self, handles: UInt64s) -> tuple[Int64s, NDArray[np.bool_]]:
        """Where nodes are, and whether the facts say that they are there."""
        places = self.places(handles)
        here = places != NO_ATOM
        self.seen[places[here]] = True
        stands = here.copy()
        stands[here] = self.stands[places[here]]
        return places, stands


def _compare_videos(
    graph: _Graph, hashes: Hashes, videos: Sequence[VideoFacts], differing: Differing
) -> None:
    known = HashedVideos.of(videos, hashes)
    for nth in np.flatnonzero(graph.differ(known.hashed)).tolist():
        differing.videos.append(videos[nth].id)
    differing.spelled.add(*known.spelled())


def _compare_topics(graph: _Graph, hashes: Hashes, keys: Sequence[str], differing: Differing) -> None:
    """Tags that the graph lacks bring their topics' links along when they appear."""
    kept = graph.kept(pairs(hashes.nodes("tag", keys))).tolist()
    tags = [(key,) if is_kept else () for key, is_kept in zip(keys, kept, strict=True)]
    hashed = Hashed.of("topic", keys, [("inherits", "tag", tags)], hashes)
    for nth in np.flatnonzero(graph.differ(hashed)).tolist():
        differing.topics.append(keys[nth])


def _compare_patterns(
    graph: _Graph, hashes: Hashes, named: dict[str, set[Named]], differing: Differing
) -> None:
    """The same; but agents are there because patterns tell of them."""
    ids, links = list(named), list[Links]()
    for type_ in sorted({type_ for things in named.values() for type_, _ in things}):
        its = [[name for end_type, name in things if end_type == type_] for things in named.values()]
        if type_ != "agent":
            kept = (graph.kept(pairs(hashes.nodes(type_, names))) for names in its)
            its = [[*compress(names, which.tolist())] for names, which in zip(its, kept, strict=True)]
        links.append(("evidence_for", type_, its))
    for nth in np.flatnonzero(graph.differ(Hashed.of("pattern", ids, links, hashes))).tolist():
        differing.patterns.append(ids[nth])


def _counted(handles: UInt64s) -> UInt64s:
    """A row of ones, and those of the high and of the low halves of the handles."""
    return np.stack([np.ones(len(handles), np.uint64), handles[:, 0], handles[:, 1]])


def _add(sums: UInt64s, places: Int64s, counted: UInt64s) -> None:
    """Add to the sums at these places, modulo 2^64."""
    for its, column in zip(sums, counted, strict=True):
        np.add.at(its, places, column)
