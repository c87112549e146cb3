"""What every command does at a terminal: run a coroutine, print tables or JSON, end with the right status."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from atlas.composition import Atlas
    from atlas.config import Settings

WIDTH_WITHOUT_TERMINAL = 160

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

_T = TypeVar("_T")


class ExitStatus(IntEnum):
    """What a command's process ends with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 69
    RATE_LIMITED = 75
    CONFIGURATION = 78
    INTERRUPTED = 130
    TERMINATED = 143


def load_settings() -> Settings:
    """The settings of this invocation, with logging as they ask for; ConfigError says what is wrong."""
    from atlas import config
    from maia import logs

    settings = config.load()
    logs.configure(settings)
    return settings


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a command's coroutine; SIGTERM and Ctrl-C cancel it, so that what it opened is closed."""
    import asyncio

    from maia.signals import cancelled_by_sigterm

    async def guarded() -> _T:
        with cancelled_by_sigterm():
            return await work

    return asyncio.run(guarded())


def with_atlas(work: Callable[[Atlas], Awaitable[_T]]) -> _T:
    """Run a command's coroutine with an Atlas of this invocation's settings."""
    from atlas.composition import Atlas

    settings = load_settings()

    async def opened() -> _T:
        async with Atlas.open(settings) as atlas:
            return await work(atlas)

    return run(opened())


def status_of(error: Exception) -> ExitStatus | None:
    """The exit status that one of our errors ends in; None if it isn't ours but a defect."""
    from atlas.errors import (
        AtlasError,
        ConfigError,
        DatabaseUnavailable,
        EmbeddedServerError,
        RingClosed,
        VaultUnavailable,
    )
    from maia.errors import MaiaError

    match error:
        case ConfigError():
            return ExitStatus.CONFIGURATION
        case RingClosed():
            return ExitStatus.DONE
        case DatabaseUnavailable() | EmbeddedServerError() | VaultUnavailable():
            return ExitStatus.UNAVAILABLE
        case MaiaError():
            return _status_of_agents_error(error)
        case AtlasError():
            return ExitStatus.FAILED
    return None


def _status_of_agents_error(error: Exception) -> ExitStatus:
    from maia.youtube.errors import KeyRejected, RateLimited, Transient

    match error:
        case RateLimited():
            return ExitStatus.RATE_LIMITED
        case KeyRejected():
            return ExitStatus.CONFIGURATION
        case Transient():
            return ExitStatus.UNAVAILABLE
    return ExitStatus.FAILED


def print_json(value: Any) -> None:
    """Print a value, dataclasses and instants included, as indented JSON."""
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE
    sys.stdout.write(orjson.dumps(value, default=str, option=options).decode())
    sys.stdout.flush()


def print_line(value: Any) -> None:
    """Print a value as one line of JSON, at once: whoever reads it may wait for it."""
    import orjson

    options = orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE
    sys.stdout.write(orjson.dumps(value, default=str, option=options).decode())
    sys.stdout.flush()


def console(*, stderr: bool = False) -> Console:
    """A console that colours only on a terminal, and doesn't cut lines short elsewhere."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made = Console(stderr=stderr, highlight=False, width=WIDTH_WITHOUT_TERMINAL)
    return made


@contextmanager
def progress_bar(what: str, total: float | None) -> Iterator[Callable[[float], None]]:
    """A bar on stderr while it is a terminal; call what is yielded with how much is done."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    shown_on = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=shown_on, transient=True, disable=not shown_on.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None
) -> None:
    """Print rows under their columns; numbers to the right, None as a dash."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [tuple(row) for row in rows]
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], (int, float, type(None))) for row in cells)
        table.add_column(column, justify="right" if numeric and cells else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(shown(cell)) for cell in row))
    console().print(table)


def shown(value: object) -> str:
    """A value as tables show it."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.2f}"
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return str(value)
