"""The duties of updates: what is found and suggested, what is only planned, and what is recorded."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atlas import migrations
from atlas.adapters.patterns import PatternsDAO
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.errors import VaultUnavailable
from atlas.testing import SettingsFactory
from maia.maintainer import update_surroundings, updates
from maia.maintainer.actions import Action, ActionFailed, ActionState, Taken
from maia.maintainer.duties import DutyContext
from maia.maintainer.taking import Taker
from maia.maintainer.update_surroundings import LiveSurroundings
from maia.maintainer.updates import (
    FinishUpdate,
    InstallPackages,
    InstallRelease,
    check_updates,
    procedure_of,
    upgrade,
)
from maia.maintenance.systemctl import Systemd
from maia.maintenance.updating.environments import EnvironmentFolder, Journal, Phase
from maia.maintenance.updating.errors import UpdateFailed
from maia.maintenance.updating.looking import Updates
from tests.wheels import write_wheel

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = "pleiades-agents"
REFRESH = updates.PRIVILEGED[0]
APT = """\
Inst libgcrypt20 [1.10.1-3] (1.10.1-3+deb12u1 Debian-Security:12/oldstable-security [amd64])
Inst bash [5.2.15-2+b8] (5.2.15-2+b13 Debian:12.15/oldstable [amd64])
"""


class OnlyPlans:
    """Plans every action, and takes none."""

    async def take(self, action: Action) -> Taken | None:
        plan = await action.plan()
        if plan is None:
            return None
        return Taken(
            kind=action.kind, target=action.target, state=ActionState.PLANNED, plan=plan, result="planned"
        )


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of environments whose current one has release 0.0.1, and click too old."""
    folder = EnvironmentFolder(tmp_path / "environments")
    environment = folder.named("20260101T000000Z")
    stand_in(environment.path / "bin", "python", packages={NAME: "0.0.1", "click": "7.0"})
    folder.complete(environment, "0.0.1", {})
    folder.switch(environment)
    return folder.root


def stand_in(folder: Path, name: str, *, packages: Mapping[str, str]) -> None:
    """A Python that answers as that of an environment with these packages."""
    folder.mkdir(parents=True)
    answer = {"base_python": sys.executable, "python_version": "3.11.7", "packages": dict(packages)}
    path = folder / name
    path.write_text(f"#!{sys.executable} -IS\nimport json\nprint(json.dumps({answer!r}))\n")
    path.chmod(0o755)


@pytest.fixture
def atlas_settings(
    settings_factory: SettingsFactory, tmp_path: Path, wheelhouse: Path, root: Path
) -> Settings:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("click==8.1.0\n")
    updates = {"wheelhouse": wheelhouse, "root": root, "constraints": constraints}
    return settings_factory(maintainer={"updates": updates})


