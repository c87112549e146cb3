"""The client against a server that means harm: every body ends in clean results or a typed error."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import stamina
import trustme
from aiohttp import web

from atlas.errors import RingClosed
from maia.youtube.client import YouTube
from maia.youtube.errors import PARAMETERS, BadRequest, Disposition, Gone, Transient, YouTubeError
from maia.youtube.ids import channel_id, uploads_playlist, video_id
from tests.api_server import FOUND, Ledger, answer, client, hang, refusal, serving
from tests.ids import cid, vid

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
Call = Callable[[YouTube], Awaitable[Any]]
CALLS: dict[str, Call] = {
    "search": lambda youtube: youtube.search(q="x"),
    "videos": lambda youtube: youtube.videos([vid("a"), vid("b")]),
    "stats": lambda youtube: youtube.batch_get_stats([vid("a"), vid("b")]),
    "channels": lambda youtube: youtube.channels([cid("a")]),
    "handle": lambda youtube: youtube.channel_by_handle("@a"),
    "uploads": lambda youtube: youtube.playlist_items(uploads_playlist(cid("a"))),
    "chart": lambda youtube: youtube.most_popular("US"),
    "categories": lambda youtube: youtube.video_categories("US"),
    "feed": lambda youtube: youtube.feed(cid("a")),
}


@pytest.fixture(autouse=True)
def _without_waits() -> Iterator[None]:
    with stamina.set_testing(True, attempts=10, cap=True):
        yield


def item(**changed: Any) -> dict[str, Any]:
    """A good item of every kind at once, but for what is changed."""
    good: dict[str, Any] = {
        "id": vid("a"),
        "etag": "e",
        "snippet": {
            "publishedAt": "2026-11-01T12:00:00Z",
            "channelId": cid("a"),
            "title": "T",
            "description": "D",
            "tags": ["x"],
            "liveBroadcastContent": "none",
        },
        "contentDetails": {"duration": "PT4M", "videoId": vid("a")},
        "statistics": {"viewCount": "7"},
    }
    for section, value in changed.items():
        good[section] = {**good[section], **value} if isinstance(value, dict) and value else value
    return good


def as_hit(of: dict[str, Any]) -> dict[str, Any]:
    return {**of, "id": {"kind": "youtube#video", "videoId": of["id"]}}


WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**18, 10**30, "", "x", "-1", "9" * 400, "\0", "\x1b[2J", "a,b", "é" * 10**5,
    [], [[]], [None], {}, {"id": 7}, {"videoId": {}}, {"kind": []},
)  # fmt: skip
FEED_OPENS = '<feed xmlns="http://www.w3.org/2005/Atom" xmlns:yt="http://www.youtube.com/xml/schemas/2015">'
PLACES = (
    "items", "nextPageToken", "pageInfo", "etag", "error", "items.0", "items.0.id", "items.0.snippet",
    "items.0.snippet.channelId", "items.0.snippet.publishedAt", "items.0.snippet.title",
    "items.0.snippet.tags",
    "items.0.snippet.liveBroadcastContent", "items.0.statistics", "items.0.statistics.viewCount",
    "items.0.contentDetails", "items.0.contentDetails.duration", "items.0.contentDetails.videoId",
    "items.0.liveStreamingDetails", "items.0.etag",
)  # fmt: skip


def planted(place: str, value: Any, *, hit: bool) -> bytes:
    document: dict[str, Any] = {"items": [as_hit(item()) if hit else item()], "nextPageToken": "CAUQAA"}
    *path, last = place.split(".")
    target: Any = document
    for name in path:
        target = target[int(name) if name.isdecimal() else name]
    target[int(last) if last.isdecimal() else last] = value
    return json.dumps(document).encode()


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


HUGE_ERROR = {"error": {"message": "\x1b]0;x\x07" * 10**5, "status": "y" * 10**6}}


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "white space": b" " * 10**6,
    "a bare number": b"7",
    "an endless number": b'{"items": ' + b"9" * 10**6 + b"}",
    "1e999": b'{"items": [], "pageInfo": {"totalResults": 1e999}}',
    "not a number": b'{"items": [NaN, Infinity]}',
    "arrays within arrays": nested(200_000),
    "arrays that decode": b'{"items": ' + nested(1000) + b"}",
    "objects within objects": b'{"items": [' + b'{"id":' * 300 + b"7" + b"}" * 300 + b"]}",
    "UTF-16": json.dumps(FOUND).encode("utf-16"),
    "UTF-8 with a mark": b"\xef\xbb\xbf" + json.dumps(FOUND).encode(),
    "Latin-1": '{"items": [{"id": "\u00e9"}]}'.encode("latin-1"),
    "a lone surrogate": b'{"items": [{"id": "\\ud800"}], "etag": "\\udfff"}',
    "two documents": b"{}{}",
    "a key twice": b'{"items": 1, "items": []}',
    "XML": b'<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><entry/></feed>',
    "XML of an unknown encoding": b'<?xml version="1.0" encoding="rot13"?><feed/>',
    "XML of no encoding at all": b'<?xml version="1.0" encoding="\xff"?><feed/>',
    "XML of bytes as text": b'<?xml version="1.0" encoding="hex"?><feed/>',
    "deep XML": b"<a>" * 100_000 + b"</a>" * 100_000,
    "an entity bomb": b'<!DOCTYPE f [<!ENTITY a "x"><!ENTITY b "&a;&a;&a;&a;">]><feed>&b;</feed>',
    "an error that is a list": b'{"error": [{"code": 400}]}',
    "an error that is deep": b'{"error": {"errors": ' + nested(900) + b"}}",
    "an error of megabytes": json.dumps(HUGE_ERROR).encode(),
}


async def outcome(body: bytes, call: Call, status: int = 200, **headers: str) -> Any:
    """What a call makes of that body, which must be a result or one of the client's own errors."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with serving(answer(body, status=status, headers=sent)) as server:
        ledger = Ledger()
        async with client(server, ledger, attempts=1) as youtube:
            result = await result_or_error(call, youtube)
        assert ledger.reserved.total() == 0, "no unit is left open"
        if isinstance(result, Exception):
            assert str(result).isprintable()
            assert len(str(result)) < 1000
        return result


