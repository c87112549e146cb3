"""What is given on the command line: spans, instants, zones, videos and channels."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal, NamedTuple
from urllib.parse import parse_qs, urlsplit

import typer

ZoneName = Literal["hot", "warm", "cold"]
ZONES: Final[tuple[ZoneName, ...]] = ("hot", "warm", "cold")
"""By the number that the database has for them."""

Kind = Literal["video", "channel"]

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(m|min|h|d|w)")
_UNITS = {"m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LONGEST_SPAN = timedelta(days=3660)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_CHANNEL_ID = re.compile(r"UC[A-Za-z0-9_-]{22}")
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WITH_VIDEO_ID = {"shorts", "live", "embed", "v"}
_HOSTS = re.compile(r"(?:(?:www|m|music)\.)?youtube(?:-nocookie)?\.com|youtu\.be")


class Named(NamedTuple):
    """A video's or a channel's id; `kind` is None where its form doesn't tell which."""

    kind: Kind | None
    id: str


def parse_span(text: str | None, option: str) -> timedelta | None:
    """A length of time such as 90m, 24h, 7d or 2w."""
    if text is None:
        return None
    match = _SPAN.fullmatch(text.strip().lower())
    span = timedelta(**{_UNITS[match[2]]: float(match[1])}) if match and len(match[1]) < 9 else timedelta(0)
    if not timedelta(0) < span <= _LONGEST_SPAN:
        raise typer.BadParameter(f"{text!r} is no span such as 90m, 24h, 7d or 2w", param_hint=option)
    return span


def parse_moment(text: str | None, option: str) -> datetime | None:
    """An instant given on the command line; a zone must be said, so that nobody is an hour off."""
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no instant such as 2026-11-02T08:00:00Z", param_hint=option
        ) from error
    if instant.tzinfo is None:
        raise typer.BadParameter(f"{text!r} says no time zone: add Z for UTC", param_hint=option)
    return instant.astimezone(UTC)


def parse_day_or_moment(text: str | None, option: str) -> datetime | None:
    """An instant, or the first one of a UTC day."""
    if text is not None and _DAY.fullmatch(text):
        try:
            day = date.fromisoformat(text)
        except ValueError as error:
            raise typer.BadParameter(f"there is no day {text}", param_hint=option) from error
        return datetime(day.year, day.month, day.day, tzinfo=UTC)
    return parse_moment(text, option)


def zone_number(name: ZoneName | None) -> int | None:
    """What the database calls a zone."""
    return None if name is None else ZONES.index(name)


def zone_name(number: int | None) -> ZoneName | None:
    """What people call a zone."""
    return None if number is None else ZONES[number]


def parse_named(text: str) -> Named:
    """A video or a channel, given by its id or by its address on YouTube."""
    text = text.strip()
    if "/" in text or "." in text:
        return _of_address(text)
    if text.startswith("@"):
        raise typer.BadParameter(_no_handles(text))
    if _CHANNEL_ID.fullmatch(text):
        return Named("channel", text)
    if _ID.fullmatch(text):
        # Ids of practice catalogues have forms of their own: what is stored decides.
        return Named(None, text)
    raise typer.BadParameter(
        f"{text!r} is neither an id nor an address, such as https://www.youtube.com/watch?v=dQw4w9WgXcQ"
    )


def parse_video(text: str) -> str:
    """A video's id, given by itself or in an address."""
    named = parse_named(text)
    if named.kind == "channel":
        raise typer.BadParameter(f"{text!r} is a channel, not a video")
    return named.id


def looks_like_a_video(id_: str) -> bool:
    """Whether an id that nobody has met has the form of a video's."""
    return _VIDEO_ID.fullmatch(id_) is not None


def _of_address(text: str) -> Named:
    parts = urlsplit(text if "://" in text else f"https://{text}")
    host = (parts.hostname or "").lower()
    if not _HOSTS.fullmatch(host):
        raise typer.BadParameter(f"{text!r} is no address on YouTube")
    first, *rest = [part for part in parts.path.split("/") if part] or [""]
    if first.startswith("@"):
        raise typer.BadParameter(_no_handles(first))
    if first == "channel" and rest and _CHANNEL_ID.fullmatch(rest[0]):
        return Named("channel", rest[0])
    candidates = {"watch": parse_qs(parts.query).get("v", [])} | dict.fromkeys(_WITH_VIDEO_ID, rest)
    found = [first, *rest] if host == "youtu.be" else candidates.get(first, [])
    if found and _VIDEO_ID.fullmatch(found[0]):
        return Named("video", found[0])
    raise typer.BadParameter(f"{text!r} is the address of neither a video nor a channel")


def _no_handles(handle: str) -> str:
    return (
        f"{handle} is a handle, which only YouTube can tell the channel of: on the channel's page choose "
        "Share, then Copy channel ID, and give that (UC…)"
    )
