"""What was stored before there was a clock joins it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from atlas import migrations
from atlas.adapters.maia import MaiaDAO
from atlas.clock import FixedClock
from atlas.db import Database
from atlas.testing import NOON, SettingsFactory
from tests.integration.test_tracking import clock_row, sampled, samples_of

pytestmark = pytest.mark.integration

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


async def store(sql: Any, video_id: str, age_when_fetched: timedelta | None, **values: Any) -> None:
    row: dict[str, Any] = {
        "channel_id": "UC1", "status": "live", "discovered_at": NOON - 5 * DAY, "refreshed_at": NOON,
        "category_id": 10, "view_count": 7, "like_count": None, "comment_count": 0,
        "published_at": None if age_when_fetched is None else NOON - age_when_fetched,
    }  # fmt: skip
    row |= values
    places = ", ".join(f"${number}" for number in range(2, len(row) + 2))
    await sql.execute(
        f"INSERT INTO videos (id, {', '.join(row)}) VALUES ($1, {places})", video_id, *row.values()
    )


@pytest.fixture
async def migrated(
    settings_factory: SettingsFactory,
    empty_database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clock: FixedClock,
) -> AsyncIterator[tuple[Any, MaiaDAO]]:
    """A connection to a database that had videos at 0003 and is at the last version now, and a DAO."""
    older = tmp_path / "older"
    older.mkdir()
    for path in migrations.FOLDER.glob("000[123]_*.sql"):
        (older / path.name).write_bytes(path.read_bytes())
    settings = settings_factory(database_url=SecretStr(empty_database_url))
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "FOLDER", older)
        async with Database.open(settings):
            pass
    sql = await asyncpg.connect(empty_database_url)
    await sql.execute(
        "INSERT INTO channels VALUES ('UC1', 'One', $1, $1), ('UC2', 'Two', $2, $2)", NOON, NOON - DAY
    )
    await store(sql, "hot", 23 * HOUR)
    await store(sql, "warm", 7 * DAY, channel_id="UC2")
    await store(sql, "cold", 7 * DAY + HOUR, like_count=3)
    await store(sql, "undated", None)
    await store(sql, "uncounted", HOUR, view_count=None)
    await store(sql, "gone", HOUR, status="gone")
    await store(sql, "long ago", HOUR, refreshed_at=NOON - 60 * DAY, published_at=NOON - 60 * DAY - HOUR)
    async with Database.open(settings) as database:
        yield sql, MaiaDAO(database, clock=clock, settings=settings)
    await sql.close()


async def test_videos_join_as_they_stood_when_they_were_last_fetched(migrated: Any) -> None:
    sql, _ = migrated
    rows = await sql.fetch(
        "SELECT video_id, zone, interval_h, next_due_at - metadata_at AS wait, last_at, status "
        "FROM video_clock ORDER BY 1"
    )
    ago = NOON - 60 * DAY
    assert [tuple(row) for row in rows] == [
        ("cold", 2, 24, DAY, NOON, "live"),
        ("gone", 0, 1, 25 * DAY, NOON, "gone"),
        ("hot", 0, 1, HOUR, NOON, "live"),
        ("long ago", 0, 1, HOUR, ago, "live"),
        ("uncounted", 0, 1, HOUR, None, "live"),
        ("undated", 1, 6, 6 * HOUR, NOON, "live"),
        ("warm", 1, 6, 6 * HOUR, NOON, "live"),
    ]
    cold = await clock_row(sql, "cold")
    assert (cold["last_views"], cold["last_likes"], cold["last_comments"], cold["samples"]) == (7, 3, 0, 0)
    assert (cold["channel_id"], cold["category_id"], cold["misses"]) == ("UC1", 10, 0)
    assert (await clock_row(sql, "gone"))["gone_at"] == NOON
    assert (await clock_row(sql, "undated"))["born_at"] == NOON - 5 * DAY


async def test_they_are_claimed_and_sampled_like_others(migrated: Any, clock: FixedClock) -> None:
    sql, dao = migrated
    clock.advance(2 * DAY)
    targets = await dao.fetch_tracker_targets(100)
    assert {target.id for target in targets} == {"hot", "warm", "cold", "undated", "uncounted", "long ago"}
    assert targets[0].id == "long ago"
    stored = await dao.update_video_stats_batch([sampled(target, clock.now()) for target in targets])
    assert stored.samples == 6
    now = clock.now()
    assert [at for at, *_ in await samples_of(sql, "hot")] == [NOON, now]
    # Retention has passed what was fetched long ago.
    assert [at for at, *_ in await samples_of(sql, "long ago")] == [now]
    assert [at for at, *_ in await samples_of(sql, "uncounted")] == [now]


async def test_channels_join_too(migrated: Any, clock: FixedClock) -> None:
    _, dao = migrated
    assert [(target.id, target.next_due_at) for target in await dao.fetch_channel_targets(10)] == [
        ("UC2", NOON - DAY),
        ("UC1", NOON),
    ]
