"""What the dashboard's pages need to have something to show, stored by plain SQL."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from atlas.testing import NOON
from tests.growth import HOUR, store_samples, store_video

_CHECK = (
    "INSERT INTO forecast_checks (video_id, made_at, horizon_h, due_at, age_class, views, low, expected, "
    "high, actual, settled_at) VALUES ('risen', $1, 24, $2, 3, 1000, 4000, 5000, 6000, 11000, $2)"
)
_FORECAST = (
    "INSERT INTO video_forecasts VALUES "
    "('risen', $1, 11000, 20000, 23000, 26000, 0.25, 50000, 60000, 70000, NULL)"
)


async def store_shown(sql: Any) -> None:
    """Two videos that grow, of two channels; the faster has a forecast, and one that was settled."""
    await store_video(sql, "risen", tags=["lofi", "a/b?c&d"], description="Calm.", duration_s=95)
    await store_video(sql, "slow", channel="UC-two", duration_s=2000)
    for video_id, pace in (("risen", 500), ("slow", 5)):
        counts = [(NOON - (20 - n) * HOUR, 1000 + n * pace) for n in range(21)]
        await store_samples(sql, video_id, counts)
        await sql.execute(
            "UPDATE video_clock SET velocity = $2, acceleration = 1, viral_score = 0.75 WHERE video_id = $1",
            video_id,
            float(pace),
        )
    await sql.execute(_FORECAST, NOON)
    await sql.execute(_CHECK, NOON - timedelta(days=1), NOON)
