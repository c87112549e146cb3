from __future__ import annotations

import math

import msgpack
import numpy as np
import pytest
import ruptures
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.learning.change_points import ChangeDetector, ChangePoint, ChangeSettings, decision_limit


def changes(values: np.ndarray, settings: ChangeSettings | None = None) -> list[ChangePoint]:
    detector = ChangeDetector(settings)
    return [change for value in values.tolist() if (change := detector.update(value))]


def steps(seed: int, *levels: float, length: int = 300) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.repeat(levels, length) + generator.normal(size=length * len(levels))


@pytest.mark.parametrize("seed", range(5))
def test_the_changes_are_those_that_the_offline_search_finds(seed: int) -> None:
    values = steps(seed, 0, 3, -2, 1)
    offline = ruptures.Pelt(model="l2", min_size=20).fit(values).predict(pen=20)[:-1]
    online = changes(values)
    assert len(offline) == 3
    for position in offline:
        (change,) = [change for change in online if abs(change.began - position) <= 15]
        assert change.noticed - position <= 20
    assert len(online) <= 4, "a false alarm is allowed, but no more"


def test_the_levels_before_and_after_are_told() -> None:
    (change,) = changes(steps(0, 5, 9))
    assert change.level_before == pytest.approx(5, abs=0.3)
    assert change.level_after == pytest.approx(9, abs=1)


def test_false_alarms_are_about_as_rare_as_set() -> None:
    settings = ChangeSettings(points_between_false_alarms=2_000)
    found = sum(len(changes(np.random.default_rng(s).normal(size=10_000), settings)) for s in range(10))
    assert 10 <= found <= 120, "50 expected in 100,000 points"


def test_a_single_spike_is_no_change() -> None:
    values = steps(1, 0)
    values[150] = 1e6
    assert changes(values) == []


def test_a_constant_level_that_moves_is_a_change() -> None:
    (change,) = changes(np.repeat([4.0, 5.0], 60))
    assert (change.level_before, change.level_after, change.began) == (4.0, 5.0, 60)


def test_the_limit_meets_siegmunds_approximation() -> None:
    # k = 1/2 and h = 5 run about 465 points, on both sides: Montgomery, Statistical Quality Control.
    limit = decision_limit(ChangeSettings(least_shift=1.0, points_between_false_alarms=465))
    assert limit == pytest.approx(5, abs=0.05)


@given(
    st.lists(st.one_of(st.floats(-5, 5), st.sampled_from([50.0, math.nan, math.inf, 1e300])), max_size=200),
    st.integers(0, 200),
)
@settings(deadline=None)
def test_a_restored_detector_has_the_same_future(values: list[float], at: int) -> None:
    detector = ChangeDetector(ChangeSettings(points_between_false_alarms=50, warmup=5, memory=20))
    for value in values[:at]:
        detector.update(value)
    restored = ChangeDetector.from_state(msgpack.unpackb(msgpack.packb(detector.state())))
    assert [restored.update(v) for v in values[at:]] == [detector.update(v) for v in values[at:]]
    assert restored.state() == detector.state()
    assert len(detector.state()["recent"]) <= 20


def test_what_is_no_number_is_counted_and_nothing_else() -> None:
    detector = ChangeDetector()
    assert detector.level is None
    assert [detector.update(v) for v in (math.nan, math.inf, 1e200)] == [None] * 3
    assert detector.level is None
    detector.update(2.0)
    assert (detector.level, detector.state()["count"]) == (2.0, 4)


@pytest.mark.parametrize(
    "settings", [{"least_shift": 0}, {"points_between_false_alarms": 1}, {"warmup": 1}, {"warmup": 300}]
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        ChangeSettings(**settings)


def test_a_state_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 7"):
        ChangeDetector.from_state(ChangeDetector().state() | {"version": 7})
