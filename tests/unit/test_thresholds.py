from __future__ import annotations

import math

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.thresholds import Crossing, ThresholdDetector, ThresholdSettings

SETTINGS = ThresholdSettings(raise_at=90, clear_below=80, needed=3, window=5)


def crossings(values: list[float], settings: ThresholdSettings = SETTINGS) -> list[tuple[int, Crossing]]:
    detector = ThresholdDetector(settings)
    seen = ((n, detector.update(value)) for n, value in enumerate(values))
    return [(n, crossing) for n, crossing in seen if crossing]


def test_three_of_five_high_values_raise_and_three_of_five_normal_ones_clear() -> None:
    values = [95.0, 10, 95, 10, 95, 85, 85, 70, 85, 70, 85, 70]
    assert crossings(values) == [(4, Crossing.RAISED), (11, Crossing.CLEARED)]


def test_high_values_too_far_apart_do_not_raise() -> None:
    assert crossings([95.0, 10, 10, 95, 10, 10] * 10) == []


def test_a_metric_that_wavers_between_the_limits_does_not_flap() -> None:
    assert crossings([95.0] * 3 + [89.0, 91.0, 81.0] * 50) == [(2, Crossing.RAISED)]


def test_a_missing_value_counts_as_nothing() -> None:
    assert crossings([95.0, math.nan, 95, math.nan, 95]) == [(4, Crossing.RAISED)]


@given(
    st.lists(st.floats(allow_nan=True), max_size=100),
    st.integers(0, 100),
    st.integers(1, 8),
    st.integers(0, 56),
)
def test_a_restored_detector_has_the_same_future(
    values: list[float], at: int, needed: int, more: int
) -> None:
    detector = ThresholdDetector(ThresholdSettings(1.0, -1.0, needed, needed + more))
    for value in values[:at]:
        detector.update(value)
    restored = ThresholdDetector.from_state(msgpack.unpackb(msgpack.packb(detector.state())))
    assert [restored.update(v) for v in values[at:]] == [detector.update(v) for v in values[at:]]
    assert restored.state() == detector.state()


@given(st.lists(st.floats(0, 200), max_size=200))
def test_crossings_alternate_and_begin_with_a_rise(values: list[float]) -> None:
    kinds = [kind for _, kind in crossings(values)]
    assert kinds == [Crossing.RAISED, Crossing.CLEARED] * (len(kinds) // 2) + [Crossing.RAISED] * (
        len(kinds) % 2
    )


@pytest.mark.parametrize(
    ("raise_at", "clear_below", "needed", "window"),
    [(1, 2, 3, 5), (math.nan, 1, 3, 5), (2, 1, 6, 5), (2, 1, 0, 5), (2, 1, 3, 65)],
)
def test_settings_that_make_no_sense_are_refused(
    raise_at: float, clear_below: float, needed: int, window: int
) -> None:
    with pytest.raises(ValueError, match="must"):
        ThresholdSettings(raise_at, clear_below, needed, window)


def test_a_state_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 7"):
        ThresholdDetector.from_state(ThresholdDetector(SETTINGS).state() | {"version": 7})
