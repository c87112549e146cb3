"""The API's JSON and feeds become typed results, whatever one bad item holds."""

from __future__ import annotations

import dataclasses
import gzip
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.youtube.feed import parse_feed
from maia.youtube.ids import ChannelId, VideoId, channel_id, video_id
from maia.youtube.reading import (
    MalformedResponse,
    Reader,
    instant_of,
    parse_categories,
    parse_channels,
    parse_playlist_page,
    parse_search_page,
    parse_stats,
    parse_video_page,
    parse_videos,
    seconds_of,
)
from maia.youtube.resources import Channel, FeedEntry, Video, VideoCategory, VideoStats
from tests.ids import cid, vid

T = TypeVar("T")
Parse = Callable[[Any, Reader], Any]

SHARED = Path(os.environ.get("PLEIADES_SHARED", Path(__file__).parents[3] / "shared"))
API = SHARED / "data" / "api"


NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def read(parse: Callable[[Any, Reader], T], answer: Any, malformed: Counter[str] | None = None) -> T:
    return parse(answer, Reader(NOW, malformed))


def video(id_: str = "D-lhorsDlUQ", **changed: Any) -> dict[str, Any]:
    """A video in the API's form; its facts are of a recording of python-youtube (MIT)."""
    item: dict[str, Any] = {
        "kind": "youtube#video",
        "etag": '"dbCtFPFQrd6OMTnWAYrcpZDPai0"',
        "id": id_,
        "snippet": {
            "publishedAt": "2019-03-21T20:37:49.000Z",
            "channelId": "UC_x5XG1OV2P6uZZ5FSM9Ttw",
            "title": "What are Actions on Google (Assistant on Air)",
            "description": "The concept",
            "channelTitle": "Google Developers",
            "tags": ["Google", "aog"],
            "categoryId": "28",
            "liveBroadcastContent": "none",
            "defaultLanguage": "en",
        },
        "contentDetails": {"duration": "PT21M7S", "dimension": "2d"},
        "statistics": {"viewCount": "8087", "likeCount": "190", "commentCount": "31", "favoriteCount": "0"},
    }
    for section, fields in changed.items():
        item[section] = {**item.get(section, {}), **fields} if isinstance(fields, dict) else fields
    return item


def test_a_video_is_read_whole() -> None:
    item = video()
    (parsed,) = read(parse_videos, {"items": [item]})
    assert parsed == Video(
        id=VideoId("D-lhorsDlUQ"),
        channel_id=ChannelId("UC_x5XG1OV2P6uZZ5FSM9Ttw"),
        channel_title="Google Developers",
        title="What are Actions on Google (Assistant on Air)",
        description="The concept",
        published_at=datetime(2019, 3, 21, 20, 37, 49, tzinfo=UTC),
        category_id=28,
        tags=("Google", "aog"),
        duration_s=1267,
        live_broadcast_content="none",
        default_language="en",
        default_audio_language=None,
        view_count=8087,
        like_count=190,
        comment_count=31,
        etag='"dbCtFPFQrd6OMTnWAYrcpZDPai0"',
        raw={},
    )
    assert parsed.raw is item
    assert "raw" not in repr(parsed)
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.title = "another"  # type: ignore[misc]


