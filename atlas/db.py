"""Access to PostgreSQL: connection pool, named statements, migrations, advisory locks, notifications.

Every asyncpg error is wrapped here in one from `atlas.errors`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

import asyncpg
from asyncpg.exceptions import (
    DataError,
    IntegrityConstraintViolationError,
    InterfaceError,
    InternalClientError,
)

from atlas import dsn, migrations
from atlas.config import DatabaseSettings, Settings
from atlas.conflicts import retry_conflicts
from atlas.connections import DRIVER_ERRORS, GRACE_S, TRANSIENT_STATES, Connector
from atlas.errors import (
    CannotStore,
    DatabaseError,
    DatabaseUnavailable,
    DataRefused,
    StatementTimeout,
    TransactionConflict,
)
from atlas.notices import Switchboard

if TYPE_CHECKING:
    from asyncpg.pool import Pool

    from atlas.connections import Connection
    from atlas.embedded import EmbeddedServer

logger = logging.getLogger(__name__)

SQL_FOLDER = Path(__file__).parent / "sql"

Row: TypeAlias = asyncpg.Record

_NAME_LINE = re.compile(r"^-- name:\s*(\S+)[ \t]*$", re.MULTILINE)
_POOLER_POLL_S = 2
_LISTENS_AGAIN_AFTER_S = 1
_T = TypeVar("_T")


class Executor(Protocol):
    """Runs named statements.

    A Database may run each statement on a different connection; a Transaction runs all of them on one.
    """

    async def fetch(self, statement: str, *args: Any) -> list[Row]: ...

    async def fetchrow(self, statement: str, *args: Any) -> Row | None: ...

    async def fetchval(self, statement: str, *args: Any) -> Any: ...

    async def execute(self, statement: str, *args: Any) -> int:
        """Run a statement for its effect; returns how many rows it affected."""
        ...

    async def copy_out(
        self,
        statement: str,
        *args: Any,
        sink: Callable[[bytes], Coroutine[Any, Any, None]],
        form: Literal["csv", "binary"] = "csv",
    ) -> int:
        """Run a SELECT through COPY, streaming its rows to `sink`; returns the number of rows."""
        ...

    async def copy_in(self, table: str, columns: Sequence[str], source: AsyncIterator[bytes]) -> int:
        """Add rows to a table from the parts of a binary COPY; returns their number."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction, or a savepoint within one; an error rolls it back, or else it is committed."""
        ...


class _Runner(ABC):
    """Implements Executor on top of `_on_connection`, which supplies the connection."""

    @abstractmethod
    async def _on_connection(
        self, label: str, work: Callable[[Connection], Awaitable[_T]], *, repeatable: bool = True
    ) -> _T: ...

    async def fetch(self, statement: str, *args: Any) -> list[Row]:
        sql = sql_of(statement)
        return await self._on_connection(statement, lambda connection: connection.fetch(sql, *args))

    async def fetchrow(self, statement: str, *args: Any) -> Row | None:
        sql = sql_of(statement)
        return await self._on_connection(statement, lambda connection: connection.fetchrow(sql, *args))

    async def fetchval(self, statement: str, *args: Any) -> Any:
        sql = sql_of(statement)
        return await self._on_connection(statement, lambda connection: connection.fetchval(sql, *args))

    async def execute(self, statement: str, *args: Any) -> int:
        sql = sql_of(statement)
        return _rows_touched(
            await self._on_connection(statement, lambda connection: connection.execute(sql, *args))
        )

    async def copy_out(
        self,
        statement: str,
        *args: Any,
        sink: Callable[[bytes], Coroutine[Any, Any, None]],
        form: Literal["csv", "binary"] = "csv",
    ) -> int:
        sql = sql_of(statement)

        def unload(connection: Connection) -> Awaitable[str]:
            return connection.copy_from_query(sql, *args, output=sink, format=form)

        return _rows_touched(await self._on_connection(statement, unload, repeatable=False))

    async def copy_in(self, table: str, columns: Sequence[str], source: AsyncIterator[bytes]) -> int:
        def load(connection: Connection) -> Awaitable[str]:
            return connection.copy_to_table(table, columns=columns, source=source, format="binary")

        return _rows_touched(await self._on_connection(f"COPY into {table}", load, repeatable=False))


