from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.learning.breakouts import DEFAULTS, MONTH_H, BreakoutSettings, BreakoutStates, observe
from maia.learning.simulation import SAMPLINGS, SimulatedVideo, simulate
from maia.learning.velocity import nullable

SHARED = Path(os.environ.get("PLEIADES_SHARED", Path(__file__).resolve().parents[3] / "shared"))
RECORDED = SHARED / "data" / "youtube"
FIRST_SEED = 90_000
"""Far from the seeds on which the defaults were chosen."""


def alarms_of(curves: list[SimulatedVideo], settings: BreakoutSettings = DEFAULTS) -> list[list[float]]:
    """The ages at which each curve alarms; all curves go through in lockstep."""
    states, alarms = BreakoutStates.new(len(curves)), [list[float]() for _ in curves]
    longest = max(len(curve.age_h) for curve in curves)
    age, views = np.full((2, longest, len(curves)), np.nan)
    for n, curve in enumerate(curves):
        age[: len(curve.age_h), n], views[: len(curve.age_h), n] = curve.age_h, curve.views
    for now in range(1, longest):
        seen = observe(
            states, np.nan_to_num(age[now]), age[now] - age[now - 1], views[now] - views[now - 1], settings
        )
        states = seen.states
        for n in np.flatnonzero(seen.fired):
            alarms[n].append(float(age[now, n]))
    return alarms


def curve_of(rate: np.ndarray, step_h: float = 1.0, start_h: float = 48.0) -> SimulatedVideo:
    """A curve that gains `rate` views in each of its hours, sampled every `step_h`."""
    age = start_h + np.arange(len(rate) + 1)
    views = np.concatenate(([0.0], np.cumsum(rate)))
    at = np.arange(start_h, age[-1] + 1e-9, step_h)
    return SimulatedVideo(0, "made", at, np.interp(at, age, views), None, 1.0)


def hours(*parts: tuple[int, float]) -> np.ndarray:
    return np.concatenate([np.full(count, rate) for count, rate in parts])


@pytest.fixture(scope="module")
def quiet() -> list[SimulatedVideo]:
    return simulate(range(FIRST_SEED, FIRST_SEED + 240), rising=False)


@pytest.mark.parametrize("promise", [0.05, 0.3, 3.0])
def test_false_alarms_are_no_more_than_promised(quiet: list[SimulatedVideo], promise: float):
    alarms = alarms_of(quiet, replace(DEFAULTS, false_alarms_per_month=promise))
    months = sum(float(curve.age_h[-1]) for curve in quiet) / MONTH_H
    # Three standard deviations of a Poisson count on top.
    assert sum(map(len, alarms)) <= promise * months + 3 * np.sqrt(promise * months)


def ordinary(promise: float, spread: float, videos: int = 400, blocks: int = 240) -> float:
    """False alarms a month where the model holds: independent blocks, as long as noise lasts."""
    settings = replace(DEFAULTS, false_alarms_per_month=promise, decay=0.0, plateau_h=24.0)
    random, states, alarms = np.random.default_rng(5), BreakoutStates.new(videos), 0
    hours = np.full(videos, DEFAULTS.correlation_h)
    for n in range(blocks):
        gained = np.rint(1e6 * np.exp(spread * random.standard_normal(videos)))
        seen = observe(states, hours * (n + 1), hours, gained, settings)
        states, alarms = seen.states, alarms + int(seen.fired.sum())
    return alarms / (videos * blocks * DEFAULTS.correlation_h / MONTH_H)


@pytest.mark.parametrize("promise", [0.3, 2.0, 10.0])
def test_where_the_model_holds_the_rate_is_the_promised_one_within_its_bound(promise: float):
    rate = ordinary(promise, spread=0.9)
    assert promise / 4 < rate <= promise


def test_a_stricter_promise_alarms_less(quiet: list[SimulatedVideo]):
    counts = [
        sum(map(len, alarms_of(quiet[:120], replace(DEFAULTS, false_alarms_per_month=rate))))
        for rate in (0.05, 1.0, 50.0)
    ]
    assert counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_rises_are_found_once_under_every_sampling(sampling: str):
    rising = simulate(range(FIRST_SEED, FIRST_SEED + 60), rising=True, factor=(8.0, 40.0), sampling=sampling)
    found, repeated, asked = 0, 0, 0
    for curve, alarms in zip(rising, alarms_of(rising), strict=True):
        assert curve.rise_h is not None
        low, high = np.interp([curve.rise_h + 6, curve.rise_h + 30], curve.age_h, curve.views)
        if (high - low) / 24 < 2 * DEFAULTS.least_velocity:
            continue
        in_time = [at for at in alarms if curve.rise_h <= at < curve.rise_h + 120]
        asked, found, repeated = asked + 1, found + bool(in_time), repeated + (len(in_time) > 1)
    assert asked >= 25
    assert found >= 0.9 * asked
    assert repeated <= 0.05 * asked


def test_a_rise_alarms_once_and_the_next_one_again_after_it_has_faded():
    rise = hours((120, 100.0), (30, 1500.0))
    fading = 1500.0 * 2.0 ** -(np.arange(120) / 12)
    twice = curve_of(np.concatenate([rise, np.maximum(fading, 60.0), hours((60, 1500.0))]))
    (alarms,) = alarms_of([twice])
    assert len(alarms) == 2
    assert 48 + 120 < alarms[0] < 48 + 140
    assert 48 + 270 < alarms[1] < 48 + 300


