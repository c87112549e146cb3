"""Asks YouTube for the counters of claimed videos: readings come of it, refusals, or the end of the cycle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

from atlas.adapters.tracking import ChannelTarget, Target
from atlas.composition import Atlas
from atlas.errors import RingClosed, VaultError
from maia.cycles import keep_answers
from maia.errors import MaiaError
from maia.measuring import Counts, Reading
from maia.youtube.client import IDS_PER_CALL, YouTube
from maia.youtube.errors import BadRequest, Gone, KeyRejected, QuotaExhausted, RateLimited, Transient
from maia.youtube.resources import Video
from maia.youtube.resources import VideoStats as Counters

logger = logging.getLogger(__name__)

Item = Target | ChannelTarget
AnItem = TypeVar("AnItem", Target, ChannelTarget)
T = TypeVar("T")

REFUSALS = (RingClosed, QuotaExhausted, BadRequest, Gone, Transient)
"""What a call may meet that concerns only what it asked for."""
ENDINGS = (RateLimited, KeyRejected)
"""What ends the cycle."""
_CLOSINGS = (RingClosed, QuotaExhausted)
_DOUBTED_ATTEMPTS = 1


class EmptyAnswer(MaiaError):
    """An answer left out all that it was asked for."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why some of a group could not be sampled."""

    items: tuple[Item, ...]
    error: Exception


@dataclass(frozen=True, slots=True)
class Asked:
    """What the calls for a group brought; `videos` came where metadata were asked for.

    `ended_by` is what must end the cycle, though the rest is as good as ever.
    """

    readings: tuple[Reading, ...] = ()
    videos: tuple[Video, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    ended_by: Exception | None = None


class Sampler:
    """Asks for counts, and for the metadata of those videos whose own are old."""

    def __init__(self, atlas: Atlas, youtube: YouTube) -> None:
        self.atlas, self.youtube = atlas, youtube
        self.refreshable = 0
        """Calls of the general bucket that metadata may still take."""
        self._refresh_after = timedelta(days=atlas.settings.tracker.metadata_refresh_days)

    async def ask(self, targets: Sequence[Target]) -> Asked:
        """Ask for a group, 50 a call, all at once."""
        answers, ended_by = await _all_until_ended(map(self._ask, self._chunks(targets)))
        return Asked(
            tuple(reading for answer in answers for reading in answer.readings),
            tuple(video for answer in answers for video in answer.videos),
            tuple(refusal for answer in answers for refusal in answer.refusals),
            ended_by,
        )

    def _chunks(self, targets: Sequence[Target]) -> list[tuple[Sequence[Target], bool]]:
        """What to ask for in a call each, and whether for metadata too; as few calls as may be."""
        stale = [target for target in targets if self.is_stale(target)]
        stale = stale[: IDS_PER_CALL * self.refreshable]
        ids = {target.id for target in stale}
        others = [target for target in targets if target.id not in ids] if ids else targets
        refreshing = [(chunk, True) for chunk in split(stale)]
        self.refreshable -= len(refreshing)
        return refreshing + [(chunk, False) for chunk in split(others)]

    def is_stale(self, target: Target) -> bool:
        """Whether title and tags are to be fetched anew."""
        age = self.atlas.clock.now() - target.metadata_at
        return age >= self._refresh_after

    async def _ask(self, call: tuple[Sequence[Target], bool]) -> Asked:
        """One call's answer, or why there is none; raises what must end the cycle, and database errors."""
        targets, refresh = call
        try:
            if refresh:
                try:
                    return await self._refreshed(targets)
                except _CLOSINGS as closed:
                    # The sample is worth more than the metadata, which have five days left.
                    logger.info("metadata wait, counts do not: %s", closed)
                    self.refreshable = 0
            batch = await self.youtube.batch_get_stats(target.id for target in targets)
            return self._read(targets, {counters.id: counters for counters in batch.items})
        except REFUSALS as error:
            return Asked(refusals=(Refusal(tuple(targets), error),))

    async def _refreshed(self, targets: Sequence[Target]) -> Asked:
        videos = await self.youtube.videos(target.id for target in targets)
        found = {video.id: video for video in videos}
        try:
            await keep_answers(self.atlas.vault, videos)
        except VaultError as error:
            logger.warning("metadata wait for the vault, counts do not: %s", error)
            return self._read(targets, found)
        return replace(self._read(targets, found, refreshed=True), videos=videos)

    def _read(
        self, targets: Sequence[Target], found: Mapping[str, Counters | Video], *, refreshed: bool = False
    ) -> Asked:
        at = self.atlas.clock.now()
        believed, refusals = believed_of(targets, bool(found))
        readings = (
            Reading(target, at, _counts(found.get(target.id)), refreshed and target.id in found)
            for target in believed
        )
        return Asked(tuple(readings), refusals=refusals)


def split(items: Sequence[T], size: int = IDS_PER_CALL) -> list[Sequence[T]]:
    """In parts of `size`, the last one shorter."""
    return [items[at : at + size] for at in range(0, len(items), size)]


def believed_of(asked: Sequence[AnItem], answered: bool) -> tuple[Sequence[AnItem], tuple[Refusal, ...]]:
    """Whose absence from an answer counts: an answer without anything is doubted once for each of them."""
    if answered:
        return asked, ()
    doubted = tuple(item for item in asked if item.attempts <= _DOUBTED_ATTEMPTS)
    believed = [item for item in asked if item.attempts > _DOUBTED_ATTEMPTS]
    return believed, (
        Refusal(doubted, EmptyAnswer(f"none of {len(asked)} ids is in the answer")),
    ) if doubted else ()


def reason_of(error: Exception) -> str:
    """The name under which a refusal is counted."""
    match error:
        case RingClosed() | QuotaExhausted():
            return "ring_closed"
        case EmptyAnswer():
            return "empty"
        case BadRequest() | Gone():
            return "bad_request"
    return "network"


def _counts(counters: Counters | Video | None) -> Counts | None:
    if counters is None:
        return None
    return Counts(counters.view_count, counters.like_count, counters.comment_count)


async def _all_until_ended(calls: Iterable[Coroutine[Any, Any, T]]) -> tuple[list[T], Exception | None]:
    """What the calls brought, and what must end the cycle, if one met it: the others are then cancelled.

    Any other error is raised.
    """
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    # Those that met theirs before they were cancelled know more of it.
    ended = [task for task in (*done, *pending) if not task.cancelled()]
    errors = [error for task in ended if (error := task.exception()) is not None]
    ending = next((each for kind in ENDINGS for each in errors if isinstance(each, kind)), None)
    if errors and ending is None:
        raise errors[0]
    return [task.result() for task in ended if task.exception() is None], ending
