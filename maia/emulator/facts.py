"""The emulated methods' parameters and response fields, from the API's discovery document 20261104.

Response shapes are written as `fields` masks. A resource's parts are the names inside its `items`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from atlas.config import Bucket
from maia.emulator.fields import ANYTHING, Mask, parse_fields

ParameterType = Literal["string", "boolean", "integer", "datetime"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter: its type, allowed values and bounds."""

    kind: ParameterType = "string"
    values: tuple[str, ...] = ()
    minimum: int = 0
    maximum: int = 0
    default: str | None = None
    repeated: bool = False
    required: bool = False
    needs_user: bool = False


@dataclass(frozen=True)
class EmulatedMethod:
    """An emulated method: the bucket it spends, its parameters and the shape of its response."""

    name: str
    path: str
    bucket: Bucket
    kind: str
    parameters: dict[str, Parameter]
    response: str

    @cached_property
    def shape(self) -> Mask:
        return parse_fields(self.response)

    @cached_property
    def parts(self) -> frozenset[str]:
        items = self.shape["items"]
        return frozenset({"id"} | (items.keys() - {"kind", "etag"} if items is not ANYTHING else set()))


_TEXT = Parameter()
_TEXTS = Parameter(repeated=True)
_PART = Parameter(repeated=True, required=True)
_USER = Parameter(needs_user=True)
_USER_FLAG = Parameter("boolean", needs_user=True)
_MAX_RESULTS = Parameter("integer", maximum=50, default="5")


def _one_of(*values: str, default: str | None = None) -> Parameter:
    return Parameter(values=values, default=default)


STANDARD_PARAMETERS: dict[str, Parameter] = {
    "$.xgafv": _one_of("1", "2"),
    "access_token": _TEXT,
    "alt": _one_of("json", "media", "proto", default="json"),
    "callback": _TEXT,
    "fields": _TEXT,
    "key": _TEXT,
    "oauth_token": _TEXT,
    "prettyPrint": Parameter("boolean", default="true"),
    "quotaUser": _TEXT,
    "uploadType": _TEXT,
    "upload_protocol": _TEXT,
}

_THUMBNAIL = "(height,url,width)"
_SIZES = ("default", "fhd", "high", "maxres", "medium", "qhd", "shortsAspectRatio", "standard", "uhd")
_THUMBNAILS = f"thumbnails({','.join(size + _THUMBNAIL for size in _SIZES)})"
_LIST = """etag,eventId,kind,nextPageToken,pageInfo(resultsPerPage,totalResults),prevPageToken,
tokenPagination,visitorId"""
_SEARCH = f"""{_LIST},regionCode,items(etag,id(channelId,kind,playlistId,videoId),kind,snippet(channelId,
channelTitle,description,liveBroadcastContent,publishedAt,{_THUMBNAILS},title))"""
_VIDEOS = f"""{_LIST},items(ageGating(alcoholContent,restricted,videoGameRating),
brandPartner(channelHandle,channelId),contentDetails(caption,contentRating,
countryRestriction(allowed,exception),definition,dimension,duration,hasCustomThumbnail,licensedContent,
projection,regionRestriction(allowed,blocked)),etag,fileDetails,id,kind,
liveStreamingDetails(activeLiveChatId,actualEndTime,actualStartTime,concurrentViewers,scheduledEndTime,
scheduledStartTime),localizations,monetizationDetails(access(allowed,exception)),
paidProductPlacementDetails(hasPaidProductPlacement),player(embedHeight,embedHtml,embedWidth),
processingDetails,projectDetails,
recordingDetails(location(altitude,latitude,longitude),locationDescription,recordingDate),
snippet(categoryId,channelId,channelTitle,defaultAudioLanguage,defaultLanguage,description,
liveBroadcastContent,localized(description,title),publishedAt,tags,{_THUMBNAILS},title),
statistics(commentCount,dislikeCount,favoriteCount,likeCount,viewCount),
status(containsSyntheticMedia,embeddable,failureReason,license,madeForKids,privacyStatus,
publicStatsViewable,publishAt,rejectionReason,selfDeclaredMadeForKids,uploadStatus),suggestions,
topicDetails(relevantTopicIds,topicCategories,topicIds))"""
_STATS = """etag,kind,items(contentDetails(duration),etag,id,kind,snippet(publishTime),
statistics(commentCount,likeCount,viewCount)),
summary(requestedVideoCount,succeededVideoCount,failedVideoCount,failedVideoIds)"""
_CHANNELS = f"""{_LIST},items(auditDetails,brandingSettings,contentDetails(relatedPlaylists),
contentOwnerDetails(contentOwner,timeLinked),conversionPings,etag,id,kind,localizations,
snippet(country,customUrl,defaultLanguage,description,localized(description,title),publishedAt,
{_THUMBNAILS},title),
statistics(commentCount,hiddenSubscriberCount,subscriberCount,videoCount,viewCount),
status(isChannelMonetizationEnabled,isLinked,longUploadsStatus,madeForKids,privacyStatus,
selfDeclaredMadeForKids),topicDetails(topicCategories,topicIds))"""
_PLAYLIST_ITEMS = f"""{_LIST},items(contentDetails(endAt,note,startAt,videoId,videoPublishedAt),etag,id,kind,
snippet(channelId,channelTitle,description,playlistId,position,publishedAt,
resourceId(channelId,kind,playlistId,videoId),{_THUMBNAILS},title,videoOwnerChannelId,
videoOwnerChannelTitle),status(privacyStatus))"""
_CATEGORIES = f"{_LIST},items(etag,id,kind,snippet(assignable,channelId,title))"

