"""The source `feeds`: channels' RSS feeds, which cost no units and show the views of 15 uploads each.

Which channels to ask, and when, follows from what their feeds showed so far (`maia.learning.polling`). An ask
is a group of channels, one request each, sent one after the other at the pace that all hunters share. A
refusal (429, 403, a server error, an answer that is no feed) makes all hunters pause: it is recorded before
anything else happens. A feed that fails three times in a row is left to the source `uploads`, and so are
uploads that a feed was too short to show. What is the service's fault is no failure of a channel.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import ClassVar

import numpy as np

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.uploads import (
    WATCHED_LOOK_H,
    ClaimedLook,
    IntervalRule,
    LookResult,
    Pace,
    SeenCount,
    UploadsDAO,
)
from atlas.composition import Atlas
from atlas.config import Bucket
from atlas.errors import LeaseLost
from atlas.wording import counted
from maia.discovery.source import FEEDS, Ask, Finding, Source, Stored
from maia.learning import growth, polling
from maia.youtube.client import YouTube
from maia.youtube.errors import BadRequest, Gone, RateLimited, Transient, YouTubeError
from maia.youtube.resources import Feed, FeedEntry, NotModified, Validators

logger = logging.getLogger(__name__)

CHANNELS_PER_ASK = 25
"""Their new uploads are enriched together, 50 to a unit."""

ENTRIES = 15
"""How many uploads a feed shows."""

FAILURES_TO_LEAVE = 3
"""Consecutive failures after which a channel's uploads are watched without its feed."""

RETRY_FEED = timedelta(days=7)
"""After this time such a feed is tried again; the first further failure ends that."""

RETRIES_EVERY = timedelta(hours=1)
"""How often a hunter sees which feeds to try again, at most so many that a tenth of the looks is for them."""

LEAST_MISSING = 3
"""If so many feeds of an ask are missing, and half of them or more, it is the service that fails.

An ask of few feeds is judged together with the other feeds asked for last.
"""

FIRST_LOOK_BACK = timedelta(hours=48)
"""How old uploads may be that a channel's first look finds."""

_LONGEST_WAIT = timedelta(minutes=2)
"""How long an ask waits for its turn to send a request before it gives back the rest of its channels."""
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedsAsk(Ask):
    """A group of channels; `asked` collects those for which a request was sent, so they aren't given back."""

    looks: tuple[ClaimedLook, ...]
    asked: set[str] = field(default_factory=set)


