"""Contrasts: does an event come likelier where something holds than where it doesn't, like with like?

Records are compared within blocks: one stratum, at most one UTC day. A block of n records has a table of four
counts for each item: a with item and event, b with the item alone, c with the event alone, d with neither.
It adds a·d/n to the evidence for the item and b·c/n to that against, the terms of Mantel and Haenszel (1959):
pos/neg is their common odds ratio. One pair of records that disagree counts one, so the interval that
`maia.learning.evidence` makes of them is never narrower than that of the odds ratio.

Blocks end where batches do, so the same records in other batches give somewhat other evidence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import chain
from typing import Any, Final, Self

from scipy.special import ndtr

from maia.learning.detectors.significance import Screen, fisher_greater
from maia.learning.detectors.tallies import SLACK, Tallies, frozen, instant, micros
from maia.learning.evidence import Counts

Stratum = tuple[str, ...]
Item = tuple[str, ...]
"""What may hold for a record. Its parts, with one element less each, are items too."""
Key = tuple[Stratum, Item]
Counted = tuple[float, float, float, float, float, float]

_INTERESTING: Final = 8
_INTERESTING_LIFT: Final = 1.2
_INTERESTING_DEVIATION: Final = 2.0


@dataclass(slots=True)
class Block:
    """Records of a stratum that are not compared yet: how many, with how many events, by item too."""

    day: int
    last_seen: datetime
    records: float = 0
    events: float = 0
    present: dict[Item, float] = field(default_factory=dict)
    hits: dict[Item, float] = field(default_factory=dict)
    watched: tuple[Item, ...] = ()
    """The single items whose combinations are counted in this block, from its beginning."""


@dataclass(slots=True)
class Table:
    """Four counts, over all blocks in which some records had an item and some didn't.

    `expected` and `variance` are those of `a` if the item did nothing, added up over the blocks.
    """

    a: float = 0
    b: float = 0
    c: float = 0
    d: float = 0
    expected: float = 0
    variance: float = 0

    def add(self, a: float, b: float, c: float, d: float) -> None:
        """Add a block's counts."""
        self.a += a
        self.b += b
        self.c += c
        self.d += d
        with_, events, total = a + b, a + c, a + b + c + d
        if total > 1:
            self.expected += with_ * events / total
            share = events / total
            self.variance += share * (1 - share) * with_ * (total - with_) / (total - 1)

    @property
    def rate(self) -> float:
        """The share of events where the item holds."""
        return self.a / (self.a + self.b) if self.a else 0.0

    @property
    def base_rate(self) -> float:
        """The share of events where it doesn't."""
        return self.c / (self.c + self.d) if self.c else 0.0

    @property
    def lift(self) -> float | None:
        """How many times likelier the event is where the item holds; None if it never comes elsewhere."""
        return self.rate / self.base_rate if self.c else None

    @property
    def deviation(self) -> float:
        """The excess of events within blocks, in standard deviations."""
        return (self.a - self.expected) / math.sqrt(self.variance) if self.variance > 0 else 0.0

    def content(self) -> Counted:
        """Its counts, in the order in which it takes them."""
        return self.a, self.b, self.c, self.d, self.expected, self.variance

    def p_value(self) -> float:
        """How probable so many events are by chance.

        Fisher's test is exact but sees only the sums, in which a bad day may pass for a bad condition. That
        of Cochran, Mantel and Haenszel sees the blocks but is approximate. The worse of the two counts.
        """
        exact = fisher_greater(self.a, self.b, self.c, self.d)
        if exact < 1:
            excess = self.a - self.expected - 0.5
            return max(exact, float(ndtr(-excess / math.sqrt(self.variance or 1))))
        return exact


