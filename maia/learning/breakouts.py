"""Breakout detection: an online test for views that grow faster than a video's age and history suggest.

Samples are joined into blocks that end where the counter moved. YouTube publishes counts in batches, so a
counter may stand still and then jump; a block averages over that. A block's log velocity is compared with an
expectation, which starts from a robust running level and decays as a power of age. The residual e has the
variance s² + 1/(n + 1), where s² is a robust running variance (it includes daily swings and lasting noise)
and n the number of views expected. The evidence for a rise by the factor `least_rise` = exp(δ) is the
likelihood ratio of two normal distributions, L = exp(κ δ/var (e − δ/2)). It is bounded above so that no
single block decides, and tempered by κ = hours/`correlation_h` ≤ 1, as blocks closer than that are
correlated.

The test is the Shiryaev–Roberts e-detector of Shin, Ramdas and Rinaldo ("E-detectors", 2023), with one
restart per hour instead of one per sample: R ← (R + hours) · L, with an alarm at R ≥ A. While there is no
rise, L's expectation is at most 1, R minus the hours is a supermartingale, and by optional stopping the mean
time to a false alarm is at least A hours, however often a video is sampled. So A = 720 /
`false_alarms_per_month`. This guarantee is only as good as the normal model with its estimated level and
variance; the benchmark measures it on simulated videos.

The test fires once per rise, at the block where R passes A. It is armed again when the velocity has fallen
from its peak by the factor `least_rise`, or has stayed high for `plateau_h` and so become normal. The state
is eight numbers per video. A falling count is treated as no growth, never as evidence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self, TypeAlias

import numpy as np

from maia.learning.velocity import ColumnLike, Floats, column

if TYPE_CHECKING:
    import numpy.typing as npt

Booleans: TypeAlias = "npt.NDArray[np.bool_]"
MONTH_H: Final = 720.0
_LARGEST_EXPONENT: Final = 50.0
_MOST_EVIDENCE_H: Final = 1e12


@dataclass(frozen=True, slots=True)
class BreakoutSettings:
    """What counts as a rise, and how often the test may be wrong. All times are in hours."""

    false_alarms_per_month: float = 0.05
    """For one video that is sampled for 30 days."""
    least_rise: float = 3.0
    """The factor over the expected velocity that is worth an alarm."""
    least_velocity: float = 10.0
    """Views per hour below which nothing is called a breakout."""
    warmup_h: float = 24.0
    """How long a video is observed before it can alarm, not counting the first block."""
    block_h: float = 1.0
    longest_block_h: float = 24.0
    """A block in which the counter does not move ends after this time, if few views were expected."""
    stuck_views: float = 5.0
    """If more views than this were expected, a counter that does not move is stuck, and its block lasts until
    it moves."""
    correlation_h: float = 3.0
    level_half_life_h: float = 36.0
    spread_half_life_h: float = 96.0
    initial_spread: float = 0.5
    least_spread: float = 0.15
    decay: float = 0.8
    """The expectation falls as (age + 12 h) to the power of minus this. A video that fades faster only takes
    longer to alarm."""
    largest_residual: float = 2.5
    """Larger residuals count as this much."""
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
        """The evidence needed for an alarm; it is also the mean time between false alarms, in hours."""
        return MONTH_H / self.false_alarms_per_month


DEFAULTS: Final = BreakoutSettings()
_AGE_OFFSET_H: Final = 12.0
_CONSISTENT: Final = 1.086
"""1/E[min(z², 4)] for a standard normal z: a variance from residuals cut at two deviations is not too
small."""


@dataclass(frozen=True, slots=True)
class BreakoutStates:
    """The state of the breakout test for each video; NaN is NULL in the database.

    `level` is the log velocity without its decay, `variance` s², `seen_h` the hours judged so far,
    `evidence_h` R, `open_h` and `open_views` the current block, `risen_h` the hours since the alarm
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
    def of(cls, *columns: ColumnLike) -> Self:
        """From the eight columns in order, None for NULL; all None is a video without samples."""
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
    """The new states, which videos break out now, and velocity over expectation (NaN if no block ended)."""

    states: BreakoutStates
    fired: Booleans
    ratio: Floats


