"""The official Python client against the emulator: nothing but its endpoint differs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from atlas.clock import FixedClock
from maia.emulator import Emulator, Project
from maia.emulator.catalogue import Catalogue
from maia.emulator.synthesis import synthesize

googleapiclient = pytest.importorskip("googleapiclient.discovery")
errors = pytest.importorskip("googleapiclient.errors")

pytestmark = pytest.mark.integration
T = TypeVar("T")
NOW = datetime(2026, 10, 20, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    path = tmp_path_factory.mktemp("google") / "a.catalogue"
    synthesize(path, videos=2000, channels=40, days=25, seed=3)
    with Catalogue.open(path) as opened:
        yield opened


@pytest.fixture
async def emulator(catalogue: Catalogue) -> AsyncIterator[Emulator]:
    projects = [Project("demo", search=1000), Project("poor", search=1)]
    async with Emulator.serve(catalogue, clock=FixedClock(NOW), projects=projects) as served:
        yield served


async def with_service(emulator: Emulator, work: Callable[[Any], T], key: str = "demo-key") -> T:
    """Run `work` with the client's service, which is synchronous, in a thread."""

    def call() -> T:
        options = {"api_endpoint": emulator.url}
        with googleapiclient.build("youtube", "v3", developerKey=key, client_options=options) as service:
            return work(service)

    return await asyncio.to_thread(call)


async def test_search_pages_to_its_end(emulator: Emulator, catalogue: Catalogue):
    tags = Counter(tag for n in range(len(catalogue)) for tag in catalogue.video(n).tags)
    ((tag, _),) = tags.most_common(1)

    def search(service: Any) -> list[str]:
        found: list[str] = []
        request = service.search().list(part="snippet", q=tag, type="video", order="date", maxResults=20)
        while request is not None:
            page = request.execute()
            found += [item["id"]["videoId"] for item in page["items"]]
            request = service.search().list_next(request, page)
        return found

    found = await with_service(emulator, search)
    assert len(found) > 20
    assert found == catalogue.search_ids(tag, NOW, order="date")


async def test_videos_and_their_stats(emulator: Emulator, catalogue: Catalogue):
    ids = catalogue.visible_ids(NOW)[:50]

    def fetch(service: Any) -> tuple[Any, Any]:
        videos = service.videos().list(part="snippet,statistics,contentDetails", id=",".join(ids)).execute()
        return videos, service.videos().batchGetStats(part="id,statistics", id=[*ids[:10], "gone"]).execute()

    videos, stats = await with_service(emulator, fetch)
    assert [item["id"] for item in videos["items"]] == ids
    for item in videos["items"]:
        counts = catalogue.counts_of(item["id"], NOW)
        assert counts is not None
        assert int(item["statistics"]["viewCount"]) == counts.views
        assert item["snippet"]["title"] == catalogue.video(catalogue.numbers[item["id"]]).title
    assert [item["id"] for item in stats["items"]] == ids[:10]
    assert stats["summary"]["failedVideoIds"] == ["gone"]


async def test_channels_and_their_uploads(emulator: Emulator, catalogue: Catalogue):
    channel_id = max(catalogue.uploads, key=lambda channel: len(catalogue.uploads[channel]))

    def fetch(service: Any) -> tuple[Any, list[str]]:
        parts = "snippet,contentDetails,statistics"
        (channel,) = service.channels().list(part=parts, id=channel_id).execute()["items"]
        uploads, playlist = [], channel["contentDetails"]["relatedPlaylists"]["uploads"]
        request = service.playlistItems().list(part="contentDetails", playlistId=playlist, maxResults=7)
        while request is not None:
            page = request.execute()
            uploads += [item["contentDetails"]["videoId"] for item in page["items"]]
            request = service.playlistItems().list_next(request, page)
        return channel, uploads

    channel, uploads = await with_service(emulator, fetch)
    assert uploads == [catalogue.ids[n] for n in catalogue.uploads_of(channel_id, NOW.timestamp())]
    assert len(uploads) == int(channel["statistics"]["videoCount"]) > 7


async def test_categories(emulator: Emulator):
    categories = await with_service(
        emulator, lambda service: service.videoCategories().list(part="snippet", regionCode="US").execute()
    )
    assert {"id": "10", "title": "Music"} in [
        {"id": item["id"], "title": item["snippet"]["title"]} for item in categories["items"]
    ]


@pytest.mark.parametrize(
    ("key", "call", "status", "reason"),
    [
        ("nobody", lambda s: s.videos().list(part="id", id="x"), 400, "badRequest"),
        ("demo-1", lambda s: s.playlistItems().list(part="id", playlistId="UUnone"), 404, "playlistNotFound"),
        ("demo-1", lambda s: s.videos().list(part="id"), 400, "missingRequiredParameter"),
        ("demo-1", lambda s: s.search().list(part="id", pageToken="no token"), 400, "invalidPageToken"),
    ],
)
async def test_errors_are_understood(
    emulator: Emulator, key: str, call: Callable[[Any], Any], status: int, reason: str
):
    with pytest.raises(errors.HttpError) as refused:
        await with_service(emulator, lambda service: call(service).execute(), key)
    assert refused.value.status_code == status
    assert reason in str(refused.value.error_details) or reason == "badRequest"


async def test_an_exhausted_bucket_is_understood(emulator: Emulator):
    def twice(service: Any) -> None:
        for _ in range(2):
            service.search().list(part="id", q="guitar").execute()

    with pytest.raises(errors.HttpError) as refused:
        await with_service(emulator, twice, "poor-key")
    assert refused.value.status_code == 429
    assert "Search Queries per day" in refused.value.reason
    assert emulator.used("poor", "search") == 1


async def test_a_server_error_is_tried_again_as_the_client_does_it(emulator: Emulator):
    def patiently(service: Any) -> list[str]:
        kinds = []
        for number in range(20):
            request = service.search().list(part="id", q=f"guitar {number}")
            request._sleep = lambda seconds: None
            kinds.append(request.execute(num_retries=20)["kind"])
        return kinds

    emulator.set_faults(["500:0.5"], seed=4)
    assert await with_service(emulator, patiently) == ["youtube#searchListResponse"] * 20
    assert emulator.faults.struck["500"] == len(emulator.calls) - 20 > 0


def test_the_static_discovery_document_knows_the_newest_method(tmp_path: Path):
    with googleapiclient.build("youtube", "v3", developerKey="x") as service:
        assert callable(service.videos().batchGetStats)
