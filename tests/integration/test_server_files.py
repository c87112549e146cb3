"""The embedded server as `maia system server` shows and controls it, and the facts of a server."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from atlas.adapters.server import ServerDAO
from atlas.composition import Atlas
from atlas.config import DatabaseSettings
from atlas.embedded import EmbeddedServer
from atlas.errors import EmbeddedServerError
from atlas.server_files import last_lines, look_at
from maia.commands.system_server import server

pytestmark = pytest.mark.integration


PROGRAM = """
import sys, typer
from maia.commands.system_server import server
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(server)
app(sys.argv[1:])
"""
HOLDER = """
import fcntl, sys
with open(sys.argv[1], "w") as file:
    fcntl.flock(file, fcntl.LOCK_SH)
    print("held", flush=True)
    input()
"""


async def maia(data_dir: Path, *words: str) -> str:
    """What the command prints, its errors too."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, *words,
        env={**os.environ, "PLEIADES_DATA_DIR": str(data_dir), "DATABASE_URL": ""},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return output.decode()


async def test_a_server_tells_its_facts(atlas: Atlas) -> None:
    facts = await ServerDAO().facts()
    assert facts.started_at < facts.now
    assert 0 <= facts.active <= facts.connections < facts.most_connections
    assert 0 < facts.database_bytes <= facts.all_bytes
    assert not facts.is_replica


async def test_an_embedded_server_is_shown_and_not_stopped_under_its_users(embedded_data_dir: Path) -> None:
    assert not look_at(embedded_data_dir).exists
    assert not (embedded_data_dir / "postgres").exists(), "looking makes nothing"
    async with EmbeddedServer.open(embedded_data_dir, DatabaseSettings(), durable=False) as running:
        seen = look_at(embedded_data_dir)
        assert (seen.runs, seen.pid, seen.version) == (True, running.pid, "18")
        assert seen.socket is not None
        assert seen.socket.is_socket()
        assert seen.files_bytes > 10 * 2**20
        assert seen.users == (), "whoever looks does not count"

        assert f"embedded, runs, pid {running.pid}" in await maia(embedded_data_dir)
        refused = await maia(embedded_data_dir, "stop")
        assert "the server is used by" in refused
        assert running.pid == seen.pid

    seen = look_at(embedded_data_dir)
    assert (seen.exists, seen.runs, seen.socket) == (True, False, None)
    assert "database system is shut down" in last_lines(seen.log, 1)[0]


async def test_a_server_is_stopped_once_nobody_uses_it(embedded_data_dir: Path) -> None:
    other = EmbeddedServer(embedded_data_dir, DatabaseSettings(), durable=False)
    async with EmbeddedServer.open(embedded_data_dir, DatabaseSettings(), durable=False):
        assert not await other.stop_unless_used()
        assert look_at(embedded_data_dir).runs
    await other.ensure_running()
    assert await other.stop_unless_used()
    assert not look_at(embedded_data_dir).runs


async def test_users_are_processes_that_hold_its_lock(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    folder.mkdir()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(folder / "users.lock"),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    await process.stdout.readline()
    [user] = look_at(tmp_path).users
    assert user.pid == process.pid
    await process.communicate(b"\n")
    assert look_at(tmp_path).users == ()


def test_another_server_is_not_ours_to_stop(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(server)
    environment = {"PLEIADES_DATA_DIR": str(tmp_path), "DATABASE_URL": "postgresql://u:hidden@192.0.2.1/d"}
    refused = CliRunner(env=environment).invoke(app, ["stop"])
    assert refused.exit_code == 2
    assert "not ours to stop" in refused.output
    assert "hidden" not in refused.output


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_of_another_user_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    folder.mkdir(mode=0o000)
    with pytest.raises(EmbeddedServerError, match="run this as root"):
        look_at(tmp_path)


def test_the_last_lines_of_a_long_log_are_read_from_its_end(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    assert last_lines(log, 5) == []
    log.write_text("".join(f"line {number} {'x' * 50}\n" for number in range(5000)))
    assert [line.split()[1] for line in last_lines(log, 3)] == ["4997", "4998", "4999"]
    assert len(last_lines(log, 4000)) == 4000
    assert len(last_lines(log, 9000)) == 5000
