"""What the production client makes of a realistic emulator: pages end, feeds are conditional and fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from atlas.clock import FixedClock
from atlas.config import YouTubeSettings
from maia.emulator.catalogue import Catalogue
from maia.emulator.quota import Project
from maia.emulator.realism import REALISTIC
from maia.emulator.server import Emulator
from maia.emulator.synthesis import synthesize
from maia.youtube.client import YouTube
from maia.youtube.errors import Gone, RateLimited
from maia.youtube.ids import ChannelId, uploads_playlist
from maia.youtube.methods import Order
from maia.youtube.resources import Feed, NotModified
from tests.api_server import Ledger

pytestmark = pytest.mark.integration

REALISM = replace(REALISTIC, feed_stale=0, feed_missing=0, early_end=0)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    path: Path = tmp_path_factory.mktemp("realism") / "a.catalogue"
    synthesize(path, videos=4000, channels=400, days=8, seed=3, world="mixed")
    with Catalogue.open(path) as opened:
        yield opened


@dataclass
class House:
    """The emulator, and the client on its clock."""

    clock: FixedClock
    emulator: Emulator
    youtube: YouTube

    async def found(self, query: str | None, order: Order) -> list[str]:
        """The ids of all results, page by page."""
        after, found, token = self.clock.now() - timedelta(days=3), list[str](), None
        for _ in range(20):
            page = await self.youtube.search(q=query, order=order, published_after=after, page_token=token)
            found += [hit.video_id for hit in page.items]
            if (token := page.next_page_token) is None:
                return found
        raise AssertionError("the pages never ended")


@pytest_asyncio.fixture
async def house(catalogue: Catalogue) -> AsyncIterator[House]:
    clock = FixedClock(catalogue.span[1] - timedelta(days=1))
    served = Emulator.serve(catalogue, clock=clock, projects=[Project("demo", 1000)], realism=REALISM)
    async with served as emulator:
        configured = YouTubeSettings(base_url=emulator.url, attempts=1)
        async with YouTube.open(configured, Ledger(("demo-key", "demo")), clock=clock) as youtube:
            yield House(clock, emulator, youtube)


@pytest.mark.parametrize("order", ["viewCount", "date", "relevance"])
async def test_the_pages_of_every_form_end(house: House, catalogue: Catalogue, order: Order) -> None:
    for query in (None, "guitar", '"street food"|"city builder"|cats'):
        found = await house.found(query, order)
        exact = catalogue.search_ids(
            query, house.clock.now(), house.clock.now() - timedelta(days=3), order=order
        )
        assert 0 < len(set(found)) < len(exact)
        assert set(found) <= set(catalogue.visible_ids(house.clock.now()))
    assert not house.youtube.malformed


async def test_a_feed_is_fetched_again_only_when_its_copy_is_renewed(
    house: House, catalogue: Catalogue
) -> None:
    channel_id = max(catalogue.uploads, key=lambda id_: len(catalogue.uploads[id_]))
    first = await house.youtube.feed(channel_id)
    assert len(first.items) == 15
    assert 0 <= first.cached_s < 60 * REALISM.feed_cache_min
    house.clock.advance(timedelta(minutes=REALISM.feed_cache_min) - timedelta(seconds=first.cached_s + 1))
    assert isinstance(await house.youtube.feed(channel_id, first.validators), NotModified)
    house.clock.advance(timedelta(hours=2))
    renewed = await house.youtube.feed(channel_id, first.validators)
    assert isinstance(renewed, Feed)
    as_of = house.clock.now().timestamp() - renewed.cached_s
    for entry in renewed.items:
        n = catalogue.numbers[entry.video_id]
        before, after = (int(catalogue.views_at(np.array([n]), as_of + s)[0]) for s in (-2, 2))
        assert entry.view_count is not None
        assert min(before, after) <= entry.view_count <= max(before, after)


async def test_feeds_refuse_everybody_for_an_hour(house: House, catalogue: Catalogue) -> None:
    channel_id = next(iter(catalogue.uploads))
    house.emulator.set_faults(["429:1:feed"], for_s=3600)
    for _ in range(4):
        with pytest.raises(RateLimited):
            await house.youtube.feed(channel_id)
        house.clock.advance(timedelta(minutes=15))
    assert (await house.youtube.feed(channel_id)).items
    assert [call.status for call in house.emulator.feeds] == [429] * 4 + [200]
    house.emulator.set_faults(["404:1:feed"])
    with pytest.raises(Gone):
        await house.youtube.feed(channel_id)


async def test_uploads_are_all_listed_once_they_are_old_enough(house: House, catalogue: Catalogue) -> None:
    channel_id = max(catalogue.uploads, key=lambda id_: len(catalogue.uploads[id_]))
    listed, token = list[str](), None
    while True:
        page = await house.youtube.playlist_items(uploads_playlist(ChannelId(channel_id)), token)
        listed += [item.video_id for item in page.items]
        if (token := page.next_page_token) is None:
            break
    numbers = catalogue.uploads_of(channel_id, house.clock.now().timestamp())
    old_enough = house.clock.now().timestamp() - 60 * REALISM.uploads_delay_min
    assert set(listed) >= {catalogue.ids[n] for n in numbers if catalogue.published[n] < old_enough}
    assert listed != [catalogue.ids[n] for n in numbers], "they are slightly out of order"
