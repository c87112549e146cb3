"""The tracker: samples the counters of the videos that are due, and computes how fast they grow.

A cycle claims a batch of due videos and takes groups of them, several at once, through asking, measuring and
storing. What a group brought is stored in one transaction: samples, clocks, norms and breakouts, so that
whatever ends a cycle costs only the groups then under way. Channels follow, each once a day. Where the quota
pays for fewer videos than are due, those go first that tell most (`maia.learning.zones.allocate`), and the
cycle says so.

What a failure means for the videos, or channels, that it meets (`skipped` counts them by these names):

ring_closed      no quota now: given back, as all that are left, until the ring reopens
network          no answer, or none that is whole: tried again later, the clock unmoved
empty            an answer without any of them: doubted once, so tried again later
bad_request      the request is refused: tried again later, ever more rarely
not_later        the last sample is no earlier than this one: due again after the interval
lease_lost       it took too long and somebody else has the video
late             the batch took half its lease: what was not begun by then is given back
rate_limited     a 429: every claim is given back and the process ends with status 75

A database that fails ends the cycle: the error is raised, and no group is half stored.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import stamina

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.tracking import (
    BatchStored,
    ChannelStats,
    ChannelTarget,
    Target,
    ZoneCounts,
)
from atlas.adapters.watches import WatchesDAO
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.errors import DatabaseError, RingClosed, TransactionConflict, VaultError
from atlas.keyring import KeyRing, LedgerLine
from maia import sessions
from maia.budget import Shortage, choose, named, spendable, units_now
from maia.cycles import (
    SETTLED_WITHIN_S,
    Closing,
    Cycle,
    CycleStatistics,
    directly,
    keep_answers,
    refuse_nothing,
    repeated,
)
from maia.learning.zones import Zone
from maia.measuring import Breakout, Cohorts, Measured, Meter, Reading
from maia.sampling import ENDINGS, REFUSALS, Item, Refusal, Sampler, believed_of, reason_of, split
from maia.youtube.client import IDS_PER_CALL, YouTube
from maia.youtube.resources import Channel, Video

logger = logging.getLogger(__name__)

CALLS_PER_GROUP = 10
"""Calls whose answers are stored together."""

_MOST_WEIGHED = 20_000
"""Due videos of a zone among which a short budget chooses."""
_STORING_TRIES = 4
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Batch:
    """The videos and channels to sample now; none where `closing` says why."""

    targets: tuple[Target, ...] = ()
    channels: tuple[ChannelTarget, ...] = ()
    due: Mapping[str, int] = field(default_factory=dict)
    shortage: Shortage | None = None
    closing: Closing | None = None


@dataclass(frozen=True, slots=True)
class Sampled:
    """What became of a group; `ended_by` is what must end the cycle, though the rest is stored."""

    settled: frozenset[str] = frozenset()
    samples: int = 0
    hidden: int = 0
    missing: int = 0
    gone: int = 0
    refreshed: int = 0
    breakouts: int = 0
    skipped: Mapping[str, frozenset[str]] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    ended_by: Exception | None = None


class Steps(Protocol):
    """The steps of a cycle: the tracker's own, or wrapped, as the flow does to show each as a task."""

    async def fetch_targets(self, batch_size: int) -> Batch: ...
    async def update_stats(self, targets: Sequence[Target]) -> Sampled: ...
    async def update_channels(self, channels: Sequence[ChannelTarget]) -> Sampled: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics(CycleStatistics):
    """What one or more cycles did; `due`, `deferred` and `starving` are of the last that looked.

    `skipped` counts videos and channels alike.
    """

    videos: int = 0
    samples: int = 0
    hidden: int = 0
    missing: int = 0
    gone: int = 0
    refreshed: int = 0
    breakouts: int = 0
    channels: int = 0
    degraded: int = 0
    due: Mapping[str, int] = field(default_factory=dict)
    deferred: Mapping[str, int] = field(default_factory=dict)
    starving: int = 0

    def then(self, later: Statistics) -> Statistics:
        both = CycleStatistics.then(self, later)
        looked = later if later.due else self
        return replace(both, due=looked.due, deferred=looked.deferred, starving=looked.starving)


