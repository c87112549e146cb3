"""Health of PostgreSQL: each figure is brought about, gathered by its probe, and judged."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from atlas.adapters.health import HealthDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.testing import NOON
from maia.maintenance.findings import Component, Severity
from maia.views.health import Wanted, health
from tests.health_facts import (
    DAY,
    HOUR,
    SAMPLE,
    fill_clock,
    found,
    idle_in_transaction,
    keys_of,
    statement,
    with_limits,
)

pytestmark = pytest.mark.integration


class TestPostgreSQL:
    async def test_a_new_system_is_well(self, atlas: Atlas) -> None:
        health_now = await health(atlas, Wanted())
        assert health_now.judgement.findings == ()
        assert (health_now.score, health_now.healthy) == (1.0, True)
        assert health_now.measured["database_bytes"] > 0
        assert {each.component for each in health_now.judgement.components} == set(Component)

    async def test_a_transaction_left_open_is_named(self, atlas: Atlas, database_url: str) -> None:
        limits = atlas.settings.maintainer.health.model_copy(update={"long_transaction_s": 0.05})
        async with idle_in_transaction(database_url) as pid:
            await asyncio.sleep(0.06)
            health_now = await health(with_limits(atlas, limits), Wanted())
        finding = found(health_now, "database.long_transaction")
        assert finding is not None
        assert finding.severity is Severity.WARNING
        assert f"'forgetful' (process {pid})" in finding.text
        assert "idle in transaction" in finding.text
        assert str(pid) in (finding.command or "")
        assert "database.long_transaction" not in keys_of(await health(with_limits(atlas, limits), Wanted()))

    async def test_our_own_lock_behind_a_pooler_is_no_transaction_left_open(
        self, atlas: Atlas, database_url: str
    ) -> None:
        limits = atlas.settings.maintainer.health.model_copy(update={"long_transaction_s": 0.05})
        connection = await asyncpg.connect(database_url)
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(1)")
            await asyncio.sleep(0.06)
            health_now = await health(with_limits(atlas, limits), Wanted())
        await connection.close()
        assert "database.long_transaction" not in keys_of(health_now)

    async def test_an_index_whose_build_failed_is_named(self, atlas: Atlas, sql: Any) -> None:
        await sql.execute("CREATE TABLE twice AS SELECT 1 AS x UNION ALL SELECT 1")
        with pytest.raises(asyncpg.UniqueViolationError):
            await sql.execute("CREATE UNIQUE INDEX CONCURRENTLY twice_x ON twice (x)")
        health_now = await health(atlas, Wanted())
        finding = found(health_now, "database.invalid_index:twice_x")
        assert finding is not None
        assert "twice_x of twice" in finding.text
        await sql.execute("DROP INDEX twice_x")
        assert keys_of(await health(atlas, Wanted())) == set()

    async def test_dead_rows_of_large_tables_count(self, atlas: Atlas, sql: Any) -> None:
        await sql.execute("CREATE TABLE many AS SELECT generate_series(1, 25000) AS x")
        await sql.execute("ALTER TABLE many SET (autovacuum_enabled = off)")
        await sql.execute("DELETE FROM many WHERE x <= 12000")
        await sql.execute("CREATE TABLE few AS SELECT generate_series(1, 100) AS x")
        await sql.execute("DELETE FROM few")
        await sql.execute("SELECT pg_stat_force_next_flush()")
        finding = found(await health(atlas, Wanted()), "database.dead_rows:many")
        assert finding is not None
        assert finding.value == pytest.approx(12 / 25, abs=0.01)
        await sql.execute("VACUUM many")
        await sql.execute("SELECT pg_stat_force_next_flush()")
        assert keys_of(await health(atlas, Wanted())) == set()

    async def test_a_partition_is_missed_only_by_who_stores_samples(
        self, atlas: Atlas, clock: FixedClock, sql: Any
    ) -> None:
        if not await sql.fetchval("SELECT samples_are_partitioned()"):
            pytest.skip("samples are in a hypertable here")
        missing = "database.missing_partition:2026-11-03"
        clock.advance(timedelta(hours=10, minutes=30))
        await sql.execute("SELECT ensure_sample_days(ARRAY['2026-11-01', '2026-11-02']::date[])")
        await sql.execute(SAMPLE, NOON - 13 * HOUR)
        assert keys_of(await health(atlas, Wanted())) == set(), "an idle tracker needs none"
        await sql.execute(SAMPLE, NOON + 10 * HOUR)
        assert keys_of(await health(atlas, Wanted())) == set(), "the cycle that stores it may be under way"
        await sql.execute(SAMPLE, NOON - HOUR)
        late = found(await health(atlas, Wanted()), missing)
        clock.advance(-10 * HOUR)
        early = found(await health(atlas, Wanted()), missing)
        assert early is not None
        assert late is not None
        assert (early.severity, late.severity) == (Severity.INFO, Severity.WARNING)
        await sql.execute("SELECT ensure_sample_days(ARRAY['2026-11-03']::date[])")
        assert keys_of(await health(atlas, Wanted())) == set()

    async def test_figures_are_those_of_the_server(self, atlas: Atlas, sql: Any) -> None:
        figures, waiting = await HealthDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).server()
        assert 2 <= figures.connections <= figures.most_connections
        assert figures.most_connections == int(await sql.fetchval("SHOW max_connections")) - 3
        assert figures.holder is None
        assert not figures.is_read_only
        assert 0 < figures.frozen_age < figures.freeze_age
        assert (waiting.objects, waiting.oldest_at) == (0, None)

    async def test_a_server_that_refuses_writes_is_an_error(self, atlas: Atlas, sql: Any) -> None:
        name = await sql.fetchval("SELECT current_database()")
        await sql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        async with Atlas.open(atlas.settings, clock=atlas.clock) as reopened:
            finding = found(await health(reopened, Wanted()), "database.cannot_store")
        assert finding is not None
        assert finding.severity is Severity.ERROR

    async def test_growth_is_judged_by_what_was_measured_a_day_ago(
        self, atlas: Atlas, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from maia.maintenance import server_rules

        monkeypatch.setattr(server_rules, "_LEAST_GROWTH_BYTES", 1)
        before = await health(atlas, Wanted())
        half = before.as_dict()
        half["measured"]["database_bytes"] //= 2
        await atlas.events.append("maintainer.duty", {"duty": "health", "details": half})
        assert keys_of(await health(atlas, Wanted())) == set()
        clock.advance(DAY)
        finding = found(await health(atlas, Wanted()), "database.growth")
        assert finding is not None
        assert finding.value == pytest.approx(1, rel=0.1)

    async def test_what_other_versions_stored_does_no_harm(self, atlas: Atlas) -> None:
        stored: list[dict[str, Any]] = [
            {},
            {"known": None, "measured": []},
            {"known": [1], "measured": {"database_bytes": "x"}},
        ]
        for details in stored:
            await atlas.events.append("maintainer.duty", {"duty": "health", "details": details})
        assert keys_of(await health(atlas, Wanted())) == set()


class TestPlans:
    """On long tables, no statement of a judgement reads more than it needs."""

    async def test_claims_are_found_without_reading_the_whole_clock(self, atlas: Atlas, sql: Any) -> None:
        await fill_clock(sql, 20_000, due=NOON + HOUR)
        await sql.execute("ANALYZE video_clock")
        explained = await sql.fetchval(
            f"EXPLAIN (FORMAT JSON) {statement('health.backlog', NOON.isoformat(), 5000)}"
        )
        assert "Seq Scan" not in explained
        assert explained.count("video_clock_due") >= 2

    async def test_last_cycles_come_from_the_index_by_kind(self, sql: Any) -> None:
        await sql.execute(
            "INSERT INTO events (at, kind, node, payload) SELECT now(), 'hunter.cycle', 'x', '{}'"
            " FROM generate_series(1, 5000)"
        )
        await sql.execute("ANALYZE events")
        explained = await sql.fetchval(
            f"EXPLAIN (FORMAT JSON) {statement('health.last_cycles', '{hunter}', '{done}', '{600}', 100)}"
        )
        assert "Seq Scan" not in explained
