"""Words and figures of statements, coarse on purpose: evidence that hardly changes them rewrites nothing."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Final

from maia.learning.observations import IMPORTED
from maia.learning.patterns import Condition, Operator

_DAYS: Final = ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays")


def coarse(value: float) -> float:
    """A figure with two significant digits."""
    return float(f"{value:.2g}") if isfinite(value) else value


def about(value: float) -> str:
    """A figure with two significant digits, in words: 0.87, 33, 1,300."""
    rounded = coarse(value)
    return f"{rounded:,.0f}" if abs(rounded) >= 10 else f"{rounded:g}"


def times(factor: float) -> str:
    """A ratio, in words: "3.4 times", "over 100 times"."""
    return "over 100 times" if factor >= 100 else f"{about(factor)} times"


def of_ten(share: float) -> str:
    """A share, in words: "about 9 in 10", "nearly always"."""
    tenths = round(10 * share)
    if tenths in (0, 10):
        return "nearly always" if tenths else "hardly ever"
    return f"about {tenths} in 10 times"


def who(agent: str) -> str:
    """An agent as the subject of a sentence: "the hunter", "the imported log"."""
    return "the imported log" if agent == IMPORTED else f"the {agent}"


def whose(agent: str, what: str) -> str:
    """What an agent did: "hunter search", "the imported log's search"."""
    return f"the imported log's {what}" if agent == IMPORTED else f"{agent} {what}"


def in_words(conditions: Sequence[Condition]) -> str:
    """Conditions as a part of a sentence that follows a verb: "when region = KR", "on Sundays"."""
    told: list[str] = []
    others: list[str] = []
    by_field: dict[str, list[Condition]] = {}
    for each in conditions:
        by_field.setdefault(each.field, []).append(each)
    for field, of_field in by_field.items():
        if text := _instants(field, of_field):
            told.append(text)
        else:
            others += map(str, of_field)
    if others:
        told.insert(0, f"when {' and '.join(others)}")
    return " ".join(told)


def _instants(field: str, conditions: Sequence[Condition]) -> str | None:
    """Hours and weekdays in words; None for anything else."""
    bounds: dict[Operator, float] = {}
    for each in conditions:
        if isinstance(each.value, bool) or not isinstance(each.value, (int, float)):
            return None
        bounds[each.operator] = each.value
    match field, bounds:
        case "weekday", {Operator.EQUALS: day, **others} if day in range(7) and not others:
            return f"on {_DAYS[int(day)]}"
        case "hour", {Operator.EQUALS: hour, **others} if hour in range(24) and not others:
            return f"between {hour:g} and {hour + 1:g} h UTC"
        case "hour", {Operator.AT_LEAST: begin, Operator.BELOW: end, **others} if not others:
            return f"between {begin:g} and {end:g} h UTC"
    return None
