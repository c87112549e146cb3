"""Pytest fixtures for Pleiades and for code built on it: `pytest_plugins = ["atlas.testing"]`.

Each test that uses a database gets its own, cloned from a migrated template on a throw-away server. Each
worker of pytest-xdist has its own server: a transaction that a test keeps open holds up the change feeds and
the pruning of all databases of that server.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import pytest_asyncio
from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from atlas import migrations
from atlas.clock import FixedClock
from atlas.config import DatabaseSettings, Settings
from atlas.db import Database
from atlas.embedded import EmbeddedServer
from atlas.errors import EmbeddedServerError
from atlas.sources import fixed_names

if TYPE_CHECKING:
    from atlas.composition import Atlas

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
SettingsFactory = Callable[..., Settings]

_FOLDER_PREFIX = "pleiades-test-"
_ENOUGH_BYTES = 1 << 30


class IsolatedSettings(Settings):
    """Settings from arguments only, ignoring the environment and files."""

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
    """A PostgreSQL server for tests, without durability, controlled from its own event loop.

    Its methods may be called anywhere, even inside a running loop. `restart` and `stop` break all
    connections, so use them only on a server that no other test shares.
    """

    def __init__(self, embedded: EmbeddedServer, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._embedded, self._run = embedded, run
        self._admin: asyncpg.Connection[asyncpg.Record] | None = None

    @property
    def pid(self) -> int | None:
        return self._embedded.pid

    @property
    def folder(self) -> Path:
        return self._embedded.home.path.parent

    @property
    def cluster(self) -> Path:
        return self._embedded.home.cluster

    def dsn_of(self, database: str) -> str:
        return self._embedded.dsn_of(database)

    def create_database(self, template: str | None = None) -> str:
        """A new database, empty or a clone; returns its name."""
        name = f"test_{secrets.token_hex(8)}"
        copied = f" TEMPLATE {template} STRATEGY file_copy" if template else ""
        self._run(self._execute(f"CREATE DATABASE {name}{copied}"))
        return name

    def drop_database(self, name: str) -> None:
        self._run(self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))

    def migrated_template(self) -> str:
        """The name of a template database with all migrations, created once."""
        name: str = self._run(self._migrated_template())
        return name

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop and start the server; SIGKILL makes it crash and recover."""
        self._run(self._embedded.restart(how))

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        self._run(self._embedded.stop(how))

    def start(self) -> None:
        """Start the server after `stop`."""
        self._run(self._embedded.ensure_running())

    async def _admin_connection(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._admin is None or self._admin.is_closed():
            self._admin = await asyncpg.connect(self.dsn_of("postgres"))
        return self._admin

    async def _execute(self, sql: str) -> None:
        await (await self._admin_connection()).execute(sql)

    async def _disable_autovacuum(self) -> None:
        """Turn off autovacuum, whose snapshots at random times would affect which rows are pruned."""
        await self._execute("ALTER SYSTEM SET autovacuum = off")
        await self._execute("SELECT pg_reload_conf()")

    async def _disconnect(self) -> None:
        if self._admin is not None:
            await self._admin.close()

    async def _migrated_template(self) -> str:
        digest = blake2b(digest_size=6)
        for migration in migrations.known():
            digest.update(migration.digest.encode())
        name = f"template_{digest.hexdigest()}"
        known = "SELECT datistemplate FROM pg_database WHERE datname = $1"
        if not await (await self._admin_connection()).fetchval(known, name):
            await self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            await self._execute(f"CREATE DATABASE {name}")
            async with Database.open(IsolatedSettings(database_url=SecretStr(self.dsn_of(name)))):
                pass
            await self._execute(f"ALTER DATABASE {name} WITH IS_TEMPLATE true ALLOW_CONNECTIONS false")
        return name


@contextmanager
def throw_away_server(folder: Path | None = None, cluster: Path | None = None) -> Iterator[ThrowAwayServer]:
    """A server in `folder`, by default in a new one, with a copy of a stopped server's `cluster`."""
    with _claimed_folder(folder or _new_folder()) as claimed, _background_loop() as run:
        run(_sweep())
        if cluster is not None:
            _copy_cluster(cluster, claimed)
        context = EmbeddedServer.open(claimed, DatabaseSettings(), durable=False)
        embedded = run(context.__aenter__())
        server = ThrowAwayServer(embedded, run)
        run(server._disable_autovacuum())
        try:
            yield server
        finally:
            run(server._disconnect())
            run(context.__aexit__(None, None, None))
            if run(embedded.destroy()):
                shutil.rmtree(claimed, ignore_errors=True)


def _copy_cluster(cluster: Path, folder: Path) -> None:
    """Give a data folder the files of a stopped server, and their owner, who under root is another user."""
    home = EmbeddedServer(folder, DatabaseSettings()).home
    home.prepare()
    subprocess.run(["cp", "-a", str(cluster), str(home.cluster)], check=True)  # noqa: S607


@contextmanager
def throw_away_folder() -> Iterator[Path]:
    """A new folder, in memory if there is enough; a later test run removes it if this one is killed."""
    with _claimed_folder(_new_folder()) as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _background_loop() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Yield a function that runs a coroutine on an event loop in another thread and returns its result."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=loop.run_forever, name="throw-away server", daemon=True)
        thread.start()
        try:
            yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


def _new_folder() -> Path:
    # Under root the server runs as another user, which may not enter pytest's own temporary folders.
    return _base() / f"{_FOLDER_PREFIX}{secrets.token_hex(6)}"


def _base() -> Path:
    """A folder in memory if there is enough: cloning a database takes 10 ms there, 300 on a busy disk."""
    memory = Path("/dev/shm")  # noqa: S108
    if memory.is_dir() and os.access(memory, os.W_OK):
        status = os.statvfs(memory)
        if status.f_bavail * status.f_frsize >= _ENOUGH_BYTES and not status.f_flag & os.ST_NOEXEC:
            return memory
    return Path(tempfile.gettempdir())


@contextmanager
def _claimed_folder(folder: Path) -> Iterator[Path]:
    """Claim a folder, so that other test runs don't sweep it away."""
    while (claim := _claim(folder, fcntl.LOCK_SH)) is None:
        time.sleep(0.01)
    try:
        yield folder
    finally:
        os.close(claim)


def _claim(folder: Path, how: int) -> int | None:
    """Claim a folder; returns a descriptor that holds the claim, None if another run has or deletes it."""
    with suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o755)
    try:
        handle = os.open(folder / "claim", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    with suppress(BlockingIOError):
        fcntl.flock(handle, how | fcntl.LOCK_NB)
        if os.fstat(handle).st_nlink > 0:
            return handle
    os.close(handle)
    return None


async def _sweep() -> None:
    """Destroy servers and folders that killed test runs left behind."""
    for folder in await asyncio.to_thread(lambda: list(_base().glob(f"{_FOLDER_PREFIX}*"))):
        # It may belong to another user, or another run may be sweeping it.
        with suppress(OSError, EmbeddedServerError):
            claim = _claim(folder, fcntl.LOCK_EX)
            if claim is None:
                continue
            try:
                await EmbeddedServer(folder, DatabaseSettings()).destroy()
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(claim)


@pytest.fixture(scope="session")
def postgres() -> Iterator[ThrowAwayServer]:
    """The throw-away server of this worker."""
    with throw_away_server() as server:
        yield server


@pytest.fixture(scope="session")
def template(postgres: ThrowAwayServer) -> str:
    """The name of the migrated database that tests clone."""
    return postgres.migrated_template()


@pytest.fixture
def database_url(postgres: ThrowAwayServer, template: str) -> Iterator[str]:
    """The URL of a migrated database for this test only."""
    name = postgres.create_database(template)
    yield postgres.dsn_of(name)
    postgres.drop_database(name)


@pytest.fixture
def empty_database_url(postgres: ThrowAwayServer) -> Iterator[str]:
    """The URL of an empty database, without migrations, for this test only."""
    name = postgres.create_database()
    yield postgres.dsn_of(name)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def stopped_cluster() -> Iterator[Path]:
    """The files of a stopped server with the migrated template, which tests copy."""
    with throw_away_server() as server:
        server.migrated_template()
        server.stop()
        yield server.cluster


@pytest.fixture
def own_postgres(stopped_cluster: Path) -> Iterator[ThrowAwayServer]:
    """A server for this test only, which it may stop, restart and crash."""
    with throw_away_server(cluster=stopped_cluster) as server:
        yield server


@pytest.fixture
def embedded_data_dir() -> Iterator[Path]:
    """A data folder for an embedded server, which is destroyed after the test."""
    with _claimed_folder(_new_folder()) as folder:
        yield folder
        asyncio.run(EmbeddedServer(folder, DatabaseSettings()).destroy())
        shutil.rmtree(folder)


@pytest.fixture
def settings_factory(request: pytest.FixtureRequest, tmp_path: Path) -> SettingsFactory:
    """Creates Settings from arguments only, with this test's folders and database."""

    def make(**overrides: Any) -> Settings:
        if "database_url" not in overrides:
            overrides["database_url"] = SecretStr(request.getfixturevalue("database_url"))
        learner = overrides.get("learner", {})
        if isinstance(learner, dict):
            # A test must not do less because other programs keep its machine busy.
            overrides["learner"] = {"adapt_to_host": False} | learner
        api = overrides.get("api", {})
        if isinstance(api, dict):
            # A test asks more often than a person does, and the more so the slower its machine is.
            overrides["api"] = {"requests_per_minute": 100_000} | api
        defaults: dict[str, Any] = {"data_dir": tmp_path / "data", "node_id": "test"}
        return IsolatedSettings(**(defaults | overrides))

    return make


@pytest.fixture
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment for a subprocess that uses this test's database and folders, and no other settings."""
    ours = {name: value for name, value in os.environ.items()
            if name not in fixed_names(Settings) and not name.startswith("PLEIADES_")}  # fmt: skip
    return ours | {
        "DATABASE_URL": request.getfixturevalue("database_url"),
        "PLEIADES_DATA_DIR": str(tmp_path / "data"),
        "NODE_ID": "test",
        "PLEIADES_LEARNER__ADAPT_TO_HOST": "false",
    }


@pytest.fixture
def clock() -> FixedClock:
    """A clock that stands at 2026-11-02 12:00 UTC until it is moved."""
    return FixedClock(NOON)


@pytest_asyncio.fixture
async def database(settings_factory: SettingsFactory) -> AsyncIterator[Database]:
    """This test's database, open."""
    async with Database.open(settings_factory()) as opened:
        yield opened


@pytest_asyncio.fixture
async def sql(database_url: str) -> AsyncIterator[Any]:
    """A plain asyncpg connection to this test's database, for arranging and checking data."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


class RecordingNotifier:
    """A webhook that records what Apprise posts to `url`: `title`, `message` and `type` of each alert."""

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


@pytest.fixture
def atlas_settings(request: pytest.FixtureRequest, settings_factory: SettingsFactory) -> Settings:
    """The settings that `atlas` is opened with; override this fixture for others."""
    if "recording_notifier" in request.fixturenames:
        return settings_factory(notifier={"urls": [request.getfixturevalue("recording_notifier").url]})
    return settings_factory()


@pytest_asyncio.fixture
async def atlas(atlas_settings: Settings, clock: FixedClock) -> AsyncIterator[Atlas]:
    """An open Atlas on this test's database with its clock at noon; alerts go to `recording_notifier`."""
    from atlas.composition import Atlas

    async with Atlas.open(atlas_settings, clock=clock) as opened:
        yield opened
