"""Lists a channel's uploads from the newest to the oldest, and stores those that are not stored yet.

A page of 50 uploads costs a unit of the general bucket, and the metadata of those that are new another one.
How far the walk has got is stored with each page's videos, so it can be stopped anywhere and goes on from
there. Page tokens expire: after `TOKEN_LIFETIME` the walk begins anew, but pays no more for videos that are
stored.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from atlas.adapters.discovery import DiscoveryDAO
from atlas.adapters.maia import MaiaDAO
from atlas.adapters.uploads import UploadsDAO, Walk
from atlas.composition import Atlas
from atlas.conflicts import retry_conflicts
from maia.cycle.paid import keep_answers
from maia.discovery.source import WATCH
from maia.youtube.client import YouTube
from maia.youtube.errors import BadRequest
from maia.youtube.ids import ChannelId, uploads_playlist
from maia.youtube.resources import PlaylistPage, Video

TOKEN_LIFETIME: Final = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class Step:
    """A page that was stored, as part of the walk so far; `total` is YouTube's estimate of all uploads."""

    walk: Walk
    total: int | None


class History:
    """Walks through the uploads of one channel; unless it may `resume`, an unfinished walk is left alone."""

    def __init__(self, atlas: Atlas, youtube: YouTube, channel_id: str, *, resume: bool = True) -> None:
        self.atlas, self.youtube, self.channel_id, self.resume = atlas, youtube, channel_id, resume
        self.playlist = uploads_playlist(ChannelId(channel_id))
        self.uploads = UploadsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)

    async def begin(self) -> Walk:
        """The unfinished walk to go on with, or a new one."""
        now = self.atlas.clock.now()
        known = await self.uploads.walk_of(self.channel_id) if self.resume else None
        if known and known.finished_at is None and now - known.issued_at < TOKEN_LIFETIME:
            return known
        await self.uploads.meet_channel(self.channel_id)
        return Walk(self.channel_id, now, None, now)

    async def steps(self, walk: Walk, most_pages: int | None = None) -> AsyncIterator[Step]:
        """Store page after page, up to `most_pages` or to the oldest upload; raises the client's errors."""
        pages = 0
        while walk.finished_at is None and (most_pages is None or pages < most_pages):
            page = await self._page(walk)
            walk = await self._store(walk, page)
            pages += 1
            yield Step(walk, page.total_results)

    async def _page(self, walk: Walk) -> PlaylistPage:
        try:
            return await self.youtube.playlist_items(self.playlist, walk.page_token)
        except BadRequest as error:
            if error.reason != "invalidPageToken" or walk.page_token is None:
                raise
            # The list has changed too much since; known videos cost nothing the second time.
            return await self.youtube.playlist_items(self.playlist)

    async def _store(self, walk: Walk, page: PlaylistPage) -> Walk:
        now = self.atlas.clock.now()
        ids = list(dict.fromkeys(item.video_id for item in page.items))
        videos = await self.youtube.videos(await self.uploads.unknown_videos(ids))
        await keep_answers(self.atlas.vault, videos)
        # A repeated or empty page ends the walk too, so that it can't go round in circles.
        token = page.next_page_token if ids and page.next_page_token != walk.page_token else None
        further = replace(
            walk,
            page_token=token,
            issued_at=now,
            pages=walk.pages + 1,
            listed=walk.listed + len(ids),
            finished_at=None if token else now,
        )
        dao = MaiaDAO(self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings)
        async for trial in retry_conflicts():
            with trial:
                async with dao.transaction() as bound:
                    new = await self._store_videos(bound, videos, now)
                    reached = replace(further, stored=walk.stored + new)
                    if self.resume:
                        await self.uploads.joining(bound.queue).store_walk(reached)
        return reached

    async def _store_videos(self, dao: MaiaDAO, videos: Sequence[Video], now: datetime) -> int:
        """Store videos and where they were met; returns how many are new."""
        if not videos:
            return 0
        new = (await dao.ingest_video_metadata(videos)).new_ids
        meetings = DiscoveryDAO(self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings)
        await meetings.joining(dao.queue).meet_videos(WATCH, now, {video.id: () for video in videos}, new)
        return len(new)
