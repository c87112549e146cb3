"""Feeding the graph: the outbox that says whose facts changed, the facts, and storing them as atoms.

One transaction takes a page of the outbox, reads the facts of those, and stores them, all under the graph's
lock. A writer that changes facts names them in the outbox in its own transaction. So whatever is committed is
either in the graph or named in the outbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from atlas.adapters.dao import DAO
from atlas.adapters.graph import OWN, Sources, handle_of
from atlas.adapters.graph_columns import ATOM_FORM, ATTENTION_FORM, GraphColumns
from atlas.adapters.graph_loading import GraphLoadingDAO

Kind: TypeAlias = Literal["video", "topic", "pattern"]
"""What has facts of its own. Everything else is there because links of these lead to it."""

CARRIERS: Final = 5
"""A tag is shown as most of so many videos spell it."""


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """Something whose facts are to be taken over, by id, but a topic by its key."""

    kind: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class FeedState:
    """How far the graph has been fed; `changes` are the facts that changed since links were last derived."""

    is_whole: bool
    fed_at: datetime | None
    derived_at: datetime | None
    changes: int


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What the graph takes over of a video: `arms` met it, `topics` found it, which are keys."""

    id: str
    channel_id: str
    category_id: int | None
    tags: Sequence[str]
    arms: Sequence[str]
    topics: Sequence[str]


@dataclass(frozen=True, slots=True)
class PatternFacts:
    """What may say what a pattern was learnt about."""

    id: str
    signature: Mapping[str, Any]
    conditions: Sequence[Mapping[str, Any]]
    action: str | None


class NodeRow(NamedTuple):
    """A node to store."""

    handle: UUID
    type: str
    name: str


class LinkRow(NamedTuple):
    """A link of two to store."""

    handle: UUID
    type: str
    first: UUID
    second: UUID


@dataclass(frozen=True, slots=True)
class LinkColumns:
    """Links of two to store; handles are rows of their high and low 64 bits, types are places in `names`."""

    names: Sequence[str]
    types: NDArray[np.int8]
    handles: NDArray[np.uint64]
    firsts: NDArray[np.uint64]
    seconds: NDArray[np.uint64]

    @classmethod
    def of(cls, links: Sequence[LinkRow]) -> Self:
        """The same as columns."""
        names = sorted({each.type for each in links})
        place_of = {type_: place for place, type_ in enumerate(names)}
        return cls(
            names,
            np.array([place_of[each.type] for each in links], np.int8),
            _pairs([each.handle for each in links]),
            _pairs([each.first for each in links]),
            _pairs([each.second for each in links]),
        )


@dataclass(frozen=True, slots=True)
class Carried:
    """A tag, and the first few videos that carry it, by the handles of the links."""

    tag: UUID
    name: str
    videos: Sequence[UUID]


@dataclass(frozen=True, slots=True)
class DerivedLink:
    """A link of two to store that was derived from the facts, with observations for and against it."""

    handle: UUID
    type: str
    first: UUID
    second: UUID
    pos: int
    neg: int
    weight: float


@dataclass(frozen=True, slots=True)
class DerivedColumns:
    """Links of one type that were derived, as columns; handles are rows of their high and low 64 bits."""

    type: str
    handles: NDArray[np.uint64]
    firsts: NDArray[np.uint64]
    seconds: NDArray[np.uint64]
    pos: NDArray[np.int64]
    neg: NDArray[np.int64]
    weight: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.handles)

    def only(self, which: NDArray[Any]) -> DerivedColumns:
        """Some of the links, by a mask or by their places."""
        columns = self.handles, self.firsts, self.seconds, self.pos, self.neg, self.weight
        return DerivedColumns(self.type, *(each[which] for each in columns))

    def rows(self) -> list[DerivedLink]:
        """The same as rows."""
        handles, firsts, seconds = map(_handles, (self.handles, self.firsts, self.seconds))
        numbers = zip(self.pos.tolist(), self.neg.tolist(), self.weight.tolist(), strict=True)
        return [
            DerivedLink(handle, self.type, first, second, *its)
            for handle, first, second, its in zip(handles, firsts, seconds, numbers, strict=True)
        ]


