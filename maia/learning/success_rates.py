"""How often what had a value succeeded, lately and in the long run, and how it failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np

from maia.learning.running import Sequences, mean_after
from maia.learning.velocity import Floats, Integers

_TINY: Final = 1e-3


class Rates:
    """Of one value: a slow and a quick rate of success, and the weights of the classes of its failures."""

    __slots__ = ("classes", "count", "quick", "slow")

    def __init__(self, rate: float) -> None:
        self.count = 0
        self.slow = self.quick = rate
        self.classes: dict[int, float] = {}

    def learn(self, outcome: float, slow: float, quick: float) -> None:
        """Learn an outcome: 1 if it was a success, otherwise 0.

        `quick` is its weight in the quick rate, `slow` its least weight in the slow one, which is the mean of
        the first outcomes.
        """
        self.count += 1
        self.slow += max(1 / (self.count + 1), slow) * (outcome - self.slow)
        self.quick += quick * (outcome - self.quick)

    def learn_class(self, failure_class: int, decay: float) -> None:
        """Learn the class of a failure; earlier ones then count by `decay` as much as before."""
        self.classes = {
            each: weight * decay for each, weight in self.classes.items() if weight * decay > _TINY
        }
        self.classes[failure_class] = self.classes.get(failure_class, 0.0) + 1

    def saved(self) -> list[Any]:
        return [self.count, self.slow, self.quick, self.classes]

    @classmethod
    def loaded(cls, saved: list[Any]) -> Self:
        rates = cls(0.5)
        rates.count, rates.slow, rates.quick, rates.classes = saved
        return rates


def columns_of(rates: Sequence[Rates]) -> Floats:
    """The slow rates, the quick ones, and the counts."""
    return np.array([(each.slow, each.quick, each.count) for each in rates], float).reshape(-1, 3).T


def learn_many(
    rates: Sequence[Rates], columns: Floats, of: Integers, outcomes: Floats, steps: tuple[float, float]
) -> None:
    """Let rates, whose `columns` these are, learn outcomes as if one after the other.

    `of` says for each outcome whose it is; `steps` are the least weight in the slow rate and that in the
    quick one.
    """
    sequences = Sequences.by(of, len(rates))
    slows, quicks, counts = columns
    learnt = counts[sequences.of] + sequences.place
    slow_steps = np.maximum(1 / (learnt + 2), steps[0])
    quick_steps = np.full(len(learnt), steps[1])
    outcomes = outcomes[sequences.order]
    slows = mean_after(sequences, slows, slow_steps, outcomes)
    quicks = mean_after(sequences, quicks, quick_steps, outcomes)
    counts = (counts + sequences.lengths).astype(int)
    for each, *after in zip(rates, counts.tolist(), slows.tolist(), quicks.tolist(), strict=True):
        each.count, each.slow, each.quick = after
