"""The search queue view: how many topics wait, and which come next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from atlas.adapters.queue import QueueCounts, TopicSummary

if TYPE_CHECKING:
    from atlas.composition import Atlas


@dataclass(frozen=True, slots=True)
class Queue:
    """The queue's counts and some of its topics, in the order in which they will be searched."""

    now: datetime
    counts: QueueCounts
    topics: tuple[TopicSummary, ...]


async def queue(
    atlas: Atlas, status: str | None = None, limit: int = 50, counts: QueueCounts | None = None
) -> Queue:
    """The queue with up to `limit` topics, all of `status` if given; `counts` if they are known already."""
    from atlas.adapters.queue import QueueDAO

    dao = QueueDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    topics = await dao.list_topics(status, limit)
    return Queue(atlas.clock.now(), counts or await dao.queue_counts(), tuple(topics))


@dataclass(frozen=True, slots=True)
class TopicRow:
    """A topic with its yield.

    A question that joins n topics counts as 1/n for each. `new_per_ask` is how many videos it brought that
    were unknown, `growing_per_ask` how many of those it found early have grown; None before it was asked.
    """

    id: int
    query: str
    only: str | None
    """The options that narrow its search, such as region DE."""
    origin: str
    status: str
    mention_count: int
    created_at: datetime
    searched_at: datetime | None
    cool_until: datetime | None
    held_until: datetime | None
    attempts: int
    last_error: str | None
    asks: float
    pages: int
    results: int
    new_videos: int
    growing_videos: int
    new_per_ask: float | None
    growing_per_ask: float | None


@dataclass(frozen=True, slots=True)
class TopicPlace:
    """A place in the queue: after the topic with this priority and id."""

    priority: float
    id: int


@dataclass(frozen=True, slots=True)
class TopicPage:
    """Topics in the order of their priority; `last` is None if none follows."""

    now: datetime
    topics: tuple[TopicRow, ...]
    last: TopicPlace | None


async def page(atlas: Atlas, status: str | None, limit: int, after: TopicPlace | None = None) -> TopicPage:
    """A page of the queue, of topics of `status` if given."""
    from atlas.adapters.queue import QueueDAO

    dao = QueueDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    place = None if after is None else (after.priority, after.id)
    found = await dao.page_of_topics(status, limit + 1, place)
    last = TopicPlace(found[limit - 1][0], found[limit - 1][1].id) if len(found) > limit else None
    rows = tuple(_row(topic) for _, topic in found[:limit])
    return TopicPage(atlas.clock.now(), rows, last)


async def best_topics(atlas: Atlas, fewest_asks: float = 1.0, limit: int = 50) -> TopicPage:
    """The topics that brought the most growing videos a question, of those that were asked so often."""
    from atlas.adapters.queue import QueueDAO

    dao = QueueDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    rows = tuple(map(_row, await dao.topics_by_yield(limit, fewest_asks)))
    return TopicPage(atlas.clock.now(), rows, None)


async def counts(atlas: Atlas) -> QueueCounts:
    """How many topics wait, by their status; this reads the whole queue."""
    from atlas.adapters.queue import QueueDAO

    return await QueueDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).queue_counts()


def _row(topic: TopicSummary) -> TopicRow:
    return TopicRow(
        id=topic.id,
        query=topic.query,
        only=str(topic.parameters) or None,
        origin=topic.origin,
        status=topic.status.value,
        mention_count=topic.mention_count,
        created_at=topic.created_at,
        searched_at=topic.searched_at,
        cool_until=topic.cool_until,
        held_until=topic.lease_until,
        attempts=topic.attempts,
        last_error=topic.last_error,
        asks=topic.asks_total,
        pages=topic.pages_total,
        results=topic.results_total,
        new_videos=topic.new_videos_total,
        growing_videos=topic.early_growing_total,
        new_per_ask=topic.new_videos_total / topic.asks_total if topic.asks_total else None,
        growing_per_ask=topic.early_growing_total / topic.asks_total if topic.asks_total else None,
    )
