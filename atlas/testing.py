"""Fixtures for tests of Pleiades and of what is built on it: `pytest_plugins = ["atlas.testing"]`.

Every test that asks for a database gets one of its own, cloned from a migrated template on a throw-away
server that the workers of a run share.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import pytest
import pytest_asyncio
from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from atlas.clock import FixedClock
from atlas.config import DatabaseSettings, Settings
from atlas.db import SQL_FOLDER, Database
from atlas.embedded import EmbeddedServer
from atlas.errors import EmbeddedServerError

if TYPE_CHECKING:
    from atlas.composition import Atlas

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
SettingsFactory = Callable[..., Settings]

_FOLDER_PREFIX = "pleiades-test-"
_FIXED_NAMES = ("DATABASE_URL", "YOUTUBE_API_KEY_POOL_JSON", "VAULT_PROVIDER", "HF_DATASET_ID", "HF_TOKEN",
                "REDIS_URL", "NODE_ID", "HOST", "PORT")  # fmt: skip
_T = TypeVar("_T")


class IsolatedSettings(Settings):
    """Settings from arguments alone: no environment, no file."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


class ThrowAwayServer:
    """A PostgreSQL server for tests, without durability, driven from a loop of its own.

    Its methods may be called anywhere, within a running loop too; `restart` and `stop` take the server
    from under every connection, so they are for a server that one test has for itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="throw-away server", daemon=True)
        self._embedded: Any = None
        self._admin: Any = None

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        future: Future[_T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result()

    def open(self) -> None:
        self._thread.start()
        self._run(_sweep())
        self._context = EmbeddedServer.open(self.folder, DatabaseSettings(), durable=False)
        self._embedded = self._run(self._context.__aenter__())

    def close(self) -> None:
        if self._embedded is not None:
            self._run(self._disconnect())
            self._run(self._context.__aexit__(None, None, None))
            if self._run(self._embedded.destroy()):
                with suppress(OSError):
                    self.folder.rmdir()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def dsn_of(self, database: str) -> str:
        dsn: str = self._embedded.dsn_of(database)
        return dsn

    def create_database(self, template: str | None = None) -> str:
        """A new database, empty or a clone; returns its name."""
        name = f"test_{secrets.token_hex(8)}"
        copied = f" TEMPLATE {template} STRATEGY file_copy" if template else ""
        self._run(self._execute(f"CREATE DATABASE {name}{copied}"))
        return name

    def drop_database(self, name: str) -> None:
        self._run(self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))

    def migrated_template(self) -> str:
        """A template that every migration has been applied to, made once whatever workers ask for it."""
        return self._run(self._migrated_template())

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop and start the server; SIGKILL makes it crash and recover."""
        self._run(self._disconnect())
        self._run(self._embedded.restart(how))

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        self._run(self._disconnect())
        self._run(self._embedded.stop(how))

    def start(self) -> None:
        """Start the server after `stop`."""
        self._run(self._embedded.ensure_running())

    async def _execute(self, sql: str) -> None:
        if self._admin is None or self._admin.is_closed():
            self._admin = await asyncpg.connect(self.dsn_of("postgres"))
        await self._admin.execute(sql)

    async def _disconnect(self) -> None:
        if self._admin is not None:
            await self._admin.close()
            self._admin = None

    async def _migrated_template(self) -> str:
        digest = blake2b(digest_size=6)
        for path in sorted((SQL_FOLDER / "migrations").glob("*.sql")):
            digest.update(path.name.encode() + path.read_bytes())
        name = f"template_{digest.hexdigest()}"
        await self._execute("SELECT pg_advisory_lock(1)")
        try:
            known = "SELECT datistemplate FROM pg_database WHERE datname = $1"
            if not await self._admin.fetchval(known, name):
                await self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
                await self._execute(f"CREATE DATABASE {name}")
                async with Database.open(IsolatedSettings(database_url=SecretStr(self.dsn_of(name)))):
                    pass
                await self._execute(f"ALTER DATABASE {name} WITH IS_TEMPLATE true ALLOW_CONNECTIONS false")
        finally:
            await self._execute("SELECT pg_advisory_unlock(1)")
        return name


@contextmanager
def throw_away_server(folder: Path | None = None) -> Iterator[ThrowAwayServer]:
    """A server in `folder`, shared with whoever names the same one; by default in a new one."""
    # pytest's own temporary folders are closed to the unprivileged user that the server runs as under root.
    server = ThrowAwayServer(folder or _run_folder(secrets.token_hex(6)))
    try:
        server.open()
        yield server
    finally:
        server.close()