def test_what_is_missing_is_none(caplog: pytest.LogCaptureFixture) -> None:
    (parsed,) = read(parse_videos, {"items": [{"id": vid("v"), "snippet": {"channelId": cid("x")}}]})
    assert parsed.tags == ()
    values = dataclasses.asdict(parsed)
    present = {"id", "channel_id", "tags", "raw"}
    assert {name for name, value in values.items() if value is not None} == present
    assert not caplog.records


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("statistics", "viewCount", "many"),
        ("statistics", "viewCount", "-1"),
        ("statistics", "viewCount", "٣"),
        ("statistics", "viewCount", "9" * 19),
        ("statistics", "viewCount", 1.5),
        ("statistics", "likeCount", True),
        ("snippet", "publishedAt", "yesterday"),
        ("snippet", "publishedAt", 1553200669),
        ("snippet", "categoryId", "music"),
        ("snippet", "categoryId", "3000000000"),
        ("snippet", "title", {"text": "x"}),
        ("snippet", "tags", "Google"),
        ("snippet", "tags", ["Google", 7]),
        ("contentDetails", "duration", "21:07"),
    ],
)
def test_a_malformed_field_is_missing_and_named(
    section: str, name: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    answer = {"items": [video(vid("bad"), **{section: {name: value}}), video(vid("good"))]}
    malformed: Counter[str] = Counter()
    bad, good = read(parse_videos, answer, malformed)
    assert malformed == {name: 1}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "bad" in record.getMessage()
    assert name in record.getMessage()
    assert dataclasses.replace(bad, id=vid("good")) != good
    assert good == read(parse_videos, {"items": [video(vid("good"))]})[0]


@pytest.mark.parametrize(
    "item",
    [
        None,
        7,
        "v",
        [],
        {},
        {"id": ""},
        {"id": 7},
        {"id": {"videoId": "v"}},
        {"id": vid("v"), "snippet": {}},
        {"id": vid("v"), "snippet": {"channelId": "UC"}},
        video("a,b-2345678"),
        video("a\u0661-2345678"),
        video("v" * 12),
    ],
)
def test_an_item_without_identity_does_not_cost_its_page(
    item: object, caplog: pytest.LogCaptureFixture
) -> None:
    malformed: Counter[str] = Counter()
    parsed = read(parse_videos, {"items": [video(vid("a")), item, video(vid("b"))]}, malformed)
    assert [v.id for v in parsed] == [vid("a"), vid("b")]
    assert "video 1 in the response" in caplog.text
    assert malformed == {"video": 1}


@pytest.mark.parametrize("items", [{}, "abc", 7, {"id": "v"}])
@pytest.mark.parametrize("parse", [parse_videos, parse_search_page, parse_channels, parse_playlist_page])
def test_an_answer_that_is_no_list_is_refused(parse: Parse, items: object) -> None:
    with pytest.raises(MalformedResponse, match="not a list"):
        read(parse, {"items": items})


def test_an_answer_without_items_is_an_empty_page() -> None:
    assert read(parse_videos, {}) == ()
    page = read(parse_search_page, {"etag": "e", "pageInfo": {"totalResults": 3}})
    assert (page.items, page.next_page_token, page.total_results, page.etag) == ((), None, 3, "e")


def test_text_holds_no_nul_that_the_database_would_refuse() -> None:
    answer = {"items": [video(snippet={"title": "a\0b", "tags": ["x\0", "y"]})]}
    (parsed,) = read(parse_videos, answer)
    assert (parsed.title, parsed.tags) == ("ab", ("x", "y"))


def test_hidden_counts_are_none_not_zero() -> None:
    items = [{"id": vid("v1"), "statistics": {"viewCount": "1"}}, {"id": vid("v2")}]
    assert read(parse_stats, {"items": items}) == (
        VideoStats(vid("v1"), 1, None, None),
        VideoStats(vid("v2"), *[None] * 3),
    )


def test_search_text_is_unescaped_and_only_videos_are_hits() -> None:
    snippet = {"title": "Tom &amp; Jerry&#39;s", "channelTitle": "A &quot;B&quot;", "channelId": cid("x")}
    items = [
        {"id": {"kind": "youtube#video", "videoId": vid("v")}, "snippet": snippet},
        {"id": {"kind": "youtube#channel", "channelId": cid("x")}, "snippet": snippet},
        {"id": {"videoId": vid("w")}},
        {"id": {"kind": "youtube#video"}},
    ]
    page = read(parse_search_page, {"items": items, "nextPageToken": "CAUQAA"})
    assert [hit.video_id for hit in page.items] == [vid("v"), vid("w")]
    assert (page.items[0].title, page.items[0].channel_title) == ("Tom & Jerry's", 'A "B"')
    assert page.items[1].channel_id is None
    assert page.next_page_token == "CAUQAA"


def test_a_channel_and_its_uploads() -> None:
    statistics = {"viewCount": "9", "subscriberCount": "123000", "videoCount": "4"}
    items = [
        {"id": cid("_x5"), "snippet": {"title": "T", "country": "US"}, "statistics": statistics},
        {"id": cid("odd"), "statistics": {**statistics, "hiddenSubscriberCount": True}},
    ]
    shown, hidden = read(parse_channels, {"items": items})
    uploads = "UU" + cid("_x5")[2:]
    assert (shown.uploads_playlist_id, shown.subscriber_count, shown.video_count) == (uploads, 123000, 4)
    assert (hidden.subscriber_count, hidden.subscribers_hidden) == (None, True)
    assert isinstance(shown, Channel)


def test_a_playlist_item_is_known_by_either_part() -> None:
    snippet = {
        "publishedAt": "2019-05-11T00:27:38.000Z",
        "channelId": cid(1),
        "position": 0,
        "resourceId": {"kind": "youtube#video", "videoId": "H1HZyvc0QnI"},
    }
    details = {"videoId": "H1HZyvc0QnI", "videoPublishedAt": "2019-05-10T00:00:00Z"}
    page = read(
        parse_playlist_page,
        {"items": [{"snippet": snippet}, {"contentDetails": details}, {"snippet": {"position": 2}}]},
    )
    first, second = page.items
    assert first.video_id == second.video_id == "H1HZyvc0QnI"
    assert (first.position, first.channel_id) == (0, cid(1))
    assert second.video_published_at == datetime(2019, 5, 10, tzinfo=UTC)


def test_categories_have_numbers() -> None:
    items = [{"id": "17", "snippet": {"title": "Sports", "assignable": True}}, {"id": "x"}]
    assert read(parse_categories, {"items": items}) == (VideoCategory(17, "Sports", True),)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("PT4M13S", 253),
        ("PT1H", 3600),
        ("P1DT2H3M4S", 93784),
        ("P0D", 0),
        ("PT0S", 0),
        ("P1W", 604800),
        ("PT1.5S", 1),
        ("PT90M", 5400),
        ("", None),
        ("P", None),
        ("PT", None),
        ("P1DT", None),
        ("4M13S", None),
        ("PT-4S", None),
        ("PT٤S", None),
        ("P99999999999D", None),
    ],
)
def test_durations(text: str, seconds: int | None) -> None:
    assert seconds_of(text) == seconds


