"""Which patterns hold in a context: they are found by an index over their conditions, and ranked.

A context is matched by counting how many of a pattern's conditions it meets: first for the patterns that
would score highest if all were met, then for those that would score less, as long as they might still be
among the best (a threshold algorithm: Fagin, Lotem and Naor, 2003). Patterns are kept in segments that are
merged as they grow (the logarithmic method of Bentley and Saxe, 1980): adding one pattern to many thousands
doesn't build the whole index again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from maia.learning.condition_index import Columns, ConditionIndex, Met, Slots, Whole
from maia.learning.known_patterns import KnownPattern
from maia.learning.observations import Scalar
from maia.learning.patterns import Condition

HALF_LIFE: Final = timedelta(days=30)
"""A pattern that was last seen so long ago counts half as much as one seen now."""

MOST_PER_ACTION: Final = 32
"""No more patterns for one action fit: comparing the conditions of all pairs of very many would be slow."""

_CHANGING: Final = ("action", "support", "confidence", "ceiling", "last_seen_h")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR: Final = timedelta(hours=1)
_NEVER_H: Final = -np.inf
# Ranks must not depend on the last digit of a machine's exponential function.
_SCORE_DIGITS: Final = 12
_SUPPORT_BITS: Final = 38
_MAX_SUPPORT: Final = 2**_SUPPORT_BITS
# Above the support and the number of conditions, which is at most 255 where all are met.
_ACTION_SHIFT: Final = _SUPPORT_BITS + 8
_MOST_ACTIONS: Final = 2 ** (63 - _ACTION_SHIFT)
_NEARLY: Final = 1 - 1e-9
# From there on powers of two might overflow.
_MAX_HALF_LIVES: Final = 500
_DEAD_SHARE: Final = 0.5
_TIERS: Final = (1_000, 8_000, 40_000)
"""How many patterns of a segment are looked at first, how many next, and so on; the others are last."""

Floats = NDArray[np.float64]


FACTS: Final = np.dtype(
    [
        ("place", np.int64), ("rank", np.int64), ("action", np.int32), ("total", np.int32),
        ("support", np.int64), ("confidence", float), ("ceiling", float), ("last_seen_h", float),
        ("signature", np.uint64),
    ]
)  # fmt: skip
"""What is asked of a pattern that fits, side by side: one line of the processor's cache.

`place` is its slot, and above that the number of its segment; ranks are in the order of the ids. `action` is
a number, -1 for none; `total` counts its conditions.
"""
_PLACE: Final = 0
_SLOT_BITS: Final = 32
_SLOTS: Final = 2**_SLOT_BITS - 1
Facts: TypeAlias = NDArray[np.int64]
"""The same as plain numbers, a row for each pattern: NumPy copies them sooner than records."""


class Hit(NamedTuple):
    """A pattern that was found, and how well it matches."""

    known: KnownPattern
    score: float


class Decided(NamedTuple):
    """Patterns that fit and decide about actions: a row for each, the most specific ones of an action first.

    Of equally specific ones the best supported comes first, then the first by id.
    """

    actions: Sequence[str]
    patterns: Sequence[NDArray[np.object_]]
    """Those of all segments."""
    facts: Facts
    """`action` is an action's place among `actions`."""
    scores: Floats
    """Confidence × recency."""

    @property
    def rows(self) -> NDArray[np.void]:
        """The facts by name."""
        return _named(self.facts)

    def take(self, wanted: Slots | NDArray[np.bool_]) -> Decided:
        """Some of them."""
        return self._replace(facts=self.facts[wanted], scores=self.scores[wanted])

    def known(self, wanted: Slots) -> list[KnownPattern]:
        """The patterns of some rows."""
        places = self.facts[wanted, _PLACE].tolist()
        return [self.patterns[place >> _SLOT_BITS][place & _SLOTS] for place in places]

    def begins(self) -> Slots:
        """The first row of each action."""
        action = self.rows["action"]
        return np.concatenate(([0], np.flatnonzero(action[1:] != action[:-1]) + 1))

    @classmethod
    def joined(cls, parts: Sequence[Decided]) -> Decided:
        """Those of several segments."""
        actions: dict[str, int] = {}
        for number, part in enumerate(parts):
            names, rows = [actions.setdefault(each, len(actions)) for each in part.actions], part.rows
            rows["action"] = np.array(names)[rows["action"]]
            rows["place"] += number << _SLOT_BITS
        whole = cls(
            [*actions],
            [each for part in parts for each in part.patterns],
            np.concatenate([each.facts for each in parts]),
            np.concatenate([each.scores for each in parts]),
        )
        ids = [each.id for each in whole.known(np.arange(len(whole.facts)))]
        whole.rows["rank"] = np.unique(ids, return_inverse=True)[1]
        return whole.take(_most_specific(whole.rows))


