"""The pattern engine's view: pages of patterns, and what is known in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from maia.learning.known_patterns import KnownPattern
from maia.learning.patterns import PatternType
from maia.views.patterns import BelievedPattern

_BINS: Final = 10


@dataclass(frozen=True, slots=True)
class PatternPage:
    """Some of the patterns, the most firmly believed first; `total` is how many there are of the kind."""

    patterns: tuple[BelievedPattern, ...]
    total: int
    offset: int
    limit: int


@dataclass(frozen=True, slots=True)
class UseOfProcess:
    """What one process of the service has answered since it started, and how often a second on average."""

    matches: int
    recommendations: int
    observations: int
    """Observations that it was sent."""
    matches_per_second: float
    recommendations_per_second: float
    observations_per_second: float
    seconds: float
    memory_bytes: int | None
    """The memory of the whole process; null where the system doesn't tell."""


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """What is known: patterns by type, the evidence for them, and how firmly they are believed.

    `confidence_histogram` has ten counts, of confidences in [0, 0.1), [0.1, 0.2) and so on. `observations` is
    how many observations each of the learner's detectors has learnt from, and `observed` how many of those
    that programs sent (POST /observe) were learnt. `process` is of the process that answers.
    """

    patterns: int
    by_type: Mapping[str, int]
    pinned: int
    confident: int
    """Patterns of at least the confidence from which they may advise."""
    evidence_for: int
    evidence_against: int
    observations: Mapping[str, int]
    observed: int
    confidence_histogram: tuple[int, ...]
    process: UseOfProcess


class Ranking:
    """Patterns in the order in which they are listed: by confidence, then by support, then by id."""

    def __init__(self, patterns: Sequence[KnownPattern]) -> None:
        self._patterns = sorted(patterns, key=lambda each: (-each.confidence, -each.support, each.id))
        self._confidences = np.array([each.confidence for each in self._patterns])
        types = list(PatternType)
        self._types = np.array([types.index(each.pattern.type) for each in self._patterns], np.intp)

    def page(
        self, types: Collection[PatternType] | None, min_confidence: float, limit: int, offset: int
    ) -> tuple[list[str], int]:
        """The ids of some of the patterns of a kind, and how many there are of it."""
        is_wanted = self._confidences >= min_confidence
        if types is not None:
            is_wanted &= np.isin(self._types, [list(PatternType).index(each) for each in types])
        places = np.flatnonzero(is_wanted)
        return [self._patterns[place].id for place in places[offset : offset + limit]], len(places)

    def statistics(
        self, threshold: float, observations: Mapping[str, int], observed: int, process: UseOfProcess
    ) -> EngineStatistics:
        """The figures of all patterns."""
        types = Counter(each.pattern.type.value for each in self._patterns)
        histogram, _ = np.histogram(self._confidences, bins=_BINS, range=(0.0, 1.0))
        return EngineStatistics(
            patterns=len(self._patterns),
            by_type=dict(sorted(types.items())),
            pinned=sum(each.pinned for each in self._patterns),
            confident=int((self._confidences >= threshold).sum()),
            evidence_for=sum(each.counts.pos for each in self._patterns),
            evidence_against=sum(each.counts.neg for each in self._patterns),
            observations=observations,
            observed=observed,
            confidence_histogram=tuple(histogram.tolist()),
            process=process,
        )
