"""Parses the API's JSON into typed results, and tolerates malformed values.

Unknown fields are ignored, missing and malformed ones are None. Overlong text is cut, and an item without its
id is left out, so one bad item never costs the rest of its page. Malformed values are counted in
`Reader.malformed` by kind ("video", "publishedAt", …), and the first few in a response are logged. Only a
response that is not a list of items at all raises MalformedResponse.
"""

from __future__ import annotations

import html
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

from atlas.wording import counted
from maia.youtube.ids import ChannelId, VideoId, channel_id, video_id
from maia.youtube.resources import (
    Channel,
    Json,
    LiveState,
    PlaylistItem,
    PlaylistPage,
    SearchHit,
    SearchPage,
    Video,
    VideoCategory,
    VideoPage,
    VideoStats,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

LARGEST_PAGE = 50
"""The largest page that the API ever returns."""

_MOST_CATEGORIES = 500
_MOST_LOGGED = 3
_MOST_REMEMBERED = 10_000
# The largest values of the database's integer and bigint.
_LARGEST_INT, _LARGEST = 2**31 - 1, 2**63 - 1
# YouTube allows 100 characters of title, 5,000 bytes of description and 500 characters of tags.
_LONGEST_TITLE, _LONGEST_DESCRIPTION, _LONGEST_TAG, _MOST_TAGS = 500, 20_000, 500, 500
_LONGEST_CODE = 64
_OPAQUE = re.compile(r"[!-~]{1,1000}")
# YouTube's first day, and how far two machines' clocks may differ.
_EARLIEST, _CLOCKS_DIFFER = datetime(2005, 2, 14, tzinfo=UTC), timedelta(days=1)
_LATEST_SCHEDULE = timedelta(days=5 * 365)
_LIVE_STATES: Mapping[str, LiveState] = {"none": "none", "upcoming": "upcoming", "live": "live"}
# The API's duration of a broadcast that is upcoming or live.
_NO_LENGTH = "P0D"
_NOTHING: Json = {}
_DURATION = re.compile(
    r"P(?:(\d{1,3})W)?(?:(\d{1,4})D)?(?:T(?:(\d{1,5})H)?(?:(\d{1,6})M)?(?:(\d{1,8})(?:\.\d+)?S)?)?",
    re.ASCII,
)


class MalformedResponse(ValueError):
    """The response does not have the form that the API documents."""


@lru_cache(_MOST_REMEMBERED)
def seconds_of(duration: str) -> int | None:
    """The seconds in an ISO 8601 duration, such as 253 for "PT4M13S"; None for other text."""
    parts = _DURATION.fullmatch(duration)
    if parts is None or duration.endswith(("P", "T")):
        return None
    weeks, days, hours, minutes, seconds = map(int, parts.groups("0"))
    return (((weeks * 7 + days) * 24 + hours) * 60 + minutes) * 60 + seconds


def instant_of(text: str) -> datetime | None:
    """Parse an RFC 3339 time to a UTC datetime; a time without an offset counts as UTC."""
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is UTC:
            return instant
        return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


class Reader:
    """Reads the fields of one response, and counts the malformed ones.

    `now` decides which instants are in the future. Several readers may share `malformed`.
    """

    def __init__(self, now: datetime, malformed: Counter[str] | None = None) -> None:
        self.malformed: Counter[str] = Counter() if malformed is None else malformed
        self._latest = _shifted(now, _CLOCKS_DIFFER)
        self._latest_schedule = _shifted(now, _LATEST_SCHEDULE)
        self._found = 0

    def count_malformed(self, what: str, message: str, *values: object, times: int = 1) -> None:
        """Count a malformed value, and log it if it is among the first few of the response."""
        self.malformed[what] += times
        self._found += times
        if self._found - times < _MOST_LOGGED:
            logger.warning(message, *values, extra={"action": "malformed"})

    def log_rest(self, call: str) -> None:
        """Log how many values were malformed in total, if not all were logged."""
        if self._found > _MOST_LOGGED:
            logger.warning(
                "%s: the response holds %d malformed values in total; they are left out",
                call,
                self._found,
                extra={"action": "malformed"},
            )

    def items(
        self, answer: Json, noun: str, parse: Callable[[Json, Reader], T | None], most: int = LARGEST_PAGE
    ) -> Iterator[T]:
        """Parse the items, leaving out malformed ones; `parse` returns None for items of another kind."""
        items = answer.get("items", [])
        if not isinstance(items, list):
            raise MalformedResponse(f"its items are not a list, but {type(items).__name__}")
        for place, item in enumerate(items[:most]):
            if not isinstance(item, dict):
                self.count_malformed(noun, "%s %d in the response is not an object: left out", noun, place)
                continue
            try:
                parsed = parse(item, self)
            except MalformedResponse as fault:
                self.count_malformed(noun, "%s %d in the response is left out: %s", noun, place, fault)
                continue
            if parsed is not None:
                yield parsed
        if len(items) > most:
            excess = len(items) - most
            self.count_malformed(
                noun,
                "the response holds %s, but a page has at most %d",
                counted(len(items), "item"),
                most,
                times=excess,
            )

    def paging(self, answer: Json) -> tuple[str | None, int | None, str | None]:
        """The next page's token, the estimated total and the etag."""
        info = self.section(answer, "pageInfo", "page")
        return (
            self.opaque(answer, "nextPageToken", "page"),
            self.count(info, "totalResults", "page"),
            self.opaque(answer, "etag", "page"),
        )

    def video_id(self, source: Json, name: str) -> VideoId:
        """The video id; MalformedResponse if it is missing or malformed."""
        value = source.get(name)
        id_ = video_id(value)
        if id_ is None:
            raise MalformedResponse(f"its {name} is not a video id: {_beginning(value)!r:.80}")
        return id_

    def channel_id(self, source: Json, name: str, *, of: str = "it") -> ChannelId:
        """The channel id; MalformedResponse if it is missing or malformed."""
        value = source.get(name)
        id_ = channel_id(value)
        if id_ is None:
            raise MalformedResponse(f"the {name} of {of} is not a channel id: {_beginning(value)!r:.80}")
        return id_

    def channel_id_or_none(self, source: Json, name: str, of: str) -> ChannelId | None:
        value = source.get(name)
        return None if value in (None, "") else self._read(source, name, of, channel_id)

    def section(self, source: Json, name: str, of: str) -> Json:
        """The object with that name; an empty one if it is missing."""
        value = source.get(name)
        if isinstance(value, dict):
            return value
        if value is not None:
            self._missing(of, name, value)
        return _NOTHING

    def text(self, source: Json, name: str, of: str, longest: int = _LONGEST_TITLE) -> str | None:
        value = source.get(name)
        if not isinstance(value, str):
            if value is not None:
                self._missing(of, name, value)
            return None
        if len(value) > longest:
            self.count_malformed(name, "%s: %s is cut: it has %d characters", of, name, len(value))
            value = value[:longest]
        # PostgreSQL's text type cannot hold this character.
        return value.replace("\0", "") if "\0" in value else value

    def unescaped(self, source: Json, name: str, of: str, longest: int = _LONGEST_TITLE) -> str | None:
        """Text from a search result: only there does the API escape text for HTML."""
        text = self.text(source, name, of, longest)
        return html.unescape(text) if text and "&" in text else text

    def code(self, source: Json, name: str, of: str) -> str | None:
        """A short code such as a language; None if it is too long to be one."""
        value = source.get(name)
        if isinstance(value, str) and len(value) <= _LONGEST_CODE and "\0" not in value:
            return value
        if value is not None:
            self._missing(of, name, value)
        return None

    def opaque(self, source: Json, name: str, of: str) -> str | None:
        """A page token or etag, which is sent back unchanged; None if it is empty."""
        value = source.get(name)
        if value in (None, ""):
            return None
        if isinstance(value, str) and _OPAQUE.fullmatch(value):
            return value
        self._missing(of, name, value)
        return None

    def live_state(self, source: Json, of: str) -> LiveState | None:
        value = source.get("liveBroadcastContent")
        known = _LIVE_STATES.get(value) if isinstance(value, str) else None
        if known is None and value is not None:
            self._missing(of, "liveBroadcastContent", value)
        return known

    def tags(self, source: Json, of: str) -> tuple[str, ...]:
        value = source.get("tags")
        if value is None:
            return ()
        listed: list[Any] = value if isinstance(value, list) else []
        if listed is value and _are_plain(listed):
            return tuple(listed)
        tags = tuple(
            tag.replace("\0", "")
            for tag in listed[:_MOST_TAGS]
            if isinstance(tag, str) and len(tag) <= _LONGEST_TAG
        )
        if listed is not value or len(tags) != len(listed):
            self._missing(of, "tags", value)
        return tags

    def count(self, source: Json, name: str, of: str, most: int = _LARGEST) -> int | None:
        """A non-negative number, written as a number or a string."""
        value = source.get(name)
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
            return value
        if value is not None:
            self._missing(of, name, value)
        return None

    def past(self, source: Json, name: str, of: str) -> datetime | None:
        """An instant in the past, but not before YouTube existed."""
        return self._instant(source, name, of, self._latest)

    def scheduled(self, source: Json, name: str, of: str) -> datetime | None:
        """An instant that may lie in the future, by a few years at most."""
        return self._instant(source, name, of, self._latest_schedule)

    def length_s(self, source: Json, of: str) -> int | None:
        if source.get("duration") == _NO_LENGTH:
            return None
        return self._read(source, "duration", of, seconds_of)

    def _instant(self, source: Json, name: str, of: str, latest: datetime) -> datetime | None:
        instant = self._read(source, name, of, instant_of)
        if instant is not None and not _EARLIEST <= instant <= latest:
            self._missing(of, name, source[name])
            return None
        return instant

    def _read(self, source: Json, name: str, of: str, read: Callable[[str], T | None]) -> T | None:
        value = source.get(name)
        if value is None:
            return None
        parsed = read(value) if isinstance(value, str) else None
        if parsed is None:
            self._missing(of, name, value)
        return parsed

    def _missing(self, of: str, name: str, value: object) -> None:
        self.count_malformed(
            name, "%s: %s is malformed and treated as missing: %.80r", of, name, _beginning(value)
        )


def _shifted(now: datetime, by: timedelta) -> datetime:
    try:
        return now + by
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def _are_plain(tags: list[Any]) -> bool:
    """Whether no tag needs cleaning. Testing the joined tags is much faster than testing each."""
    try:
        joined = "".join(tags)
    except TypeError:
        return False
    return len(joined) <= _LONGEST_TAG and len(tags) <= _MOST_TAGS and "\0" not in joined


def _beginning(value: object) -> object:
    """The start of a value for the log, so that megabytes are not formatted first."""
    return value[:80] if isinstance(value, (str, list)) else value


def parse_videos(answer: Json, reader: Reader) -> tuple[Video, ...]:
    """The videos in a videos.list response."""
    return tuple(reader.items(answer, "video", _video))


def parse_video_page(answer: Json, reader: Reader) -> VideoPage:
    """A page of videos.list, such as of a chart."""
    return VideoPage(parse_videos(answer, reader), *reader.paging(answer))


def parse_stats(answer: Json, reader: Reader) -> tuple[VideoStats, ...]:
    """The counters in a videos.batchGetStats or videos.list response."""
    return tuple(reader.items(answer, "video", _video_stats))


def parse_search_page(answer: Json, reader: Reader) -> SearchPage:
    """The videos in a search.list response; channels and playlists are skipped."""
    return SearchPage(tuple(reader.items(answer, "search hit", _search_hit)), *reader.paging(answer))


def parse_channels(answer: Json, reader: Reader) -> tuple[Channel, ...]:
    """The channels in a channels.list response."""
    return tuple(reader.items(answer, "channel", _channel))


def parse_playlist_page(answer: Json, reader: Reader) -> PlaylistPage:
    """A page of playlistItems.list."""
    return PlaylistPage(tuple(reader.items(answer, "playlist item", _playlist_item)), *reader.paging(answer))


def parse_categories(answer: Json, reader: Reader) -> tuple[VideoCategory, ...]:
    """The categories in a videoCategories.list response."""
    return tuple(reader.items(answer, "category", _category, _MOST_CATEGORIES))


def _video(item: Json, reader: Reader) -> Video:
    id_ = reader.video_id(item, "id")
    snippet = reader.section(item, "snippet", id_)
    statistics = reader.section(item, "statistics", id_)
    live = reader.section(item, "liveStreamingDetails", id_)
    return Video(
        id_,
        reader.channel_id(snippet, "channelId", of=id_),
        reader.text(snippet, "channelTitle", id_),
        reader.text(snippet, "title", id_),
        reader.text(snippet, "description", id_, _LONGEST_DESCRIPTION),
        reader.past(snippet, "publishedAt", id_),
        reader.count(snippet, "categoryId", id_, _LARGEST_INT),
        reader.tags(snippet, id_),
        reader.length_s(reader.section(item, "contentDetails", id_), id_),
        reader.live_state(snippet, id_),
        reader.code(snippet, "defaultLanguage", id_),
        reader.code(snippet, "defaultAudioLanguage", id_),
        reader.count(statistics, "viewCount", id_),
        reader.count(statistics, "likeCount", id_),
        reader.count(statistics, "commentCount", id_),
        reader.opaque(item, "etag", id_),
        item,
        reader.scheduled(live, "scheduledStartTime", id_),
        reader.past(live, "actualStartTime", id_),
        reader.past(live, "actualEndTime", id_),
    )


def _video_stats(item: Json, reader: Reader) -> VideoStats:
    id_ = reader.video_id(item, "id")
    statistics = reader.section(item, "statistics", id_)
    return VideoStats(
        id_,
        reader.count(statistics, "viewCount", id_),
        reader.count(statistics, "likeCount", id_),
        reader.count(statistics, "commentCount", id_),
    )


def _search_hit(item: Json, reader: Reader) -> SearchHit | None:
    resource = reader.section(item, "id", "search hit")
    if resource.get("kind", "youtube#video") != "youtube#video":
        return None
    id_ = reader.video_id(resource, "videoId")
    snippet = reader.section(item, "snippet", id_)
    return SearchHit(
        id_,
        reader.channel_id_or_none(snippet, "channelId", id_),
        reader.unescaped(snippet, "channelTitle", id_),
        reader.unescaped(snippet, "title", id_),
        reader.unescaped(snippet, "description", id_, _LONGEST_DESCRIPTION),
        reader.past(snippet, "publishedAt", id_),
        reader.live_state(snippet, id_),
        item,
    )


def _channel(item: Json, reader: Reader) -> Channel:
    id_ = reader.channel_id(item, "id")
    snippet = reader.section(item, "snippet", id_)
    statistics = reader.section(item, "statistics", id_)
    hidden = statistics.get("hiddenSubscriberCount") is True
    return Channel(
        id_,
        reader.text(snippet, "title", id_),
        reader.text(snippet, "description", id_, _LONGEST_DESCRIPTION),
        reader.code(snippet, "customUrl", id_),
        reader.code(snippet, "country", id_),
        reader.past(snippet, "publishedAt", id_),
        reader.count(statistics, "viewCount", id_),
        None if hidden else reader.count(statistics, "subscriberCount", id_),
        hidden,
        reader.count(statistics, "videoCount", id_),
        reader.opaque(item, "etag", id_),
        item,
    )


def _playlist_item(item: Json, reader: Reader) -> PlaylistItem:
    snippet = reader.section(item, "snippet", "playlist item")
    details = reader.section(item, "contentDetails", "playlist item")
    resource = reader.section(snippet, "resourceId", "playlist item")
    id_ = reader.video_id(details if "videoId" in details else resource, "videoId")
    return PlaylistItem(
        id_,
        reader.past(details, "videoPublishedAt", id_),
        reader.past(snippet, "publishedAt", id_),
        reader.text(snippet, "title", id_),
        reader.channel_id_or_none(snippet, "videoOwnerChannelId", id_)
        or reader.channel_id_or_none(snippet, "channelId", id_),
        reader.count(snippet, "position", id_),
        item,
    )


def _category(item: Json, reader: Reader) -> VideoCategory:
    id_ = reader.count(item, "id", "category", _LARGEST_INT)
    if id_ is None:
        raise MalformedResponse("it has no id")
    snippet = reader.section(item, "snippet", "category")
    return VideoCategory(id_, reader.text(snippet, "title", str(id_)), snippet.get("assignable") is True)
