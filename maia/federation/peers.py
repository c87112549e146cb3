"""The peers that this site calls, each behind a circuit breaker: one that fails holds up no other."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from atlas.recovery import Backoff, CircuitBreaker
from maia.federation.exchange import CallsItself, Exchange, Exchanged, PeerFailed

if TYPE_CHECKING:
    from maia.federation.exchange import Transport
    from maia.federation.site import Site

logger = logging.getLogger(__name__)

FAILURES: Final = 3
"""So many in a row, and a peer is left alone for a while."""
PAUSES: Final = Backoff(first_s=30, longest_s=3_600, jitter="equal")
ITSELF_S: Final = 3_600.0
"""So long an address is not called again that led to this site itself: later it may lead to another."""
_PROBE_S: Final = 900.0


class Called:
    """A peer that this site calls."""

    def __init__(
        self, site: Site, transport: Transport, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._site, self._transport, self._clock = site, transport, clock
        self.place = transport.place
        self._is_itself_until = -math.inf
        self.breaker = CircuitBreaker(failures=FAILURES, pauses=PAUSES, probe_s=_PROBE_S, clock=clock)

    async def sync(self, *, compare: bool | None = None, force: bool = False) -> Exchanged:
        """Exchange with it, unless it failed too often lately, or is this site; `force` tries even then.

        What goes wrong is in the answer, as that is no failure of this site.
        """
        if self._clock() < self._is_itself_until and not force:
            return Exchanged(self.place, refused={"all": "it is this site itself"})
        permit = self.breaker.admit()
        if permit is None and not force:
            failed = f"{self.place} failed too often: it is left alone for {self.breaker.wait_s:.0f} s more"
            return Exchanged(self.place, failed=failed)
        exchange = Exchange(self._site, self._transport)
        is_well: bool | None = None
        try:
            is_well = await self._attempt(exchange, compare=compare)
        finally:
            if permit is not None:
                {True: permit.succeed, False: permit.fail, None: permit.release}[is_well]()
        return exchange.done

    async def _attempt(self, exchange: Exchange, *, compare: bool | None) -> bool:
        """Exchange; whether that went well."""
        try:
            await exchange.run(compare=compare)
        except CallsItself as error:
            # All sites may have the same list of peers.
            logger.info("%s: it is left alone for an hour", error)
            self._is_itself_until = self._clock() + ITSELF_S
            exchange.done.refused["all"] = "it is this site itself"
        except PeerFailed as error:
            exchange.done.failed = str(error)
            logger.warning("the exchange with %s failed: %s", self.place, error)
            return False
        return True

    async def say_goodbye(self) -> str | None:
        """Tell it that this site leaves; returns why that was not possible."""
        try:
            await self._transport.exchange(await self._site.write(leaving=True))
        except PeerFailed as error:
            return str(error)
        return None


async def sync_all(
    peers: Sequence[Called], *, compare: bool | None = None, force: bool = False
) -> list[Exchanged]:
    """Exchange with all peers, one after the other: what one brings goes on to the next."""
    return [await peer.sync(compare=compare, force=force) for peer in peers]
