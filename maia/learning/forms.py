"""Patterns as JSON and as columns: one stable file each for Git and for import, and rows for Parquet.

Equal patterns make equal bytes wherever they are written: keys are sorted, instants are in UTC, and figures
have a bounded number of digits. A pattern's signature and conditions are never rounded, because they say
what it is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar, Final

from maia.learning.admission import MOST_REWARD, fault_of_value
from maia.learning.evidence import FLAT, Counts, Evidence, EvidenceKey, EvidenceRow, Prior
from maia.learning.known_patterns import KnownPattern, known
from maia.learning.patterns import Condition, Operator, Pattern, PatternType

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT: Final = 1
"""The version of the JSON form; newer ones are refused."""

_DIGITS: Final = 6
_MAX_BYTES: Final = 1 << 20
_MAX_COUNT: Final = 2**63 - 1
_PATH: Final = re.compile(r"[a-z_]+/[0-9a-f]{32}\.json")
_KEYS: Final = frozenset(
    {"format", "id", "type", "signature", "statement", "conditions", "action", "data", "evidence", "pinned"}
)
_EVIDENCE_KEYS: Final = frozenset({"pos", "neg", "reward", "last_seen", "strength", "confidence"})
_EXPORT_KEYS: Final = frozenset({"format", "patterns", "evidence"})
_ROW_KEYS: Final = frozenset({"pattern", "node", "day", "pos", "neg", "reward", "last_seen", "version"})
_LONGEST_NODE: Final = 100


class FormError(ValueError):
    """A file that is no pattern; says which field is wrong and what is expected of it."""


def path_of(each: KnownPattern) -> str:
    """Where a pattern's file stands: a folder a type."""
    return f"{each.pattern.type}/{each.id}.json"


def is_path(path: str) -> bool:
    """Whether a pattern's file could stand there."""
    return _PATH.fullmatch(path) is not None


def files(patterns: Iterable[KnownPattern]) -> dict[str, bytes]:
    """Each pattern's file by its path."""
    return {path_of(each): to_json(each) for each in patterns}


def to_json(each: KnownPattern) -> bytes:
    """A pattern as JSON with sorted keys and a newline at the end; ValueError if it holds what JSON can't."""
    return _written(_object_of(each))


def document(patterns: Iterable[KnownPattern]) -> bytes:
    """All patterns as one JSON array in the order of their ids, in the same form as the files."""
    return _written([_object_of(each) for each in sorted(patterns, key=lambda each: each.id)])


@dataclass(frozen=True, slots=True)
class Export:
    """Patterns with the rows of their evidence: who counted them on which day, or only how much in all."""

    patterns: Sequence[KnownPattern]
    evidence: Evidence
    counted_in_all: bool = False


def export(patterns: Iterable[KnownPattern], evidence: Evidence) -> bytes:
    """Patterns and their evidence as one JSON object, which merges with others without counting twice."""
    return _written(
        {
            "format": FORMAT,
            "patterns": [_object_of(each) for each in sorted(patterns, key=lambda each: each.id)],
            "evidence": [
                {
                    "pattern": key.pattern_id,
                    "node": key.node,
                    "day": key.day.isoformat(),
                    "pos": row.pos,
                    "neg": row.neg,
                    "reward": row.sum_reward,
                    "last_seen": _written_instant(row.last_seen),
                    "version": row.version,
                }
                for key, row in sorted(evidence.items())
            ],
        }
    )


def from_export(body: bytes, name: str = "patterns") -> Export:
    """The patterns and evidence of an export; FormError if anything in it is wrong.

    An array of patterns will do, too: what they say was counted in all is taken as counted elsewhere.
    """
    found = _parsed(body, name, limit=None)
    if isinstance(found, list):
        return counted_elsewhere(_patterns_in(found, name, FLAT))
    if not isinstance(found, dict) or found.keys() != _EXPORT_KEYS:
        raise FormError(f"{name} must be an object with {', '.join(sorted(_EXPORT_KEYS))}, or an array")
    if found["format"] != FORMAT:
        raise FormError(f"{name}: format is {found['format']!r}, but this version reads {FORMAT}")
    if not isinstance(found["patterns"], list) or not isinstance(found["evidence"], list):
        raise FormError(f"{name}: patterns and evidence must be arrays")
    patterns = _patterns_in(found["patterns"], f"{name}: patterns", FLAT)
    ids = {each.id for each in patterns}
    evidence: Evidence = {}
    for index, row in enumerate(found["evidence"]):
        where = f"{name}: evidence[{index}]"
        key, counted = _RowReader(where, row).row()
        if key in evidence or key.pattern_id not in ids:
            wrong = "comes twice" if key in evidence else "is of a pattern that is not in the file"
            raise FormError(f"{where} {wrong}")
        evidence[key] = counted
    return Export(patterns, evidence)


