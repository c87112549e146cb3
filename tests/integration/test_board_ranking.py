"""Leaderboards over random videos are those that a naive look at every video gives."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from atlas.adapters import board
from atlas.adapters.board import BoardDAO, Filters, Lead, Place
from atlas.clock import FixedClock
from atlas.db import Database
from atlas.testing import NOON, SettingsFactory
from tests.growth import HOUR, store_samples, store_video

pytestmark = pytest.mark.integration

VIDEOS, CHANNELS = 300, 12
TAGS = ("of all", "half", "tenth", "Upper Case")
REGIONS = ("DE", "IS", None)
MOST = 7


@dataclass(frozen=True, slots=True)
class Video:
    id: str
    channel: str
    category_id: int
    zone: int
    status: str
    tags: Sequence[str]
    duration_s: int | None
    broadcast: str
    born_at: datetime
    region: str | None
    figures: Mapping[str, float | None]
    counts: Sequence[tuple[datetime, int | None]]
    gain: float | None
    made_at: datetime


def made_up(drawn: random.Random) -> Iterator[Video]:
    """Random videos, of which many have equal figures."""
    for number in range(VIDEOS):
        pace, start = drawn.paretovariate(1.1), drawn.randint(0, 60)
        hours = sorted(drawn.sample(range(70), drawn.randint(0, 12)))
        views, counts = 1000.0, []
        for hour in hours:
            views += pace * drawn.uniform(-0.3, 2) * 10
            counts.append((NOON - (70 - hour) * HOUR, None if drawn.random() < 0.1 else max(int(views), 0)))
        known = drawn.random() < 0.9
        yield Video(
            id=f"v{drawn.randrange(10**6):06}{number}",
            channel=f"UC-{int(CHANNELS * drawn.random() ** 3)}",
            category_id=drawn.choice((10, 20, 24)),
            zone=drawn.randrange(3),
            status="gone" if drawn.random() < 0.05 else "live",
            tags=[tag for tag, share in zip(TAGS, (1, 0.5, 0.1, 0.2), strict=True) if drawn.random() < share],
            duration_s=drawn.choice((None, 0, 20, 180, 181, 4000)),
            broadcast=drawn.choice(("none",) * 8 + ("live", "upcoming")),
            born_at=NOON - start * HOUR,
            region=drawn.choice(REGIONS),
            figures={
                "velocity": round(pace, 1) if known else None,
                "acceleration": round(drawn.gauss(0, 1), 1) if known else None,
                "relative_velocity": round(drawn.random() * 3, 1) if known else None,
                "viral_score": round(drawn.random(), 1),
            },
            counts=counts,
            gain=round(pace * 20) if drawn.random() < 0.7 else None,
            made_at=NOON - drawn.randint(0, 60) * HOUR,
        )


async def store(sql: Any, videos: Sequence[Video]) -> None:
    await sql.execute(
        "INSERT INTO channels "
        "SELECT 'UC-' || n, 'Channel ' || n, $1, $1 FROM generate_series(0, $2::int) AS n",
        NOON, CHANNELS,
    )  # fmt: skip
    topics = {
        region: await sql.fetchval(
            "INSERT INTO search_queue (query, key, origin, priority, created_at, parameters) "
            "VALUES ($1::text, $1::text, 'tag', 1, $2, $3::jsonb) RETURNING id",
            f"topic {region}", NOON, f'{{"region": "{region}"}}' if region else "{}",
        )
        for region in REGIONS
    }  # fmt: skip
    await sql.executemany(
        "INSERT INTO videos (id, channel_id, discovered_at, refreshed_at, discovered_by, duration_s, tags, "
        "live_broadcast_content) VALUES ($1, $2, $3, $3, $4, $5, $6, $7)",
        [(v.id, v.channel, NOON, topics[v.region], v.duration_s, v.tags, v.broadcast) for v in videos],
    )
    await sql.executemany(
        "INSERT INTO video_clock (video_id, channel_id, category_id, zone, status, interval_h, born_at, "
        "next_due_at, metadata_at, broadcast, last_sampled_at, velocity, acceleration, relative_velocity, "
        "viral_score) VALUES ($1, $2, $3, $4, $5, 1, $6, $7, $7, $8, $9, $10, $11, $12, $13)",
        [
            (v.id, v.channel, v.category_id, v.zone, v.status, v.born_at, NOON, v.broadcast,
             v.counts[-1][0] if v.counts else None, *v.figures.values())
            for v in videos
        ],
    )  # fmt: skip
    for video in videos:
        if video.counts:
            await store_samples(sql, video.id, video.counts)
    await sql.executemany(
        "INSERT INTO video_forecasts (video_id, made_at, views, day, week) VALUES ($1, $2, 1000, $3, $3)",
        [(v.id, v.made_at, 1000 + v.gain) for v in videos if v.gain is not None],
    )
    await sql.execute("ANALYZE")


def naive(
    videos: Sequence[Video], by: Lead, filters: Filters, window: timedelta | None
) -> list[tuple[str, float]]:
    """All that fit, in their order."""
    found = []
    for video in videos:
        value = _value(video, by, window)
        if value is None or video.status != "live" or not _fits(video, filters):
            continue
        is_grown = by is Lead.VELOCITY and window is not None
        velocity = value if is_grown else video.figures["velocity"]
        if filters.least_velocity is not None and (velocity is None or velocity < filters.least_velocity):
            continue
        found.append((video.id, value))
    return sorted(found, key=lambda each: (-each[1], each[0]))


def _value(video: Video, by: Lead, window: timedelta | None) -> float | None:
    if by is Lead.FORECAST:
        fresh = min(window or timedelta(days=2), timedelta(days=2))
        return video.gain if video.made_at >= NOON - fresh else None
    if by is Lead.VELOCITY and window is not None:
        known = [(at, views) for at, views in video.counts if views is not None and at >= NOON - window]
        if len(known) < 2:
            return None
        (first_at, first), (last_at, last) = known[0], known[-1]
        return (last - first) / ((last_at - first_at) / HOUR)
    if window is not None and (not video.counts or video.counts[-1][0] < NOON - window):
        return None
    name = {Lead.RELATIVE: "relative_velocity", Lead.SCORE: "viral_score"}.get(by, by.value)
    return video.figures[name]


def _fits(video: Video, filters: Filters) -> bool:
    length = None
    if video.duration_s:
        length = "short" if video.duration_s <= filters.short_at_most_s else "long"
    return (
        filters.channel in (None, video.channel)
        and filters.category_id in (None, video.category_id)
        and filters.zone in (None, video.zone)
        and (filters.tag is None or filters.tag.lower() in [tag.lower() for tag in video.tags])
        and filters.length in (None, length)
        and filters.broadcast in (None, video.broadcast)
        and (filters.oldest is None or video.born_at >= NOON - filters.oldest)
        and (filters.youngest is None or video.born_at <= NOON - filters.youngest)
        and filters.region in (None, video.region)
    )


def questions(drawn: random.Random) -> Iterator[tuple[Lead, Filters, timedelta | None]]:
    """Every ranking with none, one or a few random filters."""
    choices: dict[str, Sequence[Any]] = {
        "channel": [f"UC-{n}" for n in range(4)], "category_id": (10, 99), "zone": (0, 2),
        "tag": ("OF ALL", "tenth", "upper case", "nobody's"), "length": ("short", "long"),
        "broadcast": ("none", "live"), "oldest": (10 * HOUR, 40 * HOUR), "youngest": (5 * HOUR, 30 * HOUR),
        "least_velocity": (2.0, 50.0), "region": ("DE", "IS"),
    }  # fmt: skip
    for by in Lead:
        for window in (None, 3 * HOUR, 24 * HOUR, 65 * HOUR):
            for count in (0, 1, 1, 2, 3):
                names = drawn.sample(sorted(choices), count)
                yield by, Filters(**{name: drawn.choice(choices[name]) for name in names}), window


@pytest.mark.parametrize(("looked_at", "many"), [((1, 9), 1000), ((25, 600), 1000), ((25, 600), 2)])
async def test_any_leaderboard_is_what_a_look_at_every_video_gives(
    database: Database, sql: Any, clock: FixedClock, settings_factory: SettingsFactory,
    monkeypatch: pytest.MonkeyPatch, looked_at: tuple[int, int], many: int,
) -> None:  # fmt: skip
    """Also page by page, and if the fastest videos of now tell too little of those that grew.

    In the last case filters by tag and channel count as those that few fit, but too many to rank.
    """
    monkeypatch.setattr(board, "_LEAST_STEP", 0.1)
    monkeypatch.setattr(board, "_FIRST", looked_at[1])
    monkeypatch.setattr(board, "_MANY_TO_RANK", many)
    monkeypatch.setattr(board, "_OFTEN", 2.0 if many < len(TAGS) else board._OFTEN)
    monkeypatch.setattr(board, "_LEAST_LOOKED_AT", looked_at[0])
    monkeypatch.setattr(board, "_MOST_LOOKED_AT", looked_at[1])
    drawn = random.Random(20261129)
    videos = list(made_up(drawn))
    await store(sql, videos)
    dao = BoardDAO(database, clock=clock, settings=settings_factory())
    asked = 0
    for by, filters, window in questions(drawn):
        expected = naive(videos, by, filters, window)
        after = None
        for start in range(0, min(len(expected), 2 * MOST) + 1, MOST):
            found = await dao.top(by, MOST, filters, window, after)
            wanted = expected[start : start + MOST]
            assert [leader.id for leader in found] == [id_ for id_, _ in wanted], (by, filters, window, start)
            assert [leader.leads_by for leader in found] == pytest.approx([value for _, value in wanted])
            asked += len(found)
            if len(found) < MOST:
                break
            after = Place(found[-1].leads_by, found[-1].id, NOON)
    assert asked > 500


@pytest.mark.parametrize("least", [None, 10.0, 100.0])
async def test_videos_that_grew_just_fast_enough_are_found_though_their_steps_are_rounded(
    database: Database, sql: Any, clock: FixedClock, settings_factory: SettingsFactory,
    monkeypatch: pytest.MonkeyPatch, least: float | None,
) -> None:  # fmt: skip
    monkeypatch.setattr(board, "_MANY_TO_RANK", 2)
    growth = least or 10.0
    for name in ("a", "b", "c"):
        await store_video(sql, name)
        more = growth if name == "b" else 2 * growth
        await store_samples(sql, name, [(NOON - 3 * HOUR, 1000), (NOON - 2 * HOUR, 1000 + int(more))])
    await sql.execute("UPDATE video_stats_log SET velocity = velocity - 1e-9")
    dao = BoardDAO(database, clock=clock, settings=settings_factory())
    filters = Filters(channel="UC-one", least_velocity=least)
    found = [each.id for each in await dao.top(Lead.VELOCITY, 3, filters, 24 * HOUR)]
    assert found == ["a", "c", "b"]
    after = None
    for wanted in found:
        (one,) = await dao.top(Lead.VELOCITY, 1, filters, 24 * HOUR, after)
        assert one.id == wanted
        after = Place(one.leads_by, one.id, NOON)