class GraphFeedDAO(DAO):
    """Takes facts over into this site's graph."""

    @asynccontextmanager
    async def page(self) -> AsyncIterator[Self]:
        """A transaction under the graph's lock, in which nobody else changes the graph."""
        async with self.transaction() as dao:
            await dao._executor.execute("graph.lock", True)
            yield dao

    # How far it has come

    async def state(self) -> FeedState:
        """How far the graph has been fed."""
        row = await self._executor.fetchrow("graph_feeding.state")
        assert row is not None
        return FeedState(
            row["is_whole"],
            row["fed_at"],
            row["derived_at"],
            row["changes"],
        )

    async def begin_rebuild(self) -> None:
        """Let the next feeder compare all facts with the graph."""
        await self._executor.execute("graph_feeding.begin_rebuild")

    async def note_rebuilt(self) -> None:
        """Note that the graph and the outbox together hold all facts."""
        await self._executor.execute("graph_feeding.note_rebuilt")

    async def forget_waiting(self) -> None:
        """Empty the outbox, as a rebuild does; entries of unfinished transactions stay."""
        await self._executor.execute("graph_feeding.forget_waiting")

    async def note_fed(self, changes: int) -> None:
        """Note that facts were taken over now, and how many of them changed the graph."""
        await self._executor.execute("graph_feeding.note_fed", self._clock.now(), changes)

    async def note_derived(self, changes: int) -> None:
        """Note that links were derived now, from facts that include so many changes."""
        await self._executor.execute("graph_feeding.note_derived", self._clock.now(), changes)

    async def estimate_atoms(self) -> int | None:
        """About how many atoms there are at most, without counting them; None if nothing tells."""
        estimate: int | None = await self._executor.fetchval("graph_feeding.estimate_atoms")
        return estimate

    async def count_facts(self) -> int:
        """How many videos, topics and patterns there are."""
        count: int = await self._executor.fetchval("graph_feeding.count_facts")
        return count

    async def waiting(self) -> int:
        """How many entries the outbox has."""
        count: int = await self._executor.fetchval("graph_feeding.waiting")
        return count

    # What there is

    async def has_facts(self) -> bool:
        """Whether the facts say of any atom that it is there."""
        found: bool = await self._executor.fetchval("graph_feeding.has_facts")
        return found

    async def take(self, start: Entry, limit: int) -> list[Entry]:
        """Take entries out of the outbox, from one on, in their order."""
        rows = await self._executor.fetch("graph_feeding.take", start.kind, start.key, limit)
        return [Entry(*row) for row in rows]

    async def videos(self, ids: Sequence[str]) -> list[VideoFacts]:
        """The facts of those of the videos that are stored."""
        return [VideoFacts(*row) for row in await self._executor.fetch("graph_feeding.videos", list(ids))]

    async def topics(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys of which there are topics."""
        return {row["key"] for row in await self._executor.fetch("graph_feeding.topics", list(keys))}

    async def patterns(self, ids: Sequence[str] | None = None) -> list[PatternFacts]:
        """The facts of those of the patterns that are known, of all by default."""
        rows = await self._executor.fetch("graph_feeding.patterns", None if ids is None else list(ids))
        return [PatternFacts(*row) for row in rows]

    async def there(self, nodes: Sequence[UUID]) -> set[UUID]:
        """Those of the nodes that are there by facts."""
        return {row["handle"] for row in await self._executor.fetch("graph_feeding.there", list(nodes))}

    async def standing(self, atoms: Sequence[UUID]) -> dict[bytes, bool]:
        """Those of the atoms that are known, even if gone, and whether the facts say they are there."""
        rows = await self._executor.fetch("graph_feeding.standing", list(atoms))
        return {handle: row["stands"] for row in rows for handle in row["handles"]}

    # Storing

    async def load(self, nodes: Sequence[NodeRow], links: LinkColumns) -> None:
        """Add by COPY what nobody knows yet, within a page; the ends of links must be there, or among it.

        DataRefused if an atom is known after all.
        """
        at_us = int(self._clock.now().timestamp() * 1_000_000)
        columns = await asyncio.to_thread(_columns, nodes, links, at_us)
        loading = GraphLoadingDAO(self._executor, clock=self._clock, settings=self._settings)
        await loading.add(OWN, columns)

    async def add_nodes(self, nodes: Sequence[NodeRow]) -> set[UUID]:
        """Let the facts say that nodes are there; returns those of which they did not before."""
        rows = await self._executor.fetch(
            "graph_feeding.add_nodes",
            self._clock.now(),
            [each.handle for each in nodes],
            [each.type for each in nodes],
            [each.name for each in nodes],
        )
        return {row["handle"] for row in rows}

    async def add_links(self, links: Sequence[LinkRow]) -> int:
        """Let the facts say that links are there, whose ends must be; returns how many changed."""
        changed: int = await self._executor.fetchval(
            "graph_feeding.add_links",
            self._clock.now(),
            [each.handle for each in links],
            [each.type for each in links],
            [each.first for each in links],
            [each.second for each in links],
        )
        return changed

    async def drop_others(
        self, subjects: Sequence[UUID], types: Sequence[str], links: Sequence[LinkRow]
    ) -> tuple[int, set[UUID]]:
        """Take back the facts' links of some types that begin at the subjects, without these links.

        Ends that nothing supports any more go, too. Returns how many links were dropped, and all their ends.
        """
        rows = await self._executor.fetch(
            "graph_feeding.former_links",
            list(subjects),
            list(types),
            [each.handle for each in links],
            [each.second for each in links],
        )
        if not rows:
            return 0, set()
        now, ends = self._clock.now(), {row["other"] for row in rows}
        await self._executor.execute("graph_feeding.drop_links", [row["link"] for row in rows], now)
        await self.drop_unsupported(sorted(ends))
        return len(rows), ends

    async def drop_unsupported(self, nodes: Sequence[UUID]) -> int:
        """Take back those of the nodes that no link of facts leads to; returns how many atoms went."""
        gone: int = await self._executor.fetchval(
            "graph_feeding.drop_unsupported", list(nodes), self._clock.now()
        )
        return gone

    async def withdraw(self, nodes: Sequence[UUID]) -> int:
        """Take nodes with their links out of the facts; nodes that only they led to go as well.

        Returns how many atoms went.
        """
        gone: int = await self._executor.fetchval("graph_feeding.withdraw", list(nodes), self._clock.now())
        return gone

    async def erase_lost(self, most: int) -> tuple[int, int]:
        """Take whole out of the graph what was erased before a copy of it was restored.

        Those are videos and channels that the facts said are there, but that are stored no more, whoever else
        named them. Returns how many of at most so many there were, and how many atoms went with them.
        """
        [row] = await self._executor.fetch("graph_feeding.erase_lost", most, self._clock.now())
        return row["lost"], row["gone"]

    async def add_derived(self, links: Sequence[DerivedLink]) -> int:
        """Store links that were derived, where their ends are still there; returns how many were written."""
        async with self._atomic() as executor:
            await executor.execute("graph.lock", False)
            written: int = await executor.fetchval(
                "graph_feeding.add_derived",
                self._clock.now(),
                [each.handle for each in links],
                [each.type for each in links],
                [each.first for each in links],
                [each.second for each in links],
                [each.pos for each in links],
                [each.neg for each in links],
                [each.weight for each in links],
            )
        return written

    async def load_derived(self, links: DerivedColumns) -> int:
        """Add derived links that nobody knows yet by COPY, where their ends are there; returns how many.

        DataRefused if one is known after all.
        """
        now_us = int(self._clock.now().timestamp() * 1_000_000)
        ends = np.unique(np.concatenate([links.firsts, links.seconds]), axis=0)
        async with self.transaction() as dao:
            await dao._executor.execute("graph.lock", False)
            rows = await dao._executor.fetch("graph_feeding.absent", _handles(ends))
            if rows:
                gone = {row["handle"].bytes for row in rows}
                links = await asyncio.to_thread(_without_ends, links, gone)
            columns = await asyncio.to_thread(_derived_columns, links, now_us)
            loading = GraphLoadingDAO(dao._executor, clock=self._clock, settings=self._settings)
            await loading.add(OWN, columns)
        return len(links)

    async def drop_derived(self, links: Sequence[UUID]) -> int:
        """Take back links that were derived; returns how many atoms went."""
        gone: int = await self._executor.fetchval(
            "graph_feeding.drop_derived", list(links), self._clock.now()
        )
        return gone

    # How tags are shown

    async def shown(self, tags: Sequence[UUID]) -> dict[UUID, str]:
        """How those of the tags are shown that are not shown as they are called."""
        rows = await self._executor.fetch("graph_feeding.shown", list(tags))
        return {row["handle"]: row["shown"] for row in rows}

    async def tagged_by_people(self) -> set[UUID]:
        """The tags that others than the facts say are on videos."""
        return {row["tag"] for row in await self._executor.fetch("graph_feeding.tagged_by_people")}

    async def carriers(self, tags: Sequence[UUID]) -> list[Carried]:
        """Those of the tags that are there by facts, with the first few videos that carry them."""
        rows = await self._executor.fetch("graph_feeding.carriers", list(tags), CARRIERS)
        return [Carried(*row) for row in rows]

    async def tags_of(self, videos: Sequence[UUID]) -> dict[UUID, Sequence[str]]:
        """The tags of videos in their uploaders' spelling."""
        rows = await self._executor.fetch("graph_feeding.tags_of", list(videos))
        return {row["handle"]: row["tags"] for row in rows}

    async def show(self, spellings: Mapping[UUID, str | None]) -> int:
        """Set how tags are shown, None for those shown as they are called; returns how many changed."""
        shown = {tag: spelling for tag, spelling in spellings.items() if spelling is not None}
        changed: int = await self._executor.fetchval(
            "graph_feeding.show",
            list(shown),
            list(shown.values()),
            [tag for tag in spellings if tag not in shown],
        )
        return changed


def _columns(nodes: Sequence[NodeRow], links: LinkColumns, at_us: int) -> GraphColumns:
    """The atoms as columns, in about the order of their handles; each link was observed once."""
    types = (*links.names, *sorted({each.type for each in nodes}))
    code_of = {type_: code for code, type_ in enumerate(types, 1)}
    rows = np.zeros(len(nodes) + len(links.types), ATOM_FORM)
    rows["type"][: len(nodes)] = [code_of[each.type] for each in nodes]
    rows["type"][len(nodes) :] = links.types + 1
    rows["sources"], rows["weight"], rows["seen_us"] = int(Sources.FACTS), np.nan, at_us
    rows["handle"][: len(nodes)] = _pairs([each.handle for each in nodes])
    observed = rows[len(nodes) :]
    observed["handle"], observed["first"], observed["second"] = links.handles, links.firsts, links.seconds
    observed["arity"] = 2
    for field in ("positive", "count", "pos"):
        observed[field] = 1
    rows = rows[np.argsort(rows["handle"][:, 0].astype(np.uint64), kind="stable")]
    named = [(each.handle, each.name) for each in nodes]
    return GraphColumns(types, rows, named, (), np.zeros(0, ATTENTION_FORM), (), "")


def _derived_columns(links: DerivedColumns, at_us: int) -> GraphColumns:
    """The links as columns, in about the order of their handles."""
    links = links.only(np.argsort(links.handles[:, 0], kind="stable"))
    rows = np.zeros(len(links), ATOM_FORM)
    rows["type"], rows["arity"], rows["sources"], rows["seen_us"] = 1, 2, int(Sources.DERIVED), at_us
    rows["handle"], rows["first"], rows["second"] = links.handles, links.firsts, links.seconds
    rows["pos"], rows["neg"], rows["weight"] = links.pos, links.neg, links.weight
    rows["positive"], rows["count"] = links.pos, links.pos + links.neg
    return GraphColumns((links.type,), rows, (), (), np.zeros(0, ATTENTION_FORM), (), "")


def _without_ends(links: DerivedColumns, gone: Collection[bytes]) -> DerivedColumns:
    """The links without those that have one of these handles as an end."""
    stays = np.ones(len(links), bool)
    for ends in (links.firsts, links.seconds):
        stays &= [handle.bytes not in gone for handle in _handles(ends)]
    return links.only(stays)


def _handles(pairs: NDArray[np.uint64]) -> list[UUID]:
    """Handles from their high and low 64 bits."""
    raw = pairs.astype(">u8").tobytes()
    return [handle_of(raw[begin : begin + 16]) for begin in range(0, len(raw), 16)]


def _pairs(handles: Sequence[UUID]) -> NDArray[np.uint64]:
    """The high and low 64 bits of handles."""
    return np.frombuffer(b"".join([each.bytes for each in handles]), ">u8").reshape(-1, 2)
