"""Which patterns hold in a context, and what they advise: an index over conditions, and actions ranked.

A context is matched by counting, for every pattern, how many of its conditions the context meets. Conditions
are indexed by field, operator and value, so that only those that are met are touched. Patterns are kept in
segments that are merged as they grow (the logarithmic method of Bentley and Saxe, 1980): adding one pattern
to many thousands doesn't build the whole index again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, gammaincinv

from maia.learning.evidence import FLAT, Counts, Prior, interval, strength
from maia.learning.observations import Scalar
from maia.learning.patterns import Condition, Operator, Pattern

HALF_LIFE: Final = timedelta(days=30)
"""A pattern that was last seen so long ago counts half as much as one seen now."""

THRESHOLD: Final = 0.7
"""Nothing less trusted is recommended."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR: Final = timedelta(hours=1)
_NEVER_H: Final = -np.inf
# Ranks must not depend on the last digit of a machine's exponential function.
_SCORE_DIGITS: Final = 12
_GRID: Final = 40
_MAX_SUPPORT: Final = 2**38
# Comparing the conditions of all pairs of very many patterns would be slow.
_MOST_PER_ACTION: Final = 32
_NEARLY: Final = 1 - 1e-9
# From there on powers of two might overflow.
_MAX_HALF_LIVES: Final = 500
_DEAD_SHARE: Final = 0.5

Floats = NDArray[np.float64]
Slots = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class KnownPattern:
    """A pattern with what is believed of it. `known` makes many at once."""

    id: str
    pattern: Pattern
    counts: Counts
    strength: float
    """The posterior mean of the chance that the statement proves true."""
    confidence: float
    """The lower bound of the 90 % credible interval of that chance."""
    ceiling: float
    """The upper bound of the same interval."""
    pinned: bool = False

    @property
    def support(self) -> int:
        return self.counts.support

    @property
    def last_seen(self) -> datetime | None:
        return self.counts.last_seen


def known(
    patterns: Sequence[tuple[Pattern, Counts]], prior: Prior = FLAT, pinned: Iterable[str] = ()
) -> list[KnownPattern]:
    """Patterns with strength and confidence, computed for all of them at once."""
    if not patterns:
        return []
    pairs = np.array([(counts.pos, counts.neg) for _, counts in patterns], float)
    # Few counts are frequent, and the bounds of an interval cost a microsecond each.
    distinct, which = np.unique(pairs, axis=0, return_inverse=True)
    lows, highs = interval(distinct[:, 0], distinct[:, 1], prior)
    means = strength(distinct[:, 0], distinct[:, 1], prior)
    columns = np.column_stack([means, lows, highs])[which.ravel()].tolist()
    pins = frozenset(pinned)
    return [
        KnownPattern(id_, pattern, counts, mean, low, high, id_ in pins)
        for (pattern, counts), (mean, low, high), id_ in zip(
            patterns, columns, (pattern.id for pattern, _ in patterns), strict=True
        )
    ]


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


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An action with the reward per cost that is expected of it, and the patterns that say so."""

    action: str
    reward: float
    """The posterior mean of the reward per unit of cost; or of the chance to succeed without rewards."""
    interval_80: tuple[float, float]
    interval_90: tuple[float, float]
    counts: Counts
    """The evidence of the best supported pattern: the others may rest on the same observations."""
    confidence: float
    """The highest confidence among the patterns."""
    because: tuple[Match, ...]
    """Best first."""
    drawn: float | None = None
    """What Thompson sampling drew from the posterior, if it was asked to explore."""

    @property
    def why(self) -> str:
        """The best pattern's statement, and the conditions that the context meets."""
        best = self.because[0]
        conditions = ", ".join(map(str, best.met))
        return (
            f"{best.known.pattern.statement} (because {conditions})"
            if conditions
            else best.known.pattern.statement
        )


