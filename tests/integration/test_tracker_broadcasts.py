"""A premiere, a counter that slips, and a video that is private for a while, from discovery on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from atlas.adapters.watches import Watch, WatchesDAO, WatchKind
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.testing import NOON, SettingsFactory
from maia.emulator import Emulator
from maia.emulator.catalogue import Catalogue, CatalogueChannel, CatalogueVideo, new_catalogue
from maia.emulator.curves import Sample
from maia.tracker.cycle import Tracker

pytestmark = pytest.mark.integration

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PREMIERE, SLIPPING, STEADY = "premiere000", "slipping000", "steady00000"
AIRS_AT = NOON + 5 * HOUR
CHANNEL = "UC" + "a" * 22


def second(hours: float) -> int:
    return int((NOON + hours * HOUR).timestamp())


@pytest_asyncio.fixture
async def tracker(
    tmp_path: Path, settings_factory: SettingsFactory, clock: FixedClock
) -> AsyncIterator[Tracker]:
    """A tracker that met the three at NOON."""
    path = tmp_path / "catalogue.sqlite"
    videos = (
        (
            CatalogueVideo(
                PREMIERE, CHANNEL, "Premiere", second(-9 * 24), duration_s=750,
                scheduled_start_at=second(5), actual_start_at=second(5), actual_end_at=second(5.25),
            ),
            [Sample(second(5), 0), Sample(second(15), 500_000), Sample(second(900), 600_000)],
        ),
        (
            CatalogueVideo(SLIPPING, CHANNEL, "Slipping", second(-4)),
            [
                Sample(second(-4), 79_000), Sample(second(0), 80_000), Sample(second(1), 0),
                Sample(second(2), 81_000), Sample(second(900), 90_000),
            ],
        ),
        (
            CatalogueVideo(STEADY, CHANNEL, "Steady", second(-3)),
            [Sample(second(-3), 0), Sample(second(900), 90_300)],
        ),
    )  # fmt: skip
    with new_catalogue(path, {"made_by": "test"}) as writer:
        writer.add_channels([CatalogueChannel(CHANNEL, "Channel")])
        for video, samples in videos:
            writer.add(video, "Channel", samples)
    with Catalogue.open(path) as catalogue:
        async with Emulator.serve(catalogue, clock=clock) as emulator:
            settings = settings_factory(
                youtube_api_key_pool_json=json.dumps([{"key": "demo-one", "project": "demo"}]),
                youtube={"base_url": emulator.url}, quota={"pacing": False},
            )  # fmt: skip
            async with Atlas.open(settings, clock=clock) as atlas, Tracker.open(atlas) as opened:
                ids = (PREMIERE, SLIPPING, STEADY)
                await opened.dao.ingest_video_metadata(await opened.youtube.videos(ids))
                yield opened


async def clock_of(sql: Any, id_: str) -> Any:
    return await sql.fetchrow("SELECT * FROM video_clock WHERE video_id = $1", id_)


async def test_a_premiere_is_sampled_hourly_from_its_start_and_ages_from_it(
    tracker: Tracker, clock: FixedClock, sql: Any
) -> None:
    row = await clock_of(sql, PREMIERE)
    assert (row["broadcast"], row["zone"], row["next_due_at"]) == ("upcoming", 0, AIRS_AT)
    for _ in range(24):
        clock.advance(HOUR)
        await tracker.cycle()
    row = await clock_of(sql, PREMIERE)
    assert (row["broadcast"], row["born_at"], row["zone"]) == ("none", AIRS_AT, 0)
    samples = await sql.fetch(
        "SELECT sampled_at, views FROM video_stats_log WHERE video_id = $1 AND sampled_at > $2 ORDER BY 1",
        PREMIERE, NOON,
    )  # fmt: skip
    assert samples[0]["sampled_at"] == AIRS_AT
    assert len(samples) >= 19
    assert samples[-1]["views"] > 500_000
    assert await sql.fetchval("SELECT duration_s FROM videos WHERE id = $1", PREMIERE) == 750
    assert await sql.fetchval("SELECT published_at FROM videos WHERE id = $1", PREMIERE) == AIRS_AT


async def test_a_count_that_slips_for_one_answer_makes_no_velocity(
    tracker: Tracker, clock: FixedClock, sql: Any
) -> None:
    speeds = []
    for _ in range(4):
        clock.advance(HOUR)
        await tracker.cycle()
        speeds.append((await clock_of(sql, SLIPPING))["velocity"])
    assert speeds[0] is None
    assert speeds[1] == pytest.approx(500)
    assert max(speeds[1:]) <= 500
    logged = await sql.fetch(
        "SELECT views, doubted FROM video_stats_log WHERE video_id = $1 ORDER BY sampled_at", SLIPPING
    )
    assert [tuple(row) for row in logged[:3]] == [(80_000, None), (0, True), (81_000, None)]


async def lose(sql: Any, clock: FixedClock, id_: str) -> None:
    """Gone as of now."""
    await sql.execute("UPDATE videos SET status = 'gone' WHERE id = $1", id_)
    await sql.execute(
        "UPDATE video_clock SET status = 'gone', gone_at = $2, misses = 2, next_due_at = $3 "
        "WHERE video_id = $1",
        id_, clock.now(), clock.now() + DAY,
    )  # fmt: skip


async def test_a_video_that_is_back_after_a_day_is_found_again(
    tracker: Tracker, clock: FixedClock, sql: Any
) -> None:
    await lose(sql, clock, STEADY)
    for _ in range(25):
        clock.advance(HOUR)
        await tracker.cycle()
    row = await clock_of(sql, STEADY)
    assert (row["status"], row["gone_at"], row["misses"]) == ("live", None, 0)
    assert row["last_sampled_at"] >= NOON + DAY
    assert await sql.fetchval("SELECT status FROM videos WHERE id = $1", STEADY) == "live"


async def test_watching_a_gone_video_asks_for_it_at_once(
    tracker: Tracker, clock: FixedClock, sql: Any
) -> None:
    await lose(sql, clock, STEADY)
    clock.advance(HOUR)
    atlas = tracker.atlas
    watches = WatchesDAO(atlas.db, clock=clock, settings=atlas.settings)
    await watches.add([Watch(WatchKind.VIDEO, STEADY)])
    await tracker.cycle()
    row = await clock_of(sql, STEADY)
    assert (row["status"], row["last_sampled_at"]) == ("live", NOON + HOUR)
