"""Everything that was learnt as one compact file, whole or as an increment since an earlier one.

The container is that of maia.learning.column_file; the header says when, names the base, and has counts, and
each block is a column. Nothing is returned before everything has been verified.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from io import BytesIO
from typing import Any, Final, TypeVar

import msgpack
import numpy as np

from maia.learning.column_file import (
    ColumnFile,
    FileKind,
    SnapshotError,
    id_of,
    making_sense,
    planes,
    planes_in,
)
from maia.learning.column_file import write as pieces_of
from maia.learning.evidence import EvidenceKey, EvidenceRow, merge
from maia.learning.importance import Importance
from maia.learning.patterns import Condition, Operator, Pattern, PatternType

A = TypeVar("A")
T = TypeVar("T")

KIND: Final = FileKind(
    magic=b"\x89PLPAT\r\n", version=2, what="snapshot of patterns", most_bytes=1 << 31, level=6
)

_ID_BYTES: Final = 16
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY: Final = _EPOCH.date().toordinal()
_MICROSECOND: Final = timedelta(microseconds=1)
_DAY_US: Final = 86_400_000_000
_UNKNOWN_US: Final = -(2**63)


@dataclass(frozen=True, slots=True)
class Tombstone:
    """When a pattern was forgotten, and by whom. It keeps the pattern from coming back from a copy."""

    at: datetime
    by: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """A pattern as it is kept. `version` rises with each change of its text, and when it is forgotten."""

    pattern: Pattern
    pinned: bool = False
    importance: Importance | None = None
    version: int = 1
    created_at: datetime | None = None
    updated_at: datetime | None = None
    forgotten: Tombstone | None = None
    remembered_at: datetime | None = None
    """When an operator last let it be learnt again: earlier tombstones of operators no longer count."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Patterns by id, forgotten ones included, and their evidence.

    An increment names its base and holds only what changed since. `removed` are the ids of patterns that are
    gone altogether, and evidence of days before `first_day` had expired by then; both go from the base, too.
    A copy that is `counted_in_all` has sums for evidence, of which nobody knows who counted them.
    """

    created_at: datetime
    patterns: Mapping[str, Remembered] = field(default_factory=dict)
    evidence: Mapping[EvidenceKey, EvidenceRow] = field(default_factory=dict)
    base: str | None = None
    removed: frozenset[str] = frozenset()
    first_day: date | None = None
    counted_in_all: bool = False


def is_snapshot(body: bytes) -> bool:
    """Whether the bytes begin as a snapshot does."""
    return body.startswith(KIND.magic)


def write(snapshot: Snapshot) -> bytes:
    """The snapshot as bytes; ValueError if it holds what can't be written, such as NaN in a figure."""
    if both := snapshot.patterns.keys() & snapshot.removed:
        raise ValueError(f"{min(both)} is there and removed at once")
    header = {
        "base": snapshot.base,
        "created_at_us": _microseconds(snapshot.created_at),
        "evidence": len(snapshot.evidence),
        "first_day": None if snapshot.first_day is None else _day(snapshot.first_day),
        "patterns": len(snapshot.patterns),
        "removed": len(snapshot.removed),
    }
    return b"".join(pieces_of(KIND, header, _blocks_of(snapshot).items()))


def read(snapshot: bytes) -> Snapshot:
    """The snapshot in these bytes; SnapshotError says what is damaged, before anything of it is returned."""
    with making_sense(KIND):
        file = ColumnFile(BytesIO(snapshot), KIND)
        return _Columns(file.header, dict(file.blocks())).snapshot()


def difference(base: Snapshot, base_id: str, now: Snapshot) -> Snapshot:
    """The increment that turns the base into the present: what is new, changed or removed."""
    return replace(
        now,
        patterns=_changed(base.patterns, now.patterns),
        evidence=_changed(base.evidence, now.evidence),
        base=base_id,
        removed=frozenset(base.patterns.keys() - now.patterns.keys()),
    )


def apply(base: Snapshot, base_id: str, increment: Snapshot) -> Snapshot:
    """The state that the increment was made of; SnapshotError if it belongs to another base."""
    if increment.base != base_id:
        raise SnapshotError(f"the increment is for the base {increment.base}, not for {base_id}")
    patterns = {
        id_: each
        for id_, each in {**base.patterns, **increment.patterns}.items()
        if id_ not in increment.removed
    }
    first = increment.first_day
    evidence = {
        key: row
        for key, row in merge(base.evidence, increment.evidence).items()
        if key.pattern_id not in increment.removed and (first is None or key.day >= first)
    }
    return replace(increment, patterns=patterns, evidence=evidence, base=base.base, removed=base.removed)


def restored(files: Sequence[bytes]) -> Snapshot:
    """The state of a full snapshot and the increments after it, in their order, all verified first."""
    if not files:
        raise SnapshotError("there is no snapshot to restore")
    full, *increments = [(id_of(each), read(each)) for each in files]
    if full[1].base is not None:
        raise SnapshotError(
            f"the first snapshot is an increment; its base {full[1].base} must come before it"
        )
    return reduce(lambda state, each: (each[0], apply(state[1], state[0], each[1])), increments, full)[1]


