from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import aiohttp
import pytest

from atlas.clock import FixedClock, VirtualClock
from maia.emulator import Emulator, EmulatorError, Project
from maia.emulator.catalogue import Catalogue, CatalogueChannel, CatalogueError, CatalogueVideo, new_catalogue
from maia.emulator.curves import HIDDEN, Sample
from maia.emulator.realism import Realism
from maia.emulator.resources import iso_duration, rounded_subscribers
from maia.emulator.synthesis import synthesize
from maia.youtube.categories import CATEGORIES

pytestmark = pytest.mark.integration

NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)
START = int(datetime(2026, 10, 1, tzinfo=UTC).timestamp())
DAY = 86400
LAKE = CatalogueChannel("UC" + "l" * 22, "Lakes & Co", "About lakes", START, "NZ", "@lakes", 123_456)
HILL = CatalogueChannel("UC" + "h" * 22, "Hills", "", START)


def video_id(number: int) -> str:
    return f"video-{number:05}"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """600 videos an hour apart on two channels; 599 is published a day after NOW."""
    path = tmp_path_factory.mktemp("emulator") / "small.catalogue"
    with new_catalogue(path, {"made_by": "test"}) as writer:
        writer.add_channels([LAKE, HILL])
        for number in range(600):
            channel = HILL if number % 20 == 19 else LAKE
            published_at = START + number * 3600 if number < 599 else int(NOW.timestamp()) + DAY
            video = CatalogueVideo(
                video_id(number),
                channel.id,
                f"Boat <{number}> & more",
                published_at,
                description="A long description. " * 20,
                category_id=(10, 24)[number % 2],
                tags=() if number == 7 else ("boat", f"tag {number}"),
                duration_s=None if number == 5 else 60 * number,
                language="en",
                removed_at=START + 10 * DAY if number == 9 else None,
                blocked_in=("KR", "DE") if number == 598 else (),
            )
            likes = HIDDEN if number == 3 else number
            samples = [
                Sample(published_at + DAY * day, number * 100 * day, likes, 5 * day) for day in (1, 40)
            ]
            writer.add(video, channel.title, samples)
    with Catalogue.open(path) as catalogue:
        yield catalogue


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


