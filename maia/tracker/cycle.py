"""The tracker: samples the counters of the videos that are due, and computes how fast they grow.

A cycle claims a batch of due videos and processes groups of them concurrently: request, compute, store. All
results of a group (samples, next due times, norms, breakouts) are stored in one transaction, so an
interrupted cycle loses only the groups in progress. Channels follow, each once a day. If the quota can't pay
for all due videos, the most informative ones go first (`maia.learning.zones.allocate`), and the cycle reports
it. `maia.cycle.reasons` says what a failure means for its videos or channels. A database error ends the
cycle; a group is stored completely or not at all.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.telemetry import TelemetryDAO
from atlas.adapters.tracking import COHORT_DAYS, BatchStored, ChannelTarget, ChannelUpdate, Target, ZoneCounts
from atlas.adapters.watches import WatchesDAO
from atlas.composition import Atlas
from atlas.errors import DatabaseError, VaultError
from atlas.keyring import KeyRing, LedgerLine
from atlas.wording import counted
from maia.agents import round_s
from maia.cycle.agent import Agent, Highlight
from maia.cycle.claims import FailedRequest
from maia.cycle.cycle import OnProgress, StepRecord, cost_of_failure
from maia.cycle.expectations import Expectations, Expected
from maia.cycle.outcome import Closing, CycleStatistics, Progress
from maia.cycle.paid import PaidCycle, closed, closing_of, keep_answers, units_now
from maia.cycle.reasons import SkipReason
from maia.cycle.steps import StepRunner, plain
from maia.cycle.words import coming, in_words
from maia.learning.zones import Zone
from maia.tracker.budget import Shortage, choose, named, spendable
from maia.tracker.foresight import Foresight, stored_foresight
from maia.tracker.hotness import HotBudget
from maia.tracker.measuring import MISSES_BEFORE_GONE, Breakout, Cohorts, Measured, Meter, Reading
from maia.tracker.sampling import (
    ENDINGS,
    REFUSALS,
    CallMade,
    Item,
    Sampler,
    batch_context,
    split,
    trusted_absences,
)
from maia.tracker.storing import FEED_COUNTS, FeedCountsUsed, Storage
from maia.youtube.client import IDS_PER_CALL, YouTube
from maia.youtube.resources import Channel, Video

logger = logging.getLogger(__name__)

CALLS_PER_GROUP = 10
"""Calls whose results are stored together."""

_FEED_COUNTS_KEPT = timedelta(days=2)
_MOST_CANDIDATES = 20_000
"""How many due videos of a zone to choose from if the budget is short."""
_NEVER = datetime.min.replace(tzinfo=UTC)
_NOUNS = {
    "videos": ("video", "videos"), "samples": ("sample", "samples"),
    "feed_samples": ("of them from feeds", "of them from feeds"), "hidden": ("hidden", "hidden"),
    "missing": ("missing", "missing"), "gone": ("gone", "gone"),
    "breakouts": ("breakout", "breakouts"), "channels": ("channel", "channels"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TargetBatch:
    """The videos and channels to sample now. If there are none, `closing` or `next_due_at` says why."""

    targets: tuple[Target, ...] = ()
    channels: tuple[ChannelTarget, ...] = ()
    due: Mapping[str, int] = field(default_factory=dict)
    shortage: Shortage | None = None
    closing: Closing | None = None
    next_due_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class GroupResult:
    """The result of a group. `ended_by` is an error that must end the cycle, after the rest is stored.

    `settled` are the items whose results are stored or were discarded, so that their claims are done.
    """

    settled: frozenset[str] = frozenset()
    samples: int = 0
    hidden: int = 0
    missing: int = 0
    gone: int = 0
    refreshed: int = 0
    breakouts: int = 0
    by_forecast: int = 0
    skipped: Mapping[SkipReason, frozenset[str]] = field(default_factory=dict)
    failures: tuple[FailedRequest[Item], ...] = ()
    ended_by: Exception | None = None
    steps: tuple[StepRecord, ...] = ()
    """What is recorded of each call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerStatistics(CycleStatistics):
    """Counts for one or more cycles; `due`, `deferred` and `starving` are from the last that counted them.

    `skipped` counts both videos and channels. `samples` includes the `feed_samples`, whose videos are not in
    `videos`.
    """

    videos: int = 0
    samples: int = 0
    feed_samples: int = 0
    hidden: int = 0
    missing: int = 0
    gone: int = 0
    refreshed: int = 0
    breakouts: int = 0
    channels: int = 0
    degraded: int = 0
    by_forecast: int = 0
    forecast_outcomes: int = 0
    due: Mapping[str, int] = field(default_factory=dict)
    deferred: Mapping[str, int] = field(default_factory=dict)
    starving: int = 0

    def then(self, later: TrackerStatistics) -> TrackerStatistics:
        both = CycleStatistics.then(self, later)
        last = later if later.due else self
        learnt = max(self.forecast_outcomes, later.forecast_outcomes)
        return replace(
            both, due=last.due, deferred=last.deferred, starving=last.starving, forecast_outcomes=learnt
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupProgress(Progress):
    """A finished group, and the totals of the cycle so far."""

    samples: int
    breakouts: int
    skipped: int


class Tracker(Agent[TrackerStatistics]):
    """The tracker's steps. It runs one cycle at a time."""

    name = "tracker"
    statistics = TrackerStatistics

    def __init__(self, atlas: Atlas, youtube: YouTube, keys: KeyRing, step: StepRunner = plain) -> None:
        super().__init__(atlas, step)
        self.youtube, self.keys = youtube, keys
        self.dao = MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self.settings = atlas.settings.tracker
        self._round_s = round_s(atlas.settings, self.name)
        self._sampler = Sampler(atlas, youtube)
        self._storage = Storage(atlas, self.dao, self.session)
        self._cohorts, self._cohorts_at = Cohorts(()), _NEVER
        self._counts, self._counts_at = list[ZoneCounts](), _NEVER
        self._meter = Meter(self.settings, self._cohorts)
        self._threshold: float | None = None
        self.foresight: Foresight | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, atlas: Atlas, step: StepRunner = plain) -> AsyncIterator[Tracker]:
        """Open a tracker with its own YouTube client; EmptyKeyRing if its ring has no key."""
        keys = KeyRing("tracking", atlas=atlas)
        async with YouTube.open(atlas.settings.youtube, keys, clock=atlas.clock) as youtube:
            yield cls(atlas, youtube, keys, step)

    @property
    def batch_size(self) -> int:
        return self.settings.batch_size

    def new_cycle(self, number: int, on_progress: OnProgress | None) -> TrackerCycle:
        return TrackerCycle(self, number, on_progress)

    @staticmethod
    def headline(statistics: Mapping[str, Any]) -> str:
        return counted(statistics["samples"], "sample")

    @staticmethod
    def summary(statistics: Mapping[str, Any]) -> str:
        text = in_words(statistics, _NOUNS)
        left = ", ".join(f"{count:,} {zone}" for zone, count in statistics["deferred"].items() if count)
        if left:
            text += (
                f"\nThe quota can't pay for all videos that are due: {left} are left out for now, and "
                f"{statistics['starving']:,} of them wait too long"
            )
        return text

    @classmethod
    async def highlights(cls, atlas: Atlas, limit: int) -> list[Highlight]:
        from atlas.adapters.board import BoardDAO, Lead

        board = BoardDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        leaders = await board.top(Lead.VELOCITY, limit)
        return [
            Highlight(lead.id, lead.title, f"{lead.velocity or 0:,.0f} views/h", computed=True)
            for lead in leaders
        ]

    # The steps

    async def expect(self) -> None:
        """Read what the learner expects of the calls of this cycle."""
        self._sampler.expectations = await Expectations.load(self.atlas, self.name)

    async def fetch_targets(self, batch_size: int) -> TargetBatch:
        """Claim the due videos that the quota pays for, and due channels; none if the ring is closed."""
        ledger = await self.keys.ledger()
        if closing := closing_of(self.keys, ledger, "stats"):
            return TargetBatch(closing=closing)
        self._sampler.refreshable = units_now(ledger, "general")
        due, targets, shortage = await self._due(ledger), list[Target](), None
        budget = spendable(ledger, due[Zone.HOT], self._counts, self.atlas.clock.now(), self._round_s)
        if sum(due.values()) > budget:
            targets, shortage = await self._choose(batch_size, budget, ledger)
            due = {count.zone: count.due for count in self._counts}
        else:
            # Even if no video is due, it may be time to check whether a gone video is back.
            targets = await self.dao.fetch_tracker_targets(batch_size)
        most = min(batch_size, IDS_PER_CALL * self._sampler.refreshable)
        channels = await self.dao.fetch_channel_targets(most) if most else []
        if targets:
            await self._prepare_meter(ledger, saving=shortage is not None)
        # Videos with stale metadata go last, together, so that few calls are needed for them.
        targets.sort(key=self._sampler.is_stale)
        next_due_at = None if targets or channels else await self.dao.next_due_at()
        return TargetBatch(tuple(targets), tuple(channels), named(due), shortage, next_due_at=next_due_at)

    async def use_feed_counts(self) -> FeedCountsUsed:
        """Turn counts that channels' feeds showed into samples; they cost no quota."""
        await self._prepare_meter(await self.keys.ledger())
        return await self._storage.use_feed_counts(self._meter)

    async def update_stats(self, targets: Sequence[Target]) -> GroupResult:
        """Request the counters of a group, 50 per call, and store the results in one transaction."""
        asked = await self._sampler.ask(targets)
        result, sampled = await self._measure_and_store(asked.readings, asked.videos)
        steps = tuple(_step_of(call, sampled) for call in asked.calls)
        return replace(result, failures=asked.failures, ended_by=asked.ended_by, steps=steps)

    async def update_channels(self, channels: Sequence[ChannelTarget]) -> GroupResult:
        """Request the counters of up to 50 channels in one call, and store them."""
        expected, began_s = self._sampler.expected("channels", channels), time.monotonic()
        try:
            answer = await self.youtube.channels(channel.id for channel in channels)
        except (*REFUSALS, *ENDINGS) as error:
            steps = (_failed_call("channels", channels, error, began_s, expected),)
            if isinstance(error, ENDINGS):
                return GroupResult(ended_by=error, steps=steps)
            return GroupResult(failures=(FailedRequest(tuple(channels), error),), steps=steps)
        trusted, failures = trusted_absences(channels, bool(answer))
        found: dict[str, Channel] = {channel.id: channel for channel in answer}
        at = self.atlas.clock.now()
        updates = [self._channel_stats(target, found.get(target.id), at) for target in trusted]
        stored = await self.dao.update_channel_stats_batch(updates)
        seconds, batch = time.monotonic() - began_s, batch_context(channels)
        step = StepRecord(
            "channels", reward=stored.samples, cost=1, seconds=seconds, context=batch, expected=expected
        )
        if failures:
            step = StepRecord.failed("channels", failures[0].error, 1, seconds, batch, expected)
        return GroupResult(
            frozenset(update.id for update in updates),
            samples=stored.samples,
            skipped={SkipReason.LEASE_LOST: frozenset(stored.lost)},
            failures=failures,
            steps=(step,),
        )

    # Choosing

    async def _due(self, ledger: Sequence[LedgerLine]) -> dict[int, int]:
        """How many videos are due by zone, counted up to what the ring could pay for."""
        due = await self.dao.count_due(IDS_PER_CALL * units_now(ledger, "stats") + IDS_PER_CALL)
        if any(due.values()):
            await self._count_zones()
        return due

    async def _choose(
        self, batch_size: int, budget: int, ledger: Sequence[LedgerLine]
    ) -> tuple[list[Target], Shortage]:
        """Claim the due videos on which a budget of `budget` samples is best spent."""
        due, now = await self.dao.due_targets(_MOST_CANDIDATES), self.atlas.clock.now()
        self._counts, self._counts_at = await self.dao.clock_counts(), now
        chosen, shortage = choose(due, budget, now, self._counts, ledger, self.settings, self._round_s)
        logger.warning(
            "the quota pays for only %d of %s, and of the others %s too long: "
            "track fewer, or lengthen the zones' intervals",
            len(chosen),
            counted(sum(count.due for count in self._counts), "video that is due", "videos that are due"),
            counted(shortage.starving, "waits", "wait"),
            extra={"action": "tracker_degraded", "deferred": dict(shortage.deferred)},
        )
        return await self.dao.claim_videos(chosen[:batch_size]) if chosen else [], shortage

    async def _prepare_meter(self, ledger: Sequence[LedgerLine], *, saving: bool = False) -> None:
        """Make the meter of a cycle.

        What it compares with is read at most once per round, as other agents change it little.
        """
        now = self.atlas.clock.now()
        if now - self._cohorts_at >= timedelta(seconds=self._round_s):
            today = now.astimezone(UTC).date()
            days = [today - timedelta(days=back) for back in range(COHORT_DAYS)]
            self._cohorts, self._cohorts_at = Cohorts(await self.dao.cohorts(days)), now
            self._threshold = await self.dao.growing_views_per_hour()
            self.foresight = await stored_foresight(self.atlas)
        hot = await self._hot_budget(ledger) if self.settings.triage else None
        self._meter = Meter(self.settings, self._cohorts, saving=saving, hot=hot, foresight=self.foresight)

    async def _hot_budget(self, ledger: Sequence[LedgerLine]) -> HotBudget:
        await self._count_zones()
        hot = sum(count.live for count in self._counts if count.zone == Zone.HOT)
        samples_a_day = sum(line.ring_limit for line in ledger if line.bucket == "stats") * IDS_PER_CALL
        return HotBudget.of(samples_a_day, hot, self.settings.hot_interval_h, self._threshold)

    async def _count_zones(self) -> None:
        """Count the zones' videos, at most once per round, as that reads the whole clock."""
        now = self.atlas.clock.now()
        if now - self._counts_at >= timedelta(seconds=self._round_s):
            self._counts, self._counts_at = await self.dao.clock_counts(), now

    # Storing

    async def _measure_and_store(
        self, readings: Sequence[Reading], videos: Sequence[Video]
    ) -> tuple[GroupResult, Collection[str]]:
        """Store readings; returns the result, and the ids of the videos of which a sample is stored."""
        if not readings:
            return GroupResult(), ()
        norms = await self.dao.channel_norms(self._meter.norm_keys(readings))
        measured = self._meter.measure(readings, norms)
        stored, breakouts = await self._storage.store(measured, videos)
        taken = {update.id for update in measured.updates if update.sampled_at is not None}
        return _group_result(measured, stored, breakouts, len(videos)), taken.difference(stored.lost)

    def _channel_stats(self, target: ChannelTarget, channel: Channel | None, at: datetime) -> ChannelUpdate:
        due_at = at + timedelta(hours=self.settings.channel_interval_h)
        if channel is None:
            misses = target.misses + 1
            gone = misses >= MISSES_BEFORE_GONE
            return ChannelUpdate(target.id, target.lease_token, None, due_at, misses=misses, gone=gone)
        return ChannelUpdate(
            target.id,
            target.lease_token,
            at,
            due_at,
            channel.subscriber_count,
            channel.video_count,
            channel.view_count,
            channel.title,
        )

    async def fetch_watched(self) -> StepRecord | None:
        """Fetch and store watched videos that are not stored yet and are due to be requested, in one call.

        Returns what to record of the call, if there was one.
        """
        if self._sampler.refreshable < 1:
            return None
        watches = WatchesDAO(self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings)
        ids = await watches.claim_unknown_videos(IDS_PER_CALL)
        if not ids:
            return None
        expected, began_s = self._sampler.expected("watched", ids), time.monotonic()
        try:
            videos = await self.youtube.videos(ids)
            await keep_answers(self.atlas.vault, videos)
        except (*REFUSALS, VaultError) as error:
            logger.warning(
                "watched videos could not be fetched, the next cycle tries again: %s",
                error,
                extra={"action": "watches_refused"},
            )
            return _failed_call("watched", ids, error, began_s, expected)
        if videos:
            await self.dao.ingest_video_metadata(videos)
        logger.info(
            "fetched %d of %s",
            len(videos),
            counted(len(ids), "watched video"),
            extra={"action": "watched_videos_met"},
        )
        seconds = time.monotonic() - began_s
        return StepRecord(
            "watched",
            reward=len(videos),
            cost=1,
            seconds=seconds,
            context=batch_context(ids),
            expected=expected,
        )

    async def store_cohorts(self) -> None:
        """Add this cycle's velocities to the stored cohorts."""
        await self.dao.merge_cohorts(self._cohorts.take_added(), Cohorts.merge)

    async def apply_retention(self) -> None:
        """Create tomorrow's partition, and drop samples, of hosts too, older than the retention time."""
        today = self.atlas.clock.now().astimezone(UTC).date()
        try:
            await self.dao.ensure_partitions([today, today + timedelta(days=1)])
            await self.dao.forget_feed_counts(self.atlas.clock.now() - _FEED_COUNTS_KEPT)
            dropped = await self.dao.drop_samples_before(today - timedelta(days=self.settings.retention_days))
            await TelemetryDAO(
                self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings
            ).forget_old()
        except DatabaseError as error:
            logger.warning(
                "could not drop old samples, the next cycle tries again: %s",
                error,
                extra={"action": "retention_failed"},
            )
            return
        if dropped:
            logger.info("dropped %s", ", ".join(dropped), extra={"action": "samples_dropped"})


