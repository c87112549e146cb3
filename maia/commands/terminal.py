"""Shared by all commands: running a coroutine, printing text, CSV or JSON, and setting the exit status.

Commands print only through this module. It removes control characters from foreign text (see
`atlas.foreign`), and never interprets text as markup.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, TextIO, TypeVar

import typer

from maia.commands import streams

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from rich.console import Console

    from atlas.composition import Atlas
    from atlas.config import Settings
    from atlas.csvform import CsvForm

WIDTH_WITHOUT_TERMINAL = 160
LONG_WAIT_S = 2.0
"""A wait that takes longer is explained to the user."""

_JSON: Final = "--json"
AsJson = Annotated[bool, typer.Option(_JSON, help="Print JSON instead of text, errors too.")]
Since = Annotated[
    str,
    typer.Option(
        metavar="SPAN|DAY|TIME",
        help="Where to start: a span before now such as 24h or 7d, a day in UTC, or a time such as "
        "2026-11-02T08:00:00Z.",
    ),
]
Excel = Annotated[bool, typer.Option("--excel", help="Write CSV that Excel opens correctly.")]
Raw = Annotated[
    bool, typer.Option("--raw", help="Write CSV for programs: without an apostrophe before formulas.")
]

_T = TypeVar("_T")


class ExitStatus(IntEnum):
    """The exit status of a command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 69
    RATE_LIMITED = 75
    CONFIGURATION = 78
    INTERRUPTED = 130
    TERMINATED = 143


def load_settings() -> Settings:
    """Load the settings, and configure logging and the network by them; ConfigError says what is wrong."""
    from atlas import config, network
    from maia import logs

    settings = config.load()
    logs.configure(settings)
    network.prepare(settings.network)
    return settings


def run(work: Coroutine[Any, Any, _T], *, fast: bool = False) -> _T:
    """Run a command's coroutine; SIGTERM and Ctrl-C cancel it, so that it closes what it opened.

    `fast` is for what answers many requests: it takes uvloop's event loop where there is one.
    """
    import asyncio

    from maia.cycle.signals import cancelled_by_sigterm

    async def guarded() -> _T:
        with cancelled_by_sigterm():
            return await work

    with asyncio.Runner(loop_factory=_uvloop() if fast else None) as runner:
        return runner.run(guarded())


def _uvloop() -> Callable[[], AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        # There is none for this platform.
        return None
    return uvloop.new_event_loop


def with_atlas(work: Callable[[Atlas], Awaitable[_T]], *, fast: bool = False) -> _T:
    """Run a command's coroutine with an Atlas, opened with the user's settings."""
    from atlas.composition import Atlas

    settings = load_settings()

    async def opened() -> _T:
        with explain_long_wait("Opening the database") as done:
            async with Atlas.open(settings) as atlas:
                done()
                return await work(atlas)

    return run(opened(), fast=fast)


@contextmanager
def explain_long_wait(doing: str) -> Iterator[Callable[[], None]]:
    """Print what is being done if it takes longer than a moment; call what it yields once it is done."""
    import threading

    timer = threading.Timer(LONG_WAIT_S, print_text, (f"{doing} …",), {"stderr": True})
    timer.daemon = True
    timer.start()
    try:
        yield timer.cancel
    finally:
        timer.cancel()


def status_of(error: Exception) -> ExitStatus | None:
    """The exit status for one of our own errors; None for any other error, which is a bug."""
    from atlas.errors import (
        AtlasError,
        CannotStore,
        ConfigError,
        DatabaseUnavailable,
        EmbeddedServerError,
        ReaderLeft,
        RingClosed,
        VaultBroken,
        VaultUnavailable,
    )
    from maia.errors import MaiaError

    match error:
        case ConfigError():
            return ExitStatus.CONFIGURATION
        case RingClosed() | ReaderLeft():
            return ExitStatus.DONE
        case (
            CannotStore() | DatabaseUnavailable() | EmbeddedServerError() | VaultBroken() | VaultUnavailable()
        ):
            return ExitStatus.UNAVAILABLE
        case MaiaError():
            return _status_of_agents_error(error)
        case AtlasError():
            return ExitStatus.FAILED
    return None


def _status_of_agents_error(error: Exception) -> ExitStatus:
    from maia.errors import Unreachable
    from maia.youtube.errors import KeyRejected, RateLimited, Transient

    match error:
        case RateLimited():
            return ExitStatus.RATE_LIMITED
        case KeyRejected():
            return ExitStatus.CONFIGURATION
        case Transient() | Unreachable():
            return ExitStatus.UNAVAILABLE
    return ExitStatus.FAILED


def print_text(text: str = "", *, stderr: bool = False) -> None:
    """Print lines of text, and flush them for a program that waits for them.

    A terminal gets them wrapped between words, and above a progress bar if one is shown: for that, Rich puts
    a proxy in the stream's place, which a console of ours would write past.
    """
    from atlas import foreign

    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty() and not hasattr(stream, "rich_proxied_file"):
        from rich.text import Text

        console(stderr=stderr).print(Text(text))
    else:
        stream.write(f"{foreign.many_lines(text)}\n")
    stream.flush()


def print_error(message: str, status: int, *, as_json: bool = False) -> None:
    """Print an error to stderr, and for programs that asked for JSON also to stdout."""
    print_text("\n".join(f"maia: {line}" for line in message.splitlines()), stderr=True)
    if as_json:
        print_json_error(message, status)


def print_json_error(message: str, status: int) -> None:
    """Print an error as a JSON object, in one line, so that it also ends a stream of lines.

    Whether anybody reads it doesn't change how the command ends.
    """
    with suppress(SystemExit):
        print_line({"error": message, "exit_status": int(status)})


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether a command is called with --json; known before the call, as wrong usage is told as JSON, too."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return _JSON in options


def print_json(value: Any) -> None:
    """Print a value, dataclasses and instants included, as indented JSON."""
    import orjson

    _print_json(value, orjson.OPT_INDENT_2)


def print_line(value: Any) -> None:
    """Print a value as one line of JSON, and flush it for a program that waits for it."""
    _print_json(value, 0)


def _print_json(value: Any, options: int) -> None:
    import orjson

    from atlas import foreign

    options |= orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE
    document = orjson.dumps(value, default=str, option=options).decode()
    sys.stdout.write(foreign.json_document(document, ascii_only=not _speaks_unicode(sys.stdout)))
    sys.stdout.flush()


def _speaks_unicode(stream: TextIO) -> bool:
    return (getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")


def csv_form(*, excel: bool, raw: bool) -> CsvForm:
    """The CSV form that --excel and --raw select."""
    from atlas.csvform import CsvForm

    if excel and raw:
        raise typer.BadParameter("--excel or --raw, not both")
    return CsvForm.EXCEL if excel else CsvForm.RAW if raw else CsvForm.GUARDED


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[object]], form: CsvForm) -> None:
    """Print rows as CSV, in UTF-8 whatever the terminal's encoding."""
    from atlas import csvform

    streams.write_bytes(csvform.document(columns, rows, form))


