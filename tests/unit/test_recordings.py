from __future__ import annotations

import gzip
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.emulator.catalogue import CatalogueError
from maia.emulator.curves import HIDDEN, Sample
from maia.emulator.recordings import (
    BadRow,
    ReadOptions,
    RecordedRow,
    open_recording,
    parse_duration,
    parse_instant,
    parse_tags,
)

A, B, C = "aaaaaaaaaaa", "bbbbbbbbbbb", "ccccccccccc"
PLAIN = ReadOptions({})
NOON = datetime(2025, 11, 4, 12, tzinfo=UTC)


def rows_of(path: Path, content: str | bytes, reading: ReadOptions = PLAIN) -> list[RecordedRow | BadRow]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with open_recording(path, reading) as (recording, _):
        return list(recording)


def bad(rows: Sequence[RecordedRow | BadRow]) -> list[tuple[int, str]]:
    return [tuple(row) for row in rows if isinstance(row, BadRow)]


def good(rows: Sequence[RecordedRow | BadRow]) -> list[RecordedRow]:
    return [row for row in rows if isinstance(row, RecordedRow)]


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2017-11-13T17:13:01.000Z", datetime(2017, 11, 13, 17, 13, 1, tzinfo=UTC)),
        ("2025-11-04T00:56:17Z", datetime(2025, 11, 4, 0, 56, 17, tzinfo=UTC)),
        ("2025-11-04T09:56:17+09:00", datetime(2025, 11, 4, 0, 56, 17, tzinfo=UTC)),
        ("2025-11-04 00:56:17", datetime(2025, 11, 4, 0, 56, 17, tzinfo=UTC)),
        ("2025-11-04", datetime(2025, 11, 4, tzinfo=UTC)),
        ("2024.10.12", datetime(2024, 10, 12, tzinfo=UTC)),
        ("2024/10/12", datetime(2024, 10, 12, tzinfo=UTC)),
        ("17.14.11", datetime(2017, 11, 14, tzinfo=UTC)),
        ("13.09", datetime(2017, 9, 13, tzinfo=UTC)),
        ("1510592400", datetime(2017, 11, 13, 17, tzinfo=UTC)),
    ],
)
def test_instants_are_read_in_every_customary_form(text: str, instant: datetime):
    assert parse_instant(text, 2017) == instant


@pytest.mark.parametrize("text", ["17.11.14", "31.02", "yesterday", "2025-13-01", "", "2025-11-04T25:00:00Z"])
def test_what_is_no_instant_is_refused(text: str):
    with pytest.raises(ValueError, match=r"\w"):
        parse_instant(text, 2017)


def test_a_date_without_its_year_wants_one():
    with pytest.raises(ValueError, match="--year"):
        parse_instant("13.09")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("26:03", 1563),
        ("1:02:03", 3723),
        ("PT26M3S", 1563),
        ("P1DT1S", 86401),
        ("PT0S", 0),
        ("90", 90),
        ("90.5", 90),
    ],
)
def test_durations_are_read_in_every_customary_form(text: str, seconds: int):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["P", "PT", "long", "1:2:3:4", "-5"])
def test_what_is_no_duration_is_refused(text: str):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("[none]", ()),
        ("[None]", ()),
        ("SHANtell martin", ("SHANtell martin",)),
        ("logan|paul|logan", ("logan", "paul")),
        ('racist superman|"rudy"|"mancuso"', ("racist superman", "rudy", "mancuso")),
        ('"a"|"b | c"|"d "e" f"', ("a", "b | c", 'd "e" f')),
        ('"only one"', ("only one",)),
        ("['a', \"b's\"]", ("a", "b's")),
        ("a, b,c", ("a", "b", "c")),
        ("| a ||", ("a",)),
        ("[a|b]", ("[a", "b]")),
        ("[1, 2]", ("[1", "2]")),
    ],
)
def test_tags_are_read_in_every_customary_form(text: str, tags: tuple[str, ...]):
    assert parse_tags(text) == tags


plain_tags = st.lists(
    st.text("abcé 猫'-", min_size=1).map(str.strip).filter(lambda tag: tag.strip("'")), min_size=2
)


@given(plain_tags)
def test_tags_survive_both_ways_of_writing_them(tags: list[str]):
    normal = tuple(dict.fromkeys(" ".join(tag.split()) for tag in tags))
    assert parse_tags("|".join(f'"{tag}"' for tag in tags)) == normal
    assert parse_tags("|".join(tags)) == normal


def test_a_row_says_what_its_columns_say(tmp_path: Path):
    content = (
        "Video ID,trending_date,title,Channel-Title,category_id,publishTime,tags,views,likes,comment_count,"
        "comments_disabled,ratings_disabled,video_error_or_removed,description\n"
        f'{A},17.14.11,"A ""title""",A channel,22,2017-11-13T17:13:01.000Z,a|"b",1000,20,3,'
        'False,True,False,"one\\ntwo\r\n'
        'three"\n'
    )
    (row,) = rows_of(tmp_path / "USvideos.csv", content)
    assert row == RecordedRow(
        2,
        A,
        int(datetime(2017, 11, 14, tzinfo=UTC).timestamp()),
        Sample(int(datetime(2017, 11, 14, tzinfo=UTC).timestamp()), 1000, HIDDEN, 3),
        'A "title"',
        "one\ntwo\r\nthree",
        int(datetime(2017, 11, 13, 17, 13, 1, tzinfo=UTC).timestamp()),
        channel_title="A channel",
        category_id=22,
        tags=("a", "b"),
        removed=False,
    )


