"""A week of which everything is known: stored by plain SQL and the product's own stores, for reports."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import exp
from typing import Any

from atlas.adapters.patterns import NewEvidence, PatternContent, PatternsDAO
from atlas.adapters.telemetry import HostSample, TelemetryDAO
from atlas.composition import Atlas
from maia.views.weeks import Week
from tests.growth import HOUR, store_samples, store_video

WEEK = Week.parse("2026-W45")
BEGIN = datetime(2026, 11, 2, tzinfo=UTC)
END = datetime(2026, 11, 9, tzinfo=UTC)
DAY = timedelta(days=1)
AGENTS = ("hunter", "tracker", "learner")
ARMS = {"search:topics": 900, "feeds": 400, "uploads": 150, "charts": 60}

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; DROP TABLE videos; -- | `x` [a](javascript:alert(1)) **bold**",
    "</title></svg><svg onload=alert(1)>",
    "{{ 7 * 7 }} {% include 'x' %} ${7*7}",
    "@everyone <!channel> \x1b[31mred\x07 \u202egnp.exe \u2028 next",
    "javascript:alert(1) https://evil.example/ ![x](https://evil.example/x.png)",
    "\u202e هذا عنوان بالعربية טקסט בעברית",
    "A title so long that no phone shows it in one line " + "very" * 30,
    "日本語のタイトルはここにあります",
)
"""What strangers may call their videos and channels."""


async def fill(sql: Any, atlas: Atlas, *, videos: int = 12) -> None:
    """Everything of a week that a report tells of."""
    await discoveries(sql)
    await growing_videos(sql, videos)
    await quota(sql)
    await cycles(sql)
    await hosts(atlas)
    await patterns(sql, atlas)


async def discoveries(sql: Any) -> None:
    rows = []
    for back, factor in ((7, 0.8), (0, 1.0)):
        for day in range(7):
            for arm, new in ARMS.items():
                count = int(new * factor * (1 + 0.1 * day))
                rows.append(
                    ((BEGIN + (day - back) * DAY).date(), arm, 90, 0 if arm == "feeds" else 90, 12.0,
                     2 * count, count, count // 3, count // 4, count // 20)
                )  # fmt: skip
    await sql.executemany(
        "INSERT INTO discovery_yields (pacific_day, arm, asks, units, enrichments, found, new, early, judged,"
        " growing) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        rows,
    )


async def growing_videos(sql: Any, videos: int) -> None:
    """Number n grows to about 100,000 / n views in the week, each with a title of a stranger."""
    for number in range(videos):
        name = HOSTILE[number % len(HOSTILE)]
        channel = f"UC-{number:020}"
        await store_video(sql, f"riser{number:06}", channel=channel, title=name, published_at=BEGIN)
        await sql.execute("UPDATE channels SET title = $2 WHERE id = $1", channel, name)
        counts = [
            (BEGIN + hour * HOUR, int(100_000 / (number + 1) / (1 + exp(-(hour - 60) / 14))))
            for hour in range(0, 168, 3)
        ]
        await store_samples(sql, f"riser{number:06}", counts)


async def quota(sql: Any) -> None:
    await sql.executemany(
        "INSERT INTO quota_ledger (project, bucket, pacific_day, hunting_used, tracking_used, closed_until,"
        " reason) VALUES ('main', $1, $2, $3, $4, $5, $6)",
        [
            (bucket, (BEGIN + day * DAY).date(), hunting, tracking, BEGIN if day == 3 else None,
             "quotaExceeded: used up" if day == 3 else None)
            for day in range(7)
            for bucket, hunting, tracking in (
                ("search", 98, 0), ("stats", 0, 7000 + 100 * day), ("general", 300, 20)
            )
        ],
    )  # fmt: skip


async def cycles(sql: Any) -> None:
    """A cycle of each agent every four hours; one in ten of the tracker's fails."""
    rows: list[tuple[datetime, str, str, dict[str, Any]]] = []
    for number in range(42):
        at = BEGIN + number * 4 * HOUR
        for agent in AGENTS:
            outcome = "unavailable" if agent == "tracker" and number % 10 == 9 else "done"
            payload = {"outcome": outcome, "seconds": 20.0 + number % 5}
            if agent == "tracker":
                payload |= {"samples": 900, "breakouts": number % 3}
                payload |= {"due": {"hot": 50 + 5 * number, "warm": 300 - number, "cold": 1200}}
            rows.append((at, f"{agent}.cycle", agent, payload))
    await sql.executemany(
        "INSERT INTO events (at, kind, agent, node, payload) VALUES ($1, $2, $3, 'north', $4)",
        [(at, kind, agent, _json(payload)) for at, kind, agent, payload in rows],
    )


def _json(payload: dict[str, Any]) -> str:
    import json

    return json.dumps(payload)


async def hosts(atlas: Atlas) -> None:
    """A host whose disk loses a gigabyte an hour."""
    dao = TelemetryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    await dao.store(
        HostSample(
            at=BEGIN + hour * HOUR, node="north", cpu_percent=30.0 + hour % 24, memory_percent=61.0,
            disk_percent=40.0 + hour / 10, disk_free_bytes=(300 - hour) * 10**9,
        )
        for hour in range(168)
    )  # fmt: skip


async def patterns(sql: Any, atlas: Atlas) -> None:
    """Six patterns, the later ones believed more firmly and the first two new; and one that was forgotten."""
    dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    known = [
        PatternContent(
            f"{number:032x}", "failure_mode", {"n": number}, f"After step {number} <b>all</b> fails"
        )
        for number in range(7)
    ]
    async with dao.transaction() as joined:
        await joined.store([*known])
        await joined.count(
            [
                NewEvidence(f"{number:032x}", BEGIN.date(), 10 * (number + 1), 1, 1.0, BEGIN)
                for number in range(7)
            ]
        )
    await dao.forget([f"{6:032x}"], "learner")
    await sql.execute(
        "UPDATE patterns SET created_at = CASE WHEN signature ->> 'n' < '2' THEN $1::timestamptz ELSE $2 END,"
        " forgotten_at = CASE WHEN forgotten_at IS NOT NULL THEN $1::timestamptz END",
        BEGIN + DAY,
        BEGIN - DAY,
    )
