"""DATABASE_URL as it is handed out: every parameter is translated, dropped or passed on."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from asyncpg.connect_utils import _parse_connect_dsn_and_args
from hypothesis import given
from hypothesis import strategies as st

from atlas import dsn
from atlas.errors import ConfigError

BASE = "postgresql://maia:pass@db.example.com:5433/pleiades"

DROPPED = [
    "channel_binding=require",
    "gssencmode=disable",
    "keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=5",
    "tcp_user_timeout=1000",
    "client_encoding=utf8",
    "requirepeer=postgres",
    "sslcompression=0&sslsni=1",
    "load_balance_hosts=random",
    "min_protocol_version=3.0",
    "pgbouncer=true&connection_limit=1&pool_timeout=10",
    "supa=base-pooler.x",
    "prepareThreshold=0",
    "uselibpqcompat=true",
    "sslmode&options=",
]
TRANSLATED = [
    ("ssl=true", "sslmode=require"),
    ("ssl=1", "sslmode=require"),
    ("ssl=false", "sslmode=disable"),
    ("ssl=verify-ca&sslrootcert={file}", "sslmode=verify-ca&sslrootcert={file}"),
    ("sslmode=no-verify", "sslmode=require"),
    ("sslmode=REQUIRE", "sslmode=require"),
    ("sslmode=prefer&ssl=true", "sslmode=prefer"),
    ("sslmode=verify_full&sslrootcert={file}", "sslmode=verify-full&sslrootcert={file}"),
    ("target_session_attrs=read-write", "target_session_attrs=read-write"),
    ("user=somebody", "user=somebody"),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.touch()
    return path


@pytest.fixture(autouse=True)
def _no_libpq_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PGHOST", "PGPORT", "PGSSLROOTCERT", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("query", DROPPED)
def test_what_no_server_knows_is_dropped(query: str) -> None:
    address = dsn.parse(f"{BASE}?{query}")
    assert address.url == BASE
    assert address.settings == {"application_name": "pleiades"}


@pytest.mark.parametrize(("query", "expected"), TRANSLATED)
def test_what_asyncpg_takes_is_translated(query: str, expected: str, file: Path) -> None:
    url, _, found = dsn.parse(f"{BASE}?{query.format(file=file)}").url.partition("?")
    assert url == BASE
    assert parse_qs(found) == parse_qs(expected.format(file=file))


@pytest.mark.parametrize(
    ("query", "settings"),
    [
        ("options=-c%20search_path%3Dapp", {"options": "-c search_path=app"}),
        ("search_path=app&statement_timeout=5s", {"search_path": "app", "statement_timeout": "5s"}),
        ("schema=app", {"search_path": "app"}),
        ("currentSchema=app", {"search_path": "app"}),
        ("application_name=lab", {"application_name": "lab"}),
        ("fallback_application_name=psql", {"application_name": "psql"}),
        ("application_name=lab&fallback_application_name=psql", {"application_name": "lab"}),
    ],
)
def test_what_the_server_knows_is_passed_on(query: str, settings: dict[str, str]) -> None:
    address = dsn.parse(f"{BASE}?{query}")
    assert address.url == BASE
    assert address.settings == {"application_name": "pleiades"} | settings


@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 5), ("0.5", 0.5), ("0", None), ("-1", None), ("inf", None), ("nan", None)]
)
def test_the_time_to_connect_is_bounded_as_asked(text: str, seconds: float | None) -> None:
    assert dsn.parse(f"{BASE}?connect_timeout={text}").connect_timeout_s == seconds


@pytest.mark.parametrize(
    ("url", "place"),
    [
        (BASE, "db.example.com:5433 (database pleiades)"),
        ("postgres://db.example.com/a%20b", "db.example.com:5432 (database a b)"),
        ("postgresql+asyncpg://db/x", "db:5432 (database x)"),
        ("postgresql://[::1]:5433/x", "[::1]:5433 (database x)"),
        ("postgresql://[::1]/x", "[::1]:5432 (database x)"),
        ("postgresql://a:1,b:2/x", "a:1, b:2 (database x)"),
        ("postgresql:///x?host=/run/pg&port=7", "/run/pg/.s.PGSQL.7 (database x)"),
        ("postgresql:///?host=a,b&port=1,2&dbname=y", "a:1, b:2 (database y)"),
        ("postgresql:///x?hostaddr=10.0.0.7", "10.0.0.7:5432 (database x)"),
        ("postgresql:///?service=lab", "service lab"),
        ("postgresql://", "localhost:5432"),
    ],
)
def test_messages_name_the_place(url: str, place: str) -> None:
    assert dsn.parse(url).place == place


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("mysql://me:hunter2@h/x", "is not the URL of a PostgreSQL database"),
        ("hunter2", "is not the URL of a PostgreSQL database"),
        ("postgresql://me:hunter2#x@h/x", "special characters as %XX"),
        ("postgresql://me:hunter2@[h/x", "is not the URL"),
        ("postgresql://me:hunter2@h:port/x", "is not the URL"),
        ("postgresql://me:hunter2@h:70000/x", "is not the URL"),
        (f"{BASE}?sslmode=strict", "sslmode must be one of disable, allow, prefer, require"),
        (f"{BASE}?ssl=perhaps", "sslmode must be one of"),
        (f"{BASE}?target_session_attrs=writer", "target_session_attrs must be one of any, primary"),
        (f"{BASE}?connect_timeout=soon", "connect_timeout must be a number of seconds"),
        (
            f"{BASE}?sslmode=verify-full&sslrootcert=/no/ca.pem",
            r"sslrootcert: cannot read /no/ca\.pem: No",
        ),
        (f"{BASE}?sslmode=require&sslcert=/no/me.pem", r"sslcert: cannot read /no/me\.pem: No"),
        (f"{BASE}?sslmode=verify-full", "add sslrootcert=system"),
    ],
)
def test_what_is_wrong_is_named_without_the_password(url: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as refused:
        dsn.parse(url)
    assert "DATABASE_URL" in str(refused.value)
    assert "hunter" not in str(refused.value)


def test_certificates_of_the_machine_are_asked_for_by_name() -> None:
    address = dsn.parse(f"{BASE}?sslmode=verify-full&sslrootcert=system")
    context = address.ssl()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert dsn.parse(f"{BASE}?sslmode=require").ssl() is None


def test_no_password_is_shown() -> None:
    assert "pass@" not in repr(dsn.parse(f"{BASE}?password=pass@"))


@given(
    user=st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=8),
    password=st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=8),
)
def test_asyncpg_reads_what_was_meant(user: str, password: str) -> None:
    url = dsn.parse(f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@h:1/x?ssl=off").url
    addresses, parameters = _parse_connect_dsn_and_args(
        dsn=url, host=None, port=None, user=None, password=None, passfile=None, database=None, ssl=None,
        service=None, servicefile=None, direct_tls=None, server_settings=None, target_session_attrs=None,
        krbsrvname=None, gsslib=None,
    )  # fmt: skip
    assert addresses == [("h", 1)]
    assert (parameters.user, parameters.password, parameters.database) == (user, password, "x")
    assert parameters.ssl is False
    assert parameters.server_settings is None


def test_a_password_may_hold_an_unquoted_at_sign() -> None:
    assert urlsplit(dsn.parse("postgresql://me:p@ss@h/x").url).netloc == "me:p%40ss@h"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"{BASE}?sslmode=require", "postgresql://maia:pass@db.example.com:5433/prefect?sslmode=require"),
        ("postgresql:///x?host=%2Frun&user=me", "postgresql:///prefect?host=%2Frun&user=me"),
        ("postgresql://h?dbname=x", "postgresql://h/prefect"),
    ],
)
def test_another_database_of_the_same_server(url: str, expected: str) -> None:
    assert dsn.with_database(url, "prefect") == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?sslmode=require&channel_binding=require&connect_timeout=5", "?ssl=require"),
        ("?sslmode=verify-full&sslrootcert=system", "?ssl=verify-full"),
        ("?sslmode=verify-full&sslrootcert={file}", "?ssl=verify-full"),
        ("?application_name=x&search_path=y", ""),
    ],
)
def test_sqlalchemy_gets_no_parameter_that_it_would_refuse(query: str, expected: str, file: Path) -> None:
    url = f"{BASE}{query.format(file=file)}"
    assert dsn.sqlalchemy_url(url) == BASE.replace("postgresql", "postgresql+asyncpg") + expected


def test_certificates_reach_other_processes_by_their_environment(file: Path) -> None:
    url = f"{BASE}?sslmode=verify-full&sslrootcert={file}&sslcert={file}"
    assert dsn.libpq_environment(url) == {"PGSSLROOTCERT": str(file), "PGSSLCERT": str(file)}
    assert Path(dsn.libpq_environment(f"{BASE}?sslrootcert=system")["PGSSLROOTCERT"]).is_absolute()
    assert dsn.libpq_environment(BASE) == {}
