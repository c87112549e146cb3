"""The kinds of records that sites exchange, and the first of them: patterns with their evidence."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, Protocol, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from atlas.adapters.federation import Digest, MergedRows, SharedPattern, SharedRows
from atlas.adapters.patterns import StoredEvidence
from maia.federation.messages import (
    LARGEST_CLOCK_DIFFERENCE,
    MOST_RECORD_BYTES,
    MOST_RECORDS,
    Instant,
    Node,
    Tables,
    instant,
    microseconds,
)
from maia.federation.refusals import Reason, Refused
from maia.learning.admission import FOREIGN_COUNT, MOST_REWARD, fault_of_pattern
from maia.learning.patterns import Pattern, PatternType, condition_of

if TYPE_CHECKING:
    from atlas.adapters.federation import FederationDAO

logger = logging.getLogger(__name__)

Checked = TypeVar("Checked")

MOST_VERSION: Final = 10**12
"""Rows are written a few times an hour: a higher version is none, and would keep a row from ever changing."""
_PAGE_BYTES: Final = 3 * 2**20
_WANTED_BYTES: Final = 2**20
_CHUNK_BYTES: Final = 3 * 2**19
"""Of rows of evidence alone, that many bytes are fewer than a message may have."""
_LONGEST_JSON: Final = 200_000
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class Page(Generic[Checked]):
    """Part of this site's feed: records up to the place `cursor`."""

    records: Checked
    cursor: str
    more: bool


@dataclass(frozen=True, slots=True)
class BucketPage(Generic[Checked]):
    """The records of some buckets up to the key `end`; None if those are all."""

    records: Checked
    end: str | None


class Records(Protocol[Checked]):
    """A kind of records: how they are read, checked, merged and compared. Merging is the join of a CRDT."""

    @property
    def kind(self) -> str:
        """Its name in messages."""

    @property
    def version(self) -> int:
        """Raised whenever an older site could misunderstand its records."""

    async def beginning(self, dao: FederationDAO) -> str:
        """The place before everything in this site's feed."""

    async def end(self, dao: FederationDAO) -> str:
        """The place after everything in this site's feed."""

    async def read(self, dao: FederationDAO, cursor: str, limit: int, peer: str) -> Page[Checked]:
        """What changed after a place, without the peer's own; UnknownCursor if it is of another database."""

    async def whole(self, dao: FederationDAO, keys: Sequence[str], peer: str) -> Checked:
        """All there is under some keys, without the peer's own."""

    def packed(self, records: Checked) -> Tables:
        """Records as they travel."""

    def check(self, tables: Tables, now: datetime) -> Checked:
        """The records that arrived; Refused if any of them must not be stored."""

    async def new_keys(self, dao: FederationDAO, records: Checked) -> int:
        """How many things the records tell of that nobody knows here."""

    async def merge(self, dao: FederationDAO, records: Checked, peer: str) -> MergedRows:
        """Merge records that a peer brought in the caller's transaction."""

    def since(self, now: datetime) -> date:
        """The first day of which records are still exchanged."""

    async def digests(self, dao: FederationDAO, prefixes: Sequence[str], since: date) -> Mapping[str, Digest]:
        """The digests of the buckets with two more digits."""

    async def bucket(
        self, dao: FederationDAO, prefixes: Sequence[str], start: str, end: str | None, peer: str, since: date
    ) -> BucketPage[Checked]:
        """The records of some buckets, of keys behind `start` up to `end` or as many as a message takes."""

    def without(self, records: Checked, known: Checked) -> Checked:
        """The records without those that are known."""

    def own(self, records: Checked, node: str, before: Checked | None) -> Checked:
        """The records of one site, and what people said there.

        `before` are records that were left out of the page before; some may belong to records of this one.
        """

    def chunks(self, records: Checked) -> Iterator[Checked]:
        """The records in parts that fit into messages."""


