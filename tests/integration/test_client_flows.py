"""The client, the real key ring and the emulator together: what each counted must agree."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
import stamina
from pydantic import SecretStr

from atlas import Atlas
from atlas.clock import FixedClock, next_reset
from atlas.config import BUCKETS
from atlas.errors import RingClosed
from atlas.keyring import KeyRing
from atlas.testing import SettingsFactory
from maia.emulator import Emulator, Project
from maia.emulator.catalogue import Catalogue
from maia.emulator.synthesis import synthesize
from maia.youtube.client import YouTube
from maia.youtube.errors import (
    BadRequest,
    Gone,
    KeyRejected,
    QuotaExhausted,
    RateLimited,
    Transient,
    YouTubeError,
)
from maia.youtube.ids import uploads_playlist
from maia.youtube.resources import NotModified, SearchPage
from tests.ids import cid

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _without_waits() -> Iterator[None]:
    with stamina.set_testing(True, attempts=10, cap=True):
        yield


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    path: Path = tmp_path_factory.mktemp("catalogue") / "small.catalogue"
    synthesize(path, videos=600, channels=12, days=12, seed=7)
    with Catalogue.open(path) as opened:
        yield opened


@dataclass
class House:
    """A client on its ring, the emulator it calls, and the clock of both."""

    youtube: YouTube
    emulator: Emulator
    ring: KeyRing
    atlas: Atlas
    clock: FixedClock

    async def counted(self, project: str = "demo") -> dict[str, int]:
        """Units that the ledger counts, by bucket."""
        lines = [line for line in await self.ring.ledger() if line.project == project]
        return {line.bucket: line.used + line.reserved for line in lines}

    def spent(self, project: str = "demo") -> dict[str, int]:
        """Units that the emulator counted, by bucket."""
        return {bucket: self.emulator.used(project, bucket) for bucket in BUCKETS}


class OpenHouse(Protocol):
    def __call__(
        self, *faults: str, projects: dict[str, int] = ..., **settings: Any
    ) -> AbstractAsyncContextManager[House]: ...


@pytest.fixture
def house(settings_factory: SettingsFactory, catalogue: Catalogue) -> OpenHouse:
    @asynccontextmanager
    async def open_house(
        *faults: str, projects: dict[str, int] | None = None, **settings: Any
    ) -> AsyncIterator[House]:
        """`projects`: the emulator's search units by project; the ledger believes in 1,000 of each."""
        limits = projects or {"demo": 1000}
        clock = FixedClock(catalogue.span[1])
        nothing = dict.fromkeys(BUCKETS, 0)
        keys = [{"key": f"{name}-secret", "project": name} for name in limits]
        served = Emulator.serve(
            catalogue,
            clock=clock,
            projects=[Project(name, search=search) for name, search in limits.items()],
            faults=faults,
            seed=3,
        )
        async with served as emulator:
            configured = settings_factory(
                youtube_api_key_pool_json=SecretStr(json.dumps({"hunting": keys})),
                youtube={"base_url": emulator.url, **settings},
                quota={
                    "pacing": False,
                    "limits": {"search": 1000},
                    "shares": {
                        "hunting": dict.fromkeys(BUCKETS, 1),
                        "tracking": nothing,
                        "archeology": nothing,
                    },
                    "reserve": 0,
                    "separate_projects_permitted": len(limits) > 1,
                    "failures_to_open": 1000,
                },
            )
            async with Atlas.open(configured, clock=clock) as atlas:
                ring = KeyRing("hunting", atlas=atlas)
                async with YouTube.open(configured.youtube, ring, clock=clock) as youtube:
                    yield House(youtube, emulator, ring, atlas, clock)

    return open_house


async def all_pages(youtube: YouTube, **query: Any) -> list[SearchPage]:
    pages = [await youtube.search(**query)]
    while pages[-1].next_page_token and pages[-1].items:
        pages.append(await youtube.search(**query, page_token=pages[-1].next_page_token))
    return pages


async def test_a_search_is_paged_to_its_end(house: OpenHouse, catalogue: Catalogue) -> None:
    async with house() as it:
        pages = await all_pages(it.youtube, order="date")
        found = [hit.video_id for page in pages for hit in page.items]
        assert found == catalogue.search_ids(None, it.clock.now(), order="date")
        assert len(found) == 500
        assert await it.counted() == it.spent() == {"search": len(pages), "stats": 0, "general": 0}


