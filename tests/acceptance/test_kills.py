"""Four hunters at once, one of them killed every second: nothing is lost, nothing done twice in effect."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from maia.emulator.catalogue import Catalogue
from tests.acceptance.conftest import Stage, StageFactory
from tests.acceptance.test_recorded import ALL_TAGS, assert_all_was_found, hunt_until_idle, popular_tags

HUNTERS = 4
KILLING_S = 30
LEASE_S = 3
LIMIT = 50_000
SEARCHES = 60

pytestmark = pytest.mark.acceptance


async def watch_ledger(stage: Stage, done: asyncio.Event, bucket: str) -> list[tuple[int, int]]:
    """Compare, again and again, what the emulator counted (read first) with what the ledger holds."""
    readings = []
    while not done.is_set():
        counted = stage.emulator.used("lab", bucket)
        rows = await stage.rows("SELECT used + reserved FROM quota_ledger WHERE bucket = $1", bucket)
        readings.append((counted, rows[0][0] if rows else 0))
        await asyncio.sleep(0.2)
    return readings


async def keep_killing(stage: Stage, agent: str, *options: str, processes: int) -> int:
    """Run several of an agent; every second kill one with SIGKILL and start another; how many were killed."""
    choose = random.Random(11)
    arguments = (agent, "--direct", "--json", "--cycles", "100000", *options)
    agents = [await stage.fork(*arguments) for _ in range(processes)]
    killed, end = 0, time.monotonic() + KILLING_S
    while time.monotonic() < end:
        await asyncio.sleep(1)
        victim = choose.randrange(processes)
        if agents[victim].returncode is None:
            agents[victim].kill()
            killed += 1
        for place, process in enumerate(agents):
            if place == victim or process.returncode is not None:
                await process.communicate()
                agents[place] = await stage.fork(*arguments)
    for process in agents:
        if process.returncode is None:
            process.kill()
            killed += 1
        await process.communicate()
    return killed


@pytest.mark.timeout(400)
async def test_kill_9_every_second_loses_nothing(stage_of: StageFactory, synthetic: Catalogue) -> None:
    at = synthetic.span[1]
    stage: Stage = await stage_of(
        synthetic,
        search=LIMIT,
        general=LIMIT,
        settings=ALL_TAGS
        | {"PLEIADES_HUNTER__LEASE_S": str(LEASE_S), "PLEIADES_HUNTER__MAX_ATTEMPTS": "1000"}
        | {"PLEIADES_YOUTUBE__CONCURRENCY": "4", "PLEIADES_HUNTER__RESULTS_PER_PAGE": "5"},
    )
    stage.emulator.set_faults(["latency-50ms:1"])
    seeds = popular_tags(synthetic, 3)
    assert (await stage.maia("seed", *seeds)).status == 0

    done = asyncio.Event()
    watching = asyncio.create_task(watch_ledger(stage, done, "search"))
    killed = await keep_killing(stage, "hunter", "--batch-size", "10", processes=HUNTERS)
    done.set()
    readings = await watching
    assert killed >= KILLING_S / 2
    assert len(readings) > KILLING_S
    assert all(counted <= held <= LIMIT for counted, held in readings), readings[-5:]

    stage.emulator.set_faults([])
    await asyncio.sleep(LEASE_S)
    await hunt_until_idle(stage, processes=1)
    await assert_all_was_found(stage, synthetic, seeds, at)
    held = await stage.rows("SELECT bucket, used + reserved FROM quota_ledger")
    assert all(stage.emulator.used("lab", bucket) <= units <= LIMIT for bucket, units in held)


@pytest.mark.timeout(200)
async def test_four_hunters_never_overspend(stage_of: StageFactory, synthetic: Catalogue) -> None:
    stage: Stage = await stage_of(synthetic, search=SEARCHES, settings=ALL_TAGS)
    assert (await stage.maia("seed", *popular_tags(synthetic, SEARCHES))).status == 0
    finished = await asyncio.gather(*(stage.hunt("--cycles", "1000") for _ in range(HUNTERS)))
    assert {process.status for process in finished} == {0}, [process.stderr for process in finished]
    assert {process.json["outcome"] for process in finished} == {"closed"}
    assert stage.emulator.used("lab", "search") == SEARCHES
    assert [call.status for call in stage.emulator.calls if call.status != 200] == []
