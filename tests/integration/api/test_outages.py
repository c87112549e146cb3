"""The service while its database crashes and restarts, as it starts."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import asyncpg
import pytest

from atlas.testing import ThrowAwayServer

pytestmark = pytest.mark.integration

WAITS = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = $1::regclass)"


@pytest.fixture
def own_url(own_postgres: ThrowAwayServer) -> str:
    return own_postgres.dsn_of(own_postgres.create_database(own_postgres.migrated_template()))


@pytest.fixture
def own_environment(environment: dict[str, str], own_url: str) -> dict[str, str]:
    return environment | {
        "DATABASE_URL": own_url,
        "PLEIADES_API__REQUESTS_PER_MINUTE": "1000000",
        "PLEIADES_API__OBSERVE_WAIT_S": "0",
    }


@asynccontextmanager
async def started(environment: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A `maia api` that is only starting."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "maia", "api", "--port", "0", "--json",
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()


async def url_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    told = json.loads(await process.stdout.readline())
    assert told.get("event") == "serving", told
    return str(told["url"])


@pytest.mark.parametrize("table", ["migration", "access_keys"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
async def test_it_starts_though_the_database_is_lost_in_its_first_queries(
    own_postgres: ThrowAwayServer,
    own_url: str,
    own_environment: dict[str, str],
    table: str,
    how: signal.Signals,
) -> None:
    holder, watcher = await asyncpg.connect(own_url), await asyncpg.connect(own_url)
    await holder.execute(f"BEGIN; LOCK TABLE {table}")
    async with started(own_environment) as process:
        async with asyncio.timeout(60):
            while not await watcher.fetchval(WAITS, table):
                assert process.returncode is None
                await asyncio.sleep(0.02)
        await asyncio.to_thread(own_postgres.restart, how)
        url = await url_of(process)
        async with aiohttp.ClientSession() as client, client.get(f"{url}/healthz") as answer:
            assert answer.status == 200
    holder.terminate()
    watcher.terminate()


async def test_it_gives_up_on_a_database_that_stays_away(
    own_postgres: ThrowAwayServer, own_url: str, own_environment: dict[str, str]
) -> None:
    holder, watcher = await asyncpg.connect(own_url), await asyncpg.connect(own_url)
    await holder.execute("BEGIN; LOCK TABLE access_keys")
    async with started(own_environment | {"PLEIADES_DATABASE__CONNECT_TIMEOUT_S": "3"}) as process:
        async with asyncio.timeout(60):
            while not await watcher.fetchval(WAITS, "access_keys"):
                await asyncio.sleep(0.02)
        await asyncio.to_thread(own_postgres.stop, signal.SIGKILL)
        _, errors = await process.communicate()
        assert process.returncode == 69, errors.decode()
        assert b"no connection to" in errors
    holder.terminate()
    watcher.terminate()
