"""Atoms of the knowledge graph as records: what each site says of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

from pydantic import Field, TypeAdapter, ValidationError

from atlas.adapters.claims import Claim, Claims
from atlas.adapters.federation import Digest, MergedRows
from atlas.adapters.graph import LONGEST_NAME, MOST_OUTGOING, AtomType, link_handle, node_handle
from atlas.queries import clean_text
from maia.federation.messages import (
    LARGEST_CLOCK_DIFFERENCE,
    MOST_RECORDS,
    Instant,
    Node,
    Tables,
    instant,
    microseconds,
)
from maia.federation.records import BucketPage, Page
from maia.federation.refusals import Reason, Refused
from maia.learning.admission import FOREIGN_COUNT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from atlas.adapters.federation import FederationDAO

logger = logging.getLogger(__name__)

_HANDLE_BYTES: Final = 16
_MOST_CLAIMS: Final = 4_000
"""So many claims are a few MB at most, and leave room in a message for as many others."""
_HANDLES_AT_ONCE: Final = 500
_MOST_NAMES: Final = 10**17
"""A copy is called by the microseconds since 1970: a site could not take a later name than one with more."""
_END: Final = "g"
"""Behind all keys, as the exchange calls it."""

Handle = Annotated[bytes, Field(min_length=_HANDLE_BYTES, max_length=_HANDLE_BYTES)]
Count = Annotated[int, Field(ge=0, le=FOREIGN_COUNT)]
TypeName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,49}$")]
Row = tuple[
    Handle, Node, bool, Count, Count, Annotated[float, Field(allow_inf_nan=False, ge=-3e38, le=3e38)] | None,
    Instant, Annotated[int, Field(ge=1, le=2**53)], TypeName | None,
    Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)] | None,
    Annotated[bytes, Field(min_length=_HANDLE_BYTES, max_length=_HANDLE_BYTES * MOST_OUTGOING)] | None,
]  # fmt: skip
TypeRow = tuple[TypeName, bool, bool, Annotated[str, Field(min_length=1, max_length=200)]]
_ROWS: Final[TypeAdapter[list[Row]]] = TypeAdapter(list[Row])
_TYPES: Final[TypeAdapter[list[TypeRow]]] = TypeAdapter(list[TypeRow])


class AtomRecords:
    """What sites say of atoms: that they are there, and how often each saw them to be true or not."""

    kind: Final = "atoms"
    version: Final = 1

    def __init__(self, kept_days: float) -> None:
        """What was taken back is known for so many days."""
        self._kept = timedelta(days=kept_days)
        self._has_told = False

    async def beginning(self, dao: FederationDAO) -> str:
        return dao.claims().beginning(await dao.horizon())

    async def end(self, dao: FederationDAO) -> str:
        return dao.claims().end(await dao.horizon())

    async def read(self, dao: FederationDAO, cursor: str, limit: int, peer: str) -> Page[Claims]:
        page = await dao.claims().read(await dao.horizon(), cursor, limit, without=peer)
        return Page(self._sendable(page.claims, dao.now()), page.cursor, page.more)

    async def whole(self, dao: FederationDAO, keys: Sequence[str], peer: str) -> Claims:
        # With what the peer itself said: it may have lost that, and then it says what holds.
        handles = [UUID(key) for key in keys if len(key) == 2 * _HANDLE_BYTES]
        found = await dao.claims().whole(handles)
        return self._sendable(_of(found, _fitting(handles, found)), dao.now())

    def _sendable(self, claims: Claims, now: datetime) -> Claims:
        """The claims without those that every peer would refuse, with all that came along."""
        latest = microseconds(now + LARGEST_CLOCK_DIFFERENCE)
        sendable = [each for each in claims.claims if _is_sendable(each, latest)]
        if len(sendable) < len(claims.claims) and not self._has_told:
            self._has_told = True
            logger.warning(
                "what was said of atoms in the future, with more than %s observations or an infinite weight "
                "is not sent to other sites: set the clock, or take these atoms back",
                f"{FOREIGN_COUNT:,}",
            )
        return Claims(sendable, claims.types)

    def packed(self, records: Claims) -> Tables:
        return {
            "types": [(each.name, each.is_link, each.is_symmetric, each.what) for each in records.types],
            "atoms": [_packed(each) for each in records.claims],
        }

    def check(self, tables: Tables, now: datetime) -> Claims:
        if unknown := tables.keys() - {"types", "atoms"}:
            raise Refused(Reason.RECORDS, f"atoms have no table {min(unknown)[:50]!r}")
        try:
            types = [AtomType(*row) for row in _TYPES.validate_python(_rows(tables, "types"), strict=True)]
            claims = [_claim(row) for row in _ROWS.validate_python(_rows(tables, "atoms"), strict=True)]
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            raise Refused(Reason.RECORDS, f"atom {first['loc'][0]}: {first['msg'][:200]}") from None
        symmetric = {each.name for each in types if each.is_symmetric}
        latest = now + LARGEST_CLOCK_DIFFERENCE
        for claim in claims:
            _check(claim, symmetric)
            if max(claim.seen_at, instant(claim.version)) > latest:
                raise Refused(
                    Reason.CLOCK, f"the atom {claim.handle} is from the future: set the site's clock"
                )
        return Claims(claims, types)

    async def new_keys(self, dao: FederationDAO, records: Claims) -> int:
        handles = {each.handle for each in records.claims if each.present}
        return len(await dao.claims().unknown(sorted(handles))) if handles else 0

    async def merge(self, dao: FederationDAO, records: Claims, peer: str) -> MergedRows:
        if not records.claims:
            return MergedRows(0, ())
        merged = await dao.claims().merge(records, peer)
        return MergedRows(merged.changed, [handle.hex for handle in merged.missing])

    def since(self, now: datetime) -> date:
        return (now - self._kept).date()

    async def digests(self, dao: FederationDAO, prefixes: Sequence[str], since: date) -> Mapping[str, Digest]:
        found = await dao.claims().digests(prefixes, 2, since)
        return {bucket: Digest(each.rows, each.total) for bucket, each in found.items()}

    async def bucket(
        self, dao: FederationDAO, prefixes: Sequence[str], start: str, end: str | None, peer: str, since: date
    ) -> BucketPage[Claims]:
        # What was taken back long ago comes along: it isn't compared, but others may not know.
        claims, limit = dao.claims(), MOST_RECORDS if end is not None else _HANDLES_AT_ONCE
        handles = await claims.handles(prefixes, _handle(start), _handle(end), limit)
        found = await claims.whole(handles)
        taken = handles if end is not None else _fitting(handles, found)
        is_last = end is not None or (len(taken) == len(handles) and len(handles) < limit)
        return BucketPage(self._sendable(_of(found, taken), dao.now()), None if is_last else taken[-1].hex)

    def without(self, records: Claims, known: Claims) -> Claims:
        theirs = {*known.claims}
        return _with_types([each for each in records.claims if each not in theirs], records)

    def own(self, records: Claims, node: str, before: Claims | None) -> Claims:
        return _with_types([each for each in records.claims if each.node == node], records)

    def chunks(self, records: Claims) -> Iterator[Claims]:
        for start in range(0, len(records.claims), _MOST_CLAIMS):
            yield _with_types(records.claims[start : start + _MOST_CLAIMS], records)


def _is_sendable(claim: Claim, latest: int) -> bool:
    """Whether peers whose clocks are right would not refuse all that comes along with it."""
    return (
        max(claim.version, microseconds(claim.seen_at)) <= latest
        and max(claim.pos, claim.neg) <= FOREIGN_COUNT
        and (claim.weight is None or isfinite(claim.weight))
    )


def _number(node: str) -> int:
    """Which of its site's names this is, as name_number() in SQL says."""
    _, _, number = node.rpartition(".")
    return int(number) if number != node and number.isascii() and number.isdigit() else 0


