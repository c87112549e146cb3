"""Spans, instants, videos and channels as they are given on the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import typer

from maia.arguments import (
    Named,
    parse_day_or_moment,
    parse_moment,
    parse_named,
    parse_span,
    parse_video,
    zone_name,
    zone_number,
)

VIDEO, CHANNEL = "dQw4w9WgXcQ", "UCuAXFkgsw1L7xaCfnd5JJOw"


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
    [("2026-11-31", "no day"), ("2026-11-20T08:00", "no time zone"), ("yesterday", "no instant")],
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


def test_an_id_alone_may_be_either() -> None:
    assert parse_named(VIDEO) == Named(None, VIDEO)
    assert parse_named("-_practice_-") == Named(None, "-_practice_-")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("@tapeloopfm", "Copy channel ID"),
        ("https://www.youtube.com/@tapeloopfm", "Copy channel ID"),
        ("https://vimeo.com/12345", "no address on YouTube"),
        ("https://www.youtube.com.evil.example/watch?v=" + VIDEO, "no address on YouTube"),
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
