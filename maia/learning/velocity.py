"""Velocity: how fast a video's views grow, whether that quickens, and how it compares. Computed by Pleiades.

Every function works on columns: one element a video, float64, NaN where PostgreSQL has NULL. `Tracks`
holds what must be kept of each video between two samples; `advance` takes one new sample of each and
gives the next `Tracks`, `replay` computes the same of one video's whole series.

A sample's velocity is the difference of the counts over the difference of the instants: negative where
YouTube took views back, absent (never 0) for the first sample, for a hidden count and across the
methodology epoch. It is a mean over the step, so the smoothed velocity weights it by the step's length:
the mean of the velocity under an exponential kernel of `half_life_h`, over the time that was seen.
Cutting a step in two without changing the growth changes nothing. Acceleration is the change of the
smoothed velocity over the step.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self, TypeVar

import numpy as np
import numpy.typing as npt
from fastdigest import TDigest

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Column = npt.ArrayLike | Sequence[float | None]
Key = TypeVar("Key", bound=Hashable)

METHODOLOGY_EPOCH_S: Final = 1_787_788_800.0
"""2026-08-27T00:00Z, from when YouTube counts a view at the start of playback."""
AGE_CLASS_EDGES_H: Final = (1.0, 3.0, 6.0, 12.0, 24.0, 48.0, 96.0, 168.0, 336.0, 720.0, 2160.0)
"""Where one age class ends and the next begins; velocity falls about as a power of age, so they widen."""
_HOUR_S = 3600.0
_LN2 = float(np.log(2.0))
_LOGISTIC_PER_NORMAL = 1.702


class Step(IntEnum):
    """What a new sample was to its video."""

    FIRST = 0
    MEASURED = 1
    HIDDEN = 2
    """No count: the next known one is compared with the last known one."""
    NOT_LATER = 3
    """Refused, nothing changed: no later than the last sample by `shortest_step_s`."""
    EPOCH = 4
    """Counted by another method than the last: everything starts anew from here."""


@dataclass(frozen=True, slots=True)
class VelocitySettings:
    """How to measure; the defaults suit samples from every ten minutes to every day."""

    half_life_h: float = 6.0
    methodology_epoch_s: float = METHODOLOGY_EPOCH_S
    shortest_step_s: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.half_life_h < np.inf and 0 < self.shortest_step_s < np.inf):
            raise ValueError("half_life_h and shortest_step_s must be positive and finite")


@dataclass(frozen=True, slots=True)
class Tracks:
    """What is kept of each video: its last known count and when, its growth, and how much of it was seen.

    `weight` is the share of the smoothing kernel that falls on time seen: 0 before the first step, towards 1.
    """

    at_s: Floats
    views: Floats
    velocity: Floats
    acceleration: Floats
    weight: Floats

    @classmethod
    def new(cls, videos: int) -> Self:
        unknown = np.full(videos, np.nan)
        return cls(unknown, unknown, unknown, unknown, np.zeros(videos))

    @classmethod
    def of(cls, at_s: Column, views: Column, velocity: Column, acceleration: Column, weight: Column) -> Self:
        """From columns with None for NULL; a weight of None is 0."""
        return cls(
            column(at_s), column(views), column(velocity), column(acceleration), np.nan_to_num(column(weight))
        )


@dataclass(frozen=True, slots=True)
class Advance:
    """The next tracks, each sample's own velocity (views per hour, NaN if none), and what the sample was."""

    tracks: Tracks
    velocity: Floats
    hours: Floats
    gained: Floats
    step: Integers


@dataclass(frozen=True, slots=True)
class Series:
    """One video's samples measured; NaN where there is nothing to say."""

    velocity: Floats
    smoothed: Floats
    acceleration: Floats
    step: Integers


def column(values: Column) -> Floats:
    """`values` as float64, None as NaN."""
    return np.array(values, dtype=np.float64)


def nullable(values: Floats) -> list[float | None]:
    """For the database: NaN, and anything else that is not finite, as None."""
    finite, numbers = np.isfinite(values), values.tolist()
    if finite.all():
        return list[float | None](numbers)
    return [value if known else None for value, known in zip(numbers, finite.tolist(), strict=True)]


