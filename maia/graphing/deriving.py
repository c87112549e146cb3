"""Deriving links from the facts: what goes together, what follows from topics and is of them, what is alike.

Everything is computed anew from the arrays of the graph, as each of these weights depends on how many videos
there are in all. Only what differs from the graph is written, in batches that each end by themselves. A
deriver that was cut off leaves some links as they were; the next one sees that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Final, TypeAlias, TypeVar

import numpy as np
from scipy import sparse

from atlas.adapters.graph import Sources
from atlas.adapters.graph_feeding import DerivedLink, GraphFeedDAO
from atlas.composition import Atlas
from atlas.conflicts import retry_conflicts
from atlas.graph_settings import GraphSettings
from maia.graph.arrays import NO_ATOM, GraphArrays, Int64s, UInt64s, places_of, uuid_of
from maia.graph.associations import Associations, Incidence, associations, co_occurrences, incidence, shares
from maia.graph.embedded_nodes import LIKE, EmbeddedNodes, likenesses
from maia.graph.merging import facts_of
from maia.graphing.communities import keep_communities
from maia.graphing.present import present_arrays
from maia.graphing.vectors import embed

LOCK: Final = "graph deriver"
AT_ONCE: Final = 2_000
_LEAST: Final = 2
"""What was met together once says nothing."""
_MOST_CATEGORIES: Final = 3
_SHARE: Final = 0.2
"""A topic is of a category that at least this share of its videos have."""
_PEOPLE, _DERIVED = int(Sources.PEOPLE), int(Sources.DERIVED)
_Items = TypeVar("_Items", Int64s, UInt64s)


@dataclass(frozen=True, slots=True)
class Derived:
    """What a deriver did: the links that hold now, and how many of them were written, and how many removed.

    `is_alone` is false if another one was at work, so that nothing was done.
    """

    links: int = 0
    written: int = 0
    removed: int = 0
    is_alone: bool = True


OnDerived: TypeAlias = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and how much there is."""


def _ignore(what: str, done: int, total: int) -> None:
    """Tell nobody."""


async def is_due(atlas: Atlas) -> bool:
    """Whether enough has changed since links were last derived, and that was long enough ago."""
    state, graph = await _dao(atlas).state(), atlas.settings.graph
    if state.derived_at is None:
        return state.changes > 0
    waited = atlas.clock.now() - state.derived_at
    return waited >= timedelta(hours=graph.derive_interval_h) and state.changes >= graph.derive_after


async def derive(atlas: Atlas, on_progress: OnDerived = _ignore) -> Derived:
    """Derive vectors, all links and communities from the facts, and write what differs."""
    async with atlas.db.only_one(LOCK) as is_only:
        if not is_only:
            return Derived(is_alone=False)
        dao, graph = _dao(atlas), atlas.settings.graph
        changes = (await dao.state()).changes
        on_progress("reading the graph", 0, 1)
        arrays = await present_arrays(atlas)
        facts = await asyncio.to_thread(facts_of, arrays)
        on_progress("embedding nodes", 0, 1)
        nodes = await embed(atlas, facts)
        on_progress("deriving links", 0, 1)
        parts = await asyncio.to_thread(_parts, arrays, facts, nodes, graph)
        del arrays, nodes
        written = await _write(dao, parts, on_progress)
        removed = await _remove(dao, parts, on_progress)
        on_progress("grouping atoms", 0, 1)
        await keep_communities(atlas, facts)
        await dao.note_derived(changes)
        return Derived(sum(len(part.found) for part in parts), written, removed)


def _dao(atlas: Atlas) -> GraphFeedDAO:
    return GraphFeedDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


@dataclass(frozen=True, slots=True)
class _Part:
    """The links of one type that hold, with their own handles and their ends', which of them are to be
    written, and which others are to be taken back. Handles have two columns.
    """

    type: str
    found: Associations
    handles: UInt64s
    ends: UInt64s
    """The handles of all atoms that are there by facts, by their places in `found`."""
    differing: Int64s
    former: UInt64s

    def link(self, nth: int) -> DerivedLink:
        first, second = (uuid_of(self.ends[each[nth]]) for each in (self.found.firsts, self.found.seconds))
        pos, neg = int(self.found.pos[nth]), int(self.found.neg[nth])
        weight = float(self.found.weight[nth])
        return DerivedLink(uuid_of(self.handles[nth]), self.type, first, second, pos, neg, weight)