def test_the_year_of_short_dates_is_the_file_names_or_the_readings(tmp_path: Path):
    content = f"video_id,date,views\n{A},13.09,5\n"
    (row,) = rows_of(tmp_path / "videos_2017-09.csv", content)
    assert row.captured_at == datetime(2017, 9, 13, tzinfo=UTC).timestamp()
    (row,) = rows_of(tmp_path / "videos_2017-09.csv", content, ReadOptions({}, year=2018))
    assert row.captured_at == datetime(2018, 9, 13, tzinfo=UTC).timestamp()
    assert "--year" in bad(rows_of(tmp_path / "videos.csv", content))[0][1]


@pytest.mark.parametrize(
    ("views", "likes", "shown"),
    [("1000", "0", HIDDEN), ("999", "0", 0), ("1000", "7", 7), ("1000", "", None)],
)
def test_no_likes_on_a_video_that_many_saw_are_hidden_ones(
    tmp_path: Path, views: str, likes: str, shown: int | None
):
    (row,) = rows_of(
        tmp_path / "a.csv", f"video_id,captured_at,views,likes\n{A},2025-11-04,{views},{likes}\n"
    )
    assert row.sample is not None
    assert row.sample.likes == shown


def test_zeros_are_kept_where_they_are_said_to_be_true(tmp_path: Path):
    content = f"video_id,captured_at,views,likes\n{A},2025-11-04,5000,0\n"
    (row,) = rows_of(tmp_path / "a.csv", content, ReadOptions({}, keep_zeros=True))
    assert row.sample is not None
    assert row.sample.likes == 0
    flagged = f"video_id,captured_at,views,likes,likes_hidden\n{A},2025-11-04,5000,0,False\n"
    (row,) = rows_of(tmp_path / "a.csv", flagged)
    assert row.sample is not None
    assert row.sample.likes == 0


HEADER = "video_id,captured_at,views,likes,channel_id,category,published_at,duration,comments_disabled\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("#NAME?,2025-11-04,1,1,,,,,", "video_id '#NAME?' is not 11 of"),
        (f"{A},someday,1,1,,,,,", "captured_at 'someday' is not a date or time"),
        (f"{A},,1,1,,,,,", "captured_at is empty"),
        (f"{A},2025-11-04,many,1,,,,,", "views 'many' is not a whole number"),
        (f"{A},2025-11-04,-1,1,,,,,", "views '-1' is not a whole number"),
        (f"{A},2025-11-04,1,1.5,,,,,", "likes '1.5' is not a whole number"),
        (f"{A},2025-11-04,1,1,Google,,,,", "channel_id 'Google' is not UC"),
        (f"{A},2025-11-04,1,1,,Nonsense,,,", "category 'Nonsense'"),
        (f"{A},2025-11-04,1,1,,,soon,,", "published_at 'soon' is not a date or time"),
        (f"{A},2025-11-04,1,1,,,,long,", "duration 'long'"),
        (f"{A},2025-11-04,1,1,,,,,maybe", "comments_disabled 'maybe' is neither"),
        (f"{A},2025-11-04,1", "the row has 3 fields, but the header has 9"),
        (f"{A},2025-11-04,1,1,,,,,,,", "the row has 11 fields, but the header has 9"),
    ],
)
def test_a_bad_row_is_named_by_line_and_reason_and_the_others_are_read(
    tmp_path: Path, line: str, reason: str
):
    content = f"{HEADER}{B},2025-11-04,1,1,,Music,,,\n{line}\n\n{C},2025-11-05,2,2,,10,,1:00,True\n"
    rows = rows_of(tmp_path / "a.csv", content)
    assert [row.video_id for row in good(rows)] == [B, C]
    assert [row.category_id for row in good(rows)] == [10, 10]
    ((number, why),) = bad(rows)
    assert number == 3
    assert reason in why


def test_counts_may_be_written_with_separators_and_as_floats(tmp_path: Path):
    content = f'video_id,captured_at,views,likes\n{A},2025-11-04,"1,234,567",89.0\n{B},2025-11-04,nan,NULL\n'
    first, second = good(rows_of(tmp_path / "a.csv", content))
    assert first.sample is not None
    assert first.sample[1:3] == (1234567, 89)
    assert second.sample is None


