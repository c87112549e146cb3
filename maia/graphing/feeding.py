"""Feeding the graph with facts: what the outbox names, page by page, or everything.

Facts are a function of the stored videos, topics and patterns. What a page names is read anew and compared
with the graph, so that a page may be taken twice, and in any order. A rebuild finds out by comparison whose
facts differ, and takes these over by larger pages, so that it ends with the same graph, whatever was there
before. So does a feeder that finds the outbox flooded. A graph without facts is filled without comparing.

Videos that the graph doesn't know are added with their links by COPY, where there are many. All others are
compared with the graph link by link.

Only one feeder works at a time. A page is one transaction that also deletes its entries from the outbox, so
that a feeder may end anywhere; a rebuild that was cut off leaves less to do to the next. What people and
other sites say stays as it is, but for videos and channels that were erased.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Final, TypeAlias, TypeVar
from uuid import UUID

import numpy as np

from atlas.adapters.graph import handle_of, node_handle
from atlas.adapters.graph_auditing import GraphAuditDAO
from atlas.adapters.graph_feeding import Entry, GraphFeedDAO, Kind, LinkColumns, LinkRow, NodeRow
from atlas.composition import Atlas
from atlas.conflicts import retry_conflicts
from atlas.errors import DataRefused
from maia.graphing.auditing import Differing, audit
from maia.graphing.facts import PATTERN_LINKS, TOPIC_LINKS, VIDEO_LINKS, Atoms, named_by
from maia.graphing.hashing import HashedVideos, Hashes, nodes_of, raw_of
from maia.graphing.showing import show, show_carried
from maia.graphing.spelled import Spelled

LOCK: Final = "graph feeder"
PAGE: Final = 500
"""Entries that one transaction takes, if no more wait. It keeps the graph locked for about half a second."""
COPIED: Final = 1_000
"""Fewer links than these are not worth a COPY for each type of atoms."""
MANY: Final = 10_000
_SHARE: Final = 0.25
"""If at least so many changed, and such a share of all facts, everything is compared instead."""
_LARGER: Final = 8
"""Pages are so much larger in a rebuild, and if enough entries wait. Links have their places all over the
indexes, so that fewer pages read and write less of these. Each keeps the graph locked some two seconds."""
_T = TypeVar("_T")
_Row = TypeVar("_Row", NodeRow, LinkRow)


@dataclass(frozen=True, slots=True)
class Fed:
    """What a feeder did: the things that it looked at, and how many atoms were added and removed.

    `is_alone` is false if another feeder was at work, so that nothing was done.
    """

    read: int = 0
    added: int = 0
    removed: int = 0
    rebuilt: bool = False
    is_alone: bool = True

    @property
    def changed(self) -> int:
        return self.added + self.removed


OnFed: TypeAlias = Callable[[int, int], None]
"""Is told after each page how many things were read, and about how many there are in all."""


def _ignore(read: int, total: int) -> None:
    """Tell nobody."""


async def feed(atlas: Atlas, on_progress: OnFed = _ignore, *, page: int = PAGE) -> Fed:
    """Take over what changed; everything, if the graph isn't whole because it never was or lost changes."""
    async with atlas.db.only_one(LOCK) as is_only:
        if not is_only:
            return Fed(is_alone=False)
        feeder = _Feeder(atlas, on_progress, page)
        if not (await feeder.dao.state()).is_whole or await feeder.is_flooded():
            await feeder.rebuild()
        return await feeder.feed()


async def rebuild(atlas: Atlas, on_progress: OnFed = _ignore, *, page: int = PAGE) -> Fed:
    """Take over all facts from the start, and remove those that are no more."""
    async with atlas.db.only_one(LOCK) as is_only:
        if not is_only:
            return Fed(is_alone=False)
        feeder = _Feeder(atlas, on_progress, page)
        await feeder.rebuild()
        return await feeder.feed()


@dataclass(slots=True)
class _Subjects:
    """The things whose facts a page takes over."""

    videos: list[str] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> _Subjects:
        made = cls()
        lists = {"video": made.videos, "topic": made.topics, "pattern": made.patterns}
        for entry in entries:
            lists[entry.kind].append(entry.key)
        return made


