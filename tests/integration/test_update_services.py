"""What an update asks of systemd: which units it stops and restarts, by whom, and which it leaves alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from atlas.composition import Atlas
from atlas.config import Settings
from atlas.testing import SettingsFactory
from maia.maintainer import update_surroundings
from maia.maintainer.update_surroundings import LiveSurroundings
from maia.maintenance.updating.errors import LeftToPeople, UpdateFailed

UNITS = ("pleiades.service", "pleiades-metrics.service")
PRIVILEGED = "pleiades-privileged@restart-pleiades.service"

_SYSTEMCTL = """\
#!{python} -IS
import sys
from pathlib import Path
units = Path({units!r})
words = [word for word in sys.argv[1:] if word != "--no-ask-password"]
if words[0] == "--user":
    sys.exit("Failed to connect to bus")
verb, *names = [word for word in words if word != "--" and not word.startswith("--property")]
if verb == "show":
    for place, name in enumerate(names):
        known = (units / name).exists()
        print("" if place == 0 else "\\n", end="")
        print(f"Id={{name}}\\nLoadState={{'loaded' if known else 'not-found'}}")
        print(f"ActiveState={{(units / name).read_text() if known else 'inactive'}}\\nSubState=x")
else:
    with (units / "calls").open("a") as calls:
        print(verb, *names, file=calls)
    for name in names:
        (units / name).write_text("inactive" if verb == "stop" else "active")
"""


class Units:
    """Units of a made-up systemd, each with its state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set(self, **states: str) -> None:
        for name, state in states.items():
            (self.folder / name).write_text(state)

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Units:
    """Both services of ours, active."""
    folder, programs = tmp_path / "units", tmp_path / "programs"
    folder.mkdir()
    programs.mkdir()
    program = programs / "systemctl"
    program.write_text(_SYSTEMCTL.format(python=sys.executable, units=str(folder)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    made = Units(folder)
    made.set(**dict.fromkeys(UNITS, "active"))
    return made


@pytest.fixture
def atlas_settings(settings_factory: SettingsFactory) -> Settings:
    return settings_factory(maintainer={"actions": {"units": UNITS, "children": False}})


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def as_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 999)


@pytest.mark.usefixtures("as_root")
class TestAsRoot:
    async def test_all_are_stopped_and_started(self, atlas: Atlas, units: Units) -> None:
        surroundings = LiveSurroundings(atlas)
        await surroundings.stop()
        await surroundings.start()
        await surroundings.start()
        assert units.calls() == [
            "stop pleiades.service", "stop pleiades-metrics.service",
            "start pleiades.service", "start pleiades-metrics.service",
        ]  # fmt: skip

    async def test_what_people_had_stopped_stays_so(self, atlas: Atlas, units: Units) -> None:
        units.set(**{UNITS[1]: "inactive"})
        surroundings = LiveSurroundings(atlas)
        await surroundings.condition()
        await surroundings.restart()
        await surroundings.start()
        assert units.calls() == ["restart pleiades.service"]

    async def test_one_that_fails_after_the_restart_is_worse(self, atlas: Atlas, units: Units) -> None:
        surroundings = LiveSurroundings(atlas)
        before = await surroundings.condition()
        assert (await surroundings.condition()).worse_than(before) == []
        units.set(**{UNITS[0]: "failed"})
        worse = (await surroundings.condition()).worse_than(before)
        assert "pleiades.service is failed" in worse

    async def test_the_own_unit_comes_last(
        self, atlas: Atlas, units: Units, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(update_surroundings, "_is_within", lambda unit: unit == UNITS[0])
        surroundings = LiveSurroundings(atlas)
        await surroundings.restart()
        assert units.calls() == ["restart pleiades-metrics.service", "restart pleiades.service"]
        with pytest.raises(LeftToPeople, match="this process is part of it"):
            await surroundings.stop()
        assert len(units.calls()) == 2

    async def test_a_unit_that_is_not_there_is_an_error(self, atlas: Atlas, units: Units) -> None:
        (units.folder / UNITS[0]).unlink()
        with pytest.raises(UpdateFailed, match="maia daemon install"):
            await LiveSurroundings(atlas).restart()


@pytest.mark.usefixtures("as_service")
class TestAsService:
    async def test_root_restarts_for_it(self, atlas: Atlas, units: Units) -> None:
        units.set(**{PRIVILEGED: "inactive"})
        await LiveSurroundings(atlas).restart()
        assert units.calls() == [f"start {PRIVILEGED}", "restart pleiades-metrics.service"]

    async def test_it_may_not_stop_for_a_migration(self, atlas: Atlas, units: Units) -> None:
        with pytest.raises(LeftToPeople, match="maia system update --only release --apply"):
            await LiveSurroundings(atlas).stop()
        assert units.calls() == []
