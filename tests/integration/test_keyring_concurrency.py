"""Rings of many processes on one ledger: never over the limit, never under what was sent."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas import Atlas
from atlas.clock import FixedClock, pacific_day, pacific_midnight
from atlas.config import RINGS, Bucket, QuotaSettings, RingName
from atlas.db import Database
from atlas.errors import RingClosed
from atlas.keyring import Grant, KeyRing, KeyState
from atlas.pacing import LENDER, Allowance, loan
from atlas.testing import SettingsFactory

pytestmark = pytest.mark.integration

BUCKET: Bucket = "general"
ENDS = ("settle", "fail", "cancel", "crash", "hold", "close_day", "cool_down")
LATER = ("settle", "fail", "cancel", "close_day", "cool_down")
DAYS = [date(2026, 3, 7), date(2026, 6, 1), date(2026, 10, 31)]

_number = itertools.count()


@st.composite
def quotas(draw: st.DrawFn) -> dict[str, Any]:
    parts = draw(
        st.lists(st.integers(0, 10), min_size=3, max_size=3).filter(lambda parts: 0 < sum(parts) <= 10)
    )
    return {
        "limits": {"general": draw(st.integers(0, 40))},
        "shares": {ring: {"general": part / 10} for ring, part in zip(RINGS, parts, strict=True)},
        "reserve": draw(st.sampled_from([0, 0.05, 0.2])),
        "pacing": draw(st.booleans()),
        "burst": draw(st.sampled_from([0, 0.1, 0.5])),
        "failures_to_open": draw(st.integers(1, 4)),
        "open_s": draw(st.sampled_from([60, 3600])),
        "cool_down_s": draw(st.sampled_from([1, 60, 1800])),
    }


calls = st.tuples(st.integers(0, 5), st.integers(1, 2), st.sampled_from(ENDS))
rounds = st.tuples(
    st.sampled_from([0, 1, 60, 600, 3600, 4 * 3600, 11 * 3600]),
    st.lists(calls, min_size=1, max_size=12),
    st.lists(st.sampled_from(LATER), max_size=3),
)


@dataclass
class Account:
    """What the ledger must hold: the units of each ring and day that the API may have counted."""

    sent: Counter[tuple[RingName, date]] = field(default_factory=Counter)
    carried: Counter[tuple[RingName, date]] = field(default_factory=Counter)
    held: list[tuple[KeyRing, Grant]] = field(default_factory=list)

    def granted(self, grant: Grant) -> None:
        self.sent[grant.ring, grant.day] += grant.units

    def ended(self, grant: Grant, end: str, today: date) -> None:
        if end == "cancel":
            self.sent[grant.ring, grant.day] -= grant.units
        elif end not in ("crash", "hold") and today != grant.day:
            self.sent[grant.ring, today] += grant.units
            self.carried[grant.ring, today] += grant.units


async def end_grant(ring: KeyRing, grant: Grant, end: str) -> None:
    match end:
        case "settle":
            await ring.settle(grant)
        case "fail":
            await ring.fail(grant, "HTTP 503")
        case "cancel":
            await ring.cancel(grant)
        case "close_day":
            await ring.close_day(grant, "quotaExceeded")
        case "cool_down":
            await ring.cool_down(grant, None, "slow down")


async def call(ring: KeyRing, units: int, end: str, account: Account, today: date) -> None:
    try:
        grant = await ring.acquire(BUCKET, units)
    except RingClosed:
        return
    account.granted(grant)
    if end == "hold":
        account.held.append((ring, grant))
    await end_grant(ring, grant, end)
    account.ended(grant, end, today)


async def check(
    rings: list[KeyRing], account: Account, quota: QuotaSettings, project: str, now: datetime, sql: Any
) -> None:
    today = pacific_day(now)
    for row in await sql.fetch("SELECT * FROM quota_ledger WHERE project = $1", project):
        day, total, carried, limits = row["pacific_day"], 0, 0, 0
        for ring in RINGS:
            spent = row[f"{ring}_used"] + row[f"{ring}_reserved"]
            assert spent == account.sent[ring, day]
            allowance = Allowance.of(quota, project, ring, BUCKET)
            limits += allowance.ring_limit
            allowance = allowance.with_loan(max(0, loan(quota, project, ring, BUCKET)))
            own = spent - account.carried[ring, day]
            assert own <= (allowance.at(now) if day == today else allowance.ring_limit)
            total, carried = total + spent, carried + account.carried[ring, day]
        # However much is lent and taken back, the day's total is what the shares leave, less the reserve.
        assert row["used"] + row["reserved"] == total <= limits + carried <= quota.limits.general + carried
    for each in rings[:3]:
        await check_openness(each)


async def check_openness(ring: KeyRing) -> None:
    """An open ring grants, and a ring with nothing against it is open."""
    line = next(line for line in await ring.ledger() if line.bucket == BUCKET)
    spent = line.used + line.reserved + line.spent_by_others
    has_room = spent < line.allowed and line.left > 0
    usable = line.closed_until is None and line.keys[0].state == KeyState.ACTIVE
    verdict = await ring.availability(BUCKET)
    if has_room and usable:
        assert verdict.open
    if verdict.open:
        assert has_room
        await ring.cancel(await ring.acquire(BUCKET))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    values=quotas(), day=st.sampled_from(DAYS), hour=st.integers(0, 22), script=st.lists(rounds, max_size=8)
)
async def test_whatever_happens_the_ledger_holds_what_was_sent_and_no_more_than_allowed(
    atlas: Atlas,
    settings_factory: SettingsFactory,
    sql: Any,
    values: dict[str, Any],
    day: date,
    hour: int,
    script: list[tuple[int, list[tuple[int, int, str]], list[str]]],
) -> None:
    project = f"project-{next(_number)}"
    chosen = settings_factory(
        youtube_api_key_pool_json=[{"key": f"key-of-{project}", "project": project}], quota=values
    )
    clock = FixedClock(pacific_midnight(day) + timedelta(hours=hour))
    account = Account()
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(Database.open(chosen)) for _ in range(2)]
        rings = [
            KeyRing(name, atlas=replace(atlas, settings=chosen, clock=clock, db=db))
            for db in processes
            for name in RINGS
        ]
        for seconds, made, ends in script:
            clock.advance(timedelta(seconds=seconds))
            now, today = clock.now(), pacific_day(clock.now())
            due = [(*account.held.pop(0), end) for end in ends if account.held]
            async with asyncio.TaskGroup() as group:
                for nth, units, end in made:
                    group.create_task(call(rings[nth], units, end, account, today))
                for ring, grant, end in due:
                    group.create_task(end_grant(ring, grant, end))
            for _, grant, end in due:
                account.ended(grant, end, today)
            await check(rings, account, chosen.quota, project, now, sql)


CALLER = """
import asyncio, sys
from atlas import Atlas
from atlas.config import load
from atlas.errors import RingClosed
from atlas.keyring import KeyRing

