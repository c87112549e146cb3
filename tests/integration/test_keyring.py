"""The quota ledger and its keys against a real PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest
from pydantic import SecretStr

from atlas import Atlas
from atlas.clock import FixedClock, next_reset, pacific_day, pacific_midnight
from atlas.config import RINGS, ApiKey, RingName, load
from atlas.db import Database, sql_of
from atlas.errors import ConfigError, DataRefused, EmptyKeyRing, NoCurrentAtlas, RingClosed
from atlas.keyring import Grant, KeyRing, KeyState
from atlas.pacing import LAST_CALL
from atlas.testing import RecordingNotifier, SettingsFactory
from atlas.utils import KeyRing as ExportedKeyRing

pytestmark = pytest.mark.integration

MakeRing: TypeAlias = Callable[..., KeyRing]
Sql: TypeAlias = Any

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
TODAY = date(2026, 11, 2)
SPRING, AUTUMN = date(2026, 3, 8), date(2026, 11, 1)


RESERVE = 0.05
SHARES = {
    "hunting": {"search": 0.9, "general": 0.4},
    "tracking": {"stats": 0.9, "general": 0.5},
    "archeology": {"search": 0.1, "stats": 0.1, "general": 0.1},
}
NONE_BUT_SEARCH = {"hunting": {"search": 1}, "archeology": {"search": 0}}
NOTHING_LENT = {"archeology": {"search": 0, "stats": 0, "general": 0}}


def fingerprint(key: str) -> str:
    return ApiKey(key=SecretStr(key)).fingerprint


@pytest.fixture
def ring(atlas: Atlas, settings_factory: SettingsFactory) -> MakeRing:
    """Makes a ring of this test's ledger; each is to the ledger what a process of its own is.

    Unless the test gives shares, archeology has none to lend to the other rings.
    """

    def make(
        name: RingName = "hunting",
        *,
        keys: Sequence[Any] = ("key-one",),
        db: Database | None = None,
        **quota: Any,
    ) -> KeyRing:
        if name != "archeology":
            quota.setdefault("shares", NOTHING_LENT)
        quota = {"reserve": RESERVE} | quota | {"shares": SHARES | quota.get("shares", {})}
        settings = settings_factory(youtube_api_key_pool_json=list(keys), quota=quota)
        return KeyRing(name, atlas=replace(atlas, settings=settings, db=db or atlas.db))

    return make


async def row_of(sql: Sql, bucket: str = "search", day: date = TODAY, project: str = "default") -> Any:
    return await sql.fetchrow(
        "SELECT * FROM quota_ledger WHERE (project, bucket, pacific_day) = ($1, $2, $3)", project, bucket, day
    )


async def spent(
    sql: Sql, bucket: str = "search", day: date = TODAY, project: str = "default"
) -> tuple[int, int]:
    row = await row_of(sql, bucket, day, project)
    return (row["used"], row["reserved"]) if row else (0, 0)


async def closed(ring: KeyRing, bucket: Any = "search", units: int = 1) -> RingClosed:
    """The refusal of `acquire`, which `availability` must foretell."""
    foretold = await ring.availability(bucket, units)
    with pytest.raises(RingClosed) as refusal:
        await ring.acquire(bucket, units)
    assert (foretold.open, foretold.reopens_at, foretold.reason) == (
        False, refusal.value.reopens_at, refusal.value.reason,
    )  # fmt: skip
    return refusal.value


async def spend(ring: KeyRing, bucket: Any = "search", most: int = 10_000) -> int:
    """Make calls until the ring closes; returns how many."""
    for made in range(most):
        try:
            await ring.settle(await ring.acquire(bucket))
        except RingClosed:
            return made
    return most


class TestReserving:
    async def test_units_are_reserved_before_the_call_and_used_after_it(
        self, ring: MakeRing, sql: Sql
    ) -> None:
        hunting = ring()
        grant = await hunting.acquire("search")
        assert (grant.ring, grant.bucket, grant.units, grant.project) == ("hunting", "search", 1, "default")
        assert (grant.key.get_secret_value(), grant.fingerprint) == ("key-one", fingerprint("key-one"))
        assert (grant.day, grant.granted_at) == (TODAY, datetime(2026, 11, 2, 12, tzinfo=UTC))
        assert await spent(sql) == (0, 1)
        await hunting.settle(grant)
        assert await spent(sql) == (1, 0)
        row = await row_of(sql)
        assert (row["hunting_used"], row["tracking_used"], row["archeology_used"]) == (1, 0, 0)

    async def test_units_of_several_buckets_are_reserved_together(self, ring: MakeRing, sql: Sql) -> None:
        hunting = ring()
        search, general = await hunting.acquire_each(["search", "general"])
        assert (search.bucket, general.bucket) == ("search", "general")
        assert (await spent(sql), await spent(sql, "general")) == ((0, 1), (0, 1))
        await hunting.settle(search)
        await hunting.cancel(general)
        assert (await spent(sql), await spent(sql, "general")) == ((1, 0), (0, 0))

    @pytest.mark.parametrize("full", ["search", "general"])
    async def test_of_several_buckets_either_all_pay_or_none(
        self, ring: MakeRing, sql: Sql, full: str
    ) -> None:
        hunting = ring(limits={full: 0})
        with pytest.raises(RingClosed, match="give it none"):
            await hunting.acquire_each(["search", "general"])
        assert (await spent(sql), await spent(sql, "general")) == ((0, 0), (0, 0))

    async def test_several_buckets_may_be_paid_for_by_several_projects(
        self, ring: MakeRing, sql: Sql
    ) -> None:
        keys = [{"key": "key-a", "project": "a"}, {"key": "key-b", "project": "b"}]
        projects = {"a": {"search": 100, "general": 0}, "b": {"search": 0, "general": 100}}
        hunting = ring(keys=keys, projects=projects, separate_projects_permitted=True)
        grants = await hunting.acquire_each(["search", "general"])
        assert [grant.project for grant in grants] == ["a", "b"]

    async def test_a_probe_of_several_buckets_is_one_call(
        self, ring: MakeRing, clock: FixedClock, sql: Sql
    ) -> None:
        hunting = ring(failures_to_open=1)
        await hunting.fail(await hunting.acquire("search"), "HTTP 503")
        clock.advance(HOUR)
        search, general = await hunting.acquire_each(["search", "general"])
        assert (search.probe is not None, general.probe) == (True, None)
        with pytest.raises(RingClosed, match="half-open"):
            await ring().acquire_each(["search", "general"])
        await hunting.fail(search, "HTTP 503")
        await hunting.cancel(general)
        [key] = (await hunting.ledger())[0].keys
        assert (key.state, await spent(sql, "general")) == (KeyState.OPEN, (0, 0))

    async def test_a_failed_call_is_used_and_one_never_sent_is_not(self, ring: MakeRing, sql: Sql) -> None:
        hunting = ring()
        await hunting.fail(await hunting.acquire("search"), "HTTP 500")
        await hunting.cancel(await hunting.acquire("search"))
        assert await spent(sql) == (1, 0)

    async def test_the_units_of_a_process_that_died_stay_reserved(self, ring: MakeRing, sql: Sql) -> None:
        await ring().acquire("search")
        assert await spend(ring(pacing=False)) == 84
        assert await spent(sql) == (84, 1)

    async def test_only_the_first_end_of_a_grant_moves_units(self, ring: MakeRing, sql: Sql) -> None:
        hunting = ring()
        other = await hunting.acquire("search")
        grant = await hunting.acquire("search")
        await hunting.settle(grant)
        await hunting.cancel(grant)
        await hunting.settle(grant)
        await hunting.fail(grant, "late")
        assert await spent(sql) == (1, 1)
        await hunting.close_day(grant, "quotaExceeded")
        assert await spent(sql) == (1, 1)
        assert not (await hunting.availability("search")).open
        await hunting.cancel(other)
        assert await spent(sql) == (1, 0)

    async def test_a_call_costs_at_least_one_unit(self, ring: MakeRing) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            await ring().acquire("search", 0)

    async def test_a_tiny_limit_is_shared_reserved_and_spent_to_the_unit(
        self, ring: MakeRing, sql: Sql
    ) -> None:
        assert await spend(ring(pacing=False)) == 85
        refusal = await closed(ring(pacing=False))
        assert refusal.reopens_at == next_reset(datetime(2026, 11, 2, 12, tzinfo=UTC))
        assert refusal.reason == "its 85 units for the day are spent or reserved"
        assert await spend(ring("archeology", pacing=False)) == 9
        assert await spent(sql) == (94, 0)

    async def test_the_projects_limit_binds_whatever_the_shares_once_were(
        self, ring: MakeRing, sql: Sql
    ) -> None:
        whole = {"hunting": {"search": 1}, "archeology": {"search": 0}}
        assert await spend(ring("hunting", pacing=False, reserve=0, shares=whole)) == 100
        refusal = await closed(ring("archeology", pacing=False, reserve=0))
        assert refusal.reason == "the 100 units a day of project 'default' are spent or reserved"
        assert refusal.reopens_at == next_reset(datetime(2026, 11, 2, 12, tzinfo=UTC))
        assert await spent(sql) == (100, 0)

    async def test_rings_do_not_touch_each_others_shares(self, ring: MakeRing) -> None:
        assert await spend(ring("hunting", pacing=False)) == 85
        assert await spend(ring("archeology", pacing=False)) == 9

    async def test_a_ring_without_a_share_says_which_setting_leaves_it_none(self, ring: MakeRing) -> None:
        refusal = await closed(ring("tracking"))
        assert refusal.reopens_at is None
        assert "PLEIADES_QUOTA__SHARES__TRACKING__SEARCH" in str(refusal)
        assert "until you act" in str(refusal)

    async def test_more_units_than_a_day_holds_are_never_granted(self, ring: MakeRing) -> None:
        refusal = await closed(ring(), units=86)
        assert (refusal.reopens_at, refusal.reason) == (None, "86 units at once are more than its 85 a day")


class TestCrowds:
    """Processes that saw the same room and wait for the same row: the row as it is then decides."""

    callers = 50

    @pytest.fixture
    async def crowded(self, settings_factory: SettingsFactory) -> AsyncIterator[Database]:
        async with Database.open(settings_factory(database={"pool_size": self.callers})) as db:
            yield db

    async def grants_after(
        self, change: str, rings: Sequence[KeyRing], sql: Sql, database_url: str
    ) -> list[Grant]:
        """What each of `rings` is granted, having waited for `change` of the ledger to commit."""
        observer = await asyncpg.connect(database_url)
        async with sql.transaction():
            await sql.execute(change)
            calls = [asyncio.create_task(ring.acquire("search")) for ring in rings]
            await self.all_wait(observer, len(rings))
        await observer.close()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, (Grant, RingClosed)) for answer in answers), answers
        return [answer for answer in answers if isinstance(answer, Grant)]

    async def all_wait(self, observer: Any, callers: int) -> None:
        """Return once so many wait for a lock in this database."""
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = $1"
        name = await observer.fetchval("SELECT current_database()")
        while await observer.fetchval(waiting, name) < callers:
            await asyncio.sleep(0.01)

    @pytest.mark.parametrize(
        ("change", "granted"),
        [
            ("UPDATE quota_ledger SET reason = reason", 84),
            ("UPDATE quota_ledger SET hunting_used = 70", 14),
            ("UPDATE quota_ledger SET hunting_used = 84", 0),
            ("UPDATE quota_ledger SET archeology_used = 90", 9),
            ("UPDATE quota_ledger SET closed_until = '2026-11-02 12:00:01Z', reason = 'closed'", 0),
            ("UPDATE quota_ledger SET closed_until = '2026-11-02 12:00:00Z', reason = 'past'", 84),
        ],
    )
    async def test_it_gets_exactly_what_is_left(
        self, ring: MakeRing, crowded: Database, sql: Sql, database_url: str, change: str, granted: int
    ) -> None:
        await ring().acquire("search")
        rings = [ring(pacing=False, db=crowded) for _ in range(self.callers)]
        grants = await self.grants_after(change, rings, sql, database_url)
        assert len(grants) == min(granted, self.callers)
        assert (await row_of(sql))["hunting_reserved"] == 1 + len(grants)

    @pytest.mark.parametrize("archeology_used", [0, 80])
    async def test_it_gets_exactly_the_first_units_of_a_day(
        self, ring: MakeRing, crowded: Database, sql: Sql, database_url: str, archeology_used: int
    ) -> None:
        change = f"""INSERT INTO quota_ledger (project, bucket, pacific_day, archeology_used)
                     VALUES ('default', 'search', '{TODAY}', {archeology_used})"""
        rings = [ring(db=crowded) for _ in range(self.callers)]
        grants = await self.grants_after(change, rings, sql, database_url)
        assert len(grants) == min(22, 100 - archeology_used)
        assert await spent(sql) == (archeology_used, len(grants))

    async def test_it_keeps_nothing_of_what_it_gets_only_in_part(
        self, ring: MakeRing, crowded: Database, sql: Sql, database_url: str
    ) -> None:
        await ring().settle(await ring().acquire("general"))
        await ring().settle(await ring().acquire("search"))
        rings = [ring(pacing=False, db=crowded) for _ in range(self.callers)]
        observer = await asyncpg.connect(database_url)
        async with sql.transaction():
            await sql.execute("UPDATE quota_ledger SET hunting_used = 80 WHERE bucket = 'search'")
            buckets: list[Any] = ["search", "general"]
            calls = [asyncio.create_task(each.acquire_each(buckets)) for each in rings]
            await self.all_wait(observer, len(rings))
        await observer.close()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, (list, RingClosed)) for answer in answers), answers
        assert sum(isinstance(answer, list) for answer in answers) == 5
        assert (await spent(sql), await spent(sql, "general")) == ((80, 5), (1, 5))

    async def test_it_makes_the_first_reservation_of_a_day_once(
        self, ring: MakeRing, crowded: Database, sql: Sql
    ) -> None:
        rings = [ring(db=crowded) for _ in range(self.callers)]
        await asyncio.gather(*(each.availability("search") for each in rings))
        answers = await asyncio.gather(*(each.acquire("search") for each in rings), return_exceptions=True)
        assert sum(isinstance(answer, Grant) for answer in answers) == 22
        assert await spent(sql) == (0, 22)

    async def test_one_of_it_probes(
        self, ring: MakeRing, crowded: Database, clock: FixedClock, sql: Sql
    ) -> None:
        hunting = ring(failures_to_open=1)
        await hunting.fail(await hunting.acquire("search"), "HTTP 503")
        clock.advance(MINUTE)
        rings = [ring(db=crowded) for _ in range(self.callers)]
        await asyncio.gather(*(each.availability("search") for each in rings))
        answers = await asyncio.gather(*(each.acquire("search") for each in rings), return_exceptions=True)
        assert all(isinstance(answer, (Grant, RingClosed)) for answer in answers)
        [probe] = [answer for answer in answers if isinstance(answer, Grant)]
        assert probe.probe is not None
        assert await spent(sql) == (1, 1)

    async def test_a_probe_seen_free_and_taken_meanwhile_is_left_alone(
        self, ring: MakeRing, clock: FixedClock, sql: Sql
    ) -> None:
        hunting = ring(failures_to_open=1)
        await hunting.fail(await hunting.acquire("search"), "HTTP 503")
        clock.advance(MINUTE)
        async with sql.transaction():
            await sql.execute("SELECT FROM api_keys FOR UPDATE")
            refusal = await closed_roughly(ring(), open_after_all=True)
            assert refusal.reason == "other processes use every unit as soon as it is free"
            assert refusal.reopens_at == clock.now() + SECOND
        assert (await ring().acquire("search")).probe is not None


class TestPace:
    async def test_units_are_spread_over_the_day(self, ring: MakeRing, clock: FixedClock) -> None:
        hunting = ring()
        for hour in range(0, 24, 3):
            clock.instant = pacific_midnight(TODAY) + hour * HOUR
            await spend(hunting)
            line = (await hunting.ledger())[0]
            assert line.used == line.allowed == int(85 * min(1, hour / 24 + 0.1))
        assert line.used == 82
        clock.instant = pacific_midnight(TODAY) + 24 * HOUR - LAST_CALL
        await spend(hunting)
        assert (await hunting.ledger())[0].left == 0

    @pytest.mark.parametrize(("day", "hours"), [(SPRING, 23), (TODAY, 24), (AUTUMN, 25)])
    async def test_a_paced_ring_opens_at_the_very_instant_it_tells(
        self, ring: MakeRing, clock: FixedClock, day: date, hours: int, sql: Sql
    ) -> None:
        hunting = ring(limits={"search": 40}, reserve=0, burst=0)
        clock.instant = pacific_midnight(day)
        granted = [await self.wait_and_call(hunting, clock) for _ in range(37)]
        of_the_day = pacific_midnight(day + timedelta(days=1)) - pacific_midnight(day)
        assert of_the_day == hours * HOUR
        assert [instant.date() for instant in granted[:35]] == [
            (pacific_midnight(day) + n * of_the_day / 36).date() for n in range(1, 36)
        ]
        assert granted[17] == pacific_midnight(day) + of_the_day / 2
        assert granted[35] == pacific_midnight(day) + of_the_day - LAST_CALL
        assert granted[36] > pacific_midnight(day) + of_the_day
        assert await spent(sql, day=day) == (36, 0)

    async def wait_and_call(self, hunting: KeyRing, clock: FixedClock) -> datetime:
        refusal = await closed(hunting)
        assert refusal.reopens_at is not None
        clock.instant = refusal.reopens_at - MICROSECOND
        await closed(hunting)
        clock.advance(MICROSECOND)
        await hunting.settle(await hunting.acquire("search"))
        return clock.now()

    async def test_a_first_allowance_of_nothing_writes_nothing(
        self, ring: MakeRing, clock: FixedClock, sql: Sql
    ) -> None:
        clock.instant = pacific_midnight(TODAY)
        refusal = await closed(ring(limits={"search": 10}))
        assert refusal.reason == "pacing allows no more by now: 0 of its 8 units are spent or reserved"
        assert refusal.reopens_at == pacific_midnight(TODAY) + 36 * MINUTE
        assert await row_of(sql) is None


class TestMidnight:
    async def test_the_day_rolls_over(self, ring: MakeRing, clock: FixedClock, sql: Sql) -> None:
        hunting = ring(pacing=False)
        await spend(hunting)
        clock.instant = next_reset(clock.now()) - MICROSECOND
        await closed(hunting)
        clock.advance(MICROSECOND)
        assert await spend(hunting) == 85
        assert await spent(sql) == await spent(sql, day=TODAY + timedelta(days=1)) == (85, 0)

    async def test_a_call_across_midnight_counts_on_both_days(
        self, ring: MakeRing, clock: FixedClock, sql: Sql
    ) -> None:
        hunting = ring()
        clock.instant = next_reset(clock.now()) - SECOND
        answered, failed, unsent = [await hunting.acquire("search") for _ in range(3)]
        clock.advance(2 * SECOND)
        await hunting.settle(answered)
        await hunting.fail(failed, "HTTP 503")
        await hunting.cancel(unsent)
        assert await spent(sql) == (2, 0)
        assert await spent(sql, day=TODAY + timedelta(days=1)) == (2, 0)

    async def test_a_clock_set_back_does_not_confuse_the_days(
        self, ring: MakeRing, clock: FixedClock, sql: Sql
    ) -> None:
        hunting = ring(pacing=False)
        clock.instant = next_reset(clock.now()) + SECOND
        grant = await hunting.acquire("search")
        clock.advance(-2 * SECOND)
        await hunting.settle(grant)
        assert await spent(sql) == (0, 0)
        assert await spent(sql, day=TODAY + timedelta(days=1)) == (1, 0)


class TestClosings:
    @pytest.mark.parametrize(("day", "hours"), [(SPRING, 23), (TODAY, 24), (AUTUMN, 25)])
    async def test_a_spent_day_closes_every_ring_until_pacific_midnight(
        self, ring: MakeRing, clock: FixedClock, day: date, hours: int
    ) -> None:
        midnight = pacific_midnight(day)
        clock.instant = midnight + HOUR
        hunting = ring()
        reset = await hunting.close_day(await hunting.acquire("search"), "HTTP 403 quotaExceeded")
        assert reset == midnight + hours * HOUR
        for instant in (clock.now(), midnight + 12 * HOUR, reset - MICROSECOND):
            clock.instant = instant
            refusal = await closed(ring("archeology"))
            assert refusal.reason == "project 'default': HTTP 403 quotaExceeded"
            assert (await ring().availability("general")).open
        clock.instant = reset
        assert (await ring("hunting").availability("search")).open

    async def test_a_reset_that_admits_nothing_yet_is_not_promised(
        self, ring: MakeRing, clock: FixedClock
    ) -> None:
        hunting = ring(limits={"search": 10}, burst=0)
        await hunting.close_day(await hunting.acquire("search"), "quotaExceeded")
        reset = next_reset(clock.now())
        refusal = await closed(hunting)
        assert refusal.reopens_at == reset + 3 * HOUR
        clock.instant = reset
        assert (await closed(hunting)).reopens_at == reset + 3 * HOUR

    async def test_a_closing_survives_a_restart(
        self, ring: MakeRing, settings_factory: SettingsFactory, clock: FixedClock
    ) -> None:
        hunting = ring()
        await hunting.close_day(await hunting.acquire("search"), "quotaExceeded")
        settings = settings_factory(youtube_api_key_pool_json=["key-two"], quota={"shares": SHARES})
        async with Atlas.open(settings, clock=clock):
            assert (await closed(KeyRing("archeology"))).reason == "project 'default': quotaExceeded"

    async def test_yesterdays_closing_does_not_close_today(
        self, ring: MakeRing, clock: FixedClock, sql: Sql
    ) -> None:
        hunting = ring()
        reset = next_reset(clock.now())
        clock.instant = reset - SECOND
        grant = await hunting.acquire("search")
        clock.instant = reset + SECOND
        assert await hunting.close_day(grant, "quotaExceeded") == reset
        assert (await hunting.availability("search")).open
        assert await spent(sql, day=TODAY + timedelta(days=1)) == (1, 0)

    async def test_a_reset_that_is_late_does_not_cost_the_new_day(
        self, ring: MakeRing, clock: FixedClock
    ) -> None:
        hunting = ring()
        reset = await hunting.close_day(await hunting.acquire("search"), "quotaExceeded")
        clock.instant = reset
        early = await hunting.acquire("search")
        assert await hunting.close_day(early, "quotaExceeded") == reset + 10 * MINUTE
        assert (await closed(hunting)).reopens_at == reset + 10 * MINUTE
        clock.instant = reset + 10 * MINUTE
        tomorrow = next_reset(clock.now())
        assert await hunting.close_day(await hunting.acquire("search"), "quotaExceeded") == tomorrow

    async def test_a_day_spent_at_dawn_after_an_open_one_is_closed_whole(
        self, ring: MakeRing, clock: FixedClock
    ) -> None:
        hunting = ring()
        await hunting.cool_down(await hunting.acquire("search"), 60, "slow down")
        clock.instant = next_reset(clock.now())
        tomorrow = next_reset(clock.now())
        assert await hunting.close_day(await hunting.acquire("search"), "quotaExceeded") == tomorrow

    async def test_a_cool_down_ends_exactly_when_told(self, ring: MakeRing, clock: FixedClock) -> None:
        hunting = ring()
        start = clock.now()
        until = await hunting.cool_down(await hunting.acquire("search"), 37.5, "HTTP 429 rateLimitExceeded")
        assert until == start + timedelta(seconds=37.5)
        assert (await closed(ring("archeology"))).reopens_at == until
        assert (await hunting.availability("general")).open
        clock.instant = until - MICROSECOND
        await closed(ring())
        clock.instant = until
        assert (await ring().availability("search")).open

    async def test_a_cool_down_across_midnight_holds_on_the_new_day(
        self, ring: MakeRing, clock: FixedClock, sql: Sql
    ) -> None:
        hunting = ring()
        reset = next_reset(clock.now())
        clock.instant = reset - 10 * SECOND
        until = await hunting.cool_down(await hunting.acquire("search"), 60, "slow down")
        assert (await closed(hunting)).reopens_at == until == reset + 50 * SECOND
        clock.instant = reset + SECOND
        assert (await closed(hunting)).reopens_at == until
        clock.instant = until
        assert (await hunting.availability("search")).open
        assert await spent(sql) == (1, 0)

    async def test_a_shorter_closing_never_shortens_a_longer_one(
        self, ring: MakeRing, clock: FixedClock
    ) -> None:
        hunting = ring()
        grants = [await hunting.acquire("search") for _ in range(5)]
        start, reset = clock.now(), next_reset(clock.now())
        assert await hunting.cool_down(grants[0], 60, "first") == start + 60 * SECOND
        assert await hunting.cool_down(grants[1], 30, "second") == start + 60 * SECOND
        assert (await closed(hunting)).reason.endswith("first")
        assert await hunting.cool_down(grants[2], 90, "third") == start + 90 * SECOND
        assert (await closed(hunting)).reason.endswith("third")
        assert await hunting.close_day(grants[3], "day") == reset
        assert await hunting.cool_down(grants[4], 5, "fifth") == reset
        refusal = await closed(hunting)
        assert (refusal.reopens_at, refusal.reason) == (reset, "project 'default': day")

    async def test_a_cool_down_that_did_not_help_is_doubled(self, ring: MakeRing, clock: FixedClock) -> None:
        hunting = ring(pacing=False, cool_down_s=60)
        for expected_s in (60, 120, 240, 480, 960, 1920, 3600, 3600):
            grant = await hunting.acquire("search")
            until = await hunting.cool_down(grant, None, "slow down")
            assert expected_s <= (until - clock.now()).total_seconds() <= 1.25 * expected_s
            clock.instant = until
        clock.advance(2 * HOUR)
        until = await hunting.cool_down(await hunting.acquire("search"), None, "slow down")
        assert 60 <= (until - clock.now()).total_seconds() <= 75

    async def test_calls_refused_together_cool_down_once(self, ring: MakeRing, clock: FixedClock) -> None:
        hunting = ring(cool_down_s=60)
        grants = [await hunting.acquire("search") for _ in range(8)]
        ends = await asyncio.gather(*(hunting.cool_down(grant, None, "slow down") for grant in grants))
        assert max(ends) <= clock.now() + 75 * SECOND

    @pytest.mark.parametrize(
        ("told_s", "held_s"),
        [(0, 1), (-5, 1), (float("nan"), 1), (10**12, 24 * 3600), (float("inf"), 24 * 3600)],
    )
    async def test_an_absurd_retry_after_is_bounded(
        self, ring: MakeRing, clock: FixedClock, told_s: float, held_s: int
    ) -> None:
        hunting = ring()
        until = await hunting.cool_down(await hunting.acquire("search"), told_s, "slow down")
        assert until == clock.now() + timedelta(seconds=held_s)


class TestCircuit:
    async def open_circuit(self, ring: KeyRing, failures: int = 5) -> None:
        grants = [await ring.acquire("general") for _ in range(failures)]
        for grant in grants:
            await ring.fail(grant, "HTTP 503")

    async def state(self, ring: KeyRing, nth: int = 0) -> tuple[KeyState, int]:
        key = (await ring.ledger())[0].keys[nth]
        return key.state, key.failures

    async def test_it_opens_rests_probes_and_closes(
        self, ring: MakeRing, clock: FixedClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        hunting = ring(open_s=60)
        start = clock.now()
        await self.open_circuit(hunting, failures=4)
        assert await self.state(hunting) == (KeyState.ACTIVE, 4)
        await hunting.fail(await hunting.acquire("search"), "HTTP 503")
        assert await self.state(hunting) == (KeyState.OPEN, 5)
        assert "rests until 2026-11-02 12:01:00 UTC: HTTP 503" in caplog.text

        refusal = await closed(ring("archeology"))
        assert refusal.reopens_at == start + 60 * SECOND
        assert refusal.reason == f"no key is usable: {fingerprint('key-one')} is open (HTTP 503)"
        clock.instant = start + 60 * SECOND - MICROSECOND
        await closed(hunting)

        clock.advance(MICROSECOND)
        probe = await hunting.acquire("search")
        assert probe.probe is not None
        assert await self.state(hunting) == (KeyState.HALF_OPEN, 5)
        assert "half-open" in (await closed_roughly(hunting)).reason
        await hunting.settle(probe)
        assert await self.state(hunting) == (KeyState.ACTIVE, 0)
        assert (await hunting.acquire("search")).probe is None

    async def test_a_success_in_between_starts_the_count_anew(self, ring: MakeRing) -> None:
        hunting = ring()
        await self.open_circuit(hunting, failures=4)
        await hunting.settle(await hunting.acquire("search"))
        await self.open_circuit(hunting, failures=4)
        assert await self.state(hunting) == (KeyState.ACTIVE, 4)

    async def test_each_failed_probe_doubles_the_rest_up_to_an_hour(
        self, ring: MakeRing, clock: FixedClock
    ) -> None:
        hunting = ring(open_s=60)
        await self.open_circuit(hunting)
        for rest_s in (60, 120, 240, 480, 960, 1920, 3600, 3600):
            reopens_at = (await closed(hunting)).reopens_at
            assert reopens_at == clock.now() + rest_s * SECOND
            clock.instant = reopens_at
            await hunting.fail(await hunting.acquire("search"), "HTTP 503")

    async def test_a_rest_longer_than_an_hour_is_kept(self, ring: MakeRing, clock: FixedClock) -> None:
        hunting = ring(open_s=7200)
        await self.open_circuit(hunting)
        assert (await closed(hunting)).reopens_at == clock.now() + 2 * HOUR
        clock.advance(2 * HOUR)
        await hunting.fail(await hunting.acquire("search"), "HTTP 503")
        assert (await closed(hunting)).reopens_at == clock.now() + 2 * HOUR

    async def test_a_prober_that_died_is_replaced(self, ring: MakeRing, clock: FixedClock, sql: Sql) -> None:
        hunting = ring()
        await self.open_circuit(hunting)
        clock.advance(MINUTE)
        lost = await hunting.acquire("search")
        refusal = await closed_roughly(ring())
        assert refusal.reopens_at is not None
        assert clock.now() < refusal.reopens_at <= clock.now() + 45 * SECOND
        await self.outlive_the_prober(sql)
        probe = await ring().acquire("search")
        assert probe.probe not in (None, lost.probe)

        await hunting.fail(lost, "it had only been slow")
        assert await self.state(hunting) == (KeyState.HALF_OPEN, 6)
        await hunting.settle(probe)
        assert await self.state(hunting) == (KeyState.ACTIVE, 0)

    async def outlive_the_prober(self, sql: Sql) -> None:
        assert await sql.execute(
            "UPDATE api_keys SET probe_until = clock_timestamp() - interval '1 ms' WHERE state = 'half-open'"
        ) == "UPDATE 1"  # fmt: skip

    async def test_a_probe_never_sent_leaves_its_turn_to_the_next(
        self, ring: MakeRing, clock: FixedClock, sql: Sql
    ) -> None:
        hunting = ring()
        await self.open_circuit(hunting)
        clock.advance(MINUTE)
        await hunting.cancel(await hunting.acquire("search"))
        assert await self.state(hunting) == (KeyState.OPEN, 5)
        assert (await ring().acquire("search")).probe is not None
        assert await spent(sql) == (0, 1)

    async def test_late_failures_do_not_lengthen_the_rest(self, ring: MakeRing, clock: FixedClock) -> None:
        hunting = ring()
        await self.open_circuit(hunting, failures=8)
        assert await self.state(hunting) == (KeyState.OPEN, 8)
        assert (await closed(hunting)).reopens_at == clock.now() + MINUTE

    async def test_a_circuit_without_a_free_unit_is_not_probed(
        self, ring: MakeRing, clock: FixedClock
    ) -> None:
        hunting = ring(limits={"search": 2}, reserve=0, pacing=False)
        await hunting.settle(await hunting.acquire("search"))
        await self.open_circuit(hunting)
        clock.advance(MINUTE)
        await closed(hunting)
        assert (await self.state(hunting))[0] == KeyState.OPEN

    async def test_the_circuit_outlasts_the_process(self, ring: MakeRing) -> None:
        await self.open_circuit(ring(failures_to_open=2), failures=2)
        assert await self.state(ring("tracking")) == (KeyState.OPEN, 2)
        await closed(ring())


async def closed_roughly(ring: KeyRing, *, open_after_all: bool = False) -> RingClosed:
    """As `closed`, where the reopening follows the database's own clock, or somebody is quicker."""
    with pytest.raises(RingClosed) as refusal:
        await ring.acquire("search")
    assert (await ring.availability("search")).open is open_after_all
    return refusal.value


