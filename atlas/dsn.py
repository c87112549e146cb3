"""Parse DATABASE_URL as hosting providers hand it out, and translate it for asyncpg.

Providers write URLs for libpq, Node, Prisma or SQLAlchemy. asyncpg understands some of libpq's parameters and
sends the others to the server as settings, which the server refuses as unrecognized. So parameters are
translated where there is an equivalent, dropped where they concern only the client, and passed on otherwise,
since `search_path` and `statement_timeout`, for example, are indeed server settings.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from atlas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

FORM = "postgresql://user:password@host:5432/database (special characters as %XX)"
DEFAULT_PORT = 5432
APPLICATION_NAME = "pleiades"

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_CERTIFICATES = {
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
}
_SESSION_ATTRIBUTES = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")

_ASYNCPG = frozenset(
    {
        "host", "port", "dbname", "database", "user", "password", "passfile", "service", "sslmode", "sslcert",
        "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation", "ssl_min_protocol_version",
        "ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib",
    }
)  # fmt: skip
"""Parameters that asyncpg itself understands."""

_LIBPQ = frozenset(
    {
        # asyncpg supports only SCRAM without channel binding, and only UTF-8.
        "channel_binding", "client_encoding", "gssdelegation", "gssencmode", "hostaddr", "keepalives",
        "keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts",
        "max_protocol_version", "min_protocol_version", "oauth_client_id", "oauth_client_secret",
        "oauth_issuer", "oauth_scope", "replication", "require_auth", "requirepeer", "requiressl",
        "scram_client_key", "scram_server_key", "servicefile", "sslcertmode", "sslcompression", "sslcrldir",
        "sslkeylogfile", "sslsni", "tcp_user_timeout", "tty",
    }
)  # fmt: skip
_OTHER_CLIENTS = frozenset(
    {
        # From Prisma, Supabase, SQLAlchemy, pgx, Node, Npgsql and JDBC.
        "connection_limit", "loggerlevel", "pgbouncer", "pool_max_conns", "pool_mode", "pool_timeout",
        "pooling", "prepared_statement_cache_size", "preparethreshold", "socket_timeout", "sslaccept",
        "sslfactory", "sslidentity", "statement_cache_size", "supa", "trustservercertificate",
        "uselibpqcompat",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Address:
    """A database's location and how to connect to it."""

    url: str = field(repr=False)
    """For asyncpg: only parameters that it understands."""
    place: str
    """For messages: host, port and database, without user and password."""
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    """For the server: `application_name`, `options` and every parameter not known here."""
    connect_timeout_s: float | None = None
    trusts_system: bool = False
    """`sslrootcert=system`: check the server's certificate against the authorities this machine trusts."""
    ssl_mode: str | None = None

    def ssl(self) -> Any:
        """The TLS context for asyncpg; None if the URL's parameters suffice."""
        if not self.trusts_system:
            return None
        import ssl

        context = ssl.create_default_context()
        context.set_alpn_protocols(["postgresql"])
        query = dict(parse_qsl(urlsplit(self.url).query))
        if certificate := query.get("sslcert"):
            context.load_cert_chain(certificate, query.get("sslkey"), query.get("sslpassword"))
        return context


def parse(url: str) -> Address:
    """Parse DATABASE_URL; ConfigError says what is wrong with it and never quotes a secret."""
    try:
        parts = urlsplit(url.strip())
        pairs = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        raise _malformed() from None
    if parts.scheme.partition("+")[0] not in {"postgresql", "postgres"} or parts.fragment:
        raise _malformed() from None
    query = {_lower(name): value for name, value in pairs if value}
    settings = _server_settings(query)
    timeout_s = _timeout_s(query.pop("connect_timeout", None))
    own = {name: value for name, value in query.items() if name in _ASYNCPG}
    if "host" not in own and "hostaddr" in query and not parts.hostname:
        own["host"] = query["hostaddr"]
    trusts_system = _normalise_tls(own, query.get("ssl"))
    _check_choice("target_session_attrs", own.get("target_session_attrs"), _SESSION_ATTRIBUTES)
    place = _place(parts, own)
    clean = f"postgresql://{_net_location(parts)}{parts.path}"
    return Address(
        f"{clean}?{urlencode(own)}" if own else clean,
        place,
        settings,
        timeout_s,
        trusts_system,
        own.get("sslmode"),
    )


def with_database(url: str, database: str) -> str:
    """The URL with another database name."""
    parts = urlsplit(url)
    query = [pair for pair in parse_qsl(parts.query) if pair[0] not in {"dbname", "database"}]
    path = f"/{quote(database, safe='')}"
    # geturl() would drop the slashes before an empty host.
    return f"{parts.scheme}://{parts.netloc}{path}{'?' if query else ''}{urlencode(query)}"


def sqlalchemy_url(url: str) -> str:
    """The same database as an SQLAlchemy URL for asyncpg, where sslmode is called ssl.

    It can't express certificates or server settings: for certificates see `libpq_environment`.
    """
    parts = urlsplit(parse(url).url)
    options = dict(parse_qsl(parts.query))
    user, mode = options.pop("user", None), options.pop("sslmode", None)
    kept = {name: value for name, value in options.items() if name not in _CERTIFICATES}
    query = urlencode(kept | ({"ssl": mode} if mode else {}))
    netloc = f"{quote(user, safe='')}@" if user and not parts.netloc else parts.netloc
    return f"postgresql+asyncpg://{netloc}{parts.path}{'?' if query else ''}{query}"


