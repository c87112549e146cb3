"""An index over the conditions of many patterns: how many of each one's does a context meet?

Every different condition has a number, and the numbers of those on one field with one operator follow one
another in the order of their values. So the conditions that a context meets are a few ranges of numbers, and
how many of them a pattern has is looked up for many patterns at once. Patterns all of whose conditions must
be met are found by the one that contexts meet most seldom (the access predicate of Fabret et al., 2001).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from maia.learning.observations import Scalar
from maia.learning.patterns import Condition, Operator

Slots: TypeAlias = NDArray[np.intp]
"""Numbers of patterns: their places in the sequence that is indexed."""
Met: TypeAlias = NDArray[np.bool_]
"""Of every condition, by its number, whether a context meets it."""
Signatures: TypeAlias = NDArray[np.uint64]
"""A bit for each condition of a pattern. Different conditions may share it, so only a missing bit tells."""

_NEVER: Final = 0
"""The number of what no context meets; patterns with fewer conditions than others have it, too."""
_SPARSE_SHARE: Final = 0.15
_MOST: Final = 255
"""Conditions of one pattern that are counted."""


class ConditionIndex:
    """The conditions of a sequence of patterns, which are numbered in its order."""

    def __init__(self, patterns: Sequence[Sequence[Condition]]) -> None:
        self.totals = np.array([len(each) for each in patterns], np.intp)
        numbers: dict[tuple[str, Operator, bool, object], int] = {}
        given = [
            numbers.setdefault(
                (each.field, each.operator, isinstance(each.value, bool), each.value), len(numbers)
            )
            for conditions in patterns
            for each in conditions[:_MOST]
        ]
        self._fields: dict[str, _Field] = {}
        self.size = len(numbers) + 1
        self._chances, self._bits = np.zeros(self.size), np.zeros(self.size, np.uint64)
        given_numbers = np.array(given, np.intp)
        renumbered = self._number(numbers, np.bincount(given_numbers, minlength=len(numbers)))
        self._flat = renumbered[given_numbers] if given else np.empty(0, np.intp)
        counted = np.minimum(self.totals, _MOST)
        self._starts = np.cumsum(counted) - counted
        self.columns = _columns_of(self._flat, counted)

    def _number(self, given: Mapping[tuple[str, Operator, bool, object], int], uses: Slots) -> Slots:
        """Number the conditions by field, operator and value; returns the new numbers by the given ones."""
        groups: defaultdict[tuple[str, Operator], list[tuple[Any, bool, int]]] = defaultdict(list)
        for (name, operator, is_bool, value), number in given.items():
            groups[name, operator].append((value, is_bool, number))
        renumbered = np.zeros(len(given), np.intp)
        first = _NEVER + 1
        for (name, operator), found in groups.items():
            # No number compares with NaN, which would break the order, and nothing equals it.
            known = [each for each in found if each[0] == each[0]]
            if operator not in (Operator.EQUALS, Operator.DIFFERS):
                known.sort(key=lambda each: each[0])
            numbers = [number for *_, number in known]
            own = slice(first, first + len(known))
            renumbered[numbers] = np.arange(own.start, own.stop)
            self._chances[own] = _chances(operator, uses[numbers])
            # Equal conditions must have equal bits, and to Python 1 equals True.
            self._bits[own] = [1 << (hash((name, operator, value)) & 63) for value, *_ in known]
            self._fields.setdefault(name, _Field()).index(operator, known, first)
            first += len(known)
        return renumbered

    @property
    def fields(self) -> Collection[str]:
        """What the conditions are about."""
        return self._fields.keys()

    def ranges(self, context: Mapping[str, Scalar]) -> list[tuple[int, int]]:
        """The numbers of the conditions that a context meets, from the first to before the second."""
        met: list[tuple[int, int]] = []
        for name, value in context.items():
            if field := self._fields.get(name):
                field.collect(value, met)
        return met

    def met(self, ranges: Sequence[tuple[int, int]]) -> Met:
        """The same, by numbers."""
        met = np.zeros(self.size, bool)
        for first, end in ranges:
            met[first:end] = True
        return met

    def part(self, slots: Slots) -> Columns:
        """The conditions of some patterns, in their order."""
        return self.columns.part(slots)

    def signatures(self) -> Signatures:
        """Those of all patterns: one with a bit that another lacks has a condition that the other lacks."""
        return self.columns.signatures(self._bits)

    def wholes(self, slots: Slots) -> list[Whole]:
        """Those of some patterns that have conditions, to find where all are met; the longest come first."""
        totals = self.totals[slots]
        found = []
        for total in np.unique(totals[(totals > 0) & (totals <= _MOST)])[::-1].tolist():
            some = slots[totals == total]
            numbers = self._flat[self._starts[some][:, None] + np.arange(total)]
            found.append(Whole(some, numbers, self._chances))
        return found


def _chances(operator: Operator, uses: Slots) -> NDArray[np.float64]:
    """How likely contexts meet conditions on one field, which are in the order of their values.

    Patterns come from contexts, so that what many patterns ask for is frequent.
    """
    if operator in (Operator.EQUALS, Operator.DIFFERS):
        shares: NDArray[np.float64] = uses / max(uses.sum(), 1)
        return shares if operator is Operator.EQUALS else 1 - shares
    ranks = (np.arange(len(uses)) + 0.5) / max(len(uses), 1)
    return 1 - ranks if operator in (Operator.ABOVE, Operator.AT_LEAST) else ranks


class Whole:
    """Patterns with equally many conditions, in the order of that which a context is least likely to meet."""

    def __init__(self, slots: Slots, numbers: Slots, chances: NDArray[np.float64]) -> None:
        """`numbers` has a row for each pattern."""
        rows = np.arange(len(slots))
        rarest = chances[numbers].argmin(axis=1)
        access = numbers[rows, rarest]
        numbers[rows, rarest] = numbers[:, 0]
        order = np.argsort(access, kind="stable")
        self._slots, self._others = slots[order], np.ascontiguousarray(numbers[order, 1:].T)
        self._starts = np.searchsorted(access[order], np.arange(len(chances) + 1))

    def met(self, ranges: Slots, met: Met) -> Slots:
        """The patterns all of whose conditions are met; `ranges` has a row for each range."""
        begins, ends = self._starts[ranges].T
        lengths = ends - begins
        after = lengths.cumsum()
        places = np.arange(after[-1] if len(after) else 0) + np.repeat(ends - after, lengths)
        for numbers in self._others:
            places = places[met[numbers[places]]]
        found: Slots = self._slots[places]
        return found


class Columns:
    """The numbers of patterns' conditions: a column for each one's first condition, its second, and so on."""

    def __init__(self, length: int, columns: Sequence[tuple[Slots | None, Slots]]) -> None:
        """A column has a number for each pattern, or, if few have so many, the patterns that have one."""
        self._length, self._columns = length, columns

    def count(self, met: Met) -> NDArray[np.uint8]:
        """How many conditions of each pattern are met."""
        total = np.zeros(self._length, np.uint8)
        for slots, numbers in self._columns:
            if slots is None:
                total += met[numbers]
            else:
                total[slots] += met[numbers]
        return total

    def signatures(self, bits: Signatures) -> Signatures:
        """The bits of each pattern's conditions together."""
        found = np.zeros(self._length, np.uint64)
        for slots, numbers in self._columns:
            if slots is None:
                found |= bits[numbers]
            else:
                found[slots] |= bits[numbers]
        return found

    def part(self, wanted: Slots) -> Columns:
        """The columns of some patterns, in their order."""
        parts: list[tuple[Slots | None, Slots]] = []
        for slots, numbers in self._columns:
            if slots is None:
                parts.append((None, numbers[wanted]))
                continue
            whole = np.full(self._length, _NEVER, np.intp)
            whole[slots] = numbers
            of_part = whole[wanted]
            having = np.flatnonzero(of_part != _NEVER)
            if len(having):
                parts.append((having, of_part[having]))
        return Columns(len(wanted), parts)


