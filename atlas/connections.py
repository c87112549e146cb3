"""Open connections to PostgreSQL, directly or through a pooler, and explain why one could not be opened."""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import asyncpg
import orjson
from asyncpg.exceptions import (
    CannotConnectNowError,
    ClientConfigurationError,
    ConnectionDoesNotExistError,
    InterfaceError,
    InternalClientError,
    PostgresError,
    ProtocolViolationError,
    UndefinedObjectError,
)

from atlas import dsn
from atlas.config import DatabaseSettings
from atlas.errors import ConfigError, DatabaseUnavailable

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    from atlas.embedded import EmbeddedServer

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

OLDEST_SERVER_VERSION = 15
DRIVER_ERRORS = (PostgresError, InterfaceError, InternalClientError, OSError)
"""All that asyncpg raises."""
TRANSIENT_STATES = frozenset(
    {"08000", "08001", "08003", "08004", "08006", "53300", "57P01", "57P02", "57P03"}
)
"""SQLSTATE codes of errors that may go away by themselves."""
GRACE_S = 5
IDLE_TRANSACTION_TIMEOUT_S = 60
"""How long a transaction may sit idle before the server ends it: an old snapshot makes claims slow."""

_LOG_WAIT_AFTER_S = 2
_STATEMENT_CACHE_SIZE = 100
_T = TypeVar("_T")

logger = logging.getLogger(__name__)

_patience_s: ContextVar[float] = ContextVar("patience_s", default=inf)


@contextmanager
def connected_within(seconds: float) -> Iterator[None]:
    """In this block, and in tasks begun in it, wait at most that long for a connection.

    It is never waited longer than the settings allow; `inf` means as long as they do.
    """
    token = _patience_s.set(seconds)
    try:
        yield
    finally:
        _patience_s.reset(token)


