"""The clock of three zones: when a video is due, and who goes first when more is due than the budget pays.

A hot video (under a day old) is sampled hourly, a warm one (up to a week) every 6 h, a cold one daily.
Within a zone the interval adapts to the video, within bounds. A sample's worth is the information it is
expected to bring about the video's velocity; `allocate` spends a short budget by it, after two promises:
due hot videos first, then whoever could otherwise be left waiting for more than `patience` times its
interval. `stretches` says by how much the zones must slow down for a day's budget to pay for them. All
columns have one element a video; hours throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from maia.learning.velocity import Column, Floats, Integers, column, growth_rate

Booleans = npt.NDArray[np.bool_]


class Zone(IntEnum):
    """In the order of precedence."""

    HOT = 0
    WARM = 1
    COLD = 2


@dataclass(frozen=True, slots=True)
class ZoneSettings:
    """Where the zones end, how often each is sampled, and how far that may adapt."""

    hot_until_h: float = 24.0
    warm_until_h: float = 168.0
    hot_interval_h: float = 1.0
    warm_interval_h: float = 6.0
    cold_interval_h: float = 24.0
    fastest: float = 0.5
    """The least share of the zone's interval, for accelerating videos."""
    slowest: float = 3.0
    """The greatest, for videos that hardly move."""
    worthwhile_views: float = 10.0
    """A video that gains fewer in its zone's interval waits in proportion longer."""
    patience: float = 3.0
    """How many of its intervals a video waits at most while the budget makes it possible."""
    volatility: float = 1.0
    """Variance of log velocity that builds up while the age grows e-fold."""
    ignorance: float = 1.0
    """Variance of the log velocity of a video whose velocity is not known yet."""
    noise: float = 0.04
    """Variance of one sample's log velocity besides that of counting."""

    def __post_init__(self) -> None:
        if not 0 < self.hot_until_h < self.warm_until_h:
            raise ValueError("the zones must be one after the other: 0 < hot_until_h < warm_until_h")
        if min(self.intervals_h) <= 0 or not 0 < self.fastest <= 1 <= self.slowest:
            raise ValueError("intervals must be positive, fastest at most 1 and slowest at least 1")
        if self.patience < 1 or min(self.worthwhile_views, self.volatility, self.ignorance, self.noise) <= 0:
            raise ValueError("patience must be at least 1, worthwhile_views and the variances positive")

    @property
    def intervals_h(self) -> tuple[float, float, float]:
        """By zone."""
        return self.hot_interval_h, self.warm_interval_h, self.cold_interval_h


DEFAULTS: Final = ZoneSettings()


def zone_of(age_h: Column, settings: ZoneSettings = DEFAULTS, *, pinned: Column | None = None) -> Integers:
    """Each video's zone; before its publication a video is hot. `pinned` overrules where it is not None.

    Raises ValueError for an unknown age: where the publication is unknown, count from the discovery.
    """
    age = column(age_h)
    if np.isnan(age).any():
        row = int(np.argmax(np.isnan(age)))
        raise ValueError(f"row {row}: the age is unknown; where the publication is, count from the discovery")
    zones = np.searchsorted(np.array([settings.hot_until_h, settings.warm_until_h]), age, side="right")
    # A video is warm, not cold, at the very end of its week.
    zones = np.where(age == settings.warm_until_h, Zone.WARM, zones)
    if pinned is not None:
        pins = column(pinned)
        zones = np.where(np.isnan(pins), zones, pins)
    return zones.astype(np.int64)


def interval_h(
    zones: Integers, velocity: Column, acceleration: Column, settings: ZoneSettings = DEFAULTS
) -> Floats:
    """How long each video waits after a sample: its zone's interval times a factor in [fastest, slowest].

    A video whose velocity would grow by the share g of itself within the zone's interval waits 1/(1 + g)
    of it. One that gains only n of `worthwhile_views` in it waits worthwhile_views/n times as long. Where
    velocity or acceleration is unknown, the interval stays the zone's.
    """
    base = np.array(settings.intervals_h)[zones]
    gains = np.abs(column(velocity)) * base
    quickening = np.maximum(np.nan_to_num(growth_rate(velocity, acceleration)), 0.0) * base
    slower = np.maximum(settings.worthwhile_views / np.maximum(np.nan_to_num(gains, nan=np.inf), 1e-9), 1.0)
    factor = np.where(slower > 1, slower, 1 / (1 + quickening))
    waits: Floats = base * np.clip(factor, settings.fastest, settings.slowest)
    return waits


