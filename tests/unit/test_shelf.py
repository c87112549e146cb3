"""The shelf of backups: who may read them, and what in their folder is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atlas.backups.manifest import VERIFICATION_NAME
from atlas.backups.shelf import Shelf, Verification
from atlas.config import Settings
from atlas.testing import NOON, IsolatedSettings
from tests.manifests import MANIFEST, NAME


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
    unreadable, good = await shelf.list()
    assert (unreadable.name, unreadable.is_good, good.is_good) == (other.name, False, True)
    assert unreadable.problem
    assert good.verification is None
