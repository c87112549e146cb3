"""What sites say of atoms: reading it to exchange it, and merging what others say.

Each site's claim about an atom is a register that only that site writes, so that merging is to keep the later
one: whatever is repeated, lost or out of order, all end with the same claims. An atom is there if any site
says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any, Final, Literal, Self
from uuid import UUID

from atlas.adapters.dao import DAO
from atlas.adapters.graph import FIRST, AtomType, flattened
from atlas.errors import DataRefused, UnknownCursor

Tells = Literal["off", "people", "topics", "all"]
"""Which atoms other sites are told of."""

CHANNEL: Final = "graph"
"""PostgreSQL notifies it after every statement that changed atoms, or what other sites say of them."""
MOST_TYPES: Final = 1_000

_CURSOR: Final = re.compile(
    r"(?P<database>[0-9a-f]{16})-(?P<xid>[0-9a-f]{1,15})-(?P<kind>[nl])-(?P<handle>[0-9a-f]{32})-(?P<site>.{0,100})",
    re.ASCII | re.DOTALL,
)
_AT_ONCE: Final = 5_000
_REGISTER: Final = ("handle", "node", "present", "pos", "neg", "weight", "seen_at", "version")
_LAST: Final = UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a site, under one of its names, says of an atom.

    If it says that the atom is not there, nothing is known of it but its handle. Or else either `name` or
    `outgoing` says with `type` what it is.
    """

    handle: UUID
    node: str
    present: bool
    pos: int
    neg: int
    weight: float | None
    seen_at: datetime
    version: int
    type: str | None = None
    name: str | None = None
    outgoing: tuple[UUID, ...] | None = None


@dataclass(frozen=True, slots=True)
class Claims:
    """Claims, and the types of the atoms that they are about."""

    claims: Sequence[Claim] = ()
    types: Sequence[AtomType] = ()

    def __len__(self) -> int:
        return len(self.claims)


@dataclass(frozen=True, slots=True)
class ClaimsPage:
    """Part of this site's feed; `cursor` is the place after it."""

    claims: Claims
    cursor: str
    more: bool


@dataclass(frozen=True, slots=True)
class ClaimsDigest:
    """How many claims a bucket of handles has, and the sum of their hashes."""

    rows: int
    total: int


@dataclass(frozen=True, slots=True)
class MergedClaims:
    """How many claims told anything new, and the atoms that links still wait for."""

    changed: int
    missing: Sequence[UUID]


@dataclass(frozen=True, slots=True)
class ClaimingSite:
    """Another site that says that atoms are there: how many, and how many of these only it says."""

    site: str
    claims: int
    alone: int
    seen_at: datetime | None
    """When any site of the cluster last heard of it; None if this one doesn't know it any more."""
    left_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Place:
    """A claim in the feed: the transaction that changed it, and its key."""

    database: str
    xid: int
    is_link: bool = False
    handle: UUID = FIRST
    site: str = ""

    def __str__(self) -> str:
        kind = "l" if self.is_link else "n"
        return f"{self.database}-{self.xid:x}-{kind}-{self.handle.hex}-{self.site}"

    @classmethod
    def parse(cls, cursor: str) -> Self:
        found = _CURSOR.fullmatch(cursor)
        if found is None:
            raise DataRefused("this is no place in the feed of a site's graph: send one as you received it")
        return cls(
            found["database"],
            int(found["xid"], 16),
            found["kind"] == "l",
            UUID(found["handle"]),
            found["site"],
        )


