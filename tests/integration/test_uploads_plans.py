"""The plans and pages of the statements that look at channels' uploads, on a plan of many channels."""

from __future__ import annotations

from typing import Any

import pytest

from atlas.testing import NOON, ThrowAwayServer
from tests.integration.conftest import filled_database
from tests.integration.test_plans import MODES, TOKEN, nodes, pages_read, plan_of, scans

pytestmark = pytest.mark.integration

CHANNELS = 50_000
IN_PLACE = ("Tid Scan", None)
DUE = {("Index Scan", f"channel_uploads_{name}due") for name in ("", "watched_", "counted_")}
BOUNDS = "0.1, 1, 1, 0.001, 0.01, 0.25, 168, 0.5, 10"

FILL = """
INSERT INTO channel_uploads (channel_id, next_look_at, watched, by_feed, gap_since, worth, rate)
SELECT 'UC' || i, $2::timestamptz + (i - $1 / 2) * interval '1 second', i % 1000 = 0, i % 100 <> 1,
    CASE WHEN i % 500 = 0 THEN $2::timestamptz END, 0.001 * (1 + i % 7), 0.01 * (1 + i % 5)
FROM generate_series(1, $1::bigint) AS i
ORDER BY hashint8(i)
"""


async def fill(sql: Any, channels: int) -> None:
    """A plan of `channels`, half of them due, a few watched, a few without a feed, a few with a gap."""
    await sql.execute("ALTER TABLE channel_uploads SET (autovacuum_enabled = off)")
    await sql.execute(
        "INSERT INTO channels SELECT 'UC' || i, 't', $1, $1 FROM generate_series(1, $2::bigint) AS i",
        NOON,
        channels,
    )
    await sql.execute(FILL, channels, NOON)
    await sql.execute("VACUUM ANALYZE channels, channel_uploads")


def indexes(plan: Any) -> set[str]:
    """The indexes by which the plan finds channels; it must not read the whole table."""
    assert "Seq Scan" not in {node["Node Type"] for node in nodes(plan)}
    return {node["Index Name"] for node in nodes(plan) if "Index Name" in node}


@pytest.fixture(scope="module")
def template(postgres: ThrowAwayServer) -> str:
    """A database with a plan of CHANNELS."""
    return filled_database(postgres, lambda sql: fill(sql, CHANNELS))


@pytest.mark.parametrize("mode", MODES)
async def test_a_claim_reads_the_due_rows_that_it_takes(sql: Any, mode: str) -> None:
    plan = await plan_of(sql, "uploads.claim_looks", f"100, '{NOON}', '{TOKEN}', 50, {BOUNDS}", mode)
    assert scans(plan, "channel_uploads") == DUE | {IN_PLACE}
    assert plan["Actual Rows"] == 150
    read = {node["Index Name"]: node["Actual Rows"] for node in nodes(plan) if node.get("Index Name")}
    assert read["channel_uploads_watched_due"] == CHANNELS // 2 // 1000
    assert sum(read.values()) == 150


@pytest.mark.parametrize("mode", MODES)
async def test_a_claim_of_one_kind_reads_nothing_of_the_other(sql: Any, mode: str) -> None:
    plan = await plan_of(sql, "uploads.claim_looks", f"10, '{NOON}', '{TOKEN}', 0, {BOUNDS}", mode)
    assert plan["Actual Rows"] == 10
    loops = {node["Index Name"]: node["Actual Loops"] for node in nodes(plan) if node.get("Index Name")}
    assert loops["channel_uploads_counted_due"] == 0


@pytest.mark.parametrize("mode", MODES)
async def test_a_plan_with_all_channels_due_changes_nothing(sql: Any, mode: str) -> None:
    await sql.execute("UPDATE channel_uploads SET next_look_at = $1", NOON)
    await sql.execute("VACUUM FULL ANALYZE channel_uploads")
    plan = await plan_of(sql, "uploads.claim_looks", f"100, '{NOON}', '{TOKEN}', 50, {BOUNDS}", mode)
    assert scans(plan, "channel_uploads") == DUE | {IN_PLACE}
    assert plan["Actual Rows"] == 150


@pytest.mark.parametrize("mode", MODES)
async def test_feeds_to_try_again_are_sought_among_those_given_up(sql: Any, mode: str) -> None:
    await sql.execute("UPDATE channel_uploads SET retry_feed_at = next_look_at WHERE NOT by_feed")
    await sql.execute("VACUUM FULL ANALYZE channel_uploads")
    plan = await plan_of(sql, "uploads.retry_feeds", f"'{NOON}', 2, 10", mode)
    assert scans(plan, "channel_uploads") - {("Bitmap Heap Scan", None)} <= {
        ("Index Scan", "channel_uploads_counted_due"),
        ("Bitmap Index Scan", "channel_uploads_counted_due"),
        IN_PLACE,
    }
    assert indexes(plan) == {"channel_uploads_counted_due"}


@pytest.mark.parametrize("mode", MODES)
async def test_gaps_are_found_by_their_index(sql: Any, mode: str) -> None:
    plan = await plan_of(sql, "uploads.claim_gaps", f"5, '{TOKEN}', 300", mode)
    assert indexes(plan) == {"channel_uploads_gaps", "channel_uploads_pkey"}
    assert plan["Actual Rows"] == 5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("statement", ["give_looks_back", "close_gap"])
async def test_channels_are_found_by_their_key(sql: Any, statement: str, mode: str) -> None:
    which = "ARRAY['UC1', 'UC2']" if statement == "give_looks_back" else "'UC1'"
    plan = await plan_of(sql, f"uploads.{statement}", f"{which}, '{TOKEN}'", mode)
    assert indexes(plan) == {"channel_uploads_pkey"}


@pytest.mark.parametrize("mode", MODES)
async def test_answers_are_stored_by_their_channels_keys(sql: Any, mode: str) -> None:
    await sql.execute("UPDATE channel_uploads SET claim_token = $1 WHERE channel_id = 'UC1'", TOKEN)
    arrays = (
        f"ARRAY['UC1'], ARRAY['{NOON}'::timestamptz], ARRAY[true], ARRAY[2], ARRAY[0.1], ARRAY[0.1], "
        f"ARRAY[1], ARRAY[1], ARRAY[1], ARRAY[1], ARRAY[NULL::timestamptz], ARRAY[NULL::timestamptz], "
        "ARRAY[NULL::timestamptz], ARRAY[NULL::timestamptz], ARRAY[NULL::bigint], ARRAY[0::smallint], "
        "ARRAY[true], ARRAY[false], ARRAY[NULL], ARRAY[NULL]"
    )
    plan = await plan_of(sql, "uploads.store_looks", f"'{TOKEN}', {arrays}", mode)
    assert indexes(plan) == {"channel_uploads_pkey"}


async def test_the_scale_is_worked_out_from_some_of_the_pages(sql: Any) -> None:
    plan = await plan_of(sql, "uploads.sample_plan", "10", "force_generic_plan")
    assert scans(plan, "channel_uploads") == {("Sample Scan", None)}
    pages = await sql.fetchval("SELECT relpages FROM pg_class WHERE relname = 'channel_uploads'")
    assert pages_read(plan) < pages / 5
