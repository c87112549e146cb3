"""The emulator's HTTP server."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

from atlas.clock import Clock, FixedClock, VirtualClock
from atlas.config import BUCKETS
from maia.youtube.catalogue import Catalogue
from maia.youtube.emulator.control import ControlPage, clock_state
from maia.youtube.emulator.facts import METHODS, Method
from maia.youtube.emulator.faults import Circumstances, Fault, FaultPlan, Mishap, Strikes
from maia.youtube.emulator.feed import feed_document
from maia.youtube.emulator.methods import PAGE_FAULTS, Api
from maia.youtube.emulator.parameters import read_arguments
from maia.youtube.emulator.quota import EmulatorError, Project, Quota
from maia.youtube.emulator.refusals import (
    Refusal,
    method_not_allowed,
    method_not_found,
    unregistered_caller,
)

logger = logging.getLogger(__name__)


DEFAULT_PROJECT = "demo"
_JSON = {
    "Content-Type": "application/json; charset=UTF-8",
    "Vary": "X-Origin, Referer, Origin,Accept-Encoding",
}
_SMALLEST_GZIPPED = 1000


@dataclass(frozen=True, slots=True)
class Call:
    """One API request as the emulator saw it; `status` is a mishap's name where no status was sent."""

    method: str
    project: str | None
    parameters: tuple[tuple[str, str], ...]
    status: int | str
    units: int
    at: datetime


class Emulator:
    """The YouTube Data API v3 over a catalogue and a clock; `Emulator.serve` starts one."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        clock: Clock | None = None,
        projects: Iterable[Project] | None = None,
        keys: Mapping[str, str] | None = None,
        faults: Iterable[Fault | str] = (),
        seed: int = 0,
    ) -> None:
        """By default the clock starts at the catalogue's end, and the one project is `demo`."""
        self.catalogue = catalogue
        self.clock: Clock = clock or VirtualClock(catalogue.span[1], datetime.now(UTC))
        self.quota = Quota(projects or (Project(DEFAULT_PROJECT),), keys or {})
        self.faults = FaultPlan((), seed)
        self.set_faults(faults, seed)
        self.requests: deque[Call] = deque(maxlen=10_000)
        self.url = ""
        self._api = Api(catalogue)
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
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> AsyncIterator[Emulator]:
        """Serve at `url` until the block ends; port 0 takes a free one."""
        emulator = cls(catalogue, clock=clock, projects=projects, keys=keys, faults=faults, seed=seed)
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
            emulator.url = f"http://{shown}:{bound[1]}"
            yield emulator
        finally:
            await runner.cleanup()

    @property
    def calls(self) -> list[Call]:
        """The last 10,000 API requests, oldest first."""
        return list(self.requests)

    def used(self, project: str, bucket: Any) -> int:
        """Units that a project has spent of a bucket on the current Pacific day."""
        return self.quota.used(project, bucket, self.clock.now())

    def set_faults(self, faults: Iterable[Fault | str], seed: int | None = None) -> None:
        """Strike with these from now on; ValueError for one that is not known."""
        parsed = [fault if isinstance(fault, Fault) else Fault.parse(fault) for fault in faults]
        self.faults = FaultPlan(parsed, self.faults.seed if seed is None else seed)

    def reset(self) -> None:
        """Forget all units, calls and draws of faults, as if just started; the clock runs on."""
        self.quota.reset()
        self.requests.clear()
        self.faults = FaultPlan(self.faults.faults, self.faults.seed)

    def set_clock(self, now: datetime, speed: float) -> None:
        """Let the clock read `now` and run `speed` times as fast as real time; 0: stand still."""
        self.clock = VirtualClock(now, datetime.now(UTC), speed) if speed else FixedClock(now)

    def environment(self) -> dict[str, str]:
        """What to export for agents to use this emulator, in its time, with a key of each project."""
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
                return self._feed(request)
            raise method_not_found()
        except Refusal as refusal:
            return _refused(refusal)

    async def _call(self, request: web.BaseRequest, method: Method) -> web.StreamResponse:
        """Answer an API request, and note what it was and cost."""
        query = request.rel_url.raw_query_string
        pairs = parse_qsl(query, keep_blank_values=True)
        strikes = self.faults.draw(method, pairs)
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
        except Refusal as refusal:
            response = _refused(refusal)
            status = refusal.status
        mishap = strikes.mishap if status == 200 and strikes.mishap not in PAGE_FAULTS else None
        self._note(method, project, pairs, mishap or status, units, now)
        return await _spoilt(request, response, mishap) if mishap else response

    def _note(
        self,
        method: Method,
        project: Project | None,
        pairs: Iterable[tuple[str, str]],
        status: int | str,
        units: int,
        now: datetime,
    ) -> None:
        name = project.name if project else None
        self.quota.calls[name or "", method.bucket, method.name, status] += 1
        shown = tuple((key, value) for key, value in pairs if key != "key")
        self.requests.append(Call(method.name, name, shown, status, units, now))
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
        method: Method,
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

    def _feed(self, request: web.BaseRequest) -> web.Response:
        """The RSS feed: no key, no quota."""
        document = feed_document(self.catalogue, request.rel_url.query, self.clock.now().timestamp())
        status = 404 if document is None else 200
        self.quota.calls["", None, "feed", status] += 1
        return web.Response(status=status, body=document or b"", content_type="text/xml", charset="utf-8")


def _refused(refusal: Refusal) -> web.Response:
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
    """The API compresses only where the User-Agent says gzip as well."""
    headers = request.headers
    return (
        "gzip" in headers.get("Accept-Encoding", "").lower()
        and "gzip" in headers.get("User-Agent", "").lower()
    )


async def _spoilt(request: web.BaseRequest, response: web.Response, mishap: Mishap) -> web.StreamResponse:
    """What arrives of an answer that meets with a mishap; the request was counted."""
    body = response.body if isinstance(response.body, bytes) else b""
    transport = request.transport
    match mishap:
        case "reset":
            if transport:
                transport.abort()
            return response
        case "reset-midway":
            torn = web.StreamResponse(headers={**_JSON, "Content-Length": str(len(body) + 1)})
            await torn.prepare(request)
            await torn.write(body[: len(body) // 2])
            if transport:
                transport.abort()
            return torn
        case "truncated":
            whole = zlib.decompress(body, 31) if response.headers.get("Content-Encoding") else body
            return web.Response(body=whole[: len(whole) // 2], headers=_JSON)
        case "empty-body":
            return web.Response(headers=_JSON)
        case "html":
            page = "<!DOCTYPE html><title>Error 502</title><p>The server encountered a temporary error."
            return web.Response(text=page, content_type="text/html")
        case _:
            return response
