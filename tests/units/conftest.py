"""A machine that is installed and booted once, with a PostgreSQL and an emulator."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.units.machine import MAIA, Machine
from tests.waiting import until

NEEDED = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "nsenter": "util-linux"}
DATABASE = """
until pg_isready --quiet; do sleep 1; done
runuser -u postgres -- psql -c "CREATE ROLE pleiades LOGIN PASSWORD 'practice'"
runuser -u postgres -- createdb --owner=pleiades pleiades
"""
EMULATOR = """
systemd-run --unit=emulator --property=DynamicUser=yes --property=StateDirectory=emulator sh -c '
maia=/opt/pleiades/bin/maia
$maia catalogue synthesize --output $STATE_DIRECTORY/practice.catalogue --videos 2000 --seed 1
exec $maia emulator --catalogue $STATE_DIRECTORY/practice.catalogue --clock "$(date -u +%FT%TZ)"'
"""
ANSWERS = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8780/_emulator')"


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    missing = [package for program, package in NEEDED.items() if shutil.which(program) is None]
    if missing or os.geteuid():
        pytest.fail(f"this needs root and, on Debian: apt-get install {' '.join(missing or NEEDED.values())}")
    folder = tmp_path_factory.mktemp("machine")
    made = Machine(folder / "root")
    try:
        made.install(folder)
        made.boot()
        made.run(MAIA, "daemon", "install")
        made.run("sh", "-ec", DATABASE)
        made.run("sh", "-ec", EMULATOR)
        until(
            "the emulator",
            lambda: made.run("/opt/pleiades/bin/python", "-c", f"{ANSWERS}; print(1)", check=False),
        )
        yield made
    finally:
        made.power_off()
        shutil.rmtree(made.root, ignore_errors=True)
