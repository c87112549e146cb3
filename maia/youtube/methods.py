"""The API's methods that the client calls: what each spends, what is asked of it and how that is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from atlas.config import Bucket


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the API, the bucket it spends and the part of its answer that is read."""

    name: str
    path: str
    bucket: Bucket
    part: str
    fields: str


_SNIPPET = "publishedAt,channelId,channelTitle,title,description,liveBroadcastContent"
_COUNTS = "viewCount,likeCount,commentCount"
_VIDEO = (
    f"id,etag,snippet({_SNIPPET},tags,categoryId,defaultLanguage,defaultAudioLanguage),"
    f"contentDetails/duration,statistics({_COUNTS})"
)
_PAGE = "etag,nextPageToken,pageInfo/totalResults"

SEARCH = Method(
    "search.list", "search", "search", "snippet", f"{_PAGE},items(id(kind,videoId),snippet({_SNIPPET}))"
)
SEARCH_IDS = Method("search.list", "search", "search", "snippet", "nextPageToken,items/id(kind,videoId)")
VIDEOS = Method("videos.list", "videos", "general", "snippet,contentDetails,statistics", f"items({_VIDEO})")
CHART = Method(
    "videos.list", "videos", "general", "snippet,contentDetails,statistics", f"{_PAGE},items({_VIDEO})"
)
BATCH_STATS = Method(
    "videos.batchGetStats",
    "videos:batchGetStats",
    "stats",
    "id,statistics",
    f"items(id,statistics({_COUNTS}))",
)
VIDEO_STATS = Method("videos.list", "videos", "general", "id,statistics", f"items(id,statistics({_COUNTS}))")
CHANNELS = Method(
    "channels.list",
    "channels",
    "general",
    "snippet,statistics",
    "items(id,etag,snippet(title,description,customUrl,country,publishedAt),"
    "statistics(viewCount,subscriberCount,hiddenSubscriberCount,videoCount))",
)
PLAYLIST_ITEMS = Method(
    "playlistItems.list",
    "playlistItems",
    "general",
    "snippet,contentDetails",
    f"{_PAGE},items(snippet(publishedAt,channelId,title,position,videoOwnerChannelId),"
    "contentDetails(videoId,videoPublishedAt))",
)
CATEGORIES = Method(
    "videoCategories.list",
    "videoCategories",
    "general",
    "snippet",
    "items(id,snippet(title,assignable))",
)


def query(**values: str | int | datetime | None) -> dict[str, str]:
    """Query parameters as the API writes them; None is left out."""
    return {name: _written(value) for name, value in values.items() if value is not None}


def _written(value: str | int | datetime) -> str:
    if not isinstance(value, datetime):
        return str(value)
    if value.tzinfo is None:
        raise ValueError(f"{value.isoformat()} needs a time zone")
    return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def page_size(max_results: int) -> int:
    if not 1 <= max_results <= 50:
        raise ValueError(f"a page has 1 to 50 results, not {max_results}")
    return max_results


def distinct(ids: Iterable[str]) -> list[str]:
    """The ids in their order, each once."""
    each = list(dict.fromkeys(id_ for id_ in ids if id_))
    for id_ in each:
        if "," in id_:
            raise ValueError(f"{id_!r} is no id: it has a comma")
    return each
