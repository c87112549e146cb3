"""Examples of answers, as the OpenAPI document shows them; tests check that they have the documented form."""

from __future__ import annotations

from typing import Any, Final

from maia.views.words import ATTRIBUTION, DERIVED

_NOON: Final = "2026-11-02T12:00:00Z"
_DAY_BEFORE: Final = "2026-11-01T12:00:00Z"
_CHANNEL: Final = {"channel_id": "UCuAXFkgsw1L7xaCfnd5JJOw", "channel_title": "Rick Astley"}
_WATCH: Final = "https://www.youtube.com/watch?v=dQw4w9WgXcQ"
_CURSOR: Final = "WyI2ZTQ5ZDVmYjA3YzEiLDE3XQ"

_FORECAST: Final = {
    "made_at": _NOON,
    "views": 12_000,
    "day": {
        "hours": 24, "at": "2026-11-03T12:00:00Z", "views": 30_000.0, "low": 22_000.0, "high": 41_000.0,
        "top_chance": 0.4,
    },
    "week": {
        "hours": 168, "at": "2026-11-09T12:00:00Z", "views": 75_000.0, "low": 40_000.0, "high": 140_000.0,
        "top_chance": 0.3,
    },
}  # fmt: skip

_FIGURES: Final = {
    "velocity": 850.0, "acceleration": 12.5, "relative_velocity": 3.2, "viral_score": 0.81,
}  # fmt: skip

LEADERBOARD: Final[dict[str, Any]] = {
    "by": "velocity",
    "window_h": 24.0,
    "now": _NOON,
    "growth_since": _DAY_BEFORE,
    "attribution": DERIVED,
    "videos": [
        {
            "rank": 1, "id": "dQw4w9WgXcQ", "title": "Never Gonna Give You Up", **_CHANNEL, "category_id": 10,
            "published_at": _DAY_BEFORE, "duration_s": 213, "length": "long", "state": "tracked",
            "zone": "hot", "last_at": _NOON, "views": 12_000, **_FIGURES, "leads_by": 850.0,
            "growth": [None, 400.0, 850.0], "url": _WATCH, "forecast": _FORECAST,
        }
    ],
    "next": None,
}  # fmt: skip

VIDEO: Final[dict[str, Any]] = {
    "now": _NOON, "attribution": DERIVED, "url": _WATCH, "id": "dQw4w9WgXcQ",
    "title": "Never Gonna Give You Up", "description": "The official video.", **_CHANNEL,
    "published_at": _DAY_BEFORE, "discovered_at": _DAY_BEFORE, "found_by": "search:fresh",
    "discovered_by": "80s music", "category_id": 10, "default_language": "en", "duration_s": 213,
    "length": "long", "state": "tracked",
    "zone": "hot", "pinned_zone": None, "watched": True, "tags": ["rick astley", "80s"], "counted_at": _NOON,
    "views": 12_000, "likes": 900, "comments": 70, **_FIGURES, "next_due_at": "2026-11-02T13:00:00Z",
    "lag_s": -3600.0, "interval_h": 1.0, "samples_in_window": 24,
    "samples": [
        {
            "sampled_at": _NOON, "views": 12_000, "likes": 900, "comments": 70, "velocity": 850.0,
            "source": "api",
        }
    ],
    "forecast": _FORECAST,
    "breakouts": [
        {"at": _NOON, "views": 12_000, "views_per_hour": 850.0, "times_expected": 7.5, "age_h": 24.0}
    ],
    "sources": [{"arm": "search:fresh", "met_at": _DAY_BEFORE, "is_first": True, "age_h": 0.5}],
    "similar": [
        {
            "id": "yPYZpwSpKmA", "title": "Together Forever", **_CHANNEL, "published_at": _DAY_BEFORE,
            "views": 4_000, "velocity": 120.0, "share": 0.5, "shared_tags": ["80s", "rick astley"],
            "url": "https://www.youtube.com/watch?v=yPYZpwSpKmA",
        }
    ],
}  # fmt: skip

CHANNEL: Final[dict[str, Any]] = {
    "now": _NOON, "attribution": DERIVED,
    "url": "https://www.youtube.com/channel/UCuAXFkgsw1L7xaCfnd5JJOw", "id": "UCuAXFkgsw1L7xaCfnd5JJOw",
    "title": "Rick Astley", "state": "tracked", "discovered_at": _DAY_BEFORE, "watched": False,
    "pinned_zone": None, "next_due_at": "2026-11-03T12:00:00Z", "counted_at": _NOON,
    "subscribers": 4_000_000, "videos": 300, "views": 2_000_000_000, "videos_stored": 40,
    "samples": [
        {"sampled_at": _NOON, "subscribers": 4_000_000, "videos": 300, "views": 2_000_000_000}
    ],
    "norms": [
        {
            "from_age_h": 0.0, "to_age_h": 6.0, "videos": 12, "views_per_hour": 260.0, "low": 110.0,
            "high": 600.0,
        }
    ],
    "medians": [{"length": "long", "videos": 25, "views": 3_000.0}],
    "uploads": [
        {
            "id": "dQw4w9WgXcQ", "title": "Never Gonna Give You Up", "published_at": _DAY_BEFORE,
            "duration_s": 213, "length": "long", "state": "tracked", "views": 12_000, "multiple": 4.0,
            "velocity": 850.0, "relative_velocity": 3.2, "viral_score": 0.81, "url": _WATCH,
        }
    ],
}  # fmt: skip

