"""Anomaly detection, online and with one setting: how odd is the next value of a measurement series?

Every value gets two answers in one score. Below `ALARM`, the score ranks points by how far they stick out. It
remembers a little of what came just before, so that all points of an anomalous stretch rank high. From
`ALARM` on it is an alarm: something new has begun. Alarms are not repeated for a while; ranks go on.

The rank is the Euclidean norm of three ratios: the difference to the value before, the residual to the usual
value at this time of day, and the departure of the last few values from the last few dozen, each divided by
its usual size.

The alarm needs more evidence. Five aspects each give the negative logarithm of the probability of what is
seen, and their Euclidean norm must reach `alarm_evidence`:

- the value, and the residual to the time of day, beyond everything seen: as the last of n exchangeable values
  breaks the record with probability 1/n, the evidence is log n, and more by how far it is broken;
- the smoothed residual and the activity (the smoothed difference between neighbours): how rarely they were
  in this range before, by a running histogram;
- the level (a mean over some sixty points): its tail probability against the slow level, by a running 98 %
  quantile with a power law above it, whose exponent is Hill's estimate.

Long silence lowers the evidence required a little, a recent alarm raises it. Nothing else depends on the
series: all scales, quantiles and histograms are its own. Memory is constant: counts are halved and records
shrink every `MEMORY` points, so that old behaviour is forgotten slowly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import exp, hypot, isfinite, log
from typing import Any, Final, Self

from maia.learning.states import check_version

ALARM: Final = 0.5
"""A score of at least this is an alarm."""
DEFAULT_EVIDENCE: Final = 10.1
MEMORY: Final = 32_768
STATE_VERSION: Final = 1
ASPECTS: Final = ("record", "record for the time of day", "time of day", "activity", "level")
PARTS_OF_DAY: Final = 48
PART_OF_DAY_S: Final = 86_400 / PARTS_OF_DAY

_LARGEST_VALUE: Final = 1e150
_LARGEST_RATIO: Final = 1e6
_LEAST_QUIET: Final = 60
_QUIET_SHARE: Final = 0.03
_MUCH_MORE: Final = 1.5
"""How many times the evidence of the last alarm breaks the quiet after it."""
_USUAL_SILENCE: Final = 300.0
_LONG_SILENCE: Final = 1_000
_SILENCE_WEIGHT: Final = 0.3
_MEDIUM_RANK: Final = 8.0
"""The rank that is scored half of ALARM."""
_TAIL: Final = 0.02
_TAIL_EVIDENCE: Final = -log(_TAIL)
_BINS: Final = 82
_CENTRE: Final = 40.5


class _Tail:
    """One side's tail probability: a running 98 % quantile, and a power law above it."""

    __slots__ = ("count", "exponent", "quantile")

    def __init__(self) -> None:
        self.count = 0
        self.quantile = 0.0
        self.exponent = 0.5

    def surprise(self, size: float) -> float:
        """Minus the log probability of a value of at least this size; then learn from it."""
        self.count = count = self.count + 1
        quantile = self.quantile
        if quantile <= 0:
            if size <= 0:
                return 0.0
            self.quantile = 2 * size
            return log(count)
        rate = 2 * max(0.005, 2 / (count + 1))
        if size <= quantile:
            self.quantile = quantile * (1 - _TAIL * rate)
            return _TAIL_EVIDENCE * size / quantile
        excess = log(size / quantile)
        surprise = _TAIL_EVIDENCE + excess / self.exponent
        self.quantile = quantile * exp(min(0.5, (1 - _TAIL) * rate))
        shape = self.exponent + (excess - self.exponent) * max(0.02, 1 / (count * _TAIL + 5))
        self.exponent = max(shape, 0.05)
        return min(surprise, 60.0)


class _Tails:
    """Both sides' tail probabilities, each with its own scale, as measurements are seldom symmetric."""

    __slots__ = ("above", "below")

    def __init__(self) -> None:
        self.above = _Tail()
        self.below = _Tail()

    def surprise(self, deviation: float) -> float:
        if deviation >= 0:
            self.below.surprise(0.0)
            return self.above.surprise(deviation)
        self.above.surprise(0.0)
        return self.below.surprise(-deviation)


