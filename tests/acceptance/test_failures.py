"""What a hunter meets outside its own process ends as the error table says, and loses nothing."""

from __future__ import annotations

import asyncio
import signal
from datetime import timedelta

import pytest

from atlas.testing import ThrowAwayServer
from maia.emulator.catalogue import Catalogue
from tests.acceptance.conftest import Stage, StageFactory
from tests.acceptance.test_recorded import ALL_TAGS, assert_all_was_found, hunt_until_idle, popular_tags

pytestmark = pytest.mark.acceptance

ONE_DAY = timedelta(days=1)
NOTHING_MOVED = "SELECT count(*) FROM search_queue WHERE page_token IS NOT NULL OR pages_total > 0"
HELD = "SELECT count(*) FROM search_queue WHERE lease_token IS NOT NULL"


async def seeded(stage: Stage, catalogue: Catalogue) -> None:
    finished = await stage.maia("seed", *popular_tags(catalogue, 3))
    assert finished.status == 0, finished.stderr


async def test_refused_pages_leave_the_queue_as_it_was(stage_of: StageFactory, synthetic: Catalogue) -> None:
    """One kind for each way in which a hunt may end; tests of the hunter try all the others."""
    stage: Stage = await stage_of(
        synthetic, settings={"PLEIADES_HUNTER__RETRY_AFTER_S": "0", "PLEIADES_QUOTA__FAILURES_TO_OPEN": "100"}
    )
    await seeded(stage, synthetic)
    for kind, status, outcome in (
        ("503", 69, "unavailable"), ("invalid-parameter", 78, "misconfigured"), ("403-quota", 0, "closed"),
    ):  # fmt: skip
        stage.emulator.set_faults([f"{kind}:1:search.list"])
        failed = await stage.hunt()
        assert (failed.status, failed.json["outcome"]) == (status, outcome), failed.stderr
        assert failed.json["pages"] == 0
        assert await stage.rows(NOTHING_MOVED) == [(0,)]
        assert await stage.rows(HELD) == [(0,)]

    stage.emulator.set_faults([])
    stage.set_clock(stage.emulator.clock.now() + ONE_DAY)
    mended = await stage.hunt()
    assert (mended.status, mended.json["pages"]) == (0, 3), mended.stderr


async def test_rejected_keys_end_the_hunt_and_are_named_by_fingerprint(
    stage_of: StageFactory, synthetic: Catalogue
) -> None:
    stage: Stage = await stage_of(synthetic)
    await seeded(stage, synthetic)
    stage.emulator.set_faults(["key-invalid:1"])
    failed = await stage.hunt()
    assert failed.status == 78, failed.stderr
    assert "lab-key" not in failed.stdout + failed.stderr
    assert await stage.rows(NOTHING_MOVED) == [(0,)]
    assert await stage.rows(HELD) == [(0,)]
    before = len(stage.emulator.calls)
    again = await stage.hunt()
    assert (again.status, len(stage.emulator.calls)) == (78, before), again.stderr


async def test_ten_seconds_of_latency_only_cost_time(stage_of: StageFactory, synthetic: Catalogue) -> None:
    stage: Stage = await stage_of(synthetic)
    assert (await stage.maia("seed", *popular_tags(synthetic, 1))).status == 0
    stage.emulator.set_faults(["latency-10s:1:search.list"])
    slow = await stage.hunt()
    assert (slow.status, slow.json["pages"]) == (0, 1), slow.stderr
    assert slow.json["seconds"] > 10


@pytest.mark.timeout(300)
async def test_restarts_and_crashes_of_the_database_in_mid_cycle_lose_nothing(
    stage_of: StageFactory, synthetic: Catalogue, restartable: tuple[ThrowAwayServer, str]
) -> None:
    server, url = restartable
    at = synthetic.span[1]
    stage: Stage = await stage_of(
        synthetic,
        settings=ALL_TAGS
        | {"DATABASE_URL": url, "PLEIADES_HUNTER__LEASE_S": "3", "PLEIADES_HUNTER__RETRY_AFTER_S": "0"}
        | {"PLEIADES_HUNTER__MAX_ATTEMPTS": "1000"},
    )
    stage.database_url = url
    await seeded(stage, synthetic)
    hunter = await stage.fork("hunter", "--direct", "--json", "--cycles", "100000", "--batch-size", "10")
    for how in (signal.SIGINT, signal.SIGKILL, signal.SIGKILL):
        await asyncio.sleep(3)
        await asyncio.to_thread(server.restart, how)
    if hunter.returncode is None:
        hunter.terminate()
    await hunter.communicate()
    await asyncio.sleep(3)
    await hunt_until_idle(stage, processes=1)
    await assert_all_was_found(stage, synthetic, popular_tags(synthetic, 3), at)
