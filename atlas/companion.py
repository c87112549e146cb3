"""A database beside that of Pleiades, on the same server, for a program that keeps its own there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg
from asyncpg.exceptions import (
    DuplicateDatabaseError,
    DuplicateObjectError,
    InsufficientPrivilegeError,
    InterfaceError,
    InvalidCatalogNameError,
    PostgresError,
    UniqueViolationError,
)

from atlas.db import Database
from atlas.errors import ConfigError, DatabaseUnavailable

_CONNECT_TIMEOUT_S = 30
_TAKEN = (DuplicateDatabaseError, DuplicateObjectError, UniqueViolationError)


async def ensure(db: Database, name: str, extensions: Sequence[str] = ()) -> str:
    """Make the database and its extensions where they are missing; returns its URL.

    ConfigError says what an administrator has to run if the user of DATABASE_URL may not.
    """
    await db.ping()
    url = db.url_of(name)
    try:
        connection = await _connect(db, url)
    except InvalidCatalogNameError:
        await _create(db, name, extensions)
        connection = await _connect(db, url)
    try:
        for extension in extensions:
            await _extend(connection, name, extension)
    finally:
        await connection.close()
    return url


async def _connect(db: Database, url: str) -> asyncpg.Connection[asyncpg.Record]:
    try:
        return await asyncpg.connect(url, timeout=_CONNECT_TIMEOUT_S)
    except InvalidCatalogNameError:
        raise
    except (PostgresError, InterfaceError, OSError) as error:
        raise DatabaseUnavailable(f"{db!r} cannot be reached: {error}") from error


async def _create(db: Database, name: str, extensions: Sequence[str]) -> None:
    connection = await _connect(db, db.url_of())
    try:
        # Another process may have made it meanwhile.
        with suppress(*_TAKEN):
            await connection.execute(f'CREATE DATABASE "{name}"')
    except InsufficientPrivilegeError:
        raise ConfigError(
            f"the user of DATABASE_URL may not create the database {name}: let an administrator run "
            f"{_remedy(name, extensions)}"
        ) from None
    finally:
        await connection.close()


async def _extend(connection: asyncpg.Connection[asyncpg.Record], name: str, extension: str) -> None:
    try:
        with suppress(*_TAKEN):
            await connection.execute(f'CREATE EXTENSION IF NOT EXISTS "{extension}"')
    except PostgresError as error:
        raise ConfigError(
            f"the database {name} needs the extension {extension}: {error}: let an administrator run "
            f'CREATE EXTENSION "{extension}" there'
        ) from error


def _remedy(name: str, extensions: Sequence[str]) -> str:
    steps = [f"CREATE DATABASE {name} OWNER that_user"]
    steps += [f"\\connect {name}", *(f"CREATE EXTENSION {extension}" for extension in extensions)]
    return "; ".join(steps)


def sqlalchemy_url(url: str) -> str:
    """The same database in SQLAlchemy's words, by asyncpg: what libpq calls sslmode is ssl there."""
    parts = urlsplit(url)
    options = [("ssl" if key == "sslmode" else key, value) for key, value in parse_qsl(parts.query)]
    query = urlencode([(key, value) for key, value in options if key != "user"])
    user = dict(options).get("user")
    netloc = f"{user}@" if user and not parts.netloc else parts.netloc
    # geturl() would drop the slashes of an empty place.
    return f"postgresql+asyncpg://{netloc}{parts.path}{'?' if query else ''}{query}"
