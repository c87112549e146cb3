"""`maia daemon`: installs Pleiades as a service of systemd, controls it, and shows its state and its logs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from maia.commands.arguments import parse_since
from maia.commands.daemon_display import (
    health_of,
    installation_as_dict,
    print_health,
    print_installation,
    print_log_line,
    print_states,
)
from maia.commands.terminal import (
    AsJson,
    ExitStatus,
    explain_long_wait,
    load_settings,
    print_json,
    print_line,
    print_text,
    run,
)

if TYPE_CHECKING:
    from maia.maintenance.service import Service
    from maia.maintenance.systemctl import LogLine
    from maia.maintenance.unit_files import Scope

SHOWN_LINES: Final = 5


class WithComments(TyperGroup):
    """A group that has `maia comments` as one of its own commands."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands["comments"] = TyperCommand("comments", help="Do the same as maia comments.")

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name == "comments":
            command = typer.main.get_command(import_module("maia.commands.comments").app)
            command.name = name
        return name, command, rest


app = typer.Typer(cls=WithComments, no_args_is_help=True, rich_markup_mode="markdown", add_completion=False)

OfUser = Annotated[
    bool | None,
    typer.Option(
        "--user/--system",
        help="Your own services, or the machine's. [default: the machine's if you are root, else yours]",
        show_default=False,
    ),
]
Units = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[UNIT]...",
        help="Units, such as pleiades-backup.service. [default: those that start at boot]",
        show_default=False,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")]


@app.callback()
def daemon() -> None:
    """Install, start, stop and watch Pleiades as a service of systemd."""


