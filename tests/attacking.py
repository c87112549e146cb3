"""Sends requests that no client would send, byte by byte, and reads what comes back."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from html.parser import HTMLParser

from tests.served import Served

# What shows how the service is made, or where it is installed.
_REVEALING = re.compile(
    rb"Traceback|\.py\b|site-packages|/home/|uvicorn|starlette|fastapi|asyncpg|pydantic|SELECT |root:x:",
    re.IGNORECASE,
)
_ADDRESSES = ("href", "src", "action", "formaction", "hx-get", "hx-post")


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """All that came on a connection until it was closed."""

    received: bytes

    @property
    def status(self) -> int | None:
        """Of the first answer; None if there was none."""
        found = re.match(rb"HTTP/1\.1 (\d{3}) ", self.received)
        return int(found[1]) if found else None

    @property
    def answers(self) -> int:
        return len(re.findall(rb"HTTP/1\.1 (?!100)\d{3} ", self.received))

    @property
    def reveals(self) -> bytes | None:
        """What it tells of the inside, if anything."""
        found = _REVEALING.search(self.received)
        return found[0] if found else None


def address_of(service: Served) -> tuple[str, int]:
    host, _, port = service.url.partition("://")[2].rpartition(":")
    return host, int(port)


async def sent(service: Served, *parts: bytes, wait_s: float = 20) -> RawAnswer:
    """Send some bytes, each part by itself, and read until the service closes the connection."""
    reader, writer = await asyncio.open_connection(*address_of(service))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(wait_s):
            return RawAnswer(await reader.read())
    except ConnectionError:
        return RawAnswer(b"")
    finally:
        writer.transport.abort()


def request(target: str, *headers: str, method: str = "GET", body: str = "") -> bytes:
    """A request that ends its connection."""
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", *headers, "Connection: close"]
    return "\r\n".join([*lines, "", body]).encode("latin-1")


class Markup(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and what it would run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self._is_inline = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._is_inline = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._is_inline = False

    def handle_data(self, data: str) -> None:
        if self._is_inline:
            self.inline += data.strip()

    def dangers(self) -> list[str]:
        """Elements and attributes by which a text of strangers would be more than text."""
        found = [self.inline] if self.inline else []
        for tag, attributes in self.elements:
            if tag in ("iframe", "object", "embed", "base", "style"):
                found.append(tag)
            for name, value in attributes.items():
                if name.startswith(("on", "hx-on")) or name in ("style", "srcdoc"):
                    found.append(f"{tag} {name}")
                if tag == "img" and name == "src" and not (value or "").startswith("/static/"):
                    found.append(f"img {value}")
                if name in _ADDRESSES and not _leads_here(value or ""):
                    found.append(f"{tag} {name}={value}")
        return found


def _leads_here(address: str) -> bool:
    """Whether an address is of this service, or of a video's page on YouTube."""
    if address.startswith("https://www.youtube.com/"):
        return True
    return address[:1] in ("/", "#", "?") and address[1:2] not in ("/", "\\")
