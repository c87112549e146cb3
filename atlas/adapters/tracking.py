"""The tracker's tables: when videos and channels are due, their samples, and the norms they are compared to.

Each video and channel has a row in a clock table, which a tracker claims under a lease. Leases expire by the
database's clock, but rows are due by the process's clock, which may be virtual. Storing a sample requires the
lease's token, so a tracker that lost its lease can't store. To avoid deadlocks, transactions lock in one
order: channels, videos, their clocks, norms, cohorts. So ingest before `update_video_stats_batch`, call that
once per transaction, and merge cohorts in a transaction of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from operator import attrgetter
from typing import Literal, NamedTuple, TypeAlias
from uuid import UUID, uuid4

from atlas.adapters.dao import DAO
from atlas.clock import SystemClock
from atlas.db import Executor, Row
from atlas.errors import DataRefused
from atlas.queries import clean_text
from atlas.wording import counted

logger = logging.getLogger(__name__)

COHORT_DAYS = 7
"""Number of past days whose velocities a video is compared with."""

MOST_DAYS_DROPPED_A_DAY = 7
"""Most days of samples that retention drops in one day, which bounds the loss from a wrong clock."""

BreakoutState: TypeAlias = tuple[
    float | None,
    float | None,
    float | None,
    float | None,
    float | None,
    float | None,
    float | None,
    float | None,
]
"""The stored state of the breakout test: level, variance, seen_h, evidence_h, open_h, open_views, risen_h,
peak."""
_FAR_FUTURE = datetime(9999, 1, 1, tzinfo=UTC)
Measure = Literal["velocity", "growth"]
Broadcast = Literal["none", "upcoming", "live"]
"""Whether a video is an upcoming broadcast, live, or neither."""
SampleSource = Literal["feed"]
"""Where a sample is from, if not from the API."""
NO_BREAKOUT_STATE: BreakoutState = (None,) * 8


class Target(NamedTuple):
    """A claimed video with its clock row, as the claim returns it."""

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
    breakout_state: BreakoutState
    broadcast: Broadcast = "none"
    gone_at: datetime | None = None
    doubted_views: int | None = None
    last_source: SampleSource | None = None


class FeedCount(NamedTuple):
    """A video's views as a feed showed them; `at` is when it was fetched, and the count may be older."""

    at: datetime
    views: int


@dataclass(frozen=True, slots=True)
class DueVideo:
    """A due video that is not claimed yet, with the columns that the tracker chooses by."""

    id: str
    zone: int
    born_at: datetime
    next_due_at: datetime
    interval_h: float
    velocity: float | None
    acceleration: float | None


class VideoUpdate(NamedTuple):
    """The sample of a claimed video, and the new values of its clock row.

    If the answer did not contain the video, `sampled_at` is None, and only `misses`, `next_due_at` (None for
    never again) and `gone` are stored. `returned` marks a gone video that is back. `doubted_views` is a count
    that fell to a fraction of the last one, kept until the next one decides. `counted` is an age class and
    log velocity to add to the channel's norms. A count of None is hidden; but a sample whose `source` is a
    feed has no likes and comments because feeds don't show them.
    """

    id: str
    lease_token: UUID
    sampled_at: datetime | None
    next_due_at: datetime | None
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
    doubted_views: int | None = None
    returned: bool = False
    breakout_state: BreakoutState = NO_BREAKOUT_STATE
    counted: tuple[int, float] | None = None
    source: SampleSource | None = None


@dataclass(frozen=True, slots=True)
class BatchStored:
    """How many samples were stored, and the ids whose lease was lost, for which nothing was stored."""

    samples: int
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ZoneCounts:
    """Counts of one zone's videos; `starving` ones have waited longer than the `patience` setting allows."""

    zone: int
    live: int
    due: int
    starving: int
    oldest_due_at: datetime | None
    demand_per_h: float


