"""When channels' uploads are looked at, how fast feeds may be asked for, and the counts that feeds show.

Each stored channel has a row in the plan of looks. A claim leases some of them. Right before each request,
one statement takes its turn in the common pace and moves the channel's next look an interval away. So nobody
asks twice within an interval, even if a claimant is killed, and what it did not ask is due again when its
lease ends. All instants are the process's clock's, except that leases of gaps end by the database's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import NamedTuple, Self
from uuid import UUID, uuid4

from atlas.adapters.dao import DAO
from atlas.clock import pacific_day
from atlas.db import Executor, Row
from atlas.errors import LeaseLost
from atlas.queries import clean_text

WATCHED_LOOK_H = 0.5
"""Longest time between looks at a channel that somebody watches."""

_BURST_S = 2.0
"""Requests that were not sent lately may be sent at once, up to this many seconds' worth."""
_PROBE_S = 60.0
_SCALE_LIFETIME_H, _FIRST_SCALES_LIFETIME_H = 1.0, 0.1
"""How long a scale serves; while there are few channels, their number may grow fast."""
_SCALE_SAMPLE = 20_000
"""How many channels to read for working out the scale, of however many there are."""
_MUCH_SOONER, _MOST_MOVED = 0.8, 20_000
"""A new scale reschedules channels whose interval it shortens to less than this share, so many at a time."""
_FRESHEST_SHARE = 0.5
"""A feed's count becomes a sample once this part of the video's interval has passed since the last one."""


@dataclass(frozen=True, slots=True)
class IntervalRule:
    """The scale and bounds of channels' intervals, and what is assumed of a channel before any answer."""

    scale: float
    stretch: float
    worth: float
    rate: float
    shortest_h: float
    longest_h: float
    watched_longest_h: float
    most_missed: float


class ClaimedLook(NamedTuple):
    """A channel claimed for a look, as the claim returns it."""

    channel_id: str
    token: UUID
    claimed_at: datetime
    due_at: datetime
    answered_at: datetime | None
    newest_at: datetime | None
    judged_until: datetime | None
    retry_feed_at: datetime | None
    video_count: int | None
    uploads: float
    watched_h: float
    growing: float
    judged: float
    failures: int
    watched: bool
    by_feed: bool
    etag: str | None
    last_modified: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LookResult:
    """What a look told, and the new state of its channel; `gap_since` opens a gap, `gone` ends all looks.

    If it was not `answered`, the channel's rate, worth and time of the last answer stay as they were.
    """

    channel_id: str
    asked_at: datetime
    answered: bool
    interval_h: float
    rate: float
    worth: float
    uploads: float
    watched_h: float
    growing: float
    judged: float
    newest_at: datetime | None
    judged_until: datetime | None
    gap_since: datetime | None = None
    retry_feed_at: datetime | None = None
    video_count: int | None = None
    failures: int = 0
    by_feed: bool = True
    gone: bool = False
    etag: str | None = None
    last_modified: str | None = None
    watched: bool = False
    """As claimed; it is not stored."""

    @classmethod
    def of(cls, look: ClaimedLook, asked_at: datetime) -> Self:
        """What a look leaves as it was; the caller adds what the answer told, and the interval."""
        return cls(
            channel_id=look.channel_id, asked_at=asked_at, answered=False, interval_h=0.0, rate=1.0,
            worth=1.0, uploads=look.uploads, watched_h=look.watched_h, growing=look.growing,
            judged=look.judged, newest_at=look.newest_at, judged_until=look.judged_until,
            retry_feed_at=look.retry_feed_at, video_count=look.video_count, failures=look.failures,
            by_feed=look.by_feed, etag=look.etag, last_modified=look.last_modified, watched=look.watched,
        )  # fmt: skip


class Gap(NamedTuple):
    """A channel of which the uploads after `since` are missing."""

    channel_id: str
    since: datetime
    attempts: int
    token: UUID


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast feeds are asked for, and whether that rests: `closed_until` may be past."""

    next_at: datetime
    looks: int
    """Requests sent today, the Pacific day."""
    closed_until: datetime | None
    refusals: int
    probe_until: datetime | None
    reason: str | None
    scale: float
    stretch: float
    scaled_at: datetime | None
    stale_s: float
    growing_views_per_hour: float | None
    """From how many views an hour on a video counts as growing; None before that is known."""


@dataclass(frozen=True, slots=True)
class Walk:
    """How far all of a channel's uploads have been listed; there is no `page_token` once it is finished."""

    channel_id: str
    begun_at: datetime
    page_token: str | None
    issued_at: datetime
    pages: int = 0
    listed: int = 0
    stored: int = 0
    finished_at: datetime | None = None


