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
from atlas.adapters.graph_feeding import DerivedColumns, GraphFeedDAO
from atlas.composition import Atlas
from atlas.conflicts import retry_conflicts
from atlas.errors import DataRefused
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
COPIED_AT_ONCE: Final = 20_000
_LEAST: Final = 2
"""What was met together once says nothing."""
_MOST_CATEGORIES: Final = 3
_SHARE: Final = 0.2
"""A topic is of a category that at least this share of its videos have."""
_CHANGED: Final = 0.01
_PATIENCE: Final = 4
"""After so many intervals, even a few changes are enough."""
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
    """Whether enough has changed since links were last derived, and that was long enough ago.

    Deriving reads the whole graph, so that a hundredth of it must have changed, unless it was very long ago.
    """
    dao, graph = _dao(atlas), atlas.settings.graph
    state = await dao.state()
    if state.derived_at is None:
        return state.changes > 0
    waited = atlas.clock.now() - state.derived_at
    interval = timedelta(hours=graph.derive_interval_h)
    if waited < timedelta(0):
        # The clock was ahead then: nobody knows how long ago it was.
        waited = interval
    if waited < interval or state.changes < graph.derive_after:
        return False
    atoms = await dao.estimate_atoms()
    return waited >= _PATIENCE * interval or atoms is None or state.changes >= _CHANGED * atoms


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
        return Derived(sum(part.found for part in parts), written, removed)


def _dao(atlas: Atlas) -> GraphFeedDAO:
    return GraphFeedDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


@dataclass(frozen=True, slots=True)
class _Part:
    """The links of one type: how many hold, which of these are new or differ, and which are to be taken back.

    Handles have two columns.
    """

    found: int
    new: DerivedColumns
    differing: DerivedColumns
    former: UInt64s


async def _write(dao: GraphFeedDAO, parts: Sequence[_Part], on_progress: OnDerived) -> int:
    written, total = 0, sum(len(part.new) + len(part.differing) for part in parts)
    for part in parts:
        for some in _batches(np.arange(len(part.new)), COPIED_AT_ONCE):
            written += await _load(dao, part.new.only(some))
            on_progress("writing links", written, total)
        written += await _store(dao, part.differing)
        on_progress("writing links", written, total)
    return written


async def _load(dao: GraphFeedDAO, links: DerivedColumns) -> int:
    """Write links that the graph doesn't have; returns how many were written."""
    try:
        async for attempt in retry_conflicts():
            with attempt:
                loaded = await dao.load_derived(links)
    except DataRefused:
        # There are tombstones of some, or others have added them meanwhile.
        return await _store(dao, links)
    return loaded


async def _store(dao: GraphFeedDAO, links: DerivedColumns) -> int:
    """Write links that the graph may have; returns how many were written."""
    written = 0
    for some in _batches(np.arange(len(links)), AT_ONCE):
        rows = await asyncio.to_thread(links.only(some).rows)
        async for attempt in retry_conflicts():
            with attempt:
                stored = await dao.add_derived(rows)
        written += stored
    return written


async def _remove(dao: GraphFeedDAO, parts: Sequence[_Part], on_progress: OnDerived) -> int:
    removed, total = 0, sum(len(part.former) for part in parts)
    for part in parts:
        for some in _batches(part.former, AT_ONCE):
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
        columns = _columns(facts, type_, found)
        places = places_of(arrays.handles, columns.handles)
        former = arrays.handles[_former(arrays, type_, firsts, places)]
        new, differing = np.flatnonzero(places == NO_ATOM), _differing(arrays, found, places)
        parts.append(_Part(len(found), columns.only(new), columns.only(differing), former))
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


def _columns(facts: GraphArrays, type_: str, found: Associations) -> DerivedColumns:
    """The links with the handles of theirs and of their ends."""
    firsts, seconds = facts.handles[found.firsts], facts.handles[found.seconds]
    start = b"l" + type_.encode() + b"\0"
    body = np.concatenate([firsts, seconds], axis=1).astype(">u8").tobytes()
    digests = [sha256(start + body[begin : begin + 32]).digest()[:16] for begin in range(0, len(body), 32)]
    handles = np.frombuffer(b"".join(digests), ">u8").astype(np.uint64).reshape(-1, 2)
    return DerivedColumns(type_, handles, firsts, seconds, found.pos, found.neg, found.weight)


def _differing(arrays: GraphArrays, found: Associations, places: Int64s) -> Int64s:
    """Which links the graph has, at `places`, but not so.

    What people observed of one stays as it is.
    """
    same = (
        (arrays.pos[places] == found.pos)
        & (arrays.neg[places] == found.neg)
        & (arrays.weight[places] == found.weight.astype(np.float32))
    )
    sources = arrays.sources[places]
    stands = (sources & _DERIVED > 0) & (same | (sources & _PEOPLE > 0))
    return np.flatnonzero((places != NO_ATOM) & ~stands)


def _former(arrays: GraphArrays, type_: str, firsts: tuple[str, ...], places: Int64s) -> Int64s:
    """Where the derived links of a type are, from atoms of the types `firsts`, that hold no longer."""
    links = arrays.of_type(type_)
    links = links[arrays.sources[links] & _DERIVED > 0]
    heads = arrays.outgoing[arrays.outgoing_starts[links]]
    return np.setdiff1d(links[np.isin(heads, arrays.of_type(*firsts))], places)


def _batches(items: _Items, size: int) -> Iterator[_Items]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
