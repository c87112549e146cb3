"""Turns videos' tags into search topics: strips decoration, drops noise, prefers rare tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

import re2

from atlas.config import HunterSettings
from atlas.errors import ConfigError
from atlas.queries import topic_key
from atlas.tags import MAX_LENGTH, STOP_LIST, cleaned

MIN_LENGTH = 3
"""A shorter tag is too wide to be searched for."""


@dataclass(frozen=True, slots=True)
class TagRules:
    """The rules for which tags become topics; build them with `of`, which checks the patterns."""

    stop: frozenset[str]
    deny: tuple[Any, ...]
    per_video: int

    @classmethod
    def of(cls, settings: HunterSettings) -> TagRules:
        """Build the rules from the settings; ConfigError names an invalid pattern."""
        stop = STOP_LIST.union(topic_key(cleaned(word)) for word in settings.tag_stop_list)
        deny = tuple(_compile(position, pattern) for position, pattern in enumerate(settings.tag_deny))
        return cls(stop, deny, settings.tags_per_video)

    def topic(self, raw: str) -> str | None:
        """The topic for a tag, in the tag's spelling; None if the tag is noise."""
        tag = cleaned(raw)
        key = topic_key(tag)
        if not MIN_LENGTH <= len(key) <= MAX_LENGTH or key in self.stop:
            return None
        if not any(character.isalnum() for character in tag):
            return None
        return None if any(pattern.search(tag) for pattern in self.deny) else tag

    def topics(self, raw_tags: Iterable[str]) -> tuple[str, ...]:
        """A video's topics in the uploader's order, without duplicates, each in its first spelling."""
        topics: dict[str, str] = {}
        for topic in filter(None, map(self.topic, raw_tags)):
            topics.setdefault(topic_key(topic), topic)
        return tuple(topics.values())

    def rarest(self, videos: Sequence[Sequence[str]], mentions: Mapping[str, int]) -> dict[str, int]:
        """The topics to add from a page's videos, and how many of these videos mention each.

        `videos` are the topics of each video, `mentions` the queue's counts so far. Each video adds its
        `per_video` rarest topics, counted over queue and page together; ties keep the uploader's order.
        """
        page = Counter(topic_key(topic) for topics in videos for topic in topics)

        def commonness(topic: str) -> int:
            return mentions.get(topic, 0) + page[topic_key(topic)]

        added = {
            topic_key(topic)
            for topics in videos
            for topic in nsmallest(self.per_video, topics, key=commonness)
        }
        return Counter(topic for topics in videos for topic in topics if topic_key(topic) in added)


def _compile(position: int, pattern: str) -> Any:
    """Compile with RE2, which matches any pattern in linear time and bounded memory."""
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise ConfigError(
            f"hunter.tag_deny[{position}] is no regular expression of RE2 ({reason}): {pattern!r}. "
            "Look-around and back-references do not exist there; correct or remove it."
        ) from error
