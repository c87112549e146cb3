"""Pleiades as a service of systemd: install it, remove it, and say how it is."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atlas.cluster import SystemUser
from maia.maintenance import privileged
from maia.maintenance.systemctl import ASK_TIMEOUT_S, Runs, Systemd, UnitState, check_systemd, run_program
from maia.maintenance.unit_files import (
    API,
    BACKUP_TIMER,
    METRICS,
    SERVICE,
    FileState,
    Layout,
    NotInstallable,
    Record,
    Scope,
    UnitFile,
    digest_of,
    files_of,
    is_there,
    remove_files,
    state_of,
    write_file,
)

ACCOUNT: Final = "pleiades"
KEY_FILE: Final = "youtube_api_key_pool_json"
DATABASE_FILE: Final = "database_url"
PATTERN: Final = "pleiades*"

_POLKIT: Final = "usr/lib/polkit-1/polkitd"
_INTERPRETER_OF_ROOT: Final = "usr/bin/python3"
_CLOSED_FOLDERS: Final = ("/home", "/root", "/run/user")
"""What ProtectHome= hides from the services."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What installing would do: each file with its state, and the units that start at boot from then on."""

    layout: Layout
    program: Path
    units: tuple[str, ...]
    files: tuple[tuple[UnitFile, FileState], ...]

    @property
    def changed(self) -> list[UnitFile]:
        """Files that people changed."""
        return [file for file, state in self.files if state is FileState.CHANGED]

    def to_write(self, *, force: bool) -> list[UnitFile]:
        """Files to write: those that are missing or outdated, with `force` also those that people changed."""
        wanted = {FileState.MISSING, FileState.OUTDATED} | ({FileState.CHANGED} if force else set())
        return [file for file, state in self.files if state in wanted]


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What uninstalling would do: files to delete, those to keep as people changed them, units to stop."""

    layout: Layout
    files: tuple[Path, ...]
    kept: tuple[Path, ...]
    units: tuple[str, ...]


class Service:
    """Pleiades under the systemd of a scope, below `root`."""

    def __init__(
        self,
        scope: Scope,
        *,
        root: Path = Path("/"),
        environment: Mapping[str, str] | None = None,
        run: Runs = run_program,
        uid: int | None = None,
    ) -> None:
        self.scope, self.root, self._run = scope, root, run
        self._uid = os.geteuid() if uid is None else uid
        self.layout = Layout.of(scope, os.environ if environment is None else environment, root)
        self.systemd = Systemd(scope, run)

    @property
    def is_installed(self) -> bool:
        return (self.layout.units / SERVICE).exists()

    def check(self) -> None:
        """NoSystemd unless the scope's systemd runs."""
        check_systemd(self.scope, self.root)

    def check_rights(self) -> None:
        """NotInstallable unless this user may change the scope's files."""
        if self.scope is Scope.SYSTEM and self._uid != 0:
            raise NotInstallable(
                "only root can change services of the whole machine: run this as root, or install Pleiades "
                "for your user alone with --user"
            )
        if self.scope is Scope.USER and self._uid == 0:
            raise NotInstallable("--user is for users without root: run it as one of them, or leave it out")

    # Installing

    def plan_installation(self, program: Path, units: Sequence[str]) -> Installation:
        """Compare what would be installed with what is; NotInstallable if it could not work."""
        if self.scope is Scope.SYSTEM:
            self._check_program(program)
        record = Record.read(self.layout)
        files = files_of(self.layout, program, self.root)
        return Installation(
            layout=self.layout,
            program=program,
            units=tuple(units),
            files=tuple((file, state_of(file, record)) for file in files),
        )

    def _check_program(self, program: Path) -> None:
        """Whether services can reach the program and the Python that runs it, and root's part its own."""
        _check_source()
        for place in (program, program.parent / "python"):
            _check_reach(place)
        if not (self.root / _INTERPRETER_OF_ROOT).exists():
            raise NotInstallable(
                "/usr/bin/python3 is missing, which root's part needs (Debian: apt-get install python3)"
            )

    async def install(self, plan: Installation, *, force: bool = False, start: bool = False) -> list[str]:
        """Write the files, make the user, and let the units start at boot; returns the commands that ran."""
        layout = self.layout
        written = plan.to_write(force=force)
        layout.config.mkdir(mode=0o700, parents=True, exist_ok=True)
        record = Record.read(layout)
        digests = dict(record.digests)
        for file in written:
            write_file(file)
            digests[str(file.path)] = digest_of(file.text)
        for file, state in plan.files:
            if state is FileState.SAME:
                digests[str(file.path)] = digest_of(file.text)
        stale = self._stale(record, plan)
        remove_files(stale)
        for path in stale:
            digests.pop(str(path), None)
        Record(str(plan.program), plan.units, digests).write(layout)
        # One that runs already would otherwise go on as it was.
        verb = ("restart" if written else "start") if start else None
        return await self._apply(record, plan.units, verb)

    async def _apply(self, before: Record, units: Sequence[str], verb: str | None) -> list[str]:
        commands = []
        if self.scope is Scope.SYSTEM:
            commands.append(["systemd-sysusers", "pleiades.conf"])
            await self._checked(commands[-1])
        changes: list[tuple[str, ...]] = [("daemon-reload",)]
        if dropped := [unit for unit in before.units if unit not in units]:
            changes.append(("disable", "--now", *dropped))
        if units:
            changes.append(("enable", *units))
        if units and verb:
            changes.append((verb, *units))
        for change in changes:
            await self.systemd.change(*change)
            commands.append(self.systemd.command(*change))
        return [" ".join(command) for command in commands]

    async def _checked(self, command: Sequence[str]) -> None:
        answer = await self._run(command, ASK_TIMEOUT_S)
        if answer.status:
            raise NotInstallable(f"{' '.join(command)} failed: {answer.reason}")

    def _stale(self, record: Record, plan: Installation) -> list[Path]:
        """Files of an earlier version that this one does not have, unless people changed them."""
        wanted = {str(file.path) for file, _ in plan.files}
        return [Path(path) for path in record.digests if path not in wanted and _is_ours(Path(path), record)]

    # Removing

    async def plan_removal(self, *, force: bool = False) -> Removal:
        """What uninstalling would delete, keep and stop."""
        record = Record.read(self.layout)
        present = [path for path in map(Path, record.digests) if is_there(path)]
        kept = [] if force else [path for path in present if not _is_ours(path, record)]
        loaded = await self.systemd.units([PATTERN])
        units = [unit for unit in dict.fromkeys([*record.units, *loaded]) if _is_stoppable(unit)]
        return Removal(
            layout=self.layout,
            files=tuple(path for path in present if path not in kept),
            kept=tuple(kept),
            units=tuple(units),
        )

    async def uninstall(self, plan: Removal) -> None:
        """Stop everything and delete the files; the data stays."""
        if timers := [unit for unit in plan.units if unit.endswith(".timer")]:
            # First, or they would start what is being stopped.
            await self.systemd.change("disable", "--now", *timers)
        if services := [unit for unit in plan.units if unit.endswith(".service")]:
            await self.systemd.change("stop", *services)
        lasting = [unit for unit in services if unit in (SERVICE, METRICS, API)]
        if lasting:
            await self.systemd.change("disable", *lasting)
        remove_files([*plan.files, self.layout.record])
        await self.systemd.change("daemon-reload")
        await self.systemd.change("reset-failed", PATTERN)

    def data_folders(self) -> list[Path]:
        """What uninstalling keeps: data, settings and secrets."""
        return [folder for folder in (self.layout.data, self.layout.config) if folder.exists()]

    def purge(self) -> None:
        """Delete the data, the settings and the secrets."""
        for folder in self.data_folders():
            shutil.rmtree(folder)

    # Looking

    def missing_secrets(self, units: Sequence[str]) -> list[Path]:
        """The files with secrets that the units can't start without."""
        if self.scope is Scope.USER:
            return []
        return [path for name in _secrets_of(units) if not (path := self.layout.config / name).exists()]

    def started_units(self) -> list[str]:
        """The units that were installed to start at boot; none if this user may not know."""
        return list(Record.read(self.layout).units) if os.access(self.layout.record, os.R_OK) else []

    async def states(self) -> list[UnitState]:
        """The states of the units that start at boot and of all others that systemd has loaded."""
        names = [*(self.started_units() or [SERVICE]), *await self.systemd.units([PATTERN])]
        states = await self.systemd.states(list(dict.fromkeys(names)))
        return [state for state in states if state.loaded]

    def environment(self) -> dict[str, str] | None:
        """The variables with all settings of the services, secrets too; None if they are closed to us."""
        config = self.layout.config
        if not os.access(config, os.R_OK | os.X_OK):
            return None
        given = {name: value for name, value in _assignments(config / "pleiades.env") if value}
        if self.scope is Scope.USER:
            return given
        data, secrets = str(self.layout.data), {}
        for name in _secrets_of(self.started_units()):
            if (path := config / name).is_file():
                secrets[name.upper()] = path.read_text("utf-8", "replace").strip()
        return {**secrets, "PLEIADES_DATA_DIR": data, "HOME": data, **given}

    def account(self) -> SystemUser | None:
        """Whom to become to act as the services do: root's files in their folder would be closed to them."""
        if self.scope is Scope.USER or self._uid != 0:
            return None
        return _account()

    def advice(self) -> list[str]:
        """What else the one who installs may want to do."""
        advice = []
        if self.scope is Scope.SYSTEM and not (self.root / _POLKIT).exists():
            advice.append(
                "polkit is not installed, so the maintainer can neither restart services nor update packages "
                "(Debian: apt-get install polkitd)."
            )
        lingering = self.root / "var/lib/systemd/linger" / pwd.getpwuid(self._uid).pw_name
        if self.scope is Scope.USER and not lingering.exists():
            advice.append("It ends when you log out, unless you allow it to stay: loginctl enable-linger")
        return advice


