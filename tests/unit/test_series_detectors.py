"""Detectors of series and of view curves: the contract for what they read, and truths that they must find."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from maia.learning.anomalies import ASPECTS
from maia.learning.detector import Alarm, Detector, MeasurementDetector
from maia.learning.detectors import BUILT_IN
from maia.learning.detectors.archetypes import VelocityArchetypes
from maia.learning.detectors.series import _WHY_ODD, Anomalies, ChangePoints, SeasonalProfiles, Thresholds
from maia.learning.evidence import Counts
from maia.learning.observations import Measurement, ViewCurve
from maia.learning.patterns import Finding

BEGIN = datetime(2026, 11, 2, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

SERIES = [each for each in BUILT_IN if each.reads == "measurements"]
Level = Callable[[int], float]


def series(
    level: Level, count: int, *, name: str = "north cpu_percent", seed: int = 1, every: int = 10
) -> list[Measurement]:
    """A series with a little noise, one value every so many minutes."""
    noise = random.Random(seed)
    return [Measurement(name, BEGIN + n * every * MINUTE, level(n) + noise.gauss(0, 1)) for n in range(count)]


def day_and_night(n: int) -> float:
    return 30 + 20 * math.sin(2 * math.pi * n / 144)


def troubled(n: int) -> float:
    """Flat, with hours of overload, and a shift of the level for good."""
    return (20.0 if n < 3000 else 35.0) + (70.0 if n % 900 > 870 else 0.0)


def curves(seed: int, count: int) -> list[ViewCurve]:
    """Two kinds of videos: half are over in a day, half go on for days."""
    noise = random.Random(seed)
    ages = [1, 2, 3, 6, 9, 12, 18, 24, 30, 36, 48, 60, 72, 96, 120, 144, 168, 170]
    found = []
    for n in range(count):
        speed = 0.2 if n % 2 else 0.01
        scale = 10 ** noise.uniform(3, 5)
        views = [scale * (1 - math.exp(-speed * age)) * (1 + 0.01 * noise.random()) for age in ages]
        found.append(ViewCurve(f"v{n}", BEGIN + n * timedelta(hours=1), ages, sorted(views)))
    return found


def input_of(kind: type[Detector[Any]], seed: int) -> list[Any]:
    if kind is VelocityArchetypes:
        return curves(seed, 600)
    return series(troubled, 6000, seed=seed) + series(day_and_night, 6000, name="south load_1", seed=seed)


def batches(read: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(read), size):
        yield read[first : first + size]


def evidence_of(found: Sequence[Finding]) -> dict[str, Counts]:
    total: dict[str, Counts] = {}
    for each in found:
        for counts in each.evidence.values():
            total[each.pattern.id] = total.get(each.pattern.id, Counts()) + counts
    return total


def learn(detector: Detector[Any], read: Sequence[Any], size: int = 500) -> list[Finding]:
    found = []
    for batch in batches(read, size):
        detector.observe(batch)
        found += detector.patterns()
    return found


@pytest.fixture(params=[*SERIES, VelocityArchetypes], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> type[Detector[Any]]:
    found: type[Detector[Any]] = request.param
    return found


class TestContract:
    def test_a_restored_detector_goes_on_as_the_one_that_was_saved(self, kind: type[Detector[Any]]) -> None:
        saved, restored = kind(), kind()
        for batch in batches(input_of(kind, 2), 400):
            for each in (saved, restored):
                each.observe(batch)
            restored = kind.from_state(restored.state())
            if isinstance(saved, MeasurementDetector) and isinstance(restored, MeasurementDetector):
                assert saved.alarms() == restored.alarms()
            assert saved.patterns() == restored.patterns()
            assert saved.state() == restored.state()

    def test_what_was_not_handed_out_survives_saving(self, kind: type[Detector[Any]]) -> None:
        detector = kind()
        detector.observe(input_of(kind, 3))
        restored = kind.from_state(detector.state())
        assert restored.patterns() == detector.patterns() != []

    def test_batches_make_no_difference(self, kind: type[Detector[Any]]) -> None:
        read = input_of(kind, 4)
        one, other = learn(kind(), read, 10_000), learn(kind(), read, 170)
        assert evidence_of(one) == evidence_of(other) != {}

    def test_nothing_is_handed_out_twice(self, kind: type[Detector[Any]]) -> None:
        detector = kind()
        learn(detector, input_of(kind, 5))
        assert detector.patterns() == []

    def test_patterns_can_be_written_as_json(self, kind: type[Detector[Any]]) -> None:
        for each in learn(kind(), input_of(kind, 6)):
            assert each.pattern.type in kind.types
            json.dumps([each.pattern.signature, each.pattern.data], allow_nan=False)
            assert all(counts.last_seen for counts in each.evidence.values())


class TestOddInput:
    @pytest.mark.parametrize("kind", SERIES, ids=lambda kind: kind.name)
    @pytest.mark.parametrize(
        "values",
        [[], [1.0], [1.0] * 500, [math.nan] * 50, [math.inf, -math.inf] * 50, [1e300, -1e300] * 300],
        ids=["empty", "one", "constant", "NaN", "infinite", "huge"],
    )
    def test_it_is_survived(self, kind: type[MeasurementDetector], values: list[float]) -> None:
        detector = kind()
        read = [Measurement("x cpu_percent", BEGIN + n * MINUTE, value) for n, value in enumerate(values)]
        for _ in range(3):
            detector.observe(read)
            detector = kind.from_state(detector.state())
            for found in detector.patterns():
                json.dumps(found.pattern.data, allow_nan=False)
            for alarm in detector.alarms():
                assert 0 <= alarm.score <= 1

    @pytest.mark.parametrize("kind", SERIES, ids=lambda kind: kind.name)
    def test_values_out_of_order_are_survived(self, kind: type[MeasurementDetector]) -> None:
        read = series(troubled, 3000)
        random.Random(1).shuffle(read)
        learn(kind(), read)

    @pytest.mark.parametrize("kind", SERIES, ids=lambda kind: kind.name)
    def test_many_series_take_bounded_memory(self, kind: Any) -> None:
        detector = kind(capacity=5)
        detector.observe(
            [Measurement(f"host{n % 400} cpu_percent", BEGIN + n * MINUTE, n % 100) for n in range(4000)]
        )
        few = kind(capacity=5)
        few.observe(
            [Measurement(f"host{n % 5} cpu_percent", BEGIN + n * MINUTE, n % 100) for n in range(4000)]
        )
        assert len(detector.state()) < 2 * len(few.state()) + 2000

    def test_curves_that_do_not_tell_are_left_out(self) -> None:
        detector = VelocityArchetypes()
        odd = [
            ViewCurve("a", BEGIN, [], []),
            ViewCurve("b", BEGIN, [1.0], [5.0]),
            ViewCurve("c", BEGIN, [1.0, 170.0], [math.nan, 5.0]),
            ViewCurve("d", BEGIN, [1.0, 20.0, 170.0], [0.0, 0.0, 0.0]),
        ]
        detector.observe(odd * 100)
        assert detector.patterns() == []


class TestTruths:
    def test_a_rhythm_is_found_and_a_flat_series_has_none(self) -> None:
        two_weeks = 14 * 144
        rhythmic = evidence_of(learn(SeasonalProfiles(), series(day_and_night, 2 * two_weeks)))
        [counts] = rhythmic.values()
        assert counts.pos > 10 * counts.neg
        assert evidence_of(learn(SeasonalProfiles(), series(lambda n: 30.0, 2 * two_weeks))) == {}

    def test_the_busiest_hour_is_named(self) -> None:
        found = learn(SeasonalProfiles(), series(day_and_night, 6 * 7 * 144))
        data = found[-1].pattern.data
        assert str(data["highest_hour"]).endswith(("05:00 UTC", "06:00 UTC", "07:00 UTC"))
        assert str(data["lowest_hour"]).endswith(("17:00 UTC", "18:00 UTC", "19:00 UTC"))

    def test_overload_raises_one_alarm_each_time_and_proves_true(self) -> None:
        detector = Thresholds()
        read = series(lambda n: 20.0 + (70.0 if n % 900 > 870 else 0.0), 4500)
        found = learn(detector, read)
        [counts] = evidence_of(found).values()
        alarms = detector.alarms()
        assert (counts.pos, counts.neg, len(alarms)) == (5, 0, 5)
        assert {alarm.kind for alarm in alarms} == {"threshold"}
        assert str(found[0].pattern.conditions[0]) == "cpu_percent > 80"

    def test_flapping_is_counted_against_a_threshold(self) -> None:
        [counts] = evidence_of(
            learn(Thresholds(), series(lambda n: 95.0 if n % 20 < 3 else 20.0, 2000))
        ).values()
        assert counts.neg > 10
        assert counts.pos == 0

    def test_series_without_a_limit_have_no_threshold(self) -> None:
        detector = Thresholds()
        learn(detector, series(lambda n: 1e6, 500, name="north received_bytes_per_s"))
        assert (detector.patterns(), detector.alarms()) == ([], [])

    def test_what_becomes_odd_is_noticed_soon(self) -> None:
        detector = Anomalies()
        read = series(lambda n: 30.0 if n < 4000 or n > 4040 else 60.0, 6000)
        [counts] = evidence_of(learn(detector, read)).values()
        alarms = detector.alarms()
        begins = BEGIN + 4000 * 10 * MINUTE
        assert any(begins <= alarm.at <= begins + 50 * MINUTE for alarm in alarms)
        assert len(alarms) <= 8
        assert counts.pos >= 1

    @pytest.mark.parametrize("seed", range(3))
    def test_what_moves_slowly_follows_no_week(self, seed: int) -> None:
        noise, value, walk = random.Random(seed), 50.0, []
        for _ in range(6 * 24 * 60):
            value += 0.001 * (50.0 - value) + noise.gauss(0, 0.5)
            walk.append(value)
        assert learn(SeasonalProfiles(), series(lambda n: walk[n], len(walk), every=1)) == []

    @pytest.mark.parametrize("seed", [2, 5, 10])
    def test_noise_has_no_shifts(self, seed: int) -> None:
        detector = ChangePoints()
        learn(detector, series(lambda _: 20.0, 20 * 24 * 60, every=1, seed=seed))
        assert detector.alarms() == []

    @pytest.mark.parametrize("every", [1, 30])
    def test_a_shift_of_what_follows_the_day_is_told_in_levels_that_were_there(self, every: int) -> None:
        detector, a_day = ChangePoints(), 24 * 60 // every

        def level(n: int) -> float:
            return 20 + 15 * math.sin(2 * math.pi * n / a_day) + (6 if n > 17 * a_day else 0)

        learn(detector, series(level, 21 * a_day, every=every))
        [shift] = [alarm.detail for alarm in detector.alarms()]
        before, after = map(float, re.findall(r"[\d.]+", shift))
        assert after - before == pytest.approx(6, abs=1.5)
        assert 4 < before < after < 42

    def test_each_aspect_of_oddness_is_told_in_words(self) -> None:
        assert set(_WHY_ODD) == set(ASPECTS)
        detector = Anomalies()
        learn(detector, series(lambda n: 30.0 if n != 4000 else 6e7, 4010))
        [alarm] = [each for each in detector.alarms() if each.value > 1e6]
        assert alarm.detail in _WHY_ODD.values()

    def test_large_levels_are_told_without_an_exponent(self) -> None:
        detector = ChangePoints()
        learn(detector, series(lambda n: 2e6 if n < 2000 else 6e6, 4000))
        assert [alarm.detail for alarm in detector.alarms()] == ["the level went from 2,000,000 to 6,000,000"]

    def test_a_shift_for_good_is_found_with_both_levels(self) -> None:
        detector = ChangePoints()
        found = learn(detector, series(lambda n: 20.0 if n < 2000 else 26.0, 4000))
        [alarm] = detector.alarms()
        assert isinstance(alarm, Alarm)
        assert BEGIN + 2000 * 10 * MINUTE <= alarm.at <= BEGIN + 2100 * 10 * MINUTE
        [only] = found
        assert only.pattern.signature == {"series": "north cpu_percent", "direction": "up"}
        assert only.pattern.data["before"] == pytest.approx(20, abs=1)
        assert only.pattern.data["after"] == pytest.approx(26, abs=1.5)
        assert [(each.pos, each.neg) for each in evidence_of(found).values()] == [(1, 0)]

    def test_two_kinds_of_videos_are_told_apart_by_their_first_day(self) -> None:
        found = learn(VelocityArchetypes(), curves(7, 1200))
        by_name = {str(each.pattern.signature["shape"]): each.pattern for each in found}
        first_days = sorted(float(str(each.data["first_day_of_week"])) for each in by_name.values())
        assert first_days[0] < 0.4
        assert first_days[-1] > 0.9
        total = sum(evidence_of(found).values(), Counts())
        assert total.pos > 20 * total.neg