async def result_or_error(call: Call, youtube: YouTube) -> Any:
    try:
        return await call(youtube)
    except (YouTubeError, RingClosed) as error:
        return error


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_no_body_breaks_a_call(body: bytes, name: str) -> None:
    await outcome(body, CALLS[name])
    await outcome(body, CALLS[name], status=400)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "feed"])
@pytest.mark.parametrize("place", PLACES)
async def test_no_value_in_any_place_breaks_a_call(place: str, name: str) -> None:
    bodies = iter([planted(place, value, hit=name == "search") for value in WRONG])

    async def next_one(_: web.Request) -> web.Response:
        return web.Response(body=next(bodies))

    async with serving(next_one) as server, client(server, Ledger(), attempts=1) as youtube:
        for _ in WRONG:
            result = await result_or_error(CALLS[name], youtube)
            if isinstance(result, Exception):
                assert place == "error" or "items are not a list" in str(result)
            else:
                check_clean(result)


def check_clean(result: Any) -> None:
    """What is handed on can be stored: ids of their form, counts of 64 bits, text without NUL."""
    if result is None:
        return
    for found in getattr(result, "items", result) if not hasattr(result, "custom_url") else [result]:
        for name in found.__slots__:
            value = getattr(found, name)
            if name == "video_id":
                assert video_id(value)
            elif name == "channel_id":
                assert value is None or channel_id(value)
            elif isinstance(value, int):
                assert 0 <= value < 2**63
            elif isinstance(value, str):
                assert "\0" not in value
                assert len(value) <= 20_000


@pytest.mark.parametrize("name", [name for name in CALLS if name != "categories"])
async def test_impossible_ids_are_dropped_with_a_count(name: str, caplog: pytest.LogCaptureFixture) -> None:
    impossible = [
        "a,b",
        "x" * 12,
        "x" * 10,
        "",
        "../../etc/p",
        "aaaaaaaaaa\n",
        "ééééééééééé",
        "a" * 10**6,
        None,
        7,
    ]
    items = [item(id=id_, contentDetails={"videoId": id_}) for id_ in impossible]
    if name == "feed":
        entries = "".join(f"<entry><yt:videoId>{id_}</yt:videoId></entry>" for id_ in ("a,b", "x" * 12, ""))
        body = f"{FEED_OPENS}{entries}</feed>".encode()
    else:
        body = json.dumps({"items": list(map(as_hit, items)) if name == "search" else items}).encode()
    async with serving(answer(body)) as server, client(server, Ledger()) as youtube:
        result = await CALLS[name](youtube)
    assert not getattr(result, "items", result)
    assert youtube.malformed.total() == (3 if name == "feed" else len(impossible))
    assert len(caplog.records) <= 4, "a flood of them does not flood the log"
    assert all(record.getMessage().isprintable() for record in caplog.records)


