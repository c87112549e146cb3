"""Velocity: how fast a video's views grow, whether growth accelerates, and how it compares with other videos.

Every function works on columns: one float64 per video, NaN where PostgreSQL has NULL. `Tracks` holds what is
kept of each video between two samples. `advance` adds one new sample of each video and returns the next
`Tracks`; `replay` computes the same for one video's whole series.

A sample's velocity is the difference of two counts over the time between them. It is negative if YouTube took
views back, and unknown (never 0) for the first sample, for a hidden count, across the change of YouTube's
counting method, and across an implausible fall. A count that falls to a fraction of the last one is doubted
until the next sample. If that is as low, the video starts over from there; if not, the low count was wrong
and changes nothing.

A sample's velocity is a mean over the step, so the smoothed velocity weights it by the step's length: it is
the mean under an exponential kernel with the half-life `half_life_h`, over the time observed. To split a step
in two without changing the growth changes nothing. Acceleration is the change of the smoothed velocity over
the step. All of these are computed by Pleiades, not by YouTube.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Self, TypeAlias, TypeVar

import numpy as np
from fastdigest import TDigest

if TYPE_CHECKING:
    import numpy.typing as npt

Floats: TypeAlias = "npt.NDArray[np.float64]"
Integers: TypeAlias = "npt.NDArray[np.int64]"
Booleans: TypeAlias = "npt.NDArray[np.bool_]"
ColumnLike: TypeAlias = "npt.ArrayLike | Sequence[float | None]"
Key = TypeVar("Key", bound=Hashable)

METHODOLOGY_EPOCH_S: Final = 1_787_788_800.0
"""2026-08-27T00:00Z, since when YouTube counts a view at the start of playback."""
AGE_CLASS_EDGES_H: Final = (1.0, 3.0, 6.0, 12.0, 24.0, 48.0, 96.0, 168.0, 336.0, 720.0, 2160.0)
"""Where each age class ends. They become wider, as velocity falls roughly as a power of age."""
_HOUR_S = 3600.0
_LN2 = math.log(2.0)
_LOGISTIC_PER_NORMAL = 1.702


class Step(IntEnum):
    """What kind of sample a new one is, given those before it."""

    FIRST = 0
    MEASURED = 1
    HIDDEN = 2
    """No count. The next known count will be compared with the last known one."""
    NOT_LATER = 3
    """Ignored, as it is less than `shortest_step_s` later than the last sample."""
    EPOCH = 4
    """Counted by another method than the last one: the video starts over from here."""
    DOUBTED = 5
    """Fell to a fraction of the last count: not used unless the next count confirms it."""
    FELL = 6
    """As low as the doubted count: the video starts over from here."""


RESTARTS: Final = (Step.EPOCH, Step.FELL)
"""Steps that discard what was known before them."""
_UNTAKEN: Final = (Step.HIDDEN, Step.NOT_LATER, Step.DOUBTED)


@dataclass(frozen=True, slots=True)
class VelocitySettings:
    """How to compute velocity. The defaults suit samples from every ten minutes to once a day."""

    half_life_h: float = 6.0
    methodology_epoch_s: float = METHODOLOGY_EPOCH_S
    shortest_step_s: float = 1.0
    implausible_fall: float = 0.75
    """A fall by more than this share of the count is doubted."""
    least_fall: float = 100.0
    """A fall by fewer views than this is not doubted, as it is often a large share of a small count."""

    def __post_init__(self) -> None:
        if not (0 < self.half_life_h < math.inf and 0 < self.shortest_step_s < math.inf):
            raise ValueError("half_life_h and shortest_step_s must be positive and finite")


@dataclass(frozen=True, slots=True)
class Tracks:
    """What is kept of each video: its last known count and when that was, and its growth.

    `weight` is the share of the smoothing kernel that lies in the time observed: 0 before the first step,
    then growing towards 1. `doubted` is the last count, if that is doubted.
    """

    at_s: Floats
    views: Floats
    velocity: Floats
    acceleration: Floats
    weight: Floats
    doubted: Floats

    @classmethod
    def new(cls, videos: int) -> Self:
        unknown = np.full(videos, np.nan)
        return cls(unknown, unknown, unknown, unknown, np.zeros(videos), unknown)

    @classmethod
    def of(
        cls,
        at_s: ColumnLike,
        views: ColumnLike,
        velocity: ColumnLike,
        acceleration: ColumnLike,
        weight: ColumnLike,
        doubted: ColumnLike | None = None,
    ) -> Self:
        """From columns with None for NULL; a weight of None is 0."""
        at = column(at_s)
        return cls(
            at,
            column(views),
            column(velocity),
            column(acceleration),
            np.nan_to_num(column(weight)),
            np.full(len(at), np.nan) if doubted is None else column(doubted),
        )


@dataclass(frozen=True, slots=True)
class Advance:
    """The next tracks, and for each sample its velocity (views per hour, NaN if none), its step's hours and
    gained views, and its kind.
    """

    tracks: Tracks
    velocity: Floats
    hours: Floats
    gained: Floats
    step: Integers


@dataclass(frozen=True, slots=True)
class Series:
    """The velocities of one video's samples; NaN where unknown."""

    velocity: Floats
    smoothed: Floats
    acceleration: Floats
    step: Integers


