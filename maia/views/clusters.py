"""The clusters view: which tags of the youngest videos occur together, and what the queue makes of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

from atlas.queries import LONGEST_QUERY, shown_query, topic_key

if TYPE_CHECKING:
    from atlas.adapters.board import TaggedVideo
    from atlas.adapters.queue import TopicSummary
    from atlas.composition import Atlas

MOST_VIDEOS: Final = 2_000
"""So many of the youngest videos are looked at, however many there are."""

_TAGS_OF_A_VIDEO: Final = 30


@dataclass(frozen=True, slots=True)
class Together:
    """Tags that occur together, in their commonest spelling, with what is known of their videos.

    `velocity` is the median of the videos' views per hour, None if none is known.
    """

    tags: tuple[str, ...]
    videos: int
    velocity: float | None
    similarity: float


@dataclass(frozen=True, slots=True)
class ClusterTag:
    """A tag of a cluster, and the topic that searches for it, if the queue has one."""

    tag: str
    topic_id: int | None
    status: str | None
    asks: float
    new_videos: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """Tags that occur together; `waiting` and `parked` say how many of them the queue has in which state."""

    videos: int
    velocity: float | None
    similarity: float
    waiting: int
    parked: int
    tags: tuple[ClusterTag, ...]

    @property
    def to_seed(self) -> tuple[str, ...]:
        """The tags that nobody is going to search for."""
        return tuple(each.tag for each in self.tags if each.status in (None, "parked"))

    @property
    def to_park(self) -> tuple[str, ...]:
        """The tags that are searched for."""
        return tuple(each.tag for each in self.tags if each.status not in (None, "parked"))


async def together(atlas: Atlas) -> tuple[Together, ...]:
    """Which tags of the youngest videos occur together; costs a look at each of those videos."""
    from atlas.adapters.board import BoardDAO

    dao = BoardDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    videos = await dao.tags_of_youngest(MOST_VIDEOS)
    return await asyncio.to_thread(_together, videos)


async def clusters(atlas: Atlas, found: Sequence[Together]) -> tuple[Cluster, ...]:
    """What occurs together, with what the queue has of it now."""
    from atlas.adapters.queue import QueueDAO

    dao = QueueDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    topics = await dao.topics_of({topic_key(tag) for each in found for tag in each.tags})
    return tuple(_cluster(each, [(tag, topics.get(topic_key(tag))) for tag in each.tags]) for each in found)


def _together(videos: Sequence[TaggedVideo]) -> tuple[Together, ...]:
    from maia.learning.tag_clusters import tag_clusters

    spellings: Counter[str] = Counter()
    folded = []
    for video in videos:
        tags = [
            tag for tag in map(shown_query, video.tags[:_TAGS_OF_A_VIDEO]) if 0 < len(tag) <= LONGEST_QUERY
        ]
        spellings.update(tags)
        folded.append(frozenset(tag.casefold() for tag in tags))
    # The commonest spelling comes last, and so stays.
    shown = {tag.casefold(): tag for tag, _ in sorted(spellings.items(), key=lambda item: (item[1], item[0]))}
    return tuple(
        Together(
            tags=tuple(shown[tag] for tag in each.tags),
            videos=len(each.videos),
            velocity=_median([videos[n].velocity for n in each.videos]),
            similarity=each.similarity,
        )
        for each in tag_clusters(folded)
    )


def _median(velocities: Sequence[float | None]) -> float | None:
    known = [each for each in velocities if each is not None]
    return median(known) if known else None


def _cluster(found: Together, topics: Sequence[tuple[str, TopicSummary | None]]) -> Cluster:
    tags = tuple(
        ClusterTag(tag, None, None, 0.0, 0)
        if topic is None
        else ClusterTag(tag, topic.id, topic.status.value, topic.asks_total, topic.new_videos_total)
        for tag, topic in topics
    )
    return Cluster(
        videos=found.videos,
        velocity=found.velocity,
        similarity=found.similarity,
        waiting=sum(each.status in ("active", "cooling") for each in tags),
        parked=sum(each.status == "parked" for each in tags),
        tags=tags,
    )
