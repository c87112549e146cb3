"""Patterns of measurement series: their normal week, and when they are too high, odd, or have shifted.

Each detector follows every series on its own, the most recently measured ones if there are too many. What it
raises as an alarm is proven or refuted by what follows, and only then counted: an alarm after which nothing
lasts was a false one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, ClassVar, Final, Generic, Protocol, Self, TypeVar

from maia.learning.anomalies import AnomalyDetector
from maia.learning.change_points import ChangeDetector, ChangeSettings
from maia.learning.detector import Alarm, AlarmKind, MeasurementDetector
from maia.learning.detectors.tallies import Tallies
from maia.learning.observations import Measurement
from maia.learning.patterns import Condition, Finding, Operator, Pattern, PatternType
from maia.learning.profiles import HOURS_PER_WEEK, WeekProfile
from maia.learning.running import RunningMedian
from maia.learning.states import pack, unpack
from maia.learning.thresholds import Crossing, ThresholdDetector, ThresholdSettings

LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    "cpu_percent": (80.0, 70.0),
    "memory_percent": (85.0, 80.0),
    "swap_percent": (50.0, 40.0),
    "disk_percent": (90.0, 87.0),
    "temperature_c": (85.0, 80.0),
}
"""From where a metric is high, and below which it is normal again, by the last word of the series' name."""

_CAPACITY: Final = 500
_MOST_ALARMS: Final = 10_000
_MEMORY: Final = 0.001
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class _Follower(Protocol):
    """What follows one series."""

    def state(self) -> dict[str, Any]: ...

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self: ...


F = TypeVar("F", bound=_Follower)


class _SeriesDetector(MeasurementDetector, Generic[F]):
    """Follows series one by one, and counts what proved true of each."""

    follower: ClassVar[type[Any]]

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._followers: dict[str, F] = {}
        self._tallies: Tallies[tuple[str, str]] = Tallies(2 * capacity)
        self._alarms: list[Alarm] = []

    def observe(self, batch: Sequence[Measurement]) -> None:
        for each in batch:
            if isfinite(each.value):
                # The dictionary keeps the order in which series were last measured.
                follower = self._followers.pop(each.series, None) or self._begin(each.series)
                if follower is not None:
                    self._followers[each.series] = follower
                    self._follow(follower, each)
        while len(self._followers) > self._capacity:
            del self._followers[next(iter(self._followers))]
        self._tallies.trim()

    def patterns(self) -> list[Finding]:
        ready = [key for key, tally in self._tallies.items() if tally.kept or self._is_worth_telling(key)]
        return [Finding(self._pattern(*key), days) for key, days in self._tallies.take(ready).items()]

    def alarms(self) -> list[Alarm]:
        alarms, self._alarms = self._alarms, []
        return alarms

    def state(self) -> bytes:
        followers = [[series, each.state()] for series, each in self._followers.items()]
        alarms = [alarm.content() for alarm in self._alarms]
        return pack(self.name, self.version, [self._capacity, followers, self._tallies.content(), alarms])

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        capacity, followers, tallies, alarms = unpack(cls.name, cls.version, state)
        detector = cls(capacity)
        detector._followers = {series: cls.follower.from_state(content) for series, content in followers}
        detector._tallies = Tallies.from_content(tallies)
        detector._alarms = [Alarm.of_content(content) for content in alarms]
        return detector

    @abstractmethod
    def _begin(self, series: str) -> F | None:
        """What follows a new series; None if this detector has nothing to say about it."""

    @abstractmethod
    def _follow(self, follower: F, measured: Measurement) -> None:
        """Take a value in, and count what it proves."""

    @abstractmethod
    def _pattern(self, series: str, direction: str) -> Pattern:
        """The statement about a series."""

    def _is_worth_telling(self, key: tuple[str, str]) -> bool:
        """Whether there is enough evidence for a first report."""
        return True

    def _count(self, measured: Measurement, direction: str, *, holds: bool) -> None:
        day = measured.at.toordinal()
        self._tallies.add((measured.series, direction), day, holds, not holds, measured.at)

    def _alarm(self, measured: Measurement, kind: AlarmKind, score: float, detail: str) -> None:
        if len(self._alarms) < _MOST_ALARMS:
            self._alarms.append(Alarm(measured.series, measured.at, kind, measured.value, score, detail))


