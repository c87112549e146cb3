"""Videos with clocks and samples, stored by plain SQL: what the board shows and exports write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from atlas.testing import NOON

HOUR = timedelta(hours=1)

_SAMPLES = ("video_stats_log", "channel_stats_log", "channel_norms", "velocity_cohorts", "videos", "channels")
_CLOCKS = {
    "video_clock": "video_id, zone, status, misses, samples, interval_h, next_due_at, last_sampled_at,"
    " last_at, last_views, velocity, acceleration, weight, viral_score, watch_evidence_h",
    "channel_clock": "channel_id, status, misses, next_due_at, last_at, views",
}

Counts = Sequence[tuple[datetime, int | None]]


async def store_video(sql: Any, video_id: str, *, channel: str = "UC-one", **columns: Any) -> None:
    """A video of a channel, which is made if it isn't there; its clock's columns begin with `clock_`."""
    await sql.execute(
        "INSERT INTO channels (id, title, discovered_at, refreshed_at) VALUES ($1, $2, $3, $3) "
        "ON CONFLICT DO NOTHING",
        channel,
        f"Channel {channel}",
        NOON,
    )
    clocks = {
        name.removeprefix("clock_"): value for name, value in columns.items() if name.startswith("clock_")
    }
    video = {
        "id": video_id, "channel_id": channel, "title": f"Video {video_id}", "discovered_at": NOON,
        "refreshed_at": NOON, "published_at": NOON - 24 * HOUR, "category_id": 10, "tags": ["lofi", "Jazz"],
    } | {name: value for name, value in columns.items() if not name.startswith("clock_")}  # fmt: skip
    await _insert(sql, "videos", video)
    clock = {
        "video_id": video_id, "channel_id": channel, "category_id": video["category_id"], "zone": 0,
        "interval_h": 1.0, "born_at": video["published_at"] or NOON, "next_due_at": NOON + HOUR,
        "metadata_at": NOON,
    } | clocks  # fmt: skip
    await _insert(sql, "video_clock", clock)


async def store_samples(sql: Any, video_id: str, counts: Counts, *, methodology: int = 2) -> None:
    """Samples with the velocity of their steps, and the clock as the last of them leaves it."""
    rows, known = [], None
    for at, views in counts:
        velocity = None
        if views is not None:
            if known is not None:
                velocity = (views - known[1]) / ((at - known[0]) / HOUR)
            known = (at, views)
        rows.append((video_id, at, views, None, 3, velocity, methodology))
    days = {at.astimezone(UTC).date() for at, _ in counts}
    await sql.execute("SELECT ensure_sample_days($1)", sorted(days))
    columns = ("video_id", "sampled_at", "views", "likes", "comments", "velocity", "methodology")
    await sql.executemany(
        f"INSERT INTO video_stats_log ({', '.join(columns)}) VALUES ($1, $2, $3, $4, $5, $6, $7)", rows
    )
    if known is not None:
        await sql.execute(
            "UPDATE video_clock SET samples = samples + $2, last_sampled_at = $3, last_at = $4, "
            "last_views = $5 WHERE video_id = $1",
            video_id,
            len(rows),
            counts[-1][0],
            *known,
        )


async def stored_samples(sql: Any) -> dict[str, list[str]]:
    """All that sampling writes, by table, except for who holds what."""
    shown = dict.fromkeys(_SAMPLES, "*") | _CLOCKS
    return {
        name: sorted(map(repr, await sql.fetch(f"SELECT {columns} FROM {name}")))
        for name, columns in shown.items()
    }


async def _insert(sql: Any, table: str, row: Mapping[str, Any]) -> None:
    places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    await sql.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", *row.values())
