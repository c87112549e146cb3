"""Health against real PostgreSQL: each figure is brought about, gathered by its probe, and judged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
import typer
from aiohttp import web
from pydantic import SecretStr
from typer.testing import CliRunner

from atlas.adapters.health import HealthDAO
from atlas.adapters.telemetry import HostSample, TelemetryDAO
from atlas.adapters.upkeep import UpkeepDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.errors import DatabaseUnavailable, StatementTimeout
from atlas.events import EventLog
from atlas.keyring import KeyRing
from atlas.testing import NOON, SettingsFactory, ThrowAwayServer
from maia.commands.system_health import health as command
from maia.maintainer.actions import Action, ActionState, Plan, Taken
from maia.maintainer.duties import DutyContext
from maia.maintainer.health import expected_agents, judged_for_alerts, look, watch_health
from maia.maintenance.findings import Component, Finding, Severity
from maia.maintenance.health import ServiceState, Watched
from maia.views import health as view
from maia.views.health import Health, Wanted, health

pytestmark = pytest.mark.integration

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
KEYS = SecretStr('[{"key": "AIzaSyTest-0123456789-0123456789-01234", "project": "p"}]')
ANY_DISK: dict[str, Any] = {"health": {"disk_percent": 100, "emergency_disk_percent": 100}}
"""However full the disk of the machine that runs the tests may be."""


@pytest.fixture
def atlas_settings(settings_factory: SettingsFactory) -> Settings:
    return settings_factory(youtube_api_key_pool_json=KEYS, maintainer=ANY_DISK)


def found(health: Health, key: str) -> Finding | None:
    return next((each for each in health.judgement.findings if each.key == key), None)


def keys_of(health: Health) -> set[str]:
    return {each.key for each in health.judgement.findings}


async def record(atlas: Atlas, health: Health) -> None:
    """Store a judgement as the maintainer's cycle does."""
    await atlas.events.append("maintainer.duty", {"duty": "health", "details": health.as_dict()})


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

    async def test_tomorrows_partition_is_missed_late_in_the_day(
        self, atlas: Atlas, clock: FixedClock, sql: Any
    ) -> None:
        if not await sql.fetchval("SELECT samples_are_partitioned()"):
            pytest.skip("samples are in a hypertable here")
        assert keys_of(await health(atlas, Wanted())) == set()
        await sql.execute("SELECT ensure_sample_days(ARRAY['2026-11-01', '2026-11-02']::date[])")
        early = found(await health(atlas, Wanted()), "database.missing_partition:2026-11-03")
        clock.advance(timedelta(hours=10, minutes=30))
        late = found(await health(atlas, Wanted()), "database.missing_partition:2026-11-03")
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


class TestQueues:
    async def test_expired_claims_that_nobody_took_over(self, atlas: Atlas, sql: Any) -> None:
        await fill_clock(sql, 150)
        await sql.execute(
            "UPDATE video_clock SET lease_owner = 'dead:1', lease_token = gen_random_uuid(),"
            " lease_until = clock_timestamp() - interval '10 minutes' WHERE next_due_at <= $1",
            NOON,
        )
        finding = found(await health(atlas, Wanted()), "queues.expired_leases:tracker")
        assert finding is not None
        assert finding.value == 150
        await sql.execute("UPDATE video_clock SET lease_until = clock_timestamp() - interval '2 hours'")
        assert found(await health(atlas, Wanted()), "queues.expired_leases:tracker") is None

    async def test_a_zone_lags_by_its_own_interval(self, atlas: Atlas, clock: FixedClock, sql: Any) -> None:
        await fill_clock(sql, 3, due=NOON - 2 * HOUR)
        assert keys_of(await health(atlas, Wanted())) == set()
        clock.advance(2 * HOUR)
        finding = found(await health(atlas, Wanted()), "queues.lag:hot")
        assert finding is not None
        assert finding.value == pytest.approx(4)

    async def test_parked_topics(self, atlas: Atlas, sql: Any) -> None:
        await sql.execute(
            "INSERT INTO search_queue (query, key, origin, status, priority, created_at)"
            " SELECT i::text, i::text, 'tag', 'parked', 1, $1 FROM generate_series(1, 1000) AS i",
            NOON,
        )
        finding = found(await health(atlas, Wanted()), "queues.parked")
        assert finding is not None
        assert finding.value == 1000


