from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from maia.emulator.catalogue import Catalogue, CatalogueError, CatalogueVideo
from maia.emulator.synthesis import DEFAULT_START, synthesize

DAY, HOUR = 86400, 3600
DAYS, VIDEOS, CHANNELS = 12, 16_000, 4_000
Ints = npt.NDArray[np.int64]


def mixed(path: Path, *, videos: int, seed: int, days: float = 4, premieres: float | None = None) -> Path:
    synthesize(
        path, videos=videos, channels=videos // 4, days=days, seed=seed, world="mixed", premieres=premieres
    )
    return path


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    path = mixed(tmp_path_factory.mktemp("mixed") / "a.catalogue", videos=VIDEOS, seed=5, days=DAYS)
    with Catalogue.open(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def videos(catalogue: Catalogue) -> list[CatalogueVideo]:
    return [catalogue.video(n) for n in range(len(catalogue))]


@pytest.fixture(scope="module")
def fresh(catalogue: Catalogue) -> Ints:
    """The world's own videos whose first day is over."""
    published = catalogue.columns.published
    begin, end = (instant.timestamp() for instant in catalogue.busy_span)
    return np.flatnonzero((published >= begin) & (published < end - DAY))


@pytest.fixture(scope="module")
def growing(catalogue: Catalogue, fresh: Ints) -> npt.NDArray[np.bool_]:
    """Which of the fresh videos are in the top 5 % by the views of their first day."""
    views = first_day(catalogue, fresh)
    return views >= np.percentile(views, 95)


def first_day(catalogue: Catalogue, numbers: Ints) -> Ints:
    return catalogue.views_at(numbers, catalogue.columns.published[numbers].astype(np.float64) + DAY)


def test_the_same_seed_gives_the_same_world_and_another_another(tmp_path: Path) -> None:
    def content(path: Path) -> list[object]:
        with Catalogue.open(path) as opened:
            end = opened.span[1].timestamp()
            return [
                (opened.video(n), opened.counts(n, end), opened.counts(n, end - DAY))
                for n in range(len(opened))
            ]

    first, again, other = (
        mixed(tmp_path / name, videos=800, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert content(first) == content(again) != content(other)


def test_ids_are_distinct_and_of_the_apis_form(catalogue: Catalogue) -> None:
    assert len(set(catalogue.ids)) == VIDEOS
    assert all(re.fullmatch(r"[\w-]{10}[AEIMQUYcgkosw048]", video_id) for video_id in catalogue.ids)
    assert all(re.fullmatch(r"UC[\w-]{21}[AQgw]", channel_id) for channel_id in catalogue.uploads)


def test_a_tenth_of_the_videos_are_older_than_the_world(catalogue: Catalogue, fresh: Ints) -> None:
    start = DEFAULT_START.timestamp()
    assert catalogue.busy_span == (DEFAULT_START, DEFAULT_START + timedelta(days=DAYS))
    older = np.flatnonzero(catalogue.columns.published < start)
    assert 0.08 < len(older) / VIDEOS < 0.12
    assert catalogue.columns.published[0] > start - 401 * DAY
    end = catalogue.busy_span[1].timestamp()
    gained = catalogue.views_at(older, end) - catalogue.views_at(older, start)
    assert np.median(gained / np.maximum(catalogue.views_at(older, end), 1)) < 0.25
    assert catalogue.columns.published[fresh].max() < end


def test_channels_differ_by_orders_of_magnitude_in_size_and_rate(catalogue: Catalogue) -> None:
    sizes = [size for size in catalogue.subscribers.values() if size is not None]
    assert np.percentile(sizes, 95) > 200 * np.percentile(sizes, 5)
    uploads = np.bincount(catalogue.columns.channel)
    assert uploads.max() > 20 * np.median(uploads)
    assert 0.95 < len(sizes) / CHANNELS < 1


def test_uploads_keep_the_hours_and_weekdays_of_their_channel(catalogue: Catalogue, fresh: Ints) -> None:
    published, owner = catalogue.columns.published[fresh], catalogue.columns.channel[fresh]
    busy = [channel for channel, uploads in Counter(owner.tolist()).items() if uploads >= 12]
    assert len(busy) > 30
    spreads, weekdays = [], []
    for channel in busy:
        times = published[owner == channel]
        angles = 2 * np.pi * (times % DAY) / DAY
        spreads.append(1 - abs(np.exp(1j * angles).mean()))
        weekdays.append(len(set((times // DAY % 7).tolist())))
    assert np.percentile(spreads, 20) < 0.1 < np.percentile(spreads, 60)
    assert min(weekdays) <= 4
    assert max(weekdays) == 7


def test_most_videos_hardly_move_and_a_few_take_most_of_the_views(catalogue: Catalogue, fresh: Ints) -> None:
    views = np.sort(first_day(catalogue, fresh))
    assert np.percentile(views, 95) > 30 * np.median(views)
    assert views[-len(views) // 20 :].sum() > 0.7 * views.sum()


def test_growth_comes_from_channels_that_have_grown_and_out_of_the_blue(
    catalogue: Catalogue, fresh: Ints, growing: npt.NDArray[np.bool_]
) -> None:
    owner = catalogue.columns.channel[fresh]
    uploads = np.bincount(owner, minlength=CHANNELS)
    grew = np.bincount(owner[growing], minlength=CHANNELS)
    others = np.where(uploads[owner] > 1, (grew[owner] - growing) / np.maximum(uploads[owner] - 1, 1), 0)
    out_of_the_blue = (growing & (others <= 0.05)).sum() / growing.sum()
    often = (growing & (others >= 0.3)).sum() / growing.sum()
    assert 0.15 < out_of_the_blue < 0.6
    assert 0.2 < often < 0.7
    best = np.sort(grew)[::-1][: CHANNELS // 50].sum() / growing.sum()
    assert 0.35 < best < 0.8, "two channels of a hundred are worth watching, and not enough"
    sizes = np.array([catalogue.subscribers[id_] or 0 for id_ in catalogue.channel_ids])[owner]
    assert 0.2 < (growing & (sizes < 100_000)).sum() / growing.sum() < 0.7


def test_one_or_two_in_a_hundred_grow_far_beyond_their_channel(
    catalogue: Catalogue, fresh: Ints, growing: npt.NDArray[np.bool_]
) -> None:
    views, owner = first_day(catalogue, fresh), catalogue.columns.channel[fresh]
    known = {c: np.median(views[owner == c]) for c, n in Counter(owner.tolist()).items() if n >= 4}
    strong = [
        grows and views[place] >= 10 * known[c]
        for place, (c, grows) in enumerate(zip(owner.tolist(), growing.tolist(), strict=True))
        if c in known
    ]
    assert 0.008 < np.mean(strong) < 0.03


def test_views_decay_as_a_power_of_age(catalogue: Catalogue, fresh: Ints) -> None:
    published = catalogue.columns.published[fresh].astype(np.float64)
    whole = fresh[published < catalogue.busy_span[1].timestamp() - 9 * DAY]
    born = catalogue.columns.published[whole].astype(np.float64)
    views = [catalogue.views_at(whole, born + hours * HOUR) for hours in (0, 24, 48, 168, 192)]
    assert views[0].max() == 0
    gained = [int((later - sooner).sum()) for sooner, later in pairwise(views)]
    assert gained[0] > 2 * gained[1] > 4 * gained[3] > 0


def test_some_videos_break_out_after_days(catalogue: Catalogue, fresh: Ints) -> None:
    published = catalogue.columns.published[fresh].astype(np.float64)
    whole = fresh[published < catalogue.busy_span[1].timestamp() - 8 * DAY]
    born = catalogue.columns.published[whole].astype(np.float64)
    first, week = (catalogue.views_at(whole, born + days * DAY) for days in (1, 7))
    late = (week > 20 * first) & (week > 1000)
    assert 0.001 < late.mean() < 0.02


def test_shorts_start_slowly(catalogue: Catalogue, videos: list[CatalogueVideo], fresh: Ints) -> None:
    ordinary = np.array([n for n in fresh.tolist() if not videos[n].is_broadcast])
    short = np.array([(videos[n].duration_s or 0) <= 60 for n in ordinary.tolist()])
    assert 0.2 < short.mean() < 0.35
    born = catalogue.columns.published[ordinary].astype(np.float64)
    hour, day = (catalogue.views_at(ordinary, born + h * HOUR) for h in (1, 24))
    part = hour / np.maximum(day, 1)
    assert np.median(part[short]) < 0.7 * np.median(part[~short])


def test_premieres_and_streams_grow_once_they_are_live(
    catalogue: Catalogue, videos: list[CatalogueVideo]
) -> None:
    end = catalogue.busy_span[1].timestamp()
    broadcasts = [(n, video) for n, video in enumerate(videos) if video.is_broadcast]
    assert 0.02 < len(broadcasts) / VIDEOS < 0.035
    scheduled = [(n, video) for n, video in broadcasts if video.scheduled_start_at is not None]
    assert 0.3 < len(scheduled) / len(broadcasts) < 0.9
    for n, video in scheduled:
        assert video.scheduled_start_at is not None
        assert catalogue.live_state(n, video.published_at) == "upcoming"
        if video.actual_start_at is None:
            assert catalogue.counts(n, end).views == 0
            assert catalogue.live_state(n, end) == "upcoming"
            continue
        assert video.published_at < video.scheduled_start_at < video.actual_start_at < end
        assert catalogue.counts(n, video.actual_start_at).views == 0
    streams = [video for _, video in broadcasts if video.scheduled_start_at is None]
    assert all(video.actual_start_at == video.published_at for video in streams)
    for n, video in broadcasts:
        if video.actual_start_at is not None and video.actual_end_at is not None:
            assert video.actual_end_at - video.actual_start_at == video.duration_s
            assert catalogue.live_state(n, video.actual_start_at) == "live"


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_the_share_of_premieres_can_be_chosen(tmp_path: Path, share: float) -> None:
    with Catalogue.open(mixed(tmp_path / "a", videos=2000, seed=1, premieres=share)) as opened:
        streams_only = 0.02 * 0.9 * 2000
        assert abs(opened.summary()["videos_broadcast"] - streams_only - share * 0.9 * 2000) < 60


def test_a_tag_leads_to_nearly_all_by_the_tags_of_what_is_found(
    catalogue: Catalogue, videos: list[CatalogueVideo]
) -> None:
    tagged: dict[str, list[int]] = {}
    for n, video in enumerate(videos):
        for tag in video.tags:
            tagged.setdefault(tag, []).append(n)
    queue, reached = ["guitar"], set[int]()
    seen = set(queue)
    while queue:
        for n in tagged[queue.pop()]:
            if n not in reached:
                reached.add(n)
                queue += [tag for tag in videos[n].tags if tag not in seen]
                seen.update(videos[n].tags)
    untagged = sum(not video.tags for video in videos)
    assert 0.03 < untagged / VIDEOS < 0.09
    assert len(reached) > 0.99 * (VIDEOS - untagged)
    assert len(tagged) > 3000


def test_an_event_makes_a_topic_hot_for_days_under_its_own_tag(
    catalogue: Catalogue, videos: list[CatalogueVideo], fresh: Ints, growing: npt.NDArray[np.bool_]
) -> None:
    grows = dict(zip(fresh.tolist(), growing.tolist(), strict=True))
    events: dict[str, list[int]] = {}
    for n in fresh.tolist():
        for tag in videos[n].tags:
            # Only the tags of events end in their number after a place and a thing.
            if re.fullmatch(r"[a-z]+ [a-z]+ \d+", tag) and tag != videos[n].channel_id:
                events.setdefault(tag, []).append(n)
    large = {tag: ns for tag, ns in events.items() if len({videos[n].channel_id for n in ns}) >= 8}
    assert len(large) > 8
    for numbers in large.values():
        times = [videos[n].published_at for n in numbers]
        # An event lasts for three days at most, and is copied within two.
        assert max(times) - min(times) <= 5 * DAY
    hot = [grows[n] for numbers in large.values() for n in numbers]
    assert np.mean(hot) > 1.5 * growing.mean()


def test_some_counters_are_hidden_some_videos_removed_and_some_blocked(
    catalogue: Catalogue, videos: list[CatalogueVideo]
) -> None:
    end = catalogue.span[1].timestamp()
    counts = [catalogue.counts(n, end) for n in range(VIDEOS)]
    assert 0.02 < np.mean([count.likes is None for count in counts]) < 0.04
    assert 0.01 < np.mean([count.comments is None for count in counts]) < 0.03
    assert all(count.views is not None for count in counts)
    removed = [video for video in videos if video.removed_at is not None]
    assert 0.004 < len(removed) / VIDEOS < 0.011
    assert all(video.removed_at and video.removed_at > video.published_at for video in removed)
    assert 0.01 < sum(bool(video.blocked_in) for video in videos) / VIDEOS < 0.03
    falls = 0
    for n in range(0, VIDEOS, 8):
        ages = catalogue.columns.published[n] + HOUR * np.array([6, 14, 28, 64, 150])
        views = [catalogue.counts(n, float(at)).views or 0 for at in ages]
        falls += sum(later < sooner for sooner, later in pairwise(views))
    assert falls


def test_one_in_a_hundred_copies_a_video_of_another_channel(videos: list[CatalogueVideo]) -> None:
    seen: dict[tuple[object, ...], CatalogueVideo] = {}
    copies = 0
    for video in videos:
        if video.tags:
            original = seen.setdefault((video.title, video.tags, video.duration_s), video)
            copies += original.channel_id != video.channel_id
    assert 0.006 < copies / VIDEOS < 0.013


def test_progress_is_reported_every_500_videos(tmp_path: Path) -> None:
    told: list[int] = []
    synthesize(tmp_path / "a", videos=1200, channels=50, days=2, seed=1, world="mixed", progress=told.append)
    assert told == [500, 1000]


def test_a_world_may_begin_anywhere_and_be_less_than_a_day(tmp_path: Path) -> None:
    start = datetime(2025, 3, 9, 6, tzinfo=UTC)
    synthesize(tmp_path / "a", videos=60, channels=3, days=0.25, seed=1, start=start, world="mixed")
    with Catalogue.open(tmp_path / "a") as opened:
        assert opened.busy_span == (start, start + timedelta(hours=6))


def test_nothing_cannot_be_synthesized(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="at least one video"):
        synthesize(tmp_path / "a", videos=0, channels=1, days=1, seed=1, world="mixed")
