from __future__ import annotations

from array import array
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.youtube.search_index import (
    Postings,
    Query,
    SearchIndex,
    field_terms,
    parse_query,
    query_terms,
    text_terms,
)


def index_of(*titles: str) -> SearchIndex:
    postings = Postings()
    for n, title in enumerate(titles):
        postings.add(n, field_terms(title, (), "", ""))
    stored = {term: array("I", content) for term, content in postings.drain()}
    return SearchIndex(lambda term: stored.get(term, array("I")), len(titles))


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Don't STOP me-now", ["dont", "stop", "me", "now"]),
        ("Straße ＦＵＬＬ", ["strasse", "full"]),
        ("乃木坂46", ["乃", "木", "坂", "乃木", "木坂", "46"]),
        ("猫", ["猫"]),
        ("हिन्दी सीखें", ["हिन्दी", "सीखें"]),
        ("🎸!?", []),
    ],
)
def test_text_is_found_by_words_and_by_pairs_where_no_space_stands_between_them(text: str, terms: list[str]):
    assert list(text_terms(text)) == terms


@pytest.mark.parametrize(
    ("word", "terms"),
    [("乃木坂", ("乃木", "木坂")), ("猫", ("猫",)), ("rock'n'roll", ("rocknroll",)), ("!", ())],
)
def test_a_queried_word_wants_all_its_pairs(word: str, terms: tuple[str, ...]):
    assert query_terms(word) == terms


def test_a_query_has_clauses_alternatives_and_exclusions():
    query = parse_query("boat | sail  -fishing harbour")
    assert query == Query(((("boat",), ("sail",)), (("harbour",),)), (("fishing",),))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("cat", {0, 1}),
        ("cat dog", {1}),
        ("cat|bird", {0, 1, 2}),
        ("cat -dog", {0}),
        ("CAT'S", set()),
        ("missing", set()),
        ("cat missing", set()),
        ("-cat", set()),
        ("", set()),
        ("🎸", set()),
    ],
)
def test_every_word_must_occur(query: str, found: set[int]):
    assert set(index_of("cat", "cat dog", "bird").match(query)) == found


def test_relevance_weighs_rarity_and_field():
    postings = Postings()
    postings.add(0, field_terms("cat", (), "", ""))
    postings.add(1, field_terms("", ("cat",), "", "dog"))
    stored = {term: array("I", content) for term, content in postings.drain()}
    index = SearchIndex(lambda term: stored.get(term, array("I")), 2)
    assert index.match("cat") == pytest.approx({0: 8 * log(2), 1: 4 * log(2)})
    assert index.match("dog") == pytest.approx({1: log(3)})
    assert index.match("cat dog") == pytest.approx({1: 4 * log(2) + log(3)})


words = st.text(alphabet="ab猫犬カé ", min_size=0, max_size=8)


@given(st.lists(words, min_size=1, max_size=8), st.lists(words, min_size=1, max_size=3))
def test_a_query_finds_what_reading_every_text_finds(titles: list[str], query: list[str]):
    text = " ".join(query)
    wanted = {term for word in text.split() for term in query_terms(word)}
    expected = {n for n, title in enumerate(titles) if wanted and wanted <= set(text_terms(title))}
    assert set(index_of(*titles).match(text)) == expected
