"""What sites exchange: the rows that changed here, merging those of others, and whom it is exchanged with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from hashlib import blake2b
from typing import Any, Final, Literal, Self

from atlas.adapters.changes import ChangesDAO
from atlas.adapters.claims import ClaimsDAO
from atlas.adapters.dao import DAO
from atlas.adapters.patterns import PatternsDAO, StoredEvidence
from atlas.errors import DataRefused, UnknownCursor

Conflicts = Literal["merge", "latest", "confident"]
Role = Literal["learner", "coordinator"]

_CURSOR: Final = re.compile(
    r"(?P<database>[0-9a-f]{16})-(?P<xid>[0-9a-f]{1,15})-(?P<id>(?:[0-9a-f]{32})?)-(?P<day>\d{4}-\d\d-\d\d)-"
    r"(?P<node>.{0,100})",
    re.ASCII | re.DOTALL,
)
_FIRST_DAY: Final = date.min


@dataclass(frozen=True, slots=True)
class SharedPattern:
    """What sites exchange of a pattern. Its JSON is as PostgreSQL writes it, so that it stays the same.

    `forgotten_at` is when an operator forgot it; what a learner forgets is that site's own affair.
    """

    id: str
    type: str
    signature: str
    statement: str
    conditions: str
    action: str | None
    data: str
    created_at: datetime
    updated_at: datetime
    version: int
    forgotten_at: datetime | None = None
    remembered_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SharedRows:
    """Texts of patterns, and rows of evidence."""

    patterns: Sequence[SharedPattern] = ()
    evidence: Sequence[StoredEvidence] = ()

    def __len__(self) -> int:
        return len(self.patterns) + len(self.evidence)


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Part of this site's feed; `places` are the cursors after each row, and `cursor` that after all."""

    rows: Sequence[SharedPattern | StoredEvidence]
    places: Sequence[str]
    cursor: str
    more: bool


@dataclass(frozen=True, slots=True)
class Digest:
    """How many rows a bucket of ids has, and the sum of their hashes, which tells whether they are equal."""

    rows: int
    total: int


@dataclass(frozen=True, slots=True)
class MergedRows:
    """How many rows changed anything, and the patterns whose texts are missing here for the evidence."""

    changed: int
    missing: Sequence[str]


