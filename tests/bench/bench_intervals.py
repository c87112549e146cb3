"""Whether the tracker learns more from as many samples if their intervals follow the forecast.

Videos of a synthesised world, with recorded curves, are sampled through their first week as the tracker
would: by zone and growth, and once more with waits that also follow the forecast. The forecaster learns from
other videos of that world first. So that both take as many samples, the waits without the forecast are scaled
to it. The top videos are the 5 % that gained most views in the week. What is compared are the errors of what
the tracker believes at any time, such as `maia top` shows: each is the absolute difference of logarithms.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from maia.emulator.catalogue import Catalogue
from maia.emulator.synthesis import DEFAULT_START, synthesize
from maia.learning.forecasts import DAY_H, Forecaster
from maia.learning.velocity import Floats, Integers, Tracks, advance, age_class
from maia.learning.video_snapshots import Snapshots, snapshots_of_tracks
from maia.learning.zones import (
    FORECAST_INTERVALS,
    ForecastIntervals,
    forecast_factor,
    interval_h,
    within_zone,
    zone_of,
)
from tests.bench.bench_discovery import ratio_with_interval
from tests.bench.figures import Figure

WEEK_H = 168.0
STEP_H = 0.25
HOUR_S = 3600.0
TOP_SHARE = 0.05
USUAL = "the usual schedule"


@dataclass(frozen=True)
class Options:
    """How much to simulate."""

    seeds: int = 6
    videos: int = 2000
    """Followed by each policy, and as many to learn from before."""


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("intervals")
    group.add_argument("--worlds-of-curves", type=int, default=Options.seeds, help="worlds to simulate")


def options_of(parsed: argparse.Namespace) -> Options:
    return Options(seeds=parsed.worlds_of_curves)


@dataclass(frozen=True)
class Curves:
    """Videos of a catalogue: when each was published and what views it has at any time."""

    catalogue: Catalogue
    numbers: Integers

    @property
    def published_s(self) -> Floats:
        published: Floats = np.asarray(self.catalogue.published, np.float64)[self.numbers]
        return published

    def views(self, rows: Integers, age_h: Floats | float) -> Floats:
        at_s = self.published_s[rows] + HOUR_S * np.broadcast_to(age_h, rows.shape)
        views: Floats = np.floor(self.catalogue.views_at(self.numbers[rows], at_s))
        return views


@dataclass
class Followed:
    """What following the videos gave: samples, and the errors of what was believed each hour."""

    samples: int
    of_top: int
    """Samples of the top videos."""
    velocity: Floats
    forecast: Floats
    """Mean errors by video."""
    snapshots: list[tuple[Integers, Snapshots]]


Waits = Callable[[Snapshots, Integers, Floats, Tracks], Floats]
"""How long videos wait after a sample, from their snapshots, zones, the usual waits and tracks."""


def plain(scale: float) -> Waits:
    """The usual waits, scaled."""
    return lambda snapshots, zones, waits, tracks: waits * scale


def by_forecast(forecaster: Forecaster, settings: ForecastIntervals = FORECAST_INTERVALS) -> Waits:
    """The usual waits as the forecast changes them."""

    def changed(snapshots: Snapshots, zones: Integers, waits: Floats, tracks: Tracks) -> Floats:
        chance = forecaster.forecast(snapshots).top_chance
        outcomes = forecaster.outcomes()[age_class(snapshots.age_h)]
        return within_zone(waits * forecast_factor(chance, outcomes, settings), zones)

    return changed


def follow(
    curves: Curves, top: Integers, waits: Waits, seed: int, judge: Forecaster | None = None
) -> Followed:
    """Sample the videos through a week; `judge` forecasts from what each policy knows, for comparison."""
    count = len(curves.numbers)
    every = np.arange(count)
    due_h = np.random.default_rng([seed, 1]).uniform(0.2, 3.0, count)
    # The columns of new tracks are one array; here each is written to by itself.
    tracks = Tracks(*(getattr(Tracks.new(count), name).copy() for name in Tracks.__slots__))
    known = np.full(count, np.nan)
    samples, snapshots = np.zeros(count), []
    errors: list[Floats] = []
    later: list[Floats] = []
    for step in range(1, int(WEEK_H / STEP_H)):
        age = step * STEP_H
        rows = np.flatnonzero(due_h <= age)
        if len(rows):
            samples[rows] += 1
            some = _rows_of(tracks, rows)
            some = advance(some, curves.published_s[rows] + age * HOUR_S, curves.views(rows, age)).tracks
            _put(tracks, rows, some)
            shot = snapshots_of_tracks(some, curves.published_s[rows])
            zones = zone_of(np.full(len(rows), age))
            usual = interval_h(zones, some.velocity, some.acceleration)
            due_h[rows] = age + waits(shot, zones, usual, some)
            known[rows] = np.maximum(some.velocity, 0.0)
            snapshots.append((rows, shot))
        if step % 4 == 0 and age >= 4:
            errors.append(_velocity_errors(curves, every, age, known))
        if judge is not None and step % 96 == 0:
            later.append(_forecast_errors(curves, every, age, tracks, judge))
    mean = np.nanmean(np.array(errors), axis=0)
    ahead = np.nanmean(np.array(later), axis=0) if later else np.full(count, np.nan)
    return Followed(int(samples.sum()), int(samples[top].sum()), mean, ahead, snapshots)


def _rows_of(tracks: Tracks, rows: Integers) -> Tracks:
    return Tracks(*(getattr(tracks, name)[rows] for name in Tracks.__slots__))


def _put(tracks: Tracks, rows: Integers, some: Tracks) -> None:
    for name in Tracks.__slots__:
        getattr(tracks, name)[rows] = getattr(some, name)


def _velocity_errors(curves: Curves, rows: Integers, age_h: float, known: Floats) -> Floats:
    true = curves.views(rows, age_h + 0.5) - curves.views(rows, age_h - 0.5)
    errors: Floats = np.abs(np.log1p(known) - np.log1p(np.maximum(true, 0.0)))
    return errors


def _forecast_errors(
    curves: Curves, rows: Integers, age_h: float, tracks: Tracks, judge: Forecaster
) -> Floats:
    """Errors of the views expected a day after each video's last sample."""
    shot = snapshots_of_tracks(tracks, curves.published_s)
    came = curves.views(rows, age_h + DAY_H) - curves.views(rows, age_h)
    # What is forecast from the last sample on, for the day from now on.
    expected = judge.forecast(shot).median - shot.views
    errors: Floats = np.abs(np.log1p(np.maximum(expected, 0.0)) - np.log1p(np.maximum(came, 0.0)))
    return errors


