"""Migrations: once each, in order, all or nothing, whatever processes apply them."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr

from atlas import migrations
from atlas.adapters.maia import MaiaDAO
from atlas.clock import FixedClock
from atlas.db import Database
from atlas.errors import MigrationError
from atlas.testing import NOON, SettingsFactory

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "migrations"
    path.mkdir()
    (path / "0001_moons.sql").write_text("CREATE TABLE moon (name text);\nINSERT INTO moon VALUES ('Io');\n")
    (path / "0002_rings.sql").write_text("CREATE TABLE ring (name text);\n")
    monkeypatch.setattr(migrations, "FOLDER", path)
    return path


@pytest.fixture
async def database(settings_factory: SettingsFactory, empty_database_url: str) -> AsyncIterator[Database]:
    unmigrated = settings_factory(database_url=SecretStr(empty_database_url), database={"migrate": False})
    async with Database.open(unmigrated) as opened:
        yield opened


@pytest.fixture
async def sql(empty_database_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(empty_database_url)
    yield connection
    await connection.close()


async def test_what_is_pending_is_applied_once(folder: Path, database: Database, sql: Any) -> None:
    assert await database.pending_migrations() == ["0001_moons", "0002_rings"]
    assert await sql.fetchval("SELECT to_regclass('migration')") is None
    assert await database.migrate() == ["0001_moons", "0002_rings"]
    assert await database.pending_migrations() == []
    assert await database.migrate() == []
    (folder / "0003_more.sql").write_text("INSERT INTO moon VALUES ('Europa');")
    assert await database.migrate() == ["0003_more"]
    assert await sql.fetch("SELECT name FROM moon") == [("Io",), ("Europa",)]
    rows = await sql.fetch("SELECT number, name, length(sha256), applied_at <= now() AS past FROM migration")
    assert [tuple(row) for row in rows] == [
        (1, "0001_moons", 64, True),
        (2, "0002_rings", 64, True),
        (3, "0003_more", 64, True),
    ]


async def test_opening_migrates_unless_told_not_to(
    folder: Path, settings_factory: SettingsFactory, database: Database, empty_database_url: str
) -> None:
    assert len(await database.pending_migrations()) == 2
    async with Database.open(settings_factory(database_url=SecretStr(empty_database_url))) as migrated:
        assert await migrated.pending_migrations() == []


async def test_an_edited_file_is_an_error(folder: Path, database: Database) -> None:
    await database.migrate()
    (folder / "0001_moons.sql").write_text("CREATE TABLE moon (name text, mass float);\n")
    (folder / "0003_more.sql").write_text("CREATE TABLE more ();\n")
    for call in (database.migrate, database.pending_migrations):
        with pytest.raises(MigrationError, match="0001_moons was edited after the database applied it"):
            await call()


async def test_a_renamed_file_is_an_error(folder: Path, database: Database) -> None:
    await database.migrate()
    (folder / "0001_moons.sql").rename(folder / "0001_satellites.sql")
    with pytest.raises(MigrationError, match=r"0001_satellites was edited .* applied it as 0001_moons"):
        await database.migrate()


async def test_a_database_of_a_later_version_is_an_error(folder: Path, database: Database) -> None:
    await database.migrate()
    (folder / "0002_rings.sql").unlink()
    with pytest.raises(MigrationError, match="has migration 0002_rings, which this version does not know"):
        await database.migrate()


async def test_a_failing_file_leaves_nothing_of_itself(folder: Path, database: Database, sql: Any) -> None:
    failing = folder / "0002_rings.sql"
    failing.write_text(
        "CREATE TABLE ring (name text);\nINSERT INTO moon VALUES ('Rhea');\nSELECT nonsense;\n"
    )
    with pytest.raises(MigrationError, match='0002_rings failed at line 3: column "nonsense" does not exist'):
        await database.migrate()
    assert await sql.fetchval("SELECT to_regclass('ring')") is None
    assert await sql.fetch("SELECT name FROM moon") == [("Io",)]
    assert await database.pending_migrations() == ["0002_rings"]
    failing.write_text("CREATE TABLE ring (name text);\n")
    assert await database.migrate() == ["0002_rings"]


MIGRATE = """
import asyncio, sys
from pathlib import Path
from pydantic import SecretStr
from atlas import migrations
from atlas.db import Database
from atlas.testing import IsolatedSettings

