"""Spans of the day, over midnight and over clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.maintenance.windows import Span, Windows

MINUTE = timedelta(minutes=1)
TIMES = st.builds(time, st.integers(0, 23), st.integers(0, 59))
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
INSTANTS = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def berlin(*spans: str) -> Windows:
    return Windows.of(spans, "Europe/Berlin")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def minutes_within(windows: Windows, day: str) -> int:
    """How many minutes lie within in the night before a day, from noon to noon in UTC."""
    noon = utc(day) - timedelta(hours=12)
    return sum(noon + n * MINUTE in windows for n in range(24 * 60))


@pytest.mark.parametrize(
    ("span", "at", "within"),
    [
        ("02:00-05:30", time(2), True),
        ("02:00-05:30", time(5, 29, 59), True),
        ("02:00-05:30", time(5, 30), False),
        ("22:00-07:00", time(23), True),
        ("22:00-07:00", time(6, 59), True),
        ("22:00-07:00", time(12), False),
        ("00:00-00:00", time(12), True),
    ],
)
def test_a_span_begins_sharp_and_ends_before_its_end(span: str, at: time, within: bool) -> None:
    assert (at in Span.parse(span)) is within


class TestClockChanges:
    """In Berlin the clocks go forward on 2026-03-29 and back on 2026-10-25, both at 01:00 UTC."""

    def test_a_window_over_the_change_is_an_hour_shorter_or_longer(self) -> None:
        windows = berlin("01:30-06:00")
        assert minutes_within(windows, "2026-03-28") == 270
        assert minutes_within(windows, "2026-03-29") == 210
        assert minutes_within(windows, "2026-10-25") == 330

    def test_a_window_in_the_hour_that_is_skipped_does_not_happen(self) -> None:
        windows = berlin("02:00-03:00")
        assert minutes_within(windows, "2026-03-29") == 0
        assert windows.next_within(utc("2026-03-28T12:00")) == utc("2026-03-30T00:00")

    def test_a_window_that_begins_in_the_hour_that_is_skipped_begins_after_it(self) -> None:
        assert berlin("02:30-04:00").next_within(utc("2026-03-28T12:00")) == utc("2026-03-29T01:00")

    def test_an_hour_that_comes_twice_counts_twice(self) -> None:
        windows = berlin("02:00-02:30")
        assert minutes_within(windows, "2026-10-25") == 60
        assert windows.next_within(utc("2026-10-25T00:31")) == utc("2026-10-25T01:00")

    def test_before_and_after_a_change_the_wall_clock_decides(self) -> None:
        windows = berlin("01:30-06:00")
        assert windows.next_within(utc("2026-10-24T12:00")) == utc("2026-10-24T23:30")
        assert windows.next_within(utc("2026-10-25T12:00")) == utc("2026-10-26T00:30")


def test_without_spans_nothing_is_within() -> None:
    assert berlin().next_within(utc("2026-06-01T00:00")) is None
    assert utc("2026-06-01T00:00") not in berlin()


@given(st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=3), ZONES, INSTANTS)
def test_the_next_instant_within_is_the_first_one(
    spans: list[tuple[time, time]], zone: str, instant: datetime
) -> None:
    windows = Windows.of([f"{start:%H:%M}-{end:%H:%M}" for start, end in spans], zone)
    found = windows.next_within(instant)
    assert found is not None
    assert found >= instant
    assert found in windows
    # As spans begin on whole minutes, no minute in between may be within.
    minute = instant.replace(second=0, microsecond=0) + MINUTE
    assert found == instant or not any(
        minute + n * MINUTE in windows for n in range(int((found - minute) / MINUTE))
    )