def program_of_this_installation(releases: Path | None = None) -> Path:
    """The `maia` that units should run: this one; in a folder of releases, that of the current one.

    `releases` is the folder with a link `current` that an update switches.
    """
    own = Path(sys.prefix) / "bin/maia"
    if releases is not None and own.resolve().is_relative_to(releases.resolve()):
        own = releases / "current/bin/maia"
    if not own.exists():
        raise NotInstallable(
            f"{own} does not exist: install Pleiades into a virtual environment (pip install)"
        )
    return own.absolute()


def units_to_start(*, timers: bool, agents: Sequence[str], scope: Scope) -> list[str]:
    """The units that start at boot: everything on this machine, or single cycles by timers."""
    if not timers:
        return [SERVICE]
    lasting = [METRICS, API] if scope is Scope.SYSTEM else []
    return [*(f"pleiades-agent@{agent}.timer" for agent in agents), BACKUP_TIMER, *lasting]


def installed_scope() -> Scope:
    """The scope in which Pleiades is installed, this user's own before the machine's."""
    scopes = [Scope.SYSTEM] if os.geteuid() == 0 else [Scope.USER, Scope.SYSTEM]
    for scope in scopes:
        if Service(scope).is_installed:
            return scope
    raise NotInstallable("Pleiades is not installed as a service here: maia daemon install")