class Transaction(_Runner):
    """Runs statements in one transaction, on one connection.

    After a statement has failed, PostgreSQL answers COMMIT with a silent rollback, so leaving the block
    raises DatabaseError instead. A nested `transaction()` is a savepoint, which confines the failure.
    """

    def __init__(self, connection: Connection, session: str | None = None) -> None:
        """`session` is a statement that applies the session's settings to this transaction, or None.

        Behind a pooler the connection itself can't keep them.
        """
        self._connection, self._session = connection, session
        self._doomed = False

    async def fetch_generated(self, label: str, sql: str, *args: Any) -> list[Row]:
        """Run a SELECT that a query language was translated to; values must be arguments, not in its text."""
        return await self._on_connection(label, lambda connection: connection.fetch(sql, *args))

    async def _on_connection(
        self, label: str, work: Callable[[Connection], Awaitable[_T]], *, repeatable: bool = True
    ) -> _T:
        try:
            return await work(self._connection)
        except DRIVER_ERRORS as error:
            self._doomed = True
            raise _wrapped(label, error, closed=_is_closed(self._connection)) from error
        except BaseException:
            self._doomed = True
            raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        inner = Transaction(self._connection)
        async with inner._block():
            yield inner

    @asynccontextmanager
    async def _block(self) -> AsyncIterator[None]:
        block = self._connection.transaction()
        await self._on_connection("BEGIN", lambda _: block.start())
        try:
            if session := self._session:
                await self._on_connection("BEGIN", lambda connection: connection.execute(session))
            yield
            if self._doomed:
                raise DatabaseError("the transaction is rolled back: a statement in it failed")
        except BaseException:
            # A broken connection has rolled back already; report the first error, not this one.
            with suppress(*DRIVER_ERRORS):
                await block.rollback()
            raise
        await self._on_connection("COMMIT", lambda _: block.commit())


