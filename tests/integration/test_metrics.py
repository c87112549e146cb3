"""Metrics out of a real database, as Prometheus would read them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from atlas.adapters.discovery import ArmYield, DiscoveryDAO, PlannedArm
from atlas.adapters.graph import GraphDAO, Node
from atlas.adapters.metrics import MetricsDAO
from atlas.clock import FixedClock, pacific_day
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.keyring import KeyRing
from atlas.testing import SettingsFactory, ThrowAwayServer
from maia.hunter.cycle import Hunter
from maia.stack.exporter import Exporter
from maia.stack.families import FAMILIES
from maia.stack.metrics import MetricsError, serve_metrics
from tests.stored_graphs import VIDEOS, store_graph

pytestmark = pytest.mark.integration

KEYS = SecretStr(json.dumps([{"key": "lab-key", "project": "lab"}]))

Told = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def atlas_settings(settings_factory: SettingsFactory) -> Settings:
    return settings_factory(youtube_api_key_pool_json=KEYS)


def parsed(exposition: bytes) -> Told:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition.decode())
        for sample in family.samples
    }


async def told_by(exporter: Exporter) -> Told:
    return parsed(await exporter.exposition())


def value(told: Told, name: str, **labels: str) -> float | None:
    return told.get((name, tuple(sorted(labels.items()))))


def cycle(outcome: str = "done", **counts: Any) -> dict[str, Any]:
    return {"outcome": outcome, "seconds": 2.0, "skipped": {}, "units": {"search": 1}, "new": 3} | counts


async def hunted(atlas: Atlas, *cycles: Mapping[str, Any], agent: str = "hunter") -> None:
    await atlas.events.append_many([(f"{agent}.cycle", each) for each in cycles], agent=agent)


async def planned_and_found(atlas: Atlas) -> None:
    """A plan of two arms, and what they brought on this day and the one before."""
    dao = DiscoveryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    day = pacific_day(atlas.clock.now())
    arms = [
        PlannedArm(arm, "search", share, 0.01, 1.0, 0.5, 2.0, "a test")
        for arm, share in (("search:slices", 0.75), ("search:any", 0.25))
    ]
    await dao.make_plan(day, arms)
    for each in (day, day - timedelta(days=1)):
        await dao.add_yield(each, ArmYield("search:slices", asks=2, units=2, found=90, new=50, early=40))
    await dao.mark_unwell(day, "search:any", "order ignored")
    await atlas.db.execute("discovery.add_verdicts", [day], ["search:slices"], [40], [7])


class TestTotals:
    async def test_cycles_are_counted_by_agent_and_outcome(self, atlas: Atlas) -> None:
        await hunted(atlas, cycle(), cycle(), cycle("idle", new=0, seconds=0.05))
        await hunted(atlas, cycle(samples=40), agent="tracker")
        told = await told_by(Exporter(atlas))

        assert value(told, "pleiades_up") == 1
        assert value(told, "pleiades_cycles_total", agent="hunter", outcome="done") == 2
        assert value(told, "pleiades_cycles_total", agent="hunter", outcome="idle") == 1
        assert value(told, "pleiades_cycles_total", agent="tracker", outcome="done") == 1
        assert value(told, "pleiades_videos_found_total", agent="hunter") == 6
        assert value(told, "pleiades_samples_total", agent="tracker") == 40
        assert value(told, "pleiades_calls_total", agent="hunter", bucket="search") == 3

    async def test_seconds_are_a_histogram(self, atlas: Atlas) -> None:
        await hunted(atlas, *(cycle(seconds=seconds) for seconds in (0.1, 2.0, 100.0, 5000.0)))
        told = await told_by(Exporter(atlas))

        def below(bound: str) -> float | None:
            return value(told, "pleiades_cycle_seconds_bucket", agent="hunter", le=bound)

        assert [below(bound) for bound in ("0.1", "1.0", "2.5", "120.0", "600.0", "+Inf")] == [
            1,
            1,
            2,
            3,
            3,
            4,
        ]
        assert value(told, "pleiades_cycle_seconds_sum", agent="hunter") == pytest.approx(5102.1)
        assert value(told, "pleiades_cycle_seconds_count", agent="hunter") == 4

    async def test_errors_are_told_by_what_was_done_and_a_429_is_a_churn(self, atlas: Atlas) -> None:
        await hunted(
            atlas,
            cycle(skipped={"network": 2, "ring_closed": 7, "late": 1}),
            cycle("rate_limited", skipped={"rate_limited": 9}),
            cycle("failed", skipped={"failed": 5}),
            cycle("interrupted", skipped={"interrupted": 4}),
        )
        told = await told_by(Exporter(atlas))

        errors = {
            dict(labels)["disposition"]: count
            for (name, labels), count in told.items()
            if name == "pleiades_errors_total"
        }
        assert errors == {"network": 2, "rate_limited": 1, "failed": 1}
        assert value(told, "pleiades_churns_total", agent="hunter") == 1

    async def test_sources_and_forms_are_told_with_what_they_cost_and_brought(self, atlas: Atlas) -> None:
        await planned_and_found(atlas)
        told = await told_by(Exporter(atlas))

        counts = {
            name: value(told, f"pleiades_discovery_{name}_total", arm="search:slices")
            for name in ("units", "found", "early", "growing")
        }
        assert counts == {"units": 4, "found": 180, "early": 80, "growing": 7}
        assert value(told, "pleiades_discovery_share", arm="search:slices") == 0.75
        assert value(told, "pleiades_discovery_unwell", arm="search:slices") == 0
        assert value(told, "pleiades_discovery_unwell", arm="search:any") == 1

    async def test_breakouts_are_counted(self, atlas: Atlas) -> None:
        await atlas.events.append_many([("tracker.breakout", {"id": "a"}), ("tracker.breakout", {"id": "b"})])
        assert value(await told_by(Exporter(atlas)), "pleiades_breakouts_total") == 2

    async def test_steps_acts_and_offers_are_no_cycles(self, atlas: Atlas) -> None:
        await hunted(atlas, cycle())
        before = await told_by(Exporter(atlas))
        step = {"outcome": "network", "seconds": 9.0, "samples": 5, "new": 5, "context": {}}
        for kind in ("hunter.step", "tracker.step", "hunter.offer", "operator.act"):
            await atlas.events.append(kind, step, agent=kind.partition(".")[0])
        after = await told_by(Exporter(atlas))
        of_cycles = (
            "pleiades_cycle",
            "pleiades_errors",
            "pleiades_samples",
            "pleiades_videos",
            "pleiades_units",
        )
        assert {key: after[key] for key in after if key[0].startswith(of_cycles)} == {
            key: before[key] for key in before if key[0].startswith(of_cycles)
        }
        assert value(after, "pleiades_cycles_total", agent="hunter", outcome="done") == 1

    async def test_totals_survive_exporters_and_events(self, atlas: Atlas, sql: Any) -> None:
        await hunted(atlas, *[cycle()] * 3)
        await told_by(Exporter(atlas))
        await sql.execute("DELETE FROM events")
        await hunted(atlas, *[cycle()] * 2)

        told = await told_by(Exporter(atlas))
        assert value(told, "pleiades_cycles_total", agent="hunter", outcome="done") == 5

    async def test_exporters_at_once_count_each_event_once(self, atlas: Atlas) -> None:
        exporters = [Exporter(atlas) for _ in range(4)]
        await hunted(atlas, *[cycle()] * 50)
        await asyncio.gather(*(told_by(exporter) for exporter in exporters), hunted(atlas, *[cycle()] * 50))
        told = await told_by(exporters[0])
        assert value(told, "pleiades_cycles_total", agent="hunter", outcome="done") == 100

    async def test_an_event_that_commits_late_is_counted_too(self, atlas: Atlas) -> None:
        exporter = Exporter(atlas)
        async with atlas.db.transaction() as transaction:
            await atlas.events.append("hunter.cycle", cycle(), agent="hunter", executor=transaction)
            await hunted(atlas, cycle("idle"))
            early = await told_by(exporter)
        assert value(early, "pleiades_cycles_total", agent="hunter", outcome="done") is None

        late = await told_by(exporter)
        assert value(late, "pleiades_cycles_total", agent="hunter", outcome="done") == 1
        assert value(late, "pleiades_cycles_total", agent="hunter", outcome="idle") == 1

    async def test_a_long_history_is_counted_in_parts(
        self, atlas: Atlas, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("atlas.adapters.metrics._EVENTS_AT_ONCE", 7)
        await hunted(atlas, *[cycle()] * 30)
        assert await MetricsDAO(atlas.db, atlas.events).fold([1.0]) == 30
        told = await told_by(Exporter(atlas))
        assert value(told, "pleiades_cycles_total", agent="hunter", outcome="done") == 30

    @pytest.mark.parametrize(
        "odd",
        [
            {},
            {"outcome": None, "seconds": "long", "skipped": [1], "units": "many", "new": -1},
            {"skipped": {"network": "two", "vault": {"deep": 1}, "database": -3}, "seconds": None},
        ],
    )
    async def test_what_others_write_cannot_stop_the_count(self, atlas: Atlas, odd: dict[str, Any]) -> None:
        await atlas.events.append_many([("plugin.cycle", odd), ("plugin.cycle", cycle())])
        told = await told_by(Exporter(atlas))
        assert value(told, "pleiades_cycles_total", agent="plugin", outcome="done") == 1
        assert value(told, "pleiades_videos_found_total", agent="plugin") == 3
        assert value(told, "pleiades_up") == 1


class TestStanding:
    async def test_the_ledger_is_told_by_ring_and_bucket(self, atlas: Atlas, clock: FixedClock) -> None:
        keys = KeyRing("hunting", atlas=atlas)
        await keys.settle(await keys.acquire("search"))
        await keys.acquire("search")
        told = await told_by(Exporter(atlas))

        labels = {"project": "lab", "ring": "hunting", "bucket": "search"}
        [line] = [line for line in await keys.ledger() if line.bucket == "search"]
        assert value(told, "pleiades_quota_used", **labels) == line.used == 1
        assert value(told, "pleiades_quota_reserved", **labels) == line.reserved == 1
        assert value(told, "pleiades_quota_allowed", **labels) == line.allowed
        assert value(told, "pleiades_quota_limit", **labels) == line.ring_limit
        assert value(told, "pleiades_quota_used", project="lab", ring="hunting", bucket="stats") is None
        assert value(told, "pleiades_ledger_closed", project="lab", bucket="search") == 0

    async def test_a_closed_bucket_is_closed_until_it_reopens(self, atlas: Atlas, clock: FixedClock) -> None:
        keys = KeyRing("hunting", atlas=atlas)
        await keys.cool_down(await keys.acquire("search"), 60, "too fast")
        exporter = Exporter(atlas)
        assert value(await told_by(exporter), "pleiades_ledger_closed", project="lab", bucket="search") == 1
        clock.advance(timedelta(seconds=61))
        assert value(await told_by(exporter), "pleiades_ledger_closed", project="lab", bucket="search") == 0

    async def test_a_new_pacific_day_begins_at_nothing(self, atlas: Atlas, clock: FixedClock) -> None:
        keys = KeyRing("hunting", atlas=atlas)
        await keys.settle(await keys.acquire("search"))
        clock.advance(timedelta(days=1))
        told = await told_by(Exporter(atlas))
        assert value(told, "pleiades_quota_used", project="lab", ring="hunting", bucket="search") == 0

    async def test_the_queue_the_clock_and_the_database_are_told(self, atlas: Atlas) -> None:
        async with Hunter.open(atlas) as hunter:
            await hunter.dao.seed(["cats", "city gardens", "trains"])
            await hunter.dao.claim_topics(1)
        told = await told_by(Exporter(atlas))
        assert value(told, "pleiades_queue_topics", status="active") == 3
        assert value(told, "pleiades_queue_leased") == 1
        assert value(told, "pleiades_videos") == 0
        assert value(told, "pleiades_vault_waiting") == 0
        size = value(told, "pleiades_database_pool_size")
        idle = value(told, "pleiades_database_pool_idle")
        assert size is not None
        assert idle is not None
        assert size >= idle >= 1
        assert (value(told, "pleiades_database_bytes") or 0) > 1_000_000
        assert (value(told, "process_resident_memory_bytes") or 0) > 1_000_000

    async def test_an_old_snapshot_shows(self, atlas: Atlas, database_url: str) -> None:
        import asyncpg

        other = await asyncpg.connect(database_url)
        try:
            async with other.transaction(isolation="repeatable_read"):
                await other.fetch("SELECT 1")
                await asyncio.sleep(0.05)
                age_s = value(await told_by(Exporter(atlas)), "pleiades_oldest_xmin_age_seconds")
        finally:
            await other.close()
        assert age_s is not None
        assert age_s >= 0.05

    async def test_a_lapsed_claim_is_counted_once_however_much_it_holds(
        self, atlas: Atlas, sql: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("maia.stack.exporter.COUNTS_KEPT_S", 0.0)
        exporter = Exporter(atlas)
        async with Hunter.open(atlas) as hunter:
            await hunter.dao.seed(["cats", "city gardens", "trains"])
            await hunter.dao.claim_topics(2)
            assert value(await told_by(exporter), "pleiades_lease_expiries_total", agent="hunter") is None
            for lapsed in (1, 1, 2):
                if lapsed == 2:
                    await hunter.dao.claim_topics(3)
                await sql.execute("UPDATE search_queue SET lease_until = clock_timestamp() - interval '1 s' "
                                  "WHERE lease_token IS NOT NULL")  # fmt: skip
                told = await told_by(exporter)
                assert value(told, "pleiades_lease_expiries_total", agent="hunter") == lapsed
                assert value(told, "pleiades_lease_expiries_total", agent="tracker") is None

    async def test_a_reason_to_refuse_is_told_before_its_first_time(self, atlas: Atlas, sql: Any) -> None:
        exporter = Exporter(atlas)
        assert value(await told_by(exporter), "pleiades_federation_refused_total", reason="clock") == 0
        await sql.execute("INSERT INTO federation_refusals VALUES ('b', 'clock', 1, now(), 'a year ahead')")
        assert value(await told_by(exporter), "pleiades_federation_refused_total", reason="clock") == 1

    async def test_everything_told_is_described_and_the_other_way_round(self, atlas: Atlas, sql: Any) -> None:
        await hunted(atlas, cycle("rate_limited"), cycle(samples=1, observations=4), agent="tracker")
        async with Hunter.open(atlas) as hunter:
            await hunter.dao.seed(["cats"])
            await hunter.dao.claim_topics(1)
        await sql.execute("UPDATE search_queue SET lease_until = clock_timestamp() - interval '1 second'")
        await atlas.events.append("tracker.breakout", {"id": "a"})
        await planned_and_found(atlas)
        await GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).add([Node("tag", "cats")])
        keys = KeyRing("hunting", atlas=atlas)
        await keys.settle(await keys.acquire("search"))
        await atlas.events.append("maintainer.duty", {"duty": "health", "details": {"score": 0.75}})
        exposition = (await Exporter(atlas).exposition()).decode()
        names = {line.split()[2] for line in exposition.splitlines() if line.startswith("# HELP pleiades_")}
        of_zones = {family.name for family in FAMILIES if "zone" in family.labels}
        assert names | of_zones == {family.name for family in FAMILIES}


class TestOtherNames:
    async def test_each_figure_is_the_same_under_all_its_names(self, atlas: Atlas) -> None:
        await hunted(atlas, cycle(seconds=1.0), cycle("failed", seconds=3.0))
        learnt = cycle(seconds=2.0, observations=40, skipped={"network": 2})
        await hunted(atlas, learnt, cycle("idle", seconds=6.0), agent="learner")
        judged = {"duty": "health", "details": {"score": 0.75}}
        await atlas.events.append("maintainer.duty", judged, agent="maintainer")
        told = await told_by(Exporter(atlas))

        assert value(told, "pleiades_observations_total", agent="learner") == 40
        assert value(told, "pattern_engine_interactions_total") == 40
        patterns = ("pleiades_patterns", "pattern_engine_patterns_total", "maya_learn_patterns_total")
        assert [value(told, name) for name in patterns] == [0, 0, 0]
        assert value(told, "maya_learn_processing_seconds_sum") == 8
        assert value(told, "maya_learn_processing_seconds_count") == 2
        assert value(told, "maya_learn_processing_seconds_bucket", le="2.5") == 1
        assert value(told, "maya_learn_errors_total") == 2
        operations = [value(told, f"opencog_operations_{each}") for each in ("total", "successful", "failed")]
        assert operations == [4, 3, 1]
        assert value(told, "opencog_operation_duration_avg") == pytest.approx(3_000)
        assert value(told, "opencog_health_score") == value(told, "pleiades_health_score") == 0.75
        memory_bytes = value(told, "maya_learn_memory_usage_bytes")
        assert memory_bytes == value(told, "opencog_memory_allocated_bytes")
        assert 1_000_000 < (memory_bytes or 0) <= (value(told, "opencog_memory_peak_bytes") or 0) * 1.01
        assert (value(told, "opencog_uptime_seconds") or 0) > 0

    async def test_the_knowledge_graph_is_counted_by_type(self, atlas: Atlas) -> None:
        exporter = Exporter(atlas)
        assert value(await told_by(exporter), "pleiades_graph_unchanged_seconds") is None
        await store_graph(atlas)
        told = await told_by(Exporter(atlas))
        assert value(told, "pleiades_graph_atoms", type="video") == VIDEOS
        assert value(told, "pleiades_graph_atoms", type="pattern") == 0
        assert value(told, "pleiades_graph_links", type="uploaded_by") == VIDEOS
        assert value(told, "pleiades_graph_unchanged_seconds") == 0

    @pytest.mark.parametrize("details", [None, {}, {"score": "high"}, {"score": None}])
    async def test_an_odd_judgement_is_left_out(self, atlas: Atlas, details: Any) -> None:
        await atlas.events.append("maintainer.duty", {"duty": "health", "details": details})
        told = await told_by(Exporter(atlas))
        assert value(told, "pleiades_up") == 1
        assert value(told, "opencog_health_score") is None


class TestServing:
    async def test_prometheus_is_served_and_health_is_told(self, atlas: Atlas) -> None:
        async with serve_metrics(atlas, "127.0.0.1", 0) as url, aiohttp.ClientSession() as session:
            async with session.get(url) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version=")
                assert value(parsed(await answer.read()), "pleiades_up") == 1
            async with session.get(url.replace("/metrics", "/health")) as answer:
                assert (answer.status, await answer.json()) == (200, {"database": "ok", "vault": "ok"})

    async def test_without_the_database_only_that_is_told(
        self, settings_factory: SettingsFactory, own_postgres: ThrowAwayServer
    ) -> None:
        dsn = own_postgres.dsn_of(own_postgres.create_database(own_postgres.migrated_template()))
        settings = settings_factory(database_url=SecretStr(dsn), database={"connect_timeout_s": 0.2})
        async with Atlas.open(settings) as atlas, serve_metrics(atlas, "127.0.0.1", 0) as url:
            own_postgres.stop()
            async with aiohttp.ClientSession() as session:
                async with session.get(url) as answer:
                    told = parsed(await answer.read())
                async with session.get(url.replace("/metrics", "/health")) as answer:
                    assert answer.status == 503
            assert {name for name, _ in told if name.startswith("pleiades_")} == {"pleiades_up"}
            assert value(told, "pleiades_up") == 0
            own_postgres.start()
            assert value(await told_by(Exporter(atlas)), "pleiades_up") == 1

    async def test_a_port_in_use_is_named(self, atlas: Atlas) -> None:
        async with serve_metrics(atlas, "127.0.0.1", 0) as url:
            port = int(url.split(":")[2].partition("/")[0])
            with pytest.raises(MetricsError, match=f"127.0.0.1:{port} .*PLEIADES_METRICS__PORT"):
                async with serve_metrics(atlas, "127.0.0.1", port):
                    pass

    def test_the_command_prints_them_once(self, environment: dict[str, str]) -> None:
        finished = subprocess.run(
            [sys.executable, "-m", "maia", "metrics", "--once"],
            env=environment, capture_output=True, check=True,
        )  # fmt: skip
        assert value(parsed(finished.stdout), "pleiades_up") == 1
