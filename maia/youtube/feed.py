"""Parses a channel's Atom feed: its newest uploads with their views. Feeds cost no quota."""

from __future__ import annotations

from xml.parsers import expat

from maia.youtube.reading import MalformedResponse, Reader
from maia.youtube.resources import FeedEntry, Json

_ATOM = "http://www.w3.org/2005/Atom"
_YT = "http://www.youtube.com/xml/schemas/2015"
_MEDIA = "http://search.yahoo.com/mrss/"
_ENTRY = f"{_ATOM} entry"
_STATISTICS = f"{_MEDIA} statistics"
_LONGEST_TEXT = 10_000
_TEXTS = {
    f"{_YT} videoId": "videoId",
    f"{_YT} channelId": "channelId",
    f"{_ATOM} title": "title",
    f"{_ATOM} published": "published",
    f"{_ATOM} updated": "updated",
}


def parse_feed(body: bytes, reader: Reader) -> tuple[FeedEntry, ...]:
    """The uploads in an Atom feed, in its order: newest first.

    Refuses a document type declaration, because its entities could expand without bound or read other files.
    """
    document = _Document()
    try:
        document.parser.Parse(body, True)
    except MalformedResponse:
        raise
    except (expat.ExpatError, LookupError, ValueError) as fault:
        # The last two are raised for encodings that Python does not know, or that do not encode text.
        raise MalformedResponse(f"the feed is not well-formed XML: {fault}") from fault
    if not document.is_feed:
        raise MalformedResponse("the response is XML, but not an Atom feed")
    return tuple(reader.items({"items": document.entries}, "feed entry", _entry))


class _Document:
    """Expat handlers that collect the texts of the feed's entries."""

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
        raise MalformedResponse("the feed declares a document type, which YouTube's feeds never do")

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
            so_far = self._entry.get(self._name, "")
            if len(so_far) < _LONGEST_TEXT:
                self._entry[self._name] = so_far + text


def _entry(texts: Json, reader: Reader) -> FeedEntry:
    id_ = reader.video_id(texts, "videoId")
    return FeedEntry(
        id_,
        reader.channel_id_or_none(texts, "channelId", id_),
        reader.text(texts, "title", id_),
        reader.past(texts, "published", id_),
        reader.past(texts, "updated", id_),
        reader.count(texts, "views", id_),
    )