class TrackerCycle(PaidCycle[Item, TrackerStatistics]):
    """A cycle of the tracker, with its batch and the results of the groups so far."""

    agent: Tracker
    idle = "nothing is due now"

    def __init__(self, tracker: Tracker, number: int = 1, on_progress: OnProgress | None = None) -> None:
        super().__init__(tracker, tracker.youtube, number, on_progress)
        self.tracker = tracker
        self.batch = TargetBatch()
        self.videos: list[GroupResult] = []
        self.channels: list[GroupResult] = []
        self.from_feeds: list[FeedCountsUsed] = []

    async def _work(self, batch_size: int) -> None:
        tracker = self.tracker
        await tracker.expect()
        await self._use_feed_counts(batch_size)
        await self._claim(
            self.step("fetch_targets", batch_size, lambda: tracker.fetch_targets(batch_size)), self._accept
        )
        calls = self.atlas.settings.youtube.concurrency
        groups = deque(split(self.batch.targets, CALLS_PER_GROUP * IDS_PER_CALL))
        workers = min(-(-calls // CALLS_PER_GROUP) + 1, len(groups))
        await self._work_together(self._sample_videos(groups) for _ in range(workers))
        chunks = deque(split(self.batch.channels))
        await self._work_together(self._sample_channels(chunks) for _ in range(min(calls, len(chunks))))
        if self.stopped is None and (step := await tracker.fetch_watched()):
            self.note(step)
        if self.claimed or self.from_feeds:
            await tracker.store_cohorts()
            await tracker.apply_retention()

    async def _use_feed_counts(self, batch_size: int) -> None:
        """Use counts that feeds showed first, so that the API isn't asked about the same videos."""
        for _ in range(-(-batch_size // FEED_COUNTS)):
            began_s = time.monotonic()
            used = await self.step("use_feed_counts", "counts from feeds", self.tracker.use_feed_counts)
            if used.counts:
                self.from_feeds.append(used)
                self._note_feed_counts(used, time.monotonic() - began_s)
            if used.counts < FEED_COUNTS // 2:
                return

    def _note_feed_counts(self, used: FeedCountsUsed, seconds: float) -> None:
        self.note(
            StepRecord(
                "feed_counts", reward=used.samples, seconds=seconds, context={"batch": used.counts},
                results={"breakouts": used.breakouts},
            )
        )  # fmt: skip

    def _accept(self, batch: TargetBatch) -> None:
        self.batch = batch
        items: list[Item] = [*batch.targets, *batch.channels]
        self._hold({_key(item): item for item in items}, self.tracker.settings.lease_s)
        if soonest := coming(batch.next_due_at, self.atlas.clock.now()):
            self.idle = f"nothing is due now; next at {soonest}"
        if batch.shortage:
            self.idle = "the quota left today is kept for hot videos; the others are sampled after the reset"
        if batch.closing:
            self._close(batch.closing)

    async def _sample_videos(self, groups: deque[Sequence[Target]]) -> None:
        while groups and self._may_begin():
            group = groups.popleft()
            result = await self._sample("update_stats", "videos", group)
            self.videos.append(result)
            self._settle(group, result)

    async def _sample_channels(self, chunks: deque[Sequence[ChannelTarget]]) -> None:
        while chunks and self._may_begin():
            chunk = chunks.popleft()
            result = await self._sample("update_channels", "channels", chunk)
            self.channels.append(result)
            self._settle(chunk, result)

    async def _sample(self, name: str, noun: str, group: Sequence[Any]) -> GroupResult:
        about = f"{len(group)} {noun} from {group[0].id}"
        method = getattr(self.tracker, name)
        began_s = time.monotonic()
        try:
            result: GroupResult = await self.step(name, about, lambda: method(group))
        except BaseException as error:
            # What became of its single calls is lost with the group; most errors come once all are made.
            action, calls = ("sample" if noun == "videos" else noun), -(-len(group) // IDS_PER_CALL)
            seconds = time.monotonic() - began_s
            self.note(StepRecord.failed(action, error, calls, seconds, batch_context(group)))
            raise
        for step in result.steps:
            self.note(step)
        return result

    def _settle(self, group: Sequence[Item], result: GroupResult) -> None:
        """Release stored items and set aside those that failed; raise an error that must end the cycle."""
        for item in group:
            if item.id in result.settled:
                del self.held[_key(item)]
        for reason, ids in result.skipped.items():
            if ids:
                self.skipped[reason] += len(ids)
        for failure in result.failures:
            self._set_aside(failure)
        self._report()
        if result.ended_by is not None:
            raise result.ended_by

    def _set_aside(self, failure: FailedRequest[Item]) -> None:
        reason, error = failure.reason, failure.error
        are_videos = isinstance(failure.items[0], Target)
        if reason is SkipReason.RING_CLOSED and are_videos:
            # The claims stay held, and are released at the end with those that were not started.
            self._close(closed(error))
            return
        # An answer without any of its videos is usually about videos that are gone; they are asked for again.
        level = logging.INFO if reason is SkipReason.EMPTY else logging.WARNING
        logger.log(
            level, "skipped %s (%s): %s",
            counted(len(failure.items), "video" if are_videos else "channel"),
            reason, error, extra={"action": f"skipped_{reason}"},
        )  # fmt: skip
        self._record_failure(failure, map(_key, failure.items))

    def _any_succeeded(self) -> bool:
        return any(result.settled for result in (*self.videos, *self.channels))

    async def _put_back(self, items: Sequence[Item], error: str, *, count_attempt: bool) -> None:
        retry_after_s = self.tracker.settings.retry_after_s
        await self._release_to(items, error=error, retry_after_s=retry_after_s, count_attempt=count_attempt)

    async def _release(self, items: Sequence[Item]) -> None:
        await self._release_to(items, count_attempt=False)

    async def _release_to(self, items: Sequence[Item], **how: Any) -> None:
        videos = [item for item in items if isinstance(item, Target)]
        channels = [item for item in items if isinstance(item, ChannelTarget)]
        if videos:
            await self.tracker.dao.release_videos(videos, **how)
        if channels:
            await self.tracker.dao.release_channels(channels, **how)

    def _given_back(self, items: Sequence[Item], reason: SkipReason) -> None:
        self._report()

    def _report(self) -> None:
        if self.on_progress is None:
            return
        samples, breakouts = self._sum_with_feeds("samples"), self._sum_with_feeds("breakouts")
        self.on_progress(
            GroupProgress(
                cycle=self.number,
                text=f"cycle {self.number}: {counted(samples, 'sample')}, {counted(breakouts, 'breakout')}",
                done=self.claimed - len(self.held),
                claimed=self.claimed,
                samples=samples,
                breakouts=breakouts,
                skipped=self.skipped.total(),
            )
        )

    def _sum(self, name: str) -> int:
        return sum(getattr(result, name) for result in self.videos)

    def _sum_with_feeds(self, name: str) -> int:
        return self._sum(name) + sum(int(getattr(used, name)) for used in self.from_feeds)

    def _counted(self) -> TrackerStatistics:
        shortage = self.batch.shortage
        return TrackerStatistics(
            videos=len(self.batch.targets),
            samples=self._sum_with_feeds("samples"),
            feed_samples=sum(used.samples for used in self.from_feeds),
            hidden=self._sum("hidden"),
            missing=self._sum("missing"),
            gone=self._sum("gone"),
            refreshed=self._sum("refreshed"),
            breakouts=self._sum_with_feeds("breakouts"),
            channels=sum(result.samples for result in self.channels),
            degraded=int(shortage is not None),
            by_forecast=self._sum_with_feeds("by_forecast"),
            forecast_outcomes=0 if self.tracker.foresight is None else self.tracker.foresight.learnt,
            due=self.batch.due,
            deferred=shortage.deferred if shortage else {},
            starving=shortage.starving if shortage else 0,
        )

    def _summary(self, statistics: TrackerStatistics) -> str:
        left = sum(statistics.deferred.values())
        return (
            f"asked about {counted(statistics.videos, 'video')} and "
            f"{counted(statistics.channels, 'channel')}: "
            f"{counted(statistics.samples, 'sample')}, {statistics.feed_samples:,} of them from feeds; "
            f"breakouts: {statistics.breakouts}, gone: {statistics.gone}"
            + (
                f"; {counted(left, 'due video was', 'due videos were')} left out, as the quota is short"
                if left
                else ""
            )
        )


def _step_of(call: CallMade, sampled: Collection[str]) -> StepRecord:
    """What is recorded of a call, given the videos of which a sample was stored."""
    context = batch_context(call.targets)
    if call.error is not None:
        cost = cost_of_failure(call.error, 1)
        return StepRecord.failed(call.action, call.error, cost, call.seconds, context, call.expected)
    samples = sum(target.id in sampled for target in call.targets)
    return StepRecord(
        call.action, reward=samples, cost=1, seconds=call.seconds, context=context, expected=call.expected
    )


def _failed_call(
    action: str, items: Sequence[Any], error: Exception, began_s: float, expected: Expected | None
) -> StepRecord:
    """What is recorded of a call that failed."""
    seconds = time.monotonic() - began_s
    return StepRecord.failed(
        action, error, cost_of_failure(error, 1), seconds, batch_context(items), expected
    )


def _key(item: Item) -> tuple[str, str]:
    return ("video" if isinstance(item, Target) else "channel"), item.id


def _group_result(
    measured: Measured, stored: BatchStored, breakouts: Sequence[Breakout], refreshed: int
) -> GroupResult:
    kept = [update for update in measured.updates if update.id not in stored.lost]
    absent = [update for update in kept if update.sampled_at is None and update.id not in measured.not_later]
    return GroupResult(
        frozenset(update.id for update in measured.updates),
        samples=stored.samples,
        hidden=sum(update.sampled_at is not None and update.views is None for update in kept),
        missing=len(absent),
        gone=sum(update.gone for update in absent),
        refreshed=refreshed,
        breakouts=len(breakouts),
        by_forecast=measured.by_forecast,
        skipped={
            SkipReason.LEASE_LOST: frozenset(stored.lost),
            SkipReason.NOT_LATER: measured.not_later - frozenset(stored.lost),
        },
    )