class _Feeder:
    """Takes over facts, with counts of what it did so far."""

    def __init__(self, atlas: Atlas, on_progress: OnFed, page: int) -> None:
        self.on_progress, self.page_size = on_progress, page
        self.dao = GraphFeedDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self.auditing = GraphAuditDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self.read = self.added = self.removed = self.total = 0
        self.again = 0
        """How many things were read a second time, because they differed."""
        self.has_rebuilt = False
        self.hashes = Hashes()
        self._topics: set[str] | None = None
        self._named: dict[str, set[tuple[str, str]]] | None = None
        """What each pattern names, whether it is there or not."""

    # The outbox

    async def is_flooded(self) -> bool:
        """Whether so much changed that comparing everything takes less time."""
        waiting = await self.dao.waiting()
        return waiting >= MANY and waiting >= _SHARE * await self.dao.count_facts()

    async def feed(self) -> Fed:
        self.total = self.read + await self.dao.waiting()
        start, is_last = Entry(), False
        while not is_last:
            many = self.page_size * _LARGER
            size = many if self.total - self.read >= many else self.page_size
            async for attempt in retry_conflicts():
                with attempt:
                    start, is_last, counts = await self._feed_page(start, size)
            self._count(counts)
        read = self.read - self.again
        return Fed(read, self.added, self.removed, self.has_rebuilt)

    async def _feed_page(self, start: Entry, size: int) -> tuple[Entry, bool, Fed]:
        """The last entry of the page, whether there are no more, and what was done."""
        async with self.dao.page() as dao:
            entries = await dao.take(start, size)
            counts = await _Page(self, dao).store(_Subjects.of(entries)) if entries else Fed()
            await dao.note_fed(counts.changed)
        return (entries[-1] if entries else start), not entries, counts

    # Everything

    async def rebuild(self) -> None:
        """Take over the facts of all that differ from the graph.

        What the outbox names is compared, too: it is forgotten, but the graph isn't whole until the end.
        """
        self.has_rebuilt, self.total = True, await self.dao.count_facts()
        async with self.dao.transaction() as dao:
            await dao.begin_rebuild()
            await dao.forget_waiting()
        await self._erase_lost()
        found = await (self._compare() if await self.dao.has_facts() else self._fill())
        for nodes in _batches(found.unsupported, self.page_size):
            await self._count_retried(partial(self._drop, nodes))
        await self._show_tags(found.spelled)
        await self.dao.note_rebuilt()

    async def _erase_lost(self) -> None:
        lost = most = self.page_size
        while lost == most:
            async for attempt in retry_conflicts():
                with attempt:
                    async with self.dao.page() as dao:
                        lost, gone = await dao.erase_lost(most)
                        await dao.note_fed(gone)
            self._count(Fed(removed=gone))

    async def _compare(self) -> Differing:
        """Take over the facts of all that differ; returns these."""
        found = await audit(self.dao, self.auditing, self._on_compared)
        self.total += len(found.videos) + len(found.topics) + len(found.patterns)
        named: dict[Kind, list[str]]
        named = {"video": found.videos, "topic": found.topics, "pattern": found.patterns}
        for kind, names in named.items():
            for some in _batches(names, self.page_size * _LARGER):
                counts, _ = await self._take_over(kind, some)
                self.again += counts.read
        return found

    async def _fill(self) -> Differing:
        """Take over all facts into a graph without any; returns how videos spell their tags."""
        found, size, ids = Differing(), self.page_size * _LARGER, [""]
        while ids := await self.auditing.videos(ids[-1], size):
            _, videos = await self._take_over("video", ids)
            await asyncio.to_thread(_note_spellings, found.spelled, videos)
        for some in _batches(await self.auditing.topics(), size):
            await self._take_over("topic", some)
        for some in _batches([each.id for each in await self.dao.patterns()], size):
            await self._take_over("pattern", some)
        return found

    def _on_compared(self, read: int) -> None:
        self.read = read
        self.on_progress(read, max(self.total, read))

    async def _count_retried(self, work: Callable[[], Awaitable[Fed]]) -> None:
        async for attempt in retry_conflicts():
            with attempt:
                counts = await work()
        self._count(counts)

    async def _take_over(self, kind: Kind, names: Sequence[str]) -> tuple[Fed, HashedVideos]:
        """Take over the facts of some; returns what was done, and the videos among them."""
        async for attempt in retry_conflicts():
            with attempt:
                async with self.dao.page() as dao:
                    page = _Page(self, dao, shows_tags=False)
                    counts = await page.store(_Subjects.of(Entry(kind, name) for name in names))
                    await dao.note_fed(counts.changed)
        self._count(counts)
        return counts, page.videos

    async def _drop(self, nodes: Sequence[UUID]) -> Fed:
        """Drop those of the nodes that nothing leads to."""
        async with self.dao.page() as dao:
            gone = await dao.drop_unsupported(nodes)
            await dao.note_fed(gone)
        return Fed(removed=gone)

    async def _show_tags(self, spelled: Spelled) -> None:
        """Show tags as videos spell them; those that people put on videos, too, have other carriers."""
        peoples, tags = await self.dao.tagged_by_people(), spelled.shown()
        while some := await asyncio.to_thread(_next_tags, tags, self.page_size * _LARGER):
            shown = await self.dao.shown(list(some))
            differing = {tag for tag, spelling in some.items() if shown.get(tag) != spelling} - peoples
            if not differing:
                continue
            async for attempt in retry_conflicts():
                with attempt:
                    async with self.dao.page() as dao:
                        await dao.show({tag: some[tag] for tag in await dao.there(list(differing))})
        for theirs in _batches(sorted(peoples), self.page_size):
            async for attempt in retry_conflicts():
                with attempt:
                    async with self.dao.page() as dao:
                        await show(dao, theirs, {})

    async def known_topics(self, dao: GraphFeedDAO, fresh: Collection[str]) -> set[str]:
        """The keys of topics with these. Those that came since link themselves with tags that are there."""
        if self._topics is None:
            self._topics = set(await self.auditing.joining(dao).topics())
        self._topics.update(fresh)
        return self._topics

    # What patterns name

    async def named(self, dao: GraphFeedDAO) -> dict[str, set[tuple[str, str]]]:
        """What each known pattern names."""
        if self._named is None:
            self._named = {each.id: named_by(each) for each in await dao.patterns()}
        return self._named

    def _count(self, counts: Fed) -> None:
        self.read += counts.read
        self.added += counts.added
        self.removed += counts.removed
        self.on_progress(self.read, max(self.total, self.read))


