"""Verdicts on growth over days of videos that are counted at different paces, without a database."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from statistics import NormalDist

import numpy as np
import pytest

from atlas.adapters.discovery import GrowthVerdict, Unjudged
from atlas.testing import NOON
from maia.discovery.judging import THRESHOLD_DAYS, verdicts_of, views_at_24h
from maia.learning import growth

HOUR = timedelta(hours=1)
DAYS, AN_HOUR = 14, 10


@dataclass
class Seen:
    """A video, its views at 24 h, and the ages at which it is counted."""

    born_h: float
    final: float
    counted_h: list[float]

    def views(self, age_h: float) -> int:
        return int(self.final * np.exp(-growth._assumed(np.array([age_h]), growth.DEFAULTS)[0]))

    def as_of(self, now_h: float, number: int) -> Unjudged:
        ages = [age for age in self.counted_h if self.born_h + age <= now_h]
        before, after = [age for age in ages if age <= 24], [age for age in ages if 24 < age <= 96]
        chosen = (max(ages, default=None), max(before, default=None), min(after, default=None))
        at = [None if age is None else NOON + (self.born_h + age) * HOUR for age in chosen]
        views = [None if age is None else self.views(age) for age in chosen]
        born = NOON + self.born_h * HOUR
        return Unjudged(str(number), born, born, False, (), at[0], views[0], at[1], views[1], at[2], views[2])


def judged(videos: list[Seen]) -> tuple[list[tuple[float, Seen, GrowthVerdict]], float]:
    """The verdicts of a look each hour, with their hour, and the last threshold."""
    waiting, threshold = dict(enumerate(videos)), 0.0
    given: list[tuple[float, Seen, GrowthVerdict]] = []
    for hour in range(DAYS * 24):
        due = {n: video.as_of(hour, n) for n, video in waiting.items() if video.born_h + 24 <= hour}
        if not due:
            continue
        batch = list(due.values())
        at_24h = views_at_24h(batch, growth.DEFAULTS)
        since = hour - THRESHOLD_DAYS / HOUR
        known = [each.views_per_hour for at, _, each in given if at >= since]
        threshold = growth.threshold([*known, *(at_24h / 24)])
        verdicts = verdicts_of(batch, at_24h, threshold, NOON + hour * HOUR)
        given += [(hour, waiting.pop(int(verdict.video_id)), verdict) for verdict in verdicts]
    return given, threshold


@pytest.mark.parametrize("slow_interval_h", [1.0, 6.0, 30.0])
def test_a_tenth_grows_however_much_rarer_slow_videos_are_counted(slow_interval_h: float) -> None:
    random, normal = np.random.default_rng(7), NormalDist(6, 2)
    fast = float(np.exp(normal.inv_cdf(0.9)))
    blocks = (DAYS - 4) * 24 * AN_HOUR // 50
    parts = np.concatenate([(random.permutation(50) + 0.5) / 50 for _ in range(blocks)])
    videos = []
    for number, part in enumerate(parts):
        final = float(np.exp(normal.inv_cdf(part)))
        ages = np.arange(random.uniform(0.5, 12), 96, 1.0 if final > fast else slow_interval_h)
        videos.append(Seen(number / AN_HOUR, final, ages.tolist()))
    given, threshold = judged(videos)
    settled = [verdict for hour, _, verdict in given if hour > 5 * 24]
    assert np.mean([bool(verdict.growing) for verdict in settled]) == pytest.approx(0.1, abs=0.015)
    assert threshold == pytest.approx(fast / 24, rel=0.3)
    assert all(verdict.views_per_hour is not None for verdict in settled)
    assert len(given) == len(videos)


def test_fast_videos_are_judged_no_sooner_than_slow_ones_with_counts_at_the_same_ages() -> None:
    for counted in ([2.0], [17.0], [18.0], [2.0, 23.0], [2.0, 30.0], [30.0], [90.0], [2.0, 90.0]):
        pair = [Seen(0, final, counted) for final in (10.0, 1e7)]
        given, _ = judged(pair)
        slow, fast = ({hour for hour, video, _ in given if video is each} for each in pair)
        assert slow == fast
        unknown = [verdict.growing is None for *_, verdict in given]
        assert unknown == [counted in ([2.0], [17.0], [90.0])] * 2
        assert [verdict.views_per_hour is None for *_, verdict in given] == unknown


def test_the_count_of_when_a_video_was_found_counts_though_no_sample_followed() -> None:
    found = replace(Seen(0, 2400, [20.0]).as_of(30, 1), before_at=None, before_views=None)
    assert views_at_24h([found], growth.DEFAULTS)[0] == pytest.approx(2400, rel=0.01)
    late = replace(Seen(0, 2400, [30.0]).as_of(30, 1), after_at=None, after_views=None)
    assert views_at_24h([late], growth.DEFAULTS)[0] == pytest.approx(2400, rel=0.01)
    assert np.isnan(views_at_24h([replace(found, last_at=found.born_at + 97 * HOUR)], growth.DEFAULTS)[0])
