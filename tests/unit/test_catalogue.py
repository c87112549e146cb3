from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.emulator.catalogue import (
    Catalogue,
    CatalogueChannel,
    CatalogueError,
    CatalogueVideo,
    new_catalogue,
)
from maia.emulator.columns import descending
from maia.emulator.curves import HIDDEN, UNRECORDED, Sample, SampleRows
from maia.youtube.methods import Order

CHANNEL = CatalogueChannel("UC" + "a" * 22, "Lakeside Studio", "About lakes", 0, "NZ", "@lakeside", 12_345)


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.catalogue"


@pytest.fixture
def catalogue(path: Path) -> Iterator[Catalogue]:
    with new_catalogue(path, {"made_by": "test"}) as writer:
        writer.add_channels([CHANNEL, CatalogueChannel("UC" + "b" * 22, "Empty")])
        for number in range(10):
            video = CatalogueVideo(
                f"video-{number:05}",
                CHANNEL.id,
                f"Boat {number}" if number % 2 else f"Lake {9 - number}",
                published_at=100 * number,
                category_id=20 if number < 3 else 10,
                tags=("water", "quiet"),
                duration_s=(60, 600, 6000)[number % 3],
                removed_at=650 if number == 4 else None,
            )
            samples = [
                Sample(100 * number + 50, number * 10, 10 - number, 0),
                Sample(2000, number * 1000, number),
            ]
            writer.add(video, CHANNEL.title, samples)
    with Catalogue.open(path) as opened:
        yield opened


def test_a_catalogue_gives_back_what_was_written(catalogue: Catalogue):
    assert len(catalogue) == 10
    assert catalogue.video(3) == CatalogueVideo(
        "video-00003", CHANNEL.id, "Boat 3", 300, category_id=10, tags=("water", "quiet"), duration_s=60
    )
    assert catalogue.channel(CHANNEL.id) == CHANNEL
    assert catalogue.channel("UCnone") is None
    assert catalogue.channel_by_handle("LakeSide") == catalogue.channel_by_handle("@lakeside") == CHANNEL
    assert catalogue.channel_by_handle("nobody") is None
    assert catalogue.span == (at(0), at(2000))


def test_only_what_is_published_and_not_removed_is_there(catalogue: Catalogue):
    assert catalogue.visible_ids(at(450)) == [f"video-{n:05}" for n in range(5)]
    assert "video-00004" not in catalogue.visible_ids(at(650))
    assert catalogue.uploads_of(CHANNEL.id, 700) == [7, 6, 5, 3, 2, 1, 0]
    assert catalogue.counts_of("video-00004", at(649)) is not None
    assert catalogue.counts_of("video-00004", at(650)) is None
    assert catalogue.counts_of("video-99999", at(650)) is None


def test_search_is_bounded_by_the_instant_and_the_bounds_of_publication(catalogue: Catalogue):
    assert catalogue.search_ids("boat", at(500)) == ["video-00005", "video-00003", "video-00001"]
    assert catalogue.search_ids("boat", at(500), at(300)) == ["video-00005", "video-00003"]
    assert catalogue.search("boat", 2000, published_after=300, published_before=700) == [7, 5, 3]
    assert catalogue.search(None, 300) == [3, 2, 1, 0]
    assert catalogue.search_ids("boat", at(2000), limit=2) == ["video-00009", "video-00007"]


def test_search_filters_by_channel_category_and_duration(catalogue: Catalogue):
    assert catalogue.search("water", 2000, category_id=20) == [2, 1, 0]
    assert catalogue.search("water", 2000, channel_id="UC" + "b" * 22) == []
    assert catalogue.search("water", 2000, duration="short") == [9, 6, 3, 0]
    assert catalogue.search("water", 2000, duration="medium") == [7, 1]
    assert catalogue.search("water", 2000, duration="long") == [8, 5, 2]


def test_search_orders(catalogue: Catalogue):
    assert catalogue.search("boat", 2000, order="viewCount") == [9, 7, 5, 3, 1]
    assert catalogue.search("lake", 2000, order="title") == [8, 6, 2, 0]
    assert catalogue.search("boat", 1000, order="date") == [9, 7, 5, 3, 1]
    likes_per_view = {n: catalogue.counts(n, 1000) for n in (1, 3, 5, 7, 9)}
    rated = sorted(
        likes_per_view, key=lambda n: likes_per_view[n].likes / likes_per_view[n].views, reverse=True
    )
    assert catalogue.search("boat", 1000, order="rating") == rated


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 50))
def test_the_greatest_are_the_first_of_all_sorted(keys: list[int], most: int) -> None:
    expected = sorted(range(len(keys)), key=lambda place: -keys[place])
    assert descending(np.array(keys, np.int64)).tolist() == expected
    assert descending(np.array(keys, np.int64), most).tolist() == expected[:most]


def test_a_limit_gives_the_first_results_of_every_order(catalogue: Catalogue) -> None:
    orders: tuple[Order, ...] = ("date", "viewCount", "rating", "title", "relevance")
    for order in orders:
        for query in ("water", None):
            whole = catalogue.search_ids(query, at(900), order=order, limit=None)
            assert catalogue.search_ids(query, at(900), order=order, limit=3) == whole[:3]
            assert len(whole) == 9


def test_views_of_many_videos_are_those_of_each(catalogue: Catalogue) -> None:
    numbers = catalogue.published_between(200, 700, 800)
    assert numbers.tolist() == [2, 3, 5, 6, 7]
    assert catalogue.views_at(numbers, 800).tolist() == [
        catalogue.counts(n, 800).views for n in numbers.tolist()
    ]


