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
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maia.terminal import AsJson, console, load_settings, print_json, print_table

if TYPE_CHECKING:
    from atlas.adapters.maia import Discoveries, TopVideo
    from atlas.config import Settings
    from atlas.keyring import LedgerLine
    from maia.hunter import Progress

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

VIDEOS, CHANNELS, DAYS, SEED = 5_000, 300, 20, 7
SEEDS, BATCH_SIZE, CYCLES = 3, 10, 5
TOP = 10
EVENING = timedelta(hours=6)
"""How long before the Pacific midnight the demo begins: pace has freed most of the day's quota by then."""

_MOST_TAGGED_VIDEOS = 20_000
_FOREIGN_NAMES = ("DATABASE_URL", "YOUTUBE_API_KEY_POOL_JSON", "VAULT_PROVIDER", "HF_DATASET_ID", "HF_TOKEN",
                  "REDIS_URL", "NODE_ID", "HOST", "PORT")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Harvest:
    """What the demo found."""

    statistics: dict[str, Any]
    discoveries: Discoveries
    videos: list[TopVideo]
    tags: list[tuple[str, int]]
    ledger: list[LedgerLine]
    now: datetime


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
    cycles: Annotated[int, typer.Option(min=1, help="Cycles to hunt.")] = CYCLES,
    as_json: AsJson = False,
) -> None:
    """Hunt a catalogue into a throw-away database: no key, no network, nothing left behind.

    The emulator serves the catalogue, the embedded PostgreSQL stores what the hunter finds, and the cycles
    run as a Prefect flow: the same programs as in production, in a temporary folder and a virtual evening.
    """
    say = console(stderr=True).print
    with _workshop() as folder:
        path = catalogue or _synthesized(folder, say)
        topics, begin = _prospects(path, topic)
        with _emulator(path, begin, folder) as environment:
            os.environ.update(environment)
            say(f"The emulator serves {path.name} at {environment['PLEIADES_YOUTUBE__BASE_URL']}.")
            settings = load_settings()
            say(f"Hunting from {', '.join(map(repr, topics))}; PostgreSQL and Prefect are starting …")
            harvest = _hunted(settings, topics, cycles)
    if as_json:
        print_json(harvest)
    else:
        _report(harvest)


@contextmanager
def _workshop() -> Iterator[Path]:
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


def _prospects(path: Path, topics: Sequence[str] | None) -> tuple[list[str], datetime]:
    """The topics to begin with, and the first Pacific evening after all that was recorded."""
    from atlas.clock import next_reset
    from maia.youtube.catalogue import Catalogue

    with Catalogue.open(path) as opened:
        end = opened.span[1]
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


def _hunted(settings: Settings, topics: list[str], cycles: int) -> Harvest:
    from flows import environment

    environment.prepare()
    from flows import server

    with server.reachable(), _display(cycles) as on_progress:
        return asyncio.run(_hunt(settings, topics, cycles, on_progress))


async def _hunt(
    settings: Settings, topics: list[str], cycles: int, on_progress: Callable[[Progress], None]
) -> Harvest:
    from atlas.adapters.maia import MaiaDAO
    from atlas.composition import Atlas
    from atlas.keyring import KeyRing
    from flows.hunter import run

    async with Atlas.open(settings) as atlas:
        dao = MaiaDAO()
        await dao.seed(topics)
        statistics = await run(settings, BATCH_SIZE, cycles, on_progress)
        return Harvest(
            statistics=statistics,
            discoveries=await dao.discoveries(),
            videos=await dao.top_videos(TOP),
            tags=await dao.top_topics(TOP),
            ledger=await KeyRing("hunting").ledger(),
            now=atlas.clock.now(),
        )


@contextmanager
def _display(cycles: int) -> Iterator[Callable[[Progress], None]]:
    """A progress bar on a terminal, else a line a cycle."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    out = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    found: Counter[str] = Counter()
    with Bar(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def show(progress: Progress) -> None:
            found["videos"] += progress.page.new if progress.page else 0
            found["tags"] += progress.page.tags if progress.page else 0
            brought = f"{found['videos']:,} videos, {found['tags']:,} new topics"
            about = f"cycle {progress.cycle} of {cycles}: {brought}"
            bar.update(task, description=about, completed=progress.done, total=progress.claimed)
            if progress.done == progress.claimed:
                out.print(f"{about}, by {progress.claimed} pages")

        yield show


def _report(harvest: Harvest) -> None:
    found, statistics = harvest.discoveries, harvest.statistics
    typer.echo(
        f"\n{found.videos:,} videos of {found.channels:,} channels in {statistics['cycles']} cycles, "
        f"{statistics['seconds']:.1f} s; the queue holds {found.topics:,} topics"
    )
    if statistics["detail"]:
        typer.echo(statistics["detail"])
    print_table(
        ("views", "views a day*", "published", "channel", "title"),
        [
            (
                video.view_count,
                _views_a_day(video, harvest.now),
                video.published_at,
                video.channel_title,
                video.title,
            )
            for video in harvest.videos
        ],
        title="Most viewed",
    )
    print_table(("topic", "videos with that tag*"), harvest.tags, title="Most frequent topics")
    print_table(
        ("bucket", "used", "left today"),
        [(line.bucket, line.used + line.reserved, line.left) for line in harvest.ledger if line.ring_limit],
        title="Quota of the hunting ring",
    )
    typer.echo("* computed by Pleiades, not by YouTube\n")
    typer.echo("Next: set YOUTUBE_API_KEY_POOL_JSON, then maia doctor, maia seed TOPIC, maia hunter.")


def _views_a_day(video: TopVideo, now: datetime) -> int | None:
    if video.published_at is None or video.published_at >= now:
        return None
    return round(video.view_count / max((now - video.published_at) / timedelta(days=1), 1 / 24))
