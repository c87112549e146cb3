"""`maia daemon` under a systemd that boots: installing, looking, removing, for the machine and for a user."""

from __future__ import annotations

import json

import pytest

from tests.units.machine import MAIA, Machine

pytestmark = pytest.mark.timeout(1800)

UNIT = "etc/systemd/system/pleiades-metrics.service"
ANALYST = ("HOME=/home/analyst", "XDG_RUNTIME_DIR=/run/user/2000")


def test_installing_again_changes_nothing(machine: Machine) -> None:
    done = json.loads(machine.maia("daemon", "install", "--json").stdout)
    assert {file["state"] for file in done["files"]} == {"same"}
    assert done["units"] == ["pleiades.service"]
    assert machine.show("pleiades")["UnitFileState"] == "enabled"
    assert machine.run("id", "-un", "pleiades") == "pleiades\n"
    assert machine.run("stat", "-c", "%U %a", "/usr/local/libexec/pleiades-privileged") == "root 755\n"
    assert machine.run("stat", "-c", "%U %a", "/etc/pleiades") == "root 700\n"


def test_a_file_that_somebody_changed_is_shown_and_kept(machine: Machine) -> None:
    unit = machine.root / UNIT
    original = unit.read_text()
    unit.write_text(original.replace("MemoryMax=512M", "MemoryMax=999M"))
    refused = machine.maia("daemon", "install")
    assert refused.returncode == 1
    assert "-MemoryMax=999M\n+MemoryMax=512M" in refused.stdout
    assert "MemoryMax=999M" in unit.read_text()
    assert machine.maia("daemon", "install", "--force").returncode == 0
    assert unit.read_text() == original


def test_state_and_logs_are_shown(machine: Machine) -> None:
    machine.run("systemctl", "stop", "pleiades-metrics")
    assert machine.maia("daemon", "start", "pleiades-metrics.service").returncode == 0
    told = json.loads(machine.maia("daemon", "status", "--json").stdout)
    [metrics] = [unit for unit in told["units"] if unit["name"] == "pleiades-metrics.service"]
    assert (metrics["active"], metrics["starts_at_boot"]) == ("active", False)
    assert metrics["pid"] == int(machine.show("pleiades-metrics")["MainPID"])
    assert not told["well"], "pleiades.service starts at boot, and does not run"
    text = machine.maia("daemon", "status").stdout
    assert "pleiades-metrics.service" in text
    shown = machine.maia("daemon", "logs", "--json", "--lines", "20", "pleiades-metrics.service").stdout
    assert {json.loads(line)["unit"] for line in shown.splitlines()} == {"pleiades-metrics.service"}
    assert machine.maia("daemon", "stop", "pleiades-metrics.service").returncode == 0
    assert machine.show("pleiades-metrics")["ActiveState"] == "inactive"


def test_other_users_are_told_that_root_is_needed(machine: Machine) -> None:
    for words in (["install", "--system"], ["stop"], ["uninstall"]):
        refused = machine.attempt(MAIA, "daemon", *words, user="nobody")
        assert refused.returncode == 1
        assert "run this as root" in refused.stderr


def test_a_user_installs_services_of_his_own(machine: Machine) -> None:
    machine.run("useradd", "--create-home", "--uid", "2000", "analyst")
    machine.run("loginctl", "enable-linger", "analyst")
    machine.run("systemctl", "start", "user@2000.service")

    def as_analyst(*command: str) -> str:
        answer = machine.attempt("env", *ANALYST, *command, user="analyst")
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    as_analyst(MAIA, "daemon", "install")
    state = as_analyst("systemctl", "--user", "show", "pleiades", "--property=LoadState,ExecStart,Type")
    assert "LoadState=loaded" in state
    assert "Type=notify" in state
    assert "path=/opt/pleiades/bin/maia" in state
    told = machine.attempt("env", *ANALYST, MAIA, "daemon", "status", "--json", user="analyst").stdout
    assert json.loads(told)["scope"] == "user"
    as_analyst(MAIA, "daemon", "uninstall")
    assert as_analyst("find", "/home/analyst/.config/systemd", "-name", "pleiades*") == ""


def test_uninstalling_keeps_the_data_and_says_where(machine: Machine) -> None:
    machine.run("mkdir", "-p", "/var/lib/pleiades/kept")
    done = machine.maia("daemon", "uninstall")
    assert done.returncode == 0, done.stderr
    assert "/var/lib/pleiades, /etc/pleiades" in done.stdout
    assert machine.run("find", "/etc/systemd/system", "/etc/polkit-1", "-name", "*pleiades*") == ""
    assert machine.show("pleiades")["LoadState"] == "not-found"
    assert (machine.root / "var/lib/pleiades/kept").is_dir()
    assert (machine.root / "etc/pleiades/database_url").is_file()
    assert machine.maia("daemon", "status").returncode == 1
    assert machine.maia("daemon", "install").returncode == 0