class Fitting(NamedTuple):
    """How many patterns fit, decided or not, and the most trusted one."""

    number: int
    top: KnownPattern | None


class Match(NamedTuple):
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

    def find(self, id_: str) -> KnownPattern | None:
        """The pattern with this id, if it is known."""
        place = self._places.get(id_)
        return place[0].patterns[place[1]] if place else self._pending.get(id_)

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
        found: list[Hit] = []
        least = -1.0
        for segment in sorted(self._ready(), key=lambda each: -each.living):
            found += segment.best(context, _hours(now), limit, min_confidence, least)
            found.sort(key=lambda hit: (-hit.score, -hit.known.support, hit.known.id))
            del found[limit:]
            if len(found) == limit:
                least = found[-1].score
        return [Match.of(hit, context) for hit in found]

    def knows(self, context: Mapping[str, Scalar]) -> bool:
        """Whether the context meets any condition of any pattern."""
        return any(segment.knows(context) for segment in self._ready())

    def holds(self, context: Mapping[str, Scalar]) -> bool:
        """Whether the context meets all conditions of any pattern."""
        return any(segment.holds(context) for segment in self._ready())

    def decided(self, context: Mapping[str, Scalar], now: datetime, threshold: float) -> Decided | None:
        """The patterns with an action all of whose conditions are met: of each action the most specific ones.

        Those are left out whose credible interval contains the threshold: their evidence decides nothing yet.
        None if there is none.
        """
        parts = [found for each in self._ready() if (found := each.decided(context, _hours(now), threshold))]
        return Decided.joined(parts) if len(parts) > 1 else next(iter(parts), None)

    def fitting(self, context: Mapping[str, Scalar]) -> Fitting:
        """All patterns with an action all of whose conditions are met."""
        found = [segment.fitting(context) for segment in self._ready()]
        tops = [each.top for each in found if each.top is not None]
        top = max(tops, key=lambda each: (each.confidence, each.id), default=None)
        return Fitting(sum(each.number for each in found), top)

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
        self.patterns = np.empty(len(patterns), object)
        self.patterns[:] = patterns
        self.living = len(patterns)
        self._half_life_h = half_life_h
        self._conditions = ConditionIndex([each.pattern.conditions for each in patterns])
        self._total = self._conditions.totals
        self._actions: dict[str, int] = {}
        self._facts = np.zeros((len(patterns), FACTS.itemsize // 8), np.int64)
        self._named = rows = _named(self._facts)
        rows["total"], rows["signature"] = self._total, self._conditions.signatures()
        rows["place"] = rows["rank"] = np.arange(len(patterns))
        self._confidence, self._action = rows["confidence"], rows["action"]
        self._support, self._last_seen_h = rows["support"], rows["last_seen_h"]
        for name, column in zip(_CHANGING, zip(*map(self._changing, patterns), strict=True), strict=True):
            rows[name] = column
        self._alive = np.ones(len(patterns), bool)
        self._unconditional = np.flatnonzero(self._total == 0)
        self._latest_h = self._as_of_h = 0.0
        self._weight = np.zeros(len(patterns))
        self._tiers: list[_Tier] = []
        self._weigh_all()
        self._tiers = self._tiers_of(self._weight * self._total)
        self._tier = np.zeros(len(patterns), np.intp)
        for number, tier in enumerate(self._tiers):
            self._tier[tier.slots] = number
        self._advising = self._advising_of()

    def _tiers_of(self, highest: Floats) -> list[_Tier]:
        """The patterns in parts, by the highest score that they can have."""
        order = np.argsort(-highest, kind="stable")
        ends = [*(end for end in np.cumsum(_TIERS).tolist() if end < len(order)), len(order)]
        parts = [np.sort(order[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
        return [_Tier(each, self._conditions.part(each), float(highest[each].max())) for each in parts]

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
        had_action = self._action[slot] >= 0
        for name, value in zip(_CHANGING, self._changing(changed), strict=True):
            self._named[name][slot] = value
        seen_h = _hours(changed.last_seen)
        if not had_action and self._action[slot] >= 0:
            self._advising = self._advising_of()
        self._latest_h = max(self._latest_h, seen_h)
        if (seen_h - self._as_of_h) / self._half_life_h > _MAX_HALF_LIVES:
            self._weigh_all()
        else:
            recency = 2 ** ((seen_h - self._as_of_h) / self._half_life_h)
            self._weight[slot] = changed.confidence * recency / max(self._total[slot], 1)
            tier = self._tiers[self._tier[slot]]
            tier.highest = max(tier.highest, changed.confidence * recency)

    def _weigh_all(self) -> None:
        self._latest_h = self._as_of_h = max(float(self._last_seen_h.max()), 0.0)
        self._weight = self._weights_at(self._as_of_h)
        for tier in self._tiers:
            tier.highest = float((self._weight * self._total)[tier.slots].max())

    def _weights_at(self, now_h: float) -> Floats:
        """What a met condition adds to the score of each pattern."""
        recency = np.exp2(np.minimum(self._last_seen_h - now_h, 0) / self._half_life_h)
        weights: Floats = self._confidence * recency / np.maximum(self._total, 1)
        return weights

    def _changing(self, known: KnownPattern) -> tuple[float, ...]:
        """Of a pattern's facts those that may change, as `_CHANGING` names them."""
        action, seen_h = self._code(known.pattern.action), _hours(known.last_seen)
        return action, min(known.support, _MAX_SUPPORT), known.confidence, known.ceiling, seen_h

    def _code(self, action: str | None) -> int:
        return -1 if action is None else self._actions.setdefault(action, len(self._actions))

    def kill(self, slot: int) -> None:
        self._alive[slot] = False
        self.living -= 1

    def knows(self, context: Mapping[str, Scalar]) -> bool:
        """Whether the context meets any condition."""
        if not (ranges := self._conditions.ranges(context)):
            return False
        met = self._conditions.met(ranges)
        return any(
            bool(self._alive[tier.slots[tier.conditions.count(met) > 0]].any()) for tier in self._tiers
        )

    def holds(self, context: Mapping[str, Scalar]) -> bool:
        """Whether the context meets all conditions of any pattern."""
        return bool(self._alive[self._all_met(context)].any())

    def _all_met(self, context: Mapping[str, Scalar]) -> Slots:
        """The patterns all of whose conditions are met."""
        if not (ranges := self._conditions.ranges(context)):
            return self._unconditional
        met = self._conditions.met(ranges)
        return np.flatnonzero(self._conditions.columns.count(met) == self._total)

    def best(
        self, context: Mapping[str, Scalar], now_h: float, limit: int, min_confidence: float, least: float
    ) -> list[Hit]:
        """The patterns that score highest; those that score less than `least` may be left out."""
        if not (ranges := self._conditions.ranges(context)):
            return []
        met = self._conditions.met(ranges)
        # What was seen later than now, by another site's clock, counts as seen now.
        ahead = now_h < self._latest_h
        weights = self._weights_at(now_h) if ahead else self._weight
        half_lives = (self._as_of_h - now_h) / self._half_life_h
        decay = math.inf if half_lives > _MAX_HALF_LIVES else 2**half_lives
        scale = 1.0 if ahead else decay
        slots, scores = np.empty(0, np.intp), np.empty(0)
        for tier in self._tiers:
            if least > tier.highest * decay / _NEARLY + 2 * 10.0**-_SCORE_DIGITS:
                continue
            more, more_scores = self._scores(tier, met, weights, scale, min_confidence)
            slots, scores = np.concatenate([slots, more]), np.concatenate([scores, more_scores])
            if len(slots) > limit:
                chosen = _first(scores, self._support[slots], slots, limit)
                slots, scores = slots[chosen], scores[chosen]
            if len(slots) == limit:
                least = max(least, float(scores.min()))
        return self._hits(slots, scores)

    def _scores(
        self, tier: _Tier, met: Met, weights: Floats, scale: float, min_confidence: float
    ) -> tuple[Slots, Floats]:
        """The living patterns of a tier with any condition met, and their scores."""
        counts = tier.conditions.count(met)
        places = np.flatnonzero(counts)
        slots = tier.slots[places]
        scores = np.round(counts[places] * weights[slots] * scale, _SCORE_DIGITS)
        wanted = np.ones(len(slots), bool)
        if self.living < len(self.patterns):
            wanted &= self._alive[slots]
        if min_confidence > 0:
            wanted &= self._confidence[slots] >= min_confidence
        return slots[wanted], scores[wanted]

    def fitting(self, context: Mapping[str, Scalar]) -> Fitting:
        """The living patterns with an action all of whose conditions are met."""
        slots = self._all_met(context)
        slots = slots[self._alive[slots] & (self._action[slots] >= 0)]
        if not len(slots):
            return Fitting(0, None)
        return Fitting(len(slots), self.patterns[slots[np.argmax(self._confidence[slots])]])

    def decided(self, context: Mapping[str, Scalar], now_h: float, threshold: float) -> Decided | None:
        """Of those the most specific ones of each action whose evidence decides."""
        ranges = self._conditions.ranges(context)
        met, bounds = self._conditions.met(ranges), np.array(ranges, np.intp).reshape(-1, 2)
        found, missing = [], np.full(len(self._actions) + 1, MOST_PER_ACTION)
        # No pattern without an action, which has the number -1.
        missing[-1] = 0
        for slots in chain((each.met(bounds, met) for each in self._advising), [self._unconditional]):
            facts = self._facts.take(slots, axis=0)
            rows = _named(facts)
            wanted = (rows["confidence"] >= threshold) | (rows["ceiling"] < threshold)
            wanted &= self._alive[slots] & (missing[rows["action"]] > 0)
            facts = facts.compress(wanted, axis=0)
            found.append(facts)
            # Shorter ones are less specific.
            missing -= np.bincount(_named(facts)["action"], minlength=len(missing))
            if not (missing > 0).any():
                break
        facts = np.concatenate(found)
        if not len(facts):
            return None
        facts = facts.take(_most_specific(_named(facts)), axis=0)
        rows = _named(facts)
        recency = np.exp2(np.minimum(rows["last_seen_h"] - now_h, 0) / self._half_life_h)
        decided = Decided((), [self.patterns], facts, np.round(rows["confidence"] * recency, _SCORE_DIGITS))
        begins = decided.begins()
        actions = [each.pattern.action or "" for each in decided.known(begins)]
        rows["action"] = np.searchsorted(begins, np.arange(len(rows)), side="right") - 1
        return decided._replace(actions=actions)

    def _advising_of(self) -> list[Whole]:
        """The patterns with an action and conditions."""
        return self._conditions.wholes(np.flatnonzero(self._action >= 0))

    def _hits(self, slots: Slots, scores: Floats) -> list[Hit]:
        return [
            Hit(self.patterns[slot], score)
            for slot, score in zip(slots.tolist(), scores.tolist(), strict=True)
        ]


@dataclass(slots=True)
class _Tier:
    """Some patterns of a segment, in the order of their slots."""

    slots: Slots
    conditions: Columns
    highest: float
    """No pattern among them scores higher, as of `_as_of_h`, if all its conditions are met."""


def _named(facts: Facts) -> NDArray[np.void]:
    return facts.view(FACTS)[:, 0]


def _hours(instant: datetime | None) -> float:
    return _NEVER_H if instant is None else (instant - _EPOCH) / _HOUR


def _most_specific(rows: NDArray[np.void]) -> Slots:
    """Of each action the places of the patterns with most conditions, the best supported ones first."""
    action = rows["action"].astype(np.int64)
    within = -(rows["total"].astype(np.int64) << _SUPPORT_BITS) - rows["support"]
    # One number is sorted sooner than two, if both fit into it.
    one_number = action.max(initial=0) < _MOST_ACTIONS
    keys = (within + (action << _ACTION_SHIFT),) if one_number else (within, action)
    order = np.lexsort((rows["rank"], *keys))
    ordered = action[order]
    begins = np.searchsorted(ordered, ordered)
    return order[np.arange(len(order)) - begins < MOST_PER_ACTION]


def _first(scores: Floats, support: NDArray[np.int64], slots: Slots, limit: int) -> Slots:
    """The places of the highest scores in any order; of equal ones the best supported, then the first."""
    if len(scores) <= limit:
        return np.arange(len(scores))
    last = np.partition(scores, len(scores) - limit)[len(scores) - limit]
    above, tied = np.flatnonzero(scores > last), np.flatnonzero(scores == last)
    missing = limit - len(above)
    if len(tied) > missing:
        tied = tied[np.lexsort((slots[tied], -support[tied]))[:missing]]
    return np.concatenate([above, tied])
