"""Which patterns hold in a context: they are found by an index over their conditions, and ranked.

A context is matched by counting, for every pattern, how many of its conditions the context meets. Patterns
are kept in segments that are merged as they grow (the logarithmic method of Bentley and Saxe, 1980): adding
one pattern to many thousands doesn't build the whole index again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maia.learning.condition_index import ConditionIndex, Slots
from maia.learning.known_patterns import KnownPattern
from maia.learning.observations import Scalar
from maia.learning.patterns import Condition

HALF_LIFE: Final = timedelta(days=30)
"""A pattern that was last seen so long ago counts half as much as one seen now."""

MOST_PER_ACTION: Final = 32
"""No more patterns for one action fit: comparing the conditions of all pairs of very many would be slow."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR: Final = timedelta(hours=1)
_NEVER_H: Final = -np.inf
# Ranks must not depend on the last digit of a machine's exponential function.
_SCORE_DIGITS: Final = 12
_MAX_SUPPORT: Final = 2**38
_NEARLY: Final = 1 - 1e-9
# From there on powers of two might overflow.
_MAX_HALF_LIVES: Final = 500
_DEAD_SHARE: Final = 0.5

Floats = NDArray[np.float64]


class Hit(NamedTuple):
    """A pattern that was found, and how well it matches."""

    known: KnownPattern
    score: float


class Fitting(NamedTuple):
    """The patterns that are decided, and of all that fit how many there are and the most trusted one."""

    hits: list[Hit]
    number: int
    top: KnownPattern | None


@dataclass(frozen=True, slots=True)
class Match:
    """A pattern of whose conditions a context meets at least one."""

    known: KnownPattern
    met: tuple[Condition, ...]
    missed: tuple[Condition, ...]
    score: float
    """The share of conditions met × confidence × recency, in [0, 1]."""

    @property
    def complete(self) -> bool:
        return not self.missed

    @classmethod
    def of(cls, hit: Hit, context: Mapping[str, Scalar]) -> Match:
        """A hit with its conditions, those that the context meets and the others."""
        met: list[Condition] = []
        missed: list[Condition] = []
        for condition in hit.known.pattern.conditions:
            (met if condition.holds(context) else missed).append(condition)
        return cls(hit.known, tuple(met), tuple(missed), hit.score)


class Matcher:
    """The patterns that are known, ready to be matched with contexts.

    `half_life` is that of a pattern's recency. Unconditional patterns hold everywhere and so are no match for
    a particular context; their advice counts where nothing more specific is decided.
    """

    def __init__(
        self,
        patterns: Iterable[KnownPattern] = (),
        *,
        half_life: timedelta = HALF_LIFE,
    ) -> None:
        if half_life <= timedelta():
            raise ValueError("the half-life must be positive")
        self._half_life_h = half_life / _HOUR
        self._segments: list[_Segment] = []
        self._places: dict[str, tuple[_Segment, int]] = {}
        self._pending: dict[str, KnownPattern] = {}
        self.add(*patterns)

    def __len__(self) -> int:
        return len(self._places) + len(self._pending)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._places or id_ in self._pending

    def __iter__(self) -> Iterator[KnownPattern]:
        """All patterns, in no particular order."""
        for segment, slot in self._places.values():
            yield segment.patterns[slot]
        yield from self._pending.values()

    def add(self, *patterns: KnownPattern) -> None:
        """Add patterns; those whose ids are known already are replaced."""
        for each in self.update(*patterns):
            self.remove(each.id)
            self._pending[each.id] = each

    def replace(self, patterns: Iterable[KnownPattern]) -> None:
        """Know exactly these patterns from now on; what hasn't changed costs little."""
        wanted = {each.id: each for each in patterns}
        self.remove(*(each.id for each in list(self) if each.id not in wanted))
        self.add(*wanted.values())

    def update(self, *patterns: KnownPattern) -> list[KnownPattern]:
        """Take other counts and words of known patterns; returns those that `merging` must add instead.

        These are new, or have other conditions.
        """
        fresh = []
        for each in patterns:
            place = self._places.get(each.id)
            if place and place[0].patterns[place[1]].pattern.conditions == each.pattern.conditions:
                place[0].update(place[1], each)
            else:
                fresh.append(each)
        return fresh

    def merging(self, patterns: Iterable[KnownPattern]) -> Merging:
        """Adds many patterns in two steps, the long one of which may run in a thread while others match.

        Until `finish` nothing else may be added or removed.
        """
        merged = {each.id: each for each in (*self._pending.values(), *patterns)}
        segments = sorted(self._segments, key=lambda each: each.living)
        # A pattern moves only into a segment half as large again or more, so it moves rarely.
        moving: list[_Segment] = []
        size = len(merged)
        for segment in segments:
            if segment.living <= 2 * size or segment.dead_share > _DEAD_SHARE:
                moving.append(segment)
                size += segment.living
        return Merging(merged, moving, self._half_life_h)

    def finish(self, merging: Merging) -> None:
        """Let what was built be matched from now on."""
        built = merging.built
        self.remove(*merging.fresh)
        self._segments = [each for each in self._segments if each not in merging.moving]
        self._pending.clear()
        if built is not None:
            self._segments.append(built)
            for slot, each in enumerate(built.patterns):
                self._places[each.id] = built, slot

    def fields(self) -> set[str]:
        """The fields that conditions are about."""
        return {name for segment in self._ready() for name in segment.fields}

    def remove(self, *ids: str) -> None:
        """Forget patterns; unknown ids are ignored."""
        for each in ids:
            self._pending.pop(each, None)
            if place := self._places.pop(each, None):
                place[0].kill(place[1])

    def match(
        self, context: Mapping[str, Scalar], now: datetime, limit: int = 20, min_confidence: float = 0.0
    ) -> list[Match]:
        """The patterns with any condition met, best first; ties go by support, then by id."""
        if limit <= 0:
            return []
        found = [
            hit
            for segment in self._ready()
            for hit in segment.best(context, _hours(now), limit, min_confidence)
        ]
        found.sort(key=lambda hit: (-hit.score, -hit.known.support, hit.known.id))
        return [Match.of(hit, context) for hit in found[:limit]]

    def knows(self, context: Mapping[str, Scalar]) -> bool:
        """Whether the context meets any condition of any pattern."""
        return any(segment.knows(context) for segment in self._ready())

    def holds(self, context: Mapping[str, Scalar]) -> bool:
        """Whether the context meets all conditions of any pattern."""
        return any(segment.holds(context) for segment in self._ready())

    def fitting(self, context: Mapping[str, Scalar], now: datetime, threshold: float) -> list[Fitting]:
        """The patterns with an action all of whose conditions are met, in several parts.

        Those are left out whose credible interval contains the threshold: their evidence decides nothing yet.
        """
        return [segment.fitting(context, _hours(now), threshold) for segment in self._ready()]

    def _ready(self) -> list[_Segment]:
        """The segments, after what was added has become part of them."""
        if self._pending:
            merging = self.merging(())
            merging.build()
            self.finish(merging)
        return self._segments


