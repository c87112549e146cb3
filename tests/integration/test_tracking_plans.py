"""The plans, HOT share and pages of the tracker's statements, on a clock that is long."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.tracking import Target, VideoUpdate, _video_columns
from atlas.clock import FixedClock
from atlas.db import Transaction, sql_of
from atlas.testing import NOON, SettingsFactory, ThrowAwayServer
from tests.integration.conftest import filled_database
from tests.integration.test_plans import MODES, TOKEN, nodes, pages_read, plan_of, scans, updates
from tests.integration.test_tracking import found, missing, sampled

pytestmark = pytest.mark.integration

VIDEOS = 20_000
HOUR = timedelta(hours=1)

FILL = """
INSERT INTO video_clock (
    video_id, channel_id, zone, interval_h, born_at, next_due_at, metadata_at, samples, last_at, last_views
)
SELECT id, channel_id, zone, (ARRAY[1, 6, 24])[zone + 1], $1,
    $1::timestamptz - interval '1 hour' * (hashtext(id) & 1023) / 1024.0, $1, 5, $1, 1000
FROM videos, LATERAL (SELECT abs(hashtext('z' || id)) % 3) AS z (zone)
"""


async def fill(sql: Any, videos: int) -> None:
    """A clock of as many videos, all of them due, a third in each zone."""
    await sql.execute("TRUNCATE channels CASCADE")
    # An ANALYZE in the middle of a test would hold a snapshot, which keeps old versions in their pages.
    await sql.execute("ALTER TABLE video_clock SET (autovacuum_enabled = off)")
    await sql.execute(
        "INSERT INTO channels SELECT 'UC' || i, 't', $1, $1 FROM generate_series(0, 999) AS i", NOON
    )
    await sql.execute(
        "INSERT INTO videos (id, channel_id, discovered_at, refreshed_at) "
        "SELECT substr(md5(i::text), 1, 11), 'UC' || i % 1000, $1, $1 "
        "FROM generate_series(1, $2::bigint) AS i",
        NOON,
        videos,
    )
    await sql.execute(FILL, NOON)
    await sql.execute("INSERT INTO channel_clock (channel_id, next_due_at) SELECT id, $1 FROM channels", NOON)
    await sql.execute("SELECT ensure_sample_days(ARRAY[$1::date, $1::date + 1])", NOON.date())
    await sql.execute("VACUUM ANALYZE channels, videos, video_clock, channel_clock")


@pytest.fixture(scope="module")
def template(postgres: ThrowAwayServer) -> str:
    """A database with a clock of VIDEOS."""
    return filled_database(postgres, lambda sql: fill(sql, VIDEOS))


@pytest.fixture
def long_clock(sql: Any) -> Any:
    return sql


@pytest.fixture
def dao(long_clock: Any, clock: FixedClock, settings_factory: SettingsFactory) -> MaiaDAO:
    """A DAO that commits each statement on the one connection whose statistics the test reads."""
    return MaiaDAO(Transaction(long_clock), clock=clock, settings=settings_factory())


BY_ID = ("Index Scan", "video_clock_pkey")
GONE_DUE = ("Index Scan", "video_clock_gone_due")
DUE = ("Index Scan", "video_clock_due")
IN_PLACE = ("Tid Scan", None)
CLAIM = f"1000, 'test', '{TOKEN}', 300, '{NOON}', false"


@pytest.mark.parametrize("mode", MODES)
async def test_a_claim_reads_the_rows_it_takes_and_their_index(long_clock: Any, mode: str) -> None:
    plan = await plan_of(long_clock, "tracking.claim_due_videos", CLAIM, mode)
    assert scans(plan, "video_clock") == {DUE, GONE_DUE, IN_PLACE}
    assert plan["Actual Rows"] == 1000
    read = [node for node in nodes(plan) if node.get("Index Name") == "video_clock_due"]
    assert sorted(node["Actual Rows"] * node["Actual Loops"] for node in read) == [0, 0, 1000]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("zone", [0, 1, 2])
async def test_a_clock_all_of_one_zone_changes_no_plan(long_clock: Any, mode: str, zone: int) -> None:
    """Where nearly every row fits, the planner is tempted to read the table until enough do."""
    await long_clock.execute("UPDATE video_clock SET zone = $1", zone)
    await long_clock.execute("VACUUM FULL ANALYZE video_clock")
    plan = await plan_of(long_clock, "tracking.claim_due_videos", CLAIM, mode)
    assert scans(plan, "video_clock") == {DUE, GONE_DUE, IN_PLACE}
    assert plan["Actual Rows"] == 1000


@pytest.mark.parametrize("mode", MODES)
async def test_a_claim_goes_on_where_the_hotter_zones_end(long_clock: Any, mode: str) -> None:
    await long_clock.execute(
        "DELETE FROM video_clock WHERE zone < 2 AND video_id NOT IN ("
        "SELECT video_id FROM video_clock WHERE zone = 0 ORDER BY video_id LIMIT 300) AND video_id NOT IN ("
        "SELECT video_id FROM video_clock WHERE zone = 1 ORDER BY video_id LIMIT 400)"
    )
    plan = await plan_of(long_clock, "tracking.claim_due_videos", CLAIM, mode)
    assert scans(plan, "video_clock") == {DUE, GONE_DUE, IN_PLACE}
    read = [node for node in nodes(plan) if node.get("Index Name") == "video_clock_due"]
    assert sorted(node["Actual Rows"] * node["Actual Loops"] for node in read) == [300, 300, 400]


@pytest.mark.parametrize("mode", MODES)
async def test_chosen_videos_are_claimed_by_their_key(long_clock: Any, mode: str) -> None:
    ids = [row["video_id"] for row in await long_clock.fetch("SELECT video_id FROM video_clock LIMIT 200")]
    arguments = f"ARRAY{ids}, 'test', '{TOKEN}', 300, '{NOON}', false"
    plan = await plan_of(long_clock, "tracking.claim_videos", arguments, mode)
    assert {index for _, index in scans(plan, "video_clock")} == {"video_clock_pkey", None}
    assert ("Seq Scan", None) not in scans(plan, "video_clock")
    assert plan["Actual Rows"] == 200


@pytest.mark.parametrize("mode", MODES)
async def test_candidates_are_read_from_the_index_of_what_is_due(long_clock: Any, mode: str) -> None:
    plan = await plan_of(long_clock, "tracking.due_targets", f"500, '{NOON}'", mode)
    assert scans(plan, "video_clock") == {DUE}
    assert plan["Actual Rows"] == 1500


def state_of(target: Target, clock: FixedClock, **values: Any) -> VideoUpdate:
    state: dict[str, Any] = {
        "velocity": 12.5, "acceleration": 0.5, "weight": 0.9, "relative_velocity": 1.5, "viral_score": 0.7,
        "breakout_state": (3.5, 0.25, 48.0, 1.0, 0.5, 12.0, 3.0, 4.0),
    }  # fmt: skip
    return sampled(target, clock.now(), 2000, **state | values)


@pytest.mark.parametrize("mode", MODES)
async def test_storing_samples_reads_only_the_rows_it_writes(
    dao: MaiaDAO, long_clock: Any, clock: FixedClock, mode: str
) -> None:
    targets = await dao.fetch_tracker_targets(200)
    updates = [state_of(target, clock, counted=(3, 2.5)) for target in targets[:150]]
    updates += [missing(target, clock.now(), gone=True, next_due_at=None) for target in targets[150:]]
    columns = _video_columns(updates)
    await long_clock.execute(f"SET plan_cache_mode = {mode}")
    statement = await long_clock.prepare(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql_of('tracking.update_video_stats')}"
    )
    explained = await statement.fetchval(NOON, NOON, NOON, *columns)
    plan = json.loads(explained)[0]["Plan"]
    by_channel = {(f"{kind} Scan", "channels_pkey") for kind in ("Index", "Bitmap Index", "Index Only")}
    assert scans(plan, "video_clock") - by_channel == {BY_ID, ("Index Scan", "videos_pkey")}
    for table in ("videos", "channels"):
        assert ("Seq Scan", None) not in scans(plan, table)
    assert await long_clock.fetchval("SELECT count(*) FROM video_stats_log") == 150
    assert await long_clock.fetchval("SELECT count(*) FROM video_clock WHERE status = 'gone'") == 50


@pytest.mark.parametrize("mode", MODES)
async def test_releases_read_only_the_rows_they_write(dao: MaiaDAO, long_clock: Any, mode: str) -> None:
    targets = await dao.fetch_tracker_targets(200)
    ids, tokens = [target.id for target in targets], [str(target.lease_token) for target in targets]
    arguments = f"ARRAY{ids}, ARRAY{tokens}::uuid[], 'timed out', 60, true"
    plan = await plan_of(long_clock, "tracking.release_videos", arguments, mode)
    assert scans(plan, "video_clock") == {BY_ID}


async def test_claims_are_hot_even_of_videos_found_together(
    dao: MaiaDAO, long_clock: Any, clock: FixedClock
) -> None:
    """New rows, all due at once, claimed, sampled for the first time, and so on until their state is full."""
    await long_clock.execute("TRUNCATE video_clock")
    videos = [found(f"v{number:010}", channel_id=f"UC{number:022}") for number in range(2000)]
    for start in range(0, 2000, 50):
        await dao.ingest_video_metadata(videos[start : start + 50])
    for _ in range(5):
        clock.advance(HOUR)
        total, hot = await updates(long_clock, "video_clock")
        targets = [target for _ in range(4) for target in await dao.fetch_tracker_targets(500)]
        assert len(targets) == 2000
        after, hot_after = await updates(long_clock, "video_clock")
        assert (after - total, hot_after - hot) == (2000, 2000)
        await dao.update_video_stats_batch([state_of(target, clock) for target in targets])


async def test_claims_releases_and_misses_of_a_long_clock_are_hot(
    dao: MaiaDAO, long_clock: Any, clock: FixedClock
) -> None:
    total, hot = await updates(long_clock, "video_clock")
    for _ in range(20):
        await dao.release_videos(await dao.fetch_tracker_targets(500), error="timed out", retry_after_s=60)
    after, hot_after = await updates(long_clock, "video_clock")
    assert (after - total, hot_after - hot) == (20_000, 20_000)


async def test_a_claim_reads_as_few_pages_after_many_as_at_first(
    dao: MaiaDAO, long_clock: Any, clock: FixedClock
) -> None:
    """Samples move videos from the head of the index to its tail: what they leave there must not be read."""
    first = await plan_of(long_clock, "tracking.claim_due_videos", CLAIM, "force_generic_plan")
    for _ in range(15):
        targets = await dao.fetch_tracker_targets(1000)
        assert len(targets) == 1000
        await dao.update_video_stats_batch([state_of(target, clock) for target in targets])
    await long_clock.execute("VACUUM video_clock")
    after = await plan_of(long_clock, "tracking.claim_due_videos", CLAIM, "force_generic_plan")
    assert scans(after, "video_clock") == scans(first, "video_clock")
    assert pages_read(after) < 1.5 * pages_read(first)


async def test_a_claim_reads_hardly_more_of_a_longer_clock(long_clock: Any) -> None:
    long = await plan_of(long_clock, "tracking.claim_due_videos", CLAIM, "force_generic_plan")
    await fill(long_clock, VIDEOS // 5)
    short = await plan_of(long_clock, "tracking.claim_due_videos", CLAIM, "force_generic_plan")
    assert scans(long, "video_clock") == scans(short, "video_clock")
    assert pages_read(long) < 1.5 * pages_read(short)


async def test_lease_columns_stand_in_no_index(long_clock: Any) -> None:
    definitions = await long_clock.fetch(
        "SELECT indexdef FROM pg_indexes WHERE tablename IN ('video_clock', 'channel_clock')"
    )
    assert len(definitions) == 11
    assert not any("lease" in row["indexdef"] or "attempts" in row["indexdef"] for row in definitions)


@pytest.mark.parametrize("mode", MODES)
async def test_channels_are_claimed_and_stored_by_their_indexes(long_clock: Any, mode: str) -> None:
    await long_clock.execute(
        "INSERT INTO channels SELECT 'UD' || i, 't', $1, $1 FROM generate_series(1, 20000) AS i", NOON
    )
    await long_clock.execute(
        "INSERT INTO channel_clock (channel_id, next_due_at) SELECT id, $1::timestamptz + interval '1 day' "
        "FROM channels WHERE id LIKE 'UD%'",
        NOON,
    )
    await long_clock.execute("VACUUM ANALYZE channels, channel_clock")
    claim = f"50, 'test', '{TOKEN}', 300, '{NOON}', false"
    plan = await plan_of(long_clock, "tracking.claim_due_channels", claim, mode)
    by_id = ("Index Scan", "channel_clock_pkey")
    assert scans(plan, "channel_clock") == {("Index Scan", "channel_clock_due"), by_id}
    assert plan["Actual Rows"] == 50


@pytest.mark.parametrize("mode", MODES)
async def test_the_oldest_counts_of_feeds_are_found_by_time(long_clock: Any, mode: str) -> None:
    await long_clock.execute(
        "INSERT INTO pending_counts "
        "SELECT video_id, $1::timestamptz + hashtext(video_id) * interval '1 ms', 7 FROM video_clock",
        NOON,
    )
    await long_clock.execute("VACUUM ANALYZE pending_counts")
    plan = await plan_of(long_clock, "tracking.oldest_feed_counts", "500", mode)
    assert scans(plan, "pending_counts") == {("Index Scan", "pending_counts_by_time")}
    assert plan["Actual Rows"] == 500