def console(*, stderr: bool = False) -> Console:
    """A console that interprets no markup; it uses colours only on a terminal, and is wide elsewhere."""
    if stderr and _progress_consoles:
        return _progress_consoles[-1]
    made = _console_class()(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = WIDTH_WITHOUT_TERMINAL
    return made


_progress_consoles: list[Console] = []
"""The console of each progress bar that is shown; it prints above the bar, which others would tear."""


@cache
def _console_class() -> type[Console]:
    from rich.console import Console
    from rich.segment import Segment

    from atlas import foreign

    class SafeConsole(Console):
        """Removes control characters from everything that is printed."""

        def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                text, style, control = segment
                yield segment if control else Segment(foreign.many_lines(text), style)

    return SafeConsole


class UpdateProgress(Protocol):
    """Sets how much is done, and optionally a new total or text."""

    def __call__(self, done: float, total: float | None = None, text: str | None = None) -> None: ...


@contextmanager
def progress_bar(text: str, total: float | None = None, *, hidden: bool = False) -> Iterator[UpdateProgress]:
    """Show a progress bar on stderr if that is a terminal; call what it yields to update the bar."""
    if hidden or not sys.stderr.isatty():
        yield _no_update
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    out = console(stderr=True)
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task(text, total=total)

        def update(done: float, total: float | None = None, text: str | None = None) -> None:
            bar.update(task, completed=done, total=total, description=text)

        _progress_consoles.append(out)
        try:
            yield update
        finally:
            _progress_consoles.remove(out)


def _no_update(done: float, total: float | None = None, text: str | None = None) -> None:
    """Ignores progress that is not shown."""


def as_text(value: object) -> str:
    """A value as tables show it."""
    from atlas import foreign

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
    return foreign.one_line(str(value))


def percent(share: float) -> str:
    """A probability in percent; only what is sure is 0 or 100 %."""
    if 0 < share < 0.01:
        return "<1 %"
    return ">99 %" if 0.99 < share < 1 else f"{share:.0%}".replace("%", " %")


def span_between(begin: datetime | None, end: datetime) -> str:
    """How long it is from one instant to the other; a dash where the first is unknown."""
    return "–" if begin is None else span_text(max((end - begin).total_seconds() / 3600, 0))


def span_text(hours: float) -> str:
    """A time span in minutes, hours or days."""
    if hours < 2:
        return f"{hours * 60:.0f} min"
    return f"{hours:.0f} h" if hours < 72 else f"{hours / 24:,.0f} d"
