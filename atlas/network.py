"""Make every library and child process use the same proxy and certificates.

The environment is the only configuration that all of them read. So the settings are written there once, when
an Atlas or a command opens; code that makes its own requests calls `proxy_for`. Requests to this machine
never go through a proxy.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from atlas.errors import ConfigError

if TYPE_CHECKING:
    from atlas.config import NetworkSettings

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

_OUTWARD: Final = ("HTTP_PROXY", "HTTPS_PROXY")
_EVERY: Final = (*_OUTWARD, "ALL_PROXY", "NO_PROXY")
# requests (used for alerts) and botocore (used for S3) each read a variable of their own.
_ALSO_CERTIFICATES: Final = ("REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")


def prepare(settings: NetworkSettings, environment: MutableMapping[str, str] = os.environ) -> None:
    """Write the settings into the environment; ConfigError unless the proxy is an HTTP proxy."""
    if settings.proxy is not None or not settings.trust_env:
        for name in _EVERY:
            _unset(environment, name)
    for name in _OUTWARD:
        given = settings.proxy.get_secret_value() if settings.proxy else _get(environment, name, "ALL_PROXY")
        if given:
            _set(environment, name, _checked(name, given))
    if certificates := environment.get("SSL_CERT_FILE"):
        for name in _ALSO_CERTIFICATES:
            environment.setdefault(name, certificates)
    bypass_proxy_for_loopback(environment)


def bypass_proxy_for_loopback(environment: MutableMapping[str, str] = os.environ) -> None:
    """Add this machine's names to NO_PROXY, for every library and child process."""
    bypassing = [host for host in _get(environment, "NO_PROXY").split(",") if host.strip()]
    missing = [host for host in LOOPBACK if host not in bypassing]
    if missing and "*" not in bypassing:
        _set(environment, "NO_PROXY", ",".join([*bypassing, *missing]))


def proxy_for(url: str) -> str | None:
    """The proxy to use for a URL, according to the environment; None for none."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or host.endswith(".localhost"):
        return None
    proxies = getproxies_environment()
    if proxy_bypass(f"{host}:{parts.port}" if parts.port else host):
        return None
    return proxies.get(parts.scheme) or proxies.get("all")


def without_secret(url: str) -> str:
    """A proxy's host and port, without the credentials that its URL may contain."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, is of this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def address_from_here(host: str) -> str:
    """Where this machine reaches a server that listens on `host`, which may stand for every address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not listened on


def _checked(name: str, given: str) -> str:
    """The proxy's URL; adds http:// if only `host:port` was given, as is common."""
    url = given if "://" in given else f"http://{given}"
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            f"{name} or ALL_PROXY is not the URL of a proxy: write http://host:port, with a port up to 65535"
        )
    if (scheme := parts.scheme) not in ("http", "https"):
        raise ConfigError(
            f"{name} or ALL_PROXY is a {scheme} proxy, but only HTTP proxies are supported: set "
            "PLEIADES_NETWORK__PROXY=http://host:port, or PLEIADES_NETWORK__TRUST_ENV=false to use none"
        )
    return url


def _get(environment: MutableMapping[str, str], *names: str) -> str:
    """The first of these variables that is set; lower case takes precedence, as in other programs."""
    spellings = (spelling for name in names for spelling in (name.lower(), name))
    return next((value for spelling in spellings if (value := environment.get(spelling))), "")


def _set(environment: MutableMapping[str, str], name: str, value: str) -> None:
    environment[name] = environment[name.lower()] = value


def _unset(environment: MutableMapping[str, str], name: str) -> None:
    for spelling in (name, name.lower()):
        environment.pop(spelling, None)
