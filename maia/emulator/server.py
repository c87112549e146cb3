"""The emulator's HTTP server."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

from atlas.clock import Clock, FixedClock, VirtualClock
from atlas.config import BUCKETS
from maia.emulator.catalogue import Catalogue
from maia.emulator.control import ControlPage, clock_state
from maia.emulator.facts import METHODS, EmulatedMethod
from maia.emulator.faults import Circumstances, Fault, FaultPlan, FeedRefusal, Mishap, Strikes
from maia.emulator.feed import FeedDocument, feed_document
from maia.emulator.methods import PAGE_FAULTS, Api
from maia.emulator.parameters import read_arguments
from maia.emulator.quota import EmulatorError, Project, Quota
from maia.emulator.realism import NONE, Realism
from maia.emulator.refusals import (
    ErrorResponse,
    method_not_allowed,
    method_not_found,
    unregistered_caller,
)
from maia.emulator.resources import etag_of
from maia.emulator.world import World

logger = logging.getLogger(__name__)


DEFAULT_PROJECT = "demo"
_JSON = {
    "Content-Type": "application/json; charset=UTF-8",
    "Vary": "X-Origin, Referer, Origin,Accept-Encoding",
}
_SMALLEST_GZIPPED = 1000
_NO_FEED = FeedRefusal(404, "The requested URL was not found on this server.")


@dataclass(frozen=True, slots=True)
class ReceivedCall:
    """One request as received; `status` is the name of the mishap if no status was sent."""

    method: str
    project: str | None
    parameters: tuple[tuple[str, str], ...]
    status: int | str
    units: int
    at: datetime


class Emulator:
    """The YouTube Data API v3 over a catalogue and a clock; started with `Emulator.serve`."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        clock: Clock | None = None,
        projects: Iterable[Project] | None = None,
        keys: Mapping[str, str] | None = None,
        faults: Iterable[Fault | str] = (),
        seed: int = 0,
        realism: Realism = NONE,
    ) -> None:
        """By default the clock starts at the catalogue's end, and `demo` is the only project."""
        self.catalogue = catalogue
        self.clock: Clock = clock or VirtualClock(catalogue.span[1], datetime.now(UTC))
        self.quota = Quota(projects or (Project(DEFAULT_PROJECT),), keys or {})
        self.faults = FaultPlan((), seed)
        self.set_faults(faults, seed)
        self.requests: deque[ReceivedCall] = deque(maxlen=10_000)
        self.feeds: deque[ReceivedCall] = deque(maxlen=100_000)
        """The last 100,000 requests for feeds, oldest first."""
        self.url, self.host = "", ""
        self.world = World(catalogue, realism)
        self._api = Api(self.world)
        self._control = ControlPage(self)

    @classmethod
    @asynccontextmanager
    async def serve(
        cls,
        catalogue: Catalogue,
        *,
        clock: Clock | None = None,
        projects: Iterable[Project] | None = None,
        keys: Mapping[str, str] | None = None,
        faults: Iterable[Fault | str] = (),
        seed: int = 0,
        realism: Realism = NONE,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> AsyncIterator[Emulator]:
        """Serve at `url` until the block ends; port 0 picks a free one."""
        emulator = cls(
            catalogue,
            clock=clock,
            projects=projects,
            keys=keys,
            faults=faults,
            seed=seed,
            realism=realism,
        )
        runner = web.ServerRunner(web.Server(emulator._handle), shutdown_timeout=1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port, backlog=1024)
            try:
                await site.start()
            except OSError as error:
                raise EmulatorError(f"cannot listen on {host}:{port}, try another port: {error}") from error
            bound = runner.addresses[0]
            shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
            emulator.url, emulator.host = f"http://{shown}:{bound[1]}", host
            yield emulator
        finally:
            await runner.cleanup()

    @property
    def calls(self) -> list[ReceivedCall]:
        """The last 10,000 API requests, oldest first."""
        return list(self.requests)

    def used(self, project: str, bucket: Any) -> int:
        """Units of a bucket that a project has spent on the current Pacific day."""
        return self.quota.used(project, bucket, self.clock.now())

    def set_faults(
        self, faults: Iterable[Fault | str], seed: int | None = None, for_s: float | None = None
    ) -> None:
        """Inject these faults from now on, or for some seconds of the emulator's clock.

        ValueError for an unknown fault.
        """
        parsed = [fault if isinstance(fault, Fault) else Fault.parse(fault) for fault in faults]
        until = None if for_s is None else self.clock.now() + timedelta(seconds=for_s)
        self.faults = FaultPlan(parsed, self.faults.seed if seed is None else seed, until)

    def reset(self) -> None:
        """Clear all units, calls and fault draws, as after a fresh start; the clock keeps running."""
        self.quota.reset()
        self.requests.clear()
        self.feeds.clear()
        self.faults = FaultPlan(self.faults.faults, self.faults.seed, self.faults.until)

    def set_clock(self, now: datetime, speed: float) -> None:
        """Set the clock to `now`, running `speed` times as fast as real time; 0 stops it."""
        self.clock = VirtualClock(now, datetime.now(UTC), speed) if speed else FixedClock(now)

    def environment(self) -> dict[str, str]:
        """Environment variables that make agents use this emulator, its clock and a key per project."""
        clock = clock_state(self.clock)
        projects = self.quota.projects
        keys = [{"key": f"{name}-key", "project": name} for name in projects]
        limits = {
            name: {bucket: project.limit(bucket) for bucket in BUCKETS} for name, project in projects.items()
        }
        variables = {
            "PLEIADES_YOUTUBE__BASE_URL": self.url,
            "PLEIADES_CLOCK__START": clock["start"],
            "PLEIADES_CLOCK__ANCHOR": clock["anchor"],
            "PLEIADES_CLOCK__SPEED": f"{clock['speed']:g}",
            "PLEIADES_QUOTA__PROJECTS": orjson.dumps(limits).decode(),
            "YOUTUBE_API_KEY_POOL_JSON": orjson.dumps(keys).decode(),
        }
        if len(projects) > 1:
            variables["PLEIADES_QUOTA__SEPARATE_PROJECTS_PERMITTED"] = "true"
        return variables

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        method = METHODS.get(path)
        try:
            if path.rstrip("/") == "/_emulator":
                return await self._control.handle(request)
            if request.method != "GET":
                raise method_not_allowed()
            if method is not None:
                return await self._call(request, method)
            if path == "/feeds/videos.xml":
                return await self._feed(request)
            raise method_not_found()
        except ErrorResponse as refusal:
            return _refused(refusal)

    async def _call(self, request: web.BaseRequest, method: EmulatedMethod) -> web.StreamResponse:
        """Respond to an API request, and record the call and its cost."""
        query = request.rel_url.raw_query_string
        pairs = parse_qsl(query, keep_blank_values=True)
        strikes = self.faults.draw(method, pairs, self.clock.now())
        if strikes.delay_s:
            await asyncio.sleep(strikes.delay_s)
        now = self.clock.now()
        project, units, status = None, 0, 0
        try:
            project = self._project(request, pairs)
            if strikes.refuser:
                refusal = strikes.refuser(Circumstances(project, method, now))
                if refusal.counts:
                    self.quota.spend(project, method.bucket, now)
                    units = 1
                raise refusal
            self.quota.spend(project, method.bucket, now)
            units = 1
            response = self._answer(request, method, pairs, now, strikes)
            status = response.status
        except ErrorResponse as refusal:
            response = _refused(refusal)
            status = refusal.status
        mishap = strikes.mishap if status == 200 and strikes.mishap not in PAGE_FAULTS else None
        self._note(method, project, pairs, mishap or status, units, now)
        return await _spoilt(request, response, mishap) if mishap else response

    def _note(
        self,
        method: EmulatedMethod,
        project: Project | None,
        pairs: Iterable[tuple[str, str]],
        status: int | str,
        units: int,
        now: datetime,
    ) -> None:
        name = project.name if project else None
        self.quota.calls[name or "", method.bucket, method.name, status] += 1
        shown = tuple((key, value) for key, value in pairs if key != "key")
        self.requests.append(ReceivedCall(method.name, name, shown, status, units, now))
        logger.debug("%s %s → %s", method.name, shown, status, extra={"project": name, "units": units})

    def _project(self, request: web.BaseRequest, pairs: Iterable[tuple[str, str]]) -> Project:
        key = request.headers.get("X-Goog-Api-Key") or next(
            (value for name, value in pairs if name == "key"), None
        )
        if not key:
            raise unregistered_caller()
        return self.quota.project_of(key)

    def _answer(
        self,
        request: web.BaseRequest,
        method: EmulatedMethod,
        pairs: Iterable[tuple[str, str]],
        now: datetime,
        strikes: Strikes,
    ) -> web.Response:
        arguments = read_arguments(method, pairs)
        fault = next((fault for fault in PAGE_FAULTS if fault == strikes.mishap), None)
        body, etag = self._api.answer(arguments, now.timestamp(), fault).content(arguments)
        headers = {**_JSON, "ETag": f'"{etag}"'}
        if _matches(request.headers.get("If-None-Match"), etag):
            return web.Response(status=304, headers=headers)
        if arguments.pretty:
            body = orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2)
        if len(body) >= _SMALLEST_GZIPPED and _takes_gzip(request):
            body = zlib.compress(body, 1, wbits=31)
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)

    async def _feed(self, request: web.BaseRequest) -> web.StreamResponse:
        """The RSS feed, which needs no key and costs no quota."""
        pairs = list(request.rel_url.query.items())
        strikes = self.faults.draw_feed(pairs, self.clock.now())
        if strikes.delay_s:
            await asyncio.sleep(strikes.delay_s)
        now = self.clock.now()
        if strikes.feed_refusal:
            response = _feed_refused(strikes.feed_refusal)
        else:
            document = feed_document(self.world, request.rel_url.query, now.timestamp())
            response = _feed_refused(_NO_FEED) if document is None else _feed_answer(request, document, now)
        mishap = strikes.mishap if response.status == 200 else None
        status = mishap or response.status
        self.quota.calls["", None, "feed", status] += 1
        self.feeds.append(ReceivedCall("feed", None, tuple(pairs), status, 0, now))
        return await _spoilt(request, response, mishap) if mishap else response


