"""Pools, statements, transactions, locks and errors against a real server."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from atlas import connections, db
from atlas.connections import connected_within
from atlas.db import Database
from atlas.embedded import EmbeddedServer
from atlas.errors import (
    ConfigError,
    DatabaseError,
    DatabaseUnavailable,
    DataRefused,
    StatementTimeout,
    TransactionConflict,
)
from atlas.testing import SettingsFactory, ThrowAwayServer

pytestmark = pytest.mark.integration

PROBE = """
-- name: create
CREATE TABLE probe (
    id int PRIMARY KEY, body jsonb, note text CONSTRAINT note_is_short CHECK (length(note) < 9)
);
-- name: insert
INSERT INTO probe (id, note) VALUES ($1, $2);
-- name: put_body
INSERT INTO probe (id, body) VALUES ($1, $2)
ON CONFLICT (id) DO UPDATE SET body = excluded.body RETURNING body;
-- name: read_all
SELECT id, note FROM probe ORDER BY id;
-- name: read
SELECT id, note FROM probe WHERE id = $1;
-- name: count
SELECT count(*) FROM probe;
-- name: rename_all
UPDATE probe SET note = $1;
-- name: rename
UPDATE probe SET note = $2 WHERE id = $1;
-- name: echo
SELECT $1::timestamptz AS instant, $2::uuid AS token, $3::text[] AS words, NULL AS nothing;
-- name: setting
SELECT current_setting($1);
-- name: sleep
SELECT pg_sleep($1);
-- name: add
SELECT $1::int + $2::int;
-- name: nonsense
SELECT * FROM no_such_table;
-- name: crash
SELECT pg_terminate_backend(pg_backend_pid());
-- name: pid
SELECT pg_backend_pid();
-- name: notify
SELECT pg_notify('moon', $1);
-- name: prepare_clash
CREATE SEQUENCE tries;
CREATE FUNCTION clash(most int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    nth bigint := nextval('tries');
BEGIN
    IF nth <= most THEN
        RAISE EXCEPTION 'somebody else was first' USING ERRCODE = 'deadlock_detected';
    END IF;
    RETURN nth;
END $$;
-- name: clash
SELECT clash($1);
-- name: end_idle
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend';
"""


@pytest.fixture(autouse=True)
def probe_statements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "probe.sql").write_text(PROBE)
    monkeypatch.setattr(db, "SQL_FOLDER", tmp_path)
    db.statements.cache_clear()
    db.sql_of.cache_clear()
    yield
    db.statements.cache_clear()
    db.sql_of.cache_clear()


@pytest.fixture
async def probe(database: Database) -> Database:
    await database.execute("probe.create")
    return database


def database_settings(**overrides: Any) -> dict[str, Any]:
    return {"database": overrides}


# Statements


async def test_statements_return_rows_values_and_counts(probe: Database) -> None:
    assert await probe.execute("probe.insert", 1, "one") == 1
    assert await probe.execute("probe.insert", 2, "two") == 1
    assert [tuple(row) for row in await probe.fetch("probe.read_all")] == [(1, "one"), (2, "two")]
    row = await probe.fetchrow("probe.read", 2)
    assert row is not None
    assert row["note"] == "two"
    assert await probe.fetchrow("probe.read", 3) is None
    assert await probe.fetchval("probe.count") == 2
    assert await probe.execute("probe.rename_all", "new") == 2


async def test_instants_are_aware_and_utc(database: Database) -> None:
    instant = datetime(2026, 11, 2, 12, tzinfo=UTC)
    row = await database.fetchrow("probe.echo", instant, UUID(int=7), ["a", "ß"])
    assert row is not None
    assert tuple(row) == (instant, UUID(int=7), ["a", "ß"], None)
    assert row["instant"].utcoffset().total_seconds() == 0


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(-(2.0**53), 2.0**53)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as opened:
        yield opened


@pytest.fixture
def probe_on_runner(settings_factory: SettingsFactory, runner: asyncio.Runner) -> Iterator[Database]:
    context = Database.open(settings_factory())
    database = runner.run(context.__aenter__())
    runner.run(database.execute("probe.create"))
    yield database
    runner.run(context.__aexit__(None, None, None))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON)
def test_jsonb_comes_back_as_it_went(probe_on_runner: Database, runner: asyncio.Runner, value: Any) -> None:
    assert runner.run(probe_on_runner.fetchval("probe.put_body", 1, value)) == value


async def test_sessions_have_the_limits_of_the_settings(settings_factory: SettingsFactory) -> None:
    limits = database_settings(
        statement_timeout_s=7,
        lock_timeout_s=0.25,
    )
    expected = {
        "statement_timeout": "7s",
        "lock_timeout": "250ms",
        "idle_in_transaction_session_timeout": "1min",
        "application_name": "pleiades",
        "TimeZone": "UTC",
    }
    async with Database.open(settings_factory(**limits)) as database:
        for name, value in expected.items():
            assert await database.fetchval("probe.setting", name) == value


async def test_statements_are_prepared_once_and_sessions_not_reset(probe: Database, sql: Any) -> None:
    pid = await probe.fetchval("probe.pid")
    for number in range(5):
        await probe.fetchval("probe.add", number, 1)
    assert await probe.fetchval("probe.pid") == pid
    last = await sql.fetchval("SELECT query FROM pg_stat_activity WHERE pid = $1", pid)
    assert last == "SELECT pg_backend_pid()"


# Transactions


async def test_a_transaction_commits_at_its_end(probe: Database) -> None:
    async with probe.transaction() as transaction:
        await transaction.execute("probe.insert", 1, "one")
        assert await probe.fetchval("probe.count") == 0
    assert await probe.fetchval("probe.count") == 1


async def test_an_error_rolls_a_transaction_back(probe: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with probe.transaction() as transaction:
            await transaction.execute("probe.insert", 1, "one")
            raise ZeroDivisionError
    assert await probe.fetchval("probe.count") == 0


async def test_a_nested_transaction_is_a_savepoint(probe: Database) -> None:
    async with probe.transaction() as outer:
        await outer.execute("probe.insert", 1, "one")
        with pytest.raises(DataRefused):
            async with outer.transaction() as inner:
                await inner.execute("probe.insert", 2, "two")
                await inner.execute("probe.insert", 1, "again")
        async with outer.transaction() as inner:
            await inner.execute("probe.insert", 3, "three")
    assert [row["id"] for row in await probe.fetch("probe.read_all")] == [1, 3]


async def test_a_swallowed_failure_never_passes_for_a_commit(probe: Database) -> None:
    with pytest.raises(DatabaseError, match="rolled back: a statement in it failed"):
        async with probe.transaction() as transaction:
            await transaction.execute("probe.insert", 1, "one")
            with pytest.raises(DataRefused):
                await transaction.execute("probe.insert", 1, "again")
    assert await probe.fetchval("probe.count") == 0


async def test_a_statement_cut_short_dooms_its_transaction(probe: Database) -> None:
    with pytest.raises(DatabaseError, match="rolled back"):
        async with probe.transaction() as transaction:
            await transaction.execute("probe.insert", 1, "one")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await transaction.execute("probe.sleep", 30)
    assert await probe.fetchval("probe.count") == 0


async def test_a_cancelled_statement_frees_its_connection(settings_factory: SettingsFactory) -> None:
    async with Database.open(settings_factory(**database_settings(pool_size=1))) as database:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await database.execute("probe.sleep", 30)
        assert await database.fetchval("probe.add", 1, 2) == 3


async def test_a_single_statement_in_a_deadlock_is_repeated(database: Database) -> None:
    await database.execute("probe.prepare_clash")
    assert await database.fetchval("probe.clash", 2) == 3
    with pytest.raises(TransactionConflict):
        await database.execute("probe.clash", 1_000)
    # What else was done in a transaction is not there any more.
    tried = await database.fetchval("probe.clash", 0)
    with pytest.raises(TransactionConflict):
        async with database.transaction() as transaction:
            await transaction.execute("probe.clash", 1_000)
    assert await database.fetchval("probe.clash", 0) == tried + 2


async def test_a_deadlock_may_be_tried_again(probe: Database) -> None:
    await probe.execute("probe.insert", 1, "one")
    await probe.execute("probe.insert", 2, "two")
    meeting = asyncio.Barrier(2)

    async def swap(first: int, second: int) -> None:
        async with probe.transaction() as transaction:
            await transaction.execute("probe.rename", first, "mine")
            await meeting.wait()
            await transaction.execute("probe.rename", second, "mine")

    results = await asyncio.gather(swap(1, 2), swap(2, 1), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["NoneType", "TransactionConflict"]
    conflict = next(result for result in results if result is not None)
    assert isinstance(conflict, TransactionConflict)
    assert "deadlock detected" in str(conflict)


# Limits and refusals


async def test_a_statement_that_runs_too_long_is_stopped(settings_factory: SettingsFactory) -> None:
    limits = database_settings(statement_timeout_s=0.1)
    async with Database.open(settings_factory(**limits)) as database:
        with pytest.raises(StatementTimeout, match=r"probe\.sleep: .*PLEIADES_DATABASE__STATEMENT_TIMEOUT_S"):
            await database.execute("probe.sleep", 30)
        assert await database.fetchval("probe.add", 1, 1) == 2


async def test_a_lock_that_others_hold_too_long_is_given_up(settings_factory: SettingsFactory) -> None:
    async with Database.open(settings_factory(**database_settings(lock_timeout_s=0.1))) as database:
        await database.execute("probe.create")
        await database.execute("probe.insert", 1, "one")
        async with database.transaction() as holder:
            await holder.execute("probe.rename", 1, "held")
            with pytest.raises(StatementTimeout, match="PLEIADES_DATABASE__LOCK_TIMEOUT_S"):
                await database.execute("probe.rename", 1, "waiting")


async def test_an_idle_transaction_is_ended(
    settings_factory: SettingsFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "IDLE_TRANSACTION_TIMEOUT_S", 0.1)
    async with Database.open(settings_factory(**database_settings())) as database:
        await database.execute("probe.create")
        with pytest.raises(DatabaseUnavailable):
            async with database.transaction() as transaction:
                await transaction.execute("probe.insert", 1, "one")
                await asyncio.sleep(0.5)
                await transaction.execute("probe.insert", 2, "two")
        assert await database.fetchval("probe.count") == 0


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ((1, "secret"), r"unique violation \(probe_pkey\)"),
        ((None, "secret"), r"not null violation \(id\)"),
        ((2, "too long a secret"), r"check violation \(note_is_short\)"),
        (("secret", "x"), r"argument \$1"),
        ((2**40, "secret"), r"argument \$1"),
        ((2, "secret\0"), "character not in repertoire"),
    ],
)
async def test_refused_values_are_not_quoted(probe: Database, args: tuple[Any, ...], reason: str) -> None:
    await probe.execute("probe.insert", 1, "first")
    with pytest.raises(DataRefused, match=f"probe.insert: .*{reason}") as refused:
        await probe.execute("probe.insert", *args)
    assert "secret" not in str(refused.value)
    assert await probe.fetchval("probe.count") == 1


async def test_a_value_that_json_cannot_hold_is_refused(probe: Database) -> None:
    with pytest.raises(DataRefused, match=r"argument \$2"):
        await probe.execute("probe.put_body", 1, {"a": object()})
    with pytest.raises(DataRefused):
        await probe.execute("probe.put_body", 1, {"a": "\0"})


async def test_a_missing_table_hints_at_the_migration(database: Database) -> None:
    with pytest.raises(DatabaseError, match=r"no_such_table.*maia migrate"):
        await database.fetch("probe.nonsense")


# Connections


async def test_a_pool_that_is_used_up_says_so(settings_factory: SettingsFactory) -> None:
    limits = database_settings(pool_size=1, connect_timeout_s=0.2)
    async with Database.open(settings_factory(**limits)) as database:
        async with database.transaction():
            with pytest.raises(DatabaseUnavailable, match=r"all 1 are in use \(PLEIADES_DATABASE__POOL_SIZE"):
                await database.ping()
        await database.ping()


async def test_who_is_less_patient_waits_shorter_and_with_the_tasks_begun_meanwhile(
    settings_factory: SettingsFactory,
) -> None:
    async with Database.open(settings_factory(**database_settings(pool_size=1))) as database:
        async with database.transaction():
            with connected_within(0.1):
                begun = asyncio.create_task(database.ping())
                with pytest.raises(DatabaseUnavailable, match=r"became free within 0\.1 s"):
                    await database.ping()
                with connected_within(inf):
                    patient = asyncio.create_task(database.ping())
            with pytest.raises(DatabaseUnavailable):
                await begun
        await patient


async def test_a_broken_connection_is_replaced(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable):
        await database.execute("probe.crash")
    await database.ping()


async def test_no_server_is_told_without_the_password(settings_factory: SettingsFactory) -> None:
    url = "postgresql://somebody:hunter2@127.0.0.1:1/nowhere"
    configured = settings_factory(database_url=SecretStr(url), **database_settings(connect_timeout_s=0.3))
    where = r"no connection to 127\.0\.0\.1:1 \(database nowhere\)"
    with pytest.raises(DatabaseUnavailable, match=f"{where}: connection refused: is PostgreSQL") as refused:
        async with Database.open(configured):
            pass
    assert "hunter2" not in repr(refused.value)
    assert "hunter2" not in repr(Database(configured.database, url, None))


@pytest.mark.parametrize("url", ["mysql://me:hunter2@host/db", "postgresql://me:hunter/2@host/db", "hunter2"])
async def test_a_malformed_url_is_told_without_the_password(
    settings_factory: SettingsFactory, url: str
) -> None:
    with pytest.raises(ConfigError, match="DATABASE_URL is not the URL") as refused:
        async with Database.open(settings_factory(database_url=SecretStr(url))):
            pass
    assert "hunter" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


async def test_a_missing_database_is_not_waited_for(
    settings_factory: SettingsFactory, postgres: ThrowAwayServer
) -> None:
    url = SecretStr(postgres.dsn_of("no_such_database"))
    with pytest.raises(DatabaseUnavailable, match=r"no_such_database.*check DATABASE_URL") as refused:
        async with Database.open(settings_factory(database_url=url)):
            pass
    assert not refused.value.transient


@pytest.fixture
def own_url(own_postgres: ThrowAwayServer) -> SecretStr:
    return SecretStr(own_postgres.dsn_of(own_postgres.create_database()))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
async def test_a_pool_survives_a_restart_of_the_server(
    settings_factory: SettingsFactory, own_postgres: ThrowAwayServer, own_url: SecretStr, how: signal.Signals
) -> None:
    async with Database.open(settings_factory(database_url=own_url)) as database:
        await asyncio.gather(*(database.fetchval("probe.add", number, 1) for number in range(20)))
        await asyncio.to_thread(own_postgres.restart, how)
        assert await database.fetchval("probe.add", 1, 1) == 2


async def test_a_statement_waits_for_a_server_that_is_away(
    settings_factory: SettingsFactory, own_postgres: ThrowAwayServer, own_url: SecretStr
) -> None:
    async with Database.open(settings_factory(database_url=own_url)) as database:
        await asyncio.to_thread(own_postgres.stop)
        waiting = asyncio.create_task(database.fetchval("probe.add", 1, 1))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await asyncio.to_thread(own_postgres.start)
        assert await waiting == 2


async def test_a_restart_in_a_transaction_loses_it_whole(
    settings_factory: SettingsFactory, own_postgres: ThrowAwayServer, own_url: SecretStr
) -> None:
    async with Database.open(settings_factory(database_url=own_url)) as database:
        await database.execute("probe.create")
        with pytest.raises(DatabaseUnavailable):
            async with database.transaction() as transaction:
                await transaction.execute("probe.insert", 1, "one")
                await asyncio.to_thread(own_postgres.restart)
                await transaction.execute("probe.insert", 2, "two")
        assert await database.fetchval("probe.count") == 0


@asynccontextmanager
async def relay_that_hides_ends(dsn: str, folder: Path) -> AsyncIterator[str]:
    """Reach the server through a relay that passes on all it says, but never that it hung up first."""
    socket = Path(parse_qs(urlsplit(dsn).query)["host"][0]) / ".s.PGSQL.5432"

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65536):
                sink.write(data)

    async def pump_until_farewell(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Pass on until the client says that it ends the connection, for whose end it then waits."""
        while data := await source.read(65536):
            sink.write(data)
            if data.endswith(b"X\0\0\0\4"):
                return

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(socket)
        answers = asyncio.create_task(pump(from_server, writer))
        try:
            await pump_until_farewell(reader, to_server)
        finally:
            answers.cancel()
            for each in (to_server, writer):
                each.close()

    async with await asyncio.start_unix_server(serve, folder / ".s.PGSQL.5432"):
        yield dsn.replace(quote(str(socket.parent), safe=""), quote(str(folder), safe=""))


@pytest.mark.parametrize("within", ["statement", "transaction"])
async def test_a_connection_that_was_told_farewell_is_replaced(
    settings_factory: SettingsFactory, database_url: str, within: str
) -> None:
    """Its end may be noticed later than the farewell before it."""
    with tempfile.TemporaryDirectory() as folder:
        async with relay_that_hides_ends(database_url, Path(folder)) as url:
            configured = settings_factory(database_url=SecretStr(url))
            async with (
                Database.open(settings_factory(database_url=SecretStr(database_url))) as direct,
                Database.open(configured) as database,
            ):
                pid = await database.fetchval("probe.pid")
                assert await direct.fetchval("probe.end_idle") == 1
                await asyncio.sleep(0.1)
                if within == "statement":
                    assert await database.fetchval("probe.pid") != pid
                else:
                    async with database.transaction() as transaction:
                        assert await transaction.fetchval("probe.pid") != pid


async def test_without_a_url_the_embedded_server_serves_and_heals(
    settings_factory: SettingsFactory, embedded_data_dir: Path
) -> None:
    configured = settings_factory(database_url=None, data_dir=embedded_data_dir)
    async with Database.open(configured) as database:
        await database.execute("probe.create")
        await database.execute("probe.insert", 1, "one")
        server = database._server
        assert server is not None
        for how in (signal.SIGKILL, signal.SIGINT):
            await server.stop(how)
            assert server.pid is None
            assert await database.fetchval("probe.count") == 1


async def test_an_embedded_server_that_is_starting_is_waited_for(
    settings_factory: SettingsFactory, embedded_data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured = settings_factory(
        database_url=None, data_dir=embedded_data_dir, database={"connect_timeout_s": 2}
    )
    async with Database.open(configured) as database:
        server = database._server
        assert server is not None
        # As a server that has just begun leaves it: the line of the socket's folder is still empty.
        pid_file = server.home.cluster / "postmaster.pid"
        await server.stop(signal.SIGKILL)
        lines = pid_file.read_text().split("\n")
        pid_file.write_text("\n".join([*lines[:4], "", "", lines[6], ""]))
        assert await database.fetchval("probe.pid")
        # Whatever may be read meanwhile, no setting of the user's is at fault.
        address, misreads = server.dsn, 0

        def misread(_: EmbeddedServer) -> str:
            nonlocal misreads
            misreads -= 1
            return address if misreads < 0 else "postgresql:///pleiades?host=.&user=pleiades"

        monkeypatch.setattr(EmbeddedServer, "dsn", property(misread))
        for expected in (1, 3):
            misreads = expected
            await server.stop(signal.SIGKILL)
            assert await database.fetchval("probe.pid")
        misreads = 1_000_000
        await server.stop(signal.SIGKILL)
        with pytest.raises(DatabaseUnavailable, match="no connection to the embedded server"):
            await database.fetchval("probe.pid")


# Locks


HOLDER = """
import asyncio, sys
from pydantic import SecretStr
from atlas.db import Database
from atlas.testing import IsolatedSettings

async def main():
    async with Database.open(IsolatedSettings(database_url=SecretStr(sys.argv[1]))) as database:
        async with database.only_one("moon") as alone:
            print(alone, flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_only_one_holds_a_name_among_processes(database: Database, database_url: str) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, database_url], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        async with database.only_one("moon") as alone:
            assert not alone
        async with database.only_one("sun") as alone:
            assert alone
    finally:
        holder.kill()
        holder.communicate()
    # The server notices the death of a client by itself, at once on a socket of its machine.
    for _ in range(1000):
        async with database.only_one("moon") as alone:
            if alone:
                break
        await asyncio.sleep(0.01)
    assert alone


async def test_a_lock_is_free_after_its_block(database: Database) -> None:
    for _ in range(2):
        async with database.only_one("moon") as alone:
            assert alone
            async with database.only_one("moon") as second:
                assert not second


async def test_a_lock_lost_as_its_block_ends_cancels_nobody() -> None:
    class Losing:
        """A connection whose loss is reported as the driver does: by a call that is scheduled."""

        def add_termination_listener(self, listener: Any) -> None:
            self.listener = listener

        def remove_termination_listener(self, listener: Any) -> None:
            assert listener is self.listener

    connection = Losing()
    for error in (None, DatabaseUnavailable("the server is gone")):
        with suppress(DatabaseUnavailable):
            async with db._cancel_on_loss(connection, "moon"):  # type: ignore[arg-type]  # stands for one
                asyncio.get_running_loop().call_soon(connection.listener, connection)
                if error:
                    raise error
        await asyncio.sleep(0.01)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_a_lock_lost_with_its_connection_stops_the_work(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable, match="'moon' was lost with its connection"):
        async with database.only_one("moon") as alone:
            assert alone
            assert await database.fetchval("probe.end_idle") == 1
            await asyncio.sleep(30)
    async with database.only_one("moon") as alone:
        assert alone


async def test_cancelling_the_holder_stays_a_cancellation(database: Database) -> None:
    holding = asyncio.Event()

    async def hold() -> None:
        async with database.only_one("moon"):
            holding.set()
            await asyncio.sleep(30)

    task = asyncio.create_task(hold())
    await holding.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.only_one("moon") as alone:
        assert alone


# Notices


async def test_a_listener_hears_what_is_notified(database: Database) -> None:
    async with aclosing(database.listen("moon")) as notices:
        assert await anext(notices) == ""
        for payload in ("one", "two"):
            await database.execute("probe.notify", payload)
        assert [await anext(notices), await anext(notices)] == ["one", "two"]


async def test_a_listener_survives_a_restart_and_tells_of_the_gap(
    settings_factory: SettingsFactory, own_postgres: ThrowAwayServer, own_url: SecretStr
) -> None:
    async with (
        Database.open(settings_factory(database_url=own_url)) as database,
        aclosing(database.listen("moon")) as notices,
    ):
        assert await anext(notices) == ""
        await asyncio.to_thread(own_postgres.restart)
        assert await anext(notices) == ""
        await database.execute("probe.notify", "after")
        assert await anext(notices) == "after"


async def test_all_that_listen_share_one_connection(database: Database, sql: Any) -> None:
    listening = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^LISTEN'"
    )
    async with aclosing(database.listen("moon")) as moon, aclosing(database.listen("sun")) as sun:
        assert [await anext(moon), await anext(sun)] == ["", ""]
        assert await sql.fetchval(listening) == 1
        async with aclosing(database.listen("moon")) as also:
            assert await anext(also) == ""
            await database.execute("probe.notify", "shines")
            assert [await anext(moon), await anext(also)] == ["shines", "shines"]
        await database.execute("probe.notify", "still")
        assert await anext(moon) == "still"
        silent = asyncio.create_task(anext(sun))
        await asyncio.sleep(0)
        assert not silent.done()
        silent.cancel()
        await asyncio.wait([silent])
    assert await sql.fetchval(listening) == 0


async def test_a_connection_that_died_in_silence_is_found_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.notices.HEARTBEAT_S", 0.01)
    async with aclosing(database.listen("moon")) as notices:
        assert await anext(notices) == ""
        following = asyncio.create_task(anext(notices))
        await asyncio.sleep(0.1)
        assert not following.done()
        await database.execute("probe.notify", "still here")
        assert await following == "still here"


async def test_notices_beyond_what_can_wait_become_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.notices.MOST_QUEUED", 3)
    async with aclosing(database.listen("moon")) as notices:
        assert await anext(notices) == ""
        async with database.transaction() as transaction:
            for number in range(5):
                await transaction.execute("probe.notify", str(number))
        await database.ping()
        assert [await anext(notices), await anext(notices)] == ["", "4"]


# The product's own statements


async def test_every_statement_can_be_prepared(sql: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    db.statements.cache_clear()
    for aggregate in db.aggregates():
        for name, text in db.statements(aggregate).items():
            try:
                await sql.prepare(text)
            except asyncpg.PostgresError as error:
                pytest.fail(f"{aggregate}.{name}: {error}")
