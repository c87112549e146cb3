"""How many early growing videos each way to discover finds, in virtual time over synthesised worlds.

`make bench ARGS=discovery` runs 14 virtual days for ten seeds in three worlds: kind (the emulator without
realism), realistic, and worst (what works best elsewhere fails). The strategies take their decisions by the
product's own modules, and are answered by the emulator's own world, in process. The oracle is the fixed mix
of forms that proves best in a world, with feeds like ours. Intervals are 90 %, by bootstrap over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations
from multiprocessing import get_context

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from maia.discovery.forms import FORMS
from maia.emulator.realism import PRESETS
from maia.emulator.world import World
from tests.bench.discovery import real
from tests.bench.discovery.scene import Scene, Size, scene
from tests.bench.discovery.simulation import Outcome, Strategy, run
from tests.bench.discovery.strategies import Former, Portfolio
from tests.bench.figures import Figure

WORLDS: Mapping[str, str] = {"kind": "none", "realistic": "realistic", "worst": "worst"}
"""The bench's worlds, and the emulator's presets for them."""
OURS, SPECIFICATION, BEFORE, ORACLE = "ours", "specification", "as before", "oracle"
GOALS = {"kind": 25.0, "realistic": 12.0, "worst": 8.0}
"""Early growing videos over the specification's."""
BY_DAY = 5
"""From this day on ours must be near the oracle's."""


@dataclass(frozen=True)
class Options:
    """What to run."""

    seeds: int = 10
    detail_seeds: int = 3
    """Of them, how many also run each form alone and what is left out of ours."""
    days: int = 14
    oracle_seeds: int = 2
    oracle_days: int = 5
    processes: int = 2
    videos_a_day: int = Size.videos_a_day
    channels: int = Size.channels
    worlds: tuple[str, ...] = tuple(WORLDS)
    real: bool = False

    @property
    def size(self) -> Size:
        return Size(max(14, self.days), self.videos_a_day, self.channels)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The bench's own options."""
    group = parser.add_argument_group("discovery")
    group.add_argument("--seeds", type=int, default=Options.seeds, help="worlds of each kind")
    group.add_argument(
        "--detail-seeds", type=int, default=Options.detail_seeds,
        help="of them, how many also run each form alone and what is left out of ours",
    )  # fmt: skip
    group.add_argument("--days", type=int, default=Options.days, help="virtual days")
    group.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    group.add_argument("--processes", type=int, default=Options.processes)
    group.add_argument("--videos-a-day", type=int, default=Options.videos_a_day)
    group.add_argument(
        "--real", action="store_true", help="compare the simulation with the product itself instead"
    )


def options_of(parsed: argparse.Namespace) -> Options:
    return Options(
        seeds=parsed.seeds,
        days=parsed.days,
        detail_seeds=min(parsed.seeds, parsed.detail_seeds),
        oracle_seeds=min(parsed.seeds, Options.oracle_seeds),
        oracle_days=min(parsed.days, Options.oracle_days),
        processes=parsed.processes,
        videos_a_day=parsed.videos_a_day,
        channels=2 * parsed.videos_a_day,
        worlds=tuple(parsed.worlds),
        real=parsed.real,
    )


Makers = Mapping[str, Callable[[], Strategy]]


def compared() -> Makers:
    """The strategies whose ratios have goals, by name; the oracle, a fixed mix, comes on top."""
    return {
        SPECIFICATION: lambda: Former(SPECIFICATION, "relevance", stays=True),
        BEFORE: lambda: Former(BEFORE, "date", stays=False),
        OURS: _making(OURS),
    }


def details() -> Makers:
    """Each form alone, without feeds; ours without a part of it; and ours with one more."""
    alone: dict[str, object] = {"feeds": False, "pages": 0.0, "charts": False}
    return {
        **{f"only {form.arm}": _making(f"only {form.arm}", **alone, mix={form.arm: 1.0}) for form in FORMS},
        "only feeds": _making("only feeds", searches_a_day=5, charts=False),
        "without feeds": _making("without feeds", feeds=False, counts=4000.0, pages=4000.0),
        "without uploads": _making("without uploads", pages=0.0),
        "without both": _making("without both", feeds=False, pages=0.0),
        "without learning": _making("without learning", learning=False),
        "counts before feeds": _making("counts before feeds", counts=4000.0),
    }


def _making(name: str, **changes: object) -> Callable[[], Strategy]:
    return lambda: Portfolio(name, **changes)  # type: ignore[arg-type]


BEST_FORMS = 3


