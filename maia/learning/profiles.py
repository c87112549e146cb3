"""Seasonal profiles: what a metric usually is in each hour of the week, robust to outliers, slow to forget.

Each of the 168 hours keeps running estimates of the 10 %, 50 % and 90 % quantiles by stochastic approximation
(Robbins and Monro, 1951): a value above an estimate of the quantile p moves it up by p steps, one below moves
it down by 1 − p. A step is the running mean deviation, times a gain, over the number of values so far. The
gain is about the optimal one for a normal distribution. Steps never shrink below a floor, so that the profile
follows lasting changes. One value, however large, moves a quantile by a bounded step.

What is usual at an instant is what earlier weeks say of that hour. The values of the hour itself would
foretell those right after them for any series that moves slowly, whether it follows the week or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from math import isfinite
from typing import Any, Final, Self

from maia.learning.states import check_version

HOURS_PER_WEEK: Final = 168
STATE_VERSION: Final = 2
_WEEK_S: Final = 7 * 86_400
_HOUR_S: Final = 3_600
_MONDAY_S: Final = 4 * 86_400
"""1970 began on a Thursday."""
_LARGEST_VALUE: Final = 1e150
_QUANTILES: Final = ((0.1, 7.0), (0.5, 3.0), (0.9, 7.0))
_LARGEST_DEVIATION: Final = 5.0


@dataclass(frozen=True, slots=True)
class UsualRange:
    """The middle 80 % of a metric at an hour of the week, and how many values that rests on."""

    low: float
    median: float
    high: float
    values: int


def hour_of_week(at_s: float, utc_offset_s: int = 0) -> int:
    """0 is Monday from midnight to one."""
    return int((at_s + utc_offset_s - _MONDAY_S) // _HOUR_S) % HOURS_PER_WEEK


class WeekProfile:
    """A metric's usual range by hour of the week; a value of an earlier week counts as one of the latest."""

    __slots__ = ("_before", "_counts", "_quantiles", "_spreads", "_weeks", "floor", "utc_offset_s")

    def __init__(self, utc_offset_s: int = 0, floor: float = 0.005) -> None:
        if not 0 < floor <= 1:
            raise ValueError("floor must be above 0 and at most 1")
        self.utc_offset_s = utc_offset_s
        self.floor = floor
        self._counts = [0] * HOURS_PER_WEEK
        self._spreads = [0.0] * HOURS_PER_WEEK
        self._quantiles = [[0.0, 0.0, 0.0] for _ in range(HOURS_PER_WEEK)]
        # The week in which each hour was last seen, and what was usual by then.
        self._weeks: list[int | None] = [None] * HOURS_PER_WEEK
        self._before: list[UsualRange | None] = [None] * HOURS_PER_WEEK

    def observe(self, at_s: float, value: float) -> None:
        """Learn from a value; what is not a finite number is ignored."""
        if not isfinite(at_s) or not isfinite(value) or abs(value) > _LARGEST_VALUE:
            return
        hour = hour_of_week(at_s, self.utc_offset_s)
        week = self._week(at_s)
        last = self._weeks[hour]
        if last is None or week > last:
            self._before[hour], self._weeks[hour] = self.of_hour(hour), week
        self._counts[hour] += 1
        count, quantiles = self._counts[hour], self._quantiles[hour]
        if count == 1:
            quantiles[:] = [value, value, value]
            return
        rate = max(self.floor, 1 / count)
        step = self._spread(hour, abs(value - quantiles[1]), rate) * rate
        for n, (share, gain) in enumerate(_QUANTILES):
            quantiles[n] += gain * step * (share - (value < quantiles[n]))
        quantiles.sort()

    def _spread(self, hour: int, deviation: float, rate: float) -> float:
        """The running mean deviation, to which an outlier adds no more than a few of its kind."""
        spread = self._spreads[hour]
        bounded = min(deviation, _LARGEST_DEVIATION * spread) if spread else deviation
        self._spreads[hour] = spread + (bounded - spread) * rate
        return self._spreads[hour]

    def usual(self, at_s: float) -> UsualRange | None:
        """The usual range at this instant's hour by earlier weeks; None if they have not seen it."""
        hour = hour_of_week(at_s, self.utc_offset_s)
        last = self._weeks[hour]
        return self.of_hour(hour) if last is not None and self._week(at_s) > last else self._before[hour]

    def of_hour(self, hour: int) -> UsualRange | None:
        """The range of an hour of the week by all that was seen; None if it has never been seen."""
        if not self._counts[hour]:
            return None
        low, median, high = self._quantiles[hour]
        return UsualRange(low, median, high, self._counts[hour])

    def _week(self, at_s: float) -> int:
        return int((at_s + self.utc_offset_s - _MONDAY_S) // _WEEK_S)

    def state(self) -> dict[str, Any]:
        """Everything that the future depends on, in numbers and lists."""
        return {
            "version": STATE_VERSION,
            "utc_offset_s": self.utc_offset_s,
            "floor": self.floor,
            "counts": list(self._counts),
            "spreads": list(self._spreads),
            "quantiles": [list(quantiles) for quantiles in self._quantiles],
            "weeks": list(self._weeks),
            "before": [each and list(astuple(each)) for each in self._before],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """A profile that goes on where the one that wrote this state stood."""
        if state["version"] != 1:
            # The first version lacks what earlier weeks say, and is learnt on.
            check_version(state["version"], STATE_VERSION)
        profile = cls(state["utc_offset_s"], state["floor"])
        profile._counts, profile._spreads = list(state["counts"]), list(state["spreads"])
        profile._quantiles = [list(quantiles) for quantiles in state["quantiles"]]
        if state["version"] == STATE_VERSION:
            profile._weeks = list(state["weeks"])
            profile._before = [None if each is None else UsualRange(*each) for each in state["before"]]
        return profile
