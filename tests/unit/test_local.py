"""Files that a user names: replaced as a whole with mode and owner, written into where they can't be."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from pathlib import Path

import pytest

from atlas.errors import ConfigError, ReaderLeft, VaultError
from atlas.local import LocalFile


async def write(path: Path, body: bytes = b"new") -> None:
    async with LocalFile(str(path)).writing(str(path)) as file:
        file.write(body)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
async def test_a_file_keeps_its_mode_and_owner(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"old")
    path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12346)
    before = path.stat()
    await write(path)
    after = path.stat()
    assert path.read_bytes() == b"new"
    assert (stat.S_IMODE(after.st_mode), after.st_uid, after.st_gid) == (mode, before.st_uid, before.st_gid)
    assert names(tmp_path) == ["a.csv"]


async def test_a_failed_one_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"old")
    with pytest.raises(KeyError):
        async with LocalFile(str(path)).writing("a.csv") as file:
            file.write(b"new")
            raise KeyError
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("there", [True, False])
async def test_links_are_followed(tmp_path: Path, there: bool) -> None:
    (tmp_path / "data").mkdir()
    target, link = tmp_path / "data" / "a.csv", tmp_path / "latest.csv"
    if there:
        target.write_bytes(b"old")
    link.symlink_to("data/a.csv")
    await write(link)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


async def test_a_link_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").symlink_to("a.csv")
    with pytest.raises(VaultError, match="symbolic links"):
        await write(tmp_path / "a.csv")


async def test_no_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(VaultError, match=f"there is no folder {tmp_path}/none: create it first"):
        await write(tmp_path / "none" / "a.csv")
    assert names(tmp_path) == []
    for folder in (str(tmp_path), f"{tmp_path}/a/", ""):
        with pytest.raises(ConfigError, match="is a folder"):
            LocalFile(folder)


async def test_devices_are_written_into() -> None:
    await write(Path("/dev/null"))
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(VaultError, match="No space left"):
        await write(Path("/dev/full"))


async def test_a_pipe_is_written_into_once_somebody_reads_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Timer(0.3, lambda: read.append(pipe.read_bytes()))
    reader.start()
    await write(pipe, b"x" * 1_000_000)
    await asyncio.to_thread(reader.join)
    assert read == [b"x" * 1_000_000]
    assert pipe.is_fifo()


async def test_a_pipe_whose_reader_leaves_is_told_apart(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(ReaderLeft):
        async with LocalFile(str(pipe)).writing("pipe") as file:
            os.close(reader)
            file.write(b"x" * 10_000_000)


async def test_waiting_for_a_reader_can_be_cancelled(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await write(tmp_path / "pipe")


async def test_what_killed_exports_left_is_removed_after_an_hour(tmp_path: Path) -> None:
    old, young = tmp_path / ".a.csv.incoming-1", tmp_path / ".a.csv.incoming-2"
    for left in (old, young):
        left.touch()
    os.utime(old, (0, 0))
    await write(tmp_path / "a.csv")
    assert names(tmp_path) == [".a.csv.incoming-2", "a.csv"]
