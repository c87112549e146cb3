"""A quota that does not pay for every interval: hot ones keep their hour, and nobody starves needlessly."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.testing import NOON, SettingsFactory
from maia.cycle.agent import run
from maia.emulator import Emulator
from maia.emulator.catalogue import Catalogue, CatalogueChannel, CatalogueVideo, new_catalogue
from maia.emulator.curves import Sample
from maia.tracker.cycle import Tracker
from maia.views.status import status
from maia.views.words import plain

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
KEYS = json.dumps([{"key": "demo-one", "project": "demo"}])
PLENTY = {"search": 100_000, "general": 100_000}
IDS = [f"video{n:06d}" for n in range(1400)]
ZONES = ((IDS[:200], 1.0), (IDS[200:800], 6.0), (IDS[800:], 24.0))
"""Hot, warm and cold videos with their intervals in hours: they ask for 200 + 100 + 25 samples an hour."""


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """Videos that are pinned to their zones, each gaining 100 views an hour."""
    path = tmp_path_factory.mktemp("catalogue") / "steady.sqlite"
    with new_catalogue(path, {"made_by": "test"}) as writer:
        writer.add_channels([CatalogueChannel("UC" + "0" * 22, "Everybody")])
        for n, id_ in enumerate(IDS):
            born = int((NOON - 30 * DAY).timestamp()) + n
            video = CatalogueVideo(id_, "UC" + "0" * 22, f"Video {n}", born, category_id=10)
            writer.add(video, "Everybody", [Sample(born, 0), Sample(born + 60 * 86400, 100 * 24 * 60)])
    with Catalogue.open(path) as opened:
        yield opened


@pytest.fixture
def tracked(settings_factory: SettingsFactory, emulator: Emulator, clock: FixedClock, sql: Any) -> Any:
    """Opens an Atlas of all the videos with so many units of the stats bucket a day."""

    @asynccontextmanager
    async def open_atlas(units: int) -> AsyncIterator[Atlas]:
        shares = {"tracking": {"stats": 1, "general": 0.5}, "archeology": {"stats": 0}}
        quota = {"limits": PLENTY | {"stats": units}, "shares": shares, "reserve": 0}
        settings = settings_factory(
            youtube_api_key_pool_json=KEYS, youtube={"base_url": emulator.url}, quota=quota,
            agents={"intervals_s": {"tracker": 3600}},
        )  # fmt: skip
        async with Atlas.open(settings, clock=clock) as atlas:
            async with Tracker.open(atlas) as tracker:
                await tracker.dao.ingest_video_metadata(await tracker.youtube.videos(IDS))
            # Spread over their intervals, as wherever a tracker has been at work for a while.
            for zone, (ids, interval_h) in enumerate(ZONES):
                for n, id_ in enumerate(ids):
                    await sql.execute(
                        "UPDATE video_clock SET pinned_zone = $2, zone = $2, interval_h = $3,"
                        " next_due_at = $4 WHERE video_id = $1",
                        id_, zone, interval_h, NOON + n / len(ids) * interval_h * HOUR,
                    )  # fmt: skip
            yield atlas

    return open_atlas


async def pass_hours(atlas: Atlas, clock: FixedClock, hours: int) -> list[dict[str, Any]]:
    statistics = []
    for _ in range(hours):
        clock.advance(HOUR)
        statistics.append(await run(Tracker, atlas, cycles=50))
    return statistics


async def waits_h(sql: Any, zone: int) -> list[float]:
    """How long the videos of a zone waited between two samples, and how long they have been waiting."""
    rows = await sql.fetch(
        "SELECT l.video_id, l.sampled_at FROM video_stats_log AS l JOIN video_clock AS c USING (video_id)"
        " WHERE c.pinned_zone = $1 ORDER BY 1, 2", zone,
    )  # fmt: skip
    return [
        (later["sampled_at"] - sooner["sampled_at"]) / HOUR
        for sooner, later in pairwise(rows)
        if sooner["video_id"] == later["video_id"] and sooner["sampled_at"] > NOON
    ]


async def last_sampled(sql: Any, zone: int) -> list[datetime]:
    rows = await sql.fetch("SELECT last_sampled_at FROM video_clock WHERE pinned_zone = $1", zone)
    return [row[0] for row in rows]


async def test_nobody_starves_while_the_quota_makes_it_possible(
    tracked: Any, clock: FixedClock, sql: Any
) -> None:
    # 6 units an hour pay for 300 samples of the 325 asked for.
    async with tracked(144) as atlas:
        statistics = await pass_hours(atlas, clock, 60)
        report = plain(await status(atlas, ["tracker"]))
    assert sum(hour["degraded"] for hour in statistics) > 0
    assert set(await waits_h(sql, 0)) == {1.0}
    for zone, interval_h in ((1, 6), (2, 24)):
        assert max(await waits_h(sql, zone)) <= 3 * interval_h
        assert clock.now() - min(await last_sampled(sql, zone)) <= 3 * interval_h * HOUR
    assert all(hour["starving"] == 0 for hour in statistics)
    tracking = report["tracking"]
    assert (tracking["starving"], tracking["short_per_h"]) == (0, 0)
    assert tracking["demand_per_h"] == pytest.approx(325)
    assert tracking["paid_per_h"] == pytest.approx(300)
    assert {zone["zone"]: round(zone["slowed"], 2) for zone in tracking["zones"]} == {
        "hot": 1.0, "warm": 1.09, "cold": 3.0,
    }  # fmt: skip


async def test_where_it_is_impossible_hot_ones_still_go_first_and_status_says_so(
    tracked: Any, clock: FixedClock, sql: Any
) -> None:
    # 2 units every three hours pay for a tenth.
    async with tracked(16) as atlas:
        statistics = await pass_hours(atlas, clock, 24)
        report = plain(await status(atlas, ["tracker"]))
    units = sum(hour["units"].get("stats", 0) for hour in statistics)
    assert sum(hour["samples"] for hour in statistics) == 50 * units > 0
    rows = await sql.fetch("SELECT video_id, samples FROM video_clock")
    samples = {row["video_id"]: row["samples"] for row in rows}
    # The hot ones in turn: none was sampled twice more often than another.
    of_hot = [samples[id_] for id_ in IDS[:200]]
    assert max(of_hot) - min(of_hot) <= 1
    assert sum(of_hot) > sum(samples[id_] for id_ in IDS[200:])
    tracking = report["tracking"]
    assert tracking["short_per_h"] == pytest.approx(200 + 125 / 3 - 16 * 50 / 24)
    assert tracking["starving"] > 0
    assert {zone["zone"]: zone["slowed"] for zone in tracking["zones"]} == {
        "hot": 1.0, "warm": pytest.approx(3), "cold": pytest.approx(3),
    }  # fmt: skip
    assert all(zone["lag_h"] > 0 for zone in tracking["zones"])
    told = [hour for hour in statistics if hour["degraded"]]
    assert all(hour["deferred"]["warm"] > 0 for hour in told if hour["deferred"]["hot"])
    assert any(hour["starving"] for hour in told)
