"""A topic's search: its query, the key under which equal queries are one topic, and its parameters."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, Self, get_args

from atlas.errors import DataRefused
from atlas.places import language_code, region_code

LONGEST_QUERY = 200
DurationClass = Literal["short", "medium", "long"]
EventType = Literal["completed", "live", "upcoming"]

_CACHE_SIZE = 10_000
_DOT_ABOVE = "\u0307"
_ABOVE = 230
# Turkish and Azeri have I with and without a dot in both cases; elsewhere the pair is i and I. A capital does
# not show which alphabet it belongs to, so all four are one letter in a key.
_ONE_I = str.maketrans({"İ": "i", "ı": "i"})


def clean_text(text: str) -> str:
    """Remove what PostgreSQL can't store: drop NUL, pair up surrogates, replace lone ones by U+FFFD."""
    text = text.replace("\0", "")
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def shown_query(text: str) -> str:
    """The query as it is searched and shown: as typed, but with composed characters and single spaces."""
    return " ".join(unicodedata.normalize("NFC", clean_text(text)).split())


@lru_cache(_CACHE_SIZE)
def topic_key(text: str) -> str:
    """The key that equal queries share: NFKC, full case folding, one letter i, single spaces.

    The key of a key is itself. Keys are only compared, never searched or shown.
    """
    if text.isascii():
        return shown_query(text).lower()
    while True:
        # Folded in pieces: what is composed differently, or in another order, is not seen to be equal before.
        pieces = unicodedata.normalize("NFKD", clean_text(text)).casefold()
        pieces = unicodedata.normalize("NFKD", pieces).translate(_ONE_I)
        folded = " ".join(unicodedata.normalize("NFKC", _without_dots(pieces)).split())
        if folded == text:
            return folded
        text = folded


def _without_dots(pieces: str) -> str:
    """Decomposed text without the dots above that are written on an i, which has one already."""
    if _DOT_ABOVE not in pieces:
        return pieces
    kept, on_i = [], False
    for character in pieces:
        if on_i and character == _DOT_ABOVE:
            continue
        kept.append(character)
        # Marks elsewhere than above leave the next dot where it is: on the i.
        on_i = character == "i" or (on_i and unicodedata.combining(character) not in (0, _ABOVE))
    return "".join(kept)


def query_of(text: str) -> str:
    """The query as it is searched; DataRefused if it is blank or too long."""
    query, key = shown_query(text), topic_key(text)
    if not key:
        raise DataRefused("a query is blank: give at least one word")
    length = max(len(query), len(key))
    if length > LONGEST_QUERY:
        raise DataRefused(f"the query {query[:40]!r}… has {length} characters: use at most {LONGEST_QUERY}")
    return query


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchParameters:
    """Parameters that narrow a topic's search; None omits one.

    Instants are aware and in whole seconds, as the API takes them. The same query with other parameters is
    another topic. DataRefused names a value that the API would not accept.
    """

    published_after: datetime | None = None
    published_before: datetime | None = None
    region: str | None = None
    language: str | None = None
    duration: DurationClass | None = None
    category: int | None = None
    event_type: EventType | None = None

    def __post_init__(self) -> None:
        for name in ("published_after", "published_before"):
            if instant := getattr(self, name):
                object.__setattr__(self, name, _whole_second(name, instant))
        after, before = self.published_after, self.published_before
        if after and before and after >= before:
            raise DataRefused(f"published_after ({after}) must be earlier than published_before ({before})")
        self._check_code("region", region_code)
        self._check_code("language", language_code)
        self._check_choice("duration", get_args(DurationClass))
        self._check_choice("event_type", get_args(EventType))
        if self.category is not None and not 1 <= self.category <= 999:
            raise DataRefused(f"category {self.category} does not exist: maia top lists names and ids")

    def _check_code(self, name: str, known: Any) -> None:
        if (code := getattr(self, name)) is not None:
            try:
                object.__setattr__(self, name, known(code))
            except ValueError as error:
                raise DataRefused(f"{name}: {error}") from error

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value is not None and value not in choices:
            raise DataRefused(f"{name} {value!r} is unknown: use {', '.join(choices)}")

    def __bool__(self) -> bool:
        return self != _NO_PARAMETERS

    def as_json(self) -> dict[str, str | int]:
        """The given parameters by name; instants in RFC 3339, UTC."""
        given = ((each.name, getattr(self, each.name)) for each in fields(self))
        return {
            name: value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
            for name, value in given
            if value is not None
        }

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> Self:
        """The inverse of `as_json`."""
        instants = {
            name: datetime.fromisoformat(stored[name])
            for name in ("published_after", "published_before")
            if name in stored
        }
        return cls(**{**stored, **instants})

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.as_json().items())


_NO_PARAMETERS = SearchParameters()


def _whole_second(name: str, instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise DataRefused(f"{name} has no offset: write an instant such as 2026-01-31T00:00:00Z")
    return instant.astimezone(UTC).replace(microsecond=0)