def advance(tracks: Tracks, at_s: Column, views: Column, settings: VelocitySettings | None = None) -> Advance:
    """Take one new sample of each video: instants in seconds since 1970, counts or None where hidden.

    Raises ValueError for an instant that is not finite or a count that is negative or infinite.
    """
    settings = settings or VelocitySettings()
    at, count = column(at_s), column(views)
    _refuse(at, count, len(tracks.at_s))
    step = _classify(tracks, at, count, settings)
    measured = step == Step.MEASURED
    hours = np.where(measured, (at - tracks.at_s) / _HOUR_S, np.nan)
    gained = np.where(measured, count - tracks.views, np.nan)
    velocity = gained / hours
    smoothed, weight = _smooth(tracks, velocity, hours, settings.half_life_h)
    restarted = (step == Step.FIRST) | (step == Step.EPOCH)
    taken = measured | restarted
    following = Tracks(
        np.where(taken, at, tracks.at_s),
        np.where(taken, count, tracks.views),
        np.where(measured, smoothed, np.where(restarted, np.nan, tracks.velocity)),
        np.where(
            measured, (smoothed - tracks.velocity) / hours, np.where(restarted, np.nan, tracks.acceleration)
        ),
        np.where(measured, weight, np.where(restarted, 0.0, tracks.weight)),
    )
    return Advance(following, velocity, hours, gained, step)


def replay(at_s: Column, views: Column, settings: VelocitySettings | None = None) -> Series:
    """Measure one video's whole series at once; the same as an `advance` for each of its samples."""
    settings = settings or VelocitySettings()
    at, count = column(at_s), column(views)
    _refuse(at, count, len(at))
    step = _classify_series(at, count, settings)
    velocity, smoothed, acceleration = (np.full(len(at), np.nan) for _ in range(3))
    taken = np.flatnonzero((step != Step.HIDDEN) & (step != Step.NOT_LATER))
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
    return Series(velocity, _held(smoothed, step), _held(acceleration, step), step)


def _held(values: Floats, step: Integers) -> Floats:
    """A sample without a count, or refused, leaves what was known before it."""
    last = np.where((step == Step.HIDDEN) | (step == Step.NOT_LATER), 0, np.arange(1, len(step) + 1))
    last = np.maximum.accumulate(last) if len(last) else last
    held: Floats = np.concatenate(([np.nan], values))[last]
    return held


def _refuse(at: Floats, count: Floats, videos: int) -> None:
    if at.shape != (videos,) or count.shape != (videos,):
        raise ValueError(
            f"{videos} videos need as many instants and counts, not {at.shape} and {count.shape}"
        )
    bad_at, bad_count = ~np.isfinite(at), (count < 0) | np.isinf(count)
    if bad_at.any():
        row = int(np.argmax(bad_at))
        raise ValueError(f"row {row}: a sample needs a finite instant in seconds since 1970, not {at[row]}")
    if bad_count.any():
        row = int(np.argmax(bad_count))
        raise ValueError(f"row {row}: {count[row]} is no count of views; a hidden count is None")


def _classify(tracks: Tracks, at: Floats, count: Floats, settings: VelocitySettings) -> Integers:
    epoch = settings.methodology_epoch_s
    crossed = (tracks.at_s < epoch) & (at >= epoch)
    step: Integers = np.select(
        [at - tracks.at_s < settings.shortest_step_s, np.isnan(count), np.isnan(tracks.at_s), crossed],
        [Step.NOT_LATER, Step.HIDDEN, Step.FIRST, Step.EPOCH],
        Step.MEASURED,
    ).astype(np.int64)
    return step


