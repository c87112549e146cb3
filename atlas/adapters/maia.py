"""`MaiaDAO`: a façade over the search queue, the videos and the tracker's clock.

It has one DAO for each: `queue`, `videos` and `tracking`. Their public methods can also be called on the
façade, with the same signatures. Use the façade when one transaction involves several of them.

To avoid deadlocks, transactions lock in one order: channels, videos, their clocks, the sources that met
them, norms, cohorts, then what was asked (looks at channels' uploads, counts in feeds, questions), then the
snowball lock, then rows of the queue, then the day's yields. Several rows of a table are locked in the order
of their keys, or with SKIP LOCKED. Who holds the snowball lock waits for no row that comes before it. So
store a page of results with `ingest_video_metadata`, then `meet_videos`, then what was asked, then
`add_to_search_queue`, then `update_search_state`, and only one page per transaction.

Deleting or clearing videos, or deleting channels, takes the graph's lock last. Whoever holds that waits for
none of these rows, but for those of the queue: so a hunter that deletes topics only tries to get it.

Where this can't be kept (a tracker locks videos that are gone after those whose metadata it stores; a video
that is deleted takes rows of other tables along), PostgreSQL ends one of the two: so whoever has a
transaction of several statements repeats it with `atlas.conflicts`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from atlas.adapters.queue import QueueDAO
from atlas.adapters.tracking import TrackingDAO
from atlas.adapters.videos import VideosDAO
from atlas.clock import Clock
from atlas.config import Settings
from atlas.db import Executor

__all__ = ["MaiaDAO"]


class MaiaDAO:
    """Executor, clock and settings default to those of the current Atlas."""

    def __init__(
        self,
        executor: Executor | None = None,
        *,
        clock: Clock | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._bind(
            QueueDAO(executor, clock=clock, settings=settings),
            VideosDAO(executor, clock=clock, settings=settings),
            TrackingDAO(executor, clock=clock, settings=settings),
        )

    def _bind(self, queue: QueueDAO, videos: VideosDAO, tracking: TrackingDAO) -> None:
        self.queue, self.videos, self.tracking = queue, videos, tracking

        self.fetch_hunter_batch = queue.fetch_hunter_batch
        self.claim_topics = queue.claim_topics
        self.claim_chosen_topics = queue.claim_chosen_topics
        self.candidates = queue.candidates
        self.wake_topics = queue.wake_topics
        self.update_search_state = queue.update_search_state
        self.update_search_states = queue.update_search_states
        self.count_asks = queue.count_asks
        self.release_topics = queue.release_topics
        self.add_to_search_queue = queue.add_to_search_queue
        self.seed = queue.seed
        self.park_topics = queue.park_topics
        self.retry_topics = queue.retry_topics
        self.list_topics = queue.list_topics
        self.queue_counts = queue.queue_counts
        self.next_wake_at = queue.next_wake_at
        self.topic_queries = queue.topic_queries
        self.tag_mentions = queue.tag_mentions
        self.top_topics = queue.top_topics

        self.ingest_video_metadata = videos.ingest_video_metadata
        self.top_videos = videos.top_videos
        self.discoveries = videos.discoveries

        self.fetch_tracker_targets = tracking.fetch_tracker_targets
        self.claim_videos = tracking.claim_videos
        self.count_due = tracking.count_due
        self.next_due_at = tracking.next_due_at
        self.due_targets = tracking.due_targets
        self.release_videos = tracking.release_videos
        self.update_video_stats_batch = tracking.update_video_stats_batch
        self.ensure_partitions = tracking.ensure_partitions
        self.drop_samples_before = tracking.drop_samples_before
        self.claim_feed_counts = tracking.claim_feed_counts
        self.delete_feed_counts = tracking.delete_feed_counts
        self.forget_feed_counts = tracking.forget_feed_counts
        self.growing_views_per_hour = tracking.growing_views_per_hour
        self.clock_counts = tracking.clock_counts
        self.count_claimed = tracking.count_claimed
        self.video_titles = tracking.video_titles
        self.channel_norms = tracking.channel_norms
        self.cohorts = tracking.cohorts
        self.merge_cohorts = tracking.merge_cohorts
        self.fetch_channel_targets = tracking.fetch_channel_targets
        self.update_channel_stats_batch = tracking.update_channel_stats_batch
        self.release_channels = tracking.release_channels

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Self]:
        """Yield a façade whose statements run in one transaction; a nested one is a savepoint."""
        async with self.queue.transaction() as queue:
            bound = object.__new__(type(self))
            bound._bind(queue, self.videos.joining(queue), self.tracking.joining(queue))
            yield bound