class Failure(Enum):
    """Why there is no feed."""

    MISSING = auto()
    REFUSED = auto()
    UNREADABLE = auto()
    """Something was sent that is no feed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of the request for a channel's feed; `feed` is None if it failed or is missing.

    The interval counts from the answer, so that slow requests don't follow each other sooner than that.
    """

    look: ClaimedLook
    asked_at: datetime
    feed: Feed | NotModified | None
    is_charged: bool = True
    """Whether it is a failure of the channel if there is no feed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedsFinding(Finding):
    """The answers for a group of channels, as far as requests were sent."""

    answers: tuple[Answer, ...]
    pace: Pace


class Feeds(Source[FeedsAsk, FeedsFinding]):
    """Looks at channels' feeds, each at its time."""

    name: ClassVar[str] = FEEDS
    is_free: ClassVar[bool] = True

    def __init__(self, atlas: Atlas, youtube: YouTube) -> None:
        self.atlas, self.youtube = atlas, youtube
        self.dao = UploadsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self.settings = atlas.settings.feeds
        self._retried_at: datetime | None = None
        self._were_missing: dict[str, bool] = {}
        """Whether the feeds asked for last are missing, by channel."""

    @property
    def arms(self) -> Mapping[str, Bucket]:
        return {FEEDS: "general"}

    async def claim(self, wanted: Mapping[str, int]) -> Sequence[FeedsAsk]:
        """Claim due channels, as many as the pace allows today; after a refusal one, as a test."""
        pace = await scaled_pace(self.dao, self.settings.looks_per_day)
        now = self.atlas.clock.now()
        if pace.closed_until and pace.closed_until > now:
            return ()
        in_time = int(self.settings.requests_per_s * hold(self.atlas).total_seconds() / 2)
        most = min(
            wanted.get(FEEDS, 0) * CHANNELS_PER_ASK, max(1, in_time), self.settings.looks_per_day - pace.looks
        )
        if pace.refusals:
            most = min(most, 1)
        if most < 1:
            return ()
        await self._retry(now)
        looks = await self.dao.claim_looks(most, rule(pace), hold(self.atlas))
        return [_ask(looks[at : at + CHANNELS_PER_ASK]) for at in range(0, len(looks), CHANNELS_PER_ASK)]

    async def put(self, ask: FeedsAsk) -> FeedsFinding:
        """Ask for one feed after the other, at the common pace, until the hold or YouTube ends it."""
        answers: list[Answer] = []
        missing: dict[str, bool] = {}
        for look in ask.looks:
            try:
                is_test = await self._turn(look)
            except LeaseLost as lost:
                logger.info("a feed is left out: %s", lost)
                continue
            if is_test is None:
                break
            asked_at = self.atlas.clock.now()
            ask.asked.add(look.channel_id)
            try:
                feed = await self._request(look)
            except Transient as failure:
                if not answers:
                    raise
                logger.info("the other feeds are asked for later: %s", failure)
                break
            answered_at = self.atlas.clock.now()
            if isinstance(feed, Failure):
                missing[look.channel_id] = feed is Failure.MISSING
                answers.append(Answer(look, answered_at, None, is_charged=feed is not Failure.UNREADABLE))
                continue
            if is_test:
                await self.dao.resume(asked_at)
            missing[look.channel_id] = False
            answers.append(Answer(look, answered_at, feed))
        if self._are_mostly_missing(missing):
            answers = [replace(answer, is_charged=False) for answer in answers]
        pace, ended_at = await self.dao.pace(), self.atlas.clock.now()
        ids = dict.fromkeys(id_ for answer in answers for id_ in _found(answer))
        return FeedsFinding(
            ask=ask,
            asked_at=ended_at,
            ids=tuple(ids),
            units=0,
            answers=tuple(answers),
            pace=pace,
        )

    async def complete(self, dao: MaiaDAO, finding: FeedsFinding, stored: Stored) -> None:
        """Store what each feed told and when to look again; give back channels that were not asked about."""
        uploads = self.dao.joining(dao.queue)
        ask = finding.ask
        assert isinstance(ask, FeedsAsk)
        results = [result_of(answer, finding.pace) for answer in finding.answers]
        await uploads.store_looks(ask.looks[0].token, results)
        await uploads.give_looks_back(look for look in ask.looks if look.channel_id not in ask.asked)
        await uploads.add_counts([count for answer in finding.answers for count in _counts(answer)])

    async def release(
        self, asks: Sequence[FeedsAsk], error: str | None = None, *, count_attempt: bool = False
    ) -> None:
        """Give back the channels that were not asked; the others are due again after their interval."""
        await self.dao.give_looks_back(
            look for ask in asks for look in ask.looks if look.channel_id not in ask.asked
        )

    def _are_mostly_missing(self, asked: Mapping[str, bool]) -> bool:
        """Whether so many feeds are missing that it is hardly for their channels; says so if it is."""
        for channel_id in asked:
            self._were_missing.pop(channel_id, None)
        before = len(self._were_missing) + len(asked) - max(2 * LEAST_MISSING, len(asked))
        for channel_id in list(self._were_missing)[: max(before, 0)]:
            del self._were_missing[channel_id]
        self._were_missing |= asked
        missing, of = sum(self._were_missing.values()), len(self._were_missing)
        if not any(asked.values()) or missing < max(LEAST_MISSING, of / 2):
            return False
        logger.warning(
            "%d of %d feeds are missing, which is hardly the channels' fault: they are asked for again",
            missing,
            of,
            extra={"action": "feeds_missing"},
        )
        return True

    async def _retry(self, now: datetime) -> None:
        """Look again at feeds that were given up, once their time has come."""
        if self._retried_at is None or now - self._retried_at >= RETRIES_EVERY:
            most = int(self.settings.looks_per_day * (RETRIES_EVERY / timedelta(days=1)) / 10)
            await self.dao.retry_feeds(max(1, most), FAILURES_TO_LEAVE - 1)
            self._retried_at = now

    # Requests

    async def _turn(self, look: ClaimedLook) -> bool | None:
        """Wait until a request may be sent; None if that takes too long, True if it tests a back-off."""
        held = hold(self.atlas)
        last_at = look.claimed_at + 0.9 * held
        while (now := self.atlas.clock.now()) < last_at:
            if (is_test := await self.dao.begin_look(look, held)) is not None:
                return is_test
            pace = await self.dao.pace()
            wait = pace.next_at - now
            if _is_closed(pace, now, self.settings.looks_per_day) or wait > _LONGEST_WAIT:
                return None
            await asyncio.sleep(_real_s(self.atlas, max(wait, timedelta(milliseconds=10))))
            if self.atlas.clock.now() <= now:
                # The clock stands still, so the turn would never come.
                return None
        return None

    async def _request(self, look: ClaimedLook) -> Feed | NotModified | Failure:
        """The feed, or why there is none; a refusal makes all hunters pause first."""
        known = Validators(look.etag, look.last_modified)
        try:
            return await self.youtube.feed(look.channel_id, known, attempts=1)
        except Gone:
            return Failure.MISSING
        except RateLimited as refusal:
            await self._back_off(refusal, self.settings.refused_back_off_s)
            raise
        except BadRequest as refusal:
            await self._back_off(refusal, self.settings.refused_back_off_s)
            return Failure.REFUSED
        except Transient as failure:
            if not failure.verdict.status:
                raise
            await self._back_off(failure, self.settings.failed_back_off_s)
            return Failure.REFUSED if failure.verdict.status >= 500 else Failure.UNREADABLE

    async def _back_off(self, refusal: YouTubeError, first_s: float) -> None:
        until = await self.dao.back_off(str(refusal), refusal.verdict.retry_after_s, first_s)
        logger.warning(
            "YouTube doesn't answer requests for feeds, so no hunter sends any until %s: %s",
            until.isoformat(timespec="seconds"),
            refusal,
            extra={"action": "feeds_back_off"},
        )