def _with_types(claims: Sequence[Claim], of: Claims) -> Claims:
    used = {each.type for each in claims}
    return Claims([*claims], [each for each in of.types if each.name in used])


def _of(found: Claims, handles: Iterable[UUID]) -> Claims:
    chosen = {*handles}
    return _with_types([each for each in found.claims if each.handle in chosen], found)


def _fitting(handles: Sequence[UUID], found: Claims) -> list[UUID]:
    """As many of the handles, but at least one, as a message has room for all claims about."""
    sizes = Counter(each.handle for each in found.claims)
    count, taken = 0, list[UUID]()
    for handle in handles:
        count += sizes[handle]
        if taken and count > _MOST_CLAIMS:
            break
        taken.append(handle)
    return taken


def _handle(key: str | None) -> UUID | None:
    """The handle at which a range of keys begins or ends; None: at all."""
    return UUID(key[: 2 * _HANDLE_BYTES].ljust(2 * _HANDLE_BYTES, "0")) if key and key != _END else None


def _rows(tables: Tables, name: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in tables.get(name, ())]


def _packed(claim: Claim) -> tuple[Any, ...]:
    outgoing = claim.outgoing
    return (
        claim.handle.bytes, claim.node, claim.present, claim.pos, claim.neg, claim.weight,
        microseconds(claim.seen_at), claim.version, claim.type, claim.name,
        None if outgoing is None else b"".join([each.bytes for each in outgoing]),
    )  # fmt: skip


def _claim(row: Row) -> Claim:
    handle, node, present, pos, neg, weight, seen, version, type_, name, ends = row
    outgoing = None
    if ends is not None:
        outgoing = tuple(
            UUID(bytes=ends[at : at + _HANDLE_BYTES].ljust(_HANDLE_BYTES, b"\0"))
            for at in range(0, len(ends), _HANDLE_BYTES)
        )
    return Claim(
        UUID(bytes=handle), node, present, pos, neg, weight, instant(seen), version, type_, name, outgoing
    )


def _check(claim: Claim, symmetric: set[str]) -> None:
    """Refused if a claim makes no sense, or the atom isn't what its handle says."""
    if _number(claim.node) >= _MOST_NAMES:
        raise Refused(Reason.RECORDS, f"{claim.node} is no name that a copy of a site takes")
    if not claim.present:
        if (claim.pos, claim.neg, claim.weight, claim.type, claim.name, claim.outgoing) != (
            0,
            0,
            *[None] * 4,
        ):
            raise Refused(Reason.RECORDS, f"the atom {claim.handle} is taken back, and yet described")
        return
    if claim.type is None or (claim.name is None) == (claim.outgoing is None):
        raise Refused(Reason.RECORDS, f"it isn't said what the atom {claim.handle} is")
    if claim.name is not None:
        handle = node_handle(claim.type, claim.name) if clean_text(claim.name) == claim.name else None
    else:
        ends = claim.outgoing or ()
        is_sorted = claim.type not in symmetric or [*ends] == sorted(ends)
        handle = link_handle(claim.type, ends) if is_sorted else None
    if handle != claim.handle:
        raise Refused(Reason.RECORDS, f"the atom {claim.handle} is not what its handle says")
