"""Two processes of the service, of which the one that learns is killed: all is learnt, and learnt once."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from atlas.db import lock_key
from maia.learner.continual import LOCK, MODELS

pytestmark = pytest.mark.acceptance

LEADER = """
SELECT pid FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND ((classid::bigint << 32) | objid::bigint) = $1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
TESTED = """
SELECT sum(pos), sum(neg) FROM pattern_evidence AS e JOIN patterns AS p ON p.id = e.pattern_id
WHERE p.signature @> '{"after": ["build"], "then": "test", "gap": 0}'
"""
LEARNT = "SELECT observations FROM models WHERE name = $1"


@dataclass(frozen=True, slots=True)
class Process:
    """A process of `maia api`."""

    process: asyncio.subprocess.Process
    url: str

    async def observe(self, client: aiohttp.ClientSession, first: int, count: int) -> dict[str, Any]:
        """Send sessions in which a test follows a build."""
        body = [
            {"agent": "deployer", "session": f"s{n}", "action": action}
            for n in range(first, first + count)
            for action in ("build", "test", "release" if n % 3 else "rest")
        ]
        async with client.post(f"{self.url}/observe", json=body) as answer:
            assert answer.status == 200, await answer.text()
            told: dict[str, Any] = await answer.json()
            return told


@asynccontextmanager
async def serving(environment: dict[str, str]) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "maia", "api", "--port", "0", "--json", env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield Process(process, json.loads(await process.stdout.readline())["url"])
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def test_another_process_goes_on_when_the_one_that_learns_is_killed(
    environment: dict[str, str], sql: Any
) -> None:
    environment |= {"PLEIADES_API__REQUESTS_PER_MINUTE": "100000", "PLEIADES_API__OBSERVE_WAIT_S": "30"}
    sent = 0
    async with aiohttp.ClientSession() as client, serving(environment) as first:
        async with asyncio.timeout(60):
            while await sql.fetchval(LEADER, lock_key(LOCK)) is None:
                await asyncio.sleep(0.05)
        leader = await sql.fetchval(LEADER, lock_key(LOCK))
        async with serving(environment) as second:
            for _ in range(10):
                both = [first.observe(client, sent, 20), second.observe(client, sent + 20, 20)]
                answers = await asyncio.gather(*both)
                assert not any(answer["pending"] for answer in answers)
                sent += 40
            first.process.send_signal(signal.SIGKILL)
            await first.process.wait()
            # The next leader learns again what was not stored, and answers what comes meanwhile.
            answer = await second.observe(client, sent, 20)
            sent += 20
            assert not answer["pending"]
            assert answer["patterns"]
            assert await sql.fetchval(LEADER, lock_key(LOCK)) not in (None, leader)
        # It has stored all when it stops.
        assert second.process.returncode == 128 + signal.SIGTERM
    assert await sql.fetchval(LEARNT, f"{MODELS}task_sequences") == 3 * sent
    assert tuple(await sql.fetchrow(TESTED)) == (sent, 0)
