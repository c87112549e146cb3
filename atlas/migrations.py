"""Database migrations: numbered, forward-only SQL files; each runs once, in its own transaction.

A file that has been released is never edited: the database keeps each applied file's digest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from asyncpg.exceptions import (
    InsufficientPrivilegeError,
    InvalidSchemaNameError,
    PostgresError,
    UndefinedTableError,
)

from atlas.errors import MigrationError

if TYPE_CHECKING:
    from atlas.connections import Connection

FOLDER = Path(__file__).parent / "sql" / "migrations"

_WITHOUT_LIMITS = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL timezone = 'UTC'"
_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+")


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration file."""

    number: int
    name: str
    sql: str
    digest: str


def known(folder: Path | None = None) -> list[Migration]:
    """This version's migrations, in order; MigrationError if a file's name or number is wrong."""
    found: dict[int, Migration] = {}
    for path in sorted((folder or FOLDER).glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.stem)
        if match is None:
            raise MigrationError(f"{path.name} is not named like 0001_what_it_does.sql")
        number, sql = int(match[1]), path.read_text(encoding="utf-8")
        if number in found:
            raise MigrationError(
                f"two migrations have the number {match[1]}: {found[number].name} and {path.stem}"
            )
        found[number] = Migration(number, path.stem, sql, sha256(sql.encode()).hexdigest())
    return list(found.values())


async def pending(connection: Connection) -> list[Migration]:
    """Migrations not yet applied; MigrationError if an applied one is missing or differs here."""
    return _pending(known(), await _applied(connection))


async def apply_pending(connection: Connection, *, lock: int = 0, up_to: int | None = None) -> list[str]:
    """Apply pending migrations, each in its own transaction; `lock` is the advisory lock's key.

    With `up_to`, only those with numbers up to that.
    """
    applied: list[str] = []
    while name := await _apply_next(connection, lock, up_to):
        applied.append(name)
    return applied


async def _apply_next(connection: Connection, lock: int, up_to: int | None) -> str | None:
    """Apply the first pending migration and return its name; None if another process has applied them all."""
    async with connection.transaction():
        await connection.execute(_WITHOUT_LIMITS)
        # Locked for the transaction, because behind a pooler there is no session to lock for.
        await connection.execute("SELECT pg_advisory_xact_lock($1)", lock)
        await _create_table(connection)
        migrations = await pending(connection)
        if not migrations or (up_to is not None and migrations[0].number > up_to):
            return None
        await _apply(connection, migrations[0])
    return migrations[0].name


def _pending(migrations: list[Migration], applied: Mapping[int, tuple[str, str]]) -> list[Migration]:
    by_number = {migration.number: migration for migration in migrations}
    for number, (name, digest) in applied.items():
        migration = by_number.get(number)
        if migration is None:
            raise MigrationError(
                f"the database has migration {name}, which this version does not know: install the version "
                "that applied it, or a later one"
            )
        if (migration.name, migration.digest) != (name, digest):
            raise MigrationError(
                f"migration {migration.name} was edited after the database applied it as {name}: restore the "
                "file, and put the change into a new migration"
            )
    return [migration for migration in migrations if migration.number not in applied]


async def _applied(connection: Connection) -> dict[int, tuple[str, str]]:
    try:
        rows = await connection.fetch("SELECT number, name, sha256 FROM migration ORDER BY number")
    except UndefinedTableError:
        return {}
    return {row["number"]: (row["name"], row["sha256"]) for row in rows}


async def _create_table(connection: Connection) -> None:
    try:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS migration (number int PRIMARY KEY, name text NOT NULL UNIQUE, "
            "sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
    except InvalidSchemaNameError as error:
        raise MigrationError(
            "no schema of the search path exists for the user in DATABASE_URL: correct search_path (or "
            "schema, currentSchema) there, or ask the owner to CREATE SCHEMA AUTHORIZATION that user"
        ) from error
    except InsufficientPrivilegeError as error:
        raise MigrationError(
            "the user in DATABASE_URL may not create tables: ask the database's owner to GRANT CREATE ON "
            "SCHEMA public TO that user, or to CREATE SCHEMA AUTHORIZATION that user"
        ) from error


async def _apply(connection: Connection, migration: Migration) -> None:
    try:
        await connection.execute(migration.sql)
        await connection.execute(
            "INSERT INTO migration (number, name, sha256) VALUES ($1, $2, $3)",
            migration.number,
            migration.name,
            migration.digest,
        )
    except PostgresError as error:
        if connection.is_closed():
            raise
        position = getattr(error, "position", None)
        line = f" at line {migration.sql.count(chr(10), 0, int(position)) + 1}" if position else ""
        raise MigrationError(f"migration {migration.name} failed{line}: {error.args[0]}") from error
