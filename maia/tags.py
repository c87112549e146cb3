"""Tags as search topics: one spelling for each, no noise, the rarest first."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import nsmallest
from typing import Any

import re2

from atlas.adapters.maia import normalised_query
from atlas.config import HunterSettings
from atlas.errors import ConfigError

MIN_LENGTH = 3
MAX_LENGTH = 60
# A raw tag longer than this cannot shrink to a topic in any useful way, and is not worth normalising.
MAX_RAW_LENGTH = 500

# What uploaders add for reach, and words that match everything: searching them finds no subject.
_NOISE = """
and, are, but, for, from, how, its, not, that, the, their, them, this, was, what, when, who, why, with, you,
your, 1080p, 2160p, 720p, com, full, full hd, http, https, www, best, free, new, top, clip, clips, vlog,
vlogs, video, videos, new video, viral, viral video, viral videos, channel, comment, like, share, subscribe,
watch, you tube, youtube, youtuber, youtubers, youtube channel, youtube shorts, youtube video, youtube videos,
short, shorts, shortsvideo, ytshorts, youtubeshorts, trend, trending, trending now, trending video,
explore, explorepage, for you, for you page, foryou, foryoupage, fyp
"""
STOP_LIST = frozenset(phrase.strip() for phrase in _NOISE.split(","))

# The API reads `|` as OR and quotation marks as a phrase; in a tag they are decoration.
_OPERATORS = str.maketrans(dict.fromkeys('|"“”„«»', " "))
_MOST_REMEMBERED = 10_000
_INVISIBLE = ("Cc", "Cf", "Cn", "Co", "Cs")


@lru_cache(_MOST_REMEMBERED)
def normalise(raw: str) -> str:
    """The one spelling of a tag, possibly empty: NFKC, casefolded, single spaces, no leading #.

    Characters nobody sees (controls, zero-width joiners, variation selectors, lone surrogates) go, and so
    does what search.list would take for an operator, such as a leading hyphen.
    """
    previous, tag = None, raw[:MAX_RAW_LENGTH]
    while tag != previous:
        previous = tag
        visible = normalised_query(tag.translate(_SHOWN)).translate(_OPERATORS)
        tag = " ".join(filter(None, (word.lstrip("#-") for word in visible.split())))
    return tag


class _Shown(dict[int, str]):
    """What is left of each character: itself, a space or nothing; worked out where it is first met."""

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
    """Which tags become topics; build it with `of`, which checks the operator's patterns."""

    stop: frozenset[str]
    deny: tuple[Any, ...]
    per_video: int

    @classmethod
    def of(cls, settings: HunterSettings) -> TagRules:
        """The rules that the settings ask for; ConfigError names a pattern that is not usable."""
        stop = STOP_LIST.union(map(normalise, settings.tag_stop_list))
        deny = tuple(_compile(position, pattern) for position, pattern in enumerate(settings.tag_deny))
        return cls(stop, deny, settings.tags_per_video)

    def topic(self, raw: str) -> str | None:
        """The topic that a tag stands for, or None if it is noise."""
        tag = normalise(raw)
        if not MIN_LENGTH <= len(tag) <= MAX_LENGTH or tag in self.stop:
            return None
        if not any(character.isalnum() for character in tag):
            return None
        return None if any(pattern.search(tag) for pattern in self.deny) else tag

    def topics(self, raw_tags: Iterable[str]) -> tuple[str, ...]:
        """A video's topics, each once, in the uploader's order."""
        return tuple(dict.fromkeys(topic for raw in raw_tags if (topic := self.topic(raw)) is not None))

    def rarest(self, videos: Sequence[Sequence[str]], mentions: Mapping[str, int]) -> dict[str, int]:
        """The topics that a page's videos add, with how many of these videos mention each.

        `videos` are the videos' topics, `mentions` what the queue has counted so far. Every video adds its
        `per_video` rarest, counted over queue and page together; among equals the uploader's order decides.
        """
        page = Counter(topic for topics in videos for topic in topics)
        chosen = (
            topic
            for topics in videos
            for topic in nsmallest(self.per_video, topics, key=lambda t: mentions.get(t, 0) + page[t])
        )
        return {topic: page[topic] for topic in dict.fromkeys(chosen)}


def _compile(position: int, pattern: str) -> Any:
    """Compile with RE2: whoever writes the pattern, matching takes linear time and bounded memory."""
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