def column(values: ColumnLike) -> Floats:
    """Convert `values` to float64, None to NaN."""
    return np.array(values, dtype=np.float64)


def nullable(values: Floats) -> list[float | None]:
    """Convert values for the database: NaN and infinity become None."""
    finite, numbers = np.isfinite(values), values.tolist()
    if finite.all():
        return list[float | None](numbers)
    return [value if known else None for value, known in zip(numbers, finite.tolist(), strict=True)]


def advance(
    tracks: Tracks, at_s: ColumnLike, views: ColumnLike, settings: VelocitySettings | None = None
) -> Advance:
    """Add one new sample of each video: times in seconds since 1970, and counts, None if hidden.

    Raises ValueError for a time that is not finite, or a count that is negative or infinite.
    """
    settings = settings or VelocitySettings()
    at, count = column(at_s), column(views)
    _check(at, count, len(tracks.at_s))
    step = _classify(tracks, at, count, settings)
    measured = step == Step.MEASURED
    hours = np.where(measured, (at - tracks.at_s) / _HOUR_S, np.nan)
    gained = np.where(measured, count - tracks.views, np.nan)
    velocity = gained / hours
    smoothed, weight = _smooth(tracks, velocity, hours, settings.half_life_h)
    restarted = (step == Step.FIRST) | np.isin(step, RESTARTS)
    taken = measured | restarted
    following = Tracks(
        np.where(taken, at, tracks.at_s),
        np.where(taken, count, tracks.views),
        np.where(measured, smoothed, np.where(restarted, np.nan, tracks.velocity)),
        np.where(
            measured, (smoothed - tracks.velocity) / hours, np.where(restarted, np.nan, tracks.acceleration)
        ),
        np.where(measured, weight, np.where(restarted, 0.0, tracks.weight)),
        np.where(taken, np.nan, np.where(step == Step.DOUBTED, count, tracks.doubted)),
    )
    return Advance(following, velocity, hours, gained, step)


def replay(at_s: ColumnLike, views: ColumnLike, settings: VelocitySettings | None = None) -> Series:
    """Compute one video's whole series at once; the result is that of an `advance` for each sample."""
    settings = settings or VelocitySettings()
    at, count = column(at_s), column(views)
    _check(at, count, len(at))
    step = _classify_series(at, count, settings)
    velocity, smoothed, acceleration = (np.full(len(at), np.nan) for _ in range(3))
    taken = np.flatnonzero(~np.isin(step, _UNTAKEN))
    measured = step[taken] == Step.MEASURED
    hours = np.diff(at[taken], prepend=np.nan) / _HOUR_S
    velocity[taken] = np.where(measured, np.diff(count[taken], prepend=np.nan) / hours, np.nan)
    kept, mean, weight = np.exp2(-hours / settings.half_life_h), np.nan, 0.0
    for row, part, step_h, fresh in zip(taken, kept, hours, measured, strict=True):
        if not fresh:
            mean, weight = np.nan, 0.0
            continue
        before, share = mean, (1 - part) / (part * weight + 1 - part)
        mean = velocity[row] if weight == 0 else mean + share * (velocity[row] - mean)
        weight = part * weight + 1 - part
        smoothed[row], acceleration[row] = mean, (mean - before) / step_h
    return Series(velocity, _hold_last(smoothed, step), _hold_last(acceleration, step), step)


def _hold_last(values: Floats, step: Integers) -> Floats:
    """Repeat the last value at samples that are hidden, ignored or doubted."""
    last = np.where(np.isin(step, _UNTAKEN), 0, np.arange(1, len(step) + 1))
    last = np.maximum.accumulate(last) if len(last) else last
    held: Floats = np.concatenate(([np.nan], values))[last]
    return held


