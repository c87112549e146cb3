"""Deriving links from the facts: tags that go together, what follows from topics, and what topics are about.

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
from uuid import UUID

import numpy as np
from scipy import sparse

from atlas.adapters.graph import Sources
from atlas.adapters.graph_feeding import DerivedLink, GraphFeedDAO
from atlas.composition import Atlas
from atlas.config import GraphSettings
from atlas.conflicts import retry_conflicts
from maia.graph.arrays import NO_ATOM, GraphArrays, UInt64s, places_of
from maia.graph.associations import Associations, Incidence, associations, co_occurrences, incidence, shares
from maia.graph.facts import facts_of
from maia.graphing.reading import read_arrays

LOCK: Final = "graph deriver"
AT_ONCE: Final = 2_000
_LEAST: Final = 2
"""What was met together once says nothing."""
_MOST_CATEGORIES: Final = 3
_SHARE: Final = 0.2
"""A topic is of a category that at least this share of its videos have."""
_PEOPLE, _DERIVED = int(Sources.PEOPLE), int(Sources.DERIVED)
_Item = TypeVar("_Item")


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
    """Derive all links from the facts that there are, and write what differs."""
    async with atlas.db.only_one(LOCK) as is_only:
        if not is_only:
            return Derived(is_alone=False)
        dao, graph = _dao(atlas), atlas.settings.graph
        changes = (await dao.state()).changes
        on_progress("reading the graph", 0, 1)
        arrays = await read_arrays(atlas)
        on_progress("deriving links", 0, 1)
        plan = await asyncio.to_thread(_plan, arrays, graph)
        written = removed = 0
        for links in _batches(plan.links):
            async for attempt in retry_conflicts():
                with attempt:
                    stored = await dao.add_derived(links)
            written += stored
            on_progress("writing links", written, len(plan.links))
        for handles in _batches(plan.gone):
            async for attempt in retry_conflicts():
                with attempt:
                    dropped = await dao.drop_derived(handles)
            removed += dropped
            on_progress("removing links", removed, len(plan.gone))
        await dao.note_derived(changes)
        return Derived(plan.holding, written, removed)


def _dao(atlas: Atlas) -> GraphFeedDAO:
    return GraphFeedDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


@dataclass(frozen=True, slots=True)
class _Plan:
    """The links to write, those to take back, and how many hold in all."""

    links: Sequence[DerivedLink]
    gone: Sequence[UUID]
    holding: int


def _plan(arrays: GraphArrays, graph: GraphSettings) -> _Plan:
    links, gone, holding = list[DerivedLink](), list[UUID](), 0
    facts = facts_of(arrays)
    for type_, firsts, found in _found(facts, graph):
        handles = _handles(facts, type_, found)
        holding += len(found)
        links += _differing(arrays, facts, type_, found, handles)
        gone += _former(arrays, type_, firsts, handles)
    return _Plan(links, gone, holding)


def _found(facts: GraphArrays, graph: GraphSettings) -> Iterator[tuple[str, str, Associations]]:
    """Each type of links, the type of atoms that they begin at, and which of them hold."""
    most = graph.links_per_atom
    tagged = incidence(facts, "tagged", "video", "tag")
    yield "co_occurs", "tag", co_occurrences(tagged, least=_LEAST, most=most)
    found = incidence(facts, "found_by", "video", "topic")
    carried = _carried_topics(tagged, incidence(facts, "inherits", "topic", "tag"))
    yield "follows", "topic", associations(found, carried, least=_LEAST, most=most)
    categories = incidence(facts, "inherits", "video", "category")
    about = shares(found, categories, least=_LEAST, most=_MOST_CATEGORIES, share=_SHARE)
    yield "inherits", "topic", about


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


def _differing(
    arrays: GraphArrays, facts: GraphArrays, type_: str, found: Associations, handles: UInt64s
) -> Iterator[DerivedLink]:
    """The links that the graph doesn't have so. What people observed of one stays as it is."""
    places = places_of(arrays.handles, handles)
    weight = found.weight.astype(np.float32)
    same = (
        (arrays.pos[places] == found.pos)
        & (arrays.neg[places] == found.neg)
        & (arrays.weight[places] == weight)
    )
    sources = arrays.sources[places]
    stands = (places != NO_ATOM) & (sources & _DERIVED > 0) & (same | (sources & _PEOPLE > 0))
    for nth in np.flatnonzero(~stands).tolist():
        yield DerivedLink(
            _uuid(handles, nth), type_, facts.handle(int(found.firsts[nth])),
            facts.handle(int(found.seconds[nth])), int(found.pos[nth]), int(found.neg[nth]),
            float(weight[nth]),
        )  # fmt: skip


def _former(arrays: GraphArrays, type_: str, firsts: str, handles: UInt64s) -> list[UUID]:
    """The derived links of a type, from atoms of type `firsts`, that hold no longer."""
    links = arrays.of_type(type_)
    links = links[arrays.sources[links] & _DERIVED > 0]
    heads = arrays.outgoing[arrays.outgoing_starts[links]]
    links = links[np.isin(heads, arrays.of_type(firsts))]
    holding = places_of(arrays.handles, handles)
    return [arrays.handle(place) for place in np.setdiff1d(links, holding).tolist()]


def _uuid(handles: UInt64s, nth: int) -> UUID:
    high, low = handles[nth].tolist()
    return UUID(int=high << 64 | low)


def _batches(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]
