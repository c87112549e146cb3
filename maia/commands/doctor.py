"""`maia doctor`: checks everything that Pleiades needs, and says how to fix what is wrong.

No check spends quota.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import typer

from atlas.wording import counted
from maia.commands.terminal import AsJson, ExitStatus, console, print_json, print_text, run, status_of

if TYPE_CHECKING:
    from pydantic import SecretStr

    from atlas.composition import Atlas
    from atlas.config import Settings
    from atlas.db import Database
    from atlas.keyring import Availability, KeyStatus, LedgerLine

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
LITTLE_DISK_BYTES, TOO_LITTLE_DISK_BYTES = 2 * 1024**3, 200 * 1024**2
MOST_CLOCK_SKEW = timedelta(seconds=5)
LONG_TRANSACTION_S = 600
PREFECT_IMPORT_TIMEOUT_S = 120


class CheckOutcome(StrEnum):
    """The result of a check. With warnings, Pleiades still works."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """A check's subject, result, finding and remedy; `status` is the exit status of a failure.

    `blocks_agents` marks a warning that needs no repair, although no agent can work until it has passed.
    """

    subject: str
    verdict: CheckOutcome
    finding: str
    remedy: str | None = None
    status: ExitStatus = ExitStatus.DONE
    blocks_agents: bool = False


def ok(subject: str, finding: str) -> Check:
    return Check(subject, CheckOutcome.OK, finding)


def warning(subject: str, finding: str, remedy: str) -> Check:
    return Check(subject, CheckOutcome.WARNING, finding, remedy)


def failure(subject: str, finding: str, remedy: str, status: ExitStatus) -> Check:
    return Check(subject, CheckOutcome.FAILED, finding, remedy, status)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check everything Pleiades needs, and say how to fix what is wrong.

    Checks Python, settings, API keys, quota, database, vault, the API, clocks, disk space and Prefect, but
    spends no quota. Exit statuses: 0 if nothing failed, even with warnings; otherwise that of the first
    failure: 78 if a setting or a key is wrong, 69 if something can't be reached, 1 for anything else.
    """
    checks = []
    for check in _run_checks():
        checks.append(check)
        if not as_json:
            _print(check)
    failed = [check for check in checks if check.verdict is CheckOutcome.FAILED]
    blocking = [check for check in checks if check.blocks_agents]
    if as_json:
        overall = {"healthy": not failed, "ready": not failed and not blocking}
        print_json(overall | {"checks": [asdict(check) for check in checks]})
    else:
        verdict = "" if failed else "; not ready yet, see above" if blocking else ": ready"
        print_text(f"\n{counted(len(checks), 'check')}, {len(failed)} failed{verdict}")
    if failed:
        raise typer.Exit(failed[0].status)


def _print(check: Check) -> None:
    """Print a check; on a terminal, long lines wrap under the start of their text."""
    from rich.table import Table
    from rich.text import Text

    sign, style = {
        CheckOutcome.OK: ("✓", "green"),
        CheckOutcome.WARNING: ("!", "yellow"),
        CheckOutcome.FAILED: ("✗", "bold red"),
    }[check.verdict]
    lines = [(sign, Text(f"{check.subject}: {check.finding}"), style)]
    if check.remedy:
        lines.append((" ", Text(f"→ {check.remedy}", style="cyan"), style))
    out = console()
    for mark, text, mark_style in lines:
        if out.is_terminal:
            hanging = Table.grid(padding=(0, 1, 0, 0))
            hanging.add_row(Text(mark, style=mark_style), text)
            out.print(hanging)
        else:
            out.print(Text.assemble((mark, mark_style), " ", text), soft_wrap=True)


def _run_checks() -> Iterator[Check]:
    from atlas import config, network
    from atlas.errors import ConfigError
    from maia import logs

    yield _python()
    yield from _unknown_variables()
    yield _temporary_folder()
    yield _prefect()
    try:
        settings = config.load()
        network.prepare(settings.network)
    except ConfigError as error:
        for problem in str(error).splitlines():
            yield failure(
                "settings", problem, "correct this setting: maia config docs", ExitStatus.CONFIGURATION
            )
        return
    logs.configure(settings)
    yield ok("settings", "well-formed")
    yield from _keys(settings)
    yield _clock(settings)
    yield _failure_texts(settings)
    yield from _maintainer(settings)
    yield from _disk(settings)
    yield from run(_collect(_services(settings)))


async def _collect(checks: AsyncIterator[Check]) -> list[Check]:
    return [check async for check in checks]


