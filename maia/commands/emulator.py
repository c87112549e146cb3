"""`maia emulator`: emulates the YouTube Data API with the videos of a catalogue."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from atlas.wording import counted
from maia.commands import terminal
from maia.commands.arguments import parse_moment
from maia.commands.terminal import AsJson, console, print_line, print_text
from maia.emulator.faults import FEED_REFUSALS, LATENCY_HELP, MISHAPS, REFUSALS, Fault
from maia.emulator.quota import Project
from maia.emulator.realism import PRESETS, Realism, RealismName, assumptions, written

if TYPE_CHECKING:
    from datetime import datetime

    from atlas.clock import VirtualClock
    from maia.emulator import Emulator


def _values_of(name: str) -> str:
    """The parameter's value in every preset."""
    return ", ".join(written(getattr(preset, name)) or "nothing" for preset in PRESETS.values())


_EPILOG = "\n\n".join(
    [
        "KIND:RATE makes a share of the requests fail, from 0 to 1; KIND:RATE:METHOD those of a method.",
        "Feeds fail only by KIND:RATE:feed.",
        f"[cyan]latency[/]: {LATENCY_HELP}",
        "Broken responses: " + "; ".join(f"[cyan]{kind}[/] ({what})" for kind, what in MISHAPS.items()),
        "Error responses: " + "; ".join(f"[cyan]{kind}[/] ({what})" for kind, (what, _) in REFUSALS.items()),
        "Of feeds: " + "; ".join(f"[cyan]{kind}[/] ({of.reason})" for kind, of in FEED_REFUSALS.items()),
        f"NAME=VALUE changes one assumption of --realism. Their values in {', '.join(PRESETS)}:",
        *(f"[cyan]{name}[/] ({_values_of(name)}): {assumed}" for name, assumed in assumptions().items()),
    ]
)
_T = TypeVar("_T")
_Given = TypeVar("_Given")

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(epilog=_EPILOG)
def emulator(
    catalogue: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The videos to serve (see maia catalogue).", show_default=False),
    ],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")
    ] = 8780,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    clock: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="The virtual time at the start; by default a fifth into the catalogue, as most videos are "
            "yet to grow then.",
        ),
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="Virtual seconds per real second.")] = 1,
    project: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:LIMITS]",
            help="A project with its daily limits, such as demo:search=100, stats=10000, general=10000 and "
            "per_minute=600, separated by commas. Any key that begins with NAME- belongs to it. "
            "By default, there is one project named demo.",
        ),
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(metavar="KEY=PROJECT", help="Another key of a project.")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND:RATE", help="What should fail, and how often; see below."),
    ] = None,
    realism: Annotated[
        RealismName,
        typer.Option(
            help="How far the answers are from the catalogue: none shows all of it at once; realistic is "
            "what we assume of YouTube; in worst, the questions that work best elsewhere fail."
        ),
    ] = "none",
    assume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Change one assumption of --realism, such as empty_most=20; see below."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides which requests fail.")] = 0,
    environment: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write the printed settings into a file for your shell: . ./FILE",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Emulate the YouTube Data API v3 with the videos of a catalogue, until Ctrl-C or SIGTERM.

    Prints its address, and the variables to export so that agents use it and its virtual time.

    The page /_emulator shows clock, quota and calls; a POST there changes clock, speed and faults.
    """
    from atlas.clock import VirtualClock

    projects = [_parse(Project.parse, text, "--project") for text in project or ["demo"]]
    faults = [_parse(Fault.parse, text, "--fault") for text in fault or []]
    keys = dict(_key_and_project(text) for text in key or [])
    start = parse_moment(clock, "--clock")
    kindness = _parse(partial(Realism.named, realism), assume or [], "--assume")

    async def serve() -> None:
        from datetime import UTC, datetime

        from maia.emulator import Emulator
        from maia.emulator.catalogue import Catalogue

        with Catalogue.open(catalogue) as opened:
            begin = start or _beginning(*opened.busy_span)
            running = VirtualClock(begin, datetime.now(UTC), speed)
            async with Emulator.serve(
                opened,
                clock=running,
                projects=projects,
                keys=keys,
                faults=faults,
                seed=seed,
                realism=kindness,
                host=host,
                port=port,
            ) as served:
                if environment is not None:
                    _write_environment(environment, served.environment())
                _announce(served, running, environment, as_json=as_json)
                await asyncio.Event().wait()

    terminal.run(serve())


def _beginning(first: datetime, last: datetime) -> datetime:
    """A fifth into the catalogue: there are videos to find, and most of their growth is still to come."""
    return first + (last - first) / 5


def _write_environment(path: Path, environment: Mapping[str, str]) -> None:
    try:
        path.write_text("\n".join([*_exports(environment), ""]), encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise typer.BadParameter(f"{path} cannot be written: {reason}", param_hint="--environment") from error


def _exports(environment: Mapping[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]


def _parse(parse: Callable[[_Given], _T], text: _Given, option: str) -> _T:
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _key_and_project(text: str) -> tuple[str, str]:
    key, separator, project = text.rpartition("=")
    if not (separator and key and project):
        raise typer.BadParameter(f"{text!r} is not KEY=PROJECT", param_hint="--key")
    return key, project


def _announce(served: Emulator, clock: VirtualClock, file: Path | None, *, as_json: bool) -> None:
    from rich.text import Text

    environment = served.environment()
    if as_json:
        ready = {
            "url": served.url,
            "control": f"{served.url}/_emulator",
            "pid": os.getpid(),
            "environment": environment,
        }
        print_line(ready)
    else:
        speed = "at normal speed" if clock.speed == 1 else f"{clock.speed:g} times as fast as real time"
        videos = f"{counted(len(served.catalogue), 'video')} of {served.catalogue.path}"
        lines = [
            f"YouTube emulator at {served.url}: {videos}, realism: {served.world.realism.name}",
            f"Its time is {clock.now():%Y-%m-%d %H:%M:%S} UTC and runs {speed}: {served.url}/_emulator",
            "To make agents use it and its time, run in their shell:",
        ]
        print_text("\n".join(lines))
        for line in _exports(environment) if file is None else [f". {shlex.quote(str(file.absolute()))}"]:
            # Not wrapped, so that it can be copied.
            console().print(Text(line), soft_wrap=True)
        sys.stdout.flush()
