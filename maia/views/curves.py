"""A series of counts over time, and how fast it grows in each part of a span."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

Floats: TypeAlias = "npt.NDArray[np.float64]"


@dataclass(frozen=True, slots=True)
class Curve:
    """Counts, oldest first: seconds since 1970, the counts, and the velocity of the step before each.

    NaN stands for a hidden count, and for a step without a velocity.
    """

    at_s: Floats
    views: Floats
    velocity: Floats

    @classmethod
    def of(
        cls, at: Sequence[datetime], views: Sequence[float | None], velocity: Sequence[float | None]
    ) -> Curve:
        """Build a curve from columns in which None stands for NULL."""
        return cls(
            np.array([instant.timestamp() for instant in at], np.float64),
            np.array(views, np.float64),
            np.array(velocity, np.float64),
        )

    def steps(self) -> Iterator[tuple[float, float, float]]:
        """Start, end and velocity of each step that has one; a step starts at the previous known count."""
        known = np.flatnonzero(~np.isnan(self.views))
        for before, after in pairwise(known.tolist()):
            if not np.isnan(self.velocity[after]):
                yield float(self.at_s[before]), float(self.at_s[after]), float(self.velocity[after])


@dataclass(frozen=True, slots=True)
class Band:
    """The continuation of a curve by a forecast: the median and the ends of its interval.

    It begins at the last count. Instants are in seconds since 1970; NaN is an interval that can't be told.
    """

    at_s: Floats
    low: Floats
    median: Floats
    high: Floats

    @classmethod
    def of(
        cls,
        at: Sequence[datetime],
        low: Sequence[float | None],
        median: Sequence[float],
        high: Sequence[float | None],
    ) -> Band:
        """Build a band from columns in which None stands for what can't be told."""
        columns = (np.array(values, np.float64) for values in (low, median, high))
        return cls(np.array([instant.timestamp() for instant in at], np.float64), *columns)


def rates(curve: Curve, since_s: float, until_s: float, parts: int) -> Floats:
    """Views per hour in each of `parts` equal parts of a span; NaN where nothing was measured.

    Growth between two samples counts as even.
    """
    edges = np.linspace(since_s, until_s, parts + 1)
    gained, seen_s = np.zeros(parts), np.zeros(parts)
    for begin, end, velocity in curve.steps():
        inside = np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], begin), 0.0, None)
        gained += velocity * inside
        seen_s += inside
    means: Floats = np.divide(gained, seen_s, out=np.full(parts, np.nan), where=seen_s > 0)
    return means
