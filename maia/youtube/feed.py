"""A channel's Atom feed: its newest uploads with their views, for no quota at all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from xml.parsers import expat

from maia.youtube.resources import MalformedAnswer, instant_of

_ATOM = "http://www.w3.org/2005/Atom"
_YT = "http://www.youtube.com/xml/schemas/2015"
_MEDIA = "http://search.yahoo.com/mrss/"
_ENTRY = f"{_ATOM} entry"
_STATISTICS = f"{_MEDIA} statistics"
_TEXTS = {
    f"{_YT} videoId": "video_id",
    f"{_YT} channelId": "channel_id",
    f"{_ATOM} title": "title",
    f"{_ATOM} published": "published",
    f"{_ATOM} updated": "updated",
}


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """One upload of a channel."""

    video_id: str
    channel_id: str | None
    title: str | None
    published_at: datetime | None
    updated_at: datetime | None
    view_count: int | None


def parse_feed(body: bytes) -> tuple[FeedEntry, ...]:
    """The uploads that an Atom feed lists, newest first as it gives them.

    A document type is refused, and with it every entity that could expand or reach outside.
    """
    reader = _FeedReader()
    try:
        reader.parser.Parse(body, True)
    except expat.ExpatError as fault:
        raise MalformedAnswer(f"the feed is not well-formed XML: {fault}") from fault
    if not reader.is_feed:
        raise MalformedAnswer("the answer is XML, but no Atom feed")
    return tuple(entry for entry in map(_entry, reader.entries) if entry is not None)


class _FeedReader:
    """Collects the texts of every entry by its expat handlers."""

    def __init__(self) -> None:
        self.entries: list[dict[str, str]] = []
        self.is_feed = False
        self._entry: dict[str, str] | None = None
        self._depth = 0
        self._name: str | None = None
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse_doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters

    def _refuse_doctype(self, *_: object) -> None:
        raise MalformedAnswer("the feed declares a document type, which a feed of YouTube never does")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1:
            self.is_feed = name == f"{_ATOM} feed"
        elif self._depth == 2 and name == _ENTRY:
            self._entry = {}
        elif self._entry is not None and self._depth == 3:
            self._name = _TEXTS.get(name)
        elif self._entry is not None and name == _STATISTICS:
            self._entry["views"] = attributes.get("views", "")

    def _end(self, _: str) -> None:
        if self._depth == 2 and self._entry is not None:
            self.entries.append(self._entry)
            self._entry = None
        self._depth -= 1
        self._name = None

    def _characters(self, text: str) -> None:
        if self._entry is not None and self._name is not None:
            self._entry[self._name] = self._entry.get(self._name, "") + text


def _entry(texts: dict[str, str]) -> FeedEntry | None:
    video_id = texts.get("video_id")
    if not video_id:
        return None
    views = texts.get("views", "")
    return FeedEntry(
        video_id,
        texts.get("channel_id"),
        texts.get("title"),
        instant_of(texts.get("published", "")),
        instant_of(texts.get("updated", "")),
        int(views) if views.isascii() and views.isdecimal() and len(views) < 19 else None,
    )