def pairs(arms: Iterable[str]) -> list[Mapping[str, float]]:
    """Mixes of two forms in three proportions."""
    parts = (0.25, 0.5, 0.75)
    return [{one: part, other: 1 - part} for one, other in combinations(arms, 2) for part in parts]


Job = tuple[str, str, Mapping[str, float] | None, int]
"""A world, a strategy, its mix if that is fixed, and for how many days."""


def work(seed: int, options: Options, jobs: Sequence[Job]) -> list[Outcome]:
    """Run jobs of (world, strategy, mix, days) over the world of one seed."""
    place = scene(seed, options.size)
    outcomes = []
    for world, name, mix, days in jobs:
        outcome = _one(place, world, name, mix, days)
        progress(f"  seed {seed}, {world} world, {name}: {outcome.a_day:,.0f} early growing a day")
        outcomes.append(outcome)
    place.catalogue.close()
    return outcomes


def _one(place: Scene, world: str, name: str, mix: Mapping[str, float] | None, days: int) -> Outcome:
    answering = World(place.catalogue, replace(PRESETS[WORLDS[world]], seed=place.seed))
    strategy = Portfolio(name, mix=mix) if mix is not None else {**compared(), **details()}[name]()
    return run(strategy, place, answering, name=world, days=days)


async def figures(options: Options = Options()) -> AsyncIterator[Figure]:
    """Run everything, print a table for each world, and yield the figures with goals."""
    if options.real:
        async for figure in real.figures(options.days):
            yield figure
        return
    outcomes = _measured(options)
    console = Console(stderr=True, emoji=False)
    for world in options.worlds:
        of_world = [outcome for outcome in outcomes if outcome.world == world]
        console.print(table_of(world, of_world))
        for figure in goals(world, of_world):
            yield figure


def _measured(options: Options) -> list[Outcome]:
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        best = _best_mixes(options, pool)
        seeds = range(1, options.seeds + 1)
        jobs = [_jobs(options, best, in_detail=seed <= options.detail_seeds) for seed in seeds]
        done = pool.map(work, seeds, [options] * options.seeds, jobs)
        return [outcome for outcomes in done for outcome in outcomes]


def _jobs(options: Options, best: Mapping[str, Mapping[str, float]], *, in_detail: bool) -> list[Job]:
    named = [*compared(), *(details() if in_detail else ())]
    return [
        (world, name, mix, options.days)
        for world in options.worlds
        for name, mix in [*((name, None) for name in named), (ORACLE, best[world])]
    ]


def _best_mixes(options: Options, pool: ProcessPoolExecutor) -> dict[str, Mapping[str, float]]:
    """For each world the fixed mix that finds most, over a few seeds and days.

    Among each form alone and pairs of those that are best alone: what they lack, others rarely add.
    """
    alone: list[Mapping[str, float]] = [{form.arm: 1.0} for form in FORMS]
    found = _tried(options, pool, dict.fromkeys(options.worlds, alone))
    best = {}
    for world in options.worlds:
        ranked = sorted(alone, key=lambda mix: -found[world, mix_name(mix)])
        best[world] = pairs(arm for mix in ranked[:BEST_FORMS] for arm in mix)
    found |= _tried(options, pool, best)
    chosen = {}
    for world in options.worlds:
        chosen[world] = max([*alone, *best[world]], key=lambda mix: found[world, mix_name(mix)])
        progress(f"the oracle's mix in the {world} world: {mix_name(chosen[world])}")
    return chosen


def _tried(
    options: Options, pool: ProcessPoolExecutor, mixes: Mapping[str, Sequence[Mapping[str, float]]]
) -> dict[tuple[str, str], float]:
    """Early growing videos of each world's mixes, by world and name."""
    jobs = [
        (world, mix_name(mix), mix, options.oracle_days)
        for world, of_world in mixes.items()
        for mix in of_world
    ]
    seeds = range(1, options.oracle_seeds + 1)
    found: dict[tuple[str, str], float] = {}
    for outcomes in pool.map(work, seeds, [options] * len(seeds), [jobs] * len(seeds)):
        for outcome in outcomes:
            slot = outcome.world, outcome.strategy
            found[slot] = found.get(slot, 0.0) + outcome.a_day
    return found


def progress(text: str) -> None:
    Console(stderr=True, emoji=False).print(text)


def mix_name(mix: Mapping[str, float]) -> str:
    return " + ".join(f"{share:.0%} {arm.removeprefix('search:')}" for arm, share in mix.items())


# Figures