class Database(_Runner):
    """A pool of connections to one database."""

    def __init__(self, settings: DatabaseSettings, url: str | None, server: EmbeddedServer | None) -> None:
        self._settings, self._url, self._server = settings, url, server
        self._connector = Connector(settings, None if url is None else dsn.parse(url), server)
        self._pool: Pool[Row] = asyncpg.create_pool(
            min_size=0, max_size=settings.pool_size, connect=self._connect_for_pool, reset=_skip_reset
        )
        self._switchboard = Switchboard(self._dedicated, _wrapped_notice)

    def __repr__(self) -> str:
        return f"<Database {'embedded' if self._server else 'at DATABASE_URL'}>"

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Database]:
        """Open DATABASE_URL, or else the data folder's embedded server; migrate if the settings say so."""
        async with AsyncExitStack() as stack:
            server = url = None
            if settings.database_url is None:
                from atlas.embedded import EmbeddedServer

                server = await stack.enter_async_context(
                    EmbeddedServer.open(settings.data_folder, settings.database)
                )
            else:
                url = settings.database_url.get_secret_value()
            database = cls(settings.database, url, server)
            await database._pool
            stack.push_async_callback(database._close)
            if settings.database.migrate:
                await database.through_outages(database.migrate)
            yield database

    def url_of(self, database: str | None = None) -> str:
        """The URL of this database, or of another database on the same server."""
        if self._server is not None:
            return self._server.dsn_of(database) if database else self._server.dsn
        url = self._url or ""
        return dsn.with_database(url, database) if database else url

    @property
    def pooled(self) -> bool:
        """Whether connections go through a pooler; known once the first one has been opened."""
        return self._connector.pooled

    @property
    def connections(self) -> tuple[int, int]:
        """The number of open connections in the pool, and how many of those are idle."""
        return self._pool.get_size(), self._pool.get_idle_size()

    async def ping(self) -> None:
        """Run a trivial query; DatabaseUnavailable if the server does not answer."""
        await self._on_connection("ping", lambda connection: connection.execute("SELECT 1"))

    async def through_outages(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Do work that may be repeated, again if the server is lost in it, as long as one may wait for it."""
        return await self._connector.with_retries(work)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        while True:
            connection = await self._connector.with_retries(self._acquire)
            try:
                session = self._connector.local_settings() if self.pooled else None
                transaction = Transaction(connection, session)
                async with AsyncExitStack() as stack:
                    try:
                        await stack.enter_async_context(transaction._block())
                    except DatabaseUnavailable as error:
                        if not _was_never_sent(error.__cause__):
                            raise
                        connection.terminate()
                        continue
                    yield transaction
                    return
            finally:
                await self._release(connection)

    async def migrate(self) -> list[str]:
        """Apply pending migrations, each in its own transaction; returns the names of those applied here."""
        if not await self.pending_migrations():
            return []
        # Another process may be migrating: wait for it, however long it takes.
        async with self._dedicated(unlimited=True) as connection:
            try:
                return await migrations.apply_pending(connection, lock=lock_key("migration"))
            except DRIVER_ERRORS as error:
                raise _wrapped("migration", error, closed=_is_closed(connection)) from error

    async def pending_migrations(self) -> list[str]:
        """Names of the migrations not yet applied; MigrationError if the database's history differs."""
        found = await self._on_connection("migration", migrations.pending)
        return [migration.name for migration in found]

    async def run_alone(self, command: str) -> None:
        """Run a command such as VACUUM or REINDEX CONCURRENTLY outside any transaction, without a time limit.

        It has a connection to itself, so that cancelling this cancels the command. Its text comes from the
        database, which quoted the names in it.
        """
        label = command.partition(" ")[0]
        async with self._dedicated(unlimited=True) as connection:
            try:
                await connection.execute(command)
            except DRIVER_ERRORS as error:
                raise _wrapped(label, error, closed=_is_closed(connection)) from error

    @asynccontextmanager
    async def only_one(self, name: str) -> AsyncIterator[bool]:
        """Try to take the lock `name`, which one process of this database can hold; yields whether it did.

        The lock lives on its own connection. If that breaks, another process may take the lock, so the body
        is cancelled and DatabaseUnavailable is raised.
        """
        async with self._dedicated() as connection:
            if not await self._try_advisory_lock(connection, name):
                yield False
                return
            async with _cancel_on_loss(connection, name):
                yield True

    async def _try_advisory_lock(self, connection: Connection, name: str) -> bool:
        """Lock for the session; behind a pooler, which keeps no session, for a transaction left open."""
        lock = "SELECT pg_try_advisory_lock($1), set_config('idle_session_timeout', '0', false)"
        try:
            if self.pooled:
                await connection.execute("BEGIN")
                lock = (
                    "SELECT pg_try_advisory_xact_lock($1), "
                    "set_config('idle_in_transaction_session_timeout', '0', true)"
                )
            return bool(await connection.fetchval(lock, lock_key(name)))
        except DRIVER_ERRORS as error:
            raise _wrapped(f"lock {name!r}", error, closed=_is_closed(connection)) from error

    async def listen(self, channel: str) -> AsyncGenerator[str, None]:
        """Yield NOTIFY payloads, and an empty payload whenever listening starts or restarts.

        An empty payload means that notices may have been missed: read the data they would have announced.
        All that listen share one connection. A pooler delivers no notices, so behind one an empty payload
        comes every two seconds. Close the iterator (contextlib.aclosing) when done.
        """
        await self.ping()
        while self.pooled:
            yield ""
            await asyncio.sleep(_POOLER_POLL_S)
        async with aclosing(self._switchboard.listen(channel)) as notices:
            async for payload in notices:
                yield payload

    async def keep_listening(self, channel: str, take: Callable[[str], None], unheard: str) -> None:
        """Call `take` with what `listen` yields until cancelled, through outages: the log says `unheard`."""
        while True:
            try:
                async with aclosing(self.listen(channel)) as notices:
                    async for payload in notices:
                        take(payload)
            except DatabaseUnavailable as error:
                logger.warning("%s: %s", unheard, error)
                await asyncio.sleep(_LISTENS_AGAIN_AFTER_S)

    # Connections

    async def _on_connection(
        self, label: str, work: Callable[[Connection], Awaitable[_T]], *, repeatable: bool = True
    ) -> _T:
        try:
            return await self._once_on_connection(label, work)
        except TransactionConflict:
            if not repeatable:
                raise
            # By itself, a statement that conflicts with others (a deadlock) leaves nothing behind.
            async for trial in retry_conflicts():
                with trial:
                    return await self._once_on_connection(label, work)
            raise

    async def _once_on_connection(self, label: str, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        while not self.pooled:
            connection = await self._connector.with_retries(self._acquire)
            try:
                # Opening the first connection reveals whether there is a pooler.
                if not self.pooled:
                    return await work(connection)
            except DRIVER_ERRORS as error:
                if not _was_never_sent(error):
                    raise _wrapped(label, error, closed=_is_closed(connection)) from error
                connection.terminate()
            finally:
                await self._release(connection)
        async with self.transaction() as transaction:
            return await transaction._on_connection(label, work)

    async def _connect_for_pool(self, *_: Any, **options: Any) -> asyncpg.Connection[Row]:
        return await self._connector.connect(**options)

    async def _acquire(self) -> Connection:
        limit_s = self._connector.patience_s
        try:
            async with asyncio.timeout(limit_s):
                return await self._pool.acquire()
        except TimeoutError as error:
            if self._pool.get_size() < self._settings.pool_size:
                raise DatabaseUnavailable(
                    f"no connection to {self._connector.place}: no answer within "
                    f"{limit_s:g} s: check the host, the port and any firewall"
                ) from error
            raise DatabaseUnavailable(
                f"no connection became free within {limit_s:g} s: all "
                f"{self._settings.pool_size} are in use (PLEIADES_DATABASE__POOL_SIZE)"
            ) from error

    async def _release(self, connection: Connection) -> None:
        # If it breaks now, its work is already done, and the pool replaces it.
        with suppress(*DRIVER_ERRORS):
            await self._pool.release(connection)  # type: ignore[arg-type]  # lent by the pool

    @asynccontextmanager
    async def _dedicated(self, *, unlimited: bool = False) -> AsyncIterator[Connection]:
        """A connection outside the pool, closed at the end; `unlimited` lifts its time limits."""
        connection = await self._connector.with_retries(lambda: self._connector.connect(unlimited=unlimited))
        try:
            yield connection
        finally:
            try:
                await connection.close(timeout=GRACE_S)
            except DRIVER_ERRORS:
                connection.terminate()

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(GRACE_S):
                await self._pool.close()
        except DRIVER_ERRORS:
            self._pool.terminate()


@asynccontextmanager
async def _cancel_on_loss(connection: Connection, name: str) -> AsyncIterator[None]:
    task = asyncio.current_task()
    assert task is not None
    cancelling, lost, over = task.cancelling(), False, False

    def cancel(_: Any) -> None:
        nonlocal lost
        # The driver schedules this call: by then the body may have ended, for which nobody must be cancelled.
        if not over:
            lost = True
            task.cancel()

    connection.add_termination_listener(cancel)
    try:
        yield
    except asyncio.CancelledError:
        if lost and task.uncancel() <= cancelling:
            raise DatabaseUnavailable(f"the lock {name!r} was lost with its connection") from None
        raise
    except BaseException:
        if lost:
            task.uncancel()
        raise
    finally:
        over = True
        connection.remove_termination_listener(cancel)


# Named statements


@cache
def statements(aggregate: str) -> Mapping[str, str]:
    """The statements of `<aggregate>.sql` by name; DatabaseError if the file is not well-formed."""
    path = SQL_FOLDER / f"{aggregate}.sql"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DatabaseError(f"there is no statement file {path.name} in {SQL_FOLDER}") from None
    header, *parts = _NAME_LINE.split(text)
    if any(line.strip() and not line.startswith("--") for line in header.splitlines()):
        raise DatabaseError(f"{path.name}: SQL before the first `-- name: …` line")
    found: dict[str, str] = {}
    for name, sql in zip(parts[::2], parts[1::2], strict=True):
        if name in found:
            raise DatabaseError(f"{path.name}: two statements are named {name!r}")
        found[name] = sql.strip().removesuffix(";")
        if not re.sub(r"^\s*--.*$", "", found[name], flags=re.MULTILINE).strip():
            raise DatabaseError(f"{path.name}: statement {name!r} is empty")
    return found


def aggregates() -> list[str]:
    """The names of all statement files, without their suffix."""
    return sorted(path.stem for path in SQL_FOLDER.glob("*.sql"))


@cache
def sql_of(statement: str) -> str:
    """The SQL of `<aggregate>.<name>`."""
    aggregate, _, name = statement.partition(".")
    found = statements(aggregate)
    if name not in found:
        raise DatabaseError(f"{aggregate}.sql has no statement {name!r}; it has {', '.join(sorted(found))}")
    return found[name]


def _rows_touched(status: str) -> int:
    """The count at the end of a command tag such as `INSERT 0 3`; 0 for `CREATE TABLE`, which has none."""
    count = status.rpartition(" ")[2]
    return int(count) if count.isdigit() else 0


# Errors

_TIMEOUTS = {"57014": "PLEIADES_DATABASE__STATEMENT_TIMEOUT_S", "55P03": "PLEIADES_DATABASE__LOCK_TIMEOUT_S"}
_OUTDATED = {"42P01", "42703", "42883"}
_CANNOT_STORE = {
    "25006": "the server is a standby, or default_transaction_read_only is on",
    "53100": "free space on the database's disk",
    "53200": "the server is out of memory",
    "53400": "raise that limit on the server",
    "58030": "check the server's log and disk",
}


def _is_closed(connection: Connection) -> bool:
    """Whether a connection is gone; a pool revokes a broken one even while it is in use."""
    try:
        return connection.is_closed()
    except InterfaceError:
        return True


def _was_never_sent(error: BaseException | None) -> bool:
    """Whether the statement can safely be run again on another connection.

    When the server has ended an idle connection that isn't closed yet, asyncpg refuses to begin a statement
    before it sends anything.
    """
    return isinstance(error, InternalClientError) and str(error).startswith("cannot switch to state")


def _wrapped(label: str, error: Exception, *, closed: bool) -> DatabaseError:
    """The Atlas error for an asyncpg error; its message never quotes a value."""
    state = getattr(error, "sqlstate", None) or ""
    reason = _reason(error)
    if isinstance(error, OSError):
        return DatabaseUnavailable(f"{label}: {reason}")
    if state in _TIMEOUTS:
        return StatementTimeout(f"{label}: {reason} ({_TIMEOUTS[state]})")
    if state in _CANNOT_STORE:
        return CannotStore(f"{label}: {reason}: {_CANNOT_STORE[state]}")
    if state.startswith("40"):
        return TransactionConflict(f"{label}: {reason}")
    # asyncpg raises InternalClientError if the server ends the connection between two statements.
    if closed or state in TRANSIENT_STATES or isinstance(error, InternalClientError):
        return DatabaseUnavailable(f"{label}: {reason}")
    if isinstance(error, (IntegrityConstraintViolationError, DataError)):
        return DataRefused(f"{label}: {_refusal(error)}")
    if state in _OUTDATED:
        return DatabaseError(f"{label}: {reason}: is the schema up to date? (maia migrate)")
    return DatabaseError(f"{label}: {reason}")


def _wrapped_notice(label: str, error: Exception, is_closed: bool) -> DatabaseError:
    return _wrapped(label, error, closed=is_closed)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
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


# Sessions


async def _skip_reset(_: Any) -> None:
    """Save the round trip of resetting a session: no statement here changes one."""


def lock_key(name: str) -> int:
    """The key under which PostgreSQL knows the lock `name`."""
    return int.from_bytes(blake2b(f"pleiades {name}".encode(), digest_size=8).digest(), signed=True)
