"""The client's HTTP session over aiohttp; explains in plain words why there was no complete response."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from pydantic import SecretStr
from yarl import URL

from atlas import network
from atlas.config import YouTubeSettings
from maia.youtube.errors import NoResponse

CONNECT_TIMEOUT_S = 5.0
# Google compresses responses only if the User-Agent contains "gzip".
_HEADERS = {"User-Agent": "pleiades (gzip)", "Accept-Encoding": "gzip"}
_LARGEST_RESPONSE = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Response:
    """A complete response, with any status."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Interrupted(aiohttp.ClientError):
    """The connection broke after the request was sent."""


class HttpSession:
    """Connections to the API, kept open between requests."""

    def __init__(self, settings: YouTubeSettings) -> None:
        """Open a session; it needs a running event loop."""
        self._settings = settings
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=settings.concurrency),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            # `proxy_for` finds the proxy; nothing else, such as ~/.netrc, should affect calls to YouTube.
            trust_env=False,
            middlewares=(_send_once,),
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def get(
        self,
        url: URL,
        deadline: float,
        *,
        key: SecretStr | None = None,
        etag: str | None = None,
        modified_since: str | None = None,
    ) -> Response:
        """A complete response by `deadline` (on the event loop's clock), or NoResponse."""
        left_s = deadline - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise NoResponse("timeout", "there was no time left for the request", sent=False)
        timeout_s = min(self._settings.timeout_s, left_s)
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        began = False
        try:
            async with self._session.get(
                url,
                headers=_request_headers(key, etag, modified_since),
                allow_redirects=False,
                timeout=timeout,
                proxy=network.proxy_for(str(url)),
            ) as response:
                began = True
                return Response(response.status, response.headers, await _body(response))
        except (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.ClientHttpProxyError,
        ) as error:
            failure = NoResponse("connection", self._no_connection(url, error), sent=False)
        except TimeoutError:
            failure = NoResponse("timeout", _silence(url, timeout_s, began=began), sent=True)
        except (aiohttp.ClientError, OSError) as error:
            message = f"{_host(url)} broke the connection: {type(error).__name__}: {error}"
            failure = NoResponse("connection", message, sent=True)
        # Raised outside the handler: aiohttp's error may hold the request with its key, so it must not be
        # the context.
        raise failure

    def _no_connection(self, url: URL, error: Exception) -> str:
        """Why the connection failed, and what to do about it."""
        host = _host(url)
        if proxy := network.proxy_for(str(url)):
            host = f"{host} through the proxy {network.without_secret(proxy)}"
        match error:
            case aiohttp.ClientHttpProxyError():
                return (
                    f"cannot connect to {host}: it responded {error.status} {error.message}: check "
                    "PLEIADES_NETWORK__PROXY or HTTPS_PROXY, and the name and password in it"
                )
            case aiohttp.ClientProxyConnectionError():
                reason = error.os_error.strerror or error.os_error
                return f"cannot connect to {host}: {reason}: check PLEIADES_NETWORK__PROXY or HTTPS_PROXY"
            case aiohttp.ClientConnectorCertificateError():
                cause = getattr(error.certificate_error, "verify_message", "") or error.certificate_error
                return (
                    f"the certificate of {host} is not trusted ({cause}): if your company's own authority "
                    "signed it, set SSL_CERT_FILE to the file that holds that authority's certificate"
                )
            case aiohttp.ClientConnectorSSLError():
                return f"cannot connect to {host} over TLS: {error.os_error}: check the address and any proxy"
            case aiohttp.ClientConnectorDNSError():
                return f"cannot connect to {host}: its name cannot be resolved: check the network and its DNS"
            case aiohttp.ConnectionTimeoutError():
                return (
                    f"cannot connect to {host}: no connection within {CONNECT_TIMEOUT_S:g} s: "
                    "check the network and any firewall"
                )
        number = getattr(error, "errno", None)
        cause = os.strerror(number) if number else error
        return f"cannot connect to {host}: {cause}: check the network, and that the address is right"


def _silence(url: URL, timeout_s: float, *, began: bool) -> str:
    did = "started to respond, but did not finish" if began else "accepted the request, but did not respond"
    return (
        f"{_host(url)} {did} within {timeout_s:.3g} s: try again later, "
        "or allow more time (PLEIADES_YOUTUBE__TIMEOUT_S)"
    )


def _host(url: URL) -> str:
    return f"{url.host}" if url.is_default_port() else f"{url.host}:{url.port}"


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from retrying a GET on its own: a second request would cost a second unit."""
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Interrupted(f"{type(error).__name__}: {error}") from None


async def _body(response: aiohttp.ClientResponse) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > _LARGEST_RESPONSE:
            raise aiohttp.ClientPayloadError(f"the response is longer than {_LARGEST_RESPONSE} bytes")
    return b"".join(chunks)


def _request_headers(key: SecretStr | None, etag: str | None, modified_since: str | None) -> dict[str, str]:
    headers = {"x-goog-api-key": key.get_secret_value()} if key else {}
    if etag is not None:
        headers["If-None-Match"] = etag
    if modified_since is not None:
        headers["If-Modified-Since"] = modified_since
    return headers
