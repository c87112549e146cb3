"""Emergency mode on files: the cheapest loss first, and no more than is needed."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from atlas.backups.manifest import CHECKSUM, Contents, Manifest, Part, new_name
from atlas.backups.shelf import Shelf, Verification
from atlas.config import Settings
from atlas.embedded import LARGEST_LOG_BYTES
from atlas.testing import IsolatedSettings
from maia.maintainer.actions import ActionFailed, Plan
from maia.maintainer.emergency import DiskUse, FreeSpace, free_without_database
from maia.maintenance.updating.environments import EnvironmentFolder

GIB = 2**30
NOW = datetime.now(UTC)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return settings_in(tmp_path)


def settings_in(folder: Path, **groups: Any) -> Settings:
    return IsolatedSettings(data_dir=folder / "data", node_id="host", **groups)


class Disk:
    """A disk that is fuller the more files of some folders there are."""

    def __init__(self, folder: Path, *, full_at: int) -> None:
        self.folder, self.full_at = folder, full_at

    def __call__(self, _: Path) -> DiskUse:
        files = sum(path.is_file() for path in self.folder.rglob("*"))
        percent = 96.0 if files >= self.full_at else 80.0
        return DiskUse(percent, 10 * GIB, 100 * GIB)


def fill(settings: Settings) -> Path:
    """Something for each step; returns the data folder."""
    data = settings.data_folder
    for ago in (0, 1, 2, 3, 20, 40):
        day = (NOW - timedelta(days=ago)).date()
        put(data / f"vault/metadata/{day}/answer.json")
    put(data / "postgres/server.log-20261101T000000Z.zst")
    put(data / "postgres/server.log")
    put(data / "pleiades-verify-abcdefgh/file", age_h=2)
    return data


def put(path: Path, *, age_h: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"something")
    at = (NOW - timedelta(hours=age_h)).timestamp()
    os.utime(path, (at, at))
    os.utime(path.parent, (at, at))
    return path


def left(data: Path) -> set[str]:
    return {path.name if path.parent.name == "postgres" else path.parent.name
            for path in data.rglob("*") if path.is_file()}  # fmt: skip


def day(ago: int) -> str:
    return str((NOW - timedelta(days=ago)).date())


ALWAYS = {day(0), day(1), day(2), "server.log"}
IN_ORDER = ["pleiades-verify-abcdefgh", "server.log-20261101T000000Z.zst", day(40), day(20), day(3)]


@pytest.mark.parametrize("needed", range(1, len(IN_ORDER) + 1))
async def test_the_cheapest_loss_comes_first_and_it_stops(settings: Settings, needed: int) -> None:
    data = fill(settings)
    action = FreeSpace(settings, use=Disk(data, full_at=len(ALWAYS) + len(IN_ORDER) - needed + 1))
    plan = await action.plan()
    assert plan is not None
    told = await action.apply(plan)
    assert left(data) == ALWAYS | {*IN_ORDER[needed:]}
    assert IN_ORDER[needed - 1] in told
    assert await action.plan() is None


async def test_what_must_stay_stays_even_if_that_is_not_enough(settings: Settings) -> None:
    data = fill(settings)
    action = FreeSpace(settings, use=Disk(data, full_at=0))
    plan = await action.plan()
    assert plan is not None
    with pytest.raises(ActionFailed, match=r"not enough.*PLEIADES_DATA_DIR"):
        await action.apply(plan)
    assert left(data) == ALWAYS


async def backup(
    settings: Settings, ago_days: float, *, verified: bool = False, complete: bool = True
) -> str:
    """A backup in the vault, whose one part is a file."""
    shelf, at = Shelf.of(settings), NOW - timedelta(days=ago_days)
    name = new_name(at)
    put(settings.data_folder / "vault/backups" / name / "part-00001.zst")
    if complete:
        part = Part(name="part-00001.zst", size_bytes=9, sha256=sha256(b"something").hexdigest())
        contents = Contents(
            name=name, created_at=at, pleiades_version="1.0", method="copy", tool_version=18, schema="0" * 64,
            server_version="18.0", migration=25, database_bytes=1, dump_bytes=1, checksum=CHECKSUM, tables=(),
        )  # fmt: skip
        manifest = Manifest(
            contents=contents,
            parts=(part,),
            sha256=part.sha256,
            level=1,
            seconds=1,
            node="host",
            recipient_fingerprint=None,
        )
        await shelf.commit(manifest)
    if verified:
        await shelf.note(name, Verification(at=at, problem=None))
    return name


async def test_the_newest_and_the_newest_verified_backup_stay(settings: Settings) -> None:
    data = settings.data_folder
    old = [await backup(settings, days, verified=True) for days in (9, 8)]
    verified, unverified, newest = [await backup(settings, days, verified=days == 7) for days in (7, 6, 5)]
    killed, begun = [await backup(settings, days, complete=False) for days in (3, 0.1)]
    action = FreeSpace(settings, use=Disk(data, full_at=0))
    plan = await action.plan()
    assert plan is not None
    with pytest.raises(ActionFailed) as failed:
        await action.apply(plan)
    kept = {path.name for path in (data / "vault/backups").iterdir()}
    assert kept == {verified, newest, begun}
    told = str(failed.value)
    assert told.index(killed) < told.index(old[0]) < told.index(old[1]) < told.index(unverified)


async def test_environments_that_updates_keep_stay(settings: Settings, tmp_path: Path) -> None:
    root = settings.data_folder / "releases"
    updated = settings_in(tmp_path, maintainer={"updates": {"root": root, "keep": 1}})
    folder = EnvironmentFolder(root)
    made = []
    for days in (5, 4, 3):
        environment = folder.new(NOW - timedelta(days=days))
        put(environment.path / "bin/python")
        made.append(folder.complete(environment, "1.0", {}))
    put(folder.new(NOW - timedelta(days=2)).path / "by-hand")
    folder.switch(made[-1])
    action = FreeSpace(updated, use=Disk(settings.data_folder, full_at=0))
    plan = await action.plan()
    assert plan is not None
    with pytest.raises(ActionFailed, match=made[0].stamp):
        await action.apply(plan)
    assert [each.version for each in folder.environments()] == [None, "1.0", "1.0"]
    assert not made[0].path.exists()


async def test_a_plan_deletes_nothing(settings: Settings) -> None:
    data = fill(settings)
    before = left(data)
    plan = await FreeSpace(settings, use=Disk(data, full_at=0)).plan()
    assert plan is not None
    assert left(data) == before
    assert [line.partition(":")[0] for line in plan.commands][-1] == "raw answers"


async def test_a_large_log_is_emptied(settings: Settings) -> None:
    data = fill(settings)
    log = data / "postgres/server.log"
    log.write_bytes(bytes(LARGEST_LOG_BYTES + 1))
    action = FreeSpace(settings, use=Disk(data, full_at=0))
    plan = await action.plan()
    assert plan is not None
    with pytest.raises(ActionFailed, match=r"server\.log was emptied"):
        await action.apply(plan)
    assert log.stat().st_size == 0


async def test_a_vault_elsewhere_is_left_alone(tmp_path: Path, settings: Settings) -> None:
    elsewhere = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path
    if elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other file system")
    data = fill(settings)
    other = settings_in(tmp_path, vault={"path": elsewhere / f"pleiades-unit-{os.getpid()}"})
    answer = put(other.vault.path / f"metadata/{day(40)}/answer.json")  # type: ignore[operator]
    try:
        action = FreeSpace(other, use=Disk(data, full_at=0))
        plan = await action.plan()
        assert plan is not None
        with pytest.raises(ActionFailed):
            await action.apply(plan)
        assert answer.exists()
    finally:
        answer.unlink()
        for folder in (answer.parent, answer.parent.parent, answer.parent.parent.parent):
            folder.rmdir()


def test_steps_about_the_server_only_where_it_is_on_this_disk(settings: Settings, tmp_path: Path) -> None:
    names = [step.name for step in FreeSpace(settings).steps()]
    assert {"old samples", "checkpoint", "vacuum"} < set(names)
    assert names[-1] == "raw answers"
    other = settings_in(tmp_path, database_url=SecretStr("postgresql://db.example/pleiades"))
    assert not {"old samples", "checkpoint"} & {step.name for step in FreeSpace(other).steps()}


async def test_without_a_database_only_if_that_is_allowed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fill(settings)
    disk = Disk(data, full_at=len(ALWAYS) + len(IN_ORDER))
    monkeypatch.setattr("maia.maintainer.emergency.DiskUse.of", disk)
    assert await free_without_database(settings) is None
    assert left(data) == ALWAYS | {*IN_ORDER}
    allowed = settings_in(tmp_path, maintainer={"apply": ["emergency"]})
    monkeypatch.setattr(FreeSpace, "_disk", lambda _: disk(data))
    assert "pleiades-verify-abcdefgh" in (await free_without_database(allowed) or "")
    assert left(data) == ALWAYS | {*IN_ORDER[1:]}
    disk.full_at = 0
    assert "not enough" in (await free_without_database(allowed) or "")
    assert left(data) == ALWAYS


def test_the_use_of_a_folder_that_does_not_exist_is_that_of_its_disk(tmp_path: Path) -> None:
    assert DiskUse.of(tmp_path / "not/yet").total_bytes == DiskUse.of(tmp_path).total_bytes


@given(st.floats(0, 100), st.integers(0, 2**45), st.integers(1, 2**45), st.floats(1, 99))
def test_what_is_not_over_a_lower_limit_is_not_over_a_higher_one(
    percent: float, free: int, total: int, limit: float
) -> None:
    use = DiskUse(percent, min(free, total), total)
    assert use.is_over(limit) or not use.is_over(limit + 1)
    assert use.is_over(percent)


async def test_what_is_not_ours_stays_in_the_vault(settings: Settings) -> None:
    data = fill(settings)
    names = (f"{day(40)}/notes.txt", "20200101/a.json", "2020-13-45/a.json", "2020-W01-1/a.json")
    theirs = [put(data / "vault/metadata" / name) for name in names]
    with pytest.raises(ActionFailed):
        await FreeSpace(settings, use=Disk(data, full_at=0)).apply(Plan(text=""))
    assert all(path.exists() for path in theirs)
    assert not (data / f"vault/metadata/{day(40)}/answer.json").exists()
    assert not (data / f"vault/metadata/{day(20)}").exists()


async def test_one_from_the_future_stands_in_for_no_other(settings: Settings) -> None:
    ages_days = (-400, 1, 2, 3)
    future, newest, verified, _ = [await backup(settings, ago, verified=ago != 1) for ago in ages_days]
    action = FreeSpace(settings, use=Disk(settings.data_folder, full_at=0))
    with pytest.raises(ActionFailed):
        await action.apply(Plan(text=""))
    kept = {path.name for path in (settings.data_folder / "vault/backups").iterdir()}
    assert kept == {future, newest, verified}


async def test_a_fast_clock_costs_neither_the_last_answers_nor_the_newest_backup(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = settings.data_folder
    answers = [put(data / f"vault/metadata/{day(ago)}/answer.json") for ago in (0, 2, 3)]
    fast, newest = await backup(settings, -400, verified=True), await backup(settings, 1)
    action = FreeSpace(settings, use=Disk(data, full_at=0))
    monkeypatch.setattr(action, "_clock", SimpleNamespace(now=lambda: NOW + timedelta(days=3650)))
    with pytest.raises(ActionFailed):
        await action.apply(Plan(text=""))
    assert [path.exists() for path in answers] == [True, True, False]
    assert {path.name for path in (data / "vault/backups").iterdir()} == {fast, newest}
