"""How a cycle ended, and its statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from atlas.config import Bucket


class Outcome(StrEnum):
    """How a cycle ended; `EXIT_STATUSES` says which of them are failures."""

    DONE = "done"
    IDLE = "idle"
    """There was nothing to do."""
    CLOSED = "closed"
    """The quota ledger grants no call for now."""
    UNAVAILABLE = "unavailable"
    """YouTube or the database could not be reached."""
    RATE_LIMITED = "rate_limited"
    """YouTube responded 429."""
    KEYS_REJECTED = "keys_rejected"
    """No API key is usable until somebody acts."""
    MISCONFIGURED = "misconfigured"
    """A setting, or the machine's clock, is wrong."""
    STORAGE_FAILED = "storage_failed"
    """The database runs, but cannot store."""
    VAULT_FAILED = "vault_failed"
    """A required vault cannot store."""
    INTERRUPTED = "interrupted"
    FAILED = "failed"


EXIT_STATUSES: Mapping[Outcome, int] = {
    Outcome.UNAVAILABLE: 69,
    Outcome.STORAGE_FAILED: 69,
    Outcome.VAULT_FAILED: 69,
    Outcome.RATE_LIMITED: 75,
    Outcome.KEYS_REJECTED: 78,
    Outcome.MISCONFIGURED: 78,
    Outcome.FAILED: 1,
}
"""The exit status of a process whose last cycle ended so; every other outcome is a success."""


@dataclass(frozen=True, slots=True)
class Closing:
    """Why the cycle makes no more calls, and until when (None: until somebody acts)."""

    reopens_at: datetime | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleStatistics:
    """Counts for one or more cycles; each agent adds its own."""

    cycles: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    units: Mapping[Bucket, int] = field(default_factory=dict)
    malformed: Mapping[str, int] = field(default_factory=dict)
    """Malformed values in YouTube's responses, which were left out, counted by kind."""
    adapted: Mapping[str, int] = field(default_factory=dict)
    """How often a batch or a turn was changed for the host's sake or by the quota left, by cause."""
    seconds: float = 0.0
    outcome: Outcome = Outcome.DONE
    reopens_at: datetime | None = None
    detail: str | None = None

    def then(self, later: Self) -> Self:
        """Combine with a later cycle: counts are added, and the later outcome counts."""
        sums: dict[str, Any] = {}
        for name in (each.name for each in fields(self)):
            ours, theirs = getattr(self, name), getattr(later, name)
            if isinstance(ours, Mapping):
                sums[name] = _sum(ours, theirs)
            elif isinstance(ours, (int, float)):
                sums[name] = ours + theirs
        return replace(later, **sums)

    def as_dict(self) -> dict[str, Any]:
        """The statistics as plain values for JSON."""
        values = asdict(self)
        values["outcome"] = self.outcome.value
        values["seconds"] = round(self.seconds, 3)
        values["reopens_at"] = self.reopens_at and self.reopens_at.isoformat()
        return values


def _sum(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Add up two mappings of counts, which may be nested."""
    total: dict[str, Any] = {}
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        one, other = ours.get(key, 0), theirs.get(key, 0)
        if isinstance(one, Mapping) or isinstance(other, Mapping):
            total[key] = _sum(one or {}, other or {})
        else:
            total[key] = one + other
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A cycle's progress: `done` of `claimed` items; `text` says what it is working on."""

    cycle: int
    text: str
    done: int
    claimed: int
