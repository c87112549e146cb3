"""The API's resources as typed, frozen results, and their reading from its JSON.

Unknown fields are ignored; missing ones are None. A field of the wrong form is taken as missing, and an
item without its identity is left out; both with a warning that names it, so that one bad item never
costs its page. Only an answer that is no list of items at all is refused, as MalformedAnswer.
"""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

Json = Mapping[str, Any]
T = TypeVar("T")


class MalformedAnswer(ValueError):
    """The answer is JSON, but not of the form that the API documents."""


@dataclass(frozen=True, slots=True)
class Video:
    """A video as videos.list describes it; `raw` is its item, as the vault keeps it."""

    id: str
    channel_id: str
    channel_title: str | None
    title: str | None
    description: str | None
    published_at: datetime | None
    category_id: int | None
    tags: tuple[str, ...]
    duration_s: int | None
    live_broadcast_content: str | None
    default_language: str | None
    default_audio_language: str | None
    view_count: int | None
    like_count: int | None
    comment_count: int | None
    etag: str | None
    raw: Json = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class VideoStats:
    """A video's counters; None where hidden or disabled."""

    id: str
    view_count: int | None
    like_count: int | None
    comment_count: int | None


@dataclass(frozen=True, slots=True)
class StatsBatch:
    """The counters that could be had, and the ids that have none: deleted, private or unknown."""

    items: tuple[VideoStats, ...]
    failed_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A video as a search finds it: no tags, category, duration or counts."""

    video_id: str
    channel_id: str | None
    channel_title: str | None
    title: str | None
    description: str | None
    published_at: datetime | None
    live_broadcast_content: str | None
    raw: Json = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class SearchPage:
    """A page of hits; `total_results` is an estimate, never a loop bound."""

    items: tuple[SearchHit, ...]
    next_page_token: str | None
    total_results: int | None
    etag: str | None


@dataclass(frozen=True, slots=True)
class VideoPage:
    """A page of a chart."""

    items: tuple[Video, ...]
    next_page_token: str | None
    total_results: int | None
    etag: str | None


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel; `subscriber_count` has three significant figures."""

    id: str
    title: str | None
    description: str | None
    custom_url: str | None
    country: str | None
    published_at: datetime | None
    view_count: int | None
    subscriber_count: int | None
    subscribers_hidden: bool
    video_count: int | None
    etag: str | None
    raw: Json = field(repr=False, compare=False)

    @property
    def uploads_playlist_id(self) -> str | None:
        """The playlist of everything it uploads."""
        return f"UU{self.id[2:]}" if self.id.startswith("UC") else None


@dataclass(frozen=True, slots=True)
class PlaylistItem:
    """A video in a playlist; order uploads by `video_published_at`, as the list's is not guaranteed."""

    video_id: str
    video_published_at: datetime | None
    added_at: datetime | None
    title: str | None
    channel_id: str | None
    position: int | None
    raw: Json = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class PlaylistPage:
    """A page of a playlist."""

    items: tuple[PlaylistItem, ...]
    next_page_token: str | None
    total_results: int | None
    etag: str | None


@dataclass(frozen=True, slots=True)
class VideoCategory:
    """A category that videos of a region may be in."""

    id: int
    title: str | None
    assignable: bool


@dataclass(frozen=True, slots=True)
class NotModified:
    """What was asked for is still as `etag` names it."""

    etag: str


def parse_videos(answer: Json) -> tuple[Video, ...]:
    """The videos of a videos.list answer."""
    return tuple(_items(answer, "video", _video))


def parse_video_page(answer: Json) -> VideoPage:
    """A page of a videos.list answer, as of a chart."""
    return VideoPage(parse_videos(answer), *_paging(answer))


def parse_stats(answer: Json) -> tuple[VideoStats, ...]:
    """The counters of a videos.batchGetStats or videos.list answer."""
    return tuple(_items(answer, "video", _video_stats))


def parse_search_page(answer: Json) -> SearchPage:
    """The videos of a search.list answer; its channels and playlists are passed over."""
    return SearchPage(tuple(_items(answer, "search hit", _search_hit)), *_paging(answer))


def parse_channels(answer: Json) -> tuple[Channel, ...]:
    """The channels of a channels.list answer."""
    return tuple(_items(answer, "channel", _channel))


