from __future__ import annotations

import math
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.velocity import (
    AGE_CLASS_EDGES_H,
    METHODOLOGY_EPOCH_S,
    Cohort,
    Norms,
    Step,
    Tracks,
    VelocitySettings,
    ViralWeights,
    advance,
    age_class,
    column,
    growth_rate,
    nullable,
    percentiles,
    relative_velocity,
    replay,
    viral_score,
)

SHARED = Path(os.environ.get("PLEIADES_SHARED", Path(__file__).resolve().parents[3] / "shared"))
RECORDED = SHARED / "data" / "youtube"
HOUR = 3600.0
START = METHODOLOGY_EPOCH_S + 30 * 24 * HOUR
Sample = tuple[float, float | None]


def walk(
    samples: list[Sample], settings: VelocitySettings | None = None
) -> tuple[list[list[float | None]], Tracks]:
    """Each sample's velocity, smoothed velocity and acceleration, one `advance` a sample."""
    tracks, rows = Tracks.new(1), []
    for at, views in samples:
        moved = advance(tracks, [at], [views], settings)
        tracks = moved.tracks
        rows.append(
            [nullable(values)[0] for values in (moved.velocity, tracks.velocity, tracks.acceleration)]
        )
    return rows, tracks


def test_the_epoch_is_the_27th_of_august_2026():
    assert datetime.fromtimestamp(METHODOLOGY_EPOCH_S, UTC) == datetime(2026, 8, 27, tzinfo=UTC)


def test_a_first_sample_has_no_velocity_and_the_next_has_views_per_hour():
    rows, tracks = walk([(START, 100), (START + 2 * HOUR, 400)])
    assert rows == [[None, None, None], [150.0, 150.0, None]]
    assert (tracks.at_s[0], tracks.views[0]) == (START + 2 * HOUR, 400)


def test_smoothing_weights_a_step_by_its_length():
    rows, tracks = walk([(START, 0), (START + 6 * HOUR, 600), (START + 12 * HOUR, 3000)])
    # A half-life apart: the older step weighs ¼ of the kernel, the newer one ½.
    assert rows[2][0] == 400.0
    assert rows[2][1] == pytest.approx((100 * 0.25 + 400 * 0.5) / 0.75)
    assert rows[2][2] == pytest.approx((300 - 100) / 6)
    assert tracks.weight[0] == pytest.approx(0.75)


def test_falling_counts_give_the_negative_velocity_they_are():
    rows, _ = walk([(START, 1000), (START + HOUR, 400)])
    assert rows[1][:2] == [-600.0, -600.0]


def test_a_hidden_count_has_no_velocity_and_the_next_known_one_spans_it():
    rows, _ = walk([(START, 0), (START + HOUR, None), (START + 2 * HOUR, 50)])
    assert rows == [[None] * 3, [None] * 3, [25.0, 25.0, None]]
    _, hidden = walk([(START, None)])
    assert nullable(hidden.at_s) == nullable(hidden.views) == [None]


@pytest.mark.parametrize("later", [-HOUR, 0.0, 0.5])
def test_a_sample_that_is_not_later_is_refused_and_changes_nothing(later: float):
    _, before = walk([(START, 10), (START + HOUR, 20)])
    moved = advance(before, [START + HOUR + later], [999])
    assert moved.step[0] == Step.NOT_LATER
    assert nullable(moved.velocity) == [None]
    for kept, old in zip(columns_of(moved.tracks), columns_of(before), strict=True):
        np.testing.assert_array_equal(kept, old)


def test_a_fall_to_a_fraction_for_one_answer_leaves_no_trace():
    rows, tracks = walk([(START, 79_000), (START + HOUR, 80_000), (START + 2 * HOUR, 0)])
    assert rows[2] == [None, 1000.0, None]
    assert (tracks.views[0], tracks.doubted[0]) == (80_000, 0)
    rows, tracks = walk(
        [(START, 79_000), (START + HOUR, 80_000), (START + 2 * HOUR, 0), (START + 3 * HOUR, 82_000)]
    )
    assert rows[3] == [1000.0, 1000.0, 0.0]
    assert nullable(tracks.doubted) == [None]


def test_a_fall_that_the_next_count_confirms_starts_anew_without_a_velocity_across_it():
    samples: list[Sample] = [(START, 79_000), (START + HOUR, 80_000), (START + 2 * HOUR, 900)]
    rows, tracks = walk([*samples, (START + 3 * HOUR, None), (START + 4 * HOUR, 1000)])
    assert rows[4] == [None, None, None]
    assert (tracks.views[0], tracks.weight[0]) == (1000, 0)
    rows, _ = walk([*samples, (START + 3 * HOUR, 1000), (START + 4 * HOUR, 1300)])
    assert rows[4] == [300.0, 300.0, None]