@dataclass(frozen=True, slots=True)
class Peer:
    """Another site, and what was exchanged with it so far."""

    node: str
    role: Role
    place: str | None
    seen_at: datetime
    heard_at: datetime | None
    left_at: datetime | None
    compared_at: datetime | None
    messages_in: int
    messages_out: int
    records_in: int
    records_out: int
    changed: int
    bytes_in: int
    bytes_out: int
    new_on: date | None
    new_keys: int
    failures: int
    isolated_until: datetime | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Messages of a node (empty if it isn't known whose) that were refused for a reason."""

    node: str
    reason: str
    count: int
    last_at: datetime
    last_told: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the last exchange that this site began at a place failed; node is empty if nobody ever answered."""

    place: str
    node: str
    failed_at: datetime
    told: str


@dataclass(frozen=True, slots=True)
class Heard:
    """A message of a node that is accepted."""

    node: str
    role: Role
    records: int = 0
    size: int = 0
    place: str | None = None
    """Where it is called, if it is called from here."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A row in the feed: the transaction that changed it, and its key."""

    database: str
    xid: int
    id: str = ""
    node: str = ""
    day: date = _FIRST_DAY

    def __str__(self) -> str:
        return f"{self.database}-{self.xid:x}-{self.id}-{self.day.isoformat()}-{self.node}"

    @classmethod
    def parse(cls, cursor: str) -> Self:
        found = _CURSOR.fullmatch(cursor)
        if found is None:
            raise DataRefused("this is no place in the feed of a site: send one as you received it")
        try:
            day = date.fromisoformat(found["day"])
        except ValueError:
            raise DataRefused("a place in the feed of a site has no such day") from None
        return cls(found["database"], int(found["xid"], 16), found["id"], found["node"], day)


class FederationDAO(DAO):
    """Reads and merges the rows that sites exchange, and keeps what is known of other sites.

    Cursors of the feed hold only in this database, and not in a restored copy of it.
    """

    def now(self) -> datetime:
        """What this site's clock says."""
        return self._clock.now()

    # This site's rows

    async def own_node(self) -> str:
        """The name under which this database counts; a restored copy of a database takes a new one now."""
        node: str = await self._executor.fetchval("federation.own_node")
        return node

    async def rename(self) -> str:
        """Take a new name, as a restored copy does: for one that can't be told from the original."""
        await self._executor.execute("federation.rename")
        node = await self.own_node()
        await self.claims().tell_again()
        return node

    async def prefer(self, conflicts: Conflicts) -> bool:
        """Let a strategy say whose evidence counts where sites differ; whether that is another one."""
        async with self._atomic() as executor:
            is_other = bool(await executor.fetchval("federation.prefer", conflicts))
            if is_other:
                await self._on(executor).claims().weigh()
        return is_other

    def claims(self) -> ClaimsDAO:
        """What sites say of atoms, in the same transaction."""
        return ClaimsDAO(self._executor, clock=self._clock, settings=self._settings)

    async def beginning(self) -> str:
        """The place before everything in this site's feed."""
        return str(_Place((await self.horizon())[0], 0))

    async def end(self) -> str:
        """The place after everything that can be read now."""
        return str(_Place(*await self.horizon()))

    async def is_waiting(self) -> bool:
        """Whether something changed that can be read as soon as transactions end which began earlier."""
        row = await self._executor.fetchrow("changes.horizon")
        if row is not None and row["is_waiting"] is True:
            return True
        return await self.claims().is_waiting()

    async def read(self, cursor: str, limit: int, *, without: str = "", since: date = _FIRST_DAY) -> FeedPage:
        """At most `limit` rows that changed after a place, without a node's own and those of days before.

        UnknownCursor if the place is of another database, or of before this one was restored; DataRefused
        if it is none.
        """
        place, (database, end) = _Place.parse(cursor), await self.horizon()
        if place.database != database or place.xid > end:
            raise UnknownCursor
        found = await self._executor.fetch(
            "federation.since", place.xid, place.id, place.node, place.day, end, without, since, limit
        )
        rows = [dict(row) for row in found]
        places = [
            str(replace(place, xid=row["xid"], id=row["pattern_id"], node=row["node"], day=row["day"]))
            for row in rows
        ]
        more = len(rows) == limit
        return FeedPage(
            [_text_of(row) if not row["node"] else _evidence_of(row) for row in rows],
            places,
            places[-1] if more else str(_Place(database, end)),
            more,
        )

    async def is_ahead(self, cursor: str) -> bool:
        """Whether a place is of this database, but further than it has got: then it was set back since."""
        try:
            place, (database, end) = _Place.parse(cursor), await self.horizon()
        except DataRefused:
            return False
        return place.database == database and place.xid > end

    async def whole(self, ids: Sequence[str], *, without: str = "", since: date = _FIRST_DAY) -> SharedRows:
        """All that is exchanged of some patterns."""
        texts = await self._executor.fetch("federation.texts", [*ids])
        rows = await self._executor.fetch("federation.rows", [*ids], without, since)
        return SharedRows([SharedPattern(**row) for row in texts], [StoredEvidence(**row) for row in rows])

    async def digests(self, prefixes: Sequence[str], digits: int, since: date) -> dict[str, Digest]:
        """Digests of the buckets of ids that begin so and have some more hexadecimal digits in common.

        The prefixes must be of one length. Empty buckets are left out.
        """
        rows = await self._executor.fetch("federation.digests", [*prefixes], digits, since)
        return {row["bucket"]: Digest(row["rows"], int(row["total"])) for row in rows}

    async def ids(self, prefixes: Sequence[str], after: str, limit: int, since: date) -> list[str]:
        """The ids of exchanged patterns that begin so, in order."""
        rows = await self._executor.fetch("federation.ids", [*prefixes], after, limit, since)
        return [row["id"] for row in rows]

    # Others' rows

    async def unknown(self, ids: Sequence[str]) -> set[str]:
        """Those of the patterns that are not stored here, not even as forgotten ones."""
        rows = await self._executor.fetch("federation.known", [*ids])
        return {*ids} - {row["id"] for row in rows}

    async def merge(self, rows: SharedRows, since: date, node: str) -> MergedRows:
        """Merge rows that a node brought, without evidence of days before, in the caller's transaction."""
        changed = 0
        if rows.patterns:
            changed += await self._merge_texts(rows, node)
        own = await self.own_node()
        evidence = [row for row in rows.evidence if row.node != own and row.day >= since]
        missing = await self._missing(evidence)
        changed += await PatternsDAO.joining(self._patterns(), self).merge_evidence(
            evidence, since, brought_by=node
        )
        return MergedRows(changed, missing)

    async def _merge_texts(self, rows: SharedRows, node: str) -> int:
        seen: dict[str, datetime] = {}
        for row in rows.evidence:
            seen[row.pattern_id] = max(seen.get(row.pattern_id, row.last_seen), row.last_seen)
        texts = {each.id: each for each in rows.patterns}.values()
        columns = [
            [getattr(each, name) for each in texts]
            for name in (
                "id", "type", "signature", "statement", "conditions", "action", "data", "created_at",
                "updated_at", "version", "forgotten_at", "remembered_at",
            )
        ]  # fmt: skip
        columns.append([seen.get(each.id) for each in texts])
        found = await self._executor.fetch("federation.merge", *columns, node)
        if buried := [each.id for each in texts if each.forgotten_at is not None]:
            await self._executor.execute("patterns.clear_forgotten", buried)
        return len(found)

    async def _missing(self, evidence: Sequence[StoredEvidence]) -> list[str]:
        """The patterns of these rows that aren't known, or were forgotten by the learner before the rows."""
        ids = {row.pattern_id for row in evidence}
        rows = await self._executor.fetch("federation.known", [*ids]) if ids else []
        known: dict[str, datetime | None] = {
            row["id"]: row["forgotten_at"] for row in rows if row["forgotten_at"] or not row["is_forgotten"]
        }
        buried = {row["id"] for row in rows} - known.keys()
        missing = {
            row.pattern_id
            for row in evidence
            if row.pattern_id not in buried
            and (
                row.pattern_id not in known
                or ((forgotten_at := known[row.pattern_id]) is not None and row.last_seen > forgotten_at)
            )
        }
        return sorted(missing)

    def _patterns(self) -> PatternsDAO:
        return PatternsDAO(self._executor, clock=self._clock, settings=self._settings)

    # Other sites

    async def peers(self) -> list[Peer]:
        """The other sites that are known, those that were heard last first."""
        return [Peer(**row) for row in await self._executor.fetch("federation.peers", None)]

    async def peer(self, node: str) -> Peer | None:
        """One of them; None if it isn't known."""
        row = await self._executor.fetchrow("federation.peers", node)
        return None if row is None else Peer(**row)

    async def count_peers(self) -> int:
        """How many other sites are known, former names of theirs included."""
        count: int = await self._executor.fetchval("federation.count_peers")
        return count

    async def count_sites(self, since: datetime) -> int:
        """How many sites there are, this one included: those seen since then that did not leave."""
        count: int = await self._executor.fetchval("federation.count_sites", since)
        return count

    async def positions(self, node: str) -> dict[str, str]:
        """How far the feeds and streams of a peer were read, by their names."""
        rows = await self._executor.fetch("federation.positions", node)
        return {row["feed"]: row["position"] for row in rows}

    async def move(self, node: str, feed: str, position: str) -> None:
        """Note up to where a feed or stream of a peer was read, in the transaction that merges it."""
        await self._executor.execute("federation.move", node, feed, position)

    async def take_turn(self, node: str) -> Mapping[str, int]:
        """Keep others from taking messages of a peer until the caller's transaction ends.

        Returns how many new things of each kind it brought today.
        """
        row = await self._executor.fetchrow("federation.lock_peer", node, self._clock.now().date())
        return {} if row is None else dict(row)

    async def new_keys_today(self) -> Mapping[str, int]:
        """How many new things of each kind all peers brought today."""
        row = await self._executor.fetchrow("federation.new_keys", self._clock.now().date())
        return {} if row is None else dict(row)

    async def hear(self, heard: Heard) -> None:
        """Note a message that was accepted; its sender is isolated no longer."""
        now = self._clock.now()
        await self._executor.execute(
            "federation.hear", heard.node, heard.role, now, heard.records, heard.size, now.date(), heard.place
        )

    async def note(self, node: str, changed: int, new_keys: Mapping[str, int]) -> None:
        """Note what the message that was just heard has changed here, and how many new things it brought."""
        counts = new_keys.get("patterns", 0), new_keys.get("atoms", 0)
        await self._executor.execute("federation.note", node, changed, *counts)

    async def hear_of(self, sites: Mapping[str, tuple[datetime, datetime | None]]) -> None:
        """Note what others tell of sites: when they were seen last, and when they left."""
        told = sorted(sites.items())
        await self._executor.execute(
            "federation.hear_of",
            [node for node, _ in told],
            [seen_at for _, (seen_at, _) in told],
            [left_at for _, (_, left_at) in told],
        )

    async def depart(self, site: str) -> None:
        """Note that a site has left, under all of its names; other sites hear so from this one."""
        await self._executor.execute("federation.depart", site, self._clock.now())

    async def sent(self, node: str, records: int, size: int) -> None:
        """Note a message to a peer."""
        await self._executor.execute("federation.sent", node, records, size)

    async def compared(self, node: str) -> None:
        """Note that everything was compared with a peer."""
        await self._executor.execute("federation.compared", node, self._clock.now())

    async def refuse(self, node: str, reason: str, told: str, count: int = 1) -> int:
        """Count refused messages; returns how many of this node's in a row were, 0 if it isn't known."""
        await self._executor.execute("federation.refuse", node, reason, self._clock.now(), told[:500], count)
        failures: int | None = await self._executor.fetchval("federation.fail", node)
        return failures or 0

    async def isolate(self, node: str, until: datetime) -> None:
        """Take no messages of a peer until then."""
        await self._executor.execute("federation.isolate", node, until)

    async def refusals(self) -> list[Refusal]:
        """Why messages were refused, the last refusal first."""
        return [Refusal(**row) for row in await self._executor.fetch("federation.refusals")]

    async def note_failure(self, place: str, node: str, told: str) -> None:
        """Note why an exchange that this site began failed, until one succeeds there."""
        await self._executor.execute("federation.note_failure", place, node, self._clock.now(), told)

    async def clear_failure(self, place: str) -> None:
        """Note that an exchange at a place succeeded."""
        await self._executor.execute("federation.clear_failure", place)

    async def failures(self) -> list[Failure]:
        """Where the last exchange that this site began has failed, the last failure first."""
        return [Failure(**row) for row in await self._executor.fetch("federation.failures")]

    async def leave(self) -> None:
        """Forget all other sites, how far they were read, what was refused of them, and what failed."""
        await self._executor.execute("federation.leave")
        await self._executor.execute("federation.forget_refusals")
        await self._executor.execute("federation.forget_failures")

    async def messages(self) -> Mapping[str, int]:
        """How many messages were received, sent and refused."""
        row = await self._executor.fetchrow("federation.messages")
        assert row is not None
        return dict(row)

    async def horizon(self) -> tuple[str, int]:
        """The database that this is, and the first transaction that may not have ended."""
        row = await self._executor.fetchrow("changes.horizon")
        if row is not None and not row["is_ours"]:
            # In a copy, the numbers of transactions are the original's.
            await ChangesDAO(self._executor, clock=self._clock, settings=self._settings).settle()
            row = await self._executor.fetchrow("changes.horizon")
        assert row is not None
        identity: str = row["identity"]
        return blake2b(identity.encode(), digest_size=8).hexdigest(), row["horizon"]


def _text_of(row: Mapping[str, Any]) -> SharedPattern:
    names = (
        "type", "signature", "statement", "conditions", "action", "data", "created_at", "updated_at",
        "forgotten_at", "remembered_at",
    )  # fmt: skip
    said = {name: row[name] for name in names}
    return SharedPattern(id=row["pattern_id"], version=row["text_version"], **said)


def _evidence_of(row: Mapping[str, Any]) -> StoredEvidence:
    names = ("pattern_id", "node", "day", "pos", "neg", "sum_reward", "last_seen", "version")
    return StoredEvidence(**{name: row[name] for name in names})