@dataclass(frozen=True, slots=True)
class Recommendations:
    """The actions to take, best first; if there are none, `reason` says why in words."""

    actions: tuple[Recommendation, ...]
    reason: str | None = None


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
        confidence_threshold: float = THRESHOLD,
        prior: Prior = FLAT,
    ) -> None:
        if half_life <= timedelta():
            raise ValueError("the half-life must be positive")
        self.confidence_threshold = confidence_threshold
        self._prior = prior
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
        for each in patterns:
            place = self._places.get(each.id)
            if place and place[0].patterns[place[1]].pattern.conditions == each.pattern.conditions:
                place[0].update(place[1], each)
                continue
            self.remove(each.id)
            self._pending[each.id] = each

    def replace(self, patterns: Iterable[KnownPattern]) -> None:
        """Know exactly these patterns from now on; what hasn't changed costs little."""
        wanted = {each.id: each for each in patterns}
        self.remove(*(each.id for each in list(self) if each.id not in wanted))
        self.add(*wanted.values())

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
        return [_explained(hit, context) for hit in found[:limit]]

    def recommend(
        self,
        context: Mapping[str, Scalar],
        now: datetime,
        limit: int = 5,
        *,
        explore: bool = False,
        seed: int = 0,
    ) -> Recommendations:
        """The actions with the highest posterior mean of reward per cost among the patterns that fully match.

        With `explore` they are ranked by a draw from each posterior instead (Thompson sampling), the same one
        for the same seed. Nothing under the confidence threshold is recommended, and of two patterns for an
        action whose conditions nest, the more specific one counts once its evidence decides either way.
        """
        threshold = self.confidence_threshold
        found = [segment.advice(context, _hours(now), threshold) for segment in self._ready()]
        if context and not any(segment.knows(context) for segment in self._segments):
            return Recommendations((), self._unknown(context))
        by_action: defaultdict[str, list[_Hit]] = defaultdict(list)
        for hit in (hit for each in found for hit in each.hits):
            by_action[hit.known.pattern.action or ""].append(hit)
        random = np.random.default_rng(seed) if explore else None
        advised = [
            _Advised(action, hits, self._prior, random)
            for action, all_ in sorted(by_action.items())
            if (hits := _trusted(all_, threshold))
        ]
        if not advised:
            return Recommendations((), self._nothing(context, now, found))
        advised.sort(key=lambda each: (-each.rank, -each.best.support, each.action))
        return Recommendations(tuple(each.explained(context) for each in advised[:limit]))

    def _unknown(self, context: Mapping[str, Scalar]) -> str:
        if not len(self):
            return "Nothing has been learnt yet."
        fields = ", ".join(sorted(context))
        return f"This context is unknown: no pattern has a condition that it meets (its fields: {fields})."

    def _nothing(self, context: Mapping[str, Scalar], now: datetime, found: Sequence[_Advice]) -> str:
        """Why there is no advice for a context that isn't unknown."""
        tops = [each.top for each in found if each.top is not None]
        if tops:
            best = max(tops, key=lambda each: (each.confidence, each.id))
            return self._untrusted(sum(each.fitting for each in found), best)
        nearest = next((m for m in self.match(context, now) if m.known.pattern.action and m.missed), None)
        if nearest is not None:
            missing = ", ".join(map(str, nearest.missed))
            statement = nearest.known.pattern.statement
            return f"No advice fits fully. The nearest is “{statement}”, which also needs {missing}."
        if not len(self):
            return "Nothing has been learnt yet."
        if not any(segment.holds(context) for segment in self._segments):
            return "No pattern holds here in full, and none of those that hold in part advises an action."
        return "The patterns that hold here only describe: none of them advises an action."

    def _untrusted(self, fitting: int, best: KnownPattern) -> str:
        if best.confidence >= self.confidence_threshold:
            return (
                f"“{best.pattern.statement}” would apply, but more specific evidence speaks against it here."
            )
        return (
            f"{_count(fitting)} would advise something here, but not with enough confidence: "
            f"the highest is {best.confidence:.2f}, and {self.confidence_threshold:.2f} is needed."
        )

    def _ready(self) -> list[_Segment]:
        """The segments, after what was added has become part of them."""
        if self._pending:
            self._absorb()
        return self._segments

    def _absorb(self) -> None:
        fresh = list(self._pending.values())
        kept: list[_Segment] = []
        for segment in sorted(self._segments, key=lambda each: each.living):
            # A pattern moves only into a segment half as large again or more, so it moves rarely.
            if segment.living <= 2 * len(fresh) or segment.dead_share > _DEAD_SHARE:
                fresh.extend(segment)
            else:
                kept.append(segment)
        built = _Segment(sorted(fresh, key=lambda each: each.id), self._half_life_h)
        self._segments = [*kept, built]
        self._pending.clear()
        for slot, each in enumerate(built.patterns):
            self._places[each.id] = built, slot


class _Hit(NamedTuple):
    known: KnownPattern
    score: float


class _Advice(NamedTuple):
    """What is decided for an action, and of all patterns that fit how many there are and the most trusted."""

    hits: list[_Hit]
    fitting: int
    top: KnownPattern | None


