"""The emulated API methods: each turns checked arguments and an instant into a listing.

Search finds only videos. A catalogue has no other types, places or topics, so searches for those are empty.
Only the first 500 results can be paged through. A page token encodes a position among them and is valid only
with the same parameters (except part and fields). With ids, maxResults is ignored, as in recorded responses.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, TypeVar, get_args

import orjson

from maia.emulator.catalogue import CatalogueChannel
from maia.emulator.fields import ANYTHING, select
from maia.emulator.parameters import Arguments, category_number, check_region
from maia.emulator.refusals import (
    ErrorResponse,
    incompatible_parameters,
    invalid_argument,
    invalid_filters,
    invalid_page_token,
    invalid_parameter,
    invalid_search_filter,
    no_filter,
    playlist_not_found,
    video_not_found,
)
from maia.emulator.resources import (
    Rendered,
    Resources,
    Shape,
    etag_of,
    uploads_playlist,
    video_of_playlist_item,
)
from maia.emulator.world import Page, World
from maia.youtube.categories import CATEGORIES

T = TypeVar("T")
PageFault = Literal["empty-page", "repeat-page"]
PAGE_FAULTS: tuple[PageFault, ...] = get_args(PageFault)

MOST_IDS = 50
MOST_QUERY_CHARACTERS = 2000
"""An assumption: the API does not document a limit."""
_MOST_UPLOADS = 20_000
_VIDEO_FILTERS = (
    "eventType", "location", "videoCaption", "videoCategoryId", "videoDefinition", "videoDimension",
    "videoDuration", "videoEmbeddable", "videoLicense", "videoPaidProductPlacement", "videoSyndicated",
    "videoType",
)  # fmt: skip
# Every video of a catalogue has these properties, so a filter for anything else finds nothing.
_CONSTANT_PROPERTIES = {
    "videoCaption": {"any", "none", "videoCaptionUnspecified"},
    "videoDefinition": {"any", "high"},
    "videoDimension": {"any", "2d"},
    "videoLicense": {"any", "youtube"},
    "videoPaidProductPlacement": {"any", "videoPaidProductPlacementUnspecified"},
    "videoType": {"any", "videoTypeUnspecified"},
}


@dataclass(slots=True)
class Listing:
    """A list response in pieces: its items as JSON, and the fields around them."""

    rendered: Rendered
    around: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)

    def content(self, arguments: Arguments) -> tuple[bytes, str]:
        """The body, reduced by the request's `fields` mask, and its etag."""
        mask = arguments.mask
        around = {**self.around, **self.after}
        etag = etag_of(orjson.dumps([arguments.mask_text, around]) + b"".join(self.rendered.etags))
        around = {"kind": arguments.method.kind, "etag": etag, **around}
        if mask:
            around = select(around, mask)
            if not mask.keys() & {"items", "*"}:
                return orjson.dumps(around), etag
        head = orjson.dumps(around)[:-1]
        opening = b'%b%b"items":[' % (head, b"," if around else b"")
        return opening + b",".join(self.rendered.items) + b"]}", etag