class Client:
    """Calls the emulator and reads its JSON."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def get(
        self, method: str, *, headers: dict[str, str] | None = None, **query: Any
    ) -> tuple[int, Any]:
        query.setdefault("key", "demo-key")
        given = {name: str(value) for name, value in query.items() if value is not None}
        async with self.session.get(f"/youtube/v3/{method}", params=given, headers=headers) as response:
            return response.status, await response.json()

    async def listed(self, method: str, **query: Any) -> Any:
        status, body = await self.get(method, **query)
        assert status == 200, body
        return body

    async def refused(self, method: str, **query: Any) -> tuple[int, str]:
        status, body = await self.get(method, **query)
        return status, body["error"]["errors"][0]["reason"]

    async def pages(self, method: str, **query: Any) -> list[Any]:
        pages = [await self.listed(method, **query)]
        while token := pages[-1].get("nextPageToken"):
            pages.append(await self.listed(method, pageToken=token, **query))
        return pages


@pytest.fixture
async def emulator(small: Catalogue, clock: FixedClock) -> AsyncIterator[Emulator]:
    async with Emulator.serve(
        small, clock=clock, projects=[Project("demo"), Project("tiny", 2, 2, 2)]
    ) as served:
        yield served


@pytest.fixture
async def client(emulator: Emulator) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(emulator.url) as session:
        yield Client(session)


def ids_of(*pages: Any) -> list[str]:
    return [item["id"]["videoId"] for page in pages for item in page["items"]]


async def test_search_pages_to_the_500th_result_and_no_further(client: Client, small: Catalogue):
    pages = await client.pages("search", part="snippet", q="boat", type="video", maxResults=50, order="date")
    assert [len(page["items"]) for page in pages] == [50] * 10
    assert ids_of(*pages) == small.search_ids("boat", NOW, order="date") == ids_of(*pages)
    assert len(set(ids_of(*pages))) == 500
    assert all(page["pageInfo"] == {"totalResults": 600, "resultsPerPage": 50} for page in pages)
    assert "prevPageToken" not in pages[0]
    back = await client.listed(
        "search",
        part="snippet",
        q="boat",
        type="video",
        maxResults=50,
        order="date",
        pageToken=pages[1]["prevPageToken"],
    )
    assert ids_of(back) == ids_of(pages[0])


async def test_search_results_have_no_tags_counts_or_plain_titles(client: Client):
    (item,) = (await client.listed("search", part="snippet", q='"boat" 597', maxResults=1))["items"]
    assert item["kind"] == "youtube#searchResult"
    assert item["id"] == {"kind": "youtube#video", "videoId": video_id(597)}
    shown = "publishedAt channelId title description thumbnails channelTitle liveBroadcastContent"
    assert item["snippet"].keys() == set(shown.split())
    assert item["snippet"]["title"] == "Boat &lt;597&gt; &amp; more"
    assert item["snippet"]["channelTitle"] == "Lakes &amp; Co"
    assert item["snippet"]["publishedAt"] == "2026-10-25T21:00:00Z"
    assert item["snippet"]["description"].endswith(" ...")
    assert "snippet" not in (await client.listed("search", part="id", q="boat", maxResults=1))["items"][0]


async def test_a_page_token_is_good_for_the_same_parameters_only(client: Client):
    asked = {"part": "snippet", "q": "boat", "type": "video", "maxResults": 50}
    token = (await client.listed("search", **asked))["nextPageToken"]
    assert re.fullmatch(r"[\w-]+", token)
    await client.listed("search", pageToken=token, fields="items/id", **asked)
    for changed in (
        {"q": "boats"},
        {"order": "date"},
        {"maxResults": 49},
        {"publishedAfter": "2026-10-01T00:00:00Z"},
    ):
        assert await client.refused("search", pageToken=token, **asked | changed) == (400, "invalidPageToken")
    for token in ("x", "CDIQAA", "ü", "A" * 16):
        assert await client.refused("search", pageToken=token, **asked) == (400, "invalidPageToken")


async def test_only_what_is_published_by_the_clock_is_found_and_listed(client: Client, clock: FixedClock):
    asked = {"part": "id", "q": "boat", "publishedAfter": "2026-11-01T00:00:00Z"}
    assert ids_of(await client.listed("search", **asked)) == []
    assert (await client.listed("videos", part="id", id=video_id(599)))["items"] == []
    clock.advance(timedelta(days=1))
    assert ids_of(await client.listed("search", **asked)) == [video_id(599)]
    assert len((await client.listed("videos", part="id", id=video_id(599)))["items"]) == 1


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        (
            {"publishedAfter": "2026-10-01T10:00:00Z", "publishedBefore": "2026-10-01T13:00:00Z"},
            [13, 12, 11, 10],
        ),
        ({"channelId": HILL.id, "publishedBefore": "2026-10-03T00:00:00Z"}, [39, 19]),
        ({"type": "video", "videoCategoryId": "24", "publishedBefore": "2026-10-01T04:00:00Z"}, [3, 1]),
        ({"type": "video", "videoDuration": "short"}, [3, 2, 1, 0]),
        ({"type": "video", "videoDefinition": "standard"}, []),
        ({"type": "video", "videoDefinition": "high", "videoDuration": "short"}, [3, 2, 1, 0]),
        ({"type": "channel"}, []),
        ({"topicId": "/m/04rlf"}, []),
        ({"type": "video", "location": "1,2", "locationRadius": "5km"}, []),
        ({"q": "tag 12 13"}, []),
        ({"q": "nothing|7"}, [7]),
        ({"q": '"tag 12"'}, [12]),
        ({"q": '"tag 12"|"tag 13" -boats'}, [13, 12]),
        ({"q": '"12 tag"'}, []),
    ],
)
async def test_search_filters(client: Client, query: dict[str, str], numbers: list[int]):
    found = await client.listed("search", **{"part": "id", "q": "boat", "order": "date"} | query)
    assert ids_of(found) == [video_id(number) for number in numbers]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ({"videoDuration": "short"}, "invalidSearchFilter"),
        ({"type": "video", "location": "1,2"}, "invalidSearchFilter"),
        ({"type": "movie"}, "invalidParameter"),
        ({"order": "views"}, "invalidParameter"),
        ({"regionCode": "USA"}, "invalidRegionCode"),
        ({"relevanceLanguage": "e1"}, "invalidRelevanceLanguage"),
        ({"channelId": "me"}, "badRequest"),
        ({"id": "x"}, "invalid"),
        ({"q": "x" * 2001}, "invalidParameter"),
    ],
)
async def test_search_refuses_what_the_api_refuses(client: Client, query: dict[str, str], reason: str):
    asked = {"part": "snippet", "q": "boat"} | query
    assert await client.refused("search", **asked) == (400, reason)


async def test_the_region_is_told_and_leaves_out_what_is_blocked_there(client: Client):
    first = await client.listed("search", part="id", q="boat", order="date")
    second = await client.listed("search", part="id", q="boat", order="date", regionCode="kr")
    assert (first["regionCode"], second["regionCode"]) == ("US", "KR")
    assert ids_of(first)[0] == video_id(598)
    assert ids_of(second)[0] == video_id(597)
    (item,) = (await client.listed("videos", part="contentDetails", id=video_id(598)))["items"]
    assert item["contentDetails"]["regionRestriction"] == {"blocked": ["KR", "DE"]}
    (item,) = (await client.listed("videos", part="contentDetails", id=video_id(597)))["items"]
    assert "regionRestriction" not in item["contentDetails"]


async def test_a_search_prefers_the_region_that_is_asked_for(client: Client):
    asked = {"part": "snippet", "q": "boat", "maxResults": 29}
    there = await client.listed("search", regionCode="NZ", **asked)
    assert {item["snippet"]["channelId"] for item in there["items"]} == {LAKE.id}
    elsewhere = await client.listed("search", regionCode="JP", **asked)
    assert {item["snippet"]["channelId"] for item in elsewhere["items"]} == {LAKE.id, HILL.id}


async def test_videos_have_the_counts_of_the_instant_as_strings(
    client: Client, small: Catalogue, clock: FixedClock
):
    for _ in range(3):
        (item,) = (await client.listed("videos", part="statistics", id=video_id(500)))["items"]
        counts = small.counts_of(video_id(500), clock.now())
        assert counts is not None
        assert item["statistics"] == {
            "viewCount": str(counts.views),
            "likeCount": str(counts.likes),
            "favoriteCount": "0",
            "commentCount": str(counts.comments),
        }
        clock.advance(timedelta(days=3))


async def test_a_video_has_the_parts_that_are_asked_for(client: Client):
    (item,) = (await client.listed("videos", part="snippet,contentDetails,status,player", id=video_id(100)))[
        "items"
    ]
    assert item.keys() == {"kind", "etag", "id", "snippet", "contentDetails", "status", "player"}
    assert item["snippet"]["title"] == item["snippet"]["localized"]["title"] == "Boat <100> & more"
    assert item["snippet"]["tags"] == ["boat", "tag 100"]
    assert item["snippet"]["categoryId"] == "10"
    assert item["snippet"]["publishedAt"] == "2026-10-05T04:00:00Z"
    assert (
        item["snippet"]["thumbnails"]["maxres"]["url"]
        == f"https://i.ytimg.com/vi/{video_id(100)}/maxresdefault.jpg"
    )
    assert item["contentDetails"]["duration"] == "PT1H40M"
    (item,) = (await client.listed("videos", part="liveStreamingDetails", id=video_id(1)))["items"]
    assert item.keys() == {"kind", "etag", "id"}


async def test_what_a_video_lacks_is_absent(client: Client):
    asked = f"{video_id(3)},{video_id(5)},{video_id(7)}"
    hidden, endless, untagged = (
        await client.listed("videos", part="snippet,statistics,contentDetails", id=asked)
    )["items"]
    assert hidden["statistics"].keys() == {"viewCount", "favoriteCount", "commentCount"}
    assert "duration" not in endless["contentDetails"]
    assert "tags" not in untagged["snippet"]


async def test_ids_that_are_not_there_are_left_out_in_silence(client: Client):
    asked = [video_id(2), "gone-------", video_id(9), video_id(1), video_id(2)]
    body = await client.listed("videos", part="id", id=",".join(asked))
    assert [item["id"] for item in body["items"]] == [video_id(2), video_id(1)]
    assert body["pageInfo"] == {"totalResults": 2, "resultsPerPage": 2}
    assert (await client.listed("videos", part="id", id="", maxResults=50))["items"] == []


async def test_at_most_50_ids_can_be_asked_for(client: Client):
    ids = [video_id(number) for number in range(51)]
    assert len((await client.listed("videos", part="id", id=",".join(ids[:50])))["items"]) == 49
    for method in ("videos", "videos:batchGetStats", "channels"):
        assert await client.refused(method, part="id", id=",".join(ids)) == (400, "invalidFilters")


@pytest.mark.parametrize(
    ("method", "query", "refusal"),
    [
        ("videos", {}, (400, "missingRequiredParameter")),
        ("videos", {"id": "x", "chart": "mostPopular"}, (400, "incompatibleParameters")),
        ("videos", {"chart": "mostPopular", "videoCategoryId": "99"}, (404, "notFound")),
        ("videos", {"chart": "mostPopular", "regionCode": "1"}, (400, "invalidRegionCode")),
        ("videos:batchGetStats", {}, (400, "badRequest")),
        ("channels", {}, (400, "missingRequiredParameter")),
        ("channels", {"id": "x", "forHandle": "y"}, (400, "incompatibleParameters")),
        ("channels", {"mine": "true"}, (401, "authorizationRequired")),
        ("playlistItems", {}, (400, "missingRequiredParameter")),
        ("playlistItems", {"playlistId": "UUnone"}, (404, "playlistNotFound")),
        ("playlistItems", {"playlistId": "PL1"}, (404, "playlistNotFound")),
        ("videoCategories", {}, (400, "missingRequiredParameter")),
        ("videoCategories", {"id": "x"}, (400, "badRequest")),
    ],
)
async def test_methods_refuse_what_the_api_refuses(
    client: Client, method: str, query: dict[str, str], refusal: tuple[int, str]
):
    assert await client.refused(method, part="id", **query) == refusal


async def test_fields_leave_what_they_name(client: Client, small: Catalogue):
    counts = small.counts_of(video_id(4), NOW)
    assert counts is not None
    fields = "nextPageToken,items(id,snippet(title,thumbnails/default/url),statistics/viewCount)"
    body = await client.listed("videos", part="snippet,statistics", id=video_id(4), fields=fields)
    assert body == {
        "items": [
            {
                "id": video_id(4),
                "snippet": {
                    "title": "Boat <4> & more",
                    "thumbnails": {"default": {"url": f"https://i.ytimg.com/vi/{video_id(4)}/default.jpg"}},
                },
                "statistics": {"viewCount": str(counts.views)},
            }
        ]
    }
    assert await client.listed("videos", part="id", id=video_id(4), fields="kind") == {
        "kind": "youtube#videoListResponse"
    }
    starred = await client.listed("videos", part="id", id=video_id(4), fields="*")
    assert starred.keys() == {"kind", "etag", "items", "pageInfo"}
    assert (
        await client.listed(
            "search", part="snippet", q="boat 4", fields="items/id/videoId,pageInfo/totalResults"
        )
    ) == {
        "items": [{"id": {"videoId": video_id(4)}}],
        "pageInfo": {"totalResults": 1},
    }


async def test_an_unchanged_answer_is_304_and_costs_a_unit(
    client: Client, emulator: Emulator, clock: FixedClock
):
    url, query = "/youtube/v3/videos", {"part": "statistics", "id": video_id(4), "key": "demo-key"}
    async with client.session.get(url, params=query) as response:
        etag = response.headers["ETag"]
        assert (await response.json())["etag"] == etag.strip('"')
    for offered in (etag, f"W/{etag}", f'"other", {etag}', etag.strip('"'), "*"):
        async with client.session.get(url, params=query, headers={"If-None-Match": offered}) as response:
            assert (response.status, await response.read()) == (304, b"")
    assert emulator.used("demo", "general") == 6
    clock.advance(timedelta(days=5))
    async with client.session.get(url, params=query, headers={"If-None-Match": etag}) as response:
        assert response.status == 200
        assert response.headers["ETag"] != etag


@pytest.mark.parametrize(
    ("accepts", "agent", "zipped"),
    [
        ("gzip", "maia (gzip)", True),
        ("gzip", "maia", False),
        ("identity", "maia (gzip)", False),
        ("br, gzip", "GZIP", True),
    ],
)
async def test_gzip_needs_both_headers(emulator: Emulator, accepts: str, agent: str, zipped: bool):
    headers = {"Accept-Encoding": accepts, "User-Agent": agent}
    query = {"part": "snippet", "q": "boat", "key": "demo-key"}
    async with (
        aiohttp.ClientSession(emulator.url, auto_decompress=False) as session,
        session.get("/youtube/v3/search", params=query, headers=headers) as response,
    ):
        body = await response.read()
    assert (response.headers.get("Content-Encoding") == "gzip") is zipped
    assert b"searchListResponse" in (gzip.decompress(body) if zipped else body)


async def test_json_is_indented_on_request(client: Client):
    async with client.session.get(
        "/youtube/v3/videoCategories",
        params={"part": "snippet", "id": "10", "key": "demo-key", "prettyPrint": "true"},
    ) as response:
        assert '\n  "kind": "youtube#videoCategoryListResponse"' in await response.text()


async def test_stats_tell_which_videos_failed(client: Client):
    body = await client.listed(
        "videos:batchGetStats",
        part="id,snippet,statistics,contentDetails",
        id=f"{video_id(2)},gone-------,{video_id(3)},{video_id(9)}",
    )
    assert body["kind"] == "youtube#batchGetStatsResponse"
    assert body["summary"] == {
        "requestedVideoCount": 4,
        "succeededVideoCount": 2,
        "failedVideoCount": 2,
        "failedVideoIds": ["gone-------", video_id(9)],
    }
    shown, hidden = body["items"]
    assert shown["kind"] == "youtube#videoStats"
    assert shown["snippet"] == {"publishTime": "2026-10-01T02:00:00Z"}
    assert shown["statistics"].keys() == {"viewCount", "likeCount", "commentCount"}
    assert shown["contentDetails"] == {"duration": "120s"}
    assert hidden["statistics"].keys() == {"viewCount", "commentCount"}
    (bare,) = (await client.listed("videos:batchGetStats", part="statistics", id=video_id(2)))["items"]
    assert bare.keys() == {"kind", "etag", "statistics"}


async def test_a_channels_counts_move_with_its_uploads(client: Client, clock: FixedClock):
    body = await client.listed(
        "channels", part="snippet,statistics,contentDetails", id=f"{LAKE.id},{HILL.id},UCnone"
    )
    lake, hill = body["items"]
    assert lake["snippet"]["title"] == "Lakes & Co"
    assert lake["snippet"]["customUrl"] == "@lakes"
    assert lake["statistics"]["subscriberCount"] == "123000"
    assert lake["statistics"]["hiddenSubscriberCount"] is False
    assert lake["contentDetails"]["relatedPlaylists"]["uploads"] == "UU" + "l" * 22
    assert "subscriberCount" not in hill["statistics"]
    assert hill["statistics"]["hiddenSubscriberCount"] is True
    assert (lake["statistics"]["videoCount"], hill["statistics"]["videoCount"]) == ("569", "29")
    clock.advance(timedelta(days=1))
    (hill,) = (await client.listed("channels", part="statistics", id=HILL.id))["items"]
    assert hill["statistics"]["videoCount"] == "30"


async def test_channels_are_found_by_handle_once_they_exist(client: Client, clock: FixedClock):
    for handle in ("@lakes", "LAKES"):
        (item,) = (await client.listed("channels", part="id", forHandle=handle))["items"]
        assert item["id"] == LAKE.id
    assert (await client.listed("channels", part="id", forHandle="nobody"))["items"] == []
    clock.advance(timedelta(days=-60))
    assert (await client.listed("channels", part="id", id=LAKE.id))["items"] == []


async def test_uploads_are_paged_newest_first(client: Client, small: Catalogue):
    playlist = "UU" + "h" * 22
    pages = await client.pages(
        "playlistItems", part="snippet,contentDetails,status", playlistId=playlist, maxResults=10
    )
    items = [item for page in pages for item in page["items"]]
    assert [len(page["items"]) for page in pages] == [10, 10, 9]
    assert [item["contentDetails"]["videoId"] for item in items] == [
        small.ids[n] for n in small.uploads_of(HILL.id, NOW.timestamp())
    ]
    assert [item["snippet"]["position"] for item in items] == list(range(29))
    assert items[0]["snippet"]["resourceId"] == {"kind": "youtube#video", "videoId": video_id(579)}
    assert items[0]["contentDetails"]["videoPublishedAt"] == "2026-10-25T03:00:00Z"
    assert pages[0]["pageInfo"] == {"totalResults": 29, "resultsPerPage": 10}
    by_id = await client.listed("playlistItems", part="id", id=f"{items[3]['id']},nonsense")
    assert [item["id"] for item in by_id["items"]] == [items[3]["id"]]
    by_video = await client.listed("playlistItems", part="id", playlistId=playlist, videoId=video_id(579))
    assert [item["id"] for item in by_video["items"]] == [items[0]["id"]]
    assert await client.refused("playlistItems", part="id", playlistId=playlist, videoId=video_id(1)) == (
        404,
        "videoNotFound",
    )


async def test_categories_are_listed_by_region_and_by_id(client: Client):
    everywhere = await client.listed("videoCategories", part="snippet", regionCode="US")
    assert [int(item["id"]) for item in everywhere["items"]] == list(CATEGORIES)
    some = await client.listed("videoCategories", part="snippet", id="20,10,9999")
    assert [(item["id"], item["snippet"]["title"]) for item in some["items"]] == [
        ("20", "Gaming"),
        ("10", "Music"),
    ]


async def test_the_chart_holds_music_films_and_games_by_what_they_gained(client: Client, small: Catalogue):
    pages = await client.pages("videos", chart="mostPopular", part="snippet", maxResults=50)
    items = [item for page in pages for item in page["items"]]
    assert {item["snippet"]["categoryId"] for item in items} == {"10"}
    assert len(items) == 200
    at = NOW.timestamp()

    def gained(n: int) -> int:
        return (small.counts(n, at).views or 0) - (small.counts(n, at - 7 * DAY).views or 0)

    gains = [gained(small.numbers[item["id"]]) for item in items]
    assert gains == sorted(gains, reverse=True)
    none = await client.listed("videos", chart="mostPopular", part="id", videoCategoryId="24")
    assert none["items"] == []


async def test_before_july_2025_the_chart_held_everything(tmp_path: Path):
    start = datetime(2025, 7, 1, tzinfo=UTC)
    synthesize(tmp_path / "a", videos=300, channels=30, days=30, seed=1, start=start)
    asked = {"part": "snippet", "chart": "mostPopular", "maxResults": 50}
    with Catalogue.open(tmp_path / "a") as catalogue:
        clock = FixedClock(datetime(2025, 7, 20, tzinfo=UTC))
        async with (
            Emulator.serve(catalogue, clock=clock) as served,
            aiohttp.ClientSession(served.url) as session,
        ):
            before = await Client(session).listed("videos", **asked)
            clock.advance(timedelta(days=1))
            after = await Client(session).listed("videos", **asked)
    charted = {"1", "10", "20", "30", "44"}
    assert {item["snippet"]["categoryId"] for item in before["items"]} > charted & {"10", "20"}
    assert not {item["snippet"]["categoryId"] for item in after["items"]} - charted


async def test_what_is_kept_of_answers_is_bounded(
    client: Client, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("maia.emulator.resources._MOST_TEMPLATES", 3)
    first = [await client.listed("videos", part="id", id=video_id(number)) for number in range(8)]
    assert emulator._api.resources._cached <= 4
    assert [await client.listed("videos", part="id", id=video_id(number)) for number in range(8)] == first


async def test_the_feed_has_the_15_newest_uploads_with_views_and_costs_nothing(
    client: Client, emulator: Emulator
):
    async with client.session.get("/feeds/videos.xml", params={"channel_id": LAKE.id}) as response:
        assert response.content_type == "text/xml"
        feed = ET.fromstring(await response.text())
    atom, yt, media = (
        "{http://www.w3.org/2005/Atom}",
        "{http://www.youtube.com/xml/schemas/2015}",
        "{http://search.yahoo.com/mrss/}",
    )
    entries = feed.findall(f"{atom}entry")
    assert len(entries) == 15
    assert entries[0].findtext(f"{yt}videoId") == video_id(598)
    assert entries[0].findtext(f"{atom}published") == "2026-10-25T22:00:00+00:00"
    statistics = entries[0].find(f".//{media}statistics")
    assert statistics is not None
    counts = emulator.catalogue.counts_of(video_id(598), NOW)
    assert counts is not None
    assert statistics.attrib["views"] == str(counts.views)
    async with client.session.get("/feeds/videos.xml", params={"playlist_id": "UU" + "h" * 22}) as response:
        assert response.status == 200
    async with client.session.get("/feeds/videos.xml", params={"channel_id": "UCnone"}) as response:
        assert response.status == 404
    assert [emulator.used("demo", bucket) for bucket in ("search", "stats", "general")] == [0, 0, 0]


@dataclass
class FeedAnswer:
    status: int
    headers: Mapping[str, str]
    text: str


async def feed_of(client: Client, channel_id: str, **headers: str) -> FeedAnswer:
    query = {"channel_id": channel_id}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.session.get("/feeds/videos.xml", params=query, headers=named) as response:
        return FeedAnswer(response.status, response.headers, await response.text())


async def test_an_unchanged_feed_is_304(client: Client, clock: FixedClock):
    clock.advance(-(clock.now() - datetime(2026, 10, 20, 12, tzinfo=UTC)))
    whole = await feed_of(client, LAKE.id)
    assert whole.headers["Last-Modified"] == "Tue, 20 Oct 2026 12:00:00 GMT"
    assert whole.headers["Cache-Control"] == "public, max-age=0"
    etag, modified = whole.headers["ETag"], whole.headers["Last-Modified"]
    for same in ({"If_None_Match": etag}, {"If_Modified_Since": modified}):
        answer = await feed_of(client, LAKE.id, **same)
        assert (answer.status, answer.text, answer.headers["ETag"]) == (304, "", etag)
    other = await feed_of(client, LAKE.id, If_None_Match='"x"', If_Modified_Since=modified)
    assert other.status == 200, "If-None-Match goes before If-Modified-Since"
    clock.advance(timedelta(hours=1))
    for same in ({"If_None_Match": etag}, {"If_Modified_Since": modified}):
        answer = await feed_of(client, LAKE.id, **same)
        assert answer.status == 200
        assert answer.headers["ETag"] != etag


async def test_a_cached_feed_says_until_when_it_is_fresh(small: Catalogue, clock: FixedClock):
    clock.advance(-(clock.now() - datetime(2026, 10, 20, 12, tzinfo=UTC)))
    realism = Realism(feed_cache_min=30)
    async with (
        Emulator.serve(small, clock=clock, realism=realism) as served,
        aiohttp.ClientSession(served.url) as session,
    ):
        client = Client(session)
        first = await feed_of(client, LAKE.id)
        assert first.headers["Cache-Control"] == "public, max-age=1800"
        left_s = 1800 - int(first.headers["Age"])
        assert 0 < left_s <= 1800
        clock.advance(timedelta(seconds=left_s - 1))
        again = await feed_of(client, LAKE.id, If_None_Match=first.headers["ETag"])
        assert (again.status, again.headers["Age"]) == (304, "1799")
        assert again.headers["Expires"] == first.headers["Expires"]
        clock.advance(timedelta(seconds=2))
        renewed = await feed_of(client, LAKE.id, If_None_Match=first.headers["ETag"])
        assert renewed.status == 200
        assert renewed.text != first.text


async def test_faults_hit_feeds_only_by_name_and_for_as_long_as_they_are_meant_to(
    client: Client, emulator: Emulator, clock: FixedClock
):
    emulator.set_faults(["500:1"])
    assert (await feed_of(client, LAKE.id)).status == 200
    change = {"faults": ["429-retry-after:1:feed"], "faults_for_s": 3600}
    async with client.session.post("/_emulator", json=change) as response:
        assert (await response.json())["faults_until"] == "2026-11-02T13:00:00Z"
    for _ in range(2):
        refused = await feed_of(client, LAKE.id)
        assert (refused.status, refused.headers["Retry-After"]) == (429, "30")
        assert "text/html" in refused.headers["Content-Type"]
        clock.advance(timedelta(minutes=29))
    await client.listed("videos", part="id", id=video_id(1))
    clock.advance(timedelta(minutes=2))
    assert (await feed_of(client, LAKE.id)).status == 200
    for kind in ("403", "404", "429", "500", "502", "503", "504"):
        emulator.set_faults([f"{kind}:1:feed"])
        assert (await feed_of(client, LAKE.id)).status == int(kind)
    assert [call.status for call in emulator.feeds] == [200, 429, 429, 200, 403, 404, 429, 500, 502, 503, 504]
    assert emulator.feeds[1].parameters == (("channel_id", LAKE.id),)
    emulator.set_faults(["truncated:1:feed"])
    broken = await feed_of(client, LAKE.id)
    assert (broken.status, broken.headers["Content-Type"]) == (200, "text/xml; charset=utf-8")
    assert broken.text.startswith("<?xml")
    assert not broken.text.endswith("</feed>")


async def test_the_emulator_is_as_kind_as_its_realism(small: Catalogue, clock: FixedClock):
    realism = Realism(empty_most=7, uploads_disorder=0.5, feed_missing=1)
    async with (
        Emulator.serve(small, clock=clock, realism=realism) as served,
        aiohttp.ClientSession(served.url) as session,
    ):
        client = Client(session)
        found = await client.listed("search", part="id", type="video", maxResults=50)
        assert len(found["items"]) == 7
        assert "nextPageToken" not in found
        listed = await client.listed("playlistItems", part="contentDetails", playlistId="UU" + "h" * 22)
        first = [item["contentDetails"]["videoId"] for item in listed["items"][:5]]
        newest = [small.ids[n] for n in small.uploads_of(HILL.id, NOW.timestamp())[:5]]
        assert sorted(first) == sorted(newest)
        assert first != newest
        assert (await feed_of(client, LAKE.id)).status == 404
        async with session.get("/_emulator") as response:
            assert (await response.json())["realism"]["empty_most"] == 7


async def test_a_key_is_needed_in_the_header_or_the_query(client: Client, emulator: Emulator):
    asked = {"part": "snippet", "id": "10"}
    assert await client.refused("videoCategories", key=None, **asked) == (403, "forbidden")
    assert await client.refused("videoCategories", key="nobody-key", **asked) == (400, "badRequest")
    status, _ = await client.get("videoCategories", key=None, headers={"x-goog-api-key": "tiny-1"}, **asked)
    assert status == 200
    assert (emulator.used("tiny", "general"), emulator.used("demo", "general")) == (1, 0)
    assert [(call.project, call.status, call.units) for call in emulator.calls] == [
        (None, 403, 0), (None, 400, 0), ("tiny", 200, 1),
    ]  # fmt: skip
    assert all(name != "key" for call in emulator.calls for name, _ in call.parameters)


async def test_invalid_requests_cost_a_unit_too(client: Client, emulator: Emulator):
    await client.refused("search", part="snippet", foo="bar")
    await client.refused("playlistItems", part="snippet", playlistId="UUnone")
    assert (emulator.used("demo", "search"), emulator.used("demo", "general")) == (1, 1)


async def test_exhausted_buckets_refill_at_pacific_midnight(
    client: Client, emulator: Emulator, clock: FixedClock
):
    asked = {"part": "id", "q": "boat", "key": "tiny-1"}
    for _ in range(2):
        await client.listed("search", **asked)
        await client.listed("videoCategories", part="id", id="10", key="tiny-1")
    status, body = await client.get("search", **asked)
    assert (status, body["error"]["details"][0]["metadata"]["quota_unit"]) == (429, "1/d/{project}")
    assert await client.refused("videoCategories", part="id", id="10", key="tiny-1") == (403, "quotaExceeded")
    await client.listed("videos:batchGetStats", part="id", id=video_id(1), key="tiny-1")
    await client.listed("search", part="id", q="boat")
    clock.advance(datetime(2026, 11, 3, 7, 59, 59, tzinfo=UTC) - clock.now())
    assert await client.refused("search", **asked) == (429, "rateLimitExceeded")
    clock.advance(timedelta(seconds=1))
    await client.listed("search", **asked)
    assert emulator.used("tiny", "search") == 1


async def test_unknown_paths_and_verbs_are_refused_and_cost_nothing(client: Client, emulator: Emulator):
    assert await client.refused("comments", part="id") == (404, "notFound")
    async with client.session.post("/youtube/v3/search") as response:
        assert response.status == 405
    async with client.session.get("/") as response:
        assert response.status == 404
    assert emulator.calls == []


async def test_the_control_page_tells_the_state_to_machines_and_people(client: Client, emulator: Emulator):
    await client.listed("search", part="id", q="boat")
    await client.refused("search", part="id", q="boat", order="views")
    async with client.session.get("/_emulator") as response:
        state = await response.json()
    assert state["clock"]["now"] == state["clock"]["start"] == "2026-11-02T12:00:00Z"
    assert state["clock"]["speed"] == 0
    assert state["quota"]["projects"]["demo"]["search"] == {"used": 2, "limit": 100, "left": 98, "refused": 0}
    assert state["quota"]["calls"] == [
        {"project": "demo", "bucket": "search", "method": "search.list", "status": 200, "calls": 1},
        {"project": "demo", "bucket": "search", "method": "search.list", "status": 400, "calls": 1},
    ]
    async with client.session.get("/_emulator", headers={"Accept": "text/html,*/*"}) as response:
        page = await response.text()
    assert response.content_type == "text/html"
    assert "<td>demo<td>search.list<td>200<td>1" in page


async def test_the_control_page_sets_clock_faults_and_counters(client: Client, emulator: Emulator):
    await client.listed("search", part="id", q="boat")
    change = {
        "clock": {"now": "2026-12-01T00:00:00Z", "speed": 3600},
        "faults": ["500:1:search.list"],
        "seed": 5,
        "reset": True,
    }
    async with client.session.post("/_emulator", json=change) as response:
        state = await response.json()
    assert (state["faults"], state["seed"], state["quota"]["calls"]) == (["500:1:search.list"], 5, [])
    assert isinstance(emulator.clock, VirtualClock)
    assert (emulator.clock.speed, emulator.clock.start) == (3600, datetime(2026, 12, 1, tzinfo=UTC))
    assert emulator.clock.now() > emulator.clock.start
    assert await client.refused("search", part="id", q="boat") == (500, "backendError")
    async with client.session.post(
        "/_emulator", json={"clock": {"advance_s": 86400, "speed": 0}, "faults": []}
    ) as response:
        assert (await response.json())["clock"]["speed"] == 0
    assert emulator.clock.now() >= datetime(2026, 12, 2, tzinfo=UTC)
    change = {"clock": "2027-01-01T00:00:00Z", "speed": 10, "faults": {"503": 1}}
    async with client.session.post("/_emulator", json=change) as response:
        assert (await response.json())["clock"]["start"] == "2027-01-01T00:00:00Z"
    assert isinstance(emulator.clock, VirtualClock)
    assert (emulator.clock.speed, [str(fault) for fault in emulator.faults.faults]) == (10, ["503:1"])
    async with client.session.post("/_emulator", json={"speed": 0, "faults": []}) as response:
        assert (await response.json())["clock"]["now"] > "2027-01-01"
    await client.listed("search", part="id", q="boat")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"clok": {}},
            "got clok; post an object with some of clock, faults, faults_for_s, reset, seed, speed",
        ),
        ([], "got no object"),
        ({"clock": {"now": "2026-12-01T00:00:00"}}, "needs a time zone"),
        ({"clock": {"now": "soon"}}, "soon"),
        ({"clock": {"speed": -1}}, "does not run backwards"),
        ({"clock": {"pace": 1}}, "clock is an instant or an object"),
        ({"faults": ["nonsense:1"]}, "is not a fault"),
        ({"faults": "500:1"}, "is a list"),
        ({"seed": "x"}, "whole number"),
        ({"faults": [], "faults_for_s": -1}, "faults_for_s is for how many seconds"),
        ({"faults_for_s": 60}, "faults_for_s is for how many seconds"),
        ({"faults": ["400:1:feed"]}, "the faults of the feeds are latency, reset"),
        ({"faults": ["empty-page:1:feed"]}, "the faults of the feeds are"),
    ],
)
async def test_the_control_page_changes_nothing_of_what_is_half_wrong(
    client: Client, emulator: Emulator, change: Any, message: str
):
    body = change | {"reset": True} if isinstance(change, dict) else change
    await client.listed("search", part="id", q="boat")
    before = emulator.clock
    async with client.session.post("/_emulator", json=body) as response:
        assert response.status == 400
        assert message in (await response.json())["error"]
    assert emulator.clock is before
    assert emulator.used("demo", "search") == 1
    async with client.session.put("/_emulator") as response:
        assert response.status == 405
    async with client.session.post("/_emulator", data=b"{") as response:
        assert response.status == 400


async def test_faults_strike_over_the_wire_and_are_counted(client: Client, emulator: Emulator):
    asked = {"part": "snippet", "id": video_id(1)}
    for kind, status, units in (
        ("500", 500, 1),
        ("503", 503, 1),
        ("429-minute", 429, 0),
        ("403-quota", 403, 0),
        ("key-expired", 400, 0),
    ):
        emulator.set_faults([f"{kind}:1"])
        used = emulator.used("demo", "general")
        assert (await client.get("videos", **asked))[0] == status
        assert emulator.used("demo", "general") - used == units
    emulator.set_faults(["429-retry-after:1"])
    async with client.session.get("/youtube/v3/videos", params={**asked, "key": "demo-key"}) as response:
        assert response.headers["Retry-After"] == "30"


@pytest.mark.parametrize("kind", ["reset", "reset-midway"])
async def test_a_request_whose_connection_is_reset_was_counted(client: Client, emulator: Emulator, kind: str):
    emulator.set_faults([f"{kind}:1"])
    with pytest.raises(aiohttp.ClientError):
        await client.get("videos", part="snippet", id=video_id(1))
    emulator.set_faults([])
    await client.listed("videos", part="snippet", id=video_id(1))
    # aiohttp sends a request again by itself when its connection breaks early: that one counts as well.
    *torn, last = [call.status for call in emulator.calls]
    assert (set(torn), last) == ({kind}, 200)
    assert emulator.used("demo", "general") == len(torn) + 1


@pytest.mark.parametrize("agent", ["maia", "maia (gzip)"])
async def test_spoilt_answers_are_whole_http_and_broken_json(client: Client, emulator: Emulator, agent: str):
    query = {"part": "snippet", "id": video_id(1), "key": "demo-key"}
    for kind, start in (("truncated", b'{"kind"'), ("empty-body", b""), ("html", b"<!DOCTYPE html>")):
        emulator.set_faults([f"{kind}:1"])
        async with client.session.get(
            "/youtube/v3/videos", params=query, headers={"User-Agent": agent}
        ) as response:
            body = await response.read()
        assert response.status == 200
        assert body.startswith(start)
        assert not body.endswith(b"}")


async def test_latency_is_real_time_and_the_answer_is_of_the_instant_it_is_given(
    client: Client, emulator: Emulator, clock: FixedClock
):
    emulator.set_faults(["latency-300ms:1"])
    call = asyncio.create_task(client.listed("videos", part="id", id=video_id(599)))
    await asyncio.sleep(0.1)
    assert not call.done()
    clock.advance(timedelta(days=1))
    assert len((await call)["items"]) == 1


async def test_pages_can_come_empty_or_again(client: Client, emulator: Emulator):
    asked = {"part": "id", "q": "boat", "order": "date", "maxResults": 10}
    first = await client.listed("search", **asked)
    second = await client.listed("search", pageToken=first["nextPageToken"], **asked)
    emulator.set_faults(["repeat-page:1"])
    again = await client.listed("search", pageToken=first["nextPageToken"], **asked)
    assert ids_of(again) == ids_of(first)
    assert again["nextPageToken"] == second["nextPageToken"]
    emulator.set_faults(["empty-page:1"])
    empty = await client.listed("search", pageToken=first["nextPageToken"], **asked)
    assert empty["items"] == []
    assert empty["nextPageToken"] == second["nextPageToken"]


async def test_the_variables_to_export_name_the_emulator_its_time_and_its_keys(
    emulator: Emulator, small: Catalogue
):
    variables = emulator.environment()
    assert variables["PLEIADES_YOUTUBE__BASE_URL"] == emulator.url
    assert (
        variables["YOUTUBE_API_KEY_POOL_JSON"]
        == '[{"key":"demo-key","project":"demo"},{"key":"tiny-key","project":"tiny"}]'
    )
    assert variables["PLEIADES_QUOTA__SEPARATE_PROJECTS_PERMITTED"] == "true"
    anchor = datetime(2026, 11, 21, tzinfo=UTC)
    async with Emulator.serve(small, clock=VirtualClock(NOW, anchor, 60)) as other:
        shared = other.environment()
    assert (shared["PLEIADES_CLOCK__START"], shared["PLEIADES_CLOCK__ANCHOR"]) == (
        "2026-11-02T12:00:00Z",
        "2026-11-21T00:00:00Z",
    )
    assert shared["PLEIADES_CLOCK__SPEED"] == "60"
    assert "PLEIADES_QUOTA__SEPARATE_PROJECTS_PERMITTED" not in shared


async def test_a_taken_port_and_an_empty_catalogue_are_errors(
    emulator: Emulator, small: Catalogue, tmp_path: Path
):
    port = int(emulator.url.rpartition(":")[2])
    with pytest.raises(EmulatorError, match="try another port"):
        async with Emulator.serve(small, port=port):
            pass
    with new_catalogue(tmp_path / "empty", {}):
        pass
    with Catalogue.open(tmp_path / "empty") as empty, pytest.raises(CatalogueError, match="holds no video"):
        Emulator(empty)


async def test_by_default_the_clock_starts_at_the_catalogues_end(tmp_path: Path):
    synthesize(tmp_path / "a", videos=50, channels=5, days=2, seed=1)
    with Catalogue.open(tmp_path / "a") as catalogue:
        async with Emulator.serve(catalogue) as served:
            assert isinstance(served.clock, VirtualClock)
            assert served.clock.start == catalogue.span[1] == datetime(2026, 10, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "PT0S"), (59, "PT59S"), (3600, "PT1H"), (1563, "PT26M3S"), (90061, "P1DT1H1M1S"), (86400, "P1D")],
)
def test_durations_are_written_as_the_api_does(seconds: int, text: str):
    assert iso_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "shown"), [(0, 0), (999, 999), (1234, 1230), (99_999, 99_900), (12_345_678, 12_300_000)]
)
def test_subscribers_are_cut_to_three_figures(count: int, shown: int):
    assert rounded_subscribers(count) == shown


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}]
)
async def test_pages_of_other_sites_neither_see_nor_change_the_control_page(
    client: Client, headers: dict[str, str]
) -> None:
    for method in ("GET", "POST"):
        async with client.session.request(
            method, "/_emulator", data=b'{"speed": 9}', headers=headers
        ) as response:
            assert response.status == 403
    async with client.session.get("/_emulator") as response:
        assert (await response.json())["clock"]["speed"] != 9
    own = {"Origin": str(response.url.origin())}
    async with client.session.post("/_emulator", json={"speed": 0}, headers=own) as response:
        assert response.status == 200