class Connector:
    """Opens connections to one database: the one in DATABASE_URL, or the embedded server's.

    The first connection detects whether there is a pooler in between. A pooler in transaction mode assigns
    a different session to each transaction, so a session can keep neither prepared statements nor settings.
    """

    def __init__(
        self, settings: DatabaseSettings, address: dsn.Address | None, server: EmbeddedServer | None
    ) -> None:
        self._settings, self._address, self._server = settings, address, server
        self.pooled = False
        self._probed = address is None

    @property
    def place(self) -> str:
        """The database's location, for messages."""
        return self._address.place if self._address else "the embedded server"

    def local_settings(self, *, unlimited: bool = False) -> str:
        """A statement that applies the session's settings to one transaction."""
        address = self._address
        given = {name: value for name, value in (address.settings if address else {}).items()
                 if name not in {"application_name", "options"}}  # fmt: skip
        calls = (
            f"set_config({_literal(name)}, {_literal(value)}, true)"
            for name, value in (given | self._session(unlimited=unlimited)).items()
        )
        return f"SELECT {', '.join(calls)}"

    async def with_retries(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Connect, or do what needs a connection, again while the server is away and one may wait."""
        began_s = time.monotonic()
        try:
            return await work()
        except DatabaseUnavailable as error:
            left_s = self.patience_s - (time.monotonic() - began_s)
            if not error.transient or left_s <= 0:
                raise
        import stamina

        warned = False
        async for attempt in stamina.retry_context(
            on=lambda error: isinstance(error, DatabaseUnavailable) and error.transient,
            attempts=None,
            timeout=left_s,
            wait_initial=0.05,
            wait_max=1,
            wait_jitter=0.1,
        ):
            if not warned and time.monotonic() - began_s > _LOG_WAIT_AFTER_S:
                warned = True
                logger.warning("Waiting for %s to answer", self.place, extra={"action": "database_awaited"})
            with attempt:
                done = await work()
        return done

    async def connect(self, *, unlimited: bool = False, **options: Any) -> asyncpg.Connection[asyncpg.Record]:
        """Open a connection, in one attempt; if the embedded server is gone, start it again.

        `unlimited` lifts the time limits on statements and locks.
        """
        try:
            if self._server is None:
                return await self._connect_to(self._url_address, options, unlimited=unlimited)
            try:
                return await self._connect_to(dsn.parse(self._server.dsn), options, unlimited=unlimited)
            except (OSError, CannotConnectNowError, ValueError):
                # ValueError: the address was read while the server was starting.
                await self._server.ensure_running()
            return await self._connect_to(dsn.parse(self._server.dsn), options, unlimited=unlimited)
        except ClientConfigurationError as error:
            # What an address leaves open, asyncpg takes from the environment.
            where = "DATABASE_URL" if self._server is None else "variables PG…"
            raise ConfigError(f"{where}: {error.args[0]}") from None
        except DRIVER_ERRORS as error:
            raise unavailable(error, self.place, self._limit_s(self._address)) from error
        except ValueError as error:
            if self._server is not None:
                raise DatabaseUnavailable(
                    f"no connection to {self.place}: {error}", transient=True
                ) from error
            raise ConfigError(f"DATABASE_URL is not the URL of a database, such as {dsn.FORM}") from None

    @property
    def _url_address(self) -> dsn.Address:
        assert self._address is not None
        return self._address

    async def _connect_to(
        self, address: dsn.Address, options: Mapping[str, Any], *, unlimited: bool
    ) -> asyncpg.Connection[asyncpg.Record]:
        try:
            connection = await self._open(address, options, unlimited=unlimited)
        except ProtocolViolationError as error:
            if self.pooled or not _refuses_parameters(error):
                raise
            self._note_pooler()
            return await self._open(address, options, unlimited=unlimited)
        if self._probed or await _has_own_session(connection):
            self._probed = True
            return connection
        self._note_pooler()
        connection.terminate()
        return await self._open(address, options, unlimited=unlimited)

    def _note_pooler(self) -> None:
        self.pooled = self._probed = True
        logger.info(
            "%s is behind a connection pooler: each statement needs a transaction, so the direct address "
            "would be faster",
            self.place,
            extra={"action": "pooler_found"},
        )

    async def _open(
        self, address: dsn.Address, options: Mapping[str, Any], *, unlimited: bool
    ) -> asyncpg.Connection[asyncpg.Record]:
        settings = dict(address.settings) | self._session(unlimited=unlimited)
        if self.pooled:
            settings = {name: settings[name] for name in ("application_name", "options") if name in settings}
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            address.url,
            **options,
            ssl=address.ssl(),
            timeout=self._limit_s(address),
            command_timeout=None if unlimited else self._settings.statement_timeout_s + GRACE_S,
            statement_cache_size=0 if self.pooled else _STATEMENT_CACHE_SIZE,
            max_cached_statement_lifetime=0,
            server_settings=settings,
        )
        try:
            check_version(connection.get_server_version().major)
            await connection.set_type_codec(
                "jsonb", schema="pg_catalog", format="binary", encoder=_jsonb, decoder=_from_jsonb
            )
        except BaseException:
            connection.terminate()
            raise
        return connection

    @property
    def patience_s(self) -> float:
        """How long whoever asks now may wait for a connection."""
        return min(self._settings.connect_timeout_s, _patience_s.get())

    def _limit_s(self, address: dsn.Address | None) -> float:
        given = address.connect_timeout_s if address else None
        return min(self.patience_s, given or self.patience_s)

    def _session(self, *, unlimited: bool) -> dict[str, str]:
        limits = self._settings
        return {
            "timezone": "UTC",
            "statement_timeout": "0" if unlimited else f"{limits.statement_timeout_s * 1000:.0f}",
            "lock_timeout": "0" if unlimited else f"{limits.lock_timeout_s * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{IDLE_TRANSACTION_TIMEOUT_S * 1000:.0f}",
        }


async def _has_own_session(connection: asyncpg.Connection[asyncpg.Record]) -> bool:
    """Whether the connection reports the pid of the backend it talks to; a pooler reports a made-up one."""
    # Without parameters this is not a prepared statement; the command tag gives the number of rows.
    tag = await connection.execute(f"SELECT 1 WHERE pg_backend_pid() = {connection.get_server_pid()}")
    return tag == "SELECT 1"


def _refuses_parameters(error: PostgresError) -> bool:
    return "startup parameter" in str(error.args[0] if error.args else "")


def check_version(major: int) -> None:
    """DatabaseUnavailable if the server is too old."""
    if major < OLDEST_SERVER_VERSION:
        raise DatabaseUnavailable(
            f"DATABASE_URL is PostgreSQL {major}, but {OLDEST_SERVER_VERSION} or later is needed: upgrade "
            "it, or unset DATABASE_URL to use the embedded server",
            transient=False,
        )


# Why there is no connection

_ADVICE = {
    "28P01": (False, "check the user and the password in DATABASE_URL"),
    "28000": (False, "check DATABASE_URL, and the rules in the server's pg_hba.conf"),
    "3D000": (False, "check DATABASE_URL, or create that database"),
    "42501": (False, "check DATABASE_URL, or ask an administrator to GRANT CONNECT"),
    "53300": (True, "close other programs' connections, or raise the server's max_connections"),
    "57P03": (True, "the server is starting or stopping: try again"),
}


def unavailable(error: Exception, place: str, timeout_s: float) -> DatabaseUnavailable | ConfigError:
    """The Atlas error for a failed connection: where, why, and what to do."""
    if isinstance(error, UndefinedObjectError) and (name := re.search(r'parameter "([^"]*)"', str(error))):
        return ConfigError(f"DATABASE_URL: PostgreSQL has no parameter {name[1]}: remove it")
    transient, cause = _cause(error, timeout_s)
    return DatabaseUnavailable(f"no connection to {place}: {cause}", transient=transient)


def _cause(error: Exception, timeout_s: float) -> tuple[bool, str]:
    """Whether the error is transient, and its cause in words."""
    if isinstance(error, ssl.SSLError):
        return False, _tls_cause(error)
    if isinstance(error, socket.gaierror):
        return (
            True,
            f"the host name cannot be resolved ({error.strerror}): check the name and this machine's DNS",
        )
    if isinstance(error, TimeoutError):
        return True, f"no answer within {timeout_s:g} s: check the host, the port and any firewall"
    if isinstance(error, OSError):
        return _system_cause(error)
    if isinstance(error, PostgresError) and not isinstance(error, ConnectionDoesNotExistError):
        return _server_cause(error)
    return True, f"{_message_of(error)}: is that a PostgreSQL server?"


def _tls_cause(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate is not trusted ({error.verify_message}): add sslrootcert=FILE to "
            "DATABASE_URL, with the certificate of the authority that signed it, or sslrootcert=system to "
            "trust this machine's authorities (or those in SSL_CERT_FILE)"
        )
    return f"TLS failed ({error.reason or _message_of(error)}): check sslmode in DATABASE_URL"


def _system_cause(error: OSError) -> tuple[bool, str]:
    text = str(error)
    if "rejected SSL upgrade" in text:
        return False, (
            "DATABASE_URL requires TLS, but the server does not offer it: enable it on the server, or, on a "
            "network you trust, use sslmode=disable"
        )
    if "SSL exchange" in text:
        return True, "the server failed during the TLS handshake: check its log"
    # If a host has several addresses, asyncio tries them all and joins their errors into one text.
    numbers = {int(number) for number in re.findall(r"Errno (\d+)", text)} or {error.errno or 0}
    number = max(numbers, key=lambda number: number == errno.ECONNREFUSED)
    if number == errno.ECONNREFUSED:
        return True, "connection refused: is PostgreSQL running?"
    if number == errno.ENOENT:
        return True, f"there is no such socket ({error.filename or 'see host'}): is PostgreSQL running?"
    if number == errno.EACCES and error.filename:
        return False, f"{error.filename} cannot be read: set HOME to a folder that this user may read"
    if number == errno.EACCES:
        return False, "this user may not open the socket: check the permissions of its folder"
    if number in {errno.ENETUNREACH, errno.EHOSTUNREACH}:
        return True, f"{os.strerror(number).lower()}: check the host and this machine's network"
    if number:
        return True, f"{os.strerror(number).lower()}: is PostgreSQL running?"
    return True, f"{_message_of(error)}: is PostgreSQL running?"


def _server_cause(error: PostgresError) -> tuple[bool, str]:
    state, message = error.sqlstate or "", _message_of(error)
    if state in _ADVICE:
        transient, advice = _ADVICE[state]
        return transient, f"{message}: {advice}"
    if isinstance(error, ProtocolViolationError):
        if _refuses_parameters(error):
            return False, (
                f"the connection pooler in between refuses it: {message}: remove that parameter from "
                "DATABASE_URL, or use the database's direct address"
            )
        return True, f"the connection pooler in between answers: {message}"
    if state in TRANSIENT_STATES:
        return True, f"{message}: try again"
    return False, f"{message}: check DATABASE_URL"


def _message_of(error: Exception) -> str:
    return (str(error.args[0]) if error.args else "") or type(error).__name__


def _literal(text: str) -> str:
    quoted = text.replace("'", "''")
    return f"'{quoted}'" if "\\" not in text else "E'" + quoted.replace("\\", "\\\\") + "'"


def _jsonb(value: Any) -> bytes:
    return b"\x01" + orjson.dumps(value)


def _from_jsonb(data: bytes) -> Any:
    return orjson.loads(data[1:])