@given(st.integers(0, 99), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_durations_add_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert seconds_of(f"P{days}DT{hours}H{minutes}M{seconds}S") == total


@given(st.integers(0, 4_000_000_000_000))
def test_instants_are_read_with_and_without_milliseconds(since_epoch_ms: int) -> None:
    milliseconds = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=since_epoch_ms)
    assert instant_of(f"{milliseconds:%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z") == milliseconds
    seconds = milliseconds.replace(microsecond=0)
    read = instant_of(f"{seconds:%Y-%m-%dT%H:%M:%SZ}")
    assert read == seconds
    assert read is not None
    assert read.tzinfo is UTC


def test_instants_with_an_offset_become_utc_and_impossible_ones_none() -> None:
    assert instant_of("2019-03-21T22:37:49+02:00") == datetime(2019, 3, 21, 20, 37, 49, tzinfo=UTC)
    assert instant_of("0001-01-01T00:00:00+23:59") is None
    assert instant_of("2019-02-30T00:00:00Z") is None


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
SECTIONS = ("id", "snippet", "statistics", "contentDetails", "etag", "resourceId", "videoId", "channelId")


@given(
    st.lists(ANY_JSON | st.dictionaries(st.sampled_from(SECTIONS), ANY_JSON, max_size=6), max_size=4),
    st.sampled_from([parse_videos, parse_stats, parse_search_page, parse_channels, parse_playlist_page]),
)
def test_no_item_of_any_form_breaks_its_page(items: list[Any], parse: Parse) -> None:
    good = video(vid("good"))
    good["id"] = {
        parse_search_page: {"videoId": vid("good")},
        parse_channels: cid("good"),
    }.get(parse, vid("good"))
    good["contentDetails"]["videoId"] = vid("good")
    page = read(parse, {"items": [*items, good]})
    last = (page if isinstance(page, tuple) else page.items)[-1]
    assert {vid("good"), cid("good")} & {getattr(last, name, None) for name in ("id", "video_id")}


FIELDS = (
    ("id",), ("etag",), ("snippet",), ("snippet", "publishedAt"), ("snippet", "channelId"),
    ("snippet", "title"), ("snippet", "tags"), ("snippet", "categoryId"), ("snippet", "liveBroadcastContent"),
    ("snippet", "defaultLanguage"), ("contentDetails", "duration"), ("statistics", "viewCount"),
    ("liveStreamingDetails",), ("liveStreamingDetails", "scheduledStartTime"),
    ("liveStreamingDetails", "actualEndTime"),
)  # fmt: skip
DATES = st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat)
TEXTS = st.text() | DATES | st.from_regex(r"-?[0-9]{1,30}") | st.sampled_from(["P0D", "live", "upcoming"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6))
def test_what_is_read_of_any_video_can_be_stored(changed: Mapping[tuple[str, ...], Any]) -> None:
    item = video(liveStreamingDetails={"scheduledStartTime": "2026-11-22T00:00:00Z"})
    for (*sections, last), value in sorted(changed.items(), reverse=True):
        target = item
        for section in sections:
            target = target[section]
        target[last] = value
    malformed: Counter[str] = Counter()
    found = read(parse_videos, {"items": [item]}, malformed)
    assert len(found) == 1 or malformed["video"] == 1
    for parsed in found:
        assert video_id(parsed.id)
        assert channel_id(parsed.channel_id)
        for instant in (parsed.published_at, parsed.actual_start_at, parsed.actual_end_at):
            assert instant is None or datetime(2005, 2, 14, tzinfo=UTC) <= instant <= NOW + timedelta(days=1)
        for count in (parsed.view_count, parsed.category_id, parsed.duration_s):
            assert count is None or 0 <= count < 2**63
        texts = [parsed.title, parsed.default_language, parsed.live_broadcast_content, *parsed.tags]
        assert not any("\0" in text or len(text) > 500 for text in texts if text is not None)


