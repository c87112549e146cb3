from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.emulator.catalogue import Catalogue, CatalogueChannel, CatalogueVideo, new_catalogue
from maia.emulator.curves import Sample
from maia.emulator.realism import NONE, PRESETS, REALISTIC, WORST, Realism, assumptions, written
from maia.emulator.search_index import parse_query
from maia.emulator.synthesis import synthesize
from maia.emulator.world import World
from maia.youtube.methods import Order

HOUR, DAY = 3600, 86400


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    path: Path = tmp_path_factory.mktemp("world") / "a.catalogue"
    synthesize(path, videos=4000, channels=150, days=8, seed=3, premieres=0.05)
    with Catalogue.open(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def now(catalogue: Catalogue) -> float:
    return catalogue.span[1].timestamp() - DAY


def all_pages(world: World, at: float, query: str | None = None, **asked: Any) -> list[int]:
    found: list[int] = []
    while True:
        page = world.search(at, query, start=len(found), **asked)
        found += page.numbers
        if not page.more:
            return found


QUESTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"order": "viewCount"},
    {"order": "title", "query": "guitar"},
    {"query": "guitar"},
    {"query": "guitar|telescope -recipe", "order": "rating"},
    {"category_id": 10, "duration": "medium", "order": "date"},
    {"event_type": "completed"},
)


@pytest.mark.parametrize("asked", QUESTIONS)
def test_the_kind_world_shows_the_catalogue_as_it_is(
    catalogue: Catalogue, now: float, asked: dict[str, Any]
) -> None:
    rules = {name: value for name, value in asked.items() if name != "query"}
    expected = catalogue.search(asked.get("query"), now, published_after=now - 3 * DAY, **rules)
    assert expected
    world = World(catalogue)
    assert all_pages(world, now, published_after=now - 3 * DAY, **asked) == expected[:500]
    for channel_id in list(catalogue.uploads)[:20]:
        listed = world.uploads(channel_id, now, size=500)
        assert listed is not None
        assert listed.numbers == catalogue.uploads_of(channel_id, now)
        feed = world.feed(channel_id, now)
        assert feed is not None
        assert feed.as_of == now
        assert feed.entries == [(n, catalogue.counts(n, now).views) for n in listed.numbers[:15]]


@pytest.mark.parametrize("realism", [REALISTIC, WORST], ids=["realistic", "worst"])
def test_the_same_question_has_the_same_answer_whatever_was_asked_before(
    catalogue: Catalogue, now: float, realism: Realism
) -> None:
    first, second, other = (World(catalogue, replace(realism, seed=seed)) for seed in (1, 1, 2))
    channels = list(catalogue.uploads)[:30]

    def answers(world: World, order: int) -> dict[str, Any]:
        found: dict[str, Any] = {str(asked): world.search(now, **asked) for asked in QUESTIONS[::order]}
        found |= {id_: (world.uploads(id_, now), world.feed(id_, now)) for id_ in channels[::order]}
        return found | {"chart": world.chart(now)}

    assert answers(first, 1) == answers(second, -1) != answers(other, 1)


def test_search_never_shows_more_of_small_channels_than_of_large_ones(
    catalogue: Catalogue, now: float
) -> None:
    world = World(catalogue, Realism(unindexed_small=0.9, unindexed_large=0.1))
    shown = Counter[bool]()
    there = Counter[bool]()
    for channel_id, uploads in catalogue.uploads.items():
        large = (catalogue.subscribers[channel_id] or 0) > 50_000
        there[large] += len([n for n in uploads if catalogue.visible(n, now)])
        shown[large] += len(all_pages(world, now, channel_id=channel_id))
    assert shown[False] / there[False] < 0.35 < shown[True] / there[True] < 0.75
    none = World(catalogue, Realism(unindexed_small=1, unindexed_large=1))
    assert all_pages(none, now) == []


