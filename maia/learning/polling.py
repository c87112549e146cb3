"""When to look at a channel's uploads: how often is worth it, under a budget of requests.

A channel uploads at rate λ, and a share g of its uploads grows. If it is looked at every I hours, a growing
upload is found at a mean age of I/2. Minimising the total age Σ λ·g·I/2 under a budget of requests Σ 1/I = B
gives I ∝ 1/√(λ·g), the square-root law of crawling (Cho and Garcia-Molina, "Effective page refresh policies",
2003). The intervals are clipped to [15 min, 7 d]; a channel's feed shows 15 uploads, so none waits longer
than in which 10 are expected; priority channels wait 30 min at most. `spacing` meets the budget
with all that.

Both λ and g are posterior means: Gamma for the rate, Beta for the share. A first feed, with 15 dated entries
and their views, tells about both already. Columns have one element per channel; times are in hours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from maia.learning.growth import DEFAULTS as GROWTH
from maia.learning.growth import CurveEvidence, GrowthSettings, looks_growing
from maia.learning.velocity import Booleans, ColumnLike, Floats, column


@dataclass(frozen=True, slots=True)
class PollingSettings:
    """Bounds of the intervals, and what is assumed of a channel before anything is known."""

    shortest_h: float = 0.25
    longest_h: float = 168.0
    priority_h: float = 0.5
    """The longest interval of a priority channel."""
    most_missed: float = 10.0
    """No channel waits longer than it takes for this many uploads; its feed shows 15."""
    rate_per_h: float = 1 / 72
    """The prior's uploads an hour."""
    rate_weight: float = 1.0
    """How many uploads the prior of the rate is worth."""
    growing_share: float = 0.05
    """The prior's share of uploads that grow."""
    growing_weight: float = 2.0
    """How many judged uploads the prior of the share is worth."""
    half_life_h: float = 720.0
    """After this time, evidence counts half."""

    def __post_init__(self) -> None:
        if not 0 < self.shortest_h <= self.priority_h <= self.longest_h:
            raise ValueError("intervals must be in order: 0 < shortest_h ≤ priority_h ≤ longest_h")
        if min(self.rate_per_h, self.rate_weight, self.growing_weight, self.half_life_h) <= 0:
            raise ValueError("the priors' rates and weights and half_life_h must be positive")
        if not 0 < self.growing_share < 1 or self.most_missed <= 0:
            raise ValueError("growing_share must be between 0 and 1, and most_missed positive")


DEFAULTS: Final = PollingSettings()


@dataclass(frozen=True, slots=True)
class ChannelEvidence:
    """What is known about channels' uploads, as sums that are discounted by age and merge by addition."""

    uploads: Floats
    watched_h: Floats
    """The time in which those uploads came."""
    growing: Floats
    """Of the judged uploads, how many grew; an estimate counts as its probability."""
    judged: Floats

    @classmethod
    def none(cls, channels: int) -> ChannelEvidence:
        return cls(*(np.zeros(channels) for _ in range(4)))

    def __add__(self, other: ChannelEvidence) -> ChannelEvidence:
        return ChannelEvidence(
            self.uploads + other.uploads,
            self.watched_h + other.watched_h,
            self.growing + other.growing,
            self.judged + other.judged,
        )


def observe(
    evidence: ChannelEvidence,
    *,
    waited_h: ColumnLike,
    uploads: ColumnLike,
    growing: ColumnLike = 0.0,
    judged: ColumnLike = 0.0,
    settings: PollingSettings = DEFAULTS,
) -> ChannelEvidence:
    """Add one look at each channel: new uploads since the last look `waited_h` ago, and what became of
    earlier ones.

    Earlier evidence loses weight by its half-life for the time that has passed.
    """
    waited = np.maximum(column(waited_h), 0.0)
    kept = np.exp2(-waited / settings.half_life_h)
    return ChannelEvidence(
        evidence.uploads * kept + column(uploads),
        evidence.watched_h * kept + waited,
        evidence.growing * kept + column(growing),
        evidence.judged * kept + column(judged),
    )


def first_look(
    ages_h: Sequence[float],
    views: Sequence[int | None],
    views_per_hour: float,
    *,
    is_full: bool,
    channel_age_h: float | None = None,
    curve: CurveEvidence | None = None,
    growth: GrowthSettings = GROWTH,
    settings: PollingSettings = DEFAULTS,
) -> ChannelEvidence:
    """What a channel's first feed tells, as evidence of one channel.

    `ages_h` are the ages of its entries. A full feed (15 entries) tells of the time since its oldest entry;
    one that is not full tells of the channel's whole life, or of `longest_h` if that is unknown. Old entries
    count less. An entry's chance to have grown is read from its views: those of old entries are projected
    back to 24 h.
    """
    ages = np.maximum(np.array(ages_h, dtype=np.float64), 0.0)
    if is_full and len(ages):
        span = float(ages.max())
    else:
        span = max(channel_age_h or settings.longest_h, float(ages.max(initial=0.0)))
    weight = np.exp2(-ages / settings.half_life_h)
    # The hours of the span, each discounted by its age.
    watched = settings.half_life_h / np.log(2) * (1 - np.exp2(-span / settings.half_life_h))
    # The oldest entry of a full feed marks where the span begins, so it is no arrival within it.
    uploads = float(weight.sum()) - (float(weight[ages.argmax()]) if is_full and len(ages) else 0.0)
    chance = looks_growing(ages, [np.nan if v is None else v for v in views], views_per_hour, curve, growth)
    seen = ~np.isnan(chance) & (ages >= 1.0)
    growing, judged = float((weight * chance)[seen].sum()), float(weight[seen].sum())
    return ChannelEvidence(*(np.array([value]) for value in (uploads, watched, growing, judged)))


