from __future__ import annotations

import asyncio
import fcntl
import gc
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
import stamina

from atlas.clock import FixedClock
from atlas.testing import NOON, ThrowAwayServer, throw_away_folder
from maia import cli
from maia.emulator import Emulator
from maia.emulator.catalogue import Catalogue
from maia.emulator.synthesis import synthesize

MIGRATE_PREFECT = """
import asyncio
from prefect.server.database import provide_database_interface
asyncio.run(provide_database_interface().create_db())
"""


@pytest.fixture(scope="session")
def prefect_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database of Prefect's, to be copied: migrating takes most of a server's first start.

    All workers of a test run share it.
    """
    of_this_run = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        of_this_run = of_this_run.parent
    database = of_this_run / "prefect.db"
    with (of_this_run / "prefect.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not database.exists():
            # On a busy disk it would take a minute.
            with throw_away_folder() as folder:
                migrated = folder / database.name
                subprocess.run(
                    [sys.executable, "-c", MIGRATE_PREFECT],
                    env=os.environ | {"PREFECT_SERVER_DATABASE_CONNECTION_URL": sqlite_url(migrated)},
                    check=True,
                )
                shutil.move(migrated, database)
    return database


def sqlite_url(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


@contextmanager
def home_for_prefect(migrated: Path) -> Iterator[Path]:
    """A PREFECT_HOME whose database is migrated already."""
    with throw_away_folder() as home:
        shutil.copy(migrated, home / "prefect.db")
        yield home


@pytest.fixture
def prefect_home(prefect_database: Path) -> Iterator[Path]:
    """A PREFECT_HOME of this test whose database is migrated already."""
    with home_for_prefect(prefect_database) as home:
        yield home


@pytest.fixture(scope="session")
def prefect(prefect_database: Path) -> Iterator[str]:
    """A Prefect server of this worker, with a home of its own; yields its URL."""
    from prefect import settings
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler
    from prefect.server.api.server import SubprocessASGIServer

    updates = {
        settings.PREFECT_SERVER_ANALYTICS_ENABLED: False,
        settings.PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 90,
        # How often it looks for runs that fell silent.
        settings.PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY: timedelta(seconds=0.5),
    }
    with home_for_prefect(prefect_database) as home:
        updates[settings.PREFECT_HOME] = home
        updates[settings.PREFECT_SERVER_DATABASE_CONNECTION_URL] = sqlite_url(home / "prefect.db")
        with (
            settings.temporary_settings(updates),
            SubprocessASGIServer() as server,
            settings.temporary_settings({settings.PREFECT_API_URL: server.api_url}),
        ):
            yield server.api_url
            # What is still held would be sent to a server that has gone.
            APILogHandler().flush()
            EventsWorker.drain_all(timeout=10)


@pytest.fixture(autouse=True)
def _prefects_sockets_are_collected(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let a test that uses Prefect collect the sockets that Prefect leaves open, and not some later test."""
    yield
    if any("PytestUnraisable" in mark.args[0] for mark in request.node.iter_markers("filterwarnings")):
        gc.collect()


def filled_database(server: ThrowAwayServer, fill: Callable[[Any], Awaitable[None]]) -> str:
    """A migrated database, after `fill` had a connection to it: the template of a module's tests."""
    name = server.create_database(server.migrated_template())

    async def connect_and_fill() -> None:
        sql = await asyncpg.connect(server.dsn_of(name))
        try:
            await fill(sql)
        finally:
            await sql.close()

    asyncio.run(connect_and_fill())
    return name


MountSmall = Callable[[Path, str], Path]


@pytest.fixture
def mount_small() -> Iterator[MountSmall]:
    """Makes a folder with a file system of its own that holds so much, such as 8m."""

    def mount(folder: Path, size: str) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "none", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("file systems cannot be mounted here: that takes root's rights")
        # A server that is killed may still be leaving it.
        mounted.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
        return folder

    with ExitStack() as mounted:
        yield mount


@pytest.fixture
def closed_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def without_waits() -> Iterator[None]:
    """Lets calls that fail be tried again at once, and three times at most."""
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """A synthetic catalogue of 400 videos from the 20 days before NOON."""
    path = tmp_path_factory.mktemp("catalogue") / "small.catalogue"
    synthesize(path, videos=400, channels=20, days=20, seed=1, start=NOON - timedelta(days=20))
    with Catalogue.open(path) as opened:
        yield opened


@pytest_asyncio.fixture
async def emulator(catalogue: Catalogue, clock: FixedClock) -> AsyncIterator[Emulator]:
    """The API over the module's catalogue, or the one here, on the test's clock."""
    async with Emulator.serve(catalogue, clock=clock) as served:
        yield served


@pytest.fixture
def emulated(emulator: Emulator) -> dict[str, Any]:
    """The settings of an agent that asks the emulator, with one key and as fast as it likes.

    The hunter asks in the original order, topic by topic.
    """
    return {
        "hunter": {"strategy": "specification", "order": "date"},
        "youtube": {"base_url": emulator.url},
        "quota": {"pacing": False},
        "youtube_api_key_pool_json": json.dumps([{"key": "demo-one", "project": "demo"}]),
    }


@pytest.fixture
def run_maia(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: returns its status, what it printed, and what it logged."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exited:
            cli.main([*arguments])
        told = capsys.readouterr()
        return int(exited.value.code or 0), told.out, told.err

    return run
