"""How a command runs an agent: as a Prefect flow or directly, with a bar that shows how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from maia.terminal import ExitStatus, console, print_json

if TYPE_CHECKING:
    from atlas.config import RingName, Settings

Cycles = Annotated[
    int, typer.Option(min=1, help="Cycles to run; fewer if the ring closes or nothing is left.")
]
Direct = Annotated[bool, typer.Option("--direct", help="Without Prefect: quicker, no history.")]

_STATUSES = {"unavailable": ExitStatus.UNAVAILABLE, "keys_rejected": ExitStatus.CONFIGURATION}


class Step(Protocol):
    """What an agent's progress tells, whatever else."""

    @property
    def done(self) -> int: ...
    @property
    def claimed(self) -> int: ...


P = TypeVar("P", bound=Step)


def run_agent(
    agent: str,
    ring: RingName,
    settings: Settings,
    batch_size: int | None,
    cycles: int,
    *,
    direct: bool,
    **options: Any,
) -> dict[str, Any]:
    """Run the cycles of `maia.<agent>` and return their statistics; SystemExit as the agent raises it."""
    import asyncio

    if direct:
        run_direct = import_module(f"maia.{agent}").run_direct
        return dict(asyncio.run(run_direct(settings, batch_size, cycles, **options)))
    from flows import environment

    # Before a server is started for nothing.
    settings.ring_keys(ring)
    environment.prepare()
    from flows import server

    run = import_module(f"flows.{agent}").run
    with server.reachable():
        return dict(asyncio.run(run(settings, batch_size, cycles, **options)))


def conclude(statistics: dict[str, Any], summary: Callable[[dict[str, Any]], str], *, as_json: bool) -> None:
    """Print what the cycles did, and leave with the status of their outcome."""
    if as_json:
        print_json(statistics)
    else:
        typer.echo(summary(statistics))
    status = _STATUSES.get(statistics["outcome"], ExitStatus.DONE)
    if status:
        raise typer.Exit(status)


def in_words(statistics: dict[str, Any], counted: dict[str, str]) -> str:
    """What the cycles did in a sentence or two, `counted` naming what is told first."""
    text = ", ".join(f"{statistics[name]:,} {what}" for name, what in counted.items())
    units = ", ".join(f"{count:,} {bucket}" for bucket, count in statistics["units"].items()) or "none"
    text += f" in {statistics['seconds']:.1f} s; units: {units}"
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in statistics["skipped"].items())
    if skipped:
        text += f"; skipped: {skipped}"
    return f"{text}\n{statistics['detail']}" if statistics["detail"] else text


@contextmanager
def progress_bar(describe: Callable[[P], str], *, lines: bool = False) -> Iterator[Callable[[P], None]]:
    """Yields what to call with progress: a bar on a terminal; with `lines` also a line a cycle, anywhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    out = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def show(progress: P) -> None:
            about = describe(progress)
            bar.update(task, description=about, completed=progress.done, total=progress.claimed)
            if lines and progress.done == progress.claimed:
                out.print(about)

        yield show