def counted_elsewhere(patterns: Sequence[KnownPattern]) -> Export:
    """Patterns without rows as if a site of its own had counted them, each on the day it was last seen.

    The site's name is a hash of the patterns, so that the same ones are never counted twice. Later states of
    them have another, so that whoever merges them must leave out what is known already.
    """
    node = f"import-{blake2b(document(patterns), digest_size=8).hexdigest()}"
    evidence = {
        EvidenceKey(each.id, node, each.last_seen.date()): EvidenceRow(
            each.counts.pos, each.counts.neg, each.counts.reward, each.last_seen, 1
        )
        for each in patterns
        if each.last_seen is not None and each.support
    }
    return Export(patterns, evidence, counted_in_all=True)


def from_json(body: bytes, name: str = "pattern", prior: Prior = FLAT) -> KnownPattern:
    """The pattern of a file; FormError, beginning with `name`, if it isn't one.

    Strength and confidence are computed from the counts: what the file says of them is for people.
    """
    found = _Reader(name, _parsed(body, name)).pattern()
    return _believed([found], prior)[0]


def from_document(body: bytes, name: str = "patterns", prior: Prior = FLAT) -> list[KnownPattern]:
    """The patterns of an array; FormError if any is wrong or comes twice."""
    items = _parsed(body, name, limit=None)
    if not isinstance(items, list):
        raise FormError(f"{name} must be an array of patterns")
    return _patterns_in(items, name, prior)


def _patterns_in(items: Sequence[Any], name: str, prior: Prior) -> list[KnownPattern]:
    read = [_Reader(f"{name}[{index}]", item).pattern() for index, item in enumerate(items)]
    seen: set[str] = set()
    for index, (pattern, _, _) in enumerate(read):
        if pattern.id in seen:
            raise FormError(f"{name}[{index}] has the id of an earlier pattern, {pattern.id}")
        seen.add(pattern.id)
    return _believed(read, prior)


def from_files(bodies: Mapping[str, bytes], prior: Prior = FLAT) -> list[KnownPattern]:
    """The patterns of files by path, in the order of the paths; FormError if any file is wrong."""
    read = []
    for path in sorted(bodies):
        if not is_path(path):
            raise FormError(
                f"{path} is no path of a pattern, such as tool_usage/{'0123456789abcdef' * 2}.json"
            )
        pattern, counts, pinned = _Reader(path, _parsed(bodies[path], path)).pattern()
        if path != f"{pattern.type}/{pattern.id}.json":
            raise FormError(f"{path} holds the pattern of {pattern.type}/{pattern.id}.json")
        read.append((pattern, counts, pinned))
    return _believed(read, prior)


def columns(patterns: Iterable[KnownPattern]) -> dict[str, list[Any]]:
    """The patterns as columns in the order of their ids; structures are JSON texts."""
    rows = [_row_of(each) for each in sorted(patterns, key=lambda each: each.id)]
    return {name: [row[name] for row in rows] for name in _COLUMN_TYPES}


def table(patterns: Iterable[KnownPattern]) -> pa.Table:
    """The same columns as an Arrow table, whose types don't depend on what is in them."""
    import pyarrow as pa

    types = {
        "text": pa.string(),
        "count": pa.int64(),
        "number": pa.float64(),
        "instant": pa.timestamp("us", "UTC"),
        "flag": pa.bool_(),
    }
    fields = [pa.field(name, types[kind], nullable=name in _NULLABLE) for name, kind in _COLUMN_TYPES.items()]
    return pa.table(columns(patterns), schema=pa.schema(fields))


