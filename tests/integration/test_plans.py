"""The plans, HOT share and pages of the statements that every cycle runs, on a queue that is long."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.queue import Mention, Topic, TopicOutcome, TopicStatus
from atlas.clock import FixedClock
from atlas.db import Transaction, sql_of
from atlas.testing import NOON, SettingsFactory, ThrowAwayServer
from tests.integration.conftest import filled_database

pytestmark = pytest.mark.integration

TOPICS = 50_000
MODES = ("force_generic_plan", "force_custom_plan")
TOKEN = "11111111-1111-1111-1111-111111111111"

FILL = """
INSERT INTO search_queue (query, key, origin, status, priority, created_at, cool_until)
SELECT format('topic %s %s', i, md5(i::text)), format('topic %s %s', i, md5(i::text)), 'tag', status,
    10000 + (hashint8(i)::bigint + 2147483648) / 429496729.6, $2,
    CASE status WHEN 'cooling' THEN $2::timestamptz + (i - $1 / 100) * interval '1 second' END
FROM generate_series(1, $1::bigint) AS i,
    LATERAL (SELECT CASE WHEN i % 10 = 0 THEN 'cooling' ELSE 'active' END) AS kind (status)
"""

HELD = f"""
UPDATE search_queue
SET lease_owner = 'test', lease_token = '{TOKEN}', lease_until = clock_timestamp() + interval '1 hour',
    claimed_at = clock_timestamp()