METHODS: dict[str, EmulatedMethod] = {
    method.path: method
    for method in (
        EmulatedMethod(
            "search.list",
            "/youtube/v3/search",
            "search",
            "youtube#searchListResponse",
            {
                "channelId": _TEXT,
                "channelType": _one_of("channelTypeUnspecified", "any", "show"),
                "eventType": _one_of("none", "upcoming", "live", "completed"),
                "forContentOwner": _USER_FLAG,
                "forDeveloper": _USER_FLAG,
                "forMine": _USER_FLAG,
                "location": _TEXT,
                "locationRadius": _TEXT,
                "maxResults": _MAX_RESULTS,
                "onBehalfOfContentOwner": _USER,
                "order": _one_of(
                    "searchSortUnspecified",
                    "date",
                    "rating",
                    "viewCount",
                    "relevance",
                    "title",
                    "videoCount",
                    default="relevance",
                ),
                "pageToken": _TEXT,
                "part": _PART,
                "publishedAfter": Parameter("datetime"),
                "publishedBefore": Parameter("datetime"),
                "q": _TEXT,
                "regionCode": _TEXT,
                "relevanceLanguage": _TEXT,
                "safeSearch": _one_of(
                    "safeSearchSettingUnspecified", "none", "moderate", "strict", default="moderate"
                ),
                "topicId": _TEXT,
                "type": _TEXTS,
                "videoCaption": _one_of("videoCaptionUnspecified", "any", "closedCaption", "none"),
                "videoCategoryId": _TEXT,
                "videoDefinition": _one_of("any", "standard", "high"),
                "videoDimension": _one_of("any", "2d", "3d"),
                "videoDuration": _one_of("videoDurationUnspecified", "any", "short", "medium", "long"),
                "videoEmbeddable": _one_of("videoEmbeddableUnspecified", "any", "true"),
                "videoLicense": _one_of("any", "youtube", "creativeCommon"),
                "videoPaidProductPlacement": _one_of("videoPaidProductPlacementUnspecified", "any", "true"),
                "videoSyndicated": _one_of("videoSyndicatedUnspecified", "any", "true"),
                "videoType": _one_of("videoTypeUnspecified", "any", "movie", "episode"),
            },
            _SEARCH,
        ),
        EmulatedMethod(
            "videos.list",
            "/youtube/v3/videos",
            "general",
            "youtube#videoListResponse",
            {
                "chart": _one_of("chartUnspecified", "mostPopular"),
                "hl": _TEXT,
                "id": _TEXTS,
                "locale": _TEXT,
                "maxHeight": Parameter("integer", minimum=72, maximum=8192),
                "maxResults": Parameter("integer", minimum=1, maximum=50, default="5"),
                "maxWidth": Parameter("integer", minimum=72, maximum=8192),
                "myRating": Parameter(values=("none", "like", "dislike"), needs_user=True),
                "onBehalfOfContentOwner": _USER,
                "pageToken": _TEXT,
                "part": _PART,
                "regionCode": _TEXT,
                "videoCategoryId": Parameter(default="0"),
            },
            _VIDEOS,
        ),
        EmulatedMethod(
            "videos.batchGetStats",
            "/youtube/v3/videos:batchGetStats",
            "stats",
            "youtube#batchGetStatsResponse",
            {"id": _TEXTS, "onBehalfOfContentOwner": _USER, "part": _PART},
            _STATS,
        ),
        EmulatedMethod(
            "channels.list",
            "/youtube/v3/channels",
            "general",
            "youtube#channelListResponse",
            {
                "categoryId": _TEXT,
                "forHandle": _TEXT,
                "forUsername": _TEXT,
                "hl": _TEXT,
                "id": _TEXTS,
                "managedByMe": _USER_FLAG,
                "maxResults": _MAX_RESULTS,
                "mine": _USER_FLAG,
                "mySubscribers": _USER_FLAG,
                "onBehalfOfContentOwner": _USER,
                "pageToken": _TEXT,
                "part": _PART,
            },
            _CHANNELS,
        ),
        EmulatedMethod(
            "playlistItems.list",
            "/youtube/v3/playlistItems",
            "general",
            "youtube#playlistItemListResponse",
            {
                "id": _TEXTS,
                "maxResults": _MAX_RESULTS,
                "onBehalfOfContentOwner": _USER,
                "pageToken": _TEXT,
                "part": _PART,
                "playlistId": _TEXT,
                "videoId": _TEXT,
            },
            _PLAYLIST_ITEMS,
        ),
        EmulatedMethod(
            "videoCategories.list",
            "/youtube/v3/videoCategories",
            "general",
            "youtube#videoCategoryListResponse",
            {"hl": Parameter(default="en-US"), "id": _TEXTS, "part": _PART, "regionCode": _TEXT},
            _CATEGORIES,
        ),
    )
}

CATEGORY_OWNER = "UCBR8-60-B28hp2BmDPdntcQ"