def test_the_summary_counts_everything(catalogue: Catalogue):
    summary = catalogue.summary()
    assert summary["videos"] == summary["videos_with_tags"] == 10
    assert summary["videos_removed"] == 1
    assert (summary["channels"], summary["channels_with_subscribers"]) == (2, 1)
    assert summary["samples"] == 20
    assert (summary["first_sample_at"], summary["last_sample_at"]) == (
        "1970-01-01T00:00:50Z",
        "1970-01-01T00:33:20Z",
    )


def test_postings_are_written_in_parts(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("maia.emulator.catalogue._VIDEOS_IN_PART", 3)
    with new_catalogue(path, {"made_by": "test"}) as writer:
        writer.add_channels([CHANNEL])
        for number in range(8):
            writer.add(CatalogueVideo(f"video-{number:05}", CHANNEL.id, f"A {number % 2}", number), "", ())
    with Catalogue.open(path) as catalogue:
        assert catalogue.search("a 1", 10) == [7, 5, 3, 1]


def test_an_empty_catalogue_spans_no_time(path: Path):
    with new_catalogue(path, {"made_by": "test"}):
        pass
    with Catalogue.open(path) as catalogue:
        assert catalogue.summary()["videos"] == 0
        with pytest.raises(CatalogueError, match="holds no video"):
            _ = catalogue.span


def test_videos_are_written_in_order_of_publication(path: Path):
    with pytest.raises(ValueError, match="order of publication"), new_catalogue(path, {}) as writer:
        writer.add(CatalogueVideo("b" * 11, CHANNEL.id, "B", 200), "", ())
        writer.add(CatalogueVideo("a" * 11, CHANNEL.id, "A", 100), "", ())


@pytest.mark.parametrize("instants", [(5, 5), (7, 6)])
def test_samples_are_written_in_order_of_time(path: Path, instants: tuple[int, int]) -> None:
    video = CatalogueVideo("a" * 11, CHANNEL.id, "A", 1)
    with pytest.raises(ValueError, match="is not after the one before"), new_catalogue(path, {}) as writer:
        writer.add(video, "", [Sample(at, 1) for at in instants])
    assert not path.exists()


def test_samples_in_columns_are_those_in_rows(path: Path, tmp_path: Path) -> None:
    videos = [CatalogueVideo(f"video-{n:05}", CHANNEL.id, "A", n) for n in range(3)]
    rows = [(0, 10, 5, HIDDEN, UNRECORDED), (2, 10, 6, 1, 1), (2, 20, 7, 2, 2)]
    with new_catalogue(path, {}) as writer:
        for video in videos:
            writer.add(video, "", ())
        writer.add_samples(SampleRows.of(rows))
    with new_catalogue(tmp_path / "b", {}) as writer:
        writer.add(videos[0], "", [Sample(10, 5, HIDDEN, None)])
        writer.add(videos[1], "", ())
        writer.add(videos[2], "", [Sample(10, 6, 1, 1), Sample(20, 7, 2, 2)])
    with Catalogue.open(path) as one, Catalogue.open(tmp_path / "b") as other:
        counts = [one.counts(n, moment) for n in range(3) for moment in (5, 10, 15, 25)]
        assert counts == [other.counts(n, moment) for n in range(3) for moment in (5, 10, 15, 25)]
        assert (one.summary()["samples"], other.summary()["samples"]) == (3, 3)


def test_a_catalogue_that_fails_leaves_nothing_and_the_old_one_untouched(path: Path, catalogue: Catalogue):
    before = path.read_bytes()
    with pytest.raises(RuntimeError), new_catalogue(path, {}):
        raise RuntimeError
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_another_file_is_never_overwritten(path: Path):
    path.write_text("precious")
    with pytest.raises(CatalogueError, match="is not a catalogue"), new_catalogue(path, {}):
        pass
    assert path.read_text() == "precious"


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CatalogueError, match="cannot write"), new_catalogue(tmp_path / "file" / "x", {}):
        pass


def test_opening_what_is_no_catalogue_says_what_to_do(tmp_path: Path, path: Path):
    with pytest.raises(CatalogueError, match="maia catalogue synthesize"):
        Catalogue.open(tmp_path / "none")
    path.write_text("no database at all, but long enough to look at" * 10)
    with pytest.raises(CatalogueError, match="cannot read"):
        Catalogue.open(path)
    other = tmp_path / "other"
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE x (y)")
    with pytest.raises(CatalogueError, match="not a catalogue of this version"):
        Catalogue.open(other)


def test_it_is_read_on_a_machine_of_the_other_byte_order(path: Path, catalogue: Catalogue):
    found = catalogue.search("boat", 2000)
    with closing(sqlite3.connect(path)) as db, db:
        swapped = []
        for term, postings in db.execute("SELECT term, postings FROM posting"):
            words = memoryview(postings).cast("I")
            swapped.append((b"".join(int(word).to_bytes(4, "big") for word in words), term))
        db.executemany("UPDATE posting SET postings = ? WHERE term = ?", swapped)
        for part, *columns in db.execute("SELECT part, n, at, views, likes, comments FROM sample_part"):
            turned = [np.frombuffer(column, np.int64).byteswap().tobytes() for column in columns]
            db.execute(
                "UPDATE sample_part SET n = ?, at = ?, views = ?, likes = ?, comments = ? WHERE part = ?",
                (*turned, part),
            )
        db.execute("UPDATE meta SET value = 'big' WHERE key = 'byte_order'")
    with Catalogue.open(path) as reopened:
        assert reopened.search("boat", 2000) == found
        assert reopened.counts(3, 1000) == catalogue.counts(3, 1000)
