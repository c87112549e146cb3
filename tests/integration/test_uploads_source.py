"""The source `uploads`: playlists fill gaps, and numbers of videos show uploads where feeds don't."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.uploads import UploadsDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.errors import LeaseLost
from atlas.testing import NOON
from maia.discovery.source import UPLOADS, Finding, Stored
from maia.discovery.uploads import MOST_ATTEMPTS, MOST_PAGES, Uploads
from maia.youtube.errors import Transient
from tests.api_server import Ledger, Server, client, serving
from tests.ids import cid, vid
from tests.integration.test_uploads import plan

pytestmark = pytest.mark.integration

HOUR = timedelta(hours=1)


@dataclass
class Api:
    """An API of playlists of uploads (newest first) and channels' numbers of videos."""

    uploads: dict[str, list[tuple[str, Any]]] = field(default_factory=dict)
    counts: dict[str, int | None] = field(default_factory=dict)
    is_broken: bool = False

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if self.is_broken:
            return web.json_response({"error": {"code": 500}}, status=500)
        if request.path.endswith("/playlistItems"):
            return self._page(request)
        asked = request.query["id"].split(",")
        return web.json_response(
            {"items": [_channel(id_, self.counts[id_]) for id_ in asked if id_ in self.counts]}
        )

    def _page(self, request: web.Request) -> web.Response:
        channel_id = "UC" + request.query["playlistId"][2:]
        if channel_id not in self.uploads:
            reason = {"reason": "playlistNotFound"}
            return web.json_response({"error": {"code": 404, "errors": [reason]}}, status=404)
        begin = int(request.query.get("pageToken", "0"))
        listed = self.uploads[channel_id]
        page = {"items": [_item(*each) for each in listed[begin : begin + 50]]}
        if begin + 50 < len(listed):
            page["nextPageToken"] = str(begin + 50)  # type: ignore[assignment]
        return web.json_response(page)


def _channel(id_: str, count: int | None) -> dict[str, Any]:
    return {"id": id_, "statistics": {} if count is None else {"videoCount": str(count)}}


def _item(id_: str, at: Any) -> dict[str, Any]:
    return {"contentDetails": {"videoId": id_, "videoPublishedAt": at.isoformat()}}


@dataclass
class House:
    """A source of uploads with its API, server and ledger."""

    source: Uploads
    api: Api
    server: Server
    dao: UploadsDAO
    atlas: Atlas

    async def look(self, asks: int = 5) -> list[Finding]:
        """Claim, put and complete; returns the findings."""
        return [await self.finish(ask) for ask in await self.source.claim({UPLOADS: asks})]

    async def finish(self, ask: Any) -> Finding:
        finding = await self.source.put(ask)
        maia = MaiaDAO(self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings)
        async with maia.transaction() as dao:
            await self.source.complete(dao, finding, Stored())
        return finding


@pytest_asyncio.fixture
async def house(atlas: Atlas) -> AsyncIterator[House]:
    api, ledger = Api(), Ledger()
    async with serving(api) as server, client(server, ledger, attempts=1) as youtube:
        dao = UploadsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        yield House(Uploads(atlas, youtube), api, server, dao, atlas)


async def row_of(sql: Any, channel_id: str) -> Any:
    return await sql.fetchrow("SELECT * FROM channel_uploads WHERE channel_id = $1", channel_id)


def listed(count: int, *, newest: Any = NOON) -> list[tuple[str, Any]]:
    return [(vid(f"u{n}"), newest - n * HOUR) for n in range(count)]


async def test_a_gap_is_filled_page_by_page_down_to_its_beginning(house: House, sql: Any) -> None:
    (channel,) = await plan(sql, 1, gap_since=NOON - 69.5 * HOUR)
    house.api.uploads = {channel: listed(200)}
    (finding,) = await house.look()
    assert finding.ids == tuple(vid(f"u{n}") for n in range(70))
    assert finding.units == len(house.server.seen) == 3, "the third page has nothing of the gap any more"
    assert (await row_of(sql, channel))["gap_since"] is None
    assert await house.look() == []


async def test_a_list_slightly_out_of_order_is_read_to_the_end_of_the_page(house: House, sql: Any) -> None:
    (channel,) = await plan(sql, 1, gap_since=NOON - 9.5 * HOUR)
    house.api.uploads = {channel: [*listed(5)[::-1], *listed(40)[20:30], *listed(10)[5:]]}
    (finding,) = await house.look()
    assert set(finding.ids) == {vid(f"u{n}") for n in range(10)}


async def test_a_gap_without_end_costs_a_bounded_number_of_units(house: House, sql: Any) -> None:
    (channel,) = await plan(sql, 1, gap_since=NOON - 10_000 * HOUR)
    house.api.uploads = {channel: listed(1000)}
    (finding,) = await house.look()
    assert (finding.units, len(finding.ids)) == (MOST_PAGES, 50 * MOST_PAGES)


