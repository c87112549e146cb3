"""Full-text search over a catalogue, with rules simple enough to compute a result by hand.

Text is NFKC-normalised and case-folded, and apostrophes are removed. In scripts with spaces, each word is a
term; in Han, kana, Hangul and Thai, each character and each pair of neighbours is. Two neighbours of which
one is a word are a term too, so that phrases can be found; a phrase never goes from one tag or line to the
next.

A query is a list of words and "quoted phrases". All terms of each word must occur, in any field; of a phrase
of several words, every two that stand side by side. `a|b` matches either of two words or phrases, and `-a`
excludes one. A quotation mark without another is ignored. A query without any term, such as a single emoji,
finds nothing.

Relevance is the sum over the query's terms of ln(1 + N/df) × the weights of the fields with the term (title
8, tags 4, channel 2, description 1, added up). N is the number of videos in the catalogue and df the number
of those with the term, at any instant. Ties go to the newer video.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import log
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

TITLE, TAGS, CHANNEL, DESCRIPTION = 8, 4, 2, 1
_FIELD_BITS = 4
_WORTH_NARROWING = 4

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
    """The terms under which `text` is indexed, with repetitions."""
    for unspaced, word in _runs(text):
        if word:
            yield word
        else:
            yield from unspaced
            yield from map("".join, pairwise(unspaced))


def query_terms(word: str) -> tuple[str, ...]:
    """The terms that a text must all contain to match `word` of a query."""
    terms: list[str] = []
    for unspaced, spaced in _runs(word):
        if spaced or len(unspaced) == 1:
            terms.append(spaced or unspaced)
        else:
            terms.extend(map("".join, pairwise(unspaced)))
    return tuple(dict.fromkeys(terms))


def phrase_terms(phrase: str) -> tuple[str, ...]:
    """The terms that a text must all contain to match a quoted phrase."""
    if len(_runs(phrase)) < 2:
        return query_terms(phrase)
    pairs = (pair for unspaced, _ in _runs(phrase) for pair in map("".join, pairwise(unspaced)))
    return tuple(dict.fromkeys([*_neighbours(phrase), *pairs]))


def _neighbours(text: str) -> Iterable[str]:
    """Every two terms that stand side by side, if one of them is a word."""
    for (unspaced, word), (next_unspaced, next_word) in pairwise(_runs(text)):
        yield f"{word or unspaced[-1]} {next_word or next_unspaced[0]}"


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query: each clause must match by one of its alternatives, and no exclusion may match."""

    clauses: tuple[tuple[tuple[str, ...], ...], ...]
    excluded: tuple[tuple[str, ...], ...]


_TOKENS = re.compile(r'(-?)"([^"]+)"|([^\s|"]+)|(\|)')


@lru_cache(1024)
def parse_query(query: str, most_words: int | None = None, most_alternatives: int | None = None) -> Query:
    """Parse a query, in which `a|b` means either, `-a` excludes and quotation marks hold a phrase together.

    Words beyond `most_words` are ignored, and so are alternatives beyond `most_alternatives`.
    """
    clauses: list[list[tuple[str, ...]]] = []
    excluded: list[tuple[str, ...]] = []
    words, joined = 0, False
    for minus, phrase, word, bar in _TOKENS.findall(query):
        if bar:
            joined = True
            continue
        unwanted = bool(minus) or (word.startswith("-") and bool(query_terms(word[1:])))
        terms = phrase_terms(phrase) if phrase else query_terms(word)
        words += len(phrase.split()) if phrase else 1
        if not terms or (most_words is not None and words > most_words):
            continue
        if unwanted:
            excluded.append(terms)
        elif joined and clauses:
            clauses[-1].append(terms)
        else:
            clauses.append([terms])
        joined = False
    return Query(tuple(tuple(clause[:most_alternatives]) for clause in clauses), tuple(excluded))


def field_terms(title: str, tags: Iterable[str], channel: str, description: str) -> dict[str, int]:
    """A video's terms, each with the bits of the fields that contain it."""
    found: dict[str, int] = {}
    for bit, texts in (
        (TITLE, (title,)),
        (TAGS, tags),
        (CHANNEL, (channel,)),
        (DESCRIPTION, description.splitlines()),
    ):
        for text in texts:
            for term in _indexed_terms(text):
                found[term] = found.get(term, 0) | bit
    return found


