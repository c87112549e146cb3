"""Whether attention in the knowledge graph makes the hunter find more: an ablation in virtual time.

`make bench ARGS=attention` hunts through 14 virtual days of ten realistic worlds, each with and without
attention and otherwise alike, in two ways: with all arms, as the product does, and by search alone for
several topics at once, with few questions, where the choice of topics counts for most. The variants are what
ships (ECAN's constants, and a slope that is all learnt), a first guess that attention brings more, and more
topics to choose from because they have attention. Worlds and quotas are two fifths of those of the bench of
discovery, so that it doesn't take hours. A figure is the mean over seeds of the paired difference;
its note has the 95 % interval by Student's t. The seeds are 1 to 10; others were used to try things out.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from maia.emulator.realism import PRESETS
from maia.emulator.world import World
from maia.learning.velocity import Floats
from tests.bench.bench_discovery import WORLDS, progress
from tests.bench.discovery.attending import Steered, Steering
from tests.bench.discovery.scene import Scene, Size, scene
from tests.bench.discovery.simulation import Outcome, Quota, Strategy, run
from tests.bench.discovery.strategies import Portfolio
from tests.bench.figures import Figure

OFF, SHIPPED = "without", "as shipped"
VARIANTS: Mapping[str, Steering] = {
    SHIPPED: Steering(),
    "guessed": Steering(slope=0.4),
    "wider": Steering(attended=200),
}


@dataclass(frozen=True)
class Way:
    """A way to hunt, and the variants that are tried in it."""

    quota: Quota
    options: Mapping[str, object]
    variants: tuple[str, ...]


SIZE = Size(videos_a_day=10_000, channels=20_000)
PART = SIZE.videos_a_day / Size.videos_a_day
ALONE = {"feeds": False, "pages": 0.0, "charts": False, "mix": {"search:any": 1.0}}
WAYS: Mapping[str, Way] = {
    "all arms": Way(Quota(100 * PART, 9000 * PART, 20_000 * PART), {"pages": 1500 * PART}, (SHIPPED,)),
    "topics alone": Way(Quota(search=20 * PART), ALONE, (SHIPPED, "guessed", "wider")),
}


@dataclass(frozen=True)
class Options:
    """What to run."""

    seeds: int = 10
    days: int = 14
    world: str = "realistic"
    processes: int = 1


def add_options(parser: argparse.ArgumentParser) -> None:
    """The bench's own options."""
    parser.add_argument("--seeds", type=int, default=Options.seeds, help="worlds, at least 2")
    parser.add_argument("--days", type=int, default=Options.days, help="virtual days, at most 14")
    parser.add_argument("--world", choices=list(WORLDS), default=Options.world)
    parser.add_argument("--processes", type=int, default=Options.processes)


def options_of(parsed: argparse.Namespace) -> Options:
    return Options(parsed.seeds, min(parsed.days, Options.days), parsed.world, parsed.processes)


async def figures(options: Options = Options()) -> AsyncIterator[Figure]:
    """Run everything, print a table for each way, and yield what attention adds."""
    outcomes: list[tuple[str, Outcome]] = []
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for done in pool.map(work, range(1, options.seeds + 1), [options] * options.seeds):
            outcomes += done
    for way, settings in WAYS.items():
        found = {
            name: np.array(
                [outcome.a_day for at, outcome in outcomes if (at, outcome.strategy) == (way, name)]
            )
            for name in (OFF, *settings.variants)
        }
        Console(stderr=True, emoji=False).print(table_of(way, found))
        for name in settings.variants:
            mean, low, high = paired(found[name], found[OFF])
            yield Figure(
                f"early growing videos a day with attention {name}, {way}", float(found[name].mean()),
                "videos", float(found[OFF].mean()), "without attention",
                note=f"difference {mean:+.1f} a day [{low:+.1f}, {high:+.1f}]",
            )  # fmt: skip


def work(seed: int, options: Options) -> list[tuple[str, Outcome]]:
    """All ways and variants in the world of one seed."""
    place = scene(seed, SIZE)
    outcomes = []
    for way, settings in WAYS.items():
        for name in (OFF, *settings.variants):
            outcome = _one(place, settings, name, options)
            progress(
                f"  seed {seed}, {way}, {name}: {outcome.a_day:,.1f} early growing a day, "
                f"{outcome.per_100_searches:,.0f} per 100 searches"
            )
            outcomes.append((way, outcome))
    place.catalogue.close()
    return outcomes


def _one(place: Scene, way: Way, name: str, options: Options) -> Outcome:
    answering = World(place.catalogue, replace(PRESETS[WORLDS[options.world]], seed=place.seed))
    make: Callable[..., Strategy] = Portfolio if name == OFF else Steered
    given = {} if name == OFF else {"steering": VARIANTS[name]}
    strategy = make(name, **way.options, **given)
    return run(strategy, place, answering, name=options.world, quota=way.quota, days=options.days)


def paired(ours: Floats, theirs: Floats) -> tuple[float, float, float]:
    """The mean of the differences seed by seed, and its 95 % interval by Student's t."""
    differences = ours - theirs
    mean, n = float(differences.mean()), len(differences)
    half = float(student.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def table_of(way: str, found: Mapping[str, Floats]) -> Table:
    """Early growing videos a day of each seed, and the difference that attention makes."""
    table = Table(
        title=f"{way}: early growing videos a day",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("seed", *found):
        table.add_column(heading, justify="right", no_wrap=True)
    for nth in range(len(found[OFF])):
        table.add_row(str(nth + 1), *(f"{values[nth]:,.1f}" for values in found.values()))
    table.add_row("mean", *(f"{values.mean():,.1f}" for values in found.values()))
    return table
