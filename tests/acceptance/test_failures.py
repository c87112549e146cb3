"""What a hunter meets outside its own process ends as the error table says, and loses nothing."""

from __future__ import annotations

import asyncio
import signal
from datetime import timedelta

import pytest

from atlas.testing import ThrowAwayServer
from maia.youtube.catalogue import Catalogue
from tests.acceptance.conftest import Stage, StageFactory
from tests.acceptance.test_recorded import ALL_TAGS, assert_all_was_found, hunt_until_idle, popular_tags

pytestmark = pytest.mark.acceptance

ONE_DAY = timedelta(days=1)
NOTHING_MOVED = "SELECT count(*) FROM search_queue WHERE page_token IS NOT NULL OR pages_total > 0"
HELD = "SELECT count(*) FROM search_queue WHERE lease_token IS NOT NULL"


async def seeded(stage: Stage, catalogue: Catalogue) -> None:
    finished = await stage.maia("seed", *popular_tags(catalogue, 3))
    assert finished.status == 0, finished.stderr


@pytest.mark.parametrize(
    ("kind", "status", "outcome"),
    [
        ("500", 69, "unavailable"),
        ("503", 69, "unavailable"),
        ("reset", 69, "unavailable"),
        ("reset-midway", 69, "unavailable"),
        ("truncated", 69, "unavailable"),
        ("empty-body", 69, "unavailable"),
        ("html", 69, "unavailable"),
        ("403-quota", 0, "closed"),
        ("403-daily", 0, "closed"),
        ("403-user-rate", 0, "closed"),
        ("invalid-parameter", 0, "done"),
    ],
)
async def test_refused_pages_leave_the_queue_as_it_was(
    stage_of: StageFactory, synthetic: Catalogue, kind: str, status: int, outcome: str
) -> None:
    stage: Stage = await stage_of(
        synthetic, settings={"PLEIADES_HUNTER__RETRY_AFTER_S": "0", "PLEIADES_QUOTA__FAILURES_TO_OPEN": "100"}
    )
    await seeded(stage, synthetic)
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


@pytest.mark.parametrize(
    "kind", ["key-invalid", "key-invalid-legacy", "key-expired", "not-configured", "referrer-blocked"]
)
async def test_rejected_keys_end_the_hunt_and_are_named_by_fingerprint(
    stage_of: StageFactory, synthetic: Catalogue, kind: str
) -> None:
    stage: Stage = await stage_of(synthetic)
    await seeded(stage, synthetic)
    stage.emulator.set_faults([f"{kind}:1"])
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
    await seeded(stage, synthetic)
    stage.emulator.set_faults(["latency-10s:1:search.list"])
    slow = await stage.hunt()
    assert (slow.status, slow.json["pages"]) == (0, 3), slow.stderr
    assert slow.json["seconds"] > 10


async def test_an_api_that_is_away_is_waited_for(stage_of: StageFactory, synthetic: Catalogue) -> None:
    stage: Stage = await stage_of(synthetic, settings={"PLEIADES_HUNTER__RETRY_AFTER_S": "0"})
    await seeded(stage, synthetic)
    url = stage.environment["PLEIADES_YOUTUBE__BASE_URL"]
    stage.environment["PLEIADES_YOUTUBE__BASE_URL"] = "http://127.0.0.1:9"
    away = await stage.hunt()
    assert (away.status, away.json["outcome"]) == (69, "unavailable"), away.stderr
    assert await stage.rows(NOTHING_MOVED) == [(0,)]
    used = await stage.rows("SELECT coalesce(sum(used + reserved), 0)::int FROM quota_ledger")
    assert used == [(0,)]
    stage.environment["PLEIADES_YOUTUBE__BASE_URL"] = url
    stage.set_clock(stage.emulator.clock.now() + ONE_DAY)
    back = await stage.hunt()
    assert (back.status, back.json["pages"]) == (0, 3), back.stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["restart", "crash"])
async def test_a_database_restart_in_mid_cycle_loses_nothing(
    stage_of: StageFactory,
    synthetic: Catalogue,
    restartable: tuple[ThrowAwayServer, str],
    how: signal.Signals,
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
    hunter = await stage.start("hunter", "--direct", "--json", "--cycles", "100000", "--batch-size", "10")
    for _ in range(3):
        await asyncio.sleep(3)
        await asyncio.to_thread(server.restart, how)
    if hunter.returncode is None:
        hunter.terminate()
    await hunter.communicate()
    await asyncio.sleep(3)
    await hunt_until_idle(stage, processes=1)
    await assert_all_was_found(stage, synthetic, popular_tags(synthetic, 3), at)