@given(st.binary() | st.text().map(lambda text: FEED.replace("Tom", text).encode(errors="replace")))
def test_any_bytes_are_a_feed_or_refused(document: bytes) -> None:
    try:
        entries = read(parse_feed, document)
    except MalformedResponse:
        return
    assert all(video_id(entry.video_id) for entry in entries)


@pytest.mark.parametrize("encoding", ["rot13", "hex", "idna", "undefined", "utf-7", "unknown-8bit", "cp037"])
def test_a_feed_of_an_odd_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(MalformedResponse):
        read(parse_feed, FEED.replace("UTF-8", encoding).encode())


def test_a_flood_of_malformed_values_is_counted_but_not_logged_one_by_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    items = [video(vid(n), statistics={"viewCount": "-1"}) for n in range(50)]
    reader = Reader(NOW)
    assert len(parse_videos({"items": items}, reader)) == 50
    reader.log_rest("videos.list")
    assert reader.malformed == {"viewCount": 50}
    assert len(caplog.records) == 4
    assert "50 malformed values" in caplog.records[-1].getMessage()


def test_a_reader_works_at_the_end_of_time() -> None:
    reader = Reader(datetime.max.replace(tzinfo=UTC))
    (parsed,) = parse_videos({"items": [video()]}, reader)
    assert parsed.published_at is not None


Recording = tuple[str, Mapping[str, Any]]


