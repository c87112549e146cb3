"""The quota view: the ledger of the current Pacific day, and the state of each key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.composition import Atlas
    from atlas.config import RingName
    from atlas.keyring import LedgerLine


@dataclass(frozen=True, slots=True)
class RingQuota:
    """A ring's quota in one bucket of a project, in units: a line of the ledger, for display.

    `limit` is the project's daily limit and `ring_limit` the ring's share. `allowed` is how much of the share
    pacing permits by now, `free_now` what is left of that, and `left` what the ring can still spend today.
    `project_spent` is what all rings have used or reserved. `loan` is the part of `ring_limit` that
    archeology lends the ring; for archeology it is negative, the amount lent until it asks for a unit, and
    `spent_by_others` is how much of it is spent.
    """

    ring: str
    bucket: str
    project: str
    limit: int
    ring_limit: int
    allowed: int
    used: int
    reserved: int
    free_now: int
    left: int
    project_spent: int
    closed_until: datetime | None
    reason: str | None
    keys: tuple[str, ...]
    loan: int
    spent_by_others: int

    @property
    def is_in_use(self) -> bool:
        """Whether the ring has a share of the bucket, or has used it today."""
        return bool(self.ring_limit or self.used or self.reserved)


@dataclass(frozen=True, slots=True)
class KeyInUse:
    """An API key, by its fingerprint. `retry_at` is when it may be tried again, `calls` today's calls."""

    fingerprint: str
    project: str
    rings: tuple[str, ...]
    state: str
    calls: int
    failures: int
    retry_at: datetime | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Ledger:
    """Every ring's account and every key; both are empty if no key is configured."""

    now: datetime
    ledger: tuple[RingQuota, ...]
    keys: tuple[KeyInUse, ...]


async def ledger(atlas: Atlas, ring: RingName | None = None) -> Ledger:
    """The ledger of one ring, or of every ring with keys; EmptyKeyRing if the one ring has none."""
    return view_of(await ledger_lines(atlas, ring), atlas.clock.now())


async def ledger_lines(atlas: Atlas, ring: RingName | None = None) -> list[LedgerLine]:
    """The ledger's own lines, for one ring or every ring with keys."""
    from atlas.config import RINGS
    from atlas.keyring import KeyRing

    named: Sequence[RingName] = [name for name in RINGS if atlas.settings.key_pool[name]]
    rings = [KeyRing(name, atlas=atlas) for name in (named if ring is None else [ring])]
    return [line for keys_of in rings for line in await keys_of.ledger()]


def view_of(lines: Sequence[LedgerLine], now: datetime) -> Ledger:
    rows = tuple(
        RingQuota(
            ring=line.ring, bucket=line.bucket, project=line.project, limit=line.limit,
            ring_limit=line.ring_limit, allowed=line.allowed, used=line.used, reserved=line.reserved,
            free_now=line.free_now, left=line.left, project_spent=line.project_spent,
            closed_until=line.closed_until, reason=line.reason,
            keys=tuple(key.fingerprint for key in line.keys), loan=line.loan,
            spent_by_others=line.spent_by_others,
        )
        for line in lines
    )  # fmt: skip
    statuses = {status.fingerprint: status for line in lines for status in line.keys}
    keys = tuple(
        KeyInUse(
            fingerprint=key.fingerprint, project=key.project,
            rings=tuple(dict.fromkeys(row.ring for row in rows if key.fingerprint in row.keys)),
            state=str(key.state), calls=key.calls, failures=key.failures, retry_at=key.retry_at,
            reason=key.reason,
        )
        for key in statuses.values()
    )  # fmt: skip
    return Ledger(now, rows, keys)
