"""Exchanges with all peers for as long as the process runs, and answers those that call."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from atlas.errors import AtlasError
from maia.federation import http
from maia.federation.exchange import Answering, Exchanged
from maia.federation.mirror_keeping import KeepingFresh, refresh_all
from maia.federation.mirroring import MirrorAnswering, Refreshed
from maia.federation.peers import Called, sync_all
from maia.federation.publishing import streaming
from maia.federation.refusals import Reason
from maia.federation.site import Site

if TYPE_CHECKING:
    from atlas.composition import Atlas

logger = logging.getLogger(__name__)

_STRANGERS_EVERY_S: Final = 1.0
_ANSWERED_AT_ONCE: Final = 4
_JITTER: Final = 0.1
_RECONNECT_S: Final = 5.0


class Federation:
    """This site's part in the federation, in one process: what it answers, and whom it calls."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        self.site = Site(atlas)
        self.answering = Answering(self.site)
        self.mirror_answering = MirrorAnswering(self.site)
        self.turns = asyncio.Semaphore(_ANSWERED_AT_ONCE)
        """Held while a message is read and answered: a few together take some hundred MB at most."""
        self._syncing = asyncio.Lock()
        self._strangers, self._strangers_noted_s = 0, -_STRANGERS_EVERY_S

    @property
    def is_syncing(self) -> bool:
        """Whether an exchange with all peers is under way in this process."""
        return self._syncing.locked()

    async def begin(self) -> None:
        """Apply the settings; in a restored copy, take a new name."""
        try:
            await self.site.prepare()
        except AtlasError as error:
            logger.warning("the federation's settings are not applied yet: %s", error)

    async def sync(self, *, compare: bool | None = None) -> list[Exchanged]:
        """Exchange with all peers that the settings name, now."""
        async with self._syncing, calling(self.site) as peers:
            await self.site.prepare()
            return await sync_all(peers, compare=compare, force=True)

    async def refresh_mirrors(self, names: Sequence[str] | None = None) -> list[Refreshed]:
        """Refresh mirrors, all unless some are named, now."""
        async with calling_over_http(self.site) as peers:
            await self.site.prepare()
            return await refresh_all(self.site, peers, names)

    async def keep_mirrors(self) -> None:
        """Keep all mirrors up to date until cancelled."""
        await KeepingFresh(self.site, lambda: calling_over_http(self.site)).run()

    async def leave(self) -> dict[str, str | None]:
        """Tell all peers that this site leaves, and forget them; by place, why one could not be told.

        Without a token they are only forgotten.
        """
        told: dict[str, str | None] = {}
        if self.site.settings.token is not None:
            async with self._syncing, calling(self.site) as peers:
                for peer in peers:
                    told[peer.place] = await peer.say_goodbye()
        await self.site.dao.leave()
        return told

    async def note_stranger(self) -> None:
        """Count a message without the token: in the database at most once a second, however many come."""
        self._strangers += 1
        now_s = time.monotonic()
        if now_s - self._strangers_noted_s < _STRANGERS_EVERY_S:
            return
        count, self._strangers, self._strangers_noted_s = self._strangers, 0, now_s
        try:
            await self.site.dao.refuse("", Reason.TOKEN, "it doesn't have the cluster's token", count)
        except AtlasError as error:
            logger.warning("messages without the token could not be counted: %s", error)


@asynccontextmanager
async def calling_over_http(site: Site) -> AsyncIterator[Sequence[http.HttpPeer]]:
    """Connections to the peers that the settings name; ConfigError without a token."""
    async with http.peers_of(site.settings) as peers:
        for url in http.urls_of(site.settings):
            if http.is_exposed(url):
                logger.warning(
                    "%s is called without TLS: whoever is on the way reads the token; use https",
                    http.place_of(url),
                )
        yield peers


@asynccontextmanager
async def calling(site: Site) -> AsyncIterator[Sequence[Called]]:
    """The peers that this site calls over HTTP; ConfigError without a token."""
    async with calling_over_http(site) as peers:
        yield [Called(site, peer) for peer in peers]


async def keep_syncing(
    atlas: Atlas,
    ready: Callable[[], None] = lambda: None,
    tell: Callable[[Exchanged], None] = lambda _: None,
) -> None:
    """Exchange with all peers at every interval, and through Redis at once, until cancelled.

    Only one process of a site does so at a time.
    """
    site = Site(atlas)
    interval_s = site.settings.sync_interval_s
    async with calling(site) as peers, streaming(atlas):
        ready()
        while True:
            try:
                async with atlas.db.only_one("federation") as is_only:
                    if is_only:
                        await site.prepare()
                        for done in await sync_all(peers):
                            tell(done)
            except AtlasError as error:
                logger.warning("nothing is exchanged for now: %s", error)
                await asyncio.sleep(_RECONNECT_S)
                continue
            # Not all sites at once.
            await asyncio.sleep(interval_s * (1 + _JITTER * random.uniform(-1, 1)))  # noqa: S311
