"""The search queue view: how many topics wait, and which come next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from atlas.adapters.queue import QueueCounts, TopicSummary
    from atlas.composition import Atlas


@dataclass(frozen=True, slots=True)
class Queue:
    """The queue's counts and some of its topics, in the order in which they will be searched."""

    now: datetime
    counts: QueueCounts
    topics: tuple[TopicSummary, ...]


async def queue(atlas: Atlas, status: str | None = None, limit: int = 50) -> Queue:
    """The queue with up to `limit` topics, all of `status` if given."""
    from atlas.adapters.queue import QueueDAO

    dao = QueueDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    topics = await dao.list_topics(status, limit)
    return Queue(atlas.clock.now(), await dao.queue_counts(), tuple(topics))
