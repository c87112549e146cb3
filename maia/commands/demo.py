"""`maia demo`: runs all of Pleiades on one machine, in a temporary folder that is removed at the end."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atlas.wording import counted
from maia.commands.running import cycle_progress
from maia.commands.tables import Column, print_table
from maia.commands.terminal import AsJson, console, load_settings, print_json, print_text
from maia.commands.workshop import workshop

if TYPE_CHECKING:
    from atlas.adapters.discovery import ArmYield
    from atlas.adapters.videos import Discoveries, TopVideo
    from atlas.composition import Atlas
    from atlas.config import Settings
    from atlas.keyring import LedgerLine
    from maia.hunter.cycle import AskProgress
    from maia.views.leaderboard import Leaderboard

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

VIDEOS, CHANNELS, DAYS, SEED = 5_000, 300, 20, 7
SEEDS, BATCH_SIZE, CYCLES = 3, 10, 5
TRACKED_DAYS, CYCLES_A_DAY = 3, 2
TOP = 10
EVENING = timedelta(hours=6)
"""How long before midnight in Los Angeles the demo begins. The quota is released over the day, and most of it
is available by then."""

HOUR = timedelta(hours=1)

_OURS = {
    "PLEIADES_TRACKER__BREAKOUT_ALERT": "info",
    # The emulator is nobody's server, so its feeds may be asked for fast.
    "PLEIADES_FEEDS__REQUESTS_PER_S": "100",
}
_MOST_TAGGED_VIDEOS = 20_000
_MOST_AN_HOUR = 20_000
_SUMMED_COUNTS = (
    "videos", "samples", "feed_samples", "hidden", "missing", "gone", "breakouts", "channels", "degraded",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Harvest:
    """What the demo found."""

    statistics: dict[str, Any]
    tracking: dict[str, Any]
    discoveries: Discoveries
    videos: list[TopVideo]
    tags: list[tuple[str, int]]
    breakouts: list[dict[str, Any]]
    leaderboard: Leaderboard
    ledger: list[LedgerLine]
    sources: list[ArmYield]
    """What each source and form of search cost and found."""
    atoms: Mapping[str, int]
    """How many atoms of each type the graph has."""


@app.command()
def demo(
    catalogue: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            resolve_path=True,
            help="Use this catalogue (see maia catalogue) instead of made-up videos.",
            show_default=False,
        ),
    ] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(help="A topic to search first. [default: the catalogue's most common tags]"),
    ] = None,
    cycles: Annotated[int, typer.Option(min=1, help="Hunter cycles on the first evening.")] = CYCLES,
    days: Annotated[int, typer.Option(min=0, help="Virtual days to track, hour by hour.")] = TRACKED_DAYS,
    sites: Annotated[
        int | None,
        typer.Option(
            min=3,
            max=5,
            help="Show instead how so many sites learn apart, exchange evidence, and agree.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            file_okay=False,
            resolve_path=True,
            help="Keep the data in this new folder, to look at with other commands.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the hunter and the tracker on made-up videos: no API key, no network, nothing left behind.

    The emulator stands in for YouTube, and an embedded PostgreSQL stores the videos found. The hunter runs
    first, as a Prefect flow. Then the tracker samples the videos every virtual hour for a few virtual days,
    and the hunter runs again each evening. All of it is the code that runs in production.

    With --keep FOLDER its data stay: after `export PLEIADES_DATA_DIR=FOLDER`, commands such as `maia graph`
    and the dashboard of `maia api` show them. Delete the folder afterwards.
    """
    if keep is not None and (sites is not None or (keep.exists() and any(keep.iterdir()))):
        raise typer.BadParameter("--keep takes a folder that is new or empty, and does not go with --sites")
    if sites is not None:
        from maia.commands import demo_sites

        demo_sites.show(sites, as_json=as_json)
        return
    say = console(stderr=True).print
    with workshop() as folder:
        path = catalogue or _synthesize_catalogue(folder, say)
        topics, begin = starting_point(path, topic, days)
        with _emulator(path, begin, folder) as environment:
            os.environ.update(environment | _OURS)
            if keep is not None:
                os.environ["PLEIADES_DATA_DIR"] = str(keep)
            say(f"The emulator serves {path.name} at {environment['PLEIADES_YOUTUBE__BASE_URL']}.")
            settings = load_settings()
            say(f"Searching for {', '.join(map(repr, topics))}; PostgreSQL and Prefect are starting …")
            harvest = _hunt_and_track(settings, topics, cycles, days)
    if as_json:
        from maia.views.words import plain

        print_json(plain(harvest))
    else:
        _report(harvest)
    if keep is not None:
        say(f"The data are in {keep}. To look at them: export PLEIADES_DATA_DIR={shlex.quote(str(keep))}")


def _synthesize_catalogue(folder: Path, say: Callable[[str], None]) -> Path:
    from maia.emulator.synthesis import synthesize

    path = folder / "synthetic.catalogue"
    synthesize(path, videos=VIDEOS, channels=CHANNELS, days=DAYS, seed=SEED)
    say(f"Synthesized {VIDEOS:,} videos of {CHANNELS:,} channels from seed {SEED}.")
    return path