def learnt(curves: Curves, seed: int) -> Forecaster:
    """A forecaster that followed these videos with the usual waits."""
    followed = follow(curves, np.zeros(0, np.int64), plain(1.0), seed)
    forecaster = Forecaster()
    for rows, shot in followed.snapshots:
        later = curves.views(rows, shot.age_h + DAY_H)
        forecaster.learn(shot, later)
    return forecaster


def as_many(curves: Curves, top: Integers, samples: int, seed: int, judge: Forecaster) -> Followed:
    """Following with the usual waits, scaled so that about as many samples are taken."""
    low, high = 0.4, 3.0
    for _ in range(7):
        middle = float(np.sqrt(low * high))
        taken = follow(curves, top, plain(middle), seed).samples
        low, high = (middle, high) if taken > samples else (low, middle)
    return follow(curves, top, plain(low), seed, judge)


def world(seed: int, videos: int) -> tuple[Curves, Curves]:
    """Videos to learn from and videos to follow, of a synthesised world."""
    folder = Path(gettempdir()) / "pleiades-interval-worlds"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"1-{videos}-{seed}.catalogue"
    days = 11
    if not path.exists():
        synthesize(path, videos=videos * days, channels=2 * videos, days=days, seed=seed, world="mixed")
    catalogue = Catalogue.open(path)
    published = np.asarray(catalogue.published, np.float64)
    age_s = published - DEFAULT_START.timestamp()
    numbers = np.flatnonzero((age_s >= 0) & (age_s < 3 * DAY_H * HOUR_S))
    chosen = np.random.default_rng(seed).permutation(numbers)[: 2 * videos]
    half = len(chosen) // 2
    return Curves(catalogue, chosen[:half]), Curves(catalogue, chosen[half:])


