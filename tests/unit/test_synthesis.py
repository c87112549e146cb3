from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from maia.emulator.catalogue import Catalogue, CatalogueError
from maia.emulator.synthesis import DEFAULT_START, synthesize


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    path = tmp_path_factory.mktemp("synthesis") / "a.catalogue"
    synthesize(path, videos=3000, channels=120, days=20, seed=7)
    with Catalogue.open(path) as opened:
        yield opened


def content(path: Path) -> list[object]:
    with Catalogue.open(path) as catalogue:
        end = catalogue.span[1].timestamp()
        return [
            (catalogue.video(n), catalogue.counts(n, end), catalogue.counts(n, end - 86400))
            for n in range(len(catalogue))
        ]


def test_the_same_seed_gives_the_same_catalogue_and_another_another(tmp_path: Path):
    told: list[int] = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        synthesize(tmp_path / name, videos=600, channels=20, days=3, seed=seed, progress=told.append)
    assert content(tmp_path / "a") == content(tmp_path / "b") != content(tmp_path / "c")
    assert told == [500] * 3


def test_premieres_are_announced_first_and_change_no_other_video(tmp_path: Path):
    synthesize(tmp_path / "with", videos=600, channels=20, days=6, seed=1, premieres=0.1)
    synthesize(tmp_path / "without", videos=600, channels=20, days=6, seed=1)
    with Catalogue.open(tmp_path / "with") as some, Catalogue.open(tmp_path / "without") as none:
        assert some.ids == none.ids
        assert none.summary()["videos_broadcast"] == 0
        assert 30 <= some.summary()["videos_broadcast"] <= 100
        end = some.span[1].timestamp()
        states = Counter(some.live_state(n, end) for n in range(len(some)))
        assert states["none"] > 500
        assert states["upcoming"]
        for n in range(len(some)):
            video = some.video(n)
            if video.scheduled_start_at is None:
                assert video == none.video(n)
                continue
            assert some.live_state(n, video.published_at) == "upcoming"
            assert video.published_at < video.scheduled_start_at
            if video.actual_start_at is not None and video.actual_end_at is not None:
                assert video.scheduled_start_at < video.actual_start_at < video.actual_end_at
                assert some.counts(n, video.actual_start_at) == (
                    0,
                    *some.counts(n, video.actual_start_at)[1:],
                )
                assert some.live_state(n, video.actual_start_at) == "live"
                assert some.live_state(n, video.actual_end_at) == "none"


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_of_premieres_is_between_0_and_1(tmp_path: Path, share: float):
    with pytest.raises(CatalogueError, match="--premieres"):
        synthesize(tmp_path / "a", videos=1, channels=1, days=1, seed=1, premieres=share)


def test_ids_have_the_form_of_the_apis(catalogue: Catalogue):
    assert len(set(catalogue.ids)) == 3000
    # 64 bits in 11 characters leave 16 possible last ones, 128 in 22 four.
    assert all(re.fullmatch(r"[\w-]{10}[AEIMQUYcgkosw048]", video_id) for video_id in catalogue.ids)
    assert all(re.fullmatch(r"UC[\w-]{21}[AQgw]", channel_id) for channel_id in catalogue.uploads)


def test_videos_are_published_within_the_days_and_by_the_hour(catalogue: Catalogue):
    start = DEFAULT_START.timestamp()
    assert start <= catalogue.published[0] <= catalogue.published[-1] < start + 20 * 86400
    by_hour = Counter(instant // 3600 % 24 for instant in catalogue.published)
    assert max(by_hour.values()) > 2 * min(by_hour.values())


def test_views_grow_ever_slower_and_sometimes_fall(catalogue: Catalogue):
    end = catalogue.span[1].timestamp()
    early = late = falls = 0
    for n in range(len(catalogue)):
        published = catalogue.published[n]
        if published + 8 * 86400 > end:
            break
        views = [catalogue.counts(n, published + day * 86400).views or 0 for day in (0, 2, 6, 8)]
        assert views[0] == 0
        early += views[1] - views[0]
        late += views[3] - views[2]
        hours = [catalogue.counts(n, published + hour * 3600).views or 0 for hour in range(0, 192, 6)]
        falls += any(later < sooner for sooner, later in pairwise(hours))
    assert early > 2 * late > 0
    assert falls > 0


def test_some_counters_are_hidden_and_some_videos_removed(catalogue: Catalogue):
    end = catalogue.span[1].timestamp()
    counts = [catalogue.counts(n, end) for n in range(len(catalogue))]
    assert 0 < sum(count.likes is None for count in counts) < 200
    assert 0 < sum(count.comments is None for count in counts) < 200
    assert all(count.views is not None for count in counts)
    assert 0 < len(catalogue) - len(catalogue.visible_ids(catalogue.span[1])) < 100


def test_titles_come_in_several_scripts(catalogue: Catalogue):
    titles = "".join(catalogue.video(n).title for n in range(500))
    for script in (
        "a-z",
        "\u0400-\u04ff",
        "\u3040-\u30ff",
        "\uac00-\ud7a3",
        "\u0600-\u06ff",
        "\u0900-\u097f",
    ):
        assert re.search(f"[{script}]", titles), script


def test_one_tag_leads_to_nearly_all_by_searching_for_the_tags_of_what_is_found(catalogue: Catalogue):
    end = catalogue.span[1]
    queue, queued, found = ["guitar"], {"guitar"}, set()
    while queue:
        for video_id in catalogue.search_ids(queue.pop(), end):
            if video_id in found:
                continue
            found.add(video_id)
            tags = catalogue.video(catalogue.numbers[video_id]).tags
            queue.extend(tag for tag in tags if tag not in queued)
            queued.update(tags)
    assert len(found) > 0.95 * len(catalogue)


def test_the_days_may_begin_elsewhere_and_be_less_than_one(tmp_path: Path):
    start = datetime(2025, 3, 9, 6, tzinfo=UTC)
    synthesize(tmp_path / "a", videos=50, channels=3, days=0.25, seed=1, start=start)
    with Catalogue.open(tmp_path / "a") as catalogue:
        assert start <= catalogue.span[0] <= catalogue.span[1] <= start + timedelta(hours=6)


def test_nothing_cannot_be_synthesized(tmp_path: Path):
    with pytest.raises(CatalogueError, match="at least one video"):
        synthesize(tmp_path / "a", videos=0, channels=1, days=1, seed=1)
