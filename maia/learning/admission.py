"""What a copy of patterns may hold: values that a database keeps as they are, and figures that add up.

A copy may come from anywhere. One counter near the largest integer would be enough that no evidence can be
added up any more, so nothing is merged before all of it has been looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Final

from maia.learning.evidence import EvidenceKey, EvidenceRow
from maia.learning.patterns import Pattern
from maia.learning.snapshots import Remembered, Snapshot

DEEPEST: Final = 20
"""How deeply objects and arrays may be nested."""
MOST_REWARD: Final = 1e100
LONGEST: Final[Mapping[str, int]] = {"statement": 2_000, "action": 200}

MOST_COUNT: Final = 2**53
FOREIGN_COUNT: Final = 10**12
"""Counts of others go on to be added to, and must be far enough from the most that can be restored."""
_MOST_VERSION: Final = 2**53
_MOST_IMPORTANCE: Final = 1e12
_LONGEST_NODE: Final = 100
_MOST_CONDITIONS: Final = 100
_INTEGER_END: Final = 2**63
_BEGIN: Final = datetime(1970, 1, 1, tzinfo=UTC)


def fault_of(copy: Snapshot, most_count: int = MOST_COUNT) -> str | None:
    """The first thing in a copy that must not be stored, and why; None if there is nothing."""
    return next(chain(_of_patterns(copy.patterns), _of_evidence(copy.evidence, most_count)), None)


def fault_of_value(value: object, deepest: int = DEEPEST) -> str | None:
    """Why a value doesn't come back from a database, or from JSON, as it is; None if it does."""
    if isinstance(value, str):
        return _fault_of_text(value)
    if isinstance(value, (int, float)):
        return _fault_of_number(value)
    if isinstance(value, (Mapping, list, tuple)):
        if not deepest:
            return "is nested too deeply"
        inner = [*value, *value.values()] if isinstance(value, Mapping) else value
        return _first(fault_of_value(each, deepest - 1) for each in inner)
    return None if value is None else f"holds {type(value).__name__}, which is no JSON"


def _fault_of_text(text: str) -> str | None:
    if "\0" in text:
        return "holds the character NUL"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "holds half of a character"
    return None


def _fault_of_number(number: float) -> str | None:
    if isinstance(number, int):
        return None if -_INTEGER_END <= number < _INTEGER_END else "holds an integer of more than 64 bits"
    return None if math.isfinite(number) else "holds a number that is not finite"


def _has_negative_zero(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_negative_zero, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_has_negative_zero, value))
    return isinstance(value, float) and not value and math.copysign(1, value) < 0


def _of_patterns(patterns: Mapping[str, Remembered]) -> Iterator[str]:
    for id_, each in patterns.items():
        if fault := fault_of_pattern(each.pattern) or _fault_of_keeping(each):
            yield f"the pattern {id_} can't be stored: {fault}"


def fault_of_pattern(pattern: Pattern) -> str | None:
    """What can't be stored of a pattern as it is; None if all of it can."""
    if len(pattern.conditions) > _MOST_CONDITIONS:
        return f"it has more than {_MOST_CONDITIONS} conditions"
    said: dict[str, Any] = {
        "signature": pattern.signature,
        "statement": pattern.statement,
        "conditions": [condition.as_dict() for condition in pattern.conditions],
        "action": pattern.action,
        "data": pattern.data,
    }
    if fault := _first(_named(name, fault_of_value(value)) for name, value in said.items()):
        return fault
    for name, longest in LONGEST.items():
        if len(said[name] or "") > longest:
            return f"its {name} is longer than {longest:,} characters"
    if not pattern.statement.strip() or (pattern.action is not None and not pattern.action.strip()):
        return "its statement or action is empty"
    # A database has one zero only, so that the id would be another.
    return "its signature holds a negative zero" if _has_negative_zero(pattern.signature) else None


def _fault_of_keeping(each: Remembered) -> str | None:
    """What is wrong with what isn't said by the pattern, but known of it."""
    if not 1 <= each.version <= _MOST_VERSION:
        return f"its version is {each.version}"
    forgotten_at = None if each.forgotten is None else each.forgotten.at
    instants = [each.created_at, each.updated_at, forgotten_at, each.remembered_at]
    if (importance := each.importance) is not None:
        instants.append(importance.at)
        if not (0 <= importance.sti <= _MOST_IMPORTANCE and 0 <= importance.lti <= _MOST_IMPORTANCE):
            return f"its importance is {importance.sti:g} and {importance.lti:g}"
    if any(at is not None and at < _BEGIN for at in instants):
        return "it is from before 1970"
    return None


def _of_evidence(evidence: Mapping[EvidenceKey, EvidenceRow], most_count: int) -> Iterator[str]:
    for key, row in evidence.items():
        if fault := _fault_of_row(key, row, most_count):
            yield f"the evidence of the pattern {key.pattern_id} can't be stored: {fault}"


def _fault_of_row(key: EvidenceKey, row: EvidenceRow, most_count: int) -> str | None:
    if not 1 <= len(key.node) <= _LONGEST_NODE:
        return f"the name of its site must have 1 to {_LONGEST_NODE} characters"
    if fault := _fault_of_text(key.node):
        return f"the name of its site {fault}"
    if not (0 <= row.pos <= most_count and 0 <= row.neg <= most_count):
        return f"nobody counts {row.pos:,} for and {row.neg:,} against on one day"
    if not 1 <= row.version <= _MOST_VERSION:
        return f"its version is {row.version}"
    if not abs(row.sum_reward) <= MOST_REWARD:
        return f"its reward is {row.sum_reward:g}"
    if row.last_seen < _BEGIN or key.day < _BEGIN.date():
        return "it is from before 1970"
    return None


def _named(name: str, fault: str | None) -> str | None:
    return None if fault is None else f"its {name} {fault}"


def _first(faults: Iterable[str | None]) -> str | None:
    return next((each for each in faults if each is not None), None)
