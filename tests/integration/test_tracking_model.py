"""Any history of finds, pauses, claims, samples, misses, releases and kills, against a model in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.tracking import BatchStored, Target
from atlas.clock import FixedClock
from atlas.db import Database
from atlas.testing import NOON, SettingsFactory
from tests.integration.test_tracking import expire_leases, found, missing, sampled

pytestmark = pytest.mark.integration

INTERVALS_H = (1, 6, 24)


@dataclass
class Kept:
    """What the clock should know of a video."""

    zone: int
    due: datetime
    first: tuple[datetime, int] | None
    free: bool = True
    token: UUID | None = None
    """Of the last claim, until what it was made for is done; its lease may be over."""
    gone: bool = False
    samples: dict[datetime, int | None] = field(default_factory=dict)


@dataclass
class Model:
    """A tracker and its clock, with what they should hold; leases end only when a test ends them."""

    dao: MaiaDAO
    sql: Any
    clock: FixedClock
    videos: dict[str, Kept] = field(default_factory=dict)
    published: dict[str, datetime] = field(default_factory=dict)
    held: list[Target] = field(default_factory=list)
    stale: list[Target] = field(default_factory=list)

    async def find(self, number: int, age_h: int, views: int | None) -> None:
        video_id, now = f"v{number}", self.clock.now()
        published_at = self.published.setdefault(video_id, now - timedelta(hours=age_h))
        await self.dao.ingest_video_metadata(found(video_id, published_at=published_at, view_count=views))
        zone = 0 if age_h < 24 else 1 if age_h <= 168 else 2
        if video_id not in self.videos:
            due = now if views is None else now + timedelta(hours=INTERVALS_H[zone])
            self.videos[video_id] = Kept(zone, due, None if views is None else (now, views))
            return
        known = self.videos[video_id]
        if known.gone:
            known.gone, known.due = False, now
            known.zone = await self.sql.fetchval("SELECT zone FROM video_clock WHERE video_id = $1", video_id)

    async def wait(self, minutes: int) -> None:
        self.clock.advance(timedelta(minutes=minutes))

    async def claim(self, most: int) -> None:
        now = self.clock.now()
        free = [kept for kept in self.videos.values() if kept.due <= now and kept.free and not kept.gone]
        expected = sorted((kept.zone, kept.due) for kept in free)[:most]
        targets = await self.dao.fetch_tracker_targets(most)
        assert [(target.zone, target.next_due_at) for target in targets] == expected
        for target in targets:
            kept = self.videos[target.id]
            assert kept.free
            assert kept.due == target.next_due_at
            kept.free, kept.token = False, target.lease_token
        self.held += targets

    async def store(self, views: int | None) -> None:
        """Everybody answers, those too who were taken for dead: their token stands until another claim."""
        now, updates, lost = self.clock.now(), {}, set()
        for target in (*self.held, *self.stale):
            kept, zone = self.videos[target.id], (target.zone + 1) % 3
            due = now + timedelta(hours=INTERVALS_H[zone])
            if target.lease_token != kept.token:
                lost.add(target.id)
                updates.setdefault(target.id, sampled(target, now, 999))
                continue
            updates[target.id] = sampled(target, now, views, zone=zone, next_due_at=due)
            if not kept.samples and kept.first is not None:
                kept.samples[kept.first[0]] = kept.first[1]
            kept.samples.setdefault(now, views)
            kept.zone, kept.due, kept.free, kept.token = zone, due, True, None
        lost -= {target.id for target in self.held}
        stored = await self.dao.update_video_stats_batch([*updates.values()])
        assert (stored.samples, set(stored.lost)) == (len(updates) - len(lost), lost)
        self.held, self.stale = [], []

    async def miss(self, gone: bool) -> None:
        updates, now = [], self.clock.now()
        for target in self.held:
            never = {"next_due_at": None} if gone else {}
            updates.append(missing(target, now, gone=gone, **never))
            kept = self.videos[target.id]
            kept.due, kept.gone = now + timedelta(hours=target.interval_h), gone
            kept.free, kept.token = True, None
        assert await self.dao.update_video_stats_batch(updates) == BatchStored(0, ())
        self.held = []

    async def release(self) -> None:
        assert await self.dao.release_videos(self.held) == len(self.held)
        for target in self.held:
            self.videos[target.id].free, self.videos[target.id].token = True, None
        self.held = []

    async def kill(self) -> None:
        await expire_leases(self.sql)
        for target in self.held:
            self.videos[target.id].free = True
        self.stale, self.held = self.held, []

    async def check(self) -> None:
        rows = await self.sql.fetch("SELECT video_id, sampled_at, views FROM video_stats_log")
        expected = {
            (video_id, at): views
            for video_id, kept in self.videos.items()
            for at, views in kept.samples.items()
        }
        assert {(row[0], row[1]): row[2] for row in rows} == expected
        rows = await self.sql.fetch(
            "SELECT video_id, zone, next_due_at, status, lease_token FROM video_clock"
        )
        assert {row[0]: (row[1], row[2], row[3] == "gone", row[4]) for row in rows} == {
            video_id: (kept.zone, None if kept.gone else kept.due, kept.gone, kept.token)
            for video_id, kept in self.videos.items()
        }


COUNTS = st.none() | st.integers(0, 2**53)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("find"), st.integers(0, 7), st.sampled_from((-1, 0, 23, 24, 168, 169, 5000)), COUNTS
        ),
        st.tuples(st.just("wait"), st.sampled_from((1, 59, 60, 61, 600, 1440, 50_000))),
        st.tuples(st.just("claim"), st.integers(1, 9)),
        st.tuples(st.just("store"), COUNTS),
        st.tuples(st.just("miss"), st.booleans()),
        st.tuples(st.just("release")),
        st.tuples(st.just("kill")),
    ),
    min_size=10,
    max_size=40,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
async def test_the_clock_agrees_with_its_model(
    database: Database, sql: Any, settings_factory: SettingsFactory, steps: list[tuple[Any, ...]]
) -> None:
    await sql.execute("TRUNCATE channels CASCADE")
    await sql.execute("TRUNCATE video_stats_log")
    clock = FixedClock(NOON)
    # Nothing is older than retention here: what is kept of a long pause is another test's.
    dao = MaiaDAO(database, clock=clock, settings=settings_factory(tracker={"retention_days": 1096}))
    model = Model(dao, sql, clock)
    for name, *arguments in steps:
        await getattr(model, name)(*arguments)
    await model.check()