def parse_playlist_page(answer: Json) -> PlaylistPage:
    """A page of a playlistItems.list answer."""
    return PlaylistPage(tuple(_items(answer, "playlist item", _playlist_item)), *_paging(answer))


def parse_categories(answer: Json) -> tuple[VideoCategory, ...]:
    """The categories of a videoCategories.list answer."""
    return tuple(_items(answer, "category", _category))


def _items(answer: Json, noun: str, parse: Callable[[Json], T | None]) -> Iterator[T]:
    """Every item that `parse` can read; it returns None for those that are of another kind."""
    items = answer.get("items", [])
    if not isinstance(items, list):
        raise MalformedAnswer(f"its items are no list, but {type(items).__name__}")
    for place, item in enumerate(items):
        if not isinstance(item, dict):
            logger.warning("%s %d of the answer is no object: left out", noun, place)
            continue
        try:
            parsed = parse(item)
        except MalformedAnswer as fault:
            logger.warning("%s %d of the answer is left out: %s", noun, place, fault)
            continue
        if parsed is not None:
            yield parsed


def _paging(answer: Json) -> tuple[str | None, int | None, str | None]:
    info = _section(answer, "pageInfo", "page")
    return (
        _text(answer, "nextPageToken", "page") or None,
        _count(info, "totalResults", "page"),
        _text(answer, "etag", "page"),
    )


def _video(item: Json) -> Video:
    id_ = _identity(item, "id")
    snippet = _section(item, "snippet", id_)
    statistics = _section(item, "statistics", id_)
    return Video(
        id_,
        _identity(snippet, "channelId", of=id_),
        _text(snippet, "channelTitle", id_),
        _text(snippet, "title", id_),
        _text(snippet, "description", id_),
        _instant(snippet, "publishedAt", id_),
        _count(snippet, "categoryId", id_, _LARGEST_INT),
        _texts(snippet, "tags", id_),
        _seconds(_section(item, "contentDetails", id_), "duration", id_),
        _text(snippet, "liveBroadcastContent", id_),
        _text(snippet, "defaultLanguage", id_),
        _text(snippet, "defaultAudioLanguage", id_),
        _count(statistics, "viewCount", id_),
        _count(statistics, "likeCount", id_),
        _count(statistics, "commentCount", id_),
        _text(item, "etag", id_),
        item,
    )


def _video_stats(item: Json) -> VideoStats:
    id_ = _identity(item, "id")
    statistics = _section(item, "statistics", id_)
    return VideoStats(
        id_,
        _count(statistics, "viewCount", id_),
        _count(statistics, "likeCount", id_),
        _count(statistics, "commentCount", id_),
    )


def _search_hit(item: Json) -> SearchHit | None:
    resource = _section(item, "id", "search hit")
    if resource.get("kind", "youtube#video") != "youtube#video":
        return None
    id_ = _identity(resource, "videoId")
    snippet = _section(item, "snippet", id_)
    return SearchHit(
        id_,
        _text(snippet, "channelId", id_) or None,
        _unescaped(snippet, "channelTitle", id_),
        _unescaped(snippet, "title", id_),
        _unescaped(snippet, "description", id_),
        _instant(snippet, "publishedAt", id_),
        _text(snippet, "liveBroadcastContent", id_),
        item,
    )


def _channel(item: Json) -> Channel:
    id_ = _identity(item, "id")
    snippet = _section(item, "snippet", id_)
    statistics = _section(item, "statistics", id_)
    hidden = statistics.get("hiddenSubscriberCount") is True
    return Channel(
        id_,
        _text(snippet, "title", id_),
        _text(snippet, "description", id_),
        _text(snippet, "customUrl", id_),
        _text(snippet, "country", id_),
        _instant(snippet, "publishedAt", id_),
        _count(statistics, "viewCount", id_),
        None if hidden else _count(statistics, "subscriberCount", id_),
        hidden,
        _count(statistics, "videoCount", id_),
        _text(item, "etag", id_),
        item,
    )


