"""Which of many candidates hold: exact tests, the false discovery rate, and honest repeated looks."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import Any, Final, Generic, Self, TypeVar

import numpy as np
from scipy.special import bdtrc, gammaln, logsumexp

from maia.learning.detectors.tallies import frozen

Key = TypeVar("Key", bound=Hashable)

FALSE_DISCOVERY_RATE: Final = 0.05
_WORTH_TESTING: Final = 1.5
"""Standard deviations; an exact test of less would never pass, and takes a hundred times as long."""
_GROWTH: Final = 1.5
"""A candidate is looked at again when it has so many times the support of the last look."""


class Screen(Generic[Key]):
    """Candidates and how probable chance is for each; accepts by Benjamini and Hochberg (1995).

    To test again whenever data comes would accept anything in the end. So each candidate is looked at only
    when its support has grown by half, and its j-th look spends 1/(j(j+1)) of its level, which adds up to
    one. The least p-value over all looks is then as good as a single test's. All candidates that were ever
    tested count as the family, even those forgotten since.
    """

    def __init__(self, least_support: float, rate: float = FALSE_DISCOVERY_RATE) -> None:
        self.least_support = least_support
        self.rate = rate
        self.tested = 0
        self.accepted: dict[Key, None] = {}
        """In the order of their acceptance. Once accepted, a candidate stays so."""
        self._looks: dict[Key, tuple[int, float]] = {}
        self._promising: dict[Key, float] = {}

    def due(self, key: Key, support: float) -> bool:
        """Whether it should be tested now."""
        if support < self.least_support:
            return False
        known = self._looks.get(key)
        return known is None or support >= known[1]

    def look(self, key: Key, support: float, p_value: float) -> None:
        """Note the result of a test."""
        looks, _ = self._looks.get(key, (0, 0.0))
        self.tested += not looks
        looks += 1
        self._looks[key] = (looks, support * _GROWTH)
        if key not in self.accepted:
            spent = p_value * looks * (looks + 1)
            if spent <= self.rate:
                self._promising[key] = min(spent, self._promising.get(key, 1.0))

    def settle(self) -> list[Key]:
        """Accept what is significant among all; the newly accepted, most significant first."""
        ranked = sorted(self._promising.items(), key=lambda item: item[1])
        rank = len(ranked) + len(self.accepted)
        family = max(self.tested, rank)
        while ranked and ranked[-1][1] > self.rate * rank / family:
            ranked.pop()
            rank -= 1
        for key, _ in ranked:
            self.accepted[key] = None
            del self._promising[key]
        return [key for key, _ in ranked]

    def forget(self, keys: Iterable[Key]) -> None:
        """Drop candidates that are no longer counted."""
        for key in keys:
            self._looks.pop(key, None)
            self._promising.pop(key, None)
            self.accepted.pop(key, None)

    def content(self) -> list[Any]:
        """Everything as lists, for `maia.learning.states`."""
        looks = [[key, *look] for key, look in self._looks.items()]
        return [
            self.least_support, self.rate, self.tested, list(self.accepted), looks,
            [[key, p_value] for key, p_value in self._promising.items()],
        ]  # fmt: skip

    @classmethod
    def from_content(cls, content: list[Any]) -> Self:
        least_support, rate, tested, accepted, looks, promising = content
        made = cls(least_support, rate)
        made.tested = tested
        made.accepted = {frozen(key): None for key in accepted}
        made._looks = {frozen(key): (count, due) for key, count, due in looks}
        made._promising = {frozen(key): p_value for key, p_value in promising}
        return made


def fisher_greater(a: float, b: float, c: float, d: float) -> float:
    """Fisher's exact test that a/(a+b) exceeds c/(c+d) by chance alone, one-sided.

    1 is returned without a test where the excess is clearly within chance.
    """
    with_, without = a + b, c + d
    total, events = with_ + without, a + c
    if not with_ or not without or not 0 < events < total:
        return 1.0
    variance = events / total * (1 - events / total) * with_ * without / max(1, total - 1)
    if a - with_ * events / total < _WORTH_TESTING * math.sqrt(variance):
        return 1.0
    return _hypergeometric_tail(a, total, events, with_)


def _hypergeometric_tail(least: float, total: float, events: float, drawn: float) -> float:
    """The chance of at least so many events among those drawn without replacement.

    scipy.stats has it, too, but takes 1.5 s and 50 MB to be imported.
    """
    k = np.arange(math.ceil(least), math.floor(min(events, drawn)) + 1)
    others = total - events
    ways = (
        gammaln(events + 1) - gammaln(k + 1) - gammaln(events - k + 1)
        + gammaln(others + 1) - gammaln(drawn - k + 1) - gammaln(others - drawn + k + 1)
    )  # fmt: skip
    all_ways = gammaln(total + 1) - gammaln(drawn + 1) - gammaln(total - drawn + 1)
    return float(min(1.0, math.exp(logsumexp(ways) - all_ways)))


def sign_greater(pos: float, neg: float) -> float:
    """The chance of at least so many of pos + neg fair coins, both rounded down."""
    pos, neg = int(pos), int(neg)
    return float(bdtrc(pos - 1, pos + neg, 0.5)) if pos else 1.0