async def test_ids_that_were_stored_malformed_are_not_asked_for() -> None:
    ledger = Ledger()
    async with serving(answer({"items": [item()]})) as server, client(server, ledger) as youtube:
        (video,) = await youtube.videos(["a,b", vid("a"), "x" * 12])
        assert video.id == vid("a")
        batch = await youtube.batch_get_stats(["a,b", vid("a")])
        assert ([stats.id for stats in batch.items], batch.failed_ids) == ([vid("a")], ("a,b",))
        assert await youtube.channels(["UC", "UCa,b"]) == ()
        grant = await ledger.acquire("general")
        assert await youtube.videos(["a,b"], grants=[grant]) == ()
    assert [seen.query["id"] for seen in server.seen] == [vid("a")] * 2
    assert youtube.malformed == {"requested id": 6}
    assert ledger.entries[-1] == "cancel alpha", "what paid for nothing is given back"
    assert ledger.reserved.total() == 0


async def test_a_playlist_or_feed_of_an_impossible_id_is_gone_without_a_call() -> None:
    ledger = Ledger()
    async with serving(answer(FOUND)) as server, client(server, ledger) as youtube:
        with pytest.raises(Gone, match="cannot be the id of a playlist"):
            await youtube.playlist_items("UU\x1b[2J")
        with pytest.raises(Gone, match="cannot be the id of a channel"):
            await youtube.feed("UC/../x")
    assert not server.seen
    assert not ledger.entries


async def test_a_page_beyond_all_measure_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    hits = [as_hit(item(id=vid(n))) for n in range(5000)]
    async with serving(answer({"items": hits})) as server, client(server, Ledger()) as youtube:
        page = await youtube.search(q="x")
    assert [hit.video_id for hit in page.items] == [vid(n) for n in range(50)]
    assert youtube.malformed == {"search hit": 4950}
    assert "holds 5,000 items" in caplog.text


@pytest.mark.parametrize(
    ("told", "believed"),
    [
        ("2099-01-01T00:00:00Z", False),
        ("2026-11-03T12:00:01Z", False),
        ("2026-11-03T12:00:00Z", True),
        ("2005-04-23T00:00:00Z", True),
        ("1970-01-01T00:00:00Z", False),
        ("9999-12-31T23:59:59-23:59", False),
    ],
)
async def test_a_video_is_published_between_youtubes_first_day_and_tomorrow(
    told: str, believed: bool
) -> None:
    body = {"items": [item(snippet={"publishedAt": told})]}
    async with serving(answer(body)) as server, client(server, Ledger()) as youtube:
        (video,) = await youtube.videos([vid("a")])
    assert (video.published_at is not None) is believed
    assert youtube.malformed == ({} if believed else {"publishedAt": 1})


async def test_text_of_megabytes_is_cut_and_negative_counts_are_none() -> None:
    snippet = {"title": "x" * 10**6, "description": "y" * 10**6, "tags": ["z" * 501, "ok"] * 400}
    statistics = {"viewCount": "-5", "likeCount": str(2**63), "commentCount": -1}
    body = {"items": [item(snippet=snippet, statistics=statistics)]}
    async with serving(answer(body)) as server, client(server, Ledger()) as youtube:
        (video,) = await youtube.videos([vid("a")])
    assert (len(video.title or ""), len(video.description or ""), len(video.tags)) == (500, 20_000, 250)
    assert (video.view_count, video.like_count, video.comment_count) == (None, None, None)
    counted = ("title", "description", "tags", "viewCount", "likeCount", "commentCount")
    assert youtube.malformed == dict.fromkeys(counted, 1)


async def test_a_token_or_etag_that_could_not_be_sent_back_is_none() -> None:
    body = {"items": [], "nextPageToken": "a\r\nx-goog-api-key: b", "etag": "e" * 10**5}
    async with serving(answer(body)) as server, client(server, Ledger()) as youtube:
        page = await youtube.playlist_items(uploads_playlist(cid("a")))
    assert (page.next_page_token, page.etag) == (None, None)
    assert youtube.malformed == {"nextPageToken": 1, "etag": 1}