def _check(at: Floats, count: Floats, videos: int) -> None:
    if at.shape != (videos,) or count.shape != (videos,):
        raise ValueError(f"{videos} videos need as many times and counts, not {at.shape} and {count.shape}")
    bad_at, bad_count = ~np.isfinite(at), (count < 0) | np.isinf(count)
    if bad_at.any():
        row = int(np.argmax(bad_at))
        raise ValueError(f"row {row}: a sample needs a finite time in seconds since 1970, not {at[row]}")
    if bad_count.any():
        row = int(np.argmax(bad_count))
        raise ValueError(f"row {row}: {count[row]} is not a view count; a hidden count is None")


def _classify(tracks: Tracks, at: Floats, count: Floats, settings: VelocitySettings) -> Integers:
    epoch = settings.methodology_epoch_s
    crossed = (tracks.at_s < epoch) & (at >= epoch)
    fallen = _is_implausible(tracks.views, count, settings)
    step: Integers = np.select(
        [
            at - tracks.at_s < settings.shortest_step_s,
            np.isnan(count),
            np.isnan(tracks.at_s),
            crossed,
            fallen & np.isnan(tracks.doubted),
            fallen,
        ],
        [Step.NOT_LATER, Step.HIDDEN, Step.FIRST, Step.EPOCH, Step.DOUBTED, Step.FELL],
        Step.MEASURED,
    ).astype(np.int64)
    return step


def _is_implausible(last: Floats, count: Floats, settings: VelocitySettings) -> Booleans:
    lost: Booleans = (last - count >= settings.least_fall) & (last - count > settings.implausible_fall * last)
    return lost


def _classify_series(at: Floats, count: Floats, settings: VelocitySettings) -> Integers:
    """The kind of each sample, which depends on the kinds of those before it."""
    fall = settings.implausible_fall
    steps, last_at, last, doubts = np.empty(len(at), np.int64), np.nan, np.nan, False
    for row, (instant, known) in enumerate(zip(at.tolist(), count.tolist(), strict=True)):
        if instant - last_at < settings.shortest_step_s:
            steps[row] = Step.NOT_LATER
            continue
        if math.isnan(known):
            steps[row] = Step.HIDDEN
            continue
        fallen = last - known >= settings.least_fall and last - known > fall * last
        if math.isnan(last_at):
            steps[row] = Step.FIRST
        elif last_at < settings.methodology_epoch_s <= instant:
            steps[row] = Step.EPOCH
        elif fallen and not doubts:
            steps[row], doubts = Step.DOUBTED, True
            continue
        else:
            steps[row] = Step.FELL if fallen else Step.MEASURED
        last_at, last, doubts = instant, known, False
    return steps


def _smooth(tracks: Tracks, velocity: Floats, hours: Floats, half_life_h: float) -> tuple[Floats, Floats]:
    fresh = -np.expm1(-_LN2 * hours / half_life_h)
    weight = (1 - fresh) * tracks.weight + fresh
    mean = tracks.velocity + fresh / weight * (velocity - tracks.velocity)
    return np.where(tracks.weight == 0, velocity, mean), weight


def age_class(age_h: ColumnLike, edges_h: Sequence[float] = AGE_CLASS_EDGES_H) -> Integers:
    """The number of each age's class; negative ages belong to the first."""
    return np.searchsorted(np.array(edges_h), column(age_h), side="right").astype(np.int64)


@dataclass(frozen=True, slots=True)
class Norms:
    """The usual velocity of a channel's videos: one row per channel and age class.

    Each row has the number of videos, and the mean and the sum of squared deviations of log(1 + views/h).
    A video should count once per age class. Merging is exact in any order (Chan, Golub and LeVeque, 1979).
    """

    videos: Floats
    mean: Floats
    squares: Floats

    @classmethod
    def new(cls, rows: int) -> Self:
        return cls(np.zeros(rows), np.zeros(rows), np.zeros(rows))

    @classmethod
    def of_velocities(cls, velocity: ColumnLike) -> Self:
        """One row for each velocity, ready to be merged; an unknown velocity gives an empty row."""
        logs = _log_velocity(column(velocity))
        known = np.isfinite(logs)
        return cls(known.astype(np.float64), np.where(known, logs, 0.0), np.zeros(len(logs)))

    def merge(self, other: Norms) -> Norms:
        """Add the videos of another set of norms, row by row."""
        videos = self.videos + other.videos
        share = np.divide(other.videos, videos, out=np.zeros_like(videos), where=videos > 0)
        apart = other.mean - self.mean
        squares = self.squares + other.squares + apart**2 * self.videos * share
        return Norms(videos, self.mean + apart * share, squares)


