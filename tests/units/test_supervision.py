"""Everything on one machine under a systemd that boots: supervision, commands, and updates that fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from atlas.wording import counted
from tests.units.machine import MAIA, SETTINGS, Machine
from tests.waiting import until

pytestmark = pytest.mark.timeout(1800)

ENVIRONMENTS = "/var/lib/pleiades/environments"
WORKS, FAILS = "20261101T120000Z", "20261102T120000Z"
OF_UPDATES = {
    "PLEIADES_MAINTAINER__UPDATES__ROOT": ENVIRONMENTS,
    "PLEIADES_MAINTAINER__ACTIONS__UNITS": "pleiades.service",
    # The maintainer of the service would finish the update before the test does.
    "PLEIADES_MAINTAINER__OFF": "updates,upgrade,backup",
}
# An environment with all that /opt/pleiades has, and a script of its own.
ENVIRONMENT = """
path=$1/envs/$2 packages=$(echo /opt/pleiades/lib/python3*/site-packages)
python3 -m venv --without-pip "$path"
rmdir "$path"/lib/python3*/site-packages
ln -s "$packages" "$path/lib/$(basename "$(dirname "$packages")")/site-packages"
sed "1s,.*,#!$path/bin/python," /opt/pleiades/bin/maia > "$path/bin/maia"
chmod +x "$path/bin/maia"
echo '{"version": "1"}' > "$path/pleiades.json"
ln -sfn "envs/$2" "$1/current"
"""
# A process of the service, as the maintainer's: it ends with the service.
WITHIN = """
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    group=$hierarchy/system.slice/pleiades.service/cgroup.procs
    if [ -e "$group" ]; then echo $$ > "$group"; fi
done
exec "$@"
"""


@pytest.fixture(scope="module", autouse=True)
def service(machine: Machine) -> Iterator[None]:
    """Everything on one machine, from an environment of its own."""
    machine.set(SETTINGS | OF_UPDATES)
    machine.run("install", "-d", "-o", "pleiades", "-m", "700", "/var/lib/pleiades", ENVIRONMENTS)
    for stamp in (FAILS, WORKS):
        machine.run("runuser", "-u", "pleiades", "--", "sh", "-ec", ENVIRONMENT, "sh", ENVIRONMENTS, stamp)
    machine.run(MAIA, "daemon", "install", "--program", f"{ENVIRONMENTS}/current/bin/maia")
    with machine.changed("pleiades.service", "[Service]", "WatchdogSec=30", "RestartSec=1"):
        try:
            machine.run("systemctl", "start", "pleiades")
            yield
        finally:
            machine.run("systemctl", "stop", "pleiades", check=False)
            machine.run("rm", "-r", ENVIRONMENTS)
            machine.set(SETTINGS)
            machine.run(MAIA, "daemon", "install", "--program", MAIA)


def pids(machine: Machine, *words: str) -> set[str]:
    """The processes of the services' user with these words in a row among their arguments."""
    lines = machine.run("ps", "-ww", "-u", "pleiades", "-o", "pid=", "-o", "args=", check=False).splitlines()
    return {line.split()[0] for line in lines if " ".join(words) in line}


def in_use(machine: Machine) -> str:
    return machine.run("readlink", f"{ENVIRONMENTS}/current").strip().removeprefix("envs/")


def test_a_command_runs_as_the_services_do(machine: Machine) -> None:
    done = machine.maia("daemon", "run", "config", "show", "--json")
    assert done.returncode == 0, done.stderr
    assert ENVIRONMENTS in done.stdout
    machine.run(MAIA, "daemon", "run", "seed", "lofi")
    made_by_others = ("-not", "-user", "pleiades", "-newer", "/etc/pleiades/pleiades.env")
    assert machine.run("find", "/var/lib/pleiades", *made_by_others) == ""
    assert "lofi" in machine.run(MAIA, "daemon", "run", "queue", "list", "--json")
    assert machine.maia("daemon", "run", "queue", "remove-nothing").returncode == 2


def test_a_process_that_dies_is_started_again_within_the_service(machine: Machine) -> None:
    main = machine.show("pleiades")["MainPID"]
    before = pids(machine, "maia", "serve")
    assert before
    machine.run("kill", "-KILL", *before)
    until("another process with the agents", lambda: pids(machine, "maia", "serve") - before)
    state = machine.show("pleiades")
    assert (state["MainPID"], state["NRestarts"], state["ActiveState"]) == (main, "0", "active")


def test_the_watchdog_hears_of_it(machine: Machine) -> None:
    def heard() -> int:
        return int(machine.show("pleiades")["WatchdogTimestampMonotonic"])

    before = heard()
    until("a sign of life", lambda: heard() > before, 60)


@pytest.mark.parametrize(("ends_with", "starts"), [(1, 3), (78, 1)], ids=["crash", "no restart"])
def test_an_update_that_does_not_start_is_undone(machine: Machine, ends_with: int, starts: int) -> None:
    """The process that updates ends with the service, so it can't go back itself."""
    program = machine.root / ENVIRONMENTS[1:] / "envs" / FAILS / "bin/maia"
    program.write_text(f"#!/bin/sh\nexit {ends_with}\n")
    main = machine.show("pleiades")["MainPID"]
    update = [MAIA, "daemon", "run", "system", "update", "--rollback", "--to", FAILS]
    killed = machine.attempt("sh", "-c", WITHIN, "sh", *update)
    assert killed.returncode == -9, killed.stdout + killed.stderr
    until("the previous release", lambda: in_use(machine) == WORKS, 120)
    until("a start", lambda: machine.show("pleiades")["ActiveState"] == "active", 600)
    assert machine.show("pleiades")["MainPID"] != main
    assert f"is not confirmed (starts: {starts}): went back to" in machine.journal("pleiades*")
    finished = machine.maia("daemon", "run", "system", "update", "--apply", "--only", "release")
    assert f"was started {counted(starts, 'time')} and never well" in finished.stdout + finished.stderr
    assert not (machine.root / ENVIRONMENTS[1:] / "update.json").exists()
    machine.run("systemctl", "reset-failed", "pleiades-rollback", check=False)


def test_it_stops_in_order(machine: Machine) -> None:
    before = machine.journal("pleiades")
    machine.run("systemctl", "stop", "pleiades")
    state = machine.show("pleiades")
    assert (state["ActiveState"], state["Result"]) == ("inactive", "success")
    last_words = machine.journal("pleiades").removeprefix(before)
    assert "Deactivated successfully" in last_words
    assert "timed out" not in last_words, "systemd did not have to kill anything"
    assert "Killing process" not in last_words
    assert pids(machine, "") == set()
