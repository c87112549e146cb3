"""Carries messages to a peer over HTTP.

Only peers that the settings name are called; no answer can lead anywhere else, nor be longer than a message.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp

from atlas.errors import ConfigError
from atlas.foreign import one_line
from atlas.network import is_loopback, proxy_for
from maia.federation.exchange import CallsItself, PeerFailed
from maia.federation.messages import MEDIA_TYPE, MOST_BYTES, REFUSED_HEADER
from maia.federation.refusals import Reason

if TYPE_CHECKING:
    from pydantic import SecretStr

    from atlas.service_settings import FederationSettings

_TIMEOUT: Final = aiohttp.ClientTimeout(total=120, connect=10, sock_read=60)
_LONGEST_PROBLEM: Final = 10_000


class HttpPeer:
    """A peer's service, at a URL that the settings name."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: SecretStr) -> None:
        self._session, self._url, self._token = session, url.rstrip("/"), token
        self.place = place_of(url)

    def __repr__(self) -> str:
        return f"<HttpPeer {self.place}>"

    async def exchange(self, message: bytes) -> bytes:
        return await self._post("/federation/exchange", message)

    async def compare(self, message: bytes) -> bytes:
        return await self._post("/federation/digests", message)

    async def mirror(self, message: bytes, wait_s: float) -> bytes:
        return await self._post("/federation/mirror", message, {"wait_s": f"{wait_s:g}"} if wait_s else {})

    async def _post(self, path: str, message: bytes, parameters: Mapping[str, str] | None = None) -> bytes:
        headers = {"Authorization": f"Bearer {self._token.get_secret_value()}", "Content-Type": MEDIA_TYPE}
        url = f"{self._url}{path}"
        try:
            async with self._session.post(
                url,
                data=message,
                params=parameters,
                headers=headers,
                allow_redirects=False,
                proxy=proxy_for(url),
            ) as answer:
                if answer.headers.get(REFUSED_HEADER) == Reason.OUR_NAME:
                    raise CallsItself(f"{self.place} is this site itself, or a copy of it with the same name")
                if answer.status != 200:
                    problem = await _problem(answer, self._token.get_secret_value())
                    raise PeerFailed(f"{self.place} {problem}")
                return await _bounded(answer, self.place)
        except TimeoutError:
            raise PeerFailed(f"{self.place} does not answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise PeerFailed(f"{self.place} can't be reached: {_cause(error)}") from None


def _cause(error: Exception) -> str:
    """Why there was no answer, and what to do; without the error's own text, which may hold the URL."""
    match error:
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return "the proxy does not let us through (PLEIADES_NETWORK__PROXY, HTTPS_PROXY)"
        case aiohttp.ClientConnectorCertificateError():
            return "its certificate is not trusted; if you signed it yourself, name it in SSL_CERT_FILE"
        case aiohttp.ClientConnectorSSLError():
            return "no TLS connection; check whether its URL begins with http or https"
        case aiohttp.ClientConnectorDNSError():
            return "its name can't be resolved; check its URL and the DNS"
        case aiohttp.ClientConnectorError():
            return "no connection; check that maia api runs there, its URL, and any firewall"
    return f"the connection broke ({type(error).__name__})"


async def _bounded(answer: aiohttp.ClientResponse, place: str) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > MOST_BYTES:
            raise PeerFailed(f"{place} answers with more than {MOST_BYTES:,} bytes")
    return bytes(body)


async def _problem(answer: aiohttp.ClientResponse, secret: str) -> str:
    """What a peer that does not answer as asked says; without our secret, if it repeats that."""
    if 300 <= answer.status < 400:
        return f"wants to send us elsewhere ({answer.status}), which is not followed: set its own URL"
    body = await answer.content.read(_LONGEST_PROBLEM)
    try:
        detail = str(json.loads(body).get("detail") or "")
    except (ValueError, AttributeError, RecursionError):
        detail = ""
    told = one_line((detail or "no reason given").replace(secret, "…"))
    return f"answers {answer.status}: {told[:300]}"


def place_of(url: str) -> str:
    """Host and port of a URL, without what may be secret in it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_exposed(url: str) -> bool:
    """Whether others could read the token on its way there."""
    parts = urlsplit(url)
    return parts.scheme != "https" and not is_loopback(parts.hostname or "")


def urls_of(settings: FederationSettings) -> list[str]:
    """The services of the peers that this site calls: the coordinator's first."""
    coordinator = [settings.coordinator_url] if settings.coordinator_url else []
    return list(dict.fromkeys([*coordinator, *(each.get_secret_value() for each in settings.peers)]))


@asynccontextmanager
async def peers_of(settings: FederationSettings) -> AsyncIterator[Sequence[HttpPeer]]:
    """The peers that the settings name; ConfigError if there is no token for them."""
    if settings.token is None:
        raise ConfigError(
            "sites need a token that they share: set PLEIADES_FEDERATION__TOKEN to the same value, of 16 "
            "characters or more, at each"
        )
    # No cookies, and no credentials from ~/.netrc.
    async with aiohttp.ClientSession(timeout=_TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield [HttpPeer(session, url, settings.token) for url in urls_of(settings)]
