"""Health of what works: queues, the ledger, the vault and agents."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from atlas.adapters.health import HealthDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.events import EventLog
from atlas.keyring import KeyRing
from atlas.testing import NOON, SettingsFactory
from maia.maintainer.health import expected_agents
from maia.maintenance.findings import Severity
from maia.views.health import Wanted, health
from tests.health_facts import AGENTS, HOUR, KEYS, MINUTE, fill_clock, found, keys_of

pytestmark = pytest.mark.integration


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
    async def test_the_last_good_cycle_counts_whatever_process_ran_it(
        self, atlas: Atlas, clock: FixedClock
    ) -> None:
        for agent in ("hunter", "tracker"):
            await atlas.events.append(f"{agent}.cycle", {"outcome": "done"}, agent=agent)
        clock.advance(30 * MINUTE)
        await atlas.events.append("tracker.cycle", {"outcome": "closed"}, agent="tracker")
        await atlas.events.append("hunter.cycle", {"outcome": "failed", "detail": "boom"}, agent="hunter")
        assert keys_of(await health(atlas, AGENTS)) == set()
        clock.advance(10 * MINUTE)
        silent = await health(atlas, AGENTS)
        assert keys_of(silent) == {"agents.silent:hunter"}
        assert "failed, boom" in silent.judgement.findings[0].text
        assert not silent.healthy
        await atlas.events.append("hunter.cycle", {"outcome": "idle"}, agent="hunter")
        assert keys_of(await health(atlas, AGENTS)) == set()

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
        assert keys_of(await health(atlas, AGENTS)) == set()
        await atlas.events.append("hunter.cycle", {"outcome": "done"}, agent="hunter")
        clock.advance(HOUR)
        await atlas.events.append("hunter.cycle", {"outcome": "done"}, agent="hunter")
        finding = found(await health(atlas, AGENTS), "agents.silent:tracker")
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
