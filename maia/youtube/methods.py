"""The API methods that the client calls: their quota bucket, response fields and allowed parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

from atlas.config import Bucket
from maia.youtube.errors import BadRequest, Disposition, Verdict
from maia.youtube.ids import channel_id
from maia.youtube.reading import LARGEST_PAGE

Order = Literal["date", "rating", "relevance", "title", "videoCount", "viewCount"]
Duration = Literal["short", "medium", "long"]
"""Under 4 minutes, 4 to 20, over 20."""
EventType = Literal["upcoming", "live", "completed"]

CHOICES: Mapping[str, tuple[str, ...]] = {
    "order": get_args(Order),
    "videoDuration": get_args(Duration),
    "eventType": get_args(EventType),
}
_REGION = re.compile(r"[A-Za-z]{2}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z]{4})?(?:-(?:[A-Za-z]{2}|[0-9]{3}))?")


@dataclass(frozen=True, slots=True)
class Method:
    """An API method: the bucket it spends, and the parts and fields we request."""

    name: str
    path: str
    bucket: Bucket
    part: str
    fields: str

    def params(self, **values: str | int | datetime | None) -> dict[str, str]:
        """Query parameters in the API's form, without those that are None.

        Raises BadRequest for a value that the API would refuse anyway, before it costs a unit.
        """
        params = {name: _written(name, value) for name, value in values.items() if value is not None}
        for name, text in params.items():
            if message := _fault(name, text):
                verdict = Verdict(Disposition.BAD_REQUEST, "invalidParameter", message, parameter=name)
                raise BadRequest(self.name, verdict)
        return params


_SNIPPET = "publishedAt,channelId,channelTitle,title,description,liveBroadcastContent"
_COUNTS = "viewCount,likeCount,commentCount"
_VIDEO = (
    f"id,etag,snippet({_SNIPPET},tags,categoryId,defaultLanguage,defaultAudioLanguage),"
    f"contentDetails/duration,statistics({_COUNTS}),"
    "liveStreamingDetails(scheduledStartTime,actualStartTime,actualEndTime)"
)
_VIDEO_PARTS = "snippet,contentDetails,statistics,liveStreamingDetails"
_PAGE = "etag,nextPageToken,pageInfo/totalResults"

SEARCH = Method(
    "search.list", "search", "search", "snippet", f"{_PAGE},items(id(kind,videoId),snippet({_SNIPPET}))"
)
SEARCH_IDS = Method("search.list", "search", "search", "snippet", "nextPageToken,items/id(kind,videoId)")
VIDEOS = Method("videos.list", "videos", "general", _VIDEO_PARTS, f"items({_VIDEO})")
CHART = Method("videos.list", "videos", "general", _VIDEO_PARTS, f"{_PAGE},items({_VIDEO})")
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


def _written(name: str, value: str | int | datetime) -> str:
    if not isinstance(value, datetime):
        return str(value)
    if value.tzinfo is None:
        raise ValueError(f"{name} needs a time zone: {value.isoformat()}")
    return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _fault(name: str, text: str) -> str | None:
    """What is wrong with a parameter's value; None if the API may accept it."""
    match name:
        case "regionCode" if not _REGION.fullmatch(text):
            return f"a region is a two-letter country code such as GB, not {text!r}"
        case "relevanceLanguage" if not _LANGUAGE.fullmatch(text):
            return f"a language is a code such as en or zh-Hant, not {text!r}"
        case "channelId" if channel_id(text) is None:
            return f"a channel id is UC and 22 more characters, not {text!r}"
        case "videoCategoryId" if int(text) < 1:
            return f"a category is a number such as 10 (music), not {text}"
        case "maxResults" if not 1 <= int(text) <= LARGEST_PAGE:
            return f"a page has 1 to {LARGEST_PAGE} results, not {text}"
    choices = CHOICES.get(name)
    if choices and text not in choices:
        return f"{name} is one of {', '.join(choices)}, not {text!r}"
    return None
