"""Full-text search over a catalogue, with semantics simple enough to compute by hand.

Text is NFKC-normalised and case-folded; apostrophes vanish. Scripts that put spaces between words give
one term a word; Han, kana, Hangul and Thai give every character and every pair of neighbours. A query
is words separated by white space: each must occur (all its terms, in any field), `a|b` wants either,
`-a` wants it absent. A query without a single term, such as one emoji, finds nothing.

Relevance is the sum over the query's terms of ln(1 + N/df) × the weight of the fields that the term
occurs in (title 8, tags 4, channel 2, description 1, added up), where N counts the catalogue's videos
and df those with the term, whatever the instant; ties go to the newer video.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import log

TITLE, TAGS, CHANNEL, DESCRIPTION = 8, 4, 2, 1
_FIELD_BITS = 4

_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u3005\u3041-\u3096\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
_MARKS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u064b-\u065f\u0670\u06d6-\u06dc\u0900-\u0963\u0966-\u0dff"
    "\u1ab0-\u1aff\u20d0-\u20f0"
)
_RUNS = re.compile(f"([{_UNSPACED}]+)|((?:[^\\W_{_UNSPACED}]|[{_MARKS}])+)")


def _runs(text: str) -> list[tuple[str, str]]:
    folded = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("’", "")
    return _RUNS.findall(folded)


def text_terms(text: str) -> Iterable[str]:
    """The terms that `text` is found by, with repetitions."""
    for unspaced, word in _runs(text):
        if word:
            yield word
        else:
            yield from unspaced
            yield from map("".join, pairwise(unspaced))


def query_terms(word: str) -> tuple[str, ...]:
    """The terms that must all occur for `word` of a query to be found."""
    terms: list[str] = []
    for unspaced, spaced in _runs(word):
        if spaced or len(unspaced) == 1:
            terms.append(spaced or unspaced)
        else:
            terms.extend(map("".join, pairwise(unspaced)))
    return tuple(dict.fromkeys(terms))


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query: one alternative of every clause must match, and nothing that is excluded."""

    clauses: tuple[tuple[tuple[str, ...], ...], ...]
    excluded: tuple[tuple[str, ...], ...]


@lru_cache(1024)
def parse_query(query: str) -> Query:
    """Read the words of `query`, with `a|b` for either and `-a` for absence."""
    clauses, excluded = [], []
    for word in re.sub(r"\s*\|\s*", "|", query).split():
        if word.startswith("-") and (terms := query_terms(word[1:])):
            excluded.append(terms)
            continue
        alternatives = tuple(terms for part in word.split("|") if (terms := query_terms(part)))
        if alternatives:
            clauses.append(alternatives)
    return Query(tuple(clauses), tuple(excluded))


def field_terms(title: str, tags: Iterable[str], channel: str, description: str) -> dict[str, int]:
    """A video's terms, each with the bits of the fields it occurs in."""
    found: dict[str, int] = {}
    for bit, text in (
        (TITLE, title),
        (TAGS, " \n".join(tags)),
        (CHANNEL, channel),
        (DESCRIPTION, description),
    ):
        for term in text_terms(text):
            found[term] = found.get(term, 0) | bit
    return found


class Postings:
    """Gathers the terms of videos, and gives each term's postings: `video << 4 | field bits`, ascending."""

    def __init__(self) -> None:
        self._by_term: dict[str, array[int]] = {}

    def add(self, video: int, terms: Mapping[str, int]) -> None:
        by_term = self._by_term
        for term, fields in terms.items():
            packed = video << _FIELD_BITS | fields
            if (postings := by_term.get(term)) is None:
                by_term[term] = array("I", (packed,))
            else:
                postings.append(packed)

    def drain(self) -> Iterable[tuple[str, bytes]]:
        """Every term with its postings as bytes; forgets them."""
        gathered, self._by_term = self._by_term, {}
        return ((term, postings.tobytes()) for term, postings in sorted(gathered.items()))


class SearchIndex:
    """Answers queries over stored postings, which `fetch` gives by term."""

    def __init__(self, fetch: Callable[[str], array[int]], videos: int) -> None:
        self._fetch, self._videos = fetch, videos
        self._scores = lru_cache(512)(self._load)
        self._matches = lru_cache(256)(self._evaluate)

    def _load(self, term: str) -> Mapping[int, float]:
        postings = self._fetch(term)
        if not postings:
            return {}
        rarity = log(1 + self._videos / len(postings))
        weights = [rarity * fields for fields in range(1 << _FIELD_BITS)]
        fields_mask = (1 << _FIELD_BITS) - 1
        return {packed >> _FIELD_BITS: weights[packed & fields_mask] for packed in postings}

    def match(self, query: str) -> Mapping[int, float]:
        """The relevance of every video that matches, by its number; whatever the instant."""
        return self._matches(parse_query(query))

    def _evaluate(self, query: Query) -> Mapping[int, float]:
        matched: dict[int, float] | None = None
        for clause in query.clauses:
            found = self._any_of(clause)
            matched = found if matched is None else _intersect(matched, found)
            if not matched:
                return {}
        for terms in query.excluded:
            unwanted = self._all_of(terms)
            matched = {video: score for video, score in (matched or {}).items() if video not in unwanted}
        return matched or {}

    def _any_of(self, alternatives: Iterable[tuple[str, ...]]) -> dict[int, float]:
        union: dict[int, float] = {}
        for terms in alternatives:
            for video, score in self._all_of(terms).items():
                union[video] = max(score, union.get(video, 0.0))
        return union

    def _all_of(self, terms: Iterable[str]) -> dict[int, float]:
        rarest_first = sorted(map(self._scores, terms), key=len)
        matched = dict(rarest_first[0])
        for scores in rarest_first[1:]:
            matched = _intersect(matched, scores)
        return matched


def _intersect(left: Mapping[int, float], right: Mapping[int, float]) -> dict[int, float]:
    if len(right) < len(left):
        left, right = right, left
    return {video: score + right[video] for video, score in left.items() if video in right}
