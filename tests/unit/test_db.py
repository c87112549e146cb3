"""Named statements, and the wording of errors, without a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas import connections, db
from atlas.errors import (
    CannotStore,
    DatabaseError,
    DatabaseUnavailable,
    DataRefused,
    StatementTimeout,
    TransactionConflict,
)


@pytest.fixture
def sql_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(db, "SQL_FOLDER", tmp_path)
    db.statements.cache_clear()
    db.sql_of.cache_clear()
    yield tmp_path
    db.statements.cache_clear()
    db.sql_of.cache_clear()


def test_a_file_is_read_into_named_statements(sql_folder: Path) -> None:
    (sql_folder / "moon.sql").write_text(
        "-- The moon.\n\n-- name: rise\n-- Purpose.\nSELECT 1;\n\n-- name: set\nSELECT ';' AS a,\n  2\n;\n"
    )
    assert db.statements("moon") == {"rise": "-- Purpose.\nSELECT 1", "set": "SELECT ';' AS a,\n  2\n"}
    assert db.sql_of("moon.set").startswith("SELECT ';'")
    assert db.aggregates() == ["moon"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("-- name: a\nSELECT 1;\n-- name: a\nSELECT 2;\n", "two statements are named 'a'"),
        ("SELECT 1;\n-- name: a\nSELECT 2;\n", "SQL before the first"),
        ("-- name: a\n-- only a purpose\n-- name: b\nSELECT 2;\n", "statement 'a' is empty"),
        ("-- name: a b\nSELECT 1;\n", "SQL before the first"),
    ],
)
def test_a_malformed_file_is_refused(sql_folder: Path, text: str, complaint: str) -> None:
    (sql_folder / "moon.sql").write_text(text)
    with pytest.raises(DatabaseError, match=complaint):
        db.statements("moon")


def test_an_unknown_statement_is_answered_with_the_known_ones(sql_folder: Path) -> None:
    (sql_folder / "moon.sql").write_text("-- name: rise\nSELECT 1;\n-- name: set\nSELECT 2;\n")
    with pytest.raises(DatabaseError, match=r"moon\.sql has no statement 'fall'; it has rise, set"):
        db.sql_of("moon.fall")
    with pytest.raises(DatabaseError, match=r"no statement file sun\.sql"):
        db.sql_of("sun.rise")


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,20}", fullmatch=True), st.integers(), max_size=8))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, numbers: dict[str, int]) -> None:
    folder = tmp_path_factory.mktemp("sql")
    text = "\n".join(f"-- name: {name}\nSELECT {number};" for name, number in numbers.items())
    (folder / "any.sql").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(db, "SQL_FOLDER", folder)
        found = db.statements.__wrapped__("any")
    assert found == {name: f"SELECT {number}" for name, number in numbers.items()}


@pytest.mark.parametrize("aggregate", db.aggregates())
def test_every_file_of_the_product_is_well_formed(aggregate: str) -> None:
    assert db.statements(aggregate)


@pytest.mark.parametrize(
    ("status", "rows"),
    [("INSERT 0 3", 3), ("UPDATE 12", 12), ("SELECT 0", 0), ("COPY 5", 5), ("CREATE TABLE", 0), ("BEGIN", 0)],
)
def test_rows_touched(status: str, rows: int) -> None:
    assert db._rows_touched(status) == rows


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (asyncpg.DeadlockDetectedError("deadlock detected"), TransactionConflict, "a.b: deadlock detected"),
        (asyncpg.SerializationError("could not serialize"), TransactionConflict, "a.b: could not serialize"),
        (asyncpg.QueryCanceledError("canceled"), StatementTimeout, "PLEIADES_DATABASE__STATEMENT_TIMEOUT_S"),
        (asyncpg.LockNotAvailableError("no lock"), StatementTimeout, "PLEIADES_DATABASE__LOCK_TIMEOUT_S"),
        (asyncpg.DiskFullError("could not extend file"), CannotStore, "free space"),
        (asyncpg.OutOfMemoryError("out of memory"), CannotStore, "a.b: out of memory: the server"),
        (asyncpg.ConfigurationLimitExceededError("temp_file_limit"), CannotStore, "raise that limit"),
        (
            asyncpg.ReadOnlySQLTransactionError("cannot execute UPDATE"),
            CannotStore,
            "the server is a standby",
        ),
        (asyncpg.PostgresIOError("could not write"), CannotStore, "the server's log"),
        (asyncpg.AdminShutdownError("terminating"), DatabaseUnavailable, "terminating"),
        (asyncpg.CannotConnectNowError("starting up"), DatabaseUnavailable, "starting up"),
        (asyncpg.TooManyConnectionsError("too many"), DatabaseUnavailable, "too many"),
        (ConnectionRefusedError(111, "Connection refused"), DatabaseUnavailable, "Connection refused"),
        (TimeoutError(), DatabaseUnavailable, "no answer in time"),
        (asyncpg.UndefinedTableError('relation "x" does not exist'), DatabaseError, "maia migrate"),
        (asyncpg.PostgresSyntaxError('syntax error at "FORM"'), DatabaseError, 'at "FORM"'),
        (asyncpg.InterfaceError("misuse"), DatabaseError, "a.b: misuse"),
        (asyncpg.UniqueViolationError("Key (k)=(secret)"), DataRefused, "a.b: unique violation"),
        (asyncpg.NumericValueOutOfRangeError("value secret"), DataRefused, "numeric value out of range"),
        (asyncpg.DataError("invalid input for query argument $2: 'secret'"), DataRefused, "argument $2"),
    ],
)
def test_foreign_errors_become_ours(error: Exception, kind: type[DatabaseError], text: str) -> None:
    ours = db._wrapped("a.b", error, closed=False)
    assert type(ours) is kind
    assert text in str(ours)
    assert "secret" not in str(ours)


def test_any_error_on_a_closed_connection_means_that_it_is_gone() -> None:
    assert type(db._wrapped("a.b", asyncpg.InterfaceError("x"), closed=True)) is DatabaseUnavailable


def test_an_old_server_is_refused_at_once() -> None:
    connections.check_version(15)
    with pytest.raises(DatabaseUnavailable, match="is PostgreSQL 14, but 15 or later") as refused:
        connections.check_version(14)
    assert not refused.value.transient


@given(st.text(max_size=50), st.text(max_size=50))
def test_lock_keys_fit_and_differ(one: str, other: str) -> None:
    assert -(2**63) <= db.lock_key(one) < 2**63
    assert (db.lock_key(one) == db.lock_key(other)) == (one == other)