def _changed(old: Mapping[Any, Any], new: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: value for key, value in new.items() if old.get(key) != value}


# Writing


def _blocks_of(snapshot: Snapshot) -> dict[str, bytes]:
    ids = sorted({*snapshot.patterns, *snapshot.removed, *(key.pattern_id for key in snapshot.evidence)})
    index = {id_: nth for nth, id_ in enumerate(ids)}
    return {
        "ids": b"".join(map(_id_bytes, ids)),
        **_pattern_blocks(snapshot.patterns, index),
        **_evidence_blocks(snapshot.evidence, index),
        "removed": _numbers(sorted(index[id_] for id_ in snapshot.removed), "u4"),
    }


def _pattern_blocks(patterns: Mapping[str, Remembered], index: Mapping[str, int]) -> dict[str, bytes]:
    rows = [(id_, patterns[id_]) for id_ in sorted(patterns)]
    found = [each.pattern for _, each in rows]
    valued = [each.importance for _, each in rows if each.importance is not None]
    return {
        "patterns.id": _numbers([index[id_] for id_, _ in rows], "u4"),
        "patterns.type": _texts([each.type.value for each in found]),
        "patterns.signature": _texts([_json(each.signature) for each in found]),
        "patterns.statement": _texts([each.statement for each in found]),
        "patterns.conditions": _texts([_conditions(each) for each in found]),
        "patterns.action": _texts([each.action for each in found]),
        "patterns.data": _texts([_json(each.data) for each in found]),
        "patterns.pinned": _numbers([each.pinned for _, each in rows], "u1"),
        "patterns.valued": _numbers([each.importance is not None for _, each in rows], "u1"),
        "patterns.version": _numbers([each.version for _, each in rows], "i8"),
        "patterns.created_at": _instants([each.created_at for _, each in rows]),
        "patterns.updated_at": _instants([each.updated_at for _, each in rows]),
        "patterns.forgotten_at": _instants(
            [each.forgotten.at if each.forgotten else None for _, each in rows]
        ),
        "patterns.remembered_at": _instants([each.remembered_at for _, each in rows]),
        "patterns.forgotten_by": _texts([each.forgotten.by if each.forgotten else None for _, each in rows]),
        "importance.sti": _numbers([each.sti for each in valued], "f8"),
        "importance.lti": _numbers([each.lti for each in valued], "f8"),
        "importance.at": _instants([each.at for each in valued]),
    }


def _evidence_blocks(
    evidence: Mapping[EvidenceKey, EvidenceRow], index: Mapping[str, int]
) -> dict[str, bytes]:
    rows = sorted(evidence.items())
    nodes = sorted({key.node for key in evidence})
    numbered = {node: nth for nth, node in enumerate(nodes)}
    days = [_day(key.day) for key, _ in rows]
    # Within its day, an instant needs fewer bytes.
    seen = [_microseconds(row.last_seen) - day * _DAY_US for (_, row), day in zip(rows, days, strict=True)]
    return {
        "evidence.nodes": _texts(nodes),
        "evidence.pattern": _numbers([index[key.pattern_id] for key, _ in rows], "u4"),
        "evidence.node": _numbers([numbered[key.node] for key, _ in rows], "u4"),
        "evidence.day": _numbers(days, "i4"),
        "evidence.pos": _numbers([row.pos for _, row in rows], "i8"),
        "evidence.neg": _numbers([row.neg for _, row in rows], "i8"),
        "evidence.sum_reward": _numbers([row.sum_reward for _, row in rows], "f8"),
        "evidence.last_seen": _numbers(seen, "i8"),
        "evidence.version": _numbers([row.version for _, row in rows], "i8"),
    }


def _id_bytes(id_: str) -> bytes:
    try:
        packed = bytes.fromhex(id_)
    except ValueError:
        packed = b""
    if len(packed) != _ID_BYTES or packed.hex() != id_:
        raise ValueError(f"{id_!r} is no id of a pattern: those have {2 * _ID_BYTES} hexadecimal digits")
    return packed


def _texts(values: Sequence[str | None]) -> bytes:
    packed: bytes = msgpack.packb(values, use_bin_type=True)
    return packed


def _numbers(values: Iterable[float], dtype: str) -> bytes:
    return planes(np.array(list(values), dtype))


def _instants(instants: Iterable[datetime | None]) -> bytes:
    return _numbers([_UNKNOWN_US if each is None else _microseconds(each) for each in instants], "i8")


def _json(value: object) -> str:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
    )


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a snapshot cannot hold {value!r}")


def _conditions(pattern: Pattern) -> str:
    return _json([[each.field, each.operator.value, each.value] for each in pattern.conditions])


def _microseconds(instant: datetime) -> int:
    if instant.tzinfo is None:
        raise ValueError(f"{instant} must say its time zone")
    return (instant - _EPOCH) // _MICROSECOND


def _day(day: date) -> int:
    return day.toordinal() - _EPOCH_DAY


# Reading