async def caller(ring, bucket):
    try:
        while True:
            grant = await ring.acquire(bucket)
            print("sent", grant.ring, flush=True)
            await ring.settle(grant)
    except RingClosed as closed:
        print("closed", closed.reason, flush=True)

async def main():
    async with Atlas.open(load()) as atlas:
        ring = KeyRing(sys.argv[1], atlas=atlas)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await asyncio.gather(*(caller(ring, sys.argv[2]) for _ in range(10)))

asyncio.run(main())
"""


class Crowd:
    """Processes of several rings that wait for `go` and then call as fast as they can."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self.processes = processes
        self._heard: list[list[str]] = [[] for _ in processes]

    def go(self, *which: int) -> None:
        """Let some of them begin, by default all."""
        chosen = which or range(len(self.processes))
        for nth in chosen:
            assert self.listen(nth) == "ready"
        for nth in chosen:
            stdin = self.processes[nth].stdin
            assert stdin is not None
            stdin.write("\n")
            stdin.flush()

    def listen(self, nth: int) -> str:
        """The next line of one process, "" at its end."""
        stdout = self.processes[nth].stdout
        assert stdout is not None
        self._heard[nth].append(stdout.readline().rstrip())
        return self._heard[nth][-1]

    def sent(self) -> Counter[str]:
        """What each ring said it sent, once every process has ended."""
        for nth in range(len(self.processes)):
            while self.listen(nth):
                pass
        return Counter(line for heard in self._heard for line in heard if line.startswith("sent"))