class Merging:
    """Patterns that become part of the index, with the segments that they are merged with."""

    def __init__(
        self, fresh: Mapping[str, KnownPattern], moving: Sequence[_Segment], half_life_h: float
    ) -> None:
        self.fresh, self.moving, self._half_life_h = fresh, moving, half_life_h
        self.built: _Segment | None = None

    def build(self) -> None:
        """Index them; takes about 15 µs a pattern, and changes nothing that others read."""
        together = list(self.fresh.values())
        together += [each for segment in self.moving for each in segment if each.id not in self.fresh]
        if together:
            self.built = _Segment(sorted(together, key=lambda each: each.id), self._half_life_h)


class _Segment:
    """Patterns with an index that doesn't change, except that their counts may and that patterns may die.

    Slots are in the order of the ids, so that the lower slot wins a tie. As recency falls by the same factor
    for all patterns, its part in their order is computed once, as of `_as_of_h`.
    """

    def __init__(self, patterns: list[KnownPattern], half_life_h: float) -> None:
        self.patterns = patterns
        self.living = len(patterns)
        self._half_life_h = half_life_h
        self._total = np.array([len(each.pattern.conditions) for each in patterns], np.intp)
        self._confidence = np.array([each.confidence for each in patterns], float)
        self._ceiling = np.array([each.ceiling for each in patterns], float)
        self._support = np.array([min(each.support, _MAX_SUPPORT) for each in patterns], np.int64)
        self._last_seen_h = np.array([_hours(each.last_seen) for each in patterns], float)
        self._actions: dict[str, int] = {}
        self._action = np.array([self._code(each.pattern.action) for each in patterns], np.intp)
        self._alive = np.ones(len(patterns), bool)
        self._unconditional = np.flatnonzero(self._total == 0)
        self._conditions = ConditionIndex([each.pattern.conditions for each in patterns])
        self._latest_h = self._as_of_h = 0.0
        self._weight = np.zeros(len(patterns))
        self._weigh_all()

    def __iter__(self) -> Iterator[KnownPattern]:
        """The living ones."""
        return (self.patterns[slot] for slot in np.flatnonzero(self._alive).tolist())

    @property
    def fields(self) -> Collection[str]:
        return self._conditions.fields

    @property
    def dead_share(self) -> float:
        return 1 - self.living / len(self.patterns)

    def update(self, slot: int, changed: KnownPattern) -> None:
        """Take other counts, data or words of a pattern with the same conditions."""
        self.patterns[slot] = changed
        self._confidence[slot] = changed.confidence
        self._ceiling[slot] = changed.ceiling
        self._support[slot] = min(changed.support, _MAX_SUPPORT)
        self._last_seen_h[slot] = seen_h = _hours(changed.last_seen)
        self._action[slot] = self._code(changed.pattern.action)
        self._latest_h = max(self._latest_h, seen_h)
        if (seen_h - self._as_of_h) / self._half_life_h > _MAX_HALF_LIVES:
            self._weigh_all()
        else:
            recency = 2 ** ((seen_h - self._as_of_h) / self._half_life_h)
            self._weight[slot] = changed.confidence * recency / max(self._total[slot], 1)

    def _weigh_all(self) -> None:
        self._latest_h = self._as_of_h = max(float(self._last_seen_h.max()), 0.0)
        self._weight = self._weights_at(self._as_of_h)

    def _weights_at(self, now_h: float) -> Floats:
        """What a met condition adds to the score of each pattern."""
        recency = np.exp2(np.minimum(self._last_seen_h - now_h, 0) / self._half_life_h)
        weights: Floats = self._confidence * recency / np.maximum(self._total, 1)
        return weights

    def _code(self, action: str | None) -> int:
        return -1 if action is None else self._actions.setdefault(action, len(self._actions))

    def kill(self, slot: int) -> None:
        self._alive[slot] = False
        self.living -= 1

    def knows(self, context: Mapping[str, Scalar]) -> bool:
        """Whether the context meets any condition."""
        met = self._conditions.met(context)
        return met is not None and bool((met * self._alive).any())

    def holds(self, context: Mapping[str, Scalar]) -> bool:
        """Whether the context meets all conditions of any pattern."""
        return bool(self._alive[self._all_met(context)].any())

    def _all_met(self, context: Mapping[str, Scalar]) -> Slots:
        met = self._conditions.met(context)
        return self._unconditional if met is None else np.flatnonzero(met == self._total)

    def best(
        self, context: Mapping[str, Scalar], now_h: float, limit: int, min_confidence: float
    ) -> list[Hit]:
        met = self._conditions.met(context)
        if met is None:
            return []
        slots = np.flatnonzero(met)
        if self.living < len(self.patterns):
            slots = slots[self._alive[slots]]
        if min_confidence > 0:
            slots = slots[self._confidence[slots] >= min_confidence]
        # What was seen later than now, by another site's clock, counts as seen now.
        ahead = now_h < self._latest_h
        weight = self._weights_at(now_h)[slots] if ahead else self._weight[slots]
        scale = 1.0 if ahead else 2 ** ((self._as_of_h - now_h) / self._half_life_h)
        scores = met[slots] * weight
        if len(slots) > limit:
            # The rounded scores need only be compared for those that may be among the best.
            least = np.partition(scores, len(scores) - limit)[len(scores) - limit]
            near = np.flatnonzero(scores * scale >= least * scale * _NEARLY - 2 * 10.0**-_SCORE_DIGITS)
            slots, scores = slots[near], scores[near]
        scores = np.round(scores * scale, _SCORE_DIGITS)
        chosen = _first(scores, self._support[slots], limit)
        return self._hits(slots[chosen], scores[chosen])

    def fitting(self, context: Mapping[str, Scalar], now_h: float, threshold: float) -> Fitting:
        """The living patterns with an action all of whose conditions are met."""
        slots = self._all_met(context)
        slots = slots[self._alive[slots] & (self._action[slots] >= 0)]
        if not len(slots):
            return Fitting([], 0, None)
        top = self.patterns[slots[np.argmax(self._confidence[slots])]]
        decided = (self._confidence[slots] >= threshold) | (self._ceiling[slots] < threshold)
        chosen = self._most_specific(slots[decided])
        recency = np.exp2(np.minimum(self._last_seen_h[chosen] - now_h, 0) / self._half_life_h)
        scores = np.round(self._confidence[chosen] * recency, _SCORE_DIGITS)
        return Fitting(self._hits(chosen, scores), len(slots), top)

    def _most_specific(self, slots: Slots) -> Slots:
        """For each action, the patterns with most conditions, the best supported ones first."""
        actions = self._action[slots]
        order = np.lexsort((slots, -self._support[slots], -self._total[slots], actions))
        ordered = actions[order]
        begins = np.searchsorted(ordered, ordered)
        return slots[order[np.arange(len(order)) - begins < MOST_PER_ACTION]]

    def _hits(self, slots: Slots, scores: Floats) -> list[Hit]:
        return [
            Hit(self.patterns[slot], score)
            for slot, score in zip(slots.tolist(), scores.tolist(), strict=True)
        ]


def _hours(instant: datetime | None) -> float:
    return _NEVER_H if instant is None else (instant - _EPOCH) / _HOUR


def _first(scores: Floats, support: NDArray[np.int64], limit: int) -> Slots:
    """The indexes of the highest scores in any order; of equal ones the best supported, then the first."""
    if len(scores) <= limit:
        return np.arange(len(scores))
    last = np.partition(scores, len(scores) - limit)[len(scores) - limit]
    above, tied = np.flatnonzero(scores > last), np.flatnonzero(scores == last)
    missing = limit - len(above)
    if len(tied) > missing:
        # One number orders by support, then by index.
        order = tied - support[tied] * len(scores)
        tied = tied[np.argpartition(order, missing - 1)[:missing]]
    return np.concatenate([above, tied])