class Api:
    """The API's methods over a world."""

    def __init__(self, world: World) -> None:
        self.world, self.catalogue = world, world.catalogue
        self.resources = Resources(world.catalogue)
        self._methods: dict[str, Callable[[Arguments, float, PageFault | None], Listing]] = {
            "search.list": self._search,
            "videos.list": self._videos,
            "videos.batchGetStats": self._stats,
            "channels.list": self._channels,
            "playlistItems.list": self._playlist_items,
            "videoCategories.list": self._categories,
        }

    def answer(self, arguments: Arguments, at: float, fault: PageFault | None = None) -> Listing:
        """The listing at an instant (seconds since 1970); raises an ErrorResponse."""
        return self._methods[arguments.method.name](arguments, at, fault)

    def _search(self, arguments: Arguments, at: float, fault: PageFault | None) -> Listing:
        check_region("regionCode", arguments.get("regionCode"))
        _check_search(arguments)
        page = _Page.asked(arguments, fault)
        found = self._found(arguments, at, page)
        region = (arguments.get("regionCode") or "US").upper()
        info = {"totalResults": found.total, "resultsPerPage": page.size}
        items = self.resources.search_results(page.shown(found.numbers), at, _shape(arguments))
        return Listing(items, {**page.tokens(found.last), "regionCode": region, "pageInfo": info})

    def _found(self, arguments: Arguments, at: float, page: _Page) -> Page:
        if not _can_match(arguments):
            return Page([], 0, 0, more=False)
        order, duration = arguments.get("order"), arguments.get("videoDuration")
        event_type = arguments.get("eventType")
        return self.world.search(
            at,
            arguments.get("q"),
            order="relevance" if order == "searchSortUnspecified" else order,
            published_after=arguments.get("publishedAfter"),
            published_before=arguments.get("publishedBefore"),
            region=arguments.get("regionCode"),
            language=arguments.get("relevanceLanguage"),
            channel_id=arguments.get("channelId"),
            category_id=category_number(arguments.get("videoCategoryId")),
            duration=duration if duration in ("short", "medium", "long") else None,
            event_type=event_type if event_type != "none" else None,
            start=page.start,
            size=page.size,
        )

    def _videos(self, arguments: Arguments, at: float, fault: PageFault | None) -> Listing:
        ids, chart = arguments.get("id"), arguments.get("chart")
        if ids is None and chart in (None, "chartUnspecified"):
            raise no_filter(("chart", "id", "myRating"))
        if ids is not None and chart is not None:
            raise incompatible_parameters(("id", "chart"))
        check_region("regionCode", arguments.get("regionCode"))
        if ids is None:
            return self._chart(arguments, at, fault)
        numbers = self._visible(ids, at)
        info = {"totalResults": len(numbers), "resultsPerPage": len(numbers)}
        return Listing(self.resources.videos(numbers, at, _shape(arguments)), after={"pageInfo": info})

    def _visible(self, ids: Sequence[str], at: float) -> list[int]:
        """The numbers of the visible videos, each once, in the order of the ids."""
        if len(ids) > MOST_IDS:
            raise invalid_filters("id")
        numbers, visible = self.catalogue.numbers, self.catalogue.visible
        found = (numbers.get(video_id) for video_id in dict.fromkeys(ids))
        return [n for n in found if n is not None and visible(n, at)]

    def _chart(self, arguments: Arguments, at: float, fault: PageFault | None) -> Listing:
        category = category_number(arguments.get("videoCategoryId"))
        if category is not None and category not in CATEGORIES:
            message = "The requested video chart is not supported or is not available."
            raise ErrorResponse.of(404, message, "notFound", domain="youtube.video", parameter="chart")
        page = _Page.asked(arguments, fault)
        region = arguments.get("regionCode") or "US"
        charted = self.world.chart(at, region=region, category_id=category, start=page.start, size=page.size)
        numbers = page.shown(charted.numbers)
        info = {"totalResults": charted.total, "resultsPerPage": page.size}
        videos = self.resources.videos(numbers, at, _shape(arguments))
        return Listing(videos, page.tokens(charted.last), {"pageInfo": info})

    def _stats(self, arguments: Arguments, at: float, fault: PageFault | None) -> Listing:
        ids = list(dict.fromkeys(arguments.get("id") or ()))
        if not ids:
            raise invalid_argument()
        numbers = self._visible(ids, at)
        there = {self.catalogue.ids[n] for n in numbers}
        failed = [video_id for video_id in ids if video_id not in there]
        summary: dict[str, Any] = {"requestedVideoCount": len(ids), "succeededVideoCount": len(numbers)}
        if failed:
            summary |= {"failedVideoCount": len(failed), "failedVideoIds": failed}
        return Listing(self.resources.stats(numbers, at, _shape(arguments)), after={"summary": summary})

    def _channels(self, arguments: Arguments, at: float, fault: PageFault | None) -> Listing:
        filters = [
            name
            for name in ("id", "forHandle", "forUsername", "categoryId")
            if arguments.get(name) is not None
        ]
        if not filters:
            raise no_filter(
                ("categoryId", "forHandle", "forUsername", "id", "managedByMe", "mine", "mySubscribers")
            )
        if len(filters) > 1:
            raise incompatible_parameters(filters)
        channels = [channel for channel in self._asked_channels(arguments) if channel.published_at <= at]
        info = {"totalResults": len(channels), "resultsPerPage": arguments.get("maxResults")}
        return Listing(self.resources.channels(channels, at, _shape(arguments)), {"pageInfo": info})

    def _asked_channels(self, arguments: Arguments) -> list[CatalogueChannel]:
        if (ids := arguments.get("id")) is not None:
            if len(ids) > MOST_IDS:
                raise invalid_filters("id")
            found = [self.catalogue.channel(channel_id) for channel_id in dict.fromkeys(ids)]
        else:
            handle = arguments.get("forHandle") or arguments.get("forUsername")
            found = [self.catalogue.channel_by_handle(handle)] if handle else []
        return [channel for channel in found if channel]

    def _playlist_items(self, arguments: Arguments, at: float, fault: PageFault | None) -> Listing:
        playlist_id, item_ids = arguments.get("playlistId"), arguments.get("id")
        if playlist_id is None and item_ids is None:
            raise no_filter(("id", "playlistId"))
        page = _Page.asked(arguments, fault)
        listed = self._uploads(playlist_id, at) if playlist_id else self._items_by_id(item_ids or (), at)
        if (video_id := arguments.get("videoId")) is not None:
            n = self.catalogue.number(video_id)
            listed = [(number, position) for number, position in listed if number == n]
            if not listed:
                raise video_not_found()
        positions = page.shown(listed[page.start : page.start + page.size])
        tokens = page.tokens(min(len(listed), _MOST_UPLOADS))
        info = {"totalResults": len(listed), "resultsPerPage": page.size}
        items = self.resources.playlist_items(positions, at, _shape(arguments))
        return Listing(items, tokens, {"pageInfo": info})

    def _uploads(self, playlist_id: str, at: float) -> list[tuple[int, int]]:
        channel = self.catalogue.channel(f"UC{playlist_id[2:]}") if playlist_id.startswith("UU") else None
        if channel is None or channel.published_at > at:
            raise playlist_not_found()
        return [(n, position) for position, n in enumerate(self.world.listed_uploads(channel.id, at))]

    def _items_by_id(self, item_ids: Sequence[str], at: float) -> list[tuple[int, int]]:
        video_ids = [video_id for item_id in item_ids if (video_id := video_of_playlist_item(item_id))]
        items: list[tuple[int, int]] = []
        for n in self._visible(video_ids, at):
            uploads = self._uploads(uploads_playlist(self.catalogue.channel_of[n]), at)
            items.extend(pair for pair in uploads if pair[0] == n)
        return items

    def _categories(self, arguments: Arguments, at: float, fault: PageFault | None) -> Listing:
        ids = arguments.get("id")
        if ids is None and arguments.get("regionCode") is None:
            raise no_filter(("id", "regionCode"))
        check_region("regionCode", arguments.get("regionCode"))
        numbers = list(CATEGORIES) if ids is None else [category_number(text) or 0 for text in ids]
        return Listing(self.resources.categories(numbers, _shape(arguments)))