class TestLedgerAndVault:
    async def test_a_closed_bucket(self, atlas: Atlas, sql: Any) -> None:
        await KeyRing("hunting", atlas=atlas).ledger()
        await sql.execute(
            "INSERT INTO quota_ledger (project, bucket, pacific_day, closed_until, reason)"
            " VALUES ('p', 'search', '2026-11-02', $1, 'quotaExceeded')",
            NOON + HOUR,
        )
        finding = found(await health(atlas, Wanted()), "ledger.closed:p/search")
        assert finding is not None
        assert finding.text.endswith("until 2026-11-02 13:00 UTC: quotaExceeded")

    async def test_objects_that_wait_for_the_vault(self, atlas: Atlas, clock: FixedClock, sql: Any) -> None:
        await sql.execute(
            "INSERT INTO vault_refused (name, body, last_error, refused_at, retry_at)"
            " VALUES ('metadata/x.json', 'x', 'full', $1, now())",
            NOON,
        )
        assert keys_of(await health(atlas, Wanted())) == set()
        clock.advance(2 * HOUR)
        assert "vault.waiting" in keys_of(await health(atlas, Wanted()))


class TestAgents:
    AGENTS = Wanted(agents={"hunter": 600.0, "tracker": 600.0})

    async def test_the_last_good_cycle_counts_whatever_process_ran_it(
        self, atlas: Atlas, clock: FixedClock
    ) -> None:
        for agent in ("hunter", "tracker"):
            await atlas.events.append(f"{agent}.cycle", {"outcome": "done"}, agent=agent)
        clock.advance(30 * MINUTE)
        await atlas.events.append("tracker.cycle", {"outcome": "closed"}, agent="tracker")
        await atlas.events.append("hunter.cycle", {"outcome": "failed", "detail": "boom"}, agent="hunter")
        assert keys_of(await health(atlas, self.AGENTS)) == set()
        clock.advance(10 * MINUTE)
        silent = await health(atlas, self.AGENTS)
        assert keys_of(silent) == {"agents.silent:hunter"}
        assert "failed, boom" in silent.judgement.findings[0].text
        assert not silent.healthy
        await atlas.events.append("hunter.cycle", {"outcome": "idle"}, agent="hunter")
        assert keys_of(await health(atlas, self.AGENTS)) == set()

    async def test_a_silent_agent_names_the_hosts_that_ran_it_of_late(
        self, atlas: Atlas, clock: FixedClock
    ) -> None:
        dao = HealthDAO(atlas.db, clock=clock, settings=atlas.settings)

        async def nodes() -> tuple[str, ...]:
            [cycles] = await dao.last_cycles({"tracker": 600.0}, ["done"])
            return cycles.nodes

        assert await nodes() == ()
        for node, outcome in (("old", "done"), ("b", "done"), ("a", "done"), ("c", "failed")):
            events = EventLog(atlas.db, clock, node_id=node)
            await events.append("tracker.cycle", {"outcome": outcome}, agent="tracker")
            clock.advance(15 * MINUTE)
        assert await nodes() == ("a", "b", "c")
        clock.advance(HOUR)
        silent = found(await health(atlas, Wanted(agents={"tracker": 600.0})), "agents.silent:tracker")
        assert silent is not None
        assert silent.hosts == ("a", "b", "c")
        assert "It ran on a, b, c." in silent.text

    async def test_an_agent_that_never_ran_is_missed_since_the_first_event(
        self, atlas: Atlas, clock: FixedClock
    ) -> None:
        assert keys_of(await health(atlas, self.AGENTS)) == set()
        await atlas.events.append("hunter.cycle", {"outcome": "done"}, agent="hunter")
        clock.advance(HOUR)
        await atlas.events.append("hunter.cycle", {"outcome": "done"}, agent="hunter")
        finding = found(await health(atlas, self.AGENTS), "agents.silent:tracker")
        assert finding is not None
        assert finding.severity is Severity.WARNING

    def test_only_agents_that_can_work_are_expected(self, settings_factory: SettingsFactory) -> None:
        url = SecretStr("postgresql://nowhere/x")
        without = settings_factory(database_url=url)
        assert set(expected_agents(without)) >= {"learner"}
        assert not {"hunter", "tracker"} & set(expected_agents(without))
        chosen = settings_factory(
            database_url=url, youtube_api_key_pool_json=KEYS, prefect={"agents": ("hunter",)}
        )
        assert expected_agents(chosen) == {"hunter": 600.0}
        assert expected_agents(chosen, besides=("hunter",)) == {}


