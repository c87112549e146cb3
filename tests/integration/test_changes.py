"""The change feed of patterns: what it tells, in what order, without gaps, and in copies of a database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from atlas.adapters.changes import CHANNEL, ChangeKind, ChangesDAO
from atlas.adapters.patterns import NewEvidence, PatternContent, PatternsDAO, StoredEvidence
from atlas.clock import FixedClock
from atlas.db import Database
from atlas.errors import DataRefused, UnknownCursor
from atlas.testing import NOON, SettingsFactory, ThrowAwayServer

pytestmark = pytest.mark.integration

DAY = NOON.date()
A, B, C = "a" * 32, "b" * 32, "c" * 32


@pytest.fixture
def patterns(database: Database, clock: FixedClock, settings_factory: SettingsFactory) -> PatternsDAO:
    return PatternsDAO(database, clock=clock, settings=settings_factory())


@pytest.fixture
def changes(database: Database, clock: FixedClock, settings_factory: SettingsFactory) -> ChangesDAO:
    return ChangesDAO(database, clock=clock, settings=settings_factory())


@pytest_asyncio.fixture
async def other(database_url: str) -> AsyncIterator[Any]:
    """A further connection, for transactions that overlap."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


def pattern(id_: str = A, statement: str = "feeds find early") -> PatternContent:
    return PatternContent(id_, "tool_usage", {"tool": id_}, statement, (), "feeds", {})


def counted(id_: str = A, day: int = 0) -> NewEvidence:
    return NewEvidence(id_, DAY - timedelta(days=day), 3, 1, 2.5, NOON)


async def told(dao: ChangesDAO, cursor: str, limit: int = 100) -> list[tuple[str, ChangeKind]]:
    """All that changed since a cursor, read in parts."""
    found: list[tuple[str, ChangeKind]] = []
    while True:
        part = await dao.patterns_since(cursor, limit)
        found += [(each.pattern.id[0], each.kind) for each in part.items]
        cursor = part.cursor
        if not part.more:
            return found


class TestKinds:
    async def test_what_is_new_changed_counted_pinned_and_forgotten_is_told(
        self, patterns: PatternsDAO, changes: ChangesDAO
    ) -> None:
        cursor = await changes.cursor()
        await patterns.store([pattern(A), pattern(B), pattern(C)])
        assert await told(changes, cursor) == [("a", "pattern"), ("b", "pattern"), ("c", "pattern")]

        cursor = await changes.cursor()
        await patterns.count([counted(B)])
        await patterns.store([pattern(A, "feeds find most")])
        await patterns.pin([C])
        assert await told(changes, cursor) == [("b", "evidence"), ("a", "pattern"), ("c", "pattern")]

        cursor = await changes.cursor()
        await patterns.forget([A], "operator")
        assert await told(changes, cursor) == [("a", "forgotten")]

    async def test_each_is_told_once_at_its_last_change_with_all_its_evidence(
        self, patterns: PatternsDAO, changes: ChangesDAO
    ) -> None:
        cursor = await changes.cursor()
        await patterns.store([pattern(A), pattern(B)])
        for day in range(3):
            await patterns.count([counted(A, day)])
        for limit in (1, 2, 100):
            assert await told(changes, cursor, limit) == [("b", "pattern"), ("a", "pattern")]
        [_, last] = (await changes.patterns_since(cursor, 100)).items
        assert (last.pattern.pos, last.pattern.neg, last.pattern.days, last.pattern.sites) == (9, 3, 3, 1)

    async def test_what_was_read_is_not_told_again(self, patterns: PatternsDAO, changes: ChangesDAO) -> None:
        await patterns.store([pattern(A)])
        assert await told(changes, await changes.cursor()) == []
        await patterns.attend({A: (1.0, 1.0)}, NOON)
        assert await told(changes, await changes.cursor()) == []

    async def test_importance_alone_is_no_change(self, patterns: PatternsDAO, changes: ChangesDAO) -> None:
        await patterns.store([pattern(A)])
        cursor = await changes.cursor()
        await patterns.attend({A: (1.0, 1.0)}, NOON)
        assert await told(changes, cursor) == []

    async def test_evidence_that_expires_is_a_change(
        self, patterns: PatternsDAO, changes: ChangesDAO
    ) -> None:
        await patterns.store([pattern(A), pattern(B)])
        await patterns.count([counted(A), counted(A, 5), counted(B)])
        cursor = await changes.cursor()
        await patterns.expire(NOON - timedelta(days=2))
        assert await told(changes, cursor) == [("a", "pattern")]
        [change] = (await changes.patterns_since(cursor, 9)).items
        assert change.pattern.days == 1

    async def test_merged_evidence_is_a_change_only_where_it_adds(
        self, patterns: PatternsDAO, changes: ChangesDAO
    ) -> None:
        await patterns.store([pattern(A)])
        row = StoredEvidence(A, "north", DAY, 1, 0, 1.0, NOON, 1)
        cursor = await changes.cursor()
        await patterns.merge_evidence([row])
        assert await told(changes, cursor) == [("a", "evidence")]
        cursor = await changes.cursor()
        await patterns.merge_evidence([row])
        assert await told(changes, cursor) == []