class _Columns:
    """Turns verified blocks back into a snapshot."""

    def __init__(self, header: Mapping[str, Any], blocks: Mapping[str, bytes]) -> None:
        self._header, self._blocks = header, blocks
        raw = blocks["ids"]
        self._ids = [raw[at : at + _ID_BYTES].hex() for at in range(0, len(raw), _ID_BYTES)]

    def snapshot(self) -> Snapshot:
        first = self._header["first_day"]
        found = Snapshot(
            _instant(self._header["created_at_us"]),
            self._patterns(),
            self._evidence(),
            self._header["base"],
            frozenset(self._ids[nth] for nth in self._numbers("removed", "u4")),
            None if first is None else _date(first),
        )
        for name in ("patterns", "evidence", "removed"):
            if len(getattr(found, name)) != self._header[name]:
                raise ValueError(f"it has another number of {name} than its header says")
        return found

    def _patterns(self) -> dict[str, Remembered]:
        importances = iter(self._importances())
        rows = zip(
            self._numbers("patterns.id", "u4"),
            self._statements(),
            self._numbers("patterns.pinned", "u1"),
            self._numbers("patterns.valued", "u1"),
            self._numbers("patterns.version", "i8"),
            self._instants("patterns.created_at"),
            self._instants("patterns.updated_at"),
            self._tombstones(),
            self._remembered_at(),
            strict=True,
        )
        read: dict[str, Remembered] = {}
        for nth, pattern, pinned, valued, version, created_at, updated_at, forgotten, remembered_at in rows:
            id_ = self._ids[nth]
            if pattern.id != id_:
                raise ValueError(f"the pattern {id_} has the signature of {pattern.id}")
            importance = next(importances) if valued else None
            read[id_] = Remembered(
                pattern, bool(pinned), importance, version, created_at, updated_at, forgotten, remembered_at
            )
        return read

    def _statements(self) -> list[Pattern]:
        rows = zip(*(self._texts(f"patterns.{name}") for name in _TEXT_COLUMNS), strict=True)
        # Many patterns have the same conditions.
        conditions_of = _remembering(_conditions_in)
        return [
            Pattern(
                PatternType(type_),
                json.loads(signature),
                statement,
                conditions_of(conditions),
                action,
                json.loads(data),
            )
            for type_, signature, statement, conditions, action, data in rows
        ]

    def _tombstones(self) -> list[Tombstone | None]:
        rows = zip(self._instants("patterns.forgotten_at"), self._texts("patterns.forgotten_by"), strict=True)
        return [None if at is None else Tombstone(at, by) for at, by in rows]

    def _remembered_at(self) -> list[datetime | None]:
        # Format version 1 did not have it.
        known = "patterns.remembered_at" in self._blocks
        return self._instants("patterns.remembered_at") if known else [None] * len(self._tombstones())

    def _importances(self) -> list[Importance]:
        rows = zip(
            self._numbers("importance.sti", "f8"),
            self._numbers("importance.lti", "f8"),
            self._numbers("importance.at", "i8"),
            strict=True,
        )
        return [Importance(sti, lti, _instant(at)) for sti, lti, at in rows]

    def _instants(self, name: str) -> list[datetime | None]:
        return [None if each == _UNKNOWN_US else _instant(each) for each in self._numbers(name, "i8")]

    def _evidence(self) -> dict[EvidenceKey, EvidenceRow]:
        nodes = self._texts("evidence.nodes")
        days = _remembering(_date)
        rows = zip(
            *(self._numbers(f"evidence.{name}", dtype) for name, dtype in _EVIDENCE_COLUMNS), strict=True
        )
        return {
            EvidenceKey(self._ids[nth], nodes[node], days(day)): EvidenceRow(
                pos, neg, reward, _instant(day * _DAY_US + seen), version
            )
            for nth, node, day, pos, neg, reward, seen, version in rows
        }

    def _texts(self, name: str) -> list[Any]:
        found = msgpack.unpackb(self._blocks[name], raw=False)
        if not isinstance(found, list):
            raise TypeError(f"the block {name} is no list")
        return found

    def _numbers(self, name: str, dtype: str) -> list[Any]:
        raw, kind = self._blocks[name], np.dtype(dtype).newbyteorder("<")
        column: list[Any] = np.frombuffer(planes_in(raw, kind).T.tobytes(), kind).tolist()
        return column


_TEXT_COLUMNS: Final = ("type", "signature", "statement", "conditions", "action", "data")
_EVIDENCE_COLUMNS: Final = (
    ("pattern", "u4"),
    ("node", "u4"),
    ("day", "i4"),
    ("pos", "i8"),
    ("neg", "i8"),
    ("sum_reward", "f8"),
    ("last_seen", "i8"),
    ("version", "i8"),
)


def _instant(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _date(day: int) -> date:
    return date.fromordinal(day + _EPOCH_DAY)


def _conditions_in(text: str) -> tuple[Condition, ...]:
    return tuple(Condition(name, Operator(operator), value) for name, operator, value in json.loads(text))


def _remembering(function: Callable[[A], T]) -> Callable[[A], T]:
    """The function, called once for each of few arguments."""
    known: dict[A, T] = {}

    def call(argument: A) -> T:
        if argument not in known:
            known[argument] = function(argument)
        return known[argument]

    return call