class SeenCount(NamedTuple):
    """A video's views as a feed showed them."""

    video_id: str
    at: datetime
    views: int


class PlannedChannel(NamedTuple):
    """A channel in the plan; `worth` and `rate` are None before its first answer."""

    worth: float | None
    rate: float | None
    watched: bool


_look_columns = attrgetter(
    "channel_id", "asked_at", "answered", "interval_h", "rate", "worth", "uploads", "watched_h", "growing",
    "judged", "newest_at", "judged_until", "gap_since", "retry_feed_at", "video_count", "failures", "by_feed",
    "gone", "etag", "last_modified",
)  # fmt: skip


class UploadsDAO(DAO):
    """The plan of looks at channels' uploads, the pace of requests for feeds, and the counts in feeds."""

    # Looks

    async def claim_looks(
        self, feeds: int, rule: IntervalRule, hold: timedelta, *, counts: int = 0
    ) -> list[ClaimedLook]:
        """Claim due channels: up to `feeds` with a working feed, and up to `counts` without one.

        They are this claimant's until `hold` has passed. Watched channels come first, then the longest due.
        """
        now, token = self._clock.now(), uuid4()
        rows = await self._executor.fetch(
            "uploads.claim_looks", feeds, now, token, counts, hold / timedelta(hours=1), rule.scale,
            rule.stretch, rule.worth, rule.rate, rule.shortest_h, rule.longest_h, rule.watched_longest_h,
            rule.most_missed,
        )  # fmt: skip
        looks = [_claimed(row, token, now) for row in rows]
        return sorted(looks, key=lambda look: (not look.watched, look.due_at))

    async def retry_feeds(self, most: int, failures: int) -> int:
        """Let feeds that were given up be looked at again, where it is time to; returns how many.

        They count as having failed `failures` times in a row.
        """
        return await self._executor.execute("uploads.retry_feeds", self._clock.now(), failures, most)

    async def give_looks_back(self, looks: Iterable[ClaimedLook]) -> int:
        """Undo claims about which nobody asked; returns how many were still held."""
        count = 0
        for token, ids in _by_token(looks).items():
            count += await self._executor.execute("uploads.give_looks_back", ids, token)
        return count

    async def store_looks(self, token: UUID, results: Sequence[LookResult]) -> int:
        """Store what looks told, of those still claimed under `token`; returns how many these are."""
        if not results:
            return 0
        # In the order in which other statements lock channels.
        ordered = sorted(results, key=attrgetter("channel_id"))
        columns = zip(*map(_look_columns, ordered), strict=True)
        stored: int = await self._executor.fetchval("uploads.store_looks", token, *columns)
        return stored

    async def next_look_at(self) -> datetime | None:
        """When the next feed is due; None if no channel has one."""
        at: datetime | None = await self._executor.fetchval("uploads.next_look_at")
        return at

    @staticmethod
    async def watch(executor: Executor, channels: Sequence[str], watched: bool, now: datetime) -> None:
        """Look at these channels every WATCHED_LOOK_H or more often; or as at all others again."""
        await executor.execute("uploads.watch_channels", channels, watched, now, WATCHED_LOOK_H)

    # Gaps

    async def claim_gaps(self, most: int, lease_s: float) -> list[Gap]:
        """Lease channels of which uploads are missing."""
        token = uuid4()
        rows = await self._executor.fetch("uploads.claim_gaps", most, token, lease_s)
        gaps = [Gap(row["channel_id"], row["gap_since"], row["gap_attempts"], token) for row in rows]
        return sorted(gaps, key=attrgetter("since", "channel_id"))

    async def close_gap(self, gap: Gap) -> bool:
        """Record that a gap is filled; False if the lease was lost."""
        return await self._executor.fetchval("uploads.close_gap", gap.channel_id, gap.token) is not None

    async def release_gaps(
        self, gaps: Iterable[Gap], *, retry_after_s: float, count_attempt: bool, max_attempts: int
    ) -> None:
        """Release leases; a gap that has failed `max_attempts` times is given up."""
        by_token: dict[UUID, list[str]] = {}
        for gap in gaps:
            by_token.setdefault(gap.token, []).append(gap.channel_id)
        for token, ids in by_token.items():
            await self._executor.execute(
                "uploads.release_gaps", ids, token, float(retry_after_s), count_attempt, max_attempts
            )

    # Walks through all uploads

    async def walk_of(self, channel_id: str) -> Walk | None:
        """How far somebody has got in listing all of a channel's uploads."""
        row = await self._executor.fetchrow("uploads.walk_of", channel_id)
        return None if row is None else Walk(**row)

    async def store_walk(self, walk: Walk) -> None:
        """Store how far a walk has got, in the transaction that stores its videos."""
        await self._executor.execute(
            "uploads.store_walk", walk.channel_id, walk.begun_at, walk.page_token, walk.issued_at, walk.pages,
            walk.listed, walk.stored, walk.finished_at,
        )  # fmt: skip

    async def meet_channel(self, channel_id: str) -> None:
        """Store a channel if it is new, so that the tracker fetches it."""
        await self._executor.execute("uploads.meet_channel", channel_id, self._clock.now())

    async def unknown_videos(self, ids: Sequence[str]) -> list[str]:
        """Those of the videos that are not stored, in order."""
        return [row["id"] for row in await self._executor.fetch("uploads.unknown_videos", ids)]

    # Pace

    async def begin_look(self, look: ClaimedLook, hold: timedelta) -> bool | None:
        """Take the right to ask for a claimed channel's feed now; None if the pace doesn't allow it yet.

        True if the request tests whether feeds answer again after a refusal. Until its answer is stored, the
        channel's next look is an interval away from when the request may last arrive, which is `hold` from
        now. Raises LeaseLost if somebody else has claimed the channel meanwhile.
        """
        now, feeds = self._clock.now(), self._settings.feeds
        row = await self._executor.fetchrow(
            "uploads.begin_look", now, 1 / feeds.requests_per_s, _BURST_S, feeds.looks_per_day,
            pacific_day(now), _PROBE_S, look.channel_id, look.token, hold / timedelta(hours=1),
        )  # fmt: skip
        assert row is not None
        if not row["is_held"]:
            raise LeaseLost(f"somebody else looks at {look.channel_id} now")
        is_probe: bool | None = row["is_probe"]
        return is_probe

    async def pace(self) -> Pace:
        """How fast feeds are asked for now."""
        row = await self._executor.fetchrow("uploads.pace", pacific_day(self._clock.now()))
        assert row is not None
        return Pace(**row)

    async def back_off(self, reason: str, retry_after_s: float | None, first_s: float) -> datetime:
        """Let nobody ask for feeds for some time, because YouTube refused one; returns until when."""
        longest_s = self._settings.feeds.longest_back_off_s
        until: datetime = await self._executor.fetchval(
            "uploads.back_off", self._clock.now(), clean_text(reason)[:500], retry_after_s, first_s, longest_s
        )
        return until

    async def resume(self, asked_at: datetime) -> None:
        """Record that a request sent at `asked_at` was answered, which ends a back-off."""
        await self._executor.execute("uploads.resume", asked_at)

    # Scale

    async def plan_to_scale(self) -> tuple[list[PlannedChannel], float] | None:
        """A sample of the plan and the fraction that it is; None if the scale was worked out lately."""
        percent = await self._executor.fetchval(
            "uploads.claim_scaling", self._clock.now(), _SCALE_LIFETIME_H, _SCALE_SAMPLE,
            _FIRST_SCALES_LIFETIME_H,
        )  # fmt: skip
        if percent is None:
            return None
        rows = await self._executor.fetch("uploads.sample_plan", percent)
        return [PlannedChannel(*row) for row in rows], percent / 100

    async def set_scale(self, rule: IntervalRule) -> int:
        """Use the scale and stretch of this rule from now on.

        Channels that would wait much longer than it says are rescheduled; returns how many.
        """
        moved: int = await self._executor.fetchval(
            "uploads.set_scale", rule.scale, rule.stretch, rule.worth, rule.rate, rule.shortest_h,
            rule.longest_h, rule.watched_longest_h, rule.most_missed, _MUCH_SOONER, _MOST_MOVED,
        )  # fmt: skip
        return moved

    # Counts in feeds

    async def add_counts(self, counts: Sequence[SeenCount]) -> int:
        """Keep counts for the tracker, of videos that are due for a sample before long; returns how many."""
        if not counts:
            return 0
        columns = zip(*counts, strict=True)
        return await self._executor.execute("uploads.add_counts", *columns, _FRESHEST_SHARE)

    async def set_staleness(self, stale_s: float, share: float) -> None:
        """Count a new estimate of how old the counts in feeds are by the share `share`."""
        await self._executor.execute("uploads.set_staleness", stale_s, share)


def _claimed(row: Row, token: UUID, now: datetime) -> ClaimedLook:
    channel_id, due_at, *rest = row
    return ClaimedLook(channel_id, token, now, due_at, *rest)


def _by_token(looks: Iterable[ClaimedLook]) -> Mapping[UUID, list[str]]:
    by_token: dict[UUID, list[str]] = {}
    for look in looks:
        by_token.setdefault(look.token, []).append(look.channel_id)
    return by_token