TOPICS: Final[dict[str, Any]] = {
    "now": _NOON, "attribution": f"which topics' videos grow: {ATTRIBUTION}",
    "counts": {"active": 120, "cooling": 30, "parked": 2, "leased": 1, "waiting": 0},
    "topics": [
        {
            "id": 17, "query": "lofi hip hop", "only": "region DE", "origin": "seed", "status": "active",
            "mention_count": 3, "created_at": _DAY_BEFORE, "searched_at": _NOON, "cool_until": None,
            "held_until": None, "attempts": 0, "last_error": None, "asks": 4.0, "pages": 4, "results": 190,
            "new_videos": 80, "growing_videos": 6, "new_per_ask": 20.0, "growing_per_ask": 1.5,
        }
    ],
    "next": _CURSOR,
}  # fmt: skip

BREAKOUTS: Final[dict[str, Any]] = {
    "now": _NOON, "attribution": DERIVED, "since_cursor": 4_711,
    "breakouts": [
        {
            "cursor": 4_700, "at": _NOON, "video_id": "dQw4w9WgXcQ", "title": "Never Gonna Give You Up",
            **_CHANNEL, "age_h": 24.0, "views": 12_000, "views_per_hour": 850.0, "times_expected": 7.5,
            "viral_score": 0.81, "url": _WATCH,
        }
    ],
    "next": None,
}  # fmt: skip

QUOTA: Final[dict[str, Any]] = {
    "now": _NOON, "attribution": f"the pace is {ATTRIBUTION}",
    "ledger": [
        {
            "ring": "hunting", "bucket": "search", "project": "main", "limit": 10_000, "ring_limit": 8_000,
            "allowed": 4_100, "used": 3_900, "reserved": 100, "free_now": 100, "left": 4_000,
            "project_spent": 4_500, "closed_until": None, "reason": None, "keys": ["3f9a1c"], "loan": 0,
            "spent_by_others": 0,
        }
    ],
    "keys": [
        {
            "fingerprint": "3f9a1c", "project": "main", "rings": ["hunting"], "state": "usable", "calls": 45,
            "failures": 0, "retry_at": None, "reason": None,
        }
    ],
}  # fmt: skip

INCIDENTS: Final[dict[str, Any]] = {
    "now": _NOON,
    "incidents": [
        {
            "id": 7, "key": "host.disk:node-1", "component": "host", "node": "node-1", "status": "open",
            "severity": "warning", "text": "the disk of node-1 is 91 % full", "value": 91.0,
            "limit_value": 90.0, "command": "maia system cleanup", "cause": None, "opened_at": _DAY_BEFORE,
            "seen_at": _NOON, "well_since": None, "recovered_at": None, "announced_at": _DAY_BEFORE,
            "announced_severity": "warning", "announcements": 1, "acknowledged_at": None,
            "acknowledged_severity": None, "note": None, "attempts": 0, "is_claimed": False,
        }
    ],
}  # fmt: skip

SEARCH: Final[dict[str, Any]] = {
    "now": _NOON, "attribution": DERIVED, "q": "never gonna", "total": 1, "indexed": True, "note": None,
    "nearest": False, "did_you_mean": None,
    "matches": [
        {
            "kind": "video", "matched": "title", "id": "dQw4w9WgXcQ", "title": "Never Gonna Give You Up",
            **_CHANNEL, "published_at": _DAY_BEFORE, "views": 12_000, "velocity": 850.0, "subscribers": None,
            "url": _WATCH,
        }
    ],
}  # fmt: skip

HEALTH: Final[dict[str, Any]] = {
    "at": _NOON, "node": "node-1", "score": 0.95, "healthy": True,
    "components": {
        "database": {"score": 1.0, "reasons": []},
        "host": {"score": 0.8, "reasons": ["the disk of node-1 is 91 % full"]},
    },
    "findings": [
        {
            "key": "host.disk:node-1", "severity": "warning", "text": "the disk of node-1 is 91 % full",
            "value": 91.0, "limit": 90.0, "command": "maia system cleanup",
        }
    ],
}  # fmt: skip

METRICS: Final[dict[str, Any]] = {
    "cpu": {"percent": 12.5, "cores": 2, "load_avg": [0.4, 0.5, 0.3]},
    "memory": {"total": 8_000_000_000, "available": 5_000_000_000, "percent": 37.5, "used": 2_800_000_000},
    "disk": {"total": 100_000_000_000, "used": 40_000_000_000, "free": 60_000_000_000, "percent": 40.0},
    "network": {"bytes_sent": 1_000, "bytes_recv": 2_000, "packets_sent": 10, "packets_recv": 20},
    "timestamp": _NOON,
    "node": "node-1",
}
