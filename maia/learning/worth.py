"""What an action is worth by the evidence of a pattern: the posterior of its reward per cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from scipy.special import betaincinv, gammaincinv

from maia.learning.evidence import FLAT, Prior
from maia.learning.known_patterns import KnownPattern

_GRID: Final = 40


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

    @lru_cache(maxsize=20_000)  # noqa: B019 - it lives as long as the process, as it may
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