class ClaimsDAO(DAO):
    """Reads and merges what sites say of atoms. Cursors hold only in their own database.

    `horizon` is which database this is and the first transaction that may not have ended, as those who keep
    feeds find it out; see `FederationDAO`.
    """

    # This site's feed

    def beginning(self, horizon: tuple[str, int]) -> str:
        """The place before everything in this site's feed."""
        return str(_Place(horizon[0], 0))

    def end(self, horizon: tuple[str, int]) -> str:
        """The place after everything that can be read now."""
        return str(_Place(*horizon))

    async def is_waiting(self) -> bool:
        """Whether a claim changed that can be read as soon as transactions end which began earlier."""
        return await self._executor.fetchval("claims.is_waiting") is True

    async def read(
        self, horizon: tuple[str, int], cursor: str, limit: int, *, without: str = ""
    ) -> ClaimsPage:
        """At most `limit` claims that changed after a place, without a node's own and what it brought.

        UnknownCursor if the place is of another database, or of before this one was restored; DataRefused
        if it is none.
        """
        place, (database, end) = _Place.parse(cursor), horizon
        if place.database != database or place.xid > end:
            raise UnknownCursor
        rows = await self._executor.fetch(
            "claims.since", place.xid, place.is_link, place.handle, place.site, end, without, limit
        )
        more = len(rows) == limit
        last = _Place(database, end)
        if more:
            row = rows[-1]
            last = _Place(database, row["xid"], row["is_link"], row["handle"], row["site"])
        return ClaimsPage(await self._claims(rows), str(last), more)

    async def whole(self, handles: Sequence[UUID]) -> Claims:
        """All claims about some atoms."""
        return await self._claims(await self._executor.fetch("claims.whole", [*handles]))

    async def _claims(self, rows: Iterable[Any]) -> Claims:
        claims = [claim for row in map(dict, rows) if (claim := _claim(row)) is not None]
        used = {claim.type for claim in claims}
        types = [AtomType(*row) for row in await self._executor.fetch("graph.types")]
        return Claims(claims, [each for each in types if each.name in used])

    async def digests(self, prefixes: Sequence[str], digits: int, since: date) -> dict[str, ClaimsDigest]:
        """Digests of the buckets of handles that begin so and have some more hexadecimal digits in common.

        The prefixes must be of one length. Claims that were taken back before a day are left out, as sites
        forget those. Empty buckets are left out.
        """
        first, last = _ranges(prefixes)
        rows = await self._executor.fetch(
            "claims.digests", first, last, len(prefixes[0]) + digits, _midnight(since)
        )
        return {row["bucket"]: ClaimsDigest(row["rows"], int(row["total"])) for row in rows}

    async def handles(
        self, prefixes: Sequence[str], after: UUID | None, end: UUID | None, limit: int
    ) -> list[UUID]:
        """The handles of atoms of which there are claims, that begin so, behind one and up to another."""
        first, last = _ranges(prefixes)
        rows = await self._executor.fetch("claims.handles", first, last, after, end or _LAST, limit)
        return [row["handle"] for row in rows]

    # Others' claims

    async def unknown(self, handles: Sequence[UUID]) -> set[UUID]:
        """Those of the atoms of which nothing is known here, not even that they are gone."""
        rows = await self._executor.fetch("claims.known", [*handles])
        return {*handles} - {row["handle"] for row in rows}

    async def add_types(self, types: Sequence[AtomType]) -> None:
        """Add the types that nothing here has the name of, as long as they aren't too many."""
        if types:
            rows = [(each.name, each.is_link, each.is_symmetric, each.what) for each in types]
            columns = [[*column] for column in zip(*rows, strict=True)]
            await self._executor.execute("claims.add_types", *columns, MOST_TYPES)

    async def merge(self, claims: Claims, node: str) -> MergedClaims:
        """Merge claims that a node brought, in the caller's transaction.

        Those under this site's own name are not believed. A claim about an atom of a type that is something
        else here is passed over.
        """
        await self.add_types(claims.types)
        outgoing = flattened(each.outgoing or () for each in claims.claims)
        columns_of = [
            [getattr(each, name) for each in claims.claims]
            for name in (
                "handle", "node", "present", "pos", "neg", "weight", "seen_at", "version", "type", "name",
            )
        ]  # fmt: skip
        row = await self._executor.fetchrow("claims.merge", *columns_of, *outgoing, node, self._clock.now())
        assert row is not None
        return MergedClaims(row["changed"], row["missing"] or ())

    # Sites that are gone for good

    async def sites(self) -> list[ClaimingSite]:
        """The other sites that say that atoms are there."""
        return [ClaimingSite(**row) for row in await self._executor.fetch("claims.sites")]

    async def take_back(self, site: str) -> int:
        """Take back all that a site says, in its place; returns how many claims that were.

        Others hear so, as of anything that a site takes back, and what the site said before doesn't come back
        from them. If it is alive, it says again what holds. It may be cut off, and then done again.
        """
        last, total = FIRST, 0
        while True:
            async with self._atomic() as executor:
                await executor.execute("graph.lock", True)
                now = self._clock.now()
                rows = await executor.fetch("claims.take_back", site, last, _AT_ONCE, now)
                if not rows:
                    return total
                handles = sorted(row["handle"] for row in rows)
                await executor.execute("claims.weigh_these", handles, now)
            last, total = handles[-1], total + len(handles)

    # What follows from settings, and from becoming another database

    async def tell(self, tells: Tells) -> bool:
        """Let other sites know of these atoms from now on; whether that is another setting than before.

        What they were told of before, they go on being told of.
        """
        async with self._atomic() as executor:
            if not await executor.fetchval("claims.tell", tells):
                return False
            await executor.execute("graph.lock", True)
            last: UUID | None = FIRST
            while last is not None:
                row = await executor.fetchrow("claims.tell_more", last, _AT_ONCE, self._clock.now())
                last = None if row is None else row["last"]
        return True

    async def tell_again(self) -> None:
        """Let all that this site says count as changed: it says so under another name now."""
        await self._each_batch("claims.tell_again")

    async def weigh(self) -> None:
        """Weigh all claims anew, as by another strategy for sites that differ."""
        await self._each_batch("claims.weigh")

    async def _each_batch(self, statement: str) -> None:
        last: UUID | None = FIRST
        async with self._atomic() as executor:
            await executor.execute("graph.lock", True)
            while last is not None:
                row = await executor.fetchrow(statement, last, _AT_ONCE, self._clock.now())
                last = None if row is None else row["handle"]

    async def mark(self) -> None:
        """Let all atoms and claims count as changed now, in a copy of a database."""
        at: tuple[int, UUID] = (0, FIRST)
        while row := await self._executor.fetchrow("claims.mark_atoms", *at, _AT_ONCE):
            at = (row["space"], row["handle"])
        claim: tuple[UUID, str] = (FIRST, "")
        while row := await self._executor.fetchrow("claims.mark_claims", *claim, _AT_ONCE):
            claim = (row["handle"], row["site"])

    async def forget(self) -> None:
        """Forget all that other sites say, and how far that was read, as all atoms are replaced."""
        await self._executor.execute("claims.forget")


def _claim(row: Mapping[str, Any]) -> Claim | None:
    """The claim of a row; None if it isn't to be told, or if what the atom was is not known any more."""
    if row["node"] is None or (row["present"] and row["type"] is None):
        return None
    told = {name: row[name] for name in _REGISTER}
    if not row["present"]:
        return Claim(**told)
    outgoing = None if row["outgoing"] is None else tuple(row["outgoing"])
    return Claim(**told, type=row["type"], name=row["name"], outgoing=outgoing)


def _ranges(prefixes: Sequence[str]) -> tuple[list[UUID], list[UUID]]:
    """The first and last handles that begin so."""
    return [UUID(each[:32].ljust(32, "0")) for each in prefixes], [
        UUID(each[:32].ljust(32, "f")) for each in prefixes
    ]


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
