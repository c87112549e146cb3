"""How two sites exchange what changed, and find by digests what was lost; both sides of it.

The site that calls sends what changed here since its peer last read, and gets what changed there. Each says
up to where it has read the other's feed, so that whatever is lost is sent again; merging twice changes
nothing. A comparison finds what no feed can tell of, as after a restoration: buckets of keys whose digests
differ are exchanged whole.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

from atlas.adapters.federation import Digest
from atlas.errors import DataRefused, UnknownCursor
from atlas.foreign import one_line
from maia.errors import MaiaError
from maia.federation.messages import MOST_PREFIXES, MOST_WANTED, Section
from maia.federation.records import day_number, day_of
from maia.federation.refusals import Refused
from maia.federation.site import Site, Taken, sent
from maia.maintenance.wording import shortened

if TYPE_CHECKING:
    from maia.federation.records import Page, Records

logger = logging.getLogger(__name__)

PAGE: Final = 2_000
"""So many records a message; fewer if they are long."""
WHOLE: Final = 500
"""A bucket with more records is divided into 256 before it is exchanged."""
COMPARED_EVERY: Final = 10
"""Everything is compared at every so many exchanges."""

_MOST_MESSAGES: Final = 100_000
_LONGEST_TOLD: Final = 500
_END: Final = "g"
"""Behind all keys, which are hexadecimal."""


class PeerFailed(MaiaError):
    """A peer can't be reached, or did not do what was asked."""


class CallsItself(PeerFailed):
    """The peer is this site itself."""


class Transport(Protocol):
    """Carries messages to one peer, and its answers back; PeerFailed if that is not possible."""

    place: str
    """Where the peer is, for people to read: never with a secret."""

    async def exchange(self, message: bytes) -> bytes:
        """The peer's answer to a message with what changed."""

    async def compare(self, message: bytes) -> bytes:
        """The peer's answer to a message with digests or buckets."""


@dataclass(slots=True)
class Exchanged:
    """What an exchange with a peer did."""

    place: str
    node: str | None = None
    messages: int = 0
    sent: int = 0
    received: int = 0
    changed: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    compared: bool = False
    differing: int = 0
    """Buckets that were not equal."""
    refused: dict[str, str] = field(default_factory=dict)
    """The kinds of records that one of both did not take, and why."""
    failed: str | None = None
    """Why it ended early, if it did."""


class Answering:
    """Answers the messages of peers that call."""

    def __init__(self, site: Site) -> None:
        self._site, self._dao = site, site.dao

    async def exchange(self, message: bytes) -> bytes:
        """Merge what a peer sends, and answer with what it hasn't read; Refused if anything is wrong."""
        taken = await self._site.take(message)
        sections, tables = [], {}
        positions = await self._dao.positions(taken.node)
        asked = () if taken.message.envelope.leaving else taken.message.envelope.sections
        for section in asked:
            kind = self._site.kinds.get(section.kind)
            if kind is None:
                continue
            told_up_to = positions.get(sent(kind.kind), "") if section.have is None else section.have
            after, page = await page_after(self._site, kind, told_up_to, taken.node)
            told = kind.packed(_unknown(kind, page.records, taken))
            # If this answer is lost, the peer says at the next message how far it really has read.
            await self._dao.move(taken.node, sent(kind.kind), page.cursor)
            wanted = await wanted_by(self._site, kind, section, taken.node)
            tables[kind.kind] = {name: [*wanted.get(name, ()), *rows] for name, rows in told.items()}
            sections.append(
                Section(
                    kind=kind.kind,
                    version=kind.version,
                    after=after,
                    cursor=page.cursor,
                    more=page.more,
                    have=positions.get(kind.kind, ""),
                    wanted=[*taken.missing.get(kind.kind, ())][:MOST_WANTED],
                )
            )
        return await self._answer(taken, sections, tables)

    async def compare(self, message: bytes) -> bytes:
        """Answer a question for digests or for the records of buckets, and merge what comes along."""
        taken = await self._site.take(message)
        sections, tables = [], {}
        for section in taken.message.envelope.sections:
            kind = self._site.kinds.get(section.kind)
            if kind is None:
                continue
            since = max(self._site.since(kind.kind), day_of(section.since or 0))
            answer: dict[str, Any] = {"since": day_number(since)}
            if section.prefixes and section.start is None:
                digests = await kind.digests(self._dao, section.prefixes, since)
                answer["digests"] = {bucket: (each.rows, each.total) for bucket, each in digests.items()}
            elif section.prefixes:
                page = await kind.bucket(
                    self._dao, section.prefixes, section.start or "", None, taken.node, since
                )
                tables[kind.kind] = kind.packed(_unknown(kind, page.records, taken))
                answer["end"] = page.end
            sections.append(Section(kind=kind.kind, version=kind.version, **answer))
        return await self._answer(taken, sections, tables)

    async def _answer(self, taken: Taken, sections: Sequence[Section], tables: Mapping[str, Any]) -> bytes:
        answer = await self._site.write(sections, tables, refused=taken.refused)
        records = sum(len(rows) for each in tables.values() for rows in each.values())
        await self._dao.sent(taken.node, records, len(answer))
        return answer


