"""`maia emulator`: serve the YouTube Data API from a catalogue."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import orjson
import typer

from maia import terminal
from maia.arguments import parse_moment
from maia.terminal import AsJson
from maia.youtube.emulator.faults import LATENCY_HELP, MISHAPS, REFUSALS, Fault
from maia.youtube.emulator.quota import Project

if TYPE_CHECKING:
    from atlas.clock import VirtualClock
    from maia.youtube.emulator import Emulator

_EPILOG = "\n\n".join(
    [
        "Kinds of fault; each strikes at its RATE, from 0 to 1, every method or, as KIND:RATE:METHOD, one.",
        f"[cyan]latency[/]: {LATENCY_HELP}",
        "Answers that arrive spoilt: "
        + "; ".join(f"[cyan]{kind}[/] ({what})" for kind, what in MISHAPS.items()),
        "Refusals: " + "; ".join(f"[cyan]{kind}[/] ({what})" for kind, (what, _) in REFUSALS.items()),
    ]
)
_T = TypeVar("_T")

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(epilog=_EPILOG)
def emulator(
    catalogue: Annotated[
        Path, typer.Option(metavar="FILE", help="What to serve: see maia catalogue.", show_default=False)
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8780,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    clock: Annotated[
        str | None,
        typer.Option(metavar="START", help="What time it is at the start; else the catalogue's end."),
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="How many times as fast as real time runs.")] = 1,
    project: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:LIMITS]",
            help="A project, with limits such as search=100,stats=10000,general=10000,per_minute=600; a key "
            "NAME-anything is its. [default: demo]",
        ),
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(metavar="KEY=PROJECT", help="A key that is not NAME-anything.")
    ] = None,
    fault: Annotated[
        list[str] | None, typer.Option(metavar="KIND:RATE", help="What shall go wrong how often; see below.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides which requests the faults strike.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Serve the YouTube Data API v3 from a catalogue, until Ctrl-C or SIGTERM.

    Prints where it is and what to export for agents to use it in the same virtual time. The control page
    /_emulator tells the clock, quota and calls; POST there changes clock, speed and faults.
    """
    from atlas.clock import VirtualClock

    projects = [_parsed(Project.parse, text, "--project") for text in project or ["demo"]]
    faults = [_parsed(Fault.parse, text, "--fault") for text in fault or []]
    keys = dict(_key_and_project(text) for text in key or [])
    start = parse_moment(clock, "--clock")

    async def serve() -> None:
        from datetime import UTC, datetime

        from maia.youtube.catalogue import Catalogue
        from maia.youtube.emulator import Emulator

        with Catalogue.open(catalogue) as opened:
            begin = start or opened.span[1]
            running = VirtualClock(begin, datetime.now(UTC), speed)
            async with Emulator.serve(
                opened,
                clock=running,
                projects=projects,
                keys=keys,
                faults=faults,
                seed=seed,
                host=host,
                port=port,
            ) as served:
                _announce(served, running, as_json=as_json)
                await asyncio.Event().wait()

    terminal.run(serve())


def _parsed(parse: Callable[[str], _T], text: str, option: str) -> _T:
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _key_and_project(text: str) -> tuple[str, str]:
    key, separator, project = text.rpartition("=")
    if not (separator and key and project):
        raise typer.BadParameter(f"{text!r} is not KEY=PROJECT", param_hint="--key")
    return key, project


def _announce(served: Emulator, clock: VirtualClock, *, as_json: bool) -> None:
    environment = served.environment()
    if as_json:
        ready = {
            "url": served.url,
            "control": f"{served.url}/_emulator",
            "pid": os.getpid(),
            "environment": environment,
        }
        sys.stdout.write(orjson.dumps(ready, option=orjson.OPT_APPEND_NEWLINE).decode())
    else:
        pace = (
            "at the pace of real time" if clock.speed == 1 else f"{clock.speed:g} times as fast as real time"
        )
        lines = [
            f"YouTube emulator at {served.url}: {len(served.catalogue):,} videos of {served.catalogue.path}",
            f"It is {clock.now():%Y-%m-%d %H:%M:%S} UTC there, and time runs {pace}: {served.url}/_emulator",
            "Let agents use it, in its time:",
            *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
        ]
        sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
