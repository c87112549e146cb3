"""The source `uploads`: finds what channels' feeds can't show, out of the general bucket.

Channels without a working feed (all channels, if the source `feeds` is off) are watched by their number of
videos, 50 channels to a unit. Where that number has risen, or a feed was too short for what was uploaded at
once, there is a *gap*: a page of the channel's playlist of uploads, one unit for 50 of them, fills it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import ClassVar

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.uploads import ClaimedLook, Gap, LookResult, Pace, UploadsDAO
from atlas.composition import Atlas
from atlas.config import Bucket
from atlas.errors import LeaseLost
from atlas.wording import counted
from maia.discovery.feeds import FIRST_LOOK_BACK, evidence_of, hold, rule, scaled_pace, with_evidence
from maia.discovery.source import FEEDS, UPLOADS, Ask, Finding, Source, Stored
from maia.learning import polling
from maia.youtube.client import IDS_PER_CALL, YouTube
from maia.youtube.errors import Gone
from maia.youtube.ids import ChannelId, uploads_playlist

logger = logging.getLogger(__name__)

MOST_PAGES = 4
"""Most pages of a playlist that fill one gap."""

MOST_ATTEMPTS = 5
"""How often filling a gap may fail before it is given up."""

MISSES_BEFORE_GONE = 2
"""Consecutive answers without a channel after which it counts as terminated."""

_PAUSE_S = 60.0
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountsAsk(Ask):
    """Up to 50 channels whose numbers of videos to compare."""

    looks: tuple[ClaimedLook, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GapAsk(Ask):
    """A channel whose newest uploads to list."""

    gap: Gap


@dataclass(frozen=True, slots=True, kw_only=True)
class CountsFinding(Finding):
    """The numbers of videos of the channels asked for; None where hidden, and missing where terminated."""

    counts: Mapping[str, int | None]
    pace: Pace


class Uploads(Source[CountsAsk | GapAsk, Finding]):
    """Looks at channels without their feeds, and fills gaps."""

    name: ClassVar[str] = UPLOADS

    def __init__(self, atlas: Atlas, youtube: YouTube) -> None:
        self.atlas, self.youtube = atlas, youtube
        self.dao = UploadsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self.lease_s = atlas.settings.hunter.lease_s
        self.feeds_are_on = not atlas.settings.discovery.is_off(FEEDS)

    @property
    def arms(self) -> Mapping[str, Bucket]:
        return {UPLOADS: "general"}

    async def claim(self, wanted: Mapping[str, int]) -> Sequence[CountsAsk | GapAsk]:
        """Claim gaps first, as their uploads are known to exist; then channels to compare, 50 to an ask."""
        most = wanted.get(UPLOADS, 0)
        if most < 1:
            return ()
        gaps: list[CountsAsk | GapAsk] = [
            _gap_ask(gap) for gap in await self.dao.claim_gaps(most, self.lease_s)
        ]
        if len(gaps) == most:
            return gaps
        room = (most - len(gaps)) * IDS_PER_CALL
        pace = await scaled_pace(self.dao, self.atlas.settings.feeds.looks_per_day)
        by_feed = 0 if self.feeds_are_on else room
        looks = await self.dao.claim_looks(by_feed, rule(pace), hold(self.atlas), counts=room)
        kept, surplus = looks[:room], looks[room:]
        await self.dao.give_looks_back(surplus)
        return gaps + [_counts_ask(kept[at : at + IDS_PER_CALL]) for at in range(0, len(kept), IDS_PER_CALL)]

    async def put(self, ask: CountsAsk | GapAsk) -> Finding:
        if isinstance(ask, GapAsk):
            return await self._fill(ask)
        found = await self.youtube.channels(look.channel_id for look in ask.looks)
        counts: dict[str, int | None] = {channel.id: channel.video_count for channel in found}
        return CountsFinding(
            ask=ask, asked_at=self.atlas.clock.now(), counts=counts, pace=await self.dao.pace()
        )

    async def complete(self, dao: MaiaDAO, finding: Finding, stored: Stored) -> None:
        uploads, ask = self.dao.joining(dao.queue), finding.ask
        if isinstance(ask, GapAsk):
            if not await uploads.close_gap(ask.gap):
                raise LeaseLost(f"somebody else lists the uploads of {ask.gap.channel_id} now")
            return
        assert isinstance(ask, CountsAsk)
        assert isinstance(finding, CountsFinding)
        results = [self._compared(look, finding) for look in ask.looks]
        await uploads.store_looks(ask.looks[0].token, results)

    async def release(
        self,
        asks: Sequence[CountsAsk | GapAsk],
        error: str | None = None,
        *,
        count_attempt: bool = False,
    ) -> None:
        gaps = [ask.gap for ask in asks if isinstance(ask, GapAsk)]
        await self.dao.release_gaps(
            gaps,
            retry_after_s=_PAUSE_S if error else 0.0,
            count_attempt=count_attempt,
            max_attempts=MOST_ATTEMPTS,
        )
        # Asking for numbers again is harmless, as the ledger pays for each time.
        await self.dao.give_looks_back(
            look for ask in asks if isinstance(ask, CountsAsk) for look in ask.looks
        )

    async def _fill(self, ask: GapAsk) -> Finding:
        """List uploads from the newest on, until a page has none of the gap any more."""
        gap = ask.gap
        ids: dict[str, None] = {}
        token, pages = None, 0
        while pages < MOST_PAGES:
            try:
                page = await self.youtube.playlist_items(uploads_playlist(ChannelId(gap.channel_id)), token)
            except Gone as gone:
                logger.info("the uploads of %s can't be listed: %s", gap.channel_id, gone)
                pages += 1
                break
            pages += 1
            missing = [
                item for item in page.items if item.video_published_at and item.video_published_at > gap.since
            ]
            ids |= dict.fromkeys(item.video_id for item in missing)
            token = page.next_page_token
            if not missing or token is None:
                break
        return Finding(ask=ask, asked_at=self.atlas.clock.now(), ids=tuple(ids), units=pages)

    def _compared(self, look: ClaimedLook, finding: CountsFinding) -> LookResult:
        base = LookResult.of(look, finding.asked_at)
        if look.channel_id not in finding.counts:
            return self._missed(look, base, finding.pace)
        count = finding.counts[look.channel_id]
        known = look.video_count
        rise = max(count - known, 0) if count is not None and known is not None else 0
        waited_h = (finding.asked_at - look.answered_at) / _HOUR if look.answered_at else 0.0
        result = replace(
            base,
            answered=True,
            failures=0,
            video_count=known if count is None else count,
            gap_since=_gap_since(look, finding.asked_at) if rise or known is None else None,
            newest_at=finding.asked_at if rise or known is None else look.newest_at,
        )
        evidence = polling.observe(evidence_of(look), waited_h=waited_h, uploads=rise)
        return with_evidence(result, evidence, finding.pace)

    def _missed(self, look: ClaimedLook, base: LookResult, pace: Pace) -> LookResult:
        failures = look.failures + 1
        missed = replace(base, failures=failures, gone=failures >= MISSES_BEFORE_GONE)
        return with_evidence(missed, evidence_of(look), pace)


def _gap_since(look: ClaimedLook, now: datetime) -> datetime:
    """From when on uploads are missing; of a channel seen for the first time, only new ones matter."""
    return look.newest_at or look.answered_at or now - FIRST_LOOK_BACK


def _gap_ask(gap: Gap) -> GapAsk:
    about = f"uploads of {gap.channel_id}"
    return GapAsk(arm=UPLOADS, key=(UPLOADS, gap.channel_id), about=about, gap=gap)


def _counts_ask(looks: Sequence[ClaimedLook]) -> CountsAsk:
    first = looks[0]
    return CountsAsk(
        arm=UPLOADS,
        key=(UPLOADS, first.token, first.channel_id),
        about=f"{counted(len(looks), 'channel')} from {first.channel_id}",
        looks=tuple(looks),
    )