def top_of(curves: Curves) -> Integers:
    """The videos that gained most."""
    gained = curves.views(np.arange(len(curves.numbers)), WEEK_H)
    return np.argsort(-gained, kind="stable")[: max(1, int(TOP_SHARE * len(gained)))]


@dataclass(frozen=True)
class Compared:
    """The mean errors of one world: of the top videos and of the others, without and with the forecast."""

    samples: tuple[int, int]
    of_top: tuple[int, int]
    velocity: tuple[float, float]
    forecast: tuple[float, float]
    others: tuple[float, float]
    usual_samples: int
    usual: tuple[float, float]
    """Errors of velocity with the usual schedule and all its samples: of the top videos and the others."""


def compare(seed: int, videos: int, settings: ForecastIntervals = FORECAST_INTERVALS) -> Compared:
    earlier, curves = world(seed, videos)
    forecaster = learnt(earlier, seed)
    top = top_of(curves)
    others = np.setdiff1d(np.arange(len(curves.numbers)), top)
    ours = follow(curves, top, by_forecast(forecaster, settings), seed, forecaster)
    theirs = as_many(curves, top, ours.samples, seed, forecaster)
    usual = follow(curves, top, plain(1.0), seed)
    both = (theirs, ours)
    curves.catalogue.close()

    def means(errors: Callable[[Followed], Floats], rows: Integers) -> tuple[float, float]:
        first, second = (float(np.nanmean(errors(each)[rows])) for each in both)
        return first, second

    return Compared(
        (theirs.samples, ours.samples),
        (theirs.of_top, ours.of_top),
        means(lambda each: each.velocity, top),
        means(lambda each: each.forecast, top),
        means(lambda each: each.velocity, others),
        usual.samples,
        (float(np.nanmean(usual.velocity[top])), float(np.nanmean(usual.velocity[others]))),
    )


async def figures(options: Options = Options()) -> AsyncIterator[Figure]:
    """Simulate every world, print a table, and yield the ratios of errors with intervals."""
    worlds = [compare(seed, options.videos) for seed in range(1, options.seeds + 1)]
    Console(stderr=True, emoji=False).print(table_of(worlds))
    for what, errors, goal in (
        ("velocity of the top 5 %", [each.velocity for each in worlds], 1.0),
        ("views of the top 5 % a day ahead", [each.forecast for each in worlds], 1.0),
        ("velocity of the others", [each.others for each in worlds], None),
    ):
        theirs, both = np.array(errors).T
        ratio, low, high = ratio_with_interval(both.tolist(), theirs.tolist())
        note = f"ratio {ratio:.3f} [{low:.3f}, {high:.3f}]"
        yield Figure(
            f"error of the {what}, as many samples", float(both.mean()), "log", float(theirs.mean()),
            "without the forecast", goal, at_most=True, note=note,
        )  # fmt: skip
    taken = [each.samples[1] for each in worlds], [each.usual_samples for each in worlds]
    yield Figure(
        "samples with the forecast", float(np.mean(taken[0])), "samples", float(np.mean(taken[1])), USUAL
    )
    for k, what in enumerate(("top 5 %", "others")):
        ours = [(each.velocity, each.others)[k][1] for each in worlds]
        usual = [each.usual[k] for each in worlds]
        yield Figure(
            f"error of the velocity of the {what}", float(np.mean(ours)), "log", float(np.mean(usual)), USUAL
        )


def table_of(worlds: Sequence[Compared]) -> Table:
    """A line for each world: samples, and mean errors without → with the forecast."""
    title = "Errors without and with the forecast in the waits (absolute, of logarithms)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("world", "samples", "of the top", "velocity\nof the top", "day ahead\nof the top",
                    "velocity\nof others"):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    for seed, each in enumerate(worlds, 1):
        counts = (f"{before:,} {after:,}" for before, after in (each.samples, each.of_top))
        errors = (
            f"{before:.3f} {after:.3f}" for before, after in (each.velocity, each.forecast, each.others)
        )
        table.add_row(str(seed), *counts, *errors)
    return table