@pytest.fixture(autouse=True)
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What apt-get would upgrade, as a file that tests may change."""
    programs, said = tmp_path / "programs", tmp_path / "apt"
    programs.mkdir()
    said.write_text(APT)
    program = programs / "apt-get"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *" install "*) exec grep libgcrypt20 {said};; esac\nexec cat {said}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return said


def context(atlas: Atlas) -> DutyContext:
    return DutyContext(atlas=atlas, taker=OnlyPlans())


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


async def suggestions(atlas: Atlas) -> dict[str, Any]:
    dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    return {each.key: each for each in await dao.suggestions()}


async def test_what_is_found_is_suggested_in_plain_words(atlas: Atlas, wheelhouse: Path, root: Path) -> None:
    write_wheel(wheelhouse, NAME, "0.0.2", {})
    before = files(root)
    report = await check_updates(context(atlas))
    assert not report.failed
    assert report.summary == (
        "2 system packages can be updated, 1 of them for security; 1 of them permitted: libgcrypt20. "
        "1 Python package differs from the constraints: click 7.0 → 8.1.0 (major). "
        "Release 0.0.2 is available; installed is 0.0.1."
    )
    found = await suggestions(atlas)
    assert set(found) == {"updates.system.test", "updates.environment.test", "updates.release.test"}
    assert found["updates.release.test"].command == "maia system update --only release --apply"
    assert found["updates.environment.test"].evidence == {"click": ["7.0", "8.1.0", "major"]}
    assert found["updates.system.test"].evidence["security"] == ["libgcrypt20"]
    assert files(root) == before


async def test_what_no_longer_holds_is_withdrawn(atlas: Atlas, wheelhouse: Path, apt: Path) -> None:
    wheel = write_wheel(wheelhouse, NAME, "0.0.2", {})
    await check_updates(context(atlas))
    wheel.unlink()
    apt.write_text("")
    report = await check_updates(context(atlas))
    assert set(await suggestions(atlas)) == {"updates.environment.test"}
    assert any("has no wheel of release 0.0.1" in note for note in report.details["notes"])


async def test_a_plan_names_every_command_and_changes_nothing(
    atlas: Atlas, wheelhouse: Path, root: Path
) -> None:
    write_wheel(wheelhouse, NAME, "0.0.2", {})
    before = files(root)
    asked = context(atlas)
    report = await upgrade(asked)
    packages, release = asked.taken
    assert (packages.kind, release.kind) == ("packages", "update")
    assert packages.plan.text == "update 1 system package, 1 of them for security"
    assert "install release 0.0.2 over 0.0.1" in release.plan.text
    assert "go back if anything fails" in release.plan.text
    assert any("--no-index" in command and f"{NAME}==0.0.2" in command for command in release.plan.commands)
    assert report.summary.count("only planned") == 2
    assert files(root) == before


class TestRootsPolicy:
    """Root's units install packages for a service that is not root."""

    @pytest.fixture(autouse=True)
    def as_service(self, atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
        # Only once the database runs, which root starts as another user.
        monkeypatch.setattr(os, "geteuid", lambda: 999)
        self.started: list[str] = []

        async def states(_: Systemd, units: Sequence[str]) -> list[SimpleNamespace]:
            return [SimpleNamespace(name=each, loaded=True) for each in units]

        async def change(_: Systemd, verb: str, *units: str) -> None:
            assert verb == "start"
            self.started += units

        monkeypatch.setattr(Systemd, "states", states)
        monkeypatch.setattr(Systemd, "change", change)

    async def test_what_it_refuses_is_not_planned(
        self, atlas: Atlas, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told_by(monkeypatch, refused_by_root=("libgcrypt20",))
        assert await InstallPackages(atlas).plan() is None

    async def test_nothing_is_installed_if_it_allows_more_than_the_settings(
        self, atlas: Atlas, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told_by(monkeypatch, only_by_root=("bash",))
        action = InstallPackages(atlas)
        plan = await action.plan()
        assert plan is not None
        with pytest.raises(ActionFailed, match="would also update bash"):
            await action.apply(plan)
        assert self.started == [REFRESH]

    async def test_what_only_new_lists_show_counts_too(
        self, atlas: Atlas, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        action = InstallPackages(atlas)
        plan = await action.plan()
        assert plan is not None
        told_by(monkeypatch, only_by_root=("bash",))
        with pytest.raises(ActionFailed, match="would also update bash"):
            await action.apply(plan)
        assert self.started == [REFRESH]

    async def test_without_a_difference_root_installs(self, atlas: Atlas) -> None:
        action = InstallPackages(atlas)
        plan = await action.plan()
        assert plan is not None
        assert "root updated system packages" in await action.apply(plan)
        assert self.started == [*updates.PRIVILEGED]


def told_by(monkeypatch: pytest.MonkeyPatch, **differences: tuple[str, ...]) -> None:
    """Let what is found differ so from root's policy."""
    look = updates.look

    async def look_and_differ(*given: Any, **named: Any) -> Updates:
        found = await look(*given, **named)
        assert found.system is not None
        return replace(found, system=replace(found.system, **differences))

    monkeypatch.setattr(updates, "look", look_and_differ)


async def test_a_release_with_new_migrations_says_so(atlas: Atlas, wheelhouse: Path) -> None:
    known = {f"atlas/sql/migrations/{each.name}.sql": each.sql for each in migrations.known()}
    write_wheel(wheelhouse, NAME, "0.0.2", known)
    plan = await InstallRelease(atlas).plan()
    assert plan is not None
    assert "migrations" not in plan.text
    write_wheel(wheelhouse, NAME, "0.0.3", {**known, "atlas/sql/migrations/9999_new.sql": "SELECT 1;"})
    plan = await InstallRelease(atlas).plan()
    assert plan is not None
    assert "only the backup leads back" in plan.text


async def test_an_interrupted_update_is_to_be_finished(atlas: Atlas, root: Path) -> None:
    journal = Journal(phase=Phase.BUILDING, new="20260102T000000Z", previous=None, version="0.0.2")
    EnvironmentFolder(root).write_journal(journal)
    asked = context(atlas)
    await check_updates(asked)
    [taken] = asked.taken
    assert taken.plan.text == "finish the update to 0.0.2, which was interrupted while building"


async def test_finishing_waits_for_no_window_and_deletes_what_is_half_made(atlas: Atlas, root: Path) -> None:
    folder = EnvironmentFolder(root)
    folder.named("20260102T000000Z").path.mkdir()
    journal = Journal(phase=Phase.BUILDING, new="20260102T000000Z", previous=None, version="0.0.2")
    folder.write_journal(journal)
    taken = await Taker(atlas, ["update"]).take(FinishUpdate(atlas))
    assert taken is not None
    assert (taken.state, taken.result) == (
        ActionState.APPLIED, "deleted the half-made environment of an interrupted update",
    )  # fmt: skip
    assert [each.stamp for each in folder.environments()] == ["20260101T000000Z"]
    assert await FinishUpdate(atlas).plan() is None


async def test_without_a_folder_of_environments_updates_are_only_listed(
    settings_factory: SettingsFactory, wheelhouse: Path
) -> None:
    write_wheel(wheelhouse, NAME, "99.0", {})
    settings = settings_factory(maintainer={"updates": {"wheelhouse": wheelhouse}})
    async with Atlas.open(settings) as atlas:
        report = await check_updates(context(atlas))
        assert "Release 99.0 is available" in report.summary
        assert any("PLEIADES_MAINTAINER__UPDATES__ROOT" in note for note in report.details["notes"])
        assert await InstallRelease(atlas).plan() is None
        with pytest.raises(ActionFailed, match="PLEIADES_MAINTAINER__UPDATES__ROOT"):
            procedure_of(atlas)


class TestSurroundings:
    @pytest.fixture
    def python(self, tmp_path: Path) -> Path:
        """This release's Python, whatever is installed."""
        path = tmp_path / "python"
        path.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={REPOSITORY} exec {sys.executable} "$@"\n')
        path.chmod(0o755)
        return path

    @pytest.fixture(autouse=True)
    def settings_in_environment(self, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("DATABASE_URL", "PLEIADES_DATA_DIR", "NODE_ID"):
            monkeypatch.setenv(name, environment[name])

    async def test_each_step_is_recorded(self, atlas: Atlas) -> None:
        steps: list[tuple[str, str]] = []
        surroundings = LiveSurroundings(atlas, lambda *step: steps.append(step))
        await surroundings.record("tested", "300 modules imported")
        [event] = await atlas.events.latest(5, kinds=["maintainer.update"])
        assert event.payload == {"step": "tested", "text": "300 modules imported"}
        assert steps == [("tested", "300 modules imported")]

    async def test_the_database_is_asked_by_the_environment(
        self, atlas: Atlas, sql: Any, python: Path
    ) -> None:
        surroundings = LiveSurroundings(atlas)
        assert await surroundings.pending_migrations(python) == []
        await surroundings.migrate(python)
        await sql.execute("INSERT INTO migration (number, name, sha256) VALUES (9999, '9999_later', 'x')")
        with pytest.raises(UpdateFailed, match="9999_later, which this version does not know"):
            await surroundings.pending_migrations(python)

    @pytest.mark.parametrize(
        ("unit", "from_current", "ends"),
        [
            ("pleiades-agent@maintainer.service", False, True),
            ("pleiades-agent@maintainer.service", True, False),
            ("pleiades.service", False, False),
        ],
    )
    async def test_a_timers_cycle_leaves_it_to_the_next_one_to_confirm(
        self, atlas: Atlas, root: Path, monkeypatch: pytest.MonkeyPatch,
        unit: str, from_current: bool, ends: bool,
    ) -> None:  # fmt: skip
        current = EnvironmentFolder(root).current()
        assert current is not None
        if from_current:
            monkeypatch.setattr(sys, "prefix", str(current.path.resolve()))
        monkeypatch.setattr(update_surroundings, "_is_within", lambda wanted: wanted == unit)
        restarting = asyncio.create_task(LiveSurroundings(atlas).restart())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, restarting.cancel)
        try:
            await asyncio.wait([restarting])
        finally:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        assert restarting.cancelled() == ends

    async def test_a_backup_is_made_whatever_the_settings_allow(self, atlas: Atlas) -> None:
        from atlas.backups.shelf import Shelf

        name = await LiveSurroundings(atlas).back_up()
        shelved = await Shelf.of(atlas.settings, atlas.db).list(atlas.clock.now())
        assert [(each.name, each.is_good) for each in shelved] == [(name, True)]

    async def test_a_backup_that_fails_is_an_error(
        self, atlas: Atlas, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from maia.maintainer import backups

        async def full(*_: object, **__: object) -> None:
            raise VaultUnavailable("the vault is full")

        monkeypatch.setattr(backups, "create", full)
        with pytest.raises(UpdateFailed, match="the vault is full"):
            await LiveSurroundings(atlas).back_up()