class TestHosts:
    async def test_other_hosts_are_judged_by_their_samples(self, atlas: Atlas, clock: FixedClock) -> None:
        clock.advance(2 * HOUR)
        await store(atlas, "busy", range(60, 121), cpu_percent=95.0)
        await store(atlas, "gone", range(61), cpu_percent=99.0)
        await store(atlas, "container", range(30, 35), cpu_percent=1.0)
        health_now = await health(atlas, Wanted())
        assert keys_of(health_now) == {"host.cpu:busy", "host.silent:gone"}

    async def test_this_host_is_looked_at_even_if_nothing_is_stored(self, atlas: Atlas) -> None:
        limits = atlas.settings.maintainer.health.model_copy(
            update={"disk_percent": 1e-6, "emergency_disk_percent": 1e-6}
        )
        health_now = await health(with_limits(atlas, limits), Wanted())
        assert "host.disk_emergency:test" in keys_of(health_now)

    async def test_samples_are_bounded(self, atlas: Atlas, clock: FixedClock) -> None:
        await store(atlas, "a", range(30), cpu_percent=5.0)
        dao = HealthDAO(atlas.db, clock=clock, settings=atlas.settings)
        loads = await dao.loads(["a", "none"], NOON, 10)
        assert [load.at for load in loads["a"]] == [NOON + minute * MINUTE for minute in range(20, 30)]
        assert loads["none"] == []