@dataclass(frozen=True, slots=True)
class Progress:
    """A group is through: `done` of `claimed` in this cycle, and what has come of all so far."""

    cycle: int
    samples: int
    breakouts: int
    skipped: int
    done: int
    claimed: int


OnProgress = Callable[[Progress], None]


class Tracker:
    """The steps over an Atlas, and the cycle that they make up; one cycle at a time."""

    def __init__(self, atlas: Atlas, youtube: YouTube, keys: KeyRing, dao: MaiaDAO) -> None:
        self.atlas, self.youtube, self.keys, self.dao = atlas, youtube, keys, dao
        self.settings = atlas.settings.tracker
        self.session = sessions.id_of_run()
        self._sampler = Sampler(atlas, youtube)
        self._cohorts, self._cohorts_at = Cohorts(()), _NEVER
        self._counts, self._counts_at = list[ZoneCounts](), _NEVER
        self._meter = Meter(self.settings, self._cohorts)

    @classmethod
    @asynccontextmanager
    async def open(cls, atlas: Atlas) -> AsyncIterator[Tracker]:
        """A tracker with a client of its own; ConfigError (EmptyKeyRing) if the settings allow none."""
        keys = KeyRing("tracking", atlas=atlas)
        dao = MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        async with (
            keys.settling_together(SETTLED_WITHIN_S),
            YouTube.open(atlas.settings.youtube, keys, clock=atlas.clock) as youtube,
        ):
            yield cls(atlas, youtube, keys, dao)

    async def cycle(
        self,
        batch_size: int | None = None,
        *,
        number: int = 1,
        steps: Steps | None = None,
        on_progress: OnProgress | None = None,
    ) -> Statistics:
        """Sample one batch (by default as large as the settings say) and write what became of it as an event.

        Raises SystemExit(75) after a 429, KeyRejected when no key is left, and DatabaseError when the
        database failed; every claim has then been given back if it answered.
        """
        cycle = _Cycle(self, steps or self, number, on_progress)
        return await cycle.run(self.settings.batch_size if batch_size is None else batch_size)

    # The steps

    async def fetch_targets(self, batch_size: int) -> Batch:
        """Claim due videos as far as the ring may pay for them, and due channels; none while it is closed."""
        ledger = await self.keys.ledger()
        availability = self.keys.verdict(ledger, "stats")
        if not availability.open:
            closed = RingClosed("tracking", "stats", availability.reopens_at, availability.reason)
            return Batch(closing=Closing(closed.reopens_at, str(closed)))
        self._sampler.refreshable = units_now(ledger, "general")
        due, targets, shortage = await self._due(ledger), list[Target](), None
        if any(due.values()):
            budget = spendable(ledger, due[Zone.HOT], self._counts, self.atlas.clock.now(), self.settings)
            if sum(due.values()) > budget:
                targets, shortage = await self._choose(batch_size, budget, ledger)
                due = {count.zone: count.due for count in self._counts}
            else:
                targets = await self.dao.fetch_tracker_targets(batch_size)
        most = min(batch_size, IDS_PER_CALL * self._sampler.refreshable)
        channels = await self.dao.fetch_channel_targets(most) if most else []
        if targets:
            await self._know_cohorts()
            self._meter = Meter(self.settings, self._cohorts, saving=shortage is not None)
        # Together at the end, so that few calls bring their metadata; the hot ones stay ahead.
        targets.sort(key=self._sampler.is_stale)
        return Batch(tuple(targets), tuple(channels), named(due), shortage)

    async def update_stats(self, targets: Sequence[Target]) -> Sampled:
        """Ask for the counts of a group, 50 a call, and store what came in one transaction."""
        asked = await self._sampler.ask(targets)
        sampled = await self._measured_and_stored(asked.readings, asked.videos)
        return replace(sampled, refusals=asked.refusals, ended_by=asked.ended_by)

    async def update_channels(self, channels: Sequence[ChannelTarget]) -> Sampled:
        """Ask in one call for what at most 50 channels count now, and store it."""
        try:
            answer = await self.youtube.channels(channel.id for channel in channels)
        except REFUSALS as error:
            return Sampled(refusals=(Refusal(tuple(channels), error),))
        except ENDINGS as error:
            return Sampled(ended_by=error)
        believed, refusal = believed_of(channels, bool(answer))
        found, at = {channel.id: channel for channel in answer}, self.atlas.clock.now()
        updates = [self._channel_stats(target, found.get(target.id), at) for target in believed]
        stored = await self.dao.update_channel_stats_batch(updates)
        return Sampled(
            frozenset(update.id for update in updates),
            samples=stored.samples,
            skipped={"lease_lost": frozenset(stored.lost)},
            refusals=refusal,
        )

    # Choosing

    async def _due(self, ledger: Sequence[LedgerLine]) -> dict[int, int]:
        """How much is due by zone, counted as far as the ring could pay for; the zones are known then."""
        due = await self.dao.count_due(IDS_PER_CALL * units_now(ledger, "stats") + IDS_PER_CALL)
        now = self.atlas.clock.now()
        if any(due.values()) and now - self._counts_at >= timedelta(seconds=self.settings.round_s):
            self._counts, self._counts_at = await self.dao.clock_counts(), now
        return due

    async def _choose(
        self, batch_size: int, budget: int, ledger: Sequence[LedgerLine]
    ) -> tuple[list[Target], Shortage]:
        """Claim those of the due videos on which a budget of so many samples is spent best."""
        due, now = await self.dao.due_targets(_MOST_WEIGHED), self.atlas.clock.now()
        self._counts, self._counts_at = await self.dao.clock_counts(), now
        chosen, shortage = choose(due, budget, now, self._counts, ledger, self.settings)
        logger.warning(
            "the quota pays for %d of the %d videos that are due; of those left out %d wait too long: "
            "track fewer, or lengthen the zones' intervals",
            len(chosen),
            sum(count.due for count in self._counts),
            shortage.starving,
            extra={"action": "tracker_degraded", "deferred": dict(shortage.deferred)},
        )
        return await self.dao.claim_videos(chosen[:batch_size]) if chosen else [], shortage

    async def _know_cohorts(self) -> None:
        """Read the cohorts of the last days, once a round: what others add meanwhile can wait."""
        now = self.atlas.clock.now()
        if now - self._cohorts_at >= timedelta(seconds=self.settings.round_s):
            today = now.astimezone(UTC).date()
            days = [today - timedelta(days=back) for back in range(self.settings.cohort_days)]
            self._cohorts, self._cohorts_at = Cohorts(await self.dao.cohorts(days)), now

    # Storing

    async def _measured_and_stored(self, readings: Sequence[Reading], videos: Sequence[Video]) -> Sampled:
        if not readings:
            return Sampled()
        norms = await self.dao.channel_norms(self._meter.norm_keys(readings))
        measured = self._meter.measure(readings, norms)
        stored, breakouts = await self._stored(measured, videos)
        await self._announce(breakouts)
        return _sampled(measured, stored, breakouts, len(videos))

    async def _stored(
        self, measured: Measured, videos: Sequence[Video]
    ) -> tuple[BatchStored, Sequence[Breakout]]:
        """All of it in one transaction, tried anew where another one's was in the way."""
        async for trial in stamina.retry_context(
            on=TransactionConflict, attempts=_STORING_TRIES, wait_initial=0.05, wait_max=0.5
        ):
            with trial:
                if not videos and not measured.breakouts:
                    return await self.dao.update_video_stats_batch(measured.updates), ()
                async with self.atlas.db.transaction() as transaction:
                    dao = MaiaDAO(transaction, clock=self.atlas.clock, settings=self.atlas.settings)
                    if videos:
                        await dao.ingest_video_metadata(videos)
                    stored = await dao.update_video_stats_batch(measured.updates)
                    breakouts = [each for each in measured.breakouts if each.id not in stored.lost]
                    await self.atlas.events.append_many(
                        [("tracker.breakout", breakout.as_dict()) for breakout in breakouts],
                        agent="tracker",
                        session=self.session,
                        executor=transaction,
                    )
                return stored, breakouts
        raise AssertionError("the last try raises or returns")

    async def _announce(self, breakouts: Sequence[Breakout]) -> None:
        """Tell people of breakouts that are stored."""
        if not breakouts:
            return
        titles = await self.dao.video_titles([breakout.id for breakout in breakouts])
        for breakout in breakouts:
            times = f"{breakout.ratio:,.1f} times what was to be expected" if breakout.ratio else "unexpected"
            speed = "unknown" if breakout.velocity is None else f"{breakout.velocity:,.0f} views an hour"
            await self.atlas.notifier.notify(
                f"Breakout: {titles.get(breakout.id) or breakout.id}",
                f"https://www.youtube.com/watch?v={breakout.id} grows by {speed}, {times} at its age of "
                f"{breakout.age_h:,.0f} h (computed by Pleiades, not by YouTube).",
                level=self.settings.breakout_alert,
                key=f"breakout {breakout.id} {breakout.at.isoformat()}",
            )

    def _channel_stats(self, target: ChannelTarget, channel: Channel | None, at: datetime) -> ChannelStats:
        due_at = at + timedelta(hours=self.settings.channel_interval_h)
        if channel is None:
            misses = target.misses + 1
            gone = misses >= self.settings.misses_before_gone
            return ChannelStats(target.id, target.lease_token, None, due_at, misses=misses, gone=gone)
        return ChannelStats(
            target.id,
            target.lease_token,
            at,
            due_at,
            channel.subscriber_count,
            channel.video_count,
            channel.view_count,
            channel.title,
        )

    async def meet_watched(self) -> None:
        """Fetch and store watched videos that nobody has met yet, those whose turn it is, in one call."""
        if self._sampler.refreshable < 1:
            return
        watches = WatchesDAO(self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings)
        ids = await watches.claim_unknown_videos(IDS_PER_CALL)
        if not ids:
            return
        try:
            videos = await self.youtube.videos(ids)
            await keep_answers(self.atlas.vault, videos)
        except (*REFUSALS, VaultError) as error:
            logger.warning("watched videos wait: %s", error, extra={"action": "watches_refused"})
            return
        if videos:
            await self.dao.ingest_video_metadata(videos)
        logger.info(
            "met %d of %d watched videos", len(videos), len(ids), extra={"action": "watched_videos_met"}
        )

    async def keep_cohorts(self) -> None:
        """Store what this cycle's videos add to the cohorts."""
        await self.dao.merge_cohorts(self._cohorts.take_added(), Cohorts.merged)

    async def keep_house(self) -> None:
        """Make tomorrow's partition ahead, and drop what is older than may be kept."""
        today = self.atlas.clock.now().astimezone(UTC).date()
        try:
            await self.dao.ensure_partitions([today, today + timedelta(days=1)])
            dropped = await self.dao.drop_samples_before(today - timedelta(days=self.settings.retention_days))
        except DatabaseError as error:
            logger.warning("old samples are still there: %s", error, extra={"action": "retention_failed"})
            return
        if dropped:
            logger.info("dropped %s", ", ".join(dropped), extra={"action": "samples_dropped"})


