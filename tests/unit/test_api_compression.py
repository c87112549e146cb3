"""Answers are compressed for those who can read it, and nothing else about them changes."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING

import pytest
from starlette.responses import Response, StreamingResponse

from maia.api.compression import SMALLEST_BYTES, Compressed, accepts_gzip

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

LONG = b"views " * SMALLEST_BYTES


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("gzip, deflate, br, zstd", True), ("br;q=1.0, GZIP;q=0.8", True), ("", False), ("identity", False),
        ("gzip;q=0", False), ("gzip; q=0.000, br", False), ("x-gzip", False),
    ],
)  # fmt: skip
def test_gzip_is_understood_where_it_is_named(header: str, expected: bool) -> None:
    assert accepts_gzip(header) is expected


def asked(app: ASGIApp, encoding: str = "gzip", method: str = "GET") -> tuple[dict[str, str], bytes]:
    """The headers and the body of an answer."""
    told: list[Message] = []

    async def send(message: Message) -> None:
        told.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http", "method": method, "path": "/", "headers": [(b"accept-encoding", encoding.encode())],
        "asgi": {"spec_version": "2.4"},
    }  # fmt: skip
    asyncio.run(Compressed(app)(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in told[0]["headers"]}
    return headers, b"".join(each.get("body", b"") for each in told[1:])


@pytest.mark.parametrize("media_type", ["text/html", "text/csv; charset=utf-8", "application/json"])
def test_what_is_long_is_compressed(media_type: str) -> None:
    app = Response(LONG, media_type=media_type, headers={"Vary": "Accept"})
    headers, body = asked(app)
    assert (headers["content-encoding"], headers["vary"]) == ("gzip", "Accept, Accept-Encoding")
    assert int(headers["content-length"]) == len(body) < len(LONG) / 5
    assert gzip.decompress(body) == LONG
    headers, body = asked(Response(LONG, media_type=media_type), encoding="identity")
    assert ("content-encoding" in headers, headers["vary"], body) == (False, "Accept-Encoding", LONG)


def test_what_is_short_or_compressed_or_of_another_kind_passes() -> None:
    for app, body in (
        (Response(b"short", media_type="text/html"), b"short"),
        (Response(LONG, media_type="image/png"), LONG),
        (Response(LONG, media_type="text/html", headers={"Content-Encoding": "br"}), LONG),
    ):
        headers, told = asked(app)
        assert (headers.get("content-encoding") in (None, "br"), told) == (True, body)
    assert asked(Response(LONG, media_type="text/html"), method="POST")[1] == LONG


def test_a_stream_is_sent_piece_by_piece() -> None:
    headers, body = asked(StreamingResponse(iter([LONG, b"end"]), media_type="text/html"))
    assert ("content-encoding" in headers, body) == (False, LONG + b"end")