migrations.FOLDER = Path(sys.argv[2])

async def main():
    limits = {"migrate": False, "lock_timeout_s": 0.05}
    settings = IsolatedSettings(database_url=SecretStr(sys.argv[1]), database=limits)
    async with Database.open(settings) as database:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print(*await database.migrate(), flush=True)

asyncio.run(main())
"""


async def test_processes_at_once_apply_each_once(folder: Path, empty_database_url: str, sql: Any) -> None:
    (folder / "0001_moons.sql").write_text("CREATE TABLE moon (name text); SELECT pg_sleep(0.3);")
    (folder / "0003_more.sql").write_text("INSERT INTO moon VALUES ('Io');")
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE, empty_database_url, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in crowd:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    answers = await asyncio.gather(*(asyncio.to_thread(process.communicate, "\n") for process in crowd))
    assert [process.returncode for process in crowd] == [0, 0, 0, 0]
    applied = [name for answer, _ in answers for name in answer.split()]
    assert sorted(applied) == ["0001_moons", "0002_rings", "0003_more"]
    assert await sql.fetchval("SELECT count(*) FROM moon") == 1
    assert await sql.fetchval("SELECT count(*) FROM migration") == 3


async def test_a_user_who_may_not_create_is_told_what_to_grant(
    folder: Path, settings_factory: SettingsFactory, empty_database_url: str, sql: Any
) -> None:
    name = await sql.fetchval("SELECT current_database()")
    await sql.execute(f"CREATE ROLE humble_{name} LOGIN")
    await sql.execute(f"ALTER DATABASE {name} SET role = humble_{name}")
    try:
        with pytest.raises(MigrationError, match="GRANT CREATE ON SCHEMA public"):
            async with Database.open(settings_factory(database_url=SecretStr(empty_database_url))):
                pass
    finally:
        await sql.execute(f"ALTER DATABASE {name} RESET role")
        await sql.execute(f"DROP ROLE humble_{name}")


async def test_a_search_path_without_a_schema_is_named(
    folder: Path, settings_factory: SettingsFactory, empty_database_url: str
) -> None:
    url = SecretStr(f"{empty_database_url}&schema=nowhere")
    with pytest.raises(MigrationError, match=r"no schema of the search path exists .*: correct search_path"):
        async with Database.open(settings_factory(database_url=url)):
            pass


async def test_everything_is_made_in_the_users_own_schema(
    settings_factory: SettingsFactory, empty_database_url: str, sql: Any
) -> None:
    name = await sql.fetchval("SELECT current_database()")
    await sql.execute("CREATE SCHEMA pleiades")
    await sql.execute(f"ALTER DATABASE {name} SET search_path = pleiades")
    async with Database.open(settings_factory(database_url=SecretStr(empty_database_url))) as database:
        assert await database.pending_migrations() == []
    strays = await sql.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    )
    assert strays == []
    assert await sql.fetchval("SELECT count(*) FROM pleiades.migration") == len(migrations.known())


async def test_a_database_that_knows_no_encoding_is_migrated(
    settings_factory: SettingsFactory, empty_database_url: str, sql: Any
) -> None:
    name = "any_bytes_" + secrets.token_hex(4)
    await sql.execute(
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'"
    )
    url = empty_database_url.replace(urlsplit(empty_database_url).path, f"/{name}")
    try:
        async with Database.open(settings_factory(database_url=SecretStr(url))) as opened:
            assert await opened.pending_migrations() == []
            dao = MaiaDAO(opened, clock=FixedClock(NOON), settings=settings_factory())
            await dao.seed(["İSTANBUL", "istanbul"])
            assert (await dao.queue_counts()).active == 1
    finally:
        await sql.execute(f"DROP DATABASE {name} WITH (FORCE)")