async def test_a_broadcast_says_when_it_starts_and_has_no_length_before_its_end() -> None:
    live = {"scheduledStartTime": "2026-11-09T20:00:00Z", "actualStartTime": "2099-01-01T00:00:00Z"}
    upcoming = item(
        snippet={"liveBroadcastContent": "upcoming"},
        contentDetails={"duration": "P0D"},
    )
    upcoming["liveStreamingDetails"] = live
    async with serving(answer({"items": [upcoming]})) as server, client(server, Ledger()) as youtube:
        (video,) = await youtube.videos([vid("a")])
    assert "liveStreamingDetails" in server.seen[0].query["part"].split(",")
    assert (video.live_broadcast_content, video.duration_s) == ("upcoming", None)
    assert f"{video.scheduled_start_at:%d %H:%M}" == "09 20:00"
    assert (video.actual_start_at, video.actual_end_at) == (None, None)
    assert youtube.malformed == {"actualStartTime": 1}


@pytest.mark.parametrize("cut", [10, -1])
async def test_gzip_that_ends_too_early_is_transient(cut: int) -> None:
    whole = gzip.compress(json.dumps(FOUND).encode())
    torn = answer(whole[:cut], headers={"Content-Encoding": "gzip"})
    async with serving(torn) as server, client(server, Ledger(), attempts=1) as youtube:
        try:
            page = await youtube.search(q="x")
        except Transient:
            return
    assert page.items, "only the checksum may be missing"


async def test_a_gzip_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(b" " * 2**26)
    async with (
        serving(answer(bomb, headers={"Content-Encoding": "gzip"})) as server,
        client(server, Ledger(), attempts=1) as youtube,
    ):
        with pytest.raises(Transient):
            await youtube.search(q="x")


@pytest.mark.parametrize("retry_after", ["9" * 400, "-1", "Mon, 01 Jan 99999999999999 00:00:00 GMT", "\x80"])
async def test_no_retry_after_breaks_a_call(retry_after: str) -> None:
    error = await outcome(b"{}", CALLS["search"], status=503, Retry_After=retry_after)
    assert isinstance(error, Transient)


@asynccontextmanager
async def listening(talk: Callable[..., Awaitable[None]], **options: Any) -> AsyncIterator[str]:
    listener = await asyncio.start_server(talk, "127.0.0.1", 0, **options)
    async with listener:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def asking(url: str, **settings: Any) -> AsyncIterator[YouTube]:
    async with serving(hang) as server:
        server.url = url
        async with client(server, Ledger(), attempts=1, **settings) as youtube:
            yield youtube


async def test_a_silent_server_is_named_with_the_time_it_had() -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with listening(silence) as host, asking(f"http://{host}", timeout_s=0.5) as youtube:
        with pytest.raises(Transient) as raised:
            await youtube.search(q="x")
    assert f"{host} accepted the request, but did not respond within 0.5 s" in str(raised.value)
    assert "PLEIADES_YOUTUBE__TIMEOUT_S" in str(raised.value)


async def test_a_server_that_dribbles_is_told_from_a_silent_one() -> None:
    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        await reader.read()
        writer.close()

    async with listening(dribble) as host, asking(f"http://{host}", timeout_s=0.5) as youtube:
        with pytest.raises(Transient, match="started to respond, but did not finish within"):
            await youtube.search(q="x")


async def test_a_certificate_that_is_not_trusted_names_what_to_set() -> None:
    async def nobody(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with listening(nobody, ssl=context) as host, asking(f"https://{host}") as youtube:
        with pytest.raises(Transient) as raised:
            await youtube.search(q="x")
    assert f"the certificate of {host} is not trusted" in str(raised.value)
    assert "SSL_CERT_FILE" in str(raised.value)


SEARCHES_ONCE = """
import asyncio, sys
from tests.api_server import Ledger, Server, client

async def main():
    async with client(Server([], url=sys.argv[1]), Ledger(), attempts=1) as youtube:
        print(len((await youtube.search(q="x")).items))

asyncio.run(main())
"""


async def test_a_certificate_of_an_authority_in_ssl_cert_file_is_trusted(tmp_path: Path) -> None:
    authority, found = trustme.CA(), json.dumps(FOUND).encode()

    async def found_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(found), found))
        await writer.drain()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    async with listening(found_page, ssl=context) as host:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SEARCHES_ONCE, f"https://{host}"),
            cwd=REPOSITORY,
            env={**os.environ, "SSL_CERT_FILE": str(tmp_path / "authority.pem")},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
    assert said == b"1\n"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://nowhere.invalid", "nowhere.invalid: its name cannot be resolved"),
        ("http://127.0.0.1:1", "127.0.0.1:1: Connection refused: check"),
    ],
)
async def test_a_host_that_cannot_be_reached_is_named(url: str, words: str) -> None:
    async with asking(url) as youtube:
        with pytest.raises(Transient) as raised:
            await youtube.search(q="x")
    assert f"cannot connect to {words}" in str(raised.value)
    assert "check" in str(raised.value)


