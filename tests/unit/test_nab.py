from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.nab import (
    PROFILES,
    Profile,
    ScoredSeries,
    normalised,
    probation_length,
    scaled_sigmoid,
    sweep,
    window_of_points,
    worth_of_points,
)
from tests.bench.bench_anomalies import read_corpus, read_scores, windowed_gaussian

SHARED = Path(os.environ.get("PLEIADES_SHARED", Path(__file__).resolve().parents[3] / "shared"))
METRICS = SHARED / "data" / "metrics"
STANDARD = PROFILES["standard"]
recorded = pytest.mark.skipif(not METRICS.exists(), reason=f"no recorded data at {METRICS}")


def series_of(scores: list[float], *windows: tuple[int, int]) -> ScoredSeries:
    return ScoredSeries(np.array(scores, float), np.arange(len(scores), dtype=float), windows)


def plain_score(series: ScoredSeries, threshold: float, profile: Profile) -> float:
    """The rules once more, point by point."""
    best: dict[int, float] = dict.fromkeys(range(len(series.windows)), -profile.false_negative)
    total = 0.0
    for i, score in enumerate(series.scores):
        if i < probation_length(len(series.scores)) or score < threshold:
            continue
        inside = [n for n, (first, last) in enumerate(series.windows) if first <= i <= last]
        before = [(first, last) for first, last in series.windows if last < i]
        if inside:
            first, last = series.windows[inside[0]]
            position = -(last - i + 1) / (last - first + 1)
            highest = 2 / (1 + np.exp(-5)) - 1
            worth = profile.true_positive * (2 / (1 + np.exp(5 * position)) - 1) / highest
            best[inside[0]] = max(best[inside[0]], worth)
        elif before:
            first, last = before[-1]
            position = (i - last) / max(last - first, 1)
            total += profile.false_positive * (-1 if position > 3 else 2 / (1 + np.exp(5 * position)) - 1)
        else:
            total -= profile.false_positive
    return total + sum(best.values())


@pytest.mark.parametrize(
    ("position", "worth"), [(-1.0, 0.9866), (-0.5, 0.8483), (0.0, 0.0), (0.5, -0.8483), (3.1, -1.0)]
)
def test_the_sigmoid_falls_from_a_windows_start(position: float, worth: float) -> None:
    assert scaled_sigmoid(np.array([position]))[0] == pytest.approx(worth, abs=1e-4)


@pytest.mark.parametrize(("points", "length"), [(0, 0), (100, 15), (4_000, 600), (5_000, 750), (22_695, 750)])
def test_the_probation_is_a_share_but_bounded(points: int, length: int) -> None:
    assert probation_length(points) == length


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_silence_scores_0_and_an_alarm_at_each_windows_start_100(profile: Profile) -> None:
    scores = [0.0] * 100
    scores[40] = scores[70] = 1.0
    swept = sweep([series_of(scores, (40, 49), (70, 79))], profile)
    assert swept.score_at(1.0) == pytest.approx(100)
    assert (swept.best_threshold, swept.best_score) == (1.0, pytest.approx(100))
    assert swept.score_at(2.0) == 0


def test_only_the_first_alarm_in_a_window_counts() -> None:
    once, often = [0.0] * 100, [0.0] * 100
    once[42] = 1.0
    often[42:50] = [1.0] * 8
    one, several = (sweep([series_of(s, (40, 49))], STANDARD).score_at(1.0) for s in (once, often))
    assert one == several < 100


def test_alarms_in_the_probation_are_free() -> None:
    scores = [1.0] * 15 + [0.0] * 85
    assert sweep([series_of(scores, (40, 49))], STANDARD).score_at(1.0) == 0


def test_a_false_alarm_costs_more_the_farther_it_is_behind_a_window() -> None:
    window = window_of_points(series_of([0.0] * 100, (40, 49)))
    worth = worth_of_points(window, STANDARD)
    assert worth[20] == -0.11
    assert 0 > worth[50] > worth[55] > worth[70] > worth[90] == -0.11


def test_a_window_between_two_points_is_missed() -> None:
    series = ScoredSeries(np.ones(100), np.arange(100.0), [(40.2, 40.8), (50, 59)])
    assert sweep([series], PROFILES["standard"]).score_at(2.0) == 0
    assert window_of_points(series).max() == 1


def test_a_corpus_without_windows_cannot_be_normalised() -> None:
    with pytest.raises(ValueError, match="without any labelled window"):
        normalised(0.0, 0, STANDARD)


@given(
    st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]), min_size=40, max_size=80),
    st.lists(st.sampled_from([0.0, 0.3, 0.5, 1.0]), min_size=40, max_size=60),
    st.sampled_from(list(PROFILES.values())),
)
def test_the_sweep_agrees_with_the_rules_applied_point_by_point(
    first: list[float], second: list[float], profile: Profile
) -> None:
    corpus = [series_of(first, (15, 20), (30, 36)), series_of(second, (20, 29))]
    swept = sweep(corpus, profile)
    for threshold, raw in zip(swept.thresholds, swept.raw_scores, strict=True):
        assert raw == pytest.approx(sum(plain_score(series, threshold, profile) for series in corpus))
    assert len(swept.thresholds) <= 1 + len({*first, *second})


@recorded
def test_numentas_published_score_is_reproduced_from_its_raw_scores() -> None:
    corpus = read_corpus(METRICS)
    scored = [s.scored(x) for s, x in zip(corpus, read_scores(METRICS, "numenta", corpus), strict=True)]
    assert sweep(scored, STANDARD).best_score == pytest.approx(70.10105611943965, abs=1e-6)
    assert sweep(scored, PROFILES["reward_low_FN_rate"]).best_score == pytest.approx(
        74.3202443095115, abs=1e-6
    )


@recorded
def test_the_windowed_gaussians_published_score_is_reproduced_by_running_it() -> None:
    scored = [series.scored(windowed_gaussian(series.values)) for series in read_corpus(METRICS)]
    assert sweep(scored, STANDARD).best_score == pytest.approx(39.649523496077585, abs=1e-6)
