"""What the dashboard's pages need to have something to show, stored by plain SQL."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any, Final

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


LONG: Final = "A title that goes on and on, as " + "titlesofpeoplewhoneverleaveaspace" * 6
RIGHT_TO_LEFT: Final = (
    "\u0641\u064a\u062f\u064a\u0648 \u0637\u0648\u064a\u0644 (HD) \u05e9\u05dc\u05d5\u05dd 2026!"
)
EMOJI: Final = (
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f525 100 % "
    "\U0001f1e9\U0001f1ea e\u0301\u0301\u0301"
)


async def store_awkward(sql: Any) -> None:
    """Videos whose titles, tags and channels are hard to lay out, and lines of logs; they grow, too."""
    for n, title in enumerate((LONG, RIGHT_TO_LEFT, EMOJI)):
        await store_video(
            sql, f"awkward{n}", channel=f"UC-{n}", title=title, tags=[RIGHT_TO_LEFT, EMOJI, LONG[:90], "both"]
        )
        await store_samples(sql, f"awkward{n}", [(NOON - (5 - k) * HOUR, 10**n * k * 1000) for k in range(6)])
        await sql.execute("UPDATE channels SET title = $1 WHERE id = $2", title[::-1], f"UC-{n}")
    for n in range(4):
        await store_video(sql, f"plain{n}", tags=["plain"])
    await sql.execute("UPDATE video_clock SET velocity = samples * 100, viral_score = 0.9 WHERE samples > 0")
    await sql.execute(_TOPIC, NOON, ["both", LONG[:90]])
    await store_pattern(sql, f"{LONG} {RIGHT_TO_LEFT}")
    await sql.execute(_LINES, NOON, LONG, f"{RIGHT_TO_LEFT}\n{LONG}\n{EMOJI}")


_TOPIC = (
    "INSERT INTO search_queue (query, key, origin, priority, created_at) "
    "SELECT name, name, 'tag', 1, $1 FROM unnest($2::text[]) AS name"
)
_LINES = (
    "INSERT INTO log_lines (at, node, level, logger, agent, text) VALUES "
    "($1, 'node-with-a-long-name', 20, 'maia.cycle.cycle', 'hunter', $2), "
    "($1, 'b', 40, 'asyncpg', NULL, $3), ($1, 'b', 30, 'maia.tracker.cycle', 'tracker', 'the quota is short')"
)


async def store_pattern(sql: Any, statement: str = "Tags find most.") -> None:
    """A pattern that two sites saw, that changed a plan, and that a suggestion rests on."""
    await sql.execute(_PATTERN, PATTERN_ID, NOON, statement)
    for site, day, pos in (("here", 1, 30), ("there", 1, 4), ("there", 2, 5)):
        await sql.execute(_EVIDENCE, PATTERN_ID, site, NOON - timedelta(days=3 - day), pos)
    reason = f"most expected; prior ×1.4 by pattern {PATTERN_ID[:8]} (12 days)"
    await sql.execute(_PLANNED, NOON.date(), reason, NOON)
    await sql.execute(_SUGGESTED, json.dumps({"patterns": [PATTERN_ID]}), NOON - timedelta(days=1))


PATTERN_ID: Final = "0123456789abcdef0123456789abcdef"
_PATTERN = (
    "INSERT INTO patterns (id, type, signature, statement, conditions, data, created_at, updated_at, "
    "attended_at) VALUES ($1, 'tool_usage', '{}', $3, '[]', '{}', $2, $2, $2)"
)
_EVIDENCE = "INSERT INTO pattern_evidence VALUES ($1, $2, $3::timestamptz::date, $4, 1, 0, $3, 1)"
_PLANNED = (
    "INSERT INTO discovery_plan (pacific_day, arm, bucket, share, least_share, expected, low, high, reason, "
    "made_at) VALUES ($1, 'search:tags', 'search', 0.4, 0.1, 1, 0.5, 2, $2, $3)"
)
_SUGGESTED = (
    "INSERT INTO suggestions (key, category, text, evidence, made_at, updated_at) "
    "VALUES ('advice x', 'discovery', 'Prefer tags.', $1::text::jsonb, $2, $2)"
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