async def test_what_was_found_is_enriched_with_the_catalogues_own_counts(
    house: OpenHouse, catalogue: Catalogue
) -> None:
    async with house() as it:
        ids = catalogue.visible_ids(it.clock.now())[:120]
        videos = await it.youtube.videos([*ids, "no-such-one"])
        assert [video.id for video in videos] == ids
        for video in videos:
            counts = catalogue.counts_of(video.id, it.clock.now())
            assert counts is not None
            assert (video.view_count, video.like_count, video.comment_count) == tuple(counts)
            assert video.channel_id
            assert video.title
            assert video.published_at
            assert video.duration_s is not None
            assert video.category_id
        assert any(video.tags for video in videos)

        batch = await it.youtube.batch_get_stats([*ids, "no-such-one"])
        assert [stats.view_count for stats in batch.items] == [video.view_count for video in videos]
        assert batch.failed_ids == ("no-such-one",)
        assert await it.counted() == it.spent() == {"search": 0, "stats": 3, "general": 3}


async def test_channels_uploads_charts_categories_and_feeds(house: OpenHouse, catalogue: Catalogue) -> None:
    async with house() as it:
        hit = (await it.youtube.search(order="date")).items[0]
        assert hit.channel_id
        (channel,) = await it.youtube.channels([hit.channel_id])
        assert channel.uploads_playlist_id
        uploads = await it.youtube.playlist_items(channel.uploads_playlist_id)
        assert channel.video_count == uploads.total_results
        assert hit.video_id in [item.video_id for item in uploads.items]
        assert uploads.etag
        again = await it.youtube.playlist_items(channel.uploads_playlist_id, etag=uploads.etag)
        assert again == NotModified(uploads.etag)
        feed = (await it.youtube.feed(channel.id)).items
        assert feed[0].video_id == hit.video_id
        assert feed[0].view_count is not None
        categories = await it.youtube.video_categories("US")
        assert {category.title for category in categories} >= {"Music", "Gaming"}
        assert (await it.youtube.most_popular("US")).items
        assert await it.counted() == it.spent() == {"search": 1, "stats": 0, "general": 5}
        with pytest.raises(Gone, match="playlistNotFound"):
            await it.youtube.playlist_items(uploads_playlist(cid("none")))
        with pytest.raises(Gone):
            await it.youtube.feed(cid("none"))


async def test_a_page_token_of_another_query_is_a_bad_request(house: OpenHouse) -> None:
    async with house() as it:
        with pytest.raises(BadRequest) as raised:
            await it.youtube.search(order="date", page_token="made-up")
        assert raised.value.reason == "invalidPageToken"
        assert await it.counted() == it.spent()


async def test_a_spent_day_stops_every_call_until_the_pacific_midnight(house: OpenHouse) -> None:
    async with house(projects={"demo": 3}) as it:
        for _ in range(3):
            await it.youtube.search(order="date")
        with pytest.raises(RateLimited) as raised:
            await it.youtube.search(order="date")
        reset = next_reset(it.clock.now())
        assert raised.value.until == reset
        calls = len(it.emulator.calls)
        for _ in range(3):
            with pytest.raises(RingClosed) as closed:
                await it.youtube.search(order="date")
        assert closed.value.reopens_at == reset
        assert len(it.emulator.calls) == calls, "a closed ring makes no call"
        it.clock.advance(reset - it.clock.now() + timedelta(seconds=1))
        assert (await it.youtube.search(order="date")).items


async def test_quota_refused_by_403_moves_on_to_the_other_permitted_project(house: OpenHouse) -> None:
    async with house("403-quota:1:search.list", projects={"alpha": 9, "beta": 9}) as it:
        with pytest.raises(QuotaExhausted) as raised:
            await it.youtube.search(order="date")
        assert raised.value.reopens_at == next_reset(it.clock.now())
        assert sorted(call.project or "" for call in it.emulator.calls) == ["alpha", "beta"]
        assert await it.youtube.videos(["x"]) == (), "other buckets stay open"


@pytest.mark.parametrize("kind", ["key-invalid", "key-expired-legacy", "not-configured", "ip-blocked"])
async def test_refused_keys_are_disabled_until_none_is_left(house: OpenHouse, kind: str) -> None:
    async with house(f"{kind}:1", projects={"alpha": 9, "beta": 9}) as it:
        with pytest.raises(KeyRejected):
            await it.youtube.search(order="date")
        with pytest.raises(RingClosed) as closed:
            await it.youtube.search(order="date")
        assert closed.value.reopens_at is None
        assert "secret" not in str(closed.value)
        assert len(it.emulator.calls) == 2


