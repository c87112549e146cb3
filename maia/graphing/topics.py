"""What the graph knows of topics before they are asked about: the contexts in which the learner sees asks.

A context must mean the same after the graph was derived anew, and at other sites, which are told of patterns
by it. Categories do. A community's number doesn't: once the community is gone, another may get it. So a
community is known by the first two digits of the handle of the tag that tells most of it. That makes at most
256 of them, a few of which share their digits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from atlas.adapters.graph_topics import GraphTopic, GraphTopicsDAO
from atlas.composition import Atlas
from maia.learning.observations import Scalar
from maia.youtube.categories import CATEGORIES

_DIGITS: Final = 2


class KnownTopics:
    """What the graph knows of some topics, by their keys. `read` are those that it was asked about."""

    def __init__(self, read: Iterable[str], topics: Mapping[str, GraphTopic]) -> None:
        self.read = frozenset(read)
        self._topics = topics

    def joined(self, other: KnownTopics) -> KnownTopics:
        """What is known of the topics of both."""
        return KnownTopics(self.read | other.read, {**self._topics, **other._topics})

    def category(self, key: str) -> int | None:
        """The category that most of a topic's videos have."""
        topic = self._topics.get(key)
        return topic.category if topic else None

    def context(self, keys: Collection[str]) -> dict[str, Scalar]:
        """The context of an ask about these topics: what those have in common of which anything is known."""
        topics = [self._topics[key] for key in keys if key in self._topics]
        context = {
            "category": _shared(topics, _category),
            "community": _shared(topics, _community),
        }
        return {name: value for name, value in context.items() if value is not None}


NOTHING_KNOWN: Final = KnownTopics((), {})


async def known_topics(atlas: Atlas, keys: Collection[str]) -> KnownTopics:
    """Read what is known of topics, all in one statement; nothing while the graph is off."""
    if not keys or not atlas.settings.graph.enabled:
        return KnownTopics(keys, {})
    dao = GraphTopicsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    return KnownTopics(keys, await dao.known(keys))


def _shared(topics: Collection[GraphTopic], of: Callable[[GraphTopic], Any]) -> Any:
    """What all topics that have it have in common; None if they differ, or none has it."""
    values = {value for value in map(of, topics) if value is not None}
    return values.pop() if len(values) == 1 else None


def _category(topic: GraphTopic) -> str | None:
    known = None if topic.category is None else CATEGORIES.get(topic.category)
    return known.title if known else None


def _community(topic: GraphTopic) -> str | None:
    return None if topic.leading is None else topic.leading.hex[:_DIGITS]
