"""The duty that watches health, what it tells and mends, and the command that shows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
import typer
from typer.testing import CliRunner

from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.errors import DatabaseUnavailable
from atlas.testing import NOON
from maia.commands.system_health import health as command
from maia.maintainer.actions import Action
from maia.maintainer.duties import DutyContext
from maia.maintainer.health import look, watch_health
from maia.views.health import Wanted, health
from tests.health_facts import ANY_DISK, HOUR, MINUTE, Mend, Recorder, fill_clock, keys_of, record

pytestmark = pytest.mark.integration


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
