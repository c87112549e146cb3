"""Contexts as terms: each value of a field, and pairs of values of some fields, of one context or of many.

A term has a key, such as `region=US` or `hour=3&region=US`, and belongs to the group of its field or fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from maia.learning.velocity import Integers

if TYPE_CHECKING:
    from maia.learning.observations import Scalar

Group: TypeAlias = tuple[str, ...]
"""A field, or two of them in the order of their names."""
_LONGEST_VALUE: Final = 80
_CODE_BITS: Final = 24
"""A batch has fewer values of single fields than this many bits can number."""


def keys_of(context: Mapping[str, Scalar], groups: Iterable[Group]) -> list[str]:
    """The key of a context's term in each group."""
    singles = {name: _key(name, value) for name, value in context.items()}
    return ["&".join(singles[name] for name in group) for group in groups]


class Batch(NamedTuple):
    """The terms of one context after the other, by the numbers of their keys and groups."""

    keys: list[str]
    groups: list[Group]
    row: Integers
    """The context of each term, ascending."""
    value: Integers
    """The key of each term."""
    group: Integers

    def terms_of(self, row: int) -> slice:
        """Where the terms of a context are."""
        begin, end = np.searchsorted(self.row, (row, row + 1)).tolist()
        return slice(begin, end)


def batch_of(
    contexts: Sequence[Mapping[str, Scalar]], groups_of: Callable[[Sequence[str]], Sequence[Group]]
) -> Batch:
    """The terms of many contexts, of which there is at least one.

    `groups_of` says which groups the terms of a context with some fields belong to, single fields first.
    """
    shapes: dict[tuple[str, ...], _Shape] = {}
    for row, context in enumerate(contexts):
        names = tuple(context)
        shape = shapes.get(names)
        if shape is None:
            shape = shapes[names] = _Shape.of(groups_of(names))
        shape.rows.append(row)
        shape.contexts.append(context)
    return _joined(list(shapes.values()))


class _Shape(NamedTuple):
    """The contexts of a batch that have the same fields, and the groups of these, singles first."""

    singles: list[Group]
    pairs: list[Group]
    rows: list[int]
    contexts: list[Mapping[str, Scalar]]

    @classmethod
    def of(cls, groups: Sequence[Group]) -> _Shape:
        """A shape of these groups without contexts."""
        singles: list[Group] = [group for group in groups if len(group) == 1]
        return cls(singles, list(groups[len(singles) :]), [], [])

    def pairs_of(self, values: Integers) -> Integers:
        """The two values of each pair in one number, a row for each row of the values of single fields."""
        place = {group[0]: column for column, group in enumerate(self.singles)}
        fields = [[place[name] for name in group] for group in self.pairs]
        first, second = np.array(fields, dtype=np.intp).reshape(-1, 2).T
        return values[:, first] << _CODE_BITS | values[:, second]


class _Numbers:
    """Numbers the values of single fields in the order in which they are met."""

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self._of_field: dict[str, dict[Scalar | tuple[type, Scalar], int]] = {}

    def column(self, field: str, contexts: Sequence[Mapping[str, Scalar]]) -> list[int]:
        """The number of each context's value of a field."""
        known = self._of_field.setdefault(field, {})
        # The type belongs to a value, because 1 and True are equal.
        typed = [
            value if type(value := context[field]) is str else (type(value), value) for context in contexts
        ]
        for new in [each for each in dict.fromkeys(typed) if each not in known]:
            key = _key(field, new[1] if isinstance(new, tuple) else new)
            known[new] = self.keys.setdefault(key, len(self.keys))
        return [known[each] for each in typed]


def _joined(shapes: Sequence[_Shape]) -> Batch:
    """All terms of the contexts of some shapes."""
    numbers = _Numbers()
    singles = [
        np.array([numbers.column(field, shape.contexts) for (field,) in shape.singles], dtype=np.intp)
        .reshape(len(shape.singles), len(shape.rows))
        .T
        for shape in shapes
    ]
    codes = [shape.pairs_of(values) for shape, values in zip(shapes, singles, strict=True)]
    pairs, of_pairs = np.unique(np.concatenate([each.ravel() for each in codes]), return_inverse=True)
    ends = np.cumsum([each.size for each in codes])[:-1]
    keys, low = list(numbers.keys), (1 << _CODE_BITS) - 1
    keys += [f"{keys[code >> _CODE_BITS]}&{keys[code & low]}" for code in pairs.tolist()]
    of_group: dict[Group, int] = {}
    rows, values, group_numbers = [], [], []
    for shape, own, paired in zip(shapes, singles, np.split(of_pairs, ends), strict=True):
        members = [*shape.singles, *shape.pairs]
        numbered = [of_group.setdefault(group, len(of_group)) for group in members]
        rows.append(np.repeat(shape.rows, len(members)))
        pair_values = paired.reshape(len(shape.rows), len(shape.pairs)) + len(numbers.keys)
        values.append(np.hstack((own, pair_values)).ravel())
        group_numbers.append(np.tile(np.array(numbered, dtype=np.intp), len(shape.rows)))
    row = np.concatenate(rows)
    order = np.argsort(row, kind="stable")
    return Batch(
        keys, list(of_group), row[order], np.concatenate(values)[order], np.concatenate(group_numbers)[order]
    )


def _key(name: str, value: Scalar) -> str:
    return f"{name}={_bin(value)}"


def _bin(value: Scalar) -> str:
    """A value as text; numbers that are no small integers by their order of magnitude."""
    if value is None or isinstance(value, (bool, str)):
        return str(value)[:_LONGEST_VALUE]
    if isinstance(value, int) and abs(value) < 32:
        return str(value)
    if not math.isfinite(value):
        return "nan"
    if abs(value) <= 1:
        return f"{round(value, 1) + 0.0:g}"
    return f"{'-' if value < 0 else ''}2^{round(math.log2(abs(value)))}"
