"""A disk that fills up while agents write: space is freed, no work is lost, and people are told.

It mounts a small file system in memory, which takes root.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from atlas.composition import Atlas, check_free_disk
from atlas.config import DatabaseSettings, Settings
from atlas.embedded import EmbeddedServer
from atlas.errors import CannotStore, DatabaseError, EmbeddedServerError
from atlas.testing import IsolatedSettings, RecordingNotifier
from maia.maintainer.emergency import ANSWERS_KEPT_DAYS, FreeSpace, free_without_database
from maia.maintainer.outage import report_outage

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system takes root"),
    pytest.mark.timeout(300),
]

DISK_MB = 320
DAYS = 10
UNACKNOWLEDGED = (
    "SELECT name, body FROM vault_refused ORDER BY name",
    "SELECT query, lease_token, page_token FROM search_queue ORDER BY query",
    "SELECT video_id, lease_token, next_due_at FROM video_clock ORDER BY video_id",
    "SELECT video_id, sampled_at, views FROM video_stats_log ORDER BY video_id, sampled_at",
)
FILL = """
WITH topics AS (
    INSERT INTO search_queue (
        query, key, origin, priority, created_at, lease_owner, lease_token, lease_until, claimed_at,
        page_token, page_params, page_issued_at
    )
    SELECT 'topic ' || n, 'topic ' || n, 'seed', n, now(), 'a hunter', gen_random_uuid(), now(), now(),
        'next', '{}', now()
    FROM generate_series(1, 200) AS n
), channel AS (
    INSERT INTO channels VALUES ('UC-one', 'One', now(), now())
), videos AS (
    INSERT INTO videos (id, channel_id, discovered_at, refreshed_at)
    SELECT 'video-' || n, 'UC-one', now(), now() FROM generate_series(1, 500) AS n
), clocks AS (
    INSERT INTO video_clock (
        video_id, channel_id, zone, interval_h, born_at, next_due_at, metadata_at, lease_owner, lease_token,
        lease_until
    )
    SELECT 'video-' || n, 'UC-one', 0, 1, now(), now(), now(), 'a tracker', gen_random_uuid(), now()
    FROM generate_series(1, 500) AS n
), samples AS (
    INSERT INTO video_stats_log (video_id, methodology, sampled_at, views)
    SELECT 'video-' || n, 2, now() - d * interval '1 day', n
    FROM generate_series(1, 500) AS n, generate_series(0, 20) AS d
)
INSERT INTO vault_refused (name, body, last_error, refused_at, retry_at)
SELECT 'metadata/' || current_date || '/waits-' || n || '.json', sha256(n::text::bytea), 'away', now(),
    now() + interval '1 day'
FROM generate_series(1, 200) AS n
"""


@pytest.fixture
def small_disk() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="small-disk-"))
    options = f"size={DISK_MB}m,mode=0755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    folder.parent.chmod(folder.parent.stat().st_mode | 0o001)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@pytest.fixture
def settings(small_disk: Path, recording_notifier: RecordingNotifier) -> Settings:
    return IsolatedSettings(
        data_dir=small_disk / "data",
        node_id="small",
        database={"shared_buffers_mb": 16, "connect_timeout_s": 20},
        notifier={"urls": [recording_notifier.url]},
        maintainer={"apply": ["emergency"]},
    )


@pytest.fixture
async def atlas(settings: Settings) -> AsyncIterator[Atlas]:
    async with Atlas.open(settings) as opened:
        yield opened
    await EmbeddedServer(settings.data_folder, DatabaseSettings()).destroy()


async def connect(atlas: Atlas) -> Any:
    return await asyncpg.connect(atlas.db.url_of())


async def work(atlas: Atlas) -> list[list[tuple[Any, ...]]]:
    """Everything that is claimed, waits or was sampled."""
    sql = await connect(atlas)
    try:
        return [[tuple(row) for row in await sql.fetch(statement)] for statement in UNACKNOWLEDGED]
    finally:
        await sql.close()


def answers(settings: Settings, *, ago: int) -> Path:
    day = (datetime.now(UTC) - timedelta(days=ago)).date()
    folder = settings.data_folder / "vault" / "metadata" / str(day)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fill_disk(settings: Settings) -> None:
    """Raw answers of the last days, more of the older ones, until nothing more fits."""
    for ago in (0, 1, 2):
        (answers(settings, ago=ago) / "kept.json").write_bytes(os.urandom(100_000))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        for nth in count():
            path = answers(settings, ago=3 + nth % DAYS) / f"answer-{nth}.json"
            path.write_bytes(os.urandom(1_000_000))


async def write_until_full(atlas: Atlas) -> tuple[list[int], DatabaseError]:
    """Append events until the database can't; returns those that were acknowledged, and what it said."""
    done: list[int] = []
    while True:
        try:
            done.append(await atlas.events.append("hunter.cycle", {"text": os.urandom(500_000).hex()}))
        except DatabaseError as error:
            return done, error


