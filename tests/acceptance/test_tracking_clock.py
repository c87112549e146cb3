"""The clock of the tracker in virtual days: everybody is sampled when it is due, and a short budget goes to
those who need it first."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas.clock import FixedClock
from atlas.config import TrackerSettings
from atlas.testing import SettingsFactory, ThrowAwayServer
from maia.cycle.agent import run
from maia.emulator import Emulator, Project
from maia.emulator.catalogue import Catalogue
from maia.emulator.importing import import_recordings
from maia.emulator.recordings import ReadOptions
from maia.tracker.cycle import Tracker
from maia.youtube.client import IDS_PER_CALL
from tests.acceptance.conftest import KEYS
from tests.acceptance.tracking import (
    DAY,
    HOUR,
    Slot,
    assert_due_rule,
    assert_log_is_the_slots,
    assert_nothing_is_strange,
    enrol,
    note_slots,
    recorded,
    slots_of,
    tracker_of,
)

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

MANY = 1_000_000
SHARE = float(os.environ.get("PLEIADES_SHARE_OF_DAILY", "0.06"))
"""Of the daily set, what is replayed with enough quota; 1 takes minutes."""
MINUTE = timedelta(minutes=1)
WITHOUT_LIMITS = Project("lab", search=MANY, stats=MANY, general=MANY)


@pytest.fixture(scope="module")
def daily(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """The daily set: 19,998 videos over 13 days."""
    files = recorded(
        "trending_daily_KR_JP_US_2025-11_samples.csv.gz", "trending_daily_KR_JP_US_2025-11_videos.csv.gz"
    )
    path = tmp_path_factory.mktemp("daily") / "daily.catalogue"
    import_recordings(path, files, ReadOptions({}))
    with Catalogue.open(path) as catalogue:
        yield catalogue


def part_of(ids: Iterable[str], share: float) -> list[str]:
    """A share of the videos, always the same ones."""
    return [id_ for id_ in ids if crc32(id_.encode()) < share * 2**32]


class Life:
    """A tracker that lives through virtual time, round after round."""

    def __init__(self, tracker: Tracker, catalogue: Catalogue, clock: FixedClock, sql: Any) -> None:
        self.tracker, self.catalogue, self.clock, self.sql = tracker, catalogue, clock, sql
        self.enrolled: set[str] = set()
        self.rounds: list[datetime] = []
        self.verdicts: list[dict[str, Any]] = []

    async def meet(self, ids: Iterable[str]) -> None:
        fresh = [id_ for id_ in ids if id_ not in self.enrolled]
        await enrol(self.tracker, fresh)
        self.enrolled.update(fresh)

    async def round(self) -> None:
        self.rounds.append(self.clock.now())
        self.verdicts.append((await self.tracker.cycle(20_000)).as_dict())

    async def slots(self) -> list[Slot]:
        return [slot for slot in await slots_of(self.sql) if slot.sampled]


@asynccontextmanager
async def living(
    catalogue: Catalogue, factory: SettingsFactory, clock: FixedClock, sql: Any, **groups: Any
) -> AsyncIterator[Life]:
    quota = {"limits": {"stats": MANY, "general": MANY}} | groups.pop("quota", {})
    async with (
        Emulator.serve(catalogue, clock=clock, projects=[WITHOUT_LIMITS]) as emulator,
        tracker_of(factory, emulator.url, clock, quota=quota, **groups) as tracker,
    ):
        await note_slots(sql)
        yield Life(tracker, catalogue, clock, sql)


# With enough quota


async def test_every_video_of_the_daily_set_is_sampled_in_the_first_round_in_which_it_is_due(
    daily: Catalogue, settings_factory: SettingsFactory, clock: FixedClock, sql: Any
) -> None:
    chance = random.Random(3)
    clock.instant = datetime(2025, 11, 8, tzinfo=UTC)
    end = clock.instant + 3 * DAY
    async with living(daily, settings_factory, clock, sql) as life:
        while clock.instant < end:
            await life.meet(part_of(daily.visible_ids(clock.instant), SHARE))
            await life.round()
            clock.advance(chance.uniform(5, 40) * MINUTE)
    slots = await life.slots()
    assert_due_rule(slots)
    assert len(slots) > 8 * len(life.enrolled) > 80_000 * SHARE
    assert {slot.zone for slot in slots} == {0, 1, 2}
    assert [slot for slot in slots if slot.sampled_at != first_round(life, slot)] == []
    overdue = "SELECT count(*) FROM video_clock WHERE next_due_at <= $1"
    assert await sql.fetchval(overdue, life.rounds[-1]) == 0
    assert {verdict["degraded"] for verdict in life.verdicts} == {0}
    await assert_log_is_the_slots(sql)
    await assert_nothing_is_strange(sql)


# Over pauses and restarts


@dataclass(frozen=True, slots=True)
class Event:
    """What happens after a pause: all that is due is sampled, or a tracker is killed after `share` of a
    batch, or the leases of killed ones end; with everything opened anew if `restarted`. A `pause` of None
    lasts until the next video is due."""

    pause: timedelta | None
    what: str
    batch_size: int
    share: float
    restarted: bool


PAUSES = st.one_of(
    st.none(),
    st.timedeltas(timedelta(0), 2 * MINUTE),
    st.timedeltas(MINUTE, 2 * HOUR),
    st.timedeltas(HOUR, 4 * DAY),
)
EVENTS = st.builds(
    Event,
    PAUSES,
    st.sampled_from(["sample", "sample", "sample", "killed", "killed", "leases end"]),
    st.integers(1, 120),
    st.floats(0, 1),
    st.booleans(),
)


class Lives:
    """Trackers one after the other over one database, and what must hold of it."""

    def __init__(self, factory: SettingsFactory, url: str, emulator: Emulator, clock: FixedClock) -> None:
        self.factory, self.url, self.emulator, self.clock = factory, url, emulator, clock
        self.stack = AsyncExitStack()
        self.sql: Any = None
        self.tracker: Tracker

    async def begin(self, ids: Sequence[str]) -> None:
        self.sql = await asyncpg.connect(self.url)
        self.stack.push_async_callback(self.sql.close)
        await note_slots(self.sql)
        await self.restart()
        # Found one after the other, so that they aren't all due at the same instants.
        for some in range(5):
            await enrol(self.tracker, ids[some::5])
            self.clock.advance(2 * MINUTE)

    async def restart(self) -> None:
        opening = tracker_of(
            self.factory, self.emulator.url, self.clock, database_url=self.url,
            quota={"limits": {"stats": MANY, "general": MANY}}, tracker={"retention_days": 365},
        )  # fmt: skip
        self.tracker = await self.stack.enter_async_context(opening)

    async def live(self, event: Event) -> None:
        await self.wait(event.pause)
        if event.restarted:
            await self.restart()
        match event.what:
            case "killed":
                targets = (await self.tracker.fetch_targets(event.batch_size)).targets
                if done := targets[: round(event.share * len(targets))]:
                    await self.tracker.update_stats(done)
            case "leases end":
                await self.end_leases()
            case _:
                await run(Tracker, self.tracker.atlas, batch_size=event.batch_size, cycles=MANY)
                assert await self.waiting() == 0

    async def wait(self, pause: timedelta | None) -> None:
        if pause is not None:
            self.clock.advance(pause)
        elif next_due_at := await self.sql.fetchval("SELECT min(next_due_at) FROM video_clock"):
            self.clock.instant = max(self.clock.instant, next_due_at)

    async def end_leases(self) -> None:
        await self.sql.execute("UPDATE video_clock SET lease_until = clock_timestamp() - interval '1 second'")
        await self.sql.execute(
            "UPDATE channel_clock SET lease_until = clock_timestamp() - interval '1 second'"
        )

    async def waiting(self) -> int:
        """How many are due that nobody holds."""
        count: int = await self.sql.fetchval(
            "SELECT count(*) FROM video_clock WHERE status = 'live' AND next_due_at <= $1"
            " AND (lease_until IS NULL OR lease_until < clock_timestamp())",
            self.clock.now(),
        )
        return count


@pytest_asyncio.fixture(params=["synthetic", "daily"])
async def emulator(request: pytest.FixtureRequest, clock: FixedClock) -> AsyncIterator[Emulator]:
    catalogue = request.getfixturevalue(request.param)
    async with Emulator.serve(catalogue, clock=clock, projects=[WITHOUT_LIMITS]) as served:
        yield served


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    begin=st.floats(0.1, 0.9),
    videos=st.integers(1, 80),
    seed=st.integers(0, 2**32),
    events=st.lists(EVENTS, min_size=2, max_size=12),
)
async def test_the_due_rule_holds_over_any_ages_pauses_and_restarts(
    emulator: Emulator,
    postgres: ThrowAwayServer,
    template: str,
    settings_factory: SettingsFactory,
    clock: FixedClock,
    begin: float,
    videos: int,
    seed: int,
    events: list[Event],
) -> None:
    first, last = emulator.catalogue.span
    clock.instant = first + (last - first) * begin
    stays = {*emulator.catalogue.visible_ids(last)}
    visible = [id_ for id_ in emulator.catalogue.visible_ids(clock.now()) if id_ in stays]
    ids = random.Random(seed).sample(visible, min(videos, len(visible)))
    database = postgres.create_database(template)
    lives = Lives(settings_factory, postgres.dsn_of(database), emulator, clock)
    try:
        async with lives.stack:
            await lives.begin(ids)
            for event in events:
                await lives.live(event)
            await lives.end_leases()
            await lives.live(Event(timedelta(0), "sample", 1000, 1.0, restarted=True))
            slots = await slots_of(lives.sql)
            assert_due_rule(slots)
            assert all(slot.sampled for slot in slots)
            await assert_log_is_the_slots(lives.sql)
            overdue = "SELECT count(*) FROM video_clock WHERE next_due_at <= $1"
            assert await lives.sql.fetchval(overdue, clock.now()) == 0
    finally:
        postgres.drop_database(database)


# With too little quota


def paid(stats: int) -> dict[str, Any]:
    """A quota that pays for so many calls a Pacific day, spread over it."""
    shares = {"tracking": {"stats": 1, "general": 0.5}, "archeology": {"stats": 0}}
    return {"limits": {"stats": stats, "general": MANY}, "shares": shares, "reserve": 0, "pacing": True}


async def status_of(environment: dict[str, str], now: datetime, quota: dict[str, Any]) -> dict[str, Any]:
    """What `maia status` says of the clock."""
    ours = {
        "YOUTUBE_API_KEY_POOL_JSON": KEYS,
        "PLEIADES_QUOTA": json.dumps(quota),
        "PLEIADES_CLOCK__START": now.isoformat(),
        "PLEIADES_CLOCK__ANCHOR": datetime.now(UTC).isoformat(),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "maia", "status", "--json"),
        env=environment | ours,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    told: dict[str, Any] = json.loads(stdout)["tracking"]
    return told


async def live_short(life: Life, end: datetime, every: timedelta) -> None:
    """Rounds, with a fiftieth of what is published meanwhile."""
    while life.clock.instant < end:
        await life.meet(part_of(life.catalogue.visible_ids(life.clock.instant), 0.02))
        await life.round()
        life.clock.advance(every)


def first_round(life: Life, slot: Slot) -> datetime:
    """The first in which it is due."""
    return life.rounds[bisect_left(life.rounds, slot.due_at)]


async def test_a_tenth_of_the_budget_keeps_hot_videos_their_hour_and_status_says_what_it_cannot(
    daily: Catalogue,
    settings_factory: SettingsFactory,
    clock: FixedClock,
    sql: Any,
    environment: dict[str, str],
) -> None:
    begin = datetime(2025, 11, 10, 9, 7, tzinfo=UTC)
    clock.instant = begin
    quota = paid(34)
    async with living(
        daily, settings_factory, clock, sql, quota=quota, agents={"intervals_s": {"tracker": 3600}}
    ) as life:
        await life.meet(part_of(daily.visible_ids(begin - DAY), 0.5))
        asked_per_h = sum(count.demand_per_h for count in await life.tracker.dao.clock_counts())
        await live_short(life, begin + 2 * DAY, HOUR)
        told = await status_of(environment, life.rounds[-1], quota)
    paid_per_h = told["paid_per_h"]
    assert paid_per_h == pytest.approx(34 * IDS_PER_CALL / 24)
    assert paid_per_h <= asked_per_h / 10 * 1.05

    slots = await life.slots()
    assert_due_rule(slots)
    hot = [slot for slot in slots if slot.waited_h == 1]
    assert len(hot) > 200
    assert [slot for slot in hot if slot.sampled_at != first_round(life, slot)] == []
    short = [verdict for verdict in life.verdicts if verdict["degraded"]]
    assert len(short) > 30
    assert {verdict["deferred"]["hot"] for verdict in short} == {0}
    assert {verdict["outcome"] for verdict in short} == {"done"}
    assert all(verdict["samples"] <= verdict["units"]["stats"] * IDS_PER_CALL for verdict in short)
    assert await spent_by_day(sql) <= 34

    zones = {zone["zone"]: zone for zone in told["zones"]}
    assert told["short_per_h"] > 0
    assert told["starving"] == zones["warm"]["starving"] + zones["cold"]["starving"] > 0
    assert (zones["hot"]["starving"], zones["hot"]["lag_h"]) == (0, 0)
    assert life.verdicts[-1]["starving"] > 0


async def spent_by_day(sql: Any) -> int:
    most: int = await sql.fetchval("SELECT max(used + reserved) FROM quota_ledger WHERE bucket = 'stats'")
    return most


async def test_a_budget_that_suffices_at_the_slowest_lets_nobody_starve(
    daily: Catalogue,
    settings_factory: SettingsFactory,
    clock: FixedClock,
    sql: Any,
    environment: dict[str, str],
) -> None:
    """Quicker zones, so that three of every interval fit into the time."""
    begin = datetime(2025, 11, 10, 9, 7, tzinfo=UTC)
    clock.instant = begin
    ours = {"warm_interval_h": 2, "cold_interval_h": 6}
    every, quota = HOUR / 2, paid(110)
    agents = {"intervals_s": {"tracker": every.total_seconds()}}
    async with living(daily, settings_factory, clock, sql, quota=quota, tracker=ours, agents=agents) as life:
        await life.meet(part_of(daily.visible_ids(begin - DAY), 0.1))
        await live_short(life, begin + 1.75 * DAY, every)
        told = await status_of(
            environment | {"PLEIADES_TRACKER": json.dumps(ours), "PLEIADES_AGENTS": json.dumps(agents)},
            life.rounds[-1],
            quota,
        )
    slots = await life.slots()
    assert_due_rule(slots, TrackerSettings(**ours))
    short = [verdict for verdict in life.verdicts if verdict["degraded"]]
    assert len(short) > 30
    assert told["demand_per_h"] > told["paid_per_h"] > 0
    late_h = [((slot.sampled_at - slot.due_at - every) / HOUR, 2 * slot.waited_h, slot) for slot in slots]
    assert [slot for late, most, slot in late_h if late > most] == []
    assert (told["short_per_h"], told["starving"]) == (0, 0)
    assert {verdict["starving"] for verdict in life.verdicts} == {0}
