"""Four trackers at once, one of them killed every second: no sample is lost, none taken twice in a slot."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from atlas.clock import next_reset, pacific_day
from atlas.config import TrackerSettings
from atlas.testing import SettingsFactory
from maia.emulator.catalogue import Catalogue
from maia.youtube.client import IDS_PER_CALL
from tests.acceptance.conftest import Stage, StageFactory
from tests.acceptance.test_kills import KILLING_S, keep_killing, watch_ledger
from tests.acceptance.tracking import (
    DAY,
    HOUR,
    assert_due_rule,
    assert_log_is_the_slots,
    assert_nothing_is_strange,
    enrol_on,
    note_slots,
    slots_of,
)

TRACKERS = 4
LEASE_S = 3
LIMIT = 50_000
SPEED = 600
"""A virtual hour lasts six seconds, so that every video is due several times while trackers are killed."""
SETTINGS = TrackerSettings(warm_interval_h=1, cold_interval_h=1, slowest=2, lease_s=LEASE_S)

pytestmark = pytest.mark.acceptance


def beginning(catalogue: Catalogue) -> datetime:
    """In the middle of the catalogue and early in a Pacific day, so that none ends while a test runs."""
    start, end = catalogue.span
    return (start + (end - start) / 2).replace(hour=9, minute=0, second=0)


async def tracked(
    stage_of: StageFactory, catalogue: Catalogue, factory: SettingsFactory, sql: Any, **limits: int
) -> Stage:
    """A stage on which every video that stays is on the clock, and all are due."""
    begin = beginning(catalogue)
    names = ("warm_interval_h", "cold_interval_h", "slowest", "lease_s")
    ours = {f"PLEIADES_TRACKER__{name.upper()}": str(getattr(SETTINGS, name)) for name in names}
    stage: Stage = await stage_of(catalogue, now=begin, settings=ours, **limits)
    stays = {*catalogue.visible_ids(catalogue.span[1])}
    await enrol_on(stage, factory, [id_ for id_ in catalogue.visible_ids(begin) if id_ in stays])
    await note_slots(sql)
    return stage


@pytest.mark.timeout(400)
async def test_kill_9_every_second_loses_no_sample_and_takes_none_twice(
    stage_of: StageFactory, synthetic: Catalogue, settings_factory: SettingsFactory, sql: Any
) -> None:
    stage = await tracked(stage_of, synthetic, settings_factory, sql, stats=LIMIT, general=LIMIT)
    begin = beginning(synthetic)
    stage.emulator.set_faults(["latency-50ms:1"])
    stage.set_clock(begin + 2 * HOUR, speed=SPEED)

    done = asyncio.Event()
    watching = [asyncio.create_task(watch_ledger(stage, done, bucket)) for bucket in ("stats", "general")]
    killed = await keep_killing(stage, "tracker", "--batch-size", "20", processes=TRACKERS)
    done.set()
    readings = [reading for each in watching for reading in await each]
    assert killed >= KILLING_S / 2
    assert len(readings) > KILLING_S
    assert all(counted <= held <= LIMIT for counted, held in readings), readings[-5:]
    during = await slots_of(sql)
    assert len(during) > 100

    stage.emulator.set_faults([])
    stage.set_clock(begin + 2 * DAY)
    await asyncio.sleep(LEASE_S)
    await assert_one_clean_run_samples_all(stage, sql)
    slots = await slots_of(sql)
    assert_due_rule(slots, SETTINGS)
    assert {slot.sampled for slot in slots} == {True}
    await assert_log_is_the_slots(sql)
    await assert_nothing_is_strange(sql)


async def assert_one_clean_run_samples_all(stage: Stage, sql: Any) -> None:
    """Everything is due, nothing stays behind of what the killed ones held; the ledger is the emulator's."""
    [[due]] = await stage.rows("SELECT count(*) FROM video_clock")
    clean = await stage.track("--cycles", "1000")
    assert (clean.status, clean.json["outcome"], clean.json["skipped"]) == (0, "idle", {}), clean.stderr
    assert clean.json["samples"] == clean.json["videos"] == due
    held = "SELECT count(*) FROM {} WHERE lease_token IS NOT NULL"
    assert [await sql.fetchval(held.format(name)) for name in ("video_clock", "channel_clock")] == [0, 0]
    await assert_ledger_is_the_emulators(stage)


async def assert_ledger_is_the_emulators(stage: Stage) -> None:
    """Of the Pacific day on which every process ended by itself."""
    today = pacific_day(stage.emulator.clock.now())
    rows = await stage.rows(
        "SELECT bucket, used, reserved FROM quota_ledger WHERE pacific_day = $1 ORDER BY bucket", today
    )
    assert rows == [(bucket, stage.emulator.used("lab", bucket), 0) for bucket in ("general", "stats")]


@pytest.mark.timeout(200)
async def test_four_trackers_share_what_is_due_and_never_overspend(
    stage_of: StageFactory, synthetic: Catalogue, settings_factory: SettingsFactory, sql: Any
) -> None:
    """The last minutes of a day, for which nothing is kept, end with its last unit, whoever spends it."""
    stage = await tracked(stage_of, synthetic, settings_factory, sql)
    [[videos]] = await stage.rows("SELECT count(*) FROM video_clock")
    calls = videos // IDS_PER_CALL // 2
    stage.environment |= {
        "PLEIADES_QUOTA__LIMITS__STATS": str(calls), "PLEIADES_QUOTA__SHARES__TRACKING__STATS": "1",
        "PLEIADES_QUOTA__SHARES__ARCHEOLOGY__STATS": "0",
    }  # fmt: skip
    stage.set_clock(next_reset(beginning(synthetic) + 2 * DAY) - timedelta(minutes=8))
    finished = await asyncio.gather(
        *(stage.track("--cycles", "100", "--batch-size", "50") for _ in range(TRACKERS))
    )
    assert {process.status for process in finished} == {0}, [process.stderr for process in finished]
    # One that chose only what others claimed before it ends idle.
    outcomes = {process.json["outcome"] for process in finished}
    assert "closed" in outcomes <= {"closed", "idle"}
    assert sum(process.json["samples"] for process in finished) == calls * IDS_PER_CALL
    assert stage.emulator.used("lab", "stats") == calls
    assert [call.status for call in stage.emulator.calls if call.status != 200] == []
    await assert_ledger_is_the_emulators(stage)
    assert_due_rule(await slots_of(sql), SETTINGS)
    await assert_log_is_the_slots(sql)
