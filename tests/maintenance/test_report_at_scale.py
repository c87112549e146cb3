"""The report of a week with a million videos and four million samples, and how long that takes."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest

from atlas.adapters.reports import ReportsDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from maia.maintainer.rendering import as_html, as_markdown
from maia.views.report_reading import report
from tests.report_week import AGENTS, BEGIN, END, WEEK, cycles, discoveries, quota

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

VIDEOS = 1_000_000
CHANNELS = 50_000
HIGHEST_PARETO = 1.16
"""A video's views per hour are heavy-tailed, as they are on YouTube."""


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(END + timedelta(hours=9))


async def store_a_million(sql: Any) -> None:
    """Four samples of each video, at random instants of the week."""
    await sql.execute("SET synchronous_commit = off")
    await sql.execute("SELECT setseed(0.5)")
    await sql.execute(
        "SELECT ensure_sample_days(array(SELECT generate_series($1::date, $2::date, '1 day')::date))",
        BEGIN.date(), END.date(),
    )  # fmt: skip
    await sql.execute(
        "INSERT INTO channels (id, title, discovered_at, refreshed_at) "
        "SELECT 'UC' || n, 'Channel ' || n, $1, $1 FROM generate_series(1, $2::int) n",
        BEGIN, CHANNELS,
    )  # fmt: skip
    await sql.execute(
        "INSERT INTO videos (id, channel_id, title, discovered_at, refreshed_at, published_at, tags) "
        "SELECT 'v' || lpad(n::text, 10, '0'), 'UC' || 1 + n % $2::int, 'Title ' || n, $1, $1, $1, '{a,b}' "
        "FROM generate_series(1, $3::int) n",
        BEGIN, CHANNELS, VIDEOS,
    )  # fmt: skip
    await sql.execute(
        "INSERT INTO video_clock (video_id, channel_id, zone, interval_h, born_at, next_due_at, metadata_at) "
        "SELECT id, channel_id, 1, 24, $1, $1, $1 FROM videos",
        BEGIN,
    )  # fmt: skip
    await sql.execute(
        "INSERT INTO video_stats_log (video_id, sampled_at, views, velocity, methodology) "
        "SELECT id, $1::timestamptz + hour * interval '1 hour', (pace * hour)::bigint, "
        "pace * (1 + random()), 2 "
        "FROM (SELECT id, power(random(), -1 / $2::float8) AS pace, random() * 40 AS start FROM videos) AS v "
        "CROSS JOIN LATERAL (SELECT start + 42 * nth AS hour FROM generate_series(0, 2) nth "
        "UNION ALL SELECT start + 127) AS h",
        BEGIN, HIGHEST_PARETO,
    )  # fmt: skip
    await sql.execute("VACUUM ANALYZE video_stats_log")


async def test_a_report_over_a_million_videos_takes_seconds_and_is_exact(
    atlas: Atlas, sql: Any, clock: FixedClock
) -> None:
    await store_a_million(sql)
    for part in (discoveries, quota, cycles):
        await part(sql)
    samples = await sql.fetchval("SELECT count(*) FROM video_stats_log")

    dao = ReportsDAO(atlas.db, clock=clock, settings=atlas.settings)
    began_s = time.perf_counter()
    risers = await dao.risers(BEGIN, END, 10)
    risers_s = time.perf_counter() - began_s

    began_s = time.perf_counter()
    made = await report(atlas, WEEK, AGENTS)
    report_s = time.perf_counter() - began_s
    began_s = time.perf_counter()
    size = len(as_html(made)) + len(as_markdown(made))
    render_s = time.perf_counter() - began_s

    began_s = time.perf_counter()
    exact = await sql.fetch(
        "SELECT video_id, max(views) - min(views) AS gained FROM video_stats_log "
        "WHERE sampled_at >= $1 AND sampled_at < $2 GROUP BY video_id ORDER BY gained DESC LIMIT 10",
        BEGIN, END,
    )  # fmt: skip
    naive_s = time.perf_counter() - began_s
    print(
        f"\n{VIDEOS:,} videos, {samples:,} samples: risers {risers_s:.2f} s (one GROUP BY over all: "
        f"{naive_s:.2f} s), whole report {report_s:.2f} s, rendered in {render_s:.2f} s, "
        f"{size / 1024:.0f} KiB"
    )
    assert [(each.id, each.gained) for each in risers] == [tuple(row) for row in exact]
    assert len(made.risers) == 10
