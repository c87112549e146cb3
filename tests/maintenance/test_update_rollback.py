"""A failed update goes back to the environment that works: real wheels, uv and pip, processes and kills."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from maia.maintenance.updating.building import find_uv
from maia.maintenance.updating.environments import EnvironmentFolder, users_of
from maia.maintenance.updating.errors import LeftToPeople, UpdateFailed, UpdateRunning
from tests.maintenance.starlet import Machine, write_releases

UV = find_uv(Path(sys.executable))
REPOSITORY = Path(__file__).resolve().parents[2]
UNDOING = REPOSITORY / "deployments/systemd/rollback/pleiades-rollback"


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    write_releases(folder)
    return folder


@pytest.fixture
def uv() -> str:
    assert UV is not None, "install the group dev: uv is missing"
    return str(UV)


@pytest.fixture
def machine(tmp_path: Path, wheelhouse: Path, uv: str) -> Iterator[Machine]:
    """A machine on which release 1.0 runs from the first environment."""
    made = Machine(tmp_path)
    shutil.copytree(wheelhouse, tmp_path / "wheelhouse")
    made.database.write_text("1")
    asyncio.run(made.install("1.0", uv))
    assert made.version() == "1.0"
    (tmp_path / "steps").unlink()
    yield made
    asyncio.run(made.stop())


def act(machine: Machine, act: str, **asked: object) -> subprocess.CompletedProcess[str]:
    """A step of the procedure in a process of its own."""
    asked |= {"home": str(machine.home), "act": act}
    return subprocess.run(
        [sys.executable, "-m", "tests.maintenance.starlet", json.dumps(asked)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=100,
    )  # fmt: skip


def check_well(machine: Machine, version: str) -> None:
    """The link, the service and the folder agree, and nothing is half-made."""
    folder = EnvironmentFolder(machine.root)
    assert machine.version() == version
    assert folder.journal() is None
    assert all(each.version is not None for each in folder.environments())
    assert sorted(path.name for path in machine.root.iterdir()) == ["current", "envs", "lock"]
    assert asyncio.run(machine.condition()).problems == {}
    current = folder.current()
    assert current is not None
    deadline = time.monotonic() + 5
    while machine.heart.read_text() != f"{version} {current.path}" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert machine.heart.read_text() == f"{version} {current.path}"


@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_a_good_release_is_installed_beside_the_old_one(machine: Machine, uv: str, tool: str) -> None:
    old = EnvironmentFolder(machine.root).current()
    asyncio.run(machine.install("2.0", uv if tool == "uv" else None))
    check_well(machine, "2.0")
    assert machine.steps() == ["backed up", "building", "tested", "switched", "restarted", "healthy", "done"]
    assert old in EnvironmentFolder(machine.root).environments()


@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_a_release_with_a_broken_import_never_comes_into_use(machine: Machine, uv: str, tool: str) -> None:
    before = machine.pids()
    with pytest.raises(UpdateFailed, match="a_module_that_nobody_has"):
        asyncio.run(machine.install("3.0", uv if tool == "uv" else None))
    check_well(machine, "1.0")
    assert machine.pids() == before
    assert "switched" not in machine.steps()
    assert "a_module_that_nobody_has" in machine.alerts()
    assert len(EnvironmentFolder(machine.root).environments()) == 1


def test_a_release_whose_service_does_not_stay_is_left_again(machine: Machine, uv: str) -> None:
    with pytest.raises(UpdateFailed, match="the service does not run"):
        asyncio.run(machine.install("4.0", uv, settle_s=2))
    check_well(machine, "1.0")
    assert machine.steps()[-5:] == ["restarted", "going back", "restarted", "healthy", "failed"]
    assert "is in use again" in machine.alerts()
    assert [each.version for each in EnvironmentFolder(machine.root).environments()] == ["1.0"]


def test_without_a_backup_nothing_is_updated(machine: Machine, uv: str) -> None:
    (machine.home / "no-backups").touch()
    with pytest.raises(UpdateFailed, match="the vault is full"):
        asyncio.run(machine.install("2.0", uv))
    check_well(machine, "1.0")
    assert machine.steps() == []


def test_a_missing_wheel_changes_nothing(machine: Machine, uv: str) -> None:
    with pytest.raises(UpdateFailed, match=r"9\.0"):
        asyncio.run(machine.install("9.0", uv))
    check_well(machine, "1.0")


def test_a_running_process_stays_in_its_environment(machine: Machine, uv: str) -> None:
    """Started through the script of the link, it still imports later modules from where it began."""
    [old] = EnvironmentFolder(machine.root).environments()
    [pid] = machine.pids()
    folder = EnvironmentFolder(machine.root)
    new = folder.named("20990101T000000Z")
    shutil.copytree(old.path, new.path, symlinks=True)
    late = next(new.path.glob("lib/*/site-packages/starlet/late.py"))
    late.write_text("VERSION = 'another'\n")
    folder.switch(new)
    os.kill(pid, signal.SIGUSR1)
    told = machine.home / "heart.late"
    deadline = time.monotonic() + 5
    while not told.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert told.read_text() == "1.0"
    assert pid in users_of(folder, [old])[old.stamp]


def test_environments_in_use_are_kept_and_others_go(machine: Machine, uv: str) -> None:
    [first] = EnvironmentFolder(machine.root).environments()
    sleeper = subprocess.Popen([first.python, "-c", "import time; time.sleep(60)"])
    try:
        for version in ("2.0", "1.0", "2.0"):
            asyncio.run(machine.install(version, uv))
        kept = EnvironmentFolder(machine.root).environments()
        assert len(kept) == 3
        assert first in kept
    finally:
        sleeper.kill()
        sleeper.wait()
    asyncio.run(machine.install("1.0", uv))
    kept = EnvironmentFolder(machine.root).environments()
    assert [each.version for each in kept] == ["1.0", "2.0"]
    check_well(machine, "1.0")


KILLS = ["building", "tested", "fallback", "current", "switched", "restarted", "healthy", "done"]


@pytest.mark.parametrize("kill_at", KILLS)
def test_a_kill_at_any_step_leaves_a_working_link(machine: Machine, uv: str, kill_at: str) -> None:
    killed = act(machine, "install", version="2.0", uv=uv, kill_at=kill_at)
    assert killed.returncode == -signal.SIGKILL
    expected = "1.0" if kill_at in ("building", "tested", "fallback", "current") else "2.0"
    assert machine.version() == expected
    finished = act(machine, "finish")
    assert finished.returncode == 0, finished.stderr
    check_well(machine, expected)
    again = act(machine, "install", version="2.0", uv=uv)
    assert again.returncode == 0, again.stderr
    check_well(machine, "2.0")


@pytest.mark.parametrize("kill_at", ["going back", "failed"])
def test_a_kill_while_going_back_still_ends_in_the_old_one(machine: Machine, uv: str, kill_at: str) -> None:
    killed = act(machine, "install", version="4.0", uv=uv, kill_at=kill_at)
    assert killed.returncode == -signal.SIGKILL
    assert act(machine, "finish").returncode == 0
    check_well(machine, "1.0")


@pytest.mark.parametrize("kill_at", ["switched", "restarted"])
@pytest.mark.parametrize("killed_again_at", ["", "resuming", "going back", "failed"])
def test_units_undo_what_does_not_start(
    machine: Machine, uv: str, kill_at: str, killed_again_at: str
) -> None:
    """The process that updates has ended with its own service, and the new release can't go on."""
    killed = act(machine, "install", version="4.0", uv=uv, kill_at=kill_at)
    assert killed.returncode == -signal.SIGKILL
    for version in ("4.0", "4.0", "4.0", "1.0"):
        program = machine.root / "current/bin/maia"
        subprocess.run(["/bin/sh", UNDOING, program], check=True)
        assert machine.version() == version
    asyncio.run(machine.start())
    if killed_again_at:
        assert act(machine, "finish", kill_at=killed_again_at).returncode == -signal.SIGKILL
    finished = act(machine, "finish")
    if killed_again_at in ("", "resuming"):
        assert "was started 3 times and never well" in finished.stderr
    else:
        assert finished.returncode == 0
    if killed_again_at != "failed":
        assert "is in use again" in machine.alerts()
    check_well(machine, "1.0")