def test_a_new_video_is_not_in_the_index_at_once(catalogue: Catalogue, now: float) -> None:
    world = World(catalogue, Realism(index_delay_h=2))
    shares = []
    for hours in (1, 4, 24):
        window: dict[str, Any] = {
            "published_after": now - (hours + 1) * HOUR,
            "published_before": now - hours * HOUR,
        }
        everything = catalogue.search(None, now, **window)
        shares.append(len(all_pages(world, now, **window)) / len(everything))
    assert shares[0] < 0.5 < shares[1] < shares[2]
    assert shares[2] > 0.9


def test_views_are_ranked_as_they_were_some_hours_ago(catalogue: Catalogue, now: float) -> None:
    world = World(catalogue, Realism(counts_lag_h=5))
    recent: dict[str, Any] = {"order": "viewCount", "published_after": now - 12 * HOUR}
    ranked = all_pages(world, now, **recent)
    numbers = np.array(ranked)
    assert sorted(ranked) == sorted(all_pages(World(catalogue), now, **recent))
    assert ranked != all_pages(World(catalogue), now, **recent)
    ages = now - catalogue.columns.published[numbers]
    known = catalogue.views_at(numbers, now - world._counts_lag_s[numbers])
    assert known.tolist() == sorted(known.tolist(), reverse=True)
    assert (known[ages < HOUR] == 0).any()


def test_relevance_can_weigh_popularity(catalogue: Catalogue, now: float) -> None:
    def mean_views(realism: Realism) -> float:
        page = World(catalogue, realism).search(now, "guitar", size=20)
        return float(np.log1p(catalogue.views_at(np.array(page.numbers), now)).mean())

    assert mean_views(Realism(popularity_weight=2)) > mean_views(NONE) + 1


def test_noise_keeps_the_results_but_not_their_places(catalogue: Catalogue, now: float) -> None:
    at = now // HOUR * HOUR
    kind, noisy = World(catalogue), World(catalogue, Realism(ranking_noise=0.5))
    asked: dict[str, Any] = {"query": "guitar", "order": "viewCount"}
    places = {n: place for place, n in enumerate(all_pages(kind, at, **asked))}
    ranked = all_pages(noisy, at, **asked)
    assert sorted(ranked) == sorted(places) != ranked
    moved = [abs(places[n] - place) for place, n in enumerate(ranked)]
    assert 1 < np.mean(moved) < len(ranked) / 4
    assert ranked == all_pages(noisy, at + HOUR - 1, **asked), "the pages of an hour fit together"
    assert ranked != all_pages(noisy, at + HOUR, **asked)


def test_results_crowd_behind_the_best_of_their_channel(catalogue: Catalogue, now: float) -> None:
    def neighbours(realism: Realism) -> int:
        channels = [catalogue.channel_of[n] for n in all_pages(World(catalogue, realism), now)]
        return sum(a == b for a, b in pairwise(channels))

    assert neighbours(Realism(crowding=0.5)) > 2 * neighbours(NONE)


def test_results_can_come_again_and_be_missing_from_their_page(catalogue: Catalogue, now: float) -> None:
    repeated = Counter(all_pages(World(catalogue, Realism(repeats=0.1)), now))
    assert 20 < sum(times > 1 for times in repeated.values()) < 90
    short = World(catalogue, Realism(short_pages=0.2))
    sizes = [len(short.search(now, start=start).numbers) for start in range(0, 500, 50)]
    assert 300 < sum(sizes) < 460
    assert max(sizes) < 50


def test_totals_can_be_far_from_the_truth(catalogue: Catalogue, now: float) -> None:
    world = World(catalogue, Realism(totals_error=1))
    totals = [world.search(now + hour * HOUR).total for hour in range(12)]
    truth = [World(catalogue).search(now + hour * HOUR).total for hour in range(12)]
    ratios = [told / there for told, there in zip(totals, truth, strict=True)]
    assert min(ratios) < 0.7
    assert max(ratios) > 1.4


def test_some_searches_end_early(catalogue: Catalogue, now: float) -> None:
    world = World(catalogue, Realism(early_end=0.5))
    ends = [world.search(now + hour * HOUR).last for hour in range(60)]
    early = [end for end in ends if end < 500]
    assert 15 < len(early) < 45
    assert all(50 <= end <= 250 for end in early)