class Contrasts:
    """Counts records and says which items come with more events, in bounded memory."""

    def __init__(
        self, capacity: int, *, least_records: float = 50, least_support: float = 10, strata: int = 1000
    ) -> None:
        self.capacity = capacity
        self.least_records = least_records
        self.strata = strata
        self.screen: Screen[Key] = Screen(least_support)
        self._tallies: Tallies[Key] = Tallies(capacity)
        self._tables: dict[Key, Table] = {}
        self._beyond: dict[Key, list[Table]] = {}
        """Of items with parts: how they compare with each part alone."""
        self._blocks: dict[Stratum, Block] = {}
        self._grown: dict[Stratum, None] = {}
        """Blocks that got records in this batch."""
        self._interesting: dict[Stratum, dict[Item, float]] = {}
        self._due: dict[Key, None] = {}

    def watched(self, stratum: Stratum, day: int, last_seen: datetime) -> tuple[Item, ...]:
        """Single items of which to add combinations too: those that come with more events, at most eight."""
        return self._block(stratum, day, last_seen).watched

    def table(self, key: Key) -> Table:
        return self._tables.get(key) or Table()

    def add(
        self, stratum: Stratum, day: int, last_seen: datetime, records: Iterable[tuple[list[Item], bool]]
    ) -> None:
        """Add records of a day: which items each has (each at most once) and whether the event came."""
        rows = list(records)
        with_event = [items for items, event in rows if event]
        present = Counter(chain.from_iterable(items for items, _ in rows))
        hits = Counter(chain.from_iterable(with_event))
        self.add_counts(stratum, day, last_seen, (len(rows), len(with_event)), present, hits)

    def add_counts(
        self,
        stratum: Stratum,
        day: int,
        last_seen: datetime,
        sizes: tuple[float, float],
        present: Mapping[Item, float],
        hits: Mapping[Item, float],
    ) -> None:
        """Add records that were counted already; `sizes` are the records and those with the event."""
        block = self._block(stratum, day, last_seen)
        self._grown[stratum] = None
        block.records += sizes[0]
        block.events += sizes[1]
        block.last_seen = max(block.last_seen, last_seen)
        block.present = _sum(block.present, present)
        block.hits = _sum(block.hits, hits)

    def end_batch(self) -> None:
        """Compare what is enough, and forget what is too much."""
        full = [
            stratum
            for stratum in self._grown
            if (block := self._blocks.get(stratum)) is not None
            and (block.records >= self.least_records or len(block.present) > self.capacity)
        ]
        self._grown.clear()
        excess = len(self._blocks) - self.strata
        oldest = list(self._blocks)[:excess] if excess > 0 else []
        for stratum in dict.fromkeys(full + oldest):
            self._close(stratum)
        self._trim()

    def take(self) -> list[tuple[Key, dict[date, Counts]]]:
        """The evidence that accepted statements gained since the last call."""
        for key in self._due:
            table = self._tables[key]
            # A statement that evidence within blocks speaks against isn't true because the sums say so.
            tally = self._tallies.get(key)
            for_it = tally is not None and tally.pos > tally.neg
            tests = [table, *self._beyond.get(key, ())]
            p_value = max(each.p_value() for each in tests) if for_it else 1.0
            self.screen.look(key, table.a + table.b, p_value)
        self._due.clear()
        newly = self.screen.settle()
        return list(self._tallies.take_gained(self.screen.accepted, newly).items())

    def _block(self, stratum: Stratum, day: int, last_seen: datetime) -> Block:
        """The block that records of this day go to. Late ones go to that of a later day."""
        block = self._blocks.get(stratum)
        if block is not None and day > block.day:
            self._close(stratum)
            block = None
        if block is None:
            watched = tuple(self._interesting.get(stratum, ()))
            block = self._blocks[stratum] = Block(day, last_seen, watched=watched)
        return block

    def _close(self, stratum: Stratum) -> None:
        block = self._blocks.pop(stratum)
        if not 0 < block.events < block.records:
            return
        for item, count in block.present.items():
            # What comes once a block, such as ids, would only push out what comes again.
            if count < block.records and (count > 1 or (stratum, item) in self._tables):
                self._compare(stratum, item, block)

    def _compare(self, stratum: Stratum, item: Item, block: Block) -> None:
        key = (stratum, item)
        a = block.hits.get(item, 0)
        b = block.present[item] - a
        c = block.events - a
        d = block.records - block.events - b
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = Table()
            if len(item) > 1:
                self._beyond[key] = [Table() for _ in item]
        table.add(a, b, c, d)
        if len(item) > 1:
            _compare_with_parts(self._beyond[key], item, block, a, b)
        elif table.a > 2:
            self._note_interest(stratum, item, table)
        pos, neg = a * d / block.records, b * c / block.records
        if pos or neg:
            self._tallies.add(key, block.day, pos, neg, block.last_seen)
        if table.a > 2 and key not in self.screen.accepted and self.screen.due(key, table.a + table.b):
            self._due[key] = None

    def _note_interest(self, stratum: Stratum, item: Item, table: Table) -> None:
        found = self._interesting.get(stratum, {})
        lift = table.lift
        if (lift is None or lift > _INTERESTING_LIFT) and table.deviation > _INTERESTING_DEVIATION:
            self._interesting.setdefault(stratum, found)[item] = table.deviation
            if len(found) > _INTERESTING:
                del found[min(found, key=lambda each: found[each])]
        else:
            found.pop(item, None)

    def _trim(self) -> None:
        tables, accepted = self._tables, self.screen.accepted
        if len(tables) <= self.capacity * SLACK:
            return
        ranked = sorted(tables, key=lambda key: (key in accepted, tables[key].a + tables[key].b))
        evicted = ranked[: len(tables) - self.capacity]
        for key in evicted:
            del tables[key]
            self._beyond.pop(key, None)
            self._due.pop(key, None)
        self._tallies.discard(evicted)
        self.screen.forget(evicted)
        if len(self._interesting) > self.strata:
            kept = {stratum for stratum, _ in tables}
            self._interesting = {key: value for key, value in self._interesting.items() if key in kept}

    def content(self) -> list[Any]:
        """Everything as lists, for `maia.learning.states`."""
        tables = [
            [key, table.content(), [each.content() for each in self._beyond.get(key, ())]]
            for key, table in self._tables.items()
        ]
        blocks = [
            [stratum, block.day, micros(block.last_seen), block.records, block.events,
             list(block.present.items()), list(block.hits.items()), block.watched]
            for stratum, block in self._blocks.items()
        ]  # fmt: skip
        interesting = [[stratum, list(items.items())] for stratum, items in self._interesting.items()]
        return [
            self.capacity, self.least_records, self.strata, self.screen.content(), self._tallies.content(),
            tables, blocks, interesting, list(self._due),
        ]  # fmt: skip

    @classmethod
    def from_content(cls, content: list[Any]) -> Self:
        capacity, least_records, strata, screen, tallies, tables, blocks, interesting, due = content
        made = cls(capacity, least_records=least_records, strata=strata)
        made.screen = Screen.from_content(screen)
        made._tallies = Tallies.from_content(tallies)
        made._tables = {frozen(key): Table(*counts) for key, counts, _ in tables}
        made._beyond = {
            frozen(key): [Table(*counts) for counts in parts] for key, _, parts in tables if parts
        }
        made._blocks = {
            frozen(stratum): Block(
                day, instant(at), records, events, _items(present), _items(hits), frozen(watched)
            )
            for stratum, day, at, records, events, present, hits, watched in blocks
        }
        made._interesting = {frozen(stratum): _items(items) for stratum, items in interesting}
        made._due = {frozen(key): None for key in due}
        return made


def parts_of(item: Item) -> list[Item]:
    """The item with one of its elements left out, each in turn."""
    return [item[:at] + item[at + 1 :] for at in range(len(item))]


def _compare_with_parts(tables: list[Table], item: Item, block: Block, a: float, b: float) -> None:
    """Compare records that have the item with those that have just one of its parts."""
    for table, part in zip(tables, parts_of(item), strict=True):
        hits = block.hits.get(part, 0)
        misses = block.present.get(part, 0) - hits
        table.add(a, b, max(0, hits - a), max(0, misses - b))


def _sum(counts: dict[Item, float], more: Mapping[Item, float]) -> dict[Item, float]:
    """Both together; the first is used up."""
    if not counts:
        return dict(more)
    for item, count in more.items():
        counts[item] = counts.get(item, 0) + count
    return counts


def _items(pairs: list[Any]) -> dict[Item, float]:
    return {frozen(item): count for item, count in pairs}
