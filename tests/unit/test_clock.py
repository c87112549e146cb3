"""Clocks, and the Pacific day over both clock changes."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.clock import FixedClock, VirtualClock, next_reset, pacific_day, pacific_midnight


@pytest.mark.parametrize(
    ("day", "starts", "hours"),
    [
        (date(2026, 3, 7), datetime(2026, 3, 7, 8, tzinfo=UTC), 24),
        (date(2026, 3, 8), datetime(2026, 3, 8, 8, tzinfo=UTC), 23),
        (date(2026, 3, 9), datetime(2026, 3, 9, 7, tzinfo=UTC), 24),
        (date(2026, 11, 1), datetime(2026, 11, 1, 7, tzinfo=UTC), 25),
        (date(2026, 11, 2), datetime(2026, 11, 2, 8, tzinfo=UTC), 24),
    ],
)
def test_days_begin_and_last_as_in_los_angeles(day: date, starts: datetime, hours: int) -> None:
    assert pacific_midnight(day) == starts
    assert next_reset(starts) - starts == timedelta(hours=hours)
    assert pacific_day(starts) == day
    assert pacific_day(starts - timedelta(microseconds=1)) == day - timedelta(days=1)


@given(st.integers(0, 15 * 366 * 86_400))
def test_every_instant_lies_in_its_day(second: int) -> None:
    instant = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
    start, end = pacific_midnight(pacific_day(instant)), next_reset(instant)
    assert start <= instant < end
    assert timedelta(hours=23) <= end - start <= timedelta(hours=25)
    assert pacific_day(end) > pacific_day(instant)


def test_virtual_clocks_with_the_same_values_agree() -> None:
    anchor = datetime.now(UTC) - timedelta(seconds=10)
    start = datetime(2026, 3, 8, tzinfo=UTC)
    first, second = (VirtualClock(start, anchor, speed=3600) for _ in range(2))
    before, between, after = first.now(), second.now(), first.now()
    assert start + timedelta(hours=10) <= before <= between <= after


def test_fixed_clocks_move_only_when_told() -> None:
    clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
    assert clock.now() == clock.now()
    clock.advance(timedelta(days=1))
    assert clock.now() == datetime(2026, 1, 2, tzinfo=UTC)
