"""Keeps mirrors of parts of peers' graphs up to date: now, or for as long as the process runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final

from atlas.errors import AtlasError
from maia.errors import MaiaError
from maia.federation.exchange import PeerFailed
from maia.federation.mirroring import MirrorRefresh, MirrorTransport, Refreshed, mirrors_of

if TYPE_CHECKING:
    from atlas.adapters.mirrors import Mirror
    from maia.federation.site import Site

logger = logging.getLogger(__name__)

WAIT_S: Final = 20.0
"""So long a peer is asked to wait for a change: less than what proxies allow."""
GATHER_S: Final = 1.0
"""So long after a refresh at least the next begins: changes are gathered meanwhile."""
LOOKED_EVERY_S: Final = 10.0
"""So often it is looked whether there are other mirrors than before."""

Transports = Callable[[], AbstractAsyncContextManager[Sequence[MirrorTransport]]]


async def refresh_all(
    site: Site, transports: Sequence[MirrorTransport], names: Sequence[str] | None = None
) -> list[Refreshed]:
    """Refresh mirrors, all unless some are named, one after the other; what failed is in the answers."""
    by_place = {each.place: each for each in transports}
    return [
        await refresh(site, by_place.get(mirror.place), mirror)
        for mirror in await mirrors_of(site).all()
        if names is None or mirror.name in names
    ]


async def refresh(
    site: Site, transport: MirrorTransport | None, mirror: Mirror, wait_s: float = 0
) -> Refreshed:
    """Refresh a mirror; `transport` is None if the settings name its peer no more."""
    if transport is None:
        told = f"the settings name no peer at {mirror.place} any more: name it again, or remove the mirror"
        await mirrors_of(site).note_failure(mirror, told)
        return Refreshed(mirror.name, failed=told)
    try:
        return await MirrorRefresh(site, transport, mirror).run(wait_s)
    except PeerFailed as error:
        logger.warning("the mirror %s was not refreshed: %s", mirror.name, error)
        return Refreshed(mirror.name, failed=str(error))


class KeepingFresh:
    """Keeps all mirrors up to date for as long as the process runs; only one process of a site does so."""

    def __init__(self, site: Site, transports: Transports) -> None:
        """`transports` opens connections to the peers that the settings name."""
        self._site, self._transports = site, transports

    async def run(self) -> None:
        """Refresh until cancelled: as soon as a peer's graph changes, and at every interval at least."""
        while True:
            try:
                if self._site.settings.token is not None and await mirrors_of(self._site).all():
                    async with self._site.atlas.db.only_one("graph mirrors") as is_only:
                        if is_only:
                            await self._keep()
            except (AtlasError, MaiaError) as error:
                logger.warning("mirrors are not refreshed for now: %s", error)
            await asyncio.sleep(LOOKED_EVERY_S)

    async def _keep(self) -> None:
        """One task a mirror, until mirrors are added or removed."""
        await self._site.prepare()
        async with self._transports() as transports:
            by_place = {each.place: each for each in transports}
            mirrors = await mirrors_of(self._site).all()
            tasks = [
                asyncio.create_task(self._follow(mirror.name, by_place.get(mirror.place)))
                for mirror in mirrors
            ]
            try:
                while [each.name for each in await mirrors_of(self._site).all()] == [m.name for m in mirrors]:
                    if any(task.done() for task in tasks):
                        return
                    await asyncio.sleep(LOOKED_EVERY_S)
            finally:
                for task in tasks:
                    task.cancel()
                for ended in await asyncio.gather(*tasks, return_exceptions=True):
                    if isinstance(ended, Exception):
                        raise ended

    async def _follow(self, name: str, transport: MirrorTransport | None) -> None:
        interval_s, wait_s = self._site.settings.sync_interval_s, 0.0
        while True:
            mirror = await mirrors_of(self._site).get(name)
            began_s = asyncio.get_running_loop().time()
            done = await refresh(self._site, transport, mirror, wait_s)
            took_s = asyncio.get_running_loop().time() - began_s
            # One that can't wait answers at once that nothing changed: then it is asked at intervals.
            can_wait = done.failed is None and (wait_s == 0 or not done.is_same or took_s >= wait_s / 2)
            wait_s = min(WAIT_S, interval_s) if can_wait else 0.0
            await asyncio.sleep(GATHER_S if can_wait else interval_s)
