"""Requests the counters of claimed videos from YouTube, and sorts the results into readings and failures."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

from atlas.adapters.tracking import Broadcast, ChannelTarget, Target
from atlas.composition import Atlas
from atlas.errors import RingClosed, VaultError
from atlas.wording import counted
from maia.cycle.claims import FailedRequest
from maia.cycle.expectations import Expectations, Expected
from maia.cycle.paid import keep_answers
from maia.cycle.reasons import EmptyAnswer
from maia.learning.observations import Scalar
from maia.learning.zones import Zone
from maia.tracker.measuring import Counts, Reading
from maia.youtube.client import IDS_PER_CALL, YouTube
from maia.youtube.errors import BadRequest, Gone, KeyRejected, QuotaExhausted, RateLimited, Transient
from maia.youtube.resources import Video, VideoStats

logger = logging.getLogger(__name__)

Item = Target | ChannelTarget
AnItem = TypeVar("AnItem", Target, ChannelTarget)
T = TypeVar("T")

REFUSALS = (RingClosed, QuotaExhausted, BadRequest, Gone, Transient)
"""Failures of a call that concern only the items of that call."""
ENDINGS = (RateLimited, KeyRejected)
"""Errors that end the cycle."""
_CLOSINGS = (RingClosed, QuotaExhausted)
_DOUBTED_ATTEMPTS = 1


@dataclass(frozen=True, slots=True)
class CallMade:
    """A call about up to 50 videos, and how long it took; `error` says why it brought nothing."""

    action: Literal["sample", "metadata"]
    targets: Sequence[Target]
    seconds: float
    error: BaseException | None = None
    expected: Expected | None = None
    """What the learner expected of it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The results of a group's calls; `videos` are from calls that also requested metadata.

    `ended_by` is an error that must end the cycle; the other results are still valid. `calls` are all that
    were made, also those without a result.
    """

    readings: tuple[Reading, ...] = ()
    videos: tuple[Video, ...] = ()
    failures: tuple[FailedRequest[Item], ...] = ()
    ended_by: Exception | None = None
    calls: tuple[CallMade, ...] = ()


METADATA_LIFETIME = timedelta(days=25)
"""Age at which title and tags are fetched again: the terms allow 30 days."""


class Sampler:
    """Requests the counters of videos, and also the metadata if those are old."""

    def __init__(self, atlas: Atlas, youtube: YouTube) -> None:
        self.atlas, self.youtube = atlas, youtube
        self.refreshable = 0
        """How many calls of the general bucket may still be used for metadata."""
        self.expectations = Expectations("tracker")
        self._refresh_after = METADATA_LIFETIME

    async def ask(self, targets: Sequence[Target]) -> Asked:
        """Request the counters of a group in concurrent calls of up to 50 videos each."""
        calls: list[CallMade] = []
        answers, ended_by = await _gather_until_ended(
            self._timed(chunk, refresh, calls) for chunk, refresh in self._chunks(targets)
        )
        return Asked(
            tuple(reading for answer in answers for reading in answer.readings),
            tuple(video for answer in answers for video in answer.videos),
            tuple(failure for answer in answers for failure in answer.failures),
            ended_by,
            tuple(calls),
        )

    async def _timed(self, targets: Sequence[Target], refresh: bool, calls: list[CallMade]) -> Asked:
        """Make one call as `_ask` does, and add to `calls` what became of it."""
        action: Literal["sample", "metadata"] = "metadata" if refresh else "sample"
        expected, began_s = self.expected(action, targets), time.monotonic()
        try:
            asked = await self._ask((targets, refresh))
        except BaseException as error:
            calls.append(CallMade(action, targets, time.monotonic() - began_s, error, expected))
            raise
        failure = asked.failures[0].error if asked.failures else None
        calls.append(CallMade(action, targets, time.monotonic() - began_s, failure, expected))
        return asked

    def expected(self, action: str, items: Sequence[Any]) -> Expected | None:
        """What the learner expects of a call about these items."""
        return self.expectations.of(action, batch_context(items), self.atlas.clock.now())

    def _chunks(self, targets: Sequence[Target]) -> list[tuple[Sequence[Target], bool]]:
        """Split a group into as few calls as possible, each with or without metadata."""
        stale = [target for target in targets if self.is_stale(target)]
        stale = stale[: IDS_PER_CALL * self.refreshable]
        ids = {target.id for target in stale}
        others = [target for target in targets if target.id not in ids] if ids else targets
        refreshing = [(chunk, True) for chunk in split(stale)]
        self.refreshable -= len(refreshing)
        return refreshing + [(chunk, False) for chunk in split(others)]

    def is_stale(self, target: Target) -> bool:
        """Whether to fetch the metadata again: they are old, or may just have changed."""
        if target.broadcast != "none" or target.gone_at is not None:
            return True
        age = self.atlas.clock.now() - target.metadata_at
        return age >= self._refresh_after

    async def _ask(self, call: tuple[Sequence[Target], bool]) -> Asked:
        """Make one call and return its readings or its failure; raise errors that must end the cycle."""
        targets, refresh = call
        try:
            if refresh:
                try:
                    return await self._ask_with_metadata(targets)
                except _CLOSINGS as closed:
                    # The sample is worth more than the metadata, which stay valid for five more days.
                    logger.info("fetching only counts, and metadata later: %s", closed)
                    self.refreshable = 0
            batch = await self.youtube.batch_get_stats(target.id for target in targets)
            return self._read(targets, {stats.id: stats for stats in batch.items})
        except REFUSALS as error:
            return Asked(failures=(FailedRequest(tuple(targets), error),))

    async def _ask_with_metadata(self, targets: Sequence[Target]) -> Asked:
        videos = await self.youtube.videos(target.id for target in targets)
        found: dict[str, Video] = {video.id: video for video in videos}
        try:
            await keep_answers(self.atlas.vault, videos)
        except VaultError as error:
            logger.warning("storing only counts, as the vault can't keep the metadata: %s", error)
            return self._read(targets, found)
        return replace(self._read(targets, found, refreshed=True), videos=videos)

    def _read(
        self, targets: Sequence[Target], found: Mapping[str, VideoStats | Video], *, refreshed: bool = False
    ) -> Asked:
        at = self.atlas.clock.now()
        trusted, failures = trusted_absences(targets, bool(found))
        readings = []
        for target in trusted:
            item = found.get(target.id)
            known = _with_broadcast(target, item, at) if refreshed and isinstance(item, Video) else target
            readings.append(Reading(known, at, _counts(item), refreshed and item is not None))
        return Asked(tuple(readings), failures=failures)


def _with_broadcast(target: Target, video: Video, at: datetime) -> Target:
    """The target with the broadcast state and `born_at` that it will have once the video is stored."""
    reported = video.live_broadcast_content
    broadcast: Broadcast = reported if reported == "upcoming" or reported == "live" else "none"
    if broadcast == "upcoming":
        born_at = max(video.scheduled_start_at or at, at)
    else:
        aired_at = video.actual_start_at or video.scheduled_start_at
        born_at = aired_at or video.published_at or target.born_at
    return target._replace(broadcast=broadcast, born_at=born_at)


def batch_context(items: Sequence[Any]) -> dict[str, Scalar]:
    """How many items a call is about, and for videos with a clock how many of each zone."""
    context: dict[str, Scalar] = {"batch": len(items)}
    zones = Counter(item.zone for item in items if isinstance(item, Target))
    return context | {Zone(zone).name.lower(): count for zone, count in sorted(zones.items())}


def split(items: Sequence[T], size: int = IDS_PER_CALL) -> list[Sequence[T]]:
    """Split into parts of `size`; the last one may be shorter."""
    return [items[at : at + size] for at in range(0, len(items), size)]


def trusted_absences(
    asked: Sequence[AnItem], answered: bool
) -> tuple[Sequence[AnItem], tuple[FailedRequest[Item], ...]]:
    """The items whose absence from a response is believed; an empty response is doubted once per item."""
    if answered:
        return asked, ()
    doubted = tuple(item for item in asked if item.attempts <= _DOUBTED_ATTEMPTS)
    trusted = [item for item in asked if item.attempts > _DOUBTED_ATTEMPTS]
    return trusted, (
        FailedRequest(doubted, EmptyAnswer(f"none of {counted(len(asked), 'id')} is in the response")),
    ) if doubted else ()


def _counts(item: VideoStats | Video | None) -> Counts | None:
    return None if item is None else Counts(item.view_count, item.like_count, item.comment_count)


async def _gather_until_ended(calls: Iterable[Coroutine[Any, Any, T]]) -> tuple[list[T], Exception | None]:
    """Run calls concurrently; return their results and the error that must end the cycle, if there is one.

    Such an error cancels the other calls. Any other error is raised.
    """
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    # Prefer the errors of calls that failed before the others were cancelled.
    ended = [task for task in (*done, *pending) if not task.cancelled()]
    errors = [error for task in ended if (error := task.exception()) is not None]
    ending = next((each for kind in ENDINGS for each in errors if isinstance(each, kind)), None)
    if errors and ending is None:
        raise errors[0]
    return [task.result() for task in ended if task.exception() is None], ending