def libpq_environment(url: str) -> dict[str, str]:
    """Environment variables that pass the URL's certificates to asyncpg in another process."""
    address = parse(url)
    options = dict(parse_qsl(urlsplit(address.url).query))
    named = {variable: options[name] for name, variable in _CERTIFICATES.items() if name in options}
    if address.trusts_system:
        import ssl

        paths = ssl.get_default_verify_paths()
        named["PGSSLROOTCERT"] = paths.cafile or paths.openssl_cafile
    return named


def _lower(name: str) -> str:
    """A parameter's name in lower case, and JDBC's and Prisma's names for `search_path` as that."""
    return {"currentschema": "search_path", "schema": "search_path"}.get(name.lower(), name.lower())


def _server_settings(query: Mapping[str, str]) -> dict[str, str]:
    ours = _ASYNCPG | _LIBPQ | _OTHER_CLIENTS | {"connect_timeout", "ssl", "fallback_application_name"}
    settings = {name: value for name, value in query.items() if name not in ours}
    if fallback := query.get("fallback_application_name"):
        settings.setdefault("application_name", fallback)
    settings.setdefault("application_name", APPLICATION_NAME)
    return settings


def _timeout_s(text: str | None) -> float | None:
    """The connect_timeout of libpq in seconds; None for 0 or less, which means no limit."""
    try:
        seconds = float(text or 0)
    except ValueError:
        raise ConfigError("DATABASE_URL: connect_timeout must be a number of seconds") from None
    return seconds if 0 < seconds < float("inf") else None


def _normalise_tls(own: dict[str, str], ssl: str | None) -> bool:
    """Express every way of asking for TLS as `sslmode`; whether to trust this machine's authorities."""
    if ssl is not None and "sslmode" not in own:
        own["sslmode"] = {
            "true": "require", "1": "require", "on": "require", "yes": "require", "t": "require",
            "false": "disable", "0": "disable", "off": "disable", "no": "disable", "f": "disable",
        }.get(ssl.lower(), ssl)  # fmt: skip
    mode = own["sslmode"] = own.get("sslmode", "").lower().replace("_", "-")
    if mode == "no-verify":
        mode = own["sslmode"] = "require"
    if not mode:
        del own["sslmode"]
    _check_choice("sslmode", mode or None, _SSL_MODES)
    if own.get("sslrootcert") == "system":
        # As in libpq, which refuses a weaker mode with it.
        del own["sslrootcert"]
        own["sslmode"] = "verify-full"
        return True
    for name in ("sslrootcert", "sslcert", "sslkey", "sslcrl"):
        _check_readable(name, own.get(name))
    if mode.startswith("verify") and "sslrootcert" not in own and not _has_root_certificate():
        raise ConfigError(
            f"DATABASE_URL: sslmode={mode} needs a certificate authority to check the server against: add "
            "sslrootcert=system for those this machine trusts, or sslrootcert=FILE for your provider's"
        )
    return False


def _has_root_certificate() -> bool:
    given = os.environ.get("PGSSLROOTCERT")
    try:
        return Path(given or Path.home() / ".postgresql" / "root.crt").exists()
    except (OSError, RuntimeError):
        return False


def _check_readable(name: str, path: str | None) -> None:
    if path is None:
        return
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"DATABASE_URL: {name}: cannot read {path}: {error.strerror}") from None


def _check_choice(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise ConfigError(f"DATABASE_URL: {name} must be one of {', '.join(choices)}")


def _net_location(parts: SplitResult) -> str:
    """Credentials and hosts, split at the last @ because a password may contain one."""
    credentials, at, hosts = parts.netloc.rpartition("@")
    user, colon, password = credentials.partition(":")
    return f"{quote(unquote(user), safe='')}{colon}{quote(unquote(password), safe='')}{at}{hosts}"


def _place(parts: SplitResult, own: Mapping[str, str]) -> str:
    """Host and port of each server, and the database, for messages."""
    if "service" in own and not parts.netloc:
        return f"service {own['service']}"
    hosts = parts.netloc.rpartition("@")[2] or own.get("host") or os.environ.get("PGHOST", "localhost")
    ports = (own.get("port") or os.environ.get("PGPORT") or str(DEFAULT_PORT)).split(",")
    servers = []
    for number, spec in enumerate(unquote(hosts).split(",")):
        host, colon, port = spec.rpartition(":")
        if not colon or (spec.startswith("[") and spec.endswith("]")) or spec.startswith("/"):
            host, port = spec, ports[min(number, len(ports) - 1)]
        if not port.isdecimal() or int(port) > 0xFFFF:
            # Often a password with an unescaped slash, which cuts the host off.
            raise _malformed() from None
        servers.append(f"{host}/.s.PGSQL.{port}" if host.startswith("/") else f"{host}:{port}")
    database = own.get("dbname") or own.get("database") or unquote(parts.path.removeprefix("/"))
    return ", ".join(servers) + (f" (database {database})" if database else "")


def _malformed() -> ConfigError:
    return ConfigError(f"DATABASE_URL is not the URL of a PostgreSQL database, such as {FORM}")
