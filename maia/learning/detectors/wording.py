"""Words and figures of statements, coarse on purpose: evidence that hardly changes them rewrites nothing."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Final

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


def in_words(conditions: Sequence[Condition]) -> str:
    """Conditions as a part of a sentence that follows a verb: "when region = KR", "on Sundays"."""
    when = [_instant(condition) for condition in conditions]
    told = [text for text in when if text]
    others = [str(each) for each, text in zip(conditions, when, strict=True) if not text]
    if others:
        told.insert(0, f"when {' and '.join(others)}")
    return " ".join(told)


def _instant(condition: Condition) -> str | None:
    value = condition.value
    if (
        condition.operator is not Operator.EQUALS
        or isinstance(value, bool)
        or not isinstance(value, (int, float))
    ):
        return None
    if condition.field == "weekday" and value in range(7):
        return f"on {_DAYS[int(value)]}"
    if condition.field == "hour" and value in range(24):
        return f"between {int(value)} and {int(value) + 1} h UTC"
    return None
