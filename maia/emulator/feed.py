"""The RSS feed of a channel: its 15 newest uploads with their views."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from xml.etree import ElementTree as ET

from maia.emulator.catalogue import Catalogue, CatalogueChannel
from maia.emulator.world import Feed, World

_ATOM = "http://www.w3.org/2005/Atom"
_YT = "http://www.youtube.com/xml/schemas/2015"
_MEDIA = "http://search.yahoo.com/mrss/"
_WATCH = "https://www.youtube.com/watch?v="


class FeedDocument(NamedTuple):
    """A feed, and its XML."""

    feed: Feed
    body: bytes


def feed_document(world: World, query: Mapping[str, str], at: float) -> FeedDocument | None:
    """The feed for `channel_id=UC…` or `playlist_id=UU…`; None if there is no such channel."""
    playlist_id = query.get("playlist_id", "")
    channel_id = query.get("channel_id") or (f"UC{playlist_id[2:]}" if playlist_id.startswith("UU") else "")
    shown, channel = world.feed(channel_id, at), world.catalogue.channel(channel_id)
    if shown is None or channel is None:
        return None
    for prefix, namespace in (("", _ATOM), ("yt", _YT), ("media", _MEDIA)):
        ET.register_namespace(prefix, namespace)
    feed = ET.Element(f"{{{_ATOM}}}feed")
    url = f"http://www.youtube.com/feeds/videos.xml?channel_id={channel.id}"
    ET.SubElement(feed, f"{{{_ATOM}}}link", rel="self", href=url)
    _text(feed, _ATOM, "id", f"yt:channel:{channel.id[2:]}")
    _text(feed, _YT, "channelId", channel.id[2:])
    _text(feed, _ATOM, "title", channel.title)
    _author(feed, channel)
    _text(feed, _ATOM, "published", _instant(channel.published_at))
    for n, _ in shown.entries:
        _entry(feed, world.catalogue, channel, n, shown.as_of)
    document: bytes = ET.tostring(feed, encoding="UTF-8", xml_declaration=True)
    return FeedDocument(shown, document)


def _entry(feed: ET.Element, catalogue: Catalogue, channel: CatalogueChannel, n: int, at: float) -> None:
    video, counts = catalogue.video(n), catalogue.counts(n, at)
    published_at = video.published_in(catalogue.live_state(n, at))
    entry = ET.SubElement(feed, f"{{{_ATOM}}}entry")
    _text(entry, _ATOM, "id", f"yt:video:{video.id}")
    _text(entry, _YT, "videoId", video.id)
    _text(entry, _YT, "channelId", channel.id)
    _text(entry, _ATOM, "title", video.title)
    ET.SubElement(entry, f"{{{_ATOM}}}link", rel="alternate", href=_WATCH + video.id)
    _author(entry, channel)
    _text(entry, _ATOM, "published", _instant(published_at))
    _text(entry, _ATOM, "updated", _instant(published_at))
    group = ET.SubElement(entry, f"{{{_MEDIA}}}group")
    _text(group, _MEDIA, "title", video.title)
    thumbnail = f"https://i1.ytimg.com/vi/{video.id}/hqdefault.jpg"
    ET.SubElement(group, f"{{{_MEDIA}}}thumbnail", url=thumbnail, width="480", height="360")
    _text(group, _MEDIA, "description", video.description)
    community = ET.SubElement(group, f"{{{_MEDIA}}}community")
    if counts.likes is not None:
        rating = {"count": str(counts.likes), "average": "5.00", "min": "1", "max": "5"}
        ET.SubElement(community, f"{{{_MEDIA}}}starRating", rating)
    if counts.views is not None:
        ET.SubElement(community, f"{{{_MEDIA}}}statistics", views=str(counts.views))


def _author(parent: ET.Element, channel: CatalogueChannel) -> None:
    author = ET.SubElement(parent, f"{{{_ATOM}}}author")
    _text(author, _ATOM, "name", channel.title)
    _text(author, _ATOM, "uri", f"https://www.youtube.com/channel/{channel.id}")


def _text(parent: ET.Element, namespace: str, name: str, text: str) -> None:
    ET.SubElement(parent, f"{{{namespace}}}{name}").text = _printable(text)


def _printable(text: str) -> str:
    """Remove the control characters that XML does not allow."""
    return "".join(c for c in text if c >= " " or c in "\t\n\r")


def _instant(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