WHERE id = ANY (ARRAY(SELECT id FROM search_queue WHERE status = 'active' ORDER BY priority DESC LIMIT 100))
RETURNING id
"""


async def fill(sql: Any, topics: int) -> None:
    """A queue of `topics`, a tenth of them cooling; a hundredth of these are due."""
    await sql.execute("TRUNCATE search_queue CASCADE")
    # An ANALYZE in the middle of a test would hold a snapshot, which keeps old versions in their pages.
    await sql.execute("ALTER TABLE search_queue SET (autovacuum_enabled = off)")
    await sql.execute(FILL, topics, NOON)
    await sql.execute("UPDATE queue_state SET topics = $1", topics)
    await sql.execute("VACUUM ANALYZE search_queue")


@pytest.fixture(scope="module")
def template(postgres: ThrowAwayServer) -> str:
    """A database with a queue of TOPICS."""
    return filled_database(postgres, lambda sql: fill(sql, TOPICS))


@pytest_asyncio.fixture
async def long_queue(sql: Any) -> Any:
    await sql.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
    return sql


@pytest.fixture
def dao(long_queue: Any, clock: FixedClock, settings_factory: SettingsFactory) -> MaiaDAO:
    """A DAO that commits each statement on the one connection whose statistics the test reads."""
    return MaiaDAO(Transaction(long_queue), clock=clock, settings=settings_factory())


async def plan_of(sql: Any, statement: str, arguments: str, mode: str) -> Mapping[str, Any]:
    """The plan as run, then rolled back: EXPLAIN (ANALYZE, BUFFERS)."""
    await sql.execute(f"SET plan_cache_mode = {mode}")
    await sql.execute(f"PREPARE pinned AS {sql_of(statement)}")
    transaction = sql.transaction()
    await transaction.start()
    try:
        explained = await sql.fetchval(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE pinned ({arguments})"
        )
    finally:
        await transaction.rollback()
        await sql.execute("DEALLOCATE pinned")
        await sql.execute("RESET plan_cache_mode")
    plan: Mapping[str, Any] = json.loads(explained)[0]["Plan"]
    return plan


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def scans(plan: Mapping[str, Any], table: str) -> set[tuple[str, str | None]]:
    """How a plan reads a table: kinds of node with the index they use."""
    return {
        (node["Node Type"], node.get("Index Name"))
        for node in nodes(plan)
        if "Scan" in node["Node Type"] and (node.get("Relation Name") == table or "Index Name" in node)
    }


BY_ID = ("Index Scan", "search_queue_pkey")
DUE = ("Index Only Scan", "search_queue_by_cool_until")
CLAIM = f"100, 'test', '{TOKEN}', 300, 5, '{NOON}', false, false"


@pytest.mark.parametrize("mode", MODES)
async def test_a_claim_reads_only_its_indexes(long_queue: Any, mode: str) -> None:
    plan = await plan_of(long_queue, "queue.claim_topics", CLAIM, mode)
    assert scans(plan, "search_queue") - {DUE} == {("Index Scan", "search_queue_by_priority"), BY_ID}
    assert plan["Actual Rows"] == 100
    guarded = await plan_of(long_queue, "queue.claim_topics", CLAIM.replace("false", "true", 1), mode)
    assert scans(guarded, "search_queue") == {("Index Scan", "search_queue_by_priority"), DUE, BY_ID}
    assert guarded["Actual Rows"] == 0


@pytest.mark.parametrize("mode", MODES)
async def test_waking_reads_only_its_indexes(long_queue: Any, mode: str) -> None:
    plan = await plan_of(long_queue, "queue.wake_topics", f"'{NOON}', 1000", mode)
    assert scans(plan, "search_queue") == {("Index Scan", "search_queue_by_cool_until"), BY_ID}


@pytest.mark.parametrize("mode", MODES)
async def test_completion_and_release_read_only_the_rows_they_write(long_queue: Any, mode: str) -> None:
    ids = [row["id"] for row in await long_queue.fetch(HELD)]
    values = (
        f"'{TOKEN}'::uuid", "'active'::text", "NULL::timestamptz", "NULL::text", "'TOKEN'::text",
        "'{}'::text", f"'{NOON}'::timestamptz", "false", "1", "50", "5", "'digest'::text", "1::real", "3",
    )  # fmt: skip
    filled = ", ".join(f"array_fill({value}, ARRAY[{len(ids)}])" for value in values)
    plan = await plan_of(long_queue, "queue.update_search_states", f"ARRAY{ids}, {filled}", mode)
    assert scans(plan, "search_queue") == {BY_ID}
    tokens = [TOKEN] * len(ids)
    plan = await plan_of(
        long_queue,
        "queue.release_topics",
        f"ARRAY{ids}, ARRAY{tokens}::uuid[], 'timed out', 60, true, 5",
        mode,
    )
    assert scans(plan, "search_queue") == {BY_ID}


@pytest.mark.parametrize("mode", MODES)
async def test_adding_tags_reads_only_the_topics_they_are(long_queue: Any, mode: str) -> None:
    tags = [f"tag {number}" for number in range(50)]
    spellings = [json.dumps({tag: 1}) for tag in tags]
    columns = (tags, spellings, tags, [1] * 50, [1.0] * 50)
    arguments = ", ".join(f"ARRAY{column}" for column in columns) + f", 'tag', '{NOON}'"
    plan = await plan_of(long_queue, "queue.add_topics", arguments, mode)
    assert scans(plan, "search_queue") == {("Index Scan", "search_queue_key"), BY_ID}
    plan = await plan_of(long_queue, "queue.trim_queue", f"50, ARRAY{tags}", mode)
    assert scans(plan, "search_queue") == {("Index Scan", "search_queue_by_priority"), BY_ID}
    plan = await plan_of(long_queue, "queue.tag_mentions", f"ARRAY{tags}", mode)
    assert {index for _, index in scans(plan, "search_queue")} <= {"search_queue_key", None}
    assert "Seq Scan" not in {kind for kind, _ in scans(plan, "search_queue")}
    for statement, arguments in (("topic_queries", ""), ("count_asks", ", 0.3, ARRAY[1, 0, 7]")):
        plan = await plan_of(long_queue, f"queue.{statement}", f"ARRAY[1, 2, 3]{arguments}", mode)
        assert BY_ID in scans(plan, "search_queue")
        assert "Seq Scan" not in {kind for kind, _ in scans(plan, "search_queue")}


async def test_a_plan_made_while_the_queue_was_empty_serves_when_it_has_grown(long_queue: Any) -> None:
    await long_queue.execute("TRUNCATE search_queue CASCADE")
    await long_queue.execute("DELETE FROM pg_statistic WHERE starelid = 'search_queue'::regclass")
    await long_queue.execute("ALTER TABLE search_queue SET (autovacuum_enabled = false)")
    await long_queue.execute("SET plan_cache_mode = force_generic_plan")
    tags = [f"tag {number}" for number in range(1980, 2030)]
    columns = (tags, [json.dumps({tag: 1}) for tag in tags], tags, [1] * 50, [1.0] * 50)
    added = ", ".join(f"ARRAY{column}" for column in columns) + f", 'tag', '{NOON}'"
    calls = {
        "queue.add_topics": added,
        "queue.seed_topics": f"ARRAY{tags}, ARRAY{tags}, '{{}}', 1.0, '{NOON}'",
    }
    for number, (statement, arguments) in enumerate(calls.items()):
        await long_queue.execute(f"PREPARE early_{number} AS {sql_of(statement)}")
        await long_queue.execute(f"EXPLAIN EXECUTE early_{number} ({arguments})")
    await long_queue.execute(
        "INSERT INTO search_queue (query, key, origin, priority, created_at) "
        "SELECT name, name, 'tag', 0, $1 FROM generate_series(1, 2000) AS i, format('tag %s', i) AS name",
        NOON,
    )
    for number, arguments in enumerate(calls.values()):
        explained = await long_queue.fetchval(
            f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE early_{number} ({arguments})"
        )
        plan = json.loads(explained)[0]["Plan"]
        assert max(node["Actual Loops"] for node in nodes(plan)) <= len(tags)


@pytest.mark.parametrize("mode", MODES)
async def test_ingestion_reads_only_the_rows_it_writes(long_queue: Any, mode: str) -> None:
    await long_queue.execute(
        "INSERT INTO channels SELECT 'UC' || i, 'title', $1, $1 FROM generate_series(1, 50000) AS i", NOON
    )
    await long_queue.execute(
        "INSERT INTO videos (id, channel_id, discovered_at, refreshed_at) "
        "SELECT 'v' || i, 'UC' || i, $1, $1 FROM generate_series(26, 50000) AS i",
        NOON,
    )
    await long_queue.execute(
        "INSERT INTO video_clock (video_id, channel_id, zone, interval_h, born_at, next_due_at, metadata_at) "
        "SELECT id, channel_id, 2, 24, $1, $1, $1 FROM videos",
        NOON,
    )
    await long_queue.execute(
        "INSERT INTO watches SELECT 'video', 'v' || i, 0, $1 FROM generate_series(1, 5000) AS i", NOON
    )
    await long_queue.execute("INSERT INTO channel_clock SELECT id, 'gone', 2, $1 FROM channels", NOON)
    await long_queue.execute("VACUUM ANALYZE channels, videos, video_clock, channel_clock, watches")
    page = json.dumps(
        [{"id": f"v{i}", "channel_id": f"UC{i}", "channel_title": "t", "tags": []} for i in range(50)]
    )
    plan = await plan_of(
        long_queue, "videos.ingest_videos", f"'{page}', '{NOON}', NULL, 24, 168, '{{1,6,24}}'", mode
    )
    tables = ("channels", "channel_clock", "channel_uploads", "video_clock", "watches")
    assert {index for _, index in scans(plan, "")} == {f"{table}_pkey" for table in tables}
    for table in ("videos", *tables):
        assert ("Seq Scan", None) not in scans(plan, table)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("status", ["cooling", "active"])
async def test_a_queue_all_of_one_status_changes_no_plan(long_queue: Any, mode: str, status: str) -> None:
    """Where nearly every row fits a predicate, the planner is tempted to read the table until one does."""
    await long_queue.execute(
        "UPDATE search_queue SET status = $1::text, "
        "cool_until = CASE $1::text WHEN 'cooling' THEN $2::timestamptz END",
        status,
        NOON.replace(year=2027),
    )
    await long_queue.execute("VACUUM ANALYZE search_queue")
    claim = await plan_of(long_queue, "queue.claim_topics", CLAIM.replace("false", "true", 1), mode)
    assert scans(claim, "search_queue") == {("Index Scan", "search_queue_by_priority"), DUE, BY_ID}
    assert claim["Actual Rows"] == (100 if status == "active" else 0)
    wake = await plan_of(long_queue, "queue.wake_topics", f"'{NOON}', 1000", mode)
    assert scans(wake, "search_queue") == {("Index Scan", "search_queue_by_cool_until"), BY_ID}
    trim = await plan_of(long_queue, "queue.trim_queue", "50, ARRAY['a']", mode)
    assert scans(trim, "search_queue") == {("Index Scan", "search_queue_by_priority"), BY_ID}


async def updates(sql: Any, table: str = "search_queue") -> tuple[int, int]:
    """Updates of a table so far, and how many of them were HOT."""
    await sql.execute("SELECT pg_stat_force_next_flush()")
    await sql.execute("SELECT pg_stat_clear_snapshot()")
    row = await sql.fetchrow(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = $1", table
    )
    return row["n_tup_upd"], row["n_tup_hot_upd"]


def page_of(topic: Topic) -> TopicOutcome:
    return TopicOutcome(
        topic.id,
        "CDIQAA",
        50,
        TopicStatus.ACTIVE,
        params={"q": topic.query, "order": "date", "publishedAfter": None, "maxResults": 50},
        new=20,
        page_digest="0123456789abcdef",
    )


async def test_claims_and_stored_pages_are_hot(dao: MaiaDAO, long_queue: Any) -> None:
    await long_queue.execute(
        "UPDATE search_queue SET cool_until = $1 WHERE status = 'cooling'", NOON.replace(year=2027)
    )
    await long_queue.execute("VACUUM search_queue")
    total, hot = await updates(long_queue)
    for _ in range(40):
        topics = await dao.fetch_hunter_batch(100)
        assert len(topics) == 100
        await dao.update_search_states([page_of(topic) for topic in topics])
    after, hot_after = await updates(long_queue)
    assert after - total == 8000
    assert hot_after - hot == 8000


async def test_failures_are_hot(dao: MaiaDAO, long_queue: Any) -> None:
    await long_queue.execute("DELETE FROM search_queue WHERE status = 'cooling'")
    total, hot = await updates(long_queue)
    for _ in range(4):
        await dao.release_topics(await dao.fetch_hunter_batch(100), error="timed out", retry_after_s=60)
    after, hot_after = await updates(long_queue)
    assert (after - total, hot_after - hot) == (800, 800)


def pages_read(plan: Mapping[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


async def test_a_claim_reads_as_few_pages_after_many_as_at_first(dao: MaiaDAO, long_queue: Any) -> None:
    """Topics that leave the head for good (cooling) must not be stepped over by every later claim."""
    before = await plan_of(long_queue, "queue.claim_topics", CLAIM, "force_generic_plan")
    for _ in range(100):
        topics = await dao.fetch_hunter_batch(200)
        await dao.update_search_states([TopicOutcome(topic.id, None, 3, "cooling") for topic in topics])
    await long_queue.execute("VACUUM search_queue")
    after = await plan_of(long_queue, "queue.claim_topics", CLAIM, "force_generic_plan")
    assert scans(after, "search_queue") == scans(before, "search_queue")
    assert pages_read(after) < 1.5 * pages_read(before)


async def test_a_claim_reads_hardly_more_of_a_longer_queue(dao: MaiaDAO, long_queue: Any) -> None:
    long = await plan_of(long_queue, "queue.claim_topics", CLAIM, "force_generic_plan")
    await fill(long_queue, TOPICS // 10)
    short = await plan_of(long_queue, "queue.claim_topics", CLAIM, "force_generic_plan")
    assert scans(long, "search_queue") == scans(short, "search_queue")
    assert pages_read(long) < 1.5 * pages_read(short)


def videos(view_count: int) -> list[Any]:
    """Videos with texts of usual length."""
    return [
        SimpleNamespace(
            id=f"v{number}", channel_id="UC1", channel_title="Channel", title="A title", published_at=NOON,
            description="description " * 75, category_id=22, tags=("tag",) * 18, duration_s=90,
            live_broadcast_content="none", default_language="en", view_count=view_count, like_count=1,
            comment_count=None, etag="etag", scheduled_start_at=None,
            actual_start_at=None, actual_end_at=None,
        )
        for number in range(500)
    ]  # fmt: skip


async def test_refreshes_are_hot(dao: MaiaDAO, long_queue: Any) -> None:
    """A page that is full of videos holds all of their next versions."""
    await long_queue.execute("ALTER TABLE videos SET (autovacuum_enabled = off)")
    await dao.ingest_video_metadata(videos(0))
    total, hot = await updates(long_queue, "videos")
    for view_count in range(1, 5):
        await dao.ingest_video_metadata(videos(view_count))
    after, hot_after = await updates(long_queue, "videos")
    assert (after - total, hot_after - hot) == (2000, 2000)


async def test_lease_columns_stand_in_no_index(long_queue: Any) -> None:
    definitions = await long_queue.fetch("SELECT indexdef FROM pg_indexes WHERE tablename = 'search_queue'")
    assert len(definitions) == 6
    assert not any("lease" in row["indexdef"] or "attempts" in row["indexdef"] for row in definitions)


async def test_a_full_queue_is_trimmed_from_its_lower_end(
    dao: MaiaDAO, long_queue: Any, clock: FixedClock
) -> None:
    full = MaiaDAO(Transaction(long_queue), clock=clock, settings=_capped(dao, TOPICS))
    lowest = await long_queue.fetchval("SELECT min(priority) FROM search_queue WHERE status = 'active'")
    assert await full.add_to_search_queue([Mention("much wanted", 1000)]) == 1
    assert await long_queue.fetchval("SELECT count(*) FROM search_queue") == TOPICS
    assert (
        await long_queue.fetchval("SELECT min(priority) FROM search_queue WHERE status = 'active'") > lowest
    )


def _capped(dao: MaiaDAO, cap: int) -> Any:
    settings = dao.queue._settings
    return settings.model_copy(update={"hunter": settings.hunter.model_copy(update={"queue_cap": cap})})
