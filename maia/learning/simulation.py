"""Simulates view counts with known rises, to test the breakout detection before it is used on real videos.

The rate of views falls as a power of age, has daily and weekly swings, and drifts at random (an
Ornstein–Uhlenbeck process in the logarithm). In a curve with a rise it is multiplied by a wave that begins at
a known age and then fades. The counter is Poisson; in half of the curves it is published in batches, and now
and then it falls. It is sampled as the tracker would, or every 10, 30 or 60 minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from maia.learning.velocity import Floats, Integers

GRID_H: Final = 1 / 6
SAMPLINGS: Final = ("clock", "hourly", "half-hourly", "ten minutes")
_FALL_SHARE: Final = 0.004


@dataclass(frozen=True, slots=True)
class SimulatedVideo:
    """A simulated video's ages in hours and view counts; `rise_h` is the age at which a rise begins."""

    seed: int
    sampling: str
    age_h: Floats
    views: Floats
    rise_h: float | None
    factor: float


def simulate(
    seeds: Sequence[int],
    *,
    rising: bool,
    days: float = 30.0,
    factor: tuple[float, float] = (4.0, 40.0),
    ramp_h: tuple[float, float] = (1.0, 12.0),
    sampling: str | None = None,
) -> list[SimulatedVideo]:
    """One curve per seed. With and without a rise, the same seed gives the same curve up to the rise."""
    return [_curve(seed, rising, days, factor, ramp_h, sampling) for seed in seeds]


def _curve(
    seed: int,
    rising: bool,
    days: float,
    factor: tuple[float, float],
    ramp_h: tuple[float, float],
    sampling: str | None,
) -> SimulatedVideo:
    random, noise = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    drawn = SAMPLINGS[int(random.integers(len(SAMPLINGS)))]
    age: Floats = np.arange(1, int(days * 24 / GRID_H) + 1, dtype=np.float64) * GRID_H
    rate = _ordinary_rate(random, noise, age)
    rise_h = float(np.exp(random.uniform(np.log(36.0), np.log(days * 24 - 120))))
    rise = float(np.exp(random.uniform(np.log(factor[0]), np.log(factor[1]))))
    wave = _wave(age - rise_h, random.uniform(*ramp_h), random.uniform(24.0, 120.0))
    if rising:
        rate = rate * (1 + (rise - 1) * wave)
    counts = np.cumsum(noise.poisson(rate * GRID_H)).astype(np.float64)
    if random.random() < 0.5:
        counts = _publish_in_batches(noise, counts, batch_h=float(random.choice([0.5, 1, 2, 4, 6])))
    chosen = _sampling_points(noise, age, sampling or drawn)
    views = _with_falls(noise, counts[chosen])
    return SimulatedVideo(seed, sampling or drawn, age[chosen], views, rise_h if rising else None, rise)


def _ordinary_rate(random: np.random.Generator, noise: np.random.Generator, age: Floats) -> Floats:
    size, scale_h, decay = random.lognormal(5.7, 1.8), random.lognormal(2.5, 0.7), random.uniform(0.2, 1.8)
    trend = size * (1 + age / scale_h) ** -decay + size * random.uniform(0.0, 0.05)
    day, week = random.uniform(0.0, 0.6), random.uniform(0.0, 0.2)
    hour = age + random.uniform(0.0, 168.0)
    swing = day * np.sin(2 * np.pi * hour / 24) + week * np.sin(2 * np.pi * hour / 168)
    wander = _wander(noise, len(age), spread=random.uniform(0.05, 0.3), memory_h=random.uniform(2.0, 8.0))
    rate: Floats = np.minimum(trend * np.exp(swing + wander), 1e9)
    return rate


def _wander(noise: np.random.Generator, steps: int, spread: float, memory_h: float) -> Floats:
    kept = float(np.exp(-GRID_H / memory_h))
    shocks = noise.standard_normal(steps) * spread * np.sqrt(1 - kept**2)
    value, path = float(noise.standard_normal()) * spread, np.empty(steps)
    for step, shock in enumerate(shocks.tolist()):
        value = kept * value + shock
        path[step] = value
    return path


def _wave(since_h: Floats, ramp_h: float, half_life_h: float) -> Floats:
    """Rises from 0 to 1 along the ramp, then halves in each half-life."""
    risen = np.clip(since_h / ramp_h, 0.0, 1.0)
    faded: Floats = risen * np.exp2(-np.maximum(since_h - ramp_h, 0.0) / half_life_h)
    return faded


def _publish_in_batches(noise: np.random.Generator, counts: Floats, batch_h: float) -> Floats:
    """The counter as of its last publication, a random time ago."""
    published = np.cumsum(noise.exponential(batch_h, size=int(len(counts) * GRID_H / batch_h * 2) + 20))
    steps = np.unique(np.minimum((published / GRID_H).astype(np.int64), len(counts) - 1))
    last = np.searchsorted(steps, np.arange(len(counts)), side="right") - 1
    return np.where(last >= 0, counts[steps[np.maximum(last, 0)]], 0.0)


def _sampling_points(noise: np.random.Generator, age: Floats, sampling: str) -> Integers:
    """Which points of the grid are sampled."""
    if sampling == "ten minutes":
        return np.arange(len(age))
    points, at = [], 0.5
    while at < age[-1]:
        points.append(int(at / GRID_H))
        regular = {"hourly": 1.0, "half-hourly": 0.5}.get(sampling)
        at += (regular or (1.0 if at < 24 else 6.0 if at < 168 else 24.0)) * float(noise.uniform(0.9, 1.1))
    return np.unique(points)


def _with_falls(noise: np.random.Generator, views: Floats) -> Floats:
    falls = noise.random(len(views)) < _FALL_SHARE
    lost = np.cumsum(np.where(falls, np.ceil(views * noise.uniform(0.0005, 0.005, len(views))), 0.0))
    fallen: Floats = np.maximum(views - lost, 0.0)
    return fallen
