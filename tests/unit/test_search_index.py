from __future__ import annotations

from array import array
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.emulator.search_index import (
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


def scores_of(index: SearchIndex, query: str) -> dict[int, float]:
    """The relevance of every matching video by its number."""
    hits = index.match(query)
    assert list(hits.numbers) == sorted(hits.numbers)
    return dict(zip(hits.numbers.tolist(), hits.scores.tolist(), strict=True))


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
    ("query", "clauses", "excluded"),
    [
        ('"guitar solo"', ((("guitar solo",),),), ()),
        ('"guitar"', ((("guitar",),),), ()),
        ('"a b c"', ((("a b", "b c"),),), ()),
        ('"乃木坂 46" 猫', ((("坂 46", "乃木", "木坂"),), (("猫",),)), ()),
        ('"a b"|"c d" | e', ((("a b",), ("c d",), ("e",)),), ()),
        ('x "a b"|y z', ((("x",),), (("a b",), ("y",)), (("z",),)), ()),
        ('a -"b c" -d', ((("a",),),), (("b c",), ("d",))),
        ('a|b -c|d', ((("a",), ("b",), ("d",)),), (("c",),)),
        ('"a b', ((("a",),), (("b",),)), ()),
        ('|a||b|', ((("a",), ("b",)),), ()),
        ("a - b", ((("a",),), (("b",),)), ()),
    ],
)  # fmt: skip
def test_phrases_are_held_together_by_quotation_marks(
    query: str, clauses: tuple[object, ...], excluded: tuple[object, ...]
) -> None:
    assert parse_query(query) == Query(clauses, excluded)  # type: ignore[arg-type]


def test_words_and_alternatives_beyond_a_limit_are_ignored() -> None:
    assert parse_query("a b -c d", most_words=2) == parse_query("a b")
    assert parse_query('a "b c" d', most_words=3) == parse_query('a "b c"')
    assert parse_query("a|b|c|d", most_words=3) == parse_query("a|b|c")
    assert parse_query('"a b"|c|d e|f|g', most_alternatives=2) == parse_query('"a b"|c e|f')


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ('"guitar solo"', {0, 3}),
        ("guitar solo", {0, 1, 2, 3}),
        ('"solo guitar"', {1}),
        ('"guitar solo"|"solo guitar"', {0, 1, 3}),
        ('guitar -"guitar solo"', {1, 2}),
        ('"night guitar solo"', {3}),
        ('"猫カフェ 日記"', {4}),
        ('"カフェ猫"', set()),
    ],
)
def test_the_words_of_a_phrase_stand_side_by_side(query: str, found: set[int]) -> None:
    titles = ("A Guitar-Solo!", "solo guitar", "guitar for a solo", "night guitar solo", "猫カフェ 日記")
    assert set(scores_of(index_of(*titles), query)) == found


def test_a_phrase_does_not_go_from_one_tag_or_line_to_the_next() -> None:
    postings = Postings()
    postings.add(0, field_terms("x", ("guitar", "solo"), "", "night\ntrain"))
    postings.add(1, field_terms("y", ("guitar solo",), "", "night train"))
    stored = {term: array("I", content) for term, content in postings.drain()}
    index = SearchIndex(lambda term: stored.get(term, array("I")), 2)
    for phrase in ('"guitar solo"', '"night train"'):
        assert set(scores_of(index, phrase)) == {1}


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
    assert set(scores_of(index_of("cat", "cat dog", "bird"), query)) == found


def test_relevance_weighs_rarity_and_field():
    postings = Postings()
    postings.add(0, field_terms("cat", (), "", ""))
    postings.add(1, field_terms("", ("cat",), "", "dog"))
    stored = {term: array("I", content) for term, content in postings.drain()}
    index = SearchIndex(lambda term: stored.get(term, array("I")), 2)
    assert scores_of(index, "cat") == pytest.approx({0: 8 * log(2), 1: 4 * log(2)})
    assert scores_of(index, "dog") == pytest.approx({1: log(3)})
    assert scores_of(index, "cat dog") == pytest.approx({1: 4 * log(2) + log(3)})


words = st.text(alphabet="ab猫犬カé ", min_size=0, max_size=8)


@given(st.lists(words, min_size=1, max_size=8), st.lists(words, min_size=1, max_size=3))
def test_a_query_finds_what_reading_every_text_finds(titles: list[str], query: list[str]):
    text = " ".join(query)
    wanted = {term for word in text.split() for term in query_terms(word)}
    expected = {n for n, title in enumerate(titles) if wanted and wanted <= set(text_terms(title))}
    assert set(scores_of(index_of(*titles), text)) == expected


spaced = st.lists(st.sampled_from(["a", "b", "c", "é"]), min_size=1, max_size=6).map(" ".join)


@given(st.lists(spaced, min_size=1, max_size=8), spaced)
def test_a_phrase_of_two_words_finds_what_reading_every_text_finds(titles: list[str], phrase: str) -> None:
    two = " ".join(phrase.split()[:2])
    expected = {n for n, title in enumerate(titles) if f" {two} " in f" {title} "}
    assert set(scores_of(index_of(*titles), f'"{two}"')) == expected


@st.composite
def questions(draw: st.DrawFn) -> tuple[str, list[list[str]], list[str]]:
    """A query of groups of alternatives and of exclusions, each a word or a phrase of two."""
    item = st.lists(st.sampled_from("abc"), min_size=1, max_size=2).map(" ".join)
    groups = draw(st.lists(st.lists(item, min_size=1, max_size=3), min_size=1, max_size=3))
    excluded = draw(st.lists(item, max_size=2))
    bar = draw(st.sampled_from(["|", " | "]))
    parts = [bar.join(f'"{text}"' for text in group) for group in groups]
    parts += [f'-"{text}"' for text in excluded]
    return " ".join(draw(st.permutations(parts))), groups, excluded


@given(st.lists(spaced, min_size=1, max_size=12), questions())
def test_groups_and_exclusions_find_what_reading_every_text_finds(
    titles: list[str], question: tuple[str, list[list[str]], list[str]]
) -> None:
    query, groups, excluded = question

    def has(title: str, text: str) -> bool:
        return f" {text} " in f" {title} "

    expected = {
        n
        for n, title in enumerate(titles)
        if all(any(has(title, text) for text in group) for group in groups)
        and not any(has(title, text) for text in excluded)
    }
    assert set(scores_of(index_of(*titles), query)) == expected


@pytest.mark.parametrize("query", ["red", "red|blue", "red blue", "red -blue", '"red fish"|blue', "none"])
def test_a_part_of_the_videos_is_matched_as_the_whole_is(query: str):
    words = ["red fish", "blue fish", "red blue", "green", "blue", "fish red", "red", "old red fish"]
    index = index_of(*(words[n * 5 % 8] for n in range(40)))
    whole = index.match(query)
    for low, high in ((0, 40), (3, 9), (17, 18), (36, 40), (5, 5)):
        part, expected = index.match(query, low, high), whole.within(low, high)
        assert part.numbers.tolist() == expected.numbers.tolist()
        assert part.scores.tolist() == pytest.approx(expected.scores.tolist())