def test_kills_at_random_moments(machine: Machine, uv: str) -> None:
    chance = random.Random(20)
    began_s = time.monotonic()
    assert act(machine, "install", version="2.0", uv=uv).returncode == 0
    longest_s = 1.2 * (time.monotonic() - began_s)
    for _ in range(12):
        wanted = "1.0" if machine.version() == "2.0" else "2.0"
        asked = {"home": str(machine.home), "act": "install", "version": wanted, "uv": uv}
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.maintenance.starlet", json.dumps(asked)],
            cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(chance.uniform(0.1, longest_s))
        process.kill()
        process.wait()
        version = machine.version()
        while "another update" in (finished := act(machine, "finish")).stderr:
            # The installer that the killed process had started still writes.
            time.sleep(0.2)
        assert finished.returncode == 0, finished.stderr
        check_well(machine, version)


def test_two_updates_at_once(machine: Machine, uv: str) -> None:
    async def both() -> list[object]:
        other = Machine(machine.home)
        return await asyncio.gather(
            machine.install("2.0", uv), other.install("2.0", uv), return_exceptions=True
        )

    results = asyncio.run(both())
    assert sum(isinstance(each, UpdateRunning) for each in results) == 1
    check_well(machine, "2.0")


def test_going_back_by_hand(machine: Machine, uv: str) -> None:
    asyncio.run(machine.install("2.0", uv))
    asyncio.run(machine.procedure().roll_back())
    check_well(machine, "1.0")
    assert [each.version for each in EnvironmentFolder(machine.root).environments()] == ["2.0", "1.0"]


