"""How many early growing videos discovery finds on a new site, with and without other sites' patterns.

Two sites of a world live through some days each. The detector of tool usage learns what every arm brought on
each of them, as the learner does. A third site then begins, with other videos of the same kind of world:
without patterns, with those of the two sites, and, as a guard rail, with those of another kind of world. In
the world without tags, each video has another one's tags, so that they tell nothing. Otherwise everything is
as in the bench of discovery. Intervals are 90 %, by bootstrap over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from maia.discovery.forms import FORMS
from maia.emulator.realism import PRESETS
from maia.emulator.world import World
from maia.learning.detectors.tool_usage import ToolUsage
from maia.learning.evidence import confidence
from maia.learning.observations import Observation
from maia.learning.priors import LearntYield, arm_priors, judged_day
from tests.bench.bench_discovery import OURS, WORLDS, progress, ratio_with_interval
from tests.bench.discovery.scene import Scene, scene
from tests.bench.discovery.simulation import Desk, Outcome, run
from tests.bench.discovery.strategies import Portfolio
from tests.bench.figures import Figure

WITHOUT_TAGS = "without tags"
PRESET_OF: Mapping[str, str] = {**WORLDS, WITHOUT_TAGS: WORLDS["realistic"]}
OTHER = {"kind": "worst", "realistic": "worst", "worst": "kind", WITHOUT_TAGS: "worst"}
"""Whose patterns mislead most."""
BUILTIN = {form.arm: form.prior_yield for form in FORMS}
NONE, SAME, WRONG = "no patterns", "of the same kind", "of another kind"
BEGIN = date(2026, 1, 1)
LEAST_CONFIDENCE = 0.7


@dataclass(frozen=True)
class Options:
    """What to run. The sites that teach are worlds of other seeds."""

    seeds: int = 5
    days: int = 5
    teachers: tuple[int, ...] = (9, 10)
    taught_days: int = 14


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("priors")
    group.add_argument("--new-sites", type=int, default=Options.seeds, help="sites that begin, per world")


def options_of(parsed: argparse.Namespace) -> Options:
    return Options(seeds=parsed.new_sites)


async def figures(options: Options = Options()) -> AsyncIterator[Figure]:
    """Run everything, print what was learnt and found, and yield the ratios."""
    priors = taught(options)
    console = Console(stderr=True, emoji=False)
    console.print(table_of_priors(priors))
    found: dict[tuple[str, str], list[Outcome]] = {}
    for seed in range(1, options.seeds + 1):
        place = scene(seed)
        for world in PRESET_OF:
            for name, learnt in ((NONE, {}), (SAME, priors[world]), (WRONG, priors[OTHER[world]])):
                outcome, _ = live(place, world, options.days, learnt)
                found.setdefault((world, name), []).append(outcome)
                progress(f"  seed {seed}, {world}, {name}: {outcome.a_day:,.0f} early growing a day")
        place.catalogue.close()
    for world in PRESET_OF:
        for name in (SAME, WRONG):
            for figure in compared(world, name, found[world, name], found[world, NONE]):
                yield figure


def compared(world: str, name: str, ours: Sequence[Outcome], without: Sequence[Outcome]) -> list[Figure]:
    """Early growing videos a day, over all days and on the first."""
    figures = []
    for when, days in (
        (f"in {len(ours[0].early_growing)} days", slice(None)),
        ("on the first day", slice(1)),
    ):
        both = [
            [float(np.mean(each.early_growing[days])) for each in outcomes] for outcomes in (ours, without)
        ]
        ratio, low, high = ratio_with_interval(*both)
        figures.append(
            Figure(
                f"{world} world, patterns {name}, {when}", float(np.mean(both[0])), "videos a day",
                float(np.mean(both[1])), NONE, note=f"ratio {ratio:.3f} [{low:.3f}, {high:.3f}]",
            )
        )  # fmt: skip
    return figures


def live(place: Scene, world: str, days: int, priors: Mapping[str, float]) -> tuple[Outcome, Desk]:
    """A site's first days in a world."""
    if world == WITHOUT_TAGS:
        place = with_shuffled_tags(place)
    answering = World(place.catalogue, replace(PRESETS[PRESET_OF[world]], seed=place.seed))
    desks: list[Desk] = []

    class Kept(Portfolio):
        def tick(self, desk: Desk, searches: int) -> None:
            desks[:] = [desk]
            super().tick(desk, searches)

    outcome = run(Kept(OURS, priors=priors), place, answering, name=world, days=days)
    return outcome, desks[0]


def with_shuffled_tags(place: Scene) -> Scene:
    """The same videos, each with the tags of another one."""
    others = np.random.default_rng([place.seed, 3]).permutation(len(place.published))
    lengths = (place.topic_ends[1:] - place.topic_ends[:-1])[others]
    ends = np.concatenate(([0], np.cumsum(lengths)))
    rows = np.repeat(np.arange(len(others)), lengths)
    within = np.arange(len(rows)) - np.repeat(ends[:-1], lengths)
    topics = place.topics[place.topic_ends[:-1][others][rows] + within]
    return replace(place, topics=topics, topic_ends=ends)


def taught(options: Options) -> dict[str, dict[str, float]]:
    """For each world, the priors that its teachers' days lead to."""
    observed: dict[str, list[Observation]] = {world: [] for world in PRESET_OF}
    for nth, seed in enumerate(options.teachers):
        place = scene(seed)
        for world in PRESET_OF:
            _, desk = live(place, world, options.taught_days, {})
            begin = BEGIN + timedelta(days=nth * options.taught_days)
            observed[world] += observations(desk, begin, options.taught_days)
            progress(f"  seed {seed}, {world}: taught")
        place.catalogue.close()
    return {world: priors_of(each) for world, each in observed.items()}


def observations(desk: Desk, begin: date, days: int) -> list[Observation]:
    """What the learner's source of yields would read of a site's days."""
    return [
        judged_day(arm, "search", begin + timedelta(days=day), units, growing)
        for day in range(days)
        for arm in BUILTIN
        if (units := desk.ledger.spent[day, "search", arm])
        for _, growing, _ in [desk.found_day.get((day, arm), (0.0, 0.0, 0.0))]
    ]


def priors_of(observed: Sequence[Observation]) -> dict[str, float]:
    """The arms' prior yields, by the patterns of these observations."""
    detector, learnt = ToolUsage(), []
    detector.observe(observed)
    for finding in detector.patterns():
        counts = list(finding.evidence.values())
        pos, neg = sum(each.pos for each in counts), sum(each.neg for each in counts)
        if not finding.pattern.signature["conditions"]:
            mean = sum(each.reward for each in counts) / (pos + neg)
            believed = float(confidence(pos, neg))
            learnt.append(
                LearntYield(finding.pattern.id, str(finding.pattern.action), mean, pos + neg, believed)
            )
    found = arm_priors(BUILTIN, learnt, least_confidence=LEAST_CONFIDENCE)
    return {arm: prior.value for arm, prior in found.items()}


def table_of_priors(priors: Mapping[str, Mapping[str, float]]) -> Table:
    """By arm and world, the factor of the built-in prior."""
    table = Table(title="Factors of the built-in priors", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("arm", *priors):
        table.add_column(heading, justify="left" if heading == "arm" else "right", no_wrap=True)
    for arm, builtin in BUILTIN.items():
        factors = (f"{learnt[arm] / builtin:.2f}" if arm in learnt else "–" for learnt in priors.values())
        table.add_row(arm.removeprefix("search:"), *factors)
    return table
