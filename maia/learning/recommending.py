"""Which action to take in a context: of those that patterns advise there, what brings most for its cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maia.learning.condition_index import Slots
from maia.learning.evidence import FLAT, Counts, Prior
from maia.learning.known_patterns import KnownPattern
from maia.learning.matching import Decided, Match, Matcher
from maia.learning.observations import Scalar
from maia.learning.worth import Worth

THRESHOLD: Final = 0.7
"""Nothing less trusted is recommended."""

USUAL_REASONS: Final = 5
"""How many patterns are named for an action, if nobody asks for more."""


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
    """The best ones of the patterns, best first."""
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


class Adviser:
    """Recommends actions, by the patterns that a matcher knows at that time."""

    def __init__(
        self, matcher: Matcher, *, confidence_threshold: float = THRESHOLD, prior: Prior = FLAT
    ) -> None:
        self._matcher, self._threshold, self._prior = matcher, confidence_threshold, prior

    def recommend(
        self,
        context: Mapping[str, Scalar],
        now: datetime,
        limit: int = 5,
        *,
        explore: bool = False,
        seed: int = 0,
        because: int = USUAL_REASONS,
    ) -> Recommendations:
        """The actions with the highest posterior mean of reward per cost among the patterns that fully match.

        With `explore` they are ranked by a draw from each posterior instead (Thompson sampling), the same one
        for the same seed. Nothing under the confidence threshold is recommended, and of two patterns for an
        action whose conditions nest, the more specific one counts once its evidence decides either way. Of
        each action so many patterns are named, the best ones.
        """
        threshold = self._threshold
        found = self._matcher.decided(context, now, threshold)
        is_known = found is not None and bool(found.rows["total"].any())
        if context and not is_known and not self._matcher.knows(context):
            return Recommendations((), self._unknown(context))
        trusted = None if found is None else found.take(_trusted(found, threshold))
        if trusted is None or not len(trusted.facts):
            return Recommendations((), self._nothing(context, now))
        random = np.random.default_rng(seed) if explore else None
        advised = [_Advised(each, self._prior, random) for each in _by_action(trusted, because)]
        advised.sort(key=lambda each: (-each.rank, -each.best.support, each.action))
        return Recommendations(tuple(each.explained(trusted) for each in advised[:limit]))

    def _unknown(self, context: Mapping[str, Scalar]) -> str:
        if not len(self._matcher):
            return "Nothing has been learnt yet."
        fields = ", ".join(sorted(context))
        return f"This context is unknown: no pattern has a condition that it meets (its fields: {fields})."

    def _nothing(self, context: Mapping[str, Scalar], now: datetime) -> str:
        """Why there is no advice for a context that isn't unknown."""
        number, best = self._matcher.fitting(context)
        if best is not None:
            return self._untrusted(number, best)
        nearest = next(
            (m for m in self._matcher.match(context, now) if m.known.pattern.action and m.missed), None
        )
        if nearest is not None:
            missing = ", ".join(map(str, nearest.missed))
            statement = nearest.known.pattern.statement
            return f"No advice fits fully. The nearest is “{statement}”, which also needs {missing}."
        if not len(self._matcher):
            return "Nothing has been learnt yet."
        if not self._matcher.holds(context):
            return "No pattern holds here in full, and none of those that hold in part advises an action."
        return "The patterns that hold here only describe: none of them advises an action."

    def _untrusted(self, fitting: int, best: KnownPattern) -> str:
        if best.confidence >= self._threshold:
            return (
                f"“{best.pattern.statement}” would apply, but more specific evidence speaks against it here."
            )
        return (
            f"{_count(fitting)} would advise something here, but not with enough confidence: "
            f"the highest is {best.confidence:.2f}, and {self._threshold:.2f} is needed."
        )


def _trusted(found: Decided, threshold: float) -> NDArray[np.bool_]:
    """Which are confident enough, and overruled by no more specific decided pattern for the same action."""
    action, totals, signatures, confidence = (
        np.ascontiguousarray(found.rows[name]) for name in ("action", "total", "signature", "confidence")
    )
    trusted = confidence >= threshold
    begins = found.begins()
    # The first one of an action has most conditions; only longer ones can be more specific.
    rows = np.flatnonzero(trusted & (totals < totals[begins][action]))
    if not len(rows):
        return trusted
    nth = np.arange(len(trusted)) - begins[action]
    shape = len(begins), nth.max() + 1
    longest, lacking = np.zeros(shape, np.int32), np.zeros(shape, np.uint64)
    longest[action, nth], lacking[action, nth] = totals, ~signatures
    own = action[rows]
    maybe = (longest[own] > totals[rows, None]) & (lacking[own] & signatures[rows, None] == 0)
    at, others = np.nonzero(maybe)
    pairs = zip(found.known(rows[at]), found.known(begins[own[at]] + others), strict=True)
    nested = [one.pattern.condition_set < other.pattern.condition_set for one, other in pairs]
    trusted[rows[at[nested]]] = False
    return trusted


class _Group(NamedTuple):
    """The trusted patterns for an action."""

    action: str
    best: KnownPattern
    """The best supported one."""
    confidence: float
    """The highest one."""
    rows: Slots
    """Those with the highest scores first."""


def _by_action(found: Decided, because: int) -> list[_Group]:
    """In the order of the actions' names, with so many rows of each."""
    rows, begins = found.rows, found.begins()
    ends = np.append(begins[1:], len(rows))
    by_support = np.lexsort((rows["rank"], rows["support"], rows["action"]))
    by_score = np.lexsort((rows["rank"], -rows["support"], -found.scores, rows["action"]))
    columns = (
        [found.actions[each] for each in rows["action"][begins].tolist()],
        found.known(by_support[ends - 1]),
        np.maximum.reduceat(rows["confidence"], begins).tolist(),
        [by_score[begin:end][:because] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)],
    )
    return sorted(map(_Group, *columns), key=lambda each: each.action)


class _Advised:
    """An action that trusted patterns advise."""

    def __init__(self, group: _Group, prior: Prior, random: np.random.Generator | None) -> None:
        self.action, self.best, self._group = group.action, group.best, group
        self._worth = Worth.of(self.best, prior)
        self._drawn = None if random is None else self._worth.draw(random)

    @property
    def rank(self) -> float:
        return self._worth.mean if self._drawn is None else self._drawn

    def explained(self, found: Decided) -> Recommendation:
        at_80, at_90 = self._worth.intervals(0.8, 0.9)
        rows = self._group.rows
        because = zip(found.known(rows), found.scores[rows].tolist(), strict=True)
        return Recommendation(
            self.action,
            self._worth.mean,
            at_80,
            at_90,
            self.best.counts,
            self._group.confidence,
            tuple(Match(each, each.pattern.conditions, (), score) for each, score in because),
            self._drawn,
        )


def _count(patterns: int) -> str:
    return "One pattern" if patterns == 1 else f"{patterns} patterns"
