"""Attributes: what a context says, one canonical predicate a field, with numbers in bins that never move."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping
from typing import Final

from maia.learning.observations import Scalar
from maia.learning.patterns import Condition, Operator

Attribute = tuple[str]
"""A text in a tuple, such as `region\x1f"KR`, `hour\x1f["=",3]` or `views\x1f[">=",100.0,"<",200.0]`."""

_SMALL: Final = range(-10, 61)
"""Whole numbers like hours, weekdays and categories, which have a meaning each."""
_EDGES: Final = tuple(float(f"{step}e{exponent}") for exponent in range(-9, 16) for step in (1, 2, 5))
"""Between these lie the bins of other numbers, and between their negatives."""
_SEPARATOR: Final = "\x1f"
_HOURS_OF_PART: Final = 6
_CACHED: Final = 5_000
_MISSING: Final[Attribute] = ("",)
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class Attributes:
    """Reads contexts' attributes, and remembers those that it has met.

    What it remembers only saves time: it is no part of a detector's state.
    """

    def __init__(self, ignored: frozenset[str] = frozenset()) -> None:
        self._ignored = ignored
        self._known: dict[tuple[object, ...], Attribute | None] = {}

    def of(self, context: Mapping[str, Scalar]) -> list[tuple[str, ...]]:
        """The attributes of a context, in its order; values that say nothing, such as NaN, have none."""
        found: list[tuple[str, ...]] = []
        known = self._known
        for name, value in context.items():
            kind = type(value)
            if kind is str:
                key: tuple[object, ...] = (name, value)
            elif kind is int and value in _SMALL:
                key = (name, value, int)
            else:
                key = _key(name, value)
            attribute = known.get(key, _MISSING)
            if attribute is _MISSING:
                attribute = self._remember(key, name, value)
            if attribute is not None:
                found.append(attribute)
        return found

    def one(self, name: str, value: Scalar) -> Attribute | None:
        """The attribute of one field."""
        key = (name, value) if type(value) is str else _key(name, value)
        attribute = self._known.get(key, _MISSING)
        return self._remember(key, name, value) if attribute is _MISSING else attribute

    def _remember(self, key: tuple[object, ...], name: str, value: Scalar) -> Attribute | None:
        if len(self._known) >= _CACHED:
            self._known.clear()
        made = None if name in self._ignored else attribute_of(name, value)
        self._known[key] = made
        return made


def attribute_of(name: str, value: Scalar) -> Attribute | None:
    """The attribute that a field with this value has, if any."""
    if _SEPARATOR in name:
        return None
    if isinstance(value, str):
        return (f'{name}{_SEPARATOR}"{value}',)
    if isinstance(value, bool) or value is None or (type(value) is int and value in _SMALL):
        return (f"{name}{_SEPARATOR}{_encode(['=', value])}",)
    if value != value:
        return None
    return (f"{name}{_SEPARATOR}{_encode(_bounds(_bin(value)))}",)


_PARTS_OF_DAY: Final[tuple[Attribute, ...]] = tuple(
    (f"hour{_SEPARATOR}{_encode(['>=', begin, '<', begin + _HOURS_OF_PART])}",)
    for begin in (hour - hour % _HOURS_OF_PART for hour in range(24))
)


def part_of_day(context: Mapping[str, Scalar]) -> list[Attribute]:
    """Which quarter of the day its hour is in, if it has one.

    What holds from midnight to six shows in these long before each hour alone has enough to tell.
    """
    hour = context.get("hour")
    return [_PARTS_OF_DAY[hour]] if type(hour) is int and 0 <= hour < 24 else []


def conditions_of(attributes: tuple[str, ...]) -> tuple[Condition, ...]:
    """The conditions that attributes stand for, in a canonical order."""
    found: list[Condition] = []
    for text in sorted(attributes):
        name, rest = text.split(_SEPARATOR, 1)
        if rest.startswith('"'):
            found.append(Condition(name, Operator.EQUALS, rest[1:]))
        else:
            parts = json.loads(rest)
            pairs = zip(parts[::2], parts[1::2], strict=True)
            found += [Condition(name, Operator(operator), value) for operator, value in pairs]
    return tuple(found)


def plain(conditions: tuple[Condition, ...]) -> list[list[object]]:
    """Conditions as they are written in a signature."""
    return [[each.field, each.operator.value, each.value] for each in conditions]


def _key(name: str, value: Scalar) -> tuple[object, ...]:
    """What tells values apart that have different attributes: 1, 1.0 and True are equal, but not the same."""
    if type(value) is float or (type(value) is int and value not in _SMALL):
        return (name, _bin(value)) if value == value else (name, None, float)
    return name, value, type(value)


def _bin(value: float) -> int:
    """The number of a bin: 0 for zero, negative for those of negative numbers."""
    if value > 0:
        return bisect_right(_EDGES, value) + 1
    return -bisect_right(_EDGES, -value) - 1 if value else 0


def _bounds(number: int) -> list[object]:
    """The operators and values that bound a bin."""
    if not number:
        return ["=", 0]
    below, above = (None, *_EDGES, None)[abs(number) - 1 : abs(number) + 1]
    if number > 0:
        return [">" if below is None else ">=", below or 0, *([] if above is None else ["<", above])]
    return [*([] if above is None else [">", -above]), "<" if below is None else "<=", -(below or 0)]
