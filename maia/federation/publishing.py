"""A site's desk for what passes through Redis, and keeping it open in one process of the site.

What a site publishes is its own: the evidence that it counted, with the texts that go with it, what its
operators forgot, and what it says of atoms. Of what it merged from others, it publishes nothing; they do so
themselves, and those that don't use Redis are asked over HTTP.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from atlas.adapters.changes import CHANNEL
from atlas.adapters.claims import CHANNEL as GRAPH_CHANNEL
from atlas.bus import Bus
from atlas.errors import AtlasError, ConfigError, DataRefused, UnknownCursor
from atlas.tasks import running
from maia.federation.exchange import Answering, Exchange
from maia.federation.messages import Section
from maia.federation.refusals import Reason, Refused
from maia.federation.sealing import Sealer
from maia.federation.site import THROUGH_REDIS, Site
from maia.federation.streams import Ask, Changes, Place, Streams

if TYPE_CHECKING:
    from atlas.composition import Atlas

logger = logging.getLogger(__name__)

_FEED: Final = "redis"
"""Under this name the places in the stream are kept."""
_EXCHANGE, _COMPARE = "exchange", "compare"
_ROWS: Final = 500
"""So many rows a message: Redis keeps about a thousand messages in memory."""
_ELECTION_S: Final = 5.0


class SiteDesk:
    """What this site does with what comes through Redis: the same as with what comes over HTTP."""

    def __init__(self, site: Site) -> None:
        self._site, self._dao, self._answering = site, site.dao, Answering(site)
        self._left_out: dict[str, Any] = {}
        """By kind, what was not published of the page before."""

    async def node(self) -> str:
        return await self._site.prepare()

    async def changes(self, cursor: str | None) -> Changes:
        node, places = await self._dao.own_node(), _places_of(cursor)
        sections, tables, more = [], {}, False
        for kind in self._site.kinds.values():
            if kind.kind not in places:
                places[kind.kind] = await kind.end(self._dao)
                continue
            try:
                page = await kind.read(self._dao, places[kind.kind], _ROWS, "")
            except DataRefused:
                raise UnknownCursor from None
            own = kind.own(page.records, node, self._left_out.pop(kind.kind, None))
            if page.more:
                # Its evidence may be on the next page.
                self._left_out[kind.kind] = kind.without(page.records, own)
            places[kind.kind], more = page.cursor, more or page.more
            if len(own):
                sections.append(Section(kind=kind.kind, version=kind.version))
                tables[kind.kind] = kind.packed(own)
        message = await self._site.write(sections, tables) if sections else None
        waiting = message is None and not more and await self._dao.is_waiting()
        return Changes(message, json.dumps(places), more, waiting)

    async def merge(self, message: bytes) -> bool:
        return not any((await self._site.take(message)).missing.values())

    async def answer(self, about: str, message: bytes) -> bytes:
        if about == _EXCHANGE:
            return await self._answering.exchange(message)
        if about == _COMPARE:
            return await self._answering.compare(message)
        raise Refused(Reason.MALFORMED, "this site does not know such a question yet: upgrade it")

    async def catch_up(self, sender: str, ask: Ask) -> None:
        await Exchange(self._site, _LetterPeer(sender, ask), sender).run()

    async def places(self) -> Mapping[str, Place]:
        found = {}
        for peer in await self._dao.peers():
            position, _, rest = (await self._dao.positions(peer.node)).get(_FEED, "").partition(" ")
            chain, _, number = rest.partition(" ")
            if number:
                found[peer.node] = Place(position, chain, int(number))
        return found

    async def keep(self, places: Mapping[str, Place]) -> None:
        for sender, place in places.items():
            await self._dao.move(sender, _FEED, f"{place.position} {place.chain} {place.number}")


def _places_of(cursor: str | None) -> dict[str, str]:
    """The places in the feeds by kind; UnknownCursor if somebody else wrote there: Redis isn't ours alone."""
    try:
        places = json.loads(cursor or "{}")
    except ValueError:
        raise UnknownCursor from None
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise UnknownCursor
    return places


class _LetterPeer:
    """Carries the messages of an exchange to a site by letters."""

    def __init__(self, node: str, ask: Ask) -> None:
        self._ask = ask
        self.place = f"{THROUGH_REDIS}{node}"

    async def exchange(self, message: bytes) -> bytes:
        return await self._ask(_EXCHANGE, message)

    async def compare(self, message: bytes) -> bytes:
        return await self._ask(_COMPARE, message)


@asynccontextmanager
async def streaming(atlas: Atlas) -> AsyncIterator[None]:
    """Let what is learnt pass through Redis during the block, if REDIS_URL is set.

    Only one process of a site does so at a time. ConfigError if the URL is wrong, or there is no token.
    """
    url, settings = atlas.settings.redis_url, atlas.settings.federation
    if url is None:
        yield
        return
    if settings.token is None:
        raise ConfigError("what passes through Redis is signed: set PLEIADES_FEDERATION__TOKEN at each site")
    async with Bus.open(url, settings.cluster_name) as bus:
        sealer = Sealer(settings.token.get_secret_value(), settings.cluster_name)
        desk = SiteDesk(Site(atlas))
        interval_s = settings.sync_interval_s
        async with running(_keep_streaming(atlas, lambda: Streams(bus, sealer, desk, interval_s=interval_s))):
            yield


async def _keep_streaming(atlas: Atlas, new: Callable[[], Streams]) -> None:
    while True:
        try:
            async with atlas.db.only_one("federation streams") as is_only:
                if is_only:
                    await _run(atlas, new())
        except AtlasError as error:
            logger.warning("evidence does not pass through Redis for now: %s", error)
        await asyncio.sleep(_ELECTION_S)


async def _run(atlas: Atlas, streams: Streams) -> None:
    async with AsyncExitStack() as stack:
        for channel, what in ((CHANNEL, "patterns"), (GRAPH_CHANNEL, "the graph")):
            unheard = f"changes of {what} are not heard for now"
            hearing = atlas.db.keep_listening(channel, lambda _: streams.wake(), unheard)
            await stack.enter_async_context(running(hearing))
        await streams.run()
