"""What systemd and its journal answer, and what they are asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from maia.maintenance import systemctl
from maia.maintenance.programs import Finished, ProgramFailed
from maia.maintenance.systemctl import NoSystemd, Systemd, SystemdFailed, check_systemd, run_program
from maia.maintenance.unit_files import Scope

SHOWN = """\
Id=pleiades.service
Description=Pleiades: everything on this machine
LoadState=loaded
ActiveState=active
SubState=running
Result=success
UnitFileState=enabled
MainPID=215
NRestarts=2
MemoryCurrent=104857600
TasksCurrent=[not set]
StateChangeTimestamp=Sun 2026-11-29 16:46:03 UTC
StatusText=Ready, with the UI at http://127.0.0.1:4200/?a=b
ExecMainStatus=0

Id=pleiades-backup.timer
LoadState=loaded
ActiveState=active
SubState=waiting
Result=success
UnitFileState=disabled
MemoryCurrent=18446744073709551615
StateChangeTimestamp=
NextElapseUSecRealtime=Mon 2026-11-30 01:37:12 UTC
LastTriggerUSec=n/a
"""


class Program:
    """Answers as a program would, and keeps what it was asked."""

    def __init__(self, *answers: Finished) -> None:
        self.answers = list(answers)
        self.asked: list[Sequence[str]] = []

    async def __call__(self, command: Sequence[str], timeout_s: float) -> Finished:
        self.asked.append(command)
        return self.answers.pop(0) if self.answers else Finished(0, "", "")


async def test_states_are_read() -> None:
    program = Program(Finished(0, SHOWN, ""))
    service, timer = await Systemd(Scope.SYSTEM, program).states(
        ["pleiades.service", "pleiades-backup.timer"]
    )
    assert (service.name, service.active, service.restarts, service.pid) == (
        "pleiades.service",
        "active",
        2,
        215,
    )
    assert service.memory_bytes == 100 * 2**20
    assert service.tasks is None
    assert service.since == datetime(2026, 11, 29, 16, 46, 3, tzinfo=UTC)
    assert service.says == "Ready, with the UI at http://127.0.0.1:4200/?a=b"
    assert service.starts_at_boot
    assert not timer.starts_at_boot
    assert (timer.memory_bytes, timer.since, timer.pid, timer.last_at) == (None, None, None, None)
    assert timer.next_at == datetime(2026, 11, 30, 1, 37, 12, tzinfo=UTC)
    assert program.asked[0][-2:] == ["pleiades.service", "pleiades-backup.timer"]


async def test_a_user_s_own_systemd_is_asked_for_a_user_s_services() -> None:
    program = Program()
    systemd = Systemd(Scope.USER, program)
    await systemd.change("restart", "pleiades.service")
    assert program.asked == [["systemctl", "--user", "--no-ask-password", "restart", "pleiades.service"]]
    command = systemd.journal_command(["pleiades*"], lines=5, since=None, follow=True)
    assert "--user-unit=pleiades*" in command
    assert command[-2:] == ["--lines=5", "--follow"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Finished(4, "", "Failed to start x: Access denied\n"), "run this as root"),
        (Finished(1, "", "Failed to start x: Interactive authentication required.\n"), "run this as root"),
        (Finished(5, "", "Unit x not found.\n"), "Unit x not found"),
        (Finished(1, "", ""), "status 1"),
    ],
)
async def test_a_refusal_says_what_to_do(answer: Finished, said: str) -> None:
    with pytest.raises(SystemdFailed, match=said):
        await Systemd(Scope.SYSTEM, Program(answer)).change("start", "x")


@pytest.fixture
def journalctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "journalctl"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return program


async def journal(program: Path, script: str) -> list[systemctl.LogLine]:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return [line async for line in Systemd(Scope.SYSTEM).journal(["pleiades*"])]


async def test_the_journal_s_lines_are_read(journalctl: Path) -> None:
    entries = [
        {
            "__REALTIME_TIMESTAMP": "1764434763000000",
            "_SYSTEMD_UNIT": "pleiades.service",
            "PRIORITY": "6",
            "_PID": "12",
            "MESSAGE": "Ready",
        },
        {
            "__REALTIME_TIMESTAMP": "1764434764000000",
            "_SYSTEMD_UNIT": "init.scope",
            "UNIT": "pleiades.service",
            "PRIORITY": "3",
            "MESSAGE": [98, 97, 100, 255],
        },
        {"no": "time"},
        {"__REALTIME_TIMESTAMP": "1764434765000000", "MESSAGE": None, "_SYSTEMD_UNIT": "user@1000.service",
         "_SYSTEMD_USER_UNIT": "pleiades.service"},
    ]  # fmt: skip
    lines = "\n".join(json.dumps(entry) for entry in entries)
    first, second, third = await journal(journalctl, f"cat <<'END'\n{lines}\nnot JSON\nEND")
    assert (first.unit, first.priority, first.pid, first.message) == ("pleiades.service", "info", 12, "Ready")
    assert first.at == datetime(2025, 11, 29, 16, 46, 3, tzinfo=UTC)
    assert (second.unit, second.priority, second.message) == (
        "pleiades.service",
        "error",
        "bad\N{REPLACEMENT CHARACTER}",
    )
    assert (third.unit, third.message) == ("pleiades.service", "")


async def test_a_journal_without_such_units_is_empty_and_a_broken_one_an_error(journalctl: Path) -> None:
    none = "echo 'Failed to add filter for units: No data available' >&2; exit 1"
    assert await journal(journalctl, none) == []
    with pytest.raises(SystemdFailed, match="can't be read: it is broken"):
        await journal(journalctl, "echo 'it is broken' >&2; exit 1")


async def test_whoever_stops_reading_the_journal_stops_its_program(journalctl: Path, tmp_path: Path) -> None:
    entry = json.dumps({"__REALTIME_TIMESTAMP": "1", "MESSAGE": "first"})
    journalctl.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\necho '{entry}'\nexec sleep 600\n")
    journalctl.chmod(0o755)
    lines = Systemd(Scope.SYSTEM).journal(["pleiades*"], follow=True)
    assert (await anext(lines)).message == "first"
    pid = int((tmp_path / "pid").read_text())
    await lines.aclose()  # type: ignore[attr-defined]
    assert not Path(f"/proc/{pid}").exists()


async def test_without_a_journal_it_says_where_logs_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemdFailed, match="/var/log/syslog"):
        await anext(Systemd(Scope.SYSTEM).journal([]))


async def test_programs_are_run_in_english_and_ended_if_they_hang(tmp_path: Path) -> None:
    answer = await run_program(["/usr/bin/env"], 30)
    assert "LC_ALL=C.UTF-8" in answer.out
    assert "TZ=UTC" in answer.out
    with pytest.raises(ProgramFailed, match="took more than"):
        await run_program(["/bin/sleep", "600"], 0.01)
    with pytest.raises(ProgramFailed, match="can't be started"):
        await run_program([str(tmp_path / "missing")], 30)


def test_a_machine_without_systemd_is_told_what_to_do_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NoSystemd, match="maia up") as refused:
        check_systemd(Scope.SYSTEM, tmp_path)
    assert "docs/deployment.md" in str(refused.value)
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    program = tmp_path / "bin/systemctl"
    program.parent.mkdir()
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    check_systemd(Scope.SYSTEM, tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    with pytest.raises(NoSystemd, match="enable-linger"):
        check_systemd(Scope.USER, tmp_path)
    (tmp_path / "run/user/7/systemd").mkdir(parents=True)
    check_systemd(Scope.USER, tmp_path)
