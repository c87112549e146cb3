"""Prefect's server, protected against requests from other sites' pages.

By default Prefect accepts any Host header, and lets pages of every origin use its API.
"""

from __future__ import annotations

from prefect.server.api.server import create_app as prefect_app
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from atlas import config
from maia.origin import refusal

_REMEDY = "; to allow it, add its host to PLEIADES_PREFECT__ALLOWED_HOSTS"


def create_app() -> ASGIApp:
    """Build the application, for uvicorn's --factory."""
    settings = config.load()
    return Guarded(prefect_app(), settings.prefect.allowed_hosts, settings.host)


class Guarded:
    """Refuses requests from other sites' pages with status 403."""

    def __init__(self, app: ASGIApp, allowed_hosts: tuple[str, ...], own_name: str) -> None:
        self._app, self._allowed_hosts, self._own_name = app, allowed_hosts, own_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"}:
            headers = Headers(scope=scope)
            host, origin = headers.get("host"), headers.get("origin")
            if reason := refusal(host, origin, self._allowed_hosts, self._own_name):
                await _reject(f"{reason}{_REMEDY}\n", scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _reject(reason: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await PlainTextResponse(reason, 403)(scope, receive, send)
    else:
        # A WebSocket that is closed before it is accepted is also answered with 403.
        await send({"type": "websocket.close", "code": 1008, "reason": "another site's page"})
