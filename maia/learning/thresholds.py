"""Threshold detection: a metric is high if N of its last M values are, until N of M are clearly lower.

The two limits differ (hysteresis), so that a metric which wavers around one of them does not flap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from math import isnan
from typing import Any, Final, Self

from maia.learning.states import check_version

STATE_VERSION: Final = 1


class Crossing(StrEnum):
    """What a value changed."""

    RAISED = "raised"
    CLEARED = "cleared"


@dataclass(frozen=True, slots=True)
class ThresholdSettings:
    """When a metric counts as high, and when no longer.

    For a metric that must not be low, negate it and both limits.
    """

    raise_at: float
    """Values of at least this are high."""
    clear_below: float
    """Values under this are normal. Those in between count as neither."""
    needed: int = 3
    """N: how many of the last `window` values decide."""
    window: int = 5
    """M, at most 64."""

    def __post_init__(self) -> None:
        if not self.clear_below <= self.raise_at:
            raise ValueError("clear_below must not be above raise_at")
        if not 1 <= self.needed <= self.window <= 64:
            raise ValueError("needed must be between 1 and window, and window at most 64")


class ThresholdDetector:
    """Follows one metric; its state is two bit masks of the last M values."""

    __slots__ = ("_high", "_mask", "_normal", "is_high", "settings")

    def __init__(self, settings: ThresholdSettings) -> None:
        self.settings = settings
        self.is_high = False
        self._high = self._normal = 0
        self._mask = (1 << settings.window) - 1

    def update(self, value: float) -> Crossing | None:
        """Take the next value in; NaN is ignored, as if nothing had been measured."""
        if isnan(value):
            return None
        settings = self.settings
        self._high = (self._high << 1 | (value >= settings.raise_at)) & self._mask
        self._normal = (self._normal << 1 | (value < settings.clear_below)) & self._mask
        if not self.is_high and self._high.bit_count() >= settings.needed:
            return self._turn(True)
        if self.is_high and self._normal.bit_count() >= settings.needed:
            return self._turn(False)
        return None

    def _turn(self, high: bool) -> Crossing:
        # What led to this crossing must not lead to the next one too.
        self._high = self._normal = 0
        self.is_high = high
        return Crossing.RAISED if high else Crossing.CLEARED

    def state(self) -> dict[str, Any]:
        """Everything that the future depends on, in numbers and lists."""
        return {
            "version": STATE_VERSION,
            "settings": asdict(self.settings),
            "is_high": self.is_high,
            "masks": [self._high, self._normal],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """A detector that goes on where the one that wrote this state stood."""
        check_version(state["version"], STATE_VERSION)
        detector = cls(ThresholdSettings(**state["settings"]))
        detector.is_high = state["is_high"]
        detector._high, detector._normal = state["masks"]
        return detector
