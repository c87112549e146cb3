from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from maia.emulator.catalogue import Catalogue, CatalogueError
from maia.emulator.importing import ImportReport, import_recordings, synthesized_channel_id
from maia.emulator.recordings import BadRow, ReadOptions

A, B, C = "aaaaaaaaaaa", "bbbbbbbbbbb", "ccccccccccc"
OWNER, OTHER = "UC" + "o" * 22, "UC" + "p" * 22


PLAIN = ReadOptions({})


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def imported(folder: Path, *contents: str, reading: ReadOptions = PLAIN) -> tuple[Catalogue, ImportReport]:
    files = []
    for number, content in enumerate(contents):
        files.append(folder / f"{number}.csv")
        files[-1].write_text(content)
    report = import_recordings(folder / "a.catalogue", files, reading)
    return Catalogue.open(folder / "a.catalogue"), report


def test_a_file_of_videos_and_one_of_samples_make_one_catalogue(folder: Path):
    videos = (
        "video_id,published_at,channel_id,channel_title,title\n"
        f"{A},2025-11-01T10:00:00Z,{OWNER},Owner,First\n"
    )
    samples = (
        f"video_id,captured_at,views,likes\n{A},2025-11-02T10:00:00Z,100,5\n{A},2025-11-03T10:00:00Z,300,7\n"
    )
    for contents in ((videos, samples), (samples, videos)):
        catalogue, report = imported(folder, *contents)
        with catalogue:
            assert catalogue.video(0).title == "First"
            assert catalogue.counts_of(A, instant("2025-11-02T22:00:00Z")) == (200, 6, None)
            assert catalogue.counts_of(A, instant("2026-01-01T00:00:00Z")) == (300, 7, None)
        assert (report.videos, report.channels, report.samples, report.estimated_publications) == (1, 1, 2, 0)


def test_samples_of_several_files_are_united_and_the_larger_of_two_at_once_stays(folder: Path):
    first = f"video_id,captured_at,views,likes\n{A},2025-11-02,100,5\n{A},2025-11-04,400,9\n"
    second = f"video_id,captured_at,views,likes\n{A},2025-11-02,120,4\n{A},2025-11-03,90,6\n"
    catalogue, report = imported(folder, first, second)
    with catalogue:
        views = [catalogue.counts_of(A, instant(f"2025-11-0{day}T00:00:00Z")) for day in (2, 3, 4)]
        assert views == [(120, 4, None), (90, 6, None), (400, 9, None)]
    assert [file.samples for file in report.files] == [2, 2]
    assert report.samples == 3


def test_each_piece_of_metadata_is_the_newest_that_was_said(folder: Path):
    rows = [
        f"{A},2025-11-02,1,Old title,a|b,First name",
        f"{A},2025-11-04,3,,c,Second name",
        f"{A},2025-11-03,2,New title,,Another name",
    ]
    undated = f"video_id,title,description\n{A},Undated title,Only here\n"
    for seed in range(6):
        random.Random(seed).shuffle(rows)
        content = "video_id,captured_at,views,title,tags,channel_title\n" + "\n".join(rows)
        catalogue, _ = imported(folder, undated, content)
        with catalogue:
            video = catalogue.video(0)
            assert (video.title, video.tags, video.description) == ("New title", ("c",), "Only here")
            channel = catalogue.channel(video.channel_id)
            assert channel is not None
            assert channel.title == "Second name"


def test_a_publication_nobody_tells_is_a_day_before_the_first_sample_and_marked(folder: Path):
    catalogue, report = imported(folder, f"video_id,captured_at,views\n{A},2025-11-04T12:00:00Z,100\n")
    with catalogue:
        video = catalogue.video(0)
        assert datetime.fromtimestamp(video.published_at, UTC) == instant("2025-11-03T12:00:00Z")
        assert video.published_estimated
        assert video.title == A
        assert catalogue.counts_of(A, instant("2025-11-04T00:00:00Z")) == (50, None, None)
    assert (report.estimated_publications, report.untitled) == (1, 1)


def test_a_video_without_any_time_is_left_out_and_counted(folder: Path):
    catalogue, report = imported(folder, f"video_id,title,published_at\n{A},x,\n{B},y,2025-11-01\n")
    with catalogue:
        assert catalogue.ids == [B]
    assert (report.videos, report.undated) == (1, 1)


def test_channels_without_ids_get_the_known_one_of_their_title_or_a_stable_one(folder: Path):
    known = f"video_id,published_at,channel_id,channel_title\n{A},2025-11-01,{OWNER},Known\n"
    titled = f"video_id,published_at,channel_title\n{B},2025-11-02,Known\n{C},2025-11-03,Unheard of\n"
    catalogue, report = imported(folder, known, titled)
    with catalogue:
        owners = [catalogue.video(n).channel_id for n in range(3)]
    assert owners == [OWNER, OWNER, synthesized_channel_id("Unheard of")]
    assert report.channels == 2
    assert synthesized_channel_id("Unheard of") == "UCeXambizSN29piSNtg_QdCA"


