"""Which young videos stay hot: on synthetic curves, how many growing ones are kept at which saving."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pytest

from atlas.adapters.tracking import ChannelNorm
from atlas.testing import NOON
from maia.learning.growth import DEFAULTS as GROWTH
from maia.learning.velocity import age_class
from maia.learning.zones import Zone
from maia.tracker.hotness import HotBudget
from maia.tracker.measuring import Counts, Reading
from tests.unit.test_measuring import meter, target

HOUR = timedelta(hours=1)
THRESHOLD = 100.0
ALL = HotBudget(1.0, THRESHOLD)


def read(
    id_: str, age_h: float, views: int | None, first: tuple[float, int | None], **rest: object
) -> Reading:
    """A reading at NOON of a video of that age, whose earlier count was at the age `first`."""
    born_at = NOON - age_h * HOUR
    of = target(id_, born_at=born_at, last_at=born_at + first[0] * HOUR, last_views=first[1], **rest)
    return Reading(of, NOON, Counts(views, 1, 1))


SLOW = read("slow", 3, 4, (2, 3))
FAST = read("fast", 3, 3000, (2, 1800))


def zones_of(budget: HotBudget, *readings: Reading) -> list[int]:
    age_h = np.array([(each.at - each.target.born_at) / HOUR for each in readings])
    zones = np.where(age_h < 24, Zone.HOT, Zone.WARM)
    return list(budget.choose(readings, age_h, zones, {}).tolist())


def test_a_video_unlikely_to_grow_leaves_the_hot_zone() -> None:
    assert zones_of(ALL, SLOW, FAST) == [Zone.WARM, Zone.HOT]


@pytest.mark.parametrize(
    "must",
    [
        SLOW._replace(target=SLOW.target._replace(pinned_zone=0)),
        SLOW._replace(target=SLOW.target._replace(broadcast="live")),
        SLOW._replace(target=SLOW.target._replace(broadcast="upcoming")),
        SLOW._replace(target=SLOW.target._replace(last_views=None)),
        SLOW._replace(counts=Counts(None, 1, 1)),
        read("newborn", 0.3, 0, (0.1, 0)),
    ],
    ids=["pinned", "live", "upcoming", "one count", "hidden", "too young to tell"],
)
def test_others_stay_hot_whatever_their_counts(must: Reading) -> None:
    assert zones_of(ALL, must) == [Zone.HOT]


def test_a_video_that_turns_comes_back() -> None:
    left = SLOW.target._replace(zone=Zone.WARM)
    turned = Reading(left, NOON, Counts(5000, 1, 1))
    assert zones_of(ALL, SLOW._replace(target=left), turned) == [Zone.WARM, Zone.HOT]


def test_older_videos_keep_the_zone_of_their_age() -> None:
    assert zones_of(ALL, read("old", 30, 10**6, (20, 10**5))) == [Zone.WARM]


def test_without_a_threshold_only_the_budget_decides() -> None:
    assert zones_of(HotBudget(1.0, None), SLOW, FAST) == [Zone.HOT, Zone.HOT]
    assert zones_of(HotBudget(0.5, None), SLOW, FAST) == [Zone.WARM, Zone.HOT]


def test_a_short_budget_keeps_those_most_likely_to_grow() -> None:
    readings = [read(f"v{n}", 6, 10 ** (n % 5 + 1), (5, 10 ** (n % 5 + 1) - 5)) for n in range(50)]
    hot = [n for n, zone in enumerate(zones_of(HotBudget(0.2, THRESHOLD), *readings)) if zone == Zone.HOT]
    assert {n % 5 for n in hot} == {4}
    assert len(hot) == 10


def test_what_the_quota_pays_for_is_a_share_of_the_hot_videos() -> None:
    assert HotBudget.of(480_000, 5_000, 1.0, None).share == 1.0
    assert HotBudget.of(480_000, 24_000, 1.0, None).share == 0.5
    assert HotBudget.of(480_000, 24_000, 2.0, None).share == 1.0
    assert HotBudget.of(0, 100, 1.0, None).share == 0.0
    assert HotBudget.of(480_000, 0, 1.0, None).share == 1.0


def test_a_channels_usual_velocity_counts_too() -> None:
    """At the same few views, a video of a channel whose videos grow is more likely to."""
    small = read("small", 2, 60, (1, 30), channel_id="UCsmall")
    big = small._replace(target=small.target._replace(id="big", channel_id="UCbig"))
    of_age = int(age_class([2.0])[0])
    norms = {
        ("UCsmall", of_age): ChannelNorm(30, float(np.log1p(5)), 3.0),
        ("UCbig", of_age): ChannelNorm(30, float(np.log1p(3000)), 3.0),
    }
    low, high = ALL.chances([small, big], np.array([2.0, 2.0]), norms)
    assert low < 0.1 < 0.3 < high


def test_the_meter_reschedules_videos_that_left_as_warm_ones() -> None:
    using = meter()
    using._hot = ALL
    updates = {update.id: update for update in using.measure([SLOW, FAST], {}).updates}
    assert (updates["slow"].zone, updates["fast"].zone) == (Zone.WARM, Zone.HOT)
    assert updates["slow"].interval_h >= 6
    assert updates["fast"].interval_h <= 1


# Curves


@dataclass(frozen=True, slots=True)
class World:
    """Views of videos at each whole hour of their first day, and which of them grow."""

    views: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    growing: np.ndarray[tuple[int], np.dtype[np.bool_]]
    threshold: float


def world(videos: int, seed: int) -> World:
    """Log-normal sizes, decays that differ from the typical one, noise, and a few late breakouts."""
    rng = np.random.default_rng(seed)
    hours = np.arange(25)
    final = np.exp(rng.normal(4, 2.2, videos))
    decay = np.clip(rng.normal(GROWTH.decay, 0.25, videos), 0.1, 0.99)[:, None]
    shape = ((1 + hours / GROWTH.scale_h) ** (1 - decay) - 1) / (1 - decay)
    curves = final[:, None] * shape / shape[:, -1:]
    late = rng.random(videos) < 0.01
    begins = rng.integers(4, 16, videos)
    ramp = np.clip(hours[None, :] - begins[:, None], 0, None) / (24 - begins[:, None])
    curves = curves + np.where(late, 20 * final, 0.0)[:, None] * ramp
    gained = rng.poisson(np.diff(curves, axis=1, prepend=0.0))
    views = gained.cumsum(axis=1)
    threshold = float(np.quantile(views[:, 24] / 24, 0.9))
    return World(views, views[:, 24] / 24 >= threshold, threshold)


def followed(it: World, affordable: int = 10**9) -> tuple[float, float, float]:
    """Sample the world hourly while hot, every 6 h otherwise, where the quota pays for so many hot videos.

    Returns the part of growing videos that is hot in their last hours, the part of their hourly samples that
    is taken, and the part of all samples that is saved.
    """
    count = len(it.views)
    zone, last_h = np.zeros(count, dtype=int), np.ones(count, dtype=int)
    due_h, samples = np.full(count, 2), np.zeros(count, dtype=int)
    for hour in range(2, 24):
        rows = np.flatnonzero(due_h <= hour)
        if not len(rows):
            continue
        readings = [
            read(
                str(row), hour, int(it.views[row, hour]), (int(last_h[row]), int(it.views[row, last_h[row]])),
                zone=int(zone[row]),
            )
            for row in rows.tolist()
        ]  # fmt: skip
        budget = HotBudget(min(1.0, affordable / max(1, int((zone == Zone.HOT).sum()))), it.threshold)
        ages = np.full(len(rows), float(hour))
        zone[rows] = budget.choose(readings, ages, np.zeros(len(rows), dtype=np.int64), {})
        last_h[rows], due_h[rows] = hour, np.where(zone[rows] == Zone.HOT, hour + 1, hour + 6)
        samples[rows] += 1
    kept = float((zone[it.growing] == Zone.HOT).mean())
    return kept, float(samples[it.growing].mean() / 22), float(1 - samples.mean() / 22)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nearly_all_growing_videos_stay_hot_at_a_third_of_the_samples(seed: int) -> None:
    kept, sampled, saved = followed(world(1500, seed))
    assert kept >= 0.98
    assert sampled >= 0.95
    assert saved >= 0.65


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_under_a_short_budget_the_growing_ones_are_kept_first(seed: int) -> None:
    it = world(1500, seed)
    kept, _, saved = followed(it, affordable=150)
    assert kept >= 0.95
    assert saved >= 0.7
