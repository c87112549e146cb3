"""The reasons for which a cycle skips an item, and the table that maps exceptions to reasons."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum

from atlas.errors import (
    BackupError,
    BusUnavailable,
    CannotStore,
    ConfigError,
    DatabaseError,
    EmptyKeyRing,
    LeaseLost,
    RingClosed,
    VaultError,
)
from maia.cycle.outcome import Outcome
from maia.errors import MaiaError
from maia.youtube.errors import BadRequest, Gone, KeyRejected, QuotaExhausted, RateLimited, Transient


class EmptyAnswer(MaiaError):
    """A response contained none of the requested items."""


class SettingRefused(MaiaError):
    """YouTube refused a value that comes from a setting, so it would refuse every request."""


class SkipReason(StrEnum):
    """Why an item was skipped; a cycle's `skipped` counts items by reason."""

    RING_CLOSED = "ring_closed"
    """No quota now: all remaining items are released until the ring reopens."""
    NETWORK = "network"
    """No response, a server error or an incomplete response: retried later."""
    PAGE_TOKEN = "page_token"  # noqa: S105 - no password
    """YouTube rejected the page token: the search starts over, up to three times in a row."""
    BAD_REQUEST = "bad_request"
    """YouTube refused the request: retried later, parked when the attempts are used up."""
    EMPTY = "empty"
    """The response contained none of the requested items: not believed at once, so retried later."""
    NOT_LATER = "not_later"
    """The last sample is as late as this one or later: due again after the interval."""
    LEASE_LOST = "lease_lost"
    """The lease expired, and another process has claimed the item."""
    LATE = "late"
    """Half the batch's lease has passed: items not started by then are released."""
    UNPROMISING = "unpromising"
    """The learner expects that it would fail: released without a charge, and asked again later."""
    DATABASE = "database"
    """The database refused this item, or was away when it was to be stored: retried later."""
    STORAGE = "storage_failed"
    """The database runs but cannot store: all remaining items are released."""
    VAULT = "vault"
    """A required vault refused the page: all remaining items are released."""
    RATE_LIMITED = "rate_limited"
    """A 429: every claim is released, and the process exits with status 75."""
    KEYS_REJECTED = "keys_rejected"
    """No key is usable: every claim is released until somebody acts."""
    MISCONFIGURED = "misconfigured"
    """A setting is wrong: every claim is released until somebody corrects it."""
    INTERRUPTED = "interrupted"
    """The process was asked to stop: every claim is released."""
    FAILED = "failed"
    """A bug: every claim is released."""


def _is_page_token_error(error: BaseException) -> bool:
    return isinstance(error, BadRequest) and error.reason == "invalidPageToken"


_Test = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]

_REASONS: tuple[tuple[_Test, SkipReason], ...] = (
    (RateLimited, SkipReason.RATE_LIMITED),
    ((KeyRejected, EmptyKeyRing), SkipReason.KEYS_REJECTED),
    ((RingClosed, QuotaExhausted), SkipReason.RING_CLOSED),
    ((SettingRefused, ConfigError), SkipReason.MISCONFIGURED),
    (EmptyAnswer, SkipReason.EMPTY),
    (_is_page_token_error, SkipReason.PAGE_TOKEN),
    ((BadRequest, Gone), SkipReason.BAD_REQUEST),
    ((Transient, BusUnavailable), SkipReason.NETWORK),
    ((VaultError, BackupError), SkipReason.VAULT),
    (LeaseLost, SkipReason.LEASE_LOST),
    (CannotStore, SkipReason.STORAGE),
    (DatabaseError, SkipReason.DATABASE),
    ((asyncio.CancelledError, KeyboardInterrupt), SkipReason.INTERRUPTED),
)
"""The first row that matches an exception decides its reason."""

ITEMS_OWN = frozenset(
    {
        SkipReason.NETWORK,
        SkipReason.PAGE_TOKEN,
        SkipReason.BAD_REQUEST,
        SkipReason.EMPTY,
        SkipReason.LEASE_LOST,
        SkipReason.DATABASE,
    }
)
"""Reasons that concern only the item: the cycle continues with the others."""

JUDGED = frozenset({SkipReason.NETWORK, SkipReason.BAD_REQUEST, SkipReason.EMPTY})
"""Reasons that are judged at the end of the cycle: is the item at fault, or is the cause common to all?"""

_OUTCOMES = {
    SkipReason.RATE_LIMITED: Outcome.RATE_LIMITED,
    SkipReason.KEYS_REJECTED: Outcome.KEYS_REJECTED,
    SkipReason.MISCONFIGURED: Outcome.MISCONFIGURED,
    SkipReason.INTERRUPTED: Outcome.INTERRUPTED,
    SkipReason.STORAGE: Outcome.STORAGE_FAILED,
    SkipReason.VAULT: Outcome.VAULT_FAILED,
}


def reason_of(error: BaseException) -> SkipReason:
    """Why an exception makes the cycle skip its items."""
    for test, reason in _REASONS:
        fits = isinstance(error, test) if isinstance(test, (type, tuple)) else test(error)
        if fits:
            return reason
    return SkipReason.FAILED


def outcome_of(error: BaseException) -> Outcome:
    """The outcome of a cycle that an exception ended."""
    return _OUTCOMES.get(reason_of(error), Outcome.FAILED)