class TestKeys:
    keys = ("key-one", "key-two", "key-three")

    async def served(self, ring: KeyRing, calls: int) -> dict[str, int]:
        served: dict[str, int] = {}
        for _ in range(calls):
            grant = await ring.acquire("general")
            served[grant.fingerprint] = served.get(grant.fingerprint, 0) + 1
            await ring.settle(grant)
        return served

    async def test_they_serve_in_turn(self, ring: MakeRing) -> None:
        served = await self.served(ring(keys=self.keys), 12)
        assert served == {fingerprint(key): 4 for key in self.keys}

    async def test_a_new_key_does_not_make_up_for_other_days(self, ring: MakeRing, clock: FixedClock) -> None:
        await self.served(ring(keys=self.keys[:2]), 10)
        clock.advance(timedelta(days=1))
        assert await self.served(ring(keys=self.keys), 9) == {fingerprint(key): 3 for key in self.keys}

    async def test_one_that_failed_waits_behind_the_others(self, ring: MakeRing) -> None:
        hunting = ring(keys=self.keys)
        failed = await hunting.acquire("general")
        await hunting.fail(failed, "HTTP 503")
        assert failed.fingerprint not in await self.served(hunting, 6)

    async def test_others_serve_while_one_rests_and_it_is_tried_again(
        self, ring: MakeRing, clock: FixedClock
    ) -> None:
        hunting = ring(keys=self.keys[:2], failures_to_open=1)
        failed = await hunting.acquire("general")
        await hunting.fail(failed, "HTTP 503")
        assert failed.fingerprint not in await self.served(hunting, 3)
        clock.advance(MINUTE)
        probe = await hunting.acquire("general")
        assert (probe.fingerprint, probe.probe is None) == (failed.fingerprint, False)
        assert failed.fingerprint not in await self.served(hunting, 3)
        await hunting.settle(probe)
        assert failed.fingerprint in await self.served(hunting, 3)

    async def test_more_keys_are_not_more_quota(self, ring: MakeRing) -> None:
        assert await spend(ring(keys=self.keys, pacing=False)) == 85

    async def test_a_disabled_key_stays_out_of_every_ring_until_it_is_enabled(
        self, ring: MakeRing, sql: Sql
    ) -> None:
        hunting = ring(keys=self.keys[:2], failures_to_open=1)
        grant, in_flight = await hunting.acquire("search"), await hunting.acquire("search")
        while in_flight.fingerprint != grant.fingerprint:
            in_flight = await hunting.acquire("search")
        dead = grant.fingerprint
        await hunting.disable_key(grant, "YouTube does not know the key (API_KEY_INVALID)")
        assert dead not in await self.served(ring("archeology", keys=self.keys[:2]), 5)

        await hunting.fail(in_flight, "HTTP 503")
        await hunting.settle(in_flight)
        key = next(key for key in (await hunting.ledger())[0].keys if key.fingerprint == dead)
        assert (key.state, key.reason) == (
            KeyState.DISABLED, "YouTube does not know the key (API_KEY_INVALID)",
        )  # fmt: skip

        await hunting.enable_key(dead)
        assert dead in await self.served(hunting, 7)

    async def test_a_ring_of_disabled_keys_stays_closed_and_says_why(self, ring: MakeRing) -> None:
        hunting = ring()
        await hunting.disable_key(await hunting.acquire("search"), "revoked")
        refusal = await closed(ring("tracking"), "general")
        assert refusal.reopens_at is None
        assert refusal.reason == f"no key is usable: {fingerprint('key-one')} is disabled (revoked)"

    async def test_whoever_operates_a_disabled_key_is_alerted(
        self, recording_notifier: RecordingNotifier, ring: MakeRing
    ) -> None:
        hunting = ring(keys=["sesame-open-thyself"])
        grants = [await hunting.acquire("search") for _ in range(3)]
        for grant in grants:
            await hunting.disable_key(grant, "the key sesame-open-thyself was revoked")
        [alert] = recording_notifier.alerts
        name = fingerprint("sesame-open-thyself")
        assert alert["title"] == f"API key {name} is disabled"
        assert f"the key {name} was revoked" in alert["message"]
        assert f"maia keys --enable {name}" in alert["message"]
        assert "sesame" not in repr(alert)

    async def test_an_unknown_key_cannot_be_enabled(self, ring: MakeRing) -> None:
        with pytest.raises(ConfigError, match="no key has the fingerprint 'key-0000'"):
            await ring().enable_key("key-0000")

    async def test_a_key_that_moved_to_another_project_is_known_there(self, ring: MakeRing, sql: Sql) -> None:
        for project in ("old", "new"):
            await ring(keys=[{"key": "key-one", "project": project}]).acquire("search")
        assert await sql.fetchval("SELECT project FROM api_keys") == "new"
        assert await spent(sql, project="old") == await spent(sql, project="new") == (0, 1)

    async def test_a_secret_is_shown_nowhere(
        self, ring: MakeRing, caplog: pytest.LogCaptureFixture, sql: Sql
    ) -> None:
        caplog.set_level(logging.DEBUG)
        hunting = ring(keys=["sesame-open-thyself"], failures_to_open=1)
        reason = "GET /?key=sesame-open-thyself failed\0\ud800" + "." * 1000
        grants = [await hunting.acquire("search") for _ in range(4)]
        await hunting.fail(grants[0], reason)
        await hunting.cool_down(grants[1], 5, reason)
        await hunting.close_day(grants[2], reason)
        await hunting.disable_key(grants[3], reason)
        refusal = await closed(hunting)
        shown = [repr(hunting), repr(grants), str(grants), str(refusal), repr(refusal), caplog.text]
        shown += [repr(await hunting.ledger()), repr(await hunting.availability("search"))]
        for table in ("quota_ledger", "api_keys"):
            rows = await sql.fetch(f"SELECT t::text FROM {table} AS t")
            shown += [row["t"] for row in rows]
        assert fingerprint("sesame-open-thyself") in str(refusal)
        assert not [text for text in shown if "sesame" in text]


