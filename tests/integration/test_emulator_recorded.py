"""The emulator's answers beside recorded ones, and catalogues of recorded data.

The recorded data is not part of the project: PLEIADES_SHARED names its folder, by default ../shared; without
it these tests are skipped.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from atlas.clock import FixedClock
from maia.emulator import Emulator, Project
from maia.emulator.catalogue import Catalogue
from maia.emulator.importing import ImportReport, import_recordings
from maia.emulator.recordings import BadRow, ReadOptions, parse_instant
from maia.emulator.synthesis import synthesize

SHARED = Path(os.environ.get("PLEIADES_SHARED") or Path(__file__).parents[3] / "shared")
API, YOUTUBE = SHARED / "data" / "api", SHARED / "data" / "youtube"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not API.is_dir(), reason=f"no recorded data at {SHARED}: set PLEIADES_SHARED to its folder"
    ),
]
NOW = datetime(2026, 10, 20, 12, tzinfo=UTC)
# What the API dropped since, or tells only of some resources.
GONE_SINCE = {"dislikeCount", "favorites", "watchHistory", "watchLater"}
OF_SOME = {
    "contentRating", "country", "customUrl", "defaultAudioLanguage", "defaultLanguage", "etag",
    "hasCustomThumbnail", "madeForKids", "nextPageToken", "prevPageToken", "regionRestriction",
    "selfDeclaredMadeForKids", "tags", "videoOwnerChannelId", "videoOwnerChannelTitle",
}  # fmt: skip


def recorded(path: Path) -> Any:
    content = path.read_bytes()
    return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)


def names_of(value: Any) -> Any:
    """The names within a JSON value; of lists, those that any item has."""
    if isinstance(value, list):
        merged: dict[str, Any] = {}
        for item in value:
            inner = names_of(item)
            if isinstance(inner, dict):
                merged = _merged(merged, inner)
        return merged or None
    if isinstance(value, dict):
        return {name: names_of(inner) for name, inner in value.items()}
    return type(value).__name__


def _merged(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    both = {
        name: _merged(left[name], right[name])
        for name in left.keys() & right.keys()
        if isinstance(left[name], dict) and isinstance(right[name], dict)
    }
    return {**left, **right, **both}


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return [] if ours == theirs else [f"{path}: {ours} is {theirs} in the recording"]
    missing = [f"{path}/{name} is missing" for name in theirs.keys() - ours.keys() - OF_SOME - GONE_SINCE]
    surplus = [f"{path}/{name} is not in the recording" for name in ours.keys() - theirs.keys() - OF_SOME]
    inner = (differences(ours[name], theirs[name], f"{path}/{name}") for name in ours.keys() & theirs.keys())
    return [*missing, *surplus, *(line for lines in inner for line in lines)]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    path = tmp_path_factory.mktemp("recorded") / "a.catalogue"
    synthesize(path, videos=2000, channels=20, days=25, seed=3)
    with Catalogue.open(path) as opened:
        yield opened


@pytest.fixture
async def session(catalogue: Catalogue) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        Emulator.serve(catalogue, clock=FixedClock(NOW), projects=[Project("demo")]) as emulator,
        aiohttp.ClientSession(emulator.url, headers={"x-goog-api-key": "demo-1"}) as session,
    ):
        yield session


async def answer(session: aiohttp.ClientSession, method: str, **query: str) -> Any:
    async with session.get(f"/youtube/v3/{method}", params=query) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def test_searches_look_like_recorded_ones(session: aiohttp.ClientSession):
    ours = await answer(
        session, "search", part="snippet", q="a|tips|live|tutorial", type="video", maxResults="25"
    )
    theirs = recorded(API / "python-youtube" / "search" / "search_by_keywords_p1.json")
    assert differences(names_of(ours), names_of(theirs)) == []


async def test_videos_look_like_recorded_ones(session: aiohttp.ClientSession, catalogue: Catalogue):
    ids = ",".join(catalogue.visible_ids(NOW)[:50])
    ours = await answer(session, "videos", part="snippet,statistics", id=ids)
    theirs = recorded(API / "videos_list_mostPopular_US_2025-04-28.json.gz")
    assert differences(names_of(ours), names_of(theirs)) == []
    chart = await answer(session, "videos", part="snippet,statistics", chart="mostPopular", maxResults="50")
    assert differences(names_of(chart), names_of(theirs)) == []
    assert "nextPageToken" in chart


@pytest.mark.parametrize("part", ["contentDetails", "statistics", "status", "snippet"])
async def test_each_part_of_a_video_looks_like_recorded_ones(
    session: aiohttp.ClientSession, catalogue: Catalogue, part: str
):
    lines = gzip.decompress((API / "fullscreen_yt_recorded.jsonl.gz").read_bytes()).splitlines()
    bodies = [
        interaction["body"]
        for interaction in map(json.loads, lines)
        if interaction["path"] == "/youtube/v3/videos"
        and interaction["status"] == 200
        and dict(interaction["query"])["part"] == part
        and interaction["body"]["items"]
        and "nextPageToken" not in interaction["body"]
    ]
    assert bodies
    ids = ",".join(catalogue.visible_ids(NOW)[:50])
    ours = await answer(session, "videos", part=part, id=ids)
    assert differences(names_of(ours), names_of(bodies)) == []


async def test_channels_and_uploads_look_like_recorded_ones(
    session: aiohttp.ClientSession, catalogue: Catalogue
):
    channel_id = catalogue.video(0).channel_id
    ours = await answer(session, "channels", part="snippet", id=channel_id)
    assert (
        differences(names_of(ours), names_of(recorded(API / "python-youtube" / "channels" / "info.json")))
        == []
    )
    ours = await answer(
        session, "playlistItems", part="snippet", playlistId=f"UU{channel_id[2:]}", maxResults="10"
    )
    theirs = recorded(API / "python-youtube" / "playlist_items" / "playlist_items_paged_1.json")
    assert differences(names_of(ours), names_of(theirs)) == []


async def test_categories_are_the_recorded_ones(session: aiohttp.ClientSession):
    ours = await answer(session, "videoCategories", part="snippet", regionCode="US")
    theirs = recorded(YOUTUBE / "US_category_id.json.gz")
    assert differences(names_of(ours), names_of(theirs)) == []
    assert [(item["id"], item["snippet"]) for item in ours["items"]] == [
        (item["id"], item["snippet"]) for item in theirs["items"]
    ]


async def test_lists_of_what_is_not_there_look_like_recorded_ones(session: aiohttp.ClientSession):
    ours = await answer(session, "videos", part="snippet", id="not-a-video-id")
    assert (ours["items"], ours["pageInfo"]) == ([], {"totalResults": 0, "resultsPerPage": 0})
    assert (await answer(session, "channels", part="snippet", id="not-a-channel-id"))["items"] == []


RECORDINGS = sorted(YOUTUBE.glob("*.csv.gz"))


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Catalogue, ImportReport]]:
    path = tmp_path_factory.mktemp("imported") / "all.catalogue"
    bad: list[tuple[Path, BadRow]] = []
    report = import_recordings(path, RECORDINGS, ReadOptions({}), on_bad_row=lambda *row: bad.append(row))
    assert bad == []
    with Catalogue.open(path) as opened:
        yield opened, report


def rows_of(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_every_recorded_row_is_read(imported: tuple[Catalogue, ImportReport]):
    catalogue, report = imported
    read = {Path(file.path).name: file.rows for file in report.files}
    assert read == {path.name: len(rows_of(path)) for path in RECORDINGS}
    ids = {row["video_id"] for path in RECORDINGS for row in rows_of(path)}
    assert set(catalogue.ids) == ids
    assert len(catalogue) == len(ids) == report.videos


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_every_recorded_count_is_reproduced_at_its_instant(
    imported: tuple[Catalogue, ImportReport], path: Path
):
    catalogue, _ = imported
    best: Counter[tuple[str, int]] = Counter()
    rows = rows_of(path)
    time = next(
        (name for name in ("captured_at", "committed_at", "trending_date", "date") if name in rows[0]), None
    )
    if time is None:
        assert "views" not in rows[0]
        return
    for row in rows:
        at = (row["video_id"], int(parse_instant(row[time], 2017).timestamp()))
        best[at] = max(best[at], int(row["views"]))
    for (video_id, instant), views in best.items():
        assert catalogue.counts(catalogue.numbers[video_id], instant).views == views


def test_titles_tags_and_channels_are_the_recorded_ones(imported: tuple[Catalogue, ImportReport]):
    catalogue, _ = imported
    for row in rows_of(YOUTUBE / "trending_daily_KR_JP_US_2025-11_videos.csv.gz"):
        video = catalogue.video(catalogue.numbers[row["video_id"]])
        assert video.title.split() == row["title"].split()
        assert video.channel_id == row["channel_id"]
        assert datetime.fromtimestamp(video.published_at, UTC) == datetime.fromisoformat(row["published_at"])
    video = catalogue.video(catalogue.numbers["5qpjK5DgCt4"])
    assert video.tags[:3] == ("racist superman", "rudy", "mancuso")
    assert video.tags[-1] == "Getting My Driver's License | Lele Pons"