def starting_point(path: Path, topics: Sequence[str] | None, days: int = 0) -> tuple[list[str], datetime]:
    """The topics to search first, and the Pacific evening on which to start.

    The evening leaves the last `days` of the catalogue to be tracked, if the catalogue covers more than twice
    as many days; otherwise it comes after the whole catalogue.
    """
    from atlas.clock import next_reset
    from maia.emulator.catalogue import Catalogue

    with Catalogue.open(path) as opened:
        first, end = opened.busy_span
        if end - first > timedelta(days=2 * days):
            end -= timedelta(days=days)
        if not topics:
            step = len(opened) // _MOST_TAGGED_VIDEOS + 1
            tags = Counter(
                tag.casefold() for n in range(0, len(opened), step) for tag in set(opened.video(n).tags)
            )
            topics = [tag for tag, _ in tags.most_common(SEEDS)]
    if not topics:
        raise typer.BadParameter(f"{path.name} has no tags to search for: give a --topic")
    evening = next_reset(end) - EVENING
    return list(topics), evening if evening >= end else next_reset(next_reset(end)) - EVENING


@contextmanager
def _emulator(catalogue: Path, begin: datetime, folder: Path) -> Iterator[dict[str, str]]:
    """Run the emulator in a process of its own; yields the variables with which agents use it."""
    from maia.stack.leash import leashed

    command = [sys.executable, "-m", "maia", "emulator", "--catalogue", str(catalogue), "--port", "0"]
    command += ["--clock", begin.isoformat(), "--realism", "realistic", "--json"]
    log_file = folder / "emulator.log"
    # In a session of its own it does not get the terminal's Ctrl-C: the hunter still needs it to finish.
    with log_file.open("wb") as log, subprocess.Popen(
        leashed(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            told = json.loads(ready or "{}")
            if "environment" not in told:
                raise typer.BadParameter(f"the emulator did not start: {log_file.read_text().strip()}")
            yield told["environment"]
        finally:
            process.terminate()


def _hunt_and_track(settings: Settings, topics: list[str], cycles: int, days: int) -> Harvest:
    from flows import environment

    environment.prepare()
    from flows import temporary

    with temporary.reachable(), _display(cycles) as on_progress:
        statistics = asyncio.run(_hunt(settings, topics, cycles, on_progress))
    return asyncio.run(_track(settings, statistics, days))


async def _hunt(
    settings: Settings, topics: list[str], cycles: int, on_progress: Callable[[AskProgress], None]
) -> dict[str, Any]:
    from atlas.adapters.maia import MaiaDAO
    from atlas.composition import Atlas
    from flows.agents import run_here
    from maia.agents import agent_named

    async with Atlas.open(settings):
        await MaiaDAO().seed(topics)
        return await run_here(agent_named("hunter"), settings, BATCH_SIZE, cycles, on_progress)


async def _track(settings: Settings, hunted: dict[str, Any], days: int) -> Harvest:
    """Advance the clock of the emulator and the agents hour by hour, then collect the results."""
    import aiohttp

    from atlas.clock import FixedClock
    from atlas.composition import Atlas, clock_of
    from maia.cycle.signals import cancelled_by_sigterm

    clock, tracking = FixedClock(clock_of(settings).now()), dict[str, Any]()
    control = f"{settings.youtube.base_url}/_emulator"
    with cancelled_by_sigterm(), _hours(days) as show:
        async with aiohttp.ClientSession() as session, Atlas.open(settings, clock=clock) as atlas:
            for hour in range(1, 24 * days + 1):
                clock.advance(HOUR)
                standing = {"clock": clock.now().isoformat(), "speed": 0}
                async with session.post(control, json=standing, raise_for_status=True):
                    tracking = await _pass_an_hour(atlas, hour, tracking)
                    show(hour, tracking)
            return await _harvest(atlas, hunted, tracking)


async def _pass_an_hour(atlas: Atlas, hour: int, before: dict[str, Any]) -> dict[str, Any]:
    """Run the tracker, and in the evening also the hunter. Returns the sums of all hours."""
    from maia.cycle.agent import run
    from maia.hunter.cycle import Hunter
    from maia.tracker.cycle import Tracker

    counts = Counter({name: value for name, value in before.items() if isinstance(value, int)})
    if hour % 24 == 0:
        counts["found"] += (await run(Hunter, atlas, batch_size=BATCH_SIZE, cycles=CYCLES_A_DAY))["new"]
    statistics = await run(Tracker, atlas, batch_size=_MOST_AN_HOUR)
    counts.update({name: statistics[name] for name in _SUMMED_COUNTS})
    return dict(counts) | {"deferred": statistics["deferred"]}


async def _harvest(atlas: Atlas, hunted: dict[str, Any], tracking: dict[str, Any]) -> Harvest:
    from atlas.adapters.discovery import DiscoveryDAO
    from atlas.adapters.graph import GraphDAO
    from atlas.adapters.maia import MaiaDAO
    from atlas.keyring import KeyRing
    from maia.discovery.judging import judge
    from maia.graphing.deriving import derive
    from maia.graphing.feeding import feed
    from maia.views.leaderboard import leaderboard

    await judge(atlas)
    await feed(atlas)
    await derive(atlas)
    dao = MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    rings = [KeyRing(name, atlas=atlas) for name in ("hunting", "tracking")]
    breakouts = await atlas.events.latest(TOP, kinds=["tracker.breakout"])
    return Harvest(
        statistics=hunted,
        tracking=tracking,
        discoveries=await dao.discoveries(),
        videos=await dao.top_videos(TOP),
        tags=await dao.top_topics(TOP),
        breakouts=[dict(event.payload) for event in breakouts],
        leaderboard=await leaderboard(atlas, "velocity", TOP),
        ledger=[line for ring in rings for line in await ring.ledger()],
        sources=await DiscoveryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).totals_by_arm(),
        atoms=await GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).count_by_type(),
    )