async def test_a_channel_without_a_list_closes_its_gap(house: House, sql: Any) -> None:
    (channel,) = await plan(sql, 1, gap_since=NOON)
    (finding,) = await house.look()
    assert (finding.ids, finding.units) == ((), 1)
    assert (await row_of(sql, channel))["gap_since"] is None


async def test_a_gap_whose_lease_was_lost_is_not_closed(house: House, sql: Any) -> None:
    (channel,) = await plan(sql, 1, gap_since=NOON - 2.5 * HOUR)
    house.api.uploads = {channel: listed(3)}
    (ask,) = await house.source.claim({UPLOADS: 1})
    await sql.execute("UPDATE channel_uploads SET gap_until = now() - interval '1 second'")
    (other,) = await house.source.claim({UPLOADS: 1})
    with pytest.raises(LeaseLost):
        await house.finish(ask)
    assert (await row_of(sql, channel))["gap_since"] is not None
    await house.finish(other)


async def test_a_gap_that_fails_pauses_and_is_given_up_in_the_end(house: House, sql: Any) -> None:
    (channel,) = await plan(sql, 1, gap_since=NOON)
    house.api.is_broken = True
    for _ in range(MOST_ATTEMPTS):
        (ask,) = await house.source.claim({UPLOADS: 1})
        with pytest.raises(Transient) as failed:
            await house.source.put(ask)
        await house.source.release([ask], failed.value, count_attempt=True)
        assert list(await house.source.claim({UPLOADS: 1})) == []
        await sql.execute("UPDATE channel_uploads SET gap_until = NULL")
    assert (await row_of(sql, channel))["gap_since"] is None


async def test_a_count_that_rises_shows_uploads(house: House, sql: Any, clock: FixedClock) -> None:
    ids = await plan(sql, 60, by_feed=False, video_count=7, answered_at=NOON - 10 * HOUR)
    house.api.counts = dict.fromkeys(ids, 7) | {ids[3]: 9}
    findings = await house.look()
    assert [finding.units for finding in findings] == [1, 1]
    assert len(house.server.seen) == 2, "50 channels a unit"
    moved, still = await row_of(sql, ids[3]), await row_of(sql, ids[4])
    assert (moved["video_count"], moved["gap_since"]) == (9, NOON - 10 * HOUR)
    assert (still["video_count"], still["gap_since"]) == (7, None)
    assert moved["rate"] > still["rate"]
    assert still["answered_at"] == clock.now()
    (gap,) = await house.dao.claim_gaps(9, 60)
    assert gap.channel_id == ids[3]


async def test_a_channel_counted_for_the_first_time_is_listed_for_two_days_back(
    house: House, sql: Any
) -> None:
    (channel,) = await plan(sql, 1, by_feed=False)
    house.api.counts = {channel: 12}
    house.api.uploads = {channel: listed(100)}
    await house.look()
    (finding,) = await house.look()
    assert finding.ids == tuple(vid(f"u{n}") for n in range(48))


async def test_a_hidden_count_is_no_news(house: House, sql: Any) -> None:
    (channel,) = await plan(sql, 1, by_feed=False, video_count=7, answered_at=NOON - HOUR)
    house.api.counts = {channel: None}
    await house.look()
    row = await row_of(sql, channel)
    assert (row["video_count"], row["gap_since"], row["status"]) == (7, None, "live")


async def test_a_channel_missing_twice_is_gone(house: House, sql: Any, clock: FixedClock) -> None:
    here, missing = await plan(sql, 2, by_feed=False, video_count=7, answered_at=NOON - HOUR)
    house.api.counts = {here: 7}
    for status in ("live", "gone"):
        await house.look()
        assert (await row_of(sql, missing))["status"] == status
        clock.advance(200 * HOUR)
    assert (await row_of(sql, here))["status"] == "live"


async def test_without_feeds_all_channels_are_counted(house: House, sql: Any) -> None:
    ids = await plan(sql, 3, video_count=7, answered_at=NOON)
    house.api.counts = dict.fromkeys(ids, 7)
    assert list(await house.source.claim({UPLOADS: 5})) == []
    house.source.feeds_are_on = False
    (finding,) = await house.look()
    assert len(finding.ask.looks) == 3  # type: ignore[attr-defined]


async def test_what_was_not_asked_is_given_back(house: House, sql: Any) -> None:
    await plan(sql, 3, by_feed=False)
    await sql.execute("UPDATE channel_uploads SET gap_since = $1 WHERE channel_id = $2", NOON, cid(0))
    asks = await house.source.claim({UPLOADS: 5})
    assert len(asks) == 2
    await house.source.release(asks)
    assert len(await house.source.claim({UPLOADS: 5})) == 2


async def test_nothing_wanted_claims_nothing(house: House, sql: Any) -> None:
    await plan(sql, 3, by_feed=False, gap_since=NOON)
    assert list(await house.source.claim({UPLOADS: 0})) == []
    assert list(await house.source.claim({})) == []
