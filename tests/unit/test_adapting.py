"""How batches follow the host's pressure and the quota that is left."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.cycle.adapting import (
    BATTERY,
    BUSY,
    HOT,
    LARGEST_QUOTA_FACTOR,
    Adaptation,
    sized_for_host,
    sized_for_quota,
)
from maia.maintenance.monitor import HostPressure

BUSY_HOST = HostPressure(busy=True, reasons=("load per processor at 4 (limit 1.5)",))
HOT_HOST = HostPressure(hot=True, busy=True, reasons=("temperature at 90 °C (limit 85 °C)",))
ON_BATTERY = HostPressure(on_battery=True, reasons=("on battery, 40 % left",))


@pytest.mark.parametrize(
    ("found", "size", "cause"), [(BUSY_HOST, 50, BUSY), (HOT_HOST, 25, HOT), (ON_BATTERY, 25, BATTERY)]
)
def test_a_host_under_pressure_gets_smaller_batches(found: HostPressure, size: int, cause: str):
    adaptation = Adaptation()
    assert sized_for_host(100, found, adaptation) == size
    assert adaptation.causes == {cause: 1}
    detail = adaptation.detail("nothing is due now")
    assert detail is not None
    assert detail.startswith(f"nothing is due now; a batch of {size} instead of 100: {found.reasons[0]}")


def test_without_pressure_nothing_changes():
    adaptation = Adaptation()
    assert sized_for_host(100, HostPressure(), adaptation) == 100
    assert (adaptation.causes, adaptation.detail("as before")) == ({}, "as before")


def test_a_batch_is_never_empty():
    assert sized_for_host(1, HOT_HOST, Adaptation()) == 1


def test_a_cause_is_counted_each_time_and_told_once():
    adaptation = Adaptation()
    for _ in range(3):
        adaptation.note(BUSY, "busy")
    assert (adaptation.causes, adaptation.detail(None)) == ({BUSY: 3}, "busy")


def test_what_is_left_is_spread_over_the_rounds_left():
    assert sized_for_quota(10, left=7_200, cost=2, rounds=144) == 25
    assert sized_for_quota(10, left=7_200, cost=2, rounds=72) == 50


@given(st.integers(1, 1000), st.integers(-10, 10_000_000), st.floats(0, 10_000))
def test_a_batch_stays_within_its_bounds(batch_size: int, left: int, rounds: float):
    size = sized_for_quota(batch_size, left, 2, rounds)
    assert batch_size <= size <= LARGEST_QUOTA_FACTOR * batch_size