@pytest.mark.parametrize(("before", "after"), [(1000, 250), (99, 0), (80_000, 79_000)])
def test_what_may_be_taken_back_is_a_negative_velocity(before: int, after: int):
    rows, _ = walk([(START, before), (START + HOUR, after)])
    assert rows[1][0] == after - before


def test_there_is_no_velocity_across_the_methodology_epoch():
    epoch = METHODOLOGY_EPOCH_S
    samples: list[Sample] = [(epoch - 2 * HOUR, 10), (epoch - HOUR, 20), (epoch, 500), (epoch + HOUR, 530)]
    rows, _ = walk(samples)
    assert rows == [[None] * 3, [10.0, 10.0, None], [None] * 3, [30.0, 30.0, None]]
    rows, _ = walk(samples, VelocitySettings(methodology_epoch_s=0.0))
    assert rows[2][0] == 480.0


@pytest.mark.parametrize(
    ("at", "views", "said"),
    [
        ([START, math.nan], [1, 2], "row 1: a sample needs a finite time"),
        ([START, START], [1, -2], "row 1: -2.0 is not a view count"),
        ([START, START], [math.inf, 2], "row 0: inf is not a view count"),
        ([START], [1], "2 videos need as many"),
    ],
)
def test_impossible_samples_are_refused_with_their_row(at: list[float], views: list[float], said: str):
    with pytest.raises(ValueError, match=said):
        advance(Tracks.new(2), at, views)


@pytest.mark.parametrize(
    "settings", [{"half_life_h": 0.0}, {"shortest_step_s": 0.0}, {"half_life_h": math.inf}]
)
def test_impossible_settings_are_refused(settings: dict[str, float]):
    with pytest.raises(ValueError, match="positive and finite"):
        VelocitySettings(**settings)


def columns_of(tracks: Tracks) -> list[np.ndarray]:
    return [
        tracks.at_s, tracks.views, tracks.velocity, tracks.acceleration, tracks.weight, tracks.doubted,
    ]  # fmt: skip


steps = st.one_of(st.floats(-7200, 0), st.floats(0, 3), st.floats(60, 90_000), st.floats(1e5, 1e8))
series = st.lists(st.tuples(steps, st.one_of(st.none(), st.integers(0, 10**12))), max_size=30)


@given(series, st.floats(-1e6, 1e6))
def test_a_series_is_the_same_whole_or_sample_by_sample(
    drawn: list[tuple[float, int | None]], before_epoch: float
):
    instants = METHODOLOGY_EPOCH_S + before_epoch + np.cumsum([0.0, *(step for step, _ in drawn)])[1:]
    samples: list[Sample] = [(float(at), views) for at, (_, views) in zip(instants, drawn, strict=True)]
    whole = replay([at for at, _ in samples], [views for _, views in samples])
    rows, _ = walk(samples)
    columns = [nullable(values) for values in (whole.velocity, whole.smoothed, whole.acceleration)]
    for row, *expected in zip(rows, *columns, strict=True):
        for found, wanted in zip(row, expected, strict=True):
            assert found == (wanted if wanted is None else pytest.approx(wanted, rel=1e-9, abs=1e-9))


@given(st.lists(series, min_size=1, max_size=6))
def test_what_is_kept_is_always_finite_and_a_batch_is_each_video_alone(
    videos: list[list[tuple[float, int | None]]],
):
    length = max(len(video) for video in videos)
    padded = [video + [(0.0, None)] * (length - len(video)) for video in videos]
    together, alone = Tracks.new(len(videos)), [Tracks.new(1) for _ in videos]
    at = np.full(len(videos), START)
    for now in range(length):
        at = at + [video[now][0] for video in padded]
        views = [video[now][1] for video in padded]
        together = advance(together, at, views).tracks
        alone = [advance(tracks, at[n : n + 1], views[n : n + 1]).tracks for n, tracks in enumerate(alone)]
        for number, values in enumerate(columns_of(together)):
            assert not np.isinf(values).any()
            np.testing.assert_array_equal(values, [columns_of(tracks)[number][0] for tracks in alone])
    columns = [nullable(values) for values in columns_of(together)]
    for values, stored in zip(columns_of(together), columns_of(Tracks.of(*columns)), strict=True):
        np.testing.assert_array_equal(values, stored)


