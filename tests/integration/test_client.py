"""The client against real sockets: a scripted server that answers, refuses and fails."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import stamina
from aiohttp import web
from pydantic import ValidationError

from atlas.config import Bucket, YouTubeSettings
from atlas.errors import RingClosed
from atlas.keyring import Grant
from maia.youtube.errors import (
    BadRequest,
    Disposition,
    Gone,
    KeyRejected,
    QuotaExhausted,
    RateLimited,
    Transient,
    YouTubeError,
)
from maia.youtube.ids import uploads_playlist
from maia.youtube.resources import NotModified, Validators
from tests.api_server import (
    DAY_403,
    DAY_429,
    DEAD_KEY,
    FOUND,
    MINUTE_429,
    NOON,
    RESET,
    Handler,
    Ledger,
    Server,
    answer,
    client,
    cut_short,
    described,
    hang,
    refusal,
    reset,
    serving,
    videos_of,
)
from tests.ids import cid, vid

pytestmark = pytest.mark.integration

UPLOADS = uploads_playlist(cid("x"))


@pytest.fixture(autouse=True)
def _without_waits() -> Iterator[None]:
    with stamina.set_testing(True, attempts=10, cap=True):
        yield


async def test_a_request_carries_its_key_in_a_header_and_asks_only_for_what_is_read() -> None:
    ledger = Ledger()
    async with serving(answer(FOUND)) as server, client(server, ledger) as youtube:
        page = await youtube.search(
            q="lo-fi & more",
            order="date",
            published_after=datetime(2026, 11, 1, 12, 0, 0, 999, tzinfo=UTC),
            region_code="KR",
            page_token="CAUQAA",
        )
        assert [hit.video_id for hit in page.items] == [vid("v1")]
        assert page.next_page_token == "CAUQAA"
    (seen,) = server.seen
    assert seen.path == "/youtube/v3/search"
    assert seen.headers["x-goog-api-key"] == "secret-one"
    assert "secret-one" not in seen.url
    assert "gzip" in seen.headers["user-agent"]
    assert seen.headers["accept-encoding"] == "gzip"
    fields = seen.query.pop("fields")
    assert "nextPageToken" in fields
    assert "thumbnails" not in fields
    assert seen.query == {
        "part": "snippet",
        "type": "video",
        "q": "lo-fi & more",
        "order": "date",
        "publishedAfter": "2026-11-01T12:00:00Z",
        "regionCode": "KR",
        "pageToken": "CAUQAA",
        "maxResults": "50",
    }
    assert ledger.entries == ["acquire alpha", "settle alpha"]
    assert youtube.requests == {"search": 1}


async def test_a_search_for_ids_asks_for_nothing_else() -> None:
    found = {"items": [{"id": {"kind": "youtube#video", "videoId": vid("v1")}}], "nextPageToken": "CAUQAA"}
    async with serving(answer(found)) as server, client(server, Ledger()) as youtube:
        page = await youtube.search(q="cats", ids_only=True)
    (hit,) = page.items
    assert (hit.video_id, hit.title, hit.published_at) == (vid("v1"), None, None)
    assert (page.next_page_token, page.total_results) == ("CAUQAA", None)
    (seen,) = server.seen
    assert seen.query["fields"] == "nextPageToken,items/id(kind,videoId)"
    assert seen.query["part"] == "snippet"


async def test_compressed_answers_are_read() -> None:
    async with serving(videos_of) as server, client(server, Ledger()) as youtube:
        (video,) = await youtube.videos([vid("a")])
    assert (video.id, video.view_count, video.raw["id"]) == (vid("a"), 7, vid("a"))


async def test_ids_go_in_chunks_of_50_and_come_back_in_their_order_each_once() -> None:
    ids = [vid(f"v{n}") for n in range(60)] + [vid("gone1")] + [vid(f"v{n}") for n in range(50, 120)]
    ledger = Ledger()
    async with serving(videos_of) as server, client(server, ledger) as youtube:
        videos = await youtube.videos(ids)
        assert await youtube.videos([]) == ()
    assert [video.id for video in videos] == [vid(f"v{n}") for n in range(120)]
    sizes = [len(seen.query["id"].split(",")) for seen in server.seen]
    assert sorted(sizes) == [21, 50, 50]
    assert "maxResults" not in server.seen[0].query
    assert ledger.used == {"general": 3}


async def test_no_more_requests_are_under_way_than_the_settings_allow() -> None:
    async with serving(videos_of) as server, client(server, Ledger(), concurrency=2) as youtube:
        await youtube.videos(vid(f"v{n}") for n in range(500))
    assert len(server.seen) == 10
    assert server.most_under_way <= 2


@pytest.mark.parametrize(
    "fault",
    [
        refusal(500, "backendError"),
        answer(b"<html>Bad Gateway</html>", status=502),
        answer(b""),
        answer(b'{"items": [{"id"'),
        answer(b"<html>portal</html>"),
        answer([1, 2]),
        answer({"items": "none"}),
        reset,
        cut_short,
        answer(b"not gzip", headers={"Content-Encoding": "gzip"}),
        answer(b"", status=302, headers={"Location": "/elsewhere"}),
    ],
    ids=[
        "500",
        "502",
        "empty",
        "torn",
        "html",
        "list",
        "items",
        "reset",
        "cut-short",
        "bad-gzip",
        "redirect",
    ],
)
async def test_a_transient_failure_is_tried_again_with_a_grant_of_its_own(fault: Handler) -> None:
    ledger = Ledger()
    async with serving(fault, fault, answer(FOUND)) as server, client(server, ledger) as youtube:
        assert (await youtube.search(q="x")).items
    assert ledger.entries == ["acquire alpha", "fail alpha"] * 2 + ["acquire alpha", "settle alpha"]
    assert (ledger.used["search"], ledger.reserved["search"]) == (3, 0)
    assert len(server.seen) == 3

    ledger = Ledger()
    async with serving(fault) as server, client(server, ledger) as youtube:
        with pytest.raises(Transient) as raised:
            await youtube.search(q="x")
    assert raised.value.verdict.disposition is Disposition.TRANSIENT
    assert len(server.seen) == ledger.used["search"] == 3


async def test_a_slow_answer_is_given_up_and_tried_again() -> None:
    ledger = Ledger()
    async with serving(hang, answer(FOUND)) as server, client(server, ledger, timeout_s=1) as youtube:
        assert (await youtube.search(q="x")).items
    assert ledger.entries == ["acquire alpha", "fail alpha", "acquire alpha", "settle alpha"]
    assert "within 1 s" in ledger.reasons[0]


async def test_the_total_time_of_a_call_is_capped() -> None:
    ledger = Ledger()
    async with (
        serving(hang) as server,
        client(server, ledger, timeout_s=100, total_timeout_s=2) as youtube,
    ):
        with pytest.raises(Transient, match="did not respond within"):
            await youtube.search(q="x")
    assert ledger.entries == ["acquire alpha", "fail alpha"]
    assert len(server.seen) == 1


async def test_waiting_for_the_ledger_counts_into_the_total_time() -> None:
    class Stuck(Ledger):
        async def acquire(self, bucket: Bucket, units: int = 1) -> Grant:
            await asyncio.Event().wait()
            raise AssertionError

    async with serving(hang) as server, client(server, Stuck(), total_timeout_s=0.1) as youtube:
        with pytest.raises(Transient, match="the ledger did not answer"):
            await youtube.search(q="x")
    assert not server.seen


async def test_without_any_time_nothing_is_asked_for() -> None:
    ledger = Ledger()
    async with serving(hang) as server, client(server, ledger, total_timeout_s=1e-9) as youtube:
        with pytest.raises(Transient):
            await youtube.search(q="x")
    assert not ledger.entries


async def test_a_grant_that_comes_too_late_to_be_used_is_given_back() -> None:
    class Late(Ledger):
        async def acquire(self, bucket: Bucket, units: int = 1) -> Grant:
            grant = await super().acquire(bucket, units)
            time.sleep(0.3)
            return grant

    ledger = Late()
    async with serving(hang) as server, client(server, ledger, total_timeout_s=0.3) as youtube:
        with pytest.raises(Transient):
            await youtube.search(q="x")
    assert ledger.entries == ["acquire alpha", "cancel alpha"]
    assert not server.seen


async def test_a_kept_connection_that_breaks_sends_nothing_without_a_grant() -> None:
    ledger = Ledger()
    async with serving(answer(FOUND), reset, answer(FOUND)) as server, client(server, ledger) as youtube:
        await youtube.search(q="x")
        await youtube.search(q="y")
    assert len(server.seen) == 3
    assert ledger.used["search"] == 3


async def test_an_answer_beyond_all_measure_is_not_held() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_compression(web.ContentCoding.gzip)
        await response.prepare(request)
        while True:
            await response.write(b" " * 2**20)

    async with serving(endless) as server, client(server, Ledger(), attempts=1) as youtube:
        with pytest.raises(Transient, match="longer than"):
            await youtube.search(q="x")


async def test_without_a_connection_the_units_are_given_back() -> None:
    ledger = Ledger()
    async with serving(answer(FOUND)) as server:
        pass
    async with client(server, ledger) as youtube:
        with pytest.raises(Transient, match="connect"):
            await youtube.search(q="x")
        assert youtube.requests.total() == 0
    assert ledger.entries == ["acquire alpha", "cancel alpha"] * 3
    assert ledger.counted() == 0


async def test_a_closed_ring_makes_no_call() -> None:
    ledger = Ledger()
    ledger.closed["alpha", "search"] = RESET
    async with serving(answer(FOUND)) as server, client(server, ledger) as youtube:
        with pytest.raises(RingClosed) as raised:
            await youtube.search(q="x")
    assert raised.value.reopens_at == RESET
    assert not server.seen


async def test_a_ring_that_closes_between_two_tries_is_told_as_such() -> None:
    ledger = Ledger()

    async def last_one(request: web.Request) -> web.StreamResponse:
        ledger.closed["alpha", "search"] = RESET
        return await refusal(503, "backendError")(request)

    async with serving(last_one) as server, client(server, ledger) as youtube:
        with pytest.raises(RingClosed):
            await youtube.search(q="x")
    assert len(server.seen) == 1


async def test_a_403_by_day_rotates_to_the_next_project() -> None:
    ledger = Ledger(("secret-one", "alpha"), ("secret-two2", "beta"))
    async with serving(DAY_403, answer(FOUND)) as server, client(server, ledger) as youtube:
        assert (await youtube.search(q="x")).items
    assert ledger.entries == ["acquire alpha", "close_day alpha", "acquire beta", "settle beta"]
    assert [seen.headers["x-goog-api-key"] for seen in server.seen] == ["secret-one", "secret-two2"]


async def test_a_403_by_day_on_every_project_is_quota_exhausted() -> None:
    ledger = Ledger(("secret-one", "alpha"), ("secret-two2", "beta"))
    async with serving(DAY_403) as server, client(server, ledger) as youtube:
        with pytest.raises(QuotaExhausted) as raised:
            await youtube.search(q="x")
    assert raised.value.reopens_at == RESET
    assert "nothing is left" in raised.value.closed
    assert isinstance(raised.value.__cause__, RingClosed)
    assert len(server.seen) == 2


async def test_a_403_by_minute_cools_the_project_down() -> None:
    limited = refusal(403, "userRateLimitExceeded", Retry_After="30")
    ledger = Ledger(("secret-one", "alpha"), ("secret-two2", "beta"))
    async with serving(limited, answer(FOUND)) as server, client(server, ledger) as youtube:
        assert (await youtube.search(q="x")).items
    assert ledger.entries == ["acquire alpha", "cool_down 30.0 alpha", "acquire beta", "settle beta"]

    ledger = Ledger()
    async with serving(limited) as server, client(server, ledger) as youtube:
        with pytest.raises(RingClosed) as raised:
            await youtube.search(q="x")
    assert raised.value.reopens_at == NOON + timedelta(seconds=30)


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        (DEAD_KEY, "does not know this key"),
        (refusal(400, "keyInvalid"), "does not know this key"),
        (refusal(403, "accessNotConfigured"), "not enabled the YouTube Data API"),
        (refusal(403, "forbidden", info="API_KEY_HTTP_REFERRER_BLOCKED"), "restricted to web sites"),
        (refusal(401, "authError"), "refuses this key"),
    ],
)
async def test_a_refused_key_is_disabled_and_the_next_one_asked(refused: Handler, words: str) -> None:
    ledger = Ledger(("secret-one", "alpha"), ("secret-two2", "alpha"))
    async with serving(refused, answer(FOUND)) as server, client(server, ledger) as youtube:
        assert (await youtube.search(q="x")).items
    assert ledger.disabled == {"secret-one"}
    assert words in ledger.reasons[0]

    ledger = Ledger(("secret-one", "alpha"), ("secret-two2", "alpha"))
    async with serving(refused) as server, client(server, ledger) as youtube:
        with pytest.raises(KeyRejected, match="no key is left"):
            await youtube.search(q="x")
    assert len(server.seen) == 2


async def test_a_dead_key_beside_a_closed_project_leaves_the_ring_closed_not_rejected() -> None:
    ledger = Ledger(("secret-one", "alpha"), ("secret-two2", "beta"))
    ledger.closed["beta", "search"] = RESET
    async with serving(DEAD_KEY) as server, client(server, ledger) as youtube:
        with pytest.raises(RingClosed):
            await youtube.search(q="x")
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("refused", "entry", "until"),
    [
        (DAY_429, "close_day alpha", RESET),
        (MINUTE_429, "cool_down 7.0 alpha", NOON + timedelta(seconds=7)),
        (answer(b"<html>", status=429), "cool_down None alpha", NOON + timedelta(seconds=60)),
    ],
)
async def test_any_429_is_in_the_ledger_before_it_is_raised(
    refused: Handler, entry: str, until: datetime
) -> None:
    ledger = Ledger(("secret-one", "alpha"), ("secret-two2", "beta"))
    async with serving(refused) as server, client(server, ledger) as youtube:
        with pytest.raises(RateLimited) as raised:
            await youtube.search(q="x")
    assert ledger.entries == ["acquire alpha", entry]
    assert raised.value.until == until
    assert len(server.seen) == 1, "neither tried again nor with another key"


@pytest.mark.parametrize("refused", [DAY_429, MINUTE_429])
async def test_a_429_is_raised_even_if_the_ledger_fails(
    refused: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger()
    ledger.broken = {"close_day", "cool_down"}
    async with serving(refused) as server, client(server, ledger) as youtube:
        with pytest.raises(RateLimited) as raised:
            await youtube.search(q="x")
    assert raised.value.until is None
    assert "could not record" in caplog.text
    assert ledger.counted() == 1


async def test_a_429_is_recorded_and_raised_even_if_cancelled_meanwhile() -> None:
    ledger = Ledger()
    ledger.slow["close_day"] = asyncio.Event()
    async with serving(DAY_429) as server, client(server, ledger) as youtube:
        task = asyncio.create_task(youtube.search(q="x"))
        await ledger.recording.wait()
        task.cancel()
        await asyncio.sleep(0)
        ledger.slow["close_day"].set()
        with pytest.raises(RateLimited):
            await task
    assert ledger.entries == ["acquire alpha", "close_day alpha"]


async def test_a_403_is_recorded_even_if_cancelled_meanwhile() -> None:
    ledger = Ledger()
    ledger.slow["close_day"] = asyncio.Event()
    async with serving(DAY_403) as server, client(server, ledger) as youtube:
        task = asyncio.create_task(youtube.search(q="x"))
        await ledger.recording.wait()
        task.cancel()
        await asyncio.sleep(0)
        ledger.slow["close_day"].set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ledger.entries == ["acquire alpha", "close_day alpha"]


async def test_a_429_ends_the_other_calls_of_its_batch() -> None:
    async def first_chunk_is_limited(request: web.Request) -> web.StreamResponse:
        return await (DAY_429 if vid("v0") in request.query["id"] else hang)(request)

    ledger = Ledger()
    async with serving(first_chunk_is_limited) as server, client(server, ledger) as youtube:
        with pytest.raises(RateLimited):
            await youtube.videos(vid(f"v{n}") for n in range(500))
    assert ledger.counted() >= len(server.seen)


@pytest.mark.parametrize(
    ("refused", "error", "reason"),
    [
        (refusal(400, "invalidPageToken"), BadRequest, "invalidPageToken"),
        (refusal(400, "invalidParameter"), BadRequest, "invalidParameter"),
        (refusal(404, "playlistNotFound"), Gone, "playlistNotFound"),
        (refusal(403, "commentsDisabled"), Gone, "commentsDisabled"),
        (answer(b"<html>", status=404), BadRequest, ""),
    ],
)
async def test_a_wrong_request_is_settled_and_raised_at_once(
    refused: Handler, error: type[YouTubeError], reason: str
) -> None:
    ledger = Ledger(("secret-one", "alpha"), ("secret-two2", "beta"))
    async with serving(refused) as server, client(server, ledger) as youtube:
        with pytest.raises(error) as raised:
            await youtube.playlist_items(UPLOADS, "CAUQAA")
    assert raised.value.reason == reason
    assert ledger.entries == ["acquire alpha", "settle alpha"]
    assert len(server.seen) == 1


async def test_a_call_cancelled_on_its_way_stays_counted() -> None:
    ledger = Ledger()
    async with serving(hang) as server, client(server, ledger) as youtube:
        task = asyncio.create_task(youtube.search(q="x"))
        await server.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ledger.entries == ["acquire alpha"]
    assert ledger.reserved["search"] == 1


async def test_an_answer_in_hand_outlives_a_ledger_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger()
    ledger.broken = {"settle"}
    async with serving(answer(FOUND)) as server, client(server, ledger) as youtube:
        assert (await youtube.search(q="x")).items
    assert ledger.reserved["search"] == 1
    # An outage is no fault of ours, so that it needs no traceback.
    assert "stays counted: PostgreSQL is restarting" in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_key_whose_refusal_could_not_be_recorded_is_not_asked_again() -> None:
    ledger = Ledger()
    ledger.broken = {"close_day"}
    async with serving(DAY_403) as server, client(server, ledger) as youtube:
        with pytest.raises(QuotaExhausted):
            await youtube.search(q="x")
    assert len(server.seen) == 1
    assert ledger.entries == ["acquire alpha", "acquire alpha", "cancel alpha"]


async def stats_of(request: web.Request) -> web.Response:
    items = [
        {"id": id_, "statistics": {"viewCount": "9"}}
        for id_ in request.query["id"].split(",")
        if not id_.startswith("gone")
    ]
    summary = {"failedVideoIds": [i for i in request.query["id"].split(",") if i.startswith("gone")]}
    return web.json_response({"items": items, "summary": summary})


async def test_stats_come_in_batches_with_the_ids_that_failed() -> None:
    ledger = Ledger()
    async with serving(stats_of) as server, client(server, ledger) as youtube:
        batch = await youtube.batch_get_stats(
            [*[vid(f"v{n}") for n in range(60)], vid("gone1"), vid("v3"), vid("gone2")]
        )
    assert [stats.id for stats in batch.items] == [vid(f"v{n}") for n in range(60)]
    assert batch.failed_ids == (vid("gone1"), vid("gone2"))
    assert {seen.path for seen in server.seen} == {"/youtube/v3/videos:batchGetStats"}
    assert ledger.used == {"stats": 2}


@pytest.mark.parametrize("unknown", [answer(b"Not Found", status=404), answer(b"", status=501)])
async def test_where_batch_stats_are_unknown_videos_list_serves(unknown: Handler) -> None:
    ledger = Ledger()
    async with serving(unknown, stats_of) as server, client(server, ledger) as youtube:
        assert (await youtube.batch_get_stats([vid("a"), vid("gone")])).failed_ids == (vid("gone"),)
        assert (await youtube.batch_get_stats([vid("b")])).items[0].view_count == 9
    assert [seen.path.rpartition("/")[2] for seen in server.seen] == [
        "videos:batchGetStats",
        "videos",
        "videos",
    ]
    assert ledger.used == {"stats": 1, "general": 2}
    assert not any(entry.startswith("fail") for entry in ledger.entries)


@pytest.mark.parametrize("refused", [refusal(500, "backendError"), refusal(400, "invalidParameter")])
async def test_no_other_failure_of_batch_stats_falls_back(refused: Handler) -> None:
    async with serving(refused) as server, client(server, Ledger()) as youtube:
        with pytest.raises(YouTubeError):
            await youtube.batch_get_stats([vid("a")])
    assert {seen.path for seen in server.seen} == {"/youtube/v3/videos:batchGetStats"}


async def test_an_etag_that_still_holds_costs_its_unit_and_brings_no_body() -> None:
    async def by_etag(request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == "e1":
            return web.Response(status=304)
        return web.json_response({"etag": "e1", "items": [{"contentDetails": {"videoId": vid("v")}}]})

    ledger = Ledger()
    async with serving(by_etag) as server, client(server, ledger) as youtube:
        page = await youtube.playlist_items(UPLOADS)
        assert [item.video_id for item in page.items] == [vid("v")]
        assert await youtube.playlist_items(UPLOADS, etag=page.etag) == NotModified("e1")
        assert await youtube.playlist_items(UPLOADS, etag="e0") == page
    assert ledger.used == {"general": 3}


async def test_channels_charts_and_categories() -> None:
    answers = {
        "channels": {"items": [{"id": cid(2)}, {"id": cid(1), "statistics": {"videoCount": "5"}}]},
        "videos": {"items": [described(vid("v"))], "nextPageToken": "n", "pageInfo": {"totalResults": 200}},
        "videoCategories": {"items": [{"id": "10", "snippet": {"title": "Music", "assignable": True}}]},
    }

    async def by_path(request: web.Request) -> web.Response:
        return web.json_response(answers[request.path.rpartition("/")[2]])

    async with serving(by_path) as server, client(server, Ledger()) as youtube:
        channels = await youtube.channels([cid(1), cid(2), cid(3), cid(1)])
        chart = await youtube.most_popular("KR", 10)
        (category,) = await youtube.video_categories("KR")
    assert [(channel.id, channel.video_count) for channel in channels] == [(cid(1), 5), (cid(2), None)]
    assert (chart.items[0].id, chart.next_page_token, chart.total_results) == (vid("v"), "n", 200)
    assert server.seen[1].query["chart"] == "mostPopular"
    assert server.seen[1].query["videoCategoryId"] == "10"
    assert (category.id, category.title) == (10, "Music")


FEED = b"""<feed xmlns="http://www.w3.org/2005/Atom" xmlns:yt="http://www.youtube.com/xml/schemas/2015">
<entry><yt:videoId>v1---------</yt:videoId></entry></feed>"""


async def test_a_feed_costs_nothing_and_gets_no_key() -> None:
    ledger = Ledger()
    async with (
        serving(reset, answer(b"<feed", status=200), answer(FEED)) as server,
        client(server, ledger) as youtube,
    ):
        (entry,) = (await youtube.feed(cid("x"))).items
    assert entry.video_id == vid("v1")
    assert server.seen[-1].url.endswith(f"/feeds/videos.xml?channel_id={cid('x')}")
    assert not any("x-goog-api-key" in seen.headers for seen in server.seen)
    assert not ledger.entries
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("status", "error", "tries"),
    [(404, Gone, 1), (429, RateLimited, 1), (503, Transient, 3), (400, BadRequest, 1)],
)
async def test_a_feed_is_refused_by_its_status(status: int, error: type[YouTubeError], tries: int) -> None:
    async with serving(answer(b"<html>", status=status)) as server, client(server, Ledger()) as youtube:
        with pytest.raises(error):
            await youtube.feed(cid("x"))
    assert len(server.seen) == tries


async def test_an_unchanged_feed_is_not_sent_again() -> None:
    versions = {"ETag": 'W/"abc"', "Last-Modified": "Mon, 02 Nov 2026 11:00:00 GMT", "Age": "240"}
    async with (
        serving(answer(FEED, headers=versions), answer(b"", status=304)) as server,
        client(server, Ledger()) as youtube,
    ):
        first = await youtube.feed(cid("x"))
        again = await youtube.feed(cid("x"), first.validators)
    assert first.validators == Validators('W/"abc"', "Mon, 02 Nov 2026 11:00:00 GMT")
    assert first.cached_s == 240
    assert again == NotModified('W/"abc"')
    assert "if-none-match" not in server.seen[0].headers
    assert server.seen[1].headers["if-none-match"] == 'W/"abc"'
    assert server.seen[1].headers["if-modified-since"] == "Mon, 02 Nov 2026 11:00:00 GMT"


@pytest.mark.parametrize("headers", [{}, {"ETag": "x" * 201}, {"Age": "soon"}, {"Age": "-1"}, {"Age": "2x"}])
async def test_a_feed_without_usable_headers_is_asked_for_whole(headers: dict[str, str]) -> None:
    async with serving(answer(FEED, headers=headers)) as server, client(server, Ledger()) as youtube:
        feed = await youtube.feed(cid("x"))
        await youtube.feed(cid("x"), feed.validators)
    assert (feed.validators, feed.cached_s) == (Validators(), 0.0)
    assert not {"if-none-match", "If-Modified-Since"} & set(server.seen[1].headers)


async def test_who_polls_many_feeds_does_not_insist_on_one() -> None:
    async with serving(answer(b"", status=503)) as server, client(server, Ledger()) as youtube:
        with pytest.raises(Transient):
            await youtube.feed(cid("x"), attempts=1)
    assert len(server.seen) == 1


async def test_a_redirect_is_not_followed_with_the_key() -> None:
    async with serving(answer(FOUND)) as thief:
        away = answer(b"", status=307, headers={"Location": f"{thief.url}/youtube/v3/search"})
        async with serving(away) as server, client(server, Ledger()) as youtube:
            with pytest.raises(Transient, match="redirect"):
                await youtube.search(q="x")
    assert not thief.seen


async def test_a_proxy_is_not_asked_for_what_runs_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(answer(FOUND)) as proxy, serving(answer(FOUND)) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with client(server, Ledger()) as youtube:
            assert (await youtube.search(q="x")).items
    assert not proxy.seen


@pytest.mark.parametrize(
    "fault",
    [
        DAY_403,
        DAY_429,
        MINUTE_429,
        DEAD_KEY,
        refusal(400, "invalidParameter", "The key secret-one may not ask for 'views'"),
        refusal(403, "forbidden", "Consumer 'api_key:secret-one' has been suspended."),
        refusal(500, "backendError", "secret-one"),
        answer(b"secret-one, but torn"),
        answer(b"secret-one", headers={"Content-Encoding": "gzip"}),
        answer({"items": "secret-one"}),
        reset,
        cut_short,
    ],
)
async def test_no_key_is_ever_told(fault: Handler, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ledger = Ledger()
    async with serving(fault) as server, client(server, ledger) as youtube:
        with pytest.raises((YouTubeError, RingClosed)) as raised:
            await youtube.search(q="x")
        told = [repr(youtube)]
    error: BaseException | None = raised.value
    told += ["".join(traceback.format_exception(raised.value)), caplog.text, *ledger.reasons]
    while error is not None:
        told += [repr(error), str(error), repr(vars(error))]
        error = error.__cause__ or error.__context__
    told += [seen.url for seen in server.seen]
    told += [repr(vars(record)) for record in caplog.records]
    assert not [text for text in told if "secret-one" in text]


async def test_a_broken_status_line_does_not_tell_the_key_either(caplog: pytest.LogCaptureFixture) -> None:
    async def gibberish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"GIBBERISH\r\n\r\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(gibberish, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        server = Server([], url=f"http://127.0.0.1:{port}")
        async with client(server, Ledger()) as youtube:
            with pytest.raises(Transient) as raised:
                await youtube.search(q="x")
    error: BaseException | None = raised.value
    while error is not None:
        assert "secret-one" not in repr(error)
        error = error.__cause__ or error.__context__
    assert "secret-one" not in caplog.text


@pytest.mark.parametrize("url", ["localhost:8780", "ftp://example.com", "", "http://", "http://[::"])
def test_a_base_url_that_is_none_never_reaches_the_client(url: str) -> None:
    with pytest.raises(ValidationError, match=r"base_url\n.*must be a URL such as"):
        YouTubeSettings(base_url=url)


async def test_wrong_arguments_cost_nothing() -> None:
    ledger = Ledger()
    async with serving(answer(FOUND)) as server, client(server, ledger) as youtube:
        with pytest.raises(BadRequest, match="1 to 50"):
            await youtube.search(q="x", max_results=51)
        with pytest.raises(ValueError, match="time zone"):
            await youtube.search(q="x", published_after=datetime(2026, 1, 1))  # noqa: DTZ001
    assert not ledger.entries
    assert not server.seen
