"""What every request passes before its route: who calls, how often, from where, and how much they send.

These are plain ASGI, because they also guard WebSockets and live streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from starlette.datastructures import Headers, MutableHeaders

from atlas.connections import connected_within
from atlas.network import is_loopback
from maia.api.access import SESSION_COOKIE, Caller
from maia.api.problems import Problem, problem_of
from maia.federation.messages import MOST_BYTES
from maia.origin import refusal

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from atlas.service_settings import ApiSettings
    from maia.api.access import Access

OPEN_PATHS: Final = frozenset({"/healthz", "/login"})
"""Paths that need no key; files below /static/ don't either."""
EXCHANGE_PATH: Final = "/federation/exchange"
DIGESTS_PATH: Final = "/federation/digests"
MIRROR_PATH: Final = "/federation/mirror"
FEDERATION_PATHS: Final = frozenset({EXCHANGE_PATH, DIGESTS_PATH, MIRROR_PATH})
"""Paths for other sites, which have the cluster's token and no key; their routes check it."""
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_LARGEST_ETAGGED_BYTES: Final = 4 * 2**20
_MOST_KEY_BYTES: Final = 200
_KEY_PREFIX: Final = "pk_"

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


_STATIC: Final = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
_RAW_HEADERS: Final = [*_STATIC, (b"cache-control", b"no-cache")]


class SecureHeaders:
    """Headers by which browsers run nothing but our own files."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_static = scope.get("path", "").startswith("/static/")

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                # By hand: it is done for every answer.
                given = message["headers"] = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                given += [each for each in (_STATIC if is_static else _RAW_HEADERS) if each[0] not in names]
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


class BoundedWait:
    """Lets requests wait for the database only so long, as agents do not: whoever asked would have left."""

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with connected_within(self._settings.connect_timeout_s):
            await self._app(scope, receive, send)


class BoundedBody:
    """Refuses bodies that are too long (413) or arrive too slowly (408)."""

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        settings = self._settings
        most_bytes = MOST_BYTES if scope["path"] in FEDERATION_PATHS else settings.most_body_bytes
        body = _Body(receive, most_bytes, settings.body_timeout_s)
        has_begun = False

        async def noting(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            length = Headers(scope=scope).get("content-length", "0")
            body.check(int(length) if length.isascii() and length.isdigit() else 0)
            await self._app(scope, body.receive, noting)
        except Problem as problem:
            if has_begun:
                raise
            await problem.response()(scope, receive, send)


class _Body:
    """The body of a request, which must not be too long, nor arrive too slowly."""

    def __init__(self, receive: Receive, most_bytes: int, timeout_s: float) -> None:
        self._receive, self._most_bytes = receive, most_bytes
        self._deadline = asyncio.get_running_loop().time() + timeout_s
        self._received, self._ended = 0, False

    async def receive(self) -> Message:
        if self._ended:
            # From here on the application only waits for the client to leave.
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise Problem(
                408, "the body of the request did not arrive in time: send it again", headers=_CLOSE
            ) from None
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            self._ended = not message.get("more_body", False)
            self.check(self._received)
        return message

    def check(self, size: int) -> None:
        """Problem 413 if the body is that long, or says that it is."""
        if size > self._most_bytes:
            raise Problem(
                413,
                f"the body has more than {self._most_bytes:,} bytes: send it in several requests",
                headers=_CLOSE,
            )


_CLOSE: Final = {"Connection": "close"}


class Gate:
    """Recognises the caller, and counts the request.

    A page of another site must not act in the name of a visitor: what changes something must come from a
    page of ours, or from no browser.
    """

    def __init__(self, app: ASGIApp, access: Access, settings: ApiSettings) -> None:
        self._app, self._access = app, access
        self._hosts, self._origins = settings.allowed_hosts, frozenset(settings.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            presented = _presented(headers)
            session = _session(headers)
            caller = await self._access.caller(presented, session, is_local=self._is_local(scope, headers))
            if presented is None:
                self._check_origin(scope, headers, caller)
            grant = await self._access.spend(caller, _client(scope))
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                raise
            await _refuse(problem, scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller

        async def with_rate(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"ratelimit-limit", b"%d" % caller.requests_per_minute),
                    (b"ratelimit-remaining", b"%d" % grant.left),
                ]
            await send(message)

        await self._app(scope, receive, with_rate if scope["type"] == "http" else send)

    def _is_local(self, scope: Scope, headers: Headers) -> bool:
        """Whether it comes from a program of this machine, and not through a proxy."""
        return is_loopback(_client(scope)) and not any(name in headers for name in _FORWARDED)

    def _check_origin(self, scope: Scope, headers: Headers, caller: Caller) -> None:
        host, origin = headers.get("host"), headers.get("origin")
        changes_nothing = scope["type"] == "http" and scope["method"] in _SAFE
        if changes_nothing or origin in self._origins:
            origin = None
        # A session's cookie is sent to its own host alone, whatever that is called.
        own_name = None if caller.id is None else (host or "").rsplit(":", 1)[0]
        if reason := refusal(host, origin, self._hosts, own_name):
            raise Problem(403, f"{reason}: send a key, or set PLEIADES_API__ALLOWED_HOSTS")


class HeadAnswered:
    """Answers HEAD as GET, of which the server sends the head alone; what streams ends there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        begun = asyncio.Event()

        async def gone() -> Message:
            await begun.wait()
            return {"type": "http.disconnect"}

        async def shortened(message: Message) -> None:
            if begun.is_set():
                return
            await send(message)
            if message["type"] == "http.response.body":
                begun.set()
                if message.get("more_body", False):
                    await send({"type": "http.response.body", "body": b""})

        await self._app({**scope, "method": "GET"}, gone, shortened)