def rate_per_h(evidence: ChannelEvidence, settings: PollingSettings = DEFAULTS) -> Floats:
    """Posterior mean of each channel's uploads an hour."""
    weight = settings.rate_weight
    rate: Floats = (evidence.uploads + weight) / (evidence.watched_h + weight / settings.rate_per_h)
    return rate


def growing_share(evidence: ChannelEvidence, settings: PollingSettings = DEFAULTS) -> Floats:
    """Posterior mean of the share of each channel's uploads that grow."""
    weight = settings.growing_weight
    share: Floats = (evidence.growing + weight * settings.growing_share) / (evidence.judged + weight)
    return share


def value_per_h(evidence: ChannelEvidence, settings: PollingSettings = DEFAULTS) -> Floats:
    """The growing uploads an hour that are expected of each channel: λ·g."""
    return rate_per_h(evidence, settings) * growing_share(evidence, settings)


@dataclass(frozen=True, slots=True)
class Spacing:
    """What turns values into intervals, for all channels alike, so that the budget is met."""

    scale: float
    """The interval of a channel is scale/√(λ·g), within its bounds."""
    stretch: float = 1.0
    """By how much every interval grows if the budget doesn't even pay for the longest ones."""


def interval_h(
    value: ColumnLike,
    rate: ColumnLike,
    spacing: Spacing,
    *,
    priority: Booleans | Sequence[bool] | None = None,
    settings: PollingSettings = DEFAULTS,
) -> Floats:
    """How long to wait between looks at each channel, given its value λ·g and its rate λ."""
    least, most = _bounds(column(rate), priority, settings)
    waits: Floats = np.clip(spacing.scale / _root(value), least, most) * spacing.stretch
    return waits


def _root(value: ColumnLike) -> Floats:
    root: Floats = np.sqrt(np.maximum(column(value), 1e-12))
    return root


def _bounds(
    rate: Floats, priority: Booleans | Sequence[bool] | None, settings: PollingSettings
) -> tuple[float, Floats]:
    most = np.clip(settings.most_missed / np.maximum(rate, 1e-12), settings.shortest_h, settings.longest_h)
    if priority is not None:
        most = np.where(np.asarray(priority, dtype=bool), np.minimum(most, settings.priority_h), most)
    return settings.shortest_h, most


def spacing(
    value: ColumnLike,
    rate: ColumnLike,
    budget_per_h: float,
    *,
    priority: Booleans | Sequence[bool] | None = None,
    settings: PollingSettings = DEFAULTS,
) -> Spacing:
    """The spacing at which all channels together need at most `budget_per_h` requests an hour.

    If the budget pays for every channel's shortest interval, less is asked. If it doesn't pay for every
    channel's longest, all are stretched alike. Without channels, the next one gets the shortest interval.
    Raises ValueError if the budget is not positive.
    """
    if not budget_per_h > 0:
        raise ValueError(f"the budget must be positive, not {budget_per_h} requests an hour")
    roots = _root(value)
    if not len(roots):
        # Whoever comes first is looked at as often as it may be, until the next spacing.
        return Spacing(0.0)
    least, most = _bounds(column(rate), priority, settings)
    fewest, highest = 1 / most, 1 / least
    largest = float((most * roots).max())
    if fewest.sum() >= budget_per_h:
        return Spacing(largest, float(fewest.sum()) / budget_per_h)
    # In logarithms, as scales differ by orders of magnitude. The number of requests falls as the scale grows.
    low, high = np.log(least * roots.min()), np.log(largest)
    for _ in range(40):
        middle = (low + high) / 2
        asked = float(np.clip(roots * np.exp(-middle), fewest, highest).sum())
        low, high = (middle, high) if asked > budget_per_h else (low, middle)
    return Spacing(float(np.exp(high)))


def mean_age_h(value: ColumnLike, interval: ColumnLike) -> float:
    """The mean age at which growing uploads are found: Σ λ·g·I/2 over Σ λ·g; NaN without channels."""
    weights = column(value)
    if not weights.sum() > 0:
        return float("nan")
    return float((weights * column(interval)).sum() / (2 * weights.sum()))