class Exchange:
    """One exchange with a peer, which is called."""

    def __init__(self, site: Site, transport: Transport, node: str | None = None) -> None:
        """`node` is the peer, if it is known already."""
        self._site, self._dao, self._transport = site, site.dao, transport
        self._node = node
        self._wanted_by_us: dict[str, Sequence[str]] = {}
        self._wanted_by_them: dict[str, Section] = {}
        self._asked: set[str] = set()
        self._is_new = False
        self.done = Exchanged(transport.place)

    async def run(self, *, compare: bool | None = None) -> Exchanged:
        """Exchange until neither side has anything left; then compare, if it is time to or told to.

        If that fails, why is noted for people to see until it succeeds.
        """
        self._node = self._node or await self._known_node()
        try:
            await self._run(compare=compare)
        except CallsItself:
            await self._dao.clear_failure(self._transport.place)
            raise
        except MaiaError as error:
            told = shortened(one_line(str(error)), _LONGEST_TOLD)
            await self._dao.note_failure(self._transport.place, self._node or "", told)
            raise
        await self._dao.clear_failure(self._transport.place)
        return self.done

    async def _run(self, *, compare: bool | None) -> None:
        for _ in range(_MOST_MESSAGES):
            if not await self._step():
                break
        if compare if compare is not None else await self._is_time_to_compare():
            await Comparison(self._site, self._transport, self.done).run()

    async def _known_node(self) -> str | None:
        """Who was there when this place was last called."""
        at_place = [each for each in await self._dao.peers() if each.place == self._transport.place]
        return at_place[0].node if at_place else None

    async def _is_time_to_compare(self) -> bool:
        peer = await self._dao.peer(self._node or "")
        if self._is_new or peer is None or peer.compared_at is None:
            return True
        pause = timedelta(seconds=COMPARED_EVERY * self._site.settings.sync_interval_s)
        # Unless the clock was set back, it was in the past.
        return abs(self._site.atlas.clock.now() - peer.compared_at) >= pause

    async def _step(self) -> bool:
        """Send a message and take its answer; whether there is more to exchange."""
        sections, tables = [], {}
        for kind in self._site.kinds.values():
            section, tables[kind.kind] = await self._section(kind)
            sections.append(section)
        taken = await call(self._site, self._transport.exchange, sections, tables, self.done)
        if taken.node != self._node:
            # It is another than before, or has a new name: all positions are others.
            self._node, self._wanted_by_us, self._wanted_by_them = taken.node, {}, {}
            return True
        return self._note(taken, sections)

    async def _section(self, kind: Records[Any]) -> tuple[Section, Mapping[str, Any]]:
        """What is sent of a kind, and the records."""
        wanted = [*self._wanted_by_us.get(kind.kind, ())][:MOST_WANTED]
        if self._node is None:
            # Who is there? The answer says how far it has read.
            return Section(kind=kind.kind, version=kind.version), {}
        positions = await self._dao.positions(self._node)
        after, page = await page_after(self._site, kind, positions.get(sent(kind.kind), ""), self._node)
        self._is_new |= not after or kind.kind not in positions
        told = kind.packed(page.records)
        if (asked := self._wanted_by_them.get(kind.kind)) is not None:
            more = await wanted_by(self._site, kind, asked, self._node)
            told = {name: [*more.get(name, ()), *rows] for name, rows in told.items()}
        section = Section(
            kind=kind.kind,
            version=kind.version,
            after=after,
            cursor=page.cursor,
            more=page.more,
            have=positions.get(kind.kind, ""),
            wanted=wanted,
        )
        return section, told

    def _note(self, taken: Taken, told: Sequence[Section]) -> bool:
        """Note what both sides still want; whether there is more."""
        ours = {section.kind: section for section in told}
        more = False
        self._wanted_by_them = {}
        for section in taken.message.envelope.sections:
            if section.kind not in ours:
                continue
            missing = [key for key in taken.missing.get(section.kind, ()) if key not in self._asked]
            self._asked.update(missing)
            self._wanted_by_us[section.kind] = missing
            wanted = [key for key in section.wanted if f"their {key}" not in self._asked]
            self._asked.update(f"their {key}" for key in wanted)
            if wanted:
                self._wanted_by_them[section.kind] = section.model_copy(update={"wanted": wanted})
            sent_all = not ours[section.kind].more and section.have == ours[section.kind].cursor
            is_refused = section.kind in taken.message.envelope.refused
            more |= bool(section.more or missing or wanted or not (sent_all or is_refused))
        return more


