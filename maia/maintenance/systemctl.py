"""Asks systemd and its journal, by the programs that every systemd brings: systemctl and journalctl."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from maia.errors import MaiaError
from maia.maintenance.programs import Finished, ProgramFailed, run
from maia.maintenance.unit_files import Scope

ASK_TIMEOUT_S: Final = 30.0
CHANGE_TIMEOUT_S: Final = 960.0
"""How long starting may take: units say within 15 minutes whether they are ready."""

_NOT_SET: Final = {"", "[not set]", "n/a", "infinity", str(2**64 - 1)}
_PROPERTIES: Final = (
    "Id", "Description", "LoadState", "ActiveState", "SubState", "Result", "UnitFileState", "MainPID",
    "NRestarts", "MemoryCurrent", "TasksCurrent", "StateChangeTimestamp", "StatusText",
    "NextElapseUSecRealtime", "LastTriggerUSec", "ExecMainStatus",
)  # fmt: skip
_PRIORITIES: Final = ("emergency", "alert", "critical", "error", "warning", "notice", "info", "debug")
_INSTEAD: Final = """\
Without it:
- keep `maia up` running in a terminal, tmux or under nohup;
- or run single cycles by cron: */10 * * * * maia hunter --direct
- or run containers with Compose: see docs/deployment.md"""


class NoSystemd(MaiaError):
    """This machine isn't run by systemd."""


class SystemdFailed(ProgramFailed):
    """systemd refused or failed what was asked of it."""


class Runs(Protocol):
    """Runs a program by its arguments."""

    async def __call__(self, command: Sequence[str], timeout_s: float) -> Finished: ...


async def run_program(
    command: Sequence[str], timeout_s: float, environment: Mapping[str, str] | None = None
) -> Finished:
    """Run a program that controls others, by default in English and UTC; what it starts outlives it."""
    own = _environment() if environment is None else environment
    return await run(command, timeout_s=timeout_s, environment=own, folder="/", ends_all=False)


