"""One consistent view of a database: its facts, and the rows and checksums of its tables."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from atlas import dsn
from atlas.backups.manifest import Table
from atlas.connections import DRIVER_ERRORS, Connector
from atlas.db import Row, Transaction, sql_of
from atlas.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from atlas.config import DatabaseSettings
    from atlas.connections import Connection

APPLICATION_NAME: Final = "pleiades_backup"
"""What the sessions of a backup call themselves, pg_dump's too."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a backup tells of its database."""

    server_version: str
    major: int
    schema: str
    database_bytes: int
    has_timescaledb: bool


class Session:
    """A connection without time limits, in one transaction."""

    def __init__(self, connection: Connection, *, pooled: bool) -> None:
        self.connection, self.pooled = connection, pooled
        self.statements = Transaction(connection)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, settings: DatabaseSettings, *, readonly: bool, lock_timeout_s: float = 0
    ) -> AsyncIterator[Session]:
        """Connect and begin: a snapshot that only reads, or a transaction that is committed at the end."""
        connector = Connector(settings, dsn.parse(url), None)
        connection = await connector.with_retries(lambda: connector.connect(unlimited=True))
        try:
            isolation: Any = {"isolation": "repeatable_read", "readonly": True} if readonly else {}
            block = connection.transaction(**isolation)
            async with _wrapped("BEGIN"):
                await block.start()
            session = cls(connection, pooled=connector.pooled)
            if connector.pooled:
                await session.run(connector.local_settings(unlimited=True))
            limit = f"{lock_timeout_s * 1000:.0f}"
            await session.statements.execute("backups.prepare", APPLICATION_NAME, limit)
            yield session
            if not readonly:
                async with _wrapped("COMMIT"):
                    await block.commit()
        finally:
            # Ends the transaction too, whose snapshot must not stay.
            connection.terminate()

    async def run(self, sql: str) -> Any:
        """Run a statement that another one has made, and return its first row."""
        async with _wrapped("backup"):
            return await self.connection.fetchrow(sql)

    async def call(self, what: str, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Use the connection itself."""
        async with _wrapped(what):
            return await work(self.connection)

    async def made(self, statement: str, *args: Any) -> str:
        """The statement that a named one makes."""
        sql: str = await self.statements.fetchval(statement, *args)
        return sql

    async def create_schema(self, schema: str) -> bool:
        """Create the schema; False if there is one."""
        creation = await self.statements.fetchval("backups.create_schema", schema)
        if creation is not None:
            await self.run(creation)
        return creation is not None

    async def create_trigrams(self, schema: str) -> bool:
        """Add what the indexes of searches need to the schema; False if it is there, or can't be had."""
        creation = await self.statements.fetchval("backups.create_trigrams", schema)
        if creation is not None:
            await self.run(creation)
        return creation is not None

    async def use_schema(self, schema: str) -> None:
        """Let this transaction, and new sessions without a search path of their own, find the schema."""
        if schema != (await self.facts()).schema:
            await self.run(await self.made("backups.use_schema", schema))
            await self.statements.execute("backups.enter_schema", schema)

    async def facts(self) -> Facts:
        row = await self.statements.fetchrow("backups.facts")
        assert row is not None
        return Facts(**row)

    async def last_migration(self) -> int:
        number: int = await self.statements.fetchval("backups.last_migration")
        return number

    async def sources(self, schema: str) -> list[Row]:
        """Our tables with the statements that check and copy them, the smallest first."""
        return await self.statements.fetch("backups.tables", schema)

    async def tables(self, schema: str, on_table: Callable[[int, int], None]) -> tuple[Table, ...]:
        """Rows and checksum of every table, sorted by name."""
        sources = await self.sources(schema)
        found: list[Table] = []
        for source in sources:
            row = await self.run(source["checksum"])
            found.append(Table(name=source["name"], rows=row["rows"], checksum=row["checksum"]))
            on_table(len(found), len(sources))
        return tuple(sorted(found, key=lambda table: table.name))


@asynccontextmanager
async def _wrapped(what: str) -> AsyncIterator[None]:
    """Say what the database refused as an error of ours, without quoting a value."""
    try:
        yield
    except DRIVER_ERRORS as error:
        text = str(error.args[0]) if error.args else type(error).__name__
        raise DatabaseError(f"{what}: {text}") from error


async def execute(url: str, settings: DatabaseSettings, statement: str, *args: Any) -> None:
    """Run one named statement on a connection of its own."""
    connector = Connector(settings, dsn.parse(url), None)
    connection = await connector.with_retries(lambda: connector.connect(unlimited=True))
    try:
        async with _wrapped(statement):
            await connection.execute(sql_of(statement), *args)
    finally:
        connection.terminate()