@given(st.floats(1, 100), st.floats(0, 1e6), st.floats(0.01, 0.99))
def test_cutting_a_step_in_two_changes_nothing(hours: float, velocity: float, part: float):
    start: list[Sample] = [(START, 0), (START + HOUR, 77)]
    end = (START + (1 + hours) * HOUR, 77 + velocity * hours)
    middle = (START + (1 + hours * part) * HOUR, 77 + velocity * hours * part)
    _, once = walk([*start, end])
    _, twice = walk([*start, middle, end])
    assert twice.velocity[0] == pytest.approx(once.velocity[0], rel=1e-6, abs=1e-6)
    assert twice.weight[0] == pytest.approx(once.weight[0])


def recorded(name: str, instant: str) -> pd.DataFrame:
    path = RECORDED / name
    if not path.exists():
        pytest.skip(f"the recorded data is not at {path}: set PLEIADES_SHARED to the folder that holds data/")
    samples = pd.read_csv(path, parse_dates=[instant]).rename(columns={instant: "at"})
    return samples.sort_values(["video_id", "at"]).reset_index(drop=True)


def by_pandas(samples: pd.DataFrame, half_life_h: float) -> pd.DataFrame:
    """Another way to the same figures: differences by group, and the kernel's mean as two weighted sums."""
    groups = samples.groupby("video_id")
    hours = groups["at"].diff() / pd.Timedelta(hours=1)
    velocity = groups["views"].diff() / hours
    smoothed, slope = pd.Series(np.nan, samples.index), pd.Series(np.nan, samples.index)
    for rows in groups.groups.values():
        since = ((samples["at"][rows] - samples["at"][rows[0]]) / pd.Timedelta(hours=1)).to_numpy()
        for n in range(1, len(rows)):
            kernel = np.exp2((since[: n + 1] - since[n]) / half_life_h)
            weights = np.diff(kernel)
            smoothed[rows[n]] = (velocity[rows[1 : n + 1]].to_numpy() * weights).sum() / weights.sum()
    slope = smoothed.groupby(samples["video_id"]).diff() / hours
    return pd.DataFrame({"velocity": velocity, "smoothed": smoothed, "slope": slope})


