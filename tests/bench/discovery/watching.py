"""Watching channels in virtual time: feeds, the counts of channels.list, and pages of uploads.

What to look at and when is decided by `maia.learning.polling`, as in the product. A look is worked out for
many channels at once, because a run has hundreds of thousands: which uploads a copy of a feed shows, how old
the copy is and whether it is missing follow the world's realism.
"""

from __future__ import annotations

import numpy as np

from maia.learning.polling import (
    DEFAULTS,
    ChannelEvidence,
    PollingSettings,
    first_look,
    growing_share,
    interval_h,
    observe,
    rate_per_h,
    spacing,
    value_per_h,
)
from maia.learning.velocity import Booleans, Floats, Integers
from tests.bench.discovery.scene import DAYS_BEFORE, HOUR
from tests.bench.discovery.simulation import Desk

ENTRIES = 15
_REPLAN_S = 2 * HOUR
_UNIQUE = 1 << 40


class Watch:
    """The channels that a run watches: what is known of their uploads, and when each is looked at next."""

    def __init__(self, desk: Desk, settings: PollingSettings = DEFAULTS) -> None:
        self.desk, self.scene, self.settings = desk, desk.scene, settings
        self.order, self.begin = self.scene.by_channel
        # One ascending key per upload, so that one search finds a place in each of many channels.
        self.keys = self.scene.channel[self.order] * _UNIQUE + self.scene.published[self.order].astype(
            np.int64
        )
        channels = len(self.begin) - 1
        self.evidence = ChannelEvidence.none(channels)
        self.seen = self.begin[:-1].copy()
        """For each channel, where in `order` the uploads begin that no look has shown."""
        self.counted = np.zeros(channels, np.int64)
        self.looked_s = np.full(channels, np.nan)
        self.feed_due_s, self.count_due_s = np.full(channels, np.inf), np.full(channels, np.inf)
        self.feed_wait_s, self.count_wait_s = np.full(channels, HOUR), np.full(channels, HOUR)
        self._planned_s = -np.inf
        self._random = np.random.default_rng([self.scene.seed, 99])

    # The plan

    def plan(self, feeds_per_h: float, counts_per_h: float) -> None:
        """Recompute the intervals now and then, and take in channels that were met since."""
        now = self.desk.now
        known = np.flatnonzero(~np.isnan(self.desk.known_s))
        fresh = known[np.isinf(self.feed_due_s[known])]
        self.feed_due_s[fresh] = now
        self.count_due_s[fresh] = now
        if now - self._planned_s < _REPLAN_S or not len(known):
            return
        self._planned_s = now
        evidence = self._of(known)
        value, rate = value_per_h(evidence, self.settings), rate_per_h(evidence, self.settings)
        for due, wait, budget in (
            (self.feed_due_s, self.feed_wait_s, feeds_per_h),
            (self.count_due_s, self.count_wait_s, counts_per_h),
        ):
            if budget <= 0:
                due[known], wait[known] = np.inf, np.inf
                continue
            plan = spacing(value, rate, budget, settings=self.settings)
            wait[known] = HOUR * interval_h(value, rate, plan, settings=self.settings)
            looked = self.looked_s[known]
            due[known] = np.where(np.isnan(looked), now, np.fmax(looked + wait[known], now))

    def _of(self, channels: Integers) -> ChannelEvidence:
        e = self.evidence
        return ChannelEvidence(
            e.uploads[channels], e.watched_h[channels], e.growing[channels], e.judged[channels]
        )

    def due(self, due_s: Floats, most: int) -> Integers:
        """Up to `most` channels that are due, those first that have been longest."""
        late = np.flatnonzero(due_s <= self.desk.now)
        return late[np.argsort(due_s[late], kind="stable")][:most]

    # Looking

    def uploads_by(self, channels: Integers, at_s: Floats | float) -> Integers:
        """For each channel, where in `order` its uploads after an instant begin."""
        instants = np.broadcast_to(np.asarray(at_s, np.float64), channels.shape).astype(np.int64)
        found: Integers = np.searchsorted(self.keys, channels * _UNIQUE + instants, side="right")
        return found

    def copies(self, channels: Integers) -> tuple[Floats, Booleans]:
        """The instant that each channel's feed shows now, and whether it is there at all."""
        realism, now = self.desk.world.realism, self.desk.now
        age_s = self._random.random(len(channels)) * 60 * realism.feed_cache_min
        stale = self._random.random(len(channels)) < realism.feed_stale
        age_s += np.where(stale, HOUR * realism.feed_stale_h * self._random.random(len(channels)), 0)
        return now - age_s, self._random.random(len(channels)) >= realism.feed_missing

    def look_at_feeds(self, channels: Integers, arm: str = "feeds") -> Integers:
        """Ask for the feeds of channels; returns those that were missing."""
        if not len(channels):
            return channels
        self.desk.ledger.charge(self.desk.day, "feeds", arm, len(channels))
        as_of, there = self.copies(channels)
        self._show(channels[there], as_of[there], arm, ENTRIES)
        return channels[~there]

    def look_at_pages(self, channels: Integers, arm: str = "uploads") -> None:
        """Ask for a page of the uploads of each channel, for a unit each."""
        if len(channels):
            self.desk.ledger.charge(self.desk.day, "general", arm, len(channels))
            delay_s = 60 * self.desk.world.realism.uploads_delay_min * self._random.random(len(channels))
            self._show(channels, self.desk.now - delay_s, arm, 50)

    def _show(self, channels: Integers, as_of: Floats, arm: str, entries: int) -> None:
        end = self.uploads_by(channels, as_of)
        first = np.isnan(self.looked_s[channels])
        begin = np.maximum(self.seen[channels], end - entries)
        begin = np.maximum(begin, self.begin[channels])
        lengths = np.maximum(end - begin, 0)
        rows = np.repeat(np.arange(len(channels)), lengths)
        places = begin[rows] + np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        shown = self.order[places]
        self._learn(channels, first, lengths, as_of)
        self.seen[channels] = np.maximum(self.seen[channels], end)
        self.counted[channels] = np.maximum(self.counted[channels], end - self.begin[channels])
        self.looked_s[channels] = self.desk.now
        # Old uploads of a first look are not worth a unit.
        recent = self.desk.now - self.scene.published[shown] <= 36 * HOUR
        self.desk.store(arm, np.unique(shown[recent]))
        self._reschedule(channels)

    def _learn(self, channels: Integers, first: Booleans, uploads: Integers, as_of: Floats) -> None:
        again = channels[~first]
        if len(again):
            waited = (self.desk.now - self.looked_s[again]) / HOUR
            seen = observe(self._of(again), waited_h=waited, uploads=uploads[~first], settings=self.settings)
            self._set(again, seen)
        if first.any():
            self._first(channels[first], as_of[first])

    def _first(self, channels: Integers, at_s: Floats) -> None:
        """What the entries of feeds that were never seen tell of their channels."""
        end = self.uploads_by(channels, at_s)
        begin = np.maximum(self.begin[channels], end - ENTRIES)
        lengths = end - begin
        rows = np.repeat(np.arange(len(channels)), lengths)
        numbers = self.order[
            begin[rows] + np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        ]
        views = np.split(self.scene.catalogue.views_at(numbers, at_s[rows]), np.cumsum(lengths)[:-1])
        ages = np.split((at_s[rows] - self.scene.published[numbers]) / HOUR, np.cumsum(lengths)[:-1])
        # The catalogue begins three days before the first virtual day, and so do its channels.
        oldest_h = (at_s - self.scene.start_s) / HOUR + 24 * DAYS_BEFORE
        parts = [
            first_look(
                age.tolist(),
                counts.tolist(),
                self.desk.threshold,
                is_full=len(age) == ENTRIES,
                channel_age_h=float(since),
                settings=self.settings,
            )
            for age, counts, since in zip(ages, views, oldest_h, strict=True)
        ]
        columns = ("uploads", "watched_h", "growing", "judged")
        self._set(
            channels,
            ChannelEvidence(*(np.concatenate([getattr(part, c) for part in parts]) for c in columns)),
        )

    def _set(self, channels: Integers, evidence: ChannelEvidence) -> None:
        e = self.evidence
        e.uploads[channels], e.watched_h[channels] = evidence.uploads, evidence.watched_h
        e.growing[channels], e.judged[channels] = evidence.growing, evidence.judged

    def _reschedule(self, channels: Integers) -> None:
        self.feed_due_s[channels] = self.desk.now + self.feed_wait_s[channels]
        self.count_due_s[channels] = self.desk.now + self.count_wait_s[channels]

    def count(self, channels: Integers) -> Integers:
        """Ask channels.list for the numbers of videos, 50 channels a unit; returns the channels with new
        ones.
        """
        if not len(channels):
            return channels
        self.desk.ledger.charge(self.desk.day, "general", "counts", -(-len(channels) // 50))
        total = self.uploads_by(channels, self.desk.now) - self.begin[channels]
        moved = total > self.counted[channels]
        # One whose upload no copy of its feed shows yet stays noticed until one does.
        self.counted[channels] = np.where(moved, self.counted[channels], total)
        still = channels[~moved & ~np.isnan(self.looked_s[channels])]
        waited = (self.desk.now - self.looked_s[still]) / HOUR
        self._set(
            still,
            observe(self._of(still), waited_h=waited, uploads=np.zeros(len(still)), settings=self.settings),
        )
        self.looked_s[still] = self.desk.now
        self._reschedule(still)
        self.count_due_s[channels] = self.desk.now + self.count_wait_s[channels]
        return channels[moved]

    def judged(self, numbers: Integers, grows: Booleans) -> None:
        """Take in which videos grew."""
        channels = self.scene.channel[numbers]
        np.add.at(self.evidence.judged, channels, 1)
        np.add.at(self.evidence.growing, channels, grows.astype(float))

    def promising(self, channels: Integers) -> Floats:
        """The share of each channel's uploads that is expected to grow."""
        return growing_share(self._of(channels), self.settings)