def _can_match(arguments: Arguments) -> bool:
    """Whether a search could find anything in a catalogue, which holds videos of one kind only."""
    kinds = arguments.get("type")
    if kinds and "video" not in kinds:
        return False
    for name, values in _CONSTANT_PROPERTIES.items():
        if (wanted := arguments.get(name)) is not None and wanted not in values:
            return False
    return not (arguments.get("topicId") or arguments.get("location"))


def _shape(arguments: Arguments) -> Shape:
    mask = arguments.mask
    items = mask.get("items", mask.get("*", ANYTHING))
    return Shape(arguments.parts, items, arguments.mask_text)


def _check_search(arguments: Arguments) -> None:
    kinds = arguments.get("type") or ()
    for kind in kinds:
        if kind not in ("video", "channel", "playlist"):
            raise invalid_parameter(
                "type", f"Invalid value '{kind}'. Values must be one of: channel, playlist, video"
            )
    for name in _VIDEO_FILTERS:
        if arguments.get(name) is not None and list(kinds) != ["video"]:
            raise invalid_search_filter(name)
    if len(arguments.get("q") or "") > MOST_QUERY_CHARACTERS:
        raise invalid_parameter("q", f"Invalid value of q: longer than {MOST_QUERY_CHARACTERS} characters.")
    if (arguments.get("location") is None) != (arguments.get("locationRadius") is None):
        raise invalid_search_filter("locationRadius")
    language = arguments.get("relevanceLanguage")
    if language is not None and not language.replace("-", "").isalpha():
        raise ErrorResponse.of(
            400, "Invalid relevance language.", "invalidRelevanceLanguage", domain="youtube.search",
            parameter="relevanceLanguage",
        )  # fmt: skip
    channel_id = arguments.get("channelId")
    if channel_id is not None and not (channel_id.startswith("UC") and len(channel_id) == 24):
        raise invalid_argument()


@dataclass(frozen=True, slots=True)
class _Page:
    """A page's position and size. Its tokens are valid only with the same parameters."""

    position: int
    size: int
    binding: bytes
    fault: PageFault | None

    @classmethod
    def asked(cls, arguments: Arguments, fault: PageFault | None) -> _Page:
        binding = blake2b(arguments.bound_to_token().encode(), digest_size=9).digest()
        token = arguments.get("pageToken")
        size = arguments.get("maxResults")
        return cls(_read_token(token, binding) if token else 0, size, binding, fault)

    @property
    def start(self) -> int:
        """Where the results to show begin: those of the page before, if it is repeated."""
        return max(0, self.position - self.size) if self.fault == "repeat-page" else self.position

    def shown(self, found: Sequence[T]) -> Sequence[T]:
        return found[:0] if self.fault == "empty-page" else found

    def tokens(self, total: int) -> dict[str, str]:
        """The tokens of the next and previous pages, if `total` results can be paged through."""
        tokens: dict[str, str] = {}
        if 0 < self.size < total - self.position:
            tokens["nextPageToken"] = _write_token(self.position + self.size, self.binding)
        if self.position > 0:
            tokens["prevPageToken"] = _write_token(max(0, self.position - self.size), self.binding)
        return tokens


def _write_token(start: int, binding: bytes) -> str:
    return base64.urlsafe_b64encode(start.to_bytes(3) + binding).decode()


def _read_token(token: str, binding: bytes) -> int:
    try:
        content = base64.b64decode(token, altchars=b"-_", validate=True)
    except ValueError as error:
        raise invalid_page_token() from error
    if content[3:] != binding:
        raise invalid_page_token()
    return int.from_bytes(content[:3])