async def prepared(atlas: Atlas) -> list[list[tuple[Any, ...]]]:
    sql = await connect(atlas)
    await sql.execute(
        "SELECT ensure_sample_days(ARRAY(SELECT current_date - d FROM generate_series(0, 20) AS d))"
    )
    await sql.execute(FILL)
    await sql.close()
    return await work(atlas)


async def test_a_disk_that_fills_up_while_agents_write(
    atlas: Atlas, settings: Settings, recording_notifier: RecordingNotifier
) -> None:
    before = await prepared(atlas)
    fill_disk(settings)
    acknowledged, error = await write_until_full(atlas)
    with pytest.raises(CannotStore):
        check_free_disk(atlas)

    assert await report_outage(settings, error)
    [alert] = recording_notifier.alerts
    assert "database." in alert["title"]
    assert "small" in alert["message"]

    action = FreeSpace(settings, atlas)
    plan = await action.plan()
    assert plan is not None
    assert "MiB freed" in await action.apply(plan)
    assert await action.plan() is None
    check_free_disk(atlas)
    acknowledged.append(await atlas.events.append("hunter.cycle", {"text": "there is space again"}))

    assert await work(atlas) == before
    sql = await connect(atlas)
    assert {row[0] for row in await sql.fetch("SELECT id FROM events")} >= set(acknowledged)
    await sql.close()
    for ago in range(ANSWERS_KEPT_DAYS + 1):
        assert (answers(settings, ago=ago) / "kept.json").exists()
    kept = settings.data_folder / "vault" / "metadata"
    days = sorted(path.name for path in kept.iterdir())
    assert len(days) > ANSWERS_KEPT_DAYS + 1, "it stopped as soon as there was enough"


async def test_a_server_that_can_not_start_any_more(settings: Settings) -> None:
    async with Atlas.open(settings) as atlas:
        before = await prepared(atlas)
    fill_disk(settings)
    with pytest.raises((EmbeddedServerError, DatabaseError)):
        async with Atlas.open(settings):
            pass
    freed = await free_without_database(settings)
    assert freed is not None
    assert "raw answers" in freed
    async with Atlas.open(settings) as atlas:
        assert await work(atlas) == before
    await EmbeddedServer(settings.data_folder, DatabaseSettings()).destroy()


def test_the_command_frees_space_without_a_database(settings: Settings) -> None:
    settings.data_folder.mkdir()
    fill_disk(settings)
    command = [sys.executable, "-m", "maia", "system", "cleanup", "--only", "emergency", "--apply", "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PLEIADES_")}
    environment |= {"PLEIADES_DATA_DIR": str(settings.data_folder), "DATABASE_URL": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    [action] = json.loads(done.stdout)["actions"]
    assert action["state"] == "applied"
    assert shutil.disk_usage(settings.data_folder).free > 20 * 2**20
