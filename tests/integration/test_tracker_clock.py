"""Every video's due rule, over random ages, pauses, restarts, crashes and failures, in a virtual clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import asyncpg
import pytest
import stamina
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.testing import NOON, IsolatedSettings, ThrowAwayServer
from maia.emulator import Emulator
from maia.emulator.catalogue import Catalogue
from maia.emulator.synthesis import synthesize
from maia.tracker.cycle import Tracker, TrackerStatistics

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

KEYS = json.dumps([{"key": "demo-one", "project": "demo"}])
SPAN = timedelta(days=30)
BASE_H = (1.0, 6.0, 24.0)


@dataclass(frozen=True)
class Turn:
    """What happens after a pause: a tracker that runs, fails, starts anew or dies holding its claims."""

    pause_h: float
    event: str


turns = st.lists(
    st.builds(
        Turn,
        st.one_of(st.floats(0.01, 3), st.floats(3, 100)),
        st.sampled_from(["run"] * 6 + ["restart", "die", "network", "quota"]),
    ),
    min_size=3,
    max_size=14,
)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    path = tmp_path_factory.mktemp("catalogue") / "synthetic.sqlite"
    synthesize(path, videos=300, channels=12, days=SPAN.days, seed=5, start=NOON - SPAN)
    with Catalogue.open(path) as opened:
        yield opened


class Watcher:
    """Drives trackers turn by turn and holds every row of the clock against the rule."""

    def __init__(self, url: str, emulator: Emulator, clock: FixedClock, sql: Any) -> None:
        self.emulator, self.clock, self.sql = emulator, clock, sql
        self.settings: Settings = IsolatedSettings(
            database_url=SecretStr(url), youtube_api_key_pool_json=SecretStr(KEYS),
            youtube={"base_url": emulator.url}, quota={"pacing": False, "failures_to_open": 10_000},
            tracker={"retry_after_s": 0},
        )  # fmt: skip

    async def play(self, found: list[tuple[datetime, list[str]]], turns: list[Turn]) -> None:
        waiting = iter(turns)
        while True:
            async with Atlas.open(self.settings, clock=self.clock) as atlas, Tracker.open(atlas) as tracker:
                for turn in waiting:
                    self.clock.advance(timedelta(hours=turn.pause_h))
                    await self.discover(tracker, found)
                    if turn.event == "die":
                        await tracker.fetch_targets(1000)
                        await self.sql.execute("UPDATE video_clock SET lease_until = '-infinity'")
                        break
                    await self.check_turn(tracker, turn)
                    if turn.event == "restart":
                        break
                else:
                    return

    async def discover(self, tracker: Tracker, found: list[tuple[datetime, list[str]]]) -> None:
        """The hunter finds videos at random times, once they are there."""
        while found and found[0][0] <= self.clock.now():
            _, ids = found.pop(0)
            await tracker.dao.ingest_video_metadata(await tracker.youtube.videos(ids))

    async def check_turn(self, tracker: Tracker, turn: Turn) -> None:
        now, before = self.clock.now(), await self.rows()
        faults = {"network": ["500:1:videos.batchGetStats", "500:1:videos.list"],
                  "quota": ["403-quota:1:videos.batchGetStats"]}  # fmt: skip
        self.emulator.set_faults(faults.get(turn.event, []))
        statistics = [await tracker.cycle(100)]
        while statistics[-1].outcome == "done" and not statistics[-1].skipped:
            statistics.append(await tracker.cycle(100))
        after = await self.rows()
        due = {id_ for id_, row in before.items() if row["status"] == "live" and row["next_due_at"] <= now}
        if statistics[-1].outcome == "idle":
            self.check_all_sampled(due, before, after)
        else:
            # Refused for the day, on this turn or an earlier one, or nobody answered.
            assert {statistics[-1].outcome} <= {"closed", "unavailable", "done"}
            self.check_unmoved(statistics, before, after)

    def check_all_sampled(self, due: set[str], before: dict[str, Any], after: dict[str, Any]) -> None:
        now = self.clock.now()
        for id_, row in after.items():
            if id_ not in due:
                assert row == before[id_]
                continue
            if row["misses"] or row["status"] == "gone":
                assert (row["misses"], row["samples"]) == (before[id_]["misses"] + 1, before[id_]["samples"])
            else:
                assert row["last_sampled_at"] == now
                assert row["samples"] == before[id_]["samples"] + 1
                self.check_rule(row)
            assert row["status"] == "gone" or row["next_due_at"] > now

    def check_rule(self, row: Any) -> None:
        """The zone is that of the age, and the wait its interval within the settings' bounds."""
        age = self.clock.now() - row["born_at"]
        zone = 0 if age < timedelta(hours=24) else 1 if age <= timedelta(hours=168) else 2
        wait_h = (row["next_due_at"] - row["last_sampled_at"]) / timedelta(hours=1)
        assert row["zone"] == zone
        assert 0.5 * BASE_H[zone] <= wait_h <= 3 * BASE_H[zone]
        assert wait_h == pytest.approx(row["interval_h"], rel=1e-6)

    def check_unmoved(
        self, statistics: list[TrackerStatistics], before: dict[str, Any], after: dict[str, Any]
    ) -> None:
        """Without an answer no clock moved, and nothing is held."""
        assert sum(cycle.samples + cycle.missing for cycle in statistics) == 0
        same = ("next_due_at", "samples", "misses", "status", "last_at", "velocity")
        for id_, row in after.items():
            assert [row[name] for name in same] == [before[id_][name] for name in same]
            assert row["lease_token"] is None

    async def rows(self) -> dict[str, Any]:
        """The clock without what a claim writes and takes back."""
        rows = [dict(row) for row in await self.sql.fetch("SELECT * FROM video_clock")]
        for row in rows:
            del row["lease_until"], row["lease_owner"], row["attempts"], row["last_error"]
        return {row["video_id"]: row for row in rows}


