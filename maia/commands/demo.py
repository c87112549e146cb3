"""`maia demo`: the whole of Pleiades at work on one machine, with nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maia.running import progress_bar
from maia.terminal import AsJson, console, load_settings, print_json, print_table

if TYPE_CHECKING:
    from atlas.adapters.maia import Discoveries, TopVideo
    from atlas.composition import Atlas
    from atlas.config import Settings
    from atlas.keyring import LedgerLine
    from maia.commands.top import Leaderboard
    from maia.hunter import Progress

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

VIDEOS, CHANNELS, DAYS, SEED = 5_000, 300, 20, 7
SEEDS, BATCH_SIZE, CYCLES = 3, 10, 5
TRACKED_DAYS, CYCLES_A_DAY = 3, 2
TOP = 10
EVENING = timedelta(hours=6)
"""How long before the Pacific midnight the demo begins: pace has freed most of the day's quota by then."""

HOUR = timedelta(hours=1)

_MOST_TAGGED_VIDEOS = 20_000
_MOST_AN_HOUR = 20_000
_SUMMED = ("videos", "samples", "hidden", "missing", "gone", "breakouts", "channels", "degraded")
_FOREIGN_NAMES = ("DATABASE_URL", "YOUTUBE_API_KEY_POOL_JSON", "VAULT_PROVIDER", "HF_DATASET_ID", "HF_TOKEN",
                  "REDIS_URL", "NODE_ID", "HOST", "PORT")  # fmt: skip


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


@app.command()
def demo(
    catalogue: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            resolve_path=True,
            help="Hunt this catalogue (see maia catalogue) instead of a synthetic one.",
            show_default=False,
        ),
    ] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(help="Begin with this topic; by default with the catalogue's commonest tags."),
    ] = None,
    cycles: Annotated[int, typer.Option(min=1, help="Cycles to hunt on the first evening.")] = CYCLES,
    days: Annotated[int, typer.Option(min=0, help="Virtual days to track, hour by hour.")] = TRACKED_DAYS,
    as_json: AsJson = False,
) -> None:
    """Hunt and track a catalogue in a throw-away database: no key, no network, nothing left behind.

    The emulator serves the catalogue, the embedded PostgreSQL stores what is found and sampled. On a virtual
    evening the hunter runs as a Prefect flow; then the tracker follows what it found, hour by hour for some
    virtual days, and each evening the hunter goes out again: the same programs as in production.
    """
    say = console(stderr=True).print
    with workshop() as folder:
        path = catalogue or _synthesized(folder, say)
        topics, begin = prospects(path, topic, days)
        with _emulator(path, begin, folder) as environment:
            os.environ.update(environment | {"PLEIADES_TRACKER__BREAKOUT_ALERT": "info"})
            say(f"The emulator serves {path.name} at {environment['PLEIADES_YOUTUBE__BASE_URL']}.")
            settings = load_settings()
            say(f"Hunting from {', '.join(map(repr, topics))}; PostgreSQL and Prefect are starting …")
            harvest = _hunted(settings, topics, cycles, days)
    if as_json:
        from maia.commands.top import as_dict

        print_json(asdict(harvest) | {"leaderboard": as_dict(harvest.leaderboard)})
    else:
        _report(harvest)


@contextmanager
def workshop() -> Iterator[Path]:
    """A folder for everything, in an environment without the user's own Pleiades and Prefect."""
    before, place = dict(os.environ), Path.cwd()
    folder = Path(tempfile.mkdtemp(prefix="pleiades-demo-"))
    # Started by root, the embedded server runs as an ordinary user, who must reach its folder.
    folder.chmod(0o711)
    level = os.environ.get("PLEIADES_LOG__LEVEL", "WARNING")
    try:
        for name in before:
            if name in _FOREIGN_NAMES or name.startswith(("PLEIADES_", "PREFECT_")):
                del os.environ[name]
        os.environ |= {
            "NODE_ID": "demo",
            "PLEIADES_DATA_DIR": str(folder / "data"),
            "PLEIADES_LOG__LEVEL": level,
            "PLEIADES_SECRETS_DIR": str(folder / "secrets"),
            "PREFECT_HOME": str(folder / "prefect"),
        }
        os.chdir(folder)
        yield folder
    finally:
        os.chdir(place)
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def _synthesized(folder: Path, say: Callable[[str], None]) -> Path:
    from maia.youtube.synthesis import synthesize

    path = folder / "synthetic.catalogue"
    synthesize(path, videos=VIDEOS, channels=CHANNELS, days=DAYS, seed=SEED)
    say(f"Synthesized {VIDEOS:,} videos of {CHANNELS:,} channels from seed {SEED}.")
    return path


def prospects(path: Path, topics: Sequence[str] | None, days: int = 0) -> tuple[list[str], datetime]:
    """The topics to begin with, and the first Pacific evening with no more than `days` recorded after it.

    Of what was recorded over a shorter time than twice that, all is before the evening.
    """
    from atlas.clock import next_reset
    from maia.youtube.catalogue import Catalogue

    with Catalogue.open(path) as opened:
        first, end = opened.span
        if end - first > timedelta(days=2 * days):
            end -= timedelta(days=days)
        if not topics:
            step = len(opened) // _MOST_TAGGED_VIDEOS + 1
            tags = Counter(
                tag.casefold() for n in range(0, len(opened), step) for tag in set(opened.video(n).tags)
            )
            topics = [tag for tag, _ in tags.most_common(SEEDS)]
    if not topics:
        raise typer.BadParameter(f"{path.name} has no tags to begin with: name a --topic")
    evening = next_reset(end) - EVENING
    return list(topics), evening if evening >= end else next_reset(next_reset(end)) - EVENING