def recordings() -> list[Recording]:
    """Every recorded answer that is no refusal, by name; none where the recordings are absent."""
    if not API.is_dir():
        return []
    found: list[Recording] = []
    with gzip.open(API / "fullscreen_yt_recorded.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    found += [(f"yt-{n}-{row['path']}", row["body"]) for n, row in enumerate(rows) if row["status"] == 200]
    for path in sorted((API / "python-youtube").rglob("*.json")):
        body = json.loads(path.read_bytes())
        if "error" not in body:
            found.append((str(path.relative_to(API)), body))
    chart = json.loads(gzip.decompress((API / "videos_list_mostPopular_US_2025-04-28.json.gz").read_bytes()))
    blocked = json.loads((API / "video_region_blocked.json").read_bytes())
    return [*found, ("mostPopular", chart), ("region blocked", blocked)]


RECORDINGS = recordings()
# Answers of methods that no agent calls: nothing reads them, so they only need to differ from refusals.
NOT_ASKED_FOR = {
    "youtube#channelSectionListResponse",
    "youtube#channelSection",
    "youtube#channel",
    "youtube#guideCategoryListResponse",
    "youtube#i18nLanguageListResponse",
    "youtube#i18nRegionListResponse",
    "youtube#playlist",
    "youtube#playlistItem",
    "youtube#playlistListResponse",
    "youtube#video",
    "youtube#videoGetRatingResponse",
}


def items_of(parse: Parse, body: Mapping[str, Any]) -> tuple[Any, ...]:
    parsed = read(parse, body)
    items = parsed if isinstance(parsed, tuple) else parsed.items
    assert isinstance(items, tuple)
    return items


def count(item: Mapping[str, Any], name: str) -> int | None:
    text = item.get("statistics", {}).get(name)
    return None if text is None else int(text)


def check_videos(body: Mapping[str, Any]) -> None:
    raw = body["items"]
    stats = items_of(parse_stats, body)
    assert [s.id for s in stats] == [item["id"] for item in raw]
    assert [s.view_count for s in stats] == [count(item, "viewCount") for item in raw]
    assert [s.like_count for s in stats] == [count(item, "likeCount") for item in raw]
    described = [item for item in raw if "snippet" in item]
    videos = items_of(parse_video_page, {**body, "items": described})
    assert len(videos) == len(described)
    for parsed, item in zip(videos, described, strict=True):
        snippet = item["snippet"]
        assert parsed.title == snippet["title"]
        assert parsed.channel_id == snippet["channelId"]
        assert list(parsed.tags) == snippet.get("tags", [])
        assert parsed.category_id == int(snippet["categoryId"])
        assert parsed.published_at == datetime.fromisoformat(snippet["publishedAt"])
        assert (parsed.duration_s is None) == ("contentDetails" not in item)


def check_search(body: Mapping[str, Any]) -> None:
    hits = items_of(parse_search_page, body)
    ids = [item["id"]["videoId"] for item in body["items"] if item["id"]["kind"] == "youtube#video"]
    assert [hit.video_id for hit in hits] == ids
    assert all(hit.published_at and hit.channel_id for hit in hits)
    assert read(parse_search_page, body).next_page_token == body.get("nextPageToken")


def check_channels(body: Mapping[str, Any]) -> None:
    channels = items_of(parse_channels, body)
    assert [c.id for c in channels] == [item["id"] for item in body.get("items", [])]
    assert [c.video_count for c in channels] == [count(i, "videoCount") for i in body.get("items", [])]


def check_playlist_items(body: Mapping[str, Any]) -> None:
    described = [item for item in body["items"] if {"snippet", "contentDetails"} & set(item)]
    page = read(parse_playlist_page, {**body, "items": described})
    assert len(page.items) == len(described)
    assert page.total_results == body["pageInfo"]["totalResults"]
    assert all(item.position is not None for item in page.items if "snippet" in item.raw)


def check_categories(body: Mapping[str, Any]) -> None:
    assert [c.id for c in read(parse_categories, body)] == [int(item["id"]) for item in body["items"]]


CHECKS = {
    "youtube#videoListResponse": check_videos,
    "youtube#searchListResponse": check_search,
    "youtube#channelListResponse": check_channels,
    "youtube#playlistItemListResponse": check_playlist_items,
    "youtube#videoCategoryListResponse": check_categories,
}


@pytest.mark.skipif(not RECORDINGS, reason=f"no recorded data at {API}: set PLEIADES_SHARED to its folder")
@pytest.mark.parametrize("body", [body for _, body in RECORDINGS], ids=[name for name, _ in RECORDINGS])
def test_every_shared_recording_is_read(body: Mapping[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    kind = body.get("kind", "youtube#videoListResponse")
    if kind in NOT_ASKED_FOR:
        return
    CHECKS[kind](body)
    assert not caplog.records, "nothing recorded is malformed"


FEED = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns:yt="http://www.youtube.com/xml/schemas/2015" xmlns:media="http://search.yahoo.com/mrss/"
      xmlns="http://www.w3.org/2005/Atom">
 <title>A channel</title>
 <published>2007-08-23T00:34:43+00:00</published>
 <entry>
  <id>yt:video:v1---------</id>
  <yt:videoId>v1---------</yt:videoId>
  <yt:channelId>UCx---------------------</yt:channelId>
  <title>Tom &amp; Jerry</title>
  <author><name>A channel</name></author>
  <published>2026-11-20T10:00:00+00:00</published>
  <updated>2026-11-20T11:30:00+00:00</updated>
  <media:group>
   <media:title>Another title</media:title>
   <media:community>
    <media:starRating count="5" average="5.00" min="1" max="5"/>
    <media:statistics views="1234"/>
   </media:community>
  </media:group>
 </entry>
 <entry><yt:videoId>v2---------</yt:videoId></entry>
 <entry><title>without an id</title></entry>
</feed>"""


def test_a_feed_lists_uploads_with_their_views() -> None:
    first, second = read(parse_feed, FEED.encode())
    assert first == FeedEntry(
        vid("v1"),
        cid("x"),
        "Tom & Jerry",
        datetime(2026, 11, 20, 10, tzinfo=UTC),
        datetime(2026, 11, 20, 11, 30, tzinfo=UTC),
        1234,
    )
    assert second == FeedEntry(vid("v2"), None, None, None, None, None)


@pytest.mark.parametrize(
    "document",
    [
        '<!DOCTYPE feed [<!ENTITY a "x"><!ENTITY b "&a;&a;">]><feed>&b;</feed>',
        '<!DOCTYPE feed SYSTEM "file:///etc/passwd"><feed/>',
        '<!DOCTYPE feed [<!ENTITY % e SYSTEM "http://127.0.0.1/x">%e;]><feed/>',
    ],
)
def test_a_feed_may_not_declare_entities(document: str) -> None:
    with pytest.raises(MalformedResponse, match="document type"):
        read(parse_feed, document.encode())


@pytest.mark.parametrize("document", ["", "<feed", "<html><body/></html>", FEED[:400], '{"items": []}'])
def test_what_is_no_feed_is_refused(document: str) -> None:
    with pytest.raises(MalformedResponse):
        read(parse_feed, document.encode())