@dataclass(frozen=True, slots=True)
class Relative:
    """`ratio` is velocity over the usual one; `z` is the number of deviations above it, on the log scale."""

    ratio: Floats
    z: Floats


def relative_velocity(
    velocity: ColumnLike, channel: Norms, cohort: Norms, prior_videos: float = 4.0, least_spread: float = 0.25
) -> Relative:
    """Compare velocity with the channel's norm for that age, or mostly with the cohort's norm if the channel
    has few videos.

    The norm used is the posterior of a normal-inverse-gamma prior that weighs as much as `prior_videos`
    videos of the cohort (Gelman et al., Bayesian Data Analysis, 3.3), on the scale log(1 + views/h). Views
    taken back count as no growth. The result is NaN if the velocity is unknown, or neither norm has a video.
    """
    prior = np.where(cohort.videos > 0, prior_videos, 0.0)
    total = channel.videos + prior
    known = total > 0
    divisor = np.where(known, total, 1.0)
    mean = (channel.videos * channel.mean + prior * cohort.mean) / divisor
    usual = cohort.squares / np.where(cohort.videos > 0, cohort.videos, 1.0)
    between = channel.videos * prior / divisor * (channel.mean - cohort.mean) ** 2
    variance = (channel.squares + prior * usual + between) / divisor
    above = np.where(known, _log_velocity(column(velocity)) - mean, np.nan)
    return Relative(np.exp(above), above / np.maximum(np.sqrt(variance), least_spread))


class Cohort:
    """The distribution of velocities (or growth rates) of videos of one age class and category.

    It is a t-digest (Dunning, 2019) with at most `centroids` centroids, which can be merged and takes about
    16 bytes per centroid. Values are stored on the scale asinh, which keeps the sign and compresses the
    tails. To forget old values, keep one digest per UTC day and merge those of the last days.
    """

    __slots__ = ("_digest", "_norm")

    def __init__(self, centroids: int = 100) -> None:
        self._digest = TDigest(max_centroids=centroids)
        self._norm: tuple[float, float, float] | None = None

    def __len__(self) -> int:
        return self._digest.n_values

    def observe(self, values: ColumnLike) -> None:
        """Add velocities; unknown ones are ignored."""
        scaled = to_scale(values)
        self.observe_scaled(scaled[np.isfinite(scaled)].tolist())

    def observe_scaled(self, known: list[float]) -> None:
        """Add values that `to_scale` returned."""
        if not known:
            return
        self._digest.batch_update(known)
        if self._norm is not None:
            self._norm = _with(self._norm, known)

    def percentile(self, values: ColumnLike) -> Floats:
        """The share of the cohort below each value, ties counted half; NaN for NaN, or if the cohort is
        empty.

        Half a video is added at either end, so that shares are never 0 or 1, and near ½ in a small cohort.
        """
        return percentiles([None] * len(column(values)), values, {None: self})

    def norm(self) -> tuple[float, float, float]:
        """A row of `Norms` for the cohort, as exact as the width of the centroids allows."""
        if not len(self):
            return 0.0, 0.0, 0.0
        if self._norm is None:
            centres, weights = np.array(self._digest.centroids, dtype=np.float64).T
            logs = _log_velocity(np.sinh(centres))
            mean = float(logs @ weights) / len(self)
            self._norm = float(len(self)), mean, float(weights @ (logs - mean) ** 2)
        return self._norm

    def below(self, scaled: list[float]) -> list[float]:
        """How many of the cohort's values are at most each of these, which are on its scale."""
        values = len(self)
        return [values * share for share in self._digest.cdf_vec(scaled)]

    @classmethod
    def merge(cls, cohorts: Iterable[Cohort], centroids: int = 100) -> Self:
        """A new cohort with the values of all; the cohorts given don't change."""
        merged = cls(centroids)
        for cohort in cohorts:
            if len(cohort):
                merged._digest = merged._digest.merge(cohort._digest)
        merged._digest.max_centroids = centroids
        return merged

    def to_bytes(self) -> bytes:
        """Serialize the cohort, for `from_bytes`."""
        return bytes(self._digest.to_bytes())

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        """Restore a cohort; ValueError if `stored` is not a digest."""
        cohort = cls()
        cohort._digest = TDigest.from_bytes(stored)
        return cohort


