"""What cycles say when there is nothing to do, or nobody answered."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from maia.cycle.claims import ClaimingCycle
from maia.cycle.reasons import SkipReason
from maia.cycle.words import coming, in_words

NOW = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("after", "text"),
    [
        (timedelta(seconds=1), "2026-11-02 12:00 UTC, in 1 min"),
        (timedelta(minutes=40), "2026-11-02 12:40 UTC, in 40 min"),
        (timedelta(hours=5), "2026-11-02 17:00 UTC, in 5 h"),
        (timedelta(days=4), "2026-11-06 12:00 UTC, in 4 d"),
        (timedelta(0), ""),
        (timedelta(hours=-1), ""),
    ],
)
def test_when_there_is_more_to_do(after: timedelta, text: str) -> None:
    assert coming(NOW + after, NOW) == text


def test_nouns_agree_with_what_was_counted() -> None:
    nouns = {"pages": ("page", "pages"), "new": ("new video", "new videos"), "gone": ("gone", "gone")}
    found: dict[str, Any] = {"seconds": 2.0, "units": {}, "skipped": {}, "detail": ""}
    for count, text in ((0, "0 pages, 0 new videos, 0 gone"), (1, "1 page, 1 new video, 1 gone"),
                        (2, "2 pages, 2 new videos, 2 gone")):  # fmt: skip
        told = in_words(found | dict.fromkeys(nouns, count), nouns)
        assert told == f"{text} in 2.0 s; units: none"


def test_when_there_is_never_more_to_do() -> None:
    assert coming(None, NOW) == ""


@pytest.mark.parametrize(
    ("skipped", "text"),
    [
        ({SkipReason.NETWORK: 3}, "YouTube could not be reached"),
        ({SkipReason.DATABASE: 1}, "the database could not be reached"),
        ({SkipReason.NETWORK: 1, SkipReason.DATABASE: 2}, "YouTube and the database could not be reached"),
    ],
)
def test_which_of_the_two_did_not_answer(skipped: dict[SkipReason, int], text: str) -> None:
    cycle: Any = SimpleNamespace(skipped=Counter(skipped))
    assert ClaimingCycle._unreached(cycle) == text