class _Cycle(Cycle[Target | ChannelTarget, Statistics]):
    """One cycle under way, with the groups that wait for a worker and what the others brought."""

    agent = "tracker"
    idle = "nothing is due now"

    def __init__(self, tracker: Tracker, steps: Steps, number: int, on_progress: OnProgress | None) -> None:
        super().__init__(tracker.atlas, tracker.youtube, tracker.session)
        self.tracker, self.steps, self.number, self.on_progress = tracker, steps, number, on_progress
        self.batch = Batch()
        self.videos: list[Sampled] = []
        self.channels: list[Sampled] = []
        self.begin_until_s = 0.0

    async def _do(self, batch_size: int) -> None:
        await self._fetch(self.steps.fetch_targets(batch_size), self._accept)
        calls = self.atlas.settings.youtube.concurrency
        groups = deque(split(self.batch.targets, CALLS_PER_GROUP * IDS_PER_CALL))
        workers = min(-(-calls // CALLS_PER_GROUP) + 1, len(groups))
        await self._work_together(self._sample_videos(groups) for _ in range(workers))
        chunks = deque(split(self.batch.channels))
        await self._work_together(self._sample_channels(chunks) for _ in range(min(calls, len(chunks))))
        if self.stopped is None:
            await self.tracker.meet_watched()
        if self.claimed:
            await self.tracker.keep_cohorts()
            await self.tracker.keep_house()

    def _accept(self, batch: Batch) -> None:
        self.batch = batch
        self.held = {("video", target.id): target for target in batch.targets}
        self.held |= {("channel", channel.id): channel for channel in batch.channels}
        self.claimed = len(self.held)
        self.begin_until_s = time.monotonic() + self.tracker.settings.lease_s / 2
        if batch.shortage:
            self.idle = "what is due waits: until the reset the quota is kept for hot videos"
        if batch.closing:
            self._close(batch.closing)

    def _may_begin(self) -> bool:
        if self.stopped is None and time.monotonic() > self.begin_until_s:
            self.stopped = "late"
        return self.stopped is None

    async def _sample_videos(self, groups: deque[Sequence[Target]]) -> None:
        while groups and self._may_begin():
            sampled = await self.steps.update_stats(groups.popleft())
            self.videos.append(sampled)
            await self._settle("video", sampled)

    async def _sample_channels(self, chunks: deque[Sequence[ChannelTarget]]) -> None:
        while chunks and self._may_begin():
            sampled = await self.steps.update_channels(chunks.popleft())
            self.channels.append(sampled)
            await self._settle("channel", sampled)

    async def _settle(self, kind: str, sampled: Sampled) -> None:
        """Forget what is stored, do with the rest what the table at the head of this module says."""
        for id_ in sampled.settled:
            del self.held[kind, id_]
        for reason, ids in sampled.skipped.items():
            self._skip(reason, len(ids))
        for refusal in sampled.refusals:
            await self._refuse(kind, refusal)
        self._report()
        if sampled.ended_by is not None:
            raise sampled.ended_by

    async def _refuse(self, kind: str, refusal: Refusal) -> None:
        reason, error = reason_of(refusal.error), refusal.error
        if reason == "ring_closed" and kind == "video":
            # Stays held: given back at the end, together with what was not begun.
            self._close(Closing(getattr(error, "reopens_at", None), str(error)))
            return
        logger.warning(
            "skipped %d %ss (%s): %s", len(refusal.items), kind, reason, error,
            extra={"action": f"skipped_{reason}"},
        )  # fmt: skip
        for item in refusal.items:
            del self.held[kind, item.id]
        self._skip(reason, len(refusal.items))
        await self._put_back(
            refusal.items,
            error=str(error),
            retry_after_s=self.tracker.settings.retry_after_s,
            # That nobody could be reached says nothing of the videos.
            count_attempt=reason in ("empty", "bad_request"),
        )

    async def _put_back(self, items: Sequence[Item], **how: Any) -> None:
        videos = [item for item in items if isinstance(item, Target)]
        channels = [item for item in items if isinstance(item, ChannelTarget)]
        if videos:
            await self.tracker.dao.release_videos(videos, **how)
        if channels:
            await self.tracker.dao.release_channels(channels, **how)

    def _skip(self, reason: str, count: int) -> None:
        if count:
            self.skipped[reason] += count

    async def _release(self, items: Sequence[Item]) -> None:
        await self._put_back(items, count_attempt=False)

    def _given_back(self, items: Sequence[Item], reason: str) -> None:
        self._report()

    def _report(self) -> None:
        if self.on_progress is not None:
            samples, breakouts = self._sum("samples"), self._sum("breakouts")
            done = self.claimed - len(self.held)
            skipped = self.skipped.total()
            self.on_progress(Progress(self.number, samples, breakouts, skipped, done, self.claimed))

    def _sum(self, name: str) -> int:
        return sum(getattr(sampled, name) for sampled in self.videos)

    def _counted(self) -> Statistics:
        shortage = self.batch.shortage
        return Statistics(
            videos=len(self.batch.targets),
            samples=self._sum("samples"),
            hidden=self._sum("hidden"),
            missing=self._sum("missing"),
            gone=self._sum("gone"),
            refreshed=self._sum("refreshed"),
            breakouts=self._sum("breakouts"),
            channels=sum(sampled.samples for sampled in self.channels),
            degraded=int(shortage is not None),
            due=self.batch.due,
            deferred=shortage.deferred if shortage else {},
            starving=shortage.starving if shortage else 0,
        )

    def _summary(self, statistics: Statistics) -> str:
        left = sum(statistics.deferred.values())
        return (
            f"sampled {statistics.samples} of {statistics.videos} videos: {statistics.breakouts} breakouts, "
            f"{statistics.gone} gone; {statistics.channels} channels"
            + (f"; {left} due videos are left out, as the quota is short" if left else "")
        )


def _sampled(
    measured: Measured, stored: BatchStored, breakouts: Sequence[Breakout], refreshed: int
) -> Sampled:
    kept = [update for update in measured.updates if update.id not in stored.lost]
    absent = [update for update in kept if update.sampled_at is None and update.id not in measured.not_later]
    return Sampled(
        frozenset(update.id for update in measured.updates),
        samples=stored.samples,
        hidden=sum(update.sampled_at is not None and update.views is None for update in kept),
        missing=len(absent),
        gone=sum(update.gone for update in absent),
        refreshed=refreshed,
        breakouts=len(breakouts),
        skipped={
            "lease_lost": frozenset(stored.lost),
            "not_later": measured.not_later - frozenset(stored.lost),
        },
    )


async def run(
    atlas: Atlas,
    *,
    batch_size: int | None = None,
    cycles: int = 1,
    on_progress: OnProgress | None = None,
    wrap: Callable[[Steps], Steps] | None = None,
) -> dict[str, Any]:
    """Sample up to `cycles` batches, fewer if the ring closes or nothing is due; returns the statistics.

    `wrap` puts something around the steps. Raises as `Tracker.cycle` does.
    """
    refuse_nothing(batch_size, cycles)
    async with Tracker.open(atlas) as tracker:
        steps: Steps = wrap(tracker) if wrap else tracker

        def cycle(number: int) -> Awaitable[Statistics]:
            return tracker.cycle(batch_size, number=number, steps=steps, on_progress=on_progress)

        return (await repeated(cycles, cycle, Statistics())).as_dict()


async def run_direct(
    settings: Settings,
    batch_size: int | None = None,
    cycles: int = 1,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Track without Prefect, and return the statistics.

    The outcomes "unavailable" (exit status 69) and "keys_rejected" (78) are failures, every other one is a
    success. Raises as `maia.cycles.directly` does.
    """
    return await directly(
        settings, lambda atlas: run(atlas, batch_size=batch_size, cycles=cycles, on_progress=on_progress)
    )
