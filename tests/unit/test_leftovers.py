"""Abandoned temporary files: by name, owner and age, and never one that somebody uses."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from atlas.testing import SettingsFactory
from maia.maintenance import leftovers
from maia.maintenance.leftovers import Places

NOW = datetime.now(UTC)
HEX = "0123456789abcdef0123456789abcdef"
DAY = timedelta(days=1)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    found = Places(tmp_path / "tmp", tmp_path / "data", (tmp_path / "data/vault",))
    for folder in (found.temporary, found.data / "postgres", found.stores[0] / ".incoming"):
        folder.mkdir(parents=True)
    return found


def made(path: Path, *, days: float = 2) -> Path:
    """A file that was last touched so long ago, as were the folders around it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(5000))
    at = (NOW - timedelta(days=days)).timestamp()
    for each in (path, *path.parents[:2]):
        os.utime(each, (at, at))
    return path


def found(places: Places) -> set[str]:
    return {each.path.name for each in leftovers.find(places, NOW, DAY)}


def test_what_our_code_leaves_is_found_and_nothing_else(places: Places) -> None:
    for name in (
        "tmp/pleiades-k2j4h5_x", "tmp/pleiades-demo-abcdefgh/data/file", "data/pleiades-verify-abcdefgh/file",
        f"data/vault/.incoming/{HEX}-1",
        "data/.videos.csv.incoming-0123456789abcdef0123456789abcdef",
        "data/postgres/new-01234567/file", "data/postgres/programs-89abcdef/file",
    ):  # fmt: skip
        made(places.data.parent / name)
    for name in (
        "tmp/other", "tmp/pleiades-restored/postgres/data/file", "tmp/pleiades-holiday.tar",
        "data/pleiades-demo-notes", "data/vault/.incoming/notes.txt",
        "tmp/pleiades", "tmp/pleiades-prefect-1000/prefect.db", "tmp/pleiades-test-1/file",
        "data/videos.csv", "data/vault/metadata/2026-11-02/a.json", "data/postgres/data/file",
        "data/postgres/programs-18c5d2f00a1b2c3d/postgres", "data/.videos.csv.incoming-short",
    ):  # fmt: skip
        made(places.data.parent / name)
    (places.data / "postgres/turn.lock").touch()
    assert found(places) == {
        "pleiades-k2j4h5_x", "pleiades-demo-abcdefgh", "pleiades-verify-abcdefgh",
        f"{HEX}-1",
        ".videos.csv.incoming-0123456789abcdef0123456789abcdef", "new-01234567", "programs-89abcdef",
    }  # fmt: skip
    for each in leftovers.find(places, NOW, DAY):
        leftovers.remove(each)
    assert found(places) == set()
    assert (places.temporary / "pleiades-prefect-1000/prefect.db").exists()
    assert (places.data / "postgres/data/file").exists()


def test_what_is_young_or_changing_within_stays(places: Places) -> None:
    made(places.temporary / "pleiades-youngest", days=0.5)
    made(places.temporary / "pleiades-demo-a2345678/old")
    made(places.temporary / "pleiades-demo-a2345678/deep/young", days=0.1)
    assert found(places) == set()


def test_links_are_neither_followed_nor_deleted(places: Places) -> None:
    precious = made(places.data / "precious/file")
    link = places.temporary / "pleiades-demo-link5678"
    link.symlink_to(precious.parent)
    inner = made(places.temporary / "pleiades-demo-a2345678/file").with_name("link")
    inner.symlink_to(precious.parent)
    os.utime(inner, ((NOW - 2 * DAY).timestamp(),) * 2, follow_symlinks=False)
    os.utime(inner.parent, ((NOW - 2 * DAY).timestamp(),) * 2)
    for each in leftovers.find(places, NOW, DAY):
        leftovers.remove(each)
    assert not inner.parent.exists()
    assert precious.exists()
    assert link.is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file to another user takes root")
def test_other_users_files_stay(places: Places) -> None:
    os.chown(made(places.temporary / "pleiades-theirs12"), 65534, 65534)
    assert found(places) == set()


def test_what_a_process_has_open_stays(places: Places) -> None:
    path = made(places.temporary / "pleiades-demo-open5678/file")
    with path.open("rb"):
        assert found(places) == set()
    assert found(places) == {"pleiades-demo-open5678"}


def test_what_a_process_was_told_of_stays(places: Places) -> None:
    path = made(places.temporary / "pleiades-prefect-abcdefgh/file")
    program = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    environment = os.environ | {"PREFECT_HOME": str(path.parent)}
    with subprocess.Popen(program, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        made(places.temporary / "pleiades-prefect-abcdefg_/file")
        assert found(places) == {"pleiades-prefect-abcdefg_"}
        process.communicate(timeout=10)
    assert found(places) == {"pleiades-prefect-abcdefgh", "pleiades-prefect-abcdefg_"}


def test_a_socket_that_somebody_listens_on_stays(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(places.temporary / "pleiades-0123456789abcdef/file").parent
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(folder)
        listener.bind(f"{folder}/.s" if len(str(folder)) < 90 else ".s")
        monkeypatch.chdir("/")
        at = (NOW - 2 * DAY).timestamp()
        for path in (folder / ".s", folder):
            os.utime(path, (at, at))
        if len(str(folder)) < 90:
            assert found(places) == set()
    assert found(places) == {folder.name}


def test_what_a_lock_holds_stays(places: Places) -> None:
    lock = made(places.temporary / "pleiades-demo-a2345678/in-use.lock")
    with lock.open("r+b") as holder:
        fcntl.flock(holder, fcntl.LOCK_SH)
        # As another container sees it: it knows the lock, but none of our processes.
        assert leftovers.find(places, NOW, DAY, proc=places.data) == []
    assert found(places) == {"pleiades-demo-a2345678"}


def test_a_server_that_is_being_created_keeps_its_drafts(places: Places) -> None:
    made(places.data / "postgres/new-01234567/file")
    turn = places.data / "postgres/turn.lock"
    turn.touch()
    with turn.open("r+b") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert found(places) == set()
    assert found(places) == {"new-01234567"}


def test_places_follow_the_settings(settings_factory: SettingsFactory, tmp_path: Path) -> None:
    plain = settings_factory(database_url=None)
    assert Places.of(plain).stores == (plain.data_folder / "vault",)
    other = settings_factory(database_url=None, maintainer={"backups": {"path": tmp_path / "disk"}})
    assert Places.of(other).stores == (other.data_folder / "vault", tmp_path / "disk")
