"""The sampling schedule: when a video is due, and which videos go first if the budget can't pay for all.

There are three zones. A hot video (under a day old) is sampled hourly, a warm one (up to a week) every 6 h, a
cold one daily. Within bounds, the interval adapts to the video. If the budget is short, `allocate` samples
the due hot videos first, then those that would otherwise wait longer than `patience` times their interval,
then those whose sample is expected to tell most about their velocity. `stretches` says by how much the zones
must slow down to fit a day's budget. All columns have one element per video; all times are in hours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np

from maia.learning.velocity import Booleans, ColumnLike, Floats, Integers, column, growth_rate


class Zone(IntEnum):
    """How often a video is sampled; the most urgent zone comes first."""

    HOT = 0
    WARM = 1
    COLD = 2


@dataclass(frozen=True, slots=True)
class ZoneSettings:
    """Up to which age each zone goes, how often it is sampled, and how far that adapts to a video."""

    hot_until_h: float = 24.0
    warm_until_h: float = 168.0
    hot_interval_h: float = 1.0
    warm_interval_h: float = 6.0
    cold_interval_h: float = 24.0
    fastest: float = 0.5
    """Shortest interval, as a multiple of the zone's, for accelerating videos."""
    slowest: float = 3.0
    """Longest interval, as a multiple of the zone's, for videos that hardly grow."""
    worthwhile_views: float = 10.0
    """A video that gains fewer views than this in its zone's interval waits proportionally longer."""
    patience: float = 3.0
    """How many of its intervals a video waits at most, if the budget allows."""
    volatility: float = 1.0
    """Variance that log velocity gains while the age grows by the factor e."""
    ignorance: float = 1.0
    """Variance of log velocity while a video's velocity is not known yet."""
    noise: float = 0.04
    """Variance of one sample's log velocity, in addition to that of counting."""

    def __post_init__(self) -> None:
        if not 0 < self.hot_until_h < self.warm_until_h:
            raise ValueError("the zones must be in order: 0 < hot_until_h < warm_until_h")
        if min(self.intervals_h) <= 0 or not 0 < self.fastest <= 1 <= self.slowest:
            raise ValueError("intervals must be positive, fastest at most 1 and slowest at least 1")
        if self.patience < 1 or min(self.worthwhile_views, self.volatility, self.ignorance, self.noise) <= 0:
            raise ValueError("patience must be at least 1, worthwhile_views and the variances positive")

    @property
    def intervals_h(self) -> tuple[float, float, float]:
        """The interval of each zone."""
        return self.hot_interval_h, self.warm_interval_h, self.cold_interval_h


DEFAULTS: Final = ZoneSettings()


@dataclass(frozen=True, slots=True)
class ForecastIntervals:
    """How far a video's forecast changes its wait."""

    usual_chance: float = 0.02
    """The chance to be in the top 5 % at which the wait stays as it is. Most videos have a lower one."""
    sooner: float = 2.0
    """By how much a wait is divided at most."""
    later: float = 1.5
    """By how much it is multiplied at most: less, as quota that nobody needs is not worth saving."""
    least_outcomes: float = 200.0
    """How many outcomes of its age class the forecasts must have seen to be believed."""

    def __post_init__(self) -> None:
        if not 0 < self.usual_chance < 1 or min(self.sooner, self.later) < 1:
            raise ValueError("usual_chance must be between 0 and 1, sooner and later at least 1")


FORECAST_INTERVALS: Final = ForecastIntervals()


def zone_of(
    age_h: ColumnLike, settings: ZoneSettings = DEFAULTS, *, pinned: ColumnLike | None = None
) -> Integers:
    """Each video's zone: `pinned` if that is not None, else by age. A video not published yet is hot.

    Raises ValueError for an unknown age: if the publication date is unknown, count from the discovery.
    """
    age = column(age_h)
    if np.isnan(age).any():
        row = int(np.argmax(np.isnan(age)))
        raise ValueError(
            f"row {row}: the age is unknown; without a publication date, count from the discovery"
        )
    zones = np.searchsorted(np.array([settings.hot_until_h, settings.warm_until_h]), age, side="right")
    # A video that is exactly a week old is still warm.
    zones = np.where(age == settings.warm_until_h, Zone.WARM, zones)
    if pinned is not None:
        pins = column(pinned)
        zones = np.where(np.isnan(pins), zones, pins)
    return zones.astype(np.int64)


