"""Successions: after what comes what, and how often, in bounded memory.

Every candidate is only counted, together with how often what precedes it came. Once a candidate is accepted,
all that came instead of it counts against it too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Any, Self

from maia.learning.detectors.significance import Screen, fisher_greater
from maia.learning.detectors.tallies import Tallies, frozen
from maia.learning.evidence import Counts

Given = tuple[Any, ...]
"""What came before: plain values and tuples of them."""
Key = tuple[Given, str]
FourCounts = tuple[float, float, float, float]
"""Followed by it and not, after this and after anything that it is compared with."""


class Successions:
    """Counts what follows what."""

    def __init__(self, capacity: int, *, least_count: float, least_share: float = 0.0) -> None:
        self.least_share = least_share
        self.screen: Screen[Key] = Screen(least_count)
        self._pairs: Tallies[Key] = Tallies(capacity)
        self._givens: Tallies[Given] = Tallies(capacity)
        self._thens: dict[Given, dict[str, None]] = {}
        self._told: dict[Given, dict[str, None]] = {}
        self._due: dict[Key, None] = {}

    def total(self, given: Given) -> float:
        """How often this came before anything."""
        tally = self._givens.get(given)
        return tally.pos if tally else 0

    def count(self, given: Given, then: str) -> float:
        tally = self._pairs.get((given, then))
        return tally.pos if tally else 0

    def mean_reward(self, key: Key) -> float:
        tally = self._pairs.get(key)
        return tally.reward / tally.pos if tally and tally.pos else 0.0

    def thens(self, given: Given) -> list[str]:
        """What ever followed, as far as it is remembered."""
        return list(self._thens.get(given, ()))

    def add(
        self, day: int, last_seen: datetime, counts: Mapping[Key, int], rewards: Mapping[Key, float]
    ) -> None:
        """Add what was counted on a day."""
        totals: dict[Given, int] = {}
        for (given, _), count in counts.items():
            totals[given] = totals.get(given, 0) + count
        for given, total in totals.items():
            self._givens.add(given, day, total, 0, last_seen)
            for then in self._told.get(given, ()):
                others = total - counts.get((given, then), 0)
                self._pairs.add((given, then), day, 0, others, last_seen)
        for key, count in counts.items():
            self._add_pair(key, day, count, last_seen, rewards.get(key, 0.0))

    def _add_pair(self, key: Key, day: int, count: int, last_seen: datetime, reward: float) -> None:
        given, then = key
        tally = self._pairs.get(key)
        if tally is None:
            self._thens.setdefault(given, {})[then] = None
        tally = self._pairs.add(key, day, count, 0, last_seen, reward)
        if tally.pos < self.screen.least_support or key in self.screen.accepted:
            return
        if self.screen.due(key, tally.pos) and self._is_frequent(key):
            self._due[key] = None

    def _is_frequent(self, key: Key) -> bool:
        return self.count(*key) > self.least_share * self.total(key[0])

    def trim(self) -> None:
        """Forget the rarest if there are too many."""
        evicted = dict.fromkeys(self._givens.trim())
        orphans = [(given, then) for given in evicted for then in self._thens.get(given, ())]
        self._pairs.discard(orphans)
        gone = orphans + self._pairs.trim()
        for key in gone:
            self._due.pop(key, None)
            for index in (self._thens, self._told):
                thens = index.get(key[0])
                if thens is not None:
                    thens.pop(key[1], None)
                    if not thens:
                        del index[key[0]]
        self.screen.forget(gone)

    def take(self, judged: Callable[[Key], FourCounts | None]) -> list[tuple[Key, dict[date, Counts]]]:
        """The evidence that accepted candidates gained since the last call.

        `judged` gives the counts to test a candidate by, or None if it isn't worth telling.
        """
        for key in self._due:
            if not self._is_frequent(key):
                continue
            counts = judged(key)
            p_value = 1.0 if counts is None or min(counts) < 0 else fisher_greater(*counts)
            self.screen.look(key, self.count(*key), p_value)
        self._due.clear()
        newly = self.screen.settle()
        for key in newly:
            self._told.setdefault(key[0], {})[key[1]] = None
            self._count_others(key)
        return list(self._pairs.take_gained(self.screen.accepted, newly).items())

    def _count_others(self, key: Key) -> None:
        """Count against a newly accepted candidate all that came instead of it so far."""
        pair, given = self._pairs.get(key), self._givens.get(key[0])
        assert pair is not None
        assert given is not None
        owed: float = 0
        for day in sorted({*given.pending, *pair.pending}):
            all_of_day, own = given.pending.get(day), pair.pending.get(day)
            owed += (all_of_day[0] if all_of_day else 0) - (own[0] if own else 0)
            known = all_of_day or own
            assert known is not None
            if owed > 0:
                pair.add(day, 0, owed, 0.0, known[3])
                owed = 0

    def content(self) -> list[Any]:
        """Everything as lists, for `maia.learning.states`."""
        told = [[given, list(thens)] for given, thens in self._told.items()]
        return [
            self.least_share, self.screen.content(), self._pairs.content(), self._givens.content(), told,
            list(self._due),
        ]  # fmt: skip

    @classmethod
    def from_content(cls, content: list[Any]) -> Self:
        least_share, screen, pairs, givens, told, due = content
        made = cls(1, least_count=0, least_share=least_share)
        made.screen = Screen.from_content(screen)
        made._pairs = Tallies.from_content(pairs)
        made._givens = Tallies.from_content(givens)
        for given, then in made._pairs:
            made._thens.setdefault(given, {})[then] = None
        made._told = {frozen(given): dict.fromkeys(thens) for given, thens in told}
        made._due = {frozen(key): None for key in due}
        return made
