"""What this site is to others: its name, its cluster, the sites it knows, and what it takes and sends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from atlas.adapters.changes import ChangesDAO
from atlas.adapters.federation import FederationDAO, Heard
from atlas.conflicts import retry_conflicts
from atlas.recovery import Backoff
from atlas.wording import counted
from maia.federation.atoms import AtomRecords
from maia.federation.messages import (
    LARGEST_CLOCK_DIFFERENCE,
    MOST_SITES,
    Envelope,
    Message,
    Section,
    Tables,
    counts_of,
    decode,
    encode,
    instant,
    is_node,
    microseconds,
)
from maia.federation.records import PatternRecords, Records
from maia.federation.refusals import Reason, Refused

if TYPE_CHECKING:
    from atlas.adapters.federation import Digest
    from atlas.composition import Atlas

logger = logging.getLogger(__name__)

Accepted = TypeVar("Accepted")

SEEN_WITHIN: Final = timedelta(days=30)
"""A site that nobody has seen for so long is not counted any more."""
THROUGH_REDIS: Final = "redis/"
"""So begin the places of sites that are called through Redis."""
REFUSALS_IN_A_ROW: Final = 3
"""So many isolate a peer."""
ISOLATIONS: Final = Backoff(first_s=60, longest_s=86_400)
_LONGEST_ISOLATION: Final = timedelta(seconds=ISOLATIONS.longest_s)
"""Whoever is isolated for longer was before this machine's clock was set back."""
_QUOTA_OF_ALL: Final = 4
"""New things that all peers together may bring a day, as a multiple of one peer's quota."""
_ON_THE_LOOP_BYTES: Final = 1 << 16
"""Longer messages are decoded and checked in a thread."""