def interval_h(
    zones: Integers, velocity: ColumnLike, acceleration: ColumnLike, settings: ZoneSettings = DEFAULTS
) -> Floats:
    """How long each video waits after a sample: its zone's interval times a factor in [fastest, slowest].

    If a video's velocity would grow by the factor 1 + g within the zone's interval, the factor is 1/(1 + g).
    If the video would gain only n views in that interval, fewer than `worthwhile_views`, the factor is
    worthwhile_views/n. If velocity or acceleration is unknown, it is 1.
    """
    base = np.array(settings.intervals_h)[zones]
    gains = np.abs(column(velocity)) * base
    quickening = np.maximum(np.nan_to_num(growth_rate(velocity, acceleration)), 0.0) * base
    slower = np.maximum(settings.worthwhile_views / np.maximum(np.nan_to_num(gains, nan=np.inf), 1e-9), 1.0)
    factor = np.where(slower > 1, slower, 1 / (1 + quickening))
    waits: Floats = base * np.clip(factor, settings.fastest, settings.slowest)
    return waits


def forecast_factor(
    top_chance: ColumnLike, outcomes: ColumnLike, settings: ForecastIntervals = FORECAST_INTERVALS
) -> Floats:
    """By how much each video's wait changes by its chance to gain as much as the top 5 % of its age.

    To keep the sum of c/n small, where n samples of a video are taken and c is what its error costs, samples
    go in proportion to √c (Neyman's allocation, 1934). What an error costs is taken to be the chance that the
    video is one of the top. So the factor is √(usual_chance / chance), within [1/sooner, later]. It is 1
    where the chance is unknown, or where the forecasts of its age have seen too few `outcomes`.
    """
    chance, seen = column(top_chance), column(outcomes)
    wanted = np.sqrt(settings.usual_chance / np.maximum(chance, 1e-9))
    known = np.isfinite(chance) & (np.nan_to_num(seen) >= settings.least_outcomes)
    factor: Floats = np.where(known, np.clip(wanted, 1 / settings.sooner, settings.later), 1.0)
    return factor


def within_zone(waits_h: Floats, zones: Integers, settings: ZoneSettings = DEFAULTS) -> Floats:
    """The waits, none outside of [fastest, slowest] times its zone's interval."""
    base = np.array(settings.intervals_h)[zones]
    bounded: Floats = np.clip(waits_h, settings.fastest * base, settings.slowest * base)
    return bounded


def information(
    age_h: ColumnLike,
    waited_h: ColumnLike,
    velocity: ColumnLike,
    acceleration: ColumnLike,
    settings: ZoneSettings = DEFAULTS,
) -> Floats:
    """The information that a sample taken now is expected to give about each video's log velocity, in nats.

    I = ½ ln(1 + S/N), the mutual information of a Gaussian measurement. The signal S is how much log velocity
    may have changed since the last sample, w = waited_h ago at age a − w: S = volatility · ln(a / (a − w)) +
    (g w)². The first part is a random walk in the logarithm of age, so growth that decays as a power of age
    is no news; the second is the trend g, acceleration over velocity. A velocity not known yet adds
    `ignorance`. The noise is N = noise + 1/(1 + |velocity| w), whose second part is the counting error of the
    expected views. So young, accelerating and much-watched videos come first, and dead ones last.
    """
    age = np.maximum(column(age_h), 0.0)
    waited = np.clip(column(waited_h), 0.0, age)
    known = column(velocity)
    # Adding an hour to both ages keeps the first hour finite.
    walked = settings.volatility * (np.log1p(age) - np.log1p(age - waited))
    trend = np.nan_to_num(growth_rate(known, acceleration)) * waited
    signal = walked + trend**2 + np.where(np.isnan(known), settings.ignorance, 0.0)
    expected = np.abs(np.nan_to_num(known, nan=settings.worthwhile_views)) * waited
    gained: Floats = 0.5 * np.log1p(signal / (settings.noise + 1 / (1 + expected)))
    return gained


def airing_wait_h(until_h: ColumnLike, settings: ZoneSettings = DEFAULTS) -> Floats:
    """How long to wait before the next sample of a broadcast that is scheduled to start in `until_h` hours.

    Until its scheduled start, but at most a cold zone's interval, as schedules change. After that start, a
    hot zone's interval, until the broadcast goes live.
    """
    waits: Floats = np.clip(column(until_h), settings.hot_interval_h, settings.cold_interval_h)
    return waits