class TestMigrations:
    def test_everything_is_stopped_backed_up_and_migrated(self, machine: Machine, uv: str) -> None:
        asyncio.run(machine.install("5.0", uv, migrates=True))
        check_well(machine, "5.0")
        assert machine.steps() == [
            "building", "tested", "stopped", "backed up", "switched", "migrated", "healthy", "done",
        ]  # fmt: skip
        assert machine.database.read_text() == "3"
        assert (machine.home / "backup").read_text() == "1"

    def test_are_refused_unless_they_were_planned(self, machine: Machine, uv: str) -> None:
        with pytest.raises(UpdateFailed, match="migrations that were not planned"):
            asyncio.run(machine.install("5.0", uv))
        check_well(machine, "1.0")
        assert machine.database.read_text() == "1"

    def test_one_that_changed_nothing_goes_back(self, machine: Machine, uv: str) -> None:
        with pytest.raises(UpdateFailed, match="no migration was applied"):
            asyncio.run(machine.install("6.0", uv, migrates=True))
        check_well(machine, "1.0")

    def test_one_that_changed_something_needs_a_person(self, machine: Machine, uv: str) -> None:
        with pytest.raises(LeftToPeople, match="maia backup restore"):
            asyncio.run(machine.install("7.0", uv, migrates=True))
        assert machine.version() == "7.0"
        assert machine.pids() == []
        assert "maia system update --rollback" in machine.alerts()

    def test_going_back_over_one_is_refused(self, machine: Machine, uv: str) -> None:
        asyncio.run(machine.install("5.0", uv, migrates=True))
        with pytest.raises(LeftToPeople, match="does not know"):
            asyncio.run(machine.procedure().roll_back())
        check_well(machine, "5.0")

    @pytest.mark.parametrize("kill_at", ["stopped", "backed up", "switched", "migrated", "healthy"])
    def test_a_kill_leaves_what_can_be_finished(self, machine: Machine, uv: str, kill_at: str) -> None:
        killed = act(machine, "install", version="5.0", uv=uv, migrates=True, kill_at=kill_at)
        assert killed.returncode == -signal.SIGKILL
        finished = act(machine, "finish")
        assert finished.returncode == 0, finished.stderr
        check_well(machine, "1.0" if kill_at in ("stopped", "backed up") else "5.0")