def test_a_search_without_a_query_can_show_little(catalogue: Catalogue, now: float) -> None:
    there = len(catalogue.search(None, now))
    world = World(catalogue, Realism(empty_share=0.05, empty_most=30))
    page = world.search(now, size=50)
    assert (len(page.numbers), page.more) == (30, False)
    assert 0.03 * there < page.total < 0.07 * there
    assert world.search(now, "guitar") == World(catalogue).search(now, "guitar")


def test_an_order_can_be_ignored_and_so_can_the_window(catalogue: Catalogue, now: float) -> None:
    asked: dict[str, Any] = {"query": "guitar", "published_after": now - DAY}
    stubborn = World(catalogue, Realism(ignored_orders=("viewCount",)))
    by_relevance = all_pages(World(catalogue), now, **asked)
    assert all_pages(stubborn, now, order="viewCount", **asked) == by_relevance
    assert all_pages(stubborn, now, order="date", **asked) == sorted(by_relevance, reverse=True)
    open_ended = World(catalogue, Realism(window_ignored=True))
    assert all_pages(open_ended, now, **asked) == all_pages(World(catalogue), now, "guitar")


def test_a_feed_stays_the_same_until_its_copy_is_renewed(catalogue: Catalogue, now: float) -> None:
    world = World(catalogue, Realism(feed_cache_min=20))
    copies: Counter[float] = Counter()
    for channel_id in list(catalogue.uploads)[:30]:
        for minute in range(60):
            feed = world.feed(channel_id, now + 60 * minute)
            assert feed is not None
            assert 0 <= now + 60 * minute - feed.as_of < 20 * 60
            assert feed == world.feed(channel_id, now + 60 * minute)
            copies[feed.as_of] += 1
    assert max(copies.values()) == 20
    assert len(copies) >= 30 * 3, "channels' copies are not renewed together"


def test_feeds_are_now_and_then_missing_or_older(catalogue: Catalogue, now: float) -> None:
    realism = Realism(feed_cache_min=10, feed_missing=0.1, feed_stale=0.2, feed_stale_h=4)
    world = World(catalogue, realism)
    feeds = [
        (at, world.feed(channel_id, at))
        for channel_id in list(catalogue.uploads)[:100]
        for at in (now + 600 * step for step in range(10))
    ]
    ages = [at - feed.as_of for at, feed in feeds if feed is not None]
    assert 60 < len(feeds) - len(ages) < 140
    assert 120 < sum(age > 600 for age in ages) < 250
    assert 2 * HOUR < max(ages) < 4 * HOUR + 600


def test_uploads_can_come_late_and_slightly_out_of_order(catalogue: Catalogue, now: float) -> None:
    world = World(catalogue, Realism(uploads_delay_min=300, uploads_disorder=0.1))
    late = misplaced = there = 0
    for channel_id in catalogue.uploads:
        whole, listed = catalogue.uploads_of(channel_id, now), world.listed_uploads(channel_id, now)
        assert len(set(listed)) == len(listed)
        missing = set(whole) - set(listed)
        assert all(now - catalogue.published[n] < 300 * 60 for n in missing)
        late += len(missing)
        there += len(listed)
        misplaced += sum(newer < older for newer, older in pairwise(listed))
        assert set(listed) <= set(whole)
    assert late
    assert 0.05 < misplaced / there < 0.12


def test_a_chart_stays_as_it_is_for_hours(catalogue: Catalogue, now: float) -> None:
    world = World(catalogue, Realism(chart_every_h=6))
    charts = [world.chart(now + hour * HOUR).numbers for hour in range(24)]
    changes = sum(a != b for a, b in pairwise(charts))
    assert changes in (3, 4)


shares = st.sampled_from([0.0, 0.1, 0.5, 1.0])
realisms = st.builds(
    Realism,
    seed=st.integers(0, 5),
    unindexed_small=shares,
    unindexed_large=shares,
    index_delay_h=st.sampled_from([0.0, 1.0, 24.0]),
    counts_lag_h=st.sampled_from([0.0, 3.0, 100.0]),
    popularity_weight=st.sampled_from([0.0, 0.3]),
    ranking_noise=st.sampled_from([0.0, 2.0]),
    crowding=shares,
    repeats=shares,
    totals_error=st.sampled_from([0.0, 2.0]),
    early_end=shares,
    short_pages=shares,
    empty_share=shares,
    empty_most=st.sampled_from([0, 1, 70, 500]),
    or_words=st.integers(1, 3),
    query_words=st.integers(1, 3),
    ignored_orders=st.sampled_from([(), ("viewCount",), ("date", "relevance")]),
    window_ignored=st.booleans(),
)


