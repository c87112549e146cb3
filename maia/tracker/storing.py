"""Stores samples with their breakouts, announces these, and turns the counts of feeds into samples."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.tracking import BatchStored
from atlas.adapters.uploads import UploadsDAO
from atlas.composition import Atlas
from atlas.conflicts import retry_conflicts
from atlas.db import Transaction
from atlas.wording import counted
from maia.tracker.feed_counts import judge
from maia.tracker.measuring import Breakout, Measured, Meter
from maia.youtube.resources import Video

FEED_COUNTS = 1000
"""Most counts of feeds that are used in one transaction."""

_STALENESS_SHARE = 0.2
"""The weight of the latest counts in the estimate of how late feeds are."""


@dataclass(frozen=True, slots=True)
class FeedCountsUsed:
    """How many counts of feeds were taken, how many became samples, and how many waits forecasts changed."""

    counts: int = 0
    samples: int = 0
    breakouts: int = 0
    by_forecast: int = 0


class Storage:
    """Stores what a meter has measured, and retries if a transaction conflicts with another one."""

    def __init__(self, atlas: Atlas, dao: MaiaDAO, session: str) -> None:
        self.atlas, self.dao, self.session = atlas, dao, session

    async def store(
        self, measured: Measured, videos: Sequence[Video]
    ) -> tuple[BatchStored, Sequence[Breakout]]:
        """Store samples, metadata and breakouts in one transaction, and send alerts for the breakouts."""
        async for trial in retry_conflicts():
            with trial:
                if not videos and not measured.breakouts:
                    return await self.dao.update_video_stats_batch(measured.updates), ()
                async with self._transaction() as (transaction, dao):
                    if videos:
                        await dao.ingest_video_metadata(videos)
                    stored, breakouts = await self._store(transaction, dao, measured)
        await self._announce(breakouts)
        return stored, breakouts

    async def use_feed_counts(self, meter: Meter) -> FeedCountsUsed:
        """Make samples of the oldest counts that feeds showed, in one transaction.

        A video whose count becomes a sample is due later, which saves the unit of an API sample.
        """
        async for trial in retry_conflicts():
            with trial:
                async with self._transaction() as (transaction, dao):
                    used, breakouts = await self._use_feed_counts(transaction, dao, meter)
        await self._announce(breakouts)
        return used

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[tuple[Transaction, MaiaDAO]]:
        async with self.atlas.db.transaction() as transaction:
            yield transaction, MaiaDAO(transaction, clock=self.atlas.clock, settings=self.atlas.settings)

    async def _use_feed_counts(
        self, transaction: Transaction, dao: MaiaDAO, meter: Meter
    ) -> tuple[FeedCountsUsed, Sequence[Breakout]]:
        seen = await dao.claim_feed_counts(FEED_COUNTS)
        if not seen:
            return FeedCountsUsed(), ()
        uploads = UploadsDAO(transaction, clock=self.atlas.clock, settings=self.atlas.settings)
        judged = judge(seen, (await uploads.pace()).stale_s / 3600)
        if judged.lag_h is not None:
            await uploads.set_staleness(judged.lag_h * 3600, _STALENESS_SHARE)
        norms = await dao.channel_norms(meter.norm_keys(judged.readings))
        measured = meter.measure(judged.readings, norms)
        stored, breakouts = await self._store(transaction, dao, measured)
        used = {reading.target.id for reading in judged.readings}
        unused = [target for target, _ in seen if target.id not in used]
        await dao.release_videos(unused, count_attempt=False)
        await dao.delete_feed_counts((target.id, count.at) for target, count in seen)
        return FeedCountsUsed(len(seen), stored.samples, len(breakouts), measured.by_forecast), breakouts

    async def _store(
        self, transaction: Transaction, dao: MaiaDAO, measured: Measured
    ) -> tuple[BatchStored, Sequence[Breakout]]:
        stored = await dao.update_video_stats_batch(measured.updates)
        breakouts = [each for each in measured.breakouts if each.id not in stored.lost]
        await self.atlas.events.append_many(
            [("tracker.breakout", breakout.as_dict()) for breakout in breakouts],
            agent="tracker",
            session=self.session,
            executor=transaction,
        )
        return stored, breakouts

    async def _announce(self, breakouts: Sequence[Breakout]) -> None:
        """Send an alert for each stored breakout."""
        if not breakouts:
            return
        titles = await self.dao.video_titles([breakout.id for breakout in breakouts])
        for breakout in breakouts:
            times = f"{breakout.ratio:,.1f} times what was expected" if breakout.ratio else "unexpectedly"
            speed = (
                "unknown"
                if breakout.velocity is None
                else f"{counted(round(breakout.velocity), 'view')} an hour"
            )
            await self.atlas.notifier.notify(
                f"Breakout: {titles.get(breakout.id) or breakout.id}",
                f"https://www.youtube.com/watch?v={breakout.id} grows by {speed}, {times} at its age of "
                f"{breakout.age_h:,.0f} h (computed by Pleiades, not by YouTube).",
                level=self.atlas.settings.tracker.breakout_alert,
                key=f"breakout {breakout.id} {breakout.at.isoformat()}",
            )
