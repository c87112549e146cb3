"""PostgreSQL: the pool, named statements, migrations and locks; every error of asyncpg becomes one of ours here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import asyncpg
import orjson
from asyncpg.exceptions import (
    DataError,
    InsufficientPrivilegeError,
    IntegrityConstraintViolationError,
    InterfaceError,
    InternalClientError,
    PostgresError,
    UndefinedTableError,
)

from atlas.config import DatabaseSettings, Settings
from atlas.embedded import EmbeddedServer
from atlas.errors import (
    DatabaseError,
    DatabaseUnavailable,
    DataRefused,
    LeaseLost,
    MigrationError,
    StatementTimeout,
    TransactionConflict,
)

SQL_FOLDER = Path(__file__).parent / "sql"
OLDEST_SERVER_VERSION = 15

Row: TypeAlias = asyncpg.Record

_NAME_LINE = re.compile(r"^-- name:\s*(\S+)[ \t]*$", re.MULTILINE)
_MIGRATION_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)")
_GRACE_S = 5
_HEARTBEAT_S = 30
_MOST_WAITING_NOTICES = 10_000


class Executor(Protocol):
    """Runs named statements: a Database, each on any connection, or a Transaction, all on one."""

    async def fetch(self, statement: str, *args: Any) -> list[Row]: ...

    async def fetchrow(self, statement: str, *args: Any) -> Row | None: ...

    async def fetchval(self, statement: str, *args: Any) -> Any: ...

    async def execute(self, statement: str, *args: Any) -> int:
        """Run it for its effect; returns how many rows it touched."""
        ...

    async def copy(self, table: str, columns: Sequence[str], records: Iterable[Sequence[Any]]) -> int:
        """Load rows with COPY; returns how many."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction, or a savepoint within one: committed at the end, rolled back by an error."""
        ...


class _Runner:
    """The statements of an Executor, over connections that `_connection` lends."""

    def _connection(self) -> AbstractAsyncContextManager[Any]:
        raise NotImplementedError

    async def fetch(self, statement: str, *args: Any) -> list[Row]:
        sql = sql_of(statement)
        async with self._connection() as connection:
            with _wrapped(statement, connection):
                rows: list[Row] = await connection.fetch(sql, *args)
                return rows

    async def fetchrow(self, statement: str, *args: Any) -> Row | None:
        sql = sql_of(statement)
        async with self._connection() as connection:
            with _wrapped(statement, connection):
                return await connection.fetchrow(sql, *args)

    async def fetchval(self, statement: str, *args: Any) -> Any:
        sql = sql_of(statement)
        async with self._connection() as connection:
            with _wrapped(statement, connection):
                return await connection.fetchval(sql, *args)

    async def execute(self, statement: str, *args: Any) -> int:
        sql = sql_of(statement)
        async with self._connection() as connection:
            with _wrapped(statement, connection):
                return _rows_touched(await connection.execute(sql, *args))

    async def copy(self, table: str, columns: Sequence[str], records: Iterable[Sequence[Any]]) -> int:
        async with self._connection() as connection:
            with _wrapped(f"COPY {table}", connection):
                return _rows_touched(
                    await connection.copy_records_to_table(table, columns=list(columns), records=records)
                )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with self._connection() as connection:
            transaction = connection.transaction()
            with _wrapped("BEGIN", connection):
                await transaction.start()
            try:
                yield Transaction(connection)
            except BaseException:
                # A broken connection has rolled back already, and the first error is the one to tell.
                with suppress(PostgresError, InterfaceError, OSError):
                    await transaction.rollback()
                raise
            with _wrapped("COMMIT", connection):
                await transaction.commit()


class Transaction(_Runner):
    """Statements in one transaction, on one connection."""

    def __init__(self, connection: Any) -> None:
        self._lent = connection

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        yield self._lent