def hold(atlas: Atlas) -> timedelta:
    """How long a claimant may ask about a channel: a hunter's lease, in the time of the process's clock."""
    speed: float = getattr(atlas.clock, "speed", 1.0)
    return timedelta(seconds=atlas.settings.hunter.lease_s) * max(speed, 1.0)


def rule(pace: Pace, settings: polling.PollingSettings = polling.DEFAULTS) -> IntervalRule:
    """The rule by which a claim schedules the next looks."""
    nothing = polling.ChannelEvidence.none(1)
    return IntervalRule(
        scale=pace.scale,
        stretch=pace.stretch,
        worth=float(polling.value_per_h(nothing, settings)[0]),
        rate=float(polling.rate_per_h(nothing, settings)[0]),
        shortest_h=settings.shortest_h,
        longest_h=settings.longest_h,
        watched_longest_h=WATCHED_LOOK_H,
        most_missed=settings.most_missed,
    )


async def scaled_pace(dao: UploadsDAO, looks_per_day: int) -> Pace:
    """The pace, after the scale of intervals was worked out anew if nobody did so lately."""
    planned = await dao.plan_to_scale()
    if planned is not None:
        channels, fraction = planned
        before = rule(await dao.pace())
        spacing = polling.spacing(
            [before.worth if channel.worth is None else channel.worth for channel in channels],
            [before.rate if channel.rate is None else channel.rate for channel in channels],
            looks_per_day / 24 * fraction,
            priority=[channel.watched for channel in channels],
        )
        await dao.set_scale(replace(before, scale=spacing.scale, stretch=spacing.stretch))
    return await dao.pace()


def next_interval_h(evidence: polling.ChannelEvidence, watched: bool, pace: Pace) -> float:
    """How long to wait until the next look at a channel of which this is known."""
    value, rate = polling.value_per_h(evidence), polling.rate_per_h(evidence)
    spacing = polling.Spacing(pace.scale, pace.stretch)
    hours = float(polling.interval_h(value, rate, spacing, priority=[watched])[0])
    return min(hours, WATCHED_LOOK_H) if watched else hours


def evidence_of(look: ClaimedLook) -> polling.ChannelEvidence:
    """What was known about a channel when it was claimed."""
    values = (look.uploads, look.watched_h, look.growing, look.judged)
    return polling.ChannelEvidence(*(np.array([value], dtype=np.float64) for value in values))


def with_evidence(result: LookResult, evidence: polling.ChannelEvidence, pace: Pace) -> LookResult:
    """The result with what is known now, and the interval that follows from it."""
    return replace(
        result,
        interval_h=next_interval_h(evidence, result.watched, pace),
        rate=float(polling.rate_per_h(evidence)[0]),
        worth=float(polling.value_per_h(evidence)[0]),
        uploads=float(evidence.uploads[0]),
        watched_h=float(evidence.watched_h[0]),
        growing=float(evidence.growing[0]),
        judged=float(evidence.judged[0]),
    )


def result_of(answer: Answer, pace: Pace) -> LookResult:
    """What to store of an answer. An unchanged feed is evidence too: nothing was uploaded."""
    look, feed = answer.look, answer.feed
    base = LookResult.of(look, answer.asked_at)
    if feed is None:
        result = with_evidence(base, evidence_of(look), pace)
        return _failed(result) if answer.is_charged else result
    base = replace(base, answered=True, failures=0)
    if isinstance(feed, NotModified):
        waited_h = _waited_h(answer)
        return with_evidence(base, polling.observe(evidence_of(look), waited_h=waited_h, uploads=0), pace)
    dates = [entry.published_at for entry in feed.items if entry.published_at]
    validators = feed.validators
    return with_evidence(
        replace(
            base,
            newest_at=max([*dates, *filter(None, [look.newest_at])], default=None),
            judged_until=_judged_until(answer, dates),
            gap_since=_gap(answer, feed, dates),
            etag=validators.etag,
            last_modified=validators.last_modified,
        ),
        _observed(answer, feed, pace),
        pace,
    )