def test_an_open_quote_costs_its_own_row_only(tmp_path: Path):
    lines = (f'{A},"open,2025-11-04,1', f"{B},fine,2025-11-04,2", f"{C},fine too,2025-11-04,3")
    rows = rows_of(tmp_path / "a.csv", "video_id,title,captured_at,views\n" + "\n".join(lines))
    assert [row.video_id for row in good(rows)] == [B, C]
    assert [line for line, _ in bad(rows)] == [2]


def test_an_open_quote_that_a_later_row_closes_swallows_neither(tmp_path: Path):
    lines = (f'{A},"open,2025-11-04,1', f'{B},"fine",2025-11-04,2', f"{C},fine too,2025-11-04,3")
    rows = rows_of(tmp_path / "a.csv", "video_id,title,captured_at,views\n" + "\n".join(lines))
    assert [(row.video_id, row.title) for row in good(rows)] == [(B, "fine"), (C, "fine too")]
    assert bad(rows) == [(2, "a quote is never closed: there is another row inside it")]


def test_an_open_quote_before_more_than_a_field_holds_costs_its_own_row_only(tmp_path: Path):
    many = "".join(f"{number:011},row,2025-11-04,{number}\n" for number in range(6000))
    rows = rows_of(tmp_path / "a.csv", f'video_id,title,captured_at,views\n{A},"open,2025-11-04,1\n{many}')
    assert [row.video_id for row in good(rows)] == [f"{number:011}" for number in range(6000)]
    ((line, reason),) = bad(rows)
    assert line == 2
    assert "quote" in reason


def test_a_torn_row_of_several_lines_is_one_bad_row(tmp_path: Path):
    content = (
        f'video_id,description,captured_at,views\n{A},"one\ntwo\nthree",2025-11-04\n{B},x,2025-11-04,2\n'
    )
    rows = rows_of(tmp_path / "a.csv", content)
    assert [row.video_id for row in good(rows)] == [B]
    assert bad(rows) == [(2, "the row has 3 fields, but the header has 4 (lines 2 to 4)")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("zipped", [False, True])
def test_delimiters_line_ends_and_gzip_are_recognised(tmp_path: Path, delimiter: str, end: str, zipped: bool):
    lines = [
        ("video_id", "title", "captured_at", "views"),
        (A, "猫", "2025-11-04", "5"),
        (B, "x\ny", "2025-11-04", "6"),
    ]
    text = end.join(delimiter.join(f'"{cell}"' for cell in line) for line in lines) + end
    content = gzip.compress(text.encode()) if zipped else text.encode()
    first, second = good(rows_of(tmp_path / "a.csv", content))
    assert (first.title, second.title, second.line) == ("猫", "x y", 3)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_mark_at_the_beginning_tells_the_encoding(tmp_path: Path, encoding: str):
    text = f"video_id,title\n{A},乃木坂\n"
    (row,) = good(rows_of(tmp_path / "a.csv", text.encode(encoding)))
    assert row.title == "乃木坂"


def test_text_in_another_encoding_is_never_guessed(tmp_path: Path):
    content = f"video_id,title\n{A},café\n{B},plain\n".encode("cp1252")
    rows = rows_of(tmp_path / "a.csv", content)
    assert [row.video_id for row in good(rows)] == [B]
    assert "--encoding" in bad(rows)[0][1]
    rows = rows_of(tmp_path / "a.csv", content, ReadOptions({}, encoding="cp1252"))
    assert [row.title for row in good(rows)] == ["café", "plain"]
    with pytest.raises(CatalogueError, match="there is no encoding"):
        rows_of(tmp_path / "a.csv", content, ReadOptions({}, encoding="klingon"))


@pytest.mark.parametrize(
    ("header", "advice"),
    [
        (
            "foo,title",
            "no column video_id .* it has foo, title. Name the right one with --columns video_id=NAME",
        ),
        (
            "video_id,views",
            "no column captured_at .* --columns captured_at=NAME, or use --captured-at TIME if all views",
        ),
        ("video_id,rank", "no column views .* --columns views=NAME"),
        ("", "is empty"),
    ],
)
def test_a_missing_column_is_named_with_what_to_do(tmp_path: Path, header: str, advice: str):
    with pytest.raises(CatalogueError, match=advice):
        rows_of(tmp_path / "a.csv", f"{header}\n")


def test_columns_may_be_mapped_and_counts_dated_from_outside(tmp_path: Path):
    reading = ReadOptions({"video_id": "vid", "views": "Plays"}, captured_at=NOON)
    (row,) = good(rows_of(tmp_path / "a.csv", f"vid,plays,views\n{A},7,8\n", reading))
    assert row.sample == Sample(int(NOON.timestamp()), 7)


def test_a_file_that_cannot_be_read_to_its_end_is_an_error(tmp_path: Path):
    whole = gzip.compress(b"video_id,title\n" + b"".join(f"{n:011},x\n".encode() for n in range(9999)))
    with pytest.raises(CatalogueError, match="cannot read"):
        rows_of(tmp_path / "a.csv.gz", whole[: len(whole) // 2])
    with (
        pytest.raises(CatalogueError, match="there is no file"),
        open_recording(tmp_path / "none", ReadOptions({})),
    ):
        pass