class Database(_Runner):
    """A pool of connections to one database whose schema is up to date."""

    def __init__(self, settings: DatabaseSettings, url: str | None, server: EmbeddedServer | None) -> None:
        self._settings, self._url, self._server = settings, url, server
        self._pool: Any = None

    def __repr__(self) -> str:
        return f"<Database {'embedded' if self._server else 'at DATABASE_URL'}>"

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Database]:
        """Connect to DATABASE_URL, or to the embedded server of the data folder, and migrate if asked to."""
        async with AsyncExitStack() as stack:
            server = url = None
            if settings.database_url is None:
                server = await stack.enter_async_context(
                    EmbeddedServer.open(settings.data_folder, settings.database)
                )
            else:
                url = settings.database_url.get_secret_value()
            database = cls(settings.database, url, server)
            stack.push_async_callback(database._close)
            await database._open_pool()
            if settings.database.migrate:
                await database.migrate()
            yield database

    async def ping(self) -> None:
        """Touch the server; DatabaseUnavailable if it does not answer."""
        async with self._connection() as connection:
            with _wrapped("ping", connection):
                await connection.execute("SELECT 1")

    async def migrate(self) -> list[str]:
        """Apply what is pending, each file in its own transaction; returns the names of those applied here."""
        if not await self.pending_migrations():
            return []
        async with self._dedicated() as connection:
            # Others may be migrating: wait for them as long as they take.
            await connection.execute("SET lock_timeout = 0; SET statement_timeout = 0")
            await connection.fetchval("SELECT pg_advisory_lock($1)", _lock_key("migration"))
            await _create_migration_table(connection)
            pending = _pending(await _applied(connection))
            for migration in pending:
                await _apply(connection, migration)
            return [migration.name for migration in pending]

    async def pending_migrations(self) -> list[str]:
        """Names of the migrations that the database lacks; MigrationError if it is not one of ours."""
        async with self._connection() as connection:
            with _wrapped("migration", connection):
                return [migration.name for migration in _pending(await _applied(connection))]

    @asynccontextmanager
    async def only_one(self, name: str) -> AsyncIterator[bool]:
        """Yield whether this is the only holder of `name` among all processes.

        The lock stands and falls with a connection of its own: if that breaks, the body is cancelled and
        LeaseLost raised, as another may hold the lock by then.
        """
        async with self._dedicated() as connection:
            with _wrapped(f"lock {name!r}", connection):
                held = await connection.fetchval("SELECT pg_try_advisory_lock($1)", _lock_key(name))
            if not held:
                yield False
                return
            task = asyncio.current_task()
            assert task is not None
            lost = False

            def cancel(_: Any) -> None:
                nonlocal lost
                lost = True
                task.cancel()

            connection.add_termination_listener(cancel)
            try:
                yield True
            except asyncio.CancelledError:
                if lost and task.uncancel() == 0:
                    raise LeaseLost(f"the lock {name!r} was lost with its connection") from None
                raise
            finally:
                connection.remove_termination_listener(cancel)

    async def listen(self, channel: str) -> AsyncGenerator[str, None]:
        """Yield the payloads of NOTIFY, and an empty one whenever listening (re)starts.

        The empty one says that earlier notices may have been missed: read what they announce. Close the
        iterator (contextlib.aclosing) when done with it.
        """
        while True:
            notices: asyncio.Queue[str | None] = asyncio.Queue()
            async with self._dedicated() as connection:
                with _wrapped(f"LISTEN {channel}", connection):
                    await connection.add_listener(channel, lambda *notice: _enqueue(notices, notice[3]))
                connection.add_termination_listener(lambda _: notices.put_nowait(None))
                yield ""
                while (notice := await _next_notice(notices, connection)) is not None:
                    yield notice

    # Connections

    async def _open_pool(self) -> None:
        self._pool = asyncpg.create_pool(
            min_size=0,
            max_size=self._settings.pool_size,
            max_inactive_connection_lifetime=300,
            connect=self._connect,
            reset=_keep_session,
        )
        await self._pool

    async def _close(self) -> None:
        if self._pool is not None:
            try:
                async with asyncio.timeout(_GRACE_S):
                    await self._pool.close()
            except (TimeoutError, PostgresError, InterfaceError, OSError):
                self._pool.terminate()

    async def _connect(self, *_: Any, **options: Any) -> Any:
        """One new connection: a single try, but the embedded server is started again if it died."""
        with _wrapped("connecting", None):
            if self._server is not None:
                try:
                    return await self._connect_to(self._server.dsn, options)
                except OSError:
                    await self._server.ensure_running()
            return await self._connect_to(self._server.dsn if self._server else self._url, options)

    async def _connect_to(self, url: str | None, options: Mapping[str, Any]) -> Any:
        settings = self._settings
        # The pool passes its own keywords, which asyncpg.connect shares.
        keywords: dict[str, Any] = {
            **options,
            "timeout": settings.connect_timeout_s,
            "command_timeout": settings.statement_timeout_s + _GRACE_S,
            "max_cached_statement_lifetime": 0,
            "server_settings": {
                "application_name": "pleiades",
                "timezone": "UTC",
                "statement_timeout": f"{settings.statement_timeout_s * 1000:.0f}",
                "lock_timeout": f"{settings.lock_timeout_s * 1000:.0f}",
                "idle_in_transaction_session_timeout": f"{settings.idle_transaction_timeout_s * 1000:.0f}",
            },
        }
        connection = await asyncpg.connect(url, **keywords)
        try:
            _check_version(connection.get_server_version().major)
            await connection.set_type_codec(
                "jsonb", schema="pg_catalog", format="binary", encoder=_jsonb, decoder=_from_jsonb
            )
        except BaseException:
            connection.terminate()
            raise
        return connection

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        connection = await self._insist(self._acquire)
        try:
            yield connection
        finally:
            with suppress(PostgresError, InterfaceError, OSError):
                await self._pool.release(connection)

    async def _acquire(self) -> Any:
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                return await self._pool.acquire()
        except TimeoutError as error:
            raise DatabaseUnavailable(
                f"no connection came free in {self._settings.connect_timeout_s:g} s: all "
                f"{self._settings.pool_size} are in use (PLEIADES_DATABASE__POOL_SIZE)"
            ) from error

    @asynccontextmanager
    async def _dedicated(self) -> AsyncIterator[Any]:
        """A connection outside the pool, closed at the end."""
        connection = await self._insist(self._connect)
        try:
            yield connection
        finally:
            try:
                await connection.close(timeout=_GRACE_S)
            except (PostgresError, InterfaceError, OSError):
                connection.terminate()

    async def _insist(self, get: Callable[[], Any]) -> Any:
        """Get a connection, trying again for connect_timeout_s while the server is away or starting."""
        try:
            return await get()
        except DatabaseUnavailable as error:
            if not error.passing:
                raise
        import stamina

        async for attempt in stamina.retry_context(
            on=lambda error: isinstance(error, DatabaseUnavailable) and error.passing,
            attempts=None,
            timeout=self._settings.connect_timeout_s,
            wait_initial=0.05,
            wait_max=1,
            wait_jitter=0.1,
        ):
            with attempt:
                return await get()
        raise AssertionError("stamina returns or raises")