def test_a_title_that_several_channels_bear_decides_nothing(folder: Path):
    known = (
        "video_id,published_at,channel_id,channel_title\n"
        f"{A},2025-11-01,{OWNER},News\n{B},2025-11-01,{OTHER},News\n"
    )
    catalogue, report = imported(folder, known, f"video_id,published_at,channel_title\n{C},2025-11-03,News\n")
    with catalogue:
        assert catalogue.video(2).channel_id == synthesized_channel_id("News")
    assert report.channels == 3


def test_videos_of_nobody_belong_to_one_unknown_channel_without_subscribers(folder: Path):
    catalogue, _ = imported(
        folder, f"video_id,published_at\n{A},2025-11-01\n{B},2025-11-02\n", reading=ReadOptions({})
    )
    with catalogue:
        channel = catalogue.channel(catalogue.video(0).channel_id)
        assert channel is not None
        assert (channel.title, channel.subscribers) == ("Unknown channel", None)
        assert catalogue.uploads_of(channel.id, 2e9) == [1, 0]


def test_a_video_is_removed_when_its_newest_row_says_so(folder: Path):
    content = (
        "video_id,captured_at,views,removed\n"
        f"{A},2025-11-02,1,True\n{A},2025-11-03,1,False\n{B},2025-11-02,1,False\n{B},2025-11-03,1,True\n"
    )
    catalogue, _ = imported(folder, content)
    with catalogue:
        assert catalogue.visible_ids(instant("2025-11-02T12:00:00Z")) == [A, B]
        assert catalogue.visible_ids(instant("2025-11-03T12:00:00Z")) == [A]


def test_a_count_read_before_the_publication_stands_from_the_publication_on(folder: Path):
    content = (
        "video_id,published_at,captured_at,views\n"
        f"{A},2025-11-04T16:00:00Z,2025-11-04T00:00:00Z,500\n"
        f"{A},2025-11-04T16:00:00Z,2025-11-05T00:00:00Z,800\n"
    )
    catalogue, _ = imported(folder, content)
    with catalogue:
        assert catalogue.counts_of(A, instant("2025-11-04T15:59:59Z")) is None
        assert catalogue.counts_of(A, instant("2025-11-04T16:00:00Z")) == (700, None, None)


def test_bad_rows_are_told_and_counted_and_the_rest_is_imported(folder: Path):
    (folder / "a.csv").write_text(
        f"video_id,captured_at,views\n{A},2025-11-02,1\nbad,2025-11-02,1\n{B},2025-11-02,x\n"
    )
    told: list[tuple[str, BadRow]] = []
    read: list[int] = []
    report = import_recordings(
        folder / "a.catalogue",
        [folder / "a.csv"],
        ReadOptions({}),
        on_bad_row=lambda path, row: told.append((path.name, row)),
        progress=read.append,
    )
    assert [(name, row.line) for name, row in told] == [("a.csv", 3), ("a.csv", 4)]
    assert report.as_dict()["bad_rows"] == report.files[0].bad_rows == 2
    assert report.videos == 1
    assert read == [(folder / "a.csv").stat().st_size]


def test_progress_is_told_while_a_large_file_is_read(folder: Path):
    rows = "".join(f"{number:011},2025-11-02,{number},7\n" for number in range(5000))
    (folder / "a.csv").write_text(f"video_id,captured_at,views,subscribers\n{rows}")
    read: list[int] = []
    import_recordings(folder / "a.catalogue", [folder / "a.csv"], ReadOptions({}), progress=read.append)
    assert read == sorted(read)
    assert len(read) == 3
    assert read[-1] == (folder / "a.csv").stat().st_size
    with Catalogue.open(folder / "a.catalogue") as catalogue:
        channel = catalogue.channel(catalogue.video(0).channel_id)
        assert channel is not None
        assert channel.subscribers == 7


@pytest.mark.parametrize(
    ("columns", "advice"),
    [({"plays": "x"}, "plays is not one of video_id"), ({"views": "plays"}, "no column 'plays' in")],
)
def test_a_mapping_that_fits_nothing_is_an_error(folder: Path, columns: dict[str, str], advice: str):
    with pytest.raises(CatalogueError, match=advice):
        imported(folder, f"video_id,title\n{A},x\n", reading=ReadOptions(columns))
    assert not (folder / "a.catalogue").exists()


def test_files_without_a_single_good_row_make_no_catalogue(folder: Path):
    with pytest.raises(CatalogueError, match="no row of"):
        imported(folder, "video_id,title\nx,x\n")
    assert not (folder / "a.catalogue").exists()
