"""Simple truth values, as in AtomSpace: a strength, and a confidence that tells how much evidence it has.

Revision combines the values of two sources whose evidence may overlap. It must never travel: sites exchange
counters (`maia.learning.evidence`) and each computes its own conclusion.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nextafter
from typing import Final

PERSONALITY: Final = 800.0
"""K: so much evidence makes a confidence of one half (OpenCog's default)."""

OVERLAP: Final = 0.2
"""The share of the smaller evidence that is assumed to be in the larger, too."""


_SUREST: Final = nextafter(1.0, 0.0)
"""Confidence never reaches 1, though dividing large numbers does."""


@dataclass(frozen=True, slots=True)
class TruthValue:
    """Strength and confidence, both in [0, 1]; confidence stays below 1."""

    strength: float
    confidence: float

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1 or not 0 <= self.confidence < 1:
            raise ValueError("strength must be in [0, 1] and confidence in [0, 1)")

    @classmethod
    def of_counts(cls, pos: float, neg: float, k: float = PERSONALITY) -> TruthValue:
        """The truth value of so many observations for and against."""
        count = pos + neg
        return cls(pos / count if count else 0.5, min(count / (count + k), _SUREST))

    def evidence(self, k: float = PERSONALITY) -> float:
        """The number of observations that such a confidence stands for."""
        return k * self.confidence / (1 - self.confidence)

    def revised(self, other: TruthValue, *, k: float = PERSONALITY, overlap: float = OVERLAP) -> TruthValue:
        """Both together: strengths weighed by evidence, and evidence added up less the overlap."""
        ours, theirs = self.evidence(k), other.evidence(k)
        count = ours + theirs - overlap * min(ours, theirs)
        if not count:
            return TruthValue((self.strength + other.strength) / 2, 0.0)
        strength = (self.strength * ours + other.strength * theirs) / (ours + theirs)
        return TruthValue(strength, min(count / (count + k), _SUREST))