class Comparison:
    """Finds with a peer in which buckets both differ, and exchanges those whole."""

    def __init__(self, site: Site, transport: Transport, done: Exchanged) -> None:
        self._site, self._transport, self._done = site, transport, done
        self._dao = site.dao

    async def run(self) -> None:
        """Compare all kinds, and repair what differs."""
        for kind in self._site.kinds.values():
            await self._compare(kind)
        if self._done.node is not None:
            await self._dao.compared(self._done.node)
        self._done.compared = True

    async def _compare(self, kind: Records[Any]) -> None:
        since = self._site.since(kind.kind)
        differing, since = await self._differing(kind, [""], since)
        if not differing:
            return
        large = sorted(bucket for bucket, pair in differing.items() if _rows(pair) > WHOLE)
        found = {bucket: pair for bucket, pair in differing.items() if _rows(pair) <= WHOLE}
        for at in range(0, len(large), MOST_PREFIXES):
            inner, _ = await self._differing(kind, large[at : at + MOST_PREFIXES], since)
            found |= inner
        before = self._site.tried.get((self._done.node or "", kind.kind), {})
        self._site.tried[self._done.node or "", kind.kind] = found
        self._done.differing += len(found)
        for batch in _batches({bucket: pair for bucket, pair in found.items() if before.get(bucket) != pair}):
            await self._repair(kind, batch, since)

    async def _differing(
        self, kind: Records[Any], prefixes: Sequence[str], since: date
    ) -> tuple[dict[str, tuple[Digest, Digest]], date]:
        """The buckets below these prefixes that differ, with both digests; and since when both compare."""
        section = Section(kind=kind.kind, version=kind.version, prefixes=[*prefixes], since=day_number(since))
        answer = _only(await self._ask(section, {}), kind.kind)
        since = max(since, day_of(answer.since or 0))
        theirs = {bucket: Digest(*each) for bucket, each in (answer.digests or {}).items()}
        ours = await kind.digests(self._dao, prefixes, since)
        none = Digest(0, 0)
        pairs = {
            bucket: (ours.get(bucket, none), theirs.get(bucket, none))
            for bucket in ours.keys() | theirs.keys()
            if bucket.startswith(tuple(prefixes))
        }
        return {bucket: pair for bucket, pair in pairs.items() if pair[0] != pair[1]}, since

    async def _repair(self, kind: Records[Any], prefixes: Sequence[str], since: date) -> None:
        """Exchange buckets whole: page by page the peer's records, and then ours that it lacks."""
        start: str | None = ""
        while start is not None:
            section = Section(
                kind=kind.kind,
                version=kind.version,
                prefixes=[*prefixes],
                start=start,
                since=day_number(since),
            )
            taken = await self._ask(section, {})
            answer = _only(taken, kind.kind)
            page = await kind.bucket(self._dao, prefixes, start, answer.end or _END, taken.node, since)
            theirs = taken.records.get(kind.kind)
            if theirs is None:
                return
            lacking = kind.without(page.records, theirs)
            for chunk in kind.chunks(lacking):
                await self._ask(Section(kind=kind.kind, version=kind.version), kind.packed(chunk))
            if answer.end is not None and answer.end <= start:
                raise PeerFailed(f"{self._transport.place} answers with the same buckets again and again")
            start = answer.end

    async def _ask(self, section: Section, tables: Mapping[str, Any]) -> Taken:
        told = {section.kind: tables}
        return await call(self._site, self._transport.compare, [section], told, self._done)