def percentiles(keys: Sequence[Key], values: ColumnLike, cohorts: Mapping[Key, Cohort]) -> Floats:
    """Each value's percentile in the cohort of its key, such as (age class, category); NaN without one."""
    scaled, shares = to_scale(values), np.full(len(keys), np.nan)
    ends = np.nextafter(scaled, [[-np.inf], [np.inf]]).tolist()
    rows: dict[Key, list[int]] = {}
    for row in np.flatnonzero(np.isfinite(scaled)).tolist():
        rows.setdefault(keys[row], []).append(row)
    for key, members in rows.items():
        if cohort := cohorts.get(key):
            below = cohort.below([end[row] for end in ends for row in members])
            ties_half = zip(below, below[len(members) :], strict=False)
            shares[members] = [((under + upto) / 2 + 0.5) / (len(cohort) + 1) for under, upto in ties_half]
    return shares


def to_scale(values: ColumnLike) -> Floats:
    """Convert velocities or growth rates to the scale of cohorts."""
    scaled: Floats = np.arcsinh(column(values))
    return scaled


def _with(norm: tuple[float, float, float], scaled: Iterable[float]) -> tuple[float, float, float]:
    """Add a few values on a cohort's scale to its norm (Welford, 1962)."""
    count, mean, squares = norm
    for value in scaled:
        log = math.log1p(math.sinh(value)) if value > 0 else 0.0
        count, apart = count + 1, log - mean
        mean += apart / count
        squares += apart * (log - mean)
    return count, mean, squares


def growth_rate(velocity: ColumnLike, acceleration: ColumnLike) -> Floats:
    """Acceleration divided by the velocity plus 1 view/h, which keeps it finite when nothing grows."""
    return column(acceleration) / (np.abs(column(velocity)) + 1.0)


@dataclass(frozen=True, slots=True)
class ViralWeights:
    """The weights of the parts of `viral_score`, and the correlation between the parts."""

    cohort: float = 0.5
    channel: float = 0.3
    growth: float = 0.2
    correlation: float = 0.2


def viral_score(
    cohort_percentile: ColumnLike,
    channel_z: ColumnLike,
    growth_percentile: ColumnLike,
    weights: ViralWeights | None = None,
) -> Floats:
    """How unusual a video's growth is, in [0, 1]: ½ is ordinary, 0.95 about one in twenty.

    It combines three measures: the percentile of the velocity among videos of the same age class and
    category, its deviation from the channel's own norm for that age (z, converted to a percentile by the
    logistic approximation of the normal distribution, 1.702 z), and the percentile of the growth rate among
    the same videos. They are combined by the weighted logit method: score = logistic(Σ wᵢ logit pᵢ / √(Σᵢⱼ wᵢ
    wⱼ ρᵢⱼ)), where ρᵢᵢ = 1 and other ρ are `correlation` (Mudholkar and George, 1979, for equal weights;
    Strube, 1985, for dependent parts). The score of ordinary videos is about uniformly distributed, so a
    threshold of 0.95 selects about 5 % of them. A part that is NaN is left out with its weight; if all are,
    the score is NaN.
    """
    weights = weights or ViralWeights()
    logits = np.stack(
        [
            _logit(column(cohort_percentile)),
            _LOGISTIC_PER_NORMAL * column(channel_z),
            _logit(column(growth_percentile)),
        ]
    )
    share = np.where(
        np.isnan(logits), 0.0, np.array([weights.cohort, weights.channel, weights.growth])[:, None]
    )
    total = share.sum(axis=0)
    norm = np.sqrt((1 - weights.correlation) * (share**2).sum(axis=0) + weights.correlation * total**2)
    combined = (share * np.nan_to_num(logits)).sum(axis=0) / np.where(total > 0, norm, np.nan)
    score: Floats = 1 / (1 + np.exp(-np.clip(combined, -700, 700)))
    return score


def _logit(share: Floats) -> Floats:
    inside = np.clip(share, 1e-12, 1 - 1e-12)
    return np.log(inside) - np.log1p(-inside)


def _log_velocity(velocity: Floats) -> Floats:
    logs: Floats = np.log1p(np.maximum(velocity, 0.0))
    return logs
