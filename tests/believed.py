"""Patterns that are known with some evidence, for tests of matching and recommending."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from maia.learning.evidence import Counts
from maia.learning.known_patterns import KnownPattern, known
from maia.learning.matching import Match
from maia.learning.patterns import Condition, Operator, Pattern, PatternType

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def where(**fields: Any) -> tuple[Condition, ...]:
    return tuple(Condition(name, Operator.EQUALS, value) for name, value in fields.items())


def pattern(
    name: str,
    conditions: Sequence[Condition] = (),
    pos: int = 20,
    neg: int = 0,
    reward: float = 0.0,
    *,
    action: str | None = None,
    last_seen: datetime | None = NOW,
    **data: object,
) -> KnownPattern:
    stated = Pattern(PatternType.TOOL_USAGE, {"name": name}, f"says {name}", tuple(conditions), action, data)
    return known([(stated, Counts(pos, neg, reward, last_seen))])[0]


def name_of(match: Match) -> object:
    return match.known.pattern.signature["name"]


def names_of(matches: Sequence[Match]) -> list[object]:
    return [name_of(each) for each in matches]
