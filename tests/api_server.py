"""A scripted API server that answers and fails as a test requires, an in-memory ledger, and a client."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from aiohttp import web
from pydantic import SecretStr

from atlas.clock import FixedClock
from atlas.config import Bucket, YouTubeSettings
from atlas.errors import DatabaseUnavailable, RingClosed
from atlas.keyring import Grant
from maia.youtube.client import YouTube
from tests.ids import cid, vid

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
RESET = datetime(2026, 11, 3, 8, tzinfo=UTC)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Ledger:
    """A KeySource in memory: keys of projects, what is reserved, used and closed, and every entry made."""

    def __init__(self, *keys: tuple[str, str]) -> None:
        self.keys = dict(keys or (("secret-one", "alpha"),))
        self.entries: list[str] = []
        self.reasons: list[str] = []
        self.reserved: Counter[Bucket] = Counter()
        self.used: Counter[Bucket] = Counter()
        self.closed: dict[tuple[str, Bucket], datetime] = {}
        self.disabled: set[str] = set()
        self.broken: set[str] = set()
        self.slow: dict[str, asyncio.Event] = {}
        self.recording = asyncio.Event()

    async def acquire(self, bucket: Bucket, units: int = 1) -> Grant:
        for key, project in self.keys.items():
            if key not in self.disabled and (project, bucket) not in self.closed:
                self.reserved[bucket] += units
                self.entries.append(f"acquire {project}")
                return Grant(
                    ring="hunting",
                    bucket=bucket,
                    units=units,
                    project=project,
                    key=SecretStr(key),
                    fingerprint=f"print-{len(key)}-{project}",
                    day=date(2026, 11, 2),
                    granted_at=NOON,
                )
        reopens = min(self.closed.values(), default=None)
        raise RingClosed("hunting", bucket, reopens, "nothing is left")

    async def settle(self, grant: Grant) -> None:
        await self._enter("settle", grant, used=True)

    async def cancel(self, grant: Grant) -> None:
        await self._enter("cancel", grant, used=False)

    async def fail(self, grant: Grant, reason: str) -> None:
        await self._enter("fail", grant, used=True, reason=reason)

    async def close_day(self, grant: Grant, reason: str) -> datetime:
        await self._enter("close_day", grant, used=True, reason=reason)
        self.closed[grant.project, grant.bucket] = RESET
        return RESET

    async def cool_down(self, grant: Grant, retry_after_s: float | None, reason: str) -> datetime:
        await self._enter(f"cool_down {retry_after_s}", grant, used=True, reason=reason)
        until = NOON + timedelta(seconds=retry_after_s or 60)
        self.closed[grant.project, grant.bucket] = until
        return until

    async def disable_key(self, grant: Grant, reason: str) -> None:
        await self._enter("disable_key", grant, used=True, reason=reason)
        self.disabled.add(grant.key.get_secret_value())

    async def _enter(self, what: str, grant: Grant, *, used: bool, reason: str = "") -> None:
        kind = what.split(maxsplit=1)[0]
        self.recording.set()
        if kind in self.slow:
            await self.slow[kind].wait()
        if kind in self.broken:
            raise DatabaseUnavailable("PostgreSQL is restarting")
        self.reserved[grant.bucket] -= grant.units
        if used:
            self.used[grant.bucket] += grant.units
        self.entries.append(f"{what} {grant.project}")
        self.reasons.append(reason)

    def counted(self) -> int:
        return self.used.total() + self.reserved.total()


@dataclass
class Seen:
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    url: str


@dataclass
class Server:
    """Answers every request by the next handler of `script`, the last one from then on."""

    script: list[Handler]
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    under_way: int = 0
    most_under_way: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(request.path, dict(request.query), headers, str(request.url)))
        handler = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.arrived.set()
        try:
            return await handler(request)
        finally:
            self.under_way -= 1


@asynccontextmanager
async def serving(*script: Handler) -> AsyncIterator[Server]:
    server = Server(list(script))
    app = web.Application()
    app.router.add_get("/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def answer(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Handler:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=raw, status=status, headers=headers)

    return handler


def refusal(status: int, reason: str, message: str = "told so", *, info: str = "", **headers: str) -> Handler:
    body: dict[str, Any] = {"code": status, "message": message, "errors": [{"reason": reason}]}
    if info:
        body["details"] = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": info}]
    return answer(
        {"error": body}, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


async def reset(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def cut_short(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"items": [')
    assert request.transport is not None
    request.transport.close()
    return response


async def hang(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def videos_of(request: web.Request) -> web.Response:
    items = [described(id_) for id_ in request.query["id"].split(",") if not id_.startswith("gone")]
    response = web.json_response({"items": items})
    response.enable_compression()
    return response


def described(id_: str) -> dict[str, Any]:
    return {"id": id_, "snippet": {"channelId": cid("x")}, "statistics": {"viewCount": "7"}}


FOUND = {"items": [{"id": {"videoId": vid("v1")}, "snippet": {"title": "T"}}], "nextPageToken": "CAUQAA"}
DAY_403 = refusal(403, "quotaExceeded")
DAY_429 = refusal(429, "rateLimitExceeded", "limit 'Search Queries per day' of service")
MINUTE_429 = refusal(429, "rateLimitExceeded", "Rate Limit Exceeded", Retry_After="7")
DEAD_KEY = refusal(400, "badRequest", "API key not valid.", info="API_KEY_INVALID")


@asynccontextmanager
async def client(server: Server, ledger: Ledger, **settings: Any) -> AsyncIterator[YouTube]:
    values = {"base_url": server.url, "timeout_s": 10, **settings}
    async with YouTube.open(YouTubeSettings(**values), ledger, clock=FixedClock(NOON)) as youtube:
        yield youtube
