"""Which tags occur together: groups of tags that mostly the same videos carry.

Two tags are as similar as carrying one correlates with carrying the other, over the videos (the phi
coefficient): by chance alone they are not similar at all, however common they are. The most similar groups
are joined first, as long as their tags are similar enough on average (average linkage). Tags that few or
most of the videos carry are left out, and only the commonest of the others are compared, so that the cost
is bounded however many videos there are. The result depends on nothing but the videos' tags.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

import numpy as np

from maia.learning.velocity import Floats

MOST_TAGS: Final = 300
"""How many tags are compared."""

_LEAST_SIMILARITY: Final = 0.3
_LARGEST: Final = 10
"""Tags of a cluster: with more it says less, and people must read them."""
_LEAST_VIDEOS: Final = 3
_LEAST_SHARE: Final = 0.002
_COMMON_SHARE: Final = 0.6
"""A tag that more of the videos carry tells nothing of what they are about."""
_SHARED: Final = 2
"""A video belongs to a cluster if it carries so many of its tags."""


@dataclass(frozen=True, slots=True)
class TagCluster:
    """Tags that occur together, the commonest first, and the videos that carry some, by their place.

    `similarity` is the mean over all pairs of its tags, from 0 to 1.
    """

    tags: tuple[str, ...]
    videos: tuple[int, ...]
    similarity: float


def tag_clusters(tags_of_videos: Sequence[Collection[str]], most: int = 20) -> list[TagCluster]:
    """The clusters that most videos belong to; tags are compared as they are given."""
    tags = _telling_tags(tags_of_videos)
    if len(tags) < _SHARED:
        return []
    carried = _carried(tags_of_videos, tags)
    similarity = _correlation(carried)
    clusters = [
        TagCluster(
            tags=tuple(tags[n] for n in group),
            videos=tuple(map(int, np.flatnonzero(carried[:, group].sum(axis=1) >= _SHARED))),
            similarity=_mean_similarity(similarity, group),
        )
        for group in _joined(similarity)
    ]
    return sorted(clusters, key=lambda each: (-len(each.videos), each.tags))[:most]


def _telling_tags(tags_of_videos: Sequence[Collection[str]]) -> list[str]:
    """The tags to compare, the commonest first."""
    counts = Counter(tag for tags in tags_of_videos for tag in frozenset(tags))
    videos = len(tags_of_videos)
    least = max(_LEAST_VIDEOS, ceil(_LEAST_SHARE * videos))
    telling = [(-count, tag) for tag, count in counts.items() if least <= count <= _COMMON_SHARE * videos]
    return [tag for _, tag in sorted(telling)[:MOST_TAGS]]


def _carried(tags_of_videos: Sequence[Collection[str]], tags: Sequence[str]) -> Floats:
    """1 where a video (row) carries a tag (column)."""
    column = {tag: n for n, tag in enumerate(tags)}
    carried = np.zeros((len(tags_of_videos), len(tags)), dtype=np.float64)
    for row, of_video in enumerate(tags_of_videos):
        carried[row, [column[tag] for tag in of_video if tag in column]] = 1.0
    return carried


def _correlation(carried: Floats) -> Floats:
    """The phi coefficient of each pair of columns, none of which is the same in all rows."""
    shares = carried.mean(axis=0)
    spread = np.sqrt(shares * (1 - shares))
    correlation: Floats = (carried.T @ carried / len(carried) - np.outer(shares, shares)) / np.outer(
        spread, spread
    )
    return correlation


def _joined(similarity: Floats) -> list[list[int]]:
    """Groups of two tags or more, each in ascending order, by average linkage."""
    groups = [[n] for n in range(len(similarity))]
    sums = similarity.copy()
    sizes = np.ones(len(groups))
    # Only what lies above the diagonal is looked at, so that each pair is met once.
    pairs = np.triu(np.ones_like(sums, dtype=bool), k=1)
    while True:
        means = np.where(
            pairs & (np.add.outer(sizes, sizes) <= _LARGEST), sums / np.outer(sizes, sizes), -1.0
        )
        one, other = map(int, np.unravel_index(int(means.argmax()), means.shape))
        if means[one, other] < _LEAST_SIMILARITY:
            return [sorted(group) for group in groups if len(group) > 1]
        groups[one] += groups[other]
        groups[other] = []
        sums[one] += sums[other]
        sums[:, one] += sums[:, other]
        sizes[one] += sizes[other]
        pairs[other] = pairs[:, other] = False


def _mean_similarity(similarity: Floats, group: Sequence[int]) -> float:
    of_group = similarity[np.ix_(group, group)]
    pairs = len(group) * (len(group) - 1)
    return float((of_group.sum() - np.trace(of_group)) / pairs)
