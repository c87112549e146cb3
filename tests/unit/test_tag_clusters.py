"""Which tags occur together: planted groups are found, whatever the order, at a bounded cost."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.tag_clusters import tag_clusters

GROUPS = (("lofi", "study", "beats"), ("chess", "opening"), ("cat", "kitten", "pets", "funny cats"))


def videos(seed: int, each: int = 30) -> list[list[str]]:
    """Videos that carry most tags of a planted group, and some tags of their own."""
    drawn = random.Random(seed)
    made = [
        [tag for tag in group if drawn.random() < 0.9] + [f"own {drawn.randrange(10_000)}"]
        for group in GROUPS
        for _ in range(each)
    ]
    drawn.shuffle(made)
    return made


@given(st.integers(0, 1000))
def test_planted_groups_are_found_whatever_the_order(seed: int) -> None:
    made = videos(seed)
    found = tag_clusters(made)
    assert {frozenset(each.tags) for each in found} == {frozenset(group) for group in GROUPS}
    again = tag_clusters([list(reversed(tags)) for tags in reversed(made)])
    assert [(each.tags, len(each.videos)) for each in again] == [
        (each.tags, len(each.videos)) for each in found
    ]


def test_a_cluster_says_which_videos_belong_to_it_and_how_alike_its_tags_are() -> None:
    made = [["a", "b"], ["a", "b", "c"], ["a", "b"], ["c", "x"], ["c"], ["a"], []]
    [found] = tag_clusters(made)
    assert (found.tags, found.videos) == (("a", "b"), (0, 1, 2))
    assert found.similarity == pytest.approx((3 / 7 - 4 / 7 * 3 / 7) / (12**0.5 / 7 * 12**0.5 / 7))


def test_what_everybody_carries_and_what_hardly_anybody_does_is_left_out() -> None:
    made = (
        [["viral", "cat", "kitten"] for _ in range(10)]
        + [["viral", f"word {n}"] for n in range(60)]
        + [["plain"]] * 9
    )
    assert [each.tags for each in tag_clusters([*made, ["rare", "pair"], ["rare", "pair"]])] == [
        ("cat", "kitten")
    ]
    assert tag_clusters([]) == []
    assert tag_clusters([["viral"]] * 100) == []


def test_the_cost_is_bounded_and_so_is_a_cluster() -> None:
    drawn = random.Random(1)
    words = [f"tag {n}" for n in range(2_000)]
    made = [drawn.sample(words, 12) for _ in range(3_000)] + [words[:30]] * 200
    found = tag_clusters(made, most=5)
    assert 1 <= len(found) <= 5
    assert max(len(each.tags) for each in found) <= 10
