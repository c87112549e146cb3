"""The Numenta Anomaly Benchmark's scorer: how early and how quietly a detector alarms.

A labelled series has windows, each around one anomaly. A point whose score reaches the threshold is an alarm.
The earliest alarm of a window earns up to 1, by a sigmoid that falls towards the window's end; a window
without an alarm costs `false_negative`. An alarm outside of all windows costs up to `false_positive`: by the
same sigmoid less if it follows a window closely, all of it from three window widths on or before the first
window. Alarms in the probation, the first 15 % but at most 750 points, do not count. One threshold serves the
whole corpus, and the sum is scaled so that a silent detector gets 0 and a perfect one 100.

Source: Lavin and Ahmad, "Evaluating real-time anomaly detection algorithms: the Numenta Anomaly Benchmark"
(2015), with the details of NAB 1.1, whose published figures this scorer reproduces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

Floats: TypeAlias = "npt.NDArray[np.float64]"
Integers: TypeAlias = "npt.NDArray[np.int64]"

PROBATION_SHARE: Final = 0.15
LONGEST_PROBATION: Final = 750
OUTSIDE: Final = -1
_STEEPNESS: Final = 5.0
_FARTHEST: Final = 3.0


@dataclass(frozen=True, slots=True)
class Profile:
    """What hits, misses and false alarms weigh."""

    true_positive: float = 1.0
    false_negative: float = 1.0
    false_positive: float = 0.11


PROFILES: Final = {
    "standard": Profile(),
    "reward_low_FP_rate": Profile(false_positive=0.22),
    "reward_low_FN_rate": Profile(false_negative=2.0),
}


@dataclass(frozen=True, slots=True)
class ScoredSeries:
    """A detector's scores for a series, and its labelled windows: first and last instant, inclusive."""

    scores: Floats
    timestamps: Floats
    windows: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Sweep:
    """The raw score of a corpus at every threshold that makes a difference, from the highest down."""

    thresholds: Floats
    raw_scores: Floats
    windows: int
    profile: Profile

    @property
    def best_threshold(self) -> float:
        return float(self.thresholds[int(np.argmax(self.raw_scores))])

    @property
    def best_score(self) -> float:
        """The benchmark's figure: normalised, at the threshold that suits the corpus best."""
        return self._normalised(float(self.raw_scores.max()))

    def score_at(self, threshold: float) -> float:
        """The normalised score if every point with at least this score is an alarm."""
        reached = int(np.searchsorted(-self.thresholds, -threshold, side="right")) - 1
        return self._normalised(float(self.raw_scores[max(reached, 0)]))

    def _normalised(self, raw: float) -> float:
        return normalised(raw, self.windows, self.profile)


def normalised(raw: float, windows: int, profile: Profile) -> float:
    """Scale a raw score so that no alarm at all is 0, and one at the start of each window 100."""
    if not windows:
        raise ValueError("a corpus without any labelled window cannot be normalised")
    silent = -profile.false_negative * windows
    return 100 * (raw - silent) / (profile.true_positive * windows - silent)


def probation_length(points: int) -> int:
    return min(int(PROBATION_SHARE * points), LONGEST_PROBATION)


def scaled_sigmoid(position: Floats) -> Floats:
    """The worth of an alarm: 0.99 at a window's start (−1), 0 at its end (0), −1 far behind it."""
    near = 2 / (1 + np.exp(_STEEPNESS * np.minimum(position, _FARTHEST))) - 1
    return np.where(position > _FARTHEST, -1.0, near)


def window_of_points(series: ScoredSeries) -> Integers:
    """The number of the window that each point lies in, or −1."""
    found = np.full(len(series.timestamps), OUTSIDE, dtype=np.int64)
    for number, (first, last) in enumerate(series.windows):
        found[(series.timestamps >= first) & (series.timestamps <= last)] = number
    return found


def worth_of_points(window: Integers, profile: Profile) -> Floats:
    """What an alarm at each point would earn or cost, given the window of each point."""
    worth = np.full(len(window), -profile.false_positive)
    highest = scaled_sigmoid(np.array([-1.0]))[0]
    for number in range(int(window.max(initial=OUTSIDE)) + 1):
        inside = np.flatnonzero(window == number)
        if not len(inside):
            continue
        width, last = len(inside), int(inside[-1])
        worth[inside] = profile.true_positive * scaled_sigmoid((inside - last - 1) / width) / highest
        after = np.arange(last + 1, len(window))
        # A later window overwrites what follows it, so the closest window before a point decides.
        behind = scaled_sigmoid((after - last) / max(width - 1, 1))
        worth[after] = profile.false_positive * behind
    return worth


def sweep(corpus: Sequence[ScoredSeries], profile: Profile) -> Sweep:
    """The corpus's raw score at every threshold; the first one, above all scores, raises no alarm."""
    scores, gains = [np.empty(0)], [np.empty(0)]
    windows = 0
    for series in corpus:
        series_scores, series_gains = _gains(series, profile)
        scores.append(series_scores)
        gains.append(series_gains)
        windows += len(series.windows)
    every_score, every_gain = np.concatenate(scores), np.concatenate(gains)
    order = np.argsort(-every_score, kind="stable")
    ranked = every_score[order]
    totals = np.cumsum(every_gain[order]) - profile.false_negative * windows
    last_of_ties = np.flatnonzero(np.append(np.diff(ranked) != 0, len(ranked) > 0))
    return Sweep(
        thresholds=np.concatenate([[np.inf], ranked[last_of_ties]]),
        raw_scores=np.concatenate([[-profile.false_negative * windows], totals[last_of_ties]]),
        windows=windows,
        profile=profile,
    )


def _gains(series: ScoredSeries, profile: Profile) -> tuple[Floats, Floats]:
    """The scores after the probation, and what each adds as the threshold falls to it."""
    window = window_of_points(series)
    start = probation_length(len(window))
    worth, window, scores = worth_of_points(window, profile)[start:], window[start:], series.scores[start:]
    gains = worth.copy()
    for number in range(len(series.windows)):
        inside = np.flatnonzero(window == number)
        inside = inside[np.argsort(-scores[inside], kind="stable")]
        best_so_far = np.maximum.accumulate(np.concatenate([[-profile.false_negative], worth[inside]]))
        gains[inside] = np.diff(best_so_far)
    return scores, gains
