"""Share each day's units among the arms of discovery, by what a unit is expected to find.

An arm is a source, or a form of search such as `search:slices`. What counts is early growing videos. Returns
diminish: u units in a day find θ · u^r early growing videos, 0 < r ≤ 1, because an arm's first questions are
its best and its later ones find what it has found already. The counts are over-dispersed Poisson, so the
posterior of θ is a Gamma distribution. Its prior mean is the arm's `prior_yield` times a scale that the arms
of a bucket share; the scale is learnt from all of them (empirical Bayes), so priors need only be right as
ratios. Old days count less, by a half-life. A day that is judged in part counts in part.

For each of many draws from the posteriors, the units that maximise Σ θ·u^r are shared as u ∝ θ^(1/(1−r)); the
shares are the mean over the draws. So an arm that might be the best keeps a part that fits that chance (as
with Thompson sampling), and arms that are equally good share. Then the bounds: a floor for every arm that is
on, a cap for an arm whose interval is wide, pins exactly as given, and only the floor for an unhealthy one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, fsum
from typing import Final
from zlib import crc32

import numpy as np

from maia.learning.velocity import Booleans, Floats

_NORMAL_90: Final = 1.6449
"""Half the width of the central 90 % of a normal distribution, in standard deviations."""
_ROUNDING: Final = 1e-9
_LEAST_EXPOSURE: Final = 1e-6
"""A day of which less is judged says nothing about the scale of the priors: its ratio could be anything."""


@dataclass(frozen=True, slots=True)
class DayYield:
    """What an arm spent and found in one Pacific day, or one hunter's part of that; parts of a day add up."""

    age_days: float
    """How many days ago; 1 is yesterday."""
    units: float
    early_growing: float
    judged_share: float = 1.0
    """The share of what it found of which it is known by now whether it grew."""


@dataclass(frozen=True, slots=True)
class ArmRecord:
    """An arm, its prior, and what came of its days so far."""

    name: str
    bucket: str
    """The ledger's bucket that pays for the arm, or a name of its own if the arm costs no units."""
    prior_yield: float = 1.0
    """Early growing videos per unit before any is known; only the ratios within a bucket matter."""
    days: Sequence[DayYield] = ()
    health: float = 1.0
    """From 0 to 1: whether the arm answers as expected; under one half it gets its part of the floor only."""
    pinned: float | None = None
    """Its share of the bucket, fixed by the operator."""
    off: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """An arm's share of its bucket, the early growing videos expected per unit (90 % interval), and why."""

    arm: str
    share: float
    expected: float
    low: float
    high: float
    reason: str


@dataclass(frozen=True, slots=True)
class AllocationSettings:
    """How fast the allocation learns, and how far it trusts what it has learnt."""

    returns: float = 0.75
    """The exponent r of diminishing returns; 1 means that the last unit of a day finds as much as the first.
    """
    prior_shape: float = 1.5
    """How many early growing videos a prior is worth."""
    dispersion: float = 4.0
    """Variance of a day's count over its mean."""
    half_life_days: float = 4.0
    draws: int = 2000
    wide: float = 2.0
    """An interval is wide if its upper end is more than this times its lower end."""
    healthy: float = 0.5
    units_a_day: float = 100.0
    """A bucket's units, where neither the caller nor the arms' days tell."""

    def __post_init__(self) -> None:
        if not 0 < self.returns < 1:
            raise ValueError(f"returns must be between 0 and 1, not {self.returns}")
        if min(self.prior_shape, self.dispersion, self.half_life_days, self.units_a_day) <= 0:
            raise ValueError("prior_shape, dispersion, half_life_days and units_a_day must be positive")
        if self.draws < 1 or self.wide <= 1:
            raise ValueError("draws must be at least 1 and wide above 1")


DEFAULTS: Final = AllocationSettings()


@dataclass(frozen=True, slots=True)
class _Posterior:
    """Gamma posteriors of θ, one per arm: shape / rate is the mean."""

    shape: Floats
    rate: Floats
    evidence: Floats
    """Units behind each, discounted by age."""

    @property
    def mean(self) -> Floats:
        return self.shape / self.rate

    def quantile(self, z: float) -> Floats:
        """The quantile at z standard deviations, by Wilson and Hilferty's cube-root approximation."""
        root = 1 - 1 / (9 * self.shape) + z / (3 * np.sqrt(self.shape))
        cubed: Floats = np.maximum(root, 0.0) ** 3 * self.mean
        return cubed