async def call(
    site: Site, send: Any, sections: Sequence[Section], tables: Mapping[str, Any], done: Exchanged
) -> Taken:
    """Send a message to a peer and take its answer, and count both."""
    message = await site.write(sections, tables)
    answer = await send(message)
    try:
        taken = await site.take(answer, done.place)
    except Refused as refused:
        raise PeerFailed(f"the answer of {done.place} was {refused}") from refused
    except DataRefused as refused:
        raise PeerFailed(f"the answer of {done.place} can't be stored: {refused}") from refused
    records = sum(len(rows) for each in tables.values() for rows in each.values())
    await site.dao.sent(taken.node, records, len(message))
    done.node = taken.node
    done.messages += 1
    done.sent += records
    done.received += taken.message.records
    done.changed += taken.changed
    done.bytes_sent += len(message)
    done.bytes_received += len(answer)
    done.refused |= {**taken.refused, **taken.message.envelope.refused}
    return taken


async def page_after(site: Site, kind: Records[Any], after: str, peer: str) -> tuple[str, Page[Any]]:
    """What changed here after a place; from the beginning (an empty place) if there is no such place."""
    if after:
        try:
            return after, await kind.read(site.dao, after, PAGE, peer)
        except (UnknownCursor, DataRefused):
            await site.note_other_state(peer, after)
    return "", await kind.read(site.dao, await kind.beginning(site.dao), PAGE, peer)


async def wanted_by(site: Site, kind: Records[Any], section: Section, peer: str) -> Mapping[str, Any]:
    """The records that a peer asked for by their keys, as they travel."""
    if not section.wanted:
        return {}
    return kind.packed(await kind.whole(site.dao, section.wanted, peer))


def _unknown(kind: Records[Any], records: Any, taken: Taken) -> Any:
    """The records without those that the peer has just sent itself."""
    theirs = taken.records.get(kind.kind)
    return records if theirs is None else kind.without(records, theirs)


def _only(taken: Taken, kind: str) -> Section:
    for section in taken.message.envelope.sections:
        if section.kind == kind:
            return section
    raise PeerFailed(f"{taken.node} does not answer about {kind}")


def _rows(pair: tuple[Digest, Digest]) -> int:
    return max(each.rows for each in pair)


def _batches(found: Mapping[str, tuple[Digest, Digest]]) -> list[list[str]]:
    """Buckets that are exchanged together: of one length, and no more records than a message has."""
    batches: list[list[str]] = []
    rows = 0
    for bucket, pair in sorted(found.items(), key=lambda each: (len(each[0]), each[0])):
        size = _rows(pair)
        is_full = bool(batches) and (
            len(batches[-1]) >= MOST_PREFIXES or rows + size > PAGE or len(batches[-1][0]) != len(bucket)
        )
        if not batches or is_full:
            batches.append([])
            rows = 0
        batches[-1].append(bucket)
        rows += size
    return batches
