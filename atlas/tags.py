"""Tags as uploaders write them, and what they mean: decoration is stripped, and noise is known as such."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from atlas.queries import shown_query, topic_key

MAX_LENGTH: Final = 60
"""Longest key of a tag that means something."""
# A longer raw tag cannot become a useful topic, so it is not worth normalising.
MAX_RAW_LENGTH: Final = 500

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
_MOST_REMEMBERED = 50_000
_SHORTEST: Final = 2
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


@lru_cache(_MOST_REMEMBERED)
def tag_of(raw: str) -> tuple[str, str] | None:
    """The key of a tag and its spelling; None if it names no subject, whatever the settings say."""
    spelling = cleaned(raw)
    key = topic_key(spelling)
    if not _SHORTEST <= len(key) <= MAX_LENGTH or key in STOP_LIST:
        return None
    return (key, spelling) if any(character.isalnum() for character in spelling) else None


def spellings(raw_tags: Iterable[str]) -> dict[str, str]:
    """A video's tags by their keys, each in its first spelling, in the uploader's order."""
    found = list(filter(None, map(tag_of, raw_tags)))
    return dict(found) | dict(reversed(found))
