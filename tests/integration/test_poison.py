"""One impossible id never fails a cycle: it is left out, counted, and not asked for again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.testing import SettingsFactory
from maia.emulator.catalogue import Catalogue, CatalogueChannel, CatalogueVideo, new_catalogue
from maia.emulator.curves import Sample
from maia.emulator.server import Emulator
from maia.hunter.cycle import Hunter
from maia.tracker.cycle import Tracker
from maia.youtube.ids import VideoId
from tests.ids import cid, vid

pytestmark = pytest.mark.integration

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
POISON = "poison,1234"
GOOD = [vid(f"good{n}") for n in range(4)]
RINGS = ("hunting", "tracking")


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    """Five videos; the third one's id contains a comma."""
    begin = int((NOON - timedelta(hours=6)).timestamp())
    with new_catalogue(tmp_path / "a.catalogue", {"made_by": "test"}) as writer:
        writer.add_channels([CatalogueChannel(cid("a"), "Cats")])
        for n, id_ in enumerate([*GOOD[:2], POISON, *GOOD[2:]]):
            video = CatalogueVideo(id_, cid("a"), f"cats {n}", begin + n * 60, tags=("cats",))
            writer.add(video, "Cats", [Sample(begin + 3600, 10), Sample(begin + 86_400, 1000)])
    with Catalogue.open(tmp_path / "a.catalogue") as opened:
        yield opened


@pytest_asyncio.fixture
async def atlas(
    catalogue: Catalogue, clock: FixedClock, settings_factory: SettingsFactory
) -> AsyncIterator[Atlas]:
    keys = {ring: [{"key": "demo-key", "project": "demo"}] for ring in RINGS}
    async with Emulator.serve(catalogue, clock=clock) as emulator:
        settings = settings_factory(
            youtube_api_key_pool_json=SecretStr(json.dumps(keys)),
            youtube={"base_url": emulator.url},
            quota={"pacing": False},
            hunter={"strategy": "specification"},
        )
        async with Atlas.open(settings, clock=clock) as opened:
            yield opened


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOON)


async def test_the_hunter_stores_the_page_without_it(atlas: Atlas, sql: Any) -> None:
    async with Hunter.open(atlas) as hunter:
        await hunter.dao.seed(["cats"])
        first = await hunter.cycle()
    assert (first.outcome, first.found, first.skipped) == ("done", 4, {})
    assert first.malformed == {"search hit": 1}
    assert {row["id"] for row in await sql.fetch("SELECT id FROM videos")} == set(GOOD)
    payload = await sql.fetchval("SELECT payload FROM events WHERE kind = 'hunter.cycle'")
    assert json.loads(payload)["malformed"] == {"search hit": 1}


async def test_the_tracker_samples_the_others_where_it_was_stored_before(
    atlas: Atlas, clock: FixedClock, sql: Any
) -> None:
    async with Tracker.open(atlas) as tracker:
        videos = await tracker.youtube.videos(GOOD)
        stored_before = dataclasses.replace(videos[0], id=VideoId(POISON))
        await tracker.dao.ingest_video_metadata([*videos, stored_before])
        clock.advance(timedelta(hours=1))
        for _ in range(2):
            statistics = await tracker.cycle()
            assert statistics.outcome == "done"
            assert statistics.malformed == {"requested id": 1}
            clock.advance(timedelta(hours=2))
    sampled = await sql.fetch("SELECT DISTINCT video_id FROM video_stats_log")
    assert {row["video_id"] for row in sampled} == set(GOOD)
