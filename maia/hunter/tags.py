"""Turns videos' tags into search topics: strips decoration, drops noise, prefers rare tags."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import nsmallest
from typing import Any

import re2

from atlas.config import HunterSettings
from atlas.errors import ConfigError
from atlas.queries import shown_query, topic_key

MIN_LENGTH = 3
MAX_LENGTH = 60
# A longer raw tag cannot become a useful topic, so it is not worth normalising.
MAX_RAW_LENGTH = 500

# Tags that uploaders add for reach, and words that match everything: they name no subject.
_NOISE = """
and, are, but, for, from, how, its, not, that, the, their, them, this, was, what, when, who, why, with, you,
your, 1080p, 2160p, 720p, com, full, full hd, http, https, www, best, free, new, top, clip, clips, vlog,
vlogs, video, videos, new video, viral, viral video, viral videos, channel, comment, like, share, subscribe,
watch, you tube, youtube, youtuber, youtubers, youtube channel, youtube shorts, youtube video, youtube videos,
short, shorts, shortsvideo, ytshorts, youtubeshorts, trend, trending, trending now, trending video,
explore, explorepage, for you, for you page, foryou, foryoupage, fyp
"""
STOP_LIST = frozenset(phrase.strip() for phrase in _NOISE.split(","))

# search.list reads `|` as OR, quotation marks as a phrase and a leading hyphen as NOT, also in full-width
# forms. In a tag they are decoration.
_OPERATORS = str.maketrans(dict.fromkeys('|｜"＂“”„«»', " "))
_LEADING = "#＃﹟-－﹣"
_MOST_REMEMBERED = 10_000
_INVISIBLE = ("Cc", "Cf", "Cn", "Co", "Cs")


@lru_cache(_MOST_REMEMBERED)
def cleaned(raw: str) -> str:
    """A tag as it is searched and shown: its spelling kept, a leading # removed. The result may be empty.

    Removes invisible characters (controls, zero-width joiners, variation selectors, lone surrogates) and
    whatever search.list would read as an operator, such as a leading hyphen.
    """
    visible = shown_query(raw[:MAX_RAW_LENGTH].translate(_SHOWN)).translate(_OPERATORS)
    return " ".join(filter(None, (word.lstrip(_LEADING) for word in visible.split())))


class _Shown(dict[int, str]):
    """A translation table: each character becomes itself, a space or nothing, computed on first use."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if character.isspace():
            shown = " "
        elif unicodedata.category(character) in _INVISIBLE or "\ufe00" <= character <= "\ufe0f":
            shown = ""
        else:
            shown = character
        self[code] = shown
        return shown


_SHOWN = _Shown()


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
