"""Alerts end to end: findings in, incidents in PostgreSQL, messages out over HTTP, each told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from atlas.adapters.incidents import IncidentsDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.errors import DatabaseUnavailable
from atlas.notifier import Notifier
from atlas.testing import NOON, RecordingNotifier, SettingsFactory
from maia.maintainer import outage
from maia.maintainer.alerting import dao_of, handle
from maia.maintenance.findings import Component, Finding, Severity

pytestmark = pytest.mark.integration

ALL = frozenset(Component)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
DISK = Finding(
    component=Component.HOST, check="disk", subject="node-1", severity=Severity.WARNING, value=93.0,
    limit=90.0, text="The disk of node-1 is 93 % full.", command="maia system cleanup",
)  # fmt: skip
BURN = Finding(
    component=Component.LEDGER, check="burn", severity=Severity.ERROR, text="Units burn @everyone."
)
VAULT = Finding(component=Component.VAULT, check="waiting", severity=Severity.WARNING, text="Objects wait.")


@pytest.fixture
def atlas_settings(settings_factory: SettingsFactory, recording_notifier: RecordingNotifier) -> Settings:
    return settings_factory(
        notifier={"urls": [recording_notifier.url]}, maintainer={"alerts": {"recovery_settle_s": 0}}
    )


@pytest.fixture(autouse=True)
def forgetful() -> Any:
    """Lets no test know of another's outage."""
    outage._remembered.clear()
    yield
    outage._remembered.clear()


async def end_claims(sql: Any) -> None:
    await sql.execute("UPDATE incidents SET claim_until = clock_timestamp() WHERE claim IS NOT NULL")


class TestOneMaintainer:
    async def test_people_are_told_once_of_what_begins_and_once_of_its_end(
        self, atlas: Atlas, clock: FixedClock, recording_notifier: RecordingNotifier
    ) -> None:
        first = await handle(atlas, [DISK, BURN, VAULT], ALL)
        clock.advance(5 * MINUTE)
        second = await handle(atlas, [DISK, BURN, VAULT], ALL)
        clock.advance(5 * MINUTE)
        third = await handle(atlas, [], ALL)

        assert first.opened == ("host.disk:node-1", "ledger.burn", "vault.waiting")
        assert sorted(first.problems) == ["host.disk:node-1", "ledger.burn"]
        assert (first.open, second.open, third.open) == (3, 3, 0)
        assert (second.opened, second.problems, second.told) == ((), (), True)
        assert sorted(third.recoveries) == ["host.disk:node-1", "ledger.burn"]
        assert sorted(third.recovered) == ["host.disk:node-1", "ledger.burn", "vault.waiting"]
        problem, recovery = recording_notifier.alerts
        assert (problem["title"], problem["type"]) == (
            "1 error and 1 warning: ledger.burn, host.disk:node-1", "failure",
        )  # fmt: skip
        assert problem["message"].splitlines() == [
            "error: Units burn @\u200beveryone [ledger.burn]",
            "warning: The disk of node-1 is 93 % full [host.disk:node-1]",
            "  Next: maia system cleanup",
            "  Probably because of it: vault.waiting",
        ]
        assert (recovery["title"], recovery["type"]) == ("Recovered: 2 incidents are over", "success")

    async def test_everything_is_on_the_record(self, atlas: Atlas, clock: FixedClock) -> None:
        await handle(atlas, [DISK], ALL)
        clock.advance(HOUR)
        await handle(atlas, [], ALL)

        assert await dao_of(atlas).incidents() == []
        [one] = await dao_of(atlas).incidents(closed=True)
        assert (one.status, one.opened_at, one.recovered_at) == ("closed", NOON, NOON + HOUR)
        assert (one.announcements, one.announced_at, one.value, one.limit_value) == (1, NOON, 93.0, 90.0)
        assert [one] == await dao_of(atlas).between(NOON, NOON + HOUR)
        assert await dao_of(atlas).between(NOON - HOUR, NOON) == []
        events = [(event.kind, event.payload["key"]) for event in await atlas.events.since(0)]
        assert events == [("incident.opened", one.key), ("incident.recovered", one.key)]

    async def test_what_is_acknowledged_is_silent_until_it_is_worse(
        self, atlas: Atlas, clock: FixedClock, recording_notifier: RecordingNotifier
    ) -> None:
        await handle(atlas, [DISK], ALL)
        dao = dao_of(atlas)
        found = await dao.acknowledge("host.disk:node-1", clock.now(), "we know\x00")
        assert found is not None
        assert found.note == "we know"
        assert await dao.acknowledge(str(found.id), clock.now()) is not None
        assert await dao.acknowledge("host.disk:node-2", clock.now()) is None
        clock.advance(9 * HOUR)
        assert (await handle(atlas, [DISK], ALL)).problems == ()
        worse = Finding(
            component=DISK.component, check="disk", subject="node-1", severity=Severity.ERROR, text="Full."
        )
        assert (await handle(atlas, [worse], ALL)).problems == ("host.disk:node-1",)
        [one] = await dao.incidents()
        assert (one.acknowledged_at, one.note, one.announcements) == (None, "we know", 2)
        assert len(recording_notifier.alerts) == 2

    async def test_what_reached_nobody_is_sent_by_the_next_run(
        self, atlas: Atlas, recording_notifier: RecordingNotifier
    ) -> None:
        recording_notifier.status = 503
        assert not (await handle(atlas, [BURN], ALL)).told
        assert not (await handle(atlas, [BURN], ALL)).told
        recording_notifier.status = 200
        assert (await handle(atlas, [BURN], ALL)).problems == ("ledger.burn",)
        assert (await handle(atlas, [BURN], ALL)).problems == ()
        assert len(recording_notifier.alerts) == 3

    async def test_texts_that_postgresql_cannot_store_are_cleaned(self, atlas: Atlas) -> None:
        odd = Finding(
            component=Component.SERVICES, check="failed", subject="x" * 500, severity=Severity.ERROR,
            text="NUL \x00, surrogate \ud800", value=float("inf"), limit=float("nan"),
        )  # fmt: skip
        assert (await handle(atlas, [odd], ALL)).failure is None
        [one] = await dao_of(atlas).incidents()
        assert len(one.key) == 400
        assert "\x00" not in one.text
        assert (one.value, one.limit_value) == (None, None)


