"""`maia system server`: shows the PostgreSQL server that Pleiades uses, and controls the embedded one."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maia.commands.tables import print_table
from maia.commands.terminal import (
    AsJson,
    explain_long_wait,
    load_settings,
    print_json,
    print_line,
    print_text,
    run,
    span_between,
)
from maia.errors import MaiaError
from maia.maintenance.wording import size_text

if TYPE_CHECKING:
    from atlas.adapters.server import ServerFacts
    from atlas.config import Settings
    from atlas.server_files import ServerFiles


class ServerInUse(MaiaError):
    """The embedded server is not stopped, as others use it."""


class ServerVerb(StrEnum):
    """What to do with the server."""

    STATUS = "status"
    START = "start"
    STOP = "stop"
    RESTART = "restart"
    LOGS = "logs"


def server(
    verb: Annotated[
        ServerVerb,
        typer.Argument(help="status, or for the embedded server also start, stop, restart or logs."),
    ] = ServerVerb.STATUS,
    force: Annotated[
        bool, typer.Option("--force", help="Stop or restart it although other processes use it.")
    ] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, help="With logs: how many lines.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show the PostgreSQL server that Pleiades uses, or control the embedded one.

    The embedded server starts with the first process that needs it and stops with the last, so there is
    mostly nothing to do. `start` keeps it running until Ctrl-C, for example for psql. `stop` and `restart`
    refuse while others use it, as their work would fail. With DATABASE_URL there is only `status`.

    For example:

    - `maia system server` shows whether it runs, who uses it, its size and its socket.
    - `maia system server restart --force` restarts it under maia up, which connects again.
    """
    settings = load_settings()
    if settings.database_url is not None and verb is not ServerVerb.STATUS:
        raise typer.BadParameter(
            f"DATABASE_URL names a server that is not ours to {verb}: use its own tools (such as systemctl "
            f"{'status' if verb is ServerVerb.LOGS else verb} postgresql)"
        )
    match verb:
        case ServerVerb.STATUS:
            _status(settings, as_json=as_json)
        case ServerVerb.START:
            run(_start(settings, as_json=as_json))
        case ServerVerb.STOP | ServerVerb.RESTART:
            run(_stop(settings, restart=verb is ServerVerb.RESTART, force=force, as_json=as_json))
        case ServerVerb.LOGS:
            _logs(settings, lines, as_json=as_json)


# Status


def _status(settings: Settings, *, as_json: bool) -> None:
    from atlas.server_files import look_at

    files = None if settings.database_url is not None else look_at(settings.data_folder)
    # Asking an embedded server that does not run would start it.
    facts = run(_facts(settings)) if files is None or files.runs else None
    if as_json:
        print_json(_as_dict(files, facts))
        return
    if files is not None and not files.exists:
        print_text(f"There is no embedded server yet: the first command that needs it makes {files.folder}.")
        return
    print_table(["", ""], list(_rows(files, facts)))
    if files is not None and files.users:
        print_table(["pid", "used by"], [(str(user.pid), user.command) for user in files.users])
    elif files is not None:
        print_text("No process uses it." if files.runs else "It starts with the first process that needs it.")


async def _facts(settings: Settings) -> ServerFacts:
    from atlas.adapters.server import ServerDAO
    from atlas.composition import clock_of
    from atlas.db import Database

    # Only to look: an old schema stays as it is.
    unchanged = settings.database.model_copy(update={"migrate": False})
    settings = settings.model_copy(update={"database": unchanged})
    async with Database.open(settings) as database:
        return await ServerDAO(database, clock=clock_of(settings), settings=settings).facts()


def _rows(files: ServerFiles | None, facts: ServerFacts | None) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    if files is not None:
        state = f"runs, pid {files.pid}" if files.runs else "stopped"
        rows += [("server", f"embedded, {state}"), ("folder", str(files.folder))]
        rows += [("socket", str(files.socket))] if files.socket else []
        rows += [("log", str(files.log))]
    elif facts is not None:
        where = f"{facts.address}, port {facts.port}" if facts.address else "a socket of this machine"
        rows += [("server", f"at DATABASE_URL: {where}"), ("database", facts.database)]
        rows += [("replica", "yes: it can't be written")] if facts.is_replica else []
    if facts is not None:
        rows += [
            ("version", facts.version),
            (
                "started",
                f"{facts.started_at:%Y-%m-%d %H:%M:%S} UTC, {span_between(facts.started_at, facts.now)} ago",
            ),
            ("connections", f"{facts.connections} of {facts.most_connections}, {facts.active} active"),
            ("database size", size_text(facts.database_bytes)),
            ("all databases", size_text(facts.all_bytes)),
        ]
    elif files is not None:
        rows.append(("version", files.version))
    if files is not None:
        rows.append(("on disk", size_text(files.files_bytes)))
    return rows


def _as_dict(files: ServerFiles | None, facts: ServerFacts | None) -> dict[str, Any]:
    return {
        "embedded": files is not None,
        "runs": facts is not None,
        "files": None if files is None else asdict(files),
        "server": None if facts is None else asdict(facts),
    }


# Control


async def _start(settings: Settings, *, as_json: bool) -> None:
    from atlas.embedded import EmbeddedServer

    with explain_long_wait("Starting the embedded server") as done:
        async with EmbeddedServer.open(settings.data_folder, settings.database) as server:
            done()
            if as_json:
                print_line({"event": "running", "pid": server.pid, "dsn": server.dsn})
            else:
                print_text(f"It runs, pid {server.pid}: psql '{server.dsn}'\nPress Ctrl-C to leave it.")
            await asyncio.Event().wait()


async def _stop(settings: Settings, *, restart: bool, force: bool, as_json: bool) -> None:
    from atlas.embedded import EmbeddedServer
    from atlas.server_files import look_at

    files = await asyncio.to_thread(look_at, settings.data_folder)
    if not files.runs:
        _say_done("it does not run", files, as_json=as_json)
        return
    server = EmbeddedServer(settings.data_folder, settings.database)
    with explain_long_wait("Waiting for the server"):
        if not force and await server.stop_unless_used():
            _say_done("stopped; it starts with the next process that needs it", files, as_json=as_json)
            return
        if not force:
            users = ", ".join(f"{user.command} ({user.pid})" for user in files.users)
            raise ServerInUse(
                f"the server is used by {users or 'another process'}: stop that first; or use --force, by "
                "which everything that uses it fails and connects again"
            )
        await (server.restart() if restart else server.stop())
    _say_done(
        "restarted" if restart else "stopped; a process that still uses it may start it again",
        files,
        as_json=as_json,
    )


def _say_done(text: str, files: ServerFiles, *, as_json: bool) -> None:
    if as_json:
        print_json({"at": datetime.now(UTC), "done": text, "users": [asdict(user) for user in files.users]})
    else:
        print_text(f"The embedded server: {text}.")


def _logs(settings: Settings, lines: int, *, as_json: bool) -> None:
    from atlas.cluster import Home
    from atlas.server_files import last_lines

    log = Home(settings.data_folder).log
    found = last_lines(log, lines)
    if as_json:
        print_json({"log": str(log), "lines": found})
        return
    print_text("\n".join(found) if found else f"There is no log yet: {log}")
