"""Through a real PgBouncer, whose two sessions serve everybody in turn, a transaction at a time."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
from pydantic import SecretStr

from atlas import db, prefect_database
from atlas.adapters.maia import MaiaDAO
from atlas.backups.creation import create
from atlas.backups.restoration import restore
from atlas.backups.shelf import Shelf
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.db import Database
from atlas.errors import BackupError, ConfigError, DatabaseUnavailable, StatementTimeout
from atlas.testing import NOON, SettingsFactory, ThrowAwayServer

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
SESSIONS = 2
IGNORED = "extra_float_digits,statement_timeout,lock_timeout,idle_in_transaction_session_timeout,search_path"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(PROGRAM is None, reason="needs pgbouncer: apt-get install pgbouncer"),
]

PROBE = """
-- name: create
CREATE TABLE probe (id int PRIMARY KEY, body jsonb);
-- name: put
INSERT INTO probe (id, body) VALUES ($1, $2);
-- name: read_all
SELECT id, body FROM probe ORDER BY id;
-- name: add
SELECT $1::int + $2::int;
-- name: setting
SELECT current_setting($1);
-- name: sleep
SELECT pg_sleep($1);
"""


@pytest.fixture(autouse=True)
def _probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "sql").mkdir()
    for file in db.SQL_FOLDER.glob("*.sql"):
        (tmp_path / "sql" / file.name).symlink_to(file)
    (tmp_path / "sql" / "probe.sql").write_text(PROBE)
    monkeypatch.setattr(db, "SQL_FOLDER", tmp_path / "sql")
    for cached in (db.statements, db.sql_of):
        cached.cache_clear()
    yield
    for cached in (db.statements, db.sql_of):
        cached.cache_clear()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def pgbouncer(server: ThrowAwayServer, **options: Any) -> Iterator[Callable[[str], str]]:
    """A PgBouncer before the server; yields what makes a database's URL one that leads through it."""
    folder, port = server.folder / f"pgbouncer-{uuid4().hex[:8]}", free_port()
    folder.mkdir()
    socket_folder = parse_qs(urlsplit(server.dsn_of("postgres")).query)["host"][0]
    settings = {
        "listen_addr": "127.0.0.1", "listen_port": port, "unix_socket_dir": "", "auth_type": "any",
        "pool_mode": "transaction", "default_pool_size": SESSIONS, "logfile": folder / "log",
    } | options  # fmt: skip
    lines = [f"[databases]\n* = host={socket_folder} port=5432 user=pleiades\n[pgbouncer]"]
    config = folder / "pgbouncer.ini"
    config.write_text("\n".join(lines + [f"{name} = {value}" for name, value in settings.items()]))
    # It refuses to run as root, and the server admits its own user.
    owner = (server.folder / "postgres").stat()
    os.chown(folder, owner.st_uid, owner.st_gid)
    user = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    process = subprocess.Popen(
        [str(PROGRAM), str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user
    )
    try:
        _await_port(port)
        yield lambda database: f"postgresql://pleiades@127.0.0.1:{port}/{database}"
    finally:
        process.kill()
        process.wait()


def _await_port(port: int) -> None:
    deadline_s = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        else:
            return


@pytest.fixture(
    params=[{}, {"ignore_startup_parameters": IGNORED}, {"pool_mode": "session", "default_pool_size": 8}],
    ids=["usual", "parameters-ignored", "session-mode"],
)
def pooled_url(
    request: pytest.FixtureRequest, postgres: ThrowAwayServer, empty_database_url: str
) -> Iterator[str]:
    """This test's database, through a PgBouncer that is set in one of the usual ways."""
    name = urlsplit(empty_database_url).path.strip("/")
    options = request.param | (
        {"default_pool_size": 8} if request.param.get("pool_mode") == "session" else {}
    )
    with pgbouncer(postgres, **options) as url_of:
        yield url_of(name)


@pytest_asyncio.fixture
async def database(settings_factory: SettingsFactory, pooled_url: str) -> AsyncIterator[Database]:
    limits = {"pool_size": 4, "statement_timeout_s": 2, "lock_timeout_s": 1}
    settings = settings_factory(database_url=SecretStr(pooled_url), database=limits)
    async with Database.open(settings) as opened:
        assert opened.pooled
        yield opened


async def test_it_migrates_and_many_statements_share_few_sessions(database: Database) -> None:
    assert await database.pending_migrations() == []
    sums = await asyncio.gather(*(database.fetchval("probe.add", number, 1) for number in range(60)))
    assert sums == [number + 1 for number in range(60)]


async def test_transactions_and_savepoints_hold(database: Database) -> None:
    await database.execute("probe.create")

    async def fail(executor: db.Executor, number: int) -> None:
        async with executor.transaction() as inner:
            await inner.execute("probe.put", number, {"inner": True})
            raise LookupError

    async def store(number: int) -> None:
        async with database.transaction() as transaction:
            await transaction.execute("probe.put", number, {"n": number})
            with pytest.raises(LookupError):
                await fail(transaction, -number)

    await asyncio.gather(*(store(number) for number in range(1, 13)))
    with pytest.raises(LookupError):
        await fail(database, 99)
    stored = [(row["id"], row["body"]) for row in await database.fetch("probe.read_all")]
    assert stored == [(number, {"n": number}) for number in range(1, 13)]


async def test_rows_are_copied_out(database: Database) -> None:
    await database.execute("probe.create")
    for number in range(9):
        await database.execute("probe.put", number, None)
    heard: list[bytes] = []

    async def hear(data: bytes) -> None:
        heard.append(data)

    assert await database.copy_out("probe.read_all", sink=hear) == 9
    assert b"".join(heard).splitlines() == [b"%d," % number for number in range(9)]


async def test_every_statement_has_our_settings_and_leaves_none_behind(
    database: Database, pooled_url: str
) -> None:
    with pytest.raises(StatementTimeout):
        await database.execute("probe.sleep", 10.0)
    assert await database.fetchval("probe.setting", "timezone") == "UTC"
    assert await database.fetchval("probe.setting", "statement_timeout") == "2s"
    async with database.transaction() as transaction:
        assert await transaction.fetchval("probe.setting", "lock_timeout") == "1s"
    stranger = await asyncpg.connect(pooled_url, statement_cache_size=0)
    try:
        for _ in range(2 * SESSIONS):
            async with stranger.transaction():
                assert await stranger.fetchval("SELECT current_setting('statement_timeout')") == "0"
    finally:
        await stranger.close()


async def test_a_lock_is_held_by_one_alone(
    database: Database, settings_factory: SettingsFactory, postgres: ThrowAwayServer, pooled_url: str
) -> None:
    direct = settings_factory(database_url=SecretStr(postgres.dsn_of(urlsplit(pooled_url).path.strip("/"))))
    async with Database.open(direct) as beside:
        async with database.only_one("moon") as first, database.only_one("moon") as second:
            assert (first, second) == (True, False)
            async with beside.only_one("moon") as third:
                assert not third
        async with beside.only_one("moon") as again, database.only_one("moon") as fourth:
            assert (again, fourth) == (True, False)


async def test_listening_wakes_now_and_then(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "_POOLER_POLL_S", 0.05)
    async with aclosing(database.listen("moon")) as notices, asyncio.timeout(5):
        assert [await anext(notices) for _ in range(3)] == ["", "", ""]


async def test_agents_work_through_it(
    database: Database, settings_factory: SettingsFactory, pooled_url: str, clock: FixedClock
) -> None:
    dao = MaiaDAO(database, clock=clock, settings=settings_factory(database_url=SecretStr(pooled_url)))
    await dao.seed(["jazz", "blues"])
    (topic,) = await dao.fetch_hunter_batch(1)
    video = SimpleNamespace(
        id="v", channel_id="UC", channel_title="One", title="About", description="", published_at=NOON,
        category_id=22, tags=("late",), duration_s=90, live_broadcast_content="none", default_language=None,
        view_count=100, like_count=10, comment_count=1, etag="e", scheduled_start_at=None,
        actual_start_at=None, actual_end_at=None,
    )  # fmt: skip
    async with dao.transaction() as within:
        await within.ingest_video_metadata([video])
        await within.add_to_search_queue(["late"])
    clock.advance(timedelta(days=1))
    (target,) = await dao.fetch_tracker_targets(5)
    assert (topic.query in {"jazz", "blues"}, target.id) == (True, "v")
    assert await dao.release_videos([target]) == 1


async def test_prefect_is_not_sent_through_it(database: Database) -> None:
    with pytest.raises(ConfigError, match=r"connection pooler.*PREFECT_API_DATABASE_CONNECTION_URL"):
        await prefect_database.ensure(database, "prefect")


async def test_a_parameter_that_the_pooler_refuses_is_named(
    settings_factory: SettingsFactory, postgres: ThrowAwayServer, database_url: str
) -> None:
    with pgbouncer(postgres) as url_of:
        url = f"{url_of(urlsplit(database_url).path.strip('/'))}?options=-c%20search_path%3Dpublic"
        with pytest.raises(
            DatabaseUnavailable, match=r"connection pooler in between refuses it.*options"
        ) as refused:
            async with Database.open(settings_factory(database_url=SecretStr(url))):
                pass
    assert not refused.value.transient


async def test_settings_of_the_url_reach_each_transaction(
    settings_factory: SettingsFactory, postgres: ThrowAwayServer, database_url: str
) -> None:
    with pgbouncer(postgres) as url_of:
        url = f"{url_of(urlsplit(database_url).path.strip('/'))}?search_path=public,%20moon&pgbouncer=true"
        async with Database.open(settings_factory(database_url=SecretStr(url))) as database:
            assert await database.fetchval("probe.setting", "search_path") == "public, moon"


async def test_a_pooler_that_dies_is_an_outage(
    settings_factory: SettingsFactory, postgres: ThrowAwayServer, database_url: str
) -> None:
    with ExitStack() as running:
        url = running.enter_context(pgbouncer(postgres))(urlsplit(database_url).path.strip("/"))
        settings = settings_factory(database_url=SecretStr(url), database={"connect_timeout_s": 0.5})
        async with Database.open(settings) as database:
            await database.ping()
            running.close()
            with pytest.raises(DatabaseUnavailable):
                await database.ping()
            with pytest.raises(DatabaseUnavailable, match="connection refused"):
                await database.ping()


class TestBackups:
    @pytest.fixture
    def target_url(self, postgres: ThrowAwayServer, empty_database_url: str) -> Iterator[str]:
        """An empty database, through a PgBouncer with as many sessions as it has by default."""
        with pgbouncer(postgres, default_pool_size=20) as url_of:
            yield url_of(urlsplit(empty_database_url).path.strip("/"))

    @pytest.mark.parametrize(("through", "method"), [(True, "copy"), (False, "pg_dump")])
    async def test_one_is_made_and_restored_through_it(
        self, settings_factory: SettingsFactory, database_url: str, target_url: str, tmp_path: Path,
        through: bool, method: str,
    ) -> None:  # fmt: skip
        name = urlsplit(database_url).path
        source = urlsplit(target_url)._replace(path=name).geturl() if through else database_url
        settings = settings_factory(
            database_url=SecretStr(source), maintainer={"backups": {"path": tmp_path / "backups"}}
        )
        shelf = Shelf.of(settings)
        async with Atlas.open(settings) as atlas:
            assert atlas.db.pooled == through
            await atlas.events.append("test.kept", {})
            manifest = await create(atlas, shelf)
        assert manifest.contents.method == method
        if method == "pg_dump":
            with pytest.raises(BackupError, match=r"startup parameter.* give the database's direct address"):
                await restore(shelf, manifest, f"{target_url}?search_path=public", settings.database)
        await restore(shelf, manifest, target_url, settings.database)
