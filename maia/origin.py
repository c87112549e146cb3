"""Detects HTTP requests that other sites' pages send: only programs and our own pages may use our servers.

A page in a browser can send requests to any address. The `Origin` header reveals such a request. If the
site's name resolves to our address (DNS rebinding), the origin looks right, but `Host` is the site's name.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NOT_OF_A_HOST = re.compile(r"[/?#@\\\s]")


def refusal(
    host: str | None, origin: str | None, allowed_hosts: Collection[str] = (), own_name: str | None = None
) -> str | None:
    """Why a request with these headers is refused; None if it is allowed.

    IP addresses and this machine's own names are always allowed as `Host`, as no other site can use them, and
    so is `own_name`, by which the server listens. Pages of `allowed_hosts` are allowed from any port.
    """
    allowed = {name.casefold() for name in allowed_hosts}
    ours = allowed | {own_name.casefold()} if own_name else allowed
    called = None if host is None or _NOT_OF_A_HOST.search(host) else _split(f"//{host}")
    if called is None or not (_is_ours(called.hostname) or called.hostname in ours):
        return f"the Host {host!r} is not one of this server's names"
    if origin is None:
        return None
    page = _split(origin)
    if page is None or not (page.hostname in allowed or _is_same(page, called)):
        return f"pages of {origin!r} may not use this server"
    return None


def _split(url: str) -> SplitResult | None:
    """Split a URL that has a host and a valid port or none."""
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def _is_same(page: SplitResult, called: SplitResult) -> bool:
    default = _DEFAULT_PORTS.get(page.scheme)
    return (page.hostname, page.port or default) == (called.hostname, called.port or default)


def _is_ours(name: str | None) -> bool:
    if not name:
        return False
    own = socket.gethostname().casefold()
    if name in {"localhost", own, f"{own}.local"} or name.endswith(".localhost"):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