class TestProbes:
    async def test_one_that_fails_or_hangs_hides_no_other(
        self, atlas: Atlas, monkeypatch: pytest.MonkeyPatch, sql: Any
    ) -> None:
        monkeypatch.setattr(view, "PROBE_TIMEOUT_S", 1.5)
        await sql.execute("SELECT ensure_sample_days(ARRAY['2026-11-02']::date[])")

        async def hangs() -> list[ServiceState]:
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    # It does not even let itself be stopped at once.
                    await asyncio.sleep(0.05)
                    return []

        async def fails() -> list[Watched]:
            raise ZeroDivisionError("a bug")

        health_now = await health(atlas, Wanted(services=hangs, duties=fails))
        assert keys_of(health_now) == {
            "maintenance.probe:services", "maintenance.probe:maintenance",
            "database.missing_partition:2026-11-03",
        }  # fmt: skip
        assert "no answer within 1.5 s" in str(health_now.as_dict())
        assert Component.SERVICES not in health_now.judgement.settled
        assert Component.DATABASE in health_now.judgement.settled
        assert Component.MAINTENANCE in judged_for_alerts(health_now)
        await asyncio.sleep(0.1)

    async def test_a_slow_statement_is_a_finding(self, atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
        async def slow(self: HealthDAO) -> None:
            raise StatementTimeout("health.backlog: too slow")

        monkeypatch.setattr(HealthDAO, "backlog", slow)
        health_now = await health(atlas, Wanted())
        assert keys_of(health_now) == {"maintenance.probe:queues"}
        assert Component.QUEUES not in judged_for_alerts(health_now)

    async def test_postgresql_away_is_told_of_once(
        self, own_postgres: ThrowAwayServer, settings_factory: SettingsFactory, clock: FixedClock
    ) -> None:
        url = own_postgres.dsn_of(own_postgres.create_database())
        settings = settings_factory(
            database_url=SecretStr(url),
            youtube_api_key_pool_json=KEYS,
            database={"connect_timeout_s": 0.2},
            maintainer=ANY_DISK,
        )
        async with Atlas.open(settings, clock=clock) as atlas:
            assert (await health(atlas, TestAgents.AGENTS)).score == 1
            own_postgres.stop()
            health_now = await health(atlas, TestAgents.AGENTS)
            assert keys_of(health_now) == {"database.unreachable"}
            assert health_now.score == 0
            assert judged_for_alerts(health_now) >= {Component.DATABASE}
            assert Component.AGENTS not in judged_for_alerts(health_now)
            own_postgres.start()
            assert (await health(atlas, TestAgents.AGENTS)).score == 1

    async def test_one_that_finds_postgresql_gone_in_between(
        self, atlas: Atlas, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def gone(self: UpkeepDAO) -> None:
            raise DatabaseUnavailable("it went away")

        monkeypatch.setattr(UpkeepDAO, "invalid_indexes", gone)
        assert keys_of(await health(atlas, Wanted())) == {"database.unreachable"}

    @pytest.mark.parametrize(("status", "fine"), [(200, True), (401, True), (404, False), (503, False)])
    async def test_prefect_is_asked_for_its_health(self, atlas: Atlas, status: int, fine: bool) -> None:
        async with serving(status) as url:
            health_now = await health(atlas, Wanted(prefect_url=url))
        assert keys_of(health_now) == (set() if fine else {"prefect.unreachable"})
        away = await health(atlas, Wanted(prefect_url=url.replace("//", "//me:secret@")))
        assert keys_of(away) == {"prefect.unreachable"}
        assert "secret" not in str(away.as_dict())

    @pytest.mark.parametrize(
        "url", ["http://me:secret@[", "me:secret@host:port/api", "http://me:secret@:x/api"]
    )
    async def test_a_url_that_is_none_is_not_repeated(self, atlas: Atlas, url: str) -> None:
        health_now = await health(atlas, Wanted(prefect_url=url))
        assert keys_of(health_now) == {"prefect.unreachable"}
        assert "secret" not in str(health_now.as_dict())


class Recorder:
    """Takes every action, and remembers it."""

    def __init__(self) -> None:
        self.actions: list[Action] = []

    async def take(self, action: Action) -> Taken | None:
        self.actions.append(action)
        plan = await action.plan() or Plan(text="nothing")
        return Taken(
            kind=action.kind, target=action.target, state=ActionState.APPLIED, plan=plan, result="done"
        )


class Mend(Action):
    kind = "reindex"
    about = "Mend."

    def __init__(self, target: str) -> None:
        self.target = target

    async def plan(self) -> Plan | None:
        return Plan(text=f"mend {self.target}")

    async def apply(self, plan: Plan) -> str:
        return "mended"


class TestDuty:
    async def test_tells_stores_and_mends(
        self, atlas: Atlas, sql: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from maia.maintainer import repairs

        async def offered(_: Atlas) -> list[Action]:
            return [Mend("twice_x"), Mend("other")]

        monkeypatch.setattr(repairs, "table_actions", offered)
        await sql.execute("CREATE TABLE twice AS SELECT 1 AS x UNION ALL SELECT 1")
        with pytest.raises(asyncpg.UniqueViolationError):
            await sql.execute("CREATE UNIQUE INDEX CONCURRENTLY twice_x ON twice (x)")
        recorder = Recorder()
        report = await watch_health(DutyContext(atlas, recorder))
        assert [action.target for action in recorder.actions] == ["twice_x"]
        assert report.summary.startswith("score 0.88, 0 errors, 1 warning; The index twice_x")
        assert report.summary.endswith("1 repair made")
        assert not report.failed
        assert json.loads(json.dumps(report.details))["components"]["database"]["score"] == 0.8
        assert report.details["known"] == ["database.invalid_index:twice_x"]

    async def test_what_was_known_lasts_until_it_is_clearly_over(
        self, atlas: Atlas, clock: FixedClock, sql: Any
    ) -> None:
        await fill_clock(sql, 1, due=NOON - 3 * HOUR)
        first = await health(atlas, Wanted())
        assert keys_of(first) == {"queues.lag:hot"}
        await sql.execute("UPDATE video_clock SET next_due_at = $1", NOON - timedelta(hours=2.8))
        assert keys_of(await health(atlas, Wanted())) == set()
        await record(atlas, first)
        assert keys_of(await health(atlas, Wanted())) == {"queues.lag:hot"}
        await sql.execute("UPDATE video_clock SET next_due_at = $1", NOON - timedelta(hours=2.6))
        assert keys_of(await health(atlas, Wanted())) == set()

    async def test_looking_changes_nothing(self, atlas: Atlas, sql: Any) -> None:
        async def rows() -> list[Any]:
            tables = await sql.fetch("SELECT relid::regclass::text AS name FROM pg_stat_user_tables")
            return [await sql.fetchval(f"SELECT count(*) FROM {table['name']}") for table in tables]

        before = await rows()
        await look(atlas)
        assert await rows() == before


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


def statement(name: str, *arguments: object) -> str:
    """A named statement with its arguments written into it."""
    from atlas.db import sql_of

    text = sql_of(name)
    for place, argument in enumerate(arguments, 1):
        text = text.replace(f"${place}", f"'{argument}'" if isinstance(argument, str) else str(argument))
    return text


async def fill_clock(sql: Any, count: int, due: Any = NOON) -> None:
    """Hot videos that are due at an instant."""
    await sql.execute(
        "INSERT INTO channels (id, discovered_at, refreshed_at) VALUES ('UC1', $1, $1)",
        NOON,
    )
    await sql.execute(
        "INSERT INTO videos (id, channel_id, discovered_at, refreshed_at) SELECT 'v' || i, 'UC1', $2, $2"
        " FROM generate_series(1, $1::int) AS i",
        count,
        NOON,
    )
    await sql.execute(
        "INSERT INTO video_clock (video_id, channel_id, zone, interval_h, born_at, next_due_at, metadata_at)"
        " SELECT 'v' || i, 'UC1', 0, 1, $2, $3, $2 FROM generate_series(1, $1::int) AS i",
        count,
        NOON,
        due,
    )


async def store(atlas: Atlas, node: str, minutes: range, **figures: Any) -> None:
    dao = TelemetryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    await dao.store([HostSample(at=NOON + minute * MINUTE, node=node, **figures) for minute in minutes])


def with_limits(atlas: Atlas, limits: Any) -> Atlas:
    from dataclasses import replace

    maintainer = atlas.settings.maintainer.model_copy(update={"health": limits})
    return replace(atlas, settings=atlas.settings.model_copy(update={"maintainer": maintainer}))


@asynccontextmanager
async def idle_in_transaction(url: str) -> AsyncIterator[int]:
    connection = await asyncpg.connect(url, server_settings={"application_name": "forgetful"})
    try:
        await connection.execute("BEGIN")
        yield await connection.fetchval("SELECT pg_backend_pid()")
    finally:
        await connection.close()


@asynccontextmanager
async def serving(status: int) -> AsyncIterator[str]:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(status < 400, status=status)

    app = web.Application()
    app.router.add_get("/api/health", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/api"
    finally:
        await runner.cleanup()


class TestCommand:
    """What people see and scripts test: the table at 80 columns, JSON, and exit statuses."""

    @pytest.fixture
    def run(self, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for name, value in ANY_DISK["health"].items():
            monkeypatch.setenv(f"PLEIADES_MAINTAINER__HEALTH__{name.upper()}", str(value))
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        app = typer.Typer()
        app.command()(command)
        return lambda *arguments, **env: CliRunner().invoke(app, list(arguments), env=env)

    def test_all_well(self, run: Callable[..., Any]) -> None:
        shown = run()
        assert shown.exit_code == 0, shown.output
        assert "all well" in shown.stdout
        assert "not judged: PREFECT_API_URL is not set" in shown.stdout

    def test_an_error_is_an_exit_status(self, run: Callable[..., Any]) -> None:
        shown = run("--json", PREFECT_API_URL="http://127.0.0.1:9/api")
        assert shown.exit_code == 1
        told = json.loads(shown.stdout)
        assert told["components"]["prefect"]["score"] == 0.4
        assert [each["key"] for each in told["findings"]] == ["prefect.unreachable"]
        assert not told["healthy"]


class TestAlerts:
    async def test_incidents_begin_and_end_by_judgements(
        self, atlas: Atlas, clock: FixedClock, sql: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("maia.maintainer.alerting")
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        await sql.execute("CREATE TABLE twice AS SELECT 1 AS x UNION ALL SELECT 1")
        with pytest.raises(asyncpg.UniqueViolationError):
            await sql.execute("CREATE UNIQUE INDEX CONCURRENTLY twice_x ON twice (x)")
        for _ in range(2):
            assert not (await watch_health(DutyContext(atlas, Recorder()))).failed
        incidents = "SELECT key, status FROM incidents"
        (opened,) = await sql.fetch(incidents)
        assert dict(opened) == {"key": "database.invalid_index:twice_x", "status": "open"}
        await sql.execute("DROP INDEX twice_x")
        for _ in range(2):
            await watch_health(DutyContext(atlas, Recorder()))
            clock.advance(15 * MINUTE)
        (over,) = await sql.fetch(incidents)
        assert over["status"] != "open"

    async def test_a_failing_alerting_prevents_no_repair(
        self, atlas: Atlas, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from maia.maintainer import health as duty

        async def handle(*_: Any, **__: Any) -> None:
            raise DatabaseUnavailable("no incidents")

        monkeypatch.setattr(duty, "handle", handle)
        report = await watch_health(DutyContext(atlas, Recorder()))
        assert report.failed
        assert report.summary.endswith("alerting failed: no incidents")
