"""Logs are rotated by size and deleted by age, while whoever writes them goes on writing."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import zstandard

from maia.maintenance import log_files
from maia.maintenance.log_files import LogFile

NOW = datetime(2026, 11, 29, 3, 30, tzinfo=UTC)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "postgres/data").mkdir(parents=True)
    return tmp_path


def named(data: Path, name: str) -> LogFile:
    return next(log for log in log_files.find(data) if log.path.name == name)


def unpacked(path: Path) -> bytes:
    with path.open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file).read()


def test_only_logs_are_found(data: Path) -> None:
    for name in ("postgres/server.log", "postgres/server.log.1", "postgres/server.log-20261101T000000Z.zst",
                 "postgres/data/other.log",
                 "mine.log", "postgres/mine.log.1", "vault.zst", "notes.log.txt"):  # fmt: skip
        (data / name).touch()
    (data / "linked.log").symlink_to(data / "notes.log.txt")
    assert [log.path.name for log in log_files.find(data)] == [
        "server.log", "server.log-20261101T000000Z.zst", "server.log.1",
    ]  # fmt: skip
    assert log_files.find(data / "missing") == []


def test_a_writer_goes_on_in_the_same_file(data: Path) -> None:
    path = data / "postgres/server.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"before\n" * 1000)
        packed = log_files.rotate(named(data, "server.log"), NOW)
        writer.write(b"after\n")
    assert packed.name == "server.log-20261129T033000Z.zst"
    assert packed.stat().st_mode & 0o777 == 0o600
    assert unpacked(packed) == b"before\n" * 1000
    assert path.read_bytes() == b"after\n"


def test_an_older_part_is_packed_and_goes(data: Path) -> None:
    part = data / "postgres/server.log.1"
    part.write_bytes(b"old")
    assert unpacked(log_files.rotate(named(data, "server.log.1"), NOW)) == b"old"
    assert not part.exists()
    assert [path.name for path in part.parent.iterdir() if path.is_file()] == [
        "server.log-20261129T033000Z.zst"
    ]


def test_what_is_too_large_and_what_is_too_old(data: Path) -> None:
    for name, size in (("server.log", 100), ("server.log.1", 1), ("server.log-20261101T000000Z.zst", 1)):
        (data / "postgres" / name).write_bytes(bytes(size))
    logs = log_files.find(data)
    assert {log.path.name for log in log_files.too_large(logs, 100)} == {"server.log", "server.log.1"}
    assert {log.path.name for log in log_files.too_large(logs, 101)} == {"server.log.1"}
    late = datetime.now(UTC) + timedelta(days=15)
    assert {log.path.name for log in log_files.too_old(logs, late, 14)} == {
        "server.log.1", "server.log-20261101T000000Z.zst",
    }  # fmt: skip
    assert log_files.too_old(logs, datetime.now(UTC), 14) == []


def test_a_link_put_in_the_logs_place_is_not_followed(data: Path) -> None:
    path, precious = data / "postgres/server.log", data / "precious"
    path.write_bytes(b"log")
    log = named(data, "server.log")
    precious.write_bytes(b"precious")
    path.unlink()
    path.symlink_to(precious)
    for change in (lambda: log_files.rotate(log, NOW), lambda: log_files.cut(log)):
        with pytest.raises(OSError, match="symbolic links"):
            change()
    assert precious.read_bytes() == b"precious"


def test_a_full_disk_leaves_the_log_as_it_was(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = data / "postgres/server.log"
    path.write_bytes(b"log")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        log_files.rotate(named(data, "server.log"), NOW)
    assert path.read_bytes() == b"log"
    assert [each.name for each in path.parent.iterdir() if each.is_file()] == ["server.log"]


def test_cutting_frees_the_space(data: Path) -> None:
    path = data / "postgres/server.log"
    path.write_bytes(bytes(10_000))
    log_files.cut(named(data, "server.log"))
    assert path.stat().st_size == 0


def test_a_log_and_its_older_part_of_the_same_second_are_both_kept(data: Path) -> None:
    for name in ("server.log", "server.log.1"):
        (data / "postgres" / name).write_bytes(name.encode())
    packed = [log_files.rotate(log, NOW) for log in log_files.find(data)]
    assert [unpacked(path) for path in packed] == [b"server.log", b"server.log.1"]
