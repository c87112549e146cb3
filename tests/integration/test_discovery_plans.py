"""The plans of the statements by which the hunter chooses, meets and judges, on large tables."""

from __future__ import annotations

from typing import Any

import pytest

from atlas.testing import NOON, ThrowAwayServer
from tests.integration.conftest import filled_database
from tests.integration.test_plans import MODES, TOKEN, fill, nodes, plan_of, scans

pytestmark = pytest.mark.integration

VIDEOS, TOPICS, QUESTIONS = 40_000, 50_000, 20_000

FILL_VIDEOS = """
WITH channel AS (
    INSERT INTO channels (id, title, discovered_at, refreshed_at) VALUES ('UC1', 'Channel', $2, $2)
    RETURNING id
)
INSERT INTO videos (id, channel_id, published_at, discovered_at, refreshed_at, category_id, view_count)
SELECT format('v%s', i), channel.id, $2::timestamptz - i * interval '10 seconds', $2, $2, 22, i
FROM channel, generate_series(1, $1::bigint) AS i
"""
FILL_CLOCK = """
INSERT INTO video_clock (
    video_id, channel_id, zone, interval_h, born_at, next_due_at, metadata_at, last_at, last_views
)
SELECT id, channel_id, 0, 1, published_at, $1, $1, $1, view_count FROM videos
"""
FILL_SOURCES = """
INSERT INTO video_sources (video_id, arm, met_at, topics, is_first, age_h, views_per_hour, growing, judged_at)
SELECT id, 'search:views', published_at + interval '2 hours', ARRAY[1 + (view_count % 1000)], true, 2,
    CASE WHEN is_old THEN view_count END, CASE WHEN is_old THEN false END,
    CASE WHEN is_old THEN $1::timestamptz END
FROM videos, LATERAL (SELECT view_count % 100 <> 0) AS age (is_old)
"""
FILL_QUESTIONS = """
INSERT INTO discovery_asks (key, arm, question, asked_at, covers_until, is_open)
SELECT format('slices@%s', i), 'search:slices', '{}', $2::timestamptz - i * interval '1 minute',
    $2::timestamptz - i * interval '1 minute', i <= 20
FROM generate_series(1, $1::bigint) AS i
"""


async def fill_all(sql: Any) -> None:
    await fill(sql, TOPICS)
    await sql.execute("ALTER TABLE video_clock SET (autovacuum_enabled = off)")
    await sql.execute(FILL_VIDEOS, VIDEOS, NOON)
    await sql.execute(FILL_CLOCK, NOON)
    await sql.execute(FILL_SOURCES, NOON)
    await sql.execute(FILL_QUESTIONS, QUESTIONS, NOON)
    await sql.execute("VACUUM ANALYZE videos, video_clock, video_sources, discovery_asks")


@pytest.fixture(scope="module")
def template(postgres: ThrowAwayServer) -> str:
    return filled_database(postgres, fill_all)


def reads(plan: Any) -> int:
    """Rows that all scans of a plan read."""
    return int(
        sum(
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
            for node in nodes(plan)
            if "Scan" in node["Node Type"] and "Relation Name" in node
        )
    )


@pytest.mark.parametrize("mode", MODES)
async def test_candidates_are_the_head_of_the_queue(sql: Any, mode: str) -> None:
    plan = await plan_of(sql, "queue.topic_candidates", "500, 5000", mode)
    assert ("Index Scan", "search_queue_by_priority") in scans(plan, "search_queue")
    assert not any(kind == "Seq Scan" for kind, _ in scans(plan, "search_queue"))
    assert reads(plan) < 12_000


@pytest.mark.parametrize("mode", MODES)
async def test_a_chosen_claim_reads_only_what_was_chosen(sql: Any, mode: str) -> None:
    ids = [
        row["id"]
        for row in await sql.fetch("SELECT id FROM search_queue WHERE status = 'active' ORDER BY id LIMIT 60")
    ]
    arguments = f"ARRAY{ids}::bigint[], 'test', '{TOKEN}', 300, 5, '{NOON}', false"
    plan = await plan_of(sql, "queue.claim_chosen_topics", arguments, mode)
    assert {kind for kind, _ in scans(plan, "search_queue")} <= {
        "Index Scan",
        "Bitmap Heap Scan",
        "Bitmap Index Scan",
    }
    assert plan["Actual Rows"] == 60
    assert reads(plan) <= 4 * 60


@pytest.mark.parametrize("mode", MODES)
async def test_meeting_videos_reads_only_them(sql: Any, mode: str) -> None:
    ids = ", ".join(f"'v{n}'" for n in range(1, 51))
    arguments = f"'search:any', ARRAY[{ids}], '{NOON}', array_fill('{{1,2}}'::text, ARRAY[50]), ARRAY['v1']"
    plan = await plan_of(sql, "discovery.meet_videos", arguments, mode)
    assert not any(kind == "Seq Scan" for kind, _ in scans(plan, "video_clock"))
    assert reads(plan) <= 200


@pytest.mark.parametrize("mode", MODES)
async def test_known_videos_are_looked_up_by_id(sql: Any, mode: str) -> None:
    ids = ", ".join(f"'v{n}'" for n in range(1, 201))
    plan = await plan_of(sql, "discovery.known_videos", f"ARRAY[{ids}], '{NOON}'", mode)
    for table in ("videos", "video_clock"):
        assert not any(kind == "Seq Scan" for kind, _ in scans(plan, table))
    assert plan["Actual Rows"] == 200


@pytest.mark.parametrize("mode", MODES)
async def test_judging_reads_only_what_is_not_judged_yet(sql: Any, mode: str) -> None:
    """One video in a hundred is not; the batch begins behind the last one."""
    plan = await plan_of(sql, "discovery.to_judge", f"'{NOON}', '2000-01-01', '', 100", mode)
    assert ("Index Scan", "video_sources_to_judge") in scans(plan, "video_sources")
    assert plan["Actual Rows"] == 100
    assert reads(plan) < 3_000


@pytest.mark.parametrize("mode", MODES)
async def test_verdicts_write_only_the_rows_they_are_about(sql: Any, mode: str) -> None:
    ids = ", ".join(f"'v{100 * n}'" for n in range(1, 101))
    arguments = f"ARRAY[{ids}], array_fill(5::real, ARRAY[100]), array_fill(true, ARRAY[100]), '{NOON}', 10"
    plan = await plan_of(sql, "discovery.judge_videos", arguments, mode)
    assert not any(kind == "Seq Scan" for kind, _ in scans(plan, "video_sources"))
    assert not any(kind == "Seq Scan" for kind, _ in scans(plan, "search_queue"))


@pytest.mark.parametrize("mode", MODES)
async def test_open_questions_are_found_by_their_index(sql: Any, mode: str) -> None:
    arguments = f"'search:slices', 5, '{TOKEN}', 300, '{NOON}', '{NOON}'"
    plan = await plan_of(sql, "discovery.claim_open_asks", arguments, mode)
    assert ("Index Scan", "discovery_asks_open") in scans(plan, "discovery_asks")
    assert not any(kind == "Seq Scan" for kind, _ in scans(plan, "discovery_asks"))
    assert plan["Actual Rows"] == 5


@pytest.mark.parametrize("mode", MODES)
async def test_the_threshold_reads_the_videos_judged_last(sql: Any, mode: str) -> None:
    plan = await plan_of(sql, "discovery.known_growth", "'2000-01-01', 100", mode)
    assert {name for _, name in scans(plan, "video_sources")} == {"video_sources_judged"}
    assert reads(plan) <= 200
