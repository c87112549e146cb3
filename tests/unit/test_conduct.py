from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.conduct import AskedPage, ConductSettings, LastAnswers, Oddity, agreement, judge, standing

DAY = 86_400.0
NONE: frozenset[Oddity] = frozenset()


def page(
    random: np.random.Generator, *, sorted_by: str, order: str, n: int = 50, lag: float = 0.0
) -> AskedPage:
    published = random.uniform(0, DAY, n)
    shown = random.lognormal(6, 2, n)
    keys = {"date": published, "viewCount": shown, "nothing": random.random(n)}
    at = np.argsort(-keys[sorted_by])
    counts = (shown * np.exp(np.abs(random.normal(0, lag, n))) if lag else shown)[at]
    return AskedPage(published[at].tolist(), [int(c) for c in counts], order, 0.0, DAY)  # type: ignore[arg-type]


@given(st.integers(0, 10_000), st.sampled_from(["date", "viewCount"]), st.integers(10, 50))
def test_an_order_that_is_kept_is_not_odd(seed: int, order: str, n: int):
    assert judge(page(np.random.default_rng(seed), sorted_by=order, order=order, n=n)) == NONE


@pytest.mark.parametrize("order", ["date", "viewCount"])
def test_an_order_that_is_ignored_is_noticed(order: str):
    pages = [judge(page(np.random.default_rng(s), sorted_by="nothing", order=order)) for s in range(200)]
    assert sum(found == {Oddity.ORDER_IGNORED} for found in pages) > 190


def test_counts_that_lag_are_tolerated():
    pages = [
        judge(page(np.random.default_rng(s), sorted_by="viewCount", order="viewCount", lag=1.2))
        for s in range(200)
    ]
    assert sum(found == NONE for found in pages) > 195


def test_hidden_counts_and_relevance_tell_nothing():
    old = list(range(20))
    assert judge(AskedPage(old, [None] * 20, "viewCount")) == NONE
    assert judge(AskedPage(old, order=None)) == NONE
    assert judge(AskedPage(old, [7] * 20, "viewCount")) == NONE


def test_a_window_that_is_ignored_is_noticed():
    random = np.random.default_rng(1)
    ever = sorted(random.uniform(-300 * DAY, DAY, 30).tolist(), reverse=True)
    assert judge(AskedPage(ever, order="date", after_s=0.0)) == {Oddity.WINDOW_IGNORED}
    assert judge(AskedPage(ever, order="date")) == NONE
    late = sorted(random.uniform(0, 9 * DAY, 30).tolist(), reverse=True)
    assert judge(AskedPage(late, order="date", before_s=DAY)) == {Oddity.WINDOW_IGNORED}


def test_a_few_premieres_outside_the_window_are_not_odd():
    published = [DAY - 100.0 * k for k in range(20)]
    published[3] = published[9] = -3 * DAY
    assert Oddity.WINDOW_IGNORED not in judge(AskedPage(published, after_s=0.0, before_s=DAY))


def test_only_an_empty_first_page_is_odd_and_short_pages_tell_nothing():
    assert judge(AskedPage([])) == {Oddity.EMPTY}
    assert judge(AskedPage([], must_find=False)) == NONE
    assert judge(AskedPage([1.0, 2.0, 3.0], order="date", after_s=1e9)) == NONE


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=30, unique=True))
def test_agreement_is_one_when_falling_and_minus_one_when_rising(values: list[float]):
    falling = np.array(sorted(values, reverse=True))
    assert agreement(falling) == 1
    assert agreement(falling[::-1]) == -1
    assert agreement(np.full(5, 3.0)) is None


def test_a_form_that_has_stopped_answering_loses_its_health():
    odd = frozenset({Oddity.ORDER_IGNORED})
    assert standing([odd] * 3).is_well
    stopped = standing([odd] * 12 + [NONE] * 2)
    assert not stopped.is_well
    assert stopped.health < 0.5
    assert stopped.reason == "order ignored on 12 of 14 pages"
    assert standing([NONE] * 20).health == 1
    now_and_then = standing([odd] * 3 + [NONE] * 17)
    assert now_and_then.is_well
    assert now_and_then.health >= 0.5


def answers(*empty: bool) -> LastAnswers:
    last = LastAnswers()
    for topic, is_empty in enumerate(empty):
        last.note(topic, is_empty=is_empty)
    return last


def test_topics_without_a_video_are_odd_only_if_nearly_all_have_none():
    assert not answers(*[True] * 4).are_nearly_all_empty, "too few to tell"
    assert answers(*[True] * 5).are_nearly_all_empty
    assert answers(*[False] * 2, *[True] * 18).are_nearly_all_empty
    assert not answers(*[False] * 3, *[True] * 17).are_nearly_all_empty
    assert answers(*[False] * 30, *[True] * 20).are_nearly_all_empty, "only the last ones count"
    assert not answers(*[True] * 30, *[False] * 3).are_nearly_all_empty


def test_a_topic_that_is_asked_about_again_and_again_counts_once():
    last = answers(True, True, True, True)
    for _ in range(30):
        last.note(3, is_empty=True)
    assert not last.are_nearly_all_empty


@given(st.integers(0, 10_000), st.floats(0, 0.75))
def test_a_form_of_narrow_topics_stays_well(seed: int, empty_share: float):
    random, last = np.random.default_rng(seed), LastAnswers()
    pages = []
    for topic in range(100):
        last.note(topic, is_empty=bool(is_empty := random.random() < empty_share))
        pages.append(judge(AskedPage([], must_find=last.are_nearly_all_empty)) if is_empty else NONE)
    assert standing(pages).is_well


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="least_videos"):
        ConductSettings(least_videos=1)
    with pytest.raises(ValueError, match="shares"):
        ConductSettings(outside=0)
    with pytest.raises(ValueError, match="least_topics"):
        ConductSettings(least_topics=0)