@lru_cache(1 << 15)
def _indexed_terms(text: str) -> tuple[str, ...]:
    """The terms of a tag, title or line, each once. Videos share many of them."""
    return tuple(dict.fromkeys([*text_terms(text), *_neighbours(text)]))


class Postings:
    """Collects the terms of videos into postings: per term, `video << 4 | field bits`, ascending."""

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
        """Return every term with its postings as bytes, and start over with none."""
        gathered, self._by_term = self._by_term, {}
        return ((term, postings.tobytes()) for term, postings in sorted(gathered.items()))


class Hits(NamedTuple):
    """The videos that match a query, ascending by number, and the relevance of each."""

    numbers: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]

    def within(self, low: int, high: int) -> Hits:
        """Only the videos with low <= number < high."""
        first, end = np.searchsorted(self.numbers, (low, high))
        return Hits(self.numbers[first:end], self.scores[first:end])

    def where(self, kept: npt.NDArray[np.bool_]) -> Hits:
        """Only the videos that the mask keeps."""
        return Hits(self.numbers[kept], self.scores[kept])


_NOTHING = Hits(np.empty(0, np.int64), np.empty(0, np.float64))


class SearchIndex:
    """Evaluates queries over stored postings, which `fetch` returns for a term."""

    def __init__(self, fetch: Callable[[str], array[int]], videos: int) -> None:
        self._fetch, self._videos = fetch, videos
        self._hits = lru_cache(4096)(self._load)
        self._matches = lru_cache(256)(self._evaluate)

    def _load(self, term: str) -> Hits:
        postings = np.asarray(self._fetch(term), np.uint32)
        if not len(postings):
            return _NOTHING
        rarity = log(1 + self._videos / len(postings))
        weights = rarity * np.arange(1 << _FIELD_BITS)
        return Hits((postings >> _FIELD_BITS).astype(np.int64), weights[postings & (1 << _FIELD_BITS) - 1])

    def match(self, query: Query | str, low: int = 0, high: int | None = None) -> Hits:
        """Every matching video with low <= number < high (None: all), whether it is visible yet or not.

        A small part of the videos is evaluated by itself, which takes much less time than all of them.
        """
        parsed = parse_query(query) if isinstance(query, str) else query
        end = self._videos if high is None else high
        if _WORTH_NARROWING * (end - low) < self._videos:
            return self._evaluate(parsed, (low, end))
        return self._matches(parsed).within(low, end)

    def _evaluate(self, query: Query, part: tuple[int, int] | None = None) -> Hits:
        matched: Hits | None = None
        for clause in query.clauses:
            found = self._any_of(clause, part)
            matched = found if matched is None else _intersect(matched, found)
            if not len(matched.numbers):
                return _NOTHING
        if matched is None:
            return _NOTHING
        for terms in query.excluded:
            kept = ~np.isin(matched.numbers, self._all_of(terms, part).numbers, assume_unique=True)
            matched = matched.where(kept)
        return matched

    def _any_of(self, alternatives: Sequence[tuple[str, ...]], part: tuple[int, int] | None = None) -> Hits:
        """The videos that match an alternative, each as relevant as the best that it matches."""
        found = [self._all_of(terms, part) for terms in alternatives]
        if len(found) == 1:
            return found[0]
        numbers = np.concatenate([hits.numbers for hits in found])
        scores = np.concatenate([hits.scores for hits in found])
        order = np.lexsort((-scores, numbers))
        numbers, scores = numbers[order], scores[order]
        first = np.ones(len(numbers), np.bool_)
        first[1:] = numbers[1:] != numbers[:-1]
        return Hits(numbers[first], scores[first])

    def _all_of(self, terms: Iterable[str], part: tuple[int, int] | None = None) -> Hits:
        found = [self._hits(term) if part is None else self._hits(term).within(*part) for term in terms]
        matched, *others = sorted(found, key=lambda hits: len(hits.numbers))
        for hits in others:
            matched = _intersect(matched, hits)
        return matched


def _intersect(left: Hits, right: Hits) -> Hits:
    """The videos in both, with the sum of their scores."""
    if len(right.numbers) < len(left.numbers):
        left, right = right, left
    if not len(left.numbers):
        return _NOTHING
    places = np.minimum(np.searchsorted(right.numbers, left.numbers), len(right.numbers) - 1)
    both = right.numbers[places] == left.numbers
    return Hits(left.numbers[both], left.scores[both] + right.scores[places[both]])
