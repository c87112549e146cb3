"""Evidence for a pattern: counters that merge without counting anything twice, and what they let one believe.

Each site counts on rows of its own, one a pattern and UTC day, and never lowers a counter. Rows of two
copies merge by the element-wise maximum: a state-based CRDT (Shapiro et al., 2011), for which repeated,
late and reordered messages make no difference. What people are shown is computed from the sums on reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

CREDIBILITY: Final = 0.90
"""The mass of the credible interval whose lower bound is a pattern's confidence."""

_TAIL: Final = (1 - CREDIBILITY) / 2


@dataclass(frozen=True, slots=True)
class Counts:
    """How often a statement proved true and how often not, the sum of rewards, and when it last mattered."""

    pos: int = 0
    neg: int = 0
    reward: float = 0.0
    last_seen: datetime | None = None

    def __post_init__(self) -> None:
        if self.pos < 0 or self.neg < 0:
            raise ValueError("counts cannot be negative")

    def __add__(self, other: Counts) -> Counts:
        """The counts of two disjoint sets of observations together."""
        return Counts(
            self.pos + other.pos,
            self.neg + other.neg,
            self.reward + other.reward,
            _later(self.last_seen, other.last_seen),
        )

    @property
    def support(self) -> int:
        return self.pos + self.neg


class EvidenceKey(NamedTuple):
    """Whose row it is: of which pattern, counted by which site, on which UTC day."""

    pattern_id: str
    node: str
    day: date


@dataclass(frozen=True, slots=True)
class EvidenceRow:
    """A row's counters and how often it was written. Only its own site ever raises them."""

    pos: int
    neg: int
    sum_reward: float
    last_seen: datetime
    version: int

    def merge(self, other: EvidenceRow) -> EvidenceRow:
        """The row after both states of it: counters by maximum, the reward of the later version.

        A sum of rewards may fall, so it has no maximum that means anything: it goes with its version.
        """
        newer = max(self, other, key=lambda row: (row.version, row.sum_reward))
        return EvidenceRow(
            max(self.pos, other.pos),
            max(self.neg, other.neg),
            newer.sum_reward,
            max(self.last_seen, other.last_seen),
            newer.version,
        )


Evidence = dict[EvidenceKey, EvidenceRow]


def merge(*copies: Mapping[EvidenceKey, EvidenceRow]) -> Evidence:
    """Any copies as one; order and repetition make no difference."""
    merged: Evidence = {}
    for copy in copies:
        for key, row in copy.items():
            known = merged.get(key)
            merged[key] = row if known is None else known.merge(row)
    return merged


def totals(evidence: Mapping[EvidenceKey, EvidenceRow]) -> dict[str, Counts]:
    """The counts of each pattern over all sites and days."""
    summed: dict[str, Counts] = {}
    for key, row in evidence.items():
        counts = Counts(row.pos, row.neg, row.sum_reward, row.last_seen)
        summed[key.pattern_id] = summed.get(key.pattern_id, Counts()) + counts
    return summed


@dataclass(frozen=True, slots=True)
class Prior:
    """The Beta prior of every statement: as if so much had been seen for and against it already."""

    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        if min(self.alpha, self.beta) <= 0:
            raise ValueError("alpha and beta must be positive")


FLAT: Final = Prior()


def strength(pos: ArrayLike, neg: ArrayLike, prior: Prior = FLAT) -> NDArray[np.float64]:
    """The posterior mean of the chance that a statement proves true."""
    up, down = np.asarray(pos, float) + prior.alpha, np.asarray(neg, float) + prior.beta
    mean: NDArray[np.float64] = up / (up + down)
    return mean


def interval(
    pos: ArrayLike, neg: ArrayLike, prior: Prior = FLAT
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The bounds of the 90 % credible interval of that chance; the lower one is the confidence."""
    # Agents that have nothing to do should not wait for SciPy.
    from scipy.special import betaincinv

    up, down = np.asarray(pos, float) + prior.alpha, np.asarray(neg, float) + prior.beta
    return betaincinv(up, down, _TAIL), betaincinv(up, down, 1 - _TAIL)


def confidence(pos: ArrayLike, neg: ArrayLike, prior: Prior = FLAT) -> NDArray[np.float64]:
    """The lower bound of the 90 % credible interval: it can't rise without evidence."""
    return interval(pos, neg, prior)[0]


def latest(instants: Iterable[datetime | None]) -> datetime | None:
    """The last of the instants that are known."""
    found: datetime | None = None
    for each in instants:
        found = _later(found, each)
    return found


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    if one is None or other is None:
        return one or other
    return max(one, other)
