"""`maia`: every command of Pleiades. Its modules load only when they are called, so that help is instant."""

from __future__ import annotations

import logging
import os
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from maia.terminal import ExitStatus, status_of

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

COMMANDS = {
    "demo": "Hunt and track a catalogue in a throw-away database: no key, nothing left behind.",
    "hunter": "Search YouTube for the queue's topics, store what is found, queue its tags.",
    "up": "Run everything on this machine: database, Prefect with its UI, every agent, metrics.",
    "serve": "Serve every agent on its schedule to a Prefect server.",
    "provision": "Give a Prefect server its work pools, deployments and automations.",
    "metrics": "Export metrics for Prometheus.",
    "tracker": "Sample the videos that are due, compute how fast they grow, tell of breakouts.",
    "top": "Show the videos that grow most.",
    "video": "Show everything known of a video, and its curve.",
    "watch": "Follow videos and channels closely: list, add and remove watches.",
    "export": "Write samples, videos or channels to a file or a bucket, as Parquet or CSV.",
    "seed": "Put topics at the head of the search queue.",
    "queue": "List, retry and park topics of the search queue.",
    "keys": "Show the quota ledger: used, left and closed until when, by ring.",
    "status": "Show the queue, what was found, the clock, today's quota and the last cycles.",
    "migrate": "Bring the database's schema up to date.",
    "doctor": "Check everything Pleiades needs, and say what to do.",
    "config": "Show the settings in force, or describe them all.",
    "emulator": "Serve the YouTube Data API from a catalogue, for practice.",
    "catalogue": "Make catalogues for the emulator: import, synthesize, show.",
}
"""Every command, in the order of the help, with its line there."""

EPILOG = (
    "Exit statuses: 0 done, also when the ring is closed until later; 1 failed; 2 wrong usage; 69 the "
    "database or the API can't be reached; 75 rate limited (HTTP 429): start again, the ledger knows when "
    "to go on; 78 the settings need mending; 130 Ctrl-C; 143 SIGTERM.\n\n"
    "Data goes to stdout, logs to stderr. Settings come from the environment: maia config docs."
)


class CommandsByName(TyperGroup):
    """A group that knows each command's name and line, and imports the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=line) for name, line in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load_command(name), rest


def load_command(name: str) -> Any:
    """The command itself, out of its module."""
    command = typer.main.get_command(import_module(f"maia.commands.{name}").app)
    command.name = name
    return command


app = typer.Typer(
    name="maia",
    cls=CommandsByName,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"pleiades {version('pleiades')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", "-v", help="Log everything, and show where an error comes from.")
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Pleiades discovers videos on YouTube, watches how fast they grow, and learns from what it sees."""
    if debug:
        from maia import logs

        os.environ["PLEIADES_LOG__LEVEL"] = "DEBUG"
        logs.configure_plainly("DEBUG")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `maia` and leave with the exit status that EPILOG tells."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(_status(list(sys.argv[1:] if arguments is None else arguments)))


def _terminate(*_: object) -> None:
    """End as Ctrl-C does, so that whatever is open is closed."""
    raise SystemExit(ExitStatus.TERMINATED)


def hunter_main() -> None:
    """`maia-hunter …` is `maia hunter …`."""
    main(["hunter", *sys.argv[1:]])


def tracker_main() -> None:
    """`maia-tracker …` is `maia tracker …`."""
    main(["tracker", *sys.argv[1:]])


def _status(arguments: list[str]) -> int:
    try:
        app(args=arguments, prog_name="maia")
    except SystemExit as leaving:
        return _whole(leaving.code)
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    except Exception as error:
        status = status_of(error)
        if status is None:
            raise
        logger.debug("the error came from here", exc_info=error)
        for line in str(error).splitlines():
            sys.stderr.write(f"maia: {line}\n")
        return status
    return ExitStatus.DONE


def _whole(code: str | int | None) -> int:
    if isinstance(code, str):
        sys.stderr.write(f"maia: {code}\n")
        return ExitStatus.FAILED
    return code or 0