def test_a_rise_that_stays_becomes_the_norm():
    (alarms,) = alarms_of([curve_of(hours((96, 50.0), (400, 1000.0), (60, 20_000.0)))])
    assert len(alarms) == 2
    assert alarms[1] > 48 + 496


@pytest.mark.parametrize("batch_h", [6, 12, 48])
def test_counts_that_stand_still_and_then_jump_are_no_rise(batch_h: int):
    steady = np.zeros(720)
    steady[batch_h - 1 :: batch_h] = 200.0 * batch_h
    assert alarms_of([curve_of(steady, step_h=0.5)]) == [[]]


def test_views_taken_away_and_given_back_are_no_rise():
    rate = hours((300, 200.0))
    rate[150], rate[153] = -15_000.0, 15_200.0
    assert alarms_of([curve_of(rate)]) == [[]]


def test_the_swing_of_the_day_and_a_decline_are_no_rise():
    at = np.arange(30 * 24)
    swing = np.exp(0.7 * np.sin(2 * np.pi * at / 24))
    curves = [
        curve_of(np.rint(5_000 * swing)),
        curve_of(np.rint(9e4 * (1 + at / 10) ** -1.2 * swing), start_h=0.5),
    ]
    assert alarms_of(curves) == [[], []]


def test_what_stays_below_the_least_velocity_is_no_breakout():
    rate = hours((200, 0.2), (200, 6.0))
    assert alarms_of([curve_of(rate)]) == [[]]
    assert len(alarms_of([curve_of(rate)], replace(DEFAULTS, least_velocity=1.0))[0]) == 1


steps = st.lists(
    st.tuples(st.one_of(st.none(), st.floats(0.001, 500)), st.floats(-1e6, 1e9)), min_size=1, max_size=30
)


@settings(max_examples=60)
@given(steps, st.integers(0, 29))
def test_what_is_kept_is_finite_or_null_and_storage_changes_nothing(
    drawn: list[tuple[float | None, float]], cut: int
):
    states, stored, age = BreakoutStates.new(1), BreakoutStates.new(1), 1.0
    for n, (step_h, gained) in enumerate(drawn):
        age += step_h or 0.0
        if n == cut:
            stored = BreakoutStates.of(*(nullable(values) for values in stored.columns()))
        seen = observe(states, [age], [step_h], [gained])
        again = observe(stored, [age], [step_h], [gained])
        states, stored = seen.states, again.states
        assert seen.fired.tolist() == again.fired.tolist()
        for values, twin in zip(states.columns(), stored.columns(), strict=True):
            assert not np.isinf(values).any()
            np.testing.assert_array_equal(values, twin)


def test_a_step_that_was_not_measured_changes_nothing():
    states = observe(BreakoutStates.new(1), [30.0], [2.0], [100.0]).states
    seen = observe(states, [31.0], [None], [None])
    assert not seen.fired[0]
    assert np.isnan(seen.ratio[0])
    for values, old in zip(seen.states.columns(), states.columns(), strict=True):
        np.testing.assert_array_equal(values, old)


def test_a_restart_forgets_that_video_alone():
    states = observe(BreakoutStates.new(2), [30.0] * 2, [2.0] * 2, [100.0] * 2).states
    again = observe(states, [40.0] * 2, [None] * 2, [None] * 2, restarted=np.array([True, False])).states
    assert nullable(again.level)[0] is None
    assert again.level[1] == states.level[1]
    assert again.seen_h.tolist() == [0.0, 2.0]


def test_never_watched_comes_from_a_row_of_nulls():
    empty = BreakoutStates.of(*[[None]] * 8)
    for values, new in zip(empty.columns(), BreakoutStates.new(1).columns(), strict=True):
        np.testing.assert_array_equal(values, new)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"false_alarms_per_month": 0.0}, "false_alarms_per_month"),
        ({"false_alarms_per_month": 720.0}, "false_alarms_per_month"),
        ({"least_rise": 1.0}, "least_rise"),
        ({"block_h": 48.0}, "block_h"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, float], said: str):
    with pytest.raises(ValueError, match=said):
        BreakoutSettings(**wrong)


def test_a_curve_is_the_same_with_and_without_its_rise_until_it_rises():
    for quiet, rising in zip(simulate(range(8), rising=False), simulate(range(8), rising=True), strict=True):
        assert rising.rise_h is not None
        assert quiet.sampling == rising.sampling
        assert (np.diff(rising.age_h) > 0).all()
        assert rising.views[-1] > quiet.views[-1]


def test_recorded_music_videos_alarm_rarely_and_when_they_rose():
    path = RECORDED / "music_videos_10to30min_2023.csv.gz"
    if not path.exists():
        pytest.skip(f"the recorded data is not at {path}: set PLEIADES_SHARED to the folder that holds data/")
    samples = pd.read_csv(path, parse_dates=["captured_at"]).sort_values(["video_id", "captured_at"])
    curves = []
    for _, video in samples.groupby("video_id"):
        age = (video["captured_at"] - video["captured_at"].iloc[0]) / pd.Timedelta(hours=1) + 24
        curves.append(
            SimulatedVideo(0, "recorded", age.to_numpy(), video["views"].to_numpy(float), None, 1.0)
        )
    found = [(curve, at) for curve, alarms in zip(curves, alarms_of(curves), strict=True) for at in alarms]
    months = sum(float(curve.age_h[-1] - curve.age_h[0]) for curve in curves) / MONTH_H
    assert 1 <= len(found) <= months
    rose = 0
    for curve, at in found:
        low, middle, high = np.interp([at - 72, at - 24, at + 24], curve.age_h, curve.views)
        rose += high - middle > 1.5 * (middle - low)
    assert rose >= 0.8 * len(found)
