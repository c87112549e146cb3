"""Search for videos by title or tag, and for channels by title or id."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from atlas.adapters.dao import DAO
from atlas.db import Row
from atlas.queries import clean_text

MOST_MATCHES: Final = 2_000
"""Of more matches only so many are ranked, whichever are met first."""

_MOST_WORDS: Final = 10
_TRIGRAM: Final = 3
_SPECIAL: Final = re.compile(r"([\\%_])")
_WORD: Final = re.compile(r"\w+")
_LONGEST: Final = 200
_MOST_MISSPELT: Final = 3
_SHORTEST_WORD: Final = 4
_LIKE: Final = 0.4
"""A word is like one of a title that has so many of its trigrams; swapping two letters costs half of them."""
_MOST_NEAR: Final = 500


@dataclass(frozen=True, slots=True)
class FoundVideo:
    """A video that matches: by its title, or else by a tag."""

    id: str
    title: str | None
    channel_id: str
    channel_title: str | None
    published_at: datetime | None
    views: int | None
    velocity: float | None
    is_by_title: bool


@dataclass(frozen=True, slots=True)
class FoundChannel:
    """A channel that matches."""

    id: str
    title: str | None
    subscribers: int | None
    views: int | None


@dataclass(frozen=True, slots=True)
class FoundVideos:
    """A page of the videos that match, and how many do, as far as they were ranked."""

    videos: Sequence[FoundVideo]
    total: int


@dataclass(frozen=True, slots=True)
class FoundChannels:
    """A page of the channels that match, and how many do, as far as they were ranked."""

    channels: Sequence[FoundChannel]
    total: int


class SearchDAO(DAO):
    """Finds what contains all words of a text, in any case and order.

    Where no word has three letters, one of them must begin a word of the title.
    """

    async def is_indexed(self) -> bool:
        """Whether the server has trigram indexes; without them each search reads all titles."""
        found: bool = await self._executor.fetchval("search.is_indexed")
        return found

    async def videos(
        self, text: str, most: int, offset: int = 0, *, by_title: bool = True, by_tag: bool = True
    ) -> FoundVideos:
        """The videos whose title contains the words, or that have the text as a tag; fastest first."""
        like = _Patterns.of(text)
        rows = await self._planned(
            "search.videos",
            like.first if by_title else None,
            like.others,
            " ".join(clean_text(text).split()) if by_tag else None,
            MOST_MATCHES,
            most,
            offset,
            like.alternative if by_title else None,
        )
        found = [
            FoundVideo(**{name: value for name, value in row.items() if name != "total"}) for row in rows
        ]
        return FoundVideos(found, rows[0]["total"] if rows else 0)

    async def channels(self, text: str, most: int, offset: int = 0) -> FoundChannels:
        """The channels whose title contains the words, or that have the text as id; largest first."""
        like = _Patterns.of(text)
        rows = await self._planned(
            "search.channels",
            like.first,
            like.others,
            clean_text(text).strip(),
            MOST_MATCHES,
            most,
            offset,
            like.alternative,
        )
        found = [
            FoundChannel(**{name: value for name, value in row.items() if name != "total"}) for row in rows
        ]
        return FoundChannels(found, rows[0]["total"] if rows else 0)

    async def _planned(self, statement: str, *values: Any) -> Sequence[Row]:
        """The rows of a statement that is planned for its values: a common word needs no index."""
        async with self._atomic() as executor:
            await executor.fetchrow("board.plan_for_values")
            return await executor.fetch(statement, *values)

    async def nearest_videos(self, text: str, most: int) -> list[FoundVideo]:
        """The videos whose titles have words like each of the text's, likest first."""
        rows = await self._nearest("search.nearest_videos", text, most)
        return [FoundVideo(**row) for row in rows]

    async def nearest_channels(self, text: str, most: int) -> list[FoundChannel]:
        """The channels whose titles have words like each of the text's, likest first."""
        rows = await self._nearest("search.nearest_channels", text, most)
        return [FoundChannel(**row) for row in rows]

    async def _nearest(self, statement: str, text: str, most: int) -> Sequence[Row]:
        words = words_of(text)
        if not words:
            return ()
        three = (*words, *(None,) * (_MOST_MISSPELT - len(words)))
        async with self._atomic() as executor:
            await executor.fetchrow("board.plan_for_values")
            await executor.fetchrow("search.allow_misspellings", str(_LIKE))
            return await executor.fetch(statement, *three, _MOST_NEAR, most)


def words_of(text: str) -> list[str]:
    """The words of a text that are long enough to be recognised if they are misspelt, the longest first."""
    words = dict.fromkeys(word.lower() for word in _WORD.findall(clean_text(text)[:_LONGEST]))
    long_enough = (word for word in words if len(word) >= _SHORTEST_WORD)
    return sorted(long_enough, key=len, reverse=True)[:_MOST_MISSPELT]


@dataclass(frozen=True, slots=True)
class _Patterns:
    """What a title is like: the first pattern or its alternative, which the index finds, and all others."""

    first: str | None
    alternative: str | None
    others: Sequence[str]

    @classmethod
    def of(cls, text: str) -> _Patterns:
        words = dict.fromkeys(clean_text(text).split()[:_MOST_WORDS])
        escaped = sorted((_SPECIAL.sub(r"\\\1", word) for word in words), key=len, reverse=True)
        others = [f"%{word}%" for word in escaped[1:]]
        if not escaped:
            return cls(None, None, others)
        if text.isascii() and max(map(len, words)) < _TRIGRAM:
            # The index doesn't know so few letters, except where a word begins.
            return cls(f"{escaped[0]}%", f"% {escaped[0]}%", others)
        return cls(f"%{escaped[0]}%", None, others)
