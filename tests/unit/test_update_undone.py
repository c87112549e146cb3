"""An update that is not confirmed is undone by a script of the units, one that is confirmed never."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from maia.maintenance.updating.building import PLEIADES
from maia.maintenance.updating.environments import EnvironmentFolder, Journal, Phase
from maia.maintenance.updating.errors import UpdateFailed
from maia.maintenance.updating.procedure import Condition, Patience, Procedure

SCRIPT = Path(__file__).resolve().parents[2] / "deployments/systemd/rollback/pleiades-rollback"
OLD, NEW = "20261101T120000Z", "20261102T120000Z"


@dataclass
class Services:
    """The running system, on which nothing runs from any environment."""

    folder: EnvironmentFolder
    undone_meanwhile: bool = False
    calls: list[str] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)

    async def start(self) -> None:
        self.calls.append("start")

    async def restart(self) -> None:
        self.calls.append("restart")

    async def condition(self) -> Condition:
        if self.undone_meanwhile:
            for _ in range(4):
                start(self.folder)
        return Condition()

    async def record(self, step: str, text: str) -> None:
        self.calls.append(step)

    async def alert(self, text: str) -> None:
        self.alerts.append(text)

    async def back_up(self) -> str:
        raise AssertionError

    async def stop(self) -> None:
        raise AssertionError

    async def pending_migrations(self, python: Path) -> Sequence[str]:
        raise AssertionError

    async def migrate(self, python: Path) -> None:
        raise AssertionError

    def procedure(self) -> Procedure:
        patience = Patience(settle_s=0, pause_s=0, times=1)
        return Procedure(folder=self.folder, product=PLEIADES, surroundings=self, keep=1, patience=patience)


@pytest.fixture
def folder(tmp_path: Path) -> EnvironmentFolder:
    """A folder in which the update to NEW was switched to, and not confirmed."""
    made = EnvironmentFolder(tmp_path / "my environments")
    with made.locked():
        pass
    for stamp, version in ((OLD, "1.0"), (NEW, "2.0")):
        program = made.named(stamp).path / "bin/maia"
        program.parent.mkdir(parents=True)
        program.touch(0o755)
        made.complete(made.named(stamp), version, {})
    made.switch(made.named(OLD))
    made.write_journal(Journal(phase=Phase.SWITCHING, new=NEW, previous=OLD, version="2.0", restarts=1))
    made.offer_way_back(made.named(OLD))
    made.switch(made.named(NEW))
    return made


def start(folder: EnvironmentFolder, *options: str) -> int:
    """What units do before they start the program; returns the exit status."""
    program = str(folder.link / "bin/maia")
    return subprocess.run(["/bin/sh", SCRIPT, *options, program], stderr=subprocess.PIPE).returncode


def in_use(folder: EnvironmentFolder) -> str:
    current = folder.current()
    assert current is not None
    return current.stamp


class TestScript:
    def test_three_starts_are_granted(self, folder: EnvironmentFolder) -> None:
        for _ in range(3):
            assert start(folder) == 0
            assert in_use(folder) == NEW
        assert start(folder) == 0
        assert in_use(folder) == OLD
        assert not (folder.root / "fallback").is_symlink()
        for _ in range(9):
            assert start(folder) == 0
        assert in_use(folder) == OLD
        assert folder.starts() == 3

    def test_a_service_that_is_not_started_again_is_enough(self, folder: EnvironmentFolder) -> None:
        assert start(folder, "--failed") == 0
        assert in_use(folder) == NEW, "what failed was the old release, as the new one was never started"
        start(folder)
        assert start(folder, "--failed") == 1
        assert in_use(folder) == OLD
        assert start(folder, "--failed") == 0

    @pytest.mark.parametrize("options", [(), ("--failed",)])
    def test_a_confirmed_update_stays(self, folder: EnvironmentFolder, options: Sequence[str]) -> None:
        start(folder)
        folder.close_way_back()
        for _ in range(5):
            assert start(folder, *options) == 0
        assert in_use(folder) == NEW

    def test_what_has_run_for_an_hour_does_start(self, folder: EnvironmentFolder) -> None:
        """Nothing confirms an update if the process was killed and the maintainer may not update."""
        start(folder)
        hour_ago = time.time() - 3700
        os.utime(folder.root / "starts", (hour_ago, hour_ago))
        for _ in range(5):
            assert start(folder) == 0
            assert start(folder, "--failed") == 0
        assert in_use(folder) == NEW

    def test_cycles_that_work_do_not_count(self, folder: EnvironmentFolder) -> None:
        for _ in range(5):
            start(folder)
            assert start(folder, "--started") == 0
        assert in_use(folder) == NEW
        for _ in range(4):
            start(folder)
        assert in_use(folder) == OLD

    def test_starts_before_the_switch_do_not_count(self, folder: EnvironmentFolder) -> None:
        folder.switch(folder.named(OLD))
        for _ in range(5):
            start(folder)
        folder.switch(folder.named(NEW))
        start(folder)
        assert in_use(folder) == NEW
        assert folder.starts() == 1

    def test_it_goes_back_to_nothing_but_an_environment(self, folder: EnvironmentFolder) -> None:
        (folder.named(OLD).path / "bin/maia").unlink()
        for _ in range(5):
            assert start(folder) == 0
        assert in_use(folder) == NEW

    def test_a_program_outside_of_environments_is_none_of_its_business(self, tmp_path: Path) -> None:
        program = str(tmp_path / "bin/maia")
        assert subprocess.run(["/bin/sh", SCRIPT, program], cwd=tmp_path).returncode == 0
        assert [*tmp_path.iterdir()] == []


class TestProcedure:
    async def test_what_was_undone_is_told_and_deleted(self, folder: EnvironmentFolder) -> None:
        for _ in range(4):
            start(folder)
        services = Services(folder)
        with pytest.raises(UpdateFailed, match=r"2\.0 was started 3 times and never well"):
            await services.procedure().finish()
        [alert] = services.alerts
        assert f"{OLD} is in use again" in alert
        assert "restart" not in services.calls, "the old release runs already"
        assert [each.stamp for each in folder.environments()] == [OLD]
        self.check_ended(folder, OLD)

    async def test_what_is_well_is_confirmed(self, folder: EnvironmentFolder) -> None:
        start(folder)
        services = Services(folder)
        assert await services.procedure().finish() == "finished the interrupted update to 2.0"
        self.check_ended(folder, NEW)
        assert services.alerts == []

    async def test_one_that_is_undone_while_another_process_waits_is_no_success(
        self, folder: EnvironmentFolder
    ) -> None:
        services = Services(folder, undone_meanwhile=True)
        with pytest.raises(UpdateFailed, match="never well"):
            await services.procedure().finish()
        self.check_ended(folder, OLD)
        assert len(services.alerts) == 1

    async def test_one_that_was_not_switched_to_failed_at_nothing(self, folder: EnvironmentFolder) -> None:
        folder.switch(folder.named(OLD))
        services = Services(folder)
        assert "had not switched yet" in str(await services.procedure().finish())
        self.check_ended(folder, OLD)
        assert services.alerts == []

    @staticmethod
    def check_ended(folder: EnvironmentFolder, stamp: str) -> None:
        assert in_use(folder) == stamp
        assert sorted(path.name for path in folder.root.iterdir()) == ["current", "envs", "lock"]
