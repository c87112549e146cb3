"""A clean-up that is killed again and again: the next one goes on, and in the end nothing is left to do."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from atlas.composition import Atlas
from maia.maintainer.cleanup import clean_up
from maia.maintainer.duties import DutyContext
from tests.aged import OLD, PlainTaker, age, digest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

KILLS, ANSWERS = 12, 6_000
CLEAN = """
import asyncio, sys
from datetime import datetime
from pathlib import Path
from pydantic import SecretStr
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.testing import IsolatedSettings
from maia.maintainer.cleanup import clean_up
from maia.maintainer.duties import DutyContext
from tests.aged import PlainTaker

async def main(url, data, now):
    settings = IsolatedSettings(
        database_url=SecretStr(url), data_dir=Path(data), node_id="killed",
        monitoring={"enabled": False}, maintainer={"retention": {"rows_at_once": 100}},
    )
    async with Atlas.open(settings, clock=FixedClock(datetime.fromisoformat(now))) as atlas:
        print("begun", flush=True)
        await clean_up(DutyContext(atlas, PlainTaker(("cleanup", "partitions"))), ("cleanup", "partitions"))

asyncio.run(main(*sys.argv[1:]))
"""
MORE = (
    "INSERT INTO system_metrics (at, node) SELECT $1::timestamptz, 'h' FROM generate_series(1, 40000)",
    """
    INSERT INTO series_alarms
    SELECT 'a' || n, $1::timestamptz, 'anomaly', 1, 1, '' FROM generate_series(1, 40000) AS n
    """,
)


def day_of_answers(atlas: Atlas) -> Path:
    return atlas.settings.data_folder / f"vault/metadata/{(atlas.clock.now() - OLD).date()}"


async def fill(atlas: Atlas, sql: Any) -> None:
    await age(atlas, sql)
    for statement in MORE:
        await sql.execute(statement, atlas.clock.now() - OLD)
    for number in range(ANSWERS):
        (day_of_answers(atlas) / f"{number}.json").write_bytes(b"{}")
    await sql.execute("ANALYZE")


async def killed(atlas: Atlas, after_s: float) -> bool:
    """Clean up in a process of its own, which is killed after a while; returns whether it still ran."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLEAN, atlas.db.url_of(), str(atlas.settings.data_folder),
        atlas.clock.now().isoformat(), cwd=Path(__file__).parents[2],
        env=os.environ | {"PREFECT_API_URL": ""}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline() == b"begun\n"
    try:
        await asyncio.wait_for(process.wait(), after_s)
    except TimeoutError:
        process.send_signal(signal.SIGKILL)
        await process.wait()
        return True
    assert process.returncode == 0
    return False


async def test_killed_anywhere_the_next_goes_on(atlas: Atlas, sql: asyncpg.Connection[Any]) -> None:
    await fill(atlas, sql)
    vault, chance = atlas.settings.data_folder / "vault", random.Random(10)
    left = [await sql.fetchval("SELECT count(*) FROM system_metrics")]
    kills, answers = 0, [ANSWERS]
    for _ in range(KILLS):
        kills += await killed(atlas, chance.uniform(0.01, 0.35))
        left.append(await sql.fetchval("SELECT count(*) FROM system_metrics"))
        answers.append(len(list(day_of_answers(atlas).glob("*"))))
    assert kills >= KILLS // 2
    assert left == sorted(left, reverse=True), "what is deleted stays deleted"
    assert answers[1:] == sorted(answers[1:], reverse=True)
    assert not await killed(atlas, 120)
    once = await digest(sql, vault)
    taker = PlainTaker(("cleanup", "partitions"))
    await clean_up(DutyContext(atlas, taker), ("cleanup", "partitions"))
    assert taker.plans == []
    assert await digest(sql, vault) == once
    assert await sql.fetchval("SELECT count(*) FROM system_metrics") == 1
    print(f"killed {kills} times; rows left: {left}; answers left: {answers}")
