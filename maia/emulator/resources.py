"""Renders the API's resources as JSON.

An item is rendered once per video and selection of fields. Each response only fills in the counters, which
makes large catalogues fast to serve.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from html import escape
from struct import Struct
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import orjson

from maia.emulator.catalogue import Catalogue, CatalogueChannel, CatalogueVideo
from maia.emulator.curves import HIDDEN, Counters
from maia.emulator.facts import CATEGORY_OWNER
from maia.emulator.fields import Mask, select
from maia.youtube.categories import CATEGORIES
from maia.youtube.resources import LiveState

_SIZES = (
    ("default", "default", 120, 90),
    ("medium", "mqdefault", 320, 180),
    ("high", "hqdefault", 480, 360),
    ("standard", "sddefault", 640, 480),
    ("maxres", "maxresdefault", 1280, 720),
)
_STATES: Mapping[LiveState, int] = {"none": 0, "upcoming": 1, "live": 2}
_THREE = Struct("<3q")
_MOST_TEMPLATES = 400_000
_HOLES = {"views": "\0v", "likes": "\0l", "comments": "\0c", "position": "\0p", "etag": "\0e"}
_FILLINGS = {
    orjson.dumps(_HOLES["views"]): b'"%(v)d"',
    orjson.dumps(_HOLES["likes"]): b'"%(l)d"',
    orjson.dumps(_HOLES["comments"]): b'"%(c)d"',
    orjson.dumps(_HOLES["position"]): b"%(p)d",
    orjson.dumps(_HOLES["etag"]): b'"%(e)s"',
}


class Shape(NamedTuple):
    """The parts and fields of a resource that a request selects."""

    parts: tuple[str, ...]
    mask: Mask
    mask_text: str


class Rendered(NamedTuple):
    """Items as JSON, and their etags."""

    items: list[bytes]
    etags: list[bytes]


class _Template(NamedTuple):
    """An item with placeholders for its counters, and the etag of everything else in it."""

    text: bytes
    etag: bytes


def etag_of(content: bytes) -> str:
    """An etag in the API's form: 27 characters."""
    return base64.urlsafe_b64encode(blake2b(content, digest_size=20).digest())[:27].decode()