def observe(
    states: BreakoutStates,
    age_h: ColumnLike,
    hours: ColumnLike,
    gained: ColumnLike,
    settings: BreakoutSettings = DEFAULTS,
    *,
    restarted: Booleans | None = None,
) -> Observation:
    """Advance each video by the step to its newest sample: its age then, the step's hours and gained views.

    A step that was not measured (hidden, refused, first) has NaN hours and changes nothing. Videos that are
    `restarted` start from a new state, for example when YouTube's counting method has changed.
    """
    if restarted is not None and restarted.any():
        states = _where(restarted, BreakoutStates.new(len(states.level)), states)
    step_h, views = column(hours), column(gained)
    stepped = np.isfinite(step_h) & (step_h > 0) & np.isfinite(views)
    open_h = states.open_h + np.where(stepped, step_h, 0.0)
    open_views = states.open_views + np.where(stepped, views, 0.0)
    middle_h = np.maximum(column(age_h) - open_h / 2, 0.0)
    damping = settings.decay * np.log(middle_h + _AGE_OFFSET_H)
    usual = np.exp(np.clip(states.level - damping, -_LARGEST_EXPONENT, _LARGEST_EXPONENT))
    idle = (open_h >= settings.longest_block_h) & ~(usual * open_h >= settings.stuck_views)
    ended = stepped & (open_h >= settings.block_h) & ((views > 0) | idle)
    block_h = np.where(ended, open_h, 1.0)
    judged, fired, ratio = _judge(states, damping, block_h, np.maximum(open_views, 0.0), settings)
    following = _where(ended, judged, states)
    following = replace(
        following, open_h=np.where(ended, 0.0, open_h), open_views=np.where(ended, 0.0, open_views)
    )
    return Observation(following, fired & ended, np.where(ended, ratio, np.nan))


def _judge(
    states: BreakoutStates, damping: Floats, hours: Floats, views: Floats, settings: BreakoutSettings
) -> tuple[BreakoutStates, Booleans, Floats]:
    """Judge one ended block of each video."""
    new = np.isnan(states.level)
    log_velocity = np.log((views + 0.5) / hours)
    level = np.where(new, log_velocity + damping, states.level)
    variance = np.where(new, settings.initial_spread**2, states.variance)
    expected = np.exp(np.clip(level - damping, -_LARGEST_EXPONENT, _LARGEST_EXPONENT)) * hours
    residual = np.where(new, 0.0, np.log((views + 1) / (expected + 1)))
    unsure = settings.correlation_h / (states.seen_h + settings.correlation_h)
    total = variance * (1 + unsure) + 1 / (expected + 1)
    armed = np.isnan(states.risen_h)
    evidence = _evidence(states.evidence_h, residual, total, hours, settings)
    evidence = np.where(armed & (states.seen_h >= settings.warmup_h + hours), evidence, 0.0)
    fired = (evidence >= settings.alarm_at_h) & (residual > 0) & (views >= settings.least_velocity * hours)
    level = level + _level_step(states.seen_h, residual, total, hours, armed, settings)
    excess = _CONSISTENT * np.minimum(residual**2, 4 * total) - 1 / (expected + 1) - variance
    share = np.maximum(
        -np.expm1(-np.log(2) * hours / settings.spread_half_life_h),
        hours / (states.seen_h + hours + settings.warmup_h),
    )
    spread = np.maximum(variance + np.where(armed & ~new, share * excess, 0.0), settings.least_spread**2)
    evidence = np.where(fired, 0.0, evidence)
    risen_h, peak = _fade(states, level - damping, hours, fired, settings)
    unchanged = states.open_h, states.open_views
    judged = BreakoutStates(level, spread, states.seen_h + hours, evidence, *unchanged, risen_h, peak)
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
    """How far the level moves: little for outliers while armed, fast after an alarm to notice the fading."""
    half_life_h = np.where(armed, settings.level_half_life_h, settings.fade_half_life_h)
    share = np.maximum(
        -np.expm1(-np.log(2) * hours / half_life_h), np.where(armed, hours / (seen_h + hours), 0)
    )
    bound = np.where(armed, 2 * np.sqrt(total), settings.largest_residual)
    moved: Floats = share * np.clip(residual, -bound, bound)
    return moved


def _fade(
    states: BreakoutStates, smoothed: Floats, hours: Floats, fired: Booleans, settings: BreakoutSettings
) -> tuple[Floats, Floats]:
    """The hours since the alarm, and the peak since then; NaN once the rise has faded or become normal."""
    risen_h = np.where(fired, 0.0, states.risen_h + hours)
    peak = np.where(fired, smoothed, np.fmax(states.peak, smoothed))
    over = (smoothed < peak - np.log(settings.least_rise)) | (risen_h >= settings.plateau_h)
    over &= ~fired
    return np.where(over, np.nan, risen_h), np.where(over | np.isnan(risen_h), np.nan, peak)


def _where(chosen: Booleans, one: BreakoutStates, other: BreakoutStates) -> BreakoutStates:
    pairs = zip(one.columns(), other.columns(), strict=True)
    return BreakoutStates(*(np.where(chosen, first, second) for first, second in pairs))
