"""The shipped fixtures, as tests use them and as a run of its own under pytest-xdist."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import atlas as atlas_package
from atlas import testing
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.db import Database
from atlas.testing import RecordingNotifier, SettingsFactory, ThrowAwayServer

pytestmark = pytest.mark.integration


def test_settings_come_from_arguments_alone(
    settings_factory: SettingsFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("NODE_ID=from-a-file\n")
    monkeypatch.setenv("PORT", "9999")
    monkeypatch.setenv("DATABASE_URL", "postgresql://ambient/")
    settings = settings_factory(hunter={"batch_size": 3})
    assert isinstance(settings, Settings)
    assert (settings.node_id, settings.port, settings.hunter.batch_size) == ("test", 8080, 3)
    assert settings.data_dir == tmp_path / "data"
    assert settings.database_url is not None
    assert "/test_" in settings.database_url.get_secret_value()


def test_a_subprocess_gets_this_tests_database_and_nothing_ambient(
    environment: dict[str, str], database_url: str
) -> None:
    assert environment["DATABASE_URL"] == database_url
    ours = {name for name in environment if name.startswith("PLEIADES_")}
    assert ours == {"PLEIADES_DATA_DIR", "PLEIADES_LEARNER__ADAPT_TO_HOST"}


async def test_two_databases_are_apart(database: Database, sql: Any, empty_database_url: str) -> None:
    await sql.execute("CREATE TABLE mine ()")
    assert await database.pending_migrations() == []
    other = await asyncpg.connect(empty_database_url)
    try:
        assert await other.fetchval("SELECT to_regclass('mine')") is None
    finally:
        await other.close()


async def test_an_atlas_is_open_and_current(atlas: Atlas, clock: FixedClock) -> None:
    assert atlas_package.current() is atlas
    assert set((await atlas.ping()).values()) == {"ok"}
    assert atlas.clock is clock
    assert clock.now() == datetime(2026, 11, 2, 12, tzinfo=UTC)
    clock.advance(timedelta(hours=1))
    assert atlas.clock.now().hour == 13


async def test_alerts_are_recorded(recording_notifier: RecordingNotifier, atlas: Atlas) -> None:
    assert await atlas.notifier.notify("The title", "The body")
    (alert,) = recording_notifier.alerts
    assert (alert["title"], alert["message"]) == ("The title", "The body")


async def test_an_own_server_can_crash_and_come_back(own_postgres: ThrowAwayServer) -> None:
    name = own_postgres.create_database(own_postgres.migrated_template())
    for how in (signal.SIGINT, signal.SIGKILL):
        own_postgres.restart(how)
        connection = await asyncpg.connect(own_postgres.dsn_of(name))
        assert await connection.fetchval("SELECT count(*) FROM migration") > 0
        await connection.close()
    own_postgres.drop_database(name)


RUN = """
import pytest
pytest_plugins = ["atlas.testing"]

@pytest.mark.parametrize("number", range(6))
def test_server(postgres, template, database_url, number):
    print("SERVER", postgres.pid, postgres.folder, template)
"""


def test_each_worker_of_a_run_has_its_server_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["atlas.testing"]\n')
    (tmp_path / "test_it.py").write_text(RUN)
    command = [sys.executable, "-m", "pytest", "-n", "2", "-rP", "-p", "no:cacheprovider", str(tmp_path)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=clean)
    assert "6 passed" in done.stdout, done.stdout
    servers = [line for line in done.stdout.splitlines() if line.startswith("SERVER")]
    assert len(servers) == 6
    assert len(set(servers)) == 2
    for server in set(servers):
        _, pid, folder, _ = server.split()
        assert not Path(f"/proc/{pid}/cwd").exists()
        assert not Path(folder).exists()


def test_a_throw_away_folder_is_there_for_the_while_though_others_sweep() -> None:
    with testing.throw_away_folder() as folder:
        (folder / "file").write_text("content")
        asyncio.run(testing._sweep())
        assert (folder / "file").read_text() == "content"
    assert not folder.exists()


ABANDON = """
import sys, time
from atlas.testing import throw_away_server

with throw_away_server() as server:
    print(server.pid, server.folder, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_run_left_is_swept() -> None:
    with subprocess.Popen([sys.executable, "-c", ABANDON], stdout=subprocess.PIPE, text=True) as abandoned:
        assert abandoned.stdout is not None
        pid, folder = abandoned.stdout.readline().split()
        asyncio.run(testing._sweep())
        assert Path(folder).exists(), "a run that lives is spared"
        abandoned.kill()
    assert Path(folder).exists()
    asyncio.run(testing._sweep())
    assert not Path(folder).exists()
    assert not Path(f"/proc/{pid}/cwd").exists()
