"""`maia daemon`: what it says, without a systemd."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from maia.commands import daemon
from maia.commands.daemon_display import health_told
from maia.errors import MaiaError
from maia.maintenance import service as services
from maia.maintenance.programs import Finished
from maia.maintenance.service import Service
from maia.maintenance.systemctl import LogLine, Systemd, SystemdFailed, UnitState
from maia.maintenance.unit_files import Scope

AT = datetime(2026, 11, 29, 16, 46, 3, tzinfo=UTC)


def state(name: str, active: str = "active", **other: Any) -> UnitState:
    values: dict[str, Any] = {
        "name": name, "description": "", "loaded": True, "active": active, "sub": "", "result": "success",
        "starts_at_boot": True, "since": datetime.now(UTC) - timedelta(hours=5), "says": "Ready", "pid": 7,
        "restarts": 2, "memory_bytes": 512 * 2**20, "tasks": 9, "last_status": 0, "next_at": None,
        "last_at": None,
    }  # fmt: skip
    return UnitState(**values | other)


class FakeSystemd:
    """Stands for the machine's systemd in the place of systemctl and journalctl."""

    def __init__(self) -> None:
        self.shown = [state("pleiades.service")]
        self.asked: list[Sequence[str]] = []
        self.failure: MaiaError | None = None

    async def run(self, command: Sequence[str], timeout_s: float) -> Finished:
        self.asked.append(command)
        return Finished(0, "", "")

    async def change(self, systemd: Systemd, verb: str, *units: str) -> None:
        self.asked.append([verb, *units])
        if self.failure is not None:
            raise self.failure

    async def units(self, systemd: Systemd, patterns: Sequence[str]) -> list[str]:
        return []

    async def states(self, systemd: Systemd, units: Sequence[str]) -> list[UnitState]:
        return self.shown

    async def journal(self, systemd: Systemd, units: Sequence[str], **options: Any) -> AsyncIterator[LogLine]:
        yield LogLine(at=AT, unit="pleiades.service", priority="error", pid=7, message="no key\x1b[31m")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeSystemd:
    fake = FakeSystemd()
    for name in ("change", "units", "states", "journal"):
        function = getattr(fake, name)
        monkeypatch.setattr(Systemd, name, lambda self, *a, _f=function, **k: _f(self, *a, **k))
    monkeypatch.setattr("maia.maintenance.systemctl.check_systemd", lambda scope, root=Path("/"): None)
    monkeypatch.setattr(services, "check_systemd", lambda scope, root=Path("/"): None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(daemon, "health_of", lambda service, states: {"score": 0.9})
    return fake


def maia(*words: str) -> Result:
    """Run the group without `maia` itself, whose signals are not for this process."""
    return CliRunner().invoke(daemon.app, list(words), catch_exceptions=True)


def test_installing_shows_what_it_writes_and_keeps_what_somebody_changed(
    fake: FakeSystemd, tmp_path: Path
) -> None:
    unit = tmp_path / ".config/systemd/user/pleiades.service"
    planned = maia("install", "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert f"write {unit}" in planned.output
    assert not unit.exists()
    done = maia("install", "--now", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert (told["applied"], told["units"]) == (True, ["pleiades.service"])
    assert told["commands"][-1] == "systemctl --user restart pleiades.service"
    assert "all 9 files are up to date" in maia("install").output
    unit.write_text(unit.read_text().replace("WatchdogSec=3min", "WatchdogSec=9min"))
    refused = maia("install")
    assert refused.exit_code == 1
    assert "-WatchdogSec=9min\n+WatchdogSec=3min" in refused.output
    assert "--force overwrites them" in refused.output
    assert maia("install", "--force").exit_code == 0
    assert "WatchdogSec=3min" in unit.read_text()


def test_timers_stay_chosen(fake: FakeSystemd) -> None:
    assert maia("install", "--timers").exit_code == 0
    told = json.loads(maia("install", "--json").output)
    assert "pleiades-agent@maintainer.timer" in told["units"]
    assert "pleiades.service" not in told["units"]
    assert json.loads(maia("install", "--everything", "--json").output)["units"] == ["pleiades.service"]


@pytest.mark.parametrize(("active", "status"), [("active", 0), ("failed", 1), ("inactive", 1)])
def test_status_tells_whether_all_is_well(fake: FakeSystemd, active: str, status: int) -> None:
    maia("install")
    fake.shown = [
        state("pleiades.service", active, result="watchdog"),
        state("pleiades-backup.timer", "inactive"),
    ]
    shown = maia("status")
    assert shown.exit_code == status
    assert "pleiades.service" in shown.output
    assert "health: 0.90 of 1" in shown.output
    assert "11-29 16:46:03 pleiades: no key" in shown.output
    assert "\x1b" not in shown.output
    told = json.loads(maia("status", "--json").output)
    assert told["well"] == (status == 0)
    assert told["log"][0]["message"].startswith("no key")


def test_a_start_that_fails_shows_what_the_service_said(fake: FakeSystemd) -> None:
    maia("install")
    fake.failure = SystemdFailed("systemctl start failed: exit-code")
    failed = maia("start")
    assert isinstance(failed.exception, SystemdFailed)
    assert "pleiades: no key" in failed.output


def test_units_are_controlled_by_name_or_all_that_start_at_boot(fake: FakeSystemd) -> None:
    maia("install")
    assert "pleiades.service is active: Ready" in maia("restart").output
    maia("stop", "pleiades-backup.timer")
    assert fake.asked[-2:] == [["restart", "pleiades.service"], ["stop", "pleiades-backup.timer"]]


def test_lines_of_the_log_are_text_or_json(fake: FakeSystemd) -> None:
    maia("install")
    assert (
        maia("logs", "--since", "2h").output == "11-29 16:46:03 pleiades: no key\N{SYMBOL FOR ESCAPE}[31m\n"
    )
    assert json.loads(maia("logs", "--json").output)["priority"] == "error"
    assert maia("logs", "--since", "yesterday").exit_code == 2


def test_uninstalling_says_what_stays_and_purges_only_when_told(fake: FakeSystemd, tmp_path: Path) -> None:
    maia("install")
    data = tmp_path / ".local/share/pleiades"
    data.mkdir(parents=True)
    planned = maia("uninstall", "--dry-run")
    assert "would delete" in planned.output
    assert Service(Scope.USER).is_installed
    done = maia("uninstall")
    assert f"kept: {data}" in done.output
    assert not Service(Scope.USER).is_installed
    maia("install")
    assert CliRunner().invoke(daemon.app, ["uninstall", "--purge"], input="n\n").exit_code == 1
    assert data.exists()
    assert maia("uninstall", "--purge", "--yes").exit_code == 0
    assert not data.exists()


def test_what_is_not_installed_says_how_to_install_it(fake: FakeSystemd) -> None:
    refused = maia("status")
    assert "maia daemon install" in str(refused.exception)


def test_without_systemd_it_says_what_else_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maia.maintenance.systemctl.shutil.which", lambda name: None)
    for words in (["status"], ["install"], ["logs"]):
        assert "cron" in str(maia(*words).exception)


def test_a_command_runs_with_the_services_settings(
    fake: FakeSystemd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "not installed" in str(maia("run", "status").exception)
    maia("install")
    config = Service(Scope.USER).layout.config
    config.mkdir(parents=True, exist_ok=True)
    (config / "pleiades.env").write_text("PLEIADES_TRACKER__HOT_INTERVAL_H=2\n")
    executed: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, words: executed.append(words))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    maia("run", "report", "--week", "this", "--user")
    assert executed[0][-5:] == ["maia", "report", "--week", "this", "--user"]
    assert os.environ["PLEIADES_TRACKER__HOT_INTERVAL_H"] == "2"


def test_a_command_runs_as_the_services_user(fake: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    maia("install")
    done: list[tuple[str, Any]] = []
    for name in ("chdir", "setgroups", "setgid", "setuid"):
        monkeypatch.setattr(os, name, lambda value, _name=name: done.append((_name, value)))
    monkeypatch.setattr(os, "execv", lambda program, words: done.append(("execv", words[-1])))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(Service, "environment", lambda self: {})
    monkeypatch.setattr(Service, "account", lambda self: services.SystemUser("pleiades", 990, 991))
    maia("run", "status")
    assert done[1:] == [("setgroups", []), ("setgid", 991), ("setuid", 990), ("execv", "status")]


def test_comments_are_the_command_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "comments" in maia("--help").output
    comments = ModuleType("maia.commands.comments")
    app = typer.Typer()
    app.command()(lambda: typer.echo("the comments"))
    comments.app = app  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "maia.commands.comments", comments)
    assert maia("comments").output == "the comments\n"


def test_health_is_read_from_what_the_command_prints() -> None:
    assert health_told('{"score": 0.5, "findings": []}') == {"score": 0.5, "findings": []}
    for text in ("", "[]", "{}", '{"score": null}', "Traceback"):
        assert health_told(text) is None
