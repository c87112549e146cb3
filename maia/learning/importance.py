"""How important patterns are, by an economy of attention: wages for being useful, rent for being kept.

After OpenCog's economic attention networks (ECAN; Iklé, Pitt, Goertzel and Sellman, 2009, "Economic Attention
Networks: Associative Memory and Resource Allocation for General Intelligence"). Each item has a short-term
importance (STI), raised by wages in proportion to its stimulus and lowered by rent, and a long-term one (LTI)
by which the forgetting agent chooses what to drop; items of very-long-term importance, here pinned, are never
dropped. From there is the wage of 10 a stimulus (the default of its `AttentionBank`).

Two things differ. ECAN adapts a rent that is equal for all so that its funds neither run out nor pile up;
here rent is a share of what a pattern has, which needs no common purse to stay bounded, and under which ten
uses in one hour are worth as much as ten on ten days. And LTI isn't paid directly but follows STI slowly.
Both are linear differential equations with an exact solution, so it makes no difference how often importance
is brought up to date, and importances can be added up.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

WAGE: Final = 10.0
"""For one stimulus (OpenCog's ECAN_STARTING_ATOM_STI_WAGE)."""

RENT_PER_HOUR: Final = 0.05
"""The share of STI that is charged an hour: what was useful is half forgotten after 14 hours. Our choice."""

LEARNING_PER_HOUR: Final = 1 / 720
"""The rate at which LTI approaches STI: its time constant is 30 days. Our choice."""

FORESIGHT_H: Final = 24.0
"""Patterns are judged by the LTI that they would have so much later if nothing happened, because LTI lags."""

_HOUR: Final = timedelta(hours=1)

Floats = NDArray[np.float64]


class Use(StrEnum):
    """What a pattern is paid for."""

    MATCHED = "matched"
    RECOMMENDED = "recommended"
    PROVEN = "proven"


STIMULUS: Final[Mapping[Use, float]] = {Use.MATCHED: 1.0, Use.RECOMMENDED: 2.0, Use.PROVEN: 5.0}
"""Stimuli for each use. Our choice: a statement that proved true is worth more than one that only came up."""


@dataclass(frozen=True, slots=True)
class Importance:
    """Short-term and long-term importance at an instant (aware)."""

    sti: float
    lti: float
    at: datetime


@dataclass(frozen=True, slots=True)
class Economy:
    """Wage and rates; ValueError unless LTI is slower than rent."""

    wage: float = WAGE
    rent_per_hour: float = RENT_PER_HOUR
    learning_per_hour: float = LEARNING_PER_HOUR

    def __post_init__(self) -> None:
        if not 0 < self.learning_per_hour < self.rent_per_hour or self.wage <= 0:
            raise ValueError("the wage must be positive, and 0 < learning_per_hour < rent_per_hour")

    def wages(self, uses: Mapping[Use, ArrayLike]) -> Floats:
        """What is paid for so many uses of each kind, a number or an array for many patterns."""
        paid = sum((np.asarray(count, float) * STIMULUS[use] for use, count in uses.items()), np.zeros(()))
        return np.asarray(paid * self.wage)

    def after(self, sti: ArrayLike, lti: ArrayLike, hours: ArrayLike) -> tuple[Floats, Floats]:
        """STI and LTI so many hours later, rent charged; hours of clocks that went back count as none.

        The solution of sti' = −rent·sti and lti' = learning·(sti − lti).
        """
        passed = np.maximum(np.asarray(hours, float), 0)
        short, long = np.asarray(sti, float), np.asarray(lti, float)
        kept, slow = np.exp(-self.rent_per_hour * passed), np.exp(-self.learning_per_hour * passed)
        gain = self.learning_per_hour / (self.rent_per_hour - self.learning_per_hour)
        return short * kept, long * slow + gain * short * (slow - kept)


ECONOMY: Final = Economy()


def aged(importance: Importance, now: datetime, economy: Economy = ECONOMY) -> Importance:
    """The same importance now; one from the future, by another clock, stays as it is."""
    if now <= importance.at:
        return importance
    sti, lti = economy.after(importance.sti, importance.lti, (now - importance.at) / _HOUR)
    return Importance(float(sti), float(lti), now)


def paid(
    importance: Importance | None, uses: Mapping[Use, int], now: datetime, economy: Economy = ECONOMY
) -> Importance:
    """The importance after these uses now; None is that of a pattern that is new."""
    present = Importance(0.0, 0.0, now) if importance is None else aged(importance, now, economy)
    return Importance(present.sti + float(economy.wages(uses)), present.lti, present.at)


def forget(
    importances: Mapping[str, Importance],
    max_patterns: int,
    now: datetime,
    pinned: Collection[str] = (),
    economy: Economy = ECONOMY,
) -> list[str]:
    """The ids to forget so that no more than `max_patterns` remain: the least important first, ties by id.

    Pinned patterns stay, even if there are more of them than that. What was found just now isn't forgotten
    for being new: what counts is the LTI of `FORESIGHT_H` hours from now.
    """
    if max_patterns < 0:
        raise ValueError("max_patterns cannot be negative")
    excess = len(importances) - max_patterns
    if excess <= 0:
        return []
    pins = frozenset(pinned)
    loose = sorted(id_ for id_ in importances if id_ not in pins)
    foreseen = _foreseen([importances[id_] for id_ in loose], now, economy)
    order = np.argsort(foreseen, kind="stable")[:excess]
    return [loose[index] for index in order.tolist()]


def _foreseen(importances: Sequence[Importance], now: datetime, economy: Economy) -> Floats:
    columns = [(each.sti, each.lti, (now - each.at) / _HOUR) for each in importances]
    sti, lti, hours = np.array(columns, float).reshape(-1, 3).T
    return economy.after(sti, lti, np.maximum(hours, 0) + FORESIGHT_H)[1]