class TestProjects:
    keys = (
        {"key": "key-one", "project": "one"},
        {"key": "key-two", "project": "two"},
    )

    def ring(self, ring: MakeRing, **quota: Any) -> KeyRing:
        return ring(keys=self.keys, separate_projects_permitted=True, **quota)

    def test_several_are_refused_unless_they_are_permitted(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError, match="PLEIADES_QUOTA__SEPARATE_PROJECTS_PERMITTED=true"):
            load(youtube_api_key_pool_json=list(self.keys))

    async def test_permitted_ones_are_logged(self, ring: MakeRing, caplog: pytest.LogCaptureFixture) -> None:
        self.ring(ring)
        [record] = [record for record in caplog.records if record.name == "atlas.keyring"]
        assert record.levelno == logging.WARNING
        assert "(one, two)" in record.getMessage()

    async def test_the_one_with_most_room_serves(self, ring: MakeRing, sql: Sql) -> None:
        hunting = self.ring(ring, pacing=False, projects={"two": {"search": 200}})
        assert await spend(hunting, most=85) == 85
        assert await spent(sql, project="one") == (0, 0)
        assert await spend(hunting) == 171
        assert (await spent(sql, project="one"), await spent(sql, project="two")) == ((85, 0), (171, 0))
        assert await row_of(sql) is None

    async def test_another_serves_while_one_is_closed(self, ring: MakeRing) -> None:
        hunting = self.ring(ring)
        grant = await hunting.acquire("search")
        await hunting.close_day(grant, "quotaExceeded")
        other = await hunting.acquire("search")
        assert other.project != grant.project
        until = await hunting.cool_down(other, 30, "slow down")
        refusal = await closed(hunting)
        assert (refusal.reopens_at, refusal.reason) == (until, f"project {other.project!r}: slow down")

    async def test_another_serves_while_the_key_of_one_rests(self, ring: MakeRing) -> None:
        hunting = self.ring(ring, failures_to_open=1, projects={"one": {"search": 200}})
        await hunting.fail(await hunting.acquire("search"), "HTTP 503")
        assert (await hunting.acquire("search")).project == "two"

    async def test_a_crowd_is_served_by_whichever_has_room(
        self, ring: MakeRing, settings_factory: SettingsFactory, sql: Sql
    ) -> None:
        async with Database.open(settings_factory(database={"pool_size": 30})) as db:
            rings = [
                self.ring(ring, limits={"search": 10}, pacing=False, reserve=0, db=db) for _ in range(30)
            ]
            answers = await asyncio.gather(
                *(each.acquire("search") for each in rings), return_exceptions=True
            )
        assert sum(isinstance(answer, Grant) for answer in answers) == 18
        assert await spent(sql, project="one") == await spent(sql, project="two") == (0, 9)


