"""Sends GET requests to the API. Imports HTTP libraries on the first request, as idle cycles make none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import SecretStr
    from yarl import URL

    from atlas.config import YouTubeSettings
    from maia.youtube.session import HttpSession, Response

_PUBLIC_API = "https://www.googleapis.com"
_PUBLIC_FEEDS = "https://www.youtube.com"


class Transport:
    """The HTTP session that all calls share, opened by the first call."""

    def __init__(self, settings: YouTubeSettings) -> None:
        self._settings = settings
        self._session: HttpSession | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: YouTubeSettings) -> AsyncIterator[Transport]:
        """Open a transport; its session, if any, is closed at the end."""
        transport = cls(settings)
        try:
            yield transport
        finally:
            if transport._session is not None:
                await transport._session.close()

    @cached_property
    def api(self) -> URL:
        """The base URL of the API's methods."""
        from yarl import URL

        return URL(self._root) / "youtube" / "v3"

    @cached_property
    def feeds(self) -> URL:
        """The base URL of the feeds."""
        from yarl import URL

        root = self._settings.feed_url or (_PUBLIC_FEEDS if self._root == _PUBLIC_API else self._root)
        return URL(root.rstrip("/"))

    @property
    def _root(self) -> str:
        return self._settings.base_url.rstrip("/")

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
        if self._session is None:
            from maia.youtube.session import HttpSession

            self._session = HttpSession(self._settings)
        return await self._session.get(url, deadline, key=key, etag=etag, modified_since=modified_since)