async def check_log(sql: Any) -> None:
    """No video was sampled before it was due, no slot twice, and nothing is NaN."""
    rows = await sql.fetch("SELECT * FROM video_stats_log ORDER BY video_id, sampled_at")
    for earlier, later in pairwise(rows):
        if earlier["video_id"] == later["video_id"]:
            assert later["sampled_at"] - earlier["sampled_at"] >= timedelta(minutes=30)
    assert all(row["velocity"] is None or row["velocity"] == row["velocity"] for row in rows)
    counts = {row["video_id"]: row["count"] for row in await sql.fetch(
        "SELECT video_id, count(*) FROM video_stats_log WHERE sampled_at > "
        "(SELECT discovered_at FROM videos WHERE id = video_id) GROUP BY video_id"
    )}  # fmt: skip
    samples = await sql.fetch("SELECT video_id, samples FROM video_clock WHERE samples > 0")
    assert counts == {row["video_id"]: row["samples"] for row in samples}


@settings(max_examples=12)
@given(
    begins_h=st.floats(24, 20 * 24),
    finds=st.lists(st.tuples(st.floats(0, 60), st.integers(1, 60)), min_size=1, max_size=4),
    turns=turns,
)
def test_every_videos_due_rule_holds_whatever_happens(
    postgres: ThrowAwayServer,
    template: str,
    catalogue: Catalogue,
    begins_h: float,
    finds: list[tuple[float, int]],
    turns: list[Turn],
) -> None:
    clock = FixedClock(NOON - SPAN + timedelta(hours=begins_h))
    found = []
    for after_h, count in sorted(finds):
        when = clock.now() + timedelta(hours=after_h)
        ids = catalogue.visible_ids(when)
        found.append((when, ids[-count:] + ids[:: len(ids) // count + 1]))

    async def example(url: str) -> None:
        sql = await asyncpg.connect(url)
        try:
            async with Emulator.serve(catalogue, clock=clock) as emulator:
                await Watcher(url, emulator, clock, sql).play(found, turns)
            await check_log(sql)
        finally:
            await sql.close()

    name = postgres.create_database(template)
    try:
        with stamina.set_testing(True, attempts=2, cap=True):
            asyncio.run(example(postgres.dsn_of(name)))
    finally:
        postgres.drop_database(name)
