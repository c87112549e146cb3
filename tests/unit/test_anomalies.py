from __future__ import annotations

import math

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.learning.anomalies import ALARM, ASPECTS, MEMORY, AnomalyDetector, scores_of

MINUTE_S = 60.0
any_value = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(-1e3, 1e3),
    st.sampled_from([0.0, 1.0, 1.0, 1.0]),
)
any_point = st.tuples(st.one_of(st.none(), st.floats(-1e9, 4e9)), any_value)


def daily(days: int, seed: int = 0, noise: float = 0.1) -> list[tuple[float | None, float]]:
    """Minutes of a metric with a daily period."""
    generator = np.random.default_rng(seed)
    minutes = np.arange(days * 1440)
    values = 10 + 3 * np.sin(2 * np.pi * minutes / 1440) + generator.normal(0, noise, len(minutes))
    return [(float(minute) * MINUTE_S, float(value)) for minute, value in zip(minutes, values, strict=True)]


def changed(
    points: list[tuple[float | None, float]], start: int, length: int, by: float
) -> list[tuple[float | None, float]]:
    return [(at, v + by if start <= n < start + length else v) for n, (at, v) in enumerate(points)]


def alarms_of(points: list[tuple[float | None, float]]) -> list[int]:
    return [n for n, score in enumerate(scores_of(points)) if AnomalyDetector.is_alarm(score)]


@pytest.mark.parametrize("by", [4.0, -4.0])
@pytest.mark.parametrize("length", [1, 30, 400])
def test_a_spike_and_a_shift_alarm_within_minutes(by: float, length: int) -> None:
    alarms = alarms_of(changed(daily(7), 8_000, length, by))
    assert [n for n in alarms if 8_000 <= n < 8_010]


def test_a_daily_metric_rarely_alarms() -> None:
    alarms = [n for seed in range(5) for n in alarms_of(daily(7, seed)) if n > 1440]
    assert len(alarms) <= 30, "in 43,200 minutes"


def test_something_unusual_for_the_time_of_day_alarms_though_the_value_is_ordinary() -> None:
    points = daily(7, noise=0.02)
    noon = 6 * 1440 + 360
    alarms = alarms_of(changed(points, noon, 60, -3.0))
    assert [n for n in alarms if noon <= n < noon + 10]


def test_every_point_of_an_anomalous_stretch_ranks_high_after_the_alarm() -> None:
    scores = np.array(scores_of(changed(daily(7), 8_000, 10, 6.0)))
    others = np.delete(scores[1440:], np.arange(8_000 - 1440, 8_030 - 1440))
    assert scores[8_000:8_010].min() > np.quantile(others, 0.99)


def test_alarms_are_not_repeated_while_it_is_quiet() -> None:
    generator = np.random.default_rng(3)
    alarms = np.array(alarms_of([(None, float(v)) for v in np.cumsum(generator.standard_cauchy(20_000))]))
    assert len(alarms) > 5
    assert np.mean(np.diff(alarms) > 60 + 0.03 * alarms[:-1]) > 0.8, "some have much more evidence"
    assert alarms[0] > 60


def test_a_constant_metric_is_silent_until_it_changes() -> None:
    scores = scores_of([(None, 5.0)] * 2_000 + [(None, 6.0)] + [(None, 5.0)] * 10)
    assert max(scores[:2_000]) == 0
    assert scores[2_000] >= ALARM


def test_the_evidence_says_what_was_odd() -> None:
    detector = AnomalyDetector()
    for at_s, value in changed(daily(5), 5 * 1440 - 1, 1, 20.0):
        detector.update(at_s, value)
    assert tuple(detector.evidence) == ASPECTS
    assert detector.evidence["record"] > 8
    assert AnomalyDetector().evidence == dict.fromkeys(ASPECTS, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e200])
def test_what_is_no_usable_number_scores_0_and_changes_nothing(value: float) -> None:
    points = daily(1)
    with_gap, without = AnomalyDetector(), AnomalyDetector()
    for at_s, ordinary in points:
        assert with_gap.update(at_s, value) == 0
        assert with_gap.update(at_s, ordinary) == without.update(at_s, ordinary)
    assert with_gap.state() == without.state()


@pytest.mark.parametrize("factor", [1024.0, 1 / 1024, -1.0])
def test_the_unit_of_a_metric_does_not_matter(factor: float) -> None:
    points = changed(daily(3), 4_000, 50, 5.0)
    scaled = [(at_s, value * factor) for at_s, value in points]
    # Factors of two are exact in floating point, so the scores are too. Negation swaps the histogram's sides.
    same = 1e-12 if factor > 0 else 0.06
    assert np.abs(np.array(scores_of(scaled)) - scores_of(points)).mean() <= same


@given(st.lists(any_point, max_size=300), st.integers(0, 300))
@settings(deadline=None)
def test_a_restored_detector_has_the_same_future(points: list[tuple[float | None, float]], at: int) -> None:
    detector = AnomalyDetector(8.0)
    for at_s, value in points[:at]:
        detector.update(at_s, value)
    restored = AnomalyDetector.from_state(msgpack.unpackb(msgpack.packb(detector.state())))
    assert restored.evidence == detector.evidence
    future = points[at:] + [(None, 1.0), (0.0, 5.0)] * 80
    assert [restored.update(*p) for p in future] == [detector.update(*p) for p in future]
    assert restored.state() == detector.state()


@given(st.lists(any_point, max_size=300))
@settings(deadline=None)
def test_every_input_scores_between_0_and_1(points: list[tuple[float | None, float]]) -> None:
    scores = scores_of(points)
    assert all(0 <= score <= 1 for score in scores)
    assert scores == scores_of(points)


def test_nothing_at_all_is_no_error() -> None:
    assert scores_of([]) == []


def test_values_out_of_order_and_twice_are_taken_as_they_come() -> None:
    points = daily(3)
    generator = np.random.default_rng(1)
    shuffled = [points[int(n)] for n in generator.integers(0, len(points), len(points))]
    assert len(scores_of(shuffled)) == len(points)


def test_memory_is_bounded_and_the_old_fades() -> None:
    generator = np.random.default_rng(0)
    detector, sizes = AnomalyDetector(), []
    for n, value in enumerate(generator.normal(size=3 * MEMORY + 10).tolist()):
        detector.update(n * MINUTE_S, value)
        if n % MEMORY == 0:
            sizes.append(len(msgpack.packb(detector.state())))
    assert sizes[-1] < 3_000
    state = detector.state()
    assert sum(state["_activity_seen"][0]) < 2 * MEMORY


def test_a_state_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 99"):
        AnomalyDetector.from_state(AnomalyDetector().state() | {"version": 99})


@pytest.mark.parametrize("evidence", [0.0, -1.0, math.nan])
def test_the_setting_must_be_positive(evidence: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        AnomalyDetector(evidence)


def test_more_evidence_means_fewer_alarms() -> None:
    generator = np.random.default_rng(5)
    points = [(None, float(v)) for v in generator.standard_t(3, 20_000)]
    counts = [sum(score >= ALARM for score in scores_of(points, evidence)) for evidence in (7.0, 10.0, 14.0)]
    assert counts[0] > counts[1] > counts[2]
