"""The videos and channels tables: store fetched metadata, and count what was discovered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, Protocol

from atlas.adapters.dao import DAO, json_text


class VideoData(Protocol):
    """A video as the API returned it; None for what the answer did not contain."""

    @property
    def id(self) -> str: ...
    @property
    def channel_id(self) -> str: ...
    @property
    def channel_title(self) -> str | None: ...
    @property
    def title(self) -> str | None: ...
    @property
    def description(self) -> str | None: ...
    @property
    def published_at(self) -> datetime | None: ...
    @property
    def category_id(self) -> int | None: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    @property
    def duration_s(self) -> int | None: ...
    @property
    def live_broadcast_content(self) -> str | None: ...
    @property
    def default_language(self) -> str | None: ...
    @property
    def view_count(self) -> int | None: ...
    @property
    def like_count(self) -> int | None: ...
    @property
    def comment_count(self) -> int | None: ...
    @property
    def etag(self) -> str | None: ...
    @property
    def scheduled_start_at(self) -> datetime | None: ...
    @property
    def actual_start_at(self) -> datetime | None: ...
    @property
    def actual_end_at(self) -> datetime | None: ...


_VIDEO_FIELDS = tuple(name for name in vars(VideoData) if isinstance(vars(VideoData)[name], property))
_values_of = attrgetter(*_VIDEO_FIELDS)


@dataclass(frozen=True, slots=True)
class Ingested:
    """The result of storing videos: which were new, and how many were refreshed."""

    new_ids: frozenset[str]
    updated: int
    channels_new: int

    @property
    def new(self) -> int:
        return len(self.new_ids)


@dataclass(frozen=True, slots=True)
class TopVideo:
    """A video of `VideosDAO.top_videos`."""

    id: str
    title: str | None
    channel_title: str | None
    view_count: int
    published_at: datetime | None


@dataclass(frozen=True, slots=True)
class Discoveries:
    """Totals over the whole database."""

    videos: int
    channels: int
    topics: int


class VideosDAO(DAO):
    """Stores videos with their channels, and counts them."""

    async def ingest_video_metadata(
        self,
        video_data: Sequence[VideoData] | VideoData,
        *,
        fetched_at: datetime | None = None,
        discovered_by: int | None = None,
    ) -> Ingested:
        """Store videos and their channels in one statement: insert the new, refresh the known.

        A refresh keeps `discovered_at` and `discovered_by`, and never overwrites data that was fetched later.
        If the statistics were fetched (`view_count` is present), hidden counts become NULL; a part that was
        not fetched keeps its old values. Several entries for one id are merged, and later ones win.
        """
        videos = video_data if isinstance(video_data, Sequence) else [video_data]
        payload = json_text(_merged_rows(videos))
        clock = self._settings.tracker
        row = await self._executor.fetchrow(
            "videos.ingest_videos",
            payload,
            fetched_at or self._clock.now(),
            discovered_by,
            clock.hot_until_h,
            clock.warm_until_h,
            (clock.hot_interval_h, clock.warm_interval_h, clock.cold_interval_h),
        )
        assert row is not None
        new_ids = frozenset(row["new_ids"] or ())
        return Ingested(new_ids, row["stored"] - len(new_ids), row["new_channels"])

    async def top_videos(self, most: int = 10) -> list[TopVideo]:
        """The videos with the most views."""
        return [TopVideo(**row) for row in await self._executor.fetch("videos.top_videos", most)]

    async def discoveries(self) -> Discoveries:
        """Count videos, channels, topics and searched pages."""
        row = await self._executor.fetchrow("videos.count_discoveries")
        assert row is not None
        return Discoveries(**row)


def _merged_rows(videos: Iterable[VideoData]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for video in videos:
        row = dict(zip(_VIDEO_FIELDS, _values_of(video), strict=True))
        if video.id in rows:
            row = rows[video.id] | {name: value for name, value in row.items() if value not in (None, ())}
        rows[video.id] = row
    return list(rows.values())