class TestKilledMaintainers:
    async def test_one_killed_before_it_told_anybody_is_replaced(
        self,
        atlas: Atlas,
        recording_notifier: RecordingNotifier,
        sql: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        sending = asyncio.Event()

        async def hang(*_: Any, **__: Any) -> bool:
            sending.set()
            await asyncio.Event().wait()
            return True

        with monkeypatch.context() as patched:
            patched.setattr(Notifier, "deliver", hang)
            doomed = asyncio.create_task(handle(atlas, [BURN], ALL))
            await sending.wait()
            doomed.cancel()
            await asyncio.wait([doomed])

        assert (await handle(atlas, [BURN], ALL)).problems == ()
        await end_claims(sql)
        assert (await handle(atlas, [BURN], ALL)).problems == ("ledger.burn",)
        assert (await handle(atlas, [BURN], ALL)).problems == ()
        assert len(recording_notifier.alerts) == 1

    @pytest.mark.parametrize("what", ["problems", "recoveries"])
    async def test_one_killed_after_it_told_people_makes_them_hear_it_twice_at_most(
        self,
        atlas: Atlas,
        recording_notifier: RecordingNotifier,
        sql: Any,
        monkeypatch: pytest.MonkeyPatch,
        what: str,
    ) -> None:
        async def die(*_: Any) -> None:
            raise DatabaseUnavailable("killed here")

        before, after = ([], [BURN]) if what == "problems" else ([BURN], [])
        await handle(atlas, before, ALL)
        recording_notifier.alerts.clear()
        with monkeypatch.context() as patched:
            patched.setattr(IncidentsDAO, f"settle_{what}", die)
            await handle(atlas, after, ALL)
        for _ in range(3):
            await end_claims(sql)
            await handle(atlas, after, ALL)
        assert len(recording_notifier.alerts) == 2

    async def test_claims_whose_end_nobody_knows_grow_longer(
        self, atlas: Atlas, sql: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def die(*_: Any) -> None:
            raise DatabaseUnavailable("killed here")

        monkeypatch.setattr(IncidentsDAO, "settle_problems", die)
        lasting = []
        for _ in range(4):
            await handle(atlas, [BURN], ALL)
            left = "SELECT extract(epoch FROM claim_until - clock_timestamp())::float8 FROM incidents"
            lasting.append(round((await sql.fetchval(left)) / 60))
            await end_claims(sql)
        assert lasting == [2, 4, 8, 16]

    async def test_who_may_have_been_told_is_told_of_the_end(
        self,
        atlas: Atlas,
        recording_notifier: RecordingNotifier,
        sql: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        async def die(*_: Any) -> None:
            raise DatabaseUnavailable("killed here")

        with monkeypatch.context() as patched:
            patched.setattr(IncidentsDAO, "settle_problems", die)
            await handle(atlas, [BURN], ALL)
        assert (await handle(atlas, [], ALL)).recoveries == ()
        await end_claims(sql)
        assert (await handle(atlas, [], ALL)).recoveries == ("ledger.burn",)
        assert [alert["type"] for alert in recording_notifier.alerts] == ["failure", "success"]


class TestSeveralMaintainers:
    @pytest_asyncio.fixture
    async def maintainers(
        self, settings_factory: SettingsFactory, recording_notifier: RecordingNotifier, clock: FixedClock
    ) -> AsyncIterator[list[Atlas]]:
        settings = settings_factory(
            notifier={"urls": [recording_notifier.url]}, maintainer={"alerts": {"recovery_settle_s": 0}}
        )
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(Atlas.open(settings, clock=clock)) for _ in range(3)]

    async def test_at_odds_with_each_other_they_never_deadlock_nor_tell_more_than_they_opened(
        self, maintainers: list[Atlas], recording_notifier: RecordingNotifier, sql: Any
    ) -> None:
        busy = [
            Finding(
                component=Component.HOST, check="cpu", subject=f"{n}", severity=Severity.ERROR, text="Busy."
            )
            for n in range(20)
        ]

        async def work(atlas: Atlas) -> list[str | None]:
            return [(await handle(atlas, busy * (turn % 2), ALL)).failure for turn in range(6)]

        failures = await asyncio.gather(*map(work, maintainers))
        await handle(maintainers[0], [], ALL)

        assert failures == [[None] * 6] * 3
        assert await sql.fetchval("SELECT count(*) FROM incidents WHERE status <> 'closed'") == 0
        opened = await sql.fetchval("SELECT count(*) FROM incidents") / len(busy)
        told = [alert["type"] for alert in recording_notifier.alerts]
        assert told.count("failure") == opened
        assert 1 <= told.count("success") <= opened

    async def test_together_they_open_tell_and_end_everything_once(
        self,
        maintainers: list[Atlas],
        clock: FixedClock,
        recording_notifier: RecordingNotifier,
        sql: Any,
    ) -> None:
        for findings in ([DISK, BURN], [BURN], []):
            ran = await asyncio.gather(*(handle(each, findings, ALL) for each in maintainers * 4))
            assert [each.failure for each in ran] == [None] * 12
            clock.advance(MINUTE)

        titles = sorted(alert["title"] for alert in recording_notifier.alerts)
        assert titles == [
            "1 error and 1 warning: ledger.burn, host.disk:node-1",
            "Recovered: host.disk:node-1",
            "Recovered: ledger.burn",
        ]
        rows = await sql.fetch("SELECT key, status, announcements FROM incidents ORDER BY key")
        assert [tuple(row) for row in rows] == [
            ("host.disk:node-1", "closed", 1), ("ledger.burn", "closed", 1),
        ]  # fmt: skip
        kinds = [event.kind for event in await maintainers[0].events.since(0)]
        assert sorted(kinds) == ["incident.opened"] * 2 + ["incident.recovered"] * 2


class TestDatabaseThatStoresNothing:
    async def test_people_are_told_once_with_what_is_wrong_and_then_that_it_is_over(
        self,
        settings_factory: SettingsFactory,
        recording_notifier: RecordingNotifier,
        clock: FixedClock,
        sql: Any,
    ) -> None:
        settings = settings_factory(notifier={"urls": [recording_notifier.url]})
        name = await sql.fetchval("SELECT current_database()")
        await sql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        async with Atlas.open(settings, clock=clock) as full:
            first = await handle(full, [DISK, BURN], ALL)
            assert not await outage.report_recovery(full)
            clock.advance(5 * MINUTE)
            second = await handle(full, [DISK, BURN], ALL)
        assert first.failure is not None
        assert second.failure is not None
        [alert] = recording_notifier.alerts
        assert alert["title"] == "Error: database.cannot_store"
        assert "read-only" in alert["message"]
        assert "The disk of node-1 is 93 % full. [host.disk:node-1]" in alert["message"]

        await sql.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        silent = Finding(
            component=Component.AGENTS,
            check="silent",
            subject="hunter",
            severity=Severity.ERROR,
            text="Silent.",
        )
        async with Atlas.open(settings, clock=clock) as well:
            assert not await outage.report_recovery(well)
            # What it caused is not told of by itself, nor is its end told of twice.
            assert (await handle(well, [silent], ALL)).problems == ()
            clock.advance(5 * MINUTE)
            assert await outage.report_recovery(well)
            assert not await outage.report_recovery(well)
            for _ in range(2):
                clock.advance(10 * MINUTE)
                assert (await handle(well, [], ALL)).recoveries == ()
            found = await dao_of(well).incidents(closed=True)
        assert [alert["title"] for alert in recording_notifier.alerts] == [
            "Error: database.cannot_store", "Recovered: database.cannot_store",
        ]  # fmt: skip
        assert {(each.key, each.status, each.opened_at) for each in found} == {
            ("database.cannot_store", "closed", NOON), ("agents.silent:hunter", "closed", NOON + 5 * MINUTE),
        }  # fmt: skip