def _feed_answer(request: web.BaseRequest, document: FeedDocument, now: datetime) -> web.Response:
    """The feed with its validators, or 304 if they match; If-None-Match goes before If-Modified-Since."""
    feed, etag = document.feed, etag_of(document.body)
    modified_at = int(feed.as_of)
    headers = {
        "ETag": f'"{etag}"',
        "Last-Modified": formatdate(modified_at, usegmt=True),
        "Cache-Control": f"public, max-age={int(feed.fresh_until - feed.made_at)}",
        "Age": str(int(now.timestamp() - feed.made_at)),
        "Expires": formatdate(feed.fresh_until, usegmt=True),
    }
    offered = request.headers.get("If-None-Match")
    since = request.if_modified_since
    unchanged = since is not None and modified_at <= since.timestamp()
    if _matches(offered, etag) if offered is not None else unchanged:
        return web.Response(status=304, headers=headers)
    return web.Response(body=document.body, content_type="text/xml", charset="utf-8", headers=headers)


def _feed_refused(refusal: FeedRefusal) -> web.Response:
    headers = {} if refusal.retry_after_s is None else {"Retry-After": str(refusal.retry_after_s)}
    page = f"<!DOCTYPE html><title>Error {refusal.status}</title><p>{refusal.reason}"
    return web.Response(status=refusal.status, text=page, content_type="text/html", headers=headers)