async def test_an_http_server_where_tls_is_expected_is_named() -> None:
    async with serving(answer(FOUND)) as server, asking(server.url.replace("http", "https")) as youtube:
        with pytest.raises(Transient, match="over TLS"):
            await youtube.search(q="x")


async def test_a_refusal_names_the_parameter_at_fault() -> None:
    entry = {"reason": "invalidRegionCode", "location": "regionCode", "locationType": "parameter"}
    body = {"error": {"code": 400, "message": "invalid region code", "errors": [entry]}}
    async with serving(answer(body, status=400)) as server, client(server, Ledger()) as youtube:
        with pytest.raises(BadRequest) as raised:
            await youtube.search(q="x", region_code="UK")
    assert raised.value.parameter == "regionCode"
    assert len(server.seen) == 1


async def test_a_403_that_blames_nothing_is_tried_again_and_no_key_is_refused_for_it() -> None:
    forbidden = refusal(403, "accountDelegationForbidden", "cannot act on behalf of the specified account")
    ledger = Ledger()
    async with serving(forbidden, answer(FOUND)) as server, client(server, ledger) as youtube:
        assert (await youtube.search(q="x")).items
    assert not ledger.disabled
    async with serving(forbidden) as server, client(server, Ledger()) as youtube:
        with pytest.raises(Transient) as raised:
            await youtube.search(q="x")
    assert raised.value.verdict.disposition is Disposition.TRANSIENT


@pytest.mark.parametrize(
    ("arguments", "parameter"),
    [
        ({"region_code": "USA"}, "regionCode"),
        ({"relevance_language": "english"}, "relevanceLanguage"),
        ({"channel_id": "@handle"}, "channelId"),
        ({"video_category_id": 0}, "videoCategoryId"),
        ({"video_duration": "tiny"}, "videoDuration"),
        ({"event_type": "none"}, "eventType"),
        ({"order": "views"}, "order"),
        ({"max_results": 51}, "maxResults"),
    ],
)
async def test_a_parameter_that_the_api_would_refuse_costs_nothing(
    arguments: dict[str, Any], parameter: str
) -> None:
    ledger = Ledger()
    grant = await ledger.acquire("search")
    async with serving(answer(FOUND)) as server, client(server, ledger) as youtube:
        with pytest.raises(BadRequest) as raised:
            await youtube.search(q="x", grant=grant, **arguments)
    assert raised.value.parameter == parameter
    assert ledger.entries == ["acquire alpha", "cancel alpha"]
    assert not server.seen


async def test_every_parameter_of_a_search_is_sent_as_the_api_names_it() -> None:
    async with serving(answer(FOUND)) as server, client(server, Ledger()) as youtube:
        await youtube.search(
            q="x",
            order="viewCount",
            region_code="GB",
            relevance_language="zh-Hant",
            video_category_id=10,
            video_duration="long",
            event_type="live",
            channel_id=cid("a"),
        )
        for call in CALLS.values():
            await result_or_error(call, youtube)
    query = server.seen[0].query
    assert (query["videoDuration"], query["eventType"], query["videoCategoryId"]) == ("long", "live", "10")
    assert (query["channelId"], query["relevanceLanguage"]) == (cid("a"), "zh-Hant")
    sent = {name for seen in server.seen if "feeds" not in seen.path for name in seen.query}
    assert sent <= set(PARAMETERS)


async def test_a_channel_is_found_by_handle_or_user_name(caplog: pytest.LogCaptureFixture) -> None:
    async def by_name(request: web.Request) -> web.Response:
        known = request.query.get("forHandle") == "@lakes" or request.query.get("forUsername") == "lakes"
        return web.json_response({"items": [{"id": cid("a")}] if known else []})

    ledger = Ledger()
    async with serving(by_name) as server, client(server, ledger) as youtube:
        for found in (await youtube.channel_by_handle("@lakes"), await youtube.channel_by_username("lakes")):
            assert found is not None
            assert found.id == cid("a")
        assert await youtube.channel_by_handle("@nobody") is None
        for impossible in ("", "@", "a b", "a,b", "x" * 200, "a\n"):
            assert await youtube.channel_by_handle(impossible) is None
    assert len(server.seen) == ledger.used["general"] == 3
    assert not caplog.records