def _run_folder(run: str) -> Path:
    return Path(tempfile.gettempdir()) / f"{_FOLDER_PREFIX}{run}"


async def _sweep() -> None:
    """Destroy the servers of runs that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        if os.access(folder, os.W_OK):
            # Another run may be sweeping the same folder.
            with suppress(EmbeddedServerError, OSError):
                if await EmbeddedServer(folder, DatabaseSettings()).destroy():
                    folder.rmdir()


@pytest.fixture(scope="session")
def postgres() -> Iterator[ThrowAwayServer]:
    """The throw-away server of this run; workers of pytest-xdist share it."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", secrets.token_hex(6))[:12]
    with throw_away_server(_run_folder(run)) as server:
        yield server


@pytest.fixture(scope="session")
def template(postgres: ThrowAwayServer) -> str:
    """Name of the migrated database that tests clone."""
    return postgres.migrated_template()


@pytest.fixture
def database_url(postgres: ThrowAwayServer, template: str) -> Iterator[str]:
    """A migrated database of this test alone."""
    name = postgres.create_database(template)
    yield postgres.dsn_of(name)
    postgres.drop_database(name)


@pytest.fixture
def empty_database_url(postgres: ThrowAwayServer) -> Iterator[str]:
    """A database of this test alone, without any migration."""
    name = postgres.create_database()
    yield postgres.dsn_of(name)
    postgres.drop_database(name)


@pytest.fixture
def own_postgres() -> Iterator[ThrowAwayServer]:
    """A server of this test alone, which it may stop, restart and crash."""
    with throw_away_server() as server:
        yield server


@pytest.fixture
def settings_factory(request: pytest.FixtureRequest, tmp_path: Path) -> SettingsFactory:
    """Makes Settings from arguments alone, with folders and a database of this test."""

    def make(**overrides: Any) -> Settings:
        if "database_url" not in overrides:
            overrides["database_url"] = SecretStr(request.getfixturevalue("database_url"))
        defaults: dict[str, Any] = {"data_dir": tmp_path / "data", "node_id": "test"}
        return IsolatedSettings(**(defaults | overrides))

    return make


@pytest.fixture
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Environment of a subprocess that uses this test's database and folders, and nothing ambient."""
    ours = {name: value for name, value in os.environ.items()
            if name not in _FIXED_NAMES and not name.startswith("PLEIADES_")}  # fmt: skip
    return ours | {
        "DATABASE_URL": request.getfixturevalue("database_url"),
        "PLEIADES_DATA_DIR": str(tmp_path / "data"),
        "NODE_ID": "test",
    }


@pytest.fixture
def clock() -> FixedClock:
    """A clock that stands at noon, 2026-11-02, UTC, until moved."""
    return FixedClock(NOON)


@pytest_asyncio.fixture
async def database(settings_factory: SettingsFactory) -> AsyncIterator[Database]:
    """This test's database, open."""
    async with Database.open(settings_factory()) as opened:
        yield opened


@pytest_asyncio.fixture
async def sql(database_url: str) -> AsyncIterator[Any]:
    """A plain asyncpg connection to this test's database, to arrange and to look."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


class RecordingNotifier:
    """A web hook that keeps what Apprise posts to `url`: `title`, `message` and `type` of each alert."""

    def __init__(self) -> None:
        self.url = ""
        self.alerts: list[dict[str, Any]] = []
        self.status = 200


@pytest_asyncio.fixture
async def recording_notifier() -> AsyncIterator[RecordingNotifier]:
    """Receives alerts; `settings_factory(notifier={"urls": [recording_notifier.url]})` sends them there."""
    from aiohttp import web

    recorder = RecordingNotifier()

    async def record(request: web.Request) -> web.Response:
        recorder.alerts.append(await request.json())
        return web.Response(status=recorder.status)

    app = web.Application()
    app.router.add_post("/", record)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    recorder.url = f"json://{host}:{port}/"
    yield recorder
    await runner.cleanup()


@pytest_asyncio.fixture
async def atlas(
    request: pytest.FixtureRequest, settings_factory: SettingsFactory, clock: FixedClock
) -> AsyncIterator[Atlas]:
    """An open Atlas on this test's database, its clock at noon; alerts go to `recording_notifier` if asked for."""
    from atlas.composition import Atlas

    overrides: dict[str, Any] = {}
    if "recording_notifier" in request.fixturenames:
        overrides["notifier"] = {"urls": [request.getfixturevalue("recording_notifier").url]}
    async with Atlas.open(settings_factory(**overrides), clock=clock) as opened:
        yield opened