class _Segment:
    """An index of patterns that doesn't change, except that their counts may and that patterns may die.

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
        self._fields = _fields_of(patterns)
        self._latest_h = self._as_of_h = 0.0
        self._weight = np.zeros(len(patterns))
        self._weigh_all()

    def __iter__(self) -> Iterator[KnownPattern]:
        """The living ones."""
        return (self.patterns[slot] for slot in np.flatnonzero(self._alive).tolist())

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
        met = self._met(context)
        return met is not None and bool((met * self._alive).any())

    def holds(self, context: Mapping[str, Scalar]) -> bool:
        """Whether the context meets all conditions of any pattern."""
        return bool(self._alive[self._fitting(context)].any())

    def _fitting(self, context: Mapping[str, Scalar]) -> Slots:
        met = self._met(context)
        return self._unconditional if met is None else np.flatnonzero(met == self._total)

    def best(
        self, context: Mapping[str, Scalar], now_h: float, limit: int, min_confidence: float
    ) -> list[_Hit]:
        met = self._met(context)
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

    def advice(self, context: Mapping[str, Scalar], now_h: float, threshold: float) -> _Advice:
        """What the living patterns advise all of whose conditions are met."""
        slots = self._fitting(context)
        slots = slots[self._alive[slots] & (self._action[slots] >= 0)]
        if not len(slots):
            return _Advice([], 0, None)
        top = self.patterns[slots[np.argmax(self._confidence[slots])]]
        decided = (self._confidence[slots] >= threshold) | (self._ceiling[slots] < threshold)
        chosen = self._most_specific(slots[decided])
        recency = np.exp2(np.minimum(self._last_seen_h[chosen] - now_h, 0) / self._half_life_h)
        scores = np.round(self._confidence[chosen] * recency, _SCORE_DIGITS)
        return _Advice(self._hits(chosen, scores), len(slots), top)

    def _most_specific(self, slots: Slots) -> Slots:
        """For each action, the patterns with most conditions, the best supported ones first."""
        actions = self._action[slots]
        order = np.lexsort((slots, -self._support[slots], -self._total[slots], actions))
        ordered = actions[order]
        begins = np.searchsorted(ordered, ordered)
        return slots[order[np.arange(len(order)) - begins < _MOST_PER_ACTION]]

    def _hits(self, slots: Slots, scores: Floats) -> list[_Hit]:
        return [
            _Hit(self.patterns[slot], score)
            for slot, score in zip(slots.tolist(), scores.tolist(), strict=True)
        ]

    def _met(self, context: Mapping[str, Scalar]) -> Slots | None:
        """How many conditions of each slot are met; None if none is anywhere."""
        hits: list[Slots] = []
        excepted: list[Slots] = []
        for name, value in context.items():
            if field := self._fields.get(name):
                field.collect(value, hits, excepted)
        if not hits:
            return None
        met = np.bincount(np.concatenate(hits), minlength=len(self.patterns))
        if excepted:
            met -= np.bincount(np.concatenate(excepted), minlength=len(self.patterns))
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


def _fields_of(patterns: Sequence[KnownPattern]) -> dict[str, _Field]:
    entries: defaultdict[tuple[str, Operator], list[tuple[Any, int]]] = defaultdict(list)
    for slot, each in enumerate(patterns):
        for condition in each.pattern.conditions:
            entries[condition.field, condition.operator].append((condition.value, slot))
    fields: defaultdict[str, _Field] = defaultdict(_Field)
    for (name, operator), found in entries.items():
        fields[name].index(operator, found)
    return dict(fields)


def _postings(entries: Iterable[tuple[Any, int]]) -> dict[object, Slots]:
    slots: defaultdict[object, list[int]] = defaultdict(list)
    for value, slot in entries:
        if value == value:
            slots[_key(value)].append(slot)
    return {key: np.array(found, np.intp) for key, found in slots.items()}


def _key(value: object) -> tuple[bool, object]:
    # True is not 1, but 1 is 1.0.
    return isinstance(value, bool), value


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


def _explained(hit: _Hit, context: Mapping[str, Scalar]) -> Match:
    met: list[Condition] = []
    missed: list[Condition] = []
    for condition in hit.known.pattern.conditions:
        (met if condition.holds(context) else missed).append(condition)
    return Match(hit.known, tuple(met), tuple(missed), hit.score)


def _trusted(hits: Sequence[_Hit], threshold: float) -> list[_Hit]:
    """Those for one action that are confident enough and that no more specific decided pattern overrules.

    All are decided: their credible intervals lie on one side of the threshold.
    """
    ranked = sorted(
        hits, key=lambda hit: (-len(hit.known.pattern.conditions), -hit.known.support, hit.known.id)
    )[:_MOST_PER_ACTION]
    sets = [frozenset(hit.known.pattern.conditions) for hit in ranked]
    return [
        hit
        for hit, mine in zip(ranked, sets, strict=True)
        if hit.known.confidence >= threshold and not any(mine < other for other in sets)
    ]


class _Advised:
    """An action that trusted patterns advise."""

    def __init__(
        self, action: str, hits: Sequence[_Hit], prior: Prior, random: np.random.Generator | None
    ) -> None:
        self.action, self._hits = action, hits
        self.best = max(hits, key=lambda hit: (hit.known.support, hit.known.id)).known
        self._worth = Worth.of(self.best, prior)
        self._drawn = None if random is None else self._worth.draw(random)

    @property
    def rank(self) -> float:
        return self._worth.mean if self._drawn is None else self._drawn

    def explained(self, context: Mapping[str, Scalar]) -> Recommendation:
        ranked = sorted(self._hits, key=lambda hit: (-hit.score, -hit.known.support, hit.known.id))
        at_80, at_90 = self._worth.intervals(0.8, 0.9)
        return Recommendation(
            self.action,
            self._worth.mean,
            at_80,
            at_90,
            self.best.counts,
            max(hit.known.confidence for hit in self._hits),
            tuple(_explained(hit, context) for hit in ranked),
            self._drawn,
        )


@dataclass(frozen=True, slots=True)
class Worth:
    """The posterior of the reward per cost of an action: the chance to succeed times what a success brings.

    The chance has the Beta posterior of its counts. Only the sum of the rewards is known, not their spread,
    so that they are taken as exponential, the distribution of most entropy for a mean: with a flat prior on
    the rate the mean of a success is inverse gamma (`pos` + 1, sum). Where rewards spread less, as counts do,
    the interval is too wide; for heavier tails it is too narrow. Without any reward a success is worth 1.
    """

    alpha: float
    beta: float
    successes: int
    total: float
    """The sum of rewards of the successes, divided by the cost of one try; 0 if no rewards are known."""
    unit: float = 1.0
    """What a success is worth if no rewards are known: 1 by the cost of one try."""

    @classmethod
    def of(cls, known: KnownPattern, prior: Prior = FLAT) -> Worth:
        """The worth of a pattern's action; `data["cost"]` is what one try costs, 1 if it isn't said."""
        counts, cost = known.counts, known.pattern.data.get("cost")
        unit = 1.0
        if isinstance(cost, (int, float)) and not isinstance(cost, bool) and cost > 0:
            unit = 1 / cost
        return cls(counts.pos + prior.alpha, counts.neg + prior.beta, counts.pos, counts.reward * unit, unit)

    @property
    def mean(self) -> float:
        chance = self.alpha / (self.alpha + self.beta)
        return chance * (self.total / self.successes if self._rewarded else self.unit)

    @property
    def _rewarded(self) -> bool:
        return self.successes > 0 and self.total != 0

    def interval(self, mass: float) -> tuple[float, float]:
        """The central credible interval."""
        return self.intervals(mass)[0]

    def intervals(self, *masses: float) -> list[tuple[float, float]]:
        """Central credible intervals, by the product of both distributions on a grid of quantiles."""
        tails = [(1 - mass) / 2 for mass in masses]
        bounds = np.array([*tails, *(1 - tail for tail in tails)])
        if self._rewarded:
            centres = (np.arange(_GRID) + 0.5) / _GRID
            rewards = self.total / gammaincinv(self.successes + 1, centres)
            products = np.sort(np.outer(betaincinv(self.alpha, self.beta, centres), rewards), axis=None)
            found = np.interp(bounds * products.size - 0.5, np.arange(products.size), products)
        else:
            found = betaincinv(self.alpha, self.beta, bounds) * self.unit
        lows, highs = found[: len(tails)].tolist(), found[len(tails) :].tolist()
        return list(zip(lows, highs, strict=True))

    def draw(self, random: np.random.Generator) -> float:
        """A draw from the posterior."""
        chance = random.beta(self.alpha, self.beta)
        if not self._rewarded:
            return float(chance * self.unit)
        return float(chance * self.total / random.gamma(self.successes + 1))


def _count(patterns: int) -> str:
    return "One pattern" if patterns == 1 else f"{patterns} patterns"
