"""The clean-up against a real database and vault that hold old and young things everywhere."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.retention import ERASED, KEPT, RULES, RetentionDAO, Rule
from atlas.clock import SystemClock
from atlas.composition import Atlas
from atlas.db import sql_of
from atlas.errors import VaultError
from atlas.stores import FileStore
from atlas.testing import NOON, SettingsFactory
from maia.graphing.feeding import feed
from maia.maintainer.actions import ActionState
from maia.maintainer.cleanup import clean_up
from maia.maintainer.duties import DutyContext, DutyReport
from tests.aged import CLAIMED, FRESH, GONE, OLD, SAMPLED, STALE, YOUNG, PlainTaker, age, digest

pytestmark = pytest.mark.integration

ALL = ("cleanup", "partitions")
TIMES = """
SELECT c.table_name, c.column_name, c.data_type
FROM information_schema.columns AS c
JOIN information_schema.tables AS t USING (table_schema, table_name)
WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE'
    AND c.udt_name IN ('timestamptz', 'date', 'timestamp', '_timestamptz', '_date', '_timestamp')
    AND c.table_name NOT LIKE 'video\\_stats\\_log\\_%'
"""
MANY = {
    "events": "events (at, kind, node, payload) SELECT now(), 'hunter.cycle', 'a', '{}'",
    "videos": "channels SELECT 'UC', '', now(), now(); INSERT INTO videos (id, channel_id, discovered_at, "
    "refreshed_at) SELECT 'v' || n, 'UC', now(), now()",
}
ABSENT = (
    "description", "published_at", "duration_s", "live_broadcast_content", "default_language", "like_count",
    "comment_count", "etag", "scheduled_start_at", "actual_start_at", "actual_end_at",
)  # fmt: skip
DAILY_ALARMS = """
INSERT INTO series_alarms
SELECT 'a', $1::timestamptz - d * interval '1 day', 'anomaly', 1, 1, '' FROM generate_series(0, 200) AS d
"""
RULED = {rule.table for rule in RULES}


@pytest.fixture(autouse=True)
def _no_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


@pytest.fixture
async def aged(atlas: Atlas, sql: Any) -> Atlas:
    await age(atlas, sql)
    exports = atlas.settings.data_folder / "vault" / "exports"
    old = (datetime.now(UTC) - OLD).timestamp()
    os.utime(exports / f"{(NOON - OLD).date()}.csv", (old, old))
    return atlas


def vault_of(atlas: Atlas) -> Path:
    return atlas.settings.data_folder / "vault"


async def cleaned(atlas: Atlas, apply: tuple[str, ...] = ALL, only: tuple[str, ...] = ()) -> DutyReport:
    report = await clean_up(DutyContext(atlas, PlainTaker(apply)), only)
    assert not report.failed, report
    return report


async def test_every_table_with_a_time_is_either_cleaned_or_kept_for_a_reason(sql: Any) -> None:
    known = {row["table_name"] for row in await sql.fetch(TIMES)}
    assert known - RULED - set(KEPT) == set(), "add a rule for it, or say in KEPT why it stays"
    assert (RULED | set(KEPT)) - known == set(), "there is no such table"
    assert set(KEPT) & RULED == set()


async def test_the_filling_reaches_every_rule(aged: Atlas) -> None:
    dao = RetentionDAO(aged.db, clock=aged.clock, settings=aged.settings)
    idle = [rule.name for rule in RULES if await dao.find(rule) is None]
    assert idle == []


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.form != "time"], ids=lambda rule: rule.name)
def test_what_is_counted_is_by_the_same_conditions_as_what_is_removed(rule: Rule) -> None:
    counting, removing = (
        " ".join(sql_of(statement).rstrip(";\n").split())
        for statement in (rule.find, "retention.videos_to_erase" if rule is ERASED else rule.remove)
    )
    conditions = counting[counting.index(" WHERE ") :]
    assert conditions in removing
    assert not removing.partition(conditions)[2].startswith(" AND ")


async def test_a_claimed_channel_is_neither_planned_nor_cleared(aged: Atlas, sql: Any) -> None:
    claim = "lease_until = $1, lease_token = gen_random_uuid(), lease_owner = 'a tracker'"
    await sql.execute(f"UPDATE channel_clock SET {claim}", datetime.now(UTC) + timedelta(hours=1))
    dao = RetentionDAO(aged.db, clock=aged.clock, settings=aged.settings)
    assert await dao.find(next(rule for rule in RULES if rule.name == "channel counts")) is None


async def test_nothing_older_than_its_limit_is_left_in_any_table_or_the_vault(aged: Atlas, sql: Any) -> None:
    await sql.execute("UPDATE video_clock SET lease_until = NULL, lease_token = NULL, lease_owner = NULL")
    await cleaned(aged)
    left = NOON - OLD + timedelta(days=1)
    for row in await sql.fetch(TIMES):
        table, column, kind = row
        if table not in RULED | {"video_stats_log"}:
            continue
        limit: date | datetime = left.date() if kind == "date" else left
        old = await sql.fetch(f"SELECT * FROM {table} WHERE {column} < $1", limit)
        # A video that is still sampled, and its channel, keep their ids, but nothing of YouTube's.
        assert {(each.get("id") or each.get("video_id") or each.get("channel_id")) for each in old} <= (
            {SAMPLED, "UC-quiet"}
            if table in ("videos", "video_clock", "channels", "channel_clock")
            else set()
        ), f"{table}.{column}"
    assert (
        await sql.fetchval("SELECT num_nonnulls(title, category_id) FROM videos WHERE id = $1", SAMPLED) == 0
    )
    assert await sql.fetchval("SELECT title FROM channels WHERE id = 'UC-quiet'") is None
    assert await sql.fetchval("SELECT count(*) FROM video_stats_log WHERE sampled_at < $1", left) == 0
    young = (NOON - YOUNG).date()
    assert await aged.vault.list() == [f"exports/{young}.csv", f"metadata/{young}/{FRESH}.json"]


async def test_what_is_young_stays(aged: Atlas, sql: Any) -> None:
    await cleaned(aged)
    for table in RULED - {"videos", "channels", "channel_clock", "video_forecasts", "channel_walks"}:
        assert await sql.fetchval(f"SELECT count(*) FROM {table}") > 0, table
    assert await sql.fetchval("SELECT count(*) FROM patterns WHERE forgotten_at IS NULL") == 1
    assert {row[0] for row in await sql.fetch("SELECT id FROM videos")} == {FRESH, SAMPLED, CLAIMED}
    assert await sql.fetchval("SELECT count(*) FROM video_stats_log") == 2


async def test_an_erased_video_is_named_nowhere(aged: Atlas, sql: Any) -> None:
    await sql.execute("UPDATE videos SET tags = ARRAY['tag of ' || id, 'all']")
    await feed(aged)
    await cleaned(aged)
    names = {row[0] for row in await sql.fetch("SELECT name FROM atoms WHERE sources > 0")}
    assert {FRESH, SAMPLED, CLAIMED, "all", f"tag of {FRESH}", "UC-one"} <= names
    # That one is still sampled, but its metadata are too old to be kept.
    assert f"tag of {SAMPLED}" not in names
    tables = await sql.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for erased in (GONE, STALE):
        for (table,) in tables:
            assert not await sql.fetchval(
                f'SELECT count(*) FROM "{table}" AS t WHERE t::text LIKE $1', f"%{erased}%"
            )
        assert not [path for path in vault_of(aged).rglob("*") if erased in path.name]


async def test_a_plan_changes_nothing(aged: Atlas, sql: Any) -> None:
    before = await digest(sql, vault_of(aged))
    taker = PlainTaker()
    await clean_up(DutyContext(aged, taker))
    assert len(taker.plans) > len(RULES)
    assert await digest(sql, vault_of(aged)) == before


async def test_twice_is_once(aged: Atlas, sql: Any) -> None:
    await cleaned(aged)
    once = await digest(sql, vault_of(aged))
    taker = PlainTaker(ALL)
    await clean_up(DutyContext(aged, taker))
    assert taker.plans == []
    assert await digest(sql, vault_of(aged)) == once


@pytest.mark.parametrize(
    ("statement", "before", "table"),
    [
        ("expired_events", "now(), NULL, now(), now(), '{a}'", "events"),
        ("delete_events", "now(), NULL, now(), now(), '{a}'", "events"),
        ("erased", "now(), now()", "videos"),
        ("videos_to_erase", "now(), now()", "videos"),
        ("stale_metadata", "now(), now()", "videos"),
        ("clear_metadata", "now(), now()", "videos"),
    ],
)
async def test_a_batch_reads_its_pages_alone(
    atlas: Atlas, sql: Any, statement: str, before: str, table: str
) -> None:
    await sql.execute(f"INSERT INTO {MANY[table]} FROM generate_series(1, 20000) AS n")
    await sql.execute(f"ANALYZE {table}")
    await sql.execute("SET plan_cache_mode = force_generic_plan")
    await sql.execute(f"PREPARE batch AS {sql_of(f'retention.{statement}')}")
    plan = "\n".join(row[0] for row in await sql.fetch(f"EXPLAIN EXECUTE batch({before}, 0, 10)"))
    assert f"Tid Range Scan on {table}" in plan
    assert f"Seq Scan on {table}" not in plan


async def test_what_is_left_undone_is_done_by_the_next(aged: Atlas, sql: Any) -> None:
    await sql.execute(
        "INSERT INTO system_metrics (at, node) SELECT $1, 'h' FROM generate_series(1, 5000)", NOON - OLD
    )
    await sql.execute("ANALYZE system_metrics")
    small = aged.settings.maintainer.retention.model_copy(update={"rows_at_once": 100})
    maintainer = aged.settings.maintainer.model_copy(update={"retention": small})
    settings = aged.settings.model_copy(update={"maintainer": maintainer})
    dao = RetentionDAO(aged.db, clock=aged.clock, settings=settings)
    rule = next(rule for rule in RULES if rule.table == "system_metrics")
    found = await dao.find(rule)
    assert found is not None
    assert found.rows == 5001
    batches = dao.remove(found)
    first = await anext(batches)
    await batches.aclose()
    assert 0 < first < 500
    await cleaned(aged, only=("host samples",))
    assert await sql.fetchval("SELECT count(*) FROM system_metrics") == 1


async def test_two_at_once_do_it_once(aged: Atlas, sql: Any) -> None:
    contexts = [DutyContext(aged, PlainTaker(ALL)) for _ in range(2)]
    await asyncio.gather(*(clean_up(context) for context in contexts))
    # They may be in each other's way when they drop a partition, which one of them does.
    failed = [taken for context in contexts for taken in context.taken if taken.state is ActionState.FAILED]
    assert {taken.target for taken in failed} <= {"samples"}
    taker = PlainTaker(ALL)
    await clean_up(DutyContext(aged, taker))
    assert taker.plans == []
    assert {row[0] for row in await sql.fetch("SELECT id FROM videos")} == {FRESH, SAMPLED, CLAIMED}


async def test_a_video_that_is_found_again_in_time_stays(aged: Atlas, sql: Any) -> None:
    dao = RetentionDAO(aged.db, clock=aged.clock, settings=aged.settings)
    found = await dao.find(ERASED)
    assert found is not None
    groups = dao.videos_to_erase(found)
    doomed = await anext(groups)
    await groups.aclose()
    assert {video.id for video in doomed} == {GONE, STALE}
    await sql.execute("UPDATE videos SET status = 'live' WHERE id = $1", GONE)
    await sql.execute("UPDATE video_clock SET status = 'live', next_due_at = now() WHERE video_id = $1", GONE)
    assert await dao.erase(doomed, found.limits) == 1
    assert await sql.fetchval("SELECT count(*) FROM videos WHERE id = $1", GONE) == 1


async def test_a_gone_video_goes_after_its_last_look_or_when_its_data_are_old(aged: Atlas, sql: Any) -> None:
    await sql.execute("UPDATE video_clock SET next_due_at = $1 WHERE video_id = $2", NOON, GONE)
    await cleaned(aged, only=("erased videos",))
    assert await sql.fetchval("SELECT count(*) FROM videos WHERE id = $1", GONE) == 1
    await sql.execute("UPDATE videos SET refreshed_at = $1 WHERE id = $2", NOON - timedelta(days=31), GONE)
    await cleaned(aged, only=("erased videos",))
    assert await sql.fetchval("SELECT count(*) FROM videos WHERE id = $1", GONE) == 0


async def test_a_refresh_brings_cleared_metadata_back(aged: Atlas, sql: Any) -> None:
    await cleaned(aged)
    told = (
        "SELECT v.title, v.category_id, c.category_id, v.tags "
        "FROM videos AS v JOIN video_clock AS c ON c.video_id = v.id"
    )
    assert [*await sql.fetchrow(f"{told} WHERE v.id = $1", SAMPLED)] == [None, None, None, []]
    shown: Any = SimpleNamespace(
        **dict.fromkeys(ABSENT), id=SAMPLED, channel_id="UC-one", channel_title="One", title="A title",
        category_id=22, tags=("a",), view_count=5,
    )  # fmt: skip
    dao = MaiaDAO(aged.db, clock=aged.clock, settings=aged.settings)
    await dao.ingest_video_metadata([shown], fetched_at=NOON)
    assert [*await sql.fetchrow(f"{told} WHERE v.id = $1", SAMPLED)] == ["A title", 22, 22, ["a"]]


async def test_events_wait_for_their_readers_but_not_for_ever(aged: Atlas, sql: Any) -> None:
    await sql.execute("TRUNCATE events RESTART IDENTITY")
    insert = "INSERT INTO events (at, kind, node, payload) VALUES ($1, 'hunter.cycle', 'a', '{}')"
    for days in (200, 100, 100, 1):
        await sql.execute(insert, NOON - timedelta(days=days))
    await sql.execute("UPDATE metric_cursor SET event_id = 3")
    await sql.execute("INSERT INTO learner_cursors VALUES ('figures', '2', $1), ('events', '4', $1)", NOON)
    await cleaned(aged, only=("events",))
    assert [row[0] for row in await sql.fetch("SELECT id FROM events ORDER BY id")] == [3, 4]


async def test_a_video_stays_while_the_vault_refuses_to_delete_its_answers(
    aged: Atlas, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise VaultError("the disk is broken")

    monkeypatch.setattr(FileStore, "write", refuse)
    context = DutyContext(aged, PlainTaker(ALL))
    await clean_up(context, ("erased videos",))
    [taken] = context.taken
    assert taken.state is ActionState.FAILED
    assert "the disk is broken" in taken.result
    assert await sql.fetchval("SELECT count(*) FROM videos WHERE id = $1", GONE) == 1


async def test_an_answer_that_is_stored_during_the_erasure_stays(
    aged: Atlas, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sql.execute("UPDATE video_clock SET lease_until = NULL, lease_token = NULL, lease_owner = NULL")
    write = FileStore.write
    stored: list[str] = []

    async def refresh_first(store: FileStore, changes: Any) -> None:
        """A hunter stores an answer, and the video, while its old answers are being deleted."""
        if not stored:
            stored.append(f"metadata/{NOON.date()}/{STALE}.json")
            await write(store, {stored[0]: b"{}"})
            await sql.execute("UPDATE videos SET refreshed_at = $1 WHERE id = $2", NOON, STALE)
        await write(store, changes)

    monkeypatch.setattr(FileStore, "write", refresh_first)
    await cleaned(aged, only=("erased videos",))
    assert await sql.fetchval("SELECT count(*) FROM videos WHERE id = $1", STALE) == 1
    assert stored[0] in await aged.vault.list()


PATTERN = "0" * 31 + "1"
WALK = (NOON, None, NOON, 1, 50, 0, None)
COUNTS = ([1], [0], [0.0], [NOON])
WAITING = """
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')
"""
REFERRING = """
SELECT conrelid::regclass::text FROM pg_constraint
WHERE contype = 'f' AND confrelid IN ('channels'::regclass, 'videos'::regclass, 'patterns'::regclass)
"""


async def test_every_reference_to_what_is_erased_is_written_with_care(sql: Any) -> None:
    """A new one belongs in one of these sets, once what writes it does so too."""
    for_locked_parents = {
        "channel_norms", "channel_walks", "forecast_checks", "pattern_evidence", "pending_counts",
        "video_forecasts", "video_sources",
    }  # fmt: skip
    with_new_or_updated_parents = {"channel_clock", "channel_uploads", "video_clock", "videos"}
    by_who_holds_the_clock = {"channel_stats_log"}
    assert {row[0] for row in await sql.fetch(REFERRING)} == (
        for_locked_parents | with_new_or_updated_parents | by_who_holds_the_clock
    )


@pytest.mark.parametrize(
    ("parent", "id_", "statement", "arguments", "told"),
    [
        ("videos", FRESH, "uploads.add_counts", ([FRESH], [NOON + timedelta(days=1)], [99], 0.0), 0),
        ("videos", FRESH, "forecasts.store", ([FRESH], [NOON], [9], *[[1.0]] * 8), 0),
        ("videos", FRESH, "forecasts.add_checks",
         ([FRESH], [NOON], [2], [NOON], [1], [0.0] * 8, [5], *[[1.0]] * 5), 0),
        ("videos", FRESH, "discovery.meet_videos", ("new", [FRESH], NOON, ["{}"], []), 1),
        ("channels", "UC-quiet", "uploads.store_walk", ("UC-quiet", *WALK), 0),
        ("channels", "UC-quiet", "uploads.meet_channel", ("UC-quiet", NOON), 1),
        ("channels", "UC-quiet", "watches.meet_channels", (["UC-quiet"], NOON), 1),
        ("patterns", PATTERN, "patterns.count", ([PATTERN], [NOON.date()], *COUNTS), 0),
        ("patterns", PATTERN, "patterns.merge_evidence",
         ([PATTERN], ["other"], [NOON.date()], *COUNTS, [1], NOON.date(), None), 1),
    ],
)  # fmt: skip
async def test_who_tells_of_what_is_being_erased_leaves_it_out_or_stores_it_anew(
    aged: Atlas, sql: Any, parent: str, id_: str, statement: str, arguments: tuple[Any, ...], told: int
) -> None:
    async with sql.transaction():
        await sql.execute(f"DELETE FROM {parent} WHERE id = $1", id_)
        telling = asyncio.create_task(aged.db.execute(statement, *arguments))
        await until_waiting(sql, telling)
    assert await telling == told
    is_stored = await sql.fetchval(f"SELECT EXISTS (SELECT FROM {parent} WHERE id = $1)", id_)
    assert is_stored == ("meet_channel" in statement)


async def test_a_walk_of_a_channel_that_stays_is_stored(aged: Atlas, sql: Any) -> None:
    for pages in (1, 2):
        await aged.db.execute("uploads.store_walk", "UC-quiet", *WALK[:3], pages, *WALK[4:])
    assert await sql.fetchval("SELECT pages FROM channel_walks WHERE channel_id = 'UC-quiet'") == 2


def found(channel_title: str | None) -> Any:
    """A new video of the channel that is gone."""
    return SimpleNamespace(
        **dict.fromkeys(ABSENT), id="new", channel_id="UC-gone", channel_title=channel_title, title="A title",
        category_id=22, tags=(), view_count=5,
    )  # fmt: skip


@pytest.mark.parametrize("title", ["A title", None])
async def test_a_video_of_a_channel_that_is_being_erased_brings_it_back(
    aged: Atlas, sql: Any, title: str | None
) -> None:
    dao = MaiaDAO(aged.db, clock=aged.clock, settings=aged.settings)
    async with sql.transaction():
        await sql.execute("DELETE FROM channels WHERE id = 'UC-gone'")
        storing = asyncio.create_task(dao.ingest_video_metadata([found(title)], fetched_at=NOON))
        await until_waiting(sql, storing)
    assert (await storing).new_ids == {"new"}
    assert await sql.fetchval("SELECT status FROM channel_clock WHERE channel_id = 'UC-gone'") == "live"


@pytest.mark.parametrize("title", ["A title", None])
async def test_a_channel_of_which_a_video_is_just_being_stored_is_not_erased(
    aged: Atlas, sql: Any, title: str | None
) -> None:
    async with MaiaDAO(aged.db, clock=aged.clock, settings=aged.settings).transaction() as dao:
        await dao.ingest_video_metadata([found(title)], fetched_at=NOON)
        await cleaned(aged, only=("gone channels",))
    await cleaned(aged, only=("gone channels",))
    assert await sql.fetchval("SELECT channel_id FROM videos WHERE id = 'new'") == "UC-gone"
    assert await sql.fetchval("SELECT status FROM channel_clock WHERE channel_id = 'UC-gone'") == "live"


async def until_waiting(sql: Any, task: asyncio.Task[Any]) -> None:
    """Until a statement waits for a lock that this connection holds; it must not be done before."""
    while not await sql.fetchval(WAITING):
        assert not task.done()
        await asyncio.sleep(0.01)


async def test_what_is_not_ours_in_the_vault_neither_goes_nor_stands_in_the_way(aged: Atlas) -> None:
    vault, old = vault_of(aged), (NOON - OLD).date()
    theirs = [f"metadata/{old}/notes.txt", f"metadata/{old}/a b.json", "metadata/2001-01-01/notes.txt",
              "metadata/2001-13-45/a.json", "exports/ä ö.csv", "reports/mine.html"]  # fmt: skip
    for name in theirs:
        (vault / name).parent.mkdir(parents=True, exist_ok=True)
        (vault / name).write_bytes(b"theirs")
        os.utime(vault / name, (0, 0))
    # A killed deletion leaves an empty folder.
    (vault / "metadata/2002-01-01").mkdir()
    (vault / "metadata/2003-01-01").symlink_to(vault / f"metadata/{(NOON - YOUNG).date()}")
    await cleaned(aged)
    assert all((vault / name).exists() for name in theirs)
    assert [path.name for path in (vault / f"metadata/{old}").glob("*.json")] == ["a b.json"]
    assert (vault / f"metadata/{(NOON - YOUNG).date()}/{FRESH}.json").exists()
    context = DutyContext(aged, PlainTaker(ALL))
    await clean_up(context)
    assert context.taken == []


async def test_an_empty_folder_of_a_day_does_not_hold_up_the_others(
    settings_factory: SettingsFactory, database_url: str
) -> None:
    async with Atlas.open(settings_factory(), clock=SystemClock()) as atlas:
        old = (datetime.now(UTC) - timedelta(days=40)).date()
        (vault_of(atlas) / "metadata/2020-01-01").mkdir(parents=True)
        await atlas.vault.store(f"metadata/{old}/{FRESH}.json", b"{}")
        await cleaned(atlas, only=("raw answers",))
        assert await atlas.vault.list() == []


async def test_answers_that_wait_for_the_vault_are_deleted_in_time(aged: Atlas, sql: Any) -> None:
    name = f"metadata/{(NOON - OLD).date()}/{FRESH}.json"
    await sql.execute("INSERT INTO vault_refused (name, body, last_error, refused_at, retry_at) "
                      "VALUES ($1, '', 'full', $2, now())", name, NOON - OLD)  # fmt: skip
    await cleaned(aged, only=("raw answers",))
    await aged.vault.retry_refused()
    assert await sql.fetchval("SELECT count(*) FROM vault_refused") == 0
    assert name not in await aged.vault.list()


async def test_answers_for_which_there_is_no_time_left_are_deleted_by_the_next(
    aged: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.stores._DELETED_AT_ONCE", 2)
    old = (NOON - OLD).date()
    for number in range(5):
        await aged.vault.store(f"metadata/{old}/{number}.json", b"{}")
    count = len(await aged.vault.answers(old))
    with monkeypatch.context() as patched:
        patched.setattr("maia.maintainer.cleanup.Budget.is_spent", True)
        context = DutyContext(aged, PlainTaker(ALL))
        await clean_up(context, ("raw answers",))
    [taken] = context.taken
    assert taken.plan.details["rows"] == count
    assert taken.result == "deleted 2 raw answers; the time is up, and the next clean-up continues"
    assert len(await aged.vault.answers(old)) == count - 2
    context = DutyContext(aged, PlainTaker(ALL))
    await clean_up(context, ("raw answers",))
    assert context.taken[0].result == f"deleted {count - 2} raw answers of 1 day"
    assert old not in await aged.vault.days()


async def test_a_wrong_clock_costs_a_few_days_a_day(
    settings_factory: SettingsFactory, database_url: str, sql: Any
) -> None:
    class Ahead(SystemClock):
        def now(self) -> datetime:
            return datetime.now(UTC) + timedelta(days=1000)

    real = datetime.now(UTC)
    await sql.execute(DAILY_ALARMS, real)
    async with Atlas.open(settings_factory(), clock=Ahead()) as atlas:
        for _ in range(2):
            await cleaned(atlas, only=("alarms of series",))
            # By the database's clock 111 are too old, but no more than a week of them goes today.
            assert await sql.fetchval("SELECT count(*) FROM series_alarms") == 201 - 7
        await sql.execute("UPDATE retention_days SET day = day - 1")
        await cleaned(atlas, only=("alarms of series",))
        assert await sql.fetchval("SELECT count(*) FROM series_alarms") == 201 - 14


async def test_partitions_are_created_ahead(atlas: Atlas, sql: Any) -> None:
    await cleaned(atlas, only=("partitions",))
    days = [NOON.date() + timedelta(days=ahead) for ahead in range(8)]
    assert await sql.fetchval("SELECT bool_and(keeps_samples_of(d)) FROM unnest($1::date[]) AS d", days)
    context = DutyContext(atlas, PlainTaker(ALL))
    await clean_up(context, ("partitions",))
    assert context.taken == []


async def test_an_index_that_a_killed_rebuild_left_is_dropped(atlas: Atlas, sql: Any) -> None:
    for index in ("suggestions_late", "suggestions_late_ccnew"):
        await sql.execute(f"CREATE INDEX {index} ON suggestions (made_at)")
        await sql.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::text::regclass", index
        )
    # Another product may use the same database.
    await sql.execute("CREATE SCHEMA other CREATE TABLE t (a int) CREATE INDEX theirs_ccnew ON t (a)")
    await sql.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'other.theirs_ccnew'::regclass"
    )
    await cleaned(atlas, apply=("reindex",))
    assert await sql.fetchval("SELECT to_regclass('other.theirs_ccnew')") is not None
    rows = await sql.fetch("SELECT relname, indisvalid FROM pg_index JOIN pg_class c ON c.oid = indexrelid "
                           "WHERE relname LIKE 'suggestions_late%'")  # fmt: skip
    assert [tuple(row) for row in rows] == [("suggestions_late", True)]


async def test_a_table_full_of_dead_rows_is_vacuumed(atlas: Atlas, sql: Any) -> None:
    await sql.execute(
        "INSERT INTO metric_lapses SELECT gen_random_uuid(), now() FROM generate_series(1, 30000)"
    )
    await sql.execute("DELETE FROM metric_lapses")
    await sql.execute("SELECT pg_stat_force_next_flush()")
    await cleaned(atlas, apply=("vacuum",))
    assert await sql.fetchval("SELECT pg_relation_size('metric_lapses')") == 0