@pytest.mark.parametrize(
    ("name", "instant"),
    [
        ("music_videos_10to30min_2023.csv.gz", "captured_at"),
        ("trending_hourly_KR_2025-02.csv.gz", "committed_at"),
    ],
)
def test_recorded_velocities_equal_an_independent_computation(name: str, instant: str):
    samples = recorded(name, instant)
    expected = by_pandas(samples, half_life_h=6.0)
    found = np.full((len(samples), 3), np.nan)
    for rows in samples.groupby("video_id").groups.values():
        seconds = samples["at"][rows].map(pd.Timestamp.timestamp)
        tracks = Tracks.new(1)
        for row, at, views in zip(rows, seconds, samples["views"][rows], strict=True):
            moved = advance(tracks, [at], [views])
            tracks = moved.tracks
            found[row] = moved.velocity[0], tracks.velocity[0], tracks.acceleration[0]
    np.testing.assert_allclose(found[:, 0], expected["velocity"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found[:, 1], expected["smoothed"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found[:, 2], expected["slope"], rtol=1e-9, atol=1e-9)
    assert (found[:, 0] < 0).any()
    assert np.isnan(found[:, 0]).sum() == samples["video_id"].nunique()


def test_age_classes_are_half_open():
    assert age_class([-5.0, 0.0, 0.99, 1.0, 24.0, 1e6]).tolist() == [0, 0, 0, 1, 5, len(AGE_CLASS_EDGES_H)]


velocities = st.lists(st.floats(-1e6, 1e9), min_size=1, max_size=40)


@given(velocities, st.integers(0, 40))
def test_norms_merge_exactly_in_any_order(values: list[float], cut: int):
    def merged(part: list[float]) -> Norms:
        norm = Norms.new(1)
        for value in part:
            norm = norm.merge(Norms.of_velocities([value]))
        return norm

    logs = np.log1p(np.maximum(values, 0.0))
    for norm in (merged(values), merged(values[cut:]).merge(merged(values[:cut]))):
        assert norm.videos[0] == len(values)
        assert norm.mean[0] == pytest.approx(logs.mean())
        assert norm.squares[0] == pytest.approx(((logs - logs.mean()) ** 2).sum(), abs=1e-6)


def norm_of(values: list[float]) -> Norms:
    norm = Norms.new(1)
    for value in values:
        norm = norm.merge(Norms.of_velocities([value]))
    return norm


def test_relative_velocity_goes_from_the_cohorts_norm_to_the_channels():
    cohort, channel = norm_of([100.0] * 50), norm_of([9_999.0] * 1_000)
    newcomer = relative_velocity([10_000.0], Norms.new(1), cohort)
    assert newcomer.ratio[0] == pytest.approx(10_001 / 101)
    settled = relative_velocity([10_000.0], channel, cohort)
    assert settled.ratio[0] == pytest.approx(1.0, abs=0.05)
    assert settled.z[0] < newcomer.z[0]
    assert nullable(relative_velocity([math.nan], channel, cohort).ratio) == [None]
    assert nullable(relative_velocity([1.0], Norms.new(1), Norms.new(1)).z) == [None]


def test_an_unknown_velocity_is_no_part_of_a_norm():
    assert Norms.of_velocities([None, 5.0]).videos.tolist() == [0.0, 1.0]


@given(st.lists(st.lists(st.floats(-1e5, 1e8), max_size=60), min_size=1, max_size=4))
def test_cohorts_merge_and_survive_storage(parts: list[list[float]]):
    cohorts = []
    for part in parts:
        cohorts.append(Cohort())
        cohorts[-1].observe(part)
    whole = Cohort.merge(cohorts)
    values = sorted(value for part in parts for value in part)
    assert len(whole) == len(values)
    asked = [-1e6, *values, 1e9]
    shares = whole.percentile(asked)
    if not values:
        assert nullable(shares) == [None] * 2
        return
    assert ((shares > 0) & (shares < 1)).all()
    assert (np.diff(shares) >= 0).all()
    np.testing.assert_array_equal(Cohort.from_bytes(whole.to_bytes()).percentile(asked), shares)


def test_percentiles_are_near_the_exact_ones_and_ties_count_half():
    drawn = np.random.default_rng(1).lognormal(5, 2, 20_000)
    days = [Cohort() for _ in range(4)]
    for day, part in zip(days, np.split(drawn, 4), strict=True):
        day.observe(part)
    asked = np.quantile(drawn, [0.01, 0.5, 0.9, 0.99])
    np.testing.assert_allclose(Cohort.merge(days).percentile(asked), [0.01, 0.5, 0.9, 0.99], atol=0.01)
    idle = Cohort()
    idle.observe([0.0] * 90 + [10.0] * 10)
    assert 0.35 < idle.percentile([0.0])[0] < 0.5
    with pytest.raises(ValueError, match="fastDigest"):
        Cohort.from_bytes(b"rubbish")


def test_a_small_cohort_says_little():
    cohort = Cohort()
    cohort.observe([1.0, None, math.nan])
    assert len(cohort) == 1
    assert cohort.percentile([5.0])[0] == pytest.approx(0.75)


def test_percentiles_go_to_the_cohort_of_each_key():
    slow, fast = Cohort(), Cohort()
    slow.observe(range(100))
    fast.observe(range(1000, 1100))
    shares = percentiles([(0, 10), (1, 10), (2, 10)], [500.0, 500.0, 500.0], {(0, 10): slow, (1, 10): fast})
    assert shares[0] > 0.99
    assert shares[1] < 0.01
    assert nullable(shares)[2] is None


def test_the_score_is_a_half_for_the_ordinary_and_uniform_among_independent_parts():
    assert viral_score([0.5], [0.0], [0.5])[0] == pytest.approx(0.5)
    random = np.random.default_rng(3)
    shares = [random.random(20_000) for _ in range(2)]
    z = random.standard_normal(20_000)
    scores = viral_score(shares[0], z, shares[1], ViralWeights(correlation=0.0))
    np.testing.assert_allclose(np.quantile(scores, [0.05, 0.5, 0.95]), [0.05, 0.5, 0.95], atol=0.015)


def test_a_missing_part_is_left_out_and_none_gives_no_score():
    alone = viral_score([0.9], [None], [None])
    assert alone[0] == pytest.approx(0.9)
    assert nullable(viral_score([None], [None], [None])) == [None]


@given(st.floats(0, 1), st.floats(-50, 50), st.floats(0, 1), st.floats(0, 1))
def test_the_score_stays_within_bounds_and_rises_with_each_part(
    share: float, z: float, growth: float, more: float
):
    scores = viral_score([share, max(share, more)], [z, z + more], [growth, max(growth, more)])
    assert 0 <= scores[0] <= scores[1] <= 1


def test_the_growth_rate_is_finite_at_a_standstill():
    np.testing.assert_array_equal(growth_rate([0.0, 9.0, -9.0], [5.0, 5.0, 5.0]), [5.0, 0.5, 0.5])
    np.testing.assert_array_equal(column([None, 1]), [np.nan, 1.0])