def _classify_series(at: Floats, count: Floats, settings: VelocitySettings) -> Integers:
    steps, last, epoch = np.empty(len(at), np.int64), np.nan, settings.methodology_epoch_s
    for row, (instant, known) in enumerate(zip(at.tolist(), (~np.isnan(count)).tolist(), strict=True)):
        if instant - last < settings.shortest_step_s:
            steps[row] = Step.NOT_LATER
        elif not known:
            steps[row] = Step.HIDDEN
        else:
            started = Step.EPOCH if last < epoch <= instant else Step.MEASURED
            steps[row], last = (Step.FIRST if np.isnan(last) else started), instant
    return steps


def _smooth(tracks: Tracks, velocity: Floats, hours: Floats, half_life_h: float) -> tuple[Floats, Floats]:
    fresh = -np.expm1(-_LN2 * hours / half_life_h)
    weight = (1 - fresh) * tracks.weight + fresh
    mean = tracks.velocity + fresh / weight * (velocity - tracks.velocity)
    return np.where(tracks.weight == 0, velocity, mean), weight


def age_class(age_h: Column, edges_h: Sequence[float] = AGE_CLASS_EDGES_H) -> Integers:
    """The number of the age class; an age before the publication belongs to the first."""
    return np.searchsorted(np.array(edges_h), column(age_h), side="right").astype(np.int64)


@dataclass(frozen=True, slots=True)
class Norms:
    """What is usual: count, mean and squared deviations of log(1 + views/h), a row for a channel's age class.

    Count a video once in an age class. Merging is exact in any order (Chan, Golub and LeVeque, 1979).
    """

    videos: Floats
    mean: Floats
    squares: Floats

    @classmethod
    def new(cls, rows: int) -> Self:
        return cls(np.zeros(rows), np.zeros(rows), np.zeros(rows))

    @classmethod
    def of_velocities(cls, velocity: Column) -> Self:
        """One row for each velocity, to be merged; a row for an unknown velocity is empty."""
        logs = _log_velocity(column(velocity))
        known = np.isfinite(logs)
        return cls(known.astype(np.float64), np.where(known, logs, 0.0), np.zeros(len(logs)))

    def merge(self, other: Norms) -> Norms:
        """Row by row."""
        videos = self.videos + other.videos
        share = np.divide(other.videos, videos, out=np.zeros_like(videos), where=videos > 0)
        apart = other.mean - self.mean
        squares = self.squares + other.squares + apart**2 * self.videos * share
        return Norms(videos, self.mean + apart * share, squares)


@dataclass(frozen=True, slots=True)
class Relative:
    """`ratio`: velocity over the usual one, 1 as usual. `z`: how many deviations above, on the log scale."""

    ratio: Floats
    z: Floats


