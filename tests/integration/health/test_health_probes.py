"""Probes of health: those that fail, hang, or ask what does not answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import SecretStr

from atlas.adapters.health import HealthDAO
from atlas.adapters.upkeep import UpkeepDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.errors import DatabaseUnavailable, StatementTimeout
from atlas.testing import NOON, SettingsFactory, ThrowAwayServer
from maia.maintainer.health import judged_for_alerts
from maia.maintenance.findings import Component
from maia.maintenance.health import ServiceState, Watched
from maia.views import health as view
from maia.views.health import Wanted, health
from tests.health_facts import AGENTS, ANY_DISK, HOUR, KEYS, SAMPLE, keys_of, serving

pytestmark = pytest.mark.integration


class TestProbes:
    async def test_one_that_fails_or_hangs_hides_no_other(
        self, atlas: Atlas, monkeypatch: pytest.MonkeyPatch, sql: Any
    ) -> None:
        monkeypatch.setattr(view, "PROBE_TIMEOUT_S", 1.5)
        await sql.execute("SELECT ensure_sample_days(ARRAY['2026-11-02']::date[])")
        await sql.execute(SAMPLE, NOON - 2 * HOUR)

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
            assert (await health(atlas, AGENTS)).score == 1
            own_postgres.stop()
            health_now = await health(atlas, AGENTS)
            assert keys_of(health_now) == {"database.unreachable"}
            assert health_now.score == 0
            assert judged_for_alerts(health_now) >= {Component.DATABASE}
            assert Component.AGENTS not in judged_for_alerts(health_now)
            own_postgres.start()
            assert (await health(atlas, AGENTS)).score == 1

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
