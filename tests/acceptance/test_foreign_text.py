"""Titles, ids, topics and errors as strangers write them, through every door of the product."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytest
import pytest_asyncio

from atlas import foreign
from atlas.testing import NOON
from tests.acceptance.test_looking import on_a_terminal, plain
from tests.fork_server import FORKS
from tests.growth import HOUR, store_samples, store_video

pytestmark = pytest.mark.acceptance

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202ered"
FORMULA = '=HYPERLINK("http://example.invalid","click")'
ODD = {
    "markupAAAAA": ("[link=http://example.invalid]markup[/]", "[bold"),
    "-DashFirst0": (FORMULA, "+cmd|' /C calc'!A0"),
    "escapesAAAA": (ESCAPES, f"channel {ESCAPES}"),
    "linesAAAAAA": ("one\r\n12:00:00 ERROR forged\ttab", "two\nlines"),
    "emojiAAAAAA": ("日本語 العربية ไทย 😀👨‍👩‍👧‍👦 ünï", ":smile: \ud7ff"),
}
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")


@pytest_asyncio.fixture
async def odd(environment: dict[str, str], sql: Any) -> dict[str, str]:
    """The environment of a database of odd videos and topics, each video with samples."""
    for number, (id_, (title, channel)) in enumerate(ODD.items(), 1):
        await store_video(sql, id_, channel=f"UC-{number}", title=title, clock_velocity=100.0 * number)
        await sql.execute("UPDATE channels SET title = $2 WHERE id = $1", f"UC-{number}", channel)
        await sql.execute(
            "UPDATE videos SET tags = $2, description = $3 WHERE id = $1",
            id_,
            [title, "@sum(1)"],
            f"{title}\n-x",
        )
        await store_samples(sql, id_, [(NOON - hour * HOUR, 1000 - 10 * hour) for hour in range(5)])
    topics = (ESCAPES, FORMULA, "[red]x[/blue]")
    run(environment, "seed", "--", *topics)
    await sql.execute("UPDATE search_queue SET status = 'parked', last_error = query::text")
    return environment | {
        "PLEIADES_CLOCK__START": NOON.isoformat(),
        "PLEIADES_CLOCK__ANCHOR": NOON.isoformat(),
    }


def run(environment: Mapping[str, str], *arguments: str) -> bytes:
    finished = FORKS.run_and_wait(*arguments, environment=environment)
    assert finished.status == 0, finished.stderr
    return finished.stdout.encode()


def harmless(text: str) -> bool:
    return not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


LOOKS = [
    ("top",),
    ("top", "--json"),
    ("top", "--csv"),
    *(("video", id_) for id_ in ODD if re.fullmatch(r"[\w-]+", id_) and not id_.startswith("-")),
    ("video", "escapesAAAA", "--json"),
    ("queue", "list"),
    ("queue", "list", "--json"),
    ("watch", "list"),
    ("status",),
    ("export", "--to", "-", "--format", "csv", "--table", "videos"),
]


def test_no_terminal_executes_what_strangers_wrote(odd: dict[str, str]) -> None:
    for arguments in LOOKS:
        assert harmless(plain(on_a_terminal(odd, 80, *arguments))), arguments
    for arguments in (("top",), ("video", "escapesAAAA"), ("queue", "list")):
        assert harmless(plain(on_a_terminal(odd, 150, *arguments))), arguments


def test_titles_and_topics_are_no_markup(odd: dict[str, str]) -> None:
    shown = run(odd, "top").decode()
    assert "[link=http://example.invalid]markup[/]" in shown
    assert "[red]x[/blue]" in run(odd, "queue", "list").decode()
    assert ":smile:" in run(odd, "video", "emojiAAAAAA").decode()


def test_json_says_what_is_stored(odd: dict[str, str]) -> None:
    videos = {video["id"]: video["title"] for video in json.loads(run(odd, "top", "--json"))["videos"]}
    assert videos == {id_: title for id_, (title, _) in ODD.items()}


def expected(text: str, form: str | None) -> str:
    return text if form == "--raw" else foreign.many_lines(text)


@pytest.mark.parametrize("form", [None, "--excel", "--raw"])
def test_a_leaderboard_s_csv_is_read_by_programs(odd: dict[str, str], form: str | None) -> None:
    data = run(odd, "top", "--csv", *filter(None, [form]))
    assert data.startswith(b"\xef\xbb\xbf") == (form == "--excel")
    read = check(data, form, {"video_id": 0, "title": 1, "channel_title": 2})
    assert all(INSTANT.fullmatch(row["sampled_at"]) for row in read)
    assert [float(row["velocity"]) for row in read] == sorted(
        (float(r["velocity"]) for r in read), reverse=True
    )


@pytest.mark.parametrize("form", [None, "--excel", "--raw"])
def test_an_export_s_csv_is_read_by_programs(odd: dict[str, str], form: str | None) -> None:
    options = filter(None, [form])
    data = run(odd, "export", "--to", "-", "--format", "csv", "--table", "videos", *options)
    assert data.startswith(b"\xef\xbb\xbf") == (form == "--excel")
    read = check(data, form, {"id": 0, "title": 1, "channel_title": 2})
    for row in read:
        assert all(INSTANT.fullmatch(row[name]) for name in ("published_at", "discovered_at", "refreshed_at"))
        tags = row["tags"] if form == "--raw" else foreign.cell_content(row["tags"])
        id_ = row["id"].removeprefix("" if form == "--raw" else "'")
        assert json.loads(tags)[1] == "@sum(1)"
        assert row["default_language"] == ""
        assert id_ in ODD


def check(data: bytes, form: str | None, places: Mapping[str, int]) -> list[dict[str, str]]:
    """Read it as the csv module and as pandas do; both find every text, and no formula unless it is raw."""
    text = data.decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    frame = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False, encoding="utf-8-sig")
    assert frame.to_dict("records") == rows
    wanted = {(id_, title, channel) for id_, (title, channel) in ODD.items()}
    found = {tuple(row[name] for name in places) for row in rows}
    if form == "--raw":
        assert found == wanted
        return rows
    assert {tuple(map(foreign.cell_content, texts)) for texts in found} == {
        tuple(map(foreign.many_lines, texts)) for texts in wanted
    }
    assert not [cell for texts in found for cell in texts if re.match(r"\s*[=+@-]", cell)]
    assert harmless(text)
    return rows


def test_a_title_of_several_lines_heads_a_view_as_one(odd: dict[str, str]) -> None:
    headings = {"video": "linesAAAAAA", "channel": "UC-4"}
    lines = {name: run(odd, name, id_).decode().splitlines() for name, id_ in headings.items()}
    assert lines["video"][0].rstrip() == "one 12:00:00 ERROR forged tab"
    assert lines["channel"][0].rstrip() == "two lines"