@given(
    realism=realisms,
    query=st.sampled_from([None, "guitar", "guitar|cats|telescope", '"guitar solo" -tips', "nothing"]),
    order=st.sampled_from(["date", "viewCount", "relevance", "rating", "title"]),
    region=st.sampled_from([None, "JP", "US"]),
    size=st.integers(0, 50),
    back_h=st.sampled_from([1, 24, 500]),
)
@settings(max_examples=150, deadline=None)
def test_whatever_the_realism_results_match_the_question_and_pages_end(
    catalogue: Catalogue,
    now: float,
    realism: Realism,
    query: str | None,
    order: Order,
    region: str | None,
    size: int,
    back_h: int,
) -> None:
    world = World(catalogue, realism)
    after = now - back_h * HOUR
    asked: dict[str, Any] = {"order": order, "published_after": after, "region": region}
    first = world.search(now, query, size=size, **asked)
    assert first == World(catalogue, realism).search(now, query, size=size, **asked)
    assert len(first.numbers) <= size
    assert 0 <= first.total <= 1_000_000
    assert first.last <= 500
    assert first.more == (0 < size < first.last)
    parsed = None if query is None else parse_query(query, realism.query_words, realism.or_words)
    possible = set(catalogue.matching(parsed, now).numbers.tolist())
    for start in (0, max(0, first.last - size), first.last, 500):
        page = world.search(now, query, start=start, size=size, **asked)
        assert (page.total, page.last) == (first.total, first.last)
        assert set(page.numbers) <= possible
        if not realism.window_ignored:
            assert all(catalogue.published[n] >= after for n in page.numbers)
        if start >= first.last:
            assert page.numbers == []
            assert not page.more