def relative_velocity(
    velocity: Column, channel: Norms, cohort: Norms, prior_videos: float = 4.0, least_spread: float = 0.25
) -> Relative:
    """Velocity against the channel's norm for that age, drawn towards the cohort's where the channel has
    few videos.

    The norm is the posterior of a normal-inverse-gamma prior that weighs as much as `prior_videos`
    videos of the cohort (Gelman et al., Bayesian Data Analysis, 3.3), on the scale log(1 + views/h); views
    taken back count as no growth. NaN where the velocity is unknown or neither norm has a video.
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
    """The velocities (or growth rates) of videos of one age class and category, as a mergeable t-digest.

    A t-digest (Dunning, 2019) of at most `centroids` centroids, on the scale asinh, which keeps the sign
    and tames the tail; as bytes about 16 times that many. To forget, keep one a UTC day and merge the
    last days.
    """

    __slots__ = ("_digest", "_norm")

    def __init__(self, centroids: int = 100) -> None:
        self._digest = TDigest(max_centroids=centroids)
        self._norm: tuple[float, float, float] | None = None

    def __len__(self) -> int:
        return self._digest.n_values

    def observe(self, values: Column) -> None:
        """Take in velocities; unknown ones are left out."""
        scaled = to_scale(values)
        self.observe_scaled(scaled[np.isfinite(scaled)].tolist())

    def observe_scaled(self, known: list[float]) -> None:
        """Take in what `to_scale` gave."""
        if not known:
            return
        self._digest.batch_update(known)
        if self._norm is not None:
            self._norm = _with(self._norm, known)

    def percentile(self, values: Column) -> Floats:
        """The share in (0, 1) of the cohort below each value, ties half; NaN for NaN or while the cohort
        is empty.

        Drawn to ½ by half a video at either end, so that a small cohort says little and no share is 0 or 1.
        """
        return percentiles([None] * len(column(values)), values, {None: self})

    def norm(self) -> tuple[float, float, float]:
        """Count, mean and squared deviations of log(1 + views/h), a row of `Norms`, to a centroid's width."""
        if not len(self):
            return 0.0, 0.0, 0.0
        if self._norm is None:
            centres, weights = np.array(self._digest.centroids, dtype=np.float64).T
            logs = _log_velocity(np.sinh(centres))
            mean = float(logs @ weights) / len(self)
            self._norm = float(len(self)), mean, float(weights @ (logs - mean) ** 2)
        return self._norm

    def below(self, scaled: list[float]) -> list[float]:
        """How many of the cohort's values are no greater than each of these, which are on its scale."""
        values = len(self)
        return [values * share for share in self._digest.cdf_vec(scaled)]

    @classmethod
    def merge(cls, cohorts: Iterable[Cohort], centroids: int = 100) -> Self:
        """All of them in one; none of them changes."""
        merged = cls(centroids)
        for cohort in cohorts:
            if len(cohort):
                merged._digest = merged._digest.merge(cohort._digest)
        merged._digest.max_centroids = centroids
        return merged

    def to_bytes(self) -> bytes:
        """For storage; `from_bytes` gives the same future."""
        return bytes(self._digest.to_bytes())

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        """Raises ValueError where `stored` is no digest."""
        cohort = cls()
        cohort._digest = TDigest.from_bytes(stored)
        return cohort


def percentiles(keys: Sequence[Key], values: Column, cohorts: Mapping[Key, Cohort]) -> Floats:
    """Each value's percentile in its key's cohort, (age class, category) say; NaN where there is none."""
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


def to_scale(values: Column) -> Floats:
    """Velocities, or growth rates, on a cohort's scale."""
    scaled: Floats = np.arcsinh(column(values))
    return scaled


def _with(norm: tuple[float, float, float], scaled: Iterable[float]) -> tuple[float, float, float]:
    """A norm with a few more values of a cohort's scale (Welford, 1962)."""
    count, mean, squares = norm
    for value in scaled:
        log = math.log1p(math.sinh(value)) if value > 0 else 0.0
        count, apart = count + 1, log - mean
        mean += apart / count
        squares += apart * (log - mean)
    return count, mean, squares


def growth_rate(velocity: Column, acceleration: Column) -> Floats:
    """Acceleration an hour as a share of the velocity, which counts 1 view/h more: finite at a standstill."""
    return column(acceleration) / (np.abs(column(velocity)) + 1.0)


@dataclass(frozen=True, slots=True)
class ViralWeights:
    """What counts how much in `viral_score`, and how far the parts say the same."""

    cohort: float = 0.5
    channel: float = 0.3
    growth: float = 0.2
    correlation: float = 0.2


def viral_score(
    cohort_percentile: Column,
    channel_z: Column,
    growth_percentile: Column,
    weights: ViralWeights | None = None,
) -> Floats:
    """How unusual a video's growth is, in [0, 1]: ½ is ordinary, 0.95 about one in twenty.

    Three measures of excess are combined: the velocity's percentile among videos of the same age class and
    category, its deviation from the channel's own norm for that age (z, as a percentile by the logistic
    approximation of the normal, 1.702 z), and the percentile of its growth rate among the same videos.
    The rule is the weighted logit method for percentiles, score = logistic(Σ wᵢ logit pᵢ / √(Σᵢⱼ wᵢ wⱼ ρᵢⱼ)),
    ρᵢᵢ = 1 (Mudholkar and George, 1979, who have equal weights; Strube, 1985, for dependent parts; ρ
    is `correlation`). For ordinary videos it is about uniform, so a threshold is a share of the
    videos. A part that is NaN is left out with its weight; with none left the score is NaN.
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
