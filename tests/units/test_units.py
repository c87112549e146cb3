"""The units under a systemd that boots: start, status 75, crash and restart, timers, everything at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.units.machine import SECRETS, SETTINGS, Machine
from tests.waiting import until

pytestmark = pytest.mark.timeout(1800)

POST = """
import json, sys, urllib.request
url, data = "http://127.0.0.1:8780/_emulator", json.dumps({"faults": sys.argv[1:]}).encode()
urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"}))
"""
GET = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())"
OFTEN = (
    "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/3\nRandomizedDelaySec=0\nFixedRandomDelay=no\nAccuracySec=1s\n"
)


def maia(machine: Machine, *words: str) -> str:
    return machine.run("env", f"DATABASE_URL={SECRETS['database_url']}", "/opt/pleiades/bin/maia", *words)


def cycles(machine: Machine) -> int:
    query = "SELECT count(*) FROM events WHERE kind = 'hunter.cycle'"
    return int(machine.run("psql", SECRETS["database_url"], "-Atc", query))


@contextmanager
def faults(machine: Machine, *kinds: str) -> Iterator[None]:
    machine.python(POST, *kinds)
    try:
        yield
    finally:
        machine.python(POST)


def answers(machine: Machine, url: str) -> str:
    return machine.run("/opt/pleiades/bin/python", "-c", GET, url, check=False)


def test_the_user_is_made(machine: Machine) -> None:
    assert machine.run("id", "-un", "pleiades") == "pleiades\n"


def test_a_cycle_runs_and_is_done(machine: Machine) -> None:
    maia(machine, "seed", "lofi", "chess", "cooking")
    machine.run("systemctl", "start", "pleiades-agent@hunter")
    assert machine.show("pleiades-agent@hunter")["Result"] == "success"
    assert json.loads(maia(machine, "status", "--json"))["found"]["videos"] > 0
    machine.run("systemctl", "start", "pleiades-agent@tracker")
    assert machine.show("pleiades-agent@tracker")["Result"] == "success"


def test_a_rate_limit_is_no_failure(machine: Machine) -> None:
    with faults(machine, "429-minute:1"):
        machine.run("systemctl", "start", "pleiades-agent@hunter")
    query = "SELECT payload->>'outcome' FROM events WHERE kind = 'hunter.cycle' ORDER BY id DESC LIMIT 1"
    assert machine.run("psql", SECRETS["database_url"], "-Atc", query) == "rate_limited\n"
    shown = machine.show("pleiades-agent@hunter")
    assert (shown["ActiveState"], shown["Result"]) == ("inactive", "success")
    last_words = machine.journal("pleiades-agent@hunter").splitlines()[-6:]
    assert "pleiades-agent@hunter.service: Deactivated successfully." in last_words


def test_a_missing_secret_is_a_failure_that_names_it(machine: Machine) -> None:
    secret = machine.root / "etc/pleiades/database_url"
    content = secret.read_text()
    secret.unlink()
    try:
        machine.run("systemctl", "start", "pleiades-agent@hunter", check=False)
        assert machine.show("pleiades-agent@hunter")["Result"] == "exit-code"
    finally:
        secret.write_text(content)
        secret.chmod(0o600)
    machine.run("systemctl", "reset-failed", "pleiades-agent@hunter")


def test_the_timer_starts_cycle_after_cycle(machine: Machine) -> None:
    folder = machine.root / "etc/systemd/system/pleiades-agent@hunter.timer.d"
    folder.mkdir()
    (folder / "often.conf").write_text(OFTEN)
    machine.run("systemctl", "daemon-reload")
    before = cycles(machine)
    machine.run("systemctl", "enable", "--now", "pleiades-agent@hunter.timer")
    try:
        until("two cycles", lambda: cycles(machine) >= before + 2)
    finally:
        machine.run("systemctl", "disable", "--now", "pleiades-agent@hunter.timer")


def test_metrics_come_back_after_a_crash(machine: Machine) -> None:
    url = "http://127.0.0.1:9464/metrics"
    machine.run("systemctl", "start", "pleiades-metrics")
    try:
        until("metrics", lambda: "pleiades_up 1.0" in answers(machine, url))
        machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "pleiades-metrics")
        until("a restart", lambda: machine.show("pleiades-metrics")["NRestarts"] == "1")
        until("metrics again", lambda: "pleiades_up 1.0" in answers(machine, url))
    finally:
        machine.run("systemctl", "stop", "pleiades-metrics")
    assert machine.show("pleiades-metrics")["ActiveState"] == "inactive"


def test_everything_runs_on_one_machine_and_comes_back_after_a_crash(machine: Machine) -> None:
    machine.set(SETTINGS | {"PLEIADES_AGENTS__INTERVALS_S": '{"hunter": 5, "tracker": 5}'})
    health, metrics = "http://127.0.0.1:4200/api/health", "http://127.0.0.1:9464/metrics"

    def is_well() -> bool:
        told = answers(machine, metrics)
        return answers(machine, health) == "true\n" and 'pleiades_cycles_total{agent="hunter"' in told

    machine.run("systemctl", "start", "pleiades")
    try:
        until("everything works", is_well, 600)
        machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "pleiades")
        until("a restart", lambda: machine.show("pleiades")["NRestarts"] == "1")
        until("everything works again", is_well, 600)
    except AssertionError as failure:
        raise AssertionError(f"{failure}\n{machine.journal('pleiades')[-6000:]}") from failure
    finally:
        machine.run("systemctl", "stop", "pleiades")
    assert machine.show("pleiades")["ActiveState"] == "inactive"
    assert machine.run("ps", "-u", "pleiades", "-o", "args=", check=False) == ""
