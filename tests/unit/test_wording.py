"""Statements in words: coarse figures, shares and conditions."""

from __future__ import annotations

import pytest

from maia.learning.detectors.wording import about, coarse, in_words, of_ten, times, who, whose
from maia.learning.patterns import Condition, Operator


@pytest.mark.parametrize(
    ("value", "text"), [(0.8731, "0.87"), (3.1, "3.1"), (33.2, "33"), (1287, "1,300"), (0, "0")]
)
def test_figures_have_two_digits(value: float, text: str) -> None:
    assert about(value) == text
    assert about(coarse(value)) == text


@pytest.mark.parametrize(("factor", "text"), [(1.52, "1.5 times"), (30, "30 times"), (312, "over 100 times")])
def test_ratios(factor: float, text: str) -> None:
    assert times(factor) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.01, "hardly ever"),
        (0.33, "about 3 in 10 times"),
        (0.88, "about 9 in 10 times"),
        (1, "nearly always"),
    ],
)
def test_shares(share: float, text: str) -> None:
    assert of_ten(share) == text


def test_conditions_name_days_and_hours() -> None:
    equals = Operator.EQUALS
    region, sunday, night = (
        Condition("region", equals, "KR"),
        Condition("weekday", equals, 6),
        Condition("hour", equals, 3),
    )
    assert in_words([region]) == "when region = KR"
    assert in_words([sunday]) == "on Sundays"
    assert in_words([sunday, region, night]) == "when region = KR on Sundays between 3 and 4 h UTC"
    assert in_words([Condition("weekday", equals, True)]) == "when weekday = true"
    assert in_words([Condition("hour", Operator.ABOVE, 3)]) == "when hour > 3"
    part = [Condition("hour", Operator.AT_LEAST, 0), Condition("hour", Operator.BELOW, 6)]
    assert in_words(part) == "between 0 and 6 h UTC"
    assert in_words([*part, region]) == "when region = KR between 0 and 6 h UTC"
    assert in_words([Condition("hour", Operator.AT_LEAST, 0)]) == "when hour >= 0"


def test_an_imported_log_is_called_so() -> None:
    assert (who("hunter"), who("imported")) == ("the hunter", "the imported log")
    assert (whose("hunter", "feeds"), whose("imported", "Wait")) == (
        "hunter feeds",
        "the imported log's Wait",
    )
