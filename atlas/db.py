"""PostgreSQL: the pool, named statements, migrations and locks. Every error of asyncpg becomes ours here."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar
from urllib.parse import quote, urlsplit

import asyncpg
import orjson
from asyncpg.exceptions import (
    CannotConnectNowError,
    DataError,
    IntegrityConstraintViolationError,
    InterfaceError,
    InternalClientError,
    PostgresError,
)

from atlas import migrations
from atlas.config import DatabaseSettings, Settings
from atlas.embedded import EmbeddedServer
from atlas.errors import (
    ConfigError,
    DatabaseError,
    DatabaseUnavailable,
    DataRefused,
    LeaseLost,
    StatementTimeout,
    TransactionConflict,
)

if TYPE_CHECKING:
    from asyncpg.pool import Pool, PoolConnectionProxy

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

SQL_FOLDER = Path(__file__).parent / "sql"
OLDEST_SERVER_VERSION = 15

Row: TypeAlias = asyncpg.Record

_FOREIGN = (PostgresError, InterfaceError, InternalClientError, OSError)
_NAME_LINE = re.compile(r"^-- name:\s*(\S+)[ \t]*$", re.MULTILINE)
_GRACE_S = 5
_HEARTBEAT_S = 30
_MOST_WAITING_NOTICES = 10_000
_T = TypeVar("_T")


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

    async def copy_out(
        self, statement: str, *args: Any, sink: Callable[[bytes], Coroutine[Any, Any, None]]
    ) -> int:
        """Run a SELECT by COPY, its rows going to `sink` as CSV while they come; returns how many."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction, or a savepoint within one: committed at the end, rolled back by an error."""
        ...


class _Runner(ABC):
    """What every Executor does, on connections that `_on_connection` finds."""

    @abstractmethod
    async def _on_connection(self, label: str, work: Callable[[Connection], Awaitable[_T]]) -> _T: ...

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

    async def copy(self, table: str, columns: Sequence[str], records: Iterable[Sequence[Any]]) -> int:
        def load(connection: Connection) -> Awaitable[str]:
            return connection.copy_records_to_table(table, columns=list(columns), records=records)

        return _rows_touched(await self._on_connection(f"COPY {table}", load))

    async def copy_out(
        self, statement: str, *args: Any, sink: Callable[[bytes], Coroutine[Any, Any, None]]
    ) -> int:
        sql = sql_of(statement)

        def unload(connection: Connection) -> Awaitable[str]:
            return connection.copy_from_query(sql, *args, output=sink, format="csv")

        return _rows_touched(await self._on_connection(statement, unload))


