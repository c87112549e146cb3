"""The tracker against a real database and the emulator over real sockets: its cycle, and what fails in it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from atlas.adapters.patterns import Model, PatternsDAO
from atlas.adapters.tracking import Target
from atlas.adapters.watches import Watch, WatchesDAO, WatchKind
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.errors import ConfigError, DatabaseError, EmptyKeyRing, TransactionConflict
from atlas.testing import NOON, RecordingNotifier, SettingsFactory
from maia.cycle.agent import run, run_directly
from maia.cycle.expectations import SUCCESS_MODEL
from maia.emulator import Emulator, Project
from maia.emulator.catalogue import Catalogue, CatalogueChannel, CatalogueVideo, new_catalogue
from maia.emulator.curves import HIDDEN, Sample
from maia.learning.success import Outcome, SuccessPredictor, known_before
from maia.tracker import cycle as module
from maia.tracker.cycle import GroupProgress, Tracker, TrackerStatistics
from maia.youtube.errors import KeyRejected
from tests.growth import stored_samples
from tests.interference import Interferer

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("without_waits")]

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
KEYS = json.dumps([{"key": "demo-one", "project": "demo"}])
STEADY = [f"steady{n:05d}" for n in range(240)]
FALLING, SHY, REMOVED, RISING = "falling0000", "shy00000000", "removed0000", "rising00000"
NEWEST = STEADY[-1]
OF_CHANNELS = {"channel_stats_log", "channel_clock", "channels"}
Tracking = Callable[..., AbstractAsyncContextManager[Tracker]]


def at(instant: datetime) -> int:
    return int(instant.timestamp())


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """240 videos, an hour apart up to NOON, where the n-th gains n + 1 views an hour; and odd ones."""
    path = tmp_path_factory.mktemp("catalogue") / "curves.sqlite"
    end = NOON + 60 * DAY
    rising = [(at(NOON) + hour * 3600, 20 * hour + 3000 * max(0, hour - 72)) for hour in range(14 * 24)]
    curves: list[tuple[str, datetime, list[Sample]]] = [
        (RISING, NOON, [Sample(when, views) for when, views in rising]),
        (FALLING, NOON - 5 * HOUR, [
            Sample(at(NOON), 1000, 10), Sample(at(NOON + HOUR), 900, 9), Sample(at(NOON + 2 * HOUR), 950, 9),
        ]),
        (SHY, NOON - 5 * HOUR, [
            Sample(at(NOON), 1000), Sample(at(NOON + HOUR), HIDDEN), Sample(at(NOON + 2 * HOUR), 3000),
        ]),
        (REMOVED, NOON - 5 * HOUR, [Sample(at(NOON), 10, 1, 0)]),
    ]  # fmt: skip
    for n, id_ in enumerate(STEADY):
        born = NOON - (240 - n) * HOUR
        total = round((end - born) / HOUR * (n + 1))
        curves.append((id_, born, [Sample(at(born), 0, 0, 0), Sample(at(end), total, n, 1)]))
    with new_catalogue(path, {"made_by": "test"}) as writer:
        writer.add_channels(
            CatalogueChannel(f"UC{n:022d}", f"Channel {n}", subscribers=1000 * n) for n in range(5)
        )
        for n, (id_, born, samples) in enumerate(sorted(curves, key=lambda curve: (curve[1], curve[0]))):
            removed_at = at(NOON + HOUR / 2) if id_ == REMOVED else None
            video = CatalogueVideo(
                id_, f"UC{n % 5:022d}", f"About {id_}", at(born), category_id=10 + n % 2,
                tags=("cats",), removed_at=removed_at,
            )  # fmt: skip
            writer.add(video, f"Channel {n % 5}", samples)
    with Catalogue.open(path) as opened:
        yield opened


@pytest.fixture
def tracking(settings_factory: SettingsFactory, emulator: Emulator, clock: FixedClock) -> Tracking:
    @asynccontextmanager
    async def open_tracker(*ids: str, **groups: Any) -> AsyncIterator[Tracker]:
        """A tracker that knows `ids` since now."""
        youtube = {"base_url": emulator.url} | groups.pop("youtube", {})
        quota = {"pacing": False} | groups.pop("quota", {})
        defaults: dict[str, Any] = {"youtube_api_key_pool_json": KEYS}
        settings = settings_factory(**(defaults | groups), youtube=youtube, quota=quota)
        async with Atlas.open(settings, clock=clock) as atlas, Tracker.open(atlas) as tracker:
            await discover(tracker, *ids)
            yield tracker

    return open_tracker


async def discover(tracker: Tracker, *ids: str) -> None:
    """Store videos as the hunter does when it finds them."""
    if ids:
        await tracker.dao.ingest_video_metadata(await tracker.youtube.videos(ids))
        tracker.youtube.requests.clear()


def asked(emulator: Emulator, method: str = "videos.batchGetStats") -> list[list[str]]:
    """The ids of each call of a method."""
    return [dict(call.parameters)["id"].split(",") for call in emulator.calls if call.method == method]


async def clock_of(sql: Any, id_: str = NEWEST) -> dict[str, Any]:
    return dict(await sql.fetchrow("SELECT * FROM video_clock WHERE video_id = $1", id_))


async def samples_of(sql: Any, id_: str) -> list[tuple[Any, ...]]:
    query = "SELECT sampled_at, views, velocity FROM video_stats_log WHERE video_id = $1 ORDER BY sampled_at"
    return [tuple(row) for row in await sql.fetch(query, id_)]


async def events(sql: Any, kind: str = "tracker.cycle") -> list[dict[str, Any]]:
    rows = await sql.fetch("SELECT payload FROM events WHERE kind = $1 ORDER BY id", kind)
    return [json.loads(row["payload"]) for row in rows]


async def leases(sql: Any) -> set[tuple[Any, ...]]:
    """What the clocks say of claims: attempts and token, and whether the clock moved since NOON."""
    return {
        tuple(row)
        for row in await sql.fetch(
            "SELECT attempts, lease_token, last_sampled_at FROM video_clock"
            " UNION SELECT attempts, lease_token, last_at FROM channel_clock"
        )
    }


# What a cycle does


async def test_a_cycle_samples_what_is_due_and_moves_its_clock(
    tracking: Tracking, emulator: Emulator, catalogue: Catalogue, clock: FixedClock, sql: Any
) -> None:
    async with tracking(*STEADY[-30:]) as tracker:
        clock.advance(HOUR)
        statistics = await tracker.cycle()
    hot = STEADY[-23:]
    assert sorted(asked(emulator)[0]) == hot
    for id_ in hot:
        counts = catalogue.counts_of(id_, clock.now())
        assert counts is not None
        (_, before, none), (when, views, velocity) = await samples_of(sql, id_)
        assert (when, views, none) == (clock.now(), counts.views, None)
        row = await clock_of(sql, id_)
        assert velocity == views - before == row["velocity"]
        assert (row["last_at"], row["last_views"], row["samples"]) == (when, views, 1)
        assert (row["lease_token"], row["attempts"], row["last_likes"]) == (None, 0, counts.likes)
        waits = timedelta(hours=round(row["interval_h"], 6))
        assert abs(row["next_due_at"] - when - waits) < timedelta(seconds=1)
    assert await sql.fetchval("SELECT count(*) FROM video_stats_log") == 2 * len(hot)
    assert statistics == replace(
        TrackerStatistics(cycles=1, videos=23, samples=23, channels=5, due={"hot": 23, "warm": 0, "cold": 0}),
        units={"stats": 1, "general": 1},
        seconds=statistics.seconds,
    )
    assert await events(sql) == [statistics.as_dict()]


async def test_nothing_due_is_no_call_and_no_claim(tracking: Tracking, emulator: Emulator, sql: Any) -> None:
    async with tracking(*STEADY[-30:]) as tracker:
        await tracker.cycle()
        calls = len(emulator.calls)
        idle = await tracker.cycle()
    assert len(emulator.calls) == calls
    assert (idle.outcome, idle.videos, idle.units) == ("idle", 0, {})
    soonest = await sql.fetchval("SELECT min(next_due_at) FROM video_clock")
    assert (idle.detail or "").startswith(f"nothing is due now; next at {soonest:%Y-%m-%d %H:%M} UTC, in ")


async def test_many_are_asked_for_by_fifty_and_stored_by_groups(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CALLS_PER_GROUP", 2)
    seen: list[GroupProgress] = []
    async with tracking(*STEADY) as tracker:
        clock.advance(DAY)
        total = await run(Tracker, tracker.atlas, cycles=9, on_progress=seen.append)
    assert (total["samples"], total["units"], total["outcome"]) == (240, {"stats": 5, "general": 1}, "idle")
    assert sorted(len(ids) for ids in asked(emulator)) == [40, 50, 50, 50, 50]
    assert (seen[-1].samples, seen[-1].done, seen[-1].claimed) == (240, 245, 245)
    assert await sql.fetchval("SELECT count(*) FROM video_stats_log") == 480


async def test_hot_videos_go_first_then_warm_then_cold(tracking: Tracking, clock: FixedClock) -> None:
    async with tracking(*STEADY) as tracker:
        clock.advance(DAY)
        zones = []
        for _ in range(3):
            batch = await tracker.fetch_targets(80)
            zones.append([target.zone for target in batch.targets])
    assert [zone for batch in zones for zone in batch] == sorted(zone for batch in zones for zone in batch)
    assert [len(batch) for batch in zones] == [80, 80, 80]


async def test_each_zone_keeps_its_interval(tracking: Tracking, clock: FixedClock, sql: Any) -> None:
    """Videos of steady growth, fast enough to be worth each sample, wait exactly their zone's interval."""
    async with tracking(*STEADY[-60:]) as tracker:
        for _ in range(4 * 48):
            clock.advance(HOUR / 4)
            await tracker.cycle()
    for n, id_ in enumerate(STEADY[-60:], start=180):
        born = NOON - (240 - n) * HOUR
        waits = [later - sooner for (sooner, *_), (later, *_) in pairwise(await samples_of(sql, id_))]
        ages = [when - born for when, *_ in await samples_of(sql, id_)]
        for age, wait in zip(ages, waits, strict=False):
            assert wait == (HOUR if age < DAY else 6 * HOUR)


