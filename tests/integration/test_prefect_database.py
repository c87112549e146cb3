"""A database beside ours, for a program that keeps its own there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from atlas import dsn, prefect_database
from atlas.db import Database
from atlas.errors import ConfigError, DatabaseUnavailable
from atlas.testing import SettingsFactory, ThrowAwayServer

pytestmark = pytest.mark.integration


@pytest.fixture
def name(postgres: ThrowAwayServer, database_url: str) -> Iterator[str]:
    """A name of this test alone."""
    chosen = f"beside_{urlsplit(database_url).path.strip('/')}"
    yield chosen
    postgres.drop_database(chosen)


async def test_it_is_made_with_its_extensions_and_found_again(database: Database, name: str) -> None:
    url = await prefect_database.ensure(database, name, ["pg_trgm"])
    assert await prefect_database.ensure(database, name, ["pg_trgm"]) == url
    connection = await asyncpg.connect(url)
    try:
        assert await connection.fetchval("SELECT current_database()") == name
        assert await connection.fetchval("SELECT similarity('cats', 'cat')") > 0
    finally:
        await connection.close()


async def test_many_at_once_make_one(database: Database, name: str) -> None:
    urls = await asyncio.gather(*(prefect_database.ensure(database, name, ["pg_trgm"]) for _ in range(5)))
    assert len(set(urls)) == 1


async def test_sqlalchemy_reaches_it_too(database: Database, name: str) -> None:
    engine = create_async_engine(dsn.sqlalchemy_url(await prefect_database.ensure(database, name)))
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT current_database()"))).scalar() == name
    await engine.dispose()


async def test_a_user_who_may_not_make_it_learns_what_to_have_run(
    settings_factory: SettingsFactory, database_url: str, name: str, sql: Any
) -> None:
    role = f"modest_{name}"[:60]
    await sql.execute(f'CREATE ROLE "{role}"; GRANT CREATE ON SCHEMA public TO "{role}"')
    # The server admits its own role only, by the socket's peer: become the other one after that.
    settings = settings_factory(
        database_url=SecretStr(f"{database_url}&options=-c%20role%3D{role}"), database={"migrate": False}
    )
    try:
        async with Database.open(settings) as modest:
            with pytest.raises(ConfigError, match=f"CREATE DATABASE {name} OWNER .* CREATE EXTENSION"):
                await prefect_database.ensure(modest, name, ["pg_trgm"])
    finally:
        await sql.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


async def test_an_extension_that_there_is_not_is_named(database: Database, name: str) -> None:
    with pytest.raises(ConfigError, match="needs the extension no_such_thing"):
        await prefect_database.ensure(database, name, ["no_such_thing"])


async def test_a_server_that_is_away_is_unavailable(
    settings_factory: SettingsFactory, own_postgres: ThrowAwayServer
) -> None:
    dsn = own_postgres.dsn_of(own_postgres.create_database())
    settings = settings_factory(
        database_url=SecretStr(dsn), database={"migrate": False, "connect_timeout_s": 0.2}
    )
    async with Database.open(settings) as database:
        own_postgres.stop()
        with pytest.raises(DatabaseUnavailable):
            await prefect_database.ensure(database, "prefect")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "postgresql:///prefect?host=%2Frun%2Fpg&user=maia",
            "postgresql+asyncpg://maia@/prefect?host=%2Frun%2Fpg",
        ),
        ("postgresql://a:p%40ss@h:5433/prefect", "postgresql+asyncpg://a:p%40ss@h:5433/prefect"),
        ("postgres://a@h/prefect?sslmode=require", "postgresql+asyncpg://a@h/prefect?ssl=require"),
    ],
)
def test_sqlalchemy_has_its_own_words(url: str, expected: str) -> None:
    assert dsn.sqlalchemy_url(url) == expected
