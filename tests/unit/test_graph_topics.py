"""The contexts that the graph gives to asks."""

from __future__ import annotations

from uuid import UUID

from atlas.adapters.graph_topics import GraphTopic
from maia.graphing.topics import NOTHING_KNOWN, KnownTopics

LEADING = UUID("3fa85f64-5717-4562-b3fc-2c963f66afa6")
TOPICS = {
    "jazz": GraphTopic("jazz", 10, LEADING),
    "blues": GraphTopic("blues", 10, None),
    "chess": GraphTopic("chess", 20, UUID(int=0)),
    "odd": GraphTopic("odd", 4711, None),
}
KNOWN = KnownTopics([*TOPICS, "unknown"], TOPICS)


def test_an_ask_has_what_its_topics_have_in_common():
    music = {"category": "Music", "community": "3f"}
    assert KNOWN.context(["jazz"]) == KNOWN.context(["jazz", "blues", "odd", "unknown"]) == music
    assert KNOWN.context(["jazz", "chess"]) == {}
    assert KNOWN.context(["chess"]) == {"category": "Gaming", "community": "00"}


def test_of_what_nothing_is_known_nothing_is_said():
    assert KNOWN.context(["odd"]) == {}, "YouTube has no such category, so it may be anything"
    assert KNOWN.context(["unknown"]) == KNOWN.context([]) == NOTHING_KNOWN.context(["jazz"]) == {}


def test_what_is_read_later_is_joined():
    first = KnownTopics(["jazz", "go"], {"jazz": TOPICS["jazz"]})
    both = first.joined(KnownTopics(["chess"], {"chess": TOPICS["chess"]}))
    assert both.read == {"jazz", "go", "chess"}
    assert (both.category("jazz"), both.category("chess"), both.category("go")) == (10, 20, None)