# Named statements


@lru_cache(maxsize=None)
def statements(aggregate: str, folder: Path = SQL_FOLDER) -> Mapping[str, str]:
    """The statements of `<aggregate>.sql` by name; DatabaseError if the file is not well-formed."""
    path = folder / f"{aggregate}.sql"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DatabaseError(f"there is no statement file {path.name} in {folder}") from None
    lead, *parts = _NAME_LINE.split(text)
    if any(line.strip() and not line.startswith("--") for line in lead.splitlines()):
        raise DatabaseError(f"{path.name}: SQL before the first `-- name: …` line")
    found: dict[str, str] = {}
    for name, sql in zip(parts[::2], parts[1::2], strict=True):
        if name in found:
            raise DatabaseError(f"{path.name}: two statements are named {name!r}")
        found[name] = sql.strip().removesuffix(";")
        if not re.sub(r"^\s*--.*$", "", found[name], flags=re.MULTILINE).strip():
            raise DatabaseError(f"{path.name}: statement {name!r} is empty")
    return found


def aggregates(folder: Path = SQL_FOLDER) -> list[str]:
    """Every aggregate that has a statement file."""
    return sorted(path.stem for path in folder.glob("*.sql"))


@lru_cache(maxsize=None)
def sql_of(statement: str) -> str:
    """The SQL of `<aggregate>.<name>`."""
    aggregate, _, name = statement.partition(".")
    found = statements(aggregate)
    if name not in found:
        raise DatabaseError(f"{aggregate}.sql has no statement {name!r}; it has {', '.join(sorted(found))}")
    return found[name]