class Conditional:
    """Gives answers to GET a strong ETag, and answers 304 if the client has that version."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        held = _HeldAnswer(send, Headers(scope=scope).get("if-none-match"))
        await self._app(scope, receive, held)


class _HeldAnswer:
    """Holds a whole answer back until its ETag is known; streams pass through."""

    def __init__(self, send: Send, wanted: str | None) -> None:
        self._send, self._wanted = send, wanted
        self._start: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 200:
            self._start = message
            return
        start, self._start = self._start, None
        if start is None:
            await self._send(message)
            return
        if not message.get("more_body", False) and len(message.get("body", b"")) <= _LARGEST_ETAGGED_BYTES:
            message = self._tagged(start, message)
        await self._send(start)
        await self._send(message)

    def _tagged(self, start: Message, message: Message) -> Message:
        headers = MutableHeaders(scope=start)
        if (tag := headers.get("etag")) is None:
            tag = f'"{blake2b(message.get("body", b""), digest_size=12).hexdigest()}"'
            headers["etag"] = tag
        if self._wanted is None or tag not in _tags(self._wanted):
            return message
        start["status"] = 304
        for name in ("content-length", "content-type"):
            if name in headers:
                del headers[name]
        return {"type": "http.response.body", "body": b""}


def _tags(header: str) -> Iterable[str]:
    return [each.strip().removeprefix("W/") for each in header.split(",")]


def is_open(path: str, paths: Collection[str] = OPEN_PATHS) -> bool:
    """Whether a path needs no key."""
    return path in paths or path in FEDERATION_PATHS or path.startswith("/static/")


def _presented(headers: Headers) -> str | None:
    """The key in X-API-Key or, where only that can be set, as in Prometheus, in Authorization: Bearer."""
    key = headers.get("x-api-key")
    if key is None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.startswith(_KEY_PREFIX):
            return None
        key = token
    return key if len(key) <= _MOST_KEY_BYTES else ""


def _session(headers: Headers) -> str | None:
    # SimpleCookie would read no cookie after one of another service of this host that it doesn't like.
    for cookie in headers.get("cookie", "").split(";"):
        name, _, value = cookie.strip().partition("=")
        if name == SESSION_COOKIE:
            return value
    return None


def _client(scope: Scope) -> str:
    client: Any = scope.get("client")
    # A Unix socket has no address: whoever may open it is on this machine.
    return "127.0.0.1" if client is None or not client[0] else str(client[0])


async def _refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a problem before a body was read, or a WebSocket was accepted."""
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": problem.detail[:120]})
        return
    await problem.response()(scope, receive, send)