@app.command()
def install(
    user: OfUser = None,
    timers: Annotated[
        bool | None,
        typer.Option(
            "--timers/--everything",
            help="Single cycles by timers, on a PostgreSQL that several machines share; or maia up. "
            "[default: as before, or maia up]",
            show_default=False,
        ),
    ] = None,
    program: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="PATH",
            help="The maia that the services run. [default: this one]",
            show_default=False,
        ),
    ] = None,
    now: Annotated[
        bool, typer.Option("--now", help="Also start it now, and wait until it is ready.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite files that somebody has changed by hand.")
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Install Pleiades as a service that starts with the machine; again after an upgrade.

    As root it installs hardened services of the machine, which run as the user pleiades, and the list of
    verbs that root carries out for them (/etc/pleiades/privileged). Otherwise it installs services of your
    own. They run this `maia`. What is up to date stays; a file that somebody changed is shown as a diff and
    kept.

    For example:

    - `maia daemon install --dry-run` lists what it would write.
    - `maia daemon install --now` installs and starts everything on this machine.
    - `maia daemon install --timers --now` installs timers for single cycles instead, and backups every night.
    """
    from maia.maintenance.service import program_of_this_installation

    service = _service(_wanted_scope(user))
    if not dry_run:
        service.check()
        service.check_rights()
    releases = load_settings().maintainer.updates.root
    chosen = program.absolute() if program else program_of_this_installation(releases)
    plan = service.plan_installation(chosen, _units_to_start(service, timers))
    commands: list[str] = []
    if not dry_run:
        if now:
            _check_secrets(service, plan.units)
        with explain_long_wait("Starting; the first start sets up its databases"):
            commands = run(service.install(plan, force=force, start=now))
    if as_json:
        print_json(installation_as_dict(plan, commands, force=force, applied=not dry_run))
    else:
        print_installation(service, plan, commands, force=force, dry_run=dry_run, now=now)
    if plan.changed and not force:
        raise typer.Exit(ExitStatus.FAILED)


@app.command()
def uninstall(
    user: OfUser = None,
    purge: Annotated[
        bool, typer.Option("--purge", help="Also delete all data, settings and keys, after asking.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --purge: do not ask.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also delete files that somebody has changed by hand.")
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Stop the services and delete their files; the data stays, unless --purge deletes it.

    It says where the data is. The user pleiades stays too, as files may belong to it.
    """
    service = _installed(user)
    if not dry_run:
        service.check_rights()
    plan = run(service.plan_removal(force=force))
    folders = [str(folder) for folder in service.data_folders()]
    if purge and not dry_run and not yes:
        typer.confirm(f"Delete {' and '.join(folders)} with everything in them?", abort=True)
    if not dry_run:
        with explain_long_wait("Stopping"):
            run(service.uninstall(plan))
        if purge:
            service.purge()
    if as_json:
        told = {"stopped": plan.units, "deleted": plan.files, "kept": plan.kept}
        print_json({"applied": not dry_run, **told, "data": folders, "purged": purge and not dry_run})
        return
    would = "would " if dry_run else ""
    for done, things in (("stop", plan.units), ("delete", plan.files)):
        for thing in things:
            print_text(f"{would}{done} {thing}")
    for path in plan.kept:
        print_text(f"keeps {path}, as somebody has changed it (--force deletes it)")
    if folders:
        deleted = f"{would}delete" if purge else "kept"
        print_text(f"{deleted}: {', '.join(folders)}" + ("" if purge else " (data, settings, keys; --purge)"))


@app.command()
def start(units: Units = None, user: OfUser = None, as_json: AsJson = False) -> None:
    """Start the services, and wait until they are ready."""
    _change("start", units, user, as_json=as_json)


@app.command()
def stop(units: Units = None, user: OfUser = None, as_json: AsJson = False) -> None:
    """Stop the services until they are started again or the machine starts; runs release their claims."""
    _change("stop", units, user, as_json=as_json)


@app.command()
def restart(units: Units = None, user: OfUser = None, as_json: AsJson = False) -> None:
    """Stop the services and start them again, as after a change of settings."""
    _change("restart", units, user, as_json=as_json)


@app.command()
def status(
    lines: Annotated[int, typer.Option(min=0, max=1000, help="How many of the last log lines to show.")] = (
        SHOWN_LINES
    ),
    user: OfUser = None,
    as_json: AsJson = False,
) -> None:
    """Show the services: whether they run, since when, their memory, the last log lines, and the health.

    The exit status is 0 if all services that start at boot run, else 1.
    """
    service = _installed(user)
    states = run(service.states())
    last = run(_collected(service, lines)) if lines else []
    health = health_of(service, states)
    wanted = set(service.started_units())
    well = all(state.active in {"active", "activating"} for state in states if state.name in wanted)
    if as_json:
        print_json(
            {
                "scope": service.scope,
                "well": well,
                "units": [asdict(state) for state in states],
                "log": [asdict(line) for line in last],
                "health": health,
            }
        )
    else:
        print_states(states)
        print_health(health)
        if last:
            print_text()
        for line in last:
            print_log_line(line)
    if not well:
        raise typer.Exit(ExitStatus.FAILED)


@app.command()
def logs(
    units: Units = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on with new lines until Ctrl-C.")
    ] = False,
    lines: Annotated[
        int | None, typer.Option("-n", "--lines", min=1, help="How many of the last lines.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN|DAY|TIME",
            help="Where to start: a span before now such as 2h, a day in UTC, or a time such as "
            "2026-11-02T08:00:00Z.",
            show_default=False,
        ),
    ] = None,
    user: OfUser = None,
    as_json: AsJson = False,
) -> None:
    """Show the services' lines of the journal, the oldest first; the last 50, unless you say otherwise.

    For example:

    - `maia daemon logs -f` goes on with what comes.
    - `maia daemon logs --since 2h pleiades-backup.service`
    """
    service = _installed(user)
    begin = _begin(since)
    count = lines if lines is not None or begin is not None else 50

    async def show() -> bool:
        found = False
        journal = service.systemd.journal(units or ["pleiades*"], lines=count, since=begin, follow=follow)
        async for line in journal:
            found = True
            if as_json:
                print_line(asdict(line))
            else:
                print_log_line(line)
        return found

    if not run(show()) and not as_json:
        print_text(
            "The journal holds no such line that you may read; who is not root needs to be in the group "
            "systemd-journal.",
            stderr=True,
        )


