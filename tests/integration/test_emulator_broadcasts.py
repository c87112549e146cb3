"""Premieres and live streams as the production client sees them on the emulator, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from atlas.clock import FixedClock
from atlas.config import YouTubeSettings
from maia.emulator.catalogue import Catalogue, CatalogueChannel, CatalogueVideo, new_catalogue
from maia.emulator.curves import Sample
from maia.emulator.quota import Project
from maia.emulator.server import Emulator
from maia.youtube.client import YouTube
from maia.youtube.ids import uploads_playlist
from maia.youtube.methods import EventType
from maia.youtube.resources import Video
from tests.api_server import Ledger
from tests.ids import cid, vid

pytestmark = pytest.mark.integration

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
ANNOUNCED, STARTS, ENDS = NOON - timedelta(days=9), NOON + timedelta(hours=2), NOON + timedelta(hours=3)
PREMIERE, ENDLESS, ORDINARY = vid("premiere"), vid("endless"), vid("ordinary")
CHANNEL = cid("a")


def seconds(instant: datetime) -> int:
    return int(instant.timestamp())


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    path: Path = tmp_path_factory.mktemp("broadcasts") / "a.catalogue"
    with new_catalogue(path, {"made_by": "test"}) as writer:
        writer.add_channels([CatalogueChannel(CHANNEL, "Lakes", handle="@lakes")])
        premiere = CatalogueVideo(
            PREMIERE,
            CHANNEL,
            "A premiere",
            seconds(ANNOUNCED),
            duration_s=750,
            scheduled_start_at=seconds(STARTS) - 60,
            actual_start_at=seconds(STARTS),
            actual_end_at=seconds(ENDS),
        )
        writer.add(premiere, "Lakes", [Sample(seconds(STARTS) + 36_000, 50_000, 900, 10)])
        endless = CatalogueVideo(
            ENDLESS, CHANNEL, "A stream", seconds(NOON) - 7200, actual_start_at=seconds(NOON) - 3600
        )
        writer.add(endless, "Lakes", [Sample(seconds(NOON), 100), Sample(seconds(ENDS), 300)])
        ordinary = CatalogueVideo(ORDINARY, CHANNEL, "A video", seconds(NOON) - 3600, duration_s=750)
        writer.add(ordinary, "Lakes", [Sample(seconds(NOON), 10)])
    with Catalogue.open(path) as opened:
        yield opened


@dataclass
class House:
    """The emulator's clock, which is the client's as well, and the client."""

    clock: FixedClock
    youtube: YouTube

    async def at(self, instant: datetime, id_: str = PREMIERE) -> Video:
        """The video as it is described at an instant."""
        self.clock.instant = instant
        (video,) = await self.youtube.videos([id_])
        return video

    async def found(self, event: EventType | None) -> set[str]:
        return {hit.video_id for hit in (await self.youtube.search(event_type=event)).items}


@pytest.fixture
async def house(catalogue: Catalogue) -> AsyncIterator[House]:
    clock = FixedClock(NOON)
    async with Emulator.serve(catalogue, clock=clock, projects=[Project("demo")]) as emulator:
        settings = YouTubeSettings(base_url=emulator.url)
        async with YouTube.open(settings, Ledger(("demo-key", "demo")), clock=clock) as youtube:
            yield House(clock, youtube)


async def test_a_premiere_is_upcoming_then_live_then_a_video(house: House) -> None:
    upcoming = await house.at(NOON)
    assert (upcoming.live_broadcast_content, upcoming.duration_s) == ("upcoming", None)
    assert (upcoming.published_at, upcoming.view_count) == (ANNOUNCED, 0)
    assert upcoming.scheduled_start_at == STARTS - timedelta(minutes=1)
    assert (upcoming.actual_start_at, upcoming.actual_end_at) == (None, None)

    live = await house.at(STARTS + timedelta(minutes=6))
    assert (live.live_broadcast_content, live.duration_s) == ("live", None)
    assert (live.published_at, live.actual_start_at, live.actual_end_at) == (STARTS, STARTS, None)
    assert live.view_count == 500, "views grow from the start, not from the announcement"

    aired = await house.at(ENDS)
    assert (aired.live_broadcast_content, aired.duration_s) == ("none", 750)
    assert (aired.published_at, aired.actual_start_at, aired.actual_end_at) == (STARTS, STARTS, ENDS)
    assert aired.scheduled_start_at == upcoming.scheduled_start_at
    assert len({upcoming.etag, live.etag, aired.etag}) == 3
    assert not house.youtube.malformed


async def test_a_stream_without_an_end_stays_live_and_other_videos_are_no_broadcast(house: House) -> None:
    stream = await house.at(ENDS + timedelta(days=300), ENDLESS)
    assert (stream.live_broadcast_content, stream.duration_s, stream.scheduled_start_at) == (
        "live",
        None,
        None,
    )
    assert stream.actual_start_at == NOON - timedelta(hours=1)
    ordinary = await house.at(ENDS, ORDINARY)
    assert (ordinary.live_broadcast_content, ordinary.duration_s) == ("none", 750)
    assert (ordinary.scheduled_start_at, ordinary.actual_start_at) == (None, None)
    assert "liveStreamingDetails" not in ordinary.raw


async def test_a_search_finds_broadcasts_by_what_they_are_now(house: House) -> None:
    assert await house.found(None) == {PREMIERE, ENDLESS, ORDINARY}
    assert await house.found("upcoming") == {PREMIERE}
    assert await house.found("live") == {ENDLESS}
    assert await house.found("completed") == set()
    house.clock.instant = ENDS
    assert await house.found("upcoming") == set()
    assert await house.found("completed") == {PREMIERE}


async def test_what_has_not_ended_has_no_duration_to_be_found_by(house: House) -> None:
    page = await house.youtube.search(video_duration="medium")
    assert [hit.video_id for hit in page.items] == [ORDINARY]
    house.clock.instant = ENDS
    page = await house.youtube.search(video_duration="medium")
    assert {hit.video_id for hit in page.items} == {ORDINARY, PREMIERE}


async def test_every_method_tells_the_same_of_a_premiere(house: House) -> None:
    for instant, state, published_at in ((NOON, "upcoming", ANNOUNCED), (ENDS, "none", STARTS)):
        house.clock.instant = instant
        hits = {hit.video_id: hit for hit in (await house.youtube.search()).items}
        assert (hits[PREMIERE].live_broadcast_content, hits[PREMIERE].published_at) == (state, published_at)
        uploads = {item.video_id: item for item in (await house.youtube.playlist_items(UPLOADS)).items}
        assert uploads[PREMIERE].video_published_at == published_at
        feed = {entry.video_id: entry for entry in (await house.youtube.feed(CHANNEL)).items}
        assert feed[PREMIERE].published_at == published_at
        (stats,) = (await house.youtube.batch_get_stats([PREMIERE])).items
        assert stats.view_count == feed[PREMIERE].view_count


UPLOADS = uploads_playlist(CHANNEL)


async def test_a_channel_is_found_by_its_handle_in_any_case(house: House) -> None:
    for handle in ("@lakes", "lakes", "@LAKES"):
        channel = await house.youtube.channel_by_handle(handle)
        assert channel is not None
        assert (channel.id, channel.custom_url) == (CHANNEL, "@lakes")
    assert await house.youtube.channel_by_handle("@nobody") is None
    assert await house.youtube.channel_by_username("nobody") is None
    assert not house.youtube.malformed, "a channel whose age is unknown is not malformed"