@dataclass(frozen=True, slots=True)
class StoredCohort:
    """A digest of one UTC day's velocities or growth rates, for an age class and a category (0: unknown)."""

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
class ChannelUpdate:
    """The sample of a claimed channel; `sampled_at` is None if the answer did not contain it."""

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
    """Claims due videos and channels, and stores samples, norms and cohorts."""

    _ensured: frozenset[date] = frozenset()

    # Claims

    async def fetch_tracker_targets(self, batch_size: int) -> list[Target]:
        """Lease up to `batch_size` due videos: hot, warm, cold, then gone; in each, the longest due first."""
        if batch_size < 1:
            raise DataRefused(f"batch_size is {batch_size}: claim at least 1 video")
        return await self._claim_videos("tracking.claim_due_videos", batch_size)

    async def claim_videos(self, ids: Sequence[str]) -> list[Target]:
        """Lease those of the videos that are still due and unclaimed."""
        return await self._claim_videos("tracking.claim_videos", ids)

    async def _claim_videos(
        self, statement: str, what: int | Sequence[str], due_by: datetime | None = None
    ) -> list[Target]:
        lease_s, token = self._settings.tracker.lease_s, uuid4()
        rows = await self._executor.fetch(
            statement, what, self._owner, token, lease_s, due_by or self._clock.now(), self._autocommits
        )
        targets = [_target(row, token) for row in rows]
        targets.sort(key=lambda target: (target.gone_at is not None, target.zone, target.next_due_at))
        # The count seen at ingestion will be stored as a sample together with the first one.
        ingested_at = {target.last_at for target in targets if target.samples == 0}
        await self._ensure_days_of(at for at in ingested_at if at and at >= self._oldest())
        return targets

    def _oldest(self) -> datetime:
        """The earliest instant whose samples retention keeps."""
        return self._clock.now() - timedelta(days=self._settings.tracker.retention_days)

    async def count_due(self, limit_per_zone: int) -> dict[int, int]:
        """How many videos of each zone are due and unclaimed, counting at most `limit_per_zone` of each."""
        rows = await self._executor.fetch("tracking.count_due", limit_per_zone, self._clock.now())
        return {row["zone"]: row["due"] for row in rows}

    async def next_due_at(self) -> datetime | None:
        """When the first unclaimed live video or channel is due; None if there is none."""
        at: datetime | None = await self._executor.fetchval("tracking.next_due")
        return at

    async def due_targets(self, limit_per_zone: int) -> list[DueVideo]:
        """The longest due unclaimed videos of each zone, for choosing which ones to claim."""
        rows = await self._executor.fetch("tracking.due_targets", limit_per_zone, self._clock.now())
        return [DueVideo(*row) for row in rows]

    async def release_videos(
        self,
        targets: Iterable[Target],
        *,
        error: str | None = None,
        retry_after_s: float = 0,
        count_attempt: bool = True,
    ) -> int:
        """Release claims without a sample, leaving due times unchanged; returns how many were still held.

        They may be claimed again after `retry_after_s`, which doubles with each earlier attempt, up to a day.
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

    async def update_video_stats_batch(self, updates: Sequence[VideoUpdate]) -> BatchStored:
        """Store samples, clocks and norms in one statement.

        Nothing is stored for a video whose lease was lost, and the result names it. The others are stored
        nevertheless, because each was paid for and does not depend on the lost ones.
        """
        if not updates:
            return BatchStored(0, ())
        epoch = self._settings.tracker.methodology_epoch
        columns = _video_columns(updates)
        if len(set(columns[0])) < len(updates):
            raise DataRefused("a batch has two updates of one video: store them one after the other")
        days = await self._ensure_days_of(update.sampled_at for update in updates if update.sampled_at)
        arguments = (self._oldest(), epoch, self._clock.now(), *columns)
        try:
            row = await self._executor.fetchrow("tracking.update_video_stats", *arguments)
        except DataRefused:
            # A partition created earlier may be gone: dropped by hand, or lost when a backup was restored.
            if not self._autocommits or not await self.ensure_partitions(sorted(days)):
                raise
            row = await self._executor.fetchrow("tracking.update_video_stats", *arguments)
        assert row is not None
        return BatchStored(row["samples"], tuple(row["lost"]))

    async def _ensure_days_of(self, instants: Iterable[datetime]) -> set[date]:
        """Create the days' partitions once, or in each transaction, because that may be rolled back.

        Returns the days.
        """
        days = {instant.astimezone(UTC).date() for instant in set(instants)}
        if missing := days - self._ensured:
            await self.ensure_partitions(sorted(missing))
            if self._autocommits:
                self._ensured |= missing
        return days

    async def ensure_partitions(self, days: Sequence[date]) -> list[str]:
        """Create the log's partitions for these UTC days; returns the names of those that were missing."""
        return list(await self._executor.fetchval("tracking.ensure_sample_days", days))

    async def drop_samples_before(self, day: date) -> list[str]:
        """Drop samples from before a UTC day, and old cohorts; returns the names of the dropped partitions.

        To bound the loss from a wrong clock, samples must also be older than retention by the database's
        clock, and at most MOST_DAYS_DROPPED_A_DAY days of them are dropped in a day. With a virtual clock
        neither applies. Dropping a partition waits for all readers of the log; if that takes too long,
        StatementTimeout is raised and nothing is dropped.
        """
        tracker = self._settings.tracker
        cohorts_from = self._clock.now().date() - timedelta(days=COHORT_DAYS)
        async with self._atomic() as executor:
            if isinstance(self._clock, SystemClock):
                day = await self._bounded_by_database(executor, day)
                cohorts_from = min(cohorts_from, day + timedelta(days=tracker.retention_days - COHORT_DAYS))
            await executor.execute("tracking.forget_before", day, cohorts_from)
            return list(await executor.fetchval("tracking.drop_sample_days", day))

    async def _bounded_by_database(self, executor: Executor, day: date) -> date:
        """The day before which samples may be dropped now, by the database's clock and the daily limit."""
        retention_days = self._settings.tracker.retention_days
        row = await executor.fetchrow("tracking.expiring_days", day, retention_days)
        assert row is not None
        before: date = row["before"]
        days: list[date] = row["days"]
        if not days:
            return before
        dropped_today: int = await executor.fetchval("tracking.sample_days_dropped_today")
        allowed = max(MOST_DAYS_DROPPED_A_DAY - dropped_today, 0)
        await executor.execute("tracking.count_dropped_sample_days", min(allowed, len(days)))
        if len(days) <= allowed:
            return before
        logger.warning(
            "%s older than %s, but at most %d a day are dropped: is the clock "
            "right, or was retention shortened (PLEIADES_TRACKER__RETENTION_DAYS)?",
            counted(len(days), "day of samples is", "days of samples are"),
            counted(retention_days, "day"),
            MOST_DAYS_DROPPED_A_DAY,
            extra={"action": "retention_bounded"},
        )
        return days[allowed]

    # Counts that feeds showed

    async def claim_feed_counts(self, most: int) -> list[tuple[Target, FeedCount]]:
        """Lease videos that feeds showed with a count, each with its oldest count, in this transaction."""
        rows = await self._executor.fetch("tracking.oldest_feed_counts", most)
        counts = {row["video_id"]: FeedCount(row["at"], row["views"]) for row in rows}
        # They need not be due.
        claimed = await self._claim_videos("tracking.claim_videos", [*counts], due_by=_FAR_FUTURE)
        return sorted(((target, counts[target.id]) for target in claimed), key=lambda each: each[0].id)

    async def delete_feed_counts(self, used: Iterable[tuple[str, datetime]]) -> int:
        """Delete the counts of these videos up to the instants; returns how many."""
        columns = [*zip(*used, strict=True)]
        return await self._executor.execute("tracking.delete_feed_counts", *columns) if columns else 0

    async def forget_feed_counts(self, before: datetime) -> int:
        """Delete counts from before an instant, which no tracker has used; returns how many."""
        return await self._executor.execute("tracking.forget_feed_counts", before)

    async def growing_views_per_hour(self) -> float | None:
        """From how many views an hour over its first day on a video is growing; None while unknown."""
        known: float | None = await self._executor.fetchval("tracking.growing_views_per_hour")
        return known

    # Reading the clock, norms and cohorts

    async def clock_counts(self) -> list[ZoneCounts]:
        """Counts of each zone that has live videos."""
        now, patience = self._clock.now(), self._settings.tracker.patience
        return [
            ZoneCounts(**row) for row in await self._executor.fetch("tracking.clock_counts", now, patience)
        ]

    async def count_claimed(self, most: int) -> dict[int, int]:
        """How many videos of each zone are claimed, of up to `most` that have been due longest."""
        rows = await self._executor.fetch("tracking.count_claimed", most, self._clock.now())
        return {row["zone"]: row["claimed"] for row in rows}

    async def video_titles(self, ids: Sequence[str]) -> dict[str, str | None]:
        """The titles of those videos that are stored."""
        rows = await self._executor.fetch("tracking.video_titles", ids)
        return {row["id"]: row["title"] for row in rows}

    async def channel_norms(self, keys: Iterable[tuple[str, int]]) -> dict[tuple[str, int], ChannelNorm]:
        """The norms of (channel, age class) pairs, as far as they exist."""
        wanted = list(keys)
        channels, classes = [channel for channel, _ in wanted], [age_class for _, age_class in wanted]
        rows = await self._executor.fetch("tracking.channel_norms", channels, classes)
        return {
            (row["channel_id"], row["age_class"]): ChannelNorm(row["videos"], row["mean"], row["squares"])
            for row in rows
        }

    async def cohorts(self, days: Sequence[date]) -> list[StoredCohort]:
        """Every cohort of the days."""
        return [StoredCohort(*row) for row in await self._executor.fetch("tracking.cohorts", days)]

    async def merge_cohorts(
        self, deltas: Iterable[StoredCohort], merge: Callable[[bytes, bytes], bytes]
    ) -> None:
        """Merge new cohorts into the stored ones; `merge` combines two digests into one.

        Rows stay locked until the transaction ends, so merge once per cycle, not once per batch.
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
            "tracking.claim_due_channels", batch_size, self._owner, uuid4(), lease_s, now, self._autocommits
        )
        return sorted((ChannelTarget(*row) for row in rows), key=lambda target: target.next_due_at)

    async def update_channel_stats_batch(self, updates: Sequence[ChannelUpdate]) -> BatchStored:
        """Store channels' samples and clocks in one statement, except those whose lease was lost."""
        if not updates:
            return BatchStored(0, ())
        # In the order in which ingestion locks channels, to avoid deadlocks.
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
        """Release claims of channels, like `release_videos`."""
        return await self._release("tracking.release_channels", targets, error, retry_after_s, count_attempt)


def _target(row: Row, token: UUID) -> Target:
    """Build a Target from a row without its token, which is the same for all and slow to decode."""
    return Target._make((*row[:8], token, *row[8:19], row[19:27], *row[27:]))


def _video_columns(updates: Sequence[VideoUpdate]) -> list[tuple[object, ...]]:
    """The updates as one array per parameter of the statement."""
    *columns, breakout_states, counted, sources = zip(*updates, strict=True)
    columns += zip(*breakout_states, strict=True)
    columns += zip(*(each or (None, None) for each in counted), strict=True)
    return [*columns, sources]


def _channel_row(update: ChannelUpdate) -> tuple[object, ...]:
    title = update.title and clean_text(update.title)
    return _channel_columns(update if title == update.title else replace(update, title=title))
