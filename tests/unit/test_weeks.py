from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.views.weeks import Week

ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/Los_Angeles", "Asia/Kolkata", "Pacific/Apia"])
INSTANTS = st.integers(0, 4_000_000_000).map(lambda second: datetime.fromtimestamp(second, UTC))


@pytest.mark.parametrize("text", ["2026-W48", "2026w48", "2026W48", " 2026-w48 "])
def test_a_week_is_read_however_it_is_written(text: str) -> None:
    assert Week.parse(text) == Week(2026, 48)


@pytest.mark.parametrize(
    "text", ["", "48", "2026-48", "2026-W00", "2026-W54", "2027-W53", "9999-W52", "W48-2026"]
)
def test_what_is_no_week_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="week"):
        Week.parse(text)


def test_a_long_year_has_week_53() -> None:
    assert Week.parse("2026-W53").days[-1] == date(2027, 1, 3)
    assert Week.of(datetime(2027, 1, 3, 23, tzinfo=UTC), "UTC") == Week(2026, 53)
    assert Week(2027, 1).before == Week(2026, 53)


@given(INSTANTS, ZONES)
def test_an_instant_is_in_exactly_its_own_week(instant: datetime, zone: str) -> None:
    week = Week.of(instant, zone)
    begin, end = week.span(zone)
    assert begin <= instant < end
    assert week.before.span(zone)[1] == begin
    assert Week.parse(str(week)) == week


@given(INSTANTS, ZONES)
def test_a_week_lasts_seven_days_but_for_a_change_of_clocks(instant: datetime, zone: str) -> None:
    begin, end = Week.of(instant, zone).span(zone)
    assert abs((end - begin) - timedelta(days=7)) <= timedelta(days=1)


def test_a_week_in_which_clocks_change_is_an_hour_shorter_or_longer() -> None:
    spring, autumn = (Week(2026, number).span("Europe/Berlin") for number in (13, 43))
    assert spring[1] - spring[0] == timedelta(hours=167)
    assert autumn[1] - autumn[0] == timedelta(hours=169)
