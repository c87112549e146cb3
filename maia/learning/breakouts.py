"""Breakouts: an online test of each video's views for a rise over what its age and its past let expect.

Samples are joined to blocks that end where the counter moved, so that counts which stand still and then
jump, as YouTube publishes them in batches, are one mean. A block's log velocity is compared with an
expectation that decays as a power of age from a robust running level; the residual e has the variance s²
+ 1/(n + 1), s² a robust running variance (the swing of the day and noise that lasts are in it), n the
views expected. Evidence for a rise by the factor `least_rise` = exp(δ) is the likelihood ratio of two
normals, L = exp(κ δ/var (e − δ/2)), bounded above so that no single block decides, and tempered by κ =
hours/`correlation_h` ≤ 1, since blocks closer than that tell the same.

The test is the Shiryaev–Roberts e-detector of Shin, Ramdas and Rinaldo ("E-detectors", 2023), begun anew
at each instant at the rate of one an hour instead of one a sample: R ← (R + hours) · L, alarm at R ≥ A.
While there is no rise, L's expectation is at most 1, R minus the hours is a supermartingale, and optional
stopping gives a mean time to a false alarm of at least A hours, whatever the sampling. So A = 720 /
`false_alarms_per_month`. The promise is as good as the normal model with its estimated level and
variance; the bench measures it on simulated videos.

It fires once per rise, at the block where R passes A, and is armed again when the velocity has faded by
`least_rise` from its peak, or has stayed up for `plateau_h` and so become the norm. The state is eight
numbers a video. Falling counts are taken as no growth, and never as evidence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from maia.learning.velocity import Column, Floats, column

Booleans = npt.NDArray[np.bool_]
MONTH_H: Final = 720.0
_LARGEST_EXPONENT: Final = 50.0
_MOST_EVIDENCE_H: Final = 1e12


@dataclass(frozen=True, slots=True)
class BreakoutSettings:
    """What counts as a rise and how often to be wrong; hours throughout."""

    false_alarms_per_month: float = 0.05
    """Of one video under watch for 30 days."""
    least_rise: float = 3.0
    """The factor over the expected velocity that is worth an alarm."""
    least_velocity: float = 10.0
    """Views per hour below which nothing is called a breakout."""
    warmup_h: float = 24.0
    """What is seen of a video before it is judged, and one block more."""
    block_h: float = 1.0
    longest_block_h: float = 24.0
    """A block in which the counter does not move ends here, if few views were to be expected."""
    stuck_views: float = 5.0
    """A counter that hides more expected views than these is stuck: its block lasts until it moves."""
    correlation_h: float = 3.0
    level_half_life_h: float = 36.0
    spread_half_life_h: float = 96.0
    initial_spread: float = 0.5
    least_spread: float = 0.15
    decay: float = 0.8
    """The expectation falls as (age + 12 h) to the minus this; a video that fades faster only takes
    longer to alarm."""
    largest_residual: float = 2.5
    """What of a residual counts at most."""
    fade_half_life_h: float = 12.0
    plateau_h: float = 168.0

    def __post_init__(self) -> None:
        if not 0 < self.false_alarms_per_month < MONTH_H:
            raise ValueError("false_alarms_per_month must be above 0 and below one an hour (720)")
        if not self.least_rise > 1:
            raise ValueError("least_rise is a factor above 1")
        if not 0 < self.block_h <= self.longest_block_h:
            raise ValueError("blocks need a positive block_h, no longer than longest_block_h")

    @property
    def alarm_at_h(self) -> float:
        """The evidence that alarms: the mean hours between false alarms that are promised."""
        return MONTH_H / self.false_alarms_per_month


DEFAULTS: Final = BreakoutSettings()
_AGE_OFFSET_H: Final = 12.0
_CONSISTENT: Final = 1.086
"""1/E[min(z², 4)] for a standard normal z: a variance from residuals cut at two deviations is not too
small."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What is kept of each video; NaN is NULL.

    `level` is the log velocity without its decay, `variance` s², `seen_h` the hours judged so far,
    `evidence_h` R, `open_h` and `open_views` the block under way, `risen_h` the hours since the alarm
    (NaN while armed), `peak` the highest smoothed log velocity since.
    """

    level: Floats
    variance: Floats
    seen_h: Floats
    evidence_h: Floats
    open_h: Floats
    open_views: Floats
    risen_h: Floats
    peak: Floats

    @classmethod
    def new(cls, videos: int) -> Self:
        unknown, nothing = np.full(videos, np.nan), np.zeros(videos)
        return cls(unknown, unknown, nothing, nothing, nothing, nothing, unknown, unknown)

    @classmethod
    def of(cls, *columns: Column) -> Self:
        """From the eight columns in order, None for NULL; all None is a video never watched."""
        values = [column(stored) for stored in columns]
        values[2:6] = (np.nan_to_num(sums) for sums in values[2:6])
        return cls(*values)

    def columns(self) -> tuple[Floats, ...]:
        """The eight columns in order, for `of` and for storage."""
        return (
            self.level, self.variance, self.seen_h, self.evidence_h,
            self.open_h, self.open_views, self.risen_h, self.peak,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Observation:
    """The next watch, who breaks out now, and velocity over expectation (NaN where no block ended)."""

    watch: Watch
    fired: Booleans
    ratio: Floats


def observe(
    watch: Watch,
    age_h: Column,
    hours: Column,
    gained: Column,
    settings: BreakoutSettings = DEFAULTS,
    *,
    restarted: Booleans | None = None,
) -> Observation:
    """Take each video's step to its newest sample: its age there, the step's hours and gained views.

    A step that was not measured (hidden, refused, first) has NaN hours and changes nothing; `restarted`
    forgets a video first, as across the methodology epoch.
    """
    if restarted is not None and restarted.any():
        watch = _where(restarted, Watch.new(len(watch.level)), watch)
    step_h, views = column(hours), column(gained)
    stepped = np.isfinite(step_h) & (step_h > 0) & np.isfinite(views)
    open_h = watch.open_h + np.where(stepped, step_h, 0.0)
    open_views = watch.open_views + np.where(stepped, views, 0.0)
    middle_h = np.maximum(column(age_h) - open_h / 2, 0.0)
    damping = settings.decay * np.log(middle_h + _AGE_OFFSET_H)
    usual = np.exp(np.clip(watch.level - damping, -_LARGEST_EXPONENT, _LARGEST_EXPONENT))
    idle = (open_h >= settings.longest_block_h) & ~(usual * open_h >= settings.stuck_views)
    ended = stepped & (open_h >= settings.block_h) & ((views > 0) | idle)
    block_h = np.where(ended, open_h, 1.0)
    judged, fired, ratio = _judge(watch, damping, block_h, np.maximum(open_views, 0.0), settings)
    following = _where(ended, judged, watch)
    following = replace(
        following, open_h=np.where(ended, 0.0, open_h), open_views=np.where(ended, 0.0, open_views)
    )
    return Observation(following, fired & ended, np.where(ended, ratio, np.nan))


def _judge(
    watch: Watch, damping: Floats, hours: Floats, views: Floats, settings: BreakoutSettings
) -> tuple[Watch, Booleans, Floats]:
    """Judge one ended block of each video."""
    new = np.isnan(watch.level)
    log_velocity = np.log((views + 0.5) / hours)
    level = np.where(new, log_velocity + damping, watch.level)
    variance = np.where(new, settings.initial_spread**2, watch.variance)
    expected = np.exp(np.clip(level - damping, -_LARGEST_EXPONENT, _LARGEST_EXPONENT)) * hours
    residual = np.where(new, 0.0, np.log((views + 1) / (expected + 1)))
    unsure = settings.correlation_h / (watch.seen_h + settings.correlation_h)
    total = variance * (1 + unsure) + 1 / (expected + 1)
    armed = np.isnan(watch.risen_h)
    evidence = _evidence(watch.evidence_h, residual, total, hours, settings)
    evidence = np.where(armed & (watch.seen_h >= settings.warmup_h + hours), evidence, 0.0)
    fired = (evidence >= settings.alarm_at_h) & (residual > 0) & (views >= settings.least_velocity * hours)
    level = level + _level_step(watch.seen_h, residual, total, hours, armed, settings)
    excess = _CONSISTENT * np.minimum(residual**2, 4 * total) - 1 / (expected + 1) - variance
    share = np.maximum(
        -np.expm1(-np.log(2) * hours / settings.spread_half_life_h),
        hours / (watch.seen_h + hours + settings.warmup_h),
    )
    spread = np.maximum(variance + np.where(armed & ~new, share * excess, 0.0), settings.least_spread**2)
    evidence = np.where(fired, 0.0, evidence)
    risen_h, peak = _fade(watch, level - damping, hours, fired, settings)
    unchanged = watch.open_h, watch.open_views
    judged = Watch(level, spread, watch.seen_h + hours, evidence, *unchanged, risen_h, peak)
    return judged, fired, np.exp(residual)


def _evidence(
    evidence_h: Floats, residual: Floats, total: Floats, hours: Floats, settings: BreakoutSettings
) -> Floats:
    rise = np.log(settings.least_rise)
    tempering = np.minimum(hours / settings.correlation_h, 1.0)
    ratio = tempering * rise / total * (np.minimum(residual, settings.largest_residual) - rise / 2)
    grown = (evidence_h + hours) * np.exp(np.clip(ratio, -_LARGEST_EXPONENT, _LARGEST_EXPONENT))
    bounded: Floats = np.minimum(grown, _MOST_EVIDENCE_H)
    return bounded


def _level_step(
    seen_h: Floats,
    residual: Floats,
    total: Floats,
    hours: Floats,
    armed: Booleans,
    settings: BreakoutSettings,
) -> Floats:
    """An armed level hardly follows what stands out; after an alarm it follows fast, to see the fading."""
    half_life_h = np.where(armed, settings.level_half_life_h, settings.fade_half_life_h)
    share = np.maximum(
        -np.expm1(-np.log(2) * hours / half_life_h), np.where(armed, hours / (seen_h + hours), 0)
    )
    bound = np.where(armed, 2 * np.sqrt(total), settings.largest_residual)
    moved: Floats = share * np.clip(residual, -bound, bound)
    return moved


def _fade(
    watch: Watch, smoothed: Floats, hours: Floats, fired: Booleans, settings: BreakoutSettings
) -> tuple[Floats, Floats]:
    """How long ago the alarm was, and the peak since; NaN once it has faded or lasted."""
    risen_h = np.where(fired, 0.0, watch.risen_h + hours)
    peak = np.where(fired, smoothed, np.fmax(watch.peak, smoothed))
    over = (smoothed < peak - np.log(settings.least_rise)) | (risen_h >= settings.plateau_h)
    over &= ~fired
    return np.where(over, np.nan, risen_h), np.where(over | np.isnan(risen_h), np.nan, peak)


def _where(chosen: Booleans, one: Watch, other: Watch) -> Watch:
    pairs = zip(one.columns(), other.columns(), strict=True)
    return Watch(*(np.where(chosen, first, second) for first, second in pairs))
