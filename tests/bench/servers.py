"""A durable PostgreSQL server of its own for a bench, as Pleiades starts it."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psutil
from pydantic import SecretStr

from atlas.config import DatabaseSettings, Settings
from atlas.db import Database
from atlas.embedded import EmbeddedServer
from atlas.testing import IsolatedSettings


@dataclass(frozen=True, slots=True)
class Bed:
    """The server that contestants share."""

    server: EmbeddedServer

    async def new_database(self, like: str | None = None) -> str:
        """The URL of an empty database, or of a copy of the one at another URL, which nobody may be using."""
        name = f"bench_{secrets.token_hex(4)}"
        template = f" TEMPLATE {_name(like)}" if like else ""
        async with self.connection("postgres") as sql:
            await sql.execute(f"CREATE DATABASE {name}{template}")
        return self.server.dsn_of(name)

    async def drop_database(self, url: str) -> None:
        """Remove a database, whoever uses it."""
        async with self.connection("postgres") as sql:
            await sql.execute(f"DROP DATABASE {_name(url)} WITH (FORCE)")

    @asynccontextmanager
    async def connection(self, database: str) -> AsyncIterator[Any]:
        """A plain connection to a database, by name or URL."""
        url = database if "://" in database else self.server.dsn_of(database)
        connection = await asyncpg.connect(url, statement_cache_size=0)
        try:
            yield connection
        finally:
            await connection.close()


def _name(url: str) -> str:
    return urlsplit(url).path.lstrip("/")


def settings_of(url: str, **groups: Any) -> Settings:
    """Settings for a database, and nothing ambient."""
    return IsolatedSettings(database_url=SecretStr(url), node_id="bench", **groups)


@asynccontextmanager
async def bed() -> AsyncIterator[Bed]:
    """A new server with durability on, gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="pleiades-bench-"))
    # The server runs as an unprivileged user when root starts it.
    folder.chmod(0o755)
    try:
        async with EmbeddedServer.open(folder, DatabaseSettings()) as server:
            yield Bed(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def migrated(url: str, **groups: Any) -> AsyncIterator[tuple[Database, Settings]]:
    """A database of Pleiades, open."""
    settings = settings_of(url, **groups)
    async with Database.open(settings) as database:
        yield database, settings


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has spent so far, in user and in system mode."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