def iso(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def iso_duration(seconds: int) -> str:
    """An ISO 8601 duration as the API writes it: PT26M3S, P1DT2H, PT0S."""
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    time = "".join(f"{value}{unit}" for value, unit in ((hours, "H"), (minutes, "M"), (rest, "S")) if value)
    if not days and not time:
        return "PT0S"
    return f"P{f'{days}D' if days else ''}{f'T{time}' if time else ''}"


def rounded_subscribers(count: int) -> int:
    """The count rounded down to three significant figures, as the API does."""
    unit: int = 10 ** max(0, len(str(count)) - 3)
    return count // unit * unit


def _thumbnails(video_id: str, sizes: int) -> dict[str, Any]:
    return {
        name: {"url": f"https://i.ytimg.com/vi/{video_id}/{file}.jpg", "width": width, "height": height}
        for name, file, width, height in _SIZES[:sizes]
    }


def _digest(counts: Counters) -> int:
    """A checksum of the counters."""
    return crc32(_THREE.pack(*(HIDDEN if count is None else count for count in counts)))


class Resources:
    """Renders items of every kind as bytes."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._templates: dict[tuple[Any, ...], dict[int, _Template]] = {}
        self._cached = 0

    def videos(self, numbers: Iterable[int], at: float, shape: Shape) -> Rendered:
        """Items of videos.list."""
        return self._with_counts("video", numbers, at, shape)

    def stats(self, numbers: Iterable[int], at: float, shape: Shape) -> Rendered:
        """Items of videos.batchGetStats."""
        return self._with_counts("stats", numbers, at, shape)

    def _with_counts(self, kind: str, numbers: Iterable[int], at: float, shape: Shape) -> Rendered:
        templates = self._templates_of(kind, shape)
        counts_at, live_state = self._catalogue.counts, self._catalogue.live_state
        rendered = Rendered([], [])
        for n in numbers:
            views, likes, comments = counts = counts_at(n, at)
            state = live_state(n, at)
            slot = (
                n << 5
                | _STATES[state] << 3
                | (views is None) << 2
                | (likes is None) << 1
                | (comments is None)
            )
            template = templates.get(slot)
            if template is None:
                template = templates[slot] = self._make(kind, n, state, shape, counts)
            etag = b"%b%08x" % (template.etag, _digest(counts))
            rendered.items.append(template.text % {b"v": views, b"l": likes, b"c": comments, b"e": etag})
            rendered.etags.append(etag)
        return rendered

    def search_results(self, numbers: Iterable[int], at: float, shape: Shape) -> Rendered:
        """Items of search.list."""
        return self._without_counts("search", ((n, 0) for n in numbers), at, shape)

    def playlist_items(self, positions: Iterable[tuple[int, int]], at: float, shape: Shape) -> Rendered:
        """Items of playlistItems.list, from pairs of video and position."""
        return self._without_counts("playlist", positions, at, shape)

    def _without_counts(
        self, kind: str, positions: Iterable[tuple[int, int]], at: float, shape: Shape
    ) -> Rendered:
        templates = self._templates_of(kind, shape)
        rendered = Rendered([], [])
        for n, position in positions:
            state = self._catalogue.live_state(n, at)
            slot = n << 2 | _STATES[state]
            template = templates.get(slot)
            if template is None:
                template = templates[slot] = self._make(kind, n, state, shape, Counters(None, None, None))
            etag = b"%b%08x" % (template.etag, position)
            rendered.items.append(template.text % {b"p": position, b"e": etag})
            rendered.etags.append(etag)
        return rendered

    def _templates_of(self, kind: str, shape: Shape) -> dict[int, _Template]:
        if self._cached > _MOST_TEMPLATES:
            self._templates.clear()
            self._cached = 0
        return self._templates.setdefault((kind, shape.parts, shape.mask_text), {})

    def _make(self, kind: str, n: int, state: LiveState, shape: Shape, counts: Counters) -> _Template:
        video = self._catalogue.video(n)
        channel = self._catalogue.channel(video.channel_id)
        channel_title = channel.title if channel else ""
        match kind:
            case "video":
                whole = _video(video, channel_title, state, counts)
            case "stats":
                whole = _video_stats(video, state, counts)
            case "search":
                whole = _search_result(video, channel_title, state)
            case _:
                whole = _playlist_item(video, channel_title, state)
        kept = {name: value for name, value in whole.items() if name in ("kind", "etag", "id", *shape.parts)}
        if kind == "stats" and "id" not in shape.parts:
            del kept["id"]
        text = orjson.dumps(select(kept, shape.mask)).replace(b"%", b"%%")
        for hole, filling in _FILLINGS.items():
            text = text.replace(hole, filling)
        self._cached += 1
        return _Template(text, etag_of(text)[:19].encode())

    def channels(self, channels: Iterable[CatalogueChannel], at: float, shape: Shape) -> Rendered:
        """Items of channels.list."""
        rendered = Rendered([], [])
        for channel in channels:
            whole = _channel(channel, self._channel_statistics(channel, at))
            kept = {name: value for name, value in whole.items() if name in ("kind", "id", *shape.parts)}
            etag = etag_of(orjson.dumps(kept))
            kept = {"kind": kept.pop("kind"), "etag": etag, **kept}
            rendered.items.append(orjson.dumps(select(kept, shape.mask)))
            rendered.etags.append(etag.encode())
        return rendered

    def _channel_statistics(self, channel: CatalogueChannel, at: float) -> dict[str, Any]:
        uploads = self._catalogue.uploads_of(channel.id, at)
        views = int(self._catalogue.views_at(np.array(uploads, np.int64), at).sum())
        statistics: dict[str, Any] = {"viewCount": str(views)}
        if channel.subscribers is not None:
            statistics["subscriberCount"] = str(rounded_subscribers(channel.subscribers))
        return statistics | {
            "hiddenSubscriberCount": channel.subscribers is None,
            "videoCount": str(len(uploads)),
        }

    def categories(self, numbers: Iterable[int], shape: Shape) -> Rendered:
        """Items of videoCategories.list; unknown numbers are left out."""
        rendered = Rendered([], [])
        for number in numbers:
            if number not in CATEGORIES:
                continue
            category = CATEGORIES[number]
            snippet = {
                "title": category.title,
                "assignable": category.assignable,
                "channelId": CATEGORY_OWNER,
            }
            item: dict[str, Any] = {
                "kind": "youtube#videoCategory",
                "etag": etag_of(category.title.encode()),
                "id": str(number),
            }
            if "snippet" in shape.parts:
                item["snippet"] = snippet
            rendered.items.append(orjson.dumps(select(item, shape.mask)))
            rendered.etags.append(item["etag"].encode())
        return rendered


def _video(video: CatalogueVideo, channel_title: str, state: LiveState, counts: Counters) -> dict[str, Any]:
    live = {"liveStreamingDetails": _live_details(video, state)} if video.is_broadcast else {}
    return live | {
        "kind": "youtube#video",
        "etag": _HOLES["etag"],
        "id": video.id,
        "snippet": _video_snippet(video, channel_title, state),
        "contentDetails": _content_details(video, state),
        "status": {
            "uploadStatus": "processed",
            "privacyStatus": "public",
            "license": "youtube",
            "embeddable": True,
            "publicStatsViewable": True,
            "madeForKids": False,
        },
        "statistics": {
            **({"viewCount": _HOLES["views"]} if counts.views is not None else {}),
            **({"likeCount": _HOLES["likes"]} if counts.likes is not None else {}),
            "favoriteCount": "0",
            **({"commentCount": _HOLES["comments"]} if counts.comments is not None else {}),
        },
        "player": {
            "embedHtml": f'<iframe width="480" height="270" src="//www.youtube.com/embed/{video.id}" '
            'frameborder="0" allowfullscreen></iframe>'
        },
    }


def _live_details(video: CatalogueVideo, state: LiveState) -> dict[str, str]:
    instants = {
        "scheduledStartTime": video.scheduled_start_at,
        "actualStartTime": None if state == "upcoming" else video.actual_start_at,
        "actualEndTime": video.actual_end_at if state == "none" else None,
    }
    return {name: iso(instant) for name, instant in instants.items() if instant is not None}


def _video_snippet(video: CatalogueVideo, channel_title: str, state: LiveState) -> dict[str, Any]:
    snippet: dict[str, Any] = {
        "publishedAt": iso(video.published_in(state)),
        "channelId": video.channel_id,
        "title": video.title,
        "description": video.description,
        "thumbnails": _thumbnails(video.id, 5),
        "channelTitle": channel_title,
    }
    if video.tags:
        snippet["tags"] = video.tags
    if video.category_id is not None:
        snippet["categoryId"] = str(video.category_id)
    snippet["liveBroadcastContent"] = state
    if video.language:
        snippet["defaultLanguage"] = video.language
    snippet["localized"] = {"title": video.title, "description": video.description}
    if video.language:
        snippet["defaultAudioLanguage"] = video.language
    return snippet


def _content_details(video: CatalogueVideo, state: LiveState) -> dict[str, Any]:
    duration: dict[str, Any] = {}
    if state != "none":
        duration["duration"] = "P0D"
    elif video.duration_s is not None:
        duration["duration"] = iso_duration(video.duration_s)
    blocked = {"regionRestriction": {"blocked": video.blocked_in}} if video.blocked_in else {}
    return (
        duration
        | blocked
        | {
            "dimension": "2d",
            "definition": "hd",
            "caption": "false",
            "licensedContent": True,
            "contentRating": {},
            "projection": "rectangular",
        }
    )


def _video_stats(video: CatalogueVideo, state: LiveState, counts: Counters) -> dict[str, Any]:
    hidden: Mapping[str, bool] = {
        "viewCount": counts.views is None,
        "likeCount": counts.likes is None,
        "commentCount": counts.comments is None,
    }
    length_s = video.duration_s if state == "none" else 0
    holes = {"viewCount": _HOLES["views"], "likeCount": _HOLES["likes"], "commentCount": _HOLES["comments"]}
    return {
        "kind": "youtube#videoStats",
        "etag": _HOLES["etag"],
        "id": video.id,
        "snippet": {"publishTime": iso(video.published_in(state))},
        "statistics": {name: hole for name, hole in holes.items() if not hidden[name]},
        "contentDetails": {} if length_s is None else {"duration": f"{length_s}s"},
    }


def _search_result(video: CatalogueVideo, channel_title: str, state: LiveState) -> dict[str, Any]:
    """An item of search.list: its text is escaped for HTML, its description shortened."""
    description = " ".join(video.description.split())
    if len(description) > 160:
        description = f"{description[:157].rpartition(' ')[0] or description[:157]} ..."
    return {
        "kind": "youtube#searchResult",
        "etag": _HOLES["etag"],
        "id": {"kind": "youtube#video", "videoId": video.id},
        "snippet": {
            "publishedAt": iso(video.published_in(state)),
            "channelId": video.channel_id,
            "title": _escaped(video.title),
            "description": _escaped(description),
            "thumbnails": _thumbnails(video.id, 3),
            "channelTitle": _escaped(channel_title),
            "liveBroadcastContent": state,
        },
    }


def _escaped(text: str) -> str:
    return escape(text).replace("&#x27;", "&#39;")


def uploads_playlist(channel_id: str) -> str:
    return f"UU{channel_id[2:]}"


def _playlist_item(video: CatalogueVideo, channel_title: str, state: LiveState) -> dict[str, Any]:
    playlist_id = uploads_playlist(video.channel_id)
    published_at = iso(video.published_in(state))
    return {
        "kind": "youtube#playlistItem",
        "etag": _HOLES["etag"],
        "id": playlist_item_id(playlist_id, video.id),
        "snippet": {
            "publishedAt": published_at,
            "channelId": video.channel_id,
            "title": video.title,
            "description": video.description,
            "thumbnails": _thumbnails(video.id, 5),
            "channelTitle": channel_title,
            "playlistId": playlist_id,
            "position": _HOLES["position"],
            "resourceId": {"kind": "youtube#video", "videoId": video.id},
            "videoOwnerChannelTitle": channel_title,
            "videoOwnerChannelId": video.channel_id,
        },
        "contentDetails": {"videoId": video.id, "videoPublishedAt": published_at},
        "status": {"privacyStatus": "public"},
    }


def playlist_item_id(playlist_id: str, video_id: str) -> str:
    return base64.urlsafe_b64encode(f"{playlist_id}.{video_id}".encode()).rstrip(b"=").decode()


def video_of_playlist_item(item_id: str) -> str | None:
    """The video id encoded in a playlist item's id; None if the id is malformed."""
    try:
        text = base64.urlsafe_b64decode(item_id + "=" * (-len(item_id) % 4)).decode()
    except ValueError:
        return None
    return text.partition(".")[2] or None


def _channel(channel: CatalogueChannel, statistics: dict[str, Any]) -> dict[str, Any]:
    snippet: dict[str, Any] = {"title": channel.title, "description": channel.description}
    if channel.handle:
        snippet["customUrl"] = channel.handle
    if channel.published_at:
        snippet["publishedAt"] = iso(channel.published_at)
    snippet |= {
        "thumbnails": {
            name: {
                "url": f"https://yt3.ggpht.com/{channel.id}=s{size}-c-k-c0x00ffffff-no-rj",
                "width": size,
                "height": size,
            }
            for name, size in (("default", 88), ("medium", 240), ("high", 800))
        },
        "localized": {"title": channel.title, "description": channel.description},
    }
    if channel.country:
        snippet["country"] = channel.country
    return {
        "kind": "youtube#channel",
        "id": channel.id,
        "snippet": snippet,
        "contentDetails": {"relatedPlaylists": {"likes": "", "uploads": uploads_playlist(channel.id)}},
        "statistics": statistics,
        "status": {
            "privacyStatus": "public",
            "isLinked": True,
            "longUploadsStatus": "longUploadsUnspecified",
        },
        "brandingSettings": {"channel": {"title": channel.title}},
    }
