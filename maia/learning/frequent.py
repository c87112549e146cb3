"""Frequent sequences: which actions follow one another, gaps allowed, in at least so many sessions.

The search grows patterns by one item at a time as PrefixSpan does (Pei and others, 2001): a pattern is kept
with the positions right after its first match in each sequence that has it (the projected database), and its
extensions are only those items that could extend the pattern that it grew from. All sequences lie in one
array. A table of next occurrences answers "where does item x come next?" for all positions of a projection
in one indexing, so that each pattern costs a few NumPy calls.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

Positions: TypeAlias = "npt.NDArray[np.int32]"
Item = TypeVar("Item", bound=Hashable)

_TABLE_CELLS: Final = 64_000_000
"""Above so many cells (256 MB) the next occurrence is found by binary search instead of in a table."""


@dataclass(frozen=True, slots=True)
class FrequentSequence:
    """A pattern and in how many sequences it occurs."""

    items: tuple[str, ...]
    support: int


class TooManyPatternsError(ValueError):
    """More patterns are frequent than were asked for: raise the support or shorten the patterns."""


def frequent_sequences(
    sequences: Iterable[Sequence[str]],
    least_support: int,
    *,
    longest: int = 1000,
    closed: bool = False,
    most: int = 1_000_000,
) -> list[FrequentSequence]:
    """The patterns that at least `least_support` sequences contain, most frequent first.

    With `closed` only those that no longer pattern with the same support contains, among the patterns of up
    to `longest` items. Raises TooManyPatternsError rather than to hold more than `most` patterns.
    """
    if least_support < 1 or longest < 1:
        raise ValueError("least_support and longest must be at least 1")
    database = _Database.of(sequences, least_support)
    found: dict[tuple[int, ...], int] = {}
    for pattern, support in _grown(database, least_support, longest):
        found[pattern] = support
        if len(found) > most:
            raise TooManyPatternsError(f"more than {most:,} patterns at a support of {least_support}")
    kept = without_contained(found) if closed else found
    named = [
        FrequentSequence(tuple(database.items[item] for item in pattern), support)
        for pattern, support in kept.items()
    ]
    return sorted(named, key=lambda each: (-each.support, len(each.items), each.items))


@dataclass(frozen=True, slots=True)
class _Database:
    """The sequences one after the other, without the items that are rare; each ends with a free cell."""

    items: list[str]
    starts: Positions
    ends: Positions
    """For each cell the free cell that ends its sequence."""
    occurrences: list[Positions]
    """For each item its cells in order."""
    following: list[Positions] | None
    """For each item and cell: where the item comes next in the sequence, or -1. None if it'd be too large."""

    @classmethod
    def of(cls, sequences: Iterable[Sequence[str]], least_support: int) -> _Database:
        rows = [list(sequence) for sequence in sequences]
        supports: dict[str, int] = defaultdict(int)
        for row in rows:
            for item in set(row):
                supports[item] += 1
        items = sorted(item for item, support in supports.items() if support >= least_support)
        number = {item: at for at, item in enumerate(items)}
        numbered = [[number[item] for item in row if item in number] for row in rows]
        lengths = np.array([len(row) + 1 for row in numbered], dtype=np.int64)
        last = np.cumsum(lengths, dtype=np.int64).astype(np.int32) - 1
        starts = (last - lengths + 1).astype(np.int32)
        cells = np.array([item for row in numbered for item in (*row, -1)], dtype=np.int32)
        ends = np.repeat(last, lengths).astype(np.int32)
        occurrences = [np.flatnonzero(cells == item).astype(np.int32) for item in range(len(items))]
        fits = len(items) * len(cells) <= _TABLE_CELLS
        following = [_following(each, ends) for each in occurrences] if fits else None
        return cls(items, starts, ends, occurrences, following)

    def advance(self, item: int, positions: Positions) -> Positions:
        """The cells right after the item's next occurrence, for the positions that have one."""
        if self.following is not None:
            matched = self.following[item][positions]
            return matched[matched > 0]
        cells = self.occurrences[item]
        at = np.searchsorted(cells, positions)
        positions, at = positions[at < len(cells)], at[at < len(cells)]
        matched = cells[at]
        return matched[matched < self.ends[positions]] + np.int32(1)


def _following(cells: Positions, ends: Positions) -> Positions:
    """For each cell the one after the item's next occurrence in the same sequence, or 0 if there is none."""
    at = np.searchsorted(cells, np.arange(len(ends), dtype=np.int32))
    nearest = np.append(cells, np.int32(len(ends)))[at]
    return np.where(nearest < ends, nearest + 1, 0).astype(np.int32)


def _grown(database: _Database, least_support: int, longest: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """All frequent patterns, each with its support, by depth-first search without recursion."""
    stack: list[tuple[tuple[int, ...], Positions, list[int]]] = [
        ((), database.starts, list(range(len(database.items))))
    ]
    while stack:
        pattern, positions, candidates = stack.pop()
        grown = [(item, database.advance(item, positions)) for item in candidates]
        frequent = [(item, after) for item, after in grown if len(after) >= least_support]
        extensions = [item for item, _ in frequent]
        for item, after in frequent:
            longer = (*pattern, item)
            yield longer, len(after)
            if len(longer) < longest:
                stack.append((longer, after, extensions))


def without_contained(found: Mapping[tuple[Item, ...], int]) -> dict[tuple[Item, ...], int]:
    """The closed ones of all frequent patterns: without those that a longer one of the same support contains.

    One item more is enough to look at: between a pattern and a longer one with its support lie others,
    each one item longer, and none of them can have another support.
    """
    kept = dict(found)
    for pattern, support in found.items():
        for at in range(len(pattern)):
            shorter = pattern[:at] + pattern[at + 1 :]
            if kept.get(shorter) == support:
                del kept[shorter]
    return kept
