"""Attributes: what a context says, one canonical predicate a field, with numbers in bins that never move."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Final

from maia.learning.observations import Scalar
from maia.learning.patterns import Condition, Operator

Attribute = tuple[str]
"""A JSON text in a tuple: `["hour","=",3]`, or `["views",">=",100.0,"<",200.0]` for a bin."""

_SMALL: Final = range(-10, 61)
"""Whole numbers like hours, weekdays and categories, which have a meaning each."""
_STEPS: Final = (1, 2, 5)
_CACHED: Final = 20_000
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class Attributes:
    """Reads contexts' attributes, and remembers those that it has met.

    What it remembers only saves time: it is no part of a detector's state.
    """

    def __init__(self, ignored: frozenset[str] = frozenset()) -> None:
        self._ignored = ignored
        self._known: dict[tuple[object, ...], Attribute | None] = {}

    def of(self, context: Mapping[str, Scalar]) -> list[Attribute]:
        """The attributes of a context, in its order; values that say nothing, such as NaN, have none."""
        found = []
        known = self._known
        for name, value in context.items():
            # 1, 1.0 and True are equal keys; they are different values.
            key = (name, value) if type(value) is str else (name, value, type(value))
            try:
                attribute = known[key]
            except KeyError:
                attribute = self._remember(key, name, value)
            if attribute is not None:
                found.append(attribute)
        return found

    def one(self, name: str, value: Scalar) -> Attribute | None:
        """The attribute of one field."""
        key = (name, value) if type(value) is str else (name, value, type(value))
        try:
            return self._known[key]
        except KeyError:
            return self._remember(key, name, value)

    def _remember(self, key: tuple[object, ...], name: str, value: Scalar) -> Attribute | None:
        if len(self._known) >= _CACHED:
            self._known.clear()
        made = None if name in self._ignored else attribute_of(name, value)
        self._known[key] = made
        return made


def attribute_of(name: str, value: Scalar) -> Attribute | None:
    """The attribute that a field with this value has, if any."""
    if isinstance(value, (str, bool)) or value is None or (type(value) is int and value in _SMALL):
        parts: list[object] = [name, "=", value]
    else:
        bounds = _bin(value)
        if bounds is None:
            return None
        parts = [name, *bounds]
    return (_encode(parts),)


def conditions_of(attributes: tuple[str, ...]) -> tuple[Condition, ...]:
    """The conditions that attributes stand for, in a canonical order."""
    found = []
    for text in sorted(attributes):
        name, *rest = json.loads(text)
        pairs = zip(rest[::2], rest[1::2], strict=True)
        found += [Condition(name, Operator(operator), value) for operator, value in pairs]
    return tuple(found)


def plain(conditions: tuple[Condition, ...]) -> list[list[object]]:
    """Conditions as they are written in a signature."""
    return [[each.field, each.operator.value, each.value] for each in conditions]


def in_words(conditions: tuple[Condition, ...]) -> str:
    """Conditions as a part of a sentence."""
    return " and ".join(map(str, conditions))


def _bin(value: float) -> list[object] | None:
    """The bin of a number: between neighbours of …, 1, 2, 5, 10, 20, 50, …, or of their negatives."""
    try:
        size = abs(float(value))
    except OverflowError:
        return None
    if not math.isfinite(size):
        return None
    if not size:
        return ["=", 0]
    exponent = math.floor(math.log10(size))
    edges = [float(f"{step}e{at}") for at in (exponent - 1, exponent, exponent + 1) for step in _STEPS]
    below = max((edge for edge in edges if edge <= size), default=0.0)
    above = min((edge for edge in edges if edge > size), default=math.inf)
    if value < 0:
        return [">", -above, "<=", -below] if math.isfinite(above) else ["<=", -below]
    return [">=", below, "<", above] if math.isfinite(above) else [">=", below]