@pytest.fixture(scope="module")
def abroad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """Boats of four channels, all published at once, each with more views than the one before."""
    path: Path = tmp_path_factory.mktemp("abroad") / "a.catalogue"
    channels = [
        CatalogueChannel("UC" + name * 22, name, country=country)
        for name, country in (("k", "KR"), ("j", "JP"), ("u", "US"), ("x", None))
    ]
    with new_catalogue(path, {"made_by": "test"}) as writer:
        writer.add_channels(channels)
        for n in range(40):
            video = CatalogueVideo(
                f"video-{n:05}",
                channels[n % 4].id,
                "boat",
                100,
                category_id=(10, 20)[n // 4 % 2],
                language=("ko", "ja", "en-GB", None)[n % 4],
                blocked_in=("KR", "DE") if n == 36 else (),
            )
            writer.add(video, "", [Sample(100 + DAY, 1000 + 10 * n)])
    with Catalogue.open(path) as opened:
        yield opened


def countries(catalogue: Catalogue, numbers: list[int]) -> list[str | None]:
    channels = [catalogue.channel(catalogue.channel_of[n]) for n in numbers]
    return [channel.country for channel in channels if channel]


def test_a_chart_belongs_to_a_region_and_a_category(abroad: Catalogue) -> None:
    world, at = World(abroad), float(2 * DAY)
    korean = world.chart(at, region="kr").numbers
    assert countries(abroad, korean[:9]) == ["KR"] * 9
    assert 36 not in korean, "what is blocked there is not charted there"
    assert 36 in world.chart(at, region="JP").numbers
    assert countries(abroad, world.chart(at, region="JP").numbers[:10]) == ["JP"] * 10
    assert countries(abroad, world.chart(at, region="GB").numbers)[:20] != ["GB"] * 20
    games = world.chart(at, region="US", category_id=20).numbers
    assert {abroad.categories[n] for n in games} == {20}
    assert countries(abroad, games[:5]) == ["US"] * 5
    assert games[:5] == sorted(games[:5], reverse=True), "what gained more comes first"


def test_a_search_can_prefer_a_region_and_a_language(abroad: Catalogue) -> None:
    world, at = World(abroad), float(2 * DAY)
    plain = world.search(at, "boat").numbers
    assert plain == list(range(39, -1, -1))
    in_korea = world.search(at, "boat", region="KR").numbers
    assert countries(abroad, in_korea[:9]) == ["KR"] * 9
    assert set(plain) - set(in_korea) == {36}, "it cannot be watched in Korea"
    japanese = world.search(at, "boat", language="ja").numbers
    assert countries(abroad, japanese[:10]) == ["JP"] * 10
    assert set(japanese) == set(plain), "other languages follow"
    english = world.search(at, language="en").numbers
    assert countries(abroad, english[:10]) == ["US"] * 10
    by_date = world.search(at, "boat", order="date", region="KR", language="ja").numbers
    assert by_date == [n for n in plain if n != 36], "only relevance has preferences"
    indifferent = World(abroad, Realism(region_weight=0, language_weight=0))
    assert indifferent.search(at, "boat", region="JP", language="ja").numbers == plain


def test_few_alternatives_and_words_of_a_query_may_be_used(catalogue: Catalogue, now: float) -> None:
    world = World(catalogue, Realism(or_words=2, query_words=3))
    kind = World(catalogue)
    assert all_pages(world, now, "guitar|telescope|cats") == all_pages(kind, now, "guitar|telescope")
    assert all_pages(world, now, "guitar solo blues licks") == all_pages(kind, now, "guitar solo blues")
    phrases = all_pages(kind, now, '"guitar solo"|"night sky"')
    assert len(phrases) == len(set(phrases)) > 5
    assert set(phrases) == {*all_pages(kind, now, '"guitar solo"'), *all_pages(kind, now, '"night sky"')}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_named_and_their_parameters_set(name: str) -> None:
    assert Realism.named(name) == PRESETS[name]
    assert Realism.named(name).name == name
    changed = Realism.named(
        name, ["unindexed_small=0.25", "empty_most=7", "ignored_orders=date+rating", "window_ignored=true"]
    )
    expected = {
        "unindexed_small": 0.25, "empty_most": 7, "ignored_orders": ("date", "rating"), "window_ignored": True
    }  # fmt: skip
    assert changed.name == "customized"
    assert changed.parameters() == {**PRESETS[name].parameters(), **expected}
    assert Realism.named(name, ["ignored_orders="]).ignored_orders == ()


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("kind", "seed=1", "choose none, realistic, worst"),
        ("none", "repeats", "is not NAME=VALUE"),
        ("none", "luck=1", "'luck=1' is not NAME=VALUE with one of these names: seed, unindexed_small"),
        ("none", "repeats=1.5", "repeats is from 0 to 1, not 1.5"),
        ("none", "seed=-1", "seed is 0 or more, not -1"),
        ("none", "or_words=0", "or_words is 1 or more, not 0"),
        ("none", "counts_lag_h=nan", "counts_lag_h is 0 or more, not nan"),
        ("none", "counts_lag_h=inf", "counts_lag_h is 0 or more, not inf"),
        ("none", "feed_cache_min=-1", "feed_cache_min is 0 or more, not -1"),
        ("none", "repeats=often", "repeats is a number, not 'often'"),
        ("none", "empty_most=1.5", "empty_most is a whole number"),
        ("none", "window_ignored=1", "window_ignored is true or false"),
        ("none", "ignored_orders=views", "views is not an order"),
        ("none", "chart_every_h=0", "chart_every_h is more than 0"),
    ],
)
def test_a_wrong_setting_says_what_is_right(name: str, setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Realism.named(name, [setting])


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_can_be_written_out(name: str) -> None:
    settings = [f"{parameter}={written(value)}" for parameter, value in PRESETS[name].parameters().items()]
    assert Realism.named("none", settings) == PRESETS[name]


def test_every_parameter_says_what_it_assumes() -> None:
    told = assumptions()
    assert told.keys() == NONE.parameters().keys()
    assert all(text.endswith(".") and text[0].isupper() for text in told.values())
