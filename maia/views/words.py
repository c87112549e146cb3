"""The vocabulary of all views (zones, states, lengths, URLs), and their conversion to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from enum import Enum
from math import isfinite
from typing import Any, Final, Literal
from urllib.parse import quote

from atlas.csvform import rfc3339

ATTRIBUTION: Final = "computed by Pleiades, not by YouTube"
"""Shown wherever a velocity, or a figure derived from one, is shown."""
DERIVED: Final = f"velocity and figures derived from it: {ATTRIBUTION}"

ZoneName = Literal["hot", "warm", "cold"]
ZONES: Final[tuple[ZoneName, ...]] = ("hot", "warm", "cold")
"""The zones in the order of their numbers in the database."""

State = Literal["tracked", "upcoming", "live", "gone", "stored"]
"""`live` is a broadcast in progress; `stored` is known but not sampled."""

Broadcast = Literal["none", "live", "upcoming"]
"""The broadcast state that YouTube last reported; `none` is neither live nor upcoming."""

Length = Literal["short", "long"]
SHORT_AT_MOST_S: Final = 180
"""YouTube shows an upright video of up to this length as a Short; the API doesn't say if it is upright."""


def zone_number(name: ZoneName | None) -> int | None:
    """The database's number for a zone."""
    return None if name is None else ZONES.index(name)


def zone_name(number: int | None) -> ZoneName | None:
    """The name of the zone with that number in the database."""
    return None if number is None else ZONES[number]


def state_of(status: str, broadcast: str | None, *, tracked: bool) -> State:
    """A video's state, from its clock's status and the broadcast state that YouTube last reported."""
    if status == "gone":
        return "gone"
    if broadcast == "upcoming":
        return "upcoming"
    if broadcast == "live":
        return "live"
    return "tracked" if tracked else "stored"


def length_of(duration_s: int | None) -> Length | None:
    """Whether a video is short or long; None if it has no duration yet, like an upcoming broadcast."""
    if not duration_s:
        return None
    return "short" if duration_s <= SHORT_AT_MOST_S else "long"


def video_url(video_id: str) -> str:
    return f"https://www.youtube.com/watch?v={quote(video_id, safe='')}"


def channel_url(channel_id: str) -> str:
    return f"https://www.youtube.com/channel/{quote(channel_id, safe='')}"


def plain(value: Any) -> Any:
    """Convert a view for JSON: objects and lists, instants as RFC 3339 in UTC, NaN and infinity as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and not isfinite(value):
        return None
    return value
