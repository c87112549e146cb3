"""What MaiaDAO computes without a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.adapters.maia import LONGEST_QUERY, clean_text, normalised_query, query_of
from atlas.errors import DataRefused

ANY_TEXT = st.text(st.characters(exclude_categories=[]))


@given(ANY_TEXT)
def test_a_normalised_query_is_stable_and_storable(text: str) -> None:
    query = normalised_query(text)
    assert normalised_query(query) == query
    assert query == " ".join(query.split())
    assert "\0" not in query
    query.encode()


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("Prefect  Tutorial\n", "prefect tutorial"),
        ("ＦＵＬＬ ｗｉｄｔｈ", "full width"),
        ("ŒUVRE ﬁn", "œuvre fin"),
        ("Straße", "strasse"),
        ("e\u0301tude", "étude"),
        ("ΌΔΟΣ", "όδοσ"),
        ("a\0b", "ab"),
    ],
)
def test_equal_queries_have_one_form(text: str, query: str) -> None:
    assert normalised_query(text) == query
    assert query_of(text) == query


@given(ANY_TEXT)
def test_cleaned_text_is_clean_and_sound_text_stays(text: str) -> None:
    cleaned = clean_text(text)
    assert "\0" not in cleaned
    assert clean_text(cleaned) == cleaned
    cleaned.encode()
    if "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text):
        assert cleaned == text


def test_the_longest_query_fits() -> None:
    assert query_of("x" * LONGEST_QUERY) == "x" * LONGEST_QUERY
    with pytest.raises(DataRefused, match=f"at most {LONGEST_QUERY}"):
        query_of("x" * (LONGEST_QUERY + 1))


def test_a_letter_that_grows_under_normalisation_counts_as_it_is_stored() -> None:
    with pytest.raises(DataRefused):
        query_of("ﷺ" * 20)