class TestReading:
    async def test_availability_changes_nothing(self, ring: MakeRing, sql: Sql) -> None:
        tracking = ring("tracking")
        assert (await tracking.availability("stats")).open
        assert not (await tracking.availability("search")).open
        assert len(await tracking.ledger()) == 3
        assert await sql.fetchval("SELECT count(*) FROM quota_ledger") == 0
        assert await sql.fetchval("SELECT count(*) FROM api_keys") == 0

    async def test_the_ledger_tells_what_was_spent_and_what_is_left(
        self, ring: MakeRing, clock: FixedClock
    ) -> None:
        hunting = ring()
        await hunting.settle(await hunting.acquire("search"))
        await hunting.acquire("search")
        await ring("archeology").acquire("search")
        until = await hunting.cool_down(await hunting.acquire("general"), 60, "slow down")
        search, stats, general = await hunting.ledger()
        assert (search.ring, search.bucket, search.project) == ("hunting", "search", "default")
        assert (search.limit, search.ring_limit, search.allowed) == (100, 85, 22)
        assert (search.used, search.reserved, search.left, search.project_spent) == (1, 1, 83, 3)
        assert (search.closed_until, search.reason) == (None, None)
        assert (stats.limit, stats.ring_limit, stats.left) == (10_000, 0, 0)
        assert (general.closed_until, general.reason) == (until, "slow down")
        [key] = search.keys
        assert (key.fingerprint, key.state, key.calls) == (fingerprint("key-one"), KeyState.ACTIVE, 2)
        clock.instant = until
        assert (await hunting.ledger())[2].closed_until is None


