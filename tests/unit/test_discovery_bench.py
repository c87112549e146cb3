"""The pieces of the discovery bench in which a mistake would flatter a strategy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from maia.discovery.forms import Request
from maia.emulator.realism import PRESETS
from maia.emulator.world import World
from maia.learning.priors import judged_day
from tests.bench.bench_discovery import pairs, ratio_with_interval
from tests.bench.bench_priors import BEGIN, BUILTIN, priors_of, with_shuffled_tags
from tests.bench.discovery.scene import DAY, HOUR, Scene, Size, scene
from tests.bench.discovery.simulation import QUOTA, Desk, Ledger, Quota, run
from tests.bench.discovery.strategies import Former, Portfolio, instant
from tests.bench.discovery.watching import ENTRIES, Watch

SIZE = Size(days=2, videos_a_day=400, channels=40)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    made = scene(3, SIZE, Path(tmp_path_factory.mktemp("worlds")))
    yield made
    made.catalogue.close()


@pytest.fixture
def desk(place: Scene) -> Desk:
    return Desk(place, World(place.catalogue), QUOTA, seed=3)


def test_only_the_top_of_the_virtual_days_grows(place: Scene):
    assert place.grows.sum() == pytest.approx(0.05 * place.counts.sum(), abs=2)
    assert (place.published[place.grows] >= place.start_s).all()
    assert (place.published[place.grows] < place.end_s).all()
    others = place.views_per_hour[place.counts & ~place.grows]
    assert place.views_per_hour[place.grows].min() >= others.max()


def test_a_cached_world_is_the_same(place: Scene):
    again = scene(3, SIZE, place.catalogue.path.parent)
    assert np.array_equal(again.topics, place.topics)
    assert np.array_equal(again.grows, place.grows)
    again.catalogue.close()


def test_each_video_has_its_own_topics(place: Scene):
    numbers = np.array([5, 0, 77])
    topics, rows = place.topics_of(numbers)
    for position, n in enumerate(numbers.tolist()):
        own = place.topics[place.topic_ends[n] : place.topic_ends[n + 1]]
        assert topics[rows == position].tolist() == own.tolist()


def test_a_video_belongs_to_the_arm_that_found_it_first(desk: Desk, place: Scene):
    desk.now = place.start_s + HOUR
    visible = np.flatnonzero(place.published <= desk.now)[-3:]
    assert desk.store("one", visible[:2]).tolist() == visible[:2].tolist()
    desk.now += HOUR
    assert desk.store("two", visible).tolist() == visible[2:].tolist()
    assert [desk.arms[k] for k in desk.arm_of[visible]] == ["one", "one", "two"]
    assert desk.found_s[visible[0]] == desk.now - HOUR
    assert not np.isnan(desk.known_s[place.channel[visible]]).any()


def test_metadata_cost_a_unit_for_fifty_videos(desk: Desk):
    desk.store("one", np.arange(51))
    desk.store("one", np.arange(51))
    assert desk.ledger.total("general", 1) == 2


def test_search_shows_nothing_of_the_future_and_costs_a_unit(desk: Desk, place: Scene):
    desk.now = place.start_s + 5 * HOUR
    since = Request(order="date", published_after=instant(place.start_s), max_results=50)
    numbers, _ = desk.search("one", since)
    assert len(numbers)
    assert (place.published[numbers] <= desk.now).all()
    assert desk.ledger.total("search", 1) == 1


def test_growth_is_told_a_day_after_publication_and_once(desk: Desk, place: Scene):
    n = np.flatnonzero(place.published >= place.start_s)[:1]
    desk.now = float(place.published[n[0]]) + HOUR
    desk.store("one", n)
    desk.now = float(place.published[n[0]]) + DAY - 1
    assert not len(desk.judge()[0])
    desk.now += 2
    assert desk.judge()[0].tolist() == n.tolist()
    assert not len(desk.judge()[0])
    assert desk.found_day[0, "one"][0] == 1


def test_what_is_found_late_is_neither_early_nor_judged(desk: Desk, place: Scene):
    n = np.flatnonzero(place.published >= place.start_s)[:1]
    desk.now = float(place.published[n[0]]) + DAY + HOUR
    desk.store("one", n)
    assert not len(desk.judge()[0])
    assert desk.found_day[desk.day, "one"] == [0.0, 0.0, 0.0]


def test_a_feed_shows_the_newest_uploads_up_to_its_copy(desk: Desk, place: Scene):
    watch = Watch(desk)
    desk.now = place.start_s + DAY
    channel = int(np.bincount(place.channel).argmax())
    desk.known_s[channel] = place.start_s
    watch.plan(1000.0, 0.0)
    watch.look_at_feeds(np.array([channel]))
    found = np.flatnonzero(~np.isnan(desk.found_s))
    own = np.flatnonzero((place.channel == channel) & (place.published <= desk.now))
    recent = own[-ENTRIES:][desk.now - place.published[own[-ENTRIES:]] <= 36 * HOUR]
    assert found.tolist() == recent.tolist()
    assert desk.ledger.total("feeds", 2) == 1
    # A second look shows only what is new since then.
    desk.now += 3 * HOUR
    watch.look_at_feeds(np.array([channel]))
    new = np.flatnonzero(desk.found_s == desk.now)
    assert (place.published[new] > desk.now - 3 * HOUR).all()


def test_counts_notice_exactly_the_channels_with_new_uploads(desk: Desk, place: Scene):
    watch = Watch(desk)
    desk.now = place.start_s
    everyone = np.arange(len(watch.begin) - 1)
    desk.known_s[everyone] = desk.now
    watch.count(everyone)
    watch.look_at_feeds(everyone)
    desk.now += 2 * HOUR
    moved = watch.count(everyone)
    since = (place.published > desk.now - 2 * HOUR) & (place.published <= desk.now)
    assert moved.tolist() == sorted({*place.channel[since].tolist()})


def test_a_missing_feed_shows_nothing(place: Scene):
    desk = Desk(place, World(place.catalogue, replace(PRESETS["none"], feed_missing=1.0)), QUOTA, seed=3)
    watch = Watch(desk)
    desk.now = place.start_s + DAY
    desk.known_s[:3] = desk.now
    assert watch.look_at_feeds(np.arange(3)).tolist() == [0, 1, 2]
    assert np.isnan(desk.found_s).all()


@pytest.mark.parametrize(
    "strategy",
    [lambda: Former("f", "relevance", stays=True), lambda: Portfolio("p")],
    ids=["former", "portfolio"],
)
def test_a_run_is_decided_by_its_seed_and_keeps_its_budget(place: Scene, strategy):
    outcomes = [run(strategy(), place, World(place.catalogue), name="w", days=2) for _ in range(2)]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].search_units <= 2 * QUOTA.search
    assert outcomes[0].general_units <= 2 * QUOTA.general
    assert outcomes[0].feeds <= 2 * QUOTA.feeds
    assert 0 < outcomes[0].recall <= 1


def test_a_larger_quota_finds_no_less(place: Scene):
    few, many = (
        run(search_alone, place, World(place.catalogue), name="w", quota=Quota(search=units), days=2)
        for units in (5.0, 100.0)
        for search_alone in [Portfolio("p", feeds=False, counts=0.0, pages=0.0, charts=False)]
    )
    assert sum(few.early_growing) < sum(many.early_growing)


def test_the_ledger_counts_whole_days():
    ledger = Ledger()
    ledger.charge(0, "search", "a", 2)
    ledger.charge(1, "search", "b", 3)
    ledger.charge(1, "general", "b", 5)
    assert ledger.total("search", 1) == 2
    assert ledger.total("search", 2) == 5


def test_mixes_share_out_everything():
    made = pairs(["a", "b", "c"])
    assert len(made) == 9
    assert all(sum(mix.values()) == pytest.approx(1) for mix in made)


def test_an_interval_holds_the_ratio_and_narrows_with_agreement():
    ratio, low, high = ratio_with_interval([10, 20, 30, 40], [1, 2, 3, 4])
    assert (ratio, low, high) == pytest.approx((10, 10, 10))
    ratio, low, high = ratio_with_interval([5, 15, 10, 12, 9], [1, 1, 1, 1, 1])
    assert low < ratio < high


def test_triage_saves_samples_and_keeps_most_of_what_grows(place: Scene):
    outcome = run(Portfolio("p"), place, World(place.catalogue), name="w", days=2)
    assert outcome.hourly.growing_hours == pytest.approx(1)
    assert outcome.triaged.samples_a_day < outcome.hourly.samples_a_day
    assert outcome.triaged.growing_hours > outcome.triaged.samples_a_day / outcome.hourly.samples_a_day


def test_shuffled_tags_are_the_same_tags_of_other_videos():
    ends = np.array([0, 2, 2, 3, 6])
    topics = np.array([1, 2, 3, 4, 5, 6])
    place = Scene(
        catalogue=None, size=Size(), seed=1, start_s=0.0, published=np.zeros(4),
        channel=np.zeros(4, np.int64),
        views_per_hour=np.zeros(4), topics=topics, topic_ends=ends, queries=[],
    )  # fmt: skip
    shuffled = with_shuffled_tags(place)

    def of(scene: Scene) -> list[list[int]]:
        return [scene.topics_of(np.array([n]))[0].tolist() for n in range(4)]

    assert sorted(of(shuffled)) == sorted(of(place))
    assert of(shuffled) != of(place)


def test_patterns_of_a_sites_days_become_priors():
    days = [BEGIN + timedelta(days=n) for n in range(30)]
    observed = [
        judged_day(arm, "search", day, 10.0, growing)
        for day in days
        for arm, growing in (("search:slices", 40.0), ("search:any", 10.0))
    ]
    priors = priors_of(observed)
    assert priors["search:slices"] > BUILTIN["search:slices"]
    assert priors["search:any"] < BUILTIN["search:any"]
    assert priors.keys() == {"search:slices", "search:any"}
