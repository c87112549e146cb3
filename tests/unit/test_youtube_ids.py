"""Only text of an id's alphabet and length becomes an id, and names find categories."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.youtube.categories import CATEGORIES, category_of
from maia.youtube.ids import channel_id, playlist_id, uploads_playlist, video_id

ALPHABET = st.sampled_from("abcxyzABCXYZ0189-_")


@given(st.text(ALPHABET, min_size=11, max_size=11))
def test_eleven_characters_are_a_videos_id(text: str) -> None:
    assert video_id(text) == text


@given(st.text(ALPHABET, min_size=22, max_size=22))
def test_a_channels_id_leads_to_its_uploads(text: str) -> None:
    channel = channel_id(f"UC{text}")
    assert channel is not None
    assert playlist_id(uploads_playlist(channel)) == f"UU{text}"


@given(st.text(max_size=30) | st.none() | st.integers() | st.lists(st.text(max_size=11)))
def test_nothing_else_is_an_id(value: object) -> None:
    text = value if isinstance(value, str) else ""
    assert (video_id(value) is None) != bool(re.fullmatch("[A-Za-z0-9_-]{11}", text))
    assert (channel_id(value) is None) != bool(re.fullmatch("UC[A-Za-z0-9_-]{22}", text))


@pytest.mark.parametrize("text", ["a" * 11 + "\n", "a" * 10 + "é", "a,b-1234567", "", "\u0661" * 11])
def test_what_looks_like_an_id_is_none(text: str) -> None:
    assert video_id(text) is channel_id(f"UC{text}{text}") is playlist_id(text and f"PL{text}\n") is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("music", 10),
        ("Music", 10),
        (" 10 ", 10),
        ("comedy", 23),
        ("news", 25),
        ("howto", 26),
        ("science", 28),
        ("Film & Animation", 1),
        ("sci-fi", 40),
        ("44", 44),
    ],
)
def test_a_category_is_found_by_what_people_call_it(text: str, number: int) -> None:
    assert category_of(text).id == number


def test_an_assignable_category_is_meant_before_one_of_the_same_name() -> None:
    assert [category.id for category in CATEGORIES.values() if category.title == "Comedy"] == [23, 34]
    assert category_of("Comedy").id == 23


@pytest.mark.parametrize("text", ["", "musik", "3", "999999999999", "\u0661", "&"])
def test_what_is_no_category_lists_those_there_are(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a category; there are .*Music \(10\)"):
        category_of(text)
