"""The `maia` command line. A command's module is imported only when that command runs, to keep help fast."""

from __future__ import annotations

import logging
import os
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from maia import agents
from maia.commands import streams
from maia.commands.laziness import load_lazily
from maia.commands.terminal import ExitStatus, asks_for_json, print_error, print_json_error, status_of
from maia.cycle.termination import (
    TERMINATED_STATUS,
    Terminator,
    end_at_once_by_ctrl_c,
    ignore_unawaited,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

logger = logging.getLogger(__name__)

PANELS = {
    "Run": {
        "up": "Run everything on this machine: dashboard, database, Prefect, every agent, metrics.",
        **{agent.name: agent.about for agent in agents.AGENTS},
        "learn": "Learn from a log of events: JSON lines, CSV or XES.",
        "seed": "Put topics at the front of the search queue.",
        "queue": "List, retry and park topics of the search queue.",
        "watch": "Watch videos and channels closely: list, add and remove watches.",
    },
    "Look": {
        "top": "Show the videos that grow fastest.",
        "video": "Show everything known about a video, and its curve.",
        "channel": "Show a channel: its growth, its newest uploads and how its videos usually do.",
        "breakouts": "Show videos that grew far more than expected, or wait for new ones.",
        "status": "Show the search queue, the sampling schedule, today's quota and the last cycles.",
        "alerts": "List incidents, acknowledge them, and test where alerts go.",
        "comments": "List suggestions with the command that acts on each; add comments, close them.",
        "report": "Write and show the weekly report.",
        "plan": "Show how the hunter divides today's quota, why, and what came of yesterday's.",
        "patterns": "List, explain, match, predict, copy and forget what the learner has learnt.",
        "graph": "Look into the knowledge graph: neighbours, paths, queries, what is alike.",
        "keys": "Show today's API quota and YouTube's keys; add and revoke keys of the HTTP service.",
        "anomalies": "Show where host metrics or the agents' figures were odd, too high, or shifted.",
        "export": "Write samples, videos or channels to a file or a bucket, as Parquet or CSV.",
    },
    "Set up": {
        "doctor": "Check everything Pleiades needs, and say how to fix what is wrong.",
        "config": "Show the current settings, or describe every setting.",
        "migrate": "Bring the database's schema up to date.",
        "backup": "Create, list, verify and restore backups of the database.",
        "schedule": "Show and change when the maintainer does what.",
        "system": "Show the system's health, clean up, look for updates, control the embedded server.",
        "daemon": "Install, start, stop and watch Pleiades as a service of systemd.",
        "serve": "Run every agent on its schedule, for a Prefect server that you run yourself.",
        "provision": "Set up a Prefect server: work pools, deployments and automations.",
        "api": "Serve patterns, discovery and the dashboard over HTTP.",
        "federation": "Show other sites, exchange what was learnt with them now, or leave them.",
        "mcp": "Serve tools to an AI assistant over stdin and stdout.",
        "metrics": "Show what the machines were doing, or serve metrics to Prometheus.",
    },
    "Practise": {
        "demo": "Run the hunter and the tracker on made-up videos, without an API key.",
        "emulator": "Emulate the YouTube Data API with the videos of a catalogue.",
        "catalogue": "Create and inspect catalogues: the videos that the emulator serves.",
    },
}
"""Every command with its help line, grouped by purpose."""

COMMANDS = {name: line for panel in PANELS.values() for name, line in panel.items()}

EPILOG = (
    "Exit statuses: 0 success, also when the quota is used up for now; 1 failure; 2 wrong usage; 69 the "
    "database, the API or Prefect's server can't be reached; 75 rate limited (HTTP 429): run the command "
    "again, it makes no call too early; 78 a setting or an API key is wrong; 130 Ctrl-C; 143 SIGTERM.\n\n"
    "Data goes to stdout, logs to stderr. With --json, an error is an object with error and exit_status on "
    "stdout. Settings come from the environment; maia config docs lists them."
)


class CommandsByName(TyperGroup):
    """A group that lists commands by name and help line, and imports only the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {
            name: TyperCommand(name, help=line, rich_help_panel=panel)
            for panel, lines in PANELS.items()
            for name, line in lines.items()
        }

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            # Typer reads values with Pydantic, which puts this before every message.
            error.message = error.message.removeprefix("Value error, ")
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name is None:
            return name, command, rest
        command = load_command(name)
        ctx.with_resource(_counted(name, command, rest))
        return name, command, rest


def _counted(name: str, command: Any, rest: Sequence[str]) -> AbstractContextManager[None]:
    """Count the command, by its name alone, if it opens an Atlas."""
    from atlas import usage

    inner = getattr(command, "commands", {})
    meant = [*rest[:1], getattr(command, "default", "")]
    return usage.command(" ".join([name, *[each for each in meant if each in inner][:1]]))


def load_command(name: str) -> Any:
    """The command with that name: an agent's, or one that has a module of its own."""
    command = typer.main.get_command(_app_of(name))
    command.name = name
    return command


def _app_of(name: str) -> typer.Typer:
    for agent in agents.AGENTS:
        if agent.name == name:
            from maia.commands.running import command_of

            return command_of(agent)
    found: typer.Typer = import_module(f"maia.commands.{name}").app
    return found


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

        typer.echo(f"pleiades {version('pleiades-agents')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", "-v", help="Log everything, with the traceback of each error.")
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Pleiades discovers videos on YouTube, tracks how fast they grow, and reports breakouts."""
    if debug:
        from maia import logs

        os.environ["PLEIADES_LOG__LEVEL"] = "DEBUG"
        logs.configure_plainly("DEBUG")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `maia` and exit with a status that EPILOG explains."""
    streams.prepare()
    terminator = Terminator()
    signal.signal(signal.SIGTERM, terminator)
    terminator.repeat_what_is_lost()
    # Most commands never use it, nor do cycles that have nothing to do.
    load_lazily("numpy")
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        status = _status(given)
    except (Exception, KeyboardInterrupt) as error:
        if not terminator.has_started and _is_interruption(error):
            status = _interrupted(as_json=asks_for_json(given))
        elif not terminator.has_started:
            if asks_for_json(given):
                print_json_error(f"{type(error).__name__}: {error}", ExitStatus.FAILED)
            raise
        else:
            # An import that a signal interrupts may replace SystemExit by an error of its own.
            logger.debug("SIGTERM ended the process here", exc_info=error)
            status = TERMINATED_STATUS
    end_at_once_by_ctrl_c()
    try:
        streams.flush()
    except SystemExit as exiting:
        status = status or _status_of_code(exiting.code)
    sys.exit(status)


def _status(arguments: list[str]) -> int:
    as_json = asks_for_json(arguments)
    try:
        app(args=arguments, prog_name="maia")
    except SystemExit as exiting:
        if exiting.code == ExitStatus.INTERRUPTED and _is_interruption(exiting):
            return _interrupted(as_json=as_json)
        if as_json and (told := _told_already(exiting)) is not None:
            print_json_error(told, _status_of_code(exiting.code))
        return _status_of_code(exiting.code, as_json=as_json)
    except KeyboardInterrupt:
        return _interrupted(as_json=as_json)
    except Exception as error:
        status = status_of(error)
        if status is None:
            from flows import environment

            if (refused := environment.wrong_setting(error)) is None:
                raise
            print_error(refused, ExitStatus.CONFIGURATION, as_json=as_json)
            return ExitStatus.CONFIGURATION
        if _is_quiet(error):
            return status
        logger.debug("the error came from here", exc_info=error)
        print_error(str(error), status, as_json=as_json)
        return status
    return ExitStatus.DONE


def _told_already(exiting: SystemExit) -> str | None:
    """What people were told before the exit: wrong usage, or which error of ours ended a cycle."""
    if (wrong_usage := getattr(exiting.__context__, "format_message", None)) is not None:
        return str(wrong_usage())
    cause = exiting.__cause__
    return str(cause) if isinstance(cause, Exception) and status_of(cause) is not None else None


def _is_interruption(error: BaseException) -> bool:
    """Whether Ctrl-C led to an error."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KeyboardInterrupt):
        seen = seen.__cause__ or seen.__context__
    return seen is not None


def _interrupted(*, as_json: bool) -> int:
    """Tell of Ctrl-C, unless the command has printed: those that print on and on are meant to be ended so."""
    # Whoever presses it again and again shall be told, too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ignore_unawaited()
    if not streams.has_printed():
        print_error("interrupted", ExitStatus.INTERRUPTED, as_json=as_json)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return ExitStatus.INTERRUPTED


def _is_quiet(error: Exception) -> bool:
    from atlas.errors import ReaderLeft

    return isinstance(error, ReaderLeft)


def _status_of_code(code: str | int | None, *, as_json: bool = False) -> int:
    if isinstance(code, str):
        print_error(code, ExitStatus.FAILED, as_json=as_json)
        return ExitStatus.FAILED
    return code or 0