@dataclass(frozen=True, slots=True)
class Allocation:
    """The videos to sample now, and how many others the budget can't pay for."""

    chosen: Integers
    """Row numbers, most urgent first."""
    due: Mapping[Zone, int]
    deferred: Mapping[Zone, int]
    starving: int
    """Videos left out although they have waited `patience` intervals, or will have before the next round."""

    @property
    def degraded(self) -> bool:
        """Whether more videos are due than the budget can pay for."""
        return any(self.deferred.values())

    @property
    def impossible(self) -> bool:
        """Whether the budget can't prevent that videos wait too long, which `maia status` reports."""
        return self.starving > 0 or self.deferred[Zone.HOT] > 0


def allocate(
    zones: Integers,
    age_h: ColumnLike,
    overdue_h: ColumnLike,
    intervals: Floats,
    velocity: ColumnLike,
    acceleration: ColumnLike,
    *,
    budget: int,
    next_round_h: float,
    budget_per_h: float = 0.0,
    settings: ZoneSettings = DEFAULTS,
) -> Allocation:
    """Choose at most `budget` of the videos that are due: those with overdue_h = now − next_due_at ≥ 0.

    Hot videos come first, those that have waited longest (in intervals) before the others. Then come as many
    other videos, by earliest deadline, as must be sampled now so that all can be sampled within `patience`
    intervals. `budget_per_h` is how many samples an hour can be spent on them from the next round on, without
    those for hot videos and for videos not yet due. Earliest deadline first keeps every deadline that can be
    kept (Liu and Layland, 1973). The rest of the budget goes to the videos with the highest `information`.
    """
    if not next_round_h > 0:
        raise ValueError(f"the next round must be in the future, not in {next_round_h} h")
    overdue = column(overdue_h)
    due = overdue >= 0
    slack_h = (settings.patience - 1) * intervals - overdue
    hot, others = np.flatnonzero(due & (zones == Zone.HOT)), np.flatnonzero(due & (zones != Zone.HOT))
    hot = hot[np.argsort(slack_h[hot] / intervals[hot], kind="stable")][: max(budget, 0)]
    others = others[np.argsort(slack_h[others], kind="stable")]
    room = max(budget, 0) - len(hot)
    urgent = others[: min(room, _needed_now(slack_h[others], next_round_h, budget_per_h))]
    rest = others[len(urgent) :]
    worth = information(age_h, overdue + intervals, velocity, acceleration, settings)[rest]
    rest = rest[np.argsort(-worth, kind="stable")][: room - len(urgent)]
    chosen = np.concatenate((hot, urgent, rest))
    left = due.copy()
    left[chosen] = False
    starving = int((left & (slack_h < next_round_h)).sum())
    return Allocation(chosen, _by_zone(zones, due), _by_zone(zones, left), starving)


def _needed_now(slack_h: Floats, next_round_h: float, budget_per_h: float) -> int:
    """How many must be sampled now so that none waits too long: the largest excess of demand over supply."""
    if not len(slack_h):
        return 0
    rounds = np.floor(np.maximum(slack_h, 0.0) / next_round_h)
    supply = np.floor(rounds * budget_per_h * next_round_h)
    return max(0, int(np.max(np.arange(1, len(slack_h) + 1) - supply)))


def _by_zone(zones: Integers, member: Booleans) -> dict[Zone, int]:
    counts = np.bincount(zones[member], minlength=len(Zone))
    return {zone: int(counts[zone]) for zone in Zone}


@dataclass(frozen=True, slots=True)
class Stretches:
    """By how much each zone's intervals must grow, and how many samples an hour are missing even then."""

    factors: Mapping[Zone, float]
    shortfall_per_h: float

    @property
    def impossible(self) -> bool:
        return self.shortfall_per_h > 0


def stretches(
    demand_per_h: Mapping[Zone, float], budget_per_h: float, settings: ZoneSettings = DEFAULTS
) -> Stretches:
    """Share a budget among the zones' demands (the sum of 1/interval over a zone's videos).

    The cold zone slows down first, up to `patience` times, then the warm zone. The hot zone never slows down.
    What the budget can't pay for even then is the shortfall.
    """
    factors = dict.fromkeys(Zone, 1.0)
    excess = sum(demand_per_h.get(zone, 0.0) for zone in Zone) - budget_per_h
    for zone in (Zone.COLD, Zone.WARM):
        demand = demand_per_h.get(zone, 0.0)
        saved = min(max(excess, 0.0), demand * (1 - 1 / settings.patience))
        if saved > 0:
            slowed = max(demand - saved, demand / settings.patience)
            factors[zone] = demand / slowed if slowed > 0 else settings.patience
            excess -= saved
    return Stretches(factors, excess if excess > 1e-9 else 0.0)