@pytest.fixture
def crowd(request: pytest.FixtureRequest, environment: dict[str, str], tmp_path: Path) -> Iterator[Crowd]:
    environment |= {
        "YOUTUBE_API_KEY_POOL_JSON": json.dumps(["key-one", "key-two"]),
        "PLEIADES_QUOTA__PACING": "false",
        "PLEIADES_QUOTA__LIMITS": '{"general": 1000}',
        "PLEIADES_CLOCK__START": "2026-11-02T12:00:00Z",
        "PLEIADES_CLOCK__ANCHOR": datetime.now(UTC).isoformat(),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CALLER, ring, BUCKET],
            env=environment, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for ring in getattr(request, "param", ("hunting", "tracking") * 3)
    ]  # fmt: skip
    yield Crowd(processes)
    for process in processes:
        process.kill()
        process.communicate()


HUNTING, TRACKING, ARCHEOLOGY = 380 + 42, 475 + 52, 95
"""What each may spend of 1,000 units; 94 of them are archeology's until it asks."""


async def test_a_crowd_of_processes_spends_every_unit_once(crowd: Crowd, sql: Any) -> None:
    crowd.go()
    sent = await asyncio.to_thread(crowd.sent)
    assert sent == {"sent hunting": HUNTING, "sent tracking": TRACKING}
    assert [process.wait(10) for process in crowd.processes] == [0] * 6
    row = await sql.fetchrow("SELECT * FROM quota_ledger")
    assert (row["hunting_used"], row["tracking_used"], row["reserved"]) == (HUNTING, TRACKING, 0)
    assert await sql.fetchval("SELECT sum(calls) FROM api_keys") == HUNTING + TRACKING


@pytest.mark.parametrize("crowd", [("hunting", "tracking", "hunting", "tracking", LENDER)], indirect=True)
async def test_a_ring_that_asks_among_many_takes_back_what_is_left_of_its_share(
    crowd: Crowd, sql: Any
) -> None:
    crowd.go(0, 1, 2, 3)
    for _ in range(20):
        await asyncio.to_thread(crowd.listen, 0)
    crowd.go(4)
    sent = await asyncio.to_thread(crowd.sent)
    hunting, tracking, archeology = (sent[f"sent {ring}"] for ring in RINGS)
    assert 380 <= hunting <= HUNTING
    assert 475 <= tracking <= TRACKING
    assert 1 <= archeology <= ARCHEOLOGY
    assert hunting + tracking + archeology == 950
    assert await sql.fetchval("SELECT used FROM quota_ledger") == 950


async def test_killed_processes_leave_a_ledger_that_counts_all_they_sent(crowd: Crowd, sql: Any) -> None:
    crowd.go()
    victims = (0, 1, 3)
    for nth in victims:
        for _ in range(20):
            await asyncio.to_thread(crowd.listen, nth)
        crowd.processes[nth].send_signal(signal.SIGKILL)
    sent = await asyncio.to_thread(crowd.sent)
    row = await sql.fetchrow("SELECT * FROM quota_ledger")
    for ring, limit in (("hunting", HUNTING), ("tracking", TRACKING)):
        assert row[f"{ring}_used"] + row[f"{ring}_reserved"] == limit
        assert row[f"{ring}_used"] <= sent[f"sent {ring}"] <= limit
        # Each of ten callers in a killed process can have been between its reservation and its end.
        assert row[f"{ring}_reserved"] <= 10 * len(victims)
