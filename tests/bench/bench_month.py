"""A month of all agents in virtual time: which patterns does the learner find, and are they true?

The emulator serves a made-up world. Hour by hour, the hunter, the tracker and the learner run as in
production. The truths that are there to be found: YouTube's service is ill at night and for one whole day;
an operator watches music videos and seeds topics; the host's load is what this machine has. Nothing is
timed: the figures are counts of patterns, and the table lists the most firmly believed ones of each type.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import aiohttp
from rich.console import Console
from rich.table import Table

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.telemetry import TelemetryDAO
from atlas.adapters.watches import Watch, WatchesDAO, WatchKind
from atlas.clock import FixedClock
from atlas.composition import Atlas, clock_of
from atlas.config import Settings, load
from maia import acts
from maia.cycle.agent import Agent, run
from maia.emulator.catalogue import Catalogue
from maia.emulator.synthesis import synthesize
from maia.hunter.cycle import Hunter
from maia.learner.cycle import Learner
from maia.learning.patterns import PatternType
from maia.maintenance.monitor import Monitor
from maia.tracker.cycle import Tracker
from maia.views.patterns import BelievedPattern, patterns
from tests.bench.figures import Figure
from tests.bench.stage import emulator, temporary_folder

HOUR: Final = timedelta(hours=1)
_NIGHT: Final = range(6)
_ILL_DAY: Final = 12
_SHOWN: Final = 2
_MUSIC: Final = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("month")
    group.add_argument("--days", type=int, default=30, help="virtual days to run")
    group.add_argument("--videos", type=int, default=20_000, help="videos of the made-up world")
    group.add_argument("--keep", type=Path, help="keep the database in this folder, to look at it with maia")


def options_of(options: argparse.Namespace) -> argparse.Namespace:
    return options


async def figures(options: argparse.Namespace) -> AsyncIterator[Figure]:
    with temporary_folder(options.keep) as folder:
        catalogue = folder / "month.catalogue"
        synthesize(
            catalogue, seed=7, videos=options.videos, channels=options.videos // 4, days=options.days + 4
        )
        with Catalogue.open(catalogue) as opened:
            begin = opened.busy_span[0] + timedelta(days=2)
        world = ("--realism", "realistic", "--clock", begin.isoformat())
        async with emulator(catalogue, *world) as (_, environment):
            settings = _settings(environment, options.keep or folder)
            found, counts = await _month(settings, options.days)
    Console(emoji=False).print(_table(found))
    by_type = Counter(each.type for each in found)
    for type_ in PatternType:
        yield Figure(f"patterns: {type_.value}", by_type[type_], "patterns", goal=1)
    for name, count in counts.items():
        yield Figure(name, count, "")


def _settings(environment: dict[str, str], folder: Path) -> Settings:
    import os

    for name in [name for name in os.environ if name.startswith(("PLEIADES_", "DATABASE_URL", "YOUTUBE_"))]:
        del os.environ[name]
    os.environ.update(environment)
    return load(
        data_dir=folder,
        feeds={"requests_per_s": 100},
        monitoring={"after_cycles": False},
    )


async def _month(settings: Settings, days: int) -> tuple[list[BelievedPattern], Counter[str]]:
    clock, counts = FixedClock(clock_of(settings).now()), Counter[str]()
    monitor = Monitor(node="here", clock=clock, folder=settings.data_folder)
    monitor.begin()
    control = f"{settings.youtube.base_url}/_emulator"
    async with aiohttp.ClientSession() as session, Atlas.open(settings, clock=clock) as atlas:
        await MaiaDAO().seed(["music", "games", "news", "cooking", "science", "football"])
        for hour in range(24 * days):
            clock.advance(HOUR)
            posted = {
                "clock": clock.now().isoformat(),
                "speed": 0,
                "faults": _faults(clock.now(), hour // 24),
            }
            async with session.post(control, json=posted, raise_for_status=True):
                pass
            await _pass_an_hour(atlas, hour, counts)
            await TelemetryDAO().store([monitor.sample()])
            if hour % 24 == 23:
                print(f"day {hour // 24 + 1}: {dict(counts)}", file=sys.stderr)
        return await patterns(atlas), counts


def _faults(now: datetime, day: int) -> list[str]:
    if day == _ILL_DAY:
        return ["503:0.6"]
    return ["503:0.9:search.list"] if now.hour in _NIGHT else ["reset:0.01"]


async def _pass_an_hour(atlas: Atlas, hour: int, counts: Counter[str]) -> None:
    for agent, options in ((Hunter, {"batch_size": 6}), (Tracker, {"batch_size": 5_000})):
        statistics = await _run(agent, atlas, counts, **options)
        counts["new videos"] += statistics.get("new", 0)
        counts["samples"] += statistics.get("samples", 0)
    if hour % 24 in (9, 18):
        await _operate(atlas, counts)
    if hour % 3 == 0:
        statistics = await _run(Learner, atlas, counts)
        for name in ("observations", "measurements", "curves", "new_patterns", "alarms"):
            counts[name] += statistics.get(name, 0)


async def _run(agent: type[Agent[Any]], atlas: Atlas, counts: Counter[str], **options: Any) -> dict[str, Any]:
    """Run a cycle; one that fails is counted, as its process would be started again."""
    try:
        return await run(agent, atlas, **options)
    except (Exception, SystemExit) as error:  # noqa: BLE001
        counts[f"{agent.name} failed: {type(error).__name__}"] += 1
        return {}


async def _operate(atlas: Atlas, counts: Counter[str]) -> None:
    """What an operator does who likes music: watch the newest music videos, and seed a topic now and then."""
    from atlas.adapters.board import BoardDAO, Filters, Lead

    board = BoardDAO()
    leaders = await board.top(Lead.VELOCITY, 3, Filters(category_id=_MUSIC))
    watches = [Watch(WatchKind.VIDEO, leader.id) for leader in leaders]
    if watches:
        await WatchesDAO().add(watches, None)
        await acts.record(atlas, "watch", await acts.watched_things(atlas, watches))
        counts["watched"] += len(watches)


def _table(found: Sequence[BelievedPattern]) -> Table:
    table = Table(title="The most firmly believed patterns of each type")
    for column in ("type", "statement", "confidence", "support"):
        table.add_column(column)
    for type_ in PatternType:
        for each in [each for each in found if each.type is type_][:_SHOWN]:
            table.add_row(type_.value, each.statement, f"{each.confidence:.2f}", str(each.support))
    return table
