"""The tracker's aggregate: when videos and channels are due, what their samples said, and what is usual.

A row of the clock is claimed by lease: by the database's clock, while what is due is due by ours. Storing a
sample is fenced by the lease's token row by row. Transactions lock in one order, so that they never
deadlock: channels, videos, their clocks, norms, cohorts. So ingest before `update_video_stats_batch`, call
that once in a transaction, and merge cohorts in one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from operator import attrgetter
from typing import Literal, NamedTuple, TypeAlias
from uuid import UUID, uuid4

from atlas.adapters.dao import DAO, clean_text
from atlas.db import Row
from atlas.errors import DataRefused

Watched: TypeAlias = tuple[
    float | None,
    float | None,
    float | None,
    float | None,
    float | None,
    float | None,
    float | None,
    float | None,
]
"""What is kept of the test for breakouts: level, variance, seen_h, evidence_h, open_h, open_views, risen_h,
peak."""
Measure = Literal["velocity", "growth"]
NEVER_WATCHED: Watched = (None,) * 8


class Target(NamedTuple):
    """A claimed video and its clock, as the claim returns it."""

    id: str
    channel_id: str
    category_id: int | None
    zone: int
    pinned_zone: int | None
    born_at: datetime
    next_due_at: datetime
    interval_h: float
    lease_token: UUID
    attempts: int
    misses: int
    samples: int
    metadata_at: datetime
    last_at: datetime | None
    last_views: int | None
    velocity: float | None
    acceleration: float | None
    weight: float | None
    viral_score: float | None
    age_class: int | None
    watch: Watched


@dataclass(frozen=True, slots=True)
class DueVideo:
    """A video that is due, unclaimed: what there is to choose by."""

    id: str
    zone: int
    born_at: datetime
    next_due_at: datetime
    interval_h: float
    velocity: float | None
    acceleration: float | None


class VideoStats(NamedTuple):
    """What sampling brought of a claimed video, and its clock from then on.

    `sampled_at` None says that the answer left the video out: then only `misses`, `next_due_at` and `gone`
    are stored. `counted` is an age class and log velocity to add to the channel's norms. None among the
    counts is hidden.
    """

    id: str
    lease_token: UUID
    sampled_at: datetime | None
    next_due_at: datetime
    zone: int
    interval_h: float
    views: int | None = None
    likes: int | None = None
    comments: int | None = None
    velocity_of_step: float | None = None
    methodology: int = 2
    misses: int = 0
    gone: bool = False
    last_at: datetime | None = None
    last_views: int | None = None
    velocity: float | None = None
    acceleration: float | None = None
    weight: float | None = None
    relative_velocity: float | None = None
    viral_score: float | None = None
    age_class: int | None = None
    metadata_at: datetime | None = None
    watch: Watched = NEVER_WATCHED
    counted: tuple[int, float] | None = None


@dataclass(frozen=True, slots=True)
class BatchStored:
    """How many samples were stored, and whose lease was lost: nothing of those is stored."""

    samples: int
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ZoneCounts:
    """A zone of the clock; `starving` have waited longer than the settings' patience allows."""

    zone: int
    live: int
    due: int
    leased: int
    starving: int
    oldest_due_at: datetime | None
    demand_per_h: float


@dataclass(frozen=True, slots=True)
class Cohort:
    """The digest of a UTC day's velocities, or growth rates, of an age class and category (0: unknown)."""

    day: date
    age_class: int
    category_id: int
    measure: Measure
    digest: bytes


class ChannelNorm(NamedTuple):
    """Count, mean and squared deviations of log(1 + views/h) over a channel's videos of one age class."""

    videos: int
    mean: float
    squares: float


@dataclass(frozen=True, slots=True)
class ChannelTarget:
    """A claimed channel, as the claim returns it."""

    id: str
    next_due_at: datetime
    lease_token: UUID
    attempts: int
    misses: int
    last_at: datetime | None
    subscribers: int | None
    videos: int | None
    views: int | None


@dataclass(frozen=True, slots=True)
class ChannelStats:
    """What sampling brought of a claimed channel; `sampled_at` None says that the answer left it out."""

    id: str
    lease_token: UUID
    sampled_at: datetime | None
    next_due_at: datetime
    subscribers: int | None = None
    videos: int | None = None
    views: int | None = None
    title: str | None = None
    misses: int = 0
    gone: bool = False


_channel_columns = attrgetter(
    "id", "lease_token", "sampled_at", "subscribers", "videos", "views", "title", "next_due_at", "misses",
    "gone",
)  # fmt: skip


