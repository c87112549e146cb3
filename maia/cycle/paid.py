"""Cycles that call YouTube. The quota ledger pays for each call, and a 429 ends the process."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Generic

from atlas.config import Bucket
from atlas.errors import AtlasError, InvalidObjectName, RingClosed
from atlas.keyring import KeyRing, KeyState, LedgerLine
from atlas.vault import Vault
from maia.cycle.claims import ClaimingCycle, Held
from maia.cycle.cycle import OnProgress, Stats
from maia.cycle.outcome import Closing, Outcome
from maia.cycle.reasons import SkipReason
from maia.youtube.client import YouTube
from maia.youtube.errors import RateLimited
from maia.youtube.resources import Video

logger = logging.getLogger(__name__)

RATE_LIMITED_STATUS = 75
"""EX_TEMPFAIL: the process's exit status after a 429."""


class PaidCycle(ClaimingCycle[Held, Stats], Generic[Held, Stats]):
    """A cycle that spends a ring's quota."""

    def __init__(
        self, agent: Any, youtube: YouTube, number: int = 1, on_progress: OnProgress | None = None
    ) -> None:
        super().__init__(agent, number, on_progress)
        self.youtube = youtube
        self.closing: Closing | None = None
        self._requests_before, self._malformed_before = Counter(youtube.requests), Counter(youtube.malformed)

    async def run(self, batch_size: int) -> Stats:
        """As `Cycle.run`; SystemExit(75) after a 429, which the ledger has recorded by then."""
        try:
            return await super().run(batch_size)
        except RateLimited as error:
            raise SystemExit(RATE_LIMITED_STATUS) from error

    def _close(self, closing: Closing) -> None:
        """Make no further calls; claims still held are released at the end."""
        if self.closing is None:
            logger.info("%s", closing.text, extra={"action": "ring_closed"})
        self.stopped, self.closing = SkipReason.RING_CLOSED, closing

    async def _conclude(self) -> None:
        await super()._conclude()
        try:
            await self.atlas.vault.retry_refused()
        except AtlasError as error:
            logger.warning("the vault's pending objects are not written yet: %s", error)

    def _finished(self) -> Stats:
        if self.closing is not None:
            reopens_at = self.closing.reopens_at
            outcome = Outcome.CLOSED if reopens_at else Outcome.KEYS_REJECTED
            return self._statistics(outcome, self.closing.text, reopens_at)
        return super()._finished()

    def _statistics(
        self, outcome: Outcome, detail: str | None = None, reopens_at: datetime | None = None
    ) -> Stats:
        statistics = super()._statistics(outcome, detail, reopens_at)
        return replace(
            statistics,
            units=dict(self.youtube.requests - self._requests_before),
            malformed=dict(self.youtube.malformed - self._malformed_before),
        )


def closing_of(keys: KeyRing, ledger: Sequence[LedgerLine], bucket: Bucket) -> Closing | None:
    """Why the ring cannot pay for a call from this bucket now; None if it can."""
    availability = keys.availability_in(ledger, bucket)
    if availability.open:
        return None
    return closed(RingClosed(keys.name, bucket, availability.reopens_at, availability.reason))


def closed(error: Exception) -> Closing:
    """The closing for an error that says the ring is closed or the day's quota is spent."""
    return Closing(getattr(error, "reopens_at", None), str(error))


async def keep_answers(vault: Vault, videos: Sequence[Video]) -> None:
    """Hand raw responses to the vault; VaultError if a required vault refuses them."""
    async with vault.batch() as batch:
        for video in videos:
            try:
                batch.store_metadata(video.id, video.raw)
            except InvalidObjectName as error:
                # No retry could keep this one, so it must not hold up the others.
                logger.warning("a response is not kept: %s", error, extra={"action": "answer_not_kept"})


def units_now(ledger: Sequence[LedgerLine], bucket: Bucket) -> int:
    """How many units of a bucket the ring may spend now."""
    return sum(line.free_now for line in ledger if line.bucket == bucket and is_usable(line))


def is_usable(line: LedgerLine) -> bool:
    """Whether this line's units can be spent: it is open, and a key of its project works."""
    return line.closed_until is None and any(key.state is KeyState.ACTIVE for key in line.keys)