def _rows_touched(status: str) -> int:
    """The count at the end of a command tag such as `INSERT 0 3`; none for `CREATE TABLE`."""
    count = status.rpartition(" ")[2]
    return int(count) if count.isdigit() else 0


# Migrations


@dataclass(frozen=True, slots=True)
class _Migration:
    number: int
    name: str
    sql: str
    digest: str


def _migrations(folder: Path) -> list[_Migration]:
    found: dict[int, _Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        match = _MIGRATION_NAME.fullmatch(path.stem)
        if match is None:
            raise MigrationError(f"{path.name} is not named like 0001_what_it_does.sql")
        number, sql = int(match[1]), path.read_text(encoding="utf-8")
        if number in found:
            raise MigrationError(f"two migrations have the number {match[1]}: {found[number].name}, {path.stem}")
        found[number] = _Migration(number, path.stem, sql, sha256(sql.encode()).hexdigest())
    return list(found.values())


def _pending(applied: Mapping[int, tuple[str, str]], folder: Path | None = None) -> list[_Migration]:
    known = {migration.number: migration for migration in _migrations(folder or SQL_FOLDER / "migrations")}
    for number, (name, digest) in applied.items():
        migration = known.get(number)
        if migration is None:
            raise MigrationError(
                f"the database has migration {name}, which this version does not know: install the version "
                "that applied it, or a later one"
            )
        if migration.digest != digest:
            raise MigrationError(
                f"migration {migration.name} was edited after the database applied it"
                f"{'' if migration.name == name else f' as {name}'}: restore the file, and write a new one"
            )
    return [migration for number, migration in known.items() if number not in applied]


async def _applied(connection: Any) -> dict[int, tuple[str, str]]:
    try:
        rows = await connection.fetch("SELECT number, name, sha256 FROM migration ORDER BY number")
    except UndefinedTableError:
        return {}
    return {row["number"]: (row["name"], row["sha256"]) for row in rows}


async def _create_migration_table(connection: Any) -> None:
    try:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS migration (number int PRIMARY KEY, name text NOT NULL UNIQUE, "
            "sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
    except (InsufficientPrivilegeError, asyncpg.InvalidSchemaNameError) as error:
        raise MigrationError(
            "the database user may not create tables in its schema: GRANT CREATE ON SCHEMA public TO it, or "
            "give it a schema of its own (CREATE SCHEMA AUTHORIZATION)"
        ) from error


async def _apply(connection: Any, migration: _Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO migration (number, name, sha256) VALUES ($1, $2, $3)",
                migration.number,
                migration.name,
                migration.digest,
            )
    except PostgresError as error:
        line = _line_of(migration.sql, error)
        raise MigrationError(f"migration {migration.name} failed{line}: {error.args[0]}") from error


def _line_of(sql: str, error: PostgresError) -> str:
    position = getattr(error, "position", None)
    return f" at line {sql.count(chr(10), 0, int(position)) + 1}" if position else ""


# Errors


@contextmanager
def _wrapped(statement: str, connection: Any) -> Iterator[None]:
    try:
        yield
    except (PostgresError, InterfaceError, InternalClientError, OSError) as error:
        closed = connection is not None and connection.is_closed()
        raise _ours(statement, error, closed) from error


def _ours(statement: str, error: Exception, closed: bool) -> DatabaseError:
    """The error of our own that stands for one of asyncpg; it never quotes a value."""
    state = getattr(error, "sqlstate", None) or ""
    if isinstance(error, TimeoutError):
        return DatabaseUnavailable(f"{statement}: the server did not answer in time")
    if isinstance(error, OSError):
        return DatabaseUnavailable(f"{statement}: {_reason(error)}: is the server running?")
    if state in {"57014", "55P03"}:
        which = "PLEIADES_DATABASE__STATEMENT_TIMEOUT_S" if state == "57014" else "PLEIADES_DATABASE__LOCK_TIMEOUT_S"
        return StatementTimeout(f"{statement}: {error.args[0]} ({which})")
    if state.startswith("40"):
        return TransactionConflict(f"{statement}: {error.args[0]}")
    if state in {"28000", "28P01", "3D000"}:
        return DatabaseUnavailable(f"DATABASE_URL is refused: {error.args[0]}", passing=False)
    if state.startswith(("08", "57P")) or state in {"53300", "25P03"} or closed:
        return DatabaseUnavailable(f"{statement}: {_reason(error)}")
    if isinstance(error, (IntegrityConstraintViolationError, DataError)):
        return DataRefused(f"{statement}: {_refusal(error)}")
    if state in {"42P01", "42703"}:
        return DatabaseError(f"{statement}: {error.args[0]}: is the schema up to date? (maia migrate)")
    return DatabaseError(f"{statement}: {_reason(error)}")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error.args[0]) if error.args else type(error).__name__


def _refusal(error: Exception) -> str:
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__.removesuffix("Error")).lower()
    constraint = getattr(error, "constraint_name", None)
    column = getattr(error, "column_name", None)
    argument = re.search(r"argument \$\d+", str(error.args[0]) if error.args else "")
    place = constraint or column or (argument and argument[0])
    return f"{kind} ({place})" if place else kind


