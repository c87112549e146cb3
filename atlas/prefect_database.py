"""Create the database that Prefect's server uses, on the same PostgreSQL server as Pleiades' own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import asyncpg
from asyncpg.exceptions import (
    DuplicateDatabaseError,
    DuplicateObjectError,
    InsufficientPrivilegeError,
    InvalidCatalogNameError,
    PostgresError,
    UniqueViolationError,
)

from atlas import dsn
from atlas.connections import DRIVER_ERRORS, unavailable
from atlas.db import Database
from atlas.errors import ConfigError

_CONNECT_TIMEOUT_S = 30
_EXISTS_ALREADY = (DuplicateDatabaseError, DuplicateObjectError, UniqueViolationError)


async def ensure(db: Database, name: str, extensions: Sequence[str] = ()) -> str:
    """Create the database and its extensions if they are missing; returns its URL.

    If the user in DATABASE_URL lacks the rights, ConfigError says what an administrator has to run.
    """
    await db.ping()
    if db.pooled:
        raise ConfigError(
            "DATABASE_URL goes through a connection pooler, which keeps no session, and Prefect's server "
            "needs one: use the database's direct address (often the same host with port 5432), or set "
            "PREFECT_API_DATABASE_CONNECTION_URL to another database"
        )
    url = db.url_of(name)
    try:
        connection = await _connect(url)
    except InvalidCatalogNameError:
        await _create(db, name, extensions)
        connection = await _connect(url)
    try:
        for extension in extensions:
            await _add_extension(connection, name, extension)
    finally:
        await connection.close()
    return url


async def _connect(url: str) -> asyncpg.Connection[asyncpg.Record]:
    address = dsn.parse(url)
    try:
        return await asyncpg.connect(
            address.url,
            ssl=address.ssl(),
            timeout=_CONNECT_TIMEOUT_S,
            server_settings=dict(address.settings),
        )
    except InvalidCatalogNameError:
        raise
    except DRIVER_ERRORS as error:
        raise unavailable(error, address.place, _CONNECT_TIMEOUT_S) from error


async def _create(db: Database, name: str, extensions: Sequence[str]) -> None:
    connection = await _connect(db.url_of())
    try:
        # Another process may have created it meanwhile.
        with suppress(*_EXISTS_ALREADY):
            await connection.execute(f'CREATE DATABASE "{name}"')
    except InsufficientPrivilegeError:
        raise ConfigError(
            f"the user in DATABASE_URL may not create the database {name}: ask an administrator to run "
            f"{_remedy(name, extensions)}"
        ) from None
    finally:
        await connection.close()


async def _add_extension(connection: asyncpg.Connection[asyncpg.Record], name: str, extension: str) -> None:
    try:
        with suppress(*_EXISTS_ALREADY):
            await connection.execute(f'CREATE EXTENSION IF NOT EXISTS "{extension}"')
    except PostgresError as error:
        raise ConfigError(
            f"the database {name} needs the extension {extension}: {error}: ask an administrator to run "
            f'CREATE EXTENSION "{extension}" in it'
        ) from error


def _remedy(name: str, extensions: Sequence[str]) -> str:
    steps = [f"CREATE DATABASE {name} OWNER that_user"]
    steps += [f"\\connect {name}", *(f"CREATE EXTENSION {extension}" for extension in extensions)]
    return "; ".join(steps)
