"""What a tracker meets outside its own process ends as the error table says, and nothing is half-written."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from atlas.testing import SettingsFactory, ThrowAwayServer
from maia.emulator.catalogue import Catalogue
from tests.acceptance.conftest import Stage, StageFactory
from tests.acceptance.tracking import DAY, enrol_on
from tests.fork_server import Finished
from tests.growth import stored_samples

pytestmark = pytest.mark.acceptance

VIDEOS = 120
NOON = datetime(2026, 2, 15, 20, tzinfo=UTC)
MIDNIGHT = datetime(2026, 2, 16, 8, tzinfo=UTC)
"""The Pacific one that follows."""
HELD = "SELECT count(*) FROM video_clock WHERE lease_token IS NOT NULL"


async def picture(stage: Stage) -> dict[str, list[str]]:
    """All that sampling writes, except for who holds what."""
    async with asyncpg.create_pool(stage.database_url, min_size=1, max_size=1) as sql:
        return await stored_samples(sql)


@pytest.fixture
def due(stage_of: StageFactory, synthetic: Catalogue, settings_factory: SettingsFactory) -> Any:
    """Sets a stage on which `VIDEOS` videos and their channels are due since an hour."""

    async def build(**settings: str) -> Stage:
        ours = {"PLEIADES_TRACKER__RETRY_AFTER_S": "0", "PLEIADES_QUOTA__FAILURES_TO_OPEN": "100"}
        stage: Stage = await stage_of(synthetic, now=NOON - 2 * DAY, settings=ours | settings)
        stage.database_url = settings.get("DATABASE_URL", stage.database_url)
        stays = {*synthetic.visible_ids(NOON + 3 * DAY)}
        ids = [id_ for id_ in synthetic.visible_ids(NOON - 2 * DAY) if id_ in stays]
        await enrol_on(stage, settings_factory, ids[-VIDEOS:])
        stage.set_clock(NOON)
        stage.emulator.requests.clear()
        return stage

    return build


async def assert_all_is_sampled(stage: Stage) -> None:
    """As if nothing had happened."""
    mended = await stage.track("--cycles", "5")
    assert (mended.status, mended.json["outcome"], mended.json["samples"]) == (0, "idle", VIDEOS), (
        mended.stderr
    )
    log = await stage.rows("SELECT video_id, count(*) FROM video_stats_log GROUP BY video_id")
    assert {count for _, count in log} == {2}
    assert len(log) == VIDEOS


async def assert_closed(stage: Stage, calls: int) -> Finished:
    """The ring is closed: no call, exit 0, and it says until when."""
    closed = await stage.track("--cycles", "50")
    assert (closed.status, closed.json["outcome"]) == (0, "closed"), closed.stderr
    assert len(stage.emulator.calls) == calls
    return closed


async def test_429_by_day_ends_with_75_once_and_closes_until_the_pacific_midnight(due: Any) -> None:
    stage: Stage = await due()
    before = await picture(stage)
    stage.emulator.set_faults(["429-day:1:videos.batchGetStats"])
    limited = await stage.track("--cycles", "50")
    assert limited.status == 75, limited.stderr
    assert "Traceback" not in limited.stderr
    assert await stage.rows(HELD) == [(0,)]
    calls = len(stage.emulator.calls)
    for instant in (NOON + timedelta(minutes=5), MIDNIGHT - timedelta(minutes=1)):
        stage.set_clock(instant)
        closed = await assert_closed(stage, calls)
        assert datetime.fromisoformat(closed.json["reopens_at"]) == MIDNIGHT
    assert await picture(stage) == before
    verdicts = await stage.rows(
        "SELECT payload ->> 'outcome' FROM events WHERE kind = 'tracker.cycle' ORDER BY id"
    )
    assert verdicts == [("rate_limited",), ("closed",), ("closed",)]

    stage.emulator.set_faults([])
    stage.set_clock(MIDNIGHT + timedelta(minutes=1))
    await assert_all_is_sampled(stage)


async def test_a_network_that_fails_moves_no_clock(due: Any) -> None:
    stage: Stage = await due()
    before = await picture(stage)
    stage.emulator.set_faults(["503:1"])
    failed = await stage.track()
    assert (failed.status, failed.json["outcome"], failed.json["samples"]) == (69, "unavailable", 0), (
        failed.stderr
    )
    assert await stage.rows(HELD) == [(0,)]
    assert await picture(stage) == before
    stage.emulator.set_faults([])
    await assert_all_is_sampled(stage)


async def assert_whole(stage: Stage) -> None:
    """What belongs together is there together: samples, clocks and norms."""
    torn = await stage.rows(
        "SELECT c.video_id FROM video_clock AS c LEFT JOIN LATERAL ("
        "   SELECT count(*) AS rows, max(sampled_at) AS last,"
        "       (array_agg(views ORDER BY sampled_at DESC))[1] AS views"
        "   FROM video_stats_log AS l WHERE l.video_id = c.video_id"
        ") AS l ON true WHERE l.rows <> c.samples + (c.samples > 0)::integer"
        " OR c.samples > 0 AND (l.last, l.views) IS DISTINCT FROM (c.last_sampled_at, c.last_views)"
    )
    assert torn == []
    [[counted, joined]] = await stage.rows(
        "SELECT (SELECT coalesce(sum(videos), 0)::integer FROM channel_norms), count(age_class)"
        " FROM video_clock"
    )
    assert counted == joined
    [[channels]] = await stage.rows(
        "SELECT count(*) FROM channel_clock AS c LEFT JOIN channel_stats_log AS l USING (channel_id)"
        " WHERE l.sampled_at IS DISTINCT FROM c.last_at"
    )
    assert channels == 0


@pytest.mark.timeout(300)
async def test_a_restart_and_a_crash_of_the_database_in_mid_cycle_leave_nothing_half_written(
    due: Any, restartable: tuple[ThrowAwayServer, str]
) -> None:
    server, url = restartable
    stage: Stage = await due(DATABASE_URL=url, PLEIADES_TRACKER__LEASE_S="3")
    stage.emulator.set_faults(["latency-300ms:1"])
    tracker = await stage.fork("tracker", "--direct", "--json", "--cycles", "1000", "--batch-size", "3")
    while not (done := await stage.rows("SELECT count(*) FROM video_stats_log")) or done == [(0,)]:
        assert tracker.returncode is None
        await asyncio.sleep(0.1)
    for how in (signal.SIGINT, signal.SIGKILL):
        await asyncio.to_thread(server.restart, how)
        await assert_whole(stage)
        await asyncio.sleep(1)
    if tracker.returncode is None:
        tracker.terminate()
    _, stderr = await tracker.communicate()
    assert b"Traceback" not in stderr, stderr.decode()
    await assert_whole(stage)
    stage.emulator.set_faults([])
    await asyncio.sleep(3)
    clean = await stage.track("--cycles", "50")
    assert (clean.status, clean.json["outcome"]) == (0, "idle"), clean.stderr
    assert await stage.rows(HELD) == [(0,)]
    await assert_whole(stage)
    assert await stage.rows("SELECT samples, count(*) FROM video_clock GROUP BY 1") == [(1, VIDEOS)]
    [[held]] = await stage.rows("SELECT used + reserved FROM quota_ledger WHERE bucket = 'stats'")
    assert held >= stage.emulator.used("lab", "stats")