async def _services(settings: Settings) -> AsyncIterator[Check]:
    async for check in _database(settings):
        yield check
    if settings.redis_url is not None:
        yield await _redis(settings.redis_url, settings.federation.cluster_name)
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
        remedy = f"did you mean {meant}?" if meant else "remove it, or look up its name: maia config docs"
        yield warning("variables", f"{name} in {place} is not a setting", remedy)
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


_PREFECT_PROGRAM = f"""
import sys
import flows.agents
from flows import server
try:
    print(server.answering() or "")
except server.PrefectServerAway as error:
    print(error.finding, error.remedy, sep="\\n")
    sys.exit({ExitStatus.UNAVAILABLE})
"""


def _prefect() -> Check:
    """Import the flows and query the server, in another process as Prefect reads its settings only once."""
    import subprocess
    from importlib.metadata import version

    from flows import environment

    variables = dict(os.environ)
    environment.prepare(variables)
    versions = f"Prefect {version('prefect')} with FastAPI {version('fastapi')}"
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _PREFECT_PROGRAM],
            capture_output=True,
            text=True,
            env=variables,
            timeout=PREFECT_IMPORT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return warning("Prefect", f"{versions} takes very long to import", "use maia hunter --direct")
    printed = answer.stdout.strip()
    if answer.returncode == 0:
        server = f"server at {printed}" if printed else "a temporary server for each run"
        return ok("Prefect", f"{versions}, {server}")
    if answer.returncode == ExitStatus.UNAVAILABLE:
        finding, remedy = printed.splitlines()
        return failure("Prefect", finding, remedy, ExitStatus.UNAVAILABLE)
    reason = (answer.stderr.strip().splitlines() or ["it printed no reason"])[-1]
    remedy = (
        "install the versions in constraints.txt (pip install -c constraints.txt …), "
        "or use maia hunter --direct"
    )
    return failure("Prefect", f"{versions} can't be imported: {reason}", remedy, ExitStatus.FAILED)


def _keys(settings: Settings) -> Iterator[Check]:
    from atlas.config import RINGS
    from atlas.errors import EmptyKeyRing

    no_keys = not any(settings.key_pool.values())
    for ring in RINGS[:1] if no_keys else RINGS:
        try:
            keys = settings.ring_keys(ring)
        except EmptyKeyRing as error:
            finding = "there is no API key" if no_keys else f"ring {ring} has no key"
            remedy = str(error).partition(": ")[2]
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
    finding = f"{now:%Y-%m-%d %H:%M:%S} UTC; quotas reset at {next_reset(now):%H:%M} UTC"
    if settings.clock.start is None:
        return ok("clock", finding)
    remedy = "for the real API unset PLEIADES_CLOCK__START, PLEIADES_CLOCK__ANCHOR and PLEIADES_CLOCK__SPEED"
    return warning("clock", f"virtual, as for an emulator: {finding}", remedy)


def _failure_texts(settings: Settings) -> Check:
    """Which back end classifies failures; a model is looked at, but not loaded."""
    from maia.learner.llama import llama_problem

    model = settings.learner.llama_model
    if model is None:
        finding = "the statistical back end classifies them, as PLEIADES_LEARNER__LLAMA_MODEL is not set"
        return ok("failure texts", finding)
    problem = llama_problem(model)
    if problem is None:
        return ok("failure texts", f"llama.cpp classifies them with {model}")
    remedy = "mend that, or unset PLEIADES_LEARNER__LLAMA_MODEL; until then the statistical back end serves"
    return warning("failure texts", problem, remedy)


def _maintainer(settings: Settings) -> Iterator[Check]:
    """Where alerts go, and what the maintainer may change by itself."""
    if urls := len(settings.notifier.urls):
        yield ok("alerts", f"sent to {counted(urls, 'address', 'addresses')}; to try: maia alerts test")
    else:
        remedy = "set PLEIADES_NOTIFIER__URLS, then run maia alerts test"
        yield warning("alerts", "only logged, as no address is set", remedy)
    if allowed := settings.maintainer.apply:
        yield ok("maintainer", f"may by itself: {', '.join(allowed)}")
    else:
        remedy = "allow it, for example PLEIADES_MAINTAINER__APPLY=backup,cleanup,partitions,vacuum,reindex"
        yield warning("maintainer", "only shows what it would do: no backups, no clean-up", remedy)