class _Histogram:
    """How rarely values were in this range: two histograms, half a bin apart, as wide as the usual deviation.

    `follow` centres them on the running mean, otherwise on zero.
    """

    __slots__ = ("bins", "count", "follow", "mean", "scale", "shifted_bins", "width")

    def __init__(self, width: float, follow: bool) -> None:
        self.width = width
        self.follow = follow
        self.count = 0
        self.mean = 0.0
        self.scale = 0.0
        self.bins = [0] * _BINS
        self.shifted_bins = [0] * _BINS

    def surprise(self, value: float) -> float:
        """Minus the log probability of the value's bin; then count it."""
        self.count = count = self.count + 1
        rate = max(0.0005, 1 / count)
        if count == 1 and self.follow:
            self.mean = value
        deviation = value - self.mean
        if self.scale > 0:
            surprise = self._counted(deviation / (self.scale * self.width))
        else:
            surprise = 0.0 if deviation == 0 else log(count)
        self.scale += (abs(deviation) - self.scale) * rate
        if self.follow:
            self.mean += deviation * rate
        return surprise

    def _counted(self, position: float) -> float:
        at = min(max(position + _CENTRE, 0.0), _BINS - 1.001)
        shifted = min(at + 0.5, _BINS - 1.001)
        first, second = int(at), int(shifted)
        seen = (self.bins[first] + self.shifted_bins[second]) / 2
        self.bins[first] += 1
        self.shifted_bins[second] += 1
        return log((self.count + 1) / (seen + 0.5))

    def fade(self) -> None:
        """Give what was counted half of its weight."""
        self.count //= 2
        self.bins = [seen // 2 for seen in self.bins]
        self.shifted_bins = [seen // 2 for seen in self.shifted_bins]


class _Record:
    """The lowest and the highest value so far."""

    __slots__ = ("count", "highest", "lowest")

    def __init__(self) -> None:
        self.count = 0
        self.lowest = 0.0
        self.highest = 0.0

    def surprise(self, value: float) -> float:
        """Evidence of a broken record: log n, and more by how far it is broken; 0 within the range."""
        self.count += 1
        if self.count == 1:
            self.lowest = self.highest = value
        if value > self.highest:
            beyond, width = value - self.highest, self.highest - self.lowest
            self.highest = value
        elif value < self.lowest:
            beyond, width = self.lowest - value, self.highest - self.lowest
            self.lowest = value
        else:
            return 0.0
        return log(self.count) + (log(1 + 10 * beyond / width) if width > 0 else 3.0)

    def fade(self) -> None:
        """Move both ends an eighth of the range inwards."""
        self.count //= 2
        eighth = (self.highest - self.lowest) / 8
        self.lowest += eighth
        self.highest -= eighth


class _Scale:
    """The usual size of a quantity: the larger of its long and its recent running mean.

    The recent one, over some 500 points, lets departures rank lower on restless days than on quiet ones.
    Were it much faster, the later points of a long anomaly would no longer stick out.
    """

    __slots__ = ("count", "mean", "recent")

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.recent = 0.0

    def ratio(self, size: float) -> float:
        """How many times its usual size this is; then learn from it."""
        self.count = count = self.count + 1
        usual = max(self.mean, self.recent)
        self.mean += (size - self.mean) * max(0.0002, 1 / count)
        self.recent += (size - self.recent) * 0.002
        return min(size / usual, _LARGEST_RATIO) if usual > 0 else 0.0


class AnomalyDetector:
    """Scores the values of one series, strictly in the order in which they arrive.

    `alarm_evidence`, the only setting, is the norm of five negative log probabilities that an alarm needs.
    With the default, a metric that only makes noise alarms about once in 2,000 values.
    After an alarm, and at the beginning, 60 points and 3 % of the history are quiet, unless there is half as
    much evidence again as for the last alarm.
    """

    __slots__ = (
        "_activity", "_activity_seen", "_alarm_evidence", "_alarmed_with", "_count", "_evidence", "_last",
        "_level", "_level_tails", "_long", "_medium", "_parts_of_day", "_rank", "_ratios", "_records",
        "_residual", "_residual_seen", "_short", "_silence",
    )  # fmt: skip

    def __init__(self, alarm_evidence: float = DEFAULT_EVIDENCE) -> None:
        if not alarm_evidence > 0:
            raise ValueError("alarm_evidence must be above 0")
        self._alarm_evidence = alarm_evidence
        self._count = 0
        self._silence = 0
        self._evidence = (0.0,) * len(ASPECTS)
        self._last = self._short = self._medium = self._long = self._level = 0.0
        self._activity = self._residual = self._rank = self._alarmed_with = 0.0
        self._parts_of_day = [[0.0, 0.0] for _ in range(PARTS_OF_DAY)]
        self._activity_seen = _Histogram(0.5, follow=True)
        self._residual_seen = _Histogram(1.0, follow=False)
        self._level_tails = _Tails()
        self._records = (_Record(), _Record())
        self._ratios = (_Scale(), _Scale(), _Scale())

    def update(self, at_s: float | None, value: float) -> float:
        """Score the next value, from 0 to 1, and learn from it; `ALARM` and above is an alarm.

        `at_s` is the time in seconds since 1970. Only its time of day counts; without it all values share one
        profile. A value that is not a finite number scores 0 and is not learned from.
        """
        if not -_LARGEST_VALUE < value < _LARGEST_VALUE:
            return 0.0
        if not self._count:
            self._begin(value)
        self._count += 1
        self._silence += 1
        residual = self._residual_of(at_s, value)
        difference = abs(value - self._last)
        rank = self._rank_of(difference, residual, value)
        self._learn(difference, residual, value)
        self._last = value
        if self._count % MEMORY == 0:
            self._fade()
        return self._score(rank, hypot(*self._evidence))

    @property
    def evidence(self) -> dict[str, float]:
        """What spoke for an alarm at the last value, by aspect, as negative natural logarithms."""
        return dict(zip(ASPECTS, self._evidence, strict=True))

    @staticmethod
    def is_alarm(score: float) -> bool:
        return score >= ALARM

    def _begin(self, value: float) -> None:
        self._last = self._short = self._medium = self._long = self._level = value

    def _residual_of(self, at_s: float | None, value: float) -> float | None:
        """The difference to the running mean of this half hour of the day; None if it has never been seen."""
        if at_s is None or not isfinite(at_s):
            at_s = 0.0
        part = self._parts_of_day[int(at_s // PART_OF_DAY_S) % PARTS_OF_DAY]
        seen, mean = part
        residual = value - mean
        part[0] = seen + 1
        part[1] = mean + residual * max(0.05, 1 / (seen + 1))
        return residual if seen else None

    def _rank_of(self, difference: float, residual: float | None, value: float) -> float:
        self._short += (value - self._short) * 0.4
        self._medium += (value - self._medium) * (2 / 33)
        by_difference, by_residual, by_departure = self._ratios
        ratio = by_difference.ratio(difference)
        departed = by_departure.ratio(abs(self._short - self._medium))
        unusual = 0.0 if residual is None else by_residual.ratio(abs(residual))
        rank = hypot(ratio, departed, unusual)
        self._rank += (rank - self._rank) * 0.3
        return rank + self._rank

    def _learn(self, difference: float, residual: float | None, value: float) -> None:
        """Find the evidence for something new in this value, then learn from it."""
        self._activity += (difference - self._activity) * 0.06
        self._level += (value - self._level) * 0.03
        self._residual += ((residual or 0.0) - self._residual) * 0.3
        self._evidence = (
            self._records[0].surprise(value),
            0.0 if residual is None else self._records[1].surprise(residual),
            self._residual_seen.surprise(self._residual),
            self._activity_seen.surprise(self._activity),
            self._level_tails.surprise(self._level - self._long),
        )
        self._long += (value - self._long) * max(0.002, 1 / self._count)

    def _score(self, rank: float, evidence: float) -> float:
        """The score of an alarm by its evidence, that of any other point by its rank."""
        boosted = self._boosted(evidence)
        if boosted < self._alarm_evidence:
            return ALARM * rank / (rank + _MEDIUM_RANK)
        self._silence = 0
        self._alarmed_with = evidence
        return 1 - (1 - ALARM) * self._alarm_evidence / boosted

    def _boosted(self, evidence: float) -> float:
        """The evidence, a little more after long silence; 0 if it is too early for an alarm."""
        if self._silence > _LEAST_QUIET + _QUIET_SHARE * min(self._count, MEMORY):
            return evidence + _SILENCE_WEIGHT * log(min(self._silence, _LONG_SILENCE) / _USUAL_SILENCE)
        if self._alarmed_with and evidence >= _MUCH_MORE * self._alarmed_with:
            return evidence
        return 0.0

    def _fade(self) -> None:
        self._activity_seen.fade()
        self._residual_seen.fade()
        for record in self._records:
            record.fade()

    def state(self) -> dict[str, Any]:
        """Everything that the future depends on, in numbers and lists."""
        return {"version": STATE_VERSION} | {name: _plain(getattr(self, name)) for name in self.__slots__}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """A detector that goes on where the one that wrote this state stood."""
        check_version(state["version"], STATE_VERSION)
        detector = cls()
        for name in cls.__slots__:
            setattr(detector, name, _restored(getattr(detector, name), state[name]))
        return detector


_PARTS: Final = (_Tail, _Tails, _Histogram, _Record, _Scale)


def _plain(value: Any) -> Any:
    """Parts as lists of their fields, everything else as it is."""
    if isinstance(value, _PARTS):
        return [_plain(getattr(value, name)) for name in value.__slots__]
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value


def _restored(model: Any, plain: Any) -> Any:
    """What `_plain` was given, where `model` is a value of the same shape."""
    if isinstance(model, _PARTS):
        for name, field in zip(model.__slots__, plain, strict=True):
            setattr(model, name, _restored(getattr(model, name), field))
        return model
    if isinstance(model, tuple):
        return tuple(_restored(part, field) for part, field in zip(model, plain, strict=True))
    return plain


def scores_of(
    values: Iterable[tuple[float | None, float]], alarm_evidence: float = DEFAULT_EVIDENCE
) -> list[float]:
    """The score of each value of a series, by a new detector."""
    update = AnomalyDetector(alarm_evidence).update
    return [update(at_s, value) for at_s, value in values]
