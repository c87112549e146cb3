"""The files of an embedded server, tested without a server."""

from __future__ import annotations

import os
import pwd
import socket
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas import cluster
from atlas.cluster import Home, SystemUser, explain_os_errors, failure_summary
from atlas.config import DatabaseSettings
from atlas.embedded import EmbeddedServer, _PidFile, _StallDetector
from atlas.errors import EmbeddedServerError

PID_FILE = "4711\n/data/postgres/data\n1795000000\n5432\n/data/postgres\n\n  1048577   32768\nready   \n"


@given(st.integers(0, len(PID_FILE)))
def test_a_half_written_pid_file_tells_nothing_wrong(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "postmaster.pid").write_text(PID_FILE[:length])
    told = _PidFile.read(folder)
    assert (told is not None) == (length >= len("4711\n"))
    if told is not None:
        assert told.pid == 4711
        assert told.socket_folder == (Path("/data/postgres") if length > PID_FILE.index("\n\n") else None)
        assert told.status == ("ready" if length == len(PID_FILE) else "")


@pytest.mark.parametrize(
    "written",
    [
        "4711\n/data/postgres/data\n1795000000\n5432\n\n",
        "4711\n/data/postgres/data\n1795000000\n5432\n\n\n",
        "4711\n/data/postgres/data\n1795000000\n5432\n\n\n  1048577   32768\n",
        "4711\n/data/postgres/data\n1795000000\n5432\n\n\n  1048577   32768\nstarting\n",
    ],
)
def test_a_server_that_starts_tells_no_socket_until_its_line_is_filled_in(
    tmp_path: Path, written: str
) -> None:
    home = Home(tmp_path)
    home.cluster.mkdir(parents=True)
    (home.cluster / "postmaster.pid").write_text(written)
    told = _PidFile.read(home.cluster)
    assert told is not None
    assert (told.pid, told.socket_folder, told.listener_pid()) == (4711, None, None)
    dsn = EmbeddedServer(tmp_path, DatabaseSettings()).dsn
    assert parse_qs(urlsplit(dsn).query)["host"] == [str(home.socket_folder)]


def test_no_pid_file_tells_nothing(tmp_path: Path) -> None:
    assert _PidFile.read(tmp_path) is None


def test_a_listener_is_known_by_its_process(tmp_path: Path) -> None:
    told = _PidFile(1, tmp_path, "ready")
    assert told.listener_pid() is None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / cluster.SOCKET))
        assert told.listener_pid() is None
        listener.listen()
        assert told.listener_pid() == os.getpid()
    assert told.listener_pid() is None


def test_a_process_is_known_by_where_it_works(tmp_path: Path) -> None:
    assert _PidFile(os.getpid(), tmp_path, "ready").works_in(Path.cwd())
    assert not _PidFile(os.getpid(), tmp_path, "ready").works_in(tmp_path)
    assert not _PidFile(2**31 - 1, tmp_path, "ready").works_in(Path.cwd())


def test_a_start_stalls_only_when_nothing_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    home = Home(tmp_path)
    home.path.mkdir()
    progress = _StallDetector(home, 60)
    for step in range(10):
        now += 59
        assert not progress.stalled()
        home.log.write_text("redo in progress\n")
        os.utime(home.log, ns=(step, step))
        assert not progress.stalled()
    now += 61
    assert progress.stalled()


def test_the_telling_lines_of_an_output_are_its_essence() -> None:
    log = "LOG:  starting\nFATAL:  could not map memory\nHINT:  less, please\nLOG:  shut down\n"
    assert failure_summary(log) == "FATAL:  could not map memory / HINT:  less, please"
    assert failure_summary("one\n\ntwo\n") == "one / two"
    assert failure_summary("") == "no output"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(28, "No space left on device", "/x"), "/x: No space left on device: free some space"),
        (OSError(30, "Read-only file system", "/x"), "allow this user to write there"),
        (OSError(37, "No locks available"), "use a file system that supports locks"),
        (OSError(5, "Input/output error"), "fix that"),
    ],
)
def test_what_the_system_refuses_is_answered_with_advice(error: OSError, advice: str) -> None:
    with pytest.raises(EmbeddedServerError) as refused, explain_os_errors(Path("/home")):
        raise error
    assert advice in str(refused.value)
    assert "PLEIADES_DATA_DIR" in str(refused.value)


def test_closed_folders_are_found_from_the_top(tmp_path: Path) -> None:
    stranger = SystemUser("stranger", 4_000_000, 4_000_000)
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    for folder in (tmp_path.parent, tmp_path, tmp_path / "a"):
        folder.chmod(0o755)
    tmp_path.chmod(0o750)
    found = stranger.first_inaccessible_folder(inner)
    assert found is not None
    assert tmp_path.is_relative_to(found)
    mine = SystemUser("me", os.geteuid(), os.getegid())
    assert mine.first_inaccessible_folder(inner) is None
    (inner / "program").write_text("")
    (inner / "program").chmod(0o700)
    assert mine.can_run(inner / "program")
    assert not stranger.can_run(inner / "program")


def test_root_needs_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_has_that_name(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", nobody_has_that_name)
    home = Home(tmp_path / "belongs" / "to-nobody-yet")
    with pytest.raises(EmbeddedServerError, match="useradd --system postgres"):
        _ = home.account


def test_a_temporary_folder_that_is_too_long_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/" + "long/" * 30)
    with pytest.raises(EmbeddedServerError, match="set TMPDIR to a shorter"):
        _ = Home(tmp_path / ("x" * 100)).socket_folder