def _disk(settings: Settings) -> Iterator[Check]:
    from atlas import paths
    from atlas.errors import ConfigError

    try:
        folder = settings.data_folder
        free = shutil.disk_usage(paths.nearest(folder)).free
    except (ConfigError, OSError) as error:
        yield failure("disk", str(error), "set PLEIADES_DATA_DIR to a folder", ExitStatus.FAILED)
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
    """Check the server, without changing its schema, then what depends on it."""
    from atlas.composition import Atlas
    from atlas.errors import AtlasError

    name = "embedded server" if settings.database_url is None else "DATABASE_URL"
    # The vault has a check of its own, and must not keep us from checking the database.
    without_changes = settings.model_copy(
        update={
            "database": settings.database.model_copy(update={"migrate": False}),
            "vault_provider": "file",
        }
    )
    async with AsyncExitStack() as stack:
        started_s = time.perf_counter()
        try:
            atlas = await stack.enter_async_context(Atlas.open(without_changes))
            await atlas.db.ping()
        except AtlasError as error:
            yield _failure_from("database", f"{name}: {error}", error, "fix that, then run maia doctor again")
            return
        took = f"reached in {time.perf_counter() - started_s:.2f} s"
        try:
            for check in await _server(atlas, name, took):
                yield check
            pending = await atlas.db.pending_migrations()
            yield _migrations(pending, automatic=settings.database.migrate)
            yield await _vault(settings, atlas.db, migrated=not pending)
            for check in [] if pending else [*await _rings(atlas), await _exposure(atlas)]:
                yield check
        except AtlasError as error:
            yield _failure_from("database", str(error), error, "look at the server's log")


async def _server(atlas: Atlas, name: str, took: str) -> list[Check]:
    from atlas.clock import SystemClock
    from maia.cycle.cycle import CLOCK_TOLERANCE

    row = await atlas.db.fetchrow("health.server")
    assert row is not None
    size = f"{row['bytes'] / 1024**2:,.0f} MiB"
    checks = [ok("database", f"{name}: PostgreSQL {row['version']}, {size}, {took}")]
    skew = abs(datetime.now(UTC) - row["now"])
    if skew > MOST_CLOCK_SKEW:
        finding, remedy = (
            f"its clock differs by {skew.total_seconds():.0f} s",
            "synchronise the clocks of both machines (NTP)",
        )
        if skew > CLOCK_TOLERANCE and isinstance(atlas.clock, SystemClock):
            finding += ": agents refuse to run"
            checks.append(failure("database", finding, remedy, ExitStatus.CONFIGURATION))
        else:
            checks.append(warning("database", finding, remedy))
    if row["oldest_transaction_s"] > LONG_TRANSACTION_S:
        minutes = row["oldest_transaction_s"] / 60
        remedy = "end it, as it slows agents down more and more (SELECT * FROM pg_stat_activity)"
        checks.append(
            warning(
                "database", f"a transaction has been open for {counted(round(minutes), 'minute')}", remedy
            )
        )
    return checks


def _migrations(pending: list[str], *, automatic: bool) -> Check:
    if pending:
        which = ", ".join(pending) if len(pending) < 3 else f"{pending[0]} to {pending[-1]}"
        remedy = "apply them: maia migrate" + (", or let the next command do it" if automatic else "")
        return warning("migrations", f"{len(pending)} pending: {which}", remedy)
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
        remedy = "fix that; until then answers are kept in the database, and nothing is lost"
        if settings.vault.required:
            remedy = "fix that: PLEIADES_VAULT__REQUIRED=true stops the hunter until then"
            return _failure_from("vault", f"{name}: {error}", error, remedy)
        return warning("vault", f"{name}: {error}", remedy)
    if waiting:
        remedy = "nothing to do: the hunter moves some of them into the vault in each cycle"
        return warning(
            "vault",
            f"{name} works, {counted(waiting, 'object is', 'objects are')} still in the database",
            remedy,
        )
    return ok("vault", f"{name} works")


async def _rings(atlas: Atlas) -> list[Check]:
    """Check keys and quota in the ledger: disabled keys, and buckets that are closed or used up."""
    from atlas.config import RINGS
    from atlas.keyring import KeyRing

    checks: dict[str, Check] = {}
    for ring in (KeyRing(name, atlas=atlas) for name in RINGS if atlas.settings.key_pool[name]):
        lines = [line for line in await ring.ledger() if line.ring_limit]
        for key in (key for line in lines for key in line.keys):
            checks.setdefault(key.fingerprint, _key(key))
        for bucket in dict.fromkeys(line.bucket for line in lines):
            of_bucket = [line for line in lines if line.bucket == bucket]
            checks[f"{ring.name} {bucket}"] = _quota(of_bucket, ring.availability_in(of_bucket, bucket))
    return list(checks.values())


