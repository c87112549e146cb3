"""Which action to take in a context: of those that patterns advise there, what brings most for its cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Final

import numpy as np

from maia.learning.evidence import FLAT, Counts, Prior
from maia.learning.known_patterns import KnownPattern
from maia.learning.matching import MOST_PER_ACTION, Hit, Match, Matcher
from maia.learning.observations import Scalar
from maia.learning.patterns import Condition
from maia.learning.worth import Worth

THRESHOLD: Final = 0.7
"""Nothing less trusted is recommended."""


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
    ) -> Recommendations:
        """The actions with the highest posterior mean of reward per cost among the patterns that fully match.

        With `explore` they are ranked by a draw from each posterior instead (Thompson sampling), the same one
        for the same seed. Nothing under the confidence threshold is recommended, and of two patterns for an
        action whose conditions nest, the more specific one counts once its evidence decides either way.
        """
        threshold = self._threshold
        found = self._matcher.decided(context, now, threshold)
        is_known = any(hit.conditions for hit in found)
        if context and not is_known and not self._matcher.knows(context):
            return Recommendations((), self._unknown(context))
        by_action: defaultdict[str, list[Hit]] = defaultdict(list)
        for hit in found:
            by_action[hit.known.pattern.action or ""].append(hit)
        random = np.random.default_rng(seed) if explore else None
        advised = [
            _Advised(action, hits, self._prior, random)
            for action, all_ in sorted(by_action.items())
            if (hits := _trusted(all_, threshold))
        ]
        if not advised:
            return Recommendations((), self._nothing(context, now))
        advised.sort(key=lambda each: (-each.rank, -each.best.support, each.action))
        return Recommendations(tuple(each.explained(context) for each in advised[:limit]))

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


def _trusted(hits: Sequence[Hit], threshold: float) -> list[Hit]:
    """Those for one action that are confident enough and that no more specific decided pattern overrules.

    All are decided: their credible intervals lie on one side of the threshold.
    """
    ranked = sorted(
        hits, key=lambda hit: (-len(hit.known.pattern.conditions), -hit.known.support, hit.known.id)
    )[:MOST_PER_ACTION]
    trusted: list[Hit] = []
    longer: list[frozenset[Condition]] = []
    for _, same in groupby(ranked, lambda hit: len(hit.known.pattern.conditions)):
        sets = [(hit, hit.conditions or frozenset()) for hit in same]
        # Only longer ones can be more specific.
        trusted += [
            hit
            for hit, mine in sets
            if hit.known.confidence >= threshold and not any(map(mine.__lt__, longer))
        ]
        longer += [mine for _, mine in sets]
    return trusted


class _Advised:
    """An action that trusted patterns advise."""

    def __init__(
        self, action: str, hits: Sequence[Hit], prior: Prior, random: np.random.Generator | None
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
            tuple(Match.of(hit, context) for hit in ranked),
            self._drawn,
        )


def _count(patterns: int) -> str:
    return "One pattern" if patterns == 1 else f"{patterns} patterns"