async def _write(dao: GraphFeedDAO, parts: Sequence[_Part], on_progress: OnDerived) -> int:
    written, total = 0, sum(len(part.differing) for part in parts)
    for part in parts:
        for some in _batches(part.differing):
            links = [part.link(nth) for nth in some.tolist()]
            async for attempt in retry_conflicts():
                with attempt:
                    stored = await dao.add_derived(links)
            written += stored
            on_progress("writing links", written, total)
    return written


async def _remove(dao: GraphFeedDAO, parts: Sequence[_Part], on_progress: OnDerived) -> int:
    removed, total = 0, sum(len(part.former) for part in parts)
    for part in parts:
        for some in _batches(part.former):
            async for attempt in retry_conflicts():
                with attempt:
                    dropped = await dao.drop_derived([uuid_of(each) for each in some])
            removed += dropped
            on_progress("removing links", removed, total)
    return removed


def _parts(
    arrays: GraphArrays, facts: GraphArrays, nodes: EmbeddedNodes, graph: GraphSettings
) -> list[_Part]:
    parts = []
    for type_, firsts, found in _found(facts, nodes, graph):
        handles = _handles(facts, type_, found)
        places = places_of(arrays.handles, handles)
        former = arrays.handles[_former(arrays, type_, firsts, places)]
        parts.append(_Part(type_, found, handles, facts.handles, _differing(arrays, found, places), former))
    return parts


def _found(
    facts: GraphArrays, nodes: EmbeddedNodes, graph: GraphSettings
) -> Iterator[tuple[str, tuple[str, ...], Associations]]:
    """Each type of links, the types of atoms that they begin at, and which of them hold."""
    most = graph.links_per_atom
    tagged = incidence(facts, "tagged", "video", "tag")
    yield "co_occurs", ("tag",), co_occurrences(tagged, least=_LEAST, most=most)
    found = incidence(facts, "found_by", "video", "topic")
    carried = _carried_topics(tagged, incidence(facts, "inherits", "topic", "tag"))
    yield "follows", ("topic",), associations(found, carried, least=_LEAST, most=most)
    categories = incidence(facts, "inherits", "video", "category")
    about = shares(found, categories, least=_LEAST, most=_MOST_CATEGORIES, share=_SHARE)
    yield "inherits", ("topic",), about
    yield "similar", LIKE, likenesses(facts, nodes, most=graph.similar_per_atom, linked=graph.similar_atoms)


def _carried_topics(tagged: Incidence, named: Incidence) -> Incidence:
    """Which videos carry the tags that are topics: the columns are the topics."""
    topics, tags = named.matrix.nonzero()
    columns = np.searchsorted(tagged.seconds, named.seconds[tags])
    return Incidence(sparse.csr_array(tagged.matrix[:, columns]), tagged.firsts, named.firsts[topics])


def _handles(facts: GraphArrays, type_: str, found: Associations) -> UInt64s:
    """The handles of links, two columns each."""
    ends = np.ascontiguousarray(facts.handles.astype(">u8"))
    start = b"l" + type_.encode() + b"\0"
    digests = [
        sha256(start + first.tobytes() + second.tobytes()).digest()[:16]
        for first, second in zip(ends[found.firsts], ends[found.seconds], strict=True)
    ]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64).reshape(-1, 2)


def _differing(arrays: GraphArrays, found: Associations, places: Int64s) -> Int64s:
    """Which links the graph, where they are at `places`, doesn't have so.

    What people observed of one stays as it is.
    """
    same = (
        (arrays.pos[places] == found.pos)
        & (arrays.neg[places] == found.neg)
        & (arrays.weight[places] == found.weight.astype(np.float32))
    )
    sources = arrays.sources[places]
    stands = (places != NO_ATOM) & (sources & _DERIVED > 0) & (same | (sources & _PEOPLE > 0))
    return np.flatnonzero(~stands)


def _former(arrays: GraphArrays, type_: str, firsts: tuple[str, ...], places: Int64s) -> Int64s:
    """Where the derived links of a type are, from atoms of the types `firsts`, that hold no longer."""
    links = arrays.of_type(type_)
    links = links[arrays.sources[links] & _DERIVED > 0]
    heads = arrays.outgoing[arrays.outgoing_starts[links]]
    return np.setdiff1d(links[np.isin(heads, arrays.of_type(*firsts))], places)


def _batches(items: _Items) -> Iterator[_Items]:
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]
