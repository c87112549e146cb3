"""Change points, online: has the level of a series shifted for good, since when, and from what to what?

The test is a two-sided CUSUM of standardised values, which is optimal for a known shift (Page, 1954;
Moustakides, 1986). Level and spread are those of the current regime, learned as it goes on ("self-starting",
Hawkins, 1987). Values count at most three deviations, so that single spikes cannot decide. The limit h
follows from the number of points between false alarms by Siegmund's approximation, ARL = (exp(2kb) − 2kb −
1)/2k² with b = h + 1.166. That holds for independent normal values: feed it residuals where values are
periodic or correlated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import exp, isfinite
from statistics import median
from typing import Any, Final, Self

from maia.learning.states import check_version

STATE_VERSION: Final = 1
_LARGEST_DEVIATION: Final = 3.0
_LARGEST_VALUE: Final = 1e150


@dataclass(frozen=True, slots=True)
class ChangeSettings:
    """Which shifts matter, and how often the test may be wrong."""

    least_shift: float = 1.0
    """In standard deviations of the regime before."""
    points_between_false_alarms: float = 10_000.0
    warmup: int = 60
    """How many points of a regime are learned from before it can end."""
    memory: int = 256
    """How many of the latest points are kept, to tell the level after a change."""

    def __post_init__(self) -> None:
        if not self.least_shift > 0:
            raise ValueError("least_shift must be above 0")
        if not self.points_between_false_alarms >= 10:
            raise ValueError("points_between_false_alarms must be at least 10")
        if not 2 <= self.warmup <= self.memory:
            raise ValueError("warmup must be between 2 and memory")


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """A shift of the level: where it began, counted in points of the series, and both levels."""

    began: int
    noticed: int
    level_before: float
    level_after: float


def decision_limit(settings: ChangeSettings) -> float:
    """The CUSUM's limit h, by Siegmund's approximation, for a test on both sides."""
    drift = settings.least_shift / 2
    wanted = 2 * settings.points_between_false_alarms

    def run_length(limit: float) -> float:
        scaled = 2 * drift * (limit + 1.166)
        return (exp(scaled) - scaled - 1) / (2 * drift * drift)

    low, high = 0.0, 1.0
    while run_length(high) < wanted:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if run_length(middle) < wanted else (low, middle)
    return high


class ChangeDetector:
    """Follows one series; memory is bounded by `settings.memory` values."""

    __slots__ = (
        "_count", "_falling", "_falling_since", "_level", "_limit", "_recent", "_rising", "_rising_since",
        "_seen", "_squares", "settings",
    )  # fmt: skip

    def __init__(self, settings: ChangeSettings | None = None) -> None:
        self.settings = settings or ChangeSettings()
        self._limit = decision_limit(self.settings)
        self._recent: deque[float] = deque(maxlen=self.settings.memory)
        self._count = self._seen = self._rising_since = self._falling_since = 0
        self._level = self._squares = self._rising = self._falling = 0.0

    @property
    def level(self) -> float | None:
        """The current regime's level; None before the first value."""
        return self._level if self._seen else None

    def update(self, value: float) -> ChangePoint | None:
        """Take the next value in; what is not a finite number is counted but changes nothing else."""
        self._count += 1
        if not isfinite(value) or abs(value) > _LARGEST_VALUE:
            return None
        self._recent.append(value)
        if self._seen < self.settings.warmup:
            self._learn(value, value - self._level)
            self._rising_since = self._falling_since = self._count
            return None
        # The level itself is uncertain, by a share of the spread that shrinks as the regime goes on.
        spread = (self._squares / (self._seen - 1) * (1 + 1 / self._seen)) ** 0.5
        # In a constant regime any other value is as far away as can be.
        deviation = value - self._level
        largest = _LARGEST_DEVIATION * (spread or abs(deviation))
        bounded = min(max(deviation, -largest), largest)
        changed = self._accumulate(bounded / spread if spread else _sign(deviation) * _LARGEST_DEVIATION)
        if changed is not None:
            return self._change(changed)
        if spread:
            self._learn(self._level + bounded, bounded)
        return None

    def _accumulate(self, standardised: float) -> int | None:
        """Add to both sums; the point at which the sum that passed the limit began, if one did."""
        drift = self.settings.least_shift / 2
        self._rising = max(0.0, self._rising + standardised - drift)
        self._falling = max(0.0, self._falling - standardised - drift)
        if not self._rising:
            self._rising_since = self._count
        if not self._falling:
            self._falling_since = self._count
        if max(self._rising, self._falling) < self._limit:
            return None
        return self._rising_since if self._rising >= self._falling else self._falling_since

    def _learn(self, value: float, deviation: float) -> None:
        """Welford's running mean and sum of squares."""
        self._seen += 1
        self._level += deviation / self._seen
        self._squares += deviation * (value - self._level)

    def _change(self, began: int) -> ChangePoint:
        """Report the change, and learn the new regime from the next point on.

        The points since the change may still belong to the old regime, which would bias the new one's level.
        """
        before, length = self._level, max(1, min(self._count - began, len(self._recent)))
        self._restart()
        return ChangePoint(began, self._count, before, float(median(list(self._recent)[-length:])))

    def _restart(self) -> None:
        self._seen = 0
        self._level = self._squares = self._rising = self._falling = 0.0
        self._rising_since = self._falling_since = self._count

    def state(self) -> dict[str, Any]:
        """Everything that the future depends on, in numbers and lists."""
        return {
            "version": STATE_VERSION,
            "settings": asdict(self.settings),
            "count": self._count,
            "regime": [self._seen, self._level, self._squares],
            "sums": [self._rising, self._falling, self._rising_since, self._falling_since],
            "recent": list(self._recent),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """A detector that goes on where the one that wrote this state stood."""
        check_version(state["version"], STATE_VERSION)
        detector = cls(ChangeSettings(**state["settings"]))
        detector._count = state["count"]
        detector._seen, detector._level, detector._squares = state["regime"]
        detector._rising, detector._falling, detector._rising_since, detector._falling_since = state["sums"]
        detector._recent.extend(state["recent"])
        return detector


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
