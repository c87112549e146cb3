"""The service while its database crashes and restarts: as it starts, and as it is told what to keep."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import asyncpg
import psutil
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


async def crash(server: ThrowAwayServer) -> None:
    """Kill the server and all that belongs to it, and start it again."""
    assert server.pid is not None
    postmaster = psutil.Process(server.pid)
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    await asyncio.to_thread(psutil.wait_procs, processes, 10)
    await asyncio.to_thread(server.start)


async def test_what_is_acknowledged_survives_crashes_of_the_database(
    own_postgres: ThrowAwayServer, own_url: str, own_environment: dict[str, str]
) -> None:
    over = False
    acknowledged: list[str] = []

    async def send(client: aiohttp.ClientSession, url: str, sender: int) -> None:
        number = 0
        while not over:
            number += 1
            # Now and then several at once.
            names = [f"{sender}-{number}-{nth}" for nth in range(5 if number % 4 == 0 else 1)]
            body = [
                {"agent": "deployer", "session": "s", "action": "build", "context": {"name": name}}
                for name in names
            ]
            key = {"Idempotency-Key": names[0]}
            async with client.post(f"{url}/observe", json=body, headers=key) as answer:
                assert answer.status in (200, 503)
                if answer.status == 200:
                    acknowledged.extend(names)

    async with started(own_environment) as process, aiohttp.ClientSession() as client:
        url = await url_of(process)
        sending = [asyncio.create_task(send(client, url, sender)) for sender in range(8)]
        for _ in range(3):
            enough = len(acknowledged) + 200
            while len(acknowledged) < enough:
                assert not any(each.done() for each in sending)
                await asyncio.sleep(0.01)
            await crash(own_postgres)
        over = True
        await asyncio.gather(*sending)
    connection = await asyncpg.connect(own_url)
    rows: list[Any] = await connection.fetch("SELECT context->>'name' AS name FROM observations")
    await connection.close()
    stored = [row["name"] for row in rows]
    assert len(stored) == len(set(stored))
    assert set(acknowledged) - set(stored) == set()
