from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atlas.config import HunterSettings
from atlas.errors import ConfigError
from atlas.queries import topic_key
from atlas.tags import MAX_LENGTH, STOP_LIST, cleaned
from maia.hunter.tags import MIN_LENGTH, TagRules

RULES = TagRules.of(HunterSettings())
TOPICS = st.lists(
    st.lists(st.sampled_from(["cats", "dogs", "lofi", "jazz", "piano"]), unique=True),
    max_size=6,
)


@pytest.mark.parametrize(
    ("raw", "topic"),
    [
        ("#cats #dogs", "cats dogs"),
        ("  Lo-Fi   Hip\tHop ", "Lo-Fi Hip Hop"),
        ("##Cooking", "Cooking"),
        ("＃Ｆｕｌｌｗｉｄｔｈ", "Ｆｕｌｌｗｉｄｔｈ"),
        ("Straße", "Straße"),
        ("İSTANBUL", "İSTANBUL"),
        ("ﬁnance", "ﬁnance"),
        ("cafe\u0301", "café"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("heart ❤\ufe0f song", "heart ❤ song"),
        ("nul\x00byte", "nulbyte"),
        ("lone \ud800surrogate", "lone surrogate"),
        ("-not this", "not this"),
        ("either|or", "either or"),
        ("－ｎｏｔ ｔｈｉｓ｜ｔｈａｔ", "ｎｏｔ ｔｈｉｓ ｔｈａｔ"),
        ('"exact phrase"', "exact phrase"),
        ("rock - live", "rock live"),
        ("c++ course", "c++ course"),
        ("세븐틴 무대", "세븐틴 무대"),
    ],
)
def test_a_tag_is_searched_as_it_is_spelled(raw: str, topic: str) -> None:
    assert RULES.topic(raw) == topic


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "#",
        "ab",
        "x" * (MAX_LENGTH + 1),
        "!!!",
        "❤❤❤",
        "Viral Videos",
        "#FYP",
        "a" * 1_000_000,
    ],
)
def test_noise_is_no_topic(raw: str) -> None:
    assert RULES.topic(raw) is None


@pytest.mark.parametrize("length", [MIN_LENGTH, MAX_LENGTH])
def test_the_shortest_and_the_longest_topic_count(length: int) -> None:
    assert RULES.topic("x" * length) == "x" * length


@given(st.text(max_size=80))
@example("ͅ\u0345ᾳ")
@example("# - # -x")
@example("\u1e9e|-#")
def test_cleaning_twice_changes_nothing(raw: str) -> None:
    tag = cleaned(raw)
    assert cleaned(tag) == tag


@given(st.text(max_size=80))
def test_a_topic_can_be_stored_and_searched(raw: str) -> None:
    topic = RULES.topic(raw)
    if topic is not None:
        assert MIN_LENGTH <= len(topic_key(topic)) <= MAX_LENGTH
        assert "\x00" not in topic
        assert topic == topic.strip()
        assert not any(word.startswith("-") for word in topic.split())
        topic.encode()


def test_stop_list_words_are_spelt_as_topics_are() -> None:
    assert {word for word in STOP_LIST if topic_key(cleaned(word)) != word} == set()


def test_the_operators_own_words_are_stopped_in_any_spelling() -> None:
    rules = TagRules.of(HunterSettings(tag_stop_list=("#My  Brand",)))
    assert rules.topic("MY BRAND") is None
    assert rules.topic("my brand two") == "my brand two"


def test_denied_patterns_match_anywhere_and_in_any_case() -> None:
    rules = TagRules.of(HunterSettings(tag_deny=("GIVEAWAY", r"^\d+$")))
    assert rules.topics(["big giveaway today", "2017", "2017 review", "cats"]) == (
        "2017 review",
        "cats",
    )


def test_a_catastrophic_pattern_ends_at_once() -> None:
    rules = TagRules.of(HunterSettings(tag_deny=("(a+)+$", "(a|aa)*b$", "(.*)*c")))
    assert rules.topic("a" * 59 + "!") == "a" * 59 + "!"


@pytest.mark.parametrize("pattern", ["(open", "(?=look)ahead", r"(a)\1", "(a{1000}){1000}"])
def test_an_unusable_pattern_is_named_at_the_start(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"hunter\.tag_deny\[1\]") as caught:
        TagRules.of(HunterSettings(tag_deny=("fine", pattern)))
    assert repr(pattern) in str(caught.value)


def test_a_video_names_a_topic_once() -> None:
    assert RULES.topics(["Cats", "#cats", "CATS ", "dogs"]) == ("Cats", "dogs")


def rules_of(per_video: int) -> TagRules:
    return TagRules.of(HunterSettings(tags_per_video=per_video))


def test_the_rarest_topics_of_queue_and_page_win() -> None:
    videos = [("music", "piano", "nocturne"), ("music", "jazz")]
    assert rules_of(1).rarest(videos, {"piano": 5, "jazz": 1}) == {
        "nocturne": 1,
        "music": 2,
    }
    assert rules_of(1).rarest(videos, {"music": 1, "piano": 5}) == {
        "nocturne": 1,
        "jazz": 1,
    }


def test_among_equally_rare_topics_the_uploaders_order_decides() -> None:
    assert rules_of(2).rarest([("cats", "dogs", "birds")], {}) == {"cats": 1, "dogs": 1}


def test_spellings_of_one_topic_are_counted_together_and_told_apart() -> None:
    videos = [("Lo-Fi", "jazz"), ("lo-fi",), ("LO-FI", "Piano")]
    assert rules_of(1).rarest(videos, {}) == {"jazz": 1, "lo-fi": 1, "Lo-Fi": 1, "LO-FI": 1, "Piano": 1}


def test_no_tags_a_video_adds_none() -> None:
    assert rules_of(0).rarest([("cats",)], {}) == {}


@given(
    videos=TOPICS,
    mentions=st.dictionaries(st.sampled_from(["cats", "dogs", "lofi"]), st.integers(0, 9)),
)
def test_each_video_is_represented_and_mentions_are_counted(
    videos: list[list[str]], mentions: dict[str, int]
) -> None:
    chosen = rules_of(2).rarest(videos, mentions)
    for topics in videos:
        assert len(set(topics) & chosen.keys()) >= min(2, len(topics))
    assert chosen == {topic: sum(topic in topics for topics in videos) for topic in chosen}
