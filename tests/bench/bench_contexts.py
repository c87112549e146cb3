"""Whether what the graph knows of topics helps: to expect failures, and to choose topics. In virtual time.

`make bench ARGS=contexts` hunts through 14 virtual days of ten realistic worlds, and derives the graph of
what was found once a day. Figures are means over seeds of paired differences, with the 95 % interval by
Student's t. The seeds are 1 to 10; others were used to try things out.

Expected success: each question about one topic or several fails by the emulator's faults, in bursts or for
good, and is predicted before it is learnt; with the graph's part of its context, and without. Questions about
broken topics nearly always fail: a fifteenth of all topics, or those of which most videos are of one
category. The emulator knows no such category: that is planted, to show what could be learnt.

Choice: early growing videos of a hunter that knows the categories of its topics, and of one that doesn't.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import numpy as np
from rich.console import Console

from maia.emulator.facts import METHODS
from maia.emulator.realism import PRESETS
from maia.emulator.world import World
from maia.learning.success import known_before
from tests.bench.bench_attention import ALONE, paired
from tests.bench.bench_discovery import WORLDS, progress
from tests.bench.bench_success import Ours, Step, Weather, failure_of, play
from tests.bench.discovery.knowing import Asked, Knowing
from tests.bench.discovery.scene import Scene, Size, scene
from tests.bench.discovery.simulation import Quota, run
from tests.bench.discovery.strategies import Portfolio, instant
from tests.bench.figures import Figure

SIZE = Size(videos_a_day=5_000, channels=10_000)
PART = SIZE.videos_a_day / Size.videos_a_day
ASKING: Mapping[str, Any] = {**ALONE, "mix": {"search:any": 0.4, "search:date": 0.3, "search:views": 0.3}}
ASKS_A_DAY = 60
CHOOSING: Mapping[str, tuple[Quota, Mapping[str, Any]]] = {
    "all arms": (Quota(100 * PART, 9000 * PART, 20_000 * PART), {"pages": 1500 * PART}),
    "topics alone": (Quota(search=20 * PART), ALONE),
}
BROKEN_PART = 1 / 15
_METHOD = next(method for method in METHODS.values() if method.name == "search.list")


@dataclass(frozen=True)
class Options:
    """What to run."""

    seeds: int = 10
    processes: int = 1


def add_options(parser: argparse.ArgumentParser) -> None:
    """The bench's own options."""
    parser.add_argument("--seeds", type=int, default=Options.seeds, help="worlds, at least 2")
    parser.add_argument("--processes", type=int, default=Options.processes)


def options_of(parsed: argparse.Namespace) -> Options:
    return Options(parsed.seeds, parsed.processes)


@dataclass(frozen=True)
class Pair:
    """One measure in one world, without what the graph knows and with it."""

    what: str
    without: float
    known: float


async def figures(options: Options = Options()) -> AsyncIterator[Figure]:
    """What the graph's part adds to each measure."""
    pairs: defaultdict[str, list[Pair]] = defaultdict(list)
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for of_seed in pool.map(work, range(1, options.seeds + 1)):
            for pair in of_seed:
                pairs[pair.what].append(pair)
    console = Console(stderr=True, emoji=False)
    for what, of_what in pairs.items():
        without, known = (
            np.array([getattr(each, name) for each in of_what]) for name in ("without", "known")
        )
        mean, low, high = paired(known, without)
        console.print(f"{what}: {[f'{each:+.4g}' for each in (known - without).tolist()]}")
        yield Figure(
            what, float(known.mean()), "", float(without.mean()), "without the graph",
            note=f"difference {mean:+.4g} [{low:+.4g}, {high:+.4g}]",
        )  # fmt: skip


def work(seed: int) -> list[Pair]:
    """All measures in the world of one seed."""
    place = scene(seed, SIZE)
    pairs = [*_expecting(place), *_choosing(place)]
    place.catalogue.close()
    for pair in pairs:
        progress(f"  seed {seed}, {pair.what}: {pair.without:.4f} without, {pair.known:.4f} with the graph")
    return pairs


def _world(place: Scene) -> World:
    return World(place.catalogue, replace(PRESETS[WORLDS["realistic"]], seed=place.seed))


def _choosing(place: Scene) -> Iterator[Pair]:
    for way, (quota, options) in CHOOSING.items():
        found = [
            run(make(way, **options), place, _world(place), name="realistic", quota=quota).a_day
            for make in (Portfolio, Knowing)
        ]
        yield Pair(f"early growing videos a day, {way}", *found)


def _expecting(place: Scene) -> Iterator[Pair]:
    hunter = Knowing("asking", **ASKING, chooses=False, grouped=True)
    run(hunter, place, _world(place), name="realistic", quota=Quota(search=ASKS_A_DAY))
    random_ = random.Random(place.seed)
    topics = range(len(place.queries))
    broken = {
        "any topics are broken": frozenset(random_.sample(topics, int(len(topics) * BROKEN_PART))),
        "a category is broken": _topics_of_a_category(place, hunter.questions),
    }
    for kind, those in broken.items():
        outcomes = list(_outcomes(hunter.questions, those, place.seed))
        without, known = (
            play(Ours(), list(_steps(hunter.questions, outcomes, with_graph=each))) for each in (False, True)
        )
        yield Pair(f"Brier score of expected success, {kind}", without.brier, known.brier)
        yield Pair(f"log loss of expected success, {kind}", without.log_loss, known.log_loss)


def _topics_of_a_category(place: Scene, questions: Sequence[Asked]) -> frozenset[int]:
    """The topics of which most videos are of the category that most questions are about."""
    videos = np.arange(len(place.published))
    topics, rows = place.topics_of(videos)
    of_videos = place.catalogue.columns.category[videos].astype(np.int64)[rows]
    counts = np.zeros((len(place.queries), int(of_videos.max()) + 1))
    np.add.at(counts, (topics, of_videos), 1)
    category = counts.argmax(axis=1)
    asked = np.concatenate([each.topics for each in questions])
    most = int(np.bincount(category[asked]).argmax())
    return frozenset(np.flatnonzero(category == most).tolist())


def _outcomes(questions: Sequence[Asked], broken: Collection[int], seed: int) -> Iterator[str | None]:
    """How each question fails; None: it doesn't."""
    weather, named = Weather(random.Random(seed), seed), frozenset(map(str, broken))
    for number, asked in enumerate(questions):
        topic = next((str(k) for k in asked.topics.tolist() if k in broken), None)
        plans = weather.plans({"topic": topic, "region": "US"}, named, spent=False)
        failure = failure_of(plans, _METHOD, number, instant(asked.at_s))
        yield failure and failure.value


def _steps(questions: Sequence[Asked], outcomes: Sequence[str | None], *, with_graph: bool) -> Iterator[Step]:
    for number, (asked, failure) in enumerate(zip(questions, outcomes, strict=True)):
        context = {**asked.context, **(asked.known if with_graph else {})}
        known = known_before("hunter", str(context["arm"]), context, instant(asked.at_s))
        yield Step(number, known)
        yield Step(number, known, failure is None, failure)
