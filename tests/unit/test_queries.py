"""The words and parameters of topics: what is searched, and what makes two of them one."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atlas.errors import DataRefused
from atlas.queries import LONGEST_QUERY, SearchParameters, clean_text, query_of, shown_query, topic_key

Form = Literal["NFC", "NFD", "NFKC", "NFKD"]
FORMS: tuple[Form, ...] = ("NFC", "NFD", "NFKC", "NFKD")
ANY_TEXT = st.text(st.characters(exclude_categories=[]))


SEEDS = (
    "boating|sailing -fishing", '"farm equipment"', "Straße", "İSTANBUL gezi", "IŞIK oyunu", "Ελλάς σήμερα",
    "½ marathon", "東京 観光", "أخبار الرياضة", "เพลงไทย", "🔥🎮",
)  # fmt: skip


@given(ANY_TEXT)
def test_a_key_is_stable_and_storable(text: str) -> None:
    key = topic_key(text)
    assert topic_key(key) == key
    assert key == " ".join(key.split())
    assert "\0" not in key
    key.encode()


@given(ANY_TEXT)
def test_what_is_shown_is_storable_and_of_the_same_key(text: str) -> None:
    query = shown_query(text)
    assert shown_query(query) == query
    assert topic_key(query) == topic_key(text)
    query.encode()


@given(
    st.one_of(
        ANY_TEXT, st.text(st.sampled_from("iIİıſßΣςᾼǰΐﬀK\u0307\u0327\u0323\u0345\u0301\u0344"), max_size=8)
    )
)
@example("I\u0323\u0307")
@example("\u03b1\u0345\u0301")
def test_however_a_text_is_composed_it_has_one_key(text: str) -> None:
    key = topic_key(text)
    assert {topic_key(unicodedata.normalize(form, clean_text(text))) for form in FORMS} == {key}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Prefect  Tutorial\n", "prefect tutorial"),
        ("ＦＵＬＬ ｗｉｄｔｈ", "full width"),
        ("ŒUVRE ﬁn", "œuvre fin"),
        ("Straße", "strasse"),
        ("STRASSE", "strasse"),
        ("e\u0301tude", "étude"),
        ("ΌΔΟΣ", "όδοσ"),
        ("όδος", "όδοσ"),
        ("İSTANBUL", "istanbul"),
        ("I\u0307STANBUL", "istanbul"),
        ("istanbul", "istanbul"),
        ("I\u0323\u0307", "\u1ecb"),
        ("i\u0301\u0307", "\u00ed\u0307"),
        ("IŞIK", "işik"),
        ("ışık", "işik"),
        ("a\0b", "ab"),
    ],
)
def test_equal_words_have_one_key(text: str, key: str) -> None:
    assert topic_key(text) == key


@pytest.mark.parametrize("typed", SEEDS)
def test_a_query_is_searched_as_it_is_typed(typed: str) -> None:
    assert query_of(f"  {typed}\n") == typed


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


NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)


def test_parameters_are_checked_and_brought_into_the_forms_of_the_api() -> None:
    parameters = SearchParameters(
        published_after=NOON.astimezone(timezone(timedelta(hours=9))), region="jp", language="zh-hans",
        duration="long", category=10, event_type="completed",
    )  # fmt: skip
    stored = {
        "published_after": "2026-11-02T12:00:00Z", "region": "JP", "language": "zh-Hans", "duration": "long",
        "category": 10, "event_type": "completed",
    }  # fmt: skip
    assert parameters.as_json() == stored
    assert SearchParameters.of_json(stored) == parameters
    assert str(SearchParameters(region="JP", category=10)) == "region JP, category 10"
    assert (bool(parameters), bool(SearchParameters())) == (True, False)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"region": "UK"}, "GB"),
        ({"language": "jp"}, "ja"),
        ({"duration": "endless"}, "short, medium, long"),
        ({"event_type": "past"}, "completed, live, upcoming"),
        ({"category": 0}, "category 0"),
        ({"published_after": NOON.replace(tzinfo=None)}, "offset"),
        ({"published_after": NOON, "published_before": NOON}, "earlier"),
    ],
)
def test_what_the_api_would_refuse_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(DataRefused, match=told):
        SearchParameters(**wrong)


def second(number: int) -> datetime:
    return datetime.fromtimestamp(number, UTC)


@given(
    st.builds(
        SearchParameters,
        published_after=st.none() | st.integers(0, 10**9).map(second),
        published_before=st.none() | st.integers(10**9 + 1, 4 * 10**9).map(second),
        region=st.none() | st.sampled_from(["JP", "DE"]),
        duration=st.none() | st.sampled_from(["short", "medium", "long"]),
        category=st.none() | st.integers(1, 999),
    )
)
def test_parameters_survive_storage(parameters: SearchParameters) -> None:
    assert SearchParameters.of_json(parameters.as_json()) == parameters
