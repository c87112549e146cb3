"""Serves the application with uvicorn: timeouts for slow clients, TLS, and a stop that finishes answers."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from atlas.errors import ConfigError
from atlas.network import address_from_here, is_loopback
from maia.api.app import Application, build
from maia.api.connections import HttpConnection, Limits, WebSocketConnection
from maia.errors import MaiaError

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from atlas.service_settings import ApiSettings

logger = logging.getLogger(__name__)

KEEP_ALIVE_S: Final = 30
_BACKLOG: Final = 2048
_STALLED_MS: Final = 60_000
_OTHER_FILES: Final = 200


class CannotListen(MaiaError):
    """The service can't listen at its address."""


def check_exposure(host: str, *, has_keys: bool) -> None:
    """CannotListen if others than this machine could call without a key."""
    if not has_keys and not is_loopback(host):
        raise CannotListen(
            f"nobody needs a key yet, so the service doesn't listen on {host}, where others could reach it: "
            "add one with maia keys api add NAME --scope read|write|admin, or set HOST=127.0.0.1"
        )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; CannotListen says what to do if there can't be one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # A client that takes nothing must not hold its connection for ever, once we have closed it.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STALLED_MS)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotListen(
            f"cannot listen on {host}:{port} ({error.strerror or error}): stop the program that does, or set "
            "PORT to another port"
        ) from error
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket, settings: ApiSettings) -> str:
    """Where a browser of this machine finds the service."""
    host, port = listener.getsockname()[:2]
    host = address_from_here(host)
    scheme = "https" if settings.tls_certificate else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def allow_connections(most: int) -> None:
    """Let this process open a file for each connection: systems often begin with 1,024, and permit more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = most + _OTHER_FILES
    possible = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if resource.RLIM_INFINITY != soft < possible:
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    if possible < needed:
        logger.warning(
            "only %d files can be open, too few for %d connections: raise the limit (LimitNOFILE), "
            "or lower PLEIADES_API__MOST_CONNECTIONS",
            possible,
            most,
        )


async def serve(atlas: Atlas, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until cancelled, then finish the answers in progress; calls `ready` once it answers."""
    allow_connections(atlas.settings.api.most_connections)
    app = build(atlas)
    server = _Server(_config(app, atlas.settings.api), ready)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        app.stopping.set()
        server.should_exit = True
        await serving
        raise


class _Server(uvicorn.Server):
    """A server that tells when it is ready, and leaves signals to the command line."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: Application, settings: ApiSettings) -> uvicorn.Config:
    limits = Limits(settings.head_timeout_s, settings.most_connections, app.traffic, app.full)
    tls: dict[str, Any] = {}
    if settings.tls_certificate is not None and settings.tls_key is not None:
        tls = {"ssl_certfile": settings.tls_certificate, "ssl_keyfile": settings.tls_key}
    config = uvicorn.Config(
        app,
        http=type("_Limited", (HttpConnection,), {"limits": limits}),
        ws=WebSocketConnection,
        lifespan="on",
        log_config=None,
        # Below that it writes three lines for each WebSocket.
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.stop_timeout_s)),
        ws_max_size=settings.most_body_bytes,
        **tls,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the certificate or its key can't be used ({error.strerror or error}): check "
            "PLEIADES_API__TLS_CERTIFICATE and PLEIADES_API__TLS_KEY"
        ) from error
    return config