def mean_with_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean, and its 90 % interval by bootstrap over seeds."""
    return ratio_with_interval(values, [1.0] * len(values))


def ratio_with_interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """The ratio of two means over the same seeds, and its 90 % interval by bootstrap over seeds."""
    above, below = np.array(ours, dtype=np.float64), np.array(theirs, dtype=np.float64)
    drawn = np.random.default_rng(0).integers(0, len(above), (2000, len(above)))
    ratios = above[drawn].mean(axis=1) / np.maximum(below[drawn].mean(axis=1), 1e-9)
    low, high = np.quantile(ratios, [0.05, 0.95])
    return float(above.mean() / max(below.mean(), 1e-9)), float(low), float(high)


def of_strategy(outcomes: Iterable[Outcome], name: str) -> list[Outcome]:
    """A strategy's runs by seed."""
    return sorted((o for o in outcomes if o.strategy == name), key=lambda outcome: outcome.seed)


def table_of(world: str, outcomes: Sequence[Outcome]) -> Table:
    """Fits 80 columns: what it found, at which median age, and the units and feeds a day."""
    title = f"The {world} world: early growing videos [90 %]"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("strategy", "a day", "per 100\nsearches", "recall", "age", "general", "feeds"):
        table.add_column(heading, justify="left" if heading == "strategy" else "right", no_wrap=True)
    names = list(dict.fromkeys(outcome.strategy for outcome in outcomes))
    for name in names:
        runs = of_strategy(outcomes, name)
        days = len(runs[0].early_growing)
        mean, low, high = mean_with_interval([each.a_day for each in runs])
        table.add_row(
            name.replace("search:", ""),
            f"{mean:,.0f} [{low:,.0f}, {high:,.0f}]",
            f"{np.mean([each.per_100_searches for each in runs]):,.0f}",
            f"{np.mean([each.recall for each in runs]):.2f}",
            f"{np.nanmean([each.median_age_h for each in runs]):.1f} h",
            f"{np.mean([each.general_units for each in runs]) / days:,.0f}",
            f"{np.mean([each.feeds for each in runs]) / days:,.0f}",
        )
    return table


def goals(world: str, outcomes: Sequence[Outcome]) -> list[Figure]:
    """The figures that the discovery must reach in a world."""
    ours, specification = of_strategy(outcomes, OURS), of_strategy(outcomes, SPECIFICATION)
    oracle, before = of_strategy(outcomes, ORACLE), of_strategy(outcomes, BEFORE)
    a_day = [each.a_day for each in ours]
    base = [each.a_day for each in specification]
    ratio, low, high = ratio_with_interval(a_day, base)
    later = slice(BY_DAY - 1, None)
    found = [
        Figure(
            f"early growing a day, {world} world", float(np.mean(a_day)), "videos", float(np.mean(base)),
            SPECIFICATION, GOALS[world], note=f"ratio {ratio:.1f} [{low:.1f}, {high:.1f}]",
        ),
        Figure(
            f"the same against the hunter as before, {world} world", float(np.mean(a_day)), "videos",
            float(np.mean([each.a_day for each in before])), BEFORE,
        ),
        Figure(
            f"on the first day, {world} world", _first_day(ours), "videos", _first_day(specification),
            SPECIFICATION, 8.0,
        ),
    ]  # fmt: skip
    if len(ours[0].early_growing) >= BY_DAY:
        found.append(
            Figure(
                f"from day {BY_DAY} on, {world} world",
                float(np.mean([np.mean(each.early_growing[later]) for each in ours])),
                "videos",
                float(np.mean([np.mean(each.early_growing[later]) for each in oracle])),
                ORACLE,
                0.85,
            )
        )
    recall = Figure(
        f"recall, {world} world", float(np.mean([each.recall for each in ours])), "of growing videos",
        goal=0.8 if world == "kind" else None,
    )  # fmt: skip
    age = Figure(
        f"median age when found, {world} world", float(np.mean([each.median_age_h for each in ours])), "h",
        goal=2.0 if world == "kind" else None, at_most=True,
    )  # fmt: skip
    return [*found, recall, age, *_triage(world, ours)]


def _triage(world: str, ours: Sequence[Outcome]) -> list[Figure]:
    every, kept = ([each.hourly for each in ours], [each.triaged for each in ours])
    samples = Figure(
        f"samples a day of hot videos, {world} world",
        float(np.mean([each.samples_a_day for each in kept])),
        "samples",
        float(np.mean([each.samples_a_day for each in every])),
        "without triage",
    )
    hours = Figure(
        f"growing videos' first hours followed, {world} world",
        float(np.mean([each.growing_hours for each in kept])),
        "of them",
        float(np.mean([each.growing_hours for each in every])),
        "without triage",
    )
    return [samples, hours]


def _first_day(outcomes: Sequence[Outcome]) -> float:
    return float(np.mean([each.early_growing[0] for each in outcomes]))
