"""What a pattern is: a typed statement with conditions and perhaps an action, known by what it says alone."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from functools import lru_cache
from typing import Final, Self

from maia.learning.evidence import Counts
from maia.learning.observations import Scalar, storable

_ID_BYTES: Final = 16
_MAYBE_STORED_OTHERWISE: Final = re.compile(r"\\u0000|[\ud800-\udfff]|e\+|-0\.0|\d{19}")
"""Finds in JSON what `storable` may change. It costs as much as the hash, and is hardly ever needed."""


class PatternType(StrEnum):
    """The kinds of statement that detectors make; docs/learning.md has an example of each."""

    TASK_SEQUENCE = "task_sequence"
    ERROR_RECOVERY = "error_recovery"
    TOOL_USAGE = "tool_usage"
    OPTIMIZATION = "optimization"
    SUCCESS_PATH = "success_path"
    FAILURE_MODE = "failure_mode"
    USER_PREFERENCE = "user_preference"
    CONTEXT_SWITCH = "context_switch"
    SEASONAL_PROFILE = "seasonal_profile"
    THRESHOLD = "threshold"
    ANOMALY = "anomaly"
    CHANGE_POINT = "change_point"
    VELOCITY_ARCHETYPE = "velocity_archetype"


class Operator(StrEnum):
    """How a condition compares a field of the context with its value."""

    EQUALS = "="
    DIFFERS = "!="
    ABOVE = ">"
    AT_LEAST = ">="
    BELOW = "<"
    AT_MOST = "<="


_ORDERED: Final = frozenset({Operator.ABOVE, Operator.AT_LEAST, Operator.BELOW, Operator.AT_MOST})


@dataclass(frozen=True, slots=True, order=True)
class Condition:
    """A predicate over one field of a context; ValueError if the operator can't compare such a value."""

    field: str
    operator: Operator
    value: str | float | bool | None

    def __post_init__(self) -> None:
        if self.operator in _ORDERED and not _is_number(self.value):
            raise ValueError(f"{self.field} {self.operator} needs a number, not {self.value!r}")

    def holds(self, context: Mapping[str, Scalar]) -> bool:
        """Whether the context meets it; a missing field meets nothing, not even `!=`."""
        if self.field not in context:
            return False
        found = context[self.field]
        if self.operator is Operator.EQUALS:
            return _same(found, self.value)
        if self.operator is Operator.DIFFERS:
            return not _same(found, self.value)
        if not _is_number(found):
            return False
        assert isinstance(found, (int, float))
        assert isinstance(self.value, (int, float))
        match self.operator:
            case Operator.ABOVE:
                return found > self.value
            case Operator.AT_LEAST:
                return found >= self.value
            case Operator.BELOW:
                return found < self.value
        return found <= self.value

    def as_dict(self) -> dict[str, Scalar]:
        """The condition as plain values, from which `condition_of` makes it again."""
        return {"field": self.field, "operator": self.operator.value, "value": self.value}

    def __str__(self) -> str:
        return _text_of(self.field, self.operator, self.value)


# True is not 1, and neither is 1.0.
@lru_cache(maxsize=200_000, typed=True)
def _text_of(field: str, operator: Operator, value: str | float | bool | None) -> str:
    if isinstance(value, bool) or value is None:
        return f"{field} {operator} {json.dumps(value)}"
    return f"{field} {operator} {value:g}" if _is_number(value) else f"{field} {operator} {value}"


def condition_of(plain: Mapping[str, object]) -> Condition:
    """The condition that `as_dict` wrote; ValueError if this is none."""
    name, value = plain.get("field"), plain.get("value")
    if not isinstance(name, str) or not isinstance(value, (str, int, float, bool, type(None))):
        raise ValueError(f"{dict(plain)!r} is no condition: it needs field, operator and value")
    return Condition(name, Operator(str(plain.get("operator"))), value)


def equals(context: Mapping[str, Scalar]) -> tuple[Condition, ...]:
    """The conditions that these fields have these values, in the order of their names."""
    return tuple(Condition(name, Operator.EQUALS, context[name]) for name in sorted(context))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same(one: object, other: object) -> bool:
    # True is not 1: a context tells them apart.
    return one == other and isinstance(one, bool) == isinstance(other, bool)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A statement. `signature` says what it is about, canonically; together with the type it makes the id.

    `statement` is the sentence that people read, `action` what it advises (None if it only describes),
    and `data` figures that go with it and may change, such as a typical duration. Neither is in the id.
    """

    type: PatternType
    signature: Mapping[str, object]
    statement: str
    conditions: tuple[Condition, ...] = ()
    action: str | None = None
    data: Mapping[str, object] = field(default_factory=dict)
    _id: str | None = field(default=None, init=False, repr=False, compare=False)
    _set: frozenset[Condition] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def id(self) -> str:
        if self._id is None:
            # It costs a hash, and is asked for again and again.
            object.__setattr__(self, "_id", pattern_id(self.type, self.signature))
        assert self._id is not None
        return self._id

    @property
    def condition_set(self) -> frozenset[Condition]:
        if self._set is None:
            # It costs a hash of each condition, and is asked for again and again.
            object.__setattr__(self, "_set", frozenset(self.conditions))
        assert self._set is not None
        return self._set


def pattern_id(type_: PatternType, signature: Mapping[str, object]) -> str:
    """32 hexadecimal digits, equal for equal signatures wherever, whenever and from whatever copy."""
    text = _canonical(type_, signature)
    if _MAYBE_STORED_OTHERWISE.search(text):
        text = _canonical(type_, storable(signature))
    return hashlib.blake2b(text.encode(), digest_size=_ID_BYTES).hexdigest()


def _canonical(type_: PatternType, signature: object) -> str:
    return json.dumps(
        [type_.value, signature], sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


@dataclass(frozen=True, slots=True)
class Finding:
    """A pattern with the evidence that a detector gained for it since it last reported, by UTC day."""

    pattern: Pattern
    evidence: Mapping[date, Counts]

    def with_more(self, evidence: Mapping[date, Counts]) -> Self:
        """The same with further evidence."""
        days = dict(self.evidence)
        for day, counts in evidence.items():
            days[day] = days[day] + counts if day in days else counts
        return type(self)(self.pattern, days)

    def followed_by(self, later: Finding) -> Finding:
        """Both findings of one pattern as one; of its statements and figures the later ones count."""
        return later.with_more(self.evidence)


def combined(findings: Sequence[Finding]) -> list[Finding]:
    """One finding a pattern; of its statements and figures the last ones count."""
    by_id: dict[str, Finding] = {}
    for each in findings:
        earlier = by_id.get(each.pattern.id)
        by_id[each.pattern.id] = earlier.followed_by(each) if earlier else each
    return list(by_id.values())