# Parts of the commands


def _service(scope: Scope) -> Service:
    from maia.maintenance.service import Service

    return Service(scope)


def _wanted_scope(user: bool | None) -> Scope:
    import os

    from maia.maintenance.unit_files import Scope

    if user is None:
        user = os.geteuid() != 0
    return Scope.USER if user else Scope.SYSTEM


@app.command("run", context_settings={"allow_interspersed_args": False})
def run_command(
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND...", help="A command of maia, with its arguments.")
    ],
    user: OfUser = None,
) -> None:
    """Run a command of maia as the services do: with their settings, in their folder, and as their user.

    For example:

    - `maia daemon run seed "lofi hip hop"`
    - `maia daemon run system health --watch`
    """
    from atlas.errors import ConfigError

    service = _installed(user)
    environment = service.environment()
    if environment is None:
        raise ConfigError(f"only root may read the services' settings in {service.layout.config}")
    os.environ.update(environment)
    if (account := service.account()) is not None:
        # What root writes into the services' folder would be closed to them.
        os.chdir(service.layout.data)
        os.setgroups([])
        os.setgid(account.gid)
        os.setuid(account.uid)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "maia", *command])  # noqa: S606 - itself


def _installed(user: bool | None) -> Service:
    """The service that is installed, in the scope that is asked for if one is."""
    from maia.maintenance.service import installed_scope
    from maia.maintenance.systemctl import check_systemd
    from maia.maintenance.unit_files import NotInstallable

    check_systemd(_wanted_scope(user) if user is not None else _wanted_scope(False))
    service = _service(installed_scope() if user is None else _wanted_scope(user))
    service.check()
    if not service.is_installed:
        raise NotInstallable(f"Pleiades is not installed as a {service.scope} service: maia daemon install")
    return service


def _units_to_start(service: Service, timers: bool | None) -> list[str]:
    from maia import agents
    from maia.maintenance.service import units_to_start

    before = service.started_units() if timers is None else []
    names = [agent.name for agent in agents.AGENTS]
    return before or units_to_start(timers=bool(timers), agents=names, scope=service.scope)


def _check_secrets(service: Service, units: Sequence[str]) -> None:
    from maia.maintenance.unit_files import NotInstallable

    if missing := service.missing_secrets(units):
        advice = "; ".join(f"install -D -m 600 /dev/stdin {path}" for path in missing)
        raise NotInstallable(
            f"the services can't start without {' and '.join(map(str, missing))}: write the secret into the "
            f"file, which only root may read ({advice}), then run this again"
        )


def _change(verb: str, units: Sequence[str] | None, user: bool | None, *, as_json: bool) -> None:
    from maia.maintenance.programs import ProgramFailed

    service = _installed(user)
    service.check_rights()
    names = list(units or service.started_units() or ["pleiades.service"])
    if verb != "stop" and not units:
        _check_secrets(service, names)
    doing = {"start": "Starting", "stop": "Stopping", "restart": "Restarting"}[verb]
    try:
        with explain_long_wait(f"{doing} {', '.join(names)}"):
            run(service.systemd.change(verb, *names))
    except ProgramFailed as error:
        # What the service itself said tells more than systemd, which only knows that it ended.
        for line in run(_collected(service, SHOWN_LINES)):
            print_log_line(line, stderr=True)
        raise error from None
    states = run(service.systemd.states(names))
    if as_json:
        print_json([asdict(state) for state in states])
        return
    for state in states:
        print_text(f"{state.name} is {state.active}" + (f": {state.says}" if state.says else ""))


async def _collected(service: Service, lines: int) -> list[LogLine]:
    return [line async for line in service.systemd.journal(["pleiades*"], lines=lines)]


def _begin(since: str | None) -> datetime | None:
    if since is None:
        return None
    start = parse_since(since, "--since")
    return datetime.now(UTC) - start if isinstance(start, timedelta) else start
