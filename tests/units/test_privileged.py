"""Root's verbs under a systemd that boots: what the user pleiades may start, and what nobody may."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.units.machine import Machine

pytestmark = pytest.mark.timeout(1800)

ALLOWED = "pleiades-privileged@restart-pleiades-metrics.service"
ASKER = "pleiades-asker.service"
PACKAGES = Path(__file__).with_name("packages.sh")


@pytest.fixture(autouse=True)
def unlimited(machine: Machine) -> Iterator[None]:
    """systemd's limit of starts in a few seconds begins anew after each test."""
    yield
    machine.run("systemctl", "reset-failed", "pleiades*", ALLOWED, check=False)


def ask(machine: Machine, verb: str, unit: str, user: str = "pleiades") -> subprocess.CompletedProcess[str]:
    return machine.attempt("systemctl", "--no-ask-password", verb, unit, user=user)


def test_the_user_pleiades_may_start_a_verb_of_the_list(machine: Machine) -> None:
    before = machine.show("pleiades-metrics")["ExecMainStartTimestampMonotonic"]
    done = ask(machine, "start", ALLOWED)
    assert done.returncode == 0, done.stderr
    state = machine.show("pleiades-metrics")
    assert state["ActiveState"] == "active"
    assert state["ExecMainStartTimestampMonotonic"] != before
    machine.run("systemctl", "stop", "pleiades-metrics")


@pytest.mark.parametrize(
    ("verb", "unit", "user"),
    [
        ("start", "pleiades-privileged@reboot.service", "pleiades"),
        ("start", "pleiades-privileged@.service", "pleiades"),
        ("start", "pleiades-privileged@restart-pleiades-metrics.service.service", "pleiades"),
        ("stop", ALLOWED, "pleiades"),
        ("restart", ALLOWED, "pleiades"),
        ("reload-or-restart", ALLOWED, "pleiades"),
        ("start", "pleiades-metrics.service", "pleiades"),
        ("start", "reboot.target", "pleiades"),
        ("enable", "pleiades-metrics.service", "pleiades"),
        ("set-environment", "PYTHONPATH=/tmp", "pleiades"),
        ("start", ALLOWED, "nobody"),
        ("start", ALLOWED, "postgres"),
    ],
)
def test_everything_else_is_refused(machine: Machine, verb: str, unit: str, user: str) -> None:
    refused = ask(machine, verb, unit, user)
    assert refused.returncode != 0
    # A template without an instance can't be started by anybody.
    reasons = ("authentication required", "Access denied", "instance name")
    assert any(reason in refused.stderr for reason in reasons), refused.stderr


def test_even_root_starts_no_verb_that_is_not_in_the_list(machine: Machine) -> None:
    refused = machine.attempt("systemctl", "start", "pleiades-privileged@reboot.service")
    assert refused.returncode == 1
    assert "reboot is not among the verbs" in machine.journal("pleiades-privileged@reboot")


def test_a_list_that_others_could_write_counts_for_nothing(machine: Machine) -> None:
    machine.run("chmod", "o+w", "/etc/pleiades/privileged")
    try:
        assert ask(machine, "start", ALLOWED).returncode == 1
        assert "nobody else may write it" in machine.journal(ALLOWED)
    finally:
        machine.run("chmod", "o-w", "/etc/pleiades/privileged")


def test_it_can_be_asked_for_from_within_a_confined_service(machine: Machine) -> None:
    unit = (machine.root / "etc/systemd/system/pleiades-agent@.service").read_text()
    lines = [line for line in unit.splitlines() if not line.startswith(("ExecStart=", "LoadCredential="))]
    place = lines.index("[Service]") + 1
    lines.insert(place, f"ExecStart=/usr/bin/systemctl --no-ask-password start {ALLOWED}")
    machine.run("sh", "-c", f"cat > /run/systemd/system/{ASKER} <<'END'\n" + "\n".join(lines) + "\nEND")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", ASKER)
    assert machine.show(ASKER)["Result"] == "success"
    assert machine.show(ASKER)["NoNewPrivileges"] == "yes"
    assert machine.show("pleiades-metrics")["ActiveState"] == "active"
    machine.run("systemctl", "stop", "pleiades-metrics")


def test_packages_of_the_allowed_origin_are_updated_and_no_others(machine: Machine) -> None:
    machine.run("sh", "-ec", PACKAGES.read_text())
    for verb in ("packages-refresh", "packages"):
        done = ask(machine, "start", f"pleiades-privileged@{verb}.service")
        assert done.returncode == 0, machine.journal(f"pleiades-privileged@{verb}")
    versions = machine.run(
        "dpkg-query", "-W", "-f", "${Package} ${Version}\n", "safe", "other", "postgresql-unsafe"
    )
    assert dict(line.split() for line in versions.splitlines()) == {
        "safe": "2",
        "other": "1",
        "postgresql-unsafe": "1",
    }
    assert machine.run("stat", "-c", "%a %U", "/usr/lib/safe/program", "/usr/lib/safe").split() == [
        "4755", "root", "755", "nobody",
    ]  # fmt: skip