class TestLending:
    """Archeology's share of the search bucket is 9 units, of the general one 950."""

    async def test_the_share_of_a_ring_that_asks_for_nothing_is_lent(self, ring: MakeRing, sql: Sql) -> None:
        assert await spend(ring(shares={}, pacing=False)) == 85 + 9
        assert (await closed(ring("archeology"))).reason == "its 9 units for the day are spent or reserved"
        assert await spent(sql) == (94, 0)

    async def test_it_is_lent_in_proportion_to_the_others_shares(self, ring: MakeRing) -> None:
        lines = {name: {line.bucket: line for line in await ring(name, shares={}).ledger()} for name in RINGS}
        loans = {name: [line.loan for line in by_bucket.values()] for name, by_bucket in lines.items()}
        assert loans == {"hunting": [9, 0, 422], "tracking": [0, 950, 527], "archeology": [-9, -950, -949]}
        assert lines["hunting"]["general"].ring_limit == 3800 + 422
        assert lines["tracking"]["general"].ring_limit == 4750 + 527
        assert lines["archeology"]["general"].ring_limit == lines["archeology"]["general"].left == 950

    async def test_it_goes_back_as_soon_as_that_ring_asks(self, ring: MakeRing, sql: Sql) -> None:
        hunting, archeology = ring(shares={}, pacing=False), ring("archeology", pacing=False)
        assert await spend(hunting, most=88) == 88
        await archeology.settle(await archeology.acquire("search"))
        assert (await closed(hunting)).reason == "its 85 units for the day are spent or reserved"
        [line] = [line for line in await archeology.ledger() if line.bucket == "search"]
        assert (line.loan, line.spent_by_others, line.ring_limit, line.left) == (0, 3, 9, 5)
        assert await spend(archeology) == 5
        assert await spent(sql) == (94, 0)

    async def test_it_is_paced_like_the_rest(self, ring: MakeRing, clock: FixedClock) -> None:
        clock.instant = pacific_midnight(TODAY) + 12 * HOUR
        assert await spend(ring(shares={})) == int(94 * 0.6)
        assert await spend(ring("archeology")) == int(9 * 0.6)
        assert await spend(ring(shares={})) == 0

    async def test_asking_in_vain_takes_it_back_too(self, ring: MakeRing, clock: FixedClock) -> None:
        clock.instant = pacific_midnight(TODAY) + HOUR
        hunting = ring(shares={})
        assert await spend(hunting) == int(94 * (1 / 24 + 0.1))
        await closed(ring("archeology"), units=3)
        clock.advance(2 * HOUR)
        assert await spend(hunting) == int(85 * (3 / 24 + 0.1)) - int(94 * (1 / 24 + 0.1))

    async def test_it_stays_back_for_the_next_day_and_is_lent_again_after_that(
        self, ring: MakeRing, clock: FixedClock
    ) -> None:
        archeology = ring("archeology")
        await archeology.cancel(await archeology.acquire("search"))
        lent = []
        for _ in range(3):
            line = (await ring(shares={}).ledger())[0]
            lent.append(line.loan)
            assert (await ring(shares={}, pacing=False).availability("search", 86)).open == (line.loan > 0)
            clock.advance(24 * HOUR)
        assert lent == [0, 0, 9]

    async def test_what_is_lent_of_one_project_or_bucket_says_nothing_of_another(
        self, ring: MakeRing, sql: Sql
    ) -> None:
        archeology = ring("archeology")
        await archeology.acquire("general")
        assert [line.loan for line in await ring(shares={}).ledger()] == [9, 0, 0]
        rows = await sql.fetch("SELECT bucket FROM quota_ledger WHERE archeology_asked")
        assert [row["bucket"] for row in rows] == ["general"]

    async def test_with_nobody_to_lend_to_it_stays_whole(self, ring: MakeRing) -> None:
        shares = {"hunting": {"search": 0}, "tracking": {}, "archeology": {"search": 0.1}}
        line = (await ring("archeology", shares=shares).ledger())[0]
        assert (line.loan, line.ring_limit) == (0, 9)


