"""Spans, instants, videos and channels as they are given on the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
import typer

from maia.commands.arguments import (
    Named,
    _ids_last,
    parse_channel,
    parse_context,
    parse_day_or_moment,
    parse_moment,
    parse_named,
    parse_since,
    parse_span,
    parse_video,
)
from maia.views.words import zone_name, zone_number

VIDEO, CHANNEL = "dQw4w9WgXcQ", "UCuAXFkgsw1L7xaCfnd5JJOw"


@pytest.mark.parametrize("text", ["@nobody[/x]", "https://[youtube.com/@a", "youtube.com]/watch", "//["])
def test_an_address_that_is_none_is_wrong_usage(text: str) -> None:
    for parse in (parse_named, parse_video):
        with pytest.raises(typer.BadParameter):
            parse(text)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("90m", timedelta(minutes=90)),
        ("45min", timedelta(minutes=45)),
        ("24h", timedelta(hours=24)),
        ("1.5 h", timedelta(minutes=90)),
        ("7D", timedelta(days=7)),
        ("2w", timedelta(days=14)),
    ],
)
def test_spans(text: str, span: timedelta) -> None:
    assert parse_span(text, "--window") == span


@pytest.mark.parametrize("text", ["", "7", "d", "-1h", "0h", "7y", "1h30m", "99999999999h", "4000d", "nan h"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="90m, 24h, 7d or 2w"):
        parse_span(text, "--window")


def test_nothing_given_is_nothing() -> None:
    assert parse_span(None, "--window") is None
    assert parse_moment(None, "--since") is None
    assert parse_day_or_moment(None, "--since") is None


def test_a_day_is_utcs() -> None:
    assert parse_day_or_moment("2026-11-20", "--since") == datetime(2026, 11, 20, tzinfo=UTC)
    there = parse_day_or_moment("2026-11-20T01:00:00+02:00", "--since")
    assert there == datetime(2026, 11, 19, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("2026-11-31", "does not exist"),
        ("2026-11-20T08:00", "no time zone"),
        ("yesterday", "not a time such as .*, nor a day such as 2026-11-02"),
    ],
)
def test_what_is_no_instant(text: str, hint: str) -> None:
    with pytest.raises(typer.BadParameter, match=hint):
        parse_day_or_moment(text, "--since")


@pytest.mark.parametrize(
    "text",
    [
        f"https://www.youtube.com/watch?v={VIDEO}",
        f"https://www.youtube.com/watch?list=PL1&v={VIDEO}&t=42s",
        f"http://m.youtube.com/watch?v={VIDEO}",
        f"https://music.youtube.com/watch?v={VIDEO}",
        f"youtube.com/watch?v={VIDEO}",
        f"https://youtu.be/{VIDEO}?si=abc",
        f"https://www.youtube.com/shorts/{VIDEO}",
        f"https://www.youtube.com/live/{VIDEO}?feature=share",
        f"https://www.youtube-nocookie.com/embed/{VIDEO}",
    ],
)
def test_addresses_of_videos(text: str) -> None:
    assert parse_named(text) == Named("video", VIDEO)
    assert parse_video(text) == VIDEO


def test_addresses_and_ids_of_channels() -> None:
    assert parse_named(f"https://www.youtube.com/channel/{CHANNEL}/videos") == Named("channel", CHANNEL)
    assert parse_named(f" {CHANNEL} ") == Named("channel", CHANNEL)
    with pytest.raises(typer.BadParameter, match="a channel, not a video"):
        parse_video(CHANNEL)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("@tapeloopfm", Named("handle", "@tapeloopfm")),
        ("@tape.loop-fm_1", Named("handle", "@tape.loop-fm_1")),
        ("@テープ", Named("handle", "@テープ")),
        ("https://www.youtube.com/@tapeloopfm/videos", Named("handle", "@tapeloopfm")),
        ("https://www.youtube.com/%40tapeloopfm", Named("handle", "@tapeloopfm")),
        ("youtube.com/user/tapeloop", Named("user", "tapeloop")),
    ],
)
def test_handles_and_user_names(text: str, named: Named) -> None:
    assert parse_named(text) == named
    assert parse_channel(text) == named


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Tape Loop FM", Named(None, "Tape Loop FM")),
        ("AC/DC", Named(None, "AC/DC")),
        ("Mr. Bean", Named(None, "Mr. Bean")),
        (CHANNEL, Named("channel", CHANNEL)),
        (f"youtube.com/channel/{CHANNEL}", Named("channel", CHANNEL)),
    ],
)
def test_a_channel_may_be_given_by_its_title(text: str, named: Named) -> None:
    assert parse_channel(text) == named


def test_a_video_is_no_channel() -> None:
    with pytest.raises(typer.BadParameter, match="a video, not a channel"):
        parse_channel(f"https://youtu.be/{VIDEO}")


def test_since_is_a_span_a_day_or_an_instant() -> None:
    assert parse_since("24h", "--since") == timedelta(days=1)
    assert parse_since("2026-11-02", "--since") == datetime(2026, 11, 2, tzinfo=UTC)
    assert parse_since("2026-11-02T08:00:00+02:00", "--since") == datetime(2026, 11, 2, 6, tzinfo=UTC)
    for wrong in ("yesterday", "24", "2026-11-31", "2026-11-02T08:00"):
        with pytest.raises(typer.BadParameter, match="neither a time span"):
            parse_since(wrong, "--since")


def test_an_id_alone_may_be_either() -> None:
    assert parse_named(VIDEO) == Named(None, VIDEO)
    assert parse_named("-_practice_-") == Named(None, "-_practice_-")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("https://www.youtube.com/c/tapeloopfm", "Copy channel ID"),
        ("@", "neither an id nor an address"),
        ("https://vimeo.com/12345", "not a YouTube address"),
        ("https://www.youtube.com.evil.example/watch?v=" + VIDEO, "not a YouTube address"),
        ("https://www.youtube.com/watch?v=short", "neither a video nor a channel"),
        ("https://www.youtube.com/channel/UCshort", "neither a video nor a channel"),
        ("https://www.youtube.com/", "neither a video nor a channel"),
        ("https://youtu.be/", "neither a video nor a channel"),
        ("two words", "neither an id nor an address"),
        ("x" * 65, "neither an id nor an address"),
        ("", "neither an id nor an address"),
    ],
)
def test_what_names_nothing(text: str, hint: str) -> None:
    with pytest.raises(typer.BadParameter, match=hint):
        parse_named(text)


def test_zones_have_names_and_numbers() -> None:
    assert [zone_number(name) for name in ("hot", "warm", "cold", None)] == [0, 1, 2, None]  # type: ignore[arg-type]
    assert [zone_name(number) for number in (0, 1, 2, None)] == ["hot", "warm", "cold", None]
    from maia.learning.zones import Zone

    assert [Zone(number).name.lower() for number in range(3)] == ["hot", "warm", "cold"]


class TestIdsThatLookLikeOptions:
    OPTIONS: ClassVar = {"--json": False, "--window": True, "--png": True, "-n": True, "--published": False}

    @pytest.mark.parametrize(
        ("given", "parsed"),
        [
            (["-abcDEF_123"], ["--", "-abcDEF_123"]),
            (["--bcDEF-123", "--json"], ["--json", "--", "--bcDEF-123"]),
            (["-h2345678ab", "--window", "24h"], ["--window", "24h", "--", "-h2345678ab"]),
            (["--window", "-abcDEF_123", "x"], ["--window", "-abcDEF_123", "x"]),
            (["dQw4w9WgXcQ", "-abcDEF_123"], ["dQw4w9WgXcQ", "--", "-abcDEF_123"]),
            (["-abcDEF_123", "--", "-h"], ["--", "-abcDEF_123", "-h"]),
            (["--published", "--unpinned"], ["--published", "--unpinned"]),
            (["--json"], ["--json"]),
            (["-n", "3"], ["-n", "3"]),
        ],
    )
    def test_are_moved_behind_the_options(self, given: list[str], parsed: list[str]) -> None:
        assert _ids_last(given, self.OPTIONS) == parsed


class TestContexts:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("3", 3), ("-2.5", -2.5), ("1e3", 1000.0), ("true", True), ("false", False), ("null", None),
            ('"5"', "5"), ("hunter", "hunter"), ("", ""), ("a=b", "a=b"), ("007", "007"), ("True", "True"),
            ("NaN", "NaN"), ("1e999", "1e999"), ("[1]", "[1]"), ("{}", "{}"), ("[" * 9999, "[" * 9999),
        ],
    )  # fmt: skip
    def test_values_have_types(self, text: str, value: object) -> None:
        (found,) = parse_context([f"field={text}"], None).values()
        assert (found, type(found)) == (value, type(value))

    def test_json_and_fields_make_one_context(self) -> None:
        assert parse_context(["b=3"], '{"a": true, "b": 2}') == {"a": True, "b": 3}

    @pytest.mark.parametrize(
        ("fields", "text", "said"),
        [
            ([], None, "say what is so now"), ([], "{}", "say what is so now"),
            (["night"], None, "FIELD=VALUE"), (["=3"], None, "FIELD=VALUE"),
            ([], "[1]", "not a JSON object"), ([], "{", "not a JSON object"),
            ([], '{"a": [1]}', "a must be"), ([], '{"a": NaN}', "a must be"),
            ([], '{"a": 1e999}', "a must be"),
        ],
    )  # fmt: skip
    def test_others_are_refused(self, fields: list[str], text: Any, said: str) -> None:
        with pytest.raises(typer.BadParameter, match=said):
            parse_context(fields, text)