_COLUMN_TYPES: Final = {
    "id": "text",
    "type": "text",
    "statement": "text",
    "action": "text",
    "conditions": "text",
    "signature": "text",
    "data": "text",
    "pos": "count",
    "neg": "count",
    "reward": "number",
    "strength": "number",
    "confidence": "number",
    "last_seen": "instant",
    "pinned": "flag",
}
_NULLABLE: Final = frozenset({"action", "last_seen"})


def rounded(value: object) -> Any:
    """The value with every float in it rounded to six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each) for each in value]
    return value


def _row_of(each: KnownPattern) -> dict[str, Any]:
    pattern, counts = each.pattern, each.counts
    return {
        "id": each.id,
        "type": pattern.type.value,
        "statement": pattern.statement,
        "action": pattern.action,
        "conditions": compact([asdict(condition) for condition in pattern.conditions]),
        "signature": compact(pattern.signature),
        "data": compact(pattern.data),
        "pos": counts.pos,
        "neg": counts.neg,
        "reward": counts.reward,
        "strength": each.strength,
        "confidence": each.confidence,
        "last_seen": counts.last_seen,
        "pinned": each.pinned,
    }


def _object_of(each: KnownPattern) -> dict[str, Any]:
    pattern, counts = each.pattern, each.counts
    return {
        "format": FORMAT,
        "id": each.id,
        "type": pattern.type.value,
        "signature": pattern.signature,
        "statement": pattern.statement,
        "conditions": [asdict(condition) for condition in pattern.conditions],
        "action": pattern.action,
        "data": rounded(pattern.data),
        "evidence": {
            "pos": counts.pos,
            "neg": counts.neg,
            "reward": rounded(float(counts.reward)),
            "last_seen": _written_instant(counts.last_seen),
            "strength": rounded(each.strength),
            "confidence": rounded(each.confidence),
        },
        "pinned": each.pinned,
    }


def _written(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    return text.encode() + b"\n"


def compact(value: object) -> str:
    """The value as JSON with sorted keys in as little space as possible."""
    return json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
        default=_plain,
    )


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"JSON cannot hold {value!r}")


def _written_instant(instant: datetime | None) -> str | None:
    if instant is None:
        return None
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _parsed(body: bytes, name: str, limit: int | None = _MAX_BYTES) -> Any:
    if limit is not None and len(body) > limit:
        raise FormError(f"{name} is larger than {limit:,} bytes")
    try:
        found = json.loads(
            body.decode("utf-8-sig"),
            object_pairs_hook=_without_repeats,
            parse_float=_finite,
            parse_constant=_no_constant,
        )
        if rb"\ud" in body.lower():
            # Written as two escapes, a character is whole; one of them alone is none.
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise FormError(f"{name} is no JSON: {error}") from error
    return found


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice in one object")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large a number")
    return number


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


def _believed(read: Sequence[tuple[Pattern, Counts, bool]], prior: Prior) -> list[KnownPattern]:
    pins = [pattern.id for pattern, _, pinned in read if pinned]
    return known([(pattern, counts) for pattern, counts, _ in read], prior, pins)


class _Reader:
    """Reads one pattern's JSON object and says of every fault where it is."""

    keys: ClassVar[frozenset[str]] = _KEYS

    def __init__(self, name: str, found: Any) -> None:
        self._name = name
        self._found = self._object("", found, self.keys)

    def pattern(self) -> tuple[Pattern, Counts, bool]:
        version = self._count("format", self._found)
        if version > FORMAT:
            raise self._wrong(
                "format", f"is {version}: a newer version wrote it; this one reads up to {FORMAT}"
            )
        action = self._found["action"]
        pattern = Pattern(
            self._choice("type", self._found, PatternType),
            self._mapping("signature"),
            self._text("statement", self._found),
            self._conditions(),
            None if action is None else self._text("action", self._found),
            self._mapping("data"),
        )
        if (id_ := self._text("id", self._found)) != pattern.id:
            raise self._wrong("id", f"is {id_!r}, but type and signature make it {pattern.id!r}")
        pinned = self._found["pinned"]
        if not isinstance(pinned, bool):
            raise self._wrong("pinned", "must be true or false")
        return pattern, self._counts(), pinned

    def _conditions(self) -> tuple[Condition, ...]:
        found = self._found["conditions"]
        if not isinstance(found, list):
            raise self._wrong("conditions", "must be an array")
        return tuple(self._condition(f"conditions[{index}]", each) for index, each in enumerate(found))

    def _condition(self, where: str, found: Any) -> Condition:
        members = self._object(where, found, frozenset({"field", "operator", "value"}))
        value = members["value"]
        if isinstance(value, (dict, list)):
            raise self._wrong(f"{where}.value", "must be a text, number, boolean or null")
        if fault := fault_of_value(value):
            raise self._wrong(f"{where}.value", fault)
        field = self._text("field", members, where)
        operator = self._choice("operator", members, Operator, where)
        try:
            return Condition(field, operator, value)
        except ValueError as error:
            raise self._wrong(where, f"is wrong: {error}") from error

    def _counts(self) -> Counts:
        where = "evidence"
        members = self._object(where, self._found[where], _EVIDENCE_KEYS)
        return Counts(
            self._count("pos", members, where),
            self._count("neg", members, where),
            self._reward(members, "evidence.reward"),
            self._instant(members["last_seen"]),
        )

    def _reward(self, members: Mapping[str, Any], where: str) -> float:
        reward = members["reward"]
        if isinstance(reward, bool) or not isinstance(reward, (int, float)) or abs(reward) > MOST_REWARD:
            raise self._wrong(where, "must be a number")
        return float(reward)

    def _instant(self, found: Any, where: str = "evidence.last_seen") -> datetime | None:
        if found is None:
            return None
        try:
            instant = datetime.fromisoformat(found)
        except (TypeError, ValueError) as error:
            raise self._wrong(where, "must be an instant such as 2026-11-29T12:00:00Z") from error
        if instant.tzinfo is None:
            raise self._wrong(where, "must say its time zone, such as Z")
        try:
            return instant.astimezone(UTC)
        except OverflowError as error:
            raise self._wrong(where, "is beyond the years that can be told") from error

    def _object(self, where: str, found: Any, keys: frozenset[str]) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise self._wrong(where, "must be an object")
        if missing := sorted(keys - found.keys()):
            raise self._wrong(where, f"lacks {', '.join(missing)}")
        if unknown := sorted(found.keys() - keys):
            raise self._wrong(where, f"has unknown keys: {', '.join(unknown)}")
        return found

    def _mapping(self, where: str) -> dict[str, Any]:
        found = self._found[where]
        if not isinstance(found, dict):
            raise self._wrong(where, "must be an object")
        if fault := fault_of_value(found):
            raise self._wrong(where, fault)
        return found

    def _text(self, key: str, members: Mapping[str, Any], where: str = "") -> str:
        found = members[key]
        if not isinstance(found, str) or not found:
            raise self._wrong(_joined(where, key), "must be a text that is not empty")
        return found

    def _count(self, key: str, members: Mapping[str, Any], where: str = "") -> int:
        found = members[key]
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= _MAX_COUNT:
            raise self._wrong(_joined(where, key), "must be a whole number that is not negative")
        return found

    def _choice(self, key: str, members: Mapping[str, Any], choices: Any, where: str = "") -> Any:
        try:
            return choices(members[key])
        except ValueError as error:
            listed = ", ".join(choices)
            raise self._wrong(_joined(where, key), f"must be one of {listed}") from error

    def _wrong(self, where: str, what: str) -> FormError:
        return FormError(f"{self._name}: {where} {what}" if where else f"{self._name} {what}")


class _RowReader(_Reader):
    """Reads one row of evidence."""

    keys = _ROW_KEYS

    def row(self) -> tuple[EvidenceKey, EvidenceRow]:
        node = self._text("node", self._found)
        if len(node) > _LONGEST_NODE:
            raise self._wrong("node", f"is longer than {_LONGEST_NODE} characters")
        last_seen = self._instant(self._found["last_seen"], "last_seen")
        version = self._count("version", self._found)
        if last_seen is None or version < 1:
            raise self._wrong("", "needs last_seen, and a version of 1 or more")
        pos, neg = self._count("pos", self._found), self._count("neg", self._found)
        reward = self._reward(self._found, "reward")
        key = EvidenceKey(self._text("pattern", self._found), node, self._day())
        return key, EvidenceRow(pos, neg, reward, last_seen, version)

    def _day(self) -> date:
        try:
            return date.fromisoformat(self._text("day", self._found))
        except ValueError as error:
            raise self._wrong("day", "must be a day such as 2026-11-29") from error


def _joined(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
