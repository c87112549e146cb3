"""What an exception means for the items that it meets, and for the cycle."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from atlas import errors as atlas_errors
from atlas.errors import AtlasError
from maia.cycle.outcome import EXIT_STATUSES, Outcome
from maia.cycle.reasons import (
    ITEMS_OWN,
    JUDGED,
    EmptyAnswer,
    SettingRefused,
    SkipReason,
    outcome_of,
    reason_of,
)
from maia.youtube import errors as youtube_errors
from maia.youtube.errors import (
    BadRequest,
    Disposition,
    Gone,
    KeyRejected,
    QuotaExhausted,
    RateLimited,
    Transient,
    Verdict,
    YouTubeError,
)

VERDICT = Verdict(Disposition.BAD_REQUEST, "invalidParameter", "Invalid value.", status=400)
FORGOTTEN = Verdict(Disposition.BAD_REQUEST, "invalidPageToken", "Invalid token.", status=400)


def youtube(kind: type[YouTubeError], verdict: Verdict = VERDICT) -> YouTubeError:
    return kind("search.list", verdict, None) if kind is QuotaExhausted else kind("search.list", verdict)


def raised(module: Any, root: type[Exception]) -> list[type[Exception]]:
    found = (each for _, each in inspect.getmembers(module, inspect.isclass))
    return [each for each in found if issubclass(each, root) and each.__module__ == module.__name__]


@pytest.mark.parametrize(
    ("error", "reason", "outcome"),
    [
        (youtube(RateLimited), SkipReason.RATE_LIMITED, Outcome.RATE_LIMITED),
        (youtube(KeyRejected), SkipReason.KEYS_REJECTED, Outcome.KEYS_REJECTED),
        (atlas_errors.EmptyKeyRing(), SkipReason.KEYS_REJECTED, Outcome.KEYS_REJECTED),
        (youtube(QuotaExhausted), SkipReason.RING_CLOSED, Outcome.FAILED),
        (youtube(BadRequest), SkipReason.BAD_REQUEST, Outcome.FAILED),
        (youtube(BadRequest, FORGOTTEN), SkipReason.PAGE_TOKEN, Outcome.FAILED),
        (youtube(Gone), SkipReason.BAD_REQUEST, Outcome.FAILED),
        (youtube(Transient), SkipReason.NETWORK, Outcome.FAILED),
        (EmptyAnswer(), SkipReason.EMPTY, Outcome.FAILED),
        (SettingRefused(), SkipReason.MISCONFIGURED, Outcome.MISCONFIGURED),
        (atlas_errors.ClockSkew(), SkipReason.MISCONFIGURED, Outcome.MISCONFIGURED),
        (atlas_errors.CannotStore(), SkipReason.STORAGE, Outcome.STORAGE_FAILED),
        (atlas_errors.DatabaseUnavailable(), SkipReason.DATABASE, Outcome.FAILED),
        (atlas_errors.DataRefused(), SkipReason.DATABASE, Outcome.FAILED),
        (atlas_errors.LeaseLost(), SkipReason.LEASE_LOST, Outcome.FAILED),
        (atlas_errors.VaultBroken(), SkipReason.VAULT, Outcome.VAULT_FAILED),
        (asyncio.CancelledError(), SkipReason.INTERRUPTED, Outcome.INTERRUPTED),
        (KeyboardInterrupt(), SkipReason.INTERRUPTED, Outcome.INTERRUPTED),
        (ZeroDivisionError(), SkipReason.FAILED, Outcome.FAILED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_each_error_has_one_meaning(error: BaseException, reason: SkipReason, outcome: Outcome) -> None:
    assert (reason_of(error), outcome_of(error)) == (reason, outcome)


@pytest.mark.parametrize("kind", raised(youtube_errors, YouTubeError), ids=lambda kind: kind.__name__)
def test_no_error_of_youtube_is_taken_for_a_defect(kind: type[YouTubeError]) -> None:
    if kind is not YouTubeError:
        assert reason_of(youtube(kind)) is not SkipReason.FAILED


@pytest.mark.parametrize("kind", raised(atlas_errors, AtlasError), ids=lambda kind: kind.__name__)
def test_no_error_of_atlas_is_taken_for_a_defect(kind: type[AtlasError]) -> None:
    # Whoever opens no Atlas has made a mistake.
    is_a_defect = kind in (AtlasError, atlas_errors.NoCurrentAtlas)
    assert (reason_of(AtlasError.__new__(kind)) is SkipReason.FAILED) == is_a_defect


def test_what_only_the_cycle_can_judge_concerns_single_items() -> None:
    assert JUDGED <= ITEMS_OWN


def test_every_failure_has_an_exit_status_and_no_success_has() -> None:
    successes = {Outcome.DONE, Outcome.IDLE, Outcome.CLOSED, Outcome.INTERRUPTED}
    assert EXIT_STATUSES.keys() == set(Outcome) - successes
