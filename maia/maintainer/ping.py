"""Calls a dead-man's switch: a service that raises an alarm when no call comes any more.

Its URL is a secret, so that no message, error or log line contains it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from atlas import network
from atlas.config import Settings

if TYPE_CHECKING:
    from yarl import URL

logger = logging.getLogger(__name__)

_TRIES: Final = 3
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 2.0


class _NoAnswer(Exception):
    """The call may succeed if it is tried again; the message says what happened, without the URL."""


async def ping(settings: Settings, *, failed: bool = False) -> bool:
    """Say that all went well, or that it failed; False if nobody was reached, which is only logged.

    True also if no URL is configured.
    """
    alerts = settings.maintainer.alerts
    if alerts.ping_url is None:
        return True
    url = url_of(alerts.ping_url, failed=failed)
    try:
        status = await _call(url, alerts.ping_timeout_s)
    except _NoAnswer as error:
        reason = str(error)
    else:
        if status < 400:
            return True
        reason = f"it answered {status}: check PLEIADES_MAINTAINER__ALERTS__PING_URL"
    logger.warning("the dead-man's switch was not reached: %s", reason, extra={"action": "ping_failed"})
    return False


def url_of(secret: SecretStr, *, failed: bool) -> URL:
    """The URL to call: for a failure, the path with /fail at its end, as Healthchecks and others have it."""
    url = secret.get_secret_value()
    if failed:
        parts = urlsplit(url)
        url = urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/fail"))
    from yarl import URL

    # Exactly as it was given: a service may have signed it.
    return URL(url, encoded=url.isascii())


async def _call(url: URL, timeout_s: float) -> int:
    """The status of the answer; _NoAnswer if there was none, or one that may be another the next time."""
    import stamina

    async for attempt in stamina.retry_context(
        on=_NoAnswer,
        attempts=_TRIES,
        timeout=_TRIES * (timeout_s + _LONGEST_WAIT_S),
        wait_initial=_FIRST_WAIT_S,
        wait_max=_LONGEST_WAIT_S,
    ):
        with attempt:
            return await _call_once(url, timeout_s)
    raise AssertionError("stamina makes at least one attempt")


async def _call_once(url: URL, timeout_s: float) -> int:
    # Most cycles of most installations call nobody, and it takes long to load.
    import aiohttp

    proxy = network.proxy_for(str(url))
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        # `proxy_for` finds the proxy; nothing else, such as ~/.netrc, should affect this call.
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
            session.get(url, proxy=proxy) as answer,
        ):
            status = answer.status
    except TimeoutError:
        failure = f"no answer within {timeout_s:g} s"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        failure = _cause(error, proxy)
    else:
        if status < 500 and status != 429:
            return status
        failure = f"it answered {status}"
    # Raised outside the handlers, so that aiohttp's error isn't its context.
    raise _NoAnswer(failure)


def _cause(error: Exception, proxy: str | None) -> str:
    """Why there was no answer; an error's own text may contain the URL."""
    import aiohttp

    match error:
        case aiohttp.ClientHttpProxyError():
            refusal = f"the proxy {network.without_secret(proxy or '')} answered {error.status}"
            return f"{refusal}: check PLEIADES_NETWORK__PROXY or HTTPS_PROXY, and the name and password in it"
        # Where there is a proxy, only its own name is resolved here.
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientConnectorDNSError() if proxy:
            where = network.without_secret(proxy)
            return f"no connection to the proxy {where}: check PLEIADES_NETWORK__PROXY or HTTPS_PROXY"
        case aiohttp.ClientConnectorCertificateError():
            return (
                "its certificate is not trusted: if your company's own authority signed it, set SSL_CERT_FILE"
            )
        case aiohttp.ClientConnectorDNSError():
            return "its host name cannot be resolved: check the network and its DNS"
        case aiohttp.ClientConnectorError():
            return "no connection: check the network and any firewall"
    return f"the call failed ({type(error).__name__}): check PLEIADES_MAINTAINER__ALERTS__PING_URL"