def information(
    age_h: Column,
    waited_h: Column,
    velocity: Column,
    acceleration: Column,
    settings: ZoneSettings = DEFAULTS,
) -> Floats:
    """Nats that a sample now is expected to tell about each video's log velocity.

    I = ½ ln(1 + S/N), a Gaussian measurement's mutual information. What may have happened since the last
    sample, w = waited_h ago at age a − w, is S = volatility · ln(a / (a − w)) + (g w)²: a random walk in
    the logarithm of age (so growth that decays as a power of age is no news) and the trend g,
    acceleration over velocity; a velocity not known yet adds `ignorance`. The measurement errs by N =
    noise + 1/(1 + |velocity| w), of which the second part is the counting error of the views expected. So
    young, quickening and much-watched videos come first, dead ones last.
    """
    age = np.maximum(column(age_h), 0.0)
    waited = np.clip(column(waited_h), 0.0, age)
    known = column(velocity)
    # One more hour at either end keeps the very first hour finite.
    walked = settings.volatility * (np.log1p(age) - np.log1p(age - waited))
    trend = np.nan_to_num(growth_rate(known, acceleration)) * waited
    signal = walked + trend**2 + np.where(np.isnan(known), settings.ignorance, 0.0)
    expected = np.abs(np.nan_to_num(known, nan=settings.worthwhile_views)) * waited
    gained: Floats = 0.5 * np.log1p(signal / (settings.noise + 1 / (1 + expected)))
    return gained


@dataclass(frozen=True, slots=True)
class Allocation:
    """Who is sampled now, in order, and what the budget could not pay."""

    chosen: Integers
    """Rows, most urgent first."""
    due: Mapping[Zone, int]
    deferred: Mapping[Zone, int]
    starving: int
    """Left out although they have waited `patience` intervals, or will have before the next round."""

    @property
    def degraded(self) -> bool:
        """More was due than the budget pays."""
        return any(self.deferred.values())

    @property
    def impossible(self) -> bool:
        """The budget can't keep the promise that nobody starves; `maia status` says so."""
        return self.starving > 0 or self.deferred[Zone.HOT] > 0


def allocate(
    zones: Integers,
    age_h: Column,
    overdue_h: Column,
    intervals: Floats,
    velocity: Column,
    acceleration: Column,
    *,
    budget: int,
    next_round_h: float,
    budget_per_h: float = 0.0,
    settings: ZoneSettings = DEFAULTS,
) -> Allocation:
    """Choose at most `budget` of the videos that are due: those with overdue_h = now − next_due_at ≥ 0.

    First the hot ones, longest waiting (in intervals) first. Then, by earliest deadline, as many of the
    others as must be sampled now for all to be sampled before `patience` intervals are over, if
    `budget_per_h` samples an hour can be spent on them from the next round on (leave out what the hot
    ones and those not yet due will take); earliest deadline first keeps every deadline that can be kept
    (Liu and Layland, 1973). What is left goes by `information`, most first.
    """
    if not next_round_h > 0:
        raise ValueError(f"the next round must be some time ahead, not {next_round_h} h")
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
    """How many, by deadline, must go now lest one starve: the greatest excess of demand over supply."""
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
    """How much each zone's intervals must grow, and what even that can't make the budget pay."""

    factors: Mapping[Zone, float]
    shortfall_per_h: float

    @property
    def impossible(self) -> bool:
        return self.shortfall_per_h > 0


def stretches(
    demand_per_h: Mapping[Zone, float], budget_per_h: float, settings: ZoneSettings = DEFAULTS
) -> Stretches:
    """Share a budget among the zones' demands (the sum of 1/interval over a zone's videos).

    The zones whose samples tell least slow down first: cold up to `patience` times, then warm. Hot keeps
    its hour; if that, with the others at their slowest, costs more than the budget, the rest is the
    shortfall.
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