def _check_version(major: int) -> None:
    if major < OLDEST_SERVER_VERSION:
        raise DatabaseUnavailable(
            f"DATABASE_URL is PostgreSQL {major}, but {OLDEST_SERVER_VERSION} or later is needed: upgrade it, "
            "or unset DATABASE_URL to use the embedded server",
            passing=False,
        )


# Sessions


async def _keep_session(_: Any) -> None:
    """Spare the round trip that would reset a session: no statement here changes one."""


def _jsonb(value: Any) -> bytes:
    return b"\x01" + orjson.dumps(value)


def _from_jsonb(data: bytes) -> Any:
    return orjson.loads(memoryview(data)[1:])


def _lock_key(name: str) -> int:
    return int.from_bytes(blake2b(f"pleiades {name}".encode(), digest_size=8).digest(), signed=True)


def _enqueue(notices: asyncio.Queue[str | None], payload: str) -> None:
    if notices.qsize() >= _MOST_WAITING_NOTICES:
        while not notices.empty():
            notices.get_nowait()
        payload = ""
    notices.put_nowait(payload)


async def _next_notice(notices: asyncio.Queue[str | None], connection: Any) -> str | None:
    """The next notice; None when the connection is gone, which a heartbeat finds out if the network is silent."""
    while True:
        try:
            async with asyncio.timeout(_HEARTBEAT_S):
                return await notices.get()
        except TimeoutError:
            try:
                await connection.execute("SELECT 1")
            except (PostgresError, InterfaceError, OSError):
                return None
