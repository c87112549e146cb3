"""How PostgreSQL's programs are chosen and told where to connect, without a password in an argument."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from atlas.backups.programs import Program, Programs, can_restore, environment, fitting, folders
from atlas.backups.stream import NICE, ProgramFailed
from atlas.cluster import MAJOR_VERSION, packaged_programs


@pytest.fixture(autouse=True)
def _no_variables_of_libpq(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)


def given(url: str) -> dict[str, str]:
    """What a URL says to libpq, beyond what every URL says."""
    found = environment(url)
    assert found is not None
    always = {"PGAPPNAME", "PGCLIENTENCODING", "PGCONNECT_TIMEOUT", "PGTZ"}
    return {
        name: value for name, value in found.items() if name.startswith("PG") and value and name not in always
    }


def test_an_address_becomes_variables() -> None:
    assert given("postgresql://us%40er:p%3A%2Fw%20d@db.example:6543/my%20db?sslmode=require") == {
        "PGUSER": "us@er", "PGPASSWORD": "p:/w d", "PGHOST": "db.example", "PGPORT": "6543",
        "PGDATABASE": "my db", "PGSSLMODE": "require",
    }  # fmt: skip


def test_a_socket_and_ipv6_are_hosts() -> None:
    assert given("postgresql:///pleiades?host=%2Fvar%2Frun&user=me") == {
        "PGDATABASE": "pleiades", "PGHOST": "/var/run", "PGUSER": "me",
    }  # fmt: skip
    assert given("postgresql://[::1]:5433/x") == {"PGHOST": "::1", "PGPORT": "5433", "PGDATABASE": "x"}


def test_server_settings_become_options() -> None:
    url = "postgresql://h/d?search_path=a%20b&options=-c%20geqo%3Doff&pgbouncer=true"
    assert given(url)["PGOPTIONS"] == r"-c geqo=off -c search_path=a\ b"


@pytest.mark.parametrize("url", ["postgresql://a,b/d", "postgresql://h/d?sslpassword=x"])
def test_what_libpq_cannot_be_told_is_copied_instead(url: str) -> None:
    assert environment(url) is None


def test_no_secret_of_ours_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PLEIADES_PRIVACY__KEY", "secret")
    monkeypatch.setenv("PGPASSFILE", "/home/me/.pgpass")
    found = environment("postgresql://h/d")
    assert found is not None
    assert "secret" not in found.values()
    assert found["PGPASSFILE"] == "/home/me/.pgpass"


def _fake(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True)
    for name in ("pg_dump", "pg_restore", "psql"):
        (folder / name).write_text(f"#!/bin/sh\necho {shlex.quote(version)}\n")
        (folder / name).chmod(0o755)
    return folder


async def test_the_same_version_is_best_and_a_later_one_good(tmp_path: Path) -> None:
    found = [
        _fake(tmp_path / str(major), f"pg_dump (PostgreSQL) {major}.{minor} (Debian 1)")
        for major, minor in ((15, 8), (18, 6), (17, 1))
    ]
    chosen = {major: await fitting(major, found) for major in (15, 16, 17, 18, 19)}
    assert {major: each and each.major for major, each in chosen.items()} == {
        15: 15, 16: 17, 17: 17, 18: 18, 19: None,
    }  # fmt: skip


def test_a_later_pg_restore_cannot_restore_to_a_server_before_17() -> None:
    found = {(tool, server): can_restore(tool, server) for tool in (15, 16, 17, 18) for server in (15, 17)}
    assert [pair for pair, can in found.items() if not can] == [(17, 15), (18, 15)]


async def test_a_folder_without_working_programs_is_passed_over(tmp_path: Path) -> None:
    assert await fitting(15, [tmp_path, tmp_path / "missing", _fake(tmp_path / "odd", "no version")]) is None


async def test_the_package_has_programs_of_the_embedded_server() -> None:
    assert packaged_programs() in folders()
    found = await fitting(int(MAJOR_VERSION))
    assert found is not None
    assert found.major == int(MAJOR_VERSION)


async def test_a_failure_says_why_and_a_success_nothing(tmp_path: Path) -> None:
    folder = _fake(tmp_path / "bin", "fine")
    (folder / "psql").write_text("#!/bin/sh\necho 'psql: error: no such table' >&2\nexit 3\n")
    fine = await Program.start(Programs(folder, 18), "pg_dump", [], {"PATH": os.defpath})
    await fine.finish()
    broken = await Program.start(Programs(folder, 18), "psql", [], {"PATH": os.defpath})
    with pytest.raises(ProgramFailed, match="psql failed: psql: error: no such table"):
        await broken.finish()


async def test_a_program_has_low_priority_and_can_be_ended(tmp_path: Path) -> None:
    folder = _fake(tmp_path / "bin", "fine")
    (folder / "pg_dump").write_text("#!/bin/sh\nnice\nexec sleep 60\n")
    reading, writing = os.pipe()
    program = await Program.start(
        Programs(folder, 18), "pg_dump", [], {"PATH": os.environ["PATH"]}, stdout=writing
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert int(await asyncio.to_thread(pipe.readline)) >= NICE
        await program.kill()
        assert await asyncio.to_thread(pipe.read) == b""


STARTS_A_SLEEPER = """
import asyncio, os, signal
from pathlib import Path
from atlas.backups.programs import Program, Programs
async def main():
    await Program.start(Programs(Path(os.environ["FOLDER"]), 18), "pg_dump", [], dict(os.environ), stdout=1)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    folder = _fake(tmp_path / "bin", "fine")
    (folder / "pg_dump").write_text("#!/bin/sh\necho running\nexec sleep 60\n")
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_A_SLEEPER], env=os.environ | {"FOLDER": str(folder)},
        stdout=subprocess.PIPE,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"running\n"
        parent.send_signal(signal.SIGKILL)
        # The pipe ends once the sleeper, which holds its other end, is gone too.
        assert parent.stdout.read() == b""


def test_database_names_are_quoted() -> None:
    from atlas.backups.restoration import _conninfo

    assert _conninfo({"PGDATABASE": r"it's a \ = one"}) == r"dbname='it\'s a \\ = one'"
