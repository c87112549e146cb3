"""An index over the conditions of many patterns: how many of each one's does a context meet?

Conditions are indexed by field, operator and value, so that only those that are met are touched.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from maia.learning.observations import Scalar
from maia.learning.patterns import Condition, Operator

Slots: TypeAlias = NDArray[np.intp]
"""Numbers of patterns: their places in the sequence that is indexed."""


class ConditionIndex:
    """The conditions of a sequence of patterns, which are numbered in its order."""

    def __init__(self, patterns: Sequence[Sequence[Condition]]) -> None:
        entries: defaultdict[tuple[str, Operator], list[tuple[Any, int]]] = defaultdict(list)
        for slot, conditions in enumerate(patterns):
            for condition in conditions:
                entries[condition.field, condition.operator].append((condition.value, slot))
        fields: defaultdict[str, _Field] = defaultdict(_Field)
        for (name, operator), found in entries.items():
            fields[name].index(operator, found)
        self._fields = dict(fields)
        self._patterns = len(patterns)

    @property
    def fields(self) -> Collection[str]:
        """What the conditions are about."""
        return self._fields.keys()

    def met(self, context: Mapping[str, Scalar]) -> Slots | None:
        """How many conditions of each pattern the context meets; None if it meets none of any."""
        hits: list[Slots] = []
        excepted: list[Slots] = []
        for name, value in context.items():
            if field := self._fields.get(name):
                field.collect(value, hits, excepted)
        if not hits:
            return None
        met = np.bincount(np.concatenate(hits), minlength=self._patterns)
        if excepted:
            met -= np.bincount(np.concatenate(excepted), minlength=self._patterns)
        return met


class _Field:
    """The conditions on one field: which slots have which value under which operator."""

    def __init__(self) -> None:
        self._equal: dict[object, Slots] = {}
        self._unequal: dict[object, Slots] = {}
        self._any_unequal = np.empty(0, np.intp)
        self._ordered: dict[Operator, tuple[list[float], Slots]] = {}

    def index(self, operator: Operator, entries: list[tuple[Any, int]]) -> None:
        """Take all conditions with this operator, as pairs of a value and a slot."""
        if operator is Operator.EQUALS:
            self._equal = _postings(entries)
        elif operator is Operator.DIFFERS:
            self._unequal = _postings(entries)
            self._any_unequal = np.array([slot for _, slot in entries], np.intp)
        else:
            # No number compares with NaN, which would break the order.
            entries = sorted((value, slot) for value, slot in entries if value == value)
            values = [value for value, _ in entries]
            # Lists, because arrays would round whole numbers above 2**53.
            self._ordered[operator] = values, np.array([slot for _, slot in entries], np.intp)

    def collect(self, value: Scalar, hits: list[Slots], excepted: list[Slots]) -> None:
        """Append the slots of the conditions that the value meets, and of those to take off again."""
        key = _key(value)
        if (equal := self._equal.get(key)) is not None:
            hits.append(equal)
        if len(self._any_unequal):
            hits.append(self._any_unequal)
            if (same := self._unequal.get(key)) is not None:
                excepted.append(same)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            return
        for operator, (values, slots) in self._ordered.items():
            met = slots[_met_range(operator, values, value)]
            if len(met):
                hits.append(met)


def _met_range(operator: Operator, values: list[float], found: float) -> slice:
    """Which of the ascending values of conditions are met by the value found."""
    match operator:
        case Operator.ABOVE:
            return slice(bisect_left(values, found))
        case Operator.AT_LEAST:
            return slice(bisect_right(values, found))
        case Operator.BELOW:
            return slice(bisect_right(values, found), None)
    return slice(bisect_left(values, found), None)


def _postings(entries: Iterable[tuple[Any, int]]) -> dict[object, Slots]:
    slots: defaultdict[object, list[int]] = defaultdict(list)
    for value, slot in entries:
        if value == value:
            slots[_key(value)].append(slot)
    return {key: np.array(found, np.intp) for key, found in slots.items()}


def _key(value: object) -> tuple[bool, object]:
    # True is not 1, but 1 is 1.0.
    return isinstance(value, bool), value