def allocate(
    records: Iterable[ArmRecord],
    *,
    seed: int,
    explore: float = 0.1,
    cap: float = 0.5,
    units: Mapping[str, float] | None = None,
    settings: AllocationSettings = DEFAULTS,
) -> dict[str, tuple[Share, ...]]:
    """The shares of each bucket, largest first; they add up to 1 unless every arm of the bucket is off.

    `explore` is split evenly among the arms that are on and not pinned. No arm whose interval is wide gets
    more than `cap`, unless the others can't take the rest. `units` is what each bucket has to spend a day.
    The same records, in any order, and the same seed give the same shares. Raises ValueError for two arms of
    one name, for pins above 1 in total, and for numbers out of range.
    """
    if not 0 <= explore <= 1 or not 0 < cap <= 1:
        raise ValueError(f"explore must be within 0 and 1 and cap above 0: {explore}, {cap}")
    buckets: dict[str, list[ArmRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda each: each.name):
        _check(record)
        buckets[record.bucket].append(record)
    shares = {}
    for bucket, arms in buckets.items():
        if len({arm.name for arm in arms}) < len(arms):
            raise ValueError(f"two arms of bucket {bucket} have the same name")
        total = (units or {}).get(bucket) or _usual_units(arms) or settings.units_a_day
        # crc32, because hash() of a text differs between processes.
        random = np.random.default_rng([seed & 0xFFFFFFFF, crc32(bucket.encode())])
        shares[bucket] = _share(arms, total, random, explore, cap, settings)
    return shares


def _check(record: ArmRecord) -> None:
    if not record.prior_yield > 0:
        raise ValueError(f"{record.name}: prior_yield must be positive, not {record.prior_yield}")
    if record.pinned is not None and not 0 <= record.pinned <= 1:
        raise ValueError(f"{record.name}: pinned must be within 0 and 1, not {record.pinned}")
    for day in record.days:
        if min(day.age_days, day.units, day.early_growing) < 0 or not 0 <= day.judged_share <= 1:
            raise ValueError(f"{record.name}: impossible day {day}")


def _usual_units(arms: Iterable[ArmRecord]) -> float | None:
    """The mean units of the days on which the bucket was used."""
    by_day: dict[float, list[float]] = defaultdict(list)
    for arm in arms:
        for day in arm.days:
            by_day[day.age_days].append(day.units)
    spent = [total for parts in by_day.values() if (total := fsum(parts)) > 0]
    return fsum(spent) / len(spent) if spent else None


def _share(
    arms: Sequence[ArmRecord],
    units: float,
    random: np.random.Generator,
    explore: float,
    cap: float,
    settings: AllocationSettings,
) -> tuple[Share, ...]:
    posterior = _posterior(arms, settings)
    off = np.array([arm.off for arm in arms])
    pins = np.array([np.nan if arm.pinned is None or arm.off else arm.pinned for arm in arms])
    healthy = np.array([arm.health >= settings.healthy for arm in arms])
    low, high = posterior.quantile(-_NORMAL_90), posterior.quantile(_NORMAL_90)
    is_wide = high > settings.wide * low
    wanted = _wanted(posterior, ~off & np.isnan(pins) & healthy, random, settings)
    shares = _bounded(wanted, off, pins, is_wide, explore, cap)
    per_unit = (np.maximum(shares, 1 / units) * units) ** (settings.returns - 1)
    reasons = [
        _reason(arm, evidence, capped=bool(wide and share >= cap - _ROUNDING), healthy=bool(well))
        for arm, share, evidence, wide, well in zip(
            arms, shares, posterior.evidence, is_wide, healthy, strict=True
        )
    ]
    columns = (shares, posterior.mean * per_unit, low * per_unit, high * per_unit)
    rows = zip(arms, *(values.tolist() for values in columns), reasons, strict=True)
    return tuple(
        sorted((Share(arm.name, *row) for arm, *row in rows), key=lambda each: (-each.share, each.arm))
    )


def _posterior(arms: Sequence[ArmRecord], settings: AllocationSettings) -> _Posterior:
    evidence = [_evidence(arm.days, settings) for arm in arms]
    found, exposure, units = (np.array(values) for values in zip(*evidence, strict=True))
    priors = np.array([arm.prior_yield for arm in arms])
    scale = _scale(found, exposure, priors, settings)
    shape = settings.prior_shape + found
    rate = settings.prior_shape / (scale * priors) + exposure
    return _Posterior(shape, rate, units)


def _evidence(days: Sequence[DayYield], settings: AllocationSettings) -> tuple[float, float, float]:
    """Early growing videos, exposure (units^r) and units of an arm's days, all discounted."""
    by_day: dict[float, list[DayYield]] = defaultdict(list)
    for day in days:
        by_day[day.age_days].append(day)
    found, exposure, spent = [], [], []
    for age_days, parts in by_day.items():
        weight = 0.5 ** (age_days / settings.half_life_days)
        units = fsum(part.units for part in parts)
        judged = fsum(part.units * part.judged_share for part in parts) / units if units else 0.0
        found.append(weight * fsum(part.early_growing for part in parts) / settings.dispersion)
        exposure.append(weight * judged * units**settings.returns / settings.dispersion)
        spent.append(weight * judged * units)
    return fsum(found), fsum(exposure), fsum(spent)


def _scale(found: Floats, exposure: Floats, priors: Floats, settings: AllocationSettings) -> float:
    """By what the priors must be multiplied to fit what was found.

    A random-effects mean of log(found / expected): an arm's weight is bounded by how far arms differ from
    their priors, so one arm that got most of the units doesn't set the scale alone.
    """
    tried = exposure >= _LEAST_EXPOSURE
    if not tried.any():
        return 1.0
    ratio = np.log((found[tried] + 0.25) / (exposure[tried] * priors[tried]))
    weight = 1 / (1 / settings.prior_shape + 1 / (found[tried] + 0.25))
    return exp(fsum((weight * ratio).tolist()) / fsum(weight.tolist()))


def _wanted(
    posterior: _Posterior, free: Booleans, random: np.random.Generator, settings: AllocationSettings
) -> Floats:
    """The mean over the draws of the shares that would be best if the draw were the truth."""
    drawn = random.standard_gamma(posterior.shape, size=(settings.draws, len(free))) / posterior.rate
    logs = np.where(free, np.log(np.maximum(drawn, 1e-300)), -np.inf) / (1 - settings.returns)
    if not free.any():
        return np.zeros(len(free))
    best = np.exp(logs - logs.max(axis=1, keepdims=True))
    wanted: Floats = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    return wanted


def _bounded(
    wanted: Floats, off: Booleans, pins: Floats, is_wide: Booleans, explore: float, cap: float
) -> Floats:
    """Scale what is wanted so that every bound holds and the shares add up to 1."""
    is_pinned = ~np.isnan(pins)
    shares = np.where(is_pinned, np.nan_to_num(pins), 0.0)
    if shares.sum() > 1 + _ROUNDING:
        raise ValueError(f"the pinned shares of a bucket add up to {shares.sum():g}, which is more than 1")
    free = ~off & ~is_pinned
    room = max(0.0, 1 - float(shares.sum()))
    if not free.any():
        return shares / shares.sum() if shares.sum() > 0 else shares
    floor = min(explore, room) / int(free.sum())
    most = np.where(wanted > 0, np.where(is_wide, max(cap, floor), 1.0), floor)[free]
    if not (wanted[free] > 0).any():
        most = np.ones_like(most)
    shares[free] = _fill(wanted[free], floor, most, room)
    return shares


def _fill(wanted: Floats, floor: float, most: Floats, room: float) -> Floats:
    """Values in proportion to `wanted`, each between `floor` and `most`, that add up to `room`."""
    if most.sum() < room:
        # The caps leave something over: who may take more than the floor shares it, in spite of the cap.
        takers = np.where(most > floor, most, 0.0) if (most > floor).any() else most
        spread: Floats = most + (room - most.sum()) * takers / takers.sum()
        return spread
    weight = np.maximum(wanted, 1e-12)
    low, high = 0.0, 1.0
    while np.clip(high * weight, floor, most).sum() < room - _ROUNDING and high < 1e30:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(middle * weight, floor, most).sum() < room else (low, middle)
    filled: Floats = np.clip(high * weight, floor, most)
    filled *= room / filled.sum()
    return filled


def _reason(arm: ArmRecord, evidence: float, *, capped: bool, healthy: bool) -> str:
    if arm.off:
        return "switched off"
    if arm.pinned is not None:
        return "pinned by a setting"
    if not healthy:
        return "does not answer as asked: only tried now and then"
    if evidence <= 0:
        return "nothing judged yet: by its prior" + (", capped" if capped else "")
    units = f"{evidence:,.0f} units" if evidence >= 1.5 else "a unit"
    learnt = f"by its yield over {units}"
    return f"{learnt}, capped until it is known better" if capped else learnt


def pooled(records: Iterable[Sequence[DayYield]]) -> tuple[DayYield, ...]:
    """Add up days of several hunters or arms: one element per day, in any order of the input the same."""
    by_day: dict[float, list[DayYield]] = defaultdict(list)
    for days in records:
        for day in days:
            by_day[day.age_days].append(day)
    merged = []
    for age_days in sorted(by_day):
        parts = by_day[age_days]
        units = fsum(part.units for part in parts)
        judged = fsum(part.units * part.judged_share for part in parts)
        found = fsum(part.early_growing for part in parts)
        merged.append(DayYield(age_days, units, found, judged / units if units else 1.0))
    return tuple(merged)


def largest_deficit(shares: Mapping[str, float], claimed: Mapping[str, float], n: int) -> dict[str, int]:
    """Split `n` asks among arms so that what each has claimed follows its share: the largest deficit first.

    Ties go to the first by name. What is claimed stays within one ask of share × total.
    """
    taken = dict.fromkeys(shares, 0)
    total = fsum(claimed.get(arm, 0.0) for arm in shares)
    for k in range(1, n + 1):
        wanting = [arm for arm in sorted(shares) if shares[arm] > 0]
        if not wanting:
            break
        arm = max(wanting, key=lambda each: shares[each] * (total + k) - claimed.get(each, 0.0) - taken[each])
        taken[arm] += 1
    return {arm: count for arm, count in taken.items() if count}