Key = Annotated[bytes, Field(min_length=16, max_length=16)]
Text = tuple[
    Key, str, str, Annotated[str, Field(min_length=1, max_length=2_000)], str,
    Annotated[str, Field(min_length=1, max_length=200)] | None, str, Instant, Instant,
    Annotated[int, Field(ge=1, le=MOST_VERSION)], Instant | None, Instant | None,
]  # fmt: skip
Row = tuple[
    Key, Node, Annotated[int, Field(ge=0, le=100_000)], Annotated[int, Field(ge=0, le=FOREIGN_COUNT)],
    Annotated[int, Field(ge=0, le=FOREIGN_COUNT)],
    Annotated[float, Field(ge=-MOST_REWARD, le=MOST_REWARD, allow_inf_nan=False)], Instant,
    Annotated[int, Field(ge=1, le=MOST_VERSION)],
]  # fmt: skip
_TEXTS: Final[TypeAdapter[list[Text]]] = TypeAdapter(list[Text])
_ROWS: Final[TypeAdapter[list[Row]]] = TypeAdapter(list[Row])


class PatternRecords:
    """What patterns say, and how often each site counted them to be true or not."""

    kind: Final = "patterns"
    version: Final = 1

    def __init__(self, kept_days: float) -> None:
        self._kept = timedelta(days=kept_days)
        self._told: set[str] = set()

    async def beginning(self, dao: FederationDAO) -> str:
        return await dao.beginning()

    async def end(self, dao: FederationDAO) -> str:
        return await dao.end()

    async def read(self, dao: FederationDAO, cursor: str, limit: int, peer: str) -> Page[SharedRows]:
        found = await dao.read(cursor, limit, without=peer, since=self.since(dao.now()))
        size = 0
        for nth, row in enumerate(found.rows):
            size += _size(row)
            if size > _PAGE_BYTES and nth:
                return Page(self._sendable(found.rows[:nth]), found.places[nth - 1], more=True)
        return Page(self._sendable(found.rows), found.cursor, found.more)

    async def whole(self, dao: FederationDAO, keys: Sequence[str], peer: str) -> SharedRows:
        found = await dao.whole(keys, without=peer, since=self.since(dao.now()))
        taken = _fitting([*keys], found, _WANTED_BYTES)
        return self._sendable(_of(found, taken))

    def _sendable(self, rows: Iterable[SharedPattern | StoredEvidence]) -> SharedRows:
        """The rows without those that every peer would refuse, with all that came along."""
        texts, evidence = [], []
        for row in rows:
            try:
                if isinstance(row, SharedPattern):
                    _check_text(row)
                    texts.append(row)
                else:
                    _ROWS.validate_python([_packed_row(row)], strict=True)
                    evidence.append(row)
            except (Refused, ValidationError) as error:
                self._tell_once(row.id if isinstance(row, SharedPattern) else row.pattern_id, error)
        return SharedRows(texts, evidence)

    def _tell_once(self, id_: str, error: Exception) -> None:
        if id_ not in self._told and len(self._told) < MOST_RECORDS:
            self._told.add(id_)
            logger.warning("pattern %s is not sent to other sites, which would refuse it: %s", id_, error)

    def packed(self, records: SharedRows) -> Tables:
        return {
            "texts": [_packed_text(each) for each in records.patterns],
            "evidence": [_packed_row(each) for each in records.evidence],
        }

    def check(self, tables: Tables, now: datetime) -> SharedRows:
        if unknown := tables.keys() - {"texts", "evidence"}:
            raise Refused(Reason.RECORDS, f"patterns have no table {min(unknown)[:50]!r}")
        try:
            texts = [_text(row) for row in _TEXTS.validate_python(_rows(tables, "texts"), strict=True)]
            evidence = [_row(row) for row in _ROWS.validate_python(_rows(tables, "evidence"), strict=True)]
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            raise Refused(Reason.RECORDS, f"record {first['loc'][0]}: {first['msg'][:200]}") from None
        latest = now + LARGEST_CLOCK_DIFFERENCE
        for text in texts:
            _check_text(text)
            _check_times(text, latest)
        for row in evidence:
            if row.day > latest.date() or row.last_seen > latest:
                raise Refused(
                    Reason.CLOCK, f"evidence is from {row.day}, which is yet to come: set the site's clock"
                )
        return SharedRows(texts, evidence)

    async def new_keys(self, dao: FederationDAO, records: SharedRows) -> int:
        return len(await dao.unknown([each.id for each in records.patterns])) if records.patterns else 0

    async def merge(self, dao: FederationDAO, records: SharedRows, peer: str) -> MergedRows:
        return await dao.merge(records, self.since(dao.now()), peer)

    def since(self, now: datetime) -> date:
        return (now - self._kept).date()

    async def digests(self, dao: FederationDAO, prefixes: Sequence[str], since: date) -> Mapping[str, Digest]:
        return await dao.digests(prefixes, 2, since)

    async def bucket(
        self, dao: FederationDAO, prefixes: Sequence[str], start: str, end: str | None, peer: str, since: date
    ) -> BucketPage[SharedRows]:
        ids = await dao.ids(prefixes, start, MOST_RECORDS if end is not None else _IDS_AT_ONCE, since)
        is_last = end is not None or len(ids) < _IDS_AT_ONCE
        ids = [id_ for id_ in ids if end is None or id_ <= end]
        found = await dao.whole(ids, without=peer, since=since)
        taken = ids if end is not None else _fitting(ids, found, _PAGE_BYTES // 4)
        is_last = is_last and len(taken) == len(ids)
        return BucketPage(self._sendable(_of(found, taken)), None if is_last else taken[-1])

    def chunks(self, records: SharedRows) -> Iterator[SharedRows]:
        ids = sorted({each.id for each in records.patterns} | {each.pattern_id for each in records.evidence})
        while ids:
            taken = _fitting(ids, records, _CHUNK_BYTES)
            yield SharedRows(*_apart(_of(records, taken)))
            ids = ids[len(taken) :]

    def without(self, records: SharedRows, known: SharedRows) -> SharedRows:
        texts, evidence = {*known.patterns}, {*known.evidence}
        return SharedRows(
            [each for each in records.patterns if each not in texts],
            [each for each in records.evidence if each not in evidence],
        )

    def own(self, records: SharedRows, node: str, before: SharedRows | None) -> SharedRows:
        evidence = [row for row in records.evidence if row.node == node]
        counted = {row.pattern_id for row in evidence}
        texts = [
            each
            for each in (*(before.patterns if before else ()), *records.patterns)
            if each.id in counted or each.forgotten_at is not None or each.remembered_at is not None
        ]
        return SharedRows(texts, evidence)


_IDS_AT_ONCE: Final = 500


def _fitting(ids: Sequence[str], rows: SharedRows, most_bytes: int) -> list[str]:
    """As many of the ids, but at least one, as all their rows fit into so many bytes."""
    sizes: Counter[str] = Counter()
    for text in rows.patterns:
        sizes[text.id] += _size(text)
    for each in rows.evidence:
        sizes[each.pattern_id] += _size(each)
    size, taken = 0, list[str]()
    for id_ in ids:
        size += sizes[id_]
        if taken and size > most_bytes:
            break
        taken.append(id_)
    return taken


def _of(rows: SharedRows, ids: Iterable[str]) -> list[SharedPattern | StoredEvidence]:
    chosen = {*ids}
    texts = [each for each in rows.patterns if each.id in chosen]
    return [*texts, *(each for each in rows.evidence if each.pattern_id in chosen)]


def _apart(
    rows: Iterable[SharedPattern | StoredEvidence],
) -> tuple[list[SharedPattern], list[StoredEvidence]]:
    texts: list[SharedPattern] = []
    evidence: list[StoredEvidence] = []
    for row in rows:
        if isinstance(row, SharedPattern):
            texts.append(row)
        else:
            evidence.append(row)
    return texts, evidence


def _rows(tables: Tables, name: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in tables.get(name, ())]


def _size(row: SharedPattern | StoredEvidence) -> int:
    """About how many bytes it has in a message, before it is compressed."""
    if isinstance(row, StoredEvidence):
        return 100
    return 200 + 4 * (
        len(row.signature) + len(row.statement) + len(row.conditions) + len(row.data) + len(row.action or "")
    )


def _packed_text(each: SharedPattern) -> list[Any]:
    return [
        bytes.fromhex(each.id), each.type, each.signature, each.statement, each.conditions, each.action,
        each.data, microseconds(each.created_at), microseconds(each.updated_at), each.version,
        None if each.forgotten_at is None else microseconds(each.forgotten_at),
        None if each.remembered_at is None else microseconds(each.remembered_at),
    ]  # fmt: skip


def _packed_row(each: StoredEvidence) -> tuple[Any, ...]:
    return (
        bytes.fromhex(each.pattern_id), each.node, each.day.toordinal() - _EPOCH_DAY, each.pos, each.neg,
        each.sum_reward, microseconds(each.last_seen), each.version,
    )  # fmt: skip


def _text(row: Text) -> SharedPattern:
    id_, type_, signature, statement, conditions, action, data, *instants, version, forgotten, remembered = (
        row
    )
    created, updated = instants
    return SharedPattern(
        id_.hex(), type_, signature, statement, conditions, action, data, instant(created), instant(updated),
        version, None if forgotten is None else instant(forgotten),
        None if remembered is None else instant(remembered),
    )  # fmt: skip


def _row(row: Row) -> StoredEvidence:
    id_, node, day, pos, neg, reward, seen, version = row
    return StoredEvidence(
        id_.hex(), node, date.fromordinal(day + _EPOCH_DAY), pos, neg, reward, instant(seen), version
    )


def _check_text(text: SharedPattern) -> None:
    """Refused if a pattern can't be stored everywhere, or isn't what its id says."""
    size = max(len(text.signature), len(text.conditions), len(text.data))
    if size > _LONGEST_JSON or _size(text) > MOST_RECORD_BYTES:
        raise Refused(Reason.RECORDS, f"the pattern {text.id} is longer than {_LONGEST_JSON:,} characters")
    try:
        pattern = Pattern(
            PatternType(text.type),
            _object(text.signature),
            text.statement,
            tuple(condition_of(each) for each in _list(text.conditions)),
            text.action,
            _object(text.data),
        )
        fault = fault_of_pattern(pattern)
        id_ = None if fault else pattern.id
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise Refused(Reason.RECORDS, f"the pattern {text.id} makes no sense: {str(error)[:200]}") from None
    if fault is not None:
        raise Refused(Reason.RECORDS, f"the pattern {text.id} can't be stored: {fault[:200]}")
    if id_ != text.id:
        raise Refused(Reason.RECORDS, f"the pattern {text.id} has the signature of {id_}")


def _check_times(text: SharedPattern, latest: datetime) -> None:
    instants = [text.created_at, text.updated_at, text.forgotten_at, text.remembered_at]
    if any(at is not None and at > latest for at in instants):
        raise Refused(Reason.CLOCK, f"the pattern {text.id} is from the future: set the site's clock")
    forgotten, remembered = text.forgotten_at, text.remembered_at
    if forgotten is not None and remembered is not None and forgotten < remembered:
        raise Refused(Reason.RECORDS, f"the pattern {text.id} was remembered and is forgotten")


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text, parse_constant=_no_number)
    if not isinstance(found, dict):
        raise ValueError("it should be an object")
    return found


def _list(text: str) -> list[dict[str, Any]]:
    found = json.loads(text, parse_constant=_no_number)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ValueError("it should be a list of objects")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def day_number(day: date) -> int:
    """A day as it travels."""
    return day.toordinal() - _EPOCH_DAY


def day_of(number: int) -> date:
    """The day that this was."""
    return date.fromordinal(number + _EPOCH_DAY)
