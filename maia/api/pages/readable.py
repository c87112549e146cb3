"""Shows people in a browser as a page what programs get as problem details, in the same words."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse

from maia.api.pages.assets import url_of
from maia.api.pages.rendering import NAVIGATION, environment
from maia.api.problems import MEDIA_TYPE

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LEFT_OUT: Final = ("content-length", "content-type", "www-authenticate")


class ProblemPages:
    """Turns problem details into pages for whoever would rather have HTML; without a key, leads to /login."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not wants_html(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = bytearray()

        async def readable(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_problem(message):
                start = message
            elif start is None:
                await send(message)
            else:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    await _answer(start, bytes(body), scope, receive, send)
                    start = None

        await self._app(scope, receive, readable)


def wants_html(headers: Headers) -> bool:
    """Whether somebody looks at the answer: browsers name HTML first when they load a page."""
    return headers.get("accept", "").split(",")[0].split(";")[0].strip() == "text/html"


def _is_problem(start: Message) -> bool:
    return Headers(raw=start["headers"]).get("content-type", "").startswith(MEDIA_TYPE)


async def _answer(start: Message, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
    status, problem = start["status"], orjson.loads(body)
    is_part = "hx-request" in Headers(scope=scope)
    if status == HTTPStatus.UNAUTHORIZED and scope["method"] in ("GET", "HEAD") and not is_part:
        wanted = scope["path"] + (f"?{query}" if (query := scope["query_string"].decode("latin-1")) else "")
        await RedirectResponse(f"/login?next={quote(wanted, safe='')}", 303)(scope, receive, send)
        return
    page = (
        environment()
        .get_template("problem.html.j2")
        .render(problem=problem, navigation=NAVIGATION, path=scope["path"], asset=url_of, caller=None)
    ).encode()
    headers = MutableHeaders(raw=[(name, value) for name, value in start["headers"]])
    for name in _LEFT_OUT:
        del headers[name]
    headers["Content-Type"], headers["Content-Length"] = "text/html; charset=utf-8", str(len(page))
    headers["Vary"] = "Accept"
    if status == HTTPStatus.UNAUTHORIZED and is_part:
        # The page that wants a part anew is loaded anew, and so leads to /login.
        headers["HX-Refresh"] = "true"
    await send({**start, "headers": headers.raw})
    await send({"type": "http.response.body", "body": page if scope["method"] != "HEAD" else b""})