def _columns_of(flat: Slots, totals: Slots) -> Columns:
    """The columns of patterns with so many conditions each, whose numbers follow one another."""
    starts = np.cumsum(totals) - totals
    columns: list[tuple[Slots | None, Slots]] = []
    for nth in range(int(totals.max(initial=0))):
        having = np.flatnonzero(totals > nth)
        numbers = flat[starts[having] + nth]
        if len(having) < _SPARSE_SHARE * len(totals):
            columns.append((having, numbers))
            continue
        whole = np.full(len(totals), _NEVER, np.intp)
        whole[having] = numbers
        columns.append((None, whole))
    return Columns(len(totals), columns)


class _Field:
    """The conditions on one field: which numbers they have by their value and operator."""

    def __init__(self) -> None:
        self._equal: dict[object, int] = {}
        self._unequal: dict[object, int] = {}
        self._all_unequal = (0, 0)
        self._ordered: list[tuple[Callable[[list[float], float], int], bool, list[float], int]] = []

    def index(self, operator: Operator, conditions: Sequence[tuple[Any, bool, int]], first: int) -> None:
        """Take all conditions with this operator, in the order of their numbers from `first` on."""
        if operator is Operator.EQUALS:
            self._equal = {(is_bool, value): first + n for n, (value, is_bool, _) in enumerate(conditions)}
        elif operator is Operator.DIFFERS:
            self._unequal = {(is_bool, value): first + n for n, (value, is_bool, _) in enumerate(conditions)}
            self._all_unequal = first, first + len(conditions)
        else:
            # Lists, because arrays would round whole numbers above 2**53.
            values = [value for value, *_ in conditions]
            bisect = bisect_left if operator in (Operator.ABOVE, Operator.AT_MOST) else bisect_right
            are_low_met = operator in (Operator.ABOVE, Operator.AT_LEAST)
            self._ordered.append((bisect, are_low_met, values, first))

    def collect(self, value: Scalar, met: list[tuple[int, int]]) -> None:
        """Append the ranges of the conditions that the value meets."""
        # True is not 1, but 1 is 1.0.
        key = isinstance(value, bool), value
        if (equal := self._equal.get(key)) is not None:
            met.append((equal, equal + 1))
        first, end = self._all_unequal
        if first < end:
            same = self._unequal.get(key, end)
            met += [each for each in ((first, same), (same + 1, end)) if each[0] < each[1]]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            return
        for bisect, are_low_met, values, start in self._ordered:
            place = bisect(values, value)
            low, high = (0, place) if are_low_met else (place, len(values))
            if low < high:
                met.append((start + low, start + high))
