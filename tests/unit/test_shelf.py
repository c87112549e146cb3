"""The shelf of backups: who may read them, and what in their folder is left alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from atlas.backups import manifest as manifests
from atlas.backups.manifest import VERIFICATION_NAME, Manifest
from atlas.backups.shelf import Shelf, Verification
from atlas.config import Settings
from atlas.testing import NOON, IsolatedSettings
from tests.manifests import AT, MANIFEST, NAME


@pytest.fixture(params=["vault", "folder"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    own = tmp_path / "backups" if request.param == "folder" else None
    groups: dict[str, Any] = {"vault": {"path": tmp_path}, "maintainer": {"backups": {"path": own}}}
    return IsolatedSettings(data_dir=tmp_path, **groups)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backups" / NAME


async def test_only_their_user_can_read_backups(settings: Settings, folder: Path) -> None:
    await Shelf.of(settings).commit(MANIFEST)
    assert (folder / "manifest.json").stat().st_mode & 0o777 == 0o600


async def test_deleting_a_backup_leaves_what_is_not_ours(settings: Settings, folder: Path) -> None:
    shelf = Shelf.of(settings)
    await shelf.commit(MANIFEST)
    await shelf.note(NAME, Verification(at=NOON, problem=None))
    for name in ("part-00001.zst", "notes.txt", "more/part-00001.zst"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    await shelf.delete(NAME)
    assert sorted(path.name for path in folder.iterdir()) == ["more", "notes.txt"]
    assert await shelf.names() == ([], [])


async def test_one_from_the_future_is_last_and_hides_no_newer(settings: Settings) -> None:
    shelf = Shelf.of(settings)
    real, future = AT - timedelta(days=1), AT + timedelta(days=400)
    for at in (future, real, AT):
        await shelf.commit(manifest_of(at))
    assert [(each.begun_at, each.from_future) for each in await shelf.list(AT)] == [
        (AT, False), (real, False), (future, True),
    ]  # fmt: skip
    assert (await shelf.find("latest", AT)).contents.created_at == AT
    # Of another machine, whose clock is a little ahead.
    assert (await shelf.find("latest", AT - timedelta(minutes=5))).contents.created_at == AT
    # Once its time has come it is like any other, and it is better than none.
    assert (await shelf.find("latest", future)).contents.created_at == future
    assert (await shelf.find("latest", real - timedelta(days=1))).contents.created_at == future


def manifest_of(at: datetime) -> Manifest:
    contents = replace(MANIFEST.contents, name=manifests.new_name(at), created_at=at)
    return replace(MANIFEST, contents=contents)


async def test_folders_of_others_are_no_backups(settings: Settings, folder: Path) -> None:
    for name in ("2026-99-99T99-99-99Z-0a1b2c", "notes"):
        (folder.parent / name).mkdir(parents=True)
        (folder.parent / name / "manifest.json").touch()
    assert await Shelf.of(settings).names() == ([], [])


async def test_one_that_cannot_be_read_does_not_hide_the_others(settings: Settings, folder: Path) -> None:
    shelf = Shelf.of(settings)
    await shelf.commit(MANIFEST)
    (folder / VERIFICATION_NAME).symlink_to(VERIFICATION_NAME)
    other = folder.with_name(NAME.replace("0a", "ff"))
    other.mkdir()
    (other / "manifest.json").symlink_to("manifest.json")
    unreadable, good = await shelf.list(AT)
    assert (unreadable.name, unreadable.is_good, good.is_good) == (other.name, False, True)
    assert unreadable.problem
    assert good.verification is None
