"""`maia doctor`: everything Pleiades needs, checked, each with what to do about it.

No check spends quota.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import typer

from maia.terminal import AsJson, ExitStatus, console, print_json, run, status_of

if TYPE_CHECKING:
    from atlas.config import Settings
    from atlas.db import Database

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
LITTLE_DISK_BYTES, TOO_LITTLE_DISK_BYTES = 2 * 1024**3, 200 * 1024**2
MOST_CLOCK_SKEW = timedelta(seconds=5)
LONG_TRANSACTION_S = 600
PREFECT_IMPORT_TIMEOUT_S = 120


class Verdict(StrEnum):
    """How a check went; a warning leaves Pleiades working."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, what was found and what to do; `status` is the exit status of a failure."""

    subject: str
    verdict: Verdict
    finding: str
    remedy: str | None = None
    status: ExitStatus = ExitStatus.DONE


def ok(subject: str, finding: str) -> Check:
    return Check(subject, Verdict.OK, finding)


def warning(subject: str, finding: str, remedy: str) -> Check:
    return Check(subject, Verdict.WARNING, finding, remedy)


def failure(subject: str, finding: str, remedy: str, status: ExitStatus) -> Check:
    return Check(subject, Verdict.FAILED, finding, remedy, status)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check Python, settings, keys, database, vault, API, clocks, disk and Prefect, and say what to do.

    Costs no quota. Exit statuses: 0 with warnings at most; else that of the first failure: 78 where settings
    need mending, 69 where something can't be reached, 1 otherwise.
    """
    checks = []
    for check in _run_checks():
        checks.append(check)
        if not as_json:
            _print(check)
    failed = [check for check in checks if check.verdict is Verdict.FAILED]
    if as_json:
        print_json({"healthy": not failed, "checks": [asdict(check) for check in checks]})
    else:
        counts = f"{len(checks)} checks, {len(failed)} failed"
        typer.echo(f"\n{counts}" if failed else f"\n{counts}: ready")
    if failed:
        raise typer.Exit(failed[0].status)


def _print(check: Check) -> None:
    from rich.text import Text

    sign, style = {
        Verdict.OK: ("✓", "green"),
        Verdict.WARNING: ("!", "yellow"),
        Verdict.FAILED: ("✗", "bold red"),
    }[check.verdict]
    line = Text.assemble((sign, style), f" {check.subject}: {check.finding}")
    if check.remedy:
        line.append(f"\n  → {check.remedy}", style="cyan")
    console().print(line, soft_wrap=True)


def _run_checks() -> Iterator[Check]:
    from atlas import config
    from atlas.errors import ConfigError
    from maia import logs

    yield _python()
    yield from _unknown_variables()
    yield _temporary_folder()
    yield _prefect()
    try:
        settings = config.load()
    except ConfigError as error:
        for problem in str(error).splitlines():
            yield failure(
                "settings", problem, "mend this setting: maia config docs", ExitStatus.CONFIGURATION
            )
        return
    logs.configure(settings)
    yield ok("settings", "well-formed")
    yield from _keys(settings)
    yield _clock(settings)
    yield from _disk(settings)
    yield from run(_collected(_services(settings)))


async def _collected(checks: AsyncIterator[Check]) -> list[Check]:
    return [check async for check in checks]


async def _services(settings: Settings) -> AsyncIterator[Check]:
    async for check in _database(settings):
        yield check
    yield await _api(settings)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        return ok("Python", version)
    remedy = "install Pleiades with Python 3.11, 3.12 or 3.13: make PYTHON=/path/to/python3.12"
    return failure("Python", f"{version} is not supported", remedy, ExitStatus.FAILED)


def _unknown_variables() -> Iterator[Check]:
    from atlas.config import unknown_variables
    from maia.commands.config import closest

    found = [(name, "the environment") for name in unknown_variables(os.environ)]
    found += [(name, ".env") for name in unknown_variables(_env_file())]
    for name, place in found:
        meant = closest(name)
        remedy = f"did you mean {meant}?" if meant else "remove it, or look its name up: maia config docs"
        yield warning("variables", f"{name} in {place} is no setting", remedy)
    if not found:
        yield ok("variables", "every PLEIADES_* variable is a setting")


def _env_file() -> dict[str, str]:
    from dotenv import dotenv_values

    return {name: value or "" for name, value in dotenv_values(".env").items()}


def _temporary_folder() -> Check:
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"\0")
    except OSError as error:
        remedy = "mount a writable temporary folder, or set TMPDIR to one"
        return failure("temporary folder", f"can't be written: {error}", remedy, ExitStatus.FAILED)
    return ok("temporary folder", f"{tempfile.gettempdir()} is writable")


def _prefect() -> Check:
    """Import the flow in a process of its own: Prefect takes its settings once, and its time."""
    import subprocess
    from importlib.metadata import version

    from flows import environment

    surroundings = dict(os.environ)
    environment.prepare(surroundings)
    versions = f"Prefect {version('prefect')} with FastAPI {version('fastapi')}"
    try:
        answer = subprocess.run(
            [sys.executable, "-c", "import flows.hunter"],
            capture_output=True,
            text=True,
            env=surroundings,
            timeout=PREFECT_IMPORT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return warning("Prefect", f"{versions} takes very long to import", "use maia hunter --direct")
    if answer.returncode == 0:
        server = os.environ.get("PREFECT_API_URL")
        return ok("Prefect", f"{versions}, {f'server at {server}' if server else 'a server for each run'}")
    reason = (answer.stderr.strip().splitlines() or ["it said nothing"])[-1]
    remedy = (
        "install what constraints.txt names (pip install -c constraints.txt …), or use maia hunter --direct"
    )
    return failure("Prefect", f"{versions} can't be imported: {reason}", remedy, ExitStatus.FAILED)


def _keys(settings: Settings) -> Iterator[Check]:
    from atlas.config import RINGS
    from atlas.errors import EmptyKeyRing

    for ring in RINGS:
        try:
            keys = settings.ring_keys(ring)
        except EmptyKeyRing as error:
            finding, remedy = f"ring {ring} has no key", str(error).partition(": ")[2]
            if ring == "hunting":
                yield failure("keys", finding, remedy, ExitStatus.CONFIGURATION)
            else:
                yield warning("keys", finding, remedy)
            continue
        projects = sorted({key.project for key in keys})
        yield ok(
            "keys", f"ring {ring}: {', '.join(key.fingerprint for key in keys)} of {', '.join(projects)}"
        )


def _clock(settings: Settings) -> Check:
    from atlas.clock import next_reset
    from atlas.composition import clock_of

    now = clock_of(settings).now()
    finding = f"{now:%Y-%m-%d %H:%M:%S} UTC, quotas reset at {next_reset(now):%H:%M} UTC"
    if settings.clock.start is None:
        return ok("clock", finding)
    remedy = "for the real API unset PLEIADES_CLOCK__START, PLEIADES_CLOCK__ANCHOR and PLEIADES_CLOCK__SPEED"
    return warning("clock", f"virtual, as for an emulator: {finding}", remedy)


def _disk(settings: Settings) -> Iterator[Check]:
    folder = settings.data_folder
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        yield failure("disk", f"{existing}: {error}", "set PLEIADES_DATA_DIR to a folder", ExitStatus.FAILED)
        return
    finding = f"{free / 1024**3:.1f} GiB free in {folder}"
    remedy = "free some space, or set PLEIADES_DATA_DIR to a folder with more"
    if free < TOO_LITTLE_DISK_BYTES:
        yield failure("disk", finding, remedy, ExitStatus.FAILED)
    elif free < LITTLE_DISK_BYTES:
        yield warning("disk", finding, remedy)
    else:
        yield ok("disk", finding)


async def _database(settings: Settings) -> AsyncIterator[Check]:
    """Reach the server without changing its schema, then what depends on it."""
    from atlas.db import Database
    from atlas.errors import AtlasError

    name = "embedded server" if settings.database_url is None else "DATABASE_URL"
    untouched = settings.model_copy(
        update={"database": settings.database.model_copy(update={"migrate": False})}
    )
    async with AsyncExitStack() as stack:
        started_s = time.perf_counter()
        try:
            database = await stack.enter_async_context(Database.open(untouched))
            await database.ping()
        except AtlasError as error:
            yield _failed("database", f"{name}: {error}", error, "mend that, then run maia doctor again")
            return
        took = f"reached in {time.perf_counter() - started_s:.2f} s"
        try:
            for check in await _server(database, name, took):
                yield check
            pending = await database.pending_migrations()
            yield _migrations(pending)
            yield await _vault(settings, database, migrated=not pending)
        except AtlasError as error:
            yield _failed("database", str(error), error, "look into the server's log")


async def _server(database: Database, name: str, took: str) -> list[Check]:
    row = await database.fetchrow("health.server")
    assert row is not None
    size = f"{row['bytes'] / 1024**2:,.0f} MiB"
    checks = [ok("database", f"{name}: PostgreSQL {row['version']}, {size}, {took}")]
    skew = abs(datetime.now(UTC) - row["now"])
    if skew > MOST_CLOCK_SKEW:
        remedy = "synchronise both machines' clocks (NTP)"
        checks.append(warning("database", f"its clock differs by {skew.total_seconds():.0f} s", remedy))
    if row["oldest_transaction_s"] > LONG_TRANSACTION_S:
        minutes = row["oldest_transaction_s"] / 60
        remedy = "end it: while it lasts, claims get dearer (SELECT * FROM pg_stat_activity)"
        checks.append(warning("database", f"a transaction is {minutes:.0f} minutes old", remedy))
    return checks


def _migrations(pending: list[str]) -> Check:
    if pending:
        return warning("migrations", f"pending: {', '.join(pending)}", "apply them: maia migrate")
    return ok("migrations", "all applied")


async def _vault(settings: Settings, database: Database, *, migrated: bool) -> Check:
    from atlas.composition import clock_of
    from atlas.errors import VaultError
    from atlas.vault import Vault

    name = settings.vault_provider
    try:
        async with Vault.open(settings, database, clock_of(settings)) as vault:
            await vault.ping()
            waiting = await vault.waiting() if migrated else 0
    except VaultError as error:
        remedy = "mend that; meanwhile answers wait in the database, nothing is lost"
        if settings.vault.required:
            remedy = "mend that: PLEIADES_VAULT__REQUIRED=true stops the hunter until then"
            return _failed("vault", f"{name}: {error}", error, remedy)
        return warning("vault", f"{name}: {error}", remedy)
    if waiting:
        remedy = "nothing to do: the hunter stores them cycle by cycle"
        return warning("vault", f"{name} answers, {waiting:,} objects wait", remedy)
    return ok("vault", f"{name} answers, nothing waits")


async def _api(settings: Settings) -> Check:
    """Ask the API's host for anything, without a key: whatever it answers, it is reached, at no cost."""
    from email.utils import parsedate_to_datetime

    import aiohttp

    url = settings.youtube.base_url
    timeout = aiohttp.ClientTimeout(
        total=settings.youtube.timeout_s, connect=settings.youtube.connect_timeout_s
    )
    remedy = "check the network and PLEIADES_YOUTUBE__BASE_URL; to practise without: maia demo"
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            session.head(url, allow_redirects=False) as answer,
        ):
            date = answer.headers.get("Date")
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        reason = str(error) or type(error).__name__
        return failure("YouTube API", f"{url} can't be reached: {reason}", remedy, ExitStatus.UNAVAILABLE)
    skew = abs(datetime.now(UTC) - parsedate_to_datetime(date)) if date else timedelta()
    if skew > MOST_CLOCK_SKEW:
        finding = f"{url} is reached, but this machine's clock differs by {skew.total_seconds():.0f} s"
        return warning("YouTube API", finding, "synchronise the clock (NTP): quota days depend on it")
    return ok("YouTube API", f"{url} is reached")


def _failed(subject: str, finding: str, error: Exception, remedy: str) -> Check:
    return failure(subject, finding, remedy, status_of(error) or ExitStatus.FAILED)