@dataclass(frozen=True, slots=True)
class Quota:
    """How many new things of a kind a peer may bring a day, and the settings that say so."""

    most: int
    noun: str
    settings: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that was accepted and merged."""

    message: Message
    changed: int = 0
    missing: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By kind, the keys of what records were about but is unknown here: ask for it."""
    records: Mapping[str, Any] = field(default_factory=dict)
    """By kind, the records, checked."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """The kinds that were not taken, and why."""

    @property
    def node(self) -> str:
        return self.message.envelope.node


class Site:
    """This site, as others see it: takes their messages and writes its own.

    Messages of all transports end here, so that all are checked in the same way: `take` merges all of a
    message, in one transaction, or raises Refused and has changed nothing.
    """

    def __init__(self, atlas: Atlas) -> None:
        self.atlas, self.settings = atlas, atlas.settings.federation
        self.dao = FederationDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        learner = atlas.settings.learner
        kept_days = min(learner.max_retention_days, atlas.settings.maintainer.retention.evidence_days)
        patterns: Records[Any] = PatternRecords(kept_days)
        atoms: Records[Any] = AtomRecords(kept_days)
        exchanged = [patterns] if self.settings.graph == "off" else [patterns, atoms]
        self.kinds: Mapping[str, Records[Any]] = {kind.kind: kind for kind in exchanged}
        self.quotas = {
            patterns.kind: Quota(
                min(self.settings.most_new_patterns, 5 * learner.max_patterns), "new pattern",
                "PLEIADES_FEDERATION__MOST_NEW_PATTERNS or PLEIADES_LEARNER__MAX_PATTERNS",
            ),
            atoms.kind: Quota(
                self.settings.most_new_atoms, "new atom", "PLEIADES_FEDERATION__MOST_NEW_ATOMS"
            ),
        }  # fmt: skip
        self.tried: dict[tuple[str, str], dict[str, tuple[Digest, Digest]]] = {}
        """By peer and kind, the digests of buckets that were repaired: equal ones need no repair again."""

    async def prepare(self) -> str:
        """Get ready to exchange, in a database that may be a restored copy; returns this site's name."""
        node = await self.dao.own_node()
        await ChangesDAO(self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings).settle()
        await self.dao.prefer(self.settings.conflicts)
        await self.dao.claims().tell(self.settings.graph)
        return node

    # What this site says

    async def write(
        self,
        sections: Sequence[Section] = (),
        tables: Mapping[str, Tables] | None = None,
        *,
        refused: Mapping[str, str] | None = None,
        leaving: bool = False,
    ) -> bytes:
        """A message of this site. The sections needn't say how many records they have."""
        tables = tables or {}
        counted = [
            section.model_copy(update={"counts": counts_of(tables.get(section.kind, {}))})
            for section in sections
        ]
        envelope = Envelope(
            cluster=self.settings.cluster_name,
            node=await self.dao.own_node(),
            role=self.settings.node_type,
            clock=microseconds(self.atlas.clock.now()),
            leaving=leaving,
            sites=await self._sites(),
            refused=dict(refused or {}),
            sections=counted,
        )
        size = sum(len(rows) for each in tables.values() for rows in each.values())
        return await asyncio.to_thread(encode, envelope, tables) if size else encode(envelope)

    async def _sites(self) -> dict[str, tuple[int, int]]:
        """The sites that were seen lately, or have left."""
        since = self.atlas.clock.now() - SEEN_WITHIN
        peers = sorted(await self.dao.peers(), key=lambda peer: peer.seen_at, reverse=True)
        return {
            peer.node: (microseconds(peer.seen_at), microseconds(peer.left_at) if peer.left_at else 0)
            for peer in peers[:MOST_SITES]
            if peer.seen_at >= since and is_node(peer.node)
        }

    def since(self, kind: str) -> date:
        """The first day of which records of a kind are exchanged."""
        return self.kinds[kind].since(self.atlas.clock.now())

    # What others say

    async def take(self, raw: bytes, place: str | None = None) -> Taken:
        """Check a message and merge all of it, or raise Refused and change nothing.

        `place` is where its sender was called, if it was called from here.
        """
        return await self._counting(raw, lambda message: self._take(message, place))

    async def hear(self, raw: bytes, place: str | None = None) -> Message:
        """Check a message and who sends it, or raise Refused; its records are the caller's to check."""

        async def note(message: Message) -> Message:
            told, size = message.envelope, message.size
            await self.dao.hear(Heard(told.node, told.role, message.records, size=size, place=place))
            return message

        return await self._counting(raw, note)

    async def _counting(self, raw: bytes, accept: Callable[[Message], Awaitable[Accepted]]) -> Accepted:
        """Accept a message of a sender that may send one, and count it if it is refused."""
        node = ""
        try:
            message = await _decoded(raw)
            claimed = message.envelope.node
            node = claimed if await self.dao.peer(claimed) is not None else ""
            await self._check_sender(message.envelope)
            return await accept(message)
        except Refused as refused:
            await self._count(node, refused)
            raise

    async def _take(self, message: Message, place: str | None) -> Taken:
        envelope = message.envelope
        records: dict[str, Any] = {}
        refused: dict[str, str] = {}
        for section in envelope.sections:
            kind = self.kinds.get(section.kind)
            if kind is None or section.version > kind.version:
                refused[section.kind] = self._unreadable(section, kind)
                continue
            tables = message.tables.get(section.kind, {})
            now = self.atlas.clock.now()
            is_long = message.size > _ON_THE_LOOP_BYTES
            records[section.kind] = (
                await asyncio.to_thread(kind.check, tables, now) if is_long else kind.check(tables, now)
            )
        async for trial in retry_conflicts():
            with trial:
                async with self.dao.transaction() as dao:
                    taken = await self._merge(dao, message, records, place)
        # Not in that transaction, which holds the peer's row: two of them would wait for each other's.
        await self.dao.hear_of(await self._told(self.dao, envelope))
        for name, told in refused.items():
            if name == AtomRecords.kind and name not in self.kinds:
                # It is switched off here, which is nobody's fault.
                continue
            logger.warning("records of %s were refused: %s", envelope.node, told)
            await self.dao.refuse(envelope.node, Reason.RECORD_VERSION, f"{name}: {told}")
        return Taken(message, taken.changed, taken.missing, records, refused)

    def _unreadable(self, section: Section, kind: Records[Any] | None) -> str:
        if kind is None and section.kind == AtomRecords.kind:
            return "this site exchanges no graph (PLEIADES_FEDERATION__GRAPH)"
        if kind is None:
            return "this site does not know this kind of records yet: upgrade it"
        return f"they have version {section.version}, and this site reads up to {kind.version}: upgrade it"

    async def _check_sender(self, envelope: Envelope) -> None:
        if envelope.cluster != self.settings.cluster_name:
            raise Refused(
                Reason.CLUSTER, "the message is of another cluster: PLEIADES_FEDERATION__CLUSTER_NAME differs"
            )
        if envelope.node == await self.dao.own_node():
            raise Refused(
                Reason.OUR_NAME,
                "the message has this site's own name: does it come from this site, or a copy of it?",
            )
        now = self.atlas.clock.now()
        if abs(instant(envelope.clock) - now) > LARGEST_CLOCK_DIFFERENCE:
            raise Refused(
                Reason.CLOCK,
                f"its clock says {instant(envelope.clock):%Y-%m-%d %H:%M} UTC, this site's "
                f"{now:%Y-%m-%d %H:%M}: set the wrong one",
            )
        if (peer := await self.dao.peer(envelope.node)) is None:
            if await self.dao.count_peers() >= MOST_SITES:
                raise Refused(Reason.TOO_MANY_SITES, f"this site knows {MOST_SITES} others already")
        elif peer.isolated_until is not None and now < peer.isolated_until <= now + _LONGEST_ISOLATION:
            raise Refused(
                Reason.ISOLATED,
                "too many of its messages were refused: it may try again after "
                f"{peer.isolated_until:%Y-%m-%d %H:%M:%S} UTC",
            )

    async def _merge(
        self, dao: FederationDAO, message: Message, records: Mapping[str, Any], place: str | None
    ) -> Taken:
        envelope = message.envelope
        node, changed, new, missing = envelope.node, 0, dict[str, int](), {}
        await dao.hear(Heard(node, envelope.role, message.records, size=message.size, place=place))
        brought = await dao.take_turn(node)
        for section in envelope.sections:
            if section.kind not in records:
                continue
            kind, theirs = self.kinds[section.kind], records[section.kind]
            if new_keys := await kind.new_keys(dao, theirs):
                new[section.kind] = new_keys
                await self._check_quota(dao, section.kind, brought.get(section.kind, 0), new_keys)
            merged = await kind.merge(dao, theirs, node)
            changed += merged.changed
            missing[section.kind] = merged.missing
            await self._move(dao, node, section)
        await dao.note(node, changed, new)
        return Taken(message, changed, missing)

    async def _check_quota(self, dao: FederationDAO, kind: str, of_peer: int, more: int) -> None:
        quota = self.quotas[kind]
        if of_peer + more > quota.most:
            raise Refused(
                Reason.QUOTA,
                f"it brings more than {counted(quota.most, quota.noun)} a day: if that is right, raise "
                f"{quota.settings} at this site",
            )
        if (await dao.new_keys_today()).get(kind, 0) + more > _QUOTA_OF_ALL * quota.most:
            raise Refused(Reason.QUOTA, f"all sites together bring too many {quota.noun}s today: wait a day")

    async def _move(self, dao: FederationDAO, node: str, section: Section) -> None:
        """Note how far the peer's feed was read, unless something between is missing."""
        positions = await dao.positions(node)
        if section.have is not None:
            await dao.move(node, sent(section.kind), section.have)
        if section.cursor and section.after in ("", positions.get(section.kind, "")):
            await dao.move(node, section.kind, section.cursor)

    async def _told(
        self, dao: FederationDAO, envelope: Envelope
    ) -> dict[str, tuple[datetime, datetime | None]]:
        """What a peer tells of itself and of others, none of which can be known from the future."""
        now, own = self.atlas.clock.now(), await dao.own_node()
        known = {peer.node for peer in await dao.peers()}
        told = {envelope.node: (now, now if envelope.leaving else None)}
        for node, (seen, left) in envelope.sites.items():
            if node != own and (node in known or len(known | told.keys()) < MOST_SITES):
                told.setdefault(node, (min(instant(seen), now), min(instant(left), now) if left else None))
        return told

    async def note_other_state(self, peer: str, place: str) -> None:
        """Note that a peer has read our feed up to a place that isn't there: all is sent again."""
        logger.info("%s has read another state of this database: all is sent again", peer)
        if await self.dao.is_ahead(place):
            told = (
                "it has read more of this site than there is: if this database was set back to an earlier "
                "state, as by a snapshot of its disk, run maia federation rename, or it counts what is known"
            )
            logger.warning("%s: %s", peer, told)
            await self.dao.refuse(peer, Reason.SET_BACK, told)

    async def _count(self, node: str, refused: Refused) -> None:
        """Count a refusal; a peer that is refused several times in a row is isolated for a while."""
        logger.warning("a message of %s was %s", node or "an unknown site", refused)
        if refused.reason is Reason.ISOLATED:
            await self.dao.refuse("", refused.reason, f"{node}: {refused.told}")
            return
        failures = await self.dao.refuse(node, refused.reason, refused.told)
        if failures >= REFUSALS_IN_A_ROW:
            pause = timedelta(seconds=ISOLATIONS.pause_s(failures - REFUSALS_IN_A_ROW))
            await self.dao.isolate(node, self.atlas.clock.now() + pause)


def sent(kind: str) -> str:
    """The name under which it is noted how far a peer has read our feed of a kind."""
    return f"sent {kind}"


async def _decoded(raw: bytes) -> Message:
    return await asyncio.to_thread(decode, raw) if len(raw) > _ON_THE_LOOP_BYTES else decode(raw)