class TrackingDAO(DAO):
    """The clock, the log of samples, norms and cohorts."""

    _ensured: frozenset[date] = frozenset()

    # Claims

    async def fetch_tracker_targets(self, batch_size: int) -> list[Target]:
        """Lease up to `batch_size` due videos: hot, then warm, then cold, in each the longest due first."""
        if batch_size < 1:
            raise DataRefused(f"batch_size is {batch_size}: claim at least 1 video")
        return await self._claim_videos("tracking.claim_due_videos", batch_size)

    async def claim_videos(self, ids: Sequence[str]) -> list[Target]:
        """Lease those of the videos that are still due and that nobody holds."""
        return await self._claim_videos("tracking.claim_videos", ids)

    async def _claim_videos(self, statement: str, what: int | Sequence[str]) -> list[Target]:
        lease_s, now, token = self._settings.tracker.lease_s, self._clock.now(), uuid4()
        rows = await self._executor.fetch(statement, what, self._owner, token, lease_s, now, self._alone)
        targets = [_target(row, token) for row in rows]
        targets.sort(key=lambda target: (target.zone, target.next_due_at))
        # The count that ingestion told will be stored with the first sample.
        untold = {target.last_at for target in targets if target.samples == 0}
        await self._ensure_days_of(at for at in untold if at and at >= self._oldest())
        return targets

    def _oldest(self) -> datetime:
        """Of when the oldest sample is that retention keeps."""
        return self._clock.now() - timedelta(days=self._settings.tracker.retention_days)

    async def count_due(self, most_per_zone: int) -> dict[int, int]:
        """How many videos of each zone are due and held by nobody, counted no further than that."""
        rows = await self._executor.fetch("tracking.count_due", most_per_zone, self._clock.now())
        return {row["zone"]: row["due"] for row in rows}

    async def due_targets(self, most_per_zone: int) -> list[DueVideo]:
        """The longest due videos of each zone that nobody holds, to choose among and then to claim."""
        rows = await self._executor.fetch("tracking.due_targets", most_per_zone, self._clock.now())
        return [DueVideo(*row) for row in rows]

    async def release_videos(
        self,
        targets: Iterable[Target],
        *,
        error: str | None = None,
        retry_after_s: float = 0,
        count_attempt: bool = True,
    ) -> int:
        """Give claims back unsampled, their clock unmoved; how many were still held.

        They may be claimed again after `retry_after_s`, doubled for each attempt before this one, up to a
        day.
        """
        return await self._release("tracking.release_videos", targets, error, retry_after_s, count_attempt)

    async def _release(
        self,
        statement: str,
        targets: Iterable[Target] | Iterable[ChannelTarget],
        error: str | None,
        retry_after_s: float,
        count_attempt: bool,
    ) -> int:
        held = [(target.id, target.lease_token) for target in targets]
        return await self._executor.execute(
            statement,
            [claimed for claimed, _ in held],
            [token for _, token in held],
            None if error is None else clean_text(error),
            float(retry_after_s),
            count_attempt,
        )

    # Samples

    async def update_video_stats_batch(self, updates: Sequence[VideoStats]) -> BatchStored:
        """Store samples, clocks and norms in one statement.

        A row whose lease was lost is left out of all of it and named in the answer; the others are stored, as
        each was paid for and says nothing about the lost one.
        """
        if not updates:
            return BatchStored(0, ())
        epoch = self._settings.tracker.methodology_epoch
        columns = _video_columns(updates)
        if len(set(columns[0])) < len(updates):
            raise DataRefused("a batch has two updates of one video: store them one after the other")
        await self._ensure_days_of(update.sampled_at for update in updates if update.sampled_at)
        row = await self._executor.fetchrow(
            "tracking.update_video_stats", self._oldest(), epoch, self._clock.now(), *columns
        )
        assert row is not None
        return BatchStored(row["samples"], tuple(row["lost"]))

    async def _ensure_days_of(self, instants: Iterable[datetime]) -> None:
        """Make their partitions, each once; again in every transaction, as that may be rolled back."""
        if days := {instant.astimezone(UTC).date() for instant in set(instants)} - self._ensured:
            await self.ensure_partitions(sorted(days))
            if self._alone:
                self._ensured |= days

    async def ensure_partitions(self, days: Sequence[date]) -> list[str]:
        """Make the log's partitions of these UTC days; the names of those that were missing."""
        return list(await self._executor.fetchval("tracking.ensure_sample_days", days))

    async def drop_samples_before(self, day: date) -> list[str]:
        """Forget the samples from before this UTC day, and cohorts that the settings no longer compare with;
        the names of the partitions dropped.

        Dropping one waits until nobody reads the log: StatementTimeout, and nothing dropped, if that takes
        too long.
        """
        cohorts_from = self._clock.now().date() - timedelta(days=self._settings.tracker.cohort_days)
        async with self._atomic() as executor:
            await executor.execute("tracking.forget_before", day, cohorts_from)
            return list(await executor.fetchval("tracking.drop_sample_days", day))

    # What the clock and the log say

    async def clock_counts(self) -> list[ZoneCounts]:
        """How each zone that has live videos stands."""
        now, patience = self._clock.now(), self._settings.tracker.patience
        return [
            ZoneCounts(**row) for row in await self._executor.fetch("tracking.clock_counts", now, patience)
        ]

    async def video_titles(self, ids: Sequence[str]) -> dict[str, str | None]:
        """The titles of the videos that are known."""
        rows = await self._executor.fetch("tracking.video_titles", ids)
        return {row["id"]: row["title"] for row in rows}

    async def channel_norms(self, keys: Iterable[tuple[str, int]]) -> dict[tuple[str, int], ChannelNorm]:
        """The norms there are of channels' age classes."""
        wanted = list(keys)
        channels, classes = [channel for channel, _ in wanted], [age_class for _, age_class in wanted]
        rows = await self._executor.fetch("tracking.channel_norms", channels, classes)
        return {
            (row["channel_id"], row["age_class"]): ChannelNorm(row["videos"], row["mean"], row["squares"])
            for row in rows
        }

    async def cohorts(self, days: Sequence[date]) -> list[Cohort]:
        """Every cohort of the days."""
        return [Cohort(*row) for row in await self._executor.fetch("tracking.cohorts", days)]

    async def merge_cohorts(self, deltas: Iterable[Cohort], merge: Callable[[bytes, bytes], bytes]) -> None:
        """Take deltas into the stored cohorts: `merge` makes of a stored digest and a new one theirs both.

        The rows stay locked while it works, so hand over a cycle's deltas at once, not a batch's.
        """
        digests: dict[tuple[date, int, int, str], bytes] = {}
        for delta in deltas:
            key = (delta.day, delta.age_class, delta.category_id, delta.measure)
            digests[key] = merge(digests[key], delta.digest) if key in digests else delta.digest
        if not digests:
            return
        columns = [*zip(*digests, strict=True)]
        async with self._atomic() as executor:
            await executor.execute("tracking.prepare_cohorts", *columns)
            for day, age_class, category_id, measure, stored in await executor.fetch(
                "tracking.lock_cohorts", *columns
            ):
                if stored:
                    key = (day, age_class, category_id, measure)
                    digests[key] = merge(stored, digests[key])
            await executor.execute("tracking.store_cohorts", *columns, list(digests.values()))

    # Channels

    async def fetch_channel_targets(self, batch_size: int) -> list[ChannelTarget]:
        """Lease up to `batch_size` due channels, the longest due first."""
        if batch_size < 1:
            raise DataRefused(f"batch_size is {batch_size}: claim at least 1 channel")
        lease_s, now = self._settings.tracker.lease_s, self._clock.now()
        rows = await self._executor.fetch(
            "tracking.claim_due_channels", batch_size, self._owner, uuid4(), lease_s, now, self._alone
        )
        return sorted((ChannelTarget(*row) for row in rows), key=lambda target: target.next_due_at)

    async def update_channel_stats_batch(self, updates: Sequence[ChannelStats]) -> BatchStored:
        """Store samples and clocks of channels in one statement; those whose lease was lost are left out."""
        if not updates:
            return BatchStored(0, ())
        # In the order in which pages that are ingested lock channels.
        ordered = sorted(updates, key=attrgetter("id"))
        columns = zip(*map(_channel_row, ordered), strict=True)
        row = await self._executor.fetchrow("tracking.update_channel_stats", *columns)
        assert row is not None
        return BatchStored(row["samples"], tuple(row["lost"]))

    async def release_channels(
        self,
        targets: Iterable[ChannelTarget],
        *,
        error: str | None = None,
        retry_after_s: float = 0,
        count_attempt: bool = True,
    ) -> int:
        """Give claims of channels back, as `release_videos` does."""
        return await self._release("tracking.release_channels", targets, error, retry_after_s, count_attempt)


def _target(row: Row, token: UUID) -> Target:
    """Without the token, which is the same in every row, and decoding it costs as much as five numbers."""
    return Target._make((*row[:8], token, *row[8:19], row[19:]))


def _video_columns(updates: Sequence[VideoStats]) -> list[tuple[object, ...]]:
    """The updates as the statement takes them, in the order of its parameters."""
    *columns, watched, counted = zip(*updates, strict=True)
    columns += zip(*watched, strict=True)
    columns += zip(*(each or (None, None) for each in counted), strict=True)
    return columns


def _channel_row(update: ChannelStats) -> tuple[object, ...]:
    title = update.title and clean_text(update.title)
    return _channel_columns(update if title == update.title else replace(update, title=title))