class TestOpening:
    async def test_a_ring_uses_the_current_atlas(
        self, settings_factory: SettingsFactory, clock: FixedClock
    ) -> None:
        with pytest.raises(NoCurrentAtlas):
            KeyRing("hunting")
        settings = settings_factory(youtube_api_key_pool_json='{"hunting": ["key-one"]}')
        async with Atlas.open(settings, clock=clock):
            assert (await ExportedKeyRing("hunting").acquire("search")).day == pacific_day(clock.now())
            with pytest.raises(EmptyKeyRing, match="no API key is configured for tracking: set YOUTUBE"):
                KeyRing("tracking")

    def test_there_are_three_rings(self, atlas: Atlas) -> None:
        with pytest.raises(
            ConfigError, match="no ring 'fishing'; the rings are hunting, tracking, archeology"
        ):
            KeyRing("fishing", atlas=atlas)  # type: ignore[arg-type]


class TestStatements:
    """What the statements promise beyond their results."""

    reserve = ("hunting", TODAY, datetime(2026, 11, 2, 12, tzinfo=UTC), 1,
               ["default"], ["search"], [100], [85], [94], [85], [0],
               ["key-1"], ["default"], 45.0)  # fmt: skip

    @pytest.mark.parametrize("server", ["off", "local", "on"])
    async def test_a_reservation_is_always_flushed_and_its_end_need_not_be(
        self, sql: Sql, server: str
    ) -> None:
        await sql.execute(f"SET synchronous_commit = {server}")
        settle = ("hunting", "default", "search", [TODAY], 1, True, "key-1")
        cancel = ("hunting", "default", "search", TODAY, 0, "key-1", None)
        kept = "local" if server == "off" else server
        assert await self.commits(sql, "keyring.reserve", *self.reserve) == kept
        assert await self.commits(sql, "keyring.settle", *settle, True) == "off"
        await sql.fetch(sql_of("keyring.reserve"), *self.reserve)
        assert await self.commits(sql, "keyring.settle", *settle, False) == server
        assert await self.commits(sql, "keyring.cancel", *cancel) == "off"
        assert await sql.fetchval("SHOW synchronous_commit") == server

    async def commits(self, sql: Sql, statement: str, *args: Any) -> str:
        async with sql.transaction():
            await sql.fetch(sql_of(statement), *args)
            mode: str = await sql.fetchval("SHOW synchronous_commit")
            return mode

    @pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
    async def test_they_reach_their_rows_by_primary_key(self, sql: Sql, mode: str) -> None:
        await sql.execute(
            """
            INSERT INTO quota_ledger (project, bucket, pacific_day)
            SELECT 'project-' || p, b, date '2025-01-01' + d
            FROM generate_series(1, 20) AS p, unnest('{search,stats,general}'::text[]) AS b,
                generate_series(0, 700) AS d;
            INSERT INTO api_keys (fingerprint, project) SELECT 'key-' || n, 'default'
            FROM generate_series(1, 20000) AS n;
            ANALYZE quota_ledger, api_keys;
            """
        )
        await sql.execute(f"SET plan_cache_mode = {mode}")
        statements: dict[str, tuple[Any, ...]] = {
            "reserve": self.reserve,
            "settle": ("hunting", "default", "search", [TODAY], 0, True, "key-1", False),
            "cancel": ("hunting", "default", "search", TODAY, 0, "key-1", None),
            "close": ("default", "search", [TODAY], datetime(2026, 11, 3, tzinfo=UTC), "closed", 0.0),
            "standing": ("hunting", ["search"], TODAY, ["key-1"], ["default"]),
        }
        for name, args in statements.items():
            rows = await sql.fetch("EXPLAIN " + sql_of(f"keyring.{name}"), *args)
            plan = "\n".join(row[0] for row in rows)
            assert "Seq Scan" not in plan, plan
            assert "quota_ledger_pkey" in plan, plan
        reserve = await sql.fetch("EXPLAIN " + sql_of("keyring.reserve"), *self.reserve)
        plan = "\n".join(row[0] for row in reserve)
        assert "Conflict Arbiter Indexes: quota_ledger_pkey" in plan
        assert plan.count("Index Scan using api_keys_pkey") == 3

    async def test_calls_rewrite_their_rows_in_place(self, ring: MakeRing, sql: Sql) -> None:
        hunting = ring(pacing=False)
        await spend(hunting, "general", most=200)
        for table in ("quota_ledger", "api_keys"):
            pages = await sql.fetchval("SELECT pg_relation_size($1::regclass) / 8192", table)
            assert pages <= 4

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE quota_ledger SET hunting_reserved = -1",
            "UPDATE quota_ledger SET tracking_used = -1",
            "UPDATE quota_ledger SET bucket = 'other'",
            "UPDATE quota_ledger SET closed_until = now()",
            "UPDATE quota_ledger SET closed_until = now(), reason = ''",
            "UPDATE api_keys SET state = 'broken'",
            "UPDATE api_keys SET state = 'disabled'",
            "UPDATE api_keys SET state = 'open', reason = 'x'",
            "UPDATE api_keys SET state = 'half-open', reason = 'x', retry_at = now()",
            "UPDATE api_keys SET failures = -1",
        ],
    )
    async def test_the_tables_refuse_what_cannot_be(self, ring: MakeRing, sql: Sql, change: str) -> None:
        await ring().acquire("search")
        with pytest.raises(asyncpg.CheckViolationError):
            await sql.execute(change)

    async def test_a_ledger_that_lost_a_reservation_says_so(self, ring: MakeRing, sql: Sql) -> None:
        hunting = ring()
        grant = await hunting.acquire("search")
        await sql.execute("UPDATE quota_ledger SET hunting_reserved = 0")
        with pytest.raises(DataRefused, match="hunting_reserved"):
            await hunting.settle(grant)
