"""Forecasts as people see them, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from atlas.adapters.forecasts import SettledCheck, StoredForecast
from maia.commands.learner import _conclusion, _row
from maia.commands.terminal import percent
from maia.commands.video import _forecast
from maia.learning.velocity import AGE_CLASS_EDGES_H
from maia.views.forecasts import ForecastScores, VideoForecast, _score, ages, horizon

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def stored(**changes: Any) -> StoredForecast:
    """A video's forecast, with what the test is about changed."""
    figures: dict[str, Any] = {
        "day_low": 11_012.0, "day": 12_345.6, "day_high": 15_049.0, "day_top": 0.123,
        "week_low": 20_100.0, "week": 30_400.0, "week_high": 48_000.0, "week_top": 0.2,
    }  # fmt: skip
    return StoredForecast("video", NOON, 10_000, **(figures | changes))


def check(**changes: Any) -> SettledCheck:
    """A check of a forecast that came quite true."""
    figures: dict[str, Any] = {
        "horizon_h": 24, "age_class": 3, "made_at": NOON, "views": 1000, "low": 1500.0, "expected": 2000.0,
        "high": 2500.0, "top": 0.05, "damped": 1800.0, "actual": 2100.0, "settled_at": NOON + DAY,
    }  # fmt: skip
    return SettledCheck(**(figures | changes))


class TestVideoForecast:
    def test_says_when_it_is_about(self) -> None:
        forecast = VideoForecast.of(stored())
        assert (forecast.day.at, forecast.week.at) == (NOON + DAY, NOON + 7 * DAY)
        assert (forecast.day.low, forecast.day.high, forecast.week.top_chance) == (11_012, 15_049, 0.2)
        assert forecast.gain == pytest.approx(2345.6)

    def test_continues_a_short_curve_by_a_day_and_a_long_one_by_a_week(self) -> None:
        forecast = VideoForecast.of(stored(week_low=None))
        short, long = forecast.band(NOON - DAY), forecast.band(NOON - 3 * DAY)
        assert short.at_s.tolist() == [NOON.timestamp(), (NOON + DAY).timestamp()]
        assert short.median.tolist() == [10_000, 12_345.6]
        assert long.at_s[-1] == (NOON + 7 * DAY).timestamp()
        assert np.isnan(long.low).tolist() == [False, False, True]

    def test_is_told_in_figures_that_tell_something(self) -> None:
        day, week, chance, source = _forecast(VideoForecast.of(stored())).split("\n")
        assert day == "in 24 h: 12,300 views (80 %: 11,000–15,000)"
        assert week == "in 7 d: 30,000 views (80 %: 20,000–48,000)"
        assert chance == "chance to be among the fastest 5 % of its age in 24 h: 12 %"
        assert source.endswith("computed by Pleiades, not by YouTube")

    def test_a_slow_video_is_never_told_to_lose_views(self) -> None:
        slow = stored(day_low=10_000.0, day=10_000.4, day_high=10_003.0)
        assert "10,000 views (80 %: 10,000–10,003)" in _forecast(VideoForecast.of(slow))

    def test_what_is_not_learnt_yet_is_not_told(self) -> None:
        new = stored(day_low=None, day_high=None, day_top=None)
        told = _forecast(VideoForecast.of(new))
        assert "in 24 h: 12,300 views (no interval: too little is learnt)" in told
        assert "chance" not in told


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.003, "<1 %"), (0.12, "12 %"), (0.995, ">99 %"), (1.0, "100 %")],
)
def test_only_what_is_sure_is_0_or_100_percent(share: float, text: str) -> None:
    assert percent(share) == text


class TestScores:
    def test_compare_with_damped_velocity_where_there_is_one(self) -> None:
        checks = [check(), check(), check(damped=None, expected=9000.0)]
        score = _score(24, 3, checks)
        ours, theirs = np.log(2101 / 2001), np.log(2101 / 1801)
        assert score.error == pytest.approx(ours)
        assert score.damped_error == pytest.approx(theirs)
        assert score.ratio == pytest.approx(ours / theirs)
        assert _score(24, 3, [check(damped=None)]).ratio is None

    def test_count_only_intervals_that_were_told(self) -> None:
        checks = [check(), check(actual=2600.0), check(low=None, high=None, actual=1.0)]
        score = _score(24, 3, checks)
        assert (score.forecasts, score.intervals, score.coverage) == (3, 2, 0.5)
        assert (score.coverage_low or 1) < 0.5 < (score.coverage_high or 0)
        none = _score(24, 3, [check(low=None, high=None)])
        assert (none.intervals, none.coverage, none.width) == (0, None, None)

    @pytest.mark.parametrize(("held", "is_off"), [(80, False), (84, False), (95, True), (60, True)])
    def test_say_if_the_coverage_is_off_by_more_than_chance(self, held: int, is_off: bool) -> None:
        checks = [check(actual=2100.0 if number < held else 9000.0) for number in range(100)]
        score = _score(24, 3, checks)
        assert score.coverage == pytest.approx(held / 100)
        assert score.is_off is is_off
        assert (f"{held / 100:.3f}*" in _row(score)) is is_off

    def test_rank_by_the_chance_once_there_are_enough(self) -> None:
        def ranked(order: int, number: int) -> Sequence[SettledCheck]:
            return [check(actual=2000.0 + n, top=0.001 * (order * n % number)) for n in range(number)]

        assert _score(24, 3, ranked(1, 99)).average_precision is None
        assert _score(24, 3, ranked(1, 200)).average_precision == pytest.approx(1)
        worst = _score(24, 3, ranked(-1, 200)).average_precision
        assert (worst or 1) < 0.1

    def test_conclude_what_it_means(self) -> None:
        scores = tuple(_score(24, number, [check()] * 50) for number in (3, 4))
        told = _conclusion(ForecastScores(NOON, NOON - DAY, "", 100, False, 7, NOON, scores))
        assert told.startswith("100 forecasts were checked since 2026-11-01 12:00:00 UTC.")
        assert "7 wait for what comes, the first due at 2026-11-02 12:00:00 UTC." in told
        none = _conclusion(ForecastScores(NOON, NOON - DAY, "", 0, False, 0, None, ()))
        assert "No forecast was checked" in none


def test_ages_and_horizons_have_names() -> None:
    names = [ages(number) for number in range(len(AGE_CLASS_EDGES_H) + 1)]
    assert (names[0], names[3], names[6], names[-1]) == ("0–1 h", "6–12 h", "2–4 d", "over 90 d")
    assert [horizon(hours) for hours in (24, 168, 48)] == ["24 h", "7 d", "48 h"]
