from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.topics import (
    TopicRecord,
    TopicSettings,
    choose,
    choose_groups,
    expect,
    freshness,
    overlap,
)


@st.composite
def queues(draw: st.DrawFn) -> list[TopicRecord]:
    ids = draw(st.lists(st.integers(1, 500), unique=True, max_size=40))
    topics = []
    for id_ in ids:
        tried = draw(st.booleans())
        topics.append(
            TopicRecord(
                id_,
                f"word{id_ % 17} word{id_}",
                asks=draw(st.integers(1, 20)) if tried else 0,
                early_growing=draw(st.integers(0, 200)) if tried else 0,
                mentions=draw(st.integers(0, 1000)),
                channels=draw(st.integers(0, 300)),
                category=draw(st.none() | st.integers(1, 30)),
                asked_h=draw(st.floats(0, 100)) if tried else None,
            )
        )
    return topics


@given(queues(), st.integers(0, 30), st.integers(), st.floats(0, 1))
def test_choices_are_distinct_and_untried_topics_get_their_part(
    topics: list[TopicRecord], n: int, seed: int, fresh_share: float
):
    chosen = choose(topics, n, seed=seed, fresh_share=fresh_share)
    assert len(chosen) == min(n, len(topics))
    assert len({topic.id for topic in chosen}) == len(chosen)
    untried = sum(topic.asks == 0 for topic in topics)
    assert sum(topic.asks == 0 for topic in chosen) >= min(untried, round(n * fresh_share))


@given(queues(), st.integers(), st.randoms())
def test_neither_the_order_of_the_queue_nor_anything_but_the_seed_matters(
    topics: list[TopicRecord], seed: int, order: random.Random
):
    shuffled = order.sample(topics, len(topics))
    assert choose(topics, 10, seed=seed) == choose(shuffled, 10, seed=seed)
    assert choose_groups(topics, 3, 4, seed=seed) == choose_groups(shuffled, 3, 4, seed=seed)


@given(queues(), st.integers(0, 5), st.integers(1, 8), st.integers(20, 80))
def test_groups_are_disjoint_and_keep_to_the_length(
    topics: list[TopicRecord], groups: int, size: int, longest: int
):
    chosen = choose_groups(topics, groups, size, seed=3, longest_query=longest)
    ids = [topic.id for group in chosen for topic in group]
    assert len(set(ids)) == len(ids)
    assert len(chosen) <= groups
    for group in chosen:
        assert 1 <= len(group) <= size
        assert len("|".join(topic.query for topic in group)) <= longest


def test_every_untried_topic_is_tried_in_time():
    """Even the least promising of many, while better ones keep coming."""
    poor = TopicRecord(1, "poor", channels=0)
    rich = [TopicRecord(k, f"rich {k}", channels=5000, videos=5000, mentions=5000) for k in range(2, 40)]
    chosen = sum(poor in choose([poor, *rich], 12, seed=seed) for seed in range(300))
    assert chosen > 10


def test_good_topics_are_asked_more_often_than_poor_ones():
    topics = [
        TopicRecord(k, str(k), asks=20, early_growing=20.0 * (k % 5), asked_h=100.0) for k in range(1, 51)
    ]
    chosen = [topic for seed in range(20) for topic in choose(topics, 10, seed=seed)]
    assert sum(topic.early_growing >= 60 for topic in chosen) > 0.95 * len(chosen)


def test_a_topic_asked_just_now_is_passed_over():
    topics = [TopicRecord(1, "now", asks=5, early_growing=50, asked_h=0.0)]
    topics += [TopicRecord(k, str(k), asks=5, early_growing=25, asked_h=48.0) for k in range(2, 12)]
    assert all(1 not in {t.id for t in choose(topics, 5, seed=seed)} for seed in range(20))
    assert freshness(topics)[0] == 0
    assert freshness(topics)[1] == pytest.approx(1, abs=0.02)


def test_the_context_of_tried_topics_tells_about_untried_ones():
    random = np.random.default_rng(4)
    channels = random.integers(1, 400, 300)
    tried = [
        TopicRecord(
            k, str(k), asks=3, early_growing=float(random.poisson(3 * 0.05 * c)), channels=int(c), asked_h=9
        )
        for k, c in enumerate(channels)
    ]
    untried = [TopicRecord(1000, "broad", channels=300), TopicRecord(1001, "narrow", channels=5)]
    broad, narrow = expect([*tried, *untried]).mean[-2:]
    assert broad == pytest.approx(15, rel=0.5)
    assert narrow < 4


def attended(random: np.random.Generator, power: float) -> list[TopicRecord]:
    """Tried topics that bring so much as attention to that power says, and one with and one without it."""
    sti = random.exponential(20, 300)
    tried = [
        TopicRecord(
            k, str(k), asks=3, early_growing=float(random.poisson(6 * (1 + each) ** power)), attention=each
        )
        for k, each in enumerate(sti.tolist())
    ]
    return [*tried, TopicRecord(1000, "hot", attention=50.0), TopicRecord(1001, "cold")]


def test_attention_counts_as_far_as_topics_have_shown_that_it_brings_anything():
    random = np.random.default_rng(11)
    hot, cold = expect(attended(random, 0.4)).mean[-2:]
    assert hot == pytest.approx(2 * 51**0.4, rel=0.25)
    assert hot > 2.5 * cold
    hot, cold = expect(attended(random, 0.0)).mean[-2:]
    assert hot == pytest.approx(cold, rel=0.25)
    unasked = [TopicRecord(1, "hot", attention=50.0), TopicRecord(2, "cold")]
    hot, cold = expect(unasked).mean
    assert hot == cold, "nothing is known yet"
    hot, cold = expect(unasked, TopicSettings(attention_slope=0.5)).mean
    assert hot > cold


def test_a_category_that_does_better_lifts_its_untried_topics():
    tried = [
        TopicRecord(k, str(k), asks=10, early_growing=100.0 if k % 2 else 5.0, category=k % 2)
        for k in range(40)
    ]
    good, bad = expect([*tried, TopicRecord(90, "x", category=1), TopicRecord(91, "y", category=0)]).mean[-2:]
    assert good > 3 * bad


def test_overlap_is_by_members_or_else_by_words():
    one = TopicRecord(1, "cat video", members=frozenset({1, 2, 3}))
    assert overlap(one, TopicRecord(2, "dog", members=frozenset({2, 3, 4, 5}))) == pytest.approx(2 / 3)
    assert overlap(one, TopicRecord(3, "Cat food")) == pytest.approx(0.5)
    assert overlap(one, TopicRecord(4, "")) == 0


def test_a_group_avoids_topics_with_the_same_videos():
    same = [TopicRecord(k, f"a{k}", members=frozenset({1, 2, 3})) for k in range(1, 4)]
    other = [TopicRecord(k, f"b{k}", members=frozenset({k * 10})) for k in range(4, 7)]
    for seed in range(10):
        for group in choose_groups([*same, *other], 1, 4, seed=seed):
            assert sum(topic in same for topic in group) == 1


def test_a_long_queue_fills_its_groups():
    topics = [
        TopicRecord(k, f"topic {k}", asks=k % 3, early_growing=k % 7, channels=k % 50) for k in range(50_000)
    ]
    assert len(choose_groups(topics, 20, 10, seed=1)) == 20


def test_no_topic_and_impossible_settings():
    assert choose([], 5, seed=1) == ()
    assert choose_groups([], 5, 2, seed=1) == ()
    with pytest.raises(ValueError, match="fresh_share"):
        choose([], 1, seed=1, fresh_share=1.5)
    with pytest.raises(ValueError, match="positive"):
        TopicSettings(shape=0)