def _playlist_item(item: Json) -> PlaylistItem | None:
    snippet = _section(item, "snippet", "playlist item")
    details = _section(item, "contentDetails", "playlist item")
    resource = _section(snippet, "resourceId", "playlist item")
    id_ = _identity(details if "videoId" in details else resource, "videoId")
    return PlaylistItem(
        id_,
        _instant(details, "videoPublishedAt", id_),
        _instant(snippet, "publishedAt", id_),
        _text(snippet, "title", id_),
        _text(snippet, "videoOwnerChannelId", id_) or _text(snippet, "channelId", id_),
        _count(snippet, "position", id_),
        item,
    )


def _category(item: Json) -> VideoCategory:
    id_ = _count(item, "id", "category", _LARGEST_INT)
    if id_ is None:
        raise MalformedAnswer("it has no id")
    snippet = _section(item, "snippet", "category")
    return VideoCategory(id_, _text(snippet, "title", str(id_)), snippet.get("assignable") is True)


_NOTHING: Json = {}
_LONGEST_ID = 64
_MOST_REMEMBERED = 10_000
# What an integer and a bigint of the database hold.
_LARGEST_INT, _LARGEST = 2**31 - 1, 2**63 - 1
_DURATION = re.compile(
    r"P(?:(\d{1,3})W)?(?:(\d{1,4})D)?(?:T(?:(\d{1,5})H)?(?:(\d{1,6})M)?(?:(\d{1,8})(?:\.\d+)?S)?)?",
    re.ASCII,
)


@lru_cache(_MOST_REMEMBERED)
def seconds_of(duration: str) -> int | None:
    """The seconds of an ISO 8601 duration, such as 253 for "PT4M13S"; None if it is none."""
    parts = _DURATION.fullmatch(duration)
    if parts is None or duration.endswith(("P", "T")):
        return None
    weeks, days, hours, minutes, seconds = map(int, parts.groups("0"))
    return (((weeks * 7 + days) * 24 + hours) * 60 + minutes) * 60 + seconds


def instant_of(text: str) -> datetime | None:
    """The aware UTC instant of an RFC 3339 time; one without an offset is taken as UTC."""
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is UTC:
            return instant
        return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _identity(source: Json, name: str, *, of: str | None = None) -> str:
    value = source.get(name)
    if isinstance(value, str) and 0 < len(value) <= _LONGEST_ID and "\0" not in value:
        return value
    raise MalformedAnswer(f"{of or 'it'} has no usable {name}")


def _section(source: Json, name: str, of: str) -> Json:
    value = source.get(name)
    if isinstance(value, dict):
        return value
    if value is not None:
        _malformed(of, name, value)
    return _NOTHING


def _text(source: Json, name: str, of: str) -> str | None:
    value = source.get(name)
    if isinstance(value, str):
        # PostgreSQL's text holds every character but this one.
        return value.replace("\0", "") if "\0" in value else value
    if value is not None:
        _malformed(of, name, value)
    return None


def _unescaped(source: Json, name: str, of: str) -> str | None:
    """Text of a search snippet, the only ones that the API escapes for HTML."""
    text = _text(source, name, of)
    return html.unescape(text) if text and "&" in text else text


def _texts(source: Json, name: str, of: str) -> tuple[str, ...]:
    value = source.get(name)
    if value is None:
        return ()
    texts: list[Any] = value if isinstance(value, list) else []
    try:
        clean = texts is value and "\0" not in "".join(texts)
    except TypeError:
        clean = False
    if clean:
        return tuple(texts)
    kept = tuple(entry.replace("\0", "") for entry in texts if isinstance(entry, str))
    if texts is not value or len(kept) != len(texts):
        _malformed(of, name, value)
    return kept


def _count(source: Json, name: str, of: str, most: int = _LARGEST) -> int | None:
    value = source.get(name)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
        return value
    if value is not None:
        _malformed(of, name, value)
    return None


def _instant(source: Json, name: str, of: str) -> datetime | None:
    return _read(source, name, of, instant_of)


def _seconds(source: Json, name: str, of: str) -> int | None:
    return _read(source, name, of, seconds_of)


def _read(source: Json, name: str, of: str, read: Callable[[str], T | None]) -> T | None:
    value = source.get(name)
    if value is None:
        return None
    parsed = read(value) if isinstance(value, str) else None
    if parsed is None:
        _malformed(of, name, value)
    return parsed


def _malformed(of: str, name: str, value: object) -> None:
    logger.warning("%s: %s is malformed and taken as missing: %.80r", of, name, value)