@pytest.mark.parametrize(
    ("kind", "error", "calls"),
    [
        ("500", Transient, 3),
        ("503", Transient, 3),
        ("reset", Transient, 3),
        ("reset-midway", Transient, 3),
        ("truncated", Transient, 3),
        ("empty-body", Transient, 3),
        ("html", Transient, 3),
        ("429-day", RateLimited, 1),
        ("429-minute", RateLimited, 1),
        ("429-retry-after", RateLimited, 1),
        ("429-bare", RateLimited, 1),
        ("403-daily", QuotaExhausted, 1),
        ("403-user-rate", RingClosed, 1),
        ("key-invalid-legacy", KeyRejected, 1),
        ("key-expired", KeyRejected, 1),
        ("referrer-blocked", KeyRejected, 1),
        ("service-blocked", KeyRejected, 1),
        ("invalid-page-token", BadRequest, 1),
        ("invalid-parameter", BadRequest, 1),
        ("invalid-query", BadRequest, 1),
        ("invalid-region", BadRequest, 1),
        ("403-delegation", Transient, 3),
        ("video-not-found", Gone, 1),
        ("comments-disabled", Gone, 1),
    ],
)
async def test_every_fault_has_its_meaning_and_is_counted(
    house: OpenHouse, kind: str, error: type[Exception], calls: int
) -> None:
    async with house(f"{kind}:1") as it:
        with pytest.raises(error):
            await it.youtube.search(order="date")
        assert len(it.emulator.calls) == calls
        counted, spent = await it.counted(), it.spent()
        assert all(counted[bucket] >= spent[bucket] for bucket in BUCKETS)


@pytest.mark.parametrize(
    ("kind", "parameter"),
    [
        ("invalid-parameter", "order"),
        ("invalid-region", "regionCode"),
        ("invalid-query", "q"),
        ("invalid-page-token", "pageToken"),
    ],
)
async def test_a_refusal_says_what_it_blames(house: OpenHouse, kind: str, parameter: str) -> None:
    async with house(f"{kind}:1") as it:
        with pytest.raises(BadRequest) as raised:
            await it.youtube.search(order="date")
    assert raised.value.parameter == parameter


@pytest.mark.parametrize("kind", ["404-method", "501"])
async def test_without_batch_stats_videos_list_serves(house: OpenHouse, kind: str) -> None:
    async with house(f"{kind}:1:videos.batchGetStats") as it:
        hit = (await it.youtube.search(order="date")).items[0]
        assert (await it.youtube.batch_get_stats([hit.video_id])).items[0].id == hit.video_id
        await it.youtube.batch_get_stats([hit.video_id])
        methods = [call.method for call in it.emulator.calls]
        assert methods.count("videos.batchGetStats") == 1
        assert methods.count("videos.list") == 2


async def test_nothing_is_lost_or_miscounted_among_many_faults(
    house: OpenHouse, catalogue: Catalogue
) -> None:
    faults = ["500:0.1", "503:0.05", "reset:0.1", "reset-midway:0.1", "truncated:0.05", "html:0.05"]
    async with house(*faults, attempts=10, total_timeout_s=100) as it:
        ids = catalogue.visible_ids(it.clock.now())
        pages, videos, batch = await asyncio.gather(
            all_pages(it.youtube, order="date"), it.youtube.videos(ids), it.youtube.batch_get_stats(ids)
        )
        assert sum(len(page.items) for page in pages) == 500
        assert [video.id for video in videos] == ids
        assert len(batch.items) == len(ids)
        assert any(isinstance(call.status, str) for call in it.emulator.calls), "faults did strike"
        assert await it.counted() == it.spent()
        assert it.youtube.requests == it.spent()


async def test_calls_cut_off_on_their_way_are_counted(house: OpenHouse) -> None:
    async with house("latency-250ms:1") as it:
        tasks = [asyncio.create_task(it.youtube.search(order="date")) for _ in range(4)]
        while it.youtube.requests["search"] < 4:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        assert all(
            isinstance(result, asyncio.CancelledError)
            for result in await asyncio.gather(*tasks, return_exceptions=True)
        )
        counted = await it.counted()
        assert counted["search"] == 4 >= it.spent()["search"]


async def test_an_emulator_that_is_down_costs_no_units(house: OpenHouse) -> None:
    async with house() as it:
        async with YouTube.open(
            it.atlas.settings.youtube.model_copy(update={"base_url": "http://127.0.0.1:9"}),
            it.ring,
            clock=it.clock,
        ) as lost:
            with pytest.raises(YouTubeError):
                await lost.search(order="date")
        assert await it.counted() == {"search": 0, "stats": 0, "general": 0}
