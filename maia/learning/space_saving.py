"""Space-Saving: the most frequent items of an endless stream, counted in bounded memory.

At most `capacity` items are counted. An item that comes when all places are taken replaces the one with the
lowest count and inherits that count, which becomes its error. So an item's true count lies between
`count - error` and `count`; every item that occurred more than n / capacity times among n is kept
(Metwally, Agrawal and El Abbadi, 2005). Two summaries merge with the same guarantee over both streams
(Agarwal and others, "Mergeable Summaries", 2012).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

import msgpack  # type: ignore[import-untyped, unused-ignore]

_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class HeavyHitter:
    """An item with its count, which is too high by at most `error`."""

    item: str
    count: int
    error: int

    @property
    def at_least(self) -> int:
        """How often the item occurred for certain."""
        return self.count - self.error


class SpaceSaving:
    """The heavy hitters of a stream of strings."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        self.capacity = capacity
        self.seen = 0
        """How many occurrences were counted, of all items."""
        self._counts: dict[str, int] = {}
        self._errors: dict[str, int] = {}
        self._lowest: list[tuple[int, str]] = []
        """A heap of counts as they once were: an entry is brought up to date when it reaches the top."""

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, item: str, times: int = 1) -> None:
        """Count an item; raises ValueError unless `times` is positive."""
        if times < 1:
            raise ValueError("times must be at least 1")
        self.seen += times
        if item in self._counts:
            self._counts[item] += times
        elif len(self._counts) < self.capacity:
            self._insert(item, times, 0)
        else:
            lowest = self._evict()
            self._insert(item, lowest + times, lowest)

    def extend(self, items: Iterable[str]) -> None:
        for item in items:
            self.add(item)

    def estimate(self, item: str) -> HeavyHitter:
        """An item's count; for one that is not kept the highest that it can be, all of it error."""
        if item in self._counts:
            return HeavyHitter(item, self._counts[item], self._errors[item])
        bound = self.unseen_bound
        return HeavyHitter(item, bound, bound)

    @property
    def unseen_bound(self) -> int:
        """How often an item that is not kept can have occurred at most."""
        return min(self._counts.values()) if len(self._counts) == self.capacity else 0

    def top(self, most: int | None = None) -> list[HeavyHitter]:
        """The kept items, most frequent first; equal counts by lower error, then by name."""
        hitters = [HeavyHitter(item, count, self._errors[item]) for item, count in self._counts.items()]
        return sorted(hitters, key=_rank)[:most]

    def merged(self, other: Self) -> Self:
        """A summary of both streams, of the smaller capacity; the same whichever side is asked."""
        result = type(self)(min(self.capacity, other.capacity))
        result.seen = self.seen + other.seen
        sums = []
        for item in self._counts.keys() | other._counts.keys():
            ours, theirs = self.estimate(item), other.estimate(item)
            sums.append(HeavyHitter(item, ours.count + theirs.count, ours.error + theirs.error))
        for hitter in sorted(sums, key=_rank)[: result.capacity]:
            result._insert(hitter.item, hitter.count, hitter.error)
        return result

    def state(self) -> bytes:
        """Everything as versioned bytes."""
        rows = [(each.item, each.count, each.error) for each in self.top()]
        return bytes(msgpack.packb((_VERSION, self.capacity, self.seen, rows)))

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        """The summary that `state` returned; raises ValueError if it is of another version."""
        version, capacity, seen, rows = _unpacked(state)
        if version != _VERSION:
            raise ValueError(f"state of version {version}, expected {_VERSION}")
        summary = cls(capacity)
        summary.seen = seen
        for item, count, error in rows:
            summary._insert(item, count, error)
        return summary

    def _insert(self, item: str, count: int, error: int) -> None:
        self._counts[item], self._errors[item] = count, error
        heapq.heappush(self._lowest, (count, item))

    def _evict(self) -> int:
        """Drop the item with the lowest count and return that count."""
        while True:
            count, item = self._lowest[0]
            current = self._counts[item]
            if current == count:
                heapq.heappop(self._lowest)
                del self._counts[item], self._errors[item]
                return count
            heapq.heapreplace(self._lowest, (current, item))


def _rank(hitter: HeavyHitter) -> tuple[int, int, str]:
    return (-hitter.count, hitter.error, hitter.item)


def _unpacked(state: bytes) -> tuple[int, int, int, list[tuple[str, int, int]]]:
    try:
        unpacked: Any = msgpack.unpackb(state)
        version, capacity, seen, rows = unpacked
    except (ValueError, TypeError) as error:
        raise ValueError("not a state of Space-Saving") from error
    return version, capacity, seen, rows