@contextmanager
def _display(cycles: int) -> Iterator[Callable[[AskProgress], None]]:
    """A progress bar on a terminal, and one line per cycle."""
    found: Counter[str] = Counter()

    def describe(progress: AskProgress) -> str:
        found["videos"] += progress.page.new if progress.page else 0
        found["tags"] += progress.page.tags if progress.page else 0
        results = f"{counted(found['videos'], 'video')}, {counted(found['tags'], 'new topic')}"
        pages = counted(progress.claimed, "page")
        return f"cycle {progress.cycle} of {cycles}: {results}, {progress.done} of {pages}"

    with cycle_progress(describe, lines=True) as show:
        yield show


@dataclass(frozen=True, slots=True)
class _HoursDone:
    """How far the tracking is, as the hours of a day that are done."""

    hour: int
    counts: dict[str, Any]

    @property
    def done(self) -> int:
        return (self.hour - 1) % 24 + 1

    @property
    def claimed(self) -> int:
        return 24


@contextmanager
def _hours(days: int) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """A progress bar on a terminal, and one line per day."""

    def describe(progress: _HoursDone) -> str:
        day, counts = (progress.hour - 1) // 24 + 1, progress.counts
        return (
            f"day {day} of {days}: {counted(counts['samples'], 'sample')}, breakouts: "
            f"{counts['breakouts']:,}, gone: {counts['gone']:,}"
        )

    with cycle_progress(describe, lines=True) as show:
        yield lambda hour, counts: show(_HoursDone(hour, counts))


def _report(harvest: Harvest) -> None:
    from maia.commands.top import print_leaderboard

    found, hunted, tracked = harvest.discoveries, harvest.statistics, harvest.tracking
    print_text(
        f"\nFound {counted(found.videos, 'video')} of {counted(found.channels, 'channel')} and took "
        f"{counted(tracked.get('samples', 0), 'sample')} of them: "
        f"{counted(tracked.get('breakouts', 0), 'breakout')}. "
        f"The search queue has {counted(found.topics, 'topic')}, and the graph "
        f"{counted(sum(harvest.atoms.values()), 'atom')}."
    )
    if hunted["detail"]:
        print_text(hunted["detail"])
    print_table((Column("topic", 20), "videos with that tag"), harvest.tags, title="Most frequent topics")
    print_table(
        ("ring", "bucket", "used", "left today"),
        [
            (line.ring, line.bucket, line.used + line.reserved, line.left)
            for line in harvest.ledger
            if line.ring_limit
        ],
        title="Quota of the last day",
    )
    names = ("video_id", "age_h", "views", "views_per_hour", "times_expected")
    if harvest.breakouts:
        print_table(
            ("at", "video", "age in h", "views", "views/h*", "times expected*"),
            [
                (datetime.fromisoformat(breakout["at"]), *(breakout[name] for name in names))
                for breakout in harvest.breakouts
            ],
            title="Latest breakouts",
        )
        print_text("* computed by Pleiades, not by YouTube\n")
    print_leaderboard(harvest.leaderboard)
    _report_sources(harvest.sources)
    print_text(
        "\nNext: set YOUTUBE_API_KEY_POOL_JSON to your API key, then run maia doctor, maia seed TOPIC, "
        "maia hunter and maia tracker."
    )


def _report_sources(sources: Sequence[ArmYield]) -> None:
    """Print what each source found and what it cost, the one with most growing videos first."""
    columns = (
        "source", "units", Column("metadata units", rank=3), Column("found", rank=2), "new", "early",
        Column("judged", rank=1), "growing",
    )  # fmt: skip
    ranked = sorted(sources, key=lambda source: (-source.growing, -source.new, source.arm))
    print_text("")
    print_table(
        columns,
        [
            (
                source.arm, source.units, round(source.enrichments), source.found, source.new, source.early,
                source.judged, source.growing,
            )
            for source in ranked
        ],
        title="What each source found, and what it cost",
    )  # fmt: skip
    print_text(
        "Early videos were found within 24 hours of publication; which of them grew is known a day later. "
        "maia plan divides the next day's units accordingly."
    )