def _failed(result: LookResult) -> LookResult:
    failures = result.failures + 1
    if failures < FAILURES_TO_LEAVE:
        return replace(result, failures=failures)
    return replace(
        result, failures=0, by_feed=False, retry_feed_at=result.asked_at + RETRY_FEED, interval_h=0.0
    )


def _waited_h(answer: Answer) -> float:
    since = answer.look.answered_at
    return 0.0 if since is None else max((answer.asked_at - since) / _HOUR, 0.0)


def _observed(answer: Answer, feed: Feed, pace: Pace) -> polling.ChannelEvidence:
    look, threshold = answer.look, pace.growing_views_per_hour or growth.DEFAULTS.first_threshold
    dated = [entry for entry in feed.items if entry.published_at]
    ages = [_age_h(entry, answer.asked_at) for entry in dated]
    views = [entry.view_count for entry in dated]
    if look.answered_at is None:
        return polling.first_look(ages, views, threshold, is_full=len(feed.items) >= ENTRIES)
    until = look.judged_until or look.answered_at - growth.HORIZON_H * _HOUR
    ready = [
        (age, count)
        for age, count, entry in zip(ages, views, dated, strict=True)
        if age >= growth.HORIZON_H and entry.published_at and entry.published_at > until and count is not None
    ]
    chances = (
        growth.looks_growing([age for age, _ in ready], [count for _, count in ready], threshold)
        if ready
        else np.zeros(0)
    )
    return polling.observe(
        evidence_of(look),
        waited_h=_waited_h(answer),
        uploads=len(_new(answer, feed)),
        growing=float(np.nan_to_num(chances).sum()),
        judged=len(ready),
    )


def _age_h(entry: FeedEntry, at: datetime) -> float:
    assert entry.published_at is not None
    return max((at - entry.published_at) / _HOUR, 0.0)


def _judged_until(answer: Answer, dates: Sequence[datetime]) -> datetime | None:
    """Up to which publication the uploads have been judged now; the first look judges all that it shows."""
    look, ripe = answer.look, answer.asked_at - growth.HORIZON_H * _HOUR
    if look.answered_at is None:
        return answer.asked_at
    return max([date for date in dates if date <= ripe] + [look.judged_until or look.answered_at])


def _new(answer: Answer, feed: Feed) -> list[FeedEntry]:
    """The uploads since the last answer; at the first look, those of the last two days."""
    since = answer.look.newest_at or answer.look.answered_at or answer.asked_at - FIRST_LOOK_BACK
    if answer.look.answered_at is None:
        since = max(since, answer.asked_at - FIRST_LOOK_BACK)
    return [entry for entry in feed.items if entry.published_at and entry.published_at > since]


def _gap(answer: Answer, feed: Feed, dates: Sequence[datetime]) -> datetime | None:
    """Since when uploads are missing: if the whole feed is new, there may be more than it shows."""
    look = answer.look
    since = look.newest_at or look.answered_at
    if look.answered_at is None or since is None or len(feed.items) < ENTRIES:
        return None
    return since if min(dates, default=since) > since else None


def _found(answer: Answer) -> Iterator[str]:
    if isinstance(answer.feed, Feed):
        for entry in _new(answer, answer.feed):
            yield entry.video_id


def _counts(answer: Answer) -> Iterator[SeenCount]:
    if isinstance(answer.feed, Feed):
        at = answer.asked_at - timedelta(seconds=answer.feed.cached_s)
        for entry in answer.feed.items:
            if entry.view_count is not None:
                yield SeenCount(entry.video_id, at, entry.view_count)


def _is_closed(pace: Pace, now: datetime, looks_per_day: int) -> bool:
    """Whether no request may be sent before long."""
    waits = (pace.closed_until, pace.probe_until if pace.refusals else None)
    return pace.looks >= looks_per_day or any(until is not None and until > now for until in waits)


def _real_s(atlas: Atlas, wait: timedelta) -> float:
    """How many real seconds the process's clock takes for this time."""
    speed: float = getattr(atlas.clock, "speed", 1.0)
    return wait.total_seconds() / max(speed, 1.0)


def _ask(looks: Sequence[ClaimedLook]) -> FeedsAsk:
    first = looks[0]
    return FeedsAsk(
        arm=FEEDS,
        key=(FEEDS, first.token, first.channel_id),
        about=f"{counted(len(looks), 'feed')} from {first.channel_id}",
        units=0,
        looks=tuple(looks),
    )
