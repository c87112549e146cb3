"""The API's resources as frozen dataclasses. A field is None if it was missing or malformed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Self

from maia.youtube.ids import ChannelId, PlaylistId, VideoId, uploads_playlist

Json = Mapping[str, Any]
LiveState = Literal["none", "upcoming", "live"]
"""Whether a video is scheduled, live, or neither."""
_LONGEST_VALIDATOR = 200


@dataclass(frozen=True, slots=True)
class Video:
    """A video as videos.list describes it; `raw` is the item as received, for the vault.

    `duration_s` is None until a broadcast or premiere has ended. `scheduled_start_at`, `actual_start_at` and
    `actual_end_at` are None for ordinary uploads. A premiere's `published_at` changes when it airs.
    """

    id: VideoId
    channel_id: ChannelId
    channel_title: str | None
    title: str | None
    description: str | None
    published_at: datetime | None
    category_id: int | None
    tags: tuple[str, ...]
    duration_s: int | None
    live_broadcast_content: LiveState | None
    default_language: str | None
    default_audio_language: str | None
    view_count: int | None
    like_count: int | None
    comment_count: int | None
    etag: str | None
    raw: Json = field(repr=False, compare=False)
    scheduled_start_at: datetime | None = None
    actual_start_at: datetime | None = None
    actual_end_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class VideoStats:
    """A video's counters; None where hidden or disabled."""

    id: VideoId
    view_count: int | None
    like_count: int | None
    comment_count: int | None


@dataclass(frozen=True, slots=True)
class StatsBatch:
    """The counters found, and the ids without any: deleted, private or unknown videos."""

    items: tuple[VideoStats, ...]
    failed_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A video in a search result, which has no tags, category, duration or counters."""

    video_id: VideoId
    channel_id: ChannelId | None
    channel_title: str | None
    title: str | None
    description: str | None
    published_at: datetime | None
    live_broadcast_content: LiveState | None
    raw: Json = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class SearchPage:
    """A page of hits. `total_results` is an estimate: never use it as a loop bound."""

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
    """A channel. `subscriber_count` has three significant figures; `custom_url` is the @handle."""

    id: ChannelId
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
    def uploads_playlist_id(self) -> PlaylistId:
        """The playlist of the channel's uploads."""
        return uploads_playlist(self.id)


@dataclass(frozen=True, slots=True)
class PlaylistItem:
    """A video in a playlist. Sort uploads by `video_published_at`: the playlist's order is not reliable."""

    video_id: VideoId
    video_published_at: datetime | None
    added_at: datetime | None
    title: str | None
    channel_id: ChannelId | None
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
    """A video category of a region."""

    id: int
    title: str | None
    assignable: bool


@dataclass(frozen=True, slots=True)
class NotModified:
    """The resource is unchanged: its etag is still `etag`."""

    etag: str


@dataclass(frozen=True, slots=True)
class Validators:
    """A response's version, by which the next request asks for the resource only if it has changed."""

    etag: str | None = None
    last_modified: str | None = None

    def __bool__(self) -> bool:
        return self.etag is not None or self.last_modified is not None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self:
        """The validators in a response's headers, without those too long to keep."""
        found = (headers.get(name) for name in ("ETag", "Last-Modified"))
        return cls(*(text if text and len(text) <= _LONGEST_VALIDATOR else None for text in found))


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """One upload of a channel, as its feed shows it."""

    video_id: VideoId
    channel_id: ChannelId | None
    title: str | None
    published_at: datetime | None
    updated_at: datetime | None
    view_count: int | None


@dataclass(frozen=True, slots=True)
class Feed:
    """A channel's newest uploads, at most 15; a cache on the way has held them for `cached_s`."""

    items: tuple[FeedEntry, ...]
    validators: Validators
    cached_s: float = 0.0
