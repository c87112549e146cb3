"""A database that takes nothing: full, or read-only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from atlas.adapters.maia import MaiaDAO
from atlas.clock import FixedClock
from atlas.db import Database
from atlas.errors import CannotStore
from atlas.testing import NOON, SettingsFactory, ThrowAwayServer, throw_away_server
from tests.integration.conftest import MountSmall

pytestmark = pytest.mark.integration

VIDEOS = 500


@pytest.fixture
def small_server(embedded_data_dir: Path, mount_small: MountSmall) -> Iterator[ThrowAwayServer]:
    """A server whose file system holds little more than an empty cluster."""
    with throw_away_server(mount_small(embedded_data_dir / "small", "160m")) as server:
        yield server


async def fill_up(url: str) -> None:
    """Take all the space that is left, in steps that become ever smaller, and none of it for the log.

    A server that cannot extend its log ends all connections, which is another cause.
    """
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE UNLOGGED TABLE ballast (text text STORAGE PLAIN)")
        for rows in (1000, 100, 10, 1):
            with pytest.raises(asyncpg.DiskFullError):
                while True:
                    await connection.execute(
                        "INSERT INTO ballast SELECT repeat('x', 8000) FROM generate_series(1, $1)", rows
                    )
    finally:
        await connection.close()


def found(number: int) -> Any:
    return SimpleNamespace(
        id=f"v{number}", channel_id="UC-one", channel_title="One", title="A" * 90, description="d" * 2000,
        published_at=NOON - timedelta(hours=1), category_id=22, tags=(), duration_s=90,
        live_broadcast_content="none", default_language=None, view_count=100, like_count=10, comment_count=1,
        etag="e", scheduled_start_at=None, actual_start_at=None, actual_end_at=None,
    )  # fmt: skip


async def test_a_full_disk_is_a_cause_of_its_own_and_claims_can_be_given_back(
    settings_factory: SettingsFactory, small_server: ThrowAwayServer, clock: FixedClock
) -> None:
    url = small_server.dsn_of(small_server.create_database(small_server.migrated_template()))
    settings = settings_factory(database_url=SecretStr(url))
    async with Database.open(settings) as database:
        dao = MaiaDAO(database, clock=clock, settings=settings)
        await dao.ingest_video_metadata([found(number) for number in range(VIDEOS)])
        clock.advance(timedelta(days=1))
        targets = await dao.fetch_tracker_targets(50)
        await fill_up(url)

        with pytest.raises(CannotStore, match=r"No space left on device.*free space on the database's disk"):
            await dao.ingest_video_metadata([found(number) for number in range(VIDEOS, 3 * VIDEOS)])

        began_s = time.monotonic()
        assert await dao.release_videos(targets, count_attempt=False) == len(targets) == 50
        assert time.monotonic() - began_s < 5


async def test_a_read_only_database_is_a_cause_of_its_own(
    settings_factory: SettingsFactory, database_url: str, sql: Any, clock: FixedClock
) -> None:
    name = await sql.fetchval("SELECT current_database()")
    await sql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    settings = settings_factory()
    async with Database.open(settings) as database:
        dao = MaiaDAO(database, clock=clock, settings=settings)
        with pytest.raises(CannotStore, match="read-only transaction: the server is a standby"):
            await dao.ingest_video_metadata([found(1)])