def _secrets_of(units: Sequence[str]) -> list[str]:
    """The files with secrets that units pass on; everything on one machine brings its own database."""
    return [KEY_FILE] if SERVICE in units else [KEY_FILE, DATABASE_FILE]


def _assignments(file: Path) -> Iterator[tuple[str, str]]:
    """The NAME=value lines of a file that systemd reads as an EnvironmentFile=."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith(("#", ";")):
            quote = value[:1] if value[:1] in ("'", '"') and value[-1:] == value[:1] else ""
            yield name.strip(), value.strip(quote) if quote else value


def _check_reach(place: Path) -> None:
    for folder in _CLOSED_FOLDERS:
        if any(each.is_relative_to(folder) for each in (place, place.resolve())):
            raise NotInstallable(
                f"{place} leads into {folder}, which is hidden from services: install Pleiades with the "
                "system's Python elsewhere (python3 -m venv /opt/pleiades), and run "
                "/opt/pleiades/bin/maia daemon install"
            )
    closed = _account().first_inaccessible_folder(place.resolve())
    if closed is not None:
        raise NotInstallable(f"the user {ACCOUNT} could not enter {closed}: chmod o+x {closed}")


def _account() -> SystemUser:
    """The user that the services run as; before there is one, somebody who owns nothing."""
    try:
        return SystemUser.of(pwd.getpwnam(ACCOUNT))
    except KeyError:
        return SystemUser(ACCOUNT, -1, -1)


def _check_source() -> None:
    """NotInstallable if others than root could have changed what root is about to install and run."""
    try:
        privileged.check_ownership(Path(privileged.__file__))
    except privileged.Refused as unsafe:
        raise NotInstallable(
            f"root must not install files that others can write: {unsafe}; or install Pleiades as root "
            "(python3 -m venv /opt/pleiades), and name another maia for the services by --program"
        ) from None


def _is_ours(path: Path, record: Record) -> bool:
    try:
        text = path.read_text("utf-8", "surrogateescape")
    except OSError:
        return False
    return not path.is_symlink() and record.digests.get(str(path)) == digest_of(text)


def _is_stoppable(unit: str) -> bool:
    return unit.endswith((".service", ".timer")) and "privileged@" not in unit