async def _exposure(atlas: Atlas) -> Check:
    """Check that nobody but this machine reaches the service without a key."""
    from atlas.adapters.access import AccessDAO
    from atlas.network import is_loopback

    settings = atlas.settings
    dao = AccessDAO(atlas.db, clock=atlas.clock, settings=settings)
    keys, place = await dao.keys(), f"{settings.host}:{settings.port}"
    if keys:
        return ok("service", f"{place}, for whoever has one of {counted(len(keys), 'key')}")
    if is_loopback(settings.host):
        return ok("service", f"{place}, for programs of this machine; no key is needed")
    finding = f"maia api and maia up refuse to listen on {place}, as nobody would need a key"
    remedy = "add one: maia keys api add NAME --scope read|write|admin; or set HOST=127.0.0.1"
    return warning("service", finding, remedy)


def _key(key: KeyStatus) -> Check:
    from atlas.keyring import KeyState

    finding = f"{key.fingerprint} is {key.state}" + (f": {key.reason}" if key.reason else "")
    match key.state:
        case KeyState.DISABLED:
            remedy = f"fix the cause, then run maia keys --enable {key.fingerprint}; or replace the key"
            return failure("key in use", finding, remedy, ExitStatus.CONFIGURATION)
        case KeyState.OPEN | KeyState.HALF_OPEN:
            again = f" at {key.retry_at:%H:%M:%S} UTC" if key.retry_at else ""
            return warning("key in use", finding, f"nothing to do: it will be tried again{again}")
    return ok("key in use", f"{finding}, {counted(key.calls, 'call')} today")


def _quota(lines: Sequence[LedgerLine], verdict: Availability) -> Check:
    """Whether a bucket has units for a call now, or will have some more later today."""
    place, left = f"ring {lines[0].ring}, bucket {lines[0].bucket}", sum(line.left for line in lines)
    usable = any(key.state == "active" for line in lines for key in line.keys)
    paced = left and usable and verdict.reopens_at and not any(line.closed_until for line in lines)
    if verdict.open or paced:
        return ok("quota", f"{place}: {counted(left, 'unit')} left today")
    until = f"until {verdict.reopens_at:%Y-%m-%d %H:%M:%S} UTC" if verdict.reopens_at else "until you act"
    remedy = "nothing to do: agents wait until then; for details: maia keys"
    if verdict.reopens_at is None:
        remedy = "look at the quota and the keys: maia keys"
    finding = f"{place} is closed {until}: {verdict.reason}"
    return Check("quota", CheckOutcome.WARNING, finding, remedy, blocks_agents=True)


async def _redis(url: SecretStr, cluster: str) -> Check:
    """Without Redis, sites still exchange over HTTP, only later."""
    from atlas.bus import Bus
    from atlas.errors import BusUnavailable, ConfigError

    try:
        async with Bus.open(url, cluster) as bus:
            await bus.ping()
    except ConfigError as error:
        return failure("Redis", str(error), "correct REDIS_URL", ExitStatus.CONFIGURATION)
    except BusUnavailable as error:
        remedy = "start it or correct REDIS_URL; until then sites exchange over HTTP at intervals"
        return warning("Redis", str(error), remedy)
    return ok("Redis", "answers")


async def _api(settings: Settings) -> Check:
    """Send a request to the API's host as the agents do, but without a key, so that it costs no quota."""
    import asyncio

    from maia.youtube.errors import NoResponse
    from maia.youtube.transport import Transport

    url = settings.youtube.base_url
    deadline_s = asyncio.get_running_loop().time() + settings.youtube.timeout_s
    remedy = "check the network and PLEIADES_YOUTUBE__BASE_URL; to try Pleiades offline: maia demo"
    try:
        async with Transport.open(settings.youtube) as transport:
            date = (await transport.get(transport.api, deadline_s)).headers.get("Date")
    except NoResponse as error:
        return failure("YouTube API", str(error), remedy, ExitStatus.UNAVAILABLE)
    skew = _skew(date)
    if skew > MOST_CLOCK_SKEW:
        finding = f"{url} answers, but this machine's clock differs by {skew.total_seconds():.0f} s"
        return warning("YouTube API", finding, "synchronise the clock (NTP): quota days depend on it")
    return ok("YouTube API", f"{url} answers{_by_proxy(url)}")


def _skew(date: str | None) -> timedelta:
    """How much this machine's clock differs from a Date header; 0 if there is none, or a malformed one."""
    from email.utils import parsedate_to_datetime

    try:
        return abs(datetime.now(UTC) - parsedate_to_datetime(date or ""))
    except (TypeError, ValueError, OverflowError):
        return timedelta()


def _by_proxy(url: str) -> str:
    from atlas import network

    proxy = network.proxy_for(url)
    return f" through the proxy {network.without_secret(proxy)}" if proxy else ""


def _failure_from(subject: str, finding: str, error: Exception, remedy: str) -> Check:
    return failure(subject, finding, remedy, status_of(error) or ExitStatus.FAILED)
