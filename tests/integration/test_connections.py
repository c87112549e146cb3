"""Connections that cannot be had, each by a real cause, and URLs as providers hand them out."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from pydantic import SecretStr

from atlas.db import Database
from atlas.errors import ConfigError, DatabaseUnavailable
from atlas.testing import SettingsFactory, ThrowAwayServer

pytestmark = pytest.mark.integration


@asynccontextmanager
async def relay(dsn: str, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The server at a port of this machine, which it doesn't open itself; by TLS if there is a context."""
    path = Path(parse_qs(urlsplit(dsn).query)["host"][0]) / ".s.PGSQL.5432"

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
        except ConnectionError:
            pass
        finally:
            sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(path)
        if context is not None:
            await reader.readexactly(8)
            writer.write(b"S")
            try:
                await writer.start_tls(context)
            except (ssl.SSLError, ConnectionError):
                writer.close()
                to_server.close()
                return
        await asyncio.gather(pump(reader, to_server), pump(from_server, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"postgresql://pleiades@127.0.0.1:{port}{urlsplit(dsn).path}"


@pytest.fixture
async def tcp_url(database_url: str) -> AsyncIterator[str]:
    """This test's database at a port, without TLS."""
    async with relay(database_url) as url:
        yield url


async def refused(settings_factory: SettingsFactory, url: str, **limits: float) -> DatabaseUnavailable:
    settings = settings_factory(
        database_url=SecretStr(url), database={"connect_timeout_s": 0.4, "migrate": False} | limits
    )
    with pytest.raises(DatabaseUnavailable) as caught:
        async with Database.open(settings) as database:
            await database.ping()
    return caught.value


@pytest.mark.parametrize(
    "query",
    [
        "?sslmode=prefer&channel_binding=require",
        "?connect_timeout=5",
        "?keepalives=1&keepalives_idle=30",
        "?gssencmode=disable&target_session_attrs=read-write&application_name=lab",
        "?sslmode=disable&options=-c%20search_path%3Dpublic",
        "?schema=public&pgbouncer=true&connection_limit=1",
        "?ssl=false&client_encoding=utf8&prepareThreshold=0",
    ],
)
async def test_urls_as_they_are_handed_out_connect(
    settings_factory: SettingsFactory, tcp_url: str, query: str
) -> None:
    async with Database.open(settings_factory(database_url=SecretStr(tcp_url + query))) as database:
        assert await database.pending_migrations() == []
        assert not database.pooled


@pytest.mark.parametrize("query", ["?ssl=true", "?sslmode=require&channel_binding=require"])
async def test_a_server_without_tls_is_the_cause(
    settings_factory: SettingsFactory, tcp_url: str, query: str
) -> None:
    error = await refused(settings_factory, tcp_url + query)
    place = urlsplit(tcp_url).netloc.partition("@")[2]
    assert f"no connection to {place} (database test_" in str(error)
    assert "DATABASE_URL requires TLS, but the server does not offer it" in str(error)
    assert not error.transient


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    """A server's TLS, by a certificate that it signed itself."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key.pem", "-out",
         tmp_path / "ca.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    return context


async def test_a_certificate_that_nobody_vouches_for_is_the_cause(
    settings_factory: SettingsFactory, database_url: str, certificate: ssl.SSLContext, tmp_path: Path
) -> None:
    async with relay(database_url, certificate) as url:
        error = await refused(settings_factory, f"{url}?sslmode=verify-full&sslrootcert=system")
        assert "certificate is not trusted" in str(error)
        assert "sslrootcert=FILE" in str(error)
        assert not error.transient
        trusting = f"{url}?sslmode=verify-full&sslrootcert={tmp_path / 'ca.pem'}"
        async with Database.open(settings_factory(database_url=SecretStr(trusting))) as database:
            await database.ping()


async def test_a_name_that_cannot_be_resolved_is_the_cause(settings_factory: SettingsFactory) -> None:
    error = await refused(settings_factory, "postgresql://me:hunter2@nowhere.invalid/x")
    assert "no connection to nowhere.invalid:5432 (database x): the host name cannot be" in str(error)
    assert "hunter2" not in str(error)


async def test_a_socket_that_is_not_there_is_the_cause(settings_factory: SettingsFactory) -> None:
    error = await refused(settings_factory, "postgresql:///x?host=/no/such/folder")
    assert "no connection to /no/such/folder/.s.PGSQL.5432 (database x): there is no such" in str(error)


async def test_several_addresses_of_a_host_are_one_cause(settings_factory: SettingsFactory) -> None:
    error = await refused(settings_factory, "postgresql://localhost:1/x")
    assert "localhost:1 (database x): connection refused: is PostgreSQL running?" in str(error)


async def test_a_server_that_is_silent_is_not_a_pool_that_is_used_up(
    settings_factory: SettingsFactory,
) -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = await refused(settings_factory, f"postgresql://me@127.0.0.1:{port}/x")
        began_s = time.monotonic()
        waited = await refused(
            settings_factory, f"postgresql://me@127.0.0.1:{port}/x?connect_timeout=1", connect_timeout_s=3
        )
        assert time.monotonic() - began_s < 10
    assert f"no connection to 127.0.0.1:{port} (database x): no answer within 0.4 s" in str(error)
    assert "no answer within" in str(waited)


async def test_a_port_of_something_else_is_the_cause(settings_factory: SettingsFactory) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = await refused(settings_factory, f"postgresql://me@127.0.0.1:{port}/x?sslmode=disable")
    assert "is that a PostgreSQL server?" in str(error)


async def test_too_many_clients_are_the_cause(
    settings_factory: SettingsFactory, own_postgres: ThrowAwayServer
) -> None:
    url = own_postgres.dsn_of(own_postgres.create_database())
    async with AsyncExitStack() as held:
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                held.push_async_callback((await asyncpg.connect(url)).close)
        error = await refused(settings_factory, url)
    assert "too many clients already: close other programs' connections" in str(error)
    assert "is PostgreSQL running" not in str(error)
    assert error.transient


async def test_who_is_not_let_in_learns_what_to_check(
    settings_factory: SettingsFactory, database_url: str
) -> None:
    error = await refused(settings_factory, database_url.replace("user=pleiades", "user=somebody"))
    assert "check DATABASE_URL" in str(error)
    assert not error.transient


async def test_a_parameter_that_no_server_knows_is_named(
    settings_factory: SettingsFactory, database_url: str
) -> None:
    settings = settings_factory(database_url=SecretStr(f"{database_url}&chanel_binding=require"))
    with pytest.raises(ConfigError, match="PostgreSQL has no parameter chanel_binding: remove it"):
        async with Database.open(settings):
            pass


async def test_a_long_wait_says_what_it_waits_for(
    settings_factory: SettingsFactory, caplog: pytest.LogCaptureFixture
) -> None:
    await refused(settings_factory, "postgresql://127.0.0.1:1/x", connect_timeout_s=3.2)
    assert [record.message for record in caplog.records if "Waiting" in record.message] == [
        "Waiting for 127.0.0.1:1 (database x) to answer"
    ]
