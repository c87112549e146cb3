"""The units under a systemd that boots: start, status 75, crash and restart, timers, everything at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.units.machine import MAIA, SECRETS, SETTINGS, Machine
from tests.waiting import until

pytestmark = pytest.mark.timeout(1800)

POST = """
import json, sys, urllib.request
url, data = "http://127.0.0.1:8780/_emulator", json.dumps({"faults": sys.argv[1:]}).encode()
urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"}))
"""
GET = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())"
OFTEN = (
    "[Timer]", "OnCalendar=", "OnCalendar=*:*:0/3", "RandomizedDelaySec=0", "FixedRandomDelay=no",
    "AccuracySec=1s",
)  # fmt: skip


def maia(machine: Machine, *words: str) -> str:
    """A command with the services' user, database and data folder."""
    settings = (f"DATABASE_URL={SECRETS['database_url']}", "PLEIADES_DATA_DIR=/var/lib/pleiades")
    return machine.run("runuser", "-u", "pleiades", "--", "env", *settings, MAIA, *words)


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
    timer = "pleiades-agent@hunter.timer"
    with machine.changed(timer, *OFTEN):
        before = cycles(machine)
        machine.run("systemctl", "start", timer)
        until("two cycles", lambda: cycles(machine) >= before + 2)
        machine.run("systemctl", "stop", timer)


def test_the_maintainer_comes_more_often_than_the_others_and_may_take_longer(machine: Machine) -> None:
    assert "*:00/5:00" in machine.show("pleiades-agent@maintainer.timer")["TimersCalendar"]
    assert "*:00/10:00" in machine.show("pleiades-agent@hunter.timer")["TimersCalendar"]
    assert machine.show("pleiades-agent@maintainer.service")["TimeoutStartUSec"] == "3h"
    machine.run("systemctl", "start", "pleiades-agent@maintainer")
    assert machine.show("pleiades-agent@maintainer")["Result"] == "success"


def test_a_timer_backs_the_database_up(machine: Machine) -> None:
    timer = "pleiades-backup.timer"
    assert machine.show(timer)["Persistent"] == "yes"

    with machine.changed(timer, *OFTEN):
        machine.run("systemctl", "start", timer)
        until("a backup", lambda: "Finished pleiades-backup.service" in machine.journal("pleiades-backup"))
        machine.run("systemctl", "stop", timer)
    assert json.loads(maia(machine, "backup", "list", "--json"))


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


def test_the_service_comes_back_after_a_crash_and_stops_in_order(machine: Machine) -> None:
    unit, url = "pleiades-api", "http://127.0.0.1:8080"

    def is_well() -> bool:
        return answers(machine, f"{url}/healthz") != ""

    machine.run("systemctl", "start", unit)
    try:
        until("the service", is_well)
        assert json.loads(answers(machine, f"{url}/api/v1/videos"))["videos"], "it reads what agents stored"
        assert "<title>" in answers(machine, f"{url}/")
        machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit)
        until("a restart", lambda: machine.show(unit)["NRestarts"] == "1")
        until("the service again", is_well)
        before = machine.journal(unit)
        with ThreadPoolExecutor(1) as other:
            stream = other.submit(answers, machine, f"{url}/api/v1/events")
            until(
                "a live stream", lambda: 'kind="sse"} 1.0' in answers(machine, f"{url}/metrics?part=service")
            )
            machine.run("systemctl", "stop", unit)
            assert "event: stopping" in stream.result()
    finally:
        machine.run("systemctl", "stop", unit)
    state = machine.show(unit)
    assert (state["ActiveState"], state["Result"]) == ("inactive", "success")
    last_words = machine.journal(unit).removeprefix(before)
    assert "Deactivated successfully" in last_words
    assert "timed out" not in last_words, "systemd did not have to kill anything"


def test_everything_runs_on_one_machine_and_comes_back_after_a_crash_and_a_hang(machine: Machine) -> None:
    machine.set(SETTINGS | {"PLEIADES_AGENTS__INTERVALS_S": '{"hunter": 5, "tracker": 5}'})
    health, metrics = "http://127.0.0.1:4200/api/health", "http://127.0.0.1:9464/metrics"

    def is_well() -> bool:
        told = answers(machine, metrics)
        return answers(machine, health) == "true\n" and 'pleiades_cycles_total{agent="hunter"' in told

    def end_and_expect(restarts: int, number: str) -> None:
        machine.run("systemctl", "kill", "--kill-whom=main", f"--signal={number}", "pleiades")
        until("a restart", lambda: machine.show("pleiades")["NRestarts"] == str(restarts))
        until("everything is ready again", lambda: machine.show("pleiades")["ActiveState"] == "active", 600)

    # With four signs of life in 12 seconds, 12 seconds without one are a hang.
    with machine.changed("pleiades.service", "[Service]", "WatchdogSec=12", "RestartSec=1"):
        try:
            # Returns once everything is ready.
            machine.run("systemctl", "start", "pleiades")
            assert machine.show("pleiades")["StatusText"].startswith("Ready")
            until("everything works", is_well, 600)
            end_and_expect(1, "KILL")
            until("everything works again", is_well, 600)
            before = machine.journal("pleiades")
            end_and_expect(2, "STOP")
            since = machine.journal("pleiades").removeprefix(before)
            assert "Failed with result 'watchdog'" in since
            assert "Current thread" in since, "the stacks of the process that hung"
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{machine.journal('pleiades')[-6000:]}") from failure
        finally:
            machine.run("systemctl", "stop", "pleiades")
    assert machine.show("pleiades")["ActiveState"] == "inactive"
    assert machine.run("ps", "-u", "pleiades", "-o", "args=", check=False) == ""