class TestCursors:
    async def test_reading_goes_on_after_any_change(self, patterns: PatternsDAO, changes: ChangesDAO) -> None:
        cursor = await changes.cursor()
        for each in (B, A, C):
            await patterns.store([pattern(each)])
        items = (await changes.patterns_since(cursor, 100)).items
        assert [await told(changes, each.cursor) for each in items] == [
            [("a", "pattern"), ("c", "pattern")], [("c", "pattern")], [],
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "wrong", ["", "0", "é", "0" * 16 + "-1", "0" * 16 + f"-1-{2**63:x}-", "x" * 16 + "-1-1-", "-" * 9_999]
    )
    async def test_what_is_no_cursor_is_refused(self, changes: ChangesDAO, wrong: str) -> None:
        with pytest.raises(DataRefused):
            await changes.patterns_since(wrong, 1)

    async def test_one_of_another_database_or_of_the_future_is_unknown(self, changes: ChangesDAO) -> None:
        ours, *_ = (await changes.cursor()).split("-")
        for wrong in ("0" * 16 + "-1-1-", f"{ours}-1-{2**59:x}-"):
            with pytest.raises(UnknownCursor):
                await changes.patterns_since(wrong, 1)


class TestGaps:
    async def test_a_transaction_that_ends_late_is_not_missed(
        self, patterns: PatternsDAO, changes: ChangesDAO, sql: Any, other: Any
    ) -> None:
        await patterns.store([pattern(A), pattern(B), pattern(C)])
        cursor = await changes.cursor()
        first, second = sql.transaction(), other.transaction()
        await first.start()
        await sql.execute("UPDATE patterns SET version = version + 1 WHERE id = $1", A)
        await second.start()
        await other.execute("UPDATE patterns SET version = version + 1 WHERE id = $1", B)
        await second.commit()
        # The later transaction has ended, the earlier one has not: telling of it now would skip that one.
        part = await changes.patterns_since(cursor, 100)
        assert [each.pattern.id for each in part.items] == []
        await patterns.store([pattern(C, "feeds find most")])
        await first.commit()
        assert await told(changes, part.cursor) == [("a", "pattern"), ("b", "pattern"), ("c", "pattern")]
        assert await told(changes, part.cursor, 1) == [("a", "pattern"), ("b", "pattern"), ("c", "pattern")]

    async def test_a_transaction_that_fails_leaves_no_trace(
        self, patterns: PatternsDAO, changes: ChangesDAO, sql: Any
    ) -> None:
        await patterns.store([pattern(A)])
        cursor = await changes.cursor()
        block = sql.transaction()
        await block.start()
        await sql.execute("UPDATE patterns SET version = version + 1")
        await block.rollback()
        await patterns.store([pattern(B)])
        assert await told(changes, cursor) == [("b", "pattern")]

    async def test_many_writers_and_a_reader_lose_nothing(
        self, patterns: PatternsDAO, changes: ChangesDAO
    ) -> None:
        ids = [f"{n:032x}" for n in range(60)]
        cursor, seen = await changes.cursor(), dict.fromkeys(ids, 0)

        async def write(mine: list[str]) -> None:
            for each in mine:
                async with patterns.transaction() as ours:
                    await ours.store([pattern(each)])
                    await ours.count([counted(each)])

        async def read(cursor: str) -> str:
            part = await changes.patterns_since(cursor, 7)
            for each in part.items:
                seen[each.pattern.id] += each.pattern.pos
            return part.cursor

        writing = [asyncio.create_task(write(ids[n::4])) for n in range(4)]
        while not all(task.done() for task in writing):
            cursor = await read(cursor)
        await asyncio.gather(*writing)
        while (end := await read(cursor)) != cursor:
            cursor = end
        assert seen == dict.fromkeys(ids, 3)


class TestCopies:
    async def test_a_copy_of_a_database_knows_that_it_is_one(
        self,
        postgres: ThrowAwayServer,
        database_url: str,
        changes: ChangesDAO,
        patterns: PatternsDAO,
        sql: Any,
    ) -> None:
        await changes.settle()
        await patterns.store([pattern(A), pattern(B)])
        await patterns.count([counted(A)])
        cursor = await changes.cursor()
        # As on a server that is restored to: its numbers are far behind those in the rows.
        for table in ("patterns", "pattern_evidence"):
            await sql.execute(f"UPDATE {table} SET changed = '9000000000'")
        await sql.execute("UPDATE site SET identity = 'the original'")
        assert await told(changes, cursor) == []

        assert await changes.settle() == 1
        assert await told(changes, cursor) == [("a", "pattern"), ("b", "pattern")]
        assert await changes.settle() == 0

    async def test_cursors_of_the_original_are_unknown_in_a_copy(self, sql: Any, changes: ChangesDAO) -> None:
        cursor = await changes.cursor()
        # What restoring does: the tables are others.
        await sql.execute("ALTER TABLE patterns RENAME TO earlier; CREATE TABLE patterns (LIKE earlier)")
        with pytest.raises(UnknownCursor):
            await changes.patterns_since(cursor, 1)


async def test_whoever_listens_is_woken(database: Database, patterns: PatternsDAO) -> None:
    async with aclosing(database.listen(CHANNEL)) as notices:
        await anext(notices)
        await patterns.store([pattern(A)])
        assert await anext(notices) == ""
        await patterns.count([counted(A)])
        assert await anext(notices) == ""


async def test_reading_on_looks_at_no_more_than_what_changed(
    patterns: PatternsDAO, changes: ChangesDAO, sql: Any
) -> None:
    from atlas.db import sql_of

    ids = [f"{n:032x}" for n in range(3_000)]
    await patterns.store([pattern(each) for each in ids])
    await patterns.count([counted(each) for each in ids])
    await sql.execute("ANALYZE patterns, pattern_evidence")
    place = await sql.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
    await patterns.count([counted(ids[7])])
    plan = await sql.fetch(
        f"EXPLAIN (ANALYZE, COSTS OFF) {sql_of('changes.since')}", place, "", place + 1, 9, place
    )
    text = "\n".join(row[0] for row in plan)
    # The site's own table has one row.
    assert "Seq Scan" not in text.replace("Seq Scan on site", "")
    assert "patterns_by_change" in text
    assert "pattern_evidence_by_change" in text
