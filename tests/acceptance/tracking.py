"""What the tests of the tracker share: videos that join the clock, and what the clock did, slot by slot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from atlas.clock import Clock
from atlas.composition import Atlas
from atlas.config import TrackerSettings
from atlas.testing import SettingsFactory
from maia.tracker.cycle import Tracker
from tests.acceptance.conftest import KEYS, Stage
from tests.acceptance.test_recorded import SHARED

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
HOT, WARM, COLD = 0, 1, 2

_SLOTS = """
CREATE TABLE slots (
    nth bigint GENERATED ALWAYS AS IDENTITY, video_id text, born_at timestamptz, pinned_zone smallint,
    waited_h real, due_at timestamptz, sampled_at timestamptz, sampled boolean, zone smallint,
    interval_h real, next_due_at timestamptz
);
CREATE FUNCTION note_slot() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO slots
        (video_id, born_at, pinned_zone, waited_h, due_at, sampled_at, sampled, zone, interval_h, next_due_at)
    VALUES (NEW.video_id, NEW.born_at, NEW.pinned_zone, OLD.interval_h, OLD.next_due_at, NEW.last_sampled_at,
            NEW.samples > OLD.samples, NEW.zone, NEW.interval_h, NEW.next_due_at);
    RETURN NULL;
END
$$;
CREATE TRIGGER note_slot AFTER UPDATE OF next_due_at ON video_clock FOR EACH ROW EXECUTE FUNCTION note_slot();
"""


@dataclass(frozen=True, slots=True)
class Slot:
    """A move of a video's clock: after which interval it was due, when it was sampled, what follows."""

    video_id: str
    born_at: datetime
    pinned_zone: int | None
    waited_h: float
    due_at: datetime
    sampled_at: datetime
    sampled: bool
    zone: int
    interval_h: float
    next_due_at: datetime


def recorded(*names: str) -> list[Any]:
    """The recorded files of these names; skips the test where they are not."""
    paths = [SHARED / name for name in names]
    if missing := [path.name for path in paths if not path.exists()]:
        pytest.skip(
            f"the recorded data is not here: {', '.join(missing)} (set PLEIADES_SHARED to its folder)"
        )
    return paths


@asynccontextmanager
async def tracker_of(
    factory: SettingsFactory, url: str, clock: Clock, **groups: Any
) -> AsyncIterator[Tracker]:
    """An open tracker in this process, whose quota is its own."""
    quota = {"pacing": False, "reserve": 0} | groups.pop("quota", {})
    settings = factory(youtube_api_key_pool_json=KEYS, youtube={"base_url": url}, quota=quota, **groups)
    async with Atlas.open(settings, clock=clock) as atlas, Tracker.open(atlas) as tracker:
        yield tracker


async def enrol(tracker: Tracker, ids: Iterable[str]) -> None:
    """Store videos as the hunter does when it finds them."""
    if wanted := list(ids):
        await tracker.dao.ingest_video_metadata(await tracker.youtube.videos(wanted))


async def enrol_on(stage: Stage, factory: SettingsFactory, ids: Iterable[str]) -> None:
    """The same for the processes of a stage."""
    limits = {name.rsplit("__", 1)[1].lower(): value for name, value in stage.environment.items()
              if name.startswith("PLEIADES_QUOTA__LIMITS__")}  # fmt: skip
    async with tracker_of(
        factory,
        stage.emulator.url,
        stage.emulator.clock,
        quota={"limits": limits},
        database_url=stage.database_url,
    ) as tracker:
        await enrol(tracker, ids)


async def note_slots(sql: Any) -> None:
    """From now on the database notes every move of a video's clock."""
    await sql.execute(_SLOTS)


async def slots_of(sql: Any) -> list[Slot]:
    """The moves in their order."""
    rows = await sql.fetch(
        "SELECT video_id, born_at, pinned_zone, waited_h, due_at, sampled_at, sampled, zone, interval_h,"
        " next_due_at FROM slots ORDER BY nth"
    )
    return [Slot(*row) for row in rows]


def chains(slots: Iterable[Slot]) -> Iterator[tuple[Slot, Slot]]:
    """Each move with the one before it of the same video."""
    last: dict[str, Slot] = {}
    for slot in slots:
        if slot.video_id in last:
            yield last[slot.video_id], slot
        last[slot.video_id] = slot


def usual_zone(age: timedelta, pinned: int | None = None) -> int:
    """Hot under a day, warm up to a week, else cold."""
    if pinned is not None:
        return pinned
    return HOT if age < DAY else WARM if age <= 7 * DAY else COLD


def assert_due_rule(slots: Sequence[Slot], tracker: TrackerSettings | None = None) -> None:
    """Nobody was sampled before it was due or twice in a slot, and each waits as its zone says."""
    tracker = tracker or TrackerSettings()
    intervals_h = tracker.hot_interval_h, tracker.warm_interval_h, tracker.cold_interval_h
    sampled = [slot for slot in slots if slot.sampled]
    assert len({(slot.video_id, slot.due_at) for slot in sampled}) == len(sampled)
    for slot in sampled:
        assert slot.sampled_at >= slot.due_at, slot
        assert slot.zone == usual_zone(slot.sampled_at - slot.born_at, slot.pinned_zone), slot
        waits_h = (slot.next_due_at - slot.sampled_at) / HOUR
        assert waits_h == pytest.approx(slot.interval_h, rel=1e-6), slot
        share = slot.interval_h / intervals_h[slot.zone]
        assert tracker.fastest * (1 - 1e-6) <= share <= tracker.slowest * (1 + 1e-6), slot
    for before, slot in chains(slots):
        assert slot.due_at == before.next_due_at, (before, slot)


async def assert_log_is_the_slots(sql: Any) -> None:
    """A sample for every slot and a slot for every sample, except for the count stored at ingestion."""
    log = await sql.fetch("SELECT video_id, sampled_at FROM video_stats_log")
    noted = await sql.fetch("SELECT video_id, sampled_at FROM slots WHERE sampled")
    first = await sql.fetch("SELECT id, discovered_at FROM videos")
    assert len({*noted}) == len(noted)
    assert {*noted} <= {*log}
    assert {*log} - {*noted} <= {*first}


async def assert_nothing_is_strange(sql: Any) -> None:
    """No table holds a NaN or an infinity, a negative count, a velocity without a count or a negative age."""
    columns = await sql.fetch(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND data_type IN ('real', 'double precision')"
    )
    assert len(columns) > 10
    for table, column in columns:
        strange = f"SELECT count(*) FROM {table} WHERE {column} IN ('NaN', 'infinity', '-infinity')"
        assert await sql.fetchval(strange) == 0, (table, column)
    assert (
        await sql.fetchval("SELECT count(*) FROM video_stats_log WHERE least(views, likes, comments) < 0")
        == 0
    )
    assert (
        await sql.fetchval(
            "SELECT count(*) FROM video_stats_log WHERE views IS NULL AND velocity IS NOT NULL"
        )
        == 0
    )
    ages = "SELECT min((payload ->> 'age_h')::float8) FROM events WHERE kind = 'tracker.breakout'"
    assert (await sql.fetchval(ages) or 0) >= 0


async def connect(stage: Stage) -> asyncpg.Connection[asyncpg.Record]:
    return await asyncpg.connect(stage.database_url)