def _note_spellings(spelled: Spelled, videos: HashedVideos) -> None:
    spelled.add(*videos.spelled())


def _next_tags(tags: Iterator[tuple[str, str | None]], size: int) -> dict[UUID, str | None]:
    """How the next of the tags are to be shown."""
    return {node_handle("tag", tag): spelling for tag, spelling in islice(tags, size)}


def _batches(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


class _Page:
    """Takes over the facts of one page, in a transaction of its own."""

    def __init__(self, feeder: _Feeder, dao: GraphFeedDAO, *, shows_tags: bool = True) -> None:
        self.feeder, self.dao, self.shows_tags = feeder, dao, shows_tags
        self.videos = HashedVideos.of((), feeder.hashes)
        self.added = self.removed = 0

    async def store(self, subjects: _Subjects) -> Fed:
        facts = await self.dao.videos(subjects.videos)
        # Hashing the names of ten thousand links takes longer than an event loop may stand still.
        self.videos = await asyncio.to_thread(HashedVideos.of, facts, self.feeder.hashes)
        loaded, known = await self._load_new(self.videos)
        atoms = await asyncio.to_thread(_atoms_of, known)
        topics = await self._add_topics(atoms, subjects.topics)
        patterns = await self._add_patterns(atoms, subjects.patterns)
        appeared = await self._add(atoms)
        await self._remove_gone(subjects, {each.id for each in facts}, topics, patterns)
        # What is new has no former links.
        former = [video for video in known.heads() if video not in appeared]
        links = [link for link in atoms.links.values() if link.first not in appeared]
        dropped, ends = await self.dao.drop_others(former, VIDEO_LINKS, links)
        self.removed += dropped
        await self._connect([*loaded, *(atoms.nodes[handle] for handle in appeared)], topics, patterns)
        if self.shows_tags:
            await show_carried(self.dao, self.videos, ends)
        read = len(subjects.videos) + len(subjects.topics) + len(subjects.patterns)
        return Fed(read, self.added, self.removed)

    async def _load_new(self, videos: HashedVideos) -> tuple[list[NodeRow], HashedVideos]:
        """Add videos that the graph doesn't know by COPY, with their links and what these lead to.

        Returns the nodes that appeared, and the videos that are left to be compared with the graph.
        """
        if len(videos.hashed.links) < COPIED:
            return [], videos
        standing = await self.dao.standing([handle_of(raw) for raw in videos.nodes])
        is_new = np.array([head not in standing for head in raw_of(videos.hashed.heads)], bool)
        if is_new[videos.hashed.firsts].sum() < COPIED:
            return [], videos
        lacking, new, links = await asyncio.to_thread(_to_load, videos.only(is_new), standing)
        try:
            async with self.dao.transaction() as dao:
                appeared = await dao.add_nodes(lacking)
                await dao.load(new, links)
        except DataRefused:
            # Other sites may know links of videos that this one doesn't.
            return [], videos
        self.added += len(appeared) + len(new) + len(links.types)
        return [*new, *(each for each in lacking if each.handle in appeared)], videos.only(~is_new)

    async def _add(self, atoms: Atoms) -> set[UUID]:
        """Store what isn't there; returns the handles of nodes that appeared."""
        nodes, links = [*atoms.nodes.values()], [*atoms.links.values()]
        fresh = set[UUID]()
        if len(links) >= COPIED:
            standing = await self.dao.standing([*atoms.nodes, *atoms.links])
            nodes, new_nodes = await asyncio.to_thread(_to_store, nodes, standing)
            links, new_links = await asyncio.to_thread(_to_store, links, standing)
            await self.dao.load(new_nodes, await asyncio.to_thread(LinkColumns.of, new_links))
            fresh = {each.handle for each in new_nodes}
            self.added += len(new_nodes) + len(new_links)
        appeared = await self.dao.add_nodes(nodes)
        self.added += len(appeared) + await self.dao.add_links(links)
        return appeared | fresh

    async def _add_topics(self, atoms: Atoms, keys: Sequence[str]) -> set[str]:
        topics = await self.dao.topics(keys) if keys else set()
        for key in topics:
            atoms.node("topic", key)
        return topics

    async def _add_patterns(self, atoms: Atoms, ids: Sequence[str]) -> set[str]:
        patterns = await self.dao.patterns(ids) if ids else []
        named = await self.feeder.named(self.dao)
        for pattern in patterns:
            named[pattern.id] = named_by(pattern)
            atoms.node("pattern", pattern.id)
            for type_, name in named[pattern.id]:
                # Agents are there because patterns tell of them; all else must be there already.
                if type_ == "agent":
                    atoms.node(type_, name)
        return {each.id for each in patterns}

    async def _remove_gone(
        self, subjects: _Subjects, videos: set[str], topics: set[str], patterns: set[str]
    ) -> None:
        gone = [node_handle("video", id_) for id_ in subjects.videos if id_ not in videos]
        gone += [node_handle("topic", key) for key in subjects.topics if key not in topics]
        gone += [node_handle("pattern", id_) for id_ in subjects.patterns if id_ not in patterns]
        if gone:
            self.removed += await self.dao.withdraw(gone)

    async def _connect(self, appeared: Sequence[NodeRow], topics: set[str], patterns: set[str]) -> None:
        """Link topics with tags of their name, and patterns with what they name, where that is there."""
        known = await self.feeder.known_topics(self.dao, topics)
        keys = topics | {each.name for each in appeared if each.type == "topic"}
        keys |= known & {each.name for each in appeared if each.type == "tag"}
        named, new = await self.feeder.named(self.dao), {(each.type, each.name) for each in appeared}
        ids = patterns | {id_ for id_, things in named.items() if not things.isdisjoint(new)}
        atoms = await asyncio.to_thread(_connections, keys, {id_: named[id_] for id_ in ids})
        ends = {end for link in atoms.links.values() for end in (link.first, link.second)}
        there = await self.dao.there(sorted(ends)) if ends else set()
        links = [link for link in atoms.links.values() if {link.first, link.second} <= there]
        if links:
            self.added += await self.dao.add_links(links)
        for types, subjects in (
            (TOPIC_LINKS, [node_handle("topic", key) for key in topics]),
            (PATTERN_LINKS, [node_handle("pattern", id_) for id_ in patterns]),
        ):
            if subjects:
                dropped, _ = await self.dao.drop_others(subjects, types, links)
                self.removed += dropped


def _to_store(atoms: Sequence[_Row], standing: Mapping[bytes, bool]) -> tuple[list[_Row], list[_Row]]:
    """The atoms that are known, but don't stand, and those that are new."""
    lacking = [each for each in atoms if not standing.get(each.handle.bytes, True)]
    return lacking, [each for each in atoms if each.handle.bytes not in standing]


def _connections(keys: Iterable[str], named: Mapping[str, Iterable[tuple[str, str]]]) -> Atoms:
    """Links of topics with tags of their name, and of patterns with what they name."""
    atoms = Atoms()
    for key in keys:
        atoms.link("inherits", node_handle("topic", key), node_handle("tag", key))
    for id_, things in named.items():
        for thing in things:
            atoms.link("evidence_for", node_handle("pattern", id_), node_handle(*thing))
    return atoms


def _atoms_of(videos: HashedVideos) -> Atoms:
    """The atoms of videos."""
    nodes = {each.handle: each for each in nodes_of(videos.nodes.items())}
    return Atoms(nodes, {each.handle: each for each in videos.links()})


def _to_load(
    videos: HashedVideos, standing: Mapping[bytes, bool]
) -> tuple[list[NodeRow], list[NodeRow], LinkColumns]:
    """What unknown videos need: nodes that are known but don't stand, nodes that are new, and all links."""
    lacking = nodes_of(each for each in videos.nodes.items() if not standing.get(each[0], True))
    new = nodes_of(each for each in videos.nodes.items() if each[0] not in standing)
    return lacking, new, videos.link_columns()