# The normal week


@dataclass(slots=True)
class _Week:
    """A series' profile, and the median that it has to beat."""

    profile: WeekProfile
    flat: RunningMedian = field(default_factory=RunningMedian)

    def observe(self, at_s: float, value: float) -> None:
        """Learn from a value."""
        self.profile.observe(at_s, value)
        self.flat.observe(value, _MEMORY)

    def state(self) -> dict[str, Any]:
        return {"profile": self.profile.state(), **asdict(self.flat)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        profile = WeekProfile.from_state(state["profile"])
        return cls(profile, RunningMedian(state["median"], state["spread"], state["values"]))


class SeasonalProfiles(_SeriesDetector[_Week]):
    """Whether a series follows the week: its hours' profile must foretell values better than a median."""

    name = "seasonal_profiles"
    types = frozenset({PatternType.SEASONAL_PROFILE})
    follower = _Week

    _least_values = 2
    """How many values of an hour of the week make it known."""
    _least_before = 300
    """How many values the median it has to beat must know."""
    _least_support = 150

    def _begin(self, series: str) -> _Week:
        return _Week(WeekProfile())

    def _follow(self, follower: _Week, measured: Measurement) -> None:
        at_s, value = measured.at.timestamp(), measured.value
        usual = follower.profile.usual(at_s)
        if (
            usual is not None
            and usual.values >= self._least_values
            and follower.flat.values >= self._least_before
        ):
            ours, flat = abs(value - usual.median), abs(value - follower.flat.median)
            if ours != flat:
                self._count(measured, "", holds=ours < flat)
        follower.observe(at_s, value)

    def _is_worth_telling(self, key: tuple[str, str]) -> bool:
        tally = self._tallies.get(key)
        # Four standard deviations of a fair coin, as this is asked again and again.
        return (
            tally is not None
            and tally.support >= self._least_support
            and (tally.pos - tally.support / 2 > 2 * tally.support**0.5)
        )

    def _pattern(self, series: str, direction: str) -> Pattern:
        return Pattern(
            PatternType.SEASONAL_PROFILE,
            {"series": series},
            f"{series} follows the hours of the week",
            data=self._figures(series),
        )

    def _figures(self, series: str) -> dict[str, object]:
        follower = self._followers.get(series)
        if follower is None:
            return {}
        usual = [follower.profile.of_hour(hour) for hour in range(HOURS_PER_WEEK)]
        known = [(each.median, hour) for hour, each in enumerate(usual) if each is not None]
        (low, low_hour), (high, high_hour) = min(known), max(known)
        return {
            "highest_hour": _hour_name(high_hour),
            "highest": _three_digits(high),
            "lowest_hour": _hour_name(low_hour),
            "lowest": _three_digits(low),
        }


def _hour_name(hour_of_week: int) -> str:
    return f"{_DAYS[hour_of_week // 24]} {hour_of_week % 24:02}:00 UTC"


# Too high


@dataclass(slots=True)
class _High:
    """A metric's threshold detector, and for how many values it has been high."""

    detector: ThresholdDetector
    since: int = 0

    def state(self) -> dict[str, Any]:
        return {"detector": self.detector.state(), "since": self.since}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        return cls(ThresholdDetector.from_state(state["detector"]), state["since"])


class Thresholds(_SeriesDetector[_High]):
    """When a metric is high: N of M values over a limit, until as many are below a lower one.

    A time of being high is proven if it lasted twice as long as it took to notice.
    """

    name = "thresholds"
    types = frozenset({PatternType.THRESHOLD})
    follower = _High

    def _begin(self, series: str) -> _High | None:
        limits = LIMITS.get(series.rpartition(" ")[2])
        return None if limits is None else _High(ThresholdDetector(ThresholdSettings(*limits)))

    def _follow(self, follower: _High, measured: Measurement) -> None:
        detector = follower.detector
        crossing = detector.update(measured.value)
        if crossing is Crossing.RAISED:
            follower.since = 0
            settings = detector.settings
            detail = f"over {settings.raise_at:g} in {settings.needed} of the last {settings.window} samples"
            self._alarm(measured, "threshold", 1.0, detail)
        elif detector.is_high:
            follower.since += 1
            if follower.since == detector.settings.window:
                self._count(measured, "", holds=True)
        elif crossing is Crossing.CLEARED and follower.since < detector.settings.window:
            self._count(measured, "", holds=False)

    def _pattern(self, series: str, direction: str) -> Pattern:
        metric = series.rpartition(" ")[2]
        limit, _ = LIMITS[metric]
        return Pattern(
            PatternType.THRESHOLD,
            {"series": series, "limit": limit},
            f"when {series} goes over {limit:g}, it stays there",
            (Condition(metric, Operator.ABOVE, limit),),
        )


# Odd


@dataclass(slots=True)
class _Oddness:
    """A series' anomaly detector, and the alarm that waits for its proof."""

    detector: AnomalyDetector = field(default_factory=AnomalyDetector)
    waits: int = 0
    odd: int = 0

    def state(self) -> dict[str, Any]:
        return {"detector": self.detector.state(), "waits": self.waits, "odd": self.odd}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        return cls(AnomalyDetector.from_state(state["detector"]), state["waits"], state["odd"])


_WHY_ODD: Final[Mapping[str, str]] = {
    "record": "beyond all that was seen before",
    "record for the time of day": "beyond all that was seen before at this time of day",
    "time of day": "unusual for the time of day",
    "activity": "it rises and falls more, or less, than it used to",
    "level": "its mean of late is unusual",
}
"""What an alarm says, by the aspect that spoke for it most."""


class Anomalies(_SeriesDetector[_Oddness]):
    """When a series is odd. An alarm is proven if three or more of the ten values after it stick out, too."""

    name = "anomalies"
    types = frozenset({PatternType.ANOMALY})
    follower = _Oddness

    _proof = 10
    _least_odd = 3
    _odd_score = 0.25

    def _begin(self, series: str) -> _Oddness:
        return _Oddness()

    def _follow(self, follower: _Oddness, measured: Measurement) -> None:
        score = follower.detector.update(measured.at.timestamp(), measured.value)
        if follower.detector.is_alarm(score):
            evidence = follower.detector.evidence
            most = max(evidence, key=lambda aspect: evidence[aspect]) if evidence else ""
            why = _WHY_ODD.get(most, "unlike what came before")
            self._alarm(measured, "anomaly", min(score, 1.0), why)
            if not follower.waits:
                follower.waits, follower.odd = self._proof, 0
        elif follower.waits:
            follower.waits -= 1
            follower.odd += score >= self._odd_score
            if follower.odd >= self._least_odd or not follower.waits:
                self._count(measured, "", holds=follower.odd >= self._least_odd)
                follower.waits = 0

    def _pattern(self, series: str, direction: str) -> Pattern:
        return Pattern(
            PatternType.ANOMALY, {"series": series}, f"when {series} becomes odd, it stays odd for a while"
        )


# Shifted


@dataclass(slots=True)
class _Shift:
    """A series' change detector, how far each hour of the week is off the level, and the change to prove.

    The detector is fed means of a few values, less what is usual at their hour by earlier weeks: a rhythm is
    no shift, and neighbours in time are too alike for a test that takes them for independent. So its levels
    are levels above the usual ones; `rhythm` sums up the usual ones since the change, and `told` has the
    levels before and after the last shift that was proven, as people see them.
    """

    detector: ChangeDetector
    profile: WeekProfile
    block: list[float] = field(default_factory=list)
    waits: int = 0
    later: float = 0.0
    before: float = 0.0
    after: float = 0.0
    rhythm: float = 0.0
    told: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def begin(cls) -> Self:
        return cls(ChangeDetector(_SHIFTS), WeekProfile())

    def state(self) -> dict[str, Any]:
        return {
            "detector": self.detector.state(), "profile": self.profile.state(), "block": list(self.block),
            "numbers": [self.waits, self.later, self.before, self.after, self.rhythm],
            "told": list(self.told),
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        detector = ChangeDetector.from_state(state["detector"])
        profile = WeekProfile.from_state(state["profile"])
        shift = cls(detector, profile, list(state["block"]), *state["numbers"])
        shift.told = tuple(state.get("told", shift.told))
        return shift


_SHIFTS: Final = ChangeSettings(least_shift=2.0, points_between_false_alarms=100_000.0)
_BLOCK: Final = 5


class ChangePoints(_SeriesDetector[_Shift]):
    """When the level of a series has shifted, beyond what its week explains.

    A shift is proven if the next values are nearer the new level than the old one; only then is it an alarm.
    """

    name = "change_points"
    types = frozenset({PatternType.CHANGE_POINT})
    follower = _Shift

    _proof = 12
    """How many means decide."""

    def _begin(self, series: str) -> _Shift:
        return _Shift.begin()

    def _follow(self, follower: _Shift, measured: Measurement) -> None:
        at_s, level = measured.at.timestamp(), follower.detector.level
        usual = follower.profile.usual(at_s)
        if usual is None:
            # Nothing is known of this hour, so a value tells as much of the rhythm as of a shift.
            follower.profile.observe(at_s, measured.value - (level or 0.0))
            return
        if level is not None:
            follower.profile.observe(at_s, measured.value - level)
        if follower.waits:
            follower.rhythm += usual.median
        follower.block.append(measured.value - usual.median)
        if len(follower.block) == _BLOCK:
            self._judge(follower, sum(follower.block) / _BLOCK, measured)
            follower.block.clear()

    def _judge(self, follower: _Shift, mean: float, measured: Measurement) -> None:
        if follower.waits:
            follower.waits -= 1
            follower.later += mean
            if not follower.waits:
                self._prove(follower, measured)
        change = follower.detector.update(mean)
        if change is not None:
            follower.waits, follower.later, follower.rhythm = self._proof, 0.0, 0.0
            follower.before, follower.after = change.level_before, change.level_after

    def _prove(self, follower: _Shift, measured: Measurement) -> None:
        mean, before, after = follower.later / self._proof, follower.before, follower.after
        holds = abs(mean - after) < abs(mean - before)
        self._count(measured, "up" if after > before else "down", holds=holds)
        if holds:
            usual = follower.rhythm / (self._proof * _BLOCK)
            follower.told = before + usual, mean + usual
            detail = "the level went from {} to {}".format(*map(_plain, follower.told))
            self._alarm(measured, "change_point", 1.0, detail)

    def _pattern(self, series: str, direction: str) -> Pattern:
        follower = self._followers.get(series)
        data: dict[str, object] = {}
        if follower is not None:
            before, after = follower.told
            if before != after and (after > before) == (direction == "up"):
                data = {"before": _three_digits(before), "after": _three_digits(after)}
        return Pattern(
            PatternType.CHANGE_POINT,
            {"series": series, "direction": direction},
            f"when the level of {series} shifts {direction}, it stays there",
            data=data,
        )


def _three_digits(value: float) -> float:
    """Rounded, so that a figure that hardly moves doesn't make a pattern new."""
    return float(f"{value:.3g}")


def _plain(value: float) -> str:
    """Three digits for people, without an exponent unless the number is tiny."""
    rounded = _three_digits(value)
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"