class Transaction(_Runner):
    """Statements in one transaction, on one connection.

    A statement that fails dooms it: PostgreSQL would answer COMMIT with a silent roll-back. A nested
    `transaction()` is a savepoint, and confines that.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._doomed = False

    async def _on_connection(self, label: str, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        try:
            return await work(self._connection)
        except _FOREIGN as error:
            self._doomed = True
            raise _ours(label, error, closed=_is_closed(self._connection)) from error
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
            yield
            if self._doomed:
                raise DatabaseError("the transaction is rolled back: a statement in it failed")
        except BaseException:
            # A broken connection has rolled back already, and the first error is the one to tell.
            with suppress(*_FOREIGN):
                await block.rollback()
            raise
        await self._on_connection("COMMIT", lambda _: block.commit())


class Database(_Runner):
    """A pool of connections to one database."""

    def __init__(self, settings: DatabaseSettings, url: str | None, server: EmbeddedServer | None) -> None:
        self._settings, self._url, self._server = settings, url, server
        self._pool: Pool[Row] = asyncpg.create_pool(
            min_size=0, max_size=settings.pool_size, connect=self._connect, reset=_keep_session
        )

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
            await database._pool
            stack.push_async_callback(database._close)
            if settings.database.migrate:
                await database.migrate()
            yield database

    def url_of(self, database: str | None = None) -> str:
        """The URL of this database, or of another one of the same server."""
        if self._server is not None:
            return self._server.dsn_of(database) if database else self._server.dsn
        url = self._url or ""
        return urlsplit(url)._replace(path=f"/{quote(database)}").geturl() if database else url

    @property
    def connections(self) -> tuple[int, int]:
        """How many connections the pool has open, and how many of them are idle."""
        return self._pool.get_size(), self._pool.get_idle_size()

    async def ping(self) -> None:
        """Touch the server; DatabaseUnavailable if it does not answer."""
        await self._on_connection("ping", lambda connection: connection.execute("SELECT 1"))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        while True:
            connection = await self._insist(self._acquire)
            try:
                transaction = Transaction(connection)
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
                await self._take_back(connection)

    async def migrate(self) -> list[str]:
        """Apply what is pending, each file in a transaction; returns the names of those applied here."""
        if not await self.pending_migrations():
            return []
        # Others may be migrating: wait for them as long as they take.
        async with self._dedicated(patient=True) as connection:
            try:
                await connection.fetchval("SELECT pg_advisory_lock($1)", _lock_key("migration"))
                return await migrations.apply_pending(connection)
            except _FOREIGN as error:
                raise _ours("migration", error, closed=_is_closed(connection)) from error

    async def pending_migrations(self) -> list[str]:
        """Names of the migrations that the database lacks; MigrationError if it is of another history."""
        found = await self._on_connection("migration", migrations.pending)
        return [migration.name for migration in found]

    @asynccontextmanager
    async def only_one(self, name: str) -> AsyncIterator[bool]:
        """Yield whether this is the only holder of `name` among all processes of the database.

        The lock stands and falls with a connection of its own: if that breaks, the body is cancelled and
        LeaseLost raised, as another may hold the lock by then.
        """
        async with self._dedicated() as connection:
            if not await self._try_advisory_lock(connection, name):
                yield False
                return
            async with _cancelled_by_loss(connection, name):
                yield True

    async def _try_advisory_lock(self, connection: Connection, name: str) -> bool:
        lock = "SELECT pg_try_advisory_lock($1), set_config('idle_session_timeout', '0', false)"
        try:
            return bool(await connection.fetchval(lock, _lock_key(name)))
        except _FOREIGN as error:
            raise _ours(f"lock {name!r}", error, closed=_is_closed(connection)) from error

    async def listen(self, channel: str) -> AsyncGenerator[str, None]:
        """Yield the payloads of NOTIFY, and an empty one whenever listening (re)starts.

        The empty one says that earlier notices may have been missed: read what they announce. Close the
        iterator (contextlib.aclosing) when done with it.
        """
        while True:
            async with self._dedicated() as connection:
                notices = _Notices(connection)
                try:
                    await notices.subscribe(channel)
                except _FOREIGN as error:
                    raise _ours(f"LISTEN {channel}", error, closed=_is_closed(connection)) from error
                yield ""
                while (payload := await notices.next()) is not None:
                    yield payload

    # Connections

    async def _on_connection(self, label: str, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        while True:
            connection = await self._insist(self._acquire)
            try:
                return await work(connection)
            except _FOREIGN as error:
                if not _was_never_sent(error):
                    raise _ours(label, error, closed=_is_closed(connection)) from error
                connection.terminate()
            finally:
                await self._take_back(connection)

    async def _acquire(self) -> Connection:
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                return await self._pool.acquire()
        except TimeoutError as error:
            raise DatabaseUnavailable(
                f"no connection came free in {self._settings.connect_timeout_s:g} s: all "
                f"{self._settings.pool_size} are in use (PLEIADES_DATABASE__POOL_SIZE)"
            ) from error

    async def _take_back(self, connection: Connection) -> None:
        # A connection that breaks here has done its work, and the pool replaces it.
        with suppress(*_FOREIGN):
            await self._pool.release(connection)  # type: ignore[arg-type]  # lent by the pool

    @asynccontextmanager
    async def _dedicated(self, *, patient: bool = False) -> AsyncIterator[Connection]:
        """A connection outside the pool, closed at the end; a patient one waits without limits."""
        connection = await self._insist(lambda: self._connect(patient=patient))
        try:
            yield connection
        finally:
            try:
                await connection.close(timeout=_GRACE_S)
            except _FOREIGN:
                connection.terminate()

    async def _insist(self, get: Callable[[], Awaitable[_T]]) -> _T:
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
                got = await get()
        return got

    async def _connect(self, *_: Any, patient: bool = False, **options: Any) -> asyncpg.Connection[Row]:
        """A new connection, in one try; but the embedded server is started again if it is gone."""
        try:
            if self._server is None:
                return await self._connect_to(self._url or "", options, patient=patient)
            try:
                return await self._connect_to(self._server.dsn, options, patient=patient)
            except (OSError, CannotConnectNowError):
                await self._server.ensure_running()
            return await self._connect_to(self._server.dsn, options, patient=patient)
        except ValueError:
            raise ConfigError(
                "DATABASE_URL is not the URL of a PostgreSQL database, such as "
                "postgresql://user:password@host:5432/database (special characters as %XX)"
            ) from None
        except _FOREIGN as error:
            passing = not isinstance(error, PostgresError) or error.sqlstate in _PASSING
            advice = "is PostgreSQL running?" if passing else "check DATABASE_URL"
            raise DatabaseUnavailable(
                f"no connection: {_reason(error)}: {advice}", passing=passing
            ) from error

    async def _connect_to(
        self, url: str, options: Mapping[str, Any], *, patient: bool
    ) -> asyncpg.Connection[Row]:
        limits = self._settings
        connection: asyncpg.Connection[Row] = await asyncpg.connect(
            url,
            **options,
            timeout=limits.connect_timeout_s,
            command_timeout=None if patient else limits.statement_timeout_s + _GRACE_S,
            max_cached_statement_lifetime=0,
            server_settings={
                "application_name": "pleiades",
                "timezone": "UTC",
                "statement_timeout": "0" if patient else f"{limits.statement_timeout_s * 1000:.0f}",
                "lock_timeout": "0" if patient else f"{limits.lock_timeout_s * 1000:.0f}",
                "idle_in_transaction_session_timeout": f"{limits.idle_transaction_timeout_s * 1000:.0f}",
            },
        )
        try:
            _check_version(connection.get_server_version().major)
            await connection.set_type_codec(
                "jsonb", schema="pg_catalog", format="binary", encoder=_jsonb, decoder=_from_jsonb
            )
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(_GRACE_S):
                await self._pool.close()
        except _FOREIGN:
            self._pool.terminate()


@asynccontextmanager
async def _cancelled_by_loss(connection: Connection, name: str) -> AsyncIterator[None]:
    task = asyncio.current_task()
    assert task is not None
    cancelling, lost = task.cancelling(), False

    def cancel(_: Any) -> None:
        nonlocal lost
        lost = True
        task.cancel()

    connection.add_termination_listener(cancel)
    try:
        yield
    except asyncio.CancelledError:
        if lost and task.uncancel() <= cancelling:
            raise LeaseLost(f"the lock {name!r} was lost with its connection") from None
        raise
    finally:
        connection.remove_termination_listener(cancel)


class _Notices:
    """What a connection hears on a channel; when too much waits, an empty payload stands for all of it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: asyncio.Queue[str | None] = asyncio.Queue()

    async def subscribe(self, channel: str) -> None:
        self._connection.add_termination_listener(lambda _: self._waiting.put_nowait(None))
        await self._connection.add_listener(channel, self._hear)

    def _hear(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        if self._waiting.qsize() >= _MOST_WAITING_NOTICES:
            while not self._waiting.empty():
                self._waiting.get_nowait()
            payload = ""
        self._waiting.put_nowait(str(payload))

    async def next(self) -> str | None:
        """The next payload; None when the connection is gone, which a heartbeat finds out in silence."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_HEARTBEAT_S):
                    return await self._waiting.get()
            try:
                await self._connection.execute("SELECT 1")
            except _FOREIGN:
                return None


# Named statements


@cache
def statements(aggregate: str) -> Mapping[str, str]:
    """The statements of `<aggregate>.sql` by name; DatabaseError if the file is not well-formed."""
    path = SQL_FOLDER / f"{aggregate}.sql"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DatabaseError(f"there is no statement file {path.name} in {SQL_FOLDER}") from None
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


def aggregates() -> list[str]:
    """Every aggregate that has a statement file."""
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
    """The count at the end of a command tag such as `INSERT 0 3`; none for `CREATE TABLE`."""
    count = status.rpartition(" ")[2]
    return int(count) if count.isdigit() else 0


# Errors

_TIMEOUTS = {"57014": "PLEIADES_DATABASE__STATEMENT_TIMEOUT_S", "55P03": "PLEIADES_DATABASE__LOCK_TIMEOUT_S"}
_PASSING = {"08000", "08001", "08003", "08004", "08006", "53300", "57P01", "57P02", "57P03"}
_OUTDATED = {"42P01", "42703", "42883"}


def _is_closed(connection: Connection) -> bool:
    """Whether a connection is gone; a pool takes a broken one away from whoever still holds it."""
    try:
        return connection.is_closed()
    except InterfaceError:
        return True


def _was_never_sent(error: BaseException | None) -> bool:
    """Whether the connection was told farewell while idle, but isn't closed yet: another one may serve.

    asyncpg then refuses to begin a statement, before it sends anything.
    """
    return isinstance(error, InternalClientError) and str(error).startswith("cannot switch to state")


def _ours(label: str, error: Exception, *, closed: bool) -> DatabaseError:
    """The error of our own that stands for one of asyncpg; it never quotes a value."""
    state = getattr(error, "sqlstate", None) or ""
    reason = _reason(error)
    if isinstance(error, OSError):
        return DatabaseUnavailable(f"{label}: {reason}")
    if state in _TIMEOUTS:
        return StatementTimeout(f"{label}: {reason} ({_TIMEOUTS[state]})")
    if state.startswith("40"):
        return TransactionConflict(f"{label}: {reason}")
    # asyncpg trips over a farewell of the server that comes between two statements.
    if closed or state in _PASSING or isinstance(error, InternalClientError):
        return DatabaseUnavailable(f"{label}: {reason}")
    if isinstance(error, (IntegrityConstraintViolationError, DataError)):
        return DataRefused(f"{label}: {_refusal(error)}")
    if state in _OUTDATED:
        return DatabaseError(f"{label}: {reason}: is the schema up to date? (maia migrate)")
    return DatabaseError(f"{label}: {reason}")


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


def _check_version(major: int) -> None:
    if major < OLDEST_SERVER_VERSION:
        raise DatabaseUnavailable(
            f"DATABASE_URL leads to PostgreSQL {major}, but {OLDEST_SERVER_VERSION} or later is needed: "
            "upgrade it, or unset DATABASE_URL to use the embedded server",
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
