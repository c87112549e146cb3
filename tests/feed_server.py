"""A server of channels' feeds that logs every request, honours validators, and refuses as a test requires."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import NamedTuple
from xml.sax.saxutils import escape

from aiohttp import web

OPENS = (
    '<feed xmlns="http://www.w3.org/2005/Atom" xmlns:yt="http://www.youtube.com/xml/schemas/2015" '
    'xmlns:media="http://search.yahoo.com/mrss/">'
)


class Upload(NamedTuple):
    """An upload as a feed shows it."""

    video_id: str
    published_at: datetime
    views: int | None


class FeedRequest(NamedTuple):
    """A request that arrived: when by the server's clock, for which channel, and how it was answered."""

    at: datetime
    channel_id: str
    status: int


@dataclass
class FeedServer:
    """The feeds of `channels`, newest uploads first; others are 404."""

    now: Callable[[], datetime]
    channels: dict[str, list[Upload]] = field(default_factory=dict)
    refusal: tuple[int, Mapping[str, str]] | None = None
    body: bytes | None = None
    """What every request is answered with instead of a feed."""
    requests: list[FeedRequest] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    url: str = ""

    def statuses(self) -> Counter[int]:
        return Counter(request.status for request in self.requests)

    def asked(self) -> list[str]:
        return [request.channel_id for request in self.requests]

    async def answer(self, request: web.BaseRequest) -> web.Response:
        channel_id = request.query.get("channel_id", "")
        response = self._response(channel_id, request.headers.get("If-None-Match"))
        self.requests.append(FeedRequest(self.now(), channel_id, response.status))
        return response

    def _response(self, channel_id: str, known: str | None) -> web.Response:
        if self.refusal is not None:
            status, headers = self.refusal
            return web.Response(status=status, headers=dict(headers))
        if self.body is not None:
            return web.Response(body=self.body, content_type="text/xml")
        if channel_id not in self.channels:
            return web.Response(status=404)
        now = self.now()
        shown = [upload for upload in self.channels[channel_id] if upload.published_at <= now]
        shown = sorted(shown, key=lambda upload: upload.published_at, reverse=True)[:15]
        body = (OPENS + "".join(map(_entry, shown)) + "</feed>").encode()
        etag = f'"{blake2b(body, digest_size=8).hexdigest()}"'
        if known == etag:
            return web.Response(status=304, headers={"ETag": etag})
        return web.Response(body=body, content_type="text/xml", headers={"ETag": etag, **self.headers})


def _entry(upload: Upload) -> str:
    views = "" if upload.views is None else f'<media:statistics views="{upload.views}"/>'
    return (
        f"<entry><yt:videoId>{escape(upload.video_id)}</yt:videoId>"
        f"<published>{upload.published_at.isoformat()}</published>"
        f"<media:group><media:community>{views}</media:community></media:group></entry>"
    )


@asynccontextmanager
async def serving_feeds(now: Callable[[], datetime]) -> AsyncIterator[FeedServer]:
    """Serve feeds at `url` until the block ends."""
    feeds = FeedServer(now)
    runner = web.ServerRunner(web.Server(feeds.answer), shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        host, port = runner.addresses[0][:2]
        feeds.url = f"http://{host}:{port}"
        yield feeds
    finally:
        await runner.cleanup()