def _environment() -> dict[str, str]:
    wanted = ("PATH", "HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
    passed = {name: value for name in wanted if (value := os.environ.get(name))}
    return {**passed, "LC_ALL": "C.UTF-8", "TZ": "UTC", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitState:
    """What systemd says about a unit; None where it has no such figure."""

    name: str
    description: str
    loaded: bool
    active: str
    """active, activating, deactivating, inactive, failed"""
    sub: str
    result: str
    starts_at_boot: bool
    since: datetime | None
    """When it came into this state."""
    says: str
    """What the unit says about itself."""
    pid: int | None
    restarts: int
    memory_bytes: int | None
    tasks: int | None
    last_status: int | None
    next_at: datetime | None
    last_at: datetime | None
    """When a timer elapses next, and when it did last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line of the journal."""

    at: datetime
    unit: str
    priority: str
    pid: int | None
    message: str


def check_systemd(scope: Scope, root: Path = Path("/")) -> None:
    """Raise NoSystemd, with what to do instead, unless systemd runs the machine and the scope's units."""
    if not (root / "run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        raise NoSystemd(f"systemd does not run this machine, so there is no service to manage.\n{_INSTEAD}")
    if scope is Scope.USER and not _has_user_manager(root):
        raise NoSystemd(
            "systemd runs no services for this user now: log in without su or sudo, or let it run without a "
            f"login (loginctl enable-linger).\n{_INSTEAD}"
        )


def _has_user_manager(root: Path) -> bool:
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return (root / runtime.lstrip("/") / "systemd").is_dir()


class Systemd:
    """The systemd of a scope."""

    def __init__(self, scope: Scope, run: Runs = run_program) -> None:
        self.scope, self._run = scope, run

    def command(self, *words: str) -> list[str]:
        """The systemctl command, as people would type it."""
        return ["systemctl", *(["--user"] if self.scope is Scope.USER else []), *words]

    async def change(self, verb: str, *units: str) -> None:
        """Start, stop, restart, enable or disable units, or let systemd read its files again."""
        command = self.command("--no-ask-password", verb, *units)
        answer = await self._run(command, CHANGE_TIMEOUT_S)
        if answer.status == 0:
            return
        if answer.status == 4 or "interactive authentication required" in answer.reason.lower():
            raise SystemdFailed(f"systemd lets only root {verb} {' '.join(units)}: run this as root")
        raise SystemdFailed(f"{' '.join(command)} failed: {answer.reason}")

    async def units(self, patterns: Iterable[str]) -> list[str]:
        """The names of the loaded units that match a pattern."""
        command = self.command("list-units", "--all", "--full", "--plain", "--no-legend", *patterns)
        answer = await self._run(command, ASK_TIMEOUT_S)
        if answer.status:
            raise SystemdFailed(f"systemd can't be asked: {answer.reason}")
        return [line.split()[0] for line in answer.out.splitlines() if line.strip()]

    async def states(self, units: Sequence[str]) -> list[UnitState]:
        """The state of each unit, in their order."""
        if not units:
            return []
        command = self.command("show", f"--property={','.join(_PROPERTIES)}", "--", *units)
        answer = await self._run(command, ASK_TIMEOUT_S)
        if answer.status:
            raise SystemdFailed(f"systemd can't be asked: {answer.reason}")
        return [_state(block) for block in answer.out.strip("\n").split("\n\n")]

    def journal_command(
        self, units: Sequence[str], *, lines: int | None, since: datetime | None, follow: bool
    ) -> list[str]:
        option = "--user-unit" if self.scope is Scope.USER else "--unit"
        command = ["journalctl", "--no-pager", "--output=json", "--all", "--quiet"]
        command += [f"{option}={unit}" for unit in units]
        command += [f"--lines={lines}"] if lines is not None else []
        command += [f"--since=@{since.timestamp():.0f}"] if since is not None else []
        return [*command, *(["--follow"] if follow else [])]

    async def journal(
        self,
        units: Sequence[str],
        *,
        lines: int | None = None,
        since: datetime | None = None,
        follow: bool = False,
    ) -> AsyncIterator[LogLine]:
        """Lines of the journal, the oldest first; with `follow`, those to come as well."""
        check_journal()
        command = self.journal_command(units, lines=lines, since=since, follow=follow)
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(),
            limit=1 << 22,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async for text in process.stdout:
                if (line := _log_line(text)) is not None:
                    yield line
            complaint = (await process.stderr.read()).decode(errors="replace").strip()
            # It fails where a pattern matches no unit that has ever written a line.
            if await process.wait() and "No data available" not in complaint:
                raise SystemdFailed(f"the journal can't be read: {complaint or 'journalctl failed'}")
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.terminate()
                await process.wait()


def check_journal() -> None:
    """Raise SystemdFailed, with what to do instead, where there is no journal."""
    if shutil.which("journalctl") is None:
        raise SystemdFailed(
            "there is no journal here (journalctl is missing): the logs are where the machine's syslog puts "
            "them, mostly /var/log/syslog or /var/log/daemon.log"
        )


def _state(block: str) -> UnitState:
    told = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    return UnitState(
        name=told.get("Id", ""),
        description=told.get("Description", ""),
        loaded=told.get("LoadState") == "loaded",
        active=told.get("ActiveState", "unknown"),
        sub=told.get("SubState", ""),
        result=told.get("Result", ""),
        starts_at_boot=told.get("UnitFileState") in {"enabled", "enabled-runtime"},
        since=_instant(told.get("StateChangeTimestamp")),
        says=told.get("StatusText", ""),
        pid=_number(told.get("MainPID")) or None,
        restarts=_number(told.get("NRestarts")) or 0,
        memory_bytes=_number(told.get("MemoryCurrent")),
        tasks=_number(told.get("TasksCurrent")),
        last_status=_number(told.get("ExecMainStatus")),
        next_at=_instant(told.get("NextElapseUSecRealtime")),
        last_at=_instant(told.get("LastTriggerUSec")),
    )


def _number(text: str | None) -> int | None:
    return None if text is None or text in _NOT_SET or not text.isdecimal() else int(text)


def _instant(text: str | None) -> datetime | None:
    """An instant as systemctl prints it in UTC: Sun 2026-11-29 16:25:08 UTC."""
    if text is None or text in _NOT_SET:
        return None
    try:
        return datetime.strptime(text, "%a %Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
    except ValueError:
        return None


def _log_line(text: bytes) -> LogLine | None:
    try:
        entry: Mapping[str, Any] = json.loads(text)
        at = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, UTC)
    except (ValueError, LookupError, TypeError):
        return None
    unit = entry.get("UNIT") or entry.get("USER_UNIT") or entry.get("_SYSTEMD_UNIT") or ""
    if user_unit := entry.get("_SYSTEMD_USER_UNIT"):
        unit = entry.get("USER_UNIT") or user_unit
    priority, pid = str(entry.get("PRIORITY", "")), str(entry.get("_PID", ""))
    return LogLine(
        at=at,
        unit=str(unit),
        priority=_PRIORITIES[int(priority)] if priority in set("01234567") else "info",
        pid=int(pid) if pid.isdecimal() else None,
        message=_message(entry.get("MESSAGE")),
    )


def _message(value: object) -> str:
    """A message; the journal gives one that isn't UTF-8 text as numbers of bytes."""
    if isinstance(value, list):
        with suppress(TypeError, ValueError):
            return bytes(value).decode(errors="replace")
    return "" if value is None else str(value)