@contextmanager
def _emulator(catalogue: Path, begin: datetime, folder: Path) -> Iterator[dict[str, str]]:
    """The emulator in a process of its own; yields what to export for agents to use it."""
    command = [sys.executable, "-m", "maia", "emulator", "--catalogue", str(catalogue), "--port", "0"]
    command += ["--clock", begin.isoformat(), "--json"]
    complaints = folder / "emulator.log"
    # In a session of its own it doesn't hear Ctrl-C: it has to answer until the hunter is through.
    with complaints.open("wb") as log, subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            if not ready:
                raise typer.BadParameter(f"the emulator did not start: {complaints.read_text().strip()}")
            yield json.loads(ready)["environment"]
        finally:
            process.terminate()


def _hunted(settings: Settings, topics: list[str], cycles: int, days: int) -> Harvest:
    from flows import environment

    environment.prepare()
    from flows import server

    with server.reachable(), _display(cycles) as on_progress:
        statistics = asyncio.run(_hunt(settings, topics, cycles, on_progress))
    return asyncio.run(_track(settings, statistics, days))


async def _hunt(
    settings: Settings, topics: list[str], cycles: int, on_progress: Callable[[Progress], None]
) -> dict[str, Any]:
    from atlas.adapters.maia import MaiaDAO
    from atlas.composition import Atlas
    from flows.hunter import run

    async with Atlas.open(settings):
        await MaiaDAO().seed(topics)
        return await run(settings, BATCH_SIZE, cycles, on_progress)


async def _track(settings: Settings, hunted: dict[str, Any], days: int) -> Harvest:
    """Let the hours pass for the emulator and for the agents alike, and look at what came of it."""
    import aiohttp

    from atlas.clock import FixedClock
    from atlas.composition import Atlas, clock_of
    from maia.signals import cancelled_by_sigterm

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
    """Track what is due; in the evening hunt for more. Returns the sums of all hours."""
    from maia import hunter, tracker

    counts = Counter({name: value for name, value in before.items() if isinstance(value, int)})
    if hour % 24 == 0:
        counts["found"] += (await hunter.run(atlas, batch_size=BATCH_SIZE, cycles=CYCLES_A_DAY))["new"]
    statistics = await tracker.run(atlas, batch_size=_MOST_AN_HOUR)
    counts.update({name: statistics[name] for name in _SUMMED})
    return dict(counts) | {"deferred": statistics["deferred"]}


async def _harvest(atlas: Atlas, hunted: dict[str, Any], tracking: dict[str, Any]) -> Harvest:
    from atlas.adapters.maia import MaiaDAO
    from atlas.keyring import KeyRing
    from maia.commands.top import leaderboard

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
    )


@contextmanager
def _display(cycles: int) -> Iterator[Callable[[Progress], None]]:
    """A progress bar on a terminal, and a line a cycle."""
    found: Counter[str] = Counter()

    def described(progress: Progress) -> str:
        found["videos"] += progress.page.new if progress.page else 0
        found["tags"] += progress.page.tags if progress.page else 0
        brought = f"{found['videos']:,} videos, {found['tags']:,} new topics"
        return f"cycle {progress.cycle} of {cycles}: {brought}, {progress.done} of {progress.claimed} pages"

    with progress_bar(described, lines=True) as show:
        yield show


@dataclass(frozen=True, slots=True)
class _Hours:
    """How far the tracking is; a day is claimed at a time."""

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
    """A progress bar on a terminal, and a line a day."""

    def described(passed: _Hours) -> str:
        day, counts = (passed.hour - 1) // 24 + 1, passed.counts
        return (
            f"day {day} of {days}: {counts['samples']:,} samples, {counts['breakouts']:,} breakouts, "
            f"{counts['gone']:,} videos gone"
        )

    with progress_bar(described, lines=True) as show:
        yield lambda hour, counts: show(_Hours(hour, counts))


def _report(harvest: Harvest) -> None:
    from maia.commands.top import print_leaderboard

    found, hunted, tracked = harvest.discoveries, harvest.statistics, harvest.tracking
    typer.echo(
        f"\n{found.videos:,} videos of {found.channels:,} channels, {tracked.get('samples', 0):,} samples of "
        f"them, {tracked.get('breakouts', 0):,} breakouts; the queue holds {found.topics:,} topics"
    )
    if hunted["detail"]:
        typer.echo(hunted["detail"])
    print_table(("topic", "videos with that tag*"), harvest.tags, title="Most frequent topics")
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
            ("at", "video", "age in h", "views", "views an hour*", "times expected*"),
            [
                (datetime.fromisoformat(breakout["at"]), *(breakout[name] for name in names))
                for breakout in harvest.breakouts
            ],
            title="Last breakouts",
        )
    print_leaderboard(harvest.leaderboard)
    typer.echo("* computed by Pleiades, not by YouTube\n")
    typer.echo(
        "Next: set YOUTUBE_API_KEY_POOL_JSON, then maia doctor, maia seed TOPIC, maia hunter, maia tracker."
    )