async def test_falling_counts_are_a_negative_velocity(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    async with tracking(FALLING) as tracker:
        for _ in range(2):
            clock.advance(HOUR)
            await tracker.cycle()
    assert [row[1:] for row in await samples_of(sql, FALLING)] == [(1000, None), (900, -100.0), (950, 50.0)]
    row = await clock_of(sql, FALLING)
    assert -100 < row["velocity"] < 50
    assert row["acceleration"] > 0


async def test_a_hidden_count_is_null_and_the_next_is_compared_with_the_last_known(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    async with tracking(SHY) as tracker:
        clock.advance(HOUR)
        hidden = await tracker.cycle()
        row = await clock_of(sql, SHY)
        assert (row["last_views"], row["last_at"], row["last_sampled_at"]) == (1000, NOON, clock.now())
        clock.advance(HOUR)
        shown = await tracker.cycle()
    assert (hidden.samples, hidden.hidden, shown.samples, shown.hidden) == (1, 1, 1, 0)
    assert [row[1:] for row in await samples_of(sql, SHY)] == [(1000, None), (None, None), (3000, 1000.0)]


async def test_no_velocity_crosses_the_methodology_epoch(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    epoch = NOON + timedelta(minutes=90)
    async with tracking(NEWEST, tracker={"methodology_epoch": epoch}) as tracker:
        for _ in range(3):
            clock.advance(HOUR)
            await tracker.cycle()
            if clock.now() == NOON + 2 * HOUR:
                assert (await clock_of(sql))["velocity"] is None
    rows = await sql.fetch("SELECT velocity, methodology FROM video_stats_log ORDER BY sampled_at")
    assert [tuple(row) for row in rows] == [(None, 1), (240.0, 1), (None, 2), (240.0, 2)]


async def test_a_missing_video_is_gone_at_the_second_miss_and_revived_by_a_return(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any
) -> None:
    async with tracking(REMOVED, NEWEST) as tracker:
        cycles = []
        for _ in range(3):
            clock.advance(HOUR)
            cycles.append(await tracker.cycle())
        assert [(cycle.samples, cycle.missing, cycle.gone) for cycle in cycles] == [
            (1, 1, 0),
            (1, 1, 1),
            (1, 0, 0),
        ]
        row = await clock_of(sql, REMOVED)
        assert (row["status"], row["misses"], row["gone_at"]) == ("gone", 2, NOON + 2 * HOUR)
        assert await sql.fetchval("SELECT status FROM videos WHERE id = $1", REMOVED) == "gone"
        assert await samples_of(sql, REMOVED) == []

        clock.instant = NOON
        again = await tracker.youtube.videos([REMOVED])
        clock.advance(4 * HOUR)
        await tracker.dao.ingest_video_metadata(again)
        assert (await clock_of(sql, REMOVED))["status"] == "live"
        assert REMOVED in {target.id for target in (await tracker.fetch_targets(10)).targets}


async def test_an_answer_without_anything_is_doubted_once(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with tracking(REMOVED, tracker={"retry_after_s": 0}) as tracker:
        clock.advance(HOUR)
        doubted = await tracker.cycle()
        row = await clock_of(sql, REMOVED)
        assert (row["misses"], row["attempts"], row["next_due_at"]) == (0, 1, NOON + HOUR)
        believed = await tracker.cycle()
        clock.advance(HOUR)
        cycles = [await tracker.cycle() for _ in range(2)]
    assert (doubted.samples, doubted.missing, doubted.skipped) == (0, 0, {"empty": 1})
    assert (believed.missing, believed.gone, believed.skipped) == (1, 0, {})
    assert [cycle.gone for cycle in cycles] == [0, 1]
    skips = [one for one in caplog.records if getattr(one, "action", None) == "skipped_empty"]
    assert {one.levelname for one in skips} == {"INFO"}
    assert skips[0].getMessage() == "skipped 1 video (empty): none of 1 id is in the response"


async def test_answers_without_anything_are_doubted_once_and_then_misses(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ids = STEADY[-120:]
    caplog.set_level("INFO")
    async with tracking(*ids, tracker={"retry_after_s": 0}) as tracker:
        clock.advance(6 * HOUR)
        before = await stored_samples(sql)
        # Only the emulator lives before all of it was published.
        emulator.clock = FixedClock(NOON - 300 * HOUR)
        doubted = await tracker.cycle()
        assert (doubted.outcome, doubted.samples, doubted.missing) == ("done", 0, 0)
        assert doubted.skipped["empty"] >= len(ids)
        assert "none of" in caplog.text
        after = await stored_samples(sql)
        assert {name for name in before if after[name] != before[name]} <= OF_CHANNELS
        missed = await tracker.cycle()
        assert (missed.outcome, missed.missing, missed.gone) == ("done", len(ids), 0)
        assert await sql.fetchval("SELECT count(*) FROM video_stats_log") == 0
        counted = await sql.fetch("SELECT status, misses, count(*) FROM video_clock GROUP BY 1, 2")
        assert [tuple(row) for row in counted] == [("live", 1, len(ids))]

        emulator.clock = clock
        clock.advance(2 * DAY)
        assert (await tracker.cycle()).samples == len(ids)
        assert await sql.fetchval("SELECT max(misses) FROM video_clock") == 0


async def test_channels_are_sampled_daily_and_gone_when_they_are_missing(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any
) -> None:
    await sql.execute(
        "INSERT INTO channels (id, discovered_at, refreshed_at) VALUES ('UCnobody', $1, $1)", NOON
    )
    await sql.execute("INSERT INTO channel_clock (channel_id, next_due_at) VALUES ('UCnobody', $1)", NOON)
    async with tracking(*STEADY[-5:]) as tracker:
        for _ in range(49):
            clock.advance(HOUR)
            await tracker.cycle()
    rows = await sql.fetch(
        "SELECT channel_id, sampled_at, subscribers FROM channel_stats_log WHERE channel_id = $1"
        " ORDER BY sampled_at", "UC" + "4".zfill(22),
    )  # fmt: skip
    assert [(row["sampled_at"] - NOON) / HOUR for row in rows] == [1, 25, 49]
    assert rows[0]["subscribers"] > 0
    assert await sql.fetchval("SELECT status FROM channel_clock WHERE channel_id = 'UCnobody'") == "gone"
    assert len(asked(emulator, "channels.list")) == 3


async def test_metadata_are_refreshed_in_time_by_the_call_that_samples(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any
) -> None:
    async with tracking(*STEADY[-3:]) as tracker:
        clock.advance(25 * DAY - HOUR)
        assert (await tracker.cycle()).refreshed == 0
        await sql.execute("UPDATE videos SET title = 'old'")
        clock.advance(2 * DAY)
        statistics = await tracker.cycle()
        kept = await tracker.atlas.vault.list(f"metadata/{clock.now():%Y-%m-%d}/")
    assert (statistics.samples, statistics.refreshed, statistics.units) == (3, 3, {"general": 2})
    assert len(asked(emulator)) == 1
    assert {row[0] for row in await sql.fetch("SELECT metadata_at FROM video_clock")} == {clock.now()}
    assert "old" not in {row[0] for row in await sql.fetch("SELECT title FROM videos")}
    assert len(kept) == 3


async def test_without_quota_for_metadata_the_counts_are_sampled_all_the_same(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any
) -> None:
    async with tracking(*STEADY[-3:]) as tracker:
        clock.advance(26 * DAY)
        emulator.set_faults(["403-quota:1:videos.list"])
        refused = await tracker.cycle()
        await sql.execute("UPDATE video_clock SET next_due_at = $1", clock.now() + HOUR)
        clock.advance(HOUR)
        closed = await tracker.cycle()
    assert (refused.samples, refused.refreshed, refused.outcome) == (3, 0, "done")
    assert (closed.samples, closed.refreshed, closed.units, closed.outcome) == (3, 0, {"stats": 1}, "done")


async def test_a_breakout_is_told_once_by_event_and_alert(
    settings_factory: SettingsFactory,
    emulator: Emulator,
    clock: FixedClock,
    recording_notifier: RecordingNotifier,
    sql: Any,
) -> None:
    settings = settings_factory(
        youtube_api_key_pool_json=KEYS, youtube={"base_url": emulator.url}, quota={"pacing": False},
        notifier={"urls": [recording_notifier.url]},
    )  # fmt: skip
    async with Atlas.open(settings, clock=clock) as atlas, Tracker.open(atlas) as tracker:
        await discover(tracker, RISING, *STEADY[-20:])
        statistics = TrackerStatistics()
        for _ in range(24 * 7):
            clock.advance(HOUR)
            statistics = statistics.then(await tracker.cycle())
    (told,) = await events(sql, "tracker.breakout")
    assert statistics.breakouts == 1
    assert told["video_id"] == RISING
    assert timedelta() < datetime.fromisoformat(told["at"]) - (NOON + 72 * HOUR) <= 2 * DAY
    assert told["times_expected"] > 3
    (alert,) = recording_notifier.alerts
    assert alert["title"] == f"Breakout: About {RISING}"
    assert "computed by Pleiades, not by YouTube" in alert["message"]
    assert RISING in alert["message"]


async def test_cohorts_and_norms_are_kept_for_those_who_come_later(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    async with tracking(*STEADY[-20:]) as tracker:
        clock.advance(HOUR)
        await tracker.cycle()
        videos = await sql.fetchval("SELECT sum(videos) FROM channel_norms")
    assert videos == 20
    digests = await sql.fetch("SELECT * FROM velocity_cohorts")
    assert {(row["day"], row["measure"]) for row in digests} == {(NOON.date(), "velocity")}
    assert {row["category_id"] for row in digests} == {10, 11}
    async with tracking() as tracker:
        clock.advance(HOUR)
        await tracker.cycle()
    scores = await sql.fetch("SELECT velocity, viral_score, relative_velocity FROM video_clock")
    assert all(0 < row["viral_score"] < 1 and row["relative_velocity"] > 0 for row in scores)
    assert scores
    assert max(scores, key=lambda row: row["velocity"])["viral_score"] > 0.5


async def test_old_samples_are_dropped_and_tomorrows_partition_is_made(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    days = "SELECT relname FROM pg_class WHERE relname ~ '^video_stats_log_[0-9]*$' AND relkind = 'r'"
    async with tracking(NEWEST, tracker={"retention_days": 3}) as tracker:
        clock.advance(HOUR)
        await tracker.cycle()
        first = {row[0] for row in await sql.fetch(days)}
        assert {"video_stats_log_20261102", "video_stats_log_20261103"} <= first
        await sql.execute("INSERT INTO system_metrics (at, node) VALUES ('2026-01-01', 'gone')")
        clock.advance(5 * DAY)
        await tracker.cycle()
    assert "video_stats_log_20261102" not in {row[0] for row in await sql.fetch(days)}
    assert [when for when, *_ in await samples_of(sql, NEWEST)] == [clock.now()]
    assert await sql.fetchval("SELECT array_agg(DISTINCT node) FROM system_metrics") == ["test"]


async def test_a_cycle_leaves_a_sample_of_the_host_and_what_it_called(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    async with tracking(NEWEST) as tracker:
        clock.advance(HOUR)
        await tracker.cycle()
        assert await sql.fetch("SELECT at, node FROM system_metrics") == [(clock.now(), "test")]
        used = await sql.fetch("SELECT kind, name, count, errors FROM application_usage WHERE name ~ 'Stats'")
    assert used == [("call", "videos.batchGetStats", 1, 0)]


# What is recorded of each call


async def steps(sql: Any) -> list[dict[str, Any]]:
    return await events(sql, "tracker.step")


async def test_each_call_is_recorded_with_what_it_brought(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    async with tracking(*STEADY) as tracker:
        clock.advance(DAY)
        statistics = await tracker.cycle()
    *samples, channels = await steps(sql)
    assert {step["action"] for step in samples} == {"sample"}
    assert sorted(step["context"]["batch"] for step in samples) == [40, 50, 50, 50, 50]
    mixed: Counter[str] = Counter()
    for step in samples:
        assert (step["outcome"], step["reward"], step["cost"]) == ("success", step["context"]["batch"], 1)
        assert step["at"] == clock.now().isoformat()
        zones = {zone: count for zone, count in step["context"].items() if zone != "batch"}
        assert sum(zones.values()) == step["context"]["batch"]
        mixed.update(zones)
    assert mixed == {zone: count for zone, count in statistics.due.items() if count}
    assert (channels["action"], channels["reward"], channels["cost"]) == ("channels", 5, 1)
    assert sum(step["cost"] for step in [*samples, channels]) == sum(statistics.units.values())
    assert all(0 < step["seconds"] <= statistics.seconds for step in [*samples, channels])


async def test_each_call_is_recorded_with_what_was_expected_of_it(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any
) -> None:
    predictor = SuccessPredictor()
    for action in ("sample", "channels"):
        context = known_before("tracker", action, {"batch": 50}, NOON)
        failure_class = "network" if action == "channels" else None
        predictor.learn_many([Outcome(context, action == "sample", failure_class)] * 300)
    async with tracking(*STEADY) as tracker:
        dao = PatternsDAO(tracker.atlas.db, clock=clock, settings=tracker.atlas.settings)
        await dao.save_models([Model(SUCCESS_MODEL, 1, predictor.state(), 600)])
        clock.advance(DAY)
        emulator.set_faults(["503:1:channels.list"])
        await tracker.cycle()
    *samples, channels = await steps(sql)
    assert channels["outcome"] == "network"
    assert {step["outcome"] for step in samples} == {"success"}
    assert all(channels["expected"]["success"] < step["expected"]["success"] for step in samples)
    assert channels["expected"]["failure_class"] == "network"


async def test_calls_for_old_metadata_are_recorded_apart(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    async with tracking(*STEADY[-60:]) as tracker:
        clock.advance(30 * DAY)
        statistics = await tracker.cycle()
    of_action: Counter[str] = Counter()
    for step in await steps(sql):
        of_action[step["action"]] += step["reward"]
    assert of_action == {"metadata": 60, "channels": 5}
    assert statistics.refreshed == 60


async def test_a_watched_video_is_recorded_when_it_is_fetched(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    async with tracking() as tracker:
        watches = WatchesDAO(tracker.atlas.db, clock=clock, settings=tracker.atlas.settings)
        await watches.add([Watch(WatchKind.VIDEO, NEWEST), Watch(WatchKind.VIDEO, "nobodyknows")])
        await tracker.cycle()
    (step,) = [step for step in await steps(sql) if step["action"] == "watched"]
    assert "expected" not in step, "nothing was learnt yet"
    assert (step["outcome"], step["reward"], step["cost"], step["context"]) == ("success", 1, 1, {"batch": 2})


@pytest.mark.parametrize(
    ("fault", "outcome", "cost", "error"),
    [
        ("503:1:videos.batchGetStats", "network", 1, "HTTP 503 backendError"),
        ("403-quota:1:videos.batchGetStats", "ring_closed", 0, "the day's quota is spent"),
        ("429-day:1:videos.batchGetStats", "rate_limited", 1, "HTTP 429 rateLimitExceeded"),
    ],
)
async def test_a_call_that_fails_is_recorded_with_its_reason_and_error(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any,
    fault: str, outcome: str, cost: int, error: str,
) -> None:  # fmt: skip
    async with tracking(*STEADY[-20:]) as tracker:
        clock.advance(HOUR)
        emulator.set_faults([fault])
        with suppress(SystemExit):
            await tracker.cycle()
    failed = (await steps(sql))[0]
    assert (failed["action"], failed["outcome"], failed["reward"], failed["cost"]) == (
        "sample", outcome, 0, cost,
    )  # fmt: skip
    assert failed["error"].startswith(f"videos.batchGetStats: {error}")
    assert failed["context"] == {"batch": 20, "hot": 20}


async def test_a_group_that_cannot_be_stored_was_paid_for(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    async with tracking(*STEADY[-120:]) as tracker:
        clock.advance(DAY)
        await sql.execute(
            "ALTER TABLE video_clock ADD CONSTRAINT picky CHECK (video_id <> 'steady00239' OR samples = 0)"
        )
        with pytest.raises(DatabaseError):
            await tracker.cycle()
    (step,) = await steps(sql)
    assert (step["action"], step["outcome"], step["cost"]) == ("sample", "database", 3)
    assert (step["context"]["batch"], "picky" in step["error"]) == (120, True)


async def test_calls_that_are_cut_off_are_recorded_as_interrupted(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any
) -> None:
    begun = asyncio.Event()

    async def begin(targets: Sequence[Target]) -> None:
        begun.set()

    async with tracking(*STEADY[-120:], youtube={"timeout_s": 100, "total_timeout_s": 200}) as tracker:
        clock.advance(6 * HOUR)
        emulator.set_faults(["latency-60s:1"])
        cycle = asyncio.create_task(Interferer(tracker, update_stats=begin).cycle())
        await begun.wait()
        cycle.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cycle
    (step,) = await steps(sql)
    assert (step["action"], step["outcome"], "error" in step) == ("sample", "interrupted", False)
    assert step["context"]["batch"] == 120


# The quota


async def test_a_closed_ring_makes_no_call_and_no_claim_until_it_reopens(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any
) -> None:
    quota = {
        "limits": {"stats": 1},
        "shares": {"tracking": {"stats": 1, "general": 0.5}, "archeology": {"stats": 0}},
    }
    async with tracking(*STEADY[-3:], quota=quota | {"reserve": 0}) as tracker:
        clock.advance(HOUR)
        assert (await tracker.cycle()).samples == 3
        clock.advance(HOUR)
        calls, before = len(emulator.calls), await clock_of(sql)
        closed = await tracker.cycle()
        assert (closed.outcome, closed.videos, closed.units) == ("closed", 0, {})
        assert closed.reopens_at == datetime(2026, 11, 3, 8, tzinfo=UTC)
        assert "until 2026-11-03 08:00:00 UTC" in str(closed.detail)
        assert (len(emulator.calls), await clock_of(sql)) == (calls, before)
        clock.instant = closed.reopens_at
        assert (await tracker.cycle()).samples == 3


async def test_a_spent_day_rotates_to_the_next_permitted_project(
    settings_factory: SettingsFactory, catalogue: Catalogue, clock: FixedClock
) -> None:
    keys = json.dumps([{"key": f"{name}-key", "project": name} for name in ("one", "two")])
    projects = [Project("one", stats=0), Project("two")]
    async with Emulator.serve(catalogue, clock=clock, projects=projects) as emulator:
        settings = settings_factory(
            youtube_api_key_pool_json=keys, youtube={"base_url": emulator.url},
            quota={"pacing": False, "separate_projects_permitted": True},
        )  # fmt: skip
        async with Atlas.open(settings, clock=clock) as atlas, Tracker.open(atlas) as tracker:
            await discover(tracker, *STEADY[-120:])
            clock.advance(6 * HOUR)
            statistics = [await tracker.cycle() for _ in range(2)]
            assert emulator.used("two", "stats") == 3
    assert (statistics[0].samples, statistics[0].outcome) == (120, "done")


async def test_a_spent_day_gives_everything_back_and_says_when_it_reopens(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any
) -> None:
    async with tracking(*STEADY[-120:]) as tracker:
        clock.advance(6 * HOUR)
        before = await stored_samples(sql)
        emulator.set_faults(["403-quota:1:videos.batchGetStats"])
        statistics = await tracker.cycle()
        calls = len(emulator.calls)
        assert (await tracker.cycle()).outcome == "closed"
        assert len(emulator.calls) == calls
        after = await stored_samples(sql)
    assert (statistics.outcome, statistics.samples) == ("closed", 0)
    assert statistics.skipped == {"ring_closed": 125}
    assert statistics.reopens_at == datetime(2026, 11, 3, 8, tzinfo=UTC)
    assert await leases(sql) == {(0, None, None)}
    assert {name for name in before if after[name] != before[name]} <= OF_CHANNELS


@pytest.mark.parametrize("kind", ["429-day", "429-minute", "429-retry-after", "429-bare"])
async def test_a_429_releases_every_claim_and_ends_the_process(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any, kind: str
) -> None:
    async with tracking(*STEADY[-120:]) as tracker:
        clock.advance(6 * HOUR)
        before = await stored_samples(sql)
        emulator.set_faults([f"{kind}:1"])
        with pytest.raises(SystemExit) as ended:
            await tracker.cycle()
        calls = len(emulator.calls)
        closed = await tracker.cycle()
        assert len(emulator.calls) == calls
        assert await stored_samples(sql) == before
    assert (ended.value.code, closed.outcome) == (75, "closed")
    assert closed.reopens_at is not None
    assert (clock.now() < closed.reopens_at <= clock.now() + 10 * MINUTE) == (kind != "429-day")
    assert await leases(sql) == {(0, None, None)}
    told = await events(sql)
    assert [(cycle["outcome"], cycle["skipped"]) for cycle in told] == [
        ("rate_limited", {"rate_limited": 125}), ("closed", {}),
    ]  # fmt: skip
    until = await sql.fetchval("SELECT closed_until FROM quota_ledger WHERE bucket = 'stats'")
    assert told[0]["reopens_at"] is not None
    assert told[1]["reopens_at"] == until.isoformat()


async def test_a_429_for_channels_ends_the_process_with_the_videos_stored(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any
) -> None:
    async with tracking(*STEADY[-3:]) as tracker:
        clock.advance(HOUR)
        emulator.set_faults(["429-day:1:channels.list"])
        with pytest.raises(SystemExit) as ended:
            await tracker.cycle()
    assert ended.value.code == 75
    (told,) = await events(sql)
    assert (told["samples"], told["channels"], told["skipped"]) == (3, 0, {"rate_limited": 3})
    assert await sql.fetchval("SELECT count(*) FROM channel_clock WHERE lease_token IS NOT NULL") == 0


async def test_what_was_answered_before_a_429_is_stored(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tracking(*STEADY[-100:], youtube={"concurrency": 1}) as tracker:
        clock.advance(6 * HOUR)
        batch_get_stats = tracker.youtube.batch_get_stats

        async def then_refuse(ids: Any) -> Any:
            answer = await batch_get_stats(ids)
            emulator.set_faults(["429-day:1"])
            return answer

        monkeypatch.setattr(tracker.youtube, "batch_get_stats", then_refuse)
        with pytest.raises(SystemExit):
            await tracker.cycle()
    (told,) = await events(sql)
    assert (told["samples"], told["units"]) == (50, {"stats": 2})
    assert sum(told["skipped"].values()) == 55
    assert await sql.fetchval("SELECT count(*) FROM video_clock WHERE samples = 1") == 50
    assert await sql.fetchval("SELECT count(*) FROM video_clock WHERE lease_token IS NOT NULL") == 0


async def test_a_429_ends_the_process_even_if_the_database_hangs(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lock = sql.transaction()

    async def hang(targets: Sequence[Target]) -> None:
        await lock.start()
        await sql.execute("LOCK TABLE video_clock")

    async with tracking(NEWEST, database={"lock_timeout_s": 100, "statement_timeout_s": 100}) as tracker:
        clock.advance(HOUR)
        emulator.set_faults(["429-day:1"])
        with pytest.raises(SystemExit) as ended:
            await Interferer(tracker, update_stats=hang).cycle()
        assert ended.value.code == 75
        assert "releasing the claims took longer than" in caplog.text
        await lock.rollback()
    assert (await events(sql))[0]["outcome"] == "rate_limited"


async def test_a_short_budget_keeps_the_hot_ones_first_and_says_what_it_leaves_out(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    quota = {
        "limits": {"stats": 2},
        "shares": {"tracking": {"stats": 1, "general": 0.5}, "archeology": {"stats": 0}},
    }
    async with tracking(*STEADY, quota=quota | {"reserve": 0}) as tracker:
        clock.advance(DAY - HOUR)
        statistics = await tracker.cycle()
        counts = {count.zone: count for count in await tracker.dao.clock_counts()}
        kept = await tracker.cycle()
    # The other unit is kept for the hot ones' next hour.
    assert (statistics.samples, statistics.degraded, statistics.units["stats"]) == (50, 1, 1)
    assert statistics.due == {"hot": 23, "warm": 145, "cold": 0}
    assert sum(statistics.deferred.values()) == sum(count.due for count in counts.values())
    assert statistics.deferred["hot"] == 0
    hot = await sql.fetch("SELECT samples FROM video_clock WHERE born_at > $1", NOON - DAY)
    assert {row["samples"] for row in hot} == {1}
    assert "the quota pays for only 50 of 168 videos that are due" in caplog.text
    assert (await events(sql))[0]["deferred"] == statistics.deferred
    assert (kept.outcome, kept.samples, kept.degraded) == ("idle", 0, 1)
    assert kept.detail == (
        "the quota left today is kept for hot videos; the others are sampled after the reset"
    )


# The network and the API


async def test_a_network_that_fails_moves_no_clock(
    tracking: Tracking, clock: FixedClock, unused_tcp_port: int, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with tracking(*STEADY[-3:]):
        pass
    nowhere = {"base_url": f"http://127.0.0.1:{unused_tcp_port}"}
    before = await stored_samples(sql)
    spent = await sql.fetch("SELECT * FROM quota_ledger WHERE used + reserved > 0")
    async with tracking(youtube=nowhere) as tracker:
        clock.advance(HOUR)
        first = await tracker.cycle()
        assert (await tracker.cycle()).outcome == "idle"
        for _ in range(3):
            await sql.execute("UPDATE video_clock SET lease_until = NULL")
            assert (await tracker.cycle()).skipped == {"network": 3}
    assert (first.outcome, first.samples, first.skipped, first.units) == (
        "unavailable",
        0,
        {"network": 6},
        {},
    )
    assert first.detail == "YouTube could not be reached"
    assert await stored_samples(sql) == before
    assert await sql.fetch("SELECT * FROM quota_ledger WHERE used + reserved > 0") == spent
    assert await leases(sql) == {(0, None, None)}
    assert "skipped 3 videos (network)" in caplog.text
    assert await sql.fetchval("SELECT count(*) FROM video_stats_log") == 0


@pytest.mark.parametrize("fault", ["500", "truncated", "reset", "reset-midway", "html", "empty-body"])
async def test_answers_that_fail_or_are_torn_are_no_samples(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any, fault: str
) -> None:
    async with tracking(*STEADY[-3:], quota={"failures_to_open": 100}) as tracker:
        clock.advance(HOUR)
        before = await stored_samples(sql)
        emulator.set_faults([f"{fault}:1:videos.batchGetStats"])
        skipped = await tracker.cycle()
        after = await stored_samples(sql)
        assert {name for name in before if after[name] != before[name]} == {*OF_CHANNELS} - {"channels"}
        assert (await clock_of(sql))["next_due_at"] == clock.now()
        emulator.set_faults([])
        await sql.execute("UPDATE video_clock SET lease_until = NULL")
        assert (await tracker.cycle()).samples == 3
    assert (skipped.samples, skipped.skipped, skipped.channels) == (0, {"network": 3}, 3)
    assert skipped.units == {"stats": 3, "general": 1}


@pytest.mark.parametrize("fault", ["404-method", "501"])
async def test_without_its_method_statistics_come_from_videos_list(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any, fault: str
) -> None:
    async with tracking(*STEADY[-120:], youtube={"concurrency": 1}) as tracker:
        clock.advance(6 * HOUR)
        emulator.set_faults([f"{fault}:1:videos.batchGetStats"])
        statistics = await tracker.cycle()
        clock.advance(6 * HOUR)
        later = await tracker.cycle()
    assert (statistics.samples, statistics.skipped, statistics.units["general"]) == (120, {}, 4)
    assert (later.samples, later.units) == (120, {"general": 3})


async def test_a_refused_request_is_tried_ever_more_rarely(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any
) -> None:
    async with tracking(NEWEST) as tracker:
        clock.advance(HOUR)
        emulator.set_faults(["invalid-parameter:1:videos.batchGetStats"])
        for attempt in (1, 2):
            await sql.execute("UPDATE video_clock SET lease_until = NULL")
            assert (await tracker.cycle()).skipped == {"bad_request": 1}
            row = await clock_of(sql)
            assert (row["attempts"], row["lease_token"], row["next_due_at"]) == (attempt, None, clock.now())
    assert "invalidParameter" in row["last_error"]


async def test_a_required_vault_that_refuses_leaves_the_metadata_for_later(
    tracking: Tracking, clock: FixedClock, tmp_path: Path, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    occupied = tmp_path / "occupied"
    occupied.write_text("a file, not a folder")
    async with tracking(*STEADY[-3:], vault={"path": str(occupied), "required": True}) as tracker:
        clock.advance(25 * DAY)
        statistics = await tracker.cycle()
    assert (statistics.samples, statistics.refreshed, statistics.skipped) == (3, 0, {})
    assert (await clock_of(sql))["metadata_at"] == NOON
    assert "storing only counts, as the vault can't keep the metadata" in caplog.text


async def test_a_ring_whose_keys_are_all_refused_is_a_clear_error(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any
) -> None:
    async with tracking(*STEADY[-3:]) as tracker:
        clock.advance(HOUR)
        emulator.set_faults(["not-configured:1"])
        with pytest.raises(KeyRejected, match="Enable it in the Google Cloud console"):
            await tracker.cycle()
        closed = await tracker.cycle()
    assert (closed.outcome, closed.reopens_at) == ("keys_rejected", None)
    assert await leases(sql) == {(0, None, None)}


async def test_a_ring_without_keys_is_a_clear_error(tracking: Tracking) -> None:
    with pytest.raises(EmptyKeyRing, match="YOUTUBE_API_KEY_POOL_JSON"):
        async with tracking(youtube_api_key_pool_json=None):
            pass


# The database and other trackers


async def test_a_database_that_refuses_a_group_ends_the_cycle_with_nothing_half_stored(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    async with tracking(*STEADY[-30:]) as tracker:
        clock.advance(HOUR)
        await sql.execute(
            "ALTER TABLE video_clock ADD CONSTRAINT picky CHECK (video_id <> 'steady00239' OR samples = 0)"
        )
        with pytest.raises(DatabaseError, match="picky"):
            await tracker.cycle()
    assert await leases(sql) == {(0, None, None)}
    for table in ("video_stats_log", "channel_norms", "velocity_cohorts"):
        assert await sql.fetchval(f"SELECT count(*) FROM {table}") == 0
    (told,) = await events(sql)
    assert (told["outcome"], told["skipped"]) == ("failed", {"failed": 28})


async def test_a_ledger_that_cannot_grant_ends_the_cycle_too(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    async def mislay(targets: Sequence[Target]) -> None:
        await sql.execute("ALTER TABLE quota_ledger RENAME TO mislaid")

    async with tracking(*STEADY[-120:]) as tracker:
        clock.advance(6 * HOUR)
        with pytest.raises(DatabaseError, match="quota_ledger"):
            await Interferer(tracker, update_stats=mislay).cycle()
    assert await leases(sql) == {(0, None, None)}
    assert [cycle["outcome"] for cycle in await events(sql)] == ["failed"]


async def test_what_cannot_be_dropped_is_no_reason_to_fail(
    tracking: Tracking, clock: FixedClock, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with tracking(*STEADY[-3:]) as tracker:
        clock.advance(HOUR)
        await sql.execute("DROP FUNCTION drop_sample_days")
        assert (await tracker.cycle()).outcome == "done"
    assert "could not drop old samples" in caplog.text


async def test_a_breakout_is_not_told_if_its_sample_is_not_stored(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    async with tracking(RISING) as tracker:
        await sql.execute("ALTER TABLE events ADD CONSTRAINT silent CHECK (kind <> 'tracker.breakout')")
        with pytest.raises(DatabaseError, match="silent"):
            for _ in range(24 * 7):
                clock.advance(HOUR)
                await tracker.cycle()
    assert (await samples_of(sql, RISING))[-1][0] < clock.now()
    assert (await clock_of(sql, RISING))["watch_risen_h"] is None


async def test_a_lost_lease_stores_nothing_of_that_video_and_all_of_the_others(
    tracking: Tracking, clock: FixedClock, sql: Any
) -> None:
    async def lose(targets: Sequence[Target]) -> None:
        await sql.execute(
            "UPDATE video_clock SET lease_token = gen_random_uuid() WHERE video_id = $1", NEWEST
        )

    async with tracking(*STEADY[-3:]) as tracker:
        clock.advance(HOUR)
        statistics = await Interferer(tracker, update_stats=lose).cycle()
    assert (statistics.samples, statistics.skipped) == (2, {"lease_lost": 1})
    assert await samples_of(sql, NEWEST) == []
    assert (await clock_of(sql))["lease_token"] is not None


async def test_a_transaction_that_met_anothers_is_done_anew(
    tracking: Tracking, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tracking(*STEADY[-3:]) as tracker:
        clock.advance(HOUR)
        update, failures = tracker.dao.update_video_stats_batch, [TransactionConflict("deadlock")]

        async def at_the_second_try(updates: Any) -> Any:
            if failures:
                raise failures.pop()
            return await update(updates)

        monkeypatch.setattr(tracker.dao, "update_video_stats_batch", at_the_second_try)
        assert (await tracker.cycle()).samples == 3


async def test_two_samples_of_one_instant_are_one(tracking: Tracking, clock: FixedClock, sql: Any) -> None:
    async with tracking(*STEADY[-3:]) as tracker:
        await sql.execute("UPDATE video_clock SET next_due_at = $1", clock.now())
        statistics = await tracker.cycle()
    assert (statistics.samples, statistics.skipped) == (0, {"not_later": 3})
    assert (await clock_of(sql))["next_due_at"] > clock.now()
    assert await sql.fetchval("SELECT count(*) FROM video_stats_log") == 0


async def test_what_a_slow_batch_did_not_begin_is_given_back(
    tracking: Tracking, clock: FixedClock, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CALLS_PER_GROUP", 1)

    async def dawdle(targets: Sequence[Target]) -> None:
        await asyncio.sleep(0.6)

    groups = {"youtube": {"concurrency": 1}, "tracker": {"lease_s": 1}}
    async with tracking(*STEADY[-240:], **groups) as tracker:
        clock.advance(DAY)
        statistics = await Interferer(tracker, update_stats=dawdle).cycle()
    assert statistics.samples == 100
    assert statistics.skipped == {"late": 145}
    assert (
        await sql.fetchval("SELECT count(*) FROM video_clock WHERE lease_token IS NOT NULL OR attempts > 0")
        == 0
    )


async def test_two_trackers_never_sample_the_same_slot(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any
) -> None:
    async with tracking(*STEADY) as one, tracking() as other:
        clock.advance(DAY)
        both = await asyncio.gather(*(tracker.cycle(150) for tracker in (one, other)))
    ids = [id_ for call in asked(emulator) for id_ in call]
    assert sorted(ids) == STEADY
    assert sum(cycle.samples for cycle in both) == 240


async def test_cancelling_gives_every_claim_back(
    tracking: Tracking, emulator: Emulator, clock: FixedClock, sql: Any
) -> None:
    begun = asyncio.Event()

    async def begin(targets: Sequence[Target]) -> None:
        begun.set()

    async with tracking(*STEADY[-120:], youtube={"timeout_s": 100, "total_timeout_s": 200}) as tracker:
        clock.advance(6 * HOUR)
        emulator.set_faults(["latency-60s:1"])
        cycle = asyncio.create_task(Interferer(tracker, update_stats=begin).cycle())
        await begun.wait()
        cycle.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cycle
    assert await leases(sql) == {(0, None, None)}
    (told,) = await events(sql)
    assert (told["outcome"], told["skipped"]) == ("interrupted", {"interrupted": 125})


PROGRAM = """
import asyncio
from atlas.config import Settings
from maia.cycle.agent import run_directly
from maia.tracker.cycle import Tracker
print(asyncio.run(run_directly(Tracker, Settings()))["samples"])
"""


@pytest.fixture
def process_environment(
    environment: dict[str, str], emulator: Emulator, clock: FixedClock
) -> Callable[[], dict[str, str]]:
    """What a process needs to track by the emulator's clock as it stands now."""

    def at_this_time() -> dict[str, str]:
        return environment | {
            "PLEIADES_CLOCK__START": clock.now().isoformat(),
            "PLEIADES_CLOCK__ANCHOR": datetime.now(UTC).isoformat(),
            "PLEIADES_YOUTUBE__BASE_URL": emulator.url,
            "PLEIADES_YOUTUBE__TIMEOUT_S": "100",
            "PLEIADES_YOUTUBE__TOTAL_TIMEOUT_S": "100",
            "PLEIADES_QUOTA__PACING": "false",
            "YOUTUBE_API_KEY_POOL_JSON": KEYS,
            "PYTHONPATH": str(Path.cwd()),
        }

    return at_this_time


@pytest.mark.parametrize(("signalled", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
async def test_a_process_that_is_told_to_stop_gives_its_claims_back(
    tracking: Tracking,
    emulator: Emulator,
    clock: FixedClock,
    process_environment: Callable[[], dict[str, str]],
    sql: Any,
    tmp_path: Path,
    signalled: signal.Signals,
    status: int,
) -> None:
    async with tracking(*STEADY[-120:]):
        clock.advance(6 * HOUR)
    emulator.set_faults(["latency-60s:1"])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, env=process_environment(), cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    try:
        while not await sql.fetchval("SELECT count(*) FROM quota_ledger WHERE tracking_reserved > 0"):
            assert process.returncode is None
            await asyncio.sleep(0.05)
        process.send_signal(signalled)
        _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == status, errors.decode()
    assert await leases(sql) == {(0, None, None)}
    assert (await events(sql))[0]["outcome"] == "interrupted"


async def test_commands_track_tell_the_status_and_leave_with_75_after_a_429(
    tracking: Tracking,
    emulator: Emulator,
    clock: FixedClock,
    process_environment: Callable[[], dict[str, str]],
    tmp_path: Path,
    sql: Any,
) -> None:
    async with tracking(*STEADY[-30:]):
        clock.advance(HOUR)

    async def maia(*arguments: str) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "maia", *arguments, env=process_environment(), cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, errors = await process.communicate()
        return process.returncode, output.decode(), errors.decode()

    direct = ("tracker", "--direct")
    status, output, errors = await maia(*direct, "--json", "--batch-size", "10", "--cycles", "9")
    assert status == 0, errors
    statistics = json.loads(output)
    assert (statistics["samples"], statistics["cycles"], statistics["outcome"]) == (23, 4, "idle")
    clock.advance(2 * HOUR)

    status, output, errors = await maia("status", "--json")
    assert status == 0, errors
    report = json.loads(output)
    hot = report["tracking"]["zones"][0]
    assert (hot["zone"], hot["live"], hot["due"], hot["starving"], hot["slowed"]) == ("hot", 22, 22, 0, 1)
    assert hot["lag_h"] == pytest.approx(1, abs=0.1)
    assert report["tracking"]["paid_per_h"] == pytest.approx((8550 + 950) * 50 / 24)
    assert [cycle["samples"] for cycle in report["cycles"]["tracker"]] == [0, 3, 10, 10]
    status, output, errors = await maia("status")
    assert status == 0, errors
    assert "The quota pays for 19,792 samples an hour; the schedule needs" in output
    assert "Last tracker cycles" in output

    emulator.set_faults(["429-day:1"])
    assert (await maia(*direct))[0] == 75
    status, output, _ = await maia(*direct)
    assert status == 0
    assert "ring 'tracking' is closed for bucket 'stats' until 2026-11-03 08:00:00 UTC" in output


async def test_a_server_that_restarts_in_mid_cycle_loses_nothing(
    settings_factory: SettingsFactory, emulator: Emulator, clock: FixedClock, own_postgres: Any
) -> None:
    url = own_postgres.dsn_of(own_postgres.create_database())
    settings = settings_factory(
        database_url=url, youtube={"base_url": emulator.url}, quota={"pacing": False},
        youtube_api_key_pool_json=KEYS, tracker={"lease_s": 0.5},
    )  # fmt: skip

    async def crash(targets: Sequence[Target]) -> None:
        await asyncio.to_thread(own_postgres.restart, signal.SIGKILL)

    async with Atlas.open(settings, clock=clock) as atlas, Tracker.open(atlas) as tracker:
        await discover(tracker, *STEADY[-120:])
        clock.advance(6 * HOUR)
        connection = await asyncpg.connect(url)
        # The throw-away server forgets in a crash what no checkpoint has written.
        await connection.execute("CHECKPOINT")
        await connection.close()
        with suppress(DatabaseError):
            await Interferer(tracker, update_stats=crash).cycle()
        while any(count.due for count in await tracker.dao.clock_counts()):
            await tracker.cycle()
    connection = await asyncpg.connect(url)
    samples = await connection.fetch("SELECT video_id, count(*) FROM video_stats_log GROUP BY 1")
    leased = await connection.fetchval("SELECT count(*) FROM video_clock WHERE lease_token IS NOT NULL")
    await connection.close()
    assert (len(samples), {row["count"] for row in samples}, leased) == (120, {2}, 0)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"cycles": 0}])
async def test_no_cycle_and_no_batch_is_refused(tracking: Tracking, wrong: dict[str, Any]) -> None:
    async with tracking() as tracker:
        with pytest.raises(ConfigError, match="at least 1"):
            await run(Tracker, tracker.atlas, **wrong)


async def test_a_direct_run_opens_and_closes_all_it_needs(
    settings_factory: SettingsFactory, emulator: Emulator
) -> None:
    settings = settings_factory(youtube={"base_url": emulator.url}, youtube_api_key_pool_json=KEYS)
    assert (await run_directly(Tracker, settings))["outcome"] == "idle"