def _refused(refusal: ErrorResponse) -> web.Response:
    headers = dict(_JSON)
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    return web.Response(status=refusal.status, body=refusal.content(), headers=headers)


def _matches(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    offered = (tag.strip().removeprefix("W/").strip('"') for tag in if_none_match.split(","))
    return any(tag in (etag, "*") for tag in offered)


def _takes_gzip(request: web.BaseRequest) -> bool:
    """Like the API, compress only if the User-Agent says gzip too."""
    headers = request.headers
    return (
        "gzip" in headers.get("Accept-Encoding", "").lower()
        and "gzip" in headers.get("User-Agent", "").lower()
    )


async def _spoilt(request: web.BaseRequest, response: web.Response, mishap: Mishap) -> web.StreamResponse:
    """Damage a response as the mishap says; the request has already been counted."""
    body = response.body if isinstance(response.body, bytes) else b""
    headers = {
        "Content-Type": response.headers.get("Content-Type", _JSON["Content-Type"]),
        "Vary": _JSON["Vary"],
    }
    transport = request.transport
    match mishap:
        case "reset":
            if transport:
                transport.abort()
            return response
        case "reset-midway":
            torn = web.StreamResponse(headers={**headers, "Content-Length": str(len(body) + 1)})
            await torn.prepare(request)
            await torn.write(body[: len(body) // 2])
            if transport:
                transport.abort()
            return torn
        case "truncated":
            whole = zlib.decompress(body, 31) if response.headers.get("Content-Encoding") else body
            return web.Response(body=whole[: len(whole) // 2], headers=headers)
        case "empty-body":
            return web.Response(headers=headers)
        case "html":
            page = "<!DOCTYPE html><title>Error 502</title><p>The server encountered a temporary error."
            return web.Response(text=page, content_type="text/html")
        case _:
            return response
